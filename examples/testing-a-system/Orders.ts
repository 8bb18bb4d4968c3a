/** The shop: orders, and the HTTP API that they come in by. */
import { Context, Effect, Layer, Option, Queue, Ref, Schema } from "effect"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiError, HttpApiGroup } from "effect/http-api"

export const Status = Schema.Literals(["waiting", "shipped", "sold out", "cancelled"])
export type Status = typeof Status.Type

export const Order = Schema.Struct({
  id: Schema.Finite,
  item: Schema.String,
  amount: Schema.Finite,
  status: Status
})
export type Order = typeof Order.Type

/** Orders, and the queue of those that nobody has looked at yet. */
export class Orders extends Context.Service<
  Orders,
  {
    readonly place: (item: string, amount: number) => Effect.Effect<Order>
    readonly find: (id: number) => Effect.Effect<Option.Option<Order>>
    readonly all: Effect.Effect<ReadonlyArray<Order>>
    /** Gives an order that waits another status. Returns whether it did: what is decided stays so. */
    readonly decide: (id: number, status: Status) => Effect.Effect<boolean>
    /** The next one that is to be shipped. */
    readonly next: Effect.Effect<Order>
    /** To be looked at again. */
    readonly again: (order: Order) => Effect.Effect<void>
  }
>()("example/Orders") {
  static readonly layer: Layer.Layer<Orders> = Layer.effect(
    Orders,
    Effect.gen(function* () {
      const orders = yield* Ref.make<ReadonlyMap<number, Order>>(new Map())
      const queue = yield* Queue.unbounded<Order>()
      return {
        place: (item, amount) =>
          Effect.gen(function* () {
            const order = yield* Ref.modify(orders, (all) => {
              const placed: Order = { id: all.size + 1, item, amount, status: "waiting" }
              return [placed, new Map(all).set(placed.id, placed)]
            })
            yield* Queue.offer(queue, order)
            return order
          }),
        find: (id) => Effect.map(Ref.get(orders), (all) => Option.fromUndefinedOr(all.get(id))),
        all: Effect.map(Ref.get(orders), (all) => [...all.values()]),
        decide: (id, status) =>
          Ref.modify(orders, (all) => {
            const order = all.get(id)
            if (order?.status !== "waiting") return [false, all]
            return [true, new Map(all).set(id, { ...order, status })]
          }),
        next: Queue.take(queue),
        again: (order) => Effect.asVoid(Queue.offer(queue, order))
      }
    })
  )
}

const id = { id: Schema.FiniteFromString }

export class Api extends HttpApi.make("shop").add(
  HttpApiGroup.make("orders").add(
    HttpApiEndpoint.post("place", "/orders", {
      payload: Schema.Struct({ item: Schema.String, amount: Schema.Finite }),
      success: Order
    }),
    HttpApiEndpoint.get("find", "/orders/:id", { params: id, success: Order, error: HttpApiError.NotFound }),
    HttpApiEndpoint.post("cancel", "/orders/:id/cancel", {
      params: id,
      success: Order,
      error: [HttpApiError.NotFound, HttpApiError.Conflict]
    })
  )
) {}

export const handlers = HttpApiBuilder.group(Api, "orders", (handlers) =>
  Effect.gen(function* () {
    const orders = yield* Orders
    const find = (id: number) =>
      Effect.flatMap(
        orders.find(id),
        Option.match({
          onNone: () => Effect.fail(new HttpApiError.NotFound()),
          onSome: Effect.succeed
        })
      )
    return handlers
      .handle("place", ({ payload }) => orders.place(payload.item, payload.amount))
      .handle("find", ({ params }) => find(params.id))
      .handle("cancel", ({ params }) =>
        Effect.gen(function* () {
          yield* find(params.id)
          if (!(yield* orders.decide(params.id, "cancelled"))) return yield* new HttpApiError.Conflict()
          return yield* find(params.id)
        })
      )
  })
)
