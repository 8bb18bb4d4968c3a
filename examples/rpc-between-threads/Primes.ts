/**
 * What the two threads agree on: the calls, and where they are answered.
 */
import { CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { Layer, Schema } from "effect"
import { Rpc, RpcClient, RpcGroup, RpcSerialization, RpcServer } from "effect/rpc"

export class TooSmall extends Schema.TaggedError<TooSmall>()("TooSmall", { n: Schema.Finite }) {}

export class Primes extends RpcGroup.make(
  Rpc.make("SmallestFactor", { payload: { of: Schema.Finite }, success: Schema.Finite, error: TooSmall }),
  // As many as the client takes.
  Rpc.make("From", { payload: { start: Schema.Finite }, success: Schema.Finite, stream: true })
) {}

const where = "tcp://127.0.0.1:7100"

/** For the thread that answers. */
export const layerServerProtocol = RpcServer.layerProtocolSocketServer.pipe(
  Layer.provide(CutThroughSocketServer.layer(where)),
  Layer.provide(RpcSerialization.layerSchemaBinary())
)

/** For the thread that calls. It may be there first. */
export const layerClientProtocol = RpcClient.layerProtocolSocket({ retryTransientErrors: true }).pipe(
  Layer.provide(CutThroughSocket.layer(where)),
  Layer.provide(RpcSerialization.layerSchemaBinary())
)
