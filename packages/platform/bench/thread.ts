/**
 * What bytes and connections between two threads cost, beside loopback TCP between the same two threads, and beside the
 * barest ring that they can have. `--json` prints one object.
 */
import { Application, Endpoint } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { on, once } from "node:events"
import * as net from "node:net"
import { Worker } from "node:worker_threads"
import type { Order, Ports, Report, Ring, Start, Way } from "./ends.ts"
import { type Case, type Figure, median, print, ratioOf } from "./report.ts"

/** Turns that do not count: V8 takes about so many to compile what runs in them. */
const WARM_UPS = 4
const PAIRS = 15

const MEBI = 2 ** 20

/** Bytes of a write, what a case with it is called, and the bytes of one leg: TCP's take as long with fewer. */
const SIZES = [
  { bytes: 64, name: "64B", total: 4 * MEBI, totalTcp: MEBI },
  { bytes: 1024, name: "1KiB", total: 32 * MEBI, totalTcp: 8 * MEBI },
  { bytes: 16_384, name: "16KiB", total: 128 * MEBI, totalTcp: 32 * MEBI },
  { bytes: 65_536, name: "64KiB", total: 256 * MEBI, totalTcp: 64 * MEBI }
]

const ROUNDS = 5000
const ROUNDS_TCP = 1000
const ROUNDS_PARKED = 25
/** Long enough for both threads to park. */
const REST_MILLIS = 3
const CONNECTS = 200

/** As much as a connection has for each direction. */
const RING_BYTES = 128 * 1024

// ---------------------------------------------------------------------------
// the threads
// ---------------------------------------------------------------------------

class Thread {
  readonly worker: Worker
  private readonly messages: AsyncIterator<Array<any>>

  constructor(ring: Ring, ports: Ports | undefined) {
    const workerData: Start = { ring, ports }
    this.worker = new Worker(new URL("./ends.ts", import.meta.url), { workerData })
    this.messages = on(this.worker, "message")
  }

  order(order: Order): void {
    this.worker.postMessage(order)
  }

  /** The next thing it says. Rejects when it fails. */
  async next<A>(): Promise<A> {
    return (await this.messages.next()).value[0]
  }
}

interface Threads {
  readonly server: Thread
  readonly client: Thread
  readonly ports: Ports
}

const threads = Effect.acquireRelease(
  Effect.promise(async (): Promise<Threads> => {
    const ring: Ring = {
      moved: new Int32Array(new SharedArrayBuffer(128)),
      bytes: new Uint8Array(new SharedArrayBuffer(RING_BYTES))
    }
    const server = new Thread(ring, undefined)
    const ports = await server.next<Ports>()
    const client = new Thread(ring, ports)
    await Promise.all([server.next(), client.next()])
    return { server, client, ports }
  }),
  ({ client, server }) => Effect.promise(() => Promise.all([client.worker.terminate(), server.worker.terminate()]))
)

/** What a stream or round trips took: in nanoseconds all in all, and in microseconds each. */
const run = async ({ client, server }: Threads, order: Order): Promise<{ nanos: number; micros: Float64Array }> => {
  server.order(order)
  await server.next()
  client.order(order)
  const from = await client.next<Report>()
  const to = await server.next<Report>()
  return { nanos: Number(to.nanos - from.nanos), micros: from.micros }
}

// ---------------------------------------------------------------------------
// cases
// ---------------------------------------------------------------------------

/** The legs in turn, so that what the machine does meanwhile happens to all. The first turns do not count. */
const inTurn = async <A>(warmUps: number, ...legs: ReadonlyArray<() => Promise<A>>): Promise<Array<Array<A>>> => {
  const figures = legs.map(() => new Array<A>())
  for (let pair = -warmUps; pair < PAIRS; pair++) {
    for (const [at, leg] of legs.entries()) {
      const figure = await leg()
      if (pair >= 0) figures[at].push(figure)
    }
  }
  return figures
}

const caseOf = (
  name: string,
  peer: string,
  unit: Figure["unit"],
  ours: ReadonlyArray<number>,
  theirs: ReadonlyArray<number>
): Case => ({
  name,
  peer,
  ratio: ratioOf(ours.map((figure, i) => (unit === "us" ? theirs[i] / figure : figure / theirs[i]))),
  ours: { median: median(ours), unit },
  theirs: { median: median(theirs), unit }
})

const bulk = async (on: Threads, name: string, size: (typeof SIZES)[number], peers: ReadonlyArray<Way>) => {
  const { bytes } = size
  const leg = async (way: Way, isVerified: boolean) => {
    const writes = (way === "tcp" ? size.totalTcp : size.total) / bytes
    const { nanos } = await run(on, { what: "bulk", way, bytes, writes, isVerified })
    return (writes * bytes) / nanos
  }
  const ways: ReadonlyArray<Way> = ["ours", ...peers]
  for (const way of ways) await leg(way, true)
  const [ours, ...theirs] = await inTurn(WARM_UPS, ...ways.map((way) => () => leg(way, false)))
  return peers.map((peer, i) => caseOf(name, peer, "GB/s", ours, theirs[i]))
}

const roundTrips = async (on: Threads, name: string, rounds: number, roundsTcp: number, rest: number) => {
  const leg = async (way: Way, rounds: number) => {
    const { micros } = await run(on, { what: "round trips", way, rounds, rest })
    const sorted = micros.toSorted()
    const quantile = (fraction: number) => sorted[Math.floor((rounds - 1) * fraction)]
    return { p50: quantile(0.5), p99: quantile(0.99) }
  }
  const [ours, tcp] = await inTurn(
    WARM_UPS,
    () => leg("ours", rounds),
    () => leg("tcp", roundsTcp)
  )
  const p50s = (figures: typeof ours) => figures.map(({ p50 }) => p50)
  const p99 = (figures: typeof ours) => median(figures.map(({ p99 }) => p99))
  const all = caseOf(name, "tcp", "us", p50s(ours), p50s(tcp))
  return { ...all, ours: { ...all.ours, p99: p99(ours) }, theirs: { ...all.theirs, p99: p99(tcp) } }
}

/** With two processes beside that never rest. */
const whileBusy = async <A>(measure: () => Promise<A>): Promise<A> => {
  // They end by themselves should this process be killed.
  const busy = ["-e", "const end = Date.now() + 120_000; while (Date.now() < end);"]
  const processes = [spawn(process.execPath, busy), spawn(process.execPath, busy)]
  try {
    return await measure()
  } finally {
    for (const child of processes) child.kill("SIGKILL")
  }
}

/** Connects from this thread, sends a byte there and back, and closes. */
const oursEach = Effect.fnUntraced(function* (port: number) {
  const byte = new Uint8Array(1)
  const exchange = Effect.gen(function* () {
    const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
    yield* connection.write(byte)
    yield* connection.readInto(byte)
  }).pipe(Effect.scoped)
  const start = performance.now()
  for (let i = 0; i < CONNECTS; i++) yield* exchange
  return ((performance.now() - start) * 1000) / CONNECTS
})

const tcpEach = async (port: number): Promise<number> => {
  const byte = new Uint8Array(1)
  const start = performance.now()
  for (let i = 0; i < CONNECTS; i++) {
    const socket = net.connect(port, "127.0.0.1").setNoDelay(true)
    socket.write(byte)
    socket.once("data", () => socket.end())
    await once(socket, "close")
  }
  return ((performance.now() - start) * 1000) / CONNECTS
}

const all = Effect.gen(function* () {
  const on = yield* threads
  const runPromise = Effect.runPromiseWith(yield* Effect.context<Application.Application>())
  return yield* Effect.promise(async () => {
    const cases: Array<Case> = []
    for (const size of SIZES) {
      cases.push(...(await bulk(on, `bulk-thread-${size.name}`, size, ["tcp", "ceiling"])))
    }
    cases.push(await roundTrips(on, "rtt-thread-64B-polling", ROUNDS, ROUNDS_TCP, 0))
    cases.push(await roundTrips(on, "rtt-thread-64B-parked", ROUNDS_PARKED, ROUNDS_PARKED, REST_MILLIS))
    await whileBusy(async () => {
      cases.push(...(await bulk(on, "busy-machine-bulk-64KiB", SIZES[3], ["tcp"])))
      cases.push(await roundTrips(on, "busy-machine-rtt-64B", ROUNDS_TCP, ROUNDS_TCP, 0))
    })
    const { ports } = on
    const [ours, tcp] = await inTurn(
      2,
      () => runPromise(oursEach(ports.oursEach)),
      () => tcpEach(ports.tcpEach)
    )
    cases.push(caseOf("connect-thread", "tcp", "us", ours, tcp))
    return cases
  })
})

print(await Effect.runPromise(all.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))))
