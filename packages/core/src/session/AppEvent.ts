/**
 * What an application is told, for those who subscribe.
 *
 * In this order: `SegmentAdded` before the first `Accepted` or `Connected` in
 * that segment; `Disconnected` or `Reset` when all bytes that the other side has
 * published can be read; `CleanupTransport` before `CleanupSession`; nothing of
 * a session after its `CleanupSession`; `SegmentDeleted` after the
 * `CleanupSession` of the last session in that segment; nothing after the
 * application has detached.
 *
 * @since 0.1.0
 */
import type * as Endpoint from "../Endpoint.ts"
import type * as HandleTable from "../runtime/HandleTable.ts"
import type * as SessionError from "../SessionError.ts"
import type { SessionId } from "./Session.ts"

interface Event<Tag extends string> {
  readonly _tag: Tag
  /** The application's worker it concerns. */
  readonly worker: string
}

/**
 * A segment was mapped.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentAdded extends Event<"SegmentAdded"> {
  readonly listener: string
  readonly segment: number
  readonly size: number
}

/**
 * A segment was unmapped.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentDeleted extends Event<"SegmentDeleted"> {
  readonly listener: string
  readonly segment: number
}

/**
 * A connection has arrived at a listener.
 *
 * @category models
 * @since 0.1.0
 */
export interface Accepted extends Event<"Accepted"> {
  readonly session: SessionId
  readonly listener: Endpoint.Endpoint
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  readonly segment: number
}

/**
 * The one answer to a connect: a session, or why there is none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Connected extends Event<"Connected"> {
  readonly halfOpen: HandleTable.Handle
  readonly remote: Endpoint.Endpoint
  readonly result:
    | { readonly _tag: "Success"; readonly session: SessionId; readonly segment: number }
    | { readonly _tag: "Failure"; readonly error: SessionError.SessionError }
}

/**
 * The other side has closed: what it wrote is there, then comes the end.
 *
 * @category models
 * @since 0.1.0
 */
export interface Disconnected extends Event<"Disconnected"> {
  readonly session: SessionId
}

/**
 * The other side has broken off.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reset extends Event<"Reset"> {
  readonly session: SessionId
}

/**
 * A connect is over, and its half-open gone.
 *
 * @category models
 * @since 0.1.0
 */
export interface HalfOpenCleanup extends Event<"HalfOpenCleanup"> {
  readonly halfOpen: HandleTable.Handle
}

/**
 * The transport has nothing more to do with a session.
 *
 * @category models
 * @since 0.1.0
 */
export interface CleanupTransport extends Event<"CleanupTransport"> {
  readonly session: SessionId
}

/**
 * A session is gone.
 *
 * @category models
 * @since 0.1.0
 */
export interface CleanupSession extends Event<"CleanupSession"> {
  readonly session: SessionId
}

/**
 * What an application is told.
 *
 * @category models
 * @since 0.1.0
 */
export type AppEvent =
  | SegmentAdded
  | SegmentDeleted
  | Accepted
  | Connected
  | Disconnected
  | Reset
  | HalfOpenCleanup
  | CleanupTransport
  | CleanupSession
