import { type Connection, Segments } from "@cut-through/core"
import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { misplaced, pattern, readExactly } from "../fixtures.ts"
import { type AppOptions, connectThrough, familyNames, pairOf, readAll } from "./dataFixtures.ts"

const KIB = 1024
const BLOCK = 128 * KIB

const only = Effect.map(Segments.stats, ({ segments }) => {
  assert.strictEqual(segments.length, 1)
  return segments[0]
})

const pressure = Effect.map(only, ({ pressure }) => pressure)

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })

/** One direction of a connection, which writes and reads blocks of its pattern. */
const direction = (from: Connection.Connection, to: Connection.Connection) => {
  let written = 0
  let read = 0
  return {
    /** Block by block: the chunk for a large write is as large. */
    write: (bytes: number) =>
      Effect.gen(function* () {
        for (const end = written + bytes; written < end;) {
          const count = Math.min(BLOCK, end - written)
          const block = pattern(count, written)
          written += count
          yield* from.write(block)
        }
      }),
    read: (bytes: number) =>
      Effect.map(readExactly(to, bytes), (got) => {
        assert.strictEqual(misplaced(got, read), -1)
        read += bytes
      }),
    get used() {
      return to.info.rx.used
    }
  }
}

const SIZE = 1024 * KIB
const oneMegabyte: AppOptions = { rxFifoSize: SIZE, txFifoSize: SIZE, segmentSize: 2 * SIZE }

describe("pressure of a segment under a connection", () => {
  for (const family of familyNames) {
    it.effect(`${family}: none below 50 %, low from there, high from 80 %, and back as the readers read`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* pairOf({ family, server: oneMegabyte })
        const toServer = direction(client, server)
        const toClient = direction(server, client)
        // The first chunks of both FIFOs are all there is.
        assert.deepInclude(yield* only, {
          size: 2 * SIZE,
          pressure: "none",
          usedBytes: 2 * MIN_CHUNK_BYTES,
          activeFifos: 2
        })
        const at = (blocks: number, expected: string) =>
          Effect.map(only, ({ pressure, usage }) => {
            assert.strictEqual(pressure, expected, `${blocks} blocks`)
            // Each block is a sixteenth; chunks that are not full come on top.
            assert.isAtLeast(usage, (blocks * 100) / 16)
            assert.isAtMost(usage, (blocks * 100) / 16 + 13)
          })
        yield* toServer.write(2 * BLOCK)
        yield* at(2, "none")
        yield* toServer.write(5 * BLOCK)
        yield* at(7, "none")
        yield* toClient.write(3 * BLOCK)
        yield* at(10, "low")
        yield* toClient.write(4 * BLOCK)
        yield* at(14, "high")
        yield* toServer.read(2 * BLOCK)
        yield* toClient.read(2 * BLOCK)
        yield* at(10, "low")
        yield* toServer.write(2 * BLOCK)
        yield* toClient.write(2 * BLOCK)
        yield* at(14, "high")
        yield* toServer.read(7 * BLOCK)
        yield* toClient.read(7 * BLOCK)
        yield* at(0, "none")
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: exhausted, writers wait that have room by their FIFO, until a reader makes room`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* pairOf({ family, server: oneMegabyte })
        const toServer = direction(client, server)
        const toClient = direction(server, client)
        // What is left in the last chunks is what is missing.
        yield* toServer.write(SIZE)
        const writing = yield* fork(toClient.write(SIZE))
        assert.isUndefined(writing.pollUnsafe())
        assert.isBelow(toClient.used, SIZE)
        assert.isAbove(toClient.used, SIZE - 2 * BLOCK)
        assert.deepInclude(yield* only, { usage: 100, availableBytes: 0, pressure: "exhausted" })
        assert.strictEqual(yield* pressure, "exhausted", "as long as usage is high")
        // A byte is no chunk.
        const full = toClient.used
        yield* toClient.read(1)
        assert.strictEqual(toClient.used, full - 1)
        assert.isUndefined(writing.pollUnsafe())
        yield* toClient.read(full - 1)
        yield* Fiber.join(writing)
        yield* toServer.read(3 * BLOCK)
        assert.strictEqual(yield* pressure, "none")
        yield* toServer.read(SIZE - 3 * BLOCK)
        yield* toClient.read(SIZE - full)
        assert.strictEqual(yield* pressure, "none")
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: FIFOs that grow page by page from one chunk to all there are, and back`, () =>
      Effect.gen(function* () {
        const { client, server } = yield* pairOf({ family, server: oneMegabyte })
        const toServer = direction(client, server)
        const toClient = direction(server, client)
        const PAGE = 4 * KIB
        const grow = (direction: typeof toServer) =>
          Effect.repeat(
            Effect.suspend(() => direction.write(PAGE)),
            { times: SIZE / PAGE - 1 }
          )
        yield* grow(toServer)
        const growing = yield* fork(grow(toClient))
        while ((yield* pressure) !== "exhausted") yield* Effect.yieldNow
        assert.isUndefined(growing.pollUnsafe())
        assert.deepInclude(yield* only, { usage: 100, pressure: "exhausted" })
        const drainTo = (percent: number) =>
          Effect.gen(function* () {
            while ((yield* only).usage > percent) yield* toServer.read(PAGE)
          })
        yield* drainTo(75)
        assert.strictEqual(yield* pressure, "low")
        // Its own reader has taken nothing: it goes on when that does.
        assert.isUndefined(growing.pollUnsafe())
        while (growing.pollUnsafe() === undefined) {
          yield* toClient.read(PAGE)
          yield* Effect.yieldNow
        }
        yield* toServer.read(toServer.used)
        yield* toClient.read(toClient.used)
        assert.strictEqual(yield* pressure, "none")
        assert.isBelow((yield* only).usage, 7)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("connections that share an exhausted segment all arrive at their end", () =>
    Effect.gen(function* () {
      const count = 8
      const sizes = { rxFifoSize: 16 * KIB, txFifoSize: 16 * KIB, segmentSize: count * 32 * KIB }
      const first = yield* pairOf({ server: sizes })
      const rest = yield* Effect.forEach(Array.from({ length: count - 1 }), () =>
        connectThrough(first.apps.client, first.listener)
      )
      const pairs = [first, ...rest]
      const length = 300_000
      const seen = new Set<string>()
      // Those who read a part of a full FIFO hold a chunk more than its share.
      const before = Effect.andThen(
        Effect.yieldNow,
        Effect.flatMap(SessionLayer, (layer) =>
          Effect.sync(() => {
            for (const { pressure } of layer.segments.stats().segments) seen.add(pressure)
          })
        )
      ).pipe(Effect.provideService(SessionLayer, yield* SessionLayer))
      const write = (connection: Connection.Connection, from: number) =>
        Effect.andThen(connection.write(pattern(length, from)), connection.end)
      const read = (connection: Connection.Connection, from: number) =>
        Effect.map(readAll(connection, { by: 2_500, before }), (bytes) =>
          assert.deepStrictEqual([bytes.length, misplaced(bytes, from)], [length, -1])
        )
      yield* Effect.all(
        pairs.flatMap(({ client, server }, n) => [
          write(client, n),
          write(server, 99 + n),
          read(server, n),
          read(client, 99 + n)
        ]),
        { concurrency: "unbounded" }
      )
      assert.isTrue(seen.has("exhausted"), `the segment was never exhausted: ${[...seen].join(", ")}`)
      for (const { client, server } of rest) {
        yield* client.close
        yield* server.close
      }
      assert.strictEqual(yield* pressure, "none")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
