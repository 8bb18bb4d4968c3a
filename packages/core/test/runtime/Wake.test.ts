import { Application, Connection, Listener } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import { layer, layerScheduler, make, Wake, type Waiter } from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import { endpoint } from "../fixtures.ts"
import { SteppingScheduler } from "./stepping.ts"

/** A session layer with this way of waking, checked for leaks at the end, and an application on it. */
const applicationWith = (wake: Layer.Layer<Wake>) =>
  Application.layer({ name: "test", rxFifoSize: 4096, txFifoSize: 4096 }).pipe(
    Layer.provideMerge(Leaks.layerCheck),
    Layer.provideMerge(SessionLayer.layerNoDeps()),
    Layer.provide([Connections.layer, SegmentContext.layer, wake]),
    Layer.provide([SharedMemory.layer, Lock.layer]),
    Layer.fresh
  )

const makeOn = (scheduler: Scheduler.Scheduler, options?: Parameters<typeof make>[0]) =>
  Effect.runSync(Effect.provideService(make(options), Scheduler.Scheduler, scheduler))

const waiter = (resume: () => void): Waiter => ({ resume })

describe("Wake", () => {
  it("resumes on the caller's stack", () => {
    const scheduler = new SteppingScheduler()
    const { wake } = makeOn(scheduler)
    const order: Array<string> = []
    wake(waiter(() => order.push("waiter")))
    order.push("caller")
    assert.deepStrictEqual(order, ["waiter", "caller"])
    assert.strictEqual(scheduler.pending, 0)
  })

  it("layerScheduler never resumes on the caller's stack, and keeps the order", () => {
    const scheduler = new SteppingScheduler()
    const { wake } = Effect.runSync(
      Wake.pipe(Effect.provide(layerScheduler), Effect.provideService(Scheduler.Scheduler, scheduler))
    )
    const order: Array<number> = []
    const nested = (depth: number): Waiter =>
      waiter(() => {
        order.push(depth)
        if (depth < 5) wake(nested(depth + 1))
        order.push(-depth)
      })
    wake(nested(1))
    wake(nested(5))
    assert.deepStrictEqual(order, [])
    scheduler.runAll()
    assert.deepStrictEqual(order, [1, -1, 5, -5, 2, -2, 3, -3, 4, -4, 5, -5])
  })

  it("nests no deeper than its depth, however long the chain, and resumes everyone once", () => {
    for (const depth of [1, 3, undefined]) {
      const scheduler = new SteppingScheduler()
      const { wake } = makeOn(scheduler, { depth })
      const resumed: Array<number> = []
      let nesting = 0
      let deepest = 0
      const link = (index: number): Waiter =>
        waiter(() => {
          nesting++
          deepest = Math.max(deepest, nesting)
          resumed.push(index)
          if (index < 9_999) wake(link(index + 1))
          nesting--
        })
      wake(link(0))
      assert.isBelow(resumed.length, 10_000, "all of them ran on one stack")
      scheduler.runAll()
      assert.deepStrictEqual(
        resumed,
        Array.from({ length: 10_000 }, (_, index) => index)
      )
      // One more than what is asked for: the scheduler resumes one itself.
      assert.isAtMost(deepest, (depth ?? 8) + 1)
      assert.isAtLeast(deepest, depth ?? 8)
    }
  })

  it("resumes no more than its budget until the scheduler has had its turn", () => {
    for (const budget of [1, 5, undefined]) {
      const scheduler = new SteppingScheduler()
      const { wake } = makeOn(scheduler, { budget })
      const most = budget ?? 128
      let resumed = 0
      const wakeMany = (count: number) => {
        const before = resumed
        for (let i = 0; i < count; i++) wake(waiter(() => resumed++))
        return resumed - before
      }
      assert.strictEqual(wakeMany(1000), most)
      assert.strictEqual(scheduler.pending, 1, "more than one turn was asked for")
      scheduler.runAll()
      assert.strictEqual(resumed, 1000)
      // Whether those whom the scheduler has resumed count for the next budget is not said.
      assert.isAtMost(wakeMany(1000), most)
      scheduler.runAll()
      assert.strictEqual(resumed, 2000)
    }
  })

  it("has a new budget after a turn", () => {
    const scheduler = new SteppingScheduler()
    const { wake } = makeOn(scheduler, { budget: 5 })
    for (let turn = 0; turn < 10; turn++) {
      let resumed = 0
      for (let i = 0; i < 6; i++) wake(waiter(() => resumed++))
      assert.isAtLeast(resumed, turn === 0 ? 5 : 1)
      scheduler.runAll()
      assert.strictEqual(resumed, 6)
    }
  })

  it("a budget renewed from outside counts from the start", () => {
    const { renew, wake } = makeOn(new SteppingScheduler(), { budget: 2 })
    let resumed = 0
    for (let i = 0; i < 6; i++) {
      if (i === 1) renew()
      wake(waiter(() => resumed++))
    }
    assert.strictEqual(resumed, 3)
  })

  it("whoever waits for the same turn is resumed in the order of waking", () => {
    const scheduler = new SteppingScheduler()
    const { wake } = makeOn(scheduler, { budget: 1 })
    const order: Array<string> = []
    const named = (name: string, ...then: Array<Waiter>) =>
      waiter(() => {
        order.push(name)
        for (const next of then) wake(next)
      })
    wake(named("first"))
    wake(named("second", named("fourth"), named("fifth")))
    wake(named("third", named("sixth")))
    assert.deepStrictEqual(order, ["first"])
    scheduler.runAll()
    // The fourth is what the new budget is for.
    assert.deepStrictEqual(order, ["first", "second", "fourth", "third", "fifth", "sixth"])
  })

  it("conversations that have waited for a turn go on directly, however many they are", () => {
    const scheduler = new SteppingScheduler()
    const { wake } = makeOn(scheduler, { budget: 100 })
    let rounds = 0
    /** Asks, and goes on when there is an answer: at once if the other end was resumed at once. */
    const converse = () => {
      let isAnswered = false
      let isWaiting = false
      const ask = (): void => {
        for (let n = 0; n < 1000; n++) {
          rounds++
          isAnswered = false
          wake(other)
          if (isAnswered) continue
          isWaiting = true
          return
        }
      }
      const self = waiter(ask)
      const other = waiter(() => {
        isAnswered = true
        if (!isWaiting) return
        isWaiting = false
        wake(self)
      })
      wake(self)
    }
    for (let i = 0; i < 5; i++) converse()
    for (let turn = 1; turn <= 20; turn++) {
      const before = rounds
      assert.isTrue(scheduler.step())
      assert.isAtLeast(rounds - before, 90, `turn ${turn}`)
    }
  })

  describe("a waiter that throws", () => {
    const failing = waiter(() => {
      throw new Error("failed to resume")
    })

    it("leaves the depth as it was", () => {
      const { wake } = makeOn(new SteppingScheduler(), { depth: 2 })
      for (let i = 0; i < 10; i++) {
        assert.throws(() => wake(waiter(() => wake(failing))), "failed to resume")
      }
      let wasResumed = false
      wake(waiter(() => wake(waiter(() => (wasResumed = true)))))
      assert.isTrue(wasResumed)
    })

    it("does not take the turn of those behind it", () => {
      const scheduler = new SteppingScheduler()
      const { wake } = makeOn(scheduler, { depth: 0 })
      const order: Array<string> = []
      wake(failing)
      wake(waiter(() => order.push("second")))
      wake(waiter(() => order.push("third")))
      assert.throws(() => scheduler.runAll(), "failed to resume")
      // Without anybody else being woken.
      scheduler.runAll()
      assert.deepStrictEqual(order, ["second", "third"])
      wake(waiter(() => order.push("fourth")))
      scheduler.runAll()
      assert.deepStrictEqual(order, ["second", "third", "fourth"])
    })
  })

  it.live("a byte goes through a chain of 10,000 fibers, each waiting for the one before it", () =>
    Effect.gen(function* () {
      const length = 10_000
      const listener = yield* Application.listen(endpoint)
      const ends: Array<readonly [Connection.Connection, Connection.Connection]> = []
      for (let i = 0; i <= length; i++) {
        const client = yield* Application.connect(endpoint)
        ends.push([client, yield* listener.accept])
      }
      const links: Array<Fiber.Fiber<void, unknown>> = []
      for (let i = 0; i < length; i++) {
        const [[, from], [to]] = [ends[i], ends[i + 1]]
        links.push(
          yield* Effect.forkChild(
            Effect.flatMap(from.read, (bytes) => to.write(bytes)),
            { startImmediately: true }
          )
        )
      }
      yield* ends[0][0].write(Uint8Array.of(42))
      assert.deepStrictEqual([...(yield* ends[length][1].read)], [42])
      yield* Fiber.awaitAll(links)
    }).pipe(Effect.scoped, Effect.provide(applicationWith(layer)))
  )

  it.live("a fiber is woken once for a message, and not by what it has read itself", () => {
    let wakes = 0
    const counting = Layer.effect(
      Wake,
      Effect.map(make(), (direct) =>
        Wake.of({
          ...direct,
          wake(waiter) {
            wakes++
            direct.wake(waiter)
          }
        })
      )
    )
    return Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* Effect.forkScoped(Effect.forever(Effect.flatMap(server.read, server.write), { disableYield: true }), {
        startImmediately: true
      })
      wakes = 0
      for (let trip = 1; trip <= 10; trip++) {
        yield* client.write(Uint8Array.of(trip))
        assert.deepStrictEqual([...(yield* client.read)], [trip])
        // The answer is there before the client asks for it.
        assert.strictEqual(wakes, trip)
      }
    }).pipe(Effect.scoped, Effect.provide(applicationWith(counting)))
  })

  describe("two fibers that never stop talking", () => {
    const serve = (listener: Listener.Listener) =>
      Effect.flatMap(listener.accept, (server) =>
        Effect.forever(
          Effect.flatMap(server.read, (bytes) => server.write(bytes)),
          { disableYield: true }
        )
      )

    /** Round trips until a timer of one millisecond has fired, or until `isLate` says that it ought to have. */
    const pingPong = (isLate: (trips: number) => boolean) =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        yield* Effect.forkScoped(serve(listener))
        const client = yield* Application.connect(endpoint)
        const ping = Uint8Array.of(1)
        const tripOnce = Effect.andThen(client.write(ping), client.read)
        yield* tripOnce
        const timer = { hasFired: false, handle: setTimeout(() => (timer.hasFired = true), 1) }
        let trips = 0
        while (!timer.hasFired && !isLate(trips)) {
          yield* tripOnce
          trips++
        }
        clearTimeout(timer.handle)
        return { hasFired: timer.hasFired, trips }
      }).pipe(Effect.scoped)

    // By the clock, because how many trips fit in a millisecond is the machine's business.
    const wellPast = (milliseconds: number) => {
      const end = performance.now() + milliseconds
      return (trips: number) => trips % 64 === 0 && performance.now() > end
    }

    // Starved, the runner's own timeout would not fire either: that is why these two would give up by themselves.
    it.live("leave a timer its turn", () =>
      Effect.gen(function* () {
        const { hasFired, trips } = yield* pingPong(wellPast(4000))
        assert.isTrue(hasFired)
        assert.isAbove(trips, 0)
      }).pipe(Effect.provide(applicationWith(layer)))
    )

    it.live("leave a timer its turn by waking alone, when fibers never yield", () =>
      Effect.gen(function* () {
        const { hasFired } = yield* pingPong(wellPast(4000))
        assert.isTrue(hasFired)
      }).pipe(Effect.provide(applicationWith(layer)), Effect.provideService(Scheduler.PreventSchedulerYield, true))
    )

    // What the two above look like when they fail.
    it.live("would starve it through microtasks", () =>
      Effect.gen(function* () {
        const { hasFired } = yield* pingPong(wellPast(100))
        assert.isFalse(hasFired)
      }).pipe(
        Effect.provide(
          applicationWith(
            Layer.succeed(Wake, {
              wake: (waiter) => queueMicrotask(() => waiter.resume()),
              defer: (waiter) => queueMicrotask(() => waiter.resume()),
              renew() {}
            })
          )
        )
      )
    )

    it.live("would starve it without a budget", () =>
      Effect.gen(function* () {
        const { hasFired } = yield* pingPong(wellPast(100))
        assert.isFalse(hasFired)
      }).pipe(
        Effect.provide(applicationWith(Layer.effect(Wake, make({ budget: Infinity })))),
        Effect.provideService(Scheduler.PreventSchedulerYield, true)
      )
    )
  })
})
