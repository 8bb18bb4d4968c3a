/**
 * From the command line to the exit code.
 */
import { Endpoint, Sessions } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Console, Data, Effect, Exit, FileSystem } from "effect"
import type { PlatformError } from "effect"
import { parseArgs } from "node:util"
import type { Shared } from "./Echo.ts"
import { atRest, measure, ROUNDS } from "./Measure.ts"
import type { Observer } from "./Measure.ts"
import type { Placement } from "./Placement.ts"
import * as Progress from "./Progress.ts"
import * as Report from "./Report.ts"
import { GRACE_SECONDS, serve } from "./Serve.ts"

const USAGE = `Usage: npm run echo -- [--json] [FILE]
       npm run echo -- --serve tcp://127.0.0.1:7000

Sends FILE (default: the running Node binary) through an echo server and back,
both directions at once: over cut-through within one thread, over cut-through
between two threads, and over loopback TCP between two threads.

  --json          print one JSON object and nothing else
  --serve WHERE   send nothing, be an echo server for others: on a real port
                  (try nc 127.0.0.1 7000) and by cut-through, until Ctrl-C;
                  then connections have ${GRACE_SECONDS} seconds to finish
  --help          print this

Exit code: 0 when every byte came back and nothing is left, 1 when not,
2 when there is nothing to send, 130 when interrupted. A server that ends
by Ctrl-C exits with 0, or with 1 when something is left.`

/** What the user has to change, in one line. */
class InputError extends Data.TaggedError("InputError")<{ readonly message: string }> {}

/** The program, with its exit code. Interrupted, it says what is left; a server is meant to be, and has a code then. */
export const program = (
  args: ReadonlyArray<string>,
  placements: ReadonlyArray<Placement>
): Effect.Effect<number, never, FileSystem.FileSystem | SessionLayer> =>
  Effect.gen(function* () {
    const { isHelp, isJson, path, where } = yield* parse(args)
    if (isHelp) {
      yield* Console.log(USAGE)
      return 0
    }
    if (where !== undefined) return yield* serving(where)
    const report = yield* run(path, placements, isJson).pipe(
      Effect.interruptible,
      Effect.onInterrupt(() =>
        Effect.flatMap(atRest, (left) => Console.error(`interrupted; left: ${Report.formatAtRest(left)}`))
      )
    )
    yield* Console.log(isJson ? JSON.stringify(report, null, 2) : `\n${Report.format(report)}`)
    return Report.isFine(report) ? 0 : 1
  }).pipe(
    Effect.catch((error) => Effect.as(Console.error(`echo: ${explain(error)}`), error._tag === "InputError" ? 2 : 1))
  )

/** Until it is interrupted, which is how it is meant to end: with a code, when the fiber itself cannot be interrupted. */
const serving = (where: string) =>
  Effect.gen(function* () {
    const endpoint = yield* Effect.mapError(
      Endpoint.fromString(where),
      ({ message }) => new InputError({ message: `cannot serve: ${message}` })
    )
    const exit = yield* Effect.exit(Effect.interruptible(Effect.scoped(serve(endpoint))))
    if (!Exit.hasInterrupts(exit)) return yield* exit
    const left = yield* atRest
    yield* Console.log(`closed; left: ${Report.formatAtRest(left)}`)
    return Report.isNothing(left) ? 0 : 1
  }).pipe(Effect.uninterruptible)

/** Everything that is opened is closed again when this is done. */
const run = Effect.fnUntraced(function* (path: string, placements: ReadonlyArray<Placement>, isJson: boolean) {
  const shared = yield* share(yield* read(path))
  const bytes = shared.file.length
  if (!isJson) yield* Console.log(`${path}: ${bytes.toLocaleString("en-US")} bytes`)
  const results = yield* Effect.scoped(
    Effect.flatMap(isJson ? Effect.succeed(silent) : observe(placements, shared), (observer) =>
      measure(placements, shared, observer)
    )
  )
  return { file: path, bytes, placements: results, atRest: yield* atRest } satisfies Report.Report
})

const silent: Observer = { started() {}, midway: () => Effect.void }

/** A progress bar and session tables. */
const observe = Effect.fnUntraced(function* (placements: ReadonlyArray<Placement>, { file, received }: Shared) {
  const done = () => Atomics.load(received, 0)
  const progress = yield* Progress.make(process.stderr, placements.length * ROUNDS, file.length, done)
  const table = Effect.provideService(Sessions.format, SessionLayer, yield* SessionLayer)
  const widest = Math.max(...placements.map(({ path }) => path.length))
  const observer: Observer = {
    started: (path) => progress.start(path.padEnd(widest)),
    midway: Effect.fnUntraced(function* (path) {
      const sessions = yield* table
      yield* progress.hide
      yield* Console.log(`\nsessions, half-way through a transfer by ${path}:\n${sessions}`)
    })
  }
  return observer
})

interface Command {
  readonly path: string
  readonly isJson: boolean
  readonly isHelp: boolean
  /** Of the server. */
  readonly where: string | undefined
}

const parse = (args: ReadonlyArray<string>): Effect.Effect<Command, InputError> =>
  Effect.try({
    try: () =>
      parseArgs({
        args: [...args],
        options: { json: { type: "boolean" }, serve: { type: "string" }, help: { type: "boolean", short: "h" } },
        allowPositionals: true
      }),
    // The rest of Node's message explains how to name a file that looks like a flag.
    catch: (error) => new InputError({ message: `${(error as Error).message.split(". ")[0]} (see --help)` })
  }).pipe(
    Effect.filterOrFail(
      ({ positionals }) => positionals.length <= 1,
      ({ positionals }) => new InputError({ message: `expected one file, got ${positionals.length} (see --help)` })
    ),
    Effect.filterOrFail(
      ({ positionals, values }) => values.serve === undefined || (positionals.length === 0 && values.json !== true),
      () => new InputError({ message: "--serve takes neither a file nor --json (see --help)" })
    ),
    Effect.map(({ positionals, values }) => ({
      path: positionals[0] ?? process.execPath,
      isJson: values.json === true,
      isHelp: values.help === true,
      where: values.serve
    }))
  )

/** What `readFile` reads at most. */
const MAX_BYTES = 2 ** 31 - 1

const read = Effect.fnUntraced(function* (path: string) {
  const name = JSON.stringify(path)
  const cannot = (why: string) => new InputError({ message: `cannot read ${name}: ${why}` })
  // Node says `ENOENT: no such file or directory, stat '...'`.
  const fromPlatform = ({ reason }: PlatformError.PlatformError) =>
    cannot(/^E\w+: ([^,]+),/.exec(String((reason.cause as Error | undefined)?.message))?.[1] ?? reason.message)
  const fileSystem = yield* FileSystem.FileSystem
  const { size, type } = yield* Effect.mapError(fileSystem.stat(path), fromPlatform)
  if (type !== "File") return yield* cannot(type === "Directory" ? "it is a directory" : "it is not a regular file")
  if (size > MAX_BYTES) return yield* cannot(`it has ${size} bytes, and more than ${MAX_BYTES} cannot be held`)
  return yield* Effect.mapError(fileSystem.readFile(path), fromPlatform)
})

/** Puts the file where other threads can read it. */
const share = (file: Uint8Array): Effect.Effect<Shared, InputError> =>
  Effect.try({
    try: () => {
      const shared = {
        file: new Uint8Array(new SharedArrayBuffer(file.length)),
        memory: new Uint8Array(new SharedArrayBuffer(file.length + 1)),
        received: new Int32Array(new SharedArrayBuffer(4))
      }
      shared.file.set(file)
      return shared
    },
    catch: () => new InputError({ message: `there is no memory for twice ${file.length} bytes` })
  })

/** In one line, whatever the error. */
const explain = ({ cause, message }: Error): string =>
  (cause instanceof Error ? `${message}: ${cause.message}` : message).replaceAll(/\s+/g, " ")
