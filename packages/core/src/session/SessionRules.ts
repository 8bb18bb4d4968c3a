/**
 * Which connects are allowed, dropped, or sent to another listener, by where
 * they come from and where they go.
 *
 * @since 0.1.0
 */
import * as Endpoint from "../Endpoint.ts"
import * as HandleTable from "../runtime/HandleTable.ts"
import * as SessionError from "../SessionError.ts"

/**
 * What becomes of a connect: it goes on as if there were no rule, it fails, or
 * it reaches the listener with this handle, whatever it has dialed.
 *
 * @category models
 * @since 0.1.0
 */
export type Action = "allow" | "drop" | { readonly redirect: HandleTable.Handle }

/**
 * What to do with the connects from an address and port (`local`, the side that
 * connects) to an address and port (`remote`, which it dials).
 *
 * An address is a prefix, `"10.0.0.0/8"`, or one address, `"::1"`; left out, it
 * is any. With one of the two the other is any of the same family, with neither
 * the rule is for both families. A port that is 0 or left out is any.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  readonly local?: string | Endpoint.Prefix | undefined
  readonly localPort?: number | undefined
  readonly remote?: string | Endpoint.Prefix | undefined
  readonly remotePort?: number | undefined
  readonly action: Action
  /** For people: nothing depends on it. */
  readonly tag?: string | undefined
}

/**
 * A rule that was found valid. It is a rule again: added to a table, it makes
 * another one.
 *
 * @category models
 * @since 0.1.0
 */
export interface CompiledRule {
  /** Given together with `remote`, and of the same family, or not at all. */
  readonly local: Endpoint.Prefix | undefined
  readonly localPort: number
  readonly remote: Endpoint.Prefix | undefined
  readonly remotePort: number
  readonly action: Action
  readonly tag: string | undefined
  /** Of the rules that match, the one with the highest rank decides. */
  readonly rank: number
  /** Lookups it has decided. */
  hits: number
}

const invalid = (what: string, value: string, expected: string): SessionError.SessionError =>
  SessionError.make(new SessionError.InvalidArgument({ what, value, expected }))

const everyV4 = Endpoint.prefix("0.0.0.0/0")
const everyV6 = Endpoint.prefix("::/0")

/**
 * Checks a rule. Throws a `SessionError` with reason `InvalidArgument` when a
 * prefix or a port is not one, when the two addresses are of different
 * families, and when what to redirect to cannot be the handle of a listener.
 *
 * **Example** (Not a rule)
 *
 * ```ts
 * import * as SessionRules from "@cut-through/core/session/SessionRules"
 *
 * const check = () => {
 *   try {
 *     return SessionRules.compile({ local: "10.0.0.0/8", remote: "::1", action: "drop" })
 *   } catch (error) {
 *     return String(error)
 *   }
 * }
 * check() // => `SessionError: the remote prefix is "::1/128": expected one of the family of the local 10.0.0.0/8`
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const compile = (rule: Rule): CompiledRule => {
  const given = { local: prefixOf(rule.local), remote: prefixOf(rule.remote) }
  const local = given.local ?? everyLike(given.remote)
  const remote = given.remote ?? everyLike(given.local)
  if (local?.words.length !== remote?.words.length) {
    const value = JSON.stringify(remote?.text)
    throw invalid("the remote prefix", value, `one of the family of the local ${local?.text}`)
  }
  const localPort = portOf("the local port", rule.localPort)
  const remotePort = portOf("the remote port", rule.remotePort)
  const { action, tag } = rule
  if (typeof action === "object") checkHandle(action.redirect)
  const rank = rankOf(local, localPort, remote, remotePort)
  return { local, localPort, remote, remotePort, action, tag, rank, hits: 0 }
}

const prefixOf = (prefix: string | Endpoint.Prefix | undefined): Endpoint.Prefix | undefined =>
  typeof prefix === "string" ? Endpoint.prefix(prefix) : prefix

const everyLike = (prefix: Endpoint.Prefix | undefined): Endpoint.Prefix | undefined =>
  prefix && (prefix.words.length === everyV4.words.length ? everyV4 : everyV6)

const portOf = (what: string, port = 0): number => {
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw invalid(what, String(port), "an integer from 0 to 65535")
}

// An index, of an application say, is not a handle: that one is taken for the other has to show here, and not in a
// connect that reaches a stranger. No table gives out generation 0.
const checkHandle = (handle: HandleTable.Handle): void => {
  if (Number.isSafeInteger(handle) && handle > HandleTable.indexOf(handle)) return
  throw invalid("the redirect", String(handle), "the handle of a listener")
}

/**
 * The number of bits that match; among equals, those of the remote address,
 * then a remote port, then a family. A rule within another one (it matches only
 * where the other does) has all of the other's bits and more, or the same bits
 * and a family where the other has none: its rank is always higher.
 */
const rankOf = (
  local: Endpoint.Prefix | undefined,
  localPort: number,
  remote: Endpoint.Prefix | undefined,
  remotePort: number
): number => {
  const remoteBits = remote?.length ?? 0
  const bits = remoteBits + (local?.length ?? 0) + (remotePort === 0 ? 0 : 16) + (localPort === 0 ? 0 : 16)
  // In one number, with room for the 128 bits of an address.
  return ((bits * 256 + remoteBits) * 2 + Math.min(1, remotePort)) * 2 + (remote === undefined ? 0 : 1)
}

const isSameMatch = (a: CompiledRule, b: CompiledRule): boolean =>
  a.local?.text === b.local?.text &&
  a.localPort === b.localPort &&
  a.remote?.text === b.remote?.text &&
  a.remotePort === b.remotePort

const matches = (
  { local, localPort, remote, remotePort }: CompiledRule,
  localWords: ReadonlyArray<number>,
  fromPort: number,
  remoteWords: ReadonlyArray<number>,
  toPort: number
): boolean =>
  (remotePort === 0 || remotePort === toPort) &&
  (localPort === 0 || localPort === fromPort) &&
  (remote === undefined || Endpoint.covers(remote, remoteWords)) &&
  (local === undefined || Endpoint.covers(local, localWords))

/**
 * Rules, of which the longest match decides: the one with the most bits of both
 * addresses and 16 for each port. Among equals the longer remote prefix wins,
 * then the one with a remote port, then the earlier. So an exception beats what
 * it is an exception from, and removing it uncovers that again.
 *
 * **Example** (An exception)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 * import { SessionRules } from "@cut-through/core/session/SessionRules"
 *
 * const rules = new SessionRules()
 * rules.add({ remote: "10.0.0.0/8", action: "drop" })
 * const exception = rules.add({ remote: "10.1.0.0/16", remotePort: 80, action: "allow" })
 *
 * const local = Endpoint.tcp("127.0.0.1", 49152)
 * const remote = Endpoint.tcp("10.1.2.3", 80)
 * rules.lookup(local, remote)?.action // => "allow"
 * rules.remove(exception) // => true
 * rules.lookup(local, remote)?.action // => "drop"
 * rules.lookup(local, Endpoint.tcp("192.0.2.1", 80)) // => undefined
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class SessionRules {
  // By rank, highest first. Another array with every change, so that whoever goes through the rules can change them.
  private rules: ReadonlyArray<CompiledRule> = []

  /** Rules in the table. */
  get size(): number {
    return this.rules.length
  }

  /** Whether there are none. */
  get isEmpty(): boolean {
    return this.rules.length === 0
  }

  /**
   * Adds a rule, in the place of the one that matches exactly the same, if there
   * is one. Throws like {@link compile}.
   */
  add(rule: Rule): CompiledRule {
    const compiled = compile(rule)
    const same = this.rules.findIndex((other) => isSameMatch(other, compiled))
    if (same >= 0) {
      this.rules = this.rules.with(same, compiled)
      return compiled
    }
    const below = this.rules.findIndex((other) => other.rank < compiled.rank)
    this.rules = this.rules.toSpliced(below < 0 ? this.rules.length : below, 0, compiled)
    return compiled
  }

  /** Removes the very rule that `add` returned; false when it is not there any more. */
  remove(rule: CompiledRule): boolean {
    const left = this.rules.filter((other) => other !== rule)
    if (left.length === this.rules.length) return false
    this.rules = left
    return true
  }

  /** The rule that decides over a connect, if there is one, and counts that it did. */
  lookup(local: Endpoint.Endpoint, remote: Endpoint.Endpoint): CompiledRule | undefined {
    const { rules } = this
    if (rules.length === 0) return undefined
    const localWords = Endpoint.addressWords(local)
    const remoteWords = Endpoint.addressWords(remote)
    for (let i = 0; i < rules.length; i++) {
      const rule = rules[i]
      if (matches(rule, localWords, local.port, remoteWords, remote.port)) {
        rule.hits++
        return rule
      }
    }
    return undefined
  }

  /** The rules in the order they are tried. */
  [Symbol.iterator](): IterableIterator<CompiledRule> {
    return this.rules.values()
  }
}

/**
 * The columns of a rule in a listing: from, to, action, tag and hits.
 *
 * @category formatting
 * @since 0.1.0
 */
export const row = (rule: CompiledRule): ReadonlyArray<string> => [
  `[tcp] ${formatSide(rule.local, rule.localPort)}`,
  `-> ${formatSide(rule.remote, rule.remotePort)}`,
  `action ${formatAction(rule.action)}`,
  `tag ${formatTag(rule.tag)}`,
  `hits ${rule.hits}`
]

/**
 * A rule in one line, as VPP's `show session rules` has them: `*` is any
 * address of both families, or any port, and a listener goes by its place in
 * its table.
 *
 * **Example** (A line)
 *
 * ```ts
 * import * as SessionRules from "@cut-through/core/session/SessionRules"
 *
 * const rule = SessionRules.compile({ remote: "10.0.0.0/8", remotePort: 80, action: "drop", tag: "web" })
 * SessionRules.format(rule) // => "[tcp] 0.0.0.0/0:* -> 10.0.0.0/8:80 action drop tag web hits 0"
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (rule: CompiledRule): string => row(rule).join(" ")

const formatSide = (prefix: Endpoint.Prefix | undefined, port: number): string => {
  const address = prefix?.text ?? "*"
  return `${address.includes(":") ? `[${address}]` : address}:${port === 0 ? "*" : port}`
}

const formatAction = (action: Action): string =>
  typeof action === "object" ? `redirect ${HandleTable.indexOf(action.redirect)}` : action

// One line and one word, whatever is in it.
const formatTag = (tag: string | undefined): string =>
  tag === undefined ? "none" : /^[\w./-]+$/.test(tag) ? tag : JSON.stringify(tag)
