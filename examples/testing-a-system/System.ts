/** The system: which parts there are, and what each of them needs to reach the others. */
import { Layer } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as Orders from "./Orders.ts"
import * as Shipping from "./Shipping.ts"
import * as Warehouse from "./Warehouse.ts"

/** The HTTP API. Needs an `HttpServer`, and orders. */
export const api = HttpRouter.serve(Layer.provide(HttpApiBuilder.layer(Orders.Api), Orders.handlers), {
  disableLogger: true,
  disableListenLog: true
})

/** The warehouse. Needs a `SocketServer`. */
export const warehouse = (stock: { readonly [item: string]: number }) =>
  Warehouse.layer.pipe(
    Layer.provide(Warehouse.Shelves.layer(stock)),
    Layer.provide(RpcServer.layerProtocolSocketServer),
    Layer.provide(RpcSerialization.layerNdjson)
  )

/** How the warehouse is reached. Needs a `Socket`. */
export const warehouseClient = Shipping.Warehouse.layer.pipe(
  Layer.provide(RpcClient.layerProtocolSocket()),
  Layer.provide(RpcSerialization.layerNdjson)
)

/** The worker. Needs orders, and the warehouse. */
export const shipping = Shipping.layer
