/**
 * Threads, beside the session layer's own, that applications live in.
 *
 * The session layer keeps a session for each side of a connection wherever its
 * application is, and touches no byte of it. What differs for an application in
 * another thread is how segments get there, and how the two sides ring each
 * other; that is here, and what implements it belongs to a platform.
 *
 * @since 0.1.0
 */
import type { Doorbell, LocalDoorbell } from "../memory/Doorbell.ts"
import type { Mapper } from "../memory/SharedMemory.ts"
import type { Segment } from "../segment/SegmentManager.ts"
import type { Session } from "./Session.ts"

/**
 * A thread that applications live in.
 *
 * @category models
 * @since 0.1.0
 */
export interface AppThread extends Mapper {
  /** What listings call it. */
  readonly name: string
  /** Sends it a segment. Throws when that cannot be. */
  readonly segmentAdded: (segment: Segment) => void
  /** Tells it to let go of a segment; `acknowledge` is called when it has, or when it has died. */
  readonly segmentDeleted: (segment: Segment, acknowledge: () => void) => void
  /** A line between two threads, one of which is this one; `undefined` is the session layer's own. */
  readonly line: (client: AppThread | undefined, server: AppThread | undefined) => Line
}

/**
 * How the two sides of one connection ring each other when at least one of them
 * is in another thread.
 *
 * @category models
 * @since 0.1.0
 */
export interface Line {
  /** Where a server in the session layer's thread is rung. */
  readonly server: LocalDoorbell
  /** Where a client in the session layer's thread is rung. */
  readonly client: LocalDoorbell
  /** Makes the server look, from the session layer's thread. */
  readonly toServer: Doorbell
  /** Makes the client look, from the session layer's thread. */
  readonly toClient: Doorbell
  /** One side is there. */
  readonly enter: (session: Session) => void
  /** One side has gone. When both have, the line serves another connection. */
  readonly leave: (session: Session) => void
}

/**
 * The line that a connection between applications of these threads needs, if
 * any.
 *
 * @category constructors
 * @since 0.1.0
 */
export const lineBetween = (client: AppThread | undefined, server: AppThread | undefined): Line | undefined =>
  (client ?? server)?.line(client, server)
