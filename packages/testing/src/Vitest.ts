/**
 * `it.sim`, for Vitest and for whatever else has an `it`.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Faults from "./Faults.ts"
import * as Simulation from "./Simulation.ts"

/**
 * What a test runner has: Vitest's `it`, that of `@effect/vitest`, that of
 * `node:test`.
 *
 * @category models
 * @since 0.1.0
 */
export type It = (name: string, test: () => Promise<void>) => unknown

/**
 * What {@link extend} adds to an `it`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Methods {
  /**
   * A test that runs a program once for each seed, with `Simulation.run`, and
   * fails with the first seed under which that fails. The whole history of that
   * one goes to a file in the directory for temporary files, which the error
   * names. With `CUT_THROUGH_SEED` in the environment only that seed is run.
   */
  readonly sim: <A, E>(
    name: string,
    options: Simulation.Options,
    program: Effect.Effect<A, E, Scope.Scope | Faults.Faults>
  ) => void
}

interface Platform {
  readonly process?: {
    readonly env: { readonly [name: string]: string | undefined }
    readonly getBuiltinModule?: (name: string) => unknown
  }
}

/** Where there are files. Returns how to find it. */
const keep = (name: string, { history, message, seed }: Simulation.SimulationError): string => {
  const { process } = globalThis as Platform
  const fs = process?.getBuiltinModule?.("node:fs") as
    | { readonly mkdtempSync: (prefix: string) => string; readonly writeFileSync: (path: string, text: string) => void }
    | undefined
  const os = process?.getBuiltinModule?.("node:os") as { readonly tmpdir: () => string } | undefined
  if (fs === undefined || os === undefined) return ""
  try {
    const file = `${fs.mkdtempSync(`${os.tmpdir()}/cut-through-sim-`)}/seed-${seed}.txt`
    fs.writeFileSync(file, `${name}\n${message}\n\n${history.join("\n")}\n`)
    return `\nthe whole history is in ${file}`
  } catch {
    return ""
  }
}

const seedOf = (options: Simulation.Options): Simulation.Options => {
  const given = (globalThis as Platform).process?.env["CUT_THROUGH_SEED"]
  return given === undefined || given === "" ? options : { ...options, seed: Number(given), runs: 1 }
}

/**
 * The same `it`, with `it.sim` beside whatever it has already.
 *
 * **Example** (A test that runs under a thousand seeds)
 *
 * ```ts
 * import { extend } from "@cut-through/testing/Vitest"
 * import { Deferred, Effect } from "effect"
 *
 * // In a test file: import { it as base } from "@effect/vitest"
 * const tests: Array<Promise<void>> = []
 * const base = (_name: string, test: () => Promise<void>) => void tests.push(test())
 * const it = extend(base)
 *
 * it.sim("whoever is woken finds the value", { runs: 1000 }, Effect.gen(function*() {
 *   const deferred = yield* Deferred.make<number>()
 *   yield* Effect.forkScoped(Deferred.succeed(deferred, 42))
 *   const value = yield* Deferred.await(deferred)
 *   if (value !== 42) return yield* Effect.fail(value)
 * }))
 *
 * await Promise.all(tests)
 * tests.length // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const extend = <I extends It>(it: I): I & Methods => {
  const sim: Methods["sim"] = (name, options, program) => {
    it(name, () =>
      Effect.runPromise(
        Simulation.run(program, seedOf(options)).pipe(
          Effect.asVoid,
          Effect.catch((error) =>
            Effect.suspend(() =>
              Effect.die(
                Object.assign(new Error(error.message + keep(name, error)), { name: "SimulationError", cause: error })
              )
            )
          )
        )
      )
    )
  }
  return new Proxy(it, {
    get: (target, key, receiver) => (key === "sim" ? sim : Reflect.get(target, key, receiver))
  }) as I & Methods
}
