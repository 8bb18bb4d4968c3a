import type { SharedWords } from "@cut-through/core/memory/SharedWords"
import { Interleavings } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"

type Words = Interleavings.SteppedWords

const int = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

describe("exploring by source sets, against every interleaving there is", () => {
  const WORDS = 3

  interface Instruction {
    readonly what: number
    readonly word: number
    readonly value: number
  }

  const instruction: Arbitrary.Arbitrary<Instruction> = Arbitrary.all({
    what: int(0, 8),
    word: int(0, WORDS - 1),
    value: int(0, 2)
  })

  /** What it does next depends on what it has read. */
  const program =
    (instructions: ReadonlyArray<Instruction>) =>
    (words: Words): ReadonlyArray<number> => {
      const seen: Array<number> = []
      words.note(seen)
      for (const { value, what, word } of instructions) {
        switch (what) {
          case 0:
          case 1:
            seen.push(words.load(word))
            break
          case 2:
          case 3:
            words.store(word, value)
            break
          case 4:
            seen.push(words.add(word, value))
            break
          case 5:
            seen.push(words.exchange(word, value))
            break
          case 6:
            words.restWhile(word, value)
            break
          case 7:
            words.waitWhile(word, value)
            break
          default:
            if (words.load(word) === value) words.or((word + 1) % WORDS, 4)
        }
      }
      return seen
    }

  const endsOf = (
    programs: ReadonlyArray<ReadonlyArray<Instruction>>,
    reduction: "source-sets" | "none",
    isDeadly: boolean
  ) => {
    const ends = new Set<string>()
    const threads = Object.fromEntries(programs.map((instructions, i) => [`t${i}`, program(instructions)]))
    const report = Interleavings.explore({
      memory: WORDS * 4,
      reduction,
      threads,
      deaths: isDeadly ? ["t0", "t1"] : [],
      afterDeath: (words) => words.or(0, 8),
      check({ dead, memory, notes, results }) {
        const words = Array.from({ length: WORDS }, (_, word) => memory.load(word))
        ends.add(JSON.stringify([words, notes, Object.keys(results).map((name) => results[name] !== undefined), dead]))
      }
    })
    return { ends, report }
  }

  const check = (programs: ReadonlyArray<ReadonlyArray<Instruction>>, isDeadly: boolean) => {
    const all = endsOf(programs, "none", isDeadly)
    const reduced = endsOf(programs, "source-sets", isDeadly)
    assert.strictEqual(reduced.report.counterexample === undefined, all.report.counterexample === undefined)
    if (all.report.counterexample !== undefined) return
    assert.deepStrictEqual([...reduced.ends].toSorted(), [...all.ends].toSorted())
    assert.isAtMost(reduced.report.executions, all.report.executions)
    if (!isDeadly) assert.strictEqual(all.report.redundant, 0)
  }

  const instructions = (most: number) => Arbitrary.array(instruction, { maxLength: most })

  it.prop("two threads", { one: instructions(6), two: instructions(5) }, ({ one, two }) => check([one, two], false), {
    arbitrary: { runs: 600 }
  })

  it.prop(
    "three threads",
    { one: instructions(4), two: instructions(3), three: instructions(3) },
    ({ one, three, two }) => check([one, two, three], false),
    { arbitrary: { runs: 400 } }
  )

  it.prop(
    "one of two dies",
    { one: instructions(4), two: instructions(4) },
    ({ one, two }) => check([one, two], true),
    { arbitrary: { runs: 300 } }
  )
})

const increment = (words: Words): void => words.store(0, words.load(0) + 1)

const expect = (condition: boolean, message: string): void => {
  if (!condition) throw new Error(message)
}

const nothing = (): void => {}

const found = (report: Interleavings.Report): Interleavings.Counterexample =>
  report.counterexample ?? assert.fail(`nothing found: ${Interleavings.format(report)}`)

describe("what is found", () => {
  it("a lost update, with its schedule, which can be replayed", () => {
    const options = {
      memory: 8,
      setup: (memory: SharedWords) => memory.store(0, 5),
      threads: { one: increment, two: increment },
      nameWord: (word: number) => (word === 0 ? "counter" : undefined),
      check: ({ memory }: { readonly memory: SharedWords }) => expect(memory.load(0) === 7, "lost one")
    }
    const report = Interleavings.explore(options)
    const counterexample = found(report)
    assert.strictEqual(counterexample.message, "lost one")
    assert.isFalse(report.isComplete)
    assert.strictEqual(counterexample.schedule, "one 1, two 2, one 1")
    assert.deepStrictEqual(counterexample.steps, [
      { thread: "one", operation: "load", where: "counter", value: undefined, result: 5 },
      { thread: "two", operation: "load", where: "counter", value: undefined, result: 5 },
      { thread: "two", operation: "store", where: "counter", value: 6, result: 5 },
      { thread: "one", operation: "store", where: "counter", value: 6, result: 6 }
    ])
    assert.strictEqual(
      Interleavings.format(report),
      `lost one
    1  one  load     counter -> 5
    2  two  load     counter -> 5
    3  two  store    counter 6 -> 5
    4  one  store    counter 6 -> 6
schedule: one 1, two 2, one 1
after 2 executions, 7 states, at most 4 accesses`
    )
    assert.deepStrictEqual(found(Interleavings.replay(options, counterexample.schedule)), counterexample)
    assert.isUndefined(Interleavings.replay(options, "one 2, two 2").counterexample)
    // What is left of a schedule goes on as it comes.
    assert.strictEqual(found(Interleavings.replay(options, "two 1, one 1")).message, "lost one")
    assert.strictEqual(Interleavings.replay(options, "").executions, 1)
    assert.throws(() => Interleavings.replay(options, "one 3"), /at step 3 one cannot go on/)
    assert.throws(() => Interleavings.replay(options, "nobody 1"), /at step 1 nobody cannot go on/)
    assert.throws(() => Interleavings.verify(options), Interleavings.InterleavingError, /lost one/)
  })

  it("what a thread throws", () => {
    const counterexample = found(
      Interleavings.explore({
        memory: 4,
        threads: {
          one: (words) => words.store(0, 1),
          two: (words) => expect(words.load(0) === 0, "not zero")
        }
      })
    )
    assert.strictEqual(counterexample.message, "two failed: not zero")
    assert.instanceOf(counterexample.cause, Error)
    assert.strictEqual(counterexample.schedule, "one 1, two 1")
  })

  it("a lost wake-up: who waits without having looked", () => {
    const program = (looks: boolean) => ({
      memory: 8,
      threads: {
        // Publishes, and wakes who says that it waits.
        one(words: Words) {
          words.store(0, 1)
          if (words.load(1) === 1) words.store(1, 0)
        },
        two(words: Words) {
          if (words.load(0) === 1) return
          words.store(1, 1)
          if (looks && words.load(0) === 1) return
          words.waitWhile(1, 1)
        }
      }
    })
    assert.match(found(Interleavings.explore(program(false))).message, /^two waits for ever \(wait word 1 1\)$/)
    assert.isAbove(Interleavings.verify(program(true)).executions, 3)
  })

  it("a deadlock of two locks, and not of who rests", () => {
    const lock = (words: Words, word: number) => {
      while (words.exchange(word, 1) === 1) words.waitWhile(word, 1)
    }
    const both =
      (first: number, second: number) =>
      (words: Words): void => {
        lock(words, first)
        lock(words, second)
        words.store(second, 0)
        words.store(first, 0)
      }
    const counterexample = found(Interleavings.explore({ memory: 8, threads: { one: both(0, 1), two: both(1, 0) } }))
    assert.strictEqual(counterexample.message, "one waits for ever (wait word 1 1), two waits for ever (wait word 0 1)")
    Interleavings.verify({ memory: 8, threads: { one: both(0, 1), two: both(0, 1) } })
    const rested = Interleavings.verify({
      memory: 4,
      threads: { one: (words) => words.restWhile(0, 0) },
      check: ({ notes, results }) => assert.deepStrictEqual([notes, results], [{ one: undefined }, { one: undefined }])
    })
    assert.deepInclude(rested, { executions: 1, states: 0 })
  })

  describe("bytes that two threads touch", () => {
    const bytes = (writes: (words: Words) => void, reads: (words: Words) => number) => ({
      memory: 16,
      threads: {
        writer(words: Words) {
          words.copyIn(8, Uint8Array.of(1, 2, 3), 0, 3)
          writes(words)
        },
        reader(words: Words) {
          if (reads(words) === 0) return
          const target = new Uint8Array(4)
          words.copyOut(target, 1, 8, 11)
          assert.deepStrictEqual(target, Uint8Array.of(0, 1, 2, 3))
        }
      }
    })
    const publish = (words: Words) => words.store(0, 1)

    it("with an atomic store and a load in between, are in order", () => {
      const report = Interleavings.verify(bytes(publish, (words) => words.load(0)))
      assert.strictEqual(report.executions, 2)
    })

    it("with nothing in between, are a data race", () => {
      const counterexample = found(Interleavings.explore(bytes(nothing, () => 1)))
      assert.match(counterexample.message, /^data race: nothing orders reader \(copyOut bytes 8 to 11\) and writer/)
    })

    it("with a plain read in between, are a data race, though the bytes are right", () => {
      const counterexample = found(Interleavings.explore(bytes(publish, (words) => words.peek(0))))
      assert.match(counterexample.message, /^data race/)
    })

    it("with a plain write in between, are a data race", () => {
      const counterexample = found(
        Interleavings.explore(
          bytes(
            (words) => words.init(0, 1),
            (words) => words.load(0)
          )
        )
      )
      assert.match(counterexample.message, /^data race/)
    })

    it("with a wait in between, are in order", () => {
      Interleavings.verify(
        bytes(publish, (words) => {
          words.waitWhile(0, 0)
          return 1
        })
      )
    })

    it("are put back between executions, those that were zeroed too", () => {
      Interleavings.verify({
        memory: 16,
        setup: (memory) => memory.copyIn(8, Uint8Array.of(7, 7), 0, 2),
        threads: {
          one(words) {
            words.add(0, 1)
            const target = new Uint8Array(2)
            words.copyOut(target, 0, 8, 10)
            assert.deepStrictEqual(target, Uint8Array.of(7, 7))
            words.zero(8, 10)
            words.copyOut(target, 0, 8, 10)
            assert.deepStrictEqual(target, Uint8Array.of(0, 0))
          },
          two: (words) => words.add(0, 1)
        }
      })
    })
  })

  it("an execution without an end", () => {
    const counterexample = found(
      Interleavings.explore({
        memory: 4,
        maxOperations: 50,
        threads: {
          one(words) {
            while (words.load(0) === 0);
          }
        }
      })
    )
    assert.strictEqual(counterexample.message, "no end after 50 accesses")
    assert.strictEqual(counterexample.schedule, "one 51")
  })

  it("a thread that does something else when it runs again", () => {
    let runs = 0
    const counterexample = found(
      Interleavings.explore({
        memory: 8,
        threads: {
          one(words) {
            words.store(0, runs++)
            words.load(1)
          },
          two: (words) => words.store(1, 1)
        }
      })
    )
    assert.match(
      counterexample.message,
      /one is not deterministic: store word 0 \d where it was store word 0 \d before/
    )
  })

  it("what a thread reaches outside of the memory, and a view", () => {
    const messages = [
      (words: Words) => words.load(2),
      (words: Words) => words.store(-1, 0),
      (words: Words) => words.load(Number.NaN),
      (words: Words) => words.zero(4, 9),
      (words: Words) => words.view(0, 4)
    ].map((one) => Interleavings.explore({ memory: 8, threads: { one } }).counterexample?.message)
    assert.deepStrictEqual(messages, [
      "one failed: word 2 is outside of the memory",
      "one failed: word -1 is outside of the memory",
      "one failed: word NaN is outside of the memory",
      "one failed: bytes 4 to 9 are outside of the memory",
      "one failed: a view of bytes 0 to 4 cannot be explored: copy them"
    ])
  })
})

describe("what is explored", () => {
  it("accesses that have nothing to do with each other, once", () => {
    const writes = (word: number) => (words: Words) => {
      for (let i = 0; i < 10; i++) words.store(word, i)
    }
    const report = Interleavings.verify({ memory: 12, threads: { one: writes(0), two: writes(1), three: writes(2) } })
    assert.deepInclude(report, { executions: 1, redundant: 0, states: 30, longest: 30, isComplete: true })
  })

  it("readers in one order, writers in each", () => {
    const threads = (program: (words: Words) => unknown) => ({ one: program, two: program, three: program })
    assert.strictEqual(Interleavings.verify({ memory: 4, threads: threads((words) => words.load(0)) }).executions, 1)
    assert.strictEqual(Interleavings.verify({ memory: 4, threads: threads((words) => words.add(0, 1)) }).executions, 6)
    const all = { memory: 4, threads: threads((words) => words.load(0)), reduction: "none" } as const
    assert.strictEqual(Interleavings.verify(all).executions, 6)
  })

  it("all words of a memory", () => {
    const report = Interleavings.verify({
      memory: 4,
      threads: {
        one(words) {
          assert.strictEqual(words.byteLength, 4)
          words.init(0, 0b1100)
          assert.strictEqual(words.peek(0), 0b1100)
          assert.strictEqual(words.and(0, 0b0101), 0b1100)
          assert.strictEqual(words.or(0, 0b0011), 0b0100)
          assert.strictEqual(words.exchange(0, -1), 0b0111)
          assert.strictEqual(words.add(0, 3), -1)
          words.store(0, 2 ** 31 + words.load(0))
          return words.load(0)
        }
      },
      check: ({ results }) => assert.strictEqual(results.one, -(2 ** 31) + 2)
    })
    assert.strictEqual(report.states, 9)
  })

  it("what is prepared has happened before anybody begins", () => {
    const seen = new Set<number>()
    const prepares = (words: Words): number => {
      words.prepare(() => words.add(0, 1))
      words.prepare(() => words.add(0, 1))
      return words.add(0, 10)
    }
    const report = Interleavings.verify({
      memory: 4,
      threads: { one: prepares, two: prepares },
      check: ({ results }) => void seen.add(results.one!)
    })
    assert.strictEqual(report.states, 4)
    assert.deepStrictEqual([...seen].toSorted(), [14, 4])
    const counterexample = found(
      Interleavings.explore({
        memory: 4,
        threads: {
          one(words) {
            words.load(0)
            words.prepare(nothing)
          }
        }
      })
    )
    assert.strictEqual(counterexample.message, "one failed: `prepare` comes before everything else")
  })

  it("threads that catch what unwinds them", () => {
    const catching = (words: Words): void => {
      for (let i = 0; i < 3; i++) {
        try {
          words.add(0, 1)
        } catch {}
      }
    }
    const report = Interleavings.verify({
      memory: 4,
      threads: { one: catching, two: catching },
      check: ({ memory }) => assert.strictEqual(memory.load(0), 6)
    })
    assert.strictEqual(report.executions, 20)
    Interleavings.verify({
      memory: 4,
      threads: {
        one(words) {
          try {
            words.waitWhile(0, 0)
          } catch {}
          return words.load(0)
        },
        two: (words) => words.store(0, 1)
      },
      check: ({ results }) => assert.strictEqual(results.one, 1)
    })
  })

  it("a check may tidy up: nothing of that stays", () => {
    Interleavings.verify({
      memory: 8,
      threads: { one: increment, two: nothing, three: (words) => words.load(0) },
      check({ memory }) {
        assert.deepStrictEqual([memory.load(0), memory.load(1)], [1, 0])
        memory.store(0, 9)
        memory.store(1, 9)
      }
    })
  })

  it("not more than asked for", () => {
    const adds = (words: Words) => words.add(0, 1)
    const options = { memory: 4, threads: { one: adds, two: adds, three: adds }, maxExecutions: 4 }
    const report = Interleavings.explore(options)
    assert.deepInclude(report, { executions: 4, isComplete: false, counterexample: undefined })
    assert.match(Interleavings.format(report), /given up before all was explored$/)
    assert.throws(() => Interleavings.verify(options), Interleavings.InterleavingError)
    const threads = Object.fromEntries(Array.from({ length: 31 }, (_, i) => [`t${i}`, adds]))
    assert.throws(() => Interleavings.explore({ memory: 4, threads }), /at most 30 threads/)
  })
})

describe("deaths", () => {
  it("come before each access, also of one that waits", () => {
    const ends = new Set<string>()
    const options = {
      memory: 8,
      threads: {
        one(words: Words) {
          words.note("began")
          words.store(0, 1)
          words.note("stored")
          words.waitWhile(1, 0)
          words.note("woken")
          words.store(0, 2)
        },
        two: (words: Words) => words.store(1, 1)
      },
      deaths: ["one"] as const,
      check: ({ dead, memory, notes }: Interleavings.End<Record<string, Interleavings.Program<unknown>>>) =>
        void ends.add(`${dead} ${notes.one} ${memory.load(0)} ${memory.load(1)}`)
    }
    const report = Interleavings.verify(options)
    assert.strictEqual(report.deaths, 3)
    assert.deepStrictEqual([...ends].toSorted(), [
      "one began 0 1",
      "one stored 1 1",
      "one woken 1 1",
      "undefined woken 2 1"
    ])
  })

  it("are noticed by a thread of their own, and are part of the schedule", () => {
    const options = {
      memory: 12,
      threads: {
        one(words: Words) {
          words.store(0, 1)
          words.store(1, 1)
        },
        two: (words: Words) => words.waitWhile(1, 0)
      },
      deaths: ["one"] as const
    }
    const counterexample = found(Interleavings.explore(options))
    assert.strictEqual(counterexample.message, "two waits for ever (wait word 1 0)")
    assert.strictEqual(counterexample.schedule, "one dies after 0: one 1")
    assert.strictEqual(found(Interleavings.replay(options, counterexample.schedule)).message, counterexample.message)
    const dead = new Set<string>()
    Interleavings.verify({
      ...options,
      afterDeath(words, name) {
        dead.add(name)
        const word = words.prepare(() => 1 + words.load(2))
        words.or(word, 2)
      }
    })
    assert.deepStrictEqual([...dead], ["one"])
  })
})
