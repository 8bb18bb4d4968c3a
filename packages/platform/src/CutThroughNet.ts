/**
 * `node:net` over cut-through, for code that is not Effect: `createServer`,
 * `connect`, `Server` and `Socket`, with the same signatures, events and errors.
 *
 * There is nothing to set up. The functions of this module share a session layer
 * of their own, which is made when it is first used: in the main thread that of
 * `CutThroughNode.layer`, in worker threads an application attached to the main
 * thread's, as `CutThroughWorker.layer` does. Programs that have a session layer
 * already use {@link make}, and those with layers but without Effect
 * {@link makeRuntime}; what either returns stands where `node:net` stands.
 *
 * **What differs from `node:net`** (and see `CutThroughDuplex`):
 *
 * - Unix sockets (`path`), file descriptors and handles of others are given to
 *   the real `node:net`, by `connect` and by `listen`.
 * - `onread`, `localAddress` and `localPort` throw `ENOTSUP`.
 * - Classes are called with `new`.
 * - A server without a `host` listens on `::` and `0.0.0.0`, whether the machine
 *   has IPv6 or not.
 * - A server on every address and one on a single address can have the same
 *   port: the latter gets the connections to its address.
 *
 * @since 0.1.0
 */
import { Application } from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { Listener } from "@cut-through/core/Listener"
import type { SessionError } from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import * as dns from "node:dns"
import { EventEmitter } from "node:events"
import * as net from "node:net"
import { isMainThread } from "node:worker_threads"
import { addressInfo, CutThroughDuplex, later } from "./CutThroughDuplex.ts"
import * as CutThroughNode from "./CutThroughNode.ts"
import * as CutThroughWorker from "./CutThroughWorker.ts"
import * as nodeError from "./internal/nodeError.ts"

// -----------------------------------------------------------------------------
// networks
// -----------------------------------------------------------------------------

/** What sockets and servers need of the world. */
interface Ready {
  readonly application: Application["Service"]
  /** Connections live here, unless they are closed before. */
  readonly scope: Scope.Scope
}

/** An application that may not be there yet, and the sockets and servers that use it. */
class Network {
  readonly members = new Set<Socket | Server>()
  readonly use: (then: (exit: Exit.Exit<Ready, unknown>) => void) => void

  constructor(use: (then: (exit: Exit.Exit<Ready, unknown>) => void) => void) {
    this.use = use
  }

  /** Closes whatever is open, and waits until it is. */
  close(reset: boolean): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.forEach(
        Array.from(this.members),
        (member) =>
          Effect.callback<void>((resume) => {
            member.once("close", () => resume(Effect.void))
            if (member instanceof Server) member.close()
            else if (reset && !member.connecting) member.resetAndDestroy()
            else member.destroy()
          }),
        { concurrency: "unbounded", discard: true }
      )
    )
  }
}

const networkOf = <E>(runtime: ManagedRuntime.ManagedRuntime<Application, E>, scope: Scope.Scope): Network => {
  let ready: Exit.Exit<Ready> | undefined
  return new Network((then) => {
    if (ready !== undefined) return then(ready)
    runtime.runCallback(
      Effect.map(Application, (application): Ready => ({ application, scope })),
      {
        onExit: (exit) => {
          if (Exit.isSuccess(exit)) ready = Exit.succeed(exit.value)
          then(exit)
        }
      }
    )
  })
}

let madeDefault: Network | undefined

/** That of this thread, which is there as long as the thread is. */
const defaultNetwork = (): Network =>
  (madeDefault ??= networkOf(
    ManagedRuntime.make<Application, SessionError>(isMainThread ? CutThroughNode.layer : CutThroughWorker.layer()),
    Scope.makeUnsafe()
  ))

// -----------------------------------------------------------------------------
// arguments
// -----------------------------------------------------------------------------

type Options = Record<string, any>

const toNumber = (value: unknown): number | undefined => {
  const number = Number(value)
  return number >= 0 ? number : undefined
}

/** What `connect` and `listen` take in so many ways. */
const normalize = (args: ReadonlyArray<any>): { options: Options; callback: (() => void) | undefined } => {
  const [first, second] = args
  const last = args.at(-1)
  const callback = typeof last === "function" ? last : undefined
  if (args.length === 0) return { options: {}, callback }
  if (typeof first === "object" && first !== null) return { options: { ...first }, callback }
  if (typeof first === "string" && toNumber(first) === undefined) return { options: { path: first }, callback }
  return { options: typeof second === "string" ? { port: first, host: second } : { port: first }, callback }
}

const missingArguments = () =>
  nodeError.coded(new TypeError('The "options" or "port" or "path" argument must be specified'), "ERR_MISSING_ARGS")

const checkDelay = (options: Options): void => {
  const { keepAliveInitialDelay } = options
  if (keepAliveInitialDelay !== undefined && typeof keepAliveInitialDelay !== "number") {
    throw nodeError.invalidType("options.keepAliveInitialDelay", "of type number", keepAliveInitialDelay)
  }
}

const checkBlockList = (options: Options): net.BlockList | undefined => {
  const { blockList } = options
  if (!blockList) return undefined
  if (!(blockList instanceof net.BlockList)) {
    throw nodeError.invalidType("options.blockList", "an instance of net.BlockList", blockList)
  }
  return blockList
}

const isBlocked = (list: net.BlockList | undefined, address: string): boolean =>
  list !== undefined && list.check(address, net.isIPv6(address) ? "ipv6" : "ipv4")

const errorOf = (
  exit: Exit.Failure<unknown, unknown>,
  syscall: nodeError.Syscall,
  where: { readonly address: string; readonly port: number }
): Error => {
  const error = Cause.squash(exit.cause)
  return error instanceof Error && "reason" in error
    ? nodeError.fromSessionError(error as SessionError, syscall, where)
    : error instanceof Error
      ? error
      : new Error(String(error))
}

// -----------------------------------------------------------------------------
// sockets
// -----------------------------------------------------------------------------

interface Address {
  readonly address: string
  readonly family: number
}

/**
 * `net.Socket`: what `connect` returns, and what a server's listeners get.
 *
 * **Example** (Connecting)
 *
 * ```ts
 * import { CutThroughNet } from "@cut-through/platform"
 * import { once } from "node:events"
 *
 * const server = CutThroughNet.createServer((socket) => socket.end("hello"))
 * await once(server.listen(7001, "127.0.0.1"), "listening")
 *
 * const socket = new CutThroughNet.Socket()
 * socket.connect(7001, "127.0.0.1")
 * const [data] = await once(socket, "data")
 * String(data) // => "hello"
 *
 * await once(server.close(), "close")
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class Socket extends CutThroughDuplex {
  /** The attempt to connect that counts. */
  #attempt = 0
  #abandon: (() => void) | undefined = undefined
  #blockList: net.BlockList | undefined

  constructor(options?: net.SocketConstructorOpts) {
    const given: Options = options ?? {}
    for (const name of ["objectMode", "readableObjectMode", "writableObjectMode"]) {
      if (given[name]) throw nodeError.invalidValue(`options.${name}`, given[name], "is not supported")
    }
    checkDelay(given)
    if (given.onread) throw nodeError.unsupported("the option onread", "read with 'data', or use node:net")
    if (given.handle !== undefined || given.fd !== undefined) {
      throw nodeError.unsupported("a handle or a file descriptor", "use a Socket of node:net for it")
    }
    super(given)
    this.#blockList = checkBlockList(given)
  }

  /** @internal */
  get network(): Network {
    return defaultNetwork()
  }

  /** Connects, as `net.Socket.connect` does. */
  override connect(options: net.SocketConnectOpts, connectionListener?: () => void): this
  override connect(port: number, host: string, connectionListener?: () => void): this
  override connect(port: number, connectionListener?: () => void): this
  override connect(path: string, connectionListener?: () => void): this
  override connect(...args: Array<any>): this {
    const { callback, options } = normalize(args)
    if (options.path) {
      throw nodeError.unsupported("a path", "use connect of this module, which returns a socket of node:net for it")
    }
    if (options.port === undefined) throw missingArguments()
    for (const name of ["localAddress", "localPort"]) {
      if (options[name] !== undefined) throw nodeError.unsupported(`the option ${name}`, "leave it out")
    }
    const { host = "localhost", lookup = dns.lookup } = options
    if (host !== null && typeof host !== "string") {
      throw nodeError.invalidType("options.host", "of type string", host)
    }
    if (typeof options.port !== "number" && typeof options.port !== "string") {
      throw nodeError.invalidType("options.port", "one of type number or string", options.port)
    }
    const port = nodeError.validPort(options.port, "Port")
    if (typeof lookup !== "function") throw nodeError.invalidType("options.lookup", "of type function", lookup)
    const blockList = checkBlockList(options)
    if (blockList !== undefined) this.#blockList = blockList
    if (callback !== undefined) this.once("connect", callback)
    if (this.destroyed) this.revive()
    this.touch()
    this.connecting = true
    this.autoSelectFamilyAttemptedAddresses = []
    this.network.members.add(this)
    const attempt = ++this.#attempt
    const name = host || "localhost"
    const family = net.isIP(name)
    if (family !== 0) process.nextTick(() => this.#reach([{ address: name, family }], port, attempt))
    else this.#resolve(name, port, options, lookup, attempt)
    return this
  }

  #resolve(host: string, port: number, options: Options, lookup: net.LookupFunction, attempt: number): void {
    const { autoSelectFamily = net.getDefaultAutoSelectFamily(), family, hints } = options
    const all = Boolean(autoSelectFamily) && family !== 4 && family !== 6
    const wanted: dns.LookupOptions = { family: family ?? 0, hints: hints ?? 0, ...(all ? { all } : undefined) }
    lookup(host, wanted, (error, found, kind) => {
      const addresses = Array.isArray(found) ? found : [{ address: found, family: kind ?? net.isIP(String(found)) }]
      if (error === null || error === undefined) {
        for (const { address, family } of addresses) this.emit("lookup", error, address, family, host)
      } else {
        this.emit("lookup", error, undefined, undefined, host)
      }
      if (!this.#isCurrent(attempt)) return
      if (error) return void process.nextTick(() => this.destroy(error))
      const usable = addresses.filter(({ address }) => net.isIP(address) !== 0)
      if (usable.length > 0) return this.#reach(interleaved(usable), port, attempt)
      const why = new TypeError(`Invalid IP address: ${found as string}`)
      process.nextTick(() => this.destroy(nodeError.coded(why, "ERR_INVALID_IP_ADDRESS")))
    })
  }

  #isCurrent(attempt: number): boolean {
    return this.connecting && this.#attempt === attempt
  }

  #reach(addresses: ReadonlyArray<Address>, port: number, attempt: number): void {
    if (!this.#isCurrent(attempt)) return
    this.network.use((exit) => {
      if (!this.#isCurrent(attempt)) return
      if (Exit.isSuccess(exit)) return this.#tryNext(exit.value, addresses, port, attempt, [])
      const error = errorOf(exit, "connect", { address: addresses[0].address, port })
      process.nextTick(() => this.destroy(error))
    })
  }

  #tryNext(ready: Ready, addresses: ReadonlyArray<Address>, port: number, attempt: number, errors: Array<Error>): void {
    if (!this.#isCurrent(attempt)) return
    const [first, ...others] = addresses
    if (first === undefined) return void this.destroy(errors.length === 1 ? errors[0] : together(errors))
    const { address, family } = first
    const failed = (error: Error): void => {
      if (!this.#isCurrent(attempt)) return
      this.emit("connectionAttemptFailed", address, port, family, error)
      this.#tryNext(ready, others, port, attempt, [...errors, error])
    }
    this.autoSelectFamilyAttemptedAddresses.push(`${address}:${port}`)
    this.emit("connectionAttempt", address, port, family)
    if (isBlocked(this.#blockList, address)) {
      return failed(nodeError.coded(new Error(`IP(${address}) is blocked by net.BlockList`), "ERR_IP_BLOCKED"))
    }
    let endpoint: Endpoint.Endpoint
    try {
      endpoint = Endpoint.tcp(address, port)
    } catch (error) {
      return failed(nodeError.fromSessionError(error as SessionError, "connect", { address, port }))
    }
    this.#abandon = Effect.runCallback(Scope.provide(ready.application.connect(endpoint), ready.scope), {
      onExit: (exit) => {
        this.#abandon = undefined
        if (Exit.isSuccess(exit)) {
          if (!this.#isCurrent(attempt)) return void Effect.runFork(exit.value.reset)
          // It has an owner at once, and says so in a turn of its own.
          this.attach(exit.value)
          return process.nextTick(() => this.#connected(attempt))
        }
        if (this.#isCurrent(attempt)) process.nextTick(failed, errorOf(exit, "connect", { address, port }))
      }
    })
  }

  #connected(attempt: number): void {
    if (!this.#isCurrent(attempt)) return
    this.connecting = false
    this.touch()
    this.emit("connect")
    this.emit("ready")
    // As `net` does: who is told of nothing but the end, or of an error, need not read.
    if (!this.destroyed && !this.isPaused()) this.read(0)
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    const abandon = this.#abandon
    this.#abandon = undefined
    this.prependOnceListener("close", () => this.network.members.delete(this))
    super._destroy(error, callback)
    abandon?.()
  }
}

/** Both families in turn, beginning with the first one's. */
const interleaved = (addresses: ReadonlyArray<Address>): ReadonlyArray<Address> => {
  const first = addresses.filter(({ family }) => family === addresses[0].family)
  const second = addresses.filter(({ family }) => family !== addresses[0].family)
  return Array.from({ length: Math.max(first.length, second.length) }, (_, i) => [first[i], second[i]])
    .flat()
    .filter((address) => address !== undefined)
}

const together = (errors: ReadonlyArray<Error>): AggregateError =>
  nodeError.coded(new AggregateError(errors), (errors[0] as NodeJS.ErrnoException).code ?? "ECONNREFUSED")

// -----------------------------------------------------------------------------
// servers
// -----------------------------------------------------------------------------

/** A server that listens, or is about to. */
interface Listening {
  readonly scope: Scope.Closeable
  listeners: ReadonlyArray<Listener>
  address: net.AddressInfo | undefined
}

/** As often a free port is looked for that is free for both families. */
const PORT_ATTEMPTS = 16

/**
 * `net.Server`: listens, and emits `connection` with a {@link Socket} for each.
 *
 * @category models
 * @since 0.1.0
 */
export class Server extends EventEmitter {
  /** Most connections at once; further ones are closed and told with `drop`. Default: any number. */
  declare maxConnections: number
  /** Whether connections stay writable when the other side has ended its stream. */
  allowHalfOpen: boolean
  /** Whether connections are paused when they are emitted. */
  pauseOnConnect: boolean
  readonly #highWaterMark: number | undefined
  readonly #blockList: net.BlockList | undefined
  readonly #options: Options
  #state: Listening | undefined = undefined
  /** For what is no business of ours: paths, handles, file descriptors. */
  #other: net.Server | undefined = undefined
  #isReferenced = true
  #isClosing = false
  #count = 0

  constructor(connectionListener?: (socket: Socket) => void)
  constructor(options?: net.ServerOpts, connectionListener?: (socket: Socket) => void)
  constructor(first?: net.ServerOpts | ((socket: Socket) => void), second?: (socket: Socket) => void) {
    super()
    const options: Options = typeof first === "function" ? {} : { ...first }
    const listener = typeof first === "function" ? first : second
    if (first !== undefined && first !== null && typeof first !== "object" && typeof first !== "function") {
      throw nodeError.invalidType("options", "of type object", first)
    }
    checkDelay(options)
    if (options.highWaterMark !== undefined && typeof options.highWaterMark !== "number") {
      throw nodeError.invalidType("options.highWaterMark", "of type number", options.highWaterMark)
    }
    this.#options = options
    this.allowHalfOpen = Boolean(options.allowHalfOpen)
    this.pauseOnConnect = Boolean(options.pauseOnConnect)
    this.#highWaterMark = options.highWaterMark >= 0 ? options.highWaterMark : undefined
    this.#blockList = checkBlockList(options)
    if (typeof listener === "function") this.on("connection", listener)
  }

  /** @internal */
  get network(): Network {
    return defaultNetwork()
  }

  /** @internal */
  protected makeSocket(options: net.SocketConstructorOpts): Socket {
    return new Socket(options)
  }

  /** Whether it takes connections. */
  get listening(): boolean {
    return this.#other?.listening ?? this.#state?.address !== undefined
  }

  /** How many connections it has. */
  get connections(): number {
    return this.#count
  }

  /** Listens, in all the ways of `net.Server.listen`. */
  listen(port?: number, hostname?: string, backlog?: number, listeningListener?: () => void): this
  listen(port?: number, hostname?: string, listeningListener?: () => void): this
  listen(port?: number, backlog?: number, listeningListener?: () => void): this
  listen(port?: number, listeningListener?: () => void): this
  listen(path: string, backlog?: number, listeningListener?: () => void): this
  listen(path: string, listeningListener?: () => void): this
  listen(options: net.ListenOptions, listeningListener?: () => void): this
  listen(handle: any, backlog?: number, listeningListener?: () => void): this
  listen(handle: any, listeningListener?: () => void): this
  listen(...args: Array<any>): this {
    const { callback, options } = normalize(args)
    if (this.#state !== undefined || this.#other?.listening) {
      throw nodeError.coded(
        new Error("Listen method has been called more than once without closing."),
        "ERR_SERVER_ALREADY_LISTEN"
      )
    }
    const isAny =
      args.length === 0 ||
      typeof args[0] === "function" ||
      (options.port === undefined && "port" in options) ||
      options.port === null
    const hasPort = isAny || typeof options.port === "number" || typeof options.port === "string"
    const isOthers = typeof options.fd === "number" || "handle" in options || "_handle" in options
    if (isOthers || (!hasPort && options.path)) {
      this.#listenElsewhere(args)
      return this
    }
    if (!hasPort) {
      throw "port" in options || "path" in options
        ? nodeError.invalidValue("options", options, "is invalid")
        : nodeError.invalidValue("options", options, 'must have the property "port" or "path"')
    }
    const port = isAny ? 0 : nodeError.validPort(options.port, "options.port")
    if (callback !== undefined) this.once("listening", callback)
    const backlog = options.backlog || toNumber(args[1]) || toNumber(args[2]) || undefined
    this.#closeWith(options.signal)
    const state: Listening = { scope: Scope.makeUnsafe(), listeners: [], address: undefined }
    this.#state = state
    this.#isClosing = false
    this.network.members.add(this)
    const { host } = options
    if (!host) this.#start(state, ["::", ...(options.ipv6Only ? [] : ["0.0.0.0"])], port, backlog)
    else if (net.isIP(host) !== 0) process.nextTick(() => this.#start(state, [host], port, backlog))
    else {
      dns.lookup(host, (error, address) => {
        if (error) this.#failed(state, error)
        else this.#start(state, [address], port, backlog)
      })
    }
    return this
  }

  #closeWith(signal: AbortSignal | undefined): void {
    if (signal === undefined) return
    const close = () => this.close()
    if (signal.aborted) return process.nextTick(close)
    signal.addEventListener("abort", close, { once: true })
    this.once("close", () => signal.removeEventListener("abort", close))
  }

  #listenElsewhere(args: ReadonlyArray<any>): void {
    const other = net.createServer(this.#options as net.ServerOpts, (socket) => this.emit("connection", socket))
    for (const event of ["listening", "error", "drop"]) other.on(event, (...told) => this.emit(event, ...told))
    other.on("close", () => {
      this.#other = undefined
      this.emit("close")
    })
    if (this.maxConnections !== undefined) other.maxConnections = this.maxConnections
    if (!this.#isReferenced) other.unref()
    const last = args.at(-1)
    if (typeof last === "function") this.once("listening", last)
    this.#other = other
    ;(other.listen as (...args: ReadonlyArray<any>) => void)(...(typeof last === "function" ? args.slice(0, -1) : args))
  }

  #start(state: Listening, addresses: ReadonlyArray<string>, port: number, backlog: number | undefined): void {
    if (this.#state !== state) return
    const where = { address: addresses[0], port }
    this.network.use((ready) => {
      if (this.#state !== state) return
      if (Exit.isFailure(ready)) return this.#failed(state, errorOf(ready, "listen", where))
      const { application, scope } = ready.value
      Effect.runCallback(Scope.provide(listenOn(application, addresses, port, { backlog }), state.scope), {
        onExit: (exit) => {
          if (this.#state !== state) return
          if (Exit.isFailure(exit)) return this.#failed(state, errorOf(exit, "listen", where))
          this.#started(state, exit.value, scope)
        }
      })
    })
  }

  #failed(state: Listening, error: Error): void {
    if (this.#state !== state) return
    this.#state = undefined
    this.network.members.delete(this)
    Effect.runFork(Scope.close(state.scope, Exit.void))
    process.nextTick(() => this.emit("error", error))
  }

  #started(state: Listening, listeners: ReadonlyArray<Listener>, scope: Scope.Scope): void {
    state.listeners = listeners
    state.address = addressInfo(listeners[0].address)
    this.#hold()
    for (const [i, listener] of listeners.entries()) {
      const isMapped = i > 0
      const next = Effect.map(listener.accept, (connection) =>
        // On the stack of whoever connects.
        later(() => this.#arrived(state, connection, isMapped))
      )
      Effect.runCallback(Scope.provide(Effect.forever(next, { disableYield: true }), scope), {
        uninterruptible: true,
        // Nobody has closed it here: its application is gone.
        onExit: () => this.#state === state && this.close()
      })
    }
    process.nextTick(() => this.#state === state && this.emit("listening"))
  }

  #arrived(state: Listening, connection: Connection, isMapped: boolean): void {
    // As with TCP, whom nobody has seen is broken off when the server closes.
    if (this.#state !== state) return void Effect.runFork(connection.reset)
    const { local, remote } = connection.info
    if (isBlocked(this.#blockList, addressInfo(remote, isMapped).address)) return void Effect.runFork(connection.close)
    if (this.maxConnections && this.#count >= this.maxConnections) {
      const [here, there] = [addressInfo(local, isMapped), addressInfo(remote, isMapped)]
      Effect.runFork(connection.close)
      this.emit("drop", {
        localAddress: here.address,
        localPort: here.port,
        localFamily: here.family,
        remoteAddress: there.address,
        remotePort: there.port,
        remoteFamily: there.family
      })
      return
    }
    const socket = this.makeSocket({
      allowHalfOpen: this.allowHalfOpen,
      ...(this.#highWaterMark === undefined ? undefined : { highWaterMark: this.#highWaterMark })
    })
    this.network.members.add(socket)
    this.#count++
    socket.server = this
    socket.onDestroyed = () => {
      socket.onDestroyed = undefined
      this.#count--
      this.#closeIfDrained()
    }
    socket.attach(connection, isMapped)
    if (this.pauseOnConnect) socket.pause()
    else socket.read(0)
    this.emit("connection", socket)
  }

  /** Takes no more connections; those that it has go on, and `close` comes after the last of them. */
  close(callback?: (error?: Error) => void): this {
    if (this.#other !== undefined) {
      this.#other.close(callback)
      return this
    }
    const state = this.#state
    if (typeof callback === "function") {
      if (state !== undefined) this.once("close", callback)
      else {
        const error = nodeError.coded(new Error("Server is not running."), "ERR_SERVER_NOT_RUNNING")
        this.once("close", () => callback(error))
      }
    }
    this.#state = undefined
    if (state === undefined) {
      this.#closeIfDrained()
    } else {
      this.#isClosing = true
      Effect.runCallback(Scope.close(state.scope, Exit.void), {
        onExit: () => {
          this.#isClosing = false
          this.#closeIfDrained()
        }
      })
    }
    return this
  }

  #closeIfDrained(): void {
    if (this.#state !== undefined || this.#isClosing || this.#count > 0) return
    process.nextTick(() => {
      if (this.#state === undefined) this.network.members.delete(this)
      this.emit("close")
    })
  }

  /** Closes it, unless it is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === undefined && this.#other === undefined) return
    await new Promise((resolve) => this.close(resolve))
  }

  /** Where it listens: with port 0 asked for, the port it got. */
  address(): net.AddressInfo | string | null {
    if (this.#other !== undefined) return this.#other.address()
    const address = this.#state?.address
    return address === undefined ? null : { ...address }
  }

  /** Tells how many connections it has. */
  getConnections(callback: (error: Error | null, count: number) => void): this {
    if (this.#other !== undefined) this.#other.getConnections(callback)
    else process.nextTick(callback, null, this.#count)
    return this
  }

  /** Keeps the process running while it listens, as it does from the start. */
  ref(): this {
    this.#isReferenced = true
    this.#other?.ref()
    this.#hold()
    return this
  }

  /** Lets the process end while it listens. */
  unref(): this {
    this.#isReferenced = false
    this.#other?.unref()
    this.#hold()
    return this
  }

  #hold(): void {
    for (const listener of this.#state?.listeners ?? []) {
      Effect.runSync(this.#isReferenced ? listener.ref : listener.unref)
    }
  }
}

/** Listens on all addresses with one port. */
const listenOn = (
  application: Application["Service"],
  addresses: ReadonlyArray<string>,
  port: number,
  options: { readonly backlog: number | undefined }
): Effect.Effect<ReadonlyArray<Listener>, SessionError, Scope.Scope> =>
  Effect.gen(function* () {
    const outer = yield* Effect.scope
    for (let left = PORT_ATTEMPTS; ; left--) {
      const scope = yield* Scope.fork(outer)
      const listening = Effect.gen(function* () {
        const [first, ...others] = addresses
        const listeners = [yield* application.listen(Endpoint.tcp(first, port), options)]
        for (const address of others) {
          listeners.push(yield* application.listen(Endpoint.tcp(address, listeners[0].address.port), options))
        }
        return listeners
      })
      const exit = yield* Effect.exit(Scope.provide(listening, scope))
      if (Exit.isSuccess(exit)) return exit.value
      yield* Scope.close(scope, exit)
      if (port !== 0 || left === 0) return yield* exit
    }
  })

// -----------------------------------------------------------------------------
// the face of node:net
// -----------------------------------------------------------------------------

/**
 * What stands where `node:net` stands, over one application.
 *
 * @category models
 * @since 0.1.0
 */
export interface Net {
  readonly createServer: typeof createServer
  readonly connect: typeof connect
  readonly createConnection: typeof connect
  readonly Server: typeof Server
  readonly Socket: typeof Socket
  readonly isIP: typeof net.isIP
  readonly isIPv4: typeof net.isIPv4
  readonly isIPv6: typeof net.isIPv6
  readonly BlockList: typeof net.BlockList
  readonly SocketAddress: typeof net.SocketAddress
}

const connectWith = (make: (options: Options) => Socket, args: ReadonlyArray<any>): Socket => {
  const { callback, options } = normalize(args)
  if (options.path) return net.connect(options as net.IpcNetConnectOpts, callback) as unknown as Socket
  const socket = make(options)
  if (options.timeout) socket.setTimeout(options.timeout)
  return socket.connect(options as net.SocketConnectOpts, callback)
}

const bind = (network: Network): Net => {
  const BoundSocket = class Socket_ extends Socket {
    override get network() {
      return network
    }
  }
  const BoundServer = class Server_ extends Server {
    override get network() {
      return network
    }
    protected override makeSocket(options: net.SocketConstructorOpts) {
      return new BoundSocket(options)
    }
  }
  const connectBound = (...args: ReadonlyArray<any>) => connectWith((options) => new BoundSocket(options), args)
  const { BlockList, isIP, isIPv4, isIPv6, SocketAddress } = net
  return {
    createServer: (...args: Array<any>) => new BoundServer(...args),
    connect: connectBound,
    createConnection: connectBound,
    Server: BoundServer,
    Socket: BoundSocket,
    isIP,
    isIPv4,
    isIPv6,
    BlockList,
    SocketAddress
  }
}

/**
 * `node:net` over the application in place, until the scope closes: then its
 * servers and sockets are closed, or reset when the scope fails.
 *
 * **Example** (In an Effect program)
 *
 * ```ts
 * import { CutThroughNet, CutThroughNode } from "@cut-through/platform"
 * import { Effect } from "effect"
 * import { once } from "node:events"
 * import { text } from "node:stream/consumers"
 *
 * const program = Effect.gen(function*() {
 *   const net = yield* CutThroughNet.make
 *   return yield* Effect.promise(async () => {
 *     const server = net.createServer((socket) => socket.end("hello"))
 *     await once(server.listen(7000, "127.0.0.1"), "listening")
 *     return await text(net.connect(7000, "127.0.0.1"))
 *   })
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "hello"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<Net, never, Application | Scope.Scope> = Effect.gen(function* () {
  const application = yield* Application
  const scope = yield* Scope.make()
  const ready = Exit.succeed<Ready>({ application, scope })
  const network = new Network((then) => then(ready))
  yield* Effect.addFinalizer((exit) => Effect.andThen(network.close(Exit.isFailure(exit)), Scope.close(scope, exit)))
  return bind(network)
})

/**
 * `node:net` over an application of your own layers, for programs without
 * Effect. The layer is built when it is first used; `dispose` closes all
 * sockets and servers, then the layer.
 *
 * **Example** (With layers of one's own)
 *
 * ```ts
 * import { CutThroughNet, CutThroughNode } from "@cut-through/platform"
 * import { once } from "node:events"
 * import { text } from "node:stream/consumers"
 *
 * const net = CutThroughNet.makeRuntime(CutThroughNode.layer)
 * const server = net.createServer((socket) => socket.end("hello"))
 * await once(server.listen(7000, "127.0.0.1"), "listening")
 * const received = await text(net.connect(7000, "127.0.0.1"))
 * await net.dispose()
 *
 * received // => "hello"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeRuntime = <R, E>(
  layer: Layer.Layer<Application | R, E>
): Net & AsyncDisposable & { readonly dispose: () => Promise<void> } => {
  const runtime = ManagedRuntime.make(layer)
  const scope = Scope.makeUnsafe()
  const network = networkOf(runtime, scope)
  const dispose = async () => {
    await Effect.runPromise(Effect.andThen(network.close(false), Scope.close(scope, Exit.void)))
    await runtime.dispose()
  }
  return { ...bind(network), dispose, [Symbol.asyncDispose]: dispose }
}

/**
 * `net.createServer`.
 *
 * **Example** (An echo server and its client)
 *
 * ```ts
 * import { CutThroughNet as net } from "@cut-through/platform"
 * import { once } from "node:events"
 * import { text } from "node:stream/consumers"
 *
 * const server = net.createServer((socket) => socket.pipe(socket))
 * await once(server.listen(7002, "127.0.0.1"), "listening")
 *
 * const socket = net.connect(7002, "127.0.0.1")
 * socket.end("hello")
 * await text(socket) // => "hello"
 *
 * await once(server.close(), "close")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export function createServer(connectionListener?: (socket: Socket) => void): Server
export function createServer(options?: net.ServerOpts, connectionListener?: (socket: Socket) => void): Server
export function createServer(...args: Array<any>): Server {
  return new Server(...args)
}

/**
 * `net.connect`: with a `path`, a socket of `node:net`.
 *
 * @category constructors
 * @since 0.1.0
 */
export function connect(options: net.NetConnectOpts, connectionListener?: () => void): Socket
export function connect(port: number, host?: string, connectionListener?: () => void): Socket
export function connect(port: number, connectionListener?: () => void): Socket
export function connect(path: string, connectionListener?: () => void): Socket
export function connect(...args: Array<any>): Socket {
  return connectWith((options) => new Socket(options), args)
}

/**
 * `net.createConnection`: {@link connect}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const createConnection: typeof connect = connect

export { BlockList, isIP, isIPv4, isIPv6, SocketAddress } from "node:net"
