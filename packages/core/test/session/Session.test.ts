import { Application } from "@cut-through/core"
import { NONE } from "@cut-through/core/runtime/HandleTable"
import { type Change, close, closeNow, IllegalTransition, type State } from "@cut-through/core/session/Session"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import { endpoint } from "../fixtures.ts"
import { PAGE, sessionMaker } from "./fixtures.ts"

const states: ReadonlyArray<State> = [
  "created",
  "listening",
  "connecting",
  "accepting",
  "ready",
  "opened",
  "transport-closing",
  "closing",
  "app-closed",
  "transport-closed",
  "closed",
  "transport-deleted"
]

// From (row) to (column), in the order above.
const legal: { readonly [S in State]: string } = {
  created: "             . X X X . . . . . . X .",
  listening: "           . . . . . . . . . . X .",
  connecting: "          . . . . X . . . . . X .",
  accepting: "           . . . . X . X X . . . X",
  ready: "               . . . . . X X X . X . .",
  opened: "              . . . . . . X X . X . .",
  "transport-closing": " . . . . . . . X . X . X",
  closing: "             . . . . . . . . X X . X",
  "app-closed": "        . . . . . . . . . . X X",
  "transport-closed": "  . . . . . . . . . . X X",
  closed: "              . . . . . . . . . . . X",
  "transport-deleted": " . . . . . . . . . . X ."
}

const waysFrom = (from: State, mark: "X" | "."): ReadonlyArray<State> => {
  const row = legal[from].trim().split(" ")
  assert.strictEqual(row.length, states.length)
  return states.filter((_, column) => row[column] === mark)
}

describe("Session", () => {
  describe("transitions", () => {
    for (const from of states) {
      it.effect(`${from} can become ${waysFrom(from, "X").join(", ")}`, () =>
        Effect.gen(function* () {
          const { make } = yield* sessionMaker
          for (const to of waysFrom(from, "X")) {
            const session = make()
            session.state = from
            session.become(to)
            assert.strictEqual(session.state, to)
          }
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )

      it.effect(`${from} can become nothing else, and stays what it is`, () =>
        Effect.gen(function* () {
          const { layer, make } = yield* sessionMaker
          const changes = yield* layer.changes.subscribe
          const session = make()
          session.state = from
          for (const to of waysFrom(from, ".")) {
            let error: unknown
            try {
              session.become(to)
            } catch (thrown) {
              error = thrown
            }
            assert.instanceOf(error, IllegalTransition)
            assert.deepInclude(error, { _tag: "IllegalTransition", from, to })
            assert.strictEqual(error.message, `a session in state ${from} cannot become ${to}`)
            assert.strictEqual(session.state, from)
          }
          assert.strictEqual(Queue.sizeUnsafe(changes), 0, "what has not happened was told")
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
      )
    }

    it("every state can be reached, and from every state there is a way to the end", () => {
      const reachable = (from: State) => {
        const found = new Set([from])
        for (const state of found) for (const next of waysFrom(state, "X")) found.add(next)
        return found
      }
      assert.sameMembers([...reachable("created")], [...states])
      for (const state of states) assert.include([...reachable(state)], "closed", state)
    })

    it.effect("its own side has closed it in four of them", () =>
      Effect.gen(function* () {
        const session = (yield* sessionMaker).make()
        const closing = states.filter((state) => {
          session.state = state
          return session.isClosing
        })
        assert.deepStrictEqual(closing, ["closing", "app-closed", "transport-closed", "closed"])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  })

  it.effect("the two sides see the same connection, each from its end", () =>
    Effect.gen(function* () {
      const { app, doorbells, leases, make, transport } = yield* sessionMaker
      const [client, server] = [make("client"), make("server", 3)]
      for (const session of [client, server]) {
        assert.strictEqual(session.app, app.workers[0])
        assert.strictEqual(session.transport, transport)
        assert.strictEqual(session.state, "created")
        assert.isUndefined(session.peer)
        assert.strictEqual(session.halfOpen, NONE)
      }
      assert.deepStrictEqual(
        [client, server].map(({ rx, tx }) => [rx.size, tx.size]),
        [
          [2 * PAGE, PAGE],
          [PAGE, 2 * PAGE]
        ]
      )
      assert.strictEqual(client.rx, server.tx)
      assert.strictEqual(client.tx, server.rx)
      assert.deepStrictEqual([client.lease, server.lease], [leases.client, leases.server])
      assert.strictEqual(client.doorbell, doorbells.client)
      assert.strictEqual(client.peerDoorbell, server.doorbell)
      assert.strictEqual(server.peerDoorbell, client.doorbell)
      assert.deepStrictEqual(server.local, endpoint)
      assert.strictEqual(server.remote.port, 50_000)
      assert.strictEqual(client.remote, server.local)
      assert.deepStrictEqual(client.local, server.remote)
      // A client's session has come through no listener.
      assert.deepStrictEqual([client.listener, server.listener], [NONE, 7])
      server.handle = 12_345
      assert.deepStrictEqual(server.id, { worker: 3, handle: 12_345 })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("its changes are told as long as somebody listens", () =>
    Effect.gen(function* () {
      const { layer, make } = yield* sessionMaker
      const { changes } = layer
      const offered: Array<Change> = []
      const { offer } = changes
      changes.offer = (change) => {
        offered.push(change)
        offer.call(changes, change)
      }
      const [first, second] = [make(), make("client")]
      first.become("accepting")
      assert.deepStrictEqual(offered, [], "something was made that nobody would hear")
      yield* Effect.gen(function* () {
        const queue = yield* changes.subscribe
        second.become("connecting")
        first.become("ready")
        assert.deepStrictEqual(yield* Queue.takeAll(queue), [
          { session: second, from: "created", to: "connecting" },
          { session: first, from: "accepting", to: "ready" }
        ])
      }).pipe(Effect.scoped)
      first.become("closing")
      assert.strictEqual(offered.length, 2)
      assert.strictEqual(changes.unread, 0)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  describe("close", () => {
    /** The two sessions of a connection. */
    const connected = Effect.gen(function* () {
      const layer = yield* SessionLayer
      const listener = yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      yield* listener.accept
      const sessions = [...layer.connections.sessions()]
      const sideOf = (side: string) => sessions.find((session) => session.side === side) ?? assert.fail("no session")
      return { client: sideOf("client"), server: sideOf("server"), worker: layer.worker(sessions[0].worker) }
    })

    for (const reset of [false, true]) {
      const how = reset ? "breaking off" : "gracefully"

      it.effect(`${how}, takes no time when its worker has none of its calls to do`, () =>
        Effect.gen(function* () {
          const { client, server } = yield* connected
          assert.strictEqual(closeNow(client, reset), Exit.void)
          assert.strictEqual(client.state, "closed")
          assert.strictEqual(server.state, "transport-closing")
          assert.strictEqual(client.isReset, reset)
          assert.strictEqual(closeNow(client, !reset), Exit.void)
          assert.strictEqual(client.isReset, reset, "it was closed twice")
          yield* close(server, reset)
          assert.strictEqual(server.state, "closed")
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
      )

      it.effect(`${how}, waits until nothing of it is left, and so does whoever closes again`, () =>
        Effect.gen(function* () {
          const { client, worker } = yield* connected
          const closing: Array<Fiber.Fiber<void>> = []
          const during: Array<unknown> = []
          worker.send(
            Effect.sync(() => {
              for (const again of [reset, !reset, reset]) closing.push(Effect.runFork(close(client, again)))
              during.push(client.state, ...closing.map((fiber) => fiber.pollUnsafe()))
              // Who waits no longer takes nobody with it.
              closing[1].interruptUnsafe()
            })
          )
          assert.deepStrictEqual(during, ["closing", undefined, undefined, undefined])
          assert.strictEqual(client.state, "closed")
          assert.strictEqual(client.isReset, reset)
          for (const fiber of [closing[0], closing[2]]) assert.deepStrictEqual(fiber.pollUnsafe(), Exit.void)
          assert.isTrue(Exit.hasInterrupts(closing[1].pollUnsafe()!))
        }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
      )
    }
  })
})
