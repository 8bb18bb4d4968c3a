/** The warehouse: what there is, and the RPC service that gives it out. */
import { Context, Effect, Layer, Ref, Schema } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcServer from "effect/rpc/RpcServer"

export class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", { left: Schema.Finite }) {}

const amountOf = { item: Schema.String, amount: Schema.Finite }

export class Rpcs extends RpcGroup.make(
  Rpc.make("reserve", { payload: amountOf, success: Schema.Finite, error: SoldOut }),
  Rpc.make("giveBack", { payload: amountOf, success: Schema.Finite }),
  Rpc.make("left", { payload: { item: Schema.String }, success: Schema.Finite })
) {}

export class Stock extends Context.Service<Stock, Ref.Ref<ReadonlyMap<string, number>>>()("example/Stock") {
  static readonly layer = (stock: { readonly [item: string]: number }): Layer.Layer<Stock> =>
    Layer.effect(Stock, Ref.make<ReadonlyMap<string, number>>(new Map(Object.entries(stock))))
}

const handlers = Rpcs.toLayer(
  Effect.gen(function* () {
    const stock = yield* Stock
    const leftOf = (all: ReadonlyMap<string, number>, item: string) => all.get(item) ?? 0
    return {
      reserve: ({ amount, item }) =>
        Effect.flatten(
          Ref.modify(stock, (all): [Effect.Effect<number, SoldOut>, ReadonlyMap<string, number>] => {
            const left = leftOf(all, item) - amount
            if (left < 0) return [Effect.fail(new SoldOut({ left: leftOf(all, item) })), all]
            return [Effect.succeed(left), new Map(all).set(item, left)]
          })
        ),
      giveBack: ({ amount, item }) =>
        Ref.modify(stock, (all) => {
          const left = leftOf(all, item) + amount
          return [left, new Map(all).set(item, left)]
        }),
      left: ({ item }) => Effect.map(Ref.get(stock), (all) => leftOf(all, item))
    }
  })
)

/** The service, by whatever protocol it is given. */
export const layer: Layer.Layer<never, never, RpcServer.Protocol | Stock> = Layer.provide(
  RpcServer.layer(Rpcs),
  handlers
)
