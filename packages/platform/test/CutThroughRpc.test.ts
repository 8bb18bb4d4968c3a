/** Effect's RPC over connections: between fibers, and between threads. */
import { Application, type SessionError } from "@cut-through/core"
import { CutThroughNode, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, type Scope, Stream } from "effect"
import { RpcClient, type RpcClientError, RpcServer } from "effect/rpc"
import { Worker } from "node:worker_threads"
import { Calls, handlers, produced, serializations, Unknown } from "./rpc-fixtures.ts"
import { atRest } from "./thread/life-fixtures.ts"

type Client = RpcClient.FromGroup<typeof Calls, RpcClientError.RpcClientError>

const client = (
  target: { readonly host: string; readonly port: number },
  serialization: keyof typeof serializations
): Effect.Effect<Client, never, Application.Application | Scope.Scope> =>
  Effect.flatMap(
    Layer.build(
      RpcClient.layerProtocolSocket().pipe(
        Layer.provide(CutThroughSocket.layer(target)),
        Layer.provide(serializations[serialization]),
        Layer.fresh
      )
    ),
    (services) => Effect.provide(RpcClient.make(Calls), services)
  )

/** Everything that the group can do. */
const talk = (client: Client) =>
  Effect.gen(function* () {
    assert.strictEqual(yield* client.Echo({ bytes: "hello" }), "hello")
    const big = "x".repeat(1_000_000)
    assert.strictEqual(yield* client.Echo({ bytes: big }), big)
    const answers = yield* Effect.forEach(
      Array.from({ length: 200 }, (_, i) => `call ${i}`),
      (bytes) => client.Echo({ bytes }),
      { concurrency: "unbounded" }
    )
    assert.deepStrictEqual(
      answers,
      Array.from({ length: 200 }, (_, i) => `call ${i}`)
    )
    const error = yield* Effect.flip(client.Fail({ id: "7" }))
    assert.deepStrictEqual(error, new Unknown({ id: "7" }))
    const sum = yield* Stream.runFold(
      client.Count({ to: 1000 }),
      () => 0,
      (total, n) => total + n
    )
    assert.strictEqual(sum, 500_500)
    // The server is told, and stops.
    const hanging = yield* Effect.forkChild(client.Hang(), { startImmediately: true })
    const interrupts = yield* Effect.forkChild(client.Interrupts(), { startImmediately: true })
    yield* Effect.yieldNow
    yield* Fiber.interrupt(hanging)
    assert.strictEqual(yield* Fiber.join(interrupts), 1)
  })

const application: Layer.Layer<Application.Application, SessionError.SessionError> = Layer.fresh(
  Application.layer({ name: "rpc" }).pipe(Layer.provide(Leaks.layerSessions()), Layer.provide(CutThroughNode.layerCopy))
)

const target = { host: "127.0.0.1", port: 7100 }

for (const name of Object.keys(serializations) as Array<keyof typeof serializations>) {
  describe(`RPC over connections, ${name}`, () => {
    const server = RpcServer.layer(Calls).pipe(
      Layer.provide(handlers),
      Layer.provide(RpcServer.layerProtocolSocketServer),
      Layer.provide(CutThroughSocketServer.layer(target)),
      Layer.provide(serializations[name])
    )

    it.live("between fibers", () =>
      Effect.flatMap(client(target, name), talk).pipe(
        Effect.scoped,
        Effect.provide(Layer.provideMerge(server, application), { local: true })
      )
    )

    it.live("a stream that nobody reads on stops at the server: acks", () =>
      Effect.gen(function* () {
        produced.most = 0
        const { Count } = yield* client(target, name)
        const first = yield* Stream.runCollect(Stream.take(Count({ to: 10_000_000 }), 10))
        assert.strictEqual(first.length, 10)
        assert.isBelow(produced.most, 100_000)
      }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(server, application), { local: true }))
    )

    it.live("between threads", () =>
      Effect.gen(function* () {
        const host = `rpc ${name}`
        yield* Effect.gen(function* () {
          const worker = yield* Effect.acquireRelease(
            Effect.callback<Worker>((resume) => {
              const worker = new Worker(new URL("./rpc-worker.ts", import.meta.url), {
                workerData: { host, port: target.port, serialization: name }
              })
              worker.once("message", () => resume(Effect.succeed(worker)))
              worker.once("error", (error) => resume(Effect.die(error)))
            }),
            (worker) => Effect.promise(() => worker.terminate())
          )
          const application = yield* Application.make({ name: "client" })
          const served = Effect.flatMap(client(target, name), talk).pipe(
            Effect.scoped,
            Effect.provideService(Application.Application, application)
          )
          yield* served
          yield* served
          // Its death is an end like any other for who calls.
          const { Hang } = yield* Effect.provideService(client(target, name), Application.Application, application)
          const hanging = yield* Effect.forkChild(Hang(), { startImmediately: true })
          yield* Effect.yieldNow
          yield* Effect.promise(() => worker.terminate())
          assert.isTrue(Exit.isFailure(yield* Fiber.await(hanging)))
        }).pipe(Effect.scoped)
        yield* atRest()
      }).pipe(Effect.provide(Layer.fresh(CutThroughNode.layerSessions({ name: `rpc ${name}` })), { local: true }))
    )
  })
}
