/**
 * Everything a program needs to talk through shared memory, in one layer.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Application from "./Application.ts"
import * as Namespace from "./session/Namespace.ts"
import * as SessionConfig from "./session/SessionConfig.ts"
import * as SessionLayer from "./session/SessionLayer.ts"
import type { SessionError } from "./SessionError.ts"
import * as Sessions from "./Sessions.ts"

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

/**
 * A session layer and one application, both as the configuration says: all keys
 * of `SessionConfig`, under `CUT_THROUGH`. A namespace that is configured is
 * made, with the secret that is configured. Fails with a `ConfigError` for a
 * value that is none, and with a `SessionError` for values that do not go
 * together.
 *
 * **Example** (Options from the environment)
 *
 * ```ts
 * import { Applications, CutThrough } from "@cut-through/core"
 * import { ConfigProvider, Effect, Layer } from "effect"
 *
 * const env = { CUT_THROUGH_NAME: "mailer", CUT_THROUGH_NAMESPACE: "mail", CUT_THROUGH_MAX_SESSIONS: "100" }
 * const layer = Layer.provide(CutThrough.layerConfig, ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
 *
 * const [mailer] = await Effect.runPromise(Effect.provide(Applications.list, layer))
 * mailer.name // => "mailer"
 * mailer.namespace // => "mail"
 * mailer.quotas.maxSessions // => 100
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<
  Application.Application | SessionLayer.SessionLayer,
  SessionError | Config.ConfigError
> = Layer.unwrap(
  Effect.map(Config.nested(SessionConfig.attachOptions, SessionConfig.PREFIX), (options) => {
    const { namespace = Namespace.DEFAULT, namespaceSecret } = options
    // This session layer is its own: nobody else could have made the namespace.
    const namespaces =
      namespace === Namespace.DEFAULT
        ? Layer.empty
        : Layer.effectDiscard(Sessions.addNamespace({ id: namespace, secret: namespaceSecret }))
    return Application.layer(options).pipe(Layer.provide(namespaces), Layer.provideMerge(SessionLayer.layerConfig()))
  })
)
