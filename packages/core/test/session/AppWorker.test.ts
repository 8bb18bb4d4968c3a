import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import { makeManager, PAGE, sessionMaker } from "./fixtures.ts"

describe("AppWorker", () => {
  it.effect("knows its sessions, whoever of them leaves first", () =>
    Effect.gen(function* () {
      const { app, make } = yield* sessionMaker
      const [worker] = app.workers
      const [a, b, c, d] = [make(), make(), make(), make()]
      const assertHas = (...expected: Array<typeof a>) => {
        assert.sameMembers([...worker.sessions], expected)
        for (const [place, session] of worker.sessions.entries()) assert.strictEqual(session.place, place)
        assert.strictEqual(app.sessions, expected.length)
      }
      for (const session of [a, b, c, d]) worker.addSession(session)
      assertHas(a, b, c, d)
      worker.removeSession(d)
      assertHas(a, b, c)
      worker.removeSession(a)
      assertHas(b, c)
      worker.addSession(d)
      worker.removeSession(c)
      assertHas(b, d)
      worker.removeSession(b)
      worker.removeSession(d)
      assertHas()
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("knows its segments, and says when they come and go", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer
      const app = yield* layer.attach({
        name: "app",
        workers: 2,
        segmentSize: 2 * PAGE,
        rxFifoSize: PAGE,
        txFifoSize: PAGE
      })
      const [client, server] = app.workers
      const manager = makeManager(app)
      const acquire = layer.segments.acquire({ manager, client, server })
      const releaseAll = ({ client, server }: Effect.Success<typeof acquire>) => {
        layer.segments.release(client)
        layer.segments.release(server)
      }
      // What happens while nobody listens is not told, and does not have to be.
      const unheard = yield* acquire
      yield* Effect.gen(function* () {
        const events = yield* app.events.subscribe
        const [first, second] = [yield* acquire, yield* acquire]
        const segments = [first, second].map((leases) => leases.client.segment)
        for (const worker of app.workers) {
          assert.sameOrderedMembers(worker.segments, [unheard.client.segment, ...segments])
        }
        const tellOf = (_tag: "SegmentAdded" | "SegmentDeleted", which: number, who = [server, client]) =>
          who.map((worker) => ({
            _tag,
            worker: worker.name,
            listener: "app",
            segment: segments[which].id,
            ...(_tag === "SegmentAdded" ? { size: 2 * PAGE } : undefined)
          })) as ReadonlyArray<AppEvent>
        releaseAll(first)
        for (const worker of app.workers) {
          assert.sameOrderedMembers(worker.segments, [unheard.client.segment, segments[1]])
        }
        releaseAll(second)
        assert.deepStrictEqual(yield* Queue.takeAll(events), [
          ...tellOf("SegmentAdded", 0),
          ...tellOf("SegmentAdded", 1),
          ...tellOf("SegmentDeleted", 0),
          ...tellOf("SegmentDeleted", 1)
        ])
      }).pipe(Effect.scoped)
      releaseAll(unheard)
      for (const worker of app.workers) assert.deepStrictEqual(worker.segments, [])
      layer.detach(app)
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )
})
