import { Simulation } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { program } from "./simulation-sessions.ts"

describe("the session layer, simulated", () => {
  it.effect("2,000 small programs", () =>
    Effect.gen(function* () {
      const { histories, runs, steps } = yield* Simulation.run(program, { runs: 2000, seed: 1_000_000 })
      console.log(`${runs} simulations of the session layer: ${histories} histories, ${steps} steps`)
      assert.isAbove(histories, 1900)
    })
  )
})
