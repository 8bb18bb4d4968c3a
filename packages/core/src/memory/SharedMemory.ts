/**
 * Where segments get their memory from.
 *
 * A region is a piece of memory that can be handed to other threads: all zeros,
 * or zeros and the empty tables that its last owner has left for the next.
 * Dropping a `SharedArrayBuffer` frees nothing soon (V8 feels no pressure from
 * it), so released regions are kept in a bounded pool, zeroed where they were
 * written, and used again.
 *
 * The interface says nothing about how memory is shared: a region over memory
 * mapped by other means, which is not a `SharedArrayBuffer`, fits behind it.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as SessionError from "../SessionError.ts"
import { type Copy, portableCopy, SharedWords } from "./SharedWords.ts"

/**
 * A piece of memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Region {
  readonly words: SharedWords
  /**
   * Set by an owner who gives it back: what it has left in it, which is empty and
   * can serve again as it is. All else in the region is zero.
   */
  blank?: { readonly touchedRanges: () => Iterable<readonly [start: number, end: number]> } | undefined
}

/**
 * How much memory is where.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Regions in use. */
  readonly regions: number
  /** Bytes in regions in use. */
  readonly bytes: number
  /** Released regions kept for the next allocation. */
  readonly pooledRegions: number
  /** Bytes in pooled regions. */
  readonly pooledBytes: number
}

/**
 * The service that allocates and releases regions.
 *
 * **Example** (Allocating a region)
 *
 * ```ts
 * import { SharedMemory } from "@cut-through/core/memory/SharedMemory"
 * import * as Memory from "@cut-through/core/memory/SharedMemory"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const memory = yield* SharedMemory
 *   const region = yield* memory.allocate(1024 * 1024)
 *   region.words.store(0, 1)
 *   memory.release(region, [[0, 4]])
 *   return memory.stats()
 * })
 *
 * const stats = await Effect.runPromise(program.pipe(Effect.provide(Memory.layer)))
 * stats.regions // => 0
 * stats.pooledRegions // => 1
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class SharedMemory extends Context.Service<
  SharedMemory,
  {
    /** A zeroed region of exactly `bytes` bytes; fails with `AllocFailed`. */
    readonly allocate: (bytes: number) => Effect.Effect<Region, SessionError.SessionError>
    /**
     * The same at once, with what its last owner has left `blank`; or nothing,
     * when getting one takes time or fails: then `allocate` says what is the
     * matter.
     */
    readonly tryAllocate: (bytes: number) => Region | undefined
    /** Takes a region back. `touched` are the byte ranges that may hold something. */
    readonly release: (region: Region, touched: ReadonlyArray<readonly [start: number, end: number]>) => void
    /** How much memory is where, now. */
    readonly stats: () => Stats
  }
>()("@cut-through/core/memory/SharedMemory") {}

/**
 * The copy that regions use. The default works everywhere; on Node,
 * `@cut-through/platform` brings one that is several times faster.
 *
 * @category services
 * @since 0.1.0
 */
export const CopyBytes: Context.Reference<Copy> = Context.Reference<Copy>(
  "@cut-through/core/memory/SharedMemory/CopyBytes",
  { defaultValue: () => portableCopy }
)

const DEFAULT_POOL_BYTES = 512 * 1024 * 1024

/**
 * Regions over `SharedArrayBuffer`s, with a pool of at most `poolSize`
 * (default 512 MiB) for released ones. A region that does not fit in the pool
 * is left to the garbage collector.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: { readonly poolSize?: ByteSize.Input | undefined } = {}
): Effect.Effect<SharedMemory["Service"]> =>
  Effect.map(CopyBytes, (copy) => {
    const poolLimit =
      options.poolSize === undefined ? DEFAULT_POOL_BYTES : Number(ByteSize.fromInputUnsafe(options.poolSize))
    const pool = new Map<number, Array<Region>>()
    let regions = 0
    let bytes = 0
    let pooledRegions = 0
    let pooledBytes = 0

    const take = (byteLength: number): Region | undefined => {
      const region = pool.get(byteLength)?.pop()
      if (region !== undefined) {
        pooledRegions--
        pooledBytes -= byteLength
      }
      return region
    }

    const obtain = (byteLength: number): Region => {
      const region = take(byteLength) ?? {
        words: new SharedWords(new SharedArrayBuffer(byteLength), copy)
      }
      regions++
      bytes += byteLength
      return region
    }

    return SharedMemory.of({
      allocate: (byteLength) =>
        Effect.try({
          try: () => {
            const region = obtain(byteLength)
            for (const [start, end] of region.blank?.touchedRanges() ?? []) region.words.zero(start, end)
            region.blank = undefined
            return region
          },
          catch: (cause) =>
            SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: byteLength, cause }))
        }),
      tryAllocate(byteLength) {
        try {
          return obtain(byteLength)
        } catch {
          return undefined
        }
      },
      release(region, touched) {
        const byteLength = region.words.byteLength
        regions--
        bytes -= byteLength
        if (pooledBytes + byteLength > poolLimit) return
        for (const [start, end] of touched) region.words.zero(start, end)
        const free = pool.get(byteLength)
        if (free === undefined) pool.set(byteLength, [region])
        else free.push(region)
        pooledRegions++
        pooledBytes += byteLength
      },
      stats: () => ({ regions, bytes, pooledRegions, pooledBytes })
    })
  })

/**
 * Regions over `SharedArrayBuffer`s, with the default pool.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<SharedMemory> = Layer.effect(SharedMemory, make())
