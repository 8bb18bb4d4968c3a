/** What the tests of the segment floor share: users that remember what they were told, and memory that is slow or short. */
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import * as SessionError from "@cut-through/core/SessionError"
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

export const PAGE = 4096

export type Memory = SharedMemory.SharedMemory["Service"]
export type Contexts = SegmentContext.SegmentContext["Service"]

/** Knows which segments it has mapped; told twice of the same, it fails the test. */
export class User implements SegmentContext.SegmentUser {
  readonly mapped = new Set<SegmentManager.Segment>()
  readonly deleted = new Set<SegmentManager.Segment>()

  segmentAdded(segment: SegmentManager.Segment): void {
    assert.isFalse(this.mapped.has(segment) || this.deleted.has(segment), "a segment was added twice")
    this.mapped.add(segment)
  }

  segmentDeleted(segment: SegmentManager.Segment): void {
    assert.isTrue(this.mapped.delete(segment), "a segment was deleted that was not mapped")
    this.deleted.add(segment)
  }
}

export const makeMemory = (): Memory => Effect.runSync(SharedMemory.make())

export const makeContexts = (memory: Memory, lock: Lock.Lock["Service"] = { make: Lock.makeReadWrite }): Contexts =>
  Effect.runSync(
    SegmentContext.make.pipe(
      Effect.provideService(SharedMemory.SharedMemory, memory),
      Effect.provideService(Lock.Lock, lock)
    )
  )

export const makeManager = (
  properties: Partial<SegmentManager.Properties> = {},
  name = "manager"
): SegmentManager.SegmentManager =>
  Effect.runSync(
    SegmentManager.make(name, { segmentSize: 4 * 2 * PAGE, rxFifoSize: PAGE, txFifoSize: PAGE, ...properties })
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
  for (const manager of managers) assert.strictEqual(manager.segments.size, 0, "a manager still has segments")
  for (const user of users) assert.strictEqual(user.mapped.size, 0, "a user still has segments mapped")
}

/**
 * Memory that the test hands out allocation by allocation: `SharedMemory.layer` allocates at once, so nothing could
 * come in between. Memory that other processes provide will not.
 */
export class SlowMemory {
  private readonly memory = makeMemory()
  private readonly waiting: Array<Deferred.Deferred<void, SessionError.SessionError>> = []
  /** Allocations that were asked for. */
  asked = 0
  private isSlow = true

  get pending(): number {
    return this.waiting.length
  }

  readonly service: Memory = SharedMemory.SharedMemory.of({
    ...this.memory,
    allocate: (bytes) =>
      Effect.suspend(() => {
        this.asked++
        if (!this.isSlow) return this.memory.allocate(bytes)
        const gate = Deferred.makeUnsafe<void, SessionError.SessionError>()
        this.waiting.push(gate)
        return Effect.andThen(Deferred.await(gate), this.memory.allocate(bytes))
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
    allocate: (bytes) => Effect.suspend(() => (this.left-- > 0 ? this.memory.allocate(bytes) : Effect.fail(noMemory)))
  })

  readonly layer = Layer.succeed(SharedMemory.SharedMemory, this.service)
}
