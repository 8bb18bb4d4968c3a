/**
 * Leases: taken for both sides of a connection and released, in a segment that others keep, and in one of its own.
 */
import { Effect } from "effect"
import * as SharedMemory from "../src/memory/SharedMemory.ts"
import * as Lock from "../src/runtime/Lock.ts"
import * as SegmentContext from "../src/segment/SegmentContext.ts"
import * as SegmentManager from "../src/segment/SegmentManager.ts"
import * as SessionError from "../src/SessionError.ts"
import type { Operation } from "./operations.ts"

const FIFO_BYTES = 65_536

const userOf = (name: string): SegmentManager.SegmentUser => ({
  name,
  segmentAdded: () => {},
  segmentDeleted: (_, acknowledge) => acknowledge()
})

const take = (contexts: SegmentContext.SegmentContext["Service"], request: SegmentContext.Request) => {
  const leases = contexts.tryAcquire(request)
  if (leases === undefined || leases instanceof SessionError.SessionError) throw new Error("no leases could be taken")
  return leases
}

const make = (name: string, isKept: boolean): Operation => {
  const request = Effect.map(
    SegmentManager.make("bench", { segmentSize: 64 * FIFO_BYTES, rxFifoSize: FIFO_BYTES, txFifoSize: FIFO_BYTES }),
    (manager) => ({ manager, client: userOf("client"), server: userOf("server") })
  )
  const { contexts, wanted } = Effect.runSync(
    Effect.all({ contexts: SegmentContext.make, wanted: request }).pipe(
      Effect.provide(SharedMemory.layer),
      Effect.provide(Lock.layer)
    )
  )
  if (isKept) take(contexts, wanted)
  return {
    name,
    run: (times) => {
      for (let i = 0; i < times; i++) {
        const { client, server } = take(contexts, wanted)
        contexts.release(client)
        contexts.release(server)
      }
      const { leases } = contexts.stats()
      if (leases !== (isKept ? 2 : 0)) throw new Error(`${leases} leases are left`)
    }
  }
}

export const leases = (): ReadonlyArray<Operation> => [make("lease-shared", true), make("lease-own-segment", false)]
