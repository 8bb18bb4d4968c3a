/**
 * Keeps the results of each version of Node, and writes `BENCHMARKS.md` and its charts from them.
 */
import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { arch, availableParallelism, cpus, platform, totalmem } from "node:os"
import { join, relative } from "node:path"
import { charts } from "./charts.ts"
import type { Result } from "./model.ts"
import { table } from "./report.ts"

const ROOT = join(import.meta.dirname, "../../..")
const RESULTS = join(import.meta.dirname, "results")
const CHARTS = join(import.meta.dirname, "charts")
const PAGE = join(ROOT, "BENCHMARKS.md")

interface Kept {
  readonly node: string
  readonly v8: string
  readonly effect: string
  readonly machine: string
  readonly results: ReadonlyArray<Result>
}

const machine = (): string => {
  const model = cpus()[0]?.model.trim() ?? arch()
  const memory = Math.round(totalmem() / 2 ** 30)
  return `${availableParallelism()} cores of ${model}, ${memory} GiB of memory, ${platform()} ${arch()}`
}

const versionOfEffect = (): string =>
  JSON.parse(readFileSync(join(ROOT, "node_modules/effect/package.json"), "utf8")).version

const section = (kept: Kept, pictures: ReadonlyArray<{ readonly title: string; readonly path: string }>): string => {
  const lines = [`## Node ${kept.node.slice(1)}`, ""]
  lines.push(`${kept.machine}. Node ${kept.node}, V8 ${kept.v8}, Effect ${kept.effect}.`, "")
  for (const { path, title } of pictures) lines.push(`![${title}](${path})`, "")
  const [head, ...rows] = table(kept.results)
  const line = (cells: ReadonlyArray<string>) => `| ${cells.join(" | ")} |`
  lines.push(line(head), line(head.map(() => "---")), ...rows.map(line), "")
  return lines.join("\n")
}

const INTRODUCTION = `# Benchmarks

Written by \`npm run bench\`, which measures cut-through beside what one would use instead: the same work, in the same
run, alternately (A B A B and so on), with both ends in the same places. A ratio is taken from each pair of
neighbours; above 1, ours is better. _CPU_ is the time of all threads of both ends, for each operation. What is received is compared
with what was sent, and a way that moves wrong bytes fails the benchmark.

Cases with \`-fiber\` have both ends in one thread, those with \`-thread\` in two. Where a peer is called back, so is ours
(\`Connection.nonBlocking\`); in cases with \`-effect\` ours has a fiber at each end instead (\`connection.readInto\`, \`connection.write\`), and in
those with \`-socket\` both have the same Effect code. Peers are \`node:net\` over
loopback TCP (\`tcp\`) and a Unix socket (\`unix\`), \`MessagePort\` with buffers handed over (\`messageport\`), Node's
\`stream.duplexPair\` with a buffer of its own for each write (\`duplexpair\`), Effect's RPC over a worker's port
(\`nodeworker\`: its server is in a thread of its own in cases with \`-fiber\`, too), and the barest ring that two threads can have, busy at both ends (\`ceiling\`): what the machine can do at all.
Times between threads change with where a virtual machine's cores happen to be: compare ratios, not absolutes.
`

const write = (path: string, content: string): string => {
  writeFileSync(path, content)
  return path
}

/** Keeps these results, in the place of earlier ones of the same cases, and writes the page anew. */
export const keep = (results: ReadonlyArray<Result>, isAll: boolean): void => {
  mkdirSync(RESULTS, { recursive: true })
  const file = join(RESULTS, `node-${process.versions.node.split(".")[0]}.json`)
  const isNew = (name: string, peer: string) => !results.some((result) => result.name === name && result.peer === peer)
  let earlier: ReadonlyArray<Result> = []
  if (!isAll) {
    try {
      earlier = (JSON.parse(readFileSync(file, "utf8")) as Kept).results.filter(({ name, peer }) => isNew(name, peer))
    } catch {
      // There are none.
    }
  }
  const kept: Kept = {
    node: process.version,
    v8: process.versions.v8,
    effect: versionOfEffect(),
    machine: machine(),
    results: [...earlier, ...results]
  }
  const written = [write(file, JSON.stringify(kept))]

  const sections: Array<string> = [INTRODUCTION]
  rmSync(CHARTS, { recursive: true, force: true })
  mkdirSync(CHARTS, { recursive: true })
  for (const name of readdirSync(RESULTS).toSorted()) {
    const kept = JSON.parse(readFileSync(join(RESULTS, name), "utf8")) as Kept
    const pictures = charts(kept.results, `Node ${kept.node.slice(1)}`).map(({ name: of, svg, title }) => ({
      title,
      path: relative(ROOT, write(join(CHARTS, `${name.replace(".json", "")}-${of}.svg`), svg))
    }))
    sections.push(section(kept, pictures))
  }
  written.push(write(PAGE, sections.join("\n")))
  execFileSync(process.execPath, [join(ROOT, "node_modules/oxfmt/bin/oxfmt"), ...written], { cwd: ROOT })
}
