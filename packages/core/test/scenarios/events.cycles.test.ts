import { Application, type Connection, Sessions } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import { misplaced, pattern, readExactly, reasonOf } from "../fixtures.ts"
import {
  allCalls,
  appNamed,
  close,
  connectThrough,
  families,
  layerOver,
  sessionOf,
  twoApps,
  watch
} from "./dataFixtures.ts"

const CYCLES = 100

describe("D42 a session layer that comes and goes", () => {
  it.effect("100 times, with live connections in each: the memory below it does not grow", () =>
    Effect.gen(function* () {
      const memory = yield* SharedMemory.SharedMemory
      // Outlives them all, as the scope of whoever forgets to close.
      const outer = yield* Scope.make()
      const left: Array<Connection.Connection> = []
      const cycle = (n: number) =>
        Effect.gen(function* () {
          const apps = yield* twoApps({ server: { segmentSize: "1 MiB" } })
          const listener = yield* apps.server.listen(families.v4)
          yield* watch(apps.server)
          for (let i = 0; i < 5; i++) {
            const { client, server } = yield* Scope.provide(connectThrough(apps.client, listener), outer)
            yield* client.write(pattern(50_000, n))
            assert.strictEqual(misplaced(yield* readExactly(server, 10_000), n), -1)
            left.push(client, server)
          }
          const unaccepted = yield* Scope.provide(apps.client.connect(listener.address), outer)
          yield* unaccepted.write(pattern(10))
          assert.isAbove(memory.stats().regions, 0)
        }).pipe(Effect.scoped, Effect.provide(Layer.fresh(layerOver({ workers: n % 3 }))))
      let pooled: SharedMemory.Stats | undefined
      for (let n = 0; n < CYCLES; n++) {
        yield* cycle(n)
        const stats = memory.stats()
        assert.deepInclude(stats, { regions: 0, bytes: 0 }, `after ${n + 1} cycles`)
        pooled ??= stats
        assert.deepStrictEqual(stats, pooled, `after ${n + 1} cycles`)
      }
      // What they left can be closed, and is closed already.
      assert.isTrue(left.every(({ info }) => info.state === "closed"))
      yield* close(outer)
      assert.deepStrictEqual(memory.stats(), pooled)
    }).pipe(Effect.provide(Layer.mergeAll(Layer.fresh(SharedMemory.layer), Lock.layer)))
  )

  it.effect("what one has left in memory is not in the connections of the next", () =>
    Effect.gen(function* () {
      const cycle = (n: number) =>
        Effect.gen(function* () {
          const apps = yield* twoApps({ server: { segmentSize: "1 MiB" } })
          const { client, server } = yield* connectThrough(apps.client, yield* apps.server.listen(families.v6))
          assert.deepInclude(server.info, { bytesReceived: 0, rx: { used: 0, size: 524_288 } })
          const [segment] = (yield* appNamed("server")).workers[0].segments
          const { words } = segment.region
          const bytes = Buffer.from(words.view(0, words.byteLength).slice())
          assert.isFalse(bytes.includes("secret"), "what an application has mapped has bytes of another in it")
          yield* client.write(pattern(100_000, n))
          assert.strictEqual(misplaced(yield* readExactly(server, 100_000), n), -1)
          yield* client.write(new TextEncoder().encode("secret"))
          yield* readExactly(server, 6)
          yield* server.write(pattern(100, n))
          yield* client.end
          assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Done")
        }).pipe(Effect.scoped, Effect.provide(Layer.fresh(layerOver())))
      for (let n = 0; n < 20; n++) yield* cycle(n)
      const memory = yield* SharedMemory.SharedMemory
      const { pooledBytes, pooledRegions } = memory.stats()
      assert.strictEqual(pooledRegions, 1)
      const region = yield* memory.allocate(pooledBytes)
      assert.isTrue(
        region.words.view(0, pooledBytes).every((byte) => byte === 0),
        "somebody's bytes are left"
      )
      memory.release(region, [])
    }).pipe(Effect.provide(Layer.mergeAll(Layer.fresh(SharedMemory.layer), Lock.layer)))
  )
})

describe("applications that come and go", () => {
  it.effect("100 times, with live connections in each: the session layer keeps nothing of them", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer
      const scope = yield* Effect.scope
      const finalizers = () => (scope.state._tag === "Open" ? (scope.state.finalizers?.size ?? 1) : 0)
      const shape = (n: number) =>
        Effect.gen(function* () {
          const apps = yield* twoApps({ server: { segmentSize: "1 MiB", workers: 2 } })
          yield* watch(apps.client)
          const listener = yield* apps.server.listen(families.v4)
          const pairs = yield* Effect.forEach([1, 2, 3], () => connectThrough(apps.client, listener))
          yield* pairs[0].client.write(pattern(100))
          const sessions = yield* Effect.forEach(
            pairs.flatMap(({ client, server }) => [client, server]),
            sessionOf
          )
          const places = [
            (yield* appNamed("server")).handle,
            (yield* appNamed("client")).handle,
            listener.handle,
            ...sessions.map(({ handle }) => handle)
          ].map(HandleTable.indexOf)
          // Half of the time the connections are closed first.
          if (n % 2 === 0) for (const { client } of pairs) yield* client.close
          return { places, handles: sessions.map(({ handle, worker }) => `${worker}:${handle}`) }
        }).pipe(Effect.scoped)
      const first = yield* shape(0)
      const before = finalizers()
      const seen = new Set(first.handles)
      for (let n = 1; n < CYCLES; n++) {
        const { handles, places } = yield* shape(n)
        yield* allCalls
        // The same few places again, and never the same handle.
        assert.isAtMost(Math.max(...places), 5, `cycle ${n}`)
        for (const handle of handles) seen.add(handle)
        assert.strictEqual(seen.size, 6 * (n + 1))
        yield* Leaks.check
        assert.deepStrictEqual([...layer.apps()], [])
        assert.deepStrictEqual([...layer.listeners()], [])
        assert.deepStrictEqual([...layer.global.table], [])
        for (const { table } of layer.namespaces()) assert.deepStrictEqual([...table], [])
        assert.strictEqual([...layer.transports].length, 1)
        assert.isFalse(layer.changes.isObserved)
        assert.strictEqual(finalizers(), before, `cycle ${n}`)
      }
      assert.strictEqual(yield* Sessions.format, "no sessions")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions({ workers: 2 })))
  )

  it.effect("a connection that outlives its application is closed, for good", () =>
    Effect.gen(function* () {
      const outer = yield* Scope.make()
      const { client, server } = yield* Effect.scoped(
        Effect.gen(function* () {
          const apps = yield* twoApps()
          const listener = yield* apps.server.listen(families.v4)
          return yield* Scope.provide(connectThrough(apps.client, listener), outer)
        })
      )
      for (const connection of [client, server]) {
        for (const effect of [connection.read, connection.write(pattern(1)), connection.readInto(new Uint8Array(1))]) {
          assert.strictEqual(reasonOf(yield* Effect.exit(effect as Effect.Effect<unknown, unknown>)), "Closed")
        }
        yield* connection.end
        yield* connection.reset
      }
      // Those who have come in its place do not notice.
      const app = yield* Application.make({ name: "next" })
      const pair = yield* connectThrough(app, yield* app.listen(families.v4))
      yield* close(outer)
      yield* pair.client.write(pattern(10))
      assert.strictEqual(misplaced(yield* readExactly(pair.server, 10)), -1)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("a connect whose scope has closed meanwhile leaves nothing", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4)
      const closed = yield* Scope.make()
      yield* close(closed)
      const exit = yield* Effect.exit(Scope.provide(client.connect(listener.address), closed))
      assert.isTrue(Exit.isSuccess(exit))
      const served = yield* listener.accept
      yield* served.close
      yield* allCalls
      assert.deepInclude(yield* Sessions.residue, { sessions: 0, leases: 0 })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
