import { Application, Applications, Endpoint } from "@cut-through/core"
import { CopyBytes } from "@cut-through/core/memory/SharedMemory"
import { CutThroughNode, NativeCopy } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer } from "effect"

const endpoint = Endpoint.tcp("127.0.0.1", 7000)

describe("CutThroughNode", () => {
  it.effect("copies natively", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* CopyBytes, NativeCopy.copy)
    }).pipe(Effect.provide(CutThroughNode.layerCopy))
  )

  it.effect("takes its options from the configuration", () =>
    Effect.gen(function* () {
      const [{ name, quotas }] = yield* Applications.list
      assert.deepStrictEqual([name, quotas.maxSessions], ["mailer", 2])
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual(Array.from(yield* server.read), [1, 2, 3])
      const error = yield* Effect.flip(Application.connect(endpoint))
      assert.strictEqual(error.reason._tag, "QuotaExceeded")
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Leaks.layerCheck.pipe(
          Layer.provideMerge(CutThroughNode.layerConfig),
          Layer.provide(
            ConfigProvider.layer(
              ConfigProvider.fromEnv({ env: { CUT_THROUGH_NAME: "mailer", CUT_THROUGH_MAX_SESSIONS: "2" } })
            )
          )
        )
      )
    )
  )
})
