import type { Handle } from "@cut-through/core/runtime/HandleTable"
import * as Connections from "@cut-through/core/session/Connections"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { makeApp, makeHalfOpen, sessionMaker } from "./fixtures.ts"

const int = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

describe("Connections", () => {
  it("a half-open is answered by whoever takes it out, and that is one", () => {
    const connections = Connections.make()
    const client = makeApp()
    const halfOpen = makeHalfOpen(client)
    const handle = connections.addHalfOpen(halfOpen)
    assert.strictEqual(halfOpen.handle, handle)
    assert.strictEqual(client.halfOpens, 1)
    assert.strictEqual(connections.getHalfOpen(handle), halfOpen)
    assert.deepStrictEqual([...connections.halfOpens()], [halfOpen])
    assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 1 })

    assert.strictEqual(connections.takeHalfOpen(handle), halfOpen)
    assert.isUndefined(connections.takeHalfOpen(handle))
    assert.isUndefined(connections.getHalfOpen(handle))
    assert.strictEqual(client.halfOpens, 0)
    assert.deepStrictEqual([...connections.halfOpens()], [])
    assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 0 })
  })

  it("D20, D22 a late call does not find the connect that has its place now", () => {
    const connections = Connections.make()
    const first = connections.addHalfOpen(makeHalfOpen(makeApp({ name: "first" })))
    connections.takeHalfOpen(first)
    const next = makeHalfOpen(makeApp({ name: "second" }))
    const second = connections.addHalfOpen(next)
    assert.isUndefined(connections.getHalfOpen(first))
    assert.isUndefined(connections.takeHalfOpen(first))
    assert.strictEqual(next.client.app.halfOpens, 1)
    assert.strictEqual(connections.takeHalfOpen(second), next)
  })

  it.effect("a session is found in its own worker, under its own handle, until it is removed, once", () =>
    Effect.gen(function* () {
      const { app, make } = yield* sessionMaker
      const [worker] = app.workers
      const connections = Connections.make()
      const [first, second, other] = [make(), make("client"), make("server", 7)]
      for (const session of [first, second, other]) connections.addSession(session)
      assert.deepStrictEqual(connections.counts(), { sessions: 3, halfOpens: 0 })
      assert.strictEqual(app.sessions, 3)
      assert.sameMembers([...worker.sessions], [first, second, other])
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
      assert.sameMembers([...worker.sessions], [second, other])
      const third = make()
      connections.addSession(third)
      assert.isUndefined(connections.getSession(1, first.handle))
      assert.isFalse(connections.removeSession(first), "D29 a stale handle takes out a stranger")
      assert.strictEqual(app.sessions, 3)
      for (const session of [second, other, third]) assert.isTrue(connections.removeSession(session))
      assert.deepStrictEqual(connections.counts(), { sessions: 0, halfOpens: 0 })
      assert.strictEqual(app.sessions, 0)
      assert.deepStrictEqual(worker.sessions, [])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("there is no session in a worker that does not exist", () =>
    Effect.gen(function* () {
      const { make } = yield* sessionMaker
      const connections = Connections.make()
      const session = make()
      connections.addSession(session)
      for (const worker of [0, 2, 1000, -1, 0.5, NaN]) {
        assert.isUndefined(connections.getSession(worker, session.handle), `${worker}`)
      }
      assert.isTrue(connections.removeSession(session))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  const sessionCommands = Arbitrary.array(
    Arbitrary.schema(
      Schema.Struct({ operation: Schema.Literals(["add", "add", "remove", "removeGone"]), which: int(9999) })
    ),
    { minLength: 1 }
  )

  it.effect.prop(
    "whatever comes and goes, each worker of an application knows its sessions",
    [sessionCommands],
    ([program]) =>
      Effect.gen(function* () {
        const { app, make } = yield* sessionMaker
        const [worker] = app.workers
        const connections = Connections.make()
        const live = new Set<ReturnType<typeof make>>()
        const gone: Array<ReturnType<typeof make>> = []
        for (const { operation, which } of program) {
          const sessions = [...live]
          if (operation === "add") {
            const session = make("server", which % 3)
            connections.addSession(session)
            live.add(session)
          } else if (operation === "remove" && sessions.length > 0) {
            const session = sessions[which % sessions.length]
            assert.isTrue(connections.removeSession(session))
            live.delete(session)
            gone.push(session)
          } else if (gone.length > 0) {
            assert.isFalse(connections.removeSession(gone[which % gone.length]))
          }
          assert.sameMembers([...worker.sessions], [...live])
          for (const [place, session] of worker.sessions.entries()) assert.strictEqual(session.place, place)
          assert.sameMembers([...connections.sessions()], [...live])
          assert.strictEqual(connections.counts().sessions, live.size)
          assert.strictEqual(app.sessions, live.size)
          for (const session of live)
            assert.strictEqual(connections.getSession(session.worker, session.handle), session)
        }
        for (const session of live) assert.isTrue(connections.removeSession(session))
        assert.strictEqual(app.sessions, 0)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions(), { local: true })),
    { arbitrary: { runs: 100, size: 40 } }
  )

  const commands = Arbitrary.array(
    Arbitrary.schema(Schema.Struct({ operation: Schema.Literals(["add", "take", "takeAny"]), which: int(9999) })),
    { minLength: 1 }
  )

  it.prop(
    "whatever the order of answers and late calls, each connect is answered once",
    [commands],
    ([program]) => {
      const connections = Connections.make()
      const clients = [makeApp({ name: "a" }), makeApp({ name: "b" })]
      const handles: Array<Handle> = []
      const answers: Array<number> = []
      const open = new Set<number>()
      const take = (index: number) => {
        const halfOpen = connections.takeHalfOpen(handles[index])
        assert.strictEqual(halfOpen !== undefined, open.delete(index))
        halfOpen?.request.answer(undefined as never)
      }
      for (const { operation, which } of program) {
        if (operation === "add") {
          const index = handles.length
          answers.push(0)
          const answer = () => {
            answers[index]++
            return undefined
          }
          const halfOpen = makeHalfOpen(clients[which % 2], { answer })
          handles.push(connections.addHalfOpen(halfOpen))
          open.add(index)
        } else if (operation === "take") {
          if (open.size > 0) take([...open][which % open.size])
        } else if (handles.length > 0) {
          take(which % handles.length)
        }
        assert.strictEqual(connections.counts().halfOpens, open.size)
        assert.strictEqual(clients[0].halfOpens + clients[1].halfOpens, open.size)
        assert.strictEqual([...connections.halfOpens()].length, open.size)
      }
      for (const index of handles.keys()) take(index)
      assert.deepStrictEqual(answers, new Array(handles.length).fill(1))
      assert.deepStrictEqual(
        clients.map(({ halfOpens }) => halfOpens),
        [0, 0]
      )
    },
    { arbitrary: { runs: 200, size: 60 } }
  )
})
