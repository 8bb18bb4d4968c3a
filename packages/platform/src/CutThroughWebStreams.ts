/**
 * Web Streams from a connection: for `Response` and `Request`, `pipeTo` and
 * `pipeThrough`, `CompressionStream` and whatever else takes a `ReadableStream`
 * or a `WritableStream`.
 *
 * Closing the writable ends this side's stream; cancelling the readable or
 * aborting the writable resets the connection. The connection stays its scope's:
 * it is closed when the scope is.
 *
 * @since 0.1.0
 */
import * as Connection from "@cut-through/core/Connection"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"

/**
 * What is read, as a stream of bytes: nothing is taken from the connection before
 * somebody wants it, so the other side waits when nobody reads. Readers that
 * bring a buffer of their own (`getReader({ mode: "byob" })`) get it filled
 * straight from the connection.
 *
 * It closes at the end of the other side's stream, and fails with the
 * `SessionError` that reading fails with. Cancelling it resets the connection.
 * The connection has one reader: do not read from it elsewhere meanwhile.
 *
 * **Example** (The body of a response)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughNode, CutThroughWebStreams } from "@cut-through/platform"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Effect.forkScoped(listener.run((connection) => connection.write(new TextEncoder().encode("hello"))))
 *   const connection = yield* Application.connect(listener.address)
 *   return yield* Effect.promise(() => new Response(CutThroughWebStreams.toReadable(connection)).text())
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "hello"
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const toReadable = (connection: Connection.Connection): ReadableStream<Uint8Array> =>
  new ReadableStream(
    {
      type: "bytes",
      pull: (controller) =>
        new Promise<void>((resolve) => {
          const done = (exit: Exit.Exit<void, unknown>): void => {
            if (Exit.isFailure(exit)) failed(controller, exit)
            resolve()
          }
          const request = controller.byobRequest
          if (request?.view == null) take(connection, controller, done)
          else fill(connection, request, request.view, done)
        }),
      // Whoever waits is told, and the stream, being cancelled, no longer cares.
      cancel: () => Effect.runPromise(connection.reset)
    },
    // Only what somebody waits for.
    { highWaterMark: 0 }
  )

type Done = (exit: Exit.Exit<void, unknown>) => void

const allocate = (bytes: number): Uint8Array<ArrayBuffer> => new Uint8Array(bytes)

const take = (connection: Connection.Connection, controller: ReadableByteStreamController, done: Done): void => {
  Connection.takeUnsafe(connection, allocate, (exit) => {
    if (Exit.isSuccess(exit)) controller.enqueue(exit.value)
    done(Exit.asVoid(exit))
  })
}

const fill = (
  connection: Connection.Connection,
  request: ReadableStreamBYOBRequest,
  view: ArrayBufferView,
  done: Done
): void => {
  const buffer = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  Effect.runCallback(connection.readInto(buffer), {
    onExit: (exit) => {
      if (Exit.isSuccess(exit)) request.respond(exit.value)
      done(Exit.asVoid(exit))
    }
  })
}

const failed = (controller: ReadableByteStreamController, exit: Exit.Exit<void, unknown>): void => {
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  if (!Cause.isDone(error)) return controller.error(error)
  controller.close()
  // A reader with a buffer gets it back.
  controller.byobRequest?.respond(0)
}

/**
 * What is written to the stream is written to the connection, one chunk at a
 * time: a writer that heeds `ready`, as `pipeTo` does, waits as long as the other
 * side does not read. A chunk may be used again when its `write` has resolved.
 *
 * Closing it ends this side's stream behind what was written. Aborting it resets
 * the connection, even while a write waits for room; so does a chunk that is not
 * bytes. Writing fails with the connection's `SessionError`.
 *
 * **Example** (Sending a compressed text)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughNode, CutThroughWebStreams } from "@cut-through/platform"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const client = yield* Application.connect(listener.address)
 *   const server = yield* listener.accept
 *   const sent = new Response("hello").body!
 *     .pipeThrough(new CompressionStream("gzip"))
 *     .pipeTo(CutThroughWebStreams.toWritable(client))
 *   const received = CutThroughWebStreams.toReadable(server).pipeThrough(new DecompressionStream("gzip"))
 *   const text = yield* Effect.promise(() => new Response(received).text())
 *   yield* Effect.promise(() => sent)
 *   return text
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "hello"
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const toWritable = (connection: Connection.Connection): WritableStream<Uint8Array> =>
  new WritableStream({
    start: (controller) => {
      // At once: `abort` of a sink waits until the write at hand is done, which may be never.
      const { signal } = controller as WritableStreamDefaultController & { readonly signal: AbortSignal }
      signal.addEventListener("abort", () => void Effect.runFork(connection.reset), { once: true })
    },
    write: async (chunk) => {
      const bytes = bytesOf(chunk)
      if (bytes !== undefined) return write(connection, bytes)
      await Effect.runPromise(connection.reset)
      throw new TypeError("a chunk for a connection must be a Uint8Array, an ArrayBuffer or another view of one")
    },
    close: () => Effect.runPromise(connection.end)
  })

const bytesOf = (chunk: unknown): Uint8Array | undefined => {
  if (chunk instanceof Uint8Array) return chunk
  if (ArrayBuffer.isView(chunk)) return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength)
  return chunk instanceof ArrayBuffer ? new Uint8Array(chunk) : undefined
}

const write = (connection: Connection.Connection, bytes: Uint8Array): Promise<void> =>
  new Promise((resolve, reject) => {
    Connection.writeAllUnsafe(connection, [bytes], (exit) => {
      if (Exit.isSuccess(exit)) resolve()
      else reject(Cause.squash(exit.cause))
    })
  })

/**
 * Both directions of a connection: what `pipeThrough` takes, for example, to have
 * a server transform a stream.
 *
 * @category conversions
 * @since 0.1.0
 */
export const toPair = (
  connection: Connection.Connection
): { readonly readable: ReadableStream<Uint8Array>; readonly writable: WritableStream<Uint8Array> } => ({
  readable: toReadable(connection),
  writable: toWritable(connection)
})
