/**
 * One end of what `thread.ts` measures, in a thread. It does what it is told, over a connection, a TCP socket or a bare
 * ring: the server reads and echoes, the client writes and asks.
 */
import { Application, type Connection, Endpoint } from "@cut-through/core"
import { CutThroughWorker, NativeCopy } from "@cut-through/platform"
import { Effect, Pull } from "effect"
import { once } from "node:events"
import * as net from "node:net"
import { setTimeout } from "node:timers/promises"
import { parentPort, workerData } from "node:worker_threads"

export type Way = "ours" | "tcp" | "ceiling"

/** What a thread is started with. */
export interface Start {
  readonly ring: Ring
  /** Where the server is; without it, this is the server. */
  readonly ports: Ports | undefined
}

/** For the ceiling. */
export interface Ring {
  /** How many bytes the writer and the reader have moved, each in a cache line of its own. */
  readonly moved: Int32Array
  /** Their number is a power of two. */
  readonly bytes: Uint8Array
}

/** The server's ports. Those called `each` are for connections that last for one exchange of a byte. */
export interface Ports {
  readonly ours: number
  readonly oursEach: number
  readonly tcp: number
  readonly tcpEach: number
}

/** A stream of so many writes of so many bytes. */
export interface Bulk {
  readonly what: "bulk"
  readonly way: Way
  readonly bytes: number
  readonly writes: number
  readonly isVerified: boolean
}

/** So many round trips of 64 bytes, one after another, each after a rest of so many milliseconds. */
export interface RoundTrips {
  readonly what: "round trips"
  readonly way: Way
  readonly rounds: number
  readonly rest: number
}

export type Order = Bulk | RoundTrips

/** When the first write began (client) or all was read (server); and how long each round trip took. */
export interface Report {
  readonly nanos: bigint
  readonly micros: Float64Array
}

/** Does what is ordered and returns how long each round trip took, if there were any. */
type End = (order: Order) => Promise<Float64Array>

const MESSAGE_BYTES = 64
const READ_BYTES = 65_536
const NONE = new Float64Array(0)

// ---------------------------------------------------------------------------
// what is sent
// ---------------------------------------------------------------------------

/** Bytes with no order in them: where two pieces of a stream look alike, one of them is not where it belongs. */
const PERIOD = 65_521
const pattern = new Uint8Array(PERIOD + READ_BYTES)
for (let i = 0, state = 1; i < pattern.length; i++) {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
  pattern[i] = i < PERIOD ? state >>> 24 : pattern[i - PERIOD]
}

/** The next write. What is timed is the same chunk every time. */
const chunkAt = (position: number, { bytes, isVerified }: Bulk, chunk: Uint8Array): Uint8Array =>
  isVerified ? pattern.subarray(position % PERIOD, (position % PERIOD) + bytes) : chunk

const verify = (position: number, { isVerified, way }: Bulk, bytes: Uint8Array, count = bytes.length): void => {
  if (!isVerified) return
  const start = position % PERIOD
  if (Buffer.compare(bytes.subarray(0, count), pattern.subarray(start, start + count)) === 0) return
  throw new Error(`what came behind ${position} bytes by ${way} is not what was sent`)
}

// ---------------------------------------------------------------------------
// the ways
// ---------------------------------------------------------------------------

const overConnection = (isServer: boolean, connection: Connection.Connection): End => {
  const buffer = new Uint8Array(READ_BYTES)
  const message = new Uint8Array(MESSAGE_BYTES)
  const readMessage = Effect.gen(function* () {
    let count = yield* connection.readInto(message)
    while (count < MESSAGE_BYTES) count += yield* connection.readInto(message.subarray(count))
  })
  const echo = Effect.fnUntraced(function* ({ rounds }: RoundTrips) {
    for (let i = 0; i < rounds; i++) {
      yield* readMessage
      yield* connection.write(message)
    }
    return NONE
  })
  const ask = Effect.fnUntraced(function* ({ rest, rounds }: RoundTrips) {
    const micros = new Float64Array(rounds)
    for (let i = 0; i < rounds; i++) {
      if (rest > 0) yield* Effect.promise(() => setTimeout(rest))
      const start = performance.now()
      yield* connection.write(message)
      yield* readMessage
      micros[i] = (performance.now() - start) * 1000
    }
    return micros
  })
  const read = Effect.fnUntraced(function* (order: Bulk) {
    const total = order.bytes * order.writes
    for (let position = 0; position < total;) {
      const count = yield* connection.readInto(buffer)
      verify(position, order, buffer, count)
      position += count
    }
    return NONE
  })
  const write = Effect.fnUntraced(function* (order: Bulk) {
    const chunk = new Uint8Array(order.bytes)
    for (let i = 0; i < order.writes; i++) yield* connection.write(chunkAt(i * order.bytes, order, chunk))
    return NONE
  })
  const [bulk, roundTrips] = isServer ? [read, echo] : [write, ask]
  return (order) => Effect.runPromise(order.what === "bulk" ? bulk(order) : roundTrips(order))
}

const overSocket = (isServer: boolean, socket: net.Socket): End => {
  socket.setNoDelay(true)
  let onData: (bytes: Uint8Array) => void = () => {}
  socket.on("data", (bytes) => onData(bytes))
  /** Calls back with what arrives, until that was so many bytes. */
  const receive = (total: number, onBytes: (position: number, bytes: Uint8Array) => void) =>
    new Promise<void>((resolve) => {
      let position = 0
      onData = (bytes) => {
        onBytes(position, bytes)
        position += bytes.length
        if (position === total) resolve()
      }
    })
  const echo = async ({ rounds }: RoundTrips) => {
    await receive(rounds * MESSAGE_BYTES, (_, bytes) => void socket.write(bytes))
    return NONE
  }
  const ask = async ({ rest, rounds }: RoundTrips) => {
    const micros = new Float64Array(rounds)
    const message = new Uint8Array(MESSAGE_BYTES)
    let i = 0
    let start = 0
    const next = () => {
      start = performance.now()
      socket.write(message)
    }
    if (rest > 0) await setTimeout(rest)
    next()
    await receive(rounds * MESSAGE_BYTES, (position, bytes) => {
      if (position + bytes.length < (i + 1) * MESSAGE_BYTES) return
      micros[i++] = (performance.now() - start) * 1000
      if (i === rounds) return
      if (rest > 0) void setTimeout(rest).then(next)
      else next()
    })
    return micros
  }
  const read = async (order: Bulk) => {
    await receive(order.bytes * order.writes, (position, bytes) => verify(position, order, bytes))
    return NONE
  }
  const write = async (order: Bulk) => {
    const chunk = new Uint8Array(order.bytes)
    for (let i = 0; i < order.writes; i++) {
      if (!socket.write(chunkAt(i * order.bytes, order, chunk))) await once(socket, "drain")
    }
    return NONE
  }
  const [bulk, roundTrips] = isServer ? [read, echo] : [write, ask]
  return (order) => (order.what === "bulk" ? bulk(order) : roundTrips(order))
}

/** The least that two threads can do with the same copy: a ring, and both busy until it has room or bytes. */
const overRing = (isServer: boolean, { bytes: data, moved: words }: Ring): End => {
  const [writer, reader] = [0, 16]
  const size = data.length
  const buffer = new Uint8Array(READ_BYTES)
  let moved = 0
  const move = (count: number) => {
    moved = (moved + count) | 0
    Atomics.store(words, isServer ? reader : writer, moved)
  }
  const read = (order: Bulk) => {
    const total = order.bytes * order.writes
    for (let position = 0; position < total;) {
      let filled = 0
      while (filled === 0) filled = (Atomics.load(words, writer) - moved) | 0
      const at = moved & (size - 1)
      const count = Math.min(filled, READ_BYTES, size - at)
      NativeCopy.copy(buffer, 0, data, at, at + count)
      move(count)
      verify(position, order, buffer, count)
      position += count
    }
  }
  const write = (order: Bulk) => {
    const chunk = new Uint8Array(order.bytes)
    for (let i = 0; i < order.writes; i++) {
      const bytes = chunkAt(i * order.bytes, order, chunk)
      for (let from = 0; from < bytes.length;) {
        let room = 0
        while (room === 0) room = (Atomics.load(words, reader) + size - moved) | 0
        const at = moved & (size - 1)
        const count = Math.min(bytes.length - from, room, size - at)
        NativeCopy.copy(data, at, bytes, from, from + count)
        move(count)
        from += count
      }
    }
  }
  return async (order) => {
    if (order.what !== "bulk") throw new Error("a bare ring is for streams only")
    if (isServer) read(order)
    else write(order)
    return NONE
  }
}

// ---------------------------------------------------------------------------
// the thread
// ---------------------------------------------------------------------------

const HOST = "127.0.0.1"

const listenTcp = (onSocket: (socket: net.Socket) => void): Promise<number> =>
  new Promise((resolve) => {
    const server = net.createServer(onSocket)
    server.listen(0, HOST, () => resolve((server.address() as net.AddressInfo).port)).unref()
  })

/** One connection of each kind, and who sends back the byte of every other one. */
const serve = Effect.gen(function* () {
  const listener = yield* Application.listen(Endpoint.tcp(HOST, 0))
  const each = yield* Application.listen(Endpoint.tcp(HOST, 0))
  yield* Effect.forkScoped(
    each.run((connection) => {
      const byte = new Uint8Array(1)
      const exchange = Effect.andThen(connection.readInto(byte), connection.write(byte))
      return Effect.andThen(exchange, connection.readInto(byte)).pipe(Pull.catchDone(() => Effect.void))
    })
  )
  const accepted = Promise.withResolvers<net.Socket>()
  const tcp = yield* Effect.promise(() => listenTcp(accepted.resolve))
  const tcpEach = yield* Effect.promise(() =>
    listenTcp((socket) => socket.setNoDelay(true).on("data", (bytes) => socket.write(bytes)))
  )
  parentPort!.postMessage({ ours: listener.address.port, oursEach: each.address.port, tcp, tcpEach } satisfies Ports)
  return { connection: yield* listener.accept, socket: yield* Effect.promise(() => accepted.promise) }
})

const connect = Effect.fnUntraced(function* (ports: Ports) {
  const connection = yield* Application.connect(Endpoint.tcp(HOST, ports.ours))
  const socket = net.connect(ports.tcp, HOST)
  yield* Effect.promise(() => once(socket, "connect"))
  return { connection, socket }
})

const { ports, ring }: Start = workerData
const isServer = ports === undefined

const program = Effect.gen(function* () {
  const { connection, socket } = yield* ports === undefined ? serve : connect(ports)
  const ends: Record<Way, End> = {
    ours: overConnection(isServer, connection),
    tcp: overSocket(isServer, socket),
    ceiling: overRing(isServer, ring)
  }
  parentPort!.on("message", async (order: Order) => {
    if (isServer) parentPort!.postMessage("ready")
    // Whoever has sent the order must not need a core any more.
    else await setTimeout(2)
    const start = process.hrtime.bigint()
    const micros = await ends[order.way](order)
    const end = process.hrtime.bigint()
    parentPort!.postMessage({ nanos: isServer ? end : start, micros } satisfies Report)
  })
  parentPort!.postMessage("ready")
  return yield* Effect.never
})

await Effect.runPromise(
  program.pipe(Effect.scoped, Effect.provide(CutThroughWorker.layer({ name: isServer ? "server" : "client" })))
)
