import * as Bell from "@cut-through/platform/thread/Bell"
import { assert, describe, it } from "@effect/vitest"
import { explore, type Program, type SteppedWords } from "./bell-interleavings.ts"

const buffer = new SharedArrayBuffer(Bell.BYTES)
const nothing = () => {}

// Behind the bell: words that the rings are about. Different slots of a test have different ones.
const WORDS = Bell.BYTES / 4
const payload = (side: number, slot: number): number => WORDS + side * 8 + (slot % 7)
const MEMORY_WORDS = WORDS + 16

/** Where a thread says that it has parked: found by doing so. */
const PARKED = ([0, 1] as const).map((side) => {
  const memory = new SharedArrayBuffer(Bell.BYTES)
  new Bell.Bell(memory, side, nothing).park()
  return new Int32Array(memory).indexOf(1)
})

/** What a thread has seen: the last value for each slot, and how often it was rung. */
interface Seen {
  readonly values: Record<number, number>
  rings: number
}

const bellOf = (words: SteppedWords, side: 0 | 1) => new Bell.Bell(buffer, side, nothing, words)

const writes =
  (slots: ReadonlyArray<number>): Program<Seen> =>
  (words) => {
    const bell = bellOf(words, 0)
    const values: Record<number, number> = {}
    for (const slot of slots) {
      values[slot] = (values[slot] ?? 0) + 1
      words.store(payload(1, slot), values[slot])
      bell.ring(slot)
    }
    return { values, rings: slots.length }
  }

/** Takes what there is, parks, and waits, for ever. */
const attend = (words: SteppedWords, bell: Bell.Bell, side: 0 | 1): void => {
  while (!words.isOver) {
    if (bell.take()) continue
    if (bell.park()) words.waitWhile(PARKED[side], 1)
    bell.unpark()
  }
}

const reads =
  (slots: ReadonlyArray<number>): Program<Seen> =>
  (words) => {
    const bell = bellOf(words, 1)
    const seen: Seen = { values: {}, rings: 0 }
    for (const slot of new Set(slots)) {
      bell.attach(slot, {
        onRing() {
          const value = words.load(payload(1, slot))
          if (words.isOver) return
          seen.values[slot] = value
          seen.rings++
        }
      })
    }
    attend(words, bell, 1)
    return seen
  }

describe("a bell, at every interleaving", () => {
  const programs: ReadonlyArray<readonly [name: string, rings: ReadonlyArray<number>]> = [
    ["one ring", [0]],
    ["two rings of one slot", [5, 5]],
    ["three rings of one slot", [1023, 1023, 1023]],
    ["slots of one leaf", [0, 31]],
    ["slots of two leaves", [0, 32]],
    ["a slot between rings of another one", [7, 1000, 7]],
    ["two slots of a leaf, and one of them again", [64, 65, 64]],
    ["slots that share a bit", [3, 3 + Bell.SLOTS]]
  ]

  for (const [name, rings] of programs) {
    it(`${name}: all that was rung is seen, and then the reader sleeps`, () => {
      const ends = explore(MEMORY_WORDS, [writes(rings), reads(rings)], (memory, [written, seen]) => {
        assert.deepStrictEqual(seen.values, written.values)
        assert.strictEqual(memory[PARKED[1]], 1)
      })
      assert.isAbove(ends, 0)
    })
  }

  it("rings that come together are one", () => {
    const rings: Array<number> = []
    explore(MEMORY_WORDS, [writes([4, 4, 4]), reads([4])], (_memory, [, seen]) => rings.push(seen.rings))
    assert.deepStrictEqual([Math.min(...rings), Math.max(...rings)], [1, 3])
  })

  it("who is rung rings back from within the ring, and in the end both sleep", () => {
    const ROUNDS = 2
    const SLOT = 9
    const talks =
      (side: 0 | 1): Program<Seen> =>
      (words) => {
        const bell = bellOf(words, side)
        const seen: Seen = { values: { [SLOT]: 0 }, rings: 0 }
        const say = (value: number) => {
          words.store(payload(1 - side, SLOT), value)
          bell.ring(SLOT)
        }
        bell.attach(SLOT, {
          onRing() {
            const value = words.load(payload(side, SLOT))
            if (words.isOver || value === seen.values[SLOT]) return
            seen.values[SLOT] = value
            if (side === 1) say(value)
            else if (value < ROUNDS) say(value + 1)
          }
        })
        if (side === 0) say(1)
        attend(words, bell, side)
        return seen
      }
    const ends = explore(MEMORY_WORDS, [talks(0), talks(1)], (memory, results) => {
      for (const side of [0, 1]) {
        assert.strictEqual(results[side].values[SLOT], ROUNDS)
        assert.strictEqual(memory[PARKED[side]], 1)
      }
    })
    assert.isAbove(ends, 0)
  })
})
