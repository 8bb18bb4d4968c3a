/**
 * A worker runs the calls that others send it, one queue for each worker.
 *
 * A call is a fiber: it starts at once, on the caller's stack, when nothing is
 * in front of it, because a hop through the scheduler costs more than most of
 * the work; the queue takes a scheduler turn only when its budget is spent. What
 * comes in numbers is handled in bursts, which are calls that wait for nothing.
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
  /**
   * A queue of items that are handled in bursts: one call handles at most
   * `limit` of them, then other calls have their turn. So a storm of items is
   * few calls, and yet keeps nobody waiting for long.
   */
  readonly batch: <A>(limit: number, handle: (item: A) => void) => Batch<A>
  /** Calls sent and not yet started, and items added and not yet handled. */
  readonly pending: () => number
}

/**
 * Items for a worker to handle, in the order in which they were added.
 *
 * @category models
 * @since 0.1.0
 */
export interface Batch<A> {
  readonly add: (item: A) => void
  /** Items added and not yet handled. */
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
    const queue = MutableList.make<Effect.Effect<void> | (() => void)>()
    const afterwards = MutableList.make<() => void>()
    const batches: Array<Batch<any>> = []

    // Nobody waits for a call, so nobody else would hear of it.
    const reportDefect = (exit: Exit.Exit<void>) => {
      if (Exit.isFailure(exit) && Exit.hasDies(exit))
        run(Effect.logError(`A call on worker ${index} failed`, exit.cause))
    }

    /** Runs what waits for nothing, so needs no fiber. Whoever is on the stack has nothing to do with its defects. */
    const attempt = (task: () => void) => {
      try {
        task()
      } catch (defect) {
        reportDefect(Exit.die(defect))
      }
    }

    const drain = () => {
      isDraining = true
      while (queue.length > 0 && budget > 0) {
        budget--
        const call = MutableList.take(queue) as Effect.Effect<void> | (() => void)
        if (typeof call === "function") {
          attempt(call)
          continue
        }
        const fiber = run(call)
        if (fiber.pollUnsafe() === undefined) Fiber.runIn(fiber, scope)
        fiber.addObserver(reportDefect)
      }
      isDraining = false
      if (queue.length > 0 && !isScheduled) {
        isScheduled = true
        dispatcher.scheduleTask(turn, 0)
      }
      while (afterwards.length > 0) attempt(MutableList.take(afterwards) as () => void)
    }

    const turn = () => {
      isScheduled = false
      budget = maxBudget
      options.onTurn?.()
      if (!isDraining) drain()
    }

    const send = (call: Effect.Effect<void> | (() => void)) => {
      MutableList.append(queue, call)
      if (!isDraining && !isScheduled) drain()
    }

    const batch = <A>(limit: number, handle: (item: A) => void): Batch<A> => {
      const items = MutableList.make<A>()
      let isSent = false
      /** One item without a queue, while nothing is in front of it. */
      const first = (item: A) => {
        isSent = true
        isDraining = true
        budget--
        try {
          handle(item)
        } catch (defect) {
          reportDefect(Exit.die(defect))
        }
        isSent = items.length > 0
        if (isSent) send(burst)
        drain()
      }
      const burst = () => {
        const count = Math.min(limit, items.length)
        // A burst counts for what it does, not for one.
        budget -= count - 1
        try {
          for (let left = count; left > 0; left--) handle(MutableList.take(items) as A)
        } finally {
          isSent = items.length > 0
          if (isSent) send(burst)
        }
      }
      const made: Batch<A> = {
        add(item) {
          if (!isSent && !isDraining && !isScheduled && budget > 0 && queue.length === 0) return first(item)
          MutableList.append(items, item)
          if (isSent) return
          isSent = true
          send(burst)
        },
        pending: () => items.length
      }
      batches.push(made)
      return made
    }

    return {
      index,
      send,
      batch,
      after(task) {
        if (isDraining) MutableList.append(afterwards, task)
        else attempt(task)
      },
      pending: () => batches.reduce((sum, { pending }) => sum + pending(), queue.length)
    }
  })
