/**
 * Who is attached, what they hold, and what they may hold: for people and
 * tests.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Table from "./internal/Table.ts"
import * as HandleTable from "./runtime/HandleTable.ts"
import type { App, AppScope, Quotas } from "./session/App.ts"
import { SessionLayer } from "./session/SessionLayer.ts"

/**
 * An attached application, as it was when it was looked at.
 *
 * @category models
 * @since 0.1.0
 */
export interface ApplicationInfo {
  readonly name: string
  readonly index: number
  readonly namespace: string
  readonly scope: AppScope
  /** The thread it lives in; `undefined` is the session layer's own. */
  readonly thread: string | undefined
  readonly workers: number
  readonly listeners: number
  readonly sessions: number
  /** Connects that have no answer yet. */
  readonly halfOpens: number
  /** Bytes that the FIFOs of the connections it serves may come to use. */
  readonly fifoMemory: number
  /** Connections that have arrived and that it has not accepted. */
  readonly unaccepted: number
  /** Events that the slowest reader of its `events` has not read. */
  readonly unread: number
  /** The most that it may hold of these; `Infinity` is no limit. */
  readonly quotas: Quotas
  readonly rxFifoSize: number
  readonly txFifoSize: number
  readonly segmentSize: number
  readonly segmentLinger: Duration.Duration
}

const infoOf = (app: App): ApplicationInfo => ({
  name: app.name,
  index: HandleTable.indexOf(app.handle),
  namespace: app.namespace.id,
  scope: app.scope,
  thread: app.thread?.name,
  workers: app.workers.length,
  listeners: app.listeners.size,
  sessions: app.sessions,
  halfOpens: app.halfOpens,
  fifoMemory: app.fifoMemory,
  unaccepted: app.unaccepted,
  unread: app.events.unread,
  quotas: app.quotas,
  rxFifoSize: app.properties.rxFifoSize,
  txFifoSize: app.properties.txFifoSize,
  segmentSize: app.properties.segmentSize,
  segmentLinger: app.properties.linger ?? Duration.zero
})

/**
 * The attached applications.
 *
 * **Example** (What a server holds)
 *
 * ```ts
 * import { Application, Applications, Endpoint } from "@cut-through/core"
 * import * as SessionLayer from "@cut-through/core/session/SessionLayer"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* Application.make({ name: "server", maxSessions: 100 })
 *   const client = yield* Application.make({ name: "client" })
 *   const listener = yield* server.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* client.connect(listener.address)
 *   const apps = yield* Applications.list
 *   return apps.map((app) => [app.name, app.sessions, app.quotas.maxSessions, app.unaccepted])
 * })
 *
 * const apps = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(SessionLayer.layer())))
 * apps // => [["server", 1, 100, 1], ["client", 1, Infinity, 0]]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<ApplicationInfo>, never, SessionLayer> = Effect.map(
  SessionLayer,
  ({ apps }) => Array.from(apps(), infoOf)
)

const formatBytes = (bytes: number): string => ByteSize.format(ByteSize.bytes(bytes))

const within = (count: number, limit: number, format: (count: number) => string = String): string =>
  limit === Infinity ? format(count) : `${format(count)}/${format(limit)}`

/**
 * The applications as a table, as VPP's `show app` has them: what they hold,
 * with the quota behind it where there is one. `Pending` are connections not
 * accepted and events not read.
 *
 * ```text
 * Index  Name    Namespace  Scope  Workers  Listeners  Sessions  Half-opens  Pending  Fifo-memory  Rx-fifo  Tx-fifo  Segment
 * 0      server  default    both   1        1          1/100     0           1/65536  1 MiB        512 KiB  512 KiB  128 MiB
 * 1      client  default    both   1        0          1         0           0/65536  0 B          512 KiB  512 KiB  128 MiB
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format: Effect.Effect<string, never, SessionLayer> = Effect.map(list, (apps) =>
  Table.format(
    [
      "Index",
      "Name",
      "Namespace",
      "Scope",
      "Workers",
      "Listeners",
      "Sessions",
      "Half-opens",
      "Pending",
      "Fifo-memory",
      "Rx-fifo",
      "Tx-fifo",
      "Segment"
    ],
    apps.map(({ quotas, ...app }) => [
      String(app.index),
      app.name,
      app.namespace,
      app.scope,
      String(app.workers),
      String(app.listeners),
      within(app.sessions, quotas.maxSessions),
      within(app.halfOpens, quotas.maxHalfOpens),
      within(app.unaccepted + app.unread, quotas.maxPending),
      within(app.fifoMemory, quotas.maxFifoMemory, formatBytes),
      formatBytes(app.rxFifoSize),
      formatBytes(app.txFifoSize),
      formatBytes(app.segmentSize)
    ]),
    "no applications"
  )
)
