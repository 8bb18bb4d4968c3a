import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { Segment, SegmentManager } from "@cut-through/core/segment/SegmentManager"
import { AppWorker } from "@cut-through/core/session/AppWorker"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import {
  assertAtRest,
  type Contexts,
  makeContexts,
  makeManager,
  makeMemory,
  type Memory,
  noMemory,
  PAGE,
  ShortMemory,
  SlowMemory,
  User
} from "./fixtures.ts"

const PAIR = 2 * PAGE

interface World {
  readonly memory: Memory
  readonly contexts: Contexts
  readonly manager: SegmentManager
  readonly client: User
  readonly server: User
  /** Leases on the one context of this world. */
  readonly acquire: () => SegmentContext.Leases
}

const setUp = (options: { readonly pairs?: number; readonly memory?: Memory } = {}): World => {
  const memory = options.memory ?? makeMemory()
  const contexts = makeContexts(memory)
  const manager = makeManager({ segmentSize: (options.pairs ?? 4) * PAIR })
  const [client, server] = [new User(), new User()]
  return {
    memory,
    contexts,
    manager,
    client,
    server,
    acquire: () => Effect.runSync(contexts.acquire({ manager, client, server }))
  }
}

const assertRest = ({ client, contexts, manager, memory, server }: World) =>
  assertAtRest(contexts, memory, [manager], [client, server])

/** Sends a byte each way, or fails the test. */
const assertAlive = ({ rx, tx }: SegmentContext.Leases) => {
  for (const fifo of [rx, tx]) {
    const byte = new Uint8Array(1)
    assert.strictEqual(fifo.enqueue(Uint8Array.of(7), 0, 1), 1)
    assert.strictEqual(fifo.dequeue(byte, 0, 1), 1)
    assert.deepStrictEqual(byte, Uint8Array.of(7))
  }
}

const sideCounts = (contexts: Contexts) =>
  contexts.stats().segments.map((segment) => [segment.clientSessions, segment.serverSessions])

describe("SegmentContext", () => {
  it("one step takes the FIFO pair, both references, both counts and both leases, and tells both users", () => {
    const world = setUp()
    const { client, contexts, memory, server } = world
    const leases = world.acquire()
    assert.deepStrictEqual([leases.rx.references, leases.tx.references], [2, 2])
    assert.strictEqual(leases.client.segment, leases.server.segment)
    assert.deepStrictEqual([leases.client.side, leases.server.side], ["client", "server"])
    assert.deepStrictEqual([...client.mapped], [leases.client.segment])
    assert.deepStrictEqual([...server.mapped], [leases.client.segment])
    assert.deepStrictEqual(contexts.stats(), {
      contexts: 1,
      leases: 2,
      fifoBytes: PAIR,
      segments: [
        {
          listener: "manager",
          size: 4 * PAIR,
          availableBytes: 3 * PAIR,
          activeFifos: 2,
          pressure: "none",
          clientSessions: 1,
          serverSessions: 1,
          clientDetached: false,
          serverDetached: false
        }
      ]
    })
    assertAlive(leases)

    contexts.release(leases.server)
    assert.deepStrictEqual([leases.rx.references, leases.tx.references], [1, 1])
    assert.strictEqual(contexts.stats().leases, 1)
    assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: true, activeFifos: 2 })
    // The side that is left still reads and writes what is its own.
    assertAlive(leases)
    assert.strictEqual(memory.stats().regions, 1)

    contexts.release(leases.client)
    assertRest(world)
    assert.strictEqual(leases.rx.references, 0)
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
    assertAlive(second)
    for (const lease of [second.server, second.client]) contexts.release(lease)
    for (const lease of [first.client, second.server, second.client, first.server]) contexts.release(lease)
    assertRest(world)
  })

  it("worst fit: the emptiest segment is next, the oldest of those equally empty", () => {
    const world = setUp({ pairs: 3 })
    const leases = Array.from({ length: 9 }, () => world.acquire())
    const [a, b, c] = [0, 3, 6].map((i) => leases[i].client.segment)
    const segments = () => leases.map((lease) => lease.client.segment)
    assert.deepStrictEqual(segments(), [a, a, a, b, b, b, c, c, c])
    const close = (index: number) => {
      world.contexts.release(leases[index].client)
      world.contexts.release(leases[index].server)
    }
    for (const index of [0, 3, 4, 6, 7]) close(index)
    // Pairs left: a 1, b 2, c 2.
    leases.push(world.acquire(), world.acquire(), world.acquire(), world.acquire(), world.acquire(), world.acquire())
    const [d] = segments().slice(-1)
    assert.deepStrictEqual(segments().slice(9), [b, c, a, b, c, d])
    assert.notInclude([a, b, c], d)
    for (const index of leases.keys()) close(index)
    assertRest(world)
  })

  it("a pair takes up its room until both leases are released", () => {
    const world = setUp({ pairs: 2 })
    const { contexts } = world
    const [first, second] = [world.acquire(), world.acquire()]
    contexts.release(first.client)
    const third = world.acquire()
    assert.notStrictEqual(third.client.segment, first.client.segment)
    contexts.release(first.server)
    const fourth = world.acquire()
    // One place is free in each of the two; the older one is taken.
    assert.strictEqual(fourth.client.segment, first.client.segment)
    for (const { client, server } of [second, third, fourth]) {
      contexts.release(client)
      contexts.release(server)
    }
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
      assert.notStrictEqual(second.client.segment, first.client.segment)
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
    const leases = Effect.runSync(contexts.acquire({ manager, client, server: client }))
    assert.deepStrictEqual([...client.mapped], [leases.client.segment])
    contexts.release(leases.client)
    contexts.release(leases.server)
    assert.strictEqual(client.deleted.size, 1)
    assertRest(world)
  })

  it("other managers, clients and servers have other segments", () => {
    const world = setUp()
    const { contexts, memory } = world
    const managers = [world.manager, makeManager({}, "other")]
    const users = [new User(), new User()]
    const all = managers.flatMap((manager) =>
      users.flatMap((client) => users.map((server) => Effect.runSync(contexts.acquire({ manager, client, server }))))
    )
    assert.strictEqual(new Set(all.map((leases) => leases.client.segment)).size, 8)
    assert.strictEqual(contexts.stats().contexts, 8)
    assert.deepStrictEqual(
      managers.map((manager) => manager.segments.size),
      [4, 4]
    )
    for (const { client, server } of all) {
      contexts.release(server)
      contexts.release(client)
    }
    assertAtRest(contexts, memory, managers, users)
  })

  describe("the accounts that went wrong elsewhere", () => {
    for (const count of [257, 512]) {
      it(`D1: of ${count} connections on one segment one closes, and the others live`, () => {
        const world = setUp({ pairs: count })
        const { client, contexts, server } = world
        const all = Array.from({ length: count }, () => world.acquire())
        assert.deepStrictEqual(sideCounts(contexts), [[count, count]])
        const [one, ...others] = all
        contexts.release(one.client)
        contexts.release(one.server)
        assert.deepStrictEqual(sideCounts(contexts), [[count - 1, count - 1]])
        assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: false })
        assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
        for (const leases of others) assertAlive(leases)
        // It is still in use: the next connection goes there.
        others.push(world.acquire())
        assert.strictEqual(contexts.stats().segments.length, 1)
        for (const leases of others) contexts.release(leases.client)
        for (const leases of others) contexts.release(leases.server)
        assertRest(world)
      })
    }

    it("D2: when the only connection is refused, its segment goes and the next one gets a new one", () => {
      const world = setUp()
      for (let refused = 1; refused <= 3; refused++) {
        const leases = world.acquire()
        world.contexts.release(leases.client)
        world.contexts.release(leases.server)
        assertRest(world)
        assert.strictEqual(world.client.deleted.size, refused)
      }
    })

    it("D2: the first connection closes while the second one has no answer yet, and its segment stays", () => {
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

    it("D4: a client that has detached once does not lose the segment of its next connection", () => {
      const world = setUp()
      const { contexts } = world
      const first = world.acquire()
      contexts.release(first.client)
      // The flag of the first segment is set and stays: this one is elsewhere.
      const second = world.acquire()
      contexts.release(first.server)
      assert.strictEqual(contexts.stats().segments.length, 1)
      contexts.release(second.server)
      assert.deepInclude(contexts.stats().segments[0], { clientDetached: false, serverDetached: true })
      assertAlive(second)
      contexts.release(second.client)
      assertRest(world)
    })

    it.effect("D6: of many that come at once each finds the segment that another one has made", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ pairs: 8, memory: slow.service })
        const { client, contexts, manager, server } = world
        const fibers = Array.from({ length: 100 }, () => Effect.runFork(contexts.acquire({ manager, client, server })))
        let allocations = 0
        for (; slow.pending > 0; allocations++) {
          assert.strictEqual(slow.pending, 1, "two wait for memory for the same context")
          slow.allow()
          yield* Effect.yieldNow
        }
        assert.strictEqual(allocations, Math.ceil(100 / 8))
        assert.strictEqual(contexts.stats().contexts, 1)
        assert.strictEqual(contexts.stats().segments.length, allocations)
        for (const fiber of fibers) {
          const leases = yield* Fiber.join(fiber)
          contexts.release(leases.client)
          contexts.release(leases.server)
        }
        assertRest(world)
      })
    )

    it.effect("D14: without memory a connect fails, and leaves nothing behind", () =>
      Effect.gen(function* () {
        const short = new ShortMemory(1)
        const world = setUp({ pairs: 1, memory: short.service })
        const { client, contexts, manager, server } = world
        const leases = world.acquire()
        const before = contexts.stats()
        for (let i = 0; i < 3; i++) {
          const error = yield* Effect.flip(contexts.acquire({ manager, client, server }))
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

    it.effect("D14: those who waited for memory in vain are told so, and the next one tries again", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ pairs: 8, memory: slow.service })
        const { client, contexts, manager, server } = world
        const [first, second, third] = Array.from({ length: 3 }, () =>
          Effect.runFork(contexts.acquire({ manager, client, server }))
        )
        slow.refuse()
        assert.strictEqual(yield* Effect.flip(Fiber.join(first)), noMemory)
        slow.allow()
        const leases = [yield* Fiber.join(second), yield* Fiber.join(third)]
        assert.strictEqual(slow.asked, 2)
        for (const { client, server } of leases) {
          contexts.release(client)
          contexts.release(server)
        }
        assertRest(world)
      })
    )

    it("D15: each side is told once that a segment has gone, whichever lease was the last", () => {
      for (const order of [
        ["client", "server"],
        ["server", "client"]
      ] as const) {
        const world = setUp()
        const { client, contexts, server } = world
        const all = Array.from({ length: 3 }, () => world.acquire())
        const { segment } = all[0].client
        for (const side of order) {
          // A `User` fails the test when it is told twice.
          for (const leases of all) {
            assert.deepStrictEqual([client.deleted.size, server.deleted.size], [0, 0])
            contexts.release(leases[side])
          }
        }
        assert.deepStrictEqual([[...client.deleted], [...server.deleted]], [[segment], [segment]])
        for (const leases of all) for (const side of order) contexts.release(leases[side])
        assertRest(world)
      }
    })

    it("D28: 70,000 workers are 70,000 workers", () => {
      const memory = makeMemory()
      const contexts = makeContexts(memory)
      const manager = makeManager({ segmentSize: PAIR })
      const server = new AppWorker("server/0")
      const total = 70_000
      const held: Array<SegmentContext.Leases> = []
      for (let i = 0; i < total; i++) {
        const client = new AppWorker(`client/${i}`)
        // Those whose numbers have the same low 16 bits as another one's; the rest could not collide with anybody.
        if (i % 65_536 >= total - 65_536) continue
        held.push(Effect.runSync(contexts.acquire({ manager, client, server })))
        assert.strictEqual(client.segments.size, 1)
      }
      assert.strictEqual(held.length, 2 * (total - 65_536))
      assert.strictEqual(contexts.stats().contexts, held.length)
      assert.strictEqual(server.segments.size, held.length)
      assert.strictEqual(new Set(held.map((leases) => leases.client.segment)).size, held.length)
      for (const leases of held) {
        assert.deepStrictEqual([leases.rx.references, leases.tx.references], [2, 2])
        contexts.release(leases.server)
        contexts.release(leases.client)
      }
      assert.strictEqual(server.segments.size, 0)
      assertAtRest(contexts, memory, [manager])
    })
  })

  describe("interruption", () => {
    it.effect("whoever is interrupted behind another one's allocation holds nothing and holds nobody up", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ memory: slow.service })
        const { client, contexts, manager, server } = world
        const [first, second, third] = Array.from({ length: 3 }, () =>
          Effect.runFork(contexts.acquire({ manager, client, server }))
        )
        yield* Fiber.interrupt(second)
        slow.allow()
        const leases = [yield* Fiber.join(first), yield* Fiber.join(third)]
        assert.deepStrictEqual(sideCounts(contexts), [[2, 2]])
        for (const { client, server } of leases) {
          contexts.release(client)
          contexts.release(server)
        }
        assertRest(world)
      })
    )

    it.effect("whoever is interrupted while it allocates gets its leases first, to release them", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ memory: slow.service })
        const { client, contexts, manager, server } = world
        let wasReleased = false
        // As the transport does it: leases must not get lost on the way to whoever releases them.
        const fiber = Effect.runFork(
          Effect.uninterruptible(
            Effect.map(contexts.acquire({ manager, client, server }), (leases) => {
              contexts.release(leases.client)
              contexts.release(leases.server)
              wasReleased = true
            })
          )
        )
        fiber.interruptUnsafe()
        slow.allow()
        yield* Fiber.await(fiber)
        assert.isTrue(wasReleased)
        assertRest(world)
      })
    )
  })

  describe("the lock", () => {
    /** A lock that writes down who wants it, who has it and who lets it go. */
    const tracing = (log: Array<string>): Lock.Lock["Service"] => ({
      make(name) {
        const lock = Lock.makeReadWrite(name)
        const trace =
          (kind: string, withLock: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>) =>
          <A, E, R>(effect: Effect.Effect<A, E, R>) =>
            Effect.suspend(() => {
              log.push(`${kind} wanted`)
              return withLock(
                Effect.suspend(() => {
                  log.push(`${kind} held`)
                  return Effect.ensuring(
                    effect,
                    Effect.sync(() => void log.push(`${kind} let go`))
                  )
                })
              )
            })
        return { ...lock, withRead: trace("read", lock.withRead), withWrite: trace("write", lock.withWrite) }
      }
    })

    const tracedMemory = (log: Array<string>): Memory => {
      const memory = makeMemory()
      return {
        ...memory,
        allocate: (bytes) =>
          Effect.suspend(() => {
            log.push("allocate")
            return memory.allocate(bytes)
          })
      }
    }

    it.effect("is held by one at a time, only while memory is allocated, and can be another one", () => {
      const log: Array<string> = []
      const memory = tracedMemory(log)
      const manager = makeManager({ segmentSize: 2 * PAIR })
      const user: SegmentContext.SegmentUser = {
        segmentAdded: () => void log.push("added"),
        segmentDeleted: () => void log.push("deleted")
      }
      return Effect.gen(function* () {
        const contexts = yield* SegmentContext.SegmentContext
        const acquire = Effect.tap(contexts.acquire({ manager, client: user, server: user }), () =>
          Effect.sync(() => log.push("leases"))
        )
        const grown = yield* acquire
        const isMade = log.splice(0)
        assert.includeMembers(isMade, ["added"])
        assert.deepStrictEqual(
          isMade.filter((entry) => entry !== "added"),
          ["write wanted", "write held", "allocate", "write let go", "leases"]
        )
        assert.isBelow(isMade.indexOf("added"), isMade.indexOf("leases"), "leases on a segment not yet announced")

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
            Layer.provide([Layer.succeed(SharedMemory.SharedMemory, memory), Layer.succeed(Lock.Lock, tracing(log))])
          )
        )
      )
    })

    it.effect("nobody gets leases on a segment that its user does not know of", () =>
      Effect.gen(function* () {
        const slow = new SlowMemory()
        const world = setUp({ pairs: 3, memory: slow.service })
        const { client, contexts, manager, server } = world
        const known: Array<boolean> = []
        const fibers = Array.from({ length: 20 }, () =>
          Effect.runFork(
            Effect.tap(contexts.acquire({ manager, client, server }), ({ client: { segment } }) =>
              Effect.sync(() => known.push(client.mapped.has(segment) && server.mapped.has(segment)))
            )
          )
        )
        while (slow.pending > 0) {
          slow.allow()
          yield* Effect.yieldNow
        }
        assert.deepStrictEqual(known, new Array(20).fill(true))
        for (const fiber of fibers) {
          const leases = yield* Fiber.join(fiber)
          contexts.release(leases.client)
          contexts.release(leases.server)
        }
        assertRest(world)
      })
    )
  })

  describe("against a model", () => {
    interface ModelSegment {
      readonly context: number
      readonly size: number
      readonly pairs: Set<number>
      clients: number
      servers: number
      clientDetached: boolean
      serverDetached: boolean
    }

    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

    const commands = Arbitrary.array(
      Arbitrary.all({
        operation: Arbitrary.schema(Schema.Literals(["acquire", "acquire", "release", "release", "again"])),
        manager: int(1),
        client: int(2),
        server: int(2),
        which: int(9999)
      }),
      { minLength: 1 }
    )

    it.prop(
      "any program of acquires and releases keeps the accounts, and ends with nothing",
      [commands],
      ([program]) => {
        const memory = makeMemory()
        const contexts = makeContexts(memory)
        const managers = [
          makeManager({ segmentSize: 2 * PAIR, rxFifoSize: 100 }, "small"),
          // The room for three pairs and a bit.
          makeManager({ segmentSize: 3 * 3 * PAGE + 100, txFifoSize: PAGE + 1 }, "large")
        ]
        const pairBytes = managers.map(({ properties }) =>
          FifoSegment.pairBytes(properties.rxFifoSize, properties.txFifoSize)
        )
        const users = [new User(), new User(), new User()]
        const model = new Map<Segment, ModelSegment>()
        const leases: Array<{ readonly lease: SegmentContext.Lease; readonly pair: number; isReleased: boolean }> = []
        const told = users.map(() => new Set<Segment>())

        const acquire = (which: number, client: number, server: number) => {
          const context = which * 9 + client * 3 + server
          const bytes = pairBytes[which]
          const left = (segment: ModelSegment) => segment.size - segment.pairs.size * bytes
          const usable = [...model].filter(
            ([, it]) => it.context === context && !it.clientDetached && !it.serverDetached && left(it) >= bytes
          )
          // Sorting is stable: the oldest of the emptiest.
          const expected = usable.toSorted(([, a], [, b]) => left(b) - left(a))[0]?.[0]
          const taken = Effect.runSync(
            contexts.acquire({ manager: managers[which], client: users[client], server: users[server] })
          )
          const { segment } = taken.client
          if (expected === undefined) {
            assert.isFalse(model.has(segment), "a segment was used that ought not to be")
            model.set(segment, {
              context,
              size: segment.fifos.size,
              pairs: new Set(),
              clients: 0,
              servers: 0,
              clientDetached: false,
              serverDetached: false
            })
            told[client].add(segment)
            told[server].add(segment)
          } else {
            assert.strictEqual(segment, expected, "not the emptiest segment")
          }
          const it = model.get(segment)!
          const pair = leases.length
          it.pairs.add(pair)
          it.clients++
          it.servers++
          for (const side of ["client", "server"] as const) leases.push({ lease: taken[side], pair, isReleased: false })
        }

        const release = (index: number) => {
          const owned = leases[index]
          contexts.release(owned.lease)
          if (owned.isReleased) return
          owned.isReleased = true
          const { segment, side } = owned.lease
          const it = model.get(segment)!
          if (leases.every((other) => other.pair !== owned.pair || other.isReleased)) it.pairs.delete(owned.pair)
          if (side === "client") it.clientDetached = --it.clients === 0
          else it.serverDetached = --it.servers === 0
          if (it.clientDetached && it.serverDetached) {
            model.delete(segment)
            for (const segments of told) segments.delete(segment)
          }
        }

        const check = () => {
          const stats = contexts.stats()
          const live = [...model]
          assert.strictEqual(stats.contexts, new Set(live.map(([, it]) => it.context)).size)
          assert.strictEqual(stats.leases, leases.filter((owned) => !owned.isReleased).length)
          assert.strictEqual(memory.stats().regions, live.length)
          assert.strictEqual(managers[0].segments.size + managers[1].segments.size, live.length)
          assert.sameDeepMembers(
            stats.segments.map(({ availableBytes: _, pressure: __, ...rest }) => rest),
            live.map(([, it]) => ({
              listener: managers[Math.floor(it.context / 9)].name,
              size: it.size,
              activeFifos: 2 * it.pairs.size,
              clientSessions: it.clients,
              serverSessions: it.servers,
              clientDetached: it.clientDetached,
              serverDetached: it.serverDetached
            }))
          )
          assert.deepStrictEqual(
            users.map((user) => user.mapped),
            told
          )
        }

        for (const { client, manager, operation, server, which } of program) {
          const live = leases.flatMap((owned, index) => (owned.isReleased ? [] : [index]))
          if (operation === "acquire") acquire(manager, client, server)
          else if (operation === "release" && live.length > 0) release(live[which % live.length])
          else if (leases.length > 0) release(which % leases.length)
          check()
        }
        // In an order of no meaning.
        const order = [...leases.keys()].toSorted((a, b) => ((a * 7919) % 101) - ((b * 7919) % 101))
        for (const index of order) release(index)
        check()
        assertAtRest(contexts, memory, managers, users)
      },
      { arbitrary: { runs: 300, size: 60 } }
    )
  })
})
