/** What the tests of the segment floor share: users that remember what they were told, memory that is slow or short, and all orders in which fibers can take turns. */
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import * as SessionError from "@cut-through/core/SessionError"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { SteppingScheduler } from "../runtime/stepping.ts"

export const PAGE = 4096
/** What a pair of FIFOs takes that are as small as they come. */
export const PAIR = 2 * PAGE

export type Memory = SharedMemory.SharedMemory["Service"]
export type Contexts = SegmentContext.SegmentContext["Service"]

// Not `strictEqual` and its like: when they fail they print both, whole regions of memory.

/** That it is this one, and not one like it. */
export const assertSame = (actual: unknown, expected: unknown, message = "it is another one"): void =>
  assert.isTrue(actual === expected, message)

/** That it is none of these. */
export const assertOther = (actual: unknown, ...others: ReadonlyArray<unknown>): void =>
  assert.isFalse(others.includes(actual), "it is the same")

/** That they are these, in this order. */
export const assertSameItems = (actual: Iterable<unknown>, expected: ReadonlyArray<unknown>): void => {
  const found = Array.from(actual, (item) => expected.indexOf(item))
  assert.deepStrictEqual(
    found,
    expected.map((item) => expected.indexOf(item)),
    "places of what there is among what there should be"
  )
}

/** What a user throws that cannot map a segment. */
export const cannotMap = new Error("no address space left")

/** Knows which segments it has mapped. Told what cannot be, it complains: the test ends with `assertAtRest`, which hears it. */
export class User implements SegmentManager.SegmentUser {
  readonly name: string
  readonly mapper: SharedMemory.Mapper | undefined
  readonly mapped = new Set<SegmentManager.Segment>()
  readonly deleted = new Set<SegmentManager.Segment>()
  /** An error thrown to whoever tells it would be taken for a segment that cannot be mapped. */
  readonly complaints: Array<unknown> = []
  /** What it does on the way. It throws when the user cannot map the segment. */
  whenAdded: (segment: SegmentManager.Segment) => void = () => {}
  whenDeleted: (segment: SegmentManager.Segment) => void = () => {}
  /** Whether it acknowledges only when the test does it, by `unacknowledged`. */
  isLate = false
  readonly unacknowledged: Array<() => void> = []

  constructor(name = "user", mapper?: SharedMemory.Mapper) {
    this.name = name
    this.mapper = mapper
  }

  segmentAdded(segment: SegmentManager.Segment): void {
    if (this.mapped.has(segment)) this.complaints.push("a segment was added twice")
    if (this.deleted.has(segment)) this.complaints.push("a segment was added that was deleted")
    this.mapped.add(segment)
    try {
      this.whenAdded(segment)
    } catch (cause) {
      if (cause !== cannotMap) this.complaints.push(cause)
      this.mapped.delete(segment)
      throw cause
    }
  }

  segmentDeleted(segment: SegmentManager.Segment, acknowledge: () => void): void {
    if (!this.mapped.delete(segment)) this.complaints.push("a segment was deleted that was not mapped")
    this.deleted.add(segment)
    try {
      this.whenDeleted(segment)
    } catch (cause) {
      this.complaints.push(cause)
    }
    if (this.isLate) this.unacknowledged.push(acknowledge)
    else acknowledge()
  }

  /** From here on it cannot map the next `count` segments. */
  failNext(count = 1): void {
    let left = count
    this.whenAdded = () => {
      if (left-- > 0) throw cannotMap
    }
  }
}

export const makeMemory = (): Memory => Effect.runSync(SharedMemory.make())

/** Real locks, and all that were made. */
export const makeLocks = (): {
  readonly service: Lock.Lock["Service"]
  readonly made: ReadonlyArray<Lock.ReadWriteLock>
} => {
  const made: Array<Lock.ReadWriteLock> = []
  return {
    made,
    service: {
      make(name) {
        const lock = Lock.makeReadWrite(name)
        made.push(lock)
        return lock
      },
      makeSpin: (name) => Lock.makeSpin(name),
      notifying: () => {}
    }
  }
}

const contextsOver = (memory: Memory, locks: Lock.Lock["Service"]): Effect.Effect<Contexts> =>
  SegmentContext.make.pipe(
    Effect.provideService(SharedMemory.SharedMemory, memory),
    Effect.provideService(Lock.Lock, locks)
  )

export const makeContexts = (memory: Memory): Contexts => Effect.runSync(contextsOver(memory, makeLocks().service))

export const makeManager = (
  properties: Partial<SegmentManager.Properties> = {},
  name = "manager",
  account?: SegmentManager.Account
): SegmentManager.SegmentManager =>
  Effect.runSync(
    SegmentManager.make(name, { segmentSize: 4 * PAIR, rxFifoSize: PAGE, txFifoSize: PAGE, ...properties }, account)
  )

/** At rest there is nothing. */
export const assertAtRest = (
  contexts: Contexts,
  memory: Memory,
  managers: Iterable<SegmentManager.SegmentManager> = [],
  users: Iterable<User> = []
): void => {
  assert.deepStrictEqual(contexts.stats(), { contexts: 0, leases: 0, fifoBytes: 0, segments: [] })
  assert.deepInclude(memory.stats(), { regions: 0, bytes: 0 })
  for (const manager of managers) {
    assert.strictEqual(manager.segments.size, 0, "a manager still has segments")
    assert.strictEqual(manager.account.fifoMemory, 0, "an account is not settled")
  }
  for (const user of users) {
    assert.strictEqual(user.mapped.size, 0, "a user still has segments mapped")
    assert.deepStrictEqual(user.complaints, [])
  }
}

/** One manager, one client and one server, and all they stand on. */
export interface World {
  readonly memory: Memory
  readonly contexts: Contexts
  readonly lock: Lock.ReadWriteLock
  readonly manager: SegmentManager.SegmentManager
  readonly client: User
  readonly server: User
  readonly request: SegmentContext.Request
  /** Leases for `request`, which are to be had at once. */
  readonly acquire: () => SegmentContext.Leases
}

export interface WorldOptions extends Partial<SegmentManager.Properties> {
  /** Pairs in a segment. Default 4. */
  readonly pairs?: number
  readonly memory?: Memory
  /** Where the manager counts. Default: an account of its own. */
  readonly account?: SegmentManager.Account
}

/** A world on the clock of the test. */
export const makeWorld = (options: WorldOptions = {}): Effect.Effect<World> => {
  const { account, memory = makeMemory(), pairs = 4, ...properties } = options
  const locks = makeLocks()
  return Effect.map(contextsOver(memory, locks.service), (contexts) => {
    const manager = makeManager({ segmentSize: pairs * PAIR, ...properties }, undefined, account)
    const [client, server] = [new User("client"), new User("server")]
    const request = { manager, client, server }
    return {
      memory,
      contexts,
      lock: locks.made[0],
      manager,
      client,
      server,
      request,
      acquire: () => assertLeases(contexts.tryAcquire(request))
    }
  })
}

/** A world on the real clock, for tests in which no time passes. */
export const setUp = (options: WorldOptions = {}): World => Effect.runSync(makeWorld(options))

export const assertLeases = (
  leases: SegmentContext.Leases | SessionError.SessionError | undefined
): SegmentContext.Leases => {
  if (leases === undefined) assert.fail("leases take time")
  if (leases instanceof SessionError.SessionError) assert.fail(`no leases: ${leases.message}`)
  return leases
}

export const releaseBoth = ({ contexts }: Pick<World, "contexts">, { client, server }: SegmentContext.Leases): void => {
  contexts.release(client)
  contexts.release(server)
}

/** Every test that makes a world ends here. */
export const assertRest = ({ client, contexts, lock, manager, memory, server }: World): void => {
  assertAtRest(contexts, memory, [manager], [client, server])
  assert.deepStrictEqual(lock.stats(), { readers: 0, writer: false, waiting: 0 })
}

/** Sends a byte each way, or fails the test. */
export const assertAlive = ({ rx, tx }: SegmentContext.Leases): void => {
  for (const fifo of [rx, tx]) {
    const byte = new Uint8Array(1)
    assert.strictEqual(fifo.enqueue(Uint8Array.of(7), 0, 1), 1)
    assert.strictEqual(fifo.dequeue(byte, 0, 1), 1)
    assert.deepStrictEqual(byte, Uint8Array.of(7))
  }
}

/** What anybody may rely on who has leases: their segment exists, both users know of it, and bytes pass. */
export const assertUsable = (request: SegmentContext.Request, leases: SegmentContext.Leases): void => {
  const { segment } = leases.client
  assertSame(leases.server.segment, segment)
  assertSame(request.manager.segments.get(segment.handle), segment, "leases on a segment that is gone")
  for (const user of [request.client, request.server]) {
    assert.isTrue((user as User).mapped.has(segment), "leases on a segment that a user does not know of")
  }
  assertAlive(leases)
}

/** Connections of each segment, by side. */
export const sideCounts = (contexts: Contexts): ReadonlyArray<readonly [clients: number, servers: number]> =>
  contexts.stats().segments.map((segment) => [segment.clientSessions, segment.serverSessions])

/**
 * Memory that the test hands out allocation by allocation: `SharedMemory.layer` allocates at once, so nothing could
 * come in between. Memory that other processes provide will not.
 */
export class SlowMemory {
  private readonly memory = makeMemory()
  private readonly waiting: Array<Deferred.Deferred<void, SessionError.SessionError>> = []
  /** Allocations that were waited for. */
  asked = 0
  private isSlow = true

  get pending(): number {
    return this.waiting.length
  }

  readonly service: Memory = SharedMemory.SharedMemory.of({
    ...this.memory,
    tryAllocate: (bytes, mappers) => (this.isSlow ? undefined : this.memory.tryAllocate(bytes, mappers)),
    allocate: (bytes, mappers) =>
      Effect.suspend(() => {
        this.asked++
        if (!this.isSlow) return this.memory.allocate(bytes, mappers)
        const gate = Deferred.makeUnsafe<void, SessionError.SessionError>()
        this.waiting.push(gate)
        return Effect.andThen(Deferred.await(gate), this.memory.allocate(bytes, mappers))
      })
  })

  readonly layer = Layer.succeed(SharedMemory.SharedMemory, this.service)

  /** Lets the oldest allocation succeed. */
  allow(): void {
    const gate = this.waiting.shift()
    assert.isDefined(gate, "nobody waits for memory")
    Deferred.doneUnsafe(gate, Effect.void)
  }

  /** Lets all allocations succeed, those to come at once. */
  allowAll(): void {
    this.isSlow = false
    while (this.waiting.length > 0) this.allow()
  }

  /** Lets those to come wait (again). */
  slowDown(): void {
    this.isSlow = true
  }

  /** Lets the oldest allocation fail. */
  refuse(): void {
    const gate = this.waiting.shift()
    assert.isDefined(gate, "nobody waits for memory")
    Deferred.doneUnsafe(gate, Effect.fail(noMemory))
  }
}

export const noMemory = SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 1 }))

/** Memory that runs out: `left` allocations succeed. */
export class ShortMemory {
  private readonly memory = makeMemory()
  left: number

  constructor(left: number) {
    this.left = left
  }

  readonly service: Memory = SharedMemory.SharedMemory.of({
    ...this.memory,
    tryAllocate: (bytes, mappers) => {
      if (this.left === 0) return undefined
      this.left--
      return this.memory.tryAllocate(bytes, mappers)
    },
    allocate: (bytes, mappers) =>
      Effect.suspend(() => {
        if (this.left === 0) return Effect.fail(noMemory)
        this.left--
        return this.memory.allocate(bytes, mappers)
      })
  })

  readonly layer = Layer.succeed(SharedMemory.SharedMemory, this.service)
}

/**
 * Runs fibers in every order in which their steps can follow each other, and that for several lengths of a step, each
 * time in a state of its own. A fiber's first step is its start; it ends by success. Returns how many orders there were.
 */
export const everyInterleaving = <State>(options: {
  readonly setUp: () => State
  readonly fibers: ReadonlyArray<(state: State) => Effect.Effect<unknown, unknown>>
  /** What can happen now that no fiber does, and is a step like theirs. */
  readonly event?: (state: State) => (() => void) | undefined
  readonly check: (state: State, where: string) => void
  /** Operations in a step. */
  readonly ops?: ReadonlyArray<number>
}): number => {
  let orders = 0
  for (const ops of options.ops ?? [5, 6, 7, 8]) {
    // The order to run: at each step the number of one of those that could go on, of how many.
    const chosen: Array<number> = []
    const widths: Array<number> = []
    do {
      const state = options.setUp()
      const schedulers = options.fibers.map(() => new SteppingScheduler(ops))
      const fibers: Array<Fiber.Fiber<unknown, unknown> | undefined> = options.fibers.map(() => undefined)
      const steps = (): Array<() => void> => {
        const found: Array<() => void> = []
        for (const [i, start] of options.fibers.entries()) {
          const scheduler = schedulers[i]
          if (fibers[i] === undefined) found.push(() => (fibers[i] = Effect.runFork(start(state), { scheduler })))
          else if (scheduler.pending > 0) found.push(() => scheduler.step())
        }
        const event = options.event?.(state)
        if (event !== undefined) found.push(event)
        return found
      }
      let at = 0
      for (let possible = steps(); possible.length > 0; possible = steps()) {
        if (at === chosen.length) chosen.push(0)
        widths[at] = possible.length
        possible[chosen[at]]()
        at++
      }
      const where = `in the order ${chosen.slice(0, at).join("")} of ${ops} operations each`
      for (const fiber of fibers) {
        const exit = fiber?.pollUnsafe()
        if (exit === undefined) assert.fail(`a fiber waits for ever ${where}`)
        if (Exit.isFailure(exit)) throw new Error(`a fiber failed ${where}`, { cause: Cause.squash(exit.cause) })
      }
      options.check(state, where)
      orders++
      // The next one: as much of this as there is no other way to go on behind.
      chosen.length = at
      while (chosen.length > 0 && chosen[chosen.length - 1] + 1 === widths[chosen.length - 1]) chosen.pop()
      if (chosen.length > 0) chosen[chosen.length - 1]++
    } while (chosen.length > 0)
  }
  return orders
}
