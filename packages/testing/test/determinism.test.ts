/** One seed is one history, bit for bit: in another process, and on another version of Node where this machine has one. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { existsSync, readdirSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const root = new URL("../../../", import.meta.url)
const program = fileURLToPath(new URL("determinism-process.ts", import.meta.url))

/** The Node that the project brings, and those on which its tests have been run (scripts/test-on.sh). */
const installed = (): ReadonlyArray<string> => {
  const nodes = new URL(".nodes/", root)
  const others = existsSync(nodes) ? readdirSync(nodes).toSorted() : []
  return [root, ...others.map((name) => new URL(`${name}/`, nodes))].map((folder) =>
    fileURLToPath(new URL("node_modules/.bin/node", folder))
  )
}

/** What a program of Node prints. */
const printedBy = (node: string, args: ReadonlyArray<string>) =>
  Effect.tryPromise(async () => (await promisify(execFile)(node, [...args], { maxBuffer: 2 ** 28 })).stdout)

/** A Node of another version than this one, if there is one that works. */
const other = Effect.gen(function* () {
  for (const node of installed()) {
    const version = yield* Effect.option(printedBy(node, ["--version"]))
    if (version._tag === "Some" && version.value.trim() !== process.version) return node
  }
  return undefined
})

interface Simulated {
  readonly version: string
  readonly lines: ReadonlyArray<string>
}

const simulatedBy = (node: string, ...seed: ReadonlyArray<string>) =>
  Effect.map(printedBy(node, ["--conditions=@cut-through/source", program, ...seed]), (printed): Simulated =>
    JSON.parse(printed)
  )

describe("determinism", () => {
  it.live(
    "200 seeds have the same histories in two processes, on two versions of Node where there are two",
    () =>
      Effect.gen(function* () {
        const second = yield* other
        const nodes = [process.execPath, second ?? process.execPath] as const
        const [one, two] = yield* Effect.all([simulatedBy(nodes[0]), simulatedBy(nodes[1])], { concurrency: 2 })
        console.log(
          second === undefined
            ? `${one.lines.length} seeds in two processes on Node ${one.version}: there is no other version here`
            : `${one.lines.length} seeds in two processes, on Node ${one.version} and on Node ${two.version}`
        )
        assert.lengthOf(one.lines, 200)
        const seed = one.lines.findIndex((line, seed) => line !== two.lines[seed])
        if (seed >= 0) {
          // Where they part.
          const [here, there] = yield* Effect.all(nodes.map((node) => simulatedBy(node, String(seed))))
          const at = here.lines.findIndex((line, at) => line !== there.lines[at])
          const [first, last] = [Math.max(0, at - 20), at + 5]
          assert.deepStrictEqual(there.lines.slice(first, last), here.lines.slice(first, last), `seed ${seed}`)
        }
        assert.deepStrictEqual(two.lines, one.lines)
        assert.isAbove(new Set(one.lines).size, 190)
        if (second !== undefined) assert.notStrictEqual(two.version, one.version)
      }),
    // Two processes with 1,600 simulations each, on a machine that may be busy.
    300_000
  )
})
