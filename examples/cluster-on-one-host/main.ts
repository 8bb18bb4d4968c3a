/**
 * A cluster of two runners in two worker threads, one of which dies.
 */
import { CutThroughCluster, CutThroughNode } from "@cut-through/platform"
import { Console, Effect, Layer, Schedule } from "effect"
import { Worker } from "node:worker_threads"
import { Counter, refreshAssignmentsInterval } from "./Counter.ts"

const startRunner = (name: string, port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => new Worker(new URL("./runner.ts", import.meta.url), { workerData: { name, port } })),
    (worker) => Effect.promise(() => worker.terminate())
  )

const names = Array.from({ length: 30 }, (_, i) => `counter ${i}`)

const program = Effect.gen(function* () {
  const first = yield* startRunner("first", 7201)
  yield* startRunner("second", 7202)
  const counter = yield* Counter.client

  /** Counts with all counters, again and again until all these runners have some and nobody else has. */
  const countUntil = (...runners: ReadonlyArray<string>) =>
    Effect.forEach(names, (name) => counter(name).Count(), { concurrency: "unbounded" }).pipe(
      Effect.map((answers) => Map.groupBy(answers, ({ runner }) => runner)),
      Effect.repeat({
        until: (found) => found.size === runners.length && runners.every((runner) => found.has(runner)),
        schedule: Schedule.spaced("50 millis")
      })
    )

  const before = yield* countUntil("first", "second")
  for (const runner of ["first", "second"]) {
    yield* Console.log(`the ${runner} runner has ${before.get(runner)!.length} counters`)
  }

  yield* Effect.promise(() => first.terminate())
  const after = yield* countUntil("second")
  yield* Console.log(`the first has died: the second has ${after.get("second")!.length} counters`)
})

const layer = CutThroughCluster.layer({ clientOnly: true, shardingConfig: { refreshAssignmentsInterval } }).pipe(
  Layer.provide(CutThroughCluster.layerHost()),
  Layer.provide(CutThroughNode.layer)
)

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer)))
