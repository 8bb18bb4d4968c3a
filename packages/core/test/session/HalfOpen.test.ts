import * as Endpoint from "@cut-through/core/Endpoint"
import { NONE } from "@cut-through/core/runtime/HandleTable"
import { Dial } from "@cut-through/core/session/HalfOpen"
import { assert, describe, it } from "@effect/vitest"
import { endpoint } from "../fixtures.ts"
import { ListeningTransport, makeApp, makeHalfOpen } from "./fixtures.ts"

describe("Dial", () => {
  it("D24 the client has the address it has dialled, and a port of its own", () => {
    for (const address of ["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]) {
      const server = Endpoint.tcp(address, 7000)
      const dial = new Dial(server, 50_000)
      assert.strictEqual(dial.server, server)
      assert.strictEqual(Endpoint.format(dial.client), Endpoint.format(Endpoint.tcp(address, 50_000)))
      // Made once: sessions and listings refer to the same one.
      assert.strictEqual(dial.client, dial.client)
    }
  })
})

describe("HalfOpen", () => {
  it("starts at the client, and nothing is there for the server yet", () => {
    const app = makeApp()
    const transport = new ListeningTransport("tcp")
    const halfOpen = makeHalfOpen(app, { transport })
    assert.strictEqual(halfOpen.transport, transport)
    assert.strictEqual(halfOpen.client, app.workers[0])
    assert.strictEqual(halfOpen.worker, 0)
    assert.strictEqual(halfOpen.handle, NONE)
    assert.strictEqual(halfOpen.remote, endpoint)
    assert.strictEqual(halfOpen.local, halfOpen.dial.client)
    assert.strictEqual(halfOpen.local.port, 50_000)
    assert.isUndefined(halfOpen.server)
    assert.isUndefined(halfOpen.leases)
  })
})
