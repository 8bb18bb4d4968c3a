/**
 * The program as it is run: a process of its own.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"

const main = join(import.meta.dirname, "main.ts")

interface Run {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the program to its end. `interruptAt` is what has to be printed before it gets the signal of Ctrl-C. */
const echo = (args: ReadonlyArray<string>, interruptAt?: string): Promise<Run> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--conditions=@cut-through/source", main, ...args], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    let stdout = ""
    let stderr = ""
    let isInterrupted = interruptAt === undefined
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text
      if (!isInterrupted && stdout.includes(interruptAt!)) isInterrupted = child.kill("SIGINT")
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text
    })
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, stdout, stderr }))
  })

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")

const atRest = { sessions: 0, halfOpens: 0, segments: 0, fifoBytes: 0 }

describe("echo", { timeout: 30_000 }, () => {
  let directory: string
  let file: string
  let bytes: Uint8Array

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "echo-"))
    file = join(directory, "file")
    // Neither a multiple of the buffers' size nor small enough to fit into the FIFOs.
    bytes = (await readFile(process.execPath)).subarray(0, 3_000_003)
    await writeFile(file, bytes)
  })
  afterAll(() => rm(directory, { recursive: true, force: true }))

  it("prints one JSON object and nothing else", async () => {
    const { code, stderr, stdout } = await echo([file, "--json"])
    const report = JSON.parse(stdout)
    assert.deepStrictEqual(Object.keys(report), ["file", "bytes", "placements", "atRest"])
    assert.strictEqual(report.file, file)
    assert.strictEqual(report.bytes, bytes.length)
    assert.deepStrictEqual(report.atRest, atRest)
    assert.deepStrictEqual(
      report.placements.map((placement: { readonly path: string }) => placement.path),
      ["fiber", "thread", "tcp"]
    )
    for (const placement of report.placements) {
      assert.deepStrictEqual(Object.keys(placement), ["path", "seconds", "gigabytesPerSecond", "sha256", "ok"])
      assert.strictEqual(placement.sha256, sha256(bytes))
      assert.isTrue(placement.ok)
      assert.isAbove(placement.seconds, 0)
      assert.approximately(placement.gigabytesPerSecond, bytes.length / placement.seconds / 1e9, 1e-9)
    }
    assert.strictEqual(stderr, "")
    assert.strictEqual(code, 0)
  })

  it("prints the sessions, a row for each way, and what is left", async () => {
    const { code, stderr, stdout } = await echo([file])
    const lines = stdout.trimEnd().split("\n")
    assert.strictEqual(lines[0], `${file}: 3,000,003 bytes`)
    for (const [at, path] of [
      [2, "fiber"],
      [9, "thread"]
    ] as const) {
      assert.strictEqual(lines[at], `sessions, half-way through a transfer by ${path}:`)
      assert.match(lines[at + 1], /^Connection +State +Rx-f +Tx-f$/)
      for (const line of lines.slice(at + 2, at + 4)) assert.match(line, /ESTABLISHED +\d+ +\d+$/)
      for (const line of lines.slice(at + 4, at + 6)) assert.match(line, /->\* +LISTEN +0 +0$/)
    }
    assert.match(lines[16], /^way +bytes +seconds +GB\/s +to TCP +SHA-256$/)
    for (const [at, path] of ["fiber", "thread"].entries()) {
      const row = new RegExp(`^${path} +3,000,003 +\\d+\\.\\d{4} +\\d+\\.\\d\\d +\\d+\\.\\dx +equal$`)
      assert.match(lines[17 + at], row)
    }
    assert.match(lines[19], /^tcp +3,000,003 +\d+\.\d{4} +\d+\.\d\d +1\.0x +equal$/)
    assert.strictEqual(lines[21], "left at rest: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes")
    assert.strictEqual(lines.length, 22)
    assert.strictEqual(stderr, "")
    assert.strictEqual(code, 0)
  })

  it("sends an empty file", async () => {
    const empty = join(directory, "empty")
    await writeFile(empty, "")
    const { code, stdout } = await echo([empty, "--json"])
    const report = JSON.parse(stdout)
    assert.strictEqual(report.bytes, 0)
    for (const { gigabytesPerSecond, ok, sha256: received } of report.placements) {
      assert.strictEqual(gigabytesPerSecond, 0)
      assert.strictEqual(received, sha256(new Uint8Array(0)))
      assert.isTrue(ok)
    }
    assert.deepStrictEqual(report.atRest, atRest)
    assert.strictEqual(code, 0)
  })

  for (const path of ["fiber", "thread"]) {
    it(`is interrupted by Ctrl-C in a transfer by ${path} and leaves nothing`, async () => {
      const { code, stderr, stdout } = await echo([], `half-way through a transfer by ${path}`)
      assert.strictEqual(stderr, "interrupted; left: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes\n")
      assert.notInclude(stdout, "SHA-256")
      assert.strictEqual(code, 130)
    })
  }

  it("explains itself", async () => {
    const { code, stderr, stdout } = await echo(["--help"])
    assert.match(stdout, /^Usage: npm run echo -- \[--json\] \[FILE\]\n/)
    assert.strictEqual(stderr, "")
    assert.strictEqual(code, 0)
  })

  const refused = async (args: ReadonlyArray<string>, message: string) => {
    assert.deepStrictEqual(await echo(args), { code: 2, stdout: "", stderr: `echo: ${message}\n` })
  }

  it("refuses a file that is not there", () => {
    const missing = join(directory, "missing")
    return refused([missing], `cannot read ${JSON.stringify(missing)}: no such file or directory`)
  })

  it("refuses a directory", () => refused([directory], `cannot read ${JSON.stringify(directory)}: it is a directory`))

  it("refuses a file that it may not read", async () => {
    const secret = join(directory, "secret")
    await writeFile(secret, "secret")
    await chmod(secret, 0)
    // The kernel lets root read everything; what is printed then is tested in Program.test.ts.
    if (process.getuid?.() === 0) assert.strictEqual((await echo([secret, "--json"])).code, 0)
    else await refused([secret], `cannot read ${JSON.stringify(secret)}: permission denied`)
  })

  it("refuses unknown flags", () => refused(["--frobnicate", file], "Unknown option '--frobnicate' (see --help)"))

  it("refuses two files", () => refused([file, file], "expected one file, got 2 (see --help)"))
})
