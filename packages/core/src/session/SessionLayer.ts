/**
 * The session layer: who is attached, who listens where, and which worker owns
 * which session. It introduces applications to each other and stays out of the
 * way of their bytes.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Endpoint from "../Endpoint.ts"
import * as FifoSegment from "../memory/FifoSegment.ts"
import * as SharedMemory from "../memory/SharedMemory.ts"
import { Feed } from "../runtime/Feed.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import { KeepAlive } from "../runtime/KeepAlive.ts"
import * as Lock from "../runtime/Lock.ts"
import * as Wake from "../runtime/Wake.ts"
import * as Worker from "../runtime/Worker.ts"
import * as SegmentContext from "../segment/SegmentContext.ts"
import * as SegmentManager from "../segment/SegmentManager.ts"
import * as SessionError from "../SessionError.ts"
import { App, type AppScope } from "./App.ts"
import { AcceptQueue, AppListener, type Approval } from "./AppListener.ts"
import type { AppThread } from "./AppThread.ts"
import type { AppWorker } from "./AppWorker.ts"
import * as Connections from "./Connections.ts"
import * as Namespace from "./Namespace.ts"
import type { Change } from "./Session.ts"
import * as SessionConfig from "./SessionConfig.ts"
import { EphemeralPorts, type SessionTable } from "./SessionTable.ts"
import { type Transport, Transports } from "./Transport.ts"

/**
 * How an application attaches.
 *
 * @category models
 * @since 0.1.0
 */
export interface AttachOptions {
  /** What listings call the application. */
  readonly name: string
  /** The namespace it lives in. Default: one that all share who name none. */
  readonly namespace?: string | undefined
  /** The secret of that namespace, if it has one. */
  readonly namespaceSecret?: string | Redacted.Redacted | undefined
  /**
   * Where it listens and looks for listeners: in its namespace (`"local"`), among
   * those of all namespaces and on the network (`"global"`), or first in the one
   * and then in the other (`"both"`, the default).
   */
  readonly scope?: AppScope | undefined
  /** Workers that serve its listeners in turn. Default 1. */
  readonly workers?: number | undefined
  /** Most bytes on their way to a server of this application, in one connection. Default 512 KiB. */
  readonly rxFifoSize?: ByteSize.Input | undefined
  /** Most bytes on their way from a server of this application, in one connection. Default 512 KiB. */
  readonly txFifoSize?: ByteSize.Input | undefined
  /** Bytes of FIFOs in one shared segment. Default 128 MiB. */
  readonly segmentSize?: ByteSize.Input | undefined
  /** How long a segment is kept when its last connection has gone. Default: not at all. */
  readonly segmentLinger?: Duration.Input | undefined
  /** Most bytes that the FIFOs of the connections it serves may come to use. Default: no limit. */
  readonly maxFifoMemory?: ByteSize.Input | undefined
  /** Most sessions at once, connects under way included. Default: no limit. */
  readonly maxSessions?: number | undefined
  /** Most connects under way at once. Default: no limit. */
  readonly maxHalfOpens?: number | undefined
  /**
   * Most connections it has not accepted and events it has not read, together:
   * past it, new connections are refused. Default 65,536.
   */
  readonly maxPending?: number | undefined
}

/**
 * How a listener is bound.
 *
 * @category models
 * @since 0.1.0
 */
export interface BindOptions {
  /** Most connections that wait to be accepted. */
  readonly backlog: number
  readonly approval: Approval
  /** Whether it takes every connect of its family that no other listener takes. */
  readonly isProxy: boolean
  /** The application's workers that serve it. */
  readonly workers: ReadonlyArray<AppWorker>
}

/**
 * A listener, and where its connections wait for those who asked for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Binding {
  readonly listener: AppListener
  readonly queue: AcceptQueue
}

/**
 * What has happened since the session layer was made.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counters {
  /** Connects that were started. */
  connects: number
  /** Connects that were answered with a session. */
  connected: number
  /** Connects that were answered with an error, by its tag. */
  readonly failed: Map<string, number>
  /** Sessions that were closed gracefully. */
  closed: number
  /** Sessions that were broken off. */
  reset: number
}

/**
 * What is left of all that was made. At rest: zeros.
 *
 * @category models
 * @since 0.1.0
 */
export interface Residue {
  readonly sessions: number
  readonly halfOpens: number
  readonly leases: number
  readonly contexts: number
  readonly segments: number
  readonly fifoBytes: number
  readonly regions: number
  readonly pendingCalls: number
}

/**
 * The service that knows all applications, listeners and sessions.
 *
 * @category services
 * @since 0.1.0
 */
export class SessionLayer extends Context.Service<
  SessionLayer,
  {
    /** Attaches an application, of another thread if one is given. It is detached by its caller, with `detach`. */
    readonly attach: (options: AttachOptions, thread?: AppThread) => Effect.Effect<App, SessionError.SessionError>
    /** Takes an application out of the listings, once everything of it is closed. */
    readonly detach: (app: App) => void
    /** The attached applications. */
    readonly apps: () => Iterable<App>
    /**
     * Listens on an endpoint. Port 0 picks a free one. Where another worker of
     * the application listens already, the new ones join it.
     */
    readonly bind: (
      app: App,
      endpoint: Endpoint.Endpoint,
      options: BindOptions
    ) => Effect.Effect<Binding, SessionError.SessionError>
    /**
     * Stops listening for one queue. Connections that wait in it stay: the
     * caller closes them.
     */
    readonly unbind: (binding: Binding) => Effect.Effect<void>
    /** The listener under a handle, if it still listens. */
    readonly getListener: (handle: HandleTable.Handle) => AppListener | undefined
    readonly listeners: () => Iterable<AppListener>
    /** Adds a namespace; fails with `InvalidArgument` when there is one of this name. */
    readonly addNamespace: (
      id: string,
      secret: string | Redacted.Redacted | undefined
    ) => Effect.Effect<Namespace.Namespace, SessionError.SessionError>
    /** Takes a namespace out: those who are attached stay, nobody new comes. */
    readonly removeNamespace: (namespace: Namespace.Namespace) => void
    readonly getNamespace: (id: string) => Namespace.Namespace | undefined
    readonly namespaces: () => Iterable<Namespace.Namespace>
    /** What applications of global scope share, whatever their namespaces. */
    readonly global: Namespace.Reach
    readonly transports: Transports
    readonly ports: EphemeralPorts
    /** The worker for the next connection, in turn. */
    readonly selectWorker: () => Worker.Worker
    /** A worker by its number. */
    readonly worker: (index: number) => Worker.Worker
    readonly workers: ReadonlyArray<Worker.Worker>
    readonly connections: Connections.Connections["Service"]
    readonly segments: SegmentContext.SegmentContext["Service"]
    readonly wake: Wake.Wake["Service"]
    readonly keepAlive: KeepAlive
    /** Sessions that go from one state to another, while somebody subscribes. */
    readonly changes: Feed<Change>
    readonly counters: Counters
    /** What is left of all that was made. */
    readonly residue: () => Residue
  }
>()("@cut-through/core/session/SessionLayer") {}

const DEFAULT_FIFO_BYTES = 512 * 1024
const DEFAULT_SEGMENT_BYTES = 128 * 1024 * 1024
const DEFAULT_PENDING = 65_536

/** Ports that are tried where any will do. */
const PORT_TRIES = 16

/** Asked again where time has passed, which the compiler does not know. */
const isDetached = (app: App): boolean => app.isDetached

const invalid = (what: string, value: unknown, expected: string) =>
  Effect.fail(SessionError.make(new SessionError.InvalidArgument({ what, value: String(value), expected })))

const sizeOption = (
  what: string,
  input: ByteSize.Input | undefined,
  byDefault: number
): Effect.Effect<number, SessionError.SessionError> =>
  input === undefined
    ? Effect.succeed(byDefault)
    : Effect.catch(
        Effect.try(() => Number(ByteSize.fromInputUnsafe(input))),
        () => invalid(what, input, 'a size in bytes, or a text such as "64 KiB"')
      )

const countOption = (what: string, value: number, least: number) =>
  Number.isInteger(value) && value >= least
    ? Effect.succeed(value)
    : invalid(what, value, `an integer, at least ${least}`)

const limitOption = (what: string, value: number | undefined) =>
  value === undefined ? Effect.succeed(Infinity) : countOption(what, value, 1)

const lingerOption = (input: Duration.Input | undefined) =>
  Effect.flatMap(
    Effect.catch(
      Effect.try(() => Duration.fromInputUnsafe(input ?? Duration.zero)),
      () => invalid("segmentLinger", input, 'a duration, such as "10 seconds"')
    ),
    (duration) =>
      Duration.isFinite(duration) && Duration.toMillis(duration) >= 0
        ? Effect.succeed(duration)
        : invalid("segmentLinger", Duration.format(duration), "a finite duration, at least zero")
  )

/**
 * A session layer with `workers` workers (default 1) beside the one that owns
 * listeners and half-opens.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: { readonly workers?: number | undefined } = {}
): Effect.Effect<
  SessionLayer["Service"],
  SessionError.SessionError,
  | Connections.Connections
  | SegmentContext.SegmentContext
  | SharedMemory.SharedMemory
  | Wake.Wake
  | Lock.Lock
  | Scope.Scope
> =>
  Effect.gen(function* () {
    const connections = yield* Connections.Connections
    const segments = yield* SegmentContext.SegmentContext
    const memory = yield* SharedMemory.SharedMemory
    const wake = yield* Wake.Wake
    const keepAlive = yield* KeepAlive
    const locks = yield* Lock.Lock
    const count = yield* countOption("workers", options.workers ?? 1, 0)
    const workers: Array<Worker.Worker> = []
    for (let index = 0; index <= count; index++) workers.push(yield* Worker.make(index, { onTurn: wake.renew }))
    const apps = new HandleTable.HandleTable<App>()
    const listeners = new HandleTable.HandleTable<AppListener>()
    // Transports start and stop in their own time: no two listeners may take one endpoint meanwhile.
    const binding = locks.makeSpin("listeners")
    const namespaces = new Map([[Namespace.DEFAULT, Namespace.make(Namespace.DEFAULT, undefined)]])
    const global = Namespace.makeReach()
    const transports = new Transports()
    const ports = new EphemeralPorts()
    let nextWorker = 0

    const attach = Effect.fnUntraced(function* (options: AttachOptions, thread?: AppThread) {
      const id = options.namespace ?? Namespace.DEFAULT
      const namespace = namespaces.get(id)
      if (namespace === undefined) {
        return yield* SessionError.make(new SessionError.UnknownNamespace({ namespace: id }))
      }
      if (!Namespace.isSecret(namespace, options.namespaceSecret)) {
        return yield* SessionError.make(new SessionError.WrongNamespaceSecret({ namespace: id }))
      }
      const scope = options.scope ?? "both"
      if (!["local", "global", "both"].includes(scope)) {
        return yield* invalid("scope", scope, '"local", "global" or "both"')
      }
      const workers = yield* countOption("workers", options.workers ?? 1, 1)
      const properties: SegmentManager.Properties = {
        segmentSize: yield* sizeOption("segmentSize", options.segmentSize, DEFAULT_SEGMENT_BYTES),
        rxFifoSize: yield* sizeOption("rxFifoSize", options.rxFifoSize, DEFAULT_FIFO_BYTES),
        txFifoSize: yield* sizeOption("txFifoSize", options.txFifoSize, DEFAULT_FIFO_BYTES),
        linger: yield* lingerOption(options.segmentLinger)
      }
      // Sizes that cannot work are refused here, not at the first connect.
      yield* SegmentManager.make(options.name, properties)
      const maxFifoMemory = yield* sizeOption("maxFifoMemory", options.maxFifoMemory, Infinity)
      const pairBytes = FifoSegment.pairBytes(properties.rxFifoSize, properties.txFifoSize)
      if (maxFifoMemory < pairBytes) {
        return yield* invalid("maxFifoMemory", maxFifoMemory, `at least ${pairBytes} bytes, for one pair of FIFOs`)
      }
      const app = new App({
        name: options.name,
        namespace,
        scope,
        properties,
        quotas: {
          maxFifoMemory,
          maxSessions: yield* limitOption("maxSessions", options.maxSessions),
          maxHalfOpens: yield* limitOption("maxHalfOpens", options.maxHalfOpens),
          maxPending: yield* countOption("maxPending", options.maxPending ?? DEFAULT_PENDING, 1)
        },
        workers,
        thread,
        notifying: locks.notifying
      })
      app.handle = apps.add(app)
      return app
    })

    /** The tables in which an application's listener on this endpoint is found. */
    const tablesOf = (app: App, endpoint: Endpoint.Endpoint, isProxy: boolean): ReadonlyArray<SessionTable> => {
      const isLocal = isProxy || Endpoint.isLoopback(endpoint) || Endpoint.isUnspecified(endpoint)
      const tables: Array<SessionTable> = []
      if (app.scope !== "global" && isLocal) tables.push(app.namespace.table)
      // Nobody looks for a loopback address in the global table: a listener that has another place needs none there.
      if (app.scope !== "local" && !(tables.length > 0 && Endpoint.isLoopback(endpoint))) tables.push(global.table)
      return tables
    }

    const bindNow = Effect.fnUntraced(function* (app: App, requested: Endpoint.Endpoint, options: BindOptions) {
      const backlog = yield* countOption("backlog", options.backlog, 1)
      if (app.isDetached) return yield* SessionError.make(new SessionError.Closed({ what: "application" }))
      const { approval, isProxy } = options
      if (isProxy && !(Endpoint.isUnspecified(requested) && requested.port === 0)) {
        return yield* invalid("the endpoint of a proxy", Endpoint.format(requested), "0.0.0.0:0, or [::]:0 for IPv6")
      }
      const tables = tablesOf(app, requested, isProxy)
      if (tables.length === 0) {
        const endpoint = Endpoint.format(requested)
        return yield* SessionError.make(new SessionError.Scope({ endpoint, scope: app.scope }))
      }
      const endpoint =
        requested.port === 0 && !isProxy ? Endpoint.withPort(requested, ports.takeFree(tables)) : requested
      const taken = SessionError.make(new SessionError.AlreadyListening({ endpoint: Endpoint.format(requested) }))
      if (endpoint.port === 0 && !isProxy) return yield* taken
      const queue = new AcceptQueue(app, backlog)
      const name = `${app.name} ${isProxy ? "proxy" : Endpoint.format(endpoint)}`
      const servers = yield* Effect.forEach(options.workers, (worker) =>
        Effect.map(SegmentManager.make(name, app.properties, app), (manager) => ({ worker, manager, queue }))
      )
      const found = tables.map((table) => table.find(endpoint, isProxy)).filter((other) => other !== undefined)
      if (found.length > 0) {
        const [listener] = found
        const joins =
          listener.app === app &&
          listener.approval === approval &&
          !listener.servers.some(({ worker }) => options.workers.includes(worker))
        if (!joins) return yield* taken
        for (const server of servers) listener.addServer(server)
        return { listener, queue }
      }
      const listener = new AppListener(app, endpoint, { approval, isProxy })
      for (const server of servers) listener.addServer(server)
      yield* startTransports(listener)
      if (isDetached(app)) {
        yield* stopTransports(listener)
        return yield* SessionError.make(new SessionError.Closed({ what: "application" }))
      }
      for (const table of tables) table.add(listener)
      listener.handle = listeners.add(listener)
      app.listeners.add(listener)
      return { listener, queue }
    })

    /** A port that is free here may be taken elsewhere: where any will do, another one is tried. */
    const bindAny = (
      app: App,
      requested: Endpoint.Endpoint,
      options: BindOptions,
      tries: number
    ): Effect.Effect<Binding, SessionError.SessionError> =>
      requested.port !== 0 || tries === 1
        ? bindNow(app, requested, options)
        : Effect.catchIf(
            bindNow(app, requested, options),
            ({ reason }) => reason._tag === "AlreadyListening",
            () => bindAny(app, requested, options, tries - 1)
          )

    // Which transports listen for it: they may come and go meanwhile.
    const started = new WeakMap<AppListener, Array<Transport>>()

    /** All of them, or none. */
    const startTransports = (listener: AppListener): Effect.Effect<void, SessionError.SessionError> =>
      Effect.suspend(() => {
        const mine: Array<Transport> = []
        started.set(listener, mine)
        return Effect.forEach(
          [...transports],
          (transport) => Effect.tap(transport.startListen(listener), () => Effect.sync(() => mine.push(transport))),
          { discard: true }
        ).pipe(Effect.onError(() => stopTransports(listener)))
      })

    const stopTransports = (listener: AppListener): Effect.Effect<void> =>
      Effect.forEach(started.get(listener) ?? [], (transport) => transport.stopListen(listener), { discard: true })

    const unbind = ({ listener, queue }: Binding): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (queue.isClosed) return Effect.void
        queue.isClosed = true
        const leave = Effect.suspend(() => {
          const removed = listener.removeServers(queue)
          if (listener.servers.length > 0) return Effect.succeed(removed)
          listener.isClosed = true
          listeners.remove(listener.handle)
          listener.app.namespace.table.remove(listener)
          global.table.remove(listener)
          listener.app.listeners.delete(listener)
          return Effect.as(stopTransports(listener), removed)
        })
        // Behind the lock, because applications are told of segments that linger no more.
        return Effect.uninterruptible(
          Effect.map(binding.withLock(leave), (removed) => {
            for (const { manager } of removed) segments.closeManager(manager)
          })
        )
      })

    return SessionLayer.of({
      attach,
      detach(app) {
        app.isDetached = true
        for (const worker of app.workers) segments.removeUser(worker)
        app.events.end()
        apps.remove(app.handle)
      },
      apps: () => apps,
      bind: (app, endpoint, options) => binding.withLock(bindAny(app, endpoint, options, PORT_TRIES)),
      unbind,
      getListener: (handle) => listeners.get(handle),
      listeners: () => listeners,
      addNamespace: (id, secret) =>
        Effect.suspend(() => {
          if (namespaces.has(id))
            return invalid("the namespace", JSON.stringify(id), "a name that no namespace has yet")
          const namespace = Namespace.make(id, secret)
          namespaces.set(id, namespace)
          return Effect.succeed(namespace)
        }),
      removeNamespace(namespace) {
        if (namespaces.get(namespace.id) === namespace) namespaces.delete(namespace.id)
      },
      getNamespace: (id) => namespaces.get(id),
      namespaces: () => namespaces.values(),
      global,
      transports,
      ports,
      selectWorker() {
        if (count === 0) return workers[0]
        nextWorker = (nextWorker % count) + 1
        return workers[nextWorker]
      },
      worker: (index) => workers[index],
      workers,
      connections,
      segments,
      wake,
      keepAlive,
      changes: new Feed(),
      counters: { connects: 0, connected: 0, failed: new Map(), closed: 0, reset: 0 },
      residue() {
        const { contexts, fifoBytes, leases, segments: shared } = segments.stats()
        let pendingCalls = 0
        for (const worker of workers) pendingCalls += worker.pending()
        return {
          ...connections.counts(),
          leases,
          contexts,
          segments: shared.length,
          fifoBytes,
          regions: memory.stats().regions,
          pendingCalls
        }
      }
    })
  })

/**
 * A session layer over the services in place: for those who bring their own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoDeps = (options?: {
  readonly workers?: number | undefined
}): Layer.Layer<
  SessionLayer,
  SessionError.SessionError,
  Connections.Connections | SegmentContext.SegmentContext | SharedMemory.SharedMemory | Wake.Wake | Lock.Lock
> => Layer.effect(SessionLayer, make(options))

/**
 * A session layer with all it needs: tables, segments, locks, shared memory and
 * direct wake-ups. Each one has its own: two session layers of one program know
 * nothing of each other.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: {
  readonly workers?: number | undefined
}): Layer.Layer<SessionLayer, SessionError.SessionError> => Layer.provide(layerNoDeps(options), layerDeps)

/**
 * {@link layer} with options from the configuration: `CUT_THROUGH_WORKERS`,
 * unless others are given.
 *
 * **Example** (Options from the environment)
 *
 * ```ts
 * import * as SessionLayer from "@cut-through/core/session/SessionLayer"
 * import { ConfigProvider, Effect, Layer } from "effect"
 *
 * const env = ConfigProvider.layer(ConfigProvider.fromEnv({ env: { CUT_THROUGH_WORKERS: "3" } }))
 * const workers = Effect.map(SessionLayer.SessionLayer, ({ workers }) => workers.length - 1)
 *
 * await Effect.runPromise(Effect.provide(workers, Layer.provide(SessionLayer.layerConfig(), env))) // => 3
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<{ readonly workers?: number | undefined }> = Config.nested(
    SessionConfig.layerOptions,
    SessionConfig.PREFIX
  )
): Layer.Layer<SessionLayer, SessionError.SessionError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), layer))

// Fresh, because a layer is built once in a program, however often it is provided: tables must not be shared.
const layerDeps = Layer.fresh(
  Layer.mergeAll(Connections.layer, SegmentContext.layer, Wake.layer).pipe(
    Layer.provideMerge(Layer.mergeAll(SharedMemory.layer, Lock.layer))
  )
)
