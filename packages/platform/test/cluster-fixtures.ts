/** What the tests of clusters and the threads they start have in common. */
import { CutThroughCluster } from "@cut-through/platform"
import { Effect, Layer, Option, Schema, Stream } from "effect"
import { Entity, RunnerAddress, type ShardingConfig } from "effect/cluster"
import { Rpc } from "effect/rpc"
import { threadId } from "node:worker_threads"

/** Says where it is. */
export const Place = Entity.make("Place", [
  Rpc.make("Where", { success: Schema.Struct({ port: Schema.Int, thread: Schema.Int }) }),
  /** Where it is, once that is not there. */
  Rpc.make("Elsewhere", { payload: { port: Schema.Int }, success: Schema.Int }),
  Rpc.make("Count", { payload: { to: Schema.Int }, success: Schema.Int, stream: true })
])

const places = Place.toLayer(
  Effect.map(Entity.CurrentRunnerAddress, ({ port }) =>
    Place.of({
      Where: () => Effect.succeed({ port, thread: threadId }),
      Elsewhere: ({ payload }) => (payload.port === port ? Effect.never : Effect.succeed(port)),
      Count: ({ payload }) => Stream.range(1, payload.to)
    })
  ),
  { concurrency: "unbounded" }
)

/** Looks often, and holds locks for so long that none expires. */
export const shardingConfig: Partial<ShardingConfig.ShardingConfig["Service"]> = {
  shardsPerGroup: 16,
  shardLockExpiration: "10 minutes",
  refreshAssignmentsInterval: "20 millis",
  entityMessagePollInterval: "20 millis",
  sendRetryInterval: "20 millis",
  runnerHealthCheckInterval: "50 millis"
}

export const runner = <S extends CutThroughCluster.Storage = "memory">(
  port: number,
  options: Omit<CutThroughCluster.Options<false, S>, "shardingConfig" | "clientOnly"> = {}
) =>
  places.pipe(
    Layer.provideMerge(
      CutThroughCluster.layer<false, S>({
        ...options,
        shardingConfig: { ...shardingConfig, runnerAddress: Option.some(RunnerAddress.make("127.0.0.1", port)) }
      })
    )
  )

/** What a runner in a thread is told. */
export interface Task {
  readonly port: number
  readonly serialization: "binary" | "ndjson"
}
