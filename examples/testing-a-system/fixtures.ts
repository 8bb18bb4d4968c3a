/** The system on the hosts of a simulated network, and a worker with a mistake in it. */
import { CutThroughHttp, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
import { TestNetwork } from "@cut-through/testing"
import { Effect, Layer } from "effect"
import { Orders, type Order } from "./Orders.ts"
import * as Shipping from "./Shipping.ts"
import * as System from "./System.ts"

export const STOCK = { tea: 10, coffee: 2 }

/** The shop and the warehouse, and the way between them. */
export const network = (link?: TestNetwork.LinkOptions) =>
  TestNetwork.layer({
    hosts: { shop: "10.0.0.1", warehouse: { addresses: ["10.0.0.2"], names: ["warehouse.internal"] } },
    link
  })

const rpc = { host: "warehouse.internal", port: 7090 }

const warehouse = System.warehouse(STOCK).pipe(
  Layer.provide(CutThroughSocketServer.layer({ host: "0.0.0.0", port: rpc.port })),
  Layer.provide(TestNetwork.host("warehouse"))
)

const warehouseClient = System.warehouseClient.pipe(
  Layer.provide(CutThroughSocket.layer(rpc)),
  Layer.provide(TestNetwork.host("shop"))
)

/** Everything but HTTP. */
export const withWorker = <E>(worker: Layer.Layer<never, E, Orders | Shipping.Warehouse> = System.shipping) =>
  worker.pipe(
    Layer.provideMerge(Layer.mergeAll(Orders.layer, warehouseClient)),
    // Whoever is closed last is who was needed first.
    Layer.provideMerge(warehouse)
  )

/** All of it, with an HTTP client that goes to the API. */
export const system = System.api.pipe(
  Layer.provideMerge(Layer.provide(CutThroughHttp.layerTestNoDeps, TestNetwork.host("shop"))),
  Layer.provideMerge(withWorker())
)

/** Forgets that an order can be cancelled between the first look at it and the last one. */
export const shipTooLate = ({ amount, id, item }: Order) =>
  Effect.gen(function* () {
    const orders = yield* Orders
    const warehouse = yield* Shipping.Warehouse
    const order = yield* Effect.flatMap(orders.find(id), Effect.fromOption)
    if (order.status !== "waiting") return
    const status = yield* warehouse.reserve({ order: id, item, amount }).pipe(
      Effect.as("shipped" as const),
      Effect.catchTag("SoldOut", () => Effect.succeed("sold out" as const))
    )
    yield* orders.decide(id, status)
  })
