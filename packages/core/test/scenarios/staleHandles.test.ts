/** Handles that mean nothing any more: they find nobody, although their place in the table is taken again. */
import { type Connection, Endpoint, type SessionError as Errors, Sessions } from "@cut-through/core"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import * as SessionError from "@cut-through/core/SessionError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { endpoint, reasonOf } from "../fixtures.ts"
import { SlowMemory } from "../segment/fixtures.ts"
import {
  assertTalk,
  attach,
  attachBoth,
  fork,
  layerWith,
  listen,
  makeHeld,
  type Party,
  refusalsOf,
  type Sessions as Layer,
  settle
} from "./fixtures.ts"

const elsewhere = Endpoint.tcp("127.0.0.1", 7001)

const assertSamePlace = (a: HandleTable.Handle, b: HandleTable.Handle) => {
  assert.notStrictEqual(a, b)
  assert.strictEqual(HandleTable.indexOf(a), HandleTable.indexOf(b), "the place was not used again: this tests nothing")
}

const givenUp = SessionError.make(new SessionError.Closed({ what: "connect" }))

const ct = (layer: Layer) => layer.transports.get("ct")!

/** The handle of the only half-open. */
const halfOpenOf = (layer: Layer): HandleTable.Handle => {
  const [halfOpen, ...others] = layer.connections.halfOpens()
  assert.deepStrictEqual(others, [])
  return halfOpen.handle
}

const connectTo = (client: Party, at = endpoint) => fork(client.application.connect(at))

describe("the listener goes between the connect and its call", () => {
  const successors: ReadonlyArray<
    readonly [
      name: string,
      next: (parties: { readonly server: Party; readonly stranger: Party }) => Party,
      Endpoint.Endpoint
    ]
  > = [
    ["another application on the same endpoint", ({ stranger }) => stranger, endpoint],
    ["another application on another endpoint", ({ stranger }) => stranger, elsewhere],
    ["the same application on the same endpoint", ({ server }) => server, endpoint],
    ["the same application on another endpoint", ({ server }) => server, elsewhere]
  ]
  const waits = ["for its call", "for memory"] as const

  for (const [name, next, at] of successors) {
    for (const waiting of waits) {
      it.effect(`D19 R6 its place is taken by ${name}, while the connect waits ${waiting}: Refused`, () => {
        const slow = new SlowMemory()
        const held = makeHeld({ memory: slow.service })
        if (waiting === "for its call") slow.allowAll()
        return Effect.gen(function* () {
          const { client, layer, server } = yield* attachBoth()
          const stranger = yield* attach("stranger")
          const { close, listener } = yield* listen(server, endpoint)
          if (waiting === "for its call") yield* held.hold
          const connecting = yield* connectTo(client)
          yield* close
          const successor = next({ server, stranger })
          const { listener: another } = yield* listen(successor, at)
          assertSamePlace(listener.handle, another.handle)
          slow.allowAll()
          yield* held.letGo
          yield* settle

          const error = yield* Effect.flip(Fiber.join(connecting))
          assert.deepInclude(error.reason, {
            _tag: "Refused",
            endpoint: "127.0.0.1:7000",
            why: "nobody listens there any more"
          })
          assert.deepStrictEqual(refusalsOf(client), ["Refused"])
          for (const party of [server, stranger]) {
            assert.deepStrictEqual(party.told("Accepted"), [])
            assert.strictEqual(party.app.unaccepted, 0)
          }
          assert.isUndefined(layer.getListener(listener.handle))
          assert.isUndefined(ct(layer).getListener(listener.handle))
          // The successor is there for those who mean it.
          const connected = yield* client.application.connect(at)
          yield* assertTalk(connected, yield* another.accept)
        }).pipe(Effect.scoped, Effect.provide(held.layer))
      })
    }
  }

  it.effect(
    "D19 R6 of a storm, each connect is refused whose listener has gone, and served whose listener has come",
    () => {
      const held = makeHeld()
      return Effect.gen(function* () {
        const { client, server } = yield* attachBoth()
        const stranger = yield* attach("stranger")
        const { close } = yield* listen(server, endpoint)
        yield* held.hold
        const early: Array<Fiber.Fiber<Connection.Connection, Errors.SessionError>> = []
        const late: Array<Fiber.Fiber<Connection.Connection, Errors.SessionError>> = []
        for (let i = 0; i < 40; i++) early.push(yield* connectTo(client))
        yield* close
        yield* listen(stranger, endpoint)
        for (let i = 0; i < 40; i++) late.push(yield* connectTo(client))
        yield* held.letGo
        for (const fiber of early) assert.strictEqual(reasonOf(yield* Fiber.await(fiber)), "Refused")
        for (const fiber of late) assert.strictEqual(reasonOf(yield* Fiber.await(fiber)), "success")
        assert.strictEqual(stranger.told("Accepted").length, 40)
        assert.deepStrictEqual(server.told("Accepted"), [])
      }).pipe(Effect.scoped, Effect.provide(held.layer))
    }
  )

  for (const waiting of waits) {
    it.effect(
      `D19 R6 one of two workers stops listening while the connect waits ${waiting}: the other one serves it`,
      () => {
        const slow = new SlowMemory()
        const held = makeHeld({ memory: slow.service })
        if (waiting === "for its call") slow.allowAll()
        return Effect.gen(function* () {
          const { client, server } = yield* attachBoth({ server: { workers: 2 } })
          const [first, second] = server.application.workers
          const scope = yield* Scope.make()
          yield* Scope.provide(first.listen(endpoint), scope)
          const listener = yield* second.listen(endpoint)
          if (waiting === "for its call") yield* held.hold
          const connecting = yield* connectTo(client)
          yield* Scope.close(scope, Exit.void)
          slow.allowAll()
          yield* held.letGo
          const connected = yield* Fiber.join(connecting)
          yield* assertTalk(connected, yield* listener.accept)
          assert.strictEqual(server.told("Accepted")[0].worker, second.name)
        }).pipe(Effect.scoped, Effect.provide(held.layer))
      }
    )
  }

  it.effect("D19 D27 a rule redirects to a listener that has gone, whose place is taken: Refused", () =>
    Effect.gen(function* () {
      const { client, server } = yield* attachBoth()
      const stranger = yield* attach("stranger")
      const { close, listener } = yield* listen(server, elsewhere)
      yield* Sessions.addRule({ remotePort: 7000, action: { redirect: listener } })
      yield* assertTalk(yield* client.application.connect(endpoint), yield* listener.accept)
      yield* close
      const { listener: another } = yield* listen(stranger, elsewhere)
      assertSamePlace(listener.handle, another.handle)
      assert.strictEqual((yield* Effect.flip(client.application.connect(endpoint))).reason._tag, "Refused")
      assert.deepStrictEqual(stranger.told("Accepted"), [])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("a half-open goes, and its place is taken", () => {
  for (const who of ["the same client", "another client"] as const) {
    for (const waiting of ["for their calls", "for memory"] as const) {
      it.effect(`D20 R7 by a connect of ${who}, while they wait ${waiting}: one is accepted, once`, () => {
        const slow = new SlowMemory()
        const held = makeHeld({ memory: slow.service })
        if (waiting === "for their calls") slow.allowAll()
        return Effect.gen(function* () {
          const { client, layer, server } = yield* attachBoth()
          const stranger = yield* attach("stranger")
          const second = who === "the same client" ? client : stranger
          const { listener } = yield* listen(server, endpoint)
          if (waiting === "for their calls") yield* held.hold
          const first = yield* connectTo(client)
          const stale = halfOpenOf(layer)
          yield* Fiber.interrupt(first)
          const connecting = yield* connectTo(second)
          assertSamePlace(stale, halfOpenOf(layer))
          slow.allowAll()
          yield* held.letGo
          yield* settle

          const connected = yield* Fiber.join(connecting)
          yield* assertTalk(connected, yield* listener.accept)
          assert.strictEqual(server.told("Accepted").length, 1)
          assert.strictEqual(server.app.unaccepted, 0)
          assert.deepInclude(layer.residue(), { sessions: 2, halfOpens: 0, leases: 2, segments: 1, regions: 1 })
          assert.strictEqual(layer.counters.connected, 1)
          assert.strictEqual(layer.counters.failed.get("Closed"), 1)
        }).pipe(Effect.scoped, Effect.provide(held.layer))
      })
    }
  }

  it.effect("D20 R7 again and again within one burst: only the last is accepted", () => {
    const held = makeHeld()
    return Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const { listener } = yield* listen(server, endpoint)
      yield* held.hold
      const places = new Set<number>()
      for (let i = 0; i < 50; i++) {
        const connecting = yield* connectTo(client)
        places.add(HandleTable.indexOf(halfOpenOf(layer)))
        yield* Fiber.interrupt(connecting)
      }
      assert.strictEqual(places.size, 1)
      const connecting = yield* connectTo(client)
      yield* held.letGo
      yield* assertTalk(yield* Fiber.join(connecting), yield* listener.accept)
      assert.strictEqual(server.told("Accepted").length, 1)
      assert.deepStrictEqual(refusalsOf(client).length, 50)
    }).pipe(Effect.scoped, Effect.provide(held.layer))
  })

  it.effect("R15 giving up by its handle hits nobody: not who has its place, and no session", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const { listener } = yield* listen(server, endpoint, { approval: "application" })
      const transport = ct(layer)

      // Answered: the handle is that of nobody, though sessions have the same index.
      const first = yield* connectTo(client)
      const stale = halfOpenOf(layer)
      const pair = { server: yield* listener.accept, client: yield* Fiber.join(first) }
      assert.isFalse(transport.cancel(stale, givenUp))
      yield* assertTalk(pair.client, pair.server)

      // Its place is taken, and given up itself, once.
      const second = yield* connectTo(client)
      const handle = halfOpenOf(layer)
      assertSamePlace(stale, handle)
      for (let i = 0; i < 2; i++) assert.isFalse(transport.cancel(stale, givenUp))
      assert.isUndefined(transport.getHalfOpen(stale))
      assert.isUndefined(second.pollUnsafe())
      assert.isTrue(transport.cancel(handle, givenUp))
      assert.isFalse(transport.cancel(handle, givenUp))
      assert.strictEqual(yield* Effect.flip(Fiber.join(second)), givenUp)

      // Taken again, and accepted after all.
      const third = yield* connectTo(client)
      const request = yield* listener.request
      for (const old of [stale, handle, HandleTable.NONE, -1, Number.NaN])
        assert.isFalse(transport.cancel(old, givenUp))
      const accepted = yield* request.accept
      yield* assertTalk(yield* Fiber.join(third), accepted)
      yield* assertTalk(pair.client, pair.server)
      assert.deepStrictEqual([...client.told("Reset"), ...client.told("Disconnected")], [])
      assert.deepInclude(layer.residue(), { sessions: 4, halfOpens: 0, leases: 4 })
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("R15 giving up one that has migrated closes its own session, and no other", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attachBoth()
      const stranger = yield* attach("stranger")
      const { listener } = yield* listen(server, endpoint, { approval: "application" })
      const connects = [yield* connectTo(stranger), yield* connectTo(stranger)]
      const strangers = [yield* listener.accept, yield* listener.accept]
      const connecting = yield* connectTo(client)
      const request = yield* listener.request
      // Session and half-open have places of their own, which are those of strangers in the other table.
      assert.isTrue(ct(layer).cancel(halfOpenOf(layer), givenUp))
      assert.strictEqual(yield* Effect.flip(Fiber.join(connecting)), givenUp)
      assert.strictEqual((yield* Effect.flip(request.accept)).reason._tag, "Reset")
      yield* request.refuse
      for (const [index, fiber] of connects.entries()) yield* assertTalk(yield* Fiber.join(fiber), strangers[index])
      assert.deepInclude(layer.residue(), { sessions: 4, halfOpens: 0, leases: 4, segments: 1 })
      assert.deepStrictEqual(stranger.told("Reset"), [])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("a session goes, and its place is taken", () => {
  const goings: ReadonlyArray<
    readonly [
      name: string,
      go: (world: { readonly server: Party; readonly close: Effect.Effect<void> }) => Effect.Effect<void>
    ]
  > = [
    ["its application detaches", ({ server }) => server.detach],
    ["its listener closes", ({ close }) => close]
  ]
  for (const [name, go] of goings) {
    for (const first of ["server", "client"] as const) {
      it.effect(`D29 R10 the ${first}'s, by another application's, then ${name}: the stranger lives`, () =>
        Effect.gen(function* () {
          const { client, layer, server } = yield* attachBoth()
          const { close, listener } = yield* listen(server, endpoint)
          const pair = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
          const [stale] = (yield* Sessions.find({ kind: "session", app: first })).map(({ id }) => id!)
          const [strangerServer, strangerClient] = [yield* attach("stranger server"), yield* attach("stranger client")]
          const { listener: another } = yield* listen(strangerServer, elsewhere)
          yield* pair[first].close
          assert.deepStrictEqual(yield* Sessions.get(stale), Option.none())

          // The other side still has the FIFOs of the one that is gone.
          const strangers = {
            client: yield* strangerClient.application.connect(elsewhere),
            server: yield* another.accept
          }
          const taken = (yield* Sessions.find({ kind: "session", endpoint: elsewhere })).map(({ id }) => id!)
          const place = taken.find(({ handle }) => HandleTable.indexOf(handle) === HandleTable.indexOf(stale.handle))
          assert.isDefined(place, "the place was not used again: this tests nothing")
          assert.strictEqual(place.worker, stale.worker)
          assertSamePlace(place.handle, stale.handle)
          assert.deepStrictEqual(yield* Sessions.get(stale), Option.none())
          assert.isUndefined(ct(layer).getSession(stale.worker, stale.handle))

          yield* go({ server, close })
          yield* assertTalk(strangers.client, strangers.server)
          yield* client.detach
          yield* assertTalk(strangers.client, strangers.server)
          for (const party of [strangerServer, strangerClient]) {
            assert.deepStrictEqual([...party.told("Reset"), ...party.told("Disconnected")], [])
          }
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }
  }

  it.effect("D29 R10 what one does to a connection that is over does nothing to who has its place", () =>
    Effect.gen(function* () {
      const { client, server } = yield* attachBoth()
      const { listener } = yield* listen(server, endpoint)
      const old = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
      yield* old.server.close
      yield* old.client.close
      // Also the FIFOs are those of the one that is over: same segment memory, same places.
      const next = { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
      for (const side of ["client", "server"] as const) {
        const over = old[side]
        assert.strictEqual(reasonOf(yield* Effect.exit(over.write(Uint8Array.of(66)))), "Closed")
        assert.strictEqual(reasonOf(yield* Effect.exit(over.read)), "Closed")
        yield* over.end
        yield* over.close
        yield* over.reset
        assert.deepInclude(over.info, { state: "closed", rx: { used: 0, size: 0 }, tx: { used: 0, size: 0 } })
      }
      yield* assertTalk(next.client, next.server)
      assert.deepStrictEqual([next.client.info.state, next.server.info.state], ["ready", "ready"])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})
