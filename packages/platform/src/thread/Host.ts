/**
 * The host's end of the control ports: what guest threads ask for is done here,
 * by the session layer's own operations.
 *
 * A guest holds nothing but numbers that this gave it, so it can name nothing
 * that is not its own. What makes no sense is answered with an error, counted,
 * and forgotten. When its port closes the thread has died or left: then its
 * applications are detached and its memory condemned.
 *
 * @since 0.1.0
 */
import { detach } from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as Listener from "@cut-through/core/Listener"
import { type Doorbell, LocalDoorbell, type Target } from "@cut-through/core/memory/Doorbell"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import type { Side } from "@cut-through/core/segment/SegmentContext"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import * as Acceptor from "@cut-through/core/session/Acceptor"
import type { App } from "@cut-through/core/session/App"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import type { AppThread, Line } from "@cut-through/core/session/AppThread"
import type { AppWorker } from "@cut-through/core/session/AppWorker"
import * as Connector from "@cut-through/core/session/Connector"
import type { Session } from "@cut-through/core/session/Session"
import type { Binding, SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import type { MessagePort } from "node:worker_threads"
import { IntMap } from "../internal/IntMap.ts"
import * as Bell from "./Bell.ts"
import * as Control from "./Control.ts"
import { Poller } from "./Poller.ts"
import * as Protocol from "./Protocol.ts"
import * as Ring from "./Ring.ts"

/** Requests without an answer that one guest may have. */
const MAX_REQUESTS = 65_536

/** Subscriptions to events that one guest may have. */
const MAX_SUBSCRIPTIONS = 64

/** Workers that the application of one guest may have: the host makes them all at once. */
const MAX_WORKERS = 1024

/** Regions without a segment that one guest keeps: two, so that the one may still be on its way back. */
const MAX_KEPT = 2

/**
 * What is known of the guests.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Threads that are attached. */
  readonly guests: number
  /** Pairs of threads that ring each other. */
  readonly pairs: number
  /** Segments that guests have mapped, counted once for each guest. */
  readonly mappings: number
  /** Messages that made no sense, of all guests there ever were. */
  readonly rejected: number
  /** Applications that were lost: their thread has died, or left without detaching. */
  readonly lost: number
}

/**
 * The guests of one session layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Host {
  /** Takes the port of a thread that wants to attach. */
  readonly accept: (port: MessagePort) => void
  readonly stats: () => Stats
}

/**
 * A host for the guests of a session layer. When the scope closes, those who are
 * left are let go of, as if they had died.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (layer: SessionLayer["Service"]): Effect.Effect<Host, never, Scope.Scope> =>
  Effect.gen(function* () {
    const poller = yield* Poller
    const run = Effect.runForkWith(yield* Effect.context<never>())
    const host = new HostImpl(layer, poller, run)
    const stopRenewing = poller.onTurn(() => layer.wake.renew())
    yield* Effect.addFinalizer(() =>
      Effect.andThen(
        host.close,
        Effect.sync(() => stopRenewing())
      )
    )
    // Functions of their own, not methods, because they are passed on.
    return { accept: (port: MessagePort) => host.accept(port), stats: () => host.stats() }
  })

class HostImpl implements Host {
  readonly layer: SessionLayer["Service"]
  readonly poller: Poller
  readonly guests = new Set<Guest>()
  rejected = 0
  lost = 0
  private lastGuest = 0
  private lastPair = 0
  private isClosed = false
  private readonly fork: HostImpl["run"]
  /** What guests have asked for, or left behind, and what is not done yet. */
  private readonly underWay = new Set<Fiber.Fiber<unknown, unknown>>()

  constructor(layer: SessionLayer["Service"], poller: Poller, fork: HostImpl["run"]) {
    this.layer = layer
    this.poller = poller
    this.fork = fork
  }

  run<A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> {
    const fiber = this.fork(effect)
    if (fiber.pollUnsafe() !== undefined) return fiber
    this.underWay.add(fiber)
    fiber.addObserver(() => void this.underWay.delete(fiber))
    return fiber
  }

  accept(port: MessagePort): void {
    if (this.isClosed) return port.close()
    const guest = new Guest(this, port, `guest ${++this.lastGuest}`)
    this.guests.add(guest)
  }

  /** The pair of two threads, of which `undefined` is the host's own. */
  pair(one: Guest | undefined, other: Guest | undefined): Pair {
    const [guest, peer] = one === undefined ? [other!, undefined] : [one, other]
    const found = guest.pairs.get(peer)
    if (found !== undefined) return found
    const pair = new Pair(guest === peer ? 0 : ++this.lastPair, guest, peer, this.poller)
    guest.pairs.set(peer, pair)
    if (peer !== undefined) peer.pairs.set(guest, pair)
    return pair
  }

  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.isClosed = true
      return Effect.andThen(
        Effect.forEach([...this.guests], (guest) => guest.leave(), { discard: true }),
        // The session layer goes next: whoever is still leaving it needs it.
        Effect.suspend(() => Fiber.awaitAll([...this.underWay]))
      )
    })
  }

  stats(): Stats {
    const pairs = new Set<Pair>()
    let mappings = 0
    for (const guest of this.guests) {
      for (const pair of guest.pairs.values()) pairs.add(pair)
      mappings += guest.mappings
    }
    return { guests: this.guests.size, pairs: pairs.size, mappings, rejected: this.rejected, lost: this.lost }
  }
}

// ---------------------------------------------------------------------------
// how threads ring each other
// ---------------------------------------------------------------------------

/** Two threads, and the numbers that their connections have between them. */
class Pair {
  readonly id: number
  /** The host's end of the bell, when it is one of the two. */
  readonly bell: Bell.Bell | undefined
  private readonly poller: Poller
  private readonly free: Array<number> = []
  private next = 0
  private isGone = false
  private readonly ends: ReadonlyArray<Guest>

  constructor(id: number, guest: Guest, peer: Guest | undefined, poller: Poller) {
    this.id = id
    this.poller = poller
    this.ends = peer === undefined || peer === guest ? [guest] : [guest, peer]
    // Within one thread nobody needs memory to ring.
    if (guest === peer) return
    const buffer = new SharedArrayBuffer(Bell.BYTES)
    guest.post({ _tag: "Pair", pair: id, buffer, side: 1 })
    if (peer !== undefined) {
      peer.post({ _tag: "Pair", pair: id, buffer, side: 0 })
    } else {
      this.bell = new Bell.Bell(buffer, 0, () => poller.heat())
      poller.add(this.bell)
    }
  }

  take(): number {
    return this.free.pop() ?? this.next++
  }

  give(slot: number): void {
    this.free.push(slot)
  }

  /** One of the two has gone. */
  gone(lost: Guest): void {
    if (this.isGone) return
    this.isGone = true
    if (this.bell !== undefined) {
      this.poller.remove(this.bell)
      this.bell.close()
    }
    for (const guest of this.ends) if (guest !== lost) guest.post({ _tag: "PairGone", pair: this.id })
  }
}

/** Where nobody is rung: a side in another thread has its doorbell there. */
const elsewhere = new LocalDoorbell()

class PairLine implements Line, Target {
  readonly pair: Pair
  readonly slot: number
  readonly server: LocalDoorbell
  readonly client: LocalDoorbell
  readonly toServer: Doorbell
  readonly toClient: Doorbell
  /** What the guests call its sides; 0 for one that is not given to one, or gone. */
  serverId = 0
  clientId = 0
  private sides = 0

  constructor(pair: Pair, client: Guest | undefined, server: Guest | undefined) {
    this.pair = pair
    this.slot = pair.take()
    this.server = server === undefined ? new LocalDoorbell() : elsewhere
    this.client = client === undefined ? new LocalDoorbell() : elsewhere
    this.toServer = server === undefined ? this.server : new Ringer(this, server, "server", client === undefined)
    this.toClient = client === undefined ? this.client : new Ringer(this, client, "client", server === undefined)
    if (pair.bell === undefined) return
    pair.bell.attach(this.slot, this)
    const local = client === undefined ? this.client : this.server
    local.watcher = pair.bell
  }

  /** Rung by a guest: the side in the host's own thread. */
  onRing(): void {
    if (this.client === elsewhere) this.server.ring()
    else this.client.ring()
  }

  given(side: Side, id: number): void {
    if (side === "client") this.clientId = id
    else this.serverId = id
  }

  enter(): void {
    this.sides++
  }

  leave(session: Session): void {
    this.given(session.side, 0)
    if (--this.sides > 0) return
    this.pair.bell?.detach(this.slot, this)
    this.pair.give(this.slot)
  }
}

/** Makes one side in another thread look, from the host's: for a side of the host by the bell, for others by a message. */
class Ringer implements Doorbell {
  private readonly line: PairLine
  private readonly guest: Guest
  private readonly side: Side
  private readonly bell: Bell.Bell | undefined

  constructor(line: PairLine, guest: Guest, side: Side, isPeerHere: boolean) {
    this.line = line
    this.guest = guest
    this.side = side
    this.bell = isPeerHere ? line.pair.bell : undefined
  }

  ring(): void {
    if (this.bell !== undefined) return this.bell.ring(this.line.slot)
    const id = this.side === "client" ? this.line.clientId : this.line.serverId
    if (id !== 0) this.guest.look(id)
  }
}

// ---------------------------------------------------------------------------
// guests
// ---------------------------------------------------------------------------

/** A class, not a literal, as what a segment context keeps of it. */
class Mapping {
  readonly buffer: SharedArrayBuffer
  /** The applications' workers that it was announced to, and that have not been told that it is gone. */
  users = 1
  /** To be called for each of them when the guest has let go. */
  readonly acknowledge: Array<() => void> = []

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer
  }
}

interface Subscription {
  readonly scope: Scope.Closeable
  readonly events: Queue.Dequeue<AppEvent, Cause.Done>
}

/** A thread that is attached, and everything it may name. */
class Guest implements AppThread, Control.Listener<Protocol.Request> {
  readonly name: string
  isGone = false
  readonly pairs = new Map<Guest | undefined, Pair>()
  private readonly host: HostImpl
  private readonly control: Control.Control<Protocol.Message, Protocol.Request>
  private app: App | undefined = undefined
  private isAttaching = false
  private hasLeft = false
  private lastId = 0
  private readonly sessions = new IntMap<Session>()
  private readonly listeners = new IntMap<Binding>()
  private readonly subscriptions = new IntMap<Subscription>()
  /** What cancels a request that has no answer yet. */
  private readonly requests = new IntMap<() => void>()
  private readonly segments = new IntMap<Mapping>()
  /** What it has been sent and not been told to forget, if it keeps regions; and those without a segment, the oldest first. */
  private regions: Map<SharedArrayBuffer, number> | undefined = undefined
  private readonly kept: Array<SharedArrayBuffer> = []

  constructor(host: HostImpl, port: MessagePort, name: string) {
    this.host = host
    this.name = name
    this.control = new Control.Control(port, host.poller, Protocol.messages, Protocol.requests, this)
  }

  get mappings(): number {
    return this.segments.size
  }

  post(message: Protocol.Message): void {
    if (!this.isGone) this.control.post(message)
  }

  /** Makes a session of this number look. */
  look(session: number): void {
    this.post({ _tag: "Look", session })
  }

  line(client: AppThread | undefined, server: AppThread | undefined): Line {
    const pair = this.host.pair(client as Guest | undefined, server as Guest | undefined)
    return new PairLine(pair, client as Guest | undefined, server as Guest | undefined)
  }

  segmentAdded(segment: Segment): void {
    const mapping = this.segments.get(segment.id)
    if (mapping !== undefined) {
      mapping.users++
      return
    }
    const buffer = segment.region.words.buffer as SharedArrayBuffer
    this.announce(segment.id, buffer)
    this.segments.set(segment.id, new Mapping(buffer))
  }

  /** What it has kept it need not be sent. */
  private announce(segment: number, buffer: SharedArrayBuffer): void {
    const { kept, regions } = this
    if (regions === undefined) return this.post({ _tag: "Segment", segment, buffer })
    const region = regions.get(buffer)
    if (region !== undefined) {
      const place = kept.indexOf(buffer)
      if (place >= 0) kept.splice(place, 1)
      return this.post({ _tag: "Segment", segment, region })
    }
    const added = ++this.lastId
    this.post({ _tag: "Segment", segment, region: added, buffer })
    regions.set(buffer, added)
  }

  private keep(buffer: SharedArrayBuffer): void {
    const { kept, regions } = this
    if (regions === undefined) return
    kept.push(buffer)
    if (kept.length <= MAX_KEPT) return
    const oldest = kept.shift()!
    const region = regions.get(oldest)!
    regions.delete(oldest)
    this.post({ _tag: "Forget", region })
  }

  segmentDeleted(segment: Segment, acknowledge: () => void): void {
    const mapping = this.segments.get(segment.id)
    if (this.isGone || mapping === undefined) return acknowledge()
    mapping.acknowledge.push(acknowledge)
    if (--mapping.users === 0) this.post({ _tag: "SegmentDeleted", segment: segment.id })
  }

  // ---------------------------------------------------------------------------
  // what it asks for
  // ---------------------------------------------------------------------------

  onMessage(message: unknown): void {
    if (this.isGone) return
    const decoded = Protocol.decodeRequest(message)
    if (Result.isSuccess(decoded)) return this.handle(decoded.success)
    this.reject(`a message that cannot be understood: ${decoded.failure.message}`, "a message of this protocol")
  }

  onRecord(request: Protocol.Request | undefined): void {
    if (this.isGone) return
    if (request !== undefined) return this.handle(request)
    this.reject("a record that cannot be understood", "a record of this protocol")
  }

  onUnreadable(): void {
    this.reject("a message that cannot be received", "a message of this protocol")
  }

  onBroken(): void {
    this.reject("a ring that cannot be followed", "records one after another: it is not read any more")
  }

  onClose(): void {
    this.host.run(this.leave())
  }

  private handle(request: Protocol.Request): void {
    try {
      this.perform(request)
    } catch (error) {
      const wrong = asSessionError(error)
      if (!("id" in request)) return this.rejectWith(wrong)
      if (wrong.reason._tag === "InvalidArgument") this.host.rejected++
      this.fail(request.id, wrong)
    }
  }

  private perform(request: Protocol.Request): void {
    switch (request._tag) {
      case "Attach":
        return this.attach(request)
      case "Listen":
        return this.listen(request)
      case "Unlisten":
        return this.unlisten(request.id, request.listener)
      case "Connect":
        return this.connect(request.id, this.worker(request.worker), Endpoint.parse(request.endpoint))
      case "Accept":
        return this.acceptFrom(request.id, request.listener, request.accepts)
      case "Approve":
        return this.approve(request.id, request.session)
      case "Cancel":
        return this.requests.get(request.request)?.()
      case "Close":
        return this.close(request.session, request.reset)
      case "HalfClose":
        return this.known(this.sessions, request.session, "session").halfClose()
      case "Unmapped":
        return this.unmapped(request.segment)
      case "Subscribe":
        return this.subscribe(request.id)
      case "Next":
        return this.nextEvents(request.id, request.subscription)
      case "Unsubscribe":
        return this.unsubscribe(request.subscription)
      case "Detach":
        return this.detach(request.id)
    }
  }

  private attach({ id, options, ring, version }: Extract<Protocol.Request, { readonly _tag: "Attach" }>): void {
    if (version !== Protocol.VERSION) {
      throw invalid("the version of the guest", version, `${Protocol.VERSION}: use one version of this package`)
    }
    if (this.isAttaching) throw invalid("the guest", this.name, "one that has not attached yet")
    const { workers } = options
    if (workers !== undefined && workers > MAX_WORKERS) {
      throw invalid("workers", workers, `an integer, at most ${MAX_WORKERS} in another thread`)
    }
    this.isAttaching = true
    const { layer } = this.host
    CutThroughTransport.of(layer)
    this.answer(id, layer.attach(Protocol.decodeOptions(options), this), (app) => {
      this.app = app
      // It may have died in the meantime.
      if (this.isGone) this.host.run(detach(layer, app, true))
      const workers = app.workers.map(({ name }) => name)
      return { _tag: "Attached", id, name: app.name, workers, ring: ring === true ? this.openRing() : undefined }
    })
  }

  private openRing(): SharedArrayBuffer {
    const buffer = new SharedArrayBuffer(Ring.BYTES)
    this.control.open(buffer, 0)
    this.regions = new Map()
    return buffer
  }

  private listen(request: Extract<Protocol.Request, { readonly _tag: "Listen" }>): void {
    const app = this.attached()
    const { approval, backlog, id, isProxy, worker } = request
    const workers = worker === undefined ? app.workers : [this.worker(worker)]
    const binding = this.host.layer.bind(app, Endpoint.parse(request.endpoint), { approval, backlog, isProxy, workers })
    this.answer(id, Effect.uninterruptible(binding), (binding) => {
      const { endpoint, handle } = binding.listener
      const listener = ++this.lastId
      this.listeners.set(listener, binding)
      return { _tag: "Listening", id, listener, endpoint: Protocol.encodeEndpoint(endpoint), handle }
    })
  }

  private unlisten(id: number, listener: number): void {
    const binding = this.known(this.listeners, listener, "listener")
    this.listeners.delete(listener)
    this.answer(id, Listener.close(this.host.layer, binding), () => ({ _tag: "Done", id }))
  }

  private connect(id: number, worker: AppWorker, endpoint: Endpoint.Endpoint): void {
    const { layer } = this.host
    this.begin(id, () => {})
    const started = Connector.connect(layer, worker, endpoint, {
      answer: (result) => {
        this.requests.delete(id)
        if (result instanceof SessionError.SessionError) this.fail(id, result)
        else this.post({ _tag: "Connected", id, session: this.give(result) })
        return undefined
      }
    })
    if (typeof started !== "number") {
      this.requests.delete(id)
      this.fail(id, SessionError.make(started))
    } else if (this.requests.has(id)) this.requests.set(id, () => Connector.cancel(layer, started))
  }

  private acceptFrom(id: number, listener: number, accepts: boolean): void {
    const { queue } = this.known(this.listeners, listener, "listener")
    this.begin(id, () => {})
    const giveUp = Acceptor.take(this.host.layer, queue, accepts, (session) => {
      this.requests.delete(id)
      this.post({ _tag: "Accepted", id, session: session === undefined ? undefined : this.give(session) })
    })
    if (giveUp === undefined) return
    this.requests.set(id, () => {
      // Its listeners go with it, and all who wait there: one by one they would keep everybody waiting.
      if (this.isGone) return
      this.requests.delete(id)
      giveUp()
      // Every request has an answer: what crosses this one on its way is then not mistaken for nobody's.
      this.fail(id, SessionError.make(new SessionError.Closed({ what: "request" })))
    })
  }

  private approve(id: number, session: number): void {
    const waiting = this.known(this.sessions, session, "session")
    const impossible = waiting.transport.accept(waiting)
    if (impossible === undefined) return this.post({ _tag: "Done", id })
    const error = SessionError.make(impossible)
    // A client may have given up; a session that was never there to be accepted is a number out of the air.
    if (impossible._tag === "InvalidArgument") throw error
    this.fail(id, error)
  }

  private close(id: number, reset: boolean): void {
    const session = this.known(this.sessions, id, "session")
    if (reset) session.reset()
    else session.close()
  }

  private unmapped(segment: number): void {
    const mapping = this.known(this.segments, segment, "segment")
    if (mapping.users > 0) throw invalid("the segment", segment, "one that is deleted")
    this.segments.delete(segment)
    this.keep(mapping.buffer)
    for (const acknowledge of mapping.acknowledge) acknowledge()
  }

  private subscribe(id: number): void {
    const app = this.attached()
    if (this.subscriptions.size >= MAX_SUBSCRIPTIONS) {
      throw exceeded(app.name, MAX_SUBSCRIPTIONS, "subscriptions to its events")
    }
    const scope = Scope.makeUnsafe()
    this.answer(id, Scope.provide(app.events.subscribe, scope), (events) => {
      const subscription = ++this.lastId
      this.subscriptions.set(subscription, { scope, events })
      return { _tag: "Subscribed", id, subscription }
    })
  }

  private nextEvents(id: number, subscription: number): void {
    const { events } = this.known(this.subscriptions, subscription, "subscription")
    this.begin(id, () => {})
    const next = Effect.catchCause(Queue.takeAll(events), () => Effect.succeed<ReadonlyArray<AppEvent>>([]))
    const fiber = this.answer(id, next, (events) => {
      this.requests.delete(id)
      return { _tag: "Events", id, events: events.map(Protocol.encodeEvent) }
    })
    if (!this.requests.has(id)) return
    this.requests.set(id, () => {
      this.requests.delete(id)
      fiber.interruptUnsafe()
    })
  }

  private unsubscribe(subscription: number): void {
    const { scope } = this.known(this.subscriptions, subscription, "subscription")
    this.subscriptions.delete(subscription)
    this.host.run(Scope.close(scope, Exit.void))
  }

  private detach(id: number): void {
    const app = this.attached()
    this.hasLeft = true
    const fiber = this.answer(id, detach(this.host.layer, app), () => {
      this.app = undefined
      return { _tag: "Done", id }
    })
    // Not when its port is seen to close: a thread that blocks from here on does not get to that.
    fiber.addObserver(() => void this.host.run(this.leave()))
  }

  // ---------------------------------------------------------------------------
  // what it may name, and what it is told
  // ---------------------------------------------------------------------------

  private attached(): App {
    if (this.app === undefined || this.hasLeft) throw invalid("the guest", this.name, "one that is attached")
    return this.app
  }

  private worker(index: number): AppWorker {
    const worker = this.attached().workers[index]
    if (worker === undefined) throw invalid("the worker", index, "a number of a worker of the application")
    return worker
  }

  private known<A>(values: IntMap<A>, id: number, what: string): A {
    const value = values.get(id)
    if (value === undefined) throw invalid(`the ${what}`, id, `a ${what} that the guest has been given`)
    return value
  }

  private begin(id: number, cancel: () => void): void {
    const app = this.attached()
    if (this.requests.has(id)) throw invalid("the number of a request", id, "one that is not under way")
    if (this.requests.size >= MAX_REQUESTS) throw exceeded(app.name, MAX_REQUESTS, "requests without an answer")
    this.requests.set(id, cancel)
  }

  /** Gives it a session. */
  private give(session: Session): Protocol.SessionInfo {
    const id = ++this.lastId
    this.sessions.set(id, session)
    session.onClosed = () => {
      this.sessions.delete(id)
      this.post({ _tag: "Closed", session: id })
    }
    const line = session.line as PairLine
    line.given(session.side, id)
    return {
      session: id,
      worker: session.worker,
      index: HandleTable.indexOf(session.handle),
      side: session.side,
      path: session.path,
      state: session.state,
      local: Endpoint.toNumbers(session.local),
      remote: Endpoint.toNumbers(session.remote),
      segment: session.lease.segment.id,
      rx: session.rx.index,
      tx: session.tx.index,
      pair: line.pair.id,
      slot: line.slot
    }
  }

  private answer<A>(
    id: number,
    effect: Effect.Effect<A, SessionError.SessionError>,
    onSuccess: (value: A) => Protocol.Message
  ): Fiber.Fiber<A, SessionError.SessionError> {
    const fiber = this.host.run(effect)
    fiber.addObserver((exit) => {
      if (Exit.isSuccess(exit)) this.post(onSuccess(exit.value))
      else this.fail(id, whyFailed(exit.cause))
    })
    return fiber
  }

  private fail(id: number, error: SessionError.SessionError): void {
    this.post({ _tag: "Failed", id, error: Protocol.encodeError(error) })
  }

  private reject(what: string, expected: string): void {
    this.rejectWith(invalid("what the guest says", what, expected))
  }

  private rejectWith(error: SessionError.SessionError): void {
    this.host.rejected++
    this.post({ _tag: "Rejected", error: Protocol.encodeError(error) })
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** The thread has died or left, or the session layer ends. Whatever it has is nobody's any more. */
  leave(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.isGone) return Effect.void
      const { host } = this
      this.isGone = true
      if (this.app !== undefined && !this.hasLeft) host.lost++
      host.guests.delete(this)
      this.control.close()
      for (const cancel of this.requests.values()) cancel()
      const detached = this.app === undefined ? Effect.void : detach(host.layer, this.app, true)
      return Effect.andThen(
        detached,
        Effect.suspend(() => {
          for (const [peer, pair] of this.pairs) {
            peer?.pairs.delete(this)
            pair.gone(this)
          }
          this.pairs.clear()
          for (const { acknowledge } of this.segments.values()) for (const done of acknowledge) done()
          this.segments.clear()
          const scopes = [...this.subscriptions.values()].map(({ scope }) => scope)
          this.subscriptions.clear()
          return Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void), { discard: true })
        })
      )
    })
  }
}

const invalid = (what: string, value: unknown, expected: string): SessionError.SessionError =>
  SessionError.make(new SessionError.InvalidArgument({ what, value: String(value), expected }))

const exceeded = (app: string, limit: number, what: string): SessionError.SessionError =>
  SessionError.make(new SessionError.QuotaExceeded({ app, quota: "limit", limit, what }))

/** What was thrown, or why an effect failed: whatever it is, the guest gets an answer. */
const asSessionError = (error: unknown): SessionError.SessionError => {
  if (error instanceof SessionError.SessionError) return error
  Effect.runFork(Effect.logError("A request of a guest thread could not be served", error))
  return SessionError.make(new SessionError.Closed({ what: "request" }))
}

const whyFailed = (cause: Cause.Cause<SessionError.SessionError>): SessionError.SessionError =>
  Cause.hasInterruptsOnly(cause)
    ? SessionError.make(new SessionError.Closed({ what: "session layer" }))
    : asSessionError(Cause.squash(cause))
