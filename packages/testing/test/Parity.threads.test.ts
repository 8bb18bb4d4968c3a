/** The same conversations over `node:net` and between threads: both ends in worker threads, or one of them in the host. */
import { Application } from "@cut-through/core"
import { CutThroughHost, CutThroughNode } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { MessageChannel, Worker } from "node:worker_threads"
import { parityWithNet } from "./parity-fixtures.ts"
import { between, Part, perform } from "./parity-remote.ts"

const host = Layer.provideMerge(
  CutThroughHost.layer(),
  Layer.provideMerge(
    Application.layer({ name: "host" }),
    Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)
  )
)

/** Each step waits for two threads, on a machine that may be busy. */
const PATIENCE = 240_000

/** The part of the application of this thread. */
const here = Effect.gen(function* () {
  const application = yield* Application.Application
  const { port1, port2 } = new MessageChannel()
  perform(port1, application)
  yield* Effect.addFinalizer(() => Effect.sync(() => port2.close()))
  return new Part(port2)
})

/** The part of an application in a thread of its own. */
const there = Effect.gen(function* () {
  const worker = yield* Effect.acquireRelease(
    Effect.sync(() => new Worker(new URL("./parity-worker.ts", import.meta.url))),
    (worker) => Effect.promise(() => worker.terminate())
  )
  return new Part(worker)
})

describe("parity with node:net", () => {
  it.live(
    "from a worker thread to another one",
    () =>
      Effect.gen(function* () {
        yield* parityWithNet(between("worker to worker", yield* there, yield* there))
      }).pipe(Effect.scoped, Effect.provide(host)),
    PATIENCE
  )

  it.live(
    "from a worker thread to the host",
    () =>
      Effect.gen(function* () {
        yield* parityWithNet(between("worker to host", yield* there, yield* here))
      }).pipe(Effect.scoped, Effect.provide(host)),
    PATIENCE
  )

  it.live(
    "from the host to a worker thread",
    () =>
      Effect.gen(function* () {
        yield* parityWithNet(between("host to worker", yield* here, yield* there))
      }).pipe(Effect.scoped, Effect.provide(host)),
    PATIENCE
  )
})
