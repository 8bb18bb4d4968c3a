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
  TickObject: "a tick (process.nextTick)",
  MESSAGEPORT: "a message port (MESSAGEPORT)",
  WORKER: "a thread (WORKER)",
  TCPSERVERWRAP: "a TCP server (TCPSERVERWRAP)",
  TCPWRAP: "a TCP socket (TCPWRAP)",
  PIPESERVERWRAP: "a server on a path (PIPESERVERWRAP)",
  PIPEWRAP: "a socket or pipe (PIPEWRAP)",
  UDPWRAP: "a UDP socket (UDPWRAP)",
  FSREQCALLBACK: "a file operation (FSREQCALLBACK)",
  GETADDRINFOREQWRAP: "a look-up of a name (GETADDRINFOREQWRAP)",
  PROCESSWRAP: "a process (PROCESSWRAP)",
  RANDOMBYTESREQUEST: "random bytes (RANDOMBYTESREQUEST)"
}

export interface Found {
  readonly what: string
  readonly where: string
}

/** What a run has instead of the platform's. */
export interface Own {
  /** Milliseconds. */
  readonly now: number
  readonly random: { readonly nextDoubleUnsafe: () => number }
}

// The place of what is found matters, however short stack traces are meanwhile.
const FRAMES = 50

/** The place where something was started, outside of libraries if there is one. */
const place = (): string => {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = FRAMES
  const { stack = "" } = new Error()
  Error.stackTraceLimit = stackTraceLimit
  const lines = stack.split("\n").slice(1)
  const outside = lines.filter((line) => !/node:|<anonymous>\)$|[/\\]internal[/\\](Foreign|Run)\./.test(line))
  const user = outside.find((line) => !/node_modules|[/\\]testing[/\\](src|dist)[/\\]Simulation\./.test(line))
  return (user ?? outside[0] ?? "an unknown place").trim().replace(/^at /, "")
}

const { performance } = globalThis as unknown as { readonly performance: { now: () => number } }

// One of each for all runs: V8 keeps a run in memory for long whose own closures the platform has held once.
let own: Own | undefined
let found: Found | undefined
const random = () => own!.random.nextDoubleUnsafe()
const now = () => own!.now
const dateNow = () => Math.floor(own!.now)

const hook = (globalThis as Builtins).process?.getBuiltinModule?.("node:async_hooks")?.createHook({
  init(_, type) {
    if (own === undefined || found !== undefined || OWN.has(type)) return
    found = { what: names[type] ?? type, where: place() }
  }
})

/** Watches, as long as a function runs, the runs that begin in it. */
export const watching = <A>(body: () => A): A => {
  hook?.enable()
  try {
    return body()
  } finally {
    hook?.disable()
  }
}

/**
 * What one run does: for as long as the function runs, `Date.now`,
 * `performance.now` and `Math.random` are those of the simulation.
 */
export const owning = (its: Own, body: () => void): void => {
  const before = { random: Math.random, dateNow: Date.now, performanceNow: performance.now }
  Math.random = random
  Date.now = dateNow
  performance.now = now
  own = its
  found = undefined
  try {
    body()
  } finally {
    own = undefined
    Math.random = before.random
    Date.now = before.dateNow
    performance.now = before.performanceNow
  }
}

/** The first that was found since the last run began. */
export const foundForeign = (): Found | undefined => found
