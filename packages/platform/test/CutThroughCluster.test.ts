import { Application, Endpoint, Sessions } from "@cut-through/core"
import { CutThroughCluster, CutThroughNode, TcpTransport } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { MessageStorage, Runner, RunnerAddress, RunnerHealth, RunnerStorage, ShardId } from "effect/cluster"
import { TestClock } from "effect/testing"
import * as Net from "node:net"
import { Worker } from "node:worker_threads"
import { Place, runner, shardingConfig, type Task } from "./cluster-fixtures.ts"
import { atRest, exitOf, layerHost } from "./thread/life-fixtures.ts"

const ONE = 7001
const TWO = 7002

const layerSessions = Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)

/** What a layer provides, with an application of its own, until the scope closes. */
const build = <A, E, R>(name: string, layer: Layer.Layer<A, E, R>) =>
  Layer.build(Layer.fresh(Layer.provide(layer, Application.layer({ name }))))

/** No lock expires while a test runs. */
const host = CutThroughCluster.layerHost({ shardLockExpiration: "10 minutes" })

const ids = Array.from({ length: 24 }, (_, i) => `place ${i}`)

/** Where each entity is, as those who use this `Sharding` find it. */
const map = Effect.gen(function* () {
  const client = yield* Place.client
  return yield* Effect.forEach(ids, (id) => Effect.map(client(id).Where(), ({ port }) => port), {
    concurrency: "unbounded"
  })
})

const asText = (ports: ReadonlyArray<number>): string => Array.from(new Set(ports)).toSorted().join(" ")

/** Asks until the entities are with these runners, and no others. */
const spreadOver = (...ports: ReadonlyArray<number>) =>
  Effect.repeat(map, { until: (found) => asText(found) === asText(ports) })

const client = (options: Partial<CutThroughCluster.Options<true, "memory">> = {}) =>
  CutThroughCluster.layer({ ...options, clientOnly: true, shardingConfig })

const serve = (task: Task) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const worker = new Worker(new URL("./cluster-worker.ts", import.meta.url), { workerData: task })
      return { worker, exit: exitOf(worker) }
    }),
    ({ worker }) => Effect.promise(() => worker.terminate())
  )

describe("runners", () => {
  it.live("in one thread share the entities, and hand them over when one leaves", () =>
    Effect.gen(function* () {
      const one = yield* build("one", runner(ONE))
      const leaving = yield* Scope.make()
      const two = yield* Scope.provide(build("two", runner(TWO)), leaving)
      yield* Effect.provideContext(spreadOver(ONE, TWO), one)
      const seen = yield* Effect.provideContext(map, one)
      yield* Effect.repeat(Effect.provideContext(map, two), { until: (found) => found.join() === seen.join() })
      // From the one to an entity of the other, with acknowledgements on the way back.
      const remote = ids[seen.indexOf(TWO)]
      const places = yield* Effect.provideContext(Place.client, one)
      assert.deepStrictEqual(
        yield* Stream.runCollect(places(remote).Count({ to: 100 })),
        Array.from({ length: 100 }, (_, i) => i + 1)
      )
      const sessions = (yield* Sessions.list).filter(({ local }) => [ONE, TWO].includes(local.port))
      assert.isNotEmpty(sessions)
      assert.deepStrictEqual(new Set(sessions.map(({ transport }) => transport.name)), new Set(["ct"]))

      yield* Scope.close(leaving, Exit.void)
      assert.strictEqual((yield* Effect.provideContext(map, one)).join(), ids.map(() => ONE).join())
      const storage = yield* RunnerStorage.RunnerStorage
      assert.lengthOf(yield* storage.getRunners, 1)
    }).pipe(Effect.scoped, Effect.provide(host), Effect.provide(layerSessions))
  )

  for (const serialization of ["binary", "ndjson"] as const) {
    it.live(`in threads, ${serialization}: when one dies, its entities are elsewhere at once and calls go on`, () =>
      Effect.gen(function* () {
        yield* Effect.gen(function* () {
          const one = yield* serve({ port: ONE, serialization })
          const two = yield* serve({ port: TWO, serialization })
          const here = yield* build("client", client({ serialization }))
          const storage = yield* RunnerStorage.RunnerStorage
          const ofHere = Effect.provideContext(here)
          const found = yield* ofHere(spreadOver(ONE, TWO))
          const places = yield* ofHere(Place.client)
          const { thread } = yield* places(ids[found.indexOf(TWO)]).Where()
          assert.strictEqual(thread, two.worker.threadId)
          assert.deepStrictEqual(yield* Stream.runCollect(places(ids[found.indexOf(ONE)]).Count({ to: 3 })), [1, 2, 3])

          // Waits for an answer that this runner never gives.
          const waiting = yield* Effect.forkChild(places(ids[found.indexOf(TWO)]).Elsewhere({ port: TWO }), {
            startImmediately: true
          })
          yield* places(ids[found.indexOf(TWO)]).Where()
          yield* Effect.promise(() => two.worker.terminate())
          assert.strictEqual(yield* Fiber.join(waiting), ONE)
          yield* ofHere(spreadOver(ONE))
          assert.deepStrictEqual(
            (yield* storage.getRunners).map(([{ address }]) => address.port),
            [ONE]
          )

          // It comes back, under the same address.
          const again = yield* serve({ port: TWO, serialization })
          yield* ofHere(spreadOver(ONE, TWO))

          // They leave by themselves.
          for (const { exit, worker } of [one, again]) {
            worker.postMessage("leave")
            assert.strictEqual(yield* Effect.promise(() => exit), 0)
          }
          assert.deepStrictEqual(yield* storage.getRunners, [])
        }).pipe(Effect.scoped, Effect.provide(host))
        yield* atRest()
      }).pipe(Effect.provide(layerHost))
    )
  }

  it.live("of other session layers are called over TCP", () =>
    Effect.gen(function* () {
      const storage = CutThroughCluster.makeRunnerStorage()
      const start = (port: number) =>
        runner(port, { storage: "byo" }).pipe(
          Layer.provide(Layer.succeed(RunnerStorage.RunnerStorage, storage)),
          Layer.provide(MessageStorage.layerNoop),
          Layer.provideMerge(Application.layer({ name: "app" })),
          Layer.provideMerge(TcpTransport.layer()),
          Layer.provideMerge(layerSessions),
          Layer.fresh,
          Layer.build
        )
      const [first, second] = yield* freePorts(2)
      const one = yield* start(first)
      const two = yield* start(second)
      for (const services of [one, two]) {
        yield* Effect.provideContext(spreadOver(first, second), services)
        const sessions = yield* Effect.provideContext(Sessions.list, services)
        // The other side of what has fallen through.
        assert.include(
          sessions.map(({ application }) => application),
          "@cut-through/tcp"
        )
      }
    }).pipe(Effect.scoped)
  )

  it.live("find out by pings, too", () =>
    Effect.gen(function* () {
      const one = yield* build("one", runner(ONE, { runnerHealth: "ping" }))
      yield* build("two", runner(TWO, { runnerHealth: "ping" }))
      yield* Effect.provideContext(spreadOver(ONE, TWO), one)
    }).pipe(Effect.scoped, Effect.provide(host), Effect.provide(layerSessions))
  )
})

/** Ports that were free a moment ago. */
const freePorts = (count: number): Effect.Effect<ReadonlyArray<number>> =>
  Effect.promise(async () => {
    const servers = Array.from({ length: count }, () => Net.createServer())
    const ports: Array<number> = []
    for (const server of servers) {
      await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve))
      ports.push((server.address() as Net.AddressInfo).port)
    }
    await Promise.all(servers.map((server) => new Promise((resolve) => void server.close(resolve))))
    return ports
  })

describe("layerHost", () => {
  it.live("opens no port, and is found under another endpoint, too", () =>
    Effect.gen(function* () {
      const [port] = yield* freePorts(1)
      const endpoint = Endpoint.tcp("127.0.0.1", port)
      yield* Effect.gen(function* () {
        const one = yield* build("one", runner(ONE, { storageEndpoint: endpoint }))
        yield* Effect.provideContext(spreadOver(ONE), one)
        // Who is not in the session layer finds nobody there.
        const code = yield* Effect.callback<string>((resume) => {
          const socket = Net.connect(port, "127.0.0.1")
          socket.once("connect", () => resume(Effect.succeed("connected")))
          socket.once("error", (error: NodeJS.ErrnoException) => resume(Effect.succeed(error.code ?? "")))
        })
        assert.strictEqual(code, "ECONNREFUSED")
      }).pipe(Effect.scoped, Effect.provide(CutThroughCluster.layerHost({ endpoint })))
    }).pipe(
      Effect.provide(Layer.provideMerge(TcpTransport.layer({ opensPort: (_, name) => name !== "one" }), layerSessions))
    )
  )

  it.live("what is asked before it is there waits for it", () =>
    Effect.gen(function* () {
      const asking = yield* Scope.make()
      const storage = Context.get(
        yield* Scope.provide(build("early", CutThroughCluster.layerHostStorage()), asking),
        RunnerStorage.RunnerStorage
      )
      const runners = yield* Effect.forkChild(storage.getRunners, { startImmediately: true })
      // It has looked, and nobody was there.
      const early = Context.get(yield* build("watcher", CutThroughCluster.layerRunnerHealth), RunnerHealth.RunnerHealth)
      const { port } = CutThroughCluster.storageEndpoint
      assert.isFalse(yield* early.isAlive(RunnerAddress.make("127.0.0.1", port)))
      yield* Layer.build(CutThroughCluster.layerHost())
      assert.deepStrictEqual(yield* Fiber.join(runners), [])
      yield* Scope.close(asking, Exit.void)
    }).pipe(Effect.scoped, Effect.provide(layerSessions))
  )

  it.live("whoever comes before it waits for it", () =>
    Effect.gen(function* () {
      const one = yield* Scope.make()
      const services = yield* Scope.provide(build("one", runner(ONE)), one)
      const host = yield* Layer.build(CutThroughCluster.layerHost())
      yield* Effect.provideContext(spreadOver(ONE), services)
      assert.lengthOf(yield* Context.get(host, RunnerStorage.RunnerStorage).getRunners, 1)
      yield* Scope.close(one, Exit.void)
    }).pipe(Effect.scoped, Effect.provide(layerSessions))
  )
})

describe("layerRunnerHealth", () => {
  it.live("a runner is alive as long as its address can be connected to", () =>
    Effect.gen(function* () {
      const address = RunnerAddress.make("127.0.0.1", ONE)
      const { isAlive } = Context.get(
        yield* build("watcher", CutThroughCluster.layerRunnerHealth),
        RunnerHealth.RunnerHealth
      )
      assert.isFalse(yield* isAlive(address))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const app = yield* Application.make({ name: "runner" })
          const listener = yield* app.listen(Endpoint.tcp("127.0.0.1", ONE))
          assert.isTrue(yield* isAlive(address))
          // It was only looked at.
          const connection = yield* listener.accept
          assert.strictEqual((yield* Effect.flip(connection.read))._tag, "Done")
        })
      )
      assert.isFalse(yield* isAlive(address))
    }).pipe(Effect.scoped, Effect.provide(layerSessions))
  )

  it.live("what fails on this side says nothing about a runner", () =>
    Effect.gen(function* () {
      const services = yield* Layer.build(
        Layer.provideMerge(CutThroughCluster.layerRunnerHealth, Application.layer({ name: "small", maxSessions: 2 }))
      )
      const { isAlive } = Context.get(services, RunnerHealth.RunnerHealth)
      const app = Context.get(services, Application.Application)
      const listener = yield* app.listen(Endpoint.tcp("127.0.0.1", TWO))
      // Both of its sessions.
      yield* app.connect(listener.address)
      assert.isTrue(yield* isAlive(RunnerAddress.make("127.0.0.1", TWO)))
    }).pipe(Effect.scoped, Effect.provide(layerSessions))
  )
})

describe("makeRunnerStorage", () => {
  const runnerOf = (port: number) =>
    Runner.make({ address: RunnerAddress.make("127.0.0.1", port), groups: ["default"], weight: 1 })
  const one = runnerOf(ONE)
  const two = runnerOf(TWO)
  const shards = [1, 2, 3].map((id) => ShardId.make("default", id))
  const [first, second, third] = shards
  const texts = Effect.map((shards: ReadonlyArray<ShardId.ShardId>) => shards.map(String))

  const test = (
    name: string,
    body: (storage: RunnerStorage.RunnerStorage["Service"]) => Effect.Effect<unknown, unknown>
  ): void =>
    it.effect(name, () =>
      Effect.suspend(() => body(CutThroughCluster.makeRunnerStorage({ shardLockExpiration: "10 seconds" })))
    )

  test("knows the runners, and gives each address one number", (storage) =>
    Effect.gen(function* () {
      assert.strictEqual(yield* storage.register(one, true), 0)
      assert.strictEqual(yield* storage.register(two, false), 1)
      assert.strictEqual(yield* storage.register(one, true), 0)
      const known = Effect.map(storage.getRunners, (runners) =>
        runners.map(([{ address }, healthy]) => `${address.port} ${healthy}`)
      )
      assert.deepStrictEqual(yield* known, [`${ONE} true`, `${TWO} false`])
      yield* storage.setRunnerHealth(two.address, true)
      yield* storage.unregister(one.address)
      assert.deepStrictEqual(yield* known, [`${TWO} true`])
      // Of somebody who is not there.
      yield* storage.setRunnerHealth(one.address, true)
      assert.deepStrictEqual(yield* known, [`${TWO} true`])
    }))

  test("a shard has one owner, until it lets go", (storage) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* texts(storage.acquire(one.address, [first, second])), ["default:1", "default:2"])
      assert.deepStrictEqual(yield* texts(storage.acquire(two.address, shards)), ["default:3"])
      assert.deepStrictEqual(yield* texts(storage.acquire(one.address, shards)), ["default:1", "default:2"])
      // It is not theirs.
      yield* storage.release(two.address, first)
      assert.deepStrictEqual(yield* texts(storage.refresh(two.address, shards)), ["default:3"])
      yield* storage.release(one.address, first)
      assert.deepStrictEqual(yield* texts(storage.refresh(one.address, shards)), ["default:2"])
      assert.deepStrictEqual(yield* texts(storage.acquire(two.address, shards)), ["default:1", "default:3"])
      yield* storage.releaseAll(two.address)
      assert.deepStrictEqual(yield* texts(storage.acquire(one.address, shards)), shards.map(String))
      assert.deepStrictEqual(yield* storage.acquire(one.address, []), [])
    }))

  test("locks that nobody refreshes expire", (storage) =>
    Effect.gen(function* () {
      yield* storage.acquire(one.address, [first, second])
      yield* TestClock.adjust("6 seconds")
      yield* storage.refresh(one.address, [first])
      yield* TestClock.adjust(Duration.millis(3999))
      assert.deepStrictEqual(yield* storage.acquire(two.address, shards), [third])
      yield* TestClock.adjust(Duration.millis(1))
      assert.deepStrictEqual(yield* texts(storage.acquire(two.address, shards)), ["default:2", "default:3"])
      assert.deepStrictEqual(yield* texts(storage.refresh(one.address, shards)), ["default:1"])
      // Expired, but nobody has come.
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* texts(storage.refresh(one.address, [first])), ["default:1"])
    }))

  test("runners of which nobody hears are forgotten", (storage) =>
    Effect.gen(function* () {
      const known = Effect.map(storage.getRunners, (runners) => runners.map(([{ address }]) => address.port))
      yield* storage.register(one, true)
      yield* storage.register(two, true)
      yield* TestClock.adjust("6 seconds")
      // What a runner without shards says now and then.
      yield* storage.refresh(one.address, [])
      assert.deepStrictEqual(yield* known, [ONE, TWO])
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(yield* known, [ONE])
      yield* storage.register(two, true)
      assert.deepStrictEqual(yield* known, [ONE, TWO])
    }))

  test("whoever is unregistered or said to be unhealthy holds nothing", (storage) =>
    Effect.gen(function* () {
      yield* storage.register(one, true)
      yield* storage.acquire(one.address, shards)
      yield* storage.setRunnerHealth(one.address, true)
      assert.deepStrictEqual(yield* storage.acquire(two.address, shards), [])
      yield* storage.setRunnerHealth(one.address, false)
      assert.lengthOf(yield* storage.acquire(two.address, shards), 3)
      yield* storage.unregister(two.address)
      assert.lengthOf(yield* storage.acquire(one.address, shards), 3)
    }))
})
