import { Bytes } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const int = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const thrown = (body: () => void): unknown => {
  try {
    body()
  } catch (error) {
    return error
  }
  return undefined
}

const join = (...parts: ReadonlyArray<Uint8Array>) => Uint8Array.from(parts.flatMap((part) => [...part]))

describe("bytes with a pattern", () => {
  it.effect.prop("are the same in pieces", [int(0, 100_000), int(0, 1000), int(0, 1000)], ([from, one, other]) =>
    Effect.sync(() => {
      const whole = Bytes.pattern(one + other, from)
      assert.deepStrictEqual(join(Bytes.pattern(one, from), Bytes.pattern(other, from + one)), whole)
      assert.isUndefined(Bytes.misplaced(whole, from))
    })
  )

  it.effect.prop("say what was lost", [int(0, 1_000_000), int(0, 500), int(1, 5000)], ([from, before, lost]) =>
    Effect.sync(() => {
      const bytes = join(Bytes.pattern(before, from), Bytes.pattern(100, from + before + lost))
      const misplaced = Bytes.misplaced(bytes, from)
      // The first byte behind what was lost may be the right one by chance.
      const late = misplaced!.position - (from + before)
      assert.isAtMost(late, 8)
      assert.strictEqual(misplaced!.belongsAt, from + before + lost + late)
    })
  )

  it("say what came twice", () => {
    const bytes = join(Bytes.pattern(70_000), Bytes.pattern(1000, 69_000))
    const misplaced = Bytes.misplaced(bytes)
    assert.strictEqual(misplaced?.position, 70_000)
    assert.strictEqual(misplaced?.belongsAt, 69_000)
  })

  it("are told from zeros", () => {
    const bytes = Bytes.pattern(1000)
    bytes.fill(0, 500)
    const misplaced = Bytes.misplaced(bytes)
    assert.isAtLeast(misplaced!.position, 500)
    assert.isUndefined(misplaced!.belongsAt)
    assert.strictEqual(misplaced!.actual, 0)
  })

  it("an assertion names the position and shows what is around it", () => {
    const bytes = Bytes.pattern(1000, 5000)
    bytes[300] ^= 0xff
    const error = thrown(() => Bytes.assertPattern(bytes, { from: 5000 }))
    assert.instanceOf(error, Bytes.MisplacedError)
    const lines = error.message.split("\n")
    assert.strictEqual(lines[0], `byte 5300 is wrong: it is ${bytes[300]}, not ${bytes[300] ^ 0xff}`)
    assert.include(lines[1], "from 5292 on")
    assert.strictEqual(lines[3], "  of 1000 bytes from 5000 on")
    assert.isUndefined(thrown(() => Bytes.assertPattern(Bytes.pattern(1000, 5000), { from: 5000, length: 1000 })))
  })

  it("an assertion counts", () => {
    const error = thrown(() => Bytes.assertPattern(Bytes.pattern(10), { length: 11 }))
    assert.instanceOf(error, Bytes.MisplacedError)
    assert.include(error.message, "there are 10 bytes from 0 on, not 11")
  })
})
