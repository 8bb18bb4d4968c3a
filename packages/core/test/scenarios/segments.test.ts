/** How long a shared segment lives: as long as one connection is in it, and no longer. */
import type { Connection, Listener } from "@cut-through/core"
import * as Wake from "@cut-through/core/runtime/Wake"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { endpoint, reasonOf } from "../fixtures.ts"
import { happenEverywhere } from "../runtime/stepping.ts"
import { SlowMemory } from "../segment/fixtures.ts"
import {
  assertTalk,
  attachBoth,
  inEveryOrder,
  fork,
  layerWith,
  type LayerOptions,
  listen,
  makeHeld,
  mappedBy,
  openWorld,
  PAIR,
  type Party
} from "./fixtures.ts"

interface Pair {
  readonly client: Connection.Connection
  readonly server: Connection.Connection
}

describe("many connections on one segment", () => {
  const setUp = (count: number) =>
    Effect.gen(function* () {
      const parties = yield* attachBoth({ server: { segmentSize: count * PAIR } })
      const { client, server } = parties
      const { listener } = yield* listen(server, endpoint)
      const connect = Effect.gen(function* () {
        return { client: yield* client.application.connect(endpoint), server: yield* listener.accept }
      })
      const pairs: Array<Pair> = []
      for (let i = 0; i < count; i++) pairs.push(yield* connect)
      return { ...parties, connect, pairs }
    })

  const ways: ReadonlyArray<readonly [name: string, first: (index: number) => "client" | "server"]> = [
    ["the client first", () => "client"],
    ["the server first", () => "server"],
    ["either side first, in turn", (index) => (index % 2 === 0 ? "client" : "server")]
  ]
  for (const count of [257, 512]) {
    for (const [name, first] of ways) {
      it.effect(`D1 ${count} connections close one by one, ${name}: the last one still talks`, () =>
        Effect.gen(function* () {
          const { client, layer, pairs, server } = yield* setUp(count)
          const last = pairs[count - 1]
          for (const [index, pair] of pairs.entries()) {
            yield* assertTalk(last.client, last.server)
            const left = count - index
            const { segments } = layer.segments.stats()
            assert.strictEqual(segments.length, 1)
            assert.deepInclude(segments[0], {
              clientSessions: left,
              serverSessions: left,
              clientDetached: false,
              serverDetached: false,
              activeFifos: 2 * left
            })
            assert.deepStrictEqual([mappedBy(client), mappedBy(server)], [1, 1])
            const side = first(index)
            yield* pair[side].close
            yield* pair[side === "client" ? "server" : "client"].close
          }
          for (const party of [client, server]) {
            assert.strictEqual(party.told("SegmentAdded").length, 1)
            assert.strictEqual(party.told("SegmentDeleted").length, 1)
          }
          assert.deepStrictEqual(layer.segments.stats().segments, [])
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }

    for (const side of ["client", "server"] as const) {
      const other = side === "client" ? "server" : "client"
      it.effect(`D1 all ${count} ${side}s close, then one ${other} after the other: what they had not read stays`, () =>
        Effect.gen(function* () {
          const { layer, pairs, ...parties } = yield* setUp(count)
          for (const [index, pair] of pairs.entries()) yield* pair[side].write(Uint8Array.of(index & 0xff, index >>> 8))
          for (const pair of pairs) yield* pair[side].close
          for (const [index, pair] of pairs.entries()) {
            assert.deepStrictEqual([mappedBy(parties.client), mappedBy(parties.server)], [1, 1])
            assert.deepInclude(layer.segments.stats().segments, {
              ...layer.segments.stats().segments[0],
              [`${side}Detached`]: true,
              [`${other}Detached`]: false,
              [`${other}Sessions`]: count - index
            })
            assert.deepStrictEqual(yield* pair[other].read, Uint8Array.of(index & 0xff, index >>> 8))
            assert.strictEqual(reasonOf(yield* Effect.exit(pair[other].read)), "Done")
            yield* pair[other].close
          }
          assert.deepStrictEqual([mappedBy(parties.client), mappedBy(parties.server)], [0, 0])
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }

    it.effect(`D1 when one of ${count} has closed, the next connection takes its place in the same segment`, () =>
      Effect.gen(function* () {
        const { client, connect, layer, pairs } = yield* setUp(count)
        yield* pairs[0].client.close
        yield* pairs[0].server.close
        const next = yield* connect
        yield* assertTalk(next.client, next.server)
        assert.strictEqual(layer.segments.stats().segments.length, 1)
        assert.strictEqual(client.told("SegmentAdded").length, 1)
        // Full again: one more needs another segment, and that one lives on its own.
        const more = yield* connect
        assert.strictEqual(layer.segments.stats().segments.length, 2)
        for (const pair of [...pairs, next]) {
          yield* pair.client.close
          yield* pair.server.close
        }
        yield* assertTalk(more.client, more.server)
        assert.strictEqual(mappedBy(client), 1)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }
})

describe("segments of one listener", () => {
  it.effect("D28 that several workers serve: whoever maps them can tell which one is deleted", () =>
    Effect.gen(function* () {
      const { client, server } = yield* attachBoth({ server: { workers: 2 } })
      const { listener } = yield* listen(server, endpoint)
      const pairs: Array<Pair> = []
      for (let i = 0; i < 2; i++) {
        pairs.push({ client: yield* client.application.connect(endpoint), server: yield* listener.accept })
      }
      const name = ({ listener, segment, worker }: ReturnType<typeof client.told<"SegmentAdded">>[number]) =>
        `${worker} ${listener} ${segment}`
      const added = client.told("SegmentAdded").map(name)
      assert.strictEqual(added.length, 2)
      assert.strictEqual(new Set(added).size, 2, `two segments of one name: ${added[0]}`)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("one client closes while its next connect has no answer", () => {
  const setUp = Effect.gen(function* () {
    const parties = yield* attachBoth()
    const { client, server } = parties
    const { listener } = yield* listen(server, endpoint, { approval: "application" })
    const connect = fork(client.application.connect(endpoint))
    const connecting = yield* connect
    const first = { server: yield* listener.accept, client: yield* Fiber.join(connecting) }
    return { ...parties, connect, first, listener }
  })

  const orders: ReadonlyArray<readonly [string, ReadonlyArray<"client" | "server">]> = [
    ["the client closes", ["client"]],
    ["the server closes", ["server"]],
    ["the client closes, then the server", ["client", "server"]],
    ["the server closes, then the client", ["server", "client"]]
  ]
  for (const [name, closing] of orders) {
    it.effect(`D2b ${name}: the second connection has a segment that works`, () =>
      Effect.gen(function* () {
        const { client, connect, first, layer, listener, server } = yield* setUp
        const connecting = yield* connect
        const request = yield* listener.request
        for (const side of closing) yield* first[side].close
        assert.isUndefined(connecting.pollUnsafe(), "nobody has said yes yet")
        assert.deepStrictEqual([mappedBy(client), mappedBy(server)], [1, 1])
        assert.deepInclude(layer.segments.stats().segments[0], { clientDetached: false, serverDetached: false })

        const accepted = yield* request.accept
        const connected = yield* Fiber.join(connecting)
        yield* assertTalk(connected, accepted)
        // The segment it was promised is the one it got, and the one it still has when the first is quite gone.
        assert.strictEqual(layer.segments.stats().segments.length, 1)
        for (const side of ["server", "client"] as const) yield* first[side].close
        yield* assertTalk(connected, accepted)
        assert.deepStrictEqual([mappedBy(client), mappedBy(server)], [1, 1])
        // D4a: the server leaves first; the client's segment is not deleted under it, and is deleted once.
        yield* accepted.write(Uint8Array.of(1, 2))
        yield* accepted.close
        assert.deepStrictEqual(yield* connected.read, Uint8Array.of(1, 2))
        assert.deepStrictEqual([mappedBy(client), mappedBy(server)], [1, 1])
        yield* connected.close
        for (const party of [client, server]) {
          assert.strictEqual(party.told("SegmentAdded").length, 1)
          assert.strictEqual(party.told("SegmentDeleted").length, 1)
        }
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )

    it.effect(`D2b ${name} before the second connect's call has run: it gets a segment that works`, () => {
      const held = makeHeld()
      return Effect.gen(function* () {
        const { client, connect, first, layer, listener, server } = yield* setUp
        yield* held.hold
        // Its call is behind those of the closes, or before them: in either case it has no lease when they close.
        const closings: Array<Fiber.Fiber<void>> = []
        for (const side of closing) closings.push(yield* fork(first[side].close))
        const connecting = yield* connect
        assert.deepInclude(layer.residue(), { halfOpens: 1, leases: 2 })
        yield* held.letGo
        for (const fiber of closings) yield* Fiber.join(fiber)
        const accepted = yield* listener.accept
        const connected = yield* Fiber.join(connecting)
        yield* assertTalk(connected, accepted)
        for (const side of ["client", "server"] as const) yield* first[side].close
        yield* assertTalk(connected, accepted)
        // The first segment had lost a side, so nothing was allocated in it again.
        assert.strictEqual(client.told("SegmentAdded").length, 2)
        assert.deepStrictEqual([mappedBy(client), mappedBy(server)], [1, 1])
      }).pipe(Effect.scoped, Effect.provide(held.layer))
    })
  }
})

/** One connection, its last. */
const lastPair = Effect.gen(function* () {
  const parties = yield* attachBoth()
  const { listener } = yield* listen(parties.server, endpoint)
  const client = yield* parties.client.application.connect(endpoint)
  return { parties, listener, pair: { client, server: yield* listener.accept } }
})

const assertDeletedOnce = (parties: { readonly client: Party; readonly server: Party }, where = "") => {
  for (const party of [parties.client, parties.server]) {
    assert.strictEqual(party.told("SegmentAdded").length, 1, where)
    assert.strictEqual(party.told("SegmentDeleted").length, 1, where)
  }
}

describe("the last client and the last server leave", () => {
  for (const order of [
    ["client", "server"],
    ["server", "client"]
  ] as const) {
    for (const how of ["close", "reset"] as const) {
      it.effect(`D15 first the ${order[0]}, by ${how}: each is told once that the segment is deleted`, () =>
        Effect.gen(function* () {
          const { layer, pair, parties } = yield* Effect.map(lastPair, (made) => ({ ...made, ...made.parties }))
          yield* pair[order[0]][how]
          assert.deepStrictEqual(parties.client.told("SegmentDeleted"), [], "before the last side has gone")
          assert.deepStrictEqual(parties.server.told("SegmentDeleted"), [], "before the last side has gone")
          yield* pair[order[1]].close
          assertDeletedOnce(parties)
          assert.deepInclude(layer.residue(), { sessions: 0, leases: 0, segments: 0, regions: 0 })
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }
  }

  it.effect("D4c both in one burst of the worker: the segment is deleted once", () => {
    const held = makeHeld()
    return Effect.gen(function* () {
      const { pair, parties } = yield* lastPair
      yield* held.hold
      const closing = yield* fork(Effect.all([pair.client.close, pair.server.close], { concurrency: "unbounded" }))
      assert.deepInclude(parties.layer.residue(), { sessions: 2, leases: 2, segments: 1 })
      yield* held.letGo
      yield* Fiber.join(closing)
      assertDeletedOnce(parties)
      assert.deepInclude(parties.layer.residue(), { sessions: 0, leases: 0, segments: 0, regions: 0 })
    }).pipe(Effect.scoped, Effect.provide(held.layer))
  })

  for (const [first, second] of [
    ["client", "server"],
    ["server", "client"]
  ] as const) {
    it(`D4c the ${second} leaves at any step of the ${first}'s leaving: the segment is deleted once`, () => {
      happenEverywhere({
        setUp: (others) => openWorld(others, layerWith(), lastPair),
        start: ({ run }, { state: { pair } }) =>
          run(Effect.andThen(pair[first].write(Uint8Array.of(1)), pair[first].close)),
        event: ({ run }, { state: { pair } }) => void run(pair[second].close),
        check: (_, { close, state: { parties } }, where) => {
          assertDeletedOnce(parties, where)
          close()
        }
      })
    })
  }
})

/** How those who wait are woken: at once, or by the scheduler, which makes that a step of its own. */
const wakes = [
  ["woken at once", Wake.layer],
  ["woken by the scheduler", Wake.layerScheduler]
] as const

const connectAndSay = ({ application }: Party) =>
  Effect.flatMap(application.connect(endpoint), (connection) => connection.write(Uint8Array.of(5)))

const acceptAndHear = ({ accept }: Listener.Listener) =>
  Effect.flatMap(accept, (connection) =>
    Effect.map(connection.read, (bytes) => assert.deepStrictEqual(bytes, Uint8Array.of(5)))
  )

describe("every order of a leaving and what goes on beside it", () => {
  /** Somebody waits for the next connection, and somebody will make it. */
  const world = (options: { readonly slow?: boolean } = {}) => {
    const slow = new SlowMemory()
    slow.allowAll()
    return {
      layer: (given: LayerOptions) =>
        layerWith({ ...given, workers: 2, memory: options.slow === true ? slow.service : undefined }),
      setUp: Effect.gen(function* () {
        const made = yield* lastPair
        const accepting = yield* Effect.forkIn(acceptAndHear(made.listener), yield* Effect.scope, {
          startImmediately: true
        })
        return { ...made, accepting, slow }
      })
    }
  }

  for (const [name, wake] of wakes) {
    it(`D4c D15 the last two leave, ${name}: the segment is deleted once`, () => {
      const orders = inEveryOrder({
        world,
        wake,
        fibers: ({ pair }) => [pair.client.close, pair.server.close],
        check: ({ parties }, exits, layer, where) => {
          assert.deepStrictEqual(exits, [Exit.void, Exit.void], where)
          assertDeletedOnce(parties, where)
          assert.deepInclude(layer.residue(), { sessions: 0, leases: 0, segments: 0, regions: 0 }, where)
        }
      })
      assert.isAbove(orders, 2)
    })
  }

  it("D4b the last two leave while a connection is made: it has a segment that works", () => {
    const segments = new Set<number>()
    inEveryOrder({
      world,
      fibers: ({ pair, parties }) => [pair.client.close, pair.server.close, connectAndSay(parties.client)],
      check: ({ accepting, parties }, exits, layer, where) => {
        assert.deepStrictEqual([...exits, accepting.pollUnsafe()], [Exit.void, Exit.void, Exit.void, Exit.void], where)
        const stats = layer.segments.stats().segments
        assert.strictEqual(stats.length, 1, where)
        const { clientDetached, clientSessions, serverDetached, serverSessions } = stats[0]
        assert.deepStrictEqual([clientSessions, serverSessions], [1, 1], where)
        assert.deepStrictEqual([clientDetached, serverDetached], [false, false], where)
        for (const party of [parties.client, parties.server]) assert.strictEqual(mappedBy(party), 1, where)
        segments.add(parties.client.told("SegmentAdded").length)
      }
    })
    // It came before the leaving was over, or after.
    assert.deepStrictEqual([...segments].toSorted(), [1, 2])
  })

  it("D4b D6 the last two leave while a connection waits for memory: it has a segment that works", () => {
    const orders = inEveryOrder({
      world: () => world({ slow: true }),
      fibers: ({ pair, parties, slow }) => {
        slow.slowDown()
        return [
          Effect.all([pair.client.close, pair.server.close], { concurrency: "unbounded", discard: true }),
          connectAndSay(parties.client),
          Effect.sync(() => slow.allowAll())
        ]
      },
      check: ({ accepting, parties }, exits, layer, where) => {
        assert.deepStrictEqual([...exits, accepting.pollUnsafe()], [Exit.void, Exit.void, Exit.void, Exit.void], where)
        assert.strictEqual(layer.segments.stats().segments.length, 1, where)
        for (const party of [parties.client, parties.server]) assert.strictEqual(mappedBy(party), 1, where)
      }
    })
    assert.isAbove(orders, 100)
  })
})
