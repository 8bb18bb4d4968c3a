/** Any program of acquires, releases, failures, departures and deaths, on the test's clock, against a model of the accounts. */
import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import type * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import * as SessionError from "@cut-through/core/SessionError"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { assertAtRest, assertSame, makeManager, makeWorld, PAGE, PAIR, User } from "./fixtures.ts"

interface ModelSegment {
  readonly manager: number
  readonly client: number
  readonly server: number
  readonly told: Set<number>
  /** Connections of which one side at least is left. */
  readonly pairs: Set<number>
  clients: number
  servers: number
  clientDetached: boolean
  serverDetached: boolean
  lingers: boolean
  condemned: boolean
  /** When it is deleted, unless it is used before. */
  end: number | undefined
}

interface OwnedLease {
  readonly lease: SegmentContext.Lease
  readonly pair: number
  isReleased: boolean
}

const LINGER = 100

const managerOptions = [
  { name: "small", segmentSize: 2 * PAIR, rxFifoSize: 100, txFifoSize: PAGE },
  // In whole pages there would be room for a third pair.
  { name: "odd", segmentSize: 3 * PAIR - 1, rxFifoSize: PAGE, txFifoSize: PAGE, linger: Duration.millis(LINGER) },
  // There is room for three pairs and a bit.
  {
    name: "large",
    segmentSize: 3 * 3 * PAGE + 100,
    rxFifoSize: PAGE,
    txFifoSize: PAGE + 1,
    linger: Duration.millis(3 * LINGER)
  }
] as const

/** Users there are at a time: one whose thread has died is followed by another one, in a thread of its own as well. */
const USERS = 3
/** Users that live in the session layer's own thread. */
const LOCAL_USERS = 1

/** What there ought to be, and how it changes. */
class Model {
  readonly segments = new Map<Segment, ModelSegment>()
  readonly leases: Array<OwnedLease> = []
  readonly closedManagers = new Set<number>()
  readonly removedUsers = new Set<number>()
  readonly deadUsers = new Set<number>()
  /** Users that acknowledge late, and who of them has not acknowledged what. */
  readonly late = new Set<number>()
  readonly unacknowledged = new Map<Segment, Set<number>>()
  now = 0

  contextOf({ client, manager, server }: Pick<ModelSegment, "client" | "manager" | "server">): string {
    return `${manager} ${client} ${server}`
  }

  capacityOf({ manager }: Pick<ModelSegment, "manager">): number {
    const { rxFifoSize, segmentSize, txFifoSize } = managerOptions[manager]
    return FifoSegment.pairsPerSegment(segmentSize, rxFifoSize, txFifoSize)
  }

  lingerOf({ manager }: Pick<ModelSegment, "manager">): number {
    const options = managerOptions[manager]
    return "linger" in options ? Duration.toMillis(options.linger) : 0
  }

  isOpen(segment: ModelSegment): boolean {
    return !segment.clientDetached && !segment.serverDetached && segment.pairs.size < this.capacityOf(segment)
  }

  /** The emptiest of those with room. Which of several is nobody's business. */
  candidates(context: string): Array<Segment> {
    const open = [...this.segments].filter(([, it]) => this.contextOf(it) === context && this.isOpen(it))
    const least = Math.min(...open.map(([, it]) => it.pairs.size))
    return open.filter(([, it]) => it.pairs.size === least).map(([segment]) => segment)
  }

  add(segment: Segment, manager: number, client: number, server: number): void {
    const isGone = this.closedManagers.has(manager) || this.removedUsers.has(client) || this.removedUsers.has(server)
    this.segments.set(segment, {
      manager,
      client,
      server,
      told: new Set(),
      pairs: new Set(),
      clients: 0,
      servers: 0,
      clientDetached: false,
      serverDetached: false,
      lingers: !isGone && this.lingerOf({ manager }) > 0,
      condemned: false,
      end: undefined
    })
  }

  take(segment: Segment, pair: number): void {
    const it = this.segments.get(segment)!
    it.pairs.add(pair)
    it.clients++
    it.servers++
  }

  /** Tells those who have not been told yet, until one of them fails. Returns whether none did. */
  tell(segment: Segment, users: ReadonlyArray<number>, failing: ReadonlyArray<number>): boolean {
    const { told } = this.segments.get(segment)!
    for (const user of users) {
      if (told.has(user)) continue
      if (failing.includes(user)) return false
      told.add(user)
    }
    return true
  }

  /** One side of a connection has gone. */
  leave(segment: Segment, side: SegmentContext.Side, pair: number, isLast: boolean): void {
    const it = this.segments.get(segment)!
    if (isLast) it.pairs.delete(pair)
    if (side === "client") it.clients--
    else it.servers--
    this.settle(segment)
    if (it.lingers && it.clients + it.servers === 0) it.end = this.now + this.lingerOf(it)
  }

  /** Sets the flags of sides that nothing holds, and deletes what has both. */
  settle(segment: Segment): void {
    const it = this.segments.get(segment)!
    if (it.lingers) return
    it.clientDetached ||= it.clients === 0
    it.serverDetached ||= it.servers === 0
    if (it.clients + it.servers > 0) return
    this.segments.delete(segment)
    const late = new Set([...it.told].filter((user) => this.late.has(user)))
    if (late.size > 0) this.unacknowledged.set(segment, late)
  }

  stopLingering(isTheirs: (it: ModelSegment) => boolean): void {
    for (const [segment, it] of Array.from(this.segments)) {
      if (!it.lingers || !isTheirs(it)) continue
      it.lingers = false
      this.settle(segment)
    }
  }

  /** The side of one whose thread has died has detached, whatever leases it has. */
  condemn(user: number): void {
    this.deadUsers.add(user)
    for (const it of this.segments.values()) {
      it.clientDetached ||= it.client === user
      it.serverDetached ||= it.server === user
      it.condemned ||= it.client === user || it.server === user
    }
    this.stopLingering((it) => it.client === user || it.server === user)
  }

  pass(millis: number): void {
    this.now += millis
    this.stopLingering((it) => it.clients + it.servers === 0 && it.end! <= this.now)
  }
}

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const operations = [
  ...new Array(8).fill("acquire"),
  ...new Array(8).fill("release"),
  ...new Array(3).fill("pass"),
  "again",
  "fail",
  "fail",
  "late",
  "acknowledge",
  "closeManager",
  "removeUser",
  "condemn",
  "again"
] as const

const commands = Arbitrary.array(
  Arbitrary.all({
    operation: Arbitrary.map(int(operations.length - 1), (i): string => operations[i]),
    manager: int(managerOptions.length - 1),
    client: int(USERS - 1),
    server: int(USERS - 1),
    which: int(9999)
  }),
  { minLength: 1 }
)

describe("SegmentContext: against a model", () => {
  it.effect.prop(
    "any program of acquires, releases, failures, departures and deaths keeps the accounts, and ends with nothing",
    [commands],
    ([program]) =>
      Effect.gen(function* () {
        const { contexts, lock, memory } = yield* makeWorld()
        const managers = managerOptions.map(({ name, ...properties }) => makeManager(properties, name))
        const threads: Array<{ isGone: boolean }> = []
        const users: Array<User> = []
        const add = (isLocal: boolean): number => {
          const thread = { isGone: false }
          threads.push(thread)
          return users.push(new User(`user ${users.length}`, isLocal ? undefined : thread)) - 1
        }
        /** Those there are now, by their places among all. */
        const present = Array.from({ length: USERS }, (_, i) => add(i < LOCAL_USERS))
        /** Who could ever write to a region. */
        const writers = new Map<ArrayBufferLike, Set<User>>()
        const model = new Model()

        /** One whose thread has died is no party to anything: nothing changes. */
        const acquireInVain = (manager: number, client: number, server: number) => {
          const before = [contexts.stats(), memory.stats()]
          const answer = contexts.tryAcquire({
            manager: managers[manager],
            client: users[client],
            server: users[server]
          })
          if (!(answer instanceof SessionError.SessionError)) assert.fail("leases with one whose thread has died")
          assert.strictEqual(answer.reason._tag, "PeerDied")
          assert.deepStrictEqual([contexts.stats(), memory.stats()], before)
        }

        /** A segment is in memory that nobody who lives can write to but its users. */
        const checkMemory = ({ region }: Segment, client: number, server: number) => {
          const sharing = [users[client], users[server]]
          const all = writers.get(region.words.buffer) ?? new Set()
          writers.set(region.words.buffer, all)
          for (const user of all) {
            if (user.mapper?.isGone === false && !sharing.includes(user)) assert.fail("memory that another one has")
          }
          for (const user of sharing) all.add(user)
          assert.sameMembers(
            [...(region.mappers ?? [])],
            [...new Set(sharing)].flatMap(({ mapper }) => mapper ?? [])
          )
        }

        /** Leases for a new connection; the `failing` users cannot map a segment this time. */
        const acquire = (manager: number, client: number, server: number, failing: ReadonlyArray<number> = []) => {
          const candidates = model.candidates(model.contextOf({ manager, client, server }))
          const before = new Set(managers[manager].segments)
          for (const user of failing) users[user].failNext()
          const taken = contexts.tryAcquire({
            manager: managers[manager],
            client: users[client],
            server: users[server]
          })
          for (const user of users) user.whenAdded = () => {}
          if (taken === undefined) assert.fail("leases take time")
          const failed = taken instanceof SessionError.SessionError
          const made = [...managers[manager].segments].filter((segment) => !before.has(segment))
          assert.isAtMost(made.length, candidates.length === 0 ? 1 : 0, "a segment was made that was not needed")
          // Where there are no leases: one that a user had not mapped, or a new one, which may have gone already.
          const segment = failed
            ? (candidates.find((it) => failing.some((user) => !model.segments.get(it)!.told.has(user))) ??
              made[0] ??
              ({} as Segment))
            : taken.client.segment
          if (candidates.length === 0) {
            assert.isFalse(model.segments.has(segment), "a segment was used that ought not to be")
            model.add(segment, manager, client, server)
            if (segment.region !== undefined) checkMemory(segment, client, server)
          } else assert.isTrue(candidates.includes(segment), "not the emptiest segment")
          const pair = model.leases.length
          model.take(segment, pair)
          assert.strictEqual(failed, !model.tell(segment, [server, client], failing))
          if (failed) {
            model.leave(segment, "client", pair, false)
            model.leave(segment, "server", pair, true)
            return
          }
          assertSame(taken.server.segment, segment)
          for (const side of ["client", "server"] as const) {
            model.leases.push({ lease: taken[side], pair, isReleased: false })
          }
        }

        const release = (index: number) => {
          const owned = model.leases[index]
          contexts.release(owned.lease)
          if (owned.isReleased) return
          owned.isReleased = true
          const isLast = model.leases.every((other) => other.pair !== owned.pair || other.isReleased)
          model.leave(owned.lease.segment, owned.lease.side, owned.pair, isLast)
        }

        const acknowledge = (user: number) => {
          for (const acknowledge of users[user].unacknowledged) {
            acknowledge()
            acknowledge()
          }
          for (const [segment, waiting] of model.unacknowledged) {
            waiting.delete(user)
            if (waiting.size === 0) model.unacknowledged.delete(segment)
          }
        }

        const check = () => {
          const stats = contexts.stats()
          const live = [...model.segments]
          assert.strictEqual(stats.contexts, new Set(live.map(([, it]) => model.contextOf(it))).size)
          const own = live.filter(([, it]) => it.lingers).length
          assert.strictEqual(stats.leases, 2 * own + model.leases.filter((owned) => !owned.isReleased).length)
          assert.strictEqual(memory.stats().regions, live.length + model.unacknowledged.size)
          assert.sameMembers(
            managers.flatMap((manager) => Array.from(manager.segments, ({ id }) => id)),
            live.map(([{ id }]) => id)
          )
          assert.sameDeepMembers(
            stats.segments.map(({ availableBytes: _, pressure: __, ...rest }) => rest),
            live.map(([segment, it]) => ({
              listener: managers[it.manager].name,
              client: users[it.client].name,
              server: users[it.server].name,
              segment: segment.id,
              size: Math.ceil(managerOptions[it.manager].segmentSize / MIN_CHUNK_BYTES) * MIN_CHUNK_BYTES,
              committedBytes: it.pairs.size * managers[it.manager].pairBytes,
              activeFifos: 2 * it.pairs.size,
              clientSessions: it.clients,
              serverSessions: it.servers,
              clientDetached: it.clientDetached,
              serverDetached: it.serverDetached,
              lingers: it.lingers,
              condemned: it.condemned
            }))
          )
          for (const [i, manager] of managers.entries()) {
            const pairs = live.reduce((sum, [, it]) => sum + (it.manager === i ? it.pairs.size : 0), 0)
            assert.strictEqual(manager.account.fifoMemory, pairs * manager.pairBytes)
          }
          for (const [i, user] of users.entries()) {
            assert.sameMembers(
              Array.from(user.mapped, ({ id }) => id),
              live.filter(([, it]) => it.told.has(i)).map(([{ id }]) => id)
            )
          }
        }

        for (const { client: clientPlace, manager, operation, server: serverPlace, which } of program) {
          const [client, server] = [present[clientPlace], present[serverPlace]]
          const live = model.leases.flatMap((owned, index) => (owned.isReleased ? [] : [index]))
          if (operation === "acquire") acquire(manager, client, server)
          else if (operation === "fail") acquire(manager, client, server, which % 2 === 0 ? [client] : [server])
          else if (operation === "release" && live.length > 0) release(live[which % live.length])
          else if (operation === "again" && model.leases.length > 0) release(which % model.leases.length)
          else if (operation === "pass") {
            const millis = which % (2 * LINGER)
            yield* TestClock.adjust(millis)
            model.pass(millis)
          } else if (operation === "late") {
            users[client].isLate = !users[client].isLate
            if (!model.late.delete(client)) model.late.add(client)
          } else if (operation === "acknowledge") acknowledge(client)
          else if (operation === "closeManager" && which % 3 === 0) {
            contexts.closeManager(managers[manager])
            model.closedManagers.add(manager)
            model.stopLingering((it) => it.manager === manager)
          } else if (operation === "removeUser" && which % 3 === 0) {
            contexts.removeUser(users[client])
            model.removedUsers.add(client)
            model.stopLingering((it) => it.client === client || it.server === client)
          } else if (operation === "condemn" && which % 3 === 0) {
            threads[client].isGone = users[client].mapper !== undefined
            for (let i = 0; i <= which % 2; i++) contexts.condemn(users[client])
            model.condemn(client)
            present[clientPlace] = add(clientPlace < LOCAL_USERS)
          } else if (operation === "condemn" && model.deadUsers.size > 0) {
            const dead = [...model.deadUsers][which % model.deadUsers.size]
            if (which % 2 === 0) acquireInVain(manager, dead, server)
            else acquireInVain(manager, client, dead)
          }
          check()
        }
        // In an order of no meaning.
        const order = [...model.leases.keys()].toSorted((a, b) => ((a * 7919) % 101) - ((b * 7919) % 101))
        for (const index of order) release(index)
        check()
        yield* TestClock.adjust(3 * LINGER)
        model.pass(3 * LINGER)
        for (const user of users.keys()) acknowledge(user)
        check()
        assertAtRest(contexts, memory, managers, users)
        assert.deepStrictEqual(lock.stats(), { readers: 0, writer: false, waiting: 0 })
      }),
    { arbitrary: { runs: 150, size: 100 } }
  )
})
