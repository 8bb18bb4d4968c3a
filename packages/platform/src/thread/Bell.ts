/**
 * The doorbells between two threads: one for all sessions that they have with
 * each other.
 *
 * A bell is a few words of shared memory that only its two threads map. Each
 * direction has a bit for each slot, a summary of them, and a word that says
 * whether the thread behind it has parked. A ring sets a bit; a look is one
 * load of the summary, whatever the number of sessions; rings that come before
 * the look are one. There is no queue that could overflow.
 *
 * What the words say are hints: whoever is rung looks at its FIFOs. The other
 * thread may write into them whatever it likes, and rings by that, or does not
 * hear, but nothing else happens.
 *
 * @since 0.1.0
 */
import type { Target, Watcher } from "@cut-through/core/memory/Doorbell"
import type { Fifo } from "@cut-through/core/memory/Fifo"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { Parking } from "./Parking.ts"
import type { Source } from "./Poller.ts"
import * as Watch from "./Watch.ts"

/**
 * Bits in each direction. Sessions beyond that share bits: whoever shares one
 * is rung in vain now and then.
 *
 * @category constants
 * @since 0.1.0
 */
export const SLOTS = 1024

// Words of one direction. The first leaves share the summary's cache line, because who changes the one changes the other:
// that saves a sixth of a round trip. Whether the reader has parked lies in a line that nobody writes while it looks.
const SUMMARY = 0
const LEAVES = 1
const PARKED = 48
const DIRECTION_WORDS = 64

/**
 * Bytes of shared memory that a bell takes.
 *
 * @category constants
 * @since 0.1.0
 */
export const BYTES: number = 2 * DIRECTION_WORDS * Int32Array.BYTES_PER_ELEMENT

/** The place of a word's lowest bit that is set. */
const lowest = (bits: number): number => 31 - Math.clz32(bits & -bits)

/**
 * One thread's end of a bell: rings the other thread, and is a source of its
 * own thread's poller. While that looks, it watches a few FIFOs, too, whose
 * writers then need not ring.
 *
 * The buffer is zeroed before its first use. `side` is 0 in one of the threads
 * and 1 in the other. `heat` is called after each ring, because whoever rings
 * expects an answer: the poller's `heat`.
 *
 * **Example** (Ringing)
 *
 * ```ts
 * import * as Bell from "@cut-through/platform/thread/Bell"
 *
 * const buffer = new SharedArrayBuffer(Bell.BYTES)
 * // In one thread:
 * const caller = new Bell.Bell(buffer, 0, () => {})
 * // In the other one, whose poller does the looking:
 * const called = new Bell.Bell(buffer, 1, () => {})
 * let rings = 0
 * called.attach(7, { onRing: () => void rings++ })
 *
 * caller.ring(7)
 * caller.ring(7)
 * called.hasNews() // => true
 * called.take()
 * rings // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export class Bell implements Source, Watcher {
  private readonly words: SharedWords
  /** Where the words of the direction to this thread begin, and of that to the other one. */
  private readonly mine: number
  private readonly theirs: number
  private readonly heat: () => void
  private readonly parking: Parking
  /** Who is attached to each bit. */
  private readonly targets: Array<ReadonlyArray<Target> | undefined> = new Array(SLOTS).fill(undefined)
  private readonly watched = new Watch.Watch()
  private isClosed = false

  constructor(buffer: SharedArrayBuffer, side: 0 | 1, heat: () => void, words = new SharedWords(buffer)) {
    this.words = words
    this.mine = side * DIRECTION_WORDS
    this.theirs = DIRECTION_WORDS - this.mine
    this.heat = heat
    this.parking = new Parking(words, buffer, this.mine + PARKED, this.theirs + PARKED)
  }

  /** Rings whoever is attached to a slot in the other thread. */
  ring(slot: number): void {
    if (this.isClosed) return
    const { theirs, words } = this
    const leaf = (slot >>> 5) & 31
    const bit = 1 << (slot & 31)
    // A bit that is still set was set by this thread, in a ring that went through to its end: the summary says so, or
    // is in the reader's hands, and the reader takes the bit after this. Two threads that ring could not rely on it:
    // one might find the bit of the other, which has not come to the summary yet.
    if ((words.or(theirs + LEAVES + leaf, bit) & bit) === 0) {
      words.or(theirs + SUMMARY, 1 << leaf)
      this.parking.notify()
    }
    this.heat()
  }

  /** Has a target rung from now on. It looks for itself whether there is something already. */
  attach(slot: number, target: Target): void {
    if (this.isClosed) return
    const at = slot & (SLOTS - 1)
    this.targets[at] = [...(this.targets[at] ?? []), target]
  }

  /** The target is not rung any more. */
  detach(slot: number, target: Target): void {
    const at = slot & (SLOTS - 1)
    // Another array, because `take` may be on its way through this one.
    const left = this.targets[at]?.filter((other) => other !== target)
    this.targets[at] = left?.length === 0 ? undefined : left
  }

  watch(fifo: Fifo, target: Target): boolean {
    if (this.isClosed) return false
    // Who waits expects something, and may have written to somebody who did not want to be rung.
    this.heat()
    return this.watched.add(fifo, target)
  }

  unwatch(fifo: Fifo): void {
    this.watched.remove(fifo)
  }

  /** Nobody rings nor is rung any more, and nothing is held; the poller still has to let go of it. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.targets.fill(undefined)
    this.watched.clear()
    this.parking.close()
  }

  // Plain, for a tenth of what an atomic look costs. Nothing rests on it: `take` and `park` look for themselves.
  hasNews(): boolean {
    return (this.words.peek(this.mine + SUMMARY) !== 0 || this.watched.hasNews()) && !this.isClosed
  }

  take(): boolean {
    const { mine, words } = this
    if (this.isClosed) return false
    let isAny = this.watched.take()
    // A plain look first: when it says yes, the atomic one is saved, as it is when there was something else.
    if (words.peek(mine + SUMMARY) === 0 && (isAny || words.load(mine + SUMMARY) === 0)) return isAny
    // The summary before its leaves: a bit that comes in between is in the summary again.
    let leaves = words.exchange(mine + SUMMARY, 0)
    for (; leaves !== 0; leaves &= leaves - 1) {
      const leaf = lowest(leaves)
      let bits = words.exchange(mine + LEAVES + leaf, 0)
      for (; bits !== 0; bits &= bits - 1) {
        isAny = true
        this.dispatch(leaf * 32 + lowest(bits))
      }
    }
    return isAny
  }

  park(): boolean {
    if (this.isClosed) return true
    this.parking.park()
    return this.watched.park() && this.words.load(this.mine + SUMMARY) === 0
  }

  unpark(): void {
    this.parking.unpark()
    this.watched.unpark()
  }

  whenRung(wake: () => void): void {
    if (!this.isClosed) this.parking.whenNotified(wake)
  }

  private dispatch(slot: number): void {
    const targets = this.targets[slot]
    if (targets === undefined) return
    for (let i = 0; i < targets.length; i++) {
      // One before it may have detached it.
      if (i > 0 && !this.targets[slot]?.includes(targets[i])) continue
      Watch.ring(targets[i])
    }
  }
}
