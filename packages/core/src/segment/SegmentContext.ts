/**
 * The segments that one client worker and one listener share, and who still
 * needs them.
 *
 * A connection takes a *lease* on a segment for each of its two sides. Both
 * leases, both FIFOs and both counts are taken in one step that nothing can
 * come between, and each lease is released exactly once. The last lease of a
 * side sets that side's detached flag, which is never cleared: nothing is
 * allocated in the segment again. Both flags together remove the segment from
 * its context (and an emptied context from the table) in the same step, and
 * close the segment's scope. There is no other path to deletion.
 *
 * A segment that *lingers* is one on which the context itself holds a lease for
 * each side, until the segment has been without connections for a while.
 *
 * When the thread of a user dies, all its segments are *condemned*: that side's
 * flag is set at once, and the tables in shared memory, which the dead may have
 * left half-written, are not touched any more. Who is left uses the connections
 * there are until they close. The segment is deleted as any other, with the last
 * lease of both sides.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type { Fifo } from "../memory/Fifo.ts"
import type * as FifoSegment from "../memory/FifoSegment.ts"
import { type Mapper, type Region, SharedMemory } from "../memory/SharedMemory.ts"
import { Lock } from "../runtime/Lock.ts"
import * as SessionError from "../SessionError.ts"
import * as SegmentManager from "./SegmentManager.ts"

/**
 * The two sides of a connection.
 *
 * @category models
 * @since 0.1.0
 */
export type Side = "client" | "server"

/**
 * What one side of a connection holds on its segment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lease {
  readonly side: Side
  readonly segment: SegmentManager.Segment
}

/**
 * A FIFO pair and the leases of both sides on the segment it lies in. `rx` and
 * `tx` as the server sees them: the client reads `tx` and writes `rx`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Leases {
  readonly rx: Fifo
  readonly tx: Fifo
  readonly client: Lease
  readonly server: Lease
}

/**
 * Who wants to share memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  readonly manager: SegmentManager.SegmentManager
  readonly client: SegmentManager.SegmentUser
  readonly server: SegmentManager.SegmentUser
}

/**
 * One shared segment, for listings. Sessions are counted without the leases of
 * a segment that lingers.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentStats {
  readonly listener: string
  readonly segment: number
  readonly client: string
  readonly server: string
  readonly size: number
  readonly availableBytes: number
  readonly committedBytes: number
  readonly activeFifos: number
  readonly pressure: FifoSegment.Pressure
  readonly clientSessions: number
  readonly serverSessions: number
  readonly clientDetached: boolean
  readonly serverDetached: boolean
  readonly lingers: boolean
  /** Whether the thread of one side has died. */
  readonly condemned: boolean
}

/**
 * What exists now. At rest: nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  readonly contexts: number
  readonly leases: number
  readonly fifoBytes: number
  readonly segments: ReadonlyArray<SegmentStats>
}

/**
 * The service that finds or makes segments and takes leases on them.
 *
 * @category services
 * @since 0.1.0
 */
export class SegmentContext extends Context.Service<
  SegmentContext,
  {
    /**
     * Leases for both sides of a new connection, in a segment that both users
     * have been told of. Fails with `AllocFailed`, and holds nothing then. To be
     * called where nothing interrupts: leases that were taken and never arrive
     * are never released.
     */
    readonly acquire: (request: Request) => Effect.Effect<Leases, SessionError.SessionError>
    /** The same at once, or nothing when it takes time: then `acquire` waits. */
    readonly tryAcquire: (request: Request) => Leases | SessionError.SessionError | undefined
    /** Releases a lease. Releasing it again does nothing. */
    readonly release: (lease: Lease) => void
    /** Says that a listener has gone: its segments do not linger. */
    readonly closeManager: (manager: SegmentManager.SegmentManager) => void
    /** Says that a user has gone: its segments do not linger, now or later. */
    readonly removeUser: (user: SegmentManager.SegmentUser) => void
    /**
     * Says that the thread of a user has died. Its segments do not linger, nothing
     * is allocated in them again, and what is freed in them touches no shared
     * word. Whoever asks for leases with it from then on gets `PeerDied`. The
     * leases of both sides are still released one by one, in any order.
     */
    readonly condemn: (user: SegmentManager.SegmentUser) => void
    readonly stats: () => Stats
  }
>()("@cut-through/core/segment/SegmentContext") {}

// Classes, not literals: what lives no longer than a connection should not be taken for something that lives long, as V8
// does with literals that a collection has found alive often enough.

class SideState {
  /** Leases of this side, the one that makes the segment linger among them. */
  leases: number
  isDetached = false

  constructor(leases: number) {
    this.leases = leases
  }
}

class Entry {
  readonly segment: SegmentManager.Segment
  readonly context: SegmentsOfTriple
  readonly client: SideState
  readonly server: SideState
  /** Bytes that the FIFOs in the segment may come to use. */
  committed = 0
  /** Whether a pair may fit: then it is among the open ones of its context. */
  isOpen = false
  /** 1 while the context holds a lease for each side, else 0. */
  lingering: 0 | 1
  /** When the last connection has gone. */
  drainedAt = 0
  timer: Fiber.Fiber<void> | undefined = undefined
  /** Whether the thread of one side has died. */
  isCondemned = false

  constructor(segment: SegmentManager.Segment, context: SegmentsOfTriple, lingering: 0 | 1) {
    this.segment = segment
    this.context = context
    this.client = new SideState(lingering)
    this.server = new SideState(lingering)
    this.lingering = lingering
  }
}

/** All segments of one (listener's manager, client worker, server worker). */
interface SegmentsOfTriple {
  readonly request: Request
  /** Its place among all contexts. */
  place: number
  readonly pairBytes: number
  readonly entries: Array<Entry>
  /** Those with room for a pair, so that finding one costs the same however many are full. */
  readonly open: Array<Entry>
}

class OwnedLease implements Lease {
  isReleased = false
  readonly side: Side
  readonly segment: SegmentManager.Segment
  readonly entry: Entry
  readonly rx: Fifo
  readonly tx: Fifo

  constructor(side: Side, entry: Entry, rx: Fifo, tx: Fifo) {
    this.side = side
    this.segment = entry.segment
    this.entry = entry
    this.rx = rx
    this.tx = tx
  }
}

/** The threads that will map a segment for this request. Nothing, when there are none beside this one. */
const mappersOf = ({ client, server }: Request): ReadonlyArray<Mapper> | undefined => {
  if (client.mapper === undefined) return server.mapper === undefined ? undefined : [server.mapper]
  if (server.mapper === undefined || server.mapper === client.mapper) return [client.mapper]
  return [client.mapper, server.mapper]
}

/** Takes a value out of an array, at no cost when it is the last. */
const drop = <A>(values: Array<A>, value: A): void => {
  if (values[values.length - 1] === value) values.pop()
  else values.splice(values.indexOf(value), 1)
}

/**
 * The service over shared memory, locks and the clock.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<SegmentContext["Service"], never, SharedMemory | Lock> = Effect.gen(function* () {
  const memory = yield* SharedMemory
  const lock = (yield* Lock).make("segment contexts")
  const clock = yield* Clock.Clock
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const contexts: Array<SegmentsOfTriple> = []
  // By identity: numbers packed into a key would collide one day. Weak, so that an emptied context can stay for as long as
  // the manager and the client do: they come and go too often to make them anew.
  const tables = new WeakMap<
    SegmentManager.SegmentManager,
    WeakMap<SegmentManager.SegmentUser, Array<SegmentsOfTriple>>
  >()
  const removedUsers = new WeakSet<SegmentManager.SegmentUser>()
  const deadUsers = new WeakSet<SegmentManager.SegmentUser>()
  let hasDead = false
  // Not the time of day, which people set back.
  const now = () => Number(clock.monotonicTimeNanosUnsafe() / 1_000_000n)
  let leaseCount = 0
  let segmentCount = 0

  const lookup = ({ client, manager, server }: Request): SegmentsOfTriple | undefined => {
    const found = tables.get(manager)?.get(client)
    if (found === undefined) return undefined
    // A manager is one server's: there is one, or none.
    for (const context of found) if (context.request.server === server) return context
    return undefined
  }

  const insert = (request: Request): SegmentsOfTriple => {
    const found = lookup(request)
    if (found !== undefined) {
      // Emptied before: as good as new.
      if (found.entries.length === 0) found.place = contexts.push(found) - 1
      return found
    }
    const { client, manager } = request
    const context: SegmentsOfTriple = {
      request,
      place: 0,
      pairBytes: manager.pairBytes,
      entries: [],
      open: []
    }
    let clients = tables.get(manager)
    if (clients === undefined) tables.set(manager, (clients = new WeakMap()))
    const sharing = clients.get(client)
    if (sharing === undefined) clients.set(client, [context])
    else sharing.push(context)
    context.place = contexts.push(context) - 1
    return context
  }

  const remove = (entry: Entry) => {
    const { entries } = entry.context
    drop(entries, entry)
    close(entry)
    entry.timer?.interruptUnsafe()
    if (entries.length > 0) return
    // The last one takes its place, so that leaving costs the same however many there are.
    const last = contexts.pop()!
    if (last !== entry.context) {
      contexts[entry.context.place] = last
      last.place = entry.context.place
    }
  }

  const close = (entry: Entry) => {
    if (!entry.isOpen) return
    entry.isOpen = false
    drop(entry.context.open, entry)
  }

  /** Keeps the open ones open and the others not. */
  const sortIn = (entry: Entry) => {
    const hasRoom =
      !entry.client.isDetached &&
      !entry.server.isDetached &&
      // Not what the segment has in whole pages: its FIFOs are as many as fit in what was asked for.
      entry.segment.manager.properties.segmentSize - entry.committed >= entry.context.pairBytes
    if (!hasRoom) close(entry)
    else if (!entry.isOpen) {
      entry.isOpen = true
      entry.context.open.push(entry)
    }
  }

  /** Worst fit: the emptiest segment that both sides still use, else the next one, until a pair fits. */
  const take = (request: Request): Leases | undefined => {
    const context = lookup(request)
    if (context === undefined) return undefined
    const { rxFifoSize, txFifoSize } = request.manager.properties
    let tried: Set<Entry> | undefined
    while (true) {
      let best: Entry | undefined
      let most = -1
      for (const entry of context.open) {
        const left = entry.segment.fifos.size - entry.committed
        if (left > most && tried?.has(entry) !== true) {
          best = entry
          most = left
        }
      }
      if (best === undefined) return undefined
      const pair = best.segment.fifos.allocatePair(rxFifoSize, txFifoSize)
      if (pair !== undefined) return leasesOf(best, pair[0], pair[1])
      tried = (tried ?? new Set()).add(best)
    }
  }

  const leasesOf = (entry: Entry, rx: Fifo, tx: Fifo): Leases => {
    rx.references = 2
    tx.references = 2
    entry.committed += entry.context.pairBytes
    entry.segment.manager.account.fifoMemory += entry.context.pairBytes
    entry.client.leases++
    entry.server.leases++
    leaseCount += 2
    sortIn(entry)
    return { rx, tx, client: new OwnedLease("client", entry, rx, tx), server: new OwnedLease("server", entry, rx, tx) }
  }

  const release = (lease: Lease): void => {
    const owned = lease as OwnedLease
    if (owned.isReleased) return
    owned.isReleased = true
    const { entry } = owned
    const { fifos } = owned.segment
    fifos.releaseFifo(owned.rx)
    if (fifos.releaseFifo(owned.tx)) {
      entry.committed -= entry.context.pairBytes
      entry.segment.manager.account.fifoMemory -= entry.context.pairBytes
      sortIn(entry)
    }
    leave(entry, entry[owned.side])
    if (entry.lingering === 1 && entry.client.leases === 1 && entry.server.leases === 1) drained(entry)
  }

  /** One lease of a side less. The only place where a segment is deleted. */
  const leave = (entry: Entry, side: SideState): void => {
    leaseCount--
    side.leases--
    if (side.leases > 0) return
    side.isDetached = true
    close(entry)
    // Not whether both have detached: a side whose thread has died has, with leases that are yet to be released.
    if (entry.client.leases > 0 || entry.server.leases > 0) return
    remove(entry)
    deleteSegment(entry.segment)
  }

  const deleteSegment = (segment: SegmentManager.Segment): void => {
    const rest = SegmentManager.deleteSegment(segment)
    if (rest !== Exit.void) fork(rest)
  }

  const lingerTime = (manager: SegmentManager.SegmentManager): number =>
    manager.properties.linger === undefined ? 0 : Duration.toMillis(manager.properties.linger)

  const drained = (entry: Entry): void => {
    entry.drainedAt = now()
    // One timer for a segment, however often it is drained and used again: it looks when it goes off.
    entry.timer ??= fork(lingerOut(entry))
  }

  const lingerOut = (entry: Entry): Effect.Effect<void> =>
    Effect.gen(function* () {
      const time = lingerTime(entry.segment.manager)
      while (entry.client.leases + entry.server.leases === 2) {
        const left = entry.drainedAt + time - now()
        if (left <= 0) break
        yield* Effect.sleep(left)
      }
      entry.timer = undefined
      if (entry.client.leases + entry.server.leases === 2) stopLingering(entry)
    })

  const stopLingering = (entry: Entry): void => {
    if (entry.lingering === 0) return
    entry.lingering = 0
    leave(entry, entry.client)
    leave(entry, entry.server)
  }

  const stopLingeringOf = (isTheirs: (request: Request) => boolean): void => {
    // Copied: contexts, and entries of contexts, leave on the way.
    for (const context of Array.from(contexts)) {
      if (isTheirs(context.request)) for (const entry of context.entries.slice()) stopLingering(entry)
    }
  }

  const condemnSide = (entry: Entry, side: SideState): void => {
    side.isDetached = true
    close(entry)
    entry.isCondemned = true
    entry.segment.fifos.condemn()
  }

  /** The thread of one of them has died: nobody is there to share memory with. */
  const whyNot = ({ client, server }: Request): SessionError.SessionError | undefined => {
    // Most often nobody has, and then it costs nothing.
    if (!hasDead) return undefined
    const dead = deadUsers.has(server) ? server : deadUsers.has(client) ? client : undefined
    if (dead === undefined) return undefined
    return SessionError.make(new SessionError.PeerDied({ endpoint: dead.name, bytesReceived: 0 }))
  }

  const addSegment = (request: Request, region: Region): Leases | SessionError.SessionError => {
    const segment = SegmentManager.addSegment(request.manager, memory, region)
    segment.id = ++segmentCount
    // In this one, though another may have been drained while memory was waited for: one without leases nobody deletes.
    const { rxFifoSize, txFifoSize } = request.manager.properties
    const pair = segment.fifos.allocatePair(rxFifoSize, txFifoSize)
    if (pair === undefined) {
      // A segment that cannot hold one pair is of no use to anybody.
      deleteSegment(segment)
      return noRoom(request)
    }
    const context = insert(request)
    const lingering = lingerTime(request.manager) > 0 && !isGone(request) ? 1 : 0
    leaseCount += 2 * lingering
    const entry = new Entry(segment, context, lingering)
    context.entries.push(entry)
    return leasesOf(entry, pair[0], pair[1])
  }

  /** Whether the listener, the client or the server has gone. */
  const isGone = ({ client, manager, server }: Request): boolean =>
    manager.isClosed || removedUsers.has(client) || removedUsers.has(server)

  const tell = (user: SegmentManager.SegmentUser, segment: SegmentManager.Segment): void => {
    if (segment.users.includes(user)) return
    // It counts as told from here on: on the spot it may ask for leases, and is not told again.
    segment.users.push(user)
    try {
      user.segmentAdded(segment)
    } catch (cause) {
      drop(segment.users, user)
      throw cause
    }
  }

  /** Tells whoever has not been told of the segment yet: before the leases are in anybody's hands. */
  const announce = (request: Request, leases: Leases): Leases | SessionError.SessionError => {
    const { entry, segment } = leases.client as OwnedLease
    try {
      // Telling one of them may be what finds out that its thread has died.
      if (!entry.isCondemned) tell(request.server, segment)
      if (!entry.isCondemned) tell(request.client, segment)
    } catch (cause) {
      if (!entry.isCondemned) return giveBack(leases, notMapped(request, cause))
    }
    return entry.isCondemned ? giveBack(leases, whyNot(request)!) : leases
  }

  const giveBack = (leases: Leases, reason: SessionError.SessionError): SessionError.SessionError => {
    release(leases.client)
    release(leases.server)
    return reason
  }

  const notMapped = (request: Request, cause: unknown): SessionError.SessionError =>
    SessionError.make(
      new SessionError.AllocFailed({
        what: "a connection whose segment an application could not map",
        bytes: request.manager.pairBytes,
        cause
      })
    )

  const noRoom = (request: Request): SessionError.SessionError =>
    SessionError.make(new SessionError.AllocFailed({ what: "a pair of FIFOs", bytes: request.manager.pairBytes }))

  /** Finds or makes, as the writer of the lock: in between nobody else makes one. */
  const grow = (request: Request) =>
    lock.withWrite(
      Effect.suspend(() => {
        // Whoever held the lock before may have made the segment this one waited for.
        const leases = take(request)
        if (leases !== undefined) return Effect.succeed(leases)
        const reason = whyNot(request)
        if (reason !== undefined) return Effect.fail(reason)
        return Effect.uninterruptible(
          Effect.flatMap(memory.allocate(request.manager.regionBytes, mappersOf(request)), (region) => {
            // One of them may have died while memory was waited for.
            const reason = whyNot(request)
            if (reason !== undefined) memory.release(region, [])
            const leases = reason ?? addSegment(request, region)
            return leases instanceof SessionError.SessionError ? Effect.fail(leases) : Effect.succeed(leases)
          })
        )
      })
    )

  const growNow = (request: Request): Leases | SessionError.SessionError | undefined =>
    lock.tryWrite(() => {
      const reason = whyNot(request)
      if (reason !== undefined) return reason
      const region = memory.tryAllocate(request.manager.regionBytes, mappersOf(request))
      return region === undefined ? undefined : addSegment(request, region)
    })

  const tryAcquire = (request: Request): Leases | SessionError.SessionError | undefined => {
    const leases = take(request) ?? growNow(request)
    return leases === undefined || leases instanceof SessionError.SessionError ? leases : announce(request, leases)
  }

  const stats = (): Stats => {
    const segments: Array<SegmentStats> = []
    let fifoBytes = 0
    for (const context of contexts) {
      for (const { client, committed, isCondemned, lingering, segment, server } of context.entries) {
        const { activeFifos, availableBytes, pressure, size } = segment.fifos
        fifoBytes += size - availableBytes
        segments.push({
          listener: context.request.manager.name,
          segment: segment.id,
          client: context.request.client.name,
          server: context.request.server.name,
          size,
          availableBytes,
          committedBytes: committed,
          activeFifos,
          pressure,
          clientSessions: client.leases - lingering,
          serverSessions: server.leases - lingering,
          clientDetached: client.isDetached,
          serverDetached: server.isDetached,
          lingers: lingering === 1,
          condemned: isCondemned
        })
      }
    }
    return { contexts: contexts.length, leases: leaseCount, fifoBytes, segments }
  }

  return SegmentContext.of({
    acquire: (request) =>
      Effect.suspend(() => {
        const now = tryAcquire(request)
        if (now instanceof SessionError.SessionError) return Effect.fail(now)
        if (now !== undefined) return Effect.succeed(now)
        return Effect.flatMap(grow(request), (leases) => {
          // Told when the lock is free again: who is told may want what the lock guards.
          const told = announce(request, leases)
          return told instanceof SessionError.SessionError ? Effect.fail(told) : Effect.succeed(told)
        })
      }),
    tryAcquire,
    release,
    closeManager(manager) {
      manager.isClosed = true
      stopLingeringOf((request) => request.manager === manager)
    },
    removeUser(user) {
      removedUsers.add(user)
      stopLingeringOf((request) => request.client === user || request.server === user)
    },
    condemn(user) {
      deadUsers.add(user)
      hasDead = true
      // All before any: who is told of a segment that lingers no more may ask for leases.
      for (const { entries, request } of contexts) {
        for (const entry of entries) {
          if (request.client === user) condemnSide(entry, entry.client)
          if (request.server === user) condemnSide(entry, entry.server)
        }
      }
      stopLingeringOf((request) => request.client === user || request.server === user)
    },
    stats
  })
})

/**
 * Shared segments with leases.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<SegmentContext, never, SharedMemory | Lock> = Layer.effect(SegmentContext, make)
