/**
 * Reading and writing without waiting: for event loops of their own, codecs and
 * proxies, which would rather be called back than run a fiber for each message.
 *
 * What POSIX calls non-blocking: a read takes what is there, a write puts what
 * fits, and both say when they would have to wait. Then, and only then, the
 * connection calls back once, as edge-triggered `epoll` does. No fiber, no
 * promise and no allocation is on the way of a message.
 * `Connection.nonBlocking` makes one.
 *
 * Whoever never has to wait would keep the thread for itself. So after about a
 * millisecond of reads and writes in a row (2 MiB, or 2,000 small messages) one
 * of them says that it would wait, too, and the connection calls back when
 * everything else of the thread has had its turn.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as SessionError from "./SessionError.ts"

/**
 * Returned when a read or write would have to wait. The connection calls back
 * when it need not any more.
 *
 * @category results
 * @since 0.1.0
 */
export const WOULD_BLOCK = -1

/**
 * Returned when it cannot be done and never will be: `error` says why.
 *
 * @category results
 * @since 0.1.0
 */
export const FAILED = -2

/**
 * Who is called back. Both are called on the stack of whoever has written or
 * made room, which may be this side's own `write`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Handlers {
  /**
   * Called once after `readInto` has returned {@link WOULD_BLOCK}: there are
   * bytes, or the end, or a failure. Read until it would block again.
   */
  readonly onReadable?: (() => void) | undefined
  /**
   * Called once after `write` has not taken everything: there is room, or a
   * failure.
   */
  readonly onWritable?: (() => void) | undefined
}

/**
 * The face of a connection for who must not wait.
 *
 * @category models
 * @since 0.1.0
 */
export interface NonBlocking {
  /**
   * Takes the bytes that are there, as many as the buffer holds, and returns how
   * many; 0 at the end of the stream, or {@link WOULD_BLOCK}, or {@link FAILED}.
   */
  readonly readInto: (buffer: Uint8Array) => number
  /**
   * Puts the bytes from `offset` (default 0) on, and returns how many there was
   * room for, or {@link WOULD_BLOCK}, or {@link FAILED}. The array may be used
   * again at once. The rest is for the caller to write when called back.
   */
  readonly write: (bytes: Uint8Array, offset?: number) => number
  /** Why the last read or write failed. */
  readonly error: SessionError.SessionError | undefined
}

/**
 * Calls back, on a stack that is not the handler's to break.
 *
 * @internal
 */
export const call = (handler: (() => void) | undefined): void => {
  try {
    handler?.()
  } catch (defect) {
    Effect.runFork(Effect.logError("What a connection called back failed", defect))
  }
}

/** Calls back when it is done: before it returns, or later. */
type Later<A> = (exit: Exit.Exit<A, SessionError.SessionError | Cause.Done>) => void

/**
 * Of anything that can read and write: one of each ahead of the caller.
 *
 * @internal
 */
export class Buffered implements NonBlocking {
  error: SessionError.SessionError | undefined = undefined
  private readonly read: (done: Later<Uint8Array>) => void
  private readonly writeAll: (bytes: Uint8Array, done: Later<void>) => void
  private readonly handlers: Handlers
  private ahead: Uint8Array = new Uint8Array(0)
  private isEnded = false
  private isReading = false
  private isWriting = false
  private wantsRead = false
  private wantsWrite = false

  constructor(
    read: (done: Later<Uint8Array>) => void,
    writeAll: (bytes: Uint8Array, done: Later<void>) => void,
    handlers: Handlers
  ) {
    this.read = read
    this.writeAll = writeAll
    this.handlers = handlers
  }

  readInto(buffer: Uint8Array): number {
    if (buffer.length === 0) return 0
    if (this.ahead.length === 0 && !this.isEnded && this.error === undefined && !this.isReading) this.readAhead()
    const count = Math.min(buffer.length, this.ahead.length)
    if (count > 0) {
      buffer.set(this.ahead.subarray(0, count))
      this.ahead = this.ahead.subarray(count)
      return count
    }
    if (this.isReading) this.wantsRead = true
    return this.isReading ? WOULD_BLOCK : this.isEnded ? 0 : FAILED
  }

  write(bytes: Uint8Array, offset: number = 0): number {
    if (this.isWriting) {
      this.wantsWrite = true
      return WOULD_BLOCK
    }
    if (this.error !== undefined) return FAILED
    this.isWriting = true
    this.writeAll(bytes.slice(offset), (exit) => {
      this.isWriting = false
      this.fail(exit)
      if (!this.wantsWrite) return
      this.wantsWrite = false
      call(this.handlers.onWritable)
    })
    return this.error === undefined ? bytes.length - offset : FAILED
  }

  private readAhead(): void {
    this.isReading = true
    this.read((exit) => {
      this.isReading = false
      if (Exit.isSuccess(exit)) this.ahead = exit.value
      else this.fail(exit)
      if (!this.wantsRead) return
      this.wantsRead = false
      call(this.handlers.onReadable)
    })
  }

  private fail(exit: Exit.Exit<unknown, SessionError.SessionError | Cause.Done>): void {
    const error = Exit.findErrorOption(exit)
    if (error._tag === "None") return
    if (Cause.isDone(error.value)) this.isEnded = true
    else this.error = error.value
  }
}
