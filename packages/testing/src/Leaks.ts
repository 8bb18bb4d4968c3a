/**
 * Proof that nothing is left.
 *
 * @since 0.1.0
 */
import type { Application } from "@cut-through/core/Application"
import { layer as makeApplication } from "@cut-through/core/Application"
import type { Residue } from "@cut-through/core/session/SessionLayer"
import { layer as makeSessionLayer, SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import * as Sessions from "@cut-through/core/Sessions"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/**
 * What was left, and the sessions it was left by.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeakError extends Data.TaggedError("LeakError")<{
  readonly residue: Residue
  readonly sessions: string
}> {
  override get message(): string {
    const left = Object.entries(this.residue).filter(([, count]) => count !== 0)
    return `left over: ${left.map(([what, count]) => `${count} ${what}`).join(", ")}\n${this.sessions}`
  }
}

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
    return yield* new LeakError({ residue, sessions: yield* Sessions.format })
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

/**
 * A session layer that is checked for leaks when its scope closes.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSessions = (options?: {
  readonly workers?: number | undefined
}): Layer.Layer<SessionLayer, SessionError> =>
  Layer.fresh(layerCheck.pipe(Layer.provideMerge(makeSessionLayer(options))))

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
