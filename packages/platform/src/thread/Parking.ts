/**
 * How one of two threads sleeps until the other one wakes it: a word of shared
 * memory for each of them, which says that it has parked.
 *
 * @since 0.1.0
 */
import type { SharedWords } from "@cut-through/core/memory/SharedWords"

/**
 * One thread's end. Whoever has parked looks once more afterwards, and whoever
 * has something for the other thread publishes it before it wakes that: one of
 * the two sees the other.
 *
 * @category models
 * @since 0.1.0
 */
export class Parking {
  private readonly words: SharedWords
  /** For what `SharedWords` cannot do: wait and notify. */
  private readonly waiting: Int32Array
  /** The word of this thread, and that of the other one. */
  private readonly mine: number
  private readonly theirs: number
  /** A promise of `waitAsync` is outstanding. It cannot be taken back, so it serves one parking after the other. */
  private isAwaited = false
  /** Set while this thread has parked. */
  private wake: (() => void) | undefined = undefined

  constructor(words: SharedWords, buffer: SharedArrayBuffer, mine: number, theirs: number) {
    this.words = words
    this.waiting = new Int32Array(buffer)
    this.mine = mine
    this.theirs = theirs
  }

  /** Wakes the other thread if it has parked. */
  notify(): void {
    const { theirs, words } = this
    if (words.load(theirs) === 1 && words.exchange(theirs, 0) === 1) Atomics.notify(this.waiting, theirs)
  }

  /** Says that this thread has parked. */
  park(): void {
    this.words.store(this.mine, 1)
  }

  /** Says that it looks by itself again. */
  unpark(): void {
    this.wake = undefined
    this.words.store(this.mine, 0)
  }

  /** Calls back when the other thread wakes this one: at once, when it has since it has parked. */
  whenNotified(wake: () => void): void {
    this.wake = wake
    if (this.isAwaited) return
    const waiting = Atomics.waitAsync(this.waiting, this.mine, 1)
    if (!waiting.async) return wake()
    this.isAwaited = true
    void waiting.value.then(this.onNotified)
  }

  /** What woke it may be meant for some parking before: then this one ends for nothing. */
  private readonly onNotified = (): void => {
    this.isAwaited = false
    this.wake?.()
  }

  /** Nothing is held any more. */
  close(): void {
    this.unpark()
    if (this.isAwaited) Atomics.notify(this.waiting, this.mine)
  }
}
