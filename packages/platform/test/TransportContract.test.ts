/** The contract of byte streams, over what Node has and over ours. Where they differ, ours is wrong. */
import { Application, Endpoint, type SessionError } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import {
  CutThroughHost,
  CutThroughNode,
  CutThroughSocket,
  CutThroughSocketServer,
  CutThroughWorker,
  TcpTransport
} from "@cut-through/platform"
import { Leaks, TransportContract } from "@cut-through/testing"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import type * as NetAddress from "effect/net/NetAddress"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { MessageChannel } from "node:worker_threads"

const runner = { describe, it: (name: string, test: () => Effect.Effect<void, unknown>) => it.live(name, test) }

/** Where a client of Node connects to. */
const nodeAddress = (address: NetAddress.SocketAddress): Net.NetConnectOpts =>
  address._tag === "UnixPathAddress" ? { path: address.path } : { host: "127.0.0.1", port: address.port }

const node = (listen: () => Net.ListenOptions): Layer.Layer<TransportContract.Transport> =>
  Layer.succeed(TransportContract.Transport, {
    listen: Effect.suspend(() => NodeSocketServer.make(listen())),
    connect: (address) => NodeSocket.makeNet(nodeAddress(address))
  })

TransportContract.suite(
  "TCP of Node",
  node(() => ({ host: "127.0.0.1", port: 0 })),
  runner
)

let sockets = 0
TransportContract.suite(
  "Unix sockets of Node",
  node(() => ({ path: Path.join(Os.tmpdir(), `cut-through-${process.pid}-${++sockets}.sock`) })),
  runner
)

/** A server of one application and clients of another. */
const between = (
  server: Application.Application["Service"],
  client: Application.Application["Service"]
): TransportContract.Transport["Service"] => ({
  listen: Effect.provideService(
    CutThroughSocketServer.make({ host: "127.0.0.1", port: 0 }),
    Application.Application,
    server
  ),
  connect: (address) =>
    Effect.provideService(CutThroughSocket.make(address as Endpoint.Endpoint), Application.Application, client)
})

const sessions = Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)

const applications = (
  attach: (name: string) => Effect.Effect<Application.Application["Service"], SessionError.SessionError, any>
) =>
  Layer.effect(
    TransportContract.Transport,
    Effect.gen(function* () {
      return between(yield* attach("server"), yield* attach("client"))
    })
  )

TransportContract.suite(
  "cut-through between fibers",
  applications((name) => Application.make({ name })).pipe(Layer.provide(sessions)) as Layer.Layer<
    TransportContract.Transport,
    SessionError.SessionError
  >,
  runner
)

/** With small FIFOs every message has to wait for room. */
TransportContract.suite(
  "cut-through between fibers, with FIFOs of 4 KiB",
  applications((name) => Application.make({ name, rxFifoSize: 4096, txFifoSize: 4096 })).pipe(
    Layer.provide(sessions)
  ) as Layer.Layer<TransportContract.Transport, SessionError.SessionError>,
  runner
)

/** Guests of this thread: the same protocol, doorbells and polling as between threads, in one that a test can look into. */
const guest = (name: string) =>
  Effect.gen(function* () {
    const host = yield* CutThroughHost.CutThroughHost
    const { port1, port2 } = new MessageChannel()
    host.accept(port1)
    const services = yield* Layer.build(Layer.fresh(CutThroughWorker.layerPort(port2, { name })))
    return yield* Effect.provide(Application.Application, services)
  })

TransportContract.suite(
  "cut-through by the way of threads",
  applications(guest).pipe(
    Layer.provide(CutThroughHost.layer({ name: "contract" })),
    Layer.provide(sessions)
  ) as Layer.Layer<TransportContract.Transport, SessionError.SessionError>,
  runner
)

/** The server is another session layer's: the client falls through to its real port. */
const elsewhere: Layer.Layer<SessionLayer, SessionError.SessionError> = Layer.provideMerge(
  TcpTransport.layer(),
  Layer.fresh(sessions)
)

TransportContract.suite(
  "fallen through to TCP",
  Layer.effect(
    TransportContract.Transport,
    Effect.gen(function* () {
      const attach = (name: string) =>
        Effect.flatMap(Layer.build(Layer.fresh(elsewhere)), (services) =>
          Effect.provide(Application.make({ name }), services)
        )
      return between(yield* attach("server"), yield* attach("client"))
    })
  ),
  runner
)
