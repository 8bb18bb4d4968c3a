import type { SessionError } from "@cut-through/core"
import { App, type Quotas } from "@cut-through/core/session/App"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { AcceptQueue } from "@cut-through/core/session/AppListener"
import * as Connections from "@cut-through/core/session/Connections"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { makeApp, makeHalfOpen, PAGE, sessionMaker } from "./fixtures.ts"

const event: AppEvent = { _tag: "Reset", worker: "app/0", session: { worker: 1, handle: 1 } }

/** A subscriber of the application's events, and how it leaves. */
const subscribe = (app: App) => {
  const scope = Scope.makeUnsafe()
  const queue = Effect.runSync(Scope.provide(app.events.subscribe, scope))
  return { queue, leave: () => Effect.runSync(Scope.close(scope, Exit.void)) }
}

const exceeded = (quota: keyof Quotas, limit: number, what: string) =>
  `the application app has ${limit} ${what} already: finish some first, or attach it with a higher ${quota}`

const messageOf = (reason: SessionError.Reason | undefined) => reason?.message

describe("App", () => {
  it("has its workers, by name and number", () => {
    const app = makeApp({ name: "web", workers: 3 })
    assert.deepStrictEqual(
      app.workers.map((worker) => [worker.app === app, worker.index, worker.name]),
      [
        [true, 0, "web/0"],
        [true, 1, "web/1"],
        [true, 2, "web/2"]
      ]
    )
  })

  describe("connects", () => {
    it("without limits, as many as it likes", () => {
      const app = makeApp()
      app.halfOpens = app.sessions = app.unaccepted = 1_000_000
      assert.isUndefined(app.whyNotConnect())
    })

    it("no more at once than it may have under way", () => {
      const connections = Connections.make()
      const app = makeApp({ quotas: { maxHalfOpens: 2 } })
      const first = connections.addHalfOpen(makeHalfOpen(app))
      assert.isUndefined(app.whyNotConnect())
      const second = connections.addHalfOpen(makeHalfOpen(app))
      const reason = app.whyNotConnect()
      assert.deepInclude(reason, { _tag: "QuotaExceeded", app: "app", quota: "maxHalfOpens", limit: 2 })
      assert.strictEqual(messageOf(reason), exceeded("maxHalfOpens", 2, "connects under way"))
      connections.takeHalfOpen(first)
      assert.isUndefined(app.whyNotConnect())
      connections.takeHalfOpen(second)
      assert.strictEqual(app.halfOpens, 0)
    })

    it("no more than it may have sessions, those it waits for included", () => {
      const connections = Connections.make()
      const app = makeApp({ quotas: { maxSessions: 3 } })
      app.sessions = 2
      assert.isUndefined(app.whyNotConnect())
      const halfOpen = connections.addHalfOpen(makeHalfOpen(app))
      assert.strictEqual(messageOf(app.whyNotConnect()), exceeded("maxSessions", 3, "sessions"))
      connections.takeHalfOpen(halfOpen)
      assert.isUndefined(app.whyNotConnect())
      app.sessions = 3
      assert.strictEqual(messageOf(app.whyNotConnect()), exceeded("maxSessions", 3, "sessions"))
    })

    it("not as long as it is behind with what it has been told", () => {
      const app = makeApp({ quotas: { maxPending: 3 } })
      const { leave, queue } = subscribe(app)
      for (let i = 0; i < 2; i++) app.tell(event)
      assert.isUndefined(app.whyNotConnect())
      app.tell(event)
      const what = "unaccepted connections and unread events"
      assert.strictEqual(messageOf(app.whyNotConnect()), exceeded("maxPending", 3, what))
      Effect.runSync(Queue.take(queue))
      assert.isUndefined(app.whyNotConnect())
      leave()
    })

    it("not when it has detached, whatever else there is", () => {
      const app = makeApp({ quotas: { maxHalfOpens: 1 } })
      app.halfOpens = 1
      app.isDetached = true
      assert.deepInclude(app.whyNotConnect(), { _tag: "Closed", what: "application" })
    })
  })

  describe("accepts", () => {
    it("without limits, as many as come", () => {
      const app = makeApp()
      app.halfOpens = app.sessions = app.unaccepted = app.fifoMemory = 1_000_000
      assert.isUndefined(app.whyNotAccept(2 * PAGE))
    })

    it("no more than it may have sessions", () => {
      const app = makeApp({ quotas: { maxSessions: 2 } })
      app.sessions = 1
      assert.isUndefined(app.whyNotAccept(2 * PAGE))
      app.sessions = 2
      assert.strictEqual(app.whyNotAccept(2 * PAGE), "its application has as many sessions as it may have")
    })

    it("no more than it may have sessions, those it waits for included", () => {
      const connections = Connections.make()
      const app = makeApp({ quotas: { maxSessions: 2 } })
      app.sessions = 1
      const halfOpen = connections.addHalfOpen(makeHalfOpen(app))
      assert.strictEqual(app.whyNotAccept(2 * PAGE), "its application has as many sessions as it may have")
      connections.takeHalfOpen(halfOpen)
      assert.isUndefined(app.whyNotAccept(2 * PAGE))
    })

    it("no more than it may have memory for", () => {
      const app = makeApp({ quotas: { maxFifoMemory: 10 * PAGE } })
      app.fifoMemory = 8 * PAGE
      assert.isUndefined(app.whyNotAccept(2 * PAGE))
      assert.strictEqual(app.whyNotAccept(2 * PAGE + 1), "its application has as much FIFO memory as it may have")
      app.fifoMemory = 10 * PAGE
      assert.strictEqual(app.whyNotAccept(1), "its application has as much FIFO memory as it may have")
    })

    it("not as long as it is behind", () => {
      const app = makeApp({ quotas: { maxPending: 2 } })
      app.unaccepted = 1
      assert.isUndefined(app.whyNotAccept(2 * PAGE))
      app.unaccepted = 2
      assert.strictEqual(app.whyNotAccept(2 * PAGE), "its application has too much to accept and to read already")
    })
  })

  it.effect("is congested by what it has not accepted and what it has not read, together", () =>
    Effect.gen(function* () {
      const { make } = yield* sessionMaker
      const app = makeApp({ quotas: { maxPending: 5 } })
      const queues = [new AcceptQueue(app, 10), new AcceptQueue(app, 10)]
      for (const queue of queues) queue.add(make())
      const [quick, slow] = [subscribe(app), subscribe(app)]
      for (let i = 0; i < 2; i++) app.tell(event)
      assert.isFalse(app.isCongested)
      app.tell(event)
      assert.isTrue(app.isCongested)
      Effect.runSync(Queue.takeAll(quick.queue))
      assert.isTrue(app.isCongested, "the slowest reader counts")
      queues[0].take()
      assert.isFalse(app.isCongested)
      queues[0].add(make())
      assert.isTrue(app.isCongested)
      slow.leave()
      assert.isFalse(app.isCongested)
      quick.leave()
      // Nobody listens: nothing can be unread.
      for (let i = 0; i < 10; i++) app.tell(event)
      assert.isFalse(app.isCongested)
      for (const queue of queues) queue.take()
      assert.strictEqual(app.unaccepted, 0)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it("says before it is told anything that it will be, and what", () => {
    const log: Array<string> = []
    const app = makeApp({ notifying: (what) => log.push(`notifying ${what}`) })
    const { leave } = subscribe(app)
    const { offer } = app.events
    app.events.offer = (event) => {
      log.push(`told ${event._tag}`)
      offer.call(app.events, event)
    }
    app.tell(event)
    assert.deepStrictEqual(log, ["notifying Reset", "told Reset"])
    leave()
  })

  it("is observed as long as somebody listens and it is attached", () => {
    const app = makeApp()
    assert.isFalse(app.isObserved)
    const { leave } = subscribe(app)
    assert.isTrue(app.isObserved)
    app.isDetached = true
    assert.isFalse(app.isObserved)
    app.isDetached = false
    leave()
    assert.isFalse(app.isObserved)
  })
})
