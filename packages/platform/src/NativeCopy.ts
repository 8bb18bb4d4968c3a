/**
 * Copies into and out of shared memory at the speed of `memmove`.
 *
 * V8 copies to and from a `SharedArrayBuffer` word by word when asked through
 * `TypedArray.prototype.set`; `Buffer.prototype.copy` moves memory natively, but
 * (on Node 22 and 24) only when it copies a part of its source. So a whole
 * source is copied but for its last byte, which is stored by hand.
 *
 * **The alignment cliff.** On some processors a native copy of 4 KiB or more
 * takes 15 to 20 times as long when destination and source lie within about 28
 * bytes of each other modulo 4096. JavaScript cannot see addresses, so the copy
 * is timed now and then: what turns out slow is copied in pieces of 2 KiB,
 * which never are, for as long as that offset stays slow.
 *
 * @since 0.1.0
 */
import type { Copy } from "@cut-through/core/memory/SharedWords"
import { portableCopy } from "@cut-through/core/memory/SharedWords"
import { Buffer } from "node:buffer"

/** Below this a call into native code costs more than the bytes. Measured on Node 22, 24 and 26. */
const NATIVE_BYTES = 32
/** From here on a copy can fall off the cliff. */
const CLIFF_BYTES = 4096
/** Pieces of this size never do. */
const PIECE_BYTES = 2048
/** One in so many large copies is timed: 60 ns shared by sixteen copies of 80 ns or more. */
const SAMPLE_EVERY = 16
/** Slower than this per byte (5 GB/s) is the cliff: memory is faster than that, the cliff is at 2 GB/s. */
const SLOW_NANOS_PER_BYTE = 0.2
/** Copies in pieces before a native one is tried again at the same offset. */
const PATIENCE = 255
const PAGE = 4096

const copyNative: (
  this: Uint8Array,
  target: Uint8Array,
  targetStart: number,
  sourceStart: number,
  sourceEnd: number
) => number = Buffer.prototype.copy

const move: Copy = (target, targetStart, source, sourceStart, sourceEnd) => {
  if (sourceStart === 0 && sourceEnd === source.length) {
    const last = sourceEnd - 1
    target[targetStart + last] = source[last]
    copyNative.call(source, target, targetStart, 0, last)
  } else {
    copyNative.call(source, target, targetStart, sourceStart, sourceEnd)
  }
}

/**
 * A native copy that stays clear of the alignment cliff. `now` tells the time
 * in nanoseconds.
 *
 * **Example** (A copy)
 *
 * ```ts
 * import * as NativeCopy from "@cut-through/platform/NativeCopy"
 *
 * const target = new Uint8Array(new SharedArrayBuffer(64))
 * NativeCopy.copy(target, 0, new Uint8Array(64).fill(7), 0, 64)
 * target.every((byte) => byte === 7) // => true
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (now: () => number, move: Copy): Copy => {
  // For each offset modulo a page: how many more copies are made in pieces.
  const inPieces = new Uint8Array(PAGE)
  let untilSample = SAMPLE_EVERY

  return (target, targetStart, source, sourceStart, sourceEnd) => {
    const length = sourceEnd - sourceStart
    if (length < NATIVE_BYTES) return portableCopy(target, targetStart, source, sourceStart, sourceEnd)
    if (length < CLIFF_BYTES) return move(target, targetStart, source, sourceStart, sourceEnd)
    const offset = (target.byteOffset + targetStart - source.byteOffset - sourceStart) & (PAGE - 1)
    if (inPieces[offset] > 0) {
      inPieces[offset]--
      let at = sourceStart
      while (at < sourceEnd) {
        const end = Math.min(at + PIECE_BYTES, sourceEnd)
        move(target, targetStart + at - sourceStart, source, at, end)
        at = end
      }
    } else if (--untilSample > 0) {
      move(target, targetStart, source, sourceStart, sourceEnd)
    } else {
      untilSample = SAMPLE_EVERY
      const start = now()
      move(target, targetStart, source, sourceStart, sourceEnd)
      if (now() - start > length * SLOW_NANOS_PER_BYTE + 500) inPieces[offset] = PATIENCE
    }
  }
}

/**
 * The native copy, timed by the process's high-resolution clock.
 *
 * @category copies
 * @since 0.1.0
 */
export const copy: Copy = make(() => performance.now() * 1e6, move)
