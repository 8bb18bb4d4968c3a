/**
 * An endpoint that takes connections.
 *
 * Connections are established as they arrive and wait in a backlog until they
 * are accepted, as with TCP.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
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
   * closes. A handler that fails resets its connection and is logged; the
   * others go on. Connections that arrived earlier are served first.
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
    return Effect.forEach(listener.backlog.splice(0), (session) => CutThroughTransport.close(layer, session, true), {
      discard: true
    })
  })

const make = (layer: SessionLayer["Service"], listener: AppListener): Listener => {
  const closed = Exit.fail(SessionError.make(new SessionError.Closed({ what: "listener" })))

  const next = (): Exit.Exit<Session, SessionError.SessionError> | undefined => {
    if (listener.isClosed) return closed
    const session = listener.backlog.shift()
    return session === undefined ? undefined : Exit.succeed(session)
  }

  const acceptSession: Effect.Effect<Session, SessionError.SessionError> = Effect.suspend(
    () =>
      next() ??
      Effect.callback<Session, SessionError.SessionError>((resume) => {
        const accepter: Waiter = {
          resume() {
            const exit = next()
            // Another one was quicker: this one stays the first in line.
            if (exit === undefined) listener.accepters.unshift(accepter)
            else resume(exit)
          }
        }
        listener.accepters.push(accepter)
        return Effect.sync(() => {
          const at = listener.accepters.indexOf(accepter)
          if (at >= 0) {
            listener.accepters.splice(at, 1)
          } else if (listener.backlog.length > 0 && listener.accepters.length > 0) {
            // It was woken for a connection that it will not take.
            layer.wake.wake(listener.accepters.shift()!)
          }
        })
      })
  )

  return {
    [TypeId]: TypeId,
    address: listener.endpoint,
    accept: Effect.flatMap(Effect.scope, (scope) =>
      Effect.flatMap(acceptSession, (session) => fromSession(layer, session, scope))
    ),
    run: <A, E, R>(handler: (connection: Connection) => Effect.Effect<A, E, R>) =>
      Effect.scopedWith((scope) => {
        const serve = (session: Session) =>
          Effect.scopedWith((own) =>
            Effect.flatMap(fromSession(layer, session, own), (connection) =>
              handler(connection).pipe(
                Effect.provideService(Connection, connection),
                Effect.provideService(Scope.Scope, own)
              )
            )
          ).pipe(
            Effect.interruptible,
            Effect.ignoreCause({ log: "Unhandled", message: "Unhandled error in a connection handler" }),
            Effect.forkIn(scope, { startImmediately: true })
          )
        // Between accepting a session and serving it nothing can interrupt.
        return Effect.uninterruptibleMask((restore) =>
          Effect.forever(Effect.flatMap(restore(acceptSession), serve), { disableYield: true })
        )
      }) as Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
  }
}
