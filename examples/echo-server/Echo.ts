/**
 * The server and the client: one piece of code each, whatever the wire is and wherever they are.
 */
import { Clock, Effect, Pull } from "effect"
import type { Wire, WireError } from "./Wire.ts"

/** Bytes in one read and in one write. */
const CHUNK_BYTES = 64 * 1024

/** Sends back what arrives until the client has ended its stream, then ends its own. */
export const serve = (wire: Wire): Effect.Effect<void, WireError> =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(CHUNK_BYTES)
    while (true) {
      const count = yield* wire.readInto(buffer)
      yield* wire.write(buffer.subarray(0, count))
    }
  }).pipe(Pull.catchDone(() => wire.end))

/** What the client and the program have in common, whatever threads they are in. */
export interface Shared {
  readonly file: Uint8Array
  /** Where the file comes back to: one byte longer than the file, so that an echo of too much shows. */
  readonly memory: Uint8Array
  /** How many bytes of it have come back so far. */
  readonly received: Int32Array
}

export interface Transfer {
  readonly seconds: number
  /** How many came back. */
  readonly bytes: number
}

/** Sends the file and takes what comes back, both at once. Half-way, between two reads, it waits for `midway`. */
export const transfer = Effect.fnUntraced(function* <E>(
  wire: Wire,
  { file, memory, received }: Shared,
  midway: Effect.Effect<void, E> | undefined
): Effect.fn.Return<Transfer, WireError | E> {
  const send = Effect.gen(function* () {
    for (let at = 0; at < file.length; at += CHUNK_BYTES) {
      yield* wire.write(file.subarray(at, at + CHUNK_BYTES))
    }
    yield* wire.end
  })
  let bytes = 0
  const receive = Effect.gen(function* () {
    let isStopDue = midway !== undefined
    while (bytes < memory.length) {
      if (isStopDue && bytes >= file.length / 2) {
        isStopDue = false
        // The others run on meanwhile, so that bytes are on their way.
        if (bytes < file.length) yield* Effect.yieldNow
        yield* midway!
      }
      bytes += yield* wire.readInto(memory.subarray(bytes, bytes + CHUNK_BYTES))
      Atomics.store(received, 0, bytes)
    }
  }).pipe(Pull.catchDone(() => Effect.void))
  const start = yield* Clock.monotonicTimeNanos
  yield* Effect.all([receive, send], { concurrency: "unbounded", discard: true })
  const end = yield* Clock.monotonicTimeNanos
  return { seconds: Number(end - start) / 1e9, bytes }
})
