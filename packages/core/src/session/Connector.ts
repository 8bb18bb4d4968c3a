/**
 * Starting connects: by the first transport that leads to the endpoint.
 *
 * @since 0.1.0
 */
import * as Endpoint from "../Endpoint.ts"
import type * as HandleTable from "../runtime/HandleTable.ts"
import * as SessionError from "../SessionError.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { Request } from "./HalfOpen.ts"
import type { SessionLayer } from "./SessionLayer.ts"

/**
 * Starts a connect and returns the handle of its half-open: `request` is
 * answered exactly once, maybe before this returns. Or returns why there is
 * none, and then `request` is not answered.
 *
 * @category operations
 * @since 0.1.0
 */
export const connect = (
  layer: SessionLayer["Service"],
  client: AppWorker,
  endpoint: Endpoint.Endpoint,
  request: Request
): HandleTable.Handle | SessionError.Reason => {
  const started = start(layer, client, endpoint, request)
  if (typeof started !== "number") {
    layer.counters.connects++
    layer.counters.failed.set(started._tag, (layer.counters.failed.get(started._tag) ?? 0) + 1)
  }
  return started
}

const start = (
  layer: SessionLayer["Service"],
  client: AppWorker,
  endpoint: Endpoint.Endpoint,
  request: Request
): HandleTable.Handle | SessionError.Reason => {
  if (client.app.isDetached) return new SessionError.Closed({ what: "application" })
  if (Endpoint.isUnspecified(endpoint) || endpoint.port === 0) {
    return new SessionError.InvalidArgument({
      what: "the endpoint to connect to",
      value: Endpoint.format(endpoint),
      expected: "a specific address and a port from 1 to 65535"
    })
  }
  for (const transport of layer.transports) {
    const started = transport.connect(client, endpoint, request)
    // Nobody here: the peer is elsewhere, if another transport leads there.
    if (typeof started === "number" || started._tag !== "LocalConnect") return started
  }
  return new SessionError.NoRoute({ endpoint: Endpoint.format(endpoint) })
}

/**
 * Gives up a connect that has no answer yet: it gets none. Does nothing when it
 * has one.
 *
 * @category operations
 * @since 0.1.0
 */
export const cancel = (layer: SessionLayer["Service"], halfOpen: HandleTable.Handle): void => {
  const error = SessionError.make(new SessionError.Closed({ what: "connect" }))
  layer.connections.getHalfOpen(halfOpen)?.transport.cancel(halfOpen, error)
}
