import { Application, type Connection, Sessions } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { misplaced, pattern, readExactly } from "../fixtures.ts"
import {
  type AppOptions,
  connectThrough,
  families,
  type Family,
  familyNames,
  readAll,
  twoApps
} from "./dataFixtures.ts"

const MIB = 1024 * 1024

/** Blocks of a stream, made when they are written: each stream is another one, by where its pattern begins. */
const writeBlocks = (connection: Connection.Connection, length: number, block: number, from: number) =>
  Effect.gen(function* () {
    for (let at = 0; at < length; at += block) {
      yield* connection.write(pattern(Math.min(block, length - at), from + at))
    }
    yield* connection.end
  })

/** Reads to the end and compares as it goes. Returns how many bytes there were. */
const readBlocks = (connection: Connection.Connection, buffer: Uint8Array, from: number) =>
  Effect.gen(function* () {
    let at = 0
    yield* Stream.runForEach(
      Stream.fromPull(Effect.succeed(Effect.map(connection.readInto(buffer), (count) => [count] as const))),
      (count) =>
        Effect.sync(() => {
          assert.strictEqual(misplaced(buffer.subarray(0, count), from + at), -1)
          at += count
        })
    )
    return at
  })

const sockets = (family: Family, count: number, options: AppOptions = {}) =>
  Effect.gen(function* () {
    const { client, server } = yield* twoApps({ server: options })
    const listener = yield* server.listen(families[family])
    return yield* Effect.forEach(Array.from({ length: count }), () => connectThrough(client, listener))
  })

const concurrently = { concurrency: "unbounded" } as const

describe("transfers", () => {
  for (const family of familyNames) {
    it.effect(`${family}: a phrase comes back from an echo server`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* twoApps()
        const listener = yield* server.listen(families[family])
        yield* Effect.forkScoped(listener.run((connection) => Stream.run(connection.stream, connection.sink)))
        const connection = yield* client.connect(listener.address)
        const phrase = new TextEncoder().encode("Hello, world! (And a little more, so that it is not too short.)")
        yield* connection.write(phrase)
        yield* connection.end
        assert.deepStrictEqual(yield* readAll(connection), phrase)
        const [first] = yield* Sessions.find({ kind: "session", app: "client" })
        assert.match(first.name, /\[CT:T\]/)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: 2 sockets, 1000 writes of 8 KiB each, one way`, () =>
      Effect.gen(function* () {
        const pairs = yield* sockets(family, 2)
        const length = 1000 * 8192
        const received = yield* Effect.all(
          pairs.flatMap(({ client, server }, n) => [
            readBlocks(server, new Uint8Array(512 * 1024), n),
            Effect.as(writeBlocks(client, length, 8192, n), 0)
          ]),
          concurrently
        )
        assert.deepStrictEqual(received, [length, 0, length, 0])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    for (const [name, sizes] of Object.entries({
      "FIFOs of the default size": {},
      "16 KiB FIFOs": { rxFifoSize: "16 KiB", txFifoSize: "16 KiB" },
      "a small segment each": { rxFifoSize: "64 KiB", txFifoSize: "4 KiB", segmentSize: "68 KiB" }
    } satisfies Record<string, AppOptions>)) {
      it.effect(`${family}: 8 sockets, 1 MiB each way at once, ${name}`, () =>
        Effect.gen(function* () {
          const pairs = yield* sockets(family, 8, sizes)
          const received = yield* Effect.all(
            pairs.flatMap(({ client, server }, n) => [
              readBlocks(server, new Uint8Array(10_000), n),
              readBlocks(client, new Uint8Array(65_536), 1000 + n),
              Effect.as(writeBlocks(client, MIB, 30_000, n), MIB),
              Effect.as(writeBlocks(server, MIB, 7_777, 1000 + n), MIB)
            ]),
            concurrently
          )
          assert.isTrue(received.every((length) => length === MIB))
          for (const { client, server } of pairs) {
            for (const { info } of [client, server]) {
              assert.deepInclude(info, { bytesReceived: MIB, bytesSent: MIB })
              assert.deepStrictEqual([info.rx.used, info.tx.used], [0, 0])
            }
          }
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${family}: 8 sockets, 1 MiB each to an echo server and back, ${name}`, () =>
        Effect.gen(function* () {
          const { client, server } = yield* twoApps({ server: sizes })
          const listener = yield* server.listen(families[family])
          yield* Effect.forkScoped(listener.run((connection) => Stream.run(connection.stream, connection.sink)))
          const talk = (n: number) =>
            Effect.scoped(
              Effect.gen(function* () {
                const connection = yield* client.connect(listener.address)
                const writing = yield* Effect.forkChild(writeBlocks(connection, MIB, 30_000, n))
                const received = yield* readBlocks(connection, new Uint8Array(65_536), n)
                yield* Fiber.join(writing)
                return received
              })
            )
          const received = yield* Effect.forEach(
            Array.from({ length: 8 }, (_, n) => n),
            talk,
            concurrently
          )
          assert.deepStrictEqual(
            received,
            received.map(() => MIB)
          )
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )
    }

    it.effect(`${family}: 4 writes of 8 KiB through 16 KiB FIFOs, answered before they are all written`, () =>
      Effect.gen(function* () {
        const [{ client, server }] = yield* sockets(family, 1, { rxFifoSize: "16 KiB", txFifoSize: "16 KiB" })
        const echo = Effect.gen(function* () {
          const buffer = new Uint8Array(3000)
          for (let at = 0; at < 4 * 8192;) {
            const count = yield* server.readInto(buffer)
            yield* server.write(buffer.subarray(0, count))
            at += count
          }
        })
        const echoing = yield* Effect.forkChild(echo)
        const writing = yield* Effect.forkChild(
          Effect.forEach([0, 1, 2, 3], (n) => client.write(pattern(8192, n * 8192)), { discard: true })
        )
        assert.strictEqual(misplaced(yield* readExactly(client, 4 * 8192)), -1)
        yield* Fiber.joinAll([echoing, writing])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("8 connections of an application with itself, both ways at once", () =>
    Effect.gen(function* () {
      const app = yield* Application.Application
      const listener = yield* app.listen(families.v6)
      const pairs = yield* Effect.forEach(Array.from({ length: 8 }), () => connectThrough(app, listener))
      yield* Effect.all(
        pairs.flatMap(({ client, server }, n) => [
          writeBlocks(client, MIB / 4, 10_000, n),
          writeBlocks(server, MIB / 4, 10_000, n),
          readBlocks(client, new Uint8Array(10_000), n),
          readBlocks(server, new Uint8Array(10_000), n)
        ]),
        concurrently
      )
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})
