import { Application, Connection, Endpoint, Sessions } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { endpoint, pattern, reasonOf } from "./fixtures.ts"

const { layerSessions, layerTest } = Leaks

describe("Application", () => {
  it.effect("nobody there: NoRoute, with the endpoint and what to do", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Application.connect(endpoint))
      assert.strictEqual(error.reason._tag, "NoRoute")
      assert.include(error.message, "127.0.0.1:7000")
      assert.include(error.message, "Listen first")
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("an endpoint is taken once; another address or family is another endpoint", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.listen(endpoint))), "AlreadyListening")
      yield* Application.listen(Endpoint.tcp("127.0.0.2", 7000))
      yield* Application.listen(Endpoint.tcp("::1", 7000))
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("a listener on every address answers for each of its family", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("0.0.0.0", 7000))
      const client = yield* Application.connect(Endpoint.tcp("10.1.2.3", 7000))
      const server = yield* listener.accept
      // The address that was dialled, not the one that was bound.
      assert.strictEqual(Endpoint.format(server.info.local), "10.1.2.3:7000")
      assert.strictEqual(Endpoint.format(client.info.remote), "10.1.2.3:7000")
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(Endpoint.tcp("::1", 7000)))), "NoRoute")
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("connecting to no address in particular, or to port 0, is refused as an argument", () =>
    Effect.gen(function* () {
      for (const nowhere of [Endpoint.tcp("0.0.0.0", 7000), Endpoint.tcp("::", 7000), Endpoint.tcp("127.0.0.1", 0)]) {
        assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(nowhere))), "InvalidArgument")
      }
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("bad options name the key, the value and the bound", () =>
    Effect.gen(function* () {
      const messages: Array<string> = []
      for (const options of [
        { name: "a", rxFifoSize: 0 },
        { name: "a", txFifoSize: "2 GiB" },
        { name: "a", rxFifoSize: "many" as never },
        { name: "a", segmentSize: 4096 },
        { name: "a", workers: 0 }
      ] as const) {
        messages.push((yield* Effect.flip(Application.make(options))).message)
      }
      assert.deepStrictEqual(messages, [
        "rxFifoSize is 0: expected 1 to 1073741824 bytes",
        "txFifoSize is 2147483648: expected 1 to 1073741824 bytes",
        'rxFifoSize is many: expected a size in bytes, or a text such as "64 KiB"',
        "segmentSize is 4096: expected at least 1048576 bytes, to hold one pair of FIFOs",
        "workers is 0: expected an integer, at least 1"
      ])
    }).pipe(Effect.scoped, Effect.provide(layerSessions()))
  )

  for (const side of ["client", "server"] as const) {
    it.effect(`detaching the ${side} resets its connections and frees its endpoints`, () =>
      Effect.gen(function* () {
        const scopes = { client: yield* Scope.make(), server: yield* Scope.make() }
        const server = yield* Scope.provide(Application.make({ name: "server" }), scopes.server)
        const client = yield* Scope.provide(Application.make({ name: "client" }), scopes.client)
        const listener = yield* Scope.provide(server.listen(endpoint), scopes.server)
        // Held by a scope of their own, so that only detaching can end them.
        const own = yield* Effect.scope
        const connections: { readonly [side: string]: Connection.Connection } = {
          client: yield* Scope.provide(client.connect(endpoint), own),
          server: yield* Scope.provide(listener.accept, own)
        }
        const waiting = yield* Scope.provide(client.connect(endpoint), own)
        yield* Scope.close(scopes[side], Exit.void)
        const other = side === "client" ? "server" : "client"
        assert.strictEqual(reasonOf(yield* Effect.exit(connections[side].read)), "Closed")
        assert.strictEqual(reasonOf(yield* Effect.exit(connections[other].read)), "Reset")
        const next = side === "client" ? yield* Scope.provide(listener.accept, own) : waiting
        assert.strictEqual(reasonOf(yield* Effect.exit(next.read)), "Reset")
        assert.strictEqual(
          reasonOf(yield* Effect.exit(client.connect(endpoint))),
          side === "client" ? "Closed" : "NoRoute"
        )
        yield* Scope.close(scopes[other], Exit.void)
      }).pipe(Effect.scoped, Effect.provide(layerSessions()))
    )
  }

  it.effect("a detached application can neither listen nor connect", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const app = yield* Scope.provide(Application.make({ name: "gone" }), scope)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(reasonOf(yield* Effect.exit(app.listen(endpoint))), "Closed")
      assert.strictEqual(reasonOf(yield* Effect.exit(app.connect(endpoint))), "Closed")
    }).pipe(Effect.scoped, Effect.provide(layerSessions()))
  )

  it.effect("an application may connect to itself", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(pattern(3))
      assert.deepStrictEqual(yield* server.read, pattern(3))
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("sessions are served by the workers in turn, and by the application's workers in turn", () =>
    Effect.gen(function* () {
      const server = yield* Application.make({ name: "server", workers: 2 })
      const client = yield* Application.make({ name: "client" })
      yield* server.listen(endpoint)
      for (let i = 0; i < 6; i++) yield* client.connect(endpoint)
      const sessions = (yield* Sessions.list).filter((session) => session.side === "server")
      const byClient = sessions.toSorted((a, b) => a.remote.port - b.remote.port)
      assert.deepStrictEqual(
        byClient.map((session) => session.worker),
        [1, 2, 3, 1, 2, 3]
      )
      assert.deepStrictEqual(
        byClient.map((session) => session.app),
        ["server/0", "server/1", "server/0", "server/1", "server/0", "server/1"]
      )
    }).pipe(Effect.scoped, Effect.provide(layerSessions({ workers: 3 })))
  )

  it.effect("many clients at once all get their answer", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      yield* Effect.forkScoped(
        listener.run((connection) => Effect.flatMap(connection.read, (bytes) => connection.write(bytes))),
        { startImmediately: true }
      )
      const talk = (n: number) =>
        Effect.scoped(
          Effect.gen(function* () {
            const client = yield* Application.connect(endpoint)
            yield* client.write(pattern(10, n))
            return yield* client.read
          })
        )
      const fibers = yield* Effect.forEach(
        Array.from({ length: 500 }, (_, n) => n),
        (n) => Effect.forkChild(talk(n))
      )
      const answers = yield* Fiber.joinAll(fibers)
      answers.forEach((answer, n) => assert.deepStrictEqual(answer, pattern(10, n)))
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )
})
