/**
 * Finds what a simulation has no power over: timers, promises and handles that
 * belong to the platform. Everything that is started while a run is under way is
 * started by the program, because a run is one call.
 */

interface AsyncHook {
  readonly enable: () => void
  readonly disable: () => void
}

interface Builtins {
  readonly process?: {
    readonly getBuiltinModule?: (name: string) =>
      | {
          readonly createHook: (callbacks: {
            readonly init: (id: number, type: string, trigger: number) => void
          }) => AsyncHook
        }
      | undefined
  }
}

/** What is Effect's own, and bound to no platform. */
const OWN = new Set(["effect/Fiber"])

/** What people call it. */
const names: { readonly [type: string]: string } = {
  PROMISE: "a promise",
  Timeout: "a timer (setTimeout or setInterval)",
  Immediate: "an immediate (setImmediate)",
  Microtask: "a microtask (queueMicrotask)",
  TickObject: "a tick (process.nextTick)"
}

export interface Found {
  readonly what: string
  readonly where: string
}

export interface Watch {
  /** The first one. */
  readonly found: Found | undefined
  readonly stop: () => void
}

/** The place where something was started, outside of libraries if there is one. */
const place = (): string => {
  const lines = (new Error().stack ?? "").split("\n").slice(1)
  const outside = lines.filter((line) => !/node:|<anonymous>\)$|[/\\]internal[/\\](Foreign|Run)\./.test(line))
  const user = outside.find((line) => !/node_modules|[/\\]testing[/\\](src|dist)[/\\]Simulation\./.test(line))
  return (user ?? outside[0] ?? "an unknown place").trim().replace(/^at /, "")
}

/**
 * Begins to watch. Meanwhile `Date.now`, `performance.now` and `Math.random` are
 * those of the simulation.
 */
export const watchForeign = (own: { readonly now: () => number; readonly random: () => number }): Watch => {
  let found: Found | undefined
  const hooks = (globalThis as Builtins).process?.getBuiltinModule?.("node:async_hooks")
  const hook = hooks?.createHook({
    init(_, type) {
      if (found !== undefined || OWN.has(type)) return
      found = { what: names[type] ?? type, where: place() }
    }
  })
  const { performance } = globalThis as unknown as { readonly performance: { now: () => number } }
  const before = { random: Math.random, dateNow: Date.now, performanceNow: performance.now }
  Math.random = own.random
  Date.now = () => Math.floor(own.now())
  performance.now = own.now
  hook?.enable()
  return {
    get found() {
      return found
    },
    stop() {
      hook?.disable()
      Math.random = before.random
      Date.now = before.dateNow
      performance.now = before.performanceNow
    }
  }
}
