/**
 * Requests of `node:http` over one connection that is kept alive: a GET of 1 KiB and a POST of 64 KiB, in turn.
 */
import { CutThroughNet, CutThroughNode } from "@cut-through/platform"
import { Effect, Layer, type Scope } from "effect"
import { once } from "node:events"
import * as http from "node:http"
import type * as net from "node:net"
import type { Duplex } from "node:stream"
import { type Case, type Leg, perOperation } from "./model.ts"
import { source } from "./payload.ts"
import { HOST } from "./streams.ts"
import { converse, start } from "./thread.ts"
import type { HttpServer } from "./worker.ts"

const bodyOf = (bytes: number): Buffer =>
  Buffer.from(source({ bytes, writes: 1, isVerified: false, isAnyAlignment: false })(0))

const SMALL = bodyOf(1024)
const LARGE = bodyOf(65_536)

const handle = (request: http.IncomingMessage, response: http.ServerResponse): void => {
  if (request.method === "GET") {
    response.setHeader("content-type", "application/octet-stream")
    response.setHeader("content-length", SMALL.length)
    response.end(SMALL)
    return
  }
  const chunks: Array<Buffer> = []
  request.on("data", (chunk) => chunks.push(chunk))
  request.on("end", () => {
    response.statusCode = Buffer.concat(chunks).equals(LARGE) ? 200 : 400
    response.setHeader("content-length", 0)
    response.end()
  })
}

/** Serves over what stands where `node:net` stands, and returns its port. */
const listen = (over: Pick<CutThroughNet.Net, "createServer">): Effect.Effect<number, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const server = http.createServer(handle)
        const sockets = over.createServer((socket) => server.emit("connection", socket))
        sockets.listen(0, HOST)
        await once(sockets, "listening")
        return sockets
      }),
      (sockets) => Effect.sync(() => void sockets.close())
    ),
    (sockets) => (sockets.address() as net.AddressInfo).port
  )

/** One listening server, as users of TCP have it. */
const listenTcp: Effect.Effect<number, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = http.createServer(handle).listen(0, HOST)
      await once(server, "listening")
      return server
    }),
    (server) =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
      })
  ),
  (server) => (server.address() as net.AddressInfo).port
)

class OurAgent extends http.Agent {
  private readonly over: CutThroughNet.Net

  constructor(over: CutThroughNet.Net) {
    super({ keepAlive: true, maxSockets: 1 })
    this.over = over
  }

  override createConnection(options: net.TcpNetConnectOpts): Duplex {
    return this.over.connect({ host: HOST, port: options.port })
  }
}

const get = (agent: http.Agent, port: number): Promise<void> =>
  new Promise((resolve, reject) => {
    http
      .get({ agent, host: HOST, port, path: "/small" }, (response) => {
        const chunks: Array<Buffer> = []
        response.on("data", (chunk) => chunks.push(chunk))
        response.on("end", () =>
          Buffer.concat(chunks).equals(SMALL) ? resolve() : reject(new Error("what was got is not what was sent"))
        )
      })
      .on("error", reject)
  })

const post = (agent: http.Agent, port: number): Promise<void> =>
  new Promise((resolve, reject) => {
    const headers = { "content-length": LARGE.length }
    const request = http.request({ agent, host: HOST, port, path: "/large", method: "POST", headers }, (response) => {
      response.resume()
      response.on("end", () =>
        response.statusCode === 200 ? resolve() : reject(new Error("what was posted did not arrive as it was sent"))
      )
    })
    request.on("error", reject)
    request.end(LARGE)
  })

const client = (agent: http.Agent, port: number): Effect.Effect<Leg, never, Scope.Scope> =>
  Effect.as(
    Effect.addFinalizer(() => Effect.sync(() => agent.destroy())),
    perOperation(async (rounds) => {
      for (let i = 0; i < rounds; i++) {
        await get(agent, port)
        await post(agent, port)
      }
    })
  )

const tcpAgent = () => new http.Agent({ keepAlive: true, maxSockets: 1 })

/** In another thread: serves over both. */
export const server = (_: HttpServer) =>
  Effect.gen(function* () {
    const ours = yield* listen(yield* CutThroughNet.make)
    const tcp = yield* listenTcp
    converse({ ours, tcp }, () => Promise.resolve())
    return yield* Effect.never
  })

const caseOf = (
  name: string,
  ports: (
    net: CutThroughNet.Net
  ) => Effect.Effect<{ readonly ours: number; readonly tcp: number }, unknown, Scope.Scope>
): Case => ({
  rows: [{ name, unit: "us" }],
  peers: ["tcp"],
  operation: "GET and POST",
  least: 10,
  most: 100_000,
  open: () =>
    Effect.gen(function* () {
      const net = yield* Effect.provide(CutThroughNet.make, yield* Layer.build(CutThroughNode.layer))
      const { ours, tcp } = yield* ports(net)
      return { ours: yield* client(new OurAgent(net), ours), tcp: yield* client(tcpAgent(), tcp) }
    })
})

export const cases: ReadonlyArray<Case> = [
  caseOf("http-fiber", (net) => Effect.all({ ours: listen(net), tcp: listenTcp })),
  caseOf("http-thread", () =>
    Effect.map(start<{ readonly ours: number; readonly tcp: number }>({ role: "http-server" }), ({ first }) => first)
  )
]
