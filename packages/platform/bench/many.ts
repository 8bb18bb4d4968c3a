/**
 * Many connections: bytes from all of them, what they hold while idle, and what one more costs.
 */
import { Application, Connection, Endpoint, NonBlocking, type SessionError } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughNode } from "@cut-through/platform"
import { Effect, Layer, type Scope } from "effect"
import { once } from "node:events"
import { idleBytes } from "./idle.ts"
import { type Case, type Leg, type Moment, moment, perOperation, sampleOf } from "./model.ts"
import { MESSAGE_BYTES } from "./payload.ts"
import { connectNet, HOST, listenNet, portOf, settle } from "./streams.ts"
import { converse, start } from "./thread.ts"
import type { FanInClient, FanInServer } from "./worker.ts"

// ---------------------------------------------------------------------------
// many writers
// ---------------------------------------------------------------------------

const FAN_IN = 1000

interface Ports {
  readonly ours: number
  readonly tcp: number
}

/** So many messages on each connection of a way, the connections in turn. */
interface FanInOrder {
  readonly way: "ours" | "tcp"
  readonly messages: number
}

/** The message of each connection says which one it is. */
const messageOf = (connection: number): Uint8Array => {
  const message = new Uint8Array(MESSAGE_BYTES).fill(connection & 255)
  message[1] = connection >>> 8
  return message
}

/** Counts what comes over all connections of one way, and looks whether it came over the right one. */
class Inbox {
  private missing = 0
  private resolve: () => void = () => {}
  private reject: (error: Error) => void = () => {}

  /** Resolves when so many bytes have come. */
  expect(bytes: number): Promise<void> {
    this.missing = bytes
    return new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
  }

  /** Takes what comes over one connection, from its first byte on. */
  connection(): (bytes: Uint8Array, count: number) => void {
    let first = -1
    let position = 0
    return (bytes, count) => {
      if (first < 0) first = bytes[0]
      for (const at of [0, count - 1]) {
        const isSecond = (position + at) % MESSAGE_BYTES === 1
        if (!isSecond && bytes[at] !== first) this.reject(new Error("bytes of one connection came over another"))
      }
      position += count
      this.missing -= count
      if (this.missing === 0) this.resolve()
    }
  }
}

export const fanInServer = (_: FanInServer) =>
  Effect.gen(function* () {
    const inboxes = { ours: new Inbox(), tcp: new Inbox() }
    const listener = yield* Application.listen(Endpoint.tcp(HOST, 0), { backlog: FAN_IN })
    yield* Effect.forkScoped(
      listener.run((connection) =>
        Effect.callback<void>((resume) => {
          const buffer = new Uint8Array(4096)
          const take = inboxes.ours.connection()
          const read = (): void => {
            for (;;) {
              const count = stream.readInto(buffer)
              if (count === NonBlocking.WOULD_BLOCK) return
              if (count <= 0) return resume(Effect.void)
              take(buffer, count)
            }
          }
          const stream = Connection.nonBlocking(connection, { onReadable: read })
          read()
        })
      )
    )
    const server = yield* listenNet({ host: HOST, port: 0, backlog: FAN_IN }, (socket) => {
      const take = inboxes.tcp.connection()
      socket.on("data", (bytes) => take(bytes, bytes.length)).on("error", () => {})
    })
    const ports: Ports = { ours: listener.address.port, tcp: portOf(server) }
    converse(ports, async ({ messages, way }: FanInOrder): Promise<Moment> => {
      await inboxes[way].expect(messages * FAN_IN * MESSAGE_BYTES)
      return moment()
    })
    return yield* Effect.never
  })

export const fanInClient = ({ connections, ports }: FanInClient) =>
  Effect.gen(function* () {
    const all = Array.from({ length: connections }, (_, i) => i)
    const ours = yield* Effect.forEach(all, () => Application.connect(Endpoint.tcp(HOST, ports.ours)))
    const sockets = yield* Effect.forEach(all, () => connectNet({ host: HOST, port: ports.tcp }))
    for (const socket of sockets) socket.setNoDelay(true)
    const messages = all.map(messageOf)
    let onRoom: () => void = () => {}
    const streams = ours.map((connection) => Connection.nonBlocking(connection, { onWritable: () => onRoom() }))
    const writeOurs = async (rounds: number) => {
      for (let round = 0; round < rounds; round++) {
        for (let i = 0; i < connections; i++) {
          for (let at = 0; at < MESSAGE_BYTES;) {
            const count = streams[i].write(messages[i], at)
            if (count === NonBlocking.FAILED) throw streams[i].error
            if (count > 0) at += count
            else {
              await new Promise<void>((resolve) => {
                onRoom = resolve
              })
            }
          }
        }
      }
    }
    const writeTcp = async (rounds: number) => {
      for (let round = 0; round < rounds; round++) {
        for (let i = 0; i < connections; i++) {
          if (!sockets[i].write(messages[i])) await once(sockets[i], "drain")
        }
      }
    }
    converse(undefined, async ({ messages, way }: FanInOrder): Promise<Moment> => {
      await settle()
      const began = moment()
      if (way === "ours") await writeOurs(messages)
      else await writeTcp(messages)
      return began
    })
    return yield* Effect.never
  })

const fanIn: Case = {
  rows: [{ name: "fan-in-thread-1000", unit: "us" }],
  peers: ["tcp"],
  operation: "message to each",
  least: 1,
  most: 10_000,
  open: () =>
    Effect.gen(function* () {
      yield* Layer.build(CutThroughNode.layer)
      const { first: ports, thread: server } = yield* start<Ports>({ role: "fan-in-server" })
      const { thread: client } = yield* start({ role: "fan-in-client", connections: FAN_IN, ports })
      const legOf =
        (way: FanInOrder["way"]): Leg =>
        async (messages) => {
          const order: FanInOrder = { way, messages }
          const reading = await server.begin<FanInOrder, Moment>(order)
          const [from, to] = await Promise.all([client.ask<FanInOrder, Moment>(order), reading.result])
          return sampleOf(from, to, messages, (nanos) => [nanos / messages / FAN_IN / 1000])
        }
      return { ours: legOf("ours"), tcp: legOf("tcp") }
    })
}

// ---------------------------------------------------------------------------
// idle
// ---------------------------------------------------------------------------

const IDLE = 10_000

const idleMemory: Case = {
  rows: [{ name: "idle-memory", unit: "B" }],
  peers: ["tcp"],
  operation: "connection",
  least: IDLE,
  most: IDLE,
  isDear: true,
  open: () =>
    Effect.sync(() => {
      const legOf =
        (way: "ours" | "tcp"): Leg =>
        async (connections) => ({
          values: [await idleBytes(way, connections)],
          cpuMicros: undefined,
          wallMillis: 0
        })
      return { ours: legOf("ours"), tcp: legOf("tcp") }
    })
}

// ---------------------------------------------------------------------------
// one more
// ---------------------------------------------------------------------------

const FEW = 1000
const MANY = 100_000
const FIFO_BYTES = 65_536

/** Connects, accepts and closes both, with so many others open. */
const oneMore = (
  open: number,
  sizes: { readonly rxFifoSize: number; readonly txFifoSize: number; readonly segmentSize?: number }
): Effect.Effect<Leg, SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.gen(function* () {
    const server = yield* Application.make({ name: "server", ...sizes })
    const client = yield* Application.make({ name: "client" })
    const listener = yield* server.listen(Endpoint.tcp(HOST, 7000))
    for (let i = 0; i < open; i++) {
      yield* client.connect(listener.address)
      yield* listener.accept
    }
    return perOperation((cycles) =>
      Effect.runPromise(
        Effect.gen(function* () {
          for (let i = 0; i < cycles; i++) {
            const one = yield* client.connect(listener.address)
            const other = yield* listener.accept
            yield* one.close
            yield* other.close
          }
        }).pipe(Effect.scoped)
      )
    )
  })

const inOwnSessions = (...args: Parameters<typeof oneMore>) =>
  Effect.gen(function* () {
    return yield* Effect.provide(oneMore(...args), yield* Layer.build(Layer.fresh(CutThroughNode.layerSessions())))
  })

const ONE_MORE = { operation: "connection", least: 100, most: 1_000_000 }

/** Small, or so many would not fit in memory. */
const SMALL = { rxFifoSize: 4096, txFifoSize: 4096 }

const growth: Case = {
  ...ONE_MORE,
  rows: [{ name: "connect-growth", unit: "us" }],
  peers: [`${FEW}-open`],
  open: () =>
    Effect.gen(function* () {
      return { ours: yield* inOwnSessions(MANY, SMALL), [`${FEW}-open`]: yield* inOwnSessions(FEW, SMALL) }
    })
}

const SIZES = { rxFifoSize: FIFO_BYTES, txFifoSize: FIFO_BYTES }

const segmentReuse: Case = {
  ...ONE_MORE,
  rows: [{ name: "segment-reuse", unit: "us" }],
  peers: ["segment-each"],
  open: () =>
    Effect.gen(function* () {
      return {
        ours: yield* inOwnSessions(1, SIZES),
        // A segment that holds one pair: each connect makes one and each close deletes it.
        "segment-each": yield* inOwnSessions(1, { ...SIZES, segmentSize: 2 * FIFO_BYTES })
      }
    })
}

export const cases: ReadonlyArray<Case> = [fanIn, idleMemory, growth, segmentReuse]
