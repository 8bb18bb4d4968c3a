import { Application, Applications, CutThrough, Sessions } from "@cut-through/core"
import * as SessionConfig from "@cut-through/core/session/SessionConfig"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Duration, Effect, Layer, Redacted } from "effect"
import { reasonOf } from "./fixtures.ts"

const env = (env: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromEnv({ env }))

/** `CutThrough.layerConfig`, checked for leaks like `Leaks.layerTest`. */
const fromEnv = (variables: Record<string, string>) =>
  Layer.fresh(Leaks.layerCheck.pipe(Layer.provideMerge(CutThrough.layerConfig))).pipe(Layer.provide(env(variables)))

const errorOf = (variables: Record<string, string>) => Effect.flip(Effect.scoped(Layer.build(fromEnv(variables))))

describe("configuration", () => {
  it.effect("without any of it, is that of CutThrough.layer under the name default", () =>
    Effect.gen(function* () {
      const apps = (layer: typeof CutThrough.layerConfig) => Effect.provide(Applications.list, Layer.fresh(layer))
      assert.deepStrictEqual(
        yield* apps(CutThrough.layerConfig).pipe(Effect.provide(env({}))),
        yield* apps(CutThrough.layer)
      )
      assert.strictEqual((yield* apps(Layer.provide(CutThrough.layerConfig, env({}))))[0].name, "default")
    })
  )

  it.effect("has a key for everything", () => {
    const layer = fromEnv({
      CUT_THROUGH_WORKERS: "3",
      CUT_THROUGH_NAME: "mailer",
      CUT_THROUGH_NAMESPACE: "mail",
      CUT_THROUGH_NAMESPACE_SECRET: "correct horse",
      CUT_THROUGH_SCOPE: "local",
      CUT_THROUGH_APP_WORKERS: "2",
      CUT_THROUGH_RX_FIFO_SIZE: "64 KiB",
      CUT_THROUGH_TX_FIFO_SIZE: "32768",
      CUT_THROUGH_SEGMENT_SIZE: "1.5 MiB",
      CUT_THROUGH_SEGMENT_LINGER: "10 seconds",
      CUT_THROUGH_MAX_FIFO_MEMORY: "1 GB",
      CUT_THROUGH_MAX_SESSIONS: "100",
      CUT_THROUGH_MAX_HALF_OPENS: "10",
      CUT_THROUGH_MAX_PENDING: "1000"
    })
    return Effect.gen(function* () {
      assert.strictEqual((yield* SessionLayer.SessionLayer).workers.length, 1 + 3)
      assert.deepStrictEqual(yield* Applications.list, [
        {
          name: "mailer",
          index: 0,
          namespace: "mail",
          scope: "local",
          thread: undefined,
          workers: 2,
          listeners: 0,
          sessions: 0,
          halfOpens: 0,
          fifoMemory: 0,
          unaccepted: 0,
          unread: 0,
          quotas: { maxFifoMemory: 1e9, maxSessions: 100, maxHalfOpens: 10, maxPending: 1000 },
          rxFifoSize: 65536,
          txFifoSize: 32768,
          segmentSize: 1.5 * 1024 * 1024,
          segmentLinger: Duration.seconds(10)
        }
      ])
      // The namespace was made, with the secret.
      const attach = (namespaceSecret: string) =>
        Effect.exit(Effect.scoped(Application.make({ name: "other", namespace: "mail", namespaceSecret })))
      assert.strictEqual(reasonOf(yield* attach("correct house")), "WrongNamespaceSecret")
      assert.strictEqual(reasonOf(yield* attach("correct horse")), "success")
    }).pipe(Effect.provide(layer))
  })

  it.effect("comes from any provider, and a variable that is empty is none", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromUnknown({ CUT_THROUGH: { NAME: "json", RX_FIFO_SIZE: 65536, SCOPE: "" } })
      const json = Config.nested(SessionConfig.attachOptions, SessionConfig.PREFIX)
      const options = yield* json.parse(provider)
      assert.deepInclude(options, { name: "json", rxFifoSize: 65536, scope: undefined, maxSessions: undefined })
    })
  )

  it.effect("keeps the secret to itself", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromEnv({ env: { NAMESPACE_SECRET: "correct horse" } })
      const { namespaceSecret } = yield* SessionConfig.attachOptions.parse(provider)
      assert.isTrue(Redacted.isRedacted(namespaceSecret))
      assert.strictEqual(String(namespaceSecret), "<redacted>")
      const error = yield* errorOf({
        CUT_THROUGH_NAMESPACE: "default",
        CUT_THROUGH_NAMESPACE_SECRET: "correct horse",
        CUT_THROUGH_RX_FIFO_SIZE: "1 horse"
      })
      assert.notInclude(error.message, "correct horse")
    })
  )

  it.effect("may be an application's own, beside others of the same program", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromEnv({ env: { A_NAME: "a", A_MAX_SESSIONS: "7", B_NAME: "b" } })
      yield* Effect.gen(function* () {
        yield* Layer.build(Application.layerConfig(Config.nested(SessionConfig.attachOptions, "A")))
        yield* Layer.build(Application.layerConfig(Config.nested(SessionConfig.attachOptions, "B")))
        yield* Layer.build(
          Application.layerConfig({ name: Config.succeed("c"), maxSessions: Config.Int("A_MAX_SESSIONS") })
        )
        assert.deepStrictEqual(
          (yield* Applications.list).map(({ name, quotas }) => [name, quotas.maxSessions]),
          [
            ["a", 7],
            ["b", Infinity],
            ["c", 7]
          ]
        )
      }).pipe(Effect.scoped, Effect.provideService(ConfigProvider.ConfigProvider, provider))
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  describe("a wrong value", () => {
    const size = 'a size of at least 1 byte, such as "64 KiB" or "65536"'
    const fifoSize = 'a size from 1 to 1073741824 bytes, such as "64 KiB" or "65536"'
    const count = "an integer, at least 1"
    const duration = 'a finite duration, at least zero, such as "10 seconds"'
    const values: ReadonlyArray<readonly [key: string, value: string, expected: string]> = [
      ["WORKERS", "-1", "an integer, at least 0"],
      ["SCOPE", "everywhere", '"local", "global" or "both"'],
      ["APP_WORKERS", "0", count],
      ["RX_FIFO_SIZE", "64 Kilo", fifoSize],
      ["RX_FIFO_SIZE", "0", fifoSize],
      ["RX_FIFO_SIZE", "-64 KiB", fifoSize],
      ["TX_FIFO_SIZE", "2 GiB", fifoSize],
      ["TX_FIFO_SIZE", "0.3 B", fifoSize],
      ["SEGMENT_SIZE", "all of it", size],
      ["SEGMENT_SIZE", "1 QiB", size],
      ["SEGMENT_LINGER", "a while", duration],
      ["SEGMENT_LINGER", "Infinity", duration],
      ["SEGMENT_LINGER", "-1 seconds", duration],
      ["MAX_FIFO_MEMORY", "0 KiB", size],
      ["MAX_SESSIONS", "0", count],
      ["MAX_SESSIONS", "1.5", count],
      ["MAX_HALF_OPENS", "1e3", count],
      ["MAX_PENDING", "99999999999999999999", count]
    ]

    for (const [key, value, expected] of values) {
      it.effect(`${key}=${value} is a ConfigError that names all three`, () =>
        Effect.gen(function* () {
          const error = yield* errorOf({ [`CUT_THROUGH_${key}`]: value })
          assert.strictEqual(error._tag, "ConfigError")
          assert.strictEqual(
            error.message,
            `SchemaError(Expected ${expected}, got "${value}"\n  at ["CUT_THROUGH"]["${key}"])`
          )
        })
      )
    }

    it.effect("a pair too large for its segment is a SessionError, as without configuration", () =>
      Effect.gen(function* () {
        const error = yield* errorOf({
          CUT_THROUGH_RX_FIFO_SIZE: "64 KiB",
          CUT_THROUGH_TX_FIFO_SIZE: "64 KiB",
          CUT_THROUGH_SEGMENT_SIZE: "100 KiB"
        })
        assert.strictEqual(error._tag, "SessionError")
        assert.strictEqual(
          error.message,
          "segmentSize is 102400: expected at least 131072 bytes, to hold one pair of FIFOs"
        )
      })
    )

    it.effect("and so are a quota without room for one pair, and a namespace that nobody has made", () =>
      Effect.gen(function* () {
        const error = yield* errorOf({ CUT_THROUGH_MAX_FIFO_MEMORY: "64 KiB" })
        assert.strictEqual(
          error.message,
          "maxFifoMemory is 65536: expected at least 1048576 bytes, for one pair of FIFOs"
        )
        const unknown = yield* Application.layerConfig().pipe(
          Layer.provide(env({ CUT_THROUGH_NAMESPACE: "nowhere" })),
          Layer.build,
          Effect.scoped,
          Effect.flip
        )
        assert.strictEqual(unknown.message, 'there is no namespace "nowhere": add it first, with Sessions.addNamespace')
        assert.strictEqual((yield* Sessions.list).length, 0)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it("is in the types: one error or the other", () => {
      const application: Layer.Layer<
        Application.Application,
        Config.ConfigError | Layer.Error<typeof CutThrough.layer>,
        SessionLayer.SessionLayer
      > = Application.layerConfig()
      const sessions: Layer.Layer<
        SessionLayer.SessionLayer,
        Config.ConfigError | Layer.Error<typeof CutThrough.layer>
      > = SessionLayer.layerConfig()
      assert.isTrue(Layer.isLayer(application) && Layer.isLayer(sessions))
    })
  })
})
