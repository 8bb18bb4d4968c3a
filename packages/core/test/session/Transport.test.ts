import * as Endpoint from "@cut-through/core/Endpoint"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { type Transport, Transports } from "@cut-through/core/session/Transport"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { ListeningTransport } from "./fixtures.ts"

const endpoint = Endpoint.tcp("192.0.2.1", 7000)

/** A transport that leads to the peers on one port, as no real one does yet. */
class ReachingTransport extends ListeningTransport {
  readonly port: number

  constructor(name: string, port: number) {
    super(name)
    this.port = port
  }

  override reaches(remote?: Endpoint.Endpoint): boolean {
    return remote?.port === this.port
  }
}

describe("Transports", () => {
  it("are tried in the order in which they were registered", () => {
    const transports = new Transports()
    assert.deepStrictEqual([...transports], [])
    const [ct, tcp, tls] = ["ct", "tcp", "tls"].map((name) => new ListeningTransport(name))
    for (const transport of [ct, tcp, tls]) assert.isTrue(transports.register(transport))
    assert.sameOrderedMembers([...transports], [ct, tcp, tls] as Array<Transport>)
    transports.unregister(tcp)
    assert.sameOrderedMembers([...transports], [ct, tls] as Array<Transport>)
    // Behind those that are there.
    assert.isTrue(transports.register(tcp))
    assert.sameOrderedMembers([...transports], [ct, tls, tcp] as Array<Transport>)
  })

  it("have a name each", () => {
    const transports = new Transports()
    const [first, second] = [new ListeningTransport("tcp"), new ListeningTransport("tcp")]
    assert.isUndefined(transports.get("tcp"))
    assert.isTrue(transports.register(first))
    assert.isFalse(transports.register(second))
    assert.isFalse(transports.register(first))
    assert.strictEqual(transports.get("tcp"), first)
    assert.isUndefined(transports.get("TCP"))
    assert.sameOrderedMembers([...transports], [first] as Array<Transport>)
    // Whoever was not let in takes nobody out.
    transports.unregister(second)
    assert.strictEqual(transports.get("tcp"), first)
    transports.unregister(first)
    transports.unregister(first)
    assert.isUndefined(transports.get("tcp"))
    assert.isTrue(transports.register(second))
    assert.strictEqual(transports.get("tcp"), second)
  })

  it("reach what one of them reaches", () => {
    const transports = new Transports()
    assert.isFalse(transports.reaches(endpoint))
    transports.register(new ListeningTransport("ct"))
    assert.isFalse(transports.reaches(endpoint))
    const tcp = new ReachingTransport("tcp", 7000)
    transports.register(tcp)
    transports.register(new ReachingTransport("tls", 443))
    assert.isTrue(transports.reaches(endpoint))
    assert.isTrue(transports.reaches(Endpoint.withPort(endpoint, 443)))
    assert.isFalse(transports.reaches(Endpoint.withPort(endpoint, 80)))
    transports.unregister(tcp)
    assert.isFalse(transports.reaches(endpoint))
  })

  it.effect("of a session layer are its own; cut-through is one of them when it is first asked for", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer
      assert.deepStrictEqual([...layer.transports], [])
      const transport = CutThroughTransport.of(layer)
      assert.strictEqual(CutThroughTransport.of(layer), transport)
      assert.sameOrderedMembers([...layer.transports], [transport])
      assert.strictEqual(layer.transports.get(CutThroughTransport.NAME), transport)
      assert.strictEqual(transport.shortName, "CT")
      // It leads to nobody but those in the session tables.
      for (const address of ["127.0.0.1", "192.0.2.1", "::1"]) {
        assert.isFalse(layer.transports.reaches(Endpoint.tcp(address, 7000)))
      }
      const other = yield* Effect.provide(
        Effect.map(SessionLayer, (layer) => CutThroughTransport.of(layer)),
        Leaks.layerSessions()
      )
      assert.notStrictEqual(other, transport)
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )
})
