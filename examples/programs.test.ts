/**
 * The examples as they are run: processes of their own, which end by themselves.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { join } from "node:path"

/** Runs an example to its end, and returns what it prints. */
const output = (example: string, signal: AbortSignal): Promise<string> =>
  new Promise((resolve, reject) => {
    const main = join(import.meta.dirname, example, "main.ts")
    const child = spawn(process.execPath, ["--conditions=@cut-through/source", main], {
      stdio: ["ignore", "pipe", "pipe"],
      // One that hangs does not outlive its test.
      signal
    })
    let stdout = ""
    let stderr = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    child.on("error", reject)
    child.on("close", (code) => {
      if (code === 0 && stderr === "") resolve(stdout)
      else reject(new Error(`exit code ${code}\n${stdout}\n${stderr}`))
    })
  })

describe("examples", () => {
  it("http-without-ports", async ({ signal }) => {
    assert.deepStrictEqual((await output("http-without-ports", signal)).split("\n"), [
      "an HttpApi of Effect answers: user number 7",
      "a server of node:http answers: you asked for /hello",
      "node:net finds nobody there: ECONNREFUSED",
      "the same HttpApi in a test answers: user number 8",
      ""
    ])
  })

  it("rpc-between-threads", async ({ signal }) => {
    assert.deepStrictEqual((await output("rpc-between-threads", signal)).split("\n"), [
      "the smallest factor of 1000036000099 is 1000003",
      "the first primes from 1000 on: 1009 1013 1019 1021 1031 1033 1039 1049 1051 1061",
      "the smallest factors of 91, 221, 1000003, 10403: 7, 13, 1000003, 101",
      "the smallest factor of 1: TooSmall",
      ""
    ])
  })

  it("cluster-on-one-host", async ({ signal }) => {
    const printed = await output("cluster-on-one-host", signal)
    const match = /^the first runner has (\d+) counters\nthe second runner has (\d+) counters\n(.*)\n$/.exec(printed)
    assert.isNotNull(match, printed)
    const [, first, second, last] = match
    assert.isAbove(Number(first), 0)
    assert.isAbove(Number(second), 0)
    assert.strictEqual(Number(first) + Number(second), 30)
    assert.strictEqual(last, "the first has died: the second has 30 counters")
  })

  it("drop-in-net", async ({ signal }) => {
    const said = [
      "  SET greeting hello, world => OK",
      "  GET greeting => hello, world",
      "  GET nonsense => (nothing)",
      "  FORGET greeting => ERROR unknown command FORGET",
      "  GET calls => 8000",
      "  GET long => 1048576 letters"
    ]
    const lines = (await output("drop-in-net", signal)).replaceAll(/: \d+ ms$/gm, ": some ms").split("\n")
    assert.deepStrictEqual(lines, ["node:net: some ms", ...said, "CutThroughNet: some ms", ...said, ""])
  })
})
