/**
 * The hot paths of the memory floor, each as something to do so many times. They need nothing but that floor: what counts
 * their instructions runs them without Effect.
 */
import { LocalDoorbell } from "../src/memory/Doorbell.ts"
import * as FifoSegment from "../src/memory/FifoSegment.ts"
import { SharedWords } from "../src/memory/SharedWords.ts"

export interface Operation {
  readonly name: string
  /** Does it so many times. Throws when it has not done what it should. */
  readonly run: (times: number) => void
}

const FIFO_BYTES = 131_072
const SEGMENT_BYTES = 4 * 2 ** 20

/** Copies from one array to a part of another, or the other way round. */
export type Copy = ConstructorParameters<typeof SharedWords>[1]

const makeSegment = (copy: Copy): FifoSegment.FifoSegment => {
  const options = { size: SEGMENT_BYTES, maxFifos: 16 }
  const words = new SharedWords(new SharedArrayBuffer(FifoSegment.regionBytes(options)), copy)
  return FifoSegment.make(words, options)
}

const expectSame = (found: number, expected: number): void => {
  if (found !== expected) throw new Error(`an operation returned ${found} instead of ${expected}`)
}

const SIZES = [
  { bytes: 64, name: "64B" },
  { bytes: 1024, name: "1KiB" },
  { bytes: 16_384, name: "16KiB" },
  { bytes: 65_536, name: "64KiB" }
]

/** Fills the FIFO by writes of one size, then drops it all at once. */
const enqueue = (segment: FifoSegment.FifoSegment, bytes: number): Operation["run"] => {
  const fifo = segment.allocateFifo(FIFO_BYTES)!
  const source = new Uint8Array(bytes).fill(7)
  const fit = FIFO_BYTES / bytes
  return (times) => {
    for (let left = times; left > 0; left -= fit) {
      const count = Math.min(left, fit)
      for (let i = 0; i < count; i++) expectSame(fifo.enqueue(source, 0, bytes), bytes)
      expectSame(fifo.drop(count * bytes), count * bytes)
    }
  }
}

/** Empties a FIFO that was filled without copying. */
const dequeue = (segment: FifoSegment.FifoSegment, bytes: number): Operation["run"] => {
  const fifo = segment.allocateFifo(FIFO_BYTES)!
  const target = new Uint8Array(bytes)
  const fit = FIFO_BYTES / bytes
  return (times) => {
    for (let left = times; left > 0; left -= fit) {
      const count = Math.min(left, fit)
      expectSame(fifo.commit(count * bytes), count * bytes)
      for (let i = 0; i < count; i++) expectSame(fifo.dequeue(target, 0, bytes), bytes)
    }
  }
}

/** A message in and out of an empty FIFO, as in a round trip: its writer starts again at the beginning of its chunk. */
const pass = (segment: FifoSegment.FifoSegment, bytes: number): Operation["run"] => {
  const fifo = segment.allocateFifo(FIFO_BYTES)!
  const source = new Uint8Array(bytes).fill(7)
  const target = new Uint8Array(bytes)
  return (times) => {
    for (let i = 0; i < times; i++) {
      expectSame(fifo.enqueue(source, 0, bytes), bytes)
      expectSame(fifo.dequeue(target, 0, bytes), bytes)
    }
    expectSame(target[0], 7)
  }
}

const chunk = ({ chunks }: FifoSegment.FifoSegment, bytes: number): Operation["run"] => {
  const available = chunks.availableBytes
  return (times) => {
    for (let i = 0; i < times; i++) {
      const taken = chunks.allocate(bytes)
      if (!chunks.release(taken)) throw new Error("a chunk could not be released")
    }
    expectSame(chunks.availableBytes, available)
  }
}

/** As for a connection: a pair of FIFOs is made and freed. */
const pair = (segment: FifoSegment.FifoSegment): Operation["run"] => {
  return (times) => {
    for (let i = 0; i < times; i++) {
      const [rx, tx] = segment.allocatePair(FIFO_BYTES, FIFO_BYTES)!
      segment.releaseFifo(rx)
      segment.releaseFifo(tx)
    }
  }
}

/** What a byte's writer and reader do to tell each other: announce, ring, look. */
const doorbell = (segment: FifoSegment.FifoSegment): Operation["run"] => {
  const fifo = segment.allocateFifo(FIFO_BYTES)!
  const bell = new LocalDoorbell()
  let rings = 0
  bell.target = {
    onRing: () => {
      rings++
      fifo.unsetEvent()
    }
  }
  return (times) => {
    rings = 0
    for (let i = 0; i < times; i++) {
      if (fifo.setEvent()) bell.ring()
    }
    expectSame(rings, times)
  }
}

/** As for connections between fibers of one thread. */
const makeOwn = (copy: Copy): FifoSegment.FifoSegment => {
  const segment = makeSegment(copy)
  segment.words.isShared = false
  return segment
}

/** All of them, with the copy that is given. */
export const operations = (copy?: Copy): ReadonlyArray<Operation> => [
  ...SIZES.map(({ bytes, name }) => ({ name: `enqueue-${name}`, run: enqueue(makeSegment(copy), bytes) })),
  ...SIZES.map(({ bytes, name }) => ({ name: `dequeue-${name}`, run: dequeue(makeSegment(copy), bytes) })),
  { name: "pass-64B", run: pass(makeSegment(copy), 64) },
  { name: "pass-64B-own", run: pass(makeOwn(copy), 64) },
  { name: "chunk-4KiB", run: chunk(makeSegment(copy), 4096) },
  { name: "chunk-64KiB", run: chunk(makeSegment(copy), 65_536) },
  { name: "fifo-pair", run: pair(makeSegment(copy)) },
  { name: "fifo-pair-own", run: pair(makeOwn(copy)) },
  { name: "doorbell", run: doorbell(makeSegment(copy)) }
]
