/**
 * What a connection costs that lives for one byte each way: connect, accept, exchange, close both sides.
 */
import { Application, Connection, Endpoint, type NonBlocking, type SessionError } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import { Effect, Layer, Pull, type Scope } from "effect"
import { once } from "node:events"
import * as net from "node:net"
import { type Case, type Leg, perOperation } from "./model.ts"
import { HOST, listenNet, portOf, unixPath } from "./streams.ts"
import { converse, start } from "./thread.ts"
import type { Exchanger } from "./worker.ts"

const FIRST = 0xa5
const SECOND = 0x5a

const expectByte = (found: number, expected: number): void => {
  if (found !== expected) throw new Error(`a connection's byte was ${found} instead of ${expected}`)
}

// ---------------------------------------------------------------------------
// in this thread
// ---------------------------------------------------------------------------

const oursInFibers = Effect.gen(function* () {
  const sessions = yield* Layer.build(CutThroughNode.layerSessions())
  const server = yield* Effect.provide(Application.make({ name: "server" }), sessions)
  const application = yield* Effect.provide(Application.make({ name: "client" }), sessions)
  const listener = yield* server.listen(Endpoint.tcp(HOST, 0))
  const byte = new Uint8Array(1)
  // Both ends are in this thread: what one has written is there.
  const pass = (from: NonBlocking.NonBlocking, to: NonBlocking.NonBlocking, value: number): void => {
    byte[0] = value
    if (from.write(byte) !== 1) throw new Error("a byte has not been written", { cause: from.error })
    byte[0] = 0
    if (to.readInto(byte) !== 1) throw new Error("a byte has not come", { cause: to.error })
    expectByte(byte[0], value)
  }
  const exchange = Effect.gen(function* () {
    const client = yield* application.connect(listener.address)
    const server = yield* listener.accept
    const asking = Connection.nonBlocking(client, {})
    const answering = Connection.nonBlocking(server, {})
    pass(asking, answering, FIRST)
    pass(answering, asking, SECOND)
    yield* client.close
    yield* server.close
  })
  return perOperation((cycles) =>
    Effect.runPromise(
      Effect.gen(function* () {
        for (let i = 0; i < cycles; i++) yield* exchange
      }).pipe(Effect.scoped)
    )
  )
})

/** A cycle ends when both sockets have closed. */
const netInFibers = (options: net.ListenOptions): Effect.Effect<Leg, never, Scope.Scope> =>
  Effect.gen(function* () {
    let closed: () => void = () => {}
    let failed: (error: unknown) => void = () => {}
    const server = yield* listenNet(options, (socket) => {
      socket.on("data", (bytes) => {
        if (bytes[0] !== FIRST) failed(new Error(`a connection's byte was ${bytes[0]}`))
        socket.write(Uint8Array.of(SECOND))
      })
      socket.on("close", () => closed()).on("error", (error) => failed(error))
    })
    const to = options.path === undefined ? { host: HOST, port: portOf(server) } : { path: options.path }
    return perOperation(
      (cycles) =>
        new Promise((resolve, reject) => {
          failed = reject
          let left = cycles
          let open = 0
          closed = () => {
            if (--open > 0) return
            if (--left === 0) resolve()
            else next()
          }
          const next = () => {
            open = 2
            const socket = net.connect(to, () => socket.write(Uint8Array.of(FIRST)))
            socket.on("data", (bytes) => {
              if (bytes[0] !== SECOND) reject(new Error(`a connection's byte was ${bytes[0]}`))
              socket.end()
            })
            socket.on("close", closed).on("error", reject)
          }
          next()
        })
    )
  })

const inFibers: { readonly [way: string]: Effect.Effect<Leg, SessionError.SessionError, Scope.Scope> } = {
  ours: oursInFibers,
  tcp: netInFibers({ host: HOST, port: 0 }),
  unix: Effect.flatMap(unixPath, (path) => netInFibers({ path }))
}

// ---------------------------------------------------------------------------
// from this thread, where the host is, to another
// ---------------------------------------------------------------------------

interface Ports {
  readonly ours: number
  readonly tcp: number
}

/** In the other thread: sends back the byte of every connection. */
export const exchanger = ({ path }: Exchanger) =>
  Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp(HOST, 0))
    yield* Effect.forkScoped(
      listener.run((connection) => {
        const byte = new Uint8Array(1)
        const exchange = Effect.andThen(connection.readInto(byte), connection.write(byte))
        return Effect.andThen(exchange, connection.readInto(byte)).pipe(Pull.catchDone(() => Effect.void))
      })
    )
    const echo = (socket: net.Socket) => void socket.on("data", (bytes) => socket.write(bytes))
    const server = yield* listenNet({ host: HOST, port: 0 }, echo)
    yield* listenNet({ path }, echo)
    converse({ ours: listener.address.port, tcp: portOf(server) } satisfies Ports, () => Promise.resolve())
    return yield* Effect.never
  })

const oursBetweenThreads = (application: Application.Application["Service"], port: number): Leg => {
  const byte = new Uint8Array(1)
  const exchange = Effect.gen(function* () {
    const connection = yield* application.connect(Endpoint.tcp(HOST, port))
    byte[0] = FIRST
    yield* connection.write(byte)
    byte[0] = 0
    yield* connection.readInto(byte)
    expectByte(byte[0], FIRST)
  }).pipe(Effect.scoped)
  return perOperation((cycles) =>
    Effect.runPromise(
      Effect.gen(function* () {
        for (let i = 0; i < cycles; i++) yield* exchange
      })
    )
  )
}

const netBetweenThreads = (to: net.NetConnectOpts): Leg =>
  perOperation(async (cycles) => {
    for (let i = 0; i < cycles; i++) {
      const socket = net.connect(to)
      socket.write(Uint8Array.of(FIRST))
      socket.once("data", (bytes) => {
        expectByte(bytes[0], FIRST)
        socket.end()
      })
      await once(socket, "close")
    }
  })

const CONNECT = { operation: "connection", least: 20, most: 1_000_000 }

export const cases: ReadonlyArray<Case> = [
  {
    ...CONNECT,
    rows: [{ name: "connect-fiber", unit: "us" }],
    peers: ["tcp", "unix"],
    open: (ways) =>
      Effect.gen(function* () {
        const legs: { [way: string]: Leg } = {}
        for (const way of ways) legs[way] = yield* inFibers[way]
        return legs
      })
  },
  {
    ...CONNECT,
    rows: [{ name: "connect-thread", unit: "us" }],
    peers: ["tcp", "unix"],
    open: () =>
      Effect.gen(function* () {
        const services = yield* Layer.build(CutThroughNode.layer)
        const application = yield* Effect.provide(Application.Application, services)
        const path = yield* unixPath
        const { first: ports } = yield* start<Ports>({ role: "exchanger", path })
        return {
          ours: oursBetweenThreads(application, ports.ours),
          tcp: netBetweenThreads({ host: HOST, port: ports.tcp }),
          unix: netBetweenThreads({ path })
        }
      })
  }
]
