/**
 * The server and the client: one piece of code each, whatever the wire is.
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

export interface Transfer {
  readonly seconds: number
  /** What came back. */
  readonly received: Uint8Array
}

/**
 * Sends the file and takes what comes back, both at once. `memory` is where that goes: one byte longer than the file, so
 * that an echo of too much shows. `onReceived` is called with the number of bytes received so far.
 */
export const transfer = Effect.fnUntraced(function* (
  wire: Wire,
  file: Uint8Array,
  memory: Uint8Array,
  onReceived: (bytes: number) => void
): Effect.fn.Return<Transfer, WireError> {
  const send = Effect.gen(function* () {
    for (let at = 0; at < file.length; at += CHUNK_BYTES) {
      yield* wire.write(file.subarray(at, at + CHUNK_BYTES))
    }
    yield* wire.end
  })
  let received = 0
  const receive = Effect.gen(function* () {
    while (received < memory.length) {
      received += yield* wire.readInto(memory.subarray(received, received + CHUNK_BYTES))
      onReceived(received)
    }
  }).pipe(Pull.catchDone(() => Effect.void))
  const start = yield* Clock.monotonicTimeNanos
  yield* Effect.all([receive, send], { concurrency: "unbounded", discard: true })
  const end = yield* Clock.monotonicTimeNanos
  return { seconds: Number(end - start) / 1e9, received: memory.subarray(0, received) }
})
