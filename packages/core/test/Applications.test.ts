import { Application, Applications, Endpoint, Sessions } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { endpoint } from "./fixtures.ts"

describe("Applications", () => {
  it.effect("list says what each one holds and what it may hold", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* Applications.list, [])
      yield* Sessions.addNamespace({ id: "payments", secret: "correct horse" })
      const common = { namespace: "payments", namespaceSecret: "correct horse" }
      const server = yield* Application.make({
        ...common,
        name: "server",
        scope: "local",
        workers: 3,
        rxFifoSize: "64 KiB",
        txFifoSize: "32 KiB",
        segmentSize: "1 MiB",
        segmentLinger: "2 seconds",
        maxFifoMemory: "10 MiB",
        maxSessions: 100,
        maxHalfOpens: 10,
        maxPending: 1000
      })
      const client = yield* Application.make({ ...common, name: "client", maxPending: 50 })
      const listener = yield* server.listen(endpoint)
      yield* server.listen(Endpoint.tcp("127.0.0.1", 7001), { approval: "application" })
      const [app] = (yield* SessionLayer).apps()
      // Reads nothing of what it is told: two segments, one for each of the workers, and two accepted connections.
      yield* app.events.subscribe
      yield* client.connect(endpoint)
      yield* client.connect(endpoint)
      yield* listener.accept
      yield* Effect.forkScoped(client.connect(Endpoint.tcp("127.0.0.1", 7001)), { startImmediately: true })
      const [first, second, ...others] = yield* Applications.list
      assert.deepStrictEqual(first, {
        name: "server",
        index: 0,
        namespace: "payments",
        scope: "local",
        thread: undefined,
        workers: 3,
        listeners: 2,
        sessions: 3,
        halfOpens: 0,
        fifoMemory: 3 * (65536 + 32768),
        unaccepted: 2,
        unread: 6,
        quotas: { maxFifoMemory: 10 * 1024 * 1024, maxSessions: 100, maxHalfOpens: 10, maxPending: 1000 },
        rxFifoSize: 65536,
        txFifoSize: 32768,
        segmentSize: 1024 * 1024,
        segmentLinger: Duration.seconds(2)
      })
      assert.deepStrictEqual(second, {
        name: "client",
        index: 1,
        namespace: "payments",
        scope: "both",
        thread: undefined,
        workers: 1,
        listeners: 0,
        sessions: 2,
        halfOpens: 1,
        fifoMemory: 0,
        unaccepted: 0,
        unread: 0,
        quotas: { maxFifoMemory: Infinity, maxSessions: Infinity, maxHalfOpens: Infinity, maxPending: 50 },
        rxFifoSize: 524288,
        txFifoSize: 524288,
        segmentSize: 128 * 1024 * 1024,
        segmentLinger: Duration.zero
      })
      assert.deepStrictEqual(others, [])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("the table shows what is held, of how much where there is a limit", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Applications.format, "no applications")
      const server = yield* Application.make({
        name: "server",
        rxFifoSize: "64 KiB",
        segmentSize: "1 MiB",
        maxFifoMemory: "10 MiB",
        maxSessions: 100,
        maxPending: 1000
      })
      const client = yield* Application.make({
        name: "client",
        scope: "local",
        workers: 2,
        maxHalfOpens: 2,
        maxPending: 1000
      })
      yield* server.listen(endpoint)
      yield* client.connect(endpoint)
      assert.strictEqual(
        yield* Applications.format,
        [
          "Index  Name    Namespace  Scope  Workers  Listeners  Sessions  Half-opens  Pending  Fifo-memory     Rx-fifo  Tx-fifo  Segment",
          "0      server  default    both   1        1          1/100     0           1/1000   576 KiB/10 MiB  64 KiB   512 KiB  1 MiB",
          "1      client  default    local  2        0          1         0/2         0/1000   0 B             512 KiB  512 KiB  128 MiB"
        ].join("\n")
      )
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
