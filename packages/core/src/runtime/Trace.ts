/**
 * Spans, where somebody looks at them.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Tracer from "effect/Tracer"

/**
 * Whether anybody sees the spans of a fiber: there is a parent span, or a
 * tracer of the program's own. Without either a span would never be seen, and
 * making one costs more than most of what is traced here.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isWatched = (fiber: Fiber.Fiber<unknown, unknown>): boolean =>
  fiber.cache.tracer !== undefined || Context.getOrUndefined(fiber.context, Tracer.ParentSpan) !== undefined

/**
 * `Effect.callback` for the fiber that runs it, in a span if anybody sees it.
 *
 * **Example** (Within a span of the program's)
 *
 * ```ts
 * import * as Trace from "@cut-through/core/runtime/Trace"
 * import { Effect, Exit, Tracer } from "effect"
 *
 * const inner = Trace.callback("inner", () => ({}), (resume, fiber) =>
 *   resume(Exit.succeed(Trace.isWatched(fiber) ? "seen" : "unseen"))
 * )
 *
 * await Effect.runPromise(inner) // => "unseen"
 * await Effect.runPromise(inner.pipe(Effect.withSpan("outer"))) // => "seen"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const callback = <A, E>(
  name: string,
  attributes: () => Record<string, unknown>,
  register: (
    resume: (exit: Exit.Exit<A, E>) => void,
    fiber: Fiber.Fiber<unknown, unknown>
  ) => Effect.Effect<void> | void
): Effect.Effect<A, E> =>
  Effect.callback((resume) => {
    const fiber = Fiber.getCurrent()!
    if (!isWatched(fiber)) return register(resume, fiber)
    // The span's fiber is the same, but its context is another.
    const plain = Effect.callback<A, E>((resume) => register(resume, Fiber.getCurrent()!))
    return resume(Effect.withSpan(plain, name, { attributes: attributes() }))
  })
