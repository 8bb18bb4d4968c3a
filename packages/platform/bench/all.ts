/**
 * `npm run bench -- [connect] [thread] [--json]`: those that are named, or all, each in a process of its own.
 */
import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { type Case, print } from "./report.ts"

const ALL = ["connect", "thread"]

const { positionals } = parseArgs({ options: { json: { type: "boolean" } }, allowPositionals: true })
const unknown = positionals.find((name) => !ALL.includes(name))
if (unknown !== undefined) throw new Error(`there is no benchmark ${unknown}, only ${ALL.join(" and ")}`)

const cases: Array<Case> = []
for (const name of positionals.length === 0 ? ALL : positionals) {
  const args = [...process.execArgv, join(import.meta.dirname, `${name}.ts`), "--json"]
  const output = execFileSync(process.execPath, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] })
  cases.push(...JSON.parse(output).cases)
}
print(cases)
