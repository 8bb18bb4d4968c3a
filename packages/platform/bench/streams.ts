/**
 * Streams over each way, with both ends in this thread or each in a thread of its own.
 */
import { Application, type Connection, Endpoint } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import { Effect, Layer, type Scope } from "effect"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import * as net from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { duplexPair } from "node:stream"
import { setTimeout } from "node:timers/promises"
import { MessageChannel } from "node:worker_threads"
import { type End, makeRing, overConnection, overDuplex, overEffects, type RoundTrips } from "./ends.ts"
import * as Lateness from "./lateness.ts"
import { type Moment, moment } from "./model.ts"
import type { Bulk } from "./payload.ts"
import { start } from "./thread.ts"
import type { Order, Report, StreamClient, StreamServer } from "./worker.ts"

export const HOST = "127.0.0.1"

/** A stream's two ends, wherever they are. */
export interface Stream {
  /** From when the first write begins until all has been read. */
  readonly bulk: (bulk: Bulk, options?: { readonly watches: boolean }) => Promise<Run>
  readonly roundTrips: (order: RoundTrips) => Promise<Run>
}

export interface Run {
  readonly from: Moment
  readonly to: Moment
  /** Of each round trip. */
  readonly micros: Float64Array
  /** By how many milliseconds timers of the stream's threads were late, if they were watched. */
  readonly late: Float64Array
}

export type Streams = { readonly [way: string]: Stream }

const NONE = new Float64Array(0)

/** A path for a Unix socket, until the scope closes. */
export const unixPath: Effect.Effect<string, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "cut-through-bench-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  ),
  (folder) => join(folder, "socket")
)

/** A server of `node:net`, until the scope closes. */
export const listenNet = (
  options: net.ListenOptions,
  onSocket: (socket: net.Socket) => void
): Effect.Effect<net.Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = net.createServer(onSocket)
      server.listen(options)
      await once(server, "listening")
      return server
    }),
    (server) => Effect.sync(() => void server.close())
  )

export const portOf = (server: net.Server): number => (server.address() as net.AddressInfo).port

export const connectNet = (options: net.NetConnectOpts): Effect.Effect<net.Socket, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const socket = net.connect(options)
      await once(socket, "connect")
      return socket
    }),
    (socket) => Effect.sync(() => void socket.destroy())
  )

// ---------------------------------------------------------------------------
// in this thread
// ---------------------------------------------------------------------------

interface Ends {
  readonly client: End
  readonly server: End
}

const overNet = (options: net.ListenOptions): Effect.Effect<Ends, never, Scope.Scope> =>
  Effect.gen(function* () {
    const accepted = Promise.withResolvers<net.Socket>()
    const server = yield* listenNet(options, accepted.resolve)
    const socket = yield* connectNet(
      options.path === undefined ? { host: HOST, port: portOf(server) } : { path: options.path }
    )
    return { client: overDuplex(socket), server: overDuplex(yield* Effect.promise(() => accepted.promise)) }
  })

const overOurs = (over: (connection: Connection.Connection) => End): Effect.Effect<Ends, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const application = yield* Layer.build(CutThroughNode.layer)
    const listener = yield* Effect.provide(Application.listen(Endpoint.tcp(HOST, 0)), application)
    const client = yield* Effect.provide(Application.connect(listener.address), application)
    return { client: over(client), server: over(yield* listener.accept) }
  })

const fiberEnds: { readonly [way: string]: Effect.Effect<Ends, unknown, Scope.Scope> } = {
  ours: overOurs(overConnection),
  effects: overOurs(overEffects),
  tcp: overNet({ host: HOST, port: 0 }),
  unix: Effect.flatMap(unixPath, (path) => overNet({ path })),
  duplexpair: Effect.sync(() => {
    const [client, server] = duplexPair()
    return { client: overDuplex(client, false), server: overDuplex(server, false) }
  })
}

const inThisThread = ({ client, server }: Ends): Stream => {
  const run = async (receive: () => Promise<void>, send: () => Promise<Float64Array | void>, watches: boolean) => {
    const stop = watches ? Lateness.watch() : () => NONE
    const from = moment()
    const [, micros = NONE] = await Promise.all([receive(), send()])
    const to = moment()
    return { from, to, micros, late: stop() }
  }
  return {
    bulk: (bulk, options) =>
      run(
        () => server.receive(bulk),
        () => client.send(bulk),
        options?.watches === true
      ),
    roundTrips: (order) =>
      run(
        () => server.echo(order),
        () => client.ask(order),
        false
      )
  }
}

/** Streams with both ends in this thread: `ours`, `tcp`, `unix`, `duplexpair`. */
export const inFibers = (ways: ReadonlyArray<string>): Effect.Effect<Streams, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const streams: { [way: string]: Stream } = {}
    for (const way of ways) streams[way] = inThisThread(yield* fiberEnds[way])
    return streams
  })

// ---------------------------------------------------------------------------
// in two threads
// ---------------------------------------------------------------------------

/** Streams from one thread to another: `ours`, `tcp`, `unix`, `messageport`, `ceiling`. The host is in this one. */
export const inThreads = (ways: ReadonlyArray<string>): Effect.Effect<Streams, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    yield* Layer.build(CutThroughNode.layer)
    const ring = makeRing()
    const { port1, port2 } = new MessageChannel()
    const path = yield* unixPath
    const { first: ports, thread: server } = yield* start<StreamClient["ports"]>(
      { role: "stream-server", ways, ring, port: port1, path } satisfies StreamServer,
      [port1]
    )
    const { thread: client } = yield* start(
      { role: "stream-client", ways, ring, port: port2, path, ports } satisfies StreamClient,
      [port2]
    )
    const run = async (order: Order): Promise<Run> => {
      const reading = await server.begin<Order, Report>(order)
      // Both at once: when one of them fails, the other may wait for ever.
      const [from, to] = await Promise.all([client.ask<Order, Report>(order), reading.result])
      const late = new Float64Array(from.late.length + to.late.length)
      late.set(from.late)
      late.set(to.late, from.late.length)
      return { from: from.began, to: order.what === "bulk" ? to.ended : from.ended, micros: from.micros, late }
    }
    const streams: { [way: string]: Stream } = {}
    for (const way of ways) {
      streams[way] = {
        bulk: (bulk, options) => run({ what: "bulk", way, bulk, watches: options?.watches === true }),
        roundTrips: (order) => run({ what: "round trips", way, order })
      }
    }
    return streams
  })

/** Whoever has given the order must not need a core any more. */
export const settle = (): Promise<void> => setTimeout(2)
