import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { Segment, SegmentUser } from "@cut-through/core/segment/SegmentManager"
import * as SessionError from "@cut-through/core/SessionError"
import { LockTrace } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { interruptEverywhere } from "../runtime/stepping.ts"
import {
  assertAlive,
  assertAtRest,
  assertLeases,
  assertOther,
  assertRest,
  assertSame,
  assertSameItems,
  assertUsable,
  cannotMap,
  everyInterleaving,
  makeManager,
  makeMemory,
  makeWorld,
  type Memory,
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

/** Takes leases, uses them and gives them back, as the transport does: where nothing interrupts. */
const useOnce = (world: World, whenHeld: (leases: SegmentContext.Leases) => void = () => {}) =>
  Effect.uninterruptible(
    Effect.map(world.contexts.acquire(world.request), (leases) => {
      assertUsable(world.request, leases)
      whenHeld(leases)
      releaseBoth(world, leases)
    })
  )

/** Somebody else has the lock, as when memory is waited for. */
const whileLocked = <A>({ lock }: World, body: () => A): A => {
  const results = lock.tryWrite(() => [body()])
  assert.isDefined(results)
  return results[0]
}

describe("SegmentContext", () => {
  it("one step takes the FIFO pair, both references, both counts and both leases, and tells both users", () => {
    const world = setUp()
    const { client, contexts, memory, server } = world
    const leases = world.acquire()
    assert.deepStrictEqual([leases.rx.references, leases.tx.references], [2, 2])
    assertSame(leases.client.segment, leases.server.segment)
    assert.deepStrictEqual([leases.client.side, leases.server.side], ["client", "server"])
    assertSameItems(client.mapped, [leases.client.segment])
    assertSameItems(server.mapped, [leases.client.segment])
    assert.deepStrictEqual(contexts.stats(), {
      contexts: 1,
      leases: 2,
      fifoBytes: PAIR,
      segments: [
        {
          listener: "manager",
          client: "client",
          server: "server",
          segment: leases.client.segment.id,
          size: 4 * PAIR,
          availableBytes: 3 * PAIR,
          committedBytes: PAIR,
          activeFifos: 2,
          pressure: "none",
          clientSessions: 1,
          serverSessions: 1,
          clientDetached: false,
          serverDetached: false,
          lingers: false,
          condemned: false
        }
      ]
    })
    assertUsable(world.request, leases)

    contexts.release(leases.server)
    assert.deepStrictEqual([leases.rx.references, leases.tx.references], [1, 1])
    assert.strictEqual(contexts.stats().leases, 1)
    assert.deepInclude(contexts.stats().segments[0], {
      clientDetached: false,
      serverDetached: true,
      activeFifos: 2,
      committedBytes: PAIR
    })
    // The side that is left still reads and writes what is its own.
    assertAlive(leases)
    assert.strictEqual(memory.stats().regions, 1)

    contexts.release(leases.client)
    assertRest(world)
    assert.strictEqual(leases.rx.references, 0)
  })

  it("rx is what the server reads, tx what it writes, each with its own size", () => {
    const world = setUp({ pairs: 4, rxFifoSize: 1000, txFifoSize: PAGE + 1 })
    const leases = world.acquire()
    assert.deepStrictEqual([leases.rx.size, leases.tx.size], [1000, PAGE + 1])
    // Three pages are set aside, and in use are all that the small FIFO may need, and what the large one begins with.
    assert.deepInclude(world.contexts.stats().segments[0], {
      committedBytes: 3 * PAGE,
      availableBytes: 8 * PAGE - 1024 - MIN_CHUNK_BYTES
    })
    releaseBoth(world, leases)
    assertRest(world)
  })

  it("the account of a manager holds what pairs may come to use, until both sides have let go", () => {
    const account = { fifoMemory: 0 }
    const world = setUp({ account })
    const { client, contexts, request, server } = world
    const larger = makeManager(
      { segmentSize: 100 * PAGE, rxFifoSize: 10 * PAGE, txFifoSize: 5 * PAGE },
      "larger",
      account
    )
    const [first, second] = [world.acquire(), world.acquire()]
    const third = assertLeases(contexts.tryAcquire({ manager: larger, client, server }))
    assert.strictEqual(account.fifoMemory, 2 * PAIR + 15 * PAGE)
    contexts.release(first.client)
    contexts.release(third.server)
    assert.strictEqual(account.fifoMemory, 2 * PAIR + 15 * PAGE)
    for (let i = 0; i < 2; i++) contexts.release(first.server)
    assert.strictEqual(account.fifoMemory, PAIR + 15 * PAGE)
    contexts.release(third.client)
    assert.strictEqual(account.fifoMemory, PAIR)
    releaseBoth(world, second)
    assert.strictEqual(account.fifoMemory, 0)
    server.failNext()
    assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
    assert.strictEqual(account.fifoMemory, 0)
    assertAtRest(contexts, world.memory, [larger])
    assertRest(world)
  })

  it("each segment has a number that no other has, of any manager and at any time", () => {
    const world = setUp()
    const { client, contexts, server } = world
    const ids: Array<number> = []
    for (let i = 0; i < 10; i++) {
      const all = [world.manager, makeManager({}, "other")].map((manager) =>
        assertLeases(contexts.tryAcquire({ manager, client, server }))
      )
      ids.push(...contexts.stats().segments.map(({ segment }) => segment))
      assert.deepStrictEqual(
        all.map((leases) => leases.client.segment.id),
        ids.slice(-2)
      )
      for (const leases of all) releaseBoth(world, leases)
    }
    assert.strictEqual(new Set(ids).size, 20)
    assert.isTrue(ids.every((id) => Number.isSafeInteger(id) && id > 0))
    assertRest(world)
  })

  it("releasing a lease again does nothing", () => {
    const world = setUp()
    const { contexts } = world
    const [first, second] = [world.acquire(), world.acquire()]
    for (let i = 0; i < 3; i++) contexts.release(first.client)
    assert.deepStrictEqual(sideCounts(contexts), [[1, 2]])
    assert.strictEqual(contexts.stats().leases, 3)
    for (let i = 0; i < 3; i++) contexts.release(first.server)
    assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
    assert.strictEqual(contexts.stats().segments[0].committedBytes, PAIR)
    assertAlive(second)
    for (const lease of [second.server, second.client]) contexts.release(lease)
    for (const lease of [first.client, second.server, second.client, first.server]) contexts.release(lease)
    assertRest(world)
  })

  it("worst fit: the emptiest segment is next, of those equally empty the one with room for the longest", () => {
    const world = setUp({ pairs: 3 })
    const leases = Array.from({ length: 9 }, () => world.acquire())
    const [a, b, c] = [0, 3, 6].map((i) => leases[i].client.segment)
    const segments = () => leases.map((lease) => lease.client.segment)
    assertSameItems(segments(), [a, a, a, b, b, b, c, c, c])
    for (const index of [0, 3, 4, 6, 7]) releaseBoth(world, leases[index])
    // Pairs left: a 1, b 2, c 2.
    leases.push(world.acquire(), world.acquire(), world.acquire(), world.acquire(), world.acquire(), world.acquire())
    const [d] = segments().slice(-1)
    assertSameItems(segments().slice(9), [b, c, a, b, c, d])
    assertOther(d, a, b, c)
    for (const pair of leases) releaseBoth(world, pair)
    assertRest(world)
  })

  it("a pair takes up its room until both leases are released", () => {
    const world = setUp({ pairs: 2 })
    const { contexts } = world
    const [first, second] = [world.acquire(), world.acquire()]
    contexts.release(first.client)
    const third = world.acquire()
    assertOther(third.client.segment, first.client.segment)
    const fourth = world.acquire()
    assertSame(fourth.client.segment, third.client.segment)
    contexts.release(first.server)
    const fifth = world.acquire()
    assertSame(fifth.client.segment, first.client.segment)
    for (const leases of [second, third, fourth, fifth]) releaseBoth(world, leases)
    assertRest(world)
  })

  for (const gone of ["client", "server"] as const) {
    const left = gone === "client" ? "server" : "client"
    it(`a segment whose ${gone} side has detached is never chosen again, not even while it is empty`, () => {
      const world = setUp()
      const { contexts } = world
      const first = world.acquire()
      contexts.release(first[gone])
      const second = world.acquire()
      assertOther(second.client.segment, first.client.segment)
      assert.strictEqual(contexts.stats().segments.length, 2)
      // The flag does not come back either when there are connections on the other segment.
      contexts.release(second[gone])
      const third = world.acquire()
      assert.strictEqual(contexts.stats().segments.length, 3)
      for (const { [left]: lease } of [first, second, third]) contexts.release(lease)
      contexts.release(third[gone])
      assertRest(world)
    })
  }

  it("one user may be both client and server, and is told once", () => {
    const world = setUp()
    const { client, contexts, manager } = world
    const leases = assertLeases(contexts.tryAcquire({ manager, client, server: client }))
    assertSameItems(client.mapped, [leases.client.segment])
    releaseBoth(world, leases)
    assert.strictEqual(client.deleted.size, 1)
    assertRest(world)
  })

  it("other managers, clients and servers have other segments", () => {
    const world = setUp()
    const { contexts, memory } = world
    const managers = [world.manager, makeManager({}, "other")]
    const users = [new User(), new User()]
    const all = managers.flatMap((manager) =>
      users.flatMap((client) => users.map((server) => assertLeases(contexts.tryAcquire({ manager, client, server }))))
    )
    assert.strictEqual(new Set(all.map((leases) => leases.client.segment)).size, 8)
    assert.strictEqual(contexts.stats().contexts, 8)
    assert.deepStrictEqual(
      managers.map((manager) => manager.segments.size),
      [4, 4]
    )
    // In an order in which none of them goes first or last of its kind.
    for (const i of [3, 6, 0, 5, 1, 7, 2, 4]) releaseBoth(world, all[i])
    assertAtRest(contexts, memory, managers, users)
  })

  it.effect(
    "what others have added to a segment's scope runs when its last lease is released, however long it takes",
    () =>
      Effect.gen(function* () {
        const world = setUp()
        const leases = world.acquire()
        const [started, go] = [Latch.makeUnsafe(), Latch.makeUnsafe()]
        yield* Scope.addFinalizer(leases.client.segment.scope, Effect.andThen(started.open, go.await))
        releaseBoth(world, leases)
        yield* started.await
        // It was added last, so it runs first: the segment is not deleted yet, and nobody gets it any more.
        assert.deepStrictEqual(world.contexts.stats().segments, [])
        assert.isTrue(world.client.mapped.has(leases.client.segment))
        const next = world.acquire()
        assertOther(next.client.segment.region, leases.client.segment.region)
        const deleted = Latch.makeUnsafe()
        world.client.whenDeleted = () => void deleted.openUnsafe()
        yield* go.open
        yield* deleted.await
        // This fiber may go on while the client is still being told.
        yield* Effect.yieldNow
        releaseBoth(world, next)
        assertRest(world)
      })
  )

  describe("which segments have room is known without asking them", () => {
    /** Counts the tries, which nothing else shows: a segment that was asked in vain is only slower. */
    const countTries = (segments: ReadonlyArray<Segment>): (() => number) => {
      let tries = 0
      for (const { fifos } of segments) {
        const allocatePair = fifos.allocatePair.bind(fifos)
        fifos.allocatePair = (rxSize, txSize) => {
          tries++
          return allocatePair(rxSize, txSize)
        }
      }
      return () => tries
    }

    const cases = {
      "whole pairs": {},
      "a page more than whole pairs": { segmentSize: 2 * PAIR + PAGE },
      // The segment is rounded up to whole pages. It still has FIFOs for two pairs only.
      "a byte less than whole pairs": { segmentSize: 3 * PAIR - 1 }
    }
    for (const [name, properties] of Object.entries(cases)) {
      it(`a full one is not offered, and offered again when a pair has gone: ${name}`, () => {
        const world = setUp({ pairs: 2, ...properties })
        const full = Array.from({ length: 20 }, () => world.acquire())
        const segments = [...new Set(full.map((leases) => leases.client.segment))]
        assert.strictEqual(segments.length, 10)
        const tries = countTries(segments)
        const next = world.acquire()
        assertOther(next.client.segment, ...segments)
        assert.strictEqual(tries(), 0)
        releaseBoth(world, full[6])
        // The other segment is as empty, and has been for longer.
        const [second, third] = [world.acquire(), world.acquire()]
        assertSame(second.client.segment, next.client.segment)
        assertSame(third.client.segment, full[6].client.segment)
        assert.strictEqual(tries(), 1)
        // Both are full again.
        const last = world.acquire()
        assertOther(last.client.segment, ...segments, next.client.segment)
        assert.strictEqual(tries(), 1)
        for (const leases of [...full, next, second, third, last]) releaseBoth(world, leases)
        assertRest(world)
      })
    }

    for (const gone of ["client", "server"] as const) {
      it(`one that the ${gone} has left is not offered, however many pairs go`, () => {
        const world = setUp({ pairs: 3 })
        const { contexts } = world
        const pairs = [world.acquire(), world.acquire(), world.acquire()]
        const tries = countTries([pairs[0].client.segment])
        for (const leases of pairs) contexts.release(leases[gone])
        for (const leases of pairs.slice(1)) releaseBoth(world, leases)
        const next = world.acquire()
        assertOther(next.client.segment, pairs[0].client.segment)
        assert.strictEqual(tries(), 0)
        for (const leases of [...pairs, next]) releaseBoth(world, leases)
        assertRest(world)
      })
    }
  })

  describe("tryAcquire", () => {
    it("finds or makes a segment at once, like acquire", () => {
      const world = setUp({ pairs: 2 })
      const { contexts, request } = world
      const all = [
        assertLeases(contexts.tryAcquire(request)),
        Effect.runSync(contexts.acquire(request)),
        Effect.runSync(contexts.acquire(request)),
        assertLeases(contexts.tryAcquire(request))
      ]
      const [a, b, c, d] = all.map((leases) => leases.client.segment)
      assert.deepStrictEqual([a === b, c === d, a === c], [true, true, false])
      for (const leases of all) {
        assertUsable(request, leases)
        releaseBoth(world, leases)
      }
      assertRest(world)
    })

    it("while the lock is busy it finds room, but does not wait for more, and changes nothing", () => {
      const world = setUp({ pairs: 2 })
      const { client, contexts, manager, memory, request, server } = world
      assert.isUndefined(whileLocked(world, () => contexts.tryAcquire(request)))
      assertRest(world)
      const first = world.acquire()
      const second = assertLeases(whileLocked(world, () => contexts.tryAcquire(request)))
      assertSame(second.client.segment, first.client.segment)
      const before = contexts.stats()
      assert.isUndefined(whileLocked(world, () => contexts.tryAcquire(request)))
      assert.isUndefined(whileLocked(world, () => contexts.tryAcquire({ manager, client: server, server: client })))
      assert.deepStrictEqual(contexts.stats(), before)
      assert.strictEqual(memory.stats().regions, 1)
      assert.deepStrictEqual([client.mapped.size, server.mapped.size], [1, 1])
      for (const leases of [first, second]) releaseBoth(world, leases)
      assertRest(world)
    })

    it.effect("when memory takes time it is for acquire to wait", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ memory: slow.service })
        const { contexts, request } = world
        assert.isUndefined(contexts.tryAcquire(request))
        assert.strictEqual(slow.asked, 0)
        assertRest(world)
        const fiber = Effect.runFork(contexts.acquire(request))
        assert.strictEqual(slow.pending, 1)
        assert.isUndefined(contexts.tryAcquire(request))
        assert.strictEqual(slow.pending, 1)
        slow.allow()
        const first = yield* Fiber.join(fiber)
        // There is room now: no memory has to be waited for.
        const second = assertLeases(contexts.tryAcquire(request))
        assertSame(second.client.segment, first.client.segment)
        assert.strictEqual(slow.asked, 1)
        for (const leases of [first, second]) releaseBoth(world, leases)
        assertRest(world)
      })
    )

    it.effect("when memory is short it is for acquire to say so", () =>
      Effect.gen(function* () {
        const short = new ShortMemory(0)
        const world = setUp({ memory: short.service })
        const { contexts, request } = world
        assert.isUndefined(contexts.tryAcquire(request))
        assertRest(world)
        assert.strictEqual(yield* Effect.flip(contexts.acquire(request)), noMemory)
        assertRest(world)
        short.left = 1
        releaseBoth(world, assertLeases(contexts.tryAcquire(request)))
        assertRest(world)
      })
    )
  })

  describe("a segment that cannot hold one pair", () => {
    /** Another process has written over it that nothing is free. */
    class Ruined extends SharedWords {
      override and(): number {
        return 0
      }
    }

    const ruinedMemory = (): Memory & { isRuined: boolean } => {
      const memory = makeMemory()
      const ruined = {
        ...memory,
        isRuined: true,
        tryAllocate: (bytes: number) => {
          const region = memory.tryAllocate(bytes)
          assert.isDefined(region)
          region.blank = undefined
          const Words = ruined.isRuined ? Ruined : SharedWords
          return Object.assign(region, { words: new Words(region.words.buffer) })
        }
      }
      return ruined
    }

    for (const linger of [undefined, "1 minute"] as const) {
      it.effect(`is given up, and nobody hears of it${linger === undefined ? "" : ", nor does it linger"}`, () =>
        Effect.gen(function* () {
          const memory = ruinedMemory()
          const properties = linger === undefined ? {} : { linger: Duration.fromInputUnsafe(linger) }
          const world = yield* makeWorld({ memory, ...properties })
          const { client, contexts, request, server } = world
          for (let i = 0; i < 3; i++) {
            const error = yield* Effect.flip(contexts.acquire(request))
            assert.deepInclude(error.reason, { _tag: "AllocFailed", what: "a pair of FIFOs", bytes: PAIR })
            assertRest(world)
          }
          assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
          memory.isRuined = false
          releaseBoth(world, world.acquire())
          contexts.closeManager(world.manager)
          assertRest(world)
        })
      )
    }
  })

  describe("users are told of a segment", () => {
    it.effect("when nobody holds the lock, the server first, and before there are leases", () => {
      const slow = new SlowMemory()
      const manager = makeManager({ segmentSize: PAIR })
      const log: Array<string> = []
      return Effect.gen(function* () {
        const locks = yield* Lock.Lock
        const contexts = yield* SegmentContext.SegmentContext
        // As applications are told: the trace says who holds a lock then.
        const userOf = (name: string): SegmentUser => ({
          name,
          segmentAdded: () => {
            locks.notifying("added")
            log.push(`${name} added`)
          },
          segmentDeleted: (_segment, acknowledge) => {
            locks.notifying("deleted")
            log.push(`${name} deleted`)
            acknowledge()
          }
        })
        const request = { manager, client: userOf("client"), server: userOf("server") }
        const release = ({ client, server }: SegmentContext.Leases) => {
          contexts.release(client)
          contexts.release(server)
        }
        const acquire = Effect.tap(contexts.acquire(request), () => Effect.sync(() => log.push("leases")))
        const told = ["server added", "client added", "leases"]

        const waiting = Effect.runFork(acquire)
        slow.allowAll()
        const first = yield* Fiber.join(waiting)
        assert.deepStrictEqual(log.splice(0), told)
        const second = yield* acquire
        assert.deepStrictEqual(log.splice(0), told)
        const third = assertLeases(contexts.tryAcquire(request))
        assert.deepStrictEqual(log.splice(0), told.slice(0, 2))
        release(first)
        slow.slowDown()
        assert.deepStrictEqual(log.splice(0), ["server deleted", "client deleted"])
        for (const leases of [second, third]) release(leases)
        assertAtRest(contexts, slow.service, [manager])
      }).pipe(Effect.provide(SegmentContext.layer.pipe(Layer.provide(slow.layer), Layer.provideMerge(LockTrace.layer))))
    })

    it("once, whichever of several acquirers of a new segment comes first", () => {
      const told: Array<Segment> = []
      const orders = everyInterleaving({
        setUp: () => {
          const slow = new SlowMemory()
          const world = setUp({ pairs: 2, memory: slow.service })
          told.length = 0
          // A `User` fails the test when it is told twice.
          for (const user of [world.client, world.server]) {
            user.whenAdded = (segment) => void told.push(segment)
          }
          return { slow, world }
        },
        fibers: [({ world }) => useOnce(world), ({ world }) => useOnce(world)],
        event: ({ slow }) => (slow.pending > 0 ? () => slow.allow() : undefined),
        check({ slow, world }) {
          assert.strictEqual(told.length, 2 * slow.asked)
          assertRest(world)
        }
      })
      assert.isAbove(orders, 100)
    })

    it("also those who ask for leases when they are told", () => {
      for (const side of ["server", "client"] as const) {
        const world = setUp({ pairs: 2 })
        const { contexts, request } = world
        const more: Array<SegmentContext.Leases> = []
        world[side].whenAdded = () => {
          while (more.length < 5) more.push(assertLeases(contexts.tryAcquire(request)))
        }
        const all = [world.acquire(), ...more]
        // Some of them were made on segments that were told of on the way.
        assert.isAbove(contexts.stats().segments.length, 2)
        for (const leases of all) {
          assertUsable(request, leases)
          releaseBoth(world, leases)
        }
        assertRest(world)
      }
    })

    it("of its deletion when it is gone: whoever asks for leases then gets other ones", () => {
      const world = setUp()
      const { client, contexts, manager, memory, request } = world
      const first = world.acquire()
      const more: Array<SegmentContext.Leases> = []
      client.whenDeleted = (segment) => {
        assertSame(manager.segments.get(segment.handle), undefined)
        assert.deepStrictEqual(contexts.stats().segments, [])
        client.whenDeleted = () => {}
        more.push(assertLeases(contexts.tryAcquire(request)))
        // The other one's region is not free yet: not all have been told.
        assert.strictEqual(memory.stats().regions, 2)
      }
      releaseBoth(world, first)
      assert.strictEqual(more.length, 1)
      assertUsable(request, more[0])
      assertOther(more[0].client.segment, first.client.segment)
      releaseBoth(world, more[0])
      assertRest(world)
    })
  })

  describe("a user that cannot map a segment", () => {
    for (const side of ["server", "client"] as const) {
      for (const way of ["at once", "when memory was waited for"]) {
        it.effect(`the ${side}, ${way}: there are no leases, and the next time there are`, () =>
          Effect.gen(function* () {
            const slow = new SlowMemory()
            if (way === "at once") slow.allowAll()
            const world = setUp({ memory: slow.service })
            const { client, contexts, request, server } = world
            world[side].failNext()
            const fiber = Effect.runFork(Effect.flip(contexts.acquire(request)))
            slow.allowAll()
            const { message, reason } = yield* Fiber.join(fiber)
            assert.deepInclude(reason, { _tag: "AllocFailed", bytes: PAIR, cause: cannotMap })
            assert.include(message, "a connection whose segment an application could not map")
            assertRest(world)
            // Who was told of the segment is told that it has gone, and nobody else: the server comes first.
            assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, side === "client" ? 1 : 0])
            const leases = world.acquire()
            assertUsable(request, leases)
            releaseBoth(world, leases)
            assertRest(world)
            assert.deepStrictEqual([client.deleted.size, server.deleted.size], [1, side === "client" ? 2 : 1])
          })
        )
      }

      it(`the ${side}: tryAcquire returns the error, and leaves nothing behind however often`, () => {
        const world = setUp()
        const { contexts, memory, request } = world
        world[side].failNext(100)
        for (let i = 0; i < 100; i++) {
          const error = contexts.tryAcquire(request)
          assert.instanceOf(error, SessionError.SessionError)
          assertRest(world)
        }
        assert.strictEqual(memory.stats().pooledRegions, 1)
        releaseBoth(world, world.acquire())
        assertRest(world)
      })

      const tryOnce = ({ results, world }: { readonly results: Array<string>; readonly world: World }) =>
        Effect.match(useOnce(world), {
          onFailure: ({ reason }) => results.push(reason._tag),
          onSuccess: () => results.push("leases")
        })

      it(`the ${side}: of several acquirers of a new segment one has failed, whichever came first`, () => {
        const orders = everyInterleaving({
          setUp: () => {
            const slow = new SlowMemory()
            const world = setUp({ pairs: 2, memory: slow.service })
            world[side].failNext()
            return { slow, world, results: new Array<string>() }
          },
          fibers: [tryOnce, tryOnce],
          event: ({ slow }) => (slow.pending > 0 ? () => slow.allow() : undefined),
          check({ results, world }) {
            assert.sameMembers(results, ["AllocFailed", "leases"])
            assertRest(world)
          }
        })
        assert.isAbove(orders, 100)
      })

      it(`the ${side}: others keep what they have on other segments`, () => {
        const world = setUp({ pairs: 1 })
        const { contexts, request } = world
        const first = world.acquire()
        world[side].failNext()
        assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
        assert.deepStrictEqual(sideCounts(contexts), [[1, 1]])
        assertUsable(request, first)
        const second = world.acquire()
        for (const leases of [first, second]) releaseBoth(world, leases)
        assertRest(world)
      })
    }

    it("the client, on a segment that the server has asked for leases on meanwhile: the server's stay", () => {
      const world = setUp()
      const { client, contexts, request, server } = world
      const more: Array<SegmentContext.Leases> = []
      client.failNext(1)
      server.whenAdded = () => {
        server.whenAdded = () => {}
        // This is the first time that the client is told.
        assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
        more.push(assertLeases(contexts.tryAcquire(request)))
      }
      const leases = world.acquire()
      assertSame(leases.client.segment, more[0].client.segment)
      for (const pair of [leases, ...more]) {
        assertUsable(request, pair)
        releaseBoth(world, pair)
      }
      assertRest(world)
    })
  })

  describe("a deletion that is acknowledged late", () => {
    it("keeps the region from all others until both have acknowledged, each as often as it likes", () => {
      for (const order of [
        ["client", "server"],
        ["server", "client"]
      ] as const) {
        const world = setUp()
        const { contexts, memory, request } = world
        for (const side of order) world[side].isLate = true
        const first = world.acquire()
        releaseBoth(world, first)
        // For the contexts it is over.
        assert.deepStrictEqual(contexts.stats(), { contexts: 0, leases: 0, fifoBytes: 0, segments: [] })
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 0 })
        const [one] = world[order[0]].unacknowledged
        const [other] = world[order[1]].unacknowledged
        for (let i = 0; i < 3; i++) one()
        const second = world.acquire()
        assertOther(second.client.segment.region, first.client.segment.region)
        assert.deepInclude(memory.stats(), { regions: 2, pooledRegions: 0 })
        for (let i = 0; i < 3; i++) other()
        assert.deepInclude(memory.stats(), { regions: 1, pooledRegions: 1 })
        // Now it serves again.
        const third = assertLeases(contexts.tryAcquire({ ...request, client: request.server, server: request.client }))
        assertSame(third.client.segment.region, first.client.segment.region)
        for (const acknowledge of [one, other]) acknowledge()
        assertUsable(request, third)
        for (const leases of [second, third]) releaseBoth(world, leases)
        assert.deepInclude(memory.stats(), { regions: 2, pooledRegions: 0 })
        for (const { unacknowledged } of [world.client, world.server]) for (const again of unacknowledged) again()
        assertRest(world)
        assert.strictEqual(memory.stats().pooledRegions, 2)
      }
    })

    it("is not waited for by whoever could not map the segment", () => {
      const world = setUp()
      const { client, contexts, memory, request, server } = world
      for (const user of [client, server]) user.isLate = true
      client.failNext()
      assert.instanceOf(contexts.tryAcquire(request), SessionError.SessionError)
      assert.strictEqual(client.unacknowledged.length, 0)
      assert.strictEqual(memory.stats().regions, 1)
      server.unacknowledged[0]()
      assertRest(world)
    })
  })

  describe("interruption", () => {
    it.effect("whoever is interrupted behind another one's allocation holds nothing and holds nobody up", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ memory: slow.service })
        const { contexts, request } = world
        const [first, second, third] = Array.from({ length: 3 }, () => Effect.runFork(contexts.acquire(request)))
        yield* Fiber.interrupt(second)
        slow.allow()
        const leases = [yield* Fiber.join(first), yield* Fiber.join(third)]
        assert.deepStrictEqual(sideCounts(contexts), [[2, 2]])
        for (const pair of leases) releaseBoth(world, pair)
        assertRest(world)
      })
    )

    it("whoever is interrupted anywhere, where nothing interrupts, gets its leases first, to release them", () => {
      const interrupted = interruptEverywhere({
        setUp: () => {
          const slow = new SlowMemory()
          const world = setUp({ memory: slow.service })
          return { slow, world, counts: { held: 0 } }
        },
        start: ({ run }, { counts, world }) => run(useOnce(world, () => void counts.held++)),
        afterwards: (_attempt, { slow }) => slow.allowAll(),
        check({ counts, world }, where) {
          // Interrupted before its first step it has asked for nothing.
          assert.isAtMost(counts.held, 1, where)
          assert.strictEqual(world.client.deleted.size, counts.held, where)
          assertRest(world)
        }
      })
      assert.isAbove(interrupted, 10)
    })
  })

  describe("the lock", () => {
    const tracedMemory = (log: Array<string>): Memory => {
      const memory = makeMemory()
      return {
        ...memory,
        tryAllocate: (bytes) => {
          log.push("allocate")
          return memory.tryAllocate(bytes)
        },
        allocate: () => assert.fail("memory is to be had at once")
      }
    }

    it.effect("is held by one at a time, only while memory is allocated, and can be another one", () => {
      const log: Array<string> = []
      const memory = tracedMemory(log)
      const manager = makeManager({ segmentSize: 2 * PAIR })
      const user: SegmentUser = {
        name: "user",
        segmentAdded: () => void log.push("added"),
        segmentDeleted: (_segment, acknowledge) => {
          log.push("deleted")
          acknowledge()
        }
      }
      const locks: Lock.Lock["Service"] = {
        make: (name) => Lock.makeReadWrite(name, (event) => void log.push(event)),
        makeSpin: (name) => Lock.makeSpin(name),
        notifying: () => {}
      }
      return Effect.gen(function* () {
        const contexts = yield* SegmentContext.SegmentContext
        const acquire = Effect.tap(contexts.acquire({ manager, client: user, server: user }), () =>
          Effect.sync(() => log.push("leases"))
        )
        const grown = yield* acquire
        assert.deepStrictEqual(log.splice(0), ["asked", "granted", "allocate", "released", "added", "leases"])
        const found = yield* acquire
        assert.deepStrictEqual(log.splice(0), ["leases"])
        for (const { client, server } of [grown, found]) {
          contexts.release(client)
          contexts.release(server)
        }
        assert.deepStrictEqual(log.splice(0), ["deleted"])
        assertAtRest(contexts, memory, [manager])
      }).pipe(
        Effect.provide(
          SegmentContext.layer.pipe(
            Layer.provide([Layer.succeed(SharedMemory.SharedMemory, memory), Layer.succeed(Lock.Lock, locks)])
          )
        )
      )
    })

    it.effect("nobody gets leases on a segment that its user does not know of", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ pairs: 3, memory: slow.service })
        const { contexts, request } = world
        let count = 0
        const fibers = Array.from({ length: 20 }, () =>
          Effect.runFork(
            Effect.tap(contexts.acquire(request), (leases) =>
              Effect.sync(() => {
                assertUsable(request, leases)
                count++
              })
            )
          )
        )
        while (slow.pending > 0) {
          slow.allow()
          yield* Effect.yieldNow
        }
        assert.strictEqual(count, 20)
        for (const fiber of fibers) releaseBoth(world, yield* Fiber.join(fiber))
        assertRest(world)
      })
    )
  })
})
