/** Memory that other threads have mapped: whom it may serve, and whom it must not. */
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import * as Memory from "@cut-through/core/memory/SharedMemory"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { firstNonZero, KIB } from "./fixtures.ts"

type Service = Memory.SharedMemory["Service"]

class Thread implements Memory.Mapper {
  isGone = false
}

const makeMemory = (poolSize?: number): Service => Effect.runSync(Memory.make({ poolSize }))

const threads = (count: number): Array<Thread> => Array.from({ length: count }, () => new Thread())

const tryAllocate = (memory: Service, bytes: number, mappers?: ReadonlyArray<Memory.Mapper>): Memory.Region =>
  memory.tryAllocate(bytes, mappers) ?? assert.fail(`no region of ${bytes} bytes`)

/** A region of the pool that these threads have mapped. */
const pool = (memory: Service, bytes: number, mappers?: ReadonlyArray<Memory.Mapper>): Memory.Region => {
  const region = tryAllocate(memory, bytes, mappers)
  memory.release(region, [])
  return region
}

/** Regions of the pool at once, so that none of them is another one. */
const poolAll = (
  memory: Service,
  bytes: number,
  ...sets: ReadonlyArray<ReadonlyArray<Memory.Mapper> | undefined>
): Array<Memory.Region> => {
  const regions = sets.map((mappers) => tryAllocate(memory, bytes, mappers))
  for (const region of regions) memory.release(region, [])
  return regions
}

const mappersOf = (region: Memory.Region): ReadonlyArray<Memory.Mapper> => Array.from(region.mappers ?? [])

const scribble = (region: Memory.Region): void => {
  new Uint8Array(region.words.buffer).fill(0xee)
}

const assertSame = (actual: Memory.Region, expected: Memory.Region, message = "another region"): void =>
  assert.isTrue(actual === expected, message)

const assertOther = (actual: Memory.Region, ...others: ReadonlyArray<Memory.Region>): void =>
  assert.isFalse(others.includes(actual), "one of the regions")

const ways = {
  "at once": tryAllocate,
  "in its time": (memory: Service, bytes: number, mappers?: ReadonlyArray<Memory.Mapper>) =>
    Effect.runSync(memory.allocate(bytes, mappers))
}

describe("SharedMemory for threads", () => {
  for (const [way, obtain] of Object.entries(ways)) {
    describe(`${way}`, () => {
      it("a region knows who has been given it, and nobody has one that never left this thread", () => {
        const memory = makeMemory()
        const [a, b] = threads(2)
        assert.isUndefined(obtain(memory, 100).mappers)
        assert.isUndefined(obtain(memory, 100, []).mappers)
        assert.deepStrictEqual(mappersOf(obtain(memory, 100, [a])), [a])
        assert.deepStrictEqual(mappersOf(obtain(memory, 100, [a, b])), [a, b])
        assert.deepStrictEqual(mappersOf(obtain(memory, 100, [b, b])), [b])
        assert.strictEqual(memory.stats().regions, 5)
      })

      it("words are atomic where another thread may have them mapped, and nowhere else", () => {
        const memory = makeMemory()
        const [a] = threads(1)
        const own = obtain(memory, 100)
        assert.isFalse(own.words.isShared)
        memory.release(own, [])
        const shared = obtain(memory, 100, [a])
        assertSame(shared, own)
        assert.isTrue(shared.words.isShared)
        memory.release(shared, [])
        a.isGone = true
        const again = obtain(memory, 100)
        assertSame(again, own)
        assert.isFalse(again.words.isShared)
      })

      it("one that a thread has mapped serves only those who bring that thread", () => {
        const memory = makeMemory()
        const [a, b, c] = threads(3)
        const region = pool(memory, 100, [a])
        for (const others of [undefined, [], [b], [b, c]]) assertOther(obtain(memory, 100, others), region)
        assertOther(obtain(memory, 101, [a]), region)
        assertSame(obtain(memory, 100, [a]), region)
        assert.deepStrictEqual(mappersOf(region), [a])
      })

      it("and those who bring another one besides, which has it mapped from then on", () => {
        const memory = makeMemory()
        const [a, b, c] = threads(3)
        const region = pool(memory, 100, [a])
        assertSame(obtain(memory, 100, [b, a]), region)
        assert.sameMembers(mappersOf(region) as Array<Memory.Mapper>, [a, b])
        memory.release(region, [])
        for (const others of [undefined, [a], [b], [a, c], [b, c]]) assertOther(obtain(memory, 100, others), region)
        assertSame(obtain(memory, 100, [a, b]), region)
      })

      it("who is gone is forgotten, and counts for nobody", () => {
        for (const [index, others] of [undefined, [2], [0], [2, 0]].entries()) {
          const memory = makeMemory()
          const all = threads(3)
          const [a, b] = all
          const region = pool(memory, 100, [a, b])
          const given = others?.map((i) => all[i])
          b.isGone = true
          // The one that lives decides.
          const isServed = given?.includes(a) === true
          const first = obtain(memory, 100, given)
          assert.strictEqual(first === region, isServed, `case ${index}`)
          if (isServed) {
            assert.sameMembers(mappersOf(region) as Array<Memory.Mapper>, [...given])
            continue
          }
          a.isGone = true
          assertSame(obtain(memory, 100, given), region)
          assert.deepStrictEqual(mappersOf(region), given ?? [])
          assert.strictEqual(region.mappers === undefined, given === undefined)
        }
      })

      it("one that all have left is as one that never left this thread", () => {
        const memory = makeMemory()
        const [a, b] = threads(2)
        const [before, after] = [tryAllocate(memory, 100, [a]), pool(memory, 100, [b])]
        a.isGone = true
        b.isGone = true
        memory.release(before, [])
        const found = [obtain(memory, 100), obtain(memory, 100)]
        assert.isTrue(found.includes(before) && found.includes(after), "both serve anybody")
        for (const region of found) assert.isUndefined(region.mappers)
        assert.deepInclude(memory.stats(), { regions: 2, pooledRegions: 0, pooledBytes: 0 })
      })

      it("what is found: those of the same threads, then of some of them, then of nobody who lives, then new ones", () => {
        const memory = makeMemory()
        const [a, b, c, dead] = threads(4)
        const [own, ofDead, ofA, ofBoth, ofAnother] = poolAll(memory, 100, undefined, [dead], [a], [a, b], [a, c])
        dead.isGone = true
        for (const expected of [ofBoth, ofA, ofDead, own]) assertSame(obtain(memory, 100, [a, b]), expected)
        assertOther(obtain(memory, 100, [a, b]), own, ofDead, ofA, ofBoth, ofAnother)
        assertSame(obtain(memory, 100, [c, a]), ofAnother)
      })

      it("who brings nobody finds what never left this thread, and leaves the others to those who have them", () => {
        const memory = makeMemory()
        const [a, dead] = threads(2)
        const [own, ofDead, ofA] = poolAll(memory, 100, undefined, [dead], [a])
        dead.isGone = true
        for (const expected of [own, ofDead]) {
          assertSame(obtain(memory, 100), expected)
          assert.isUndefined(expected.mappers)
        }
        assertOther(obtain(memory, 100), own, ofDead, ofA)
        assertSame(obtain(memory, 100, [a]), ofA)
      })

      it("of several that serve as well the last one released is found first: it is warm", () => {
        const memory = makeMemory()
        const [a] = threads(1)
        const [first, second, third] = poolAll(memory, 100, [a], [a], [a])
        for (const expected of [third, second, first]) assertSame(obtain(memory, 100, [a]), expected)
      })

      it("a region is zeroed where it was touched, whoever gets it next", () => {
        const memory = makeMemory()
        const [a] = threads(1)
        const region = tryAllocate(memory, 100, [a])
        scribble(region)
        memory.release(region, [[0, 100]])
        assert.strictEqual(firstNonZero(obtain(memory, 100, [a]).words.buffer), -1)
        scribble(region)
        a.isGone = true
        memory.release(region, [[0, 100]])
        assertSame(obtain(memory, 100), region)
        assert.strictEqual(firstNonZero(region.words.buffer), -1)
      })
    })
  }

  it("a size that cannot be had is nothing, for threads as well, and counts nothing", () => {
    const memory = makeMemory()
    const [a] = threads(1)
    assert.isUndefined(memory.tryAllocate(2 ** 53, [a]))
    const error = Effect.runSync(Effect.flip(memory.allocate(2 ** 53, [a])))
    assert.strictEqual(error.reason._tag, "AllocFailed")
    assert.deepStrictEqual(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 0, pooledBytes: 0 })
  })

  describe("what is blank", () => {
    const options = { size: 64 * KIB, maxFifos: 8 }
    const bytes = FifoSegment.regionBytes(options)

    const makeBlank = (memory: Service, mappers?: ReadonlyArray<Memory.Mapper>): Memory.Region => {
      const region = tryAllocate(memory, bytes, mappers)
      const segment = FifoSegment.make(region.words, options)
      for (const fifo of segment.allocatePair(KIB, KIB)!) {
        fifo.enqueue(new Uint8Array(KIB).fill(1), 0, KIB)
        segment.releaseFifo(fifo)
      }
      assert.isTrue(segment.scrub())
      region.blank = segment
      memory.release(region, [])
      return region
    }

    it("of this thread's own is handed to those who bring threads, once", () => {
      const memory = makeMemory()
      const [a] = threads(1)
      const region = makeBlank(memory)
      const { blank } = region
      const again = tryAllocate(memory, bytes, [a])
      assertSame(again, region)
      assert.isTrue(again.blank === blank && blank !== undefined, "it was blank, and is")
    })

    it("is not what others can write to, or could: it is zeroed, whatever its owner says", () => {
      for (const when of ["stays", "goes before", "goes after"]) {
        const memory = makeMemory()
        const [a] = threads(1)
        a.isGone = when === "goes before"
        const region = makeBlank(memory, [a])
        assert.isUndefined(region.blank, when)
        assert.strictEqual(firstNonZero(region.words.buffer), -1, when)
        a.isGone = when !== "stays"
        assertSame(tryAllocate(memory, bytes, when === "stays" ? [a] : undefined), region)
        assert.isUndefined(region.blank, when)
      }
    })
  })

  describe("the pool", () => {
    it("keeps so many bytes and no more, of those that threads have mapped as well", () => {
      const memory = makeMemory(10 * KIB)
      const [a, b] = threads(2)
      poolAll(memory, 4 * KIB, [a], [b], undefined, [a, b])
      assert.deepStrictEqual(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 2, pooledBytes: 8 * KIB })
      // What could never fit is left alone, and nothing makes room for it.
      pool(memory, 11 * KIB, [a])
      pool(memory, 11 * KIB)
      assert.deepStrictEqual(memory.stats(), { regions: 0, bytes: 0, pooledRegions: 2, pooledBytes: 8 * KIB })
    })

    it("gives up what was released first of those that threads have mapped, whatever it needs the room for", () => {
      const memory = makeMemory(10 * KIB)
      const [a, b, c] = threads(3)
      const [ofA, ofB] = poolAll(memory, 4 * KIB, [a], [b])
      // Two kilobytes are left, then none.
      const ofC = pool(memory, 3 * KIB, [c])
      assert.deepInclude(memory.stats(), { pooledRegions: 2, pooledBytes: 7 * KIB })
      assertOther(tryAllocate(memory, 4 * KIB, [a]), ofA)
      const own = pool(memory, 4 * KIB)
      assert.deepInclude(memory.stats(), { pooledRegions: 2, pooledBytes: 7 * KIB })
      assertSame(tryAllocate(memory, 4 * KIB, [b]), own)
      assertOther(tryAllocate(memory, 4 * KIB, [b]), ofB)
      assertSame(tryAllocate(memory, 3 * KIB, [c]), ofC)
    })

    it("does not give up what never left this thread", () => {
      const memory = makeMemory(10 * KIB)
      const [a] = threads(1)
      const [first, second] = poolAll(memory, 4 * KIB, undefined, undefined)
      pool(memory, 3 * KIB, [a])
      pool(memory, 3 * KIB)
      assert.deepInclude(memory.stats(), { pooledRegions: 2, pooledBytes: 8 * KIB })
      const found = [tryAllocate(memory, 4 * KIB), tryAllocate(memory, 4 * KIB)]
      assert.isTrue(found.includes(first) && found.includes(second), "both are there")
    })

    it("serves those who talk although those who do not have filled it", () => {
      const memory = makeMemory(10 * KIB)
      const all = threads(10)
      for (const thread of all) pool(memory, KIB, [thread])
      const [a] = threads(1)
      const region = pool(memory, KIB, [a])
      for (let turn = 0; turn < 100; turn++) assertSame(pool(memory, KIB, [a]), region)
      assert.deepInclude(memory.stats(), { pooledRegions: 10, pooledBytes: 10 * KIB })
    })

    it("does not grow while the same threads come and go with each other", () => {
      const memory = makeMemory()
      const [a, b, c] = threads(3)
      const sets = [[a], [a, b], [b], undefined, [c, a], [a, b], [a], [b, c]]
      const used = new Set<Memory.Region>()
      for (let turn = 0; turn < 50; turn++) {
        const held = sets.map((mappers) => tryAllocate(memory, 100, turn % 2 === 0 ? mappers : mappers?.toReversed()))
        for (const region of held) {
          used.add(region)
          memory.release(region, [])
        }
        for (const mappers of sets) used.add(pool(memory, 100, mappers))
      }
      assert.isAtMost(used.size, 2 * sets.length)
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: used.size })
    })

    it("does not grow while threads come and go", () => {
      const memory = makeMemory()
      const used = new Set<Memory.Region>()
      let last = new Thread()
      for (let turn = 0; turn < 1000; turn++) {
        const next = new Thread()
        const [first, second] = [tryAllocate(memory, 100, [last, next]), tryAllocate(memory, 100, [last])]
        for (const region of [first, second]) used.add(region)
        memory.release(first, [])
        last.isGone = true
        memory.release(second, [])
        last = next
      }
      assert.isAtMost(used.size, 3)
      assert.deepInclude(memory.stats(), { regions: 0, pooledRegions: used.size })
    })
  })

  const THREADS = 4
  const SIZES = [64, 100, 256]

  const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

  const operations = [
    ...new Array(8).fill("allocate"),
    ...new Array(6).fill("release"),
    "scribble",
    "scribble",
    "die"
  ] as const

  const commands = Arbitrary.array(
    Arbitrary.all({
      operation: Arbitrary.map(int(operations.length - 1), (i): string => operations[i]),
      size: int(SIZES.length - 1),
      // Nobody a quarter of the time, else one or two.
      first: int(2 * THREADS - 1),
      second: int(2 * THREADS - 1),
      which: int(9999)
    }),
    { minLength: 1 }
  )

  /** What there ought to be known of a region. */
  interface Known {
    /** All who were ever given it. */
    readonly ever: Set<Thread>
    /** In use, in the pool (somebody lived who could write to it, or nobody did), or given up. */
    place: "held" | "mapped" | "own" | "nowhere"
    /** Whether anybody who could has written to it since it was zeroed. */
    isScribbled: boolean
    releasedAt: number
  }

  for (const poolSize of [undefined, 1000]) {
    it.prop(
      `whoever comes and goes, nobody gets what another one who lives can write to, with ${poolSize === undefined ? "all the room" : "a small pool"}`,
      [commands],
      ([program]) => {
        const memory = makeMemory(poolSize)
        const limit = poolSize ?? Infinity
        const slots = threads(THREADS)
        const known = new Map<Memory.Region, Known>()
        const held: Array<Memory.Region> = []
        let time = 0

        const livingOf = (region: Memory.Region) => [...known.get(region)!.ever].filter((thread) => !thread.isGone)

        const allocate = (bytes: number, mappers: ReadonlyArray<Thread> | undefined, isNow: boolean) => {
          const given = mappers ?? []
          // What could serve, and how well: how many of these threads have it already.
          const fits = [...known].flatMap(([region, it]) => {
            const living = livingOf(region)
            const isThere = it.place === "own" || it.place === "mapped"
            const isFit = region.words.byteLength === bytes && living.every((thread) => given.includes(thread))
            return isThere && isFit ? [{ region, it, count: living.length }] : []
          })
          const region = isNow ? tryAllocate(memory, bytes, mappers) : Effect.runSync(memory.allocate(bytes, mappers))
          const before = known.get(region)
          if (before === undefined) {
            if (fits.length > 0) assert.fail("a new region, though one was there")
            known.set(region, { ever: new Set(given), place: "held", isScribbled: false, releasedAt: 0 })
          } else {
            const chosen = fits.find((fit) => fit.region === region)
            if (chosen === undefined) assert.fail("a region that somebody else can write to, or has")
            const isOwn = given.length === 0
            if (fits.some(({ count }) => count > chosen.count)) assert.fail("others know these threads better")
            const alike = fits.filter(({ count, it }) => count === chosen.count && it.place === before.place)
            if (alike.some(({ it }) => it.releasedAt > before.releasedAt)) assert.fail("not the last one released")
            if (isOwn && before.place !== "own" && fits.some(({ it }) => it.place === "own")) {
              assert.fail("not one of its own")
            }
            for (const thread of given) before.ever.add(thread)
            before.place = "held"
          }
          const it = known.get(region)!
          if (!it.isScribbled && firstNonZero(region.words.buffer) >= 0) assert.fail("a region that is not zero")
          assert.strictEqual(region.words.byteLength, bytes)
          assert.strictEqual(region.mappers === undefined, given.length === 0)
          assert.sameMembers(mappersOf(region) as Array<Memory.Mapper>, [...given])
          held.push(region)
        }

        const poolBytes = (place: Known["place"]): number =>
          [...known].reduce((sum, [region, it]) => sum + (it.place === place ? region.words.byteLength : 0), 0)

        const release = (region: Memory.Region) => {
          held.splice(held.indexOf(region), 1)
          const it = known.get(region)!
          const bytes = region.words.byteLength
          it.isScribbled = false
          it.releasedAt = ++time
          it.place = "nowhere"
          if (poolBytes("own") + bytes <= limit) {
            const oldest = [...known.values()]
              .filter(({ place }) => place === "mapped")
              .toSorted((a, b) => a.releasedAt - b.releasedAt)
            while (poolBytes("own") + poolBytes("mapped") + bytes > limit) oldest.shift()!.place = "nowhere"
            it.place = livingOf(region).length > 0 ? "mapped" : "own"
          }
          memory.release(region, [
            [0, 7],
            [7, bytes]
          ])
        }

        for (const { first, operation, second, size, which } of program) {
          if (operation === "allocate") {
            const given = [...new Set([slots[first], slots[second]])].filter((thread) => thread !== undefined)
            allocate(SIZES[size], given.length === 0 && which % 4 > 0 ? undefined : given, which % 2 === 0)
          } else if (operation === "release" && held.length > 0) release(held[which % held.length])
          else if (operation === "scribble") {
            // Its owner writes to it, or somebody who has let go of it and goes on.
            const all = [...known].filter(([region, it]) => it.place === "held" || livingOf(region).length > 0)
            if (all.length === 0) continue
            const [region, it] = all[which % all.length]
            scribble(region)
            it.isScribbled ||= it.place !== "held"
          } else if (operation === "die") {
            slots[first % THREADS].isGone = true
            slots[first % THREADS] = new Thread()
          }
          const pooled = [...known.values()].filter(({ place }) => place === "own" || place === "mapped")
          assert.deepStrictEqual(memory.stats(), {
            regions: held.length,
            bytes: poolBytes("held"),
            pooledRegions: pooled.length,
            pooledBytes: poolBytes("own") + poolBytes("mapped")
          })
          assert.isAtMost(memory.stats().pooledBytes, limit)
        }
        while (held.length > 0) release(held[0])
        for (const thread of slots) thread.isGone = true
        // Nothing is lost: who brings nobody finds all that is there.
        const { pooledRegions } = memory.stats()
        const found = new Set<Memory.Region>()
        const pooled = [...known.keys()].map((region) => region.words.byteLength)
        for (const bytes of pooled) {
          const region = tryAllocate(memory, bytes)
          if (known.has(region)) found.add(region)
        }
        assert.strictEqual(found.size, pooledRegions)
        assert.deepInclude(memory.stats(), { pooledRegions: 0, pooledBytes: 0 })
      },
      { arbitrary: { runs: 300, size: 120 } }
    )
  }
})
