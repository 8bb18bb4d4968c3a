/**
 * RPC between two worker threads: the main thread only introduces them.
 */
import { CutThroughNode } from "@cut-through/platform"
import { Effect } from "effect"
import { once } from "node:events"
import { Worker } from "node:worker_threads"

const thread = (file: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new Worker(new URL(file, import.meta.url))),
    (worker) => Effect.promise(() => worker.terminate())
  )

const program = Effect.gen(function* () {
  yield* thread("./server.ts")
  const client = yield* thread("./client.ts")
  yield* Effect.promise(() => once(client, "exit"))
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer)))
