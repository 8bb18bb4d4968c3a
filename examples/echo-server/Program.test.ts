/**
 * What the program makes of wires that do not do what they should, and of files that cannot be read.
 */
import { CutThroughNode } from "@cut-through/platform"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, PlatformError, Scope } from "effect"
import { TestClock, TestConsole } from "effect/testing"
import { setImmediate } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import type { Worker } from "node:worker_threads"
import type { Shared } from "./Echo.ts"
import { type Fault, faulty, reset } from "./faults.ts"
import * as Placement from "./Placement.ts"
import * as Program from "./Program.ts"
import { settled } from "./settled.ts"
import * as Way from "./Way.ts"

/** Any file will do. */
const file = fileURLToPath(import.meta.url)

/** In real time, as the threads are. */
const program = (args: ReadonlyArray<string>, placements: ReadonlyArray<Placement.Placement>) =>
  TestClock.withLive(Program.program(args, placements))

const layer = Layer.merge(CutThroughNode.layerSessions(), NodeFileSystem.layer)

const fiber = Placement.fibers("fiber", Way.cutThrough)

/** The placements, with a fault in the client. */
const placements: Record<"fiber" | "thread" | "tcp", (fault: Fault) => Placement.Placement> = {
  fiber: (fault) => ({
    path: `fiber ${fault}`,
    hasSessions: true,
    start: (shared) => Placement.fibers("", faulty(Way.cutThrough, fault, shared)).start(shared)
  }),
  thread: (fault) => inThreads(`thread ${fault}`),
  tcp: (fault) => inThreads(`tcp ${fault}`)
}

const inThreads = (path: string) => Placement.threads(path, false, new URL("./faultyWorker.ts", import.meta.url))

describe("a wire that", () => {
  for (const fault of ["flips", "loses", "adds"] as const) {
    for (const placement of [placements.fiber, placements.thread]) {
      const faulty = placement(fault)
      it.effect(`${fault} bytes is found out (${faulty.path})`, () =>
        Effect.gen(function* () {
          assert.strictEqual(yield* program(["--json", file], [fiber, faulty]), 1)
          const [output] = yield* TestConsole.logLines
          const [right, wrong] = JSON.parse(String(output)).placements
          assert.isTrue(right.ok)
          assert.strictEqual(wrong.path, faulty.path)
          assert.isFalse(wrong.ok)
          assert.notStrictEqual(wrong.sha256, right.sha256)
        }).pipe(Effect.provide(layer))
      )
    }
  }

  it.effect("differs has a row that says so", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* program([file], [placements.fiber("flips")]), 1)
      assert.match(String((yield* TestConsole.logLines).at(-1)), /^fiber flips .* DIFFERENT$/m)
    }).pipe(Effect.provide(layer))
  )

  for (const [name, placement] of Object.entries(placements)) {
    it.effect(`breaks is one line on stderr (${name})`, () =>
      Effect.gen(function* () {
        const where = name === "fiber" ? "" : "the client's thread has failed: "
        assert.strictEqual(yield* program(["--json", file], [placement("breaks")]), 1)
        assert.deepStrictEqual(yield* TestConsole.errorLines, [`echo: ${where}${reset.message}`])
        assert.deepStrictEqual(yield* TestConsole.logLines, [])
      }).pipe(Effect.provide(layer))
    )
  }

  for (const name of ["fiber", "thread"] as const) {
    it.effect(`is not closed is found out (${name})`, () =>
      Effect.gen(function* () {
        const scope = yield* Effect.scope
        const leaks = placements[name]("leaks")
        // Neither is what it lives in.
        const kept = { ...leaks, start: (shared: Shared) => Scope.provide(leaks.start(shared), scope) }
        assert.strictEqual(yield* program(["--json", file], [kept]), 1)
        const [output] = yield* TestConsole.logLines
        const { atRest, placements: results } = JSON.parse(String(output))
        assert.isTrue(results[0].ok)
        assert.isAbove(atRest.sessions, 0)
        assert.isAbove(atRest.segments, 0)
      }).pipe(Effect.provide(layer))
    )
  }
})

describe("interrupted half-way", () => {
  for (const [name, placement] of Object.entries(placements)) {
    it.effect(`${name} is closed at once and leaves nothing`, () =>
      Effect.gen(function* () {
        const threads = yield* threadsStarted
        let written = () => 0
        const stalls = placement("stalls")
        const watched: Placement.Placement = {
          ...stalls,
          start: (shared) => {
            written = () => Atomics.load(shared.received, 0)
            return stalls.start(shared)
          }
        }
        const fiber = yield* Effect.forkChild(program(["--json", process.execPath], [watched]))
        yield* settled(() => written())
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* TestConsole.errorLines, [
          "interrupted; left: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes"
        ])
        assert.strictEqual(threads.length, name === "fiber" ? 0 : 2)
        for (const { threadId } of threads) assert.strictEqual(threadId, ENDED)
      }).pipe(Effect.provide(layer))
    )
  }

  it.effect("threads that are still starting end, too", () =>
    Effect.gen(function* () {
      const threads = yield* threadsStarted
      const fiber = yield* Effect.forkChild(program(["--json", file], Placement.all))
      while (threads.length < 4) yield* Effect.promise(() => setImmediate())
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* TestConsole.errorLines, [
        "interrupted; left: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes"
      ])
      for (const { threadId } of threads) assert.strictEqual(threadId, ENDED)
    }).pipe(Effect.provide(layer))
  )
})

/** The number of a thread that is no more. */
const ENDED = -1

/** The threads that are started from here on. */
const threadsStarted = Effect.gen(function* () {
  const threads: Array<Worker> = []
  const add = (thread: Worker) => threads.push(thread)
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("worker", add)),
    () => Effect.sync(() => process.off("worker", add))
  )
  return threads
})

it.effect("a thread that cannot start is one line on stderr", () =>
  Effect.gen(function* () {
    const nowhere = Placement.threads("thread", true, new URL("./missing.ts", import.meta.url))
    assert.strictEqual(yield* program(["--json", file], [nowhere]), 1)
    const [line, ...others] = yield* TestConsole.errorLines
    assert.match(String(line), /^echo: the server's thread has failed: Cannot find module .*missing\.ts/)
    assert.deepStrictEqual(others, [])
  }).pipe(Effect.provide(layer))
)

it.effect("a file that cannot be read is one line on stderr", () =>
  Effect.gen(function* () {
    const real = yield* FileSystem.FileSystem
    const denied = PlatformError.systemError({
      _tag: "PermissionDenied",
      module: "FileSystem",
      method: "readFile",
      cause: new Error(`EACCES: permission denied, open '${file}'`)
    })
    const code = yield* program([file], Placement.all).pipe(
      Effect.provideService(FileSystem.FileSystem, { ...real, readFile: () => Effect.fail(denied) })
    )
    assert.strictEqual(code, 2)
    assert.deepStrictEqual(yield* TestConsole.errorLines, [
      `echo: cannot read ${JSON.stringify(file)}: permission denied`
    ])
    assert.deepStrictEqual(yield* TestConsole.logLines, [])
  }).pipe(Effect.provide(layer))
)
