/** Programs that are simulated, in this process and in another one. */
import { Application, Endpoint } from "@cut-through/core"
import { Leaks, Simulation, TestNetwork } from "@cut-through/testing"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"

/** Two that wait for the same thing in different ways, and a third that makes it happen. Returns who came first. */
export const wakeUps: { readonly [kind: string]: Effect.Effect<string> } = {
  callback: Effect.suspend(() => {
    const order: Array<string> = []
    const resumes: Array<() => void> = []
    const wait = (name: string) =>
      Effect.map(
        Effect.callback<void>((resume) => void resumes.push(() => resume(Effect.void))),
        () => order.push(name)
      )
    const wake = Effect.sync(() => {
      for (const resume of resumes) resume()
    })
    return Effect.as(
      Effect.all([wait("a"), wait("b"), wait("c"), Effect.delay(wake, 1)], { concurrency: 4 }),
      order
    ).pipe(Effect.map((order) => order.join("")))
  }),
  Deferred: Effect.gen(function* () {
    const order: Array<string> = []
    const deferred = yield* Deferred.make<void>()
    const wait = (name: string) => Effect.map(Deferred.await(deferred), () => order.push(name))
    const wake = Effect.delay(Deferred.succeed(deferred, undefined), 1)
    yield* Effect.all([wait("a"), wait("b"), wait("c"), wake], { concurrency: 4 })
    return order.join("")
  }),
  Queue: Effect.gen(function* () {
    const order: Array<string> = []
    const queue = yield* Queue.unbounded<number>()
    const wait = (name: string) => Effect.map(Queue.take(queue), () => order.push(name))
    const wake = Effect.delay(Queue.offerAll(queue, [1, 2, 3]), 1)
    yield* Effect.all([wait("a"), wait("b"), wait("c"), wake], { concurrency: 4 })
    return order.join("")
  }),
  sleep: Effect.gen(function* () {
    const order: Array<string> = []
    const wait = (name: string) => Effect.map(Effect.sleep("1 second"), () => order.push(name))
    yield* Effect.all([wait("a"), wait("b"), wait("c")], { concurrency: 3 })
    return order.join("")
  }),
  fork: Effect.gen(function* () {
    const order: Array<string> = []
    const go = (name: string) => Effect.forkChild(Effect.sync(() => order.push(name)))
    const fibers = yield* Effect.all([go("a"), go("b"), go("c")])
    yield* Fiber.joinAll(fibers)
    return order.join("")
  })
}

const talk = (endpoint: Endpoint.Endpoint) =>
  Effect.gen(function* () {
    const connection = yield* Application.connect(endpoint)
    const size = yield* Random.nextIntBetween(1, 10_000)
    yield* connection.write(new Uint8Array(size))
    yield* connection.end
    const sizes = yield* Stream.runFold(
      connection.stream,
      () => 0,
      (sum, chunk) => sum + chunk.length
    )
    return sizes === size
  })

/** Two clients and an echo server in one session layer. */
export const sessions = Effect.gen(function* () {
  const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
  yield* Effect.forkScoped(listener.run(({ sink, stream }) => Stream.run(stream, sink)))
  const all = yield* Effect.all([talk(listener.address), talk(listener.address)], { concurrency: 2 })
  if (all.includes(false)) return yield* Effect.fail("bytes are missing")
}).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))

/** The same on two hosts. */
export const network = Effect.gen(function* () {
  const endpoint = yield* TestNetwork.endpoint("b", 7000)
  const listener = yield* TestNetwork.on("b", Application.listen(endpoint))
  yield* Effect.forkScoped(listener.run(({ sink, stream }) => Stream.run(stream, sink)))
  const all = yield* TestNetwork.on("a", Effect.all([talk(endpoint), talk(endpoint)], { concurrency: 2 }))
  if (all.includes(false)) return yield* Effect.fail("bytes are missing")
}).pipe(
  Effect.scoped,
  Effect.provide(
    TestNetwork.layer({
      hosts: { a: "10.0.0.1", b: "10.0.0.2" },
      link: { latency: "10 millis", jitter: "5 millis", loss: 0.1 }
    })
  )
)

/** What 200 seeds come to. */
export const fingerprints = Effect.forEach(Array.from({ length: 200 }), (_, seed) =>
  Effect.map(
    Effect.all([
      Simulation.replay(sessions, seed),
      Simulation.replay(network, seed),
      Simulation.replay(wakeUps["Queue"], seed)
    ]),
    (runs) => runs.map(({ exit, fingerprint }) => `${exit?._tag} ${fingerprint}`).join(" ")
  )
)
