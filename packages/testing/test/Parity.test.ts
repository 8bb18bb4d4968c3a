/** The same conversations over connections, over `node:net`, and over a simulated network. */
import { Parity } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { parityWithNet } from "./parity-fixtures.ts"

describe("parity with node:net", () => {
  it.live("cut-through between fibers", () => parityWithNet(Parity.cutThrough()))

  it.live("a simulated network", () => parityWithNet(Parity.simulated()))
})

/** Connections over a carrier with a mistake in them. */
const broken = (name: string, mistake: (end: Parity.End) => Partial<Parity.End>): Parity.Carrier => {
  const inner = Parity.cutThrough()
  return {
    name,
    run: (program) =>
      inner.run((stage) =>
        program({
          ...stage,
          connect: (to) =>
            Effect.map(stage.connect(to), ({ client, server }) => ({
              client,
              server: { ...server, ...mistake(server) }
            }))
        })
      )
  }
}

const falsified = (carrier: Parity.Carrier) => Effect.flip(Parity.check([Parity.cutThrough(), carrier], { runs: 300 }))

describe("carriers with a mistake", () => {
  it.effect("one that spoils a byte of a long message is found out by a write and a read", () =>
    Effect.gen(function* () {
      const carrier = broken("spoiling", ({ read }) => ({
        read: Effect.map(read, (bytes) => {
          if (bytes.length > 1000) bytes[1000] ^= 1
          return bytes
        })
      }))
      const { message, replay, script } = yield* falsified(carrier)
      assert.isAtMost(script.length, 2)
      assert.match(message, /! .*byte 1000 is wrong \(spoiling\)/)

      const again = yield* Effect.flip(Parity.check([Parity.cutThrough(), carrier], { replay: replay! }))
      assert.deepStrictEqual(again.script, script)
    })
  )

  it.effect("one that takes a reset for an end", () =>
    Effect.gen(function* () {
      const carrier = broken("polite", ({ read }) => ({
        read: Effect.mapError(read, (why) => (why === "Reset" ? "End" : why))
      }))
      const { message, script } = yield* falsified(carrier)
      assert.strictEqual(Parity.format(script), "connect to server\nclient of 0: reset")
      assert.match(message, /read all => Reset in step 2 \(cut-through\)\n.*read all => End in step 2 \(polite\)/)
    })
  )

  it.effect("one that ends instead of breaking off", () =>
    Effect.gen(function* () {
      const { script } = yield* falsified(broken("ending", ({ end }) => ({ reset: end })))
      assert.strictEqual(Parity.format(script), "connect to server\nserver of 0: reset")
    })
  )

  it.effect("one that has errors of its own", () =>
    Effect.gen(function* () {
      const carrier = broken("silent", () => ({ write: () => Effect.fail("Silent") }))
      const { message, script } = yield* falsified(carrier)
      assert.isAtMost(script.length, 2)
      assert.include(message, "=> Silent")
    })
  )
})
