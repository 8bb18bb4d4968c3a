import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert, describe, it } from "@effect/vitest"

describe("SharedWords", () => {
  it("a region need not be whole words long: its last bytes are bytes only", () => {
    for (const length of [5, 6, 7]) {
      const words = new SharedWords(new SharedArrayBuffer(length))
      words.store(0, 42)
      words.zero(4, length)
      assert.strictEqual(words.byteLength, length)
      assert.strictEqual(words.load(0), 42)
    }
  })
})
