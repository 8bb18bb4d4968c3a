import { Application, Endpoint, Sessions } from "@cut-through/core"
import type { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { Session, State } from "@cut-through/core/session/Session"
import * as Wake from "@cut-through/core/runtime/Wake"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { misplaced, pattern, readExactly, reasonOf } from "../fixtures.ts"
import { type Attempt, happenEverywhere, SteppingScheduler } from "../runtime/stepping.ts"
import {
  appNamed,
  close,
  connectThrough,
  families,
  familyNames,
  layerWith,
  pairOf,
  readAll,
  runToRest,
  sessionOf,
  twoApps,
  watch
} from "./dataFixtures.ts"

const counted = SessionLayer.useSync(({ counters }) => counters)

describe("write, then close at once", () => {
  for (const family of familyNames) {
    it.effect(`D17 ${family}: everything arrives, then the end, of 300 connections nobody has accepted yet`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* twoApps()
        const listener = yield* server.listen(families[family])
        const count = 300
        for (let n = 0; n < count; n++) {
          yield* Effect.scoped(
            Effect.flatMap(client.connect(listener.address), (connection) =>
              Effect.andThen(connection.write(pattern(500, n)), connection.writeAll([pattern(400, n + 500)]))
            )
          )
        }
        for (let n = 0; n < count; n++) {
          const bytes = yield* Effect.scoped(Effect.flatMap(listener.accept, readAll))
          assert.deepStrictEqual([bytes.length, misplaced(bytes, n)], [900, -1], `connection ${n}`)
        }
        assert.deepInclude(yield* counted, { closed: 2 * count, reset: 0 })
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  }

  const wakes = { "direct wake-ups": Wake.layer, "wake-ups through the scheduler": Wake.layerScheduler }
  for (const [name, wake] of Object.entries(wakes)) {
    it(`D17 D34 ${name}: everything arrives, then the end, with 600 notifications on their way at once`, () => {
      const scheduler = new SteppingScheduler()
      const count = 300
      const program = Effect.gen(function* () {
        const { client, server } = yield* twoApps()
        const listener = yield* server.listen(families.v4, { backlog: count })
        const pairs = yield* Effect.forEach(Array.from({ length: count }), () => connectThrough(client, listener))
        const arrived: Array<Uint8Array> = []
        const readers = yield* Effect.forEach(pairs, ({ server }, n) =>
          Effect.forkChild(
            Effect.map(readAll(server), (bytes) => void (arrived[n] = bytes)),
            { startImmediately: true }
          )
        )
        // One step: nothing but wake-ups on this very stack can come between the writes, nor before the closes.
        yield* Effect.sync(() => {
          for (const [n, { client }] of pairs.entries()) {
            Effect.runFork(Effect.andThen(client.write(pattern(700, n)), client.write(pattern(300, n + 700))))
            Effect.runFork(client.close)
          }
        })
        const early = arrived.filter((bytes) => bytes !== undefined).length
        yield* Fiber.joinAll(readers)
        return { arrived, early }
      }).pipe(Effect.scoped, Effect.provide(layerWith({ wake })))
      const { arrived, early } = runToRest(scheduler, program, "after 300 closes")
      assert.isAtMost(early, wake === Wake.layer ? 150 : 0, "the notifications were not on their way at once")
      assert.strictEqual(arrived.length, count)
      for (const [n, bytes] of arrived.entries()) {
        assert.deepStrictEqual([bytes.length, misplaced(bytes, n)], [1000, -1], `connection ${n}`)
      }
    })
  }

  it.effect("D34 an application that reads none of its events still reads all of its bytes", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: { maxPending: 3 } })
      const unread = yield* Effect.flatMap(appNamed("server"), ({ events }) => events.subscribe)
      const listener = yield* server.listen(families.v4)
      const pair = yield* connectThrough(client, listener)
      const other = yield* Effect.exit(connectThrough(client, listener))
      // SegmentAdded and two Accepted: it can be told no more, and has to be told of the end, too.
      assert.strictEqual(reasonOf(other), "success")
      assert.strictEqual(reasonOf(yield* Effect.exit(client.connect(listener.address))), "Refused")
      const reading = yield* Effect.forkChild(readAll(pair.server), { startImmediately: true })
      yield* pair.client.write(pattern(1_000_000))
      yield* pair.client.close
      const bytes = yield* Fiber.join(reading)
      assert.deepStrictEqual([bytes.length, misplaced(bytes)], [1_000_000, -1])
      assert.deepStrictEqual(
        (yield* Queue.clear(unread)).map(({ _tag }) => _tag),
        ["SegmentAdded", "Accepted", "Accepted", "Disconnected"]
      )
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D17 more than the FIFO holds: 150 writers that wait for room close when the last byte is in", () =>
    Effect.gen(function* () {
      const sizes = { rxFifoSize: 4096, txFifoSize: 4096 }
      const { client, server } = yield* twoApps({ server: sizes })
      const listener = yield* server.listen(families.v4)
      const length = 40_000
      const pairs = yield* Effect.forEach(Array.from({ length: 150 }), () => connectThrough(client, listener))
      const writers = yield* Effect.forEach(pairs, ({ client }, n) =>
        Effect.forkChild(Effect.andThen(client.write(pattern(length, n)), client.close), { startImmediately: true })
      )
      const readers = yield* Effect.forEach(pairs, ({ server }, n) =>
        Effect.forkChild(readAll(server, { by: 100 + n }))
      )
      for (const [n, bytes] of (yield* Fiber.joinAll(readers)).entries()) {
        assert.deepStrictEqual([bytes.length, misplaced(bytes, n)], [length, -1], `connection ${n}`)
      }
      yield* Fiber.joinAll(writers)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it("D39 whenever it happens, the reader gets the bytes first and then the end", () => {
    happenEverywhere({
      setUp: (others) => {
        const ready = others.run(
          Effect.gen(function* () {
            const scope = yield* Scope.make()
            const services = yield* Layer.buildWithScope(layerWith(), scope)
            const pair = yield* Effect.provide(Scope.provide(pairOf(), scope), services)
            return { ...pair, scope }
          })
        )
        others.scheduler.runAll()
        const exit = ready.pollUnsafe()
        if (exit?._tag !== "Success") return assert.fail("no connection")
        return { ...exit.value, got: [] as ReadonlyArray<number> }
      },
      start: (attempt: Attempt, state) =>
        attempt.run(Effect.map(readAll(state.server, { by: 2 }), (bytes) => void (state.got = Array.from(bytes)))),
      event: (others, { client }) =>
        void others.run(Effect.andThen(client.write(Uint8Array.of(1, 2, 3)), client.close)),
      check: (others, { got, scope }, where) => {
        assert.deepStrictEqual(got, [1, 2, 3], where)
        others.run(close(scope))
        others.scheduler.runAll()
      }
    })
  })
})

describe("how a connection ends", () => {
  for (const family of familyNames) {
    for (const side of ["client", "server"] as const) {
      const other = side === "client" ? "server" : "client"
      const setUp = pairOf({ family }).pipe(
        Effect.map((pair) => ({ ...pair, closing: pair[side], staying: pair[other] }))
      )

      it.effect(`${family} D39 the ${side} closes with bytes it has not read: the ${other} is reset`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          yield* staying.write(pattern(10))
          yield* closing.write(pattern(20))
          yield* closing.readInto(new Uint8Array(9))
          yield* closing.close
          assert.strictEqual(reasonOf(yield* Effect.exit(staying.read)), "Reset")
          assert.strictEqual(reasonOf(yield* Effect.exit(staying.write(pattern(1)))), "Reset")
          // What it has not read is lost already: it breaks off, too.
          yield* staying.close
          assert.deepInclude(yield* counted, { closed: 0, reset: 2 })
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family} the ${side} closes when it has read all: the ${other} reads on, then the end`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          yield* staying.write(pattern(10))
          yield* closing.write(pattern(20))
          yield* closing.readInto(new Uint8Array(10))
          yield* closing.close
          assert.strictEqual(misplaced(yield* readExactly(staying, 20)), -1)
          assert.strictEqual(reasonOf(yield* Effect.exit(staying.read)), "Done")
          assert.strictEqual(reasonOf(yield* Effect.exit(staying.write(pattern(1)))), "BrokenPipe")
          yield* staying.close
          assert.deepInclude(yield* counted, { closed: 2, reset: 0 })
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(
        `${family} D39 the ${side} resets: all that waits on both sides is woken, and what is unread is lost`,
        () =>
          Effect.gen(function* () {
            const { closing, staying } = yield* setUp
            const fork = <A, E>(effect: Effect.Effect<A, E>) =>
              Effect.forkChild(Effect.exit(effect), { startImmediately: true })
            const writers = [
              yield* fork(closing.write(pattern(1_000_000))),
              yield* fork(staying.write(pattern(1_000_000)))
            ]
            assert.isTrue(writers.every((fiber) => fiber.pollUnsafe() === undefined))
            yield* closing.reset
            assert.deepStrictEqual((yield* Fiber.joinAll(writers)).map(reasonOf), ["Closed", "Reset"])
            assert.strictEqual(reasonOf(yield* Effect.exit(staying.read)), "Reset")
            assert.strictEqual(reasonOf(yield* Effect.exit(closing.read)), "Closed")
          }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family} a reset wakes the ${other} that waits for bytes`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          const reading = yield* Effect.forkChild(Effect.exit(staying.read), { startImmediately: true })
          yield* closing.reset
          assert.strictEqual(reasonOf(yield* Fiber.join(reading)), "Reset")
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family} half-close by the ${side}: the ${other} answers with more than the FIFO holds`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          const reading = yield* Effect.forkChild(readAll(staying), { startImmediately: true })
          yield* closing.write(pattern(1000))
          yield* closing.end
          assert.strictEqual(misplaced(yield* Fiber.join(reading)), -1)
          const length = 1_000_000
          const answering = yield* Effect.forkChild(Effect.andThen(staying.write(pattern(length)), staying.end), {
            startImmediately: true
          })
          const bytes = yield* readAll(closing)
          assert.deepStrictEqual([bytes.length, misplaced(bytes)], [length, -1])
          yield* Fiber.join(answering)
          // Both directions are over; the sessions are not, until they are closed.
          assert.deepStrictEqual(
            (yield* Sessions.find({ kind: "session" })).map(({ isRxEnded, isTxEnded, state }) => [
              state,
              isRxEnded,
              isTxEnded
            ]),
            [
              ["ready", true, true],
              ["ready", true, true]
            ]
          )
          yield* closing.close
          yield* staying.close
          assert.deepInclude(yield* counted, { closed: 2, reset: 0 })
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family} reset by the ${side} after it has half-closed: the end becomes a reset`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          yield* closing.write(pattern(10))
          yield* closing.end
          const reading = yield* Effect.forkChild(Effect.exit(readAll(staying)), { startImmediately: true })
          assert.strictEqual(reasonOf(yield* Fiber.join(reading)), "success")
          const writing = yield* Effect.forkChild(Effect.exit(staying.write(pattern(1_000_000))), {
            startImmediately: true
          })
          yield* closing.reset
          assert.strictEqual(reasonOf(yield* Fiber.join(writing)), "Reset")
          assert.strictEqual(reasonOf(yield* Effect.exit(staying.read)), "Reset")
          yield* staying.close
          assert.deepInclude(yield* counted, { closed: 1, reset: 1 })
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family} the ${side} half-closes, then is reset by the ${other}: what it waits to read is lost`, () =>
        Effect.gen(function* () {
          const { closing, staying } = yield* setUp
          yield* closing.end
          yield* staying.write(pattern(10))
          yield* staying.reset
          assert.strictEqual(reasonOf(yield* Effect.exit(closing.read)), "Reset")
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )
    }

    it.effect(`${family} both close at the same time: nobody is told of the other, nothing is left`, () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const { client, server } = yield* Scope.provide(twoApps(), scope)
        const [clientEvents, serverEvents] = [yield* watch(client), yield* watch(server)]
        const listener = yield* Scope.provide(server.listen(families[family]), scope)
        const pair = yield* Scope.provide(connectThrough(client, listener), scope)
        const worker = yield* SessionLayer.useSync((layer) => layer.worker(1))
        // Within a call on their worker, both have closed before the first of them can be cleaned up.
        yield* Effect.callback<void>((resume) => {
          worker.send(
            Effect.sync(() => {
              Effect.runFork(pair.client.close)
              Effect.runFork(pair.server.close)
              resume(Effect.void)
            })
          )
        })
        yield* close(scope)
        const ends = (tags: ReadonlyArray<{ readonly _tag: string }>) =>
          tags.map(({ _tag }) => _tag).filter((tag) => /Disconnected|Reset|Cleanup[TS]/.test(tag))
        assert.deepStrictEqual(ends(yield* clientEvents), ["CleanupTransport", "CleanupSession"])
        assert.deepStrictEqual(ends(yield* serverEvents), ["CleanupTransport", "CleanupSession"])
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("D39 when the application is told of the end, all bytes can be read; of a reset, nothing", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const app = yield* appNamed("server")
      const listener = yield* server.listen(families.v4)
      for (const ending of ["close", "reset"] as const) {
        const pair = yield* connectThrough(client, listener)
        // Looked at when it is told, not when it is read.
        const told = yield* app.events.subscribeWith(({ _tag }) => [_tag, pair.server.info.rx.used] as const)
        const writing = yield* Effect.forkChild(pair.client.write(pattern(100_000)), { startImmediately: true })
        yield* Fiber.join(writing)
        yield* pair.client[ending]
        assert.deepStrictEqual(yield* Queue.clear(told), [[ending === "close" ? "Disconnected" : "Reset", 100_000]])
        assert.strictEqual(reasonOf(yield* Effect.exit(pair.server.read)), ending === "close" ? "success" : "Reset")
      }
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})

describe("D35 a side that signals", () => {
  /** Whether the other side's doorbell rings when this session says that it has written, whoever is behind it. */
  const rings = (session: Session): boolean => {
    // Both sides are in this thread.
    const doorbell = session.peerDoorbell as LocalDoorbell
    const { target } = doorbell
    let hasRung = false
    doorbell.target = { onRing: () => void (hasRung = true) }
    session.transport.customTx(session)
    doorbell.target = target
    return hasRung
  }

  it.effect("reaches the other one only from READY, CLOSING and APP_CLOSED", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const { changes } = yield* SessionLayer
      const states = yield* changes.subscribeWith(({ session, to }) => [session.side, to, rings(session)] as const)
      const listener = yield* server.listen(families.v4, { approval: "application" })
      // Every way through the states that this transport has.
      const ways: ReadonlyArray<(connecting: Fiber.Fiber<unknown>) => Effect.Effect<unknown, unknown, Scope.Scope>> = [
        () => Effect.flatMap(listener.accept, (connection) => connection.close),
        () => Effect.flatMap(listener.accept, (connection) => connection.reset),
        (connecting) => Effect.andThen(listener.accept, Fiber.join(connecting)),
        () => Effect.flatMap(listener.request, (request) => request.refuse),
        (connecting) => Effect.andThen(listener.request, Fiber.interrupt(connecting)),
        (connecting) => Fiber.interrupt(connecting)
      ]
      for (const way of ways) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connecting = yield* Effect.forkScoped(Effect.exit(client.connect(listener.address)), {
              startImmediately: true
            })
            yield* way(connecting)
          })
        )
      }
      const seen = new Map<string, Set<boolean>>()
      for (const [side, state, hasRung] of yield* Queue.clear(states)) {
        const key = `${side} ${state}`
        seen.set(key, (seen.get(key) ?? new Set()).add(hasRung))
      }
      const rung = ["ready", "closing", "app-closed"] satisfies ReadonlyArray<State>
      const silent = ["accepting", "transport-closing", "closed"] satisfies ReadonlyArray<State>
      for (const state of rung) assert.deepStrictEqual(seen.get(`server ${state}`), new Set([true]), state)
      for (const state of silent) assert.deepStrictEqual(seen.get(`server ${state}`), new Set([false]), state)
      for (const state of rung) assert.deepStrictEqual(seen.get(`client ${state}`), new Set([true]), state)
      for (const state of ["connecting", "transport-closing", "closed"] satisfies ReadonlyArray<State>) {
        assert.deepStrictEqual(seen.get(`client ${state}`), new Set([false]), state)
      }
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("after its client's failed connect reaches none of those who came later in its place", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4, { approval: "application" })
      const connecting = yield* Effect.forkScoped(client.connect(listener.address), { startImmediately: true })
      yield* listener.request
      const { connections } = yield* SessionLayer
      const [stale] = connections.sessions()
      yield* Fiber.interrupt(connecting)
      assert.strictEqual(stale.state, "transport-closing")
      const woken: Array<string> = []
      yield* Effect.forEach([0, 1, 2], (n) =>
        Effect.gen(function* () {
          const next = yield* Effect.forkScoped(client.connect(listener.address), { startImmediately: true })
          const served = yield* listener.accept
          const connection = yield* Fiber.join(next)
          for (const [name, end] of [["client", connection] as const, ["server", served] as const]) {
            const { doorbell } = yield* sessionOf(end)
            const { target } = doorbell
            doorbell.target = {
              onRing() {
                woken.push(`${name} ${n}`)
                target?.onRing()
              }
            }
          }
        })
      )
      stale.transport.customTx(stale)
      stale.transport.appRxEvt(stale)
      assert.deepStrictEqual(woken, [])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})

describe("connections that wait to be accepted", () => {
  it.effect("closed by their clients with data, they are served with it, in order", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const count = 200
      for (let n = 0; n < count; n++) {
        yield* Effect.scoped(
          Effect.flatMap(Application.connect(listener.address), (client) => client.write(pattern(50, n)))
        )
      }
      const served = yield* Queue.unbounded<Uint8Array>()
      yield* Effect.forkScoped(
        listener.run((connection) =>
          Effect.flatMap(Stream.mkUint8Array(connection.stream), (bytes) => Queue.offer(served, bytes))
        )
      )
      for (let n = 0; n < count; n++) {
        const bytes = yield* Queue.take(served)
        assert.deepStrictEqual([bytes.length, misplaced(bytes, n)], [50, -1], `connection ${n}`)
      }
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})
