/**
 * Calls of Effect RPC, so many in flight, over the sockets of each way with the same program, and over `NodeWorker`.
 */
import { type Application } from "@cut-through/core"
import { CutThroughNode, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as NodeWorker from "@effect/platform-node/NodeWorker"
import * as NodeWorkerRunner from "@effect/platform-node/NodeWorkerRunner"
import { Context, Effect, Layer, Schema, type Scope } from "effect"
import { Rpc, RpcClient, RpcGroup, RpcSerialization, RpcServer } from "effect/rpc"
import { Socket, SocketServer } from "effect/socket"
import * as Threads from "node:worker_threads"
import { type Case, type Leg, perOperation } from "./model.ts"
import { HOST, unixPath } from "./streams.ts"
import { converse, start } from "./thread.ts"
import type { RpcServer as RpcServerStart, RpcWorker } from "./worker.ts"

const Echo = RpcGroup.make(Rpc.make("Echo", { payload: { text: Schema.String }, success: Schema.String }))

const service = RpcServer.layer(Echo).pipe(Layer.provide(Echo.toLayer({ Echo: ({ text }) => Effect.succeed(text) })))

/** Serves what comes to a socket server, until the scope closes, and returns its port. */
const serve = <E, R>(sockets: Layer.Layer<SocketServer.SocketServer, E, R>) =>
  Effect.gen(function* () {
    const built = yield* Layer.build(sockets)
    const protocol = RpcServer.layerProtocolSocketServer.pipe(
      Layer.provide(Layer.succeedContext(built)),
      Layer.provide(RpcSerialization.layerSchemaBinary())
    )
    yield* Layer.build(Layer.provide(service, protocol))
    const { address } = Context.get(built, SocketServer.SocketServer)
    return address._tag === "UnixPathAddress" ? 0 : address.port
  })

const overSocket = (socket: Effect.Effect<Socket.Socket>) =>
  RpcClient.layerProtocolSocket().pipe(
    Layer.provide(Layer.effect(Socket.Socket, socket)),
    Layer.provide(RpcSerialization.layerSchemaBinary())
  )

const overWorker = RpcClient.layerProtocolWorker({ size: 1, concurrency: 64 }).pipe(
  Layer.provide(
    NodeWorker.layer(
      () =>
        new Threads.Worker(new URL("./worker.ts", import.meta.url), {
          workerData: { role: "rpc-worker" } satisfies RpcWorker
        })
    )
  )
)

/** Calls with so many in flight at any time. */
const client = <E>(
  protocol: Layer.Layer<RpcClient.Protocol, E>,
  inFlight: number
): Effect.Effect<Leg, E, Scope.Scope> =>
  Effect.gen(function* () {
    const call = yield* Effect.provide(RpcClient.make(Echo), yield* Layer.build(protocol))
    const callAll = Effect.fnUntraced(function* (from: number, calls: number) {
      for (let i = from; i < calls; i += inFlight) {
        const text = `call ${i}`
        const answer = yield* call.Echo({ text })
        if (answer !== text) throw new Error(`the answer to "${text}" was "${answer}"`)
      }
    })
    return perOperation((calls) =>
      Effect.runPromise(
        Effect.forEach(
          Array.from({ length: inFlight }, (_, from) => from),
          (from) => callAll(from, calls),
          {
            concurrency: "unbounded",
            discard: true
          }
        )
      )
    )
  })

// ---------------------------------------------------------------------------
// where the server is
// ---------------------------------------------------------------------------

const any = { host: HOST, port: 0 }

const inFibers = (way: string, inFlight: number): Effect.Effect<Leg, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    // Its server is a thread wherever it stands: this is what a call costs those who have no socket without a port.
    if (way === "nodeworker") return yield* client(overWorker, inFlight)
    if (way === "ours") {
      const application = Layer.succeedContext(yield* Layer.build(CutThroughNode.layer))
      const port = yield* serve(Layer.provide(CutThroughSocketServer.layer(any), application))
      return yield* client(
        overSocket(Effect.provide(CutThroughSocket.make({ host: HOST, port }), application)),
        inFlight
      )
    }
    if (way === "unix") {
      const path = yield* unixPath
      yield* serve(NodeSocketServer.layer({ path }))
      return yield* client(overSocket(NodeSocket.makeNet({ path })), inFlight)
    }
    const port = yield* serve(NodeSocketServer.layer(any))
    return yield* client(overSocket(NodeSocket.makeNet({ host: HOST, port })), inFlight)
  })

interface Ports {
  readonly ours: number
  readonly tcp: number
}

/** In another thread: serves calls over every kind of socket. */
export const server = ({
  path
}: RpcServerStart): Effect.Effect<never, unknown, Application.Application | Scope.Scope> =>
  Effect.gen(function* () {
    const ours = yield* serve(CutThroughSocketServer.layer(any))
    const tcp = yield* serve(NodeSocketServer.layer(any))
    yield* serve(NodeSocketServer.layer({ path }))
    converse({ ours, tcp } satisfies Ports, () => Promise.resolve())
    return yield* Effect.never
  })

/** In another thread: serves calls that come as messages. */
export const worker = (_: RpcWorker): Effect.Effect<never, unknown> =>
  Layer.launch(service.pipe(Layer.provide(RpcServer.layerProtocolWorkerRunner), Layer.provide(NodeWorkerRunner.layer)))

const inThreads = (ways: ReadonlyArray<string>, inFlight: number) =>
  Effect.gen(function* () {
    const application = Layer.succeedContext(yield* Layer.build(CutThroughNode.layer))
    const path = yield* unixPath
    const { first: ports } = yield* start<Ports>({ role: "rpc-server", path })
    const protocols: { readonly [way: string]: Layer.Layer<RpcClient.Protocol, unknown> } = {
      ours: overSocket(Effect.provide(CutThroughSocket.make({ host: HOST, port: ports.ours }), application)),
      tcp: overSocket(NodeSocket.makeNet({ host: HOST, port: ports.tcp })),
      unix: overSocket(NodeSocket.makeNet({ path })),
      nodeworker: overWorker
    }
    const legs: { [way: string]: Leg } = {}
    for (const way of ways) legs[way] = yield* client(protocols[way], inFlight)
    return legs
  })

const CALLS = { operation: "call", most: 1_000_000 }

const betweenFibers = (inFlight: number): Case => ({
  ...CALLS,
  rows: [{ name: `rpc-fiber-${inFlight}`, unit: "us" }],
  peers: ["tcp", "unix", "nodeworker"],
  least: inFlight * 2,
  open: (ways) =>
    Effect.gen(function* () {
      const legs: { [way: string]: Leg } = {}
      for (const way of ways) legs[way] = yield* inFibers(way, inFlight)
      return legs
    })
})

export const cases: ReadonlyArray<Case> = [
  betweenFibers(1),
  betweenFibers(64),
  {
    ...CALLS,
    rows: [{ name: "rpc-thread-64", unit: "us" }],
    peers: ["tcp", "unix", "nodeworker"],
    least: 128,
    open: (ways) => inThreads(ways, 64)
  }
]
