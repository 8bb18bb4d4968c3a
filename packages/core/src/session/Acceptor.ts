/**
 * Taking connections out of an accept queue, now or when there is one.
 *
 * @since 0.1.0
 */
import type { Waiter } from "../runtime/Wake.ts"
import type { AcceptQueue } from "./AppListener.ts"
import type { Session } from "./Session.ts"
import type { SessionLayer } from "./SessionLayer.ts"

/**
 * Takes the next connection and gives it to `taken` in one step, now or when
 * there is one: a session in hand is never lost, whoever gives up. `taken` gets
 * nothing when the listener has closed. With `accepts` the connection has the
 * server's yes, and clients who have left in the meantime are passed over;
 * without, it waits for that as long as its listener leaves it to the
 * application. Returns what gives up, when it has to wait.
 *
 * @category operations
 * @since 0.1.0
 */
export const take = (
  layer: SessionLayer["Service"],
  queue: AcceptQueue,
  accepts: boolean,
  taken: (session: Session | undefined) => void
): (() => void) | undefined => {
  const attempt = (): boolean => {
    const session = queue.isClosed ? undefined : next(queue, accepts)
    if (session === undefined && !queue.isClosed) return false
    taken(session)
    return true
  }
  if (attempt()) return undefined
  const accepter = new Accepter(queue, attempt)
  queue.accepters.push(accepter)
  return () => {
    // Whoever is woken takes nothing by that, so who gives up leaves the session to the next in line.
    if (accepter.leave() && queue.length > 0) wakeNext(layer, queue)
  }
}

const next = (queue: AcceptQueue, accepts: boolean): Session | undefined => {
  if (!accepts) return queue.take()
  for (let session = queue.take(); session !== undefined; session = queue.take()) {
    if (session.state !== "accepting" || session.transport.accept(session) === undefined) return session
  }
  return undefined
}

const wakeNext = (layer: SessionLayer["Service"], queue: AcceptQueue): void => {
  const accepter = queue.accepters.shift()
  if (accepter !== undefined) layer.wake.wake(accepter)
}

/** Somebody who waits for a connection. */
class Accepter implements Waiter {
  private isDone = false
  private readonly queue: AcceptQueue
  private readonly attempt: () => boolean

  constructor(queue: AcceptQueue, attempt: () => boolean) {
    this.queue = queue
    this.attempt = attempt
  }

  resume(): void {
    if (this.isDone) return
    // Woken, but another one was quicker: still the first in line.
    if (this.attempt()) this.isDone = true
    else this.queue.accepters.unshift(this)
  }

  /** Waits no more; true when it was woken and has not looked yet. */
  leave(): boolean {
    if (this.isDone) return false
    this.isDone = true
    const at = this.queue.accepters.indexOf(this)
    if (at >= 0) this.queue.accepters.splice(at, 1)
    return at < 0
  }
}
