import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { assert, describe, it } from "@effect/vitest"
import { Worker } from "node:worker_threads"
import { allocateFifo, assertNoLeak, makeSegment, releaseAll } from "./fixtures.ts"
import {
  type ChunkReport,
  type ChunkTask,
  type FifoReport,
  type FifoTask,
  READER_BELL,
  ring,
  WRITER_BELL
} from "./threads.ts"

const KIB = 1024
const MIB = 1024 * KIB
/** How long a machine with other things to do may take. A lost wake-up takes for ever. */
const PATIENCE = 15_000

// Another one for each run: what threads do is not the same twice anyway, and a failure says which it was.
const newSeed = (): number => Math.floor(Math.random() * 2 ** 31)

/** Threads that end with the test, whatever becomes of it. */
class Threads {
  private readonly workers: Array<Worker> = []

  start<Report>(file: string, workerData: FifoTask | ChunkTask): Thread<Report> {
    const worker = new Worker(new URL(file, import.meta.url), { workerData })
    this.workers.push(worker)
    return new Thread(worker)
  }

  async stop(): Promise<void> {
    for (const worker of this.workers) await worker.terminate()
  }
}

const withThreads = (test: (threads: Threads) => Promise<void>) => async (): Promise<void> => {
  const threads = new Threads()
  try {
    await test(threads)
  } finally {
    await threads.stop()
  }
}

class Thread<Report> {
  readonly worker: Worker
  private readonly reports: Array<Report> = []
  private readonly exit: Promise<void>
  private onReport: () => void = () => {}

  constructor(worker: Worker) {
    this.worker = worker
    worker.on("message", (report: Report) => {
      this.reports.push(report)
      this.onReport()
    })
    this.exit = new Promise((resolve, reject) => {
      worker.on("error", reject)
      worker.on("exit", () => resolve())
    })
  }

  /** Its next report, or why it failed instead. */
  async next(): Promise<Report> {
    const reported = new Promise<void>((resolve) => {
      this.onReport = resolve
      if (this.reports.length > 0) resolve()
    })
    await Promise.race([reported, this.exit])
    const report = this.reports.shift()
    if (report === undefined) throw new Error("a thread has ended without a report")
    return report
  }

  /** Its last report, when it has ended. */
  async end(): Promise<Report> {
    const report = await this.next()
    await this.exit
    return report
  }
}

interface Stream {
  readonly size: number
  readonly total: number
  readonly most: number
}

const taskFor = (segment: FifoSegment.FifoSegment, fifo: Fifo.Fifo, stream: Stream) => {
  const bells = new Int32Array(new SharedArrayBuffer(4 * (READER_BELL + 1)))
  const seed = newSeed()
  return (isWriter: boolean, tellAt = 0): FifoTask => ({
    buffer: segment.words.buffer as SharedArrayBuffer,
    bells,
    index: fifo.index,
    isWriter,
    seed: seed + Number(isWriter),
    total: stream.total,
    most: stream.most,
    tellAt
  })
}

/** Runs streams at once, each with two threads, and checks that everything arrived and that nothing is left. */
const transfer = (segment: FifoSegment.FifoSegment, streams: ReadonlyArray<Stream>) =>
  withThreads(async (threads) => {
    const fifos = streams.map((stream) => allocateFifo(segment, stream.size))
    const ends = streams.flatMap((stream, i) => {
      const task = taskFor(segment, fifos[i], stream)
      return [false, true].map((isWriter) => threads.start<FifoReport>("./worker-fifo.ts", task(isWriter)).end())
    })
    const reports = await Promise.all(ends)
    for (const [i, { total }] of streams.entries()) {
      assert.strictEqual(reports[2 * i].bytes, total, "bytes read")
      assert.strictEqual(reports[2 * i + 1].bytes, total, "bytes written")
      assert.isTrue(fifos[i].isEnded)
      assert.strictEqual(fifos[i].used, 0)
      assert.isAtMost(fifos[i].chunkCount, 2)
    }
    releaseAll(segment, fifos)
  })

/** What a thread that was stopped held is nobody's until the segment goes. Then it goes, too. */
const assertZeroable = (segment: FifoSegment.FifoSegment): void => {
  assert.strictEqual(segment.activeFifos, 0)
  assert.strictEqual(segment.virtualBytes, 0)
  for (const [start, end] of segment.touchedRanges()) segment.words.zero(start, end)
  assert.isTrue(new Uint8Array(segment.words.buffer).every((byte) => byte === 0))
}

describe("two threads and a FIFO", () => {
  it(
    "64 MiB through 64 KiB",
    { timeout: PATIENCE },
    transfer(makeSegment({ size: MIB }), [{ size: 64 * KIB, total: 64 * MIB, most: 96 * KIB }])
  )

  it(
    "single bytes, one side waiting for the other nearly always",
    { timeout: PATIENCE },
    transfer(makeSegment({ size: 64, unitBytes: 4, maxFifos: 1 }), [{ size: 1, total: 3000, most: 3 }])
  )

  it(
    "a few bytes at a time, over chunks of four",
    { timeout: PATIENCE },
    transfer(makeSegment({ size: 64, unitBytes: 4, maxFifos: 1 }), [{ size: 7, total: 20_000, most: 9 }])
  )

  it(
    "two streams that take each other's memory",
    { timeout: PATIENCE },
    transfer(makeSegment({ size: 24 * KIB }), [
      { size: MIB, total: 4 * MIB, most: 10_000 },
      { size: MIB, total: 4 * MIB, most: 30_000 }
    ])
  )

  const endless: Stream = { size: 64 * KIB, total: Infinity, most: 20 * KIB }

  it(
    "a writer is stopped anywhere: what it had published is read, and others go on",
    { timeout: PATIENCE },
    withThreads(async (threads) => {
      const segment = makeSegment({ size: MIB })
      const [host, other] = [allocateFifo(segment, endless.size), allocateFifo(segment, 100)]
      const task = taskFor(segment, host, endless)
      const reader = threads.start<FifoReport>("./worker-fifo.ts", task(false, 3 * MIB))
      const writer = threads.start<FifoReport>("./worker-fifo.ts", task(true))
      assert.isFalse((await reader.next()).isEnd)
      await writer.worker.terminate()
      host.markGone(Fifo.WRITER)
      ring(task(false).bells, READER_BELL)
      const { bytes, isEnd } = await reader.end()
      assert.isTrue(isEnd)
      assert.isAtLeast(bytes, 3 * MIB)
      assert.strictEqual(host.used, 0)
      assert.strictEqual(other.enqueue(new Uint8Array(200), 0, 200), 100)
      for (const fifo of [host, other]) assert.isTrue(segment.releaseFifo(fifo))
      assertZeroable(segment)
    })
  )

  it(
    "a reader is stopped anywhere: a writer that waits hears of it",
    { timeout: PATIENCE },
    withThreads(async (threads) => {
      const segment = makeSegment({ size: MIB })
      const host = allocateFifo(segment, endless.size)
      const task = taskFor(segment, host, endless)
      const reader = threads.start<FifoReport>("./worker-fifo.ts", task(false, 3 * MIB))
      const writer = threads.start<FifoReport>("./worker-fifo.ts", task(true))
      assert.isFalse((await reader.next()).isEnd)
      await reader.worker.terminate()
      host.markGone(Fifo.READER)
      ring(task(true).bells, WRITER_BELL)
      const { bytes, isEnd } = await writer.end()
      assert.isTrue(isEnd)
      assert.isAtLeast(bytes, 3 * MIB)
      assert.isAtMost(host.used, endless.size)
      assert.isTrue(segment.releaseFifo(host))
      assertZeroable(segment)
    })
  )
})

describe("threads and a chunk allocator", () => {
  it(
    "nothing is given twice and nothing is lost",
    { timeout: PATIENCE },
    withThreads(async (threads) => {
      // Too few units for both: many requests get less than they want, or nothing.
      const segment = makeSegment({ size: 48 * 64, unitBytes: 64, maxFifos: 0 })
      const start = new Int32Array(new SharedArrayBuffer(4))
      start[0] = 2
      const ends = [1, 2].map((id) =>
        threads
          .start<ChunkReport>("./worker-chunks.ts", {
            buffer: segment.words.buffer as SharedArrayBuffer,
            id,
            seed: newSeed(),
            operations: 150_000,
            start
          })
          .end()
      )
      for (const { allocated, failed } of await Promise.all(ends)) {
        assert.isAbove(allocated, 10_000)
        assert.isAbove(failed, 0)
      }
      assertNoLeak(segment)
      assert.strictEqual(segment.chunks.bytes(segment.chunks.allocate(32 * 64)), 32 * 64, "all pieces can be joined")
    })
  )
})
