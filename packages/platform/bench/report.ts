/**
 * What the benchmarks measure, and how they print it.
 */
import * as os from "node:os"

/** Something of ours beside something of others, measured in turn. */
export interface Case {
  readonly name: string
  readonly peer: string
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
  /** Of round trips, the median of the slowest hundredth. */
  readonly p99?: number
  readonly unit: "us" | "GB/s"
}

export const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]

export const ratioOf = (values: ReadonlyArray<number>): Case["ratio"] => ({
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
  pairs: values.length
})

/** One object with `--json`, a table without. */
export const print = (cases: ReadonlyArray<Case>): void => {
  if (process.argv.includes("--json")) {
    console.log(JSON.stringify({ node: process.version, cpus: os.cpus().length, cases }))
    return
  }
  const figure = ({ median, p99, unit }: Figure) => {
    const digits = median < 10 ? 2 : 1
    return `${median.toFixed(digits)}${p99 === undefined ? "" : ` (p99 ${p99.toFixed(digits)})`} ${unit}`
  }
  const rows = cases.map(({ name, ours, peer, ratio, theirs }) => [
    name,
    peer,
    figure(ours),
    figure(theirs),
    `${ratio.median.toFixed(2)}x [${ratio.min.toFixed(2)} to ${ratio.max.toFixed(2)} in ${ratio.pairs} pairs]`
  ])
  const table = [["case", "peer", "ours", "theirs", "ratio"], ...rows]
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)))
  for (const row of table)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd()
    )
}
