/** A thread that dies before any access it makes to shared memory, and what becomes of those it shared it with. */
import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import type * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import { assert, describe, it } from "@effect/vitest"
import {
  assertBytesAt,
  attachFifo,
  bytesAt,
  dequeueAt,
  enqueueAt,
  firstNonZero,
  Header,
  headerWord,
  WatchedWords
} from "../memory/fixtures.ts"
import {
  assertAtRest,
  assertLeases,
  assertOther,
  assertSame,
  assertSameItems,
  assertUsable,
  type Contexts,
  makeContexts,
  makeManager,
  makeMemory,
  type Memory,
  PAGE,
  User
} from "./fixtures.ts"

const SIZE = 5 * PAGE

/** What ends the dying thread, and nothing else. */
class Stop extends Error {}

class Thread {
  isGone = false
}

/** The two ends of the connections of one thread, in its own mapping. */
interface Ends {
  readonly out: Fifo.Fifo
  readonly in: Fifo.Fifo
  /** The same of another connection in the same segment. */
  readonly otherOut: Fifo.Fifo
  readonly otherIn: Fifo.Fifo
}

interface Scene {
  readonly users: Record<SegmentContext.Side, User>
  readonly threads: Record<SegmentContext.Side, Thread>
  readonly pairs: readonly [SegmentContext.Leases, SegmentContext.Leases]
  readonly segment: SegmentContext.Lease["segment"]
  /** The dying thread's view of the memory. */
  readonly words: WatchedWords
  readonly mapped: FifoSegment.FifoSegment
  readonly dying: Ends
  readonly peer: Ends
  /** A chunk that the dying thread has taken. */
  readonly chunk: number
}

// What was written, and what of that was read, before the last thing that the dying thread does.
const OUT = { written: 15_000, read: 5000 }
const IN = { written: 14_000, read: 5000 }

const endsOf = (
  side: SegmentContext.Side,
  [first, second]: Scene["pairs"],
  map: (fifo: Fifo.Fifo, side: number) => Fifo.Fifo
): Ends => {
  const [out, read] = side === "client" ? (["rx", "tx"] as const) : (["tx", "rx"] as const)
  return {
    out: map(first[out], Fifo.WRITER),
    in: map(first[read], Fifo.READER),
    otherOut: map(second[out], Fifo.WRITER),
    otherIn: map(second[read], Fifo.READER)
  }
}

/** Two connections, in the middle of a conversation, between the dying thread and another one or the session layer's own. */
const makeScene = (
  contexts: Contexts,
  manager: Parameters<Contexts["closeManager"]>[0],
  side: SegmentContext.Side,
  isPeerLocal: boolean
): Scene => {
  const other = side === "client" ? "server" : "client"
  const threads = { client: new Thread(), server: new Thread() }
  const user = (name: SegmentContext.Side) => new User(name, isPeerLocal && name === other ? undefined : threads[name])
  const users = { client: user("client"), server: user("server") }
  const acquire = () => assertLeases(contexts.tryAcquire({ manager, ...users }))
  const pairs = [acquire(), acquire()] as const
  const { segment } = pairs[0].client
  const words = new WatchedWords(segment.region.words.buffer)
  const mapped = FifoSegment.attach(words) ?? assert.fail("no segment")
  const dying = endsOf(side, pairs, (fifo, role) => attachFifo(mapped, fifo.index, role))
  const elsewhere = FifoSegment.attach(new SharedWords(segment.region.words.buffer)) ?? assert.fail("no segment")
  const peer = endsOf(other, pairs, (fifo, role) => (isPeerLocal ? fifo : attachFifo(elsewhere, fifo.index, role)))

  for (const [writer, reader, { read, written }] of [
    [dying.out, peer.in, OUT],
    [peer.out, dying.in, IN]
  ] as const) {
    assert.strictEqual(enqueueAt(writer, 0, 6000), 6000)
    dequeueAt(reader, 0, read)
    assert.strictEqual(enqueueAt(writer, 6000, written - 6000), written - 6000)
  }
  for (const fifo of [dying.otherOut, peer.otherOut]) assert.strictEqual(enqueueAt(fifo, 0, 100), 100)
  return { users, threads, pairs, segment, words, mapped, dying, peer, chunk: mapped.chunks.allocate(2 * PAGE) }
}

/** Leaves single units only, some of which are buddies that are yet to be joined. */
const scatter = ({ segment: { fifos } }: Scene): void => {
  const taken: Array<number> = []
  for (let chunk = fifos.chunks.allocate(PAGE); chunk >= 0; chunk = fifos.chunks.allocate(PAGE)) taken.push(chunk)
  assert.isAbove(taken.length, 6)
  for (const [i, chunk] of taken.entries()) if (i % 5 !== 0) fifos.chunks.release(chunk)
}

interface Life {
  /** Bytes that it publishes, if it gets that far. */
  readonly written: number
  readonly run: (scene: Scene) => void
  readonly before?: (scene: Scene) => void
}

const buffer = new Uint8Array(SIZE)

const write = (length: number) => ({
  written: length,
  run: ({ dying }: Scene) => assert.strictEqual(enqueueAt(dying.out, OUT.written, length), length)
})

const lives: Record<string, Life> = {
  "writes to its chunk": write(10),
  "writes over several chunks": write(9000),
  "writes where buddies have to be joined": { ...write(5000), before: scatter },
  "writes pieces": {
    written: 7000,
    run: ({ dying }) => {
      const bytes = bytesAt(OUT.written, 7000)
      assert.strictEqual(dying.out.enqueueSegments([bytes.subarray(0, 3000), bytes.subarray(3000)], false), 7000)
    }
  },
  "writes in place": {
    written: 6000,
    run: ({ dying }) => {
      let at = 0
      for (const view of dying.out.claim(6000)) {
        view.set(bytesAt(OUT.written + at, view.length))
        at += view.length
      }
      assert.strictEqual(dying.out.commit(at), 6000)
    }
  },
  "reads from its chunk": { written: 0, run: ({ dying }) => assert.strictEqual(dying.in.dequeue(buffer, 0, 10), 10) },
  "reads over several chunks, and gives them back": {
    written: 0,
    run: ({ dying }) => assert.strictEqual(dying.in.dequeue(buffer, 0, 9000), 9000)
  },
  "drops what it has not read": { written: 0, run: ({ dying }) => assert.strictEqual(dying.in.dropAll(), 9000) },
  "takes a chunk": { written: 0, run: ({ mapped }) => assert.isAtLeast(mapped.chunks.allocate(PAGE), 0) },
  "takes a chunk of joined buddies": {
    written: 0,
    before: scatter,
    run: ({ mapped }) => assert.isAtLeast(mapped.chunks.allocate(4 * PAGE), 0)
  },
  "gives a chunk back": { written: 0, run: ({ chunk, mapped }) => assert.isTrue(mapped.chunks.release(chunk)) }
}

/** All that can be read, which is what belongs from a position on. Returns how much. */
const drain = (fifo: Fifo.Fifo, position: number): number => {
  let count = 0
  while (true) {
    const got = fifo.dequeue(buffer, 0, 3000)
    if (got === Fifo.EMPTY) return count
    if (got <= 0) assert.fail(`${got} instead of bytes`)
    assertBytesAt(buffer, position + count, got)
    count += got
  }
}

const orders: ReadonlyArray<readonly [number, number, number, number]> = [
  [0, 1, 2, 3],
  [3, 2, 1, 0],
  [0, 2, 1, 3],
  [1, 3, 0, 2],
  [2, 1, 3, 0]
]

/** Dies before access `at` of what it does last; returns whether it had done it before. */
const dieAt = (
  { before, run, written }: Life,
  at: number,
  memory: Memory,
  contexts: Contexts,
  side: SegmentContext.Side,
  isPeerLocal: boolean
): boolean => {
  // Not more than both connections can come to use, and one chunk more.
  const manager = makeManager({ segmentSize: 2 * 10 * PAGE + 4 * PAGE, rxFifoSize: SIZE, txFifoSize: SIZE })
  const scene = makeScene(contexts, manager, side, isPeerLocal)
  const { pairs, peer, segment, threads, users, words } = scene
  const other = side === "client" ? "server" : "client"
  before?.(scene)

  let isDone = false
  const start = words.accesses
  words.before = (access) => {
    if (access === start + at) throw new Stop()
  }
  try {
    run(scene)
    isDone = true
  } catch (error) {
    if (!(error instanceof Stop)) throw error
  }
  words.before = () => assert.fail("the dead goes on")

  // What a reader could see, and no more than that.
  const tail = headerWord(segment.fifos, peer.in.index) + Header.tail
  const published = segment.region.words.load(tail) - OUT.written
  assert.include(isDone ? [written] : [0, written], published)

  threads[side].isGone = true
  contexts.condemn(users[side])
  const [out, read] = side === "client" ? (["rx", "tx"] as const) : (["tx", "rx"] as const)
  for (const pair of pairs) {
    pair[out].markGone(Fifo.WRITER)
    pair[read].markGone(Fifo.READER)
  }
  assert.deepInclude(contexts.stats().segments[0], {
    condemned: true,
    clientDetached: side === "client",
    serverDetached: side === "server",
    clientSessions: 2,
    serverSessions: 2
  })

  assert.strictEqual(drain(peer.in, OUT.read), OUT.written - OUT.read + published)
  assert.strictEqual(drain(peer.otherIn, 0), 100)
  for (const fifo of [peer.in, peer.otherIn]) {
    assert.isTrue(fifo.isGone(Fifo.WRITER))
    assert.deepStrictEqual([fifo.readable, fifo.isEnded, fifo.isCorrupt], [0, false, false])
  }
  // Whoever has not been told yet may write: it works, or there is no room for it.
  for (const fifo of [peer.out, peer.otherOut]) {
    for (const length of [10, 2 * PAGE, 10]) {
      const count = enqueueAt(fifo, 0, length)
      if (count < 0) assert.include([Fifo.FULL, Fifo.NO_MEMORY], count)
    }
    assert.isTrue(fifo.isGone(Fifo.READER))
    assert.isFalse(fifo.isCorrupt)
  }

  const leases = pairs.flatMap((pair) => [pair.client, pair.server])
  const left = segment.region.words.buffer.slice(0)
  for (const index of orders[at % orders.length]) {
    assert.deepStrictEqual([users.client.deleted.size, users.server.deleted.size], [0, 0])
    assert.strictEqual(
      Buffer.compare(new Uint8Array(left), segment.region.words.view(0, left.byteLength)),
      0,
      "a word was changed"
    )
    contexts.release(leases[index])
  }
  for (const user of Object.values(users)) assertSameItems(user.deleted, [segment])
  assertAtRest(contexts, memory, [manager], Object.values(users))
  // All that was written was known to be, wherever it died.
  const { region } = segment
  assert.strictEqual(firstNonZero(region.words.buffer), -1)

  // Its memory serves the survivor and this thread, and when the survivor has gone as well anybody.
  const local = new User("local")
  const take = (client: User) => {
    const request = { manager, client, server: local }
    const all = [0, 1].map(() => assertLeases(contexts.tryAcquire(request)))
    for (const leases of all) {
      assertUsable(request, leases)
      for (const fifo of [leases.rx, leases.tx]) {
        assert.strictEqual(enqueueAt(fifo, 0, SIZE), SIZE)
        dequeueAt(fifo, 0, SIZE)
      }
    }
    for (const { client, server } of all) for (const lease of [client, server]) contexts.release(lease)
    return all[0].client.segment.region
  }
  if (!isPeerLocal) {
    assertOther(take(local), region)
    const stranger = new Thread()
    assertOther(take(new User("stranger", stranger)), region)
    stranger.isGone = true
  }
  assertSame(take(users[other]), region)
  threads[other].isGone = true
  assertAtRest(contexts, memory, [manager], [local, ...Object.values(users)])
  return isDone
}

describe("a thread that dies before any access it makes", () => {
  for (const [name, life] of Object.entries(lives)) {
    for (const isPeerLocal of [true, false]) {
      it(`${name}, shared with ${isPeerLocal ? "the session layer's own thread" : "another thread"}`, () => {
        for (const side of ["client", "server"] as const) {
          const memory = makeMemory()
          const contexts = makeContexts(memory)
          let steps = 0
          for (let isDone = false; !isDone; steps++) {
            isDone = dieAt(life, steps, memory, contexts, side, isPeerLocal)
          }
          assert.isAbove(steps, 3)
          // However many have died, memory is used again.
          assert.isAtMost(memory.stats().pooledRegions, isPeerLocal ? 1 : 3)
        }
      })
    }
  }
})
