/**
 * Sends a file through every placement in turn, with a stopwatch, and checks what comes back.
 */
import { Sessions } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Effect } from "effect"
import type { Scope } from "effect"
import { createHash } from "node:crypto"
import { transfer } from "./Echo.ts"
import type { Placement, PlacementError } from "./Placement.ts"
import type { Wire } from "./Wire.ts"

/** Transfers before the first that counts: V8 takes about so many to compile what runs in them. */
const WARM_UPS = 3

/** Transfers that count. */
const TRANSFERS = 5

/** Transfers for each placement, all in all. */
export const ROUNDS = WARM_UPS + TRANSFERS

export interface Result {
  readonly path: string
  /** Median of the transfers that count. */
  readonly seconds: number
  /** The bytes of the file, counted once though they travel there and back, by the seconds. */
  readonly gigabytesPerSecond: number
  /** Of what came back. */
  readonly sha256: string
  /** Whether that was the file, every time. */
  readonly ok: boolean
}

export interface Observer {
  /** Called before a transfer. */
  readonly started: (path: string) => void
  /** Called during a transfer, while the clock runs, with the bytes received so far. */
  readonly received: (bytes: number) => void
  /** Run half-way through the first transfer of a placement, which does not count. */
  readonly midway: (path: string) => Effect.Effect<void>
}

/** `memory` is where the file comes back to: one byte longer than the file. */
export const measure = Effect.fnUntraced(function* (
  placements: ReadonlyArray<Placement>,
  file: Uint8Array,
  memory: Uint8Array,
  observer: Observer
): Effect.fn.Return<ReadonlyArray<Result>, PlacementError, SessionLayer | Scope.Scope> {
  const expected = yield* sha256(file)
  const subjects = []
  for (const { path, start } of placements) {
    subjects.push({ path, connect: yield* start, seconds: new Array<number>(), sha256: expected })
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const subject of subjects) {
      const { connect, path } = subject
      // What an earlier transfer left must not pass for what this one brings.
      memory.fill(0)
      observer.started(path)
      const { received, seconds } = yield* Effect.scoped(
        Effect.flatMap(connect, (wire) => {
          const watched = round === 0 ? sampled(wire, file.length, observer.midway(path)) : wire
          return transfer(watched, file, memory, observer.received)
        })
      )
      if (round >= WARM_UPS) subject.seconds.push(seconds)
      const digest = yield* sha256(received)
      if (digest !== expected) subject.sha256 = digest
    }
  }
  return subjects.map(({ path, seconds: all, sha256 }) => {
    const seconds = median(all)
    const gigabytesPerSecond = seconds > 0 ? file.length / seconds / 1e9 : 0
    return { path, seconds, gigabytesPerSecond, sha256, ok: sha256 === expected }
  })
})

export interface AtRest {
  readonly sessions: number
  readonly halfOpens: number
  readonly segments: number
  readonly fifoBytes: number
}

/** What is left. */
export const atRest: Effect.Effect<AtRest, never, SessionLayer> = Effect.map(
  Sessions.residue,
  ({ fifoBytes, halfOpens, segments, sessions }) => ({ sessions, halfOpens, segments, fifoBytes })
)

/** The wire, with `sample` run once, between two reads, when half of the bytes have been read. */
const sampled = (wire: Wire, bytes: number, sample: Effect.Effect<void>): Wire => {
  let received = 0
  let isDue = true
  return {
    readInto: (buffer) =>
      Effect.gen(function* () {
        if (isDue && received >= bytes / 2) {
          isDue = false
          // The others run on meanwhile, so that the sample shows bytes on their way.
          if (received < bytes) yield* Effect.yieldNow
          yield* sample
        }
        const count = yield* wire.readInto(buffer)
        received += count
        return count
      }),
    write: (chunk) => wire.write(chunk),
    end: wire.end
  }
}

const HASH_BYTES = 8 * 1024 * 1024

/** In steps, so that neither Ctrl-C nor the progress bar has to wait for all of it. */
const sha256 = (bytes: Uint8Array): Effect.Effect<string> =>
  Effect.gen(function* () {
    const hash = createHash("sha256")
    for (let at = 0; at < bytes.length; at += HASH_BYTES) {
      hash.update(bytes.subarray(at, at + HASH_BYTES))
      yield* Effect.yieldNow
    }
    return hash.digest("hex")
  })

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
