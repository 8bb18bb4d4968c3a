import { Application, Endpoint } from "@cut-through/core"
import { SharedMemory } from "@cut-through/core/memory/SharedMemory"
import * as Memory from "@cut-through/core/memory/SharedMemory"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import { Dial, HalfOpen } from "@cut-through/core/session/HalfOpen"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Net from "node:net"

const endpoint = Endpoint.tcp("127.0.0.1", 7000)

const atRest = {
  sessions: 0,
  halfOpens: 0,
  leases: 0,
  contexts: 0,
  segments: 0,
  fifoBytes: 0,
  regions: 0,
  pendingCalls: 0
}

/** The defect with which a program under a leak check ends. */
const leakOf = (exit: Exit.Exit<unknown, unknown>): Leaks.LeakError => {
  if (Exit.isSuccess(exit)) return assert.fail("no leak was found")
  const [reason, ...others] = exit.cause.reasons
  assert.strictEqual(others.length, 0)
  const defect = reason._tag === "Die" ? reason.defect : undefined
  assert.instanceOf(defect, Leaks.LeakError)
  return defect
}

const leaky = <A, E, R>(program: Effect.Effect<A, E, R>, layer: Layer.Layer<R, unknown>) =>
  Effect.exit(Effect.provide(program, layer))

describe("Leaks", () => {
  it.effect("a program that closes what it opens passes", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(1, 2, 3))
    }).pipe(Effect.scoped, Effect.andThen(Leaks.check), Effect.provide(Leaks.layerTest))
  )

  it.effect("check names what there is, without ending anything", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const error = yield* Effect.flip(Leaks.check)
      assert.deepInclude(error.residue, {
        ...atRest,
        sessions: 2,
        leases: 2,
        contexts: 1,
        segments: 1,
        regions: 1,
        fifoBytes: 512
      })
      assert.include(error.message, "left over: 2 sessions, 2 leases, 1 contexts, 1 segments, 512 fifoBytes, 1 regions")
      assert.notInclude(error.message, "halfOpens")
      // Both of them, by name.
      assert.include(error.message, `127.0.0.1:7000->127.0.0.1:${client.info.local.port}`)
      assert.include(error.message, `127.0.0.1:${client.info.local.port}->127.0.0.1:7000`)
      assert.strictEqual(client.info.state, "ready")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("sessions that are left are a defect with their names", () =>
    Effect.gen(function* () {
      const forgotten = Scope.makeUnsafe()
      const exit = yield* leaky(
        Effect.gen(function* () {
          // Applications in a scope that nobody closes.
          const server = yield* Application.make({ name: "server" })
          const client = yield* Application.make({ name: "client" })
          yield* server.listen(endpoint)
          yield* client.connect(endpoint)
        }).pipe(Scope.provide(forgotten)),
        Leaks.layerSessions()
      )
      const leak = leakOf(exit)
      assert.deepInclude(leak.residue, { sessions: 2, leases: 2, halfOpens: 0 })
      assert.include(leak.message, "left over: 2 sessions")
      assert.include(leak.message, "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152")
      assert.include(leak.message, "[1:1][CT:T] 127.0.0.1:49152->127.0.0.1:7000")
      yield* Scope.close(forgotten, Exit.void)
    })
  )

  it.effect("so are leases that no session holds", () =>
    Effect.gen(function* () {
      const exit = yield* leaky(
        Effect.gen(function* () {
          const layer = yield* SessionLayer.SessionLayer
          const app = yield* layer.attach({ name: "app" })
          const { listener } = yield* layer.bind(app, endpoint, {
            backlog: 1,
            approval: "listener",
            isProxy: false,
            workers: app.workers
          })
          const [{ manager, worker: server }] = listener.servers
          const leases = yield* layer.segments.acquire({ manager, client: server, server })
          layer.segments.release(leases.client)
        }),
        Leaks.layerSessions()
      )
      const leak = leakOf(exit)
      assert.deepStrictEqual(leak.residue, {
        ...atRest,
        leases: 1,
        contexts: 1,
        segments: 1,
        regions: 1,
        fifoBytes: 512
      })
      assert.include(leak.message, "left over: 1 leases")
    })
  )

  it.effect("so are half-opens that nobody has answered", () =>
    Effect.gen(function* () {
      const exit = yield* leaky(
        Effect.gen(function* () {
          const layer = yield* SessionLayer.SessionLayer
          const app = yield* layer.attach({ name: "app" })
          const dial = new Dial(endpoint, 50_000)
          const answer = () => undefined
          layer.connections.addHalfOpen(
            new HalfOpen(app.workers[0], CutThroughTransport.of(layer), dial, HandleTable.NONE, { answer })
          )
        }),
        Leaks.layerSessions()
      )
      const leak = leakOf(exit)
      assert.deepStrictEqual(leak.residue, { ...atRest, halfOpens: 1 })
      assert.include(leak.message, "127.0.0.1:50000->127.0.0.1:7000")
      assert.include(leak.message, "HALF-OPEN")
    })
  )

  it.effect("so are calls that wait for their worker", () =>
    Effect.gen(function* () {
      const exit = yield* leaky(
        SessionLayer.SessionLayer.useSync((layer) => {
          const worker = layer.worker(1)
          // More than a worker starts in a row.
          for (let i = 0; i < 100; i++) worker.send(Effect.void)
        }),
        Leaks.layerSessions()
      )
      const { residue } = leakOf(exit)
      assert.deepStrictEqual(residue, { ...atRest, pendingCalls: 36 })
    })
  )

  it.effect("so are regions of memory that no segment has", () =>
    Effect.gen(function* () {
      const layer = Leaks.layerCheck.pipe(
        Layer.provideMerge(SessionLayer.layerNoDeps()),
        Layer.provide([Connections.layer, SegmentContext.layer, Wake.layer]),
        Layer.provideMerge([Memory.layer, Lock.layer]),
        Layer.fresh
      )
      const exit = yield* leaky(
        SharedMemory.use((memory) => memory.allocate(4096)),
        layer
      )
      assert.deepStrictEqual(leakOf(exit).residue, { ...atRest, regions: 1 })
    })
  )

  it.effect("the failure of the program is not hidden by the check", () =>
    Effect.gen(function* () {
      const exit = yield* leaky(Effect.fail("failed"), Leaks.layerTest)
      assert.deepStrictEqual(exit, Exit.fail("failed"))
    })
  )

  it.effect("what is built on a checked layer has been closed by the time of the check", () =>
    Effect.gen(function* () {
      const exit = yield* leaky(
        Effect.void,
        Layer.effectDiscard(
          Effect.gen(function* () {
            yield* Application.listen(endpoint)
            yield* Application.connect(endpoint)
          })
        ).pipe(Layer.provideMerge(Leaks.layerTest))
      )
      assert.deepStrictEqual(exit, Exit.void)
    })
  )

  it.effect("each use has a session layer of its own", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      yield* Effect.gen(function* () {
        yield* Leaks.check
        // The same endpoint, in another world.
        yield* Application.listen(endpoint)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
      assert.strictEqual((yield* Effect.flip(Leaks.check)).residue.sessions, 2)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("what is left has an owner, and a place where it came about", () =>
    Effect.gen(function* () {
      const openAndForget = Effect.fn("openAndForget")(function* () {
        return yield* Application.connect(endpoint)
      })
      yield* Application.listen(endpoint)
      yield* openAndForget().pipe(Effect.withSpan("the request"))
      const { items, message } = yield* Effect.flip(Leaks.check)
      assert.deepStrictEqual(
        items.map(({ owner, what }) => `${what} of ${owner}`),
        ["session of test/0", "session of test/0", "segment of test/0"]
      )
      for (const { place } of items.slice(0, 2)) {
        assert.match(place ?? "", /^fiber #\d+ in .*openAndForget \(.*Leaks\.test\.ts.*\) in the request/)
      }
      assert.include(message, `session ${items[0].name} of test/0, made by fiber #`)
      assert.include(items[2].name, "of the listener test 127.0.0.1:7000, with 1 leases of clients and 1 of servers")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("a half-open has an owner, too", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint, { approval: "application" })
      const connecting = yield* Effect.forkChild(Application.connect(endpoint), { startImmediately: true })
      const { items } = yield* Effect.flip(Leaks.check)
      assert.includeMembers(
        items.map(({ owner, what }) => `${what} of ${owner}`),
        ["half-open of test/0"]
      )
      yield* Fiber.interrupt(connecting)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.live("handles of the platform are counted", () =>
    Effect.gen(function* () {
      let server: Net.Server | undefined
      const open = Effect.callback<void>((resume) => {
        server = Net.createServer().listen(0, "127.0.0.1", () => resume(Effect.void))
      })
      const error = yield* Effect.flip(Leaks.withoutHandles(open))
      assert.strictEqual(error.left["TCPServerWrap"], 1)
      assert.include(error.message, "1 TCPServerWrap")
      yield* Effect.callback<void>((resume) => void server?.close(() => resume(Effect.void)))
      const before = yield* Leaks.handles
      yield* Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        yield* Application.connect(listener.address)
        const { TCPServerWrap, TCPSocketWrap } = yield* Leaks.handles
        assert.deepStrictEqual([TCPServerWrap, TCPSocketWrap], [before["TCPServerWrap"], before["TCPSocketWrap"]])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    })
  )
})
