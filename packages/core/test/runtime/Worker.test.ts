import * as Worker from "@cut-through/core/runtime/Worker"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
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
        log.push(`${worker.pending()} are pending`)
      })
    )
    assert.deepStrictEqual(log, ["outer starts", "3 are pending", "first starts", "second", "third"])
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

  it("a task for afterwards that throws does not take the turn of those behind it", () => {
    const { log, push, scheduler, worker } = setUp()
    const failing = () => {
      throw new Error("a task for afterwards throws")
    }
    worker.send(
      Effect.sync(() => {
        worker.after(() => log.push("first"))
        worker.after(failing)
        worker.after(() => log.push("second"))
      })
    )
    worker.after(failing)
    assert.deepStrictEqual(log, ["first", "second"])
    worker.send(push("call"))
    assert.deepStrictEqual(log, ["first", "second", "call"])
    assert.strictEqual(scheduler.pending, 0)
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

  describe("a batch", () => {
    const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

    /** A worker with a batch whose bursts are logged as arrays. */
    const setUpBatch = (limit: number, options?: Parameters<typeof Worker.make>[1]) => {
      const world = setUp(options)
      const { log, worker } = world
      const logItem = (item: number) => log.push(item)
      const batch = worker.batch(limit, logItem)
      /** Runs this in a call, so that what it adds and sends has to wait. */
      const inCall = (body: () => void) => worker.send(Effect.sync(body))
      const assertAtRest = () => {
        assert.strictEqual(batch.pending(), 0)
        assert.strictEqual(worker.pending(), 0)
        assert.strictEqual(world.scheduler.pending, 0)
      }
      return { ...world, assertAtRest, batch, inCall }
    }

    it("handles an item at once, on the caller's stack, when nothing is in front of it", () => {
      const { assertAtRest, batch, log } = setUpBatch(4)
      for (let i = 0; i < 3; i++) {
        batch.add(i)
        log.push(`${i} was added`)
      }
      assert.deepStrictEqual(log, [0, "0 was added", 1, "1 was added", 2, "2 was added"])
      assertAtRest()
    })

    it("handles at most its limit, then other calls have their turn", () => {
      const { assertAtRest, batch, inCall, log, push, worker } = setUpBatch(4)
      inCall(() => {
        for (const i of range(0, 10)) batch.add(i)
        worker.send(push("first"))
        worker.send(push("second"))
        for (const i of range(10, 13)) batch.add(i)
        log.push("all sent")
      })
      assert.deepStrictEqual(log, ["all sent", 0, 1, 2, 3, "first", "second", ...range(4, 13)])
      assertAtRest()
    })

    it("calls that are sent while it handles come between its bursts, too", () => {
      const { assertAtRest, inCall, log, push, worker } = setUpBatch(1)
      const batch = worker.batch(3, (item: number) => {
        log.push(item)
        worker.send(push(`call of ${item}`))
      })
      inCall(() => {
        for (const i of range(0, 7)) batch.add(i)
      })
      assert.deepStrictEqual(log, [
        0,
        1,
        2,
        "call of 0",
        "call of 1",
        "call of 2",
        3,
        4,
        5,
        "call of 3",
        "call of 4",
        "call of 5",
        6,
        "call of 6"
      ])
      assertAtRest()
    })

    it("several batches take turns", () => {
      const { assertAtRest, inCall, log, worker } = setUpBatch(1)
      const logAs = (name: string) => (item: number) => log.push(`${name}${item}`)
      const [a, b] = [worker.batch(2, logAs("a")), worker.batch(3, logAs("b"))]
      inCall(() => {
        for (const i of range(0, 5)) a.add(i)
        for (const i of range(0, 5)) b.add(i)
      })
      assert.deepStrictEqual(log, ["a0", "a1", "b0", "b1", "b2", "a2", "a3", "b3", "b4", "a4"])
      assert.strictEqual(a.pending() + b.pending(), 0)
      assertAtRest()
    })

    it("what its handler adds is handled in a later burst, in order", () => {
      const { assertAtRest, inCall, log, push, worker } = setUpBatch(1)
      const batch = worker.batch(10, (item: number) => {
        log.push(item)
        if (item < 2) batch.add(item + 10)
      })
      inCall(() => {
        for (const i of range(0, 3)) batch.add(i)
        worker.send(push("call"))
      })
      assert.deepStrictEqual(log, [0, 1, 2, "call", 10, 11])
      assertAtRest()
    })

    it("a burst costs as much of the budget as it handles", () => {
      const { assertAtRest, batch, inCall, log, scheduler } = setUpBatch(4, { budget: 10 })
      inCall(() => {
        for (const i of range(0, 40)) batch.add(i)
      })
      // The call itself, and then bursts as long as anything of the budget is left.
      assert.deepStrictEqual(log, range(0, 12))
      assert.strictEqual(scheduler.pending, 1, "more than one turn was asked for")
      scheduler.step()
      assert.deepStrictEqual(log, range(0, 24))
      scheduler.runAll()
      assert.deepStrictEqual(log, range(0, 40))
      assertAtRest()
    })

    it("items that come one by one leave the scheduler its turns, too", () => {
      const { assertAtRest, batch, log, push, scheduler, worker } = setUpBatch(4, { budget: 10 })
      for (const i of range(0, 15)) batch.add(i)
      assert.deepStrictEqual(log, range(0, 10))
      assert.strictEqual(scheduler.pending, 1, "more than one turn was asked for")
      // Behind those who wait.
      worker.send(push("call"))
      batch.add(15)
      assert.deepStrictEqual(log, range(0, 10))
      scheduler.runAll()
      assert.deepStrictEqual(log, [...range(0, 14), "call", 14, 15])
      assertAtRest()
    })

    it("a batch that refills itself leaves the scheduler its turns", () => {
      const { log, scheduler, worker } = setUpBatch(1)
      const batch = worker.batch(32, (item: number) => {
        log.push(item)
        if (item < 1000) batch.add(item + 1)
      })
      batch.add(0)
      let turns = 0
      while (scheduler.step()) turns++
      assert.deepStrictEqual(log, range(0, 1001))
      assert.strictEqual(turns, Math.floor(1000 / 64))
      assert.strictEqual(worker.pending(), 0)
    })

    it("counts what was added and not handled, also while it handles", () => {
      const { assertAtRest, inCall, log, worker } = setUpBatch(1)
      const count = () => log.push([batch.pending(), worker.pending()])
      const batch = worker.batch(2, count)
      inCall(() => {
        for (let i = 0; i < 5; i++) {
          count()
          batch.add(i)
        }
        count()
        worker.send(Effect.void)
        count()
      })
      assert.deepStrictEqual(log, [
        // The worker counts the items, and the call that is to handle some of them.
        [0, 0],
        [1, 2],
        [2, 3],
        [3, 4],
        [4, 5],
        [5, 6],
        [5, 7],
        // In a burst, with another call behind it.
        [4, 5],
        [3, 4],
        // In the next one.
        [2, 2],
        [1, 1],
        [0, 0]
      ])
      assertAtRest()
    })

    it("a task for afterwards runs when no burst is under way", () => {
      const { assertAtRest, inCall, log, worker } = setUpBatch(1)
      const batch = worker.batch(2, (item: number) => {
        worker.after(() => log.push(`after ${item}`))
        log.push(item)
      })
      inCall(() => {
        for (const i of range(0, 3)) batch.add(i)
      })
      assert.deepStrictEqual(log, [0, 1, 2, "after 0", "after 1", "after 2"])
      batch.add(3)
      assert.deepStrictEqual(log.slice(6), [3, "after 3"])
      assertAtRest()
    })

    it.effect("a handler that throws is logged, and loses neither the other items nor their order", () => {
      const logged: Array<string> = []
      const logger = Logger.make(({ message }) => void logged.push(String(message)))
      return Effect.gen(function* () {
        const worker = yield* Worker.make(5)
        const log: Array<unknown> = []
        const batch = worker.batch(3, (item: number) => {
          if (item % 3 === 1) throw new Error(`item ${item} is broken`)
          log.push(item)
        })
        // Whoever adds hears nothing of it.
        batch.add(1)
        worker.send(
          Effect.sync(() => {
            for (const i of range(0, 10)) batch.add(i)
            worker.send(Effect.sync(() => void log.push("call")))
          })
        )
        yield* Effect.yieldNow
        assert.deepStrictEqual(log, [0, "call", 2, 3, 5, 6, 8, 9])
        assert.strictEqual(logged.filter((message) => message.startsWith("A call on worker 5 failed")).length, 4)
        assert.strictEqual(worker.pending(), 0)
        batch.add(11)
        assert.strictEqual(log.at(-1), 11)
      }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
    })

    const commands = Arbitrary.array(
      Arbitrary.schema(
        Schema.Struct({
          operation: Schema.Literals(["add", "add", "addMany", "send", "turn"]),
          which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 })),
          isInCall: Schema.Boolean
        })
      )
    )

    it.prop(
      "whatever is added and sent, each item is handled once, in order, and a call waits for one burst of each at most",
      [commands],
      ([program]) => {
        const { scheduler, worker } = setUp({ budget: 8 })
        const limits = [1, 3, 7]
        const handled: ReadonlyArray<Array<number>> = [[], [], []]
        const added = [0, 0, 0]
        const calls: Array<number> = []
        // How many items of each batch a call has seen handled between being sent and being started.
        const waits: ReadonlyArray<Array<number>> = [[], [], []]
        let sent = 0
        const batches = limits.map((limit, which) =>
          worker.batch(limit, (item: number) => void handled[which].push(item))
        )
        const send = () => {
          const call = sent++
          const before = handled.map(({ length }) => length)
          worker.send(
            Effect.sync(() => {
              calls.push(call)
              for (const which of limits.keys()) waits[which].push(handled[which].length - before[which])
            })
          )
        }
        const happen = (operation: string, which: number) => {
          if (operation === "send") send()
          else for (let i = operation === "add" ? 1 : 10; i > 0; i--) batches[which].add(added[which]++)
        }
        for (const { isInCall, operation, which } of program) {
          if (operation === "turn") scheduler.step()
          else if (isInCall) worker.send(Effect.sync(() => happen(operation, which)))
          else happen(operation, which)
          for (const [which, batch] of batches.entries()) {
            assert.strictEqual(batch.pending(), added[which] - handled[which].length)
          }
        }
        scheduler.runAll()
        assert.deepStrictEqual(calls, range(0, sent))
        assert.deepStrictEqual(
          handled,
          added.map((count) => range(0, count))
        )
        for (const [which, limit] of limits.entries()) assert.isAtMost(Math.max(0, ...waits[which]), limit)
        assert.strictEqual(worker.pending(), 0)
      },
      { arbitrary: { runs: 300, size: 40 } }
    )
  })
})
