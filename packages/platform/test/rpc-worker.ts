/** A worker thread that serves the calls of the tests until it is told to leave. */
import { CutThroughSocketServer, CutThroughWorker } from "@cut-through/platform"
import { Effect, Layer } from "effect"
import { RpcServer } from "effect/rpc"
import { parentPort, workerData } from "node:worker_threads"
import { Calls, handlers, serializations } from "./rpc-fixtures.ts"

const { host, port, serialization } = workerData as {
  readonly host: string
  readonly port: number
  readonly serialization: keyof typeof serializations
}

const server = RpcServer.layer(Calls).pipe(
  Layer.provide(handlers),
  Layer.provide(RpcServer.layerProtocolSocketServer),
  Layer.provide(CutThroughSocketServer.layer({ host: "127.0.0.1", port })),
  Layer.provide(serializations[serialization]),
  Layer.provide(CutThroughWorker.layer({ name: "server", host }))
)

const fiber = Effect.runFork(
  Layer.build(server).pipe(
    Effect.andThen(Effect.sync(() => parentPort!.postMessage("serving"))),
    Effect.andThen(Effect.never),
    Effect.scoped
  )
)
parentPort!.once("message", () => {
  fiber.interruptUnsafe()
  parentPort!.unref()
})
