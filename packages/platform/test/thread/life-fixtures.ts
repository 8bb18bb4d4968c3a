/** What the tests of threads have in common: the host, threads, and programs that run there. */
import * as Sessions from "@cut-through/core/Sessions"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { Residue } from "@cut-through/core/session/SessionLayer"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import * as CutThroughNode from "@cut-through/platform/CutThroughNode"
import { Leaks } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { MessageChannel, Worker, type WorkerOptions } from "node:worker_threads"
import type { parts } from "./life-parts.ts"
import { type Outcome, type Talk, talkOver, until } from "./life-talk.ts"
import type { Task } from "./life-thread.ts"

/** A session layer that threads can attach to. */
export const layerHost = Layer.fresh(CutThroughNode.layerSessions())

/** Waits until nothing is left of what guests and applications have done. Guests that are still there may be told. */
export const atRest = (guests: number = 0) =>
  Effect.gen(function* () {
    const layer = yield* SessionLayer
    const host = yield* CutThroughHost.CutThroughHost
    const isZero = (residue: Residue) => Object.values(residue).every((count) => count === 0)
    yield* until(() => {
      const { guests: left, mappings } = host.stats()
      return left === guests && mappings === 0 && isZero(layer.residue())
    })
    yield* Leaks.check
    if (guests === 0) assert.strictEqual(host.stats().pairs, 0)
    return yield* Sessions.residue
  })

/** A program that runs in a thread. */
export interface Running extends Talk {
  /** What it returned; fails with what it failed with. */
  readonly result: Effect.Effect<any>
  readonly outcome: Effect.Effect<Outcome | "died">
  readonly interrupt: Effect.Effect<void>
}

export interface Thread {
  readonly worker: Worker
  /** Runs a program there, or in a worker of it. */
  readonly run: <Name extends keyof typeof parts>(
    part: Name,
    args?: Parameters<(typeof parts)[Name]>[1],
    options?: { readonly depth?: number; readonly talk?: Task["talk"] }
  ) => Effect.Effect<Running>
  /** Waits until it has ended, and returns its exit code. */
  readonly exit: Effect.Effect<number>
  /** What it has died of, if of an error. */
  readonly errors: ReadonlyArray<unknown>
  readonly terminate: Effect.Effect<void>
}

/** Once the worker has ended: its exit code. */
export const exitOf = (worker: Worker): Promise<number> => new Promise((resolve) => void worker.once("exit", resolve))

/** A thread that runs programs until the scope closes. */
export const startThread = (options?: WorkerOptions): Effect.Effect<Thread, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const worker = new Worker(new URL("./life-thread.ts", import.meta.url), options)
        const errors: Array<unknown> = []
        worker.on("error", (error) => void errors.push(error))
        return { worker, errors, exit: exitOf(worker) }
      }),
      ({ worker }) => Effect.promise(() => worker.terminate())
    ),
    ({ errors, exit, worker }) => ({
      worker,
      errors,
      exit: Effect.promise(() => exit),
      terminate: Effect.promise(() => worker.terminate()),
      run: (part, args, { depth = 0, talk } = {}) => Effect.sync(() => run(worker, part, args, depth, talk))
    })
  )

const run = (
  worker: Worker,
  part: Task["part"],
  args: unknown,
  depth: number,
  given: Task["talk"] | undefined
): Running => {
  const { port1: control, port2 } = new MessageChannel()
  const channel = given === undefined ? new MessageChannel() : undefined
  const talk = given ?? channel!.port2
  const outcome = new Promise<Outcome | "died">((resolve) => {
    control.once("message", resolve)
    control.once("close", () => resolve("died"))
  })
  worker.postMessage({ part, args, depth, control: port2, talk } satisfies Task, [port2, talk])
  return {
    ...talkOver(channel?.port1 ?? new MessageChannel().port1),
    outcome: Effect.promise(() => outcome),
    result: Effect.flatMap(
      Effect.promise(() => outcome),
      (outcome) => {
        if (outcome === "died") return Exit.die(new Error(`the thread has died in ${part}`))
        return outcome._tag === "Success" ? Exit.succeed(outcome.value) : Exit.die(new Error(outcome.text))
      }
    ),
    interrupt: Effect.sync(() => control.postMessage("interrupt"))
  }
}
