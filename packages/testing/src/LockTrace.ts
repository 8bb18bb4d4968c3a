/**
 * Locks that write down who holds them, who waits, and what went wrong: a lock
 * held while an application is told something, or two locks taken now in one
 * order and now in the other.
 *
 * @since 0.1.0
 */
import {
  type Acquisition,
  Lock,
  type LockEvent,
  makeReadWrite,
  makeSpin,
  type Observer
} from "@cut-through/core/runtime/Lock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"

/**
 * How a lock is held: as one of the readers or as the writer of a read-write
 * lock, or as the holder of a spin lock.
 *
 * @category models
 * @since 0.1.0
 */
export type Mode = "read" | "write" | "spin"

/**
 * Who holds a lock or waits for it. A try has no fiber when it runs outside of
 * any.
 *
 * @category models
 * @since 0.1.0
 */
export interface Claim {
  readonly lock: string
  readonly mode: Mode
  readonly fiber: number | undefined
}

/**
 * What happened to a claim.
 *
 * @category models
 * @since 0.1.0
 */
export interface Event extends Claim {
  readonly event: LockEvent
}

/**
 * How busy a lock has been: how often it was granted, how many had to wait for
 * it (those included who gave up), and how many did so at once.
 *
 * @category models
 * @since 0.1.0
 */
export interface Contention {
  readonly lock: string
  readonly acquisitions: number
  readonly waited: number
  readonly longestQueue: number
}

/**
 * A fiber that held one lock while it asked for another.
 *
 * @category models
 * @since 0.1.0
 */
export interface Order {
  readonly fiber: number | undefined
  readonly held: string
  readonly asked: string
}

/**
 * What must not happen. `HeldWhileNotifying`: an application was told something
 * under a lock, and may do anything now, such as ask for that lock.
 * `OrderInversion`: two locks were taken in opposite orders, so two fibers that
 * do it at the same time wait for each other for ever.
 *
 * @category models
 * @since 0.1.0
 */
export type Violation =
  | {
      readonly _tag: "HeldWhileNotifying"
      readonly what: string
      readonly fiber: number | undefined
      readonly held: ReadonlyArray<Claim>
    }
  | { readonly _tag: "OrderInversion"; readonly orders: readonly [first: Order, second: Order] }

const nameOf = (fiber: number | undefined) => (fiber === undefined ? "no fiber" : `fiber #${fiber}`)

const formatClaim = ({ fiber, lock, mode }: Claim, does: string) => `${nameOf(fiber)} ${does} "${lock}" (${mode})`

const formatOrder = ({ asked, fiber, held }: Order) => `${nameOf(fiber)} asked for "${asked}" while "${held}" was held`

const format = (violation: Violation): string => {
  if (violation._tag === "OrderInversion") return violation.orders.map(formatOrder).join(", but ")
  const held = violation.held.map((claim) => formatClaim(claim, "held")).join(" and ")
  return `"${violation.what}" was told by ${nameOf(violation.fiber)} while ${held}`
}

/**
 * What went wrong with the locks, and which of them are still held or waited
 * for.
 *
 * @category errors
 * @since 0.1.0
 */
export class LockViolation extends Data.TaggedError("LockViolation")<{
  readonly violations: ReadonlyArray<Violation>
  readonly holders: ReadonlyArray<Claim>
  readonly waiters: ReadonlyArray<Claim>
}> {
  override get message(): string {
    return [
      ...this.violations.map(format),
      ...this.holders.map((claim) => formatClaim(claim, "still holds")),
      ...this.waiters.map((claim) => formatClaim(claim, "still waits for"))
    ].join("\n")
  }
}

/**
 * What the locks of a {@link layer} have written down.
 *
 * A fiber holds what it was granted and, while the function of a try
 * (`tryWrite`, `tryLock`) runs, the lock of that try, whoever tried. It does not
 * hold what the fiber holds that forked it. A try that is refused leaves no
 * trace; one that is not counts as asking, also for the order of locks, because
 * it is the short form of waiting for one's turn.
 *
 * **Example** (Telling an application under a lock)
 *
 * ```ts
 * import { Lock } from "@cut-through/core/runtime/Lock"
 * import { LockTrace } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const locks = yield* Lock
 *   const trace = yield* LockTrace.LockTrace
 *   const lock = locks.make("table")
 *   yield* lock.withRead(Effect.sync(() => locks.notifying("accepted")))
 *   trace.violations().map(({ _tag }) => _tag) // => ["HeldWhileNotifying"]
 *   trace.history().map(({ event }) => event) // => ["asked", "granted", "released"]
 *   lock.tryWrite(() => trace.holders().map(({ mode }) => mode)) // => ["write"]
 *   trace.contention() // => [{ lock: "table", acquisitions: 2, waited: 0, longestQueue: 0 }]
 * })
 *
 * const exit = await Effect.runPromiseExit(Effect.provide(program, LockTrace.layer))
 * exit._tag // => "Failure"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class LockTrace extends Context.Service<
  LockTrace,
  {
    /** Who holds a lock now, in the order of granting. A fiber is there once for each time it has it. */
    readonly holders: () => ReadonlyArray<Claim>
    /** Who waits for a lock now, in the order of asking. */
    readonly waiters: () => ReadonlyArray<Claim>
    /** The last events of all locks, in their order. */
    readonly history: () => ReadonlyArray<Event>
    /** One for each lock, in the order in which they were made. */
    readonly contention: () => ReadonlyArray<Contention>
    /** What went wrong so far. A pair of locks is there once, however often it was taken in both orders. */
    readonly violations: () => ReadonlyArray<Violation>
  }
>()("@cut-through/testing/LockTrace") {}

/** Locks are told apart by identity: many may have the same name. */
interface TracedLock {
  readonly name: string
  readers: number
  writers: number
  waiting: number
  acquisitions: number
  waited: number
  longestQueue: number
  /** The locks that were asked for while this one was held, and who did so first. */
  readonly askedUnder: Map<TracedLock, Order>
}

interface TracedClaim extends Claim {
  readonly traced: TracedLock
  readonly isTry: boolean
}

const toClaim = ({ fiber, lock, mode }: Claim): Claim => ({ lock, mode, fiber })

const currentFiber = () => Fiber.getCurrent()?.id

const make = (capacity: number) => {
  const locks: Array<TracedLock> = []
  const held = new Map<Acquisition, TracedClaim>()
  const waiting = new Map<Acquisition, TracedClaim>()
  const violations: Array<Violation> = []
  // Goes round once it is full.
  const events: Array<Event> = []
  let eventCount = 0

  const record = (event: LockEvent, claim: TracedClaim) => {
    if (capacity > 0) events[eventCount % capacity] = { ...toClaim(claim), event }
    eventCount++
  }

  const heldBy = (fiber: number | undefined): Array<TracedClaim> =>
    [...held.values()].filter((claim) => claim.isTry || (fiber !== undefined && claim.fiber === fiber))

  const checkOrder = ({ fiber, traced: asked }: TracedClaim) => {
    const claims = heldBy(fiber)
    // Whoever has a lock already and asks for it once more does not take it after what came in between.
    if (claims.some(({ traced }) => traced === asked)) return
    for (const { traced: held } of claims) {
      if (held.askedUnder.has(asked)) continue
      const order: Order = { fiber, held: held.name, asked: asked.name }
      held.askedUnder.set(asked, order)
      const opposite = asked.askedUnder.get(held)
      if (opposite !== undefined) violations.push({ _tag: "OrderInversion", orders: [opposite, order] })
    }
  }

  const ask = (claim: TracedClaim) => {
    const { mode, traced } = claim
    const mustWait = traced.waiting > 0 || traced.writers > 0 || (mode !== "read" && traced.readers > 0)
    traced.waiting++
    if (mustWait) {
      traced.waited++
      traced.longestQueue = Math.max(traced.longestQueue, traced.waiting)
    }
    checkOrder(claim)
  }

  const count = ({ mode, traced }: TracedClaim, by: 1 | -1) => {
    if (mode === "read") traced.readers += by
    else traced.writers += by
  }

  /** Follows each claim from `waiting` to `held` and out. */
  const observer = (name: string, isSpin: boolean): Observer => {
    const traced: TracedLock = {
      name,
      readers: 0,
      writers: 0,
      waiting: 0,
      acquisitions: 0,
      waited: 0,
      longestQueue: 0,
      askedUnder: new Map()
    }
    locks.push(traced)
    return (event, acquisition) => {
      const { isTry, isWriter } = acquisition
      if (event === "asked") {
        const mode = isSpin ? "spin" : isWriter ? "write" : "read"
        const claim: TracedClaim = { lock: name, mode, fiber: currentFiber(), traced, isTry }
        record(event, claim)
        ask(claim)
        waiting.set(acquisition, claim)
      } else if (event === "released") {
        const claim = held.get(acquisition)!
        record(event, claim)
        held.delete(acquisition)
        count(claim, -1)
      } else {
        const claim = waiting.get(acquisition)!
        record(event, claim)
        waiting.delete(acquisition)
        traced.waiting--
        if (event === "abandoned") return
        held.set(acquisition, claim)
        count(claim, 1)
        traced.acquisitions++
      }
    }
  }

  return {
    locks: Lock.of({
      make: (name) => makeReadWrite(name, observer(name, false)),
      makeSpin: (name) => makeSpin(name, observer(name, true)),
      notifying: (what) => {
        const fiber = currentFiber()
        const claims = heldBy(fiber)
        if (claims.length > 0) violations.push({ _tag: "HeldWhileNotifying", what, fiber, held: claims.map(toClaim) })
      }
    }),
    trace: LockTrace.of({
      holders: () => [...held.values()].map(toClaim),
      waiters: () => [...waiting.values()].map(toClaim),
      history: () => {
        const oldest = eventCount > events.length ? eventCount % capacity : 0
        return [...events.slice(oldest), ...events.slice(0, oldest)]
      },
      contention: () =>
        locks.map(({ acquisitions, longestQueue, name, waited }) => ({
          lock: name,
          acquisitions,
          waited,
          longestQueue
        })),
      violations: () => [...violations]
    })
  }
}

/**
 * Fails with a {@link LockViolation} if something went wrong with the locks so
 * far, or if one of them is held or waited for.
 *
 * @category assertions
 * @since 0.1.0
 */
export const check: Effect.Effect<void, LockViolation, LockTrace> = Effect.gen(function* () {
  const trace = yield* LockTrace
  const error = new LockViolation({
    violations: trace.violations(),
    holders: trace.holders(),
    waiters: trace.waiters()
  })
  if (error.violations.length + error.holders.length + error.waiters.length > 0) return yield* error
})

/**
 * {@link layer} with a history of another length than 10,000 events.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: { readonly history?: number | undefined }): Layer.Layer<Lock | LockTrace> =>
  Layer.effectContext(
    Effect.suspend(() => {
      const { locks, trace } = make(options.history ?? 10_000)
      return Effect.as(
        Effect.addFinalizer(() => Effect.orDie(Effect.provideService(check, LockTrace, trace))),
        Context.make(Lock, locks).pipe(Context.add(LockTrace, trace))
      )
    })
  )

/**
 * The real locks, traced, and checked when their scope closes: everything that
 * is built on top of them has been closed by then. What went wrong is a defect,
 * and so is a lock that is held or waited for; both fail the test.
 *
 * **Example** (A test that fails when locks are taken in opposite orders)
 *
 * ```ts
 * import { Lock } from "@cut-through/core/runtime/Lock"
 * import { LockTrace } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const test = Effect.gen(function*() {
 *   const locks = yield* Lock
 *   const [a, b] = [locks.make("a"), locks.makeSpin("b")]
 *   yield* a.withWrite(b.withLock(Effect.void))
 *   yield* a.withRead(b.withLock(Effect.void))
 *   yield* LockTrace.check
 *   yield* b.withLock(a.withRead(Effect.void))
 *   return (yield* Effect.flip(LockTrace.check)).violations.length
 * })
 *
 * const exit = await Effect.runPromiseExit(Effect.provide(test, LockTrace.layer))
 * exit._tag // => "Failure"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Lock | LockTrace> = layerWith({})
