import { Application, Endpoint } from "@cut-through/core"
import { Bytes, Connections, Leaks, TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"

describe("connections to test with", () => {
  it.effect("a pair carries bytes both ways, and has its ends", () =>
    Effect.gen(function* () {
      const { client, server } = yield* Connections.connectedPair
      assert.strictEqual(client.info.side, "client")
      assert.strictEqual(server.info.side, "server")
      yield* client.write(Bytes.pattern(100_000))
      Bytes.assertPattern(yield* Connections.readExactly(server, 100_000), { length: 100_000 })
      yield* server.write(Bytes.pattern(10, 3))
      Bytes.assertPattern(yield* Connections.readExactly(client, 10), { from: 3 })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("a pair across a network takes its time", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Connections.connectedPairBetween("a", "b"))
      yield* TestClock.adjust("19 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const { client, server } = yield* Fiber.join(fiber)
      assert.strictEqual(client.info.path, "tcp")
      assert.strictEqual(Endpoint.format(server.info.local), Endpoint.format(client.info.remote))
    }).pipe(
      Effect.scoped,
      Effect.provide(TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" }, link: { latency: "10 millis" } }))
    )
  )

  it.effect("an echo server serves several clients, one of which breaks off, and ends when they do", () =>
    Effect.gen(function* () {
      const { address } = yield* Connections.echoServer(Endpoint.tcp("127.0.0.1", 7000))
      assert.strictEqual(address.port, 7000)
      const rude = yield* Application.connect(address)
      const polite = yield* Application.connect(address)
      yield* rude.write(Bytes.pattern(10))
      yield* rude.reset
      yield* polite.write(Bytes.pattern(1000))
      yield* polite.end
      Bytes.assertPattern(yield* Connections.readExactly(polite, 1000))
      const end = yield* Effect.flip(Connections.readExactly(polite, 1))
      assert.isTrue(Cause.isDone(end))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})
