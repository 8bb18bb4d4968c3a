/**
 * One run of a program in which nothing happens by chance: who goes on next, what
 * time it is and every random number follow from a seed, or from decisions that
 * were written down before. The run is over when this returns: there is nothing
 * asynchronous about it.
 */
import * as Console from "effect/Console"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import type { TestClock } from "effect/testing/TestClock"
import { type Found, foundForeign, owning } from "./Foreign.ts"
import { Prng } from "./Prng.ts"
import { Recorder } from "./Recorder.ts"
import { Seed } from "./Seed.ts"

/** What else than success or failure a run can come to. */
export type Problem =
  | { readonly _tag: "Stuck"; readonly fibers: number }
  | { readonly _tag: "Endless"; readonly steps: number }
  | ({ readonly _tag: "Foreign" } & Found)
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

interface Sleep {
  readonly at: number
  readonly resume: () => void
}

/** What a history is made of. The numbers are part of what fingerprints are made of. */
const BEGINS = 1
const WOKEN = 2
const GOES_ON = 3
const HELD_UP = 4
const CHOSEN = 5
const PASSED = 6

/** The scheduler, the clock, and what they write down. */
class World implements Scheduler.Scheduler {
  readonly executionMode = "async"
  readonly decisions: Array<number> = []
  readonly history: Array<string> = []
  readonly fibers: Map<AnyFiber, FiberState> = new Map()
  readonly tasks: Array<() => void> = []
  readonly sleeps: Array<Sleep> = []
  readonly random: Prng
  now = 0
  private hash = 0x811c9dc5
  private readonly schedule: Prng
  private readonly given: ReadonlyArray<number> | undefined
  private readonly isRecorded: boolean
  /** How often a fiber is made to yield somewhere: in some runs never, in some at every turn. */
  private readonly eagerness: number
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  // Most questions are about the fiber that the last one was about.
  private asked: AnyFiber | undefined
  private state: FiberState | undefined

  constructor({ decisions, isRecorded, seed }: Options) {
    this.random = Prng.of(seed, "random")
    this.schedule = Prng.of(seed, "schedule")
    this.eagerness = [0, 1, 2, 6][this.schedule.below(4)] / 6
    this.given = decisions
    this.isRecorded = isRecorded
    const { tasks } = this
    this.dispatcher = {
      scheduleTask: (task) => void tasks.push(task),
      flush: () => {
        while (tasks.length > 0) tasks.shift()!()
      }
    }
  }

  get fingerprint(): string {
    return (this.hash >>> 0).toString(16).padStart(8, "0")
  }

  private record(kind: number, fact: number): void {
    this.mix(kind)
    this.mix(fact)
    if (this.isRecorded) this.history.push(`${this.now} ms: ${this.describe(kind, fact)}`)
  }

  private describe(kind: number, fact: number): string {
    switch (kind) {
      case BEGINS:
        return `fiber ${fact} begins`
      case WOKEN:
        return `fiber ${fact} is woken`
      case GOES_ON:
        return `fiber ${fact} goes on`
      case HELD_UP:
        return `fiber ${fact} is held up`
      case CHOSEN:
        return `task ${fact + 1} of ${this.tasks.length} is next`
      default:
        return "time has passed"
    }
  }

  /** What somebody else has to say, who is part of the history, too. */
  say(line: string): void {
    for (let i = 0; i < line.length; i++) this.mix(line.charCodeAt(i))
    if (this.isRecorded) this.history.push(`${this.now} ms: ${line}`)
  }

  private mix(fact: number): void {
    this.hash = Math.imul(this.hash ^ fact, 0x01000193) ^ (this.hash >>> 15)
  }

  /** A decision among `limit` possibilities: the one drawn, or that which was written down. */
  private decide(drawn: number, limit: number): number {
    const { decisions, given } = this
    const decision = given === undefined ? drawn : Math.min(given[decisions.length] ?? 0, limit - 1)
    decisions.push(decision)
    return decision
  }

  // A fiber that is woken on somebody's stack waits for its turn like everybody else; one that has had its turn goes on,
  // and one that begins does so, because whoever starts it may count on that.
  shouldYield(fiber: AnyFiber): boolean {
    if (fiber !== this.asked) {
      this.asked = fiber
      this.state = this.fibers.get(fiber)
    }
    const { state } = this
    if (state === undefined) {
      const name = this.fibers.size + 1
      this.state = { name, isQueued: false, budget: this.budget() }
      this.fibers.set(fiber, this.state)
      this.record(BEGINS, name)
      return false
    }
    const { currentOpCount } = fiber
    if (currentOpCount === 1) {
      state.isQueued = !state.isQueued
      if (state.isQueued) {
        this.record(WOKEN, state.name)
        return true
      }
      this.record(GOES_ON, state.name)
      state.budget = this.budget()
      return false
    }
    if (state.budget === 0 || currentOpCount < state.budget) return false
    this.record(HELD_UP, state.name)
    state.isQueued = true
    return true
  }

  private budget(): number {
    const { eagerness, schedule } = this
    // With fewer than three a fiber would do nothing but yield.
    const decision = this.decide(schedule.nextDoubleUnsafe() < eagerness ? 1 + schedule.below(24) : 0, 25)
    return decision === 0 ? 0 : decision + 2
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.dispatcher
  }

  /** Runs one task, or lets time pass until there is one; false when nothing will ever happen again. */
  step(): boolean {
    const { tasks } = this
    const count = tasks.length
    if (count === 0) return this.pass()
    const chosen = count === 1 ? 0 : this.decide(this.schedule.below(count), count)
    if (chosen > 0) this.record(CHOSEN, chosen)
    const task = tasks[chosen]
    if (chosen === 0) tasks.shift()
    else tasks.splice(chosen, 1)
    task()
    return true
  }

  private pass(): boolean {
    const { sleeps } = this
    if (sleeps.length === 0) return false
    this.now = sleeps[0].at
    this.record(PASSED, Math.round(this.now * 1000))
    while (sleeps.length > 0 && sleeps[0].at <= this.now) sleeps.shift()!.resume()
    return true
  }

  /** Lets go of all that belongs to the run, whoever still holds on to the world. */
  forget(): void {
    this.fibers.clear()
    this.tasks.length = 0
    this.sleeps.length = 0
    this.asked = undefined
    this.state = undefined
  }

  /** Fibers that have begun and not ended. */
  get unfinished(): number {
    let count = 0
    for (const fiber of this.fibers.keys()) if (fiber.pollUnsafe() === undefined) count++
    return count
  }
}

/** The time of a world. It passes by itself, as soon as nobody has anything else to do. */
class WorldClock implements TestClock {
  private readonly world: World

  constructor(world: World) {
    this.world = world
  }

  currentTimeMillisUnsafe(): number {
    return Math.floor(this.world.now)
  }

  currentTimeNanosUnsafe(): bigint {
    return BigInt(Math.round(this.world.now * 1_000_000))
  }

  monotonicTimeNanosUnsafe(): bigint {
    return this.currentTimeNanosUnsafe()
  }

  get currentTimeMillis(): Effect.Effect<number> {
    return Effect.sync(() => this.currentTimeMillisUnsafe())
  }

  get currentTimeNanos(): Effect.Effect<bigint> {
    return Effect.sync(() => this.currentTimeNanosUnsafe())
  }

  get monotonicTimeNanos(): Effect.Effect<bigint> {
    return this.currentTimeNanos
  }

  sleep(duration: Duration.Duration): Effect.Effect<void> {
    const length = Duration.toMillis(duration)
    if (!(length > 0)) return Effect.void
    if (length === Infinity) return Effect.never
    const { sleeps } = this.world
    return Effect.callback<void>((resume) => {
      // In whole nanoseconds, or sums of many would be off by a bit that nobody can explain.
      const at = Math.round((this.world.now + length) * 1_000_000) / 1_000_000
      const sleep: Sleep = { at, resume: () => resume(Exit.void) }
      const before = sleeps.findIndex((other) => other.at > at)
      sleeps.splice(before < 0 ? sleeps.length : before, 0, sleep)
      return Effect.sync(() => {
        const at = sleeps.indexOf(sleep)
        if (at >= 0) sleeps.splice(at, 1)
      })
    })
  }

  adjust(duration: Duration.Input): Effect.Effect<void> {
    return this.sleep(Duration.fromInputUnsafe(duration))
  }

  setTime(timestamp: number): Effect.Effect<void> {
    return Effect.suspend(() => this.sleep(Duration.millis(timestamp - this.world.now)))
  }

  withLive<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return effect
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

const servicesOf = (world: World, seed: number): Context.Context<never> =>
  Context.makeUnsafe(
    new Map<string, unknown>([
      [Scheduler.Scheduler.key, world],
      [Clock.Clock.key, new WorldClock(world)],
      [Random.Random.key, world.random],
      [Seed.key, seed],
      [Recorder.key, (line: string) => world.say(line)],
      [Console.Console.key, consoleOf(world)]
    ])
  )

/** Runs a program, from its beginning to its end. To be called within `watching`. */
export const execute = <A, E>(program: Effect.Effect<A, E>, options: Options): Outcome<A, E> => {
  const world = new World(options)
  let problem: Problem | undefined
  let exit: Exit.Exit<A, E> | undefined
  let steps = 0
  const run = () => {
    const fiber = Effect.runForkWith(servicesOf(world, options.seed))(program)
    while (fiber.pollUnsafe() === undefined && problem === undefined) {
      const hasMore = world.step()
      const found = foundForeign()
      if (found !== undefined) problem = { _tag: "Foreign", ...found }
      else if (!hasMore) problem = { _tag: "Stuck", fibers: world.unfinished }
      else if (++steps > options.maxSteps) problem = { _tag: "Endless", steps: options.maxSteps }
    }
    // Who was interrupted in the end may still have something to do, but nobody waits for time to pass.
    for (let left = options.maxSteps; left > 0 && world.tasks.length > 0; left--) world.step()
    const found = foundForeign()
    if (problem === undefined && found !== undefined) problem = { _tag: "Foreign", ...found }
    if (problem === undefined && world.unfinished > 0) {
      problem = { _tag: "LeftOver", fibers: world.unfinished, sleeps: world.sleeps.length }
    }
    if (problem === undefined) exit = fiber.pollUnsafe()
    else {
      // So that nothing of this run is left for the next.
      for (const left of world.fibers.keys()) left.interruptUnsafe()
      for (let left = options.maxSteps; left > 0 && world.tasks.length + world.sleeps.length > 0; left--) world.step()
    }
  }
  // Errors are values here, and most of them expected. Where they come from matters to those who look at a run.
  const { stackTraceLimit } = Error
  if (!options.isRecorded) Error.stackTraceLimit = 0
  try {
    owning(world, run)
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
  world.forget()
  const { decisions, fingerprint, history } = world
  return { exit, problem, decisions, steps, fingerprint, history }
}
