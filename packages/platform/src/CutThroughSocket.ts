/**
 * Effect's `Socket` over cut-through connections: what `NodeSocket` is over TCP.
 *
 * Programs that take a `Socket` run over it unchanged: RPC clients, DevTools,
 * channels, protocols of one's own. A peer in this process is reached through
 * shared memory; with `TcpTransport` in the session layer all others are reached
 * over TCP, with the same socket.
 *
 * **Differences from NodeSocket.** A peer that breaks off or dies ends the
 * reader with a `SocketCloseError` of code 1006, where `NodeSocket` says
 * `SocketReadError`. `upgrade` is not supported: there is nothing between the
 * two ends that anybody could listen to. Small chunks are parts of Node's pool
 * of buffers: they are copied into another thread, and cannot be transferred.
 *
 * @since 0.1.0
 */
import { Application } from "@cut-through/core/Application"
import * as Connection from "@cut-through/core/Connection"
import * as SessionError from "@cut-through/core/SessionError"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import { resolve, type Target } from "./internal/target.ts"

/**
 * How to connect.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** How long acquiring the reader waits for an answer. Default: as long as it takes. */
  readonly openTimeout?: Duration.Input | undefined
}

/**
 * A socket whose reader connects to an endpoint each time it is acquired: what
 * `NodeSocket.makeNet` is for TCP. The endpoint may also be a text such as
 * `tcp://localhost:7000`, or a host and a port.
 *
 * **Example** (A request and an answer)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughNode, CutThroughSocket } from "@cut-through/platform"
 * import { Effect, Stream } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Effect.forkScoped(listener.run(({ sink, stream }) => Stream.run(stream, sink)))
 *   const socket = yield* CutThroughSocket.make("tcp://127.0.0.1:7000")
 *   const { write } = yield* socket.writer
 *   const { pull } = yield* socket.reader
 *   yield* write("hello")
 *   const [bytes] = yield* pull
 *   return new TextDecoder().decode(bytes as Uint8Array)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThroughNode.layer))) // => "hello"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (target: Target, options?: Options): Effect.Effect<Socket.Socket, never, Application> =>
  Effect.flatMap(Application, (application) =>
    fromConnection(
      Effect.flatMap(resolve(target, "127.0.0.1"), (endpoint) => application.connect(endpoint)),
      options
    )
  )

/**
 * A socket over connections that `open` makes, one for each time its reader is
 * acquired.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromConnection = <R>(
  open: Effect.Effect<Connection.Connection, SessionError.SessionError | Socket.SocketError, R>,
  options?: Options
): Effect.Effect<Socket.Socket, never, Exclude<R, Scope.Scope>> => socketOf(open, options, false)

/**
 * A socket over the one connection that it will ever have. Who writes when that
 * is over waits for no other one.
 *
 * @internal
 */
export const fromAccepted = <R>(
  open: Effect.Effect<Connection.Connection, SessionError.SessionError | Socket.SocketError, R>
): Effect.Effect<Socket.Socket, never, Exclude<R, Scope.Scope>> => socketOf(open, undefined, true)

const socketOf = <R>(
  open: Effect.Effect<Connection.Connection, SessionError.SessionError | Socket.SocketError, R>,
  options: Options | undefined,
  isOnce: boolean
): Effect.Effect<Socket.Socket, never, Exclude<R, Scope.Scope>> =>
  Effect.withFiber<Socket.Socket, never, Exclude<R, Scope.Scope>>((fiber) => {
    const services = fiber.context as Context.Context<R>
    const opened = Latch.makeUnsafe(false)
    let current: Line | undefined
    let isOver = false

    const reader = Effect.gen(function* () {
      const scope = yield* Effect.scope
      const own = Scope.makeUnsafe()
      let line: Line | undefined
      yield* Scope.addFinalizer(
        scope,
        Effect.suspend(() => {
          if (line === undefined) return Scope.close(own, Exit.void)
          if (current === line) {
            current = undefined
            isOver = isOnce
            opened.closeUnsafe()
          }
          return line.release(Scope.close(own, Exit.void))
        })
      )
      const connection = yield* Scope.provide(Effect.mapError(open, asOpenError), own).pipe(
        options?.openTimeout === undefined
          ? (effect) => effect
          : Effect.timeoutOrElse({
              duration: options.openTimeout,
              orElse: () => Effect.fail(openError("Timeout", new Error("nobody has answered in time")))
            })
      )
      line = new Line(connection)
      current = line
      opened.openUnsafe()
      return { pull: line.pull, upgrade: Socket.SocketUpgradeError.unsupported }
    }).pipe(
      Effect.updateContext((own: Context.Context<Scope.Scope>) => Context.merge(services, own))
    ) as Socket.Socket["reader"]

    /** For a line that is not there, yet or any more. */
    const whenOpen = (write: Effect.Effect<void, Socket.SocketError>): Effect.Effect<void, Socket.SocketError> =>
      isOver ? Effect.fail(asWriteError(new Error("the connection is closed"))) : opened.whenOpen(write)
    const write: Socket.Writer["write"] = (chunk) =>
      Effect.suspend(() => {
        if (current === undefined) return whenOpen(write(chunk))
        // Not asked of an array, which is what comes nearly always: that takes long.
        const isBytes = typeof chunk === "string" || chunk instanceof Uint8Array
        return !isBytes && Socket.isCloseEvent(chunk) ? current.closeWith(chunk) : current.write(bytesOf(chunk))
      })
    const writeAll: Socket.Writer["writeAll"] = (chunks) =>
      Effect.suspend(() => {
        if (current === undefined) return whenOpen(writeAll(chunks))
        return chunks.length === 1 ? current.write(bytesOf(chunks[0])) : current.writeAll(chunks.map(bytesOf))
      })
    const writer = Effect.acquireRelease(Effect.succeed({ write, writeAll }), () => Effect.sync(() => current?.end()))

    return Effect.succeed(Socket.make({ reader, writer }))
  })

/**
 * {@link make} as the `Socket` of a program: in the place of
 * `NodeSocket.layerNet`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (target: Target, options?: Options): Layer.Layer<Socket.Socket, never, Application> =>
  Layer.effect(Socket.Socket, make(target, options))

const encoder = new TextEncoder()

const bytesOf = (chunk: Uint8Array | string): Uint8Array => (typeof chunk === "string" ? encoder.encode(chunk) : chunk)

/** Small ones come from Node's pool: memory of its own costs more than all else that is done for a message. */
const allocate = (bytes: number): Uint8Array => Buffer.allocUnsafe(bytes)

const openError = (kind: "Unknown" | "Timeout", cause: unknown): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketOpenError({ kind, cause }) })

const asOpenError = (error: SessionError.SessionError | Socket.SocketError): Socket.SocketError =>
  error instanceof SessionError.SessionError
    ? openError(error.reason._tag === "TimedOut" ? "Timeout" : "Unknown", error)
    : error

const closeError = (code: number, closeReason?: string): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketCloseError({ code, closeReason }) })

const asReadError = (error: SessionError.SessionError | Cause.Done): Socket.SocketError => {
  if (Cause.isDone(error)) return closeError(1000)
  const { _tag } = error.reason
  return _tag === "CorruptSegment"
    ? new Socket.SocketError({ reason: new Socket.SocketReadError({ cause: error }) })
    : closeError(1006, error.message)
}

const asWriteError = (cause: unknown): Socket.SocketError =>
  new Socket.SocketError({ reason: new Socket.SocketWriteError({ cause }) })

const nothing = new Uint8Array(0)

/** One connection of a socket, from when its reader has been acquired until it is released. */
class Line {
  private readonly connection: Connection.Connection
  private readonly taker: Connection.Taker
  private isTaking = false
  /** What was read and nobody has been given. */
  private pending: Uint8Array | undefined = undefined
  private failure: Socket.SocketError | undefined = undefined
  private waiter: ((effect: Effect.Effect<readonly [Uint8Array], Socket.SocketError>) => void) | undefined = undefined
  private writing = 0
  private wantsEnd = false
  private afterWrites: Array<() => void> = []

  constructor(connection: Connection.Connection) {
    this.connection = connection
    this.taker = Connection.taker(connection, allocate, (exit) => this.onTaken(exit))
  }

  readonly pull: Effect.Effect<readonly [Uint8Array], Socket.SocketError> = Effect.callback((resume) => {
    this.take()
    if (this.isReady) return resume(this.delivery())
    this.waiter = resume
    return Effect.sync(() => {
      if (this.waiter !== resume) return
      this.waiter = undefined
      this.stopTaking()
    })
  })

  /**
   * What was read stays here until the very step that hands it out: whoever pulls may be interrupted on the way there.
   * There is nothing only where another one has pulled meanwhile.
   */
  private readonly handOut: Effect.Effect<readonly [Uint8Array]> = Effect.sync(() => {
    const bytes = this.pending ?? nothing
    this.pending = undefined
    return [bytes]
  })

  private delivery(): Effect.Effect<readonly [Uint8Array], Socket.SocketError> {
    return this.pending === undefined ? Effect.fail(this.failure!) : this.handOut
  }

  private get isReady(): boolean {
    return this.pending !== undefined || this.failure !== undefined
  }

  private take(): void {
    if (this.isReady || this.isTaking) return
    this.isTaking = true
    this.taker.take()
  }

  private onTaken(exit: Exit.Exit<Uint8Array, SessionError.SessionError | Cause.Done>): void {
    this.isTaking = false
    if (Exit.isSuccess(exit)) this.pending = exit.value
    else
      this.failure ??= Option.match(Exit.findErrorOption(exit), {
        // Who reads for it was interrupted.
        onNone: () => closeError(1006),
        onSome: asReadError
      })
    this.wake()
  }

  private stopTaking(): void {
    if (!this.isTaking) return
    this.isTaking = false
    this.taker.cancel()
  }

  /** The only place where a pull that waits is woken. */
  private wake(): void {
    const { waiter } = this
    if (waiter === undefined) return
    this.waiter = undefined
    waiter(this.delivery())
  }

  write(bytes: Uint8Array): Effect.Effect<void, Socket.SocketError> {
    return Connection.writeAtOnce(this.connection, bytes) ? Effect.void : this.writeAll([bytes])
  }

  /** What has been begun is written to its end, whoever waits for it: half a message would spoil all that follow. */
  writeAll(chunks: ReadonlyArray<Uint8Array>): Effect.Effect<void, Socket.SocketError> {
    let written: Exit.Exit<void, Socket.SocketError> | undefined
    let waiter: ((exit: Exit.Exit<void, Socket.SocketError>) => void) | undefined
    this.writing++
    Connection.writeAllUnsafe(this.connection, chunks, (exit) => {
      this.writing--
      written = Exit.mapError(exit, asWriteError)
      waiter?.(written)
      if (this.writing > 0) return
      if (this.wantsEnd) Effect.runSync(this.connection.end)
      if (this.afterWrites.length > 0) for (const next of this.afterWrites.splice(0)) next()
    })
    return (
      written ??
      Effect.callback((resume) => {
        if (written === undefined) waiter = resume
        else resume(written)
      })
    )
  }

  /** Behind what is being written. */
  end(): void {
    this.wantsEnd = true
    if (this.writing === 0) Effect.runSync(this.connection.end)
  }

  closeWith({ code }: Socket.CloseEvent): Effect.Effect<void> {
    return Effect.suspend(() => {
      const isNormal = code <= 1000
      this.over(
        isNormal
          ? closeError(1000)
          : new Socket.SocketError({
              reason: new Socket.SocketReadError({ cause: new Error(`closed with code ${code}`) })
            })
      )
      if (!isNormal) return this.connection.reset
      this.discard()
      return this.connection.close
    })
  }

  /** Closes as a socket does: what is being written arrives, and who pulls is told. */
  release(close: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.contextWith((context: Context.Context<never>) => {
      this.over(closeError(1006))
      if (this.writing === 0) {
        this.discard()
        return close
      }
      this.afterWrites.push(() => {
        this.discard()
        Effect.runForkWith(context)(close)
      })
      return Effect.void
    })
  }

  private over(failure: Socket.SocketError): void {
    this.stopTaking()
    this.pending = undefined
    this.failure ??= failure
    this.wake()
  }

  /** What has arrived and nobody will read: closing with that at hand would be a reset. */
  private discard(): void {
    for (let isMore = true; isMore;) {
      isMore = false
      Connection.takeUnsafe(this.connection, allocate, (exit) => {
        isMore = Exit.isSuccess(exit)
      })()
    }
  }
}
