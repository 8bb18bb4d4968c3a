/**
 * How late a timer of one millisecond is, in a thread that also streams bytes as fast as it can.
 */
import { Effect } from "effect"
import { type Case, type Leg, quantile, sampleOf } from "./model.ts"
import * as Streams from "./streams.ts"

const BYTES = 65_536
/** What a clock cannot tell from no lateness. */
const LEAST_MILLIS = 0.01

const legOf =
  (stream: Streams.Stream): Leg =>
  async (writes, isVerified) => {
    const { from, late, to } = await stream.bulk(
      { bytes: BYTES, writes, isVerified, isAnyAlignment: false },
      { watches: true }
    )
    return sampleOf(from, to, writes, () => [Math.max(LEAST_MILLIS, quantile(late, 0.99))])
  }

const caseOf = (name: string, open: typeof Streams.inThreads): Case => ({
  rows: [{ name, unit: "ms" }],
  peers: ["tcp"],
  operation: "write",
  least: 512,
  most: 65_536,
  open: (ways) => Effect.map(open(ways), (streams) => Object.fromEntries(ways.map((way) => [way, legOf(streams[way])])))
})

export const cases: ReadonlyArray<Case> = [
  caseOf("fairness-fiber", Streams.inFibers),
  caseOf("fairness-thread", Streams.inThreads)
]
