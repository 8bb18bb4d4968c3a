/** What the tests and the threads they start have in common. Threads load it without Vitest, so nothing here imports that. */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as SessionError from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import { Buffer } from "node:buffer"
import type { MessagePort } from "node:worker_threads"
import { streamAt } from "../../../core/test/memory/threads.ts"

/** What two programs tell each other, wherever they are. */
export interface Talk {
  readonly say: (message: unknown) => Effect.Effect<void>
  /** Waits for the next message; dies when nobody is there to send it any more. */
  readonly hear: Effect.Effect<any>
  readonly port: MessagePort
}

export const talkOver = (port: MessagePort): Talk => {
  const heard: Array<unknown> = []
  const hearers: Array<(exit: Exit.Exit<unknown>) => void> = []
  const gone = Exit.die(new Error("nobody is there to talk to any more"))
  let isGone = false
  port.on("message", (message: unknown) => {
    const hearer = hearers.shift()
    if (hearer === undefined) heard.push(message)
    else hearer(Exit.succeed(message))
  })
  port.on("close", () => {
    isGone = true
    for (const hearer of hearers.splice(0)) hearer(gone)
  })
  return {
    port,
    say: (message) => Effect.sync(() => port.postMessage(message)),
    hear: Effect.callback<any>((resume) => {
      if (heard.length > 0) return resume(Exit.succeed(heard.shift()))
      if (isGone) return resume(gone)
      hearers.push(resume)
      return Effect.sync(() => void hearers.splice(hearers.indexOf(resume), 1))
    })
  }
}

/** A program that needs an application, wherever that is. */
export type Part = (talk: Talk, args: any) => Effect.Effect<unknown, unknown, Application.Application | Scope.Scope>

/** How a program ended in another thread. */
export type Outcome =
  | { readonly _tag: "Success"; readonly value: unknown }
  | { readonly _tag: "Failure"; readonly error: unknown; readonly text: string }

export const outcomeOf = (exit: Exit.Exit<unknown, unknown>): Outcome => {
  if (Exit.isSuccess(exit)) return { _tag: "Success", value: exit.value }
  const error = Cause.squash(exit.cause)
  return {
    _tag: "Failure",
    error: error instanceof SessionError.SessionError ? reasonOf(error) : undefined,
    text: Cause.pretty(exit.cause)
  }
}

/** An error as plain data. */
export const reasonOf = ({ reason }: SessionError.SessionError): Record<string, unknown> => ({
  ...reason,
  _tag: reason._tag,
  message: reason.message
})

/** Waits for something that others do and of which no event tells: looks in each turn of the event loop. */
export const until = (isSo: () => boolean): Effect.Effect<void> =>
  Effect.callback((resume) => {
    let immediate: NodeJS.Immediate | undefined
    const look = () => {
      if (isSo()) resume(Effect.void)
      else immediate = setImmediate(look)
    }
    look()
    return Effect.sync(() => clearImmediate(immediate))
  })

// ---------------------------------------------------------------------------
// bytes
// ---------------------------------------------------------------------------

const PIECE = 65_536

/** Writes so many bytes, each of which says where in the stream it belongs. */
export const writeBytes = (connection: Connection, from: number, count: number, piece: number = PIECE) =>
  Effect.gen(function* () {
    for (let at = from; at < from + count; at += piece) {
      yield* connection.write(streamAt(at, Math.min(piece, from + count - at)))
    }
  })

export const assertBytes = (bytes: Uint8Array, at: number): void => {
  for (let done = 0; done < bytes.length; done += PIECE) {
    const seen = bytes.subarray(done, done + PIECE)
    if (Buffer.compare(seen, streamAt(at + done, seen.length)) !== 0) {
      assert.fail(`wrong bytes at ${at + done} to ${at + done + seen.length}`)
    }
  }
}

/** Reads so many bytes, and checks each of them. */
export const readBytes = (connection: Connection, from: number, count: number) =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(PIECE)
    let at = from
    while (at < from + count) {
      const read = yield* connection.readInto(buffer.subarray(0, Math.min(PIECE, from + count - at)))
      assertBytes(buffer.subarray(0, read), at)
      at += read
    }
  })

/** How a stream ended: `"end"`, or the reason's tag, and how many bytes came before, all of them right. */
export interface End {
  readonly how: string
  readonly bytes: number
  /** What the error says there were. */
  readonly received: number | undefined
}

/** Reads to the end, and checks each byte. */
export const drain = (connection: Connection, from: number = 0): Effect.Effect<End> =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(PIECE)
    let bytes = 0
    while (true) {
      const read = yield* Effect.result(connection.readInto(buffer))
      if (read._tag === "Failure") {
        const { failure } = read
        if (!(failure instanceof SessionError.SessionError)) return { how: "end", bytes, received: undefined }
        const reason = failure.reason as { readonly _tag: string; readonly bytesReceived?: number }
        return { how: reason._tag, bytes, received: reason.bytesReceived }
      }
      assertBytes(buffer.subarray(0, read.success), from + bytes)
      bytes += read.success
    }
  })

/** Echoes until the other side ends its stream, then ends its own. */
export const echo = (connection: Connection): Effect.Effect<void, SessionError.SessionError> =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(PIECE)
    while (true) yield* connection.write(buffer.subarray(0, yield* connection.readInto(buffer)))
  }).pipe(Effect.catchIf(Cause.isDone, () => connection.end)) as Effect.Effect<void, SessionError.SessionError>

/** The tag of the reason for which something fails. */
export const failsWith = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<string, A, R> =>
  Effect.map(Effect.flip(effect), (error) =>
    error instanceof SessionError.SessionError ? error.reason._tag : Cause.isDone(error) ? "Done" : String(error)
  )
