/** A thread that does one thing after the other, each of which needs an answer of its host, and then ends. */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import { Poller } from "@cut-through/platform/thread/Poller"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { type MessagePort, workerData } from "node:worker_threads"
import { listenTo, tell } from "./life-alive.ts"

const poller = Effect.runSync(Poller)
listenTo(
  () => poller.isParked,
  () => {}
)

const steps = Effect.gen(function* () {
  const listening = yield* Scope.make()
  const listener = yield* Scope.provide(
    Application.listen(Endpoint.tcp("127.0.0.1", 0), { approval: "application" }),
    listening
  )
  const connecting = yield* Effect.forkChild(Application.connect(listener.address), { startImmediately: true })
  const server = yield* Effect.flatMap(listener.request, (request) => request.accept)
  const client = yield* Fiber.join(connecting)
  // Nothing is left that keeps it alive but what it waits for.
  yield* server.unref
  yield* client.unref
  yield* Scope.close(listening, Exit.void)
  yield* client.close
  yield* server.reset
})

const program = Effect.gen(function* () {
  yield* Effect.scoped(Effect.provide(steps, CutThroughWorker.layerPort(workerData.control as MessagePort)))
  tell("ready")
})

Effect.runFork(program)
