/**
 * What a session layer and its applications read from the configuration: from
 * environment variables, unless the program has another `ConfigProvider`.
 *
 * Everything is optional, and what is left out is as it is without
 * configuration; the application's name is `default` then. Under `CUT_THROUGH`,
 * as in `CUT_THROUGH_RX_FIFO_SIZE`:
 *
 * | key                                                     | value                              |
 * | ------------------------------------------------------- | ---------------------------------- |
 * | `WORKERS`                                               | workers of the session layer       |
 * | `NAME`                                                  | what listings call the application |
 * | `NAMESPACE`, `NAMESPACE_SECRET`                         | where it lives, and what opens it  |
 * | `SCOPE`                                                 | `local`, `global` or `both`        |
 * | `APP_WORKERS`                                           | workers of the application         |
 * | `RX_FIFO_SIZE`, `TX_FIFO_SIZE`, `SEGMENT_SIZE`          | sizes: `65536`, `64 KiB`           |
 * | `SEGMENT_LINGER`                                        | a duration: `10 seconds`           |
 * | `MAX_FIFO_MEMORY`                                       | a size                             |
 * | `MAX_SESSIONS`, `MAX_HALF_OPENS`, `MAX_PENDING`         | counts                             |
 *
 * A value that is none is a `ConfigError` that names the key, the value and
 * what is expected. Values that do not go together (a segment too small for a
 * pair of FIFOs) are a `SessionError`, as they are without configuration.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { MAX_FIFO_BYTES } from "../memory/Fifo.ts"
import type { AttachOptions } from "./SessionLayer.ts"

/**
 * What all keys are nested under.
 *
 * @category constants
 * @since 0.1.0
 */
export const PREFIX = "CUT_THROUGH"

/**
 * A text that means a value, or is an error that shows the text: by itself
 * `Config` keeps values to itself, because they may be secrets.
 */
const fromText = <A, I>(
  schema: Schema.Codec<A, I>,
  expected: string,
  decode: (text: string) => I | undefined
): Schema.Codec<A, string> =>
  Schema.String.pipe(
    Schema.decodeTo(
      schema,
      SchemaTransformation.transformEffect({
        decode: (text: string) => {
          const value = decode(text)
          return value === undefined
            ? Effect.fail(new SchemaIssue.InvalidValue({ expected }, text, { reportInput: true }))
            : Effect.succeed(value)
        },
        encode: (value: I) => Effect.succeed(String(value))
      })
    )
  )

const parseSize = (text: string): number | undefined =>
  /^\s*\d+\s*$/.test(text) ? Number(text) : Option.getOrUndefined(Option.map(ByteSize.fromString(text), Number))

const size = (most: number, expected: string) =>
  fromText(Schema.Number, `${expected}, such as "64 KiB" or "65536"`, (text) => {
    const bytes = parseSize(text)
    return bytes !== undefined && bytes >= 1 && bytes <= most ? bytes : undefined
  })

const fifoSize = size(MAX_FIFO_BYTES, `a size from 1 to ${MAX_FIFO_BYTES} bytes`)

const anySize = size(Number.MAX_SAFE_INTEGER, "a size of at least 1 byte")

const count = (least: number) =>
  fromText(Schema.Number, `an integer, at least ${least}`, (text) => {
    const value = /^\s*\d+\s*$/.test(text) ? Number(text) : -1
    return value >= least && Number.isSafeInteger(value) ? value : undefined
  })

const scopes = ["local", "global", "both"] as const

const scope = fromText(Schema.Literals(scopes), '"local", "global" or "both"', (text) =>
  scopes.find((scope) => scope === text)
)

const linger = fromText(Schema.Duration, 'a finite duration, at least zero, such as "10 seconds"', (text) => {
  const duration = Option.getOrUndefined(Duration.fromInput(text as Duration.Input))
  return duration !== undefined && Duration.isFinite(duration) && Duration.toMillis(duration) >= 0
    ? duration
    : undefined
})

const optional = <A>(schema: Schema.Codec<A, string>, key: string): Config.Config<A | undefined> =>
  Config.withDefault(Config.schema(schema, key), undefined)

/**
 * The options of a session layer: `WORKERS`.
 *
 * @category config
 * @since 0.1.0
 */
export const layerOptions: Config.Config<{ readonly workers: number | undefined }> = Config.all({
  workers: optional(count(0), "WORKERS")
})

/**
 * The options of an application, by the keys above without `CUT_THROUGH`: nested
 * under another prefix, they are those of another application.
 *
 * **Example** (Several applications of one program)
 *
 * ```ts
 * import * as SessionConfig from "@cut-through/core/session/SessionConfig"
 * import { Config, ConfigProvider, Effect } from "effect"
 *
 * const env = { PAYMENTS_NAME: "payments", PAYMENTS_RX_FIFO_SIZE: "64 KiB" }
 * const payments = Config.nested(SessionConfig.attachOptions, "PAYMENTS")
 *
 * const options = await Effect.runPromise(payments.parse(ConfigProvider.fromEnv({ env })))
 * options.name // => "payments"
 * options.rxFifoSize // => 65536
 * options.txFifoSize // => undefined
 * ```
 *
 * @category config
 * @since 0.1.0
 */
export const attachOptions: Config.Config<AttachOptions> = Config.all({
  name: Config.withDefault(Config.String("NAME"), "default"),
  namespace: Config.withDefault(Config.String("NAMESPACE"), undefined),
  namespaceSecret: Config.withDefault(Config.Redacted("NAMESPACE_SECRET"), undefined),
  scope: optional(scope, "SCOPE"),
  workers: optional(count(1), "APP_WORKERS"),
  rxFifoSize: optional(fifoSize, "RX_FIFO_SIZE"),
  txFifoSize: optional(fifoSize, "TX_FIFO_SIZE"),
  segmentSize: optional(anySize, "SEGMENT_SIZE"),
  segmentLinger: optional(linger, "SEGMENT_LINGER"),
  maxFifoMemory: optional(anySize, "MAX_FIFO_MEMORY"),
  maxSessions: optional(count(1), "MAX_SESSIONS"),
  maxHalfOpens: optional(count(1), "MAX_HALF_OPENS"),
  maxPending: optional(count(1), "MAX_PENDING")
})
