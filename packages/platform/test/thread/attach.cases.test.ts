/** The same programs wherever their sides are: the test decides that, and they do not know. */
import * as Application from "@cut-through/core/Application"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import { assert, describe, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { MessageChannel, type MessagePort } from "node:worker_threads"
import { type Case, type CaseName, cases } from "./life-cases.ts"
import { atRest, layerHost, startThread, type Thread } from "./life-fixtures.ts"
import { runSides } from "./life-parts.ts"
import { talkOver } from "./life-talk.ts"

type Side = "server" | "client"

/** Two threads for all of it; a third one is a worker of the first. */
class Threads extends Context.Service<Threads, { readonly one: Thread; readonly other: Thread }>()("Threads") {}

const layerThreads = Layer.effect(Threads, Effect.all({ one: startThread(), other: startThread() }, { concurrency: 2 }))

const places = {
  "the host": undefined,
  "a thread": { thread: "one", depth: 0 },
  "another thread": { thread: "other", depth: 0 },
  "a worker of the thread": { thread: "one", depth: 1 },
  "a worker of that one": { thread: "one", depth: 2 }
} as const
type Place = keyof typeof places

const pairs: ReadonlyArray<readonly [server: Place, client: Place, isOne?: boolean]> = [
  ["the host", "the host"],
  ["the host", "the host", true],
  ["the host", "a thread"],
  ["a thread", "the host"],
  ["a thread", "another thread"],
  ["a thread", "a thread"],
  ["a thread", "a thread", true],
  ["a worker of the thread", "a thread"],
  ["another thread", "a worker of that one"],
  ["the host", "a worker of that one"]
]

const run = (place: Place, name: CaseName, sides: ReadonlyArray<Side>, port: MessagePort) =>
  Effect.gen(function* () {
    const { one, other } = yield* Threads
    const found: Case = cases[name]
    const sizes: AttachOptions = { name: sides.join(" and "), segmentSize: 2 ** 20 }
    const attach: AttachOptions = Object.assign(sizes, found.options?.[sides[0]])
    const where = places[place]
    if (where === undefined) {
      return yield* Effect.scoped(
        Effect.flatMap(Application.make(attach), (application) =>
          Effect.provideService(
            Effect.scoped(runSides(talkOver(port), { name, sides })),
            Application.Application,
            application
          )
        )
      ).pipe(Effect.ensuring(Effect.sync(() => port.close())))
    }
    const thread = where.thread === "one" ? one : other
    const running = yield* thread.run("sides", { name, sides, options: attach }, { depth: where.depth, talk: port })
    return yield* running.result
  })

layer(layerThreads, { excludeTestServices: true })("the same programs", (it) => {
  for (const [server, client, isOne] of pairs) {
    const where = isOne ? `in one application of ${server}` : `server in ${server}, client in ${client}`
    describe(`${where}`, () => {
      for (const name of Object.keys(cases) as Array<CaseName>) {
        if (isOne && (cases[name] as Case).apart === true) continue
        it.effect(name, () =>
          Effect.gen(function* () {
            const { port1, port2 } = new MessageChannel()
            const sides = isOne
              ? [run(server, name, ["server", "client"], port1)]
              : [run(server, name, ["server"], port1), run(client, name, ["client"], port2)]
            const paths = yield* Effect.all(sides, { concurrency: 2 })
            if (name === "a megabyte both ways") {
              const path = server === client && (isOne || server === "the host") ? "fiber" : "thread"
              assert.deepStrictEqual(new Set(paths), new Set([path]))
            }
            yield* atRest()
            const { lost, rejected } = (yield* CutThroughHost.CutThroughHost).stats()
            assert.deepStrictEqual({ lost, rejected }, { lost: 0, rejected: 0 })
          }).pipe(Effect.provide(layerHost))
        )
      }
    })
  }
})
