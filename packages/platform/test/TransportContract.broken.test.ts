/** The contract has teeth: transports that do one thing wrong fail the case that asks for it. */
import { Application, Endpoint } from "@cut-through/core"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { TransportContract } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer } from "effect"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"

/** A scope that never closes. */
const forever = Scope.makeUnsafe()

/** A transport whose sockets, those of clients, are made worse. */
const worse = (change: (socket: Socket.Socket) => Socket.Socket): Layer.Layer<TransportContract.Transport> =>
  Layer.effect(
    TransportContract.Transport,
    Effect.gen(function* () {
      const application = yield* Application.make({ name: "worse" })
      return {
        listen: Effect.provideService(
          CutThroughSocketServer.make({ host: "127.0.0.1", port: 0 }),
          Application.Application,
          application
        ),
        connect: (address) =>
          Effect.map(
            Effect.provideService(
              CutThroughSocket.make(address as Endpoint.Endpoint),
              Application.Application,
              application
            ),
            change
          )
      }
    })
  ).pipe(Layer.provide(SessionLayer.layer()), Layer.orDie)

const bytesOf = (chunk: Uint8Array | string) => (typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk)

const withReader = (socket: Socket.Socket, change: (reader: Socket.Reader) => Socket.Reader): Socket.Socket =>
  Socket.make({ reader: Effect.map(socket.reader, change), writer: socket.writer })

const withWriter = (socket: Socket.Socket, change: (writer: Socket.Writer) => Socket.Writer): Socket.Socket =>
  Socket.make({ reader: socket.reader, writer: Effect.map(socket.writer, change) })

const broken: ReadonlyArray<{
  readonly what: string
  readonly fails: string
  readonly change: (socket: Socket.Socket) => Socket.Socket
}> = [
  {
    what: "loses a byte of each megabyte",
    fails: "basic I/O: megabytes arrive unchanged, there and back",
    change: (socket) =>
      withReader(socket, (reader) => {
        let seen = 0
        return {
          ...reader,
          pull: Effect.map(reader.pull, ([first, ...rest]) => {
            const bytes = bytesOf(first).slice()
            seen += bytes.length
            if (seen > 1_000_000) bytes[0] ^= 1
            return [bytes, ...rest] as const
          })
        }
      })
  },
  {
    what: "writes in pieces that others get between",
    fails: "racing writers: what each of them writes stays together",
    change: (socket) =>
      withWriter(socket, (writer) => ({
        ...writer,
        write: (chunk) =>
          Socket.isCloseEvent(chunk) || chunk.length < 1000
            ? writer.write(chunk)
            : Effect.andThen(
                writer.write(bytesOf(chunk).subarray(0, 500)),
                Effect.andThen(Effect.yieldNow, writer.write(bytesOf(chunk).subarray(500)))
              )
      }))
  },
  {
    what: "leaves a read waiting when its scope closes",
    fails: "closing ends a read that waits, on both sides",
    change: (socket) =>
      withReader(socket, (reader) => ({
        ...reader,
        pull: Effect.catch(reader.pull, (error) =>
          error.reason._tag === "SocketCloseError" && error.reason.code === 1006 ? Effect.never : Effect.fail(error)
        )
      }))
  },
  {
    what: "does not end its stream when the writer is released",
    fails: "releasing the writer ends the stream, and reading goes on",
    change: (socket) => {
      // Held by nobody's scope.
      return Socket.make({ reader: socket.reader, writer: Scope.provide(socket.writer, forever) })
    }
  },
  {
    what: "says that it has written what it keeps for itself",
    fails: "who does not pull makes the writer wait",
    change: (socket) =>
      withWriter(socket, (writer) => ({
        ...writer,
        write: (chunk) => Effect.asVoid(Effect.forkDetach(writer.write(chunk), { startImmediately: true }))
      }))
  },
  {
    what: "does not wait for the connection with a write",
    fails: "a write before the connection waits for it",
    change: (socket) => {
      let isOpen = false
      return Socket.make({
        reader: Effect.tap(socket.reader, () => Effect.sync(() => void (isOpen = true))),
        writer: Effect.map(socket.writer, (writer) => ({
          ...writer,
          write: (chunk) => (isOpen ? writer.write(chunk) : Effect.void)
        }))
      })
    }
  },
  {
    what: "ends with another code",
    fails: "a normal close event ends both sides with 1000",
    change: (socket) =>
      withReader(socket, (reader) => ({
        ...reader,
        pull: Effect.mapError(
          reader.pull,
          () => new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 1005 }) })
        )
      }))
  },
  {
    what: "mixes up the order of chunks",
    fails: "several chunks at once arrive in order",
    change: (socket) =>
      withWriter(socket, (writer) => ({
        ...writer,
        writeAll: (chunks) => writer.writeAll(chunks.toReversed() as unknown as typeof chunks)
      }))
  }
]

describe("the contract", () => {
  for (const { change, fails, what } of broken) {
    it.live(`fails a transport that ${what}`, () =>
      Effect.gen(function* () {
        const { run } = TransportContract.cases.find(({ name }) => name === fails)!
        // One that waits for ever has failed, too.
        const exit = yield* Effect.exit(
          run.pipe(Effect.scoped, Effect.timeout("3 seconds"), Effect.provide(worse(change), { local: true }))
        )
        assert.isTrue(Exit.isFailure(exit), fails)
      })
    )
  }

  it("has a name for each case", () => {
    assert.strictEqual(new Set(TransportContract.cases.map(({ name }) => name)).size, TransportContract.cases.length)
  })
})
