/** Runs with the console watched, and returns what was reported there: the first line of each. */
export const reportsOf = (run: () => void): Array<string> => {
  const reported: Array<string> = []
  const { error, log } = console
  console.log = console.error = (...args: ReadonlyArray<unknown>) => void reported.push(args.map(String).join(" "))
  try {
    run()
  } finally {
    Object.assign(console, { error, log })
  }
  return reported
}

/** When all that was notified has been told: at least one whole turn of the event loop lies in between. */
export const turn = async (): Promise<void> => {
  for (let i = 0; i < 2; i++) await new Promise<void>((resolve) => void setImmediate(resolve))
}
