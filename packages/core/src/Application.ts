/**
 * An application attached to a session layer: it listens and connects.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Connection from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import * as Listener from "./Listener.ts"
import { Hold } from "./runtime/KeepAlive.ts"
import * as Trace from "./runtime/Trace.ts"
import type * as HandleTable from "./runtime/HandleTable.ts"
import type { Waiter } from "./runtime/Wake.ts"
import type { App } from "./session/App.ts"
import type { AppEvent } from "./session/AppEvent.ts"
import type { Approval } from "./session/AppListener.ts"
import type { AppWorker } from "./session/AppWorker.ts"
import * as Connector from "./session/Connector.ts"
import type { Request } from "./session/HalfOpen.ts"
import { close, type Session } from "./session/Session.ts"
import * as SessionConfig from "./session/SessionConfig.ts"
import type { AttachOptions, Binding } from "./session/SessionLayer.ts"
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
  /**
   * Who says yes to a connection. The `"listener"` does as soon as there is room
   * in its backlog, as TCP does (the default). The `"application"` does by
   * accepting: until then the client's `connect` waits, and it can be refused.
   */
  readonly approval?: Approval | undefined
  /**
   * Takes every connect of its family that no other listener takes, except those
   * of its own application: `connection.info.local` is what was dialled. Listen
   * on `0.0.0.0:0`, or `[::]:0` for IPv6. Default false.
   */
  readonly proxy?: boolean | undefined
}

/**
 * A worker of an application, which listens and connects on its own. Where
 * several of them listen on one endpoint, they serve its connections in turn.
 *
 * @category models
 * @since 0.1.0
 */
export interface ApplicationWorker {
  /** The application's name and the worker's number. */
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
    /** Its workers, each of which can listen and connect on its own. */
    readonly workers: ReadonlyArray<ApplicationWorker>
    /**
     * What the application is told from when the stream starts, until it
     * detaches. A subscriber that does not keep up makes the application refuse
     * new connections (`maxPending`); nothing is dropped.
     */
    readonly events: Stream.Stream<AppEvent>
    /** Listens on an endpoint until the scope closes; its workers serve the connections in turn. */
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
    CutThroughTransport.of(layer)
    const app = yield* Effect.acquireRelease(layer.attach(options), (app) => detach(layer, app))
    const workers = app.workers.map((worker) => faceOf(layer, worker, [worker]))
    return Application.of({
      ...faceOf(layer, app.workers[0], app.workers),
      name: app.name,
      workers,
      events: app.events.stream
    })
  })

const faceOf = (
  layer: SessionLayer["Service"],
  client: AppWorker,
  servers: ReadonlyArray<AppWorker>
): ApplicationWorker =>
  makeWorker(
    client.name,
    (endpoint, options) =>
      Effect.uninterruptible(
        Effect.flatMap(
          layer.bind(client.app, endpoint, {
            backlog: options.backlog,
            approval: options.approval,
            isProxy: options.proxy,
            workers: servers
          }),
          (binding) => Listener.fromBinding(layer, binding)
        )
      ),
    (endpoint, scope, resume) => connectFrom(layer, client, endpoint, scope, resume)
  )

/**
 * What listens and connects in the ways given, with the defaults of
 * {@link ListenOptions}, and in spans where somebody looks at them. `connect`
 * answers now or later, and returns what gives up.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeWorker = (
  name: string,
  listen: (
    endpoint: Endpoint.Endpoint,
    options: { readonly backlog: number; readonly approval: Approval; readonly proxy: boolean }
  ) => Effect.Effect<Listener.Listener, SessionError.SessionError, Scope.Scope>,
  connect: (
    endpoint: Endpoint.Endpoint,
    scope: Scope.Scope,
    resume: (connected: Exit.Exit<Connection.Connection, SessionError.SessionError>) => void
  ) => Effect.Effect<void> | void
): ApplicationWorker => ({
  name,
  listen: (endpoint, options) => {
    const { approval = "listener", backlog = 511, proxy = false } = options ?? {}
    const listening = listen(endpoint, { backlog, approval, proxy })
    return Effect.withFiber((fiber) =>
      Trace.isWatched(fiber)
        ? Effect.withSpan(listening, "cut-through.listen", { attributes: attributesOf(endpoint) })
        : listening
    )
  },
  connect: (endpoint) =>
    Trace.callback(
      "cut-through.connect",
      () => attributesOf(endpoint),
      (resume, fiber) =>
        connect(endpoint, Context.getUnsafe(fiber.context as Context.Context<Scope.Scope>, Scope.Scope), resume)
    )
})

const attributesOf = (endpoint: Endpoint.Endpoint) => ({ "cut-through.endpoint": Endpoint.format(endpoint) })

type Connected = Exit.Exit<Connection.Connection, SessionError.SessionError>

/** A fiber that wants the answer to its connect: most come before it waits for them. */
class PendingConnect implements Request, Waiter {
  connected: Connected | undefined = undefined
  /** Keeps the process running while a fiber waits. */
  waiting: Hold | undefined = undefined
  isAbandoned = false
  private readonly layer: SessionLayer["Service"]
  private readonly scope: Scope.Scope
  private readonly resumeWith: (connected: Connected) => void

  constructor(layer: SessionLayer["Service"], scope: Scope.Scope, resume: (connected: Connected) => void) {
    this.layer = layer
    this.scope = scope
    this.resumeWith = resume
  }

  answer(result: Session | SessionError.SessionError): Waiter | undefined {
    // From here on the connection is the scope's: whatever becomes of the fiber, it has an owner.
    this.connected =
      result instanceof SessionError.SessionError
        ? Exit.fail(result)
        : Exit.succeed(Connection.fromSession(this.layer, result, this.scope))
    this.waiting?.unref()
    return this.waiting === undefined ? undefined : this
  }

  resume(): void {
    if (!this.isAbandoned) this.resumeWith(this.connected!)
  }
}

/** Looking for an answer and waiting for it are one step, in one call: in between, nothing can come. */
const connectFrom = (
  layer: SessionLayer["Service"],
  client: AppWorker,
  endpoint: Endpoint.Endpoint,
  scope: Scope.Scope,
  resume: (connected: Connected) => void
): Effect.Effect<void> | void => {
  const request = new PendingConnect(layer, scope, resume)
  const started = Connector.connect(layer, client, endpoint, request)
  if (typeof started !== "number") return resume(Exit.fail(SessionError.make(started)))
  if (request.connected !== undefined) return resume(request.connected)
  request.waiting = new Hold(layer.keepAlive)
  return abandon(layer, started, request)
}

/** Interrupted, maybe with the answer at hand: nobody will ever hold this connection. */
const abandon = (
  layer: SessionLayer["Service"],
  halfOpen: HandleTable.Handle,
  request: PendingConnect
): Effect.Effect<void> =>
  Effect.suspend(() => {
    request.isAbandoned = true
    Connector.cancel(layer, halfOpen)
    const { connected } = request
    return connected !== undefined && Exit.isSuccess(connected) ? connected.value.reset : Effect.void
  })

/**
 * Takes an application out of its session layer, in this order: nobody new
 * comes in, nobody waits for an answer, then nobody is left. With `isGone` its
 * thread has died: its connections go first, and leave what they had written to
 * their peers.
 *
 * @category operations
 * @since 0.1.0
 */
export const detach = (layer: SessionLayer["Service"], app: App, isGone: boolean = false): Effect.Effect<void> =>
  Effect.gen(function* () {
    app.isDetached = true
    const bindings: Array<Binding> = []
    for (const listener of app.listeners) {
      for (const queue of new Set(listener.servers.map(({ queue }) => queue))) bindings.push({ listener, queue })
    }
    if (isGone) {
      for (const worker of app.workers) layer.segments.condemn(worker)
      // Before its peers are told: whoever is finds its endpoints free.
      for (const binding of bindings) yield* layer.unbind(binding)
      for (const worker of app.workers) {
        for (const session of worker.sessions.slice()) session.transport.abandon(session)
      }
    }
    for (const binding of bindings) yield* Listener.close(layer, binding)
    const closed = SessionError.make(new SessionError.Closed({ what: "application" }))
    for (const halfOpen of app.halfOpens > 0 ? [...layer.connections.halfOpens()] : []) {
      if (halfOpen.client.app !== app) continue
      halfOpen.transport.cancel(halfOpen.handle, closed)
    }
    for (const worker of app.workers) {
      for (const session of worker.sessions.slice()) yield* close(session, true)
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
 * {@link layer} with options from the configuration: all that `SessionConfig`
 * has under `CUT_THROUGH`, unless others are given. Fails with a `ConfigError`
 * for a value that is none, and with a `SessionError` for values that do not go
 * together.
 *
 * **Example** (Options from the environment)
 *
 * ```ts
 * import { Application } from "@cut-through/core"
 * import * as SessionLayer from "@cut-through/core/session/SessionLayer"
 * import { ConfigProvider, Effect, Layer } from "effect"
 *
 * const env = { CUT_THROUGH_NAME: "mailer", CUT_THROUGH_RX_FIFO_SIZE: "64 KiB" }
 * const application = Application.layerConfig().pipe(
 *   Layer.provide(SessionLayer.layer()),
 *   Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
 * )
 * const name = Effect.map(Application.Application, ({ name }) => name)
 *
 * await Effect.runPromise(Effect.provide(name, application)) // => "mailer"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<AttachOptions> = Config.nested(SessionConfig.attachOptions, SessionConfig.PREFIX)
): Layer.Layer<Application, SessionError.SessionError | Config.ConfigError, SessionLayer> =>
  Layer.effect(Application, Effect.flatMap(Config.unwrap(options), make))

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
