/**
 * An endpoint that takes connections.
 *
 * Connections are established as they arrive and wait in a backlog until they
 * are accepted, as with TCP.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Context from "effect/Context"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { Connection, fromSession, type Runtime } from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import type * as HandleTable from "./runtime/HandleTable.ts"
import { Hold } from "./runtime/KeepAlive.ts"
import * as Trace from "./runtime/Trace.ts"
import * as Acceptor from "./session/Acceptor.ts"
import * as Session from "./session/Session.ts"
import type { Binding, SessionLayer } from "./session/SessionLayer.ts"
import * as SessionError from "./SessionError.ts"

const TypeId = "~@cut-through/core/Listener"

/**
 * An endpoint that takes connections, until the scope it was made in closes.
 *
 * **Example** (Accepting one connection)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
 *   const client = yield* Application.connect(listener.address)
 *   const server = yield* listener.accept
 *   return server.info.remote.port === client.info.local.port
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => true
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export interface Listener {
  readonly [TypeId]: typeof TypeId
  /** Where it listens: with port 0 asked for, the port it got. */
  readonly address: Endpoint.Endpoint
  /** What a session rule redirects to, to reach this listener. */
  readonly handle: HandleTable.Handle
  /** Waits for the next connection, which then lives in the caller's scope. */
  readonly accept: Effect.Effect<Connection, SessionError.SessionError, Scope.Scope>
  /**
   * Waits for the next connection without saying yes to it yet: for listeners
   * with `approval: "application"`. What is neither accepted nor refused when
   * the scope closes is refused.
   */
  readonly request: Effect.Effect<ConnectionRequest, SessionError.SessionError, Scope.Scope>
  /**
   * Serves each connection in a fiber and a scope of its own, until it is
   * interrupted (which resets the connections being served) or the listener
   * closes. A handler that fails resets its connection and is logged (at debug
   * level when the connection was broken off or closed); the others go on. Connections
   * that arrived earlier are served first.
   */
  readonly run: <A, E, R>(
    handler: (connection: Connection) => Effect.Effect<A, E, R>
  ) => Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
  /** Keeps the process running while it listens, as it does from the start. */
  readonly ref: Effect.Effect<void>
  /** Lets the process end while it listens. */
  readonly unref: Effect.Effect<void>
}

/**
 * A connection that waits for the server's yes or no.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConnectionRequest {
  readonly local: Endpoint.Endpoint
  readonly remote: Endpoint.Endpoint
  /**
   * Says yes: the connection lives in the caller's scope. Fails with `Reset`
   * when the client has given up meanwhile, with `InvalidArgument` when it was
   * accepted before, with `Closed` when it was refused.
   */
  readonly accept: Effect.Effect<Connection, SessionError.SessionError, Scope.Scope>
  /** Says no: the client's connect fails with `Refused`. Does nothing after an answer. */
  readonly refuse: Effect.Effect<void>
}

/**
 * Where the connections of a listener come from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Source {
  readonly address: Endpoint.Endpoint
  readonly handle: HandleTable.Handle
  /**
   * Takes the next connection, now or later: `taken` gives it an owner in the
   * same step, and gets nothing when the listener has closed. With `accepts` the
   * server has said yes. Returns what gives up, when it has to wait.
   */
  readonly take: (
    accepts: boolean,
    taken: (session: Session.AppSession | undefined) => void
  ) => (() => void) | undefined
  /** Says yes to one that waits for it; `answered` gets why that cannot be any more, or nothing. */
  readonly approve: (
    session: Session.AppSession,
    answered: (impossible: SessionError.Reason | undefined) => void
  ) => void
  /** Stops listening. */
  readonly close: Effect.Effect<void>
}

/**
 * The face of a listener; closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromSource = (runtime: Runtime, source: Source): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.suspend(() => {
    const hold = new Hold(runtime.keepAlive)
    return Effect.as(
      Effect.addFinalizer(() =>
        Effect.ensuring(
          source.close,
          Effect.sync(() => hold.unref())
        )
      ),
      make(runtime, source, hold)
    )
  })

/**
 * The face of a bound listener; closes it with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromBinding = (
  layer: SessionLayer["Service"],
  binding: Binding
): Effect.Effect<Listener, never, Scope.Scope> =>
  fromSource(layer, {
    address: binding.listener.endpoint,
    handle: binding.listener.handle,
    take: (accepts, taken) => Acceptor.take(layer, binding.queue, accepts, taken),
    approve: (session, answered) => answered((session as Session.Session).transport.accept(session as Session.Session)),
    close: close(layer, binding)
  })

/**
 * Stops listening: whoever waits in `accept` gets `Closed`, and connections
 * that nobody has accepted are reset.
 *
 * @category operations
 * @since 0.1.0
 */
export const close = (layer: SessionLayer["Service"], binding: Binding): Effect.Effect<void> =>
  Effect.andThen(
    layer.unbind(binding),
    Effect.suspend(() => {
      const { queue } = binding
      for (const accepter of queue.accepters.splice(0)) layer.wake.wake(accepter)
      const left: Array<Session.Session> = []
      for (let session = queue.take(); session !== undefined; session = queue.take()) left.push(session)
      return Effect.forEach(left, (session) => Session.close(session, true), { discard: true })
    })
  )

const make = (runtime: Runtime, source: Source, hold: Hold): Listener => {
  const closed = Exit.fail(SessionError.make(new SessionError.Closed({ what: "listener" })))

  /** Looking for a connection, waiting for it and giving it to its owner are one step each, in one call. */
  const take = <A>(
    accepts: boolean,
    adopt: (session: Session.AppSession, fiber: Fiber.Fiber<unknown, unknown>) => A
  ): Effect.Effect<A, SessionError.SessionError> =>
    Trace.callback("cut-through.accept", attributes, (resume, fiber) => {
      const giveUp = source.take(accepts, (session) =>
        resume(session === undefined ? closed : Exit.succeed(adopt(session, fiber)))
      )
      return giveUp === undefined ? undefined : Effect.sync(giveUp)
    })

  const attributes = () => ({ "cut-through.listener": Endpoint.format(source.address) })

  return {
    [TypeId]: TypeId,
    address: source.address,
    handle: source.handle,
    ref: Effect.sync(() => hold.ref()),
    unref: Effect.sync(() => hold.unref()),
    accept: take(true, (session, fiber) => fromSession(runtime, session, scopeOf(fiber))),
    request: take(false, (session, fiber) => {
      const request = makeRequest(runtime, source, session)
      Effect.runFork(Scope.addFinalizer(scopeOf(fiber), request.refuse))
      return request
    }),
    run: <A, E, R>(handler: (connection: Connection) => Effect.Effect<A, E, R>) =>
      Effect.suspend(() => {
        // Not finalizers of a scope, which keeps them in a `Map`: V8 lets everything grow old that has been in one which
        // lives long.
        const serving: Array<Serving> = []
        // One effect around the handler, and its services put in place before it starts: most connections live briefly.
        const serve = (context: Context.Context<never>, session: Session.AppSession): Fiber.Fiber<unknown, unknown> => {
          const scope = Scope.makeUnsafe()
          const connection = fromSession(runtime, session, scope)
          const own = Context.add(Context.add(context, Connection, connection), Scope.Scope, scope)
          const handled = Effect.interruptible(Effect.suspend(() => handler(connection)))
          const whole = Effect.onExit(handled, (exit) => {
            const closing = Effect.ignoreCause(Scope.closeUnsafe(scope, exit) ?? Exit.void, unhandled)
            return Exit.isSuccess(exit) ? closing : Effect.andThen(closing, report(exit.cause))
          })
          return Effect.runForkWith(own as Context.Context<never>)(whole as Effect.Effect<unknown, unknown>, {
            uninterruptible: true
          })
        }
        // Between accepting a session and serving it nothing can interrupt: the fiber is started in the same step.
        const next = take(true, (session, fiber) => {
          const served = serve(fiber.context, session)
          if (served.pollUnsafe() !== undefined) return
          const one = { fiber: served, place: serving.length }
          serving.push(one)
          served.addObserver(() => {
            const last = serving.pop()!
            if (last === one) return
            serving[one.place] = last
            last.place = one.place
          })
        })
        const stop = Effect.suspend(() => Fiber.interruptAll(serving.map(({ fiber }) => fiber)))
        return Effect.ensuring(Effect.forever(next, { disableYield: true }), stop)
      }) as Effect.Effect<never, SessionError.SessionError, Exclude<R, Scope.Scope | Connection>>
  }
}

/** A connection's fiber, and its place among all of its listener. */
interface Serving {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  place: number
}

const scopeOf = (fiber: Fiber.Fiber<unknown, unknown>): Scope.Scope =>
  Context.getUnsafe(fiber.context as Context.Context<Scope.Scope>, Scope.Scope)

const unhandled = { log: "Unhandled", message: "Unhandled error in a connection handler" } as const

/** What a handler cannot help: its connection is over, by its peer or because its application goes. */
const isOver = (error: unknown): boolean =>
  error instanceof SessionError.SessionError && ["Reset", "PeerDied", "Closed"].includes(error.reason._tag)

const report = (cause: Cause.Cause<unknown>): Effect.Effect<void> => {
  if (Cause.hasInterruptsOnly(cause)) return Effect.void
  const error = Cause.findErrorOption(cause)
  return Option.isSome(error) && isOver(error.value)
    ? Effect.logDebug("A connection was over before its handler", error.value)
    : Effect.ignoreCause(Effect.failCause(cause), unhandled)
}

const makeRequest = (runtime: Runtime, source: Source, session: Session.AppSession): ConnectionRequest => {
  // A listener that says yes itself has done so; the connection still waits for an owner.
  const needsYes = session.state === "accepting"
  let answer: "yes" | "no" | undefined

  const sayYes = (answered: (impossible: SessionError.Reason | undefined) => void): void => {
    if (answer === "no") return answered(new SessionError.Closed({ what: "request" }))
    if (answer === "yes") {
      return answered(
        new SessionError.InvalidArgument({
          what: "the session to accept",
          value: session.format(),
          expected: "one that was not accepted yet"
        })
      )
    }
    // First, because the client is woken on the way, and may come back here.
    answer = "yes"
    if (!needsYes) return answered(undefined)
    source.approve(session, (impossible) => {
      if (impossible !== undefined) answer = undefined
      answered(impossible)
    })
  }

  return {
    local: session.local,
    remote: session.remote,
    accept: Effect.callback((resume) => {
      const scope = scopeOf(Fiber.getCurrent()!)
      sayYes((impossible) =>
        resume(
          impossible === undefined
            ? Exit.succeed(fromSession(runtime, session, scope))
            : Exit.fail(SessionError.make(impossible))
        )
      )
    }),
    refuse: Effect.suspend(() => {
      if (answer !== undefined) return Effect.void
      answer = "no"
      return Session.closeNow(session, true)
    })
  }
}
