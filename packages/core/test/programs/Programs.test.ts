/** Random programs of everything an application can do, against a model. */
import * as Application from "@cut-through/core/Application"
import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { runProgram } from "./driver.ts"
import { makeHost } from "./host.ts"
import { kinds, type Op, type Program, written } from "./program.ts"

/** Programs of each kind in a run; `CUT_THROUGH_PROGRAMS` may ask for more. */
const PROGRAMS = Number(process.env.CUT_THROUGH_PROGRAMS ?? 2000)

const run = (program: Program): Effect.Effect<void> =>
  Effect.suspend(() => runProgram(makeHost(program.host, Application.make), program))

const times = (count: number, op: Op["op"]) => Array.from({ length: count }, () => ({ op }))

describe("programs", () => {
  for (const [kind, program] of Object.entries(kinds)) {
    it.live.prop(
      `${kind}: whatever applications do, everything happens as the model says`,
      [program],
      ([program]) => run(program),
      { arbitrary: { runs: PROGRAMS, size: 60, maxShrinks: 10_000 }, timeout: 600_000 }
    )
  }

  it.live("D1 three hundred connections in one segment are all counted", () =>
    run(written({ pairs: 300 }, [{ op: "listen" }, ...times(300, "connect"), ...times(50, "reset")]))
  )

  it.live("a write of nothing leaves a reader that waits where it is, and the next one wakes it", () =>
    run(
      written({}, [
        { op: "listen" },
        { op: "connect" },
        { op: "accept" },
        { op: "read", b: 1 },
        // In pieces, which are none.
        { op: "write", a: 1, c: 6 },
        { op: "write" }
      ])
    )
  )
})
