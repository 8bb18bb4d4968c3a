/**
 * Effect's `SocketServer` over cut-through listeners: what `NodeSocketServer` is
 * over TCP.
 *
 * Programs that take a `SocketServer` run over it unchanged, RPC servers and
 * cluster runners for example. With `TcpTransport` in the session layer one
 * server takes connections from this process and over TCP, under one address and
 * with one handler.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import { Connection } from "@cut-through/core/Connection"
import type * as Endpoint from "@cut-through/core/Endpoint"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import * as SocketServer from "effect/socket/SocketServer"
import * as CutThroughSocket from "./CutThroughSocket.ts"
import { resolve, type Target } from "./internal/target.ts"

/**
 * A server that listens on an endpoint until the scope closes. The endpoint may
 * also be a text such as `tcp://localhost:7000`, or a host (default: all
 * addresses) and a port; port 0 takes a free one, and `address` says which.
 *
 * Connections that come before `run` wait in the listener's backlog. While
 * several fibers `run` the server, the one that began last serves what comes.
 * Handlers find the connection with `Effect.serviceOption(Connection)`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  target: Target,
  options?: Application.ListenOptions
): Effect.Effect<
  SocketServer.SocketServer["Service"],
  SocketServer.SocketServerError,
  Application.Application | Scope.Scope
> =>
  Effect.gen(function* () {
    const listener = yield* resolve(target, "0.0.0.0").pipe(
      Effect.flatMap((endpoint: Endpoint.Endpoint) => Application.listen(endpoint, options)),
      Effect.mapError(
        (cause) => new SocketServer.SocketServerError({ reason: new SocketServer.SocketServerOpenError({ cause }) })
      )
    )
    const scope = yield* Effect.scope
    const handlers: Array<(connection: Connection, own: Scope.Closeable) => void> = []
    let accepting: Fiber.Fiber<unknown, unknown> | undefined

    const next = Effect.suspend(() => {
      const own = Scope.makeUnsafe()
      return Scope.provide(listener.accept, own).pipe(
        Effect.map((connection) => handlers[handlers.length - 1](connection, own)),
        Effect.onError(() => Scope.close(own, Exit.void))
      )
    })

    const run = <R, E, _>(handler: (socket: Socket.Socket) => Effect.Effect<_, E, R>): Effect.Effect<never, never, R> =>
      Effect.contextWith((context: Context.Context<R>) => {
        const services = Context.omit(Scope.Scope)(context) as Context.Context<R>
        const serving = Scope.makeUnsafe()
        const serve = (connection: Connection, own: Scope.Closeable): void => {
          let isTaken = false
          const once = Effect.suspend(() => {
            if (isTaken) {
              return Effect.fail(new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 1000 }) }))
            }
            isTaken = true
            return Effect.as(
              Effect.addFinalizer(() => Scope.close(own, Exit.void)),
              connection
            )
          })
          const served = Effect.flatMap(CutThroughSocket.fromAccepted(once), handler).pipe(
            Effect.ignoreCause({ log: "Unhandled", message: "Unhandled error in SocketServer" }),
            // A reader that was acquired closes the connection itself, behind what is still being written.
            Effect.ensuring(Effect.suspend(() => (isTaken ? Effect.void : Scope.close(own, Exit.void))))
          )
          const withConnection = Context.add(services, Connection, connection)
          Fiber.runIn(Effect.runForkWith(withConnection)(served as Effect.Effect<void>), serving)
        }
        // Not on this stack: whoever is served there may interrupt this fiber, before it has anything to clean up.
        const begin = Effect.suspend(() => {
          handlers.push(serve)
          if (accepting !== undefined) return Effect.void
          return Effect.map(
            Effect.forkIn(Effect.ignore(Effect.forever(next, { disableYield: true })), scope),
            (fiber) => {
              accepting = fiber
            }
          )
        })
        const end = Effect.suspend(() => {
          handlers.splice(handlers.indexOf(serve), 1)
          const fiber = accepting
          if (handlers.length > 0 || fiber === undefined) return Effect.void
          accepting = undefined
          return Fiber.interrupt(fiber)
        })
        return Effect.acquireUseRelease(
          begin,
          () => Effect.never,
          () => Effect.andThen(end, Scope.close(serving, Exit.void))
        )
      })

    return SocketServer.SocketServer.of({ address: listener.address, run })
  })

/**
 * {@link make} as the `SocketServer` of a program: in the place of
 * `NodeSocketServer.layer`.
 *
 * **Example** (An echo server and a client of it)
 *
 * ```ts
 * import { CutThroughNode, CutThroughSocket, CutThroughSocketServer } from "@cut-through/platform"
 * import { Effect, Layer } from "effect"
 * import { SocketServer } from "effect/socket"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* SocketServer.SocketServer
 *   yield* Effect.forkScoped(server.run((socket) => Effect.scoped(Effect.gen(function*() {
 *     const { pull } = yield* socket.reader
 *     const { writeAll } = yield* socket.writer
 *     yield* Effect.forever(Effect.flatMap(pull, writeAll))
 *   }))))
 *   const socket = yield* CutThroughSocket.make("tcp://127.0.0.1:7000")
 *   const { write } = yield* socket.writer
 *   const { pull } = yield* socket.reader
 *   yield* write("hello")
 *   return new TextDecoder().decode((yield* pull)[0] as Uint8Array)
 * })
 * const layer = CutThroughSocketServer.layer("tcp://127.0.0.1:7000").pipe(Layer.provideMerge(CutThroughNode.layer))
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer))) // => "hello"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  target: Target,
  options?: Application.ListenOptions
): Layer.Layer<SocketServer.SocketServer, SocketServer.SocketServerError, Application.Application> =>
  Layer.effect(SocketServer.SocketServer, make(target, options))
