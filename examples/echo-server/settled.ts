/**
 * For tests: waiting until a pipe is full.
 */
import { Effect } from "effect"
import { setImmediate } from "node:timers/promises"

/** Waits until a count has risen, and stays what it is for some turns of the event loop. */
export const settled = Effect.fnUntraced(function* (count: () => number) {
  let before = 0
  let turns = 0
  while (turns < 20) {
    turns = before > 0 && count() === before ? turns + 1 : 0
    before = count()
    yield* Effect.promise(() => setImmediate())
  }
})
