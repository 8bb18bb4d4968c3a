/**
 * A soak: threads that talk to each other die at random, one every half second.
 * Every byte that comes back is checked; at the end nothing may be left.
 *
 * `main.ts [SECONDS]`, default 600, in which a thousand threads die.
 */
import * as Effect from "effect/Effect"
import * as Soak from "./Soak.ts"

const seconds = Number(process.argv[2] ?? 600)

const print = (what: string, { bytes, ends, kills, wrong }: Soak.Outcome): void => {
  const connections = [...ends].map(([how, count]) => `${count} ${how}`).join(", ")
  const wrongs = wrong.length === 0 ? "" : `, ${wrong.length} WRONG`
  console.log(
    `${what}: ${kills} threads killed, ${Math.round(bytes / 1e6)} MB checked, connections: ${connections}${wrongs}`
  )
}

const load = { threads: 4, clients: 3, rest: 0, seed: 1 }

const program = Effect.gen(function* () {
  // What is made once is there before it is counted.
  const first = yield* Soak.run({ ...load, kills: 10 })
  const before = yield* Soak.sample
  const start = performance.now()
  const outcome = yield* Soak.run({
    ...load,
    kills: Math.floor((seconds * 1000) / 600),
    millis: seconds * 1000,
    every: 500,
    onProgress: (outcome) => print(`${Math.round((performance.now() - start) / 1000)} s`, outcome)
  })
  const after = yield* Soak.sample
  print("in all", outcome)
  return [...first.wrong, ...outcome.wrong, ...Soak.leaks(load, before, after)]
})

const wrong = await Effect.runPromise(Effect.provide(program, Soak.layer))
for (const what of wrong) console.log(`WRONG: ${what}`)
console.log(wrong.length === 0 ? "nothing wrong, nothing left" : `${wrong.length} things are wrong`)
process.exitCode = wrong.length === 0 ? 0 : 1
