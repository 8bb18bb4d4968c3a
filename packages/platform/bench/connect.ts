/**
 * What a connection costs: connect, accept and close both sides, one after the other in one thread, beside the same over
 * `node:net`, and with few and many connections open. `--json` prints one object.
 */
import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughNode } from "@cut-through/platform"
import { Effect, Layer, type Scope } from "effect"
import * as net from "node:net"
import { type Case, median, print, ratioOf } from "./report.ts"

const PAIRS = 15
const OURS_PER_LEG = 10_000
const THEIRS_PER_LEG = 1_000
const MANY = 100_000

interface Ends {
  readonly connect: Effect.Effect<Connection.Connection, SessionError.SessionError, Scope.Scope>
  readonly accept: Effect.Effect<Connection.Connection, SessionError.SessionError, Scope.Scope>
}

/** A listener and a client with `open` connections between them, which last as long as the scope. */
const ends = (open: number): Effect.Effect<Ends, SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.gen(function* () {
    const server = yield* Application.make({ name: "server", rxFifoSize: 4096, txFifoSize: 4096 })
    const client = yield* Application.make({ name: "client" })
    const listener = yield* server.listen(Endpoint.tcp("127.0.0.1", 7000))
    const connect = client.connect(listener.address)
    for (let i = 0; i < open; i++) {
      yield* connect
      yield* listener.accept
    }
    return { connect, accept: listener.accept }
  })

/** Microseconds for each of `cycles` connections. */
const ours = ({ accept, connect }: Ends, cycles: number) =>
  Effect.gen(function* () {
    const start = process.hrtime.bigint()
    for (let i = 0; i < cycles; i++) {
      const client = yield* connect
      const server = yield* accept
      yield* client.close
      yield* server.close
    }
    return Number(process.hrtime.bigint() - start) / cycles / 1000
  })

/** The same over loopback TCP: a cycle ends when both sockets have closed. */
const theirs = (cycles: number): Promise<number> =>
  new Promise((resolve, reject) => {
    let start = 0n
    let left = cycles
    let open = 0
    const closed = () => {
      if (--open > 0) return
      if (--left > 0) return next()
      const nanos = Number(process.hrtime.bigint() - start)
      server.close(() => resolve(nanos / cycles / 1000))
    }
    const server = net.createServer((socket) => socket.resume().on("close", closed).on("error", reject))
    const next = () => {
      open = 2
      const { port } = server.address() as net.AddressInfo
      const socket = net.connect(port, "127.0.0.1", () => socket.end())
      socket.resume().on("close", closed).on("error", reject)
    }
    server.listen(0, "127.0.0.1", () => {
      start = process.hrtime.bigint()
      next()
    })
  })

const againstTcp = Effect.gen(function* () {
  const pair = yield* ends(0)
  yield* ours(pair, 4 * OURS_PER_LEG)
  yield* Effect.promise(() => theirs(2 * THEIRS_PER_LEG))
  const us: Array<number> = []
  const them: Array<number> = []
  for (let i = 0; i < PAIRS; i++) {
    us.push(yield* ours(pair, OURS_PER_LEG))
    them.push(yield* Effect.promise(() => theirs(THEIRS_PER_LEG)))
  }
  return {
    name: "connect-accept-close",
    peer: "tcp",
    ratio: ratioOf(us.map((micros, i) => them[i] / micros)),
    ours: { median: median(us), unit: "us" },
    theirs: { median: median(them), unit: "us" }
  } satisfies Case
}).pipe(Effect.scoped, Effect.provide(CutThroughNode.layerSessions()))

const growth = Effect.gen(function* () {
  const few = yield* Effect.provide(ends(1), yield* Layer.build(CutThroughNode.layerSessions()))
  const many = yield* Effect.provide(ends(MANY), yield* Layer.build(CutThroughNode.layerSessions()))
  yield* ours(few, OURS_PER_LEG)
  yield* ours(many, OURS_PER_LEG)
  const withFew: Array<number> = []
  const withMany: Array<number> = []
  for (let i = 0; i < PAIRS; i++) {
    withMany.push(yield* ours(many, OURS_PER_LEG))
    withFew.push(yield* ours(few, OURS_PER_LEG))
  }
  return {
    name: "connect-growth",
    peer: `1 open against ${MANY} open`,
    ratio: ratioOf(withFew.map((micros, i) => micros / withMany[i])),
    ours: { median: median(withMany), unit: "us" },
    theirs: { median: median(withFew), unit: "us" }
  } satisfies Case
}).pipe(Effect.scoped)

print([await Effect.runPromise(againstTcp), await Effect.runPromise(growth)])
