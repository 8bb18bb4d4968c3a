/**
 * How a fiber that waits for bytes is resumed.
 *
 * Resuming a fiber runs it on the caller's stack, which is what makes a round
 * trip between two fibers short, and what overflows the stack when thousands
 * of fibers wake each other in a row, or keeps timers waiting when two of them
 * never stop. So the production layer resumes directly up to a nesting depth
 * and a budget, then hands over to the scheduler, which lets the event loop
 * turn. Never through a microtask: timers would starve.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as MutableList from "effect/MutableList"
import * as Scheduler from "effect/Scheduler"

/**
 * Something that waits. `resume` is called at most once for each `wake`; whoever
 * stops waiting in between ignores it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Waiter {
  readonly resume: () => void
}

/**
 * The service that resumes waiters, in the order in which they are woken when
 * they cannot be resumed at once.
 *
 * **Example** (Waking in order)
 *
 * ```ts
 * import { layer, Wake } from "@cut-through/core/runtime/Wake"
 * import { Effect } from "effect"
 *
 * const order: Array<string> = []
 * const program = Effect.gen(function*() {
 *   const { wake } = yield* Wake
 *   wake({ resume: () => void order.push("reader") })
 *   order.push("writer goes on")
 * })
 * await Effect.runPromise(program.pipe(Effect.provide(layer)))
 * order // => ["reader", "writer goes on"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Wake extends Context.Service<
  Wake,
  {
    readonly wake: (waiter: Waiter) => void
    /** Resumes when the scheduler has had a turn: for who could go on, but has had its share. */
    readonly defer: (waiter: Waiter) => void
    /** To be called when the scheduler has had a turn anyway: the budget begins anew. */
    readonly renew: () => void
  }
>()("@cut-through/core/runtime/Wake") {}

/**
 * Resumes directly, nested at most `depth` deep (default 8) and at most
 * `budget` times (default 128) until the scheduler has had its turn.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: {
    readonly depth?: number | undefined
    readonly budget?: number | undefined
  } = {}
): Effect.Effect<Wake["Service"]> =>
  Effect.map(Scheduler.Scheduler, (scheduler) => {
    const dispatcher = scheduler.makeDispatcher()
    const maxDepth = options.depth ?? 8
    const maxBudget = options.budget ?? 128
    let depth = 0
    let budget = maxBudget
    let isScheduled = false
    const queue = MutableList.make<Waiter>()
    /** How many of the queue the turn that is going on will still resume. */
    let left = 0

    const schedule = () => {
      if (isScheduled || queue.length === 0) return
      isScheduled = true
      dispatcher.scheduleTask(turn, 0)
    }

    const turn = () => {
      isScheduled = false
      budget = maxBudget
      try {
        // Those who come meanwhile stand behind the ones that are there, and wait for the next turn.
        for (left = queue.length; left > 0;) {
          left--
          ;(MutableList.take(queue) as Waiter).resume()
        }
      } finally {
        left = 0
        schedule()
      }
    }

    const defer = (waiter: Waiter) => {
      MutableList.append(queue, waiter)
      schedule()
    }

    return Wake.of({
      wake(waiter) {
        // Behind those who wait for the next turn. Not behind those of this one: where two stand in the queue, each would
        // wake its other end into it, and nobody would ever be resumed directly again.
        if (queue.length > left || depth === maxDepth || budget === 0) defer(waiter)
        else {
          depth++
          budget--
          try {
            waiter.resume()
          } finally {
            depth--
          }
        }
      },
      defer,
      renew() {
        budget = maxBudget
      }
    })
  })

/**
 * Direct resumes within bounds, for production.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Wake> = Layer.effect(Wake, make())

/**
 * Every resume through the scheduler, for simulation: whoever owns the
 * scheduler decides who runs next.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerScheduler: Layer.Layer<Wake> = Layer.effect(Wake, make({ depth: 0 }))
