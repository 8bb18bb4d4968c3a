import { Application, Sessions } from "@cut-through/core"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { endpoint, pattern } from "./fixtures.ts"

describe("Sessions", () => {
  it.effect("the table shows worker, session, addresses, state and both FIFOs", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(pattern(12))
      assert.strictEqual(
        yield* Sessions.format,
        [
          "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  ESTABLISHED  rx 12/131072  tx 0/131072",
          "[1:1][CT:T] 127.0.0.1:49152->127.0.0.1:7000  ESTABLISHED  rx 0/131072   tx 12/131072"
        ].join("\n")
      )
      yield* client.close
      assert.strictEqual(
        yield* Sessions.format,
        "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  TRANSPORT-CLOSING  rx 12/131072  tx 0/131072"
      )
      yield* server.close
      assert.strictEqual(yield* Sessions.format, "")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("two connections between the same applications share a segment", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      yield* Application.connect(endpoint)
      const residue = yield* Sessions.residue
      assert.deepStrictEqual([residue.sessions, residue.segments, residue.leases], [4, 1, 4])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("10,000 connections take ceil(10,000 / pairs in a segment) segments, and none when they are closed", () =>
    Effect.gen(function* () {
      const count = 10_000
      const sizes = { rxFifoSize: 65536, txFifoSize: 65536, segmentSize: 128 * 1024 * 1024 }
      const server = yield* Application.make({ name: "server", ...sizes })
      const client = yield* Application.make({ name: "client" })
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* server.listen(endpoint, { backlog: count })
          for (let i = 0; i < count; i++) yield* client.connect(endpoint)
          // 128 MiB / (64 KiB + 64 KiB) = 1024 pairs in a segment; 10,000 / 1024 = 9.77.
          const pairs = FifoSegment.pairsPerSegment(sizes.segmentSize, sizes.rxFifoSize, sizes.txFifoSize)
          assert.strictEqual(pairs, 1024)
          const residue = yield* Sessions.residue
          assert.deepStrictEqual(
            [residue.sessions, residue.segments, residue.contexts],
            [2 * count, Math.ceil(count / pairs), 1]
          )
          assert.strictEqual(residue.segments, 10)
          // Both FIFOs of a connection start with one page each.
          assert.strictEqual(residue.fifoBytes, count * 2 * 4096)
        })
      )
      assert.isTrue(Object.values(yield* Sessions.residue).every((left) => left === 0))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("segments are told apart by listener, client and server", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer
      const server = yield* Application.make({ name: "server", workers: 2 })
      const clients = [yield* Application.make({ name: "one" }), yield* Application.make({ name: "two" })]
      yield* server.listen(endpoint)
      // Each client meets both workers of the server.
      for (const client of clients) for (let i = 0; i < 4; i++) yield* client.connect(endpoint)
      const { contexts, segments } = layer.segments.stats()
      assert.deepStrictEqual([contexts, segments.length], [4, 4])
      assert.deepStrictEqual(
        segments.map(({ clientSessions, serverSessions }) => [clientSessions, serverSessions]),
        [
          [2, 2],
          [2, 2],
          [2, 2],
          [2, 2]
        ]
      )
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("closing from either side: the last of both sides takes the segment with it", () =>
    Effect.gen(function* () {
      for (const first of ["client", "server"] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const listener = yield* Application.listen(endpoint)
            const client = yield* Application.connect(endpoint)
            const server = yield* listener.accept
            const layer = yield* SessionLayer
            yield* (first === "client" ? client : server).close
            const [segment] = layer.segments.stats().segments
            assert.deepStrictEqual(
              [segment.clientDetached, segment.serverDetached],
              [first === "client", first === "server"]
            )
            // A segment that one side has left is not given to anybody any more.
            const next = yield* Application.connect(endpoint)
            assert.strictEqual(layer.segments.stats().segments.length, 2)
            yield* next.close
            yield* (first === "client" ? server : client).close
            yield* (yield* listener.accept).close
            assert.strictEqual(layer.segments.stats().segments.length, 0)
          })
        )
      }
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})
