import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import { CutThroughNode, CutThroughWebStreams } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, type Scope, Sink, Stream } from "effect"
import { misplaced, pattern, reasonOf } from "../../core/test/fixtures.ts"
import { until } from "./thread/life-talk.ts"

const { toPair, toReadable, toWritable } = CutThroughWebStreams

const MIB = 1024 * 1024

interface Ends {
  readonly client: Connection.Connection
  readonly server: Connection.Connection
}

const connect: Effect.Effect<Ends, SessionError.SessionError, Application.Application | Scope.Scope> = Effect.gen(
  function* () {
    const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
    const client = yield* Application.connect(listener.address)
    return { client, server: yield* listener.accept }
  }
)

const test = (name: string, body: (ends: Ends) => Effect.Effect<unknown, unknown, Scope.Scope>): void =>
  it.live(name, () =>
    Effect.flatMap(connect, body).pipe(
      Effect.scoped,
      Effect.provide(Leaks.layerTest),
      Effect.provide(CutThroughNode.layerCopy)
    )
  )

const read = (connection: Connection.Connection) => Effect.exit(connection.read)
const promise = <A>(evaluate: () => PromiseLike<A>): Effect.Effect<A> => Effect.promise(evaluate)
/** What a promise is rejected with. */
const rejection = (rejected: Promise<unknown>): Effect.Effect<unknown> => {
  const error = rejected.then(
    () => assert.fail("it was not rejected"),
    (error: unknown) => error
  )
  return promise(() => error)
}
const tagOf = (error: unknown): string => (error as SessionError.SessionError).reason._tag

const send = (connection: Connection.Connection, bytes: Uint8Array) =>
  Effect.andThen(connection.write(bytes), connection.end)

describe("toReadable", () => {
  test("all that is written, then the end", ({ client, server }) =>
    Effect.gen(function* () {
      yield* Effect.forkChild(send(client, pattern(3 * MIB)))
      const bytes = yield* promise(() => new Response(toReadable(server)).bytes())
      assert.strictEqual(bytes.length, 3 * MIB)
      assert.strictEqual(misplaced(bytes), -1)
    }))

  test("as the text of a response, and as an async iterable", ({ client, server }) =>
    Effect.gen(function* () {
      yield* send(client, new TextEncoder().encode("günther"))
      assert.strictEqual(yield* promise(() => new Response(toReadable(server)).text()), "günther")
      yield* send(server, Uint8Array.of(1, 2, 3))
      const chunks: Array<Uint8Array> = []
      yield* promise(async () => {
        for await (const chunk of toReadable(client)) chunks.push(chunk)
      })
      assert.deepStrictEqual(chunks, [Uint8Array.of(1, 2, 3)])
    }))

  test("nothing is taken before somebody wants it", ({ client, server }) =>
    Effect.gen(function* () {
      const readable = toReadable(server)
      yield* client.write(pattern(1000))
      // Streams begin to pull a few microtasks after they are made.
      yield* promise(() => new Promise((resolve) => void setImmediate(resolve)))
      assert.strictEqual(server.info.rx.used, 1000)
      const reader = readable.getReader()
      const { value } = yield* promise(() => reader.read())
      assert.strictEqual(value?.length, 1000)
      yield* client.write(pattern(500))
      assert.strictEqual(server.info.rx.used, 500)
      yield* promise(() => reader.cancel())
    }))

  test("a reader's own buffer is filled, and given back at the end", ({ client, server }) =>
    Effect.gen(function* () {
      const reader = toReadable(server).getReader({ mode: "byob" })
      yield* client.write(pattern(10))
      const first = yield* promise(() => reader.read(new Uint8Array(6)))
      assert.deepStrictEqual(first.value, pattern(10).subarray(0, 6))
      const waiting = reader.read(new Uint8Array(8))
      assert.deepStrictEqual((yield* promise(() => waiting)).value, pattern(10).subarray(6))
      const last = reader.read(new Uint8Array(5))
      yield* client.end
      const { done, value } = yield* promise(() => last)
      assert.isTrue(done)
      assert.strictEqual(value?.length, 0)
    }))

  test("fails with what reading fails with", ({ client, server }) =>
    Effect.gen(function* () {
      const reader = toReadable(server).getReader()
      const waiting = rejection(reader.read())
      yield* client.reset
      assert.strictEqual(tagOf(yield* waiting), "Reset")
      assert.strictEqual(tagOf(yield* rejection(reader.closed)), "Reset")
    }))

  test("fails with what filling a buffer fails with", ({ client, server }) =>
    Effect.gen(function* () {
      const reader = toReadable(server).getReader({ mode: "byob" })
      const waiting = reader.read(new Uint8Array(5))
      yield* client.reset
      assert.strictEqual(tagOf(yield* rejection(waiting)), "Reset")
    }))

  test("cancelling resets, also while it waits", ({ client, server }) =>
    Effect.gen(function* () {
      const reader = toReadable(server).getReader()
      const waiting = reader.read()
      yield* promise(() => reader.cancel("enough"))
      assert.deepStrictEqual(yield* promise(() => waiting), { done: true, value: undefined })
      assert.strictEqual(reasonOf(yield* read(client)), "Reset")
    }))

  test("cancelling resets while a buffer waits to be filled", ({ client, server }) =>
    Effect.gen(function* () {
      const reader = toReadable(server).getReader({ mode: "byob" })
      const waiting = reader.read(new Uint8Array(5))
      yield* promise(() => reader.cancel("enough"))
      assert.isTrue((yield* promise(() => waiting)).done)
      assert.strictEqual(reasonOf(yield* read(client)), "Reset")
    }))
})

describe("toWritable", () => {
  test("all that is written arrives, then the end", ({ client, server }) =>
    Effect.gen(function* () {
      const writer = toWritable(client).getWriter()
      const chunk = Uint8Array.of(1, 2)
      yield* promise(() => writer.write(chunk))
      // It may be used again.
      chunk.fill(9)
      yield* promise(() => writer.write(new Uint16Array([0x0403]) as unknown as Uint8Array))
      yield* promise(() => writer.write(Uint8Array.of(5).buffer as unknown as Uint8Array))
      yield* promise(() => writer.close())
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(1, 2, 3, 4, 5))
      assert.strictEqual(reasonOf(yield* read(server)), "Done")
      // Its own stream is another matter.
      yield* server.write(Uint8Array.of(6))
      assert.deepStrictEqual(yield* client.read, Uint8Array.of(6))
    }))

  test("a writer waits while the other side does not read", ({ client, server }) =>
    Effect.gen(function* () {
      const size = client.info.tx.size
      const writer = toWritable(client).getWriter()
      const writing = writer.write(pattern(2 * size))
      assert.strictEqual(writer.desiredSize, 0)
      yield* until(() => server.info.rx.used === size)
      let arrived = 0
      while (arrived < 2 * size) arrived += (yield* server.read).length
      yield* promise(() => writing)
      assert.strictEqual(arrived, 2 * size)
      assert.strictEqual(writer.desiredSize, 1)
    }))

  test("aborting resets, also while a write waits for room", ({ client, server }) =>
    Effect.gen(function* () {
      const writer = toWritable(client).getWriter()
      const size = client.info.tx.size
      const writing = rejection(writer.write(pattern(2 * size)))
      yield* until(() => server.info.rx.used === size)
      const closed = rejection(writer.closed)
      yield* promise(() => writer.abort(new Error("enough")))
      assert.strictEqual(tagOf(yield* writing), "Closed")
      assert.strictEqual(((yield* closed) as Error).message, "enough")
      assert.strictEqual(reasonOf(yield* read(server)), "Reset")
    }))

  test("a chunk that is not bytes resets", ({ client, server }) =>
    Effect.gen(function* () {
      const writer = toWritable(client).getWriter()
      const closed = rejection(writer.closed)
      assert.instanceOf(yield* rejection(writer.write("text" as unknown as Uint8Array)), TypeError)
      assert.instanceOf(yield* closed, TypeError)
      assert.strictEqual(reasonOf(yield* read(server)), "Reset")
    }))

  test("fails with what writing fails with", ({ client, server }) =>
    Effect.gen(function* () {
      const writer = toWritable(client).getWriter()
      const closed = rejection(writer.closed)
      yield* server.close
      assert.strictEqual(tagOf(yield* rejection(writer.write(Uint8Array.of(1)))), "BrokenPipe")
      assert.strictEqual(tagOf(yield* closed), "BrokenPipe")
    }))
})

describe("pipes", () => {
  const source = (bytes: Uint8Array): ReadableStream<Uint8Array> =>
    new Blob([bytes as Uint8Array<ArrayBuffer>]).stream()

  test("pipeTo and pipeThrough, through a server that transforms", ({ client, server }) =>
    Effect.gen(function* () {
      const { readable, writable } = toPair(server)
      const negate = new TransformStream<Uint8Array, Uint8Array>({
        transform: (chunk, controller) => controller.enqueue(chunk.map((byte) => byte ^ 255))
      })
      const serving = readable.pipeThrough(negate).pipeTo(writable)
      const back = yield* promise(() => new Response(source(pattern(2 * MIB)).pipeThrough(toPair(client))).bytes())
      yield* promise(() => serving)
      assert.strictEqual(back.length, 2 * MIB)
      assert.strictEqual(misplaced(back.map((byte) => byte ^ 255)), -1)
    }))

  test("pipeTo waits for the reader", ({ client, server }) =>
    Effect.gen(function* () {
      const size = client.info.tx.size
      let pulls = 0
      const endless = new ReadableStream<Uint8Array>(
        {
          pull: (controller) => {
            pulls++
            controller.enqueue(new Uint8Array(size / 2))
          }
        },
        { highWaterMark: 0 }
      )
      const abort = new AbortController()
      const piping = rejection(endless.pipeTo(toWritable(client), { signal: abort.signal }))
      // Two fit, and one waits.
      yield* until(() => server.info.rx.used === size && pulls === 3)
      // A writer that waits goes on when half of the FIFO is free.
      for (let taken = 0; taken < size / 2;) taken += (yield* server.read).length
      yield* until(() => pulls === 4)
      abort.abort(new Error("enough"))
      // A pipe writes what it has read before it aborts.
      let exit = yield* read(server)
      while (Exit.isSuccess(exit)) exit = yield* read(server)
      assert.strictEqual(reasonOf(exit), "Reset")
      assert.strictEqual(((yield* piping) as Error).message, "enough")
    }))

  test("a source that fails resets the connection, one that is reset fails the pipe", ({ client, server }) =>
    Effect.gen(function* () {
      const failing = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error("no more")) })
      const error = yield* rejection(failing.pipeTo(toWritable(client)))
      assert.strictEqual((error as Error).message, "no more")
      assert.strictEqual(tagOf(yield* rejection(toReadable(server).pipeTo(new WritableStream()))), "Reset")
    }))
})

describe("Stream, Sink and Channel", () => {
  test("a connection's stream is a channel, and goes through others", ({ client, server }) =>
    Effect.gen(function* () {
      const shout = Stream.fromChannel(
        Stream.toChannel(Stream.map(Stream.decodeText(server.stream), (text) => text.toUpperCase()))
      )
      const serving = yield* Effect.forkChild(Stream.run(Stream.encodeText(shout), server.sink))
      yield* Stream.run(Stream.encodeText(Stream.make("hel", "lo")), client.sink)
      const chunks = yield* Stream.run(Stream.decodeText(client.stream), Sink.collect<string>())
      assert.strictEqual(chunks.join(""), "HELLO")
      yield* Fiber.join(serving)
    }))

  test("an Effect stream from a readable of a connection", ({ client, server }) =>
    Effect.gen(function* () {
      yield* Effect.forkChild(send(client, pattern(MIB)))
      const stream = Stream.fromReadableStream({
        evaluate: () => toReadable(server),
        onError: (cause) => new Cause.UnknownError(cause)
      })
      const bytes = Buffer.concat(Array.from(yield* Stream.runCollect(stream)))
      assert.strictEqual(bytes.length, MIB)
      assert.strictEqual(misplaced(bytes), -1)
    }))
})
