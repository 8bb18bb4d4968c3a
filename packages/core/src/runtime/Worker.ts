/**
 * A worker runs the calls that others send it, one queue for each worker.
 *
 * What a worker owns (its sessions) is touched only by calls on its queue. A
 * call is a fiber: it starts at once, on the caller's stack, when nothing is in
 * front of it, because a hop through the scheduler costs more than most of the
 * work; the queue takes a scheduler turn only when its budget is spent.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as MutableList from "effect/MutableList"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"

/**
 * A queue of remote procedure calls and the fibers that run them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Worker {
  /** Number of the worker in its session layer; 0 owns listeners and half-opens. */
  readonly index: number
  /** Puts a call on the queue. Calls start in the order in which they were sent. */
  readonly send: (call: Effect.Effect<void>) => void
  /**
   * Runs a task when no call is under way on this stack: now, or behind the
   * calls that are. For whatever may send calls of its own, such as waking a
   * fiber, which would have to wait for an answer otherwise.
   */
  readonly after: (task: () => void) => void
  /** Calls sent and not yet started. */
  readonly pending: () => number
}

/**
 * A worker whose calls live no longer than the scope. At most `budget`
 * (default 64) calls start in a row before the scheduler has its turn.
 *
 * **Example** (Calls start in order)
 *
 * ```ts
 * import * as Worker from "@cut-through/core/runtime/Worker"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const worker = yield* Worker.make(1)
 *   const order: Array<string> = []
 *   worker.send(Effect.sync(() => {
 *     order.push("first starts")
 *     worker.send(Effect.sync(() => void order.push("second")))
 *     order.push("first ends")
 *   }))
 *   return order
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["first starts", "first ends", "second"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  index: number,
  options: {
    readonly budget?: number | undefined
    /** Called when the scheduler has had its turn, before the calls go on. */
    readonly onTurn?: (() => void) | undefined
  } = {}
): Effect.Effect<Worker, never, Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const context = yield* Effect.context<never>()
    const dispatcher = (yield* Scheduler.Scheduler).makeDispatcher()
    const run = Effect.runForkWith(context)
    const maxBudget = options.budget ?? 64
    let budget = maxBudget
    let isDraining = false
    let isScheduled = false
    // Not an array: taking the first of a long one would move all the others.
    const queue = MutableList.make<Effect.Effect<void>>()
    const afterwards = MutableList.make<() => void>()

    // Nobody waits for a call, so nobody else would hear of it.
    const reportDefect = (exit: Exit.Exit<void>) => {
      if (Exit.isFailure(exit) && Exit.hasDies(exit))
        run(Effect.logError(`A call on worker ${index} failed`, exit.cause))
    }

    const drain = () => {
      isDraining = true
      while (queue.length > 0 && budget > 0) {
        budget--
        const fiber = run(MutableList.take(queue) as Effect.Effect<void>)
        if (fiber.pollUnsafe() === undefined) Fiber.runIn(fiber, scope)
        fiber.addObserver(reportDefect)
      }
      isDraining = false
      if (queue.length > 0 && !isScheduled) {
        isScheduled = true
        dispatcher.scheduleTask(turn, 0)
      }
      while (afterwards.length > 0) (MutableList.take(afterwards) as () => void)()
    }

    const turn = () => {
      isScheduled = false
      budget = maxBudget
      options.onTurn?.()
      if (!isDraining) drain()
    }

    return {
      index,
      send(call) {
        MutableList.append(queue, call)
        if (!isDraining && !isScheduled) drain()
      },
      after(task) {
        if (isDraining) MutableList.append(afterwards, task)
        else task()
      },
      pending: () => queue.length
    }
  })
