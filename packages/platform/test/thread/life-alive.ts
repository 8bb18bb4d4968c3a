/**
 * Processes and threads that do one thing and then have nothing more to do: do
 * they end? Run as the main program of a process, or as a worker of one.
 */
import { isMainThread, parentPort, workerData } from "node:worker_threads"

/** What the one who looks says. */
export type Question = "ping" | "finish"

/** What it is told. */
export type Answer =
  /** All is done that was to be done, and nothing is left to do. */
  | "ready"
  /** Whether it is at rest: what only just was may not have died down yet. */
  | { readonly _tag: "Alive"; readonly isAtRest: boolean }
  /** Wants to be called on this port; says so itself when it has been. */
  | { readonly _tag: "Call"; readonly port: number }

export interface Start {
  readonly name: string
  /** Where the peer listens. */
  readonly port: number
}

const isThread = !isMainThread && parentPort !== null

export const start: Start = isThread ? workerData : JSON.parse(process.argv[2])

export const tell = (answer: Answer): void => {
  if (isThread) parentPort!.postMessage(answer)
  else process.send!(answer)
}

/** Listens to questions, which keeps nobody alive. */
export const listenTo = (isAtRest: () => boolean, finish: () => void): void => {
  const onMessage = (question: Question): void => {
    if (question === "ping") tell({ _tag: "Alive", isAtRest: isAtRest() })
    else finish()
  }
  if (isThread) {
    parentPort!.on("message", onMessage)
    parentPort!.unref()
  } else {
    process.on("message", onMessage)
    process.channel!.unref()
  }
}
