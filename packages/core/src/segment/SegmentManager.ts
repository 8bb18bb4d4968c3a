/**
 * The segments of one listener on one server worker: where the FIFOs of the
 * connections it accepts are allocated.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as FifoSegment from "../memory/FifoSegment.ts"
import { MAX_FIFO_BYTES } from "../memory/Fifo.ts"
import type { Mapper, Region, SharedMemory } from "../memory/SharedMemory.ts"
import * as Finalizer from "../runtime/Finalizer.ts"
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
  /** How long a segment is kept when its last connection has gone. Default: not at all. */
  readonly linger?: Duration.Duration | undefined
}

/**
 * A worker of an application that maps segments. Each segment is announced to
 * it once, before anything refers to it, and taken away once.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentUser {
  /** What listings call it. */
  readonly name: string
  /** The thread it lives in. Default: the session layer's own. */
  readonly mapper?: Mapper | undefined
  /** Maps a segment. Throws when it cannot: then no connection of this user is made in it. */
  readonly segmentAdded: (segment: Segment) => void
  /**
   * Unmaps a segment. `acknowledge` is to be called once, when nobody can touch
   * it any more, or is gone who could: its memory serves nobody else before.
   */
  readonly segmentDeleted: (segment: Segment, acknowledge: () => void) => void
}

/**
 * A segment and the scope it lives in: closing the scope deletes the segment,
 * tells its users, and gives its region back once they have all acknowledged
 * that. Nothing else does.
 *
 * @category models
 * @since 0.1.0
 */
export interface Segment {
  /** Its place among the segments of its manager. */
  handle: HandleTable.Handle
  /** What applications know it by: a number that no other segment of the session layer ever has. */
  id: number
  readonly manager: SegmentManager
  readonly region: Region
  readonly fifos: FifoSegment.FifoSegment
  /** Who has been told of it. */
  readonly users: Array<SegmentUser>
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
  /** How its segments are divided. */
  readonly options: FifoSegment.Options
  /** Bytes of memory that a segment of it needs. */
  readonly regionBytes: number
  /** Bytes that are set aside for the FIFOs of one connection. */
  readonly pairBytes: number
  readonly segments: HandleTable.HandleTable<Segment>
  /** Where the bytes are counted that its FIFOs may come to use, until both sides have let go of them. */
  readonly account: Account
  /** Whether its listener has gone: then its segments do not linger. */
  isClosed: boolean
}

/**
 * What the managers of one owner count together.
 *
 * @category models
 * @since 0.1.0
 */
export interface Account {
  fifoMemory: number
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
  properties: Properties,
  account: Account = { fifoMemory: 0 }
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
  const options = segmentOptions(properties)
  return Effect.succeed({
    name,
    properties,
    options,
    regionBytes: FifoSegment.regionBytes(options),
    pairBytes,
    segments: new HandleTable.HandleTable<Segment>(),
    account,
    isClosed: false
  })
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

/** A class, not a literal, as what a segment context keeps of it. */
class MadeSegment implements Segment {
  handle: HandleTable.Handle
  id = 0
  readonly manager: SegmentManager
  readonly region: Region
  readonly fifos: FifoSegment.FifoSegment
  readonly users: Array<SegmentUser> = []
  private readonly memory: SharedMemory["Service"]
  private isDeleted = false
  private madeScope: Scope.Closeable | undefined = undefined

  constructor(manager: SegmentManager, memory: SharedMemory["Service"], region: Region) {
    this.manager = manager
    this.region = region
    this.fifos = fifosIn(region, manager.options)
    this.memory = memory
    this.handle = manager.segments.add(this)
  }

  // Made when it is first asked for: many a segment lives no longer than one connection, and nobody does.
  get scope(): Scope.Closeable {
    if (this.madeScope !== undefined) return this.madeScope
    this.madeScope = Scope.makeUnsafe()
    if (this.isDeleted) Scope.closeUnsafe(this.madeScope, Exit.void)
    else {
      Finalizer.add(this.madeScope, this, () => {
        this.deleteNow()
        return Exit.void
      })
    }
    return this.madeScope
  }

  delete(): Effect.Effect<void> {
    if (this.madeScope !== undefined) return Scope.closeUnsafe(this.madeScope, Exit.void) ?? Exit.void
    if (!this.isDeleted) this.deleteNow()
    return Exit.void
  }

  private deleteNow(): void {
    this.isDeleted = true
    remove(this, this.memory)
  }
}

/**
 * Adds an empty segment in a region of `regionBytes`, which was allocated for
 * the threads of all who will be told of it. It is in the manager until its
 * scope closes.
 *
 * @category operations
 * @since 0.1.0
 */
export const addSegment = (manager: SegmentManager, memory: SharedMemory["Service"], region: Region): Segment =>
  new MadeSegment(manager, memory, region)

/** What the region's last owner has left, if it fits: dividing one anew costs more than most segments live for. */
const fifosIn = (region: Region, options: FifoSegment.Options): FifoSegment.FifoSegment => {
  const { blank, tools } = region
  region.blank = undefined
  region.tools = undefined
  if (blank instanceof FifoSegment.FifoSegment && blank.isLike(options)) return blank
  for (const [start, end] of blank?.touchedRanges() ?? []) region.words.zero(start, end)
  return FifoSegment.make(region.words, options, tools instanceof FifoSegment.FifoSegment ? tools : undefined)
}

const remove = (segment: Segment, memory: SharedMemory["Service"]): void => {
  segment.manager.segments.remove(segment.handle)
  // One more than the users, until all of them are told.
  let waiting = segment.users.length + 1
  for (const user of segment.users) {
    let isAcknowledged = false
    const acknowledge = () => {
      if (isAcknowledged) return
      isAcknowledged = true
      // The last one to acknowledge may do so long after the scope has closed.
      if (--waiting === 0) release(segment, memory)
    }
    try {
      user.segmentDeleted(segment, acknowledge)
    } catch (defect) {
      // The others are told all the same. What this one still maps serves nobody else, unless its thread is gone.
      if (user.mapper?.isGone === true) acknowledge()
      else Effect.runFork(Effect.logError("A user of a segment could not be told that it is gone", defect))
    }
  }
  if (--waiting === 0) release(segment, memory)
}

const release = ({ fifos, region }: Segment, memory: SharedMemory["Service"]): void => {
  // Tables that others can write to are nothing to leave to anybody.
  const isBlank = region.mappers === undefined && fifos.scrub()
  if (isBlank) region.blank = fifos
  // Private to this thread: dividing the memory anew is cheaper with them.
  else region.tools = fifos
  memory.release(region, isBlank ? [] : fifos.touchedRanges())
}

/**
 * Deletes a segment: closes its scope, now. Returns what there is to wait for,
 * if anything.
 *
 * @category operations
 * @since 0.1.0
 */
export const deleteSegment = (segment: Segment): Effect.Effect<void> => (segment as MadeSegment).delete()
