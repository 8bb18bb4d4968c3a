/**
 * A guest thread's end of the control port: an application whose session layer
 * is in another thread.
 *
 * The host introduces the connections of this thread to their peers; the bytes
 * and the ends of them are in shared memory, which this maps and unmaps as the
 * host says.
 *
 * @since 0.1.0
 */
import { type Application, type ApplicationWorker, makeWorker } from "@cut-through/core/Application"
import * as Connection from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as Listener from "@cut-through/core/Listener"
import { LocalDoorbell, type Target } from "@cut-through/core/memory/Doorbell"
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { CopyBytes } from "@cut-through/core/memory/SharedMemory"
import { type Copy, SharedWords } from "@cut-through/core/memory/SharedWords"
import { Hold, KeepAlive } from "@cut-through/core/runtime/KeepAlive"
import * as Wake from "@cut-through/core/runtime/Wake"
import type { Side } from "@cut-through/core/segment/SegmentContext"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { type AppSession, formatName, type Path, type State } from "@cut-through/core/session/Session"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { MessagePort } from "node:worker_threads"
import { IntMap } from "../internal/IntMap.ts"
import * as Bell from "./Bell.ts"
import * as Control from "./Control.ts"
import { Poller } from "./Poller.ts"
import * as Protocol from "./Protocol.ts"

/**
 * What the thread holds. At rest: zeros.
 *
 * @category models
 * @since 0.1.0
 */
export interface Residue {
  readonly sessions: number
  readonly listeners: number
  readonly requests: number
  readonly segments: number
  readonly pairs: number
}

/**
 * An application whose session layer is in another thread.
 *
 * @category models
 * @since 0.1.0
 */
export interface Guest {
  readonly application: Application["Service"]
  readonly residue: () => Residue
}

/**
 * Attaches an application through a port whose other end a host has accepted,
 * or will. It detaches when the scope closes; then, and when it cannot attach,
 * the port is closed.
 *
 * `answered` is called with the first thing that comes from the host.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  port: MessagePort,
  options: AttachOptions,
  answered: () => void = () => {}
): Effect.Effect<Guest, SessionError.SessionError, Scope.Scope> =>
  Effect.gen(function* () {
    const poller = yield* Poller
    const keepAlive = yield* KeepAlive
    const copy = yield* CopyBytes
    const wake = yield* Wake.make()
    const guest = new GuestImpl(port, { poller, keepAlive, copy, wake }, answered)
    yield* Effect.addFinalizer(() => guest.leave)
    const attached = yield* guest.request<"Attached">((id) => ({
      _tag: "Attach",
      id,
      version: Protocol.VERSION,
      options: Protocol.encodeOptions(options),
      ring: true
    }))
    return { application: guest.face(attached.name, attached.workers), residue: () => guest.residue() }
  })

interface Services extends Connection.Runtime {
  readonly poller: Poller
  readonly copy: Copy
}

type Tag = Protocol.Message["_tag"]
type MessageOf<T extends Tag> = Extract<Protocol.Message, { readonly _tag: T }>
type Answer = Protocol.Message | SessionError.SessionError

/** A request that has no answer yet. */
interface Pending {
  readonly answer: (answer: Answer) => void
  /** Keeps the thread running until then. */
  readonly hold: Hold | undefined
}

/** Memory that segments are in, one after the other. */
interface MappedRegion {
  readonly words: SharedWords
  /** Of the last one. */
  fifos: FifoSegment.FifoSegment | undefined
}

class GuestImpl implements Control.Listener<Protocol.Message> {
  readonly services: Services
  readonly bells = new IntMap<Bell.Bell>()
  /** Both sides of connections within this thread, by their number. */
  readonly inside = new IntMap<Array<GuestSession>>()
  private readonly control: Control.Control<Protocol.Request, Protocol.Message>
  private readonly answered: () => void
  private isClosed = false
  private isAttached = false
  /** From when it has said so: then the host may have closed whatever it still sends. */
  private isLeaving = false
  private lastRequest = 0
  private readonly pending = new IntMap<Pending>()
  private readonly segments = new IntMap<FifoSegment.FifoSegment>()
  /** Memory that segments are in, or were: until the host says that it is not needed any more. */
  private readonly regions = new IntMap<MappedRegion>()
  private readonly sessions = new IntMap<GuestSession>()
  private listeners = 0
  private readonly stopRenewing: () => void

  constructor(port: MessagePort, services: Services, answered: () => void) {
    this.services = services
    this.answered = answered
    const { poller, wake } = services
    this.control = new Control.Control(port, poller, Protocol.requests, Protocol.messages, this)
    this.stopRenewing = poller.onTurn(() => wake.renew())
  }

  residue(): Residue {
    const { bells, listeners, pending, segments, sessions } = this
    return {
      sessions: sessions.size,
      listeners,
      requests: pending.size,
      segments: segments.size,
      pairs: bells.size
    }
  }

  // ---------------------------------------------------------------------------
  // asking
  // ---------------------------------------------------------------------------

  post(message: Protocol.Request): void {
    if (this.isClosed) return
    this.control.post(message)
    this.services.poller.heat()
  }

  /** Asks, and calls back once with the answer. Returns the number of the request. */
  ask(
    make: (id: number) => Protocol.Request,
    answer: (answer: Answer) => void,
    keepsAlive: boolean = true
  ): number | undefined {
    if (this.isClosed || this.isLeaving) {
      answer(this.whyClosed())
      return undefined
    }
    const id = ++this.lastRequest
    this.pending.set(id, { answer, hold: keepsAlive ? new Hold(this.services.keepAlive) : undefined })
    this.post(make(id))
    return id
  }

  /** Asks and waits. Who is interrupted has asked all the same. */
  request<T extends Tag>(
    make: (id: number) => Protocol.Request
  ): Effect.Effect<MessageOf<T>, SessionError.SessionError> {
    return Effect.callback((resume) => {
      this.ask(make, (answer) =>
        resume(answer instanceof SessionError.SessionError ? Exit.fail(answer) : Exit.succeed(answer as MessageOf<T>))
      )
    })
  }

  private settle(id: number, answer: Answer): void {
    const pending = this.pending.get(id)
    if (pending === undefined) return
    this.pending.delete(id)
    pending.answer(answer)
    pending.hold?.unref()
  }

  // ---------------------------------------------------------------------------
  // being told
  // ---------------------------------------------------------------------------

  onMessage(message: unknown): void {
    this.handle(message as Protocol.Message)
  }

  onRecord(message: Protocol.Message | undefined): void {
    if (message === undefined) this.onBroken()
    else this.handle(message)
  }

  /** Only this process could have written over it: there is no telling what the host has said. */
  onBroken(): void {
    this.hostGone()
  }

  onUnreadable(): void {
    this.hostGone()
  }

  onClose(): void {
    this.hostGone()
  }

  private handle(message: Protocol.Message): void {
    if (this.isClosed) return
    this.answered()
    switch (message._tag) {
      case "Segment":
        return this.map(message)
      case "SegmentDeleted":
        this.segments.delete(message.segment)
        return this.post({ _tag: "Unmapped", segment: message.segment })
      case "Forget":
        return void this.regions.delete(message.region)
      case "Attached":
        if (message.ring !== undefined) this.control.open(message.ring, 1)
        return this.settle(message.id, message)
      case "Pair":
        return this.addBell(message.pair, message.buffer, message.side)
      case "PairGone":
        return this.removeBell(message.pair)
      case "Look":
        return this.sessions.get(message.session)?.onRing()
      case "Closed":
        return this.sessions.get(message.session)?.closed()
      case "Rejected":
        return void Effect.runFork(
          Effect.logWarning("The host did not understand this thread", Protocol.decodeError(message.error))
        )
      case "Failed":
        return this.settle(message.id, Protocol.decodeError(message.error))
      default:
        return this.settle(message.id, message)
    }
  }

  private map({ buffer, region, segment }: MessageOf<"Segment">): void {
    const mapped = this.regionOf(region, buffer)
    if (mapped === undefined) return
    mapped.fifos = FifoSegment.attach(mapped.words, mapped.fifos)
    // Without it, its sessions are found corrupt one by one.
    if (mapped.fifos !== undefined) this.segments.set(segment, mapped.fifos)
  }

  private regionOf(region: number | undefined, buffer: SharedArrayBuffer | undefined): MappedRegion | undefined {
    if (buffer === undefined) return this.regions.get(region!)
    const mapped = { words: new SharedWords(buffer, this.services.copy), fifos: undefined }
    if (region !== undefined) this.regions.set(region, mapped)
    return mapped
  }

  private addBell(pair: number, buffer: SharedArrayBuffer, side: 0 | 1): void {
    const { poller } = this.services
    const bell = new Bell.Bell(buffer, side, () => poller.heat())
    this.bells.set(pair, bell)
    poller.add(bell)
  }

  private removeBell(pair: number): void {
    const bell = this.bells.get(pair)
    if (bell === undefined) return
    this.bells.delete(pair)
    this.services.poller.remove(bell)
    bell.close()
  }

  /** A session that the host has given to this thread; or why it is none. */
  open(info: Protocol.SessionInfo): GuestSession | SessionError.SessionError {
    if (this.isLeaving) return this.whyClosed()
    const segment = this.segments.get(info.segment)
    const rx = segment?.attachFifo(info.rx, Fifo.READER)
    const tx = segment?.attachFifo(info.tx, Fifo.WRITER)
    if (rx === undefined || tx === undefined) {
      this.post({ _tag: "Close", session: info.session, reset: true })
      return SessionError.make(
        new SessionError.CorruptSegment({ endpoint: Endpoint.format(Endpoint.fromNumbers(info.remote)) })
      )
    }
    const session = new GuestSession(this, info, rx, tx)
    this.sessions.set(info.session, session)
    return session
  }

  forget(id: number): void {
    this.sessions.delete(id)
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** Resets what is open, detaches, and closes the port. */
  get leave(): Effect.Effect<void> {
    return Effect.suspend(() => {
      for (const session of this.sessions.values()) session.reset()
      const isWaiting = !this.isAttached && this.pending.size > 0
      // A host that has not answered yet would not answer this either; but it may read both one day.
      if (isWaiting) this.post({ _tag: "Detach", id: ++this.lastRequest })
      return Effect.andThen(
        this.isClosed || !this.isAttached ? Effect.void : this.detach,
        Effect.sync(() => this.hostGone())
      )
    })
  }

  private get detach(): Effect.Effect<void> {
    return Effect.callback((resume) => {
      this.ask(
        (id) => ({ _tag: "Detach", id }),
        () => resume(Exit.void)
      )
      this.isLeaving = true
    })
  }

  private whyClosed(): SessionError.SessionError {
    const what = this.isLeaving ? "application" : "session layer of this thread's host"
    return SessionError.make(new SessionError.Closed({ what }))
  }

  /** Nothing is heard any more: whatever this thread has, nobody introduces it to anybody any more. */
  private hostGone(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.control.close()
    this.stopRenewing()
    for (const session of this.sessions.values()) {
      session.reset()
      session.closed()
    }
    for (const pair of this.bells.numbers()) this.removeBell(pair)
    this.segments.clear()
    this.regions.clear()
    for (const id of this.pending.numbers()) this.settle(id, this.whyClosed())
  }

  // ---------------------------------------------------------------------------
  // the face
  // ---------------------------------------------------------------------------

  face(name: string, workers: ReadonlyArray<string>): Application["Service"] {
    this.isAttached = true
    return {
      ...this.workerFace(name, 0, undefined),
      workers: workers.map((name, index) => this.workerFace(name, index, index)),
      events: this.events
    }
  }

  private workerFace(name: string, client: number, server: number | undefined): ApplicationWorker {
    return makeWorker(
      name,
      (endpoint, { approval, backlog, proxy }) => {
        const listening = this.request<"Listening">((id) => ({
          _tag: "Listen",
          id,
          worker: server,
          endpoint: Protocol.encodeEndpoint(endpoint),
          backlog,
          approval,
          isProxy: proxy
        }))
        return Effect.uninterruptible(
          Effect.flatMap(listening, (message) => {
            this.listeners++
            return Listener.fromSource(this.services, this.sourceOf(message))
          })
        )
      },
      (endpoint, scope, resume) => this.connect(client, endpoint, scope, resume)
    )
  }

  private sourceOf({ endpoint, handle, listener }: MessageOf<"Listening">): Listener.Source {
    const accepts = new Backlog(this, listener, true)
    const requests = new Backlog(this, listener, false)
    return {
      address: Endpoint.parse(endpoint),
      handle,
      take: (isAccept, taken) => (isAccept ? accepts : requests).take(taken),
      approve: (session, answered) => {
        const { id } = session as GuestSession
        this.ask(
          (request) => ({ _tag: "Approve", id: request, session: id }),
          (answer) => {
            const impossible = answer instanceof SessionError.SessionError ? answer.reason : undefined
            if (impossible === undefined) (session as GuestSession).approved()
            answered(impossible)
          }
        )
      },
      close: Effect.suspend(() => {
        this.listeners--
        accepts.close()
        requests.close()
        return Effect.ignore(this.request<"Done">((id) => ({ _tag: "Unlisten", id, listener })))
      })
    }
  }

  private connect(
    worker: number,
    endpoint: Endpoint.Endpoint,
    scope: Scope.Scope,
    resume: (connected: Exit.Exit<Connection.Connection, SessionError.SessionError>) => void
  ): Effect.Effect<void> {
    let isWanted = true
    const request = this.ask(
      (id) => ({ _tag: "Connect", id, worker, endpoint: Protocol.encodeEndpoint(endpoint) }),
      (answer) => {
        const session =
          answer instanceof SessionError.SessionError ? answer : this.open((answer as MessageOf<"Connected">).session)
        if (session instanceof SessionError.SessionError) resume(Exit.fail(session))
        else if (isWanted) resume(Exit.succeed(Connection.fromSession(this.services, session, scope)))
        else session.reset()
      }
    )
    return Effect.sync(() => {
      isWanted = false
      if (request !== undefined) this.post({ _tag: "Cancel", request })
    })
  }

  private get events(): Stream.Stream<AppEvent> {
    const subscribed = Effect.acquireRelease(
      this.request<"Subscribed">((id) => ({ _tag: "Subscribe", id })),
      ({ subscription }) => Effect.sync(() => this.post({ _tag: "Unsubscribe", subscription }))
    )
    const events = Effect.map(subscribed, ({ subscription }) => {
      const next = Effect.flatMap(this.nextEvents(subscription), (events) =>
        Arr.isReadonlyArrayNonEmpty(events) ? Effect.succeed(Arr.map(events, Protocol.decodeEvent)) : Cause.done()
      )
      return Stream.fromPull(Effect.succeed(next))
    })
    // Without its host it is told nothing any more.
    return Stream.catchTag(Stream.unwrap(events), "SessionError", () => Stream.empty)
  }

  private nextEvents(
    subscription: number
  ): Effect.Effect<ReadonlyArray<Protocol.EncodedEvent>, SessionError.SessionError> {
    return Effect.callback((resume) => {
      const request = this.ask(
        (id) => ({ _tag: "Next", id, subscription }),
        (answer) =>
          resume(
            answer instanceof SessionError.SessionError
              ? Exit.fail(answer)
              : Exit.succeed((answer as MessageOf<"Events">).events)
          ),
        false
      )
      return Effect.sync(() => {
        if (request !== undefined) this.post({ _tag: "Cancel", request })
      })
    })
  }
}

/** Connections of a listener: those who wait for one, and those that came for somebody who had given up. */
class Backlog {
  private readonly guest: GuestImpl
  private readonly listener: number
  private readonly accepts: boolean
  private readonly waiting: Array<(session: GuestSession | undefined) => void> = []
  private readonly kept: Array<GuestSession> = []
  /** Requests without an answer, as many as there are who wait. */
  private readonly requests: Array<number> = []
  private isClosed = false

  constructor(guest: GuestImpl, listener: number, accepts: boolean) {
    this.guest = guest
    this.listener = listener
    this.accepts = accepts
  }

  take(taken: (session: GuestSession | undefined) => void): (() => void) | undefined {
    if (this.isClosed || this.kept.length > 0) return void taken(this.kept.shift())
    this.waiting.push(taken)
    this.balance()
    return () => {
      const place = this.waiting.indexOf(taken)
      if (place < 0) return
      this.waiting.splice(place, 1)
      this.cancel(place)
    }
  }

  close(): void {
    this.isClosed = true
    for (const session of this.kept.splice(0)) session.reset()
  }

  private balance(): void {
    while (this.requests.length < this.waiting.length && !this.isClosed) this.ask()
  }

  /** Takes back the request of who was at this place, so that all others keep theirs in the line of the listener. */
  private cancel(place: number): void {
    if (this.requests.length <= this.waiting.length) return
    const [request] = this.requests.splice(place, 1)
    // It may have been answered already: then that is on its way, and somebody else's.
    this.guest.post({ _tag: "Cancel", request })
  }

  private ask(): void {
    // None when there is no host any more: then it is answered at once.
    let request: number | undefined = undefined
    request = this.guest.ask(
      (id) => ({ _tag: "Accept", id, listener: this.listener, accepts: this.accepts }),
      (answer) => {
        // What was cancelled is answered too, with an error that is nobody's.
        const wasWanted = request === undefined || this.answered(request)
        if (answer instanceof SessionError.SessionError) return wasWanted ? this.ended() : undefined
        this.arrived((answer as MessageOf<"Accepted">).session)
      },
      // Not what keeps the thread running: its listener does.
      false
    )
    if (request !== undefined) this.requests.push(request)
  }

  /** Whether it was still wanted. */
  private answered(request: number): boolean {
    const place = this.requests.indexOf(request)
    if (place >= 0) this.requests.splice(place, 1)
    return place >= 0
  }

  private arrived(info: Protocol.SessionInfo | undefined): void {
    if (info === undefined) return this.ended()
    const session = this.guest.open(info)
    // One whose memory makes no sense is none; nor is one for who is on his way out, who asks for no other either.
    if (session instanceof SessionError.SessionError) return this.balance()
    if (this.waiting.length === 0 && this.isClosed) return session.reset()
    if (this.waiting.length === 0) return void this.kept.push(session)
    this.waiting.shift()!(session)
    this.cancel(0)
  }

  private ended(): void {
    this.waiting.shift()?.(undefined)
  }
}

/** One side of a connection, whose session is in the host's thread. */
class GuestSession implements AppSession, Target {
  readonly id: number
  readonly rx: Fifo.Fifo
  readonly tx: Fifo.Fifo
  readonly doorbell = new LocalDoorbell()
  owner: { readonly onClosing: () => void } | undefined = undefined
  onClosed: (() => void) | undefined = undefined
  private readonly guest: GuestImpl
  private readonly info: Protocol.SessionInfo
  private readonly bell: Bell.Bell | undefined
  private current: State
  private isEnded = false
  /** Keeps the thread running from when it closes until nothing of it is left. */
  private hold: Hold | undefined = undefined
  private madeLocal: Endpoint.Endpoint | undefined = undefined
  private madeRemote: Endpoint.Endpoint | undefined = undefined

  constructor(guest: GuestImpl, info: Protocol.SessionInfo, rx: Fifo.Fifo, tx: Fifo.Fifo) {
    this.guest = guest
    this.info = info
    this.id = info.session
    this.rx = rx
    this.tx = tx
    this.current = info.state
    this.bell = guest.bells.get(info.pair)
    if (this.bell !== undefined) {
      this.bell.attach(info.slot, this)
      this.doorbell.watcher = this.bell
    } else if (info.pair === 0) {
      const sides = guest.inside.get(info.slot)
      if (sides === undefined) guest.inside.set(info.slot, [this])
      else sides.push(this)
    }
  }

  get side(): Side {
    return this.info.side
  }

  get path(): Path {
    return this.info.pair === 0 && this.info.path === "thread" ? "fiber" : this.info.path
  }

  get state(): State {
    // The host is not on the way of an end: it is in the FIFOs.
    const hasPeerLeft = this.current === "ready" && this.tx.isStopped
    return hasPeerLeft || this.isBroken ? "transport-closing" : this.current
  }

  private get isBroken(): boolean {
    return this.current === "ready" && (this.rx.isResetBy(Fifo.WRITER) || this.rx.isGone(Fifo.WRITER))
  }

  get local(): Endpoint.Endpoint {
    return (this.madeLocal ??= Endpoint.fromNumbers(this.info.local))
  }

  get remote(): Endpoint.Endpoint {
    return (this.madeRemote ??= Endpoint.fromNumbers(this.info.remote))
  }

  get isClosing(): boolean {
    return this.current === "closing" || this.current === "closed"
  }

  onRing(): void {
    this.doorbell.ring()
  }

  private ringPeer(): void {
    if (this.bell !== undefined) return this.bell.ring(this.info.slot)
    for (const side of this.guest.inside.get(this.info.slot) ?? []) if (side !== this) side.onRing()
  }

  customTx(): void {
    this.ringPeer()
  }

  appRxEvt(): void {
    this.ringPeer()
  }

  halfClose(): void {
    if (this.isEnded) return
    this.isEnded = true
    this.tx.end()
    // Before the ring: a peer in this thread goes on at once, and may make this side close.
    this.guest.post({ _tag: "HalfClose", session: this.id })
    this.ringPeer()
  }

  approved(): void {
    if (this.current === "accepting") this.current = "ready"
  }

  close(): void {
    // A corrupt FIFO reads as negative: nothing more is to be said over it than that it is over.
    this.closing(this.rx.readable !== 0 || this.current === "accepting")
  }

  reset(): void {
    this.closing(true)
  }

  private closing(reset: boolean): void {
    if (this.isClosing) return
    this.current = "closing"
    this.hold = new Hold(this.guest.services.keepAlive)
    this.doorbell.target = undefined
    this.owner?.onClosing()
    if (reset) {
      this.tx.reset(Fifo.WRITER)
      this.rx.reset(Fifo.READER)
    } else {
      this.tx.end()
      this.rx.stop()
    }
    this.ringPeer()
    this.leave()
    // Last: from here on the FIFOs may be somebody else's.
    this.guest.post({ _tag: "Close", session: this.id, reset })
  }

  private leave(): void {
    if (this.bell !== undefined) return this.bell.detach(this.info.slot, this)
    const { inside } = this.guest
    const others = (inside.get(this.info.slot) ?? []).filter((side) => side !== this)
    if (others.length > 0) inside.set(this.info.slot, others)
    else inside.delete(this.info.slot)
  }

  /** Nothing of it is left in the host either. */
  closed(): void {
    this.current = "closed"
    this.guest.forget(this.id)
    this.onClosed?.()
    this.hold?.unref()
  }

  format(): string {
    const { index, path, worker } = this.info
    return formatName(worker, index, path, this.local, this.remote)
  }
}
