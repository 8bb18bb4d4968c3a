import { Application } from "@cut-through/core"
import { Faults, Simulation, TestNetwork } from "@cut-through/testing"
import { extend } from "@cut-through/testing/Vitest"
import { assert, describe, it as base } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { execFile, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { createSocket } from "node:dgram"
import { lookup } from "node:dns"
import { existsSync, readFileSync, rmSync, stat } from "node:fs"
import { connect, createServer } from "node:net"
import { dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Worker } from "node:worker_threads"
import { fingerprints, network, sessions, wakeUps } from "./simulation-fixtures.ts"

const it = extend(base)

/** What is lost when the other one comes in between. */
const deposits = Effect.gen(function* () {
  const balance = yield* Ref.make(0)
  const deposit = Effect.gen(function* () {
    const before = yield* Ref.get(balance)
    yield* Effect.sleep("1 second")
    yield* Ref.set(balance, before + 10)
  })
  yield* Effect.all([deposit, Effect.delay(deposit, "1 second")], { concurrency: 2 })
  const sum = yield* Ref.get(balance)
  if (sum !== 20) return yield* Effect.fail(new Error(`the balance is ${sum}`))
})

/** Somebody else's, which has come true long ago. */
const elsewhere = Promise.resolve()

const failureOf = <A, E>(program: Effect.Effect<A, E, any>, options?: Simulation.Options) =>
  Effect.flip(Simulation.run(program, options))

describe("Simulation", () => {
  base.effect("finds an order of events that a plain run never sees, and says how to see it again", () =>
    Effect.gen(function* () {
      yield* Effect.provide(
        Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(deposits)
          yield* TestClock.adjust("1 minute")
          yield* Fiber.join(fiber)
        }),
        TestClock.layer(),
        { local: true }
      )
      const error = yield* failureOf(deposits, { runs: 1000 })
      assert.strictEqual(error.why, "Error: the balance is 10")
      assert.include(error.message, `seed ${error.seed} fails: Error: the balance is 10`)
      assert.include(error.message, `Simulation.replay(program, ${error.seed})`)
      assert.isDefined(error.failure)
      // One decision is enough: the second deposit is first when both wake up.
      assert.strictEqual(error.decisions.needed, 1)
      assert.isAbove(error.decisions.of, 1)
      assert.isTrue(error.history.some((line) => line.startsWith("1000 ms: task 2 of 2 is next")))
      const again = yield* Simulation.replay(deposits, error.seed)
      assert.isTrue(again.exit !== undefined && Exit.isFailure(again.exit))
      const same = yield* failureOf(deposits, { seed: error.seed, runs: 1 })
      assert.deepStrictEqual(same.history, error.history)
    })
  )

  for (const [kind, program] of Object.entries(wakeUps)) {
    base.effect(`the seed decides who is first: ${kind}`, () =>
      Effect.gen(function* () {
        const orders = new Set<string>()
        const histories = new Set<string>()
        for (let seed = 0; seed < 100; seed++) {
          const { exit, fingerprint, history } = yield* Simulation.replay(program, seed)
          const again = yield* Simulation.replay(program, seed)
          assert.deepStrictEqual(again.history, history)
          assert.strictEqual(again.fingerprint, fingerprint)
          assert.isTrue(exit !== undefined && Exit.isSuccess(exit))
          if (exit !== undefined && Exit.isSuccess(exit)) orders.add(exit.value)
          histories.add(fingerprint)
        }
        assert.deepStrictEqual([...orders].toSorted(), ["abc", "acb", "bac", "bca", "cab", "cba"])
        assert.isAbove(histories.size, 10)
      })
    )
  }

  base.effect("a history is the same on every version of Node", () =>
    Effect.gen(function* () {
      // Of nothing but Effect. Whoever changes what is written down, or the version of Effect, changes these.
      const found = yield* Effect.forEach([0, 1, 2, 3], (seed) => Simulation.replay(wakeUps["Queue"], seed))
      assert.deepStrictEqual(
        found.map(({ fingerprint }) => fingerprint),
        ["b865a28e", "738b87c2", "4552e97c", "cec567b5"]
      )
    })
  )

  base.live(
    "200 seeds are the same 200 histories in another process",
    () =>
      Effect.gen(function* () {
        const program = fileURLToPath(new URL("simulation-process.ts", import.meta.url))
        const child = Effect.promise(() =>
          promisify(execFile)(process.execPath, ["--conditions=@cut-through/source", program], { maxBuffer: 2 ** 24 })
        )
        const [one, other] = yield* Effect.all([child, child], { concurrency: 2 })
        const found: ReadonlyArray<string> = JSON.parse(one.stdout)
        assert.strictEqual(found.length, 200)
        assert.deepStrictEqual(JSON.parse(other.stdout), found)
        assert.isTrue(found.every((line) => line.startsWith("Success ")))
        assert.deepStrictEqual(yield* fingerprints, [...found])
        assert.isAbove(new Set(found).size, 190)
      }),
    // 1,800 runs in three processes, on a machine that may be busy.
    300_000
  )

  it.sim("sessions of one host, under many orders of events", { runs: 300 }, sessions)

  it.sim("connections between hosts, under many orders of events", { runs: 200 }, network)

  base.effect("what is random is the seed's, and so is the time", () =>
    Effect.gen(function* () {
      const before = { random: Math.random, dateNow: Date.now, now: performance.now }
      const program = Effect.gen(function* () {
        yield* Effect.sleep("1000000 seconds")
        yield* TestClock.adjust("1 millis")
        return [
          yield* Random.next,
          yield* Random.nextIntBetween(0, 1_000_000),
          Math.random(),
          Date.now(),
          performance.now(),
          yield* Clock.currentTimeMillis
        ]
      })
      const runs = yield* Effect.forEach([7, 7, 8], (seed) => Simulation.replay(program, seed))
      const [once, again, other] = runs.map(({ exit }) =>
        exit !== undefined && Exit.isSuccess(exit) ? exit.value : assert.fail("it has failed")
      )
      assert.deepStrictEqual(once, again)
      for (const at of [0, 1, 2]) assert.notStrictEqual(once[at], other[at])
      assert.deepStrictEqual(once.slice(3), [1_000_000_001, 1_000_000_001, 1_000_000_001])
      assert.strictEqual(Math.random, before.random)
      assert.strictEqual(Date.now, before.dateNow)
      assert.strictEqual(performance.now, before.now)
    })
  )

  const foreign: ReadonlyArray<readonly [what: string, how: string, start: () => unknown]> = [
    ["a promise", "made", () => Promise.resolve()],
    ["a promise", "of somebody else, waited for", () => elsewhere.then(() => {})],
    ["a promise", "of an async function", () => (async () => {})()],
    ["a promise", "of import()", () => import("node:path")],
    ["a promise", "of Atomics.waitAsync", () => Atomics.waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)],
    ["a timer (setTimeout or setInterval)", "setTimeout", () => clearTimeout(setTimeout(() => {}, 1000))],
    ["a timer (setTimeout or setInterval)", "setInterval", () => clearInterval(setInterval(() => {}, 1000))],
    ["a timer (setTimeout or setInterval)", "AbortSignal.timeout", () => AbortSignal.timeout(1)],
    ["an immediate (setImmediate)", "setImmediate", () => clearImmediate(setImmediate(() => {}))],
    ["a microtask (queueMicrotask)", "queueMicrotask", () => queueMicrotask(() => {})],
    ["a tick (process.nextTick)", "process.nextTick", () => process.nextTick(() => {})],
    ["a message port (MESSAGEPORT)", "MessageChannel", () => new MessageChannel().port1.close()],
    ["a message port (MESSAGEPORT)", "BroadcastChannel", () => new BroadcastChannel("simulation").close()],
    ["a thread (WORKER)", "Worker", () => new Worker("", { eval: true }).unref()],
    ["a TCP server (TCPSERVERWRAP)", "net.Server", () => createServer().listen(0).close()],
    [
      "a TCP socket (TCPWRAP)",
      "net.Socket",
      () =>
        connect(1, "127.0.0.1")
          .on("error", () => {})
          .destroy()
    ],
    ["a UDP socket (UDPWRAP)", "dgram.Socket", () => createSocket("udp4").close()],
    ["a file operation (FSREQCALLBACK)", "fs.stat", () => stat("/", () => {})],
    ["a look-up of a name (GETADDRINFOREQWRAP)", "dns.lookup", () => lookup("localhost", () => {})],
    ["a process (PROCESSWRAP)", "spawn", () => spawn(process.execPath, ["--version"]).unref()],
    ["random bytes (RANDOMBYTESREQUEST)", "crypto.randomBytes", () => randomBytes(1, () => {})]
  ]
  for (const [what, how, start] of foreign) {
    base.effect(`has no power over ${what}, and says where it was started: ${how}`, () =>
      Effect.gen(function* () {
        const program = Effect.delay(
          Effect.sync(() => void start()),
          "1 second"
        )
        const error = yield* failureOf(program, { runs: 1 })
        assert.include(error.why, `it has started ${what}, which a simulation has no power over, at `)
        assert.include(error.why, "Simulation.test.ts")
        // It is over: what happens now is nobody's fault.
        yield* Effect.promise(() => Promise.resolve())
        yield* Simulation.run(Effect.sleep("1 second"), { runs: 1 })
      })
    )
  }

  base.effect("has no power over what Effect waits for outside", () =>
    Effect.gen(function* () {
      for (const program of [Effect.promise(() => elsewhere), Effect.tryPromise(() => elsewhere)]) {
        const { why } = yield* failureOf(Effect.all([program, program], { concurrency: 2 }), { runs: 1 })
        assert.include(why, "it has started a promise, which a simulation has no power over, at ")
      }
    })
  )

  base.effect("says so when it does not fail a second time", () =>
    Effect.gen(function* () {
      let runs = 0
      const program = Effect.suspend(() => (++runs === 5 ? Effect.fail("only once") : Effect.void))
      const error = yield* failureOf(program, { runs: 10 })
      assert.strictEqual(error.seed, 4)
      assert.strictEqual(
        error.why,
        "only once, but not a second time: it depends on something that outlives a run, or that no seed decides"
      )
    })
  )

  base.effect("errors have no stack traces, except in the run that is shown", () =>
    Effect.gen(function* () {
      const before = Error.stackTraceLimit
      const lines: Array<number> = []
      const program = Effect.suspend(() => {
        const error = new Error("it has failed")
        lines.push(error.stack?.split("\n").length ?? 0)
        return Effect.fail(error)
      })
      yield* failureOf(program, { runs: 1 })
      assert.strictEqual(lines[0], 1)
      assert.isAbove(lines.at(-1)!, 1)
      assert.strictEqual(Error.stackTraceLimit, before)
    })
  )

  base.effect("a program that waits for ever, goes round in a circle, or leaves somebody behind", () =>
    Effect.gen(function* () {
      const finalized: Array<string> = []
      const waiting = Effect.onInterrupt(Effect.never, () => Effect.sync(() => finalized.push("stuck")))
      const stuck = yield* failureOf(waiting, { runs: 1 })
      assert.include(stuck.why, "1 fibers wait, and nothing will ever happen again")
      assert.isNotEmpty(finalized)
      const endless = yield* failureOf(Effect.forever(Effect.sleep("1 second")), { runs: 1, maxSteps: 1000 })
      assert.include(endless.why, "it has not come to an end after 1000 steps")
      const left = yield* failureOf(Effect.forkDetach(Effect.never), { runs: 1 })
      assert.include(left.why, "1 fibers have not ended with the program")
      yield* Simulation.run(Effect.forkScoped(Effect.never), { runs: 10 })
    })
  )

  base.effect("counts what it has covered", () =>
    Effect.gen(function* () {
      const report = yield* Simulation.run(wakeUps["sleep"], { seed: 1000, runs: 50 })
      assert.strictEqual(report.runs, 50)
      assert.isAbove(report.steps, 50)
      assert.isAbove(report.histories, 5)
    })
  )

  base.effect("what is logged and printed is part of the history", () =>
    Effect.gen(function* () {
      const program = Effect.andThen(Effect.sleep("1 second"), Effect.log("the program says this"))
      const { history } = yield* Simulation.replay(program, 0)
      assert.isTrue(
        history.some((line) => line.startsWith("1000 ms: console.") && line.includes("the program says this"))
      )
    })
  )

  /** Works as long as no fault is in the way. */
  const overNetwork = Effect.gen(function* () {
    const server = yield* Layer.build(TestNetwork.host("b"))
    const client = yield* Layer.build(TestNetwork.host("a"))
    const endpoint = yield* TestNetwork.endpoint("b", 7000)
    const listener = yield* Effect.provideContext(Application.listen(endpoint), server)
    yield* Effect.forkScoped(
      listener.run((connection) => Effect.forever(Effect.flatMap(connection.read, connection.write)))
    )
    const connection = yield* Effect.provideContext(Application.connect(endpoint), client)
    for (let i = 0; i < 10; i++) {
      yield* Effect.sleep("1 second")
      yield* connection.write(Uint8Array.of(1, 2, 3))
      yield* connection.read
    }
  })
  const faulty = Effect.flatMap(Faults.Faults, (faults) =>
    Effect.provide(
      Effect.scoped(overNetwork),
      Layer.provide(
        TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" } }),
        Layer.succeed(Faults.Faults, faults)
      )
    )
  )
  const faults = [
    { fault: Faults.latency("100 millis", { jitter: "100 millis" }) },
    { fault: Faults.slice(1) },
    { fault: Faults.droppedApp, target: { app: "a" } }
  ]

  base.effect("leaves out the faults that it does not take", () =>
    Effect.gen(function* () {
      yield* Simulation.run(faulty, { runs: 30, faults: faults.slice(0, 1) })
      const error = yield* failureOf(faulty, { runs: 100, faults })
      assert.strictEqual(error.why.split(":")[0], "SessionError")
      assert.deepStrictEqual(
        error.faults.map(({ fault }) => fault._tag),
        ["DroppedApp"]
      )
      assert.strictEqual(error.decisions.needed, 0)
      assert.include(error.message, "DroppedApp, app=a from ")
      const replayed = yield* Simulation.replay(faulty, error.seed, { faults })
      assert.include(
        replayed.faults.map(({ fault }) => fault._tag),
        "DroppedApp"
      )
      assert.isTrue(error.history.some((line) => line.includes("a to b: connect 10.0.0.1:49152->10.0.0.2:7000")))
    })
  )

  /** Asks every second, and expects an answer within two. */
  const asking = Effect.gen(function* () {
    const endpoint = yield* TestNetwork.endpoint("b", 7000)
    const listener = yield* TestNetwork.on("b", Application.listen(endpoint))
    yield* Effect.forkScoped(
      listener.run((connection) => Effect.forever(Effect.flatMap(connection.read, connection.write)))
    )
    const connection = yield* TestNetwork.on("a", Application.connect(endpoint))
    for (let i = 0; i < 10; i++) {
      yield* Effect.sleep("1 second")
      yield* connection.write(Uint8Array.of(1, 2, 3))
      const answer = yield* Effect.timeoutOption(connection.read, "2 seconds")
      if (Option.isNone(answer)) return yield* Effect.fail(new Error("no answer"))
    }
    return yield* TestNetwork.history
  }).pipe(
    Effect.scoped,
    Effect.provide(
      TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2", c: "10.0.0.3" }, link: { latency: "10 millis" } })
    )
  )

  const links = [
    { fault: Faults.partition("a", "b") },
    { fault: Faults.hold("a", "b", { oneWay: true }) },
    { fault: Faults.partition("a", "c") },
    { fault: Faults.hold("b", "c") },
    { fault: Faults.slice(1) }
  ]

  for (const [kind, { fault }] of Object.entries({ Partition: links[0], Hold: links[1] })) {
    base.effect(`hosts lose each other by plan, and it is the least that it takes: ${kind}`, () =>
      Effect.gen(function* () {
        const faults = [{ fault }, ...links.slice(2)]
        const error = yield* failureOf(asking, { runs: 200, faults })
        assert.strictEqual(error.why, "Error: no answer")
        assert.deepStrictEqual(
          error.faults.map(({ fault }) => fault),
          [fault]
        )
        // One that begins at once and takes half as long would not be enough.
        const [{ at, for: time }] = error.faults
        assert.isAtMost(Number(at), 10_000)
        assert.isAbove(Number(time), 1000)
        assert.isAtMost(Number(time), 4500)
        assert.strictEqual(error.decisions.needed, 0)
        assert.include(error.message, Faults.format(fault))
        // The seed's own plan, whole, twice.
        const [one, two] = yield* Effect.all([
          Simulation.replay(asking, error.seed, { faults }),
          Simulation.replay(asking, error.seed, { faults })
        ])
        assert.deepStrictEqual(two.history, one.history)
        assert.deepStrictEqual(two.faults, one.faults)
        assert.include(
          one.faults.map(({ fault }) => fault),
          fault
        )
        assert.isTrue(one.exit !== undefined && Exit.isFailure(one.exit))
        if (kind === "Partition") assert.isTrue(error.history.some((line) => line.includes("a to b: lost 3 bytes")))
      })
    )
  }

  base.effect("hosts that lose each other for a short time find each other again", () =>
    Effect.gen(function* () {
      // A fault is over within a second, and TCP sends again what was lost.
      const short = links.map(({ fault }) => ({ fault, target: { for: "1 second" as const } }))
      const { histories } = yield* Simulation.run(asking, { runs: 100, faults: short })
      assert.isAbove(histories, 50)
      const lost = yield* Effect.forEach(Array.from({ length: 20 }), (_, seed) =>
        Effect.map(Simulation.replay(asking, seed, { faults: short.slice(0, 1) }), ({ exit }) =>
          exit !== undefined && Exit.isSuccess(exit)
            ? exit.value.filter(({ what }) => what.startsWith("lost")).length
            : 0
        )
      )
      assert.isAbove(Math.max(...lost), 0)
    })
  )

  base.effect("one run leaves nothing for the next", () =>
    Effect.gen(function* () {
      let open = 0
      const program = Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.sync(() => open++),
          () =>
            Effect.delay(
              Effect.sync(() => open--),
              "1 second"
            )
        )
        const gate = yield* Deferred.make<void>()
        yield* Effect.forkScoped(Effect.delay(Deferred.succeed(gate, undefined), "1 minute"))
        yield* Deferred.await(gate)
        return yield* Effect.fail("too bad")
      })
      yield* failureOf(program, { runs: 1 })
      assert.strictEqual(open, 0)
    })
  )

  base.effect("it.sim fails with the seed, and keeps the whole history", () =>
    Effect.gen(function* () {
      const tests: Array<readonly [string, () => Promise<void>]> = []
      const { sim } = extend((name: string, test: () => Promise<void>) => void tests.push([name, test]))
      sim("two deposits", { runs: 1000 }, deposits)
      sim("two sleepers", { runs: 10 }, wakeUps["sleep"])
      assert.deepStrictEqual(
        tests.map(([name]) => name),
        ["two deposits", "two sleepers"]
      )
      yield* Effect.promise(tests[1][1])
      const exit = yield* Effect.exit(Effect.tryPromise({ try: tests[0][1], catch: (error) => error as Error }))
      const error = Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error) : assert.fail("it has not failed")
      assert.include(error.message, "fails: Error: the balance is 10")
      const file = /the whole history is in (.*)$/.exec(error.message)?.[1] ?? ""
      assert.isTrue(existsSync(file))
      assert.include(readFileSync(file, "utf8"), "task 2 of 2 is next")
      rmSync(dirname(file), { recursive: true })
    })
  )

  base.effect("it.sim leaves what the other it has", () =>
    Effect.sync(() => {
      assert.strictEqual(it.effect, base.effect)
      assert.strictEqual(it.live, base.live)
    })
  )
})
