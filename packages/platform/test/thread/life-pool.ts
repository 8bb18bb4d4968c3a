/** Tasks for the threads of a pool. */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import { threadId } from "node:worker_threads"
import { drain, echo, writeBytes } from "./life-talk.ts"

export type PoolTask =
  /** Sends a megabyte to an echo server, and checks what comes back. */
  | { readonly _tag: "Talk"; readonly port: number }
  /** Starts an echo server that stays when the task has ended. Returns its port. */
  | { readonly _tag: "Serve" }
  /** Stops it. */
  | { readonly _tag: "Stop" }

let serving: Scope.Closeable | undefined

const talkTo = (port: number) =>
  Effect.gen(function* () {
    const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
    const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 1_000_000), connection.end))
    assert.deepEqual(yield* drain(connection), { how: "end", bytes: 1_000_000, received: undefined })
    yield* Fiber.join(writing)
    return connection.info.path
  }).pipe(Effect.scoped, Effect.provide(CutThroughWorker.layer({ name: `task ${threadId}` })))

const serve = Effect.gen(function* () {
  serving = yield* Scope.make()
  const listen = Effect.gen(function* () {
    const context = yield* Layer.build(Layer.fresh(CutThroughWorker.layer({ name: `server ${threadId}` })))
    const listener = yield* Effect.provideContext(Application.listen(Endpoint.tcp("127.0.0.1", 0)), context)
    yield* Effect.forkScoped(listener.run(echo))
    return listener.address.port
  })
  return yield* Scope.provide(listen, serving)
})

export default (task: PoolTask): Promise<number | string | void> => {
  switch (task._tag) {
    case "Talk":
      return Effect.runPromise(talkTo(task.port))
    case "Serve":
      return Effect.runPromise(serve)
    case "Stop":
      return Effect.runPromise(Scope.close(serving!, Exit.void))
  }
}
