/** A thread that applications of a program live in: it does what it is asked to, and knows nothing of what that is for. */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { ConnectionRequest, Listener } from "@cut-through/core/Listener"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import { Poller } from "@cut-through/platform/thread/Poller"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { parentPort, workerData } from "node:worker_threads"
import {
  encodeExit,
  encodeInfo,
  type EncodedInfo,
  type Operation,
  type Order,
  type Report,
  Rest
} from "./programs-wire.ts"

// Most errors are what a program expects: taking their stacks would cost more than all the rest.
Error.stackTraceLimit = 0

const rest = new Rest(workerData)
const port = parentPort!
const say = (report: Report): void => port.postMessage(report)

type Residue = ReturnType<CutThroughWorker.CutThroughWorker["Service"]["residue"]>

const scopes = new Map<number, Scope.Closeable>()
const apps = new Map<number, Application.Application["Service"]>()
const residues = new Map<number, () => Residue>()
const listeners = new Map<number, Listener>()
const requests = new Map<number, ConnectionRequest>()
const connections = new Map<number, Connection>()
const pulls = new Map<number, Effect.Effect<ReadonlyArray<AppEvent>, unknown>>()
const running = new Map<number, Fiber.Fiber<unknown, unknown>>()

/** Does it in a scope that stays. */
const hold = <A, E>(key: number, effect: Effect.Effect<A, E, Scope.Scope>): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const scope = Scope.makeUnsafe()
    scopes.set(key, scope)
    return Scope.provide(effect, scope)
  })

const holdConnection = <E>(key: number, connecting: Effect.Effect<Connection, E, Scope.Scope>) =>
  Effect.map(hold(key, connecting), (connection): EncodedInfo => {
    connections.set(key, connection)
    return encodeInfo(connection)
  })

const attach = ({ key, options, port }: Extract<Operation, { readonly op: "attach" }>) => {
  const attaching = Layer.build(
    CutThroughWorker.layerPort(port, options).pipe(Layer.provide(Layer.succeed(Poller, rest.poller)))
  )
  return hold(key, attaching).pipe(
    // Nobody has it, so nobody else would close the port.
    Effect.onError(() => Scope.close(scopes.get(key)!, Exit.void)),
    Effect.map((services) => {
      const app = Context.get(services, Application.Application)
      apps.set(key, app)
      residues.set(key, Context.get(services, CutThroughWorker.CutThroughWorker).residue)
      return { name: app.name, workers: app.workers.map(({ name }) => name) }
    })
  )
}

const faceOf = (app: number, worker: number | undefined): Application.ApplicationWorker => {
  const face = apps.get(app)!
  return worker === undefined ? face : face.workers[worker]
}

const perform = (it: Operation): Effect.Effect<unknown, unknown> => {
  switch (it.op) {
    case "attach":
      return attach(it)
    case "listen":
      return Effect.map(
        hold(it.key, faceOf(it.app, it.worker).listen(Endpoint.parse(it.endpoint), it.options)),
        (listener) => {
          listeners.set(it.key, listener)
          return { address: Protocol.encodeEndpoint(listener.address), handle: listener.handle }
        }
      )
    case "connect":
      return holdConnection(it.key, faceOf(it.app, it.worker).connect(Endpoint.parse(it.endpoint)))
    case "accept":
      return holdConnection(it.key, listeners.get(it.listener)!.accept)
    case "request":
      return Effect.map(hold(it.key, listeners.get(it.listener)!.request), (request) => {
        requests.set(it.key, request)
        return { local: Protocol.encodeEndpoint(request.local), remote: Protocol.encodeEndpoint(request.remote) }
      })
    case "say yes":
      return holdConnection(it.key, requests.get(it.request)!.accept)
    case "say no":
      return requests.get(it.request)!.refuse
    case "read": {
      const connection = connections.get(it.connection)!
      if (it.length === undefined) return connection.read
      const buffer = new Uint8Array(it.length)
      return Effect.map(connection.readInto(buffer), (count) => buffer.slice(0, count))
    }
    case "write":
      return connections.get(it.connection)!.write(it.bytes)
    case "write all":
      return connections.get(it.connection)!.writeAll(it.chunks)
    case "end":
    case "close":
    case "reset":
      return connections.get(it.connection)![it.op]
    case "subscribe":
      return Effect.map(hold(it.key, Stream.toPull(apps.get(it.app)!.events)), (pull) => void pulls.set(it.key, pull))
    case "pull":
      return Effect.map(pulls.get(it.subscription)!, (events) => events.map(Protocol.encodeEvent))
    case "leave":
      return Scope.close(scopes.get(it.key)!, it.isSuccess ? Exit.void : Exit.fail("broken off"))
  }
}

/** What the applications that have left still hold here. */
const left = (): number => {
  let count = 0
  for (const [key, residue] of residues) {
    if (scopes.get(key)!.state._tag !== "Closed") continue
    // Its listeners are the business of whoever has their scopes.
    const { listeners: _, ...rest } = residue()
    for (const value of Object.values(rest)) count += value
  }
  return count
}

port.on("message", (order: Order) => {
  const { id, say: what } = order
  if (what === "rest") {
    void rest.come().then((activity) => {
      const infos = Array.from(connections, ([key, connection]) => [key, encodeInfo(connection)] as const)
      say({ say: "at rest", id, activity, infos, left: left() })
    })
    return
  }
  if (what === "forget") {
    for (const map of [scopes, apps, residues, listeners, requests, connections, pulls]) map.clear()
    return
  }
  rest.touch()
  if (what === "interrupt") {
    running.get(id)?.interruptUnsafe()
    return
  }
  const fiber = Effect.runFork(
    Effect.suspend(() => perform(order.operation)),
    { scheduler: rest.scheduler }
  )
  running.set(id, fiber)
  fiber.addObserver((exit) => {
    running.delete(id)
    rest.touch()
    say({ say: "done", id, exit: encodeExit(exit) })
  })
})

say({ say: "ready" })
