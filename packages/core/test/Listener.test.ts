import { Application, Connection, Endpoint, Sessions } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, References, Scope, Stream } from "effect"
import { endpoint, pattern, reasonOf } from "./fixtures.ts"

const { layerTest } = Leaks

describe("Listener", () => {
  it.effect("connections that arrive before anybody accepts wait, in order", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const clients: Array<Connection.Connection> = []
      for (let i = 0; i < 3; i++) clients.push(yield* Application.connect(endpoint))
      for (const client of clients) {
        const server = yield* listener.accept
        assert.strictEqual(server.info.remote.port, client.info.local.port)
      }
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("accept waits for the next connection; who asked first is served first", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const first = yield* Effect.forkScoped(listener.accept, { startImmediately: true })
      const second = yield* Effect.forkScoped(listener.accept, { startImmediately: true })
      const a = yield* Application.connect(endpoint)
      const b = yield* Application.connect(endpoint)
      assert.strictEqual((yield* Fiber.join(first)).info.remote.port, a.info.local.port)
      assert.strictEqual((yield* Fiber.join(second)).info.remote.port, b.info.local.port)
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("an interrupted accept takes nothing with it", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const first = yield* Effect.forkScoped(listener.accept, { startImmediately: true })
      const second = yield* Effect.forkScoped(listener.accept, { startImmediately: true })
      yield* Fiber.interrupt(first)
      yield* Application.connect(endpoint)
      yield* Fiber.join(second)
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("a full backlog refuses, and takes connections again when one was accepted", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint, { backlog: 2 })
      yield* Application.connect(endpoint)
      yield* Application.connect(endpoint)
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(endpoint))), "Refused")
      yield* listener.accept
      yield* Application.connect(endpoint)
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("100 refused connects leave nothing behind", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint, { backlog: 1 })
      const client = yield* Application.connect(endpoint)
      const before = yield* Sessions.residue
      for (let i = 0; i < 100; i++) {
        assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(endpoint))), "Refused")
      }
      assert.deepStrictEqual(yield* Sessions.residue, before)
      yield* client.close
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("closing resets who was not accepted, frees the endpoint, and fails who waits in accept", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(Application.listen(endpoint), scope)
      const accepted = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      const waiting = yield* Application.connect(endpoint)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(reasonOf(yield* Effect.exit(waiting.read)), "Reset")
      assert.strictEqual(reasonOf(yield* Effect.exit(listener.accept)), "Closed")
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(endpoint))), "NoRoute")
      // The one that was accepted lives on.
      yield* server.write(Uint8Array.of(1))
      assert.deepStrictEqual(Array.from(yield* accepted.read), [1])
      yield* Application.listen(endpoint)
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  it.effect("a fiber that waits in accept when the listener closes gets Closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(Application.listen(endpoint), scope)
      const waiting = yield* Effect.forkScoped(Effect.exit(listener.accept), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(reasonOf(yield* Fiber.join(waiting)), "Closed")
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )

  describe("run", () => {
    it.effect("serves connections side by side, those that were there first", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        const early = yield* Application.connect(endpoint)
        yield* Effect.forkScoped(
          listener.run((connection) => Stream.run(connection.stream, connection.sink)),
          {
            startImmediately: true
          }
        )
        const late = yield* Application.connect(endpoint)
        for (const client of [late, early]) {
          yield* client.write(pattern(10))
          assert.deepStrictEqual(yield* client.read, pattern(10))
        }
      }).pipe(Effect.scoped, Effect.provide(layerTest))
    )

    it.effect("a handler that fails resets its connection, is logged, and the others go on", () => {
      const logged: Array<unknown> = []
      const logger = Logger.make(({ message }) => void logged.push(message))
      return Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        yield* Effect.forkScoped(
          listener.run((connection) =>
            Effect.flatMap(connection.read, (bytes) =>
              bytes[0] === 0 ? Effect.die("handler failed") : connection.write(bytes)
            )
          ),
          { startImmediately: true }
        )
        const bad = yield* Application.connect(endpoint)
        const good = yield* Application.connect(endpoint)
        yield* bad.write(Uint8Array.of(0))
        yield* good.write(Uint8Array.of(1))
        assert.strictEqual(reasonOf(yield* Effect.exit(bad.read)), "Reset")
        assert.deepStrictEqual(Array.from(yield* good.read), [1])
        assert.include(JSON.stringify(logged), "Unhandled error in a connection handler")
      }).pipe(Effect.scoped, Effect.provide(layerTest), Effect.provide(Logger.layer([logger])))
    })

    it.effect("a peer that breaks off is no error of the handler", () => {
      const levels: Array<string> = []
      const logger = Logger.make(({ logLevel }) => void levels.push(logLevel))
      return Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        yield* Effect.forkScoped(
          listener.run((connection) => Stream.run(connection.stream, connection.sink)),
          { startImmediately: true }
        )
        const client = yield* Application.connect(endpoint)
        yield* client.reset
        assert.deepStrictEqual(levels, ["Debug"])
      }).pipe(
        Effect.scoped,
        Effect.provide(layerTest),
        Effect.provide(Logger.layer([logger])),
        Effect.provideService(References.MinimumLogLevel, "Debug")
      )
    })

    it.effect("a handler's own resources live as long as the handler", () =>
      Effect.gen(function* () {
        const events: Array<string> = []
        const listener = yield* Application.listen(endpoint)
        yield* Effect.forkScoped(
          listener.run((connection) =>
            Effect.gen(function* () {
              yield* Effect.addFinalizer(() => Effect.sync(() => events.push("released")))
              yield* connection.close
              events.push("closed")
            })
          ),
          { startImmediately: true }
        )
        yield* Application.connect(endpoint)
        assert.deepStrictEqual(events, ["closed", "released"])
      }).pipe(Effect.scoped, Effect.provide(layerTest))
    )

    it.effect("interrupted, it resets the connections being served and leaves the rest to the next run", () => {
      const logged: Array<unknown> = []
      const logger = Logger.make(({ message }) => void logged.push(message))
      return Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        const entered = yield* Deferred.make<void>()
        const running = yield* Effect.forkScoped(
          listener.run(() => Effect.andThen(Deferred.succeed(entered, undefined), Effect.never)),
          { startImmediately: true }
        )
        const served = yield* Application.connect(endpoint)
        yield* Deferred.await(entered)
        yield* Fiber.interrupt(running)
        assert.strictEqual(reasonOf(yield* Effect.exit(served.read)), "Reset")
        const next = yield* Application.connect(endpoint)
        yield* Effect.forkScoped(listener.run((connection) => connection.write(Uint8Array.of(3))))
        assert.deepStrictEqual(Array.from(yield* next.read), [3])
        assert.deepStrictEqual(logged, [], "an interruption was taken for a failure")
      }).pipe(Effect.scoped, Effect.provide(layerTest), Effect.provide(Logger.layer([logger])))
    })

    it.effect("fails with Closed when the listener closes", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const listener = yield* Scope.provide(Application.listen(endpoint), scope)
        const running = yield* Effect.forkScoped(Effect.exit(listener.run(() => Effect.void)), {
          startImmediately: true
        })
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(reasonOf(yield* Fiber.join(running)), "Closed")
      }).pipe(Effect.scoped, Effect.provide(layerTest))
    )
  })

  it.effect("port 0 picks a free port", () =>
    Effect.gen(function* () {
      const any = Endpoint.tcp("127.0.0.1", 0)
      const first = yield* Application.listen(any)
      const second = yield* Application.listen(any)
      assert.isAbove(first.address.port, 0)
      assert.notStrictEqual(first.address.port, second.address.port)
      yield* Application.connect(second.address)
      yield* second.accept
    }).pipe(Effect.scoped, Effect.provide(layerTest))
  )
})
