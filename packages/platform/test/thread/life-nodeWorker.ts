/** A worker of Effect's `NodeWorker` that serves echoes, and ends when it is told to. */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import * as NodeWorkerRunner from "@effect/platform-node/NodeWorkerRunner"
import * as Effect from "effect/Effect"
import * as WorkerRunner from "effect/workers/WorkerRunner"
import { echo } from "./life-talk.ts"

const listen = Effect.fnUntraced(function* (runner: WorkerRunner.WorkerRunner<number, string>, portId: number) {
  const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
  yield* runner.send(portId, listener.address.port)
  return yield* listener.run(echo)
})

const program = Effect.gen(function* () {
  const runner = yield* (yield* WorkerRunner.WorkerRunnerPlatform).start<number, string>()
  yield* runner.run((portId) =>
    listen(runner, portId).pipe(Effect.scoped, Effect.provide(CutThroughWorker.layer({ name: "node worker" })))
  )
})

Effect.runFork(Effect.provide(program, NodeWorkerRunner.layer))
