/**
 * The two ways from a client to a server: the same code wherever the two are.
 */
import { Application, Endpoint } from "@cut-through/core"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { Effect } from "effect"
import type { Scope } from "effect"
import type * as NetAddress from "effect/net/NetAddress"
import type * as Socket from "effect/socket/Socket"
import type * as SocketServer from "effect/socket/SocketServer"
import { serve } from "./Echo.ts"
import * as Wire from "./Wire.ts"

export type WayError = Wire.WireError | SocketServer.SocketServerError

export interface Way<R = never> {
  /** Starts an echo server until the scope closes, and returns its port on 127.0.0.1. */
  readonly listen: Effect.Effect<number, WayError, R | Scope.Scope>
  /** Connects a client until the scope closes. */
  readonly connect: (port: number) => Effect.Effect<Wire.Wire, WayError, R | Scope.Scope>
}

/** Shared memory, between two applications of one session layer. */
export const cutThrough: Way<Application.Application> = {
  listen: Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
    yield* Effect.forkScoped(listener.run((connection) => serve(Wire.fromConnection(connection))))
    return listener.address.port
  }),
  connect: (port) => Effect.map(Application.connect(Endpoint.tcp("127.0.0.1", port)), Wire.fromConnection)
}

/** The loopback interface, with Effect's sockets. */
export const tcp: Way = {
  listen: Effect.gen(function* () {
    // Half-open, because the server still sends when the client has ended its stream.
    const server = yield* NodeSocketServer.make({ host: "127.0.0.1", port: 0, allowHalfOpen: true })
    const serveSocket = (socket: Socket.Socket) => Effect.scoped(Effect.flatMap(Wire.fromSocket(socket), serve))
    // That a client breaks off is nothing to report.
    yield* Effect.forkScoped(server.run((socket) => Effect.ignore(serveSocket(socket))))
    return (server.address as NetAddress.InetAddress).port
  }),
  connect: (port) => Effect.flatMap(NodeSocket.makeNet({ host: "127.0.0.1", port }), Wire.fromSocket)
}
