/**
 * What the program prints at the end.
 */
import type { AtRest, Result } from "./Measure.ts"

export interface Report {
  readonly file: string
  readonly bytes: number
  readonly placements: ReadonlyArray<Result>
  readonly atRest: AtRest
}

/** Whether every byte came back, and nothing is left. */
export const isFine = ({ atRest, placements }: Report): boolean => placements.every(({ ok }) => ok) && isNothing(atRest)

export const isNothing = (atRest: AtRest): boolean => Object.values(atRest).every((count) => count === 0)

/** One row for each placement, then what is left. */
export const format = ({ atRest, bytes, placements }: Report): string => {
  const tcp = placements.find(({ path }) => path === "tcp")
  const rows = placements.map(({ gigabytesPerSecond, ok, path, seconds }) => [
    path,
    bytes.toLocaleString("en-US"),
    seconds.toFixed(4),
    gigabytesPerSecond.toFixed(2),
    tcp === undefined || seconds === 0 ? "-" : `${(tcp.seconds / seconds).toFixed(1)}x`,
    ok ? "equal" : "DIFFERENT"
  ])
  const table = align([["way", "bytes", "seconds", "GB/s", "to TCP", "SHA-256"], ...rows])
  return `${table}\n\nleft at rest: ${formatAtRest(atRest)}`
}

/** `0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes` */
export const formatAtRest = ({ fifoBytes, halfOpens, segments, sessions }: AtRest): string =>
  `${sessions} sessions, ${halfOpens} half-opens, ${segments} segments, ${fifoBytes} FIFO bytes`

/** The first and the last column to the left, the numbers between them to the right. */
const align = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const last = rows[0].length - 1
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  const pad = (cell: string, column: number) =>
    column === last ? cell : column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])
  return rows.map((row) => row.map(pad).join("  ")).join("\n")
}
