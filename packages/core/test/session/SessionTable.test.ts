import * as Endpoint from "@cut-through/core/Endpoint"
import { AppListener } from "@cut-through/core/session/AppListener"
import { SessionTable } from "@cut-through/core/session/SessionTable"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"

const FIRST = 49_152
const LAST = 65_535

const listenerOn = (address: string, port: number) => new AppListener(Endpoint.tcp(address, port), 1, [])

const tableOf = (...listeners: Array<AppListener>) => {
  const table = new SessionTable()
  for (const listener of listeners) assert.isTrue(table.add(listener))
  return table
}

describe("SessionTable", () => {
  it("finds the listener of exactly the address before the one of every address", () => {
    const exact = listenerOn("127.0.0.1", 7000)
    const every = listenerOn("0.0.0.0", 7000)
    for (const table of [tableOf(exact, every), tableOf(every, exact)]) {
      assert.strictEqual(table.lookup(Endpoint.tcp("127.0.0.1", 7000)), exact)
      assert.strictEqual(table.lookup(Endpoint.tcp("127.0.0.2", 7000)), every)
      assert.strictEqual(table.lookup(Endpoint.tcp("0.0.0.0", 7000)), every)
      assert.isUndefined(table.lookup(Endpoint.tcp("127.0.0.1", 7001)))
      table.remove(exact)
      assert.strictEqual(table.lookup(Endpoint.tcp("127.0.0.1", 7000)), every)
      table.remove(every)
      assert.isUndefined(table.lookup(Endpoint.tcp("127.0.0.1", 7000)))
    }
  })

  it("every address of one family is no address of the other", () => {
    const v4 = listenerOn("0.0.0.0", 7000)
    const v6 = listenerOn("::", 7000)
    assert.isUndefined(tableOf(v4).lookup(Endpoint.tcp("::1", 7000)))
    assert.isUndefined(tableOf(v6).lookup(Endpoint.tcp("127.0.0.1", 7000)))
    const both = tableOf(v4, v6)
    assert.strictEqual(both.lookup(Endpoint.tcp("127.0.0.1", 7000)), v4)
    assert.strictEqual(both.lookup(Endpoint.tcp("fe80::1", 7000)), v6)
  })

  it("an endpoint is taken once, and free again when its listener goes", () => {
    const table = new SessionTable()
    const first = listenerOn("::1", 7000)
    const second = listenerOn("0:0:0:0:0:0:0:1", 7000)
    assert.isTrue(table.add(first))
    assert.isFalse(table.add(second))
    assert.isFalse(table.add(first))
    assert.deepStrictEqual([...table], [first])
    // Whoever was not let in takes nobody out.
    table.remove(second)
    assert.strictEqual(table.lookup(first.endpoint), first)
    table.remove(first)
    table.remove(first)
    assert.isTrue(table.add(second))
    assert.strictEqual(table.lookup(first.endpoint), second)
  })

  it("gives out the ports of the dynamic range in turn", () => {
    const table = new SessionTable()
    const given = Array.from({ length: LAST - FIRST + 1 }, () => table.ephemeralPort())
    assert.strictEqual(new Set(given).size, given.length)
    assert.strictEqual(Math.min(...given), FIRST)
    assert.strictEqual(Math.max(...given), LAST)
    assert.strictEqual(table.ephemeralPort(), given[0])
  })

  it("a free port is one on which nobody listens, on any address", () => {
    const table = new SessionTable()
    const next = table.freePort()
    const taken = [listenerOn("127.0.0.1", next + 1), listenerOn("::1", next + 2), listenerOn("0.0.0.0", next + 3)]
    for (const listener of taken) table.add(listener)
    assert.strictEqual(table.freePort(), next + 4)
  })

  it("when all are taken there is none, until one is given back", () => {
    const table = new SessionTable()
    const listeners: Array<AppListener> = []
    for (let port = FIRST; port <= LAST; port++) {
      const listener = listenerOn("127.0.0.1", table.freePort())
      assert.isTrue(table.add(listener))
      listeners.push(listener)
    }
    assert.strictEqual(table.freePort(), 0)
    const given = listeners[12_345]
    table.remove(given)
    assert.strictEqual(table.freePort(), given.endpoint.port)
    assert.strictEqual(table.freePort(), given.endpoint.port)
  })

  describe("against a model", () => {
    const addresses = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]
    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))
    const commands = Arbitrary.array(
      Arbitrary.all({
        operation: Arbitrary.schema(Schema.Literals(["add", "add", "remove", "removeOther"])),
        address: int(addresses.length - 1),
        port: int(2)
      }),
      { minLength: 1 }
    )

    it.prop(
      "finds what a map of texts finds",
      [commands],
      ([program]) => {
        const table = new SessionTable()
        const model = new Map<string, AppListener>()
        const key = (address: string, port: number) => `${address} ${port}`
        for (const { address: which, operation, port } of program) {
          const address = addresses[which]
          const found = model.get(key(address, port))
          if (operation === "add") {
            const listener = listenerOn(address, port)
            assert.strictEqual(table.add(listener), found === undefined)
            if (found === undefined) model.set(key(address, port), listener)
          } else if (operation === "remove" && found !== undefined) {
            table.remove(found)
            model.delete(key(address, port))
          } else {
            table.remove(listenerOn(address, port))
          }
          assert.sameMembers([...table], [...model.values()])
          for (const other of addresses) {
            const every = other.includes(":") ? "::" : "0.0.0.0"
            assert.strictEqual(
              table.lookup(Endpoint.tcp(other, port)),
              model.get(key(other, port)) ?? model.get(key(every, port)),
              other
            )
          }
        }
      },
      { arbitrary: { runs: 200, size: 60 } }
    )
  })
})
