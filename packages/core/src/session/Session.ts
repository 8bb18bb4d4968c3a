/**
 * One side of a connection, as the session layer sees it.
 *
 * A session belongs to a worker: only calls on that worker's queue change its
 * state. Its bytes are not here but in the two FIFOs it refers to.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Endpoint from "../Endpoint.ts"
import type { Doorbell, LocalDoorbell } from "../memory/Doorbell.ts"
import type { Fifo } from "../memory/Fifo.ts"
import type { Feed } from "../runtime/Feed.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Lease, Leases, Side } from "../segment/SegmentContext.ts"
import type { AcceptQueue } from "./AppListener.ts"
import type { Line } from "./AppThread.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { Dial, HalfOpen } from "./HalfOpen.ts"
import type { Transport } from "./Transport.ts"
import type * as SessionError from "../SessionError.ts"

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

const order = Object.keys(transitions) as ReadonlyArray<State>

/** The place of a state in their order. Written out, because comparing a few pointers is faster than any look-up by name. */
const placeOf = (state: State): number => {
  switch (state) {
    case "created":
      return 0
    case "listening":
      return 1
    case "connecting":
      return 2
    case "accepting":
      return 3
    case "ready":
      return 4
    case "opened":
      return 5
    case "transport-closing":
      return 6
    case "closing":
      return 7
    case "app-closed":
      return 8
    case "transport-closed":
      return 9
    case "closed":
      return 10
    case "transport-deleted":
      return 11
  }
}

/** By place: the places that can follow, as bits. */
const ways = order.map((from) => transitions[from].reduce((bits, to) => bits | (1 << placeOf(to)), 0))

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
 * A session that went from one state to another.
 *
 * @category models
 * @since 0.1.0
 */
export interface Change {
  readonly session: Session
  readonly from: State
  readonly to: State
}

/**
 * The way of the bytes: `fiber` is shared memory between fibers of one thread,
 * `thread` the same between two threads, `tcp` a connection to another process
 * or host.
 *
 * @category models
 * @since 0.1.0
 */
export type Path = "fiber" | "thread" | "tcp"

/**
 * A session as its application has it, in whichever thread that is: all that a
 * connection needs to know of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface AppSession {
  readonly side: Side
  readonly path: Path
  readonly state: State
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  readonly rx: Fifo
  readonly tx: Fifo
  /** Rung by the other side. */
  readonly doorbell: LocalDoorbell
  /** Whether its own side has closed it. */
  readonly isClosing: boolean
  /** Told once when this side closes, before its FIFOs are given up. */
  owner: { readonly onClosing: () => void } | undefined
  /** Called once when nothing of it is left. */
  onClosed: (() => void) | undefined
  /** This side has written, and the other side asked to be told. */
  readonly customTx: () => void
  /** This side has read, and the other side asked to be told. */
  readonly appRxEvt: () => void
  /** Ends the stream of this side behind what was written. */
  readonly halfClose: () => void
  /** Closes this side: all that was written arrives, then the end. With unread bytes it is a reset. */
  readonly close: () => void
  /** Breaks off. */
  readonly reset: () => void
  /** What listings call it. */
  readonly format: () => string
}

/**
 * One side of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export class Session implements AppSession {
  readonly side: Side
  readonly worker: number
  handle: HandleTable.Handle = HandleTable.NONE
  state: State = "created"
  readonly app: AppWorker
  readonly transport: Transport
  /** The listener it has come through; `NONE` for a client's. */
  readonly listener: HandleTable.Handle
  readonly rx: Fifo
  readonly tx: Fifo
  readonly lease: Lease
  /** Rung by the other side. */
  readonly doorbell: LocalDoorbell
  /** Rings the other side, from the session layer's thread. */
  readonly peerDoorbell: Doorbell
  /** What it shares with the other side when one of them is in another thread. */
  readonly line: Line | undefined
  /** The other side, from when both are there until one of them is gone. */
  peer: Session | undefined = undefined
  /** The connect it belongs to, until it is accepted; `NONE` after. */
  halfOpen: HandleTable.Handle = HandleTable.NONE
  /** Its place among the sessions of its application's worker. */
  place = 0
  /** Where it waits to be accepted, as long as it does, and its place there. */
  queue: AcceptQueue | undefined = undefined
  queuePlace = 0
  /** Whether this side has ended its stream. */
  isTxEnded = false
  /** Whether the other side has ended its stream. */
  isRxEnded = false
  /** Whether this side has closed by breaking off. */
  isReset = false
  /** Why its application says no, for the client; set before it does, if it has more to say than that. */
  refusal: SessionError.SessionError | undefined = undefined
  /** Told once when this side closes, before its FIFOs are given up. */
  owner: { readonly onClosing: () => void } | undefined = undefined
  /** Called once when nothing of it is left. */
  onClosed: (() => void) | undefined = undefined
  /** Its addresses. */
  readonly dial: Dial
  private readonly changes: Feed<Change>

  constructor(
    side: Side,
    transport: Transport,
    halfOpen: HalfOpen,
    app: AppWorker,
    leases: Leases,
    doorbell: LocalDoorbell,
    peerDoorbell: Doorbell,
    line: Line | undefined,
    changes: Feed<Change>
  ) {
    const isClient = side === "client"
    this.side = side
    this.worker = halfOpen.worker
    this.app = app
    this.transport = transport
    this.listener = isClient ? HandleTable.NONE : halfOpen.listener
    this.dial = halfOpen.dial
    this.rx = isClient ? leases.tx : leases.rx
    this.tx = isClient ? leases.rx : leases.tx
    this.lease = isClient ? leases.client : leases.server
    this.doorbell = doorbell
    this.peerDoorbell = peerDoorbell
    this.line = line
    this.changes = changes
  }

  get id(): SessionId {
    return { worker: this.worker, handle: this.handle }
  }

  get path(): Path {
    return this.dial.path ?? (this.line === undefined ? "fiber" : "thread")
  }

  get local(): Endpoint.Endpoint {
    return this.side === "client" ? this.dial.client : this.dial.server
  }

  get remote(): Endpoint.Endpoint {
    return this.side === "client" ? this.dial.server : this.dial.client
  }

  /**
   * Moves it to its next state; throws {@link IllegalTransition} when there is
   * no way from the state it is in.
   */
  become(to: State): void {
    const from = this.state
    if ((ways[placeOf(from)] & (1 << placeOf(to))) === 0) throw new IllegalTransition({ from, to })
    this.state = to
    if (this.changes.isObserved) this.changes.offer({ session: this, from, to })
  }

  /** Whether its own side has closed it. */
  get isClosing(): boolean {
    const { state } = this
    return state === "closing" || state === "app-closed" || state === "transport-closed" || state === "closed"
  }

  customTx(): void {
    this.transport.customTx(this)
  }

  appRxEvt(): void {
    this.transport.appRxEvt(this)
  }

  halfClose(): void {
    this.transport.halfClose(this)
  }

  close(): void {
    this.transport.close(this)
  }

  reset(): void {
    this.transport.reset(this)
  }

  format(): string {
    return this.transport.formatSession(this)
  }
}

/**
 * What listings call a session: `[worker:index][CT:T] local->remote`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatName = (
  worker: number,
  index: number,
  path: Path,
  local: Endpoint.Endpoint,
  remote: Endpoint.Endpoint
): string =>
  `[${worker}:${index}][${path === "tcp" ? "TCP" : "CT"}:T] ${Endpoint.format(local)}->${Endpoint.format(remote)}`

/**
 * Closes a session, gracefully or by breaking off, and returns what waits until
 * nothing of it is left. Closing again only waits.
 *
 * @category operations
 * @since 0.1.0
 */
export const closeNow = (session: AppSession, reset: boolean): Effect.Effect<void> => {
  if (reset) session.reset()
  else session.close()
  if (session.state === "closed") return Exit.void
  return Effect.callback<void>((resume) => {
    if (session.state === "closed") return resume(Exit.void)
    const { onClosed } = session
    session.onClosed = () => {
      onClosed?.()
      resume(Exit.void)
    }
  })
}

/**
 * Closes a session, gracefully or by breaking off, and waits until nothing of
 * it is left. Closing again only waits.
 *
 * @category operations
 * @since 0.1.0
 */
export const close = (session: AppSession, reset: boolean): Effect.Effect<void> =>
  Effect.suspend(() => closeNow(session, reset))
