/**
 * Bytes that say where they belong, so that a misplaced one names its position.
 *
 * Each position of the pattern has its byte, and any eight bytes in a row are
 * those of hardly any other place near them. So who finds them somewhere else
 * can tell what has been lost, repeated or swapped.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"

/** How far away a misplaced byte is looked for. */
const REACH = 1024 * 1024

/** How many bytes in a row tell a place. */
const WINDOW = 8

/** How many bytes of the surroundings are shown. */
const CONTEXT = 8

const byteAt = (position: number): number => {
  let x = Math.imul(position + 1, 0x9e3779b1)
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b)
  return (x >>> 24) & 0xff
}

/**
 * The bytes of the pattern from a position on.
 *
 * **Example** (In pieces or at once)
 *
 * ```ts
 * import { Bytes } from "@cut-through/testing"
 *
 * const whole = Bytes.pattern(1000)
 * Bytes.pattern(400, 600) // => whole.slice(600)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const pattern = (length: number, from = 0): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = byteAt(from + i)
  return bytes
}

/**
 * A byte that is not the one of the pattern.
 *
 * @category models
 * @since 0.1.0
 */
export interface Misplaced {
  /** Where it is, in bytes from the start of the pattern. */
  readonly position: number
  /** Where it belongs, if the bytes from it on are those of a place at most 1 MiB away. */
  readonly belongsAt: number | undefined
  readonly actual: number
  readonly expected: number
}

/**
 * The first byte that is not the one of the pattern from a position on, if there
 * is any.
 *
 * **Example** (Ten bytes were lost)
 *
 * ```ts
 * import { Bytes } from "@cut-through/testing"
 *
 * const whole = Bytes.pattern(1000)
 * const received = [...whole.subarray(0, 100), ...whole.subarray(110)]
 *
 * Bytes.misplaced(Uint8Array.from(received))?.position // => 100
 * Bytes.misplaced(Uint8Array.from(received))?.belongsAt // => 110
 * Bytes.misplaced(whole) // => undefined
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const misplaced = (bytes: Uint8Array, from = 0): Misplaced | undefined => {
  for (let i = 0; i < bytes.length; i++) {
    const expected = byteAt(from + i)
    if (bytes[i] === expected) continue
    const position = from + i
    return { position, belongsAt: placeOf(bytes.subarray(i, i + WINDOW), position), actual: bytes[i], expected }
  }
  return undefined
}

/** The nearest other place that these bytes are from. */
const placeOf = (bytes: Uint8Array, position: number): number | undefined => {
  if (bytes.length < WINDOW) return undefined
  const isAt = (place: number) => place >= 0 && bytes.every((byte, i) => byte === byteAt(place + i))
  for (let distance = 1; distance <= REACH; distance++) {
    if (isAt(position + distance)) return position + distance
    if (isAt(position - distance)) return position - distance
  }
  return undefined
}

/**
 * Bytes that are not those of the pattern.
 *
 * @category errors
 * @since 0.1.0
 */
export class MisplacedError extends Data.TaggedError("MisplacedError")<{
  /** The first wrong byte; nothing when it is only the number of bytes that is wrong. */
  readonly misplaced: Misplaced | undefined
  readonly message: string
}> {}

const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ")

/**
 * Throws a {@link MisplacedError} unless the bytes are those of the pattern from
 * a position on, and as many as they should be. It says where the first wrong
 * byte is, where that belongs, and what is around it.
 *
 * **Example** (Ten bytes came twice)
 *
 * ```ts
 * import { Bytes } from "@cut-through/testing"
 *
 * const whole = Bytes.pattern(1000)
 * const received = Uint8Array.from([...whole.subarray(0, 100), ...whole.subarray(90)])
 * let message = ""
 * try {
 *   Bytes.assertPattern(received)
 * } catch (error) {
 *   message = (error as Error).message
 * }
 *
 * message.split("\n")[0] // => "byte 100 is wrong: here begins what belongs at 90, 10 bytes too late"
 * ```
 *
 * @category assertions
 * @since 0.1.0
 */
export const assertPattern = (
  bytes: Uint8Array,
  options: {
    /** The position of the first byte. Default 0. */
    readonly from?: number | undefined
    /** How many there should be. Default: as many as there are. */
    readonly length?: number | undefined
  } = {}
): void => {
  const { from = 0, length = bytes.length } = options
  const first = misplaced(bytes, from)
  if (first !== undefined) {
    const { actual, belongsAt, expected, position } = first
    const start = Math.max(0, position - from - CONTEXT)
    const around = bytes.subarray(start, position - from + CONTEXT)
    const what =
      belongsAt === undefined
        ? `it is ${actual}, not ${expected}`
        : `here begins what belongs at ${belongsAt}, ${Math.abs(position - belongsAt)} bytes too ${belongsAt < position ? "late" : "early"}`
    throw new MisplacedError({
      misplaced: first,
      message: [
        `byte ${position} is wrong: ${what}`,
        `  there are, from ${from + start} on:    ${hex(around)}`,
        `  there should be, from ${from + start}: ${hex(pattern(around.length, from + start))}`,
        `  of ${bytes.length} bytes from ${from} on`
      ].join("\n")
    })
  }
  if (bytes.length !== length) {
    throw new MisplacedError({
      misplaced: undefined,
      message: `there are ${bytes.length} bytes from ${from} on, not ${length}: those there are, are right`
    })
  }
}
