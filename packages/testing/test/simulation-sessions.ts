/**
 * Small random programs over one session layer: whatever the order of events, everybody gets an answer, bytes are where
 * they belong, and nothing is left. They are made without layers and read without streams, so that a hundred thousand of
 * them take a minute, and count what happens in them.
 */
import { Application, type Connection, Endpoint, type Listener, type SessionError } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks, Simulation } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { makeConnections } from "../src/internal/Acquired.ts"
import { makePooled } from "../src/internal/Pool.ts"

/** What may happen in these programs. All of it does, or the test fails that runs many. */
const KINDS = [
  "listen",
  "listen: AlreadyListening",
  "unlisten",
  "unlisten: early",
  "connect",
  "connect: Closed",
  "connect: NoRoute",
  "connect: Refused",
  "accept",
  "accept: Closed",
  "accept: Reset",
  "refuse",
  "read",
  "read: end of stream",
  "read: Closed",
  "read: Reset",
  "write",
  "write: BrokenPipe",
  "write: Closed",
  "write: Reset",
  "writeAll",
  "end",
  "close",
  "reset",
  "leave",
  "fail",
  "give up",
  "detach: early"
] as const

type Kind = (typeof KINDS)[number]

const counts = new Map<string, number>(KINDS.map((kind) => [kind, 0]))

const note = (kind: string): void => {
  const count = counts.get(kind)
  if (count === undefined) throw new Error(`it came to ${kind}, which is expected nowhere`)
  counts.set(kind, count + 1)
}

/** What somebody may see whose peer does as it likes is noted. Anything else is a defect. */
const expected =
  (what: "listen" | "connect" | "accept" | "read" | "write") =>
  (error: SessionError.SessionError | Cause.Done): Effect.Effect<void> =>
    Effect.sync(() => note(`${what}: ${error._tag === "Done" ? "end of stream" : error.reason._tag}`))

const notListened = expected("listen")
const notConnected = expected("connect")
const notAccepted = expected("accept")
const notRead = expected("read")
const notWritten = expected("write")

const endpoint = Endpoint.tcp("127.0.0.1", 7000)

const patternAt = (position: number): number => (position * 31 + 7) & 0xff

// Twice, so that what begins anywhere goes on.
const pattern = Uint8Array.from({ length: 512 }, (_, i) => patternAt(i))

const patternFrom = (position: number, length: number): Uint8Array =>
  pattern.subarray(position & 0xff, (position & 0xff) + length)

const ON_PURPOSE = "on purpose" as const

type Draw = (limit: number) => number

const noteNow = (kind: Kind): Effect.Effect<void> => Effect.sync(() => note(kind))
const ended = noteNow("end")
const closed = noteNow("close")
const reset = noteNow("reset")

const check = (bytes: Uint8Array, count: number, at: number): Effect.Effect<void> | undefined => {
  for (let i = 0; i < count; i++) {
    if (bytes[i] !== patternAt(at + i)) return Effect.die(new Error(`byte ${at + i} is not where it belongs`))
  }
  return undefined
}

/** What one side of a connection has done so far. */
class Side {
  written = 0
  read = 0
  hasEnded = false
}

/** Both sides of each connection of a run, by the port of the client. */
class Pairs {
  private readonly pairs = new Map<number, { readonly client: Side; readonly server: Side }>()

  /** Its own side, and the peer's. */
  of({ info }: Connection.Connection): readonly [Side, Side] {
    const { local, remote, side } = info
    const { port } = side === "client" ? local : remote
    let pair = this.pairs.get(port)
    if (pair === undefined) this.pairs.set(port, (pair = { client: new Side(), server: new Side() }))
    return side === "client" ? [pair.client, pair.server] : [pair.server, pair.client]
  }
}

/** The end of a stream comes from who has ended it, behind the last byte. */
const readToEnd = (own: Side, peer: Side) => (error: SessionError.SessionError | Cause.Done) => {
  if (error._tag !== "Done" || (peer.hasEnded && own.read === peer.written)) return notRead(error)
  const ended = peer.hasEnded ? "has ended it" : "has not ended it"
  return Effect.die(new Error(`the stream ends after ${own.read} of ${peer.written} bytes of a peer that ${ended}`))
}

/** Reads to the end, and looks at each byte. */
const readAll = Effect.fnUntraced(function* (connection: Connection.Connection, own: Side, draw: Draw) {
  note("read")
  const buffer = new Uint8Array(1 + draw(100))
  const isBorrowed = draw(4) > 0
  while (true) {
    const bytes = isBorrowed ? buffer : yield* connection.read
    const count = isBorrowed ? yield* connection.readInto(buffer) : bytes.length
    const wrong = check(bytes, count, own.read)
    if (wrong !== undefined) return yield* wrong
    own.read += count
  }
})

/** Writes for a while, and then ends, closes or breaks off. */
const writeSome = Effect.fnUntraced(function* (connection: Connection.Connection, own: Side, draw: Draw) {
  for (let writes = draw(4); writes > 0; writes--) {
    const length = draw(150)
    const at = own.written
    if (draw(4) > 0) {
      note("write")
      yield* connection.write(patternFrom(at, length))
    } else {
      note("writeAll")
      const half = length >>> 1
      yield* connection.writeAll([patternFrom(at, half), patternFrom(at + half, length - half)])
    }
    own.written += length
    if (draw(4) === 0) yield* Effect.sleep(1)
  }
  const how = draw(8)
  own.hasEnded = how !== 6
  if (how === 5) yield* Effect.andThen(closed, connection.close)
  else if (how === 6) yield* Effect.andThen(reset, connection.reset)
  else yield* Effect.andThen(ended, connection.end)
})

/** What one side does with its connection, which lives in the scope. */
const talk = Effect.fnUntraced(function* (connection: Connection.Connection, pairs: Pairs, draw: Draw) {
  const [own, peer] = pairs.of(connection)
  const how = draw(8)
  if (how < 6) {
    const writing = yield* Effect.forkChild(Effect.catch(writeSome(connection, own, draw), notWritten))
    yield* Effect.catch(readAll(connection, own, draw), readToEnd(own, peer))
    return yield* Fiber.join(writing)
  }
  // A byte is read and another one written, then the scope closes, well or not, with whatever there is unread.
  note(how === 6 ? "leave" : "fail")
  yield* Effect.catch(connection.write(patternFrom(0, 1)), notWritten)
  own.written = 1
  if (draw(2) > 0) yield* Effect.catch(Effect.asVoid(connection.read), notRead)
  if (how === 7) return yield* Effect.fail(ON_PURPOSE)
  own.hasEnded = true
})

const connected = Effect.fnUntraced(function* (
  application: Application.Application["Service"],
  pairs: Pairs,
  draw: Draw
) {
  note("connect")
  const connection = yield* application.connect(endpoint)
  yield* talk(connection, pairs, draw)
}, Effect.scoped)

const client = Effect.fnUntraced(function* (application: Application.Application["Service"], pairs: Pairs, draw: Draw) {
  if (draw(2) > 0) yield* Effect.sleep(draw(3))
  const talking = Effect.catch(connected(application, pairs, draw), (error) =>
    error === ON_PURPOSE ? Effect.void : notConnected(error)
  )
  if (draw(4) > 0) return yield* talking
  // Given up somewhere on the way.
  if (Option.isNone(yield* Effect.timeoutOption(talking, draw(3)))) note("give up")
})

const accepted = Effect.fnUntraced(function* (request: Listener.ConnectionRequest, pairs: Pairs, draw: Draw) {
  if (draw(2) > 0) yield* Effect.sleep(1)
  note("accept")
  yield* talk(yield* request.accept, pairs, draw)
}, Effect.scoped)

/** Says yes or no to the next one who comes. */
const answer = Effect.fnUntraced(function* (listener: Listener.Listener, pairs: Pairs, draw: Draw) {
  const request = yield* listener.request
  if (draw(3) > 0) {
    return yield* Effect.catch(accepted(request, pairs, draw), (error) =>
      error === ON_PURPOSE ? Effect.void : notAccepted(error)
    )
  }
  note("refuse")
  yield* request.refuse
}, Effect.scoped)

const answerAll = (listener: Listener.Listener, pairs: Pairs, draw: Draw) => {
  const forever = Effect.forever(answer(listener, pairs, draw))
  return Effect.all([forever, forever], { concurrency: 2, discard: true })
}

const later = Effect.fnUntraced(function* (
  kind: "unlisten: early" | "detach: early",
  scope: Scope.Closeable,
  draw: Draw
) {
  yield* Effect.sleep(draw(3))
  note(kind)
  yield* Scope.close(scope, Exit.void)
})

const play = Effect.fnUntraced(function* (random: Random.Random) {
  const draw: Draw = (limit) => Math.floor(random.nextDoubleUnsafe() * limit)
  const sizes = { rxFifoSize: 1 + draw(200), txFifoSize: 1 + draw(200), segmentSize: 64 * 1024 }
  const server = yield* Application.make({ name: "server", workers: 1 + draw(2), ...sizes })
  const [listening, attached] = [yield* Scope.make(), yield* Scope.make()]
  const other = yield* Scope.provide(Application.make({ name: "client", ...sizes }), attached)
  note("listen")
  const options = { backlog: 1 + draw(2), approval: draw(2) === 0 ? "listener" : "application" } as const
  const pairs = new Pairs()
  const listener = yield* Scope.provide(server.listen(endpoint, options), listening)
  if (draw(8) === 0) yield* Effect.catch(Effect.asVoid(other.listen(endpoint)), notListened)
  const serve = (connection: Connection.Connection) => {
    note("accept")
    return talk(connection, pairs, draw)
  }
  const serving = yield* Effect.forkChild(
    Effect.catch(draw(2) === 0 ? answerAll(listener, pairs, draw) : listener.run(serve), notAccepted)
  )
  const going: Array<Fiber.Fiber<void, unknown>> = []
  for (let clients = 1 + draw(3); clients > 0; clients--) {
    going.push(yield* Effect.forkChild(client(clients === 3 ? server : other, pairs, draw)))
  }
  // The listener, or one of the applications, goes while they are at it.
  if (draw(4) === 0) going.push(yield* Effect.forkChild(later("unlisten: early", listening, draw)))
  if (draw(8) === 0) going.push(yield* Effect.forkChild(later("detach: early", attached, draw)))
  for (const fiber of going) yield* Fiber.join(fiber)
  note("unlisten")
  yield* Scope.close(listening, Exit.void)
  yield* Scope.close(attached, Exit.void)
  yield* Effect.yieldNow
  serving.interruptUnsafe()
  yield* Fiber.await(serving)
})

// They have no state.
const locks = Effect.runSync(Effect.scoped(Layer.build(Lock.layer)))

const makeSessions = Effect.gen(function* () {
  const floor = Context.add(locks, SharedMemory.SharedMemory, yield* makePooled)
  const services = floor.pipe(
    Context.add(SegmentContext.SegmentContext, yield* Effect.provideContext(SegmentContext.make, floor)),
    Context.add(Connections.Connections, makeConnections()),
    Context.add(Wake.Wake, yield* Wake.make({ depth: 0 }))
  )
  return yield* Effect.provideContext(SessionLayer.make(), services)
})

/** What dies on the server's side, or in the session layer, is logged, and otherwise nobody's to tell. */
class Deaths {
  first: Cause.Cause<unknown> | undefined
  readonly loggers: ReadonlySet<Logger.Logger<unknown, void>> = new Set([
    Logger.make<unknown, void>(({ cause }) => {
      if (Cause.hasDies(cause)) this.first ??= cause
    })
  ])
}

export const program = Effect.gen(function* () {
  const sessions = yield* makeSessions
  const deaths = new Deaths()
  const playing = play(yield* Random.Random).pipe(
    Effect.scoped,
    Effect.provideService(SessionLayer.SessionLayer, sessions),
    Effect.provideService(Logger.CurrentLoggers, deaths.loggers)
  )
  yield* playing
  if (deaths.first !== undefined) return yield* Effect.failCause(deaths.first)
  yield* Effect.provideService(Leaks.check, SessionLayer.SessionLayer, sessions)
})

const RUNS = Number(process.env.CUT_THROUGH_SIMULATIONS ?? 100_000)

const BLOCK = 10_000

/** Simulates half of as many programs as are asked for, and says what has happened in them. */
export const simulateHalf = (half: 0 | 1) =>
  Effect.gen(function* () {
    const share = Math.ceil(RUNS / 2)
    let [histories, steps] = [0, 0]
    for (let done = 0; done < share; done += BLOCK) {
      const runs = Math.min(BLOCK, share - done)
      const report = yield* Simulation.run(program, { seed: half * share + done, runs })
      histories += report.histories
      steps += report.steps
    }
    const lines = [...counts].map(([kind, count]) => `  ${String(count).padStart(9)} ${kind}`)
    console.log(
      `${share} simulations of the session layer: ${histories} histories, ${steps} steps\n${lines.join("\n")}`
    )
    assert.isAbove(histories, share * 0.9)
    const missing = [...counts].filter(([, count]) => count === 0).map(([kind]) => kind)
    // The rarest happens once in a hundred programs.
    if (share >= 1000) assert.deepStrictEqual(missing, [], "these have never happened")
  })
