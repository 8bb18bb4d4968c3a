import { Application, type Connection } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import type { App as SessionApp } from "@cut-through/core/session/App"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks, LockTrace } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Cause, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { misplaced, pattern, reasonOf } from "../fixtures.ts"
import {
  allCalls,
  appNamed,
  assertLawful,
  close,
  connectThrough,
  families,
  familyNames,
  layerOver,
  readAll,
  runToRest,
  ShuffledScheduler,
  SlowMemory,
  watch
} from "./dataFixtures.ts"

const small = { rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 16_384 }

/** A session layer whose locks are traced and checked, with what they have seen. */
const layerTraced = (memory: Layer.Layer<SharedMemory.SharedMemory> = SharedMemory.layer) =>
  Layer.fresh(layerOver({ workers: 2 }).pipe(Layer.provideMerge(Layer.mergeAll(LockTrace.layer, memory))))

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

/**
 * Everything that takes a lock or tells an application something: listening, connecting, refusing, giving up, talking,
 * closing in all ways, and detaching; with somebody who hears of all of it. `wait` lets what was asked for come.
 */
const everything = (wait: Effect.Effect<void, never, SessionLayer> = allCalls) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const apps = {
      server: yield* Scope.provide(Application.make({ name: "server", ...small, workers: 2 }), scope),
      client: yield* Scope.provide(Application.make({ name: "client" }), scope)
    }
    const told = [yield* watch(apps.server), yield* watch(apps.client)]
    for (const family of familyNames) {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const listener = yield* apps.server.listen(families[family], { backlog: 4 })
          assert.strictEqual(reasonOf(yield* Effect.exit(apps.client.listen(families[family]))), "AlreadyListening")
          const connecting = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () =>
            fork(Effect.exit(apps.client.connect(listener.address)))
          )
          yield* wait
          const clients: Array<Connection.Connection> = []
          for (const exit of yield* Fiber.joinAll(connecting)) if (Exit.isSuccess(exit)) clients.push(exit.value)
          assert.strictEqual(clients.length, 4, "the backlog holds 4")
          for (const [n, ending] of (["close", "reset"] as const).entries()) {
            const server = yield* listener.accept
            const client = clients.find(({ info }) => info.local.port === server.info.remote.port)!
            const [got] = yield* Effect.all(
              [
                readAll(server),
                Effect.andThen(client.write(pattern(20_000, n)), client.end),
                Effect.andThen(server.write(pattern(20_000, n)), server.end),
                Effect.map(readAll(client), (bytes) => assert.strictEqual(misplaced(bytes, n), -1))
              ],
              { concurrency: "unbounded" }
            )
            assert.deepStrictEqual([got.length, misplaced(got, n)], [20_000, -1])
            yield* n === 0 ? client[ending] : server[ending]
            yield* n === 0 ? server.close : client.close
          }
          // Left with bytes it has not read, and left unaccepted.
          const server = yield* listener.accept
          yield* Effect.forEach(clients, (client) => Effect.exit(client.write(pattern(10))))
          yield* server.close
        })
      )
    }
    yield* Effect.scoped(
      Effect.gen(function* () {
        const listener = yield* apps.server.listen(families.v4, { approval: "application" })
        const connecting = yield* Effect.forEach([1, 2, 3, 4], () =>
          fork(Effect.exit(apps.client.connect(listener.address)))
        )
        yield* wait
        yield* listener.accept
        yield* Effect.flatMap(listener.request, (request) => request.refuse)
        yield* listener.request
        yield* Effect.forEach(connecting.slice(2), Fiber.interrupt)
      })
    )
    yield* allCalls
    yield* close(scope)
    for (const events of yield* Effect.all(told)) {
      assertLawful(events)
      assert.isAbove(events.length, 40)
    }
  })

const contentionOf = (name: string) =>
  Effect.map(LockTrace.LockTrace, (trace) => {
    const found = trace.contention().find(({ lock }) => lock === name)
    assert.isDefined(found, `there is no lock ${name}`)
    return found
  })

describe("D40 nobody holds a lock while an application is told something, and locks have an order", () => {
  it.effect("while applications listen, connect, talk, close and detach", () =>
    Effect.gen(function* () {
      yield* everything()
      assert.isAbove((yield* contentionOf("segment contexts")).acquisitions, 0)
      assert.isAbove((yield* contentionOf("listeners")).acquisitions, 0)
      yield* LockTrace.check
    }).pipe(Effect.provide(layerTraced()))
  )

  it.effect("with memory that takes its time, so that there are those who wait for a lock", () => {
    const memory = new SlowMemory()
    const wait = Effect.gen(function* () {
      for (let turns = 0; turns < 20; turns++) {
        while (memory.pending > 0) memory.answer()
        yield* Effect.yieldNow
      }
      yield* allCalls
    })
    return Effect.gen(function* () {
      yield* everything(wait)
      const { acquisitions, longestQueue, waited } = yield* contentionOf("segment contexts")
      assert.isAbove(acquisitions, 0)
      assert.isAbove(waited, 0, "nobody has waited for the lock")
      assert.isAbove(longestQueue, 1)
      yield* LockTrace.check
    }).pipe(Effect.provide(layerTraced(memory.layer)))
  })

  const integer = (minimum: number, maximum: number) =>
    Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

  it.prop(
    "in any order in which fibers run and memory comes",
    [integer(0, 2 ** 31 - 1), integer(3, 60)],
    ([seed, ops]) => {
      const scheduler = new ShuffledScheduler(seed, ops)
      const memory = new SlowMemory()
      const program = Effect.gen(function* () {
        const done = { isDone: false }
        const feeding = Effect.gen(function* () {
          while (!done.isDone) {
            if (memory.pending > 0 && scheduler.next(3) === 0) memory.answer()
            yield* Effect.yieldNow
          }
        })
        const connects = (apps: {
          readonly one: Application.Application["Service"]
          readonly two: Application.Application["Service"]
        }) =>
          Effect.gen(function* () {
            const listeners = [
              yield* apps.one.listen(families.v4, { backlog: 3 }),
              yield* apps.two.listen(families.v6, { approval: "application" })
            ]
            const talk = (n: number) =>
              Effect.gen(function* () {
                const [from, listener] = n % 2 === 0 ? [apps.two, listeners[0]] : [apps.one, listeners[1]]
                const { client, server } = yield* connectThrough(from, listener)
                yield* client.write(pattern(100, n))
                yield* n % 3 === 0 ? client.reset : client.close
                yield* server.close
              }).pipe(Effect.scoped, Effect.exit)
            const impatient = Effect.scoped(
              Effect.gen(function* () {
                const connecting = yield* fork(apps.two.connect(families.v4))
                yield* Effect.yieldNow
                yield* Fiber.interrupt(connecting)
              })
            )
            const all = yield* Effect.forEach([0, 1, 2, 3, 4, 5], (n) => Effect.forkChild(talk(n)))
            yield* Effect.all([impatient, impatient], { concurrency: "unbounded" })
            for (let turns = 0; turns < 30; turns++) yield* Effect.yieldNow
            // Some wait for connections that others have taken.
            for (const fiber of all) yield* Fiber.interrupt(fiber)
          }).pipe(Effect.scoped)
        const body = Effect.gen(function* () {
          const scope = yield* Scope.make()
          const one = yield* Scope.provide(Application.make({ name: "one", ...small }), scope)
          const two = yield* Scope.provide(Application.make({ name: "two", ...small }), scope)
          const told = [yield* watch(one), yield* watch(two)]
          yield* connects({ one, two })
          // Memory that was asked for comes, also when nobody wants it any more.
          const trace = yield* LockTrace.LockTrace
          while ((yield* SessionLayer).residue().leases + trace.holders().length > 0) yield* Effect.yieldNow
          yield* allCalls
          yield* close(scope)
          for (const events of yield* Effect.all(told)) assertLawful(events)
          yield* LockTrace.check
        }).pipe(Effect.provide(layerTraced(memory.layer)))
        yield* Effect.all(
          [
            feeding,
            Effect.ensuring(
              body,
              Effect.sync(() => void (done.isDone = true))
            )
          ],
          {
            concurrency: "unbounded"
          }
        )
      })
      runToRest(scheduler, program, `seed ${seed}`)
    },
    { arbitrary: { runs: 60 } }
  )
})

describe("D40 the tracer works: an application that is told something under a lock is found out", () => {
  /** Memory that tells an application of itself: it is asked for under the lock of the segment contexts. */
  const talkative = (isSlow: boolean) => {
    const told: { app: SessionApp | undefined } = { app: undefined }
    const layer = Layer.effect(
      SharedMemory.SharedMemory,
      Effect.map(SharedMemory.make(), (memory) => {
        const tell = () =>
          told.app?.tell({ _tag: "SegmentAdded", worker: "server/0", listener: "memory", segment: 1, size: 1 })
        return SharedMemory.SharedMemory.of({
          ...memory,
          tryAllocate(bytes) {
            if (isSlow) return undefined
            tell()
            return memory.tryAllocate(bytes)
          },
          allocate: (bytes) => Effect.andThen(Effect.sync(tell), memory.allocate(bytes))
        })
      })
    )
    return { told, layer }
  }

  for (const isSlow of [false, true]) {
    it.effect(`at once or after a wait: ${isSlow ? "after a wait" : "at once"}`, () =>
      Effect.gen(function* () {
        const { layer, told } = talkative(isSlow)
        const program = Effect.gen(function* () {
          const server = yield* Application.make({ name: "server" })
          told.app = yield* appNamed("server")
          const listener = yield* server.listen(families.v4)
          yield* server.connect(listener.address)
          const error = yield* Effect.flip(LockTrace.check)
          const [violation] = error.violations
          assert.strictEqual(error.violations.length, 1)
          assert.deepInclude(violation, { _tag: "HeldWhileNotifying", what: "SegmentAdded" })
          if (violation._tag === "HeldWhileNotifying") {
            assert.deepStrictEqual(
              violation.held.map(({ lock, mode }) => [lock, mode]),
              [["segment contexts", "write"]]
            )
          }
        }).pipe(Effect.scoped)
        // And whoever forgets to look is told at the end.
        const exit = yield* Effect.exit(Effect.provide(program, layerTraced(layer)))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.instanceOf(Cause.squash(exit.cause), LockTrace.LockViolation)
      })
    )
  }

  it.effect("told outside of it, all is well", () =>
    Effect.gen(function* () {
      const server = yield* Application.make({ name: "server" })
      const app = yield* appNamed("server")
      const listener = yield* server.listen(families.v4)
      yield* server.connect(listener.address)
      app.tell({ _tag: "SegmentAdded", worker: "server/0", listener: "memory", segment: 1, size: 1 })
      yield* LockTrace.check
      yield* Leaks.check.pipe(Effect.flip)
    }).pipe(Effect.scoped, Effect.provide(layerTraced()))
  )
})
