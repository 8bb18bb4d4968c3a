import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import { type Cause, Effect, Exit, type Scope } from "effect"

export const endpoint = Endpoint.tcp("127.0.0.1", 7000)

/** Both ends of one connection, in the scope of the caller. */
export const connectedPair: Effect.Effect<
  { readonly client: Connection.Connection; readonly server: Connection.Connection },
  unknown,
  Application.Application | Scope.Scope
> = Effect.gen(function* () {
  const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
  const client = yield* Application.connect(listener.address)
  const server = yield* listener.accept
  return { client, server }
})

/** Bytes that say where they belong: byte `n` of the stream is `n * 31 + n / 256`, so a misplaced one is seen. */
export const pattern = (length: number, from = 0): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = patternAt(from + i)
  return bytes
}

const patternAt = (position: number): number => (position * 31 + (position >>> 8)) & 0xff

/** The first position at which bytes differ from the pattern, or -1. */
export const misplaced = (bytes: Uint8Array, from = 0): number => {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== patternAt(from + i)) return from + i
  }
  return -1
}

/** Reads until `length` bytes have come or the stream ends. */
export const readExactly = (connection: Connection.Connection, length: number) =>
  Effect.gen(function* () {
    const bytes = new Uint8Array(length)
    let at = 0
    while (at < length) at += yield* connection.readInto(bytes.subarray(at))
    return bytes
  })

/** How an effect ended: `success`, `Done`, the reason of its `SessionError`, or what else its cause was. */
export const reasonOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return "success"
  const reason = exit.cause.reasons[0]
  if (reason._tag !== "Fail") return reason._tag
  const error = reason.error as SessionError.SessionError | Cause.Done
  return error._tag === "Done" ? "Done" : error.reason._tag
}
