/**
 * Memory for session layers that are made by the thousand: released regions are
 * kept for the next one, because V8 takes its time to free them. Each layer
 * counts what is its own.
 */
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

type Memory = SharedMemory.SharedMemory["Service"]

// One for each way to copy: what a region is made with stays with it.
const pools = new WeakMap<object, Memory>()

const poolOf = Effect.gen(function* () {
  const copy = yield* SharedMemory.CopyBytes
  const known = pools.get(copy)
  if (known !== undefined) return known
  const made = yield* SharedMemory.make()
  pools.set(copy, made)
  return made
})

/** Shared memory out of what is left of others that have been made in this way. */
export const makePooled: Effect.Effect<Memory> = Effect.map(poolOf, (pool) => {
  const own = new Map<SharedMemory.Region, number>()
  const adopt = (region: SharedMemory.Region): SharedMemory.Region => {
    own.set(region, region.words.byteLength)
    return region
  }
  return SharedMemory.SharedMemory.of({
    allocate: (bytes, mappers) => Effect.map(pool.allocate(bytes, mappers), adopt),
    tryAllocate: (bytes, mappers) => {
      const region = pool.tryAllocate(bytes, mappers)
      return region === undefined ? undefined : adopt(region)
    },
    release: (region, touched) => {
      own.delete(region)
      pool.release(region, touched)
    },
    stats: () => ({
      ...pool.stats(),
      regions: own.size,
      bytes: [...own.values()].reduce((sum, bytes) => sum + bytes, 0)
    })
  })
})

/** {@link makePooled} for those who use this layer. */
export const layerPooled: Layer.Layer<SharedMemory.SharedMemory> = Layer.effect(SharedMemory.SharedMemory, makePooled)
