/** What a test and the threads it starts share. Threads load it without Vitest, so nothing here imports that. */

/** Bytes with no order in them: where two pieces of a stream look alike, one of them is not where it belongs. */
const PERIOD = 262_139
const pattern = new Uint8Array(PERIOD + 128 * 1024)

export const random = (seed: number): ((limit: number) => number) => {
  let state = seed | 0
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}

const next = random(1)
for (let i = 0; i < PERIOD; i++) pattern[i] = next(256)
pattern.copyWithin(PERIOD, 0, pattern.length - PERIOD)

/** What belongs at a position of the stream: at most 128 KiB. */
export const streamAt = (position: number, length: number): Uint8Array =>
  pattern.subarray(position % PERIOD, (position % PERIOD) + length)

/**
 * A word for each side, which is changed to wake it. Who waits has read it before it looked, so a ring that comes in
 * between is not missed.
 */
export const WRITER_BELL = 0
export const READER_BELL = 16

export const ring = (bells: Int32Array, bell: number): void => {
  Atomics.add(bells, bell, 1)
  Atomics.notify(bells, bell)
}

export interface FifoTask {
  readonly buffer: SharedArrayBuffer
  readonly bells: Int32Array
  readonly index: number
  readonly isWriter: boolean
  readonly seed: number
  /** Bytes to write; `Infinity` writes until the thread is stopped. */
  readonly total: number
  /** Bytes moved at once, at most. */
  readonly most: number
  /** The reader tells when it has read so many. */
  readonly tellAt: number
}

export interface FifoReport {
  readonly bytes: number
  readonly waits: number
  readonly isEnd: boolean
}

export interface ChunkTask {
  readonly buffer: SharedArrayBuffer
  readonly id: number
  readonly seed: number
  readonly operations: number
  /** A word that all threads wait for, so that they start at once. */
  readonly start: Int32Array
}

export interface ChunkReport {
  readonly allocated: number
  readonly failed: number
}
