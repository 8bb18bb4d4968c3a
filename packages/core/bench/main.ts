/**
 * `npm run bench:micro -- [NAME]`: what each hot operation of core takes, in nanoseconds, so that a regression is located and
 * not only seen. With the copy that Node's layers use. `--json` prints one object.
 */
import * as NativeCopy from "@cut-through/platform/NativeCopy"
import * as Bell from "@cut-through/platform/thread/Bell"
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import { Bench } from "tinybench"
import { leases } from "./leases.ts"
import { type Operation, operations } from "./operations.ts"

/** The doorbell of two threads: a ring that sets a bit, and the look that takes it. */
const bell = (): Operation => {
  const buffer = new SharedArrayBuffer(Bell.BYTES)
  const caller = new Bell.Bell(buffer, 0, () => {})
  const called = new Bell.Bell(buffer, 1, () => {})
  let rings = 0
  called.attach(7, { onRing: () => void rings++ })
  return {
    name: "doorbell-thread",
    run: (times) => {
      rings = 0
      for (let i = 0; i < times; i++) {
        caller.ring(7)
        if (called.hasNews()) called.take()
      }
      if (rings !== times) throw new Error(`${rings} of ${times} rings were heard`)
    }
  }
}

const { positionals, values } = parseArgs({
  options: { json: { type: "boolean", default: false } },
  allowPositionals: true
})
const all = [...operations(NativeCopy.copy), bell(), ...leases()]
const chosen = all.filter(({ name }) => positionals.length === 0 || positionals.some((part) => name.startsWith(part)))
if (chosen.length === 0) throw new Error(`there is no such operation, only ${all.map(({ name }) => name).join(", ")}`)

/** Of one turn, because a clock takes longer to look at than most of them take. */
const TIMES = 1024

const bench = new Bench({ time: 250, warmupTime: 100 })
for (const { name, run } of chosen) bench.add(name, () => run(TIMES))
bench.runSync()

const rows = bench.tasks.map(({ name, result }) => {
  if (result.state !== "completed") throw new Error(`${name} has failed`, { cause: result })
  const nanos = (millis: number) => (millis * 1e6) / TIMES
  const { max, min, p50, samplesCount } = result.latency
  return { name, median: nanos(p50), min: nanos(min), max: nanos(max), samples: samplesCount }
})

if (values.json) {
  console.log(JSON.stringify({ node: process.version, cpus: cpus().length, unit: "ns", operations: rows }))
} else {
  const width = Math.max(...rows.map(({ name }) => name.length))
  for (const { max, median, min, name, samples } of rows) {
    const range = `[${min.toFixed(1)} to ${max.toFixed(1)}]`
    console.log(`${name.padEnd(width)}  ${median.toFixed(1).padStart(8)} ns  ${range} in ${samples} samples`)
  }
}
