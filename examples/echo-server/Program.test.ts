/**
 * What the program makes of wires that do not do what they should, and of files that cannot be read.
 */
import { Endpoint, SessionError } from "@cut-through/core"
import { CutThroughNode } from "@cut-through/platform"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, PlatformError, Pull, Scope } from "effect"
import { TestConsole } from "effect/testing"
import { setImmediate } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import * as Placement from "./Placement.ts"
import { program } from "./Program.ts"
import { settled } from "./settled.ts"
import type { Wire } from "./Wire.ts"

/** Any file will do. */
const file = fileURLToPath(import.meta.url)

const layer = Layer.merge(CutThroughNode.layerSessions(), NodeFileSystem.layer)

/** A placement whose client reads in another way. */
const reading = (
  placement: Placement.Placement,
  path: string,
  read: (wire: Wire) => Wire["readInto"]
): Placement.Placement => ({
  path,
  start: Effect.map(
    placement.start,
    Effect.map((wire) => ({ readInto: read(wire), write: (bytes) => wire.write(bytes), end: wire.end }))
  )
})

const flips = reading(
  Placement.fiber,
  "flips",
  (wire) => (buffer) =>
    Effect.tap(wire.readInto(buffer), () =>
      Effect.sync(() => {
        buffer[0] ^= 1
      })
    )
)

const loses = reading(
  Placement.fiber,
  "loses",
  (wire) => (buffer) => Effect.map(wire.readInto(buffer), (count) => count - 1)
)

const adds = reading(Placement.fiber, "adds", (wire) => {
  let isAdded = false
  return (buffer) =>
    wire.readInto(buffer).pipe(
      Pull.catchDone(() => {
        if (isAdded) return wire.readInto(buffer)
        isAdded = true
        return Effect.succeed(1)
      })
    )
})

describe("a wire that", () => {
  for (const placement of [flips, loses, adds]) {
    it.effect(`${placement.path} bytes is found out`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* program(["--json", file], [Placement.fiber, placement]), 1)
        const [output] = yield* TestConsole.logLines
        const [fiber, wrong] = JSON.parse(String(output)).placements
        assert.isTrue(fiber.ok)
        assert.strictEqual(wrong.path, placement.path)
        assert.isFalse(wrong.ok)
        assert.notStrictEqual(wrong.sha256, fiber.sha256)
      }).pipe(Effect.provide(layer))
    )
  }

  it.effect("differs has a row that says so", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* program([file], [flips]), 1)
      assert.match(String((yield* TestConsole.logLines).at(-1)), /^flips .* DIFFERENT$/m)
    }).pipe(Effect.provide(layer))
  )

  it.effect("breaks is one line on stderr", () =>
    Effect.gen(function* () {
      const endpoint = Endpoint.format(Endpoint.tcp("127.0.0.1", 7000))
      const reset = SessionError.make(new SessionError.Reset({ endpoint, bytesReceived: 3 }))
      const breaks = reading(Placement.fiber, "breaks", () => () => Effect.fail(reset))
      assert.strictEqual(yield* program(["--json", file], [breaks]), 1)
      assert.deepStrictEqual(yield* TestConsole.errorLines, [`echo: ${reset.message}`])
      assert.deepStrictEqual(yield* TestConsole.logLines, [])
    }).pipe(Effect.provide(layer))
  )

  it.effect("is not closed is found out", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const leaks: Placement.Placement = { path: "leaks", start: Scope.provide(Placement.fiber.start, scope) }
      const kept: Placement.Placement = {
        path: "kept",
        start: Effect.map(leaks.start, (connect) => Scope.provide(connect, scope))
      }
      assert.strictEqual(yield* program(["--json", file], [kept]), 1)
      const [output] = yield* TestConsole.logLines
      const { atRest, placements } = JSON.parse(String(output))
      assert.isTrue(placements[0].ok)
      assert.isAbove(atRest.sessions, 0)
      assert.isAbove(atRest.segments, 0)
    }).pipe(Effect.provide(layer))
  )
})

describe("interrupted half-way", () => {
  for (const placement of Placement.all) {
    it.effect(`${placement.path} is closed at once and leaves nothing`, () =>
      Effect.gen(function* () {
        let written = 0
        const watched: Placement.Placement = {
          path: placement.path,
          start: Effect.map(
            placement.start,
            Effect.map((wire) => ({
              // The client reads nothing, so that everything on the way fills up.
              readInto: () => Effect.never,
              write: (bytes) => Effect.tap(wire.write(bytes), () => Effect.sync(() => written++)),
              end: wire.end
            }))
          )
        }
        const fiber = yield* Effect.forkChild(program(["--json", process.execPath], [watched]))
        yield* settled(() => written)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* TestConsole.errorLines, [
          "interrupted; left: 0 sessions, 0 half-opens, 0 segments, 0 FIFO bytes"
        ])
        // The handle of what is closed goes some turns of the event loop later; what is not closed stays for ever.
        while (process.getActiveResourcesInfo().some((name) => name.startsWith("TCP"))) {
          yield* Effect.promise(() => setImmediate())
        }
      }).pipe(Effect.provide(layer))
    )
  }
})

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
