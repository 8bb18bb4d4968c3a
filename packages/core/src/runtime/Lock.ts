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
  /**
   * Runs a function as the writer if nobody holds the lock and nobody waits for
   * it, and returns its result; otherwise returns undefined at once, without
   * running it. For what never waits: the lock is free again when the function
   * returns or throws, also if it returns a promise or an effect.
   */
  readonly tryWrite: <A>(body: () => A) => A | undefined
  /** Who holds the lock and who waits, now. */
  readonly stats: () => { readonly readers: number; readonly writer: boolean; readonly waiting: number }
}

/**
 * A lock that one at a time holds, the twin of VPP's spin lock: whoever waits
 * for it there turns in a loop and keeps the thread. Here a fiber waits and the
 * thread goes on, because on one thread the holder could not let go otherwise.
 * First come, first served.
 *
 * An effect that is interrupted while it waits has never held the lock.
 *
 * @category models
 * @since 0.1.0
 */
export interface SpinLock {
  readonly name: string
  /** Runs an effect while nobody else holds the lock. */
  readonly withLock: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Runs a function under the lock if it is free, as {@link ReadWriteLock.tryWrite} does. */
  readonly tryLock: <A>(body: () => A) => A | undefined
  /** Whether the lock is held and how many wait, now. */
  readonly stats: () => { readonly held: boolean; readonly waiting: number }
}

/**
 * What happens to one who wants a lock: "asked" first; then "granted" and
 * "released", or "abandoned" when interrupted before it was granted.
 *
 * @category models
 * @since 0.1.0
 */
export type LockEvent = "asked" | "granted" | "released" | "abandoned"

/**
 * One who wants a lock, the same object in all its events. All tries of a lock
 * share one, since each ends before the next begins.
 *
 * @category models
 * @since 0.1.0
 */
export interface Acquisition {
  readonly isWriter: boolean
  /** Whether it is a try, which has the lock only while its function runs. */
  readonly isTry: boolean
}

/**
 * Is told of every event of a lock at the moment it happens: before the granted
 * one goes on, and before the next one is granted what another has released. A
 * try that is refused is no event. Must not throw.
 *
 * @category models
 * @since 0.1.0
 */
export type Observer = (event: LockEvent, acquisition: Acquisition) => void

/**
 * The service that makes locks, and hears when applications are told something:
 * nobody should hold one then, as an application may do anything.
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
    readonly makeSpin: (name: string) => SpinLock
    /** To be called immediately before an application is told something. */
    readonly notifying: (what: string) => void
  }
>()("@cut-through/core/runtime/Lock") {}

interface Ticket extends Acquisition {
  isGranted: boolean
  readonly granted: Deferred.Deferred<void>
}

/**
 * A lock of its own, outside the service.
 *
 * **Example** (At once or not at all)
 *
 * ```ts
 * import { makeReadWrite } from "@cut-through/core/runtime/Lock"
 * import { Effect } from "effect"
 *
 * const lock = makeReadWrite("example")
 * lock.tryWrite(() => "mine") // => "mine"
 * lock.tryWrite(() => lock.tryWrite(() => "mine") ?? "taken") // => "taken"
 *
 * const reader = lock.withRead(Effect.sync(() => lock.tryWrite(() => "mine")))
 * await Effect.runPromise(reader) // => undefined
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeReadWrite = (name: string, observe?: Observer): ReadWriteLock => {
  let readers = 0
  let writer = false
  let isGranting = false
  const waiting: Array<Ticket> = []
  const attempt: Acquisition = { isWriter: true, isTry: true }

  // The only place where a ticket is granted. Whoever is resumed may leave at once: the loop goes on, not the stack.
  const grant = () => {
    if (isGranting) return
    isGranting = true
    while (waiting.length > 0 && !writer && (!waiting[0].isWriter || readers === 0)) {
      const ticket = waiting.shift()!
      if (ticket.isWriter) writer = true
      else readers++
      ticket.isGranted = true
      observe?.("granted", ticket)
      Deferred.doneUnsafe(ticket.granted, Exit.void)
    }
    isGranting = false
  }

  const enter = (isWriter: boolean): Ticket => {
    const ticket: Ticket = { isWriter, isTry: false, isGranted: false, granted: Deferred.makeUnsafe() }
    observe?.("asked", ticket)
    waiting.push(ticket)
    grant()
    return ticket
  }

  /** Gives up the lock, or the wait for it: who is interrupted need not know which. */
  const leave = (ticket: Ticket) => {
    if (!ticket.isGranted) waiting.splice(waiting.indexOf(ticket), 1)
    else if (ticket.isWriter) writer = false
    else readers--
    observe?.(ticket.isGranted ? "released" : "abandoned", ticket)
    grant()
  }

  const tryWrite = <A>(body: () => A): A | undefined => {
    if (writer || readers > 0 || waiting.length > 0) return undefined
    writer = true
    observe?.("asked", attempt)
    observe?.("granted", attempt)
    try {
      return body()
    } finally {
      writer = false
      observe?.("released", attempt)
      grant()
    }
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
    tryWrite,
    stats: () => ({ readers, writer, waiting: waiting.length })
  }
}

/**
 * A lock of its own that one at a time holds, outside the service.
 *
 * **Example** (Who waits leaves the thread to the others)
 *
 * ```ts
 * import { makeSpin } from "@cut-through/core/runtime/Lock"
 * import { Effect, Fiber, Latch } from "effect"
 *
 * const lock = makeSpin("example")
 * const gate = Latch.makeUnsafe()
 * const holder = Effect.runFork(lock.withLock(gate.await))
 * const next = Effect.runFork(lock.withLock(Effect.succeed("mine")))
 * lock.stats() // => { held: true, waiting: 1 }
 * lock.tryLock(() => "mine") // => undefined
 * Latch.openUnsafe(gate)
 * await Effect.runPromise(Fiber.join(next)) // => "mine"
 * lock.tryLock(() => lock.stats()) // => { held: true, waiting: 0 }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSpin = (name: string, observe?: Observer): SpinLock => {
  const lock = makeReadWrite(name, observe)
  return {
    name,
    withLock: lock.withWrite,
    tryLock: lock.tryWrite,
    stats: () => {
      const { waiting, writer } = lock.stats()
      return { held: writer, waiting }
    }
  }
}

/**
 * Real locks.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Lock> = Layer.succeed(Lock, {
  make: (name) => makeReadWrite(name),
  makeSpin: (name) => makeSpin(name),
  notifying: () => {}
})
