/**
 * Accounts and lifetimes that went wrong in VPP's cut-through transport, each under its number. Where there is nothing
 * here that could go wrong in that way (no counts of 8 bits, no numbers packed into one), the behaviour is shown.
 */
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as SessionError from "@cut-through/core/SessionError"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import {
  assertAlive,
  assertAtRest,
  assertLeases,
  assertOther,
  assertRest,
  assertSame,
  assertSameItems,
  assertUsable,
  everyInterleaving,
  makeContexts,
  makeManager,
  makeMemory,
  makeWorld,
  noMemory,
  PAGE,
  PAIR,
  releaseBoth,
  setUp,
  ShortMemory,
  sideCounts,
  SlowMemory,
  User,
  type World
} from "./fixtures.ts"

/** A world in which memory comes as one of the steps. */
interface SlowWorld extends World {
  readonly slow: SlowMemory
}

const setUpSlow = (pairs: number): SlowWorld => {
  const slow = new SlowMemory()
  return { ...setUp({ pairs, memory: slow.service }), slow }
}

const memoryComes = ({ slow }: SlowWorld) => (slow.pending > 0 ? () => slow.allow() : undefined)

/** Leases that are there before memory is slow. */
const acquireNow = (world: SlowWorld): SegmentContext.Leases => {
  world.slow.allowAll()
  const leases = world.acquire()
  world.slow.slowDown()
  return leases
}

const acquireUsable = ({ contexts }: World, request: SegmentContext.Request) =>
  Effect.uninterruptible(
    Effect.map(contexts.acquire(request), (leases) => {
      assertUsable(request, leases)
      return leases
    })
  )

/** One side leaves, then, some steps later, the other. */
const releaseInSteps = ({ contexts }: World, { client, server }: SegmentContext.Leases) =>
  Effect.sync(() => contexts.release(client)).pipe(
    Effect.andThen(Effect.yieldNow),
    Effect.andThen(Effect.sync(() => contexts.release(server)))
  )

describe("SegmentContext: defects elsewhere", () => {
  for (const count of [257, 512]) {
    it(`D1 ${count} connections on one segment close one by one, and it lives as long as the last`, () => {
      const world = setUp({ pairs: count })
      const { client, contexts, server } = world
      const all = Array.from({ length: count }, () => world.acquire())
      assert.deepStrictEqual(sideCounts(contexts), [[count, count]])
      for (let left = count - 1; left > 0; left--) {
        releaseBoth(world, all[left])
        assert.deepStrictEqual(sideCounts(contexts), [[left, left]])
        assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: false })
        assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
        // It is in use: the next connection goes there. All others are looked at where a byte would be full or empty.
        const next = world.acquire()
        assertSame(next.client.segment, all[0].client.segment)
        releaseBoth(world, next)
        if (left % 256 === 0 || left % 256 === 255) for (const leases of all.slice(0, left)) assertAlive(leases)
      }
      releaseBoth(world, all[0])
      assertRest(world)
    })

    it(`D1 ${count} connections on one segment are left by one side after the other`, () => {
      const world = setUp({ pairs: count })
      const { client, contexts, server } = world
      const all = Array.from({ length: count }, () => world.acquire())
      for (const side of ["client", "server"] as const) {
        for (let left = count; left > 0; left--) {
          assert.deepInclude(contexts.stats().segments[0], {
            clientSessions: side === "client" ? left : 0,
            serverSessions: side === "client" ? count : left,
            clientDetached: side === "server",
            serverDetached: false
          })
          assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
          contexts.release(all[left - 1][side])
        }
      }
      assertRest(world)
    })
  }

  it("D2a when the only connection is refused its segment goes, and so for every refused one", () => {
    const world = setUp()
    const { client, contexts, memory, server } = world
    for (let refused = 1; refused <= 100; refused++) {
      const leases = world.acquire()
      // The client never was there. Both sides count from the start all the same.
      assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
      contexts.release(refused % 2 === 0 ? leases.server : leases.client)
      contexts.release(refused % 2 === 0 ? leases.client : leases.server)
      assertRest(world)
      assert.deepStrictEqual([client.deleted.size, server.deleted.size], [refused, refused])
    }
    assert.strictEqual(memory.stats().pooledRegions, 1)
  })

  it("D2a a refused connection leaves the segment to those that were not refused", () => {
    const world = setUp()
    const { contexts } = world
    const refused = world.acquire()
    const other = world.acquire()
    releaseBoth(world, refused)
    assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: false })
    assertUsable(world.request, other)
    const next = world.acquire()
    assertSame(next.client.segment, other.client.segment)
    for (const leases of [other, next]) releaseBoth(world, leases)
    assertRest(world)
  })

  it("D2b the first connection closes while the second one has no answer yet, and its segment stays", () => {
    const world = setUp()
    const { client, contexts } = world
    const established = world.acquire()
    const halfOpen = world.acquire()
    contexts.release(established.client)
    assert.deepStrictEqual(sideCounts(contexts), [[1, 2]])
    assert.strictEqual(client.deleted.size, 0)
    assert.isTrue(client.mapped.has(halfOpen.client.segment))
    assert.deepInclude(contexts.stats().segments[0], { clientDetached: false })
    contexts.release(established.server)
    assertAlive(halfOpen)
    contexts.release(halfOpen.server)
    contexts.release(halfOpen.client)
    assertRest(world)
  })

  it("D3 both sides leave at the same time: no flag is lost, whatever the order", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUp()
        return { ...world, pairs: [world.acquire(), world.acquire()] }
      },
      fibers: (["client", "server"] as const).map(
        (side) => (state: World & { readonly pairs: ReadonlyArray<SegmentContext.Leases> }) =>
          Effect.forEach(state.pairs, (leases) =>
            Effect.andThen(
              Effect.sync(() => state.contexts.release(leases[side])),
              Effect.yieldNow
            )
          )
      ),
      check(state) {
        assert.deepStrictEqual([state.client.deleted.size, state.server.deleted.size], [1, 1])
        assertRest(state)
      }
    })
    assert.isAbove(orders, 100)
  })

  it("D4a a client that has detached once does not lose the segment of its next connection", () => {
    const world = setUp()
    const { client, contexts } = world
    const first = world.acquire()
    contexts.release(first.client)
    // The flag of the first segment is set and stays: this one is elsewhere.
    const second = world.acquire()
    assertOther(second.client.segment, first.client.segment)
    contexts.release(first.server)
    assert.strictEqual(contexts.stats().segments.length, 1)
    assert.isTrue(client.mapped.has(second.client.segment))
    contexts.release(second.server)
    assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: true })
    assertAlive(second)
    contexts.release(second.client)
    assertRest(world)
  })

  it("D4b the last connection leaves while the next one looks for a segment: it gets a living one", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUpSlow(2)
        return { ...world, first: acquireNow(world) }
      },
      fibers: [
        (state) => releaseInSteps(state, state.first),
        (state) => Effect.map(acquireUsable(state, state.request), (leases) => releaseBoth(state, leases))
      ],
      event: memoryComes,
      check: (state) => assertRest(state)
    })
    assert.isAbove(orders, 20)
  })

  it("D4b whoever is told that a segment has gone, and asks for leases then, gets a living one", () => {
    for (const side of ["client", "server"] as const) {
      const world = setUp()
      const first = world.acquire()
      const next: Array<SegmentContext.Leases> = []
      world[side].whenDeleted = () => {
        world[side].whenDeleted = () => {}
        next.push(world.acquire())
      }
      releaseBoth(world, first)
      assertOther(next[0].client.segment, first.client.segment)
      assertUsable(world.request, next[0])
      releaseBoth(world, next[0])
      assertRest(world)
    }
  })

  it("D4c the last client and the last server leave at the same time: the segment is removed once", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUp()
        return { ...world, pairs: [world.acquire(), world.acquire()] }
      },
      fibers: [
        (state) => releaseInSteps(state, state.pairs[0]),
        // In the other order, and each more than once.
        (state) => {
          const { client, server } = state.pairs[1]
          return releaseInSteps(state, { ...state.pairs[1], client: server, server: client }).pipe(
            Effect.andThen(releaseInSteps(state, state.pairs[1]))
          )
        }
      ],
      check(state) {
        assert.deepStrictEqual([state.client.deleted.size, state.server.deleted.size], [1, 1])
        assert.strictEqual(state.memory.stats().pooledRegions, 1)
        assertRest(state)
      }
    })
    assert.isAbove(orders, 20)
  })

  it("D4c whoever releases everything again when told of the deletion does no harm", () => {
    for (const side of ["client", "server"] as const) {
      const world = setUp()
      const pairs = [world.acquire(), world.acquire()]
      world[side].whenDeleted = () => {
        for (const leases of pairs) releaseBoth(world, leases)
      }
      for (const leases of pairs) releaseBoth(world, leases)
      assert.strictEqual(world.memory.stats().pooledRegions, 1)
      assertRest(world)
    }
  })

  it("D5 a server that cannot be told leaves no count, no segment and no context behind", () => {
    const world = setUp({ pairs: 2 })
    const { client, contexts, manager, memory, request, server } = world
    server.failNext()
    const counts: Array<unknown> = []
    // What is there in the moment of failing is whole.
    const { whenAdded } = server
    server.whenAdded = (segment) => {
      counts.push(sideCounts(contexts), manager.segments.get(segment.handle) === segment)
      whenAdded(segment)
    }
    assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
    assert.deepStrictEqual(counts, [[[1, 1]], true])
    assertRest(world)
    // Nobody finds the context that has gone: the next ones make one, with counts of its own, in the same place.
    const others = [world.acquire(), assertLeases(contexts.tryAcquire({ manager, client: server, server: client }))]
    assert.deepStrictEqual(sideCounts(contexts), [
      [1, 1],
      [1, 1]
    ])
    assert.strictEqual(contexts.stats().contexts, 2)
    assert.strictEqual(memory.stats().regions, 2)
    for (const leases of others) releaseBoth(world, leases)
    assertRest(world)
  })

  it("D5 a server that cannot be told while others wait for the same segment: their counts are right", () => {
    const orders = everyInterleaving<SlowWorld & { failed: number }>({
      setUp: () => {
        const world = setUpSlow(4)
        world.server.failNext()
        return { ...world, failed: 0 }
      },
      fibers: Array.from(
        { length: 3 },
        () => (state) =>
          Effect.match(acquireUsable(state, state.request), {
            onFailure: () => state.failed++,
            onSuccess: (leases) => releaseBoth(state, leases)
          })
      ),
      event: memoryComes,
      ops: [10, 12],
      check(state) {
        assert.strictEqual(state.failed, 1)
        assertRest(state)
      }
    })
    assert.isAbove(orders, 100)
  })

  it("D6 two that come at once share one context and one segment, whatever the order", () => {
    const shares = new Set<number>()
    const orders = everyInterleaving<SlowWorld & { readonly held: Array<SegmentContext.Leases> }>({
      setUp: () => ({ ...setUpSlow(2), held: [] }),
      fibers: Array.from(
        { length: 2 },
        () => (state) => Effect.map(acquireUsable(state, state.request), (leases) => state.held.push(leases))
      ),
      event: memoryComes,
      check(state, where) {
        const { contexts, held, manager, slow } = state
        const segments = new Set(held.map((leases) => leases.client.segment))
        shares.add(segments.size)
        assert.strictEqual(segments.size, 1, where)
        assert.strictEqual(slow.asked, 1, where)
        assert.strictEqual(contexts.stats().contexts, 1, where)
        assert.deepStrictEqual(sideCounts(contexts), [[2, 2]], where)
        assert.strictEqual(manager.segments.size, 1, where)
        for (const leases of held) releaseBoth(state, leases)
        assertRest(state)
      }
    })
    assert.isAbove(orders, 100)
  })

  it.effect("D6 of many that come at once each finds the segment that another one has made", () =>
    Effect.gen(function* () {
      const world = setUpSlow(8)
      const { contexts, request, slow } = world
      const fibers = Array.from({ length: 100 }, () => Effect.runFork(contexts.acquire(request)))
      let allocations = 0
      for (; slow.pending > 0; allocations++) {
        assert.strictEqual(slow.pending, 1, "two wait for memory for the same context")
        slow.allow()
        yield* Effect.yieldNow
      }
      assert.strictEqual(allocations, Math.ceil(100 / 8))
      assert.strictEqual(contexts.stats().contexts, 1)
      assert.strictEqual(contexts.stats().segments.length, allocations)
      for (const fiber of fibers) releaseBoth(world, yield* Fiber.join(fiber))
      assertRest(world)
    })
  )

  it.effect("D14 without memory a connect fails, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const short = new ShortMemory(1)
      const world = setUp({ pairs: 1, memory: short.service })
      const { client, contexts, manager, request, server } = world
      const leases = world.acquire()
      const before = contexts.stats()
      for (let i = 0; i < 3; i++) {
        const error = yield* Effect.flip(contexts.acquire(request))
        assert.strictEqual(error, noMemory)
        assert.deepStrictEqual(contexts.stats(), before)
        assert.strictEqual(manager.segments.size, 1)
      }
      assertAlive(leases)
      short.left = 1
      const second = world.acquire()
      for (const lease of [leases.client, second.client, second.server, leases.server]) contexts.release(lease)
      assertRest(world)
      // Also where there was no context before.
      assert.strictEqual(yield* Effect.flip(contexts.acquire({ manager, client: server, server: client })), noMemory)
      assertRest(world)
    })
  )

  it.effect("D14 those who waited for memory in vain are told so, and the next one tries again", () =>
    Effect.gen(function* () {
      const world = setUpSlow(8)
      const { contexts, request, slow } = world
      const [first, second, third] = Array.from({ length: 3 }, () => Effect.runFork(contexts.acquire(request)))
      slow.refuse()
      assert.strictEqual(yield* Effect.flip(Fiber.join(first)), noMemory)
      slow.allow()
      const leases = [yield* Fiber.join(second), yield* Fiber.join(third)]
      assert.strictEqual(slow.asked, 2)
      for (const pair of leases) releaseBoth(world, pair)
      assertRest(world)
    })
  )

  it("D15 each side is told once that a segment has gone, whichever lease was the last", () => {
    for (const order of [
      ["client", "server"],
      ["server", "client"]
    ] as const) {
      const world = setUp()
      const { client, contexts, server } = world
      const all = Array.from({ length: 3 }, () => world.acquire())
      const { segment } = all[0].client
      for (const side of order) {
        // A `User` complains when it is told twice.
        for (const leases of all) {
          assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
          contexts.release(leases[side])
        }
      }
      for (const user of [client, server]) assertSameItems(user.deleted, [segment])
      for (const leases of all) for (const side of order) contexts.release(leases[side])
      assertRest(world)
    }
  })

  it("D16 a new segment is nobody else's for a moment: two clients of one listener, whatever the order", () => {
    const orders = everyInterleaving<SlowWorld & { readonly held: Array<SegmentContext.Leases>; readonly other: User }>(
      {
        setUp: () => ({ ...setUpSlow(2), held: [], other: new User() }),
        fibers: [
          (state) => Effect.map(acquireUsable(state, state.request), (leases) => (state.held[0] = leases)),
          (state) =>
            Effect.map(
              acquireUsable(state, { ...state.request, client: state.other }),
              (leases) => (state.held[1] = leases)
            )
        ],
        event: memoryComes,
        check(state) {
          const { client, contexts, held, manager, memory, other, server } = state
          assertOther(held[0].client.segment, held[1].client.segment)
          assertSameItems(client.mapped, [held[0].client.segment])
          assertSameItems(other.mapped, [held[1].client.segment])
          assert.strictEqual(server.mapped.size, 2)
          assert.strictEqual(manager.segments.size, 2)
          for (const leases of held) releaseBoth(state, leases)
          assertAtRest(contexts, memory, [manager], [client, server, other])
        }
      }
    )
    assert.isAbove(orders, 100)
  })

  describe("D26 R5 a segment that cannot give what it seems to have", () => {
    /** Takes all chunks, as FIFOs do that have grown in more pieces than they were counted for. */
    const exhaust = ({ fifos }: Segment): Array<number> => {
      const taken: Array<number> = []
      for (let chunk = fifos.chunks.allocate(PAGE); chunk >= 0; chunk = fifos.chunks.allocate(PAGE)) taken.push(chunk)
      return taken
    }

    const giveBack = ({ fifos }: Segment, chunks: ReadonlyArray<number>) => {
      for (const chunk of chunks) assert.isTrue(fifos.chunks.release(chunk))
    }

    it("is passed over for the next one, then for a new one, and used again when it can", () => {
      const world = setUp({ pairs: 4 })
      const { contexts } = world
      const all = Array.from({ length: 8 }, () => world.acquire())
      const [a, b] = [all[0].client.segment, all[4].client.segment]
      // Pairs left: a 3, b 2.
      for (const index of [1, 2, 3, 5, 6]) releaseBoth(world, all[index])
      const inA = exhaust(a)
      all.push(world.acquire())
      assertSame(all[8].client.segment, b)
      const inB = exhaust(b)
      all.push(world.acquire())
      const c = all[9].client.segment
      assertOther(c, a, b)
      // What was in vain has left nothing.
      assert.deepStrictEqual(
        contexts.stats().segments.map(({ activeFifos, committedBytes }) => [activeFifos, committedBytes]),
        [
          [2, PAIR],
          [6, 3 * PAIR],
          [2, PAIR]
        ]
      )
      // With one chunk more it is not enough either.
      giveBack(a, inA.splice(0, 1))
      const inC = exhaust(c)
      all.push(world.acquire())
      assertOther(all[10].client.segment, a, b, c)
      const inD = exhaust(all[10].client.segment)
      giveBack(a, inA)
      all.push(world.acquire(), world.acquire())
      for (const leases of all.slice(11)) assertSame(leases.client.segment, a)
      giveBack(b, inB)
      giveBack(c, inC)
      giveBack(all[10].client.segment, inD)
      for (const leases of all) {
        if (!leases.rx.references) continue
        assertUsable(world.request, leases)
        releaseBoth(world, leases)
      }
      assertRest(world)
    })

    it("does not keep a connect from its memory when a new one can be made, nor from the reason when not", () => {
      const short = new ShortMemory(1)
      const world = setUp({ pairs: 2, memory: short.service })
      const { contexts, request } = world
      const first = world.acquire()
      const taken = exhaust(first.client.segment)
      assert.isUndefined(contexts.tryAcquire(request))
      assert.strictEqual(Effect.runSync(Effect.flip(contexts.acquire(request))), noMemory)
      assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
      short.left = 1
      const second = world.acquire()
      assertOther(second.client.segment, first.client.segment)
      giveBack(first.client.segment, taken)
      for (const leases of [first, second]) releaseBoth(world, leases)
      assertRest(world)
    })

    it("gives its region back zeroed when what it lacks never came back", () => {
      const world = setUp({ pairs: 2 })
      const first = world.acquire()
      const { fifos, region } = first.client.segment
      const taken = exhaust(first.client.segment)
      region.words.copyIn(fifos.chunks.offset(taken[0]), new Uint8Array(PAGE).fill(0xff), 0, PAGE)
      releaseBoth(world, first)
      assertRest(world)
      assertSame(region.blank, undefined)
      assert.isTrue(region.words.view(0, region.words.byteLength).every((byte) => byte === 0))
      const pairs = [world.acquire(), world.acquire()]
      for (const leases of pairs) {
        assertSame(leases.client.segment.region, region)
        assertUsable(world.request, leases)
      }
      for (const leases of pairs) releaseBoth(world, leases)
      assertRest(world)
    })
  })

  it("D28 66,000 users are 66,000 users", () => {
    const memory = makeMemory()
    const contexts = makeContexts(memory)
    const manager = makeManager({ segmentSize: PAIR })
    const server = new User()
    const total = 66_000
    const clients = Array.from({ length: total }, (_, i) => new User(`client/${i}`))
    const held: Array<SegmentContext.Leases> = []
    for (const [i, client] of clients.entries()) {
      // Those whose numbers have the same low 16 bits as another one's; the rest could not collide with anybody.
      if (i % 65_536 >= total - 65_536) continue
      held.push(assertLeases(contexts.tryAcquire({ manager, client, server })))
      assert.strictEqual(client.mapped.size, 1)
    }
    assert.strictEqual(held.length, 2 * (total - 65_536))
    assert.strictEqual(contexts.stats().contexts, held.length)
    assert.strictEqual(server.mapped.size, held.length)
    assert.strictEqual(new Set(held.map((leases) => leases.client.segment)).size, held.length)
    for (const leases of held) {
      assert.deepStrictEqual([leases.rx.references, leases.tx.references], [2, 2])
      contexts.release(leases.server)
      contexts.release(leases.client)
    }
    assertAtRest(contexts, memory, [manager], [server, ...clients])
  })

  it.effect("D32 one connection after the other makes one segment when it lingers", () =>
    Effect.gen(function* () {
      const world = yield* makeWorld({ linger: Duration.seconds(1) })
      const { client, memory } = world
      const segments = new Set<Segment>()
      for (let i = 0; i < 1000; i++) {
        const leases = world.acquire()
        segments.add(leases.client.segment)
        assertUsable(world.request, leases)
        releaseBoth(world, leases)
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
        if (i % 100 === 0) yield* TestClock.adjust(999)
      }
      assert.strictEqual(segments.size, 1)
      assert.strictEqual(client.deleted.size, 0)
      yield* TestClock.adjust(1000)
      assert.strictEqual(client.deleted.size, 1)
      assertRest(world)
    })
  )

  it("D32 one connection after the other uses one region when no segment lingers", () => {
    const world = setUp()
    const { client, memory } = world
    const first = world.acquire()
    const { fifos, region } = first.client.segment
    releaseBoth(world, first)
    for (let i = 1; i <= 1000; i++) {
      const leases = world.acquire()
      assertSame(leases.client.segment.region, region)
      // Nor is the region divided anew: what the last one has left serves again.
      assertSame(leases.client.segment.fifos, fifos)
      assert.strictEqual(fifos.availableBytes, fifos.size - PAIR)
      assertUsable(world.request, leases)
      leases.rx.enqueue(new Uint8Array(PAGE).fill(i), 0, PAGE)
      releaseBoth(world, leases)
      assert.strictEqual(client.deleted.size, i + 1)
      assert.deepStrictEqual(memory.stats(), {
        regions: 0,
        bytes: 0,
        pooledRegions: 1,
        pooledBytes: world.manager.regionBytes
      })
    }
    assertRest(world)
  })

  // R3 is the same for those who have nothing to do with cut-through: here all go through one door.
  it("D41 R3 segments come and go while others look for one: nobody gets one that has gone", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUpSlow(1)
        return { ...world, other: new User(), first: acquireNow(world), second: acquireNow(world) }
      },
      fibers: [
        (state) => Effect.map(acquireUsable(state, state.request), (leases) => releaseBoth(state, leases)),
        (state) =>
          Effect.map(acquireUsable(state, { ...state.request, client: state.other }), (leases) =>
            releaseBoth(state, leases)
          ),
        (state) => releaseInSteps(state, state.second)
      ],
      event: memoryComes,
      ops: [10],
      check(state) {
        const { client, contexts, first, manager, memory, other, request, server } = state
        // It has stayed all the time.
        assertUsable(request, first)
        assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
        releaseBoth(state, first)
        assertAtRest(contexts, memory, [manager], [client, server, other])
      }
    })
    assert.isAbove(orders, 100)
  })

  it.effect("R1 the context of one who waits for memory has gone when memory comes", () =>
    Effect.gen(function* () {
      const world = setUpSlow(1)
      const { contexts, request, slow } = world
      const first = acquireNow(world)
      const fibers = [0, 1].map(() => Effect.runFork(contexts.acquire(request)))
      releaseBoth(world, first)
      assert.deepStrictEqual(contexts.stats(), { contexts: 0, leases: 0, fifoBytes: 0, segments: [] })
      slow.allowAll()
      const pairs = [yield* Fiber.join(fibers[0]), yield* Fiber.join(fibers[1])]
      // One new context for both: the old one does not come back.
      assert.deepInclude(contexts.stats(), { contexts: 1, leases: 4 })
      assert.strictEqual(contexts.stats().segments.length, 2)
      for (const leases of pairs) {
        assertUsable(request, leases)
        releaseBoth(world, leases)
      }
      assertRest(world)
    })
  )

  it("R1 the same, whatever the order", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUpSlow(1)
        return { ...world, first: acquireNow(world) }
      },
      fibers: [
        (state) => Effect.map(acquireUsable(state, state.request), (leases) => releaseBoth(state, leases)),
        (state) => Effect.map(acquireUsable(state, state.request), (leases) => releaseBoth(state, leases)),
        (state) => Effect.sync(() => releaseBoth(state, state.first))
      ],
      event: memoryComes,
      ops: [8],
      check: (state) => assertRest(state)
    })
    assert.isAbove(orders, 100)
  })

  it("R2 down to none, up to one and down to none again: each segment is removed once", () => {
    const orders = everyInterleaving({
      setUp: () => {
        const world = setUpSlow(2)
        return { ...world, first: acquireNow(world) }
      },
      fibers: [
        // 1 to 0.
        (state) => releaseInSteps(state, state.first),
        // 0 to 1, and to 0 again.
        (state) =>
          Effect.flatMap(acquireUsable(state, state.request), (leases) =>
            Effect.andThen(Effect.yieldNow, releaseInSteps(state, leases))
          )
      ],
      event: memoryComes,
      check(state) {
        const { client, server, slow } = state
        assert.deepStrictEqual([client.deleted.size, server.deleted.size], [slow.asked + 1, slow.asked + 1])
        assertRest(state)
      }
    })
    assert.isAbove(orders, 50)
  })
})
