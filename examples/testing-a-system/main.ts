/** The system as it runs in production: two real ports, until Ctrl-C. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { Layer } from "effect"
import { createServer } from "node:http"
import { Orders } from "./Orders.ts"
import * as System from "./System.ts"

const rpc = { host: "127.0.0.1", port: 7090 }

const shop = Layer.merge(
  Layer.provide(System.api, NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 8090 })),
  Layer.provide(System.shipping, Layer.provide(System.warehouseClient, NodeSocket.layerNet(rpc)))
).pipe(Layer.provide(Orders.layer))

const warehouse = Layer.provide(System.warehouse({ tea: 10, coffee: 5 }), NodeSocketServer.layer(rpc))

NodeRuntime.runMain(Layer.launch(Layer.provideMerge(shop, warehouse)))
