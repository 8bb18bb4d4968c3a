/** The warehouse: what there is, and the RPC service that gives it out. */
import { Context, Effect, Layer, Ref, Schema } from "effect"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcServer from "effect/rpc/RpcServer"

export class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", { left: Schema.Finite }) {}

const order = Schema.Finite

export class Rpcs extends RpcGroup.make(
  // Who does not know whether it was heard may ask again: an order is reserved once.
  Rpc.make("reserve", { payload: { order, item: Schema.String, amount: Schema.Finite }, error: SoldOut }),
  Rpc.make("giveBack", { payload: { order } }),
  Rpc.make("left", { payload: { item: Schema.String }, success: Schema.Finite })
) {}

interface Contents {
  readonly stock: ReadonlyMap<string, number>
  /** By order. */
  readonly reserved: ReadonlyMap<number, { readonly item: string; readonly amount: number }>
}

/** What is in the warehouse. */
export class Shelves extends Context.Service<Shelves, Ref.Ref<Contents>>()("example/Shelves") {
  static readonly layer = (stock: { readonly [item: string]: number }): Layer.Layer<Shelves> =>
    Layer.effect(Shelves, Ref.make<Contents>({ stock: new Map(Object.entries(stock)), reserved: new Map() }))
}

const leftOf = ({ reserved, stock }: Contents, item: string): number => {
  let left = stock.get(item) ?? 0
  for (const one of reserved.values()) if (one.item === item) left -= one.amount
  return left
}

const handlers = Rpcs.toLayer(
  Effect.gen(function* () {
    const shelves = yield* Shelves
    return {
      reserve: ({ amount, item, order }) =>
        Effect.flatten(
          Ref.modify(shelves, (all): [Effect.Effect<void, SoldOut>, Contents] => {
            if (all.reserved.has(order)) return [Effect.void, all]
            const left = leftOf(all, item)
            if (amount > left) return [Effect.fail(new SoldOut({ left })), all]
            return [Effect.void, { ...all, reserved: new Map(all.reserved).set(order, { item, amount }) }]
          })
        ),
      giveBack: ({ order }) =>
        Ref.update(shelves, (all) => {
          const reserved = new Map(all.reserved)
          reserved.delete(order)
          return { ...all, reserved }
        }),
      left: ({ item }) => Effect.map(Ref.get(shelves), (all) => leftOf(all, item))
    }
  })
)

/** The service, by whatever protocol it is given. */
export const layer: Layer.Layer<never, never, RpcServer.Protocol | Shelves> = Layer.provide(
  RpcServer.layer(Rpcs),
  handlers
)
