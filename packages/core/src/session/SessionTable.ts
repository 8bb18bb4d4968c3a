/**
 * Which listener answers for an endpoint, and which ports are free.
 *
 * @since 0.1.0
 */
import * as Endpoint from "../Endpoint.ts"
import type { AppListener } from "./AppListener.ts"

/**
 * Listeners by endpoint, and the proxies that take what no listener takes.
 *
 * @category models
 * @since 0.1.0
 */
export class SessionTable {
  private readonly ports = new Map<number, Array<AppListener>>()
  private readonly proxies = new Map<Endpoint.Endpoint["_tag"], AppListener>()

  /** Adds a listener; false when its place is taken. */
  add(listener: AppListener): boolean {
    if (this.find(listener.endpoint, listener.isProxy) !== undefined) return false
    if (listener.isProxy) {
      this.proxies.set(listener.endpoint._tag, listener)
      return true
    }
    const { port } = listener.endpoint
    const listeners = this.ports.get(port)
    if (listeners === undefined) this.ports.set(port, [listener])
    else listeners.push(listener)
    return true
  }

  /** Removes a listener; does nothing when it is not there. */
  remove(listener: AppListener): void {
    if (listener.isProxy) {
      if (this.proxies.get(listener.endpoint._tag) === listener) this.proxies.delete(listener.endpoint._tag)
      return
    }
    const { port } = listener.endpoint
    const left = (this.ports.get(port) ?? []).filter((other) => other !== listener)
    if (left.length === 0) this.ports.delete(port)
    else this.ports.set(port, left)
  }

  /** The listener that has exactly this place. */
  find(endpoint: Endpoint.Endpoint, isProxy: boolean): AppListener | undefined {
    return isProxy ? this.proxies.get(endpoint._tag) : this.exact(endpoint)
  }

  /**
   * The listener that a connect to this endpoint reaches among those of one
   * namespace: the one of exactly this endpoint; for a loopback address the one
   * that listens on every address; else the proxy.
   */
  lookupLocal(remote: Endpoint.Endpoint): AppListener | undefined {
    return (
      this.exact(remote) ??
      (Endpoint.isLoopback(remote) ? this.exact(Endpoint.unspecified(remote)) : undefined) ??
      this.proxies.get(remote._tag)
    )
  }

  /**
   * The listener that a connect to this endpoint reaches among those of all
   * namespaces: the one of exactly this endpoint, else the one that listens on
   * every address, else the proxy.
   */
  lookupGlobal(remote: Endpoint.Endpoint): AppListener | undefined {
    return this.exact(remote) ?? this.exact(Endpoint.unspecified(remote)) ?? this.proxies.get(remote._tag)
  }

  /** All listeners. */
  *[Symbol.iterator](): IterableIterator<AppListener> {
    for (const listeners of this.ports.values()) yield* listeners
    yield* this.proxies.values()
  }

  /** Whether no listener has the port. */
  isFree(port: number): boolean {
    return !this.ports.has(port)
  }

  private exact(endpoint: Endpoint.Endpoint): AppListener | undefined {
    const listeners = this.ports.get(endpoint.port)
    if (listeners === undefined) return undefined
    for (const listener of listeners) {
      if (Endpoint.isSame(listener.endpoint, endpoint)) return listener
    }
    return undefined
  }
}

const EPHEMERAL_FIRST = 49152
const EPHEMERAL_LAST = 65535

/**
 * The ports of the dynamic range (RFC 6335: 49152 to 65535), in turn.
 *
 * @category models
 * @since 0.1.0
 */
export class EphemeralPorts {
  private next = EPHEMERAL_FIRST

  /** The next one, for the client side of a connection. */
  take(): number {
    const port = this.next
    this.next = port === EPHEMERAL_LAST ? EPHEMERAL_FIRST : port + 1
    return port
  }

  /** The next one that is free in all tables, or 0 when none is. */
  takeFree(tables: ReadonlyArray<SessionTable>): number {
    for (let tries = EPHEMERAL_FIRST; tries <= EPHEMERAL_LAST; tries++) {
      const port = this.take()
      if (tables.every((table) => table.isFree(port))) return port
    }
    return 0
  }
}
