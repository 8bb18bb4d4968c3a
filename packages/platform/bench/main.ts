/**
 * `npm run bench -- [--json] [--only NAME] [--quick] [--write]`: measures cases beside their peers.
 *
 * `--only` takes the name of a case, the beginning of several, or `case:peer`, and may be given more than once. `--quick`
 * takes a short look at each. Run in full, or with `--write`, the results go to `BENCHMARKS.md`.
 */
import { fork } from "node:child_process"
import { enableCompileCache } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import type { News, Task } from "./case.ts"
import { all } from "./cases.ts"
import type { Result } from "./model.ts"
import { BLINK, FULL, QUICK } from "./pairing.ts"
import { json, text } from "./report.ts"

/** What is loaded by a process and two threads for each case need not be compiled each time. */
const CACHE = join(tmpdir(), "cut-through-compile-cache")
enableCompileCache(CACHE)

/** Some rows of a case, against some of its peers. */
interface Job {
  readonly task: Omit<Task, "plan">
  readonly isWanted: (result: Result) => boolean
}

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    only: { type: "string", multiple: true, default: [] },
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false }
  }
})

const jobsOf = async (only: ReadonlyArray<string>): Promise<ReadonlyArray<Job>> => {
  const cases = await all()
  const names = cases.flatMap(({ rows }) => rows.map(({ name }) => name))
  const wanted = only.map((pattern) => {
    const [name, peer] = pattern.split(":")
    // A whole name means that case, even where others begin with it.
    const matches = (other: string) => (names.includes(name) ? other === name : other.startsWith(name))
    return { pattern, matches: (of: string, by: string) => matches(of) && (peer === undefined || by === peer) }
  })
  const isWanted = (name: string, peer: string) =>
    wanted.length === 0 || wanted.some(({ matches }) => matches(name, peer))
  for (const { matches, pattern } of wanted) {
    if (cases.some(({ peers, rows }) => rows.some(({ name }) => peers.some((peer) => matches(name, peer))))) continue
    console.error(`There is no case ${pattern}. There are:\n${names.join("\n")}`)
    process.exit(2)
  }
  return cases.flatMap(({ group, peers, rows }) => {
    const some = peers.filter((peer) => rows.some(({ name }) => isWanted(name, peer)))
    if (some.length === 0) return []
    return [
      {
        task: { group, name: rows[0].name, peers: some },
        isWanted: ({ name, peer }: Result) => isWanted(name, peer)
      }
    ]
  })
}

/** On a terminal, one line that changes; elsewhere, a line for each case. */
const progress = (() => {
  const { stderr } = process
  const isTerminal = stderr.isTTY === true
  return {
    show: (line: string) => {
      if (isTerminal) stderr.write(`\r\u001b[K${line.slice(0, (stderr.columns ?? 80) - 1)}`)
    },
    done: (line: string) => void stderr.write(isTerminal ? `\r\u001b[K${line}\n` : `${line}\n`)
  }
})()

/** No case takes so long, unless one end waits for another for ever. */
const MOST_MILLIS = 20 * 60_000

const run = (task: Task, onProgress: (what: string) => void): Promise<ReadonlyArray<Result>> =>
  new Promise((resolve, reject) => {
    const child = fork(join(import.meta.dirname, "case.ts"), {
      execArgv: process.execArgv,
      env: { ...process.env, NODE_COMPILE_CACHE: CACHE },
      // What it logs is nothing of the results.
      stdio: ["ignore", process.stderr.fd, process.stderr.fd, "ipc"]
    })
    const late = setTimeout(() => {
      child.kill("SIGKILL")
      reject(new Error(`it has not ended within ${MOST_MILLIS / 60_000} minutes`))
    }, MOST_MILLIS)
    child.on("message", (news: News) => {
      if (news.kind === "progress") onProgress(news.what)
      else if (news.kind === "measured") resolve(news.results)
      else reject(new Error(news.message))
    })
    child.on("exit", (code, signal) => {
      clearTimeout(late)
      reject(new Error(`its process has ended with ${signal ?? code}`))
    })
    child.send(task)
  })

/** `--quick` ends within two minutes, on a slow or busy machine too. */
const QUICK_MILLIS = 100_000
/** What a glance at a case takes on a machine that is neither, and what it takes in full beside all its peers. */
const GLANCE_MILLIS = 2500
const FULL_MILLIS = 30_000

const planFor = (jobsLeft: number) => {
  if (!options.quick) return FULL
  const millis = (QUICK_MILLIS - performance.now()) / jobsLeft
  return millis > FULL_MILLIS ? FULL : millis > GLANCE_MILLIS ? QUICK : BLINK
}

const jobs = await jobsOf(options.only)
const results: Array<Result> = []
for (const [at, job] of jobs.entries()) {
  const start = performance.now()
  const label = `[${at + 1}/${jobs.length}] ${job.task.name}`
  progress.show(label)
  try {
    const measured = await run({ ...job.task, plan: planFor(jobs.length - at) }, (what) =>
      progress.show(`${label}: ${what}`)
    )
    results.push(...measured.filter(job.isWanted))
    progress.done(`${label}: ${((performance.now() - start) / 1000).toFixed(1)} s`)
  } catch (error) {
    process.exitCode = 1
    progress.done(`${label}: FAILED\n${(error as Error).message}`)
  }
}

console.log(options.json ? json(results) : text(results))

const isFull = options.only.length === 0 && !options.quick
if ((isFull || options.write) && process.exitCode === undefined) {
  const { keep } = await import("./page.ts")
  keep(results, options.only.length === 0)
}
