/** A connect whose client or server fails on the way: one answer, nothing left, and the others live. */
import { type Application, type Connection, Sessions } from "@cut-through/core"
import * as Wake from "@cut-through/core/runtime/Wake"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { endpoint, reasonOf } from "../fixtures.ts"
import { SlowMemory } from "../segment/fixtures.ts"
import {
  assertTalk,
  attach,
  attachBoth,
  fork,
  inEveryOrder,
  layerWith,
  listen,
  mappedBy,
  PAIR,
  type Party,
  refusalsOf,
  settle
} from "./fixtures.ts"

class CannotMap extends Error {}

/** The next `count` segments cannot be mapped by this application, as if its process had no room for them. */
const failToMap = ({ app }: Party, count = Infinity) => {
  const [worker] = app.workers
  let left = count
  let failed = 0
  // In place of the method, on this worker only.
  Object.assign(worker, {
    segmentAdded: (segment: Parameters<typeof worker.segmentAdded>[0]) => {
      if (left-- > 0) {
        failed++
        throw new CannotMap("no room")
      }
      Object.getPrototypeOf(worker).segmentAdded.call(worker, segment)
    }
  })
  return { failed: () => failed, recover: Effect.sync(() => void (left = 0)) }
}

const connectPair = (client: Party, accept: Effect.Effect<Connection.Connection, unknown, Scope.Scope>) =>
  Effect.gen(function* () {
    return { client: yield* client.application.connect(endpoint), server: yield* accept }
  })

const isCannotMap = (error: unknown): boolean =>
  (error as { readonly reason: { readonly cause?: unknown } }).reason.cause instanceof CannotMap

describe("an application cannot map the segment", () => {
  for (const who of ["server", "client"] as const) {
    const id = who === "server" ? "D5" : "D10"

    it.effect(`${id} the ${who}: AllocFailed, once, and nothing is left; the next connect is served`, () =>
      Effect.gen(function* () {
        const { layer, ...parties } = yield* attachBoth()
        const { client, server } = parties
        const { listener } = yield* listen(server, endpoint)
        const failing = failToMap(parties[who])
        for (let i = 1; i <= 3; i++) {
          const error = yield* Effect.flip(client.application.connect(endpoint))
          assert.deepInclude(error.reason, { _tag: "AllocFailed", bytes: PAIR })
          assert.isTrue(isCannotMap(error))
          assert.strictEqual(failing.failed(), i)
          assert.strictEqual(refusalsOf(client).length, i)
          assert.isTrue(
            Object.values(layer.residue()).every((count) => count === 0),
            JSON.stringify(layer.residue())
          )
          assert.deepStrictEqual(
            [...client.app.workers, ...server.app.workers].flatMap(({ segments }) => segments),
            []
          )
        }
        // Who had mapped it was told that it is gone; who had not was told nothing.
        const told = who === "server" ? 0 : 3
        assert.deepStrictEqual([server.told("SegmentAdded").length, server.told("SegmentDeleted").length], [told, told])
        assert.deepStrictEqual([client.told("SegmentAdded").length, client.told("SegmentDeleted").length], [0, 0])
        assert.deepStrictEqual(server.told("Accepted"), [])

        yield* failing.recover
        const pair = yield* connectPair(client, listener.accept)
        yield* assertTalk(pair.client, pair.server)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )

    it.effect(`${id} the ${who}, one segment later: who is connected talks on, strangers too`, () =>
      Effect.gen(function* () {
        const { layer, ...parties } = yield* attachBoth({ server: { segmentSize: PAIR } })
        const { client, server } = parties
        const stranger = yield* attach("stranger")
        const { listener } = yield* listen(server, endpoint)
        const pairs = [yield* connectPair(client, listener.accept), yield* connectPair(stranger, listener.accept)]
        const before = layer.residue()
        const mapped = [client, server].map(mappedBy)
        const failing = failToMap(parties[who])
        for (let i = 0; i < 5; i++) {
          assert.strictEqual(
            (yield* Effect.flip(client.application.connect(endpoint))).reason._tag,
            "AllocFailed",
            "the first one's segment is full"
          )
        }
        assert.deepStrictEqual(layer.residue(), before)
        assert.deepStrictEqual([client, server].map(mappedBy), mapped)
        for (const pair of pairs) {
          assert.deepStrictEqual([pair.client.info.state, pair.server.info.state], ["ready", "ready"])
          yield* assertTalk(pair.client, pair.server)
        }
        assert.deepStrictEqual(
          [client, server, stranger].flatMap((party) => [...party.told("Disconnected"), ...party.told("Reset")]),
          []
        )
        yield* failing.recover
        const next = yield* connectPair(client, listener.accept)
        yield* assertTalk(next.client, next.server)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )

    it.effect(`${id} the ${who}, while others wait for the same memory: those who come after it are served`, () => {
      const slow = new SlowMemory()
      return Effect.gen(function* () {
        const { client, layer, server } = yield* attachBoth()
        const { listener } = yield* listen(server, endpoint)
        const fibers: Array<Fiber.Fiber<Connection.Connection, unknown>> = []
        for (let i = 0; i < 4; i++) fibers.push(yield* fork(client.application.connect(endpoint)))
        const failing = failToMap(who === "client" ? client : server, 1)
        slow.allowAll()
        const exits = yield* Effect.forEach(fibers, Fiber.await)
        assert.deepStrictEqual(exits.map(reasonOf).toSorted(), ["AllocFailed", "success", "success", "success"])
        assert.strictEqual(failing.failed(), 1)
        for (let i = 0; i < 3; i++) {
          const accepted = yield* listener.accept
          const connected = exits.flatMap((exit) => (Exit.isSuccess(exit) ? [exit.value] : []))
          const peer = connected.find((connection) => connection.info.local.port === accepted.info.remote.port)!
          yield* assertTalk(peer, accepted)
        }
        assert.deepInclude(layer.residue(), { sessions: 6, halfOpens: 0, leases: 6, segments: 1 })
        for (const party of [client, server]) assert.strictEqual(mappedBy(party), 1)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: slow.service })))
    })

    it.effect(`${id} the ${who}, of a segment that lingers: it lingers out`, () =>
      Effect.gen(function* () {
        const { layer, ...parties } = yield* attachBoth({ server: { segmentLinger: "10 seconds" } })
        const { client, server } = parties
        yield* listen(server, endpoint)
        const failing = failToMap(parties[who])
        for (let i = 1; i <= 2; i++) {
          assert.strictEqual((yield* Effect.flip(client.application.connect(endpoint))).reason._tag, "AllocFailed")
          assert.strictEqual(failing.failed(), i)
        }
        assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, segments: 1 })
        yield* TestClock.adjust("10 seconds")
        assert.deepInclude(layer.residue(), { leases: 0, contexts: 0, segments: 0, regions: 0 })
        for (const party of [client, server]) assert.strictEqual(mappedBy(party), 0)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }

  it.effect("D5 D10 an application that is both: AllocFailed, once, and nothing is left", () =>
    Effect.gen(function* () {
      const both = yield* attach("both")
      const { listener } = yield* listen(both, endpoint)
      const failing = failToMap(both, 1)
      assert.strictEqual((yield* Effect.flip(both.application.connect(endpoint))).reason._tag, "AllocFailed")
      const { halfOpens, leases, segments, sessions } = yield* Sessions.residue
      assert.deepStrictEqual(
        { halfOpens, leases, segments, sessions },
        { halfOpens: 0, leases: 0, segments: 0, sessions: 0 }
      )
      yield* failing.recover
      const pair = yield* connectPair(both, listener.accept)
      yield* assertTalk(pair.client, pair.server)
      assert.strictEqual(both.told("SegmentAdded").length, 1)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("nobody is there any more for the answer", () => {
  const waiting = Effect.gen(function* () {
    const parties = yield* attachBoth()
    const { listener } = yield* listen(parties.server, endpoint, { approval: "application" })
    return { ...parties, listener }
  })

  for (const [how, exit, end] of [
    ["with success", Exit.void, "Done"],
    ["with a failure", Exit.fail("enough"), "Reset"]
  ] as const) {
    it.effect(`D11 the scope of the connection has closed, ${how}: it is closed at once, as its scope was`, () =>
      Effect.gen(function* () {
        const { client, layer, listener, server } = yield* waiting
        const scope = yield* Scope.make()
        const connecting = yield* fork(Scope.provide(client.application.connect(endpoint), scope))
        const request = yield* listener.request
        yield* Scope.close(scope, exit)
        assert.isUndefined(connecting.pollUnsafe(), "a scope is not the fiber")
        const accepted = yield* request.accept
        const connected = yield* Fiber.join(connecting)
        yield* settle
        assert.strictEqual(connected.info.state, "closed")
        assert.strictEqual(reasonOf(yield* Effect.exit(connected.read)), "Closed")
        assert.strictEqual(reasonOf(yield* Effect.exit(accepted.read)), end)
        yield* accepted.close
        assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, leases: 0, segments: 0 })
        for (const party of [client, server]) assert.strictEqual(mappedBy(party), 0)
        assert.strictEqual(client.told("Connected").length, 1)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }

  it.effect("D11 the fiber that has asked is interrupted when the answer is there: its connection is reset", () =>
    Effect.gen(function* () {
      const { client, layer, listener } = yield* waiting
      const scope = yield* Scope.make()
      const connecting = yield* fork(Scope.provide(client.application.connect(endpoint), scope))
      const request = yield* listener.request
      const accepted = yield* request.accept
      // The scheduler has yet to wake it.
      assert.isUndefined(connecting.pollUnsafe())
      assert.strictEqual(client.told("Connected").length, 1)
      yield* Fiber.interrupt(connecting)
      assert.strictEqual(reasonOf(yield* Fiber.await(connecting)), "Interrupt")
      assert.strictEqual(reasonOf(yield* Effect.exit(accepted.read)), "Reset")
      yield* accepted.close
      assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, leases: 0, segments: 0 })
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(client.told("Connected").length, 1)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ wake: Wake.layerScheduler })))
  )

  for (const approval of ["listener", "application"] as const) {
    it(`D12 the application detaches at any time around the answer, approval by the ${approval}`, () => {
      const outcomes = new Set<string>()
      const orders = inEveryOrder({
        world: () => ({
          layer: layerWith,
          setUp: Effect.gen(function* () {
            const parties = yield* attachBoth()
            const { listener } = yield* listen(parties.server, endpoint, { approval })
            return { ...parties, listener }
          })
        }),
        fibers: ({ client, listener }) => [
          Effect.flatMap(client.application.connect(endpoint), (connection) => connection.read),
          client.detach,
          Effect.flatMap(listener.accept, (connection) => Effect.ensuring(connection.read, connection.close))
        ],
        check: ({ client }, [connect, detach, accept], layer, where) => {
          assert.deepStrictEqual(detach, Exit.void, where)
          const [answer, server] = [connect, accept].map((exit) => (exit === undefined ? "waits" : reasonOf(exit)))
          outcomes.add(`${answer} ${server}`)
          assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, leases: 0, segments: 0 }, where)
          assert.deepStrictEqual([client.app.sessions, client.app.halfOpens], [0, 0], where)
        }
      })
      assert.isAbove(orders, 20)
      // Too late to connect, given up while it waited, or connected and reset: the server sees nobody, or a reset.
      assert.deepStrictEqual([...outcomes].toSorted(), ["Closed Reset", "Closed waits"])
    })
  }
})

describe("whoever gets the answer acts at once, while the server is still saying yes", () => {
  interface World {
    readonly client: Party
    readonly server: Party
    readonly close: Effect.Effect<void>
    readonly connected: Connection.Connection
  }

  /** What it does, how its own read and the server's end then, and what the server is told and the client. */
  const actions: ReadonlyArray<
    readonly [
      name: string,
      act: (world: World) => Effect.Effect<unknown, unknown, Scope.Scope>,
      reads: Array<string>,
      told: Array<ReadonlyArray<string>>
    ]
  > = [
    ["closes", ({ connected }) => connected.close, ["Closed", "Done"], [["Disconnected"], []]],
    ["resets", ({ connected }) => connected.reset, ["Closed", "Reset"], [["Reset"], []]],
    [
      "writes and closes",
      ({ connected }) => Effect.andThen(connected.write(Uint8Array.of(1)), connected.close),
      ["Closed", "success"],
      [["Disconnected"], []]
    ],
    ["detaches", ({ client }) => client.detach, ["Closed", "Reset"], [["Reset"], []]],
    ["detaches the server", ({ server }) => server.detach, ["Reset", "Closed"], [[], ["Reset"]]],
    [
      "detaches both",
      ({ client, server }) => Effect.andThen(client.detach, server.detach),
      ["Closed", "Closed"],
      [["Reset"], []]
    ],
    [
      "closes the listener, then itself",
      ({ close, connected }) => Effect.andThen(close, connected.close),
      ["Closed", "Done"],
      [["Disconnected"], []]
    ]
  ]

  const endings = (party: Party): ReadonlyArray<string> =>
    [...party.told("Disconnected"), ...party.told("Reset")].map(({ _tag }) => _tag)

  const cases = [
    ["listener", "the server waits for it"],
    ["application", "the server waits for it"],
    ["application", "it waits for the server"]
  ] as const
  for (const [approval, who] of cases) {
    for (const [name, act, reads, told] of actions) {
      it.effect(`D13 it ${name}, approval by the ${approval}, ${who}: what it did stays done`, () =>
        Effect.gen(function* () {
          const { client, layer, server } = yield* attachBoth()
          const { close, listener } = yield* listen(server, endpoint, { approval } satisfies Application.ListenOptions)
          let connected: Connection.Connection | undefined
          const connect = fork(
            Effect.flatMap(client.application.connect(endpoint), (connection) => {
              connected = connection
              return act({ client, server, close, connected: connection })
            })
          )
          const accept = fork(listener.accept)
          const early = who === "the server waits for it" ? yield* accept : undefined
          const connecting = yield* connect
          const accepting = early ?? (yield* accept)
          yield* Fiber.join(connecting)
          const accepted = yield* Fiber.join(accepting)
          assert.notStrictEqual(accepted.info.state, "ready")
          assert.notStrictEqual(connected!.info.state, "ready")
          const exits = [yield* Effect.exit(connected!.read), yield* Effect.exit(accepted.read)]
          assert.deepStrictEqual(exits.map(reasonOf), reads)
          assert.deepStrictEqual([server, client].map(endings), told)
          yield* connected!.close
          yield* accepted.close
          yield* settle
          assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, leases: 0, segments: 0, regions: 0 })
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }
  }

  for (const approval of ["listener", "application"] as const) {
    it.effect(`D13 it connects again and again, approval by the ${approval}: tables that grow lose nobody`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* attachBoth({ server: { segmentSize: 64 * PAIR } })
        const { listener } = yield* listen(server, endpoint, { approval })
        const count = 300
        const connected: Array<Connection.Connection> = []
        const connectMore: Effect.Effect<void, unknown, Scope.Scope> = Effect.suspend(() =>
          connected.length === count
            ? Effect.void
            : Effect.flatMap(client.application.connect(endpoint), (connection) => {
                connected.push(connection)
                return connectMore
              })
        )
        const connecting = yield* fork(connectMore)
        for (let i = 0; i < count; i++) {
          const accepted = yield* listener.accept
          // Whoever connects in turn with itself is woken by the scheduler after some time.
          yield* settle
          const peer = connected.find((connection) => connection.info.local.port === accepted.info.remote.port)!
          yield* assertTalk(peer, accepted)
        }
        yield* Fiber.join(connecting)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }
})
