/** Programs that are simulated, in this process and in another one. */
import { Application, Endpoint } from "@cut-through/core"
import { Leaks, Simulation, TestNetwork } from "@cut-through/testing"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"

/** Three that wait, each in a fiber, and one that makes happen later what they wait for. Returns who came first. */
const whoIsFirst = (waits: Effect.Effect<unknown>, wake: Effect.Effect<unknown> = Effect.void): Effect.Effect<string> =>
  Effect.suspend(() => {
    const order: Array<string> = []
    const wait = (name: string) => Effect.map(waits, () => order.push(name))
    const all = Effect.all([wait("a"), wait("b"), wait("c"), Effect.delay(wake, 1)], { concurrency: 4 })
    return Effect.map(all, () => order.join(""))
  })

/** All the ways in which fibers of Effect are woken. */
export const wakeUps: { readonly [kind: string]: Effect.Effect<string> } = {
  callback: Effect.suspend(() => {
    const resumes: Array<() => void> = []
    return whoIsFirst(
      Effect.callback<void>((resume) => void resumes.push(() => resume(Effect.void))),
      Effect.sync(() => {
        for (const resume of resumes) resume()
      })
    )
  }),
  Deferred: Effect.flatMap(Deferred.make<void>(), (deferred) =>
    whoIsFirst(Deferred.await(deferred), Deferred.succeed(deferred, undefined))
  ),
  Queue: Effect.flatMap(Queue.unbounded<number>(), (queue) =>
    whoIsFirst(Queue.take(queue), Queue.offerAll(queue, [1, 2, 3]))
  ),
  "full Queue": Effect.gen(function* () {
    const queue = yield* Queue.bounded<number>(1)
    yield* Queue.offer(queue, 0)
    return yield* whoIsFirst(Queue.offer(queue, 1), Effect.replicateEffect(Queue.take(queue), 4))
  }),
  Latch: Effect.flatMap(Latch.make(), (latch) => whoIsFirst(latch.await, latch.open)),
  Semaphore: Effect.gen(function* () {
    const semaphore = yield* Semaphore.make(3)
    yield* Semaphore.take(semaphore, 3)
    // They are woken in the order in which they have come.
    const wait = Effect.andThen(Effect.yieldNow, Semaphore.take(semaphore, 1))
    return yield* whoIsFirst(wait, Semaphore.release(semaphore, 3))
  }),
  PubSub: Effect.flatMap(PubSub.unbounded<number>(), (pubSub) =>
    whoIsFirst(Effect.scoped(Effect.flatMap(PubSub.subscribe(pubSub), PubSub.take)), PubSub.publish(pubSub, 1))
  ),
  SubscriptionRef: Effect.flatMap(SubscriptionRef.make(0), (ref) =>
    whoIsFirst(
      Stream.runDrain(Stream.take(SubscriptionRef.changes(ref), 2)),
      Effect.delay(SubscriptionRef.set(ref, 1), "1 second")
    )
  ),
  Stream: Effect.flatMap(Queue.unbounded<number>(), (queue) =>
    whoIsFirst(Stream.runHead(Stream.fromEffect(Queue.take(queue))), Queue.offerAll(queue, [1, 2, 3]))
  ),
  sleep: whoIsFirst(Effect.sleep("1 second")),
  join: Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.sleep("1 second"))
    return yield* whoIsFirst(Fiber.join(fiber))
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
