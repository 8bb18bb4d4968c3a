/** Random programs over random networks: whatever happens, bytes come once and in order, or an error says why not, and nothing is left. */
import { Application, type Connection, type Endpoint, type SessionError } from "@cut-through/core"
import { Faults, TestNetwork } from "@cut-through/testing"
import { extend } from "@cut-through/testing/Vitest"
import { describe, it as base } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"

const it = extend(base)

const patternAt = (position: number): number => (position * 31 + (position >>> 8)) & 0xff

const pick = <A>(values: ReadonlyArray<A>) =>
  Effect.map(Random.nextIntBetween(0, values.length - 1), (at) => values[at])

const pause = Effect.flatMap(Random.nextIntBetween(0, 200), (millis) => Effect.sleep(millis))

/** Writes a pattern in pieces, ends, and waits now and then. */
const write = (connection: Connection.Connection, bytes: number) =>
  Effect.gen(function* () {
    for (let at = 0; at < bytes;) {
      const length = Math.min(bytes - at, yield* Random.nextIntBetween(1, 5000))
      yield* connection.write(Uint8Array.from({ length }, (_, i) => patternAt(at + i)))
      at += length
      if (yield* Random.nextBoolean) yield* pause
    }
    yield* connection.end
    return bytes
  })

/** Reads a pattern to its end; a byte that is not where it belongs is a defect. */
const read = (connection: Connection.Connection) =>
  Effect.gen(function* () {
    let at = 0
    const buffer = new Uint8Array(yield* Random.nextIntBetween(1, 10_000))
    while (true) {
      const count = yield* Effect.catchIf(
        connection.readInto(buffer),
        (error): error is Cause.Done => error._tag === "Done",
        () => Effect.succeed(-1)
      )
      if (count < 0) return at
      for (let i = 0; i < count; i++) {
        if (buffer[i] !== patternAt(at + i))
          return yield* Effect.die(new Error(`byte ${at + i} is not where it belongs`))
      }
      at += count
      if ((yield* Random.nextIntBetween(0, 3)) === 0) yield* pause
    }
  })

/** What may go wrong on a network that is cut and slow. */
const expected = new Set(["Reset", "TimedOut", "Refused", "BrokenPipe", "AllocFailed", "Closed"])

const tolerate = <A, R>(
  effect: Effect.Effect<A, SessionError.SessionError, R>
): Effect.Effect<A | undefined, never, R> =>
  Effect.catch(effect, (error) => (expected.has(error.reason._tag) ? Effect.succeed(undefined) : Effect.die(error)))

const talk = (endpoint: Endpoint.Endpoint) =>
  Effect.gen(function* () {
    const connection = yield* Application.connect(endpoint)
    const size = yield* Random.nextIntBetween(0, 10_000)
    const [sent, got] = yield* Effect.all([write(connection, size), read(connection)], { concurrency: 2 })
    // It has come back as a whole: the server echoes.
    if (sent !== got) return yield* Effect.die(new Error(`${sent} bytes were sent, and ${got} came back`))
  })

const echo = (connection: Connection.Connection) =>
  Effect.gen(function* () {
    while (true) {
      const bytes = yield* Effect.catchIf(
        connection.read,
        (error): error is Cause.Done => error._tag === "Done",
        () => Effect.succeed(undefined)
      )
      if (bytes === undefined) return yield* connection.end
      yield* connection.write(bytes)
    }
  })

const hosts = { a: "10.0.0.1", b: "10.0.0.2", c: "10.0.0.3" }

/** Cuts, mends, holds and releases for a while, and leaves everything open. */
const weather = Effect.gen(function* () {
  for (let i = 0; i < 6; i++) {
    const from = yield* pick(["a", "b", "c"])
    const to = yield* pick(["a", "b", "c"].filter((name) => name !== from))
    const oneWay = yield* Random.nextBoolean
    const change = yield* pick([TestNetwork.partition, TestNetwork.hold])
    yield* change(from, to, { oneWay })
    yield* pause
    yield* TestNetwork.release(from, to, { oneWay })
    yield* TestNetwork.repair(from, to, { oneWay })
    yield* pause
  }
})

const program = (hasWeather: boolean) =>
  Effect.gen(function* () {
    const link = {
      latency: yield* pick([0, 1, 30]),
      jitter: yield* pick([0, 20]),
      bandwidth: yield* pick([Infinity, 100_000]),
      loss: yield* pick([0, 0.1])
    }
    const sizes = {
      rxFifoSize: yield* pick([200, 1000, 4096, 65_536]),
      txFifoSize: yield* pick([300, 1000, 4096, 65_536])
    }
    yield* Effect.gen(function* () {
      const server = yield* Layer.build(TestNetwork.host("b", sizes))
      const endpoint = yield* TestNetwork.endpoint("b", 7000)
      const listener = yield* Effect.provideContext(Application.listen(endpoint), server)
      yield* Effect.forkScoped(listener.run((connection) => Effect.asVoid(tolerate(echo(connection)))))
      const clients = yield* Effect.forEach(["a", "b", "c"], (host) => Layer.build(TestNetwork.host(host, sizes)))
      if (hasWeather) yield* Effect.forkScoped(Effect.orDie(weather))
      yield* Effect.forEach(
        clients,
        (client) => {
          const run = Effect.provideContext(talk(endpoint), client) as Effect.Effect<
            void,
            SessionError.SessionError,
            Scope.Scope
          >
          return Effect.scoped(
            hasWeather ? tolerate(Effect.timeoutOrElse(run, { duration: "1 hour", orElse: () => Effect.void })) : run
          )
        },
        { concurrency: 3 }
      )
    }).pipe(Effect.scoped, Effect.provide(TestNetwork.layer({ hosts, link, connectTimeout: "1 minute" })))
  })

describe("TestNetwork", () => {
  it.sim("carries everything, through tiny FIFOs and over bad lines", { runs: 200 }, program(false))

  it.sim("comes to an end in any weather, and nothing is left", { runs: 200, seed: 10_000 }, program(true))

  it.sim(
    "so it does with faults",
    {
      runs: 100,
      seed: 20_000,
      horizon: "2 seconds",
      faults: [
        { fault: Faults.resetAfter(5000) },
        { fault: Faults.slice(3) },
        { fault: Faults.latency("10 millis", { jitter: "50 millis" }), target: { probability: 0.5 } },
        { fault: Faults.bandwidth(50_000) },
        { fault: Faults.slowClose("1 second") },
        { fault: Faults.stalledReader, target: { app: "b" } },
        { fault: Faults.refuse, target: { probability: 0.3 } },
        { fault: Faults.connectionLimit(1) },
        { fault: Faults.segmentExhaustion },
        { fault: Faults.droppedApp, target: { app: "a" } }
      ]
    },
    Effect.flatMap(Faults.Faults, (faults) => Effect.provideService(program(true), Faults.Faults, faults))
  )
})
