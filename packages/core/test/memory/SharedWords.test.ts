import { portableCopy, SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import * as Model from "./fifoModel.ts"
import {
  allocateFifo,
  attachFifo,
  byteAt,
  bytesAt,
  dequeueAt,
  enqueueAt,
  firstNonZero,
  mapAgain,
  releaseAll,
  WatchedWords
} from "./fixtures.ts"

const filled = (buffer: ArrayBufferLike, value: number): Uint8Array => new Uint8Array(buffer).fill(value)

const longProgram: ReadonlyArray<Model.Command> = Array.from({ length: 700 }, (_, i) => {
  const operations = ["enqueue", "dequeue", "claim", "segments", "enqueueSegments", "drop", "peek"] as const
  const operation = operations[(i * 5) % operations.length]
  return { operation, fifo: i % 2, amount: (i * 7919) % 10_000, other: (i * 104_729) % 10_000 }
})

describe("portableCopy", () => {
  it("copies exactly the range, of any length, from and to any offset", () => {
    const offsets = [0, 1, 3, 4, 7, 8]
    for (const Target of [ArrayBuffer, SharedArrayBuffer]) {
      const source = new Uint8Array(new SharedArrayBuffer(320))
      source.set(bytesAt(0, 320))
      for (let length = 0; length <= 300; length++) {
        for (const from of offsets) {
          const to = offsets[(length + from) % offsets.length]
          const target = filled(new Target(320), 0xee)
          portableCopy(target, to, source, from, from + length)
          for (let i = 0; i < 320; i++) {
            const expected = i >= to && i < to + length ? byteAt(from + i - to) : 0xee
            if (target[i] !== expected) assert.fail(`byte ${i} of ${length} copied from ${from} to ${to}`)
          }
        }
      }
    }
  })

  it("copies a whole source", () => {
    for (let length = 0; length <= 300; length++) {
      const target = filled(new SharedArrayBuffer(length + 2), 0xee)
      portableCopy(target, 1, bytesAt(length, length), 0, length)
      assert.deepStrictEqual(target.slice(1, length + 1), bytesAt(length, length))
      assert.deepStrictEqual([target[0], target[length + 1]], [0xee, 0xee])
    }
  })

  it("copies a view of something larger", () => {
    const source = new Uint8Array(new SharedArrayBuffer(400)).subarray(50, 350)
    source.set(bytesAt(0, 300))
    const target = filled(new ArrayBuffer(400), 0).subarray(30, 390)
    for (const length of [0, 24, 25, 300]) {
      portableCopy(target, 20, source, 0, length)
      assert.deepStrictEqual(target.slice(20, 20 + length), bytesAt(0, length))
    }
  })
})

describe("SharedWords", () => {
  it("does the same with atomics and without", () => {
    const [shared, own] = [true, false].map((isShared) => {
      const words = new SharedWords(new SharedArrayBuffer(8))
      assert.isTrue(words.isShared)
      words.isShared = isShared
      return words
    })
    const values = [0, 1, -1, 0x7fffffff, -0x80000000, 0x80000000, 0xdeadbeef, 12345]
    for (const operation of ["store", "add", "or", "and", "exchange"] as const) {
      for (const before of values) {
        for (const value of values) {
          const outcomes = [shared, own].map((words) => {
            words.init(1, before)
            return [words[operation](1, value), words.load(1), words.peek(1), words.load(0)]
          })
          assert.deepStrictEqual(outcomes[1], outcomes[0], `${operation} of ${value} to ${before}`)
        }
      }
    }
  })

  it("a region need not be whole words long: its last bytes are bytes only", () => {
    for (const length of [5, 6, 7]) {
      const words = new SharedWords(new SharedArrayBuffer(length))
      words.store(0, 42)
      words.zero(4, length)
      assert.strictEqual(words.byteLength, length)
      assert.strictEqual(words.load(0), 42)
    }
  })

  it("what changes a word returns what was there before, in 32 bits", () => {
    for (const Buffer of [ArrayBuffer, SharedArrayBuffer]) {
      const words = new SharedWords(new Buffer(12))
      words.store(1, 40)
      assert.strictEqual(words.add(1, 2), 40)
      assert.strictEqual(words.or(1, 5), 42)
      assert.strictEqual(words.and(1, ~3), 47)
      assert.strictEqual(words.exchange(1, -1), 44)
      assert.strictEqual(words.load(1), -1)
      words.store(1, 2 ** 32 - 2)
      assert.strictEqual(words.load(1), -2)
      assert.strictEqual(words.add(1, 3), -2)
      assert.strictEqual(words.load(1), 1)
      words.store(1, 2 ** 31)
      assert.strictEqual(words.add(1, -1), -(2 ** 31))
      assert.strictEqual(words.load(1), 2 ** 31 - 1)
      assert.deepStrictEqual([words.load(0), words.load(2)], [0, 0], "neighbours")
    }
  })

  it("plain reads and writes are of the same words, in 32 bits", () => {
    for (const Buffer of [ArrayBuffer, SharedArrayBuffer]) {
      const words = new SharedWords(new Buffer(12))
      words.init(1, 2 ** 32 - 2)
      assert.strictEqual(words.load(1), -2)
      words.store(1, 2 ** 31)
      assert.strictEqual(words.peek(1), -(2 ** 31))
      words.init(1, 42)
      assert.strictEqual(words.exchange(1, 7), 42)
      assert.strictEqual(words.peek(1), 7)
      assert.deepStrictEqual([words.peek(0), words.peek(2)], [0, 0], "neighbours")
    }
  })

  it("words and bytes are the same memory, in every mapping", () => {
    const buffer = new SharedArrayBuffer(16)
    const [one, two] = [new SharedWords(buffer), new SharedWords(buffer)]
    one.copyIn(4, Uint8Array.of(9, 1, 2, 3, 4, 9), 1, 5)
    const target = new Uint8Array(6)
    two.copyOut(target, 1, 4, 8)
    assert.deepStrictEqual(Array.from(target), [0, 1, 2, 3, 4, 0])
    const word = two.load(1)
    assert.strictEqual(word, new Int32Array(Uint8Array.of(1, 2, 3, 4).buffer)[0])
    const view = one.view(4, 8)
    two.store(1, 0)
    assert.deepStrictEqual(Array.from(view), [0, 0, 0, 0])
    assert.strictEqual(view.buffer, buffer)
    assert.strictEqual(one.buffer, two.buffer)
  })

  it("zeroes a range and nothing beside it", () => {
    const SIZE = 50_000
    const words = new SharedWords(new SharedArrayBuffer(SIZE))
    const bytes = words.view(0, SIZE)
    // It works in pieces of 16 KiB: ends before, at and behind them.
    for (const start of [0, 1, 100]) {
      for (const length of [0, 1, 24, 25, 16_383, 16_384, 16_385, 32_768, 32_769, SIZE - start]) {
        bytes.fill(0xee)
        words.zero(start, start + length)
        const first = bytes.indexOf(0)
        const last = bytes.lastIndexOf(0)
        assert.deepStrictEqual([first, last], length === 0 ? [-1, -1] : [start, start + length - 1])
        assert.strictEqual(bytes.subarray(start, start + length).indexOf(0xee), -1)
      }
    }
    bytes.fill(0xee)
    words.zero(10, 5)
    assert.strictEqual(bytes.indexOf(0), -1, "a range that ends before it starts is empty")
  })

  it("all bytes go through the copy it was given", () => {
    const calls: Array<string> = []
    const words = new SharedWords(new SharedArrayBuffer(100), (target, targetStart, source, start, end) => {
      calls.push(`${start} to ${end} at ${targetStart}`)
      portableCopy(target, targetStart, source, start, end)
    })
    words.copyIn(7, bytesAt(0, 30), 2, 22)
    words.copyOut(new Uint8Array(50), 3, 7, 27)
    words.zero(50, 60)
    assert.deepStrictEqual(calls, ["2 to 22 at 7", "7 to 27 at 3", "0 to 10 at 50"])
    assert.deepStrictEqual(words.view(7, 27).slice(), bytesAt(2, 20))
  })

  it("a subclass takes its place: all that is shared goes through it", () => {
    const options = { size: 64, unitBytes: 16, maxFifos: 2 }
    const buffer = new SharedArrayBuffer(FifoSegment.regionBytes(options))
    const shadow = new SharedWords(new SharedArrayBuffer(buffer.byteLength))
    /** Writes everything twice. What goes past it is in one copy only. */
    class Twice extends SharedWords {
      override init(word: number, value: number): void {
        super.init(word, value)
        shadow.init(word, value)
      }
      override store(word: number, value: number): void {
        super.store(word, value)
        shadow.store(word, value)
      }
      override add(word: number, value: number): number {
        shadow.add(word, value)
        return super.add(word, value)
      }
      override or(word: number, bits: number): number {
        shadow.or(word, bits)
        return super.or(word, bits)
      }
      override and(word: number, bits: number): number {
        shadow.and(word, bits)
        return super.and(word, bits)
      }
      override exchange(word: number, value: number): number {
        shadow.exchange(word, value)
        return super.exchange(word, value)
      }
      override copyIn(targetStart: number, source: Uint8Array, sourceStart: number, sourceEnd: number): void {
        super.copyIn(targetStart, source, sourceStart, sourceEnd)
        shadow.copyIn(targetStart, source, sourceStart, sourceEnd)
      }
    }
    const segment = FifoSegment.make(new Twice(buffer), options)
    const fifo = allocateFifo(segment, 40)
    enqueueAt(fifo, 0, 40)
    fifo.setEvent()
    fifo.wantDequeueNotification(3)
    fifo.clearDequeueNotification()
    fifo.reset(1)
    dequeueAt(fifo, 0, 35)
    const same = (): void => assert.deepStrictEqual(new Uint8Array(buffer), new Uint8Array(shadow.buffer))
    same()
    releaseAll(segment, [fifo])
    same()
  })

  it("no shared word or byte is read or written past it", () => {
    const options = { size: 1024, unitBytes: 16, maxFifos: 4 }
    const buffer = new SharedArrayBuffer(FifoSegment.regionBytes(options))
    const elsewhere = new SharedWords(new SharedArrayBuffer(buffer.byteLength))
    /** Has everything somewhere else. What goes past it finds zeros, or leaves something where zeros should be. */
    class Elsewhere extends SharedWords {
      override load(word: number): number {
        return elsewhere.load(word)
      }
      override store(word: number, value: number): void {
        elsewhere.store(word, value)
      }
      override peek(word: number): number {
        return elsewhere.peek(word)
      }
      override init(word: number, value: number): void {
        elsewhere.init(word, value)
      }
      override add(word: number, value: number): number {
        return elsewhere.add(word, value)
      }
      override or(word: number, bits: number): number {
        return elsewhere.or(word, bits)
      }
      override and(word: number, bits: number): number {
        return elsewhere.and(word, bits)
      }
      override exchange(word: number, value: number): number {
        return elsewhere.exchange(word, value)
      }
      override copyIn(at: number, source: Uint8Array, start: number, end: number): void {
        elsewhere.copyIn(at, source, start, end)
      }
      override copyOut(target: Uint8Array, at: number, start: number, end: number): void {
        elsewhere.copyOut(target, at, start, end)
      }
      override view(start: number, end: number): Uint8Array {
        return elsewhere.view(start, end)
      }
      override zero(start: number, end: number): void {
        elsewhere.zero(start, end)
      }
    }
    const words = new Elsewhere(buffer)
    const segment = FifoSegment.make(words, options)
    assert.strictEqual(segment.preallocatePairs(1, 10, 10), 1)
    const other = mapAgain(segment, words)
    const subjects = [300, 77].map((size) => {
      const host = allocateFifo(segment, size)
      return Model.subject(host, attachFifo(other, host.index, Fifo.WRITER), attachFifo(other, host.index, Fifo.READER))
    })
    Model.run(segment, subjects, longProgram)
    assert.isTrue(segment.isLike(options))
    assert.isTrue(segment.scrub())
    assert.strictEqual(firstNonZero(buffer), -1)
    for (const [start, end] of segment.touchedRanges()) words.zero(start, end)
    assert.strictEqual(firstNonZero(elsewhere.buffer), -1)
  })

  it("what watches it in tests sees every access, plain ones included", () => {
    // An accessor that is missing there is one that no interleaving comes before.
    const accessors = Object.getOwnPropertyNames(SharedWords.prototype)
    const seen = Object.getOwnPropertyNames(WatchedWords.prototype)
    assert.deepStrictEqual(
      accessors.filter((name) => !seen.includes(name)),
      ["byteLength"]
    )
    const words = new WatchedWords(new SharedArrayBuffer(64))
    const places: Array<number> = []
    words.onWord = (word) => places.push(word)
    words.init(3, 7)
    words.lie = (word, value) => word + value
    assert.strictEqual(words.peek(3), 10)
    assert.deepStrictEqual([words.accesses, ...places], [2, 3, 3])
  })

  it("a plain buffer does for one thread", () => {
    const options = { size: 4096, unitBytes: 16, maxFifos: 2 }
    const segment = FifoSegment.make(new WatchedWords(new ArrayBuffer(FifoSegment.regionBytes(options))), options)
    Model.run(
      segment,
      [300, 77].map((size) => Model.subject(allocateFifo(segment, size))),
      longProgram
    )
  })
})
