import {
  type Acquisition,
  layer,
  Lock,
  type LockEvent,
  makeReadWrite,
  makeSpin,
  type ReadWriteLock,
  type SpinLock
} from "@cut-through/core/runtime/Lock"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Schema from "effect/Schema"
import { interruptEverywhere } from "./stepping.ts"

const FREE = { readers: 0, writer: false, waiting: 0 }
const FREE_SPIN = { held: false, waiting: 0 }

type Kind = "read" | "write"

const withLock = (lock: ReadWriteLock | SpinLock, kind: Kind) =>
  "withLock" in lock ? lock.withLock : kind === "read" ? lock.withRead : lock.withWrite

type Enter = (effect: Effect.Effect<void>) => Effect.Effect<void>

interface Way {
  readonly enter: Enter
  /** How another one has the lock alone. */
  readonly alone: Enter
  readonly stats: () => object
  readonly free: object
}

/** The ways into a lock, each with a lock of its own. */
const ways: Record<string, () => Way> = {
  withRead: () => {
    const lock = makeReadWrite("lock")
    return { enter: lock.withRead, alone: lock.withWrite, stats: lock.stats, free: FREE }
  },
  withWrite: () => {
    const lock = makeReadWrite("lock")
    return { enter: lock.withWrite, alone: lock.withWrite, stats: lock.stats, free: FREE }
  },
  "tryWrite, else withWrite,": () => {
    const lock = makeReadWrite("lock")
    const enter: Enter = (effect) =>
      Effect.suspend(() => lock.tryWrite(() => Effect.yieldNow) ?? lock.withWrite(effect)).pipe(
        Effect.andThen(effect),
        Effect.andThen(effect)
      )
    return { enter, alone: lock.withWrite, stats: lock.stats, free: FREE }
  },
  "a spin lock's withLock": () => {
    const lock = makeSpin("lock")
    return { enter: lock.withLock, alone: lock.withLock, stats: lock.stats, free: FREE_SPIN }
  }
}

/** A fiber that asks for the lock now and holds it until told. */
class Holder {
  readonly kind: Kind
  state: "waiting" | "holding" | "done" = "waiting"
  private readonly gate = Latch.makeUnsafe(false)
  private readonly fiber: Fiber.Fiber<void>

  constructor(lock: ReadWriteLock | SpinLock, kind: Kind, held: Array<Holder> = []) {
    this.kind = kind
    const body = Effect.suspend(() => {
      this.state = "holding"
      held.push(this)
      return this.gate.await
    })
    this.fiber = Effect.runFork(
      Effect.ensuring(
        withLock(lock, kind)(body),
        Effect.sync(() => {
          this.state = "done"
        })
      )
    )
  }

  release(): void {
    Latch.openUnsafe(this.gate)
    // A latch resumes through the scheduler; this test decides itself what comes when.
    this.fiber.currentDispatcher.flush()
  }

  interrupt(): void {
    this.fiber.interruptUnsafe()
  }

  get exit(): Exit.Exit<void> | undefined {
    return this.fiber.pollUnsafe()
  }
}

const states = (...holders: Array<Holder>) => holders.map((holder) => holder.state)

describe("Lock", () => {
  it("readers share it", () => {
    const lock = makeReadWrite("lock")
    const readers = [new Holder(lock, "read"), new Holder(lock, "read"), new Holder(lock, "read")]
    assert.deepStrictEqual(states(...readers), ["holding", "holding", "holding"])
    assert.deepStrictEqual(lock.stats(), { readers: 3, writer: false, waiting: 0 })
    for (const reader of readers) reader.release()
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  it("a writer is alone", () => {
    const lock = makeReadWrite("lock")
    const writer = new Holder(lock, "write")
    const reader = new Holder(lock, "read")
    const second = new Holder(lock, "write")
    assert.deepStrictEqual(lock.stats(), { readers: 0, writer: true, waiting: 2 })
    writer.release()
    assert.deepStrictEqual(states(writer, reader, second), ["done", "holding", "waiting"])
    reader.release()
    assert.deepStrictEqual(states(reader, second), ["done", "holding"])
    second.release()
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  it("a reader does not pass a writer that waits", () => {
    const lock = makeReadWrite("lock")
    const first = new Holder(lock, "read")
    const writer = new Holder(lock, "write")
    const late = [new Holder(lock, "read"), new Holder(lock, "read")]
    assert.deepStrictEqual(states(writer, ...late), ["waiting", "waiting", "waiting"])
    first.release()
    assert.deepStrictEqual(states(writer, ...late), ["holding", "waiting", "waiting"])
    writer.release()
    assert.deepStrictEqual(states(...late), ["holding", "holding"])
    for (const reader of late) reader.release()
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  it("whoever is interrupted while waiting has never held it, and those behind move up", () => {
    const lock = makeReadWrite("lock")
    const held: Array<Holder> = []
    const first = new Holder(lock, "read", held)
    const writer = new Holder(lock, "write", held)
    const reader = new Holder(lock, "read", held)
    writer.interrupt()
    assert.deepStrictEqual(states(writer, reader), ["done", "holding"])
    assert.deepStrictEqual(held, [first, reader])
    assert.isTrue(writer.exit !== undefined && Exit.hasInterrupts(writer.exit))
    first.release()
    reader.release()
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  it("whoever is interrupted while holding it lets it go, once its finalizers are done", () => {
    const lock = makeReadWrite("lock")
    const finalizing = Deferred.makeUnsafe<void>()
    const writer = Effect.runFork(
      lock.withWrite(Effect.onInterrupt(Effect.never, () => Effect.asVoid(Deferred.await(finalizing))))
    )
    const next = new Holder(lock, "write")
    writer.interruptUnsafe()
    assert.deepStrictEqual(states(next), ["waiting"])
    Deferred.doneUnsafe(finalizing, Effect.void)
    assert.deepStrictEqual(states(next), ["holding"])
    next.interrupt()
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  it.effect("whatever the end, the lock is free again and the result is the effect's", () =>
    Effect.gen(function* () {
      const lock = makeReadWrite("lock")
      assert.strictEqual(yield* lock.withRead(Effect.succeed(1)), 1)
      assert.strictEqual(yield* Effect.flip(lock.withWrite(Effect.fail("failed"))), "failed")
      assert.isTrue(Exit.hasDies(yield* Effect.exit(lock.withRead(Effect.die("died")))))
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(lock.withWrite(Effect.interrupt))))
      assert.deepStrictEqual(lock.stats(), FREE)
    })
  )

  for (const [way, make] of Object.entries(ways)) {
    it(`interrupted at any step, ${way} leaves a free lock free`, () => {
      const interrupted = interruptEverywhere({
        setUp: make,
        start: ({ run }, { enter }) => run(enter(Effect.asVoid(Effect.yieldNow))),
        check: ({ free, stats }, where) => assert.deepStrictEqual(stats(), free, where)
      })
      assert.isAbove(interrupted, 12)
    })

    it(`interrupted at any step, ${way} leaves a contended lock to the next`, () => {
      const interrupted = interruptEverywhere({
        setUp: ({ run }) => {
          const lock = make()
          const gate = Latch.makeUnsafe(false)
          const holder = run(lock.alone(gate.await))
          return { gate, holder, lock, next: holder }
        },
        start: ({ run, scheduler }, state) => {
          scheduler.runAll()
          const fiber = run(state.lock.enter(Effect.asVoid(Effect.yieldNow)))
          state.next = run(state.lock.alone(Effect.void))
          return fiber
        },
        afterwards: (_, { gate }) => void Latch.openUnsafe(gate),
        check: ({ lock, next }, where) => {
          assert.isTrue(next.pollUnsafe() !== undefined, `the next one waits for ever, ${where}`)
          assert.deepStrictEqual(lock.stats(), lock.free, where)
        }
      })
      assert.isAbove(interrupted, 12)
    })
  }

  it("10,000 in a row get it one after the other, however short each holds it", () => {
    const lock = makeReadWrite("lock")
    const first = new Holder(lock, "write")
    const order: Array<number> = []
    for (let i = 0; i < 10_000; i++) Effect.runFork(lock.withWrite(Effect.sync(() => order.push(i))))
    assert.strictEqual(lock.stats().waiting, 10_000)
    // None of them on the stack of the one before it, which would end the process.
    first.release()
    assert.deepStrictEqual(
      order,
      order.map((_, i) => i)
    )
    assert.strictEqual(order.length, 10_000)
    assert.deepStrictEqual(lock.stats(), FREE)
  })

  const commands = Arbitrary.array(
    Arbitrary.schema(
      Schema.Struct({
        operation: Schema.Literals(["read", "write", "release", "release", "interrupt", "try"]),
        which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 }))
      })
    ),
    { minLength: 1 }
  )

  it.prop(
    "behaves like a queue from whose head as many are let in as fit",
    [commands],
    ([program]) => {
      const lock = makeReadWrite("lock")
      const held: Array<Holder> = []
      const holding: Array<Holder> = []
      const waiting: Array<Holder> = []
      let heldBefore = 0
      const letIn = () => {
        const isFree = (kind: Kind) =>
          kind === "read" ? holding.every((holder) => holder.kind === "read") : holding.length === 0
        while (waiting.length > 0 && isFree(waiting[0].kind)) holding.push(waiting.shift()!)
      }
      for (const { operation, which } of program) {
        if (operation === "read" || operation === "write") {
          waiting.push(new Holder(lock, operation, held))
        } else if (operation === "release") {
          if (holding.length > 0) holding.splice(which % holding.length, 1)[0].release()
        } else if (operation === "try") {
          const isFree = holding.length + waiting.length === 0
          assert.strictEqual(
            lock.tryWrite(() => {
              waiting.push(new Holder(lock, which % 2 === 0 ? "read" : "write", held))
              assert.deepStrictEqual(lock.stats(), { readers: 0, writer: true, waiting: 1 })
              return which
            }),
            isFree ? which : undefined
          )
        } else {
          const all = [...holding, ...waiting]
          if (all.length === 0) continue
          const one = all[which % all.length]
          const from = holding.includes(one) ? holding : waiting
          from.splice(from.indexOf(one), 1)
          one.interrupt()
        }
        letIn()
        assert.deepStrictEqual(states(...holding), new Array<Holder["state"]>(holding.length).fill("holding"))
        assert.deepStrictEqual(states(...waiting), new Array<Holder["state"]>(waiting.length).fill("waiting"))
        const readers = holding.filter((holder) => holder.kind === "read").length
        assert.deepStrictEqual(lock.stats(), {
          readers,
          writer: holding.length > readers,
          waiting: waiting.length
        })
        // Let in in the order in which they asked.
        const latest = held.slice(heldBefore)
        assert.deepStrictEqual(
          latest,
          holding.filter((holder) => latest.includes(holder))
        )
        heldBefore = held.length
      }
      while (holding.length > 0) {
        holding.shift()!.release()
        letIn()
      }
      assert.deepStrictEqual(lock.stats(), FREE)
    },
    { arbitrary: { runs: 500, size: 60 } }
  )

  describe("tryWrite", () => {
    it("runs as the writer of a free lock", () => {
      const lock = makeReadWrite("lock")
      assert.deepStrictEqual(lock.tryWrite(lock.stats), { readers: 0, writer: true, waiting: 0 })
      assert.deepStrictEqual(lock.stats(), FREE)
    })

    it("does not run when the lock is held, be it by itself", () => {
      const lock = makeReadWrite("lock")
      const tryInVain = () => assert.strictEqual(lock.tryWrite(assert.fail), undefined)
      for (const kind of ["read", "write"] as const) {
        const holder = new Holder(lock, kind)
        tryInVain()
        holder.release()
      }
      assert.isTrue(
        lock.tryWrite(() => {
          tryInVain()
          return true
        })
      )
      assert.deepStrictEqual(lock.stats(), FREE)
    })

    it("never overtakes who waits", () => {
      const lock = makeReadWrite("lock")
      const first = new Holder(lock, "write")
      const order: Array<string> = []
      const attempt = () => lock.tryWrite(() => order.push("try"))
      const use = (who: string) => lock.withWrite(Effect.sync(() => order.push(who)))
      assert.isUndefined(attempt())
      // Tries when it has let the lock go and the next one does not have it yet.
      const second = Effect.runFork(Effect.andThen(use("second"), Effect.sync(attempt)))
      const third = Effect.runFork(use("third"))
      first.release()
      assert.deepStrictEqual(second.pollUnsafe(), Exit.succeed(undefined))
      assert.isDefined(third.pollUnsafe())
      assert.deepStrictEqual(order, ["second", "third"])
      assert.strictEqual(attempt(), 3)
      assert.deepStrictEqual(lock.stats(), FREE)
    })

    it("lets in who has asked meanwhile", () => {
      const lock = makeReadWrite("lock")
      const queue = lock.tryWrite(() => {
        const asked = [new Holder(lock, "read"), new Holder(lock, "read"), new Holder(lock, "write")]
        assert.deepStrictEqual(states(...asked), ["waiting", "waiting", "waiting"])
        return asked
      })
      if (queue === undefined) return assert.fail("the lock was free")
      assert.deepStrictEqual(states(...queue), ["holding", "holding", "waiting"])
      for (const holder of queue) holder.release()
      assert.deepStrictEqual(lock.stats(), FREE)
    })

    it("lets go of the lock when its function throws, and the next ones in", () => {
      const lock = makeReadWrite("lock")
      const queue: Array<Holder> = []
      const failure = new Error("the function's own")
      let caught: unknown
      try {
        lock.tryWrite(() => {
          queue.push(new Holder(lock, "write"), new Holder(lock, "write"))
          throw failure
        })
      } catch (error) {
        caught = error
      }
      assert.strictEqual(caught, failure)
      assert.deepStrictEqual(states(...queue), ["holding", "waiting"])
      for (const holder of queue) holder.release()
      assert.deepStrictEqual(lock.stats(), FREE)
    })
  })

  describe("SpinLock", () => {
    it("one at a time holds it, first come, first served, and the thread goes on", () => {
      const lock = makeSpin("lock")
      const holders = [new Holder(lock, "write"), new Holder(lock, "write"), new Holder(lock, "write")]
      assert.deepStrictEqual(states(...holders), ["holding", "waiting", "waiting"])
      assert.deepStrictEqual(lock.stats(), { held: true, waiting: 2 })
      holders[0].release()
      assert.deepStrictEqual(states(...holders), ["done", "holding", "waiting"])
      holders[1].release()
      holders[2].release()
      assert.deepStrictEqual(lock.stats(), FREE_SPIN)
    })

    it("whoever is interrupted while waiting has never held it", () => {
      const lock = makeSpin("lock")
      const held: Array<Holder> = []
      const holders = [
        new Holder(lock, "write", held),
        new Holder(lock, "write", held),
        new Holder(lock, "write", held)
      ]
      holders[1].interrupt()
      assert.deepStrictEqual(states(...holders), ["holding", "done", "waiting"])
      holders[0].release()
      assert.deepStrictEqual(held, [holders[0], holders[2]])
      holders[2].release()
      assert.deepStrictEqual(lock.stats(), FREE_SPIN)
    })

    it("tryLock runs under a free lock only, and lets go of it whatever the end", () => {
      const lock = makeSpin("lock")
      assert.deepStrictEqual(lock.tryLock(lock.stats), { held: true, waiting: 0 })
      assert.strictEqual(
        lock.tryLock(() => lock.tryLock(assert.fail) ?? "taken"),
        "taken"
      )
      assert.throws(() => lock.tryLock(() => assert.fail("the function's own")), "the function's own")
      const holder = new Holder(lock, "write")
      assert.isUndefined(lock.tryLock(assert.fail))
      holder.release()
      assert.deepStrictEqual(lock.stats(), FREE_SPIN)
    })
  })

  describe("an observer", () => {
    /** Keeps account of a lock by its events, and sees that they are the events of that lock. */
    const account = () => {
      const events: Array<string> = []
      const waiting = new Set<Acquisition>()
      const holding = new Set<Acquisition>()
      const observed = { readers: 0, writer: false, waiting: 0 }
      const observe = (event: LockEvent, acquisition: Acquisition) => {
        events.push(`${acquisition.isTry ? "try" : acquisition.isWriter ? "write" : "read"} ${event}`)
        if (event === "asked") waiting.add(acquisition)
        else if (event === "released") assert.isTrue(holding.delete(acquisition))
        else assert.isTrue(waiting.delete(acquisition))
        if (event === "granted") holding.add(acquisition)
        const readers = [...holding].filter((one) => !one.isWriter).length
        Object.assign(observed, { readers, writer: holding.size > readers, waiting: waiting.size })
        assert.isTrue(!observed.writer || holding.size === 1, "the writer is not alone")
      }
      return { events, observe, observed }
    }

    it("sees who asks, who gets it, who lets it go and who gives up, as it happens", () => {
      const { events, observe, observed } = account()
      const lock = makeReadWrite("lock", observe)
      const reader = new Holder(lock, "read")
      const writer = new Holder(lock, "write")
      const late = new Holder(lock, "read")
      assert.isUndefined(lock.tryWrite(assert.fail))
      assert.deepStrictEqual(events.splice(0), ["read asked", "read granted", "write asked", "read asked"])
      late.interrupt()
      assert.deepStrictEqual(events.splice(0), ["read abandoned"])
      reader.release()
      // What was let go, before who got it then.
      assert.deepStrictEqual(events.splice(0), ["read released", "write granted"])
      writer.release()
      assert.deepStrictEqual(events.splice(0), ["write released"])
      const next = lock.tryWrite(() => new Holder(lock, "write"))
      next?.release()
      assert.deepStrictEqual(events.splice(0), [
        "try asked",
        "try granted",
        "write asked",
        "try released",
        "write granted",
        "write released"
      ])
      assert.deepStrictEqual(observed, FREE)
    })

    it("sees what a spin lock does", () => {
      const { events, observe } = account()
      const lock = makeSpin("lock", observe)
      const holder = new Holder(lock, "write")
      holder.release()
      lock.tryLock(() => {})
      assert.deepStrictEqual(events, [
        "write asked",
        "write granted",
        "write released",
        "try asked",
        "try granted",
        "try released"
      ])
    })

    for (const kind of ["read", "write"] as const) {
      it(`is right at every step of ${kind}, wherever it is interrupted`, () => {
        interruptEverywhere({
          setUp: ({ run }) => {
            const { observe, observed } = account()
            const lock = makeReadWrite("lock", observe)
            const gate = Latch.makeUnsafe(false)
            run(lock.withWrite(gate.await))
            return { gate, lock, observed }
          },
          start: ({ run, scheduler }, { lock }) => {
            scheduler.runAll()
            return run(withLock(lock, kind)(Effect.asVoid(Effect.yieldNow)))
          },
          afterwards: (_, { gate, lock, observed }) => {
            assert.deepStrictEqual(observed, lock.stats())
            Latch.openUnsafe(gate)
          },
          check: ({ lock, observed }, where) => {
            assert.deepStrictEqual(lock.stats(), FREE, where)
            assert.deepStrictEqual(observed, FREE, where)
          }
        })
      })
    }
  })

  it.effect("the service makes locks that know nothing of each other", () =>
    Effect.gen(function* () {
      const { make } = yield* Lock
      const a = make("a")
      const b = make("b")
      assert.deepStrictEqual([a.name, b.name], ["a", "b"])
      assert.strictEqual(yield* a.withWrite(b.withWrite(Effect.sync(() => b.stats().waiting))), 0)
      assert.deepStrictEqual([a.stats(), b.stats()], [FREE, FREE])
    }).pipe(Effect.provide(layer))
  )

  it.effect("the service makes spin locks, and telling an application something is no matter to real locks", () =>
    Effect.gen(function* () {
      const { makeSpin, notifying } = yield* Lock
      const [a, b] = [makeSpin("a"), makeSpin("b")]
      assert.deepStrictEqual([a.name, b.name], ["a", "b"])
      yield* a.withLock(b.withLock(Effect.sync(() => notifying("anything"))))
      assert.deepStrictEqual([a.stats(), b.stats()], [FREE_SPIN, FREE_SPIN])
    }).pipe(Effect.provide(layer))
  )
})
