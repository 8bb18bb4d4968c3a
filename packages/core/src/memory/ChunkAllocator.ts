/**
 * Chunks of memory, taken by the writers of FIFOs and given back by their
 * readers, from any thread.
 *
 * A binary buddy system (Knowlton, "A fast storage allocator", CACM 1965) whose
 * free lists are bitmaps, one for each size class: taking a chunk clears a bit,
 * giving it back sets it, and whoever changed the bit owns the chunk. There is
 * no list head to compare and swap, hence no ABA and no tag that could wrap;
 * no operation blocks or waits for another thread. Buddies are merged only when
 * an allocation would fail otherwise.
 *
 * The tables (counts, bitmaps, descriptors) are dense and lie apart from the
 * data, so a chunk that is not used touches no page, and every chunk starts at
 * a multiple of the unit.
 *
 * Chunks smaller than a page are for connections that say little: several share
 * a page. They are all in one part at the beginning, because nobody needs so many
 * of them that tables for them everywhere were worth their memory.
 *
 * @since 0.1.0
 */
import type { SharedWords } from "./SharedWords.ts"

const CLASSES = 15
const COUNT_WORDS = 16
const DESCRIPTOR_WORDS = 4

const C_EXHAUSTED = 15

const D_START = 0
const D_NEXT = 1
const D_CLASS = 2

const ALL_BITS = -1

/**
 * Smallest chunk in bytes, and the unit a segment is divided in.
 *
 * @category constants
 * @since 0.1.0
 */
export const MIN_CHUNK_BYTES = 256

/**
 * A page in bytes: the smallest chunk behind the first units of a segment, which
 * are as many as the largest chunk has.
 *
 * @category constants
 * @since 0.1.0
 */
export const PAGE_BYTES = 4096

/**
 * Largest chunk in bytes. A FIFO that needs more takes several.
 *
 * @category constants
 * @since 0.1.0
 */
export const MAX_CHUNK_BYTES = MIN_CHUNK_BYTES * 2 ** (CLASSES - 1)

/** The first units, which are divided as finely as can be: those of one largest chunk, so that no chunk is half in. */
const FINE_UNITS = 1 << (CLASSES - 1)

const bitmapWords = (bits: number): number => (bits + 31) >>> 5

interface Layout {
  /** The smallest class behind the first units. */
  readonly pageClass: number
  /** How many chunks of each class there can be. */
  readonly most: ReadonlyArray<number>
  /** First word of each class's bitmap of free chunks. */
  readonly bitmaps: ReadonlyArray<number>
  readonly used: number
  readonly usedSummary: number
  readonly descriptors: number
  /** Places where a chunk can start: each has a descriptor. */
  readonly slots: number
}

const layoutOf = (at: number, units: number, unitBytes: number): Layout => {
  const pageClass = Math.max(0, 31 - Math.clz32(PAGE_BYTES / unitBytes))
  const most: Array<number> = []
  const bitmaps: Array<number> = []
  let used = at + COUNT_WORDS
  for (let sizeClass = 0; sizeClass < CLASSES; sizeClass++) {
    most.push((sizeClass < pageClass ? Math.min(units, FINE_UNITS) : units) >>> sizeClass)
    bitmaps.push(used)
    used += bitmapWords(most[sizeClass])
  }
  const slots = units <= FINE_UNITS ? units : FINE_UNITS + ((units - FINE_UNITS - 1) >>> pageClass) + 1
  // Behind the bitmap of the used slots, one bit for each of its words: few loads tell where there is anything at all.
  const usedSummary = used + bitmapWords(slots)
  const descriptors = (usedSummary + bitmapWords(bitmapWords(slots)) + 15) & ~15
  return { pageClass, most, bitmaps, used, usedSummary, descriptors, slots }
}

/**
 * Units that hold `bytes`: behind the first of them only whole pages.
 *
 * @category sizing
 * @since 0.1.0
 */
export const unitsOf = (bytes: number, unitBytes: number): number => {
  const units = Math.ceil(bytes / unitBytes)
  const pageUnits = Math.max(1, PAGE_BYTES / unitBytes)
  return units <= FINE_UNITS ? units : Math.ceil(units / pageUnits) * pageUnits
}

/**
 * 32-bit words that the tables for `units` units of `unitBytes` (default 256) bytes take.
 *
 * @category sizing
 * @since 0.1.0
 */
export const tableWords = (units: number, unitBytes: number = MIN_CHUNK_BYTES): number => {
  const { descriptors, slots } = layoutOf(0, units, unitBytes)
  return descriptors + slots * DESCRIPTOR_WORDS
}

/**
 * One thread's mapping of the chunks of a segment: `units` units of `unitBytes`
 * bytes from byte offset `dataStart` on, with the tables at word `at`.
 *
 * **Example** (Taking and giving back)
 *
 * ```ts
 * import { ChunkAllocator, tableWords } from "@cut-through/core/memory/ChunkAllocator"
 * import { SharedWords } from "@cut-through/core/memory/SharedWords"
 *
 * const tables = tableWords(8) * 4
 * const words = new SharedWords(new SharedArrayBuffer(tables + 8 * 4096))
 * const chunks = new ChunkAllocator(words, { at: 0, units: 8, unitBytes: 4096, dataStart: tables })
 * chunks.format()
 * const chunk = chunks.allocate(5000)
 * chunks.bytes(chunk) // => 8192
 * chunks.availableBytes // => 24576
 * chunks.release(chunk) // => true
 * chunks.release(chunk) // => false
 * chunks.availableBytes // => 32768
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class ChunkAllocator {
  readonly words: SharedWords
  /** Units: chunk numbers are below it. */
  readonly units: number
  /** Bytes in a unit, the smallest chunk. A power of two. */
  readonly unitBytes: number
  /** Bytes in all units. */
  readonly size: number
  /** First word behind the allocator's tables that are always written: the descriptors, written one by one, follow. */
  readonly descriptors: number

  private readonly at: number
  private readonly dataStart: number
  private readonly slots: number
  private readonly used: number
  private readonly usedSummary: number
  private readonly pageClass: number
  private readonly most: ReadonlyArray<number>
  private readonly bitmaps: ReadonlyArray<number>
  // Where the last chunk of each class was found or given back: the next one is likely near, and its page warm.
  private readonly hints: Array<number> = new Array(CLASSES).fill(0)

  constructor(
    words: SharedWords,
    options: {
      readonly at: number
      readonly units: number
      readonly unitBytes: number
      readonly dataStart: number
    }
  ) {
    this.words = words
    this.units = options.units
    this.unitBytes = options.unitBytes
    this.size = options.units * options.unitBytes
    this.at = options.at
    this.dataStart = options.dataStart
    const layout = layoutOf(options.at, options.units, options.unitBytes)
    const { bitmaps, descriptors, most, pageClass, slots, used, usedSummary } = layout
    this.pageClass = pageClass
    this.most = most
    this.slots = slots
    this.bitmaps = bitmaps
    this.used = used
    this.usedSummary = usedSummary
    this.descriptors = descriptors
  }

  /** Marks all units free, in chunks as large as they come. The tables must be zero. */
  format(): void {
    let unit = 0
    while (unit < this.units) {
      let sizeClass = CLASSES - 1
      while ((unit & ((1 << sizeClass) - 1)) !== 0 || unit + (1 << sizeClass) > this.units) sizeClass--
      // Plainly, for a tenth of what `setFree` costs: nobody else uses them yet.
      const word = this.bitmaps[sizeClass] + (unit >>> (sizeClass + 5))
      this.words.init(word, this.words.peek(word) | (1 << ((unit >>> sizeClass) & 31)))
      this.words.init(this.at + sizeClass, this.words.peek(this.at + sizeClass) + 1)
      unit += 1 << sizeClass
    }
    this.hints.fill(0)
  }

  /** Bytes in free chunks. Another thread may be taking or giving some back at this moment. */
  get availableBytes(): number {
    let units = 0
    for (let sizeClass = 0; sizeClass < CLASSES; sizeClass++) {
      units += this.words.peek(this.at + sizeClass) * (1 << sizeClass)
    }
    return Math.min(Math.max(units, 0), this.units) * this.unitBytes
  }

  /** Whether an allocation has failed since `clearExhausted`. */
  get isExhausted(): boolean {
    return this.words.load(this.at + C_EXHAUSTED) !== 0
  }

  /** Forgets failed allocations. */
  clearExhausted(): void {
    this.words.store(this.at + C_EXHAUSTED, 0)
  }

  /**
   * Takes a chunk of at least `bytes` if there is one, else the largest smaller
   * one there is. Returns its number, or -1 when the segment is exhausted.
   *
   * A request above the largest class gets that class: callers look at
   * `bytes` and take another chunk for the rest.
   *
   * The chunk counts as touched from here on, unless `isTouched` is false: then
   * whoever writes to it calls `touch` first.
   */
  allocate(bytes: number, isTouched: boolean = true): number {
    // As many as the largest chunk has, at most.
    const units = Math.min(Math.ceil(bytes / this.unitBytes), FINE_UNITS)
    const wanted = units <= 1 ? 0 : 32 - Math.clz32(units - 1)
    let chunk = this.takeAtLeast(wanted, isTouched)
    if (chunk < 0 && wanted > 0 && this.mergeBuddies()) chunk = this.takeAtLeast(wanted, isTouched)
    for (let sizeClass = wanted - 1; chunk < 0 && sizeClass >= 0; sizeClass--) {
      chunk = this.takeExact(sizeClass, sizeClass, isTouched)
    }
    if (chunk < 0) this.words.store(this.at + C_EXHAUSTED, 1)
    return chunk
  }

  /** Gives a chunk back. Returns false, and changes nothing, when it is not one that was taken. */
  release(chunk: number): boolean {
    const sizeClass = this.classOf(chunk)
    if (sizeClass < 0) return false
    // The class is taken out of the descriptor first, in one step: of two releases of one chunk only one succeeds.
    const descriptor = this.descriptor(chunk) + D_CLASS
    if (this.words.exchange(descriptor, 0) !== sizeClass + 1) return false
    return this.setFree(sizeClass, chunk >>> sizeClass)
  }

  /** Bytes in a chunk, or -1 when the number or its descriptor makes no sense. */
  bytes(chunk: number): number {
    const sizeClass = this.classOf(chunk)
    return sizeClass < 0 ? -1 : this.unitBytes * (1 << sizeClass)
  }

  /** Offset in the region of a chunk's first byte. */
  offset(chunk: number): number {
    return this.dataStart + chunk * this.unitBytes
  }

  /** Stream position of a chunk's first byte. */
  start(chunk: number): number {
    // Plainly: it was written before the position that led here was published.
    return this.words.peek(this.descriptor(chunk) + D_START)
  }

  /** Sets the stream position of a chunk's first byte. */
  setStart(chunk: number, position: number): void {
    this.words.store(this.descriptor(chunk) + D_START, position)
  }

  /** The chunk after this one: its number, -1 when there is none, -2 when the link makes no sense. */
  next(chunk: number): number {
    if (chunk < 0 || chunk >= this.units) return -2
    const next = this.words.load(this.descriptor(chunk) + D_NEXT) - 1
    return next >= -1 && next < this.units ? next : -2
  }

  /** Links a chunk behind another; -1 ends the list. */
  setNext(chunk: number, next: number): void {
    this.words.store(this.descriptor(chunk) + D_NEXT, next + 1)
  }

  private classOf(chunk: number): number {
    if (chunk < 0 || chunk >= this.units) return -1
    const sizeClass = this.words.peek(this.descriptor(chunk) + D_CLASS) - 1
    if (sizeClass < 0 || sizeClass >= CLASSES) return -1
    const span = 1 << sizeClass
    return (chunk & (span - 1)) === 0 && chunk >>> sizeClass < this.most[sizeClass] ? sizeClass : -1
  }

  private takeAtLeast(wanted: number, isTouched: boolean): number {
    if (wanted >= this.pageClass || this.units <= FINE_UNITS) return this.takeBelow(this.units, wanted, isTouched)
    const chunk = this.takeBelow(FINE_UNITS, wanted, isTouched)
    return chunk >= 0 ? chunk : this.takeBelow(this.units, this.pageClass, isTouched)
  }

  /** Takes the smallest chunk that is large enough among the first `units`. */
  private takeBelow(units: number, wanted: number, isTouched: boolean): number {
    for (let sizeClass = wanted; sizeClass < CLASSES; sizeClass++) {
      if (this.words.peek(this.at + sizeClass) <= 0) continue
      const chunk = this.takeExact(sizeClass, wanted, isTouched, units)
      if (chunk >= 0) return chunk
    }
    return -1
  }

  /** Takes a free chunk of `sizeClass` and gives back all of it but one chunk of class `wanted`. */
  private takeExact(sizeClass: number, wanted: number, isTouched: boolean, units: number = this.units): number {
    const index = this.clearFree(sizeClass, Math.min(units >>> sizeClass, this.most[sizeClass]))
    if (index < 0) return -1
    const chunk = index << sizeClass
    for (let half = sizeClass - 1; half >= wanted; half--) {
      // The upper half, so that the lowest addresses are used first and the others stay untouched.
      this.setFree(half, (chunk >>> half) + 1)
    }
    // First, so that what a thread wrote that died here is still known to be touched.
    if (isTouched) this.markUsed(chunk, 1 << wanted)
    // Its new owner is the only one who looks at it.
    this.words.init(this.descriptor(chunk) + D_NEXT, 0)
    this.words.init(this.descriptor(chunk) + D_CLASS, wanted + 1)
    return chunk
  }

  /** Clears one of the first `count` free bits of a class. Whoever saw it set in the word it cleared owns the chunk. */
  private clearFree(sizeClass: number, count: number): number {
    const base = this.bitmaps[sizeClass]
    const length = bitmapWords(count)
    let at = this.hints[sizeClass] < length ? this.hints[sizeClass] : 0
    for (let seen = 0; seen < length; seen++) {
      let free = this.words.peek(base + at)
      // As often as the word has bits: one that somebody keeps setting is left alone.
      for (let most = 32; free !== 0 && most > 0; most--) {
        const bit = free & -free
        const index = at * 32 + (31 - Math.clz32(bit))
        if (index >= count) {
          // A bit behind the last chunk of the class is nobody's: who set it does not get to see it used.
          if (index >= this.most[sizeClass]) this.words.and(base + at, ~bit)
          return -1
        }
        // The count first: when a thread dies in between, less is counted than there is, and never what is lost.
        this.words.add(this.at + sizeClass, -1)
        const before = this.words.and(base + at, ~bit)
        if ((before & bit) !== 0) {
          this.hints[sizeClass] = at
          return index
        }
        this.words.add(this.at + sizeClass, 1)
        free = before & ~bit
      }
      at = at + 1 === length ? 0 : at + 1
    }
    return -1
  }

  private setFree(sizeClass: number, index: number): boolean {
    const at = index >>> 5
    const bit = 1 << (index & 31)
    if ((this.words.or(this.bitmaps[sizeClass] + at, bit) & bit) !== 0) return false
    this.words.add(this.at + sizeClass, 1)
    this.hints[sizeClass] = at
    return true
  }

  /** Joins free buddies to chunks of the next class, lowest class first. Returns whether any were joined. */
  private mergeBuddies(): boolean {
    let merged = false
    for (let sizeClass = 0; sizeClass < CLASSES - 1; sizeClass++) {
      const base = this.bitmaps[sizeClass]
      const length = bitmapWords(this.most[sizeClass])
      for (let at = 0; at < length; at++) {
        const free = this.words.load(base + at)
        let pairs = free & (free >>> 1) & 0x55555555
        while (pairs !== 0) {
          const low = pairs & -pairs
          pairs &= ~low
          const both = low | (low << 1)
          this.words.add(this.at + sizeClass, -2)
          const before = this.words.and(base + at, ~both)
          const held = before & both
          if (held === both) {
            this.setFree(sizeClass + 1, (at * 32 + (31 - Math.clz32(low))) >>> 1)
            merged = true
          } else {
            // Another thread took the buddy in between: this one was free before and is again.
            if (held !== 0) this.words.or(base + at, held)
            this.words.add(this.at + sizeClass, 2)
          }
        }
      }
    }
    return merged
  }

  /**
   * Says that a chunk is about to be written: it will have to be zeroed.
   *
   * `bytes` is what the writer has seen the chunk to be, and will write: the
   * descriptor is anybody's, and may say less by now.
   */
  touch(chunk: number, bytes: number): void {
    this.markUsed(chunk, bytes / this.unitBytes)
  }

  private markUsed(unit: number, units: number): void {
    const slot = this.slotOf(unit)
    let count = this.slotOf(unit + units) - slot
    let at = slot >>> 5
    let shift = slot & 31
    while (count > 0) {
      const here = Math.min(count, 32 - shift)
      const bits = here === 32 ? ALL_BITS : ((1 << here) - 1) << shift
      if ((this.words.peek(this.used + at) & bits) !== bits) {
        // The summary first: a thread that dies in between has then hidden nothing.
        this.words.or(this.usedSummary + (at >>> 5), 1 << (at & 31))
        this.words.or(this.used + at, bits)
      }
      count -= here
      shift = 0
      at++
    }
  }

  /**
   * Calls `visit` for each run of units that have ever been taken, in whole slots: `[from, to)`.
   * For whoever has the segment for itself.
   * With `forget`, they count as never taken from then on.
   */
  visitUsed(visit: (from: number, to: number) => void, forget: boolean = false): void {
    const summaries = bitmapWords(bitmapWords(this.slots))
    for (let i = 0; i < summaries; i++) {
      const summary = this.words.peek(this.usedSummary + i)
      if (summary === 0) continue
      if (forget) this.words.init(this.usedSummary + i, 0)
      for (let left = summary; left !== 0; left &= left - 1) {
        const at = i * 32 + (31 - Math.clz32(left & -left))
        let used = this.words.peek(this.used + at)
        if (forget) this.words.init(this.used + at, 0)
        while (used !== 0) {
          const from = 31 - Math.clz32(used & -used)
          const rest = ~(used >>> from)
          const length = rest === 0 ? 32 : 31 - Math.clz32(rest & -rest)
          // A bit behind the last slot is nobody's doing but a stranger's.
          const to = Math.min(at * 32 + from + length, this.slots)
          if (at * 32 + from < to) visit(this.unitOf(at * 32 + from), this.unitOf(to))
          used = from + length >= 32 ? 0 : (used >>> (from + length)) << (from + length)
        }
      }
    }
  }

  /** Word of the descriptor of the chunk that starts at a unit. */
  descriptor(unit: number): number {
    return this.descriptors + this.slotOf(unit) * DESCRIPTOR_WORDS
  }

  /** The first units have a slot each, the others share one with those of their page. */
  private slotOf(unit: number): number {
    return unit <= FINE_UNITS ? unit : FINE_UNITS + ((unit - FINE_UNITS) >>> this.pageClass)
  }

  private unitOf(slot: number): number {
    return slot <= FINE_UNITS ? slot : FINE_UNITS + ((slot - FINE_UNITS) << this.pageClass)
  }
}
