/** Random programs of everything an application can do, against a model. */
import * as Application from "@cut-through/core/Application"
import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { runProgram } from "./driver.ts"
import { makeHost } from "./host.ts"
import { kinds } from "./program.ts"

/** Programs of each kind in a run; `CUT_THROUGH_PROGRAMS` may ask for more. */
const PROGRAMS = Number(process.env.CUT_THROUGH_PROGRAMS ?? 2000)

describe("programs", () => {
  for (const [kind, program] of Object.entries(kinds)) {
    it.live.prop(
      `${kind}: whatever applications do, everything happens as the model says`,
      [program],
      ([program]) => Effect.suspend(() => runProgram(makeHost(program.host, Application.make), program)),
      { arbitrary: { runs: PROGRAMS, size: 60, maxShrinks: 10_000 }, timeout: 600_000 }
    )
  }
})
