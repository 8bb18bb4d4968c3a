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
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type { Fifo } from "../memory/Fifo.ts"
import * as FifoSegment from "../memory/FifoSegment.ts"
import { SharedMemory } from "../memory/SharedMemory.ts"
import { Lock } from "../runtime/Lock.ts"
import * as SessionError from "../SessionError.ts"
import * as SegmentManager from "./SegmentManager.ts"

/**
 * A worker of an application that maps segments. It is told about each segment
 * once when it comes and once when it goes, in the step that adds or removes it,
 * so it takes note and returns.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentUser {
  readonly segmentAdded: (segment: SegmentManager.Segment) => void
  readonly segmentDeleted: (segment: SegmentManager.Segment) => void
}

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
  readonly client: SegmentUser
  readonly server: SegmentUser
}

/**
 * One shared segment, for listings.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentStats {
  readonly listener: string
  readonly size: number
  readonly availableBytes: number
  readonly activeFifos: number
  readonly pressure: FifoSegment.Pressure
  readonly clientSessions: number
  readonly serverSessions: number
  readonly clientDetached: boolean
  readonly serverDetached: boolean
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
     * Leases for both sides of a new connection. Fails with `AllocFailed`, and
     * holds nothing then. To be called where nothing interrupts: leases that
     * were taken and never arrive are never released.
     */
    readonly acquire: (request: Request) => Effect.Effect<Leases, SessionError.SessionError>
    /** Releases a lease. Releasing it again does nothing. */
    readonly release: (lease: Lease) => void
    readonly stats: () => Stats
  }
>()("@cut-through/core/segment/SegmentContext") {}

interface SideState {
  sessions: number
  isDetached: boolean
}

interface Entry {
  readonly segment: SegmentManager.Segment
  readonly context: SegmentsOfTriple
  readonly client: SideState
  readonly server: SideState
  /** Bytes that the FIFOs in the segment may come to use. */
  committed: number
}

/** All segments of one (listener's manager, client worker, server worker). */
interface SegmentsOfTriple {
  readonly manager: SegmentManager.SegmentManager
  readonly client: SegmentUser
  readonly server: SegmentUser
  readonly entries: Array<Entry>
}

interface OwnedLease extends Lease {
  readonly entry: Entry
  readonly rx: Fifo
  readonly tx: Fifo
  /** What the pair counts for in `committed`. */
  readonly bytes: number
  isReleased: boolean
}

/**
 * The service over shared memory and locks.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<SegmentContext["Service"], never, SharedMemory | Lock> = Effect.gen(function* () {
  const memory = yield* SharedMemory
  const lock = (yield* Lock).make("segment contexts")
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  // By identity: numbers packed into a key would collide one day.
  const managers = new Map<SegmentManager.SegmentManager, Map<SegmentUser, Map<SegmentUser, SegmentsOfTriple>>>()
  let leaseCount = 0

  const lookup = ({ client, manager, server }: Request) => managers.get(manager)?.get(client)?.get(server)

  const insert = (request: Request): SegmentsOfTriple => {
    const found = lookup(request)
    if (found !== undefined) return found
    const { client, manager, server } = request
    const context: SegmentsOfTriple = { manager, client, server, entries: [] }
    const clients = managers.get(manager) ?? new Map<SegmentUser, Map<SegmentUser, SegmentsOfTriple>>()
    const servers = clients.get(client) ?? new Map<SegmentUser, SegmentsOfTriple>()
    managers.set(manager, clients.set(client, servers.set(server, context)))
    return context
  }

  const remove = (entry: Entry) => {
    const { client, entries, manager, server } = entry.context
    entries.splice(entries.indexOf(entry), 1)
    if (entries.length > 0) return
    const clients = managers.get(manager)!
    const servers = clients.get(client)!
    servers.delete(server)
    if (servers.size === 0) clients.delete(client)
    if (clients.size === 0) managers.delete(manager)
  }

  /** Worst fit: the emptiest segment that both sides still use, else the next one, until a pair fits. */
  const take = (request: Request): Leases | undefined => {
    const entries = lookup(request)?.entries
    if (entries === undefined) return undefined
    const { rxFifoSize, txFifoSize } = request.manager.properties
    const bytes = FifoSegment.pairBytes(rxFifoSize, txFifoSize)
    let tried: Set<Entry> | undefined
    while (true) {
      let best: Entry | undefined
      let most = bytes - 1
      for (const entry of entries) {
        const left = entry.segment.fifos.size - entry.committed
        if (left > most && !entry.client.isDetached && !entry.server.isDetached && tried?.has(entry) !== true) {
          best = entry
          most = left
        }
      }
      if (best === undefined) return undefined
      const pair = best.segment.fifos.allocatePair(rxFifoSize, txFifoSize)
      if (pair !== undefined) return leasesOf(best, pair[0], pair[1], bytes)
      tried = (tried ?? new Set()).add(best)
    }
  }

  const leasesOf = (entry: Entry, rx: Fifo, tx: Fifo, bytes: number): Leases => {
    rx.references = 2
    tx.references = 2
    entry.committed += bytes
    entry.client.sessions++
    entry.server.sessions++
    leaseCount += 2
    const { segment } = entry
    const client: OwnedLease = { side: "client", segment, entry, rx, tx, bytes, isReleased: false }
    const server: OwnedLease = { side: "server", segment, entry, rx, tx, bytes, isReleased: false }
    return { rx, tx, client, server }
  }

  const release = (lease: Lease): void => {
    const owned = lease as OwnedLease
    if (owned.isReleased) return
    owned.isReleased = true
    leaseCount--
    const { entry, segment } = owned
    segment.fifos.releaseFifo(owned.rx)
    if (segment.fifos.releaseFifo(owned.tx)) entry.committed -= owned.bytes
    const side = entry[owned.side]
    side.sessions--
    if (side.sessions > 0) return
    side.isDetached = true
    if (!entry.client.isDetached || !entry.server.isDetached) return
    remove(entry)
    fork(SegmentManager.deleteSegment(segment))
  }

  const grow = (request: Request) =>
    lock.withWrite(
      Effect.suspend(() => {
        // Whoever held the lock before may have made the segment this one waited for.
        const leases = take(request)
        if (leases !== undefined) return Effect.succeed(leases)
        return Effect.uninterruptible(addSegment(request))
      })
    )

  const addSegment = (request: Request) =>
    Effect.flatMap(
      Effect.provideService(SegmentManager.addSegment(request.manager), SharedMemory, memory),
      (segment) => {
        const context = insert(request)
        context.entries.push({
          segment,
          context,
          client: { sessions: 0, isDetached: false },
          server: { sessions: 0, isDetached: false },
          committed: 0
        })
        const leases = take(request)
        if (leases === undefined) {
          // A segment that cannot hold one pair is of no use to anybody.
          remove(context.entries.at(-1)!)
          return Effect.andThen(
            SegmentManager.deleteSegment(segment),
            Effect.fail(
              SessionError.make(
                new SessionError.AllocFailed({ what: "a pair of FIFOs", bytes: request.manager.properties.rxFifoSize })
              )
            )
          )
        }
        // An application that connects to itself is told once.
        const users = new Set([request.server, request.client])
        for (const user of users) user.segmentAdded(segment)
        return Effect.as(
          Scope.addFinalizer(
            segment.scope,
            Effect.sync(() => {
              for (const user of users) user.segmentDeleted(segment)
            })
          ),
          leases
        )
      }
    )

  const stats = (): Stats => {
    const segments: Array<SegmentStats> = []
    let contexts = 0
    let fifoBytes = 0
    for (const clients of managers.values()) {
      for (const servers of clients.values()) {
        for (const context of servers.values()) {
          contexts++
          for (const { client, segment, server } of context.entries) {
            const { activeFifos, availableBytes, pressure, size } = segment.fifos
            fifoBytes += size - availableBytes
            segments.push({
              listener: context.manager.name,
              size,
              availableBytes,
              activeFifos,
              pressure,
              clientSessions: client.sessions,
              serverSessions: server.sessions,
              clientDetached: client.isDetached,
              serverDetached: server.isDetached
            })
          }
        }
      }
    }
    return { contexts, leases: leaseCount, fifoBytes, segments }
  }

  return SegmentContext.of({
    acquire: (request) =>
      Effect.suspend(() => {
        const leases = take(request)
        return leases === undefined ? grow(request) : Effect.succeed(leases)
      }),
    release,
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
