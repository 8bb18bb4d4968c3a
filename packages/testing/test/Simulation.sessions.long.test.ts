import { Simulation } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { program } from "./simulation-sessions.ts"

/** Simulations in a run; `CUT_THROUGH_SIMULATIONS=100000` asks for a night's worth. */
const RUNS = Number(process.env.CUT_THROUGH_SIMULATIONS ?? 10_000)
const BLOCK = 5000

describe("the session layer, simulated at length", () => {
  let covered = 0
  for (let seed = 0; seed < RUNS; seed += BLOCK) {
    it.live(
      `seeds ${seed} to ${seed + BLOCK - 1}`,
      () =>
        Effect.gen(function* () {
          const { histories, runs, steps } = yield* Simulation.run(program, { runs: BLOCK, seed })
          covered += runs
          console.log(`${covered} simulations of the session layer: ${histories} histories and ${steps} steps more`)
          assert.isAbove(histories, BLOCK * 0.9)
        }),
      600_000
    )
  }
})
