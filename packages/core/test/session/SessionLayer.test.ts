import { Application, type Connection, Endpoint, type Listener, type SessionError, Sessions } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { endpoint, reasonOf } from "../fixtures.ts"
import { type Attempt, happenEverywhere, interruptEverywhere } from "../runtime/stepping.ts"
import { noMemory, ShortMemory, SlowMemory } from "../segment/fixtures.ts"
import { layerWith } from "./fixtures.ts"

const attach = (options: Partial<SessionLayer.AttachOptions> = {}) =>
  SessionLayer.SessionLayer.use((layer) => layer.attach({ name: "app", ...options }))

/** Everything the app has, given back. */
const detach = (app: SessionLayer.App) =>
  SessionLayer.SessionLayer.useSync((layer) => {
    for (const listener of app.listeners) layer.unbind(app, listener)
    layer.detach(app)
  })

/** Lets everything happen that waits for nothing but its turn. */
const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

describe("SessionLayer", () => {
  describe("options that are none", () => {
    const size = 'a size in bytes, or a text such as "64 KiB"'
    const cases: ReadonlyArray<readonly [what: string, value: unknown, expected: string]> = [
      ["workers", 0, "an integer, at least 1"],
      ["workers", -1, "an integer, at least 1"],
      ["workers", 1.5, "an integer, at least 1"],
      ["workers", NaN, "an integer, at least 1"],
      ["rxFifoSize", "64 apples", size],
      ["rxFifoSize", "", size],
      ["rxFifoSize", -1, size],
      ["rxFifoSize", 0.5, size],
      ["txFifoSize", NaN, size],
      ["txFifoSize", Infinity, size],
      ["segmentSize", "1.5 bytes", size],
      ["rxFifoSize", 0, "1 to 1073741824 bytes"],
      ["txFifoSize", 2 ** 30 + 1, "1 to 1073741824 bytes"],
      ["segmentSize", 262143, "at least 262144 bytes, to hold one pair of FIFOs"]
    ]
    it.effect.each(cases)("%s: %s", ([what, value, expected]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(attach({ [what]: value }))
        assert.deepInclude(error.reason, { _tag: "InvalidArgument", what, value: String(value), expected })
        assert.strictEqual(error.message, `${what} is ${value}: expected ${expected}`)
        const { apps } = yield* SessionLayer.SessionLayer
        assert.deepStrictEqual([...apps()], [], "what cannot be attached is listed")
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect.each([0, -1, 0.5, NaN])("backlog: %s", (backlog) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Application.listen(endpoint, { backlog }))
        const expected = "an integer, at least 1"
        assert.deepInclude(error.reason, { _tag: "InvalidArgument", what: "backlog", value: String(backlog), expected })
        const { table } = yield* SessionLayer.SessionLayer
        assert.deepStrictEqual([...table], [])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect.each([-1, 1.5, NaN])("workers of the layer: %s", (workers) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(Leaks.layerSessions({ workers }))))
        const expected = "an integer, at least 0"
        assert.deepInclude(error.reason, { _tag: "InvalidArgument", what: "workers", value: String(workers), expected })
      })
    )
  })

  describe("attach and detach", () => {
    it.effect("an attached application is listed, with its sizes in bytes, until it is detached", () =>
      Effect.gen(function* () {
        const { apps } = yield* SessionLayer.SessionLayer
        const first = yield* attach({ name: "first" })
        const second = yield* attach({
          name: "second",
          workers: 2,
          rxFifoSize: "64 KiB",
          txFifoSize: 4096,
          segmentSize: "1 MiB"
        })
        assert.deepStrictEqual([...apps()], [first, second])
        assert.deepStrictEqual(first.properties, {
          segmentSize: 128 * 1024 * 1024,
          rxFifoSize: 128 * 1024,
          txFifoSize: 128 * 1024
        })
        assert.deepStrictEqual(second.properties, { segmentSize: 1024 * 1024, rxFifoSize: 65_536, txFifoSize: 4096 })
        assert.deepStrictEqual(
          second.workers.map((worker) => worker.name),
          ["second/0", "second/1"]
        )
        yield* detach(first)
        assert.isTrue(first.isDetached)
        yield* detach(first)
        assert.deepStrictEqual([...apps()], [second])
        yield* detach(second)
        assert.deepStrictEqual([...apps()], [])
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("a detached application cannot listen", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const app = yield* attach()
        yield* detach(app)
        const error = yield* Effect.flip(layer.bind(app, endpoint, { backlog: 1 }))
        assert.deepInclude(error.reason, { _tag: "Closed", what: "application" })
        assert.deepStrictEqual([...layer.table], [])
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("bind and unbind", () => {
    it.effect("an endpoint has one listener at a time", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const [app, other] = [yield* attach(), yield* attach({ name: "other" })]
        const listener = yield* layer.bind(app, endpoint, { backlog: 3 })
        assert.strictEqual(listener.backlogLimit, 3)
        assert.strictEqual(layer.getListener(listener.handle), listener)
        assert.strictEqual(layer.table.lookup(endpoint), listener)
        assert.deepStrictEqual([...app.listeners], [listener])

        const error = yield* Effect.flip(layer.bind(other, endpoint, { backlog: 1 }))
        assert.deepInclude(error.reason, { _tag: "AlreadyListening", endpoint: "127.0.0.1:7000" })
        assert.strictEqual(other.listeners.size, 0)

        layer.unbind(app, listener)
        assert.isTrue(listener.isClosed)
        assert.isUndefined(layer.getListener(listener.handle))
        assert.isUndefined(layer.table.lookup(endpoint))
        assert.strictEqual(app.listeners.size, 0)
        const next = yield* layer.bind(other, endpoint, { backlog: 1 })
        assert.isUndefined(layer.getListener(listener.handle), "a stale handle finds a stranger")
        assert.strictEqual(layer.getListener(next.handle), next)
        yield* Effect.forEach([app, other], detach)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("port 0 is a free port of the dynamic range, as long as there is one", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const app = yield* attach()
        const any = Endpoint.withPort(endpoint, 0)
        const ports = new Set<number>()
        for (let i = 49_152; i <= 65_535; i++) {
          const { port } = (yield* layer.bind(app, any, { backlog: 1 })).endpoint
          assert.isTrue(port >= 49_152 && port <= 65_535)
          ports.add(port)
        }
        assert.strictEqual(ports.size, 16_384)
        const error = yield* Effect.flip(layer.bind(app, any, { backlog: 1 }))
        assert.deepInclude(error.reason, { _tag: "AlreadyListening", endpoint: "127.0.0.1:0" })
        yield* detach(app)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  })

  it.effect("two session layers of one program know nothing of each other", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      assert.strictEqual((yield* Sessions.list).length, 2)
      const residue = yield* Effect.provide(Sessions.residue, SessionLayer.layer())
      assert.isTrue(Object.values(residue).every((count) => count === 0))
    }).pipe(
      Effect.scoped,
      Effect.andThen(Leaks.check),
      Effect.provide(Application.layer({ name: "app" }).pipe(Layer.provideMerge(SessionLayer.layer())))
    )
  )

  it.effect("one layer used twice is one session layer, as any layer is", () =>
    Effect.gen(function* () {
      const sessions = SessionLayer.layer()
      const built: Array<SessionLayer.SessionLayer["Service"]> = []
      // As two applications of one program, each of which brings what it stands on.
      const user = () =>
        Layer.effectDiscard(Effect.map(SessionLayer.SessionLayer, (layer) => built.push(layer))).pipe(
          Layer.provide(sessions)
        )
      yield* Layer.build(Layer.mergeAll(user(), user()))
      assert.strictEqual(built.length, 2)
      assert.strictEqual(built[0], built[1])
      yield* Effect.provideService(Leaks.check, SessionLayer.SessionLayer, built[0])
    })
  )

  describe("workers", () => {
    const connectAndList = (count: number) =>
      Effect.gen(function* () {
        const server = yield* Application.make({ name: "server", workers: 3 })
        const client = yield* Application.make({ name: "client" })
        yield* server.listen(endpoint)
        for (let i = 0; i < count; i++) yield* client.connect(endpoint)
        const sessions = yield* Sessions.list
        // By the client's port, which is the order of the connects.
        const inOrder = (side: string) =>
          sessions
            .filter((session) => session.side === side)
            .toSorted((a, b) => (side === "client" ? a.local.port - b.local.port : a.remote.port - b.remote.port))
        return { clients: inOrder("client"), servers: inOrder("server") }
      }).pipe(Effect.scoped)

    it.effect("take connections in turn, both sides of each", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(7)
        for (const sessions of [clients, servers]) {
          assert.deepStrictEqual(
            sessions.map((session) => session.worker),
            [1, 2, 3, 1, 2, 3, 1]
          )
        }
      }).pipe(Effect.provide(Leaks.layerSessions({ workers: 3 })))
    )

    it.effect("of an application serve its listener in turn", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(4)
        assert.deepStrictEqual(
          servers.map((session) => session.app),
          ["server/0", "server/1", "server/2", "server/0"]
        )
        assert.deepStrictEqual(new Set(clients.map((session) => session.app)), new Set(["client/0"]))
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("without workers of its own, the one of the listeners does it all", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(2)
        assert.deepStrictEqual(
          [...clients, ...servers].map((session) => session.worker),
          [0, 0, 0, 0]
        )
      }).pipe(Effect.provide(Leaks.layerSessions({ workers: 0 })))
    )
  })

  describe("stands on services that can be replaced", () => {
    const talk = Effect.gen(function* () {
      const application = yield* Application.make({ name: "app" })
      const listener = yield* application.listen(endpoint)
      const client = yield* application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(1, 2, 3))
    }).pipe(Effect.scoped)

    const thenCheck = (check: () => void) => Effect.tap(Effect.sync(check))

    /** Every call of every method of a service, by name. */
    const counting = <Service extends object>(service: Service, calls: Map<string, number>): Service =>
      new Proxy(service, {
        get(target, key, receiver) {
          const value: unknown = Reflect.get(target, key, receiver)
          if (typeof value !== "function") return value
          return (...args: ReadonlyArray<unknown>): unknown => {
            calls.set(String(key), (calls.get(String(key)) ?? 0) + 1)
            return Reflect.apply(value, target, args)
          }
        }
      })

    it.effect("Connections", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({ connections: Layer.sync(Connections.Connections, () => counting(Connections.make(), calls)) })
        ),
        thenCheck(() => {
          for (const [method, count] of [
            ["addHalfOpen", 1],
            ["takeHalfOpen", 1],
            ["addSession", 2],
            ["removeSession", 2]
          ] as const) {
            assert.strictEqual(calls.get(method), count, method)
          }
        })
      )
    })

    it.effect("SegmentContext", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({
            segments: Layer.effect(
              SegmentContext.SegmentContext,
              Effect.map(SegmentContext.make, (service) => counting(service, calls))
            )
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual([calls.get("acquire"), calls.get("release")], [1, 2])
        })
      )
    })

    it.effect("Lock", () => {
      const made: Array<Lock.ReadWriteLock> = []
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({
            lock: Layer.succeed(Lock.Lock, {
              make(name) {
                const lock = counting(Lock.makeReadWrite(name), calls)
                made.push(lock)
                return lock
              }
            })
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual(
            made.map((lock) => lock.name),
            ["segment contexts"]
          )
          assert.strictEqual(calls.get("withWrite"), 1)
          assert.deepStrictEqual(made[0].stats(), { readers: 0, writer: false, waiting: 0 })
        })
      )
    })

    it.effect("SharedMemory", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({
            memory: Layer.effect(
              SharedMemory.SharedMemory,
              Effect.map(SharedMemory.make(), (service) => counting(service, calls))
            )
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual([calls.get("allocate"), calls.get("release")], [1, 1])
        })
      )
    })
  })

  describe("while a connect waits for memory", () => {
    /** A session layer on slow memory that counts the half-opens taken out of its table. */
    const makeWorld = () => {
      const memory = new SlowMemory()
      const taken = { count: 0 }
      const connections = Layer.sync(Connections.Connections, () => {
        const service = Connections.make()
        return {
          ...service,
          takeHalfOpen(handle) {
            const halfOpen = service.takeHalfOpen(handle)
            if (halfOpen !== undefined) taken.count++
            return halfOpen
          }
        }
      })
      return { memory, taken, layer: layerWith({ memory: memory.layer, connections }) }
    }

    /** An application in a scope of its own. */
    const applicationIn = (scope: Scope.Scope, name: string) => Scope.provide(Application.make({ name }), scope)

    const setUp = Effect.gen(function* () {
      const [serverScope, clientScope, listenerScope] = [Scope.makeUnsafe(), Scope.makeUnsafe(), Scope.makeUnsafe()]
      const server = yield* applicationIn(serverScope, "server")
      const client = yield* applicationIn(clientScope, "client")
      const listener = yield* Scope.provide(server.listen(endpoint), listenerScope)
      const connecting = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
      const closeAll = Effect.forEach([listenerScope, clientScope, serverScope], (scope) =>
        Scope.close(scope, Exit.void)
      )
      return { client, clientScope, closeAll, connecting, listener, listenerScope, server, serverScope }
    })

    const residue = Effect.map(Sessions.residue, ({ halfOpens, leases, regions, sessions }) => ({
      halfOpens,
      leases,
      regions,
      sessions
    }))
    const nothing = { halfOpens: 0, leases: 0, regions: 0, sessions: 0 }

    it.effect("it is a half-open in the listing, and nothing else", () => {
      const { layer, memory } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting } = yield* setUp
        const [info, ...others] = yield* Sessions.list
        assert.deepInclude(info, { app: "client/0", state: "half-open", side: "client", worker: 0 })
        assert.strictEqual(Endpoint.format(info.remote), "127.0.0.1:7000")
        assert.strictEqual(others.length, 0)
        assert.deepStrictEqual(yield* residue, { ...nothing, halfOpens: 1 })
        memory.allow()
        yield* Fiber.join(connecting)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("the client may go: its half-open goes once, and the leases that come late are released", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting, listener } = yield* setUp
        yield* Fiber.interrupt(connecting)
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        memory.allow()
        yield* settle
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        // Nobody is there to be accepted.
        const accepting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
        yield* settle
        assert.isUndefined(accepting.pollUnsafe())
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("the listener may close: the client is refused", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting, listenerScope } = yield* setUp
        yield* Scope.close(listenerScope, Exit.void)
        memory.allow()
        const error = yield* Effect.flip(Fiber.join(connecting))
        assert.deepInclude(error.reason, {
          _tag: "Refused",
          endpoint: "127.0.0.1:7000",
          why: "nobody listens there any more"
        })
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("another listener on the same endpoint does not get what was meant for the one before", () => {
      const { layer, memory } = makeWorld()
      return Effect.gen(function* () {
        const { client, closeAll, connecting, listenerScope, server } = yield* setUp
        yield* Scope.close(listenerScope, Exit.void)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const next = yield* server.listen(endpoint)
            memory.allow()
            assert.strictEqual((yield* Effect.flip(Fiber.join(connecting))).reason._tag, "Refused")
            const again = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
            memory.allow()
            yield* Fiber.join(again)
            yield* next.accept
          })
        )
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    for (const who of ["client", "server"] as const) {
      it.effect(`the ${who}'s application may be detached: the client gets its answer`, () => {
        const { layer, memory, taken } = makeWorld()
        return Effect.gen(function* () {
          const { clientScope, closeAll, connecting, serverScope } = yield* setUp
          yield* Scope.close(who === "client" ? clientScope : serverScope, Exit.void)
          if (who === "server") memory.allow()
          const error = yield* Effect.flip(Fiber.join(connecting))
          assert.strictEqual(error.reason._tag, who === "client" ? "Closed" : "Refused")
          if (who === "client") memory.allow()
          yield* settle
          assert.deepStrictEqual(yield* residue, nothing)
          assert.strictEqual(taken.count, 1)
          yield* closeAll
        }).pipe(Effect.provide(layer))
      })
    }

    it.effect("there may be none: the client gets AllocFailed, and the next one is served", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { client, closeAll, connecting } = yield* setUp
        memory.refuse()
        assert.strictEqual(yield* Effect.flip(Fiber.join(connecting)), noMemory)
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        const again = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
        memory.allow()
        yield* Fiber.join(again)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("the memory may break: the client is told, rather than left to wait", () => {
      const memory = Layer.effect(
        SharedMemory.SharedMemory,
        Effect.map(SharedMemory.make(), (service) => ({
          ...service,
          allocate: () => Effect.die(new Error("the memory broke"))
        }))
      )
      return Effect.gen(function* () {
        const { closeAll, connecting } = yield* setUp
        yield* settle
        const exit = connecting.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.isFailure(exit), "no answer")
        assert.deepStrictEqual(yield* residue, nothing)
        yield* closeAll
      }).pipe(Effect.provide(layerWith({ memory })))
    })

    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))
    const operations = ["connect", "connect", "allow", "refuse", "interrupt", "accept", "closeListener"] as const

    it.effect.prop(
      "any mix of connects, answers and goings gives each connect one answer, and leaves nothing",
      [Arbitrary.array(Arbitrary.all({ operation: Arbitrary.schema(Schema.Literals(operations)), which: int(999) }))],
      ([program]) => {
        const { layer, memory, taken } = makeWorld()
        return Effect.gen(function* () {
          const { client, closeAll, connecting, listener, listenerScope } = yield* setUp
          const connects: Array<Fiber.Fiber<Connection.Connection, SessionError.SessionError>> = [connecting]
          let isOpen = true
          let interrupted = 0
          for (const { operation, which } of program) {
            if (operation === "connect" && isOpen) {
              const connect = Effect.andThen(client.connect(endpoint), Effect.never)
              connects.push(yield* Effect.forkChild(Effect.scoped(connect), { startImmediately: true }))
            } else if (operation === "allow" && memory.pending > 0) {
              memory.allow()
            } else if (operation === "refuse" && memory.pending > 0) {
              memory.refuse()
            } else if (operation === "interrupt") {
              const fiber = connects[which % connects.length]
              if (fiber.pollUnsafe() === undefined) interrupted++
              yield* Fiber.interrupt(fiber)
            } else if (operation === "accept" && isOpen) {
              const accepting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
              yield* settle
              yield* Fiber.interrupt(accepting)
            } else if (operation === "closeListener" && which % 10 === 0) {
              yield* Scope.close(listenerScope, Exit.void)
              isOpen = false
            }
          }
          while (memory.pending > 0) {
            memory.allow()
            yield* settle
          }
          assert.strictEqual((yield* residue).halfOpens, 0)
          assert.strictEqual(taken.count, connects.length, "a half-open was answered more than once, or never")
          // Those that are connected are still so; the others have been told why not.
          const answers = connects.map((fiber) => {
            const exit = fiber.pollUnsafe()
            return exit === undefined ? "success" : reasonOf(exit)
          })
          for (const answer of answers) {
            assert.include(["success", "Interrupt", "Refused", "AllocFailed"], answer)
          }
          assert.strictEqual(answers.filter((answer) => answer === "Interrupt").length, interrupted)
          yield* Fiber.interruptAll(connects)
          yield* closeAll
        }).pipe(Effect.provide(layer, { local: true }))
      },
      { arbitrary: { runs: 100, size: 40 } }
    )
  })

  it.effect("a connect that finds no memory leaves the segments of others alone", () => {
    const memory = new ShortMemory(1)
    return Effect.gen(function* () {
      const application = yield* Application.make({
        name: "app",
        rxFifoSize: 4096,
        txFifoSize: 4096,
        segmentSize: 8192
      })
      const listener = yield* application.listen(endpoint)
      const client = yield* application.connect(endpoint)
      const server = yield* listener.accept
      const error = yield* Effect.flip(application.connect(endpoint))
      assert.strictEqual(error, noMemory)
      yield* client.write(Uint8Array.of(9))
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(9))
      assert.strictEqual((yield* Sessions.residue).sessions, 2)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.layer })))
  })

  for (const others of [0, 1]) {
    const who = others === 0 ? "whoever comes next" : "whoever waits behind it"
    it.effect(`an accept that is interrupted between being woken and resumed leaves its connection to ${who}`, () =>
      Effect.gen(function* () {
        const application = yield* Application.make({ name: "app" })
        const listener = yield* application.listen(endpoint)
        const accept = Effect.forkChild(
          Effect.flatMap(listener.accept, (server) => server.read),
          { startImmediately: true }
        )
        const accepting = yield* accept
        const behind = others === 1 ? yield* accept : undefined
        const connecting = yield* Effect.forkChild(
          Effect.flatMap(application.connect(endpoint), (client) => client.write(Uint8Array.of(5))),
          { startImmediately: true }
        )
        // Woken, but not resumed yet: that waits for the scheduler.
        yield* Fiber.interrupt(accepting)
        yield* settle
        const next = behind ?? (yield* accept)
        yield* settle
        assert.deepStrictEqual(next.pollUnsafe(), Exit.succeed(Uint8Array.of(5)), "the connection was lost")
        yield* Fiber.join(connecting)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ wake: Wake.layerScheduler })))
    )
  }

  describe("at any step of whoever waits", () => {
    const setUpWith = (layer: Layer.Layer<SessionLayer.SessionLayer, SessionError.SessionError>) =>
      Effect.gen(function* () {
        const scope = Scope.makeUnsafe()
        const sessions = Context.get(yield* Layer.buildWithScope(layer, scope), SessionLayer.SessionLayer)
        const application = yield* Application.make({ name: "app" }).pipe(
          Effect.provideService(SessionLayer.SessionLayer, sessions),
          Scope.provide(scope)
        )
        return { application, scope, sessions, listener: yield* Scope.provide(application.listen(endpoint), scope) }
      })

    type World = Effect.Success<ReturnType<typeof setUpWith>>

    const runSetUp = ({ run, scheduler }: Attempt, layer: Parameters<typeof setUpWith>[0]): World => {
      const fiber = run(setUpWith(layer))
      scheduler.runAll()
      const exit = fiber.pollUnsafe()
      return exit !== undefined && Exit.isSuccess(exit) ? exit.value : assert.fail("no session layer to test with")
    }

    const closeWorld = ({ run, scheduler }: Attempt, { scope }: World, where: string) => {
      const closing = run(Scope.close(scope, Exit.void))
      scheduler.runAll()
      assert.deepStrictEqual(closing.pollUnsafe(), Exit.void, where)
    }

    it("the answer may come: a client does not miss it", () =>
      happenEverywhere({
        setUp: (others) => {
          const memory = new SlowMemory()
          return { memory, world: runSetUp(others, layerWith({ memory: memory.layer })) }
        },
        start: ({ run }, { world }) => run(Effect.scoped(world.application.connect(endpoint))),
        // Also what is asked for later.
        event: (_, { memory }) => memory.allowAll(),
        check: (others, { world }, where) => closeWorld(others, world, where)
      }))

    it("a connection may come: an accepter does not miss it", () =>
      happenEverywhere({
        setUp: (attempt) => runSetUp(attempt, layerWith()),
        start: ({ run }, { listener }) => run(Effect.scoped(listener.accept)),
        event: ({ run }, { application }) => void run(Effect.scoped(application.connect(endpoint))),
        check: closeWorld
      }))

    it("the listener may close: an accepter does not miss it", () =>
      happenEverywhere({
        setUp: (attempt) => runSetUp(attempt, layerWith()),
        start: ({ run }, { listener }) => run(Effect.scoped(listener.accept)),
        event: ({ run }, { scope }) => void run(Scope.close(scope, Exit.void)),
        check: closeWorld
      }))
  })

  describe("interrupted at any step", () => {
    interface World {
      readonly scope: Scope.Closeable
      readonly application: Application.Application["Service"]
      readonly listener: Listener.Listener
      readonly layer: SessionLayer.SessionLayer["Service"]
    }

    const makeWorld = Effect.gen(function* () {
      const scope = Scope.makeUnsafe()
      const context = yield* Layer.buildWithScope(Leaks.layerTest, scope)
      const application = Context.get(context, Application.Application)
      const listener = yield* Scope.provide(application.listen(endpoint), scope)
      return { scope, application, listener, layer: Context.get(context, SessionLayer.SessionLayer) }
    })

    const interruptIn = (
      effect: (world: World) => Effect.Effect<unknown, unknown>,
      other: (world: World) => Effect.Effect<unknown, unknown>
    ) =>
      interruptEverywhere({
        setUp: ({ run, scheduler }): World => {
          const fiber = run(makeWorld)
          scheduler.runAll()
          const exit = fiber.pollUnsafe()
          if (exit === undefined || Exit.isFailure(exit)) return assert.fail("no session layer to test with")
          return exit.value
        },
        start: ({ run }, world) => {
          run(other(world))
          return run(effect(world))
        },
        check: ({ layer, listener, scope }, where) => {
          // What has arrived and was not accepted is the listener's.
          const backlog = layer.getListener([...layer.table][0].handle)!.backlog.length
          const { halfOpens, leases, sessions } = layer.residue()
          assert.deepStrictEqual(
            { halfOpens, leases, sessions },
            { halfOpens: 0, leases: backlog, sessions: backlog },
            where
          )
          assert.isDefined(listener)
          assert.isTrue(Exit.isSuccess(Effect.runSyncExit(Scope.close(scope, Exit.void))), where)
        }
      })

    const connect = ({ application }: World) =>
      Effect.scoped(Effect.andThen(application.connect(endpoint), Effect.yieldNow))
    const accept = ({ listener }: World) => Effect.scoped(Effect.andThen(listener.accept, Effect.yieldNow))

    it("connect leaves nothing", () => {
      assert.isAbove(interruptIn(connect, accept), 20)
    })

    it("accept leaves nothing", () => {
      assert.isAbove(interruptIn(accept, connect), 20)
    })
  })
})
