/**
 * For tests: what a thread runs whose client has a fault. The path is of a way and a fault.
 */
import { CutThroughWorker } from "@cut-through/platform"
import { Effect } from "effect"
import { workerData } from "node:worker_threads"
import { faulty, type Fault } from "./faults.ts"
import * as Thread from "./Thread.ts"
import * as Way from "./Way.ts"

const task: Thread.Task = workerData
const [way, fault] = task.path.split(" ") as [string, Fault]

await Effect.runPromise(
  way === "tcp"
    ? Thread.run(task, faulty(Way.tcp, fault, task.shared))
    : Effect.provide(
        Thread.run(task, faulty(Way.cutThrough, fault, task.shared)),
        CutThroughWorker.layer({ name: `echo-${task.end}` })
      )
)
