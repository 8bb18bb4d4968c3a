/**
 * A namespace: applications of one namespace find each other in its local
 * session table, which those of other namespaces do not see. All share the
 * global one.
 *
 * @since 0.1.0
 */
import * as Redacted from "effect/Redacted"
import { SessionRules } from "./SessionRules.ts"
import { SessionTable } from "./SessionTable.ts"

/**
 * The namespace of applications that name none. It has no secret.
 *
 * @category constants
 * @since 0.1.0
 */
export const DEFAULT = "default"

/**
 * A session table and the rules that come before it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reach {
  readonly table: SessionTable
  readonly rules: SessionRules
}

/**
 * An empty table without rules.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeReach = (): Reach => ({ table: new SessionTable(), rules: new SessionRules() })

/**
 * A namespace.
 *
 * @category models
 * @since 0.1.0
 */
export interface Namespace extends Reach {
  readonly id: string
  readonly secret: Redacted.Redacted | undefined
}

/**
 * A namespace with an empty table.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (id: string, secret: string | Redacted.Redacted | undefined): Namespace => ({
  id,
  secret: typeof secret === "string" ? Redacted.make(secret) : secret,
  ...makeReach()
})

/**
 * Whether a secret is the namespace's. Takes a time that depends on the length
 * of what was given, and on nothing of the namespace's own.
 *
 * **Example** (The right one and a wrong one)
 *
 * ```ts
 * import * as Namespace from "@cut-through/core/session/Namespace"
 *
 * const namespace = Namespace.make("payments", "correct horse")
 * Namespace.isSecret(namespace, "correct horse") // => true
 * Namespace.isSecret(namespace, "correct house") // => false
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isSecret = (namespace: Namespace, given: string | Redacted.Redacted | undefined): boolean => {
  // A secret for a namespace that has none is a mistake, and protects nothing.
  if (namespace.secret === undefined) return given === undefined
  const expected = Redacted.value(namespace.secret)
  const actual = given === undefined || typeof given === "string" ? (given ?? "") : Redacted.value(given)
  let difference = expected.length ^ actual.length
  // Everything given is compared with something expected: nothing ends early.
  for (let i = 0; i < actual.length; i++) {
    difference |= actual.charCodeAt(i) ^ (expected.length === 0 ? 0 : expected.charCodeAt(i % expected.length))
  }
  return difference === 0
}
