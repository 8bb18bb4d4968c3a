import { Application, Connection, Endpoint, Sessions } from "@cut-through/core"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Cause, Effect, Exit, Fiber, Latch, Layer, Scheduler, Schema, Scope, Stream } from "effect"
import { connectedPair, misplaced, pattern, readExactly, reasonOf } from "./fixtures.ts"

const withLayer = <A, E>(
  effect: Effect.Effect<A, E, Application.Application | Scope.Scope | SessionLayer.SessionLayer>
) => effect.pipe(Effect.scoped, Effect.provide(Leaks.layerTest))

describe("Connection", () => {
  describe("read and write", () => {
    it.effect("what one side writes the other reads, in both directions", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(Uint8Array.of(1, 2, 3))
        yield* server.write(Uint8Array.of(4, 5))
        assert.deepStrictEqual(Array.from(yield* server.read), [1, 2, 3])
        assert.deepStrictEqual(Array.from(yield* client.read), [4, 5])
      }).pipe(withLayer)
    )

    it.effect("its functions can be passed on", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const { readInto, write, writeAll } = client
        yield* write(Uint8Array.of(1))
        yield* writeAll([Uint8Array.of(2)])
        yield* Effect.flatMap(server.read, server.write)
        assert.strictEqual(yield* readInto(new Uint8Array(10)), 2)
      }).pipe(withLayer)
    )

    it.effect("a read waits for bytes and gets an array of its own", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const reading = yield* Effect.forkChild(server.read, { startImmediately: true })
        assert.isUndefined(reading.pollUnsafe())
        yield* client.write(Uint8Array.of(1))
        const first = yield* Fiber.join(reading)
        yield* client.write(Uint8Array.of(2))
        const second = yield* server.read
        assert.deepStrictEqual([Array.from(first), Array.from(second)], [[1], [2]])
      }).pipe(withLayer)
    )

    it.effect("a written array may be changed when the write is done", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const bytes = Uint8Array.of(1, 2, 3)
        yield* client.write(bytes)
        bytes.fill(0)
        assert.deepStrictEqual(Array.from(yield* server.read), [1, 2, 3])
      }).pipe(withLayer)
    )

    it.effect("read returns at most 64 KiB, readInto at most the buffer", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(pattern(100_000))
        const first = yield* server.read
        assert.strictEqual(first.length, 65536)
        const buffer = new Uint8Array(1000)
        assert.strictEqual(yield* server.readInto(buffer), 1000)
        assert.strictEqual(misplaced(first), -1)
        assert.strictEqual(misplaced(buffer, 65536), -1)
        assert.strictEqual((yield* server.read).length, 100_000 - 65536 - 1000)
      }).pipe(withLayer)
    )

    it.effect("empty writes and empty buffers do nothing", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(new Uint8Array(0))
        yield* client.writeAll([])
        yield* client.writeAll([new Uint8Array(0)])
        yield* client.write(Uint8Array.of(9))
        assert.strictEqual(yield* server.readInto(new Uint8Array(0)), 0)
        assert.deepStrictEqual(Array.from(yield* server.read), [9])
      }).pipe(withLayer)
    )

    it.effect("a write larger than the FIFO waits for the reader as often as necessary", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const length = 3_000_000
        const writing = yield* Effect.forkChild(client.write(pattern(length)), { startImmediately: true })
        assert.isUndefined(writing.pollUnsafe())
        assert.strictEqual(misplaced(yield* readExactly(server, length)), -1)
        yield* Fiber.join(writing)
      }).pipe(withLayer)
    )

    it.effect("writeAll keeps the order, also when it does not fit", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const sizes = [10, 0, 70_000, 1, 200_000, 3]
        let at = 0
        const chunks = sizes.map((size) => pattern(size, (at += size) - size))
        yield* Effect.forkChild(client.writeAll(chunks), { startImmediately: true })
        assert.strictEqual(misplaced(yield* readExactly(server, at)), -1)
      }).pipe(withLayer)
    )

    it.effect("writeAll of pieces that fit is one publication: the reader gets them at once", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const reading = yield* Effect.forkChild(server.read, { startImmediately: true })
        yield* client.writeAll([Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)])
        assert.deepStrictEqual(Array.from(yield* Fiber.join(reading)), [1, 2, 3])
      }).pipe(withLayer)
    )

    it.effect("a writer that waits for half of the FIFO is not woken by bytes that arrive", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* Effect.forkChild(client.write(pattern(1_000_000)), { startImmediately: true })
        const { size } = client.info.tx
        assert.strictEqual(client.info.tx.used, size)
        yield* server.readInto(new Uint8Array(1000))
        yield* server.write(Uint8Array.of(1))
        assert.strictEqual(client.info.tx.used, size - 1000)
        yield* server.readInto(new Uint8Array(size / 2 - 1000))
        assert.strictEqual(client.info.tx.used, size)
      }).pipe(withLayer)
    )

    it.effect("both sides full in both directions do not deadlock", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const length = 1_000_000
        const writers = yield* Effect.forkChild(
          Effect.all([client.write(pattern(length)), server.write(pattern(length))], { concurrency: "unbounded" }),
          { startImmediately: true }
        )
        assert.isUndefined(writers.pollUnsafe())
        const [a, b] = yield* Effect.all([readExactly(client, length), readExactly(server, length)], {
          concurrency: "unbounded"
        })
        yield* Fiber.join(writers)
        assert.deepStrictEqual([misplaced(a), misplaced(b)], [-1, -1])
      }).pipe(withLayer)
    )
  })

  describe("several fibers at once", () => {
    for (const nothing of [[], [new Uint8Array(0)], [new Uint8Array(0), new Uint8Array(0)]]) {
      it.effect(
        `a reader that waits is told of the first byte, also after a write of ${nothing.length} empty arrays`,
        () =>
          Effect.gen(function* () {
            const { client, server } = yield* connectedPair
            const reading = yield* Effect.forkChild(server.read, { startImmediately: true })
            yield* client.writeAll(nothing)
            yield* client.write(Uint8Array.of(1))
            assert.deepStrictEqual(Array.from(yield* Fiber.join(reading)), [1])
          }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
      )
    }

    it.effect("the bytes of one write are never mixed with those of another", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const each = 300_000
        const writers = yield* Effect.forkChild(
          Effect.forEach([1, 2, 3], (n) => client.write(new Uint8Array(each).fill(n)), {
            concurrency: "unbounded",
            discard: true
          }),
          { startImmediately: true }
        )
        const bytes = yield* readExactly(server, 3 * each)
        yield* Fiber.join(writers)
        const runs = bytes.reduce((runs, byte, at) => (at > 0 && bytes[at - 1] === byte ? runs : runs + 1), 0)
        assert.strictEqual(runs, 3)
      }).pipe(withLayer)
    )

    for (const pause of [false, true]) {
      it.effect(
        `a write that begins while another is under way follows it${pause ? ", also when that must wait" : ""}`,
        () =>
          Effect.gen(function* () {
            const { client, server } = yield* connectedPair
            const length = 400_000
            const paused = yield* Latch.make(!pause)
            // The server answers the first bytes at once, on the stack of the client's write; the answer makes another
            // fiber of the client write.
            yield* Effect.forkChild(
              Effect.gen(function* () {
                yield* client.read
                yield* client.write(new Uint8Array(10).fill(2))
              }),
              { startImmediately: true }
            )
            const reading = yield* Effect.forkChild(
              Effect.gen(function* () {
                const first = yield* server.read
                yield* server.write(Uint8Array.of(0))
                yield* paused.await
                const rest = yield* readExactly(server, length + 10 - first.length)
                return [...first, ...rest]
              }),
              { startImmediately: true }
            )
            const writing = yield* Effect.forkChild(client.write(new Uint8Array(length).fill(1)), {
              startImmediately: true
            })
            yield* paused.open
            yield* Fiber.join(writing)
            const bytes = yield* Fiber.join(reading)
            assert.strictEqual(bytes.indexOf(2), length)
          }).pipe(withLayer)
      )
    }

    it.effect("reads are served in the order in which they were asked", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const fibers: Array<Fiber.Fiber<number, unknown>> = []
        for (let i = 0; i < 5; i++) {
          fibers.push(
            yield* Effect.forkChild(
              Effect.map(server.readInto(new Uint8Array(1)), () => i),
              { startImmediately: true }
            )
          )
        }
        const order: Array<number> = []
        for (const fiber of fibers) fiber.addObserver((exit) => Exit.isSuccess(exit) && order.push(exit.value))
        yield* client.write(Uint8Array.of(1, 2, 3))
        yield* client.write(Uint8Array.of(4, 5))
        yield* Fiber.joinAll(fibers)
        assert.deepStrictEqual(order, [0, 1, 2, 3, 4])
      }).pipe(withLayer)
    )
  })

  describe("when fibers are made to yield after a few operations, wherever that is", () => {
    for (let operations = 3; operations <= 12; operations++) {
      it.effect(`every ${operations}: nothing is lost, mixed up, or waits for ever`, () =>
        Effect.gen(function* () {
          const { client, server } = yield* connectedPair
          const each = 40_000
          const rounds = 30
          const writer = (n: number) =>
            Effect.gen(function* () {
              for (let i = 0; i < rounds; i++) yield* client.write(new Uint8Array(each).fill(n))
            })
          const echo = Effect.gen(function* () {
            const buffer = new Uint8Array(7_000)
            while (true) yield* server.write(buffer.subarray(0, yield* server.readInto(buffer)))
          })
          yield* Effect.forkChild(echo)
          const writers = yield* Effect.forkChild(
            Effect.all([writer(1), writer(2), writer(3)], { concurrency: "unbounded", discard: true })
          )
          for (let i = 0; i < 3 * rounds; i++) {
            const bytes = yield* readExactly(client, each)
            assert.isTrue(
              bytes.every((byte) => byte === bytes[0]),
              `two writes were mixed in the ${i}th`
            )
          }
          yield* Fiber.join(writers)
        }).pipe(withLayer, Effect.provideService(Scheduler.MaxOpsBeforeYield, operations))
      )
    }
  })

  describe("interruption", () => {
    it.effect("an interrupted read loses nothing", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const first = yield* Effect.forkChild(server.read, { startImmediately: true })
        const second = yield* Effect.forkChild(server.read, { startImmediately: true })
        yield* Fiber.interrupt(first)
        yield* client.write(Uint8Array.of(1, 2))
        assert.deepStrictEqual(Array.from(yield* Fiber.join(second)), [1, 2])
      }).pipe(withLayer)
    )

    it.effect("a reader that is interrupted after it was woken leaves the bytes to the next", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const readers = yield* Effect.forEach([0, 1], () => Effect.forkChild(server.read, { startImmediately: true }))
        // The observer runs between the wake-up of the first reader and that of the second.
        readers[0].addObserver(() => readers[1].interruptUnsafe())
        yield* client.writeAll([Uint8Array.of(1)])
        yield* client.write(Uint8Array.of(2))
        yield* Fiber.await(readers[1])
        assert.deepStrictEqual(Array.from(yield* server.read), [2])
      }).pipe(withLayer)
    )

    it.effect("an interrupted write has written a prefix, and the next one follows it", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const writing = yield* Effect.forkChild(client.write(pattern(1_000_000)), { startImmediately: true })
        const next = yield* Effect.forkChild(client.write(Uint8Array.of(255)), { startImmediately: true })
        yield* Fiber.interrupt(writing)
        const { used } = server.info.rx
        const prefix = yield* readExactly(server, used)
        assert.strictEqual(misplaced(prefix), -1)
        yield* Fiber.join(next)
        assert.deepStrictEqual(Array.from(yield* server.read), [255])
      }).pipe(withLayer)
    )
  })

  describe("ends", () => {
    it.effect("end: the other side reads everything, then the end, again and again", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(pattern(100))
        yield* client.end
        yield* client.end
        assert.strictEqual((yield* server.read).length, 100)
        assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Done")
        assert.strictEqual(reasonOf(yield* Effect.exit(server.readInto(new Uint8Array(1)))), "Done")
      }).pipe(withLayer)
    )

    it.effect("end wakes a reader that waits", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const reading = yield* Effect.forkChild(Effect.exit(server.read), { startImmediately: true })
        yield* client.end
        assert.strictEqual(reasonOf(yield* Fiber.join(reading)), "Done")
      }).pipe(withLayer)
    )

    it.effect("half-close: after end this side still reads, and cannot write", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.end
        yield* server.write(Uint8Array.of(7))
        assert.deepStrictEqual(Array.from(yield* client.read), [7])
        assert.strictEqual(reasonOf(yield* Effect.exit(client.write(Uint8Array.of(1)))), "BrokenPipe")
        assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Done")
      }).pipe(withLayer)
    )

    it.effect("close: what was written arrives, then the end; the closed side can do nothing more", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(pattern(50_000))
        yield* client.close
        yield* client.close
        assert.strictEqual(misplaced(yield* readExactly(server, 50_000)), -1)
        assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Done")
        for (const attempt of [client.read, client.write(Uint8Array.of(1)), client.readInto(new Uint8Array(1))]) {
          assert.strictEqual(reasonOf(yield* Effect.exit(attempt as Effect.Effect<unknown, unknown>)), "Closed")
        }
        assert.strictEqual(reasonOf(yield* Effect.exit(server.write(Uint8Array.of(1)))), "BrokenPipe")
      }).pipe(withLayer)
    )

    it.effect("write then close at once: all bytes arrive although nobody was reading yet", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
        yield* Effect.scoped(
          Effect.gen(function* () {
            const client = yield* Application.connect(listener.address)
            yield* client.write(pattern(1000))
          })
        )
        const server = yield* listener.accept
        assert.strictEqual(misplaced(yield* readExactly(server, 1000)), -1)
        assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Done")
      }).pipe(withLayer)
    )

    it.effect("closing with bytes it has not read resets the other side", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* server.write(Uint8Array.of(1))
        yield* client.write(Uint8Array.of(2))
        yield* client.close
        assert.strictEqual(reasonOf(yield* Effect.exit(server.read)), "Reset")
        assert.strictEqual(reasonOf(yield* Effect.exit(server.write(Uint8Array.of(1)))), "Reset")
      }).pipe(withLayer)
    )

    it.effect("reset: the other side is told at once, and how many bytes it had received", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        yield* client.write(pattern(10))
        yield* server.readInto(new Uint8Array(4))
        yield* client.reset
        const error = yield* Effect.flip(server.read)
        assert.isTrue(
          error._tag === "SessionError" && error.reason._tag === "Reset" && error.reason.bytesReceived === 4
        )
      }).pipe(withLayer)
    )

    it.effect("a reset wakes readers and writers that wait, on both sides", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const waiting = yield* Effect.forEach(
          [server.read, server.write(pattern(1_000_000)), client.read, client.write(pattern(1_000_000))],
          (effect) =>
            Effect.forkChild(Effect.exit(effect as Effect.Effect<unknown, unknown>), { startImmediately: true })
        )
        // The two reads are served by the writes: only what waits after that is of interest.
        yield* client.reset
        const exits = yield* Effect.forEach(waiting, Fiber.join)
        assert.deepStrictEqual(exits.map(reasonOf), ["success", "Reset", "success", "Closed"])
      }).pipe(withLayer)
    )

    it.effect("a writer that waits for room learns that the other side has closed", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const writing = yield* Effect.forkChild(Effect.exit(client.write(pattern(1_000_000))), {
          startImmediately: true
        })
        yield* server.close
        assert.strictEqual(reasonOf(yield* Fiber.join(writing)), "Reset")
      }).pipe(withLayer)
    )

    it.effect("a scope that fails or is interrupted resets, one that succeeds closes", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
        const ending = (end: Effect.Effect<unknown, unknown>) =>
          Effect.gen(function* () {
            yield* Application.connect(listener.address).pipe(Effect.andThen(end), Effect.scoped, Effect.exit)
            const server = yield* listener.accept
            return reasonOf(yield* Effect.exit(server.read))
          })
        assert.strictEqual(yield* ending(Effect.void), "Done")
        assert.strictEqual(yield* ending(Effect.fail("no")), "Reset")
        assert.strictEqual(yield* ending(Effect.interrupt), "Reset")
        assert.strictEqual(yield* ending(Effect.die("no")), "Reset")
      }).pipe(withLayer)
    )

    it.effect("a connection closed early leaves nothing in the scope it was made in", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
        const scope = yield* Scope.make()
        for (let i = 0; i < 3; i++) {
          const client = yield* Scope.provide(Application.connect(listener.address), scope)
          yield* client.close
        }
        assert.strictEqual(scope.state._tag, "Empty")
        yield* Scope.close(scope, Exit.void)
      }).pipe(withLayer)
    )
  })

  describe("stream and sink", () => {
    it.effect("a stream of the connection run into the sink of another ends it", () =>
      Effect.gen(function* () {
        const one = yield* connectedPair
        const two = yield* connectedPair
        const piping = yield* Effect.forkChild(Stream.run(one.server.stream, two.client.sink), {
          startImmediately: true
        })
        yield* one.client.write(pattern(10_000))
        yield* one.client.end
        yield* Fiber.join(piping)
        const bytes = yield* readExactly(two.server, 10_000)
        assert.strictEqual(misplaced(bytes), -1)
        assert.strictEqual(reasonOf(yield* Effect.exit(two.server.read)), "Done")
      }).pipe(withLayer)
    )

    it.effect("a reset fails the stream", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const running = yield* Effect.forkChild(Effect.exit(Stream.runDrain(server.stream)), { startImmediately: true })
        yield* client.reset
        assert.strictEqual(reasonOf(yield* Fiber.join(running)), "Reset")
      }).pipe(withLayer)
    )
  })

  it.effect("info tells path, addresses, state, and how full both directions are", () =>
    Effect.gen(function* () {
      const { client, server } = yield* connectedPair
      yield* client.write(pattern(10))
      assert.strictEqual(client.info.path, "fiber")
      assert.deepStrictEqual([client.info.tx.used, server.info.rx.used, client.info.bytesSent], [10, 10, 10])
      assert.deepStrictEqual(client.info.local, server.info.remote)
      assert.deepStrictEqual(client.info.remote, server.info.local)
      yield* client.close
      assert.strictEqual(server.info.state, "transport-closing")
      assert.strictEqual(client.info.state, "closed")
      assert.strictEqual(client.info.tx.used, 0)
      assert.include(JSON.stringify(server), "127.0.0.1")
    }).pipe(withLayer)
  )

  it.effect("the FIFOs of a closed connection serve others: a stale connection cannot touch them", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      const scope = yield* Effect.scope
      const keep = yield* Application.connect(listener.address)
      const stale = yield* Scope.provide(Application.connect(listener.address), scope)
      yield* listener.accept
      const staleServer = yield* listener.accept
      yield* stale.close
      yield* staleServer.close
      const fresh = yield* Application.connect(listener.address)
      const freshServer = yield* listener.accept
      yield* Effect.exit(stale.write(pattern(100)))
      yield* Effect.exit(staleServer.write(pattern(100)))
      yield* fresh.write(Uint8Array.of(42))
      assert.deepStrictEqual(Array.from(yield* freshServer.read), [42])
      assert.strictEqual(keep.info.state, "ready")
    }).pipe(withLayer)
  )

  it.effect("Connection is also a key that a handler may require", () =>
    Effect.gen(function* () {
      const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 0))
      yield* Effect.forkScoped(
        listener.run(() => Effect.flatMap(Connection.Connection, (connection) => connection.write(Uint8Array.of(5))))
      )
      const client = yield* Application.connect(listener.address)
      assert.deepStrictEqual(Array.from(yield* client.read), [5])
    }).pipe(withLayer)
  )
})

describe("transfers", () => {
  const layers = {
    "default sizes": Leaks.layerTest,
    "4 KiB FIFOs": Application.layer({ name: "small", rxFifoSize: 4096, txFifoSize: 4096 }).pipe(
      Layer.provideMerge(Leaks.layerSessions())
    ),
    "FIFOs of one byte": Application.layer({ name: "tiny", rxFifoSize: 1, txFifoSize: 1 }).pipe(
      Layer.provideMerge(Leaks.layerSessions())
    ),
    "a segment with room for one pair": Application.layer({
      name: "tight",
      rxFifoSize: 16384,
      txFifoSize: 16384,
      segmentSize: 32768
    }).pipe(Layer.provideMerge(Leaks.layerSessions()))
  }

  for (const [name, layer] of Object.entries(layers)) {
    it.effect.prop(
      `echo with ${name}: any sizes of writes and reads give the same bytes back`,
      [
        Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20_000 }))), {
          maxLength: 12
        }),
        Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9_000 })))
      ],
      ([sizes, readSize]) =>
        Effect.gen(function* () {
          const scale = name === "FIFOs of one byte" ? 100 : 1
          const { client, server } = yield* connectedPair
          yield* Effect.forkChild(
            Effect.gen(function* () {
              const buffer = new Uint8Array(readSize)
              while (true) yield* server.write(buffer.subarray(0, yield* server.readInto(buffer)))
            }).pipe(Effect.catchIf(Cause.isDone, () => server.end))
          )
          const total = sizes.reduce((sum, size) => sum + Math.ceil(size / scale), 0)
          yield* Effect.forkChild(
            Effect.gen(function* () {
              let at = 0
              for (const size of sizes) {
                const bytes = pattern(Math.ceil(size / scale), at)
                at += bytes.length
                yield* client.write(bytes)
              }
              yield* client.end
            })
          )
          assert.strictEqual(misplaced(yield* readExactly(client, total)), -1)
          assert.strictEqual(reasonOf(yield* Effect.exit(client.read)), "Done")
          const [first] = yield* Sessions.list
          assert.strictEqual(first.rx.used, 0)
        }).pipe(Effect.scoped, Effect.provide(layer)),
      { arbitrary: { runs: 60 } }
    )
  }
})
