/** A scheduler that a test turns by hand, and what can be shown with it: that an effect may be interrupted anywhere. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"

/**
 * Keeps all tasks in one queue and runs them when told. Fibers yield after `opsBeforeYield` operations; fewer than three
 * and a fiber would do nothing but yield.
 */
export class SteppingScheduler implements Scheduler.Scheduler {
  readonly executionMode = "async"
  private readonly tasks: Array<() => void> = []
  private readonly opsBeforeYield: number

  constructor(opsBeforeYield = Infinity) {
    this.opsBeforeYield = opsBeforeYield
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return fiber.currentOpCount >= this.opsBeforeYield
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return { scheduleTask: (task) => void this.tasks.push(task), flush: () => this.runAll() }
  }

  get pending(): number {
    return this.tasks.length
  }

  /** Runs the oldest task; false when there is none. */
  step(): boolean {
    const task = this.tasks.shift()
    task?.()
    return task !== undefined
  }

  runAll(): void {
    for (let steps = 0; this.step(); steps++) assert.isBelow(steps, 1_000_000, "the fibers never come to rest")
  }
}

export interface Attempt {
  readonly scheduler: SteppingScheduler
  /** Runs an effect as a fiber on this scheduler. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

/**
 * Runs the fiber that `start` returns again and again, interrupted one step later each time, until it has ended before
 * it could be interrupted, and that for several lengths of a step. `check` runs when nothing is left to run. Returns
 * how many attempts were interrupted.
 */
export const interruptEverywhere = <State>(options: {
  readonly setUp: (attempt: Attempt) => State
  readonly start: (attempt: Attempt, state: State) => Fiber.Fiber<unknown, unknown>
  /** What happens once the fiber has been interrupted, for example what it waited for. */
  readonly afterwards?: (attempt: Attempt, state: State) => void
  readonly check: (state: State, where: string) => void
}): number => {
  let interrupted = 0
  for (let ops = 3; ops <= 8; ops++) {
    for (let at = 0; ; at++) {
      const scheduler = new SteppingScheduler(ops)
      const attempt: Attempt = { scheduler, run: (effect) => Effect.runFork(effect, { scheduler }) }
      const state = options.setUp(attempt)
      const fiber = options.start(attempt, state)
      for (let step = 0; step < at && fiber.pollUnsafe() === undefined; step++) {
        if (scheduler.step()) continue
        options.afterwards?.(attempt, state)
        if (scheduler.pending === 0) assert.fail(`the fiber waits for ever, in steps of ${ops} operations`)
      }
      const isDone = fiber.pollUnsafe() !== undefined
      fiber.interruptUnsafe()
      options.afterwards?.(attempt, state)
      scheduler.runAll()
      options.check(state, `interrupted after ${at} steps of ${ops} operations`)
      if (isDone) break
      interrupted++
    }
  }
  return interrupted
}

/**
 * Runs what `start` returns again and again, with an event between any two of its steps and one after its last, and
 * that for several lengths of a step: whatever it waits for, it must not miss it. All others run to their rest at once.
 */
export const happenEverywhere = <State>(options: {
  /** Sets up all others, which run by `others`. */
  readonly setUp: (others: Attempt) => State
  readonly start: (attempt: Attempt, state: State) => Fiber.Fiber<unknown, unknown>
  /** What the fiber waits for. */
  readonly event: (others: Attempt, state: State) => void
  readonly check: (others: Attempt, state: State, where: string) => void
}): void => {
  const attemptIn = (ops?: number): Attempt => {
    const scheduler = new SteppingScheduler(ops)
    return { scheduler, run: (effect) => Effect.runFork(effect, { scheduler }) }
  }
  for (let ops = 3; ops <= 8; ops++) {
    let isAtRest = false
    for (let at = 0; !isAtRest; at++) {
      const [attempt, others] = [attemptIn(ops), attemptIn()]
      const state = options.setUp(others)
      const where = `when it happens after ${at} steps of ${ops} operations`
      const fiber = options.start(attempt, state)
      for (let step = 0; step < at && !isAtRest; step++) {
        isAtRest = !attempt.scheduler.step()
        others.scheduler.runAll()
      }
      options.event(others, state)
      while (attempt.scheduler.pending + others.scheduler.pending > 0) {
        others.scheduler.runAll()
        attempt.scheduler.runAll()
      }
      if (fiber.pollUnsafe() === undefined) assert.fail(`the fiber waits for ever ${where}`)
      options.check(others, state, where)
    }
  }
}
