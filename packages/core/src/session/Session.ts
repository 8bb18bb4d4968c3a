/**
 * One side of a connection, as the session layer sees it.
 *
 * A session belongs to a worker: only calls on that worker's queue change its
 * state. Its bytes are not here but in the two FIFOs it refers to.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import type * as Endpoint from "../Endpoint.ts"
import type { LocalDoorbell } from "../memory/Doorbell.ts"
import type { Fifo } from "../memory/Fifo.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Lease, Side } from "../segment/SegmentContext.ts"
import type { AppWorker } from "./AppWorker.ts"

/**
 * Where a session is in its life. The names and their order are those of VPP's
 * session layer: everything from `transport-closing` on is on its way out.
 *
 * @category models
 * @since 0.1.0
 */
export type State =
  | "created"
  | "listening"
  | "connecting"
  | "accepting"
  | "ready"
  | "opened"
  | "transport-closing"
  | "closing"
  | "app-closed"
  | "transport-closed"
  | "closed"
  | "transport-deleted"

const transitions: { readonly [S in State]: ReadonlyArray<State> } = {
  created: ["listening", "connecting", "accepting", "closed"],
  listening: ["closed"],
  connecting: ["ready", "closed"],
  accepting: ["ready", "transport-closing", "closing", "transport-deleted"],
  ready: ["opened", "transport-closing", "closing", "transport-closed"],
  opened: ["transport-closing", "closing", "transport-closed"],
  "transport-closing": ["closing", "transport-closed", "transport-deleted"],
  closing: ["app-closed", "transport-closed", "transport-deleted"],
  "app-closed": ["closed", "transport-deleted"],
  "transport-closed": ["closed", "transport-deleted"],
  closed: ["transport-deleted"],
  "transport-deleted": ["closed"]
}

/**
 * The defect of a session that was asked to go where it cannot go from where
 * it is.
 *
 * @category errors
 * @since 0.1.0
 */
export class IllegalTransition extends Data.TaggedError("IllegalTransition")<{
  readonly from: State
  readonly to: State
}> {
  override get message(): string {
    return `a session in state ${this.from} cannot become ${this.to}`
  }
}

/**
 * Which session, in which worker.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionId {
  readonly worker: number
  readonly handle: HandleTable.Handle
}

/**
 * One side of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly side: Side
  readonly worker: number
  handle: HandleTable.Handle
  state: State
  readonly app: AppWorker
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  readonly rx: Fifo
  readonly tx: Fifo
  readonly lease: Lease
  /** Rings the other side. */
  readonly peerDoorbell: LocalDoorbell
  /** Rung by the other side. */
  readonly doorbell: LocalDoorbell
  peer: SessionId
  /** Called once when this side closes, before its FIFOs are given up. */
  onClosing: (() => void) | undefined
}

/**
 * Moves a session to its next state; throws {@link IllegalTransition} when
 * there is no way from the state it is in.
 *
 * @category operations
 * @since 0.1.0
 */
export const transition = (session: Session, to: State): void => {
  if (!transitions[session.state].includes(to)) throw new IllegalTransition({ from: session.state, to })
  session.state = to
}

/**
 * The id that belongs to no session.
 *
 * @category constants
 * @since 0.1.0
 */
export const NO_SESSION: SessionId = { worker: 0, handle: HandleTable.NONE }
