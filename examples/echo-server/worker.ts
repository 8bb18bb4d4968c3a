/**
 * What a thread runs.
 */
import { CutThroughWorker } from "@cut-through/platform"
import { Effect } from "effect"
import { workerData } from "node:worker_threads"
import * as Thread from "./Thread.ts"
import * as Way from "./Way.ts"

const task: Thread.Task = workerData

await Effect.runPromise(
  task.path === "tcp"
    ? Thread.run(task, Way.tcp)
    : Effect.provide(Thread.run(task, Way.cutThrough), CutThroughWorker.layer({ name: `echo-${task.end}` }))
)
