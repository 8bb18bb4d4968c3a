import * as Endpoint from "@cut-through/core/Endpoint"
import { AcceptQueue, NOBODY_LISTENS, type Server } from "@cut-through/core/session/AppListener"
import type { Session } from "@cut-through/core/session/Session"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { endpoint } from "../fixtures.ts"
import { makeApp, makeListener, makeManager, PAGE, sessionMaker } from "./fixtures.ts"

/** The slots that a queue keeps, holes included: what it must not let grow. */
const slotsOf = (queue: AcceptQueue): number => (queue as unknown as { waiting: ReadonlyArray<unknown> }).waiting.length

const takeAll = (queue: AcceptQueue): ReadonlyArray<Session> => {
  const taken: Array<Session> = []
  for (let session = queue.take(); session !== undefined; session = queue.take()) taken.push(session)
  return taken
}

describe("AcceptQueue", () => {
  const withQueue = <E>(
    limit: number,
    test: (queue: AcceptQueue, make: () => Session, app: ReturnType<typeof makeApp>) => void | Effect.Effect<void, E>
  ) =>
    Effect.gen(function* () {
      const { make } = yield* sessionMaker
      const app = makeApp()
      const queue = new AcceptQueue(app, limit)
      const result = test(queue, make, app)
      if (Effect.isEffect(result)) yield* result
      assert.strictEqual(queue.length, 0)
      assert.strictEqual(app.unaccepted, 0)
      assert.strictEqual(slotsOf(queue), 0)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))

  it.effect("gives out who has waited longest, and counts who waits", () =>
    withQueue(10, (queue, make, app) => {
      const [a, b, c] = [make(), make(), make()]
      assert.isUndefined(queue.take())
      queue.add(a)
      queue.add(b)
      assert.strictEqual(a.queue, queue)
      assert.deepStrictEqual([queue.length, app.unaccepted], [2, 2])
      assert.strictEqual(queue.take(), a)
      assert.isUndefined(a.queue)
      queue.add(c)
      assert.deepStrictEqual([queue.length, app.unaccepted], [2, 2])
      assert.sameOrderedMembers([...takeAll(queue)], [b, c])
      assert.isUndefined(queue.take())
    })
  )

  it.effect("lets anybody go, once, and the others keep their order", () =>
    withQueue(10, (queue, make, app) => {
      const sessions = Array.from({ length: 6 }, make)
      const [a, b, c, d, e, f] = sessions
      for (const session of sessions) queue.add(session)
      for (const session of [c, a, f]) {
        assert.isTrue(queue.remove(session))
        assert.isUndefined(session.queue)
        assert.isFalse(queue.remove(session))
      }
      assert.deepStrictEqual([queue.length, app.unaccepted], [3, 3])
      assert.strictEqual(queue.take(), b)
      assert.isFalse(queue.remove(b))
      assert.isTrue(queue.remove(d))
      queue.add(c)
      assert.sameOrderedMembers([...takeAll(queue)], [e, c])
    })
  )

  it.effect("is not to be confused with another one of the same application", () =>
    withQueue(10, (queue, make, app) => {
      const other = new AcceptQueue(app, 10)
      const [a, b] = [make(), make()]
      queue.add(a)
      other.add(b)
      assert.isFalse(queue.remove(b))
      assert.isFalse(other.remove(a))
      assert.strictEqual(app.unaccepted, 2)
      assert.strictEqual(other.take(), b)
      assert.isTrue(queue.remove(a))
    })
  )

  it.effect("does not grow with thousands who come and leave again, as long as few wait", () =>
    withQueue(10, (queue, make) => {
      const patient = make()
      queue.add(patient)
      const others = [make(), make(), make()]
      for (const session of others) queue.add(session)
      let most = 0
      for (let i = 0; i < 10_000; i++) {
        const session = make()
        queue.add(session)
        const leaving = i % 2 === 0 ? session : others.splice(i % 3, 1, session)[0]
        assert.isTrue(queue.remove(leaving))
        most = Math.max(most, slotsOf(queue))
      }
      assert.strictEqual(queue.length, 4)
      assert.isAtMost(most, 64)
      assert.strictEqual(queue.take(), patient)
      assert.sameMembers([...takeAll(queue)], others)
    })
  )

  it.effect("does not grow with thousands who are accepted, as long as somebody waits", () =>
    withQueue(10, (queue, make) => {
      const line = [make(), make()]
      for (const session of line) queue.add(session)
      let most = 0
      for (let i = 0; i < 10_000; i++) {
        const session = make()
        queue.add(session)
        line.push(session)
        assert.strictEqual(queue.take(), line.shift())
        most = Math.max(most, slotsOf(queue))
      }
      assert.isAtMost(most, 64)
      assert.sameOrderedMembers([...takeAll(queue)], line)
    })
  )

  it.effect("thousands leave from the middle of thousands, and each is where it says", () =>
    withQueue(10_000, (queue, make) => {
      const sessions = Array.from({ length: 5000 }, make)
      for (const session of sessions) queue.add(session)
      const left = sessions.filter((_, i) => i % 7 === 3)
      for (const session of sessions) if (!left.includes(session)) assert.isTrue(queue.remove(session))
      assert.strictEqual(queue.length, left.length)
      assert.isAtMost(slotsOf(queue), 2 * left.length + 32)
      for (const session of left.slice(100, 200)) assert.isTrue(queue.remove(session))
      assert.sameOrderedMembers([...takeAll(queue)], [...left.slice(0, 100), ...left.slice(200)])
    })
  )

  it.effect("takes up to its limit, and one more when somebody waits for it", () =>
    withQueue(2, (queue, make) => {
      const accepter = { resume: () => {} }
      assert.isUndefined(queue.refusal)
      const first = make()
      queue.add(first)
      assert.isUndefined(queue.refusal)
      queue.add(make())
      assert.strictEqual(queue.refusal, "2 connections wait to be accepted there already")
      queue.accepters.push(accepter)
      assert.isUndefined(queue.refusal)
      queue.accepters.pop()
      queue.remove(first)
      assert.isUndefined(queue.refusal)
      queue.take()
      queue.accepters.push(accepter)
      queue.isClosed = true
      assert.strictEqual(queue.refusal, NOBODY_LISTENS)
    })
  )

  const commands = Arbitrary.array(
    Arbitrary.schema(
      Schema.Struct({
        operation: Schema.Literals(["add", "addMany", "take", "remove", "removeMany", "removeGone"]),
        which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9999 }))
      })
    ),
    { minLength: 1 }
  )

  it.effect.prop(
    "whoever comes, leaves and is accepted: it is a line",
    [commands],
    ([program]) =>
      withQueue(10, (queue, make, app) => {
        const line: Array<Session> = []
        const gone: Array<Session> = []
        const remove = (which: number) => {
          const [session] = line.splice(which % line.length, 1)
          assert.isTrue(queue.remove(session))
          gone.push(session)
        }
        for (const { operation, which } of program) {
          if (operation.startsWith("add")) {
            for (let count = operation === "add" ? 1 : 1 + (which % 50); count > 0; count--) {
              const session = make()
              line.push(session)
              queue.add(session)
            }
          } else if (operation === "take") {
            const session = line.shift()
            assert.strictEqual(queue.take(), session)
            if (session !== undefined) gone.push(session)
          } else if (operation === "remove") {
            if (line.length > 0) remove(which)
          } else if (operation === "removeMany") {
            for (let count = which % 50; count > 0 && line.length > 0; count--) remove(which * count)
          } else if (gone.length > 0) {
            assert.isFalse(queue.remove(gone[which % gone.length]))
          }
          assert.strictEqual(queue.length, line.length)
          assert.strictEqual(app.unaccepted, line.length)
          assert.isAtMost(slotsOf(queue), 2 * line.length + 32)
        }
        assert.sameOrderedMembers([...takeAll(queue)], line)
      }),
    { arbitrary: { runs: 100, size: 60 } }
  )
})

describe("AppListener", () => {
  /** A listener with a server for each worker, each with a queue of its own. */
  const setUp = (workers: number, limit = 1, quotas: Parameters<typeof makeApp>[0] = {}) => {
    const app = makeApp({ workers, ...quotas })
    const listener = makeListener(endpoint, { app })
    const servers = app.workers.map((worker): Server => ({
      worker,
      manager: makeManager(app),
      queue: new AcceptQueue(app, limit)
    }))
    for (const server of servers) listener.addServer(server)
    return { app, listener, servers }
  }

  const numberOf = (listener: ReturnType<typeof makeListener>): number | string => {
    const selected = listener.selectServer()
    return typeof selected === "string" ? selected : selected.worker.index
  }

  const select = (listener: ReturnType<typeof makeListener>, count: number) =>
    Array.from({ length: count }, () => numberOf(listener))

  it("is what it was made as", () => {
    const app = makeApp()
    const at = Endpoint.tcp("0.0.0.0", 0)
    const listener = makeListener(at, { app, approval: "application", isProxy: true })
    assert.strictEqual(listener.app, app)
    assert.strictEqual(listener.endpoint, at)
    assert.strictEqual(listener.approval, "application")
    assert.isTrue(listener.isProxy)
    assert.isFalse(listener.isClosed)
    assert.deepStrictEqual(listener.servers, [])
  })

  it("its workers take turns", () => {
    const { listener } = setUp(3)
    assert.deepStrictEqual(select(listener, 7), [0, 1, 2, 0, 1, 2, 0])
  })

  it.effect("those whose queue is full are passed over, and have their turn when there is room", () =>
    Effect.gen(function* () {
      const { make } = yield* sessionMaker
      const { listener, servers } = setUp(3)
      const fill = (which: number) => servers[which].queue.add(make())
      fill(1)
      assert.deepStrictEqual(select(listener, 4), [0, 2, 0, 2])
      fill(0)
      assert.deepStrictEqual(select(listener, 2), [2, 2])
      fill(2)
      assert.strictEqual(numberOf(listener), "1 connections wait to be accepted there already")
      servers[1].queue.take()
      assert.deepStrictEqual(select(listener, 2), [1, 1])
      for (const { queue } of servers) queue.take()
      assert.sameMembers([...select(listener, 3)], [0, 1, 2])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it("says why nobody takes it: as the one says whose turn it is", () => {
    const { app, listener, servers } = setUp(2, 1, { quotas: { maxSessions: 1 } })
    app.sessions = 1
    assert.strictEqual(numberOf(listener), "its application has as many sessions as it may have")
    servers[0].queue.isClosed = true
    assert.strictEqual(numberOf(listener), NOBODY_LISTENS)
    app.sessions = 0
    assert.deepStrictEqual(select(listener, 2), [1, 1])
    assert.strictEqual(listener.whyNot(servers[0]), NOBODY_LISTENS)
    assert.isUndefined(listener.whyNot(servers[1]))
  })

  it("asks for as much memory as a connection comes to use", () => {
    const { app, listener, servers } = setUp(1, 1, { quotas: { maxFifoMemory: 5 * PAGE } })
    app.fifoMemory = 3 * PAGE
    assert.strictEqual(numberOf(listener), 0)
    app.fifoMemory = 4 * PAGE
    const refusal = "its application has as much FIFO memory as it may have"
    assert.strictEqual(numberOf(listener), refusal)
    assert.strictEqual(listener.whyNot(servers[0]), refusal)
  })

  it("R6 nobody takes it when it has closed, or nobody serves it", () => {
    const { listener } = setUp(0)
    assert.strictEqual(numberOf(listener), NOBODY_LISTENS)
    const served = setUp(2).listener
    served.isClosed = true
    assert.strictEqual(numberOf(served), NOBODY_LISTENS)
  })

  it("workers with one queue come and go together", () => {
    const { app, listener, servers } = setUp(4)
    const shared = new AcceptQueue(app, 1)
    const others = [0, 2].map((which): Server => ({ ...servers[which], queue: shared }))
    for (const server of others) listener.addServer(server)
    assert.deepStrictEqual(select(listener, 6), [0, 1, 2, 3, 0, 2])
    assert.sameOrderedMembers([...listener.removeServers(shared)], others)
    assert.deepStrictEqual(listener.removeServers(shared), [])
    assert.sameOrderedMembers([...listener.servers], servers)
    assert.sameMembers([...select(listener, 4)], [0, 1, 2, 3])
    // The one whose turn it is leaves, too.
    select(listener, 3)
    listener.removeServers(servers[3].queue)
    assert.sameMembers([...select(listener, 3)], [0, 1, 2])
    for (const { queue } of servers) listener.removeServers(queue)
    assert.deepStrictEqual(listener.servers, [])
    assert.strictEqual(numberOf(listener), NOBODY_LISTENS)
  })
})
