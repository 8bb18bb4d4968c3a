/** What the tests of the memory floor share: segments, stream bytes, leak checks and memories that watch or lie. */
import type { ChunkAllocator } from "@cut-through/core/memory/ChunkAllocator"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import type { Fifo } from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { assert } from "@effect/vitest"

export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB
/** The smallest chunk, unless a test says otherwise: larger than by default, so that little is there to count. */
export const CHUNK = 4 * KIB

const withChunk = (options: FifoSegment.Options): FifoSegment.Options => ({ unitBytes: CHUNK, ...options })

export const allocateBuffer = (options: FifoSegment.Options): SharedArrayBuffer =>
  new SharedArrayBuffer(FifoSegment.regionBytes(withChunk(options)))

export const makeSegment = (
  options: FifoSegment.Options,
  words: SharedWords = new SharedWords(allocateBuffer(options))
): FifoSegment.FifoSegment => FifoSegment.make(words, withChunk(options))

/** Another mapping of a segment, as another thread would have. */
export const mapAgain = (
  segment: FifoSegment.FifoSegment,
  words: SharedWords = new SharedWords(segment.words.buffer)
): FifoSegment.FifoSegment => {
  const mapped = FifoSegment.attach(words)
  return mapped ?? assert.fail("no segment to map")
}

export const allocateFifo = (segment: FifoSegment.FifoSegment, size: number, firstBytes?: number): Fifo => {
  const fifo = segment.allocateFifo(size, firstBytes)
  return fifo ?? assert.fail("no room for a FIFO")
}

export const attachFifo = (segment: FifoSegment.FifoSegment, index: number, side: number): Fifo => {
  const fifo = segment.attachFifo(index, side)
  return fifo ?? assert.fail(`no FIFO ${index}`)
}

/** Every test that makes FIFOs ends here. */
export const assertNoLeak = (segment: FifoSegment.FifoSegment): void => {
  // Many thousand times in some tests: an assertion that holds costs more than what it asserts.
  if (segment.activeFifos !== 0) assert.fail(`${segment.activeFifos} FIFOs left`)
  if (segment.virtualBytes !== 0) assert.fail(`${segment.virtualBytes} virtual bytes left`)
  const missing = segment.size - segment.availableBytes
  if (missing !== 0) assert.fail(`${missing} bytes missing`)
}

export const releaseAll = (segment: FifoSegment.FifoSegment, fifos: Iterable<Fifo>): void => {
  for (const fifo of fifos) segment.releaseFifo(fifo)
  assertNoLeak(segment)
}

/** Chunks of a FIFO's list, in order. */
export const chunksOf = (segment: FifoSegment.FifoSegment, fifo: Fifo): Array<number> => {
  const chunks: Array<number> = []
  for (let chunk = fifo.firstChunk; chunk >= 0; chunk = segment.chunks.next(chunk)) {
    if (chunks.length > segment.chunks.units) throw new Error("a list of chunks has no end")
    chunks.push(chunk)
  }
  return chunks
}

export const chunkSizes = (segment: FifoSegment.FifoSegment, fifo: Fifo): Array<number> =>
  chunksOf(segment, fifo).map((chunk) => segment.chunks.bytes(chunk))

/** What is free and what is in the lists is all there is. */
export const assertAccounted = (segment: FifoSegment.FifoSegment, fifos: ReadonlyArray<Fifo>): void => {
  let held = 0
  for (const fifo of fifos) for (const bytes of chunkSizes(segment, fifo)) held += bytes
  if (segment.availableBytes + held !== segment.size) {
    assert.fail(`${segment.availableBytes} bytes free and ${held} in lists, of ${segment.size}`)
  }
}

/** The byte at a position of a stream: neighbours differ, and so do positions a power of two apart. */
export const byteAt = (position: number): number => {
  const mixed = Math.imul(position ^ (position >>> 15), 0x2c1b3c6d)
  return (mixed ^ (mixed >>> 13) ^ Math.floor(position / 2 ** 32)) & 255
}

export const bytesAt = (position: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = byteAt(position + i)
  return bytes
}

export const assertBytesAt = (bytes: Uint8Array, position: number, length = bytes.length, offset = 0): void => {
  for (let i = 0; i < length; i++) {
    if (bytes[offset + i] !== byteAt(position + i)) {
      assert.fail(`byte ${position + i} is ${bytes[offset + i]}, should be ${byteAt(position + i)}`)
    }
  }
}

/** Enqueues what belongs at a position of the stream. */
export const enqueueAt = (fifo: Fifo, position: number, length: number): number =>
  fifo.enqueue(bytesAt(position, length), 0, length)

/** Dequeues, and checks that it is what belongs at a position of the stream. */
export const dequeueAt = (fifo: Fifo, position: number, length: number): void => {
  const bytes = new Uint8Array(length)
  const count = fifo.dequeue(bytes, 0, length)
  if (count !== length) assert.fail(`dequeued ${count}, should be ${length}`)
  assertBytesAt(bytes, position)
}

/** Moves the stream on by `length` bytes without touching them. */
export const skip = (fifo: Fifo, length: number, atOnce: number): void => {
  let left = length
  while (left > 0) {
    const claimed = fifo.claim(Math.min(left, atOnce)).reduce((sum, view) => sum + view.length, 0)
    if (claimed === 0) assert.fail("an empty FIFO has no room")
    if (fifo.commit(claimed) !== claimed || fifo.drop(claimed) !== claimed) assert.fail("a claim was not committed")
    left -= claimed
  }
}

/** Units that are known to be touched. */
export const touchedUnits = (chunks: ChunkAllocator): Set<number> => {
  const units = new Set<number>()
  chunks.visitUsed((from, to) => {
    for (let unit = from; unit < to; unit++) units.add(unit)
  })
  return units
}

/** The chunks hold nothing but zeros. */
export const assertNoBytes = (segment: FifoSegment.FifoSegment): void => {
  const start = dataStart(segment)
  const at = firstNonZero(segment.words.buffer, start, start + segment.size)
  if (at >= 0) assert.fail(`byte ${at - start} of the chunks is left behind`)
}

/** Where the first byte in a range is that is not zero, or -1. */
export const firstNonZero = (buffer: ArrayBufferLike, start = 0, end = buffer.byteLength): number => {
  const at = new Uint8Array(buffer, start, end - start).findIndex((byte) => byte !== 0)
  return at < 0 ? -1 : start + at
}

/** Zeroes what is known to be touched, inside of the region; nothing else may be left. */
export const zeroTouched = (segment: FifoSegment.FifoSegment): void => {
  for (const [start, end] of segment.touchedRanges()) {
    if (start < 0 || start > end || end > segment.words.byteLength) assert.fail(`touched [${start}, ${end})`)
    segment.words.zero(start, end)
  }
  const left = firstNonZero(segment.words.buffer)
  if (left >= 0) assert.fail(`byte ${left} of ${segment.words.byteLength} was not known to be touched`)
}

/** Word offsets in a FIFO's header. Tests know them to break them; the order is part of the shared format. */
export const Header = {
  generation: 0,
  size: 1,
  minAlloc: 2,
  tail: 16,
  tailChunk: 17,
  end: 18,
  head: 32,
  headChunk: 33,
  stop: 34,
  event: 48,
  want: 49,
  threshold: 50,
  told: 51,
  reset: 52,
  gone: 53
} as const

/** First word of a FIFO's header: the second touched range of a segment starts with the header of FIFO 0. */
export const headerWord = (segment: FifoSegment.FifoSegment, index: number): number =>
  segment.touchedRanges()[1][0] / 4 + index * 64

/** First byte of the chunks: what is before is tables. */
export const dataStart = (segment: FifoSegment.FifoSegment): number => segment.chunks.offset(0)

/**
 * Sees every access before it happens, and may change what a load brings.
 *
 * `before` may use another mapping of the same memory: that is another thread
 * that runs while this one stands between two accesses.
 */
export class WatchedWords extends SharedWords {
  /** Accesses so far. */
  accesses = 0
  before: (access: number) => void = () => {}
  /** What a read of a word brings, given what is there. */
  lie: (word: number, value: number) => number = (_word, value) => value
  /** Byte ranges that were read, written, lent or zeroed. */
  onBytes: (start: number, end: number) => void = () => {}
  onWord: (word: number) => void = () => {}

  private step(word: number): void {
    const access = this.accesses++
    this.onWord(word)
    this.before(access)
  }

  private stepBytes(start: number, end: number): void {
    const access = this.accesses++
    this.onBytes(start, end)
    this.before(access)
  }

  override load(word: number): number {
    this.step(word)
    return this.lie(word, super.load(word))
  }

  override store(word: number, value: number): void {
    this.step(word)
    super.store(word, value)
  }

  // Plain accesses are accesses: another thread can come before one as well as before an atomic one.
  override peek(word: number): number {
    this.step(word)
    return this.lie(word, super.peek(word))
  }

  override init(word: number, value: number): void {
    this.step(word)
    super.init(word, value)
  }

  override add(word: number, value: number): number {
    this.step(word)
    return super.add(word, value)
  }

  override or(word: number, bits: number): number {
    this.step(word)
    return super.or(word, bits)
  }

  override and(word: number, bits: number): number {
    this.step(word)
    return super.and(word, bits)
  }

  override exchange(word: number, value: number): number {
    this.step(word)
    return this.lie(word, super.exchange(word, value))
  }

  override copyIn(targetStart: number, source: Uint8Array, sourceStart: number, sourceEnd: number): void {
    this.stepBytes(targetStart, targetStart + (sourceEnd - sourceStart))
    super.copyIn(targetStart, source, sourceStart, sourceEnd)
  }

  override copyOut(target: Uint8Array, targetStart: number, sourceStart: number, sourceEnd: number): void {
    this.stepBytes(sourceStart, sourceEnd)
    super.copyOut(target, targetStart, sourceStart, sourceEnd)
  }

  override view(start: number, end: number): Uint8Array {
    this.stepBytes(start, end)
    return super.view(start, end)
  }

  override zero(start: number, end: number): void {
    this.stepBytes(start, end)
    super.zero(start, end)
  }
}
