import type { Connection } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { misplaced, pattern, readExactly, reasonOf } from "../fixtures.ts"
import { SteppingScheduler } from "../runtime/stepping.ts"
import {
  countRings,
  type Family,
  layerOver,
  layerWith,
  pairOf,
  readAll,
  runToRest,
  sessionOf,
  ShuffledScheduler
} from "./dataFixtures.ts"

interface Pace {
  /** Bytes of one write or read. */
  readonly by: number
  /** Turns that a fiber leaves to the others before each. */
  readonly pause: number
}

interface Transfer {
  readonly family: Family
  readonly fifo: number
  readonly bytes: number
  readonly writer: Pace
  readonly reader: Pace
}

const pauseOf = ({ pause }: Pace): Effect.Effect<void> => {
  let all: Effect.Effect<void> = Effect.void
  for (let turns = 0; turns < pause; turns++) all = Effect.andThen(all, Effect.yieldNow)
  return all
}

const writeAll = (connection: Connection.Connection, bytes: number, pace: Pace, from: number) =>
  Effect.gen(function* () {
    for (let at = 0; at < bytes; at += pace.by) {
      yield* pauseOf(pace)
      yield* connection.write(pattern(Math.min(pace.by, bytes - at), from + at))
    }
    yield* connection.end
  })

/** Both directions at once, each with a writer and a reader of their own pace. */
const bothWays = ({ bytes, family, fifo, reader, writer }: Transfer) =>
  Effect.gen(function* () {
    const { client, server } = yield* pairOf({ family, server: { rxFifoSize: fifo, txFifoSize: fifo } })
    const [toServer, toClient] = yield* Effect.all(
      [
        readAll(server, { by: reader.by, before: pauseOf(reader) }),
        readAll(client, { by: reader.by, before: pauseOf(reader) }),
        writeAll(client, bytes, writer, 0),
        writeAll(server, bytes, writer, 77)
      ],
      { concurrency: "unbounded" }
    )
    assert.deepStrictEqual([toServer.length, misplaced(toServer)], [bytes, -1])
    assert.deepStrictEqual([toClient.length, misplaced(toClient, 77)], [bytes, -1])
  }).pipe(Effect.scoped)

const integer = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const wakes = { direct: Wake.layer, scheduled: Wake.layerScheduler }

describe("D36 R12 no wake-up is lost between full and empty", () => {
  for (const fifo of [4096, 16_384]) {
    for (const family of ["v4", "v6"] as const) {
      it(`${fifo / 1024} KiB FIFOs, ${family}: writers and readers of all relative speeds, both ways at once`, () => {
        for (const [name, wake] of Object.entries(wakes)) {
          const layer = layerWith({ wake })
          for (const writeBy of [fifo / 4 + 1, fifo, 3 * fifo]) {
            for (const readBy of [fifo / 8, fifo - 1, fifo, 2 * fifo]) {
              for (const pauses of [
                [0, 0],
                [0, 1],
                [0, 3],
                [1, 0],
                [3, 0],
                [1, 1],
                [2, 3]
              ]) {
                const transfer: Transfer = {
                  family,
                  fifo,
                  bytes: 7 * fifo + 5,
                  writer: { by: writeBy, pause: pauses[0] },
                  reader: { by: readBy, pause: pauses[1] }
                }
                const where = `${name} wake-ups, ${JSON.stringify(transfer)}`
                runToRest(new SteppingScheduler(), Effect.provide(bothWays(transfer), layer), where)
              }
            }
          }
        }
      })
    }

    it(`${fifo / 1024} KiB FIFOs: byte by byte on either side`, () => {
      for (const [name, wake] of Object.entries(wakes)) {
        for (const [writeBy, readBy] of [
          [1, fifo],
          [fifo, 1],
          [1, 1]
        ]) {
          const transfer: Transfer = {
            family: "v4",
            fifo,
            bytes: 2 * fifo + 5,
            writer: { by: writeBy, pause: 0 },
            reader: { by: readBy, pause: 0 }
          }
          const where = `${name} wake-ups, ${JSON.stringify(transfer)}`
          runToRest(new SteppingScheduler(), Effect.provide(bothWays(transfer), layerWith({ wake })), where)
        }
      }
    })
  }

  it.prop(
    "in any order in which the fibers run",
    [
      integer(0, 2 ** 31 - 1),
      integer(3, 40),
      Arbitrary.schema(Schema.Literals([1, 64, 4096, 16_384])),
      integer(1, 20_000),
      integer(1, 20_000),
      Arbitrary.schema(Schema.Literals(["direct", "scheduled"]))
    ],
    ([seed, ops, fifo, writeBy, readBy, wake]) => {
      const writer: Pace = { by: Math.min(writeBy, 5 * fifo), pause: seed % 3 }
      const reader: Pace = { by: Math.min(readBy, 5 * fifo), pause: seed % 5 }
      // Several FIFOs of bytes, but not thousands of steps.
      const bytes = Math.min(6 * fifo, 100 * Math.min(writer.by, reader.by))
      const transfer: Transfer = { family: seed % 2 === 0 ? "v4" : "v6", fifo, bytes, writer, reader }
      runToRest(
        new ShuffledScheduler(seed, ops),
        Effect.provide(bothWays(transfer), layerWith({ wake: wakes[wake] })),
        `seed ${seed}`
      )
    },
    { arbitrary: { runs: 150 } }
  )
})

/** One side writes from three fibers, one of which is interrupted again and again; so is who reads on the other side. */
const withInterruptions = (seed: number, family: Family, fifo: number, by: number) =>
  Effect.gen(function* () {
    const { client, server } = yield* pairOf({ family, server: { rxFifoSize: fifo, txFifoSize: fifo } })
    const rounds = 8
    let turns = seed
    const soon = Effect.suspend(() => Effect.repeat(Effect.yieldNow, { times: (turns = (turns * 31 + 7) % 11) }))
    const tried = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<Exit.Exit<A, E>> =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(effect)
        yield* soon
        yield* Fiber.interrupt(fiber)
        return yield* Fiber.await(fiber)
      })
    const write = (value: number) => client.write(new Uint8Array(by).fill(value))
    const writing = Effect.gen(function* () {
      const exits = yield* Effect.all(
        [
          Effect.forEach(Array.from({ length: rounds }), () => write(1), { discard: true }),
          Effect.forEach(Array.from({ length: rounds }), () => tried(write(2))),
          Effect.forEach(Array.from({ length: 2 * rounds }), () => write(3), { discard: true })
        ],
        { concurrency: "unbounded" }
      )
      yield* client.end
      return exits[1].filter(Exit.isSuccess).length
    })
    const counts = [0, 0, 0, 0]
    const buffer = new Uint8Array(fifo)
    const reading = Effect.gen(function* () {
      while (true) {
        const before = server.info.bytesReceived
        const exit = yield* tried(server.readInto(buffer))
        // Also what was taken when the interruption came: whether it is lost is another question.
        for (const value of buffer.subarray(0, server.info.bytesReceived - before)) counts[value]++
        if (Exit.isFailure(exit) && reasonOf(exit) === "Done") return
      }
    })
    const [whole] = yield* Effect.all([writing, reading], { concurrency: "unbounded" })
    assert.strictEqual(counts[0], 0, "bytes that nobody wrote")
    assert.deepStrictEqual([counts[1], counts[3]], [rounds * by, 2 * rounds * by], "bytes of uninterrupted writes")
    assert.isAtLeast(counts[2], whole * by, "bytes of writes that were done before they were interrupted")
    assert.strictEqual(counts[1] + counts[2] + counts[3], client.info.bytesSent)
  }).pipe(Effect.scoped)

describe("D36 several fibers on either side, some of them interrupted", () => {
  it.prop(
    "nobody who goes on waits for ever, and no byte is lost",
    [
      integer(0, 2 ** 31 - 1),
      integer(3, 40),
      Arbitrary.schema(Schema.Literals([64, 4096])),
      integer(1, 6_000),
      Arbitrary.schema(Schema.Literals(["direct", "scheduled"]))
    ],
    ([seed, ops, fifo, by, wake]) => {
      runToRest(
        new ShuffledScheduler(seed, ops),
        Effect.provide(
          withInterruptions(seed, seed % 2 === 0 ? "v4" : "v6", fifo, Math.min(by, 2 * fifo)),
          layerWith({ wake: wakes[wake] })
        ),
        `seed ${seed}`
      )
    },
    { arbitrary: { runs: 60 } }
  )
})

/** Memory that calls the test before each access of a word, so that another thread can come in between. */
class InterruptedWords extends SharedWords {
  static onAccess: (() => void) | undefined = undefined

  private access(): void {
    const { onAccess } = InterruptedWords
    if (onAccess === undefined) return
    // What the other thread does is not interrupted itself.
    InterruptedWords.onAccess = undefined
    onAccess()
    InterruptedWords.onAccess ??= onAccess
  }

  override load(word: number): number {
    this.access()
    return super.load(word)
  }
  override store(word: number, value: number): void {
    this.access()
    super.store(word, value)
  }
  override peek(word: number): number {
    return this.load(word)
  }
  override init(word: number, value: number): void {
    this.store(word, value)
  }
  override add(word: number, value: number): number {
    this.access()
    return super.add(word, value)
  }
  override or(word: number, bits: number): number {
    this.access()
    return super.or(word, bits)
  }
  override and(word: number, bits: number): number {
    this.access()
    return super.and(word, bits)
  }
  override exchange(word: number, value: number): number {
    this.access()
    return super.exchange(word, value)
  }
}

const interruptedMemory = Layer.sync(SharedMemory.SharedMemory, () => {
  const memory = Effect.runSync(SharedMemory.make())
  const regions = new Map<SharedMemory.Region, SharedMemory.Region>()
  const allocate = (bytes: number): SharedMemory.Region => {
    const inner = memory.tryAllocate(bytes)!
    const region = { words: new InterruptedWords(inner.words.buffer) }
    regions.set(region, inner)
    return region
  }
  return SharedMemory.SharedMemory.of({
    allocate: (bytes) => Effect.sync(() => allocate(bytes)),
    tryAllocate: allocate,
    release: (region, touched) => memory.release(regions.get(region)!, touched),
    stats: memory.stats
  })
})

/**
 * Runs a step of one side with something that the other side does, as another thread would, before the first access to
 * shared words, before the second, and so on, until the step has ended before it could happen. A ring that comes during
 * the step is heard after it, as a thread hears it. Returns how often it happened within the step.
 */
const betweenAccesses = (options: {
  readonly sizes: number
  readonly setUp: (pair: Pair) => Effect.Effect<unknown, unknown>
  readonly step: (pair: Pair) => Effect.Effect<unknown, unknown>
  readonly stepper: "client" | "server"
  readonly happens: (pair: Pair) => Effect.Effect<unknown, unknown>
  /** What the other side does after that, when the step waits. */
  readonly afterwards?: (pair: Pair) => Effect.Effect<unknown, unknown>
  readonly check: (pair: Pair, result: unknown, where: string) => Effect.Effect<unknown, unknown>
}) =>
  Effect.gen(function* () {
    let within = 0
    for (let at = 0; ; at++) {
      const hasHappenedWithin = yield* Effect.scoped(
        Effect.gen(function* () {
          const sizes = { rxFifoSize: options.sizes, txFifoSize: options.sizes }
          const pair: Pair = yield* pairOf({ server: sizes })
          yield* options.setUp(pair)
          const { doorbell } = yield* sessionOf(pair[options.stepper])
          const { target } = doorbell
          let accesses = 0
          let hasHappened = false
          let hasRung = false
          const happen = () => {
            hasHappened = true
            InterruptedWords.onAccess = undefined
            doorbell.target = { onRing: () => void (hasRung = true) }
            const fiber = Effect.runFork(options.happens(pair))
            assert.isDefined(fiber.pollUnsafe(), "another thread cannot wait within a step")
          }
          const stepping = yield* Effect.sync(() => {
            InterruptedWords.onAccess = () => {
              if (!hasHappened && accesses++ === at) happen()
            }
            const fiber = Effect.runFork(options.step(pair))
            InterruptedWords.onAccess = undefined
            return fiber
          })
          const isWithin = hasHappened
          if (!isWithin) happen()
          doorbell.target = target
          if (hasRung) target?.onRing()
          const where = `happening before access ${at}`
          // Whoever was woken runs at once; if nobody wakes the step now, nobody ever will.
          if (stepping.pollUnsafe() === undefined && options.afterwards !== undefined) yield* options.afterwards(pair)
          const exit = stepping.pollUnsafe()
          if (exit === undefined) yield* Fiber.interrupt(stepping)
          if (exit === undefined) return assert.fail(`the ${options.stepper} waits for ever, ${where}`)
          yield* options.check(pair, Exit.isSuccess(exit) ? exit.value : exit, where)
          return isWithin
        })
      )
      if (!hasHappenedWithin) return within
      within++
    }
  }).pipe(Effect.provide(layerOver()), Effect.provide(Layer.mergeAll(interruptedMemory, Lock.layer)))

interface Pair {
  readonly client: Connection.Connection
  readonly server: Connection.Connection
}

describe("D36 R12 whatever the other side does between any two accesses to shared memory", () => {
  const nothing = () => Effect.void
  const size = 4096
  /** All that is there now. */
  const drain = ({ server }: Pair) =>
    Effect.suspend(() => {
      const { bytesReceived, rx } = server.info
      if (rx.used === 0) return Effect.void
      return Effect.map(server.readInto(new Uint8Array(rx.used)), (count) =>
        assert.strictEqual(count, server.info.bytesReceived - bytesReceived)
      )
    })

  it.effect("a reader that finds nothing sees what is written then", () =>
    Effect.gen(function* () {
      const within = yield* betweenAccesses({
        sizes: size,
        stepper: "server",
        setUp: nothing,
        step: ({ server }) => server.read,
        happens: ({ client }) => client.write(pattern(3)),
        check: (_, bytes, where) => Effect.sync(() => assert.deepStrictEqual(bytes, pattern(3), where))
      })
      assert.isAbove(within, 3)
    })
  )

  it.effect("a reader that finds nothing sees the bytes, then the end, of whoever writes and closes then", () =>
    betweenAccesses({
      sizes: size,
      stepper: "server",
      setUp: nothing,
      step: ({ server }) => readAll(server),
      happens: ({ client }) => Effect.andThen(client.write(pattern(3)), client.close),
      check: (_, bytes, where) => Effect.sync(() => assert.deepStrictEqual(bytes, pattern(3), where))
    })
  )

  it.effect("a reader that takes the last bytes sees more that are written then", () =>
    betweenAccesses({
      sizes: size,
      stepper: "server",
      setUp: ({ client }) => client.write(pattern(2)),
      step: ({ server }) => readExactly(server, 4),
      happens: ({ client }) => client.write(pattern(2, 2)),
      check: (_, bytes, where) => Effect.sync(() => assert.deepStrictEqual(bytes, pattern(4), where))
    })
  )

  for (const [what, drained] of [
    ["all is read", size],
    ["half of it is read", size / 2],
    ["just enough is read", 10]
  ] as const) {
    it.effect(`a writer that finds no room is woken when ${what} then`, () =>
      Effect.gen(function* () {
        const within = yield* betweenAccesses({
          sizes: size,
          stepper: "client",
          setUp: ({ client }) => client.write(pattern(size)),
          step: ({ client }) => client.write(pattern(10, size)),
          happens: ({ server }) => server.readInto(new Uint8Array(drained)),
          check: ({ server }, _, where) =>
            Effect.gen(function* () {
              const rest = yield* readExactly(server, size + 10 - drained)
              assert.strictEqual(misplaced(rest, drained), -1, where)
            })
        })
        assert.isAbove(within, 3)
      })
    )
  }

  it.effect("a writer that fills the FIFO and needs more is woken when it is drained then", () =>
    betweenAccesses({
      sizes: size,
      stepper: "client",
      setUp: nothing,
      step: ({ client }) => client.write(pattern(size + 1)),
      happens: drain,
      afterwards: drain,
      check: ({ client, server }, _, where) =>
        Effect.gen(function* () {
          yield* drain({ client, server })
          assert.deepStrictEqual([client.info.bytesSent, server.info.bytesReceived], [size + 1, size + 1], where)
        })
    })
  )

  it.effect("a writer that finds no room learns of the other side's close, and of its reset", () =>
    Effect.forEach(["close", "reset"] as const, (ending) =>
      betweenAccesses({
        sizes: size,
        stepper: "client",
        setUp: ({ client }) => client.write(pattern(size)),
        step: ({ client }) => client.write(pattern(10)),
        happens: ({ server }) => server[ending],
        check: (_, exit, where) =>
          Effect.sync(() => assert.strictEqual(reasonOf(exit as Exit.Exit<unknown, unknown>), "Reset", where))
      })
    )
  )
})

const settle = Effect.repeat(Effect.yieldNow, { times: 10 })

/** Wakes as the real one does, and counts. */
const countingWake = () => {
  const counter = { wakes: 0 }
  const layer = Layer.effect(
    Wake.Wake,
    Effect.map(Wake.make(), (wake) =>
      Wake.Wake.of({
        ...wake,
        wake(waiter) {
          counter.wakes++
          wake.wake(waiter)
        }
      })
    )
  )
  return { counter, layer }
}

describe("D37 nobody is rung or woken for nothing", () => {
  const size = 4096
  const sizes = { rxFifoSize: size, txFifoSize: size }

  const counted = (
    body: (
      pair: Pair & {
        readonly rings: Record<"client" | "server", { rings: number }>
        readonly counter: { wakes: number }
      }
    ) => Effect.Effect<void, unknown, SessionLayer | Scope.Scope>
  ) => {
    const { counter, layer } = countingWake()
    return Effect.gen(function* () {
      const pair = yield* pairOf({ server: sizes })
      const rings = { client: yield* countRings(pair.client), server: yield* countRings(pair.server) }
      counter.wakes = 0
      yield* body({ ...pair, rings, counter })
    }).pipe(Effect.scoped, Effect.provide(layerWith({ wake: layer })))
  }

  it.effect("a writer that waits for room is not woken by what the other side writes, however often", () =>
    counted(({ client, counter, rings, server }) =>
      Effect.gen(function* () {
        const writing = yield* Effect.forkChild(client.write(pattern(size + 100)), { startImmediately: true })
        for (let n = 0; n < 20; n++) yield* server.write(pattern(10))
        // Nobody reads there: it is told once that there is something.
        assert.deepStrictEqual([rings.client.rings, counter.wakes], [1, 0])
        yield* settle
        assert.isUndefined(writing.pollUnsafe())
        yield* readExactly(server, size + 100)
        yield* Fiber.join(writing)
        yield* readExactly(client, 200)
      })
    )
  )

  it.effect("a writer is rung once, when there is the room it asked for, not for each byte", () =>
    counted(({ client, counter, rings, server }) =>
      Effect.gen(function* () {
        const writing = yield* Effect.forkChild(client.write(pattern(3 * size)), { startImmediately: true })
        const one = new Uint8Array(1)
        for (let n = 1; n < size / 2; n++) yield* server.readInto(one)
        assert.deepStrictEqual([rings.client.rings, counter.wakes], [0, 0])
        yield* server.readInto(one)
        assert.deepStrictEqual([rings.client.rings, counter.wakes], [1, 1])
        assert.strictEqual(client.info.tx.used, size, "the writer was woken and has not filled the room")
        yield* readExactly(server, 3 * size - size / 2)
        yield* Fiber.join(writing)
      })
    )
  )

  it.effect("a writer that needs little room is rung when there is that much", () =>
    counted(({ client, rings, server }) =>
      Effect.gen(function* () {
        const writing = yield* Effect.forkChild(client.write(pattern(size + 10)), { startImmediately: true })
        yield* readExactly(server, 9)
        assert.strictEqual(rings.client.rings, 0)
        yield* readExactly(server, 1)
        assert.strictEqual(rings.client.rings, 1)
        yield* Fiber.join(writing)
        // And never again: nobody has asked.
        yield* readExactly(server, size)
        assert.strictEqual(rings.client.rings, 1)
      })
    )
  )

  it.effect("looking and finding nothing tells the writer nothing", () =>
    counted(({ client, counter, rings, server }) =>
      Effect.gen(function* () {
        for (let n = 0; n < 10; n++) {
          const reading = yield* Effect.forkChild(server.read, { startImmediately: true })
          yield* Fiber.interrupt(reading)
        }
        assert.deepStrictEqual([rings.client.rings, counter.wakes], [0, 0])
        yield* client.write(pattern(1))
        yield* server.read
        assert.strictEqual(rings.client.rings, 0)
      })
    )
  )

  it.effect("a reader is rung once for all that is written until it looks", () =>
    counted(({ client, counter, rings, server }) =>
      Effect.gen(function* () {
        for (let n = 0; n < 50; n++) yield* client.write(pattern(10, 10 * n))
        assert.deepStrictEqual([rings.server.rings, counter.wakes], [1, 0])
        // It takes a part, then all: it has not found nothing yet, so it needs no ring.
        yield* readExactly(server, 100)
        yield* client.write(pattern(10, 500))
        assert.strictEqual(rings.server.rings, 1)
        yield* readExactly(server, 410)
        const reading = yield* Effect.forkChild(server.read, { startImmediately: true })
        yield* client.write(pattern(10, 510))
        yield* Fiber.join(reading)
        assert.deepStrictEqual([rings.server.rings, counter.wakes], [2, 1])
      })
    )
  )

  it.effect("a transfer with a reader that is always behind costs two rings for each FIFO of bytes, and no more", () =>
    counted(({ client, counter, rings, server }) =>
      Effect.gen(function* () {
        const fifos = 64
        const writing = yield* Effect.forkChild(client.write(pattern(fifos * size)), { startImmediately: true })
        let at = 0
        const buffer = new Uint8Array(100)
        while (at < fifos * size) {
          yield* Effect.yieldNow
          const count = yield* server.readInto(buffer)
          assert.strictEqual(misplaced(buffer.subarray(0, count), at), -1)
          at += count
        }
        yield* Fiber.join(writing)
        assert.isAtMost(rings.client.rings, 2 * fifos)
        // Each ring for room wakes the writer; one that is rung has always something to do.
        assert.strictEqual(counter.wakes, rings.client.rings)
        assert.strictEqual(rings.server.rings, 1, "the reader never found nothing, so it needed no ring")
      })
    )
  )
})

describe("D38 the reader's side is the reader's", () => {
  const action = Schema.Struct({
    what: Schema.Literals(["write", "writeAll", "interrupted write", "end", "read", "close", "reset"]),
    bytes: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9000 }))
  })

  it.effect.prop(
    "whatever the writer's side does, no byte leaves the FIFO but into the reader's hands",
    [Arbitrary.array(Arbitrary.schema(action), { minLength: 1, maxLength: 20 })],
    ([actions]) =>
      Effect.gen(function* () {
        const { client, server } = yield* pairOf({ server: { rxFifoSize: 4096, txFifoSize: 4096 } })
        let sent = 0
        for (const { bytes, what } of actions) {
          const before = server.info
          if (what === "read") {
            if (before.rx.used > 0) yield* Effect.exit(server.readInto(new Uint8Array(bytes + 1)))
          } else if (what === "write" || what === "writeAll" || what === "interrupted write") {
            const data = pattern(bytes)
            const effect = what === "writeAll" ? client.writeAll([data, data]) : client.write(data)
            const fiber = yield* Effect.forkChild(Effect.exit(effect), { startImmediately: true })
            if (what === "interrupted write" || bytes === 0) yield* Fiber.interrupt(fiber)
          } else {
            yield* client[what]
          }
          const { bytesReceived, rx } = server.info
          if (what !== "read") assert.strictEqual(bytesReceived, before.bytesReceived, what)
          sent = Math.max(sent, client.info.bytesSent)
          assert.strictEqual(sent - rx.used, bytesReceived, `after ${what}`)
        }
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions())),
    { arbitrary: { runs: 200 } }
  )
})
