import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { BYTES, MOST_RECORDS, Record, Ring, WORDS } from "@cut-through/platform/thread/Ring"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { turn } from "./bell-fixtures.ts"

const ALL_WORDS = BYTES / 4

/** Both ends of a ring, in one thread. */
const pair = () => {
  const buffer = new SharedArrayBuffer(BYTES)
  return { buffer, left: new Ring(buffer, 0), right: new Ring(buffer, 1) }
}

const record = (tag: number, ...values: ReadonlyArray<number | string>): Record => {
  const made = new Record().begin(tag)
  for (const value of values) {
    if (typeof value === "number") made.int(value)
    else made.text(value)
  }
  return made
}

/** Takes the next record, which is of numbers, and returns them. */
const take = (ring: Ring, count: number): ReadonlyArray<number> | undefined => {
  const read = new Record()
  if (!ring.look(read)) return undefined
  ring.advance()
  const values = Array.from({ length: count }, () => read.takeInt())
  assert.isTrue(read.isWhole)
  return values
}

const int32 = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 })))
const index = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const value = Arbitrary.schema(
  Schema.Union([Schema.Int.check(Schema.isBetween({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 })), Schema.String])
)

describe("a record", () => {
  it.prop(
    "says what was put in, to the other end too",
    {
      tag: index(255),
      stamp: int32,
      values: Arbitrary.array(value, { maxLength: 12 })
    },
    ({ stamp, tag, values }) => {
      const { left, right } = pair()
      const written = record(tag, ...values)
      assert.isTrue(written.fits)
      assert.isTrue(left.write(written, stamp))
      const read = new Record()
      assert.isTrue(right.look(read))
      right.advance()
      assert.deepStrictEqual([read.tag, read.stamp], [tag, stamp])
      const found = values.map((value) => (typeof value === "number" ? read.takeInt() : read.takeText()))
      assert.deepStrictEqual(found, values)
      assert.isTrue(read.isWhole)
      assert.isFalse(right.look(read))
    }
  )

  it("takes three texts, as long as they may be", () => {
    const text = "\uffff".repeat(256)
    const long = record(1, text, text, text)
    assert.isTrue(long.fits)
    long.rewind()
    assert.deepStrictEqual([long.takeText(), long.takeText(), long.takeText()], [text, text, text])
    assert.isTrue(long.isWhole)
  })

  it("does not fit with what is too long, too much, or no number of 32 bits", () => {
    const text = "x".repeat(200)
    for (const values of [
      ["x".repeat(257)],
      [text, text, text, text, text, text],
      Array.from({ length: 511 }, () => 1),
      [2 ** 31],
      [-(2 ** 31) - 1],
      [0.5],
      [Number.NaN],
      [Infinity],
      [Number.MAX_SAFE_INTEGER]
    ]) {
      assert.isFalse(record(1, ...values).fits, String(values[0]))
    }
    assert.isTrue(record(1, ...Array.from({ length: 510 }, () => -1)).fits)
    // The next one is not the worse for it.
    assert.isTrue(new Record().begin(1).int(0.5).begin(2).int(1).fits)
  })

  it("is not whole when less is there than is taken, or more", () => {
    for (const [values, takes] of [
      [[], (it: Record) => it.takeInt()],
      [[], (it: Record) => it.takeText()],
      [[1, 2], (it: Record) => it.takeInt()],
      [["a", 1], (it: Record) => it.takeText()],
      [[2], (it: Record) => it.takeIndex(2)],
      [[-1], (it: Record) => it.takeIndex(2)],
      [[-1], (it: Record) => it.takeText()],
      [[3, 0], (it: Record) => it.takeText()],
      [[257, ...new Array(300).fill(0)], (it: Record) => it.takeText()],
      [[2 ** 31 - 1, 0], (it: Record) => it.takeText()]
    ] as const) {
      const it = record(1, ...values)
      it.rewind()
      takes(it)
      assert.isFalse(it.isWhole, String(values))
    }
  })
})

describe("Ring", () => {
  it("is small, and its two ends write no cache line together but to say that one has parked", () => {
    assert.isAtMost(BYTES, 40_000)
    const written = (side: 0 | 1): Set<number> => {
      const buffer = new SharedArrayBuffer(BYTES)
      const ring = new Ring(buffer, side)
      const other = new Ring(buffer, side === 0 ? 1 : 0)
      other.write(record(1, 1), 1)
      const before = new Int32Array(buffer).slice()
      ring.write(record(1, 1), 1)
      take(ring, 1)
      return new Set([...new Int32Array(buffer)].flatMap((word, i) => (word === before[i] ? [] : [i >>> 4])))
    }
    const [left, right] = [written(0), written(1)]
    for (const line of left) assert.isFalse(right.has(line))
  })

  it("gives what was written, in order, each way", () => {
    const { left, right } = pair()
    for (let i = 0; i < 10; i++) {
      assert.isTrue(left.write(record(1, i, -1 - i), i))
      assert.isTrue(right.write(record(1, 100 + i), i))
    }
    assert.isTrue(left.hasNews() && right.hasNews())
    for (let i = 0; i < 10; i++) {
      assert.deepStrictEqual(take(right, 2), [i, -1 - i])
      assert.deepStrictEqual(take(left, 1), [100 + i])
    }
    assert.isFalse(left.hasNews() || right.hasNews())
    assert.isUndefined(take(left, 1))
    assert.isUndefined(take(right, 1))
  })

  it("leaves a record where it is until it is taken", () => {
    const { left, right } = pair()
    left.write(record(1, 1), 0)
    left.write(record(1, 2), 0)
    const read = new Record()
    for (let i = 0; i < 3; i++) {
      assert.isTrue(right.look(read))
      assert.strictEqual(read.takeInt(), 1)
    }
    right.advance()
    assert.deepStrictEqual(take(right, 1), [2])
  })

  it.prop(
    "loses nothing and mixes nothing up, however full it is, round and round",
    [Arbitrary.array(Arbitrary.all({ isWrite: index(1), count: index(120), length: index(100) }), { minLength: 1 })],
    ([steps]) => {
      const { left, right } = pair()
      const under: Array<ReadonlyArray<number>> = []
      let next = 0
      let words = 0
      const takeNext = () => {
        const expected = under.shift()!
        words -= expected.length + 2
        assert.deepStrictEqual(take(right, expected.length), expected)
      }
      for (const { count, isWrite, length } of steps) {
        for (let i = 0; i < count; i++) {
          if (isWrite === 0) {
            if (under.length === 0) assert.isUndefined(take(right, 0))
            else takeNext()
            continue
          }
          const values = Array.from({ length }, () => next++)
          const hasRoom = words + length + 2 <= WORDS
          assert.strictEqual(left.write(record(1, ...values), next), hasRoom)
          if (!hasRoom) continue
          under.push(values)
          words += length + 2
        }
      }
      while (under.length > 0) takeNext()
      assert.isUndefined(take(right, 0))
    }
  )

  it("holds as many records as it says, and not one more", () => {
    const { left, right } = pair()
    for (let i = 0; i < MOST_RECORDS; i++) assert.isTrue(left.write(record(1), i))
    assert.isFalse(left.write(record(1), 0))
    const read = new Record()
    assert.isTrue(right.look(read))
    right.advance()
    assert.isTrue(left.write(record(2), 0))
    assert.isFalse(left.write(record(1), 0))
  })

  it("goes on where its counts begin anew", () => {
    const { buffer, left, right } = pair()
    const near = 2 ** 31 - 5
    Object.assign(left, { tail: near, seenHead: near })
    Object.assign(right, { head: near, seenTail: near })
    // The first two words of the direction to the right: how far the writer has come, and how far the reader.
    const words = new Int32Array(buffer)
    const probe = pair()
    probe.left.write(record(0), 0)
    const at = [...new Int32Array(probe.buffer)].lastIndexOf(2, ALL_WORDS - WORDS - 1)
    words[at] = near
    words[at + 16] = near
    for (let i = 0; i < 2 * WORDS; i++) {
      assert.isTrue(left.write(record(1, i), 0), String(i))
      assert.deepStrictEqual(take(right, 1), [i])
    }
    assert.isFalse(right.isBroken)
  })

  describe("parking", () => {
    it("is refused when there is something", () => {
      const { left, right } = pair()
      assert.isTrue(right.park())
      right.unpark()
      left.write(record(1), 0)
      assert.isFalse(right.park())
    })

    it("ends with the next record, in a turn of the event loop, and once", async () => {
      const { left, right } = pair()
      let woken = 0
      assert.isTrue(right.park())
      right.whenRung(() => void woken++)
      await turn()
      assert.strictEqual(woken, 0)
      left.write(record(1), 0)
      left.write(record(1), 0)
      assert.strictEqual(woken, 0)
      await turn()
      assert.strictEqual(woken, 1)
    })

    it("ends at once when something has come since", () => {
      const { left, right } = pair()
      let woken = 0
      assert.isTrue(right.park())
      left.write(record(1), 0)
      right.whenRung(() => void woken++)
      assert.strictEqual(woken, 1)
    })

    it("begins and ends again and again with one promise", async () => {
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
        }
        assert.strictEqual(promises, 1)
        for (let i = 1; i <= 3; i++) {
          assert.isTrue(right.park())
          right.whenRung(() => void woken++)
          left.write(record(1, i), 0)
          await turn()
          assert.strictEqual(woken, i)
          right.unpark()
          assert.deepStrictEqual(take(right, 1), [i])
        }
        assert.strictEqual(promises, 3)
      } finally {
        Atomics.waitAsync = original
      }
    })
  })

  describe("closed", () => {
    it("neither writes nor reads", () => {
      const { left, right } = pair()
      left.write(record(1), 0)
      right.close()
      right.close()
      assert.isFalse(right.hasNews())
      assert.isFalse(right.look(new Record()))
      assert.isFalse(right.write(record(1), 0))
      assert.isTrue(right.park())
      assert.isFalse(left.hasNews())
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
    /** Sees every access, keeps it inside of the ring, and lets the other side write before it. */
    class HostileWords extends SharedWords {
      accesses = 0
      before: () => void = () => {}

      private step(word: number): void {
        if (!(word >= 0 && word < ALL_WORDS)) assert.fail(`word ${word} is none of the ring's`)
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
      override init(word: number, value: number): void {
        this.step(word)
        super.init(word, value)
      }
      override exchange(word: number, value: number): number {
        this.step(word)
        return super.exchange(word, value)
      }
    }

    const write = Arbitrary.all({ word: index(ALL_WORDS - 1), place: index(7), value: int32, at: index(4) })
    /** Counts, the flag and the first words of records are where it hurts. */
    const DIRECTION = ALL_WORDS / 2
    const places = [0, 16, 32, 48, 49, 50, 51, 52]

    it.prop(
      "whatever it writes at any step: calls end, and what is read is of this thread's memory",
      {
        calls: Arbitrary.array(index(7), { maxLength: 40 }),
        writes: Arbitrary.array(write, { minLength: 1, maxLength: 60 }),
        side: index(1)
      },
      ({ calls, side, writes }) => {
        const words = new HostileWords(new SharedArrayBuffer(BYTES))
        const ring = new Ring(words.buffer as SharedArrayBuffer, side === 0 ? 0 : 1, words)
        const other = new Int32Array(words.buffer)
        let next = 0
        words.before = () => {
          const { at, place, value, word } = writes[next++ % writes.length]
          const where = place % 2 === 0 ? word : places[place] + (word % 2) * DIRECTION
          if (at > 0) other[where] = at === 1 ? -1 : at === 2 ? value & 511 : at === 3 ? value & 8191 : value
        }
        const read = new Record()
        for (const call of calls) {
          words.accesses = 0
          if (call === 0) ring.write(record(1, 1, "text"), 1)
          else if (call === 1) ring.hasNews()
          else if (call === 2) ring.park()
          else if (call === 3) ring.unpark()
          else if (call === 4) ring.whenRung(() => {})
          else if (ring.look(read)) {
            ring.advance()
            read.takeInt()
            read.takeText()
            const { isWhole } = read
            assert.strictEqual(read.isWhole, isWhole)
          }
          if (words.accesses > 2 + 512 + 1) assert.fail(`${words.accesses} accesses for one call`)
        }
        ring.close()
      }
    )

    it("counts and lengths that make no sense end the reading, and nothing else", () => {
      const tamper = (change: (words: Int32Array, tail: number, first: number) => void): Ring => {
        const { buffer, left, right } = pair()
        left.write(record(7, 1), 5)
        const words = new Int32Array(buffer)
        const tail = words.indexOf(3)
        change(words, tail, words.indexOf((7 << 16) | 3))
        const read = new Record()
        assert.isFalse(right.look(read))
        assert.isTrue(right.isBroken)
        assert.isFalse(right.hasNews())
        assert.isTrue(right.park())
        right.whenRung(() => assert.fail("woken"))
        assert.isTrue(right.write(record(1, 9), 0))
        assert.deepStrictEqual(take(left, 1), [9])
        return right
      }
      for (const count of [-1, WORDS + 1, 2 ** 31 - 1, -(2 ** 31)]) tamper((words, tail) => (words[tail] = count))
      for (const length of [0, 1, 4, 513, 65_535]) tamper((words, _, first) => (words[first] = (7 << 16) | length))
    })

    it("a reader that claims what it has not read gives no room", () => {
      for (const head of [1, WORDS, -(2 ** 31), 2 ** 31 - 1]) {
        const { buffer, left, right } = pair()
        const words = new Int32Array(buffer)
        while (left.write(record(1), 0));
        take(right, 0)
        const at = words.indexOf(2)
        words[at] = WORDS + head
        assert.isFalse(left.write(record(1), 0), String(head))
      }
    })
  })
})
