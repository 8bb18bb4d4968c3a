/** A worker thread that is watched, until it is told to leave. */
import { CutThroughDevTools, CutThroughWorker } from "@cut-through/platform"
import { Effect, Layer, Metric } from "effect"
import { parentPort } from "node:worker_threads"

const told = Effect.callback<void>((resume) => void parentPort!.once("message", () => resume(Effect.void)))

const work = Effect.gen(function* () {
  yield* Metric.update(Metric.counter("work_done"), 3)
  yield* Effect.annotateCurrentSpan("answer", 42)
  yield* Effect.withSpan(Effect.void, "inner")
  return yield* told
}).pipe(Effect.withSpan("outer"))

const watched = Layer.provide(CutThroughDevTools.layer(), CutThroughWorker.layer({ name: "watched" }))

// What is sent last may come too late for who reads slowly: it leaves when it is told to.
Effect.runFork(Effect.provide(Effect.andThen(work, told), watched))
