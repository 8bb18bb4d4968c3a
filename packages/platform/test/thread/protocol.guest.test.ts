/** What crosses on its way between a guest and its host: one has said something before it hears what the other has said. */
import { Application, Endpoint, type Listener } from "@cut-through/core"
import { CutThroughHost } from "@cut-through/platform"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { reasonOf } from "../../../core/test/fixtures.ts"
import { attachHere, layerHost, until } from "./hostile-fixtures.ts"

const endpoint = Endpoint.tcp("127.0.0.1", 80)

/** An application in the host's thread, which does what it does at once, and a guest, which hears of that later. */
const both = Effect.gen(function* () {
  const here = yield* Application.make({ name: "here" })
  const { application: guest, residue } = yield* attachHere({ name: "guest" })
  const host = yield* CutThroughHost.CutThroughHost
  return { here, guest, residue, host }
})

const takes = {
  accept: ({ accept }: Listener.Listener) => Effect.asVoid(accept),
  request: ({ request }: Listener.Listener) => Effect.asVoid(request)
}

const turn = Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))

describe("a connection for somebody who has just given up", () => {
  for (const [what, take] of Object.entries(takes)) {
    it.live(`${what}: goes to the next one who waits for it`, () =>
      Effect.gen(function* () {
        const { guest, here, host } = yield* both
        const listener = yield* guest.listen(endpoint)
        const first = yield* Effect.forkScoped(take(listener))
        const second = yield* Effect.forkScoped(take(listener))
        for (let i = 0; i < 20; i++) yield* turn
        const connecting = yield* Effect.forkScoped(here.connect(endpoint))
        // The host has given it to the first one already.
        first.interruptUnsafe()
        assert.strictEqual(reasonOf(yield* Fiber.await(first)), "Interrupt")
        yield* Fiber.join(second)
        yield* Fiber.join(connecting)
        assert.strictEqual(host.stats().rejected, 0)
      }).pipe(Effect.scoped, Effect.provide(layerHost()))
    )
  }
})

describe("an application that leaves while something is on its way", () => {
  /** A guest whose scope is the test's to close, and what it holds. */
  const leaving = Effect.gen(function* () {
    const here = yield* Application.make({ name: "here" })
    const host = yield* CutThroughHost.CutThroughHost
    const scope = yield* Scope.make()
    const { application, residue } = yield* Scope.provide(attachHere({ name: "guest" }), scope)
    const leave = Scope.close(scope, Exit.void)
    const atRest = Effect.map(
      until(() => host.stats().guests === 0),
      () => {
        assert.deepStrictEqual(host.stats(), { guests: 0, pairs: 0, mappings: 0, rejected: 0, lost: 0 })
        assert.deepStrictEqual(
          { ...residue(), listeners: 0 },
          { sessions: 0, listeners: 0, requests: 0, segments: 0, pairs: 0 }
        )
      }
    )
    return { here, guest: application, leave, atRest }
  })

  it.live("a connection for a listener: nobody gets it, and its client hears of that", () =>
    Effect.gen(function* () {
      const { atRest, guest, here, leave } = yield* leaving
      const listener = yield* guest.listen(endpoint)
      const reading = yield* Effect.forkScoped(
        Effect.exit(Effect.flatMap(listener.accept, (connection) => connection.read))
      )
      const requesting = yield* Effect.forkScoped(Effect.exit(listener.request))
      for (let i = 0; i < 20; i++) yield* turn
      const first = yield* here.connect(endpoint)
      const second = yield* here.connect(endpoint)
      // On their way to the guest, which is on its way out.
      yield* leave
      assert.strictEqual(reasonOf(yield* Fiber.join(reading)), "Closed")
      assert.strictEqual(reasonOf(yield* Fiber.join(requesting)), "Closed")
      for (const client of [first, second]) assert.strictEqual(reasonOf(yield* Effect.exit(client.read)), "Reset")
      yield* atRest
    }).pipe(Effect.scoped, Effect.provide(layerHost()))
  )

  for (const where of ["here", "there"] as const) {
    it.live(`a connect to a listener that is ${where}: is over`, () =>
      Effect.gen(function* () {
        const { atRest, guest, here, leave } = yield* leaving
        yield* (where === "here" ? here : guest).listen(endpoint)
        const connecting = yield* Effect.forkScoped(Effect.exit(guest.connect(endpoint)))
        yield* leave
        assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), "Closed")
        yield* atRest
      }).pipe(Effect.scoped, Effect.provide(layerHost()))
    )
  }

  it.live("what is asked of it from then on: is closed, and the host hears nothing of it", () =>
    Effect.gen(function* () {
      const { atRest, guest, here, leave } = yield* leaving
      yield* here.listen(endpoint)
      const listenerScope = yield* Scope.make()
      const listener = yield* Scope.provide(guest.listen(Endpoint.tcp("127.0.0.1", 81)), listenerScope)
      const connection = yield* guest.connect(endpoint)
      const pull = yield* Stream.toPull(guest.events)
      const pulling = yield* Effect.forkScoped(Effect.exit(pull))
      for (let i = 0; i < 20; i++) yield* turn
      const left = yield* Effect.forkScoped(leave)
      yield* Effect.yieldNow
      const outcomes = yield* Effect.all(
        [
          Effect.exit(guest.connect(endpoint)),
          Effect.exit(guest.listen(Endpoint.tcp("127.0.0.1", 82))),
          Effect.exit(listener.accept),
          Effect.exit(listener.request),
          Effect.exit(connection.write(Uint8Array.of(1))),
          Effect.exit(connection.read)
        ].map((effect) => Effect.map(effect, (exit) => reasonOf(exit))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(outcomes, ["Closed", "Closed", "Closed", "Closed", "Closed", "Closed"])
      yield* connection.end
      yield* connection.close
      assert.strictEqual(reasonOf(yield* Fiber.join(pulling)), "Done")
      assert.strictEqual(reasonOf(yield* Effect.exit(pull)), "Done")
      yield* Scope.close(listenerScope, Exit.void)
      yield* Fiber.join(left)
      yield* atRest
    }).pipe(Effect.scoped, Effect.provide(layerHost()))
  )
})
