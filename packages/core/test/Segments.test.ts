import { Application, Endpoint, Segments, Sessions } from "@cut-through/core"
import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { endpoint, pattern } from "./fixtures.ts"

const other = Endpoint.tcp("127.0.0.1", 7001)

describe("Segments", () => {
  it.effect("stats says whose each segment is, how full it is, and what all come to", () =>
    Effect.gen(function* () {
      const nothing = { size: 0, committedBytes: 0, usedBytes: 0, usage: 0, contexts: 0, leases: 0, regions: 0 }
      assert.deepStrictEqual(yield* Segments.stats, { ...nothing, segments: [] })
      const sizes = { rxFifoSize: "64 KiB", txFifoSize: "64 KiB", segmentSize: "256 KiB" } as const
      const server = yield* Application.make({ name: "server", ...sizes })
      const client = yield* Application.make({ name: "client" })
      const listener = yield* server.listen(endpoint)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* client.connect(endpoint)
          yield* client.connect(endpoint)
          // Two pairs of 64 KiB are all that a segment of 256 KiB takes.
          const next = yield* client.connect(endpoint)
          yield* next.close
          const { segments, ...totals } = yield* Segments.stats
          assert.deepStrictEqual(
            segments.map(({ segment: _, ...info }) => info),
            [
              {
                listener: "server 127.0.0.1:7000",
                client: "client/0",
                server: "server/0",
                size: 262144,
                // The smallest chunk for each FIFO.
                usedBytes: 4 * MIN_CHUNK_BYTES,
                usage: 0.390625,
                availableBytes: 262144 - 4 * MIN_CHUNK_BYTES,
                committedBytes: 262144,
                activeFifos: 4,
                pressure: "none",
                clientSessions: 2,
                serverSessions: 2,
                clientDetached: false,
                serverDetached: false,
                lingers: false,
                condemned: false
              },
              {
                listener: "server 127.0.0.1:7000",
                client: "client/0",
                server: "server/0",
                size: 262144,
                usedBytes: 2 * MIN_CHUNK_BYTES,
                usage: 0.1953125,
                availableBytes: 262144 - 2 * MIN_CHUNK_BYTES,
                committedBytes: 131072,
                activeFifos: 2,
                pressure: "none",
                clientSessions: 0,
                serverSessions: 1,
                clientDetached: true,
                serverDetached: false,
                lingers: false,
                condemned: false
              }
            ]
          )
          assert.deepStrictEqual(totals, {
            size: 2 * 262144,
            committedBytes: 262144 + 131072,
            usedBytes: 6 * MIN_CHUNK_BYTES,
            usage: 0.29296875,
            contexts: 1,
            leases: 5,
            regions: 2
          })
          assert.strictEqual(totals.usedBytes, (yield* Sessions.residue).fifoBytes)
        })
      )
      for (let count = 0; count < 3; count++) yield* (yield* listener.accept).reset
      assert.deepStrictEqual(yield* Segments.stats, { ...nothing, segments: [] })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("the table shows pressure, usage, sides that have left, and what lingers", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Segments.format, "no segments")
      const client = yield* Application.make({ name: "client" })
      const sizes = { rxFifoSize: "64 KiB", txFifoSize: "4 KiB", segmentSize: "68 KiB" } as const
      const small = yield* (yield* Application.make({ name: "small", ...sizes })).listen(endpoint)
      const big = yield* (yield* Application.make({ name: "big", segmentLinger: "1 minute" })).listen(other)
      yield* Effect.scoped(Effect.andThen(client.connect(other), big.accept))
      const full = yield* client.connect(endpoint)
      yield* full.write(pattern(60 * 1024))
      const left = yield* client.connect(endpoint)
      const servers = [yield* small.accept, yield* small.accept]
      yield* left.close
      const table = (last: string) => [
        "Listener              Client    Server   Segment  Size     Used      Usage  Committed  Fifos  Pressure  Clients  Servers  Flags",
        "big 127.0.0.1:7001    client/0  big/0    #1       128 MiB  0 B       0.0%   0 B        0      none      0        0        lingers",
        "small 127.0.0.1:7000  client/0  small/0  #2       68 KiB   64 KiB    94.1%  68 KiB     2      high      1        1        -",
        last
      ]
      assert.strictEqual(
        yield* Segments.format,
        [
          ...table(
            "small 127.0.0.1:7000  client/0  small/0  #3       68 KiB   4.25 KiB  6.3%   68 KiB     2      none      0        1        client-detached"
          ),
          "3 segments, 128.13 MiB: 68.25 KiB used (0.1%), 136 KiB committed; 2 contexts, 5 leases, 3 regions"
        ].join("\n")
      )
      for (const connection of [full, ...servers]) yield* connection.reset
      assert.include(yield* Segments.format, "\n1 segment, 128 MiB: ")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
