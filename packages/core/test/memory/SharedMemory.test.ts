import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import * as Memory from "@cut-through/core/memory/SharedMemory"
import { type Copy, portableCopy, SharedWords } from "@cut-through/core/memory/SharedWords"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Model from "./fifoModel.ts"
import {
  allocateFifo,
  assertNoBytes,
  assertNoLeak,
  attachFifo,
  byteAt,
  dequeueAt,
  enqueueAt,
  firstNonZero,
  Header,
  headerWord,
  mapAgain
} from "./fixtures.ts"

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
  const at = firstNonZero(region.words.buffer)
  if (at >= 0) assert.fail(`byte ${at} of ${region.words.byteLength} is not zero`)
}

/** What the owner of a segment does when it has no use for its region any more. */
const giveBack = (memory: Memory.SharedMemory["Service"], region: Memory.Region, segment: FifoSegment.FifoSegment) => {
  const isBlank = segment.scrub()
  if (isBlank) region.blank = segment
  memory.release(region, isBlank ? [] : segment.touchedRanges())
  return isBlank
}

const tryAllocate = (memory: Memory.SharedMemory["Service"], bytes: number): Memory.Region =>
  memory.tryAllocate(bytes) ?? assert.fail(`no region of ${bytes} bytes`)

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
      assert.isUndefined(
        memory.release(first, [
          [0, 5],
          [5, 39_999],
          [39_999, 40_000]
        ])
      )
      // At once: nothing has to run for it.
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, 40_000))
      assertZero(first)
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
      memory.release(region, [
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
      memory.release(small, [])
      memory.release(large, [])
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
      for (const region of regions) memory.release(region, [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 2, 8 * KIB))
      // What just fits is kept.
      const exact = yield* memory.allocate(2 * KIB)
      memory.release(exact, [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 3, 10 * KIB))
      memory.release(yield* memory.allocate(1 * KIB), [])
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 3, 10 * KIB))
      // Room in the pool comes back with each region that is taken out of it.
      yield* memory.allocate(4 * KIB)
      memory.release(yield* memory.allocate(3 * KIB), [])
      assert.deepStrictEqual(memory.stats(), stats(1, 4 * KIB, 3, 9 * KIB))
    })
  )

  it.effect("without a pool every region is new", () =>
    Effect.gen(function* () {
      const memory = yield* Memory.make({ poolSize: 0 })
      const first = yield* memory.allocate(1000)
      scribble(first)
      memory.release(first, [[0, 1000]])
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

  describe("tryAllocate", () => {
    it.effect("a new region is zeroed, shared, counted, and blank of nothing", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        for (const bytes of [4, 5, 100_001]) {
          const region = tryAllocate(memory, bytes)
          assert.strictEqual(region.words.byteLength, bytes)
          assert.instanceOf(region.words.buffer, SharedArrayBuffer)
          assert.isUndefined(region.blank)
          assertZero(region)
        }
        assert.deepStrictEqual(memory.stats(), stats(3, 100_010, 0, 0))
      })
    )

    it.effect("takes from the pool what either way of asking has brought, and no other size", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        const first = yield* memory.allocate(1000)
        scribble(first)
        memory.release(first, [[0, 1000]])
        assert.notStrictEqual(tryAllocate(memory, 1004).words.buffer, first.words.buffer)
        const second = tryAllocate(memory, 1000)
        assert.strictEqual(second.words.buffer, first.words.buffer)
        assertZero(second)
        assert.isUndefined(second.blank)
        assert.deepStrictEqual(memory.stats(), stats(2, 2004, 0, 0))
        scribble(second)
        memory.release(second, [[0, 1000]])
        assert.strictEqual((yield* memory.allocate(1000)).words.buffer, first.words.buffer)
        assert.deepStrictEqual(memory.stats(), stats(2, 2004, 0, 0))
      })
    )

    it.effect("a size that cannot be had is nothing, and counts nothing", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        for (const bytes of [2 ** 53, 2 ** 60, -1]) assert.isUndefined(memory.tryAllocate(bytes))
        assert.deepStrictEqual(memory.stats(), stats(0, 0, 0, 0))
        // Asked for what is the matter, `allocate` says it.
        const error = yield* Effect.flip(memory.allocate(2 ** 53))
        assert.strictEqual(error.reason._tag, "AllocFailed")
        assert.strictEqual(tryAllocate(memory, 100).words.byteLength, 100)
      })
    )

    it.effect("uses the copy that was provided", () => {
      let zeroed = 0
      const copy: Copy = (target, targetStart, source, sourceStart, sourceEnd) => {
        zeroed += sourceEnd - sourceStart
        portableCopy(target, targetStart, source, sourceStart, sourceEnd)
      }
      return Memory.make().pipe(
        Effect.provideService(Memory.CopyBytes, copy),
        Effect.map((memory) => {
          memory.release(tryAllocate(memory, 100), [[3, 10]])
          assert.strictEqual(zeroed, 7)
        })
      )
    })
  })

  describe("a region that is blank", () => {
    const options = { size: 256 * KIB, maxFifos: 8 }
    const bytes = FifoSegment.regionBytes(options)

    /** A region with a segment in it that has been used, and scrubbed. */
    const makeBlank = (memory: Memory.SharedMemory["Service"]) => {
      const region = tryAllocate(memory, bytes)
      const segment = FifoSegment.make(region.words, options)
      for (const fifo of segment.allocatePair(100 * KIB, 50 * KIB)!) {
        assert.strictEqual(enqueueAt(fifo, 0, 40 * KIB), 40 * KIB)
        segment.releaseFifo(fifo)
      }
      assert.isTrue(giveBack(memory, region, segment))
      return { region, segment }
    }

    it.effect("is handed over as it is by tryAllocate: nothing is zeroed, divided or looked at", () =>
      Effect.gen(function* () {
        let copies = 0
        const copy: Copy = (target, targetStart, source, sourceStart, sourceEnd) => {
          copies++
          portableCopy(target, targetStart, source, sourceStart, sourceEnd)
        }
        const memory = yield* Memory.make().pipe(Effect.provideService(Memory.CopyBytes, copy))
        const { region, segment } = makeBlank(memory)
        assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, bytes))
        const before = region.words.buffer.slice(0)
        copies = 0
        const again = tryAllocate(memory, bytes)
        assert.strictEqual(again, region)
        assert.strictEqual(again.blank, segment)
        assert.strictEqual(copies, 0)
        assert.strictEqual(Buffer.compare(new Uint8Array(before), contentOf(region)), 0)
        assert.deepStrictEqual(memory.stats(), stats(1, bytes, 0, 0))
        // And it serves at once.
        const fifo = segment.allocateFifo(100)!
        assert.strictEqual(enqueueAt(fifo, 0, 100), 100)
        dequeueAt(fifo, 0, 100)
        segment.releaseFifo(fifo)
        assertNoLeak(segment)
      })
    )

    it.effect("is zeroed by allocate, and blank no longer", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        const { region } = makeBlank(memory)
        const again = yield* memory.allocate(bytes)
        assert.strictEqual(again, region)
        assert.isUndefined(again.blank)
        assertZero(again)
        assert.deepStrictEqual(memory.stats(), stats(1, bytes, 0, 0))
        // Who has had it from there gives it back as any other.
        scribble(again)
        memory.release(again, [[0, bytes]])
        assert.isUndefined(tryAllocate(memory, bytes).blank)
        assertZero(again)
      })
    )

    it.effect("only as much of it is zeroed as its owner says it has left", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        const region = tryAllocate(memory, 1000)
        scribble(region)
        region.blank = {
          touchedRanges: () => [
            [0, 10],
            [500, 700]
          ]
        }
        memory.release(region, [[20, 30]])
        const content = contentOf(yield* memory.allocate(1000))
        for (let i = 0; i < 1000; i++) {
          const isTouched = i < 10 || (i >= 20 && i < 30) || (i >= 500 && i < 700)
          if ((content[i] === 0) !== isTouched) assert.fail(`byte ${i} is ${content[i]}`)
        }
      })
    )

    it.effect("and does not fit in the pool is left alone: the next one is new", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make({ poolSize: bytes - 1 })
        const { region } = makeBlank(memory)
        assert.deepStrictEqual(memory.stats(), stats(0, 0, 0, 0))
        const other = tryAllocate(memory, bytes)
        assert.notStrictEqual(other, region)
        assert.isUndefined(other.blank)
        assertZero(other)
      })
    )

    it.effect("and does not fit the next owner's options is zeroed and divided anew", () =>
      Effect.gen(function* () {
        const memory = yield* Memory.make()
        const managerOf = (properties: Partial<SegmentManager.Properties>) =>
          SegmentManager.make("manager", {
            segmentSize: 64 * KIB,
            rxFifoSize: 8 * KIB,
            txFifoSize: 4 * KIB,
            ...properties
          })
        // Regions of one size, divided differently; and one that is divided as the first one.
        const managers = [
          yield* managerOf({}),
          yield* managerOf({ rxFifoSize: 8 * KIB, txFifoSize: 8 * KIB }),
          yield* managerOf({ rxFifoSize: 16 * KIB, txFifoSize: 16 * KIB }),
          yield* managerOf({ rxFifoSize: 8 * KIB, txFifoSize: 8 * KIB })
        ]
        const sizes = new Set(managers.map((manager) => manager.regionBytes))
        assert.strictEqual(sizes.size, 1)
        const buffers = new Set<ArrayBufferLike>()
        let last: { fifos: FifoSegment.FifoSegment; options: FifoSegment.Options } | undefined
        for (const turn of [0, 1, 2, 1, 3, 1, 0, 0, 2]) {
          const manager = managers[turn]
          const region = tryAllocate(memory, manager.regionBytes)
          buffers.add(region.words.buffer)
          const segment = SegmentManager.addSegment(manager, memory, region)
          const { fifos } = segment
          assert.isUndefined(region.blank, "it belongs to the segment now")
          const isSame = last !== undefined && last.options.maxFifos === manager.options.maxFifos
          assert.strictEqual(fifos === last?.fifos, isSame)
          if (!isSame) {
            const fresh = new Uint8Array(FifoSegment.regionBytes(manager.options))
            FifoSegment.make(new SharedWords(fresh.buffer), manager.options)
            assert.strictEqual(Buffer.compare(contentOf(region), fresh), 0)
          }
          assertNoBytes(fifos)
          const pair = fifos.allocatePair(manager.properties.rxFifoSize, manager.properties.txFifoSize)!
          for (const fifo of pair) {
            assert.strictEqual(enqueueAt(fifo, turn, 3 * KIB), 3 * KIB)
            fifos.releaseFifo(fifo)
          }
          yield* SegmentManager.deleteSegment(segment)
          assert.strictEqual(region.blank, fifos)
          last = { fifos, options: manager.options }
        }
        assert.strictEqual(buffers.size, 1)
        assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, managers[0].regionBytes))
      })
    )

    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

    it.effect.prop(
      "no owner sees a byte of another one, whatever they do and however they ask",
      {
        shape: Model.shapes,
        turns: Arbitrary.array(
          Arbitrary.all({ how: int(2), maxFifos: int(1), isLost: int(5), program: Model.commands }),
          { minLength: 2, maxLength: 6 }
        )
      },
      ({ shape, turns }) =>
        Effect.gen(function* () {
          const memory = yield* Memory.make()
          const buffers = new Set<ArrayBufferLike>()
          for (const { how, isLost, maxFifos, program } of turns) {
            const options = {
              size: shape.units * shape.unitBytes,
              unitBytes: shape.unitBytes,
              maxFifos: 2 + maxFifos
            }
            const bytes = FifoSegment.regionBytes(options)
            const region = how === 0 ? yield* memory.allocate(bytes) : tryAllocate(memory, bytes)
            buffers.add(region.words.buffer)
            const { blank } = region
            region.blank = undefined
            let segment: FifoSegment.FifoSegment
            // As it is, if it fits; sometimes it is zeroed all the same.
            if (how === 1 && blank instanceof FifoSegment.FifoSegment && blank.isLike(options)) {
              segment = blank
            } else {
              for (const [start, end] of blank?.touchedRanges() ?? []) region.words.zero(start, end)
              assertZero(region)
              segment = FifoSegment.make(region.words, options)
            }
            assertNoBytes(segment)

            const other = mapAgain(segment)
            const subjects = shape.sizes.map((size, i) => {
              const host = allocateFifo(segment, size)
              if (i === 0) return Model.subject(host)
              return Model.subject(
                host,
                attachFifo(other, host.index, Fifo.WRITER),
                attachFifo(mapAgain(segment), host.index, Fifo.READER)
              )
            })
            // Bytes that are never read, lent views that are never published, FIFOs that nobody has written to.
            for (const command of program) Model.step(segment, subjects[command.fifo], command)
            if (isLost === 0) {
              segment.words.store(headerWord(segment, 0) + Header.headChunk, 0)
              for (const { host } of subjects) segment.releaseFifo(host)
              assert.isFalse(giveBack(memory, region, segment))
            } else {
              for (const { host } of subjects) segment.releaseFifo(host)
              assertNoLeak(segment)
              assert.isTrue(giveBack(memory, region, segment))
            }
          }
          assert.isAtMost(buffers.size, 2)
          assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: buffers.size })
          for (const buffer of buffers) assertZero(yield* memory.allocate(buffer.byteLength))
        }),
      { arbitrary: { runs: 200, size: 60 } }
    )
  })

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
      memory.release(region, [[50, 53]])
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
        memory.release(region, segment.touchedRanges())
      }
      assert.strictEqual(buffers.size, 1)
      assert.deepStrictEqual(memory.stats(), stats(0, 0, 1, bytes))
    }).pipe(Effect.provide(Memory.layer))
  )
})
