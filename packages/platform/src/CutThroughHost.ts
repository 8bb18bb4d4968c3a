/**
 * Lets applications in other threads attach to the session layer of this one.
 *
 * `CutThroughNode.layer` and `CutThroughNode.layerSessions` contain it: whoever
 * uses those needs this module only to look at the guests, to give hosts names,
 * or to attach a thread over a port of its own.
 *
 * @since 0.1.0
 */
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { MessagePort, setEnvironmentData, threadId } from "node:worker_threads"
import * as Host from "./thread/Host.ts"
import * as Protocol from "./thread/Protocol.ts"

/**
 * The guests of a session layer.
 *
 * @category services
 * @since 0.1.0
 */
export class CutThroughHost extends Context.Service<CutThroughHost, Host.Host>()(
  "@cut-through/platform/CutThroughHost"
) {}

/**
 * The name of the host that a guest looks for unless it is told another one.
 *
 * @category constants
 * @since 0.1.0
 */
export const DEFAULT_NAME = "default"

/** The hosts of this thread by name, the newest last: it is the one that is called. */
const hosts = new Map<string, Array<Host.Host>>()

/**
 * The host of this name in this thread, if there is one.
 *
 * @category operations
 * @since 0.1.0
 */
export const get = (name: string): Host.Host | undefined => hosts.get(name)?.at(-1)

/** What `postMessageToThread` brings: anybody may call, with anything. */
const onWorkerMessage = (message: unknown): void => {
  if (typeof message !== "object" || message === null) return
  const { [Protocol.HOST_KEY]: name, port } = message as Record<string, unknown>
  if (typeof name !== "string" || !(port instanceof MessagePort)) return
  const host = get(name)
  if (host === undefined) port.close()
  else host.accept(port)
}

const register = (name: string, host: Host.Host): void => {
  if (hosts.size === 0) process.on("workerMessage", onWorkerMessage)
  const named = hosts.get(name)
  if (named !== undefined) return void named.push(host)
  hosts.set(name, [host])
  // For the threads that are started from here on, and those that they start.
  setEnvironmentData(`${Protocol.HOST_KEY}/${name}`, threadId)
}

const unregister = (name: string, host: Host.Host): void => {
  const left = (hosts.get(name) ?? []).filter((other) => other !== host)
  if (left.length > 0) return void hosts.set(name, left)
  hosts.delete(name)
  setEnvironmentData(`${Protocol.HOST_KEY}/${name}`, undefined as never)
  if (hosts.size === 0) process.off("workerMessage", onWorkerMessage)
}

/**
 * Accepts guests until the scope closes, under a name (default `"default"`) by
 * which threads of this process find it. Where several hosts of a thread have
 * one name, the newest is found.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (options?: { readonly name?: string | undefined }) {
  const name = options?.name ?? DEFAULT_NAME
  const host = yield* Host.make(yield* SessionLayer)
  yield* Effect.acquireRelease(
    Effect.sync(() => register(name, host)),
    () => Effect.sync(() => unregister(name, host))
  )
  return CutThroughHost.of(host)
})

/**
 * Accepts guests for the session layer in place.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: {
  readonly name?: string | undefined
}): Layer.Layer<CutThroughHost, never, SessionLayer> => Layer.effect(CutThroughHost, make(options))
