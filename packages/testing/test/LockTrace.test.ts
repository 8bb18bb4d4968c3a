import { Lock } from "@cut-through/core/runtime/Lock"
import { LockTrace } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { interruptEverywhere } from "../../core/test/runtime/stepping.ts"

interface World {
  readonly locks: Lock["Service"]
  readonly trace: LockTrace.LockTrace["Service"]
  readonly close: () => Exit.Exit<void>
}

/** Traced locks until `close`, whose exit is the verdict. */
const open = (layer = LockTrace.layer): World => {
  const scope = Scope.makeUnsafe()
  const [locks, trace] = Effect.runSync(
    Effect.all([Lock, LockTrace.LockTrace]).pipe(Effect.provide(Effect.runSync(Layer.buildWithScope(layer, scope))))
  )
  return { locks, trace, close: () => Effect.runSyncExit(Scope.close(scope, Exit.void)) }
}

const violationOf = (exit: Exit.Exit<unknown, unknown>): LockTrace.LockViolation => {
  if (Exit.isSuccess(exit)) return assert.fail("nothing went wrong")
  const [reason, ...others] = exit.cause.reasons
  assert.strictEqual(others.length, 0)
  const defect = reason._tag === "Die" ? reason.defect : undefined
  assert.instanceOf(defect, LockTrace.LockViolation)
  return defect
}

const assertClean = ({ close, trace }: World, where?: string) => {
  assert.deepStrictEqual(trace.violations(), [], where)
  assert.deepStrictEqual([trace.holders(), trace.waiters()], [[], []], where)
  assert.deepStrictEqual(close(), Exit.void, where)
}

const lines = (events: ReadonlyArray<LockTrace.Event>, ...fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>>) =>
  events.map(({ event, fiber, lock, mode }) => {
    const who = fiber === undefined ? "nobody" : `fiber ${fibers.findIndex(({ id }) => id === fiber)}`
    return `${lock}: ${who} ${event} ${mode}`
  })

/** A fiber that has the lock, or waits for it, until it is told to let go. */
const hold = (withLock: (effect: Effect.Effect<void>) => Effect.Effect<void>) => {
  const gate = Latch.makeUnsafe(false)
  const fiber = Effect.runFork(withLock(gate.await))
  return {
    fiber,
    release: () => {
      Latch.openUnsafe(gate)
      fiber.currentDispatcher.flush()
    }
  }
}

describe("LockTrace", () => {
  it("the locks are real ones", () => {
    const world = open()
    const lock = world.locks.make("lock")
    assert.strictEqual(lock.name, "lock")
    const [reader, writer, late] = [hold(lock.withRead), hold(lock.withWrite), hold(lock.withRead)]
    assert.deepStrictEqual(lock.stats(), { readers: 1, writer: false, waiting: 2 })
    assert.isUndefined(lock.tryWrite(assert.fail))
    reader.release()
    assert.deepStrictEqual(lock.stats(), { readers: 0, writer: true, waiting: 1 })
    writer.release()
    late.release()
    assert.strictEqual(
      lock.tryWrite(() => 1),
      1
    )

    const spin = world.locks.makeSpin("spin")
    assert.strictEqual(spin.name, "spin")
    const [first, second] = [hold(spin.withLock), hold(spin.withLock)]
    assert.deepStrictEqual(spin.stats(), { held: true, waiting: 1 })
    first.release()
    second.release()
    assert.strictEqual(
      spin.tryLock(() => 2),
      2
    )
    assertClean(world)
  })

  it("says who holds and who waits, as long as they do", () => {
    const world = open()
    const { locks, trace } = world
    const table = locks.make("table")
    const pool = locks.makeSpin("pool")
    const reader = hold((effect) => table.withRead(table.withRead(effect)))
    const owner = hold(pool.withLock)
    const writer = hold(table.withWrite)
    const waiting = hold(pool.withLock)
    const read = { lock: "table", mode: "read", fiber: reader.fiber.id } as const
    // A reader that has it twice is there twice.
    assert.deepStrictEqual(trace.holders(), [read, read, { lock: "pool", mode: "spin", fiber: owner.fiber.id }])
    assert.deepStrictEqual(trace.waiters(), [
      { lock: "table", mode: "write", fiber: writer.fiber.id },
      { lock: "pool", mode: "spin", fiber: waiting.fiber.id }
    ])
    reader.release()
    waiting.fiber.interruptUnsafe()
    owner.release()
    assert.deepStrictEqual(trace.holders(), [{ lock: "table", mode: "write", fiber: writer.fiber.id }])
    assert.deepStrictEqual(trace.waiters(), [])
    writer.release()
    table.tryWrite(() => {
      assert.deepStrictEqual(trace.holders(), [{ lock: "table", mode: "write", fiber: undefined }])
    })
    const asked = Effect.runSync(
      Effect.withFiber(({ id }) => Effect.sync(() => [id, pool.tryLock(trace.holders)] as const))
    )
    assert.deepStrictEqual(asked[1], [{ lock: "pool", mode: "spin", fiber: asked[0] }])
    assertClean(world)
  })

  it("the history has every event in its order, who gave up included", () => {
    const world = open()
    const { locks, trace } = world
    const table = locks.make("table")
    const pool = locks.makeSpin("pool")
    const reader = hold(table.withRead)
    const writer = hold((effect) => table.withWrite(pool.withLock(effect)))
    const late = hold(table.withRead)
    const next = hold(table.withWrite)
    assert.isUndefined(table.tryWrite(assert.fail))
    late.fiber.interruptUnsafe()
    reader.release()
    writer.release()
    next.release()
    pool.tryLock(() => {})
    assert.deepStrictEqual(lines(trace.history(), reader.fiber, writer.fiber, late.fiber, next.fiber), [
      "table: fiber 0 asked read",
      "table: fiber 0 granted read",
      "table: fiber 1 asked write",
      "table: fiber 2 asked read",
      "table: fiber 3 asked write",
      "table: fiber 2 abandoned read",
      "table: fiber 0 released read",
      "table: fiber 1 granted write",
      "pool: fiber 1 asked spin",
      "pool: fiber 1 granted spin",
      "pool: fiber 1 released spin",
      "table: fiber 1 released write",
      "table: fiber 3 granted write",
      "table: fiber 3 released write",
      "pool: nobody asked spin",
      "pool: nobody granted spin",
      "pool: nobody released spin"
    ])
    assertClean(world)
  })

  it("the history keeps the last 10,000 events, or as many as it was told", () => {
    for (const [limit, world] of [
      [10_000, open()],
      [7, open(LockTrace.layerWith({ history: 7 }))],
      [0, open(LockTrace.layerWith({ history: 0 }))]
    ] as const) {
      const names = Array.from({ length: limit / 3 + 2 }, (_, i) => `lock ${i}`)
      const seen: Array<string> = []
      for (const name of names) {
        world.locks.makeSpin(name).tryLock(() => {})
        seen.push(`${name} asked`, `${name} granted`, `${name} released`)
        assert.deepStrictEqual(
          world.trace.history().length,
          Math.min(seen.length, limit),
          `${limit} events at most, after ${seen.length}`
        )
      }
      const history = world.trace.history().map(({ event, lock }) => `${lock} ${event}`)
      assert.deepStrictEqual(history, limit === 0 ? [] : seen.slice(-limit))
      assertClean(world)
    }
  })

  it("counts how often a lock was granted, how many had to wait, and how many at once", () => {
    const world = open()
    const { locks, trace } = world
    const table = locks.make("table")
    const pool = locks.makeSpin("pool")
    locks.make("unused")
    const first = hold(table.withRead)
    // Beside another reader it need not wait, behind a writer that waits it must.
    const beside = hold(table.withRead)
    const writer = hold(table.withWrite)
    const behind = hold(table.withRead)
    const gone = hold(table.withRead)
    gone.fiber.interruptUnsafe()
    for (const one of [first, beside, writer]) one.release()
    // A shorter queue than the one before.
    const last = hold(table.withWrite)
    behind.release()
    last.release()
    table.tryWrite(() => {})
    const [owner, next] = [hold(pool.withLock), hold(pool.withLock)]
    assert.isUndefined(pool.tryLock(assert.fail))
    owner.release()
    next.release()
    assert.deepStrictEqual(trace.contention(), [
      { lock: "table", acquisitions: 6, waited: 4, longestQueue: 3 },
      { lock: "pool", acquisitions: 2, waited: 1, longestQueue: 1 },
      { lock: "unused", acquisitions: 0, waited: 0, longestQueue: 0 }
    ])
    assertClean(world)
  })

  it("whoever is interrupted at any step leaves nothing behind, and the trace is right all the while", () => {
    for (const mode of ["read", "write", "spin"] as const) {
      const ends = new Set<string>()
      interruptEverywhere({
        setUp: ({ run }) => {
          const world = open()
          const table = world.locks.make("lock")
          const pool = world.locks.makeSpin("lock")
          const gate = Latch.makeUnsafe(false)
          run((mode === "spin" ? pool.withLock : table.withWrite)(gate.await))
          const stats = () => {
            const { held, waiting } = pool.stats()
            const { readers, waiting: waitingForTable, writer } = table.stats()
            return [readers + Number(writer) + Number(held), waiting + waitingForTable]
          }
          return { fiber: -1, gate, pool, stats, table, world }
        },
        start: ({ run, scheduler }, state) => {
          scheduler.runAll()
          const { pool, table } = state
          const enter = mode === "read" ? table.withRead : mode === "write" ? table.withWrite : pool.withLock
          const fiber = run(enter(Effect.asVoid(Effect.yieldNow)))
          state.fiber = fiber.id
          return fiber
        },
        afterwards: (_, { gate, stats, world }) => {
          assert.deepStrictEqual([world.trace.holders().length, world.trace.waiters().length], stats())
          Latch.openUnsafe(gate)
        },
        check: ({ fiber, world }, where) => {
          const own = world.trace.history().filter((event) => event.fiber === fiber)
          ends.add(own.map(({ event }) => event).join(", "))
          assertClean(world, where)
        }
      })
      assert.deepStrictEqual([...ends].toSorted(), ["asked, abandoned", "asked, granted, released"])
    }
  })

  describe("telling an application something", () => {
    it("D40: under a lock is a violation", () => {
      for (const [mode, use] of [
        ["read", (locks: Lock["Service"]) => locks.make("table").withRead],
        ["write", (locks: Lock["Service"]) => locks.make("table").withWrite],
        ["spin", (locks: Lock["Service"]) => locks.makeSpin("table").withLock]
      ] as const) {
        const { close, locks, trace } = open()
        const fiber = Effect.runFork(use(locks)(Effect.sync(() => locks.notifying("accepted"))))
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(undefined))
        assert.deepStrictEqual(trace.violations(), [
          {
            _tag: "HeldWhileNotifying",
            what: "accepted",
            fiber: fiber.id,
            held: [{ lock: "table", mode, fiber: fiber.id }]
          }
        ])
        assert.strictEqual(
          violationOf(close()).message,
          `"accepted" was told by fiber #${fiber.id} while fiber #${fiber.id} held "table" (${mode})`
        )
      }
    })

    it("D40: under several locks is one violation that names them all", () => {
      const { close, locks } = open()
      const [table, pool] = [locks.make("table"), locks.makeSpin("pool")]
      const tell = Effect.sync(() => locks.notifying("reset"))
      const { id } = Effect.runFork(table.withRead(pool.withLock(table.withRead(tell))))
      assert.strictEqual(
        violationOf(close()).message,
        `"reset" was told by fiber #${id} while fiber #${id} held "table" (read)` +
          ` and fiber #${id} held "pool" (spin) and fiber #${id} held "table" (read)`
      )
    })

    it("D40: in the function of a try is a violation, whoever does it", () => {
      const { close, locks, trace } = open()
      const [table, pool] = [locks.make("table"), locks.makeSpin("pool")]
      table.tryWrite(() => locks.notifying("by nobody"))
      const told = Deferred.makeUnsafe<void>()
      const other = Effect.runFork(
        Effect.andThen(
          Deferred.await(told),
          Effect.sync(() => locks.notifying("by another"))
        )
      )
      const trying = Effect.runFork(Effect.sync(() => pool.tryLock(() => void Deferred.doneUnsafe(told, Effect.void))))
      assert.deepStrictEqual(trace.violations(), [
        {
          _tag: "HeldWhileNotifying",
          what: "by nobody",
          fiber: undefined,
          held: [{ lock: "table", mode: "write", fiber: undefined }]
        },
        {
          _tag: "HeldWhileNotifying",
          what: "by another",
          fiber: other.id,
          held: [{ lock: "pool", mode: "spin", fiber: trying.id }]
        }
      ])
      assert.strictEqual(
        violationOf(close()).message,
        '"by nobody" was told by no fiber while no fiber held "table" (write)\n' +
          `"by another" was told by fiber #${other.id} while fiber #${trying.id} held "pool" (spin)`
      )
    })

    it("D40: before, after, and while others hold or one waits oneself is none", () => {
      const world = open()
      const { locks } = world
      const table = locks.make("table")
      const holder = hold(table.withRead)
      const waiting = hold(table.withWrite)
      // On the stack of the one that holds the lock, but not the one.
      const woken = Deferred.makeUnsafe<void>()
      const other = Effect.runFork(
        Effect.andThen(
          Deferred.await(woken),
          Effect.sync(() => locks.notifying("beside"))
        )
      )
      waiting.fiber.interruptUnsafe()
      Effect.runSync(
        Effect.sync(() => locks.notifying("before")).pipe(
          Effect.andThen(table.withRead(Deferred.succeed(woken, undefined))),
          Effect.andThen(Effect.sync(() => locks.notifying("after")))
        )
      )
      assert.isDefined(other.pollUnsafe())
      locks.notifying("by nobody")
      holder.release()
      table.tryWrite(() => {})
      locks.notifying("at rest")
      assertClean(world)
    })

    it("D40: whoever has it twice and lets go of it once still has it", () => {
      const { close, locks, trace } = open()
      const table = locks.make("table")
      const tell = (what: string) => Effect.sync(() => locks.notifying(what))
      Effect.runSync(
        Effect.andThen(table.withRead(table.withRead(Effect.void).pipe(Effect.andThen(tell("once")))), tell("not"))
      )
      assert.deepStrictEqual(
        trace.violations().map((violation) => violation._tag === "HeldWhileNotifying" && violation.what),
        ["once"]
      )
      violationOf(close())
    })
  })

  describe("the order of locks", () => {
    it("opposite ones are a violation, reported once, with both fibers", () => {
      const { close, locks, trace } = open()
      const [a, b] = [locks.make("a"), locks.makeSpin("b")]
      const first = Effect.runFork(a.withRead(b.withLock(Effect.void)))
      assert.deepStrictEqual(trace.violations(), [])
      const second = Effect.runFork(b.withLock(a.withWrite(Effect.void)))
      Effect.runFork(a.withRead(b.withLock(Effect.void)))
      Effect.runFork(b.withLock(a.withWrite(Effect.void)))
      assert.deepStrictEqual(trace.violations(), [
        {
          _tag: "OrderInversion",
          orders: [
            { fiber: first.id, held: "a", asked: "b" },
            { fiber: second.id, held: "b", asked: "a" }
          ]
        }
      ])
      assert.strictEqual(
        violationOf(close()).message,
        `fiber #${first.id} asked for "b" while "a" was held, but fiber #${second.id} asked for "a" while "b" was held`
      )
    })

    it("are found where nobody gets the second one any more", () => {
      const { close, locks } = open()
      const [a, b] = [locks.make("a"), locks.make("b")]
      const both = (one: typeof a, other: typeof a) =>
        Effect.runFork(one.withWrite(Effect.andThen(Effect.yieldNow, other.withWrite(Effect.void))))
      const fibers = [both(a, b), both(b, a)]
      for (const fiber of fibers) fiber.currentDispatcher.flush()
      const [x, y] = fibers.map(({ id }) => id)
      assert.deepStrictEqual(violationOf(close()).message.split("\n"), [
        `fiber #${x} asked for "b" while "a" was held, but fiber #${y} asked for "a" while "b" was held`,
        `fiber #${x} still holds "a" (write)`,
        `fiber #${y} still holds "b" (write)`,
        `fiber #${x} still waits for "b" (write)`,
        `fiber #${y} still waits for "a" (write)`
      ])
      for (const fiber of fibers) fiber.interruptUnsafe()
    })

    it("a try counts, and so does what was asked for in its function", () => {
      const { close, locks, trace } = open()
      const [a, b, c] = [locks.make("a"), locks.makeSpin("b"), locks.make("c")]
      Effect.runSync(a.withWrite(Effect.sync(() => b.tryLock(() => c.tryWrite(() => {})))))
      assert.deepStrictEqual(trace.violations(), [])
      c.tryWrite(() => Effect.runSync(a.withRead(Effect.void)))
      Effect.runSync(c.withRead(Effect.sync(() => b.tryLock(() => {}))))
      assert.deepStrictEqual(
        trace.violations().map((violation) => violation._tag === "OrderInversion" && violation.orders[1]),
        [
          { fiber: trace.history().findLast(({ lock }) => lock === "a")?.fiber, held: "c", asked: "a" },
          { fiber: trace.history().at(-1)?.fiber, held: "c", asked: "b" }
        ]
      )
      violationOf(close())
    })

    it("the same lock again, one after the other, and locks of the same name are no matter", () => {
      const world = open()
      const { locks } = world
      const [a, b, twin] = [locks.make("a"), locks.make("b"), locks.make("a")]
      const program = a.withRead(a.withRead(b.withRead(a.withRead(Effect.void)))).pipe(
        // Neither while the other is held.
        Effect.andThen(b.withWrite(Effect.void)),
        Effect.andThen(a.withWrite(Effect.void)),
        Effect.andThen(b.withRead(twin.withRead(Effect.void)))
      )
      Effect.runSync(program)
      a.tryWrite(() => assert.isUndefined(a.tryWrite(assert.fail)))
      const holder = hold(b.withRead)
      // Held by another.
      Effect.runSync(a.withRead(Effect.void))
      holder.release()
      assertClean(world)
    })
  })

  describe("when the scope closes", () => {
    it.effect("a clean program passes", () =>
      Effect.gen(function* () {
        const locks = yield* Lock
        const table = locks.make("table")
        yield* Effect.forEach([1, 2, 3], () => table.withWrite(Effect.yieldNow), { concurrency: "unbounded" })
        locks.notifying("done")
        yield* LockTrace.check
      }).pipe(Effect.provide(LockTrace.layer))
    )

    it.effect("what went wrong is a defect", () =>
      Effect.gen(function* () {
        const program = Effect.gen(function* () {
          const locks = yield* Lock
          yield* locks.make("table").withWrite(Effect.sync(() => locks.notifying("accepted")))
          const error = yield* Effect.flip(LockTrace.check)
          assert.strictEqual(error._tag, "LockViolation")
          assert.include(error.message, '"accepted" was told by')
        })
        const error = violationOf(yield* Effect.exit(Effect.provide(program, LockTrace.layer)))
        assert.strictEqual(error.violations.length, 1)
        assert.deepStrictEqual([error.holders, error.waiters], [[], []])
      })
    )

    it.effect("so is a lock that is still held or waited for", () =>
      Effect.gen(function* () {
        const fibers: Array<Fiber.Fiber<unknown>> = []
        const program = Effect.gen(function* () {
          const { makeSpin } = yield* Lock
          const pool = makeSpin("pool")
          const enter = Effect.forkDetach(pool.withLock(Effect.never), { startImmediately: true })
          fibers.push(yield* enter)
          const { message } = yield* Effect.flip(LockTrace.check)
          assert.strictEqual(message, `fiber #${fibers[0].id} still holds "pool" (spin)`)
          fibers.push(yield* enter)
        })
        const error = violationOf(yield* Effect.exit(Effect.provide(program, LockTrace.layer)))
        const [holder, waiter] = fibers.map(({ id }) => id)
        assert.deepStrictEqual(error.violations, [])
        assert.strictEqual(
          error.message,
          `fiber #${holder} still holds "pool" (spin)\nfiber #${waiter} still waits for "pool" (spin)`
        )
        yield* Fiber.interruptAll(fibers)
      })
    )

    it.effect("what is built on the locks has been closed by then", () =>
      Effect.gen(function* () {
        const user = Layer.effectDiscard(
          Effect.gen(function* () {
            const lock = (yield* Lock).make("table")
            yield* Effect.forkScoped(lock.withWrite(Effect.never), { startImmediately: true })
            assert.isTrue(lock.stats().writer)
          })
        )
        assert.deepStrictEqual(
          yield* Effect.exit(Effect.provide(Effect.void, Layer.provideMerge(user, LockTrace.layer))),
          Exit.void
        )
      })
    )

    it.effect("the failure of the program is not hidden", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.provide(Effect.fail("failed"), LockTrace.layer))
        assert.deepStrictEqual(exit, Exit.fail("failed"))
      })
    )
  })
})
