/**
 * Who talks to whom, and what is left: for people, tests and leak checks.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { FifoInfo } from "./Connection.ts"
import { fifoInfo } from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import * as HandleTable from "./runtime/HandleTable.ts"
import type { Side } from "./segment/SegmentContext.ts"
import type { State } from "./session/Session.ts"
import { type Residue, SessionLayer } from "./session/SessionLayer.ts"
import * as CutThroughTransport from "./transport/CutThroughTransport.ts"

/**
 * One session, or one connect that has no answer yet.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionInfo {
  /** `[worker:session][CT:T] local->remote`. */
  readonly name: string
  /** The application it belongs to, and which of its workers. */
  readonly app: string
  readonly worker: number
  readonly index: number
  readonly side: Side
  readonly state: State | "half-open"
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  readonly rx: FifoInfo
  readonly tx: FifoInfo
}

/**
 * All sessions by worker and index, then all half-opens.
 *
 * **Example** (Both ends of a connection)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Application.connect(listener.address)
 *   const sessions = yield* Sessions.list
 *   return sessions.map((session) => `${session.side} ${session.state}`)
 * })
 *
 * const states = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * states // => ["server ready", "client ready"]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<SessionInfo>, never, SessionLayer> = Effect.map(
  SessionLayer,
  ({ connections }) => {
    const infos: Array<SessionInfo> = []
    for (const session of connections.sessions()) {
      infos.push({
        name: CutThroughTransport.formatConnection(session),
        app: session.app.name,
        worker: session.worker,
        index: HandleTable.indexOf(session.handle),
        side: session.side,
        state: session.state,
        local: session.local,
        remote: session.remote,
        rx: fifoInfo(session.rx),
        tx: fifoInfo(session.tx)
      })
    }
    let index = 0
    for (const { client, local, remote } of connections.halfOpens()) {
      infos.push({
        name: `[0:${index}][CT:T] ${Endpoint.format(local)}->${Endpoint.format(remote)}`,
        app: client.name,
        worker: 0,
        index: index++,
        side: "client",
        state: "half-open",
        local,
        remote,
        rx: fifoInfo(undefined),
        tx: fifoInfo(undefined)
      })
    }
    return infos
  }
)

/** The words of `ss` and `netstat` where there is one for the state. */
const formatState = (state: SessionInfo["state"]): string => (state === "ready" ? "ESTABLISHED" : state.toUpperCase())

/**
 * The sessions as a table: name, state, and how full both FIFOs are, as VPP's
 * `show session` prints them.
 *
 * ```text
 * [1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  ESTABLISHED  rx 0/131072  tx 5/131072
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const format: Effect.Effect<string, never, SessionLayer> = Effect.map(list, (infos) => {
  const rows = infos.map(({ name, rx, state, tx }) => [
    name,
    formatState(state),
    `rx ${rx.used}/${rx.size}`,
    `tx ${tx.used}/${tx.size}`
  ])
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column].length)))
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")).join("\n")
})

/**
 * What is left of everything that was made: at rest, zeros.
 *
 * @category inspection
 * @since 0.1.0
 */
export const residue: Effect.Effect<Residue, never, SessionLayer> = Effect.map(SessionLayer, (layer) => layer.residue())
