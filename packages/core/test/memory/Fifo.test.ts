import * as Fifo from "@cut-through/core/memory/Fifo"
import type { FifoSegment } from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import * as Model from "./fifoModel.ts"
import {
  allocateFifo,
  attachFifo,
  bytesAt,
  dequeueAt,
  enqueueAt,
  Header,
  headerWord,
  KIB,
  makeSegment,
  mapAgain,
  MIB,
  releaseAll,
  skip,
  WatchedWords
} from "./fixtures.ts"

const segmentOf = (shape: Model.Shape): FifoSegment =>
  makeSegment({ size: shape.units * shape.unitBytes, unitBytes: shape.unitBytes, maxFifos: 2 })

describe("Fifo", () => {
  describe("against a model", () => {
    it.prop(
      "one object for both sides",
      { shape: Model.shapes, program: Model.commands },
      ({ program, shape }) => {
        const segment = segmentOf(shape)
        Model.run(
          segment,
          shape.sizes.map((size) => Model.subject(allocateFifo(segment, size))),
          program
        )
      },
      { arbitrary: { runs: 700, size: 120 } }
    )

    it.prop(
      "one object for both sides, in memory that no other thread has mapped",
      { shape: Model.shapes, program: Model.commands },
      ({ program, shape }) => {
        const segment = segmentOf(shape)
        segment.words.isShared = false
        Model.run(
          segment,
          shape.sizes.map((size) => Model.subject(allocateFifo(segment, size))),
          program
        )
      },
      { arbitrary: { runs: 300, size: 120 } }
    )

    it.prop(
      "two mappings, positions around the wrap of 32 bits",
      {
        shape: Model.shapes,
        before: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 500 }))),
        program: Model.commands
      },
      ({ before, program, shape }) => {
        const segment = segmentOf(shape)
        const other = mapAgain(segment)
        const subjects = shape.sizes.map((size) => {
          const host = allocateFifo(segment, size)
          // What a FIFO looks like when nearly 4 GiB have passed: both positions and its chunk are there.
          const position = 2 ** 32 - before
          const at = headerWord(segment, host.index)
          segment.words.store(at + Header.tail, position)
          segment.words.store(at + Header.head, position)
          segment.chunks.setStart(host.firstChunk, position)
          return Model.subject(
            host,
            attachFifo(segment, host.index, Fifo.WRITER),
            attachFifo(other, host.index, Fifo.READER),
            position
          )
        })
        Model.run(segment, subjects, program)
      },
      { arbitrary: { runs: 700, size: 120 } }
    )

    it.prop(
      "after 4 GiB have passed",
      {
        before: Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20000 }))),
        program: Model.commands
      },
      ({ before, program }) => {
        const segment = makeSegment({ size: MIB, maxFifos: 2 })
        const subjects = [20000, 9000].map((size) => {
          const fifo = allocateFifo(segment, 512 * KIB)
          skip(fifo, 2 ** 32 - before, 512 * KIB)
          segment.resizeFifo(fifo, size)
          return Model.subject(fifo, fifo, fifo, 2 ** 32 - before)
        })
        Model.run(segment, subjects, program)
      },
      { arbitrary: { runs: 4, size: 200 } }
    )
  })

  it("a limit that the maker shrinks to what is used holds for a writer elsewhere at once", () => {
    const segment = makeSegment({ size: 64 * KIB })
    const host = allocateFifo(segment, 100)
    const other = mapAgain(segment)
    const writer = attachFifo(other, host.index, Fifo.WRITER)
    const reader = attachFifo(other, host.index, Fifo.READER)
    assert.strictEqual(enqueueAt(writer, 0, 10), 10)
    segment.resizeFifo(host, 10)
    assert.strictEqual(enqueueAt(writer, 10, 1), Fifo.FULL)
    assert.strictEqual(writer.enqueueAll(bytesAt(10, 1), 0, 1), Fifo.FULL)
    assert.deepStrictEqual(writer.claim(1), [])
    assert.strictEqual(writer.size, 10)
    assert.strictEqual(writer.free, 0)
    segment.resizeFifo(host, 12)
    assert.strictEqual(writer.free, 2)
    assert.strictEqual(enqueueAt(writer, 10, 5), 2)
    dequeueAt(reader, 0, 12)
    releaseAll(segment, [host])
  })

  it("what a third party sees in use is never more than has been written", () => {
    for (let at = 0; at < 4; at++) {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      const words = new WatchedWords(segment.words.buffer)
      const third = attachFifo(mapAgain(segment, words), fifo.index, Fifo.READER)
      enqueueAt(fifo, 0, 30)
      const start = words.accesses
      words.before = (access) => {
        if (access !== start + at) return
        enqueueAt(fifo, 30, 50)
        dequeueAt(fifo, 0, 60)
      }
      assert.isAtMost(third.used, 80)
      words.before = () => {}
      fifo.dropAll()
      releaseAll(segment, [fifo])
    }
  })

  it("all or nothing in an empty FIFO without memory: nothing, and a part of it fits", () => {
    const segment = makeSegment({ size: 8 * KIB })
    const fifo = allocateFifo(segment, MIB)
    const other = allocateFifo(segment, 1)
    const bytes = bytesAt(0, 5000)
    assert.strictEqual(fifo.enqueueAll(bytes, 0, 5000), Fifo.NO_MEMORY)
    assert.strictEqual(fifo.enqueueSegments([bytes], false), Fifo.NO_MEMORY)
    assert.strictEqual(fifo.used, 0)
    assert.strictEqual(fifo.enqueue(bytes, 0, 5000), 4096)
    assert.strictEqual(fifo.enqueue(bytes, 4096, 904), Fifo.NO_MEMORY)
    dequeueAt(fifo, 0, 4096)
    assert.strictEqual(fifo.enqueue(bytes, 4096, 904), 904)
    dequeueAt(fifo, 4096, 904)
    releaseAll(segment, [fifo, other])
  })
})
