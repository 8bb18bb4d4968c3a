import * as Endpoint from "@cut-through/core/Endpoint"
import type { Handle } from "@cut-through/core/runtime/HandleTable"
import { AppWorker } from "@cut-through/core/session/AppWorker"
import * as Connections from "@cut-through/core/session/Connections"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { endpoint } from "../fixtures.ts"
import { assertAtRest, makeContexts, makeManager, makeMemory } from "../segment/fixtures.ts"
import { makeSession } from "./fixtures.ts"

const halfOpenOf = (
  client: AppWorker,
  answer: Connections.HalfOpen["answer"] = () => undefined
): Connections.HalfOpen => ({
  client,
  local: Endpoint.withPort(endpoint, 50_000),
  remote: endpoint,
  listener: 1,
  answer
})

describe("Connections", () => {
  it("a half-open is answered by whoever takes it out, and that is one", () => {
    const connections = Connections.make()
    const client = new AppWorker("client/0")
    const halfOpen = halfOpenOf(client)
    const handle = connections.addHalfOpen(halfOpen)
    assert.deepStrictEqual([...client.halfOpens], [handle])
    assert.strictEqual(connections.getHalfOpen(handle), halfOpen)
    assert.deepStrictEqual([...connections.halfOpens()], [halfOpen])
    assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 1 })

    assert.strictEqual(connections.takeHalfOpen(handle), halfOpen)
    assert.isUndefined(connections.takeHalfOpen(handle))
    assert.isUndefined(connections.getHalfOpen(handle))
    assert.strictEqual(client.halfOpens.size, 0)
    assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 0 })
  })

  it("a late call does not find the connect that has its place now", () => {
    const connections = Connections.make()
    const first = connections.addHalfOpen(halfOpenOf(new AppWorker("first/0")))
    connections.takeHalfOpen(first)
    const next = halfOpenOf(new AppWorker("second/0"))
    const second = connections.addHalfOpen(next)
    assert.isUndefined(connections.getHalfOpen(first))
    assert.isUndefined(connections.takeHalfOpen(first))
    assert.strictEqual(connections.takeHalfOpen(second), next)
  })

  it("a session is found in its own worker, under its own handle, until it is removed, once", () => {
    const memory = makeMemory()
    const contexts = makeContexts(memory)
    const manager = makeManager()
    const app = new AppWorker("app/0")
    const leases = Effect.runSync(contexts.acquire({ manager, client: app, server: app }))
    const connections = Connections.make()
    const [first, second, other] = [makeSession(leases, app), makeSession(leases, app), makeSession(leases, app, 7)]
    for (const session of [first, second, other]) connections.addSession(session)
    assert.deepStrictEqual(connections.counts(), { sessions: 3, halfOpens: 0 })
    assert.sameMembers([...app.sessions], [first, second, other])
    assert.deepStrictEqual([...connections.sessions()], [first, second, other])
    assert.strictEqual(connections.getSession(1, first.handle), first)
    assert.strictEqual(connections.getSession(7, other.handle), other)
    // Workers count for themselves: the same handle is another session there, or none.
    assert.strictEqual(first.handle, other.handle)
    assert.isUndefined(connections.getSession(7, second.handle))
    assert.isUndefined(connections.getSession(3, first.handle))

    assert.isTrue(connections.removeSession(first))
    assert.isFalse(connections.removeSession(first))
    assert.isUndefined(connections.getSession(1, first.handle))
    assert.sameMembers([...app.sessions], [second, other])
    const third = makeSession(leases, app)
    connections.addSession(third)
    assert.isUndefined(connections.getSession(1, first.handle))
    assert.isFalse(connections.removeSession(first))
    for (const session of [second, other, third]) assert.isTrue(connections.removeSession(session))
    assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 0 })
    assert.strictEqual(app.sessions.size, 0)
    contexts.release(leases.client)
    contexts.release(leases.server)
    assertAtRest(contexts, memory, [manager])
  })

  const commands = Arbitrary.array(
    Arbitrary.schema(
      Schema.Struct({
        operation: Schema.Literals(["add", "take", "takeAny"]),
        which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9999 }))
      })
    ),
    { minLength: 1 }
  )

  it.prop(
    "whatever the order of answers and late calls, each connect is answered once",
    [commands],
    ([program]) => {
      const connections = Connections.make()
      const clients = [new AppWorker("a/0"), new AppWorker("b/0")]
      const handles: Array<Handle> = []
      const answers: Array<number> = []
      const open = new Set<number>()
      const take = (index: number) => {
        const halfOpen = connections.takeHalfOpen(handles[index])
        assert.strictEqual(halfOpen !== undefined, open.delete(index))
        halfOpen?.answer(undefined as never)
      }
      for (const { operation, which } of program) {
        if (operation === "add") {
          const index = handles.length
          answers.push(0)
          handles.push(connections.addHalfOpen(halfOpenOf(clients[which % 2], () => void answers[index]++)))
          open.add(index)
        } else if (operation === "take") {
          if (open.size > 0) take([...open][which % open.size])
        } else if (handles.length > 0) {
          take(which % handles.length)
        }
        assert.strictEqual(connections.counts().halfOpens, open.size)
        assert.strictEqual(clients[0].halfOpens.size + clients[1].halfOpens.size, open.size)
        assert.strictEqual([...connections.halfOpens()].length, open.size)
      }
      for (const index of handles.keys()) take(index)
      assert.deepStrictEqual(answers, new Array(handles.length).fill(1))
    },
    { arbitrary: { runs: 200, size: 60 } }
  )
})
