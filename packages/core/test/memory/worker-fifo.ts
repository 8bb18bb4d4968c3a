/** One side of a FIFO, in a thread of its own: the protocols as `Fifo` describes them, waiting on a bell. */
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { Buffer } from "node:buffer"
import { parentPort, workerData } from "node:worker_threads"
import { type FifoReport, type FifoTask, random, READER_BELL, ring, streamAt, WRITER_BELL } from "./threads.ts"

const { bells, buffer, index, isWriter, most, seed, tellAt, total } = workerData as FifoTask

const segment = FifoSegment.attach(new SharedWords(buffer))
const fifo = segment?.attachFifo(index, isWriter ? Fifo.WRITER : Fifo.READER)
if (fifo === undefined) throw new Error("no FIFO")

const next = random(seed)
let bytes = 0
let waits = 0

const report = (isEnd: boolean): void => parentPort!.postMessage({ bytes, waits, isEnd } satisfies FifoReport)

const wait = (bell: number, seen: number): void => {
  waits++
  Atomics.wait(bells, bell, seen)
}

const write = (how: number, length: number): number => {
  const source = streamAt(bytes, length)
  const middle = length >>> 1
  switch (how) {
    case 0:
      return fifo.enqueueAll(source, 0, length)
    case 1:
      return fifo.enqueueSegments([source.subarray(0, middle), source.subarray(middle)], true)
    case 2: {
      let claimed = 0
      for (const view of fifo.claim(length)) {
        view.set(source.subarray(claimed, claimed + view.length))
        claimed += view.length
      }
      // No room is for `enqueue` to explain.
      return claimed > 0 ? fifo.commit(claimed) : fifo.enqueue(source, 0, length)
    }
    default:
      return fifo.enqueue(source, 0, length)
  }
}

const runWriter = (): void => {
  while (bytes < total) {
    const seen = Atomics.load(bells, WRITER_BELL)
    const length = Math.min(1 + next(most), total - bytes)
    let count = write(next(6), length)
    if (count < 0) {
      fifo.wantDequeueNotification(Fifo.WANT_ROOM, 1 + next(length))
      // Part of it has room where not all of it has.
      count = fifo.enqueue(streamAt(bytes, length), 0, length)
    }
    if (count === Fifo.CORRUPT) throw new Error(`corrupt after ${bytes} bytes written, seed ${seed}`)
    if (count < 0) {
      if (fifo.isGone(Fifo.READER)) return
      wait(WRITER_BELL, seen)
    } else {
      bytes += count
      if (fifo.setEvent()) ring(bells, READER_BELL)
    }
  }
  fifo.end()
  ring(bells, READER_BELL)
}

const target = new Uint8Array(most)

const check = (seen: Uint8Array, position: number): void => {
  if (Buffer.compare(seen, streamAt(position, seen.length)) !== 0) {
    throw new Error(`wrong bytes at ${position} to ${position + seen.length}, seed ${seed}`)
  }
}

const read = (how: number, length: number): number => {
  switch (how) {
    case 0: {
      let lent = 0
      for (const view of fifo.segments(length)) {
        check(view, bytes + lent)
        lent += view.length
      }
      return lent === 0 ? fifo.dequeue(target, 0, length) : fifo.drop(lent)
    }
    case 1: {
      const skip = next(length)
      const peeked = fifo.peek(skip, target, 0, length)
      if (peeked > 0) check(target.subarray(0, peeked), bytes + skip)
      if (peeked === Fifo.CORRUPT) return peeked
      break
    }
    default:
  }
  const count = fifo.dequeue(target, 0, length)
  if (count > 0) check(target.subarray(0, count), bytes)
  return count
}

const runReader = (): void => {
  for (;;) {
    const seen = Atomics.load(bells, READER_BELL)
    const length = 1 + next(most)
    let count = read(next(6), length)
    if (count === Fifo.EMPTY) {
      const isOver = fifo.isEnded || fifo.isGone(Fifo.WRITER)
      fifo.unsetEvent()
      count = read(next(6), length)
      if (count === Fifo.EMPTY && isOver) return
    }
    if (count === Fifo.CORRUPT) throw new Error(`corrupt after ${bytes} bytes read, seed ${seed}`)
    if (count === Fifo.EMPTY) {
      wait(READER_BELL, seen)
    } else {
      if (bytes < tellAt && bytes + count >= tellAt) report(false)
      bytes += count
      if (fifo.needsDequeueNotification(count)) {
        fifo.clearDequeueNotification()
        ring(bells, WRITER_BELL)
      }
    }
  }
}

if (isWriter) runWriter()
else runReader()
report(true)
