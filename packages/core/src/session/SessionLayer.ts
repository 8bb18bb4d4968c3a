/**
 * The session layer: who is attached, who listens where, and which worker owns
 * which session. It introduces applications to each other and stays out of the
 * way of their bytes.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Endpoint from "../Endpoint.ts"
import * as SharedMemory from "../memory/SharedMemory.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import * as Lock from "../runtime/Lock.ts"
import * as Wake from "../runtime/Wake.ts"
import * as Worker from "../runtime/Worker.ts"
import * as SegmentContext from "../segment/SegmentContext.ts"
import * as SegmentManager from "../segment/SegmentManager.ts"
import * as SessionError from "../SessionError.ts"
import { AppListener } from "./AppListener.ts"
import { AppWorker } from "./AppWorker.ts"
import * as Connections from "./Connections.ts"
import { SessionTable } from "./SessionTable.ts"

/**
 * How an application attaches.
 *
 * @category models
 * @since 0.1.0
 */
export interface AttachOptions {
  /** What listings call the application. */
  readonly name: string
  /** Workers that serve its listeners in turn. Default 1. */
  readonly workers?: number | undefined
  /** Most bytes on their way to a server of this application, in one connection. Default 128 KiB. */
  readonly rxFifoSize?: ByteSize.Input | undefined
  /** Most bytes on their way from a server of this application, in one connection. Default 128 KiB. */
  readonly txFifoSize?: ByteSize.Input | undefined
  /** Bytes of FIFOs in one shared segment. Default 128 MiB. */
  readonly segmentSize?: ByteSize.Input | undefined
}

/**
 * An attached application.
 *
 * @category models
 * @since 0.1.0
 */
export interface App {
  handle: HandleTable.Handle
  readonly name: string
  readonly properties: SegmentManager.Properties
  readonly workers: ReadonlyArray<AppWorker>
  readonly listeners: Set<AppListener>
  isDetached: boolean
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
    /** Attaches an application. It is detached by its caller, with `detach`. */
    readonly attach: (options: AttachOptions) => Effect.Effect<App, SessionError.SessionError>
    /** Takes an application out of the listings, once everything of it is closed. */
    readonly detach: (app: App) => void
    /** Listens on an endpoint. Port 0 picks a free one. */
    readonly bind: (
      app: App,
      endpoint: Endpoint.Endpoint,
      options: { readonly backlog: number }
    ) => Effect.Effect<AppListener, SessionError.SessionError>
    /** Stops listening. Connections that wait to be accepted stay in the backlog: the caller closes them. */
    readonly unbind: (app: App, listener: AppListener) => void
    /** The listener under a handle, if it still listens. */
    readonly getListener: (handle: HandleTable.Handle) => AppListener | undefined
    /** Who is listening where. */
    readonly table: SessionTable
    /** The attached applications. */
    readonly apps: () => Iterable<App>
    /** The worker for the next connection, in turn. */
    readonly selectWorker: () => Worker.Worker
    /** A worker by its number. */
    readonly worker: (index: number) => Worker.Worker
    readonly connections: Connections.Connections["Service"]
    readonly segments: SegmentContext.SegmentContext["Service"]
    readonly wake: Wake.Wake["Service"]
    /** What is left of all that was made. */
    readonly residue: () => Residue
  }
>()("@cut-through/core/session/SessionLayer") {}

const DEFAULT_FIFO_BYTES = 128 * 1024
const DEFAULT_SEGMENT_BYTES = 128 * 1024 * 1024

const sizeOption = (
  what: string,
  input: ByteSize.Input | undefined,
  byDefault: number
): Effect.Effect<number, SessionError.SessionError> =>
  input === undefined
    ? Effect.succeed(byDefault)
    : Effect.try({
        try: () => Number(ByteSize.fromInputUnsafe(input)),
        catch: () =>
          SessionError.make(
            new SessionError.InvalidArgument({
              what,
              value: String(input),
              expected: 'a size in bytes, or a text such as "64 KiB"'
            })
          )
      })

const countOption = (what: string, value: number, least: number) =>
  Number.isInteger(value) && value >= least
    ? Effect.succeed(value)
    : Effect.fail(
        SessionError.make(
          new SessionError.InvalidArgument({ what, value: String(value), expected: `an integer, at least ${least}` })
        )
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
  Connections.Connections | SegmentContext.SegmentContext | SharedMemory.SharedMemory | Wake.Wake | Scope.Scope
> =>
  Effect.gen(function* () {
    const connections = yield* Connections.Connections
    const segments = yield* SegmentContext.SegmentContext
    const memory = yield* SharedMemory.SharedMemory
    const wake = yield* Wake.Wake
    const count = yield* countOption("workers", options.workers ?? 1, 0)
    const workers: Array<Worker.Worker> = []
    for (let index = 0; index <= count; index++) workers.push(yield* Worker.make(index, { onTurn: wake.renew }))
    const apps = new HandleTable.HandleTable<App>()
    const listeners = new HandleTable.HandleTable<AppListener>()
    const table = new SessionTable()
    let nextWorker = 0

    const attach = Effect.fnUntraced(function* (options: AttachOptions) {
      const workerCount = yield* countOption("workers", options.workers ?? 1, 1)
      const properties: SegmentManager.Properties = {
        segmentSize: yield* sizeOption("segmentSize", options.segmentSize, DEFAULT_SEGMENT_BYTES),
        rxFifoSize: yield* sizeOption("rxFifoSize", options.rxFifoSize, DEFAULT_FIFO_BYTES),
        txFifoSize: yield* sizeOption("txFifoSize", options.txFifoSize, DEFAULT_FIFO_BYTES)
      }
      // Sizes that cannot work are refused here, not at the first connect.
      yield* SegmentManager.make(options.name, properties)
      const appWorkers: Array<AppWorker> = []
      for (let index = 0; index < workerCount; index++) appWorkers.push(new AppWorker(`${options.name}/${index}`))
      const app: App = {
        handle: HandleTable.NONE,
        name: options.name,
        properties,
        workers: appWorkers,
        listeners: new Set(),
        isDetached: false
      }
      app.handle = apps.add(app)
      return app
    })

    const bind = Effect.fnUntraced(function* (
      app: App,
      requested: Endpoint.Endpoint,
      options: { readonly backlog: number }
    ) {
      const backlog = yield* countOption("backlog", options.backlog, 1)
      if (app.isDetached) return yield* SessionError.make(new SessionError.Closed({ what: "application" }))
      const endpoint = requested.port === 0 ? Endpoint.withPort(requested, table.freePort()) : requested
      const name = `${app.name} ${Endpoint.format(endpoint)}`
      const managers: Array<readonly [AppWorker, SegmentManager.SegmentManager]> = []
      for (const worker of app.workers) managers.push([worker, yield* SegmentManager.make(name, app.properties)])
      const listener = new AppListener(endpoint, backlog, managers)
      if (endpoint.port === 0 || !table.add(listener)) {
        return yield* SessionError.make(new SessionError.AlreadyListening({ endpoint: Endpoint.format(requested) }))
      }
      listener.handle = listeners.add(listener)
      app.listeners.add(listener)
      return listener
    })

    return SessionLayer.of({
      attach,
      detach(app) {
        app.isDetached = true
        apps.remove(app.handle)
      },
      bind,
      unbind(app, listener) {
        listener.isClosed = true
        listeners.remove(listener.handle)
        table.remove(listener)
        app.listeners.delete(listener)
      },
      getListener: (handle) => listeners.get(handle),
      table,
      apps: () => apps,
      selectWorker() {
        if (count === 0) return workers[0]
        nextWorker = (nextWorker % count) + 1
        return workers[nextWorker]
      },
      worker: (index) => workers[index],
      connections,
      segments,
      wake,
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
  Connections.Connections | SegmentContext.SegmentContext | SharedMemory.SharedMemory | Wake.Wake
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

// Fresh, because a layer is built once in a program, however often it is provided: tables must not be shared.
const layerDeps = Layer.fresh(
  Layer.mergeAll(Connections.layer, SegmentContext.layer, Wake.layer).pipe(
    Layer.provideMerge(Layer.mergeAll(SharedMemory.layer, Lock.layer))
  )
)
