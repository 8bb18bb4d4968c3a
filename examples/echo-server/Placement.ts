/**
 * Where the server and the client are, and so the way of the bytes between them.
 */
import { Application, Endpoint } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { Effect } from "effect"
import type { Scope } from "effect"
import type * as NetAddress from "effect/net/NetAddress"
import type * as SocketServer from "effect/socket/SocketServer"
import { serve } from "./Echo.ts"
import * as Wire from "./Wire.ts"

export type PlacementError = Wire.WireError | SocketServer.SocketServerError

export interface Placement {
  /** What reports call it. */
  readonly path: string
  /** Starts an echo server until the scope closes. Its value connects a client to it, in a scope of the client's. */
  readonly start: Effect.Effect<
    Effect.Effect<Wire.Wire, PlacementError, Scope.Scope>,
    PlacementError,
    SessionLayer | Scope.Scope
  >
}

/** Two applications of one session layer, in one thread. */
export const fiber: Placement = {
  path: "fiber",
  start: Effect.gen(function* () {
    const server = yield* Application.make({ name: "echo-server" })
    const client = yield* Application.make({ name: "echo-client" })
    const listener = yield* server.listen(Endpoint.tcp("127.0.0.1", 0))
    yield* Effect.forkScoped(listener.run((connection) => serve(Wire.fromConnection(connection))))
    return Effect.map(client.connect(listener.address), Wire.fromConnection)
  })
}

/** The same over the loopback interface, with Effect's sockets. */
export const tcp: Placement = {
  path: "tcp",
  start: Effect.gen(function* () {
    // Half-open, because the server still sends when the client has ended its stream.
    const server = yield* NodeSocketServer.make({ host: "127.0.0.1", port: 0, allowHalfOpen: true })
    yield* Effect.forkScoped(server.run((socket) => Effect.scoped(Effect.flatMap(Wire.fromSocket(socket), serve))))
    const { port } = server.address as NetAddress.InetAddress
    return Effect.flatMap(NodeSocket.makeNet({ host: "127.0.0.1", port }), Wire.fromSocket)
  })
}

export const all: ReadonlyArray<Placement> = [fiber, tcp]
