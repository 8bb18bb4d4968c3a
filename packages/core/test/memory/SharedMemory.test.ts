import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import * as Memory from "@cut-through/core/memory/SharedMemory"
import { type Copy, portableCopy } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { assertNoLeak, byteAt, dequeueAt, enqueueAt } from "./fixtures.ts"

const KIB = 1024

const stats = (regions: number, bytes: number, pooledRegions: number, pooledBytes: number): Memory.Stats => ({
  regions,
  bytes,
  pooledRegions,
  pooledBytes
})

const contentOf = (region: Memory.Region): Uint8Array => new Uint8Array(region.words.buffer)

const scribble = (region: Memory.Region): void => {
  const bytes = contentOf(region)
  for (let i = 0; i < bytes.length; i++) bytes[i] = byteAt(i) | 1
}

const assertZero = (region: Memory.Region): void => {
  const at = contentOf(region).findIndex((byte) => byte !== 0)
  assert.strictEqual(at, -1, "first byte that is not zero")
}

describe("SharedMemory", () => {
  it.effect("a region is zeroed, shared, and exactly as long as asked", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make()
      const regions: Array<Memory.Region> = []
      for (const bytes of [4, 5, 100, 64 * KIB, 100_001]) {
        const region = yield* memory.allocate(bytes)
        regions.push(region)
        assert.strictEqual(region.words.byteLength, bytes)
        assert.instanceOf(region.words.buffer, SharedArrayBuffer)
        assertZero(region)
        scribble(region)
      }
      assert.strictEqual(new Set(regions.map((region) => region.words.buffer)).size, 5)
      assert.deepStrictEqual(memory.stats(), stats(5, 4 + 5 + 100 + 64 * KIB + 100_001, 0, 0))
    })
  )

  it.effect("a region that was released serves again, zeroed where it was touched", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make()
      const first = yield* memory.allocate(40_000)
      assert.deepStrictEqual(memory.stats(), stats(1, 40_000, 0, 0))
      scribble(first)
      yield* memory.release(first, [
        [0, 5],
        [5, 39_999],
        [39_999, 40_000]
      ])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, 40_000))
      const second = yield* memory.allocate(40_000)
      assert.strictEqual(second.words.buffer, first.words.buffer)
      assertZero(second)
      assert.deepStrictEqual(memory.stats(), stats(1, 40_000, 0, 0))
    })
  )

  it.effect("only what was touched is zeroed: nothing else costs anything", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make()
      const region = yield* memory.allocate(1000)
      scribble(region)
      yield* memory.release(region, [
        [0, 10],
        [20, 20],
        [500, 700]
      ])
      const bytes = contentOf(region)
      for (let i = 0; i < 1000; i++) {
        const isTouched = i < 10 || (i >= 500 && i < 700)
        if ((bytes[i] === 0) !== isTouched) assert.fail(`byte ${i} is ${bytes[i]}`)
      }
    })
  )

  it.effect("a region serves only those who ask for its size", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make()
      const small = yield* memory.allocate(1000)
      const large = yield* memory.allocate(2000)
      yield* memory.release(small, [])
      yield* memory.release(large, [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 2, 3000))
      const other = yield* memory.allocate(1500)
      assert.notInclude([small.words.buffer, large.words.buffer], other.words.buffer)
      assert.strictEqual((yield* memory.allocate(2000)).words.buffer, large.words.buffer)
      assert.strictEqual((yield* memory.allocate(1000)).words.buffer, small.words.buffer)
      // The pool has none left of either.
      assert.notInclude([small.words.buffer, large.words.buffer], (yield* memory.allocate(1000)).words.buffer)
      assert.deepStrictEqual(memory.stats(), stats(4, 5500, 0, 0))
    })
  )

  it.effect("the pool keeps so many bytes and no more", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make({ poolSize: "10 KiB" })
      const regions: Array<Memory.Region> = []
      for (let i = 0; i < 4; i++) regions.push(yield* memory.allocate(4 * KIB))
      for (const region of regions) yield* memory.release(region, [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 2, 8 * KIB))
      // What just fits is kept.
      const exact = yield* memory.allocate(2 * KIB)
      yield* memory.release(exact, [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 3, 10 * KIB))
      yield* memory.release(yield* memory.allocate(1 * KIB), [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 3, 10 * KIB))
      // Room in the pool comes back with each region that is taken out of it.
      yield* memory.allocate(4 * KIB)
      yield* memory.release(yield* memory.allocate(3 * KIB), [])
      assert.deepStrictEqual(memory.stats(), stats(1, 4 * KIB, 3, 9 * KIB))
    })
  )

  it.effect("without a pool every region is new", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make({ poolSize: 0 })
      const first = yield* memory.allocate(1000)
      scribble(first)
      yield* memory.release(first, [[0, 1000]])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 0, 0))
      const second = yield* memory.allocate(1000)
      assert.notStrictEqual(second.words.buffer, first.words.buffer)
      assertZero(second)
    })
  )

  it.effect("a size that cannot be had fails with a reason, and counts nothing", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make()
      for (const bytes of [2 ** 53, 2 ** 60, -1]) {
        const error = yield* Effect.flip(memory.allocate(bytes))
        assert.strictEqual(error._tag, "SessionError")
        const { reason } = error
        assert.strictEqual(reason._tag, "AllocFailed")
        if (reason._tag !== "AllocFailed") continue
        assert.strictEqual(reason.bytes, bytes)
        assert.instanceOf(reason.cause, RangeError)
        assert.include(error.message, `cannot allocate ${bytes} bytes`)
      }
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 0, 0))
      // And the next one is served.
      assert.strictEqual((yield* memory.allocate(100)).words.byteLength, 100)
    })
  )

  describe("the copy that regions use", () => {
    const counting = (): { readonly copy: Copy; readonly lengths: Array<number> } => {
      const lengths: Array<number> = []
      return {
        lengths,
        copy: (target, targetStart, source, sourceStart, sourceEnd) => {
          lengths.push(sourceEnd - sourceStart)
          portableCopy(target, targetStart, source, sourceStart, sourceEnd)
        }
      }
    }

    const useIt = Effect.gen(function* () {
      const memory = yield* Memory.SharedMemory
      const region = yield* memory.allocate(100)
      region.words.copyIn(0, new Uint8Array(30), 10, 20)
      region.words.copyOut(new Uint8Array(30), 0, 10, 17)
      yield* memory.release(region, [[50, 53]])
    })

    it.effect("is the one provided, for bytes in and out and for zeros", () => {
      const { copy, lengths } = counting()
      return useIt.pipe(
        Effect.provide(Memory.layer.pipe(Layer.provide(Layer.succeed(Memory.CopyBytes, copy)))),
        Effect.map(() => assert.deepStrictEqual(lengths, [10, 7, 3]))
      )
    })

    it.effect("is decided when the memory is made, not when it is used", () => {
      const { copy, lengths } = counting()
      return Effect.gen(function* () {
        const memory = yield* Memory.make()
        yield* useIt.pipe(
          Effect.provideService(Memory.SharedMemory, memory),
          Effect.provideService(Memory.CopyBytes, copy)
        )
        assert.deepStrictEqual(lengths, [])
        const other = yield* Memory.make().pipe(Effect.provideService(Memory.CopyBytes, copy))
        yield* useIt.pipe(Effect.provideService(Memory.SharedMemory, other))
        assert.deepStrictEqual(lengths, [10, 7, 3])
      })
    })

    it.effect("is the portable one by default", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* Memory.CopyBytes, portableCopy)
        yield* useIt.pipe(Effect.provide(Memory.layer))
      })
    )
  })

  it.effect("segments take turns in one region, and none sees what another has left", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.SharedMemory
      const options = { size: 256 * KIB, maxFifos: 8 }
      const bytes = FifoSegment.regionBytes(options)
      const buffers = new Set<ArrayBufferLike>()
      for (let turn = 0; turn < 4; turn++) {
        const region = yield* memory.allocate(bytes)
        assertZero(region)
        buffers.add(region.words.buffer)
        const segment = FifoSegment.make(region.words, options)
        const pair = segment.allocatePair(100 * KIB, 50 * KIB)!
        for (const fifo of pair) {
          assert.strictEqual(enqueueAt(fifo, turn, 40 * KIB), 40 * KIB)
          dequeueAt(fifo, turn, 20 * KIB)
          segment.releaseFifo(fifo)
        }
        assertNoLeak(segment)
        yield* memory.release(region, segment.touchedRanges())
      }
      assert.strictEqual(buffers.size, 1)
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, bytes))
    }).pipe(Effect.provide(Memory.layer))
  )
})
