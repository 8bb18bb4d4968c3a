/** Threads of pools: within their tasks always, between them where the pool does not block them. */
import * as Application from "@cut-through/core/Application"
import * as Applications from "@cut-through/core/Applications"
import * as Endpoint from "@cut-through/core/Endpoint"
import type * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { Piscina } from "piscina"
import { Tinypool } from "tinypool"
import { atRest, layerHost } from "./life-fixtures.ts"
import type { PoolTask } from "./life-pool.ts"
import { drain, echo, writeBytes } from "./life-talk.ts"

interface Pool {
  readonly run: (task: PoolTask) => Promise<any>
  readonly destroy: () => Promise<void>
}

const filename = new URL("./life-pool.ts", import.meta.url).href

const piscina =
  (atomics: "sync" | "async" | "disabled", threads = 1) =>
  (): Pool =>
    new Piscina({ filename, minThreads: threads, maxThreads: threads, atomics })

const tinypool =
  (useAtomics: boolean, threads = 1) =>
  (): Pool =>
    new Tinypool({ filename, minThreads: threads, maxThreads: threads, useAtomics })

const poolOf = (make: () => Pool) =>
  Effect.map(
    Effect.acquireRelease(Effect.sync(make), (pool) => Effect.promise(() => pool.destroy())),
    (pool) => (task: PoolTask) => Effect.promise(() => pool.run(task))
  )

const anyPort = Endpoint.tcp("127.0.0.1", 0)

/** Half a megabyte to a server and back. */
const talkTo = (port: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* Application.connect(Endpoint.tcp("127.0.0.1", port))
      const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 500_000), connection.end))
      assert.deepStrictEqual(yield* drain(connection), { how: "end", bytes: 500_000, received: undefined })
      yield* Fiber.join(writing)
      return connection.info.path
    })
  )

const runs = <A, E>(
  effect: Effect.Effect<
    A,
    E,
    Application.Application | CutThroughHost.CutThroughHost | SessionLayer.SessionLayer | Scope.Scope
  >
) =>
  effect.pipe(
    Effect.scoped,
    Effect.provide(Application.layer({ name: "here" })),
    Effect.tap(atRest()),
    Effect.provide(layerHost)
  )

describe("inside a task", () => {
  for (const [name, make] of [
    ["piscina", piscina("sync", 2)],
    ["tinypool", tinypool(true, 2)]
  ] as const) {
    it.live(`of ${name}, which blocks its threads between them`, () =>
      runs(
        Effect.gen(function* () {
          const listener = yield* Application.listen(anyPort)
          yield* Effect.forkScoped(listener.run(echo))
          const run = yield* poolOf(make)
          const task: PoolTask = { _tag: "Talk", port: listener.address.port }
          const paths = yield* Effect.all([run(task), run(task), run(task), run(task)], { concurrency: "unbounded" })
          assert.deepStrictEqual(paths, ["thread", "thread", "thread", "thread"])
          const { guests, lost } = (yield* CutThroughHost.CutThroughHost).stats()
          assert.deepStrictEqual({ guests, lost }, { guests: 0, lost: 0 })
        })
      )
    )
  }
})

describe("between tasks", () => {
  for (const [name, make] of [
    ['piscina with atomics: "async"', piscina("async")],
    ['piscina with atomics: "disabled"', piscina("disabled")],
    ["tinypool with useAtomics: false", tinypool(false)]
  ] as const) {
    it.live(`of ${name}, what a task has left there goes on`, () =>
      runs(
        Effect.gen(function* () {
          const pool = yield* Scope.make()
          const run = yield* Scope.provide(poolOf(make), pool)
          const first = yield* run({ _tag: "Serve" })
          // No task runs now.
          for (let i = 0; i < 3; i++) assert.strictEqual(yield* talkTo(first), "thread")
          yield* run({ _tag: "Stop" })
          assert.deepStrictEqual(
            (yield* Applications.list).map(({ name }) => name),
            ["here"]
          )

          const second = yield* run({ _tag: "Serve" })
          const open = yield* Application.connect(Endpoint.tcp("127.0.0.1", second))
          yield* open.write(Uint8Array.of(7))
          assert.deepStrictEqual(Array.from(yield* open.read), [7])
          // A task of the same thread beside it.
          const here = yield* Application.listen(anyPort)
          yield* Effect.forkScoped(here.run(echo))
          assert.strictEqual(yield* run({ _tag: "Talk", port: here.address.port }), "thread")
          assert.strictEqual(yield* talkTo(second), "thread")

          // The pool goes, and its threads with it.
          yield* Scope.close(pool, Exit.void)
          assert.deepStrictEqual(yield* drain(open), { how: "PeerDied", bytes: 0, received: 1 })
          assert.strictEqual((yield* CutThroughHost.CutThroughHost).stats().lost, 1)
        })
      )
    )
  }
})
