import * as Fifo from "@cut-through/core/memory/Fifo"
import type { FifoSegment } from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import {
  allocateFifo,
  assertBytesAt,
  assertNoLeak,
  attachFifo,
  bytesAt,
  makeSegment,
  mapAgain,
  releaseAll,
  WatchedWords
} from "./fixtures.ts"

/** Where a side stands after a turn: it goes on, waits until it is rung, or has come to the end of the stream. */
type Standing = "running" | "parked" | "done"

interface Turns {
  readonly write: (world: World, fifo: Fifo.Fifo) => Standing
  readonly read: (world: World, fifo: Fifo.Fifo) => Standing
}

interface Stream {
  /** Bytes the writer has. */
  readonly total: number
  readonly size: number
  /** Bytes a turn moves at most. */
  readonly piece: number
  readonly taken: number
  readonly threshold: number
  /** Units of the segment; the FIFO runs out of memory before it is full when they are few. */
  readonly units: number
}

/** One side with its own mapping. Rings that come after a turn has begun bring it another one. */
class Side {
  standing: Standing = "running"
  wasRung = false
  readonly words: WatchedWords
  readonly fifo: Fifo.Fifo
  private readonly turn: (fifo: Fifo.Fifo) => Standing

  constructor(segment: FifoSegment, index: number, side: number, turn: (fifo: Fifo.Fifo) => Standing) {
    this.words = new WatchedWords(segment.words.buffer)
    this.fifo = attachFifo(mapAgain(segment, this.words), index, side)
    this.turn = turn
  }

  get isRunnable(): boolean {
    return this.standing === "running" || (this.standing === "parked" && this.wasRung)
  }

  run(): void {
    this.wasRung = false
    this.standing = this.turn(this.fifo)
  }
}

class World {
  written = 0
  read = 0
  /** Rings that `setEvent` asked for, and how often the reader said that it will look. */
  eventRings = 0
  looks = 0
  /** Whether a side has broken the stream off, so that not all of it arrives. */
  isBrokenOff = false
  readonly stream: Stream
  readonly segment: FifoSegment
  readonly host: Fifo.Fifo
  readonly hog: Fifo.Fifo
  readonly writer: Side
  readonly reader: Side

  constructor(stream: Stream, turns: Turns) {
    this.stream = stream
    this.segment = makeSegment({ size: stream.units * 4, unitBytes: 4, maxFifos: 2 })
    this.host = allocateFifo(this.segment, stream.size)
    this.hog = allocateFifo(this.segment, 1)
    this.writer = new Side(this.segment, this.host.index, Fifo.WRITER, (fifo) => turns.write(this, fifo))
    this.reader = new Side(this.segment, this.host.index, Fifo.READER, (fifo) => turns.read(this, fifo))
  }

  enqueue(fifo: Fifo.Fifo): number {
    const length = Math.min(this.stream.piece, this.stream.total - this.written)
    const count = fifo.enqueue(bytesAt(this.written, length), 0, length)
    if (count > 0) this.written += count
    return count
  }

  dequeue(fifo: Fifo.Fifo): number {
    const bytes = new Uint8Array(this.stream.taken)
    const count = fifo.dequeue(bytes, 0, bytes.length)
    if (count === Fifo.CORRUPT) assert.fail("the reader found nonsense")
    if (count > 0) {
      assertBytesAt(bytes, this.read, count)
      this.read += count
    }
    return count
  }

  ringReader(): void {
    this.reader.wasRung = true
  }

  ringWriter(): void {
    this.writer.wasRung = true
  }

  /** What is wrong now that nobody runs any more. */
  get verdict(): string | undefined {
    const { fifo } = this.reader
    const holds = `${fifo.used} bytes in the FIFO, ${this.written} of ${this.stream.total} written`
    const waiting = [this.writer, this.reader].filter((side) => side.standing === "parked")
    const names = waiting.map((side) => (side === this.writer ? "writer" : "reader"))
    if (names.length > 0) return `waiting for ever: ${names.join(" and ")}, ${holds}`
    if (!this.isBrokenOff && this.read < this.stream.total) return `the reader has left: ${holds}`
    if (this.eventRings > this.looks + 1) return `${this.eventRings} rings for ${this.looks} looks`
    return undefined
  }

  putAway(): void {
    releaseAll(this.segment, [this.host, this.hog])
  }
}

// What two sides of this size may take together; without end is something else.
const MOST_TURNS = 200

// A second interruption matters to what the first one has left half done.
const NEAR = 8

/**
 * Lets two sides run until both have come to rest: the watched one first, the other one whenever that cannot go on,
 * and a turn of it before each of the accesses in `interrupts`. Returns how many accesses there were.
 */
const play = (
  world: World,
  watched: Side,
  other: Side,
  ahead: number,
  interrupts: ReadonlyArray<number>
): { readonly accesses: number; readonly verdict: string | undefined } => {
  for (let i = 0; i < ahead && other.isRunnable; i++) other.run()
  const start = watched.words.accesses
  watched.words.before = (access) => {
    for (const at of interrupts) if (access === start + at && other.isRunnable) other.run()
  }
  for (let turns = 0; watched.isRunnable || other.isRunnable; turns++) {
    if (turns > MOST_TURNS) return { accesses: watched.words.accesses - start, verdict: "the sides run for ever" }
    if (watched.isRunnable) watched.run()
    else other.run()
  }
  watched.words.before = () => {}
  return { accesses: watched.words.accesses - start, verdict: world.verdict }
}

/**
 * Plays a stream with a turn of one side before any access of the other, and with a second turn before any of the
 * accesses that follow. Returns the first thing that goes wrong.
 */
const explore = (stream: Stream, turns: Turns, atRest: (world: World) => void = () => {}): string | undefined => {
  let plays = 0
  for (const isWriterWatched of [true, false]) {
    for (const ahead of [0, 1, 3]) {
      const attempt = (interrupts: ReadonlyArray<number>): number | string => {
        const world = new World(stream, turns)
        const [watched, other] = isWriterWatched ? [world.writer, world.reader] : [world.reader, world.writer]
        const { accesses, verdict } = play(world, watched, other, ahead, interrupts)
        plays++
        if (verdict !== undefined) {
          const who = isWriterWatched ? "reader runs inside the writer" : "writer runs inside the reader"
          return `${verdict} (the ${who} before accesses ${interrupts.join()}, ${ahead} turns ahead)`
        }
        atRest(world)
        world.putAway()
        return accesses
      }
      for (let first = 0, firsts = 1; first < firsts; first++) {
        const one = attempt([first])
        if (typeof one === "string") return one
        firsts = one
        for (let second = first; second < Math.min(one, first + NEAR); second++) {
          const two = attempt([first, second])
          if (typeof two === "string") return two
        }
      }
    }
  }
  assert.isAbove(plays, 10, "nothing was explored")
  return undefined
}

const told = (world: World, fifo: Fifo.Fifo): void => {
  if (!fifo.setEvent()) return
  world.eventRings++
  world.ringReader()
}

const looksAgain = (world: World, fifo: Fifo.Fifo): void => {
  world.looks++
  fifo.unsetEvent()
}

const ended = (world: World, fifo: Fifo.Fifo): Standing => {
  fifo.end()
  world.ringReader()
  return "done"
}

/** Writes all there is, then ends; waits for room with a one-shot request. */
const write = (world: World, fifo: Fifo.Fifo): Standing => {
  if (world.written === world.stream.total) return ended(world, fifo)
  if (world.enqueue(fifo) < 0) {
    fifo.wantDequeueNotification(Fifo.WANT_ROOM, world.stream.threshold)
    if (world.enqueue(fifo) < 0) return "parked"
  }
  told(world, fifo)
  return "running"
}

const taken = (world: World, fifo: Fifo.Fifo, count: number): Standing => {
  if (fifo.needsDequeueNotification(count)) {
    fifo.clearDequeueNotification()
    world.ringWriter()
  }
  return "running"
}

/** Reads until the end of the stream. */
const read = (world: World, fifo: Fifo.Fifo): Standing => {
  let count = world.dequeue(fifo)
  if (count === Fifo.EMPTY) {
    const isEnded = fifo.isEnded
    looksAgain(world, fifo)
    count = world.dequeue(fifo)
    if (count === Fifo.EMPTY) return isEnded ? "done" : "parked"
  }
  return taken(world, fifo, count)
}

const plain: Stream = { total: 5, size: 2, piece: 2, taken: 1, threshold: 1, units: 8 }

const streams: ReadonlyArray<readonly [name: string, stream: Stream]> = [
  ["single bytes", { ...plain, total: 4, size: 1, piece: 1 }],
  ["pieces of the size of the FIFO", { ...plain, taken: 2 }],
  ["pieces over several chunks", { ...plain, total: 17, size: 11, piece: 9, taken: 10, threshold: 5, units: 16 }],
  ["small pieces over chunk ends", { ...plain, total: 11, size: 6, piece: 3, taken: 2, threshold: 4, units: 16 }],
  ["a threshold of all of the FIFO", { ...plain, total: 7, size: 3, piece: 3, threshold: 3 }],
  ["a threshold above the FIFO", { ...plain, total: 7, size: 3, piece: 3, threshold: 100 }],
  ["no memory", { ...plain, total: 11, size: 50, piece: 11, taken: 3, threshold: 25, units: 3 }],
  [
    "no memory and a threshold above the FIFO",
    { ...plain, total: 11, size: 50, piece: 11, taken: 3, threshold: 99, units: 3 }
  ]
]

describe("notifications of a FIFO", () => {
  describe("no wake-up is lost, wherever the sides meet", () => {
    for (const [name, stream] of streams) {
      it(`a stream with ${name}`, () => {
        assert.isUndefined(explore(stream, { write, read }))
      })
    }

    it("the reader clears its flag after it has looked: caught", () => {
      const clearsLate = (world: World, fifo: Fifo.Fifo): Standing => {
        const count = world.dequeue(fifo)
        if (count !== Fifo.EMPTY) return taken(world, fifo, count)
        if (fifo.isEnded && fifo.readable === 0) return "done"
        looksAgain(world, fifo)
        return "parked"
      }
      assert.match(explore(plain, { write, read: clearsLate })!, /waiting for ever: .*reader/)
    })

    it("the reader never clears its flag: caught", () => {
      const neverClears = (world: World, fifo: Fifo.Fifo): Standing => {
        const isEnded = fifo.isEnded
        const count = world.dequeue(fifo)
        if (count !== Fifo.EMPTY) return taken(world, fifo, count)
        return isEnded ? "done" : "parked"
      }
      assert.match(explore(plain, { write, read: neverClears })!, /waiting for ever: .*reader/)
    })

    it("the writer tells before it publishes: caught", () => {
      const tellsEarly = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.written === world.stream.total) return ended(world, fifo)
        if (fifo.free > 0) told(world, fifo)
        if (world.enqueue(fifo) < 0) {
          fifo.wantDequeueNotification(Fifo.WANT_ROOM)
          if (world.enqueue(fifo) < 0) return "parked"
        }
        return "running"
      }
      // The end comes with a ring of its own, which would hide what was lost before.
      assert.match(explore({ ...plain, size: 1 }, { write: tellsEarly, read })!, /waiting for ever/)
    })

    it("the writer rings for every piece: caught", () => {
      const ringsAlways = (world: World, fifo: Fifo.Fifo): Standing => {
        const standing = write(world, fifo)
        if (standing === "running" && fifo.hasEvent) world.eventRings++
        return standing
      }
      assert.match(explore({ ...plain, size: 5 }, { write: ringsAlways, read })!, /rings for/)
    })

    it("the writer does not look again after it has asked for room: caught", () => {
      const looksOnce = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.written === world.stream.total) return ended(world, fifo)
        if (world.enqueue(fifo) < 0) {
          fifo.wantDequeueNotification(Fifo.WANT_ROOM, world.stream.threshold)
          return "parked"
        }
        told(world, fifo)
        return "running"
      }
      for (const stream of [plain, streams.find(([name]) => name === "no memory")![1]]) {
        assert.match(explore(stream, { write: looksOnce, read })!, /waiting for ever: writer/)
      }
    })

    it("the reader forgets to clear the request and rings for ever: no wake-up is lost, but answered it is not", () => {
      const neverDone = (world: World, fifo: Fifo.Fifo): Standing => {
        const count = world.dequeue(fifo)
        if (count === Fifo.EMPTY) return read(world, fifo)
        if (fifo.needsDequeueNotification(count)) world.ringWriter()
        return "running"
      }
      let unanswered = 0
      const count = (world: World): void => void (unanswered += Number(world.host.isWanted(Fifo.WANT_ROOM)))
      assert.isUndefined(explore(plain, { write, read: neverDone }, count))
      assert.isAbove(unanswered, 0)
    })

    it("the reader clears the request after it has rung: caught", () => {
      const clearsLate = (world: World, fifo: Fifo.Fifo): Standing => {
        const count = world.dequeue(fifo)
        if (count === Fifo.EMPTY) return read(world, fifo)
        if (fifo.needsDequeueNotification(count)) {
          world.ringWriter()
          fifo.clearDequeueNotification()
        }
        return "running"
      }
      assert.match(explore(plain, { write, read: clearsLate })!, /waiting for ever: writer/)
    })

    it("a threshold that can never be reached, taken at its word: caught", () => {
      const literal = (world: World, fifo: Fifo.Fifo): Standing => {
        const count = world.dequeue(fifo)
        if (count === Fifo.EMPTY) return read(world, fifo)
        if (fifo.isWanted(Fifo.WANT_ROOM) && fifo.free >= world.stream.threshold) return taken(world, fifo, count)
        return "running"
      }
      const above = streams.find(([name]) => name === "a threshold above the FIFO")![1]
      assert.match(explore(above, { write, read: literal })!, /waiting for ever/)
      assert.isUndefined(explore({ ...above, threshold: 3 }, { write, read: literal }))
    })
  })

  describe("standing requests, rearmed by a writer that was told", () => {
    /** Writes as long as the FIFO is not full, and waits while it is. */
    const whileNotFull = (world: World, fifo: Fifo.Fifo): Standing => {
      if (world.written === 0) fifo.wantDequeueNotification(Fifo.WANT_IF_FULL)
      fifo.rearmDequeueNotification()
      if (world.written === world.stream.total) return ended(world, fifo)
      if (world.enqueue(fifo) < 0) return "parked"
      told(world, fifo)
      return "running"
    }

    /** Writes a piece whenever the FIFO is empty. */
    const whenEmpty = (world: World, fifo: Fifo.Fifo): Standing => {
      if (world.written === 0) fifo.wantDequeueNotification(Fifo.WANT_IF_EMPTY)
      fifo.rearmDequeueNotification()
      if (fifo.used > 0) return "parked"
      if (world.written === world.stream.total) return ended(world, fifo)
      if (world.enqueue(fifo) <= 0) assert.fail("an empty FIFO has no room")
      told(world, fifo)
      return "running"
    }

    for (const [name, stream] of [
      ["single bytes", { ...plain, total: 4, size: 1, piece: 1 }],
      ["two bytes at a time", { ...plain, taken: 2 }],
      ["pieces over several chunks", { ...plain, total: 17, size: 11, piece: 9, taken: 10, units: 16 }]
    ] as const) {
      it(`IF_FULL with ${name}`, () => {
        assert.isUndefined(explore(stream, { write: whileNotFull, read }))
      })

      it(`IF_EMPTY with ${name}`, () => {
        assert.isUndefined(explore(stream, { write: whenEmpty, read }))
      })
    }

    it("rearmed after looking: caught", () => {
      const late = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.written === 0) fifo.wantDequeueNotification(Fifo.WANT_IF_FULL)
        if (world.written === world.stream.total) return ended(world, fifo)
        if (world.enqueue(fifo) < 0) {
          fifo.rearmDequeueNotification()
          return "parked"
        }
        told(world, fifo)
        return "running"
      }
      assert.match(explore(plain, { write: late, read })!, /waiting for ever/)
    })

    it("never rearmed: caught", () => {
      const never = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.written === 0) fifo.wantDequeueNotification(Fifo.WANT_IF_FULL)
        if (world.written === world.stream.total) return ended(world, fifo)
        if (world.enqueue(fifo) < 0) return "parked"
        told(world, fifo)
        return "running"
      }
      assert.match(explore(plain, { write: never, read })!, /waiting for ever/)
    })

    it("until it is rearmed a writer that was told is not told again", () => {
      const segment = makeSegment({ size: 64, unitBytes: 16 })
      const fifo = allocateFifo(segment, 4)
      const bytes = bytesAt(0, 4)
      fifo.wantDequeueNotification(Fifo.WANT_IF_FULL | Fifo.WANT_IF_EMPTY)
      for (let round = 0; round < 3; round++) {
        assert.strictEqual(fifo.enqueue(bytes, 0, 4), 4)
        assert.strictEqual(fifo.drop(1), 1)
        assert.isTrue(fifo.needsDequeueNotification(1), "full, and now it is not")
        fifo.clearDequeueNotification()
        assert.strictEqual(fifo.drop(3), 3)
        assert.isFalse(fifo.needsDequeueNotification(3), "told already")
        fifo.rearmDequeueNotification()
        assert.isTrue(fifo.needsDequeueNotification(3), "empty")
      }
      releaseAll(segment, [fifo])
    })

    it("an answered request for room is done with, standing requests are not", () => {
      const segment = makeSegment({ size: 64, unitBytes: 16 })
      const fifo = allocateFifo(segment, 4)
      fifo.wantDequeueNotification(Fifo.WANT_ROOM | Fifo.WANT_IF_FULL, 2)
      fifo.clearDequeueNotification()
      assert.isFalse(fifo.isWanted(Fifo.WANT_ROOM))
      assert.isTrue(fifo.isWanted(Fifo.WANT_IF_FULL))
      fifo.unwantDequeueNotification(Fifo.WANT_IF_FULL)
      assert.isFalse(fifo.isWanted(Fifo.WANT_ROOM | Fifo.WANT_IF_FULL | Fifo.WANT_IF_EMPTY))
      // A request for room alone leaves nothing to rearm.
      fifo.rearmDequeueNotification()
      fifo.wantDequeueNotification(Fifo.WANT_ROOM)
      fifo.clearDequeueNotification()
      fifo.wantDequeueNotification(Fifo.WANT_IF_EMPTY)
      assert.strictEqual(fifo.enqueue(bytesAt(0, 1), 0, 1), 1)
      assert.strictEqual(fifo.dropAll(), 1)
      assert.isTrue(fifo.needsDequeueNotification(1))
      releaseAll(segment, [fifo])
    })
  })

  it("both sides change the requests at once, and neither undoes what the other does", () => {
    const both = Fifo.WANT_IF_FULL | Fifo.WANT_IF_EMPTY
    for (const isWriterWatched of [true, false]) {
      for (let at = 0, ends = false; !ends; at++) {
        const segment = makeSegment({ size: 64, unitBytes: 16 })
        const host = allocateFifo(segment, 4)
        const words = new WatchedWords(segment.words.buffer)
        const side = attachFifo(mapAgain(segment, words), host.index, isWriterWatched ? Fifo.WRITER : Fifo.READER)
        const writes = (fifo: Fifo.Fifo): void => {
          fifo.wantDequeueNotification(Fifo.WANT_IF_FULL)
          fifo.unwantDequeueNotification(Fifo.WANT_IF_EMPTY)
        }
        host.wantDequeueNotification(Fifo.WANT_ROOM | Fifo.WANT_IF_EMPTY)
        const start = words.accesses
        words.before = (access) => {
          if (access !== start + at) return
          if (isWriterWatched) host.clearDequeueNotification()
          else writes(host)
        }
        if (isWriterWatched) writes(side)
        else side.clearDequeueNotification()
        ends = words.accesses <= start + at
        if (ends) continue
        assert.isFalse(host.isWanted(Fifo.WANT_ROOM), "answered")
        assert.isTrue(host.isWanted(Fifo.WANT_IF_FULL), "asked for")
        assert.isFalse(host.isWanted(both & ~Fifo.WANT_IF_FULL), "withdrawn")
        releaseAll(segment, [host])
      }
    }
  })

  it("as long as the reader has not looked only the first piece needs a ring", () => {
    const segment = makeSegment({ size: 64, unitBytes: 16 })
    const fifo = allocateFifo(segment, 50)
    const other = attachFifo(mapAgain(segment), fifo.index, Fifo.READER)
    for (let look = 0; look < 3; look++) {
      assert.isFalse(other.hasEvent)
      assert.deepStrictEqual([fifo.setEvent(), fifo.setEvent(), fifo.setEvent()], [true, false, false])
      assert.isTrue(other.hasEvent)
      other.unsetEvent()
    }
    releaseAll(segment, [fifo])
  })

  describe("ends come after the last byte", () => {
    it("a reader that looks for bytes before it asks for the end leaves some behind: caught", () => {
      const looksFirst = (world: World, fifo: Fifo.Fifo): Standing => {
        const count = world.dequeue(fifo)
        if (count !== Fifo.EMPTY) return taken(world, fifo, count)
        if (fifo.isEnded) return "done"
        looksAgain(world, fifo)
        return fifo.readable > 0 ? "running" : "parked"
      }
      assert.match(explore(plain, { write, read: looksFirst })!, /the reader has left/)
    })

    it("a writer that ends before its last byte loses it: caught", () => {
      const endsEarly = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.stream.total - world.written > 1) return write(world, fifo)
        if (fifo.free === 0) {
          fifo.wantDequeueNotification(Fifo.WANT_ROOM)
          if (fifo.free === 0) return "parked"
        }
        fifo.end()
        world.enqueue(fifo)
        world.ringReader()
        return "done"
      }
      assert.match(explore({ ...plain, piece: 1 }, { write: endsEarly, read })!, /the reader has left/)
    })

    it("a writer that is gone: all it has published is read first", () => {
      const dies = (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.written < world.stream.total) return write(world, fifo)
        // Someone else says so: the dead do not.
        world.host.markGone(Fifo.WRITER)
        world.ringReader()
        return "done"
      }
      const readsOn =
        (isGoneFirst: boolean) =>
        (world: World, fifo: Fifo.Fifo): Standing => {
          let count = world.dequeue(fifo)
          if (count === Fifo.EMPTY) {
            let isGone = fifo.isGone(Fifo.WRITER)
            looksAgain(world, fifo)
            count = world.dequeue(fifo)
            if (!isGoneFirst) isGone = fifo.isGone(Fifo.WRITER)
            if (count === Fifo.EMPTY) return isGone ? "done" : "parked"
          }
          return taken(world, fifo, count)
        }
      assert.isUndefined(explore(plain, { write: dies, read: readsOn(true) }))
      assert.match(explore(plain, { write: dies, read: readsOn(false) })!, /the reader has left/)
    })
  })

  describe("a stream that is broken off", () => {
    /** Breaks off after some bytes: says so, then rings; or the other way round, which is wrong. */
    const breaksOff =
      (bytes: number, say: (fifo: Fifo.Fifo) => void, ringsFirst = false) =>
      (world: World, fifo: Fifo.Fifo): Standing => {
        if (world.read < bytes) return read(world, fifo)
        world.isBrokenOff = true
        if (ringsFirst) world.ringWriter()
        say(fifo)
        if (!ringsFirst) world.ringWriter()
        return "done"
      }

    const unless =
      (isOver: (fifo: Fifo.Fifo) => boolean, turn: Turns["write"]) =>
      (world: World, fifo: Fifo.Fifo): Standing =>
        isOver(fifo) ? "done" : turn(world, fifo)

    const isStopped = (fifo: Fifo.Fifo): boolean => fifo.isStopped
    const isReset = (fifo: Fifo.Fifo): boolean => fifo.isResetBy(Fifo.READER)

    for (const [name, isOver, say] of [
      ["stop", isStopped, (fifo: Fifo.Fifo) => fifo.stop()],
      ["reset by the reader", isReset, (fifo: Fifo.Fifo) => fifo.reset(Fifo.READER)]
    ] as const) {
      it(`${name}: a writer that waits hears of it`, () => {
        for (const bytes of [0, 1, 3]) {
          assert.isUndefined(explore(plain, { write: unless(isOver, write), read: breaksOff(bytes, say) }))
        }
      })

      it(`${name}, rung before it is said: caught`, () => {
        const turns = { write: unless(isOver, write), read: breaksOff(1, say, true) }
        assert.match(explore(plain, turns)!, /waiting for ever: writer/)
      })
    }

    it("reset by the writer: a reader that waits hears of it", () => {
      // The reader takes all there is in one turn, and waits in the next.
      const stream = { ...plain, taken: 2 }
      for (const bytes of [0, 1, 3]) {
        for (const ringsFirst of [false, true]) {
          const resets = (world: World, fifo: Fifo.Fifo): Standing => {
            if (world.written < bytes) return write(world, fifo)
            world.isBrokenOff = true
            if (ringsFirst) world.ringReader()
            fifo.reset(Fifo.WRITER)
            if (!ringsFirst) world.ringReader()
            return "done"
          }
          const isOver = (fifo: Fifo.Fifo): boolean => fifo.isResetBy(Fifo.WRITER) && !fifo.isResetBy(Fifo.READER)
          const verdict = explore(stream, { write: resets, read: unless(isOver, read) })
          if (ringsFirst) assert.match(verdict!, /waiting for ever: .*reader/)
          else assert.isUndefined(verdict)
        }
      }
    })

    it("both sides at once: each sees its own and the other's", () => {
      for (let at = 0; at < 2; at++) {
        const segment = makeSegment({ size: 64, unitBytes: 16 })
        const fifo = allocateFifo(segment, 4)
        const words = new WatchedWords(segment.words.buffer)
        const reader = attachFifo(mapAgain(segment, words), fifo.index, Fifo.READER)
        const start = words.accesses
        words.before = (access) => {
          if (access === start + at) fifo.reset(Fifo.WRITER)
        }
        reader.reset(Fifo.READER)
        if (at === 1) fifo.reset(Fifo.WRITER)
        assert.isTrue(fifo.isResetBy(Fifo.WRITER) && fifo.isResetBy(Fifo.READER))
        fifo.markGone(Fifo.WRITER)
        reader.markGone(Fifo.READER)
        assert.isTrue(fifo.isGone(Fifo.WRITER) && fifo.isGone(Fifo.READER))
        releaseAll(segment, [fifo])
        assertNoLeak(segment)
      }
    })
  })
})
