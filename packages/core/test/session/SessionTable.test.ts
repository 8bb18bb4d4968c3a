import * as Endpoint from "@cut-through/core/Endpoint"
import type { AppListener } from "@cut-through/core/session/AppListener"
import { EphemeralPorts, SessionTable } from "@cut-through/core/session/SessionTable"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { makeApp, makeListener } from "./fixtures.ts"

const FIRST = 49_152
const LAST = 65_535

const app = makeApp()

const listenerOn = (address: string, port: number) => makeListener(Endpoint.tcp(address, port), { app })

const proxyFor = (address: "0.0.0.0" | "::") => makeListener(Endpoint.tcp(address, 0), { app, isProxy: true })

const tableOf = (...listeners: ReadonlyArray<AppListener>) => {
  const table = new SessionTable()
  for (const listener of listeners) assert.isTrue(table.add(listener))
  return table
}

/** All orders of some listeners. */
const orders = <A>(values: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> =>
  values.length === 0
    ? [[]]
    : values.flatMap((value, i) => orders(values.toSpliced(i, 1)).map((others) => [value, ...others]))

const endpoints = new Map<string, Endpoint.Endpoint>()

/** Parsed once: the model below asks for each of them thousands of times. */
const endpointOf = (address: string, port: number): Endpoint.Endpoint => {
  const key = `${address} ${port}`
  const known = endpoints.get(key) ?? Endpoint.tcp(address, port)
  endpoints.set(key, known)
  return known
}

/** Who is reached from within the namespace, and who from all of them. By identity: listeners may look alike. */
const assertReached = (
  table: SessionTable,
  [address, port = 7000]: readonly [address: string, port?: number],
  local: AppListener | undefined,
  global: AppListener | undefined = local
): void => {
  const remote = endpointOf(address, port)
  assert.strictEqual(table.lookupLocal(remote), local, `${address} from its namespace`)
  assert.strictEqual(table.lookupGlobal(remote), global, `${address} from all namespaces`)
}

describe("SessionTable", () => {
  it("the listener of exactly the endpoint comes first, then the one of every address, then the proxy", () => {
    const exact = listenerOn("127.0.0.1", 7000)
    const every = listenerOn("0.0.0.0", 7000)
    const proxy = proxyFor("0.0.0.0")
    for (const listeners of orders([exact, every, proxy])) {
      const table = tableOf(...listeners)
      assertReached(table, ["127.0.0.1"], exact)
      assertReached(table, ["127.0.0.2"], every)
      assertReached(table, ["0.0.0.0"], every)
      assertReached(table, ["127.0.0.1", 7001], proxy)
      table.remove(exact)
      assertReached(table, ["127.0.0.1"], every)
      table.remove(every)
      assertReached(table, ["127.0.0.1"], proxy)
      table.remove(proxy)
      assertReached(table, ["127.0.0.1"], undefined)
      assert.sameOrderedMembers([...table], [])
    }
  })

  it("within a namespace, every address is every loopback address; among all of them, really every", () => {
    for (const [unspecified, loopback, others] of [
      ["0.0.0.0", ["127.0.0.1", "127.255.0.9"], ["10.0.0.1", "192.0.2.1", "255.255.255.255"]],
      ["::", ["::1"], ["2001:db8::1", "fe80::1"]]
    ] as const) {
      const every = listenerOn(unspecified, 7000)
      const table = tableOf(every)
      for (const address of loopback) assertReached(table, [address], every)
      for (const address of others) {
        assertReached(table, [address], undefined, every)
      }
      const proxy = proxyFor(unspecified)
      table.add(proxy)
      for (const address of loopback) assertReached(table, [address], every)
      for (const address of others) {
        assertReached(table, [address], proxy, every)
      }
    }
  })

  it("every address of one family is no address of the other", () => {
    const v4 = listenerOn("0.0.0.0", 7000)
    const v6 = listenerOn("::", 7000)
    assertReached(tableOf(v4), ["::1"], undefined)
    assertReached(tableOf(v6), ["127.0.0.1"], undefined)
    const both = tableOf(v4, v6)
    assertReached(both, ["127.0.0.1"], v4)
    assertReached(both, ["::1"], v6)
    assertReached(both, ["fe80::1"], undefined, v6)
  })

  it("a proxy takes its family, on every port, and there is one for each", () => {
    const [v4, v6] = [proxyFor("0.0.0.0"), proxyFor("::")]
    const table = tableOf(v4)
    for (const port of [1, 7000, 65_535]) {
      assertReached(table, ["192.0.2.1", port], v4)
      assertReached(table, ["2001:db8::1", port], undefined)
    }
    assert.isTrue(table.add(v6))
    const another = proxyFor("0.0.0.0")
    assert.isFalse(table.add(another))
    assertReached(table, ["192.0.2.1"], v4)
    assertReached(table, ["2001:db8::1"], v6)
    // Whoever was not let in takes nobody out.
    table.remove(another)
    assert.sameOrderedMembers([...table], [v4, v6])
    table.remove(v4)
    table.remove(v4)
    assert.isTrue(table.add(another))
    assert.sameOrderedMembers([...table], [v6, another])
  })

  it("a proxy has a place of its own beside the listener of the same endpoint", () => {
    const proxy = proxyFor("0.0.0.0")
    const { endpoint } = proxy
    const listener = makeListener(endpoint, { app })
    const table = tableOf(proxy, listener)
    assert.strictEqual(table.find(endpoint, true), proxy)
    assert.strictEqual(table.find(endpoint, false), listener)
    table.remove(proxy)
    assert.isUndefined(table.find(endpoint, true))
    assert.strictEqual(table.find(endpoint, false), listener)
  })

  it("an endpoint is taken once, and free again when its listener goes", () => {
    const table = new SessionTable()
    const first = listenerOn("::1", 7000)
    const second = listenerOn("0:0:0:0:0:0:0:1", 7000)
    const other = listenerOn("127.0.0.1", 7000)
    assert.isTrue(table.add(first))
    assert.isFalse(table.add(second))
    assert.isFalse(table.add(first))
    assert.isTrue(table.add(other))
    assert.sameOrderedMembers([...table], [first, other])
    // Whoever was not let in takes nobody out.
    table.remove(second)
    assert.strictEqual(table.find(second.endpoint, false), first)
    table.remove(first)
    table.remove(first)
    assert.isFalse(table.isFree(7000))
    assert.isTrue(table.add(second))
    assert.strictEqual(table.find(first.endpoint, false), second)
    for (const listener of [second, other]) table.remove(listener)
    assert.isTrue(table.isFree(7000))
    table.remove(listenerOn("127.0.0.1", 7001))
    assert.sameOrderedMembers([...table], [])
  })

  it("a proxy takes no port", () => {
    const table = tableOf(proxyFor("0.0.0.0"), proxyFor("::"))
    for (const port of [0, 1, FIRST, LAST]) assert.isTrue(table.isFree(port))
  })

  describe("against a model", () => {
    const addresses = ["127.0.0.1", "127.0.0.2", "10.0.0.1", "0.0.0.0", "::1", "2001:db8::1", "::", "::ffff:127.0.0.1"]
    const loopback = new Set(["127.0.0.1", "127.0.0.2", "::1"])
    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))
    const commands = Arbitrary.array(
      Arbitrary.all({
        operation: Arbitrary.schema(
          Schema.Literals(["add", "add", "remove", "removeOther", "addProxy", "removeProxy"])
        ),
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
        const key = (address: string, port: number | "proxy") => `${address} ${port}`
        const everyOf = (address: string) => (address.includes(":") ? "::" : "0.0.0.0")
        for (const { address: which, operation, port } of program) {
          const address = addresses[which]
          const every = everyOf(address)
          const isProxy = operation.endsWith("Proxy")
          const place = isProxy ? key(every, "proxy") : key(address, port)
          const found = model.get(place)
          const another = isProxy ? proxyFor(every) : listenerOn(address, port)
          if (operation.startsWith("add")) {
            assert.strictEqual(table.add(another), found === undefined)
            if (found === undefined) model.set(place, another)
          } else if (operation !== "removeOther" && found !== undefined) {
            table.remove(found)
            model.delete(place)
          } else {
            table.remove(another)
          }
          assert.sameMembers([...table], [...model.values()])
          for (const other of addresses) {
            const every = everyOf(other)
            const exact = model.get(key(other, port))
            const wild = model.get(key(every, port))
            const proxy = model.get(key(every, "proxy"))
            assertReached(
              table,
              [other, port],
              exact ?? (loopback.has(other) ? wild : undefined) ?? proxy,
              exact ?? wild ?? proxy
            )
          }
          const taken = addresses.some((address) => model.has(key(address, port)))
          assert.strictEqual(table.isFree(port), !taken)
        }
      },
      { arbitrary: { runs: 100, size: 60 } }
    )
  })
})

describe("EphemeralPorts", () => {
  it("gives out the ports of the dynamic range in turn", () => {
    const ports = new EphemeralPorts()
    const given = Array.from({ length: LAST - FIRST + 1 }, () => ports.take())
    assert.deepStrictEqual(
      given,
      Array.from({ length: LAST - FIRST + 1 }, (_, i) => FIRST + i)
    )
    assert.strictEqual(ports.take(), FIRST)
  })

  it("a free port is one on which nobody listens, on any address, in any of the tables", () => {
    const ports = new EphemeralPorts()
    const [first, second] = [new SessionTable(), new SessionTable()]
    first.add(listenerOn("127.0.0.1", FIRST + 1))
    second.add(listenerOn("::1", FIRST + 2))
    second.add(listenerOn("0.0.0.0", FIRST + 3))
    first.add(listenerOn("10.0.0.1", FIRST + 4))
    second.add(listenerOn("10.0.0.1", FIRST + 4))
    assert.strictEqual(ports.takeFree([first, second]), FIRST)
    assert.strictEqual(ports.takeFree([first, second]), FIRST + 5)
    // What is taken in a table that does not matter is free.
    for (let port = FIRST + 6; port <= LAST; port++) assert.strictEqual(ports.takeFree([]), port)
    assert.strictEqual(ports.takeFree([second]), FIRST)
    assert.strictEqual(ports.takeFree([second]), FIRST + 1)
    assert.strictEqual(ports.takeFree([first]), FIRST + 2)
  })

  it("when all are taken there is none, until one is given back", () => {
    const ports = new EphemeralPorts()
    // Half of them in one table, half in the other.
    const tables = [new SessionTable(), new SessionTable()]
    const listeners: Array<AppListener> = []
    for (let port = FIRST; port <= LAST; port++) {
      const listener = listenerOn("127.0.0.1", ports.takeFree(tables))
      assert.isTrue(tables[port % 2].add(listener))
      listeners.push(listener)
    }
    assert.strictEqual(ports.takeFree(tables), 0)
    for (const which of [12_345, 0, LAST - FIRST]) {
      const { port } = listeners[which].endpoint
      tables[port % 2].remove(listeners[which])
      assert.strictEqual(ports.takeFree(tables), port)
      assert.strictEqual(ports.takeFree(tables), port)
      tables[port % 2].add(listeners[which])
      assert.strictEqual(ports.takeFree(tables), 0)
    }
  })
})
