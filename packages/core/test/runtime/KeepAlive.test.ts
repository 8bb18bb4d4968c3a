import * as Application from "@cut-through/core/Application"
import { Hold, KeepAlive } from "@cut-through/core/runtime/KeepAlive"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { connectedPair, endpoint } from "../fixtures.ts"

const counter = () => {
  const counted = { held: 0, hold: () => void counted.held++, drop: () => void counted.held-- }
  return counted
}

describe("a hold", () => {
  it("counts once, however often it is told", () => {
    const keepAlive = counter()
    const hold = new Hold(keepAlive)
    assert.strictEqual(keepAlive.held, 1)
    hold.ref()
    assert.strictEqual(keepAlive.held, 1)
    hold.unref()
    hold.unref()
    assert.strictEqual(keepAlive.held, 0)
    hold.ref()
    assert.strictEqual(keepAlive.held, 1)
  })
})

describe("what keeps the process running", () => {
  const test = (name: string, body: (held: () => number) => Effect.Effect<void, unknown, any>) =>
    it.effect(name, () => {
      const keepAlive = counter()
      const layer = Layer.provide(Leaks.layerTest, Layer.succeed(KeepAlive, keepAlive))
      return body(() => keepAlive.held).pipe(
        Effect.scoped,
        Effect.provide(layer),
        Effect.andThen(Effect.sync(() => assert.strictEqual(keepAlive.held, 0)))
      ) as Effect.Effect<void>
    })

  test("an application alone does not", (held) => Effect.sync(() => assert.strictEqual(held(), 0)))

  test("a listener does, until it is told not to", (held) =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      assert.strictEqual(held(), 1)
      yield* listener.unref
      assert.strictEqual(held(), 0)
      yield* listener.ref
      assert.strictEqual(held(), 1)
    }))

  test("both sides of a connection do, until they close", (held) =>
    Effect.gen(function* () {
      const { client, server } = yield* connectedPair
      assert.strictEqual(held(), 3)
      yield* client.unref
      assert.strictEqual(held(), 2)
      yield* client.ref
      assert.strictEqual(held(), 3)
      yield* client.close
      assert.strictEqual(held(), 2)
      yield* client.ref
      assert.strictEqual(held(), 2)
      yield* server.reset
      assert.strictEqual(held(), 1)
    }))

  test("one that nobody has accepted does not, beside its client", (held) =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      yield* Application.connect(listener.address)
      assert.strictEqual(held(), 2)
    }))
})
