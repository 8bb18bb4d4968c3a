/**
 * What happens, for whoever wants to know: each subscriber has a queue of its
 * own, and without subscribers nothing is kept and nothing is made.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/**
 * A queue for each subscriber. Offering never waits and never runs a
 * subscriber: what is not read yet stays in its queue, and `unread` says how
 * much that is, so that whoever lets new work in can stop in time.
 *
 * **Example** (Only subscribers cost)
 *
 * ```ts
 * import { Feed } from "@cut-through/core/runtime/Feed"
 * import { Effect, Queue } from "effect"
 *
 * const feed = new Feed<string>()
 * const program = Effect.gen(function*() {
 *   feed.offer("nobody hears")
 *   const queue = yield* feed.subscribe
 *   feed.offer("somebody hears")
 *   return yield* Queue.takeAll(queue)
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["somebody hears"]
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class Feed<A> {
  /** What each subscriber keeps of what is offered. */
  private readonly queues = new Map<Queue.Queue<any, Cause.Done>, (value: A) => unknown>()
  private isEnded = false

  /** Whether anybody listens. To be asked before making what would be offered. */
  get isObserved(): boolean {
    return this.queues.size > 0
  }

  /** How much the slowest subscriber has not read yet. */
  get unread(): number {
    if (this.queues.size === 0) return 0
    let most = 0
    for (const queue of this.queues.keys()) most = Math.max(most, Queue.sizeUnsafe(queue))
    return most
  }

  /** Puts it in the queue of each subscriber. */
  offer(value: A): void {
    for (const [queue, keep] of this.queues) Queue.offerUnsafe(queue, keep(value))
  }

  /** Nothing comes any more: subscribers read what is there, then the end. */
  end(): void {
    this.isEnded = true
    for (const queue of this.queues.keys()) Queue.endUnsafe(queue)
    this.queues.clear()
  }

  /**
   * What `keep` makes of everything that is offered from now on, until the scope
   * closes. It runs when the value is offered: what is kept of a thing that
   * changes is how it was then.
   */
  subscribeWith<B>(keep: (value: A) => B): Effect.Effect<Queue.Dequeue<B, Cause.Done>, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.map(Queue.unbounded<B, Cause.Done>(), (queue) => {
        if (this.isEnded) Queue.endUnsafe(queue)
        else this.queues.set(queue, keep)
        return queue
      }),
      (queue) =>
        Effect.suspend(() => {
          this.queues.delete(queue)
          return Queue.shutdown(queue)
        })
    )
  }

  /** Everything that is offered from now on, until the scope closes. */
  readonly subscribe: Effect.Effect<Queue.Dequeue<A, Cause.Done>, never, Scope.Scope> = this.subscribeWith(identity)

  /** Everything that is offered while the stream runs. */
  readonly stream: Stream.Stream<A> = Stream.unwrap(Effect.map(this.subscribe, Stream.fromQueue))
}
