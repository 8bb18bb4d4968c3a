/** A map of numbers: it holds what a `Map` holds, and what was in it does not grow old. */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { IntMap } from "../../src/internal/IntMap.ts"

/** Small, negative, large, and alike in their low bits. */
const numbers = Array.from(
  { length: 60 },
  (_, i) => [i, -i, i * 2 ** 32, 2 ** 31 + i, i * 4096, 7 + i * 2 ** 33][i % 6]
)

const commands = Arbitrary.array(
  Arbitrary.schema(
    Schema.Struct({
      // More comes than goes, or it would stay small.
      operation: Schema.Literals(["set", "set", "set", "delete", "delete", "clear"]),
      which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: numbers.length - 1 }))
    })
  ),
  { minLength: 1 }
)

describe("IntMap", () => {
  it.prop(
    "holds what a Map holds",
    [commands],
    ([program]) => {
      const map = new IntMap<{ readonly step: number }>()
      const model = new Map<number, { readonly step: number }>()
      for (const [step, { operation, which }] of program.entries()) {
        const number = numbers[which]
        if (operation === "set") {
          map.set(number, { step })
          model.set(number, { step })
        } else if (operation === "delete") {
          assert.strictEqual(map.delete(number), model.delete(number))
        } else if (which === 0) {
          map.clear()
          model.clear()
        }
        assert.strictEqual(map.size, model.size)
        for (const each of numbers) {
          assert.deepStrictEqual(map.get(each), model.get(each))
          assert.strictEqual(map.has(each), model.has(each))
        }
      }
      const sorted = [...model].toSorted(([a], [b]) => a - b)
      assert.deepStrictEqual(
        map.numbers(),
        sorted.map(([number]) => number)
      )
      assert.deepStrictEqual(
        map.values(),
        sorted.map(([, value]) => value)
      )
    },
    { arbitrary: { runs: 200, size: 80 } }
  )

  it("what was in it for a moment is young garbage, however long it has lived itself", () => {
    setFlagsFromString("--expose-gc")
    const collect: () => void = runInNewContext("gc")
    const oldBytes = () => getHeapSpaceStatistics().find((space) => space.space_name === "old_space")!.space_used_size
    const map = new IntMap<object>()
    for (let i = 0; i < 100; i++) map.set(i, {})
    for (let i = 0; i < 98; i++) map.delete(i)
    // It is old from here on.
    collect()
    const before = oldBytes()
    for (let i = 100; i < 100_000; i++) {
      map.set(i, { words: new Array(100).fill(i) })
      map.delete(i - 2)
    }
    // Of eighty megabytes.
    assert.isBelow(oldBytes() - before, 8_000_000)
  })
})
