/** Threads die in every way and at every moment; those who are left see it, and go on. */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as Segments from "@cut-through/core/Segments"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { MessageChannel } from "node:worker_threads"
import { COUNTERS, type Death, deaths, type Ports, type Seen, witness } from "./life-deaths.ts"
import { atRest, layerHost, startThread, type Thread } from "./life-fixtures.ts"
import { drain, talkOver, until, writeBytes } from "./life-talk.ts"

/** A thread that lives on. */
class Survivor extends Context.Service<Survivor, Thread>()("Survivor") {}
const layerSurvivor = Layer.effect(Survivor, startThread())

const ofHost = Effect.map(CutThroughHost.CutThroughHost, (host) => host.stats())

/** Half a megabyte to a server and back. */
const talkTo = (port: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
      const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 500_000), connection.end))
      assert.deepStrictEqual(yield* drain(connection), { how: "end", bytes: 500_000, received: undefined })
      yield* Fiber.join(writing)
    })
  )

const exitCodes: { readonly [how in Death]: number } = {
  "process.exit": 3,
  throw: 1,
  "unhandled rejection": 1,
  terminate: 1,
  "terminate in a loop": 1
}

/** What they saw, who were connected with a thread that has died. */
const assertSeen = (seen: Seen, counters: Int32Array): void => {
  for (const [index, end] of [seen.idle, seen.busy].entries()) {
    // All that it had written before, and nothing but a part of the piece that it was just writing.
    const written = Atomics.load(counters, index)
    assert.strictEqual(end.how, "PeerDied")
    assert.strictEqual(end.received, end.bytes)
    assert.isAtLeast(end.bytes, written)
    assert.isAtMost(end.bytes, written + 1000)
  }
  assert.deepStrictEqual([seen.big.how, seen.big.received], ["PeerDied", seen.big.bytes])
  assert.strictEqual(seen.unread, "PeerDied")
  assert.deepStrictEqual(seen.unaccepted, { how: "PeerDied", bytes: 0, received: 0 })
  assert.deepStrictEqual(
    [seen.echoed.how, seen.echoed.received, seen.unechoed],
    ["PeerDied", seen.echoed.bytes, "PeerDied"]
  )
  assert.deepStrictEqual(seen.late, { how: "PeerDied", bytes: 1000, received: 1000 })
  assert.match(seen.unanswered, /refused the connection: its application has died/)
  assert.strictEqual(seen.question, "Reset")
}

const runs = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  effect.pipe(
    Effect.scoped,
    Effect.provide(Application.layer({ name: "here" })),
    Effect.tap(atRest()),
    Effect.provide(layerHost)
  )

layer(layerSurvivor, { excludeTestServices: true })("a thread dies", (it) => {
  const dies = (how: Death, depth: number) =>
    Effect.gen(function* () {
      const survivor = yield* Survivor
      const thread = yield* startThread()
      const counters = [0, 1].map(() => new Int32Array(new SharedArrayBuffer(4 * COUNTERS)))
      const { port1, port2 } = new MessageChannel()
      const talks = [talkOver(port1), yield* survivor.run("witness")]
      const here = yield* Effect.forkChild(witness(talkOver(port2), true))
      const witnesses: ReadonlyArray<Ports> = yield* Effect.forEach(talks, (talk) => talk.hear)
      const doomed = yield* thread.run("doomed", { witnesses, counters }, { depth })
      const ports: Ports = yield* doomed.hear
      for (const talk of talks) {
        yield* talk.say(ports)
        assert.strictEqual(yield* talk.hear, "ready")
      }
      // In the middle of it: the one that nobody reads is full, the other one flows.
      yield* until(() =>
        counters.every((words) => Atomics.load(words, 0) > 100_000 && Atomics.load(words, 1) > 1_000_000)
      )
      assert.strictEqual((yield* ofHost).guests, 2)
      assert.isFalse((yield* Segments.stats).segments.some(({ condemned }) => condemned))

      yield* doomed.say(how)
      if (how.startsWith("terminate")) yield* thread.terminate
      const seen = yield* Fiber.join(here)
      const seenThere: Seen = yield* (talks[1] as Effect.Success<ReturnType<Thread["run"]>>).result
      assertSeen(seen, counters[0])
      assertSeen(seenThere, counters[1])
      assert.deepStrictEqual(seen.ports, ["NoRoute", "free", "NoRoute", "free"])
      if (depth === 0) assert.strictEqual(yield* thread.exit, exitCodes[how])
      assert.strictEqual(yield* doomed.outcome, "died")
      assert.strictEqual((yield* ofHost).lost, 1)
      port1.close()

      // The others go on, also with memory that the dead had mapped.
      const serving = yield* survivor.run("serving")
      yield* talkTo(yield* serving.hear)
      yield* serving.say("stop")
      yield* serving.result
      if (depth > 0 && how !== "terminate") {
        const again = yield* thread.run("serving")
        yield* talkTo(yield* again.hear)
        yield* again.say("stop")
        yield* again.result
      }
    })

  for (const how of deaths) it.effect(`by ${how}`, () => runs(dies(how, 0)))

  for (const how of ["process.exit", "throw"] as const) {
    it.effect(`a worker of a thread dies by ${how}, and not the thread`, () => runs(dies(how, 1)))
  }

  it.effect("a thread dies by terminate, and a worker of it with it", () => runs(dies("terminate", 1)))

  for (const what of ["attach", "listen", "connect"] as const) {
    it.effect(`while it does nothing but ${what}`, () =>
      runs(
        Effect.gen(function* () {
          const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
          yield* Effect.forkScoped(listener.run(drain))
          yield* Effect.forEach(
            [1, 10, 50],
            (times) =>
              Effect.gen(function* () {
                const thread = yield* startThread()
                const running = yield* thread.run("churn", { what, port: listener.address.port })
                for (let i = 0; i < times; i++) yield* running.hear
                yield* thread.terminate
                assert.strictEqual(yield* running.outcome, "died")
              }),
            { concurrency: 3 }
          )
          const host = yield* CutThroughHost.CutThroughHost
          yield* until(() => host.stats().guests === 0)
          const { lost, rejected } = yield* ofHost
          assert.strictEqual(rejected, 0)
          // Who dies between two applications is nobody.
          if (what === "attach") assert.isAtMost(lost, 3)
          else assert.strictEqual(lost, 3)
        })
      )
    )
  }

  it.effect("a thread that blocks keeps only its own peers waiting, and goes on later", () =>
    runs(
      Effect.gen(function* () {
        const survivor = yield* Survivor
        const thread = yield* startThread()
        const bell = new Int32Array(new SharedArrayBuffer(4))
        const stalling = yield* thread.run("stalling", bell)
        const serving = yield* survivor.run("serving")
        const blocked = Endpoint.tcp("127.0.0.1", yield* stalling.hear)
        const free = yield* serving.hear
        const connection = yield* Application.connect(blocked)
        yield* stalling.say("stall")
        assert.strictEqual(yield* stalling.hear, "stalls")

        const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 1_000_000), connection.end))
        const later = yield* Application.connect(blocked)
        yield* talkTo(free)
        yield* talkTo(free)
        // Full, and no further.
        const { used, size } = connection.info.tx
        assert.strictEqual(used, size)
        assert.isUndefined(writing.pollUnsafe())
        assert.isUndefined((yield* Effect.forkChild(later.read, { startImmediately: true })).pollUnsafe())

        Atomics.store(bell, 0, 1)
        Atomics.notify(bell, 0)
        assert.deepStrictEqual(yield* drain(connection), { how: "end", bytes: 1_000_000, received: undefined })
        yield* Fiber.join(writing)
        assert.strictEqual(yield* stalling.hear, "goes on")
        yield* talkTo(blocked.port)
        for (const running of [stalling, serving]) yield* running.say("stop")
        yield* connection.close
        yield* later.close
        for (const running of [stalling, serving]) yield* running.result
        assert.strictEqual((yield* ofHost).lost, 0)
      })
    )
  )
})
