/** Random programs of everything an application can do, against a model, with the applications in several threads. */
import { afterAll, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { runProgram } from "../../../core/test/programs/driver.ts"
import { type Program, threadKinds } from "../../../core/test/programs/program.ts"
import { makeThreadHost, ThreadPool } from "./programs-host.ts"

/** Programs of each kind in a run; `CUT_THROUGH_PROGRAMS` may ask for more: a twentieth of what runs in one thread. */
const PROGRAMS = Math.ceil(Number(process.env.CUT_THROUGH_PROGRAMS ?? 2000) / 20)

// One that parks when it has had nothing to do for a while, and one that does as soon as it has nothing to do.
const pool = new ThreadPool([undefined, { idle: 0 }])

afterAll(() => pool.stop())
const run = (program: Program): Effect.Effect<void> =>
  Effect.flatMap(makeThreadHost(program.host, pool), (host) => runProgram(host, program))

describe("programs in threads", () => {
  for (const [kind, program] of Object.entries(threadKinds)) {
    it.live.prop(
      `${kind}: whatever applications do, everything happens as the model says`,
      [program],
      ([program]) => run(program),
      { arbitrary: { runs: PROGRAMS, size: 60, maxShrinks: 300 }, timeout: 600_000 }
    )
  }
})
