/**
 * What a thread does in a soak: it serves echoes, and talks to the echo servers
 * of the others. Each byte that comes back is checked.
 */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as SessionError from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { Buffer } from "node:buffer"

/** How a thread is made to die. The last two it does not do itself. */
export const deaths = ["exit", "throw", "reject", "terminate", "terminate in a loop"] as const
export type Death = (typeof deaths)[number]

/** What a thread is told. */
export type Order =
  | { readonly _tag: "Targets"; readonly ports: ReadonlyArray<number> }
  | { readonly _tag: "Die"; readonly how: Death }
  /** Talks to nobody any more, and says so. */
  | { readonly _tag: "Hush" }
  | { readonly _tag: "End" }

/** What it says. */
export type Report =
  | { readonly _tag: "Listening"; readonly port: number }
  /** Has moved some bytes since it began. */
  | { readonly _tag: "Flowing" }
  | { readonly _tag: "Tally"; readonly bytes: number; readonly ends: { readonly [how: string]: number } }
  | { readonly _tag: "Wrong"; readonly what: string }
  | { readonly _tag: "Hushed" }

export interface Options {
  readonly seed: number
  /** Connections at once. */
  readonly clients: number
  /** How long it rests after each of them, so that others have the machine. */
  readonly rest: number
}

// ---------------------------------------------------------------------------
// bytes
// ---------------------------------------------------------------------------

const makeRandom = (seed: number) => {
  let state = seed | 0
  return (limit: number): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}

/** Bytes with no order in them, of a length that no size of chunks divides: at most 64 KiB from each place. */
const PERIOD = 262_139
const PIECE = 65_536
const pattern = new Uint8Array(PERIOD + PIECE)
const next = makeRandom(1)
for (let i = 0; i < PERIOD; i++) pattern[i] = next(256)
pattern.copyWithin(PERIOD, 0, PIECE)

/** The bytes that belong at a place of one of many streams. */
const bytesAt = (stream: number, position: number, length: number): Uint8Array => {
  const from = (stream * 7919 + position) % PERIOD
  return pattern.subarray(from, from + length)
}

// ---------------------------------------------------------------------------
// serving
// ---------------------------------------------------------------------------

const serve = (connection: Connection) =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(PIECE)
    while (true) yield* connection.write(buffer.subarray(0, yield* connection.readInto(buffer)))
  })

// ---------------------------------------------------------------------------
// talking
// ---------------------------------------------------------------------------

const writeAll = (connection: Connection, stream: number, total: number, most: number) =>
  Effect.gen(function* () {
    for (let at = 0; at < total;) {
      const length = Math.min(1 + ((at * 31 + stream) % most), total - at)
      yield* connection.write(bytesAt(stream, at, length))
      at += length
    }
    yield* connection.end
  })

class WrongBytes extends Error {}

/** Reads until the end, and checks what comes. */
const readAll = (connection: Connection, stream: number, onBytes: (count: number) => void) =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(PIECE)
    let at = 0
    while (true) {
      const count = yield* connection.readInto(buffer)
      const seen = buffer.subarray(0, count)
      if (Buffer.compare(seen, bytesAt(stream, at, count)) !== 0) {
        return yield* Effect.die(new WrongBytes(`wrong bytes at ${at} to ${at + count} of stream ${stream}`))
      }
      at += count
      onBytes(count)
    }
  }).pipe(
    Effect.catchIf(Cause.isDone, () => Effect.void),
    Effect.andThen(Effect.sync(() => connection.info.bytesReceived))
  )

/** Ends that others are the cause of. */
const isExpected = (tag: string): boolean => tag === "PeerDied" || tag === "NoRoute" || tag === "Refused"

/** Takes part until the scope closes: talks to those it aims at, until it is hushed. */
export const takePart = (
  { clients, rest, seed }: Options,
  say: (report: Report) => void
): Effect.Effect<
  { readonly aim: (ports: ReadonlyArray<number>) => void; readonly hush: Effect.Effect<void> },
  SessionError.SessionError,
  Application.Application | Scope.Scope
> =>
  Effect.gen(function* () {
    const random = makeRandom(seed)
    const ends = new Map<string, number>()
    let bytes = 0
    let flowed = 0
    let ports: ReadonlyArray<number> = []
    let waiting: Array<() => void> = []
    let isHushed = false

    const count = (how: string) => void ends.set(how, (ends.get(how) ?? 0) + 1)
    const tally = () => {
      say({ _tag: "Tally", bytes, ends: Object.fromEntries(ends) })
      bytes = 0
      ends.clear()
    }
    const onBytes = (count: number) => {
      bytes += count
      if (flowed >= 0 && (flowed += count) > 100_000) {
        flowed = -1
        say({ _tag: "Flowing" })
      }
    }
    const wrong = (where: string, what: unknown) =>
      say({ _tag: "Wrong", what: `${where}: ${what instanceof Error ? what.stack : String(what)}` })

    const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
    const serving = listener.run((connection) =>
      serve(connection).pipe(
        Effect.catchIf(Cause.isDone, () => connection.end),
        // Clients break off, and die.
        Effect.catch((error) =>
          error.reason._tag === "Reset" || error.reason._tag === "PeerDied"
            ? Effect.fail(error)
            : Effect.sync(() => wrong("a server", error))
        )
      )
    )
    yield* Effect.forkScoped(serving)
    say({ _tag: "Listening", port: listener.address.port })

    const talk = Effect.gen(function* () {
      const stream = random(1000)
      const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", ports[random(ports.length)]))
      // Mostly short, some long; now and then broken off.
      const total = 1 + random(random(4) === 0 ? 4_000_000 : 200_000)
      const writing = yield* Effect.forkChild(writeAll(connection, stream, total, 1 + random(PIECE)))
      if (random(10) === 0) {
        yield* connection.read
        yield* Fiber.interrupt(writing)
        yield* connection.reset
        return "broken off"
      }
      const received = yield* readAll(connection, stream, onBytes)
      yield* Fiber.join(writing)
      if (received !== total) wrong("a client", `${received} bytes of ${total} have come back before the end`)
      return "verified"
    }).pipe(Effect.scoped)

    const ready = Effect.callback<void>((resume) => {
      if (ports.length > 0 || isHushed) return resume(Effect.void)
      waiting.push(() => resume(Effect.void))
    })

    const client = Effect.gen(function* () {
      while (true) {
        yield* ready
        if (isHushed) return
        const exit = yield* Effect.exit(talk)
        if (exit._tag === "Success") count(exit.value)
        else {
          const error = Cause.squash(exit.cause)
          const tag = error instanceof SessionError.SessionError ? error.reason._tag : "defect"
          count(tag)
          if (!isExpected(tag)) wrong("a client", error)
        }
        // Also because somebody who has just died may be asked again and again before the others hear of it.
        yield* rest > 0 ? Effect.sleep(rest) : Effect.yieldNow
        if (bytes > 1_000_000) tally()
      }
    })

    const talking = yield* Effect.forkScoped(
      Effect.all(
        Array.from({ length: clients }, () => client),
        { concurrency: "unbounded", discard: true }
      )
    )

    const wakeAll = () => {
      for (const wake of waiting.splice(0)) wake()
    }
    return {
      aim: (targets) => {
        ports = targets
        if (ports.length > 0) wakeAll()
      },
      hush: Effect.gen(function* () {
        isHushed = true
        wakeAll()
        yield* Fiber.join(talking)
        tally()
        say({ _tag: "Hushed" })
      })
    }
  })
