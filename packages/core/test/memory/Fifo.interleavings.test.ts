import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import * as Model from "./fifoModel.ts"
import {
  allocateBuffer,
  allocateFifo,
  assertBytesAt,
  attachFifo,
  bytesAt,
  mapAgain,
  releaseAll,
  WatchedWords
} from "./fixtures.ts"

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

/** What one side does while the other one stands between two accesses: less is known than when it is alone. */
interface Move {
  readonly operation: number
  readonly amount: number
}

const move: Arbitrary.Arbitrary<Move> = Arbitrary.all({ operation: int(4), amount: int(9999) })

const lengthOf = (it: Model.Subject, amount: number, unitBytes: number): number =>
  1 + (amount % 2 === 0 ? amount % (3 * unitBytes) : amount % (it.limit + 1))

const writes = (it: Model.Subject, { amount, operation }: Move, unitBytes: number): void => {
  const { writer } = it
  const length = lengthOf(it, amount, unitBytes)
  const bytes = bytesAt(it.written, length)
  let count: number
  switch (operation) {
    case 0:
      count = writer.enqueueAll(bytes, 0, length)
      if (count > 0 && count < length) assert.fail(`${count} of all ${length} bytes enqueued`)
      break
    case 1:
      count = writer.enqueueSegments([bytes.subarray(0, length >>> 1), bytes.subarray(length >>> 1)], true)
      break
    case 2:
      count = 0
      for (const view of writer.claim(length)) {
        view.set(bytes.subarray(count, count + view.length))
        count += view.length
      }
      if (writer.commit(count) !== count) assert.fail("a claim was not committed")
      break
    default:
      count = writer.enqueue(bytes, 0, length)
  }
  if (count === Fifo.CORRUPT || count > length) assert.fail(`${count} of ${length} bytes enqueued`)
  if (count > 0) it.written += count
}

const reads = (it: Model.Subject, { amount, operation }: Move, unitBytes: number): void => {
  const { reader } = it
  const length = lengthOf(it, amount, unitBytes)
  const bytes = new Uint8Array(length)
  let count = 0
  switch (operation) {
    case 0:
      count = reader.drop(length)
      break
    case 1:
      for (const view of reader.segments(length)) {
        assertBytesAt(view, it.read + count)
        count += view.length
      }
      if (count > 0 && reader.drop(count) !== count) assert.fail("what was lent was not dropped")
      break
    case 2: {
      const skip = length >>> 1
      const peeked = reader.peek(skip, bytes, 0, length)
      if (peeked === Fifo.CORRUPT) assert.fail("a peek found nonsense")
      assertBytesAt(bytes, it.read + skip, Math.max(0, peeked))
      count = peeked > 0 && amount % 2 === 0 ? reader.dropAll() : 0
      break
    }
    default:
      count = reader.dequeue(bytes, 0, length)
      assertBytesAt(bytes, it.read, Math.max(0, count))
  }
  if (count === Fifo.CORRUPT) assert.fail("the reader found nonsense")
  if (count > 0) it.read += count
}

/**
 * Runs one move of a side with moves of the other side before any one of its accesses, then looks at everything. The
 * FIFO has been through some program before. The side is in the thread that made the FIFO, or has attached to it.
 */
const interruptEverywhere = (
  shape: Model.Shape,
  program: ReadonlyArray<Model.Command>,
  isWriter: boolean,
  isMaker: boolean,
  interrupted: Move,
  others: ReadonlyArray<Move>
): void => {
  const { unitBytes, units } = shape
  for (let at = 0, ends = false; !ends; at++) {
    const options = { size: units * unitBytes, unitBytes, maxFifos: 1 }
    const words = new WatchedWords(allocateBuffer(options))
    const own = isMaker ? words : new SharedWords(words.buffer)
    const segment = FifoSegment.make(own, options)
    const host = allocateFifo(segment, shape.sizes[0])
    const side = isWriter ? Fifo.WRITER : Fifo.READER
    const watched = isMaker ? host : attachFifo(mapAgain(segment, words), host.index, side)
    const other = attachFifo(mapAgain(segment), host.index, isWriter ? Fifo.READER : Fifo.WRITER)
    const it = isWriter ? Model.subject(host, watched, other) : Model.subject(host, other, watched)
    // Whoever takes over would not be watched.
    for (const command of program) if (command.operation !== "handOver") Model.step(segment, it, command)

    const start = words.accesses
    words.before = (access) => {
      if (access === start + at) for (const other of others) (isWriter ? reads : writes)(it, other, unitBytes)
    }
    ;(isWriter ? writes : reads)(it, interrupted, unitBytes)
    ends = words.accesses <= start + at
    words.before = () => {}

    Model.check(segment, [it])
    // And it goes on: nothing is stuck that was interrupted.
    segment.resizeFifo(host, (it.limit = Math.max(it.limit, it.written - it.read + 1)))
    reads(it, { operation: 3, amount: 9999 }, unitBytes)
    const before = it.written
    writes(it, { operation: 3, amount: 1 }, unitBytes)
    if (it.written === before && segment.availableBytes > 0) assert.fail("no room where there is memory")
    Model.check(segment, [it])
    assert.strictEqual(it.reader.dropAll(), it.written - it.read)
    releaseAll(segment, [host])
  }
}

describe("a FIFO whose sides meet in the middle of an operation", () => {
  const others = Arbitrary.array(move, { minLength: 1, maxLength: 4 })
  const program = Arbitrary.array(Model.command, { maxLength: 25 })

  for (const isMaker of [false, true]) {
    const who = isMaker ? "that made the FIFO" : "that attached"
    it.prop(
      `the reader runs before any access of the writer ${who}`,
      { shape: Model.shapes, program, interrupted: move, others },
      ({ interrupted, others, program, shape }) =>
        interruptEverywhere(shape, program, true, isMaker, interrupted, others),
      { arbitrary: { runs: 150, size: 40 } }
    )

    it.prop(
      `the writer runs before any access of the reader ${who}`,
      { shape: Model.shapes, program, interrupted: move, others },
      ({ interrupted, others, program, shape }) =>
        interruptEverywhere(shape, program, false, isMaker, interrupted, others),
      { arbitrary: { runs: 150, size: 40 } }
    )
  }

  it.prop(
    "the reader runs before any access of the first write",
    { shape: Model.shapes, interrupted: move, others },
    ({ interrupted, others, shape }) => interruptEverywhere(shape, [], true, true, interrupted, others),
    { arbitrary: { runs: 150, size: 40 } }
  )
})
