/**
 * What applications do, as programs of two sides that know nothing of where they
 * are. What is expected is what happens where both are fibers of one thread.
 */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import type * as SessionError from "@cut-through/core/SessionError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"
import { streamAt } from "../../../core/test/memory/threads.ts"
import {
  assertBytes,
  drain,
  echo,
  failsWith,
  type Part,
  readBytes,
  reasonOf,
  type Talk,
  writeBytes
} from "./life-talk.ts"

/** A program of two sides. */
export interface Case {
  readonly server: Part
  readonly client: Part
  readonly options?: {
    readonly server?: Partial<AttachOptions>
    readonly client?: Partial<AttachOptions>
  }
  /** What is different where both sides are one application. */
  readonly apart?: boolean
}

const anyPort = Endpoint.tcp("127.0.0.1", 0)
const MIB = 1024 * 1024

/** Listens on a free port and tells the other side which. */
const open = (talk: Talk, options?: Application.ListenOptions) =>
  Effect.tap(Application.listen(anyPort, options), ({ address }) => talk.say(address.port))

/** Where the other side listens. */
const there = (talk: Talk) => Effect.map(talk.hear, (port) => Endpoint.tcp("127.0.0.1", port as number))

const echoOnce = (connection: Connection) => Effect.flatMap(connection.read, (bytes) => connection.write(bytes))

/** Listens to the application's events from here on; waits for the last one of a segment, and returns them all. */
const watch = Effect.gen(function* () {
  const { events } = yield* Application.Application
  const told = yield* Effect.forkChild(
    events.pipe(
      Stream.map(({ _tag }) => _tag),
      Stream.takeUntil((tag) => tag === "SegmentDeleted"),
      Stream.runCollect
    ),
    { startImmediately: true }
  )
  return Fiber.join(told)
})

const dial = (talk: Talk) => Effect.flatMap(there(talk), Application.connect)

/** Does not go on before the other side is here, too. */
const meet = (talk: Talk, where: string) =>
  Effect.gen(function* () {
    yield* talk.say(where)
    assert.equal(yield* talk.hear, where)
  })

export const cases = {
  "a megabyte both ways": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        assert.equal(connection.info.side, "server")
        assert.equal(connection.info.state, "ready")
        yield* talk.say(connection.info.local.port)
        yield* talk.say(connection.info.remote.port)
        const echoing = yield* Effect.forkChild(
          Effect.gen(function* () {
            yield* writeBytes(connection, MIB, MIB)
            yield* connection.end
          })
        )
        assert.deepEqual(yield* drain(connection), { how: "end", bytes: MIB, received: undefined })
        yield* Fiber.join(echoing)
        assert.equal(connection.info.bytesReceived, MIB)
        assert.equal(connection.info.bytesSent, MIB)
        yield* meet(talk, "read")
        return connection.info.path
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        assert.equal(connection.info.side, "client")
        assert.equal(connection.info.remote.port, yield* talk.hear)
        assert.equal(connection.info.local.port, yield* talk.hear)
        const writing = yield* Effect.forkChild(
          Effect.andThen(writeBytes(connection, 0, MIB, MIB / 16 - 1), connection.end)
        )
        assert.deepEqual(yield* drain(connection, MIB), { how: "end", bytes: MIB, received: undefined })
        yield* Fiber.join(writing)
        yield* meet(talk, "read")
        return connection.info.path
      })
  },

  "messages that are answered one by one": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        yield* echo(connection)
        yield* connection.close
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        let at = 0
        for (let i = 0; i < 500; i++) {
          const length = 1 + ((i * 7919) % 3000)
          yield* writeBytes(connection, at, length)
          yield* readBytes(connection, at, length)
          at += length
        }
        yield* connection.end
        assert.deepEqual(yield* drain(connection), { how: "end", bytes: 0, received: undefined })
      })
  },

  "one side ends its stream, and the other goes on": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        assert.equal((yield* drain(connection)).how, "end")
        yield* writeBytes(connection, 0, 300_000)
        yield* connection.close
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        yield* writeBytes(connection, 0, 1000)
        yield* connection.end
        assert.equal(yield* failsWith(connection.write(Uint8Array.of(1))), "BrokenPipe")
        assert.deepEqual(yield* drain(connection), { how: "end", bytes: 300_000, received: undefined })
        assert.equal(yield* failsWith(connection.read), "Done")
      })
  },

  "the client breaks off": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        yield* readBytes(connection, 0, 1000)
        const reading = yield* Effect.forkChild(Effect.flip(connection.read))
        yield* meet(talk, "read")
        const error = (yield* Fiber.join(reading)) as SessionError.SessionError
        assert.equal(reasonOf(error)._tag, "Reset")
        assert.equal(reasonOf(error).bytesReceived, 1000)
        assert.equal(yield* failsWith(connection.write(Uint8Array.of(1))), "Reset")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        yield* writeBytes(connection, 0, 1000)
        yield* meet(talk, "read")
        yield* connection.reset
        assert.equal(yield* failsWith(connection.read), "Closed")
      })
  },

  "the server closes with bytes it has not read": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        yield* meet(talk, "written")
        yield* connection.close
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        yield* writeBytes(connection, 0, 5000)
        yield* meet(talk, "written")
        assert.deepEqual(yield* drain(connection), { how: "Reset", bytes: 0, received: 0 })
      })
  },

  "a scope that fails resets, one that succeeds closes": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        yield* Effect.ignore(
          Effect.scoped(Effect.andThen(Effect.flatMap(listener.accept, echoOnce), Effect.fail("wrong")))
        )
        yield* Effect.scoped(Effect.flatMap(listener.accept, echoOnce))
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        for (const how of ["Reset", "end"]) {
          const connection = yield* Application.connect(address)
          yield* connection.write(Uint8Array.of(1, 2, 3))
          yield* Effect.ignore(connection.read)
          assert.equal((yield* drain(connection)).how, how)
        }
      })
  },

  "nobody listens there": {
    server: (talk) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const listener = yield* Scope.provide(open(talk), scope)
        yield* meet(talk, "connected")
        const connection = yield* listener.accept
        const accepting = yield* Effect.forkChild(Effect.flip(Effect.scoped(listener.accept)), {
          startImmediately: true
        })
        yield* Scope.close(scope, Exit.void)
        assert.equal((yield* Fiber.join(accepting)).reason._tag, "Closed")
        yield* meet(talk, "closed")
        // What was accepted before stays.
        yield* echo(connection)
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        const connection = yield* Application.connect(address)
        yield* meet(talk, "connected")
        yield* meet(talk, "closed")
        const error = yield* Effect.flip(Application.connect(address))
        assert.equal(error.reason._tag, "NoRoute")
        assert.match(error.message, new RegExp(`127.0.0.1:${address.port}`))
        yield* connection.write(Uint8Array.of(7))
        assert.deepEqual(Array.from(yield* connection.read), [7])
        yield* connection.end
        assert.equal((yield* drain(connection)).how, "end")
      })
  },

  "port 0 is a free one, and nobody takes another's": {
    server: (talk) =>
      Effect.gen(function* () {
        const one = yield* open(talk)
        const other = yield* Application.listen(anyPort)
        assert.ok(one.address.port > 0)
        assert.notEqual(one.address.port, other.address.port)
        assert.equal(
          yield* failsWith(Application.listen(Endpoint.tcp("127.0.0.1", other.address.port))),
          "AlreadyListening"
        )
        yield* meet(talk, "tried")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        assert.equal(yield* failsWith(Application.listen(address)), "AlreadyListening")
        assert.equal(yield* failsWith(Application.connect(anyPort)), "InvalidArgument")
        assert.equal(yield* failsWith(Application.listen(anyPort, { backlog: 0 })), "InvalidArgument")
        yield* meet(talk, "tried")
      })
  },

  "a full backlog refuses": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk, { backlog: 2 })
        yield* meet(talk, "refused")
        // In the order in which they came.
        for (const value of [1, 2]) {
          const connection = yield* listener.accept
          assert.deepEqual(Array.from(yield* connection.read), [value])
        }
        yield* meet(talk, "accepted")
        assert.deepEqual(Array.from(yield* (yield* listener.accept).read), [4])
        yield* meet(talk, "read")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        for (const value of [1, 2]) yield* (yield* Application.connect(address)).write(Uint8Array.of(value))
        const error = yield* Effect.flip(Application.connect(address))
        assert.equal(error.reason._tag, "Refused")
        assert.match(error.message, /2 connections wait/)
        yield* meet(talk, "refused")
        yield* meet(talk, "accepted")
        yield* (yield* Application.connect(address)).write(Uint8Array.of(4))
        yield* meet(talk, "read")
      })
  },

  "the application says yes or no": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk, { approval: "application" })

        const accepted = yield* listener.request
        yield* talk.say(accepted.remote.port)
        const connection = yield* accepted.accept
        yield* writeBytes(connection, 0, 1000)
        assert.equal(yield* failsWith(accepted.accept), "InvalidArgument")
        yield* accepted.refuse
        yield* readBytes(connection, 0, 1000)

        const refused = yield* listener.request
        yield* refused.refuse
        yield* refused.refuse
        assert.equal(yield* failsWith(refused.accept), "Closed")

        // Left alone, it is refused at the end of its scope.
        yield* Effect.scoped(listener.request)

        // `accept` says yes, too.
        yield* readBytes(yield* listener.accept, 0, 10)

        const left = yield* listener.request
        yield* meet(talk, "asked")
        yield* meet(talk, "left")
        assert.equal(yield* failsWith(left.accept), "Reset")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        const connection = yield* Application.connect(address)
        assert.equal(connection.info.local.port, yield* talk.hear)
        yield* readBytes(connection, 0, 1000)
        yield* writeBytes(connection, 0, 1000)
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(Application.connect(address))
          assert.equal(error.reason._tag, "Refused")
          assert.match(error.message, /its application said no/)
        }
        yield* writeBytes(yield* Application.connect(address), 0, 10)
        const asking = yield* Effect.forkChild(Application.connect(address))
        yield* meet(talk, "asked")
        yield* Fiber.interrupt(asking)
        // Whatever was said before is heard before this.
        yield* Effect.flip(Application.connect(anyPort))
        yield* meet(talk, "left")
      })
  },

  "a proxy takes what nobody else does": {
    apart: true,
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("0.0.0.0", 0), { proxy: true })
        yield* talk.say("open")
        const connection = yield* listener.accept
        assert.equal(Endpoint.format(connection.info.local), "10.1.2.3:80")
        yield* echo(connection)
        yield* meet(talk, "echoed")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        yield* talk.hear
        const connection = yield* Application.connect(Endpoint.tcp("10.1.2.3", 80))
        assert.equal(Endpoint.format(connection.info.remote), "10.1.2.3:80")
        yield* writeBytes(connection, 0, 1000)
        yield* readBytes(connection, 0, 1000)
        yield* connection.end
        yield* meet(talk, "echoed")
      })
  },

  quotas: {
    apart: true,
    options: { server: { maxSessions: 2 }, client: { maxHalfOpens: 1 } },
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* listener.accept
            yield* listener.accept
            yield* meet(talk, "tried")
          })
        )
        const asked = yield* open(talk, { approval: "application" })
        const request = yield* asked.request
        yield* meet(talk, "asked")
        yield* meet(talk, "exceeded")
        yield* request.accept
        yield* meet(talk, "done")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        const both = yield* Scope.make()
        for (let i = 0; i < 2; i++) yield* Scope.provide(Application.connect(address), both)
        const refused = yield* Effect.flip(Application.connect(address))
        assert.match(refused.message, /as many sessions as it may have/)
        yield* Scope.close(both, Exit.void)
        yield* meet(talk, "tried")
        const asking = yield* there(talk)
        const pending = yield* Effect.forkChild(Application.connect(asking), { startImmediately: true })
        yield* meet(talk, "asked")
        const exceeded = yield* Effect.flip(Application.connect(asking))
        assert.equal(exceeded.reason._tag, "QuotaExceeded")
        assert.equal(reasonOf(exceeded).quota, "maxHalfOpens")
        yield* meet(talk, "exceeded")
        yield* Fiber.join(pending)
        yield* meet(talk, "done")
      })
  },

  events: {
    apart: true,
    server: (talk) =>
      Effect.gen(function* () {
        const events = yield* watch
        const connection = yield* (yield* open(talk)).accept
        assert.equal((yield* drain(connection)).how, "end")
        // The end is there before the session layer knows of it, and who closes before that is not told any more.
        yield* meet(talk, "closed")
        yield* connection.close
        assert.deepEqual(yield* events, [
          "SegmentAdded",
          "Accepted",
          "Disconnected",
          "CleanupTransport",
          "CleanupSession",
          "SegmentDeleted"
        ])
        yield* meet(talk, "told")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const events = yield* watch
        const connection = yield* dial(talk)
        yield* writeBytes(connection, 0, 10)
        yield* connection.close
        yield* meet(talk, "closed")
        assert.deepEqual(yield* events, [
          "SegmentAdded",
          "Connected",
          "HalfOpenCleanup",
          "CleanupTransport",
          "CleanupSession",
          "SegmentDeleted"
        ])
        yield* meet(talk, "told")
      })
  },

  "streams and sinks": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        const connection = yield* listener.accept
        yield* Stream.run(connection.stream, connection.sink)
        yield* meet(talk, "echoed")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        const pieces = Stream.map(Stream.range(0, 99), (i) => Uint8Array.of(i, 100 + i))
        const writing = yield* Effect.forkChild(Stream.run(pieces, connection.sink))
        const chunks = yield* Stream.runCollect(connection.stream)
        const expected = Array.from({ length: 100 }, (_, i) => [i, 100 + i]).flat()
        assert.deepEqual(
          chunks.flatMap((chunk) => Array.from(chunk)),
          expected
        )
        yield* Fiber.join(writing)
        yield* meet(talk, "echoed")
      })
  },

  "a listener serves each connection by itself": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        const failed = yield* Deferred.make<void>()
        const serving = yield* Effect.forkChild(
          listener.run((connection) =>
            Effect.gen(function* () {
              const [first] = yield* connection.read
              if (first === 0) {
                yield* Deferred.succeed(failed, undefined)
                return yield* Effect.interrupt
              }
              yield* connection.write(Uint8Array.of(first))
              yield* echo(connection)
            })
          )
        )
        yield* Deferred.await(failed)
        yield* meet(talk, "served")
        yield* Fiber.interrupt(serving)
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        const talkTo = (first: number) =>
          Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* Application.connect(address)
              yield* connection.write(Uint8Array.of(first))
              if (first === 0) return assert.equal((yield* drain(connection)).how, "Reset")
              assert.deepEqual(Array.from(yield* connection.read), [first])
              const writing = yield* Effect.forkChild(Effect.andThen(writeBytes(connection, 0, 40_000), connection.end))
              assert.deepEqual(yield* drain(connection), { how: "end", bytes: 40_000, received: undefined })
              yield* Fiber.join(writing)
            })
          )
        yield* Effect.forEach(
          Array.from({ length: 60 }, (_, i) => i % 20),
          talkTo,
          { concurrency: "unbounded", discard: true }
        )
        yield* meet(talk, "served")
      })
  },

  "whoever is interrupted has taken nothing": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        const waiting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
        yield* Fiber.interrupt(waiting)
        yield* meet(talk, "interrupted")
        const connection = yield* listener.accept
        const reading = yield* Effect.forkChild(connection.read, { startImmediately: true })
        yield* Fiber.interrupt(reading)
        yield* meet(talk, "reading")
        yield* readBytes(connection, 0, 200_000)
        yield* meet(talk, "read")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        yield* meet(talk, "interrupted")
        const connection = yield* Application.connect(address)
        yield* meet(talk, "reading")
        yield* writeBytes(connection, 0, 200_000)
        yield* meet(talk, "read")
      })
  },

  "who does not read keeps nobody else waiting": {
    server: (talk) =>
      Effect.gen(function* () {
        const listener = yield* open(talk)
        const idle = yield* listener.accept
        const busy = yield* listener.accept
        yield* echo(busy)
        yield* meet(talk, "echoed")
        yield* readBytes(idle, 0, 1_500_000)
        yield* meet(talk, "read")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const address = yield* there(talk)
        const idle = yield* Application.connect(address)
        const busy = yield* Application.connect(address)
        const writing = yield* Effect.forkChild(writeBytes(idle, 0, 1_500_000))
        yield* Effect.forkChild(Effect.andThen(writeBytes(busy, 0, 1_000_000), busy.end))
        assert.equal((yield* drain(busy)).bytes, 1_000_000)
        assert.equal(writing.pollUnsafe(), undefined)
        assert.equal(idle.info.tx.used, idle.info.tx.size)
        yield* meet(talk, "echoed")
        yield* meet(talk, "read")
        yield* Fiber.join(writing)
      })
  },

  "many chunks in one write": {
    server: (talk) =>
      Effect.gen(function* () {
        const connection = yield* (yield* open(talk)).accept
        const buffer = new Uint8Array(777)
        let at = 0
        while (at < 300 * 1000) {
          const count = yield* connection.readInto(buffer)
          assertBytes(buffer.subarray(0, count), at)
          at += count
        }
        yield* meet(talk, "read")
      }),
    client: (talk) =>
      Effect.gen(function* () {
        const connection = yield* dial(talk)
        for (let i = 0; i < 10; i++) {
          yield* connection.writeAll(Array.from({ length: 30 }, (_, j) => streamAt((i * 30 + j) * 1000, 1000)))
        }
        yield* meet(talk, "read")
      })
  }
} satisfies Record<string, Case>

export type CaseName = keyof typeof cases
