import * as Fifo from "@cut-through/core/memory/Fifo"
import { assert, describe, it } from "@effect/vitest"
import { allocateFifo, attachFifo, bytesAt, Header, headerWord, makeSegment, mapAgain, releaseAll } from "./fixtures.ts"

const KIB = 1024

describe("FifoSegment", () => {
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
