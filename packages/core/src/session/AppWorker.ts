/**
 * A worker of an attached application: what its sessions, half-opens and
 * mapped segments are counted under.
 *
 * @since 0.1.0
 */
import type * as HandleTable from "../runtime/HandleTable.ts"
import type { SegmentUser } from "../segment/SegmentContext.ts"
import type { Segment } from "../segment/SegmentManager.ts"
import type { Session } from "./Session.ts"

/**
 * A worker of an attached application.
 *
 * @category models
 * @since 0.1.0
 */
export class AppWorker implements SegmentUser {
  /** What listings call it: the application's name and the worker's number. */
  readonly name: string
  readonly sessions: Set<Session> = new Set()
  readonly halfOpens: Set<HandleTable.Handle> = new Set()
  readonly segments: Set<Segment> = new Set()

  constructor(name: string) {
    this.name = name
  }

  segmentAdded(segment: Segment): void {
    this.segments.add(segment)
  }

  segmentDeleted(segment: Segment): void {
    this.segments.delete(segment)
  }
}
