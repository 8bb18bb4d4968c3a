/**
 * What every transport of byte streams has to do, as tests that run over yours.
 *
 * A transport is given as a layer of {@link Transport}: a server and a client of
 * Effect's `Socket` and `SocketServer`. The cases are plain effects, so any test
 * runner can run them; {@link suite} registers them with whichever `it` it is
 * given.
 *
 * The first eleven ask what Go's `nettest.TestConn` asks of every `net.Conn`
 * (basic I/O, ping-pong, racing readers and writers, reads and writes that are
 * given up in time, in the past and for a while, closing under a waiting reader,
 * and everything at once), where a deadline is a timeout or an interruption. The
 * others hold a transport to the contract of `Socket` and `SocketServer`.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import type * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import type * as SocketServer from "effect/socket/SocketServer"

/**
 * The transport under test.
 *
 * @category services
 * @since 0.1.0
 */
export class Transport extends Context.Service<
  Transport,
  {
    /** A server that listens somewhere of its own until the scope closes. */
    readonly listen: Effect.Effect<SocketServer.SocketServer["Service"], SocketServer.SocketServerError, Scope.Scope>
    /** A socket that connects to such an address. */
    readonly connect: (address: NetAddress.SocketAddress) => Effect.Effect<Socket.Socket>
  }
>()("@cut-through/testing/TransportContract/Transport") {}

/**
 * A case in which the transport did not do what it has to.
 *
 * @category errors
 * @since 0.1.0
 */
export class ContractError extends Data.TaggedError("ContractError")<{ readonly message: string }> {}

/**
 * One thing that a transport has to do.
 *
 * @category models
 * @since 0.1.0
 */
export interface Case {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, Transport | Scope.Scope>
}

// ---------------------------------------------------------------------------
// what the cases are made of
// ---------------------------------------------------------------------------

const ensure = (isTrue: boolean, message: string): Effect.Effect<void, ContractError> =>
  isTrue ? Effect.void : Effect.fail(new ContractError({ message }))

const same = (actual: unknown, expected: unknown, what: string) =>
  ensure(Object.is(actual, expected), `${what}: there was ${String(actual)}, not ${String(expected)}`)

const encoder = new TextEncoder()

const bytesOf = (chunk: Uint8Array | string): Uint8Array => (typeof chunk === "string" ? encoder.encode(chunk) : chunk)

/** One end of a connection. Its scope is that of its reader and writer. */
interface End {
  readonly socket: Socket.Socket
  readonly pull: Socket.Reader["pull"]
  readonly writer: Socket.Writer
}

const open = (socket: Socket.Socket): Effect.Effect<End, Socket.SocketError, Scope.Scope> =>
  Effect.gen(function* () {
    const writer = yield* socket.writer
    const { pull } = yield* socket.reader
    return { socket, pull, writer }
  })

/** The server's ends, in the order in which they came. Each is open until the scope closes, or `release` is called. */
const serve = Effect.gen(function* () {
  const { listen } = yield* Transport
  const server = yield* listen
  const ends = yield* Queue.unbounded<End>()
  const fiber = yield* Effect.forkScoped(
    server.run((socket) =>
      Effect.scoped(Effect.flatMap(open(socket), (end) => Effect.andThen(Queue.offer(ends, end), Effect.never)))
    )
  )
  return { server, fiber, accept: Queue.take(ends) }
})

/** Both ends of one connection. */
const pair = Effect.gen(function* () {
  const { connect } = yield* Transport
  const { accept, server } = yield* serve
  const client = yield* open(yield* connect(server.address))
  // Some transports tell the server of a connection only with its first byte.
  return { client, server: yield* accept }
})

const read = (end: End, atLeast: number): Effect.Effect<Uint8Array, Socket.SocketError> =>
  Effect.gen(function* () {
    const chunks: Array<Uint8Array> = []
    let length = 0
    while (length < atLeast) {
      for (const chunk of yield* end.pull) {
        const bytes = bytesOf(chunk)
        chunks.push(bytes)
        length += bytes.length
      }
    }
    const all = new Uint8Array(length)
    let at = 0
    for (const chunk of chunks) {
      all.set(chunk, at)
      at += chunk.length
    }
    return all
  })

/** All that comes, and the error at the end of it. */
const drain = (end: End): Effect.Effect<{ readonly bytes: number; readonly error: Socket.SocketError }> =>
  Effect.gen(function* () {
    let bytes = 0
    while (true) {
      const exit = yield* Effect.exit(end.pull)
      if (Exit.isFailure(exit)) return { bytes, error: Option.getOrThrow(Exit.findErrorOption(exit)) }
      for (const chunk of exit.value) bytes += bytesOf(chunk).length
    }
  })

const codeOf = ({ reason }: Socket.SocketError): number | string =>
  reason._tag === "SocketCloseError" ? reason.code : reason._tag

/** A text of bytes that says at each place where that is. */
const pattern = (length: number, from = 0): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = ((from + i) * 31 + ((from + i) >>> 8) * 7) & 0xff
  return bytes
}

const sameBytes = (actual: Uint8Array, expected: Uint8Array, what: string) =>
  Effect.andThen(
    same(actual.length, expected.length, `${what}, their number`),
    same(
      actual.findIndex((byte, i) => byte !== expected[i]),
      -1,
      `${what}, the first that is wrong`
    )
  )

const MIB = 1024 * 1024

/** Does what it can to have a fiber wait: there is no event for that. */
const settle = Effect.promise(
  () =>
    new Promise<void>((resolve) => {
      let turns = 20
      const turn = () => (turns-- === 0 ? resolve() : void setImmediate(turn))
      turn()
    })
)

const isInterrupted = (exit: Exit.Exit<unknown, unknown>): boolean => Exit.isFailure(exit) && Exit.hasInterrupts(exit)

const contract = (name: string, run: Case["run"]): Case => ({ name, run })

// ---------------------------------------------------------------------------
// the cases
// ---------------------------------------------------------------------------

const ofEveryConnection: ReadonlyArray<Case> = [
  contract(
    "basic I/O: megabytes arrive unchanged, there and back",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const all = pattern(8 * MIB)
      const there = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let at = 0; at < all.length; at += 100_003) yield* client.writer.write(all.subarray(at, at + 100_003))
        })
      )
      const back = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let left = all.length; left > 0;) {
            const chunks = yield* server.pull
            yield* server.writer.writeAll(chunks)
            for (const chunk of chunks) left -= bytesOf(chunk).length
          }
        })
      )
      yield* sameBytes(yield* read(client, all.length), all, "what came back")
      yield* Fiber.join(there)
      yield* Fiber.join(back)
    })
  ),
  contract(
    "ping-pong: small messages go to and fro in turn",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const player = (end: End) =>
        Effect.gen(function* () {
          for (let turn = 0; turn < 500; turn++) {
            const got = new DataView((yield* read(end, 8)).slice().buffer)
            const n = got.getUint32(0)
            const next = new Uint8Array(8)
            new DataView(next.buffer).setUint32(0, n + 1)
            yield* end.writer.write(next)
          }
        })
      const serving = yield* Effect.forkChild(player(server))
      yield* client.writer.write(new Uint8Array(8))
      yield* player(client)
      yield* Fiber.join(serving)
      const last = new DataView((yield* read(server, 8)).slice().buffer).getUint32(0)
      yield* same(last, 1000, "the number of messages")
    })
  ),
  contract(
    "racing readers: each byte goes to somebody, once, whoever gives up in between",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const total = 2000
      let seen = 0
      const writing = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let i = 0; i < total; i++) {
            yield* client.writer.write(pattern(10))
            if (i % 50 === 0) yield* settle
          }
        })
      )
      for (let round = 0; seen < total * 10; round++) {
        const exit = yield* Effect.exit(Effect.timeout(server.pull, round % 3 === 0 ? "50 micros" : "10 seconds"))
        if (Exit.isSuccess(exit)) for (const chunk of exit.value) seen += bytesOf(chunk).length
      }
      yield* Fiber.join(writing)
      yield* same(seen, total * 10, "bytes that were read")
    })
  ),
  contract(
    "racing writers: what each of them writes stays together",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const writers = 8
      const messages = 50
      const size = 5000
      yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: writers }, (_, writer) => writer),
          (writer) =>
            Effect.gen(function* () {
              for (let i = 0; i < messages; i++) yield* client.writer.write(new Uint8Array(size).fill(writer + 1))
            }),
          { concurrency: writers, discard: true }
        )
      )
      const bytes = yield* read(server, writers * messages * size)
      for (let at = 0; at < bytes.length; at += size) {
        const message = bytes.subarray(at, at + size)
        yield* ensure(
          message.every((byte) => byte === message[0]),
          `the message at ${at} has bytes of another one in it`
        )
      }
    })
  ),
  contract(
    "a read times out, and the next one gets what came",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const exit = yield* Effect.exit(Effect.timeoutOption(server.pull, "5 millis"))
      yield* ensure(Exit.isSuccess(exit) && Option.isNone(exit.value), "there was something to read, or an error")
      yield* client.writer.write("after all")
      yield* sameBytes(yield* read(server, 9), bytesOf("after all"), "what came afterwards")
    })
  ),
  contract(
    "a write times out when nobody reads, and the connection lives on",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const chunk = pattern(4 * MIB)
      let isStuck = false
      let written = 0
      while (!isStuck) {
        const exit = yield* Effect.exit(Effect.timeoutOption(client.writer.write(chunk), "20 millis"))
        yield* ensure(Exit.isSuccess(exit), "a write failed")
        written += chunk.length
        isStuck = Exit.isSuccess(exit) && Option.isNone(exit.value)
        yield* ensure(written < 256 * MIB, "256 MiB were written that nobody has read")
      }
      // What was begun arrives as a whole: half a message would spoil what comes behind it.
      const bytes = yield* read(server, written)
      yield* same(bytes.length, written, "bytes that arrived")
    })
  ),
  contract(
    "a read that is given up before it begins takes nothing",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* client.writer.write("here")
      yield* settle
      const fiber = yield* Effect.forkChild(server.pull)
      yield* Fiber.interrupt(fiber)
      yield* sameBytes(yield* read(server, 4), bytesOf("here"), "what was there")
    })
  ),
  contract(
    "a read that is given up at once leaves what comes to the next one",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      for (let i = 0; i < 50; i++) {
        const fiber = yield* Effect.forkChild(server.pull, { startImmediately: true })
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber))
        yield* client.writer.write(Uint8Array.of(i))
        yield* Fiber.join(interrupting)
        const exit = yield* Fiber.await(fiber)
        const bytes = Exit.isSuccess(exit) ? bytesOf(exit.value[0]) : yield* read(server, 1)
        yield* same(bytes[0], i, "the byte")
      }
    })
  ),
  contract(
    "a read that waits for a while gets what comes in that time",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const fiber = yield* Effect.forkChild(Effect.timeout(server.pull, "60 seconds"), { startImmediately: true })
      yield* settle
      yield* client.writer.write("in time")
      const [chunk] = yield* Fiber.join(fiber)
      yield* sameBytes(bytesOf(chunk), bytesOf("in time"), "what came")
    })
  ),
  contract(
    "closing ends a read that waits, on both sides",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, server } = yield* serve
      const socket = yield* connect(server.address)
      let waiting: Fiber.Fiber<unknown, Socket.SocketError> | undefined
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { pull } = yield* open(socket)
          waiting = yield* Effect.forkDetach(pull, { startImmediately: true })
          yield* settle
        })
      )
      const here = yield* Effect.flip(Fiber.join(waiting!))
      yield* same(codeOf(here), 1006, "the code of who was closed")
      const there = yield* drain(yield* accept)
      yield* same(codeOf(there.error), 1000, "the code of the other side")
    })
  ),
  contract(
    "everything at once, from many fibers, ends well",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const busy = (end: End, seed: number) =>
        Effect.gen(function* () {
          for (let i = 0; i < 40; i++) {
            const what = (seed * 7 + i * 13) % 3
            if (what === 0) yield* end.writer.write(pattern(20))
            else if (what === 1) yield* end.writer.writeAll([pattern(10), "and a text"])
            else yield* Effect.timeoutOption(end.pull, "100 micros")
          }
        })
      yield* Effect.forEach(
        Array.from({ length: 12 }, (_, seed) => seed),
        (seed) => busy(seed % 2 === 0 ? client : server, seed),
        { concurrency: "unbounded", discard: true }
      )
    })
  )
]

const ofSockets: ReadonlyArray<Case> = [
  contract(
    "each time the reader is acquired there is a new connection",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, server } = yield* serve
      const socket = yield* connect(server.address)
      for (const text of ["one", "two"]) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const end = yield* open(socket)
            yield* end.writer.write(text)
            yield* sameBytes(yield* read(yield* accept, 3), bytesOf(text), "what came over it")
          })
        )
      }
    })
  ),
  contract(
    "a write before the connection waits for it",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, server } = yield* serve
      const socket = yield* connect(server.address)
      const writer = yield* socket.writer
      const fiber = yield* Effect.forkChild(writer.write("early"), { startImmediately: true })
      yield* settle
      yield* ensure(fiber.pollUnsafe() === undefined, "the write did not wait")
      yield* socket.reader
      yield* Fiber.join(fiber)
      yield* sameBytes(yield* read(yield* accept, 5), bytesOf("early"), "what was written")
    })
  ),
  contract(
    "releasing the writer ends the stream, and reading goes on",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, server } = yield* serve
      const socket = yield* connect(server.address)
      const { pull } = yield* socket.reader
      yield* Effect.scoped(Effect.flatMap(socket.writer, ({ write }) => write("last words")))
      const there = yield* accept
      const heard = yield* drain(there)
      yield* same(heard.bytes, 10, "bytes before the end")
      yield* same(codeOf(heard.error), 1000, "the code of the end")
      yield* there.writer.write("still here")
      const [chunk] = yield* pull
      yield* sameBytes(bytesOf(chunk), bytesOf("still here"), "the answer")
    })
  ),
  contract(
    "what was written before a close arrives, and then the end",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, server } = yield* serve
      const socket = yield* connect(server.address)
      yield* Effect.scoped(Effect.flatMap(open(socket), ({ writer }) => writer.write(pattern(2000))))
      const { bytes, error } = yield* drain(yield* accept)
      yield* same(bytes, 2000, "bytes before the end")
      yield* same(codeOf(error), 1000, "the code of the end")
    })
  ),
  contract(
    "a normal close event ends both sides with 1000",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* client.writer.write(new Socket.CloseEvent(1000))
      yield* same(codeOf((yield* drain(client)).error), 1000, "the code here")
      yield* same(codeOf((yield* drain(server)).error), 1000, "the code there")
    })
  ),
  contract(
    "several chunks at once arrive in order",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* client.writer.writeAll(["one ", bytesOf("two "), "", "three"])
      yield* sameBytes(yield* read(server, 13), bytesOf("one two three"), "what came")
    })
  ),
  contract(
    "who does not pull makes the writer wait",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      const all = pattern(64 * MIB)
      const fiber = yield* Effect.forkChild(client.writer.write(all), { startImmediately: true })
      yield* settle
      yield* ensure(fiber.pollUnsafe() === undefined, "64 MiB were written that nobody reads")
      let bytes = 0
      while (bytes < all.length) for (const chunk of yield* server.pull) bytes += bytesOf(chunk).length
      yield* Fiber.join(fiber)
    })
  ),
  contract(
    "there is no upgrade, or it says why not",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { server } = yield* serve
      const { upgrade } = yield* (yield* connect(server.address)).reader
      const exit = yield* Effect.exit(Effect.timeout(upgrade({ rejectUnauthorized: false }), "5 millis"))
      yield* ensure(Exit.isFailure(exit), "half a handshake was taken for an upgrade")
    })
  ),
  contract(
    "nobody there: SocketOpenError",
    Effect.gen(function* () {
      const { connect, listen } = yield* Transport
      const { address } = yield* Effect.scoped(listen)
      const exit = yield* Effect.exit(Effect.scoped((yield* connect(address)).reader))
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      yield* same(error?.reason._tag, "SocketOpenError", "the error")
    })
  )
]

const ofServers: ReadonlyArray<Case> = [
  contract(
    "connections that come before the server runs are served when it does",
    Effect.gen(function* () {
      const { connect, listen } = yield* Transport
      const server = yield* listen
      const client = yield* open(yield* connect(server.address))
      yield* client.writer.write("early")
      yield* settle
      const heard = yield* Queue.unbounded<Uint8Array>()
      yield* Effect.forkScoped(
        server.run((socket) =>
          Effect.scoped(
            Effect.gen(function* () {
              const { pull } = yield* socket.reader
              yield* Queue.offer(heard, bytesOf((yield* pull)[0]))
            })
          )
        )
      )
      yield* sameBytes(yield* Queue.take(heard), bytesOf("early"), "what was served")
    })
  ),
  contract(
    "a handler that fails closes its connection, and the others go on",
    Effect.gen(function* () {
      const { connect, listen } = yield* Transport
      const server = yield* listen
      yield* Effect.forkScoped(
        server.run((socket) =>
          Effect.scoped(
            Effect.gen(function* () {
              const { pull, writer } = yield* open(socket)
              const [chunk] = yield* pull
              if (new TextDecoder().decode(bytesOf(chunk)) === "fail") return yield* Effect.die("as asked")
              yield* writer.write(chunk)
              return yield* Effect.never
            })
          )
        )
      )
      const good = yield* open(yield* connect(server.address))
      const bad = yield* open(yield* connect(server.address))
      yield* bad.writer.write("fail")
      yield* drain(bad)
      yield* good.writer.write("good")
      yield* sameBytes(yield* read(good, 4), bytesOf("good"), "the answer to the other one")
    })
  ),
  contract(
    "a server that is interrupted closes the connections it serves",
    Effect.gen(function* () {
      const { connect } = yield* Transport
      const { accept, fiber, server } = yield* serve
      const client = yield* open(yield* connect(server.address))
      yield* accept
      yield* Fiber.interrupt(fiber)
      yield* ensure(isInterrupted(yield* Fiber.await(fiber)), "it was not interrupted")
      yield* drain(client)
    })
  ),
  contract(
    "a server that is closed while it serves ends its handlers first, also when one of them has just answered",
    Effect.gen(function* () {
      const { connect, listen } = yield* Transport
      let serving = 0
      yield* Effect.scoped(
        Effect.gen(function* () {
          const server = yield* listen
          yield* Effect.forkScoped(
            server.run((socket) =>
              Effect.gen(function* () {
                const { pull, writer } = yield* open(socket)
                serving++
                yield* Effect.addFinalizer(() => Effect.sync(() => void serving--))
                return yield* Effect.forever(Effect.flatMap(pull, writer.writeAll))
              }).pipe(Effect.scoped)
            )
          )
          const client = yield* open(yield* connect(server.address))
          yield* client.writer.write("ping")
          yield* sameBytes(yield* read(client, 4), bytesOf("ping"), "the answer")
        })
      )
      yield* same(serving, 0, "handlers that go on")
    })
  ),
  contract(
    "a connection is handed over once",
    Effect.gen(function* () {
      const { connect, listen } = yield* Transport
      const server = yield* listen
      const outcome = yield* Queue.unbounded<Exit.Exit<unknown, Socket.SocketError>>()
      yield* Effect.forkScoped(
        server.run((socket) =>
          Effect.gen(function* () {
            yield* Effect.scoped(socket.reader)
            const again = Effect.scoped(Effect.flatMap(socket.reader, ({ pull }) => pull))
            yield* Queue.offer(outcome, yield* Effect.exit(again))
          })
        )
      )
      yield* Effect.exit(open(yield* connect(server.address)))
      yield* ensure(Exit.isFailure(yield* Queue.take(outcome)), "there was a second connection")
    })
  )
]

/**
 * All cases, for test runners of your own: each is run on its own, in a scope,
 * with the transport provided, and fails if the transport does not do what it
 * has to.
 *
 * @category constants
 * @since 0.1.0
 */
export const cases: ReadonlyArray<Case> = [...ofEveryConnection, ...ofSockets, ...ofServers]

/**
 * How a suite is registered: `{ describe, it }` of `@effect/vitest`, whose
 * `it.live` is taken, or an `it` of your own that is given effects.
 *
 * @category models
 * @since 0.1.0
 */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: Register | { readonly live: Register }
}

/**
 * What registers one test.
 *
 * @category models
 * @since 0.1.0
 */
export type Register = (name: string, test: () => Effect.Effect<void, unknown>) => unknown

/**
 * Registers all cases for a transport. Its layer is built afresh for each of
 * them, and closed behind it: what it checks then, leaks for example, it checks
 * for each.
 *
 * **Example** (The suite in a test file)
 *
 * ```ts no-run
 * import { Application } from "@cut-through/core"
 * import { CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
 * import { Leaks, TransportContract } from "@cut-through/testing"
 * import { describe, it } from "@effect/vitest"
 * import { Effect, Layer } from "effect"
 *
 * const transport = Layer.effect(
 *   TransportContract.Transport,
 *   Effect.gen(function*() {
 *     const application = yield* Application.Application
 *     return {
 *       listen: Effect.provideService(
 *         CutThroughSocketServer.make({ host: "127.0.0.1", port: 0 }),
 *         Application.Application,
 *         application
 *       ),
 *       connect: (address) =>
 *         Effect.provideService(
 *           CutThroughSocket.make(address as Parameters<typeof CutThroughSocket.make>[0]),
 *           Application.Application,
 *           application
 *         )
 *     }
 *   })
 * )
 *
 * TransportContract.suite("my transport", Layer.provide(transport, Leaks.layerTest), { describe, it })
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const suite = (
  name: string,
  layer: Layer.Layer<Transport, unknown>,
  runner: Runner,
  options: {
    /** Cases that the transport differs in, by name, and why. */
    readonly differs?: { readonly [name: string]: string } | undefined
  } = {}
): void => {
  runner.describe(name, () => {
    const { it } = runner
    const register = "live" in it ? it.live : it
    for (const { name, run } of cases) {
      if (options.differs?.[name] !== undefined) continue
      register(name, () => run.pipe(Effect.scoped, Effect.provide(layer, { local: true })))
    }
  })
}
