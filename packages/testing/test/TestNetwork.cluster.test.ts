/** A cluster of several runners: the same program in one session layer, on the hosts of a simulated network, and in simulations of it. */
import { Application, Endpoint, type SessionError } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughCluster, CutThroughNode } from "@cut-through/platform"
import { Faults, Leaks, Simulation, TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Entity from "effect/cluster/Entity"
import * as RunnerAddress from "effect/cluster/RunnerAddress"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Rpc from "effect/rpc/Rpc"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"

// -----------------------------------------------------------------------------
// the program: it knows the addresses, and nothing of what carries it
// -----------------------------------------------------------------------------

const addresses = { one: "10.0.0.1", two: "10.0.0.2", three: "10.0.0.3", storage: "10.0.0.9" }

const storageEndpoint = Endpoint.tcp(addresses.storage, 34_430)

/** Says where it is, and asks others where they are. */
const Place = Entity.make("Place", [
  Rpc.make("Where", { success: Schema.String }),
  Rpc.make("WhereIs", { payload: { id: Schema.String }, success: Schema.String })
])

/** Where each of them is alive. */
class Alive extends Context.Service<Alive, { readonly at: Map<string, string>; readonly twice: Array<string> }>()(
  "test/Alive"
) {
  static readonly layer = Layer.sync(Alive, () => ({ at: new Map(), twice: [] }))
}

const places = Place.toLayer(
  Effect.gen(function* () {
    const { host } = yield* Entity.CurrentRunnerAddress
    const { entityId } = yield* Entity.CurrentAddress
    const { at, twice } = yield* Alive
    const client = yield* Place.client
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const other = at.get(entityId)
        if (other !== undefined) twice.push(`${entityId} at ${other} and ${host}`)
        at.set(entityId, host)
      }),
      () => Effect.sync(() => at.get(entityId) === host && at.delete(entityId))
    )
    return Place.of({
      Where: () => Effect.succeed(host),
      WhereIs: ({ payload }) => Effect.orDie(client(payload.id).Where())
    })
  }),
  { concurrency: "unbounded" }
)

const runner = (host: string) =>
  places.pipe(
    Layer.provideMerge(
      CutThroughCluster.layer({
        storageEndpoint,
        shardingConfig: {
          runnerAddress: Option.some(RunnerAddress.make(host, 34_431)),
          shardsPerGroup: 12,
          refreshAssignmentsInterval: "1 second",
          // It is known to be out of reach long before its locks expire.
          runnerHealthCheckInterval: "5 seconds"
        }
      })
    )
  )

const storage = CutThroughCluster.layerHost({ endpoint: storageEndpoint, scope: "both" })

// -----------------------------------------------------------------------------
// what it runs on
// -----------------------------------------------------------------------------

/** What the machine of this name provides, in production or in a test. */
type Machine<R> = (name: string) => Layer.Layer<Application.Application | SessionLayer, SessionError.SessionError, R>

const start = <R>(machine: Machine<R>, name: keyof typeof addresses) =>
  Layer.build(Layer.fresh(Layer.provide(runner(addresses[name]), machine(name))))

/** Simulations of each kind: a runner's minute is some thousand steps. */
const RUNS = Number(process.env["CUT_THROUGH_CLUSTERS"] ?? 2)

const ids = Array.from({ length: 12 }, (_, i) => `place ${i}`)

/** Where everybody is, as they are found from here. */
const map = Effect.gen(function* () {
  const client = yield* Place.client
  return yield* Effect.forEach(ids, (id) => client(id).Where(), { concurrency: "unbounded" })
})

/** Asks until everybody is at these runners, and each of those has somebody. */
const spreadOver = (...names: ReadonlyArray<keyof typeof addresses>) => {
  const wanted = names
    .map((name) => addresses[name])
    .toSorted()
    .join(" ")
  return Effect.repeat(
    // Who asks somebody whose host is without power waits for ever.
    Effect.timeoutOption(Effect.delay(map, "100 millis"), "10 seconds"),
    { until: (found) => Option.isSome(found) && [...new Set(found.value)].toSorted().join(" ") === wanted }
  ).pipe(Effect.map(Option.getOrThrow))
}

const withStorage = <R>(machine: Machine<R>) => Layer.build(Layer.provide(storage, machine("storage")))

/** Runners come and leave, and entities of one call those of another. */
const comeAndGo = <R>(machine: Machine<R>) =>
  Effect.gen(function* () {
    yield* withStorage(machine)
    const one = yield* start(machine, "one")
    const leaving = yield* Scope.fork(yield* Effect.scope)
    const two = yield* Scope.provide(start(machine, "two"), leaving)
    const found = yield* Effect.provideContext(spreadOver("one", "two"), one)
    const client = yield* Effect.provideContext(Place.client, two)
    const [here, there] = [addresses.one, addresses.two].map((address) => ids[found.indexOf(address)])
    assert.deepStrictEqual(
      [yield* client(here).WhereIs({ id: there }), yield* client(there).WhereIs({ id: here })],
      [addresses.two, addresses.one]
    )
    yield* Scope.close(leaving, Exit.void)
    yield* Effect.provideContext(spreadOver("one"), one)
    const { twice } = yield* Alive
    assert.deepStrictEqual(twice, [])
  }).pipe(Effect.scoped, Effect.provide(Alive.layer, { local: true }))

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const network = (link: TestNetwork.LinkOptions = { latency: "1 millis" }) =>
  TestNetwork.layer({ hosts: addresses, link })

/** On the test clock, which goes on for as long as it takes. */
const timed = <A, E, R>(program: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(program)
    for (let hours = 0; hours < 3600 && fiber.pollUnsafe() === undefined; hours++) {
      yield* TestClock.adjust("1 second")
    }
    assert.isDefined(fiber.pollUnsafe(), "it has not come to an end within an hour")
    return yield* Fiber.join(fiber)
  })

const others = (name: keyof typeof addresses) => Object.keys(addresses).filter((other) => other !== name)

/** What becomes of the entities of a runner that is gone, and how long that takes. */
const lose = (how: "killed" | "without power" | "partitioned") =>
  Effect.gen(function* () {
    const machine = TestNetwork.host
    yield* withStorage(machine)
    const one = yield* start(machine, "one")
    const life = yield* Scope.fork(yield* Effect.scope)
    yield* Scope.provide(start(machine, "two"), life)
    const three = yield* start(machine, "three")
    yield* Effect.provideContext(spreadOver("one", "two", "three"), one)
    const lost = yield* Clock.currentTimeMillis
    if (how !== "killed") yield* Effect.forEach(others("two"), (other) => TestNetwork.partition("two", other))
    if (how !== "partitioned") {
      yield* TestNetwork.kill("two")
      // Nothing that it still tries gets out.
      yield* Scope.close(life, Exit.void)
    }
    yield* Effect.provideContext(spreadOver("one", "three"), one)
    const took = (yield* Clock.currentTimeMillis) - lost
    yield* Effect.provideContext(spreadOver("one", "three"), three)
    if (how === "partitioned") {
      yield* Effect.forEach(others("two"), (other) => TestNetwork.repair("two", other))
      yield* Effect.provideContext(spreadOver("one", "two", "three"), three)
    }
    const { twice } = yield* Alive
    assert.deepStrictEqual(twice, [])
    return took
  }).pipe(Effect.scoped, Effect.provide(Alive.layer, { local: true }))

describe("a cluster", () => {
  it.live("in one session layer, as in production", () =>
    comeAndGo((name) => Layer.merge(Application.layer({ name }), Layer.effect(SessionLayer, SessionLayer))).pipe(
      Effect.provide(Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)),
      quiet
    )
  )

  it.effect("on the hosts of a network", () =>
    timed(comeAndGo(TestNetwork.host)).pipe(Effect.provide(network()), quiet)
  )

  for (const how of ["killed", "without power", "partitioned"] as const) {
    it.effect(`a runner that is ${how}: its entities are elsewhere, and never in two places`, () =>
      Effect.gen(function* () {
        const took = yield* timed(lose(how))
        console.log(`${how}: elsewhere after ${took} ms of the clock`)
        // Not before its locks have expired: it may be at work all the same.
        assert.isAtLeast(took, 25_000)
      }).pipe(Effect.provide(network()), quiet)
    )
  }

  for (const how of ["killed", "without power", "partitioned"] as const) {
    it.effect(`a runner that is ${how}, in whatever order things happen`, () =>
      Effect.gen(function* () {
        const program = lose(how).pipe(Effect.provide(network({ latency: "1 millis", jitter: "5 millis" })), quiet)
        const { histories, steps } = yield* Simulation.run(program, { runs: RUNS, seed: 2 })
        console.log(`${how}: ${histories} histories, ${steps} steps`)
        assert.strictEqual(histories, RUNS)
      })
    )
  }

  it.effect("comes and goes whatever becomes of its connections", () =>
    Effect.gen(function* () {
      const program = comeAndGo(TestNetwork.host).pipe(Effect.provide(network({ jitter: "5 millis" })), quiet)
      const faults = [
        { fault: Faults.latency("100 millis", { jitter: "100 millis" }) },
        { fault: Faults.slice(1) },
        { fault: Faults.refuse },
        { fault: Faults.resetAfter(300) }
      ]
      yield* Simulation.run(program, { runs: 5 * RUNS, faults, horizon: "3 seconds" })
    })
  )

  it.effect("has one history for one seed", () =>
    Effect.gen(function* () {
      const program = comeAndGo(TestNetwork.host).pipe(Effect.provide(network({ jitter: "5 millis" })), quiet)
      const [one, same, other] = yield* Effect.forEach([1, 1, 2], (seed) => Simulation.replay(program, seed))
      assert.isTrue(one.exit !== undefined && Exit.isSuccess(one.exit), one.problem)
      assert.deepStrictEqual(one.history, same.history)
      assert.strictEqual(one.fingerprint, same.fingerprint)
      assert.notStrictEqual(one.fingerprint, other.fingerprint)
    })
  )
})
