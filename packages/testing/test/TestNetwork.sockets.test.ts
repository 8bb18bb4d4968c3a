/** What is built on `Application` runs over a simulated network, and in simulations of it, without a change. */
import { Application, type Endpoint } from "@cut-through/core"
import { CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { Simulation, TestNetwork, TransportContract } from "@cut-through/testing"
import { extend } from "@cut-through/testing/Vitest"
import { assert, describe, it as base } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"

const it = extend(base)

const hosts = { a: "10.0.0.1", b: "10.0.0.2" }

const contract = (link: TestNetwork.LinkOptions) =>
  Layer.effect(
    TransportContract.Transport,
    Effect.gen(function* () {
      const applicationOf = (host: string) =>
        Effect.map(Layer.build(TestNetwork.host(host)), (context) => Context.get(context, Application.Application))
      const server = yield* applicationOf("b")
      const client = yield* applicationOf("a")
      return TransportContract.Transport.of({
        listen: Effect.provideService(
          CutThroughSocketServer.make({ host: "10.0.0.2", port: 0 }),
          Application.Application,
          server
        ),
        connect: (address) =>
          Effect.provideService(CutThroughSocket.make(address as Endpoint.Endpoint), Application.Application, client)
      })
    })
  ).pipe(Layer.provide(TestNetwork.layer({ hosts, link })))

TransportContract.suite("between hosts, in no time", contract({}), { describe, it: base })

const slow = contract({ latency: "20 millis", jitter: "10 millis", bandwidth: "10 MiB" })

// These wait for turns of the platform's event loop, which a simulation has none of.
const waitsForTurns = "waits for turns of the event loop"

TransportContract.suite(
  "between hosts, 20 ms apart, under many orders of events",
  slow,
  {
    describe,
    it: (name, test) => base.effect(name, () => Effect.asVoid(Simulation.run(test(), { runs: 5 })))
  },
  {
    differs: {
      "racing readers: each byte goes to somebody, once, whoever gives up in between": waitsForTurns,
      "a read that is given up before it begins takes nothing": waitsForTurns,
      "a read that waits for a while gets what comes in that time": waitsForTurns,
      "closing ends a read that waits, on both sides": waitsForTurns,
      "a write before the connection waits for it": waitsForTurns,
      "who does not pull makes the writer wait": waitsForTurns,
      "connections that come before the server runs are served when it does": waitsForTurns
    }
  }
)

class Api extends RpcGroup.make(
  Rpc.make("add", { payload: { a: Schema.Finite, b: Schema.Finite }, success: Schema.Finite }),
  Rpc.make("count", { payload: { to: Schema.Finite }, success: Schema.Finite, stream: true })
) {}

const serve = Layer.provide(
  RpcServer.layer(Api),
  Layer.mergeAll(
    Api.toLayer({
      add: ({ a, b }) => Effect.succeed(a + b),
      count: ({ to }) => Stream.range(1, to)
    }),
    Layer.provide(RpcServer.layerProtocolSocketServer, [
      Layer.provide(CutThroughSocketServer.layer({ host: "10.0.0.2", port: 7000 }), TestNetwork.host("b")),
      RpcSerialization.layerNdjson
    ])
  )
)

const clientOf = Layer.provide(RpcClient.layerProtocolSocket(), [
  Layer.provide(CutThroughSocket.layer({ host: "b", port: 7000 }), TestNetwork.host("a")),
  RpcSerialization.layerNdjson
])

/** Calls over the network, one after the other and at the same time. */
const calls = Effect.gen(function* () {
  yield* Layer.build(serve)
  const client = yield* Effect.provide(RpcClient.make(Api), yield* Layer.build(clientOf))
  const sums = yield* Effect.forEach(
    Array.from({ length: 10 }, (_, i) => i),
    (i) => client.add({ a: i, b: 1 }),
    { concurrency: 5 }
  )
  const counted = yield* Stream.runCollect(client.count({ to: 100 }))
  return { sums, counted: [...counted].length }
})

describe("RPC between hosts", () => {
  base.effect("answers under the test clock", () =>
    Effect.gen(function* () {
      const calling = yield* Effect.forkChild(Effect.scoped(calls))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Fiber.join(calling), { sums: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], counted: 100 })
    }).pipe(Effect.provide(TestNetwork.layer({ hosts, link: { latency: "20 millis" } })))
  )

  it.sim(
    "answers in whatever order things happen",
    { runs: 50 },
    Effect.gen(function* () {
      const { counted, sums } = yield* Effect.scoped(calls)
      assert.deepStrictEqual(sums, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
      assert.strictEqual(counted, 100)
    }).pipe(Effect.provide(TestNetwork.layer({ hosts, link: { latency: "20 millis", jitter: "20 millis" } })))
  )
})
