/**
 * An application attached to a session layer: it listens and connects.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Connection from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import * as Listener from "./Listener.ts"
import type { Waiter } from "./runtime/Wake.ts"
import type { Session } from "./session/Session.ts"
import type { App, AttachOptions } from "./session/SessionLayer.ts"
import { SessionLayer } from "./session/SessionLayer.ts"
import * as SessionError from "./SessionError.ts"
import * as CutThroughTransport from "./transport/CutThroughTransport.ts"

/**
 * How to listen.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListenOptions {
  /** Most connections that wait to be accepted; further ones are refused. Default 511, as in Node. */
  readonly backlog?: number | undefined
}

/**
 * The service through which a program listens and connects.
 *
 * **Example** (Two applications)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import * as SessionLayer from "@cut-through/core/session/SessionLayer"
 * import { Effect } from "effect"
 *
 * const endpoint = Endpoint.tcp("127.0.0.1", 7000)
 * const program = Effect.gen(function*() {
 *   const server = yield* Application.make({ name: "server" })
 *   const client = yield* Application.make({ name: "client" })
 *   const listener = yield* server.listen(endpoint)
 *   yield* client.connect(endpoint)
 *   const connection = yield* listener.accept
 *   return connection.info.side
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(SessionLayer.layer()))) // => "server"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Application extends Context.Service<
  Application,
  {
    readonly name: string
    /** Listens on an endpoint until the scope closes. */
    readonly listen: (
      endpoint: Endpoint.Endpoint,
      options?: ListenOptions
    ) => Effect.Effect<Listener.Listener, SessionError.SessionError, Scope.Scope>
    /** Connects to an endpoint; the connection lives in the scope. */
    readonly connect: (
      endpoint: Endpoint.Endpoint
    ) => Effect.Effect<Connection.Connection, SessionError.SessionError, Scope.Scope>
  }
>()("@cut-through/core/Application") {}

/**
 * Attaches an application until the scope closes: then its listeners stop, and
 * its connections are reset.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: AttachOptions
): Effect.Effect<Application["Service"], SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.gen(function* () {
    const layer = yield* SessionLayer
    const app = yield* Effect.acquireRelease(layer.attach(options), (app) => detach(layer, app))
    return Application.of({
      name: app.name,
      listen: (endpoint, options) =>
        Effect.uninterruptible(
          Effect.flatMap(layer.bind(app, endpoint, { backlog: options?.backlog ?? 511 }), (listener) =>
            Listener.fromAppListener(layer, app, listener)
          )
        ),
      connect: (endpoint) => connectFrom(layer, app, endpoint)
    })
  })

const connectFrom = (
  layer: SessionLayer["Service"],
  app: App,
  endpoint: Endpoint.Endpoint
): Effect.Effect<Connection.Connection, SessionError.SessionError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (scope) => {
      const impossible = whyNotConnect(app, endpoint)
      if (impossible !== undefined) return Effect.fail(SessionError.make(impossible))
      const listener = layer.table.lookup(endpoint)
      if (listener === undefined) {
        return Effect.fail(SessionError.make(new SessionError.NoRoute({ endpoint: Endpoint.format(endpoint) })))
      }
      let answer: Session | SessionError.SessionError | undefined
      let answered: Deferred.Deferred<void> | undefined
      const waiter: Waiter = { resume: () => void Deferred.doneUnsafe(answered!, Exit.void) }
      const handle = CutThroughTransport.connect(layer, app.workers[0], endpoint, listener, (result) => {
        answer = result
        // Most answers come before anybody waits for them.
        return answered === undefined ? undefined : waiter
      })
      const adopt = () =>
        answer instanceof SessionError.SessionError
          ? Effect.fail(answer)
          : Connection.fromSession(layer, answer!, scope)
      if (answer !== undefined) return adopt()
      answered = Deferred.makeUnsafe<void>()
      // Interrupted, maybe with the answer at hand: nobody will ever hold this connection.
      const abandon = () => {
        CutThroughTransport.cancel(layer, handle)
        return answer === undefined || answer instanceof SessionError.SessionError
          ? Effect.void
          : CutThroughTransport.close(layer, answer, true)
      }
      return Effect.flatMap(Effect.onInterrupt(restore(Deferred.await(answered)), abandon), adopt)
    })
  )

const whyNotConnect = (app: App, endpoint: Endpoint.Endpoint): SessionError.Reason | undefined => {
  if (app.isDetached) return new SessionError.Closed({ what: "application" })
  if (Endpoint.isUnspecified(endpoint) || endpoint.port === 0) {
    return new SessionError.InvalidArgument({
      what: "the endpoint to connect to",
      value: Endpoint.format(endpoint),
      expected: "a specific address and a port from 1 to 65535"
    })
  }
  return undefined
}

/** In this order: nobody new comes in, nobody waits for an answer, then nobody is left. */
const detach = (layer: SessionLayer["Service"], app: App): Effect.Effect<void> =>
  Effect.gen(function* () {
    app.isDetached = true
    for (const listener of app.listeners) yield* Listener.close(layer, app, listener)
    for (const worker of app.workers) {
      for (const handle of worker.halfOpens) {
        const closed = SessionError.make(new SessionError.Closed({ what: "application" }))
        const waiter = layer.connections.takeHalfOpen(handle)?.answer(closed)
        if (waiter !== undefined) layer.wake.wake(waiter)
      }
      for (const session of worker.sessions) yield* CutThroughTransport.close(layer, session, true)
    }
    layer.detach(app)
  })

/**
 * An application under the given name and sizes.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: AttachOptions): Layer.Layer<Application, SessionError.SessionError, SessionLayer> =>
  Layer.effect(Application, make(options))

/**
 * Listens on an endpoint until the scope closes. Fails with `AlreadyListening`
 * when the endpoint is taken.
 *
 * @category operations
 * @since 0.1.0
 */
export const listen = (
  endpoint: Endpoint.Endpoint,
  options?: ListenOptions
): Effect.Effect<Listener.Listener, SessionError.SessionError, Application | Scope.Scope> =>
  Effect.flatMap(Application, (application) => application.listen(endpoint, options))

/**
 * Connects to an endpoint; the connection lives in the scope. Fails with
 * `NoRoute` when nobody listens there, `Refused` when the listener takes no
 * more connections, `AllocFailed` when there is no memory for one.
 *
 * @category operations
 * @since 0.1.0
 */
export const connect = (
  endpoint: Endpoint.Endpoint
): Effect.Effect<Connection.Connection, SessionError.SessionError, Application | Scope.Scope> =>
  Effect.flatMap(Application, (application) => application.connect(endpoint))
