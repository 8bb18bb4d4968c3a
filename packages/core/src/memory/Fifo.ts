/**
 * A byte FIFO for one writer and one reader, which may be in different threads.
 *
 * The bytes lie in a list of chunks of a `FifoSegment`. The list starts with
 * one small chunk, grows when the writer needs room, up to the FIFO's size
 * limit, and gives chunks back as the reader leaves them behind. Positions in
 * the stream are free-running 32-bit counters, so full means exactly `size`
 * bytes and empty means none: no slot is wasted, and no stream is too long.
 *
 * **Who writes what.** The writer publishes `tail` and the end of the stream;
 * the reader publishes `head` and that it has stopped. Each side keeps what it
 * needs to work in private fields and looks at the other side's word only when
 * its last reading is not enough. Everything read from shared memory is checked
 * before use: a word that cannot be true makes every operation return
 * {@link CORRUPT} from then on, and nothing is read or written out of bounds.
 *
 * **Room is always found.** When the FIFO is empty and the writer's chunk has
 * no room, the writer starts again at the beginning of that chunk. So an
 * exhausted segment can slow a stream down, but never stop it, and small
 * messages keep using the same few cache lines.
 *
 * **Wake-ups.** `setEvent` tells the writer whether the reader needs to be told
 * about new bytes; `wantDequeueNotification` asks the reader to tell the writer
 * about room. Both protocols ask the waiting side to look again after it has
 * announced that it waits.
 *
 * No operation allocates, blocks or throws.
 *
 * @since 0.1.0
 */
import { type ChunkAllocator, PAGE_BYTES } from "./ChunkAllocator.ts"
import type { SharedWords } from "./SharedWords.ts"

// One cache line (16 words) for each party, so that neither slows the other down.
const W_GENERATION = 0
const W_SIZE = 1
const W_MIN_ALLOC = 2
// The reader's, but not in the line of its head: the writer looks at this one for each write, and at the head seldom.
const W_READER = 3
const W_TAIL = 16
const W_TAIL_CHUNK = 17
const W_WRITER = 18
// Not the writer's alone, but both sides look at it together with the tail: one line less that goes back and forth.
const W_EVENT = 19
const W_HEAD = 32
const W_HEAD_CHUNK = 33
const W_WANT = 48
const W_THRESHOLD = 49
const W_TOLD = 50

/**
 * Largest FIFO in bytes: positions are free-running 32-bit counters, and the
 * distance between two of them must stay unambiguous.
 *
 * @category constants
 * @since 0.1.0
 */
export const MAX_FIFO_BYTES = 2 ** 30

/**
 * 32-bit words of a FIFO's header: four cache lines.
 *
 * @category constants
 * @since 0.1.0
 */
export const HEADER_WORDS = 64

/**
 * Returned when the FIFO holds as many bytes as it may.
 *
 * @category results
 * @since 0.1.0
 */
export const FULL = -2

/**
 * Returned when there is nothing to read.
 *
 * @category results
 * @since 0.1.0
 */
export const EMPTY = -3

/**
 * Returned when the FIFO may hold more, but the segment has no chunk for it.
 *
 * From `enqueue`, and from `enqueueSegments` with `partial`, it means that there
 * are bytes in the FIFO: room comes when the reader takes them. All-or-none
 * calls may get it from an empty FIFO, too, which has room for a part: whoever
 * waits for room writes that part first.
 *
 * @category results
 * @since 0.1.0
 */
export const NO_MEMORY = -4

/**
 * Returned when the shared words make no sense: someone wrote what is not theirs.
 *
 * @category results
 * @since 0.1.0
 */
export const CORRUPT = -5

/**
 * Tell the writer about the next dequeue that leaves at least the threshold
 * free (or nothing at all in the FIFO). Once.
 *
 * @category notifications
 * @since 0.1.0
 */
export const WANT_ROOM = 1

/**
 * Tell the writer whenever a dequeue makes a full FIFO not full.
 *
 * @category notifications
 * @since 0.1.0
 */
export const WANT_IF_FULL = 2

/**
 * Tell the writer whenever a dequeue leaves the FIFO empty.
 *
 * @category notifications
 * @since 0.1.0
 */
export const WANT_IF_EMPTY = 4

/**
 * The end of the FIFO that writes.
 *
 * @category sides
 * @since 0.1.0
 */
export const WRITER = 1

/**
 * The end of the FIFO that reads.
 *
 * @category sides
 * @since 0.1.0
 */
export const READER = 2

/**
 * In `writerState`: the writer has ended the stream behind its last byte. In
 * `readerState`: the reader takes no more bytes.
 *
 * @category states
 * @since 0.1.0
 */
export const OVER = 1

/**
 * In `writerState` and `readerState`: that side has broken the stream off.
 *
 * @category states
 * @since 0.1.0
 */
export const RESET = 2

/**
 * In `writerState` and `readerState`: that side has died.
 *
 * @category states
 * @since 0.1.0
 */
export const GONE = 4

/**
 * One thread's mapping of a FIFO. When writer and reader are in one thread they
 * use the same object, else each has its own, made by `FifoSegment.attachFifo`.
 *
 * **Example** (Bytes in, bytes out)
 *
 * ```ts
 * import * as Fifo from "@cut-through/core/memory/Fifo"
 * import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
 * import { SharedWords } from "@cut-through/core/memory/SharedWords"
 *
 * const options = { size: 1024 * 1024, maxFifos: 16 }
 * const words = new SharedWords(new SharedArrayBuffer(FifoSegment.regionBytes(options)))
 * const fifo = FifoSegment.make(words, options).allocateFifo(3)!
 *
 * fifo.enqueue(Uint8Array.of(1, 2, 3, 4), 0, 4) // => 3
 * fifo.enqueue(Uint8Array.of(4), 0, 1) // => Fifo.FULL
 * const bytes = new Uint8Array(2)
 * fifo.dequeue(bytes, 0, 2) // => 2
 * Array.from(bytes) // => [1, 2]
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class Fifo {
  /** Number of the FIFO in its segment. */
  readonly index: number
  /** Holders of this FIFO, counted by the thread that made the segment. */
  references = 1
  /** The size the maker gave it last: the shared word may say something else. @internal */
  promised: number

  private readonly chunks: ChunkAllocator
  private readonly words: SharedWords
  private readonly at: number
  private corrupt = false
  private limit: number
  private minAlloc: number

  // The writer's. `room` is what is left in the linked chunks from `tail` on.
  private tail = 0
  private headSeen = 0
  private tailChunk: number
  private tailOffset = 0
  private tailBytes: number
  private lastChunk: number
  private room: number
  /** Bytes of the chunks so far, up to a page. Until then as much again is taken: so what is set aside in pages is enough. */
  private taken: number
  /** Whether nothing has been written yet: the first chunk is not even known to be touched. */
  private isPristine = true

  // The reader's.
  private head = 0
  private tailSeen = 0
  private headChunk: number
  private headBytes: number
  private cursorChunk = -1
  private cursorBytes = 0
  private cursorOffset = 0

  private constructor(
    chunks: ChunkAllocator,
    index: number,
    at: number,
    size: number,
    minAlloc: number,
    chunk: number
  ) {
    this.chunks = chunks
    this.words = chunks.words
    this.index = index
    this.at = at
    this.limit = size
    this.promised = size
    this.minAlloc = minAlloc
    const bytes = chunks.bytes(chunk)
    this.tailChunk = chunk
    this.lastChunk = chunk
    this.headChunk = chunk
    this.tailBytes = bytes
    this.headBytes = bytes
    // None, until the writer comes for the first time: so it passes by `grow`, which marks the chunk.
    this.room = 0
    this.taken = bytes
  }

  /** @internal */
  static format(chunks: ChunkAllocator, index: number, at: number, size: number, chunk: number): Fifo {
    const words = chunks.words
    // A quarter of the limit at a time, in whole chunks of at most 64 KiB: few steps, little waste.
    const minAlloc = Math.max(chunks.unitBytes, Math.min(size >>> 2, 65536))
    words.init(at + W_TAIL, 0)
    words.init(at + W_WRITER, 0)
    words.init(at + W_HEAD, 0)
    words.init(at + W_READER, 0)
    words.init(at + W_EVENT, 0)
    for (let word = W_WANT; word <= W_TOLD; word++) words.init(at + word, 0)
    words.init(at + W_SIZE, size)
    words.init(at + W_MIN_ALLOC, minAlloc)
    words.init(at + W_TAIL_CHUNK, chunk + 1)
    words.init(at + W_HEAD_CHUNK, chunk + 1)
    chunks.setStart(chunk, 0)
    // Last, and never zero: only a header with a generation is a FIFO.
    words.store(at + W_GENERATION, (Math.abs(words.peek(at + W_GENERATION)) & 0x3fffffff) + 1)
    return new Fifo(chunks, index, at, size, minAlloc, chunk)
  }

  /** @internal */
  static attach(chunks: ChunkAllocator, index: number, at: number, side: number): Fifo | undefined {
    const words = chunks.words
    const size = words.load(at + W_SIZE)
    // Only the words of the attaching side: the other one may be at work already.
    const chunk = words.load(at + (side === WRITER ? W_TAIL_CHUNK : W_HEAD_CHUNK)) - 1
    const position = words.load(at + (side === WRITER ? W_TAIL : W_HEAD))
    const bytes = chunks.bytes(chunk)
    if (words.load(at + W_GENERATION) <= 0 || size < 1 || size > MAX_FIFO_BYTES || bytes < 0) return undefined
    const minAlloc = Math.min(Math.max(words.load(at + W_MIN_ALLOC), chunks.unitBytes), size)
    const fifo = new Fifo(chunks, index, at, size, minAlloc, chunk)
    if (side === READER) {
      fifo.room = 0
      fifo.head = position
      fifo.tailSeen = position
      return fifo
    }
    fifo.tail = position
    fifo.headSeen = words.load(at + W_HEAD)
    fifo.tailOffset = (position - chunks.start(chunk)) >>> 0
    fifo.room = bytes - fifo.tailOffset
    fifo.isPristine = false
    chunks.touch(chunk, bytes)
    if (fifo.room < 0 || (position - fifo.headSeen) >>> 0 > chunks.size) return undefined
    for (let steps = 0; steps < chunks.units; steps++) {
      const next = chunks.next(fifo.lastChunk)
      if (next === -1) return fifo
      const linked = chunks.bytes(next)
      if (linked < 0) return undefined
      fifo.lastChunk = next
      fifo.room += linked
      fifo.taken += linked
    }
    return undefined
  }

  /** Takes the FIFO out of use and returns the first of its chunks. @internal */
  retire(): number {
    this.words.store(this.at + W_GENERATION, -this.words.peek(this.at + W_GENERATION))
    return this.words.load(this.at + W_HEAD_CHUNK) - 1
  }

  /** @internal */
  resize(size: number): void {
    this.promised = size
    this.limit = size
    this.words.store(this.at + W_SIZE, size)
  }

  /** Most bytes the FIFO holds. */
  get size(): number {
    return this.words.load(this.at + W_SIZE)
  }

  /** Bytes in the FIFO. Exact for the caller's side, a moment's view of the other. */
  get used(): number {
    // The head first: for a third party it would pass a tail read before it.
    const head = this.words.load(this.at + W_HEAD)
    return (this.words.load(this.at + W_TAIL) - head) >>> 0
  }

  /** Bytes the writer may still enqueue, as far as the size limit goes. */
  get free(): number {
    return Math.max(0, this.size - this.used)
  }

  /** Whether the shared words have been found to make no sense. */
  get isCorrupt(): boolean {
    return this.corrupt
  }

  /** The chunk the reader is at. */
  get firstChunk(): number {
    return this.words.load(this.at + W_HEAD_CHUNK) - 1
  }

  /** Chunks in the list, counted now. */
  get chunkCount(): number {
    let count = 0
    for (let chunk = this.firstChunk; chunk >= 0 && count <= this.chunks.units; chunk = this.chunks.next(chunk)) {
      count++
    }
    return count
  }

  // ---------------------------------------------------------------------------
  // writer
  // ---------------------------------------------------------------------------

  /**
   * Enqueues as many of `length` bytes as fit and returns how many, or
   * {@link FULL}, {@link NO_MEMORY} or {@link CORRUPT}.
   */
  enqueue(source: Uint8Array, offset: number, length: number): number {
    const count = this.reserve(length)
    if (count <= 0) return count
    this.put(source, offset, count)
    return this.publish(count)
  }

  /** Enqueues all `length` bytes or none. Returns `length`, or why not. */
  enqueueAll(source: Uint8Array, offset: number, length: number): number {
    const count = this.reserve(length)
    if (count < 0) return count
    if (count < length) return this.whyNotAll(length)
    this.put(source, offset, count)
    return this.publish(count)
  }

  /**
   * Enqueues several pieces as one publication and returns how many bytes,
   * or why none. With `partial` as many bytes as fit, else all or none.
   */
  enqueueSegments(sources: ReadonlyArray<Uint8Array>, partial: boolean): number {
    let total = 0
    for (let i = 0; i < sources.length; i++) total += sources[i].length
    const count = this.reserve(total)
    if (count < 0) return count
    if (count < total && !partial) return this.whyNotAll(total)
    let left = count
    for (let i = 0; left > 0 && !this.corrupt; i++) {
      const source = sources[i]
      const length = Math.min(source.length, left)
      this.put(source, 0, length)
      left -= length
    }
    return this.publish(count)
  }

  /**
   * Lends the writer views of the next `length` free bytes (fewer when there
   * are fewer), to fill in place and publish with `commit`. Empty when there is
   * no room. A claim is only a view: another enqueue uses the same bytes.
   */
  claim(length: number): Array<Uint8Array> {
    const views: Array<Uint8Array> = []
    let left = this.reserve(length)
    let chunk = this.tailChunk
    let bytes = this.tailBytes
    let offset = this.tailOffset
    while (left > 0) {
      const here = Math.min(left, bytes - offset)
      if (here > 0) {
        const start = this.chunks.offset(chunk) + offset
        views.push(this.words.view(start, start + here))
        left -= here
      }
      if (left > 0) {
        chunk = this.chunks.next(chunk)
        bytes = this.chunks.bytes(chunk)
        offset = 0
        if (bytes < 0) {
          this.corrupt = true
          return []
        }
      }
    }
    return views
  }

  /** Publishes the first `length` bytes of the last claim. Returns `length`, or why not. */
  commit(length: number): number {
    const count = this.reserve(length)
    if (count < length) return count < 0 ? count : FULL
    if (count === 0) return 0
    this.advance(count)
    return this.publish(count)
  }

  private whyNotAll(length: number): number {
    return this.limit - ((this.tail - this.headSeen) >>> 0) < length ? FULL : NO_MEMORY
  }

  /** Shows the reader what was written, unless the chunks it went to made no sense. */
  private publish(count: number): number {
    if (this.corrupt) return CORRUPT
    this.words.store(this.at + W_TAIL, this.tail)
    return count
  }

  /** Makes room for up to `length` bytes in linked chunks; returns how many of them can be written. */
  private reserve(length: number): number {
    if (this.corrupt) return CORRUPT
    if (length <= 0) return 0
    if (!this.lookAtSize()) return CORRUPT
    let free = this.limit - ((this.tail - this.headSeen) >>> 0)
    if (free < length) {
      if (!this.lookAtHead()) return CORRUPT
      free = this.limit - ((this.tail - this.headSeen) >>> 0)
      if (free <= 0) return FULL
    }
    const count = length < free ? length : free
    if (this.room < count && !this.grow(count)) return CORRUPT
    if (this.room === 0) return NO_MEMORY
    return count < this.room ? count : this.room
  }

  /** Reads the reader's position; false when it is not between the last one seen and the tail. */
  private lookAtHead(): boolean {
    const head = this.words.load(this.at + W_HEAD)
    if ((head - this.headSeen) >>> 0 > (this.tail - this.headSeen) >>> 0) {
      this.corrupt = true
      return false
    }
    this.headSeen = head
    return true
  }

  /** Reads the limit, which the maker of the FIFO may have changed; false when it cannot be one. */
  private lookAtSize(): boolean {
    // Plainly: one that has just changed may as well be found at the next look.
    const size = this.words.peek(this.at + W_SIZE)
    if (size < 1 || size > MAX_FIFO_BYTES) {
      this.corrupt = true
      return false
    }
    this.limit = size
    return true
  }

  private grow(wanted: number): boolean {
    if (!this.lookAtHead()) return false
    const chunks = this.chunks
    if (this.isPristine) {
      this.isPristine = false
      chunks.touch(this.tailChunk, this.tailBytes)
      this.room = this.tailBytes
    }
    if (this.headSeen === this.tail && this.tailChunk === this.lastChunk && this.tailOffset > 0) {
      // Nobody looks at this chunk until the tail moves again, so its start can.
      chunks.setStart(this.tailChunk, this.tail)
      this.tailOffset = 0
      this.room = this.tailBytes
    }
    while (this.room < wanted) {
      const chunk = chunks.allocate(
        this.taken < PAGE_BYTES ? this.taken : Math.max(wanted - this.room, Math.min(this.minAlloc, this.limit))
      )
      if (chunk < 0) break
      const bytes = chunks.bytes(chunk)
      if (bytes < 0) {
        this.corrupt = true
        return false
      }
      chunks.setStart(chunk, (this.tail + this.room) | 0)
      chunks.setNext(this.lastChunk, chunk)
      this.lastChunk = chunk
      this.room += bytes
      if (this.taken < PAGE_BYTES) this.taken += bytes
      if (this.tailOffset === this.tailBytes) this.enterChunk(chunk, bytes)
    }
    return true
  }

  private put(source: Uint8Array, offset: number, length: number): void {
    let left = length
    while (left > 0) {
      let here = this.tailBytes - this.tailOffset
      if (here <= 0) {
        this.corrupt = true
        return
      }
      if (here > left) here = left
      this.words.copyIn(this.chunks.offset(this.tailChunk) + this.tailOffset, source, offset, offset + here)
      offset += here
      left -= here
      this.advance(here)
      if (this.corrupt) return
    }
  }

  /** Moves the private tail, into the following chunks where it passes the end of one. */
  private advance(length: number): void {
    let left = length
    while (left > 0) {
      const here = Math.min(left, this.tailBytes - this.tailOffset)
      if (here <= 0) {
        this.corrupt = true
        return
      }
      this.tailOffset += here
      this.tail = (this.tail + here) | 0
      this.room -= here
      left -= here
      // Before the tail is published: after that the reader may give the finished chunk back.
      if (this.tailOffset === this.tailBytes && this.tailChunk !== this.lastChunk) {
        const next = this.chunks.next(this.tailChunk)
        const bytes = this.chunks.bytes(next)
        if (bytes < 0) {
          this.corrupt = true
          return
        }
        this.enterChunk(next, bytes)
      }
    }
  }

  private enterChunk(chunk: number, bytes: number): void {
    this.tailChunk = chunk
    this.tailBytes = bytes
    this.tailOffset = 0
    this.words.store(this.at + W_TAIL_CHUNK, chunk + 1)
  }

  // ---------------------------------------------------------------------------
  // reader
  // ---------------------------------------------------------------------------

  /** Bytes the reader can take now, or {@link CORRUPT}. */
  get readable(): number {
    return this.lookAtTail(Infinity) ? (this.tailSeen - this.head) >>> 0 : CORRUPT
  }

  /**
   * Dequeues at most `length` bytes into `target` at `offset` and returns how
   * many, or {@link EMPTY} or {@link CORRUPT}.
   */
  dequeue(target: Uint8Array, offset: number, length: number): number {
    const count = this.look(length, 0)
    if (count <= 0) return count
    const start = this.headOffset()
    const here = this.headBytes - start
    // Nearly always all of it lies in one chunk, with more of that chunk behind it.
    if (start >= 0 && count < here) {
      const from = this.chunks.offset(this.headChunk) + start
      this.words.copyOut(target, offset, from, from + count)
      this.head = (this.head + count) | 0
      this.words.store(this.at + W_HEAD, this.head)
      return count
    }
    return this.copyFrom(0, target, offset, count) ? this.release(count) : CORRUPT
  }

  /**
   * Copies at most `length` bytes, starting `skip` bytes behind the head, and
   * leaves them in the FIFO. Returns how many, or {@link EMPTY} when there are
   * none so far behind, or {@link CORRUPT}.
   */
  peek(skip: number, target: Uint8Array, offset: number, length: number): number {
    const count = this.look(length, skip)
    if (count > 0) return this.copyFrom(skip, target, offset, count) ? count : CORRUPT
    return count
  }

  /** Discards at most `length` bytes and returns how many, or {@link EMPTY} or {@link CORRUPT}. */
  drop(length: number): number {
    const count = this.look(length, 0)
    return count > 0 ? this.release(count) : count
  }

  /** Discards all there is and returns how many bytes that was, or {@link CORRUPT}. */
  dropAll(): number {
    const readable = this.readable
    return readable > 0 ? this.release(readable) : readable
  }

  /**
   * Lends views of at most `length` bytes from the head on, to be read in place
   * and given back with `drop`. Empty when there is nothing to read.
   */
  segments(length: number): Array<Uint8Array> {
    const views: Array<Uint8Array> = []
    let left = this.look(length, 0)
    if (left <= 0 || !this.seek(0)) return views
    while (true) {
      const here = Math.min(left, this.cursorBytes - this.cursorOffset)
      const start = this.chunks.offset(this.cursorChunk) + this.cursorOffset
      views.push(this.words.view(start, start + here))
      left -= here
      if (left === 0) return views
      if (!this.step()) return []
    }
  }

  /** How many of `length` bytes are there, `skip` bytes behind the head. */
  private look(length: number, skip: number): number {
    if (!this.lookAtTail(length + skip)) return CORRUPT
    if (length <= 0) return 0
    const readable = ((this.tailSeen - this.head) >>> 0) - skip
    if (readable <= 0) return EMPTY
    return length < readable ? length : readable
  }

  /** Reads the writer's position unless `enough` bytes are known; false when it cannot be true. */
  private lookAtTail(enough: number): boolean {
    if (this.corrupt) return false
    const seen = (this.tailSeen - this.head) >>> 0
    if (seen >= enough) return true
    const tail = this.words.load(this.at + W_TAIL)
    const readable = (tail - this.head) >>> 0
    if (readable < seen || readable > this.chunks.size) {
      this.corrupt = true
      return false
    }
    this.tailSeen = tail
    return true
  }

  private copyFrom(skip: number, target: Uint8Array, offset: number, length: number): boolean {
    if (!this.seek(skip)) return false
    let at = offset
    const end = offset + length
    while (true) {
      const here = Math.min(end - at, this.cursorBytes - this.cursorOffset)
      const start = this.chunks.offset(this.cursorChunk) + this.cursorOffset
      this.words.copyOut(target, at, start, start + here)
      at += here
      if (at === end) return true
      if (!this.step()) return false
    }
  }

  /** Puts the cursor `skip` bytes behind the head, where there is a byte; false when the list is broken. */
  private seek(skip: number): boolean {
    this.cursorChunk = this.headChunk
    this.cursorBytes = this.headBytes
    this.cursorOffset = this.headOffset()
    if (this.cursorOffset < 0) return false
    let left = this.cursorOffset + skip
    while (left >= this.cursorBytes) {
      left -= this.cursorBytes
      if (!this.step()) return false
    }
    this.cursorOffset = left
    return true
  }

  /** Moves the cursor to the start of the next chunk. */
  private step(): boolean {
    this.cursorChunk = this.chunks.next(this.cursorChunk)
    this.cursorBytes = this.chunks.bytes(this.cursorChunk)
    this.cursorOffset = 0
    if (this.cursorBytes < 0) this.corrupt = true
    return this.cursorBytes > 0
  }

  /** Where the head is in its chunk, or -1 when the chunk cannot start where it says. */
  private headOffset(): number {
    const offset = (this.head - this.chunks.start(this.headChunk)) >>> 0
    if (offset <= this.headBytes) return offset
    this.corrupt = true
    return -1
  }

  /** Moves the head, publishes it, then gives back the chunks left behind. */
  private release(length: number): number {
    const chunks = this.chunks
    const first = this.headChunk
    let inChunk = this.headOffset()
    if (inChunk < 0) return CORRUPT
    inChunk += length
    // A finished chunk is left only for one that is linked behind it: the last chunk stays.
    while (inChunk >= this.headBytes) {
      const next = chunks.next(this.headChunk)
      if (next === -1 && inChunk === this.headBytes) break
      const bytes = chunks.bytes(next)
      if (bytes < 0) {
        this.corrupt = true
        return CORRUPT
      }
      inChunk -= this.headBytes
      this.headChunk = next
      this.headBytes = bytes
    }
    this.head = (this.head + length) | 0
    this.words.store(this.at + W_HEAD, this.head)
    if (first !== this.headChunk) this.giveBack(first)
    return length
  }

  private giveBack(first: number): void {
    this.words.store(this.at + W_HEAD_CHUNK, this.headChunk + 1)
    let chunk = first
    // A list that somebody keeps making a circle of is no longer than all chunks there are.
    for (let most = this.chunks.units; chunk !== this.headChunk; most--) {
      const next = this.chunks.next(chunk)
      if (most === 0 || next < 0 || !this.chunks.release(chunk)) {
        this.corrupt = true
        return
      }
      chunk = next
    }
  }

  // ---------------------------------------------------------------------------
  // events
  // ---------------------------------------------------------------------------

  /** Called by the writer after publishing: true when the reader has to be told. */
  setEvent(): boolean {
    // Looked at first: while it is set, its line can stay with the other side.
    return this.words.load(this.at + W_EVENT) === 0 && this.words.exchange(this.at + W_EVENT, 1) === 0
  }

  /** For the reader: whether the writer has published something since it has last looked. */
  get hasMoved(): boolean {
    return this.words.load(this.at + W_TAIL) !== this.tailSeen
  }

  /** The same for a tenth of the price, for who looks again and again: it may be wrong for a moment. */
  get seemsMoved(): boolean {
    return this.words.peek(this.at + W_TAIL) !== this.tailSeen
  }

  /** Called by the reader before it looks: from now on the writer tells it again. */
  unsetEvent(): void {
    this.words.store(this.at + W_EVENT, 0)
  }

  /** Whether the reader has been told and has not looked yet. */
  get hasEvent(): boolean {
    return this.words.load(this.at + W_EVENT) !== 0
  }

  /**
   * Called by the writer: asks to be told about dequeues, in addition to what
   * it asked before. With {@link WANT_ROOM}, `threshold` is how many bytes must
   * be free. The writer looks for room once more afterwards, then waits.
   */
  wantDequeueNotification(want: number, threshold = 1): void {
    if ((want & WANT_ROOM) !== 0) this.words.store(this.at + W_THRESHOLD, threshold)
    this.words.or(this.at + W_WANT, want)
  }

  /** Withdraws requests. */
  unwantDequeueNotification(want: number): void {
    this.words.and(this.at + W_WANT, ~want)
  }

  /** Whether any of these requests is still unanswered. */
  isWanted(want: number): boolean {
    return (this.words.load(this.at + W_WANT) & want) !== 0
  }

  /** Called by the reader after it has dequeued `length` bytes: true when the writer has to be told. */
  needsDequeueNotification(length: number): boolean {
    const want = this.words.load(this.at + W_WANT)
    if (want === 0 || length <= 0) return false
    const used = (this.words.load(this.at + W_TAIL) - this.head) >>> 0
    const limit = this.words.load(this.at + W_SIZE)
    if ((want & WANT_ROOM) !== 0 && (used === 0 || limit - used >= this.words.load(this.at + W_THRESHOLD))) {
      return true
    }
    if (this.words.load(this.at + W_TOLD) !== 0) return false
    if ((want & WANT_IF_FULL) !== 0 && used < limit && used + length >= limit) return true
    return (want & WANT_IF_EMPTY) !== 0 && used === 0
  }

  /** Called by the reader just before it tells the writer: one-shot requests are done with. */
  clearDequeueNotification(): void {
    const before = this.words.and(this.at + W_WANT, ~WANT_ROOM)
    if ((before & (WANT_IF_FULL | WANT_IF_EMPTY)) !== 0) this.words.store(this.at + W_TOLD, 1)
  }

  /** Called by the writer when it has been told: standing requests are armed again. */
  rearmDequeueNotification(): void {
    this.words.store(this.at + W_TOLD, 0)
  }

  // ---------------------------------------------------------------------------
  // ends
  // ---------------------------------------------------------------------------

  /** Called by the writer after its last byte: the reader sees the end behind it. */
  end(): void {
    this.words.or(this.at + W_WRITER, OVER)
  }

  /**
   * What has become of the writer, in one look: bits {@link OVER}, {@link RESET}
   * and {@link GONE}. Look at `readable` again afterwards: bytes come first.
   */
  get writerState(): number {
    return this.words.load(this.at + W_WRITER)
  }

  /** Whether the writer has ended the stream. Look at `readable` again afterwards: bytes come first. */
  get isEnded(): boolean {
    return (this.writerState & OVER) !== 0
  }

  /** Called by the reader: it takes no more bytes. */
  stop(): void {
    this.words.or(this.at + W_READER, OVER)
  }

  /** What has become of the reader, in one look: bits {@link OVER}, {@link RESET} and {@link GONE}. */
  get readerState(): number {
    return this.words.load(this.at + W_READER)
  }

  /** Whether the reader takes no more bytes. */
  get isStopped(): boolean {
    return (this.readerState & OVER) !== 0
  }

  /** Called by either side ({@link WRITER}, {@link READER}): breaks the stream off at once. */
  reset(side: number): void {
    this.mark(side, RESET)
  }

  /** Whether the given side has broken the stream off. */
  isResetBy(side: number): boolean {
    return (this.stateOf(side) & RESET) !== 0
  }

  /** Called on behalf of a side that has died. What it had published can still be read. */
  markGone(side: number): void {
    this.mark(side, GONE)
  }

  /** Whether the given side has died. */
  isGone(side: number): boolean {
    return (this.stateOf(side) & GONE) !== 0
  }

  private mark(side: number, bits: number): void {
    this.words.or(this.at + (side === WRITER ? W_WRITER : W_READER), bits)
  }

  private stateOf(side: number): number {
    return side === WRITER ? this.writerState : this.readerState
  }
}
