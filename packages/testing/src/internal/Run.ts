/**
 * One run of a program in which nothing happens by chance: who goes on next, what
 * time it is and every random number follow from a seed, or from decisions that
 * were written down before. The run is over when this returns: there is nothing
 * asynchronous about it.
 */
import * as Console from "effect/Console"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import type * as Scheduler from "effect/Scheduler"
import type { TestClock } from "effect/testing/TestClock"
import { watchForeign } from "./Foreign.ts"
import { Prng } from "./Prng.ts"
import { Recorder } from "./Recorder.ts"
import { Seed } from "./Seed.ts"

/** What else than success or failure a run can come to. */
export type Problem =
  | { readonly _tag: "Stuck"; readonly fibers: number }
  | { readonly _tag: "Endless"; readonly steps: number }
  | { readonly _tag: "Foreign"; readonly what: string; readonly where: string }
  | { readonly _tag: "LeftOver"; readonly fibers: number; readonly sleeps: number }

export interface Outcome<A, E> {
  readonly exit: Exit.Exit<A, E> | undefined
  readonly problem: Problem | undefined
  /** 0 is what a scheduler does that knows no chance: the oldest task, and as long as it goes. */
  readonly decisions: ReadonlyArray<number>
  readonly steps: number
  /** Of all that has happened, in its order. */
  readonly fingerprint: string
  /** All that has happened, if it was to be written down. */
  readonly history: ReadonlyArray<string>
}

export interface Options {
  readonly seed: number
  /** Instead of those that follow from the seed. Those that are missing are 0. */
  readonly decisions?: ReadonlyArray<number> | undefined
  readonly isRecorded: boolean
  readonly maxSteps: number
}

interface FiberState {
  readonly name: number
  /** It waits for its turn, rather than for somebody. */
  isQueued: boolean
  /** Operations until it has to let others go on; 0 is as many as it likes. */
  budget: number
}

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** The scheduler, the clock, and what they write down. */
class World implements Scheduler.Scheduler {
  readonly executionMode = "async"
  readonly clock: TestClock
  readonly decisions: Array<number> = []
  readonly history: Array<string> = []
  readonly fibers: Map<AnyFiber, FiberState> = new Map()
  readonly tasks: Array<() => void> = []
  readonly sleeps: Array<{ readonly at: number; readonly resume: () => void }> = []
  now = 0
  private hash = 0x811c9dc5
  private readonly random: Prng
  private readonly given: ReadonlyArray<number> | undefined
  private readonly isRecorded: boolean
  /** How often a fiber is made to yield somewhere: in some runs never, in some at every turn. */
  private readonly eagerness: number

  constructor({ decisions, isRecorded, seed }: Options) {
    this.random = Prng.of(seed, "schedule")
    this.eagerness = [0, 1, 2, 6][this.random.below(4)] / 6
    this.given = decisions
    this.isRecorded = isRecorded
    this.clock = this.makeClock()
  }

  get fingerprint(): string {
    return (this.hash >>> 0).toString(16).padStart(8, "0")
  }

  record(line: () => string, ...facts: ReadonlyArray<number>): void {
    for (const fact of facts) this.hash = Math.imul(this.hash ^ fact, 0x01000193) ^ (this.hash >>> 15)
    if (this.isRecorded) this.history.push(`${this.now} ms: ${line()}`)
  }

  /** What somebody else has to say, who is part of the history, too. */
  say(line: string): void {
    for (let i = 0; i < line.length; i++) this.record0(line.charCodeAt(i))
    if (this.isRecorded) this.history.push(`${this.now} ms: ${line}`)
  }

  private record0(fact: number): void {
    this.hash = Math.imul(this.hash ^ fact, 0x01000193) ^ (this.hash >>> 15)
  }

  /** A decision among `limit` possibilities. */
  private decide(draw: () => number, limit: number): number {
    const at = this.decisions.length
    const decision = this.given === undefined ? draw() : Math.min(this.given[at] ?? 0, limit - 1)
    this.decisions.push(decision)
    return decision
  }

  // A fiber that is woken on somebody's stack waits for its turn like everybody else; one that has had its turn goes on,
  // and one that begins does so, because whoever starts it may count on that.
  shouldYield(fiber: AnyFiber): boolean {
    const state = this.fibers.get(fiber)
    if (state === undefined) {
      const made = { name: this.fibers.size + 1, isQueued: false, budget: this.budget() }
      this.fibers.set(fiber, made)
      this.record(() => `fiber ${made.name} begins`, 1, made.name)
      return false
    }
    if (fiber.currentOpCount === 1) {
      state.isQueued = !state.isQueued
      if (state.isQueued) {
        this.record(() => `fiber ${state.name} is woken`, 2, state.name)
        return true
      }
      this.record(() => `fiber ${state.name} goes on`, 3, state.name)
      state.budget = this.budget()
      return false
    }
    if (state.budget === 0 || fiber.currentOpCount < state.budget) return false
    this.record(() => `fiber ${state.name} is held up`, 4, state.name)
    state.isQueued = true
    return true
  }

  private budget(): number {
    const { eagerness, random } = this
    // With fewer than three a fiber would do nothing but yield.
    const draw = () => (random.nextDoubleUnsafe() < eagerness ? 1 + random.below(24) : 0)
    const decision = this.decide(draw, 25)
    return decision === 0 ? 0 : decision + 2
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return {
      scheduleTask: (task) => void this.tasks.push(task),
      flush: () => {
        while (this.tasks.length > 0) this.tasks.shift()!()
      }
    }
  }

  /** Runs one task, or lets time pass until there is one; false when nothing will ever happen again. */
  step(): boolean {
    const { tasks } = this
    if (tasks.length === 0) return this.pass()
    const count = tasks.length
    const chosen = count === 1 ? 0 : this.decide(() => this.random.below(count), count)
    if (chosen > 0) this.record(() => `task ${chosen + 1} of ${count} is next`, 5, chosen)
    const [task] = tasks.splice(chosen, 1)
    task()
    return true
  }

  private pass(): boolean {
    const next = this.sleeps[0]
    if (next === undefined) return false
    this.now = next.at
    this.record(() => "time has passed", 6, Math.round(this.now * 1000))
    while (this.sleeps.length > 0 && this.sleeps[0].at <= this.now) this.sleeps.shift()!.resume()
    return true
  }

  private makeClock(): TestClock {
    const millis = () => Math.floor(this.now)
    const nanos = () => BigInt(Math.round(this.now * 1_000_000))
    const sleep = (duration: Duration.Duration): Effect.Effect<void> => {
      const length = Duration.toMillis(duration)
      if (!(length > 0)) return Effect.void
      if (length === Infinity) return Effect.never
      return Effect.callback<void>((resume) => {
        // In whole nanoseconds, or sums of many would be off by a bit that nobody can explain.
        const sleep = { at: Math.round((this.now + length) * 1_000_000) / 1_000_000, resume: () => resume(Exit.void) }
        const at = this.sleeps.findIndex((other) => other.at > sleep.at)
        this.sleeps.splice(at < 0 ? this.sleeps.length : at, 0, sleep)
        return Effect.sync(() => {
          const at = this.sleeps.indexOf(sleep)
          if (at >= 0) this.sleeps.splice(at, 1)
        })
      })
    }
    return {
      currentTimeMillisUnsafe: millis,
      currentTimeNanosUnsafe: nanos,
      monotonicTimeNanosUnsafe: nanos,
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanos: Effect.sync(nanos),
      sleep,
      // Time passes by itself, as soon as nobody has anything else to do.
      adjust: (duration) => sleep(Duration.fromInputUnsafe(duration)),
      setTime: (timestamp) => Effect.suspend(() => sleep(Duration.millis(timestamp - this.now))),
      withLive: (effect) => effect
    }
  }

  /** Fibers that have begun and not ended. */
  get unfinished(): number {
    let count = 0
    for (const fiber of this.fibers.keys()) if (fiber.pollUnsafe() === undefined) count++
    return count
  }
}

/** What is printed is part of the history, and printing would be foreign. */
const consoleOf = (world: World): Console.Console => {
  const write =
    (method: string) =>
    (...args: ReadonlyArray<unknown>) =>
      world.say(`console.${method}: ${args.map((arg) => (typeof arg === "string" ? arg : show(arg))).join(" ")}`)
  return new Proxy({} as Console.Console, { get: (_, method) => write(String(method)) })
}

const show = (value: unknown): string => {
  try {
    return value instanceof Error ? String(value) : (JSON.stringify(value) ?? String(value))
  } catch {
    return String(value)
  }
}

/** Runs a program, from its beginning to its end. */
export const execute = <A, E>(program: Effect.Effect<A, E>, options: Options): Outcome<A, E> => {
  const world = new World(options)
  const random = Prng.of(options.seed, "random")
  let problem: Problem | undefined
  const foreign = watchForeign({ now: () => world.now, random: () => random.nextDoubleUnsafe() })
  let fiber: Fiber.Fiber<A, E>
  let steps = 0
  try {
    fiber = Effect.runFork(
      program.pipe(
        Effect.provideService(Clock.Clock, world.clock),
        Effect.provideService(Random.Random, random),
        Effect.provideService(Seed, options.seed),
        Effect.provideService(Recorder, (line) => world.say(line)),
        Effect.provideService(Console.Console, consoleOf(world))
      ),
      { scheduler: world }
    )
    const isDone = () => fiber.pollUnsafe() !== undefined
    while (!isDone() && problem === undefined) {
      const hasMore = world.step()
      if (foreign.found !== undefined) problem = { _tag: "Foreign", ...foreign.found }
      else if (!hasMore) problem = { _tag: "Stuck", fibers: world.unfinished }
      else if (++steps > options.maxSteps) problem = { _tag: "Endless", steps: options.maxSteps }
    }
    if (problem === undefined && foreign.found !== undefined) problem = { _tag: "Foreign", ...foreign.found }
    // Who was interrupted in the end may still have something to do, but nobody waits for time to pass.
    for (let left = options.maxSteps; left > 0 && world.tasks.length > 0; left--) world.step()
    if (problem === undefined && world.unfinished > 0) {
      problem = { _tag: "LeftOver", fibers: world.unfinished, sleeps: world.sleeps.length }
    }
    if (problem !== undefined) {
      // So that nothing of this run is left for the next.
      for (const left of world.fibers.keys()) left.interruptUnsafe()
      for (let left = options.maxSteps; left > 0 && world.tasks.length + world.sleeps.length > 0; left--) world.step()
    }
  } finally {
    foreign.stop()
  }
  const { decisions, fingerprint, history } = world
  return {
    exit: problem === undefined ? fiber.pollUnsafe() : undefined,
    problem,
    decisions,
    steps,
    fingerprint,
    history
  }
}
