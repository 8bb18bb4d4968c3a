/**
 * A worker thread that plays a role, and the conversation with it.
 */
import { Effect, type Scope } from "effect"
import { once } from "node:events"
import { parentPort, type Transferable, Worker } from "node:worker_threads"
import type { Start } from "./worker.ts"

/** What a thread says of an order: that it is ready for what comes, what came of it, or that nothing could. */
type Answer =
  | { readonly kind: "ready" }
  | { readonly kind: "done"; readonly result: unknown }
  | { readonly kind: "failed"; readonly message: string }

export class Thread {
  private readonly worker: Worker
  private readonly waiting: Array<(answer: Answer) => void> = []
  private readonly answers: Array<Answer> = []

  constructor(start: Start, transfer: ReadonlyArray<Transferable>) {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), {
      workerData: start,
      transferList: [...transfer]
    })
    this.worker.on("message", (answer: Answer) => this.take(answer))
    this.worker.on("error", (error) => {
      this.take({ kind: "failed", message: error instanceof Error ? error.stack! : String(error) })
    })
  }

  /** Waits until it has begun with the order; what is returned resolves with what came of it. */
  async begin<Order, Result>(order: Order): Promise<{ readonly result: Promise<Result> }> {
    this.worker.postMessage(order)
    await this.next("ready")
    const result = this.next("done")
    // It may fail before anybody waits for it.
    result.catch(() => {})
    return { result: result as Promise<Result> }
  }

  async ask<Order, Result>(order: Order): Promise<Result> {
    return (await this.begin<Order, Result>(order)).result
  }

  /** What it says first: that it is there. */
  async started<Result>(): Promise<Result> {
    return (await this.next("done")) as Result
  }

  async stop(): Promise<void> {
    this.worker.removeAllListeners("error")
    this.worker.on("error", () => {})
    const gone = once(this.worker, "exit")
    await this.worker.terminate()
    await gone.catch(() => {})
  }

  private take(answer: Answer): void {
    const next = this.waiting.shift()
    if (next === undefined) this.answers.push(answer)
    else next(answer)
  }

  private async next(kind: "ready" | "done"): Promise<unknown> {
    const answer = this.answers.shift() ?? (await new Promise<Answer>((resolve) => this.waiting.push(resolve)))
    if (answer.kind === "failed") throw new Error(answer.message)
    if (answer.kind !== kind) throw new Error(`a thread said ${answer.kind} where ${kind} was expected`)
    return answer.kind === "done" ? answer.result : undefined
  }
}

/** Starts a thread until the scope closes, and waits for the first thing it says. */
export const start = <First>(
  start: Start,
  transfer: ReadonlyArray<Transferable> = []
): Effect.Effect<{ readonly thread: Thread; readonly first: First }, never, Scope.Scope> =>
  Effect.gen(function* () {
    const thread = yield* Effect.acquireRelease(
      Effect.sync(() => new Thread(start, transfer)),
      (thread) => Effect.promise(() => thread.stop())
    )
    return { thread, first: yield* Effect.promise(() => thread.started<First>()) }
  })

const say = (answer: Answer): void => parentPort!.postMessage(answer)

/** In a thread: says what the program wants to know first, and does one order after another. */
export const converse = <Order, Result>(first: unknown, obey: (order: Order) => Promise<Result>): void => {
  parentPort!.on("message", async (order: Order) => {
    // First, because what it is told to do may keep it from saying anything. Until others know, it has begun.
    say({ kind: "ready" })
    try {
      say({ kind: "done", result: await obey(order) })
    } catch (error) {
      say({ kind: "failed", message: error instanceof Error ? error.stack! : String(error) })
    }
  })
  say({ kind: "done", result: first })
}
