/**
 * An endpoint that an application listens on, and the connections that have
 * arrived there and that nobody has accepted yet.
 *
 * @since 0.1.0
 */
import * as MutableList from "effect/MutableList"
import type * as Endpoint from "../Endpoint.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type { SegmentManager } from "../segment/SegmentManager.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { Session } from "./Session.ts"

/**
 * Why a connect is refused when its listener has gone.
 *
 * @category constants
 * @since 0.1.0
 */
export const NOBODY_LISTENS = "nobody listens there any more"

/**
 * An endpoint that an application listens on.
 *
 * @category models
 * @since 0.1.0
 */
export class AppListener {
  handle: HandleTable.Handle = HandleTable.NONE
  readonly endpoint: Endpoint.Endpoint
  /** Most connections that wait to be accepted. */
  readonly backlogLimit: number
  /** Arrived, established, and not yet accepted, oldest first. */
  readonly backlog: MutableList.MutableList<Session> = MutableList.make()
  /** Fibers that wait for a connection, oldest first. */
  readonly accepters: Array<Waiter> = []
  isClosed = false

  private readonly workers: ReadonlyArray<readonly [AppWorker, SegmentManager]>
  private next = 0

  constructor(
    endpoint: Endpoint.Endpoint,
    backlogLimit: number,
    workers: ReadonlyArray<readonly [AppWorker, SegmentManager]>
  ) {
    this.endpoint = endpoint
    this.backlogLimit = backlogLimit
    this.workers = workers
  }

  /** Why it takes no connection now, or nothing. */
  get refusal(): string | undefined {
    if (this.isClosed) return NOBODY_LISTENS
    if (this.accepters.length > 0 || this.backlog.length < this.backlogLimit) return undefined
    return `${this.backlog.length} connections wait to be accepted there already`
  }

  /** The application's worker that serves the next connection, in turn, and where its FIFOs come from. */
  selectWorker(): readonly [AppWorker, SegmentManager] {
    const selected = this.workers[this.next]
    this.next = (this.next + 1) % this.workers.length
    return selected
  }
}
