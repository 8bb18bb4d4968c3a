/**
 * How sessions reach their peers: what every transport does, and which ones
 * there are.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type * as Endpoint from "../Endpoint.ts"
import type * as HandleTable from "../runtime/HandleTable.ts"
import type * as SessionError from "../SessionError.ts"
import type { AppListener } from "./AppListener.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { HalfOpen, Request } from "./HalfOpen.ts"
import type { Session } from "./Session.ts"

/**
 * The contract of a transport. Its operations are called by the face, on the
 * host's thread, and return at once unless they are effects.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transport {
  /** What it is called in options and spans: `ct`, `tcp`. */
  readonly name: string
  /** What it is called in listings: `CT`, `TCP`. */
  readonly shortName: string
  /** Whether it may lead to peers that no session table knows. */
  readonly reaches: (remote: Endpoint.Endpoint) => boolean
  /** Takes connections for a listener, beside the session tables. */
  readonly startListen: (listener: AppListener) => Effect.Effect<void, SessionError.SessionError>
  readonly stopListen: (listener: AppListener) => Effect.Effect<void>
  /**
   * Starts a connect and returns the handle of its half-open: `request` is
   * answered exactly once, maybe before this returns, unless the connect is
   * cancelled first. Or returns why there is none: after `LocalConnect` the next
   * transport is asked.
   */
  readonly connect: (
    client: AppWorker,
    remote: Endpoint.Endpoint,
    request: Request
  ) => HandleTable.Handle | SessionError.Reason
  /** Gives up a connect that has no answer; false when it has one. */
  readonly cancel: (halfOpen: HandleTable.Handle, error: SessionError.SessionError) => boolean
  /** Says yes to a session that waits for it; returns why that cannot be any more, or nothing. */
  readonly accept: (session: Session) => SessionError.Reason | undefined
  /**
   * Closes one side: all that was written arrives, then the end. A session that
   * waits to be accepted is refused. One with unread bytes is reset.
   */
  readonly close: (session: Session) => void
  /** Breaks off: the other side is told at once, and what it has not read is lost. */
  readonly reset: (session: Session) => void
  /**
   * The thread of this side has died: the other side is told, reads what was
   * published before, and gets `PeerDied` behind it.
   */
  readonly abandon: (session: Session) => void
  /** Ends the stream of this side behind what was written; reading goes on. */
  readonly halfClose: (session: Session) => void
  /** This side has written, and the other side asked to be told. */
  readonly customTx: (session: Session) => void
  /** This side has read, and the other side asked to be told. */
  readonly appRxEvt: (session: Session) => void
  readonly getSession: (worker: number, handle: HandleTable.Handle) => Session | undefined
  readonly getListener: (handle: HandleTable.Handle) => AppListener | undefined
  readonly getHalfOpen: (handle: HandleTable.Handle) => HalfOpen | undefined
  readonly formatSession: (session: Session) => string
  readonly formatListener: (listener: AppListener) => string
  readonly formatHalfOpen: (halfOpen: HalfOpen) => string
}

/**
 * The transports of a session layer, in the order in which a connect tries
 * them.
 *
 * @category models
 * @since 0.1.0
 */
export class Transports {
  private readonly registered: Array<Transport> = []

  /** Adds a transport behind those that are there; false when its name is taken. */
  register(transport: Transport): boolean {
    if (this.get(transport.name) !== undefined) return false
    this.registered.push(transport)
    return true
  }

  /** Takes a transport out; its sessions live on. */
  unregister(transport: Transport): void {
    const at = this.registered.indexOf(transport)
    if (at >= 0) this.registered.splice(at, 1)
  }

  get(name: string): Transport | undefined {
    return this.registered.find((transport) => transport.name === name)
  }

  /** Whether one of them may lead to peers that no session table knows. */
  reaches(remote: Endpoint.Endpoint): boolean {
    return this.registered.some((transport) => transport.reaches(remote))
  }

  [Symbol.iterator](): IterableIterator<Transport> {
    return this.registered[Symbol.iterator]()
  }
}
