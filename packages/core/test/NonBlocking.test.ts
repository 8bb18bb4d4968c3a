import { Application, Connection, Endpoint, NonBlocking } from "@cut-through/core"
import type * as Doorbell from "@cut-through/core/memory/Doorbell"
import type { Fifo } from "@cut-through/core/memory/Fifo"
import type { AppSession } from "@cut-through/core/session/Session"
import type * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Deferred, Effect, Fiber, Schema, type Scope } from "effect"
import { connectedPair, misplaced, pattern, readExactly } from "./fixtures.ts"

const { FAILED, WOULD_BLOCK } = NonBlocking

const withLayer = <A, E>(
  effect: Effect.Effect<A, E, Application.Application | Scope.Scope | SessionLayer.SessionLayer>
) => effect.pipe(Effect.scoped, Effect.provide(Leaks.layerTest))

const SMALL = 4096

/** Both ends of one connection whose FIFOs are soon full. */
const narrowPair = Effect.gen(function* () {
  const { listen } = yield* Application.make({ name: "narrow server", rxFifoSize: SMALL, txFifoSize: SMALL })
  const listener = yield* listen(Endpoint.tcp("127.0.0.1", 0))
  const client = yield* Application.connect(listener.address)
  return { client, server: yield* listener.accept }
})

/** As somebody else's connection: only its Effects. */
const decorated = (connection: Connection.Connection): Connection.Connection =>
  new Proxy({} as Connection.Connection, { get: (_, key) => connection[key as keyof Connection.Connection] })

const listening = (connection: Connection.Connection) => {
  const calls: Array<string> = []
  const stream = Connection.nonBlocking(connection, {
    onReadable: () => calls.push("readable"),
    onWritable: () => calls.push("writable")
  })
  return { calls, stream }
}

const faces = [
  ["of a connection", (connection: Connection.Connection) => connection],
  ["of a connection that is decorated", decorated]
] as const

const size = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum })))

interface Sizes {
  readonly writes: ReadonlyArray<number>
  readonly reads: number
}

/** Sends back what comes, from one buffer. */
const echo = (connection: Connection.Connection, most: number): void => {
  const buffer = new Uint8Array(most)
  let rest = buffer.subarray(0, 0)
  const go = () => {
    for (;;) {
      const count = rest.length > 0 ? stream.write(rest) : stream.readInto(buffer)
      if (count <= 0) return
      rest = rest.length > 0 ? rest.subarray(count) : buffer.subarray(0, count)
    }
  }
  const stream = Connection.nonBlocking(connection, { onReadable: go, onWritable: go })
  go()
}

/** Writes what it has to while it reads what comes back. */
const ask = (
  connection: Connection.Connection,
  { reads, writes }: Sizes,
  total: number,
  done: (problem: string | undefined) => void
): void => {
  const buffer = new Uint8Array(reads)
  let written = 0
  let read = 0
  let index = 0
  let end = 0
  let part = pattern(0)
  const write = () => {
    while (written < total) {
      if (written === end) {
        part = pattern(writes[index], written)
        end += writes[index++]
      }
      const count = stream.write(part, part.length - (end - written))
      if (count < 0) return
      written += count
    }
  }
  const take = () => {
    for (;;) {
      const count = stream.readInto(buffer)
      if (count <= 0) return
      const at = misplaced(buffer.subarray(0, count), read)
      read += count
      if (at >= 0) return done(`byte ${at} is wrong`)
      if (read === total) return done(undefined)
    }
  }
  const stream = Connection.nonBlocking(connection, { onReadable: take, onWritable: write })
  take()
  write()
}

for (const [name, face] of faces) {
  describe(`NonBlocking, ${name}`, () => {
    it.effect("a read takes what is there, or says that it would wait, and is called back once", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const { calls, stream } = listening(face(server))
        const buffer = new Uint8Array(10)
        yield* client.write(Uint8Array.of(1, 2, 3))
        assert.strictEqual(stream.readInto(buffer), 3)
        assert.deepStrictEqual(Array.from(buffer.subarray(0, 3)), [1, 2, 3])
        assert.strictEqual(stream.readInto(buffer), WOULD_BLOCK)
        assert.strictEqual(stream.readInto(buffer), WOULD_BLOCK)
        assert.deepStrictEqual(calls, [])
        yield* client.write(Uint8Array.of(4))
        yield* client.write(Uint8Array.of(5))
        assert.deepStrictEqual(calls, ["readable"])
        assert.strictEqual(stream.readInto(new Uint8Array(0)), 0)
        assert.strictEqual(stream.readInto(buffer.subarray(0, 1)), 1)
        assert.strictEqual(stream.readInto(buffer.subarray(1)), 1)
        assert.deepStrictEqual(Array.from(buffer.subarray(0, 2)), [4, 5])
      }).pipe(withLayer)
    )

    it.effect("the end is 0, again and again, and called back", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const { calls, stream } = listening(face(server))
        const buffer = new Uint8Array(10)
        assert.strictEqual(stream.readInto(buffer), WOULD_BLOCK)
        yield* client.write(Uint8Array.of(1))
        yield* client.end
        assert.deepStrictEqual(calls, ["readable"])
        assert.deepStrictEqual(
          [1, 2, 3].map(() => stream.readInto(buffer)),
          [1, 0, 0]
        )
        assert.strictEqual(stream.write(Uint8Array.of(2)), 1)
        assert.strictEqual((yield* client.read)[0], 2)
        assert.isUndefined(stream.error)
      }).pipe(withLayer)
    )

    it.effect("a reset is a failure, called back", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const { calls, stream } = listening(face(server))
        assert.strictEqual(stream.readInto(new Uint8Array(10)), WOULD_BLOCK)
        yield* Effect.forkChild(client.reset, { startImmediately: true })
        assert.deepStrictEqual(calls, ["readable"])
        assert.strictEqual(stream.readInto(new Uint8Array(10)), FAILED)
        assert.strictEqual(stream.error?.reason._tag, "Reset")
        assert.strictEqual(stream.write(Uint8Array.of(1)), FAILED)
        assert.strictEqual(stream.error?.reason._tag, "Reset")
      }).pipe(withLayer)
    )

    it.effect("closed on this side, both fail, and who waited is called back", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const { calls, stream } = listening(face(server))
        assert.strictEqual(stream.readInto(new Uint8Array(10)), WOULD_BLOCK)
        yield* client.end
        calls.length = 0
        yield* server.close
        assert.strictEqual(stream.write(Uint8Array.of(1)), FAILED)
        assert.strictEqual(stream.error?.reason._tag, "Closed")
      }).pipe(withLayer)
    )

    it.effect("nothing can be written behind the end of this side", () =>
      Effect.gen(function* () {
        const { server } = yield* connectedPair
        const { stream } = listening(face(server))
        yield* server.end
        assert.strictEqual(stream.write(Uint8Array.of(1)), FAILED)
        assert.strictEqual(stream.error?.reason._tag, "BrokenPipe")
      }).pipe(withLayer)
    )

    it.effect("a write takes what there is room for, and is called back when there is more", () =>
      Effect.gen(function* () {
        const { client, server } = yield* narrowPair
        const { calls, stream } = listening(face(client))
        const bytes = pattern(3 * SMALL)
        let at = 0
        for (;;) {
          const count = stream.write(bytes.subarray(0, 2 * SMALL), at)
          if (count < 0) break
          at += count
        }
        assert.deepStrictEqual(calls, [])
        const first = yield* readExactly(server, SMALL)
        yield* Effect.yieldNow
        const rest = yield* Effect.forkChild(readExactly(server, 2 * SMALL), { startImmediately: true })
        assert.include(calls, "writable")
        for (at = Math.max(at, SMALL); at < bytes.length;) {
          const count = stream.write(bytes, at)
          if (count > 0) at += count
          else yield* Effect.yieldNow
        }
        assert.strictEqual(misplaced(first), -1)
        assert.strictEqual(misplaced(yield* Fiber.join(rest), SMALL), -1)
      }).pipe(withLayer)
    )

    it.effect("a handler that throws disturbs nobody", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const stream = Connection.nonBlocking(face(server), {
          onReadable: () => {
            throw new Error("this handler throws")
          }
        })
        assert.strictEqual(stream.readInto(new Uint8Array(1)), WOULD_BLOCK)
        yield* client.write(Uint8Array.of(1))
        assert.strictEqual(stream.readInto(new Uint8Array(1)), 1)
      }).pipe(withLayer)
    )

    it.effect.prop(
      "whatever the sizes: every byte comes back, in order",
      [Arbitrary.array(size(3 * SMALL), { minLength: 1, maxLength: 12 }), size(2 * SMALL), size(2 * SMALL)],
      ([writes, reads, echoes]) =>
        Effect.gen(function* () {
          const { client, server } = yield* narrowPair
          const total = writes.reduce((sum, size) => sum + size, 0)
          const done = yield* Deferred.make<string | undefined>()
          echo(face(server), echoes)
          ask(face(client), { writes, reads }, total, (problem) => Deferred.doneUnsafe(done, Effect.succeed(problem)))
          assert.isUndefined(yield* Deferred.await(done))
        }).pipe(withLayer)
    )
  })
}

describe("NonBlocking", () => {
  it.effect("what is written on the way of something else comes behind it", () =>
    Effect.gen(function* () {
      const { client, server } = yield* narrowPair
      const results: Array<number> = []
      const called: Array<string> = []
      const peer = Connection.nonBlocking(server, {
        onReadable: () => {
          const count = peer.readInto(new Uint8Array(SMALL))
          results.push(count, peer.write(Uint8Array.of(1)))
        }
      })
      const stream = Connection.nonBlocking(client, {
        // While the first part of the message is on its way.
        onReadable: () => void called.push(`readable ${stream.write(Uint8Array.of(255))}`),
        onWritable: () => void called.push(`writable ${stream.write(Uint8Array.of(254))}`)
      })
      assert.strictEqual(peer.readInto(new Uint8Array(1)), WOULD_BLOCK)
      assert.strictEqual(stream.readInto(new Uint8Array(1)), WOULD_BLOCK)
      const message = pattern(SMALL + 10)
      assert.strictEqual(stream.write(message), SMALL)
      assert.deepStrictEqual(results, [SMALL, 1])
      assert.deepStrictEqual(called, [`readable ${WOULD_BLOCK}`])
      assert.strictEqual(stream.write(message, SMALL), 10)
      assert.deepStrictEqual(called, [`readable ${WOULD_BLOCK}`, "writable 1"])
      const rest = yield* readExactly(server, 11)
      assert.strictEqual(misplaced(rest.subarray(0, 10), SMALL), -1)
      assert.strictEqual(rest[10], 254)
    }).pipe(withLayer)
  )

  it.effect("fibers that wait to write come first, and wake who comes behind them", () =>
    Effect.gen(function* () {
      const { client, server } = yield* narrowPair
      const writing = yield* Effect.forkChild(client.write(pattern(SMALL + 1)), { startImmediately: true })
      const { calls, stream } = listening(client)
      assert.strictEqual(stream.write(Uint8Array.of(1)), WOULD_BLOCK)
      assert.strictEqual(misplaced(yield* readExactly(server, SMALL + 1)), -1)
      yield* Fiber.join(writing)
      assert.deepStrictEqual(calls, ["writable"])
      assert.strictEqual(stream.write(Uint8Array.of(1)), 1)
    }).pipe(withLayer)
  )

  it.effect("whoever never has to wait lets others have their turn", () =>
    Effect.gen(function* () {
      const { client, server } = yield* connectedPair
      const writer = listening(client)
      const reader = listening(server)
      const message = new Uint8Array(64)
      let messages = 0
      while (writer.stream.write(message) === 64 && reader.stream.readInto(message) === 64) messages++
      assert.isAbove(messages, 1000)
      assert.isBelow(messages, 3000)
      assert.deepStrictEqual([...writer.calls, ...reader.calls], [])
      // The scheduler's turn.
      while (writer.calls.length + reader.calls.length === 0) yield* Effect.yieldNow
      assert.deepStrictEqual([...writer.calls, ...reader.calls], ["writable"])
      while (reader.stream.readInto(message) > 0);
      assert.strictEqual(writer.stream.write(message), 64)
    }).pipe(withLayer)
  )

  it.effect("the last one made is called back", () =>
    Effect.gen(function* () {
      const { client, server } = yield* connectedPair
      const first = listening(server)
      const second = listening(server)
      assert.strictEqual(first.stream.readInto(new Uint8Array(1)), WOULD_BLOCK)
      assert.strictEqual(second.stream.readInto(new Uint8Array(1)), WOULD_BLOCK)
      yield* client.write(Uint8Array.of(1))
      assert.deepStrictEqual([first.calls, second.calls], [[], ["readable"]])
      assert.strictEqual(second.stream.readInto(new Uint8Array(1)), 1)
    }).pipe(withLayer)
  )
})

describe("NonBlocking, where the reader's thread watches the FIFO", () => {
  /** Between threads `thread/Watch` of the platform does this, when its poller looks. */
  class Watcher implements Doorbell.Watcher {
    readonly watched = new Map<Fifo, Doorbell.Target>()
    watch(fifo: Fifo, target: Doorbell.Target): boolean {
      this.watched.set(fifo, target)
      return true
    }
    unwatch(fifo: Fifo): void {
      this.watched.delete(fifo)
    }
    look(): void {
      for (const [fifo, target] of this.watched) {
        if (!fifo.seemsMoved) continue
        this.watched.delete(fifo)
        target.onRing()
      }
    }
  }

  const watchedPair = Effect.gen(function* () {
    const { client, server } = yield* connectedPair
    const watcher = new Watcher()
    const { session } = server as unknown as { readonly session: AppSession }
    session.doorbell.watcher = watcher
    // Told once, so that the writer rings no more.
    const { calls, stream } = listening(server)
    yield* client.write(Uint8Array.of(0))
    assert.strictEqual(stream.readInto(new Uint8Array(8)), 1)
    return { client, server, watcher, calls, stream }
  })

  it.effect("it is called back when the thread looks, not by the writer", () =>
    Effect.gen(function* () {
      const { calls, client, stream, watcher } = yield* watchedPair
      const buffer = new Uint8Array(8)
      for (let n = 1; n <= 3; n++) {
        assert.strictEqual(stream.readInto(buffer), WOULD_BLOCK)
        yield* client.write(Uint8Array.of(1, 2))
        yield* client.write(Uint8Array.of(3))
        assert.strictEqual(calls.length, n - 1)
        watcher.look()
        assert.strictEqual(calls.length, n)
        assert.strictEqual(stream.readInto(buffer), 3)
      }
    }).pipe(withLayer)
  )

  it.effect("an end that comes with the bytes is found behind them, and so is one that comes after", () =>
    Effect.gen(function* () {
      const buffer = new Uint8Array(8)
      for (const isLate of [false, true]) {
        const { calls, client, stream, watcher } = yield* watchedPair
        assert.strictEqual(stream.readInto(buffer), WOULD_BLOCK)
        yield* client.write(Uint8Array.of(1, 2))
        if (!isLate) yield* client.end
        watcher.look()
        assert.strictEqual(stream.readInto(buffer), 2)
        if (isLate) {
          yield* client.end
          assert.strictEqual(calls.length, 1, "nobody waited")
        }
        assert.strictEqual(stream.readInto(buffer), 0)
      }
    }).pipe(withLayer)
  )

  it.effect("what a fiber has left is found", () =>
    Effect.gen(function* () {
      const { client, server, stream } = yield* watchedPair
      yield* client.write(new Uint8Array(100_000))
      const first = yield* server.read
      assert.strictEqual(stream.readInto(new Uint8Array(100_000)), 100_000 - first.length)
      assert.isBelow(first.length, 100_000)
    }).pipe(withLayer)
  )

  it.effect("a fiber that waits is told, too", () =>
    Effect.gen(function* () {
      const { client, server, watcher } = yield* watchedPair
      const fiber = yield* Effect.forkChild(server.read, { startImmediately: true })
      yield* client.write(Uint8Array.of(7))
      assert.isUndefined(fiber.pollUnsafe())
      watcher.look()
      assert.deepStrictEqual(yield* Fiber.join(fiber), Uint8Array.of(7))
    }).pipe(withLayer)
  )

  it.effect("a connection that has closed is watched no more", () =>
    Effect.gen(function* () {
      const { server, stream, watcher } = yield* watchedPair
      assert.strictEqual(stream.readInto(new Uint8Array(8)), WOULD_BLOCK)
      assert.strictEqual(watcher.watched.size, 1)
      yield* Effect.forkChild(server.reset, { startImmediately: true })
      assert.strictEqual(watcher.watched.size, 0)
    }).pipe(withLayer)
  )
})
