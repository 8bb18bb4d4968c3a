/**
 * An attached application: what it may reach, what it may hold, and what it
 * holds.
 *
 * @since 0.1.0
 */
import { Feed } from "../runtime/Feed.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import * as SegmentManager from "../segment/SegmentManager.ts"
import * as SessionError from "../SessionError.ts"
import type { AppEvent } from "./AppEvent.ts"
import type { AppListener } from "./AppListener.ts"
import type { AppThread } from "./AppThread.ts"
import { AppWorker } from "./AppWorker.ts"
import type { Namespace } from "./Namespace.ts"

/**
 * How far an application reaches: its namespace's local session table, the
 * global one, or both, local first.
 *
 * @category models
 * @since 0.1.0
 */
export type AppScope = "local" | "global" | "both"

/**
 * The most that an application may hold at once.
 *
 * @category models
 * @since 0.1.0
 */
export interface Quotas {
  /** Bytes that the FIFOs of the connections it serves may come to use. */
  readonly maxFifoMemory: number
  /** Sessions, those of connects under way among them. */
  readonly maxSessions: number
  /** Connects under way. */
  readonly maxHalfOpens: number
  /** Connections it has not accepted, and events it has not read. Past it, new connections are refused. */
  readonly maxPending: number
}

/**
 * An attached application.
 *
 * @category models
 * @since 0.1.0
 */
export class App {
  handle: HandleTable.Handle = HandleTable.NONE
  readonly name: string
  readonly namespace: Namespace
  readonly scope: AppScope
  readonly properties: SegmentManager.Properties
  readonly quotas: Quotas
  /** The thread it lives in; `undefined` is the session layer's own. */
  readonly thread: AppThread | undefined
  readonly workers: ReadonlyArray<AppWorker>
  readonly listeners: Set<AppListener> = new Set()
  /** What it is told, while somebody subscribes. */
  readonly events: Feed<AppEvent> = new Feed()
  isDetached = false
  /** Sessions of all its workers. */
  sessions = 0
  /** Connects under way of all its workers. */
  halfOpens = 0
  /** Bytes that the FIFOs of the connections it serves may come to use, until both sides have let go of them. */
  fifoMemory = 0
  /** Connections that have arrived and that it has not accepted. */
  unaccepted = 0
  private readonly notifying: (what: string) => void

  constructor(options: {
    readonly name: string
    readonly namespace: Namespace
    readonly scope: AppScope
    readonly properties: SegmentManager.Properties
    readonly quotas: Quotas
    readonly workers: number
    readonly thread?: AppThread | undefined
    /** Called before the application is told something, with what. */
    readonly notifying: (what: string) => void
  }) {
    this.name = options.name
    this.namespace = options.namespace
    this.scope = options.scope
    this.properties = options.properties
    this.quotas = options.quotas
    this.thread = options.thread
    this.notifying = options.notifying
    const workers: Array<AppWorker> = []
    for (let index = 0; index < options.workers; index++) workers.push(new AppWorker(this, index))
    this.workers = workers
  }

  /** Whether anybody would see an event. To be asked before making one. */
  get isObserved(): boolean {
    return this.events.isObserved && !this.isDetached
  }

  /** Tells the application, if it listens. */
  tell(event: AppEvent): void {
    this.notifying(event._tag)
    this.events.offer(event)
  }

  /** Whether it is behind with what it has been told. */
  get isCongested(): boolean {
    return this.unaccepted + this.events.unread >= this.quotas.maxPending
  }

  /** Why it may not start a connect now, or nothing. */
  whyNotConnect(): SessionError.Reason | undefined {
    const { maxHalfOpens, maxPending, maxSessions } = this.quotas
    if (this.isDetached) return new SessionError.Closed({ what: "application" })
    if (this.halfOpens >= maxHalfOpens) return this.exceeded("maxHalfOpens", maxHalfOpens, "connects under way")
    if (this.sessions + this.halfOpens >= maxSessions) return this.exceeded("maxSessions", maxSessions, "sessions")
    if (this.isCongested) return this.exceeded("maxPending", maxPending, "unaccepted connections and unread events")
    return undefined
  }

  /** Why it takes no connection now, or nothing. */
  whyNotAccept(pairBytes: number): string | undefined {
    const { maxFifoMemory, maxSessions } = this.quotas
    // On its way out: its listeners will be closed one after the other.
    if (this.isDetached) return "its application is detaching"
    // A connect under way will have its session: what arrives meanwhile must not take its place.
    if (this.sessions + this.halfOpens >= maxSessions) return "its application has as many sessions as it may have"
    if (this.fifoMemory + pairBytes > maxFifoMemory) {
      return "its application has as much FIFO memory as it may have"
    }
    if (this.isCongested) return "its application has too much to accept and to read already"
    return undefined
  }

  private exceeded(quota: string, limit: number, what: string): SessionError.QuotaExceeded {
    return new SessionError.QuotaExceeded({ app: this.name, quota, limit, what })
  }
}
