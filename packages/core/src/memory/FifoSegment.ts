/**
 * A region of memory divided into byte FIFOs, shared by both ends of many
 * connections.
 *
 * A segment is a header, the tables of its `ChunkAllocator`, a dense table of
 * FIFO headers, then the data: a segment of 128 MiB costs what is touched.
 * Chunks come and go from any thread; FIFOs are made and freed by the one
 * thread that made the segment, which also counts their references.
 *
 * @since 0.1.0
 */
import { ChunkAllocator, MIN_CHUNK_BYTES, PAGE_BYTES, tableWords, unitsOf } from "./ChunkAllocator.ts"
import * as Fifo from "./Fifo.ts"
import type { SharedWords } from "./SharedWords.ts"

const MAGIC = 0x63757431
const HEADER_WORDS = 16
const DATA_ALIGNMENT = 4096

const H_MAGIC = 0
const H_UNITS = 1
const H_UNIT_BYTES = 2
const H_MAX_FIFOS = 3
const H_HIGH_WATERMARK = 4
const H_LOW_WATERMARK = 5

/**
 * How a segment is divided.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Bytes for chunks, rounded up to whole units. Tables come on top. */
  readonly size: number
  /** FIFOs the segment can hold at once. Default: one for each unit. */
  readonly maxFifos?: number | undefined
  /** Usage in percent from which pressure is `"high"`. Default 80, 0 disables. */
  readonly highWatermark?: number | undefined
  /** Usage in percent from which pressure is `"low"`. Default 50, 0 disables. */
  readonly lowWatermark?: number | undefined
  /** Smallest chunk in bytes, a power of two. Default 256; smaller ones make small models to explore. */
  readonly unitBytes?: number | undefined
}

/**
 * How short of memory a segment is: below both watermarks, above the low one,
 * above the high one, or exhausted (from the first failed allocation until
 * `pressure` is next read with usage below the high watermark).
 *
 * @category models
 * @since 0.1.0
 */
export type Pressure = "none" | "low" | "high" | "exhausted"

interface Layout {
  readonly units: number
  readonly unitBytes: number
  readonly maxFifos: number
  readonly fifos: number
  readonly dataStart: number
  readonly byteLength: number
}

const layoutOf = (units: number, unitBytes: number, maxFifos: number): Layout => {
  // Headers are divided in cache lines, so they start at one.
  const fifos = Math.ceil((HEADER_WORDS + tableWords(units, unitBytes)) / 16) * 16
  const tablesEnd = (fifos + maxFifos * Fifo.HEADER_WORDS) * 4
  const dataStart = Math.ceil(tablesEnd / DATA_ALIGNMENT) * DATA_ALIGNMENT
  return { units, unitBytes, maxFifos, fifos, dataStart, byteLength: dataStart + units * unitBytes }
}

const layoutFor = (options: Options): Layout => {
  const unitBytes = options.unitBytes ?? MIN_CHUNK_BYTES
  const units = unitsOf(options.size, unitBytes)
  return layoutOf(units, unitBytes, options.maxFifos ?? units)
}

/**
 * Bytes of memory that a segment with these options needs, tables included.
 *
 * **Example** (Sizing a region)
 *
 * ```ts
 * import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
 *
 * const bytes = FifoSegment.regionBytes({ size: 1024 * 1024, maxFifos: 16 })
 * bytes > 1024 * 1024 // => true
 * ```
 *
 * @category sizing
 * @since 0.1.0
 */
export const regionBytes = (options: Options): number => layoutFor(options).byteLength

/** Bytes in whole pages that hold `bytes`. */
const pagedBytes = (bytes: number): number => Math.max(1, Math.ceil(bytes / PAGE_BYTES)) * PAGE_BYTES

/**
 * Bytes that are set aside for a pair of FIFOs of these sizes, in whole pages.
 * Exact for large sizes too: no 32-bit sum.
 *
 * **Example** (What a pair costs)
 *
 * ```ts
 * import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
 *
 * FifoSegment.pairBytes(65536, 100) // => 69632
 * FifoSegment.pairBytes(2 ** 31 - 1, 2 ** 31 - 1) // => 2 ** 32
 * ```
 *
 * @category sizing
 * @since 0.1.0
 */
export const pairBytes = (rxSize: number, txSize: number): number => pagedBytes(rxSize) + pagedBytes(txSize)

/**
 * How many FIFO pairs of these sizes one segment of `size` bytes holds: memory
 * is set aside once, never twice. (A full FIFO whose first and last chunk are
 * used in part takes a little more; where the segment has none left, its writer
 * waits for its reader.)
 *
 * **Example** (Pairs in a segment)
 *
 * ```ts
 * import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
 *
 * FifoSegment.pairsPerSegment(128 * 1024 * 1024, 65536, 65536) // => 1024
 * ```
 *
 * @category sizing
 * @since 0.1.0
 */
export const pairsPerSegment = (size: number, rxSize: number, txSize: number): number =>
  Math.floor(size / pairBytes(rxSize, txSize))

/**
 * Formats memory as an empty segment. The memory must be zeroed and at least
 * `regionBytes(options)` long. Other threads that have had it mapped may have
 * written to it since: of what they have left there, the segment uses nothing.
 * A segment that this thread has had in the same memory `before`, and that is not
 * used any more, makes it cheaper.
 *
 * **Example** (A segment with one FIFO)
 *
 * ```ts
 * import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
 * import { SharedWords } from "@cut-through/core/memory/SharedWords"
 *
 * const options = { size: 1024 * 1024, maxFifos: 16 }
 * const buffer = new SharedArrayBuffer(FifoSegment.regionBytes(options))
 * const segment = FifoSegment.make(new SharedWords(buffer), options)
 * const fifo = segment.allocateFifo(65536)!
 * segment.activeFifos // => 1
 * segment.releaseFifo(fifo) // => true
 * segment.availableBytes === segment.size // => true
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (words: SharedWords, options: Options, before?: FifoSegment): FifoSegment => {
  const segment =
    before?.words === words && before.suits(options) ? before.successor() : new FifoSegment(words, layoutFor(options))
  segment.divide(options)
  return segment
}

/**
 * Maps a segment that another thread has made. Returns `undefined` when the
 * memory holds no segment, or one whose tables would not fit in it. What was
 * returned `before` for a segment in the same memory is used again if it fits.
 *
 * @category constructors
 * @since 0.1.0
 */
export const attach = (words: SharedWords, before?: FifoSegment): FifoSegment | undefined => {
  if (words.byteLength < HEADER_WORDS * 4 || words.load(H_MAGIC) !== MAGIC) return undefined
  const units = words.load(H_UNITS)
  const unitBytes = words.load(H_UNIT_BYTES)
  const maxFifos = words.load(H_MAX_FIFOS)
  const sane =
    units > 0 &&
    units <= 2 ** 26 &&
    maxFifos >= 0 &&
    maxFifos <= 2 ** 24 &&
    unitBytes > 0 &&
    (unitBytes & (unitBytes - 1)) === 0
  if (!sane) return undefined
  if (before?.words === words && before.isDivided(units, unitBytes, maxFifos)) return before
  const layout = layoutOf(units, unitBytes, maxFifos)
  return layout.byteLength <= words.byteLength ? new FifoSegment(words, layout) : undefined
}

/**
 * One thread's mapping of a segment: the shared tables, and what this thread
 * remembers about them.
 *
 * @category models
 * @since 0.1.0
 */
export class FifoSegment {
  readonly words: SharedWords
  /** The chunks that FIFOs are made of. */
  readonly chunks: ChunkAllocator
  /** FIFOs that exist: made and not yet freed. Counted by the thread that made the segment. */
  activeFifos = 0
  /** Sum of the size limits of the existing FIFOs. Counted by the thread that made the segment. */
  virtualBytes = 0

  private readonly layout: Layout
  private readonly freeIndexes: Array<number> = []
  private nextIndex = 0
  /** Headers that were in use before the segment was scrubbed. */
  private mostFifos = 0
  private condemned = false

  /** @internal */
  constructor(words: SharedWords, layout: Layout, chunks?: ChunkAllocator) {
    this.words = words
    this.layout = layout
    this.chunks =
      chunks ??
      new ChunkAllocator(words, {
        at: HEADER_WORDS,
        units: layout.units,
        unitBytes: layout.unitBytes,
        dataStart: layout.dataStart
      })
  }

  /** Bytes for chunks. */
  get size(): number {
    return this.chunks.size
  }

  /** Bytes in free chunks. Another thread may be taking or giving some back at this moment. */
  get availableBytes(): number {
    return this.chunks.availableBytes
  }

  /** Bytes in use, in percent of `size`, rounded down. */
  get usage(): number {
    return Math.floor(((this.size - this.availableBytes) * 100) / this.size)
  }

  /** How short memory is, by the watermarks. */
  get pressure(): Pressure {
    const usage = this.usage
    const high = this.words.load(H_HIGH_WATERMARK)
    const low = this.words.load(H_LOW_WATERMARK)
    const isHigh = high > 0 && usage >= high
    if (isHigh) return this.chunks.isExhausted ? "exhausted" : "high"
    this.chunks.clearExhausted()
    return low > 0 && usage >= low ? "low" : "none"
  }

  /** Whether a thread that shares the segment has died. */
  get isCondemned(): boolean {
    return this.condemned
  }

  /**
   * Says that a thread has died that shares the segment, wherever it was in
   * whatever it did. From here on FIFOs are only counted: none is made, and those
   * that are freed leave their chunks where they are, for nobody knows what the
   * shared tables are worth. The FIFOs that exist can be used as before.
   */
  condemn(): void {
    this.condemned = true
  }

  /**
   * Makes a FIFO that holds at most `size` bytes, with one reference and a
   * first chunk of `firstBytes` (default: the smallest). Returns `undefined`
   * when the segment has no room for it, or is condemned.
   */
  allocateFifo(size: number, firstBytes: number = this.chunks.unitBytes): Fifo.Fifo | undefined {
    if (this.condemned || !(size >= 1 && size <= Fifo.MAX_FIFO_BYTES)) return undefined
    if (this.freeIndexes.length === 0 && this.nextIndex === this.layout.maxFifos) return undefined
    const chunk = this.chunks.allocate(Math.min(firstBytes, size), false)
    if (chunk < 0) return undefined
    const index = this.freeIndexes.length > 0 ? this.freeIndexes.pop()! : this.nextIndex++
    this.activeFifos++
    this.virtualBytes += size
    return Fifo.Fifo.format(this.chunks, index, this.fifoWord(index), size, chunk)
  }

  /**
   * Makes two FIFOs, or none. One that holds no more than a page has all of its
   * memory at once; another one starts with the smallest chunk.
   */
  allocatePair(rxSize: number, txSize: number): readonly [rx: Fifo.Fifo, tx: Fifo.Fifo] | undefined {
    const rx = this.allocateFifo(rxSize, this.firstBytes(rxSize))
    if (rx === undefined) return undefined
    const tx = this.allocateFifo(txSize, this.firstBytes(txSize))
    if (tx === undefined) {
      this.releaseFifo(rx)
      return undefined
    }
    return [rx, tx]
  }

  private firstBytes(size: number): number {
    return size <= PAGE_BYTES ? size : this.chunks.unitBytes
  }

  /**
   * Prepares headers and first chunks for FIFO pairs and touches their pages,
   * so that the next `count` pairs cost no split and no page fault. Returns how
   * many pairs were prepared.
   */
  preallocatePairs(count: number, rxSize: number, txSize: number): number {
    const fifos: Array<Fifo.Fifo> = []
    while (fifos.length < count * 2) {
      const pair = this.allocatePair(rxSize, txSize)
      if (pair === undefined) break
      fifos.push(...pair)
    }
    for (const fifo of fifos) {
      const chunk = fifo.firstChunk
      const bytes = this.chunks.bytes(chunk)
      // Both come from shared words.
      if (bytes > 0) {
        this.chunks.touch(chunk, bytes)
        const offset = this.chunks.offset(chunk)
        this.words.zero(offset, offset + bytes)
      }
      this.releaseFifo(fifo)
    }
    return fifos.length / 2
  }

  /**
   * Changes the size limit of a FIFO. What it holds stays, also when that is
   * more than the new limit: nothing is accepted until it has drained below.
   */
  resizeFifo(fifo: Fifo.Fifo, size: number): void {
    if (!(size >= 1 && size <= Fifo.MAX_FIFO_BYTES)) {
      throw new RangeError(`FIFO size must be 1 to ${Fifo.MAX_FIFO_BYTES} bytes, got ${size}`)
    }
    if (fifo.references === 0) throw new RangeError(`FIFO ${fifo.index} was resized after it was freed`)
    this.virtualBytes += size - fifo.promised
    fifo.resize(size)
  }

  /**
   * Maps one side (`Fifo.WRITER`, `Fifo.READER`) of a FIFO that another thread
   * has made, by its index. `undefined` when there is none, or when its words
   * make no sense.
   */
  attachFifo(index: number, side: number): Fifo.Fifo | undefined {
    if (index < 0 || index >= this.layout.maxFifos) return undefined
    return Fifo.Fifo.attach(this.chunks, index, this.fifoWord(index), side)
  }

  /**
   * Drops one reference. The last one frees the FIFO: its chunks go back to the
   * segment, its header to the next FIFO, unless the segment is condemned.
   * Returns whether it was the last.
   */
  releaseFifo(fifo: Fifo.Fifo): boolean {
    if (fifo.references === 0) throw new RangeError(`FIFO ${fifo.index} was released more often than it was retained`)
    fifo.references--
    if (fifo.references > 0) return false
    this.activeFifos--
    this.virtualBytes -= fifo.promised
    if (this.condemned) return true
    let chunk = fifo.retire()
    // Links are shared memory. A list that leads nowhere or in a circle ends at a chunk that cannot be released (again);
    // one that another thread takes as fast as it is released, when there cannot be any more.
    for (let most = this.chunks.units; chunk >= 0 && most > 0; most--) {
      const next = this.chunks.next(chunk)
      if (!this.chunks.release(chunk)) break
      chunk = next
    }
    this.freeIndexes.push(fifo.index)
    return true
  }

  /**
   * The byte ranges of the region that have ever been written: what must be
   * zeroed before the memory serves another segment.
   */
  touchedRanges(): Array<readonly [start: number, end: number]> {
    const ranges: Array<readonly [number, number]> = [
      [0, this.chunks.descriptors * 4],
      [this.layout.fifos * 4, this.fifoWord(Math.max(this.nextIndex, this.mostFifos)) * 4]
    ]
    // The descriptor of a chunk that was taken and not written yet is the only trace of it, also when the chunk is lost.
    if (this.condemned || this.activeFifos > 0 || this.chunks.availableBytes !== this.chunks.size) {
      ranges.push([this.chunks.descriptor(0) * 4, this.chunks.descriptor(this.chunks.units) * 4])
    }
    this.chunks.visitUsed((from, to) => {
      ranges.push([this.chunks.descriptor(from) * 4, this.chunks.descriptor(to) * 4])
      ranges.push([this.chunks.offset(from), this.chunks.offset(to)])
    })
    return ranges
  }

  /**
   * Whether a segment with these options would be divided as this one is, and
   * whether its header still says so to those who attach.
   */
  isLike(options: Options): boolean {
    const { layout } = this
    return (
      this.suits(options) &&
      this.words.peek(H_MAGIC) === MAGIC &&
      this.words.peek(H_UNITS) === layout.units &&
      this.words.peek(H_UNIT_BYTES) === layout.unitBytes &&
      this.words.peek(H_MAX_FIFOS) === layout.maxFifos &&
      this.words.peek(H_HIGH_WATERMARK) === (options.highWatermark ?? 80) &&
      this.words.peek(H_LOW_WATERMARK) === (options.lowWatermark ?? 50)
    )
  }

  /** @internal */
  isDivided(units: number, unitBytes: number, maxFifos: number): boolean {
    const { layout } = this
    return layout.units === units && layout.unitBytes === unitBytes && layout.maxFifos === maxFifos
  }

  /** Whether a segment with these options would be divided as this one is, whatever the memory says. @internal */
  suits(options: Options): boolean {
    const unitBytes = options.unitBytes ?? MIN_CHUNK_BYTES
    const units = unitsOf(options.size, unitBytes)
    return this.isDivided(units, unitBytes, options.maxFifos ?? units)
  }

  /** One in the same memory, divided alike. @internal */
  successor(): FifoSegment {
    return new FifoSegment(this.words, this.layout, this.chunks)
  }

  /** @internal */
  divide(options: Options): void {
    const { layout, words } = this
    words.zero(0, this.chunks.descriptors * 4)
    words.init(H_UNITS, layout.units)
    words.init(H_UNIT_BYTES, layout.unitBytes)
    words.init(H_MAX_FIFOS, layout.maxFifos)
    words.init(H_HIGH_WATERMARK, options.highWatermark ?? 80)
    words.init(H_LOW_WATERMARK, options.lowWatermark ?? 50)
    this.chunks.format()
    words.store(H_MAGIC, MAGIC)
  }

  /**
   * Makes the segment as good as new: zeroes what was written, so that only the
   * tables remain, which are those of an empty segment. Returns false, and does
   * nothing, when something is still in use, or the segment is condemned. For
   * memory that nobody else can write to: it believes the tables.
   */
  scrub(): boolean {
    if (this.condemned || this.activeFifos !== 0 || this.chunks.availableBytes !== this.chunks.size) return false
    // Headers are left as they are: the next FIFO writes every word of its own.
    this.mostFifos = Math.max(this.mostFifos, this.nextIndex)
    this.chunks.visitUsed((from, to) => {
      this.words.zero(this.chunks.descriptor(from) * 4, this.chunks.descriptor(to) * 4)
      this.words.zero(this.chunks.offset(from), this.chunks.offset(to))
    }, true)
    if (this.chunks.isExhausted) this.chunks.clearExhausted()
    while (this.freeIndexes.length > 0) this.freeIndexes.pop()
    this.nextIndex = 0
    return true
  }

  private fifoWord(index: number): number {
    return this.layout.fifos + index * Fifo.HEADER_WORDS
  }
}
