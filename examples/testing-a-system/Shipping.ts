/** The worker that takes orders from the queue, one after the other, and has the warehouse give out what they are about. */
import { Context, Effect, Layer } from "effect"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import { Orders, type Order } from "./Orders.ts"
import { Rpcs } from "./Warehouse.ts"

/** What the worker needs of the warehouse. */
export class Warehouse extends Context.Service<Warehouse, RpcClient.FromGroup<typeof Rpcs, RpcClientError>>()(
  "example/Warehouse"
) {
  static readonly layer: Layer.Layer<Warehouse, never, RpcClient.Protocol> = Layer.effect(
    Warehouse,
    RpcClient.make(Rpcs)
  )
}

/** Ships one order, or finds that there is not enough of it. */
export const ship = ({ amount, id, item }: Order) =>
  Effect.gen(function* () {
    const orders = yield* Orders
    const warehouse = yield* Warehouse
    const isReserved = yield* warehouse.reserve({ order: id, item, amount }).pipe(
      Effect.as(true),
      Effect.catchTag("SoldOut", () => Effect.as(orders.decide(id, "sold out"), false))
    )
    // It may have been cancelled while the warehouse was asked.
    if (isReserved && !(yield* orders.decide(id, "shipped"))) yield* warehouse.giveBack({ order: id })
  })

/** The worker, with its way to ship an order. */
export const layerWith = <E, R>(
  ship: (order: Order) => Effect.Effect<void, E, R>
): Layer.Layer<never, never, Exclude<R, never> | Orders> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const orders = yield* Orders
      const one = Effect.flatMap(orders.next, (order) =>
        // The warehouse may be out of reach for a while.
        Effect.catchCause(ship(order), () => Effect.andThen(Effect.sleep("1 second"), orders.again(order)))
      )
      yield* Effect.forkScoped(Effect.forever(one))
    })
  )

export const layer: Layer.Layer<never, never, Orders | Warehouse> = layerWith(ship)
