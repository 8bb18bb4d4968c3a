/**
 * Round trips of 64 bytes, one after another.
 */
import { CutThroughNode, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { Context, Effect, Layer, type Scope } from "effect"
import { Socket, SocketServer } from "effect/socket"
import { duplexPair } from "node:stream"
import { type Case, type Leg, type Legs, perOperation, quantile, sampleOf, withFibers } from "./model.ts"
import { checkStamp, MESSAGE_BYTES, stamp } from "./payload.ts"
import * as Streams from "./streams.ts"

/** Long enough for both threads to park. */
const REST_MILLIS = 3

const legsOf = (streams: Streams.Streams, legOf: (stream: Streams.Stream) => Leg): Legs =>
  Object.fromEntries(Object.entries(streams).map(([way, stream]) => [way, legOf(stream)]))

const betweenThreads = (name: string, rest: number, least: number): Case => ({
  rows: [
    { name, unit: "us" },
    { name: `${name}-p99`, unit: "us" }
  ],
  peers: ["tcp", "unix", "messageport"],
  operation: "round trip",
  least,
  most: 1_000_000,
  open: (ways) =>
    Effect.map(Streams.inThreads(ways), (streams) =>
      legsOf(streams, (stream) => async (rounds) => {
        const { from, micros, to } = await stream.roundTrips({ rounds, rest })
        return sampleOf(from, to, rounds, () => [quantile(micros, 0.5), quantile(micros, 0.99)])
      })
    )
})

const betweenFibers: Case = {
  rows: [{ name: "rtt-fiber-64B", unit: "us" }],
  peers: ["tcp", "unix", "duplexpair"],
  operation: "round trip",
  least: 100,
  most: 10_000_000,
  open: (ways) =>
    Effect.map(Streams.inFibers(ways), (streams) =>
      legsOf(streams, (stream) => async (rounds) => {
        const { from, to } = await stream.roundTrips({ rounds, rest: 0 })
        return sampleOf(from, to, rounds, (nanos) => [nanos / rounds / 1000])
      })
    )
}

// ---------------------------------------------------------------------------
// the same Effect code over sockets
// ---------------------------------------------------------------------------

const echo = (socket: Socket.Socket) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { pull } = yield* socket.reader
      const { writeAll } = yield* socket.writer
      // As Effect's own servers of sockets do it, without a turn of the scheduler between what comes and the next.
      return yield* Effect.forever(Effect.flatMap(pull, writeAll), { disableYield: true })
    })
    // The socket has closed.
  ).pipe(Effect.ignore)

const ask = (socket: Socket.Socket): Effect.Effect<Leg, Socket.SocketError, Scope.Scope> =>
  Effect.gen(function* () {
    const pull = yield* Socket.readerBytes(socket)
    const { write } = yield* socket.writer
    const answer = new Uint8Array(MESSAGE_BYTES)
    const roundTrip = Effect.fnUntraced(function* (n: number) {
      const message = new Uint8Array(MESSAGE_BYTES)
      stamp(message, n)
      yield* write(message)
      for (let count = 0; count < MESSAGE_BYTES;) {
        for (const bytes of yield* pull) {
          answer.set(bytes, count)
          count += bytes.length
        }
      }
      checkStamp(answer, n)
    })
    return perOperation((rounds) =>
      Effect.runPromise(
        Effect.gen(function* () {
          for (let n = 0; n < rounds; n++) yield* roundTrip(n)
        })
      )
    )
  })

const served = <E>(
  server: Layer.Layer<SocketServer.SocketServer, E>,
  connect: (server: SocketServer.SocketServer["Service"]) => Effect.Effect<Socket.Socket>
) =>
  Effect.gen(function* () {
    const service = Context.get(yield* Layer.build(server), SocketServer.SocketServer)
    yield* Effect.forkScoped(service.run(echo))
    return yield* ask(yield* connect(service))
  })

const portOf = ({ address }: SocketServer.SocketServer["Service"]): number => {
  if (address._tag === "UnixPathAddress") throw new Error("a path has no port")
  return address.port
}

const overSockets: { readonly [way: string]: Effect.Effect<Leg, unknown, Scope.Scope> } = {
  ours: Effect.gen(function* () {
    const application = yield* Layer.build(CutThroughNode.layer)
    return yield* served(
      CutThroughSocketServer.layer({ host: Streams.HOST, port: 0 }).pipe(
        Layer.provide(Layer.succeedContext(application))
      ),
      (server) => Effect.provide(CutThroughSocket.make({ host: Streams.HOST, port: portOf(server) }), application)
    )
  }),
  tcp: served(NodeSocketServer.layer({ host: Streams.HOST, port: 0 }), (server) =>
    NodeSocket.makeNet({ host: Streams.HOST, port: portOf(server) })
  ),
  unix: Effect.flatMap(Streams.unixPath, (path) =>
    served(NodeSocketServer.layer({ path }), () => NodeSocket.makeNet({ path }))
  ),
  duplexpair: Effect.gen(function* () {
    const [client, server] = duplexPair()
    yield* Effect.forkScoped(Effect.flatMap(NodeSocket.fromDuplex(Effect.succeed(server)), echo))
    return yield* ask(yield* NodeSocket.fromDuplex(Effect.succeed(client)))
  })
}

const betweenSockets: Case = {
  rows: [{ name: "rtt-fiber-64B-socket", unit: "us" }],
  peers: ["tcp", "unix", "duplexpair"],
  operation: "round trip",
  least: 50,
  most: 10_000_000,
  open: (ways) =>
    Effect.gen(function* () {
      const legs: { [way: string]: Leg } = {}
      for (const way of ways) legs[way] = yield* overSockets[way]
      return legs
    })
}

const polling = betweenThreads("rtt-thread-64B-polling", 0, 100)

export const cases: ReadonlyArray<Case> = [
  polling,
  withFibers(polling, ["tcp"]),
  betweenThreads("rtt-thread-64B-parked", REST_MILLIS, 5),
  betweenFibers,
  withFibers(betweenFibers, ["tcp"]),
  betweenSockets
]
