/** Segments that are kept for a while when their last connection has gone, on the test's clock. */
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as SessionError from "@cut-through/core/SessionError"
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
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
  makeManager,
  makeWorld,
  PAIR,
  releaseBoth,
  sideCounts,
  SlowMemory,
  User,
  type World,
  type WorldOptions
} from "./fixtures.ts"

const LINGER = 1000

interface LingeringWorld extends World {
  /** Timers that were set, and those that are set now. Nothing else shows a timer but the wait for it. */
  readonly timers: { started: number; running: number }
}

const makeLingering = (options: WorldOptions = {}): Effect.Effect<LingeringWorld> =>
  Effect.gen(function* () {
    const timers = { started: 0, running: 0 }
    const clock = yield* Clock.clockWith(Effect.succeed)
    const counting: Clock.Clock = {
      ...clock,
      sleep: (duration) =>
        Effect.suspend(() => {
          timers.started++
          timers.running++
          return Effect.ensuring(
            clock.sleep(duration),
            Effect.sync(() => timers.running--)
          )
        })
    }
    const world = yield* Effect.provideService(
      makeWorld({ linger: Duration.millis(LINGER), ...options }),
      Clock.Clock,
      counting
    )
    return { ...world, timers }
  })

/** At rest no timer is left either. */
const assertAllRest = (world: LingeringWorld) => {
  assertRest(world)
  assert.strictEqual(world.timers.running, 0, "a timer is left")
}

/** Leases of the contexts themselves are on segments without connections. */
const assertLingers = ({ client, contexts, memory, server }: World, count = 1) => {
  const { leases, segments } = contexts.stats()
  assert.strictEqual(segments.length, count)
  for (const segment of segments) {
    assert.deepInclude(segment, {
      clientSessions: 0,
      serverSessions: 0,
      clientDetached: false,
      serverDetached: false,
      committedBytes: 0,
      activeFifos: 0,
      lingers: true
    })
    assert.strictEqual(segment.availableBytes, segment.size)
  }
  assert.strictEqual(leases, 2 * count)
  assert.strictEqual(memory.stats().regions, count)
  assert.deepStrictEqual([client.mapped.size, server.mapped.size], [count, count])
}

describe("SegmentContext: segments that linger", () => {
  it.effect("a segment without connections is kept for a while, and then deleted", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const leases = world.acquire()
      const { segment } = leases.client
      releaseBoth(world, leases)
      assertLingers(world)
      yield* TestClock.adjust(LINGER - 1)
      assertLingers(world)
      yield* TestClock.adjust(1)
      for (const user of [world.client, world.server]) assertSameItems(user.deleted, [segment])
      assertAllRest(world)
    })
  )

  it.effect("it is used again meanwhile, and the time begins anew when its last connection has gone", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const first = world.acquire()
      const { segment } = first.client
      releaseBoth(world, first)
      for (let i = 0; i < 5; i++) {
        yield* TestClock.adjust(LINGER - 1)
        assertLingers(world)
        const leases = world.acquire()
        assertSame(leases.client.segment, segment)
        assertUsable(world.request, leases)
        // The old time is up while it is in use.
        yield* TestClock.adjust(i % 2 === 0 ? 1 : 3 * LINGER)
        assertUsable(world.request, leases)
        releaseBoth(world, leases)
      }
      yield* TestClock.adjust(LINGER - 1)
      assertLingers(world)
      yield* TestClock.adjust(1)
      assertSameItems(world.client.deleted, [segment])
      assertAllRest(world)
    })
  )

  it.effect("one timer does, however often the segment is drained", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const { timers } = world
      for (let i = 0; i < 500; i++) {
        const pairs = [world.acquire(), world.acquire()]
        for (const leases of pairs) releaseBoth(world, leases)
        assert.deepStrictEqual(timers, { started: 1, running: 1 })
        yield* TestClock.adjust(1)
      }
      assertLingers(world)
      // It looks when it goes off, and waits for what is left.
      yield* TestClock.adjust(LINGER - 500)
      assert.deepStrictEqual(timers, { started: 2, running: 1 })
      assertLingers(world)
      yield* TestClock.adjust(498)
      assertLingers(world)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(timers, { started: 2, running: 0 })
      assertAllRest(world)
    })
  )

  it.effect("the time is not cut short by the timer of the time before", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      releaseBoth(world, world.acquire())
      yield* TestClock.adjust(1)
      releaseBoth(world, world.acquire())
      yield* TestClock.adjust(LINGER - 1)
      assertLingers(world)
      yield* TestClock.adjust(1)
      assertAllRest(world)
    })
  )

  it.effect("a timer that finds connections is over; the next one is set when they have gone", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const { timers } = world
      releaseBoth(world, world.acquire())
      const leases = world.acquire()
      yield* TestClock.adjust(10 * LINGER)
      assert.deepStrictEqual(timers, { started: 1, running: 0 })
      assertUsable(world.request, leases)
      releaseBoth(world, leases)
      assert.deepStrictEqual(timers, { started: 2, running: 1 })
      yield* TestClock.adjust(LINGER - 1)
      assertLingers(world)
      yield* TestClock.adjust(1)
      assertAllRest(world)
    })
  )

  for (const side of ["client", "server"] as const) {
    it.effect(`it is in use as long as the ${side} alone is`, () =>
      Effect.gen(function* () {
        const world = yield* makeLingering()
        const { contexts, timers } = world
        const leases = world.acquire()
        contexts.release(leases[side === "client" ? "server" : "client"])
        yield* TestClock.adjust(2 * LINGER)
        assert.strictEqual(timers.started, 0)
        assertAlive(leases)
        // The side that has left may come back: the context keeps its place.
        assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: false })
        const again = world.acquire()
        assertSame(again.client.segment, leases.client.segment)
        releaseBoth(world, again)
        contexts.release(leases[side])
        assertLingers(world)
        yield* TestClock.adjust(LINGER)
        assertAllRest(world)
      })
    )
  }

  it.effect("leases are counted with those of the contexts, connections without", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering({ pairs: 2 })
      const { contexts } = world
      const counts = () => ({ leases: contexts.stats().leases, sides: sideCounts(contexts) })
      const pairs = [world.acquire(), world.acquire(), world.acquire()]
      assert.deepStrictEqual(counts(), {
        leases: 10,
        sides: [
          [2, 2],
          [1, 1]
        ]
      })
      contexts.release(pairs[0].client)
      contexts.release(pairs[2].server)
      assert.deepStrictEqual(counts(), {
        leases: 8,
        sides: [
          [1, 2],
          [1, 0]
        ]
      })
      for (const leases of pairs) releaseBoth(world, leases)
      assertLingers(world, 2)
      assert.deepStrictEqual(counts(), {
        leases: 4,
        sides: [
          [0, 0],
          [0, 0]
        ]
      })
      yield* TestClock.adjust(LINGER)
      assert.deepStrictEqual(counts(), { leases: 0, sides: [] })
      assertAllRest(world)
    })
  )

  it.effect("each segment has its own time", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering({ pairs: 1 })
      const pairs = [world.acquire(), world.acquire(), world.acquire()]
      for (const leases of pairs) {
        releaseBoth(world, leases)
        yield* TestClock.adjust(100)
      }
      assertLingers(world, 3)
      yield* TestClock.adjust(LINGER - 300)
      assertLingers(world, 2)
      yield* TestClock.adjust(100)
      assertLingers(world, 1)
      assert.isTrue(world.client.mapped.has(pairs[2].client.segment))
      yield* TestClock.adjust(100)
      assertAllRest(world)
    })
  )

  for (const linger of [undefined, Duration.zero]) {
    it.effect(`with ${linger === undefined ? "no time" : "a time of zero"} it is deleted at once`, () =>
      Effect.gen(function* () {
        const world = yield* makeLingering({ linger })
        const leases = world.acquire()
        assert.deepInclude(world.contexts.stats(), { leases: 2 })
        assert.deepInclude(world.contexts.stats().segments[0], { lingers: false })
        releaseBoth(world, leases)
        assertAllRest(world)
        assert.strictEqual(world.timers.started, 0)
      })
    )
  }

  it.effect("a segment that is kept for ever goes with its listener", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering({ linger: Duration.infinity })
      releaseBoth(world, world.acquire())
      yield* TestClock.adjust("10000 weeks")
      assertLingers(world)
      world.contexts.closeManager(world.manager)
      assertAllRest(world)
    })
  )

  const ends: Record<string, (world: World) => void> = {
    "its listener goes": ({ contexts, manager }) => contexts.closeManager(manager),
    "its client goes": ({ client, contexts }) => contexts.removeUser(client),
    "its server goes": ({ contexts, server }) => contexts.removeUser(server)
  }
  for (const [what, end] of Object.entries(ends)) {
    describe(`when ${what}`, () => {
      it.effect("what lingers is deleted at once, and so is its timer", () =>
        Effect.gen(function* () {
          const world = yield* makeLingering({ pairs: 2 })
          for (const leases of [world.acquire(), world.acquire(), world.acquire()]) releaseBoth(world, leases)
          assertLingers(world, 2)
          assert.strictEqual(world.timers.running, 2)
          end(world)
          for (const user of [world.client, world.server]) assert.strictEqual(user.deleted.size, 2)
          assertAllRest(world)
          // Again, and when there is nothing.
          end(world)
          yield* TestClock.adjust(LINGER)
          assertAllRest(world)
        })
      )

      it.effect("what is in use goes with its last connection", () =>
        Effect.gen(function* () {
          const world = yield* makeLingering()
          const { contexts, server } = world
          releaseBoth(world, world.acquire())
          const [first, second] = [world.acquire(), world.acquire()]
          end(world)
          assert.deepInclude(contexts.stats(), { leases: 4 })
          assert.deepInclude(contexts.stats().segments[0], {
            clientSessions: 2,
            serverSessions: 2,
            clientDetached: false,
            serverDetached: false,
            lingers: false
          })
          for (const leases of [first, second]) assertUsable(world.request, leases)
          releaseBoth(world, first)
          // One connection is left, which holds as many leases as a context would.
          yield* TestClock.adjust(3 * LINGER)
          assertUsable(world.request, second)
          contexts.release(second.client)
          assert.strictEqual(server.deleted.size, 0)
          contexts.release(second.server)
          assertAllRest(world)
        })
      )

      for (const side of ["client", "server"] as const) {
        it.effect(`a side without connections has detached, for good: the ${side}`, () =>
          Effect.gen(function* () {
            const world = yield* makeLingering()
            const { contexts } = world
            const leases = world.acquire()
            contexts.release(leases[side])
            const flags = { clientDetached: side === "client", serverDetached: side === "server" }
            end(world)
            assert.deepInclude(contexts.stats().segments[0], { ...flags, lingers: false })
            const next = world.acquire()
            assertOther(next.client.segment, leases.client.segment)
            yield* TestClock.adjust(LINGER)
            assert.deepInclude(contexts.stats().segments[0], flags)
            // Nor does the new one linger.
            assert.deepInclude(contexts.stats().segments[1], { lingers: false })
            releaseBoth(world, next)
            assert.strictEqual(contexts.stats().segments.length, 1)
            releaseBoth(world, leases)
            assertAllRest(world)
          })
        )
      }

      it.effect("a segment for which memory is still waited for does not linger", () =>
        Effect.gen(function* () {
          const slow = new SlowMemory()
          const world = yield* makeLingering({ memory: slow.service })
          const fiber = Effect.runFork(world.contexts.acquire(world.request))
          end(world)
          slow.allow()
          const leases = yield* Fiber.join(fiber)
          assert.deepInclude(world.contexts.stats(), { leases: 2 })
          releaseBoth(world, leases)
          assertAllRest(world)
        })
      )
    })
  }

  it.effect("what others share lingers on", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const { contexts, memory } = world
      const linger = Duration.millis(LINGER)
      const managers = [world.manager, makeManager({ linger }, "other")]
      const users = [new User(), new User(), new User()]
      const requests = managers.flatMap((manager) =>
        users.flatMap((client) => users.map((server) => ({ manager, client, server })))
      )
      for (const request of requests) releaseBoth(world, assertLeases(contexts.tryAcquire(request)))
      assert.strictEqual(contexts.stats().segments.length, 18)
      contexts.removeUser(users[1])
      // Two clients, two servers, two listeners.
      assert.strictEqual(contexts.stats().segments.length, 8)
      contexts.closeManager(managers[1])
      assert.deepStrictEqual(
        contexts.stats().segments.map(({ listener, lingers }) => [listener, lingers]),
        Array.from({ length: 4 }, () => ["manager", true])
      )
      assert.strictEqual(world.timers.running, 4)
      assert.strictEqual(users[1].mapped.size, 0)
      yield* TestClock.adjust(LINGER)
      assertAtRest(contexts, memory, managers, users)
      assertAllRest(world)
    })
  )

  it.effect("users that do something when they are told find nothing half done", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering({ pairs: 1 })
      const { client, contexts, manager, request, server } = world
      for (const leases of [world.acquire(), world.acquire(), world.acquire()]) releaseBoth(world, leases)
      const more: Array<SegmentContext.Leases> = []
      server.whenDeleted = () => {
        server.whenDeleted = () => {}
        // While one segment is deleted the others still linger, those that go with it among them.
        contexts.removeUser(client)
        more.push(assertLeases(contexts.tryAcquire(request)))
      }
      contexts.closeManager(manager)
      assert.strictEqual(client.deleted.size, 3)
      assert.strictEqual(contexts.stats().segments.length, 1)
      assertUsable(request, more[0])
      releaseBoth(world, more[0])
      assertAllRest(world)
    })
  )

  it.effect("a segment that a user could not map is tried again while it lingers", () =>
    Effect.gen(function* () {
      for (const side of ["server", "client"] as const) {
        const world = yield* makeLingering()
        const { client, contexts, memory, request, server } = world
        world[side].failNext(3)
        for (let i = 0; i < 3; i++) {
          assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
          assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
          assert.deepStrictEqual(sideCounts(contexts), [[0, 0]])
        }
        assert.deepStrictEqual([client.mapped.size, server.mapped.size], [0, side === "client" ? 1 : 0])
        const leases = world.acquire()
        assertUsable(request, leases)
        releaseBoth(world, leases)
        assertLingers(world)
        yield* TestClock.adjust(LINGER)
        assert.deepStrictEqual([client.deleted.size, server.deleted.size], [1, 1])
        assertAllRest(world)
      }
    })
  )

  it.effect("a segment that no user could map goes in time, and nobody is told", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const { client, contexts, request, server } = world
      server.failNext()
      assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
      yield* TestClock.adjust(LINGER)
      assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
      assertAllRest(world)
    })
  )

  it.effect("a segment that was drained while memory was waited for goes in time, and so does the new one", () =>
    Effect.gen(function* () {
      const slow = new SlowMemory()
      const world = yield* makeLingering({ pairs: 1, memory: slow.service })
      const { contexts, request } = world
      const acquiring = Effect.runFork(contexts.acquire(request))
      slow.allow()
      const first = yield* Fiber.join(acquiring)
      const waiting = Effect.runFork(contexts.acquire(request))
      releaseBoth(world, first)
      assertLingers(world)
      slow.allow()
      const second = yield* Fiber.join(waiting)
      assertUsable(request, second)
      yield* TestClock.adjust(LINGER)
      assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
      releaseBoth(world, second)
      assertLingers(world)
      yield* TestClock.adjust(LINGER)
      assertAllRest(world)
    })
  )

  it.effect("a region is not free before a deletion that time has brought is acknowledged", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering()
      const { client, memory } = world
      client.isLate = true
      releaseBoth(world, world.acquire())
      yield* TestClock.adjust(LINGER)
      assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
      client.unacknowledged[0]()
      assertAllRest(world)
      assert.strictEqual(memory.stats().pooledRegions, 1)
    })
  )

  it.effect("what lingers is as good as new: nobody sees what its last connections have sent", () =>
    Effect.gen(function* () {
      const world = yield* makeLingering({ pairs: 1 })
      const first = world.acquire()
      for (const fifo of [first.rx, first.tx]) fifo.enqueue(new Uint8Array(PAIR / 2).fill(0xff), 0, PAIR / 2)
      releaseBoth(world, first)
      assertLingers(world)
      const second = world.acquire()
      assert.deepStrictEqual([second.rx.used, second.tx.used], [0, 0])
      assertUsable(world.request, second)
      releaseBoth(world, second)
      yield* TestClock.adjust(LINGER)
      assertAllRest(world)
    })
  )
})
