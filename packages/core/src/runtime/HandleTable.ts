/**
 * Values under handles that never come to mean something else.
 *
 * A handle is an index and a generation. Removing a value retires its handle:
 * the index is used again, under another generation, so a stale handle finds
 * nothing instead of a stranger.
 *
 * @since 0.1.0
 */

const INDEX_BITS = 20
const INDEX_LIMIT = 2 ** INDEX_BITS
// `&` takes the low 32 bits of any integer, so it is right for handles far beyond them, and much faster than `%`.
const INDEX_MASK = INDEX_LIMIT - 1

/**
 * Names a value of one table: index in the low 20 bits, generation above.
 *
 * @category models
 * @since 0.1.0
 */
export type Handle = number

/**
 * The handle that no table ever gives out.
 *
 * @category constants
 * @since 0.1.0
 */
export const NONE: Handle = 0

/**
 * The place of a handle in its table: what people see in listings.
 *
 * @category conversions
 * @since 0.1.0
 */
export const indexOf = (handle: Handle): number => handle & INDEX_MASK

/**
 * A table of at most 1,048,576 values. Adding, finding and removing cost the
 * same however many there are; indexes given back are used again first.
 *
 * **Example** (A stale handle finds nothing)
 *
 * ```ts
 * import { HandleTable } from "@cut-through/core/runtime/HandleTable"
 *
 * const table = new HandleTable<string>()
 * const first = table.add("first")
 * table.remove(first) // => "first"
 * const second = table.add("second")
 * table.get(first) // => undefined
 * table.get(second) // => "second"
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class HandleTable<A> {
  private readonly values: Array<A | undefined> = []
  private readonly generations: Array<number> = []
  private readonly free: Array<number> = []
  private count = 0

  /** Values in the table. */
  get size(): number {
    return this.count
  }

  /** Puts a value in the table. Throws a `RangeError` when it is full. */
  add(value: A): Handle {
    let index = this.free.pop()
    if (index === undefined) {
      index = this.values.length
      if (index === INDEX_LIMIT) throw new RangeError(`more than ${INDEX_LIMIT} values in one table`)
      this.values.push(undefined)
      this.generations.push(0)
    }
    const generation = this.generations[index] + 1
    this.generations[index] = generation
    this.values[index] = value
    this.count++
    return generation * INDEX_LIMIT + index
  }

  /** The value under a handle, if it is still there. */
  get(handle: Handle): A | undefined {
    const index = handle & INDEX_MASK
    return this.generations[index] * INDEX_LIMIT + index === handle ? this.values[index] : undefined
  }

  /** Takes the value under a handle out of the table, once. */
  remove(handle: Handle): A | undefined {
    const value = this.get(handle)
    if (value === undefined) return undefined
    const index = handle & INDEX_MASK
    this.values[index] = undefined
    this.free.push(index)
    this.count--
    return value
  }

  /** The values, by index. */
  *[Symbol.iterator](): IterableIterator<A> {
    for (const value of this.values) {
      if (value !== undefined) yield value
    }
  }
}
