import { MAX_FIFO_BYTES } from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedMemory } from "@cut-through/core/memory/SharedMemory"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { makeManager, makeMemory, type Memory, noMemory, PAGE, ShortMemory } from "./fixtures.ts"

const MIB = 1024 * 1024

const addTo = (manager: SegmentManager.SegmentManager, memory: Memory) =>
  Effect.provideService(SegmentManager.addSegment(manager), SharedMemory, memory)

describe("SegmentManager", () => {
  describe("sizes that can never work are refused before anything is allocated", () => {
    const least = (bytes: number) => `expected at least ${bytes} bytes, to hold one pair of FIFOs`
    const most = `1 to ${MAX_FIFO_BYTES} bytes`
    const cases: ReadonlyArray<readonly [message: string, Partial<SegmentManager.Properties>]> = [
      [`rxFifoSize is 0: expected ${most}`, { rxFifoSize: 0 }],
      [`txFifoSize is -1: expected ${most}`, { txFifoSize: -1 }],
      [`rxFifoSize is 1.5: expected ${most}`, { rxFifoSize: 1.5 }],
      [`txFifoSize is NaN: expected ${most}`, { txFifoSize: NaN }],
      [`rxFifoSize is ${MAX_FIFO_BYTES + 1}: expected ${most}`, { rxFifoSize: MAX_FIFO_BYTES + 1 }],
      // One of them is larger than the segment.
      [`segmentSize is ${MIB}: ${least(2 * MIB + PAGE)}`, { rxFifoSize: 2 * MIB }],
      // Each of them fits, both do not.
      [`segmentSize is ${MIB}: ${least(MIB + PAGE)}`, { rxFifoSize: MIB / 2, txFifoSize: MIB / 2 + 1 }],
      // A signed sum of 32 bits would be negative.
      [
        `segmentSize is ${MIB}: ${least(2 * MAX_FIFO_BYTES)}`,
        { rxFifoSize: MAX_FIFO_BYTES, txFifoSize: MAX_FIFO_BYTES }
      ],
      [`segmentSize is ${MIB + 0.5}: ${least(2 * PAGE)}`, { segmentSize: MIB + 0.5 }],
      [`segmentSize is NaN: ${least(2 * PAGE)}`, { segmentSize: NaN }],
      [`segmentSize is ${-MIB}: ${least(2 * PAGE)}`, { segmentSize: -MIB }],
      [`segmentSize is 0: ${least(2 * PAGE)}`, { segmentSize: 0 }]
    ]
    it.effect.each(cases)("%s", ([message, properties]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(
          SegmentManager.make("manager", { segmentSize: MIB, rxFifoSize: PAGE, txFifoSize: PAGE, ...properties })
        )
        assert.strictEqual(error.reason._tag, "InvalidArgument")
        assert.strictEqual(error.message, message)
      })
    )

    it("the smallest segment holds one pair", () => {
      const manager = makeManager({ segmentSize: MIB + PAGE, rxFifoSize: MIB / 2, txFifoSize: MIB / 2 + 1 })
      assert.strictEqual(SegmentManager.segmentOptions(manager.properties).maxFifos, 2)
    })
  })

  it.effect("a segment is in its manager until it is deleted, and then its region is free", () =>
    Effect.gen(function* () {
      const memory = makeMemory()
      const manager = makeManager()
      const first = yield* addTo(manager, memory)
      const second = yield* addTo(manager, memory)
      assert.deepStrictEqual([...manager.segments], [first, second])
      assert.strictEqual(manager.segments.get(first.handle), first)
      assert.strictEqual(first.manager, manager)
      assert.strictEqual(first.fifos.size, manager.properties.segmentSize)
      assert.strictEqual(memory.stats().regions, 2)
      assert.strictEqual(
        first.region.words.byteLength,
        FifoSegment.regionBytes(SegmentManager.segmentOptions(manager.properties))
      )

      yield* SegmentManager.deleteSegment(first)
      assert.isUndefined(manager.segments.get(first.handle))
      assert.deepStrictEqual([...manager.segments], [second])
      assert.strictEqual(memory.stats().regions, 1)
      // Closing a scope again does nothing.
      yield* SegmentManager.deleteSegment(first)
      assert.strictEqual(memory.stats().regions, 1)

      yield* SegmentManager.deleteSegment(second)
      assert.strictEqual(manager.segments.size, 0)
      assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 2 })
    })
  )

  it.effect("a segment in a region that was used before is like new", () =>
    Effect.gen(function* () {
      const memory = makeMemory()
      const manager = makeManager()
      const used = yield* addTo(manager, memory)
      const pair = used.fifos.allocatePair(PAGE, PAGE)
      assert.isDefined(pair)
      for (const fifo of pair) fifo.enqueue(new Uint8Array(PAGE).fill(0xff), 0, PAGE)
      yield* SegmentManager.deleteSegment(used)
      const again = yield* addTo(manager, memory)
      assert.strictEqual(again.region, used.region)
      assert.strictEqual(again.fifos.availableBytes, again.fifos.size)
      const [rx, tx] = again.fifos.allocatePair(PAGE, PAGE) ?? []
      assert.deepStrictEqual([rx?.used, tx?.used], [0, 0])
      // What the first pair was full of.
      const words = again.region.words
      const data = words.view(again.fifos.chunks.offset(0), words.byteLength)
      assert.isTrue(data.every((byte) => byte === 0))
      yield* SegmentManager.deleteSegment(again)
    })
  )

  it.effect("without memory there is no segment", () =>
    Effect.gen(function* () {
      const memory = new ShortMemory(0)
      const manager = makeManager()
      assert.strictEqual(yield* Effect.flip(addTo(manager, memory.service)), noMemory)
      assert.strictEqual(manager.segments.size, 0)
      assert.strictEqual(memory.service.stats().regions, 0)
    })
  )

  const fifoSize = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 * PAGE })))

  it.effect.prop(
    "as many pairs as a segment promises to hold can all be full at the same time",
    {
      rxFifoSize: fifoSize,
      txFifoSize: fifoSize,
      pairs: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 }))),
      more: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 * PAGE - 1 })))
    },
    ({ more, pairs, rxFifoSize, txFifoSize }) =>
      Effect.gen(function* () {
        const memory = makeMemory()
        const segmentSize = pairs * FifoSegment.pairBytes(rxFifoSize, txFifoSize) + more
        const manager = makeManager({ segmentSize, rxFifoSize, txFifoSize })
        const segment = yield* addTo(manager, memory)
        const fifos = []
        for (let i = 0; i < pairs; i++) {
          const pair = segment.fifos.allocatePair(rxFifoSize, txFifoSize)
          assert.isDefined(pair)
          fifos.push(...pair)
        }
        // In small steps and in turn, so that all of them grow together.
        const step = new Uint8Array(1000)
        const left = fifos.map((fifo) => fifo.size)
        while (left.some((bytes) => bytes > 0)) {
          for (const [i, fifo] of fifos.entries()) {
            const length = Math.min(step.length, left[i])
            if (length > 0) assert.strictEqual(fifo.enqueue(step, 0, length), length, `FIFO ${i} has ${left[i]} to go`)
            left[i] -= length
          }
        }
        yield* SegmentManager.deleteSegment(segment)
        assert.strictEqual(memory.stats().regions, 0)
      }),
    { arbitrary: { runs: 200 } }
  )
})
