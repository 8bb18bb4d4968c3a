/** A guest that writes nonsense over the memory it shares: it breaks its own connections, and nobody else notices. */
import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughHost } from "@cut-through/platform"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { reasonOf } from "../../../core/test/fixtures.ts"
import { bystandersHere, type Heard, layerHost, rawGuest, until } from "./hostile-fixtures.ts"

const int = (maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

/** One word of nonsense: in which memory, where, and what. */
interface Scribble {
  readonly where: number
  readonly at: number
  readonly what: number
}

const scribbles = Arbitrary.array(Arbitrary.all({ where: int(5), at: int(2 ** 20), what: int(2 ** 20) }), {
  minLength: 1
})

/** So that most of its memory is control words. */
const SMALL = { name: "hostile", rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 32_768 }

const NONSENSE = [0, 1, -1, 2, 64, 4096, 65_536, 2 ** 31 - 1, -(2 ** 31), 0x5555_5555]

/** Everything that may come of a connection to a guest that goes mad. Anything else is a fault of ours. */
const outcomes = ["CorruptSegment", "Reset", "PeerDied", "BrokenPipe", "Closed", "Done"]

const isAllowed = (exit: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isSuccess(exit) ||
  (!Cause.hasDies(exit.cause) && (Exit.hasInterrupts(exit) || outcomes.includes(reasonOf(exit))))

/** Reads until there is nothing to read, without believing what it reads. */
const readAll = (connection: Connection.Connection) =>
  Effect.forever(Effect.andThen(connection.read, Effect.yieldNow)) as Effect.Effect<
    never,
    SessionError.SessionError | Cause.Done
  >

const writeAll = (connection: Connection.Connection) => {
  const bytes = new Uint8Array(700)
  return Effect.forever(Effect.andThen(connection.write(bytes), Effect.yieldNow))
}

/** Lets a guest go mad over connections to it, and die in the end. Returns how those on the other side have ended. */
const goMad = (scribbles: ReadonlyArray<Scribble>, kind: number) =>
  Effect.gen(function* () {
    const host = yield* CutThroughHost.CutThroughHost
    const others = yield* bystandersHere
    const raw = yield* rawGuest
    yield* raw.ask((id) => ({ _tag: "Attach", id, version: Protocol.VERSION, options: SMALL, ring: true }) as never)
    yield* raw.ask((id) => ({
      _tag: "Listen",
      id,
      worker: undefined,
      endpoint: "tcp://127.0.0.1:80",
      backlog: 511,
      approval: "listener",
      isProxy: false
    }))
    const victim = yield* Application.make({ name: "victim", rxFifoSize: 4096, txFifoSize: 4096 })
    const exits: Array<Exit.Exit<unknown, unknown>> = []
    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    for (let i = 0; i < 2; i++) {
      const connection = yield* victim.connect(Endpoint.tcp("127.0.0.1", 80))
      const [listener] = raw.listeners.keys()
      const accepted = yield* raw.ask((id) => ({ _tag: "Accept", id, listener, accepts: true }))
      assert.isDefined((accepted as Heard<"Accepted">).session)
      for (const body of [readAll(connection), writeAll(connection)]) {
        const fiber = yield* Effect.forkScoped(body)
        fiber.addObserver((exit) => void exits.push(exit))
        fibers.push(fiber)
      }
    }
    const segments = [...raw.segments.values()].map((buffer) => new Int32Array(buffer))
    const bells = [...raw.pairs.values()].map(({ buffer }) => new Int32Array(buffer))
    assert.isAbove(segments.length, 0)
    const ring = new Int32Array(raw.ring!)
    assert.isAbove(bells.length, 0)
    const scribble = ({ at, what, where }: Scribble) => {
      // Control words are at the beginning: most of the nonsense goes there.
      const words = where > 3 ? ring : where === 3 ? bells[at % bells.length] : segments[at % segments.length]
      const most = where < 2 ? Math.min(1024, words.length) : where === 4 ? 128 : words.length
      Atomics.store(words, at % most, kind === 0 ? what : NONSENSE[what % NONSENSE.length])
      // And they are told to look.
      for (const bell of bells) for (let i = 0; i < Math.min(64, bell.length); i++) Atomics.or(bell, i, what)
    }
    for (const [index, it] of scribbles.entries()) {
      scribble(it)
      if (index % 3 === 0) yield* Effect.yieldNow
      if (index % 20 === 0) yield* others.round
    }
    yield* others.round
    raw.close()
    yield* until(() => host.stats().guests === 1)
    // Nobody waits for the dead.
    for (const fiber of fibers) yield* Fiber.await(fiber)
    for (const exit of exits) assert.isTrue(isAllowed(exit), String(exit))
    yield* others.round
    const layer = yield* SessionLayer
    assert.deepStrictEqual(
      Array.from(layer.apps(), ({ name }) => name),
      ["bystander", "other guest", "victim"]
    )
    return exits.filter((exit) => !Exit.hasInterrupts(exit)).map(reasonOf)
  }).pipe(Effect.scoped, Effect.provide(layerHost()))

describe("a guest that scribbles", () => {
  it.live.prop(
    "over its segments, bells and its ring: its connections break or wait for it, the host and all others go on, and nothing is left",
    [scribbles, int(2)],
    ([scribbles, kind]) => Effect.asVoid(goMad(scribbles, kind)),
    { arbitrary: { runs: Number(process.env.RUNS ?? 150), size: 80, maxShrinks: 300 }, timeout: 300_000 }
  )

  it.live("is found out by what is checked, and not only by its death", () =>
    Effect.gen(function* () {
      const everywhere = Array.from({ length: 1024 }, (_, at) => ({ where: 0, at, what: NONSENSE.length - 1 }))
      assert.include(yield* goMad(everywhere, 1), "CorruptSegment")
      assert.include(yield* goMad([], 0), "PeerDied")
    })
  )
})
