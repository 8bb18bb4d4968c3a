/** Random programs over FIFOs, run against a FIFO and against what a FIFO is: two positions in an endless stream. */
import * as Fifo from "@cut-through/core/memory/Fifo"
import type { FifoSegment } from "@cut-through/core/memory/FifoSegment"
import { assert } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { assertAccounted, assertBytesAt, assertNoLeak, attachFifo, bytesAt, chunksOf, mapAgain } from "./fixtures.ts"

const operations = [
  "enqueue",
  "enqueueAll",
  "enqueueSegments",
  "enqueueSegmentsPartial",
  "dequeue",
  "peek",
  "drop",
  "dropAll",
  "segments",
  "claim",
  "resize",
  "setEvent",
  "unsetEvent",
  "want",
  "unwant",
  "clear",
  "rearm",
  "flags",
  "handOver"
] as const

// Bytes have to move for anything else to matter.
const weighted = operations.flatMap((operation, i) => new Array<typeof operation>(i < 10 ? 4 : 1).fill(operation))

const int = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

export interface Command {
  readonly operation: (typeof operations)[number]
  readonly fifo: number
  readonly amount: number
  readonly other: number
}

export const command: Arbitrary.Arbitrary<Command> = Arbitrary.map(
  Arbitrary.all({
    operation: Arbitrary.schema(int(weighted.length - 1)),
    fifo: Arbitrary.schema(int(1)),
    amount: Arbitrary.schema(int(9999)),
    other: Arbitrary.schema(int(9999))
  }),
  ({ operation, ...rest }): Command => ({ operation: weighted[operation], ...rest })
)

export const commands: Arbitrary.Arbitrary<Array<Command>> = Arbitrary.array(command, { minLength: 1 })

/** Sizes of a segment and of two FIFOs in it, from plenty to far too little memory. */
export interface Shape {
  readonly unitBytes: number
  readonly units: number
  readonly sizes: readonly [number, number]
}

export const shapes: Arbitrary.Arbitrary<Shape> = Arbitrary.map(
  Arbitrary.all({
    unit: Arbitrary.schema(int(3)),
    units: Arbitrary.schema(int(30)),
    sizes: Arbitrary.all([Arbitrary.schema(int(150)), Arbitrary.schema(int(150))])
  }),
  ({ sizes, unit, units }): Shape => {
    const unitBytes = [4, 16, 64, 4096][unit]
    const count = 2 + (unitBytes === 4096 ? units % 9 : units)
    const size = (percent: number) => 1 + Math.floor((count * unitBytes * percent) / 100)
    return { unitBytes, units: count, sizes: [size(sizes[0]), size(sizes[1])] }
  }
)

/** One FIFO, its two sides, and what is known about it. */
export interface Subject {
  readonly host: Fifo.Fifo
  writer: Fifo.Fifo
  reader: Fifo.Fifo
  /** Stream positions: what has been written, and what of it has been read. */
  written: number
  read: number
  limit: number
  event: boolean
  want: number
  threshold: number
  told: boolean
}

export const subject = (host: Fifo.Fifo, writer = host, reader = host, position = 0): Subject => ({
  host,
  writer,
  reader,
  written: position,
  read: position,
  limit: host.size,
  event: false,
  want: 0,
  threshold: 0,
  told: false
})

// Lengths that matter are around a unit, around the limit, and around what is there or free at the moment.
const amountOf = (command: number, unitBytes: number, it: Subject): number => {
  const used = it.written - it.read
  const pick = Math.floor(command / 5)
  switch (command % 5) {
    case 0:
      return pick % (unitBytes + 2)
    case 1:
      return pick % (it.limit + 2)
    case 2:
      return unitBytes * (pick % 4)
    case 3:
      return Math.max(0, it.limit - used + (pick % 3) - 1)
    default:
      return Math.max(0, used + (pick % 3) - 1)
  }
}

const is = (actual: number | boolean, expected: number | boolean, what: string): void => {
  if (actual !== expected) assert.fail(`${what}: ${actual}, should be ${expected}`)
}

/** Checks what an enqueue of `length` bytes returned, and counts the bytes. */
const enqueued = (segment: FifoSegment, it: Subject, result: number, length: number, isAll: boolean): void => {
  const used = it.written - it.read
  const free = Math.max(0, it.limit - used)
  if (length === 0) return is(result, 0, "nothing enqueued")
  if (isAll ? free < length : free === 0) {
    // Too much for the limit and for the memory: either is the truth.
    const isShort = result === Fifo.NO_MEMORY && used > 0 && segment.availableBytes === 0
    return isShort ? undefined : is(result, Fifo.FULL, "enqueued in a full FIFO")
  }
  const most = Math.min(length, free)
  if (result === most) {
    it.written += result
    return
  }
  // Less than would fit is right only when there is no memory at all.
  is(segment.availableBytes, 0, `bytes free when ${result} of ${most} bytes were enqueued`)
  if (result === Fifo.NO_MEMORY) {
    if (used > 0) return
    // All or nothing can ask for more than there is. Room is found all the same.
    if (!isAll) assert.fail("no memory for an empty FIFO")
    const bytes = bytesAt(it.written, length)
    const some = it.writer.enqueue(bytes, 0, length)
    if (some <= 0 || some >= length) assert.fail(`${some} of ${length} bytes enqueued in an empty FIFO`)
    it.written += some
    return
  }
  if (isAll || result <= 0 || result > most) assert.fail(`${result} bytes enqueued of ${most}`)
  it.written += result
}

const dequeued = (it: Subject, count: number): void => {
  const before = it.written - it.read
  it.read += count
  const used = before - count
  const room = (it.want & Fifo.WANT_ROOM) !== 0 && (used === 0 || it.limit - used >= it.threshold)
  const notFull = (it.want & Fifo.WANT_IF_FULL) !== 0 && before >= it.limit && used < it.limit
  const empty = (it.want & Fifo.WANT_IF_EMPTY) !== 0 && used === 0
  is(it.reader.needsDequeueNotification(count), room || (!it.told && (notFull || empty)), "needs a notification")
}

const cut = (bytes: Uint8Array, pieces: number): Array<Uint8Array> => {
  const length = Math.floor(bytes.length / pieces)
  const parts: Array<Uint8Array> = [new Uint8Array(0)]
  for (let i = 0; i < pieces - 1; i++) parts.push(bytes.subarray(i * length, (i + 1) * length))
  parts.push(bytes.subarray((pieces - 1) * length))
  return parts
}

export const step = (segment: FifoSegment, it: Subject, command: Command): void => {
  const { reader, writer } = it
  const amount = amountOf(command.amount, segment.chunks.unitBytes, it)
  const used = it.written - it.read
  switch (command.operation) {
    case "enqueue":
    case "enqueueAll": {
      const offset = command.other % 7
      const source = new Uint8Array(offset + amount)
      source.set(bytesAt(it.written, amount), offset)
      const isAll = command.operation === "enqueueAll"
      const result = isAll ? writer.enqueueAll(source, offset, amount) : writer.enqueue(source, offset, amount)
      return enqueued(segment, it, result, amount, isAll)
    }
    case "enqueueSegments":
    case "enqueueSegmentsPartial": {
      const isPartial = command.operation === "enqueueSegmentsPartial"
      const result = writer.enqueueSegments(cut(bytesAt(it.written, amount), 1 + (command.other % 4)), isPartial)
      return enqueued(segment, it, result, amount, !isPartial)
    }
    case "claim": {
      const views = writer.claim(amount)
      const claimed = views.reduce((sum, view) => sum + view.length, 0)
      const free = Math.max(0, it.limit - used)
      if (claimed < Math.min(amount, free)) {
        is(segment.availableBytes, 0, `bytes free when ${claimed} of ${amount} were claimed`)
        if (claimed === 0 && used === 0) assert.fail("no room in an empty FIFO")
      } else {
        is(claimed, Math.min(amount, free), "claimed")
      }
      let position = it.written
      for (const view of views) {
        view.set(bytesAt(position, view.length))
        position += view.length
      }
      const committed = command.other % 3 === 0 ? claimed : command.other % (claimed + 1)
      is(writer.commit(committed), committed, "committed")
      it.written += committed
      return
    }
    case "dequeue": {
      const offset = command.other % 5
      const target = new Uint8Array(offset + amount + 1).fill(0xee)
      const count = reader.dequeue(target, offset, amount)
      if (amount === 0 || used === 0) return is(count, amount === 0 ? 0 : Fifo.EMPTY, "dequeued")
      is(count, Math.min(amount, used), "dequeued")
      assertBytesAt(target, it.read, count, offset)
      is(target[offset + count], 0xee, "byte behind what was dequeued")
      return dequeued(it, count)
    }
    case "peek": {
      const skip = command.other % 2 === 0 ? Math.floor(command.other / 2) % (used + 2) : used
      const target = new Uint8Array(amount + 1).fill(0xee)
      const count = reader.peek(skip, target, 0, amount)
      if (amount === 0 || skip >= used) return is(count, amount === 0 ? 0 : Fifo.EMPTY, "peeked")
      is(count, Math.min(amount, used - skip), "peeked")
      assertBytesAt(target, it.read + skip, count)
      return is(target[count], 0xee, "byte behind what was peeked")
    }
    case "drop": {
      const count = reader.drop(amount)
      if (amount === 0 || used === 0) return is(count, amount === 0 ? 0 : Fifo.EMPTY, "dropped")
      is(count, Math.min(amount, used), "dropped")
      return dequeued(it, count)
    }
    case "dropAll": {
      is(reader.dropAll(), used, "dropped")
      if (used > 0) dequeued(it, used)
      return
    }
    case "segments": {
      let position = it.read
      for (const view of reader.segments(amount)) {
        assertBytesAt(view, position)
        if (view.length === 0) assert.fail("an empty view")
        position += view.length
      }
      return is(position - it.read, Math.min(amount, used), "bytes in views")
    }
    case "resize": {
      const size = command.other % 3 === 0 ? Math.max(1, used) : 1 + (command.amount % (2 * it.limit))
      segment.resizeFifo(it.host, size)
      it.limit = size
      return
    }
    case "setEvent":
      is(writer.setEvent(), !it.event, "has to be told")
      it.event = true
      return
    case "unsetEvent":
      reader.unsetEvent()
      it.event = false
      return
    case "want": {
      const bits = 1 + (command.other % 7)
      writer.wantDequeueNotification(bits, amount)
      it.want |= bits
      if ((bits & Fifo.WANT_ROOM) !== 0) it.threshold = amount
      return
    }
    case "unwant": {
      const bits = 1 + (command.other % 7)
      writer.unwantDequeueNotification(bits)
      it.want &= ~bits
      return
    }
    case "clear":
      reader.clearDequeueNotification()
      if ((it.want & (Fifo.WANT_IF_FULL | Fifo.WANT_IF_EMPTY)) !== 0) it.told = true
      it.want &= ~Fifo.WANT_ROOM
      return
    case "rearm":
      writer.rearmDequeueNotification()
      it.told = false
      return
    case "flags":
      if (command.other % 3 === 0) writer.end()
      if (command.other % 3 === 1) reader.stop()
      if (command.other % 3 === 2) (command.amount % 2 === 0 ? writer : reader).reset(1 + (command.amount % 2))
      return
    case "handOver":
      return handOver(segment, it, command.other % 2 === 0)
  }
}

/** Another thread goes on where one side has stopped: what it needs to know is all in shared words. */
const handOver = (segment: FifoSegment, it: Subject, isWriter: boolean): void => {
  if (it.writer === it.reader) return
  const side = attachFifo(mapAgain(segment), it.host.index, isWriter ? Fifo.WRITER : Fifo.READER)
  if (isWriter) it.writer = side
  else it.reader = side
}

export const check = (segment: FifoSegment, subjects: ReadonlyArray<Subject>): void => {
  let sizes = 0
  for (const it of subjects) {
    const used = it.written - it.read
    for (const side of [it.writer, it.reader]) {
      is(side.used, used, "used")
      is(side.isCorrupt, false, "corrupt")
      is(side.hasEvent, it.event, "event")
    }
    is(it.writer.free, Math.max(0, it.limit - used), "free")
    is(it.reader.readable, used, "readable")
    sizes += it.limit

    const { chunks } = segment
    const list = chunksOf(segment, it.host)
    is(it.host.chunkCount, list.length, "chunks")
    // The reader stands in the first chunk or at its end, and what is behind it holds all there is.
    const inFirst = (it.read - chunks.start(list[0])) >>> 0
    if (inFirst > chunks.bytes(list[0])) assert.fail(`the reader is ${inFirst} bytes behind the start of its chunk`)
    let room = chunks.bytes(list[0]) - inFirst
    for (let i = 1; i < list.length; i++) {
      is((chunks.start(list[i]) - chunks.start(list[i - 1])) >>> 0, chunks.bytes(list[i - 1]), "bytes between starts")
      room += chunks.bytes(list[i])
    }
    if (room < used) assert.fail(`${used} bytes in chunks for ${room}`)
  }
  is(segment.activeFifos, subjects.length, "FIFOs")
  is(segment.virtualBytes, sizes, "sum of the limits")
  assertAccounted(
    segment,
    subjects.map((it) => it.host)
  )
}

/** Runs a program, checks after every step, then drains and releases everything. */
export const run = (segment: FifoSegment, subjects: ReadonlyArray<Subject>, program: ReadonlyArray<Command>): void => {
  check(segment, subjects)
  for (const command of program) {
    step(segment, subjects[command.fifo % subjects.length], command)
    check(segment, subjects)
  }
  for (const it of subjects) {
    const used = it.written - it.read
    const rest = new Uint8Array(used)
    is(used === 0 ? 0 : it.reader.dequeue(rest, 0, used), used, "rest")
    assertBytesAt(rest, it.read)
    segment.releaseFifo(it.host)
  }
  assertNoLeak(segment)
}
