/** A segment that is shared with a thread that has died: what is there is used, and nothing is repaired. */
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Model from "./fifoModel.ts"
import {
  allocateBuffer,
  allocateFifo,
  assertAccounted,
  attachFifo,
  CHUNK,
  chunksOf,
  dequeueAt,
  enqueueAt,
  firstNonZero,
  KIB,
  makeSegment,
  mapAgain,
  WatchedWords,
  zeroTouched
} from "./fixtures.ts"

describe("FifoSegment that is condemned", () => {
  it("makes no FIFO any more, and takes nothing from the tables", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const host = allocateFifo(segment, 100)
    assert.isFalse(segment.isCondemned)
    const before = segment.words.buffer.slice(0)
    for (let i = 0; i < 2; i++) {
      segment.condemn()
      assert.isTrue(segment.isCondemned)
      assert.isUndefined(segment.allocateFifo(100))
      assert.isUndefined(segment.allocatePair(100, 100))
      assert.strictEqual(segment.preallocatePairs(3, 100, 100), 0)
      assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes], [1, 100])
    }
    assert.strictEqual(Buffer.compare(new Uint8Array(before), new Uint8Array(segment.words.buffer)), 0)
    assert.isTrue(segment.releaseFifo(host))
    // Nor does a FIFO that was freed before make room for one.
    assert.isUndefined(segment.allocateFifo(100))
  })

  it("counts the FIFOs that are freed, and looks at no shared word", () => {
    const words = new WatchedWords(allocateBuffer({ size: 64 * KIB }))
    const segment = makeSegment({ size: 64 * KIB }, words)
    const fifos = [allocateFifo(segment, 10 * KIB), allocateFifo(segment, 20 * KIB)]
    for (const fifo of fifos) {
      enqueueAt(fifo, 0, 9 * KIB)
      fifo.references = 2
    }
    segment.condemn()
    const { accesses } = words
    for (const [active, virtual] of [
      [1, 20 * KIB],
      [0, 0]
    ]) {
      const fifo = fifos[1 - active]
      assert.isFalse(segment.releaseFifo(fifo))
      assert.isTrue(segment.releaseFifo(fifo))
      assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes], [active, virtual])
      assert.throws(() => segment.releaseFifo(fifo), RangeError)
    }
    assert.strictEqual(words.accesses, accesses)
    // Each has taken a chunk of four kilobytes, then one of eight.
    assert.strictEqual(segment.availableBytes, 64 * KIB - 2 * 12 * KIB)
  })

  it("goes on with the FIFOs there are: they grow, and give back what was read", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const host = allocateFifo(segment, 40 * KIB)
    const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
    enqueueAt(host, 0, 3 * KIB)
    segment.condemn()
    for (let position = 3 * KIB; position < 300 * KIB; position += 10 * KIB) {
      assert.strictEqual(enqueueAt(host, position, 10 * KIB), 10 * KIB)
      dequeueAt(reader, position - 3 * KIB, 10 * KIB)
      assertAccounted(segment, [host])
    }
    host.end()
    assert.isTrue(reader.isEnded)
    const before = chunksOf(segment, host)
    assert.isTrue(segment.releaseFifo(host))
    assert.deepStrictEqual(chunksOf(segment, host), before)
  })

  it("knows all that was touched, whatever the tables say, and is nothing to use again as it is", () => {
    for (const isCounted of [true, false]) {
      const segment = makeSegment({ size: 64 * KIB })
      // Not written: its descriptor is the only trace of it.
      const [host, neighbour] = [allocateFifo(segment, 10 * KIB), allocateFifo(segment, 10 * KIB)]
      enqueueAt(host, 0, 10 * KIB)
      segment.condemn()
      for (const fifo of [host, neighbour]) segment.releaseFifo(fifo)
      // The dead may have left the counts of a segment that has everything.
      if (!isCounted) segment.words.store(16, 64)
      assert.strictEqual(segment.availableBytes === segment.size, !isCounted)
      const before = segment.words.buffer.slice(0)
      assert.isFalse(segment.scrub())
      assert.strictEqual(Buffer.compare(new Uint8Array(before), new Uint8Array(segment.words.buffer)), 0)
      zeroTouched(segment)
    }
  })

  it("is not scrubbed, even when nothing is in use", () => {
    const segment = makeSegment({ size: 64 * KIB })
    segment.condemn()
    assert.isFalse(segment.scrub())
    assert.strictEqual(segment.availableBytes, segment.size)
  })

  it("is what one thread knows: others that have it mapped attach and go on", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const host = allocateFifo(segment, 10 * KIB)
    segment.condemn()
    const other = mapAgain(segment)
    assert.isFalse(other.isCondemned)
    const [writer, reader] = [Fifo.WRITER, Fifo.READER].map((side) => attachFifo(other, host.index, side))
    assert.strictEqual(enqueueAt(writer, 0, CHUNK), CHUNK)
    dequeueAt(reader, 0, CHUNK)
    assert.isTrue(segment.releaseFifo(host))
  })

  it.prop(
    "at any moment: FIFOs stay what they are, their end leaves no trace, and the memory is like new when it is zeroed",
    { shape: Model.shapes, before: Model.commands, after: Model.commands },
    ({ after, before, shape }) => {
      const options = { size: shape.units * shape.unitBytes, unitBytes: shape.unitBytes, maxFifos: 2 }
      const segment = makeSegment(options)
      const subjects = shape.sizes.map((size, i) => {
        const host = allocateFifo(segment, size)
        if (i === 0) return Model.subject(host)
        return Model.subject(
          host,
          attachFifo(mapAgain(segment), host.index, Fifo.WRITER),
          attachFifo(mapAgain(segment), host.index, Fifo.READER)
        )
      })
      for (const command of before) Model.step(segment, subjects[command.fifo], command)
      segment.condemn()
      for (const command of after) {
        Model.step(segment, subjects[command.fifo], command)
        Model.check(segment, subjects)
      }
      const left = segment.words.buffer.slice(0)
      for (const { host } of subjects) segment.releaseFifo(host)
      assert.deepStrictEqual([segment.activeFifos, segment.virtualBytes], [0, 0])
      assert.strictEqual(Buffer.compare(new Uint8Array(left), new Uint8Array(segment.words.buffer)), 0)
      zeroTouched(segment)
      const next = FifoSegment.make(new SharedWords(segment.words.buffer), options)
      assert.strictEqual(next.availableBytes, next.size)
      zeroTouched(next)
      assert.strictEqual(firstNonZero(segment.words.buffer), -1)
    },
    { arbitrary: { runs: 150, size: 60 } }
  )
})
