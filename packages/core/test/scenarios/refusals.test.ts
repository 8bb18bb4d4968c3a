/** Connects that get no connection: each is answered once, and nothing is left of it. */
import { type Application, Endpoint, type Listener, type SessionError } from "@cut-through/core"
import type * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { endpoint, reasonOf } from "../fixtures.ts"
import { makeMemory, noMemory, ShortMemory, SlowMemory } from "../segment/fixtures.ts"
import {
  assertTalk,
  attach,
  attachBoth,
  fork,
  layerWith,
  listen,
  makeHeld,
  mappedBy,
  PAIR,
  type Party,
  refusalsOf,
  type Sessions,
  settle
} from "./fixtures.ts"

const COUNT = 100

const times = <A, E, R>(effect: Effect.Effect<A, E, R>, count = COUNT) =>
  Effect.all(
    Array.from({ length: count }, () => effect),
    { concurrency: 1 }
  )

/** Starts connects, and says how each has ended. */
const connectAll = (client: Party, count = COUNT) =>
  Effect.map(times(fork(client.application.connect(endpoint)), count), (fibers) => ({
    fibers,
    reasons: Effect.forEach(fibers, (fiber) => Effect.map(Fiber.await(fiber), reasonOf))
  }))

const refused = Array.from({ length: COUNT }, () => "Refused")

/** Each connect was answered by this error, once; and all segments but these have gone again. */
const assertRefused = (
  { client, layer, server }: { readonly client: Party; readonly server: Party; readonly layer: Sessions },
  segments = 0,
  count = COUNT
): void => {
  assert.deepStrictEqual(refusalsOf(client), refused.slice(0, count))
  assert.strictEqual(layer.counters.failed.get("Refused"), count)
  assert.strictEqual(client.told("HalfOpenCleanup").length, client.told("Connected").length)
  for (const party of [client, server]) assert.strictEqual(mappedBy(party), segments)
  assert.deepInclude(layer.residue(), { halfOpens: 0, segments, regions: segments, pendingCalls: 0 })
}

describe("100 connects are refused", () => {
  const setUp = (options: Application.ListenOptions) =>
    Effect.gen(function* () {
      const parties = yield* attachBoth()
      return { ...parties, ...(yield* listen(parties.server, endpoint, options)) }
    })

  /** A connection of the same two applications, which shares whatever segment there is. */
  const beside = (client: Party, listener: Listener.Listener) =>
    Effect.gen(function* () {
      const connecting = yield* fork(client.application.connect(endpoint))
      const server = yield* listener.accept
      return { client: yield* Fiber.join(connecting), server }
    })

  for (const isAlone of [true, false]) {
    const [name, segments] = isAlone ? ["alone", 0] : ["beside a connection", 1]

    it.effect(`D8 D2a by the application, one after the other, ${name}`, () => {
      const memory = makeMemory()
      return Effect.gen(function* () {
        const world = yield* setUp({ approval: "application" })
        const { client, layer, listener } = world
        const other = isAlone ? undefined : yield* beside(client, listener)
        const before = layer.residue()
        for (let i = 0; i < COUNT; i++) {
          const connecting = yield* fork(client.application.connect(endpoint))
          const request = yield* listener.request
          assert.isUndefined(connecting.pollUnsafe())
          yield* request.refuse
          const error = yield* Effect.flip(Fiber.join(connecting))
          assert.deepInclude(error.reason, { _tag: "Refused", endpoint: "127.0.0.1:7000" })
          assert.deepStrictEqual(layer.residue(), before)
          const { pooledRegions, regions } = memory.stats()
          assert.strictEqual(regions + pooledRegions, 1, "each refusal took other memory")
        }
        assertRefused(world, segments)
        if (other !== undefined) yield* assertTalk(other.client, other.server)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ memory })))
    })

    for (const order of ["first", "last"] as const) {
      it.effect(`D8 D2a by the application, all at once, the ${order} one first, ${name}`, () =>
        Effect.gen(function* () {
          const world = yield* setUp({ approval: "application" })
          const { client, layer, listener } = world
          const other = isAlone ? undefined : yield* beside(client, listener)
          const before = layer.residue()
          const { reasons } = yield* connectAll(client)
          const requests = yield* times(listener.request)
          assert.strictEqual(layer.residue().halfOpens, COUNT)
          for (const request of order === "first" ? requests : requests.toReversed()) yield* request.refuse
          assert.deepStrictEqual(yield* reasons, refused)
          assert.deepStrictEqual(layer.residue(), before)
          assertRefused(world, segments)
          if (other !== undefined) yield* assertTalk(other.client, other.server)
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }
  }

  it.effect("D8 D2a by the end of the scope that has asked for them", () =>
    Effect.gen(function* () {
      const world = yield* setUp({ approval: "application" })
      const { client, listener } = world
      const { reasons } = yield* connectAll(client)
      yield* Effect.scoped(times(listener.request))
      assert.deepStrictEqual(yield* reasons, refused)
      assertRefused(world)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  for (const approval of ["listener", "application"] as const) {
    it.effect(`D8 D2a by a full backlog, which the ${approval} has to approve of: those in it live`, () => {
      const memory = makeMemory()
      return Effect.gen(function* () {
        const world = yield* setUp({ approval, backlog: 3 })
        const { client, layer, listener, server } = world
        const first = yield* connectAll(client, 3)
        const before = layer.residue()
        const { regions } = memory.stats()
        const { fibers, reasons } = yield* connectAll(client)
        assert.deepStrictEqual(yield* reasons, refused)
        const error = yield* Effect.flip(Fiber.join(fibers[0]))
        assert.deepInclude(error.reason, { why: "3 connections wait to be accepted there already" })
        assert.deepStrictEqual(layer.residue(), before)
        assert.deepInclude(memory.stats(), { regions, pooledRegions: 0 })
        // Who was refused took no place.
        const accepted = yield* times(listener.accept, 3)
        for (const [index, fiber] of first.fibers.entries())
          yield* assertTalk(yield* Fiber.join(fiber), accepted[index])
        assertRefused(world, 1)
        assert.deepStrictEqual([client.app.halfOpens, client.app.sessions, server.app.unaccepted], [0, 3, 0])
      }).pipe(Effect.scoped, Effect.provide(layerWith({ memory })))
    })
  }

  it.effect("D8 D2a D19 by a listener that closes before their calls have run", () => {
    const held = makeHeld()
    return Effect.gen(function* () {
      const world = yield* setUp({})
      const { client, close, layer } = world
      yield* held.hold
      const { reasons } = yield* connectAll(client)
      assert.deepInclude(layer.residue(), { halfOpens: COUNT, sessions: 0, leases: 0, segments: 0 })
      yield* close
      yield* held.letGo
      assert.deepStrictEqual(yield* reasons, refused)
      assertRefused(world)
      assert.strictEqual(client.told("SegmentAdded").length, 0)
    }).pipe(Effect.scoped, Effect.provide(held.layer))
  })

  it.effect("D8 D2a D19 by a listener that closes while they wait for memory", () => {
    const slow = new SlowMemory()
    return Effect.gen(function* () {
      const world = yield* setUp({})
      const { client, close, layer } = world
      const { reasons } = yield* connectAll(client)
      assert.deepInclude(layer.residue(), { halfOpens: COUNT, sessions: 0, leases: 0, segments: 0 })
      yield* close
      slow.allowAll()
      assert.deepStrictEqual(yield* reasons, refused)
      yield* settle
      assertRefused(world)
      const { pooledRegions, regions } = slow.service.stats()
      assert.deepStrictEqual([regions, pooledRegions], [0, 1], "each refusal took other memory")
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: slow.service })))
  })

  it.effect("D8 D2a by a listener that closes while they wait for its application", () =>
    Effect.gen(function* () {
      const world = yield* setUp({ approval: "application" })
      const { client, close, layer, server } = world
      const { reasons } = yield* connectAll(client)
      // Their calls are more than a worker runs at once.
      yield* settle
      assert.deepInclude(layer.residue(), { halfOpens: COUNT, sessions: COUNT })
      yield* close
      assert.deepStrictEqual(yield* reasons, refused)
      assertRefused(world)
      assert.strictEqual(server.app.unaccepted, 0)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("accepting fails", () => {
  const quotas: ReadonlyArray<{
    readonly name: string
    readonly why: string
    readonly options: Partial<SessionLayer.AttachOptions>
  }> = [
    {
      name: "the server's application has all the sessions it may have",
      why: "its application has as many sessions as it may have",
      options: { maxSessions: 1 }
    },
    {
      name: "the server's application has all the FIFO memory it may have",
      why: "its application has as much FIFO memory as it may have",
      options: { maxFifoMemory: 2 * PAIR - 1 }
    },
    {
      name: "the server's application has too much to read",
      why: "its application has too much to accept and to read already",
      // SegmentAdded and Accepted.
      options: { maxPending: 2 }
    }
  ]

  const setUp = (options: Partial<SessionLayer.AttachOptions> = {}) =>
    Effect.gen(function* () {
      const parties = yield* attachBoth({ server: options })
      const listening = yield* listen(parties.server, endpoint)
      return { ...parties, ...listening }
    })

  for (const { name, options, why } of quotas) {
    it.effect(`D9 ${name}: the client is told so, once`, () =>
      Effect.gen(function* () {
        const { client, layer, listener, ...parties } = yield* setUp(options)
        const first = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
        const before = layer.residue()
        const error = yield* Effect.flip(client.application.connect(endpoint))
        assert.deepInclude(error.reason, { _tag: "Refused", endpoint: "127.0.0.1:7000", why })
        assert.deepStrictEqual(layer.residue(), before)
        assert.deepStrictEqual(refusalsOf(client), ["Refused"])
        yield* assertTalk(first.client, first.server)
        // The quota is what is there, not what was: the next one is served.
        yield* first.client.close
        yield* first.server.close
        assert.isAbove(parties.server.events.length, 0)
        const next = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
        yield* assertTalk(next.client, next.server)
        assert.strictEqual(client.told("Connected").length, 3)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )

    it.effect(`D9 ${name} once there is memory for the client: it is told so, once`, () => {
      const slow = new SlowMemory()
      return Effect.gen(function* () {
        const { client, layer, listener } = yield* setUp(options)
        const first = yield* fork(client.application.connect(endpoint))
        const second = yield* fork(client.application.connect(endpoint))
        assert.deepInclude(layer.residue(), { halfOpens: 2, sessions: 0, leases: 0 })
        slow.allowAll()
        // In which order they are served is not promised.
        const exits = [yield* Fiber.await(first), yield* Fiber.await(second)]
        assert.deepStrictEqual(exits.map(reasonOf).toSorted(), ["Refused", "success"])
        const errors = exits.flatMap((exit) => (Exit.isFailure(exit) ? [Cause.squash(exit.cause)] : []))
        assert.deepInclude((errors[0] as SessionError.SessionError).reason, { why })
        assert.deepInclude(layer.residue(), { halfOpens: 0, sessions: 2, leases: 2, segments: 1 })
        assert.deepStrictEqual(refusalsOf(client), ["Refused"])
        const connection = exits.find(Exit.isSuccess)!.value
        yield* assertTalk(connection, yield* listener.accept)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: slow.service })))
    })
  }

  it.effect("D9 there is no memory: the client is told so, once, and the next one is served", () => {
    const memory = new ShortMemory(0)
    return Effect.gen(function* () {
      const { client, layer, listener, server } = yield* setUp()
      for (let i = 1; i <= 3; i++) {
        assert.strictEqual(yield* Effect.flip(client.application.connect(endpoint)), noMemory)
        assert.deepInclude(layer.residue(), { halfOpens: 0, sessions: 0, leases: 0, contexts: 0, segments: 0 })
        assert.strictEqual(refusalsOf(client).length, i)
      }
      assert.deepStrictEqual(server.events, [])
      memory.left = 1
      const connection = yield* client.application.connect(endpoint)
      yield* assertTalk(connection, yield* listener.accept)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.service })))
  })

  it.effect("D9 D14 there is no memory for one more segment: who is connected talks on", () => {
    const memory = new ShortMemory(1)
    return Effect.gen(function* () {
      const { client, layer, listener } = yield* setUp({ segmentSize: PAIR })
      const first = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
      const before = layer.residue()
      for (let i = 1; i <= 3; i++) {
        assert.strictEqual(yield* Effect.flip(client.application.connect(endpoint)), noMemory)
        assert.deepStrictEqual(layer.residue(), before)
      }
      assert.deepStrictEqual(refusalsOf(client), ["AllocFailed", "AllocFailed", "AllocFailed"])
      yield* assertTalk(first.client, first.server)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.service })))
  })

  it.effect("D9 the memory that was waited for does not come: each who has waited is told so, once", () => {
    const slow = new SlowMemory()
    return Effect.gen(function* () {
      const { client, layer } = yield* setUp()
      const { fibers } = yield* connectAll(client, 5)
      for (const fiber of fibers) {
        slow.refuse()
        assert.strictEqual(yield* Effect.flip(Fiber.join(fiber)), noMemory)
        yield* settle
      }
      assert.strictEqual(refusalsOf(client).length, 5)
      assert.deepInclude(layer.residue(), { halfOpens: 0, sessions: 0, leases: 0, contexts: 0, segments: 0 })
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: slow.service })))
  })

  for (const how of ["no longer listens", "has detached"]) {
    it.effect(`D9 the server ${how} when the call runs: the client is told so, once`, () => {
      const held = makeHeld()
      return Effect.gen(function* () {
        const { client, close, layer, server } = yield* setUp()
        yield* held.hold
        const connecting = yield* fork(client.application.connect(endpoint))
        yield* how === "has detached" ? server.detach : close
        assert.isUndefined(connecting.pollUnsafe())
        yield* held.letGo
        const error = yield* Effect.flip(Fiber.join(connecting))
        assert.deepInclude(error.reason, { _tag: "Refused", why: "nobody listens there any more" })
        assert.deepStrictEqual(refusalsOf(client), ["Refused"])
        assert.strictEqual(client.told("SegmentAdded").length, 0)
        assert.deepInclude(layer.residue(), { halfOpens: 0, sessions: 0, leases: 0, segments: 0 })
      }).pipe(Effect.scoped, Effect.provide(held.layer))
    })
  }

  it.effect("a connect that cannot start has no half-open, and no answer but the error", () =>
    Effect.gen(function* () {
      const server = yield* attach("server")
      const client = yield* attach("client", { maxHalfOpens: 1, maxSessions: 2 })
      const { listener } = yield* listen(server, endpoint, { approval: "application" })
      const waiting = yield* fork(client.application.connect(endpoint))
      assert.deepInclude((yield* Effect.flip(client.application.connect(endpoint))).reason, {
        _tag: "QuotaExceeded",
        quota: "maxHalfOpens"
      })
      const accepted = yield* listener.accept
      yield* assertTalk(yield* Fiber.join(waiting), accepted)
      const second = yield* fork(client.application.connect(endpoint))
      yield* listener.accept
      yield* Fiber.join(second)
      assert.deepInclude((yield* Effect.flip(client.application.connect(endpoint))).reason, {
        _tag: "QuotaExceeded",
        quota: "maxSessions"
      })
      const nowhere = Endpoint.tcp("127.0.0.1", 7001)
      assert.strictEqual((yield* Effect.flip(client.application.connect(nowhere))).reason._tag, "NoRoute")
      assert.strictEqual(client.told("Connected").length, 2)
      assert.deepStrictEqual(refusalsOf(client), [])
      assert.strictEqual(client.app.halfOpens, 0)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})
