import { Application, Endpoint } from "@cut-through/core"
import { Arbitraries, Bytes, Connections, Faults, Simulation, TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** What a property that never holds is shrunk to. */
const smallest = <A>(arbitrary: Arbitrary.Arbitrary<A>, isWanted: (value: A) => boolean = () => true) =>
  Effect.map(
    Arbitrary.checkEffect(arbitrary, (value) => !isWanted(value), { seed: 1 }),
    (result) => (result._tag === "Falsified" ? result.shrunkInput : assert.fail(result._tag))
  )

describe("arbitraries", () => {
  it.effect.prop("endpoints can be listened on and read again", [Arbitraries.endpoint], ([endpoint]) =>
    Effect.sync(() => {
      const text = Endpoint.format(endpoint)
      assert.strictEqual(Endpoint.format(Endpoint.parse(`tcp://${text}`)), text)
    })
  )

  it.effect("endpoints are of both families, and shrink", () =>
    Effect.gen(function* () {
      const sample = yield* Arbitrary.sampleEffect(Arbitraries.endpoint, { count: 100, seed: 1 })
      for (const start of ["127.0.0.", "10.0.0.", "[::1]", "[fd00::"]) {
        assert.isTrue(
          sample.some((endpoint) => Endpoint.format(endpoint).startsWith(start)),
          start
        )
      }
      assert.strictEqual(Endpoint.format(yield* smallest(Arbitraries.endpoint)), "127.0.0.1:0")
    })
  )

  it.effect.prop("a network takes every link", [Arbitraries.link], ([link]) =>
    Effect.scoped(TestNetwork.make({ hosts: { a: "10.0.0.1" }, link }))
  )

  it.effect("a schedule shrinks to the one thing that matters, as early as can be", () =>
    Effect.gen(function* () {
      const schedule = Arbitraries.schedule(Arbitrary.schema(Schema.Literals(["partition", "repair"])))
      const found = yield* smallest(schedule, (all) => all.some(({ at, what }) => what === "partition" && at >= 1000))
      assert.deepStrictEqual(found, [{ at: 1000, what: "partition" }])
    })
  )

  it.effect.prop("every fault can be injected", [Arbitraries.fault], ([fault]) =>
    Effect.scoped(Faults.inject(fault)).pipe(Effect.provide(Faults.layer))
  )

  const hosts = ["a", "b", "c"]
  const network = TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2", c: "10.0.0.3" } })

  it.effect.prop("so can every fault of the ways between hosts", [Arbitraries.linkFault(hosts)], ([fault]) =>
    Effect.gen(function* () {
      yield* Faults.inject(fault)
      assert.strictEqual((yield* Faults.active)[0].hits, 1)
    }).pipe(Effect.scoped, Effect.provide(network), Effect.provide(Faults.layer))
  )

  it.effect("a plan in which hosts lose each other shrinks to the shortest time that matters", () =>
    Effect.gen(function* () {
      const sample = yield* Arbitrary.sampleEffect(Arbitraries.faultPlan({ hosts }), { count: 100, seed: 1 })
      const seen = new Set(sample.flat().map(({ fault }) => fault._tag))
      for (const tag of ["Partition", "Hold", "Latency"]) assert.isTrue(seen.has(tag as Faults.Fault["_tag"]), tag)
      const found = yield* smallest(Arbitraries.faultPlan({ hosts }), (plan) =>
        plan.some((step) => step.fault._tag === "Partition" && Number(step.for) >= 500)
      )
      assert.deepStrictEqual(found, [{ at: 0, for: 500, fault: Faults.partition("a", "b") }])
    })
  )

  it.effect("plans keep to what they were given, and shrink to none", () =>
    Effect.gen(function* () {
      const plans = Arbitraries.faultPlan({
        faults: [{ fault: Faults.slice(1), target: { endpoint: 7000 } }],
        horizon: 100,
        longest: 50,
        maxLength: 2
      })
      const millis = (input: Duration.Input) => Duration.toMillis(Duration.fromInputUnsafe(input))
      const sample = yield* Arbitrary.sampleEffect(plans, { count: 50, seed: 1 })
      assert.isTrue(sample.some((plan) => plan.length === 2))
      for (const step of sample.flat()) {
        assert.deepStrictEqual(step.target, { endpoint: 7000 })
        assert.isAtMost(millis(step.at), 100)
        assert.isAtMost(millis(step.for), 50)
      }
      assert.deepStrictEqual(yield* smallest(plans), [])
    })
  )

  it.effect.prop(
    "whatever link and faults there are, bytes that arrive are the right ones",
    { link: Arbitraries.link, plan: Arbitraries.faultPlan({ hosts: ["a", "b"] }) },
    ({ link, plan }) =>
      Simulation.run(
        Effect.gen(function* () {
          yield* Effect.forkScoped(Faults.run(plan))
          const talk = Effect.gen(function* () {
            const { address } = yield* TestNetwork.on(
              "b",
              Connections.echoServer(yield* TestNetwork.endpoint("b", 7000))
            )
            const connection = yield* TestNetwork.on("a", Application.connect(address))
            yield* connection.write(Bytes.pattern(3000))
            Bytes.assertPattern(yield* Connections.readExactly(connection, 3000))
          })
          // A fault may keep it from coming to an end, and never from telling the truth.
          yield* Effect.ignore(Effect.timeout(talk, "1 hour"))
        }).pipe(Effect.scoped, Effect.provide(TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" }, link }))),
        { runs: 2 }
      ),
    { arbitrary: { runs: 40 } }
  )
})
