import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import * as Model from "./fifoModel.ts"
import {
  allocateBuffer,
  allocateFifo,
  assertNoBytes,
  assertNoLeak,
  attachFifo,
  bytesAt,
  CHUNK,
  chunksOf,
  chunkSizes,
  dequeueAt,
  enqueueAt,
  firstNonZero,
  GIB,
  Header,
  headerWord,
  KIB,
  makeSegment,
  mapAgain,
  MIB,
  releaseAll,
  touchedUnits,
  WatchedWords,
  zeroTouched
} from "./fixtures.ts"

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const touchedBytes = (segment: FifoSegment.FifoSegment): number =>
  segment.touchedRanges().reduce((sum, [start, end]) => sum + end - start, 0)

/** Takes FIFOs until there is no room for another one. */
const fill = (segment: FifoSegment.FifoSegment, size: number, firstBytes?: number): Array<Fifo.Fifo> => {
  const fifos: Array<Fifo.Fifo> = []
  for (;;) {
    const fifo = segment.allocateFifo(size, firstBytes)
    if (fifo === undefined) return fifos
    fifos.push(fifo)
  }
}

const assertSameBytes = (one: FifoSegment.FifoSegment, other: FifoSegment.FifoSegment): void => {
  const [a, b] = [one.words.buffer, other.words.buffer].map((buffer) => new Uint8Array(buffer))
  if (Buffer.compare(a, b) !== 0) assert.fail(`byte ${a.findIndex((byte, i) => byte !== b[i])} is different`)
}

/** Two FIFOs, the first one with as much memory as it gets when there is some for both. */
const hostsOf = (segment: FifoSegment.FifoSegment, shape: Model.Shape, firstBytes: number): Array<Fifo.Fifo> => {
  const second = allocateFifo(segment, shape.sizes[1])
  return [allocateFifo(segment, shape.sizes[0], firstBytes), second]
}

/** Fails when bytes of the chunks are accessed that are not known to be touched. Returns how often it has looked. */
const watchTouched = (segment: FifoSegment.FifoSegment, words: WatchedWords): (() => number) => {
  const { chunks } = mapAgain(segment)
  let looks = 0
  words.onBytes = (start, end) => {
    looks++
    const units = touchedUnits(chunks)
    const first = Math.floor((start - chunks.offset(0)) / chunks.unitBytes)
    for (let unit = first; chunks.offset(unit) < end; unit++) {
      if (!units.has(unit)) assert.fail(`bytes [${start}, ${end}): unit ${unit} is not known to be touched`)
    }
  }
  return () => looks
}

describe("FifoSegment", () => {
  describe("scenarios of segment_manager", () => {
    it("pressure_1: by what is used, up and down over both watermarks", () => {
      const segment = makeSegment({ size: 2 * MIB })
      const STEP = 128 * KIB
      const fifos = [allocateFifo(segment, MIB, STEP), allocateFifo(segment, MIB, STEP)]
      const now = (): string => `${segment.usage}% ${segment.pressure}`
      // A chunk of the size of each step: both FIFOs together hold so many.
      let chunks = 2
      const written = [0, 0]
      const read = [0, 0]
      const growTo = (count: number): string => {
        for (; chunks < count; chunks++) {
          const i = written[0] - read[0] <= written[1] - read[1] ? 0 : 1
          const free = chunkSizes(segment, fifos[i]).length * STEP - (written[i] - read[i])
          // To the end of the last chunk, and over it.
          assert.strictEqual(enqueueAt(fifos[i], written[i], free), free)
          written[i] += free
          assert.strictEqual(enqueueAt(fifos[i], written[i], STEP), STEP)
          written[i] += STEP
        }
        return now()
      }
      const dropTo = (count: number): string => {
        for (; chunks > count; chunks--) {
          const i = chunkSizes(segment, fifos[0]).length > 1 ? 0 : 1
          assert.strictEqual(fifos[i].drop(STEP), STEP)
          read[i] += STEP
        }
        return now()
      }
      assert.strictEqual(now(), "12% none")
      assert.strictEqual(growTo(7), "43% none")
      assert.strictEqual(growTo(8), "50% low")
      assert.strictEqual(growTo(10), "62% low")
      assert.strictEqual(growTo(12), "75% low")
      assert.strictEqual(growTo(13), "81% high")
      assert.strictEqual(growTo(14), "87% high")
      assert.strictEqual(dropTo(10), "62% low")
      assert.strictEqual(growTo(14), "87% high")
      for (const fifo of fifos) fifo.dropAll()
      assert.strictEqual(now(), "12% none")
      for (const fifo of fifos) segment.releaseFifo(fifo)
      assert.strictEqual(now(), "0% none")
      assertNoLeak(segment)
    })

    it("pressure_2: to the last chunk, exhausted, and back", () => {
      const segment = makeSegment({ size: MIB })
      const fifos = [allocateFifo(segment, 4 * MIB, CHUNK), allocateFifo(segment, 4 * MIB, CHUNK)]
      const written = [0, 0]
      const read = [0, 0]
      for (let i = 0, full = 0; full < 2; i = 1 - i) {
        const count = enqueueAt(fifos[i], written[i], CHUNK)
        if (count === CHUNK) full = 0
        else full++
        written[i] += Math.max(0, count)
      }
      // The first request that fails is what exhausts it, not the last one that does not.
      assert.strictEqual(segment.usage, 100)
      assert.strictEqual(segment.availableBytes, 0)
      assert.strictEqual(segment.pressure, "exhausted")
      for (const [i, fifo] of fifos.entries()) assert.strictEqual(enqueueAt(fifo, written[i], 1), Fifo.NO_MEMORY)
      assert.isUndefined(segment.allocateFifo(CHUNK))

      const dropTo = (usage: number): void => {
        for (let i = 0; segment.usage > usage; i = 1 - i) {
          if (fifos[i].used === 0) continue
          assert.isAbove(fifos[i].drop(CHUNK), 0)
          read[i] += CHUNK
        }
      }
      dropTo(85)
      assert.strictEqual(segment.pressure, "exhausted", "until it is below the high watermark")
      dropTo(70)
      assert.strictEqual(segment.pressure, "low")
      let count = 1
      for (; count > 0 && segment.usage < 85; written[0] += count) count = enqueueAt(fifos[0], written[0], CHUNK)
      assert.strictEqual(segment.pressure, "high", "what failed long ago is forgotten")
      dropTo(30)
      assert.strictEqual(segment.pressure, "none")
      releaseAll(segment, fifos)
      assert.strictEqual(segment.pressure, "none")
    })

    it("full without a failed request is high, not exhausted", () => {
      const segment = makeSegment({ size: 8 * CHUNK })
      const fifos = Array.from({ length: 8 }, () => allocateFifo(segment, 1))
      assert.strictEqual(segment.usage, 100)
      assert.strictEqual(segment.pressure, "high")
      assert.isUndefined(segment.allocateFifo(1))
      // No header is left, and no chunk was asked for.
      assert.strictEqual(segment.pressure, "high")
      releaseAll(segment, fifos)
    })

    it("a watermark of 0 is none", () => {
      for (const [highWatermark, lowWatermark, expected] of [
        [0, 0, ["none", "none", "none", "none"]],
        [0, 50, ["none", "low", "low", "low"]],
        [75, 0, ["none", "none", "high", "exhausted"]],
        [75, 50, ["none", "low", "high", "exhausted"]],
        [100, 1, ["low", "low", "low", "exhausted"]]
      ] as const) {
        const segment = makeSegment({ size: 4 * CHUNK, maxFifos: 8, highWatermark, lowWatermark })
        assert.strictEqual(segment.pressure, "none")
        const fifos: Array<Fifo.Fifo> = []
        const seen = [1, 2, 3].map(() => {
          fifos.push(allocateFifo(segment, 1))
          return segment.pressure
        })
        fifos.push(...fill(segment, 1))
        seen.push(segment.pressure)
        assert.deepStrictEqual(seen, expected as unknown as Array<FifoSegment.Pressure>)
        assert.strictEqual(mapAgain(segment).pressure, expected[3], "in any mapping")
        releaseAll(segment, fifos)
      }
    })

    it("usage is in percent, rounded down, of the chunks", () => {
      const segment = makeSegment({ size: 7 * CHUNK })
      const fifos: Array<Fifo.Fifo> = []
      const seen = [segment.usage]
      for (let i = 0; i < 7; i++) {
        fifos.push(allocateFifo(segment, 1))
        seen.push(segment.usage)
      }
      assert.deepStrictEqual(seen, [0, 14, 28, 42, 57, 71, 85, 100])
      releaseAll(segment, fifos)
    })
  })

  describe("scenarios of fifo_segment", () => {
    it("prealloc_hdrs: so many pairs as asked, and the next ones touch and split nothing", () => {
      for (const pairs of [1, 10, 32]) {
        const options = { size: MIB, maxFifos: 128 }
        const words = new WatchedWords(allocateBuffer(options))
        const segment = FifoSegment.make(words, options)
        const zeroed: Array<number> = []
        words.onBytes = (start) => void zeroed.push(start)
        assert.strictEqual(segment.preallocatePairs(pairs, 64 * KIB, 100), pairs)
        // Every first chunk was written, so that its page is there.
        assert.strictEqual(new Set(zeroed).size, 2 * pairs)
        assertNoLeak(segment)

        const touched = segment.touchedRanges()
        const units = touchedUnits(segment.chunks)
        assert.strictEqual(units.size, 2 * pairs)
        const before = words.accesses
        const prepared = Array.from({ length: pairs }, () => segment.allocatePair(64 * KIB, 100)!)
        const costPrepared = words.accesses - before
        for (const fifo of prepared.flat()) {
          assert.include(zeroed, segment.chunks.offset(fifo.firstChunk))
          assert.strictEqual(enqueueAt(fifo, 0, 100), 100)
        }
        assert.deepStrictEqual(touchedUnits(segment.chunks), units)

        const fresh = new WatchedWords(allocateBuffer(options))
        const other = FifoSegment.make(fresh, options)
        const start = fresh.accesses
        for (let i = 0; i < pairs; i++) other.allocatePair(64 * KIB, 100)
        assert.isBelow(costPrepared, fresh.accesses - start)
        releaseAll(segment, prepared.flat())
        assert.deepStrictEqual(segment.touchedRanges(), touched)
      }
    })

    it("prealloc: as many as there is room for, and nothing kept", () => {
      for (const [chunks, maxFifos, expected] of [
        [7, 100, 3],
        [100, 7, 3],
        [1, 100, 0],
        [100, 0, 0],
        [8, 8, 4]
      ]) {
        const segment = makeSegment({ size: chunks * CHUNK, maxFifos })
        assert.strictEqual(segment.preallocatePairs(10, MIB, MIB), expected)
        assertNoLeak(segment)
        assert.strictEqual(fill(segment, 1).length, Math.min(chunks, maxFifos))
      }
    })

    it("prealloc: FIFOs of 100 KiB from chunks of 4 KiB until there are none left", () => {
      const segment = makeSegment({ size: 50 * CHUNK, maxFifos: 50 })
      assert.strictEqual(segment.preallocatePairs(25, CHUNK, CHUNK), 25)
      const first = allocateFifo(segment, 100 * KIB)
      const second = allocateFifo(segment, 200 * KIB)
      assert.strictEqual(enqueueAt(first, 0, 100 * KIB), 100 * KIB)
      const rest = segment.availableBytes + CHUNK
      assert.strictEqual(enqueueAt(second, 0, 200 * KIB), rest)
      assert.strictEqual(enqueueAt(second, rest, 1), Fifo.NO_MEMORY)
      assert.isUndefined(segment.allocateFifo(1))
      dequeueAt(first, 0, 100 * KIB)
      dequeueAt(second, 0, rest)
      releaseAll(segment, [first, second])
    })

    it("mempig: filled and freed, again and again, it holds the same number", () => {
      const segment = makeSegment({ size: 2 * MIB })
      const fresh = new Map<number, number>()
      for (const round of [0, 1, 2]) {
        for (const firstBytes of [CHUNK, 16 * KIB, 100 * KIB, MIB, CHUNK]) {
          const fifos = fill(segment, MIB, firstBytes)
          const count = fresh.get(firstBytes) ?? fifos.length
          fresh.set(firstBytes, count)
          assert.strictEqual(fifos.length, count, `${firstBytes} bytes, round ${round}`)
          assert.strictEqual(segment.activeFifos, count)
          assert.strictEqual(segment.availableBytes, 0)
          // Freed in another order than taken, else it would be the easy case.
          const odd = fifos.filter((_, i) => i % 2 === 1).toReversed()
          for (const fifo of [...odd, ...fifos.filter((_, i) => i % 2 === 0)]) {
            assert.isTrue(segment.releaseFifo(fifo))
          }
          assertNoLeak(segment)
        }
      }
      assert.strictEqual(fresh.get(CHUNK), 512)
      assert.strictEqual(fresh.get(MIB), 2)
    })

    it("fifo_grow: a FIFO takes from its segment what it needs, and its end gives exactly that back", () => {
      const segment = makeSegment({ size: MIB })
      const neighbour = allocateFifo(segment, 100)
      const fifo = allocateFifo(segment, MIB)
      const before = segment.availableBytes
      assert.strictEqual(enqueueAt(fifo, 0, CHUNK), CHUNK)
      assert.strictEqual(segment.availableBytes, before)
      assert.strictEqual(enqueueAt(fifo, CHUNK, 16 * CHUNK), 16 * CHUNK)
      assert.strictEqual(segment.availableBytes, before - 16 * CHUNK)
      assert.strictEqual(enqueueAt(fifo, 17 * CHUNK, 17 * CHUNK), 17 * CHUNK)
      assert.strictEqual(segment.availableBytes, before - 48 * CHUNK)
      // The limit would allow more than there is.
      const most = MIB - 34 * CHUNK
      const count = enqueueAt(fifo, 34 * CHUNK, most)
      assert.isBelow(count, most)
      assert.strictEqual(segment.availableBytes, 0)
      assert.strictEqual(enqueueAt(fifo, 34 * CHUNK + count, 1), Fifo.NO_MEMORY)
      assert.isTrue(segment.releaseFifo(fifo))
      assert.strictEqual(segment.availableBytes, before + CHUNK)
      releaseAll(segment, [neighbour])
    })

    it("a pair is two FIFOs or none", () => {
      const segment = makeSegment({ size: 3 * CHUNK, maxFifos: 10 })
      const [rx, tx] = segment.allocatePair(1000, 2000)!
      assert.deepStrictEqual([rx.size, tx.size], [1000, 2000])
      assert.strictEqual(segment.virtualBytes, 3000)
      assert.isUndefined(segment.allocatePair(1, 1), "one chunk is left")
      assert.isUndefined(segment.allocatePair(1, 0), "no FIFO of no bytes")
      assert.isUndefined(segment.allocatePair(1, Fifo.MAX_FIFO_BYTES + 1))
      assert.strictEqual(segment.activeFifos, 2)
      assert.strictEqual(segment.virtualBytes, 3000)
      assert.strictEqual(segment.availableBytes, CHUNK)
      const third = allocateFifo(segment, 1)
      releaseAll(segment, [rx, tx, third])
    })

    it("no more FIFOs than it has headers for", () => {
      const segment = makeSegment({ size: MIB, maxFifos: 3 })
      const fifos = fill(segment, 1)
      assert.deepStrictEqual(
        fifos.map((fifo) => fifo.index),
        [0, 1, 2]
      )
      segment.releaseFifo(fifos[1])
      assert.strictEqual((fifos[1] = allocateFifo(segment, 5)).index, 1)
      assert.isUndefined(segment.allocateFifo(1))
      releaseAll(segment, fifos)
    })

    it("sizes that are none", () => {
      const segment = makeSegment({ size: MIB })
      for (const size of [0, -1, Fifo.MAX_FIFO_BYTES + 1, 2 ** 31, Infinity, -Infinity]) {
        assert.isUndefined(segment.allocateFifo(size), String(size))
      }
      const fifo = allocateFifo(segment, Fifo.MAX_FIFO_BYTES)
      for (const size of [0, -1, Fifo.MAX_FIFO_BYTES + 1, Infinity]) {
        assert.throws(() => segment.resizeFifo(fifo, size), RangeError)
      }
      assert.strictEqual(fifo.size, Fifo.MAX_FIFO_BYTES)
      releaseAll(segment, [fifo])
    })
  })

  it("D26 what is available can be had, whoever has given it back", () => {
    const segment = makeSegment({ size: 64 * CHUNK })
    const hosts = Array.from({ length: 4 }, () => allocateFifo(segment, 16 * KIB))
    // They go on growing by single units.
    for (const host of hosts) segment.resizeFifo(host, MIB)
    const threads = [mapAgain(segment), mapAgain(segment), mapAgain(segment)]
    // Writers and readers in threads of their own: what one has taken another gives back.
    const writers = hosts.map((host, i) => attachFifo(threads[i % 2], host.index, Fifo.WRITER))
    const readers = hosts.map((host) => attachFifo(threads[2], host.index, Fifo.READER))
    let written = 0
    for (const writer of writers) while (enqueueAt(writer, 0, CHUNK) > 0) written += CHUNK
    assert.strictEqual(written, segment.size)
    assert.strictEqual(segment.availableBytes, 0)
    for (const reader of readers) reader.dropAll()
    for (const mapping of [segment, ...threads]) {
      assert.strictEqual(mapping.availableBytes, segment.size - 4 * CHUNK)
      assert.strictEqual(mapping.usage, 6)
    }
    const more = fill(segment, 1)
    assert.strictEqual(more.length, 60)
    releaseAll(segment, [...hosts, ...more])
  })

  it("D30 a new limit counts with its sign", () => {
    const segment = makeSegment({ size: MIB })
    const fifos = [allocateFifo(segment, 1000), allocateFifo(segment, 500)]
    const sums = [segment.virtualBytes]
    for (const [fifo, size] of [
      [fifos[0], 5000],
      [fifos[0], 200],
      [fifos[1], 500],
      [fifos[1], 1],
      [fifos[0], Fifo.MAX_FIFO_BYTES]
    ] as const) {
      segment.resizeFifo(fifo, size)
      assert.strictEqual(fifo.size, size)
      sums.push(segment.virtualBytes)
    }
    assert.deepStrictEqual(sums, [1500, 5500, 700, 700, 201, GIB + 1])
    assert.isTrue(segment.releaseFifo(fifos[0]))
    assert.strictEqual(segment.virtualBytes, 1)
    releaseAll(segment, [fifos[1]])
  })

  it("D50 more holders than a byte or a short can count", () => {
    for (const holders of [127, 128, 129, 255, 256, 257, 65_535, 65_536, 70_000]) {
      const segment = makeSegment({ size: MIB })
      const fifo = allocateFifo(segment, 100)
      for (let i = 1; i < holders; i++) fifo.references++
      for (let i = 1; i < holders; i++) {
        if (segment.releaseFifo(fifo)) assert.fail(`freed with ${holders - i} holders left of ${holders}`)
      }
      assert.strictEqual(segment.activeFifos, 1)
      assert.isTrue(segment.releaseFifo(fifo))
      assertNoLeak(segment)
    }
  })

  it("releasing too often throws, and changes nothing", () => {
    const segment = makeSegment({ size: MIB })
    const [fifo, other] = [allocateFifo(segment, 100), allocateFifo(segment, 10)]
    fifo.references++
    assert.isFalse(segment.releaseFifo(fifo))
    assert.isTrue(segment.releaseFifo(fifo))
    for (let i = 0; i < 3; i++) {
      assert.throws(() => segment.releaseFifo(fifo), RangeError)
      assert.strictEqual(segment.activeFifos, 1)
      assert.strictEqual(segment.virtualBytes, 10)
      assert.strictEqual(segment.availableBytes, segment.size - CHUNK)
    }
    // The header belongs to another FIFO now, and still the old object frees nothing.
    const next = allocateFifo(segment, 20)
    assert.strictEqual(next.index, fifo.index)
    assert.throws(() => segment.releaseFifo(fifo), RangeError)
    assert.strictEqual(enqueueAt(next, 0, 20), 20)
    dequeueAt(next, 0, 20)
    releaseAll(segment, [next, other])
  })

  it("D52 sizes near 2 GiB each: sums do not wrap", () => {
    const most = 2 ** 31 - 1
    assert.strictEqual(FifoSegment.pairBytes(most, most), 2 ** 32)
    assert.strictEqual(FifoSegment.pairBytes(most, 1), 2 ** 31 + CHUNK)
    assert.strictEqual(FifoSegment.pairBytes(2 ** 32, 2 ** 32), 2 ** 33)
    assert.strictEqual(FifoSegment.pairBytes(0, 0), 2 * CHUNK)
    assert.strictEqual(FifoSegment.pairBytes(CHUNK, CHUNK + 1), 3 * CHUNK)
    assert.strictEqual(FifoSegment.pairsPerSegment(2 ** 32, most, most), 1)
    assert.strictEqual(FifoSegment.pairsPerSegment(2 ** 32 - 1, most, most), 0)
    assert.strictEqual(FifoSegment.pairsPerSegment(128 * MIB, most, most), 0)
    assert.strictEqual(FifoSegment.pairsPerSegment(10 * CHUNK, CHUNK, CHUNK), 5)
    assert.strictEqual(FifoSegment.pairsPerSegment(10 * CHUNK - 1, CHUNK, CHUNK), 4)
    // Limits are promises: their sum is more than the segment, and more than 32 bits.
    const segment = makeSegment({ size: MIB })
    const pairs = Array.from({ length: 4 }, () => segment.allocatePair(GIB, GIB)!)
    assert.strictEqual(segment.virtualBytes, 8 * GIB)
    for (const fifo of pairs.flat()) {
      assert.strictEqual(fifo.free, GIB)
      assert.strictEqual(enqueueAt(fifo, 0, 10), 10)
      assert.strictEqual(fifo.free, GIB - 10)
    }
    releaseAll(segment, pairs.flat())
  })

  describe("attach", () => {
    it("finds what another thread has made", () => {
      const segment = makeSegment({ size: 100_000, maxFifos: 3, highWatermark: 10, lowWatermark: 5 })
      const other = mapAgain(segment)
      assert.strictEqual(segment.size, 25 * CHUNK)
      assert.strictEqual(other.size, segment.size)
      const fifo = allocateFifo(segment, 123)
      assert.strictEqual(other.availableBytes, segment.size - CHUNK)
      for (const side of [Fifo.WRITER, Fifo.READER]) {
        const attached = attachFifo(other, fifo.index, side)
        assert.strictEqual(attached.size, 123)
        assert.strictEqual(attached.index, fifo.index)
      }
      for (const index of [-1, 1, 2, 3, 4, 1000, 2 ** 31]) {
        assert.isUndefined(other.attachFifo(index, Fifo.READER), String(index))
      }
      releaseAll(segment, [fifo])
      assert.isUndefined(other.attachFifo(fifo.index, Fifo.READER))
    })

    it("rejects what is too short, empty or something else", () => {
      for (const bytes of [0, 3, 4, 63, 64, 4096, 100_000]) {
        const buffer = new SharedArrayBuffer(bytes)
        assert.isUndefined(FifoSegment.attach(new SharedWords(buffer)), `${bytes} zeros`)
        new Uint8Array(buffer).fill(0xff)
        assert.isUndefined(FifoSegment.attach(new SharedWords(buffer)), `${bytes} ones`)
      }
    })

    it("rejects a segment that does not fit in its memory", () => {
      const options = { size: 64 * KIB, maxFifos: 10, unitBytes: CHUNK }
      const whole = makeSegment(options).words
      assert.strictEqual(whole.byteLength, FifoSegment.regionBytes(options))
      for (const missing of [1, 4, CHUNK, 64 * KIB, whole.byteLength - 64]) {
        const cut = new SharedWords(whole.buffer.slice(0, whole.byteLength - missing))
        assert.isUndefined(FifoSegment.attach(cut), `${missing} bytes missing`)
      }
      const larger = new SharedArrayBuffer(whole.byteLength + 1000)
      new Uint8Array(larger).set(new Uint8Array(whole.buffer))
      assert.isDefined(FifoSegment.attach(new SharedWords(larger)))
    })

    it("rejects a header with any nonsense in it, or stays within its memory", () => {
      const hostile = [
        0,
        -1,
        1,
        2,
        3,
        5,
        4095,
        4097,
        8192,
        2 ** 20,
        2 ** 24 + 1,
        2 ** 26 + 1,
        2 ** 30,
        2 ** 31 - 1,
        -(2 ** 31)
      ]
      let rejected = 0
      for (const word of [0, 1, 2, 3]) {
        for (const value of hostile) {
          const { words } = makeSegment({ size: 64 * KIB, maxFifos: 10 })
          words.store(word, value)
          const segment = FifoSegment.attach(words)
          if (segment === undefined) {
            rejected++
            continue
          }
          assert.isAtMost(segment.chunks.offset(segment.chunks.units), words.byteLength)
          for (const side of [Fifo.WRITER, Fifo.READER]) {
            for (let index = 0; index < 12; index++) assert.isUndefined(segment.attachFifo(index, side))
          }
        }
      }
      assert.isAbove(rejected, 40)
    })

    it("finds nothing while the maker is still at it", () => {
      const options = { size: 64 * KIB, maxFifos: 10, unitBytes: CHUNK }
      const words = new WatchedWords(allocateBuffer(options))
      let looks = 0
      words.before = () => {
        looks++
        assert.isUndefined(FifoSegment.attach(new SharedWords(words.buffer)))
      }
      FifoSegment.make(words, options)
      words.before = () => {}
      assert.isAbove(looks, 5)
      assert.isDefined(FifoSegment.attach(words))
    })
  })

  describe("touched memory", () => {
    it("a segment of 128 MiB with one pair costs what it uses", () => {
      const options = { size: 128 * MIB, unitBytes: MIN_CHUNK_BYTES }
      const words = new WatchedWords(allocateBuffer(options))
      /** What costs memory is the pages that anything was written to, wherever that was. */
      const pages = new Set<number>()
      words.onWord = (word) => pages.add(Math.floor(word / 1024))
      words.onBytes = (start, end) => {
        for (let page = Math.floor(start / CHUNK); page <= Math.floor((end - 1) / CHUNK); page++) pages.add(page)
      }
      const segment = FifoSegment.make(words, options)
      assert.isBelow(touchedBytes(segment), 32 * KIB)
      const pair = segment.allocatePair(MIB, MIB)!
      assert.isBelow(pages.size, 8)
      const empty = pages.size
      for (let position = 0; position < 100 * KIB; position += 1000) {
        for (const fifo of pair) {
          assert.strictEqual(enqueueAt(fifo, position, 1000), 1000)
          dequeueAt(fifo, position, 1000)
        }
      }
      assert.isAtMost(pages.size, empty + 3, "small messages use the same chunk again")
      // Each has gone on from its first chunk to as much again, and so on, until a message fits in.
      assert.isAtMost(touchedUnits(segment.chunks).size, 2 * 8)
      releaseAll(segment, pair)
      assert.isBelow(touchedBytes(segment), 64 * KIB)
    })

    it.prop(
      "zeroing it leaves nothing behind, whatever was done",
      {
        shape: Model.shapes,
        pairs: int(6),
        program: Model.commands,
        released: int(3)
      },
      ({ pairs, program, released, shape }) => {
        const options = { size: shape.units * shape.unitBytes, unitBytes: shape.unitBytes, maxFifos: 12 }
        const segment = makeSegment(options)
        segment.preallocatePairs(pairs, 10, 20)
        const other = mapAgain(segment)
        const hosts = shape.sizes.map((size) => allocateFifo(segment, size))
        const subjects = hosts.map((host) =>
          Model.subject(
            host,
            attachFifo(other, host.index, Fifo.WRITER),
            attachFifo(mapAgain(segment), host.index, Fifo.READER)
          )
        )
        for (const command of program) Model.step(segment, subjects[command.fifo], command)
        for (let i = 0; i < 2; i++) if ((released & (1 << i)) !== 0) segment.releaseFifo(hosts[i])

        zeroTouched(segment)

        // And so it can be a segment again, like one in new memory.
        const fresh = makeSegment(options)
        FifoSegment.make(segment.words, options)
        assertSameBytes(segment, fresh)
      },
      { arbitrary: { runs: 300, size: 80 } }
    )

    /** The first bytes of a FIFO, by every way there is. */
    const firstWrites: ReadonlyArray<readonly [name: string, write: (fifo: Fifo.Fifo) => number]> = [
      ["enqueue", (fifo) => fifo.enqueue(bytesAt(0, 10), 0, 10)],
      ["enqueue, over chunks", (fifo) => fifo.enqueue(bytesAt(0, 3 * CHUNK), 0, 3 * CHUNK)],
      ["enqueueAll", (fifo) => fifo.enqueueAll(bytesAt(0, 10), 0, 10)],
      ["enqueueSegments", (fifo) => fifo.enqueueSegments([bytesAt(0, 5), bytesAt(5, 5)], false)],
      ["enqueueSegments, partial", (fifo) => fifo.enqueueSegments([bytesAt(0, 5), bytesAt(5, 5)], true)],
      ["claim", (fifo) => fifo.claim(10).length],
      ["claim, over chunks", (fifo) => fifo.claim(3 * CHUNK).length],
      ["commit of what was not claimed", (fifo) => fifo.commit(10)]
    ]

    for (const [name, write] of firstWrites) {
      for (const isMaker of [true, false]) {
        it(`a first chunk is known to be touched before its first byte is there: ${name}, ${isMaker ? "where it was made" : "elsewhere"}`, () => {
          const options = { size: 64 * KIB, unitBytes: CHUNK }
          const words = new WatchedWords(allocateBuffer(options))
          const segment = FifoSegment.make(isMaker ? words : new SharedWords(words.buffer), options)
          const [host, neighbour] = [allocateFifo(segment, 64 * KIB), allocateFifo(segment, 64 * KIB)]
          assert.strictEqual(touchedUnits(segment.chunks).size, 0)
          const writer = isMaker ? host : attachFifo(mapAgain(segment, words), host.index, Fifo.WRITER)
          const looks = watchTouched(segment, words)
          assert.isAbove(write(writer), 0)
          if (name !== "commit of what was not claimed") assert.isAbove(looks(), 0)
          const units = chunksOf(segment, host).flatMap((chunk) =>
            Array.from({ length: segment.chunks.bytes(chunk) / CHUNK }, (_, i) => chunk + i)
          )
          assert.deepStrictEqual(touchedUnits(segment.chunks), new Set(units.toSorted((a, b) => a - b)))
          assert.notInclude(units, neighbour.firstChunk)
          words.onBytes = () => {}
          releaseAll(segment, [host, neighbour])
          zeroTouched(segment)
        })
      }
    }

    it("a FIFO that is never written touches none of its chunks, whatever else is done with it", () => {
      const options = { size: 64 * KIB, unitBytes: CHUNK }
      const words = new WatchedWords(allocateBuffer(options))
      const segment = FifoSegment.make(words, options)
      words.onBytes = () => assert.fail("bytes of a FIFO without any")
      const host = allocateFifo(segment, 40 * KIB, 16 * KIB)
      const reader = attachFifo(mapAgain(segment, words), host.index, Fifo.READER)
      const bytes = new Uint8Array(10)
      assert.strictEqual(host.enqueue(bytes, 0, 0), 0)
      assert.strictEqual(host.enqueueAll(bytes, 0, 0), 0)
      assert.strictEqual(host.enqueueSegments([], true), 0)
      assert.deepStrictEqual(host.claim(0), [])
      assert.strictEqual(host.commit(0), 0)
      for (const fifo of [host, reader]) {
        assert.strictEqual(fifo.dequeue(bytes, 0, 10), Fifo.EMPTY)
        assert.strictEqual(fifo.peek(0, bytes, 0, 10), Fifo.EMPTY)
        assert.strictEqual(fifo.drop(10), Fifo.EMPTY)
        assert.strictEqual(fifo.dropAll(), 0)
        assert.deepStrictEqual(fifo.segments(10), [])
        assert.deepStrictEqual([fifo.used, fifo.free, fifo.chunkCount, fifo.readable], [0, 40 * KIB, 1, 0])
      }
      segment.resizeFifo(host, 100)
      host.setEvent()
      host.wantDequeueNotification(Fifo.WANT_ROOM, 10)
      host.end()
      reader.stop()
      reader.reset(Fifo.READER)
      assert.strictEqual(touchedUnits(segment.chunks).size, 0)
      // What its taking has left in the tables goes all the same, from a segment in use as well.
      const inUse = segment.touchedRanges()
      releaseAll(segment, [host])
      assert.strictEqual(touchedUnits(segment.chunks).size, 0)
      words.onBytes = () => {}
      const copy = mapAgain(segment, new SharedWords(words.buffer.slice(0)))
      zeroTouched(segment)
      for (const [start, end] of inUse) copy.words.zero(start, end)
      assert.strictEqual(firstNonZero(copy.words.buffer), -1)
    })

    it.prop(
      "no byte is written, lent or read where nothing is known to be touched, whatever is done",
      { shape: Model.shapes, attached: int(3), program: Model.commands },
      ({ attached, program, shape }) => {
        const options = { size: shape.units * shape.unitBytes, unitBytes: shape.unitBytes, maxFifos: 2 }
        const words = new WatchedWords(allocateBuffer(options))
        const segment = FifoSegment.make(words, options)
        const other = mapAgain(segment, words)
        const subjects = hostsOf(segment, shape, options.size).map((host, i) => {
          if ((attached & (1 << i)) === 0) return Model.subject(host)
          return Model.subject(
            host,
            attachFifo(other, host.index, Fifo.WRITER),
            attachFifo(other, host.index, Fifo.READER)
          )
        })
        watchTouched(segment, words)
        Model.run(segment, subjects, program)
        words.onBytes = () => {}
        assert.isTrue(segment.scrub())
        assertNoBytes(segment)
      },
      { arbitrary: { runs: 200, size: 80 } }
    )

    it("a first chunk that a guest cuts off, or says is smaller, hides nothing", () => {
      const cutOff = (segment: FifoSegment.FifoSegment): void =>
        segment.words.store(headerWord(segment, 0) + Header.headChunk, 0)
      const become = (sizeClass: number) => (segment: FifoSegment.FifoSegment, chunk: number) =>
        segment.words.store(segment.chunks.descriptor(chunk) + 2, sizeClass + 1)
      for (const [firstBytes, breakIt] of [
        [CHUNK, cutOff],
        [CHUNK, become(-1)],
        [32 * KIB, cutOff],
        [32 * KIB, become(-1)],
        [32 * KIB, become(0)]
      ] as const) {
        for (const length of [0, 10, 20 * KIB, 40 * KIB]) {
          const segment = makeSegment({ size: 64 * KIB })
          const fifo = allocateFifo(segment, 64 * KIB, firstBytes)
          breakIt(segment, fifo.firstChunk)
          fifo.enqueue(bytesAt(0, length), 0, length)
          segment.releaseFifo(fifo)
          // What is lost stays lost, so this is no segment like a new one.
          assert.isFalse(segment.scrub())
          zeroTouched(segment)
        }
      }
    })
  })

  describe("scrub", () => {
    it("does nothing while anything is in use, or lost", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const inUse: ReadonlyArray<() => () => void> = [
        () => {
          const fifo = allocateFifo(segment, 100)
          return () => void segment.releaseFifo(fifo)
        },
        () => {
          const fifo = allocateFifo(segment, 100)
          fifo.references++
          segment.releaseFifo(fifo)
          enqueueAt(fifo, 0, 100)
          return () => void segment.releaseFifo(fifo)
        },
        () => {
          // All chunks are free, because a guest has given one back that is not its own.
          const fifo = allocateFifo(segment, 100)
          enqueueAt(fifo, 0, 100)
          mapAgain(segment).chunks.release(fifo.firstChunk)
          return () => void segment.releaseFifo(fifo)
        },
        () => {
          const chunk = mapAgain(segment).chunks.allocate(10)
          return () => void segment.chunks.release(chunk)
        },
        () => {
          const fifo = allocateFifo(segment, 100)
          const chunk = fifo.firstChunk
          enqueueAt(fifo, 0, 100)
          segment.words.store(headerWord(segment, fifo.index) + Header.headChunk, 0)
          segment.releaseFifo(fifo)
          return () => void segment.chunks.release(chunk)
        }
      ]
      for (const take of inUse) {
        const used = allocateFifo(segment, 40 * KIB)
        enqueueAt(used, 0, 40 * KIB)
        segment.releaseFifo(used)
        const giveBack = take()
        const before = segment.words.buffer.slice(0)
        const ranges = segment.touchedRanges()
        assert.isFalse(segment.scrub())
        assert.strictEqual(Buffer.compare(new Uint8Array(before), new Uint8Array(segment.words.buffer)), 0)
        assert.deepStrictEqual(segment.touchedRanges(), ranges)
        giveBack()
        assert.isTrue(segment.scrub())
        assertNoBytes(segment)
      }
      assertNoLeak(segment)
    })

    it("of a segment that was never used changes nothing", () => {
      const options = { size: 100_000, maxFifos: 3 }
      const segment = makeSegment(options)
      assert.isTrue(segment.scrub())
      assertSameBytes(segment, makeSegment(options))
    })

    it("forgets that the segment was exhausted", () => {
      const segment = makeSegment({ size: 4 * CHUNK, maxFifos: 8, highWatermark: 1, lowWatermark: 0 })
      for (const fifo of fill(segment, 1)) segment.releaseFifo(fifo)
      assert.isTrue(segment.chunks.isExhausted)
      assert.isTrue(segment.scrub())
      const fifo = allocateFifo(segment, 1)
      assert.strictEqual(segment.pressure, "high")
      releaseAll(segment, [fifo])
    })

    it("no FIFO from before it can be attached, and headers go on with their generations", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const generations: Array<number> = []
      for (let turn = 0; turn < 3; turn++) {
        const fifos = [allocateFifo(segment, 100), allocateFifo(segment, 100)]
        assert.deepStrictEqual(
          fifos.map((fifo) => fifo.index),
          [0, 1]
        )
        generations.push(segment.words.load(headerWord(segment, 1) + Header.generation))
        for (const fifo of fifos) {
          enqueueAt(fifo, 0, 100)
          fifo.end()
          fifo.stop()
          fifo.reset(Fifo.WRITER)
          fifo.markGone(Fifo.READER)
          fifo.setEvent()
          fifo.wantDequeueNotification(7, 10)
          segment.releaseFifo(fifo)
        }
        assert.isTrue(segment.scrub())
        for (const side of [Fifo.WRITER, Fifo.READER]) {
          for (const index of [0, 1]) assert.isUndefined(mapAgain(segment).attachFifo(index, side))
        }
        assert.throws(() => segment.releaseFifo(fifos[0]), RangeError)
      }
      assert.deepStrictEqual(generations, [1, 2, 3])
      const next = allocateFifo(segment, 50)
      assert.deepStrictEqual([next.used, next.size], [0, 50])
      const { hasEvent, isEnded, isStopped } = next
      const flags = { hasEvent, isEnded, isStopped, reset: next.isResetBy(3), gone: next.isGone(3) }
      for (const [flag, isSet] of Object.entries(flags)) assert.isFalse(isSet, flag)
      assert.isFalse(next.isWanted(7))
      releaseAll(segment, [next])
    })

    it("a guest that dies anywhere leaves a segment that is as good as new, or known not to be", () => {
      const options = { size: 32 * 16, unitBytes: 16, maxFifos: 4 }
      const target = new Uint8Array(400)
      const operations: ReadonlyArray<readonly [side: number, run: (fifo: Fifo.Fifo) => void]> = [
        [Fifo.WRITER, (fifo) => fifo.enqueue(bytesAt(100, 300), 0, 300)],
        [Fifo.WRITER, (fifo) => fifo.commit(fifo.claim(20).reduce((sum, view) => sum + view.length, 0))],
        [Fifo.READER, (fifo) => fifo.dequeue(target, 0, 400)],
        [Fifo.READER, (fifo) => fifo.drop(50)]
      ]
      let [blanks, others] = [0, 0]
      for (const [side, run] of operations) {
        for (let at = 0, ends = false; !ends; at++) {
          const segment = makeSegment(options)
          const host = allocateFifo(segment, 400)
          const small = fill(segment, 1)
          for (const fifo of small) segment.releaseFifo(fifo)
          for (let position = 0; position < 100; position += 20) enqueueAt(host, position, 20)
          const words = new WatchedWords(segment.words.buffer)
          const guest = attachFifo(mapAgain(segment, words), host.index, side)
          const start = words.accesses
          words.before = (access) => {
            if (access === start + at) throw new Error("terminated")
          }
          try {
            run(guest)
            ends = true
          } catch {}
          segment.releaseFifo(host)
          if (segment.scrub()) {
            blanks++
            assertNoBytes(segment)
            const all = segment.allocateFifo(options.size)!
            const count = enqueueAt(all, 0, options.size)
            if (count !== options.size) assert.fail(`${count} of ${options.size} bytes are left, access ${at}`)
            segment.releaseFifo(all)
            assertNoLeak(segment)
          } else {
            others++
          }
          zeroTouched(segment)
        }
      }
      assert.isAbove(blanks, 20)
      assert.isAbove(others, 5)
    })

    it.prop(
      "leaves an empty segment like a new one, whatever was done",
      {
        shape: Model.shapes,
        turns: Arbitrary.array(Model.commands, { minLength: 1, maxLength: 4 }),
        pairs: int(6),
        firstBytes: int(10_000)
      },
      ({ firstBytes, pairs, shape, turns }) => {
        const options = { size: shape.units * shape.unitBytes, unitBytes: shape.unitBytes, maxFifos: 12 }
        const segment = makeSegment(options)
        for (const [turn, program] of turns.entries()) {
          // FIFOs made here and elsewhere, and all that they hold is left in them. The first turn has the most.
          if (turn === 0) segment.preallocatePairs(pairs, 10, 20)
          const hosts = hostsOf(segment, shape, firstBytes)
          const subjects = hosts.map((host, i) => {
            if ((turn + i) % 2 === 0) return Model.subject(host)
            return Model.subject(
              host,
              attachFifo(mapAgain(segment), host.index, Fifo.WRITER),
              attachFifo(mapAgain(segment), host.index, Fifo.READER)
            )
          })
          // The model knows what a FIFO is, whatever its memory was before.
          Model.check(segment, subjects)
          for (const command of program) {
            Model.step(segment, subjects[command.fifo], command)
            Model.check(segment, subjects)
          }
          for (const host of hosts) segment.releaseFifo(host)
          if (segment.scrub() !== true) assert.fail("not scrubbed")

          assertNoLeak(segment)
          assertNoBytes(segment)
          const { chunks } = segment
          const descriptors = [chunks.descriptor(0) * 4, chunks.descriptor(chunks.units) * 4] as const
          if (firstNonZero(segment.words.buffer, ...descriptors) >= 0) assert.fail("a descriptor is left")
          if (touchedUnits(chunks).size > 0) assert.fail("a chunk counts as touched")
          assert.deepStrictEqual([segment.usage, segment.pressure], [0, "none"])
        }
        const copy = mapAgain(segment, new SharedWords(segment.words.buffer.slice(0)))
        const fresh = makeSegment(options)

        // Each first chunk is as large as in new memory, and so is all there is.
        for (const size of [1, firstBytes + 1, shape.unitBytes * 3, options.size]) {
          const chunk = copy.chunks.allocate(size)
          const other = fresh.chunks.allocate(size)
          assert.strictEqual(copy.chunks.bytes(chunk), fresh.chunks.bytes(other))
          copy.chunks.release(chunk)
          fresh.chunks.release(other)
        }
        const [many, expected] = [fill(copy, 1), fill(fresh, 1)]
        assert.deepStrictEqual(
          many.map((fifo) => fifo.index),
          expected.map((fifo) => fifo.index)
        )

        // What is left is known, headers included.
        zeroTouched(segment)
      },
      { arbitrary: { runs: 200, size: 60 } }
    )
  })

  describe("isLike", () => {
    const optionsOf = Arbitrary.map(
      Arbitrary.all({ size: int(5), unit: int(2), fifos: int(3), high: int(2), low: int(2) }),
      ({ fifos, high, low, size, unit }): FifoSegment.Options => ({
        size: [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 64 * KIB][size],
        unitBytes: [undefined, CHUNK, 2 * CHUNK][unit],
        maxFifos: [undefined, 1, 2, 16][fifos],
        highWatermark: [undefined, 80, 0][high],
        lowWatermark: [undefined, 50, 10][low]
      })
    )

    it.prop(
      "says what a new segment would be like",
      { one: optionsOf, other: optionsOf },
      ({ one, other }) => {
        const [segment, expected] = [makeSegment(one), makeSegment(other)]
        const isSame = Buffer.compare(Buffer.from(segment.words.buffer), Buffer.from(expected.words.buffer)) === 0
        assert.strictEqual(segment.isLike(other), isSame)
        assert.isTrue(segment.isLike(one))
        // Use and scrubbing do not change what it is like.
        const fifo = allocateFifo(segment, 100)
        enqueueAt(fifo, 0, 100)
        assert.strictEqual(segment.isLike(other), isSame)
        releaseAll(segment, [fifo])
        segment.scrub()
        assert.strictEqual(segment.isLike(other), isSame)
        assert.strictEqual(mapAgain(segment).isLike(other), isSame)
      },
      { arbitrary: { runs: 500 } }
    )

    it("is nothing whose header says something else to those who attach", () => {
      const options = { size: 64 * KIB, maxFifos: 10 }
      for (let word = 0; word < 6; word++) {
        for (const value of [0, 1, -1, 17, 2 ** 30]) {
          const segment = makeSegment(options)
          segment.words.store(word, value)
          assert.isFalse(segment.isLike(options), `${value} in word ${word}`)
        }
      }
    })
  })

  it("a FIFO that was freed cannot be resized: its header and its bytes may be another's", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const freed = allocateFifo(segment, 100)
    assert.isTrue(segment.releaseFifo(freed))
    const next = allocateFifo(segment, 50)
    assert.strictEqual(next.index, freed.index)
    assert.throws(() => segment.resizeFifo(freed, 500), RangeError)
    assert.strictEqual(segment.virtualBytes, 50)
    assert.strictEqual(next.enqueue(bytesAt(0, 100), 0, 100), 50)
    releaseAll(segment, [next])
  })

  it("every FIFO in a header has a generation of its own", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const word = headerWord(segment, 0) + Header.generation
    const generations: Array<number> = []
    for (let i = 1; i <= 5; i++) {
      const fifo = allocateFifo(segment, 100)
      generations.push(segment.words.load(word))
      segment.releaseFifo(fifo)
      assert.isUndefined(segment.attachFifo(0, Fifo.READER))
    }
    assert.deepStrictEqual(generations, [1, 2, 3, 4, 5])
    releaseAll(segment, [])
  })

  it("headers start at cache lines, whatever the size of the tables", () => {
    for (let units = 1; units < 70; units++) {
      const segment = makeSegment({ size: units * 64, unitBytes: 64 })
      assert.strictEqual(headerWord(segment, 0) % 16, 0, `${units} units`)
    }
  })

  it("a size that a guest writes changes no count of the maker, and frees all the same", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const host = allocateFifo(segment, 100)
    const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
    segment.words.store(headerWord(segment, 0) + Header.size, 5000)
    assert.isAbove(host.enqueue(bytesAt(0, 200), 0, 200), 0)
    assert.isAbove(reader.dropAll(), 0)
    segment.resizeFifo(host, 300)
    assert.strictEqual(segment.virtualBytes, 300)
    releaseAll(segment, [host])
  })

  it("a guest that makes the list start nowhere does not throw in the thread that frees it", () => {
    for (const chunk of [0, -1, -2, 17, 5000, 2 ** 30, 2 ** 31 - 1, -(2 ** 31)]) {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      segment.words.store(headerWord(segment, 0) + Header.headChunk, chunk)
      assert.isAtLeast(fifo.chunkCount, 0)
      assert.isTrue(segment.releaseFifo(fifo))
      assert.strictEqual(segment.activeFifos, 0)
      assert.strictEqual(segment.virtualBytes, 0)
      // The header is free again: another FIFO can have it.
      releaseAllButLost(segment)
    }
  })
})

/** What a guest has cut off its list stays lost until the segment goes. */
const releaseAllButLost = (segment: ReturnType<typeof makeSegment>): void => {
  const before = segment.availableBytes
  const next = allocateFifo(segment, 10)
  assert.strictEqual(next.index, 0)
  segment.releaseFifo(next)
  assert.strictEqual(segment.availableBytes, before)
}
