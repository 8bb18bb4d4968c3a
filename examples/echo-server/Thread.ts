/**
 * The server or the client in a worker thread, in conversation with the program that has started it.
 */
import * as NodeWorker from "@effect/platform-node/NodeWorker"
import * as NodeWorkerRunner from "@effect/platform-node/NodeWorkerRunner"
import { Data, Effect, Logger, Queue, type Scope } from "effect"
import * as Worker from "effect/workers/Worker"
import * as WorkerRunner from "effect/workers/WorkerRunner"
import * as Threads from "node:worker_threads"
import { transfer, type Shared, type Transfer } from "./Echo.ts"
import type { Way } from "./Way.ts"

/** What a thread is started with. */
export interface Task {
  readonly end: "server" | "client"
  /** Of the placement. */
  readonly path: string
  readonly shared: Shared
}

/** What a client is told: to send the file to a port, with or without a stop half-way, and to go on after the stop. */
export type Order = { readonly port: number; readonly stops: boolean } | "go on"

/** What a client answers. A server says its port. */
export type Report = Transfer | "half-way"

/** The program's end of a conversation. */
export interface Line<In, Out> {
  readonly take: Effect.Effect<In, ThreadError>
  readonly send: (message: Out) => Effect.Effect<void>
}

/** A thread has ended though nobody asked it to. */
export class ThreadError extends Data.TaggedError("ThreadError")<{
  readonly message: string
  readonly cause: unknown
}> {}

/** Starts a thread that runs the module. When the scope closes it is asked to end, and waited for. */
export const start = <In, Out>(module: URL, task: Task): Effect.Effect<Line<In, Out>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const platform = yield* Worker.WorkerPlatform
    const thread = yield* platform.spawn<In, Out>(0)
    const inbox = yield* Queue.unbounded<In, ThreadError>()
    const listening = Effect.catch(
      thread.run((message) => Queue.offer(inbox, message)),
      ({ reason }) =>
        Queue.fail(inbox, new ThreadError({ message: `the ${task.end}'s thread has failed`, cause: reason.cause }))
    )
    yield* Effect.forkScoped(listening)
    return { take: Queue.take(inbox), send: (message: Out) => Effect.orDie(thread.send(message)) }
  }).pipe(Effect.orDie, Effect.provide(NodeWorker.layer(() => new Threads.Worker(module, { workerData: task }))))

/** In a thread: does the task until the thread is asked to end. */
export const run = <R>({ end, shared }: Task, way: Way<R>): Effect.Effect<void, Error, R> =>
  Effect.gen(function* () {
    const platform = yield* WorkerRunner.WorkerRunnerPlatform
    const runner = yield* platform.start<number | Report, Order>()
    const inbox = yield* Queue.unbounded<Order>()
    const stop = Effect.andThen(runner.send(0, "half-way"), Queue.take(inbox))

    const server = Effect.gen(function* () {
      yield* runner.send(0, yield* way.listen)
      return yield* Effect.never
    })
    const client = Effect.gen(function* () {
      while (true) {
        const order = yield* Queue.take(inbox)
        if (order === "go on") continue
        const connection = way.connect(order.port)
        const sending = Effect.flatMap(connection, (wire) => transfer(wire, shared, order.stops ? stop : undefined))
        yield* runner.send(0, yield* Effect.scoped(sending))
      }
    })
    const listening = runner.run((_, message) => Queue.offer(inbox, message))
    yield* Effect.raceFirst(listening, end === "server" ? server : client)
  }).pipe(
    Effect.scoped,
    Effect.provide(NodeWorkerRunner.layer),
    Effect.provideService(Logger.LogToStderr, true),
    // Of any other error, nothing gets to the program.
    Effect.mapError(({ message }) => new Error(message))
  )
