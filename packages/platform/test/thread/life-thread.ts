/** A thread that runs programs of the tests, one or several at a time, until it is stopped. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { type MessagePort, parentPort, Worker } from "node:worker_threads"
import { type Part, parts } from "./life-parts.ts"
import { outcomeOf, talkOver } from "./life-talk.ts"

/** What a test says to a thread. */
export interface Task {
  readonly part: keyof typeof parts
  readonly args: unknown
  /** 1 in a worker of the thread, 2 in a worker of that one. */
  readonly depth: number
  /** Says how it went; whatever comes this way interrupts the program. */
  readonly control: MessagePort
  readonly talk: MessagePort
}

let nested: Worker | undefined

const startNested = (): Worker => {
  const worker = new Worker(new URL(import.meta.url))
  worker.on("error", () => {})
  return worker
}

parentPort!.on("message", (task: Task) => {
  const { args, control, depth, talk } = task
  if (depth > 0) {
    nested ??= startNested()
    nested.postMessage({ ...task, depth: depth - 1 }, [control, talk])
    return
  }
  const part: Part = parts[task.part]
  const fiber = Effect.runFork(Effect.scoped(Effect.suspend(() => part(talkOver(talk), args))))
  control.on("message", () => void Effect.runFork(Fiber.interrupt(fiber)))
  fiber.addObserver((exit) => {
    control.postMessage(outcomeOf(exit))
    control.close()
    talk.close()
  })
})
