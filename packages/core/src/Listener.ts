/**
 * An endpoint that takes connections.
 *
 * Connections are established as they arrive and wait in a backlog until they
 * are accepted, as with TCP.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as MutableList from "effect/MutableList"
import * as Scope from "effect/Scope"
import { Connection, fromSession } from "./Connection.ts"
import type * as Endpoint from "./Endpoint.ts"
import type { Waiter } from "./runtime/Wake.ts"
import type { AppListener } from "./session/AppListener.ts"
import type { Session } from "./session/Session.ts"
import type { App, SessionLayer } from "./session/SessionLayer.ts"
import * as SessionError from "./SessionError.ts"
import * as CutThroughTransport from "./transport/CutThroughTransport.ts"

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
  /** Waits for the next connection, which then lives in the caller's scope. */
  readonly accept: Effect.Effect<Connection, SessionError.SessionError, Scope.Scope>
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
 * The face of a bound listener; closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromAppListener = (
  layer: SessionLayer["Service"],
  app: App,
  listener: AppListener
): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.as(
    Effect.addFinalizer(() => close(layer, app, listener)),
    make(layer, listener)
  )

/**
 * Stops listening: whoever waits in `accept` gets `Closed`, and connections
 * that nobody has accepted are reset.
 *
 * @category operations
 * @since 0.1.0
 */
export const close = (layer: SessionLayer["Service"], app: App, listener: AppListener): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (!listener.isClosed) layer.unbind(app, listener)
    for (const accepter of listener.accepters.splice(0)) layer.wake.wake(accepter)
    return Effect.forEach(
      MutableList.takeAll(listener.backlog),
      (session) => CutThroughTransport.close(layer, session, true),
      {
        discard: true
      }
    )
  })

const make = (layer: SessionLayer["Service"], listener: AppListener): Listener => {
  const closed = Exit.fail(SessionError.make(new SessionError.Closed({ what: "listener" })))

  const next = (): Exit.Exit<Session, SessionError.SessionError> | undefined => {
    if (listener.isClosed) return closed
    const session = MutableList.take(listener.backlog)
    return session === MutableList.Empty ? undefined : Exit.succeed(session)
  }

  /** Runs in an uninterruptible region, where only the waiting is interruptible: a session in hand is never lost. */
  const takeSession = (
    restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>,
    isFirst = false
  ): Effect.Effect<Session, SessionError.SessionError> =>
    Effect.suspend(() => {
      const exit = next()
      if (exit !== undefined) return exit
      const woken = Deferred.makeUnsafe<void>()
      const accepter: Waiter = { resume: () => void Deferred.doneUnsafe(woken, Exit.void) }
      // Woken, but another one was quicker: still the first in line.
      if (isFirst) listener.accepters.unshift(accepter)
      else listener.accepters.push(accepter)
      // Whoever is woken takes nothing by that, so who is interrupted leaves the session to the next in line.
      const leave = Effect.sync(() => {
        const at = listener.accepters.indexOf(accepter)
        if (at >= 0) listener.accepters.splice(at, 1)
        else if (listener.backlog.length > 0) wakeNext(layer, listener)
      })
      return Effect.andThen(
        Effect.onInterrupt(restore(Deferred.await(woken)), () => leave),
        takeSession(restore, true)
      )
    })

  return {
    [TypeId]: TypeId,
    address: listener.endpoint,
    accept: Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.scope, (scope) =>
        Effect.flatMap(takeSession(restore), (session) => fromSession(layer, session, scope))
      )
    ),
    run: <A, E, R>(handler: (connection: Connection) => Effect.Effect<A, E, R>) =>
      Effect.scopedWith((scope) => {
        const serve = (session: Session) =>
          Effect.scopedWith((own) =>
            Effect.flatMap(fromSession(layer, session, own), (connection) =>
              handler(connection).pipe(
                Effect.provideService(Connection, connection),
                Effect.provideService(Scope.Scope, own),
                Effect.interruptible
              )
            )
          ).pipe(
            Effect.catchIf(isPeersDoing, (error) => Effect.logDebug("A peer broke its connection off", error)),
            Effect.catchCause((cause) =>
              Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.ignoreCause(Effect.failCause(cause), unhandled)
            ),
            Effect.forkIn(scope, { startImmediately: true, uninterruptible: true })
          )
        // Between accepting a session and serving it nothing can interrupt.
        return Effect.uninterruptibleMask((restore) =>
          Effect.forever(Effect.flatMap(takeSession(restore), serve), { disableYield: true })
        )
      }) as Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
  }
}

const unhandled = { log: "Unhandled", message: "Unhandled error in a connection handler" } as const

/** What a handler cannot help: its connection is over, and nothing is wrong with it. */
const isPeersDoing = (error: unknown): boolean =>
  error instanceof SessionError.SessionError && (error.reason._tag === "Reset" || error.reason._tag === "PeerDied")

const wakeNext = (layer: SessionLayer["Service"], listener: AppListener): void => {
  const accepter = listener.accepters.shift()
  if (accepter !== undefined) layer.wake.wake(accepter)
}
