/** What a process or a thread does, with cut-through. */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { Listener } from "@cut-through/core/Listener"
import type * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import { Poller } from "@cut-through/platform/thread/Poller"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { isMainThread, MessageChannel, Worker } from "node:worker_threads"
import { listenTo, start, tell } from "./life-alive.ts"
import { drain, talkOver, until } from "./life-talk.ts"
import type { Task } from "./life-thread.ts"

/** A thread beside the main one that listens, and calls. In a worker the test does that. */
const makePeer = Effect.gen(function* () {
  const worker = new Worker(new URL("./life-thread.ts", import.meta.url))
  const control = new MessageChannel()
  const { port1, port2 } = new MessageChannel()
  const task: Task = { part: "peer", args: undefined, depth: 0, control: control.port2, talk: port2 }
  worker.postMessage(task, [control.port2, port2])
  const talk = talkOver(port1)
  const port: number = yield* talk.hear
  worker.unref()
  port1.unref()
  control.port1.unref()
  return { port, call: (port: number) => Effect.andThen(talk.say(port), talk.hear) }
})

const peer = Effect.runSync(
  Effect.cached(
    isMainThread
      ? makePeer
      : Effect.succeed({
          port: start.port,
          call: (port: number): Effect.Effect<void> => Effect.sync(() => tell({ _tag: "Call", port }))
        })
  )
)

const listen = Application.listen(Endpoint.tcp("127.0.0.1", 0))
const connect = Effect.flatMap(peer, ({ port }) => Application.connect(Endpoint.tcp("127.0.0.1", port)))

const serve: Effect.Effect<Connection, SessionError.SessionError, Application.Application | Scope.Scope> = Effect.gen(
  function* () {
    const { call } = yield* peer
    const listener = yield* listen
    yield* Effect.forkScoped(call(listener.address.port))
    const connection = yield* listener.accept
    yield* listener.unref
    return connection
  }
)

const without = <A extends Listener | Connection>(made: A) => Effect.as(made.unref, made)

const cases: {
  readonly [name: string]: Effect.Effect<unknown, unknown, Application.Application | Scope.Scope>
} = {
  nothing: Effect.void,
  events: Effect.flatMap(Application.Application, ({ events }) =>
    Effect.forkScoped(Stream.runDrain(events), { startImmediately: true })
  ),
  "a listener": listen,
  "a listener without a reference": Effect.flatMap(listen, without),
  "a listener that has its reference again": Effect.flatMap(listen, (listener) =>
    Effect.all([listener.unref, listener.unref, listener.ref])
  ),
  "a closed listener": Effect.scoped(listen),
  "waiting for a connection, without a reference": Effect.gen(function* () {
    const listener = yield* listen
    yield* listener.unref
    yield* Effect.forkScoped(listener.accept, { startImmediately: true })
    yield* Effect.forkScoped(listener.request, { startImmediately: true })
  }),
  "a client": connect,
  "a client without a reference": Effect.flatMap(connect, without),
  "a client that has its reference again": Effect.flatMap(connect, (connection) =>
    Effect.all([connection.unref, connection.unref, connection.ref])
  ),
  "a closed client": Effect.scoped(connect),
  "reading, without a reference": Effect.gen(function* () {
    const connection = yield* connect
    yield* connection.unref
    yield* Effect.forkScoped(connection.read, { startImmediately: true })
  }),
  "writing to a peer that does not read": Effect.gen(function* () {
    const connection = yield* connect
    yield* Effect.forkScoped(connection.write(new Uint8Array(1_000_000)), { startImmediately: true })
  }),
  "writing to a peer that does not read, without a reference": Effect.gen(function* () {
    const connection = yield* connect
    yield* connection.unref
    yield* Effect.forkScoped(connection.write(new Uint8Array(1_000_000)), { startImmediately: true })
  }),
  "a client whose peer has ended its stream": Effect.gen(function* () {
    const connection = yield* connect
    yield* connection.write(new TextEncoder().encode("end"))
    yield* drain(connection)
  }),
  "a server": serve,
  "a server without a reference": Effect.flatMap(serve, without),
  "two clients, one without a reference": Effect.andThen(connect, Effect.flatMap(connect, without)),
  "a connect without an answer": Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0), { approval: "application" })
    yield* listener.unref
    yield* Effect.forkScoped(Application.connect(listener.address), { startImmediately: true })
    // Its sessions are there: the request has arrived.
    yield* listener.request
  })
}

const program = Effect.gen(function* () {
  const poller = yield* Poller
  const finished = Deferred.makeUnsafe<void>()
  yield* cases[start.name]
  yield* until(() => poller.isParked)
  listenTo(
    () => poller.isParked,
    () => Deferred.doneUnsafe(finished, Exit.void)
  )
  tell("ready")
  yield* Deferred.await(finished)
}).pipe(Effect.scoped)

if (isMainThread) {
  // Only here: it takes its time to load.
  const CutThroughNode = await import("@cut-through/platform/CutThroughNode")
  Effect.runFork(Effect.provide(program, CutThroughNode.layer))
} else Effect.runFork(Effect.provide(program, CutThroughWorker.layer({ name: start.name })))
