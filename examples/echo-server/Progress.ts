/**
 * A progress bar on a terminal, and nothing anywhere else.
 */
import { Effect, Schedule } from "effect"
import type { Scope } from "effect"
import type { WriteStream } from "node:tty"

export interface Progress {
  /** Says what is being done from now on. Whatever was being done before is done. */
  readonly start: (label: string) => void
  /** Takes the bar away while something else is printed. */
  readonly hide: Effect.Effect<void>
}

const none: Progress = { start() {}, hide: Effect.void }

/**
 * A progress bar for `steps` steps of `size` each; `done` says how much of the current one is done. It is gone when the
 * scope closes.
 */
export const make = Effect.fnUntraced(function* (
  stream: WriteStream,
  steps: number,
  size: number,
  done: () => number
): Effect.fn.Return<Progress, never, Scope.Scope> {
  if (!stream.isTTY) return none
  let label = ""
  let step = -1
  let shown = 0
  const hide = Effect.sync(() => {
    // A little more than the bar: Ctrl-C shows as ^C behind it.
    if (shown > 0) stream.write(`\r${" ".repeat(shown + 2)}\r`)
    shown = 0
  })
  const draw = Effect.sync(() => {
    const fraction = size === 0 ? 1 : Math.min(1, (Math.max(step, 0) + done() / size) / steps)
    const line = format(label, fraction, Math.min(stream.columns ?? 80, 80) - 3)
    stream.write(`\r${line.padEnd(shown)}`)
    shown = line.length
  })
  yield* Effect.addFinalizer(() => hide)
  // Drawn by the clock, not by the bytes: the bar must not slow down what it shows.
  yield* Effect.forkScoped(Effect.repeat(draw, Schedule.spaced("50 millis")))
  return {
    start(name) {
      label = name
      step++
    },
    hide
  }
})

const format = (label: string, fraction: number, columns: number): string => {
  const percent = `${Math.floor(fraction * 100)}%`.padStart(4)
  const width = columns - label.length - percent.length - 4
  if (width < 10) return `${label}${percent}`.slice(0, Math.max(columns, 0))
  const filled = Math.round(fraction * width)
  return `${label} [${"#".repeat(filled)}${".".repeat(width - filled)}] ${percent}`
}
