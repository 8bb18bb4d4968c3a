/**
 * A worker of an attached application: what its sessions, half-opens and
 * mapped segments are counted under.
 *
 * @since 0.1.0
 */
import type { Mapper } from "../memory/SharedMemory.ts"
import type { Segment, SegmentUser } from "../segment/SegmentManager.ts"
import type { App } from "./App.ts"
import type { Session } from "./Session.ts"

/**
 * A worker of an attached application.
 *
 * @category models
 * @since 0.1.0
 */
export class AppWorker implements SegmentUser {
  readonly app: App
  readonly index: number
  /** What listings call it: the application's name and the worker's number. */
  readonly name: string
  /** The thread that maps its segments; `undefined` is the session layer's own. */
  readonly mapper: Mapper | undefined
  readonly sessions: Array<Session> = []
  readonly segments: Array<Segment> = []

  constructor(app: App, index: number) {
    this.app = app
    this.index = index
    this.name = `${app.name}/${index}`
    this.mapper = app.thread
  }

  addSession(session: Session): void {
    session.place = this.sessions.length
    this.sessions.push(session)
    this.app.sessions++
  }

  /** The last one takes its place, so that leaving costs the same however many there are. */
  removeSession(session: Session): void {
    const last = this.sessions.pop()!
    if (last !== session) {
      this.sessions[session.place] = last
      last.place = session.place
    }
    this.app.sessions--
  }

  segmentAdded(segment: Segment): void {
    this.app.thread?.segmentAdded(segment)
    this.segments.push(segment)
    if (!this.app.isObserved) return
    this.app.tell({
      _tag: "SegmentAdded",
      worker: this.name,
      listener: segment.manager.name,
      segment: segment.id,
      size: segment.fifos.size
    })
  }

  segmentDeleted(segment: Segment, acknowledge: () => void): void {
    // Often the last one, and then it costs nothing.
    if (this.segments.at(-1) === segment) this.segments.pop()
    else this.segments.splice(this.segments.indexOf(segment), 1)
    if (this.app.isObserved) {
      this.app.tell({
        _tag: "SegmentDeleted",
        worker: this.name,
        listener: segment.manager.name,
        segment: segment.id
      })
    }
    // In this thread, whoever could touch it has closed.
    if (this.app.thread === undefined) acknowledge()
    else this.app.thread.segmentDeleted(segment, acknowledge)
  }
}
