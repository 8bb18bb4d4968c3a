/**
 * Locks for fibers, as a service: a test can put another one in place and see
 * who holds what, in which order, and who waits.
 *
 * Fibers of one thread need a lock only where a step waits for something. The
 * readers of one lock may be many; its writer is alone.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"

/**
 * A lock that many readers or one writer hold. First come, first served: a
 * reader does not pass a writer that waits, so nobody waits for ever.
 *
 * An effect that is interrupted while it waits has never held the lock.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReadWriteLock {
  readonly name: string
  /** Runs an effect as one of the readers. */
  readonly withRead: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Runs an effect as the writer. */
  readonly withWrite: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Who holds the lock and who waits, now. */
  readonly stats: () => { readonly readers: number; readonly writer: boolean; readonly waiting: number }
}

/**
 * The service that makes locks.
 *
 * **Example** (Writers take turns)
 *
 * ```ts
 * import { layer, Lock } from "@cut-through/core/runtime/Lock"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const lock = (yield* Lock).make("example")
 *   const order: Array<number> = []
 *   const writer = (n: number) =>
 *     lock.withWrite(Effect.sync(() => order.push(n)).pipe(Effect.andThen(Effect.yieldNow), Effect.andThen(
 *       Effect.sync(() => order.push(n))
 *     )))
 *   yield* Effect.all([writer(1), writer(2)], { concurrency: "unbounded" })
 *   return order
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.provide(layer))) // => [1, 1, 2, 2]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Lock extends Context.Service<
  Lock,
  {
    readonly make: (name: string) => ReadWriteLock
  }
>()("@cut-through/core/runtime/Lock") {}

interface Ticket {
  readonly isWriter: boolean
  isGranted: boolean
  readonly granted: Deferred.Deferred<void>
}

/**
 * A lock of its own, outside the service.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeReadWrite = (name: string): ReadWriteLock => {
  let readers = 0
  let writer = false
  let isGranting = false
  const waiting: Array<Ticket> = []

  // The only place where a ticket is granted. Whoever is resumed may leave at once: the loop goes on, not the stack.
  const grant = () => {
    if (isGranting) return
    isGranting = true
    while (waiting.length > 0 && !writer && (!waiting[0].isWriter || readers === 0)) {
      const ticket = waiting.shift()!
      if (ticket.isWriter) writer = true
      else readers++
      ticket.isGranted = true
      Deferred.doneUnsafe(ticket.granted, Exit.void)
    }
    isGranting = false
  }

  const enter = (isWriter: boolean): Ticket => {
    const ticket: Ticket = { isWriter, isGranted: false, granted: Deferred.makeUnsafe() }
    waiting.push(ticket)
    grant()
    return ticket
  }

  /** Gives up the lock, or the wait for it: who is interrupted need not know which. */
  const leave = (ticket: Ticket) => {
    if (!ticket.isGranted) waiting.splice(waiting.indexOf(ticket), 1)
    else if (ticket.isWriter) writer = false
    else readers--
    grant()
  }

  const withLock =
    (isWriter: boolean) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.uninterruptibleMask((restore) => {
        const ticket = enter(isWriter)
        return Effect.ensuring(
          restore(ticket.isGranted ? effect : Effect.andThen(Deferred.await(ticket.granted), effect)),
          Effect.sync(() => leave(ticket))
        )
      })

  return {
    name,
    withRead: withLock(false),
    withWrite: withLock(true),
    stats: () => ({ readers, writer, waiting: waiting.length })
  }
}

/**
 * Real locks.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Lock> = Layer.succeed(Lock, { make: makeReadWrite })
