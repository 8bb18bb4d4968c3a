/**
 * What a benchmark is made of: cases, the ways in which each does its work, and what comes out of a leg of one of them.
 */
import { Effect, type Scope } from "effect"

/** What a figure counts. Of bytes a second more is better, of all others less. */
export type Unit = "GB/s" | "us" | "ms" | "B"

export const isMoreBetter = (unit: Unit): boolean => unit === "GB/s"

/** Something that a case finds out about each of its ways. */
export interface Row {
  readonly name: string
  readonly unit: Unit
}

/** What one leg has found out. */
export interface Sample {
  /** In the order of the case's rows. */
  readonly values: ReadonlyArray<number>
  /** Of both ends together, in microseconds for each operation. Undefined where nothing is timed. */
  readonly cpuMicros: number | undefined
  /** How long it took: legs are made as long as the plan wants them. */
  readonly wallMillis: number
}

/** Does so many operations one way. When verified, every byte is looked at, else enough of them to notice a mistake. */
export type Leg = (operations: number, isVerified: boolean) => Promise<Sample>

/** Ours is called `ours`. */
export type Legs = { readonly [way: string]: Leg }

export interface Case {
  /** The first row's name is what the case is called. */
  readonly rows: readonly [Row, ...Array<Row>]
  /** What ours is compared with. */
  readonly peers: ReadonlyArray<string>
  /** What an operation is, for the column of CPU time. */
  readonly operation: string
  /** Fewest and most operations of a leg. */
  readonly least: number
  readonly most: number
  /** Whether a leg costs so much that there are few of them and none to warm up. */
  readonly isDear?: boolean
  /** Makes these ways, `ours` among them, until the scope closes. */
  readonly open: (ways: ReadonlyArray<string>) => Effect.Effect<Legs, unknown, Scope.Scope>
}

/** A row of a case beside one of its peers. */
export interface Result {
  readonly name: string
  readonly peer: string
  readonly unit: Unit
  readonly operation: string
  /** How many times better ours is, from pair to pair. */
  readonly ratio: {
    readonly median: number
    readonly min: number
    readonly max: number
    readonly pairs: number
  }
  readonly ours: Figure
  readonly theirs: Figure
}

export interface Figure {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly cpuMicros: number | undefined
}

export const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]

/** The value that so large a fraction of them does not exceed. */
export const quantile = (values: Float64Array, fraction: number): number =>
  values.toSorted()[Math.floor((values.length - 1) * fraction)]

/** A moment: of the wall, and of the CPU time of all threads of this process. */
export interface Moment {
  readonly nanos: bigint
  readonly cpuMicros: number
}

export const moment = (): Moment => {
  const { system, user } = process.cpuUsage()
  return { nanos: process.hrtime.bigint(), cpuMicros: user + system }
}

/** The sample of a leg from one moment to another, whose values follow from its nanoseconds. */
export const sampleOf = (
  from: Moment,
  to: Moment,
  operations: number,
  valuesOf: (nanos: number) => ReadonlyArray<number>
): Sample => {
  const nanos = Number(to.nanos - from.nanos)
  return {
    values: valuesOf(nanos),
    cpuMicros: (to.cpuMicros - from.cpuMicros) / operations,
    wallMillis: nanos / 1e6
  }
}

/** A leg that this thread times from call to return; its value is the microseconds of an operation. */
export const perOperation =
  (leg: (operations: number, isVerified: boolean) => Promise<void>): Leg =>
  async (operations, isVerified) => {
    const from = moment()
    await leg(operations, isVerified)
    return sampleOf(from, moment(), operations, (nanos) => [nanos / operations / 1000])
  }

/** The case whose way `ours` is another of its ways: with a fiber at each end. */
export const withFibers = (of: Case, peers: ReadonlyArray<string>): Case => ({
  ...of,
  rows: of.rows.map(({ name, unit }) => ({ name: `${name}-effect`, unit })) as unknown as Case["rows"],
  peers,
  open: (ways) =>
    Effect.map(of.open(["effects", ...ways.filter((way) => way !== "ours")]), ({ effects, ...legs }) => ({
      ...legs,
      ours: effects
    }))
})
