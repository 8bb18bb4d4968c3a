/**
 * A connection as Node's libraries know it: a `stream.Duplex` with everything
 * they call on a `net.Socket`, and its events in the same order.
 *
 * Nothing arrives on the stack of whoever has written: data, ends and errors
 * come in a turn of their own, as from the system. What the consumer does not
 * ask for stays in the connection's FIFO, so that the writer waits.
 *
 * **What differs from a `net.Socket`**: it is none (`instanceof`), has no
 * handle, and `setNoDelay`, `setKeepAlive` and `setTypeOfService` do nothing,
 * because there is nothing to delay, to probe or to mark. Writing to a peer that
 * has closed fails at once, where TCP needs a round trip to find out. A paused
 * socket keeps the process running.
 *
 * @since 0.1.0
 */
import type { Application } from "@cut-through/core/Application"
import * as App from "@cut-through/core/Application"
import * as Connection from "@cut-through/core/Connection"
import type * as Endpoint from "@cut-through/core/Endpoint"
import type { SessionError } from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as NetAddress from "effect/net/NetAddress"
import type * as Scope from "effect/Scope"
import type * as net from "node:net"
import { Duplex } from "node:stream"
import * as nodeError from "./internal/nodeError.ts"

/**
 * How a duplex behaves.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Whether it stays writable when the other side has ended its stream. Default false, as in `node:net`. */
  readonly allowHalfOpen?: boolean | undefined
  /** Bytes it holds in each direction, apart from the FIFOs, before it asks to wait. Default Node's: 64 KiB. */
  readonly highWaterMark?: number | undefined
  /** {@link Options.highWaterMark} for what is read. */
  readonly readableHighWaterMark?: number | undefined
  /** {@link Options.highWaterMark} for what is written. */
  readonly writableHighWaterMark?: number | undefined
  /** Destroys it with an `AbortError`. */
  readonly signal?: AbortSignal | undefined
}

/** Deliveries in a row before the event loop turns. */
const DELIVERIES_PER_TURN = 64

let deliveries = DELIVERIES_PER_TURN

/**
 * In a turn of its own: behind the code that runs now, and now and then behind a
 * turn of the event loop, or two sockets that never stop would keep timers
 * waiting.
 *
 * @internal
 */
export const later = (task: () => void): void => {
  if (--deliveries > 0) return process.nextTick(task)
  afterTurn(task)
}

const afterTurn = (task: () => void): void => {
  setImmediate(() => {
    deliveries = DELIVERIES_PER_TURN
    task()
  })
}

const allocate = (bytes: number): Buffer => Buffer.allocUnsafe(bytes)

// -----------------------------------------------------------------------------
// what is read for HTTP
// -----------------------------------------------------------------------------

// A buffer of its own for each large read is most of what HTTP costs: V8 collects all garbage whenever so many bytes
// have been allocated outside of its heap. Node's HTTP parser copies what it keeps, so that it can be given the same
// buffer again and again; of a `net.Socket` it reads in that way, too.

/** Buffers up to here come from Node's own pool. */
const POOLED_BYTES = 4096
/** No more is taken at once. */
const SLAB_BYTES = 65_536
/** Slabs that are kept for whoever reads next, in this thread. */
const SPARE_SLABS = 4

const slabs: Array<Buffer> = []

/** What is used here of the parser that `node:http` gives a socket. */
interface HttpParser {
  readonly socket: unknown
  readonly execute: (bytes: Buffer) => unknown
}

interface ParserClass {
  readonly REQUEST: number
  readonly kOnHeadersComplete: number
  readonly kOnBody: number
  new (): HttpParser & {
    initialize: (type: number, resource: object) => void
    close: () => void
    [callback: number]: (...args: Array<any>) => unknown
  }
}

let askedOf: HttpParser["execute"] | undefined
let isCopying = false

/** Whether a parser copies what it keeps of a request: Node's own does, and it could be another one. */
const copies = (parser: HttpParser): boolean => {
  if (parser.execute === askedOf) return isCopying
  askedOf = parser.execute
  isCopying = false
  try {
    const Parser = parser.constructor as unknown as ParserClass
    const request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nb"
    const given = Buffer.allocUnsafeSlow(request.length)
    given.write(request, "latin1")
    const other = new Parser()
    other.initialize(Parser.REQUEST, {})
    other[Parser.kOnHeadersComplete] = () => 0
    other[Parser.kOnBody] = (body: Buffer) => {
      isCopying = body.length === 1 && body.buffer !== given.buffer
    }
    other.execute(given)
    other.close()
  } catch {
    // It is no parser as Node has them.
    isCopying = false
  }
  return isCopying
}

type Taken = Exit.Exit<Buffer, SessionError | Cause.Done>
type Sent = Exit.Exit<void, SessionError>
type Callback = (error?: Error | null) => void

const closedError = () => nodeError.coded(new Error("Socket is closed"), "ERR_SOCKET_CLOSED")

/**
 * An address as Node tells it. With `mapped`, IPv4 as a listener on `::` sees
 * it: `::ffff:127.0.0.1`.
 *
 * @internal
 */
export const addressInfo = (endpoint: Endpoint.Endpoint, mapped: boolean = false): net.AddressInfo => {
  const address = NetAddress.formatIp(endpoint.address)
  const isV4 = endpoint._tag === "InetAddressV4"
  return {
    address: isV4 && mapped ? `::ffff:${address}` : address,
    family: isV4 && !mapped ? "IPv4" : "IPv6",
    port: endpoint.port
  }
}

/**
 * A connection with the face of a `net.Socket`.
 *
 * **Example** (Echo, with streams)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughDuplex, CutThroughNode } from "@cut-through/platform"
 * import { Effect } from "effect"
 * import { text } from "node:stream/consumers"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const client = yield* CutThroughDuplex.make(listener.address)
 *   const server = yield* Effect.flatMap(listener.accept, (connection) => CutThroughDuplex.fromConnection(connection))
 *   server.pipe(server)
 *   client.end("hello")
 *   return yield* Effect.promise(() => text(client))
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "hello"
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class CutThroughDuplex extends Duplex {
  /** Whether it waits for the answer to a connect. */
  connecting = false
  /** What `setTimeout` was called with. */
  timeout?: number
  /** The addresses tried by the last connect: `127.0.0.1:7000`. */
  autoSelectFamilyAttemptedAddresses: Array<string> = []
  /** Bytes read from the connection. */
  bytesRead = 0
  /** The server it came through, where there is one. */
  server: unknown = null
  /** The address of this side. */
  localAddress?: string
  /** The port of this side. */
  localPort?: number
  /** `"IPv4"` or `"IPv6"`. */
  localFamily?: string
  /** The address of the other side. */
  remoteAddress: string | undefined = undefined
  /** The port of the other side. */
  remotePort: number | undefined = undefined
  /** `"IPv4"` or `"IPv6"`. */
  remoteFamily: string | undefined = undefined

  #connection: Connection.Connection | undefined = undefined
  #bytesDone = 0
  #typeOfService = 0
  #resetOnClose = false
  /** Whether `close` has been told. @internal */
  isOver = false
  /** Told at once when it is destroyed: by its server. @internal */
  onDestroyed: (() => void) | undefined = undefined
  #isReferenced = true
  #hasEnded = false

  #timer: NodeJS.Timeout | undefined = undefined
  #timerMillis = 0
  #bytesSentThen = 0

  #isReading = false
  #isScheduled = false
  #isTaking = false
  #taken: Taken | undefined = undefined
  /** What was taken lies in it, on its way to an HTTP parser. */
  #slab: Buffer | undefined = undefined
  #isKept = false
  /** The HTTP parser that it feeds: set by `node:http`. @internal */
  parser: HttpParser | null | undefined = undefined
  #stopTaking: (() => void) | undefined = undefined

  #isSending = false
  #sent: Sent | undefined = undefined
  #sentBytes = 0
  #onWritten: Callback | undefined = undefined
  #stopSending: (() => void) | undefined = undefined

  constructor(options: Options = {}) {
    const { allowHalfOpen = false, highWaterMark, readableHighWaterMark, signal, writableHighWaterMark } = options
    super({
      allowHalfOpen: Boolean(allowHalfOpen),
      autoDestroy: true,
      // Told by hand, with what `net` tells, when the connection is closed.
      emitClose: false,
      ...(highWaterMark === undefined ? undefined : { highWaterMark }),
      ...(readableHighWaterMark === undefined ? undefined : { readableHighWaterMark }),
      ...(writableHighWaterMark === undefined ? undefined : { writableHighWaterMark }),
      ...(signal === undefined ? undefined : { signal })
    })
    this.on("end", this.#onEnd)
  }

  // ---------------------------------------------------------------------------
  // the connection
  // ---------------------------------------------------------------------------

  /** Gives it a connection, which closes with it. @internal */
  attach(connection: Connection.Connection, mapped: boolean = false): void {
    const { local, remote } = connection.info
    this.#connection = connection
    const here = addressInfo(local, mapped)
    const there = addressInfo(remote, mapped)
    this.localAddress = here.address
    this.localPort = here.port
    this.localFamily = here.family
    this.remoteAddress = there.address
    this.remotePort = there.port
    this.remoteFamily = there.family
    if (!this.#isReferenced) Connection.holdUnsafe(connection, false)
  }

  /** Forgets the connection it had: it can connect again. @internal */
  protected revive(): void {
    // What streams do to be used again, which Node's own types keep to themselves.
    ;(this as unknown as { _undestroy: () => void })._undestroy()
    delete this.localAddress
    delete this.localPort
    delete this.localFamily
    this.remoteAddress = this.remotePort = this.remoteFamily = undefined
    this.bytesRead = this.#bytesDone = this.#bytesSentThen = 0
    this.#hasEnded = this.#isReading = this.#resetOnClose = this.isOver = false
    this.#taken = this.#sent = undefined
    if (Object.hasOwn(this, "write")) delete (this as { write?: unknown }).write
  }

  /** Not to be called: it has its connection from the start. */
  connect(..._args: Array<any>): this {
    throw nodeError.unsupported("connect on a CutThroughDuplex", "it is connected; use a Socket of CutThroughNet")
  }

  /** Whether there is no connection yet, or none any more. */
  get pending(): boolean {
    return this.#connection === undefined || this.connecting
  }

  /** What can be done with it, in the words of `node:net`. */
  get readyState(): net.SocketReadyState {
    if (this.connecting) return "opening"
    if (this.readable) return this.writable ? "open" : "readOnly"
    return this.writable ? "writeOnly" : "closed"
  }

  /** Bytes that wait to be written: `writableLength`. */
  get bufferSize(): number {
    return this.writableLength
  }

  /** Bytes written to it so far, those that still wait included. */
  get bytesWritten(): number {
    return this.#bytesDone + this.writableLength
  }

  /** Where this side is: address, family and port. */
  address(): net.AddressInfo | {} {
    const { localAddress, localFamily, localPort } = this
    return localAddress === undefined ? {} : { address: localAddress, family: localFamily, port: localPort }
  }

  /** There is nothing to delay. */
  setNoDelay(_noDelay?: boolean): this {
    return this
  }

  /** There is nothing to probe: a peer that dies is noticed. */
  setKeepAlive(_enable?: boolean | net.SetKeepAliveOptions, _initialDelay?: number): this {
    return this
  }

  /** Remembered, and of no consequence. */
  setTypeOfService(typeOfService: number): this {
    this.#typeOfService = typeOfService
    return this
  }

  /** What {@link CutThroughDuplex.setTypeOfService} was given. */
  getTypeOfService(): number {
    return this.#typeOfService
  }

  /** Keeps the process running while it is open, as it does from the start. */
  ref(): this {
    this.#isReferenced = true
    this.#hold()
    return this
  }

  /** Lets the process end while it is open. */
  unref(): this {
    this.#isReferenced = false
    this.#hold()
    return this
  }

  /** Who has nothing more to read and writes nothing does not hold the process, as in `node:net`. */
  #hold(): void {
    const connection = this.#connection
    if (connection === undefined) return
    const isBusy = !this.#hasEnded || this.#onWritten !== undefined
    Connection.holdUnsafe(connection, this.#isReferenced && isBusy)
  }

  // ---------------------------------------------------------------------------
  // idleness
  // ---------------------------------------------------------------------------

  /** Emits `timeout` whenever nothing has come or gone for so many milliseconds; 0 stops that. */
  setTimeout(msecs: number, callback?: () => void): this {
    if (this.destroyed) return this
    if (typeof msecs !== "number") throw nodeError.invalidType("msecs", "of type number", msecs)
    if (!(msecs >= 0 && Number.isFinite(msecs))) {
      throw nodeError.coded(
        new RangeError(
          `The value of "msecs" is out of range. It must be a non-negative finite number. Received ${msecs}`
        ),
        "ERR_OUT_OF_RANGE"
      )
    }
    if (callback !== undefined && typeof callback !== "function") {
      throw nodeError.invalidType("callback", "of type function", callback)
    }
    this.timeout = msecs
    if (msecs === 0) {
      // The timer is left to run out: HTTP asks for the same one again for each request.
      if (callback !== undefined) this.removeListener("timeout", callback)
      return this
    }
    if (this.#timer !== undefined && this.#timerMillis === msecs) this.#timer.refresh()
    else {
      clearTimeout(this.#timer)
      // As long as timers can be, as Node does it.
      this.#timer = setTimeout(this.#onIdle, Math.min(msecs, 2 ** 31 - 1))
      this.#timer.unref()
      this.#timerMillis = msecs
    }
    if (callback !== undefined) this.once("timeout", callback)
    return this
  }

  readonly #onIdle = (): void => {
    if (!this.timeout) {
      this.#timer = undefined
      return
    }
    const connection = this.#connection
    if (connection !== undefined && this.#onWritten !== undefined) {
      const { bytesSent } = connection.info
      if (bytesSent !== this.#bytesSentThen) {
        // A large write that goes on piece by piece is not idle.
        this.#bytesSentThen = bytesSent
        return this.touch()
      }
    }
    this.emit("timeout")
  }

  /** Something comes or goes. @internal */
  protected touch(): void {
    if (this.timeout) this.#timer?.refresh()
  }

  // ---------------------------------------------------------------------------
  // reading
  // ---------------------------------------------------------------------------

  override _read(): void {
    if (this.connecting || this.#connection === undefined) {
      this.once("connect", () => this._read())
      return
    }
    if (this.#isReading || this.#hasEnded) return
    this.#isReading = true
    this.#schedule(later)
  }

  #schedule(how: (task: () => void) => void): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    how(this.#pump)
  }

  readonly #pump = (): void => {
    this.#isScheduled = false
    let hasThrown = true
    try {
      this.#deliverNext()
      hasThrown = false
    } finally {
      // A listener has thrown, and somebody may take that well.
      if (hasThrown) this.#schedule(afterTurn)
    }
  }

  /** Delivers what has arrived, if it is wanted, and waits for more: what is there already has a turn of its own. */
  #deliverNext(): void {
    if (!this.#isReading || this.destroyed || this.#connection === undefined) return
    const taken = this.#taken ?? this.#take(this.#connection)
    if (taken === undefined) return
    this.#taken = undefined
    this.#deliver(taken)
    if (!this.#isReading || this.destroyed || this.#connection === undefined) return
    if (this.#take(this.#connection) !== undefined) this.#schedule(later)
  }

  /** What is there; or nothing, and it comes back when something is. */
  #take(connection: Connection.Connection): Taken | undefined {
    if (this.#stopTaking !== undefined) return undefined
    this.#isTaking = true
    const stopTaking = Connection.takeUnsafe(connection, this.#allocate, this.#onTaken)
    this.#isTaking = false
    if (this.#taken === undefined) this.#stopTaking = stopTaking
    return this.#taken
  }

  readonly #onTaken = (taken: Taken): void => {
    if (this.#connection === undefined) return
    this.#taken = taken
    if (this.#isTaking) return
    this.#stopTaking = undefined
    this.#schedule(later)
  }

  readonly #allocate = (bytes: number): Buffer => {
    if (bytes <= POOLED_BYTES || bytes > SLAB_BYTES || !this.#feedsParser()) return allocate(bytes)
    this.#slab = slabs.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
    return this.#slab.subarray(0, bytes)
  }

  /** Whether what comes goes to an HTTP parser and nowhere else, in the same step, and is not kept. */
  #feedsParser(): boolean {
    const { parser } = this
    return (
      parser !== undefined &&
      parser !== null &&
      parser.socket === this &&
      this.readableFlowing === true &&
      this.readableLength === 0 &&
      this.readableEncoding === null &&
      this.readableDidRead &&
      this.listenerCount("data") === 1 &&
      copies(parser)
    )
  }

  #feed(bytes: Buffer, slab: Buffer): void {
    if (this.#feedsParser()) {
      this.#isKept = false
      this.emit("data", bytes)
      // What was no HTTP, or not any more, has been handed on: to `clientError`, or `upgrade`.
      if (this.#isKept || this.destroyed) return
    } else if (!this.push(Buffer.from(bytes))) this.#isReading = false
    if (slabs.length < SPARE_SLABS) slabs.push(slab)
  }

  /** The parser's own goes when it has failed, or given the socket to somebody else. @internal */
  override removeListener(event: string | symbol, listener: (...args: Array<any>) => void): this {
    if (event === "error") this.#isKept = true
    return super.removeListener(event, listener)
  }

  #deliver(taken: Taken): void {
    if (Exit.isSuccess(taken)) {
      const bytes = taken.value
      this.bytesRead += bytes.length
      this.touch()
      const slab = this.#slab
      this.#slab = undefined
      if (slab !== undefined) this.#feed(bytes, slab)
      else if (!this.push(bytes)) this.#isReading = false
      return
    }
    const error = Cause.squash(taken.cause)
    if (Cause.isDone(error)) {
      this.#hasEnded = true
      this.#isReading = false
      this.#hold()
      this.push(null)
      // So that the end is told even where nobody reads.
      this.read(0)
    } else this.destroy(toNodeError(error, "read"))
  }

  /** Without half-open, what is written after the other side's end fails as `net` has it. */
  #onEnd(): void {
    if (this.allowHalfOpen) return
    const write = (chunk: any, encoding?: any, callback?: Callback): boolean => {
      if (!this.writableEnded) return super.write(chunk, encoding, callback)
      const error = nodeError.coded(new Error("This socket has been ended by the other party"), "EPIPE")
      const done = typeof encoding === "function" ? encoding : callback
      if (typeof done === "function") process.nextTick(done, error)
      this.destroy(error)
      return false
    }
    Object.defineProperty(this, "write", { configurable: true, enumerable: false, value: write, writable: true })
  }

  // ---------------------------------------------------------------------------
  // writing
  // ---------------------------------------------------------------------------

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    this.#send([chunk], callback)
  }

  override _writev(items: Array<{ readonly chunk: Uint8Array }>, callback: Callback): void {
    this.#send(
      items.map(({ chunk }) => chunk),
      callback
    )
  }

  #send(chunks: ReadonlyArray<Uint8Array>, callback: Callback): void {
    if (this.connecting) {
      const onConnect = () => {
        this.off("close", onClose)
        this.#send(chunks, callback)
      }
      const onClose = () => {
        this.off("connect", onConnect)
        callback(
          nodeError.coded(
            new Error("Socket closed before the connection was established"),
            "ERR_SOCKET_CLOSED_BEFORE_CONNECTION"
          )
        )
      }
      this.once("connect", onConnect)
      this.once("close", onClose)
      return
    }
    const connection = this.#connection
    if (connection === undefined) return callback(closedError())
    this.touch()
    this.#sentBytes = 0
    for (const chunk of chunks) this.#sentBytes += chunk.length
    this.#onWritten = callback
    this.#isSending = true
    const stopSending = Connection.writeAllUnsafe(connection, chunks, this.#onSent)
    this.#isSending = false
    if (this.#sent !== undefined) return this.#written()
    this.#stopSending = stopSending
    if (this.#hasEnded) this.#hold()
  }

  readonly #onSent = (sent: Sent): void => {
    if (this.#onWritten === undefined) return
    this.#sent = sent
    if (this.#isSending) return
    this.#stopSending = undefined
    later(this.#written)
  }

  readonly #written = (): void => {
    const onWritten = this.#onWritten
    const sent = this.#sent
    if (onWritten === undefined || sent === undefined) return
    // What the other side had written before it closed comes first, as it does with TCP.
    if (Exit.isFailure(sent) && this.#hasMore()) return afterTurn(this.#written)
    this.#onWritten = this.#sent = undefined
    if (this.#hasEnded) this.#hold()
    if (Exit.isFailure(sent)) return onWritten(toNodeError(Cause.squash(sent.cause), "write"))
    this.#bytesDone += this.#sentBytes
    this.touch()
    onWritten()
  }

  /** Whether something has arrived that will soon be delivered. */
  #hasMore(): boolean {
    const isWanted = this.#isReading || this.readableLength < this.readableHighWaterMark
    // Who listens to `readable` counts as paused, and reads.
    const isPaused = this.isPaused() && this.listenerCount("readable") === 0
    if (!isWanted || isPaused || this.#connection === undefined) return false
    if (this.#taken !== undefined) return Exit.isSuccess(this.#taken)
    return this.#connection.info.rx.used > 0
  }

  override _final(callback: Callback): void {
    if (this.connecting) return void this.once("connect", () => this._final(callback))
    const connection = this.#connection
    if (connection === undefined) return callback()
    Effect.runCallback(connection.end, { onExit: () => callback() })
  }

  // ---------------------------------------------------------------------------
  // ending
  // ---------------------------------------------------------------------------

  /** Ends its stream, and destroys it when all is written. */
  destroySoon(): void {
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once("finish", () => this.destroy())
  }

  /** Breaks off: the other side gets `ECONNRESET`. Without a connection it fails with `ERR_SOCKET_CLOSED`. */
  resetAndDestroy(): this {
    if (this.connecting) {
      this.once("connect", () => this.#resetNow())
    } else if (this.#connection === undefined) {
      this.destroy(closedError())
    } else {
      this.#resetNow()
    }
    return this
  }

  #resetNow(): void {
    this.#resetOnClose = true
    this.destroy()
  }

  override _destroy(error: Error | null, callback: Callback): void {
    const connection = this.#connection
    const onWritten = this.#onWritten
    const wasUsed = connection !== undefined || this.connecting
    this.connecting = false
    clearTimeout(this.#timer)
    this.#stopTaking?.()
    this.#stopSending?.()
    this.#connection = this.#onWritten = this.#stopTaking = this.#stopSending = this.#slab = undefined
    const hadError = error !== null && error !== undefined
    callback(error)
    // What was on its way has not been written; streams tell the others that wait.
    if (onWritten !== undefined) {
      const failure =
        error ?? nodeError.coded(new Error("Cannot call write after a stream was destroyed"), "ERR_STREAM_DESTROYED")
      process.nextTick(onWritten, failure)
    }
    const close = () => {
      this.isOver = true
      if (wasUsed) this.emit("close", hadError)
      else this.emit("close")
    }
    if (connection === undefined) {
      process.nextTick(close)
    } else {
      if (!this.#resetOnClose) dropUnread(connection)
      Effect.runCallback(this.#resetOnClose ? connection.reset : connection.close, {
        onExit: () => setImmediate(close)
      })
    }
    this.onDestroyed?.()
  }
}

/**
 * Closing with unread bytes is a reset, which takes what the other side has not
 * read: the answer to a request that was too long to be read, for example. As
 * long as there is such, the rest is dropped instead, and the end comes behind.
 */
const dropUnread = (connection: Connection.Connection): void => {
  if (connection.info.tx.used === 0) return
  let isTaken = true
  while (isTaken && connection.info.rx.used > 0) {
    isTaken = false
    Connection.takeUnsafe(connection, allocate, (taken) => {
      isTaken = Exit.isSuccess(taken)
    })()
  }
}

const toNodeError = (error: unknown, syscall: nodeError.Syscall): Error =>
  error instanceof Error && "reason" in error
    ? nodeError.fromSessionError(error as SessionError, syscall)
    : error instanceof Error
      ? error
      : new Error(String(error))

/**
 * The duplex of a connection, until the scope closes: on success what was
 * written to it arrives, and then the end, so closing waits for a peer that does
 * not read; on failure or interruption the other side gets a reset. Destroying
 * it earlier closes the connection.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromConnection = (
  connection: Connection.Connection,
  options?: Options
): Effect.Effect<CutThroughDuplex, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => fromConnectionUnsafe(connection, options)),
    (duplex, exit) =>
      Effect.callback<void>((resume) => {
        if (duplex.isOver) return resume(Effect.void)
        duplex.once("close", () => resume(Effect.void))
        // Whoever used it is gone, and so is anybody to tell.
        duplex.on("error", () => {})
        if (duplex.destroyed) return
        if (Exit.isSuccess(exit)) duplex.destroySoon()
        else duplex.resetAndDestroy()
      })
  )

/**
 * The duplex of a connection, for code without scopes: the connection closes
 * when it is destroyed, or with the scope that the connection was made in, which
 * the duplex notices as `ECONNABORTED`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromConnectionUnsafe = (connection: Connection.Connection, options?: Options): CutThroughDuplex => {
  const duplex = new CutThroughDuplex(options)
  duplex.attach(connection)
  // As `net` does: who is told of nothing but the end, or of an error, need not read.
  duplex.read(0)
  return duplex
}

/**
 * Connects to an endpoint: a duplex that lives in the scope, as
 * {@link fromConnection} has it. Fails as `Application.connect` does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  endpoint: Endpoint.Endpoint,
  options?: Options
): Effect.Effect<CutThroughDuplex, SessionError, Application | Scope.Scope> =>
  Effect.flatMap(App.connect(endpoint), (connection) => fromConnection(connection, options))
