/**
 * HTTP servers and clients that open no port: an `HttpApi` of Effect, a plain server of `node:http`, and a test server.
 */
import { CutThroughHttp, CutThroughNet, CutThroughNode } from "@cut-through/platform"
import { Console, Effect, Layer, Schema } from "effect"
import { HttpClient, HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiClient, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { once } from "node:events"
import { createServer } from "node:http"
import * as net from "node:net"

const User = Schema.Struct({ id: Schema.String, name: Schema.String })

const Api = HttpApi.make("api").add(
  HttpApiGroup.make("users").add(
    HttpApiEndpoint.get("byId", "/users/:id", { params: { id: Schema.String }, success: User })
  )
)

const handlers = HttpApiBuilder.group(Api, "users", (handlers) =>
  handlers.handle("byId", ({ params }) => Effect.succeed({ id: params.id, name: `user number ${params.id}` }))
)

/** An HTTP application like any other: that it has no port is up to the layers that it gets. */
const app = HttpRouter.serve(Layer.provide(HttpApiBuilder.layer(Api), handlers), {
  disableLogger: true,
  disableListenLog: true
})

const host = "127.0.0.1"

const withEffect = Effect.gen(function* () {
  const client = yield* HttpApiClient.make(Api, { baseUrl: `http://${host}:7080` })
  const { name } = yield* client.users.byId({ params: { id: "7" } })
  yield* Console.log(`an HttpApi of Effect answers: ${name}`)
}).pipe(Effect.provide(Layer.provide(app, CutThroughHttp.layer(createServer, { host, port: 7080 }))))

const withoutEffect = Effect.gen(function* () {
  const network = yield* CutThroughNet.make
  const plain = createServer((request, response) => response.end(`you asked for ${request.url}`))
  const server = CutThroughHttp.attach(plain, network).listen(7081, host)
  yield* Effect.promise(() => once(server, "listening"))
  const response = yield* HttpClient.get(`http://${host}:7081/hello`)
  yield* Console.log(`a server of node:http answers: ${yield* response.text}`)

  // The address is one of the session layer only.
  const socket = net.connect(7081, host)
  const code = yield* Effect.promise(
    () =>
      new Promise((resolve) => {
        socket.once("connect", () => resolve("CONNECTED"))
        socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code))
      })
  )
  yield* Console.log(`node:net finds nobody there: ${code}`)
  yield* Effect.promise(() => once(server.close(), "close"))
})

/** What a test does: its requests go to the server of the test, and any number of such tests run side by side. */
const inTest = Effect.gen(function* () {
  const client = yield* HttpApiClient.make(Api)
  const { name } = yield* client.users.byId({ params: { id: "8" } })
  yield* Console.log(`the same HttpApi in a test answers: ${name}`)
}).pipe(Effect.provide(Layer.provideMerge(app, CutThroughHttp.layerTest)))

const program = Effect.gen(function* () {
  yield* withEffect
  yield* withoutEffect
  yield* inTest
})

const layer = Layer.provideMerge(CutThroughHttp.layerClient, CutThroughNode.layer)

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer)))
