/**
 * The segments of one listener on one server worker: where the FIFOs of the
 * connections it accepts are allocated.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as FifoSegment from "../memory/FifoSegment.ts"
import { MAX_FIFO_BYTES } from "../memory/Fifo.ts"
import { type Region, SharedMemory } from "../memory/SharedMemory.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import * as SessionError from "../SessionError.ts"

/**
 * Sizes in bytes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Properties {
  /** Bytes for chunks in one segment. */
  readonly segmentSize: number
  /** Most bytes on their way to the server in one connection. */
  readonly rxFifoSize: number
  /** Most bytes on their way to the client in one connection. */
  readonly txFifoSize: number
}

/**
 * A segment and the scope it lives in: closing the scope deletes the segment
 * and gives its region back. Nothing else does.
 *
 * @category models
 * @since 0.1.0
 */
export interface Segment {
  handle: HandleTable.Handle
  readonly manager: SegmentManager
  readonly region: Region
  readonly fifos: FifoSegment.FifoSegment
  readonly scope: Scope.Closeable
}

/**
 * The segments of one listener on one server worker.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentManager {
  /** What its listener is called, for listings. */
  readonly name: string
  readonly properties: Properties
  readonly segments: HandleTable.HandleTable<Segment>
}

/**
 * A manager without segments. Fails with `InvalidArgument` when a FIFO pair of
 * these sizes could never fit in a segment of this size: nothing would be
 * refused later that could have been refused now.
 *
 * **Example** (Sizes that cannot work)
 *
 * ```ts
 * import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
 * import { Effect } from "effect"
 *
 * const error = await Effect.runPromise(Effect.flip(
 *   SegmentManager.make("example", { segmentSize: 65536, rxFifoSize: 65536, txFifoSize: 65536 })
 * ))
 * error.reason._tag // => "InvalidArgument"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  name: string,
  properties: Properties
): Effect.Effect<SegmentManager, SessionError.SessionError> => {
  for (const key of ["rxFifoSize", "txFifoSize"] as const) {
    const size = properties[key]
    if (!Number.isInteger(size) || size < 1 || size > MAX_FIFO_BYTES) {
      return invalid(key, size, `1 to ${MAX_FIFO_BYTES} bytes`)
    }
  }
  const pairBytes = FifoSegment.pairBytes(properties.rxFifoSize, properties.txFifoSize)
  if (!Number.isInteger(properties.segmentSize) || properties.segmentSize < pairBytes) {
    return invalid("segmentSize", properties.segmentSize, `at least ${pairBytes} bytes, to hold one pair of FIFOs`)
  }
  return Effect.succeed({ name, properties, segments: new HandleTable.HandleTable<Segment>() })
}

const invalid = (what: string, value: number, expected: string) =>
  Effect.fail(SessionError.make(new SessionError.InvalidArgument({ what, value: String(value), expected })))

/**
 * How a segment of these sizes is divided: it never holds more FIFOs than can
 * all grow to their full size.
 *
 * @category sizing
 * @since 0.1.0
 */
export const segmentOptions = (properties: Properties): FifoSegment.Options => ({
  size: properties.segmentSize,
  maxFifos: 2 * FifoSegment.pairsPerSegment(properties.segmentSize, properties.rxFifoSize, properties.txFifoSize)
})

/**
 * Adds an empty segment. It is in the manager until its scope closes.
 *
 * @category operations
 * @since 0.1.0
 */
export const addSegment = (manager: SegmentManager): Effect.Effect<Segment, SessionError.SessionError, SharedMemory> =>
  Effect.flatMap(SharedMemory, (memory) => {
    const options = segmentOptions(manager.properties)
    return Effect.flatMap(memory.allocate(FifoSegment.regionBytes(options)), (region) => {
      const fifos = FifoSegment.make(region.words, options)
      const scope = Scope.makeUnsafe()
      const segment: Segment = { handle: HandleTable.NONE, manager, region, fifos, scope }
      segment.handle = manager.segments.add(segment)
      const remove = Effect.suspend(() => {
        manager.segments.remove(segment.handle)
        return memory.release(region, fifos.touchedRanges())
      })
      return Effect.as(Scope.addFinalizer(scope, remove), segment)
    })
  })

/**
 * Deletes a segment: closes its scope.
 *
 * @category operations
 * @since 0.1.0
 */
export const deleteSegment = (segment: Segment): Effect.Effect<void> => Scope.close(segment.scope, Exit.void)
