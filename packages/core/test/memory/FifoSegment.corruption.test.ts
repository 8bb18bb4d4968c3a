/** A segment whose words another thread overwrites while the one that made it is at work. */
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import {
  allocateBuffer,
  allocateFifo,
  bytesAt,
  dequeueAt,
  enqueueAt,
  headerWord,
  releaseAll,
  WatchedWords
} from "./fixtures.ts"

const UNIT = 16
const UNITS = 40
const MAX_FIFOS = 6

const optionsFor = (units: number): FifoSegment.Options => ({
  size: UNIT * units,
  unitBytes: UNIT,
  maxFifos: MAX_FIFOS
})

const options = optionsFor(UNITS)

/** More than any operation over so few units can need. */
const MOST_ACCESSES = 20_000

/** Words of a region and of nothing else: an access outside of it, or one too many, ends the test. */
const makeWords = (segmentOptions = options): WatchedWords => {
  const words = new WatchedWords(allocateBuffer(segmentOptions))
  words.onWord = (word) => {
    if (!(Number.isInteger(word) && word >= 0 && word < words.byteLength / 4)) assert.fail(`there is no word ${word}`)
  }
  words.onBytes = (start, end) => {
    if (!(start >= 0 && start <= end && end <= words.byteLength)) assert.fail(`there are no bytes [${start}, ${end})`)
  }
  return words
}

/** Runs with what others do before any access, as long as the run has not gone on for too long. */
const bounded = <A>(words: WatchedWords, others: (access: number) => void, run: () => A): A => {
  const start = words.accesses
  words.before = (access) => {
    if (access - start > MOST_ACCESSES) throw new Error("it does not end")
    others(access - start)
  }
  const result = run()
  words.before = () => {}
  return result
}

const nobody = () => {}

/** The tables of a segment that was just made, in memory that nobody else has seen. */
const tablesOf = (segment: FifoSegment.FifoSegment): Uint8Array => segment.words.view(0, segment.chunks.descriptors * 4)

const fresh = (segmentOptions = options): FifoSegment.FifoSegment =>
  FifoSegment.make(new SharedWords(allocateBuffer(segmentOptions)), segmentOptions)

const assertLikeNew = (segment: FifoSegment.FifoSegment): void => {
  const other = fresh(optionsFor(segment.chunks.units))
  if (Buffer.compare(tablesOf(segment), tablesOf(other)) !== 0) assert.fail("tables that are not those of a new one")
  assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes, segment.usage], [0, 0, 0])
}

/** All it has can be had, by one FIFO or by many. */
const assertUsable = (segment: FifoSegment.FifoSegment): void => {
  const { size } = segment
  const many = new Array<number>(Math.min(MAX_FIFOS, size / UNIT)).fill(UNIT)
  for (const sizes of [[size], many]) {
    const fifos = sizes.map((size) => allocateFifo(segment, size))
    for (const [i, fifo] of fifos.entries()) assert.strictEqual(enqueueAt(fifo, i * 1000, sizes[i]), sizes[i])
    for (const [i, fifo] of fifos.entries()) dequeueAt(fifo, i * 1000, sizes[i])
    releaseAll(segment, fifos)
  }
}

const hostile = [0, 1, -1, 2, 11, 12, UNITS, UNITS + 1, 0x55555555, 2 ** 31 - 1, -(2 ** 31)]

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

interface Scribble {
  readonly after: number
  readonly where: number
  readonly value: number
  readonly isAnything: boolean
}

const scribble: Arbitrary.Arbitrary<Scribble> = Arbitrary.map(
  Arbitrary.all({ after: int(400), where: int(9999), value: int(2 ** 31 - 1), isNegative: int(1), isAnything: int(1) }),
  ({ isAnything, isNegative, value, ...rest }) => ({
    ...rest,
    value: isNegative === 0 ? value : ~value,
    isAnything: isAnything === 1
  })
)

const operations = [
  "allocatePair",
  "allocatePair",
  "allocateFifo",
  "releaseFifo",
  "releaseFifo",
  "enqueue",
  "enqueue",
  "dequeue",
  "touchedRanges",
  "zero",
  "visitUsed",
  "forget",
  "scrub",
  "preallocatePairs",
  "resizeFifo",
  "look",
  "attach",
  "condemn",
  "make"
] as const

const steps = Arbitrary.array(
  Arbitrary.all({
    operation: Arbitrary.map(int(operations.length - 1), (i) => operations[i]),
    which: int(9999),
    amount: int(9999),
    scribbles: Arbitrary.array(scribble, { maxLength: 12 })
  }),
  { minLength: 1 }
)

describe("FifoSegment in memory that others write to", () => {
  it.prop(
    "whatever they write and whenever, every operation ends, within the region, and the next segment is a new one",
    { units: int(69), program: steps },
    ({ program, units }) => {
      const options = optionsFor(1 + units)
      const words = makeWords(options)
      const others = new SharedWords(words.buffer)
      let segment = FifoSegment.make(words, options)
      let held: Array<Fifo.Fifo> = []
      // The tables are what hurts: the rest is bytes.
      const interesting = headerWord(segment, MAX_FIFOS)
      const write = ({ isAnything, value, where }: Scribble) =>
        others.store(
          where % 4 === 0 ? where % (words.byteLength / 4) : where % interesting,
          isAnything ? value : hostile[(value >>> 1) % hostile.length]
        )
      const target = new Uint8Array(UNIT * 12)

      const run = (operation: (typeof operations)[number], which: number, amount: number): void => {
        const size = 1 + (amount % (UNIT * 12))
        const fifo = held[which % held.length]
        switch (operation) {
          case "allocatePair":
            held.push(...(segment.allocatePair(size, 1 + (which % 100)) ?? []))
            break
          case "allocateFifo": {
            const made = segment.allocateFifo(size, amount % 300)
            if (made !== undefined) held.push(made)
            break
          }
          case "releaseFifo":
            if (fifo === undefined) break
            held = held.filter((other) => other !== fifo)
            assert.isTrue(segment.releaseFifo(fifo))
            break
          case "enqueue":
            fifo?.enqueue(bytesAt(0, size), 0, size)
            break
          case "dequeue":
            fifo?.dequeue(target, 0, size)
            break
          case "touchedRanges":
            segment.touchedRanges()
            break
          case "zero":
            // While it is in use, even: whoever is hurt by that is not this thread.
            for (const [start, end] of segment.touchedRanges()) words.zero(start, end)
            break
          case "visitUsed":
          case "forget":
            segment.chunks.visitUsed((from, to) => {
              if (!(from >= 0 && from < to && to <= 1 + units)) assert.fail(`units [${from}, ${to})`)
            }, operation === "forget")
            break
          case "scrub":
            if (segment.scrub()) assert.strictEqual(held.length, 0)
            break
          case "preallocatePairs":
            assert.isAtMost(segment.preallocatePairs(which % 4, size, size), MAX_FIFOS)
            break
          case "resizeFifo":
            if (fifo !== undefined) segment.resizeFifo(fifo, size)
            break
          case "look": {
            const { activeFifos, availableBytes, pressure, usage } = segment
            if (!(availableBytes >= 0 && availableBytes <= segment.size)) assert.fail(`${availableBytes} bytes left`)
            if (!(usage >= 0 && usage <= 100)) assert.fail(`usage of ${usage}%`)
            assert.include(["none", "low", "high", "exhausted"], pressure)
            assert.strictEqual(activeFifos, held.length)
            segment.isLike(options)
            break
          }
          case "attach":
            FifoSegment.attach(words)?.attachFifo(which % MAX_FIFOS, 1 + (amount % 2))
            break
          case "condemn":
            if (which % 4 === 0) segment.condemn()
            break
          case "make":
            for (const [start, end] of segment.touchedRanges()) words.zero(start, end)
            held = []
            segment = FifoSegment.make(words, options)
        }
      }

      for (const { amount, operation, scribbles, which } of program) {
        const waiting = scribbles.toSorted((a, b) => b.after - a.after)
        bounded(
          words,
          (access) => {
            while (waiting.length > 0 && waiting.at(-1)!.after <= access) write(waiting.pop()!)
          },
          () => run(operation, which, amount)
        )
        for (const rest of waiting) write(rest)
        assert.strictEqual(segment.activeFifos, held.length)
        assert.strictEqual(
          segment.virtualBytes,
          held.reduce((sum, fifo) => sum + fifo.promised, 0)
        )
      }

      // When they have all gone, what they have left is of no matter.
      bounded(words, nobody, () => {
        for (const fifo of held) segment.releaseFifo(fifo)
        for (const [start, end] of segment.touchedRanges()) words.zero(start, end)
      })
      const next = FifoSegment.make(words, options)
      assertLikeNew(next)
      assertUsable(next)
    },
    { arbitrary: { runs: 400, size: 60 } }
  )

  it("memory full of anything makes a new segment", () => {
    for (const value of hostile) {
      const words = makeWords()
      for (let word = 0; word < words.byteLength / 4; word++) words.store(word, value)
      const segment = bounded(words, nobody, () => FifoSegment.make(words, options))
      assertLikeNew(segment)
      assertUsable(segment)
    }
  })

  it("any word, or all of them, at any time while a segment is made and its first FIFOs: they work, or are not to be had", () => {
    const target = new Uint8Array(100)
    const tables = fresh().chunks.descriptor(UNITS)
    let [worked, failed] = [0, 0]
    /** Others write to some words before one access, every so many accesses one after the other. */
    const makeWhile = (from: number, to: number, value: number, first: number, step: number) => {
      for (let at = first, ends = false; !ends; at += step) {
        const words = makeWords()
        const others = new SharedWords(words.buffer)
        const write = (access: number) => {
          if (access === at) for (let word = from; word < to; word++) others.store(word, value)
        }
        ends = bounded(words, write, () => {
          const segment = FifoSegment.make(words, options)
          const pair = segment.allocatePair(100, 50)
          const isOver = words.accesses <= at
          if (pair === undefined) failed++
          else worked++
          for (const fifo of pair ?? []) {
            assert.isAtMost(fifo.enqueue(bytesAt(0, 50), 0, 50), 50)
            assert.isAtMost(fifo.dequeue(target, 0, 50), 50)
            segment.releaseFifo(fifo)
          }
          segment.touchedRanges()
          assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes], [0, 0])
          return isOver
        })
      }
    }
    for (const value of hostile) {
      makeWhile(0, tables, value, 0, 1)
      // At some accesses only: all of them for all words are too many.
      for (let word = 0; word < tables; word++) makeWhile(word, word + 1, value, word % 7, 7)
    }
    assert.isAbove(worked, 1000)
    assert.isAbove(failed, 100)
  })

  it("chunks that somebody takes again as fast as they are released are not released for ever", () => {
    const words = makeWords()
    const others = new SharedWords(words.buffer)
    const segment = FifoSegment.make(words, options)
    const fifo = allocateFifo(segment, UNIT * 10)
    enqueueAt(fifo, 0, UNIT * 10)
    const { chunks } = segment
    const [first, second] = [fifo.firstChunk, chunks.next(fifo.firstChunk)]
    assert.isAtLeast(second, 0)
    // Two chunks that follow each other for ever, taken whenever anybody looks.
    const tables = words.buffer.slice(0, chunks.descriptors * 4)
    const takeThem = () => {
      for (let word = 0; word < chunks.descriptors; word++) others.store(word, new Int32Array(tables)[word])
      for (const [chunk, next] of [
        [first, second],
        [second, first]
      ]) {
        others.store(chunks.descriptor(chunk) + 1, next + 1)
        others.store(chunks.descriptor(chunk) + 2, 1)
      }
    }
    assert.isTrue(bounded(words, takeThem, () => segment.releaseFifo(fifo)))
    assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes], [0, 0])
  })
})
