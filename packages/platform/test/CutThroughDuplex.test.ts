import { Application, type Connection, Endpoint, SessionError } from "@cut-through/core"
import { CutThroughDuplex } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { once } from "node:events"
import type * as net from "node:net"
import { buffer, text } from "node:stream/consumers"
import { codeOf, fromSessionError } from "../src/internal/nodeError.ts"

const endpoint = Endpoint.tcp("127.0.0.1", 7000)

/** A test with an application of its own, which is checked for leaks. */
const test = (title: string, body: Effect.Effect<unknown, unknown, Application.Application | Scope.Scope>) =>
  it.live(title, () => body.pipe(Effect.scoped, Effect.provide(Leaks.layerTest), Effect.asVoid))

const paired = Effect.gen(function* () {
  const listener = yield* Application.listen(endpoint)
  const client = yield* Application.connect(endpoint)
  return { client, server: yield* listener.accept }
})

const bytes = (value: string) => new TextEncoder().encode(value)
const string = (value: Uint8Array) => new TextDecoder().decode(value)
const promise = Effect.promise

/** The same connection as one that somebody else has made. */
const foreign = (connection: Connection.Connection, own: Partial<Connection.Connection> = {}): Connection.Connection =>
  new Proxy(own as Connection.Connection, {
    get: (own, key: keyof Connection.Connection) => own[key] ?? connection[key]
  })

describe("CutThroughDuplex", () => {
  test(
    "connects, and closes with its scope when all has arrived",
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const scope = yield* Scope.make()
      const duplex = yield* Scope.provide(CutThroughDuplex.make(endpoint), scope)
      const server = yield* listener.accept
      const sent = Buffer.alloc(1_000_000, "x")
      // More than the FIFO takes: the rest waits in the stream.
      duplex.write(sent)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      let count = 0
      while (count < sent.length) count += (yield* server.read).length
      yield* server.close
      yield* Fiber.join(closing)
      assert.isTrue(duplex.destroyed)
      assert.strictEqual(count, sent.length)
    })
  )

  test(
    "resets when its scope fails",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const scope = yield* Scope.make()
      const duplex = yield* Scope.provide(CutThroughDuplex.fromConnection(client), scope)
      yield* Scope.close(scope, Exit.fail("some reason"))
      assert.isTrue(duplex.destroyed)
      const error = yield* Effect.flip(server.read)
      assert.strictEqual("reason" in error && error.reason._tag, "Reset")
    })
  )

  test(
    "closes nothing twice",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const scope = yield* Scope.make()
      const duplex = yield* Scope.provide(CutThroughDuplex.fromConnection(client), scope)
      const log: Array<string> = []
      for (const event of ["error", "close"]) duplex.on(event, () => log.push(event))
      duplex.destroy()
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log, ["close"])
      assert.strictEqual((yield* Effect.flip(server.read))._tag, "Done")
    })
  )

  test(
    "fails to connect as an application does",
    Effect.gen(function* () {
      const error = yield* Effect.flip(CutThroughDuplex.make(endpoint))
      assert.strictEqual(error.reason._tag, "NoRoute")
    })
  )

  test(
    "notices that its connection's scope has closed",
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const scope = yield* Scope.make()
      const duplex = CutThroughDuplex.fromConnectionUnsafe(yield* Scope.provide(Application.connect(endpoint), scope))
      yield* listener.accept
      const failed = once(duplex, "error")
      yield* Scope.close(scope, Exit.void)
      const [error] = yield* promise(() => failed)
      assert.deepStrictEqual([error.code, error.syscall], ["ECONNABORTED", "read"])
    })
  )

  test(
    "reads nothing that nobody wants",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(server, { highWaterMark: 16 })
      duplex.pause()
      const writing = yield* Effect.forkChild(client.write(new Uint8Array(1_000_000)), { startImmediately: true })
      yield* promise(() => once(duplex, "readable"))
      yield* promise(() => new Promise(setImmediate))
      // One chunk, the first one that was too much.
      assert.strictEqual(duplex.bytesRead, duplex.readableLength)
      assert.isAtMost(duplex.bytesRead, 65_536)
      assert.strictEqual(server.info.bytesReceived, duplex.bytesRead)
      assert.isUndefined(writing.pollUnsafe())
      let count = 0
      duplex.on("data", (data: Buffer) => void (count += data.length))
      duplex.resume()
      yield* Fiber.join(writing)
      yield* client.end
      yield* promise(() => once(duplex, "end"))
      assert.strictEqual(count, 1_000_000)
    })
  )

  test(
    "writes nothing that finds no room, and says when it goes on",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(client)
      const { size } = client.info.tx
      assert.isFalse(duplex.write(Buffer.alloc(size + 100_000)))
      assert.strictEqual(client.info.tx.used, size)
      assert.strictEqual(duplex.bytesWritten, size + 100_000)
      assert.isTrue(duplex.writableNeedDrain)
      const drained = once(duplex, "drain")
      let count = 0
      while (count < size + 100_000) count += (yield* server.read).length
      yield* promise(() => drained)
      assert.strictEqual(duplex.writableLength, 0)
    })
  )

  test(
    "tells whoever has written what was never sent",
    Effect.gen(function* () {
      const { client } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(client)
      const told = Promise.all(
        [client.info.tx.size + 1, 1].map(
          (length) => new Promise<any>((resolve) => duplex.write(Buffer.alloc(length), resolve))
        )
      )
      duplex.destroy()
      assert.deepStrictEqual(
        (yield* promise(() => told)).map(({ code }) => code),
        ["ERR_STREAM_DESTROYED", "ERR_STREAM_DESTROYED"]
      )
    })
  )

  test(
    "is not idle while a large write goes on",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      yield* Effect.acquireRelease(
        Effect.sync(() => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })),
        () => Effect.sync(() => vi.useRealTimers())
      )
      const duplex = yield* CutThroughDuplex.fromConnection(client)
      let timeouts = 0
      duplex.setTimeout(1000, () => timeouts++)
      duplex.on("timeout", () => timeouts++)
      duplex.write(Buffer.alloc(client.info.tx.size * 10))
      for (let i = 0; i < 5; i++) {
        yield* server.readInto(new Uint8Array(client.info.tx.size))
        vi.advanceTimersByTime(900)
        assert.strictEqual(timeouts, 0)
      }
      vi.advanceTimersByTime(2000)
      assert.strictEqual(timeouts, 2)
      duplex.resetAndDestroy()
    })
  )

  test(
    "goes over connections of others",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(foreign(client))
      const received = text(duplex)
      duplex.write("some ")
      duplex.end("words")
      assert.strictEqual(string(yield* server.read), "some words")
      yield* server.write(bytes("and "))
      yield* server.write(bytes("back"))
      yield* server.end
      assert.strictEqual(yield* promise(() => received), "and back")
    })
  )

  test(
    "breaks with connections of others",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(foreign(client))
      const failed = once(duplex, "error")
      yield* server.reset
      assert.strictEqual((yield* promise(() => failed))[0].code, "ECONNRESET")
    })
  )

  test(
    "lets the event loop turn while there is always more to read",
    Effect.gen(function* () {
      const { client } = yield* paired
      const read = Effect.sync(() => new Uint8Array(1))
      const endless = foreign(client, { read })
      const duplex = yield* CutThroughDuplex.fromConnection(endless, { highWaterMark: 1 })
      const loop = { hasTurned: false }
      setImmediate(() => setImmediate(() => (loop.hasTurned = true)))
      for (let i = 0; !loop.hasTurned; i++) {
        assert.isBelow(i, 1_000_000)
        if (duplex.read() === null) yield* promise(() => once(duplex, "readable"))
      }
    })
  )

  test(
    "goes on after a listener that throws",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = yield* CutThroughDuplex.fromConnection(server)
      const failed = new Promise((resolve) => {
        const others = process.listeners("uncaughtException")
        process.removeAllListeners("uncaughtException")
        process.once("uncaughtException", (error) => {
          for (const other of others) process.on("uncaughtException", other)
          resolve(error)
        })
      })
      const log: Array<string> = []
      duplex.on("data", (data) => {
        log.push(String(data))
        if (log.length === 1) throw new Error("of the listener")
      })
      yield* client.write(bytes("first"))
      assert.strictEqual(((yield* promise(() => failed)) as Error).message, "of the listener")
      yield* client.write(bytes("second"))
      yield* client.end
      yield* promise(() => once(duplex, "end"))
      assert.deepStrictEqual(log, ["first", "second"])
    })
  )

  test(
    "has the face of a net.Socket",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      // For libraries with types.
      const duplex: net.Socket = yield* CutThroughDuplex.fromConnection(client)
      const other = yield* CutThroughDuplex.fromConnection(server)
      assert.deepStrictEqual(
        [duplex.remoteAddress, duplex.remotePort, duplex.remoteFamily],
        [other.localAddress, other.localPort, other.localFamily]
      )
      assert.strictEqual(duplex.setTypeOfService(16).getTypeOfService(), 16)
      assert.throws(() => duplex.connect(1), /it is connected/)
      other.end("x")
      duplex.end()
      assert.strictEqual(String(yield* promise(() => buffer(duplex))), "x")
    })
  )

  test(
    "what had come before the other side closed is delivered before a write fails",
    Effect.gen(function* () {
      const { client, server } = yield* paired
      const duplex = CutThroughDuplex.fromConnectionUnsafe(client)
      const sent = Buffer.alloc(200_000, "x")
      let count = 0
      duplex.on("data", (data: Buffer) => {
        count += data.length
        // Behind the last piece but one, and before the last.
        const left = sent.length - count
        if (left > 0 && left < 65_536) process.nextTick(() => duplex.write("too late"))
      })
      const failed = once(duplex, "error")
      yield* server.write(sent)
      yield* server.close
      const [error] = yield* promise(() => failed)
      assert.strictEqual(error.code, "EPIPE")
      assert.strictEqual(count, sent.length)
    })
  )
})

describe("the errors of Node", () => {
  const { make } = SessionError

  it("has a code of the system's for each reason", () => {
    const at = { endpoint: "127.0.0.1:7000" }
    const codes = [
      new SessionError.AlreadyListening(at),
      new SessionError.NoRoute(at),
      new SessionError.LocalConnect(at),
      new SessionError.Refused({ ...at, why: "full" }),
      new SessionError.Scope({ ...at, scope: "local" }),
      new SessionError.Filtered({ ...at, rule: "no" }),
      new SessionError.QuotaExceeded({ app: "a", quota: "q", limit: 1, what: "w" }),
      new SessionError.TimedOut({ ...at, millis: 1 }),
      new SessionError.AllocFailed({ what: "w", bytes: 1 }),
      new SessionError.Closed({ what: "connection" }),
      new SessionError.Reset({ ...at, bytesReceived: 0 }),
      new SessionError.PeerDied({ ...at, bytesReceived: 0 }),
      new SessionError.BrokenPipe({ ...at, why: "closed" }),
      new SessionError.CorruptSegment(at),
      new SessionError.NoHost({ host: "default", threadId: 0 }),
      new SessionError.InvalidArgument({ what: "w", value: "v", expected: "e" }),
      new SessionError.UnknownNamespace({ namespace: "n" }),
      new SessionError.WrongNamespaceSecret({ namespace: "n" })
    ].map((reason) => [reason._tag, codeOf(reason)])
    assert.deepStrictEqual(codes, [
      ["AlreadyListening", "EADDRINUSE"],
      ["NoRoute", "ECONNREFUSED"],
      ["LocalConnect", "ECONNREFUSED"],
      ["Refused", "ECONNREFUSED"],
      ["Scope", "ENETUNREACH"],
      ["Filtered", "EACCES"],
      ["QuotaExceeded", "EMFILE"],
      ["TimedOut", "ETIMEDOUT"],
      ["AllocFailed", "ENOMEM"],
      ["Closed", "ECONNABORTED"],
      ["Reset", "ECONNRESET"],
      ["PeerDied", "ECONNRESET"],
      ["BrokenPipe", "EPIPE"],
      ["CorruptSegment", "EPROTO"],
      ["NoHost", "ENETDOWN"],
      ["InvalidArgument", "EINVAL"],
      ["UnknownNamespace", "EACCES"],
      ["WrongNamespaceSecret", "EACCES"]
    ])
  })

  it("has its fields, and the session error as the cause", () => {
    const reason = make(new SessionError.NoRoute({ endpoint: "127.0.0.1:7000" }))
    const error = fromSessionError(reason, "connect", { address: "127.0.0.1", port: 7000 })
    assert.deepStrictEqual(
      { ...error, message: error.message },
      {
        message: "connect ECONNREFUSED 127.0.0.1:7000",
        errno: -111,
        code: "ECONNREFUSED",
        syscall: "connect",
        address: "127.0.0.1",
        port: 7000
      }
    )
    assert.strictEqual(error.cause, reason)
    const listening = fromSessionError(make(new SessionError.AllocFailed({ what: "w", bytes: 1 })), "listen")
    assert.strictEqual(listening.message, "listen ENOMEM: not enough memory")
  })
})
