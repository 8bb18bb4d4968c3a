/**
 * Where sessions and half-open connections are kept: one table of sessions for
 * each worker, and one of half-opens.
 *
 * A half-open is a connect that has no answer yet. Whoever takes it out of the
 * table answers it: that happens exactly once, and the place is used again by
 * the next connect under another handle, so a late call finds nothing.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import type * as Endpoint from "../Endpoint.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type * as SessionError from "../SessionError.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { Session } from "./Session.ts"

/**
 * A connect without an answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface HalfOpen {
  readonly client: AppWorker
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  readonly listener: HandleTable.Handle
  /** Called once, by whoever took the half-open out of its table, who also wakes the one it returns. */
  readonly answer: (result: Session | SessionError.SessionError) => Waiter | undefined
}

/**
 * The service that keeps sessions and half-opens.
 *
 * @category services
 * @since 0.1.0
 */
export class Connections extends Context.Service<
  Connections,
  {
    /** Puts a session in the table of its worker and gives it its handle. */
    readonly addSession: (session: Session) => void
    /** The session under a handle, if it is still there. */
    readonly getSession: (worker: number, handle: HandleTable.Handle) => Session | undefined
    /** Takes a session out; false when it was not there any more. */
    readonly removeSession: (session: Session) => boolean
    readonly addHalfOpen: (halfOpen: HalfOpen) => HandleTable.Handle
    readonly getHalfOpen: (handle: HandleTable.Handle) => HalfOpen | undefined
    /** Takes a half-open out: who gets it answers it. */
    readonly takeHalfOpen: (handle: HandleTable.Handle) => HalfOpen | undefined
    readonly sessions: () => Iterable<Session>
    readonly halfOpens: () => Iterable<HalfOpen>
    readonly counts: () => { readonly sessions: number; readonly halfOpens: number }
  }
>()("@cut-through/core/session/Connections") {}

/**
 * Empty tables.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (): Connections["Service"] => {
  const workers: Array<HandleTable.HandleTable<Session>> = []
  const halfOpens = new HandleTable.HandleTable<HalfOpen>()
  let sessionCount = 0

  const tableOf = (worker: number) => {
    while (workers.length <= worker) workers.push(new HandleTable.HandleTable())
    return workers[worker]
  }

  return Connections.of({
    addSession(session) {
      session.handle = tableOf(session.worker).add(session)
      session.app.sessions.add(session)
      sessionCount++
    },
    getSession: (worker, handle) => tableOf(worker).get(handle),
    removeSession(session) {
      if (tableOf(session.worker).remove(session.handle) === undefined) return false
      session.app.sessions.delete(session)
      sessionCount--
      return true
    },
    addHalfOpen(halfOpen) {
      const handle = halfOpens.add(halfOpen)
      halfOpen.client.halfOpens.add(handle)
      return handle
    },
    getHalfOpen: (handle) => halfOpens.get(handle),
    takeHalfOpen(handle) {
      const halfOpen = halfOpens.remove(handle)
      halfOpen?.client.halfOpens.delete(handle)
      return halfOpen
    },
    *sessions() {
      for (const worker of workers) yield* worker
    },
    halfOpens: () => halfOpens,
    counts: () => ({ sessions: sessionCount, halfOpens: halfOpens.size })
  })
}

/**
 * Tables for one session layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Connections> = Layer.sync(Connections, make)
