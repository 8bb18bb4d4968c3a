/**
 * Real TCP beside the cut-through transport: whoever is not here is reached over
 * the network, and listeners take connections from there too, with the same code
 * on both sides.
 *
 * A `connect` looks for a listener of the session layer first. Where there is
 * none, it falls through to `node:net`. A listener of an application whose scope
 * is not `"local"` is opened as a real port as well, under the same address.
 * `connection.info.path` tells which way the bytes go; addresses are those that
 * were dialled and bound, whatever the way.
 *
 * The host's thread carries the bytes between the kernel's socket and the FIFOs
 * of the session, so applications in worker threads have TCP too.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import * as Connection from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import type { KeepAlive } from "@cut-through/core/runtime/KeepAlive"
import * as Acceptor from "@cut-through/core/session/Acceptor"
import type { App } from "@cut-through/core/session/App"
import type { AppListener } from "@cut-through/core/session/AppListener"
import type { AppWorker } from "@cut-through/core/session/AppWorker"
import * as HalfOpen from "@cut-through/core/session/HalfOpen"
import type { Session } from "@cut-through/core/session/Session"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { Transport } from "@cut-through/core/session/Transport"
import * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { Buffer } from "node:buffer"
import * as Net from "node:net"

/**
 * The name of the transport.
 *
 * @category constants
 * @since 0.1.0
 */
export const NAME = "tcp"

/** Its own application and namespace: nobody looks for anything there. */
const INSIDE = "@cut-through/tcp"

/** As many as there may be: the limits are those of the applications on the other side. */
const MANY = 2 ** 31 - 1

/**
 * How to connect and listen over TCP.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** How long a connect waits for an answer. Default: as long as the operating system does. */
  readonly connectTimeout?: Duration.Input | undefined
  /** Whether small writes leave at once, without waiting for more. Default true, unlike in Node. */
  readonly noDelay?: boolean | undefined
  /** After how long without traffic the kernel asks whether the peer is there. Default: it does not. */
  readonly keepAlive?: Duration.Input | undefined
  /** Which listeners get a real port. Default: all of applications whose scope is not `"local"`. */
  readonly opensPort?: ((endpoint: Endpoint.Endpoint, application: string) => boolean) | undefined
}

/**
 * Counts connects that have fallen through to TCP, by why: `no-listener` for an
 * address of this machine's own loopback on which no application listens,
 * `elsewhere` for all others.
 *
 * @category metrics
 * @since 0.1.0
 */
export const fallthrough: Metric.Counter<number> = Metric.counter("cut_through_fallthrough_total", {
  description: "Connects that found no listener of the session layer and went on over TCP",
  incremental: true
})

/**
 * Adds TCP to a session layer, behind the transports it has. When the scope
 * closes, its connections are reset and its ports closed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  options: Options = {}
): Effect.Effect<Transport, SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.gen(function* () {
    const layer = yield* SessionLayer
    CutThroughTransport.of(layer)
    const context = yield* Effect.context<never>()
    const namespace = yield* Effect.acquireRelease(layer.addNamespace(INSIDE, undefined), (namespace) =>
      Effect.sync(() => layer.removeNamespace(namespace))
    )
    const attached = layer.attach({ name: INSIDE, namespace: namespace.id, scope: "local", maxPending: MANY })
    const app = yield* Effect.acquireRelease(attached, (app) => Application.detach(layer, app))
    // Who falls through is introduced to it; nobody finds it by an address.
    const binding = yield* layer.bind(app, Endpoint.tcp("0.0.0.0", 0), {
      backlog: MANY,
      approval: "application",
      isProxy: true,
      workers: app.workers
    })
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.interrupt()))
    const transport = new TcpTransport(layer, app, binding.listener, scope, options, (reason) => {
      Effect.runForkWith(context)(Metric.update(Metric.withAttributes(fallthrough, { reason }), 1))
      // Who connects is on this stack, in the span of its connect if anybody looks.
      const fiber = Fiber.getCurrent()
      const span = fiber === undefined ? undefined : Context.getOrUndefined(fiber.context, Tracer.ParentSpan)
      if (span?._tag !== "Span") return
      span.attribute("cut-through.path", NAME)
      span.attribute("cut-through.fallthrough", reason)
    })
    const serve = (): void => {
      Acceptor.take(layer, binding.queue, false, (session) => {
        if (session === undefined) return
        transport.dial(session)
        serve()
      })
    }
    serve()
    layer.transports.register(transport)
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        layer.transports.unregister(transport)
        transport.closeAll()
      })
    )
    return transport
  })

/**
 * Adds TCP to a session layer.
 *
 * **Example** (Talking to a server that knows nothing of cut-through)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughNode, TcpTransport } from "@cut-through/platform"
 * import { Effect, Layer } from "effect"
 * import * as Net from "node:net"
 *
 * const server = Net.createServer((socket) => void socket.end("hello"))
 * await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve))
 * const { port } = server.address() as Net.AddressInfo
 *
 * const program = Effect.gen(function*() {
 *   const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
 *   return `${new TextDecoder().decode(yield* connection.read)} over ${connection.info.path}`
 * })
 * const layer = Layer.provideMerge(TcpTransport.layer(), CutThroughNode.layer)
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer))) // => "hello over tcp"
 * server.close()
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<never, SessionError.SessionError, SessionLayer> =>
  Layer.effectDiscard(make(options))

class TcpTransport implements Transport {
  readonly name = NAME
  readonly shortName = "TCP"
  private readonly layer: SessionLayer["Service"]
  private readonly app: App
  private readonly listener: AppListener
  private readonly scope: Scope.Scope
  private readonly options: Options
  private readonly fellThrough: (reason: string) => void
  private readonly ports = new Map<AppListener, Net.Server>()
  private readonly sockets = new Set<Net.Socket>()
  private readonly inner: Transport

  constructor(
    layer: SessionLayer["Service"],
    app: App,
    listener: AppListener,
    scope: Scope.Scope,
    options: Options,
    fellThrough: (reason: string) => void
  ) {
    this.layer = layer
    this.app = app
    this.listener = listener
    this.scope = scope
    this.options = options
    this.fellThrough = fellThrough
    this.inner = CutThroughTransport.of(layer)
  }

  reaches(): boolean {
    return true
  }

  /** What the sockets have in common, whoever has connected. */
  private get socketOptions() {
    const { keepAlive, noDelay = true } = this.options
    const probes =
      keepAlive === undefined ? {} : { keepAlive: true, keepAliveInitialDelay: Duration.toMillis(keepAlive) }
    return { allowHalfOpen: true, noDelay, ...probes }
  }

  // ---------------------------------------------------------------------------
  // connecting
  // ---------------------------------------------------------------------------

  connect(
    client: AppWorker,
    remote: Endpoint.Endpoint,
    request: HalfOpen.Request
  ): HandleTable.Handle | SessionError.Reason {
    const dial = new HalfOpen.Dial(remote, this.layer.ports.take(), "tcp")
    const started = CutThroughTransport.introduce(this.layer, client, dial, this.listener.handle, request)
    if (typeof started === "number") this.fellThrough(Endpoint.isLoopback(remote) ? "no-listener" : "elsewhere")
    return started
  }

  /** The client waits for the answer to this session: a yes once there is a connection, or why there is none. */
  dial(session: Session): void {
    const { connectTimeout } = this.options
    const remote = session.local
    const started = performance.now()
    const socket = Net.createConnection({
      host: NetAddress.formatIp(remote.address),
      port: remote.port,
      ...this.socketOptions
    })
    this.hold(socket)
    const timeout =
      connectTimeout === undefined
        ? undefined
        : setTimeout(() => {
            const millis = Duration.toMillis(connectTimeout)
            refuse(new SessionError.TimedOut({ endpoint: Endpoint.format(remote), millis }))
          }, Duration.toMillis(connectTimeout))
    const settle = () => {
      clearTimeout(timeout)
      session.doorbell.target = undefined
      socket.off("error", onError)
      socket.off("connect", onConnect)
    }
    const refuse = (reason: SessionError.Reason) => {
      settle()
      socket.on("error", () => {})
      socket.destroy()
      session.refusal = SessionError.make(reason)
      session.reset()
    }
    const onError = (error: NodeJS.ErrnoException) =>
      refuse(whyNotConnected(remote, error, Math.round(performance.now() - started)))
    const onConnect = () => {
      settle()
      session.dial.client = endpointOf(socket.localAddress, socket.localPort) ?? session.dial.client
      if (this.inner.accept(session) === undefined) this.carry(session, socket)
      else socket.destroy()
    }
    socket.once("error", onError)
    socket.once("connect", onConnect)
    session.doorbell.target = {
      onRing: () => {
        // The client has gone, or its application has.
        if (session.rx.isResetBy(Fifo.WRITER)) refuse(new SessionError.Closed({ what: "connect" }))
      }
    }
  }

  // ---------------------------------------------------------------------------
  // listening
  // ---------------------------------------------------------------------------

  startListen(listener: AppListener): Effect.Effect<void, SessionError.SessionError> {
    const { app, endpoint, isProxy } = listener
    const opens = this.options.opensPort?.(endpoint, app.name) ?? true
    if (isProxy || app.scope === "local" || !opens) return Effect.void
    return Effect.callback((resume) => {
      const server = Net.createServer({
        ...this.socketOptions,
        pauseOnConnect: true
      })
      const onError = (error: NodeJS.ErrnoException) => resume(Effect.fail(whyNotListening(endpoint, error)))
      server.once("error", onError)
      server.on("connection", (socket) => this.arrived(listener, socket))
      // `::` is every IPv6 address, as it is for connects that stay here.
      const ipv6Only = endpoint._tag === "InetAddressV6"
      server.listen(
        { host: NetAddress.formatIp(endpoint.address), port: endpoint.port, ipv6Only, exclusive: true },
        () => {
          server.off("error", onError)
          server.on("error", (error) => void Effect.runFork(Effect.logError("A TCP port failed", error)))
          this.ports.set(listener, server)
          // The listener keeps its own thread running.
          server.unref()
          resume(Effect.void)
        }
      )
      return Effect.sync(() => void server.close())
    })
  }

  stopListen(listener: AppListener): Effect.Effect<void> {
    return Effect.sync(() => {
      this.ports.get(listener)?.close()
      this.ports.delete(listener)
    })
  }

  private arrived(listener: AppListener, socket: Net.Socket): void {
    // The port is open a moment before the session layer knows the listener.
    if (listener.handle === HandleTable.NONE && !listener.isClosed) {
      setImmediate(() => this.arrived(listener, socket))
      return
    }
    this.hold(socket)
    // Until it is carried, nobody else listens.
    const onError = () => {}
    socket.on("error", onError)
    const local = endpointOf(socket.localAddress, socket.localPort)
    const remote = endpointOf(socket.remoteAddress, socket.remotePort)
    // Gone already.
    if (local === undefined || remote === undefined) return void socket.destroy()
    const dial = new HalfOpen.Dial(local, remote.port, "tcp")
    dial.client = remote
    let handle: HandleTable.Handle = HandleTable.NONE
    const onClose = () => {
      const error = SessionError.make(new SessionError.Closed({ what: "connect" }))
      if (handle !== HandleTable.NONE) this.inner.cancel(handle, error)
    }
    const started = CutThroughTransport.introduce(this.layer, this.app.workers[0], dial, listener.handle, {
      answer: (result) => {
        handle = HandleTable.NONE
        socket.off("close", onClose)
        if (result instanceof SessionError.SessionError) socket.resetAndDestroy()
        else {
          socket.off("error", onError)
          this.carry(result, socket)
        }
        return undefined
      }
    })
    if (typeof started !== "number") return void socket.resetAndDestroy()
    if (this.layer.connections.getHalfOpen(started) === undefined) return
    handle = started
    socket.once("close", onClose)
  }

  // ---------------------------------------------------------------------------
  // its connections
  // ---------------------------------------------------------------------------

  private hold(socket: Net.Socket): void {
    this.sockets.add(socket)
    socket.once("close", () => void this.sockets.delete(socket))
  }

  private carry(session: Session, socket: Net.Socket): void {
    const connection = Connection.fromSession({ wake: this.layer.wake, keepAlive: nobody }, session, this.scope)
    new Carrier(connection, session, socket).start()
  }

  closeAll(): void {
    for (const server of this.ports.values()) server.close()
    this.ports.clear()
    for (const socket of this.sockets) socket.resetAndDestroy()
  }

  // Sessions, half-opens and listeners are the cut-through transport's: this one only stands at their other end.

  cancel(): boolean {
    return false
  }

  customTx(session: Session): void {
    this.inner.customTx(session)
  }

  appRxEvt(session: Session): void {
    this.inner.appRxEvt(session)
  }

  accept(session: Session): SessionError.Reason | undefined {
    return this.inner.accept(session)
  }

  close(session: Session): void {
    this.inner.close(session)
  }

  reset(session: Session): void {
    this.inner.reset(session)
  }

  abandon(session: Session): void {
    this.inner.abandon(session)
  }

  halfClose(session: Session): void {
    this.inner.halfClose(session)
  }

  getSession(): undefined {
    return undefined
  }

  getListener(): undefined {
    return undefined
  }

  getHalfOpen(): undefined {
    return undefined
  }

  formatSession(session: Session): string {
    return this.inner.formatSession(session)
  }

  formatListener({ endpoint, handle }: AppListener): string {
    return `[0:${HandleTable.indexOf(handle)}][TCP:T] ${Endpoint.format(endpoint)}->*`
  }

  formatHalfOpen(halfOpen: HalfOpen.HalfOpen): string {
    return this.inner.formatHalfOpen(halfOpen)
  }
}

/** The socket and the application hold the process, each as long as it has something to do. */
const nobody: KeepAlive = { hold: () => {}, drop: () => {} }

const allocate = (bytes: number): Buffer => Buffer.allocUnsafeSlow(bytes)

/** Carries bytes and ends between a socket and one side of a session, with backpressure on both ways. */
class Carrier {
  private readonly connection: Connection.Connection
  private readonly session: Session
  private readonly socket: Net.Socket
  private hasEnded = false
  private isOver = false
  /** Whether bytes of the peer wait for room. */
  private isReceiving = false
  /** What is to be done when they have it. */
  private afterwards: Effect.Effect<void> | undefined = undefined

  constructor(connection: Connection.Connection, session: Session, socket: Net.Socket) {
    this.connection = connection
    this.session = session
    this.socket = socket
  }

  start(): void {
    const { connection, session, socket } = this
    const inner = session.doorbell.target
    if (inner === undefined) {
      // Its application has left in the meantime.
      socket.on("error", () => {})
      socket.destroy()
      return
    }
    session.doorbell.target = {
      onRing: () => {
        inner.onRing()
        this.look()
      }
    }
    // As long as it is open, the application's side holds the process.
    socket.unref()
    socket.on("error", () => {})
    socket.on("close", (hadError) => this.closed(hadError))
    socket.on("end", () => this.afterReceiving(connection.end))
    socket.on("data", (bytes) => this.received(bytes))
    socket.on("drain", () => this.send())
    socket.resume()
    this.send()
    this.look()
  }

  /** From the network to the application. */
  private received(bytes: Buffer): void {
    this.isReceiving = true
    Connection.writeAllUnsafe(this.connection, [bytes], (exit) => {
      this.isReceiving = false
      if (this.afterwards !== undefined) Effect.runFork(this.afterwards)
      // Nobody reads any more: what comes is dropped, and the end is on its way to the peer.
      if (Exit.isSuccess(exit) || !this.isOver) this.socket.resume()
    })
    if (this.isReceiving) this.socket.pause()
  }

  /** A socket that is paused ends and closes all the same, and ending would drop the bytes that wait. */
  private afterReceiving(effect: Effect.Effect<void>): void {
    if (this.isReceiving) this.afterwards = effect
    else Effect.runFork(effect)
  }

  /** From the application to the network, as far as it takes it. */
  private send(): void {
    for (let isMore = true; isMore;) {
      isMore = false
      let isNow = true
      Connection.takeUnsafe(this.connection, allocate, (exit) => {
        if (!this.sent(exit)) return
        if (isNow) isMore = true
        else this.send()
      })
      isNow = false
    }
  }

  /** Whether the network takes more. */
  private sent(exit: Exit.Exit<Buffer, SessionError.SessionError | Cause.Done>): boolean {
    if (Exit.isSuccess(exit)) return this.socket.write(exit.value)
    const error = Option.getOrUndefined(Exit.findErrorOption(exit))
    if (Cause.isDone(error)) {
      this.hasEnded = true
      this.socket.end()
      this.look()
    } else if (!this.isOver) this.socket.resetAndDestroy()
    return false
  }

  /** Has the application closed, beyond having ended its stream? Then nobody waits for what the peer may still send. */
  private look(): void {
    if (this.isOver || !this.session.tx.isStopped) return
    // What is left to be sent is, before the process ends.
    this.socket.ref()
    if (!this.hasEnded) return
    this.isOver = true
    this.socket.destroySoon()
  }

  private closed(hadError: boolean): void {
    this.isOver = true
    if (hadError) Effect.runFork(this.connection.reset)
    else this.afterReceiving(this.connection.close)
  }
}

/** What a dual-stack socket calls an IPv4 address. */
const MAPPED = "::ffff:"

const endpointOf = (address: string | undefined, port: number | undefined): Endpoint.Endpoint | undefined => {
  if (address === undefined || port === undefined) return undefined
  const plain =
    address.startsWith(MAPPED) && Net.isIPv4(address.slice(MAPPED.length)) ? address.slice(MAPPED.length) : address
  return Endpoint.tcp(plain.split("%")[0], port)
}

const whyNotConnected = (
  remote: Endpoint.Endpoint,
  error: NodeJS.ErrnoException,
  millis: number
): SessionError.Reason => {
  const endpoint = Endpoint.format(remote)
  switch (error.code) {
    case "ETIMEDOUT":
      return new SessionError.TimedOut({ endpoint, millis })
    case "EHOSTUNREACH":
    case "ENETUNREACH":
    case "EADDRNOTAVAIL":
      return new SessionError.NoRoute({ endpoint })
    case "ECONNRESET":
      return new SessionError.Reset({ endpoint, bytesReceived: 0 })
    case "ECONNREFUSED":
      return new SessionError.Refused({ endpoint, why: "nobody listens there" })
    default:
      return new SessionError.Refused({ endpoint, why: error.message })
  }
}

const whyNotListening = (endpoint: Endpoint.Endpoint, error: NodeJS.ErrnoException): SessionError.SessionError =>
  SessionError.make(
    error.code === "EADDRINUSE"
      ? new SessionError.AlreadyListening({ endpoint: Endpoint.format(endpoint) })
      : new SessionError.InvalidArgument({
          what: "the endpoint to listen on",
          value: Endpoint.format(endpoint),
          expected: `an address of this machine, and a port that this process may open (${error.message})`
        })
  )
