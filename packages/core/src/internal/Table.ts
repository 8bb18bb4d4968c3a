/**
 * Tables for people.
 *
 * @since 0.1.0
 */

/**
 * Rows under a header, in columns as wide as their widest cell; without rows,
 * `none`.
 *
 * @internal
 */
export const format = (
  header: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  none: string
): string => (rows.length === 0 ? none : align([header, ...rows]))

/**
 * Rows in columns as wide as their widest cell.
 *
 * @internal
 */
export const align = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths: Array<number> = []
  for (const row of rows) {
    for (const [column, { length }] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, length)
  }
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}
