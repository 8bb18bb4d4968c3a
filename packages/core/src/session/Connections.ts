/**
 * Where sessions and half-open connections are kept: one table of sessions for
 * each worker, and one of half-opens.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { HalfOpen } from "./HalfOpen.ts"
import type { Session } from "./Session.ts"

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
    /** Puts a half-open in its table and gives it its handle. */
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
      session.app.addSession(session)
      sessionCount++
    },
    getSession: (worker, handle) => workers[worker]?.get(handle),
    removeSession(session) {
      if (tableOf(session.worker).remove(session.handle) === undefined) return false
      session.app.removeSession(session)
      sessionCount--
      return true
    },
    addHalfOpen(halfOpen) {
      halfOpen.handle = halfOpens.add(halfOpen)
      halfOpen.client.app.halfOpens++
      return halfOpen.handle
    },
    getHalfOpen: (handle) => halfOpens.get(handle),
    takeHalfOpen(handle) {
      const halfOpen = halfOpens.remove(handle)
      if (halfOpen !== undefined) halfOpen.client.app.halfOpens--
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
