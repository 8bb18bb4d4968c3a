/** A worker thread with an application that does what scripts ask it to. */
import { Application } from "@cut-through/core"
import { CutThroughWorker } from "@cut-through/platform"
import * as Effect from "effect/Effect"
import { parentPort } from "node:worker_threads"
import { perform } from "./parity-remote.ts"

const program = Effect.gen(function* () {
  perform(parentPort!, yield* Application.Application)
  yield* Effect.never
})

Effect.runFork(Effect.provide(program, CutThroughWorker.layer()))
