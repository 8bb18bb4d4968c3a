/**
 * The one door to memory that another thread may be using at the same moment.
 *
 * Every shared word that a FIFO, a chunk allocator or a doorbell reads or
 * writes, and every byte copied into or out of shared memory, goes through a
 * `SharedWords`. Code above it is deterministic given what it reads here, so a
 * test that passes its own `SharedWords` decides every interleaving, records
 * every access, or stops a thread between any two of them.
 *
 * All words are 32-bit integers, one width only and never aliased by payload
 * bytes: mixed-size access is where the memory model of JavaScript gives no
 * guarantee. Where another thread may have the memory mapped they are accessed
 * with `Atomics`, but for `peek` and `init`, which are for words that nobody
 * else changes or looks at, and for hints.
 *
 * @since 0.1.0
 */

/**
 * Copies `source[sourceStart, sourceEnd)` to `target` at `targetStart`.
 *
 * The ranges are inside both arrays and do not overlap: callers check.
 *
 * @category models
 * @since 0.1.0
 */
export type Copy = (
  target: Uint8Array,
  targetStart: number,
  source: Uint8Array,
  sourceStart: number,
  sourceEnd: number
) => void

/**
 * The copy that works on every JavaScript engine: a byte loop up to 24 bytes,
 * where a call costs more than the bytes, `TypedArray.prototype.set` above.
 *
 * On Node 22 and 24 `set` is three to four times slower than a native copy
 * when one side is a `SharedArrayBuffer`; `@cut-through/platform` brings that.
 *
 * **Example** (Copying a range)
 *
 * ```ts
 * import { portableCopy } from "@cut-through/core/memory/SharedWords"
 *
 * const target = new Uint8Array(4)
 * portableCopy(target, 1, Uint8Array.of(7, 8, 9), 1, 3)
 * Array.from(target) // => [0, 8, 9, 0]
 * ```
 *
 * @category copies
 * @since 0.1.0
 */
export const portableCopy: Copy = (target, targetStart, source, sourceStart, sourceEnd) => {
  const length = sourceEnd - sourceStart
  if (length <= 24) {
    for (let i = 0; i < length; i++) target[targetStart + i] = source[sourceStart + i]
  } else if (length === source.length) {
    target.set(source, targetStart)
  } else {
    target.set(source.subarray(sourceStart, sourceEnd), targetStart)
  }
}

const ZEROS = new Uint8Array(16384)

/**
 * Atomic words and byte copies over one region of memory.
 *
 * Words are addressed by index (4 bytes each), bytes by offset from the start
 * of the region. `Atomics` operations on a plain `ArrayBuffer` behave the same
 * within one thread, so a region need not be a `SharedArrayBuffer`.
 *
 * A test replaces it by a subclass, or by any object of the same shape.
 *
 * **Example** (Words and bytes of one region)
 *
 * ```ts
 * import { SharedWords } from "@cut-through/core/memory/SharedWords"
 *
 * const memory = new SharedWords(new SharedArrayBuffer(64))
 * memory.store(0, 41)
 * memory.add(0, 1) // => 41
 * memory.load(0) // => 42
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class SharedWords {
  /** The memory itself, to be handed to another thread. */
  readonly buffer: ArrayBufferLike
  /**
   * Whether other threads may have the memory mapped. Where none has, nothing need
   * be atomic, which costs some times as much. Default true.
   */
  isShared = true
  private readonly words: Int32Array
  private readonly bytes: Uint8Array
  private readonly copy: Copy

  constructor(buffer: ArrayBufferLike, copy: Copy = portableCopy) {
    this.buffer = buffer
    this.words = new Int32Array(buffer, 0, Math.floor(buffer.byteLength / 4))
    this.bytes = new Uint8Array(buffer)
    this.copy = copy
  }

  /** Bytes in the region. */
  get byteLength(): number {
    return this.bytes.length
  }

  /** Reads a word. */
  load(word: number): number {
    return this.isShared ? Atomics.load(this.words, word) : this.words[word]
  }

  /** Writes a word. */
  store(word: number, value: number): void {
    if (this.isShared) Atomics.store(this.words, word, value)
    else this.words[word] = value
  }

  /**
   * Reads a word plainly, for a tenth of what `load` costs: where nobody else
   * writes it, or where an old value does no harm because an atomic operation
   * decides.
   */
  peek(word: number): number {
    return this.words[word]
  }

  /** Writes a word plainly, for a tenth of what `store` costs: where nobody else looks at it yet. */
  init(word: number, value: number): void {
    this.words[word] = value
  }

  /** Adds to a word and returns what it held before. */
  add(word: number, value: number): number {
    if (this.isShared) return Atomics.add(this.words, word, value)
    const before = this.words[word]
    this.words[word] = before + value
    return before
  }

  /** Sets bits of a word and returns what it held before. */
  or(word: number, bits: number): number {
    if (this.isShared) return Atomics.or(this.words, word, bits)
    const before = this.words[word]
    this.words[word] = before | bits
    return before
  }

  /** Keeps only the given bits of a word and returns what it held before. */
  and(word: number, bits: number): number {
    if (this.isShared) return Atomics.and(this.words, word, bits)
    const before = this.words[word]
    this.words[word] = before & bits
    return before
  }

  /** Replaces a word and returns what it held before. */
  exchange(word: number, value: number): number {
    if (this.isShared) return Atomics.exchange(this.words, word, value)
    const before = this.words[word]
    this.words[word] = value
    return before
  }

  /** Copies private bytes into the region at byte offset `targetStart`. */
  copyIn(targetStart: number, source: Uint8Array, sourceStart: number, sourceEnd: number): void {
    this.copy(this.bytes, targetStart, source, sourceStart, sourceEnd)
  }

  /** Copies bytes `[sourceStart, sourceEnd)` of the region into private memory. */
  copyOut(target: Uint8Array, targetStart: number, sourceStart: number, sourceEnd: number): void {
    this.copy(target, targetStart, this.bytes, sourceStart, sourceEnd)
  }

  /** A view of bytes `[start, end)`: no copy, so what it shows can change. */
  view(start: number, end: number): Uint8Array {
    return this.bytes.subarray(start, end)
  }

  /** Fills bytes `[start, end)` with zeros. */
  zero(start: number, end: number): void {
    // By copying: `fill` stores to shared memory byte by byte.
    for (let at = start; at < end; at += ZEROS.length) {
      this.copy(this.bytes, at, ZEROS, 0, Math.min(ZEROS.length, end - at))
    }
  }
}
