/**
 * What a thread of the benchmark does, by the role that it is started with.
 */
import { Application, Endpoint } from "@cut-through/core"
import { CutThroughWorker } from "@cut-through/platform"
import { Effect, type Scope } from "effect"
import { type MessagePort, workerData } from "node:worker_threads"
import {
  type End,
  overConnection,
  overDuplex,
  overEffects,
  overPort,
  overRing,
  type Ring,
  type RoundTrips
} from "./ends.ts"
import * as Lateness from "./lateness.ts"
import { type Moment, moment } from "./model.ts"
import type { Bulk } from "./payload.ts"
import { connectNet, HOST, listenNet, portOf, settle } from "./streams.ts"
import { converse } from "./thread.ts"
import * as net from "node:net"

export type Start =
  | StreamServer
  | StreamClient
  | Exchanger
  | FanInServer
  | FanInClient
  | RpcServer
  | RpcWorker
  | HttpServer

interface StreamEnd {
  readonly ways: ReadonlyArray<string>
  readonly ring: Ring
  readonly port: MessagePort
  /** Of the Unix socket. */
  readonly path: string
}

/** Listens, reads and echoes. */
export interface StreamServer extends StreamEnd {
  readonly role: "stream-server"
}

/** Connects, writes and asks. */
export interface StreamClient extends StreamEnd {
  readonly role: "stream-client"
  readonly ports: { readonly ours: number; readonly tcp: number }
}

/** Sends back the one byte of each connection. */
export interface Exchanger {
  readonly role: "exchanger"
  readonly path: string
}

export interface FanInServer {
  readonly role: "fan-in-server"
}

export interface FanInClient {
  readonly role: "fan-in-client"
  readonly connections: number
  readonly ports: { readonly ours: number; readonly tcp: number }
}

export interface RpcServer {
  readonly role: "rpc-server"
  readonly path: string
}

/** Serves calls over the thread's own port. */
export interface RpcWorker {
  readonly role: "rpc-worker"
}

export interface HttpServer {
  readonly role: "http-server"
}

export type Order =
  | { readonly what: "bulk"; readonly way: string; readonly bulk: Bulk; readonly watches: boolean }
  | { readonly what: "round trips"; readonly way: string; readonly order: RoundTrips }

/** How one end has done what it was ordered. */
export interface Report {
  readonly began: Moment
  readonly ended: Moment
  readonly micros: Float64Array
  readonly late: Float64Array
}

type Role<S extends Start["role"]> = (
  start: Extract<Start, { readonly role: S }>
) => Effect.Effect<unknown, unknown, Application.Application | Scope.Scope>

const NONE = new Float64Array(0)

/** Does its part of streams, at one end of each way. */
const obey =
  (ends: { readonly [way: string]: End }, isServer: boolean) =>
  async (order: Order): Promise<Report> => {
    const end = ends[order.way]
    if (!isServer) await settle()
    const stop = order.what === "bulk" && order.watches ? Lateness.watch() : () => NONE
    const began = moment()
    let micros: Float64Array = NONE
    if (order.what === "bulk") await (isServer ? end.receive(order.bulk) : end.send(order.bulk))
    else if (isServer) await end.echo(order.order)
    else micros = await end.ask(order.order)
    const ended = moment()
    return { began, ended, micros, late: stop() }
  }

const streamServer: Role<"stream-server"> = ({ path, port, ring, ways }) =>
  Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp(HOST, 0))
    const tcp = Promise.withResolvers<net.Socket>()
    const unix = Promise.withResolvers<net.Socket>()
    const server = yield* listenNet({ host: HOST, port: 0 }, tcp.resolve)
    yield* listenNet({ path }, unix.resolve)
    const ends: { [way: string]: End } = { ceiling: overRing(ring), messageport: overPort(port) }
    // Said first: the client has to know where to connect.
    converse({ ours: listener.address.port, tcp: portOf(server) }, obey(ends, true))
    ends.ours = overConnection(yield* listener.accept)
    ends.effects = overEffects(yield* listener.accept)
    if (ways.includes("tcp")) ends.tcp = overDuplex(yield* Effect.promise(() => tcp.promise))
    if (ways.includes("unix")) ends.unix = overDuplex(yield* Effect.promise(() => unix.promise))
    return yield* Effect.never
  })

const streamClient: Role<"stream-client"> = ({ path, port, ports, ring, ways }) =>
  Effect.gen(function* () {
    const ends: { [way: string]: End } = { ceiling: overRing(ring), messageport: overPort(port) }
    ends.ours = overConnection(yield* Application.connect(Endpoint.tcp(HOST, ports.ours)))
    ends.effects = overEffects(yield* Application.connect(Endpoint.tcp(HOST, ports.ours)))
    if (ways.includes("tcp")) ends.tcp = overDuplex(yield* connectNet({ host: HOST, port: ports.tcp }))
    if (ways.includes("unix")) ends.unix = overDuplex(yield* connectNet({ path }))
    // The server has the other ends, too, by the time that orders arrive: it was woken by these connects.
    yield* Effect.promise(settle)
    converse(undefined, obey(ends, false))
    return yield* Effect.never
  })

const roles: { readonly [R in Start["role"]]: () => Promise<Role<R>> } = {
  "stream-server": async () => streamServer,
  "stream-client": async () => streamClient,
  exchanger: async () => (await import("./connect.ts")).exchanger,
  "fan-in-server": async () => (await import("./many.ts")).fanInServer,
  "fan-in-client": async () => (await import("./many.ts")).fanInClient,
  "rpc-server": async () => (await import("./rpc.ts")).server,
  "rpc-worker": async () => (await import("./rpc.ts")).worker,
  "http-server": async () => (await import("./http.ts")).server
}

const start: Start = workerData
const role = (await roles[start.role]()) as (start: Start) => ReturnType<Role<any>>

await Effect.runPromise(
  role(start).pipe(
    Effect.scoped,
    Effect.provide(CutThroughWorker.layer({ name: start.role }))
  ) as Effect.Effect<unknown>
)
