/**
 * A connect that has no answer yet.
 *
 * It starts at the client, migrates to the worker that looks for the listener,
 * and waits there for the server to say yes. Whoever takes it out of its table
 * answers it: that happens exactly once, and its place is used again under
 * another handle, so a late call finds nothing.
 *
 * @since 0.1.0
 */
import * as Endpoint from "../Endpoint.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import type { Waiter } from "../runtime/Wake.ts"
import type { Leases } from "../segment/SegmentContext.ts"
import type * as SessionError from "../SessionError.ts"
import type { AppWorker } from "./AppWorker.ts"
import type { Path, Session } from "./Session.ts"
import type { Transport } from "./Transport.ts"

/**
 * Both addresses of a connection: the dialled one, and a port that the client
 * got. The client's endpoint is made when somebody wants to see it, unless a
 * transport knows it.
 *
 * @category models
 * @since 0.1.0
 */
export class Dial {
  readonly server: Endpoint.Endpoint
  readonly clientPort: number
  /** The way of the bytes behind the session layer, if they go on there. */
  readonly path: Path | undefined
  private made: Endpoint.Endpoint | undefined = undefined

  constructor(server: Endpoint.Endpoint, clientPort: number, path?: Path) {
    this.server = server
    this.clientPort = clientPort
    this.path = path
  }

  get client(): Endpoint.Endpoint {
    return (this.made ??= Endpoint.withPort(this.server, this.clientPort))
  }

  /** What the client is bound to, once a transport knows. */
  set client(endpoint: Endpoint.Endpoint) {
    this.made = endpoint
  }
}

/**
 * Who wants the answer to a connect. Called once, by whoever took the half-open
 * out of its table, who also wakes the one it returns.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  readonly answer: (result: Session | SessionError.SessionError) => Waiter | undefined
}

/**
 * A connect that has no answer yet.
 *
 * @category models
 * @since 0.1.0
 */
export class HalfOpen {
  handle: HandleTable.Handle = HandleTable.NONE
  readonly client: AppWorker
  readonly transport: Transport
  readonly dial: Dial
  readonly listener: HandleTable.Handle
  readonly request: Request
  /** The worker it has migrated to; 0 before. */
  worker = 0
  /** The server's session that has not been accepted yet, and the leases that wait with it. */
  server: Session | undefined = undefined
  leases: Leases | undefined = undefined

  constructor(client: AppWorker, transport: Transport, dial: Dial, listener: HandleTable.Handle, request: Request) {
    this.client = client
    this.transport = transport
    this.dial = dial
    this.listener = listener
    this.request = request
  }

  get local(): Endpoint.Endpoint {
    return this.dial.client
  }

  get remote(): Endpoint.Endpoint {
    return this.dial.server
  }
}
