/**
 * Proof that nothing is left.
 *
 * @since 0.1.0
 */
import type { Application } from "@cut-through/core/Application"
import { layer as makeApplication } from "@cut-through/core/Application"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { Residue } from "@cut-through/core/session/SessionLayer"
import { layerNoDeps, SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import * as Sessions from "@cut-through/core/Sessions"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { layerConnections, placeOf } from "./internal/Acquired.ts"
import { layerPooled } from "./internal/Pool.ts"
import { Recorder } from "./internal/Recorder.ts"

/**
 * One thing that was left.
 *
 * @category models
 * @since 0.1.0
 */
export interface Item {
  readonly what: "session" | "half-open" | "segment"
  /** What listings call it. */
  readonly name: string
  /** The application's worker that has it; of a segment, those who share it. */
  readonly owner: string
  /**
   * Which fiber ran when it came about, and in which named effects (`Effect.fn`,
   * `Effect.withSpan`). Known in the session layers of this package.
   */
  readonly place: string | undefined
}

/**
 * What was left, and the sessions it was left by.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeakError extends Data.TaggedError("LeakError")<{
  readonly residue: Residue
  readonly sessions: string
  /** What has an owner, one by one. */
  readonly items: ReadonlyArray<Item>
}> {
  override get message(): string {
    const left = Object.entries(this.residue).filter(([, count]) => count !== 0)
    const counts = `left over: ${left.map(([what, count]) => `${count} ${what}`).join(", ")}`
    return [counts, ...this.items.map(formatItem), this.sessions].join("\n")
  }
}

const formatItem = ({ name, owner, place, what }: Item): string =>
  `  ${what} ${name} of ${owner}${place === undefined ? "" : `, made by ${place}`}`

const itemsOf = (layer: SessionLayer["Service"]): ReadonlyArray<Item> => [
  ...[...layer.connections.sessions()].map((session): Item => ({
    what: "session",
    name: session.format(),
    owner: session.app.name,
    place: placeOf(session)
  })),
  ...[...layer.connections.halfOpens()].map((halfOpen): Item => ({
    what: "half-open",
    name: halfOpen.transport.formatHalfOpen(halfOpen),
    owner: halfOpen.client.name,
    place: placeOf(halfOpen)
  })),
  ...layer.segments
    .stats()
    .segments.map(({ client, clientSessions, listener, segment, server, serverSessions }): Item => ({
      what: "segment",
      name: `${segment} of the listener ${listener}, with ${clientSessions} leases of clients and ${serverSessions} of servers`,
      owner: client === server ? client : `${client} and ${server}`,
      place: undefined
    }))
]

/**
 * Fails with a {@link LeakError} unless the session layer is at rest: no
 * sessions, half-opens, leases, contexts, segments, FIFO bytes, regions or
 * pending calls.
 *
 * **Example** (Before and after)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Leaks } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const talk = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Application.connect(listener.address)
 *   return yield* Effect.flip(Leaks.check)
 * })
 * const program = Effect.scoped(talk).pipe(Effect.tap(() => Leaks.check), Effect.provide(CutThrough.layer))
 *
 * const error = await Effect.runPromise(program)
 * error.residue.sessions // => 2
 * ```
 *
 * @category assertions
 * @since 0.1.0
 */
export const check: Effect.Effect<void, LeakError, SessionLayer> = Effect.gen(function* () {
  const residue = yield* Sessions.residue
  if (Object.values(residue).some((count) => count !== 0)) {
    const items = itemsOf(yield* SessionLayer)
    return yield* new LeakError({ residue, sessions: yield* Sessions.format, items })
  }
})

/**
 * Checks for leaks when its scope closes: everything that is built on top of it
 * has been closed by then. What is left is a defect, and fails the test.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerCheck: Layer.Layer<never, never, SessionLayer> = Layer.effectDiscard(
  Effect.flatMap(SessionLayer, (layer) =>
    Effect.addFinalizer(() => Effect.orDie(Effect.provideService(check, SessionLayer, layer)))
  )
)

// Simulations make session layers by the thousand, and decide who goes on. Others get memory that nobody has written to
// before, and wake-ups as in production.
const layerDeps = Layer.unwrap(
  Effect.map(Recorder, (record) =>
    record === undefined
      ? Layer.mergeAll(SharedMemory.layer, Wake.layer)
      : Layer.mergeAll(layerPooled, Wake.layerScheduler)
  )
)

/**
 * A session layer that is checked for leaks when its scope closes.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSessions = (options?: {
  readonly workers?: number | undefined
}): Layer.Layer<SessionLayer, SessionError> =>
  Layer.fresh(
    layerCheck.pipe(
      Layer.provideMerge(layerNoDeps(options)),
      Layer.provide(Layer.mergeAll(layerConnections, SegmentContext.layer)),
      Layer.provide(Layer.mergeAll(layerDeps, Lock.layer))
    )
  )

/**
 * `CutThrough.layer` for tests: checked for leaks when its scope closes, each
 * time with a session layer of its own.
 *
 * **Example** (A test that fails when something is left)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { Leaks } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const test = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const connection = yield* Application.connect(listener.address)
 *   yield* connection.write(Uint8Array.of(1))
 * })
 *
 * await Effect.runPromise(test.pipe(Effect.scoped, Effect.provide(Leaks.layerTest)))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<Application | SessionLayer, SessionError> = Layer.fresh(
  makeApplication({ name: "test" }).pipe(Layer.provideMerge(layerSessions()))
)

/**
 * Handles of the platform that keep a process running, and how many there are of
 * each kind: sockets, servers, timers, ports to other threads. Empty where there
 * is no Node.
 *
 * @category inspection
 * @since 0.1.0
 */
export const handles: Effect.Effect<{ readonly [kind: string]: number }> = Effect.sync(() => {
  const { process } = globalThis as {
    readonly process?: { readonly getActiveResourcesInfo?: () => ReadonlyArray<string> }
  }
  const counts: Record<string, number> = {}
  for (const kind of process?.getActiveResourcesInfo?.() ?? []) counts[kind] = (counts[kind] ?? 0) + 1
  return counts
})

/**
 * Handles that were not there before.
 *
 * @category errors
 * @since 0.1.0
 */
export class HandleLeakError extends Data.TaggedError("HandleLeakError")<{
  readonly left: { readonly [kind: string]: number }
}> {
  override get message(): string {
    const left = Object.entries(this.left).map(([kind, count]) => `${count} ${kind}`)
    return `left over: ${left.join(", ")}: close them, or let the process end with unref`
  }
}

/**
 * Fails with a {@link HandleLeakError} when a program leaves more handles than
 * there were before. For programs that run alone: others may open some
 * meanwhile.
 *
 * **Example** (A forgotten timer)
 *
 * ```ts
 * import { Leaks } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * let timer: ReturnType<typeof setTimeout> | undefined
 * const program = Effect.sync(() => {
 *   timer = setTimeout(() => {}, 60_000)
 * })
 *
 * const error = await Effect.runPromise(Effect.flip(Leaks.withoutHandles(program)))
 * clearTimeout(timer)
 * error.left // => { Timeout: 1 }
 * ```
 *
 * @category assertions
 * @since 0.1.0
 */
export const withoutHandles = <A, E, R>(program: Effect.Effect<A, E, R>): Effect.Effect<A, E | HandleLeakError, R> =>
  Effect.gen(function* () {
    const before = yield* handles
    const result = yield* program
    const left: Record<string, number> = {}
    for (const [kind, count] of Object.entries(yield* handles)) {
      const more = count - (before[kind] ?? 0)
      // Effect's own scheduler.
      if (more > 0 && kind !== "Immediate") left[kind] = more
    }
    if (Object.keys(left).length > 0) return yield* new HandleLeakError({ left })
    return result
  })
