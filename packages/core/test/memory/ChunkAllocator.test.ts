import {
  ChunkAllocator,
  MAX_CHUNK_BYTES,
  MIN_CHUNK_BYTES,
  PAGE_BYTES,
  tableWords,
  unitsOf
} from "@cut-through/core/memory/ChunkAllocator"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { touchedUnits, WatchedWords } from "./fixtures.ts"

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const LARGEST_CLASS = 14

const mapped = (units: number, unitBytes: number, buffer: SharedArrayBuffer, words = new SharedWords(buffer)) =>
  new ChunkAllocator(words, { at: 0, units, unitBytes, dataStart: tableWords(units, unitBytes) * 4 })

const make = (units: number, unitBytes = 4): ChunkAllocator => {
  const buffer = new SharedArrayBuffer(tableWords(units, unitBytes) * 4 + units * unitBytes)
  const chunks = mapped(units, unitBytes, buffer)
  chunks.format()
  return chunks
}

const again = (chunks: ChunkAllocator, watched?: WatchedWords): ChunkAllocator =>
  mapped(chunks.units, chunks.unitBytes, chunks.words.buffer as SharedArrayBuffer, watched)

/** Who holds which units. */
class Held {
  readonly chunks = new Map<number, number>()
  private readonly taken: Array<boolean>
  private readonly allocator: ChunkAllocator
  units = 0

  constructor(allocator: ChunkAllocator) {
    this.allocator = allocator
    this.taken = new Array<boolean>(allocator.units).fill(false)
  }

  add(chunk: number): void {
    if (chunk < 0) return
    const units = this.allocator.bytes(chunk) / this.allocator.unitBytes
    if (!(units >= 1) || chunk + units > this.taken.length) assert.fail(`chunk ${chunk} of ${units} units is outside`)
    for (let unit = chunk; unit < chunk + units; unit++) {
      if (this.taken[unit]) assert.fail(`unit ${unit} was taken twice`)
      this.taken[unit] = true
    }
    this.chunks.set(chunk, units)
    this.units += units
  }

  remove(chunk: number): void {
    this.lend(chunk)()
  }

  /** The chunk is nobody's to release any more; its units are free when the result is called. */
  lend(chunk: number): () => void {
    const units = this.chunks.get(chunk)!
    this.chunks.delete(chunk)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      for (let unit = chunk; unit < chunk + units; unit++) this.taken[unit] = false
      this.units -= units
    }
  }

  at(position: number): number | undefined {
    const chunks = Array.from(this.chunks.keys())
    return chunks[position % chunks.length]
  }

  check(): void {
    const free = (this.taken.length - this.units) * this.allocator.unitBytes
    if (this.allocator.availableBytes !== free) {
      assert.fail(`${this.allocator.availableBytes} bytes available, ${free} are free`)
    }
  }
}

const sizes = (chunks: ChunkAllocator): Array<number> => {
  const taken: Array<number> = []
  for (let chunk = chunks.allocate(Infinity); chunk >= 0; chunk = chunks.allocate(Infinity)) {
    taken.push(chunks.bytes(chunk) / chunks.unitBytes)
  }
  return taken.toSorted((a, b) => b - a)
}

/** What a fresh allocator of so many units can be cut into, largest first. */
const freshSizes = (units: number, unitBytes?: number): Array<number> => sizes(make(units, unitBytes))

/** All is free: nothing is missing, and the pieces join to what they were in the beginning. */
const assertWhole = (chunks: ChunkAllocator): void => {
  assert.strictEqual(chunks.availableBytes, chunks.size)
  assert.deepStrictEqual(sizes(chunks), freshSizes(chunks.units, chunks.unitBytes))
  assert.strictEqual(chunks.availableBytes, 0)
}

interface Command {
  readonly who: number
  readonly release: boolean
  readonly amount: number
  readonly at: number
}

const command: Arbitrary.Arbitrary<Command> = Arbitrary.map(
  Arbitrary.all({ who: int(1), release: int(2), amount: int(5000), at: int(5000) }),
  ({ release, ...rest }) => ({ ...rest, release: release === 0 })
)

const bytesOf = (amount: number, chunks: ChunkAllocator): number =>
  amount % 2 === 0 ? amount % (3 * chunks.unitBytes) : amount % (chunks.size + 10)

const runOne = (chunks: ChunkAllocator, held: Held, { amount, at, release }: Command): void => {
  const chunk = release ? held.at(at) : undefined
  if (chunk !== undefined) {
    held.remove(chunk)
    if (!chunks.release(chunk)) assert.fail(`chunk ${chunk} was not released`)
  } else {
    held.add(chunks.allocate(bytesOf(amount, chunks)))
  }
}

describe("ChunkAllocator", () => {
  it("starts with chunks as large as they come", () => {
    assert.deepStrictEqual(freshSizes(1), [1])
    assert.deepStrictEqual(freshSizes(13), [8, 4, 1])
    assert.deepStrictEqual(freshSizes(2048 + 32 + 1), [2048, 32, 1])
    assert.deepStrictEqual(freshSizes(2 * 16384 + 1024), [16384, 16384, 1024])
    assert.strictEqual(MAX_CHUNK_BYTES, MIN_CHUNK_BYTES * 2 ** LARGEST_CLASS)
    assert.strictEqual(MAX_CHUNK_BYTES, 4 * 1024 * 1024)
  })

  it("gives at least what was asked, in powers of two", () => {
    const chunks = make(64, 4096)
    for (const [bytes, expected] of [
      [0, 4096],
      [1, 4096],
      [4096, 4096],
      [4097, 8192],
      [8192, 8192],
      [20000, 32768]
    ]) {
      const chunk = chunks.allocate(bytes)
      assert.strictEqual(chunks.bytes(chunk), expected)
      assert.isTrue(chunks.release(chunk))
    }
    assertWhole(chunks)
  })

  it("uses low addresses first, so that the others stay untouched", () => {
    const chunks = make(1024)
    const taken = Array.from({ length: 20 }, () => chunks.allocate(1))
    assert.deepStrictEqual(
      taken,
      Array.from({ length: 20 }, (_, i) => i)
    )
    const used: Array<readonly [number, number]> = []
    chunks.visitUsed((from, to) => used.push([from, to]))
    assert.deepStrictEqual(used, [[0, 20]])
  })

  it("D31 a request above the largest chunk gets the largest chunk", () => {
    const chunks = make(3 * 2 ** LARGEST_CLASS)
    const most = chunks.unitBytes * 2 ** LARGEST_CLASS
    const chunk = chunks.allocate(most + 1)
    assert.strictEqual(chunks.bytes(chunk), most)
    assert.isTrue(chunks.release(chunk))
    assertWhole(chunks)
  })

  it("gives the largest smaller chunk when there is no large one", () => {
    const chunks = make(16)
    const taken = Array.from({ length: 16 }, () => chunks.allocate(4))
    for (const unit of [2, 3, 9, 12, 13, 14]) assert.isTrue(chunks.release(taken[unit]))
    const first = chunks.allocate(64)
    assert.strictEqual(chunks.bytes(first), 8)
    assert.isFalse(chunks.isExhausted)
    const left = sizes(chunks)
    assert.deepStrictEqual(left, [2, 1, 1])
    assert.isTrue(chunks.isExhausted)
    chunks.clearExhausted()
    assert.isFalse(chunks.isExhausted)
  })

  it("joins buddies only, and only when it has to", () => {
    const chunks = make(8)
    const taken = Array.from({ length: 8 }, () => chunks.allocate(4))
    // 1 and 2 are neighbours without being buddies.
    assert.isTrue(chunks.release(taken[1]))
    assert.isTrue(chunks.release(taken[2]))
    assert.strictEqual(chunks.bytes(chunks.allocate(8)), 4)
    assert.isTrue(chunks.release(taken[6]))
    assert.isTrue(chunks.release(taken[7]))
    assert.strictEqual(chunks.bytes(chunks.allocate(8)), 8)
  })

  it("does not release what is not taken, inside of a chunk, or no chunk at all", () => {
    const chunks = make(16)
    const chunk = chunks.allocate(16)
    for (const no of [-1, 16, 17, 2 ** 30, chunk + 1, chunk + 2, 4, 8]) {
      assert.isFalse(chunks.release(no), String(no))
      assert.strictEqual(chunks.bytes(no), -1, String(no))
    }
    assert.strictEqual(chunks.availableBytes, chunks.size - 16)
    assert.isTrue(chunks.release(chunk))
    assert.isFalse(chunks.release(chunk))
    assertWhole(chunks)
  })

  it("links chunks into lists and ends them", () => {
    const chunks = make(8)
    const [a, b] = [chunks.allocate(4), chunks.allocate(4)]
    assert.strictEqual(chunks.next(a), -1)
    chunks.setNext(a, b)
    assert.strictEqual(chunks.next(a), b)
    chunks.setNext(a, -1)
    assert.strictEqual(chunks.next(a), -1)
    for (const nonsense of [8, 9, -2, -3, 2 ** 30]) {
      chunks.setNext(a, nonsense)
      assert.strictEqual(chunks.next(a), -2)
    }
    chunks.setStart(a, 2 ** 31)
    assert.strictEqual(chunks.start(a) >>> 0, 2 ** 31)
    assert.strictEqual(chunks.offset(b) - chunks.offset(a), (b - a) * 4)
  })

  it("the chunk after a number that is no chunk makes no sense", () => {
    const chunks = make(8)
    for (const no of [-1, -2, 8, 9, 2 ** 20, 2 ** 30]) assert.strictEqual(chunks.next(no), -2, String(no))
  })

  it("a free bit behind the last chunk leads nowhere", () => {
    // 20 units leave 12 bits of their class that stand for no unit.
    for (let bit = 20; bit < 32; bit++) {
      const chunks = make(20)
      const words = new WatchedWords(chunks.words.buffer)
      const end = tableWords(20)
      words.onWord = (word) => {
        if (word >= end) assert.fail(`word ${word} is behind the tables`)
      }
      const guarded = again(chunks, words)
      while (guarded.allocate(1) >= 0);
      // The counts come first, then the bitmap of the smallest class.
      chunks.words.store(0, 1)
      chunks.words.store(16, 1 << bit)
      const chunk = guarded.allocate(1)
      if (chunk >= 20) assert.fail(`chunk ${chunk} of 20`)
    }
  })

  describe("behind the first units, which are those of one largest chunk", () => {
    const FINE = 2 ** LARGEST_CLASS
    /** Units of a page. */
    const PAGE = PAGE_BYTES / MIN_CHUNK_BYTES
    const makeLarge = (pages: number): ChunkAllocator => make(FINE + pages * PAGE, MIN_CHUNK_BYTES)

    it("no chunk is smaller than a page, and there are no tables for such chunks", () => {
      const chunks = makeLarge(4)
      for (let unit = 0; unit < FINE; unit++) assert.strictEqual(chunks.allocate(1), unit)
      for (let page = 0; page < 4; page++) {
        const chunk = chunks.allocate(1)
        assert.strictEqual(chunk, FINE + page * PAGE)
        assert.strictEqual(chunks.bytes(chunk), PAGE_BYTES)
      }
      assert.strictEqual(chunks.allocate(1), -1)
      assert.strictEqual(chunks.availableBytes, 0)
      for (let unit = 0; unit < FINE; unit++) assert.isTrue(chunks.release(unit))
      for (let page = 0; page < 4; page++) assert.isTrue(chunks.release(FINE + page * PAGE))
      assertWhole(chunks)
      // A descriptor of four words, and some bits.
      assert.isBelow((tableWords(FINE + 1000 * PAGE) - tableWords(FINE)) / 1000, 5)
      assert.strictEqual(unitsOf(FINE * MIN_CHUNK_BYTES + 1, MIN_CHUNK_BYTES), FINE + PAGE)
      assert.strictEqual(unitsOf(FINE * MIN_CHUNK_BYTES - PAGE_BYTES + 1, MIN_CHUNK_BYTES), FINE - PAGE + 1)
    })

    it("a page is left alone while a small chunk can be had where they belong", () => {
      const chunks = makeLarge(2 * (FINE / PAGE))
      const pages = Array.from({ length: 3 * (FINE / PAGE) }, () => chunks.allocate(PAGE_BYTES))
      const [inside, outside] = [pages.filter((page) => page < FINE), pages.filter((page) => page >= FINE)]
      assert.strictEqual(outside.length, 2 * inside.length)
      for (const page of outside) assert.isTrue(chunks.release(page))
      // A largest one joined of them is found first where nobody says how far to look.
      assert.isAtLeast(chunks.allocate(MAX_CHUNK_BYTES), FINE)
      assert.isTrue(chunks.release(inside[inside.length - 1]))
      const chunk = chunks.allocate(1)
      assert.strictEqual(chunk, inside[inside.length - 1])
      assert.strictEqual(chunks.bytes(chunk), MIN_CHUNK_BYTES)
      assert.deepStrictEqual(
        Array.from({ length: PAGE }, () => chunks.bytes(chunks.allocate(1))),
        [...new Array<number>(PAGE - 1).fill(MIN_CHUNK_BYTES), PAGE_BYTES]
      )
    })

    it("what was taken is known to be touched, and nothing else", () => {
      const chunks = makeLarge(64)
      const [largest, small, page, two] = [MAX_CHUNK_BYTES, 1, PAGE_BYTES, 2 * PAGE_BYTES].map((bytes) =>
        chunks.allocate(bytes)
      )
      const untouched = chunks.allocate(PAGE_BYTES, false)
      assert.deepStrictEqual(
        [largest, small].map((chunk) => chunks.bytes(chunk)),
        [MAX_CHUNK_BYTES, PAGE_BYTES]
      )
      const expected = new Set<number>()
      for (const chunk of [largest, small, page, two]) {
        for (let unit = 0; unit < chunks.bytes(chunk) / MIN_CHUNK_BYTES; unit++) expected.add(chunk + unit)
      }
      assert.deepStrictEqual(
        Array.from(touchedUnits(chunks)).toSorted((a, b) => a - b),
        Array.from(expected).toSorted((a, b) => a - b)
      )
      chunks.touch(untouched, PAGE_BYTES)
      assert.strictEqual(touchedUnits(chunks).size, expected.size + PAGE)
      chunks.visitUsed(() => {}, true)
      assert.strictEqual(touchedUnits(chunks).size, 0)
    })

    it("a chunk that claims to be smaller, or to lie between two pages, is none", () => {
      const chunks = makeLarge(4)
      for (let unit = 0; unit < FINE; unit++) chunks.allocate(1)
      const page = chunks.allocate(1)
      for (let sizeClass = 0; PAGE >>> sizeClass > 1; sizeClass++) {
        chunks.words.store(chunks.descriptor(page) + 2, sizeClass + 1)
        assert.strictEqual(chunks.bytes(page), -1)
        assert.isFalse(chunks.release(page))
      }
      chunks.words.store(chunks.descriptor(page) + 2, Math.log2(PAGE) + 1)
      for (let unit = 1; unit < PAGE; unit++) {
        assert.strictEqual(chunks.bytes(page + unit), -1)
        assert.isFalse(chunks.release(page + unit))
      }
      assert.isTrue(chunks.release(page))
    })

    it.prop(
      "nothing is lost or given twice",
      { pages: int(40), program: Arbitrary.array(command, { minLength: 1 }) },
      ({ pages, program }) => {
        const chunks = makeLarge(pages)
        const held = new Held(chunks)
        // All but some of the first units, so that what is taken lies on both sides.
        const first = chunks.allocate(MAX_CHUNK_BYTES)
        held.add(chunks.allocate(MAX_CHUNK_BYTES / 2))
        if (!chunks.release(first)) assert.fail("the first chunk was not released")
        held.add(chunks.allocate(MAX_CHUNK_BYTES / 2))
        for (const { amount, at, release } of program) {
          const chunk = release ? held.at(at) : undefined
          if (chunk === undefined) held.add(chunks.allocate(amount * 7))
          else {
            held.remove(chunk)
            if (!chunks.release(chunk)) assert.fail(`chunk ${chunk} was not released`)
          }
          held.check()
        }
        for (const chunk of held.chunks.keys()) assert.isTrue(chunks.release(chunk))
        assertWhole(chunks)
      },
      { arbitrary: { runs: 60, size: 100 } }
    )
  })

  it.prop(
    "against a set of taken units",
    { units: int(150), program: Arbitrary.array(command, { minLength: 1 }) },
    ({ program, units }) => {
      const first = make(units + 1)
      const both = [first, again(first)]
      const held = new Held(first)
      for (const command of program) {
        const chunks = both[command.who]
        const before = chunks.availableBytes
        if (command.release) {
          runOne(chunks, held, command)
        } else {
          const wanted = bytesOf(command.amount, chunks)
          const chunk = chunks.allocate(wanted)
          held.add(chunk)
          // D26: what is available can be allocated, whoever gave it back.
          if (chunk < 0 && before > 0) assert.fail(`no chunk with ${before} bytes available`)
          if (chunk >= 0 && chunks.bytes(chunk) >= 2 * Math.max(wanted, chunks.unitBytes))
            assert.fail("a chunk too large")
        }
        held.check()
        if (held.chunks.has(command.at)) continue
        if (both[1 - command.who].release(command.at)) assert.fail(`released ${command.at}, which was not taken`)
      }
      let place = 0
      for (const chunk of held.chunks.keys()) assert.isTrue(both[place++ & 1].release(chunk))
      assertWhole(first)
    },
    { arbitrary: { runs: 300, size: 150 } }
  )

  describe("two threads", () => {
    it.prop(
      "one stands between any two accesses while the other runs",
      {
        units: int(70),
        before: Arbitrary.array(command),
        interrupted: command,
        others: Arbitrary.array(command, { minLength: 1, maxLength: 6 })
      },
      ({ before, interrupted, others, units }) => {
        for (let at = 0, ends = false; !ends; at++) {
          const first = make(units + 1)
          const words = new WatchedWords(first.words.buffer)
          const one = again(first, words)
          const two = again(first)
          const held = new Held(first)
          for (const command of before) runOne(command.who === 0 ? one : two, held, command)

          const mine = interrupted.release ? held.at(interrupted.at) : undefined
          const giveBack = mine === undefined ? () => {} : held.lend(mine)
          const start = words.accesses
          words.before = (access) => {
            if (access !== start + at) return
            words.before = () => {}
            // Half released, its units may be handed out already: it is the release that decides, not its return.
            if (mine !== undefined && first.bytes(mine) < 0) giveBack()
            for (const command of others) runOne(two, held, command)
          }
          if (mine === undefined) {
            held.add(one.allocate(bytesOf(interrupted.amount, one)))
          } else {
            if (!one.release(mine)) assert.fail(`chunk ${mine} was not released`)
            giveBack()
          }
          ends = words.accesses <= start + at
          held.check()
          for (const chunk of held.chunks.keys()) if (!two.release(chunk)) assert.fail(`${chunk} was not taken`)
          if (first.availableBytes !== first.size) assert.fail("units were lost")
          assertWhole(first)
        }
      },
      { arbitrary: { runs: 60, size: 30 } }
    )

    it("nothing is lost or given twice, in every meeting over four units", () => {
      for (let free = 0; free < 16; free++) {
        for (const wanted of [4, 8, 16]) {
          for (const others of [[4], [8], [16], [4, 4], [8, -1], [4, 8, -1], [-1], [-2], [-1, -2, 8]]) {
            for (let at = 0, ends = false; !ends; at++) {
              const first = make(4)
              const words = new WatchedWords(first.words.buffer)
              const one = again(first, words)
              const two = again(first)
              const held = new Held(first)
              for (let unit = 0; unit < 4; unit++) held.add(first.allocate(4))
              for (let unit = 0; unit < 4; unit++) {
                if ((free & (1 << unit)) === 0) continue
                held.remove(unit)
                first.release(unit)
              }
              words.before = (access) => {
                if (access !== at) return
                for (const other of others) {
                  const chunk = other < 0 ? held.at(-other - 1) : undefined
                  if (other >= 0) held.add(two.allocate(other))
                  if (chunk === undefined) continue
                  held.remove(chunk)
                  if (!two.release(chunk)) assert.fail(`chunk ${chunk} was not released`)
                }
              }
              held.add(one.allocate(wanted))
              ends = words.accesses <= at
              held.check()
              for (const chunk of held.chunks.keys()) if (!two.release(chunk)) assert.fail(`${chunk} was not taken`)
              if (first.bytes(first.allocate(16)) !== 16) assert.fail("units were lost")
            }
          }
        }
      }
    })

    it("of two that release one chunk only one succeeds, wherever they meet", () => {
      for (let at = 0; at < 10; at++) {
        const first = make(8)
        const words = new WatchedWords(first.words.buffer)
        const one = again(first, words)
        const chunk = first.allocate(8)
        let other = false
        words.before = (access) => {
          if (access === at) other = first.release(chunk)
        }
        const own = one.release(chunk)
        if (own === other) assert.fail(own ? "both released it" : "nobody released it")
        assertWhole(first)
      }
    })

    it("what a thread wrote that died in the middle of an allocation is known to be touched", () => {
      for (let at = 0, ends = false; !ends; at++) {
        const first = make(8)
        const words = new WatchedWords(first.words.buffer)
        const dying = again(first, words)
        words.before = (access) => {
          if (access === at) throw new Error("terminated")
        }
        try {
          dying.allocate(4)
          ends = true
        } catch {}
        // Another thread takes the rest, and with it all that is left half done.
        for (const isOver of [false, true]) {
          if (isOver) while (first.allocate(4) >= 0);
          const touched = touchedUnits(first)
          for (let unit = 0; unit < 8; unit++) {
            for (let word = 0; word < 4; word++) {
              if (first.words.load(first.descriptor(unit) + word) !== 0 && !touched.has(unit)) {
                assert.fail(`the descriptor of unit ${unit} was written before access ${at}, and nobody knows`)
              }
            }
          }
        }
      }
    })

    it("a unit that two threads mark as used at once stays marked", () => {
      // 70 units in three words of marks: each chunk of one unit shares its word with 31 others.
      for (let at = 0, ends = false; !ends; at++) {
        const first = make(70)
        const words = new WatchedWords(first.words.buffer)
        const one = again(first, words)
        const taken: Array<number> = []
        words.before = (access) => {
          if (access === at) for (let i = 0; i < 33; i++) taken.push(first.allocate(4))
        }
        for (let i = 0; i < 2; i++) taken.push(one.allocate(4))
        ends = words.accesses <= at
        let used = 0
        first.visitUsed((from, to) => (used += to - from))
        assert.strictEqual(used, taken.length)
      }
    })

    it("what a thread had in hand that died is never counted as available, and the rest can be had", () => {
      const lives: ReadonlyArray<(dying: ChunkAllocator, taken: ReadonlyArray<number>) => void> = [
        // The smallest that is left, a split, one that joins buddies, less than asked, and both ways of giving back.
        (dying) => dying.allocate(4),
        (dying) => dying.allocate(8),
        (dying) => dying.allocate(32),
        (dying) => dying.allocate(256),
        (dying, taken) => dying.release(taken[0]),
        (dying, taken) => dying.release(taken.at(-1)!)
      ]
      for (const [no, live] of lives.entries()) {
        for (let at = 0, ends = false; !ends; at++) {
          const first = make(32)
          // 18 single units are taken, 7 of them free again: buddies that are not joined.
          const taken = Array.from({ length: 18 }, () => first.allocate(4))
          for (const unit of taken.splice(3, 7)) first.release(unit)
          const words = new WatchedWords(first.words.buffer)
          words.before = (access) => {
            if (access === at) throw new Error("terminated")
          }
          try {
            live(again(first, words), taken)
            ends = true
          } catch {}
          for (const chunk of taken) first.release(chunk)
          const counted = first.availableBytes
          let had = 0
          for (let chunk = first.allocate(4); chunk >= 0; chunk = first.allocate(4)) had += 4
          if (had < counted) assert.fail(`${counted} bytes available, ${had} to be had: life ${no}, access ${at}`)
          if (ends && no > 3) assert.strictEqual(had, first.size)
        }
      }
    })
  })

  describe("what is touched", () => {
    it("all of a chunk when it is taken, or when its owner says so", () => {
      const chunks = make(200)
      // Over several words of marks, and less than one.
      const [later, now] = [chunks.allocate(4 * 128, false), chunks.allocate(4 * 16)]
      const units = (chunk: number) => Array.from({ length: chunks.bytes(chunk) / 4 }, (_, i) => chunk + i)
      assert.deepStrictEqual([...touchedUnits(chunks)], units(now))
      chunks.touch(later, chunks.bytes(later))
      assert.deepStrictEqual([...touchedUnits(chunks)], [...units(later), ...units(now)])
      // Saying it again changes nothing, nor does giving it back.
      chunks.touch(later, chunks.bytes(later))
      for (const chunk of [now, later]) assert.isTrue(chunks.release(chunk))
      assert.strictEqual(touchedUnits(chunks).size, 128 + 16)
      assertWhole(chunks)
    })

    it("is what the owner has seen the chunk to be, whatever its descriptor has become", () => {
      const chunks = make(200)
      const chunk = chunks.allocate(4 * 64, false)
      const bytes = chunks.bytes(chunk)
      for (const nonsense of [0, 1, 5, 12, -1, 2 ** 31 - 1]) chunks.words.store(chunks.descriptor(chunk) + 2, nonsense)
      chunks.touch(chunk, bytes)
      assert.strictEqual(touchedUnits(chunks).size, 64)
      // No chunk at all.
      chunks.touch(100, chunks.bytes(100))
      assert.strictEqual(touchedUnits(chunks).size, 64)
    })

    it("a chunk that was not written is not touched because another one is", () => {
      const chunks = make(64)
      const taken = Array.from({ length: 64 }, (_, unit) => chunks.allocate(4, unit % 3 === 0))
      assert.deepStrictEqual(
        [...touchedUnits(chunks)],
        taken.filter((unit) => unit % 3 === 0)
      )
    })

    it.prop(
      "is visited in order and once, and forgotten when asked",
      {
        units: int(2500),
        touched: Arbitrary.array(Arbitrary.all({ amount: int(600), isTouched: int(1) }), { minLength: 1 }),
        next: int(600)
      },
      ({ next, touched, units }) => {
        const chunks = make(units + 1)
        const expected = new Set<number>()
        const take = (amount: number, isTouched: boolean): void => {
          const chunk = chunks.allocate(amount * 4, isTouched)
          if (chunk < 0 || !isTouched) return
          for (let unit = chunk; unit < chunk + chunks.bytes(chunk) / 4; unit++) expected.add(unit)
        }
        const visited = (forget: boolean): ReadonlyArray<number> => {
          const all: Array<number> = []
          chunks.visitUsed((from, to) => {
            if (from >= to || from < (all.at(-1) ?? -1)) assert.fail(`[${from}, ${to}) behind ${all.at(-1)}`)
            for (let unit = from; unit < to; unit++) all.push(unit)
          }, forget)
          return all
        }
        const sorted = () => [...expected].toSorted((a, b) => a - b)
        for (const { amount, isTouched } of touched) take(amount, isTouched === 1)
        // Looking forgets nothing.
        assert.deepStrictEqual(visited(false), sorted())
        assert.deepStrictEqual(visited(true), sorted())
        assert.deepStrictEqual(visited(true), [])
        // All marks are clear, of the words of units and of words: what comes next is marked again.
        expected.clear()
        take(next, true)
        assert.deepStrictEqual(visited(false), sorted())
      },
      { arbitrary: { runs: 200, size: 60 } }
    )

    it("a mark behind the last unit is nobody's, and forgotten with the others", () => {
      const chunks = make(20)
      while (chunks.allocate(4) >= 0);
      // Nothing is free: the only word with 20 bits is that of the marks.
      const marks = Array.from({ length: chunks.descriptors }, (_, word) => chunks.words.load(word)).indexOf(
        2 ** 20 - 1
      )
      assert.isAbove(marks, 0)
      chunks.words.store(marks, -1)
      const seen: Array<readonly [number, number]> = []
      chunks.visitUsed((from, to) => seen.push([from, to]), true)
      assert.deepStrictEqual(seen, [[0, 20]])
      assert.deepStrictEqual([chunks.words.load(marks), chunks.words.load(marks + 1)], [0, 0], "and their summary")
    })
  })
})
