/**
 * Effect's DevTools over cut-through: worker threads stream their spans and
 * metrics to the host's thread, without a port.
 *
 * A thread provides {@link layer} to what it runs, the host serves with
 * {@link serve} or {@link layerServer}, and what it does with what arrives is its
 * handler's: print it, keep it for a test, pass it on.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import * as DevTools from "effect/devtools/DevTools"
import * as DevToolsServer from "effect/devtools/DevToolsServer"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as SocketServer from "effect/socket/SocketServer"
import * as CutThroughSocket from "./CutThroughSocket.ts"
import * as CutThroughSocketServer from "./CutThroughSocketServer.ts"
import type { Target } from "./internal/target.ts"

/**
 * Where clients and servers meet unless another endpoint is given: a loopback
 * address of the session layer, and no port of the machine.
 *
 * @category constants
 * @since 0.1.0
 */
export const endpoint: Endpoint.Endpoint = Endpoint.tcp("127.0.0.1", 34438)

/**
 * Sends the spans of what it is provided to, and metrics when they are asked for,
 * to the server at `target` (default {@link endpoint}). Where nobody serves, it
 * waits for at most a second, then goes on, and looks for a server every second.
 *
 * When the scope closes, a last snapshot of the metrics is sent. A server's handler
 * that is behind may lose it: the queue it takes from ends with the connection.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: { readonly target?: Target | undefined } = {}
): Layer.Layer<never, never, Application.Application> =>
  Layer.provide(DevTools.layerSocket, CutThroughSocket.layer(options.target ?? endpoint))

/**
 * Serves clients until it is interrupted: each is given to `handler`, with a
 * queue of what it sends and a way to ask for a snapshot of its metrics. The
 * handler finds the client's connection under the key `Connection`.
 *
 * The server has an application of its own, which nobody outside of the session
 * layer can reach: no port is opened, with `TcpTransport` either. Fails when the
 * endpoint is taken.
 *
 * **Example** (The names of spans)
 *
 * ```ts
 * import { CutThroughDevTools, CutThroughNode } from "@cut-through/platform"
 * import { Deferred, Effect, Queue } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const name = yield* Deferred.make<string>()
 *   const server = CutThroughDevTools.serve(({ queue }) =>
 *     Effect.forever(Effect.flatMap(Queue.take(queue), (sent) =>
 *       sent._tag === "Span" ? Deferred.succeed(name, sent.name) : Effect.void
 *     ))
 *   )
 *   yield* Effect.forkScoped(server, { startImmediately: true })
 *   return yield* Effect.void.pipe(
 *     Effect.withSpan("work"),
 *     Effect.andThen(Deferred.await(name)),
 *     Effect.provide(CutThroughDevTools.layer())
 *   )
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "work"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const serve = <A, E, R>(
  handler: (client: DevToolsServer.Client) => Effect.Effect<A, E, R>,
  options: { readonly endpoint?: Endpoint.Endpoint | undefined } = {}
): Effect.Effect<
  never,
  SessionError | SocketServer.SocketServerError,
  Exclude<R, SocketServer.SocketServer | Connection> | SessionLayer
> => Effect.scoped(Effect.flatMap(listen(options.endpoint), (server) => run(server, handler)))

const listen = Effect.fnUntraced(function* (where: Endpoint.Endpoint = endpoint) {
  const application = yield* Application.make({ name: "devtools", scope: "local" })
  return yield* Effect.provideService(CutThroughSocketServer.make(where), Application.Application, application)
})

const run = <A, E, R>(
  server: SocketServer.SocketServer["Service"],
  handler: (client: DevToolsServer.Client) => Effect.Effect<A, E, R>
) =>
  Effect.provideService(DevToolsServer.run(handler), SocketServer.SocketServer, server) as Effect.Effect<
    never,
    SocketServer.SocketServerError,
    Exclude<R, SocketServer.SocketServer | Connection>
  >

/**
 * {@link serve} in the background of a program: it serves once the layer is
 * there, or the layer fails.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerServer = <A, E, R>(
  handler: (client: DevToolsServer.Client) => Effect.Effect<A, E, R>,
  options: { readonly endpoint?: Endpoint.Endpoint | undefined } = {}
): Layer.Layer<
  never,
  SessionError | SocketServer.SocketServerError,
  Exclude<R, SocketServer.SocketServer | Connection> | SessionLayer
> =>
  Layer.effectDiscard(
    Effect.flatMap(listen(options.endpoint), (server) =>
      Effect.forkScoped(run(server, handler), { startImmediately: true })
    )
  )
