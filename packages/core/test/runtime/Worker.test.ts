import * as Worker from "@cut-through/core/runtime/Worker"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { SteppingScheduler } from "./stepping.ts"

const setUp = (options?: Parameters<typeof Worker.make>[1]) => {
  const scheduler = new SteppingScheduler()
  const scope = Scope.makeUnsafe()
  const worker = Effect.runSync(
    Worker.make(3, options).pipe(
      Effect.provideService(Scheduler.Scheduler, scheduler),
      Effect.provideService(Scope.Scope, scope)
    )
  )
  const log: Array<unknown> = []
  const push = (entry: unknown) => Effect.sync(() => void log.push(entry))
  return { scheduler, scope, worker, log, push }
}

describe("Worker", () => {
  it("starts a call at once, on the caller's stack", () => {
    const { log, push, scheduler, worker } = setUp()
    worker.send(push("call"))
    log.push("caller")
    assert.deepStrictEqual(log, ["call", "caller"])
    assert.strictEqual(worker.pending(), 0)
    assert.strictEqual(scheduler.pending, 0)
    assert.strictEqual(worker.index, 3)
  })

  it("what a call sends starts when the call has ended or waits, in order", () => {
    const { log, push, worker } = setUp()
    worker.send(
      Effect.sync(() => {
        log.push("outer starts")
        worker.send(Effect.andThen(push("first starts"), Effect.never))
        worker.send(Effect.sync(() => worker.send(push("third"))))
        worker.send(push("second"))
        assert.strictEqual(worker.pending(), 3)
        log.push("outer ends")
      })
    )
    assert.deepStrictEqual(log, ["outer starts", "outer ends", "first starts", "second", "third"])
  })

  it("when the budget is spent the rest waits for the scheduler's turn, and so does what comes later", () => {
    for (const budget of [1, 3, undefined]) {
      const { log, push, scheduler, worker } = setUp({ budget })
      const atOnce = budget ?? 64
      const all = Array.from({ length: 2 * atOnce + 1 }, (_, i) => i)
      for (const i of all.slice(0, -1)) worker.send(push(i))
      assert.deepStrictEqual(log, all.slice(0, atOnce))
      assert.strictEqual(worker.pending(), atOnce)
      assert.strictEqual(scheduler.pending, 1, "more than one turn was asked for")
      scheduler.step()
      assert.deepStrictEqual(log, all.slice(0, 2 * atOnce))
      worker.send(push(2 * atOnce))
      scheduler.runAll()
      assert.deepStrictEqual(log, all)
      assert.strictEqual(worker.pending(), 0)
    }
  })

  it("a queue that refills itself leaves the scheduler its turns", () => {
    const { log, scheduler, worker } = setUp({ budget: 10 })
    const again: Effect.Effect<void> = Effect.sync(() => {
      log.push("call")
      if (log.length < 100) worker.send(again)
    })
    worker.send(again)
    assert.strictEqual(log.length, 10)
    let turns = 0
    while (scheduler.step()) assert.isBelow(turns++, 100)
    assert.strictEqual(log.length, 100)
    assert.strictEqual(turns, 9)
  })

  it("a call that waits holds nobody up", () => {
    const { log, push, scheduler, worker } = setUp()
    const gate = Deferred.makeUnsafe<void>()
    worker.send(Effect.andThen(Deferred.await(gate), push("slow")))
    worker.send(push("fast"))
    assert.deepStrictEqual(log, ["fast"])
    Deferred.doneUnsafe(gate, Effect.void)
    scheduler.runAll()
    assert.deepStrictEqual(log, ["fast", "slow"])
  })

  it("a call that fails takes no other with it", () => {
    const { log, push, worker } = setUp()
    worker.send(Effect.die(new Error("the first call fails")))
    worker.send(push("second"))
    worker.send(
      Effect.sync(() => {
        throw new Error("the third call throws")
      })
    )
    worker.send(push("fourth"))
    assert.deepStrictEqual(log, ["second", "fourth"])
  })

  it("calls end with the scope, and the scope waits for them", () => {
    const { log, push, scheduler, scope, worker } = setUp()
    const finalizing = Deferred.makeUnsafe<void>()
    worker.send(Effect.onInterrupt(Effect.never, () => push("interrupted")))
    worker.send(Effect.uninterruptible(Effect.andThen(Deferred.await(finalizing), push("finished"))))
    const closing = Effect.runFork(Scope.close(scope, Exit.void), { scheduler })
    scheduler.runAll()
    assert.isUndefined(closing.pollUnsafe(), "the scope did not wait for a call that cannot be interrupted")
    Deferred.doneUnsafe(finalizing, Effect.void)
    scheduler.runAll()
    assert.sameMembers(log, ["interrupted", "finished"])
    assert.isTrue(closing.pollUnsafe() !== undefined)
  })

  it("calls that have ended are not kept by the scope", () => {
    const { scheduler, scope, worker } = setUp()
    const finalizers = () => (scope.state._tag === "Open" ? (scope.state.finalizers?.size ?? 1) : 0)
    const before = finalizers()
    const gate = Deferred.makeUnsafe<void>()
    for (let i = 0; i < 10; i++) worker.send(Deferred.await(gate))
    assert.strictEqual(finalizers(), before + 10)
    Deferred.doneUnsafe(gate, Effect.void)
    scheduler.runAll()
    assert.strictEqual(finalizers(), before)
  })

  it("says when the scheduler has had its turn, before the calls go on", () => {
    const order: Array<string> = []
    const { push, scheduler, worker } = setUp({ budget: 1, onTurn: () => order.push("turn") })
    const call = (name: string) => Effect.sync(() => void order.push(name))
    worker.send(Effect.andThen(push("first"), call("first")))
    worker.send(call("second"))
    scheduler.runAll()
    assert.deepStrictEqual(order, ["first", "turn", "second"])
  })

  it("a task for afterwards runs when no call is under way, and its own calls start at once", () => {
    const { log, push, worker } = setUp()
    const sendFrom = (name: string) => () => {
      worker.send(push(`${name}'s call`))
      log.push(name)
    }
    worker.after(sendFrom("now"))
    worker.send(
      Effect.sync(() => {
        worker.after(sendFrom("first"))
        worker.after(sendFrom("second"))
        worker.send(push("call"))
        log.push("outer")
      })
    )
    assert.deepStrictEqual(log, [
      "now's call",
      "now",
      "outer",
      "call",
      "first's call",
      "second's call",
      "second",
      "first"
    ])
  })

  it.effect("a call that dies is logged, and the others go on", () => {
    const logged: Array<string> = []
    const logger = Logger.make(({ message }) => void logged.push(String(message)))
    return Effect.gen(function* () {
      const worker = yield* Worker.make(3)
      const order: Array<string> = []
      worker.send(Effect.die("broken"))
      worker.send(Effect.andThen(Effect.yieldNow, Effect.die("broken later")))
      worker.send(Effect.sync(() => void order.push("next")))
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      assert.deepStrictEqual(order, ["next"])
      assert.strictEqual(logged.filter((message) => message.startsWith("A call on worker 3 failed")).length, 2)
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
  })
})
