/**
 * An endpoint that an application listens on, the workers that serve it, and
 * the connections that have arrived there and that nobody has accepted yet.
 *
 * @since 0.1.0
 */
import type * as Endpoint from "../Endpoint.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type { SegmentManager } from "../segment/SegmentManager.ts"
import type { App } from "./App.ts"
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
 * Who says yes to a connection: the listener, as soon as there is room in its
 * backlog, or the application, one by one.
 *
 * @category models
 * @since 0.1.0
 */
export type Approval = "listener" | "application"

/**
 * Connections that wait to be accepted, and fibers that wait for connections.
 *
 * @category models
 * @since 0.1.0
 */
export class AcceptQueue {
  /** Most connections that wait. */
  readonly limit: number
  /** Fibers that wait for a connection, oldest first. */
  readonly accepters: Array<Waiter> = []
  isClosed = false
  private readonly app: App
  // Oldest first from `first` on, with holes where a client has left.
  private waiting: Array<Session | undefined> = []
  private first = 0
  private count = 0

  constructor(app: App, limit: number) {
    this.app = app
    this.limit = limit
  }

  /** Connections that wait. */
  get length(): number {
    return this.count
  }

  add(session: Session): void {
    session.queue = this
    session.queuePlace = this.waiting.length
    this.waiting.push(session)
    this.count++
    this.app.unaccepted++
  }

  /** The one that has waited longest. */
  take(): Session | undefined {
    while (this.first < this.waiting.length) {
      const session = this.waiting[this.first++]
      if (session === undefined) continue
      this.remove(session)
      return session
    }
    return undefined
  }

  /** Takes one out; false when it was not (any more) there. */
  remove(session: Session): boolean {
    if (session.queue !== this) return false
    session.queue = undefined
    this.waiting[session.queuePlace] = undefined
    this.count--
    this.app.unaccepted--
    if (this.count === 0) {
      while (this.waiting.length > 0) this.waiting.pop()
      this.first = 0
    } else if (this.waiting.length > 2 * this.count + 32) this.compact()
    return true
  }

  private compact(): void {
    this.waiting = this.waiting.filter((session) => session !== undefined)
    this.first = 0
    for (const [place, session] of this.waiting.entries()) session!.queuePlace = place
  }

  /** Why it takes no connection now, or nothing. */
  get refusal(): string | undefined {
    if (this.isClosed) return NOBODY_LISTENS
    if (this.count < this.limit || this.accepters.length > 0) return undefined
    return `${this.count} connections wait to be accepted there already`
  }
}

/**
 * A worker that serves a listener, where the FIFOs of its connections come
 * from, and where they wait to be accepted.
 *
 * @category models
 * @since 0.1.0
 */
export interface Server {
  readonly worker: AppWorker
  readonly manager: SegmentManager
  readonly queue: AcceptQueue
}

/**
 * An endpoint that an application listens on.
 *
 * @category models
 * @since 0.1.0
 */
export class AppListener {
  handle: HandleTable.Handle = HandleTable.NONE
  readonly app: App
  readonly endpoint: Endpoint.Endpoint
  readonly approval: Approval
  /** Whether it takes every connect of its family that no other listener takes. */
  readonly isProxy: boolean
  isClosed = false
  private readonly serving: Array<Server> = []
  private next = 0

  constructor(
    app: App,
    endpoint: Endpoint.Endpoint,
    options: { readonly approval: Approval; readonly isProxy: boolean }
  ) {
    this.app = app
    this.endpoint = endpoint
    this.approval = options.approval
    this.isProxy = options.isProxy
  }

  /** The workers that serve it. */
  get servers(): ReadonlyArray<Server> {
    return this.serving
  }

  addServer(server: Server): void {
    this.serving.push(server)
  }

  /** Takes out the workers whose connections wait in this queue, and returns them. */
  removeServers(queue: AcceptQueue): ReadonlyArray<Server> {
    const removed = this.serving.filter((server) => server.queue === queue)
    for (const server of removed) this.serving.splice(this.serving.indexOf(server), 1)
    this.next = 0
    return removed
  }

  /** The application's worker that serves the next connection, in turn, or why none does. */
  selectServer(): Server | string {
    if (this.isClosed) return NOBODY_LISTENS
    let why: string | undefined
    for (let tries = this.serving.length; tries > 0; tries--) {
      const server = this.serving[this.next]
      this.next = (this.next + 1) % this.serving.length
      const refusal = this.whyNot(server)
      if (refusal === undefined) return server
      why ??= refusal
    }
    return why ?? NOBODY_LISTENS
  }

  /** Why this worker takes no connection now that needs so many bytes more, or nothing. */
  whyNot({ manager, queue }: Server, bytes: number = manager.pairBytes): string | undefined {
    return queue.refusal ?? this.app.whyNotAccept(bytes)
  }
}
