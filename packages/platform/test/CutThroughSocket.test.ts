/** What the contract of all transports does not ask for: targets, timeouts, and what is ours. */
import { Application, Connection, Endpoint, type SessionError } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughNode, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Option, Queue, type Scope, Stream } from "effect"
import { Socket, SocketServer } from "effect/socket"
import { misplaced, pattern, reasonOf } from "../../core/test/fixtures.ts"
import { SteppingScheduler } from "../../core/test/runtime/stepping.ts"

type Services = Application.Application | SessionLayer

const layer: Layer.Layer<Services, SessionError.SessionError> = Layer.fresh(
  Application.layer({ name: "app", rxFifoSize: 8192, txFifoSize: 8192 }).pipe(
    Layer.provideMerge(Leaks.layerSessions()),
    Layer.provide(CutThroughNode.layerCopy)
  )
)

const test = (name: string, body: () => Effect.Effect<unknown, unknown, Services | Scope.Scope>): void =>
  it.effect(name, () => Effect.suspend(body).pipe(Effect.scoped, Effect.provide(layer)))

const open = (socket: Socket.Socket) =>
  Effect.gen(function* () {
    const writer = yield* socket.writer
    const { pull } = yield* socket.reader
    return { ...writer, pull }
  })

const text = (chunks: ReadonlyArray<Uint8Array | string>) =>
  chunks.map((chunk) => (typeof chunk === "string" ? chunk : new TextDecoder().decode(chunk))).join("")

/** The reason of what failed. */
const why = (exit: Exit.Exit<unknown, Socket.SocketError | SocketServer.SocketServerError>) =>
  Option.getOrUndefined(Exit.findErrorOption(exit))?.reason

describe("CutThroughSocket", () => {
  for (const [how, target] of [
    ["an endpoint", Endpoint.tcp("127.0.0.1", 7000)],
    ["a text", "tcp://127.0.0.1:7000"],
    ["a text without a scheme", "127.0.0.1:7000"],
    ["a name", "tcp://localhost:7000"],
    ["a host and a port", { host: "127.0.0.1", port: 7000 }],
    ["a port", { port: 7000 }]
  ] as const) {
    test(`connects to ${how}`, () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
        const { write } = yield* open(yield* CutThroughSocket.make(target))
        yield* write("hello")
        const server = yield* listener.accept
        assert.strictEqual(text([yield* server.read]), "hello")
      }))
  }

  for (const [what, target] of [
    ["no port", "tcp://127.0.0.1"],
    ["another scheme", "http://127.0.0.1:80"],
    ["a port that is too high", "tcp://127.0.0.1:70000"],
    ["a port that is too high, as a number", { port: 70_000 }],
    ["a port that is none", { port: Number.NaN }],
    ["an address that is none", "tcp://300.1.2.3:80"],
    ["nothing", ""],
    ["port 0", "tcp://127.0.0.1:0"],
    ["nobody there", "tcp://127.0.0.1:7999"]
  ] as const) {
    test(`${what}: SocketOpenError, with the reason`, () =>
      Effect.gen(function* () {
        const socket = yield* CutThroughSocket.make(target)
        const reason = why(yield* Effect.exit(socket.reader))
        assert.strictEqual(reason?._tag, "SocketOpenError")
        const { cause } = reason as Socket.SocketOpenError
        assert.strictEqual((cause as SessionError.SessionError)._tag, "SessionError")
      }))
  }

  it.live("a name that nobody knows: SocketOpenError", () =>
    Effect.gen(function* () {
      const socket = yield* CutThroughSocket.make("tcp://nobody.invalid:80")
      assert.strictEqual(why(yield* Effect.exit(socket.reader))?._tag, "SocketOpenError")
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("nobody answers in time: a timeout, and nothing is left", () =>
    Effect.gen(function* () {
      // The listener leaves it to its application, which does not say anything.
      yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000), { approval: "application" })
      const socket = yield* CutThroughSocket.make("tcp://127.0.0.1:7000", { openTimeout: "10 millis" })
      const reason = why(yield* Effect.exit(socket.reader))
      assert.strictEqual((reason as Socket.SocketOpenError).kind, "Timeout")
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  test("a write that is interrupted arrives as a whole, and so does what comes behind it", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      const { write } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      const server = yield* listener.accept
      const first = yield* Effect.forkChild(write(pattern(50_000)), { startImmediately: true })
      yield* Fiber.interrupt(first)
      const second = yield* Effect.forkChild(write(pattern(50_000, 50_000)), { startImmediately: true })
      let at = 0
      while (at < 100_000) {
        const bytes = yield* server.read
        assert.strictEqual(misplaced(bytes, at), -1)
        at += bytes.length
      }
      yield* Fiber.join(second)
    }))

  for (const arrives of ["before", "while it waits"]) {
    test(`a pull that is interrupted wherever it yields loses nothing: bytes that arrive ${arrives}`, () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
        const { pull } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
        const server = yield* listener.accept
        let interrupted = 0
        for (let ops = 3; ops <= 8; ops++) {
          for (let before = 0; before <= ops; before++) {
            for (let steps = 0; steps <= 3; steps++) {
              const id = Uint8Array.of(ops, before, steps)
              if (arrives === "before") yield* server.write(id)
              let pulled: ReadonlyArray<Uint8Array | string> | undefined
              const scheduler = new SteppingScheduler(ops)
              const pulling = Effect.gen(function* () {
                for (let i = 0; i < before; i++) yield* Effect.void
                pulled = yield* pull
              })
              const fiber = Effect.runFork(pulling, { scheduler })
              for (let step = 0; step < steps; step++) scheduler.step()
              if (arrives !== "before") yield* server.write(id)
              fiber.interruptUnsafe()
              scheduler.runAll()
              if (pulled === undefined) interrupted++
              // Were they lost, this would find nothing.
              const [bytes] = pulled ?? Effect.runSync(pull)
              assert.deepStrictEqual([...(bytes as Uint8Array)], [...id])
            }
          }
        }
        assert.isAbove(interrupted, 0)
      }))
  }

  test("closing while a write waits for room: it arrives all the same", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { write } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
          yield* Effect.forkDetach(write(pattern(50_000)), { startImmediately: true })
        })
      )
      const server = yield* listener.accept
      let at = 0
      yield* Stream.runForEach(server.stream, (bytes) =>
        Effect.sync(() => {
          assert.strictEqual(misplaced(bytes, at), -1)
          at += bytes.length
        })
      )
      assert.strictEqual(at, 50_000)
    }))

  test("what has arrived and was not read is no reason for a reset", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      const socket = yield* CutThroughSocket.make("tcp://127.0.0.1:7000")
      const arrived = yield* Queue.unbounded<Connection.Connection>()
      yield* Effect.forkScoped(
        listener.run((connection) =>
          Effect.gen(function* () {
            yield* connection.write(pattern(1000))
            yield* Queue.offer(arrived, connection)
            return yield* Effect.never
          })
        )
      )
      const server = yield* Effect.scoped(
        Effect.gen(function* () {
          const { write } = yield* open(socket)
          yield* write("answer")
          return yield* Queue.take(arrived)
        })
      )
      assert.strictEqual(text([yield* server.read]), "answer")
      assert.isTrue(Cause.isDone(yield* Effect.flip(server.read)))
    }))

  test("a peer that breaks off: 1006, and what was not read is lost", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      const { pull } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      const server = yield* listener.accept
      yield* server.write(pattern(10))
      yield* server.reset
      const reason = why(yield* Effect.exit(pull))
      assert.deepStrictEqual([reason?._tag, (reason as Socket.SocketCloseError).code], ["SocketCloseError", 1006])
    }))

  test("a close event with an error code is a reset for the peer", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      const { pull, write } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      const server = yield* listener.accept
      yield* write(new Socket.CloseEvent(1011))
      assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Reset")
      assert.strictEqual(why(yield* Effect.exit(pull))?._tag, "SocketReadError")
    }))

  test("writing to a peer that has closed fails", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      const { write } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      yield* Effect.scoped(listener.accept)
      assert.strictEqual(why(yield* Effect.exit(write("too late")))?._tag, "SocketWriteError")
    }))

  test("it is a channel, too", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
      yield* Effect.forkScoped(listener.run(({ sink, stream }) => Stream.run(stream, sink)))
      const socket = yield* CutThroughSocket.make("tcp://127.0.0.1:7000")
      const heard = yield* Stream.make("one ", "two ", "three").pipe(
        Stream.encodeText,
        Stream.pipeThroughChannel(Socket.toChannel(socket)),
        Stream.decodeText,
        Stream.mkString,
        Effect.catchTag("SocketError", () => Effect.succeed("an error"))
      )
      assert.include(["one two three", "an error"], heard)
    }))
})

describe("CutThroughSocketServer", () => {
  test("an endpoint that is taken: SocketServerOpenError, with the reason", () =>
    Effect.gen(function* () {
      yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      const reason = why(yield* Effect.exit(CutThroughSocketServer.make("tcp://127.0.0.1:7000")))
      assert.strictEqual(reason?._tag, "SocketServerOpenError")
      const { cause } = reason as SocketServer.SocketServerOpenError
      assert.strictEqual((cause as SessionError.SessionError).reason._tag, "AlreadyListening")
    }))

  test("says which port it got, and is found on all addresses", () =>
    Effect.gen(function* () {
      const { address, run } = yield* CutThroughSocketServer.make({ port: 0 })
      assert.strictEqual(address._tag, "InetAddressV4")
      const { port } = address as Endpoint.Endpoint
      assert.isAbove(port, 0)
      yield* Effect.forkScoped(
        run((socket) =>
          Effect.scoped(
            Effect.flatMap(socket.writer, ({ write }) =>
              Effect.andThen(Effect.forkScoped(Effect.flatMap(socket.reader, () => Effect.never)), write("here"))
            )
          )
        )
      )
      const { pull } = yield* open(yield* CutThroughSocket.make({ port }))
      assert.strictEqual(text(yield* pull), "here")
    }))

  test("handlers find their connection", () =>
    Effect.gen(function* () {
      const server = yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      const paths = yield* Queue.unbounded<string>()
      yield* Effect.forkScoped(
        server.run(() =>
          Effect.flatMap(Effect.serviceOption(Connection.Connection), (connection) =>
            Queue.offer(paths, Option.getOrThrow(connection).info.path)
          )
        )
      )
      yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      assert.strictEqual(yield* Queue.take(paths), "fiber")
    }))

  test("a handler that takes no reader closes the connection when it ends", () =>
    Effect.gen(function* () {
      const server = yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      yield* Effect.forkScoped(server.run(() => Effect.void))
      const { pull } = yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      assert.strictEqual((why(yield* Effect.exit(pull)) as Socket.SocketCloseError).code, 1000)
    }))

  test("who writes when the connection is over waits for no other one", () =>
    Effect.gen(function* () {
      const server = yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      const writers = yield* Queue.unbounded<Socket.Writer>()
      yield* Effect.forkScoped(
        server.run((socket) =>
          Effect.flatMap(Effect.scoped(socket.reader), () =>
            Effect.scoped(Effect.flatMap(socket.writer, (writer) => Queue.offer(writers, writer)))
          )
        )
      )
      yield* open(yield* CutThroughSocket.make("tcp://127.0.0.1:7000"))
      const { write, writeAll } = yield* Queue.take(writers)
      assert.strictEqual(why(yield* Effect.exit(write("too late")))?._tag, "SocketWriteError")
      assert.strictEqual(why(yield* Effect.exit(writeAll(["too", "late"])))?._tag, "SocketWriteError")
    }))

  test("who runs it last serves, and when that one ends the one before does again", () =>
    Effect.gen(function* () {
      const server = yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      const served = yield* Queue.unbounded<string>()
      const connect = Effect.flatMap(CutThroughSocket.make("tcp://127.0.0.1:7000"), open)
      yield* Effect.forkScoped(
        server.run(() => Queue.offer(served, "first")),
        { startImmediately: true }
      )
      const second = yield* Effect.forkScoped(
        server.run(() => Queue.offer(served, "second")),
        { startImmediately: true }
      )
      yield* connect
      assert.strictEqual(yield* Queue.take(served), "second")
      yield* Fiber.interrupt(second)
      yield* connect
      assert.strictEqual(yield* Queue.take(served), "first")
    }))

  test("when nobody runs it any more, connections wait again", () =>
    Effect.gen(function* () {
      const server = yield* CutThroughSocketServer.make("tcp://127.0.0.1:7000")
      const served = yield* Queue.unbounded<string>()
      const run = server.run(() => Queue.offer(served, "served"))
      yield* Effect.flatMap(Effect.forkScoped(run, { startImmediately: true }), Fiber.interrupt)
      yield* Effect.flatMap(CutThroughSocket.make("tcp://127.0.0.1:7000"), open)
      assert.strictEqual(yield* Queue.size(served), 0)
      yield* Effect.forkScoped(run)
      assert.strictEqual(yield* Queue.take(served), "served")
    }))
})
