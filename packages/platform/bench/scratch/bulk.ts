import { Effect } from "effect"
import * as Streams from "../streams.ts"
const [where = "thread", way = "ours", secs = "2", bytes = "64"] = process.argv.slice(2)
const program = Effect.gen(function* () {
  const streams = where === "fiber" ? yield* Streams.inFibers([way]) : yield* Streams.inThreads([way])
  const s = streams[way]
  const out: Array<string> = []
  const until = performance.now() + 1000 * Number(secs)
  const writes = Math.min(400_000, Math.floor(2 ** 31 / 4 / Number(bytes)))
  while (performance.now() < until) {
    const start = performance.now()
    yield* Effect.promise(() => s.bulk({ bytes: Number(bytes), writes, isVerified: false, isAnyAlignment: false }))
    const gbs = (Number(bytes) * writes) / ((performance.now() - start) * 1e6)
    out.push(`${gbs.toFixed(3)}/x`)
  }
  console.log(where, way, out.join(" "))
})
await Effect.runPromise(Effect.scoped(program))
process.exit(0)
