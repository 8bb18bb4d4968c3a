import { Application, Endpoint } from "@cut-through/core"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { CutThroughNet, CutThroughNode, TcpTransport } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import { fork } from "node:child_process"
import { once } from "node:events"
import * as net from "node:net"
import { buffer, text } from "node:stream/consumers"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import { type NetLike, suite } from "./net-suite.ts"

suite("node:net", (body) => body(net))

suite("CutThroughNet", (body) =>
  CutThroughNet.make.pipe(
    Effect.flatMap((made) => Effect.promise(() => body(made as unknown as NetLike))),
    Effect.scoped,
    Effect.provide(Leaks.layerTest),
    Effect.runPromise
  )
)

/** A test with a `Net` of its own, which is checked for leaks. */
const test = (
  title: string,
  body: (net: CutThroughNet.Net) => Effect.Effect<unknown, unknown, Application.Application | Scope.Scope>
) =>
  it.live(title, () =>
    Effect.flatMap(CutThroughNet.make, body).pipe(Effect.scoped, Effect.provide(Leaks.layerTest), Effect.asVoid)
  )

const HOST = "127.0.0.1"

const promise = Effect.promise

describe("CutThroughNet, apart from that", () => {
  test("meets Effect programs on the same application", (net) =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp(HOST, 7000))
      const socket = net.connect(7000, HOST)
      socket.end("from a socket")
      const connection = yield* listener.accept
      assert.strictEqual(new TextDecoder().decode(yield* connection.read), "from a socket")
      yield* connection.write(new TextEncoder().encode("from a fiber"))
      yield* connection.close
      assert.strictEqual(yield* promise(() => text(socket)), "from a fiber")
    }))

  it.live("closes what is open with its scope", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const net = yield* Scope.provide(CutThroughNet.make, scope)
      const server = net.createServer((socket) => void socket.resume())
      yield* promise(() => once(server.listen(7000, HOST), "listening"))
      const client = net.connect(7000, HOST)
      const [peer] = yield* promise(() => once(server, "connection"))
      const connecting = net.connect(7000, HOST)
      const log: Array<string> = []
      for (const [name, member] of Object.entries({ server, client, peer, connecting })) {
        member.on("error", (error: Error) => log.push(`${name} ${error.message}`))
        member.on("close", () => log.push(name))
      }
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log.toSorted(), ["client", "connecting", "peer", "server"])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.live("resets what is open when its scope fails", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp(HOST, 7000))
      const scope = yield* Scope.make()
      const net = yield* Scope.provide(CutThroughNet.make, scope)
      const client = net.connect(7000, HOST)
      const connection = yield* listener.accept
      yield* promise(() => once(client, "connect"))
      yield* Scope.close(scope, Exit.fail("some reason"))
      const error = yield* Effect.flip(connection.read)
      assert.strictEqual("reason" in error && error.reason._tag, "Reset")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.live("is closed by its application: a server closes, a socket is reset", () =>
    Effect.gen(function* () {
      const application = yield* Scope.make()
      const own = yield* Scope.provide(Application.make({ name: "own" }), application)
      const net = yield* Effect.provideService(CutThroughNet.make, Application.Application, own)
      const listener = yield* Application.listen(Endpoint.tcp(HOST, 7000))
      const server = net.createServer()
      yield* promise(() => once(server.listen(7001, HOST), "listening"))
      const closing = once(server, "close")
      const socket = net.connect(7000, HOST)
      yield* listener.accept
      yield* promise(() => once(socket, "connect"))
      const failing = once(socket, "error")
      yield* Scope.close(application, Exit.void)
      yield* promise(() => closing)
      const [error] = yield* promise(() => failing)
      assert.strictEqual(error.code, "ECONNABORTED")
      assert.strictEqual(error.cause.reason._tag, "Closed")
    }).pipe(
      Effect.scoped,
      Effect.provide(Application.layer({ name: "other" }).pipe(Layer.provideMerge(Leaks.layerSessions())))
    )
  )

  test("says what it cannot do, and what to do instead", (net) =>
    Effect.sync(() => {
      const failures = [
        () => net.connect({ port: 1, onread: { buffer: Buffer.alloc(1), callback: () => true } }),
        () => net.connect({ port: 1, localAddress: HOST }),
        () => net.connect({ port: 1, localPort: 1 }),
        () => new net.Socket({ fd: 0 }),
        () => new net.Socket().connect("/some/path")
      ].map((body) => {
        try {
          body()
          return "nothing"
        } catch (error) {
          return `${(error as any).code}: ${(error as Error).message}`
        }
      })
      assert.deepStrictEqual(failures, [
        "ENOTSUP: the option onread is not supported over cut-through: read with 'data', or use node:net",
        "ENOTSUP: the option localAddress is not supported over cut-through: leave it out",
        "ENOTSUP: the option localPort is not supported over cut-through: leave it out",
        "ENOTSUP: a handle or a file descriptor is not supported over cut-through: use a Socket of node:net for it",
        "ENOTSUP: a path is not supported over cut-through: use connect of this module, which returns a socket of node:net for it"
      ])
    }))

  test("keeps the session error as the cause", (net) =>
    Effect.gen(function* () {
      const socket = net.connect(1, HOST)
      const [error] = yield* promise(() => once(socket, "error"))
      assert.strictEqual(error.cause.reason._tag, "NoRoute")
    }))

  test("what was written arrives although not all was read, and whenever it is read", (net) =>
    promise(async () => {
      const server = net.createServer({ pauseOnConnect: true })
      await once(server.listen(7000, HOST), "listening")
      const accepted = once(server, "connection")
      const socket = net.connect(7000, HOST).pause()
      await new Promise((resolve) => socket.write("a request that is too long", resolve))
      const [peer] = (await accepted) as [CutThroughNet.Socket]
      peer.write(Buffer.alloc(50_000))
      peer.destroy()
      await once(peer, "close")
      assert.strictEqual((await buffer(socket)).length, 50_000)
    }))

  test("what has arrived comes before the error of what cannot be written any more", (net) =>
    promise(async () => {
      const server = net.createServer((socket) => {
        socket.write("too many connections")
        socket.destroy()
      })
      await once(server.listen(7000, HOST), "listening")
      for (const event of ["data", "readable"]) {
        const socket = net.connect(7000, HOST)
        const log: Array<string> = []
        socket.on("error", ({ code }: NodeJS.ErrnoException) => log.push(code!))
        if (event === "data") socket.on("data", (data) => log.push(String(data)))
        else {
          socket.on("readable", () => {
            const data = socket.read()
            if (data !== null) log.push(String(data))
          })
        }
        const over = new Promise((resolve) => socket.once("close", resolve))
        socket.write("hello")
        await over
        assert.deepStrictEqual(log, ["too many connections", "EPIPE"])
      }
    }))

  it.live("runs over layers of one's own", () =>
    promise(async () => {
      const own = CutThroughNet.makeRuntime(
        Application.layer({ name: "own" }).pipe(Layer.provideMerge(SessionLayer.layer()))
      )
      const server = own.createServer((socket) => socket.end("own"))
      await once(server.listen(7000, HOST), "listening")
      assert.strictEqual(await text(own.connect(7000, HOST)), "own")
      // Another runtime is another world.
      await using other = CutThroughNet.makeRuntime(
        CutThroughNode.layerSessions({ name: "other" }).pipe((sessions) =>
          Application.layer({ name: "other" }).pipe(Layer.provideMerge(sessions))
        )
      )
      const [error] = await once(other.connect(7000, HOST), "error")
      assert.strictEqual(error.code, "ECONNREFUSED")
      await own.dispose()
      assert.isFalse(server.listening)
    })
  )

  it.live("fails with what its layer fails with", () =>
    promise(async () => {
      await using broken = CutThroughNet.makeRuntime(
        Application.layer({ name: "", rxFifoSize: -1 }).pipe(Layer.provideMerge(SessionLayer.layer()))
      )
      const [refused] = await once(broken.connect(7000, HOST), "error")
      assert.deepStrictEqual([refused.code, refused.syscall], ["EINVAL", "connect"])
      const [failed] = await once(broken.createServer().listen(7000, HOST), "error")
      assert.deepStrictEqual([failed.code, failed.syscall], ["EINVAL", "listen"])
    })
  )

  it.live("needs nothing to be set up", () =>
    promise(async () => {
      const server = CutThroughNet.createServer((socket) => socket.pipe(socket))
      await once(server.listen(0), "listening")
      const { port } = server.address() as net.AddressInfo
      const socket = CutThroughNet.createConnection({ port, host: HOST })
      assert.instanceOf(socket, CutThroughNet.Socket)
      socket.end("default")
      assert.strictEqual(await text(socket), "default")
      await once(server.close(), "close")
    })
  )
})

describe("with TCP beside it", () => {
  const withTcp = async (body: (both: CutThroughNet.Net) => Promise<void>) => {
    await using both = CutThroughNet.makeRuntime(
      TcpTransport.layer().pipe(
        Layer.provideMerge(Application.layer({ name: "both" })),
        Layer.provideMerge(CutThroughNode.layerSessions({ name: "both" }))
      )
    )
    await body(both)
  }

  it("a server takes connections from both, on every address and on one", () =>
    withTcp(async (both) => {
      for (const host of [undefined, HOST]) {
        const server = both.createServer((socket) => {
          socket.end(`${socket.remoteAddress} ${socket.remoteFamily} to port ${socket.localPort}`)
        })
        await once(server.listen({ port: 0, host }), "listening")
        const { port } = server.address() as net.AddressInfo
        const expected = `${host === undefined ? "::ffff:127.0.0.1 IPv6" : "127.0.0.1 IPv4"} to port ${port}`
        assert.strictEqual(await text(both.connect(port, HOST)), expected)
        assert.strictEqual(await text(net.connect(port, HOST)), expected)
        await once(server.close(), "close")
      }
    }))

  it("a socket reaches whoever is not here", () =>
    withTcp(async (both) => {
      const server = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket))
      await once(server.listen(0, HOST), "listening")
      const socket = both.connect((server.address() as net.AddressInfo).port, HOST)
      const sent = Buffer.alloc(500_000, "to somewhere else ")
      socket.end(sent)
      assert.isTrue((await buffer(socket)).equals(sent))
      server.close()
      await once(server, "close")
      const [error] = await once(both.connect(socket.remotePort!, HOST), "error")
      assert.deepStrictEqual([error.code, error.syscall], ["ECONNREFUSED", "connect"])
    }))

  it("fails as the system does", () =>
    withTcp(async (both) => {
      const server = net.createServer((socket) => void socket.once("data", () => socket.resetAndDestroy()))
      await once(server.listen(0, HOST), "listening")
      const { port } = server.address() as net.AddressInfo
      const [taken] = await once(both.createServer().listen(port, HOST), "error")
      assert.strictEqual(taken.code, "EADDRINUSE")
      const socket = both.connect(port, HOST).resume()
      socket.write("break off")
      const [broken] = await once(socket, "error")
      assert.strictEqual(broken.code, "ECONNRESET")
      server.close()
      await once(server, "close")
    }))
})

describe("threads", () => {
  it("talk to each other, and end when they have nothing more to do", async () => {
    const sent = Buffer.alloc(1_000_000, "between threads ")
    const server = CutThroughNet.createServer({ allowHalfOpen: true })
    await once(server.listen(0, HOST), "listening")
    const { port } = server.address() as net.AddressInfo
    const thread = new Worker(new URL("./net-thread.ts", import.meta.url), { workerData: port })
    const ended = once(thread, "exit")
    const [socket] = (await once(server, "connection")) as [CutThroughNet.Socket]
    let heard = ""
    // Not by iteration, which destroys what it has read.
    socket.on("data", (data) => (heard += data))
    await once(socket, "end")
    const called = CutThroughNet.connect(Number(heard), HOST)
    called.end(sent)
    assert.isTrue((await buffer(called)).equals(sent))
    socket.end("from the main thread")
    const [answer] = await once(thread, "message")
    assert.strictEqual(answer, "from the main thread")
    assert.deepStrictEqual(await ended, [0])
    await once(server.close(), "close")
  })
})

/** What a process does, and whether it goes on living when it has done it. */
const lives: { readonly [name: string]: boolean } = {
  nothing: false,
  "a server": true,
  "a server without a reference": false,
  "a server without a reference from the start": false,
  "a server that has its reference again": true,
  "a closed server": false,
  "a client": true,
  "a client without a reference": false,
  "a client without a reference from the start": false,
  "a client that has its reference again": true,
  "a destroyed client": false,
  "a client that has read the end": false,
  "a client with a timeout and without a reference": false
}

describe.concurrent("a process", () => {
  for (const flavor of ["node:net", "CutThroughNet"] as const) {
    for (const [name, isAlive] of Object.entries(lives)) {
      it(`${flavor}, ${name}: it ${isAlive ? "lives" : "ends"}`, async () => {
        const file = fileURLToPath(new URL("./net-process.ts", import.meta.url))
        const child = fork(file, [flavor, name], { stdio: ["ignore", "pipe", "pipe", "ipc"] })
        let output = ""
        for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => (output += chunk))
        const ended = once(child, "close")
        let answers = 0
        child.on("message", (message) => {
          // As many answers of somebody who has nothing more to do are not the last breath.
          if (message === "alive" && ++answers === 10) return void child.send("finish")
          child.send("ping", () => {})
        })
        const [code] = await ended
        assert.deepStrictEqual([code, output, answers >= 10], [0, "", isAlive])
      })
    }
  }
})
