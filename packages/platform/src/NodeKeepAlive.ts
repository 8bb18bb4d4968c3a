/**
 * Keeps a thread running for as long as it listens or has connections, as
 * `node:net` does.
 *
 * @since 0.1.0
 */
import { KeepAlive } from "@cut-through/core/runtime/KeepAlive"
import * as Layer from "effect/Layer"

/** Timers go up to here. */
const NEVER_MILLIS = 2 ** 31 - 1

/**
 * Holds the event loop with one timer for the thread, which never goes off.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (): KeepAlive => {
  let count = 0
  let timer: NodeJS.Timeout | undefined
  return {
    hold() {
      if (count++ > 0) return
      if (timer === undefined) timer = setInterval(() => {}, NEVER_MILLIS)
      else timer.ref()
    },
    drop() {
      if (--count === 0) timer?.unref()
    }
  }
}

/**
 * The one of this thread.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<never> = Layer.succeed(KeepAlive, make())
