/**
 * The FIFOs that a thread watches itself, as long as it looks at all, so that
 * their writers need not ring.
 *
 * To ring and to be rung moves several cache lines between two cores, which is
 * most of what a short message costs. A reader that finds its FIFO empty and has
 * it watched leaves the event flag set, as if it had been told: its writer does
 * not ring. The line with the writer's position, which the reader needs anyway,
 * says when there is more. Before the thread parks the flags are cleared, and
 * from then on it is rung.
 *
 * @since 0.1.0
 */
import type { Target } from "@cut-through/core/memory/Doorbell"
import type { Fifo } from "@cut-through/core/memory/Fifo"
import * as Effect from "effect/Effect"

/** Few, because each look goes through all of them. */
const MOST = 4

/** A FIFO that has had nothing in so many takes is not worth a look any more. */
const PATIENCE = 64

/**
 * Rings a target: what it throws is not the concern of whoever does.
 *
 * @internal
 */
export const ring = (target: Target): void => {
  try {
    target.onRing()
  } catch (defect) {
    Effect.runFork(Effect.logError("What was rung by another thread failed", defect))
  }
}

/** One FIFO, until it has something; then its reader asks again. */
class Watched {
  readonly fifo: Fifo
  target: Target
  isArmed = true
  /** Takes since then. */
  inVain = 0

  constructor(fifo: Fifo, target: Target) {
    this.fifo = fifo
    this.target = target
  }
}

/**
 * The FIFOs between two threads that one of them watches.
 *
 * @category models
 * @since 0.1.0
 */
export class Watch {
  private readonly entries: Array<Watched> = []
  private isParked = false

  /**
   * Has a target called when there is more in its FIFO, which its reader has
   * found empty. False when the thread has parked or watches others: then the
   * reader has to ask for a ring.
   */
  add(fifo: Fifo, target: Target): boolean {
    if (this.isParked) return false
    const { entries } = this
    let free = entries.length
    for (let i = entries.length - 1; i >= 0; i--) {
      const entry = entries[i]
      if (entry.fifo === fifo) {
        entry.target = target
        entry.isArmed = true
        entry.inVain = 0
        return true
      }
      if (!entry.isArmed) free = i
    }
    if (free === MOST) return false
    entries[free] = new Watched(fifo, target)
    return true
  }

  /** Forgets a FIFO. */
  remove(fifo: Fifo): void {
    const at = this.entries.findIndex((entry) => entry.fifo === fifo)
    if (at >= 0) this.entries.splice(at, 1)
  }

  /** Whether a FIFO has something. Plain loads: `take` and `park` find what is missed here. */
  hasNews(): boolean {
    const { entries } = this
    for (let i = 0; i < entries.length; i++) if (entries[i].isArmed && entries[i].fifo.seemsMoved) return true
    return false
  }

  /** Calls whoever has something, and says whether there was anybody. */
  take(): boolean {
    const { entries } = this
    let isAny = false
    // From the last one: whoever is called may go, or bring others.
    for (let i = entries.length - 1; i >= 0; i--) {
      const entry = entries[i]
      if (entry === undefined || !entry.isArmed || (!entry.fifo.seemsMoved && !this.leave(entry))) continue
      isAny = true
      entry.isArmed = false
      ring(entry.target)
    }
    return isAny
  }

  /** Leaves a FIFO to its writer when it has had nothing for long. True when there is something at this very moment. */
  private leave(entry: Watched): boolean {
    if (++entry.inVain < PATIENCE) return false
    entry.isArmed = false
    entry.fifo.unsetEvent()
    return entry.fifo.hasMoved
  }

  /** From now on the thread is rung. False when there is something after all. */
  park(): boolean {
    this.isParked = true
    let isQuiet = true
    for (const { fifo, isArmed } of this.entries) {
      if (!isArmed) continue
      fifo.unsetEvent()
      if (fifo.hasMoved) isQuiet = false
    }
    if (isQuiet) this.clear()
    return isQuiet
  }

  /** The thread looks again. */
  unpark(): void {
    this.isParked = false
  }

  /** Forgets all FIFOs. */
  clear(): void {
    this.entries.length = 0
  }
}
