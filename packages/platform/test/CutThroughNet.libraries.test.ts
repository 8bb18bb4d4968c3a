/** Programs that know nothing of cut-through, over its sockets. */
import { CutThroughDuplex, CutThroughNet } from "@cut-through/platform"
import { Application, Endpoint } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import { PGlite } from "@electric-sql/pglite"
import { PGLiteSocketHandler } from "@electric-sql/pglite-socket"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fastify from "fastify"
import { createHash, randomBytes } from "node:crypto"
import { once } from "node:events"
import * as http from "node:http"
import * as http2 from "node:http2"
import type { AddressInfo, Server, Socket } from "node:net"
import { Readable } from "node:stream"
import { buffer, json, text } from "node:stream/consumers"
import * as tls from "node:tls"
import { Client, type ClientConfig } from "pg"
import * as undici from "undici"
import * as ws from "ws"

type Net = Pick<typeof import("node:net"), "createServer" | "connect"> & {
  readonly Socket: new () => Socket
}

const HOST = "127.0.0.1"
const ORIGIN = `http://${HOST}`

/** A test with a `Net` of its own, which is checked for leaks. */
const test = (title: string, body: (net: Net) => Promise<unknown>) =>
  it.live(title, () =>
    Effect.flatMap(CutThroughNet.make, (net) => Effect.promise(() => body(net as unknown as Net))).pipe(
      Effect.scoped,
      Effect.provide(Leaks.layerTest),
      Effect.asVoid
    )
  )

const listening = async (server: Server): Promise<number> => {
  await once(server.listen(0, HOST), "listening")
  return (server.address() as AddressInfo).port
}

/** Where a server of `http` gets its connections from. */
const serving = (net: Net, server: { readonly emit: (event: "connection", socket: unknown) => boolean }) =>
  listening(net.createServer((socket) => void server.emit("connection", socket)))

const agentOver = (net: Net, options?: http.AgentOptions): http.Agent => {
  const agent = new http.Agent(options)
  agent.createConnection = (options) => net.connect(options as never)
  return agent
}

const request = (agent: http.Agent, options: http.RequestOptions, body?: string): Promise<http.IncomingMessage> =>
  new Promise((resolve, reject) =>
    http
      .request({ host: HOST, agent, ...options }, resolve)
      .on("error", reject)
      .end(body)
  )

const dispatcherOver = (net: Net, options?: undici.Agent.Options): undici.Agent =>
  new undici.Agent({
    ...options,
    connect: ({ hostname, port }, callback) => {
      const socket = net.connect({ host: hostname, port: Number(port) })
      const failed = (error: Error) => callback(error, null)
      socket.once("error", failed)
      socket.once("connect", () => {
        socket.off("error", failed)
        callback(null, socket)
      })
    }
  })

describe("node:http", () => {
  test("answers one request after the other on one socket", async (net) => {
    const sockets = new Set<unknown>()
    const server = http.createServer(async (request, response) => {
      sockets.add(request.socket)
      response.setHeader("content-type", "text/plain")
      response.end(`${request.method} ${request.url} ${await text(request)} ${request.socket.remoteAddress}`)
    })
    const port = await serving(net, server)
    const agent = agentOver(net, { keepAlive: true, maxSockets: 1 })
    const answers: Array<string> = []
    for (let i = 0; i < 5; i++) {
      answers.push(await text(await request(agent, { port, path: `/${i}`, method: "POST" }, `body ${i}`)))
    }
    assert.deepStrictEqual(
      answers,
      [0, 1, 2, 3, 4].map((i) => `POST /${i} body ${i} ${HOST}`)
    )
    assert.strictEqual(sockets.size, 1)
    agent.destroy()
  })

  test("streams both ways", async (net) => {
    const server = http.createServer((request, response) => void request.pipe(response))
    const port = await serving(net, server)
    const agent = agentOver(net)
    const sent = randomBytes(1_000_003)
    const client = http.request({ host: HOST, port, method: "POST", agent })
    Readable.from([sent.subarray(0, 70_000), sent.subarray(70_000)]).pipe(client)
    const [response] = await once(client, "response")
    assert.isTrue((await buffer(response)).equals(sent))
  })

  test("answers requests that come all at once, in order", async (net) => {
    const server = http.createServer((request, response) => {
      setImmediate(() => response.end(`[${request.url}]`))
    })
    const socket = net.connect(await serving(net, server), HOST)
    for (const path of ["/a", "/b", "/c"]) {
      socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n${path === "/c" ? "Connection: close\r\n" : ""}\r\n`)
    }
    const bodies = (await text(socket)).match(/\[[^\]]*\]/g)
    assert.deepStrictEqual(bodies, ["[/a]", "[/b]", "[/c]"])
  })

  test("asks before it sends", async (net) => {
    const server = http.createServer(async (request, response) => void response.end(await text(request)))
    const expected: Array<string> = []
    server.on("checkContinue", (request, response) => {
      expected.push(request.headers.expect!)
      response.writeContinue()
      server.emit("request", request, response)
    })
    const port = await serving(net, server)
    const client = http.request({
      host: HOST,
      port,
      method: "POST",
      agent: agentOver(net),
      headers: { expect: "100-continue" }
    })
    client.flushHeaders()
    await once(client, "continue")
    client.end("after the go-ahead")
    const [response] = await once(client, "response")
    assert.strictEqual(await text(response), "after the go-ahead")
    assert.deepStrictEqual(expected, ["100-continue"])
  })

  test("notices a client that gives up", async (net) => {
    const server = http.createServer()
    const port = await serving(net, server)
    const asked = once(server, "request")
    const client = http.get({ host: HOST, port, agent: agentOver(net) })
    const failed = once(client, "error")
    const [incoming] = await asked
    const closed = new Promise((resolve) => incoming.on("error", () => {}).once("close", resolve))
    client.destroy()
    const [error] = await failed
    assert.strictEqual(error.code, "ECONNRESET")
    await closed
    assert.isTrue(incoming.destroyed)
  })

  test("refuses headers that are too large, and what is no HTTP", async (net) => {
    const port = await serving(net, http.createServer())
    const answers = await Promise.all(
      [`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(100_000)}\r\n\r\n`, "\x16\x03\x01 half a TLS hello"].map(
        async (sent) => {
          const socket = net.connect(port, HOST)
          socket.on("error", () => {})
          socket.write(sent)
          return (await text(socket)).split("\r\n")[0]
        }
      )
    )
    assert.deepStrictEqual(answers, ["HTTP/1.1 431 Request Header Fields Too Large", "HTTP/1.1 400 Bad Request"])
  })

  test("upgrades", async (net) => {
    const server = http.createServer()
    server.on("upgrade", (_request, socket) => {
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
      socket.pipe(socket)
    })
    const port = await serving(net, server)
    const client = http.get({
      host: HOST,
      port,
      agent: agentOver(net),
      headers: { connection: "Upgrade", upgrade: "echo" }
    })
    const [, socket] = await once(client, "upgrade")
    socket.end("upgraded")
    assert.strictEqual(await text(socket), "upgraded")
  })

  test("times out a request that takes too long", async (net) => {
    const port = await serving(
      net,
      http.createServer(() => {})
    )
    const client = http.get({ host: HOST, port, agent: agentOver(net), timeout: 5 })
    await once(client, "timeout")
    client.destroy()
    await once(client, "error")
  })

  it.live("is refused where nobody listens, and leaves nothing", () =>
    Effect.gen(function* () {
      const net = (yield* CutThroughNet.make) as unknown as Net
      const error = yield* Effect.promise(() =>
        request(agentOver(net), { port: 7000 }).then(
          () => undefined,
          (error) => error
        )
      )
      assert.deepStrictEqual([error.code, error.port], ["ECONNREFUSED", 7000])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.live("answers over duplexes of an Effect program", () =>
    Effect.gen(function* () {
      const server = http.createServer((request, response) => void response.end(`hello ${request.url}`))
      const listener = yield* Application.listen(Endpoint.tcp(HOST, 7000))
      yield* Effect.forkScoped(
        listener.run((connection) =>
          Effect.gen(function* () {
            const duplex = yield* CutThroughDuplex.fromConnection(connection)
            server.emit("connection", duplex)
            yield* Effect.callback<void>((resume) => void duplex.once("close", () => resume(Effect.void)))
          })
        )
      )
      const duplex = yield* CutThroughDuplex.make(listener.address)
      const agent = new http.Agent()
      agent.createConnection = () => duplex
      const answer = yield* Effect.promise(async () => text(await request(agent, { path: "/effect" })))
      assert.strictEqual(answer, "hello /effect")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})

describe("undici", () => {
  test("requests, fetches, and pipelines", async (net) => {
    const server = http.createServer(async (request, response) => {
      response.setHeader("content-type", "application/json")
      response.end(JSON.stringify({ url: request.url, body: await text(request) }))
    })
    const port = await serving(net, server)
    const dispatcher = dispatcherOver(net, { connections: 1, pipelining: 8 })
    const origin = `${ORIGIN}:${port}`
    const answers = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const { body } = await undici.request(`${origin}/${i}`, { dispatcher })
        return (await body.json()) as { readonly url: string }
      })
    )
    assert.deepStrictEqual(
      answers.map(({ url }) => url),
      Array.from({ length: 8 }, (_, i) => `/${i}`)
    )
    const response = await undici.fetch(`${origin}/fetch`, { dispatcher, method: "POST", body: "some body" })
    assert.deepStrictEqual(await response.json(), { url: "/fetch", body: "some body" })
    await dispatcher.close()
  })

  test("streams both ways", async (net) => {
    const port = await serving(
      net,
      http.createServer((request, response) => void request.pipe(response))
    )
    const dispatcher = dispatcherOver(net)
    const sent = randomBytes(2_000_001)
    const { body } = await undici.request(`${ORIGIN}:${port}`, {
      dispatcher,
      method: "POST",
      body: Readable.from([sent.subarray(0, 1), sent.subarray(1, 800_000), sent.subarray(800_000)])
    })
    const hash = createHash("sha256")
    for await (const chunk of body) hash.update(chunk)
    assert.strictEqual(hash.digest("hex"), createHash("sha256").update(sent).digest("hex"))
    await dispatcher.close()
  })

  test("aborts, and fails where nobody listens", async (net) => {
    const server = http.createServer()
    const port = await serving(net, server)
    const dispatcher = dispatcherOver(net)
    const aborter = new AbortController()
    const asked = once(server, "request")
    const failing = undici.request(`${ORIGIN}:${port}`, { dispatcher, signal: aborter.signal }).catch((error) => error)
    const [incoming] = await asked
    const closed = new Promise((resolve) => incoming.on("error", () => {}).once("close", resolve))
    aborter.abort()
    assert.strictEqual((await failing).name, "AbortError")
    await closed
    const refused = await undici.request(`${ORIGIN}:1`, { dispatcher }).catch((error) => error)
    assert.strictEqual(refused.code, "ECONNREFUSED")
    await dispatcher.destroy()
  })
})

describe("ws", () => {
  test("talks, large and small, text and binary, and closes", async (net) => {
    const server = http.createServer()
    const port = await serving(net, server)
    const sockets = new ws.WebSocketServer({ server })
    sockets.on("connection", (socket) => {
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }))
    })
    const client = new ws.WebSocket(`ws://${HOST}:${port}`, { createConnection: net.connect as never })
    await once(client, "open")
    const sent = [Buffer.from("hello"), randomBytes(300_000), Buffer.alloc(0)]
    for (const data of sent) {
      client.send(data)
      const [received] = await once(client, "message")
      assert.isTrue(sent.includes(data) && data.equals(received as Buffer))
    }
    client.send("text")
    const [received, isBinary] = await once(client, "message")
    assert.deepStrictEqual([String(received), isBinary], ["text", false])
    client.ping()
    await once(client, "pong")
    client.close(4000, "done")
    const [code, reason] = await once(client, "close")
    assert.deepStrictEqual([code, String(reason)], [4000, "done"])
    sockets.close()
  })

  test("notices a peer that breaks off", async (net) => {
    const server = http.createServer()
    const port = await serving(net, server)
    const sockets = new ws.WebSocketServer({ server })
    const accepted = once(sockets, "connection")
    const client = new ws.WebSocket(`ws://${HOST}:${port}`, { createConnection: net.connect as never })
    const [[socket]] = await Promise.all([accepted, once(client, "open")])
    const closed = once(client, "close")
    socket.terminate()
    assert.strictEqual((await closed)[0], 1006)
    sockets.close()
  })
})

describe("fastify", () => {
  test("listens, routes, and closes", async (net) => {
    const app = fastify({
      serverFactory: (handler) => {
        const server = http.createServer(handler)
        const listener = net.createServer((socket) => void server.emit("connection", socket))
        for (const event of ["listening", "error", "close"]) {
          listener.on(event, (...args) => server.emit(event, ...args))
        }
        return Object.assign(server, {
          listen: (...args: Array<never>) => (listener.listen(...args), server),
          address: () => listener.address(),
          close: (callback: () => void) => {
            listener.close(callback)
            server.closeIdleConnections()
            return server
          }
        })
      }
    })
    app.get("/hello/:name", async ({ ip, params }) => ({ hello: (params as { name: string }).name, ip }))
    app.post("/echo", async ({ body }) => body)
    await app.listen({ port: 7000, host: HOST })
    const dispatcher = dispatcherOver(net)
    const origin = `${ORIGIN}:7000`
    const hello = await undici.request(`${origin}/hello/world`, { dispatcher })
    assert.deepStrictEqual(await hello.body.json(), { hello: "world", ip: HOST })
    const echo = await undici.request(`${origin}/echo`, {
      dispatcher,
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ list: [1, 2, 3] })
    })
    assert.deepStrictEqual(await echo.body.json(), { list: [1, 2, 3] })
    const missing = await undici.request(`${origin}/nowhere`, { dispatcher })
    assert.strictEqual(missing.statusCode, 404)
    await missing.body.dump()
    await dispatcher.close()
    await app.close()
  })
})

describe("HTTP/2", () => {
  test("carries many streams over one connection", async (net) => {
    const server = http2.createServer()
    server.on("stream", async (stream, headers) => {
      const body = await text(stream)
      stream.respond({ ":status": 200 })
      stream.end(JSON.stringify([headers[":path"], body.length]))
    })
    const port = await serving(net, server)
    const client = http2.connect(ORIGIN, { createConnection: () => net.connect(port, HOST) })
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, i) => {
        const stream = client.request({ ":path": `/${i}`, ":method": "POST" })
        stream.end("x".repeat(i * 10_000))
        return json(stream)
      })
    )
    assert.deepStrictEqual(
      answers,
      Array.from({ length: 10 }, (_, i) => [`/${i}`, i * 10_000])
    )
    const closed = once(client, "close")
    client.close()
    await closed
  })
})

describe("node:tls", () => {
  test("encrypts", async (net) => {
    const key = randomBytes(32)
    const secrets = { ciphers: "PSK", minVersion: "TLSv1.2", maxVersion: "TLSv1.2" } as const
    const server = net.createServer((socket) => {
      const secure = new tls.TLSSocket(socket, {
        isServer: true,
        secureContext: tls.createSecureContext(secrets),
        pskCallback: () => key
      } as tls.TLSSocketOptions)
      secure.pipe(secure)
    })
    const port = await listening(server)
    const socket = net.connect(port, HOST)
    const client = tls.connect({
      ...secrets,
      socket,
      pskCallback: () => ({ psk: key, identity: "me" }),
      checkServerIdentity: () => undefined
    })
    client.end("secret")
    assert.strictEqual(await text(client), "secret")
  })
})

describe("pg", () => {
  test("queries a server over its wire protocol", async (net) => {
    const db = await PGlite.create()
    const server = net.createServer((socket) => {
      const handler = new PGLiteSocketHandler({
        closeOnDetach: true,
        queryQueue: {
          enqueue: (_id: number, message: Uint8Array, onRawData: (data: Uint8Array) => void) =>
            db.runExclusive(() => db.execProtocolRawStream(message, { onRawData })),
          clearQueueForHandler: () => {},
          clearTransactionIfNeeded: async () => {}
        } as never
      })
      void handler.attach(socket)
    })
    const port = await listening(server)
    const client = new Client({
      host: HOST,
      port,
      user: "postgres",
      database: "postgres",
      stream: () => new net.Socket()
    } as ClientConfig)
    await client.connect()
    await client.query("create table parts (id int primary key, name text, data bytea)")
    const data = randomBytes(200_000)
    await client.query("insert into parts values ($1, $2, $3), (2, 'bolt', null)", [1, "nut", data])
    const { rows } = await client.query("select * from parts order by id")
    assert.deepStrictEqual(
      rows.map(({ id, name }) => [id, name]),
      [
        [1, "nut"],
        [2, "bolt"]
      ]
    )
    assert.isTrue(data.equals(rows[0].data))
    await client.query("begin")
    await client.query("delete from parts")
    await client.query("rollback")
    const failing = await client.query("select nonsense").catch((error) => error)
    assert.strictEqual(failing.code, "42703")
    const many = await client.query("select i, repeat('x', 100) as text from generate_series(1, 10000) as i")
    assert.strictEqual(many.rowCount, 10_000)
    await client.end()
    await db.close()
  })
})
