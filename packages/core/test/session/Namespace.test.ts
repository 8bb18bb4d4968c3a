import * as Namespace from "@cut-through/core/session/Namespace"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"

/** As a text, and hidden. */
const bothWays = (secret: string) => [secret, Redacted.make(secret)]

describe("Namespace", () => {
  it("has a table and rules of its own", () => {
    const [first, second] = [Namespace.make("a", undefined), Namespace.make("a", undefined)]
    assert.notStrictEqual(first.table, second.table)
    assert.notStrictEqual(first.rules, second.rules)
    assert.deepStrictEqual([...first.table], [])
    assert.isTrue(first.rules.isEmpty)
    assert.notStrictEqual(Namespace.makeReach().table, Namespace.makeReach().table)
  })

  it("does not show its secret", () => {
    for (const secret of bothWays("correct horse")) {
      const namespace = Namespace.make("a", secret)
      for (const shown of [JSON.stringify(namespace), String(namespace.secret), inspect(namespace, { depth: 9 })]) {
        assert.notInclude(shown, "correct horse")
      }
    }
  })

  for (const [what, secret] of [
    ["text", "correct horse"],
    ["hidden secret", Redacted.make("correct horse")]
  ] as const) {
    it(`made with a ${what}, it is opened by that secret and by nothing else`, () => {
      const namespace = Namespace.make("a", secret)
      for (const given of bothWays("correct horse")) assert.isTrue(Namespace.isSecret(namespace, given))
      for (const wrong of [
        "correct house",
        "Correct horse",
        "Xorrect horse",
        // Parts of it, and it with more.
        "correct hors",
        "c",
        "orrect horse",
        "correct horse ",
        " correct horse",
        "correct horse\0",
        "correct horsecorrect horse",
        "correct horse".repeat(3),
        // Its letters in another order.
        "horse correct",
        ""
      ]) {
        for (const given of bothWays(wrong)) assert.isFalse(Namespace.isSecret(namespace, given), JSON.stringify(wrong))
      }
      assert.isFalse(Namespace.isSecret(namespace, undefined))
    })
  }

  it("without a secret it is open to whoever gives none", () => {
    const namespace = Namespace.make("a", undefined)
    assert.isTrue(Namespace.isSecret(namespace, undefined))
    // Whoever gives one believes to be protected by it.
    for (const given of [...bothWays(""), ...bothWays("anything")]) {
      assert.isFalse(Namespace.isSecret(namespace, given))
    }
  })

  it("an empty secret is one that whoever gives none knows", () => {
    for (const secret of bothWays("")) {
      const namespace = Namespace.make("a", secret)
      for (const given of [undefined, ...bothWays("")]) assert.isTrue(Namespace.isSecret(namespace, given))
      for (const given of [...bothWays("\0"), ...bothWays("x"), ...bothWays("xx")]) {
        assert.isFalse(Namespace.isSecret(namespace, given))
      }
    }
  })

  it("characters of more than one byte, or of none that is seen, count", () => {
    const namespace = Namespace.make("a", "päß🔑\0")
    assert.isTrue(Namespace.isSecret(namespace, "päß🔑\0"))
    // The last one differs from the first in the lower half of a surrogate pair alone.
    for (const wrong of ["pas🔑\0", "päß🔑", "päß🔑\u0001", "päß🔐\0"]) {
      assert.isFalse(Namespace.isSecret(namespace, wrong), JSON.stringify(wrong))
    }
  })

  // Few letters, so that much is alike.
  const text = Arbitrary.map(
    Arbitrary.array(Arbitrary.schema(Schema.Literals(["a", "b", "\0"])), { maxLength: 6 }),
    (letters) => letters.join("")
  )

  it.prop(
    "any two texts are the same secret when they are the same text",
    [text, text],
    ([secret, given]) => {
      assert.strictEqual(Namespace.isSecret(Namespace.make("a", secret), given), secret === given)
    },
    { arbitrary: { runs: 2000 } }
  )
})
