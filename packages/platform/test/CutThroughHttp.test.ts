/** Effect's HTTP server and clients over connections, and plain servers of Node. */
import { Application, type SessionError } from "@cut-through/core"
import { CutThroughHttp, CutThroughNet, CutThroughNode, TcpTransport } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Schema, type Scope, Stream } from "effect"
import {
  HttpClient,
  HttpClientRequest,
  HttpRouter,
  HttpServer,
  HttpServerRequest,
  HttpServerResponse
} from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiClient, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { once } from "node:events"
import * as Http from "node:http"
import * as Http2 from "node:http2"
import type { AddressInfo } from "node:net"
import { text } from "node:stream/consumers"
import * as Undici from "undici"
import { WebSocket } from "ws"
import { misplaced, pattern } from "../../core/test/fixtures.ts"

const sessions = Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)

const application: Layer.Layer<Application.Application, SessionError.SessionError> = Layer.fresh(
  Layer.provide(Application.layer({ name: "http" }), sessions)
)

const withTcp: Layer.Layer<Application.Application, SessionError.SessionError> = Layer.fresh(
  Application.layer({ name: "http" }).pipe(Layer.provide(TcpTransport.layer()), Layer.provide(sessions))
)

const MIB = 1024 * 1024

const routes = (slow: Deferred.Deferred<void>, interrupted: Deferred.Deferred<void>) =>
  Layer.mergeAll(
    HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello")),
    HttpRouter.add(
      "POST",
      "/echo",
      Effect.map(HttpServerRequest.HttpServerRequest, (request) => HttpServerResponse.stream(request.stream))
    ),
    HttpRouter.add(
      "GET",
      "/slow",
      Effect.andThen(
        Deferred.succeed(slow, undefined),
        Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
      )
    ),
    HttpRouter.add(
      "GET",
      "/where",
      Effect.map(HttpServerRequest.HttpServerRequest, (request) =>
        HttpServerResponse.text(String((request.source as Http.IncomingMessage).socket.remoteAddress))
      )
    ),
    HttpRouter.add(
      "GET",
      "/socket",
      Effect.gen(function* () {
        const request = yield* HttpServerRequest.HttpServerRequest
        const socket = yield* request.upgrade
        return yield* Effect.scoped(
          Effect.gen(function* () {
            const { writeAll } = yield* socket.writer
            const { pull } = yield* socket.reader
            return yield* Effect.forever(Effect.flatMap(pull, writeAll))
          })
        ).pipe(Effect.ignore, Effect.as(HttpServerResponse.empty()))
      })
    )
  )

interface Served {
  readonly slow: Deferred.Deferred<void>
  readonly interrupted: Deferred.Deferred<void>
}

/** A server of all routes, and a client of it. */
const serving = (
  client: Layer.Layer<HttpClient.HttpClient, never, Application.Application>,
  body: (
    served: Served
  ) => Effect.Effect<
    unknown,
    unknown,
    HttpClient.HttpClient | HttpServer.HttpServer | Application.Application | Scope.Scope
  >,
  deps = application
) =>
  Effect.gen(function* () {
    const slow = yield* Deferred.make<void>()
    const interrupted = yield* Deferred.make<void>()
    const server = CutThroughHttp.layer(Http.createServer, { host: "127.0.0.1", port: 0 })
    const served = HttpRouter.serve(routes(slow, interrupted), { disableLogger: true, disableListenLog: true })
    const layer = served.pipe(
      Layer.provideMerge(HttpServer.layerTestClient),
      Layer.provideMerge(Layer.merge(server, client)),
      Layer.provideMerge(deps)
    )
    yield* body({ slow, interrupted }).pipe(Effect.scoped, Effect.provide(layer, { local: true }))
  })

for (const [name, client] of [
  ["undici", CutThroughHttp.layerClient],
  ["node:http", CutThroughHttp.layerClientNode]
] as const) {
  describe(`HttpServer and HttpClient over ${name}`, () => {
    const test = (what: string, body: Parameters<typeof serving>[1], deps?: typeof application) =>
      it.live(what, () => serving(client, body, deps))

    test("answers, request after request", () =>
      Effect.gen(function* () {
        for (let i = 0; i < 20; i++) {
          const response = yield* HttpClient.get("/hello")
          assert.strictEqual(yield* response.text, "hello")
        }
      }))

    test("bodies stream both ways", () =>
      Effect.gen(function* () {
        const chunk = 65_521
        const chunks = Stream.fromIterable(
          Array.from({ length: Math.ceil((4 * MIB) / chunk) }, (_, i) =>
            pattern(Math.min(chunk, 4 * MIB - i * chunk), i * chunk)
          )
        )
        const response = yield* HttpClient.execute(
          HttpClientRequest.post("/echo").pipe(HttpClientRequest.bodyStream(chunks))
        )
        let at = 0
        yield* Stream.runForEach(response.stream, (bytes) =>
          Effect.sync(() => {
            assert.strictEqual(misplaced(bytes, at), -1)
            at += bytes.length
          })
        )
        assert.strictEqual(at, 4 * MIB)
      }))

    test("many requests at once", () =>
      Effect.gen(function* () {
        const answers = yield* Effect.forEach(
          Array.from({ length: 50 }, (_, i) => String(i)),
          (body) =>
            Effect.flatMap(
              HttpClient.execute(HttpClientRequest.post("/echo").pipe(HttpClientRequest.bodyText(body))),
              (response) => response.text
            ),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          answers,
          Array.from({ length: 50 }, (_, i) => String(i))
        )
      }))

    test("a client that gives up interrupts the handler", ({ interrupted, slow }) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(HttpClient.get("/slow"))
        yield* Deferred.await(slow)
        yield* Fiber.interrupt(fiber)
        yield* Deferred.await(interrupted)
      }))

    test(
      "serves who is here and who comes over TCP",
      () =>
        Effect.gen(function* () {
          const { address } = yield* HttpServer.HttpServer
          assert.strictEqual(address._tag, "InetAddressV4")
          const url = `http://127.0.0.1:${(address as { readonly port: number }).port}/hello`
          const overTcp = yield* Effect.promise(() =>
            fetch(url, { headers: { connection: "close" } }).then((it) => it.text())
          )
          assert.strictEqual(overTcp, "hello")
          assert.strictEqual(yield* (yield* HttpClient.get("/hello")).text, "hello")
        }),
      withTcp
    )
  })
}

describe("HttpServer", () => {
  it.live("takes WebSockets of ws", () =>
    serving(CutThroughHttp.layerClient, () =>
      Effect.gen(function* () {
        const { address } = yield* HttpServer.HttpServer
        const net = yield* CutThroughNet.make
        const { port } = address as { readonly port: number }
        const heard = yield* Effect.promise(async () => {
          const socket = new WebSocket(`ws://127.0.0.1:${port}/socket`, {
            createConnection: (options: any) => net.connect(options) as any
          } as WebSocket.ClientOptions)
          await once(socket, "open")
          socket.send("over shared memory")
          const [data] = await once(socket, "message")
          socket.close()
          await once(socket, "close")
          return String(data)
        })
        assert.strictEqual(heard, "over shared memory")
      })
    )
  )

  it.live("layerTest: an HttpApi and its client, without a port", () =>
    Effect.gen(function* () {
      const api = HttpApi.make("api").add(
        HttpApiGroup.make("users").add(
          HttpApiEndpoint.get("byId", "/users/:id", {
            params: { id: Schema.String },
            success: Schema.Struct({ id: Schema.String, name: Schema.String })
          })
        )
      )
      const users = HttpApiBuilder.group(api, "users", (handlers) =>
        handlers.handle("byId", ({ params }) => Effect.succeed({ id: params.id, name: `user ${params.id}` }))
      )
      const server = HttpRouter.serve(HttpApiBuilder.layer(api).pipe(Layer.provide(users)), {
        disableLogger: true,
        disableListenLog: true
      })
      yield* Effect.gen(function* () {
        const client = yield* HttpApiClient.make(api)
        const user = yield* client.users.byId({ params: { id: "7" } })
        assert.deepStrictEqual(user, { id: "7", name: "user 7" })
      }).pipe(Effect.provide(server.pipe(Layer.provideMerge(CutThroughHttp.layerTest))))
    })
  )
})

describe("plain servers of Node", () => {
  const test = (name: string, body: (net: CutThroughNet.Net) => Promise<void>) =>
    it.live(name, () =>
      Effect.flatMap(CutThroughNet.make, (net) => Effect.promise(() => body(net))).pipe(
        Effect.scoped,
        Effect.provide(application, { local: true })
      )
    )

  const listening = async (server: Http.Server): Promise<string> => {
    await once(server.listen(0, "127.0.0.1"), "listening")
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  const closed = (server: Http.Server) => new Promise<void>((resolve) => void server.close(() => resolve()))

  test("keep-alive: one connection for all requests of an agent", async (net) => {
    const sockets = new Set<unknown>()
    const server = CutThroughHttp.attach(
      Http.createServer((request, response) => {
        sockets.add(request.socket)
        response.end("ok")
      }),
      net
    )
    const url = await listening(server)
    const agent = CutThroughHttp.agent({ keepAlive: true, maxSockets: 1 }, net)
    for (let i = 0; i < 10; i++) {
      const [response] = await once(Http.get(url, { agent }), "response")
      assert.strictEqual(await text(response), "ok")
    }
    assert.strictEqual(sockets.size, 1)
    agent.destroy()
    await closed(server)
  })

  test("pipelining of undici", async (net) => {
    const server = CutThroughHttp.attach(
      Http.createServer((request, response) => void response.end(request.url)),
      net
    )
    const origin = await listening(server)
    const dispatcher = CutThroughHttp.dispatcher(Undici, { connections: 1, pipelining: 8 }, net)
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const { body } = await Undici.request(`${origin}/${i}`, { dispatcher })
        return body.text()
      })
    )
    assert.deepStrictEqual(
      answers,
      Array.from({ length: 40 }, (_, i) => `/${i}`)
    )
    await dispatcher.close()
    await closed(server)
  })

  test("Expect: 100-continue", async (net) => {
    const server = CutThroughHttp.attach(
      Http.createServer((request, response) => void text(request).then((body) => response.end(body))),
      net
    )
    const url = await listening(server)
    const agent = CutThroughHttp.agent({}, net)
    const request = Http.request(url, {
      agent,
      method: "POST",
      headers: { expect: "100-continue", "content-length": 4 }
    })
    request.flushHeaders()
    await once(request, "continue")
    request.end("body")
    const [response] = await once(request, "response")
    assert.strictEqual(await text(response), "body")
    await closed(server)
  })

  test("closing lets a request that is being served finish, and takes no more", async (net) => {
    let finish = () => {}
    const server = CutThroughHttp.attach(
      Http.createServer((_, response) => {
        finish = () => void response.end("finished")
        server.emit("serving")
      }),
      net
    )
    const url = await listening(server)
    const agent = CutThroughHttp.agent({ keepAlive: true }, net)
    const serving = once(server, "serving")
    const answer = once(Http.get(url, { agent }), "response")
    await serving
    const closing = closed(server)
    const [error] = await once(Http.get(url, { agent: CutThroughHttp.agent({}, net) }), "error")
    assert.strictEqual(error.code, "ECONNREFUSED")
    finish()
    const [response] = await answer
    assert.strictEqual(await text(response), "finished")
    agent.destroy()
    await closing
  })

  test("huge headers: 431, and the server goes on", async (net) => {
    const server = CutThroughHttp.attach(
      Http.createServer((_, response) => void response.end("ok")),
      net
    )
    const url = await listening(server)
    const agent = CutThroughHttp.agent({}, net)
    const [huge] = await once(Http.get(url, { agent, headers: { "x-huge": "x".repeat(100_000) } }), "response")
    assert.strictEqual(huge.statusCode, 431)
    huge.resume()
    const [response] = await once(Http.get(url, { agent }), "response")
    assert.strictEqual(await text(response), "ok")
    await closed(server)
  })

  test("half a TLS hello: the connection is closed, and the server goes on", async (net) => {
    const server = CutThroughHttp.attach(
      Http.createServer((_, response) => void response.end("ok")),
      net
    )
    const url = await listening(server)
    const socket = net.connect(Number(new URL(url).port), "127.0.0.1")
    socket.write(Buffer.from("160301020001000100", "hex"))
    assert.match(await text(socket), /^HTTP\/1\.1 400/)
    const [response] = await once(Http.get(url, { agent: CutThroughHttp.agent({}, net) }), "response")
    assert.strictEqual(await text(response), "ok")
    await closed(server)
  })

  test("what was read for HTTP is kept as it was, whatever is read behind it", async (net) => {
    const bodies: Array<Buffer> = []
    const heads: Array<Buffer> = []
    const failed: Array<Buffer> = []
    const server = CutThroughHttp.attach(
      Http.createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk) => chunks.push(chunk))
        request.on("end", () => {
          bodies.push(Buffer.concat(chunks))
          response.end("ok")
        })
      }),
      net
    )
    server.on("upgrade", (_, socket, head) => {
      heads.push(head)
      socket.end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
    })
    server.on("clientError", (error: Error & { readonly rawPacket: Buffer }, socket) => {
      failed.push(error.rawPacket)
      socket.write("bad")
    })
    const port = Number(new URL(await listening(server)).port)
    /** A connection that has had an answer already. */
    const connected = async () => {
      const socket = net.connect(port, "127.0.0.1")
      socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      await once(socket, "data")
      return socket
    }
    const large = (fill: string) => Buffer.alloc(40_000, fill)
    const post = async (fill: string) => {
      const socket = await connected()
      socket.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${5 * 40_000}\r\n\r\n`)
      for (let i = 0; i < 5; i++) socket.write(large(fill))
      await once(socket, "data")
      socket.destroy()
    }

    const upgraded = await connected()
    upgraded.write(
      Buffer.concat([
        Buffer.from("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"),
        large("u")
      ])
    )
    await once(upgraded, "data")
    const wrong = await connected()
    wrong.write(large("w"))
    await once(wrong, "data")
    await post("1")
    await post("2")

    assert.deepStrictEqual(heads.map(String), [String(large("u"))])
    assert.deepStrictEqual(failed.map(String), [String(large("w"))])
    assert.deepStrictEqual(
      bodies.filter(({ length }) => length > 0).map(String),
      ["1", "2"].map((fill) => String(large(fill)).repeat(5))
    )
    upgraded.destroy()
    wrong.destroy()
    await closed(server)
  })

  test("what has arrived for a socket that is paused meanwhile is kept as it was", async (net) => {
    const bodies: Array<string> = []
    const server = CutThroughHttp.attach(
      Http.createServer(
        (request, response) => void text(request).then((body) => response.end(String(bodies.push(body))))
      ),
      net
    )
    const port = Number(new URL(await listening(server)).port)
    const open = async (fill: string) => {
      const requested = once(server, "request")
      const socket = net.connect(port, "127.0.0.1")
      socket.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n")
      const [request] = await requested
      return { socket, served: (request as Http.IncomingMessage).socket, rest: Buffer.alloc(50_000, fill) }
    }
    const first = await open("1")
    // It has arrived when this returns, and is delivered in a turn of its own: before the next request is.
    first.socket.write(first.rest)
    first.served.pause()
    const second = await open("2")
    second.socket.write(second.rest)
    await once(second.socket, "data")
    first.served.resume()
    await once(first.socket, "data")
    assert.deepStrictEqual(
      bodies,
      [second, first].map(({ rest }) => String(rest))
    )
    for (const { socket } of [first, second]) socket.destroy()
    await closed(server)
  })

  test("large bodies are read without a buffer for each piece", async (net) => {
    const server = CutThroughHttp.attach(
      Http.createServer((request, response) => void text(request).then((body) => response.end(String(body.length)))),
      net
    )
    const url = await listening(server)
    const agent = CutThroughHttp.agent({ keepAlive: true, maxSockets: 1 }, net)
    const body = Buffer.alloc(60_000, "x")
    const post = async () => {
      const request = Http.request(url, { agent, method: "POST", headers: { "content-length": body.length } })
      request.end(body)
      const [response] = await once(request, "response")
      assert.strictEqual(await text(response), "60000")
    }
    await post()
    const allocateUnsafe = vi.spyOn(Buffer, "allocUnsafe")
    for (let i = 0; i < 10; i++) await post()
    const large = allocateUnsafe.mock.calls.filter(([bytes]) => bytes > 10_000)
    allocateUnsafe.mockRestore()
    assert.strictEqual(large.length, 0)
    agent.destroy()
    await closed(server)
  })

  test("HTTP/2", async (net) => {
    const server = CutThroughHttp.attach(
      Http2.createServer(
        (request, response) => void text(request).then((body) => response.end(`${request.url} ${body}`))
      ),
      net
    )
    await once(server.listen(0, "127.0.0.1"), "listening")
    const { port } = server.address() as AddressInfo
    const session = Http2.connect(`http://127.0.0.1:${port}`, {
      createConnection: () => net.connect(port, "127.0.0.1") as any
    })
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const stream = session.request({ ":method": "POST", ":path": `/${i}` })
        stream.end("body")
        return text(stream)
      })
    )
    assert.deepStrictEqual(
      answers,
      Array.from({ length: 20 }, (_, i) => `/${i} body`)
    )
    session.close()
    await once(session, "close")
    await new Promise<void>((resolve) => void server.close(() => resolve()))
  })
})
