/** The threads that are explored, over the modules that ship or over copies in which something was broken on purpose. */
import type * as ChunkAllocator from "@cut-through/core/memory/ChunkAllocator"
import * as Fifo from "@cut-through/core/memory/Fifo"
import type * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import type { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Bell from "@cut-through/platform/thread/Bell"
import { Interleavings } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Fs from "node:fs"
import { createRequire, stripTypeScriptTypes } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

/** `CUT_THROUGH_INTERLEAVINGS=deep` explores larger sizes, too: some ten minutes. */
export const isDeep = process.env.CUT_THROUGH_INTERLEAVINGS === "deep"

type Words = Interleavings.SteppedWords

/** The modules that are explored. */
export interface Core {
  readonly Bell: typeof Bell
  readonly ChunkAllocator: typeof ChunkAllocator
  readonly FifoSegment: typeof FifoSegment
}

const packages = Path.join(Path.dirname(fileURLToPath(import.meta.url)), "../..")
const shipped = {
  ChunkAllocator: "core/src/memory/ChunkAllocator.ts",
  Fifo: "core/src/memory/Fifo.ts",
  FifoSegment: "core/src/memory/FifoSegment.ts",
  Parking: "platform/src/thread/Parking.ts",
  Watch: "platform/src/thread/Watch.ts",
  Bell: "platform/src/thread/Bell.ts"
}

/** A place in a module that ships, and what stands there instead. */
export interface Patch {
  readonly file: keyof typeof shipped
  readonly find: string
  readonly put: string
}

const resolve = createRequire(import.meta.url).resolve

/** Copies of the modules that ship, with these patches. Each has to fit exactly one place. */
export const load = async (...patches: ReadonlyArray<Patch>): Promise<Core> => {
  const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "interleavings-"))
  try {
    for (const [file, path] of Object.entries(shipped)) {
      let source = Fs.readFileSync(Path.join(packages, path), "utf8")
      for (const patch of patches) {
        if (patch.file !== file) continue
        assert.strictEqual(source.split(patch.find).length, 2, `not exactly one place in ${path}: ${patch.find}`)
        source = source.replace(patch.find, () => patch.put)
      }
      const script = stripTypeScriptTypes(source)
        .replaceAll(/from "\.\/(\w+)\.ts"/g, `from "./$1.mjs"`)
        .replaceAll(/from "([@\w][^"]*)"/g, (_, name) => `from "${pathToFileURL(resolve(name)).href}"`)
      Fs.writeFileSync(Path.join(folder, `${file}.mjs`), script)
    }
    const at = (file: string) => import(/* @vite-ignore */ pathToFileURL(Path.join(folder, `${file}.mjs`)).href)
    const [chunkAllocator, segment, bell] = await Promise.all([at("ChunkAllocator"), at("FifoSegment"), at("Bell")])
    return { ChunkAllocator: chunkAllocator, FifoSegment: segment, Bell: bell }
  } finally {
    Fs.rmSync(folder, { recursive: true })
  }
}

/** Explores, and says how much that was. */
export const proves = (name: string, options: Interleavings.Options<any>): Interleavings.Report => {
  const report = Interleavings.verify({ maxExecutions: 50_000_000, ...options })
  console.log(`explored ${name}: ${Interleavings.format(report)}`)
  return report
}

/** Something goes wrong, the same thing again when its schedule is replayed, and this is what. */
export const catches = (name: string, options: Interleavings.Options<any>, what: RegExp): string => {
  const report = Interleavings.explore(options)
  const found = report.counterexample ?? assert.fail(`not caught: ${Interleavings.format(report)}`)
  assert.match(found.message, what)
  const again = Interleavings.replay(options, found.schedule).counterexample ?? assert.fail("not found again")
  assert.strictEqual(again.message, found.message)
  assert.deepStrictEqual(again.steps, found.steps)
  console.log(`caught ${name} after ${report.executions} executions: ${found.message}`)
  return Interleavings.format(report)
}

// -----------------------------------------------------------------------------
// tables
// -----------------------------------------------------------------------------

const COUNTS = 16

/** Where the chunks' tables are, at word `at`: for few units, a word for each bitmap. */
const tables = (at: number, units: number) => {
  const bitmaps: Array<number> = []
  for (let sizeClass = 0; units >>> sizeClass > 0; sizeClass++) bitmaps.push(at + COUNTS + sizeClass)
  return { counts: at, bitmaps, used: at + COUNTS + bitmaps.length }
}

/** Units that are free by the bitmaps; one that is so twice fails. */
export const freeUnits = (memory: SharedWords, at: number, units: number): Set<number> => {
  const free = new Set<number>()
  const { bitmaps, counts } = tables(at, units)
  for (const [sizeClass, word] of bitmaps.entries()) {
    const bits = memory.peek(word)
    let count = 0
    for (let index = 0; index < units >>> sizeClass; index++) {
      if ((bits & (1 << index)) === 0) continue
      count++
      for (let unit = index << sizeClass; unit < (index + 1) << sizeClass; unit++) {
        if (free.has(unit)) throw new Error(`unit ${unit} is free twice`)
        free.add(unit)
      }
    }
    const counted = memory.peek(counts + sizeClass)
    if (counted > count) throw new Error(`${counted} chunks of class ${sizeClass} are counted, there are ${count}`)
  }
  return free
}

const nameTable = (at: number, units: number, descriptors: number) => {
  const names = new Map<number, string>()
  const { bitmaps, counts, used } = tables(at, units)
  for (let sizeClass = 0; sizeClass < 11; sizeClass++) names.set(counts + sizeClass, `count ${sizeClass}`)
  names.set(counts + 15, "exhausted")
  for (const [sizeClass, word] of bitmaps.entries()) names.set(word, `free ${sizeClass}`)
  names.set(used, "used units").set(used + 1, "used words")
  for (let unit = 0; unit < units; unit++) {
    for (const [i, what] of ["start", "next", "class"].entries()) {
      names.set(descriptors + unit * 4 + i, `chunk ${unit} ${what}`)
    }
  }
  return names
}

// -----------------------------------------------------------------------------
// chunks
// -----------------------------------------------------------------------------

export interface Chunks {
  readonly units: number
  /** What each thread does with the chunks: it returns those that it holds in the end. */
  readonly threads: Record<string, (chunks: ChunkAllocator.ChunkAllocator, words: Words) => ReadonlyArray<number>>
  /** What is done before. */
  readonly setup?: (chunks: ChunkAllocator.ChunkAllocator) => void
  /** Units that are taken then and stay so. Default: none. */
  readonly kept?: ReadonlyArray<number>
  readonly deaths?: ReadonlyArray<string>
}

/** Threads that take and give back chunks: what is held and what is free is all there is, once. */
export const chunks = (
  core: Core,
  { deaths = [], kept = [], setup, threads, units }: Chunks
): Interleavings.Options<any> => {
  const { ChunkAllocator, tableWords } = core.ChunkAllocator
  const data = tableWords(units) * 4
  const map = (words: SharedWords) => new ChunkAllocator(words, { at: 0, units, unitBytes: 4096, dataStart: data })
  return {
    memory: data,
    setup(memory) {
      const all = map(memory)
      all.format()
      setup?.(all)
    },
    threads: Object.fromEntries(
      Object.entries(threads).map(([name, run]) => [
        name,
        (words: Words) =>
          run(
            words.prepare(() => map(words)),
            words
          )
      ])
    ),
    deaths,
    nameWord: (word) => nameTable(0, units, map({} as SharedWords).descriptors).get(word),
    check({ dead, memory, results }) {
      const all = map(memory)
      const free = freeUnits(memory, 0, units)
      const owners = new Map<number, string>(kept.map((unit) => [unit, "somebody else"]))
      for (const [name, held] of Object.entries(results as Record<string, ReadonlyArray<number> | undefined>)) {
        for (const chunk of Array.isArray(held) ? held : []) {
          for (let unit = chunk; unit < chunk + all.bytes(chunk) / 4096; unit++) {
            const owner = owners.get(unit)
            if (owner !== undefined) throw new Error(`unit ${unit} belongs to ${owner} and to ${name}`)
            if (free.has(unit)) throw new Error(`unit ${unit} is free, and belongs to ${name}`)
            owners.set(unit, name)
          }
        }
      }
      // What a thread had when it died is nobody's.
      if (dead !== undefined) return
      if (free.size + owners.size !== units) throw new Error(`${units - free.size - owners.size} units are lost`)
      if (all.availableBytes !== free.size * 4096) {
        throw new Error(`${all.availableBytes / 4096} units are counted, ${free.size} are free`)
      }
    }
  }
}

// -----------------------------------------------------------------------------
// a ring
// -----------------------------------------------------------------------------

/** What one side does otherwise than `Connection` does. */
export interface Mistakes {
  /** The reader clears the event flag after it has looked once more, not before. */
  readonly clearsAfterLooking?: boolean
  /** The reader withdraws the request for room after it has told the writer, not before. */
  readonly clearsAfterTelling?: boolean
  /** The writer does not look once more when it has asked for room. */
  readonly waitsAtOnce?: boolean
  /** The reader does not look once more when it has cleared the event flag. */
  readonly readsNoMore?: boolean
  /** The reader, told of what it has read already, leaves the event flag as it is. */
  readonly keepsFlag?: boolean
  /** The writer says that it has ended, then writes its last piece. */
  readonly endsBeforeLast?: boolean
  /** The reader looks for the end after it has looked for bytes. */
  readonly looksForEndLast?: boolean
}

export interface Ring {
  readonly core: Core
  /** Bytes of a unit, units of the segment, and bytes that the FIFO may hold. */
  readonly unitBytes: number
  readonly units: number
  readonly size: number
  /** What is written: lengths of messages. */
  readonly writes: ReadonlyArray<number>
  /** What has been written and read before. */
  readonly before?: number
  /** Most bytes that are read at once. */
  readonly reads: number
  /** Whether the two sides ring each other with the bell that threads have. Otherwise a word is enough. */
  readonly rings?: boolean
  /** Whether the reader's thread watches the FIFO, and is rung only when it has parked. */
  readonly watches?: boolean
  /** Whether the writer ends its stream and rings for that. Otherwise the reader knows when it has everything. */
  readonly ends?: boolean
  /** Bytes after which the reader closes. Default: never. */
  readonly closesAfter?: number
  /** Somebody who breaks the stream off on behalf of a side, at any moment. */
  readonly closer?: "reader" | "writer"
  /** Somebody who takes as much of the same segment, and gives it back. */
  readonly neighbour?: number
  readonly deaths?: ReadonlyArray<"reader" | "writer">
  readonly mistakes?: Mistakes
}

/** How a side has come to its end, after how many bytes. */
interface Outcome {
  readonly how: "done" | "all" | "ended" | "closed" | "stopped" | "reset" | "gone"
  readonly bytes: number
}

const byteAt = (position: number): number => (position * 37 + 11) & 255

/** A writer and a reader of one FIFO, each waiting as `Connection` does, and whoever comes in between. */
export const ring = (ring: Ring): Interleavings.Options<any> => {
  const { before = 0, closer, core, deaths = [], ends = true, mistakes = {}, size, unitBytes, units, writes } = ring
  const options = { size: units * unitBytes, unitBytes, maxFifos: 1 }
  const region = core.FifoSegment.regionBytes(options)
  // Set by whoever rings, cleared by whoever was rung before it looks.
  const readerBell = Math.ceil(region / 4)
  const writerBell = readerBell + 1
  // What the closing side knows of itself: only there where there is somebody who closes.
  const closed = readerBell + 2
  const bells = readerBell + 3
  const parkedWords = [parkedWord(0), parkedWord(1)]
  const total = writes.reduce((sum, length) => sum + length, 0)

  const attach = (words: SharedWords, side: number): Fifo.Fifo => {
    const fifo = core.FifoSegment.attach(words)?.attachFifo(0, side)
    return fifo ?? assert.fail("no FIFO")
  }

  /** How a side tells the other one, and how it waits for being told. */
  const bellOf = (words: Words, side: 0 | 1) => {
    if (!ring.rings) {
      const [own, other] = side === 0 ? [writerBell, readerBell] : [readerBell, writerBell]
      return {
        tell: () => words.store(other, 1),
        listen() {
          words.waitWhile(own, 0)
          words.store(own, 0)
        },
        watch: () => false
      }
    }
    const bell = new core.Bell.Bell(
      words.buffer as SharedArrayBuffer,
      side,
      () => {},
      new Shifted(words, bells) as unknown as SharedWords
    )
    const ear = { isRung: false }
    const target = { onRing: () => void (ear.isRung = true) }
    bell.attach(0, target)
    return {
      tell: () => bell.ring(0),
      listen() {
        while (!ear.isRung) {
          if (bell.take()) continue
          if (bell.park()) words.waitWhile(bells + parkedWords[side], 1)
          bell.unpark()
        }
        ear.isRung = false
      },
      watch: (fifo: Fifo.Fifo) => ring.watches === true && bell.watch(fifo, target)
    }
  }

  const writer = (words: Words): Outcome => {
    const fifo = words.prepare(() => attach(words, Fifo.WRITER))
    const { listen, tell } = bellOf(words, 0)
    let written = 0

    const isClosed = (): boolean => closer === "writer" && words.load(closed) !== 0
    const whyBroken = (): Outcome["how"] | undefined => {
      if (isClosed()) return "closed"
      if (fifo.isResetBy(Fifo.READER)) return "reset"
      if (fifo.isGone(Fifo.READER)) return "gone"
      return fifo.isStopped ? "stopped" : undefined
    }
    const canWrite = (): boolean =>
      !fifo.isWanted(Fifo.WANT_ROOM) || fifo.isStopped || fifo.isResetBy(Fifo.READER) || fifo.isGone(Fifo.READER)

    for (const [i, length] of writes.entries()) {
      const bytes = Uint8Array.from({ length }, (_, at) => byteAt(before + written + at))
      if (i === writes.length - 1 && mistakes.endsBeforeLast) fifo.end()
      let at = 0
      while (at < length) {
        const how = whyBroken()
        if (how !== undefined) return { how, bytes: written }
        let hasAsked = false
        while (at < length) {
          const count = fifo.enqueue(bytes, at, length - at)
          if (count === Fifo.CORRUPT) throw new Error("the words make no sense to the writer")
          if (count > 0) {
            at += count
            written += count
            hasAsked = false
            if (fifo.setEvent()) tell()
          } else if (hasAsked) {
            break
          } else {
            fifo.wantDequeueNotification(Fifo.WANT_ROOM, Math.min(length - at, size >>> 1))
            hasAsked = true
            if (mistakes.waitsAtOnce) break
          }
        }
        if (at === length) break
        const why = whyBroken()
        if (why !== undefined) return { how: why, bytes: written }
        do listen()
        while (!isClosed() && !canWrite())
      }
    }
    if (ends) {
      if (!mistakes.endsBeforeLast) fifo.end()
      tell()
    }
    return { how: "done", bytes: written }
  }

  const reader = (words: Words): Outcome => {
    const fifo = words.prepare(() => attach(words, Fifo.READER))
    const { listen, tell, watch } = bellOf(words, 1)
    const target = new Uint8Array(ring.reads)
    let bytes = 0

    const isClosed = (): boolean => closer === "reader" && words.load(closed) !== 0
    const look = (): number => fifo.dequeue(target, 0, target.length)
    const canRead = (): boolean =>
      fifo.readable !== 0 || fifo.isEnded || fifo.isResetBy(Fifo.WRITER) || fifo.isGone(Fifo.WRITER)
    /** From here on the reader is told. True when that is by the writer: then it looks once more. */
    const askToBeTold = (): boolean => {
      if (watch(fifo)) return false
      fifo.unsetEvent()
      return true
    }
    let isToLook = true
    /** Why there is nothing and never will be; otherwise the reader is told about whatever comes now. */
    const whyNothing = (state: number): Outcome["how"] | undefined => {
      if (isClosed()) return "closed"
      if (fifo.isResetBy(Fifo.WRITER)) return "reset"
      isToLook = !mistakes.clearsAfterLooking && askToBeTold() && !mistakes.readsNoMore
      const isEmpty = !(isToLook || mistakes.clearsAfterLooking) || fifo.readable === 0
      if (mistakes.clearsAfterLooking) fifo.unsetEvent()
      const isEnded = ((mistakes.looksForEndLast ? fifo.writerState : state) & Fifo.OVER) !== 0
      if (!isEmpty) return undefined
      return isEnded ? "ended" : (state & Fifo.GONE) !== 0 ? "gone" : undefined
    }

    for (;;) {
      words.note({ how: "closed", bytes } satisfies Outcome)
      if (ring.closesAfter !== undefined && bytes >= ring.closesAfter) {
        fifo.stop()
        tell()
        return { how: "closed", bytes }
      }
      if (!ends && bytes === total) return { how: "all", bytes }
      if (isClosed()) return { how: "closed", bytes }
      // Before the bytes are looked for: whoever ended published all of them first.
      const state = fifo.writerState
      if ((state & Fifo.RESET) !== 0) return { how: "reset", bytes }
      let count = look()
      if (count === Fifo.EMPTY) {
        const how = whyNothing(state)
        if (how !== undefined) return { how, bytes }
        if (isToLook) count = look()
      }
      if (count === Fifo.EMPTY) {
        for (;;) {
          listen()
          if (mistakes.readsNoMore || mistakes.clearsAfterLooking || isClosed()) break
          // Told of what it has read already: the writer tells again of what comes next.
          if (!mistakes.keepsFlag && !canRead()) askToBeTold()
          if (canRead()) break
        }
        continue
      }
      if (count < 0) throw new Error("the words make no sense to the reader")
      for (let i = 0; i < count; i++) {
        if (target[i] !== byteAt(before + bytes + i)) throw new Error(`byte ${bytes + i} is wrong`)
      }
      bytes += count
      if (fifo.needsDequeueNotification(count)) {
        if (!mistakes.clearsAfterTelling) fifo.clearDequeueNotification()
        tell()
        if (mistakes.clearsAfterTelling) fifo.clearDequeueNotification()
      }
    }
  }

  /** Closes a side while it is at work: its own thread is told, the stream broken off, the other side rung. */
  const breaker = (words: Words): void => {
    const side = closer === "writer" ? Fifo.WRITER : Fifo.READER
    const [own, other] = closer === "writer" ? [writerBell, readerBell] : [readerBell, writerBell]
    const fifo = words.prepare(() => attach(words, side))
    words.store(closed, 1)
    words.store(own, 1)
    fifo.reset(side)
    words.store(other, 1)
  }

  const neighbour = (words: Words): void => {
    const { chunks } = words.prepare(() => core.FifoSegment.attach(words)!)
    const chunk = chunks.allocate(ring.neighbour!)
    if (chunk >= 0 && !chunks.release(chunk)) throw new Error("what was taken cannot be given back")
  }

  let names: ReadonlyMap<number, string> | undefined
  const nameWords = (words: SharedWords): ReadonlyMap<number, string> => {
    const segment = core.FifoSegment.attach(words)!
    const header = segment.touchedRanges()[1][0] / 4
    const known = nameTable(16, units, segment.chunks.descriptor(0))
    for (const [name, word] of Object.entries(HEADER)) known.set(header + word, name)
    return known.set(readerBell, "reader's bell").set(writerBell, "writer's bell").set(closed, "closed")
  }

  return {
    memory: bells * 4 + (ring.rings ? Bell.BYTES : 0),
    setup(memory) {
      const segment = core.FifoSegment.make(memory, options)
      const fifo = segment.allocateFifo(size) ?? assert.fail("no FIFO")
      for (let at = 0; at < before; at++) {
        fifo.enqueue(Uint8Array.of(byteAt(at)), 0, 1)
        fifo.drop(1)
      }
      names = nameWords(memory)
    },
    threads: {
      writer,
      reader,
      ...(closer === undefined ? undefined : { closer: breaker }),
      ...(ring.neighbour === undefined ? undefined : { neighbour })
    },
    deaths,
    // The host: it has seen that the control port is closed.
    afterDeath(words, dead) {
      const isWriter = dead === "writer"
      const fifo = words.prepare(() => attach(words, isWriter ? Fifo.READER : Fifo.WRITER))
      fifo.markGone(isWriter ? Fifo.WRITER : Fifo.READER)
      words.store(isWriter ? readerBell : writerBell, 1)
    },
    nameWord: (word) => names?.get(word),
    check({ dead, memory, notes, results }) {
      const segment = core.FifoSegment.attach(memory)!
      const header = segment.touchedRanges()[1][0] / 4
      const held = checkChunks(memory, segment, header)
      const published = memory.peek(header + HEADER.tail) - before
      const wrote = results.writer as Outcome | undefined
      const read = results.reader as Outcome | undefined
      const expect = (condition: boolean, what: string): void => {
        if (!condition) throw new Error(`${what}: ${JSON.stringify({ published, wrote, read, dead })}`)
      }
      if (wrote !== undefined) {
        expect(wrote.bytes === published, "what was written is not what was published")
        expect(wrote.how !== "done" || wrote.bytes === total, "done too early")
        expect(wrote.how !== "gone" || dead === "reader", "nobody is gone")
        expect(wrote.how !== "stopped" || ring.closesAfter !== undefined, "nobody has stopped")
        expect(wrote.how !== "reset" || closer === "reader", "nobody has reset")
        expect(wrote.how !== "closed" || closer === "writer", "nobody has closed")
      }
      if (read !== undefined) {
        expect(read.bytes <= published, "read more than there was")
        expect(read.how !== "ended" || read.bytes === total, "a byte is lost")
        expect(read.how !== "gone" || (dead === "writer" && read.bytes === published), "a byte of the dead is lost")
        expect(read.how !== "reset" || closer === "writer", "nobody has reset")
        expect(read.how !== "closed" || closer === "reader" || ring.closesAfter !== undefined, "nobody has closed")
      }
      if (dead !== undefined) {
        // What the dead reader noted, it had been given.
        const noted = notes.reader as Outcome | undefined
        expect(noted === undefined || noted.bytes <= published, "read more than there was")
        return
      }
      expect(held + segment.availableBytes === segment.size, "memory is lost")
      const fifo = segment.attachFifo(0, Fifo.READER) ?? assert.fail("the FIFO cannot be attached")
      segment.releaseFifo(fifo)
      expect(segment.availableBytes === segment.size, "memory is lost when the FIFO is freed")
      expect(freeUnits(memory, 16, units).size === units, "a unit is not free")
    }
  }
}

/** Where a thread says that it has parked: found by doing so. */
export const parkedWord = (side: 0 | 1): number => {
  const memory = new SharedArrayBuffer(Bell.BYTES)
  new Bell.Bell(memory, side, () => {}).park()
  return new Int32Array(memory).indexOf(1)
}

/** The words from one on: of what a bell does with them, all there is. */
class Shifted {
  private readonly words: SharedWords
  private readonly from: number

  constructor(words: SharedWords, from: number) {
    this.words = words
    this.from = from
  }

  load(word: number): number {
    return this.words.load(this.from + word)
  }

  peek(word: number): number {
    return this.words.peek(this.from + word)
  }

  store(word: number, value: number): void {
    this.words.store(this.from + word, value)
  }

  or(word: number, bits: number): number {
    return this.words.or(this.from + word, bits)
  }

  exchange(word: number, value: number): number {
    return this.words.exchange(this.from + word, value)
  }
}

// The order is part of the shared format.
const HEADER = {
  generation: 0,
  size: 1,
  minAlloc: 2,
  reader: 3,
  tail: 16,
  "tail chunk": 17,
  writer: 18,
  event: 19,
  head: 32,
  "head chunk": 33,
  want: 48,
  threshold: 49,
  told: 50
} as const

/** Nothing in the FIFO's list is free, nor in it twice, and the list begins where the head is or before it. */
const checkChunks = (memory: SharedWords, segment: FifoSegment.FifoSegment, header: number): number => {
  const { chunks } = segment
  const free = freeUnits(memory, 16, chunks.units)
  const seen = new Set<number>()
  let held = 0
  for (let chunk = memory.peek(header + HEADER["head chunk"]) - 1; chunk !== -1; chunk = chunks.next(chunk)) {
    if (chunk < 0 || seen.has(chunk)) throw new Error("the list of chunks is broken")
    seen.add(chunk)
    const bytes = chunks.bytes(chunk)
    if (bytes < 0) throw new Error(`chunk ${chunk} is in the list and was freed`)
    held += bytes
    for (let unit = chunk; unit < chunk + bytes / chunks.unitBytes; unit++) {
      if (free.has(unit)) throw new Error(`unit ${unit} is in the list and free`)
    }
    if (seen.size === 1 && ((memory.peek(header + HEADER.head) - chunks.start(chunk)) | 0) < 0) {
      throw new Error("chunks were freed before the head has left them")
    }
  }
  return held
}
