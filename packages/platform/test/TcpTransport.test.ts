import { Application, type Connection, Endpoint, type SessionError, Sessions } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughHost, CutThroughNode, CutThroughWorker, TcpTransport } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Metric, type Scope, Tracer } from "effect"
import * as Net from "node:net"
import { setImmediate } from "node:timers/promises"
import { MessageChannel } from "node:worker_threads"
import { misplaced, pattern, reasonOf } from "../../core/test/fixtures.ts"

const MIB = 1024 * 1024

type Services = Application.Application | SessionLayer

const layers = (options?: TcpTransport.Options, attach?: object): Layer.Layer<Services, SessionError.SessionError> =>
  Application.layer({ name: "app", ...attach }).pipe(
    Layer.provideMerge(TcpTransport.layer(options)),
    Layer.provideMerge(Leaks.layerSessions()),
    Layer.provide(CutThroughNode.layerCopy),
    Layer.fresh
  )

const test = (
  name: string,
  body: Effect.Effect<unknown, unknown, Services | Scope.Scope>,
  layer: Layer.Layer<Services, SessionError.SessionError> = layers()
): void => it.live(name, () => body.pipe(Effect.scoped, Effect.provide(layer)))

/** A server of `node:net`, as another process would have one. */
const serve = (
  onConnection: (socket: Net.Socket) => void,
  options: Net.ServerOpts = {}
): Effect.Effect<
  { readonly endpoint: Endpoint.Endpoint; readonly sockets: ReadonlyArray<Net.Socket> },
  never,
  Scope.Scope
> =>
  Effect.acquireRelease(
    Effect.callback<{ readonly server: Net.Server; readonly sockets: Array<Net.Socket> }>((resume) => {
      const sockets: Array<Net.Socket> = []
      const server = Net.createServer(options, (socket) => {
        sockets.push(socket)
        socket.on("error", () => {})
        onConnection(socket)
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed({ server, sockets })))
    }),
    ({ server, sockets }) =>
      Effect.callback<void>((resume) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  ).pipe(
    Effect.map(({ server, sockets }) => ({
      endpoint: Endpoint.tcp("127.0.0.1", (server.address() as Net.AddressInfo).port),
      sockets
    }))
  )

/** A client of `node:net`. */
const dial = (
  endpoint: Endpoint.Endpoint,
  options: Partial<Net.NetConnectOpts> = {}
): Effect.Effect<Net.Socket, Error, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Net.Socket, Error>((resume) => {
      const socket = Net.createConnection({ host: "127.0.0.1", port: endpoint.port, ...options } as Net.NetConnectOpts)
      socket.on("error", (error) => resume(Effect.fail(error)))
      socket.once("connect", () => resume(Effect.succeed(socket)))
    }),
    (socket) =>
      Effect.callback<void>((resume) => {
        if (socket.closed) return resume(Effect.void)
        socket.once("close", () => resume(Effect.void))
        socket.destroy()
      })
  )

const event = (emitter: NodeJS.EventEmitter, name: string): Effect.Effect<ReadonlyArray<any>> =>
  Effect.callback((resume) => {
    const listener = (...args: ReadonlyArray<any>) => resume(Effect.succeed(args))
    emitter.once(name, listener)
    return Effect.sync(() => void emitter.off(name, listener))
  })

/** All that comes until the end. */
const drain = (connection: Connection.Connection): Effect.Effect<Uint8Array, SessionError.SessionError> =>
  Effect.gen(function* () {
    const chunks: Array<Uint8Array> = []
    while (true) {
      const exit = yield* Effect.exit(connection.read)
      if (Exit.isSuccess(exit)) chunks.push(exit.value)
      else if (reasonOf(exit) === "Done") return Buffer.concat(chunks)
      else return yield* exit as Exit.Exit<never, SessionError.SessionError>
    }
  })

const echo = (connection: Connection.Connection) =>
  Effect.gen(function* () {
    while (true) yield* connection.write(yield* connection.read)
  }).pipe(Effect.catchIf(Cause.isDone, () => connection.end))

describe("TcpTransport", () => {
  test(
    "a peer's end comes behind those of its bytes that had to wait for room",
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const socket = yield* dial(listener.address)
      const connection = yield* listener.accept
      const { size } = connection.info.rx
      socket.end(pattern(size + 1))
      yield* event(socket, "finish")
      while (connection.info.rx.used < size) yield* Effect.promise(() => setImmediate())
      // Time enough for the end to be noticed, too.
      for (let turn = 0; turn < 20; turn++) yield* Effect.promise(() => setImmediate())
      const bytes = yield* drain(connection)
      assert.strictEqual(bytes.length, size + 1)
      assert.strictEqual(misplaced(bytes, 0), -1)
    })
  )

  test(
    "who is not here is reached over TCP, with the addresses of the real socket",
    Effect.gen(function* () {
      const server = yield* serve((socket) => socket.pipe(socket))
      const connection = yield* Application.connect(server.endpoint)
      const { info } = connection
      assert.strictEqual(info.path, "tcp")
      assert.strictEqual(Endpoint.format(info.remote), Endpoint.format(server.endpoint))
      assert.deepStrictEqual(
        [info.local.port, Endpoint.format(info.local)],
        [server.sockets[0].remotePort, `127.0.0.1:${server.sockets[0].remotePort}`]
      )
      const writing = yield* Effect.forkChild(Effect.andThen(connection.write(pattern(3 * MIB)), connection.end))
      const bytes = yield* drain(connection)
      yield* Fiber.join(writing)
      assert.strictEqual(bytes.length, 3 * MIB)
      assert.strictEqual(misplaced(bytes), -1)
    })
  )

  test(
    "a listener serves those who are here and those who are not, with one handler",
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const seen: Array<string> = []
      yield* Effect.forkScoped(
        listener.run((connection) => {
          const { local, path, remote } = connection.info
          seen.push(`${path} ${remote.port} ${Endpoint.format(local)}`)
          return echo(connection)
        })
      )
      const here = yield* Application.connect(listener.address)
      yield* here.write(pattern(1000))
      assert.strictEqual(misplaced(yield* here.read), -1)
      const elsewhere = yield* dial(listener.address)
      const chunks: Array<Buffer> = []
      elsewhere.on("data", (chunk) => void chunks.push(chunk))
      elsewhere.end(pattern(2 * MIB))
      yield* event(elsewhere, "end")
      const bytes = Buffer.concat(chunks)
      assert.strictEqual(bytes.length, 2 * MIB)
      assert.strictEqual(misplaced(bytes), -1)
      const address = Endpoint.format(listener.address)
      assert.deepStrictEqual(seen, [
        `fiber ${here.info.local.port} ${address}`,
        `tcp ${elsewhere.localPort} ${address}`
      ])
    })
  )

  test(
    "a reconnect takes the way that is there",
    Effect.gen(function* () {
      const server = yield* serve((socket) => socket.pipe(socket))
      const path = Effect.scoped(Effect.map(Application.connect(server.endpoint), ({ info }) => info.path))
      const application = yield* Application.Application
      assert.strictEqual(yield* path, "tcp")
      // The port is another program's, and an application of this one may still serve those who are here.
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* application.listen(server.endpoint)
          assert.strictEqual(yield* path, "fiber")
        })
      )
      assert.strictEqual(yield* path, "tcp")
    }),
    layers({ opensPort: () => false })
  )

  test(
    "half-close goes both ways",
    Effect.gen(function* () {
      const server = yield* serve(
        (socket) => {
          socket.once("end", () => socket.end("after the end"))
          socket.resume()
        },
        { allowHalfOpen: true }
      )
      const connection = yield* Application.connect(server.endpoint)
      yield* connection.write(pattern(10))
      yield* connection.end
      assert.strictEqual(new TextDecoder().decode(yield* drain(connection)), "after the end")

      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const client = yield* dial(listener.address, { allowHalfOpen: true })
      const accepted = yield* listener.accept
      yield* accepted.end
      client.resume()
      yield* event(client, "end")
      client.end("still here")
      assert.strictEqual(new TextDecoder().decode(yield* drain(accepted)), "still here")
    })
  )

  test(
    "a reset of the peer is a reset here, and one from here is one there",
    Effect.gen(function* () {
      const server = yield* serve(() => {})
      const connection = yield* Application.connect(server.endpoint)
      yield* Effect.suspend(() => (server.sockets.length > 0 ? Effect.void : Effect.fail("not yet"))).pipe(
        Effect.retry({ while: () => true })
      )
      server.sockets[0].resetAndDestroy()
      assert.strictEqual(reasonOf(yield* Effect.exit(connection.read)), "Reset")

      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const client = yield* dial(listener.address)
      const accepted = yield* listener.accept
      client.resume()
      const failed = yield* Effect.forkChild(event(client, "error"), { startImmediately: true })
      yield* accepted.reset
      const [error] = yield* Fiber.join(failed)
      assert.strictEqual(error.code, "ECONNRESET")
    })
  )

  test(
    "what was written arrives although the connection is closed at once",
    Effect.gen(function* () {
      const chunks: Array<Buffer> = []
      const server = yield* serve((socket) => void socket.on("data", (chunk) => void chunks.push(chunk)))
      yield* Effect.scoped(
        Effect.flatMap(Application.connect(server.endpoint), (connection) => connection.write(pattern(MIB)))
      )
      const [socket] = server.sockets
      if (!socket.closed) yield* event(socket, "close")
      assert.strictEqual(misplaced(Buffer.concat(chunks)), -1)
      assert.strictEqual(Buffer.concat(chunks).length, MIB)
    })
  )

  test(
    "nobody there: Refused, and nothing is left",
    Effect.gen(function* () {
      const { endpoint } = yield* Effect.scoped(serve(() => {}))
      const exit = yield* Effect.exit(Application.connect(endpoint))
      assert.strictEqual(reasonOf(exit), "Refused")
      assert.strictEqual((yield* Sessions.residue).halfOpens, 0)
    })
  )

  test(
    "a connect that is given up leaves nothing, here and there",
    Effect.gen(function* () {
      const server = yield* serve((socket) => socket.resume())
      for (let turns = 0; turns < 20; turns++) {
        const fiber = yield* Effect.forkChild(Effect.scoped(Application.connect(server.endpoint)), {
          startImmediately: true
        })
        for (let i = 0; i < turns; i++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
      }
      const residue = yield* Sessions.residue
      assert.strictEqual(residue.halfOpens, 0)
    })
  )

  test(
    "a port that another program has: AlreadyListening; any port is one that nobody has",
    Effect.gen(function* () {
      const server = yield* serve(() => {})
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.listen(server.endpoint))), "AlreadyListening")
      const one = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const socket = yield* dial(one.address)
      assert.strictEqual(socket.remotePort, one.address.port)
    })
  )

  test(
    "a listener that closes has no port any more",
    Effect.gen(function* () {
      const address = yield* Effect.scoped(
        Effect.map(Application.listen(Endpoint.tcp("127.0.0.1", 0)), ({ address }) => address)
      )
      const error = yield* Effect.flip(dial(address))
      assert.strictEqual((error as NodeJS.ErrnoException).code, "ECONNREFUSED")
    })
  )

  test(
    "an application of local scope opens no port, and reaches nobody elsewhere",
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const error = yield* Effect.flip(dial(listener.address))
      assert.strictEqual((error as NodeJS.ErrnoException).code, "ECONNREFUSED")
      const server = yield* serve(() => {})
      assert.strictEqual(reasonOf(yield* Effect.exit(Application.connect(server.endpoint))), "Scope")
    }),
    layers({}, { scope: "local" })
  )

  test(
    "who does not read makes the peer wait, both ways",
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const client = yield* dial(listener.address)
      const accepted = yield* listener.accept
      const all = pattern(32 * MIB)
      let isSent = false
      client.write(all, () => void (isSent = true))
      const first = yield* accepted.read
      for (let i = 0; i < 200; i++) yield* Effect.yieldNow
      assert.isFalse(isSent)
      const { rx } = accepted.info
      assert.isAtMost(rx.used, rx.size)
      client.end()
      const rest = yield* drain(accepted)
      assert.strictEqual(first.length + rest.length, all.length)
      assert.strictEqual(misplaced(rest, first.length), -1)

      const writing = yield* Effect.forkChild(accepted.write(all), { startImmediately: true })
      for (let i = 0; i < 200; i++) yield* Effect.yieldNow
      assert.isUndefined(writing.pollUnsafe())
      yield* Fiber.interrupt(writing)
      yield* accepted.reset
    })
  )

  test(
    "a peer that goes on writing to who has closed is told so",
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const client = yield* dial(listener.address)
      client.resume()
      yield* Effect.scoped(listener.accept)
      const closed = yield* Effect.forkChild(event(client, "close"), { startImmediately: true })
      const write = () => {
        if (!client.destroyed) client.write(pattern(1000), () => setImmediate(write))
      }
      write()
      yield* Fiber.join(closed)
    })
  )

  it.live("when it goes, its connections are reset and its ports closed", () =>
    Effect.gen(function* () {
      const server = yield* serve((socket) => socket.resume())
      const outcome = yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* Application.connect(server.endpoint)
          const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
          yield* connection.write(pattern(100))
          return listener.address
        }).pipe(Effect.provide(layers()))
      )
      const error = yield* Effect.flip(dial(outcome))
      assert.strictEqual((error as NodeJS.ErrnoException).code, "ECONNREFUSED")
    }).pipe(Effect.scoped)
  )

  test(
    "counts who has fallen through",
    Effect.gen(function* () {
      const count = Effect.map(
        Metric.value(Metric.withAttributes(TcpTransport.fallthrough, { reason: "no-listener" })),
        ({ count }) => count
      )
      const before = yield* count
      const server = yield* serve(() => {})
      yield* Application.connect(server.endpoint)
      assert.strictEqual((yield* count) - before, 1)
    })
  )

  test(
    "says so in the span of the connect, where somebody looks",
    Effect.gen(function* () {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span(options) {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const server = yield* serve(() => {})
      yield* Effect.withTracer(Application.connect(server.endpoint), tracer)
      const connect = spans.find(({ name }) => name === "cut-through.connect")
      assert.deepStrictEqual(Object.fromEntries(connect?.attributes ?? []), {
        "cut-through.endpoint": Endpoint.format(server.endpoint),
        "cut-through.path": "tcp",
        "cut-through.fallthrough": "no-listener"
      })
    })
  )

  it.live("applications in other threads have it too", () =>
    Effect.gen(function* () {
      const host = yield* CutThroughHost.CutThroughHost
      const { port1, port2 } = new MessageChannel()
      host.accept(port1)
      const services = yield* Layer.build(Layer.fresh(CutThroughWorker.layerPort(port2, { name: "guest" })))
      yield* Effect.gen(function* () {
        const server = yield* serve((socket) => socket.pipe(socket))
        const connection = yield* Application.connect(server.endpoint)
        assert.strictEqual(connection.info.path, "tcp")
        assert.strictEqual(connection.info.local.port, server.sockets[0].remotePort)
        yield* Effect.forkScoped(Effect.andThen(connection.write(pattern(MIB)), connection.end))
        assert.strictEqual(misplaced(yield* drain(connection)), -1)

        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
        yield* Effect.forkScoped(listener.run(echo))
        const client = yield* dial(listener.address)
        const chunks: Array<Buffer> = []
        client.on("data", (chunk) => void chunks.push(chunk))
        client.end(pattern(MIB))
        yield* event(client, "end")
        assert.strictEqual(misplaced(Buffer.concat(chunks)), -1)
        assert.strictEqual(Buffer.concat(chunks).length, MIB)
      }).pipe(Effect.scoped, Effect.provide(services))
    }).pipe(
      Effect.scoped,
      Effect.provide(
        CutThroughHost.layer({ name: "tcp" }).pipe(
          Layer.provideMerge(TcpTransport.layer()),
          Layer.provideMerge(Leaks.layerSessions()),
          Layer.provide(CutThroughNode.layerCopy),
          Layer.fresh
        )
      )
    )
  )
})
