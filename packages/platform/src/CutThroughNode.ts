/**
 * cut-through for Node: the layers of `@cut-through/core` with Node's native
 * copy. Listeners and connections keep the process running, and applications in
 * other threads can attach, with `CutThroughWorker.layer`.
 *
 * @since 0.1.0
 */
import type { Application } from "@cut-through/core/Application"
import * as CutThrough from "@cut-through/core/CutThrough"
import { CopyBytes } from "@cut-through/core/memory/SharedMemory"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import type * as Config from "effect/Config"
import * as Layer from "effect/Layer"
import * as CutThroughHost from "./CutThroughHost.ts"
import { layerThread } from "./internal/layerThread.ts"
import * as NativeCopy from "./NativeCopy.ts"

/**
 * Makes every region of the layers it is provided to copy natively.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerCopy: Layer.Layer<never> = Layer.succeed(CopyBytes, NativeCopy.copy)

/**
 * A session layer, for programs with several applications: attach them with
 * `Application.layer`, and in other threads with `CutThroughWorker.layer`, which
 * finds it by its `name` (default `"default"`).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSessions = (options?: {
  readonly workers?: number | undefined
  readonly name?: string | undefined
}): Layer.Layer<SessionLayer.SessionLayer | CutThroughHost.CutThroughHost, SessionError> =>
  CutThroughHost.layer(options).pipe(Layer.provideMerge(SessionLayer.layer(options)), Layer.provide(layerThread))

/**
 * A session layer and one application named `default`: `CutThrough.layer`, with
 * native copies, and open to applications in other threads.
 *
 * **Example** (A connection)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughNode } from "@cut-through/platform"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const connection = yield* Application.connect(listener.address)
 *   yield* connection.write(Uint8Array.of(1, 2, 3))
 *   const server = yield* listener.accept
 *   return Array.from(yield* server.read)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => [1, 2, 3]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Application | SessionLayer.SessionLayer | CutThroughHost.CutThroughHost, SessionError> =
  CutThroughHost.layer().pipe(
    // Fresh: a `CutThrough.layer` elsewhere in the program would lend its memory, and with it its copy.
    Layer.provideMerge(Layer.fresh(CutThrough.layer)),
    Layer.provide(layerThread)
  )

/**
 * `CutThrough.layerConfig`, as {@link layer} is on Node: sizes, quotas,
 * namespace and scope come from the keys under `CUT_THROUGH`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<
  Application | SessionLayer.SessionLayer | CutThroughHost.CutThroughHost,
  Config.ConfigError | SessionError
> = CutThroughHost.layer().pipe(Layer.provideMerge(Layer.fresh(CutThrough.layerConfig)), Layer.provide(layerThread))
