/** Programs of the tests that threads run. */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads"
import { type Case, type CaseName, cases } from "./life-cases.ts"
import { churn, doomed, serving, stalling, witness } from "./life-deaths.ts"
import { drain, echo, failsWith, type Outcome, reasonOf, type Talk, talkOver, until, writeBytes } from "./life-talk.ts"
import type { Task } from "./life-thread.ts"

export type Part = (talk: Talk, args: any) => Effect.Effect<unknown, unknown, Scope.Scope>

/** Runs a program with an application of this thread; when it has ended, nothing of it is left. */
export const attached = <A, E>(
  options: CutThroughWorker.Options,
  program: Effect.Effect<A, E, Application.Application | Scope.Scope>
) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(Layer.fresh(CutThroughWorker.layer(options)))
    const { residue } = Context.get(context, CutThroughWorker.CutThroughWorker)
    const value = yield* Effect.provideContext(Effect.scoped(program), context)
    // Threads that can be rung stay for as long as they live.
    yield* until(() => {
      const { listeners, requests, segments, sessions } = residue()
      return listeners + requests + segments + sessions === 0
    })
    return value
  })

/** A case, one of its sides or both. */
export interface SidesArgs {
  readonly name: CaseName
  readonly sides: ReadonlyArray<"server" | "client">
  readonly options: CutThroughWorker.Options
}

/** The sides that are here; when both are, they talk to each other, in one application. */
export const runSides = (talk: Talk, { name, sides }: Pick<SidesArgs, "name" | "sides">) => {
  const found: Case = cases[name]
  if (sides.length === 1) return found[sides[0]](talk, undefined)
  const { port1, port2 } = new MessageChannel()
  const both = [found.server(talkOver(port1), undefined), found.client(talkOver(port2), undefined)]
  return Effect.ensuring(
    Effect.map(Effect.all(both, { concurrency: 2 }), ([path]) => path),
    Effect.sync(() => port1.close())
  )
}

/** Attaches, says how that went, and stays until it is told to go. */
const attach = (talk: Talk, layer: Layer.Layer<Application.Application, SessionError.SessionError>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const attached = yield* Effect.result(Layer.build(Layer.fresh(layer)))
      if (Result.isFailure(attached)) return yield* talk.say(reasonOf(attached.failure))
      yield* talk.say(Context.get(attached.success, Application.Application).name)
      yield* talk.hear
    })
  )

/** Holds what connects to it, and what it connects to. */
export const peer = (talk: Talk) =>
  Effect.gen(function* () {
    const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
    yield* Effect.forkScoped(
      listener.run((connection) =>
        Effect.gen(function* () {
          // "end": the peer of a peer that writes more has to wait.
          yield* connection.readInto(new Uint8Array(3))
          yield* connection.end
          return yield* Effect.never
        }).pipe(Effect.catchIf(Cause.isDone, () => Effect.void))
      )
    )
    yield* talk.say(listener.address.port)
    const call = Effect.gen(function* () {
      yield* Application.connect(Endpoint.tcp("127.0.0.1", yield* talk.hear))
      yield* talk.say("called")
    })
    return yield* Effect.forever(call)
  })

/** A worker of this thread that runs programs. */
const workerHere = Effect.acquireRelease(
  Effect.sync(() => new Worker(new URL("./life-thread.ts", import.meta.url))),
  (worker) => Effect.promise(() => worker.terminate())
)

export const parts = {
  sides: (talk, args: SidesArgs) => attached(args.options, runSides(talk, args)),

  /** Attaches with these options. */
  attach: (talk, options: CutThroughWorker.Options | undefined) => attach(talk, CutThroughWorker.layer(options)),

  /** The same, with options that say more than plain data can. */
  attachWithRichOptions: (talk) =>
    attach(
      talk,
      CutThroughWorker.layer({
        name: "rich",
        namespace: "secret",
        namespaceSecret: Redacted.make("correct horse"),
        rxFifoSize: "64 KiB",
        txFifoSize: 32_768n,
        segmentSize: ByteSize.mebibytes(2),
        segmentLinger: Duration.seconds(3),
        workers: 2
      })
    ),

  /** Attaches with options from the environment. */
  attachWithConfig: (talk, env: Record<string, string>) =>
    attach(
      talk,
      Layer.provide(Layer.orDie(CutThroughWorker.layerConfig), ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
    ),

  /** Attaches over the port that it is given. */
  attachOverPort: (talk, options: Omit<CutThroughWorker.Options, "host" | "timeout">) =>
    Effect.gen(function* () {
      const port: MessagePort = yield* talk.hear
      const attaching = yield* Effect.forkChild(attach(talk, CutThroughWorker.layerPort(port, options)), {
        startImmediately: true
      })
      // It has said what it wants.
      yield* talk.say("begun")
      yield* Fiber.join(attaching)
    }),

  /** Listens, and reads nothing until it is told to end its stream; calls whom it is told to. */
  peer: (talk) => attached({ name: "peer" }, peer(talk)),

  doomed,
  churn,
  witness: (talk) => attached({ name: "witness", segmentSize: "2 MiB" }, witness(talk, false)),
  stalling: (talk, bell: Int32Array) => attached({ name: "stalling", segmentSize: "1 MiB" }, stalling(talk, bell)),
  serving: (talk) => attached({ name: "serving", segmentSize: "1 MiB" }, serving(talk)),

  /** An application that its host leaves alone. */
  orphan: (talk) =>
    Effect.gen(function* () {
      const context = yield* Layer.build(Layer.fresh(CutThroughWorker.layer({ name: "orphan" })))
      const { events, listen } = Context.get(context, Application.Application)
      const told = yield* Effect.forkChild(Stream.runCollect(events), { startImmediately: true })
      const found = yield* Effect.scoped(
        Effect.gen(function* () {
          const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
          yield* talk.say(listener.address.port)
          const connection = yield* listener.accept
          const echoing = yield* Effect.forkChild(Effect.result(echo(connection)))
          yield* talk.hear
          const accepting = yield* Effect.forkChild(failsWith(listener.accept), { startImmediately: true })
          const other = yield* listen(Endpoint.tcp("127.0.0.1", 0), { approval: "application" })
          const asking = yield* Effect.forkChild(failsWith(Application.connect(other.address)), {
            startImmediately: true
          })
          yield* other.request
          yield* talk.say("waiting")
          yield* Fiber.join(echoing)
          return {
            accept: yield* Fiber.join(accepting),
            request: yield* failsWith(other.request),
            asked: yield* Fiber.join(asking),
            connect: yield* failsWith(Application.connect(other.address)),
            listen: yield* failsWith(Application.listen(Endpoint.tcp("127.0.0.1", 0)))
          }
        })
      ).pipe(Effect.provideContext(context))
      const { residue } = Context.get(context, CutThroughWorker.CutThroughWorker)
      return { ...found, events: (yield* Fiber.join(told)).map(({ _tag }) => _tag), residue: residue() }
    }),

  /** Several applications of one thread; the one in the middle leaves first. */
  severalApplications: (talk) =>
    Effect.gen(function* () {
      const names = ["first", "second", "third"]
      const scopes = names.map(() => Scope.makeUnsafe())
      const applications = yield* Effect.forEach(names, (name, i) =>
        Effect.map(
          Scope.provide(Layer.build(Layer.fresh(CutThroughWorker.layer({ name, segmentSize: "1 MiB" }))), scopes[i]),
          (context) => Context.get(context, Application.Application)
        )
      )
      const talkBetween = (server: number, client: number) =>
        Effect.scoped(
          Effect.gen(function* () {
            const listener = yield* applications[server].listen(Endpoint.tcp("127.0.0.1", 0))
            const connection = yield* applications[client].connect(listener.address)
            yield* Effect.forkChild(Effect.flatMap(listener.accept, echo))
            const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 200_000), connection.end))
            assert.deepEqual(yield* drain(connection), { how: "end", bytes: 200_000, received: undefined })
            yield* Fiber.join(writing)
            return connection.info.path
          })
        )
      const paths = yield* Effect.forEach(
        [
          [0, 1],
          [1, 2],
          [2, 0],
          [1, 1]
        ],
        ([server, client]) => talkBetween(server, client),
        { concurrency: "unbounded" }
      )
      yield* talk.say(paths)
      yield* talk.hear
      yield* Scope.close(scopes[1], Exit.void)
      assert.equal(yield* failsWith(Effect.scoped(applications[1].connect(Endpoint.tcp("127.0.0.1", 1)))), "Closed")
      yield* talk.say(yield* talkBetween(0, 2))
      yield* talk.hear
      for (const scope of scopes) yield* Scope.close(scope, Exit.void)
    }),

  /** An application with three workers, each of which listens on the same endpoint, and connects there. */
  severalWorkers: (talk) =>
    attached(
      { name: "crew", workers: 3, segmentSize: "1 MiB" },
      Effect.gen(function* () {
        const application = yield* Application.Application
        yield* talk.say(application.workers.map(({ name }) => name))
        const endpoint = Endpoint.tcp("127.0.0.1", 7003)
        const listeners = yield* Effect.forEach(application.workers, (worker) => worker.listen(endpoint))
        yield* talk.say(endpoint.port)
        // In turn: one for each of the workers.
        const connections = yield* Effect.forEach(listeners, (listener) => listener.accept)
        for (const connection of connections) yield* connection.write(Uint8Array.of(connections.indexOf(connection)))
        for (const worker of application.workers) {
          const connection = yield* worker.connect(Endpoint.tcp("127.0.0.1", yield* talk.hear))
          yield* connection.write(new TextEncoder().encode(worker.name))
          yield* connection.end
        }
        yield* talk.hear
      })
    ),

  /** A host of its own for the workers of this thread, and a program whose one side is here and the other there. */
  host: (
    talk,
    { host, name, options, server }: SidesArgs & { readonly host: string; readonly server: "here" | "there" }
  ) =>
    Effect.gen(function* () {
      // Only here: it takes its time to load.
      const CutThroughNode = yield* Effect.promise(() => import("@cut-through/platform/CutThroughNode"))
      const layer = yield* Layer.build(CutThroughNode.layerSessions({ name: host }))
      const worker = yield* workerHere
      const { port1, port2 } = new MessageChannel()
      const control = new MessageChannel()
      const there = server === "here" ? "client" : "server"
      const outcome = new Promise<Outcome>((resolve) => void control.port1.once("message", resolve))
      worker.postMessage(
        {
          part: "sides",
          args: { name, sides: [there], options: { ...options, host } },
          depth: 0,
          control: control.port2,
          talk: port2
        } satisfies Task,
        [control.port2, port2]
      )
      const here = Effect.provide(
        runSides(talkOver(port1), { name, sides: [server === "here" ? "server" : "client"] }),
        Application.layer({ ...options, name: "here" })
      )
      const path = yield* Effect.provideContext(Effect.scoped(here), layer)
      const ended = yield* Effect.promise(() => outcome)
      assert.equal(ended._tag, "Success", ended._tag === "Failure" ? ended.text : "")
      const sessions = Context.get(layer, SessionLayer)
      const guests = Context.get(layer, CutThroughHost.CutThroughHost)
      yield* until(() => {
        const { lost, ...left } = guests.stats()
        return lost === 0 && Object.values({ ...left, ...sessions.residue() }).every((count) => count === 0)
      })
      return path
    })
} satisfies Record<string, Part>
