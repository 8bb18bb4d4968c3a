/**
 * The whole system under test, as often as you like at once: hosts, an HTTP API, RPC over a network and a worker, and not
 * one port. What is simulated goes through every order of events that a seed can think of.
 */
import { Faults, Simulation } from "@cut-through/testing"
import { extend } from "@cut-through/testing/Vitest"
import { assert, describe, it as base, vi } from "@effect/vitest"
import { Effect, Fiber, Layer, Random } from "effect"
import { HttpServer } from "effect/http"
import { HttpApiClient, HttpApiTest } from "effect/http-api"
import * as TestClock from "effect/testing/TestClock"
import { readdirSync, readlinkSync } from "node:fs"
import { network, shipTooLate, STOCK, system, withWorker } from "./fixtures.ts"
import { Api, handlers, Orders } from "./Orders.ts"
import * as Shipping from "./Shipping.ts"

const it = extend(base)

// All of them at once: they share nothing that there is only one of.
vi.setConfig({ maxConcurrency: 250 })

// Each HTTP server of Effect brings a terminal, which listens to the one standard input that there is.
process.stdin.setMaxListeners(0)

/** Sockets that this process has of its operating system: each test may ask, because none of them ever opens one. */
const sockets = (): number => {
  let count = 0
  for (const fd of process.platform === "linux" ? readdirSync("/proc/self/fd") : []) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:")) count++
    } catch {
      // Closed since it was listed.
    }
  }
  return count
}

/** Handles of servers and connections. */
const handles = (): ReadonlyArray<string> =>
  process.getActiveResourcesInfo().filter((kind) => /^(TCP|UDP|TLS|Pipe.*Server)/.test(kind))

const before = { sockets: sockets(), handles: handles().length }

/** The most there ever were, asked by each test in the middle of what it does. */
const most = { sockets: 0, handles: 0, tests: 0 }
let running = 0
let atOnce = 0

const look = Effect.sync(() => {
  most.sockets = Math.max(most.sockets, sockets())
  most.handles = Math.max(most.handles, handles().length)
})

const counted = <A, E, R>(test: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      most.tests++
      atOnce = Math.max(atOnce, ++running)
    }),
    () => test,
    () => Effect.sync(() => void running--)
  )

/** What the shop says and what the warehouse has are one truth. */
const consistent = Effect.gen(function* () {
  const orders = yield* (yield* Orders).all
  const warehouse = yield* Shipping.Warehouse
  for (const [item, there] of Object.entries(STOCK)) {
    const shipped = orders.reduce(
      (sum, one) => sum + (one.item === item && one.status === "shipped" ? one.amount : 0),
      0
    )
    const left = yield* warehouse.left({ item })
    if (left + shipped !== there)
      return yield* Effect.fail(`of ${there} ${item}, ${left} are left and ${shipped} shipped`)
  }
})

/** Until the worker has decided about an order. */
const decided = (id: number) =>
  Effect.gen(function* () {
    const client = yield* HttpApiClient.make(Api)
    return yield* client.orders.find({ params: { id } }).pipe(
      Effect.tap(() => Effect.yieldNow),
      Effect.repeat({ until: ({ status }) => status !== "waiting" })
    )
  })

describe.concurrent("the system, over HTTP", () => {
  for (let test = 0; test < 120; test++) {
    it.live(`ships what there is, and says what is sold out (${test})`, () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const some = yield* client.orders.place({ payload: { item: "tea", amount: 1 + (test % 10) } })
        const many = yield* client.orders.place({ payload: { item: "coffee", amount: 3 + test } })
        yield* look
        assert.strictEqual((yield* decided(some.id)).status, "shipped")
        assert.strictEqual((yield* decided(many.id)).status, "sold out")
        yield* consistent
        const tooLate = yield* Effect.flip(client.orders.cancel({ params: { id: some.id } }))
        assert.strictEqual((tooLate as { readonly _tag: string })._tag, "Conflict")
        const unknown = yield* Effect.flip(client.orders.find({ params: { id: 77 } }))
        assert.strictEqual((unknown as { readonly _tag: string })._tag, "NotFound")
      }).pipe(Effect.scoped, Effect.provide(system), Effect.provide(network()), counted)
    )
  }
})

describe.concurrent("the system, on the test clock", () => {
  for (let test = 0; test < 60; test++) {
    it.effect(`is two seconds away from the warehouse, and no test waits for it (${test})`, () =>
      Effect.gen(function* () {
        const orders = yield* Orders
        const { id } = yield* orders.place("tea", 1 + (test % 10))
        yield* look
        const checking = yield* Effect.forkChild(
          Effect.gen(function* () {
            while ((yield* orders.all).some(({ status }) => status === "waiting")) yield* Effect.sleep("1 minute")
            yield* consistent
            return (yield* orders.all).find((order) => order.id === id)?.status
          })
        )
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(yield* Fiber.join(checking), "shipped")
      }).pipe(
        Effect.scoped,
        Effect.provide(withWorker(), { local: true }),
        Effect.provide(network({ latency: "2 seconds" })),
        counted
      )
    )
  }
})

/** Customers who change their mind, over the HTTP API: the one of Effect, in memory, with nothing foreign in it. */
const customers = Effect.gen(function* () {
  const client = yield* HttpApiTest.groups(Api, ["orders"])
  const customer = (item: string, amount: number) =>
    Effect.gen(function* () {
      const { id } = yield* client.orders.place({ payload: { item, amount } })
      yield* Effect.sleep(yield* Random.nextIntBetween(0, 2000))
      yield* Effect.ignore(client.orders.cancel({ params: { id } }))
    })
  yield* Effect.all([customer("tea", 4), customer("coffee", 1), customer("tea", 7)], { concurrency: 3 })
  yield* look
  const orders = yield* Orders
  while ((yield* orders.all).some(({ status }) => status === "waiting")) yield* Effect.sleep("1 second")
  // What is on its way when the last one is decided.
  yield* Effect.sleep("1 minute")
  yield* consistent
})

const simulated = (worker?: Parameters<typeof withWorker>[0]) =>
  customers.pipe(
    Effect.scoped,
    Effect.provide(Layer.provideMerge(handlers, withWorker(worker)), { local: true }),
    Effect.provide(HttpServer.layerServices),
    Effect.provide(network({ latency: "20 millis", jitter: "20 millis" }))
  )

describe.concurrent("the system, simulated", () => {
  for (let from = 0; from < 20; from++) {
    it.sim(
      `is consistent whatever happens first, and whatever breaks (seeds from ${from * 10} on)`,
      {
        seed: from * 10,
        runs: 10,
        faults: [
          { fault: Faults.slice(3) },
          { fault: Faults.latency("100 millis", { jitter: "1 second" }) },
          { fault: Faults.stalledReader, target: { probability: 0.5 } }
        ]
      },
      counted(simulated())
    )
  }
})

describe("a worker with a mistake in it", () => {
  /** Somebody cancels when the warehouse's answer is about to come in: who is first depends on who is held up. */
  const race = (worker?: Parameters<typeof withWorker>[0]) =>
    Effect.gen(function* () {
      const orders = yield* Orders
      const { id } = yield* orders.place("tea", 4)
      yield* Effect.sleep("80 millis")
      for (let i = 0; i < 8; i++) yield* Effect.yieldNow
      yield* orders.decide(id, "cancelled")
      yield* Effect.sleep("1 minute")
      yield* consistent
    }).pipe(
      Effect.scoped,
      Effect.provide(withWorker(worker), { local: true }),
      Effect.provide(network({ latency: "20 millis" }))
    )
  const broken = race(Shipping.layerWith(shipTooLate))

  it.sim("is not the one of the system", { runs: 200 }, race())

  it.live("is found out by its seed, and the seed is all it takes to see it again", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Simulation.run(broken, { runs: 1000 }))
      assert.strictEqual(error.why, "of 10 tea, 6 are left and 0 shipped")
      // Most seeds do not show it, and with nobody held up it does not happen.
      assert.isAbove(error.seed, 0)
      assert.isAbove(error.decisions.needed, 0)

      const whole = yield* Effect.flip(Simulation.run(broken, { seed: error.seed, runs: 1, maxShrinks: 0 }))
      assert.isBelow(error.decisions.needed, whole.decisions.needed / 2)

      const seed = Number(/Simulation\.replay\(program, (\d+)\)/.exec(error.message)?.[1])
      const once = yield* Simulation.replay(broken, seed)
      const again = yield* Simulation.replay(broken, seed)
      assert.strictEqual(once.exit?._tag, "Failure")
      assert.strictEqual(once.fingerprint, again.fingerprint)
      assert.deepStrictEqual(once.history, again.history)
    })
  )
})

describe("all of these tests", () => {
  it("ran side by side, and opened nothing", () => {
    assert.isAtLeast(most.tests, 200)
    assert.isAtLeast(atOnce, 100)
    assert.isAtMost(most.sockets, before.sockets)
    assert.isAtMost(most.handles, before.handles)
  })
})
