/** Where programs run: a session layer over memory, locks, a clock and a scheduler that the test has in hand. */
import * as Application from "@cut-through/core/Application"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import * as Sessions from "@cut-through/core/Sessions"
import { Leaks, LockTrace } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import { SteppingScheduler } from "../runtime/stepping.ts"
import { makeMemory, noMemory } from "../segment/fixtures.ts"
import type { MemoryMode } from "./model.ts"

/** Milliseconds the clock goes on at once; every time of the programs is a multiple. */
const STEP = 1000

/** How an application comes to the session layer. Its face is all that a program touches. */
export type Attach = typeof Application.make

/** What a program needs of the place where it runs. */
export interface Host {
  readonly layer: SessionLayer.SessionLayer["Service"]
  readonly memory: Memory
  /** Threads that applications can live in: that of the session layer, which is number 0, and others. */
  readonly places: number
  readonly attach: (
    options: Parameters<Attach>[0],
    place: number
  ) => Effect.Effect<Application.Application["Service"], SessionError, Scope.Scope>
  /** Runs an effect as a fiber among those of the session layer. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  /** Interrupts such a fiber. */
  readonly interrupt: (fiber: Fiber.Fiber<unknown, unknown>) => void
  /**
   * Lets a thread die, and another one take its place. Whatever was asked of an application there ends with a defect,
   * and so does what is asked of it later.
   */
  readonly kill: (place: number) => void
  /** Waits until nobody has anything to do. */
  readonly settle: Effect.Effect<void>
  /** Whether nobody stops between two steps of his own, so that what is interrupted has either happened or not. */
  readonly isPrompt: boolean
  /** Whether there are several threads, so that what is begun at the same time may happen in any order. */
  readonly isConcurrent: boolean
  /** Lets those who have something to do begin with it, this many of them. */
  readonly nudge: (count: number) => Effect.Effect<void>
  /** Lets time pass, and everybody do what it was time for. */
  readonly advance: (millis: number) => Effect.Effect<void>
  /** Closes the session layer, which checks for leaks and for locks that are held. */
  readonly close: Effect.Effect<void>
  /** Lets everything lie, when a program has failed. */
  readonly abandon: Effect.Effect<void>
}

export interface HostOptions {
  /** Whether who is woken runs on the waker's stack, or when the scheduler has its turn. */
  readonly wake: "direct" | "scheduler"
  /** After how many operations a fiber has to let the others go on: 0 is never, otherwise at least 3. */
  readonly yieldEvery: number
  /** Workers of the session layer. */
  readonly workers: number
}

/** Memory that comes at once, or when it is granted, or a few times more: as the program says, and not for ever. */
export class Memory {
  private readonly memory = makeMemory()
  private readonly waiting: Array<Deferred.Deferred<void, SessionError>> = []
  mode: MemoryMode = "free"
  left = 0

  get pending(): number {
    return this.waiting.length
  }

  readonly service = SharedMemory.SharedMemory.of({
    ...this.memory,
    tryAllocate: (bytes, mappers) =>
      this.mode !== "slow" && this.isThere() ? this.memory.tryAllocate(bytes, mappers) : undefined,
    allocate: (bytes, mappers) =>
      Effect.suspend(() => {
        const allocating = this.memory.allocate(bytes, mappers)
        if (this.mode !== "slow") return this.isThere() ? allocating : Effect.fail(noMemory)
        const gate = Deferred.makeUnsafe<void, SessionError>()
        this.waiting.push(gate)
        return Effect.andThen(Deferred.await(gate), allocating)
      })
  })

  private isThere(): boolean {
    if (this.mode === "free") return true
    if (this.left === 0) return false
    this.left--
    return true
  }

  /** Lets the oldest allocation succeed, or fail. */
  grant(succeeds: boolean): void {
    const gate = this.waiting.shift()
    assert.isDefined(gate, "nobody waits for memory")
    Deferred.doneUnsafe(gate, succeeds ? Effect.void : Effect.fail(noMemory))
  }
}

/** The real services over the program's memory and clock, checked for leaks and for locks that are held. */
export const layerServices = (
  options: HostOptions,
  memory: Memory,
  clock: Clock.Clock
): Layer.Layer<SessionLayer.SessionLayer, SessionError> =>
  Leaks.layerCheck.pipe(
    Layer.provideMerge(SessionLayer.layerNoDeps({ workers: options.workers })),
    Layer.provide([
      Connections.layer,
      SegmentContext.layer,
      options.wake === "direct" ? Wake.layer : Wake.layerScheduler
    ]),
    Layer.provide([
      Layer.succeed(SharedMemory.SharedMemory, memory.service),
      LockTrace.layerWith({ history: 0 }),
      Layer.succeed(Clock.Clock, clock)
    ]),
    Layer.fresh
  )

/** Those that applications may attach to, beside the one of all who name none. */
export const addNamespaces = (
  layer: SessionLayer.SessionLayer["Service"]
): Effect.Effect<unknown, SessionError, Scope.Scope> =>
  Effect.provideService(Sessions.addNamespace({ id: "guarded", secret: "open" }), SessionLayer.SessionLayer, layer)

/** A session layer in this thread. Nothing happens there but in `settle`, and what happens is over when that returns. */
export const makeHost = (options: HostOptions, attach: Attach): Host => {
  const scheduler = new SteppingScheduler(options.yieldEvery === 0 ? Infinity : options.yieldEvery)
  const memory = new Memory()
  const scope = Scope.makeUnsafe()
  const clockScope = Scope.makeUnsafe()

  // Most errors are what a program expects: taking their stacks would cost more than all the rest.
  const withoutStacks = <A>(body: () => A): A => {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    try {
      return body()
    } finally {
      Error.stackTraceLimit = stackTraceLimit
    }
  }

  const run = <A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> =>
    withoutStacks(() => Effect.runFork(effect, { scheduler }))

  // As `scheduler.runAll`, but asks less often whether it goes on for ever.
  const runAll = () =>
    withoutStacks(() => {
      for (let steps = 0; scheduler.step(); steps++) if (steps === 1_000_000) assert.fail("it never comes to rest")
    })

  const runToRest = <A, E>(effect: Effect.Effect<A, E>): A => {
    const fiber = run(effect)
    runAll()
    const exit = fiber.pollUnsafe()
    assert.isDefined(exit, "it waits for ever")
    if (Exit.isFailure(exit)) throw Object.assign(new Error("the session layer failed"), { cause: exit.cause })
    return exit.value
  }

  const clock = runToRest(Scope.provide(TestClock.make(), clockScope))
  const services = runToRest(Layer.buildWithScope(layerServices(options, memory, clock), scope))
  const layer = Context.get(services, SessionLayer.SessionLayer)
  runToRest(Scope.provide(addNamespaces(layer), scope))

  return {
    layer,
    memory,
    places: 1,
    attach: (options) => Effect.provideService(attach(options), SessionLayer.SessionLayer, layer),
    run,
    interrupt: (fiber) => fiber.interruptUnsafe(),
    kill: () => assert.fail("the thread of the session layer cannot be killed"),
    isPrompt: options.yieldEvery === 0,
    isConcurrent: false,
    nudge: (count) =>
      Effect.sync(() => withoutStacks(() => void Array.from({ length: count }, () => scheduler.step()))),
    settle: Effect.sync(() => runAll()),
    // In steps: who sleeps again only when the clock has gone on wakes late.
    advance: (millis) =>
      Effect.sync(() => {
        for (let left = millis; left > 0; left -= STEP) runToRest(clock.adjust(Math.min(STEP, left)))
      }),
    close: Effect.sync(() => {
      runToRest(Scope.close(scope, Exit.void))
      runToRest(Scope.close(clockScope, Exit.void))
    }),
    // A clock that somebody waits for complains in real time.
    abandon: Effect.sync(() => void runToRest(Scope.close(clockScope, Exit.void)))
  }
}
