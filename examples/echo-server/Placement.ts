/**
 * Where the server and the client are.
 */
import { Application } from "@cut-through/core"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Effect, type Scope } from "effect"
import { transfer, type Shared, type Transfer } from "./Echo.ts"
import * as Thread from "./Thread.ts"
import * as Way from "./Way.ts"

export type PlacementError = Way.WayError | Thread.ThreadError

/** Connects, sends the file and takes what comes back. Half-way it waits for `midway`. */
export type Client = (midway: Effect.Effect<void> | undefined) => Effect.Effect<Transfer, PlacementError>

export interface Placement {
  /** What reports call it. */
  readonly path: string
  /** Whether its connections are in the session table. */
  readonly hasSessions: boolean
  /** Starts a server and a client until the scope closes. */
  readonly start: (shared: Shared) => Effect.Effect<Client, PlacementError, SessionLayer | Scope.Scope>
}

/** Two applications in this thread. */
export const fibers = (path: string, way: Way.Way<Application.Application>): Placement => ({
  path,
  hasSessions: true,
  start: Effect.fnUntraced(function* (shared) {
    const server = yield* Application.make({ name: "echo-server" })
    const client = yield* Application.make({ name: "echo-client" })
    const port = yield* Effect.provideService(way.listen, Application.Application, server)
    return (midway) =>
      Effect.flatMap(way.connect(port), (wire) => transfer(wire, shared, midway)).pipe(
        Effect.scoped,
        Effect.provideService(Application.Application, client)
      )
  })
})

/** Two worker threads that run the module. */
export const threads = (
  path: string,
  hasSessions: boolean,
  module: URL = new URL("./worker.ts", import.meta.url)
): Placement => ({
  path,
  hasSessions,
  start: Effect.fnUntraced(function* (shared) {
    const server = yield* Thread.start<number, never>(module, { end: "server", path, shared })
    const client = yield* Thread.start<Thread.Report, Thread.Order>(module, { end: "client", path, shared })
    const port = yield* server.take
    return Effect.fnUntraced(function* (midway) {
      yield* client.send({ port, stops: midway !== undefined })
      while (true) {
        const report = yield* client.take
        if (report !== "half-way") return report
        if (midway !== undefined) yield* midway
        yield* client.send("go on")
      }
    })
  })
})

export const all: ReadonlyArray<Placement> = [
  fibers("fiber", Way.cutThrough),
  threads("thread", true),
  threads("tcp", false)
]
