/**
 * How one side of a connection makes the other one look.
 *
 * A doorbell carries no data: bytes, room, ends and resets are all in the
 * FIFOs, and a ring only says that one of them has changed. Rings may be lost
 * in a crowd, but never the last one: whoever is rung looks at everything.
 *
 * @since 0.1.0
 */
import type { Fifo } from "./Fifo.ts"

/**
 * What a side holds to ring the other one.
 *
 * `ring` is called from the hot path: it does not block, throw or allocate.
 *
 * @category models
 * @since 0.1.0
 */
export interface Doorbell {
  readonly ring: () => void
}

/**
 * What is rung: a connection that looks at its FIFOs and wakes whoever waits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Target {
  readonly onRing: () => void
}

/**
 * A thread that looks at FIFOs by itself, so that it need not be rung.
 *
 * @category models
 * @since 0.1.0
 */
export interface Watcher {
  /**
   * For a reader that has found its FIFO empty, and has not cleared its event
   * flag: rings the target, once, when there is more. False when the writer has
   * to ring.
   */
  readonly watch: (fifo: Fifo, target: Target) => boolean
  /** The FIFO is not looked at any more. */
  readonly unwatch: (fifo: Fifo) => void
}

/**
 * A doorbell between two connections of the same thread: a call.
 *
 * The target is set when the connection exists and cleared when it is gone;
 * ringing in between is harmless.
 *
 * **Example** (Ringing)
 *
 * ```ts
 * import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
 *
 * let rings = 0
 * const doorbell = new LocalDoorbell()
 * doorbell.ring()
 * doorbell.target = { onRing: () => void rings++ }
 * doorbell.ring()
 * rings // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export class LocalDoorbell implements Doorbell {
  target: Target | undefined = undefined
  /** Who watches what its side reads, where the other side is in another thread. */
  watcher: Watcher | undefined = undefined

  ring(): void {
    if (this.target !== undefined) this.target.onRing()
  }
}
