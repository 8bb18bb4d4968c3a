/** The ledger of the original's defects is complete and true, and the ones that need only a few lines are here. */
import { Application, Endpoint, Sessions } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Queue, Scope } from "effect"
import * as fs from "node:fs"
import { connectedPair, endpoint, reasonOf } from "./fixtures.ts"

describe("the ledger", () => {
  const here = new URL(".", import.meta.url)
  const rows = fs
    .readFileSync(new URL("vpp-defects.md", here), "utf8")
    .split("\n")
    .filter((line) => /^\| [DR]\d/.test(line))
    .map((line) => line.split("|").map((cell) => cell.trim()))
    .map(([, id, , why, test]) => ({ id, why, test }))

  it("has one row for each defect", () => {
    const ids = [
      ...Array.from({ length: 52 }, (_, i) => `D${i + 1}`),
      ...Array.from({ length: 16 }, (_, i) => `R${i + 1}`)
    ]
    assert.deepStrictEqual(
      rows.map(({ id }) => id),
      ids
    )
  })

  for (const { id, test, why } of rows) {
    it(`${id} has a test of its name, or a reason to have none`, () => {
      if (test === "none") return assert.isAbove(why.length, 20)
      const [, file, name] = /^`([^`]+)` ([DR]\d+[a-z]?)$/.exec(test) ?? assert.fail(`not a test: ${test}`)
      const source = fs.readFileSync(new URL(file, here), "utf8")
      assert.match(source, new RegExp(`(?:it|describe)[\\w.]*\\(\\s*[\`"'](?:[DR]\\d+[a-z]? )*${name}[a-z]? `))
    })
  }
})

const attached = Effect.gen(function* () {
  const layer = yield* SessionLayer
  const server = yield* Application.make({ name: "server" })
  const client = yield* Application.make({ name: "client" })
  return { layer, server, client }
})

describe("small ones", () => {
  it.effect("D23 what is not there any more is not found: nobody is hit, nothing breaks", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attached
      const transport = CutThroughTransport.of(layer)
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(server.listen(endpoint), scope)
      const connection = yield* client.connect(endpoint)
      const accepted = yield* listener.accept
      const [session] = [...layer.connections.sessions()]
      yield* accepted.close
      yield* connection.close
      yield* Scope.close(scope, Exit.void)
      yield* connection.reset
      transport.close(session)
      transport.reset(session)
      transport.halfClose(session)
      transport.customTx(session)
      assert.isDefined(transport.accept(session))
      assert.isUndefined(transport.getListener(listener.handle))
      assert.isUndefined(transport.getSession(session.worker, session.handle))
      assert.isUndefined(transport.getSession(99, session.handle))
      assert.isUndefined(transport.getHalfOpen(1))
      assert.strictEqual((yield* Sessions.list).length, 0)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D25 a session that waits to be accepted has no peer: refusing it reaches nobody else", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attached
      const open = yield* server.listen(Endpoint.tcp("127.0.0.1", 0))
      const bystander = yield* client.connect(open.address)
      yield* open.accept
      const listener = yield* server.listen(endpoint, { approval: "application" })
      const waiting = yield* Effect.forkChild(Effect.exit(client.connect(endpoint)), { startImmediately: true })
      const request = yield* listener.request
      const accepting = [...layer.connections.sessions()].find(({ state }) => state === "accepting")!
      assert.isUndefined(accepting.peer)
      yield* request.refuse
      assert.strictEqual(reasonOf(yield* Fiber.join(waiting)), "Refused")
      assert.strictEqual(bystander.info.state, "ready")
      yield* bystander.write(Uint8Array.of(1))
      yield* bystander.reset
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D33 a connect is known before it can be answered: one answer, one half-open, in this order", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attached
      yield* server.listen(endpoint)
      const [, app] = [...layer.apps()]
      const events = yield* app.events.subscribe
      yield* client.connect(endpoint)
      const tags = (yield* Queue.takeAll(events)).map(({ _tag }) => _tag)
      assert.deepStrictEqual(tags, ["SegmentAdded", "Connected", "HalfOpenCleanup"])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D51 an application that has not come to accept yet has its connections all the same", () =>
    Effect.gen(function* () {
      const { client, server } = yield* connectedPair
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual(Array.from(yield* server.read), [1, 2, 3])
      yield* Application.listen(endpoint)
      const early = yield* Application.connect(endpoint)
      yield* early.write(Uint8Array.of(4))
      assert.strictEqual(early.info.state, "ready")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("R13 connects that go to several workers in turn are all answered, by the right ones", () =>
    Effect.gen(function* () {
      const { client, layer, server } = yield* attached
      const listener = yield* server.listen(endpoint, { backlog: 100 })
      for (let i = 0; i < 40; i++) yield* client.connect(endpoint)
      for (let i = 0; i < 40; i++) yield* listener.accept
      const counts = [0, 0, 0, 0]
      for (const { worker } of layer.connections.sessions()) counts[worker]++
      assert.deepStrictEqual(counts, [0, 28, 26, 26])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions({ workers: 3 })))
  )

  it.effect("R16 the client's application has gone when the server says yes", () =>
    Effect.gen(function* () {
      const { server } = yield* attached
      const listener = yield* server.listen(endpoint, { approval: "application" })
      const scope = yield* Scope.make()
      const gone = yield* Scope.provide(Application.make({ name: "gone" }), scope)
      const waiting = yield* Effect.forkChild(Effect.exit(gone.connect(endpoint)), { startImmediately: true })
      const request = yield* listener.request
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(reasonOf(yield* Fiber.join(waiting)), "Closed")
      assert.strictEqual(reasonOf(yield* Effect.exit(request.accept)), "Reset")
    }).pipe(Effect.scoped, Effect.provide(Layer.fresh(Leaks.layerSessions())))
  )
})
