import { Application, type Connection, Endpoint, type Listener, type SessionError } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Faults, Leaks, TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"

const at = Endpoint.tcp("127.0.0.1", 7000)

/** A real session layer, with an application that faults can hit. */
const makeLayer = (options: Faults.Options = {}) =>
  Faults.layerApplication.pipe(
    Layer.provide(Application.layer({ name: "app", rxFifoSize: 4096, txFifoSize: 4096 })),
    Layer.provideMerge(Layer.provideMerge(Leaks.layerCheck, Faults.layerSessions())),
    Layer.provideMerge(Faults.layerWith(options))
  )

type Services = Application.Application | Faults.Faults | SessionLayer | Scope.Scope

const test = (name: string, program: Effect.Effect<void, unknown, Services>, options?: Faults.Options) =>
  it.effect(name, () => Effect.provide(Effect.scoped(program), makeLayer(options)))

const pair = Effect.gen(function* () {
  const listener = yield* Application.listen(at)
  const client = yield* Application.connect(at)
  const server = yield* listener.accept
  return { client, server, listener }
})

const reasonOf = <A>(exit: Exit.Exit<A, SessionError.SessionError | Cause.Done>): string => {
  if (Exit.isSuccess(exit)) return "success"
  const error = Cause.squash(exit.cause) as SessionError.SessionError | Cause.Done
  return error._tag === "Done" ? "Done" : error.reason._tag
}

const failing = <A, R>(effect: Effect.Effect<A, SessionError.SessionError | Cause.Done, R>) =>
  Effect.map(Effect.exit(effect), reasonOf)

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    return yield* Effect.forkChild(
      Effect.gen(function* () {
        const value = yield* effect
        return { value, millis: (yield* Clock.currentTimeMillis) - start }
      }),
      { startImmediately: true }
    )
  })

/** How long an effect takes, in milliseconds of the test clock. */
const millisOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* timed(effect)
    yield* TestClock.adjust("1 day")
    return (yield* Fiber.join(fiber)).millis
  })

const hits = Effect.map(Faults.active, (active) => active.map(({ hits }) => hits))

const hello = new TextEncoder().encode("hello")

/** All verbs that a connection has, to show that a decorated one is as good as any. */
const exercise = (client: Connection.Connection, server: Connection.Connection) =>
  Effect.gen(function* () {
    yield* client.write(hello)
    assert.deepStrictEqual(yield* server.read, hello)
    yield* client.writeAll([hello, hello])
    const buffer = new Uint8Array(100)
    assert.strictEqual(yield* server.readInto(buffer), 10)
    yield* client.unref
    yield* client.ref
    assert.strictEqual(client.info.bytesSent, 15)
    yield* Stream.run(Stream.make(hello), server.sink)
    assert.deepStrictEqual([...(yield* Stream.runCollect(client.stream))], [hello])
    yield* client.end
    assert.strictEqual(yield* failing(server.read), "Done")
  })

describe("Faults", () => {
  test(
    "without one nothing is different",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* exercise(client, server)
      assert.deepStrictEqual(yield* Faults.active, [])
    })
  )

  test(
    "a slow, jittery, sliced connection still carries everything",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.latency("10 millis", { jitter: "10 millis" }))
      yield* Faults.inject(Faults.bandwidth("1 KiB"))
      yield* Faults.inject(Faults.slowClose("1 second"))
      const fiber = yield* Effect.forkChild(exercise(client, server))
      yield* TestClock.adjust("1 day")
      yield* Fiber.join(fiber)
    })
  )

  test(
    "latency delays what is written, until the scope closes",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.latency("10 millis"))
          const reading = yield* timed(server.read)
          assert.strictEqual(yield* millisOf(client.write(hello)), 10)
          assert.deepStrictEqual(yield* Fiber.join(reading), { value: hello, millis: 10 })
          assert.deepStrictEqual(yield* hits, [1])
        })
      )
      assert.deepStrictEqual(yield* Faults.active, [])
      assert.strictEqual(yield* millisOf(client.write(hello)), 0)
    })
  )

  test(
    "jitter is more latency, at random",
    Effect.gen(function* () {
      const { client } = yield* pair
      yield* Faults.inject(Faults.latency("10 millis", { jitter: "10 millis" }))
      const times: Array<number> = []
      for (let i = 0; i < 20; i++) times.push(yield* millisOf(client.write(hello)))
      assert.isTrue(times.every((millis) => millis >= 10 && millis < 20))
      assert.isAbove(new Set(times).size, 10)
    })
  )

  test(
    "bandwidth is bytes in a second",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.bandwidth(1000))
      assert.strictEqual(yield* millisOf(client.writeAll([new Uint8Array(1500), new Uint8Array(500)])), 2000)
      assert.strictEqual(server.info.rx.used, 2000)
    })
  )

  test(
    "who waits for a fault waits no longer than it is there",
    Effect.gen(function* () {
      const { client } = yield* pair
      yield* Faults.inject(Faults.latency("1 hour"), { for: "1 second" })
      assert.strictEqual(yield* millisOf(client.write(hello)), 1000)
      assert.deepStrictEqual(yield* Faults.active, [])
    })
  )

  test(
    "closing takes its time, also when the scope does it",
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { server } = yield* Scope.provide(pair, scope)
      yield* Faults.inject(Faults.slowClose("1 second"))
      assert.strictEqual(yield* millisOf(server.end), 1000)
      assert.strictEqual(yield* millisOf(server.close), 1000)
      // The client's, which is open.
      assert.strictEqual(yield* millisOf(Scope.close(scope, Exit.void)), 1000)
    })
  )

  test(
    "a reset after so many bytes, in both directions together",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.resetAfter(12), { endpoint: "127.0.0.1:7000" })
      yield* client.write(hello)
      yield* server.write(hello)
      assert.deepStrictEqual(yield* client.read, hello)
      assert.strictEqual(yield* failing(client.write(hello)), "Reset")
      assert.strictEqual(client.info.bytesSent, 7)
      assert.strictEqual(yield* failing(client.read), "Reset")
      assert.strictEqual(yield* failing(server.read), "Reset")
      assert.strictEqual(yield* failing(server.write(hello)), "Reset")
    })
  )

  test(
    "a reader gets the bytes before the reset, not more",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.resetAfter(3), { probability: 1 })
      // The client's is full first.
      assert.strictEqual(yield* failing(client.write(hello)), "Reset")
      assert.strictEqual(yield* failing(server.read), "Reset")
    })
  )

  test(
    "tiny reads",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.slice(2))
      yield* client.write(hello)
      yield* client.end
      const chunks = yield* Stream.runCollect(server.stream)
      assert.deepStrictEqual(
        [...chunks].map(({ length }) => length),
        [2, 2, 1]
      )
      yield* server.write(hello)
      assert.strictEqual(yield* client.readInto(new Uint8Array(10)), 2)
      assert.strictEqual(yield* client.readInto(new Uint8Array(1)), 1)
    })
  )

  test(
    "a stalled reader makes the writer wait, and goes on when it is over",
    Effect.gen(function* () {
      const { client, server } = yield* pair
      yield* Faults.inject(Faults.stalledReader, { for: "1 minute" })
      const reading = yield* timed(server.read)
      const writing = yield* timed(client.write(new Uint8Array(10_000)))
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(reading.pollUnsafe())
      assert.isUndefined(writing.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(reading)).millis, 60_000)
      yield* server.read
      yield* server.read
      yield* Fiber.join(writing)
    })
  )

  test(
    "connects are refused",
    Effect.gen(function* () {
      yield* Application.listen(at)
      const other = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7001))
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.refuse, { endpoint: at })
          assert.strictEqual(yield* failing(Application.connect(at)), "Refused")
          yield* Application.connect(other.address)
          assert.deepStrictEqual(yield* hits, [1])
        })
      )
      yield* Application.connect(at)
    })
  )

  test(
    "what a refusing server gets is reset, whoever is served next",
    Effect.gen(function* () {
      const plain = yield* Application.make({ name: "plain" })
      const listener = yield* Application.listen(at)
      const asking = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7001), { approval: "application" })
      const first = yield* plain.connect(at)
      const second = yield* plain.connect(at)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.refuse, { app: "app" })
          const accepting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
          assert.strictEqual(yield* failing(first.read), "Reset")
          assert.strictEqual(yield* failing(second.read), "Reset")
          const requesting = yield* Effect.forkChild(Effect.scoped(asking.request), { startImmediately: true })
          assert.strictEqual(yield* failing(plain.connect(asking.address)), "Refused")
          assert.isUndefined(requesting.pollUnsafe())
          yield* Fiber.interruptAll([accepting, requesting])
        })
      )
      const served = yield* Effect.forkChild(
        listener.run((connection) => Effect.andThen(connection.write(hello), connection.close)),
        { startImmediately: true }
      )
      const third = yield* plain.connect(at)
      assert.deepStrictEqual(yield* third.read, hello)
      yield* Fiber.interrupt(served)
    })
  )

  test(
    "handlers get what faults can hit, as an argument and as a service",
    Effect.gen(function* () {
      const listener = yield* Application.listen(at)
      const seen: Array<boolean> = []
      yield* Effect.forkScoped(
        listener.run((connection) =>
          Effect.gen(function* () {
            const { Connection } = yield* Effect.promise(() => import("@cut-through/core/Connection"))
            seen.push((yield* Connection) === connection)
            yield* Effect.ignore(Stream.run(connection.stream, connection.sink))
          })
        )
      )
      yield* Faults.inject(Faults.slice(1))
      const client = yield* Application.connect(at)
      yield* client.write(hello)
      yield* client.end
      const chunks = yield* Stream.runCollect(client.stream)
      assert.strictEqual([...chunks].length, 5)
      assert.deepStrictEqual(seen, [true])
    })
  )

  test(
    "a limit of connections, by endpoint",
    Effect.gen(function* () {
      const listener = yield* Application.listen(at)
      yield* Faults.inject(Faults.connectionLimit(2), { endpoint: 7000, app: "app" })
      const plain = yield* Application.make({ name: "plain" })
      const scope = yield* Scope.make()
      yield* Scope.provide(Application.connect(at), scope)
      yield* Application.connect(at)
      assert.strictEqual(yield* failing(Application.connect(at)), "Refused")
      yield* plain.connect(at)
      yield* Scope.close(scope, Exit.void)
      yield* Application.connect(at)
      assert.isDefined(listener)
    })
  )

  test(
    "there is no memory for another segment",
    Effect.gen(function* () {
      yield* Application.listen(at)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.segmentExhaustion)
          assert.strictEqual(yield* failing(Application.connect(at)), "AllocFailed")
          assert.deepStrictEqual(yield* hits, [1])
        })
      )
      yield* Application.connect(at)
    })
  )

  test(
    "a dropped application resets, connects no more, and comes back",
    Effect.gen(function* () {
      const plain = yield* Application.make({ name: "plain" })
      const listener: Listener.Listener = yield* Application.listen(at)
      const peer = yield* plain.connect(at)
      const own = yield* listener.accept
      const waiting = yield* Effect.forkChild(failing(own.read), { startImmediately: true })
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.droppedApp, { app: "app" })
          assert.strictEqual(yield* Fiber.join(waiting), "Reset")
          assert.strictEqual(yield* failing(peer.read), "Reset")
          assert.strictEqual(yield* failing(own.write(hello)), "Reset")
          assert.strictEqual(yield* failing(Application.connect(at)), "Closed")
        })
      )
      yield* plain.connect(at)
      yield* listener.accept
    })
  )

  it.effect("a killed thread is the caller's to kill", () =>
    Effect.gen(function* () {
      const killed: Array<string | undefined> = []
      const layer = makeLayer({ kill: (app) => Effect.sync(() => void killed.push(app)) })
      yield* Effect.provide(Effect.scoped(Faults.inject(Faults.threadKilled, { app: "guest" })), layer)
      assert.deepStrictEqual(killed, ["guest"])
      const exit = yield* failing(Effect.provide(Effect.scoped(Faults.inject(Faults.threadKilled)), makeLayer()))
      assert.strictEqual(exit, "InvalidArgument")
    })
  )

  test(
    "a probability is drawn once for each connection, the same for the same seed",
    Effect.gen(function* () {
      yield* Application.listen(at)
      const run = Effect.scoped(
        Effect.gen(function* () {
          yield* Faults.inject(Faults.refuse, { probability: 0.5 })
          return yield* Effect.forEach(Array.from({ length: 40 }), () =>
            failing(Effect.scoped(Application.connect(at)))
          )
        })
      )
      const outcomes = yield* run
      const refused = outcomes.filter((outcome) => outcome === "Refused").length
      assert.isTrue(refused > 8 && refused < 32, `${refused} of 40`)
      const { client } = yield* Effect.map(Application.connect(at), (client) => ({ client }))
      yield* Faults.inject(Faults.latency("1 second"), { probability: 0.5 })
      const times = new Set<number>()
      for (let i = 0; i < 10; i++) times.add(yield* millisOf(client.write(hello)))
      assert.strictEqual(times.size, 1)
    })
  )

  test(
    "no fault lasts longer than the service allows",
    Effect.gen(function* () {
      yield* Faults.inject(Faults.refuse, { for: "1 hour" })
      yield* Faults.inject(Faults.refuse)
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual((yield* Faults.active).length, 2)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Faults.active, [])
    }),
    { maxDuration: "1 minute" }
  )

  test(
    "a plan has times",
    Effect.gen(function* () {
      const running = yield* Effect.forkChild(
        Faults.run([
          { at: "1 second", for: "2 seconds", fault: Faults.refuse },
          { at: "2 seconds", for: "2 seconds", fault: Faults.slice(1), target: { app: "app" } }
        ])
      )
      const seen: Array<string> = []
      for (let second = 0; second < 5; second++) {
        const active = yield* Faults.active
        seen.push(active.map(({ fault, target }) => Faults.format(fault, target)).join(" + "))
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(seen, ["", "Refuse", "Refuse + Slice bytes=1, app=app", "Slice bytes=1, app=app", ""])
      yield* Fiber.join(running)
    })
  )

  test(
    "what is no fault is refused",
    Effect.gen(function* () {
      const wrong: ReadonlyArray<readonly [Faults.Fault, Faults.Target?]> = [
        [Faults.latency(-1)],
        [Faults.latency(Infinity)],
        [Faults.latency(1, { jitter: -1 })],
        [Faults.bandwidth(0)],
        [Faults.bandwidth("much" as never)],
        [Faults.slowClose(Infinity)],
        [Faults.resetAfter(-1)],
        [Faults.slice(0)],
        [Faults.connectionLimit(0.5)],
        [Faults.refuse, { probability: 2 }],
        [Faults.refuse, { for: "soon" as never }]
      ]
      for (const [fault, target] of wrong) {
        assert.strictEqual(
          yield* failing(Faults.inject(fault, target)),
          "InvalidArgument",
          Faults.format(fault, target)
        )
      }
      assert.deepStrictEqual(yield* Faults.active, [])
    })
  )

  it.effect("hit the applications and the memory of a network that was given them", () =>
    Effect.gen(function* () {
      const listening = yield* Layer.build(TestNetwork.host("b"))
      const endpoint = yield* TestNetwork.endpoint("b", 7000)
      const listener = yield* Effect.provideContext(Application.listen(endpoint), listening)
      const client = yield* Layer.build(TestNetwork.host("a"))
      const connect = Effect.provideContext(Effect.scoped(Application.connect(endpoint)), client)
      for (const [fault, target, expected] of [
        [Faults.refuse, { app: "a" }, "Refused"],
        [Faults.refuse, { app: "b" }, "success"],
        [Faults.segmentExhaustion, {}, "AllocFailed"]
      ] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Faults.inject(fault, target)
            assert.strictEqual(yield* failing(connect), expected)
          })
        )
      }
      assert.isDefined(listener)
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.provideMerge(TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" } }), Faults.layer))
    )
  )
  const hosts = TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" } })

  const states = Effect.map(TestNetwork.TestNetwork, ({ getState }) => [getState("a", "b"), getState("b", "a")])

  it.effect("ways between hosts are cut and held, by all faults together", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* states, ["open", "open"])
      const [one, two, three] = [yield* Scope.make(), yield* Scope.make(), yield* Scope.make()]
      yield* Scope.provide(Faults.inject(Faults.hold("a", "b")), one)
      assert.deepStrictEqual(yield* states, ["held", "held"])
      yield* Scope.provide(Faults.inject(Faults.partition("b", "a", { oneWay: true })), two)
      assert.deepStrictEqual(yield* states, ["held", "cut"])
      yield* Scope.provide(Faults.inject(Faults.partition("a", "b")), three)
      assert.deepStrictEqual(yield* states, ["cut", "cut"])
      assert.deepStrictEqual(yield* hits, [1, 1, 1])
      yield* Scope.close(three, Exit.void)
      assert.deepStrictEqual(yield* states, ["held", "cut"])
      yield* Scope.close(one, Exit.void)
      assert.deepStrictEqual(yield* states, ["open", "cut"])
      yield* Scope.close(two, Exit.void)
      assert.deepStrictEqual(yield* states, ["open", "open"])
      yield* Faults.inject(Faults.partition("a", "b"), { probability: 0 })
      assert.deepStrictEqual(yield* states, ["open", "open"])
      yield* Faults.inject(Faults.partition("a", "b"), { for: "1 second" })
      assert.deepStrictEqual(yield* states, ["cut", "cut"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* states, ["open", "open"])
    }).pipe(Effect.scoped, Effect.provide(hosts), Effect.provide(Faults.layer))
  )

  it.effect("a way that is cut before there is a network is cut when there is one", () =>
    Effect.gen(function* () {
      yield* Faults.inject(Faults.hold("a", "b", { oneWay: true }))
      assert.deepStrictEqual(yield* Effect.provide(states, hosts), ["held", "open"])
      yield* Faults.inject(Faults.partition("a", "elsewhere"))
      const error = yield* Effect.flip(Effect.provide(states, hosts))
      assert.include(error.message, "elsewhere")
    }).pipe(Effect.scoped, Effect.provide(Faults.layer))
  )

  it.effect("there is no way to who is not there, nor to oneself", () =>
    Effect.gen(function* () {
      for (const [from, to] of [
        ["a", "elsewhere"],
        ["a", "a"]
      ] as const) {
        const error = yield* Effect.flip(Effect.scoped(Faults.inject(Faults.partition(from, to))))
        assert.strictEqual(error.reason._tag, "InvalidArgument")
      }
      assert.deepStrictEqual(yield* Faults.active, [])
    }).pipe(Effect.scoped, Effect.provide(hosts), Effect.provide(Faults.layer))
  )
})
