/**
 * HTTP over cut-through connections: Effect's `HttpServer` and `HttpClient`, and
 * what plain Node programs take: servers of `node:http` and `node:http2`, an
 * `http.Agent`, a `Dispatcher` of undici.
 *
 * Everything above the connection is Node's and Effect's own, so keep-alive,
 * pipelining, streaming bodies, aborts, `Expect: 100-continue`, upgrades and
 * HTTP/2 are as ever. With `TcpTransport` in the session layer the same server
 * takes requests over TCP too, and the same client reaches whoever is elsewhere.
 *
 * @since 0.1.0
 */
import type { Application } from "@cut-through/core/Application"
import * as CutThrough from "@cut-through/core/CutThrough"
import type { SessionError } from "@cut-through/core/SessionError"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type * as NodeServices from "@effect/platform-node/NodeServices"
import type * as Undici from "@effect/platform-node/Undici"
import * as Effect from "effect/Effect"
import type * as Etag from "effect/http/Etag"
import type { HttpClient } from "effect/http/HttpClient"
import type * as HttpPlatform from "effect/http/HttpPlatform"
import * as HttpServer from "effect/http/HttpServer"
import type { ServeError } from "effect/http/HttpServerError"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"
import type * as Http2 from "node:http2"
import * as Https from "node:https"
import type * as Net from "node:net"
import * as Tls from "node:tls"
import * as CutThroughNet from "./CutThroughNet.ts"
import { layerCopy } from "./CutThroughNode.ts"

/**
 * A server that HTTP can be spoken with.
 *
 * @category models
 * @since 0.1.0
 */
export type AnyServer = Http.Server | Http2.Http2Server

// -----------------------------------------------------------------------------
// servers
// -----------------------------------------------------------------------------

/**
 * Makes a server of `node:http` or `node:http2` listen with cut-through, and
 * returns it: its `listen`, `address` and `close` are those of a server of
 * {@link CutThroughNet}, with the same arguments. The default `net` is the one of
 * the process.
 *
 * **Example** (Without Effect, and without a port)
 *
 * ```ts
 * import { CutThroughHttp } from "@cut-through/platform"
 * import { once } from "node:events"
 * import * as http from "node:http"
 * import { text } from "node:stream/consumers"
 *
 * const server = CutThroughHttp.attach(http.createServer((_, response) => void response.end("hello")))
 * await once(server.listen(7003, "127.0.0.1"), "listening")
 *
 * const agent = CutThroughHttp.agent()
 * const [response] = await once(http.get("http://127.0.0.1:7003", { agent }), "response")
 * await text(response) // => "hello"
 *
 * agent.destroy()
 * await once(server.close(), "close")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const attach = <S extends AnyServer>(
  server: S,
  net: Pick<CutThroughNet.Net, "createServer"> = CutThroughNet
): S => {
  // As `node:http` makes its own.
  const inner = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => server.emit("connection", socket))
  for (const event of ["listening", "error", "close", "drop"]) {
    inner.on(event, (...args: ReadonlyArray<unknown>) => server.emit(event, ...args))
  }
  const listen = (...args: ReadonlyArray<any>): S => {
    inner.listen(...(args as [Net.ListenOptions]))
    return server
  }
  const close = (done?: (error?: Error) => void): S => {
    // Who keeps a connection alive would keep the server waiting.
    if ("closeIdleConnections" in server) server.closeIdleConnections()
    inner.close(done)
    return server
  }
  Object.defineProperties(server, {
    listen: { value: listen, configurable: true, writable: true },
    close: { value: close, configurable: true, writable: true },
    address: { value: () => inner.address(), configurable: true, writable: true },
    getConnections: { value: inner.getConnections.bind(inner), configurable: true, writable: true },
    ref: { value: () => (inner.ref(), server), configurable: true, writable: true },
    unref: { value: () => (inner.unref(), server), configurable: true, writable: true },
    listening: { get: () => inner.listening, configurable: true },
    maxConnections: {
      get: () => inner.maxConnections,
      set(most: number) {
        inner.maxConnections = most
      },
      configurable: true
    }
  })
  return server
}

/**
 * Effect's `HttpServer` over cut-through. The options are those of
 * `NodeHttpServer.make`; port 0 takes a free one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  evaluate: () => AnyServer,
  options: NodeHttpServer.Options
): Effect.Effect<HttpServer.HttpServer["Service"], ServeError, Application | Scope.Scope> =>
  Effect.flatMap(CutThroughNet.make, (net) => NodeHttpServer.make(() => attach(evaluate(), net), options))

/**
 * {@link make} as the `HttpServer` of a program.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerServer = (
  evaluate: () => AnyServer,
  options: NodeHttpServer.Options
): Layer.Layer<HttpServer.HttpServer, ServeError, Application> =>
  Layer.effect(HttpServer.HttpServer, make(evaluate, options))

/**
 * {@link layerServer} with the services that handlers use: in the place of
 * `NodeHttpServer.layer`.
 *
 * **Example** (A request)
 *
 * ```ts
 * import { CutThroughHttp, CutThroughNode } from "@cut-through/platform"
 * import { Effect, Layer } from "effect"
 * import { HttpClient, HttpRouter, HttpServerResponse } from "effect/http"
 * import { createServer } from "node:http"
 *
 * const routes = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))
 * const server = HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
 *   Layer.provide(CutThroughHttp.layer(createServer, { host: "127.0.0.1", port: 8080 }))
 * )
 * const program = Effect.gen(function*() {
 *   const response = yield* HttpClient.get("http://127.0.0.1:8080/hello")
 *   return yield* response.text
 * })
 * const layer = Layer.mergeAll(server, CutThroughHttp.layerClient).pipe(Layer.provide(CutThroughNode.layer))
 *
 * await Effect.runPromise(Effect.provide(program, layer)) // => "hello"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  evaluate: () => AnyServer,
  options: NodeHttpServer.Options
): Layer.Layer<
  HttpServer.HttpServer | NodeServices.NodeServices | HttpPlatform.HttpPlatform | Etag.Generator,
  ServeError,
  Application
> => Layer.mergeAll(layerServer(evaluate, options), NodeHttpServer.layerHttpServices)

// -----------------------------------------------------------------------------
// clients
// -----------------------------------------------------------------------------

type Connect = Pick<CutThroughNet.Net, "connect">

/**
 * A dispatcher of undici whose connections are cut-through where the server is
 * here: for `fetch`, `undici.request` and whatever else takes one. It is closed
 * by its caller.
 *
 * @category constructors
 * @since 0.1.0
 */
export const dispatcher = (
  undici: Pick<typeof Undici, "Agent">,
  options: Omit<Undici.Agent.Options, "connect"> = {},
  net: Connect = CutThroughNet
): Undici.Agent =>
  new undici.Agent({
    ...options,
    connect: ({ hostname, port, protocol, servername }, done) => {
      const isSecure = protocol === "https:"
      const socket = net.connect({ host: hostname, port: port ? Number(port) : isSecure ? 443 : 80, noDelay: true })
      const stream = isSecure
        ? Tls.connect({
            socket: socket as unknown as Net.Socket,
            servername: servername ?? hostname,
            ALPNProtocols: ["http/1.1"]
          })
        : socket
      const onError = (error: Error) => done(error, null)
      stream.once("error", onError)
      stream.once(isSecure ? "secureConnect" : "connect", () => {
        stream.off("error", onError)
        done(null, stream as Net.Socket)
      })
    }
  })

/**
 * An `http.Agent` whose connections are cut-through where the server is here.
 * Without options it keeps connections alive, as Node's own global agent does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const agent = (options: Http.AgentOptions = { keepAlive: true }, net: Connect = CutThroughNet): Http.Agent => {
  const made = new Http.Agent(options)
  made.createConnection = (options) => net.connect(options as Net.NetConnectOpts) as unknown as Net.Socket
  return made
}

/**
 * {@link agent} for `https:`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const agentSecure = (
  options: Https.AgentOptions = { keepAlive: true },
  net: Connect = CutThroughNet
): Https.Agent => {
  const made = new Https.Agent(options)
  made.createConnection = (options) =>
    Tls.connect({
      ...(options as Tls.ConnectionOptions),
      socket: net.connect(options as Net.NetConnectOpts) as unknown as Net.Socket
    })
  return made
}

/**
 * The dispatcher of Effect's undici client over cut-through.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDispatcher = (
  options?: Omit<Undici.Agent.Options, "connect">
): Layer.Layer<NodeHttpClient.Dispatcher, never, Application> =>
  Layer.effect(
    NodeHttpClient.Dispatcher,
    Effect.gen(function* () {
      const net = yield* CutThroughNet.make
      const undici = yield* Effect.promise(() => import("@effect/platform-node/Undici"))
      return yield* Effect.acquireRelease(
        Effect.sync(() => dispatcher(undici, options, net)),
        (made) => Effect.promise(() => made.destroy())
      )
    })
  )

/**
 * The agents of Effect's `node:http` client over cut-through.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerAgent = (options?: Https.AgentOptions): Layer.Layer<NodeHttpClient.HttpAgent, never, Application> =>
  Layer.effect(
    NodeHttpClient.HttpAgent,
    Effect.flatMap(CutThroughNet.make, (net) =>
      Effect.acquireRelease(
        Effect.sync(() => ({ http: agent(options, net), https: agentSecure(options, net) })),
        ({ http, https }) =>
          Effect.sync(() => {
            http.destroy()
            https.destroy()
          })
      )
    )
  )

/**
 * Effect's `HttpClient` over cut-through, with undici.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClient: Layer.Layer<HttpClient, never, Application> = Layer.provide(
  NodeHttpClient.layerUndiciNoDispatcher,
  layerDispatcher()
)

/**
 * Effect's `HttpClient` over cut-through, with `node:http`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClientNode: Layer.Layer<HttpClient, never, Application> = Layer.provide(
  NodeHttpClient.layerNodeHttpNoAgent,
  layerAgent()
)

// -----------------------------------------------------------------------------
// tests
// -----------------------------------------------------------------------------

/**
 * {@link layerTest} over an application of your own, one of a simulated network
 * for example.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTestNoDeps: Layer.Layer<
  HttpServer.HttpServer | NodeServices.NodeServices | HttpPlatform.HttpPlatform | Etag.Generator | HttpClient,
  ServeError,
  Application
> = HttpServer.layerTestClient.pipe(
  Layer.provide(layerClient),
  Layer.provideMerge(layer(Http.createServer, { host: "127.0.0.1", port: 0 }))
)

/**
 * An HTTP server and a client whose requests go to it: `NodeHttpServer.layerTest`
 * without a port, so that any number of tests run side by side.
 *
 * **Example** (A test of a router)
 *
 * ```ts
 * import { CutThroughHttp } from "@cut-through/platform"
 * import { Effect, Layer } from "effect"
 * import { HttpClient, HttpRouter, HttpServerResponse } from "effect/http"
 *
 * const routes = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))
 * const server = HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true })
 * const program = Effect.flatMap(HttpClient.get("/hello"), (response) => response.text)
 *
 * await Effect.runPromise(Effect.provide(program, Layer.provideMerge(server, CutThroughHttp.layerTest))) // => "hello"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<
  HttpServer.HttpServer | NodeServices.NodeServices | HttpPlatform.HttpPlatform | Etag.Generator | HttpClient,
  ServeError | SessionError
> = Layer.fresh(Layer.provide(layerTestNoDeps, Layer.provide(CutThrough.layer, layerCopy)))
