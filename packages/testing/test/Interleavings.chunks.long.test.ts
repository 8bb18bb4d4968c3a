import type { ChunkAllocator } from "@cut-through/core/memory/ChunkAllocator"
import { describe, it } from "@effect/vitest"
import { catches, chunks, type Chunks, isDeep, load, type Patch, proves } from "./interleavings-fixtures.ts"

const core = await load()

const UNIT = 4096

const take =
  (...units: ReadonlyArray<number>) =>
  (all: ChunkAllocator): ReadonlyArray<number> =>
    units.map((count) => all.allocate(count * UNIT)).filter((chunk) => chunk >= 0)

const give =
  (...held: ReadonlyArray<number>) =>
  (all: ChunkAllocator): ReadonlyArray<number> => {
    for (const chunk of held) all.release(chunk)
    return []
  }

/** Takes a chunk, gives it back, and takes another one. */
const change =
  (first: number, second: number) =>
  (all: ChunkAllocator): ReadonlyArray<number> => {
    const chunk = all.allocate(first * UNIT)
    if (chunk >= 0 && !all.release(chunk)) throw new Error("what was taken cannot be given back")
    return take(second)(all)
  }

/** Units one by one, so that nothing is merged. */
const takeAll = (count: number) => (all: ChunkAllocator) => {
  for (let i = 0; i < count; i++) all.allocate(UNIT)
}

/** Free units that nobody has merged. */
const crumbs = (count: number) => (all: ChunkAllocator) => {
  takeAll(count)(all)
  for (let unit = 0; unit < count; unit++) all.release(unit)
}

describe("chunks, at every interleaving: none is taken twice, freed twice or lost", () => {
  const shapes: Record<string, Chunks> = {
    "two take the last unit": { units: 1, threads: { one: take(1), two: take(1) } },
    "two split one chunk": { units: 2, threads: { one: take(1), two: take(1) } },
    "two take units that lie in one word": { units: 2, setup: crumbs(2), threads: { one: take(1, 1), two: take(1) } },
    "two give back": { units: 2, setup: takeAll(2), threads: { one: give(0), two: give(1) } },
    "two give back the same chunk": { units: 2, setup: takeAll(2), kept: [0], threads: { one: give(1), two: give(1) } },
    "two give back the same chunk, while somebody takes it with its buddy": {
      units: 2,
      setup(all) {
        takeAll(2)(all)
        all.release(0)
      },
      threads: { one: give(1), two: give(1), three: take(2) }
    },
    "one merges, one takes": { units: 2, setup: crumbs(2), threads: { one: take(2), two: take(1) } },
    "two merge": { units: 2, setup: crumbs(2), threads: { one: take(2), two: take(2) } },
    "one merges what another one gives back": {
      units: 2,
      setup(all) {
        takeAll(2)(all)
        all.release(0)
      },
      threads: { one: take(2), two: give(1) }
    },
    "two take and give back": { units: 1, threads: { one: change(1, 1), two: change(1, 1) } },
    "three take units that lie in one word": {
      units: 3,
      setup: crumbs(3),
      threads: { one: take(1), two: take(1), three: take(1) }
    },
    "three give back and take": {
      units: 2,
      setup: takeAll(1),
      threads: { one: give(0), two: take(1), three: take(1) }
    },
    "two split and merge": { units: 2, threads: { one: change(1, 2), two: change(1, 1) } },
    "two merge four units": { units: 4, setup: crumbs(4), threads: { one: take(4), two: take(2) } },
    "a death of one who takes": {
      units: 2,
      setup: crumbs(2),
      threads: { one: take(1), two: take(1) },
      deaths: ["one"]
    },
    "a death of one who gives back": {
      units: 2,
      setup: takeAll(2),
      kept: [1],
      threads: { one: give(0), two: take(1) },
      deaths: ["one"]
    },
    "a death of one who merges": {
      units: 2,
      setup: crumbs(2),
      threads: { one: take(2), two: take(1) },
      deaths: ["one"]
    }
  }
  const deep: Record<string, Chunks> = {
    "one merges, two take": {
      units: 2,
      setup: crumbs(2),
      threads: { one: take(2), two: take(1), three: take(1) }
    },
    "two merge four units, and one of them dies": {
      units: 4,
      setup: crumbs(4),
      threads: { one: take(4), two: take(2) },
      deaths: ["one"]
    },
    "three take and give back": { units: 1, threads: { one: change(1, 1), two: change(1, 1), three: take(1) } }
  }

  for (const [name, shape] of Object.entries(isDeep ? { ...shapes, ...deep } : shapes)) {
    it(`${name}: every interleaving`, () => void proves(name, chunks(core, shape)), isDeep ? 3600_000 : undefined)
  }
})

describe("an allocator with a mistake in it is found out", () => {
  const broken: ReadonlyArray<
    readonly [name: string, patches: Patch | ReadonlyArray<Patch>, shape: Chunks, what: RegExp]
  > = [
    [
      "a chunk is taken in two steps",
      {
        file: "ChunkAllocator",
        find: `        const before = this.words.and(base + at, ~bit)
        if ((before & bit) !== 0) {`,
        put: `        const before = this.words.load(base + at)
        this.words.store(base + at, before & ~bit)
        if ((before & bit) !== 0) {`
      },
      { units: 1, threads: { one: take(1), two: take(1) } },
      /belongs to one and to two/
    ],
    [
      "a chunk is taken without a look at what was there",
      {
        file: "ChunkAllocator",
        find: "if ((before & bit) !== 0) {",
        put: "if ((before | bit) !== 0) {"
      },
      { units: 1, threads: { one: take(1), two: take(1) } },
      /belongs to one and to two/
    ],
    [
      "a chunk is freed without a comparison",
      {
        file: "ChunkAllocator",
        find: "if (this.words.exchange(descriptor, 0) !== sizeClass + 1) return false",
        put: "this.words.store(descriptor, 0)"
      },
      {
        units: 2,
        setup(all) {
          takeAll(2)(all)
          all.release(0)
        },
        threads: { one: give(1), two: give(1), three: take(2) }
      },
      /is free, and belongs to three|is free twice|are lost/
    ],
    [
      "a chunk is freed without any comparison",
      [
        {
          file: "ChunkAllocator",
          find: "if (this.words.exchange(descriptor, 0) !== sizeClass + 1) return false",
          put: "this.words.store(descriptor, 0)"
        },
        {
          file: "ChunkAllocator",
          find: "if ((this.words.or(this.bitmaps[sizeClass] + at, bit) & bit) !== 0) return false",
          put: "this.words.or(this.bitmaps[sizeClass] + at, bit)"
        }
      ],
      { units: 2, setup: takeAll(2), kept: [0], threads: { one: give(1), two: give(1) } },
      /are counted/
    ],
    [
      "a chunk is free before its class is taken out",
      {
        file: "ChunkAllocator",
        find: `    if (this.words.exchange(descriptor, 0) !== sizeClass + 1) return false
    return this.setFree(sizeClass, chunk >>> sizeClass)`,
        put: `    const isFree = this.setFree(sizeClass, chunk >>> sizeClass)
    this.words.store(descriptor, 0)
    return isFree`
      },
      { units: 1, setup: takeAll(1), threads: { one: give(0), two: take(1) } },
      /are lost/
    ],
    [
      "what is merged is not looked at again",
      { file: "ChunkAllocator", find: "const held = before & both", put: "const held = before | both" },
      { units: 2, setup: crumbs(2), threads: { one: take(2), two: take(1) } },
      /belongs to|is free, and|is free twice|are lost|are counted/
    ],
    [
      "one buddy without the other is not put back",
      { file: "ChunkAllocator", find: "if (held !== 0) this.words.or(base + at, held)", put: "" },
      { units: 2, setup: crumbs(2), threads: { one: take(2), two: take(1) } },
      /are lost|are counted/
    ],
    [
      "the count is not read again",
      {
        file: "ChunkAllocator",
        find: "    this.words.add(this.at + sizeClass, 1)\n    this.hints[sizeClass] = at",
        put: `    this.words.store(this.at + sizeClass, this.words.load(this.at + sizeClass) + 1)
    this.hints[sizeClass] = at`
      },
      { units: 2, setup: takeAll(2), threads: { one: give(0), two: give(1) } },
      /are counted/
    ],
    [
      "the count is put right after the chunk was taken, and its taker dies",
      {
        file: "ChunkAllocator",
        find: `        this.words.add(this.at + sizeClass, -1)
        const before = this.words.and(base + at, ~bit)`,
        put: `        const before = this.words.and(base + at, ~bit)
        this.words.add(this.at + sizeClass, -1)`
      },
      { units: 1, threads: { one: take(1) }, deaths: ["one"] },
      /are counted/
    ]
  ]

  for (const [name, patch, shape, what] of broken) {
    it(`${name}: found out`, async () => {
      const patches = Array.isArray(patch) ? patch : [patch]
      catches(name, chunks(await load(...patches), shape), what)
    })
  }
})
