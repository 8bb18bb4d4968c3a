import { Application, Applications, type Connection, Endpoint, type Listener, Segments } from "@cut-through/core"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Queue, Scope } from "effect"
import { misplaced, pattern, reasonOf } from "../fixtures.ts"
import {
  allCalls,
  type App,
  appNamed,
  type AppOptions,
  assertLawful,
  close,
  connectThrough,
  families,
  layerWith,
  readAll,
  SlowMemory,
  twoApps
} from "./dataFixtures.ts"

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

type Connect = Effect.Effect<unknown, SessionError.SessionError, Scope.Scope>

const elsewhere = Endpoint.tcp("127.0.0.1", 7100)

/** What an application holds now. */
const held = (name: string) =>
  Effect.map(Applications.list, (apps) => {
    const found = apps.find((app) => app.name === name)
    assert.isDefined(found)
    return found
  })

/** Fails unless the connect fails, and because of that quota of its own application. */
const exceeds = (connect: Connect, quota: string, limit: number) =>
  Effect.map(Effect.exit(Effect.scoped(connect)), (exit) => {
    assert.strictEqual(reasonOf(exit), "QuotaExceeded")
    const reason = Exit.isFailure(exit) && exit.cause.reasons[0]
    assert.deepInclude(reason && reason._tag === "Fail" ? reason.error.reason : {}, { quota, limit })
  })

const isRefused = (connect: Connect) =>
  Effect.map(Effect.exit(Effect.scoped(connect)), (exit) => assert.strictEqual(reasonOf(exit), "Refused"))

const unreadOf = (name: string) => Effect.flatMap(appNamed(name), ({ events }) => events.subscribe)

/** Bytes go both ways and arrive, whatever else is the matter. */
const goesOn = ({
  client,
  server
}: {
  readonly client: Connection.Connection
  readonly server: Connection.Connection
}) =>
  Effect.gen(function* () {
    yield* Effect.all(
      [
        Effect.andThen(client.write(pattern(300_000)), client.end),
        Effect.andThen(server.write(pattern(300_000)), server.end),
        Effect.map(readAll(client), (bytes) => assert.deepStrictEqual([bytes.length, misplaced(bytes)], [300_000, -1])),
        Effect.map(readAll(server), (bytes) => assert.deepStrictEqual([bytes.length, misplaced(bytes)], [300_000, -1]))
      ],
      { concurrency: "unbounded", discard: true }
    )
  })

describe("congestion: past maxPending", () => {
  /** A server whose own connects have somebody to go to. */
  const setUp = (server: AppOptions, options?: Application.ListenOptions) =>
    Effect.gen(function* () {
      const apps = yield* twoApps({ server })
      const listener = yield* apps.server.listen(families.v4, options)
      yield* apps.client.listen(elsewhere)
      return { ...apps, listener }
    })

  const isCongested = (
    { client, listener, server }: { client: App; listener: Listener.Listener; server: App },
    limit: number
  ) =>
    Effect.gen(function* () {
      const { unaccepted, unread } = yield* held("server")
      assert.isAtLeast(unaccepted + unread, limit)
      const before = yield* Effect.map(SessionLayer, ({ counters }) => counters.connected)
      yield* isRefused(client.connect(listener.address))
      yield* exceeds(server.connect(elsewhere), "maxPending", limit)
      const { counters } = yield* SessionLayer
      assert.strictEqual(counters.connected, before)
      // Neither of them is something to be told of, or to be accepted.
      const now = yield* held("server")
      assert.deepStrictEqual([now.unaccepted, now.unread], [unaccepted, unread])
    })

  it.effect("by events that nobody reads", () =>
    Effect.gen(function* () {
      const stage = yield* setUp({ maxPending: 5 })
      const events = yield* unreadOf("server")
      // SegmentAdded, and Accepted for each.
      const pairs = yield* Effect.forEach([1, 2, 3, 4], () => connectThrough(stage.client, stage.listener))
      assert.deepInclude(yield* held("server"), { unread: 5, unaccepted: 0 })
      yield* isCongested(stage, 5)
      yield* goesOn(pairs[0])
      yield* pairs[1].client.close
      // It is told of what happens to what it has, however far it is behind.
      assert.strictEqual((yield* held("server")).unread, 6)
      yield* isCongested(stage, 5)
      const read = yield* Queue.clear(events)
      assert.deepStrictEqual(
        read.map(({ _tag }) => _tag),
        ["SegmentAdded", "Accepted", "Accepted", "Accepted", "Accepted", "Disconnected"]
      )
      assertLawful(read, false)
      yield* goesOn(yield* connectThrough(stage.client, stage.listener))
      yield* stage.server.connect(elsewhere)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("by connections that nobody accepts", () =>
    Effect.gen(function* () {
      const stage = yield* setUp({ maxPending: 3 })
      const first = yield* connectThrough(stage.client, stage.listener)
      for (let n = 0; n < 3; n++) yield* stage.client.connect(stage.listener.address)
      assert.deepInclude(yield* held("server"), { unread: 0, unaccepted: 3 })
      yield* isCongested(stage, 3)
      yield* goesOn(first)
      yield* stage.listener.accept
      yield* stage.server.connect(elsewhere)
      yield* stage.client.connect(stage.listener.address)
      yield* isCongested(stage, 3)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("by both together: the slowest reader counts, and connections of all listeners", () =>
    Effect.gen(function* () {
      const stage = yield* setUp({ maxPending: 6 })
      const other = yield* stage.server.listen(families.v6, { approval: "application" })
      const slow = yield* unreadOf("server")
      const quick = yield* unreadOf("server")
      yield* stage.client.connect(stage.listener.address)
      yield* Queue.clear(quick)
      yield* fork(stage.client.connect(other.address))
      yield* Queue.clear(quick)
      // A segment for each listener, and two sessions: four events, and two that are not accepted.
      assert.deepInclude(yield* held("server"), { unread: 4, unaccepted: 2 })
      yield* isCongested(stage, 6)
      yield* isRefused(stage.client.connect(other.address))
      yield* other.accept
      yield* stage.client.connect(stage.listener.address)
      // One more of each: SegmentAdded is told once.
      assert.deepInclude(yield* held("server"), { unread: 5, unaccepted: 2 })
      yield* isCongested(stage, 6)
      yield* Queue.clear(slow)
      yield* Queue.clear(quick)
      yield* stage.client.connect(stage.listener.address)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("an application that only connects fails with QuotaExceeded until it reads its events", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ client: { maxPending: 5 } })
      const listener = yield* server.listen(families.v4)
      const events = yield* unreadOf("client")
      const pair = yield* connectThrough(client, listener)
      yield* connectThrough(client, listener)
      // SegmentAdded, and Connected and HalfOpenCleanup for each.
      assert.strictEqual((yield* held("client")).unread, 5)
      yield* exceeds(client.connect(listener.address), "maxPending", 5)
      yield* goesOn(pair)
      assert.strictEqual((yield* Queue.clear(events)).length, 5)
      yield* client.connect(listener.address)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("one that has congested hurts only itself", () =>
    Effect.gen(function* () {
      const stage = yield* setUp({ maxPending: 1 })
      const third = yield* Application.make({ name: "third" })
      const listener = yield* third.listen(families.v6)
      yield* stage.client.connect(stage.listener.address)
      yield* isCongested(stage, 1)
      yield* goesOn(yield* connectThrough(stage.client, listener))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})

const noMemory = SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 1 }))

/** The ways in which a connect ends that has waited for the application's yes, and the reason the client gets. */
const waysOut: ReadonlyArray<
  readonly [
    name: string,
    end: (
      listener: Listener.Listener,
      connecting: Fiber.Fiber<unknown>,
      unlisten: Effect.Effect<void>
    ) => Effect.Effect<unknown, unknown, Scope.Scope>
  ]
> = [
  ["refused", (listener) => Effect.flatMap(listener.request, (request) => request.refuse)],
  ["refused by the end of a scope", (listener) => Effect.scoped(listener.request)],
  ["cancelled", (_, connecting) => Fiber.interrupt(connecting)],
  [
    "cancelled with its request in hand",
    (listener, connecting) => Effect.scoped(Effect.andThen(listener.request, Fiber.interrupt(connecting)))
  ],
  ["left by the listener", (_, __, unlisten) => unlisten],
  [
    "accepted and closed",
    (listener, connecting) =>
      Effect.gen(function* () {
        const server = yield* listener.accept
        const exit = yield* Fiber.join(connecting as Fiber.Fiber<Exit.Exit<Connection.Connection>>)
        yield* server.close
        if (Exit.isSuccess(exit)) yield* exit.value.close
      })
  ],
  [
    "accepted and reset",
    (listener, connecting) =>
      Effect.gen(function* () {
        const server = yield* listener.accept
        const exit = yield* Fiber.join(connecting as Fiber.Fiber<Exit.Exit<Connection.Connection>>)
        if (Exit.isSuccess(exit)) yield* exit.value.reset
        yield* server.close
      })
  ]
]

describe("quotas are exact, and what is given back serves the next", () => {
  const limit = 3
  const pairBytes = FifoSegment.pairBytes(4096, 4096)
  const quotas: ReadonlyArray<
    readonly [
      quota: "maxSessions" | "maxHalfOpens" | "maxFifoMemory",
      side: "client" | "server",
      options: AppOptions,
      limit: number
    ]
  > = [
    ["maxSessions", "client", { maxSessions: limit }, limit],
    ["maxHalfOpens", "client", { maxHalfOpens: limit }, limit],
    ["maxSessions", "server", { maxSessions: limit }, limit],
    ["maxFifoMemory", "server", { maxFifoMemory: limit * pairBytes }, limit * pairBytes],
    // Not a multiple: what is left is not enough for one more.
    ["maxFifoMemory", "server", { maxFifoMemory: (limit + 1) * pairBytes - 1 }, (limit + 1) * pairBytes - 1]
  ]
  const small = { rxFifoSize: 4096, txFifoSize: 4096 }

  for (const [quota, side, options, bound] of quotas) {
    for (const [way, end] of waysOut) {
      it.effect(`${quota} of the ${side}, ${bound}: connects that are ${way}`, () =>
        Effect.gen(function* () {
          const none: AppOptions = {}
          const { client, server } = yield* twoApps({
            server: { ...(side === "server" ? options : none), ...small },
            client: side === "client" ? options : none
          })
          // More than enough for anything that is kept by mistake to show.
          for (let round = 0; round < 5; round++) {
            const scope = yield* Scope.make()
            const listener = yield* Scope.provide(server.listen(families.v4, { approval: "application" }), scope)
            const connect: Connect = client.connect(listener.address)
            const oneMore = side === "client" ? exceeds(connect, quota, bound) : isRefused(connect)
            const begin: Effect.Effect<Fiber.Fiber<unknown>, never, Scope.Scope> = fork(Effect.exit(connect))
            yield* Effect.scoped(
              Effect.gen(function* () {
                const connecting: Array<Fiber.Fiber<unknown>> = []
                for (let n = 0; n < limit; n++) connecting.push(yield* begin)
                assert.isTrue(connecting.every((fiber) => fiber.pollUnsafe() === undefined))
                yield* oneMore
                yield* end(listener, connecting[0], close(scope))
                yield* allCalls
                if (way === "left by the listener") return
                // The room of one, and no more.
                connecting[0] = yield* begin
                assert.isUndefined(connecting[0].pollUnsafe(), `round ${round}: nothing was given back`)
                yield* oneMore
                for (const fiber of connecting) yield* Fiber.interrupt(fiber)
              })
            )
            yield* close(scope)
          }
          for (const name of ["client", "server"]) {
            assert.deepInclude(yield* held(name), { sessions: 0, halfOpens: 0, fifoMemory: 0, unaccepted: 0 })
          }
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )
    }
  }

  it.effect("what was allowed is counted while it lasts", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: small })
      const listener = yield* server.listen(families.v4, { approval: "application" })
      const connecting = yield* fork(client.connect(listener.address))
      assert.deepInclude(yield* held("client"), { sessions: 0, halfOpens: 1, fifoMemory: 0 })
      assert.deepInclude(yield* held("server"), { sessions: 1, halfOpens: 0, fifoMemory: pairBytes, unaccepted: 1 })
      const served = yield* listener.accept
      const connection = yield* Fiber.join(connecting)
      assert.deepInclude(yield* held("client"), { sessions: 1, halfOpens: 0, fifoMemory: 0 })
      assert.deepInclude(yield* held("server"), { sessions: 1, halfOpens: 0, fifoMemory: pairBytes, unaccepted: 0 })
      yield* connection.close
      assert.deepInclude(yield* held("client"), { sessions: 0 })
      // A side is the application's until it has closed it itself.
      assert.deepInclude(yield* held("server"), { sessions: 1, fifoMemory: pairBytes })
      yield* served.close
      assert.deepInclude(yield* held("server"), { sessions: 0, fifoMemory: 0 })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("the workers of an application share them", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({
        server: { ...small, workers: 3, maxSessions: 4 },
        client: { workers: 2, maxSessions: 3 }
      })
      const third = yield* Application.make({ name: "third" })
      const listener = yield* server.listen(families.v4)
      yield* client.workers[0].connect(listener.address)
      yield* client.workers[1].connect(listener.address)
      yield* client.workers[1].connect(listener.address)
      yield* exceeds(client.workers[0].connect(listener.address), "maxSessions", 3)
      yield* third.connect(listener.address)
      yield* isRefused(third.connect(listener.address))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("connects that fail before they begin, or for lack of memory, keep nothing", () => {
    const memory = new SlowMemory()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps({ client: { maxSessions: 1, maxHalfOpens: 1 } })
      const listener = yield* server.listen(families.v4)
      for (let n = 0; n < 5; n++) {
        assert.strictEqual(reasonOf(yield* Effect.exit(client.connect(elsewhere))), "NoRoute")
        const connecting = yield* fork(Effect.exit(client.connect(listener.address)))
        yield* exceeds(client.connect(listener.address), "maxHalfOpens", 1)
        memory.answer(noMemory)
        assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), "AllocFailed")
      }
      assert.deepInclude(yield* held("client"), { sessions: 0, halfOpens: 0 })
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.layer })))
  })

  for (const [name, options] of Object.entries({
    maxSessions: { maxSessions: 1 },
    maxFifoMemory: { maxFifoMemory: pairBytes },
    maxPending: { maxPending: 1 }
  })) {
    it.effect(`${name} of a server is kept by connects that wait for memory at the same time`, () => {
      const memory = new SlowMemory()
      return Effect.gen(function* () {
        const { client, server } = yield* twoApps({ server: { ...small, ...options } })
        const listener = yield* server.listen(families.v4)
        const connecting = yield* Effect.forEach([1, 2, 3], () => fork(Effect.exit(client.connect(listener.address))))
        while (memory.pending > 0) {
          memory.answer()
          yield* Effect.yieldNow
        }
        const reasons = (yield* Fiber.joinAll(connecting)).map(reasonOf)
        assert.deepStrictEqual(reasons.toSorted(), ["Refused", "Refused", "success"])
        assert.deepInclude(yield* held("server"), { sessions: 1, fifoMemory: pairBytes })
        const { committedBytes } = yield* Segments.stats
        assert.strictEqual(committedBytes, pairBytes)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.layer })))
    })
  }

  it.effect("maxSessions holds for an application that serves while its own connect is under way", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: { maxSessions: 2 } })
      const listener = yield* server.listen(families.v4)
      const patient = yield* client.listen(elsewhere, { approval: "application" })
      const connecting = yield* fork(server.connect(elsewhere))
      yield* client.connect(listener.address)
      const second = yield* Effect.exit(client.connect(listener.address))
      yield* patient.accept
      yield* Fiber.join(connecting)
      assert.isAtMost((yield* held("server")).sessions, 2, `the second connect ended with ${reasonOf(second)}`)
      assert.strictEqual(reasonOf(second), "Refused")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("maxSessions holds for an application that connects to itself: it takes two", () =>
    Effect.gen(function* () {
      for (const [maxSessions, expected] of [
        [1, "Refused"],
        [2, "success"],
        [3, "success"]
      ] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const app = yield* Application.make({ name: `of ${maxSessions}`, maxSessions })
            const listener = yield* app.listen(families.v4)
            const exit = yield* Effect.exit(app.connect(listener.address))
            assert.strictEqual(reasonOf(exit), expected, `of ${maxSessions}`)
            assert.isAtMost((yield* held(`of ${maxSessions}`)).sessions, maxSessions)
          })
        )
      }
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("maxFifoMemory bounds the memory, also of connections that only the other side still has", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: { ...small, maxFifoMemory: 2 * pairBytes } })
      const listener = yield* server.listen(families.v4)
      for (let n = 0; n < 10; n++) {
        const exit = yield* Effect.exit(client.connect(listener.address))
        if (Exit.isSuccess(exit)) yield* Effect.flatMap(listener.accept, (served) => served.close)
      }
      const { committedBytes } = yield* Segments.stats
      assert.isAtMost(committedBytes, 2 * pairBytes)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
