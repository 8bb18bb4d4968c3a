/** All scenarios at once: any mix of comings and goings gives each connect one answer, and leaves nothing. */
import { type Connection, Endpoint, type Listener, type SessionError } from "@cut-through/core"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { reasonOf } from "../fixtures.ts"
import { SlowMemory } from "../segment/fixtures.ts"
import { attach, fork, listen, makeHeld, PAIR, type Party, settle } from "./fixtures.ts"

const operations = [
  "listen",
  "listen",
  "listen",
  "unlisten",
  "connect",
  "connect",
  "connect",
  "connect",
  "accept",
  "accept",
  "request",
  "say yes",
  "say no",
  "talk",
  "close",
  "close",
  "reset",
  "give up",
  "detach",
  "hold",
  "let go",
  "let go",
  "slow down",
  "allow",
  "allow all",
  "refuse",
  "settle"
] as const

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const program = Arbitrary.array(
  Arbitrary.all({ operation: Arbitrary.schema(Schema.Literals(operations)), which: int(999), other: int(999) })
)

const endpoints = [7000, 7001].map((port) => Endpoint.tcp("127.0.0.1", port))

const answers = ["success", "Refused", "NoRoute", "Closed", "AllocFailed", "QuotaExceeded", "Interrupt"]

describe("any mix of comings and goings", () => {
  it.effect.prop(
    "gives each connect one answer, tells each application what it should know, and leaves nothing",
    [program],
    ([steps]) => {
      const slow = new SlowMemory()
      slow.allowAll()
      const held = makeHeld({ memory: slow.service, workers: 2 })
      return Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const all: Array<Party> = []
        let attached = 0
        // Small: quotas and segments are full after some connections.
        const attachNext = Effect.suspend(() =>
          attach(`app ${attached++}`, { segmentSize: 2 * PAIR, maxSessions: 12, maxHalfOpens: 8 })
        ).pipe(Effect.tap((party) => Effect.sync(() => all.push(party))))
        const parties: Array<Party> = [yield* attachNext, yield* attachNext, yield* attachNext]
        const listeners: Array<{ readonly listener: Listener.Listener; readonly close: Effect.Effect<void> }> = []
        const connecting: Array<Fiber.Fiber<Connection.Connection, SessionError.SessionError>> = []
        const connections: Array<Connection.Connection> = []
        const requests: Array<Listener.ConnectionRequest> = []
        const closing: Array<Fiber.Fiber<unknown, unknown>> = []
        const scope = yield* Effect.scope

        const pick = <A>(values: ReadonlyArray<A>, which: number): A | undefined => values[which % values.length]

        /** What may have to wait for a call that is held. */
        const later = (effect: Effect.Effect<unknown, unknown>) =>
          Effect.map(fork(effect), (fiber) => void closing.push(fiber))

        /** Takes what comes at once, or nothing. */
        const now = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
          Effect.gen(function* () {
            const fiber = yield* fork(Scope.provide(effect, scope))
            yield* Fiber.interrupt(fiber)
            const exit = yield* Fiber.await(fiber)
            return exit._tag === "Success" ? exit.value : undefined
          })

        for (const { operation, other, which } of steps) {
          const party = pick(parties, which)!
          const listener = pick(listeners, which)
          const connection = pick(connections, which)
          if (operation === "listen") {
            const approval = other % 2 === 0 ? "listener" : "application"
            const exit = yield* Effect.exit(listen(party, pick(endpoints, other)!, { approval, backlog: 3 }))
            if (exit._tag === "Success") listeners.push(exit.value)
          } else if (operation === "unlisten" && listener !== undefined && other % 3 === 0) {
            listeners.splice(listeners.indexOf(listener), 1)
            yield* later(listener.close)
          } else if (operation === "connect") {
            const connect = Scope.provide(party.application.connect(pick(endpoints, other)!), scope)
            connecting.push(
              yield* fork(Effect.tap(connect, (connected) => Effect.sync(() => connections.push(connected))))
            )
          } else if (operation === "accept" && listener !== undefined) {
            const accepted = yield* now(listener.listener.accept)
            if (accepted !== undefined) connections.push(accepted)
          } else if (operation === "request" && listener !== undefined) {
            const request = yield* now(listener.listener.request)
            if (request !== undefined) requests.push(request)
          } else if (operation === "say yes" && requests.length > 0) {
            const accepted = yield* Effect.exit(Scope.provide(pick(requests, which)!.accept, scope))
            if (accepted._tag === "Success") connections.push(accepted.value)
          } else if (operation === "say no" && requests.length > 0) {
            yield* later(pick(requests, which)!.refuse)
          } else if (operation === "talk" && connection !== undefined) {
            yield* now(connection.write(new Uint8Array(other)))
            const peer = pick(connections, other)!
            yield* now(peer.read)
          } else if ((operation === "close" || operation === "reset") && connection !== undefined) {
            yield* later(connection[operation])
          } else if (operation === "give up" && connecting.length > 0) {
            yield* later(Fiber.interrupt(pick(connecting, which)!))
          } else if (operation === "detach" && other % 8 === 0) {
            parties.splice(parties.indexOf(party), 1)
            yield* later(party.detach)
            parties.push(yield* attachNext)
          } else if (operation === "hold") {
            yield* held.hold
          } else if (operation === "let go") {
            yield* held.letGo
          } else if (operation === "slow down") {
            slow.slowDown()
          } else if (operation === "allow" && slow.pending > 0) {
            slow.allow()
          } else if (operation === "allow all") {
            slow.allowAll()
          } else if (operation === "refuse" && slow.pending > 0) {
            slow.refuse()
          } else if (operation === "settle") {
            yield* settle
          }
          // At no time are there more of anything than there can be.
          const { leases, sessions } = layer.residue()
          let clients = 0
          let servers = 0
          for (const segment of layer.segments.stats().segments) {
            clients += segment.clientSessions
            servers += segment.serverSessions
          }
          assert.strictEqual(leases, clients + servers)
          assert.isAtLeast(leases, sessions)
          for (const { app } of parties) {
            assert.isAtMost(app.sessions, 12)
            assert.isAtMost(app.halfOpens, 8)
          }
        }
        slow.allowAll()
        yield* held.letGo
        for (const fiber of closing) yield* Fiber.await(fiber)
        yield* settle
        // Whoever waits for an answer now waits for an application: with that, all have one.
        for (const party of parties) yield* party.detach
        for (const fiber of connecting) assert.include(answers, reasonOf(yield* Fiber.await(fiber)))
        for (const request of requests) yield* request.refuse
        yield* settle
        assert.isTrue(
          Object.values(layer.residue()).every((count) => count === 0),
          JSON.stringify(layer.residue())
        )
        for (const { app } of all) {
          const { fifoMemory, halfOpens, listeners, sessions, unaccepted } = app
          assert.deepStrictEqual([fifoMemory, halfOpens, listeners.size, sessions, unaccepted], [0, 0, 0, 0, 0])
        }
      }).pipe(Effect.scoped, Effect.provide(held.layer, { local: true }))
    },
    { arbitrary: { runs: 40, size: 120 } }
  )
})
