/**
 * An endpoint that takes connections.
 *
 * Connections are established as they arrive and wait in a backlog until they
 * are accepted, as with TCP.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Context from "effect/Context"
import * as Scope from "effect/Scope"
import { Connection, fromSession } from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import type * as HandleTable from "./runtime/HandleTable.ts"
import * as Trace from "./runtime/Trace.ts"
import type { Waiter } from "./runtime/Wake.ts"
import type { AcceptQueue } from "./session/AppListener.ts"
import * as Session from "./session/Session.ts"
import type { Binding, SessionLayer } from "./session/SessionLayer.ts"
import * as SessionError from "./SessionError.ts"

const TypeId = "~@cut-through/core/Listener"

/**
 * An endpoint that takes connections, until the scope it was made in closes.
 *
 * **Example** (Accepting one connection)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
 *   const client = yield* Application.connect(listener.address)
 *   const server = yield* listener.accept
 *   return server.info.remote.port === client.info.local.port
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => true
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export interface Listener {
  readonly [TypeId]: typeof TypeId
  /** Where it listens: with port 0 asked for, the port it got. */
  readonly address: Endpoint.Endpoint
  /** What a session rule redirects to, to reach this listener. */
  readonly handle: HandleTable.Handle
  /** Waits for the next connection, which then lives in the caller's scope. */
  readonly accept: Effect.Effect<Connection, SessionError.SessionError, Scope.Scope>
  /**
   * Waits for the next connection without saying yes to it yet: for listeners
   * with `approval: "application"`. What is neither accepted nor refused when
   * the scope closes is refused.
   */
  readonly request: Effect.Effect<ConnectionRequest, SessionError.SessionError, Scope.Scope>
  /**
   * Serves each connection in a fiber and a scope of its own, until it is
   * interrupted (which resets the connections being served) or the listener
   * closes. A handler that fails resets its connection and is logged (at debug
   * level when it was the peer who broke off); the others go on. Connections
   * that arrived earlier are served first.
   */
  readonly run: <A, E, R>(
    handler: (connection: Connection) => Effect.Effect<A, E, R>
  ) => Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
}

/**
 * A connection that waits for the server's yes or no.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectionRequest {
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  /**
   * Says yes: the connection lives in the caller's scope. Fails with `Reset`
   * when the client has given up meanwhile, with `InvalidArgument` when it was
   * accepted before, with `Closed` when it was refused.
   */
  readonly accept: Effect.Effect<Connection, SessionError.SessionError, Scope.Scope>
  /** Says no: the client's connect fails with `Refused`. Does nothing after an answer. */
  readonly refuse: Effect.Effect<void>
}

/**
 * The face of a bound listener; closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromBinding = (
  layer: SessionLayer["Service"],
  binding: Binding
): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.as(
    Effect.addFinalizer(() => close(layer, binding)),
    make(layer, binding)
  )

/**
 * Stops listening: whoever waits in `accept` gets `Closed`, and connections
 * that nobody has accepted are reset.
 *
 * @category operations
 * @since 0.1.0
 */
export const close = (layer: SessionLayer["Service"], binding: Binding): Effect.Effect<void> =>
  Effect.andThen(
    layer.unbind(binding),
    Effect.suspend(() => {
      const { queue } = binding
      for (const accepter of queue.accepters.splice(0)) layer.wake.wake(accepter)
      const left: Array<Session.Session> = []
      for (let session = queue.take(); session !== undefined; session = queue.take()) left.push(session)
      return Effect.forEach(left, (session) => Session.close(session, true), { discard: true })
    })
  )

const make = (layer: SessionLayer["Service"], { listener, queue }: Binding): Listener => {
  const closed = Exit.fail(SessionError.make(new SessionError.Closed({ what: "listener" })))

  /**
   * Takes the next one and gives it to its owner in one step, now or when there
   * is one: a session in hand is never lost, whoever is interrupted.
   */
  const take = <A>(
    next: () => Session.Session | undefined,
    adopt: (session: Session.Session, fiber: Fiber.Fiber<unknown, unknown>) => A
  ): Effect.Effect<A, SessionError.SessionError> =>
    Trace.callback("cut-through.accept", attributes, (resume, fiber) => {
      const attempt = (): Exit.Exit<A, SessionError.SessionError> | undefined => {
        if (queue.isClosed) return closed
        const session = next()
        return session === undefined ? undefined : Exit.succeed(adopt(session, fiber))
      }
      const exit = attempt()
      if (exit !== undefined) return resume(exit)
      const accepter = new Accepter(queue, () => {
        const exit = attempt()
        if (exit !== undefined) resume(exit)
        return exit !== undefined
      })
      queue.accepters.push(accepter)
      return Effect.sync(() => {
        // Whoever is woken takes nothing by that, so who is interrupted leaves the session to the next in line.
        if (accepter.leave() && queue.length > 0) wakeNext(layer, queue)
      })
    })

  /** The next one, with the server's yes: who has left in the meantime is passed over. */
  const nextAccepted = (): Session.Session | undefined => {
    for (let session = queue.take(); session !== undefined; session = queue.take()) {
      if (session.state !== "accepting" || session.transport.accept(session) === undefined) return session
    }
    return undefined
  }

  const attributes = () => ({ "cut-through.listener": Endpoint.format(listener.endpoint) })

  return {
    [TypeId]: TypeId,
    address: listener.endpoint,
    handle: listener.handle,
    accept: take(nextAccepted, (session, fiber) => fromSession(layer, session, scopeOf(fiber))),
    request: take(
      () => queue.take(),
      (session, fiber) => {
        const request = makeRequest(layer, session)
        Effect.runFork(Scope.addFinalizer(scopeOf(fiber), request.refuse))
        return request
      }
    ),
    run: <A, E, R>(handler: (connection: Connection) => Effect.Effect<A, E, R>) =>
      Effect.scopedWith((scope) => {
        const serve = (session: Session.Session): Effect.Effect<void> =>
          Effect.scopedWith((own) => {
            const connection = fromSession(layer, session, own)
            return Effect.suspend(() => handler(connection)).pipe(
              Effect.provideService(Connection, connection),
              Effect.provideService(Scope.Scope, own),
              Effect.interruptible
            )
          }).pipe(
            Effect.catchIf(isPeersDoing, (error) => Effect.logDebug("A peer broke its connection off", error)),
            Effect.catchCause((cause) =>
              Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.ignoreCause(Effect.failCause(cause), unhandled)
            )
          ) as Effect.Effect<void>
        // Between accepting a session and serving it nothing can interrupt: the fiber is started in the same step.
        const next = take(nextAccepted, (session, fiber) => {
          Fiber.runIn(Effect.runForkWith(fiber.context)(serve(session), { uninterruptible: true }), scope)
        })
        return Effect.forever(next, { disableYield: true })
      }) as Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
  }
}

/** A fiber that waits for a connection. */
class Accepter implements Waiter {
  private isDone = false
  private readonly queue: AcceptQueue
  private readonly attempt: () => boolean

  constructor(queue: AcceptQueue, attempt: () => boolean) {
    this.queue = queue
    this.attempt = attempt
  }

  resume(): void {
    if (this.isDone) return
    // Woken, but another one was quicker: still the first in line.
    if (this.attempt()) this.isDone = true
    else this.queue.accepters.unshift(this)
  }

  /** Waits no more; true when it was woken and has not looked yet. */
  leave(): boolean {
    if (this.isDone) return false
    this.isDone = true
    const at = this.queue.accepters.indexOf(this)
    if (at >= 0) this.queue.accepters.splice(at, 1)
    return at < 0
  }
}

const scopeOf = (fiber: Fiber.Fiber<unknown, unknown>): Scope.Scope =>
  Context.getUnsafe(fiber.context as Context.Context<Scope.Scope>, Scope.Scope)

const unhandled = { log: "Unhandled", message: "Unhandled error in a connection handler" } as const

/** What a handler cannot help: its connection is over, and nothing is wrong with it. */
const isPeersDoing = (error: unknown): boolean =>
  error instanceof SessionError.SessionError && (error.reason._tag === "Reset" || error.reason._tag === "PeerDied")

const makeRequest = (layer: SessionLayer["Service"], session: Session.Session): ConnectionRequest => {
  // A listener that says yes itself has done so; the connection still waits for an owner.
  const needsYes = session.state === "accepting"
  let answer: "yes" | "no" | undefined

  const sayYes = (): SessionError.Reason | undefined => {
    if (answer === "no") return new SessionError.Closed({ what: "request" })
    if (answer === "yes") {
      const value = session.transport.formatSession(session)
      return new SessionError.InvalidArgument({
        what: "the session to accept",
        value,
        expected: "one that was not accepted yet"
      })
    }
    // First, because the client is woken on the way, and may come back here.
    answer = "yes"
    const impossible = needsYes ? session.transport.accept(session) : undefined
    if (impossible !== undefined) answer = undefined
    return impossible
  }

  return {
    local: session.local,
    remote: session.remote,
    accept: Effect.withFiber((fiber) => {
      const impossible = sayYes()
      return impossible === undefined
        ? Effect.succeed(fromSession(layer, session, scopeOf(fiber)))
        : Effect.fail(SessionError.make(impossible))
    }),
    refuse: Effect.suspend(() => {
      if (answer !== undefined) return Effect.void
      answer = "no"
      return Session.close(session, true)
    })
  }
}

const wakeNext = (layer: SessionLayer["Service"], queue: AcceptQueue): void => {
  const accepter = queue.accepters.shift()
  if (accepter !== undefined) layer.wake.wake(accepter)
}
