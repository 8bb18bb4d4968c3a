/**
 * Everything a program needs to talk through shared memory, in one layer.
 *
 * @since 0.1.0
 */
import * as Layer from "effect/Layer"
import * as Application from "./Application.ts"
import * as SessionLayer from "./session/SessionLayer.ts"
import type { SessionError } from "./SessionError.ts"

/**
 * A session layer and one application named `default`.
 *
 * On Node, use `CutThroughNode.layer` of `@cut-through/platform` instead: the
 * same with Node's native copy, which is several times faster.
 *
 * **Example** (Connecting within one application)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const connection = yield* Application.connect(listener.address)
 *   return connection.info.path
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => "fiber"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Application.Application | SessionLayer.SessionLayer, SessionError> = Application.layer({
  name: "default"
}).pipe(Layer.provideMerge(SessionLayer.layer()))
