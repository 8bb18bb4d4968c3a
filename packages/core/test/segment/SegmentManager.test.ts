import { MAX_FIFO_BYTES } from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import type { Mapper, Region } from "@cut-through/core/memory/SharedMemory"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Finalizer from "@cut-through/core/runtime/Finalizer"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import {
  assertOther,
  assertSame,
  assertSameItems,
  makeManager,
  makeMemory,
  type Memory,
  PAGE,
  PAIR,
  User
} from "./fixtures.ts"

const MIB = 1024 * 1024

const addTo = (manager: SegmentManager.SegmentManager, memory: Memory): SegmentManager.Segment =>
  SegmentManager.addSegment(manager, memory, Effect.runSync(memory.allocate(manager.regionBytes)))

/** As a context does it that finds memory at once. */
const addNow = (
  manager: SegmentManager.SegmentManager,
  memory: Memory,
  mappers?: ReadonlyArray<Mapper>
): SegmentManager.Segment => {
  const region = memory.tryAllocate(manager.regionBytes, mappers)
  assert.isDefined(region)
  return SegmentManager.addSegment(manager, memory, region)
}

/** As a context does it: users are told of the segment first. */
const addFor = (
  users: ReadonlyArray<User>,
  manager: SegmentManager.SegmentManager,
  memory: Memory
): SegmentManager.Segment => {
  const segment = addTo(manager, memory)
  for (const user of users) {
    user.segmentAdded(segment)
    segment.users.push(user)
  }
  return segment
}

const deleteNow = (segment: SegmentManager.Segment): void => Effect.runSync(SegmentManager.deleteSegment(segment))

const bytesOf = ({ words }: Region): Uint8Array => words.view(0, words.byteLength)

/** Fills a pair of FIFOs, as large as the manager has them. */
const fillPair = ({ fifos, manager }: SegmentManager.Segment) => {
  const { rxFifoSize, txFifoSize } = manager.properties
  const pair = fifos.allocatePair(rxFifoSize, txFifoSize)
  assert.isDefined(pair)
  for (const fifo of pair) fifo.enqueue(new Uint8Array(fifo.size).fill(0xff), 0, fifo.size)
  return pair
}

describe("SegmentManager", () => {
  describe("D14 R4: sizes that can never work are refused before anything is allocated", () => {
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
      assert.strictEqual(manager.options.maxFifos, 2)
      const memory = makeMemory()
      const segment = addTo(manager, memory)
      assert.isDefined(segment.fifos.allocatePair(MIB / 2, MIB / 2 + 1))
      assertSame(segment.fifos.allocatePair(1, 1), undefined)
      deleteNow(segment)
      assert.deepInclude(memory.stats(), { regions: 0, bytes: 0 })
    })
  })

  it("a manager knows what its segments and connections take, and is open and empty", () => {
    const manager = makeManager({ segmentSize: 10 * PAGE + 1, rxFifoSize: PAGE + 1, txFifoSize: 1 }, "name")
    assert.deepInclude(manager, {
      name: "name",
      // Two pages and one.
      pairBytes: 3 * PAGE,
      options: { size: 10 * PAGE + 1, maxFifos: 6 },
      account: { fifoMemory: 0 },
      isClosed: false
    })
    assert.deepStrictEqual(SegmentManager.segmentOptions(manager.properties), manager.options)
    assert.strictEqual(manager.regionBytes, FifoSegment.regionBytes(manager.options))
    assert.strictEqual(manager.segments.size, 0)
    assert.notStrictEqual(makeManager().account, makeManager().account)
  })

  it("a segment is in its manager until it is deleted, and then its region is free", () => {
    const memory = makeMemory()
    const manager = makeManager()
    const first = addTo(manager, memory)
    const second = addNow(manager, memory)
    assertSameItems(manager.segments, [first, second])
    assertSame(manager.segments.get(first.handle), first)
    assert.strictEqual(first.manager, manager)
    assert.strictEqual(first.fifos.size, manager.properties.segmentSize)
    assert.strictEqual(memory.stats().regions, 2)
    assert.strictEqual(first.region.words.byteLength, manager.regionBytes)

    deleteNow(first)
    assertSame(manager.segments.get(first.handle), undefined)
    assertSameItems(manager.segments, [second])
    assert.strictEqual(memory.stats().regions, 1)
    // Closing a scope again does nothing.
    deleteNow(first)
    assert.strictEqual(memory.stats().regions, 1)

    deleteNow(second)
    assert.strictEqual(manager.segments.size, 0)
    assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 2 })
  })

  it("deleting acts at once, before anybody waits for it", () => {
    const memory = makeMemory()
    const manager = makeManager()
    const user = new User()
    const segment = addFor([user], manager, memory)
    const rest = SegmentManager.deleteSegment(segment)
    assertSameItems(user.deleted, [segment])
    assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
    // Nothing to wait for: no fiber is needed.
    assert.isTrue(Exit.isExit(rest) && Exit.isSuccess(rest))
  })

  it.effect("what others have added to a segment's scope runs when it is deleted, the last first", () =>
    Effect.gen(function* () {
      const memory = makeMemory()
      const manager = makeManager()
      const segment = addTo(manager, memory)
      const ran: Array<string> = []
      Finalizer.add(segment.scope, "first", () => Effect.sync(() => void ran.push(`${memory.stats().regions}`)))
      yield* Scope.addFinalizer(
        segment.scope,
        Effect.andThen(
          Effect.yieldNow,
          Effect.sync(() => void ran.push("last"))
        )
      )
      yield* SegmentManager.deleteSegment(segment)
      assert.deepStrictEqual(ran, ["last", "1"])
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
      assert.strictEqual(manager.segments.size, 0)
    })
  )

  it("closing a segment's scope deletes it, once; one that was deleted has a closed scope", () => {
    const memory = makeMemory()
    const manager = makeManager()
    for (const isAsked of [true, false]) {
      const user = new User()
      const segment = addFor([user], manager, memory)
      if (isAsked) Effect.runSync(Scope.close(segment.scope, Exit.void))
      for (let i = 0; i < 2; i++) deleteNow(segment)
      assert.strictEqual(segment.scope.state._tag, "Closed")
      assert.strictEqual(segment.scope, segment.scope)
      Effect.runSync(Scope.close(segment.scope, Exit.void))
      assertSameItems(user.deleted, [segment])
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
    }
  })

  describe("a segment in a region that was used before is like new", () => {
    const assertLikeNew = (segment: SegmentManager.Segment, isDividedAnew: boolean) => {
      const { fifos, manager, region } = segment
      assert.strictEqual(fifos.availableBytes, fifos.size)
      const { activeFifos, pressure, size, virtualBytes } = fifos
      assert.deepStrictEqual(
        { activeFifos, pressure, size, virtualBytes },
        { activeFifos: 0, pressure: "none", size: manager.options.size, virtualBytes: 0 }
      )
      const data = bytesOf(region).subarray(fifos.chunks.offset(0))
      assert.isTrue(data.every((byte) => byte === 0))
      // Its tables are those of a segment in memory that nobody has used. (Where they serve again, free chunks are small.)
      const fresh = new SharedWords(new ArrayBuffer(manager.regionBytes))
      const tables = FifoSegment.make(fresh, manager.options).chunks.descriptor(fifos.chunks.units) * 4
      const written = bytesOf(region)
      const different = fresh.view(0, tables).findIndex((byte, at) => byte !== written[at])
      if (isDividedAnew) assert.strictEqual(different, -1, "where a table is different")
      const pairs = Math.floor(manager.options.size / manager.pairBytes)
      for (let i = 0; i < pairs; i++) {
        const { rxFifoSize, txFifoSize } = manager.properties
        const pair = fifos.allocatePair(rxFifoSize, txFifoSize)
        assert.isDefined(pair)
        for (const { isCorrupt, used } of pair)
          assert.deepStrictEqual({ isCorrupt, used }, { isCorrupt: false, used: 0 })
      }
    }

    // Tables of another length, and yet as many bytes.
    const sizes = { segmentSize: 30 * PAGE, rxFifoSize: PAGE, txFifoSize: PAGE }
    const otherSizes = { segmentSize: 31 * PAGE, rxFifoSize: 15 * PAGE, txFifoSize: 15 * PAGE }
    // Only the number of FIFOs differs.
    const fewerFifos = { ...sizes, txFifoSize: 2 * PAGE }
    const ways = {
      "for a segment alike, when memory is to be had at once": [addNow, sizes],
      "for a segment alike, when memory is waited for": [addTo, sizes],
      "for a segment of another size, when memory is to be had at once": [addNow, otherSizes],
      "for a segment of another size, when memory is waited for": [addTo, otherSizes],
      "for a segment with fewer FIFOs, when memory is to be had at once": [addNow, fewerFifos],
      "for a segment with fewer FIFOs, when memory is waited for": [addTo, fewerFifos]
    } as const

    for (const [way, [add, properties]] of Object.entries(ways)) {
      for (const isEmpty of [true, false]) {
        it(`${way}, after one whose FIFOs were ${isEmpty ? "all" : "not"} freed`, () => {
          const memory = makeMemory()
          const [manager, next] = [makeManager(sizes), makeManager(properties)]
          assert.strictEqual(next.regionBytes, manager.regionBytes)
          const used = addNow(manager, memory)
          const fifos = [...fillPair(used), ...fillPair(used), ...fillPair(used)]
          used.fifos.resizeFifo(fifos[0], 30 * PAGE)
          fifos[0].enqueue(new Uint8Array(30 * PAGE).fill(0xff), 0, 30 * PAGE)
          assert.strictEqual(used.fifos.pressure, "exhausted")
          if (isEmpty) for (const fifo of fifos) used.fifos.releaseFifo(fifo)
          deleteNow(used)
          const again = add(next, memory)
          assertSame(again.region, used.region)
          // Dividing it anew is spared only where nothing would be different.
          const isDividedAnew = !isEmpty || add === addTo || properties !== sizes
          assert.strictEqual(again.fifos !== used.fifos, isDividedAnew)
          assertLikeNew(again, isDividedAnew)
          // This one leaves FIFOs in any case: what an earlier one has left is of no use any more.
          deleteNow(again)
          const last = addNow(next, memory)
          assertSame(last.region, used.region)
          assertLikeNew(last, true)
          deleteNow(last)
          assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 1 })
        })
      }
    }
  })

  describe("the region of a deleted segment goes back when all who were told of it have acknowledged that", () => {
    const orders = [
      [0, 1],
      [1, 0]
    ] as const
    for (const order of orders) {
      it(`the ${order[0] === 0 ? "first" : "second"} one first, each as often as it likes`, () => {
        const memory = makeMemory()
        const manager = makeManager()
        const users = [new User(), new User()]
        for (const user of users) user.isLate = true
        const segment = addFor(users, manager, memory)
        deleteNow(segment)
        assert.strictEqual(manager.segments.size, 0)
        for (const user of users) assertSameItems(user.deleted, [segment])
        const [first, last] = order.map((i) => users[i].unacknowledged[0])
        for (let i = 0; i < 3; i++) {
          assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
          first()
        }
        // Whoever is late may still write where it is mapped: the next segment lies elsewhere.
        const next = addNow(manager, memory)
        assertOther(next.region, segment.region)
        segment.region.words.store(0, -1)
        last()
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 1 })
        for (const acknowledge of [first, last, last, first]) acknowledge()
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 1 })
        deleteNow(next)
        assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 2 })
      })
    }

    it("one acknowledges at once and the other later", () => {
      for (const late of [0, 1]) {
        const memory = makeMemory()
        const users = [new User(), new User()]
        users[late].isLate = true
        deleteNow(addFor(users, makeManager(), memory))
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
        users[late].unacknowledged[0]()
        assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
      }
    })

    it("the first one acknowledges before the second one is told", () => {
      const memory = makeMemory()
      const users = [new User(), new User()]
      const regions: Array<number> = []
      users[1].whenDeleted = () => void regions.push(memory.stats().regions)
      deleteNow(addFor(users, makeManager(), memory))
      assert.deepStrictEqual(regions, [1])
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
    })

    it("one cannot be told: the others are, and its region serves nobody else", () => {
      const memory = makeMemory()
      const broken = new User()
      broken.segmentDeleted = () => {
        throw new Error("gone")
      }
      const user = new User()
      const segment = addFor([broken, user], makeManager(), memory)
      deleteNow(segment)
      assertSameItems(user.deleted, [segment])
      assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
    })

    it("nobody was told, so nobody is waited for", () => {
      const memory = makeMemory()
      deleteNow(addFor([], makeManager(), memory))
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
    })

    it("what a late one has written is zeroed before the next one gets the region", () => {
      const memory = makeMemory()
      const manager = makeManager()
      const user = new User()
      user.isLate = true
      const segment = addFor([user], manager, memory)
      const pair = fillPair(segment)
      for (const fifo of pair) segment.fifos.releaseFifo(fifo)
      deleteNow(segment)
      const { chunks } = segment.fifos
      const data = bytesOf(segment.region).subarray(chunks.offset(0))
      data.fill(0xee, 0, PAIR)
      user.unacknowledged[0]()
      assert.isTrue(data.every((byte) => byte === 0))
    })
  })

  describe("a segment that other threads map", () => {
    const sizes = { segmentSize: 28 * PAGE, rxFifoSize: PAGE, txFifoSize: PAGE }
    // Tables of another length, and yet as many bytes.
    const otherSizes = { segmentSize: 29 * PAGE, rxFifoSize: 14 * PAGE, txFifoSize: 14 * PAGE }

    const assertNew = ({ fifos, manager, region }: SegmentManager.Segment) => {
      const other = FifoSegment.make(new SharedWords(new ArrayBuffer(manager.regionBytes)), manager.options)
      const tables = fifos.chunks.descriptors * 4
      const expected = other.words.view(0, tables)
      assert.isTrue(
        bytesOf(region)
          .subarray(0, tables)
          .every((byte, at) => byte === expected[at]),
        "tables that are not those of a new one"
      )
      const { rxFifoSize, txFifoSize } = manager.properties
      const pairs = Array.from({ length: Math.floor(manager.options.size / manager.pairBytes) }, () =>
        fifos.allocatePair(rxFifoSize, txFifoSize)
      )
      const byte = new Uint8Array(1)
      for (const [i, fifo] of pairs.flatMap((pair) => pair ?? assert.fail("no room for a pair")).entries()) {
        assert.strictEqual(fifo.enqueue(Uint8Array.of(i), 0, 1), 1)
        assert.strictEqual(fifo.dequeue(byte, 0, 1), 1)
        assert.strictEqual(byte[0], i & 255)
        fifos.releaseFifo(fifo)
      }
    }

    it("leaves nothing to the next one: its region is zeroed where it was touched, and divided anew", () => {
      const memory = makeMemory()
      const manager = makeManager(sizes)
      const thread = { isGone: false }
      const first = addNow(manager, memory, [thread])
      for (const fifo of fillPair(first)) first.fifos.releaseFifo(fifo)
      assert.strictEqual(first.fifos.availableBytes, first.fifos.size)
      deleteNow(first)
      assert.isUndefined(first.region.blank)
      assert.isTrue(bytesOf(first.region).every((byte) => byte === 0))
      const second = addNow(manager, memory, [thread])
      assertSame(second.region, first.region)
      assertOther(second.fifos, first.fifos)
      assertNew(second)
      deleteNow(second)
      // When the thread has gone it is as any other, the time after that.
      thread.isGone = true
      const third = addNow(manager, memory)
      assertSame(third.region, first.region)
      assertOther(third.fifos, second.fifos)
      assertNew(third)
      deleteNow(third)
      assertSame(third.region.blank, third.fifos)
      assertSame(addNow(manager, memory).fifos, third.fifos)
    })

    it("is made of what one of this thread alone has left", () => {
      const memory = makeMemory()
      const manager = makeManager(sizes)
      const first = addNow(manager, memory)
      deleteNow(first)
      const second = addNow(manager, memory, [{ isGone: false }])
      assertSame(second.fifos, first.fifos)
      assertSame(second.region.blank, undefined)
      deleteNow(second)
      assertSame(second.region.blank, undefined)
      assert.isTrue(bytesOf(second.region).every((byte) => byte === 0))
    })

    for (const [what, next] of [
      ["is divided as before", sizes],
      ["is divided in another way", otherSizes]
    ] as const) {
      for (const isGone of [false, true]) {
        it(`what a thread goes on to write everywhere is of no use to anybody who ${what}${isGone ? ", when it has gone" : ""}`, () => {
          for (const value of [0, 1, -1, 12, 0x55555555, 2 ** 31 - 1, -(2 ** 31)]) {
            const memory = makeMemory()
            const thread = { isGone: false }
            const managers = [makeManager(sizes), makeManager(next)]
            const first = addNow(managers[0], memory, [thread])
            for (const fifo of fillPair(first)) first.fifos.releaseFifo(fifo)
            deleteNow(first)
            const { words } = first.region
            for (let word = 0; word < words.byteLength / 4; word++) words.store(word, value)
            thread.isGone = isGone
            const second = addNow(managers[1], memory, isGone ? undefined : [thread])
            assertSame(second.region, first.region)
            assertNew(second)
            deleteNow(second)
            assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 1 })
          }
        })
      }
    }

    it("one that cannot be told because its thread has gone is waited for by nobody", () => {
      for (const isGone of [false, true]) {
        const memory = makeMemory()
        const users = [new User("user", { isGone }), new User()]
        users[0].segmentDeleted = () => {
          throw new Error("its port is closed")
        }
        const segment = addFor(users, makeManager(), memory)
        deleteNow(segment)
        assertSameItems(users[1].deleted, [segment])
        assert.deepInclude(memory.stats(), { regions: isGone ? 0 : 1, pooledRegions: isGone ? 1 : 0 })
      }
    })
  })

  const fifoSize = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 * PAGE })))

  it.prop(
    "as many pairs as a segment promises to hold can all be full at the same time",
    {
      rxFifoSize: fifoSize,
      txFifoSize: fifoSize,
      pairs: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5 }))),
      more: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 * PAGE - 1 })))
    },
    ({ more, pairs, rxFifoSize, txFifoSize }) => {
      const memory = makeMemory()
      const segmentSize = pairs * FifoSegment.pairBytes(rxFifoSize, txFifoSize) + more
      const manager = makeManager({ segmentSize, rxFifoSize, txFifoSize })
      // Twice in the same region: what was left of the first one promises the same.
      for (let turn = 0; turn < 2; turn++) {
        const segment = addNow(manager, memory)
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
        for (const fifo of fifos) segment.fifos.releaseFifo(fifo)
        deleteNow(segment)
        assert.deepInclude(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 1 })
      }
    },
    { arbitrary: { runs: 200 } }
  )
})
