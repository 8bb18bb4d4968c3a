import * as Endpoint from "@cut-through/core/Endpoint"
import { HandleTable } from "@cut-through/core/runtime/HandleTable"
import * as SessionRules from "@cut-through/core/session/SessionRules"
import * as SessionError from "@cut-through/core/SessionError"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"

type Rule = SessionRules.Rule

const tableOf = (...rules: ReadonlyArray<Rule>) => {
  const table = new SessionRules.SessionRules()
  for (const rule of rules) table.add(rule)
  return table
}

/** The endpoint `address port`. */
const at = (text: string) => {
  const [address, port] = text.split(" ")
  return Endpoint.tcp(address, Number(port))
}

const LOCAL = { v4: at("10.9.9.9 50000"), v6: at("fd00::9 50000") }

/** What the rules say of a connect to `address port`, from some endpoint of the same family. */
const actionOn = (table: SessionRules.SessionRules, remote: string) =>
  table.lookup(remote.includes(":") ? LOCAL.v6 : LOCAL.v4, at(remote))?.action

const tagsOf = (table: SessionRules.SessionRules) => [...table].map(({ tag }) => tag)

const messageOf = (rule: Rule): string => {
  const table = tableOf()
  const messages = [() => SessionRules.compile(rule), () => table.add(rule)].map((run) => {
    try {
      run()
    } catch (error) {
      assert.instanceOf(error, SessionError.SessionError)
      assert.strictEqual(error.reason._tag, "InvalidArgument")
      return error.message
    }
    return assert.fail("nothing was thrown")
  })
  assert.strictEqual(messages[0], messages[1])
  assert.isTrue(table.isEmpty)
  return messages[0]
}

describe("SessionRules", () => {
  it("an empty table does not even look at the endpoints", () => {
    const untouchable = new Proxy(LOCAL.v4, { get: () => assert.fail("looked at") })
    const table = tableOf()
    assert.isUndefined(table.lookup(untouchable, untouchable))
    assert.isTrue(table.remove(table.add({ action: "drop" })))
    assert.isUndefined(table.lookup(untouchable, untouchable))
    assert.isTrue(table.isEmpty)
    assert.strictEqual(table.size, 0)
  })

  describe("a prefix matches the addresses that begin with it", () => {
    for (const [prefix, inside, outside] of [
      ["10.1.2.3/0", ["0.0.0.0", "127.0.0.1", "128.0.0.0", "255.255.255.255"], []],
      ["172.16.0.0/16", ["172.16.0.0", "172.16.255.255"], ["172.15.255.255", "172.17.0.0", "44.16.0.0"]],
      ["192.0.2.4/30", ["192.0.2.4", "192.0.2.7"], ["192.0.2.3", "192.0.2.8", "64.0.2.4"]],
      ["192.0.2.1/32", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2", "192.0.2.3"]],
      ["192.0.2.1", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2"]],
      ["fd00::1/0", ["::", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], []],
      ["fd00::/8", ["fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], ["fc00::", "fe00::", "7d00::"]],
      ["2001:db8:0:7::/64", ["2001:db8:0:7::", "2001:db8:0:7:ffff:ffff:ffff:ffff"], ["2001:db8::", "2001:db8:0:8::"]],
      ["2001:db8::2/127", ["2001:db8::2", "2001:db8::3"], ["2001:db8::1", "2001:db8::4", "2001:db9::2"]],
      ["2001:db8::1/128", ["2001:db8::1"], ["2001:db8::", "2001:db8::3", "a001:db8::1"]],
      ["::1", ["::1"], ["::", "::2", "::8000:1", "0:0:0:1::1"]]
    ] as const) {
      it(`${prefix}`, () => {
        const remote = tableOf({ remote: prefix, action: "drop" })
        const local = tableOf({ local: prefix, action: "drop" })
        for (const address of [...inside, ...outside]) {
          const endpoint = Endpoint.tcp(address, 80)
          const other = endpoint._tag === "InetAddressV4" ? LOCAL.v4 : LOCAL.v6
          const expected = inside.some((text) => text === address) ? "drop" : undefined
          assert.strictEqual(remote.lookup(other, endpoint)?.action, expected, `to ${address}`)
          assert.strictEqual(local.lookup(endpoint, other)?.action, expected, `from ${address}`)
        }
      })
    }
  })

  it("a rule of one family matches nothing of the other, on whichever side it has its address", () => {
    for (const rule of [{ remote: "0.0.0.0/0" }, { local: "0.0.0.0/0" }, { local: "10.0.0.0/8", remotePort: 80 }]) {
      const table = tableOf({ ...rule, action: "drop" })
      assert.strictEqual(actionOn(table, "10.0.0.1 80"), "drop")
      assert.isUndefined(actionOn(table, "::1 80"))
      assert.isUndefined(actionOn(table, "::ffff:10.0.0.1 80"))
    }
    for (const rule of [{ remote: "::/0" }, { local: "::/0" }, { local: "fd00::/8", remotePort: 80 }]) {
      const table = tableOf({ ...rule, action: "drop" })
      assert.strictEqual(actionOn(table, "::1 80"), "drop")
      assert.strictEqual(actionOn(table, "::ffff:10.0.0.1 80"), "drop")
      assert.isUndefined(actionOn(table, "10.0.0.1 80"))
    }
  })

  it("a rule without addresses matches both families, after those of the one", () => {
    const table = tableOf({ action: "drop" }, { remote: "::/0", action: "allow" })
    assert.strictEqual(actionOn(table, "10.0.0.1 80"), "drop")
    assert.strictEqual(actionOn(table, "::1 80"), "allow")
    table.add({ remotePort: 80, action: "drop" })
    assert.strictEqual(actionOn(table, "::1 80"), "drop")
    assert.strictEqual(actionOn(table, "10.0.0.1 80"), "drop")
    assert.strictEqual(actionOn(table, "::1 81"), "allow")
  })

  it("a port that is 0 or left out is any port", () => {
    const connects: Array<[string, string]> = []
    for (const from of ["10.0.0.1 80", "10.0.0.1 50000"]) {
      for (const to of ["10.0.0.2 80", "10.0.0.2 8080", "10.0.0.2 0"]) connects.push([from, to])
    }
    const matched = (rule: Omit<Rule, "action">) => {
      const table = tableOf({ ...rule, action: "drop" })
      return connects.filter(([from, to]) => table.lookup(at(from), at(to)) !== undefined)
    }
    for (const remote of ["10.0.0.2", undefined]) {
      assert.deepStrictEqual(matched({ remote }), connects)
      assert.deepStrictEqual(matched({ remote, localPort: 0, remotePort: 0 }), connects)
      assert.deepStrictEqual(
        matched({ remote, remotePort: 80 }),
        connects.filter(([, to]) => to === "10.0.0.2 80")
      )
      assert.deepStrictEqual(
        matched({ remote, localPort: 80 }),
        connects.filter(([from]) => from === "10.0.0.1 80")
      )
      assert.deepStrictEqual(matched({ remote, localPort: 50_000, remotePort: 8080 }), [
        ["10.0.0.1 50000", "10.0.0.2 8080"]
      ])
    }
  })

  it("all four parts have to match", () => {
    const table = tableOf({ local: "10.1.0.0/16", localPort: 5, remote: "10.2.0.0/16", remotePort: 6, action: "drop" })
    assert.strictEqual(table.lookup(at("10.1.9.9 5"), at("10.2.9.9 6"))?.action, "drop")
    assert.isUndefined(table.lookup(at("10.2.9.9 5"), at("10.2.9.9 6")))
    assert.isUndefined(table.lookup(at("10.1.9.9 6"), at("10.2.9.9 6")))
    assert.isUndefined(table.lookup(at("10.1.9.9 5"), at("10.1.9.9 6")))
    assert.isUndefined(table.lookup(at("10.1.9.9 5"), at("10.2.9.9 5")))
    assert.isUndefined(table.lookup(at("10.2.9.9 6"), at("10.1.9.9 5")))
  })

  describe("the longest match decides", () => {
    const orders = <A>(items: ReadonlyArray<A>): Array<ReadonlyArray<A>> =>
      items.length < 2
        ? [items]
        : items.flatMap((item) => orders(items.filter((other) => other !== item)).map((rest) => [item, ...rest]))

    it("ALLOW masks DROP, DROP masks ALLOW, and what is removed uncovers what was below", () => {
      const rules: ReadonlyArray<Rule> = [
        { action: "drop", tag: "all" },
        { remote: "172.16.0.0/16", action: "allow", tag: "/16" },
        { remote: "172.16.5.4/30", action: "drop", tag: "/30" },
        { remote: "172.16.5.5/32", action: "allow", tag: "/32" },
        { remote: "172.16.5.5/32", remotePort: 80, action: "drop", tag: "port" }
      ]
      for (const order of orders(rules)) {
        const table = tableOf(...order)
        assert.deepStrictEqual(tagsOf(table), ["port", "/32", "/30", "/16", "all"])
        const seen = () =>
          ["172.16.5.5 80", "172.16.5.5 81", "172.16.5.6 80", "172.16.6.0 80", "172.17.0.0 80", "::1 80"].map(
            (remote) => actionOn(table, remote)
          )
        assert.deepStrictEqual(seen(), ["drop", "allow", "drop", "allow", "drop", "drop"])
        const [port, host, four, net, all] = [...table]
        assert.isTrue(table.remove(port))
        assert.deepStrictEqual(seen(), ["allow", "allow", "drop", "allow", "drop", "drop"])
        // From within, too.
        assert.isTrue(table.remove(four))
        assert.deepStrictEqual(seen(), ["allow", "allow", "allow", "allow", "drop", "drop"])
        assert.isTrue(table.remove(net))
        assert.deepStrictEqual(seen(), ["allow", "allow", "drop", "drop", "drop", "drop"])
        assert.isTrue(table.remove(all))
        assert.deepStrictEqual(seen(), ["allow", "allow", undefined, undefined, undefined, undefined])
        assert.isTrue(table.remove(host))
        assert.deepStrictEqual(seen(), new Array(6).fill(undefined))
        assert.isTrue(table.isEmpty)
      }
    })

    it("the same in IPv6", () => {
      const rules: ReadonlyArray<Rule> = [
        { remote: "::/0", action: "drop", tag: "/0" },
        { remote: "fd00::/8", action: "allow", tag: "/8" },
        { remote: "fd00:1:2:3::/64", action: "drop", tag: "/64" },
        { remote: "fd00:1:2:3::2/127", action: "allow", tag: "/127" },
        { remote: "fd00:1:2:3::2/128", action: "drop", tag: "/128" }
      ]
      for (const order of orders(rules)) {
        const table = tableOf(...order)
        assert.deepStrictEqual(tagsOf(table), ["/128", "/127", "/64", "/8", "/0"])
        const seen = ["fd00:1:2:3::2 80", "fd00:1:2:3::3 80", "fd00:1:2:3::4 80", "fd00:1:2:4:: 80", "fe80:: 80"]
        assert.deepStrictEqual(
          seen.map((remote) => actionOn(table, remote)),
          ["drop", "allow", "drop", "allow", "drop"]
        )
      }
    })

    it("the bits of both addresses count, and 16 for each port", () => {
      const longer: ReadonlyArray<readonly [Rule, Rule]> = [
        [
          { remote: "10.0.0.0/17", action: "allow" },
          { remotePort: 80, action: "drop" }
        ],
        [
          { remotePort: 80, action: "allow" },
          { remote: "10.0.0.0/15", action: "drop" }
        ],
        [
          { localPort: 50_000, action: "allow" },
          { remote: "10.0.0.0/15", action: "drop" }
        ],
        [
          { local: "10.0.0.0/16", action: "allow" },
          { remote: "10.0.0.0/15", action: "drop" }
        ],
        [
          { local: "10.0.0.0/8", localPort: 50_000, remotePort: 80, action: "allow" },
          { remote: "10.0.0.1", local: "8.0.0.0/7", action: "drop" }
        ]
      ]
      for (const [first, second] of longer) {
        for (const order of orders([first, second])) {
          const rule = tableOf(...order).lookup(at("10.0.0.9 50000"), at("10.0.0.1 80"))
          assert.strictEqual(rule?.action, "allow", JSON.stringify(order))
        }
      }
    })

    it("among equals the longer remote prefix, then the remote port, then the earlier", () => {
      const rules: ReadonlyArray<Rule> = [
        { remote: "10.0.0.0/16", remotePort: 80, action: "drop", tag: "remote prefix and port" },
        { remote: "10.0.0.0/16", localPort: 50_000, action: "drop", tag: "remote prefix, local port" },
        { remote: "10.0.0.0/8", local: "10.0.0.0/8", remotePort: 80, action: "drop", tag: "half a prefix" },
        { local: "10.0.0.0/16", remotePort: 80, action: "drop", tag: "remote port" },
        { local: "10.0.0.0/16", localPort: 50_000, action: "drop", tag: "local only" }
      ]
      for (const order of orders(rules)) {
        const table = tableOf(...order)
        for (const { tag } of rules) {
          const rule = table.lookup(at("10.0.0.9 50000"), at("10.0.0.1 80"))
          assert.strictEqual(rule?.tag, tag)
          if (rule !== undefined) table.remove(rule)
        }
      }
      const earlier = tableOf(
        { remotePort: 80, action: "allow", tag: "second" },
        { remotePort: 443, action: "drop", tag: "third" },
        { remote: "10.0.0.0/30", action: "drop", tag: "first" },
        { remotePort: 8080, action: "drop", tag: "fourth" }
      )
      assert.deepStrictEqual(tagsOf(earlier), ["first", "second", "third", "fourth"])
    })
  })

  describe("a rule that matches the same as another", () => {
    it("takes its place, and removing the replaced one does nothing", () => {
      const table = tableOf({ remotePort: 1, action: "drop", tag: "before" })
      const first = table.add({ remote: "10.0.0.0/16", action: "drop", tag: "first" })
      table.add({ remote: "11.0.0.0/16", action: "drop", tag: "after" })
      assert.strictEqual(actionOn(table, "10.0.0.1 80"), "drop")
      const second = table.add({ remote: "10.0.9.9/16", action: "allow", tag: "second" })
      assert.strictEqual(table.size, 3)
      assert.deepStrictEqual(tagsOf(table), ["second", "after", "before"])
      assert.strictEqual(actionOn(table, "10.0.0.1 80"), "allow")
      assert.deepStrictEqual([first.hits, second.hits], [1, 1])
      assert.isFalse(table.remove(first))
      assert.strictEqual(actionOn(table, "10.0.0.1 80"), "allow")
      assert.isTrue(table.remove(second))
      assert.isFalse(table.remove(second))
      assert.isUndefined(actionOn(table, "10.0.0.1 80"))
      assert.strictEqual(table.size, 2)
    })

    it("is the same however it is written", () => {
      const same: ReadonlyArray<ReadonlyArray<Rule>> = [
        [
          { remote: "0.0.0.0/0", action: "drop" },
          { local: "0.0.0.0/0", action: "drop" },
          { local: "1.2.3.4/0", remote: "0.0.0.0/0", localPort: 0, action: "allow" }
        ],
        [
          { remote: "FD00:0::/8", action: "drop" },
          { remote: "fdff::1/8", local: "::/0", action: "drop" },
          { remote: Endpoint.prefix("fd00::/8"), action: "allow" }
        ],
        [
          { action: "drop", tag: "a" },
          { localPort: 0, remotePort: 0, action: "drop", tag: "b" }
        ],
        [
          { local: "10.0.0.1", action: "drop" },
          { local: "10.0.0.1/32", action: "drop" },
          SessionRules.compile({ local: Endpoint.prefix("10.0.0.1"), action: "drop" })
        ]
      ]
      for (const rules of same) assert.strictEqual(tableOf(...rules).size, 1)
      assert.strictEqual(tableOf(...same.flat()).size, same.length)
    })

    it("is not one with another length, side, port or family", () => {
      const table = tableOf(
        { action: "drop" },
        { remote: "0.0.0.0/0", action: "drop" },
        { remote: "::/0", action: "drop" },
        { remote: "10.0.0.0/8", action: "drop" },
        { remote: "10.0.0.0/9", action: "drop" },
        { local: "10.0.0.0/8", action: "drop" },
        { remote: "10.0.0.0/8", remotePort: 80, action: "drop" },
        { remote: "10.0.0.0/8", localPort: 80, action: "drop" }
      )
      assert.strictEqual(table.size, 8)
    })
  })

  it("a compiled rule can be added again, as another one", () => {
    const table = tableOf()
    const first = table.add({ remotePort: 80, action: "drop", tag: "web" })
    assert.strictEqual(actionOn(table, "::1 80"), "drop")
    const other = tableOf(first)
    assert.strictEqual(first.hits, 1)
    assert.deepStrictEqual([...other], [{ ...first, hits: 0 }])
    assert.isFalse(other.remove(first))
    assert.isTrue(table.remove(first))
  })

  it("counts the lookups that a rule has decided", () => {
    const table = tableOf()
    const all = table.add({ action: "allow" })
    const web = table.add({ remotePort: 80, action: "drop" })
    const dns = table.add({ remotePort: 53, action: "drop" })
    for (const remote of ["10.0.0.1 80", "::1 80", "10.0.0.1 443", "10.0.0.1 80"]) actionOn(table, remote)
    assert.deepStrictEqual([all.hits, web.hits, dns.hits], [1, 3, 0])
  })

  it("the rules can be changed by whoever goes through them", () => {
    const table = tableOf(...[1, 2, 3, 4].map((remotePort): Rule => ({ remotePort, action: "drop" })))
    for (const rule of table) {
      assert.isTrue(table.remove(rule))
      table.add({ remote: "10.0.0.0/8", remotePort: rule.remotePort, action: "drop" })
    }
    assert.deepStrictEqual(
      [...table].map(({ remote, remotePort }) => `${remote?.text} ${remotePort}`),
      [1, 2, 3, 4].map((port) => `10.0.0.0/8 ${port}`)
    )
  })

  it("D27: a redirect yields the handle of the listener that was put in, and an index is none", () => {
    const listeners = new HandleTable<string>()
    const others = ["first", "second", "third"].map((name) => listeners.add(name))
    const redirect = listeners.add("target")
    const table = tableOf({ remote: "10.0.0.0/8", remotePort: 80, action: { redirect } })
    const action = actionOn(table, "10.0.0.1 80")
    assert.deepStrictEqual(action, { redirect })
    if (typeof action !== "object") return assert.fail("no redirect")
    assert.strictEqual(listeners.get(action.redirect), "target")

    // Whoever has the place of a listener that has gone is not redirected to.
    listeners.remove(redirect)
    assert.notStrictEqual(listeners.add("stranger"), redirect)
    assert.isUndefined(listeners.get(action.redirect))

    for (const index of [0, 1, 3, 1_048_575, -1, -2_000_000, 1_048_577.5, NaN, Infinity]) {
      assert.strictEqual(
        messageOf({ action: { redirect: index } }),
        `the redirect is ${index}: expected the handle of a listener`
      )
    }
    for (const handle of others) assert.strictEqual(tableOf({ action: { redirect: handle } }).size, 1)
  })

  describe("says what is wrong with", () => {
    const notAPrefix = "expected ADDRESS or ADDRESS/LENGTH, for example 10.0.0.0/8 or fd00::/8"
    const notAPort = "expected an integer from 0 to 65535"
    const families = "expected one of the family of the local"
    const cases: ReadonlyArray<readonly [Omit<Rule, "action">, string]> = [
      [{ remote: "" }, `the prefix is "": ${notAPrefix}`],
      [{ local: "example.com" }, `the prefix is "example.com": ${notAPrefix}`],
      [{ remote: "10.0.0.0/x" }, `the prefix is "10.0.0.0/x": ${notAPrefix}`],
      [{ local: "10.0.0.0/33" }, `the prefix is "10.0.0.0/33": expected a length from 0 to 32`],
      [{ remote: "fd00::/129" }, `the prefix is "fd00::/129": expected a length from 0 to 128`],
      [{ localPort: -1 }, `the local port is -1: ${notAPort}`],
      [{ localPort: 65_536 }, `the local port is 65536: ${notAPort}`],
      [{ remotePort: 1.5 }, `the remote port is 1.5: ${notAPort}`],
      [{ remotePort: NaN }, `the remote port is NaN: ${notAPort}`],
      [{ remotePort: Infinity }, `the remote port is Infinity: ${notAPort}`],
      [{ local: "10.0.0.0/8", remote: "::1" }, `the remote prefix is "::1/128": ${families} 10.0.0.0/8`],
      [{ local: "::/0", remote: "0.0.0.0/0" }, `the remote prefix is "0.0.0.0/0": ${families} ::/0`]
    ]
    for (const [rule, message] of cases) {
      it(`a rule: ${message}`, () => assert.strictEqual(messageOf({ ...rule, action: "drop" }), message))
    }

    it("nothing of the greatest and the least there is", () => {
      tableOf(
        { localPort: 65_535, remotePort: 65_535, local: "255.255.255.255/32", action: "drop" },
        { localPort: 0, remotePort: 0, local: "::/0", remote: "::/128", action: "drop" }
      )
    })
  })

  it("a listing has a line for each rule", () => {
    const table = tableOf(
      { remote: "10.0.0.0/8", remotePort: 80, action: "drop", tag: "web" },
      { local: "fd00::/8", remote: "::1", localPort: 1, action: "allow", tag: "two\nlines" },
      { remotePort: 443, action: { redirect: 2 ** 20 * 5 + 3 } },
      { action: "drop", tag: "" }
    )
    actionOn(table, "10.0.0.1 80")
    assert.deepStrictEqual([...table].map(SessionRules.format), [
      String.raw`[tcp] [fd00::/8]:1 -> [::1/128]:* action allow tag "two\nlines" hits 0`,
      "[tcp] 0.0.0.0/0:* -> 10.0.0.0/8:80 action drop tag web hits 1",
      "[tcp] *:* -> *:443 action redirect 3 tag none hits 0",
      `[tcp] *:* -> *:* action drop tag "" hits 0`
    ])
    for (const rule of table) {
      assert.strictEqual(SessionRules.row(rule).length, 5)
      assert.strictEqual(SessionRules.row(rule).join(" "), SessionRules.format(rule))
    }
  })

  describe("against a model", () => {
    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

    // Few addresses, of which one bit is turned: where prefixes begin and end is what matters.
    const addresses = ["10.0.0.1", "0.0.0.0", "255.255.255.255", "fd00:0:0:1::1", "::", "fdff:ffff:ffff:fffe:8000::"]
    const numberOf = (address: string): bigint => {
      if (!address.includes(":")) return address.split(".").reduce((number, part) => (number << 8n) | BigInt(part), 0n)
      const [head, tail] = address.split("::").map((half) => half.split(":").filter((part) => part !== ""))
      const parts =
        tail === undefined ? head : [...head, ...new Array(8 - head.length - tail.length).fill("0"), ...tail]
      return parts.reduce((number, part) => (number << 16n) | BigInt(`0x${part}`), 0n)
    }
    const widthOf = (address: string) => (address.includes(":") ? 128 : 32)
    const textOf = (number: bigint, width: number): string => {
      const [bits, radix, separator] = width === 32 ? [8, 10, "."] : [16, 16, ":"]
      return Array.from({ length: width / bits }, (_, i) =>
        BigInt.asUintN(bits, number >> BigInt(width - bits * (i + 1))).toString(radix)
      ).join(separator)
    }
    const address = (isV6: boolean) =>
      Arbitrary.map(Arbitrary.all([int(2), int(128)]), ([which, bit]) => {
        const text = addresses[which + (isV6 ? 3 : 0)]
        const width = widthOf(text)
        return bit >= width ? text : textOf(numberOf(text) ^ (1n << BigInt(bit)), width)
      })
    const prefix = (isV6: boolean) =>
      Arbitrary.map(Arbitrary.all([address(isV6), int(3), int(128)]), ([address, kind, length]) =>
        kind === 0 ? undefined : kind === 1 ? address : `${address}/${length % (widthOf(address) + 1)}`
      )
    const ports = [0, 80, 443]
    const commandOf = (isV6: boolean) =>
      Arbitrary.all({
        operation: Arbitrary.schema(Schema.Literals(["add", "add", "remove", "lookup", "lookup"])),
        which: int(99),
        rule: Arbitrary.map(
          Arbitrary.all([prefix(isV6), int(2), prefix(isV6), int(2)]),
          ([local, localPort, remote, remotePort]) => ({
            local,
            localPort: ports[localPort],
            remote,
            remotePort: ports[remotePort]
          })
        ),
        local: address(isV6),
        remote: address(isV6),
        localPort: int(2),
        remotePort: int(2)
      })
    const program = Arbitrary.array(
      Arbitrary.map(Arbitrary.all([int(1), commandOf(false), commandOf(true)]), ([which, v4, v6]) =>
        which === 0 ? v4 : v6
      ),
      { minLength: 1 }
    )

    interface Modelled {
      readonly compiled: SessionRules.CompiledRule
      readonly width: number
      readonly local: bigint
      readonly localLength: number
      readonly localPort: number
      readonly remote: bigint
      readonly remoteLength: number
      readonly remotePort: number
      hits: number
    }

    const read = (text: string | undefined, width: number) => {
      const [address, length = String(width)] = (text ?? "0.0.0.0/0").split("/")
      const behind = BigInt(width - Number(length))
      return { number: (numberOf(address) >> behind) << behind, length: Number(length) }
    }

    interface Match {
      readonly local: string | undefined
      readonly localPort: number
      readonly remote: string | undefined
      readonly remotePort: number
    }

    const modelOf = (rule: Match, compiled: SessionRules.CompiledRule): Modelled => {
      const given = rule.local ?? rule.remote
      const width = given === undefined ? 0 : widthOf(given)
      const [local, remote] = [read(rule.local, width), read(rule.remote, width)]
      return {
        compiled,
        width,
        local: local.number,
        localLength: local.length,
        localPort: rule.localPort,
        remote: remote.number,
        remoteLength: remote.length,
        remotePort: rule.remotePort,
        hits: 0
      }
    }

    const matchKeys = ["width", "local", "localLength", "localPort", "remote", "remoteLength", "remotePort"] as const
    const isSame = (a: Modelled, b: Modelled) => matchKeys.every((key) => a[key] === b[key])

    const covers = (number: bigint, length: number, width: number, address: bigint) =>
      number >> BigInt(width - length) === address >> BigInt(width - length)

    /** Whether all that the inner one matches is matched by the outer one too. */
    const isWithin = (inner: Modelled, outer: Modelled) =>
      (outer.width === 0 ||
        (outer.width === inner.width &&
          outer.localLength <= inner.localLength &&
          outer.remoteLength <= inner.remoteLength &&
          covers(outer.local, outer.localLength, outer.width, inner.local) &&
          covers(outer.remote, outer.remoteLength, outer.width, inner.remote))) &&
      (outer.localPort === 0 || outer.localPort === inner.localPort) &&
      (outer.remotePort === 0 || outer.remotePort === inner.remotePort)

    const order = (rule: Modelled) => [
      rule.remoteLength + rule.localLength + (rule.remotePort > 0 ? 16 : 0) + (rule.localPort > 0 ? 16 : 0),
      rule.remoteLength,
      rule.remotePort > 0 ? 1 : 0,
      rule.width > 0 ? 1 : 0
    ]
    const isBefore = (a: Modelled, b: Modelled) => {
      const [left, right] = [order(a), order(b)]
      const i = left.findIndex((value, i) => value !== right[i])
      return i >= 0 && left[i] > right[i]
    }

    const nothing = SessionRules.compile({ action: "drop" })

    it.prop(
      "finds what comparing all rules with BigInts finds",
      [program],
      ([program]) => {
        const table = tableOf()
        // In the order they were added.
        const model: Array<Modelled> = []
        for (const { operation, rule, which, ...connect } of program) {
          if (operation === "add") {
            const added = modelOf(rule, table.add({ ...rule, action: "drop" }))
            const same = model.findIndex((other) => isSame(other, added))
            if (same < 0) model.push(added)
            else {
              assert.isFalse(table.remove(model[same].compiled))
              model[same] = added
            }
          } else if (operation === "remove" && model.length > 0) {
            const [removed] = model.splice(which % model.length, 1)
            assert.isTrue(table.remove(removed.compiled))
            assert.isFalse(table.remove(removed.compiled))
          } else {
            const localPort = ports[connect.localPort]
            const remotePort = ports[connect.remotePort]
            const dialed = modelOf({ ...connect, localPort, remotePort }, nothing)
            const matching = model.filter((rule) => isWithin(dialed, rule))
            let expected: Modelled | undefined
            for (const rule of matching) if (expected === undefined || isBefore(rule, expected)) expected = rule
            if (expected !== undefined) expected.hits++
            const found = table.lookup(Endpoint.tcp(connect.local, localPort), Endpoint.tcp(connect.remote, remotePort))
            assert.strictEqual(found, expected?.compiled)
            for (const rule of matching) {
              if (expected !== undefined && rule !== expected) assert.isFalse(isWithin(rule, expected), "an exception")
            }
          }
          assert.strictEqual(table.size, model.length)
          assert.strictEqual(table.isEmpty, model.length === 0)
          assert.sameMembers(
            [...table],
            model.map(({ compiled }) => compiled)
          )
          for (const { compiled, hits } of model) assert.strictEqual(compiled.hits, hits)
        }
      },
      { arbitrary: { runs: 300, size: 60 } }
    )
  })
})
