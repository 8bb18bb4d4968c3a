/** Answers of a server that come twice, or too late: one counts, and a connection that is over stays over. */
import { type Connection, type Listener } from "@cut-through/core"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import type * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { endpoint, reasonOf } from "../fixtures.ts"
import {
  assertTalk,
  attach,
  attachBoth,
  fork,
  inEveryOrder,
  layerWith,
  listen,
  mappedBy,
  type Party,
  refusalsOf,
  type Sessions
} from "./fixtures.ts"

interface Asked {
  readonly client: Party
  readonly server: Party
  readonly layer: Sessions
  readonly listener: Listener.Listener
  readonly connecting: Fiber.Fiber<Connection.Connection, unknown>
  readonly request: Listener.ConnectionRequest
}

/** A connect that waits for the server's answer. */
const ask: Effect.Effect<Asked, unknown, SessionLayer.SessionLayer | Scope.Scope> = Effect.gen(function* () {
  const parties = yield* attachBoth()
  const { listener } = yield* listen(parties.server, endpoint, { approval: "application" })
  const connecting = yield* Effect.forkIn(parties.client.application.connect(endpoint), yield* Effect.scope, {
    startImmediately: true
  })
  return { ...parties, listener, connecting, request: yield* listener.request }
})

const connected = { sessions: 2, halfOpens: 0, leases: 2, contexts: 1, segments: 1 }
const nothing = { sessions: 0, halfOpens: 0, leases: 0, contexts: 0, segments: 0 }

const outcome = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.map(Effect.exit(effect), reasonOf)

describe("a yes that comes twice", () => {
  it.effect("D21 R8 the second one fails, and there is one connection", () =>
    Effect.gen(function* () {
      const { client, connecting, layer, request, server } = yield* ask
      const accepted = yield* request.accept
      const peer = yield* Fiber.join(connecting)
      for (let i = 0; i < 3; i++) {
        const error = yield* Effect.flip(request.accept)
        assert.deepInclude(error.reason, { _tag: "InvalidArgument", what: "the session to accept" })
        assert.deepInclude(layer.residue(), connected)
      }
      yield* assertTalk(peer, accepted)
      assert.deepStrictEqual([accepted.info.state, peer.info.state], ["ready", "ready"])
      assert.strictEqual(client.told("Connected").length, 1)
      assert.strictEqual(client.told("HalfOpenCleanup").length, 1)
      assert.strictEqual(server.told("Accepted").length, 1)
      assert.strictEqual(layer.counters.connected, 1)
      // Once is enough to end it, too.
      yield* peer.close
      yield* accepted.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 R8 the two at once: one succeeds", () =>
    Effect.gen(function* () {
      const { connecting, layer, request } = yield* ask
      const outcomes = yield* Effect.all([outcome(request.accept), outcome(request.accept)], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(outcomes.toSorted(), ["InvalidArgument", "success"])
      yield* Fiber.join(connecting)
      assert.deepInclude(layer.residue(), connected)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 R8 the second one after the client has closed: the connection does not become ready again", () =>
    Effect.gen(function* () {
      const { connecting, layer, request, server } = yield* ask
      const accepted = yield* request.accept
      const peer = yield* Fiber.join(connecting)
      yield* peer.write(Uint8Array.of(1, 2, 3))
      yield* peer.close
      assert.strictEqual(accepted.info.state, "transport-closing")
      assert.notStrictEqual(yield* outcome(request.accept), "success")
      assert.strictEqual(accepted.info.state, "transport-closing")
      assert.deepStrictEqual(yield* accepted.read, Uint8Array.of(1, 2, 3))
      assert.strictEqual(yield* outcome(accepted.read), "Done")
      assert.strictEqual(server.told("Disconnected").length, 1)
      yield* accepted.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 R8 the second one after this side has closed: the connection stays closed", () =>
    Effect.gen(function* () {
      const { connecting, layer, request } = yield* ask
      const accepted = yield* request.accept
      yield* accepted.close
      assert.notStrictEqual(yield* outcome(request.accept), "success")
      assert.strictEqual(accepted.info.state, "closed")
      yield* (yield* Fiber.join(connecting)).close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  for (const closing of [[], ["peer"], ["accepted"], ["peer", "accepted"], ["accepted", "peer"]] as const) {
    const when = closing.length === 0 ? "at once" : `after the ${closing.join(" and then the ")} side has closed`
    it.effect(`D21 R8 the second one, ${when}, fails because it is the second one: InvalidArgument`, () =>
      Effect.gen(function* () {
        const { connecting, request } = yield* ask
        const sides = { accepted: yield* request.accept, peer: yield* Fiber.join(connecting) }
        for (const side of closing) yield* sides[side].close
        assert.strictEqual(yield* outcome(request.accept), "InvalidArgument")
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }

  it.effect("D21 R8 the transport takes one yes for a session, and none for one that waits for none", () =>
    Effect.gen(function* () {
      const { client, connecting, layer, request, server } = yield* ask
      const transport = layer.transports.get("ct")!
      const [session] = server.app.workers[0].sessions
      assert.isUndefined(transport.accept(session))
      assert.strictEqual(transport.accept(session)?._tag, "InvalidArgument")
      const [peer] = client.app.workers[0].sessions
      assert.strictEqual(transport.accept(peer)?._tag, "InvalidArgument")
      const connection = yield* Fiber.join(connecting)
      assert.strictEqual(connection.info.state, "ready")
      assert.deepInclude(layer.residue(), connected)
      yield* connection.close
      transport.close(session)
      assert.isDefined(transport.accept(session))
      assert.isDefined(transport.accept(peer))
      assert.deepInclude(layer.residue(), nothing)
      yield* request.refuse
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("whoever has accepted has no request any more: what becomes of that is nothing to the connection", () =>
    Effect.gen(function* () {
      const parties = yield* attachBoth()
      const { listener } = yield* listen(parties.server, endpoint, { approval: "application" })
      const connecting = yield* fork(parties.client.application.connect(endpoint))
      const requested = yield* Scope.make()
      const request = yield* Scope.provide(listener.request, requested)
      const accepted = yield* request.accept
      yield* request.refuse
      yield* Scope.close(requested, Exit.fail("enough"))
      yield* assertTalk(yield* Fiber.join(connecting), accepted)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("a yes that comes too late", () => {
  it.effect("D21 after a no: Closed, and the client was refused once", () =>
    Effect.gen(function* () {
      const { client, connecting, layer, request } = yield* ask
      yield* request.refuse
      assert.strictEqual(reasonOf(yield* Fiber.await(connecting)), "Refused")
      for (let i = 0; i < 3; i++) {
        assert.deepInclude((yield* Effect.flip(request.accept)).reason, { _tag: "Closed", what: "request" })
        yield* request.refuse
      }
      assert.deepStrictEqual(refusalsOf(client), ["Refused"])
      assert.strictEqual(layer.counters.connected, 0)
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  const leavings: ReadonlyArray<
    readonly [name: string, leave: (asked: Asked) => Effect.Effect<unknown>, answers: number]
  > = [
    ["the client has been interrupted", ({ connecting }) => Fiber.interrupt(connecting), 1],
    // Nobody is told anything who has detached.
    ["the client's application has detached", ({ client }) => client.detach, 0]
  ]
  for (const [name, leave, answers] of leavings) {
    it.effect(`D21 D7 after ${name}: Reset, and what is left goes with the request`, () =>
      Effect.gen(function* () {
        const asked = yield* ask
        const { client, layer, request, server } = asked
        yield* leave(asked)
        const [session] = server.app.workers[0].sessions
        assert.strictEqual(session.state, "transport-closing")
        for (let i = 0; i < 3; i++) {
          assert.strictEqual(yield* outcome(request.accept), "Reset")
          assert.strictEqual(session.state, "transport-closing")
        }
        assert.strictEqual(server.told("Reset").length, 1)
        assert.deepInclude(layer.residue(), { sessions: 1, halfOpens: 0, leases: 1 })
        yield* request.refuse
        assert.deepInclude(layer.residue(), nothing)
        assert.strictEqual(mappedBy(server), 0)
        assert.strictEqual(client.told("Connected").length, answers)
        assert.strictEqual(layer.counters.connected, 0)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )

    it.effect(`D21 D20 after ${name} and another has its place: the other one waits on, and is accepted`, () =>
      Effect.gen(function* () {
        const asked = yield* ask
        const { layer, listener, request } = asked
        const stranger = yield* attach("stranger")
        const [{ handle: stale }] = layer.connections.halfOpens()
        yield* leave(asked)
        const connecting = yield* fork(stranger.application.connect(endpoint))
        const next = yield* listener.request
        const [{ handle }] = layer.connections.halfOpens()
        assert.strictEqual(HandleTable.indexOf(handle), HandleTable.indexOf(stale), "another place: this tests nothing")
        assert.strictEqual(yield* outcome(request.accept), "Reset")
        yield* request.refuse
        assert.isUndefined(connecting.pollUnsafe())
        const accepted = yield* next.accept
        yield* assertTalk(yield* Fiber.join(connecting), accepted)
        assert.strictEqual(stranger.told("Connected").length, 1)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }

  it.effect("D21 in a scope that has closed: the connection is over as soon as it is there", () =>
    Effect.gen(function* () {
      const { connecting, layer, request } = yield* ask
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const accepted = yield* Scope.provide(request.accept, scope)
      const peer = yield* Fiber.join(connecting)
      assert.strictEqual(yield* outcome(peer.read), "Done")
      assert.strictEqual(yield* outcome(accepted.read), "Closed")
      yield* peer.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 after the listener has closed: who was asked before may still say yes, once", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const { close, listener } = yield* listen(server, endpoint, { approval: "application" })
      const connecting = yield* fork(client.application.connect(endpoint))
      const request = yield* listener.request
      yield* close
      assert.isUndefined(connecting.pollUnsafe())
      const accepted = yield* request.accept
      const peer = yield* Fiber.join(connecting)
      yield* assertTalk(peer, accepted)
      assert.strictEqual(yield* outcome(request.accept), "InvalidArgument")
      yield* peer.close
      yield* accepted.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("a listener that says yes itself", () => {
  const setUp = Effect.gen(function* () {
    const parties = yield* attachBoth()
    const { listener } = yield* listen(parties.server, endpoint)
    return { ...parties, listener, peer: yield* parties.client.application.connect(endpoint) }
  })

  it.effect("D21 R8 its connections are accepted once, too", () =>
    Effect.gen(function* () {
      const { layer, listener, peer } = yield* setUp
      const request = yield* listener.request
      const accepted = yield* request.accept
      assert.strictEqual(yield* outcome(request.accept), "InvalidArgument")
      yield* request.refuse
      yield* assertTalk(peer, accepted)
      assert.deepInclude(layer.residue(), connected)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 a no resets what was connected, and no yes brings it back", () =>
    Effect.gen(function* () {
      const { layer, listener, peer } = yield* setUp
      const request = yield* listener.request
      yield* request.refuse
      assert.strictEqual(yield* outcome(peer.read), "Reset")
      assert.strictEqual(yield* outcome(request.accept), "Closed")
      yield* peer.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D21 the client has closed before: what it wrote is there, then the end", () =>
    Effect.gen(function* () {
      const { layer, listener, peer } = yield* setUp
      yield* peer.write(Uint8Array.of(1, 2, 3))
      yield* peer.close
      const request = yield* listener.request
      const accepted = yield* request.accept
      assert.strictEqual(accepted.info.state, "transport-closing")
      assert.deepStrictEqual(yield* accepted.read, Uint8Array.of(1, 2, 3))
      assert.strictEqual(yield* outcome(accepted.read), "Done")
      assert.notStrictEqual(yield* outcome(request.accept), "success")
      yield* accepted.close
      assert.deepInclude(layer.residue(), nothing)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("answers and leavings in every order", () => {
  const world = () => ({ layer: layerWith, setUp: ask })

  it("D21 R8 two say yes, one says no: one counts", () => {
    const outcomes = new Set<string>()
    const orders = inEveryOrder({
      world,
      fibers: ({ request }) => [request.accept, request.accept, request.refuse],
      check: ({ client, connecting }, exits, layer, where) => {
        const [first, second] = exits.map((exit) => (exit === undefined ? "waits" : reasonOf(exit)))
        const answer = connecting.pollUnsafe()
        assert.isDefined(answer, where)
        outcomes.add([reasonOf(answer), ...[first, second].toSorted()].join(" "))
        assert.deepInclude(layer.residue(), Exit.isSuccess(answer) ? connected : nothing, where)
        assert.strictEqual(client.told("Connected").length, 1, where)
      }
    })
    assert.isAbove(orders, 5)
    assert.deepStrictEqual([...outcomes].toSorted(), ["Refused Closed Closed", "success InvalidArgument success"])
  })

  it("D21 D7 two say yes while the client leaves: one counts, or none", () => {
    const outcomes = new Set<string>()
    const orders = inEveryOrder({
      world,
      fibers: ({ connecting, request }) => [request.accept, request.accept, Fiber.interrupt(connecting)],
      check: ({ client, connecting }, exits, layer, where) => {
        const [first, second] = exits.map((exit) => (exit === undefined ? "waits" : reasonOf(exit)))
        const answer = connecting.pollUnsafe()
        assert.isDefined(answer, where)
        outcomes.add([reasonOf(answer), ...[first, second].toSorted()].join(" "))
        // The request that nobody could say yes to any more is still in the server's hand.
        const left = { sessions: 1, halfOpens: 0, leases: 1, contexts: 1, segments: 1 }
        assert.deepInclude(layer.residue(), Exit.isSuccess(answer) ? connected : left, where)
        assert.strictEqual(client.told("Connected").length, 1, where)
      }
    })
    assert.isAbove(orders, 5)
    assert.deepStrictEqual([...outcomes].toSorted(), ["Interrupt Reset Reset", "success InvalidArgument success"])
  })
})
