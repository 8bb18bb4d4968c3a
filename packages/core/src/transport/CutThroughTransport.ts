/**
 * Connections between two applications of one session layer, through FIFOs in a
 * segment they share.
 *
 * **A connect**: look for a listener; half-open; then a call on a worker's
 * queue. The call takes the leases of both sides, makes the server's session and
 * hands it to the listener. When the server has said yes (the listener does that
 * at once, unless the application wants to), the client's session is made and
 * the connect answered. Every connect gets exactly one answer: whoever takes its
 * half-open out of the table gives it.
 *
 * **A close**: the end (or reset) is published in the FIFOs behind the last
 * byte, so the peer sees it in order and without the session layer; then a call
 * on the worker's queue releases the lease and retires the handle.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Endpoint from "../Endpoint.ts"
import { LocalDoorbell } from "../memory/Doorbell.ts"
import * as Fifo from "../memory/Fifo.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type { Batch } from "../runtime/Worker.ts"
import type { Leases } from "../segment/SegmentContext.ts"
import type { AppEvent } from "../session/AppEvent.ts"
import { type AppListener, NOBODY_LISTENS, type Server } from "../session/AppListener.ts"
import { lineBetween } from "../session/AppThread.ts"
import type { AppWorker } from "../session/AppWorker.ts"
import { Dial, HalfOpen, type Request } from "../session/HalfOpen.ts"
import type { Reach } from "../session/Namespace.ts"
import { formatName, Session } from "../session/Session.ts"
import * as SessionRules from "../session/SessionRules.ts"
import type { SessionLayer } from "../session/SessionLayer.ts"
import type { Transport } from "../session/Transport.ts"
import * as SessionError from "../SessionError.ts"

type Layer = SessionLayer["Service"]

/** Connects that one call handles at most, as in VPP. */
const CONNECTS_PER_CALL = 32

/** Cleanups that one call handles at most, as in VPP. */
const CLEANUPS_PER_CALL = 100

/**
 * The name of the transport.
 *
 * @category constants
 * @since 0.1.0
 */
export const NAME = "ct"

/**
 * The cut-through transport of a session layer: registered when it is first
 * asked for, before all others.
 *
 * @category constructors
 * @since 0.1.0
 */
export const of = (layer: Layer): Transport => {
  const registered = layer.transports.get(NAME)
  if (registered !== undefined) return registered
  const transport = new CutThroughTransport(layer)
  layer.transports.register(transport)
  return transport
}

/**
 * Introduces a client to a listener that somebody else has found for it, another
 * transport for example, without asking rules and tables. The rest is as in
 * `connect` of a transport.
 *
 * @category operations
 * @since 0.1.0
 */
export const introduce = (
  layer: Layer,
  client: AppWorker,
  dial: Dial,
  listener: HandleTable.Handle,
  request: Request
): HandleTable.Handle | SessionError.Reason => (of(layer) as CutThroughTransport).start(client, dial, listener, request)

class CutThroughTransport implements Transport {
  readonly name = NAME
  readonly shortName = "CT"
  private readonly layer: Layer
  private readonly connects: ReadonlyArray<Batch<HandleTable.Handle>>
  private readonly cleanups: ReadonlyArray<Batch<Session>>

  constructor(layer: Layer) {
    this.layer = layer
    this.connects = layer.workers.map((worker) =>
      worker.batch(CONNECTS_PER_CALL, (halfOpen) => this.migrated(worker.index, halfOpen))
    )
    this.cleanups = layer.workers.map((worker) => worker.batch(CLEANUPS_PER_CALL, (session) => this.cleanup(session)))
  }

  /** Nobody but those in the session tables. */
  reaches(): boolean {
    return false
  }

  /** The session tables are all it needs. */
  startListen(): Effect.Effect<void> {
    return Effect.void
  }

  stopListen(): Effect.Effect<void> {
    return Effect.void
  }

  // ---------------------------------------------------------------------------
  // connecting
  // ---------------------------------------------------------------------------

  connect(client: AppWorker, remote: Endpoint.Endpoint, request: Request): HandleTable.Handle | SessionError.Reason {
    const dial = new Dial(remote, this.layer.ports.take())
    const found = this.lookup(client, dial)
    return typeof found === "number" ? this.start(client, dial, found, request) : found
  }

  /** With the listener at hand. */
  start(
    client: AppWorker,
    dial: Dial,
    found: HandleTable.Handle,
    request: Request
  ): HandleTable.Handle | SessionError.Reason {
    const { layer } = this
    const refused = client.app.whyNotConnect()
    if (refused !== undefined) return refused
    layer.counters.connects++
    const handle = layer.connections.addHalfOpen(new HalfOpen(client, this, dial, found, request))
    this.connects[layer.selectWorker().index].add(handle)
    return handle
  }

  /** Local first, then global: who answers for the endpoint, or why nobody does. */
  private lookup(client: AppWorker, dial: Dial): HandleTable.Handle | SessionError.Reason {
    const { namespace, scope } = client.app
    const remote = dial.server
    if (scope !== "global") {
      const found = lookupIn(namespace, dial, () => namespace.table.lookupLocal(remote), client)
      if (found !== undefined) return found
    }
    const endpoint = Endpoint.format(remote)
    const isLoopback = Endpoint.isLoopback(remote)
    if (isLoopback && !this.layer.transports.reaches(remote)) return new SessionError.NoRoute({ endpoint })
    if (scope === "local") return new SessionError.Scope({ endpoint, scope })
    // Loopback addresses are of one namespace: the global table has no answer for them.
    const { global } = this.layer
    const found = isLoopback ? undefined : lookupIn(global, dial, () => global.table.lookupGlobal(remote), client)
    return found ?? new SessionError.LocalConnect({ endpoint })
  }

  /** The call on the worker's queue. */
  private migrated(worker: number, handle: HandleTable.Handle): void {
    const { layer } = this
    const halfOpen = layer.connections.getHalfOpen(handle)
    if (halfOpen === undefined) return
    halfOpen.worker = worker
    const listener = layer.getListener(halfOpen.listener)
    const server = listener === undefined ? NOBODY_LISTENS : listener.selectServer()
    if (listener === undefined || typeof server === "string") {
      this.answer(halfOpen, refusal(halfOpen, server as string))
      return
    }
    const request = { manager: server.manager, client: halfOpen.client, server: server.worker }
    let leases: Leases | SessionError.SessionError | undefined
    try {
      leases = layer.segments.tryAcquire(request)
    } catch (defect) {
      leases = allocationFailed(defect)
    }
    if (leases === undefined) {
      // Uninterruptible: leases in hand must find their way.
      layer.worker(worker).send(
        Effect.uninterruptible(
          Effect.matchCause(layer.segments.acquire(request), {
            onFailure: (cause) => this.introduce(handle, listener, server, whyFailed(cause)),
            onSuccess: (leases) => this.introduce(handle, listener, server, leases)
          })
        )
      )
    } else this.introduce(handle, listener, server, leases)
  }

  /** Makes the server's session and hands it to the listener. */
  private introduce(
    handle: HandleTable.Handle,
    listener: AppListener,
    server: Server,
    leases: Leases | SessionError.SessionError
  ): void {
    const { layer } = this
    const halfOpen = layer.connections.getHalfOpen(handle)
    if (leases instanceof SessionError.SessionError) {
      if (halfOpen !== undefined) this.answer(halfOpen, leases)
      return
    }
    // Memory may have been waited for: the listener may be gone, and so may the client.
    const refused = listener.whyNot(server, 0)
    if (halfOpen === undefined || refused !== undefined) {
      layer.segments.release(leases.client)
      layer.segments.release(leases.server)
      if (halfOpen === undefined || refused === undefined) return
      // One worker listens no more, but others may.
      if (server.queue.isClosed && !listener.isClosed) this.migrated(halfOpen.worker, handle)
      else this.answer(halfOpen, refusal(halfOpen, refused))
      return
    }
    const line = lineBetween(halfOpen.client.app.thread, server.worker.app.thread)
    const session = new Session(
      "server",
      this,
      halfOpen,
      server.worker,
      leases,
      line === undefined ? new LocalDoorbell() : line.server,
      line === undefined ? new LocalDoorbell() : line.toClient,
      line,
      layer.changes
    )
    this.opened(session)
    session.halfOpen = handle
    halfOpen.server = session
    halfOpen.leases = leases
    session.become("accepting")
    server.queue.add(session)
    if (session.app.app.isObserved) {
      session.app.app.tell({
        _tag: "Accepted",
        worker: session.app.name,
        session: session.id,
        listener: listener.endpoint,
        local: session.local,
        remote: session.remote,
        segment: session.lease.segment.id
      })
    }
    if (listener.approval === "listener") this.accept(session)
    this.wakeLater(halfOpen.worker, server.queue.accepters.shift())
  }

  accept(session: Session): SessionError.Reason | undefined {
    if (session.state !== "accepting") {
      const endpoint = Endpoint.format(session.remote)
      return session.state === "ready"
        ? new SessionError.InvalidArgument({
            what: "the session to accept",
            value: this.formatSession(session),
            expected: "one that was not accepted yet"
          })
        : new SessionError.Reset({ endpoint, bytesReceived: 0 })
    }
    const halfOpen = this.layer.connections.getHalfOpen(session.halfOpen)!
    const { line } = session
    const client = new Session(
      "client",
      this,
      halfOpen,
      halfOpen.client,
      halfOpen.leases!,
      // Without a line both are in this thread, and what rings the one is where the other is rung.
      line === undefined ? (session.peerDoorbell as LocalDoorbell) : line.client,
      line === undefined ? session.doorbell : line.toServer,
      line,
      this.layer.changes
    )
    this.opened(client)
    client.peer = session
    session.peer = client
    session.halfOpen = HandleTable.NONE
    session.become("ready")
    client.become("connecting")
    client.become("ready")
    this.answer(halfOpen, client)
    return undefined
  }

  private opened(session: Session): void {
    this.layer.connections.addSession(session)
    session.line?.enter(session)
  }

  /** Answers a connect, unless somebody else has. */
  private answer(halfOpen: HalfOpen, result: Session | SessionError.SessionError): boolean {
    if (!this.settle(halfOpen, result)) return false
    this.wakeLater(halfOpen.worker, halfOpen.request.answer(result))
    return true
  }

  /** The first half of an answer: from here on it is the caller's to give, and nobody else's. */
  private settle(halfOpen: HalfOpen, result: Session | SessionError.SessionError): boolean {
    const { counters, connections } = this.layer
    if (connections.takeHalfOpen(halfOpen.handle) === undefined) return false
    if (result instanceof Session) counters.connected++
    else counters.failed.set(result.reason._tag, (counters.failed.get(result.reason._tag) ?? 0) + 1)
    const { client } = halfOpen
    if (client.app.isObserved) {
      client.app.tell({
        _tag: "Connected",
        worker: client.name,
        halfOpen: halfOpen.handle,
        remote: halfOpen.remote,
        result:
          result instanceof Session
            ? { _tag: "Success", session: result.id, segment: result.lease.segment.id }
            : { _tag: "Failure", error: result }
      })
      client.app.tell({ _tag: "HalfOpenCleanup", worker: client.name, halfOpen: halfOpen.handle })
    }
    return true
  }

  /** Whoever is woken goes on where no call is under way, so that the calls it sends start at once. */
  private wakeLater(worker: number, waiter: Waiter | undefined): void {
    if (waiter !== undefined) this.layer.worker(worker).after(() => this.layer.wake.wake(waiter))
  }

  cancel(handle: HandleTable.Handle, error: SessionError.SessionError): boolean {
    const halfOpen = this.layer.connections.getHalfOpen(handle)
    if (halfOpen === undefined || !this.settle(halfOpen, error)) return false
    const { leases, server } = halfOpen
    if (server !== undefined && leases !== undefined) this.clientLeft(server, leases)
    // Woken last: whoever goes on may do anything, and finds nothing half done.
    this.wakeLater(halfOpen.worker, halfOpen.request.answer(error))
    return true
  }

  /** The client of a session that was not accepted yet has gone: who holds that session is told, who does not is spared it. */
  private clientLeft(server: Session, leases: Leases): void {
    server.rx.reset(Fifo.WRITER)
    server.tx.reset(Fifo.READER)
    server.halfOpen = HandleTable.NONE
    server.become("transport-closing")
    tell(server, "Reset")
    this.layer.segments.release(leases.client)
    if (server.queue?.remove(server) === true) this.reset(server)
    // Somebody is at work on its answer.
    else server.doorbell.ring()
  }

  // ---------------------------------------------------------------------------
  // closing
  // ---------------------------------------------------------------------------

  close(session: Session): void {
    // A corrupt FIFO reads as negative: nothing more is to be said over it than that it is over. What an application in
    // another thread has read only that thread knows, and it says so.
    this.closing(session, session.app.app.thread === undefined && session.rx.readable !== 0, false)
  }

  reset(session: Session): void {
    this.closing(session, true, false)
  }

  abandon(session: Session): void {
    this.closing(session, true, true)
  }

  private closing(session: Session, reset: boolean, isGone: boolean): void {
    if (session.isClosing) return
    const wasAccepting = session.state === "accepting"
    session.become("closing")
    session.isReset = reset || wasAccepting
    session.queue?.remove(session)
    session.doorbell.target = undefined
    session.owner?.onClosing()
    if (isGone) {
      session.tx.markGone(Fifo.WRITER)
      session.rx.markGone(Fifo.READER)
    } else if (session.isReset) {
      session.tx.reset(Fifo.WRITER)
      session.rx.reset(Fifo.READER)
    } else {
      session.tx.end()
      session.rx.stop()
    }
    session.isTxEnded = true
    const refused = wasAccepting ? this.refuse(session, isGone) : undefined
    session.peerDoorbell.ring()
    this.cleanups[session.worker].add(session)
    this.wakeLater(session.worker, refused)
  }

  /** The application says no: the client gets its answer, and what was set aside for it is given back. */
  private refuse(session: Session, isGone: boolean): Waiter | undefined {
    const halfOpen = this.layer.connections.getHalfOpen(session.halfOpen)!
    const isThere = this.layer.getListener(session.listener) !== undefined
    const no = isThere ? "its application said no" : NOBODY_LISTENS
    const error = session.refusal ?? refusal(halfOpen, isGone ? "its application has died" : no)
    this.settle(halfOpen, error)
    this.layer.segments.release(halfOpen.leases!.client)
    return halfOpen.request.answer(error)
  }

  /** The call on the worker's queue. */
  private cleanup(session: Session): void {
    const { connections, counters, segments } = this.layer
    session.become("app-closed")
    const { peer } = session
    if (peer !== undefined) {
      session.peer = undefined
      peer.peer = undefined
      if (peer.state === "ready") {
        peer.isRxEnded = true
        peer.become("transport-closing")
        tell(peer, session.isReset ? "Reset" : "Disconnected")
      }
    }
    if (session.isReset) counters.reset++
    else counters.closed++
    tell(session, "CleanupTransport")
    session.become("closed")
    connections.removeSession(session)
    tell(session, "CleanupSession")
    session.line?.leave(session)
    segments.release(session.lease)
    session.onClosed?.()
  }

  halfClose(session: Session): void {
    if (session.isTxEnded) return
    session.isTxEnded = true
    session.tx.end()
    if (session.peer !== undefined) session.peer.isRxEnded = true
    session.peerDoorbell.ring()
  }

  // ---------------------------------------------------------------------------
  // bytes
  // ---------------------------------------------------------------------------

  customTx(session: Session): void {
    // In any other state nobody reads: the other side has closed, or has not been told of this one yet.
    const { state } = session
    if (state === "ready" || state === "closing" || state === "app-closed") session.peerDoorbell.ring()
  }

  appRxEvt(session: Session): void {
    session.peerDoorbell.ring()
  }

  // ---------------------------------------------------------------------------
  // inspection
  // ---------------------------------------------------------------------------

  getSession(worker: number, handle: HandleTable.Handle): Session | undefined {
    return this.layer.connections.getSession(worker, handle)
  }

  getListener(handle: HandleTable.Handle): AppListener | undefined {
    return this.layer.getListener(handle)
  }

  getHalfOpen(handle: HandleTable.Handle): HalfOpen | undefined {
    return this.layer.connections.getHalfOpen(handle)
  }

  formatSession({ handle, local, path, remote, worker }: Session): string {
    return formatName(worker, HandleTable.indexOf(handle), path, local, remote)
  }

  formatListener({ endpoint, handle, isProxy }: AppListener): string {
    return `[0:${HandleTable.indexOf(handle)}][CT:T] ${isProxy ? "proxy" : Endpoint.format(endpoint)}->*`
  }

  formatHalfOpen({ handle, local, remote, worker }: HalfOpen): string {
    return `[${worker}:${HandleTable.indexOf(handle)}][CT:T] ${Endpoint.format(local)}->${Endpoint.format(remote)}`
  }
}

/** A rule decides, else the table, as long as the listener is not the client's own proxy, to which it would come back. */
const lookupIn = (
  { rules }: Reach,
  dial: Dial,
  lookup: () => AppListener | undefined,
  client: AppWorker
): HandleTable.Handle | SessionError.Reason | undefined => {
  const rule = rules.isEmpty ? undefined : rules.lookup(dial.client, dial.server)
  if (rule !== undefined) {
    if (rule.action === "drop") {
      return new SessionError.Filtered({ endpoint: Endpoint.format(dial.server), rule: SessionRules.format(rule) })
    }
    if (rule.action !== "allow") return rule.action.redirect
  }
  const listener = lookup()
  return listener === undefined || (listener.isProxy && listener.app === client.app) ? undefined : listener.handle
}

const tell = (
  session: Session,
  tag: Extract<AppEvent["_tag"], "Disconnected" | "Reset" | "CleanupTransport" | "CleanupSession">
): void => {
  const { app } = session.app
  if (app.isObserved) app.tell({ _tag: tag, worker: session.app.name, session: session.id })
}

const refusal = ({ remote }: HalfOpen, why: string): SessionError.SessionError =>
  SessionError.make(new SessionError.Refused({ endpoint: Endpoint.format(remote), why }))

/** Whatever has happened, the client gets an answer. */
const whyFailed = (cause: Cause.Cause<SessionError.SessionError>): SessionError.SessionError => {
  const error = Cause.squash(cause)
  return error instanceof SessionError.SessionError ? error : allocationFailed(error)
}

const allocationFailed = (cause: unknown): SessionError.SessionError =>
  SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 0, cause }))
