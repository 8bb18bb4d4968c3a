import { Effect } from "effect"
import * as Streams from "../streams.ts"
const [where = "fiber", way = "ours", secs = "2", rest = "0"] = process.argv.slice(2)
const program = Effect.gen(function* () {
  const streams = where === "fiber" ? yield* Streams.inFibers([way]) : yield* Streams.inThreads([way])
  const s = streams[way]
  const out: Array<string> = []
  const until = performance.now() + 1000 * Number(secs)
  const rounds = Number(rest) > 0 ? 100 : where === "fiber" ? 200_000 : 50_000
  while (performance.now() < until) {
    const run = yield* Effect.promise(() => s.roundTrips({ rounds, rest: Number(rest) }))
    const m = run.micros.slice().sort()
    out.push(`${m[m.length >> 1].toFixed(2)}/${(m.reduce((a, b) => a + b, 0) / m.length).toFixed(2)}`)
  }
  console.log(where, way, out.join(" "))
})
await Effect.runPromise(Effect.scoped(program))
process.exit(0)
