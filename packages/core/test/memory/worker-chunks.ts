/** Takes chunks and gives them back, with a stamp in each unit that nobody else may overwrite. */
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { parentPort, workerData } from "node:worker_threads"
import { type ChunkReport, type ChunkTask, random } from "./threads.ts"

const { buffer, id, operations, seed, start } = workerData as ChunkTask

const segment = FifoSegment.attach(new SharedWords(buffer))
if (segment === undefined) throw new Error("no segment")
const { chunks } = segment
const words = new Int32Array(buffer)

const next = random(seed)
const held: Array<{ readonly chunk: number; readonly stamp: number }> = []
const MOST_HELD = 20

let allocated = 0
let failed = 0

/** First and last word of each unit of a chunk. */
const stamps = function* (chunk: number): Generator<number> {
  const from = chunks.offset(chunk) / 4
  const unit = chunks.unitBytes / 4
  for (let at = from; at < from + chunks.bytes(chunk) / 4; at += unit) {
    yield at
    yield at + unit - 1
  }
}

const take = (): void => {
  const units = 1 + next(next(4) === 0 ? 16 : 3)
  const chunk = chunks.allocate(units * chunks.unitBytes)
  if (chunk < 0) {
    failed++
    return
  }
  const stamp = id * 2 ** 28 + ++allocated
  for (const word of stamps(chunk)) words[word] = stamp
  held.push({ chunk, stamp })
}

const giveBack = (): void => {
  const [{ chunk, stamp }] = held.splice(next(held.length), 1)
  for (const word of stamps(chunk)) {
    if (words[word] !== stamp) {
      throw new Error(`chunk ${chunk} has stamp ${words[word]} in word ${word}, should be ${stamp}, seed ${seed}`)
    }
  }
  if (!chunks.release(chunk)) throw new Error(`chunk ${chunk} was not released, seed ${seed}`)
}

Atomics.add(start, 0, -1)
Atomics.notify(start, 0)
for (let left = Atomics.load(start, 0); left > 0; left = Atomics.load(start, 0)) Atomics.wait(start, 0, left)

for (let i = 0; i < operations; i++) {
  if (held.length === MOST_HELD || (held.length > 0 && next(2) === 0)) giveBack()
  else take()
}
while (held.length > 0) giveBack()
parentPort!.postMessage({ allocated, failed } satisfies ChunkReport)
