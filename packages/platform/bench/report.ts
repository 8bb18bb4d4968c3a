/**
 * What the benchmark prints: a table, or one object.
 */
import { align } from "../../core/src/internal/Table.ts"
import { cpus } from "node:os"
import { goalOf } from "./goals.ts"
import type { Result, Unit } from "./model.ts"

/** As many digits as mean something. */
export const digits = (value: number): string =>
  value.toFixed(value === 0 || value >= 100 ? 0 : value >= 10 ? 1 : value >= 0.1 ? 2 : 3)

export const figure = (value: number, unit: Unit): string => `${digits(value)} ${unit}`

export const times = (ratio: number): string => `${digits(ratio)}x`

const exactly = ({ max, median, min }: Result["ratio"]): string => `${times(median)} [${digits(min)} to ${digits(max)}]`

const cpu = ({ ours, theirs }: Result): string =>
  ours.cpuMicros === undefined || theirs.cpuMicros === undefined
    ? ""
    : `${digits(ours.cpuMicros)} / ${digits(theirs.cpuMicros)} us`

/** At least so much, and whether it is that. */
const goal = ({ name, peer, ratio }: Result): string => {
  const goal = goalOf(name, peer)
  if (goal === undefined) return ""
  return `${goal.least} ${ratio.median >= goal.least ? "yes" : "NO"}`
}

/** The head and the rows of the table, for people at a terminal and for the page. */
export const table = (results: ReadonlyArray<Result>): ReadonlyArray<ReadonlyArray<string>> => [
  ["case", "peer", "goal", "ratio, median [min to max]", "ours", "peer's", "CPU, ours / peer's", "for each"],
  ...results.map((result) => [
    result.name,
    result.peer,
    goal(result),
    exactly(result.ratio),
    figure(result.ours.median, result.unit),
    figure(result.theirs.median, result.unit),
    cpu(result),
    result.operation
  ])
]

export const text = (results: ReadonlyArray<Result>): string => align(table(results))

export const json = (results: ReadonlyArray<Result>): string =>
  JSON.stringify({
    node: process.version,
    cpus: cpus().length,
    cases: results.map(({ name, ours, peer, ratio, theirs, unit }) => ({
      name,
      peer,
      ratio,
      ours: { median: ours.median, unit },
      theirs: { median: theirs.median, unit }
    }))
  })
