/**
 * Bytes and round trips between two threads while every core has something else to do, too.
 */
import { Effect, type Scope } from "effect"
import { spawn } from "node:child_process"
import { availableParallelism } from "node:os"
import { type Case, type Leg, quantile } from "./model.ts"
import * as Streams from "./streams.ts"

const BYTES = 65_536
/** Of bulk for each round trip: as long as one, more or less. */
const WRITES = 16

/** A process for each core that never rests. They end by themselves should this process be killed. */
const load: Effect.Effect<void, never, Scope.Scope> = Effect.asVoid(
  Effect.acquireRelease(
    Effect.sync(() =>
      Array.from({ length: availableParallelism() }, () =>
        spawn(process.execPath, ["-e", "const end = Date.now() + 300_000; while (Date.now() < end);"])
      )
    ),
    (processes) =>
      Effect.sync(() => {
        for (const child of processes) child.kill("SIGKILL")
      })
  )
)

const legOf =
  (stream: Streams.Stream): Leg =>
  async (rounds, isVerified) => {
    const writes = rounds * WRITES
    const bulk = await stream.bulk({ bytes: BYTES, writes, isVerified, isAnyAlignment: false })
    const trips = await stream.roundTrips({ rounds, rest: 0 })
    const bulkNanos = Number(bulk.to.nanos - bulk.from.nanos)
    const tripNanos = Number(trips.to.nanos - trips.from.nanos)
    const cpuMicros = [bulk, trips].reduce((sum, { from, to }) => sum + to.cpuMicros - from.cpuMicros, 0)
    return {
      values: [(bulkNanos + tripNanos) / rounds / 1000, (writes * BYTES) / bulkNanos, quantile(trips.micros, 0.5)],
      cpuMicros: cpuMicros / rounds,
      wallMillis: (bulkNanos + tripNanos) / 1e6
    }
  }

export const cases: ReadonlyArray<Case> = [
  {
    rows: [
      { name: "busy-machine", unit: "us" },
      { name: "busy-machine-bulk", unit: "GB/s" },
      { name: "busy-machine-rtt", unit: "us" }
    ],
    peers: ["tcp"],
    operation: "MiB and round trip",
    least: 10,
    most: 100_000,
    open: (ways) =>
      Effect.gen(function* () {
        const streams = yield* Streams.inThreads(ways)
        yield* load
        return Object.fromEntries(ways.map((way) => [way, legOf(streams[way])]))
      })
  }
]
