import { AppWorker } from "@cut-through/core/session/AppWorker"
import { IllegalTransition, type State, transition } from "@cut-through/core/session/Session"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { assertAtRest, makeContexts, makeManager, makeMemory } from "../segment/fixtures.ts"
import { makeSession } from "./fixtures.ts"

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

const withSession = (use: (session: ReturnType<typeof makeSession>) => void) => {
  const memory = makeMemory()
  const contexts = makeContexts(memory)
  const manager = makeManager()
  const app = new AppWorker("app/0")
  const leases = Effect.runSync(contexts.acquire({ manager, client: app, server: app }))
  use(makeSession(leases, app))
  contexts.release(leases.client)
  contexts.release(leases.server)
  assertAtRest(contexts, memory, [manager])
}

describe("Session", () => {
  for (const from of states) {
    const row = legal[from].trim().split(" ")
    const where = (mark: string) => states.filter((_, column) => row[column] === mark)
    const [good, bad] = [where("X"), where(".")]
    assert.strictEqual(good.length + bad.length, states.length)

    it(`${from} can become ${good.join(", ")}`, () =>
      withSession((session) => {
        for (const to of good) {
          session.state = from
          transition(session, to)
          assert.strictEqual(session.state, to)
        }
      }))

    it(`${from} can become nothing else, and stays what it is`, () =>
      withSession((session) => {
        for (const to of bad) {
          session.state = from
          let error: unknown
          try {
            transition(session, to)
          } catch (thrown) {
            error = thrown
          }
          assert.instanceOf(error, IllegalTransition)
          assert.deepInclude(error, { _tag: "IllegalTransition", from, to })
          assert.strictEqual(error.message, `a session in state ${from} cannot become ${to}`)
          assert.strictEqual(session.state, from)
        }
      }))
  }

  it("every state but the first can be reached, and from every state there is a way out", () => {
    const ways = new Map(
      states.map((from) => [from, states.filter((_, i) => legal[from].trim().split(" ")[i] === "X")])
    )
    const reachable = (from: State) => {
      const found = new Set([from])
      for (const state of found) for (const next of ways.get(state)!) found.add(next)
      return found
    }
    assert.sameMembers([...reachable("created")], [...states])
    for (const state of states) assert.include([...reachable(state)], "closed", state)
  })
})
