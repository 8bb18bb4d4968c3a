/** Small random programs over one session layer: whatever the order of events, everybody gets an answer, bytes are where they belong, and nothing is left. */
import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"

const endpoint = Endpoint.tcp("127.0.0.1", 7000)

const below = (limit: number) => Random.nextIntBetween(0, limit - 1)

const patternAt = (position: number): number => (position * 31 + 7) & 0xff

/** What somebody may see whose peer does as it likes. Anything else is a defect. */
const expected = new Set(["Reset", "BrokenPipe", "Closed", "Refused", "NoRoute"])

const tolerate = <A, R>(
  effect: Effect.Effect<A, SessionError.SessionError | Cause.Done, R>
): Effect.Effect<void, never, R> =>
  Effect.asVoid(
    Effect.catch(effect, (error) =>
      error._tag === "Done" || expected.has(error.reason._tag) ? Effect.void : Effect.die(error)
    )
  )

/** Reads to the end, and looks at each byte. */
const read = (connection: Connection.Connection) =>
  Effect.gen(function* () {
    let at = 0
    const buffer = new Uint8Array(1 + (yield* below(100)))
    while (true) {
      const count = yield* connection.readInto(buffer)
      for (let i = 0; i < count; i++) {
        if (buffer[i] !== patternAt(at + i))
          return yield* Effect.die(new Error(`byte ${at + i} is not where it belongs`))
      }
      at += count
    }
  })

/** Writes for a while, and then ends, closes, breaks off or just leaves. */
const write = (connection: Connection.Connection) =>
  Effect.gen(function* () {
    let at = 0
    for (let writes = yield* below(4); writes > 0; writes--) {
      const length = yield* below(150)
      yield* connection.write(Uint8Array.from({ length }, (_, i) => patternAt(at + i)))
      at += length
      if ((yield* below(3)) === 0) yield* Effect.sleep(1)
    }
    const how = yield* below(8)
    if (how < 5) yield* connection.end
    else if (how === 5) yield* connection.close
    else if (how === 6) yield* connection.reset
    else return yield* connection.end
  })

const talk = (connection: Connection.Connection) =>
  Effect.all([tolerate(write(connection)), tolerate(read(connection))], { concurrency: 2, discard: true })

const client = (application: Application.Application["Service"]) =>
  Effect.gen(function* () {
    if (yield* Random.nextBoolean) yield* Effect.sleep(yield* below(3))
    const connected = Effect.flatMap(application.connect(endpoint), talk).pipe(Effect.scoped, tolerate)
    if ((yield* below(4)) > 0) return yield* connected
    // Given up somewhere on the way.
    yield* Effect.timeoutOption(connected, yield* below(3))
  })

export const program = Effect.gen(function* () {
  const sizes = {
    rxFifoSize: 1 + (yield* below(200)),
    txFifoSize: 1 + (yield* below(200)),
    segmentSize: "64 KiB"
  } as const
  const server = yield* Application.make({ name: "server", workers: 1 + (yield* below(2)), ...sizes })
  const other = yield* Application.make({ name: "client", ...sizes })
  const scope = yield* Scope.make()
  const listener = yield* Scope.provide(
    server.listen(endpoint, { backlog: 1 + (yield* below(2)), approval: "listener" }),
    scope
  )
  const serving = yield* Effect.forkChild(tolerate(listener.run(talk)))
  const clients = Effect.all([client(other), client(other), client(server)], { concurrency: 3 })
  if ((yield* below(4)) > 0) yield* clients
  else {
    // The listener goes while they are at it.
    const closing = Effect.andThen(Effect.sleep(yield* below(3)), Scope.close(scope, Exit.void))
    yield* Effect.all([clients, closing], { concurrency: 2 })
  }
  yield* Scope.close(scope, Exit.void)
  yield* Effect.yieldNow
  serving.interruptUnsafe()
}).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions({ workers: 1 })))
