/** A group of RPCs with everything that goes over a transport: answers, errors, streams, interrupts. */
import { Deferred, Effect, Schema, Stream } from "effect"
import { Rpc, RpcGroup, RpcSerialization } from "effect/rpc"

export class Unknown extends Schema.TaggedError<Unknown>()("Unknown", { id: Schema.String }) {}

export class Calls extends RpcGroup.make(
  Rpc.make("Echo", { payload: { bytes: Schema.String }, success: Schema.String }),
  Rpc.make("Fail", { payload: { id: Schema.String }, success: Schema.Void, error: Unknown }),
  Rpc.make("Count", { payload: { to: Schema.Number }, success: Schema.Number, stream: true }),
  Rpc.make("Hang", { success: Schema.Void }),
  Rpc.make("Interrupts", { success: Schema.Number })
) {}

/** How far a stream has got that nobody has read to its end. */
export const produced = { most: 0 }

export const handlers = Calls.toLayer(
  Effect.gen(function* () {
    const interrupted = yield* Deferred.make<void>()
    return {
      Echo: ({ bytes }) => Effect.succeed(bytes),
      Fail: ({ id }) => new Unknown({ id }),
      Count: ({ to }) =>
        Stream.tap(Stream.range(1, to), (n) => Effect.sync(() => void (produced.most = Math.max(produced.most, n)))),
      Hang: () => Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined)),
      Interrupts: () => Effect.as(Deferred.await(interrupted), 1)
    }
  })
)

export const serializations = {
  ndjson: RpcSerialization.layerNdjson,
  "schema-binary": RpcSerialization.layerSchemaBinary()
}
