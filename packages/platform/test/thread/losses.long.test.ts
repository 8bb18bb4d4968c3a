/** A hundred threads die under load: nothing grows. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Soak from "../../soak/Soak.ts"

it.live(
  "a hundred threads die under load, and leave nothing",
  () =>
    Effect.gen(function* () {
      const load = { threads: 4, clients: 2, rest: 20, seed: 7 }
      // What is made once is there before it is counted.
      const first = yield* Soak.run({ ...load, kills: 8 })
      const before = yield* Soak.sample
      const outcome = yield* Soak.run({ ...load, kills: 100 })
      const after = yield* Soak.sample
      assert.deepStrictEqual([...first.wrong, ...outcome.wrong, ...Soak.leaks(load, before, after)], [])
      assert.isAtLeast(outcome.kills, 100)
      // Each of them has talked to others, so each of them was attached.
      assert.strictEqual(outcome.lost, outcome.kills)
      assert.isAbove(outcome.ends.get("verified") ?? 0, 0)
      assert.isAbove(outcome.ends.get("PeerDied") ?? 0, 0)
    }).pipe(Effect.provide(Soak.layer)),
  300_000
)
