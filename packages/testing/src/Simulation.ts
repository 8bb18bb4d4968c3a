/**
 * Programs run under every order of events that a seed can think of, and again
 * exactly as before from the same seed.
 *
 * In a simulation the scheduler picks who goes on next, holds fibers up between
 * any two operations, and lets time pass when nobody has anything left to do;
 * `Random` and `Math.random` are seeded, the `Clock` and `Date.now` are the
 * simulation's, and faults happen by seed. One seed is one history, bit for bit,
 * on every version of Node and every machine, as long as all that a program
 * waits for comes from Effect: its scheduler, clock, queues and deferreds,
 * connections, `TestNetwork`. A timer, a promise or a handle of the platform is
 * something a simulation has no power over, and fails the run by its name.
 * (`new Date()`, `process.hrtime` and random bytes of the platform are not seen:
 * keep away from them.)
 *
 * What has failed is made small: faults that are not needed are left out, those
 * that are become short and early, and every decision of the scheduler is left
 * out without which it fails just the same.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Faults from "./Faults.ts"
import { watching } from "./internal/Foreign.ts"
import { Prng } from "./internal/Prng.ts"
import { Recorder } from "./internal/Recorder.ts"
import { execute, type Outcome, type Problem } from "./internal/Run.ts"

/**
 * A fault that may happen.
 *
 * @category models
 * @since 0.1.0
 */
export interface PossibleFault {
  readonly fault: Faults.Fault
  readonly target?: Faults.Target | undefined
}

/**
 * How to simulate.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The first seed. Default 0. */
  readonly seed?: number | undefined
  /** How many seeds, from the first one on. Default 100. */
  readonly runs?: number | undefined
  /** Faults that may happen, up to three in a run, each at a time and for a time that the seed decides. Default: none. */
  readonly faults?: ReadonlyArray<PossibleFault> | undefined
  /** The time in which faults begin and end. Default 10 seconds. */
  readonly horizon?: Duration.Input | undefined
  /** Steps of the scheduler after which a run is taken to be endless. Default 1,000,000. */
  readonly maxSteps?: number | undefined
  /** How often a failed run may be tried again to make it small. Default 500. */
  readonly maxShrinks?: number | undefined
}

/**
 * What has been simulated.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  /** Runs, all of which have succeeded. */
  readonly runs: number
  /** Steps of the scheduler, of all runs. */
  readonly steps: number
  /** Histories that were different from each other. */
  readonly histories: number
}

/**
 * A run that was done again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Replayed<A, E> {
  readonly seed: number
  /** What the program came to, unless the simulation had to end it. */
  readonly exit: Exit.Exit<A, E> | undefined
  /** Why the simulation had to end it. */
  readonly problem: string | undefined
  /** The faults that happened, and when. */
  readonly faults: ReadonlyArray<Faults.Step>
  /** The same for the same history, and hardly ever for two different ones. */
  readonly fingerprint: string
  /** Everything that has happened, in its order, with the times of the simulation's clock. */
  readonly history: ReadonlyArray<string>
}

/**
 * A seed under which a program fails, and how, made as small as it would get.
 *
 * @category errors
 * @since 0.1.0
 */
export class SimulationError extends Data.TaggedError("SimulationError")<{
  readonly seed: number
  /** What went wrong, in one line or more. */
  readonly why: string
  /** What the program failed with, unless the simulation had to end it. */
  readonly failure: Cause.Cause<unknown> | undefined
  /** The faults that it takes. */
  readonly faults: ReadonlyArray<Faults.Step>
  /** Decisions of the scheduler that it takes, of those there were: all others are to run what is oldest. */
  readonly decisions: { readonly needed: number; readonly of: number }
  /** The history of the small run. */
  readonly history: ReadonlyArray<string>
}> {
  override get message(): string {
    const { decisions, faults, history, seed, why } = this
    const last = history.slice(-40)
    const left = history.length - last.length
    return [
      `seed ${seed} fails: ${why}`,
      `to see it again: Simulation.replay(program, ${seed}), with the same options`,
      `it takes ${decisions.needed} of ${decisions.of} decisions of the scheduler, and ${formatFaults(faults)}`,
      ...(left > 0 ? [`  (${left} events before)`] : []),
      ...last.map((line) => `  ${line}`)
    ].join("\n")
  }
}

const formatFaults = (faults: ReadonlyArray<Faults.Step>): string =>
  faults.length === 0
    ? "no faults"
    : faults
        .map(({ at, fault, for: time, target }) => {
          const from = millisOf(at)
          return `${Faults.format(fault, target)} from ${from} ms to ${from + millisOf(time)} ms`
        })
        .join(" and ")

const millisOf = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))

const DEFAULT_STEPS = 1_000_000

/** How long runs follow on each other before others have their turn. */
const SLICE_MILLIS = 10

/** The faults of a seed. */
const planOf = (seed: number, { faults = [], horizon = "10 seconds" }: Options): ReadonlyArray<Faults.Step> => {
  if (faults.length === 0) return []
  const random = Prng.of(seed, "plan")
  const length = Math.max(1, Math.floor(millisOf(horizon)))
  return Array.from({ length: random.below(4) }, () => {
    const { fault, target } = faults[random.below(faults.length)]
    const at = random.below(length)
    return { at, for: 1 + random.below(length - at), fault, ...(target === undefined ? {} : { target }) }
  })
}

const withFaults = <A, E>(
  program: Effect.Effect<A, E, Scope.Scope | Faults.Faults>,
  plan: ReadonlyArray<Faults.Step>
): Effect.Effect<A, E> => {
  const scoped: Effect.Effect<A, E, Faults.Faults> =
    plan.length === 0
      ? Effect.scoped(program)
      : Effect.scoped(
          Effect.gen(function* () {
            const record = yield* Recorder
            record?.(`faults: ${formatFaults(plan)}`)
            yield* Effect.forkScoped(Effect.orDie(Faults.run(plan)), { startImmediately: true })
            return yield* program
          })
        )
  return Effect.flatMap(Faults.make(), (faults) => Effect.provideService(scoped, Faults.Faults, faults))
}

const explain = (problem: Problem): string => {
  switch (problem._tag) {
    case "Stuck":
      return `${problem.fibers} fibers wait, and nothing will ever happen again: no task, no timer, nobody from outside`
    case "Endless":
      return `it has not come to an end after ${problem.steps} steps: it goes round in a circle, or maxSteps is too low`
    case "Foreign":
      return `it has started ${problem.what}, which a simulation has no power over, at ${problem.where}: use Effect's own scheduler, Clock, Random and TestNetwork`
    case "LeftOver":
      return `${problem.fibers} fibers have not ended with the program: fork them in its scope, or interrupt them`
  }
}

/** Whether two runs have failed for the same reason: numbers do not matter. */
const kindOf = ({ exit, problem }: Outcome<unknown, unknown>): string | undefined => {
  if (problem !== undefined) return problem._tag === "Foreign" ? `Foreign ${problem.what}` : problem._tag
  if (exit === undefined || Exit.isSuccess(exit)) return undefined
  return whyOf(exit.cause).split("\n")[0].replace(/\d+/g, "#")
}

const whyOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  if (error instanceof Error) return `${error.name}: ${error.message}`
  if (typeof error !== "object" || error === null) return String(error)
  return "_tag" in error ? String(error._tag) : JSON.stringify(error)
}

interface Attempt<A, E> {
  readonly plan: ReadonlyArray<Faults.Step>
  readonly outcome: Outcome<A, E>
}

/** Leaves out what is not needed. */
const shrink = <A, E>(
  first: Attempt<A, E>,
  tries: number,
  attempt: (plan: ReadonlyArray<Faults.Step>, decisions?: ReadonlyArray<number>) => Attempt<A, E>
): Attempt<A, E> => {
  const kind = kindOf(first.outcome)
  let best = first
  let tried = 0
  const mayTry = () => tried < tries
  const isBetter = (plan: ReadonlyArray<Faults.Step>, decisions?: ReadonlyArray<number>): boolean => {
    if (!mayTry()) return false
    tried++
    const next = attempt(plan, decisions)
    if (kindOf(next.outcome) !== kind) return false
    best = next
    return true
  }
  for (let at = 0; at < best.plan.length;) {
    if (!isBetter(best.plan.filter((_, other) => other !== at))) at++
  }
  // Shorter and earlier, as long as that helps.
  for (let at = 0; at < best.plan.length; at++) {
    for (const key of ["for", "at"] as const) {
      const least = key === "for" ? 1 : 0
      while (millisOf(best.plan[at][key]) > least) {
        const half = Math.max(least, Math.floor(millisOf(best.plan[at][key]) / 2))
        if (!isBetter(best.plan.map((step, other) => (other === at ? { ...step, [key]: half } : step)))) break
      }
    }
  }
  // Half of the decisions, a quarter, and so on down to one by one, as long as that helps.
  let size = needed(best.outcome.decisions)
  while (size >= 1 && mayTry()) {
    let hasHelped = false
    for (let from = 0; from < needed(best.outcome.decisions) && mayTry();) {
      const { decisions } = best.outcome
      if (isBetter(best.plan, without(decisions, from, size))) hasHelped = true
      else from += size
    }
    if (size > 1) size = Math.ceil(size / 2)
    else if (!hasHelped) break
  }
  return best
}

const needed = (decisions: ReadonlyArray<number>): number =>
  decisions.reduce((sum, one) => sum + (one === 0 ? 0 : 1), 0)

/** The decisions with some of those that are not 0, counted from one of them on, made 0. */
const without = (decisions: ReadonlyArray<number>, from: number, count: number): ReadonlyArray<number> => {
  let seen = 0
  return decisions.map((decision) => {
    if (decision === 0) return 0
    const place = seen++
    return place >= from && place < from + count ? 0 : decision
  })
}

/**
 * Runs a program once for each seed, and fails with the first seed under which
 * it fails, or leaves fibers behind, or waits for ever. The program gets
 * `Faults`, which hit what it decorates with them (`TestNetwork` does so by
 * itself), and a scope.
 *
 * **Example** (A race that is lost once in a while)
 *
 * ```ts
 * import { Simulation } from "@cut-through/testing"
 * import { Effect, Ref } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const balance = yield* Ref.make(0)
 *   const deposit = Effect.gen(function*() {
 *     const before = yield* Ref.get(balance)
 *     yield* Effect.yieldNow
 *     yield* Ref.set(balance, before + 10)
 *   })
 *   yield* Effect.all([deposit, Effect.andThen(Effect.yieldNow, deposit)], { concurrency: 2 })
 *   const sum = yield* Ref.get(balance)
 *   return sum === 20 ? sum : yield* Effect.fail(`the balance is ${sum}`)
 * })
 *
 * const error = await Effect.runPromise(Effect.flip(Simulation.run(program, { runs: 1000 })))
 * error.why // => "the balance is 10"
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = <A, E>(
  program: Effect.Effect<A, E, Scope.Scope | Faults.Faults>,
  options: Options = {}
): Effect.Effect<Report, SimulationError> =>
  Effect.suspend(() => {
    const { runs = 100, seed: first = 0 } = options
    const histories = new Set<string>()
    const once = withFaults(program, [])
    let steps = 0
    let seed = first
    /** Many runs, or the first one that fails. */
    const go = (until: number): SimulationError | undefined => {
      do {
        const plan = planOf(seed, options)
        const { maxSteps = DEFAULT_STEPS } = options
        const attempted = plan.length === 0 ? once : withFaults(program, plan)
        const outcome = execute(attempted, { seed, isRecorded: false, maxSteps })
        if (kindOf(outcome) !== undefined) return explained(program, seed, options, { plan, outcome })
        histories.add(outcome.fingerprint)
        steps += outcome.steps
        seed++
      } while (seed < first + runs && Date.now() < until)
      return undefined
    }
    const next = (): Effect.Effect<Report, SimulationError> => {
      if (seed >= first + runs) return Effect.succeed({ runs, steps, histories: histories.size })
      const error = watching(() => go(Date.now() + SLICE_MILLIS))
      // Others have their turn in between.
      return error === undefined ? Effect.andThen(Effect.yieldNow, Effect.suspend(next)) : Effect.fail(error)
    }
    return next()
  })

/** How one has failed, made small. */
const explained = <A, E>(
  program: Effect.Effect<A, E, Scope.Scope | Faults.Faults>,
  seed: number,
  { maxShrinks = 500, maxSteps = DEFAULT_STEPS }: Options,
  once: Attempt<A, E>
): SimulationError => {
  const attempt = (
    plan: ReadonlyArray<Faults.Step>,
    decisions?: ReadonlyArray<number>,
    isRecorded = false
  ): Attempt<A, E> => ({
    plan,
    outcome: execute(withFaults(program, plan), { seed, decisions, isRecorded, maxSteps })
  })
  const small = shrink(once, maxShrinks, attempt)
  const { outcome, plan } = attempt(small.plan, small.outcome.decisions, true)
  const isSame = kindOf(outcome) === kindOf(once.outcome)
  const { exit, problem } = isSame ? outcome : once.outcome
  const failure = exit !== undefined && Exit.isFailure(exit) ? exit.cause : undefined
  const reason = problem !== undefined ? explain(problem) : failure === undefined ? "" : whyOf(failure)
  const why = isSame
    ? reason
    : `${reason}, but not a second time: it depends on something that outlives a run, or that no seed decides`
  const { history } = outcome
  const { decisions } = small.outcome
  const counts = { needed: needed(decisions), of: decisions.length }
  return new SimulationError({ seed, why, failure, faults: plan, decisions: counts, history })
}

/**
 * Does the run of one seed again, whatever it comes to, and writes down all that
 * happens. With the options of the {@link run} that has failed.
 *
 * **Example** (The same seed, the same history)
 *
 * ```ts
 * import { Simulation } from "@cut-through/testing"
 * import { Effect, Random } from "effect"
 *
 * const program = Effect.delay(Random.nextIntBetween(1, 6), "1 hour")
 * const [once, again] = await Effect.runPromise(
 *   Effect.all([Simulation.replay(program, 42), Simulation.replay(program, 42)])
 * )
 *
 * once.exit // => again.exit
 * once.history // => again.history
 * once.history.some((line) => line === "3600000 ms: time has passed") // => true
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const replay = <A, E>(
  program: Effect.Effect<A, E, Scope.Scope | Faults.Faults>,
  seed: number,
  options: Omit<Options, "seed" | "runs" | "maxShrinks"> = {}
): Effect.Effect<Replayed<A, E>> =>
  Effect.sync(() => {
    const faults = planOf(seed, options)
    const { maxSteps = DEFAULT_STEPS } = options
    const outcome = watching(() => execute(withFaults(program, faults), { seed, isRecorded: true, maxSteps }))
    const { exit, fingerprint, history, problem } = outcome
    return { seed, exit, problem: problem === undefined ? undefined : explain(problem), faults, fingerprint, history }
  })
