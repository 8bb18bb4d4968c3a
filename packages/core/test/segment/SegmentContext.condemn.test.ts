/** What becomes of segments when the thread of a user dies. */
import type { Fifo } from "@cut-through/core/memory/Fifo"
import type { Mapper } from "@cut-through/core/memory/SharedMemory"
import type * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import * as SessionError from "@cut-through/core/SessionError"
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
  makeManager,
  makeMemory,
  makeWorld,
  type Memory,
  PAGE,
  PAIR,
  releaseBoth,
  setUp,
  sideCounts,
  SlowMemory,
  User,
  type World
} from "./fixtures.ts"

const LINGER = 100

const sides = ["client", "server"] as const

const otherOf = { client: "server", server: "client" } as const

/** That there are none because the thread of this user has died. */
const assertDied = (answer: SegmentContext.Leases | SessionError.SessionError | undefined, user: User): void => {
  assert.instanceOf(answer, SessionError.SessionError)
  const { reason } = answer
  assert.deepInclude(reason, { _tag: "PeerDied", endpoint: user.name, bytesReceived: 0 })
}

const bytesOf = ({ region }: Segment): Uint8Array => region.words.view(0, region.words.byteLength)

const permutations = <A>(values: ReadonlyArray<A>): Array<ReadonlyArray<A>> =>
  values.length < 2
    ? [values]
    : values.flatMap((value, i) => permutations(values.toSpliced(i, 1)).map((rest) => [value, ...rest]))

/** A world whose users live in threads: by default the client, the server or both, as given. */
const inThreads = (
  who: ReadonlyArray<SegmentContext.Side>,
  options: Parameters<typeof setUp>[0] = {}
): World & { readonly mappers: Record<SegmentContext.Side, { isGone: boolean }> } => {
  const world = setUp(options)
  const mappers = { client: { isGone: false }, server: { isGone: false } }
  const user = (side: SegmentContext.Side) => new User(side, who.includes(side) ? mappers[side] : undefined)
  const [client, server] = [user("client"), user("server")]
  const request = { manager: world.manager, client, server }
  return {
    ...world,
    client,
    server,
    request,
    mappers,
    acquire: () => assertLeases(world.contexts.tryAcquire(request))
  }
}

describe("SegmentContext when a thread dies", () => {
  for (const dead of sides) {
    const left = otherOf[dead]

    it(`the ${dead}'s flag is set at once, and nothing else changes for those who are left`, () => {
      const world = setUp()
      const { contexts } = world
      const all = [world.acquire(), world.acquire()]
      const before = contexts.stats()
      assert.deepInclude(before.segments[0], { condemned: false })
      contexts.condemn(world[dead])
      assert.deepStrictEqual(contexts.stats(), {
        ...before,
        segments: [{ ...before.segments[0], [`${dead}Detached`]: true, condemned: true }]
      })
      for (const leases of all) {
        assertAlive(leases)
        assertSame(world.manager.segments.get(leases.client.segment.handle), leases.client.segment)
      }
      assert.deepStrictEqual([world.client.deleted.size, world.server.deleted.size], [0, 0])
      assert.strictEqual(world.manager.account.fifoMemory, 2 * PAIR)
      for (const leases of all) releaseBoth(world, leases)
      assertRest(world)
    })

    it(`its segment goes once, with the last lease of both sides, in whatever order, when the ${dead} has died`, () => {
      for (const order of permutations([0, 1, 2, 3])) {
        // The death comes between any two releases.
        for (let at = 0; at <= 4; at++) {
          const world = setUp()
          const { client, contexts, manager, memory, server } = world
          const pairs = [world.acquire(), world.acquire()]
          const leases = pairs.flatMap((pair) => [pair.client, pair.server])
          const { segment } = pairs[0].client
          const where = `${order.join("")}, death before ${at}`
          for (const [step, index] of order.entries()) {
            if (step === at) contexts.condemn(world[dead])
            assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0], where)
            assert.strictEqual(contexts.stats().leases, 4 - step, where)
            assert.strictEqual(memory.stats().regions, 1, where)
            assertSame(manager.segments.get(segment.handle), segment, where)
            contexts.release(leases[index])
            // Again, as whoever closes the sessions of the dead may.
            contexts.release(leases[index])
          }
          if (at === 4) contexts.condemn(world[dead])
          for (const user of [client, server]) assertSameItems(user.deleted, [segment])
          for (const lease of leases) contexts.release(lease)
          contexts.condemn(world[dead])
          assertRest(world)
        }
      }
    })

    it(`nobody gets leases with the ${dead} any more, at once or later, in the segment or in another one`, () => {
      const world = setUp()
      const { contexts, manager, memory, request } = world
      const first = world.acquire()
      contexts.condemn(world[dead])
      for (let i = 0; i < 2; i++) {
        const before = contexts.stats()
        const memoryBefore = memory.stats()
        assertDied(contexts.tryAcquire(request), world[dead])
        assertDied(Effect.runSync(Effect.flip(contexts.acquire(request))), world[dead])
        assert.deepStrictEqual(contexts.stats(), before)
        assert.strictEqual(manager.segments.size, 1 - i)
        assert.deepStrictEqual(memory.stats(), memoryBefore)
        if (i === 0) releaseBoth(world, first)
      }
      assertRest(world)
      // Whoever is left finds another one.
      const next = new User("next")
      const other = { ...request, [dead]: next }
      const leases = assertLeases(contexts.tryAcquire(other))
      assertUsable(other, leases)
      releaseBoth(world, leases)
      assertAtRest(contexts, memory, [manager], [next])
    })

    it(`what the ${dead} shares with nobody stays as it is`, () => {
      const world = setUp()
      const { contexts, manager, memory, request } = world
      const next = new User("next")
      const others = [
        { ...request, [dead]: next },
        { ...request, client: next, server: next },
        { manager: makeManager({}, "other"), client: next, server: world[left] }
      ]
      const first = world.acquire()
      const held = others.map((other) => assertLeases(contexts.tryAcquire(other)))
      contexts.condemn(world[dead])
      assert.deepStrictEqual(
        contexts
          .stats()
          .segments.map(({ clientDetached, condemned, serverDetached }) => [
            condemned,
            clientDetached || serverDetached
          ]),
        [
          [true, true],
          [false, false],
          [false, false],
          [false, false]
        ]
      )
      for (const [i, other] of others.entries()) {
        const again = assertLeases(contexts.tryAcquire(other))
        assertSame(again.client.segment, held[i].client.segment)
        assertUsable(other, again)
        releaseBoth(world, again)
      }
      for (const leases of [first, ...held]) releaseBoth(world, leases)
      assertAtRest(contexts, memory, [manager, others[2].manager], [next, world.client, world.server])
    })

    it(`a detached ${left} side stays detached when the ${dead} dies, and the other way round`, () => {
      const world = setUp()
      const { contexts } = world
      const leases = world.acquire()
      contexts.release(leases[left])
      contexts.condemn(world[dead])
      assert.deepInclude(contexts.stats().segments[0], {
        clientDetached: true,
        serverDetached: true,
        condemned: true,
        clientSessions: dead === "client" ? 1 : 0,
        serverSessions: dead === "server" ? 1 : 0
      })
      assert.strictEqual(world[left].deleted.size, 0)
      contexts.release(leases[dead])
      assertRest(world)
    })

    it.effect(`a segment lingers no more when the ${dead} has died: without connections it goes at once`, () =>
      Effect.gen(function* () {
        const world = yield* makeWorld({ linger: Duration.millis(LINGER) })
        const { contexts } = world
        const leases = world.acquire()
        const { segment } = leases.client
        releaseBoth(world, leases)
        assert.deepInclude(contexts.stats().segments[0], { lingers: true, condemned: false })
        yield* TestClock.adjust(LINGER / 2)
        contexts.condemn(world[dead])
        for (const user of [world.client, world.server]) assertSameItems(user.deleted, [segment])
        assertRest(world)
        yield* TestClock.adjust(LINGER)
        assertRest(world)
      })
    )

    it.effect(`with connections it goes with the last of them, and waits for no time, when the ${dead} has died`, () =>
      Effect.gen(function* () {
        for (const order of permutations(["client", "server"] as const)) {
          const world = yield* makeWorld({ linger: Duration.millis(LINGER) })
          const { contexts } = world
          const leases = world.acquire()
          contexts.condemn(world[dead])
          assert.deepInclude(contexts.stats(), { leases: 2 })
          assert.deepInclude(contexts.stats().segments[0], {
            lingers: false,
            condemned: true,
            clientSessions: 1,
            serverSessions: 1
          })
          yield* TestClock.adjust(2 * LINGER)
          assertAlive(leases)
          contexts.release(leases[order[0]])
          assert.strictEqual(contexts.stats().segments.length, 1)
          contexts.release(leases[order[1]])
          assertRest(world)
        }
      })
    )
  }

  it("both sides die, one after the other, and the session layer closes what was theirs", () => {
    for (const [first, second] of permutations(["client", "server"] as const)) {
      for (const order of permutations([0, 1, 2, 3])) {
        const world = setUp()
        const { contexts } = world
        const leases = [world.acquire(), world.acquire()].flatMap((pair) => [pair.client, pair.server])
        contexts.condemn(world[first])
        contexts.release(leases[order[0]])
        contexts.condemn(world[second])
        assert.deepInclude(contexts.stats().segments[0], { clientDetached: true, serverDetached: true })
        for (const index of order.slice(1)) {
          assert.strictEqual(contexts.stats().segments.length, 1)
          contexts.release(leases[index])
        }
        assertRest(world)
      }
    }
  })

  it("a condemned segment is not even asked for room", () => {
    for (const dead of sides) {
      const world = setUp()
      const { contexts, request } = world
      const leases = world.acquire()
      const { fifos } = leases.client.segment
      let asked = 0
      fifos.allocatePair = () => {
        asked++
        return undefined
      }
      contexts.condemn(world[dead])
      assertDied(contexts.tryAcquire(request), world[dead])
      assert.strictEqual(asked, 0)
      releaseBoth(world, leases)
      assertRest(world)
    }
  })

  it("who is client and server of one segment detaches on both sides", () => {
    const world = setUp()
    const { client, contexts, manager, memory } = world
    const leases = assertLeases(contexts.tryAcquire({ manager, client, server: client }))
    contexts.condemn(client)
    assert.deepInclude(contexts.stats().segments[0], { clientDetached: true, serverDetached: true, condemned: true })
    contexts.release(leases.client)
    assert.strictEqual(contexts.stats().segments.length, 1)
    contexts.release(leases.server)
    assert.strictEqual(client.deleted.size, 1)
    assertAtRest(contexts, memory, [manager], [client])
  })

  it("all segments of the dead are condemned, of every manager and every peer, full and empty ones", () => {
    const world = setUp({ pairs: 1, linger: Duration.seconds(1) })
    const { client, contexts, manager, memory, server } = world
    const other = new User("other")
    const requests = [
      { manager, client, server },
      { manager, client: other, server: client },
      { manager: makeManager({}, "second"), client, server: other },
      { manager, client: other, server }
    ]
    const held = requests.flatMap((request) => [
      assertLeases(contexts.tryAcquire(request)),
      assertLeases(contexts.tryAcquire(request))
    ])
    // Of one manager there is a segment each, of the other one for both.
    assert.strictEqual(contexts.stats().segments.length, 7)
    releaseBoth(world, held[0])
    contexts.condemn(client)
    // The empty one has gone.
    assert.strictEqual(
      contexts
        .stats()
        .segments.map(({ condemned, lingers }) => `${condemned ? "condemned" : ""}${lingers ? "lingers" : ""}`)
        .join(),
      "condemned,condemned,condemned,condemned,lingers,lingers"
    )
    for (const leases of held.slice(1)) releaseBoth(world, leases)
    contexts.closeManager(manager)
    assertAtRest(contexts, memory, [manager, requests[2].manager], [client, server, other])
  })

  it("a user that was removed may be condemned, and one that was condemned removed", () => {
    for (const isRemovedFirst of [true, false]) {
      const world = setUp({ linger: Duration.seconds(1) })
      const { client, contexts, request } = world
      const leases = world.acquire()
      if (isRemovedFirst) contexts.removeUser(client)
      contexts.condemn(client)
      contexts.removeUser(client)
      contexts.condemn(client)
      assert.deepInclude(contexts.stats().segments[0], { clientDetached: true, serverDetached: false })
      assertDied(contexts.tryAcquire(request), client)
      releaseBoth(world, leases)
      assertRest(world)
    }
  })

  it("one who has nothing may be condemned, and has nothing", () => {
    const world = setUp()
    const { contexts, request, server } = world
    contexts.condemn(server)
    assertDied(contexts.tryAcquire(request), server)
    assertRest(world)
  })

  it("the FIFOs of a condemned segment are freed without a look at it: it is as the dead has left it", () => {
    for (const isScribbled of [false, true]) {
      const world = setUp()
      const { contexts } = world
      const all = [world.acquire(), world.acquire(), world.acquire()]
      const { segment } = all[0].client
      for (const { rx, tx } of all) for (const fifo of [rx, tx]) fifo.enqueue(new Uint8Array(100).fill(7), 0, 100)
      releaseBoth(world, all[2])
      contexts.release(all[1].client)
      contexts.condemn(world.client)
      if (isScribbled) bytesOf(segment).fill(0xee, 0, segment.fifos.chunks.offset(0))
      const before = bytesOf(segment).slice()
      contexts.release(all[1].server)
      contexts.release(all[0].client)
      assert.strictEqual(segment.fifos.activeFifos, 2)
      assert.strictEqual(Buffer.compare(bytesOf(segment), before), 0)
      assert.deepStrictEqual(
        contexts.stats().segments.map(({ activeFifos, committedBytes }) => [activeFifos, committedBytes]),
        [[2, PAIR]]
      )
      contexts.release(all[0].server)
      assertRest(world)
      // Its memory is zeroed where it was touched, and divided anew.
      assertSame(segment.region.blank, undefined)
      const tables = bytesOf(segment).subarray(0, segment.fifos.chunks.descriptors * 4)
      assert.isTrue(tables.every((byte) => byte === 0))
    }
  })

  describe("while they are being introduced", () => {
    for (const dead of sides) {
      for (const told of sides) {
        it(`the ${dead}'s death is found out when the ${told} is told: there are no leases, and nothing is left`, () => {
          const world = setUp()
          const { contexts, request } = world
          world[told].whenAdded = () => contexts.condemn(world[dead])
          assertDied(contexts.tryAcquire(request), world[dead])
          // The client is told last: whoever is known to be dead is not told any more, nor is its peer.
          assert.strictEqual(world.client.deleted.size, told === "server" ? 0 : 1)
          assert.strictEqual(world.server.deleted.size, 1)
          assertRest(world)
        })
      }

      it(`the ${dead} dies and cannot map the segment: it is its death that is told`, () => {
        const world = setUp()
        const { contexts, request } = world
        world[dead].failNext()
        const { whenAdded } = world[dead]
        world[dead].whenAdded = (segment) => {
          contexts.condemn(world[dead])
          whenAdded(segment)
        }
        assertDied(contexts.tryAcquire(request), world[dead])
        assertRest(world)
      })

      it(`the ${dead} dies while memory is waited for: it goes back`, () => {
        const slow = new SlowMemory()
        const world = setUp({ memory: slow.service })
        const { contexts, memory, request } = world
        assert.isUndefined(contexts.tryAcquire(request))
        const fibers = [0, 1].map(() => Effect.runFork(Effect.flip(contexts.acquire(request))))
        assert.strictEqual(slow.pending, 1)
        contexts.condemn(world[dead])
        slow.allow()
        // Nor is any asked for again.
        assert.strictEqual(slow.asked, 1)
        for (const fiber of fibers) assertDied(Effect.runSync(Fiber.join(fiber)), world[dead])
        assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })
        assert.strictEqual(world[dead].deleted.size, 0)
        assertRest(world)
      })
    }

    it("whatever the order of two who connect, the memory that comes and a death", () => {
      const orders = everyInterleaving({
        setUp: () => {
          const slow = new SlowMemory()
          const world = setUp({ pairs: 1, memory: slow.service })
          const other = new User("other")
          for (const user of [world.client, world.server, other]) {
            user.whenAdded = ({ fifos }) => assert.isFalse(fifos.isCondemned, "told of what is condemned already")
          }
          return { ...world, slow, isDead: false, other }
        },
        fibers: [
          (state) =>
            Effect.uninterruptible(
              Effect.matchEffect(state.contexts.acquire(state.request), {
                onFailure: (error) => Effect.sync(() => assertDied(error, state.client)),
                onSuccess: (leases) =>
                  Effect.sync(() => {
                    assertAlive(leases)
                    releaseBoth(state, leases)
                  })
              })
            ),
          (state) => {
            const request = { ...state.request, client: state.other }
            return Effect.uninterruptible(
              Effect.map(state.contexts.acquire(request), (leases) => {
                assertUsable(request, leases)
                releaseBoth(state, leases)
              })
            )
          }
        ],
        event: (state) => {
          if (state.slow.pending > 0) return () => state.slow.allow()
          if (state.isDead) return undefined
          return () => {
            state.isDead = true
            state.contexts.condemn(state.client)
          }
        },
        ops: [6, 7, 8],
        check: (state) => {
          assertAtRest(state.contexts, state.memory, [state.manager], [state.client, state.server, state.other])
          assert.deepStrictEqual(state.lock.stats(), { readers: 0, writer: false, waiting: 0 })
        }
      })
      assert.isAbove(orders, 100)
    })

    it("who is told on the spot that a segment lingers no more may ask for leases, and gets what is alive", () => {
      const world = setUp({ linger: Duration.seconds(1) })
      const { client, contexts, manager, memory, server } = world
      const other = new User("other")
      const requests = [
        { manager, client, server },
        { manager: makeManager({ linger: Duration.seconds(1) }, "second"), client, server: other }
      ]
      for (const request of requests) releaseBoth(world, assertLeases(contexts.tryAcquire(request)))
      const alive = { manager, client: other, server }
      const found: Array<SegmentContext.Leases> = []
      server.whenDeleted = () => {
        for (const request of requests) assertDied(contexts.tryAcquire(request), client)
        found.push(assertLeases(contexts.tryAcquire(alive)))
      }
      contexts.condemn(client)
      assert.strictEqual(found.length, 1)
      assertUsable(alive, found[0])
      assert.deepInclude(contexts.stats().segments[0], { condemned: false, lingers: true })
      server.whenDeleted = () => {}
      releaseBoth(world, found[0])
      contexts.removeUser(other)
      assertAtRest(contexts, memory, [manager, requests[1].manager], [client, server, other])
    })
  })

  describe("memory", () => {
    const mappersOf = ({ region }: Segment): Array<Mapper> => Array.from(region.mappers ?? [])

    it("a segment is made of memory for the threads of both sides", () => {
      for (const who of [[], ["client"], ["server"], ["client", "server"]] as const) {
        for (const isSlow of [false, true]) {
          const slow = new SlowMemory()
          if (!isSlow) slow.allowAll()
          const world = inThreads(who, { memory: slow.service })
          const { contexts, request } = world
          const fiber = Effect.runFork(contexts.acquire(request))
          if (isSlow) slow.allow()
          const leases = Effect.runSync(Fiber.join(fiber))
          const { segment } = leases.client
          assert.sameMembers(
            mappersOf(segment),
            who.map((side) => world.mappers[side])
          )
          assert.strictEqual(segment.region.mappers === undefined, who.length === 0)
          releaseBoth(world, leases)
          assertRest(world)
        }
      }
      // Of one thread, though there are two users in it.
      const memory = makeMemory()
      const given: Array<ReadonlyArray<Mapper> | undefined> = []
      const spy: Memory = {
        ...memory,
        tryAllocate: (bytes, mappers) => {
          given.push(mappers)
          return memory.tryAllocate(bytes, mappers)
        }
      }
      const world = setUp({ memory: spy })
      const thread = { isGone: false }
      const users = [new User("one", thread), new User("two", thread), new User("three")]
      for (const client of users) {
        for (const server of users) {
          releaseBoth(world, assertLeases(world.contexts.tryAcquire({ ...world.request, client, server })))
        }
      }
      assert.deepStrictEqual(
        given,
        Array.from({ length: 9 }, (_, i) => (i < 8 ? [thread] : undefined))
      )
      assertAtRest(world.contexts, memory, [world.manager], users)
    })

    it("of a condemned segment serves the survivor, then anybody when it has gone, too", () => {
      for (const dead of sides) {
        const world = inThreads(["client", "server"])
        const { contexts, manager, mappers, memory, request } = world
        const left = otherOf[dead]
        const first = world.acquire()
        const { region } = first.client.segment
        world[left].isLate = true
        mappers[dead].isGone = true
        contexts.condemn(world[dead])
        releaseBoth(world, first)
        // Who survives has not let go yet.
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
        world[left].unacknowledged[0]()
        world[left].isLate = false
        assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: 1 })

        const local = new User("local")
        const take = (client: User, server: User) => {
          const request = { manager, client, server }
          const leases = assertLeases(contexts.tryAcquire(request))
          assertUsable(request, leases)
          releaseBoth(world, leases)
          return leases.client.segment.region
        }
        // Nobody can take it away from the survivor.
        assertOther(take(local, local), region)
        assertOther(take(new User("stranger", { isGone: false }), local), region)
        assertSame(take(world[left], local), region)
        assert.deepStrictEqual(Array.from(region.mappers!), [mappers[left]])
        mappers[left].isGone = true
        contexts.condemn(world[left])
        assertDied(contexts.tryAcquire(request), world.server)
        // All that there is serves this thread now.
        const held = Array.from({ length: memory.stats().pooledRegions }, () =>
          assertLeases(contexts.tryAcquire({ manager: makeManager(), client: local, server: local }))
        )
        assert.isTrue(held.some((leases) => leases.client.segment.region === region))
        for (const leases of held) releaseBoth(world, leases)
        assertAtRest(contexts, memory, [manager], [world.client, world.server, local])
      }
    })

    it("does not grow while threads come, connect and die", () => {
      const memory = makeMemory()
      const world = setUp({ memory })
      const { contexts, manager, server } = world
      const buffers = new Set<ArrayBufferLike>()
      for (let turn = 0; turn < 200; turn++) {
        const mapper = { isGone: false }
        const client = new User(`client ${turn}`, mapper)
        const fifos: Array<Fifo> = []
        const held = [0, 1].map(() => assertLeases(contexts.tryAcquire({ manager, client, server })))
        for (const { client, rx, tx } of held) {
          buffers.add(client.segment.region.words.buffer)
          fifos.push(rx, tx)
        }
        for (const fifo of fifos) fifo.enqueue(new Uint8Array(PAGE).fill(turn), 0, PAGE)
        mapper.isGone = true
        contexts.condemn(client)
        for (const leases of held) releaseBoth(world, leases)
        assertAtRest(contexts, memory, [manager], [client, server])
        // And one that leaves no trace, in this thread.
        releaseBoth(world, world.acquire())
      }
      assert.strictEqual(buffers.size, 1)
      assert.deepInclude(memory.stats(), { pooledRegions: 1 })
      assert.deepStrictEqual(sideCounts(contexts), [])
      assertRest(world)
    })
  })
})
