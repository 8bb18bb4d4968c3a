/**
 * The echo server for others: as a process that strangers talk to, and for applications of its own process.
 */
import { Application, Endpoint, Sessions } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { TestClock, TestConsole } from "effect/testing"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as net from "node:net"
import { join } from "node:path"
import { setImmediate } from "node:timers/promises"
import { program } from "./Program.ts"
import { GRACE_SECONDS } from "./Serve.ts"

const main = join(import.meta.dirname, "main.ts")

const NOTHING_LEFT = "closed; left: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes"

/** The program as it is run. */
class Server implements AsyncDisposable {
  private readonly child
  private readonly closed: Promise<unknown>
  stdout = ""
  stderr = ""

  constructor(...args: ReadonlyArray<string>) {
    this.child = spawn(process.execPath, ["--conditions=@cut-through/source", main, ...args], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    this.closed = once(this.child, "close")
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => (this.stdout += text))
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => (this.stderr += text))
  }

  /** Waits until this is printed. */
  async printed(pattern: RegExp): Promise<RegExpExecArray> {
    while (true) {
      const match = pattern.exec(this.stdout)
      if (match !== null) return match
      assert.isNull(this.child.exitCode, this.stderr)
      await Promise.race([once(this.child.stdout, "data"), this.closed])
    }
  }

  async port(): Promise<number> {
    return Number((await this.printed(/^echo server on 127\.0\.0\.1:(\d+), until Ctrl-C$/m))[1])
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  async exit(): Promise<number | null> {
    await this.closed
    return this.child.exitCode
  }

  async [Symbol.asyncDispose]() {
    this.child.kill("SIGKILL")
    await this.closed
  }
}

/** On a port of the kernel's choice: session layers all begin at the same one, and so do tests that run beside this. */
const serve = async (): Promise<Server> => {
  const other = net.createServer().listen(0, "127.0.0.1")
  await once(other, "listening")
  const { port } = other.address() as net.AddressInfo
  await once(other.close(), "close")
  return new Server("--serve", `tcp://127.0.0.1:${port}`)
}

const connect = async (port: number): Promise<net.Socket> => {
  const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true })
  await once(socket, "connect")
  return socket
}

/** Whether somebody else can have it. */
const isFree = async (port: number): Promise<boolean> => {
  const server = net.createServer().listen(port, "127.0.0.1")
  await once(server, "listening")
  await once(server.close(), "close")
  return true
}

const refusal = async (port: number): Promise<unknown> => {
  const [error] = await once(net.connect(port, "127.0.0.1"), "error").catch((error) => [error])
  return error.code
}

describe("--serve", () => {
  it("echoes what a client is in the middle of when Ctrl-C comes, then exits with 0", async () => {
    await using server = await serve()
    const port = await server.port()
    const socket = await connect(port)
    const { localPort } = socket
    // More than all the buffers on the way can hold.
    const sent = Buffer.alloc(32 * 1024 * 1024, "0123456789abcdef!")
    const received: Array<Buffer> = []
    socket.on("data", (bytes) => received.push(bytes))
    socket.write(sent.subarray(0, sent.length / 2))
    await once(socket, "data")
    socket.pause()
    server.signal("SIGINT")
    await server.printed(/^waiting for 1 connection: /m)
    assert.strictEqual(await refusal(port), "ECONNREFUSED")
    socket.end(sent.subarray(sent.length / 2))
    socket.resume()
    await once(socket, "close")
    const all = Buffer.concat(received)
    assert.strictEqual(all.length, sent.length)
    assert.isTrue(all.equals(sent))
    assert.strictEqual(await server.exit(), 0)
    assert.strictEqual(server.stderr, "")
    assert.deepStrictEqual(server.stdout.trimEnd().split("\n"), [
      `echo server on 127.0.0.1:${port}, until Ctrl-C`,
      `127.0.0.1:${localPort} connected (tcp)`,
      `waiting for 1 connection: for ${GRACE_SECONDS} seconds, or until the next Ctrl-C`,
      NOTHING_LEFT
    ])
    assert.isTrue(await isFree(port))
  })

  it("talks to nc, or to what a shell has instead", async () => {
    await using server = await serve()
    const port = await server.port()
    const hasNc = spawnSync("nc", ["-h"]).error === undefined
    const shell = `exec 3<>/dev/tcp/127.0.0.1/${port}; cat <&3 & cat >&3; kill $!`
    const client = hasNc ? spawn("nc", ["127.0.0.1", String(port)]) : spawn("bash", ["-c", shell])
    client.stdin.write("hello\n")
    const [echoed] = await once(client.stdout, "data")
    assert.strictEqual(String(echoed), "hello\n")
    const gone = once(client, "close")
    // A shell ends with its input, nc may wait for the server to end first.
    client.stdin.end()
    if (hasNc) client.kill()
    server.signal("SIGTERM")
    assert.strictEqual(await server.exit(), 0)
    await gone
    assert.include(server.stdout, NOTHING_LEFT)
  })

  it("serves many, and breaks those off that are still there at the next signal", async () => {
    await using server = await serve()
    const port = await server.port()
    const sockets = await Promise.all(Array.from({ length: 20 }, () => connect(port)))
    for (const [i, socket] of sockets.entries()) socket.write(`I am ${i}`)
    for (const [i, socket] of sockets.entries())
      assert.strictEqual(String((await once(socket, "data"))[0]), `I am ${i}`)
    server.signal("SIGTERM")
    await server.printed(/^waiting for 20 connections: /m)
    const errors = sockets.map((socket) => once(socket, "error"))
    // Those that come at once may be the same one, passed on.
    const again = setInterval(() => server.signal("SIGINT"), 300)
    // Once it has heard, another one would find it without handlers, on its way out.
    await server.printed(/^breaking off/m)
    clearInterval(again)
    for (const [error] of await Promise.all(errors)) assert.strictEqual(error.code, "ECONNRESET")
    assert.strictEqual(await server.exit(), 0)
    assert.match(server.stdout, new RegExp(`\nbreaking off what is open: told again\n${NOTHING_LEFT}\n$`))
    assert.isTrue(await isFree(port))
  })

  it("goes on when a client breaks off", async () => {
    await using server = await serve()
    const port = await server.port()
    const broken = await connect(port)
    broken.write("hello")
    await once(broken, "data")
    broken.resetAndDestroy()
    const socket = await connect(port)
    socket.end("still there?")
    assert.strictEqual(String((await once(socket, "data"))[0]), "still there?")
    await once(socket, "end")
    server.signal("SIGINT")
    assert.strictEqual(await server.exit(), 0)
    assert.strictEqual(server.stderr, "")
    assert.notInclude(server.stdout, "waiting")
  })

  it("says so when the port is taken", async () => {
    const other = net.createServer().listen(0, "127.0.0.1")
    await once(other, "listening")
    const { port } = other.address() as net.AddressInfo
    await using server = new Server("--serve", `tcp://127.0.0.1:${port}`)
    assert.strictEqual(await server.exit(), 1)
    assert.match(server.stderr, new RegExp(`^echo: cannot listen on 127\\.0\\.0\\.1:${port}: it is taken\\..*\n$`))
    await once(other.close(), "close")
  })

  const layer = Layer.merge(CutThroughNode.layerSessions(), NodeFileSystem.layer)

  for (const [args, message] of [
    [["--serve", "7000"], 'cannot serve: the endpoint is "7000": expected tcp://ADDRESS:PORT, for example'],
    [["--serve", "http://127.0.0.1:80"], 'cannot serve: the endpoint is "http://127.0.0.1:80": expected tcp://'],
    [["--serve", "tcp://127.0.0.1:99999"], "cannot serve: the port is 99999: expected an integer from 0 to 65535"],
    [["--serve", "tcp://example.com:80"], 'cannot serve: the address is "example.com": expected an IPv4 or IPv6'],
    [["--serve", ""], 'cannot serve: the endpoint is "": expected tcp://ADDRESS:PORT, for example'],
    [["--serve"], "Option '--serve <value>' argument missing (see --help)"],
    [["--serve", "tcp://127.0.0.1:0", main], "--serve takes neither a file nor --json (see --help)"],
    [["--serve", "tcp://127.0.0.1:0", "--json"], "--serve takes neither a file nor --json (see --help)"]
  ] as const) {
    it.effect(`refuses ${args.slice(0, 3).map((arg) => JSON.stringify(arg.split("/").at(-1)))}`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* program(args, []), 2)
        const [line, ...others] = yield* TestConsole.errorLines
        assert.isTrue(String(line).startsWith(`echo: ${message}`), String(line))
        assert.deepStrictEqual([others, yield* TestConsole.logLines], [[], []])
      }).pipe(Effect.provide(layer))
    )
  }

  it.effect("applications of its process are served by cut-through, and reset when their time is over", () =>
    Effect.gen(function* () {
      const serving = yield* Effect.forkChild(program(["--serve", "tcp://127.0.0.1:0"], []))
      const printed = Effect.fnUntraced(function* (pattern: RegExp) {
        while (true) {
          for (const line of yield* TestConsole.logLines) {
            const match = pattern.exec(String(line))
            if (match !== null) return match
          }
          yield* Effect.promise(() => setImmediate())
        }
      })
      const [, port] = yield* printed(/^echo server on 127\.0\.0\.1:(\d+),/)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const client = yield* Application.make({ name: "neighbour" })
          const connection = yield* client.connect(Endpoint.tcp("127.0.0.1", Number(port)))
          assert.strictEqual(connection.info.path, "fiber")
          yield* connection.write(new TextEncoder().encode("hello"))
          assert.strictEqual(new TextDecoder().decode(yield* connection.read), "hello")
          yield* printed(/^127\.0\.0\.1:\d+ connected \(fiber\)$/)

          const stopping = yield* Effect.forkChild(Fiber.interrupt(serving))
          yield* printed(/^waiting for 1 connection: /)
          yield* TestClock.adjust(`${GRACE_SECONDS - 1} seconds`)
          yield* connection.write(new TextEncoder().encode("still there?"))
          assert.strictEqual(new TextDecoder().decode(yield* connection.read), "still there?")
          yield* TestClock.adjust("1 second")
          const error = yield* Effect.flip(connection.read)
          assert.strictEqual(error._tag === "SessionError" && error.reason._tag, "Reset")
          yield* printed(/^breaking off what is open: time is over$/)
          yield* Fiber.join(stopping)
        })
      )
      for (const [what, count] of Object.entries(yield* Sessions.residue)) assert.strictEqual(count, 0, what)
    }).pipe(Effect.provide(layer))
  )
})
