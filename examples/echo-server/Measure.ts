/**
 * Sends a file through every placement in turn, with a stopwatch, and checks what comes back.
 */
import { Sessions } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Effect } from "effect"
import type { Scope } from "effect"
import { createHash } from "node:crypto"
import type { Shared } from "./Echo.ts"
import type { Placement, PlacementError } from "./Placement.ts"

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
  /** Run half-way through the first transfer of a placement that has sessions, which does not count. */
  readonly midway: (path: string) => Effect.Effect<void>
}

export const measure = Effect.fnUntraced(function* (
  placements: ReadonlyArray<Placement>,
  shared: Shared,
  observer: Observer
): Effect.fn.Return<ReadonlyArray<Result>, PlacementError, SessionLayer | Scope.Scope> {
  const { file, memory, received } = shared
  const expected = yield* sha256(file)
  // All at once: most of it is threads that load the same modules.
  const subjects = yield* Effect.forEach(
    placements,
    ({ hasSessions, path, start }) =>
      Effect.map(start(shared), (client) => {
        const midway = hasSessions ? observer.midway(path) : undefined
        return { path, client, midway, seconds: new Array<number>(), sha256: expected }
      }),
    { concurrency: "unbounded" }
  )
  for (let round = 0; round < ROUNDS; round++) {
    for (const subject of subjects) {
      // What an earlier transfer left must not pass for what this one brings.
      memory.fill(0)
      Atomics.store(received, 0, 0)
      observer.started(subject.path)
      const { bytes, seconds } = yield* subject.client(round === 0 ? subject.midway : undefined)
      if (round >= WARM_UPS) subject.seconds.push(seconds)
      const digest = yield* sha256(memory.subarray(0, bytes))
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
