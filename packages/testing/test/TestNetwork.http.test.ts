/** HTTP between hosts of a simulated network: the layers that Node has, over the applications of the hosts. */
import { CutThroughHttp } from "@cut-through/platform"
import { TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Stream } from "effect"
import { HttpClient, HttpClientRequest, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"

const routes = Layer.mergeAll(
  HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello")),
  HttpRouter.add(
    "POST",
    "/echo",
    Effect.map(HttpServerRequest.HttpServerRequest, (request) => HttpServerResponse.stream(request.stream))
  )
)

const server = HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
  Layer.provide(CutThroughHttp.layer(createServer, { host: "10.0.0.2", port: 8080 })),
  Layer.provide(TestNetwork.host("b"))
)

const client = Layer.provide(CutThroughHttp.layerClient, TestNetwork.host("a"))

const network = TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" } })

// `node:http` has timers of its own: on the test clock it would wait for nobody.
describe("HTTP over a simulated network", () => {
  it.live("requests, answers and bodies that stream", () =>
    Effect.gen(function* () {
      const hello = yield* HttpClient.get("http://10.0.0.2:8080/hello")
      assert.strictEqual(yield* hello.text, "hello")
      const chunks = Stream.fromIterable(Array.from({ length: 50 }, (_, i) => new Uint8Array(5000).fill(i)))
      const echo = yield* HttpClient.execute(
        HttpClientRequest.post("http://10.0.0.2:8080/echo").pipe(HttpClientRequest.bodyStream(chunks))
      )
      const bytes = new Uint8Array(yield* echo.arrayBuffer)
      assert.strictEqual(bytes.length, 250_000)
      assert.isTrue(bytes.every((byte, i) => byte === Math.floor(i / 5000)))
    }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(server, client).pipe(Layer.provide(network)), { local: true }))
  )

  it.live("a host that is cut off cannot be reached, and can again when the network is mended", () =>
    Effect.gen(function* () {
      const get = Effect.flatMap(HttpClient.get("http://10.0.0.2:8080/hello"), (response) => response.text)
      yield* TestNetwork.partition("a", "b")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.timeout(get, "50 millis"))))
      yield* TestNetwork.repair("a", "b")
      assert.strictEqual(yield* get, "hello")
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.mergeAll(server, client).pipe(Layer.provideMerge(network)), { local: true })
    )
  )
})
