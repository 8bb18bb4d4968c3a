import * as Bell from "@cut-through/platform/thread/Bell"
import { Interleavings } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import {
  catches,
  type Core,
  isDeep,
  load,
  parkedWord,
  type Patch,
  proves,
  ring,
  type Ring
} from "./interleavings-fixtures.ts"

const core = await load()

type Words = Interleavings.SteppedWords

// Behind the bell: what the rings are about.
const payload = (slot: number): number => Bell.BYTES / 4 + (slot % 7)
const parkedWords = [parkedWord(0), parkedWord(1)]

/** Takes what there is, parks, and is woken, for ever. */
const attend = (words: Words, bell: Bell.Bell, side: 0 | 1, parksAtOnce = false): never => {
  for (;;) {
    if (bell.take()) continue
    if (bell.park() || parksAtOnce) words.restWhile(parkedWords[side], 1)
    bell.unpark()
  }
}

/** A thread that rings slots, and one that is rung, looks, parks and is woken, for ever. */
const bell = (
  { Bell: shipped }: Core,
  slots: ReadonlyArray<number>,
  mistakes: { readonly parksAtOnce?: boolean } = {}
): Interleavings.Options<any> => {
  const nothing = () => {}
  const values: Record<number, number> = {}
  for (const slot of slots) values[slot] = (values[slot] ?? 0) + 1
  return {
    memory: Bell.BYTES + 8 * 4,
    threads: {
      ringer(words: Words) {
        const bell = new shipped.Bell(words.buffer as SharedArrayBuffer, 0, nothing, words)
        const rung: Record<number, number> = {}
        for (const slot of slots) {
          words.store(payload(slot), (rung[slot] = (rung[slot] ?? 0) + 1))
          bell.ring(slot)
        }
      },
      rung(words: Words) {
        const bell = new shipped.Bell(words.buffer as SharedArrayBuffer, 1, nothing, words)
        const seen: Record<number, number> = {}
        words.note(seen)
        for (const slot of new Set(slots)) {
          bell.attach(slot, {
            onRing() {
              // A bell reports what a target throws, and this may be what unwinds the thread.
              try {
                seen[slot] = words.load(payload(slot))
              } catch {}
            }
          })
        }
        attend(words, bell, 1, mistakes.parksAtOnce)
      }
    },
    check({ memory, notes }) {
      assert.deepStrictEqual(notes.rung, values, "not all that was rung was seen")
      assert.strictEqual(memory.load(parkedWords[1]), 1, "the thread that is rung is not parked")
    }
  }
}

describe("a bell, at every interleaving: all that was rung is seen, and then the thread sleeps", () => {
  const rings: Record<string, ReadonlyArray<number>> = {
    "one ring": [0],
    "two rings of one slot": [5, 5],
    "three rings of one slot": [1023, 1023, 1023],
    "slots of one leaf": [0, 31],
    "slots of two leaves": [0, 32],
    "a slot between rings of another one": [7, 1000, 7],
    "two slots of a leaf, and one of them again": [64, 65, 64],
    "slots that share a bit": [3, 3 + Bell.SLOTS]
  }
  const deep: Record<string, ReadonlyArray<number>> = {
    "five rings of two slots": [7, 1000, 7, 7, 1000]
  }

  for (const [name, slots] of Object.entries(isDeep ? { ...rings, ...deep } : rings)) {
    it(
      `${name}: every interleaving`,
      () => void proves(`a bell: ${name}`, bell(core, slots)),
      isDeep ? 3600_000 : undefined
    )
  }
})

describe("bells, at every interleaving", () => {
  it("rings that come together are one", () => {
    const rings = new Set<number>()
    const options = bell(core, [4, 4, 4])
    Interleavings.verify({
      ...options,
      threads: {
        ...options.threads,
        rung(words) {
          const bell = new core.Bell.Bell(words.buffer as SharedArrayBuffer, 1, () => {}, words)
          let count = 0
          bell.attach(4, { onRing: () => words.note(++count) })
          attend(words, bell, 1)
        }
      },
      check: ({ notes }) => void rings.add(notes.rung as number)
    })
    assert.deepStrictEqual([...rings].toSorted(), [1, 2, 3])
  })

  it("who is rung rings back from within the ring, and in the end both sleep", () => {
    const ROUNDS = 2
    const SLOT = 9
    const values = Bell.BYTES / 4
    const talks =
      (side: 0 | 1) =>
      (words: Words): void => {
        const bell = new core.Bell.Bell(words.buffer as SharedArrayBuffer, side, () => {}, words)
        let seen = 0
        const say = (value: number) => {
          words.store(values + (1 - side), value)
          bell.ring(SLOT)
        }
        bell.attach(SLOT, {
          onRing() {
            try {
              const value = words.load(values + side)
              if (value === seen) return
              words.note((seen = value))
              if (side === 1) say(value)
              else if (value < ROUNDS) say(value + 1)
            } catch {}
          }
        })
        if (side === 0) say(1)
        attend(words, bell, side)
      }
    proves("bells that are rung back", {
      memory: Bell.BYTES + 8,
      threads: { caller: talks(0), called: talks(1) },
      check({ memory, notes }) {
        assert.deepStrictEqual(notes, { caller: ROUNDS, called: ROUNDS })
        for (const side of [0, 1] as const) assert.strictEqual(memory.load(parkedWords[side]), 1)
      }
    })
  })
})

const small = { unitBytes: 2, units: 3, size: 2, reads: 2, rings: true }
const watched = { ...small, watches: true }
/** So that one look in vain is enough to leave a FIFO to its writer. */
const impatient: Patch = { file: "Watch", find: "const PATIENCE = 64", put: "const PATIENCE = 1" }

describe("a ring whose sides have a bell, at every interleaving", () => {
  const shapes: Record<string, Omit<Ring, "core">> = {
    "one byte": { ...small, writes: [1] },
    "one byte and another one, without an end": { ...small, writes: [1, 1], ends: false },
    "more than the FIFO holds, without an end": { ...small, writes: [3], ends: false },
    "watched: one byte": { ...watched, writes: [1] },
    "watched: one byte and another one, without an end": { ...watched, writes: [1, 1], ends: false },
    "watched: more than the FIFO holds, without an end": { ...watched, writes: [3], ends: false }
  }
  const deep: Record<string, Omit<Ring, "core">> = {
    "one byte and another one": { ...small, writes: [1, 1] },
    "more than the FIFO holds": { ...small, writes: [3] },
    "three messages": { ...small, writes: [1, 1, 1], ends: false },
    "watched: one byte and another one": { ...watched, writes: [1, 1] },
    "watched: three messages": { ...watched, writes: [1, 1, 1], ends: false }
  }

  for (const [name, shape] of Object.entries(isDeep ? { ...shapes, ...deep } : shapes)) {
    it(
      `${name}: every interleaving`,
      () => void proves(`with bells: ${name}`, ring({ core, ...shape })),
      isDeep ? 3600_000 : undefined
    )
  }

  it("watched without patience: every interleaving", async () => {
    const hasty = await load(impatient)
    proves("with bells: watched without patience", ring({ core: hasty, ...watched, writes: [1, 1], ends: false }))
  })
})

describe("a thread that watches with a mistake in it is found out", () => {
  const broken: Record<string, ReadonlyArray<Patch>> = {
    "it parks without looking once more": [{ file: "Watch", find: "if (fifo.hasMoved) isQuiet = false", put: "" }],
    "it parks, and leaves the flags as they are": [
      { file: "Watch", find: "fifo.unsetEvent()\n      if (fifo.hasMoved)", put: "if (fifo.hasMoved)" }
    ],
    "it looks once more before it clears the flag": [
      {
        file: "Watch",
        find: "fifo.unsetEvent()\n      if (fifo.hasMoved) isQuiet = false",
        put: "if (fifo.hasMoved) isQuiet = false\n      fifo.unsetEvent()"
      }
    ],
    "it loses patience without looking once more": [
      impatient,
      { file: "Watch", find: "return entry.fifo.hasMoved", put: "return false" }
    ],
    "it loses patience, and leaves the flag as it is": [
      impatient,
      { file: "Watch", find: "entry.fifo.unsetEvent()", put: "" }
    ]
  }

  for (const [name, patches] of Object.entries(broken)) {
    it(`${name}: found out`, async () => {
      const mistaken = await load(...patches)
      catches(name, ring({ core: mistaken, ...watched, writes: [1, 1], ends: false }), /reader waits for ever/)
    })
  }
})

describe("a bell with a mistake in it is found out", () => {
  it("a thread parks without looking once more", () => {
    catches("parking at once", bell(core, [0], { parksAtOnce: true }), /not all that was rung was seen/)
  })

  const broken: ReadonlyArray<readonly [name: string, patch: Patch, slots: ReadonlyArray<number>]> = [
    [
      "the ringer looks whether the thread is parked before it sets the bit",
      {
        file: "Bell",
        find: "if ((words.or(theirs + LEAVES + leaf, bit) & bit) === 0) {",
        put: `const isParked = words.load(theirs + PARKED)
    if ((words.or(theirs + LEAVES + leaf, bit) & bit) === 0) {
      words.or(theirs + SUMMARY, 1 << leaf)
      if (isParked === 1 && words.exchange(theirs + PARKED, 0) === 1) return
      return`
      },
      [0]
    ],
    [
      "the summary is cleared after its leaves",
      {
        file: "Bell",
        find: "let leaves = words.exchange(mine + SUMMARY, 0)",
        put: `let leaves = words.load(mine + SUMMARY)
    for (let left = leaves; left !== 0; left &= left - 1) {
      let bits = words.exchange(mine + LEAVES + lowest(left), 0)
      for (; bits !== 0; bits &= bits - 1) {
        isAny = true
        this.dispatch(lowest(left) * 32 + lowest(bits))
      }
    }
    words.store(mine + SUMMARY, 0)
    leaves = 0`
      },
      [5, 5]
    ],
    [
      "the summary is set before the leaf",
      {
        file: "Bell",
        find: "if ((words.or(theirs + LEAVES + leaf, bit) & bit) === 0) {\n      words.or(theirs + SUMMARY, 1 << leaf)",
        put: `words.or(theirs + SUMMARY, 1 << leaf)
    if ((words.or(theirs + LEAVES + leaf, bit) & bit) === 0) {`
      },
      [0]
    ]
  ]

  for (const [name, patch, slots] of broken) {
    it(`${name}: found out`, async () => {
      catches(name, bell(await load(patch), slots), /not all that was rung was seen/)
    })
  }
})
