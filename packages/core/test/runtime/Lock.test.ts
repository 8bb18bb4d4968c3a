import { layer, Lock, makeReadWrite, type ReadWriteLock } from "@cut-through/core/runtime/Lock"
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

type Kind = "read" | "write"

const withLock = (lock: ReadWriteLock, kind: Kind) => (kind === "read" ? lock.withRead : lock.withWrite)

/** A fiber that asks for the lock now and holds it until told. */
class Holder {
  readonly kind: Kind
  state: "waiting" | "holding" | "done" = "waiting"
  private readonly gate = Latch.makeUnsafe(false)
  private readonly fiber: Fiber.Fiber<void>

  constructor(lock: ReadWriteLock, kind: Kind, held: Array<Holder> = []) {
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

  for (const kind of ["read", "write"] as const) {
    it(`interrupted at any step, ${kind} leaves a free lock free`, () => {
      const interrupted = interruptEverywhere({
        setUp: () => makeReadWrite("lock"),
        start: ({ run }, lock) => run(withLock(lock, kind)(Effect.asVoid(Effect.yieldNow))),
        check: (lock, where) => assert.deepStrictEqual(lock.stats(), FREE, where)
      })
      assert.isAbove(interrupted, 12)
    })

    it(`interrupted at any step, ${kind} leaves a contended lock to the next`, () => {
      const interrupted = interruptEverywhere({
        setUp: ({ run }) => {
          const lock = makeReadWrite("lock")
          const gate = Latch.makeUnsafe(false)
          const holder = run(lock.withWrite(gate.await))
          return { gate, holder, lock, next: holder }
        },
        start: ({ run, scheduler }, state) => {
          scheduler.runAll()
          const fiber = run(withLock(state.lock, kind)(Effect.asVoid(Effect.yieldNow)))
          state.next = run(state.lock.withWrite(Effect.void))
          return fiber
        },
        afterwards: (_, { gate }) => void Latch.openUnsafe(gate),
        check: ({ lock, next }, where) => {
          assert.isTrue(next.pollUnsafe() !== undefined, `the next one waits for ever, ${where}`)
          assert.deepStrictEqual(lock.stats(), FREE, where)
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
        operation: Schema.Literals(["read", "write", "release", "release", "interrupt"]),
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
})
