/** How threads attach, and how they find out that they cannot. */
import * as Application from "@cut-through/core/Application"
import * as Applications from "@cut-through/core/Applications"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import * as Sessions from "@cut-through/core/Sessions"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import * as CutThroughNode from "@cut-through/platform/CutThroughNode"
import * as NodeWorker from "@effect/platform-node/NodeWorker"
import { assert, describe, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as EffectWorker from "effect/workers/Worker"
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads"
import { atRest, exitOf, layerHost, startThread, type Thread } from "./life-fixtures.ts"
import { attached, runSides } from "./life-parts.ts"
import { drain, readBytes, reasonOf, talkOver, until, writeBytes } from "./life-talk.ts"

/** One thread for all tests that do not stop it. */
class One extends Context.Service<One, Thread>()("One") {}
const layerOne = Layer.effect(One, startThread())

const ofHost = Effect.map(CutThroughHost.CutThroughHost, (host) => host.stats())

/** What the calls of guests bring while nobody here answers them. */
const listenToCalls = Effect.acquireRelease(
  Effect.sync(() => {
    const ports: Array<MessagePort> = []
    const onCall = (message: { readonly port: MessagePort }) => void ports.push(message.port)
    process.on("workerMessage", onCall)
    return { ports, stop: () => void process.off("workerMessage", onCall) }
  }),
  ({ ports, stop }) =>
    Effect.sync(() => {
      stop()
      for (const port of ports) port.close()
    })
)

/** A megabyte with a guest that listens, if it is one. */
const exchange = (port: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
      const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 1_000_000), connection.end))
      assert.deepStrictEqual(yield* drain(connection), { how: "end", bytes: 1_000_000, received: undefined })
      yield* Fiber.join(writing)
    })
  )

layer(layerOne, { excludeTestServices: true })("attaching", (it) => {
  it.effect("a thread finds its host, is listed, and leaves nothing", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const running = yield* thread.run("attach", undefined)
      assert.strictEqual(yield* running.hear, `thread ${thread.worker.threadId}`)
      const [app] = yield* Applications.list
      assert.strictEqual(app.name, `thread ${thread.worker.threadId}`)
      assert.isDefined(app.thread)
      assert.deepStrictEqual(yield* ofHost, { guests: 1, pairs: 0, mappings: 0, rejected: 0, lost: 0 })
      yield* running.say("go")
      yield* running.result
      yield* atRest()
      assert.deepStrictEqual(yield* Applications.list, [])
      assert.strictEqual((yield* ofHost).lost, 0)
    }).pipe(Effect.provide(layerHost))
  )

  it.effect("options say the same as in the host", () =>
    Effect.gen(function* () {
      const thread = yield* One
      yield* Sessions.addNamespace({ id: "secret", secret: "correct horse" })
      const running = yield* thread.run("attachWithRichOptions")
      assert.strictEqual(yield* running.hear, "rich")
      const [{ index, thread: _, ...app }] = yield* Applications.list
      yield* running.say("go")
      yield* running.result
      yield* atRest()
      const here = Application.make({
        name: "rich",
        namespace: "secret",
        namespaceSecret: "correct horse",
        rxFifoSize: 65_536,
        txFifoSize: 32_768,
        segmentSize: 2 * 1024 * 1024,
        segmentLinger: "3 seconds",
        workers: 2
      })
      const [expected] = yield* Effect.scoped(Effect.andThen(here, Applications.list))
      assert.deepStrictEqual({ ...app, index, thread: undefined }, expected)
      assert.deepStrictEqual(app.segmentLinger, Duration.seconds(3))
    }).pipe(Effect.provide(layerHost))
  )

  it.effect("options from the configuration", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const running = yield* thread.run("attachWithConfig", {
        CUT_THROUGH_NAME: "configured",
        CUT_THROUGH_RX_FIFO_SIZE: "64 KiB"
      })
      assert.strictEqual(yield* running.hear, "configured")
      const [{ rxFifoSize, txFifoSize }] = yield* Applications.list
      assert.deepStrictEqual([rxFifoSize, txFifoSize], [65_536, 524_288])
      yield* running.say("go")
      yield* running.result
      yield* atRest()
    }).pipe(Effect.provide(layerHost))
  )

  describe("fails as in the host", () => {
    const wrong: { readonly [what: string]: Partial<AttachOptions> } = {
      "without the namespace's secret": { namespace: "secret" },
      "with a wrong secret": { namespace: "secret", namespaceSecret: "battery staple" },
      "with a secret where there is none": { namespaceSecret: "correct horse" },
      "in a namespace that is not there": { namespace: "elsewhere" },
      "without a worker": { workers: 0 },
      "with half a worker": { workers: 1.5 },
      "with as many workers as NaN": { workers: Number.NaN },
      "with as many sessions as -Infinity": { maxSessions: -Infinity },
      "with a scope that is none": { scope: "everywhere" as "both" },
      "with FIFOs of no size": { rxFifoSize: "a lot" as "1 B" },
      "with FIFOs of nothing": { txFifoSize: 0 },
      "with segments that are too small": { segmentSize: 1 },
      "with segments that are too large": { segmentSize: 2 ** 53 },
      "with a linger that is no time": { segmentLinger: "soon" as "1 second" },
      "with a linger for ever": { segmentLinger: Infinity },
      "with a linger before": { segmentLinger: -1 },
      "with less FIFO memory than one connection needs": { maxFifoMemory: 1 },
      "with no sessions": { maxSessions: 0 },
      "with no connects": { maxHalfOpens: 0 },
      "with nothing pending": { maxPending: 0 }
    }
    for (const [what, options] of Object.entries(wrong)) {
      it.effect(what, () =>
        Effect.gen(function* () {
          const thread = yield* One
          yield* Sessions.addNamespace({ id: "secret", secret: "correct horse" })
          const here = yield* Effect.flip(Effect.scoped(Application.make({ name: "wrong", ...options })))
          const running = yield* thread.run("attach", { name: "wrong", ...options })
          assert.deepStrictEqual(yield* running.hear, reasonOf(here))
          yield* running.result
          yield* atRest()
          assert.strictEqual((yield* ofHost).lost, 0, "who was not attached is not lost")
        }).pipe(Effect.provide(layerHost))
      )
    }
  })

  describe("without an answer", () => {
    for (const [what, nearby] of [
      ["no host at all", Layer.empty],
      ["a host of another name", layerHost]
    ] as const) {
      it.effect(`NoHost, with ${what}`, () =>
        Effect.gen(function* () {
          const thread = yield* One
          const running = yield* thread.run("attach", { host: "nobody", timeout: "100 millis" })
          const { message, ...reason } = yield* running.hear
          assert.deepStrictEqual(reason, { _tag: "NoHost", host: "nobody", threadId: 0 })
          assert.match(message, /"nobody".*thread 0.*provide CutThroughNode\.layer there/)
          yield* running.result
        }).pipe(Effect.provide(nearby))
      )

      it.effect(`it calls until its host is there, with ${what} until then`, () =>
        Effect.gen(function* () {
          const thread = yield* One
          const calls = yield* listenToCalls
          const running = yield* thread.run("attach", { host: "late", name: "early" })
          yield* until(() => calls.ports.length >= 2)
          const context = yield* Layer.build(CutThroughNode.layerSessions({ name: "late" }))
          calls.stop()
          assert.strictEqual(yield* running.hear, "early")
          yield* running.say("go")
          yield* running.result
          yield* Effect.provideContext(atRest(), context)
          const { lost } = Context.get(context, CutThroughHost.CutThroughHost).stats()
          assert.strictEqual(lost, 0)
        }).pipe(Effect.provide(nearby))
      )
    }

    it.effect("who gives up has called for the last time", () =>
      Effect.gen(function* () {
        const thread = yield* One
        const calls = yield* listenToCalls
        const running = yield* thread.run("attach", { host: "late" })
        yield* until(() => calls.ports.length > 0)
        yield* running.interrupt
        assert.strictEqual((yield* running.outcome as Effect.Effect<{ readonly _tag: string }>)._tag, "Failure")
        // A port that nobody reads is not seen to close.
        const closed = calls.ports.map((port) => new Promise((resolve) => port.once("close", resolve).start()))
        yield* Effect.promise(() => Promise.all(closed))
      })
    )

    it.effect("a call that comes when its guest has given up is nobody's loss", () =>
      Effect.gen(function* () {
        const thread = yield* One
        const calls = yield* listenToCalls
        const running = yield* thread.run("attach", { host: "late", name: "busy" })
        // As from a host that has been busy: the first call is old when it is taken.
        yield* until(() => calls.ports.length >= 2)
        const context = yield* Layer.build(CutThroughNode.layerSessions({ name: "late" }))
        const host = Context.get(context, CutThroughHost.CutThroughHost)
        for (const port of calls.ports.splice(0)) host.accept(port)
        calls.stop()
        assert.strictEqual(yield* running.hear, "busy")
        yield* until(() => host.stats().guests === 1)
        yield* running.say("go")
        yield* running.result
        yield* Effect.provideContext(atRest(), context)
        assert.strictEqual(host.stats().lost, 0)
      })
    )
  })

  it.effect("hosts have names, and a guest attaches to the one it names", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const hosts = yield* Effect.forEach(["red", "blue"], (name) =>
        Layer.build(Layer.fresh(CutThroughNode.layerSessions({ name })))
      )
      for (const [i, host] of ["red", "blue"].entries()) {
        const running = yield* thread.run("attach", { host, name: `in ${host}` })
        assert.strictEqual(yield* running.hear, `in ${host}`)
        const names = (context: (typeof hosts)[0]) =>
          Effect.map(Effect.provideContext(Applications.list, context), (apps) => apps.map(({ name }) => name))
        assert.deepStrictEqual(yield* names(hosts[i]), [`in ${host}`])
        assert.deepStrictEqual(yield* names(hosts[1 - i]), [])
        yield* running.say("go")
        yield* running.result
        yield* Effect.provideContext(atRest(), hosts[i])
      }
    })
  )

  it.effect("of two hosts of one name the newer one is found, for as long as it is there", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const older = yield* Layer.build(layerHost)
      const attachTo = Effect.gen(function* () {
        const running = yield* thread.run("attach", { name: "guest" })
        yield* running.hear
        const guests = Context.get(older, CutThroughHost.CutThroughHost).stats().guests
        yield* running.say("go")
        yield* running.result
        return guests === 1 ? "older" : "newer"
      })
      assert.strictEqual(yield* attachTo, "older")
      yield* Effect.provideContext(atRest(), older)
      const newer = yield* Scope.make()
      yield* Scope.provide(Layer.build(layerHost), newer)
      assert.strictEqual(yield* attachTo, "newer")
      yield* Scope.close(newer, Exit.void)
      assert.strictEqual(yield* attachTo, "older")
      yield* Effect.provideContext(atRest(), older)
    })
  )

  describe("over a port", () => {
    for (const first of ["the host", "the guest"]) {
      it.effect(`${first} has it first`, () =>
        Effect.gen(function* () {
          const thread = yield* One
          const host = yield* CutThroughHost.CutThroughHost
          const { port1, port2 } = new MessageChannel()
          const running = yield* thread.run("attachOverPort", { name: "explicit" })
          if (first === "the host") host.accept(port1)
          running.port.postMessage(port2, [port2])
          assert.strictEqual(yield* running.hear, "begun")
          if (first === "the guest") host.accept(port1)
          assert.strictEqual(yield* running.hear, "explicit")
          yield* running.say("go")
          yield* running.result
          yield* atRest()
          assert.strictEqual(host.stats().lost, 0)
        }).pipe(Effect.provide(layerHost))
      )
    }
  })

  it.effect("several applications of one thread know nothing of each other", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const running = yield* thread.run("severalApplications")
      assert.deepStrictEqual(yield* running.hear, ["thread", "thread", "thread", "fiber"])
      assert.deepStrictEqual(
        (yield* Applications.list).map(({ name }) => name),
        ["first", "second", "third"]
      )
      yield* running.say("leave")
      assert.strictEqual(yield* running.hear, "thread")
      assert.deepStrictEqual(
        (yield* Applications.list).map(({ name }) => name),
        ["first", "third"]
      )
      yield* running.say("leave all")
      yield* running.result
      yield* atRest()
      assert.deepStrictEqual(yield* ofHost, { guests: 0, pairs: 0, mappings: 0, rejected: 0, lost: 0 })
    }).pipe(Effect.provide(layerHost))
  )

  it.effect("the workers of an application serve in turn, and connect each on its own", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const running = yield* thread.run("severalWorkers")
      const names = yield* running.hear
      assert.strictEqual(names.length, 3)
      const here = yield* Application.make({ name: "here" })
      const expected = yield* Effect.scoped(
        Effect.map(Application.make({ name: "crew", workers: 3 }), ({ workers }) => workers.map(({ name }) => name))
      )
      assert.deepStrictEqual(names, expected)
      const endpoint = Endpoint.tcp("127.0.0.1", yield* running.hear)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connections = yield* Effect.forEach(names, () => here.connect(endpoint))
          for (const [worker, connection] of connections.entries()) {
            assert.deepStrictEqual(Array.from(yield* connection.read), [worker])
          }
          const listener = yield* here.listen(Endpoint.tcp("127.0.0.1", 0))
          for (const name of names) {
            yield* running.say(listener.address.port)
            const connection = yield* listener.accept
            assert.strictEqual(new TextDecoder().decode(yield* connection.read), name)
            const [session] = yield* Sessions.find({ kind: "session", app: name, endpoint: listener.address })
            assert.strictEqual(session.side, "client")
          }
        })
      )
      yield* running.say("go")
      yield* running.result
    }).pipe(Effect.scoped, Effect.tap(atRest()), Effect.provide(layerHost))
  )

  describe("a host that is a worker thread itself", () => {
    for (const host of ["default", "inner"]) {
      for (const server of ["here", "there"] as const) {
        it.effect(`named ${host}, with the server ${server}`, () =>
          Effect.gen(function* () {
            const thread = yield* One
            const running = yield* thread.run("host", {
              host,
              server,
              name: "a megabyte both ways",
              sides: [],
              options: { segmentSize: "1 MiB" }
            })
            assert.strictEqual(yield* running.result, "thread")
            // Its guests were those of the nearer host.
            assert.deepStrictEqual(yield* ofHost, { guests: 0, pairs: 0, mappings: 0, rejected: 0, lost: 0 })
          }).pipe(Effect.provide(layerHost))
        )
      }
    }
  })

  it.effect("a guest in the host's own thread", () =>
    Effect.gen(function* () {
      const here = yield* Application.make({ name: "here", segmentSize: "1 MiB" })
      for (const server of ["guest", "here"]) {
        const { port1, port2 } = new MessageChannel()
        const sides = (server === "guest" ? ["server", "client"] : ["client", "server"]) as ["server", "client"]
        const paths = yield* Effect.all(
          [
            attached(
              { segmentSize: "1 MiB" },
              runSides(talkOver(port1), { name: "a megabyte both ways", sides: [sides[0]] })
            ),
            Effect.provideService(
              Effect.scoped(runSides(talkOver(port2), { name: "a megabyte both ways", sides: [sides[1]] })),
              Application.Application,
              here
            )
          ],
          { concurrency: 2 }
        )
        assert.deepStrictEqual(paths, ["thread", "thread"])
        port1.close()
      }
    }).pipe(Effect.scoped, Effect.tap(atRest()), Effect.provide(layerHost))
  )

  it.effect("Effect's NodeWorker", () => {
    const exited = Deferred.makeUnsafe<number>()
    const spawn = () => {
      const worker = new Worker(new URL("./life-nodeWorker.ts", import.meta.url))
      void exitOf(worker).then((code) => Deferred.doneUnsafe(exited, Exit.succeed(code)))
      return worker
    }
    return Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const worker = yield* (yield* EffectWorker.WorkerPlatform).spawn<number, string>(0)
          const port = yield* Deferred.make<number>()
          yield* Effect.forkScoped(worker.run((message) => Deferred.succeed(port, message)))
          yield* worker.send("listen")
          yield* exchange(yield* Deferred.await(port))
        })
      )
      // Told to end, it has closed what it had.
      assert.strictEqual(yield* Deferred.await(exited), 0)
    }).pipe(
      Effect.provide([NodeWorker.layer(spawn), Application.layer({ name: "here" })]),
      Effect.tap(atRest()),
      Effect.tap(Effect.map(ofHost, ({ lost }) => assert.strictEqual(lost, 0))),
      Effect.provide(layerHost)
    )
  })

  it.effect("when the host ends, its guests have nothing any more", () =>
    Effect.gen(function* () {
      const thread = yield* One
      const scope = yield* Scope.make()
      const context = yield* Scope.provide(Layer.build(layerHost), scope)
      const running = yield* thread.run("orphan")
      const port = yield* running.hear
      yield* Effect.gen(function* () {
        const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
        yield* writeBytes(connection, 0, 1000)
        yield* readBytes(connection, 0, 1000)
        yield* running.say("go on")
        assert.strictEqual(yield* running.hear, "waiting")
      }).pipe(Effect.scoped, Effect.provide(Application.layer({ name: "here" })), Effect.provideContext(context))
      yield* Scope.close(scope, Exit.void)
      const { events, ...found } = yield* running.result
      assert.deepStrictEqual(found, {
        accept: "Closed",
        request: "Closed",
        asked: "Closed",
        connect: "Closed",
        listen: "Closed",
        residue: { sessions: 0, listeners: 0, requests: 0, segments: 0, pairs: 0 }
      })
      assert.deepStrictEqual(events.slice(0, 2), ["SegmentAdded", "Accepted"])
    })
  )
})
