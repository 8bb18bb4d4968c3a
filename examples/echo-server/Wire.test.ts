/**
 * The one promise that Effect's sockets do not give by themselves.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import { assert, it } from "@effect/vitest"
import { Effect, Pull } from "effect"
import type * as NetAddress from "effect/net/NetAddress"
import { settled } from "./settled.ts"
import * as Wire from "./Wire.ts"

const CHUNKS = 20_000
const CHUNK_BYTES = 1000

it.effect("an array may be used again when it is written, though the kernel's buffers are full", () =>
  Effect.gen(function* () {
    const server = yield* NodeSocketServer.make({ host: "127.0.0.1", port: 0, allowHalfOpen: true })
    let written = 0
    const sendAll = Effect.fnUntraced(function* (wire: Wire.Wire) {
      const chunk = new Uint8Array(CHUNK_BYTES)
      for (; written < CHUNKS; written++) yield* wire.write(chunk.fill(written))
      yield* wire.end
    })
    yield* Effect.forkScoped(server.run((socket) => Effect.scoped(Effect.flatMap(Wire.fromSocket(socket), sendAll))))
    const { port } = server.address as NetAddress.InetAddress
    const wire = yield* Effect.flatMap(NodeSocket.makeNet({ host: "127.0.0.1", port }), Wire.fromSocket)
    yield* wire.end
    yield* settled(() => written)
    assert.isBelow(written, CHUNKS)
    const buffer = new Uint8Array(4096)
    let received = 0
    let wrong = 0
    yield* Effect.gen(function* () {
      while (true) {
        const count = yield* wire.readInto(buffer)
        for (let i = 0; i < count; i++) {
          if (buffer[i] !== (Math.floor(received++ / CHUNK_BYTES) & 255)) wrong++
        }
      }
    }).pipe(Pull.catchDone(() => Effect.void))
    assert.strictEqual(received, CHUNKS * CHUNK_BYTES)
    assert.strictEqual(wrong, 0)
  })
)
