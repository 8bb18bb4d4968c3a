import { type Handle, HandleTable, indexOf, NONE } from "@cut-through/core/runtime/HandleTable"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"

const LIMIT = 2 ** 20

const int = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const commands = Arbitrary.array(
  Arbitrary.schema(
    Schema.Struct({
      // More comes than goes, or the table would stay small.
      operation: Schema.Literals(["add", "add", "add", "remove", "remove", "removeAll"]),
      which: int(9999)
    })
  ),
  { minLength: 1 }
)

describe("HandleTable", () => {
  it.prop(
    "finds what a map finds, under any handle it has ever given out",
    [commands],
    ([program]) => {
      const table = new HandleTable<{ readonly number: number }>()
      const model = new Map<Handle, { readonly number: number }>()
      const given: Array<Handle> = []
      let peak = 0
      for (const { operation, which } of program) {
        if (operation === "add") {
          const value = { number: given.length }
          const handle = table.add(value)
          assert.notStrictEqual(handle, NONE)
          assert.isFalse(given.includes(handle), "a handle was given out twice")
          assert.isAtMost(indexOf(handle), peak, "a new index while old ones were free")
          given.push(handle)
          model.set(handle, value)
          peak = Math.max(peak, model.size)
        } else if (operation === "remove") {
          const handle = given[which % Math.max(1, given.length)] ?? which
          assert.strictEqual(table.remove(handle), model.get(handle))
          model.delete(handle)
        } else if (which % 4 === 0) {
          for (const handle of model.keys()) assert.isDefined(table.remove(handle))
          model.clear()
        }
        assert.strictEqual(table.size, model.size)
        for (const handle of given) assert.strictEqual(table.get(handle), model.get(handle))
        const byIndex = [...model].toSorted(([a], [b]) => indexOf(a) - indexOf(b))
        assert.deepStrictEqual(
          [...table],
          byIndex.map(([, value]) => value)
        )
      }
    },
    { arbitrary: { runs: 300, size: 80 } }
  )

  it("a stale handle finds nothing where a stranger lives now", () => {
    const table = new HandleTable<string>()
    const first = table.add("first")
    assert.strictEqual(table.remove(first), "first")
    const second = table.add("second")
    assert.strictEqual(indexOf(second), indexOf(first))
    assert.isUndefined(table.get(first))
    assert.isUndefined(table.remove(first))
    assert.strictEqual(table.get(second), "second")
  })

  it("removes once", () => {
    const table = new HandleTable<string>()
    const handle = table.add("value")
    assert.strictEqual(table.remove(handle), "value")
    assert.isUndefined(table.remove(handle))
    assert.strictEqual(table.size, 0)
    // Given back once only: two further values do not get the same index.
    assert.notStrictEqual(indexOf(table.add("a")), indexOf(table.add("b")))
  })

  it("finds nothing under what was never a handle of it", () => {
    const table = new HandleTable<string>()
    const handle = table.add("value")
    for (const other of [NONE, -1, handle - 1, handle + 1, handle + LIMIT, handle + 0.5, -handle, NaN, Infinity]) {
      assert.isUndefined(table.get(other), `${other}`)
      assert.isUndefined(table.remove(other), `${other}`)
    }
    assert.strictEqual(table.size, 1)
  })

  it("uses an index again, under another handle each time", () => {
    const table = new HandleTable<number>()
    const given = new Set<Handle>()
    for (let i = 0; i < 10_000; i++) {
      const handle = table.add(i)
      assert.strictEqual(indexOf(handle), 0)
      given.add(handle)
      table.remove(handle)
    }
    assert.strictEqual(given.size, 10_000)
  })

  it("goes through its values by index, not by age", () => {
    const table = new HandleTable<string>()
    const [a, , c] = ["a", "b", "c"].map((value) => table.add(value))
    table.remove(a)
    assert.deepStrictEqual([...table], ["b", "c"])
    table.add("d")
    assert.deepStrictEqual([...table], ["d", "b", "c"])
    table.remove(c)
    assert.deepStrictEqual([...table], ["d", "b"])
  })

  it("is full with 1,048,576 values, and has room again when one goes", () => {
    const table = new HandleTable<number>()
    for (let i = 0; i < LIMIT; i++) table.add(i)
    assert.throws(() => table.add(LIMIT), RangeError, "more than 1048576 values in one table")
    assert.strictEqual(table.size, LIMIT)
    const handle = LIMIT + 7
    assert.strictEqual(table.remove(handle), 7)
    const again = table.add(-7)
    assert.strictEqual(indexOf(again), 7)
    assert.isUndefined(table.get(handle))
    assert.strictEqual(table.get(again), -7)
  })

  describe("beyond 32 bits", () => {
    /** The handle of the index's `generation`th value: an index is used again, until it has come that far. */
    const ofGeneration = (table: HandleTable<string>, generation: number): Handle => {
      for (let i = 1; i < generation; i++) table.remove(table.add(""))
      return table.add(`generation ${generation}`)
    }

    for (const bits of [31, 32, 33, 40]) {
      it(`handles from 2 ** ${bits} on are as good as any`, () => {
        const table = new HandleTable<string>()
        const before = ["index 0", "index 1", "index 2"].map((value) => table.add(value))
        table.remove(before[1])
        const generation = 2 ** (bits - 20)
        const last = ofGeneration(table, generation - 2)
        assert.isBelow(last, 2 ** bits)
        table.remove(last)
        const handle = table.add("here")
        assert.strictEqual(handle, 2 ** bits + 1)
        assert.strictEqual(indexOf(handle), 1)
        assert.strictEqual(table.get(handle), "here")
        // The same low 32 bits, the same index, and the neighbours.
        for (const other of [before[1], last, handle - LIMIT, handle + LIMIT, handle % 2 ** 32, handle + 2 ** 32]) {
          if (other === handle) continue
          assert.isUndefined(table.get(other), `${other}`)
          assert.isUndefined(table.remove(other), `${other}`)
        }
        assert.deepStrictEqual([...table], ["index 0", "here", "index 2"])
        assert.strictEqual(table.remove(handle), "here")
        assert.isUndefined(table.get(handle))
        const next = table.add("next")
        assert.strictEqual(next, handle + LIMIT)
        assert.strictEqual(table.get(next), "next")
        assert.isUndefined(table.get(handle))
        assert.deepStrictEqual([table.get(before[0]), table.get(before[2])], ["index 0", "index 2"])
      })
    }

    it("indexes are the low 20 bits of handles of any size", () => {
      for (const index of [0, 1, 7, 2 ** 19, LIMIT - 1]) {
        for (const generation of [1, 2 ** 11, 2 ** 12, 2 ** 12 + 1, 2 ** 20 + 3, 2 ** 32, 2 ** 33 - 1]) {
          assert.strictEqual(indexOf(generation * LIMIT + index), index)
        }
      }
    })
  })
})
