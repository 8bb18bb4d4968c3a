import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import {
  allocateBuffer,
  allocateFifo,
  assertNoBytes,
  attachFifo,
  bytesAt,
  chunksOf,
  dataStart,
  Header,
  headerWord,
  mapAgain,
  touchedUnits,
  WatchedWords
} from "./fixtures.ts"

const UNIT = 16
const UNITS = 24
const HELD = 70
const options = { size: UNIT * UNITS, unitBytes: UNIT, maxFifos: 2 }

/** One thread that only ever touches what it may, and never without end. */
interface Guarded {
  readonly words: WatchedWords
  readonly segment: FifoSegment.FifoSegment
  readonly fifo: Fifo.Fifo
}

interface Scene {
  readonly segment: FifoSegment.FifoSegment
  readonly host: Fifo.Fifo
  readonly neighbour: Fifo.Fifo
  readonly writer: Guarded
  readonly reader: Guarded
  /** The thread that made the segment, which may be either side as well. */
  readonly maker: Guarded
  readonly header: number
}

const guard = (segment: FifoSegment.FifoSegment, index: number, side: number): Guarded => {
  const words = new WatchedWords(segment.words.buffer)
  const mapped = mapAgain(segment, words)
  const fifo = attachFifo(mapped, index, side)
  keepWithin(words, segment, index)
  return { words, segment: mapped, fifo }
}

const keepWithin = (words: WatchedWords, segment: FifoSegment.FifoSegment, index: number): void => {
  const tables = headerWord(segment, 0)
  const header = headerWord(segment, index)
  const data = dataStart(segment)
  words.onWord = (word) => {
    const isTable = word >= 0 && word < tables
    const isHeader = word >= header && word < header + Fifo.HEADER_WORDS
    if (!isTable && !isHeader) assert.fail(`word ${word} belongs to somebody else`)
  }
  words.onBytes = (start, end) => {
    if (!(start >= data && start <= end && end <= data + segment.size)) {
      assert.fail(`bytes [${start}, ${end}) are not in the data area`)
    }
  }
}

/** A FIFO that has moved on, with bytes in several chunks and linked chunks ahead, beside another one. */
const makeScene = (): Scene => {
  const words = new WatchedWords(allocateBuffer(options))
  const segment = FifoSegment.make(words, options)
  const host = allocateFifo(segment, 200)
  const neighbour = allocateFifo(segment, 100)
  neighbour.enqueue(bytesAt(0, 40), 0, 40)
  const writer = guard(segment, host.index, Fifo.WRITER)
  const reader = guard(segment, host.index, Fifo.READER)
  writer.fifo.enqueue(bytesAt(0, 30), 0, 30)
  reader.fifo.drop(10)
  writer.fifo.enqueue(bytesAt(30, 50), 0, 50)
  writer.fifo.claim(60)
  if (writer.fifo.used !== HELD || host.chunkCount < 3) assert.fail("not the scene that the tests are about")
  const maker = { words, segment, fifo: host }
  return { segment, host, neighbour, writer, reader, maker, header: headerWord(segment, host.index) }
}

// Far more than any operation here takes, far less than a test waits.
const MOST_ACCESSES = 2000

const bounded = <A>(side: Guarded, operation: (fifo: Fifo.Fifo) => A): A => {
  const { words } = side
  const { before } = words
  const limit = words.accesses + MOST_ACCESSES
  words.before = (access) => {
    if (access > limit) assert.fail(`no end after ${MOST_ACCESSES} accesses`)
    before(access)
  }
  const result = operation(side.fifo)
  words.before = before
  return result
}

type Operation = readonly [name: string, most: number, run: (fifo: Fifo.Fifo) => number]

const lent = (views: ReadonlyArray<Uint8Array>, fifo: Fifo.Fifo): number =>
  views.length === 0 && fifo.isCorrupt ? Fifo.CORRUPT : views.reduce((sum, view) => sum + view.length, 0)

const source = bytesAt(0, 200)
const target = new Uint8Array(400)

const writing: ReadonlyArray<Operation> = [
  ["enqueue", 90, (fifo) => fifo.enqueue(source, 0, 90)],
  ["enqueueAll", 25, (fifo) => fifo.enqueueAll(source, 0, 25)],
  ["enqueueSegments", 60, (fifo) => fifo.enqueueSegments([source.subarray(0, 35), source.subarray(35, 60)], true)],
  ["claim", 150, (fifo) => lent(fifo.claim(150), fifo)],
  ["commit", 40, (fifo) => fifo.commit(40)],
  ["enqueue one", 1, (fifo) => fifo.enqueue(source, 0, 1)],
  ["commit all", 200, (fifo) => fifo.commit(fifo.claim(200).reduce((sum, view) => sum + view.length, 0))]
]

const reading: ReadonlyArray<Operation> = [
  ["dequeue", 33, (fifo) => fifo.dequeue(target, 0, 33)],
  ["peek", 90, (fifo) => fifo.peek(20, target, 0, 90)],
  ["segments", 300, (fifo) => lent(fifo.segments(300), fifo)],
  ["drop", 17, (fifo) => fifo.drop(17)],
  ["readable", UNIT * UNITS, (fifo) => fifo.readable],
  ["peek far", 5, (fifo) => fifo.peek(HELD - 10, target, 0, 5)],
  ["dequeue one", 1, (fifo) => fifo.dequeue(target, 0, 1)],
  ["dropAll", UNIT * UNITS, (fifo) => fifo.dropAll()]
]

const inspect = (fifo: Fifo.Fifo): void => {
  const numbers = [fifo.used, fifo.free, fifo.size, fifo.firstChunk, fifo.chunkCount]
  if (!numbers.every(Number.isInteger)) assert.fail(`not numbers: ${numbers}`)
  fifo.needsDequeueNotification(10)
}

const reasons: ReadonlyArray<number> = [Fifo.FULL, Fifo.EMPTY, Fifo.NO_MEMORY, Fifo.CORRUPT]

/** Runs operations in turn, starting with one of them: each works or says why not, and corrupt stays corrupt. */
const attempt = (side: Guarded, operations: ReadonlyArray<Operation>, first: number): void => {
  for (let i = 0; i < operations.length; i++) {
    const [name, most, run] = operations[(first + i) % operations.length]
    const wasCorrupt = side.fifo.isCorrupt
    const result = bounded(side, run)
    const isCount = Number.isInteger(result) && result >= 0 && result <= most
    if (!isCount && !reasons.includes(result)) assert.fail(`${name} returned ${result}`)
    if (wasCorrupt && name !== "commit all" && result !== Fifo.CORRUPT) {
      assert.fail(`${name} returned ${result} on a corrupt FIFO`)
    }
    if (result !== Fifo.CORRUPT && name.startsWith("enqueue") && side.fifo.isCorrupt) {
      assert.fail(`${name} says ${result} bytes are written and finds the FIFO corrupt`)
    }
    if (result === Fifo.CORRUPT && !side.fifo.isCorrupt) assert.fail(`${name} returned CORRUPT once`)
    bounded(side, inspect)
  }
}

/** What the maker of the segment counts does not come from shared words. */
const putAway = ({ host, neighbour, segment }: Scene): void => {
  segment.resizeFifo(host, 300)
  const counts = [segment.virtualBytes]
  for (const fifo of [host, neighbour]) {
    segment.releaseFifo(fifo)
    counts.push(segment.virtualBytes)
  }
  counts.push(segment.activeFifos)
  if (counts.join() !== "400,100,0,0") assert.fail(`counts of the segment: ${counts}`)
  if (!["none", "low", "high", "exhausted"].includes(segment.pressure)) assert.fail("no pressure")
  for (const [start, end] of segment.touchedRanges()) {
    if (start < 0 || start > end || end > segment.words.byteLength) assert.fail(`touched [${start}, ${end})`)
  }
}

const hostile = [
  0,
  1,
  -1,
  -2,
  2,
  3,
  7,
  10,
  11,
  12,
  UNITS - 1,
  UNITS,
  UNITS + 1,
  31,
  80,
  5000,
  2 ** 30,
  2 ** 31 - 1,
  -(2 ** 31)
]

const describeScribble = (word: number, value: number): string => `${value} in word ${word}: `

const withContext = (context: string, run: () => void): void => {
  try {
    run()
  } catch (error) {
    throw new Error(context + String(error), { cause: error })
  }
}

/** Words that a stranger can write: a header, and everything between the segment's header and the FIFOs. */
const scribblable = (scene: Scene): Array<number> => {
  const words = Object.values(Header).map((word) => scene.header + word)
  for (let word = 16; word < headerWord(scene.segment, 0); word++) words.push(word)
  return words
}

describe("Fifo in corrupt memory", () => {
  it("a chunk that has become smaller than the writer knows", () => {
    const scene = makeScene()
    const { host, segment, writer } = scene
    const claimed = lent(writer.fifo.claim(130), writer.fifo)
    const last = chunksOf(segment, host).at(-1)!
    assert.isAbove(segment.chunks.bytes(last), UNIT)
    segment.words.store(segment.chunks.descriptor(last) + 2, 1)
    assert.strictEqual(
      bounded(writer, (fifo) => fifo.enqueue(source, 0, claimed)),
      Fifo.CORRUPT
    )
    assert.strictEqual(writer.fifo.commit(claimed), Fifo.CORRUPT)
    putAway(scene)
  })

  it("an enqueue over a broken link does not say that it has written everything", () => {
    const scene = makeScene()
    const { segment, writer } = scene
    const claimed = writer.fifo.claim(130)
    assert.isAbove(claimed.length, 1)
    for (const chunk of chunksOf(segment, scene.host)) segment.chunks.setNext(chunk, 9999)
    assert.strictEqual(writer.fifo.enqueue(source, 0, 130), Fifo.CORRUPT)
    assert.isTrue(writer.fifo.isCorrupt)
    putAway(scene)
  })

  it("every word of the tables with every hostile value, on the writing side", () => {
    for (const first of [0, 3, 4, 5]) {
      for (const word of scribblable(makeScene())) {
        for (const value of hostile) {
          const scene = makeScene()
          scene.segment.words.store(word, value)
          withContext(describeScribble(word, value), () => {
            attempt(scene.writer, writing, first)
            putAway(scene)
          })
        }
      }
    }
  })

  it("every word of the tables with every hostile value, on the reading side", () => {
    for (const first of [0, 1, 3, 7]) {
      for (const word of scribblable(makeScene())) {
        for (const value of hostile) {
          const scene = makeScene()
          scene.segment.words.store(word, value)
          withContext(describeScribble(word, value), () => {
            attempt(scene.reader, reading, first)
            putAway(scene)
          })
        }
      }
    }
  })

  it("every word of the tables with every hostile value, in the thread that made the segment", () => {
    for (const word of scribblable(makeScene())) {
      for (const value of hostile) {
        const scene = makeScene()
        const { maker, segment } = scene
        segment.words.store(word, value)
        withContext(describeScribble(word, value), () => {
          attempt(maker, writing, 0)
          attempt(maker, reading, 0)
          putAway(scene)
          const next = segment.allocateFifo(50)
          if (next === undefined) return
          attempt({ ...maker, fifo: next }, writing, 0)
          attempt({ ...maker, fifo: next }, reading, 0)
          segment.releaseFifo(next)
          assert.strictEqual(segment.virtualBytes, 0)
        })
      }
    }
  })

  it("every word of the tables with every hostile value hides no byte that the maker writes", () => {
    const make = () => {
      const words = new WatchedWords(allocateBuffer(options))
      const segment = FifoSegment.make(words, options)
      // Nothing has been written yet: what the writer does first depends on the tables.
      const [fifo, neighbour] = [allocateFifo(segment, 200, 60), allocateFifo(segment, 100)]
      return { words, segment, fifo, neighbour, header: headerWord(segment, fifo.index) }
    }
    /** Says what is touched. A guest that clears it has all the bytes before it anyway. */
    const isMark = (word: number): boolean => {
      const { fifo, segment } = make()
      fifo.claim(1)
      segment.words.store(word, 0)
      return touchedUnits(segment.chunks).size === 0
    }
    const { header, segment } = make()
    const scribbled = Object.values(Header).map((word) => header + word)
    for (let word = 16; word < headerWord(segment, 0); word++) if (!isMark(word)) scribbled.push(word)
    assert.strictEqual(scribbled.length, Object.keys(Header).length + headerWord(segment, 0) - 16 - 2)
    let blanks = 0
    for (const word of scribbled) {
      for (const value of hostile) {
        const { fifo, neighbour, segment, words } = make()
        segment.words.store(word, value)
        withContext(describeScribble(word, value), () => {
          attempt({ words, segment, fifo }, writing, 0)
          attempt({ words, segment, fifo }, reading, 0)
          for (const it of [fifo, neighbour]) segment.releaseFifo(it)
          if (segment.scrub()) blanks++
          else for (const [start, end] of segment.touchedRanges()) segment.words.zero(start, end)
          assertNoBytes(segment)
        })
      }
    }
    assert.isAbove(blanks, 0)
  })

  it("links to chunks of another FIFO, to free chunks and in circles", () => {
    const { host, neighbour, segment } = makeScene()
    const own = chunksOf(segment, host)
    const others = chunksOf(segment, neighbour)
    const all = Array.from({ length: UNITS }, (_, unit) => unit)
    const free = all.filter((unit) => segment.chunks.bytes(unit) < 0)
    assert.isAbove(free.length, 0)
    for (const from of own) {
      for (const to of [...own, ...others, ...free]) {
        for (const [side, operations] of [
          ["writer", writing],
          ["reader", reading]
        ] as const) {
          for (let first = 0; first < operations.length; first++) {
            const scene = makeScene()
            scene.segment.chunks.setNext(from, to)
            withContext(`${side} with ${from} linked to ${to}: `, () => {
              attempt(scene[side], operations, first)
              putAway(scene)
            })
          }
        }
      }
    }
  })

  it("chunks that are linked to themselves again as fast as they are given back", () => {
    const { header, host, reader, segment } = makeScene()
    const [first] = chunksOf(segment, host)
    const descriptor = segment.chunks.descriptor(first)
    const sizeClass = segment.words.load(descriptor + 2)
    let isCircle = false
    reader.words.before = () => {
      if (!isCircle) return
      assert.isBelow(reader.words.accesses, 10_000, "it never ends")
      segment.words.store(descriptor + 1, first + 1)
      segment.words.store(descriptor + 2, sizeClass)
      // Nothing is free, so everything can be given back.
      for (let word = 32; word < segment.chunks.descriptors; word++) segment.words.store(word, 0)
    }
    const { onWord } = reader.words
    reader.words.onWord = (word) => {
      onWord(word)
      // The reader has left the chunk behind.
      if (word === header + Header.headChunk) isCircle = true
    }
    reader.fifo.dequeue(new Uint8Array(HELD), 0, HELD)
    assert.isTrue(isCircle)
    assert.isTrue(reader.fifo.isCorrupt)
  })

  for (const [side, operations] of [
    ["writer", writing],
    ["reader", reading]
  ] as const) {
    it(`any single read of the ${side} brings anything`, () => {
      const honest = makeScene()
      const start = honest[side].words.accesses
      attempt(honest[side], operations, 0)
      const accesses = honest[side].words.accesses - start
      assert.isAbove(accesses, 50)
      for (const value of hostile) {
        for (let at = 0; at < accesses; at++) {
          const scene = makeScene()
          const { words } = scene[side]
          const lying = words.accesses + at + 1
          words.lie = (_word, truth) => (words.accesses === lying ? value : truth)
          withContext(`${value} from read ${at}: `, () => {
            attempt(scene[side], operations, 0)
            putAway(scene)
          })
        }
      }
    })
  }

  it("attaching to nonsense finds nothing or a FIFO that stays within its bounds", () => {
    for (const side of [Fifo.WRITER, Fifo.READER]) {
      for (const word of scribblable(makeScene())) {
        for (const value of hostile) {
          const scene = makeScene()
          scene.segment.words.store(word, value)
          withContext(describeScribble(word, value), () => {
            const fifo = scene.writer.segment.attachFifo(scene.host.index, side)
            if (fifo !== undefined) {
              attempt({ ...scene.writer, fifo }, side === Fifo.WRITER ? writing : reading, 0)
            }
          })
        }
      }
    }
  })

  it("a writer does not attach to a FIFO whose reader is ahead of it", () => {
    const { header, host, segment, ...rest } = makeScene()
    segment.words.add(header + Header.head, HELD + 1)
    assert.isUndefined(segment.attachFifo(host.index, Fifo.WRITER))
    putAway({ header, host, segment, ...rest })
  })

  it("a reader that puts its head where it has been, or ahead of the tail", () => {
    for (const by of [-1, -10, HELD + 1, 2 ** 31 - 1, -(2 ** 31)]) {
      const scene = makeScene()
      scene.writer.fifo.enqueue(source, 0, 200)
      scene.reader.fifo.drop(20)
      // What the writer has seen is what the reader cannot take back.
      scene.writer.fifo.enqueue(source, 0, 200)
      scene.segment.words.add(scene.header + Header.head, by > 0 ? by + 200 : by)
      assert.strictEqual(scene.writer.fifo.enqueue(source, 0, 200), Fifo.CORRUPT, String(by))
      assert.deepStrictEqual(scene.writer.fifo.claim(1), [])
      assert.strictEqual(scene.writer.fifo.commit(1), Fifo.CORRUPT)
      putAway(scene)
    }
  })

  it("a writer that puts its tail where it has been, or further than memory goes", () => {
    for (const by of [-1, -HELD - 1, UNIT * UNITS + 1, 2 ** 31 - 1, -(2 ** 31)]) {
      const scene = makeScene()
      assert.strictEqual(scene.reader.fifo.readable, HELD)
      scene.segment.words.add(scene.header + Header.tail, by)
      assert.strictEqual(scene.reader.fifo.readable, Fifo.CORRUPT, String(by))
      assert.strictEqual(scene.reader.fifo.dequeue(target, 0, 1), Fifo.CORRUPT)
      assert.strictEqual(scene.reader.fifo.dropAll(), Fifo.CORRUPT)
      assert.deepStrictEqual(scene.reader.fifo.segments(1), [])
      putAway(scene)
    }
  })
})
