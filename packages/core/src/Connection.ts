/**
 * A byte stream in both directions between two applications, with the face of a
 * TCP connection: ordered, reliable, with backpressure and half-close.
 *
 * A connection lives in a scope, and how the scope ends says how it ends: on
 * success everything written arrives and then the end; on failure or
 * interruption, or when bytes are left that this side has not read, the other
 * side gets a reset.
 *
 * Several fibers may read and write at once. Reads are served in the order in
 * which they were asked; the bytes of one `write` are never mixed with those of
 * another.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import * as Endpoint from "./Endpoint.ts"
import type * as Doorbell from "./memory/Doorbell.ts"
import * as Fifo from "./memory/Fifo.ts"
import * as NonBlocking from "./NonBlocking.ts"
import * as Finalizer from "./runtime/Finalizer.ts"
import { Hold, type KeepAlive } from "./runtime/KeepAlive.ts"
import * as Trace from "./runtime/Trace.ts"
import type { Wake, Waiter } from "./runtime/Wake.ts"
import type { Side } from "./segment/SegmentContext.ts"
import { type AppSession, close, closeNow, type Path, type State } from "./session/Session.ts"
import * as SessionError from "./SessionError.ts"

const TypeId = "~@cut-through/core/Connection"

/** Most bytes that one `read` returns. */
const READ_BYTES = 65536

/**
 * A byte stream in both directions.
 *
 * **Example** (Talking to an echo server)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect, Stream } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
 *   yield* Effect.forkScoped(
 *     listener.run((connection) => Stream.run(connection.stream, connection.sink))
 *   )
 *   const connection = yield* Application.connect(listener.address)
 *   yield* connection.write(new TextEncoder().encode("hello"))
 *   return new TextDecoder().decode(yield* connection.read)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => "hello"
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export interface Connection {
  readonly [TypeId]: typeof TypeId
  /**
   * Waits for bytes and takes them: at least one, at most 64 KiB, in an array of
   * its own. Fails with `Cause.Done` at the end of the stream. Interrupted while
   * it waits, it has taken nothing; a fiber that is interrupted with what it has
   * read at hand loses that.
   */
  readonly read: Effect.Effect<Uint8Array, SessionError.SessionError | Cause.Done>
  /**
   * Like `read`, into the start of a buffer of the caller's, and returns how
   * many bytes: the way to read fast, with one buffer that lives on.
   */
  readonly readInto: (buffer: Uint8Array) => Effect.Effect<number, SessionError.SessionError | Cause.Done>
  /**
   * Writes all bytes, waiting for room as often as necessary. The array may be
   * used again when it is done. Interrupted, a part may have been written.
   */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, SessionError.SessionError>
  /** Writes several arrays in order; the other side is told once when they fit at once. */
  readonly writeAll: (chunks: ReadonlyArray<Uint8Array>) => Effect.Effect<void, SessionError.SessionError>
  /** Ends this side's stream behind what was written. Reading goes on. */
  readonly end: Effect.Effect<void>
  /** Closes gracefully: what was written arrives, then the end. Closing again does nothing. */
  readonly close: Effect.Effect<void>
  /** Breaks off: the other side gets a reset, and loses what it has not read. */
  readonly reset: Effect.Effect<void>
  /** Keeps the process running while it is open, as it does from the start. */
  readonly ref: Effect.Effect<void>
  /** Lets the process end while it is open. */
  readonly unref: Effect.Effect<void>
  /** What is read, until the end. */
  readonly stream: Stream.Stream<Uint8Array, SessionError.SessionError>
  /** Writes what it gets, and ends this side's stream when there is no more. */
  readonly sink: Sink.Sink<void, Uint8Array, never, SessionError.SessionError>
  /** What is known about the connection now. */
  readonly info: Info
}

/**
 * The connection that a handler serves, for handlers that would rather require
 * it than pass it on.
 *
 * @category services
 * @since 0.1.0
 */
export const Connection: Context.Service<Connection, Connection> =
  Context.Service<Connection>("@cut-through/core/Connection")

/**
 * What is known about a connection at a moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Info {
  /** The way of the bytes. */
  readonly path: Path
  readonly side: Side
  readonly state: State
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  /** Bytes that have arrived and are not read yet. */
  readonly rx: FifoInfo
  /** Bytes that are written and that the other side has not read yet. */
  readonly tx: FifoInfo
  readonly bytesReceived: number
  readonly bytesSent: number
}

/**
 * How full one direction is, in bytes.
 *
 * @category models
 * @since 0.1.0
 */
export interface FifoInfo {
  readonly used: number
  readonly size: number
}

/**
 * How full a FIFO is now; zeros where there is none (any more).
 *
 * @category models
 * @since 0.1.0
 */
export const fifoInfo = (fifo: Fifo.Fifo | undefined): FifoInfo => ({ used: fifo?.used ?? 0, size: fifo?.size ?? 0 })

/**
 * What a connection needs of the thread it is in.
 *
 * @category models
 * @since 0.1.0
 */
export interface Runtime {
  readonly wake: Wake["Service"]
  readonly keepAlive: KeepAlive
}

/**
 * Gives a session to its application: a connection that closes with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromSession = (runtime: Runtime, session: AppSession, scope: Scope.Scope): Connection => {
  const connection = new ConnectionImpl(runtime, session, scope)
  // In the same step: nothing can come between the session and what closes it.
  if (!Finalizer.add(scope, connection, (exit) => closing(session, Exit.isFailure(exit)))) {
    Effect.runFork(closing(session, scope.state._tag === "Closed" && Exit.isFailure(scope.state.exit)))
  }
  return connection
}

/**
 * `read` without a fiber, for adapters that are called back: into an array that
 * `allocate` makes (of exactly that many bytes). `done` is called before this
 * returns, or later on the stack of whoever has written; in between, what is
 * returned gives up.
 *
 * @internal
 */
export const takeUnsafe = <A extends Uint8Array>(
  self: Connection,
  allocate: (bytes: number) => A,
  done: (exit: Exit.Exit<A, SessionError.SessionError | Cause.Done>) => void
): (() => void) =>
  self instanceof ConnectionImpl
    ? giveUp(self.take(allocate, done))
    : runHere(
        Effect.map(self.read, (bytes) => {
          const made = allocate(bytes.length)
          made.set(bytes)
          return made
        }),
        done
      )

/**
 * Takes again and again, and allocates nothing for it.
 *
 * @internal
 */
export interface Taker {
  /** As `takeUnsafe` does, one at a time. */
  readonly take: () => void
  /** Gives up. */
  readonly cancel: () => void
}

/**
 * What takes with these again and again.
 *
 * @internal
 */
export const taker = (
  self: Connection,
  allocate: (bytes: number) => Uint8Array,
  done: (exit: Exit.Exit<Uint8Array, SessionError.SessionError | Cause.Done>) => void
): Taker => {
  if (self instanceof ConnectionImpl) return self.taker(allocate, done)
  let cancel = nothing
  return {
    take() {
      cancel = takeUnsafe(self, allocate, done)
    },
    cancel: () => cancel()
  }
}

/**
 * Writes all of it when that can be done at once, and says whether it has.
 *
 * @internal
 */
export const writeAtOnce = (self: Connection, bytes: Uint8Array): boolean =>
  self instanceof ConnectionImpl && self.writeAtOnce(bytes)

/**
 * `writeAll` without a fiber, for adapters that are called back. `done` is
 * called before this returns, or later on the stack of whoever has made room; in
 * between, what is returned gives up.
 *
 * @internal
 */
export const writeAllUnsafe = (
  self: Connection,
  chunks: ReadonlyArray<Uint8Array>,
  done: (exit: Exit.Exit<void, SessionError.SessionError>) => void
): (() => void) =>
  self instanceof ConnectionImpl ? giveUp(self.writeChunks(chunks, done)) : runHere(self.writeAll(chunks), done)

/**
 * `ref` and `unref` without a fiber: HTTP calls each of them once for a request.
 *
 * @internal
 */
export const holdUnsafe = (self: Connection, isHeld: boolean): void => {
  if (self instanceof ConnectionImpl) self.holdNow(isHeld)
  else Effect.runSync(isHeld ? self.ref : self.unref)
}

/**
 * Reads and writes of a connection that do not wait, without fibers.
 *
 * A connection has one such face at a time: the last one made is called back.
 * Closing, ending and everything else stays with the connection. Fibers may read
 * and write, too: those that wait come first.
 *
 * **Example** (An echo server without fibers)
 *
 * ```ts
 * import { Application, Connection, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const echo = (connection: Connection.Connection) => {
 *   const buffer = new Uint8Array(65536)
 *   let rest = buffer.subarray(0, 0)
 *   const go = () => {
 *     while (true) {
 *       const count = rest.length > 0 ? stream.write(rest) : stream.readInto(buffer)
 *       if (count <= 0) return
 *       rest = rest.length > 0 ? rest.subarray(count) : buffer.subarray(0, count)
 *     }
 *   }
 *   const stream = Connection.nonBlocking(connection, { onReadable: go, onWritable: go })
 *   go()
 * }
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
 *   const client = yield* Application.connect(listener.address)
 *   echo(yield* listener.accept)
 *   yield* client.write(new TextEncoder().encode("hello"))
 *   return new TextDecoder().decode(yield* client.read)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => "hello"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const nonBlocking = (self: Connection, handlers: NonBlocking.Handlers): NonBlocking.NonBlocking =>
  self instanceof ConnectionImpl
    ? self.nonBlocking(handlers)
    : new NonBlocking.Buffered(
        (done) => takeUnsafe(self, allocate, done),
        (bytes, done) => writeAllUnsafe(self, [bytes], done),
        handlers
      )

/** With the clock and the scheduler of the fiber that calls, if one does: what a decorated connection waits for is theirs. */
const runHere = <A, E>(effect: Effect.Effect<A, E>, done: (exit: Exit.Exit<A, E>) => void): (() => void) => {
  let isGivenUp = false
  const interrupt = Effect.runCallbackWith(Fiber.getCurrent()?.context ?? Context.empty())(effect, {
    onExit: (exit) => {
      // Who gave up is not told, unless it was too late for that: what was taken is theirs.
      if (!isGivenUp || Exit.isSuccess(exit)) done(exit)
    }
  })
  return () => {
    isGivenUp = true
    interrupt()
  }
}

const giveUp = (cancel: Effect.Effect<void> | void): (() => void) =>
  cancel === undefined ? nothing : () => Effect.runSync(cancel)

const nothing = (): void => {}

/** Closes at once, and returns what waits until it is done. */
const closing = (session: AppSession, reset: boolean): Effect.Effect<void> => {
  const fiber = Fiber.getCurrent()
  if (fiber === undefined || !Trace.isWatched(fiber)) return closeNow(session, reset)
  return Effect.withSpan(close(session, reset), "cut-through.close", {
    attributes: { "cut-through.session": session.format() }
  })
}

/** Who waits in `read` or `write`. Its connection's queues hold it until it is done or interrupted. */
class Parked<A, E> implements Waiter {
  isWoken = false
  wasRung = false
  private readonly connection: ConnectionImpl
  private readonly queue: Array<Parked<any, any>>
  private readonly attempt: () => Exit.Exit<A, E> | undefined
  private readonly done: (exit: Exit.Exit<A, E>) => void

  constructor(
    connection: ConnectionImpl,
    queue: Array<Parked<any, any>>,
    attempt: () => Exit.Exit<A, E> | undefined,
    done: (exit: Exit.Exit<A, E>) => void
  ) {
    this.connection = connection
    this.queue = queue
    this.attempt = attempt
    this.done = done
  }

  /** Now, or behind those who asked before. */
  take(): void {
    const exit = this.queue.length === 0 ? this.attempt() : undefined
    if (exit === undefined) this.queue.push(this)
    else this.done(exit)
  }

  resume(): void {
    while (this.queue[0] === this) {
      this.wasRung = false
      const exit = this.attempt()
      if (exit !== undefined) return this.finish(exit)
      // Rung while it looked (the other side ran on this stack): look again, or the ring would be lost.
      if (!this.wasRung) break
    }
    this.isWoken = false
  }

  cancel(): void {
    const at = this.queue.indexOf(this)
    if (at < 0) return
    this.queue.splice(at, 1)
    this.connection.wakeFirst(this.queue)
  }

  private finish(exit: Exit.Exit<A, E>): void {
    const { queue } = this
    queue.shift()
    this.isWoken = false
    const next = queue[0]
    this.done(exit)
    // Who has come meanwhile has looked.
    if (queue[0] === next) this.connection.wakeFirst(queue)
  }
}

type ReadExit<A> = Exit.Exit<A, SessionError.SessionError | Cause.Done>
type WriteExit = Exit.Exit<void, SessionError.SessionError>

const done = Cause.Done()

/** There will never be anything to read, or room to write, again. */
const OVER = -6

const allocate = (bytes: number): Uint8Array => new Uint8Array(bytes)

/** What reads and writes without fibers may cost in a row, and each of them beside its bytes: a millisecond, about. */
const BUDGET = 2 ** 21
const CALL_COST = 1024

class Callback implements Waiter {
  private readonly handler: (() => void) | undefined

  constructor(handler: (() => void) | undefined) {
    this.handler = handler
  }

  resume(): void {
    NonBlocking.call(this.handler)
  }
}

/** Reads and writes of a connection without fibers. */
class Direct implements NonBlocking.NonBlocking, Waiter {
  error: SessionError.SessionError | undefined = undefined
  wantsRead = false
  wantsWrite = false
  private budget = BUDGET
  private owesRead = false
  private owesWrite = false
  readonly readable: Waiter
  readonly writable: Waiter
  private readonly connection: ConnectionImpl

  constructor(connection: ConnectionImpl, { onReadable, onWritable }: NonBlocking.Handlers) {
    this.connection = connection
    this.readable = new Callback(onReadable)
    this.writable = new Callback(onWritable)
  }

  readInto(buffer: Uint8Array): number {
    if (this.budget <= 0) {
      this.owesRead = true
      return NonBlocking.WOULD_BLOCK
    }
    const count = this.connection.takeInto(buffer)
    if (count >= 0) {
      this.spend(count)
      return count
    }
    if (count === Fifo.EMPTY) {
      this.wantsRead = true
      this.budget = BUDGET
      return NonBlocking.WOULD_BLOCK
    }
    const why = this.connection.whyNothing()
    if (Cause.isDone(why)) return 0
    this.error = why
    return NonBlocking.FAILED
  }

  write(bytes: Uint8Array, offset: number = 0): number {
    if (this.budget <= 0) {
      this.owesWrite = true
      return NonBlocking.WOULD_BLOCK
    }
    const count = this.connection.putNow(bytes, offset)
    if (count >= 0) {
      this.spend(count)
      return count
    }
    if (count === Fifo.FULL) {
      this.wantsWrite = true
      this.budget = BUDGET
      return NonBlocking.WOULD_BLOCK
    }
    this.error = this.connection.whyBroken()
    return NonBlocking.FAILED
  }

  private spend(count: number): void {
    this.budget -= count + CALL_COST
    if (this.budget <= 0) this.connection.defer(this)
  }

  /** It has let others have their turn. */
  resume(): void {
    const { owesRead, owesWrite } = this
    this.budget = BUDGET
    this.owesRead = this.owesWrite = false
    if (owesRead) this.readable.resume()
    if (owesWrite) this.writable.resume()
  }
}

class ConnectionImpl implements Connection, Doorbell.Target {
  readonly [TypeId] = TypeId
  private readonly runtime: Runtime
  private readonly session: AppSession
  private readonly rx: Fifo.Fifo
  private readonly tx: Fifo.Fifo
  private readonly readers: Array<Parked<any, any>> = []
  private readonly writers: Array<Parked<any, any>> = []
  private direct: Direct | undefined = undefined
  private isClosed = false
  private hasEnded = false
  private isWriting = false
  /**
   * What was there when this side last looked is taken, and nobody has rung since. Where the FIFO is watched it need not
   * look again to find it empty, which would take the line with the tail away from a writer that is at work.
   */
  private hasTakenAll = false
  private bytesReceived = 0
  private bytesSent = 0

  private readonly scope: Scope.Scope
  private readonly hold: Hold | undefined
  private madeRead: Connection["read"] | undefined = undefined
  private madeReadInto: Connection["readInto"] | undefined = undefined
  private madeWrite: Connection["write"] | undefined = undefined
  private madeWriteAll: Connection["writeAll"] | undefined = undefined

  constructor(runtime: Runtime, session: AppSession, scope: Scope.Scope) {
    this.runtime = runtime
    this.session = session
    this.scope = scope
    this.rx = session.rx
    this.tx = session.tx
    // Its application may have detached while the session was on its way here.
    this.isClosed = session.isClosing
    this.hold = this.isClosed ? undefined : new Hold(runtime.keepAlive)
    if (this.isClosed) return
    session.owner = this
    session.doorbell.target = this
  }

  // Functions of their own, not methods, because they are passed on; and made when they are first asked for, because
  // many a connection is closed before.

  get read(): Connection["read"] {
    return (this.madeRead ??= this.makeRead())
  }

  get readInto(): Connection["readInto"] {
    return (this.madeReadInto ??= (buffer) =>
      Effect.callback((resume) => this.readNow(() => this.attemptReadInto(buffer), resume)))
  }

  get write(): Connection["write"] {
    return (this.madeWrite ??= (bytes) =>
      Effect.callback((resume) => {
        let offset = 0
        return this.writeNow(() => {
          offset = this.attemptWrite(bytes, offset)
          return offset === bytes.length
        }, resume)
      }))
  }

  get writeAll(): Connection["writeAll"] {
    return (this.madeWriteAll ??= (chunks) => Effect.callback((resume) => this.writeChunks(chunks, resume)))
  }

  private makeRead(): Connection["read"] {
    const attempt = () => this.attemptRead(allocate)
    return Effect.callback((resume) => this.readNow(attempt, resume))
  }

  /** `read`, for those who run no fiber. @internal */
  take<A extends Uint8Array>(
    allocate: (bytes: number) => A,
    done: (exit: Exit.Exit<A, SessionError.SessionError | Cause.Done>) => void
  ): Effect.Effect<void> | void {
    return this.readNow(() => this.attemptRead(allocate), done)
  }

  /** @internal */
  taker(
    allocate: (bytes: number) => Uint8Array,
    done: (exit: Exit.Exit<Uint8Array, SessionError.SessionError | Cause.Done>) => void
  ): Taker {
    return new Parked(this, this.readers, () => this.attemptRead(allocate), done)
  }

  /** @internal */
  writeAtOnce(bytes: Uint8Array): boolean {
    if (this.isBroken || this.isWriting || this.writers.length > 0) return false
    const { length } = bytes
    if (this.tx.enqueueAll(bytes, 0, length) !== length) return false
    this.published(length)
    return true
  }

  /** `writeAll`, for those who run no fiber. @internal */
  writeChunks(
    chunks: ReadonlyArray<Uint8Array>,
    done: (exit: Exit.Exit<void, SessionError.SessionError>) => void
  ): Effect.Effect<void> | void {
    let index = 0
    let offset = 0
    let isFirst = true
    return this.writeNow(() => {
      if (isFirst) {
        isFirst = false
        const written = this.tx.enqueueSegments(chunks, false)
        if (written >= 0) {
          this.published(written)
          return true
        }
      }
      while (index < chunks.length) {
        offset = this.attemptWrite(chunks[index], offset)
        if (offset < chunks[index].length) return false
        index++
        offset = 0
      }
      return true
    }, done)
  }

  /** @internal */
  nonBlocking(handlers: NonBlocking.Handlers): NonBlocking.NonBlocking {
    return (this.direct = new Direct(this, handlers))
  }

  /** @internal */
  defer(waiter: Waiter): void {
    this.runtime.wake.defer(waiter)
  }

  /** @internal */
  holdNow(isHeld: boolean): void {
    if (!isHeld) this.hold?.unref()
    else if (!this.isClosed) this.hold?.ref()
  }

  get ref(): Effect.Effect<void> {
    return Effect.sync(() => this.holdNow(true))
  }

  get unref(): Effect.Effect<void> {
    return Effect.sync(() => this.holdNow(false))
  }

  get end(): Effect.Effect<void> {
    return Effect.sync(() => this.endNow())
  }

  get close(): Effect.Effect<void> {
    return this.closeWith(false)
  }

  get reset(): Effect.Effect<void> {
    return this.closeWith(true)
  }

  /** Closed early, it leaves nothing in its scope. */
  private closeWith(reset: boolean): Effect.Effect<void> {
    // Closed at once: only the waiting is interruptible, and changes nothing.
    return Effect.suspend(() => {
      Finalizer.remove(this.scope, this)
      return closing(this.session, reset)
    })
  }

  get stream(): Connection["stream"] {
    return Stream.fromPull(Effect.succeed(Effect.map(this.read, Arr.of)))
  }

  get sink(): Connection["sink"] {
    return Sink.mapEffect(
      Sink.forEachArray((chunks: Arr.NonEmptyReadonlyArray<Uint8Array>) => this.writeAll(chunks)),
      () => this.end
    )
  }

  get info(): Info {
    const { local, path, remote, side, state } = this.session
    return {
      path,
      side,
      state,
      local,
      remote,
      rx: fifoInfo(this.isClosed ? undefined : this.rx),
      tx: fifoInfo(this.isClosed ? undefined : this.tx),
      bytesReceived: this.bytesReceived,
      bytesSent: this.bytesSent
    }
  }

  toJSON(): unknown {
    const { local, remote, ...info } = this.info
    return { _id: "Connection", local: Endpoint.format(local), remote: Endpoint.format(remote), ...info }
  }

  /** Rung by the other side: the only place, with `closing`, where who waits is woken. */
  onRing(): void {
    this.hasTakenAll = false
    const { direct } = this
    const isRead = direct !== undefined && direct.wantsRead
    if (isRead || this.readers.length > 0) {
      // Told of what it has read already: a writer in another thread publishes first and tells afterwards. It has to
      // tell again of whatever comes next.
      let canRead = this.canRead()
      if (!canRead && this.askToBeTold()) canRead = this.canRead()
      if (canRead && this.readers.length > 0) this.wakeFirst(this.readers)
      else if (canRead) this.wakeReadable()
    }
    const isWritten = direct !== undefined && direct.wantsWrite
    if ((isWritten || this.writers.length > 0) && this.canWrite()) this.wakeFirst(this.writers)
  }

  wakeFirst(queue: Array<Parked<any, any>>): void {
    const first = queue[0]
    if (first === undefined) return queue === this.writers ? this.wakeWritable() : undefined
    first.wasRung = true
    if (first.isWoken) return
    first.isWoken = true
    this.runtime.wake.wake(first)
  }

  private wakeReadable(): void {
    const { direct } = this
    if (direct === undefined || !direct.wantsRead) return
    direct.wantsRead = false
    this.runtime.wake.wake(direct.readable)
  }

  private wakeWritable(): void {
    const { direct } = this
    if (direct === undefined || !direct.wantsWrite || this.isWriting) return
    direct.wantsWrite = false
    this.runtime.wake.wake(direct.writable)
  }

  /** Called by the session, once, before its FIFOs are given up. */
  onClosing(): void {
    this.isClosed = true
    this.session.doorbell.watcher?.unwatch(this.rx)
    this.hold?.unref()
    for (const queue of [this.readers, this.writers]) this.wakeFirst(queue)
    this.wakeReadable()
  }

  /** Puts a fiber in a queue, and returns what takes it out again when it is interrupted. */
  private park<A, E>(
    queue: Array<Parked<any, any>>,
    attempt: () => Exit.Exit<A, E> | undefined,
    resume: (exit: Exit.Exit<A, E>) => void,
    isFirst: boolean
  ): Effect.Effect<void> {
    const parked = new Parked(this, queue, attempt, resume)
    if (isFirst) queue.unshift(parked)
    else queue.push(parked)
    return Effect.sync(() => parked.cancel())
  }

  private corrupt(): SessionError.SessionError {
    return SessionError.make(new SessionError.CorruptSegment({ endpoint: this.endpoint }))
  }

  private get endpoint(): string {
    return Endpoint.format(this.session.remote)
  }

  private get progress(): { readonly endpoint: string; readonly bytesReceived: number } {
    return { endpoint: this.endpoint, bytesReceived: this.bytesReceived }
  }

  // ---------------------------------------------------------------------------
  // reading
  // ---------------------------------------------------------------------------

  // Looking and parking are one step, in the same call: a fiber may be made to yield between two effects, and a ring
  // that came in between would find nobody.

  /** Reads now, or parks behind those who asked before. */
  private readNow<A>(
    attempt: () => ReadExit<A> | undefined,
    resume: (exit: ReadExit<A>) => void
  ): Effect.Effect<void> | void {
    const exit = this.readers.length === 0 ? attempt() : undefined
    return exit === undefined ? this.park(this.readers, attempt, resume, false) : resume(exit)
  }

  private canRead(): boolean {
    return this.rx.readable !== 0 || this.rx.writerState !== 0
  }

  /** From here on this side is told of whatever comes. True when that is by the writer: then it looks once more. */
  private askToBeTold(): boolean {
    if (this.isWatched()) return false
    this.rx.unsetEvent()
    return true
  }

  private isWatched(): boolean {
    const { watcher } = this.session.doorbell
    return watcher !== undefined && watcher.watch(this.rx, this)
  }

  private attemptRead<A extends Uint8Array>(allocate: (bytes: number) => A): ReadExit<A> | undefined {
    const readable = this.lookForBytes()
    if (readable === Fifo.EMPTY) return undefined
    if (readable < 0) return Exit.fail(this.whyNothing())
    const buffer = allocate(Math.min(readable, READ_BYTES))
    const count = this.taken(this.rx.dequeue(buffer, 0, buffer.length))
    return count < 0 ? Exit.fail(this.whyNothing()) : Exit.succeed(buffer)
  }

  private attemptReadInto(buffer: Uint8Array): ReadExit<number> | undefined {
    const count = this.takeInto(buffer)
    if (count >= 0) return Exit.succeed(count)
    return count === Fifo.EMPTY ? undefined : Exit.fail(this.whyNothing())
  }

  /** How many bytes there are, `Fifo.EMPTY`, or {@link OVER}. */
  private lookForBytes(): number {
    if (this.isClosed) return OVER
    this.hasTakenAll = false
    const { rx } = this
    // Before the bytes are looked for: whoever ended published all of them first.
    const state = rx.writerState
    if ((state & Fifo.RESET) !== 0) return OVER
    let readable = rx.readable
    if (readable === 0) {
      if (this.askToBeTold()) readable = rx.readable
      if (readable === 0) return state === 0 ? Fifo.EMPTY : OVER
    }
    return readable < 0 ? OVER : readable
  }

  /** The same in one go: takes what there is, or returns `Fifo.EMPTY` or {@link OVER}. @internal */
  takeInto(buffer: Uint8Array): number {
    if (this.isClosed) return OVER
    const { rx } = this
    if (this.hasTakenAll) {
      this.hasTakenAll = false
      if (this.isWatched()) return Fifo.EMPTY
    }
    const state = rx.writerState
    if ((state & Fifo.RESET) !== 0) return OVER
    let count = rx.dequeue(buffer, 0, buffer.length)
    this.hasTakenAll = state === 0 && count > 0 && count < buffer.length
    if (count === Fifo.EMPTY) {
      if (this.askToBeTold()) count = rx.dequeue(buffer, 0, buffer.length)
      if (count === Fifo.EMPTY) return state === 0 ? Fifo.EMPTY : OVER
    }
    return this.taken(count)
  }

  /** Accounts for what was dequeued, and tells the writer when it has asked for room. */
  private taken(count: number): number {
    if (count < 0) return OVER
    this.bytesReceived += count
    if (this.rx.needsDequeueNotification(count)) {
      this.rx.clearDequeueNotification()
      this.session.appRxEvt()
    }
    return count
  }

  /** Why there is nothing to read and never will be. @internal */
  whyNothing(): SessionError.SessionError | Cause.Done {
    if (this.isClosed) return SessionError.make(new SessionError.Closed({ what: "connection" }))
    const { rx } = this
    if (rx.isCorrupt) return this.corrupt()
    const state = rx.writerState
    if ((state & Fifo.RESET) !== 0) return SessionError.make(new SessionError.Reset(this.progress))
    return (state & Fifo.OVER) !== 0 ? done : SessionError.make(new SessionError.PeerDied(this.progress))
  }

  // ---------------------------------------------------------------------------
  // writing
  // ---------------------------------------------------------------------------

  private canWrite(): boolean {
    const tx = this.tx
    // A request for room that stands was not answered: this ring is about something else.
    return !tx.isWanted(Fifo.WANT_ROOM) || tx.readerState !== 0
  }

  /** Runs `step` until it says that all is written: now, or whenever there is room. */
  private writeNow(step: () => boolean, resume: (exit: WriteExit) => void): Effect.Effect<void> | void {
    const attempt = (): WriteExit | undefined => {
      if (this.isWriting) return undefined
      const broken = this.whyBroken()
      if (broken !== undefined) return Exit.fail(broken)
      // What is rung runs on this stack and may want to write, too: it waits, so that nothing is mixed up.
      this.isWriting = true
      const isDone = step()
      this.isWriting = false
      if (isDone) return Exit.void
      const why = this.whyBroken()
      return why === undefined ? undefined : Exit.fail(why)
    }
    if (this.isWriting || this.writers.length > 0) return this.park(this.writers, attempt, resume, false)
    const exit = attempt()
    // It has begun, so it goes on before those who came while it was at it.
    if (exit === undefined) return this.park(this.writers, attempt, resume, true)
    resume(exit)
    this.wakeFirst(this.writers)
  }

  /** Writes from `offset` on as far as there is room, and returns how far that was. */
  private attemptWrite(bytes: Uint8Array, offset: number): number {
    let at = offset
    let hasAsked = false
    while (at < bytes.length) {
      const count = this.tx.enqueue(bytes, at, bytes.length - at)
      if (count > 0) {
        at += count
        hasAsked = false
        this.published(count)
        // Whoever was rung may have closed this side meanwhile.
        if (this.isClosed) return at
      } else if (hasAsked || count === Fifo.CORRUPT) {
        return at
      } else {
        // Half of the FIFO at a time: waking for each byte of room would cost more than it moves.
        this.tx.wantDequeueNotification(Fifo.WANT_ROOM, Math.min(bytes.length - at, this.tx.size >>> 1))
        hasAsked = true
      }
    }
    return at
  }

  private published(count: number): void {
    // Nothing to tell: the reader would find nothing, and the flag that it has been told would stay.
    if (count === 0) return
    this.bytesSent += count
    if (this.tx.setEvent()) this.session.customTx()
  }

  /** Writes what there is room for and returns how many bytes, or `Fifo.FULL`, or {@link OVER}. @internal */
  putNow(bytes: Uint8Array, offset: number): number {
    if (this.isBroken) return OVER
    // Behind whoever has begun, and is going to wake this.
    if (this.isWriting || this.writers.length > 0) return Fifo.FULL
    const length = bytes.length - offset
    let count = this.tx.enqueue(bytes, offset, length)
    if (count === Fifo.FULL || count === Fifo.NO_MEMORY) {
      this.tx.wantDequeueNotification(Fifo.WANT_ROOM, Math.min(length, this.tx.size >>> 1))
      count = this.tx.enqueue(bytes, offset, length)
      if (count === Fifo.FULL || count === Fifo.NO_MEMORY) return Fifo.FULL
    }
    if (count < 0) return OVER
    // What is rung runs on this stack and may want to write, too: not between two parts of something.
    this.isWriting = count < length
    this.published(count)
    this.isWriting = false
    if (count === length && this.direct?.wantsWrite === true) this.wakeFirst(this.writers)
    return count
  }

  private get isBroken(): boolean {
    return this.isClosed || this.hasEnded || this.tx.isCorrupt || this.tx.readerState !== 0
  }

  /** Why nothing can be written any more, or nothing. @internal */
  whyBroken(): SessionError.SessionError | undefined {
    return this.isBroken ? SessionError.make(this.reasonBroken()) : undefined
  }

  private reasonBroken(): SessionError.Reason {
    const { endpoint, tx } = this
    if (this.isClosed) return new SessionError.Closed({ what: "connection" })
    if (tx.isCorrupt) return new SessionError.CorruptSegment({ endpoint })
    const state = tx.readerState
    if ((state & Fifo.RESET) !== 0) return new SessionError.Reset(this.progress)
    if ((state & Fifo.GONE) !== 0) return new SessionError.PeerDied(this.progress)
    const why = this.hasEnded ? "this side has ended its stream" : "the other side has closed"
    return new SessionError.BrokenPipe({ endpoint, why })
  }

  private endNow(): void {
    if (this.hasEnded || this.isClosed) return
    this.hasEnded = true
    this.session.halfClose()
  }
}
