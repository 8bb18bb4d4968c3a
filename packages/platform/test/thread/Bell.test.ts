import type { Target } from "@cut-through/core/memory/Doorbell"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Bell from "@cut-through/platform/thread/Bell"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { reportsOf, turn } from "./bell-fixtures.ts"

const WORDS = Bell.BYTES / 4

/** Both ends of a bell, in one thread. */
const pair = () => {
  const buffer = new SharedArrayBuffer(Bell.BYTES)
  const heated = [0, 0]
  const bells = ([0, 1] as const).map((side) => new Bell.Bell(buffer, side, () => void heated[side]++))
  return { buffer, left: bells[0], right: bells[1], heated }
}

/** Records what is rung, under a name. */
const recorder = () => {
  const rung: Array<string> = []
  const target = (name: string, then: () => void = () => {}): Target => ({
    onRing() {
      rung.push(name)
      then()
    }
  })
  return { rung, target }
}

describe("Bell", () => {
  it("is small, and its two directions share no cache line", () => {
    assert.isBelow(Bell.BYTES, 1024)
    const changed = (side: 0 | 1): Array<number> => {
      const buffer = new SharedArrayBuffer(Bell.BYTES)
      const bell = new Bell.Bell(buffer, side, () => {})
      for (let slot = 0; slot < Bell.SLOTS; slot++) bell.ring(slot)
      new Bell.Bell(buffer, side === 0 ? 1 : 0, () => {}).park()
      return [...new Int32Array(buffer)].flatMap((word, i) => (word === 0 ? [] : [i >>> 4]))
    }
    const lines = [new Set(changed(0)), new Set(changed(1))]
    for (const line of lines[0]) assert.isFalse(lines[1].has(line))
  })

  it("rings each slot of the other side, once", () => {
    const { left, right } = pair()
    const { rung, target } = recorder()
    for (let slot = 0; slot < Bell.SLOTS; slot++) right.attach(slot, target(`${slot}`))
    assert.isFalse(right.hasNews())
    assert.isFalse(right.take())
    for (let slot = 0; slot < Bell.SLOTS; slot++) {
      left.ring(slot)
      left.ring(slot)
      assert.isFalse(left.hasNews())
      assert.isTrue(right.hasNews())
      assert.isTrue(right.take())
      assert.deepStrictEqual(rung.splice(0), [`${slot}`])
      assert.isFalse(right.hasNews())
      assert.isFalse(right.take())
    }
  })

  it("takes all that came meanwhile", () => {
    const { left, right } = pair()
    const { rung, target } = recorder()
    const slots = [1023, 0, 31, 32, 500, 7]
    for (const slot of slots) right.attach(slot, target(`${slot}`))
    for (const slot of [...slots, ...slots]) left.ring(slot)
    assert.isTrue(right.take())
    assert.deepStrictEqual(rung, ["0", "7", "31", "32", "500", "1023"])
  })

  it("both sides may ring", () => {
    const { left, right } = pair()
    const { rung, target } = recorder()
    left.attach(3, target("left"))
    right.attach(3, target("right"))
    left.ring(3)
    right.ring(3)
    assert.isTrue(left.take())
    assert.isTrue(right.take())
    assert.deepStrictEqual(rung, ["left", "right"])
  })

  it("every ring heats: also one that says nothing new", () => {
    const { heated, left } = pair()
    for (let i = 0; i < 3; i++) left.ring(1)
    assert.deepStrictEqual(heated, [3, 0])
  })

  it("nobody is rung where nobody is attached", () => {
    const { left, right } = pair()
    const { rung, target } = recorder()
    left.ring(5)
    assert.isTrue(right.take())
    right.attach(5, target("late"))
    right.take()
    right.detach(5, target("somebody else"))
    left.ring(5)
    right.take()
    assert.deepStrictEqual(rung, ["late"])
  })

  it("slots beyond the last share bits, and are told apart when they leave", () => {
    const { left, right } = pair()
    const { rung, target } = recorder()
    const targets = [5, 5 + Bell.SLOTS, 5 + 2 * Bell.SLOTS].map((slot) => [slot, target(`${slot}`)] as const)
    for (const [slot, it] of targets) right.attach(slot, it)
    left.ring(5 + Bell.SLOTS)
    right.take()
    assert.deepStrictEqual(rung.splice(0), ["5", "1029", "2053"])
    right.detach(...targets[1])
    left.ring(5)
    right.take()
    assert.deepStrictEqual(rung.splice(0), ["5", "2053"])
    for (const entry of targets) right.detach(...entry)
    left.ring(5)
    right.take()
    assert.deepStrictEqual(rung, [])
  })

  describe("whoever is rung may", () => {
    it("leave", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      const own: Target = target("own", () => right.detach(1, own))
      right.attach(1, own)
      left.ring(1)
      right.take()
      left.ring(1)
      right.take()
      assert.deepStrictEqual(rung, ["own"])
    })

    it("make others leave: those with the same bit, and those with one that comes later", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      const second = target("second")
      const later = target("later")
      right.attach(
        1,
        target("first", () => {
          right.detach(1, second)
          right.detach(900, later)
        })
      )
      right.attach(1, second)
      right.attach(1, target("third"))
      right.attach(900, later)
      left.ring(900)
      left.ring(1)
      right.take()
      assert.deepStrictEqual(rung, ["first", "third"])
    })

    it("bring others, who are rung from then on", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      let brought = false
      right.attach(
        1,
        target("first", () => {
          if (!brought) right.attach(1, target("brought"))
          brought = true
        })
      )
      left.ring(1)
      right.take()
      assert.deepStrictEqual(rung.splice(0), ["first"])
      left.ring(1)
      right.take()
      assert.deepStrictEqual(rung, ["first", "brought"])
    })

    it("ring back, and be rung again", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      right.attach(
        1,
        target("right", () => right.ring(1))
      )
      left.attach(
        1,
        target("left", () => {
          if (rung.length < 6) left.ring(1)
        })
      )
      left.ring(1)
      while (right.take() || left.take());
      assert.deepStrictEqual(rung, ["right", "left", "right", "left", "right", "left"])
    })

    it("be rung meanwhile, for a slot that was looked at already", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      right.attach(1, target("one"))
      right.attach(
        2,
        target("two", () => {
          if (rung.length === 2) left.ring(1)
        })
      )
      left.ring(1)
      left.ring(2)
      right.take()
      assert.deepStrictEqual(rung, ["one", "two"])
      assert.isFalse(right.park())
      right.unpark()
      right.take()
      assert.deepStrictEqual(rung, ["one", "two", "one"])
    })

    it("close the bell: nobody else is rung", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      right.attach(
        1,
        target("closes", () => right.close())
      )
      right.attach(1, target("same bit"))
      right.attach(2, target("same leaf"))
      right.attach(999, target("later leaf"))
      for (const slot of [1, 2, 999]) left.ring(slot)
      right.take()
      assert.deepStrictEqual(rung, ["closes"])
    })

    it("fail: it is reported, and all others are rung", () => {
      const { left, right } = pair()
      const { rung, target } = recorder()
      const fails = (name: string) =>
        target(name, () => {
          throw new Error(name)
        })
      right.attach(1, fails("first"))
      right.attach(1, target("same bit"))
      right.attach(2, fails("second"))
      right.attach(999, target("later"))
      for (const slot of [1, 2, 999]) left.ring(slot)
      const reported = reportsOf(() => assert.isTrue(right.take()))
      assert.deepStrictEqual(rung, ["first", "same bit", "second", "later"])
      assert.strictEqual(reported.length, 2)
      assert.include(reported[0], "first")
      assert.include(reported[1], "second")
      assert.isFalse(right.hasNews())
    })
  })

  describe("parked", () => {
    it("does not park when there is news", () => {
      const { left, right } = pair()
      assert.isTrue(right.park())
      right.unpark()
      left.ring(1)
      assert.isFalse(right.park())
      right.unpark()
      right.take()
      assert.isTrue(right.park())
    })

    it("is woken by the first ring, once", async () => {
      const { left, right } = pair()
      let woken = 0
      right.park()
      right.whenRung(() => void woken++)
      await turn()
      assert.strictEqual(woken, 0)
      left.ring(1)
      left.ring(2)
      await turn()
      assert.strictEqual(woken, 1)
    })

    it("nobody is notified who looks", () => {
      const { left, right } = pair()
      const original = Atomics.notify
      let notified = 0
      Atomics.notify = ((...args: Parameters<typeof original>) => {
        notified++
        return original(...args)
      }) as typeof original
      try {
        left.ring(1)
        right.park()
        right.unpark()
        left.ring(2)
        assert.strictEqual(notified, 0)
        right.take()
        right.park()
        for (let slot = 0; slot < 10; slot++) left.ring(slot)
        assert.strictEqual(notified, 1)
      } finally {
        Atomics.notify = original
      }
    })

    it("is woken at once when it was rung before anybody waited", () => {
      const { left, right } = pair()
      let woken = 0
      assert.isTrue(right.park())
      left.ring(1)
      right.whenRung(() => void woken++)
      assert.strictEqual(woken, 1)
    })

    it("parks again and again with one promise", async () => {
      const { left, right } = pair()
      const original = Atomics.waitAsync
      let promises = 0
      Atomics.waitAsync = ((...args: Parameters<typeof original>) => {
        promises++
        return original(...args)
      }) as typeof original
      try {
        let woken = 0
        for (let i = 0; i < 100; i++) {
          assert.isTrue(right.park())
          right.whenRung(() => void woken++)
          right.unpark()
          await turn()
        }
        assert.strictEqual(promises, 1)
        for (let i = 1; i <= 3; i++) {
          assert.isTrue(right.park())
          right.whenRung(() => void woken++)
          left.ring(1)
          await turn()
          assert.strictEqual(woken, i)
          right.unpark()
          right.take()
        }
        assert.strictEqual(promises, 3)
      } finally {
        Atomics.waitAsync = original
      }
    })

    it("a ring that comes when it looks again wakes nobody, or the next parking in vain", async () => {
      const { left, right } = pair()
      let woken = 0
      const wake = () => void woken++
      right.park()
      right.whenRung(wake)
      left.ring(1)
      right.unpark()
      right.take()
      await turn()
      assert.strictEqual(woken, 0)

      right.park()
      right.whenRung(wake)
      left.ring(1)
      right.unpark()
      right.take()
      assert.isTrue(right.park())
      right.whenRung(wake)
      await turn()
      assert.strictEqual(woken, 1)
      // It still hears of the next one.
      right.unpark()
      assert.isTrue(right.park())
      right.whenRung(wake)
      left.ring(1)
      await turn()
      assert.strictEqual(woken, 2)
    })
  })

  describe("closed", () => {
    it("neither rings nor is rung, and has nothing to say", () => {
      const { heated, left, right } = pair()
      const { rung, target } = recorder()
      right.attach(1, target("right"))
      left.ring(1)
      right.close()
      right.close()
      right.attach(1, target("late"))
      assert.isFalse(right.hasNews())
      assert.isFalse(right.take())
      assert.isTrue(right.park())
      right.ring(1)
      assert.isFalse(left.hasNews())
      assert.deepStrictEqual(heated, [1, 0])
      left.ring(1)
      assert.deepStrictEqual(rung, [])
      right.unpark()
      right.detach(1, target("right"))
    })

    it("holds no promise any more, and wakes nobody", async () => {
      const { buffer, right } = pair()
      const words = new Int32Array(buffer)
      let woken = 0
      right.park()
      const parked = words.indexOf(1)
      right.whenRung(() => void woken++)
      right.close()
      await turn()
      right.whenRung(() => void woken++)
      assert.strictEqual(Atomics.notify(words, parked), 0)
      await turn()
      assert.strictEqual(woken, 0)
    })
  })

  describe("with a hostile other side", () => {
    /** Sees every access, keeps it inside of the bell, and lets the other side write before it. */
    class HostileWords extends SharedWords {
      accesses = 0
      before: () => void = () => {}

      private step(word: number): void {
        if (!(word >= 0 && word < WORDS)) assert.fail(`word ${word} is none of the bell's`)
        this.accesses++
        this.before()
      }
      override load(word: number): number {
        this.step(word)
        return super.load(word)
      }
      override peek(word: number): number {
        this.step(word)
        return super.peek(word)
      }
      override store(word: number, value: number): void {
        this.step(word)
        super.store(word, value)
      }
      override or(word: number, bits: number): number {
        this.step(word)
        return super.or(word, bits)
      }
      override exchange(word: number, value: number): number {
        this.step(word)
        return super.exchange(word, value)
      }
    }

    const int32 = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 })))
    const index = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))
    const write = Arbitrary.all({ word: index(WORDS - 1), value: int32, at: index(3) })

    it.prop(
      "whatever it writes at any step: calls end, and ring nobody twice",
      {
        calls: Arbitrary.array(Arbitrary.all({ call: index(6), slot: index(2 * Bell.SLOTS) }), { maxLength: 20 }),
        writes: Arbitrary.array(write, { minLength: 1, maxLength: 60 }),
        side: index(1)
      },
      ({ calls, side, writes }) => {
        const words = new HostileWords(new SharedArrayBuffer(Bell.BYTES))
        const bell = new Bell.Bell(words.buffer as SharedArrayBuffer, side === 0 ? 0 : 1, () => {}, words)
        const rings = new Uint8Array(Bell.SLOTS)
        for (let slot = 0; slot < Bell.SLOTS; slot++) bell.attach(slot, { onRing: () => void rings[slot]++ })
        const other = new Int32Array(words.buffer)
        let next = 0
        words.before = () => {
          const { at, value, word } = writes[next++ % writes.length]
          if (at > 0) other[word] = at === 1 ? -1 : value
        }
        for (const { call, slot } of calls) {
          words.accesses = 0
          rings.fill(0)
          if (call === 0) bell.ring(slot)
          else if (call === 1) bell.hasNews()
          else if (call === 2) bell.park()
          else if (call === 3) bell.unpark()
          else if (call === 4) bell.whenRung(() => {})
          else bell.take()
          if (words.accesses > 2 + 1 + 32) assert.fail(`${words.accesses} accesses for one call`)
          if (rings.some((count) => count > 1)) assert.fail("somebody was rung twice")
        }
        bell.close()
      }
    )

    it("nonsense in every word rings everybody, once", () => {
      const { buffer, right } = pair()
      const { rung, target } = recorder()
      for (let slot = 0; slot < Bell.SLOTS; slot++) right.attach(slot, target(`${slot}`))
      new Int32Array(buffer).fill(-1)
      assert.isTrue(right.take())
      assert.strictEqual(new Set(rung).size, Bell.SLOTS)
      assert.strictEqual(rung.length, Bell.SLOTS)
      assert.isFalse(right.take())
    })

    it("a summary without leaves is nothing", () => {
      const { buffer, right } = pair()
      const words = new Int32Array(buffer)
      words.fill(-1)
      right.take()
      // Whichever word it is.
      for (let word = 0; word < WORDS && !right.hasNews(); word++) {
        words.fill(0)
        words[word] = 1
      }
      assert.isTrue(right.hasNews())
      assert.isFalse(right.take())
      assert.isFalse(right.hasNews())
    })
  })
})
