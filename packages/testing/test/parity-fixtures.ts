/** What the tests of parity with `node:net` have in common. */
import { Parity } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Net from "node:net"

/** Scripts for each carrier; `CUT_THROUGH_PARITY=10000` asks for a night's worth. */
const runs = Number(process.env["CUT_THROUGH_PARITY"] ?? 300)

/** What scripts have to come to, all together, or they have tried too little. */
const outcomes = ["bytes", "End", "Reset", "taken", "BrokenPipe", "connected", "Nobody"]

/** Compares a carrier with `node:net`, over scripts that follow from its name. */
export const parityWithNet = (carrier: Parity.Carrier) =>
  Effect.gen(function* () {
    const seed = process.env["CUT_THROUGH_PARITY_SEED"] ?? `parity with ${carrier.name}`
    const report = yield* Parity.check([Parity.net(Net), carrier], { runs, seed })
    console.log(`${carrier.name}: ${report.scripts} scripts, ${report.steps} steps, ${JSON.stringify(report.outcomes)}`)
    for (const outcome of outcomes) assert.isAbove(report.outcomes[outcome] ?? 0, 0, outcome)
    assert.strictEqual(report.outcomes["it hangs"], undefined)
    assert.strictEqual(report.outcomes["it dies"], undefined)
  })
