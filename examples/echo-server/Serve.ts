/**
 * The echo server on its own, for whoever comes: applications of this process by cut-through, all others by TCP.
 */
import { Application, type Connection, Endpoint, Sessions, type SessionError } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { TcpTransport } from "@cut-through/platform"
import { Console, Effect, Exit, FiberSet, Schedule, Scope } from "effect"
import { serve as echo } from "./Echo.ts"

/** How long connections have to finish, once the server is told to end. */
export const GRACE_SECONDS = 5

/** Signals that tell the server to end. */
const SIGNALS = ["SIGINT", "SIGTERM"] as const

/**
 * Serves until it is interrupted. Then it takes no more connections, and waits until those that are open have finished:
 * for some seconds, or until the next signal. What is open after that is reset.
 */
export const serve = Effect.fnUntraced(function* (
  endpoint: Endpoint.Endpoint
): Effect.fn.Return<never, SessionError.SessionError, SessionLayer | Scope.Scope> {
  // With this in the session layer, a listener is a real port too.
  yield* TcpTransport.make()
  const server = yield* Application.make({ name: "echo-server" })
  // The listener has a scope of its own: it closes before the connections do.
  const listening = yield* Scope.fork(yield* Effect.scope)
  const listener = yield* Scope.provide(server.listen(endpoint), listening)
  const open = yield* FiberSet.make()

  /** Takes one connection, leaves the next one to another fiber, and serves its own. */
  const acceptOne: Effect.Effect<void> = Effect.gen(function* () {
    const connection = yield* listener.accept
    yield* FiberSet.run(open, acceptOne)
    yield* Effect.andThen(announce(connection), echo(connection))
  }).pipe(
    Effect.scoped,
    // A client that breaks off, and in the end the listener, which closes.
    Effect.ignore
  )
  yield* FiberSet.run(open, acceptOne)
  yield* Console.log(`echo server on ${Endpoint.format(listener.address)}, until Ctrl-C`)

  const finished = Effect.andThen(FiberSet.awaitEmpty(open), isQuiet)
  const drain = Effect.gen(function* () {
    yield* Scope.close(listening, Exit.void)
    const { length } = yield* Sessions.find({ kind: "session", app: server.name })
    if (length > 0) {
      const many = length === 1 ? "1 connection" : `${length} connections`
      yield* Console.log(`waiting for ${many}: for ${GRACE_SECONDS} seconds, or until the next Ctrl-C`)
    }
    const impatience = yield* Effect.raceAllFirst([
      Effect.as(finished, undefined),
      Effect.as(Effect.sleep(`${GRACE_SECONDS} seconds`), "time is over"),
      Effect.as(nextSignal, "told again")
    ])
    if (impatience !== undefined) yield* Console.log(`breaking off what is open: ${impatience}`)
  })
  return yield* Effect.onInterrupt(Effect.never, () => drain)
})

const announce = ({ info }: Connection.Connection) =>
  Console.log(`${Endpoint.format(info.remote)} connected (${info.path})`)

/** Waits until nothing is on its way to the network any more: a session is there as long as its socket is. */
const isQuiet = Effect.repeat(Sessions.residue, {
  until: ({ sessions }) => sessions === 0,
  schedule: Schedule.spaced("10 millis")
})

/** Not before a second has passed: npm passes on what its whole group of processes has got already. */
const nextSignal = Effect.callback<void>((resume) => {
  const onSignal = () => resume(Effect.void)
  for (const signal of SIGNALS) process.once(signal, onSignal)
  return Effect.sync(() => {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  })
}).pipe(Effect.delay("1 second"))
