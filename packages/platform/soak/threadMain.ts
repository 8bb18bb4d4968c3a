/** What a thread of a soak runs. */
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { parentPort, workerData } from "node:worker_threads"
import { type Death, type Order, type Report, takePart } from "./traffic.ts"

const say = (report: Report): void => parentPort!.postMessage(report)

const die = (how: Death): void => {
  switch (how) {
    case "exit":
      return process.exit(1)
    case "throw":
      throw new Error("thrown for the soak")
    case "reject":
      return void Promise.reject(new Error("rejected for the soak"))
    case "terminate in a loop":
      for (;;);
    case "terminate":
  }
}

const program = Effect.gen(function* () {
  const ended = yield* Deferred.make<void>()
  const { aim, hush } = yield* takePart(workerData, say)
  parentPort!.on("message", (order: Order) => {
    switch (order._tag) {
      case "Targets":
        return aim(order.ports)
      case "Die":
        return die(order.how)
      case "Hush":
        return void Effect.runFork(hush)
      case "End":
        return Deferred.doneUnsafe(ended, Exit.void)
    }
  })
  yield* Deferred.await(ended)
  parentPort!.close()
}).pipe(Effect.scoped, Effect.provide(CutThroughWorker.layer({ segmentSize: "2 MiB" })))

Effect.runFork(Effect.tapCause(program, (cause) => Effect.sync(() => say({ _tag: "Wrong", what: String(cause) }))))
