/**
 * What is sent, and how a receiver knows that it is that.
 */

/** Largest write. */
const MOST_BYTES = 2 ** 20
const PAGE = 4096

/** Bytes with no order in them: where two pieces of a stream look alike, one of them is not where it belongs. */
const PERIOD = 65_521
const pattern = new Uint8Array(PERIOD + MOST_BYTES)
for (let i = 0, state = 1; i < pattern.length; i++) {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
  pattern[i] = i < PERIOD ? state >>> 24 : pattern[i - PERIOD]
}

/** A stream of so many writes of so many bytes. */
export interface Bulk {
  readonly bytes: number
  readonly writes: number
  /** Whether every write differs and every byte is compared; else the same bytes are written again and again. */
  readonly isVerified: boolean
  /** Whether the buffers begin at every offset within a page, in turn. */
  readonly isAnyAlignment: boolean
}

/** Where in its page the n-th buffer begins: each offset once in as many buffers as a page has bytes. */
export const alignmentOf = ({ isAnyAlignment }: Bulk, n: number): number => (isAnyAlignment ? (n * 1021) % PAGE : 0)

/** Makes the writes of a stream, one after another. */
export const source = (bulk: Bulk): ((n: number) => Uint8Array) => {
  const { bytes, isAnyAlignment, isVerified } = bulk
  if (isVerified) {
    return (n) => {
      const start = (n * bytes) % PERIOD
      return pattern.subarray(start, start + bytes)
    }
  }
  if (isAnyAlignment) return (n) => pattern.subarray(alignmentOf(bulk, n), alignmentOf(bulk, n) + bytes)
  const chunk = pattern.slice(0, bytes)
  return () => chunk
}

/** Throws unless `count` bytes that came behind `position` others are what was sent there. */
export const check = (bulk: Bulk, position: number, received: Uint8Array, count: number): void => {
  if (bulk.isVerified) {
    const start = position % PERIOD
    if (Buffer.compare(received.subarray(0, count), pattern.subarray(start, start + count)) !== 0) fail(position)
  } else {
    checkByte(bulk, position, received[0])
    checkByte(bulk, position + count - 1, received[count - 1])
  }
}

const checkByte = (bulk: Bulk, position: number, byte: number): void => {
  const n = Math.floor(position / bulk.bytes)
  if (pattern[alignmentOf(bulk, n) + position - n * bulk.bytes] !== byte) fail(position)
}

const fail = (position: number): never => {
  throw new Error(`what came behind ${position} bytes is not what was sent`)
}

export const MESSAGE_BYTES = 64

/** Says which message this is, at both of its ends. */
export const stamp = (message: Uint8Array, n: number): void => {
  message[0] = n
  message[MESSAGE_BYTES - 1] = n >>> 8
}

/** Throws unless it is this message. */
export const checkStamp = (message: Uint8Array, n: number): void => {
  if (message[0] !== (n & 255) || message[MESSAGE_BYTES - 1] !== ((n >>> 8) & 255)) {
    throw new Error(`the answer to message ${n} is not what was sent`)
  }
}
