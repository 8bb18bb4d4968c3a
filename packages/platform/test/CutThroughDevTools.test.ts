import { Application, Endpoint } from "@cut-through/core"
import { Connection } from "@cut-through/core/Connection"
import { CutThroughDevTools, CutThroughNode, TcpTransport } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Queue, type Scope } from "effect"
import type { DevToolsSchema, DevToolsServer } from "effect/devtools"
import * as Net from "node:net"
import { Worker } from "node:worker_threads"
import { atRest, exitOf, layerHost } from "./thread/life-fixtures.ts"

type Sent = DevToolsSchema.Request.WithoutPing

/** The clients of a server, one after another. */
const clients: Effect.Effect<
  {
    readonly handler: (client: DevToolsServer.Client) => Effect.Effect<never, never, Connection>
    readonly next: Effect.Effect<readonly [DevToolsServer.Client, Connection]>
  },
  never,
  Scope.Scope
> = Effect.gen(function* () {
  const queue = yield* Queue.unbounded<readonly [DevToolsServer.Client, Connection]>()
  return {
    handler: (client) =>
      Effect.flatMap(Connection, (connection) =>
        Effect.andThen(Queue.offer(queue, [client, connection] as const), Effect.never)
      ),
    next: Queue.take(queue)
  }
})

/** The first thing sent of which that is so. */
const find = ({ queue }: DevToolsServer.Client, isIt: (sent: Sent) => boolean): Effect.Effect<Sent, unknown> =>
  Effect.repeat(Queue.take(queue), { until: isIt })

const span = (name: string, status: "Started" | "Ended") => (sent: Sent) =>
  sent._tag === "Span" && sent.name === name && sent.status._tag === status

const snapshotWith = (id: string) => (sent: Sent) =>
  sent._tag === "MetricsSnapshot" && sent.metrics.some((metric) => metric.id === id)

const countOf = (sent: Sent, id: string): unknown => {
  const found = sent._tag === "MetricsSnapshot" ? sent.metrics.find((metric) => metric.id === id) : undefined
  return found?.type === "Counter" ? found.state.count : undefined
}

const portIsOpen = (port: number): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const socket = Net.connect(port, "127.0.0.1")
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    })
    socket.once("error", () => resume(Effect.succeed(false)))
  })

describe("CutThroughDevTools", () => {
  it.live("spans and metrics of a worker thread arrive at the host, which opens no port", () =>
    Effect.gen(function* () {
      yield* Effect.gen(function* () {
        const { handler, next } = yield* clients
        yield* Layer.build(CutThroughDevTools.layerServer(handler))
        assert.isFalse(yield* portIsOpen(CutThroughDevTools.endpoint.port))
        const worker = yield* Effect.acquireRelease(
          Effect.sync(() => new Worker(new URL("./devtools-worker.ts", import.meta.url))),
          (worker) => Effect.promise(() => worker.terminate())
        )
        const exit = exitOf(worker)
        const [client, connection] = yield* next
        assert.strictEqual(connection.info.path, "thread")

        const inner = yield* find(client, span("inner", "Ended"))
        assert.isTrue(inner._tag === "Span" && inner.parent._tag === "Some")
        const parent = (inner as DevToolsSchema.Span).parent as { readonly value: DevToolsSchema.Span }
        assert.strictEqual(parent.value.name, "outer")
        assert.strictEqual(parent.value.attributes.get("answer"), 42)

        yield* client.send({ _tag: "MetricsRequest" })
        assert.strictEqual(countOf(yield* find(client, snapshotWith("work_done")), "work_done"), 3)

        worker.postMessage("end the span")
        yield* find(client, span("outer", "Ended"))
        worker.postMessage("leave")
        assert.strictEqual(yield* Effect.promise(() => exit), 0)
      }).pipe(Effect.scoped)
      yield* atRest()
    }).pipe(Effect.provide(Layer.provideMerge(TcpTransport.layer(), layerHost)))
  )

  const sessions = Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)

  it.live("under another endpoint, between applications of one thread", () =>
    Effect.gen(function* () {
      const { handler, next } = yield* clients
      const endpoint = Endpoint.tcp("127.0.0.1", 7000)
      yield* Effect.forkScoped(CutThroughDevTools.serve(handler, { endpoint }), { startImmediately: true })
      const watched = yield* Layer.build(
        Layer.provide(
          CutThroughDevTools.layer({ target: "tcp://127.0.0.1:7000" }),
          Application.layer({ name: "watched" })
        )
      )
      yield* Effect.void.pipe(Effect.withSpan("work"), Effect.provideContext(watched))
      const [client] = yield* next
      yield* find(client, span("work", "Started"))
      yield* find(client, span("work", "Ended"))
    }).pipe(Effect.scoped, Effect.provide(sessions))
  )

  it.live("an endpoint that is taken fails", () =>
    Effect.gen(function* () {
      yield* Layer.build(CutThroughDevTools.layerServer(() => Effect.never))
      const error = yield* Effect.flip(CutThroughDevTools.serve(() => Effect.never))
      assert.strictEqual(error._tag, "SocketServerError")
      assert.strictEqual(
        (yield* Effect.flip(Layer.build(Layer.fresh(CutThroughDevTools.layerServer(() => Effect.never)))))._tag,
        "SocketServerError"
      )
    }).pipe(Effect.scoped, Effect.provide(sessions))
  )
})
