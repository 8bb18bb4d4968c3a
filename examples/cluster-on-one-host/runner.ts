/**
 * A runner in a thread of its own: it has a part of the counters.
 */
import { CutThroughCluster, CutThroughWorker } from "@cut-through/platform"
import { Effect, Layer, Option, References } from "effect"
import { RunnerAddress } from "effect/cluster"
import { workerData } from "node:worker_threads"
import { Counter, refreshAssignmentsInterval } from "./Counter.ts"

const { name, port } = workerData as { readonly name: string; readonly port: number }

const counters = Counter.toLayer(
  Effect.sync(() => {
    let count = 0
    return { Count: () => Effect.sync(() => ({ count: ++count, runner: name })) }
  })
)

const runner = counters.pipe(
  Layer.provide(
    CutThroughCluster.layer({
      shardingConfig: {
        runnerAddress: Option.some(RunnerAddress.make("127.0.0.1", port)),
        refreshAssignmentsInterval
      }
    })
  ),
  Layer.provide(CutThroughWorker.layer({ name }))
)

Effect.runFork(Effect.provideService(Layer.launch(runner), References.MinimumLogLevel, "Warn"))
