/** A worker thread with a runner of a cluster, until it is told to leave. */
import { CutThroughWorker } from "@cut-through/platform"
import { Effect, Layer } from "effect"
import { parentPort, workerData } from "node:worker_threads"
import { runner, type Task } from "./cluster-fixtures.ts"

const { port, serialization } = workerData as Task

const fiber = Effect.runFork(
  Layer.launch(Layer.provide(runner(port, { serialization }), CutThroughWorker.layer({ name: `runner ${port}` })))
)
parentPort!.once("message", () => {
  fiber.interruptUnsafe()
  parentPort!.unref()
})
