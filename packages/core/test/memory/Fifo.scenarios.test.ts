import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import * as Fifo from "@cut-through/core/memory/Fifo"
import type { FifoSegment } from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import {
  allocateFifo,
  assertAccounted,
  assertBytesAt,
  attachFifo,
  byteAt,
  bytesAt,
  CHUNK,
  chunkSizes,
  dequeueAt,
  enqueueAt,
  GIB,
  KIB,
  makeSegment,
  mapAgain,
  MIB,
  releaseAll,
  skip,
  WatchedWords
} from "./fixtures.ts"

const lengthOf = (views: ReadonlyArray<Uint8Array>): number => views.reduce((sum, view) => sum + view.length, 0)

/** Fills what was claimed with what belongs there, and publishes it. */
const commitAt = (fifo: Fifo.Fifo, position: number, views: ReadonlyArray<Uint8Array>): void => {
  let at = position
  for (const view of views) {
    view.set(bytesAt(at, view.length))
    at += view.length
  }
  assert.strictEqual(fifo.commit(at - position), at - position)
}

describe("Fifo, scenarios of svm_fifo", () => {
  describe("peek", () => {
    it("D45 at or behind what is used finds nothing", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 64 * KIB)
      // The last one ends with its chunk: the byte behind it is in no chunk at all.
      for (const used of [1, 10, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]) {
        assert.strictEqual(enqueueAt(fifo, 0, used), used)
        const bytes = new Uint8Array(10)
        assert.strictEqual(fifo.peek(used - 1, bytes, 0, 10), 1)
        assert.strictEqual(bytes[0], byteAt(used - 1))
        for (const offset of [used, used + 1, used + CHUNK, 10 * MIB, 2 ** 31, 2 ** 32 + used]) {
          assert.strictEqual(fifo.peek(offset, bytes, 0, 10), Fifo.EMPTY, `${offset} of ${used}`)
        }
        assert.deepStrictEqual(Array.from(bytes), [byteAt(used - 1), 0, 0, 0, 0, 0, 0, 0, 0, 0])
        dequeueAt(fifo, 0, used)
        assert.isFalse(fifo.isCorrupt)
      }
      releaseAll(segment, [fifo])
    })

    it("D45 on an empty FIFO finds nothing, wherever its head is", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 64 * KIB)
      const bytes = new Uint8Array(10)
      for (const by of [0, 1, CHUNK - 1, CHUNK, 5 * CHUNK, 12345]) {
        if (by > 0) skip(fifo, by, by)
        for (const offset of [0, 1, CHUNK]) {
          assert.strictEqual(fifo.peek(offset, bytes, 0, 10), Fifo.EMPTY)
          assert.strictEqual(fifo.peek(offset, bytes, 0, 0), 0)
        }
        assert.strictEqual(fifo.dequeue(bytes, 0, 10), Fifo.EMPTY)
        assert.strictEqual(fifo.drop(10), Fifo.EMPTY)
        assert.strictEqual(fifo.dropAll(), 0)
        assert.deepStrictEqual(fifo.segments(10), [])
      }
      assert.isFalse(fifo.isCorrupt)
      releaseAll(segment, [fifo])
    })

    it("leaves everything where it is, over chunks", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 16 * KIB)
      enqueueAt(fifo, 0, 16 * KIB)
      const bytes = new Uint8Array(16 * KIB)
      for (const [offset, length] of [
        [0, 16 * KIB],
        [CHUNK - 1, 2],
        [CHUNK, CHUNK],
        [CHUNK + 1, 2 * CHUNK + 1],
        [16 * KIB - 1, 100]
      ]) {
        const count = Math.min(length, 16 * KIB - offset)
        assert.strictEqual(fifo.peek(offset, bytes, 0, length), count)
        assertBytesAt(bytes, offset, count)
      }
      assert.deepStrictEqual(chunkSizes(segment, fifo), [CHUNK, 4 * CHUNK])
      dequeueAt(fifo, 0, 16 * KIB)
      releaseAll(segment, [fifo])
    })
  })

  describe("enqueueSegments", () => {
    it("D44 partial: returns the bytes it has written, not how many were left or none", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      const pieces = (from: number) => [bytesAt(from, 40), new Uint8Array(0), bytesAt(from + 40, 40)]
      assert.strictEqual(fifo.enqueueSegments(pieces(0), true), 80)
      assert.strictEqual(fifo.enqueueSegments(pieces(80), true), 20)
      assert.strictEqual(fifo.enqueueSegments(pieces(100), true), Fifo.FULL)
      assert.strictEqual(fifo.used, 100)
      dequeueAt(fifo, 0, 50)
      // The first piece fits and ten bytes of the last one.
      assert.strictEqual(fifo.enqueueSegments(pieces(100), true), 50)
      dequeueAt(fifo, 50, 100)
      releaseAll(segment, [fifo])
    })

    it("D44 all or nothing: a byte too many and none is written", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      assert.strictEqual(fifo.enqueueSegments([bytesAt(0, 60), bytesAt(60, 41)], false), Fifo.FULL)
      assert.strictEqual(fifo.used, 0)
      assert.strictEqual(fifo.enqueueSegments([bytesAt(0, 60), bytesAt(60, 40)], false), 100)
      assert.strictEqual(fifo.enqueueSegments([bytesAt(100, 1)], false), Fifo.FULL)
      dequeueAt(fifo, 0, 100)
      releaseAll(segment, [fifo])
    })

    it("D44 nothing to enqueue is nothing enqueued, also when the FIFO is full", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 5)
      for (const isPartial of [true, false]) {
        assert.strictEqual(fifo.enqueueSegments([], isPartial), 0)
        enqueueAt(fifo, 0, 5)
        assert.strictEqual(fifo.enqueueSegments([], isPartial), 0)
        assert.strictEqual(fifo.enqueueSegments([new Uint8Array(0)], isPartial), 0)
        dequeueAt(fifo, 0, 5)
      }
      releaseAll(segment, [fifo])
    })

    it("D44 what was written is seen at once, or not at all", () => {
      const segment = makeSegment({ size: 64, unitBytes: 4 })
      const words = new WatchedWords(segment.words.buffer)
      const host = allocateFifo(segment, 50)
      const writer = attachFifo(mapAgain(segment, words), host.index, Fifo.WRITER)
      const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
      const seen = new Set<number>()
      words.before = () => void seen.add(reader.readable)
      assert.strictEqual(writer.enqueueSegments([bytesAt(0, 7), bytesAt(7, 10), bytesAt(17, 3)], true), 20)
      assert.strictEqual(enqueueAt(writer, 20, 20), 20)
      assert.deepStrictEqual(Array.from(seen), [0, 20])
      dequeueAt(reader, 0, 40)
      releaseAll(segment, [host])
    })
  })

  describe("grow", () => {
    it("by one chunk when the first byte needs it", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 16 * KIB)
      const counts: Array<number> = []
      let position = 0
      for (const length of [CHUNK, 1, CHUNK - 1, 1, CHUNK - 101, 100, 1, CHUNK - 1]) {
        assert.strictEqual(enqueueAt(fifo, position, length), length)
        position += length
        counts.push(fifo.chunkCount)
      }
      assert.deepStrictEqual(counts, [1, 2, 2, 3, 3, 3, 4, 4])
      assert.strictEqual(segment.availableBytes, segment.size - 16 * KIB)
      assert.strictEqual(enqueueAt(fifo, position, 1), Fifo.FULL)
      dequeueAt(fifo, 0, position)
      assert.strictEqual(fifo.chunkCount, 1)
      releaseAll(segment, [fifo])
    })

    it("by what one enqueue needs", () => {
      const segment = makeSegment({ size: MIB })
      const fifo = allocateFifo(segment, 256 * KIB)
      assert.strictEqual(enqueueAt(fifo, 0, 200 * KIB), 200 * KIB)
      assert.deepStrictEqual(chunkSizes(segment, fifo), [CHUNK, 256 * KIB])
      dequeueAt(fifo, 0, 200 * KIB)
      assert.deepStrictEqual(chunkSizes(segment, fifo), [256 * KIB])
      releaseAll(segment, [fifo])
    })

    it("by a quarter of the limit for small pieces, at least a unit and at most 64 KiB", () => {
      for (const [size, grown] of [
        [8 * KIB, CHUNK],
        [64 * KIB, 16 * KIB],
        [100_000, 32 * KIB],
        [256 * KIB, 64 * KIB],
        [4 * MIB, 64 * KIB]
      ]) {
        const segment = makeSegment({ size: MIB })
        const fifo = allocateFifo(segment, size)
        assert.strictEqual(enqueueAt(fifo, 0, CHUNK), CHUNK)
        assert.strictEqual(enqueueAt(fifo, CHUNK, 1), 1)
        assert.deepStrictEqual(chunkSizes(segment, fifo), [CHUNK, grown], `${size} bytes`)
        dequeueAt(fifo, 0, CHUNK + 1)
        releaseAll(segment, [fifo])
      }
    })

    it("a limit below a unit, and one of a single byte", () => {
      const segment = makeSegment({ size: 64 * KIB })
      for (const size of [1, 2, 3, CHUNK - 1]) {
        const fifo = allocateFifo(segment, size)
        for (let position = 0; position < CHUNK + 20; position += size) {
          assert.strictEqual(enqueueAt(fifo, position, size + 1), size)
          assert.strictEqual(enqueueAt(fifo, position, 1), Fifo.FULL)
          dequeueAt(fifo, position, size)
          assert.isAtMost(fifo.chunkCount, 2)
        }
        releaseAll(segment, [fifo])
      }
    })

    it("4 MiB from chunks of 4 KiB in packets of 1500 bytes, and back", () => {
      const segment = makeSegment({ size: 5 * MIB })
      const fifo = allocateFifo(segment, 16 * KIB)
      // The limit grows, the pieces it grows by stay.
      segment.resizeFifo(fifo, 4 * MIB)
      let written = 0
      while (written < 4 * MIB) {
        const length = Math.min(1500, 4 * MIB - written)
        assert.strictEqual(enqueueAt(fifo, written, length), length)
        written += length
      }
      assert.strictEqual(fifo.chunkCount, 1024)
      assert.strictEqual(segment.availableBytes, MIB)
      assert.strictEqual(enqueueAt(fifo, written, 1), Fifo.FULL)
      let read = 0
      for (let packet = 0; read < written; packet++) {
        const length = Math.min(1500, written - read)
        dequeueAt(fifo, read, length)
        read += length
        // Counting walks the list: not after each packet.
        if (packet % 97 === 0) assert.strictEqual(fifo.chunkCount, 1024 - Math.floor(read / CHUNK))
      }
      assert.strictEqual(fifo.chunkCount, 1)
      assert.strictEqual(segment.availableBytes, 5 * MIB - CHUNK)
      releaseAll(segment, [fifo])
    })

    it("D31 over_max_chunk: 5 MiB at once", () => {
      for (const isClaimed of [false, true]) {
        const segment = makeSegment({ size: 16 * MIB, unitBytes: MIN_CHUNK_BYTES })
        const host = allocateFifo(segment, 5 * MIB)
        const writer = attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
        const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
        if (isClaimed) commitAt(writer, 0, writer.claim(6 * MIB))
        else assert.strictEqual(writer.enqueue(bytesAt(0, 6 * MIB), 0, 6 * MIB), 5 * MIB)
        assert.deepStrictEqual(chunkSizes(segment, host), [256, 256, 512, 1024, 2048, 4 * MIB, MIB])
        assert.strictEqual(writer.enqueue(bytesAt(0, 1), 0, 1), Fifo.FULL)
        let position = 0
        for (const view of reader.segments(5 * MIB)) {
          assertBytesAt(view, position)
          position += view.length
        }
        assert.strictEqual(reader.drop(5 * MIB), 5 * MIB)
        assert.strictEqual(position, 5 * MIB)
        releaseAll(segment, [host])
      }
    })

    it("D31 as a first chunk: the FIFO takes the rest when it needs it", () => {
      const segment = makeSegment({ size: 16 * MIB, unitBytes: MIN_CHUNK_BYTES })
      const fifo = allocateFifo(segment, 5 * MIB, 5 * MIB)
      assert.deepStrictEqual(chunkSizes(segment, fifo), [4 * MIB])
      const views = fifo.claim(5 * MIB)
      assert.deepStrictEqual(
        views.map((view) => view.length),
        [4 * MIB, MIB]
      )
      assert.strictEqual(fifo.commit(5 * MIB), 5 * MIB)
      assert.strictEqual(fifo.dropAll(), 5 * MIB)
      releaseAll(segment, [fifo])
    })
  })

  describe("shrink", () => {
    const takers: ReadonlyArray<readonly [name: string, take: (fifo: Fifo.Fifo, length: number) => number]> = [
      ["dequeue", (fifo, length) => fifo.dequeue(new Uint8Array(length), 0, length)],
      ["drop", (fifo, length) => fifo.drop(length)],
      ["segments and drop", (fifo, length) => fifo.drop(lengthOf(fifo.segments(length)))]
    ]

    for (const [name, take] of takers) {
      it(`${name}: a chunk is given back with its last byte, and the last chunk stays`, () => {
        // 1500 and 100 divide no chunk, 4096 ends at each end, the last one takes several at once.
        for (const piece of [1, 100, 1500, CHUNK, CHUNK + 1, 3 * CHUNK]) {
          const segment = makeSegment({ size: 64 * KIB })
          const fifo = allocateFifo(segment, 16 * KIB)
          for (let position = 0; position < 4 * CHUNK; position += CHUNK) enqueueAt(fifo, position, CHUNK)
          assert.strictEqual(fifo.chunkCount, 4)
          for (let read = 0; read < 4 * CHUNK;) {
            const length = Math.min(piece, 4 * CHUNK - read)
            assert.strictEqual(take(fifo, length), length)
            read += length
            const left = Math.max(1, 4 - Math.floor(read / CHUNK))
            if (fifo.chunkCount !== left || segment.availableBytes !== segment.size - left * CHUNK) {
              assert.fail(`${fifo.chunkCount} chunks after ${read} bytes, should be ${left}`)
            }
          }
          releaseAll(segment, [fifo])
        }
      })
    }

    it("the last chunk goes when another has been linked behind it, with the first byte of that", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const host = allocateFifo(segment, 16 * KIB)
      const writer = attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
      const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
      enqueueAt(writer, 0, CHUNK)
      dequeueAt(reader, 0, CHUNK - 1)
      enqueueAt(writer, CHUNK, 1)
      assert.strictEqual(host.chunkCount, 2)
      dequeueAt(reader, CHUNK - 1, 1)
      assert.strictEqual(host.chunkCount, 1, "read to its end, with a chunk behind it")
      dequeueAt(reader, CHUNK, 1)
      enqueueAt(writer, CHUNK + 1, CHUNK - 1)
      dequeueAt(reader, CHUNK + 1, CHUNK - 1)
      assert.strictEqual(host.chunkCount, 1, "read to its end, the last one")
      enqueueAt(writer, 2 * CHUNK, 1)
      assertAccounted(segment, [host])
      dequeueAt(reader, 2 * CHUNK, 1)
      assert.strictEqual(host.chunkCount, 1)
      releaseAll(segment, [host])
    })

    it("an empty FIFO keeps one chunk for small messages for ever", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 16 * KIB)
      const { firstChunk } = fifo
      const words = new Set<number>()
      for (let position = 0; position < 10 * CHUNK; position += 100) {
        enqueueAt(fifo, position, 100)
        dequeueAt(fifo, position, 100)
        words.add(fifo.firstChunk)
      }
      assert.deepStrictEqual(Array.from(words), [firstChunk])
      releaseAll(segment, [fifo])
    })

    it("a limit below what is used: nothing is lost, and nothing more accepted until it has drained", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const host = allocateFifo(segment, 16 * KIB)
      const writer = attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
      const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
      assert.strictEqual(enqueueAt(writer, 0, 10_000), 10_000)
      segment.resizeFifo(host, 5000)
      for (const fifo of [host, writer, reader]) {
        assert.strictEqual(fifo.size, 5000)
        assert.strictEqual(fifo.free, 0)
        assert.strictEqual(fifo.used, 10_000)
      }
      let position = 0
      for (const [taken, accepted] of [
        [4999, 0],
        [1, 0],
        [1, 1],
        [99, 99]
      ]) {
        dequeueAt(reader, position, taken)
        position += taken
        assert.strictEqual(enqueueAt(writer, position + 5000 - accepted, 200), accepted === 0 ? Fifo.FULL : accepted)
      }
      dequeueAt(reader, position, 5000)
      releaseAll(segment, [host])
    })

    it("rcv_wnd_zero: a limit of exactly what is used leaves no room, and room comes back", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const host = allocateFifo(segment, 16 * KIB)
      for (const isSame of [true, false]) {
        const writer = isSame ? host : attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
        assert.strictEqual(enqueueAt(writer, 0, CHUNK + 1), CHUNK + 1)
        segment.resizeFifo(host, CHUNK + 1)
        assert.strictEqual(writer.free, 0)
        assert.strictEqual(enqueueAt(writer, CHUNK + 1, 1), Fifo.FULL)
        assert.strictEqual(writer.claim(1).length, 0)
        segment.resizeFifo(host, 16 * KIB)
        assert.strictEqual(writer.free, 16 * KIB - CHUNK - 1)
        assert.strictEqual(enqueueAt(writer, CHUNK + 1, 16 * KIB), 16 * KIB - CHUNK - 1)
        dequeueAt(host, 0, 16 * KIB)
      }
      releaseAll(segment, [host])
    })
  })

  describe("indirect", () => {
    it("claim and commit over a chunk of 4 MiB and the one behind it", () => {
      const segment = makeSegment({ size: 16 * MIB })
      const host = allocateFifo(segment, 8 * MIB, 4 * MIB)
      const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
      assert.deepStrictEqual(chunkSizes(segment, host), [4 * MIB])
      const views = host.claim(4 * MIB + 100)
      assert.deepStrictEqual(
        views.map((view) => view.length),
        [4 * MIB, 100]
      )
      assert.strictEqual(reader.readable, 0, "a claim publishes nothing")
      commitAt(host, 0, views)
      assert.strictEqual(reader.readable, 4 * MIB + 100)
      // What was claimed and not committed is claimed again, and an enqueue writes there.
      assert.strictEqual(lengthOf(host.claim(50)), 50)
      assert.strictEqual(host.commit(20), 20)
      assert.strictEqual(reader.readable, 4 * MIB + 120)
      assert.strictEqual(enqueueAt(host, 4 * MIB + 120, 10), 10)
      dequeueAt(reader, 0, 4 * MIB + 100)
      assert.strictEqual(reader.drop(20), 20)
      dequeueAt(reader, 4 * MIB + 120, 10)
      releaseAll(segment, [host])
    })

    it("a commit of more than there is room for publishes nothing", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      assert.strictEqual(lengthOf(fifo.claim(1000)), 100)
      assert.strictEqual(fifo.commit(101), Fifo.FULL)
      assert.strictEqual(fifo.used, 0)
      assert.strictEqual(fifo.commit(0), 0)
      assert.strictEqual(fifo.commit(100), 100)
      assert.strictEqual(fifo.commit(1), Fifo.FULL)
      assert.strictEqual(fifo.commit(0), 0)
      assert.strictEqual(fifo.dropAll(), 100)
      releaseAll(segment, [fifo])
    })

    it("views of claims and segments are the memory itself", () => {
      const segment = makeSegment({ size: 64 * KIB })
      const fifo = allocateFifo(segment, 100)
      const [claimed] = fifo.claim(3)
      fifo.commit(3)
      claimed.set([7, 8, 9])
      const [lent] = fifo.segments(100)
      assert.deepStrictEqual(Array.from(lent), [7, 8, 9])
      assert.strictEqual(lent.buffer, segment.words.buffer)
      assert.strictEqual(fifo.dropAll(), 3)
      releaseAll(segment, [fifo])
    })
  })

  it("large: 5 GiB pass, and every piece is where it belongs", () => {
    const segment = makeSegment({ size: 16 * MIB })
    const host = allocateFifo(segment, 4 * MIB)
    const writer = attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
    const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
    /** Where views have stamps: at their ends and at every so many bytes of the stream. */
    const EVERY = 64 * KIB
    const each = (
      views: ReadonlyArray<Uint8Array>,
      from: number,
      at: (view: Uint8Array, i: number, p: number) => void
    ) => {
      let position = from
      for (const view of views) {
        at(view, 0, position)
        at(view, view.length - 1, position + view.length - 1)
        for (let i = EVERY - (position % EVERY); i < view.length; i += EVERY) at(view, i, position + i)
        position += view.length
      }
      return position - from
    }
    let written = 0
    let read = 0
    const stamps = new Map<number, number>()
    for (let round = 0; read < 5 * GIB; round++) {
      // Odd lengths, so that neither pieces nor chunk ends stay in step with the stamps.
      const claimed = each(writer.claim(1 + ((round * 1_234_567) % (3 * MIB))), written, (view, i, position) => {
        view[i] = byteAt(position)
        stamps.set(position, byteAt(position))
      })
      if (writer.commit(claimed) !== claimed) assert.fail("a claim was not committed")
      written += claimed
      const views = reader.segments(1 + ((round * 7_654_321) % (3 * MIB)))
      const seen = each(views, read, (view, i, position) => {
        const stamp = stamps.get(position)
        if (stamp !== undefined && view[i] !== stamp) assert.fail(`byte ${position} is ${view[i]}, should be ${stamp}`)
      })
      if (reader.drop(seen) !== seen) assert.fail("what was lent was not dropped")
      read += seen
      for (const position of stamps.keys()) {
        if (position >= read) break
        stamps.delete(position)
      }
    }
    assert.strictEqual(reader.readable, written - read)
    reader.dropAll()
    assertAccounted(segment, [host])
    releaseAll(segment, [host])
  })
})

/** A FIFO whose writer gets nothing any more, in a segment that others use too. */
interface Stuck {
  readonly segment: FifoSegment
  readonly host: Fifo.Fifo
  readonly other: Fifo.Fifo
  readonly words: WatchedWords
  readonly writer: Fifo.Fifo
  readonly reason: number
}

const stuck = (reason: number): Stuck => {
  const segment = makeSegment({ size: 8 * CHUNK })
  const host = allocateFifo(segment, reason === Fifo.FULL ? 5000 : MIB)
  const other = allocateFifo(segment, MIB)
  const words = new WatchedWords(segment.words.buffer)
  const writer = attachFifo(mapAgain(segment, words), host.index, Fifo.WRITER)
  let written = 0
  for (let count = 1; count > 0; written += Math.max(0, count)) count = enqueueAt(writer, written, 1000)
  if (writer.used !== written) assert.fail("not the scene that the tests are about")
  return { segment, host, other, words, writer, reason }
}

/** All others can go on, whatever became of the writer. */
const goOn = ({ host, other, segment }: Stuck): void => {
  const reader = attachFifo(mapAgain(segment), host.index, Fifo.READER)
  const used = reader.readable
  dequeueAt(reader, 0, used)
  assert.isAbove(enqueueAt(other, 0, 2 * CHUNK), CHUNK)
  assert.isAbove(other.dropAll(), 0)
  const successor = attachFifo(mapAgain(segment), host.index, Fifo.WRITER)
  assert.strictEqual(enqueueAt(successor, used, 700), 700)
  dequeueAt(reader, used, 700)
  releaseAll(segment, [host, other])
}

describe("Fifo, nothing is held while there is no room", () => {
  const attempts: ReadonlyArray<readonly [name: string, attempt: (fifo: Fifo.Fifo) => number]> = [
    ["enqueue", (fifo) => fifo.enqueue(bytesAt(0, 100), 0, 100)],
    ["enqueueAll", (fifo) => fifo.enqueueAll(bytesAt(0, 100), 0, 100)],
    ["enqueueSegments", (fifo) => fifo.enqueueSegments([bytesAt(0, 10), bytesAt(10, 10)], false)],
    ["enqueueSegments partial", (fifo) => fifo.enqueueSegments([bytesAt(0, 10), bytesAt(10, 10)], true)],
    ["claim and commit", (fifo) => (fifo.claim(10).length > 0 ? 0 : fifo.commit(10))]
  ]

  for (const reason of [Fifo.FULL, Fifo.NO_MEMORY]) {
    const why = reason === Fifo.FULL ? "full" : "out of memory"

    for (const [name, attempt] of attempts) {
      it(`D47 ${name}, ${why}: a writer that is told so, or dies on the way, leaves nothing locked`, () => {
        for (let at = 0, ends = false; !ends; at++) {
          const scene = stuck(reason)
          const { segment, words, writer } = scene
          const available = segment.availableBytes
          const start = words.accesses
          words.before = (access) => {
            if (access === start + at) throw new Error("terminated")
          }
          try {
            const result = attempt(writer)
            // A commit does not say what a claim has said before.
            assert.include(name === "claim and commit" ? [reason, Fifo.FULL] : [reason], result)
            ends = true
          } catch (error) {
            assert.include(String(error), "terminated")
          }
          words.before = () => {}
          assert.strictEqual(segment.availableBytes, available)
          goOn(scene)
        }
      })

      it(`D48 ${name}, ${why}: as many accesses each time, and few`, () => {
        const scene = stuck(reason)
        const { words, writer } = scene
        const counts = new Set<number>()
        for (let i = 0; i < 5; i++) {
          const before = words.accesses
          attempt(writer)
          counts.add(words.accesses - before)
        }
        assert.strictEqual(counts.size, 1, `accesses: ${Array.from(counts)}`)
        // Two looks at the tables of a segment this small are the most it takes.
        const most = reason === Fifo.FULL ? 4 : 100
        assert.isAtMost(Math.max(...counts), most)
        goOn(scene)
      })
    }
  }

  it("D48 out of memory in a large segment: no more accesses than its tables have words", () => {
    const segment = makeSegment({ size: 32 * MIB })
    const fifos = [allocateFifo(segment, 64 * MIB), allocateFifo(segment, 64 * MIB)]
    const words = new WatchedWords(segment.words.buffer)
    const writer = attachFifo(mapAgain(segment, words), 0, Fifo.WRITER)
    while (fifos[1].commit(lengthOf(fifos[1].claim(4 * MIB))) > 0);
    while (writer.commit(lengthOf(writer.claim(4 * MIB))) > 0);
    const before = words.accesses
    assert.strictEqual(enqueueAt(writer, 0, 2 * MIB), Fifo.NO_MEMORY)
    // Bitmaps of 8192 units in all classes: 512 words and a few, looked through to join and to find.
    assert.isAtMost(words.accesses - before, 2 * 520 + 30)
    releaseAll(segment, fifos)
  })

  it("D48 reading an empty FIFO takes few accesses, too", () => {
    const segment = makeSegment({ size: 8 * CHUNK })
    const fifo = allocateFifo(segment, 100)
    const words = new WatchedWords(segment.words.buffer)
    const reader = attachFifo(mapAgain(segment, words), fifo.index, Fifo.READER)
    for (const read of [
      () => reader.dequeue(new Uint8Array(9), 0, 9),
      () => reader.peek(0, new Uint8Array(9), 0, 9),
      () => reader.drop(9),
      () => reader.dropAll(),
      () => reader.segments(9)
    ]) {
      const before = words.accesses
      read()
      assert.isAtMost(words.accesses - before, 2)
    }
    releaseAll(segment, [fifo])
  })
})
