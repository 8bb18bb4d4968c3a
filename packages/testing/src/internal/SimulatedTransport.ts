/**
 * Connections between hosts of a simulated network, with what a program sees of
 * TCP: a handshake, bytes in order, half-close, resets, backpressure from reader
 * to writer, connects that nobody answers.
 *
 * Each host has a session layer and a transport of its own. What an application
 * writes goes into the FIFO it would go into anyway; the transport takes it from
 * there, and puts it into the reader's FIFO when it has come over the wire.
 */
import * as Endpoint from "@cut-through/core/Endpoint"
import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import type { Waiter } from "@cut-through/core/runtime/Wake"
import type { Batch } from "@cut-through/core/runtime/Worker"
import type { Leases } from "@cut-through/core/segment/SegmentContext"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import type { App } from "@cut-through/core/session/App"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { type AppListener, NOBODY_LISTENS, type Server } from "@cut-through/core/session/AppListener"
import type { AppWorker } from "@cut-through/core/session/AppWorker"
import { Dial, HalfOpen, type Request } from "@cut-through/core/session/HalfOpen"
import { type Path, Session } from "@cut-through/core/session/Session"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as SessionRules from "@cut-through/core/session/SessionRules"
import type { Transport } from "@cut-through/core/session/Transport"
import * as SessionError from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as NetAddress from "effect/net/NetAddress"
import type { Agenda, Item } from "./Agenda.ts"
import type { Flow, Wire } from "./Wire.ts"

type Layer = SessionLayer["Service"]

const NAME = "simulated"

/** Most bytes in one frame: what Ethernet leaves for TCP. */
const FRAME_BYTES = 1460

const CLEANUPS_PER_CALL = 100

/** What a transport needs to know of its network. Times are microseconds. */
export interface Network {
  readonly agenda: Agenda
  /** How long a connect waits for an answer. */
  readonly connectTimeout: number
  /** How long bytes are sent again and again before the connection is given up. */
  readonly giveUpAfter: number
  /** The transport of the host with this address. */
  readonly find: (remote: Endpoint.Endpoint) => SimulatedTransport | undefined
  readonly wire: (from: SimulatedTransport, to: SimulatedTransport) => Wire
}

/** Both addresses, which are not the same here. */
class RemoteDial extends Dial {
  private readonly local: Endpoint.Endpoint

  constructor(server: Endpoint.Endpoint, client: Endpoint.Endpoint) {
    super(server, client.port)
    this.local = client
  }

  override get client(): Endpoint.Endpoint {
    return this.local
  }
}

class SimulatedSession extends Session {
  tcb: Tcb | undefined = undefined

  override get path(): Path {
    return "tcp"
  }
}

/** One side of a connection, as an operating system has it: it may outlive the application's session. */
class Tcb implements Flow {
  lastArrival = 0
  readonly transport: SimulatedTransport
  readonly out: Wire
  readonly name: string
  /** The other side, from when the first frame has reached it. */
  peer: Tcb | undefined = undefined
  session: SimulatedSession | undefined = undefined
  leases: Leases | undefined = undefined
  /** The connect it is for, until it is answered. */
  halfOpen: HandleTable.Handle = HandleTable.NONE
  isDead = false
  isGone = false
  // sending
  /** What the application had written when it closed. */
  tail: Array<Uint8Array> = []
  /** How far the other side lets this one send, in bytes from the start. */
  limit = 0
  sent = 0
  wantsToEnd: "half" | "close" | undefined = undefined
  hasSentEnd = false
  // receiving
  received = 0
  /** What has arrived and found no memory. */
  waiting: Array<Uint8Array> = []
  waitingBytes = 0
  granted = 0
  hasEnd: "half" | "close" | undefined = undefined
  /** Gives up when the answer, or what it sends, stays out too long. */
  timer: Item | undefined = undefined

  constructor(transport: SimulatedTransport, out: Wire, name: string) {
    this.transport = transport
    this.out = out
    this.name = name
  }

  onStuck(): void {
    const { network } = this.transport
    if (this.isDead || this.timer !== undefined) return
    this.timer = network.agenda.add(network.agenda.now + network.giveUpAfter, () => {
      this.timer = undefined
      this.transport.broken(this)
    })
  }

  onFreed(): void {
    // A connect has its own time to wait.
    if (this.granted === 0) return
    this.stopTimer()
  }

  stopTimer(): void {
    this.transport.network.agenda.cancel(this.timer)
    this.timer = undefined
  }

  send(what: string, bytes: number, isReliable: boolean, arrive: (at: Tcb) => void): void {
    this.out.send(this, `${what} ${this.name}`, bytes, isReliable, () => {
      if (this.peer !== undefined) arrive(this.peer)
    })
  }
}

/**
 * The transport of one host. To be registered before the cut-through transport,
 * which it asks to serve the connects to the host's own addresses: so whoever
 * listens on every address gets the connects to this host, not those to others.
 */
export class SimulatedTransport implements Transport {
  readonly name = NAME
  readonly shortName = "SIM"
  readonly layer: Layer
  readonly network: Network
  /** What the host is called. */
  readonly host: string
  readonly addresses: ReadonlyArray<NetAddress.IpAddress>
  private readonly cleanups: ReadonlyArray<Batch<SimulatedSession>>
  private readonly managers: WeakMap<App, SegmentManager.SegmentManager> = new WeakMap()
  private readonly connecting: Map<HandleTable.Handle, Tcb> = new Map()
  private readonly tcbs: Set<Tcb> = new Set()
  /** Nobody is to be told of segments on this side. */
  private readonly user: SegmentManager.SegmentUser

  constructor(layer: Layer, network: Network, host: string, addresses: ReadonlyArray<NetAddress.IpAddress>) {
    this.layer = layer
    this.network = network
    this.host = host
    this.addresses = addresses
    this.cleanups = layer.workers.map((worker) => worker.batch(CLEANUPS_PER_CALL, (session) => this.cleanup(session)))
    this.user = { name: `${host} network`, segmentAdded: () => {}, segmentDeleted: (_, acknowledge) => acknowledge() }
  }

  /** Connections that this host still knows of: more than sessions, as long as something is to be sent or expected. */
  get connections(): number {
    return this.tcbs.size
  }

  /** Whether it is one of the addresses of this host. */
  hasAddress({ address }: Endpoint.Endpoint): boolean {
    return this.addresses.some((own) => Equal.equals(own, address))
  }

  reaches(remote: Endpoint.Endpoint): boolean {
    return !Endpoint.isLoopback(remote) && !this.hasAddress(remote) && this.network.find(remote) !== undefined
  }

  startListen({ endpoint, isProxy }: AppListener): Effect.Effect<void, SessionError.SessionError> {
    if (isProxy || Endpoint.isUnspecified(endpoint) || Endpoint.isLoopback(endpoint) || this.hasAddress(endpoint)) {
      return Effect.void
    }
    return Effect.fail(
      SessionError.make(
        new SessionError.InvalidArgument({
          what: "the endpoint to listen on",
          value: Endpoint.format(endpoint),
          expected: `an address of the host ${JSON.stringify(this.host)}`
        })
      )
    )
  }

  stopListen(): Effect.Effect<void> {
    return Effect.void
  }

  // ---------------------------------------------------------------------------
  // connecting
  // ---------------------------------------------------------------------------

  connect(client: AppWorker, remote: Endpoint.Endpoint, request: Request): HandleTable.Handle | SessionError.Reason {
    const server = this.reaches(remote) && client.app.scope !== "local" ? this.network.find(remote) : undefined
    const isV4 = NetAddress.isIpv4Address(remote.address)
    const own = this.addresses.find((address) => NetAddress.isIpv4Address(address) === isV4)
    const elsewhere = new SessionError.LocalConnect({ endpoint: Endpoint.format(remote) })
    if (server === undefined || own === undefined) return elsewhere
    const { layer, network } = this
    const local = NetAddress.inetAddressUnsafe(own, layer.ports.take())
    const ruled = this.ruled(client, local, remote)
    if (ruled !== undefined) return ruled
    if (client.app.thread !== undefined) {
      const expected = "an application in the thread of the simulated network"
      return new SessionError.InvalidArgument({ what: "the application", value: client.name, expected })
    }
    const refused = client.app.whyNotConnect()
    if (refused !== undefined) return refused
    layer.counters.connects++
    const dial = new RemoteDial(remote, local)
    const halfOpen = new HalfOpen(client, this, dial, HandleTable.NONE, request)
    halfOpen.worker = layer.selectWorker().index
    const handle = layer.connections.addHalfOpen(halfOpen)
    const tcb = this.open(network.wire(this, server), `${Endpoint.format(local)}->${Endpoint.format(remote)}`)
    tcb.halfOpen = handle
    this.connecting.set(handle, tcb)
    const manager = this.managerOf(client.app)
    this.acquire(halfOpen.worker, { manager, client, server: this.user }, (leases) => {
      if (layer.connections.getHalfOpen(handle) === undefined || leases instanceof SessionError.SessionError) {
        this.forget(tcb)
        this.connecting.delete(handle)
        if (leases instanceof SessionError.SessionError) this.answer(halfOpen, leases)
        else this.release(leases)
        return
      }
      tcb.leases = leases
      const window = leases.tx.size
      tcb.timer = network.agenda.add(network.agenda.now + network.connectTimeout, () => {
        tcb.timer = undefined
        const endpoint = Endpoint.format(remote)
        const millis = network.connectTimeout / 1000
        this.cancel(handle, SessionError.make(new SessionError.TimedOut({ endpoint, millis })))
      })
      tcb.out.send(tcb, `connect ${tcb.name}`, 0, true, () => server.onConnect(tcb, dial, window))
    })
    return handle
  }

  /** What the host's session rules and proxies say about a connect to another host, if anything. */
  private ruled(
    client: AppWorker,
    local: Endpoint.Endpoint,
    remote: Endpoint.Endpoint
  ): SessionError.Reason | undefined {
    const { namespace, scope } = client.app
    for (const { rules, table } of scope === "global" ? [this.layer.global] : [namespace, this.layer.global]) {
      const rule = rules.isEmpty ? undefined : rules.lookup(local, remote)
      if (rule?.action === "drop") {
        return new SessionError.Filtered({ endpoint: Endpoint.format(remote), rule: SessionRules.format(rule) })
      }
      const proxy = table.find(remote, true)
      if (rule !== undefined && rule.action !== "allow") rule.hits--
      else if (proxy === undefined || proxy.app === client.app) continue
      // Somebody on this host takes it: the cut-through transport leads there.
      return new SessionError.LocalConnect({ endpoint: Endpoint.format(remote) })
    }
    return undefined
  }

  /** A connect has come from another host. */
  private onConnect(from: Tcb, dial: Dial, window: number): void {
    const { layer, network } = this
    const tcb = this.open(
      network.wire(this, from.transport),
      `${Endpoint.format(dial.server)}->${Endpoint.format(dial.client)}`
    )
    tcb.peer = from
    from.peer = tcb
    tcb.limit = window
    const found = layer.global.table.lookupGlobal(dial.server)
    const listener = found?.isProxy === true ? undefined : found
    const server = listener === undefined ? "nobody listens there" : listener.selectServer()
    if (listener === undefined || typeof server === "string") return this.refuse(tcb, dial, server as string)
    const worker = layer.selectWorker().index
    this.acquire(worker, { manager: server.manager, client: this.user, server: server.worker }, (leases) => {
      const refused = leases instanceof SessionError.SessionError ? leases.message : this.whyNot(listener, server, tcb)
      if (leases instanceof SessionError.SessionError) return this.refuse(tcb, dial, refused!)
      if (refused !== undefined) {
        this.release(leases)
        return this.refuse(tcb, dial, refused)
      }
      this.introduce(tcb, dial, listener, server, leases, worker)
    })
  }

  private whyNot(listener: AppListener, server: Server, tcb: Tcb): string | undefined {
    return tcb.isDead ? "its client has gone" : listener.whyNot(server, 0)
  }

  private introduce(tcb: Tcb, dial: Dial, listener: AppListener, server: Server, leases: Leases, worker: number): void {
    const halfOpen = new HalfOpen(server.worker, this, dial, listener.handle, { answer: () => undefined })
    halfOpen.worker = worker
    const session = this.sessionOf("server", halfOpen, server.worker, leases, tcb)
    session.become("accepting")
    server.queue.add(session)
    const { app } = server.worker
    if (app.isObserved) {
      app.tell({
        _tag: "Accepted",
        worker: server.worker.name,
        session: session.id,
        listener: listener.endpoint,
        local: session.local,
        remote: session.remote,
        segment: session.lease.segment.id
      })
    }
    if (listener.approval === "listener") this.accept(session)
    this.wakeLater(worker, server.queue.accepters.shift())
  }

  private sessionOf(
    side: "client" | "server",
    halfOpen: HalfOpen,
    app: AppWorker,
    leases: Leases,
    tcb: Tcb
  ): SimulatedSession {
    const peer = { ring: () => this.pump(tcb) }
    const session = new SimulatedSession(
      side,
      this,
      halfOpen,
      app,
      leases,
      new LocalDoorbell(),
      peer,
      undefined,
      this.layer.changes
    )
    tcb.session = session
    tcb.leases = leases
    tcb.granted = session.rx.size
    session.tcb = tcb
    this.layer.connections.addSession(session)
    return session
  }

  accept(session: Session): SessionError.Reason | undefined {
    const { tcb } = session as SimulatedSession
    if (session.state !== "accepting" || tcb === undefined) {
      const endpoint = Endpoint.format(session.remote)
      return session.state === "ready"
        ? new SessionError.InvalidArgument({
            what: "the session to accept",
            value: this.formatSession(session),
            expected: "one that was not accepted yet"
          })
        : new SessionError.Reset({ endpoint, bytesReceived: 0 })
    }
    session.become("ready")
    const window = session.rx.size
    tcb.send("accept", 0, true, (client) => client.transport.onAccepted(client, window))
    return undefined
  }

  /** The other host has said yes. */
  private onAccepted(tcb: Tcb, window: number): void {
    const halfOpen = tcb.isDead ? undefined : this.halfOpenOf(tcb)
    // Its client has not waited for it.
    if (halfOpen === undefined) return this.abort(tcb)
    const { leases } = tcb
    tcb.stopTimer()
    tcb.limit = window
    const session = this.sessionOf("client", halfOpen, halfOpen.client, leases!, tcb)
    session.become("connecting")
    session.become("ready")
    this.connecting.delete(halfOpen.handle)
    this.answer(halfOpen, session)
  }

  private refuse(tcb: Tcb, { server }: Dial, why: string): void {
    const error = SessionError.make(new SessionError.Refused({ endpoint: Endpoint.format(server), why }))
    tcb.send("refuse", 0, true, (client) => client.transport.onRefused(client, error))
    this.forget(tcb)
  }

  private onRefused(tcb: Tcb, error: SessionError.SessionError): void {
    const halfOpen = tcb.isDead ? undefined : this.halfOpenOf(tcb)
    this.forget(tcb)
    if (halfOpen === undefined) return
    this.connecting.delete(halfOpen.handle)
    this.answer(halfOpen, error)
    this.giveBack(tcb)
  }

  private halfOpenOf(tcb: Tcb): HalfOpen | undefined {
    return this.connecting.get(tcb.halfOpen) === tcb ? this.layer.connections.getHalfOpen(tcb.halfOpen) : undefined
  }

  cancel(handle: HandleTable.Handle, error: SessionError.SessionError): boolean {
    const halfOpen = this.layer.connections.getHalfOpen(handle)
    const tcb = this.connecting.get(handle)
    if (halfOpen?.transport !== this || !this.settle(halfOpen, error)) return false
    this.connecting.delete(handle)
    if (tcb !== undefined) {
      this.giveBack(tcb)
      this.abort(tcb)
    }
    this.wakeLater(halfOpen.worker, halfOpen.request.answer(error))
    return true
  }

  private answer(halfOpen: HalfOpen, result: Session | SessionError.SessionError): void {
    if (this.settle(halfOpen, result)) this.wakeLater(halfOpen.worker, halfOpen.request.answer(result))
  }

  private settle(halfOpen: HalfOpen, result: Session | SessionError.SessionError): boolean {
    const { connections, counters } = this.layer
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

  // ---------------------------------------------------------------------------
  // closing
  // ---------------------------------------------------------------------------

  close(session: Session): void {
    this.closing(session as SimulatedSession, session.rx.readable !== 0)
  }

  reset(session: Session): void {
    this.closing(session as SimulatedSession, true)
  }

  /** Its operating system breaks off for it. */
  abandon(session: Session): void {
    this.closing(session as SimulatedSession, true)
  }

  private closing(session: SimulatedSession, reset: boolean): void {
    if (session.isClosing) return
    const wasAccepting = session.state === "accepting"
    session.become("closing")
    session.isReset = reset || wasAccepting
    session.queue?.remove(session)
    session.doorbell.target = undefined
    session.owner?.onClosing()
    session.isTxEnded = true
    const tcb = session.tcb!
    tcb.session = undefined
    if (!tcb.isDead) {
      if (wasAccepting) {
        const isThere = this.layer.getListener(session.listener) !== undefined
        this.refuse(tcb, { server: session.local } as Dial, isThere ? "its application said no" : NOBODY_LISTENS)
      } else if (session.isReset || tcb.waiting.length > 0) this.abort(tcb)
      else {
        // From here on it is the operating system's to send, however long that takes.
        tcb.tail = drain(session.tx)
        tcb.wantsToEnd = "close"
        this.pump(tcb)
        this.forgetIfDone(tcb)
      }
    }
    this.cleanups[session.worker].add(session)
  }

  /** The call on the worker's queue. */
  private cleanup(session: SimulatedSession): void {
    const { connections, counters } = this.layer
    session.become("app-closed")
    if (session.isReset) counters.reset++
    else counters.closed++
    tell(session, "CleanupTransport")
    session.become("closed")
    connections.removeSession(session)
    tell(session, "CleanupSession")
    this.giveBack(session.tcb!)
    session.onClosed?.()
  }

  halfClose(session: Session): void {
    const { tcb } = session as SimulatedSession
    if (session.isTxEnded) return
    session.isTxEnded = true
    session.tx.end()
    if (tcb === undefined || tcb.wantsToEnd !== undefined) return
    tcb.wantsToEnd = "half"
    this.pump(tcb)
  }

  /** Breaks off: the other host hears of it, if that gets through. */
  private abort(tcb: Tcb): void {
    tcb.send("reset", 0, false, (at) => at.transport.onReset(at))
    tcb.isGone = true
    this.forget(tcb)
  }

  private onReset(tcb: Tcb): void {
    if (tcb.isDead) return
    const { session } = tcb
    this.forget(tcb)
    if (session === undefined) return
    const wasAccepting = session.state === "accepting"
    session.rx.reset(Fifo.WRITER)
    session.tx.reset(Fifo.READER)
    session.isRxEnded = true
    if (session.state === "ready" || wasAccepting) {
      session.become("transport-closing")
      tell(session, "Reset")
    }
    if (session.queue !== undefined && wasAccepting) {
      session.queue.remove(session)
      this.reset(session)
    } else session.doorbell.ring()
  }

  /** What was sent has stayed without an answer for too long. */
  broken(tcb: Tcb): void {
    tcb.isGone = true
    this.onReset(tcb)
  }

  // ---------------------------------------------------------------------------
  // bytes
  // ---------------------------------------------------------------------------

  customTx(session: Session): void {
    const { tcb } = session as SimulatedSession
    if (tcb !== undefined) this.pump(tcb)
  }

  appRxEvt(session: Session): void {
    const { tcb } = session as SimulatedSession
    if (tcb === undefined || tcb.isDead) return
    this.deliver(tcb)
    this.grant(tcb)
  }

  /** Sends what there is, as far as the other side lets it, and then the end. */
  private pump(tcb: Tcb): void {
    if (tcb.isDead) return
    for (let bytes = this.next(tcb); bytes !== undefined; bytes = this.next(tcb)) {
      const data = bytes
      tcb.sent += data.length
      tcb.send(`${data.length} bytes`, data.length, true, (at) => at.transport.onBytes(at, data))
    }
    const { session } = tcb
    const isEmpty = tcb.tail.length === 0 && (session === undefined || session.tx.readable === 0)
    if (tcb.wantsToEnd === undefined || tcb.hasSentEnd || !isEmpty) return
    tcb.hasSentEnd = true
    const how = tcb.wantsToEnd
    tcb.send("end", 0, true, (at) => at.transport.onEnd(at, how))
    this.forgetIfDone(tcb)
  }

  /** The next bytes to send, if any may be sent. */
  private next(tcb: Tcb): Uint8Array | undefined {
    const room = Math.min(tcb.limit - tcb.sent, FRAME_BYTES)
    if (tcb.tail.length > 0) {
      if (room <= 0) return undefined
      const first = tcb.tail[0]
      if (first.length <= room) return tcb.tail.shift()
      tcb.tail[0] = first.subarray(room)
      return first.subarray(0, room)
    }
    const { session } = tcb
    if (session === undefined) return undefined
    const { tx } = session
    if (tx.readable === 0) {
      // From here on the application says when it has written something, and until now it may have.
      tx.unsetEvent()
      if (tx.readable === 0) return undefined
    }
    const length = Math.min(room, tx.readable)
    if (length <= 0) return undefined
    const bytes = new Uint8Array(length)
    const count = tx.dequeue(bytes, 0, length)
    if (count <= 0) return undefined
    if (tx.needsDequeueNotification(count)) {
      tx.clearDequeueNotification()
      session.doorbell.ring()
    }
    return bytes
  }

  private onBytes(tcb: Tcb, bytes: Uint8Array): void {
    // Nobody reads it any more, and whoever writes is told.
    if (tcb.isDead || tcb.session === undefined) return this.abort(tcb)
    tcb.received += bytes.length
    tcb.waiting.push(bytes)
    tcb.waitingBytes += bytes.length
    this.deliver(tcb)
    this.grant(tcb)
  }

  /** Puts what has arrived where the application reads it. */
  private deliver(tcb: Tcb): void {
    const { session } = tcb
    if (session === undefined) return
    const { rx } = session
    let count = 0
    while (tcb.waiting.length > 0) {
      const bytes = tcb.waiting[0]
      const put = rx.enqueue(bytes, 0, bytes.length)
      if (put <= 0) break
      count += put
      tcb.waitingBytes -= put
      if (put === bytes.length) tcb.waiting.shift()
      else tcb.waiting[0] = bytes.subarray(put)
    }
    // To be told when there is room again, also for what the other side may send then.
    if (tcb.waiting.length > 0) rx.wantDequeueNotification(Fifo.WANT_ROOM, 1)
    else if (rx.used > 0) rx.wantDequeueNotification(Fifo.WANT_ROOM, rx.size >>> 1)
    if (count > 0 && rx.setEvent()) session.doorbell.ring()
    this.end(tcb)
  }

  /** Lets the other side send as much more as was read. */
  private grant(tcb: Tcb): void {
    const { session } = tcb
    if (session === undefined || tcb.isDead || tcb.hasEnd !== undefined) return
    const { rx } = session
    const limit = tcb.received - tcb.waitingBytes - rx.used + rx.size
    // Not for every byte: until half a FIFO was read, the other half is there to be written to.
    if (limit - tcb.granted < Math.max(1, rx.size >>> 1)) return
    tcb.granted = limit
    tcb.send("window", 0, true, (at) => at.transport.onGranted(at, limit))
  }

  private onGranted(tcb: Tcb, limit: number): void {
    if (tcb.isDead) return
    tcb.limit = Math.max(tcb.limit, limit)
    this.pump(tcb)
  }

  private onEnd(tcb: Tcb, how: "half" | "close"): void {
    // Broken off, and the other side has not heard of it.
    if (tcb.isDead) return this.abort(tcb)
    tcb.hasEnd = how
    this.end(tcb)
    this.forgetIfDone(tcb)
  }

  /** The end is behind the last byte. */
  private end(tcb: Tcb): void {
    const { hasEnd, session } = tcb
    if (hasEnd === undefined || session === undefined || session.isRxEnded || tcb.waiting.length > 0) return
    session.isRxEnded = true
    session.rx.end()
    if (hasEnd === "close" && session.state === "ready") {
      session.become("transport-closing")
      tell(session, "Disconnected")
    }
    session.doorbell.ring()
  }

  // ---------------------------------------------------------------------------
  // memory and tables
  // ---------------------------------------------------------------------------

  private open(out: Wire, name: string): Tcb {
    const tcb = new Tcb(this, out, name)
    this.tcbs.add(tcb)
    return tcb
  }

  private forget(tcb: Tcb): void {
    tcb.isDead = true
    tcb.tail = []
    tcb.waiting = []
    tcb.waitingBytes = 0
    tcb.stopTimer()
    this.tcbs.delete(tcb)
  }

  /** Both have ended, and no application is left on this side. What arrives late is answered with a reset. */
  private forgetIfDone(tcb: Tcb): void {
    if (tcb.hasSentEnd && tcb.hasEnd !== undefined && tcb.session === undefined) this.forget(tcb)
  }

  private managerOf(app: App): SegmentManager.SegmentManager {
    const known = this.managers.get(app)
    if (known !== undefined) return known
    const { properties } = app
    // The sizes are named as a server has them, and here the application is the client.
    const swapped = { ...properties, rxFifoSize: properties.txFifoSize, txFifoSize: properties.rxFifoSize }
    const manager = Effect.runSync(SegmentManager.make(`${app.name} network`, swapped, app))
    this.managers.set(app, manager)
    return manager
  }

  /** Memory for one side, now or later; `taken` gets it, or why there is none. */
  private acquire(
    worker: number,
    request: Parameters<Layer["segments"]["tryAcquire"]>[0],
    taken: (leases: Leases | SessionError.SessionError) => void
  ): void {
    const { segments } = this.layer
    let leases: Leases | SessionError.SessionError | undefined
    try {
      leases = segments.tryAcquire(request)
    } catch (defect) {
      leases = allocationFailed(defect)
    }
    if (leases !== undefined) return taken(leases)
    this.layer.worker(worker).send(
      Effect.uninterruptible(
        Effect.matchCause(segments.acquire(request), {
          onFailure: (cause) => taken(whyFailed(cause)),
          onSuccess: taken
        })
      )
    )
  }

  /** Both sides of the memory of one connection: one is the application's, the other this transport's. */
  private giveBack(tcb: Tcb): void {
    const { leases } = tcb
    tcb.leases = undefined
    if (leases !== undefined) this.release(leases)
  }

  private release({ client, server }: Leases): void {
    this.layer.segments.release(client)
    this.layer.segments.release(server)
  }

  private wakeLater(worker: number, waiter: Waiter | undefined): void {
    if (waiter !== undefined) this.layer.worker(worker).after(() => this.layer.wake.wake(waiter))
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

  formatSession({ handle, local, remote, worker }: Session): string {
    return `[${worker}:${HandleTable.indexOf(handle)}][SIM:T] ${Endpoint.format(local)}->${Endpoint.format(remote)}`
  }

  formatListener({ endpoint, handle }: AppListener): string {
    return `[0:${HandleTable.indexOf(handle)}][SIM:T] ${Endpoint.format(endpoint)}->*`
  }

  formatHalfOpen({ handle, local, remote, worker }: HalfOpen): string {
    return `[${worker}:${HandleTable.indexOf(handle)}][SIM:T] ${Endpoint.format(local)}->${Endpoint.format(remote)}`
  }
}

/** All that was written and not taken yet. */
const drain = (tx: Fifo.Fifo): Array<Uint8Array> => {
  const readable = tx.readable
  if (readable <= 0) return []
  const bytes = new Uint8Array(readable)
  return tx.dequeue(bytes, 0, readable) === readable ? [bytes] : []
}

const tell = (
  session: Session,
  tag: Extract<AppEvent["_tag"], "Disconnected" | "Reset" | "CleanupTransport" | "CleanupSession">
): void => {
  const { app } = session.app
  if (app.isObserved) app.tell({ _tag: tag, worker: session.app.name, session: session.id })
}

const whyFailed = (cause: Cause.Cause<SessionError.SessionError>): SessionError.SessionError => {
  const error = Cause.squash(cause)
  return error instanceof SessionError.SessionError ? error : allocationFailed(error)
}

const allocationFailed = (cause: unknown): SessionError.SessionError =>
  SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 0, cause }))
