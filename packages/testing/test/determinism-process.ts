/**
 * Prints what simulations come to, so that processes can be compared: for each seed the digests of its histories, or all
 * lines of the histories of the one seed that is given.
 */
import { Faults, Simulation } from "@cut-through/testing"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { network, sessions, wakeUps } from "./simulation-fixtures.ts"

const SEEDS = 200

/** What may happen to connections between hosts, and what programs are not ready for. */
const faults = [
  { fault: Faults.latency("100 millis", { jitter: "100 millis" }) },
  { fault: Faults.slice(1) },
  { fault: Faults.droppedApp, target: { app: "a" } }
]

const programs: { readonly [name: string]: readonly [Effect.Effect<unknown, unknown>, Simulation.Options?] } = {
  sessions: [sessions],
  network: [network],
  "network with faults": [network, { faults, horizon: "1 second" }],
  ...Object.fromEntries(Object.entries(wakeUps).map(([name, program]) => [name, [program]]))
}

const historiesOf = (seed: number) =>
  Effect.forEach(Object.entries(programs), ([name, [program, options]]) =>
    Effect.map(Simulation.replay(program, seed, options), ({ exit, fingerprint, history }) => ({
      name,
      lines: [...history, `it ends with ${exit?._tag}, fingerprint ${fingerprint}`]
    }))
  )

const digests = Effect.forEach(Array.from({ length: SEEDS }), (_, seed) =>
  Effect.map(historiesOf(seed), (histories) =>
    histories.map(({ lines }) => createHash("sha256").update(lines.join("\n")).digest("base64url")).join(" ")
  )
)

const [seed] = process.argv.slice(2)
const printed =
  seed === undefined
    ? digests
    : Effect.map(historiesOf(Number(seed)), (histories) =>
        histories.flatMap(({ lines, name }) => lines.map((line) => `${name}, ${line}`))
      )

console.log(JSON.stringify({ version: process.version, lines: await Effect.runPromise(printed) }))
