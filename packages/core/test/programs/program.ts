/** Programs: which applications there are, and what is done in which order. */
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import type { HostOptions } from "./host.ts"

/** An application. Of limits, 0 is none; of everything else, the first choice is the plainest. */
export interface AppChoice {
  /** The thread it lives in, modulo what there is. */
  readonly place: number
  readonly workers: number
  readonly scope: number
  readonly isGuarded: number
  readonly sizes: number
  readonly pairs: number
  readonly lingers: number
  readonly isObserved: number
  readonly maxSessions: number
  readonly maxHalfOpens: number
  readonly maxPending: number
  readonly maxPairs: number
}

/** How often each operation comes, in the order in which programs shrink. */
const everything = {
  connect: 20,
  listen: 6,
  accept: 16,
  write: 12,
  read: 12,
  close: 7,
  reset: 4,
  end: 4,
  request: 6,
  "say yes": 6,
  "say no": 2,
  interrupt: 8,
  unlisten: 3,
  detach: 2,
  attach: 1,
  memory: 2,
  grant: 4,
  advance: 2,
  "add rule": 2,
  "remove rule": 1,
  "read events": 4,
  kill: 0,
  together: 0
}

export type OpName = keyof typeof everything

/** An operation, and what it is done with: the numbers are taken modulo what there is to choose from. */
export interface Op {
  readonly op: OpName
  readonly a: number
  readonly b: number
  readonly c: number
}

export interface Program {
  readonly host: HostOptions
  readonly apps: ReadonlyArray<AppChoice>
  readonly ops: ReadonlyArray<Op>
  /** Whether its applications detach with everything open. */
  readonly isAbrupt: boolean
}

/** 0 to `maximum`, each as often as the others: integers of a schema prefer both ends. */
const int = (maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Literals(Array.from({ length: maximum + 1 }, (_, value) => value)), {
    shrink: (value) => [...new Set([0, value >> 1, value - 1])].filter((smaller) => smaller >= 0 && smaller < value)
  })

/** One of these, each as often as the others; shrinks towards the first. */
const oneOf = <const A>(values: ReadonlyArray<A>): Arbitrary.Arbitrary<A> =>
  Arbitrary.map(int(values.length - 1), (index) => values[index])

/** One of these, and the first one a few times as often as each of the others. */
const mostly = <const A>(times: number, values: ReadonlyArray<A>): Arbitrary.Arbitrary<A> =>
  oneOf([...new Array<A>(times - 1).fill(values[0]), ...values])

const none: Arbitrary.Arbitrary<0> = Arbitrary.Constant(0)

const plainApp = {
  place: none,
  workers: mostly(2, [1, 2, 3]),
  scope: none,
  isGuarded: none,
  sizes: int(2),
  pairs: oneOf([1, 2, 3]),
  lingers: mostly(2, [0, 1]),
  isObserved: oneOf([0, 1]),
  maxSessions: none,
  maxHalfOpens: none,
  maxPending: none,
  maxPairs: none
}

const limitedApp = {
  ...plainApp,
  maxSessions: mostly(8, [0, 1, 2, 4]),
  maxHalfOpens: mostly(8, [0, 1, 2]),
  maxPending: mostly(8, [0, 1, 2, 6]),
  maxPairs: mostly(8, [0, 1, 3])
}

const scatteredApp = {
  ...plainApp,
  scope: mostly(6, [0, 1, 2]),
  isGuarded: mostly(6, [0, 1])
}

const host: Arbitrary.Arbitrary<HostOptions> = Arbitrary.all({
  wake: oneOf(["direct", "scheduler"]),
  yieldEvery: mostly(5, [0, 3, 4, 5, 7]),
  workers: oneOf([1, 2, 3])
})

const programs = (
  app: { readonly [K in keyof AppChoice]: Arbitrary.Arbitrary<AppChoice[K]> },
  often: Partial<typeof everything>
): Arbitrary.Arbitrary<Program> => {
  const weights = { ...everything, ...often }
  const names = (Object.keys(weights) as Array<OpName>).flatMap((name) => new Array<OpName>(weights[name]).fill(name))
  return Arbitrary.all({
    host,
    apps: Arbitrary.array(Arbitrary.all(app), { minLength: 1, maxLength: 3 }),
    ops: Arbitrary.array(Arbitrary.all({ op: oneOf(names), a: int(5), b: int(11), c: int(11) })),
    isAbrupt: oneOf([false, true])
  })
}

/** Kinds of programs, by what they do most. */
export const kinds: { readonly [kind: string]: Arbitrary.Arbitrary<Program> } = {
  queues: programs(plainApp, { connect: 30, accept: 30, request: 12, interrupt: 24, memory: 0, "add rule": 0 }),
  bytes: programs(plainApp, { write: 30, read: 30, end: 6, interrupt: 12, memory: 0, "add rule": 0, attach: 0 }),
  memory: programs(plainApp, {
    connect: 30,
    memory: 6,
    grant: 12,
    interrupt: 12,
    advance: 4,
    close: 12,
    "add rule": 0
  }),
  limits: programs(limitedApp, {
    connect: 30,
    request: 10,
    "say yes": 10,
    "say no": 4,
    "read events": 8,
    "add rule": 0
  }),
  routes: programs(scatteredApp, { connect: 30, listen: 14, unlisten: 7, "add rule": 6, "remove rule": 3, attach: 3 })
}

const elsewhere = { place: oneOf([1, 2, 0]) }

/** The same kinds, with applications in several threads. */
export const threadKinds: { readonly [kind: string]: Arbitrary.Arbitrary<Program> } = {
  queues: programs(
    { ...plainApp, ...elsewhere },
    { connect: 30, accept: 30, request: 12, interrupt: 24, memory: 0, "add rule": 0, kill: 1, together: 12 }
  ),
  bytes: programs(
    { ...plainApp, ...elsewhere },
    { write: 30, read: 30, end: 6, interrupt: 12, memory: 0, "add rule": 0, attach: 0, kill: 1, together: 12 }
  ),
  memory: programs(
    { ...plainApp, ...elsewhere },
    {
      connect: 30,
      memory: 6,
      grant: 12,
      interrupt: 12,
      advance: 4,
      close: 12,
      "add rule": 0,
      kill: 1,
      together: 12
    }
  ),
  limits: programs(
    { ...limitedApp, ...elsewhere },
    {
      connect: 30,
      request: 10,
      "say yes": 10,
      "say no": 4,
      "read events": 8,
      "add rule": 0,
      kill: 1,
      together: 12
    }
  ),
  routes: programs(
    { ...scatteredApp, ...elsewhere },
    {
      connect: 30,
      listen: 14,
      unlisten: 7,
      "add rule": 6,
      "remove rule": 3,
      attach: 3,
      kill: 1,
      together: 12
    }
  )
}

/** Written down: one application, its first choices but for those given, and these operations with the first of all. */
export const written = (app: Partial<AppChoice>, ops: ReadonlyArray<Partial<Op> & Pick<Op, "op">>): Program => ({
  host: { wake: "direct", yieldEvery: 0, workers: 1 },
  apps: [
    {
      place: 0,
      workers: 1,
      scope: 0,
      isGuarded: 0,
      sizes: 0,
      pairs: 1,
      lingers: 0,
      isObserved: 0,
      maxSessions: 0,
      maxHalfOpens: 0,
      maxPending: 0,
      maxPairs: 0,
      ...app
    }
  ],
  ops: ops.map((op) => ({ a: 0, b: 0, c: 0, ...op })),
  isAbrupt: false
})
