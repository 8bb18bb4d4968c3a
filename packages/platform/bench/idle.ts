/**
 * What an open connection holds while nobody uses it: resident memory of both ends, after a byte each way, and of TCP
 * also what the kernel has for it. Each figure comes from processes of its own, which have done nothing else.
 */
import { Application, type Connection, Endpoint } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import { Effect } from "effect"
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import * as net from "node:net"
import { fileURLToPath } from "node:url"

const HOST = "127.0.0.1"
/** Connections that come and go before the first look: what they leave behind is code. */
const WARM_UPS = 500
const PAGE = 4096

type Role = "ours" | "tcp-server" | "tcp-client"

interface Task {
  readonly role: Role
  readonly connections: number
  /** Of the server. */
  readonly port: number
}

// ---------------------------------------------------------------------------
// in a process of its own
// ---------------------------------------------------------------------------

const resident = (): number => {
  // Twice: what finalizers of the first let go of, the second collects.
  globalThis.gc?.()
  globalThis.gc?.()
  return process.memoryUsage.rss()
}

const say = (message: unknown): Promise<void> => new Promise((resolve) => process.send!(message, () => resolve()))

/** The next thing that this process is told. */
const told = (): Promise<unknown> => new Promise((resolve) => process.once("message", resolve))

const ours = ({ connections }: Task) =>
  Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp(HOST, 0))
    const byte = Uint8Array.of(7)
    const open = Effect.gen(function* () {
      const client = yield* Application.connect(listener.address)
      const server = yield* listener.accept
      for (const [from, to] of [
        [client, server],
        [server, client]
      ]) {
        yield* from.write(byte)
        yield* to.readInto(byte)
        if (byte[0] !== 7) throw new Error("a connection's byte was changed")
      }
      return [client, server] as const
    })
    for (let i = 0; i < WARM_UPS; i++) yield* Effect.scoped(open)
    const before = resident()
    const kept: Array<readonly [Connection.Connection, Connection.Connection]> = []
    for (let i = 0; i < connections; i++) kept.push(yield* open)
    yield* Effect.promise(() => say(resident() - before))
    // Whatever the collector thinks of them, they are open until here.
    return kept.length
  }).pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))

const tcpServer = async ({ connections }: Task): Promise<void> => {
  const kept = new Set<net.Socket>()
  let wasKept: () => void = () => {}
  const server = net.createServer((socket) => {
    kept.add(socket)
    socket.on("close", () => kept.delete(socket)).on("error", () => {})
    socket.on("data", (bytes) => {
      socket.write(bytes)
      wasKept()
    })
  })
  server.listen(0, HOST)
  await once(server, "listening")
  await say((server.address() as net.AddressInfo).port)
  await told()
  const before = resident()
  await say("ready")
  await told()
  if (kept.size !== connections) throw new Error(`${kept.size} connections are open instead of ${connections}`)
  await say(resident() - before)
}

const tcpClient = async ({ connections, port }: Task): Promise<void> => {
  const open = async (): Promise<net.Socket> => {
    const socket = net.connect(port, HOST)
    socket.write(Uint8Array.of(7))
    const [bytes] = await once(socket, "data")
    if (bytes[0] !== 7) throw new Error("a connection's byte was changed")
    return socket
  }
  for (let i = 0; i < WARM_UPS; i++) {
    const socket = (await open()).end()
    await once(socket.resume(), "close")
  }
  await say("warm")
  await told()
  const before = resident()
  const kept: Array<net.Socket> = []
  for (let i = 0; i < connections; i++) kept.push(await open())
  await say(resident() - before)
  await told()
  if (kept.some((socket) => socket.destroyed)) throw new Error("a connection has closed")
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.send !== undefined) {
  process.once("message", async (task: Task) => {
    if (task.role === "ours") await Effect.runPromise(ours(task))
    else await (task.role === "tcp-server" ? tcpServer(task) : tcpClient(task))
    process.exit()
  })
}

// ---------------------------------------------------------------------------
// from outside
// ---------------------------------------------------------------------------

/** Bytes that the kernel has for sockets: buffers and tables. Zero where it does not say. */
const kernelBytes = (): number => {
  const fieldOf = (path: string, pattern: RegExp): number => {
    try {
      return Number(pattern.exec(readFileSync(path, "utf8"))?.[1] ?? 0)
    } catch {
      return 0
    }
  }
  return (
    fieldOf("/proc/meminfo", /^Slab:\s+(\d+) kB/m) * 1024 + fieldOf("/proc/net/sockstat", /^TCP:.* mem (\d+)/m) * PAGE
  )
}

const startProcess = (task: Task): ChildProcess => {
  const child = fork(fileURLToPath(import.meta.url), { execArgv: [...process.execArgv, "--expose-gc"] })
  child.send(task)
  return child
}

const next = async <A>(child: ChildProcess): Promise<A> => {
  const failed = once(child, "exit").then(([code]) => {
    throw new Error(`a process that holds connections has ended with ${code}`)
  })
  failed.catch(() => {})
  const [message] = await Promise.race([once(child, "message"), failed])
  return message
}

/** Bytes for each of so many open connections. The two ends of TCP are in two processes: one may not have so many files. */
export const idleBytes = async (way: "ours" | "tcp", connections: number): Promise<number> => {
  const children: Array<ChildProcess> = []
  const begin = (role: Role, port: number): ChildProcess => {
    const child = startProcess({ role, connections, port })
    children.push(child)
    return child
  }
  try {
    if (way === "ours") return (await next<number>(begin("ours", 0))) / connections
    const server = begin("tcp-server", 0)
    const client = begin("tcp-client", await next<number>(server))
    await next(client)
    server.send("measure")
    await next(server)
    const before = kernelBytes()
    client.send("open")
    const ofClient = await next<number>(client)
    server.send("measure")
    const ofServer = await next<number>(server)
    return (ofClient + ofServer + kernelBytes() - before) / connections
  } finally {
    for (const child of children) child.kill()
  }
}
