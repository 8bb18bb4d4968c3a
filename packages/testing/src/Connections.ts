/**
 * Connections to test with: both ends of one, and a server that says everything
 * twice.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { Listener } from "@cut-through/core/Listener"
import type * as SessionError from "@cut-through/core/SessionError"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestNetwork from "./TestNetwork.ts"

/**
 * Both ends of one connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pair {
  readonly client: Connection
  readonly server: Connection
}

const HERE = Endpoint.tcp("127.0.0.1", 0)

/**
 * Both ends of a connection of the application with itself. They close with the
 * scope.
 *
 * **Example** (Half a conversation)
 *
 * ```ts
 * import { Bytes, Connections, Leaks } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const test = Effect.gen(function*() {
 *   const { client, server } = yield* Connections.connectedPair
 *   yield* client.write(Bytes.pattern(1000))
 *   const bytes = yield* Connections.readExactly(server, 1000)
 *   Bytes.assertPattern(bytes)
 *   return bytes.length
 * })
 *
 * await Effect.runPromise(test.pipe(Effect.scoped, Effect.provide(Leaks.layerTest))) // => 1000
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const connectedPair: Effect.Effect<Pair, SessionError.SessionError, Application.Application | Scope.Scope> =
  Effect.gen(function* () {
    const listener = yield* Application.listen(HERE)
    const client = yield* Application.connect(listener.address)
    const server = yield* listener.accept
    return { client, server }
  })

/**
 * Both ends of a connection from one host of a `TestNetwork` to another. Where
 * the way takes time, somebody has to turn the test clock meanwhile.
 *
 * **Example** (Across the network)
 *
 * ```ts
 * import { Connections, TestNetwork } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const test = Effect.gen(function*() {
 *   const { client, server } = yield* Connections.connectedPairBetween("a", "b")
 *   yield* server.write(Uint8Array.of(1, 2, 3))
 *   return [...(yield* client.read)]
 * })
 * const network = TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2" } })
 *
 * await Effect.runPromise(test.pipe(Effect.scoped, Effect.provide(network))) // => [1, 2, 3]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const connectedPairBetween = (
  client: string,
  server: string
): Effect.Effect<Pair, SessionError.SessionError, TestNetwork.TestNetwork | Scope.Scope> =>
  Effect.gen(function* () {
    const listener = yield* TestNetwork.on(server, Effect.flatMap(TestNetwork.endpoint(server, 0), Application.listen))
    const dialled = yield* TestNetwork.on(client, Application.connect(listener.address))
    return { client: dialled, server: yield* listener.accept }
  })

/**
 * A server that writes back what it reads, and ends when its client does, until
 * the scope closes. The default endpoint is a free port of `127.0.0.1`; the
 * listener's `address` says which.
 *
 * **Example** (There and back)
 *
 * ```ts
 * import { Application } from "@cut-through/core"
 * import { Connections, Leaks } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const test = Effect.gen(function*() {
 *   const { address } = yield* Connections.echoServer()
 *   const connection = yield* Application.connect(address)
 *   yield* connection.write(new TextEncoder().encode("hello"))
 *   return new TextDecoder().decode(yield* Connections.readExactly(connection, 5))
 * })
 *
 * await Effect.runPromise(test.pipe(Effect.scoped, Effect.provide(Leaks.layerTest))) // => "hello"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const echoServer = (
  endpoint: Endpoint.Endpoint = HERE
): Effect.Effect<Listener, SessionError.SessionError, Application.Application | Scope.Scope> =>
  Effect.gen(function* () {
    const listener = yield* Application.listen(endpoint)
    // What is wrong with one connection is for its client to see.
    yield* Effect.forkScoped(listener.run(({ sink, stream }) => Effect.ignore(Stream.run(stream, sink))))
    return listener
  })

/**
 * Reads until so many bytes have come, and leaves what comes behind them. Fails
 * with `Cause.Done` when the stream ends before.
 *
 * @category operations
 * @since 0.1.0
 */
export const readExactly = (
  connection: Connection,
  length: number
): Effect.Effect<Uint8Array, SessionError.SessionError | Cause.Done> =>
  Effect.gen(function* () {
    const bytes = new Uint8Array(length)
    let at = 0
    while (at < length) at += yield* connection.readInto(bytes.subarray(at))
    return bytes
  })
