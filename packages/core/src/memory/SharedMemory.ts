/**
 * Where segments get their memory from.
 *
 * A region is a piece of memory that can be handed to other threads: all zeros,
 * or zeros and the empty tables that its last owner has left for the next.
 * Dropping a `SharedArrayBuffer` frees nothing soon (V8 feels no pressure from
 * it), so released regions are kept in a bounded pool, zeroed where they were
 * written, and used again.
 *
 * Nobody can take memory away from a thread that has it mapped. So a region that
 * other threads have mapped serves only owners who bring all of those threads
 * that still live: one that goes on writing to what it has let go of spoils what
 * it takes part in itself, and nothing else.
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
 * A thread that has memory mapped and that nobody can make let go of it: what it
 * has mapped once it may write to until it is gone.
 *
 * @category models
 * @since 0.1.0
 */
export interface Mapper {
  readonly isGone: boolean
}

/**
 * A piece of memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Region {
  readonly words: SharedWords
  /**
   * The threads that can write to it: all that were ever named for it and are
   * not gone. `undefined` for memory that only this thread can write to.
   */
  readonly mappers?: ReadonlySet<Mapper> | undefined
  /**
   * Set by an owner who gives it back: what it has left in it, which is empty and
   * can serve again as it is. All else in the region is zero. Not for memory that
   * other threads can write to.
   */
  blank?: { readonly touchedRanges: () => Iterable<readonly [start: number, end: number]> } | undefined
  /** What its last owner has divided it with, for the next one: it says nothing about what is in it. */
  tools?: object | undefined
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
    /**
     * A zeroed region of exactly `bytes` bytes; fails with `AllocFailed`.
     * `mappers` are the threads that will map it. Where a region was mapped
     * before, they (and those that have gone) may have written to it since it was
     * zeroed.
     */
    readonly allocate: (
      bytes: number,
      mappers?: ReadonlyArray<Mapper>
    ) => Effect.Effect<Region, SessionError.SessionError>
    /**
     * The same at once, with what its last owner has left `blank`; or nothing,
     * when getting one takes time or fails: then `allocate` says what is the
     * matter.
     */
    readonly tryAllocate: (bytes: number, mappers?: ReadonlyArray<Mapper>) => Region | undefined
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

const NOBODY: ReadonlyArray<Mapper> = []

interface PooledRegion extends Region {
  mappers: Set<Mapper> | undefined
}

/** Forgets who is gone. Returns how many of `mappers` have it mapped, or -1 when anybody else has. */
const countAmong = (mappers: ReadonlyArray<Mapper>, known: Set<Mapper>): number => {
  let count = 0
  for (const mapper of known) {
    if (mapper.isGone) known.delete(mapper)
    else if (mappers.includes(mapper)) count++
    else return -1
  }
  return count
}

/**
 * Regions over `SharedArrayBuffer`s, with a pool of at most `poolSize`
 * (default 512 MiB) for released ones. Where the pool is full, those that other
 * threads have mapped make room, the one that was released first before the
 * others. A region that does not fit in the pool all the same is left to the
 * garbage collector.
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
    const pool = new Map<number, Array<PooledRegion>>()
    // Those that other threads have mapped, of any size, in the order in which they were released.
    const mapped: Array<PooledRegion> = []
    let regions = 0
    let bytes = 0
    let pooledRegions = 0
    let pooledBytes = 0
    let mappedBytes = 0

    const take = (byteLength: number): PooledRegion | undefined => {
      const region = pool.get(byteLength)?.pop()
      if (region !== undefined) {
        pooledRegions--
        pooledBytes -= byteLength
      }
      return region
    }

    /** The one that most of `mappers` have mapped already, and nobody else who lives. Of several, the last one released. */
    const takeMapped = (byteLength: number, mappers: ReadonlyArray<Mapper>): PooledRegion | undefined => {
      let best = -1
      let most = -1
      for (let i = mapped.length - 1; i >= 0 && most < mappers.length; i--) {
        if (mapped[i].words.byteLength !== byteLength) continue
        const count = countAmong(mappers, mapped[i].mappers!)
        if (count > most) {
          best = i
          most = count
        }
      }
      return best < 0 ? undefined : unpool(best)
    }

    const unpool = (index: number): PooledRegion => {
      const [region] = mapped.splice(index, 1)
      pooledRegions--
      pooledBytes -= region.words.byteLength
      mappedBytes -= region.words.byteLength
      return region
    }

    const make = (byteLength: number): PooledRegion => ({
      words: new SharedWords(new SharedArrayBuffer(byteLength), copy),
      mappers: undefined
    })

    /** For this thread alone: one that has never left it, so that those that have are there for who has mapped them. */
    const obtainOwn = (byteLength: number): PooledRegion => {
      const region = take(byteLength)
      if (region !== undefined) return region
      const left = mapped.length === 0 ? undefined : takeMapped(byteLength, NOBODY)
      if (left === undefined) return make(byteLength)
      left.mappers = undefined
      return left
    }

    const obtainFor = (byteLength: number, mappers: ReadonlyArray<Mapper>): PooledRegion => {
      const region = takeMapped(byteLength, mappers) ?? take(byteLength) ?? make(byteLength)
      const known = (region.mappers ??= new Set())
      for (const mapper of mappers) known.add(mapper)
      return region
    }

    const obtain = (byteLength: number, mappers: ReadonlyArray<Mapper> = NOBODY): PooledRegion => {
      const isShared = mappers.length > 0
      const region = isShared ? obtainFor(byteLength, mappers) : obtainOwn(byteLength)
      region.words.isShared = isShared
      regions++
      bytes += byteLength
      return region
    }

    /** Whether there is room for so many bytes more, if need be instead of regions that other threads have mapped. */
    const hasRoom = (byteLength: number): boolean => {
      if (pooledBytes - mappedBytes + byteLength > poolLimit) return false
      let excess = pooledBytes + byteLength - poolLimit
      while (excess > 0) excess -= unpool(0).words.byteLength
      return true
    }

    return SharedMemory.of({
      allocate: (byteLength, mappers) =>
        Effect.try({
          try: () => {
            const region = obtain(byteLength, mappers)
            for (const [start, end] of region.blank?.touchedRanges() ?? []) region.words.zero(start, end)
            region.blank = undefined
            return region
          },
          catch: (cause) =>
            SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: byteLength, cause }))
        }),
      tryAllocate(byteLength, mappers) {
        try {
          return obtain(byteLength, mappers)
        } catch {
          return undefined
        }
      },
      release(released, touched) {
        const region: PooledRegion = released as PooledRegion
        const byteLength = region.words.byteLength
        regions--
        bytes -= byteLength
        if (pooledBytes + byteLength > poolLimit && !hasRoom(byteLength)) return
        for (const [start, end] of touched) region.words.zero(start, end)
        pooledRegions++
        pooledBytes += byteLength
        if (region.mappers !== undefined) {
          // What the others can write to is not blank, whatever its owner says.
          for (const [start, end] of region.blank?.touchedRanges() ?? []) region.words.zero(start, end)
          region.blank = undefined
          if (countAmong(NOBODY, region.mappers) < 0) {
            mapped.push(region)
            mappedBytes += byteLength
            return
          }
          region.mappers = undefined
        }
        const free = pool.get(byteLength)
        if (free === undefined) pool.set(byteLength, [region])
        else free.push(region)
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
