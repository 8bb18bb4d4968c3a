/**
 * `npm run echo -- [--json] [FILE]`, or `npm run echo -- --serve tcp://127.0.0.1:7000`
 */
import { CutThroughNode } from "@cut-through/platform"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect, Layer, Logger, Runtime } from "effect"
import * as Placement from "./Placement.ts"
import { program } from "./Program.ts"

// Nobody reads on (as with `| head`), or the disk is full: there is no way left to print the rest.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") console.error(`echo: cannot print: ${error.message}`)
  process.exit(1)
})

program(process.argv.slice(2), Placement.all).pipe(
  Effect.provide([Layer.orDie(CutThroughNode.layerSessions()), NodeFileSystem.layer]),
  // Logs must not get into what `--json` prints.
  Effect.provideService(Logger.LogToStderr, true),
  Effect.tap((code) =>
    Effect.sync(() => {
      process.exitCode = code
    })
  ),
  // Only the program's own work can be interrupted: a server that has been has still something to say, and its code.
  Effect.uninterruptible,
  NodeRuntime.runMain({
    teardown: (exit, end) => Runtime.defaultTeardown(exit, (code) => end(Number(process.exitCode ?? code)))
  })
)
