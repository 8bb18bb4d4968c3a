/** Applications that detach, at every moment in the life of a connection. */
import { type Application, type Connection, type Listener, type SessionError } from "@cut-through/core"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
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
  makeHeld,
  type Party,
  type Sessions,
  settle
} from "./fixtures.ts"

type Connecting = Fiber.Fiber<Connection.Connection, SessionError.SessionError>

interface World {
  readonly client: Party
  readonly server: Party
  readonly layer: Sessions
  readonly listener: Listener.Listener
  readonly connect: Effect.Effect<Connecting, never, Scope.Scope>
  readonly hold: Effect.Effect<void>
}

/** How far a connect has come. */
interface Moment {
  readonly name: string
  readonly approval: NonNullable<Application.ListenOptions["approval"]>
  readonly isSlow?: boolean
  /** Brings it there; what it returns can still be done by the server afterwards, and how that ends. */
  readonly reach: (world: World) => Effect.Effect<
    {
      readonly connecting: Connecting
      readonly late?: Effect.Effect<Connection.Connection, SessionError.SessionError, Scope.Scope>
      readonly accepted?: Connection.Connection
    },
    unknown,
    Scope.Scope
  >
  readonly residue: Partial<ReturnType<Sessions["residue"]>>
}

const moments: ReadonlyArray<Moment> = [
  {
    name: "before the call",
    approval: "listener",
    reach: ({ connect, hold }) =>
      Effect.andThen(
        hold,
        Effect.map(connect, (connecting) => ({ connecting }))
      ),
    residue: { halfOpens: 1, sessions: 0, leases: 0, segments: 0 }
  },
  {
    name: "while the call waits for memory",
    approval: "listener",
    isSlow: true,
    reach: ({ connect }) => Effect.map(connect, (connecting) => ({ connecting })),
    residue: { halfOpens: 1, sessions: 0, leases: 0, segments: 0 }
  },
  {
    name: "while it waits in the backlog for a yes",
    approval: "application",
    reach: ({ connect }) => Effect.map(connect, (connecting) => ({ connecting })),
    residue: { halfOpens: 1, sessions: 1, leases: 2, segments: 1 }
  },
  {
    name: "while the server thinks about it",
    approval: "application",
    reach: ({ connect, listener }) =>
      Effect.gen(function* () {
        const connecting = yield* connect
        return { connecting, late: (yield* listener.request).accept }
      }),
    residue: { halfOpens: 1, sessions: 1, leases: 2, segments: 1 }
  },
  {
    name: "while it waits in the backlog, connected",
    approval: "listener",
    reach: ({ connect }) => Effect.map(connect, (connecting) => ({ connecting })),
    residue: { halfOpens: 0, sessions: 2, leases: 2, segments: 1 }
  },
  {
    name: "after the accept",
    approval: "application",
    reach: ({ connect, listener }) =>
      Effect.gen(function* () {
        const connecting = yield* connect
        const accepted = yield* listener.accept
        yield* assertTalk(yield* Fiber.join(connecting), accepted)
        return { connecting, accepted }
      }),
    residue: { halfOpens: 0, sessions: 2, leases: 2, segments: 1 }
  }
]

const isConnected = ({ residue }: Moment): boolean => residue.halfOpens === 0

const goings: ReadonlyArray<{
  readonly name: string
  readonly ids: string
  readonly go: (world: World) => Effect.Effect<unknown>
  /** The answer to a connect that had none; how the client's read ends when it had one; and the server's read. */
  readonly answer: string
  readonly client: string
  readonly server: string
}> = [
  {
    name: "the client detaches",
    ids: "D7 R14 R16",
    go: ({ client }) => client.detach,
    answer: "Closed",
    client: "Closed",
    server: "Reset"
  },
  {
    name: "the server detaches",
    ids: "D7",
    go: ({ server }) => server.detach,
    answer: "Refused",
    client: "Reset",
    server: "Closed"
  },
  {
    name: "the client detaches, then the server",
    ids: "D7 D22 R9",
    go: ({ client, server }) => Effect.andThen(client.detach, server.detach),
    answer: "Closed",
    client: "Closed",
    server: "Closed"
  },
  {
    name: "the server detaches, then the client",
    ids: "D7 D22 R9",
    go: ({ client, server }) => Effect.andThen(server.detach, client.detach),
    answer: "Refused",
    client: "Closed",
    server: "Closed"
  },
  {
    name: "both detach at once",
    ids: "D22 R9",
    go: ({ client, server }) => Effect.all([client.detach, server.detach], { concurrency: "unbounded" }),
    answer: "Closed",
    client: "Closed",
    server: "Closed"
  }
]

describe("an application detaches", () => {
  for (const moment of moments) {
    for (const going of goings) {
      it.effect(`${going.ids} ${moment.name}: ${going.name}`, () => {
        const slow = new SlowMemory()
        if (moment.isSlow !== true) slow.allowAll()
        const held = makeHeld({ memory: slow.service })
        return Effect.gen(function* () {
          const { client, layer, server } = yield* attachBoth()
          const { listener } = yield* listen(server, endpoint, { approval: moment.approval })
          const world: World = {
            client,
            server,
            layer,
            listener,
            connect: fork(client.application.connect(endpoint)),
            hold: Effect.provideService(held.hold, SessionLayer.SessionLayer, layer)
          }
          const { accepted, connecting, late } = yield* moment.reach(world)
          assert.deepInclude(layer.residue(), moment.residue)
          yield* going.go(world)
          slow.allowAll()
          yield* held.letGo
          yield* settle

          const exit = yield* Fiber.await(connecting)
          if (isConnected(moment)) {
            const connection = yield* exit
            assert.strictEqual(reasonOf(yield* Effect.exit(connection.read)), going.client)
            assert.strictEqual(reasonOf(yield* Effect.exit(connection.write(Uint8Array.of(1)))), going.client)
          } else {
            // Whoever has no server yet has not been refused by it: the client's going comes first.
            const isUndecided = moment.residue.sessions === 0 && going.name.endsWith("then the client")
            assert.strictEqual(reasonOf(exit), isUndecided ? "Closed" : going.answer)
          }
          if (accepted !== undefined) {
            assert.strictEqual(reasonOf(yield* Effect.exit(accepted.read)), going.server)
            yield* accepted.close
          }
          if (late !== undefined) {
            // Not even that makes a connection any more.
            assert.include(["Closed", "Reset"], reasonOf(yield* Effect.exit(late)))
            assert.strictEqual(layer.counters.connected, 0)
          }
          const gone = [client, server].filter((party) => party.app.isDetached)
          for (const party of gone) {
            const { halfOpens, listeners, sessions, unaccepted } = party.app
            assert.deepStrictEqual([halfOpens, listeners.size, sessions, unaccepted], [0, 0, 0, 0])
          }
          // What is still the server's to answer goes with its scope, as the last of all.
          if (late === undefined || server.app.isDetached) {
            // Who lives closes what is left.
            if (moment.name.endsWith("connected") && !server.app.isDetached) {
              const connection = yield* listener.accept
              assert.strictEqual(reasonOf(yield* Effect.exit(connection.read)), "Reset")
              yield* connection.close
            }
            if (isConnected(moment) && !client.app.isDetached) yield* (yield* exit).close
            assert.isTrue(
              Object.values(layer.residue()).every((count) => count === 0),
              JSON.stringify(layer.residue())
            )
            assert.strictEqual(server.app.fifoMemory, 0)
          } else {
            assert.deepInclude(layer.residue(), { sessions: 1, halfOpens: 0, leases: 1, segments: 1 })
          }
        }).pipe(Effect.scoped, Effect.provide(held.layer))
      })
    }
  }

  it.effect(
    "R14 a client that leaves while the server thinks takes its lease with it; the server's no takes the rest",
    () =>
      Effect.gen(function* () {
        const { client, layer, server } = yield* attachBoth()
        const { listener } = yield* listen(server, endpoint, { approval: "application" })
        const stranger = yield* attach("stranger")
        for (const answer of ["refuse", "accept"] as const) {
          const leaving = answer === "refuse" ? client : stranger
          const connecting = yield* fork(leaving.application.connect(endpoint))
          const request = yield* listener.request
          yield* leaving.detach
          assert.strictEqual(reasonOf(yield* Fiber.await(connecting)), "Closed")
          const [segment] = layer.segments.stats().segments
          assert.deepInclude(segment, { clientSessions: 0, serverSessions: 1, clientDetached: true })
          assert.strictEqual(server.told("Reset").length, answer === "refuse" ? 1 : 2)
          if (answer === "accept") assert.strictEqual((yield* Effect.flip(request.accept)).reason._tag, "Reset")
          yield* request.refuse
          assert.deepInclude(layer.residue(), { sessions: 0, leases: 0, contexts: 0, segments: 0, regions: 0 })
        }
        assert.strictEqual(server.app.fifoMemory, 0)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("R14 whoever gives up before it was taken spares the server: the backlog has room again", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const { listener } = yield* listen(server, endpoint, { approval: "application", backlog: 2 })
      for (let i = 0; i < 5; i++) {
        const fibers = [
          yield* fork(client.application.connect(endpoint)),
          yield* fork(client.application.connect(endpoint))
        ]
        assert.strictEqual(server.app.unaccepted, 2)
        yield* Fiber.interruptAll(fibers)
        assert.strictEqual(server.app.unaccepted, 0)
        assert.deepInclude(layer.residue(), { sessions: 0, halfOpens: 0, leases: 0, segments: 0 })
      }
      const connecting = yield* fork(client.application.connect(endpoint))
      yield* assertTalk(yield* listener.accept, yield* Fiber.join(connecting))
      assert.strictEqual(layer.counters.failed.get("Closed"), 10)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D7 those of other applications live: their segments, their connects, their backlog", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const stranger = yield* attach("stranger")
      const { listener } = yield* listen(server, endpoint, { approval: "application" })
      const established = yield* fork(stranger.application.connect(endpoint))
      const accepted = yield* listener.accept
      const theirs = yield* fork(stranger.application.connect(endpoint))
      const mine = yield* fork(client.application.connect(endpoint))
      yield* client.detach
      assert.strictEqual(reasonOf(yield* Fiber.await(mine)), "Closed")
      assert.isUndefined(theirs.pollUnsafe())
      yield* assertTalk(yield* Fiber.join(established), accepted)
      const second = yield* listener.accept
      yield* assertTalk(yield* Fiber.join(theirs), second)
      assert.deepInclude(layer.residue(), { sessions: 4, halfOpens: 0, leases: 4, segments: 1 })
      assert.deepStrictEqual(stranger.told("Reset"), [])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  for (const approval of ["listener", "application"] as const) {
    for (const isSlow of [false, true]) {
      const name = isSlow ? ", with memory that takes its time" : ""
      it(`D7 D22 R9 R14 both detach at any time around a connect, approval by the ${approval}${name}`, () => {
        const outcomes = new Set<string>()
        const orders = inEveryOrder({
          world: () => {
            const slow = new SlowMemory()
            if (!isSlow) slow.allowAll()
            return {
              layer: (options) => layerWith({ ...options, memory: slow.service }),
              setUp: Effect.gen(function* () {
                const parties = yield* attachBoth()
                const { listener } = yield* listen(parties.server, endpoint, { approval })
                const accepting = yield* Effect.forkIn(
                  Effect.flatMap(listener.accept, (connection) => connection.read),
                  yield* Effect.scope,
                  { startImmediately: true }
                )
                return { ...parties, accepting, slow }
              })
            }
          },
          fibers: ({ client, server, slow }) => [
            Effect.flatMap(client.application.connect(endpoint), (connection) => connection.read),
            client.detach,
            ...(isSlow
              ? [
                  Effect.andThen(
                    server.detach,
                    Effect.sync(() => slow.allowAll())
                  )
                ]
              : [server.detach])
          ],
          check: ({ accepting, client, server }, [connecting, ...detached], layer, where) => {
            for (const exit of detached) assert.strictEqual(exit && reasonOf(exit), "success", where)
            const exits = [connecting, accepting.pollUnsafe()]
            outcomes.add(exits.map((exit) => (exit === undefined ? "waits" : reasonOf(exit))).join(" "))
            assert.isTrue(
              Object.values(layer.residue()).every((count) => count === 0),
              `${JSON.stringify(layer.residue())} ${where}`
            )
            for (const { app } of [client, server]) {
              assert.deepStrictEqual([app.sessions, app.halfOpens, app.unaccepted, app.fifoMemory], [0, 0, 0, 0], where)
            }
          }
        })
        assert.isAbove(orders, 20)
        const allowed = new Set(["Closed Closed", "Closed Reset", "NoRoute Closed", "Refused Closed", "Reset Closed"])
        for (const outcome of outcomes) assert.isTrue(allowed.has(outcome), outcome)
        assert.isAbove(outcomes.size, 2, [...outcomes].join(", "))
      })
    }
  }
})
