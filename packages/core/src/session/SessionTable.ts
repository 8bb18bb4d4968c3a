/**
 * Which listener answers for an endpoint.
 *
 * @since 0.1.0
 */
import * as Equal from "effect/Equal"
import * as Endpoint from "../Endpoint.ts"
import type { AppListener } from "./AppListener.ts"

const EPHEMERAL_FIRST = 49152
const EPHEMERAL_LAST = 65535

/**
 * Listeners by endpoint. A lookup finds the listener of exactly the endpoint,
 * else the one that listens on every address of the same family and port.
 *
 * @category models
 * @since 0.1.0
 */
export class SessionTable {
  private readonly ports = new Map<number, Array<AppListener>>()
  private nextEphemeral = EPHEMERAL_FIRST

  /** Adds a listener; false when its endpoint is taken. */
  add(listener: AppListener): boolean {
    if (this.exact(listener.endpoint) !== undefined) return false
    const { port } = listener.endpoint
    const listeners = this.ports.get(port)
    if (listeners === undefined) this.ports.set(port, [listener])
    else listeners.push(listener)
    return true
  }

  /** Removes a listener. */
  remove(listener: AppListener): void {
    const { port } = listener.endpoint
    const left = (this.ports.get(port) ?? []).filter((other) => other !== listener)
    if (left.length === 0) this.ports.delete(port)
    else this.ports.set(port, left)
  }

  /** The listener that a connect to this endpoint reaches. */
  lookup(remote: Endpoint.Endpoint): AppListener | undefined {
    return this.exact(remote) ?? this.exact(Endpoint.unspecified(remote))
  }

  /** All listeners. */
  *[Symbol.iterator](): IterableIterator<AppListener> {
    for (const listeners of this.ports.values()) yield* listeners
  }

  /** A port of the dynamic range (RFC 6335: 49152 to 65535) that no listener has, or 0 when all are taken. */
  freePort(): number {
    for (let tries = EPHEMERAL_FIRST; tries <= EPHEMERAL_LAST; tries++) {
      const port = this.ephemeralPort()
      if (!this.ports.has(port)) return port
    }
    return 0
  }

  /** The next port of the dynamic range, for the client side of a connection. */
  ephemeralPort(): number {
    const port = this.nextEphemeral
    this.nextEphemeral = port === EPHEMERAL_LAST ? EPHEMERAL_FIRST : port + 1
    return port
  }

  private exact(endpoint: Endpoint.Endpoint): AppListener | undefined {
    const listeners = this.ports.get(endpoint.port)
    if (listeners === undefined) return undefined
    for (const listener of listeners) {
      if (Equal.equals(listener.endpoint, endpoint)) return listener
    }
    return undefined
  }
}
