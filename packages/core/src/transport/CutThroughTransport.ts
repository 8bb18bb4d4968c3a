/**
 * Connections between two applications of one session layer, through FIFOs in a
 * segment they share.
 *
 * **A connect**: half-open, then a call on a worker's queue. The call takes the
 * leases of both sides, makes the server's session, hands it to the listener,
 * makes the client's session, and answers. Every connect gets exactly one
 * answer: whoever takes its half-open out of the table gives it.
 *
 * **A close**: the end (or reset) is published in the FIFOs behind the last
 * byte, so the peer sees it in order and without the session layer; then a call
 * on the worker's queue releases the lease and retires the handle.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as MutableList from "effect/MutableList"
import * as Endpoint from "../Endpoint.ts"
import { LocalDoorbell } from "../memory/Doorbell.ts"
import * as Fifo from "../memory/Fifo.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type { Leases, Side } from "../segment/SegmentContext.ts"
import { type AppListener, NOBODY_LISTENS } from "../session/AppListener.ts"
import type { AppWorker } from "../session/AppWorker.ts"
import type { HalfOpen } from "../session/Connections.ts"
import * as Session from "../session/Session.ts"
import type { SessionLayer } from "../session/SessionLayer.ts"
import * as SessionError from "../SessionError.ts"

type Layer = SessionLayer["Service"]

/**
 * Starts a connect to a listener and returns the handle of its half-open, for
 * `cancel`. `answer` is called once, maybe before this returns, unless the
 * connect is cancelled first.
 *
 * @category operations
 * @since 0.1.0
 */
export const connect = (
  layer: Layer,
  client: AppWorker,
  remote: Endpoint.Endpoint,
  listener: AppListener,
  answer: HalfOpen["answer"]
): HandleTable.Handle => {
  const local = Endpoint.withPort(remote, layer.table.ephemeralPort())
  const handle = layer.connections.addHalfOpen({ client, local, remote, listener: listener.handle, answer })
  const worker = layer.selectWorker()
  worker.send(accept(layer, worker.index, handle))
  return handle
}

/**
 * Gives up a connect; false when it has been answered.
 *
 * @category operations
 * @since 0.1.0
 */
export const cancel = (layer: Layer, handle: HandleTable.Handle): boolean =>
  layer.connections.takeHalfOpen(handle) !== undefined

/** The call on the worker's queue. Uninterruptible: leases in hand must find their way. */
const accept = (layer: Layer, worker: number, handle: HandleTable.Handle): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.suspend(() => {
      const halfOpen = layer.connections.getHalfOpen(handle)
      if (halfOpen === undefined) return Effect.void
      const listener = layer.getListener(halfOpen.listener)
      if (listener === undefined || listener.refusal !== undefined) {
        const why = listener?.refusal ?? NOBODY_LISTENS
        reject(layer, worker, handle, refusal(halfOpen.remote, why))
        return Effect.void
      }
      const [server, manager] = listener.selectWorker()
      return Effect.matchCause(layer.segments.acquire({ manager, client: halfOpen.client, server }), {
        onFailure: (cause) => reject(layer, worker, handle, whyFailed(cause)),
        onSuccess: (leases) => introduce(layer, worker, handle, listener, server, leases)
      })
    })
  )

/** Whatever has happened, the client gets an answer. */
const whyFailed = (cause: Cause.Cause<SessionError.SessionError>): SessionError.SessionError => {
  const error = Cause.squash(cause)
  return error instanceof SessionError.SessionError
    ? error
    : SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 0, cause: error }))
}

const reject = (layer: Layer, worker: number, handle: HandleTable.Handle, error: SessionError.SessionError): void => {
  const halfOpen = layer.connections.takeHalfOpen(handle)
  if (halfOpen !== undefined) wakeAfter(layer, worker, halfOpen.answer(error))
}

const refusal = (remote: Endpoint.Endpoint, why: string): SessionError.SessionError =>
  SessionError.make(new SessionError.Refused({ endpoint: Endpoint.format(remote), why }))

/** Whoever is woken goes on where no call is under way, so that the calls it sends start at once. */
const wakeAfter = (layer: Layer, worker: number, waiter: Waiter | undefined): void => {
  if (waiter !== undefined) layer.worker(worker).after(() => layer.wake.wake(waiter))
}

/** Makes both sessions, hands one to the listener and answers with the other. */
const introduce = (
  layer: Layer,
  worker: number,
  handle: HandleTable.Handle,
  listener: AppListener,
  server: AppWorker,
  leases: Leases
): void => {
  // Memory may have been waited for: the listener may be gone, and so may the client.
  const refused = listener.refusal
  const halfOpen = layer.connections.takeHalfOpen(handle)
  if (halfOpen === undefined || refused !== undefined) {
    layer.segments.release(leases.client)
    layer.segments.release(leases.server)
    if (halfOpen !== undefined && refused !== undefined) {
      wakeAfter(layer, worker, halfOpen.answer(refusal(halfOpen.remote, refused)))
    }
    return
  }
  const toServer = new LocalDoorbell()
  const toClient = new LocalDoorbell()
  const serverSession = makeSession("server", worker, server, halfOpen, leases, toServer, toClient)
  const clientSession = makeSession("client", worker, halfOpen.client, halfOpen, leases, toClient, toServer)
  layer.connections.addSession(serverSession)
  layer.connections.addSession(clientSession)
  serverSession.peer = { worker, handle: clientSession.handle }
  clientSession.peer = { worker, handle: serverSession.handle }
  Session.transition(serverSession, "accepting")
  Session.transition(clientSession, "connecting")
  // The listener says yes for the application, as TCP's backlog does; the application may still reset.
  Session.transition(serverSession, "ready")
  Session.transition(clientSession, "ready")
  MutableList.append(listener.backlog, serverSession)
  wakeAfter(layer, worker, listener.accepters.shift())
  wakeAfter(layer, worker, halfOpen.answer(clientSession))
}

const makeSession = (
  side: Side,
  worker: number,
  app: AppWorker,
  { local, remote }: HalfOpen,
  leases: Leases,
  doorbell: LocalDoorbell,
  peerDoorbell: LocalDoorbell
): Session.Session => ({
  side,
  worker,
  handle: HandleTable.NONE,
  state: "created",
  app,
  local: side === "client" ? local : remote,
  remote: side === "client" ? remote : local,
  rx: side === "client" ? leases.tx : leases.rx,
  tx: side === "client" ? leases.rx : leases.tx,
  lease: leases[side],
  doorbell,
  peerDoorbell,
  peer: Session.NO_SESSION,
  onClosing: undefined
})

/**
 * Closes one side of a connection. Gracefully, all that was written arrives and
 * then the end; with `reset`, or when there are bytes this side has not read,
 * the other side is told at once and what it has not read is lost.
 *
 * Done when the lease is released and the handle retired. Closing again does
 * nothing.
 *
 * @category operations
 * @since 0.1.0
 */
export const close = (layer: Layer, session: Session.Session, reset: boolean): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (isClosing(session)) return Effect.void
    Session.transition(session, "closing")
    session.doorbell.target = undefined
    session.onClosing?.()
    // A corrupt FIFO reads as negative: nothing more is to be said over it than that it is over.
    if (reset || session.rx.readable !== 0) {
      session.tx.reset(Fifo.WRITER)
      session.rx.reset(Fifo.READER)
    } else {
      session.tx.end()
      session.rx.stop()
    }
    session.peerDoorbell.ring()
    return Effect.callback<void>((resume) => {
      layer.worker(session.worker).send(
        Effect.sync(() => {
          cleanup(layer, session)
          resume(Effect.void)
        })
      )
    })
  })

const isClosing = ({ state }: Session.Session): boolean =>
  state === "closing" || state === "app-closed" || state === "transport-closed" || state === "closed"

const cleanup = (layer: Layer, session: Session.Session): void => {
  Session.transition(session, "app-closed")
  const peer = layer.connections.getSession(session.peer.worker, session.peer.handle)
  if (peer?.state === "ready") Session.transition(peer, "transport-closing")
  layer.segments.release(session.lease)
  Session.transition(session, "closed")
  layer.connections.removeSession(session)
}

/**
 * How listings name a connection: worker and session, this transport standing
 * in for TCP, and both addresses.
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatConnection = (session: Session.Session): string =>
  `[${session.worker}:${HandleTable.indexOf(session.handle)}][CT:T] ${Endpoint.format(session.local)}->${Endpoint.format(session.remote)}`
