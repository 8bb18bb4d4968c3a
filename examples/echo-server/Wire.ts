/**
 * The little that the echo needs of a byte stream, so that it is the same code over cut-through and over TCP.
 */
import type { Connection, SessionError } from "@cut-through/core"
import { NativeCopy } from "@cut-through/platform"
import { Cause, Effect, Exit, Scope } from "effect"
import * as Socket from "effect/socket/Socket"
import { getDefaultHighWaterMark } from "node:stream"

export type WireError = SessionError.SessionError | Socket.SocketError

export interface Wire {
  /** Waits for bytes, at least one, and puts them at the start of the buffer. Fails with `Done` at the end. */
  readonly readInto: (buffer: Uint8Array) => Effect.Effect<number, WireError | Cause.Done>
  /** Writes all bytes. The array may be used again when it is done. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, WireError>
  /** Ends this side's stream. Reading goes on. */
  readonly end: Effect.Effect<void>
}

/** A connection has this face already. */
export const fromConnection = (connection: Connection.Connection): Wire => connection

/** A socket that is open until the scope closes: at once, with all that is on its way, unless it closes in success. */
export const fromSocket = Effect.fnUntraced(function* (
  socket: Socket.Socket
): Effect.fn.Return<Wire, Socket.SocketError, Scope.Scope> {
  const pull = Effect.catchIf(yield* Socket.readerBytes(socket), isEnd, () => Cause.done())
  // Releasing the writer is what half-closes a socket, so it has a scope of its own.
  const writing = yield* Scope.fork(yield* Effect.scope)
  const writer = yield* Scope.provide(socket.writer, writing)
  yield* Effect.addFinalizer((exit) =>
    // Otherwise both sides would wait until all is sent that nobody reads any more.
    Exit.isSuccess(exit) ? Effect.void : Effect.ignore(writer.write(new Socket.CloseEvent()))
  )
  let pulled: Iterator<Uint8Array> = [][Symbol.iterator]()
  let rest: Uint8Array = new Uint8Array(0)
  const take = (buffer: Uint8Array): number => {
    let count = 0
    while (count < buffer.length) {
      if (rest.length === 0) {
        const next = pulled.next()
        if (next.done === true) break
        rest = next.value
      }
      const part = rest.subarray(0, buffer.length - count)
      // What comes back goes to memory that threads share, where `set` would take three times as long.
      NativeCopy.copy(buffer, count, part, 0, part.length)
      count += part.length
      rest = rest.subarray(part.length)
    }
    return count
  }
  return {
    readInto: (buffer) =>
      Effect.suspend(() => {
        const count = take(buffer)
        if (count > 0) return Effect.succeed(count)
        return Effect.map(pull, (chunks) => {
          pulled = chunks[Symbol.iterator]()
          return take(buffer)
        })
      }),
    write: (bytes) => writer.write(bytes.length < WAITS_FROM ? bytes.slice() : bytes),
    end: Scope.close(writing, Exit.void)
  }
})

/**
 * A write of this many bytes waits until the kernel has all of them. Node keeps shorter ones for later while it says that
 * they are written, so those are copied.
 */
const WAITS_FROM = getDefaultHighWaterMark(false)

const isEnd = ({ reason }: Socket.SocketError): boolean => reason._tag === "SocketCloseError" && reason.code === 1000
