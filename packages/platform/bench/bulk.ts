/**
 * Streams of bytes: gigabytes a second, by the size of a write.
 */
import { Effect } from "effect"
import { type Case, type Leg, sampleOf, withFibers } from "./model.ts"
import * as Streams from "./streams.ts"

interface Size {
  readonly name: string
  readonly bytes: number
  readonly isAnyAlignment?: boolean
}

const KIBI = 1024

const legOf =
  (stream: Streams.Stream, { bytes, isAnyAlignment = false }: Size): Leg =>
  async (writes, isVerified) => {
    const { from, to } = await stream.bulk({ bytes, writes, isVerified, isAnyAlignment })
    return sampleOf(from, to, writes, (nanos) => [(bytes * writes) / nanos])
  }

const caseOf = (
  place: "fiber" | "thread",
  open: typeof Streams.inThreads,
  size: Size,
  peers: ReadonlyArray<string>
): Case => ({
  rows: [{ name: `bulk-${place}-${size.name}`, unit: "GB/s" }],
  peers,
  operation: "write",
  least: Math.max(4, 2 ** 18 / size.bytes),
  most: Math.ceil(2 ** 32 / size.bytes),
  open: (ways) =>
    Effect.map(open(ways), (streams) =>
      Object.fromEntries(Object.entries(streams).map(([way, stream]) => [way, legOf(stream, size)]))
    )
})

const SIZES: ReadonlyArray<Size> = [
  { name: "64B", bytes: 64 },
  { name: "1KiB", bytes: KIBI },
  { name: "16KiB", bytes: 16 * KIBI },
  { name: "64KiB", bytes: 64 * KIBI },
  { name: "1MiB", bytes: KIBI * KIBI }
]

const betweenThreads = SIZES.map((size) =>
  caseOf("thread", Streams.inThreads, size, ["tcp", "unix", "messageport", "ceiling"])
)

export const cases: ReadonlyArray<Case> = [
  ...betweenThreads,
  ...[0, 3].map((at) => withFibers(betweenThreads[at], ["tcp"])),
  caseOf("thread", Streams.inThreads, { name: "64KiB-anyalign", bytes: 64 * KIBI, isAnyAlignment: true }, ["tcp"]),
  ...[SIZES[1], SIZES[3]].map((size) => caseOf("fiber", Streams.inFibers, size, ["tcp", "duplexpair"]))
]
