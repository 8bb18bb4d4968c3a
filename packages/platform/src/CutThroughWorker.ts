/**
 * cut-through in a worker thread: an application like any other, whose session
 * layer is in the thread that provides `CutThroughNode.layer`.
 *
 * There is nothing to hand over when the thread is started: it finds its host by
 * itself, from a plain `new Worker`, a `NodeWorker`, a thread of a pool, or a
 * worker of a worker. Bytes go straight from thread to thread, through memory
 * that both map.
 *
 * A thread that blocks (`Atomics.wait`, a long computation) notices nothing
 * meanwhile. Pools that block their idle threads have options not to:
 * `atomics: "async"` or `"disabled"` of piscina, `useAtomics: false` of tinypool.
 *
 * @since 0.1.0
 */
import { Application } from "@cut-through/core/Application"
import * as SessionConfig from "@cut-through/core/session/SessionConfig"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import {
  getEnvironmentData,
  MessageChannel,
  type MessagePort,
  postMessageToThread,
  threadId
} from "node:worker_threads"
import * as CutThroughHost from "./CutThroughHost.ts"
import { layerThread } from "./internal/layerThread.ts"
import * as Guest from "./thread/Guest.ts"
import * as Protocol from "./thread/Protocol.ts"

/**
 * How a thread attaches.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Omit<AttachOptions, "name"> {
  /** What listings call the application. Default `thread` and the number of the thread. */
  readonly name?: string | undefined
  /** The name of the host. Default `"default"`, which is what `CutThroughNode` gives it. */
  readonly host?: string | undefined
  /** How long it looks for its host before it fails with `NoHost`. Default 10 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/**
 * What this thread holds: to be looked at, and checked for leaks.
 *
 * @category services
 * @since 0.1.0
 */
export class CutThroughWorker extends Context.Service<
  CutThroughWorker,
  {
    /** Sessions, listeners, requests without an answer, mapped segments and threads it can ring. At rest: zeros. */
    readonly residue: () => Guest.Residue
  }
>()("@cut-through/platform/CutThroughWorker") {}

/** The first wait for an answer; doubled each time. */
const FIRST_WAIT_MILLIS = 50
const LONGEST_WAIT_MILLIS = 1000

const attachOptions = (options: Options): AttachOptions => ({ ...options, name: options.name ?? `thread ${threadId}` })

/**
 * Attaches an application to the host of this process, until the scope closes.
 * Fails with `NoHost` when none answers, and as `Application.make` does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<Guest.Guest, SessionError.SessionError, Scope.Scope> {
  const name = options.host ?? CutThroughHost.DEFAULT_NAME
  const hostThread = (getEnvironmentData(`${Protocol.HOST_KEY}/${name}`) as number | undefined) ?? 0
  const limit = Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? "10 seconds"))
  const start = yield* Clock.currentTimeMillis
  let wait = FIRST_WAIT_MILLIS
  while (true) {
    const attached = yield* attempt(name, hostThread, attachOptions(options), wait)
    if (attached !== undefined) return attached
    if ((yield* Clock.currentTimeMillis) - start >= limit) {
      return yield* SessionError.make(new SessionError.NoHost({ host: name, threadId: hostThread }))
    }
    wait = Math.min(2 * wait, LONGEST_WAIT_MILLIS)
  }
})

/** Calls the host once, and waits for a while: a call to a thread that is only starting may be lost. */
const attempt = Effect.fnUntraced(function* (
  name: string,
  hostThread: number,
  options: AttachOptions,
  wait: number
): Effect.fn.Return<Guest.Guest | undefined, SessionError.SessionError, Scope.Scope> {
  const outer = yield* Effect.scope
  const { port1, port2 } = new MessageChannel()
  const answered = Deferred.makeUnsafe<void>()
  const scope = Scope.makeUnsafe()
  const attaching = Scope.provide(
    Guest.make(port1, options, () => Deferred.doneUnsafe(answered, Exit.void)),
    scope
  ).pipe(
    // A port that is closed without an answer is no answer: the host may not be there yet.
    Effect.catch((error) => (Deferred.isDoneUnsafe(answered) ? Effect.fail(error) : Effect.never))
  )
  const giveUp = Effect.raceFirst(
    Effect.as(Effect.sleep(wait), Effect.undefined),
    // Once it has answered there is an answer to wait for, however long it takes.
    Effect.as(Deferred.await(answered), Effect.never)
  ).pipe(Effect.flatten)
  call(name, hostThread, port2)
  return yield* Effect.raceFirst(attaching, giveUp).pipe(
    Effect.onExit((exit) =>
      Exit.isSuccess(exit) && exit.value !== undefined
        ? Scope.addFinalizerExit(outer, (exit) => Scope.close(scope, exit))
        : Scope.close(scope, Exit.void)
    )
  )
})

const call = (name: string, hostThread: number, port: MessagePort): void => {
  // A thread cannot call itself, and need not.
  if (hostThread === threadId) return CutThroughHost.get(name)?.accept(port)
  // Nobody there, or nobody who listens: it is called again.
  postMessageToThread(hostThread, { [Protocol.HOST_KEY]: name, port }, [port]).catch(() => {})
}

const layerOf = <E>(
  guest: Effect.Effect<Guest.Guest, E, Scope.Scope>
): Layer.Layer<Application | CutThroughWorker, E> =>
  Layer.effectContext(
    Effect.map(guest, ({ application, residue }) =>
      Context.make(Application, application).pipe(Context.add(CutThroughWorker, { residue }))
    )
  ).pipe(Layer.provide(layerThread))

/**
 * The application of this thread, attached to the host of this process.
 *
 * **Example** (In the file of a worker thread)
 *
 * ```ts no-run
 * import { Application, Endpoint } from "@cut-through/core"
 * import { CutThroughWorker } from "@cut-through/platform"
 * import { Effect, Stream } from "effect"
 *
 * const server = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* listener.run((connection) => Stream.run(connection.stream, connection.sink))
 * })
 *
 * Effect.runFork(server.pipe(Effect.scoped, Effect.provide(CutThroughWorker.layer({ name: "echo" }))))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Application | CutThroughWorker, SessionError.SessionError> =>
  layerOf(make(options))

/**
 * {@link layer} with options from the configuration: the keys of
 * `SessionConfig`, under `CUT_THROUGH`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<Application | CutThroughWorker, SessionError.SessionError | Config.ConfigError> =
  layerOf(Effect.flatMap(Config.nested(SessionConfig.attachOptions, SessionConfig.PREFIX), make))

/**
 * The application of this thread, attached over a port whose other end the host
 * has been given, or will be: `CutThroughHost.accept`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerPort = (
  port: MessagePort,
  options: Omit<Options, "host" | "timeout"> = {}
): Layer.Layer<Application | CutThroughWorker, SessionError.SessionError> =>
  layerOf(Guest.make(port, attachOptions(options)))
