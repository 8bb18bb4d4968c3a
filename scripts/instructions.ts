/**
 * `npm run instructions [-- --write]`: how many instructions the hot paths of `packages/core` execute, for each operation, beside
 * what they did when `scripts/instructions.json` was written. Fails when one takes 2% more, or less: then the file is to be
 * written anew, with `--write`. Nothing is timed, so a busy machine changes nothing.
 *
 * Counts are by Valgrind's callgrind, of V8 without threads and without chance. They are those of one version of Node.
 */
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { stripTypeScriptTypes } from "node:module"
import { tmpdir } from "node:os"
import { dirname, join, relative } from "node:path"
import { parseArgs } from "node:util"

const ROOT = join(import.meta.dirname, "..")
const BASELINE = join(import.meta.dirname, "instructions.json")
const PROGRAM = "packages/core/bench/counted.ts"
const TOLERANCE = 0.02
/** What the program calls at the beginning and the end of each count. */
const MARK = "uv_os_getpriority"
const PREDICTABLE = ["--single-threaded", "--predictable", "--hash-seed=1", "--random-seed=1"]

interface Baseline {
  readonly node: string
  readonly arch: string
  /** For each operation. */
  readonly instructions: { readonly [operation: string]: number }
}

// Stripping types is called experimental on some versions of Node; it is what they do by themselves.
process.removeAllListeners("warning")

const { values: options } = parseArgs({ options: { write: { type: "boolean", default: false } } })

/** Writes the program and all it imports as JavaScript: stripping types is not what is to be counted. */
const strip = (file: string, to: string, seen: Set<string>): void => {
  if (seen.has(file)) return
  seen.add(file)
  const source = stripTypeScriptTypes(readFileSync(join(ROOT, file), "utf8"))
  const imported = /(\bfrom\s+")(\.[^"]+)\.ts(")/g
  for (const [, , path] of source.matchAll(imported)) strip(join(dirname(file), `${path}.ts`), to, seen)
  const target = join(to, file.replace(/\.ts$/, ".js"))
  mkdirSync(dirname(target), { recursive: true })
  writeFileSync(target, source.replace(imported, "$1$2.js$3"))
}

/** Instructions by operation: each dump ends at a mark, and every other one is a count. */
const count = (folder: string): { readonly [operation: string]: number } => {
  strip(PROGRAM, folder, new Set())
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module" }))
  const dumps = join(folder, "callgrind.out")
  const { error, status, stderr, stdout } = spawnSync(
    "valgrind",
    [
      "--tool=callgrind",
      `--dump-before=${MARK}`,
      `--callgrind-out-file=${dumps}`,
      process.execPath,
      ...PREDICTABLE,
      join(folder, PROGRAM.replace(/\.ts$/, ".js"))
    ],
    // What it is told by the environment could change what it does.
    { encoding: "utf8", cwd: folder, env: { PATH: process.env.PATH } }
  )
  if (error !== undefined || status !== 0)
    throw new Error(`valgrind has failed (${status})\n${stderr}`, { cause: error })
  const totals = readdirSync(folder)
    .flatMap((name) => /^callgrind\.out\.(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .toSorted((a, b) => a - b)
    .map((part) => Number(/^(?:totals|summary): (\d+)/m.exec(readFileSync(`${dumps}.${part}`, "utf8"))![1]))
  const counted: { [operation: string]: number } = {}
  for (const [at, line] of stdout.trim().split("\n").entries()) {
    const [name, times] = line.split(" ")
    counted[name] = Math.round((totals[2 * at + 1] / Number(times)) * 10) / 10
  }
  return counted
}

const skip = (why: string): never => {
  console.log(`Instructions were not counted: ${why}`)
  process.exit()
}

if (spawnSync("valgrind", ["--version"]).error !== undefined) {
  skip("there is no valgrind here (Debian and Ubuntu: apt-get install valgrind; Fedora: dnf install valgrind).")
}

let baseline: Baseline | undefined
try {
  baseline = JSON.parse(readFileSync(BASELINE, "utf8"))
} catch (error) {
  if (!options.write)
    throw new Error(`${relative(ROOT, BASELINE)} cannot be read: write it with --write`, { cause: error })
}
if (!options.write && (baseline!.node !== process.version || baseline!.arch !== process.arch)) {
  skip(`what there is to compare with is of Node ${baseline!.node} on ${baseline!.arch}.`)
}

const folder = mkdtempSync(join(tmpdir(), "cut-through-instructions-"))
const counted = (() => {
  try {
    return count(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})()

if (options.write) {
  const written: Baseline = { node: process.version, arch: process.arch, instructions: counted }
  writeFileSync(BASELINE, `${JSON.stringify(written, null, 2)}\n`)
}

const before = options.write ? (baseline?.instructions ?? counted) : baseline!.instructions
let isChanged = Object.keys(before).some((name) => counted[name] === undefined)
for (const [name, now] of Object.entries(counted)) {
  const then = before[name]
  const change = then === undefined ? Infinity : now / then - 1
  const isMuch = Math.abs(change) > TOLERANCE
  isChanged ||= isMuch
  const difference = then === undefined ? "new" : `${change >= 0 ? "+" : ""}${(100 * change).toFixed(2)}%`
  console.log(`${name.padEnd(16)} ${now.toFixed(1).padStart(9)}  ${difference}${isMuch ? "  CHANGED" : ""}`)
}
if (isChanged && !options.write) {
  console.log(
    `More than ${100 * TOLERANCE}% more: a regression. Less: write it down with \`npm run instructions -- --write\`.`
  )
  process.exitCode = 1
}
