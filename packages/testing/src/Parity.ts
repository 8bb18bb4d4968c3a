/**
 * The same conversations over different transports, and what they came to: of
 * one transport that has to be like another one, the way in which it is not.
 *
 * A script says who connects, writes, reads, ends, resets and waits, step by
 * step. It is run over {@link Carrier}s: connections between fibers, `node:net`
 * or whatever has its face, a simulated network, or one of your own. What the two
 * ends see (bytes, ends, errors, and in which step) is the trace. {@link check}
 * makes scripts up, and shrinks one that has two traces.
 *
 * **What may differ**, and is the same in a trace:
 *
 * - how far a writer may be ahead of its reader: whether a write that is more
 *   than 16 KiB ahead is done before the reader has caught up, or at all before
 *   a reset;
 * - how much of what was on its way can still be read after a reset. The read
 *   that gets the reset says so, and not how many bytes came before;
 * - when a writer learns of a reset. Until this side has read the reset, what it
 *   writes may be taken or not;
 * - what is seen of a reset by somebody who had ended its stream before: the end,
 *   or the reset;
 * - what becomes of a connection when somebody writes behind its own end. The
 *   write fails; streams of Node also break the connection off, so the script is
 *   over for that connection;
 * - what whoever has broken off still gets to read, and the error's name for
 *   whoever uses a stream that it has broken off or ended;
 * - whether nobody there is called `NoRoute`, `Refused` or `ECONNREFUSED`.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { Listener } from "@cut-through/core/Listener"
import type * as SessionError from "@cut-through/core/SessionError"
import * as Arbitrary from "effect/Arbitrary"
import type * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Bytes from "./Bytes.ts"
import * as Leaks from "./Leaks.ts"
import * as Simulation from "./Simulation.ts"
import * as TestNetwork from "./TestNetwork.ts"

// -----------------------------------------------------------------------------
// scripts
// -----------------------------------------------------------------------------

/**
 * Who does something.
 *
 * @category models
 * @since 0.1.0
 */
export type Side = "client" | "server"

/**
 * One step of a script. `on` is the number of a connection, of those there are,
 * counted round. A step of a connection that is not there is left out.
 *
 * @category models
 * @since 0.1.0
 */
export type Step =
  | { readonly do: "connect"; readonly to: "server" | "nobody" }
  | { readonly do: "write" | "read"; readonly on: number; readonly by: Side; readonly bytes: number }
  | { readonly do: "end" | "reset"; readonly on: number; readonly by: Side }
  | { readonly do: "wait"; readonly turns: number }

/**
 * What both ends of some connections do, in turn. Who reads what has not been
 * written yet goes on waiting while others have theirs.
 *
 * @category models
 * @since 0.1.0
 */
export type Script = ReadonlyArray<Step>

const formatStep = (step: Step): string => {
  switch (step.do) {
    case "connect":
      return `connect to ${step.to}`
    case "wait":
      return `wait ${step.turns}`
    case "write":
    case "read":
      return `${step.by} of ${step.on}: ${step.do} ${step.bytes}`
    default:
      return `${step.by} of ${step.on}: ${step.do}`
  }
}

/**
 * A script, a line for each step.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (script: Script): string => script.map(formatStep).join("\n")

/** Those that come first are simpler. */
const oneOf = <const A>(values: ReadonlyArray<A>): Arbitrary.Arbitrary<A> =>
  Arbitrary.map(
    Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: values.length - 1 })), {
      shrink: (value) => [0, Math.floor(value / 2), value - 1].filter((next) => next >= 0 && next < value)
    }),
    (index) => values[index]
  )

/** As likely as they are frequent. */
const kinds = [
  "wait",
  ...Array.from({ length: 4 }, () => "read"),
  ...Array.from({ length: 5 }, () => "write"),
  "end",
  "end",
  "connect",
  "reset",
  "nobody"
]

/**
 * Scripts that begin with a connection. They shrink to fewer steps, and to those
 * that do less.
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const script: Arbitrary.Arbitrary<Script> = Arbitrary.map(
  Arbitrary.array(
    Arbitrary.all({
      kind: oneOf(kinds),
      on: oneOf([0, 1, 2]),
      by: oneOf<Side>(["client", "server"]),
      bytes: oneOf([1, 3, 100, 4096, 16_384, 20_000, 200_000])
    }),
    { maxLength: 30 }
  ),
  (steps) => [
    { do: "connect", to: "server" },
    ...steps.map(({ by, bytes, kind, on }): Step => {
      switch (kind) {
        case "connect":
          return { do: "connect", to: "server" }
        case "nobody":
          return { do: "connect", to: "nobody" }
        case "wait":
          return { do: "wait", turns: 1 + (bytes % 7) }
        case "write":
        case "read":
          return { do: kind, on, by, bytes }
        default:
          return { do: kind as "end" | "reset", on, by }
      }
    })
  ]
)

// -----------------------------------------------------------------------------
// carriers
// -----------------------------------------------------------------------------

/**
 * One end of a connection, in the words that traces have. What fails says why:
 * `End`, `Reset`, `BrokenPipe`, `Closed`, or another word that no other carrier
 * has.
 *
 * @category models
 * @since 0.1.0
 */
export interface End {
  /** Some bytes, at least one. */
  readonly read: Effect.Effect<Uint8Array, string>
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, string>
  readonly end: Effect.Effect<void>
  readonly reset: Effect.Effect<void>
}

/**
 * What a script finds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stage {
  /** Both ends of a new connection, until the scope closes. Fails with `Nobody` where nobody is. */
  readonly connect: (to: "server" | "nobody") => Effect.Effect<{ readonly [side in Side]: End }, string, Scope.Scope>
  /** Lets others go on for a while, if there is anything to do. */
  readonly wait: (turns: number) => Effect.Effect<void>
}

/**
 * Something that scripts can be run over.
 *
 * @category models
 * @since 0.1.0
 */
export interface Carrier {
  readonly name: string
  /** Runs a program with a stage of its own, and cleans up behind it. */
  readonly run: <A>(program: (stage: Stage) => Effect.Effect<A, never, Scope.Scope>) => Effect.Effect<A, unknown>
}

const tagOf = (error: SessionError.SessionError | Cause.Done): string =>
  error._tag === "Done" ? "End" : error.reason._tag

const fromConnection = (connection: Connection): End => ({
  read: Effect.mapError(connection.read, tagOf),
  write: (bytes) => Effect.mapError(connection.write(bytes), tagOf),
  end: connection.end,
  reset: connection.reset
})

/** A port at which nobody listens. */
const NOBODY = 1

const stageOf = (client: Application.Application["Service"], listener: Listener, wait: Stage["wait"]): Stage => ({
  wait,
  connect: (to) =>
    Effect.gen(function* () {
      const remote = to === "server" ? listener.address : Endpoint.withPort(listener.address, NOBODY)
      const dialled = yield* client.connect(remote)
      return { client: fromConnection(dialled), server: fromConnection(yield* listener.accept) }
    }).pipe(
      Effect.mapError(tagOf),
      Effect.mapError((tag) => (tag === "NoRoute" || tag === "Refused" ? "Nobody" : tag))
    )
})

/**
 * Connections between fibers. The default layer is `Leaks.layerTest`, which fails
 * when a script has left anything behind.
 *
 * @category carriers
 * @since 0.1.0
 */
export const cutThrough = (layer: Layer.Layer<Application.Application, unknown> = Leaks.layerTest): Carrier => ({
  name: "cut-through",
  run: (program) =>
    Effect.gen(function* () {
      const application = yield* Application.Application
      const listener = yield* application.listen(Endpoint.tcp("127.0.0.1", 0))
      const wait = (turns: number) =>
        Effect.forEach(Array.from({ length: turns }), () => Effect.yieldNow, { discard: true })
      return yield* program(stageOf(application, listener, wait))
    }).pipe(Effect.scoped, Effect.provide(layer, { local: true }))
})

/**
 * Two hosts of a `TestNetwork`, in a simulation: the seed decides who goes on.
 * The default link takes 10 ms and up to 10 more. On one that loses frames a reset
 * may get lost, as it may with TCP, and who waits for it waits for ever.
 *
 * @category carriers
 * @since 0.1.0
 */
export const simulated = (
  options: { readonly seed?: number | undefined; readonly link?: TestNetwork.LinkOptions | undefined } = {}
): Carrier => {
  const { link = { latency: "10 millis", jitter: "10 millis" }, seed = 0 } = options
  return {
    name: "a simulated network",
    run: (program) =>
      Effect.gen(function* () {
        const simulation = Effect.gen(function* () {
          const endpoint = yield* TestNetwork.endpoint("server", 7000)
          const listener = yield* TestNetwork.on("server", Application.listen(endpoint))
          const client = yield* TestNetwork.on("client", Application.Application)
          return yield* program(stageOf(client, listener, (turns) => Effect.sleep(turns * 10)))
        }).pipe(
          Effect.scoped,
          Effect.provide(TestNetwork.layer({ hosts: { client: "10.0.0.1", server: "10.0.0.2" }, link }))
        )
        const { exit, problem } = yield* Simulation.replay(simulation, seed)
        if (problem !== undefined || exit === undefined) return yield* Effect.fail(new Error(problem))
        return yield* exit
      })
  }
}

/** As much of a socket of `node:net` as a script needs. */
interface NetSocket {
  readonly readableEnded: boolean
  readonly closed: boolean
  on(event: string, listener: (...args: ReadonlyArray<any>) => void): unknown
  off(event: string, listener: (...args: ReadonlyArray<any>) => void): unknown
  read(): Uint8Array | null
  write(bytes: Uint8Array, done: (error?: Error | null) => void): boolean
  end(): unknown
  destroy(): unknown
  resetAndDestroy(): unknown
}

/** As much of a server. */
interface NetServer {
  on(event: string, listener: (...args: ReadonlyArray<any>) => void): unknown
  listen(port: number, host: string): unknown
  close(done: () => void): unknown
  address(): unknown
}

/**
 * `node:net`, or what has its face.
 *
 * @category models
 * @since 0.1.0
 */
export interface NetLike {
  readonly createServer: (options: { readonly allowHalfOpen: boolean }) => NetServer
  readonly connect: (options: {
    readonly host: string
    readonly port: number
    readonly allowHalfOpen: boolean
  }) => NetSocket
}

const codes: { readonly [code: string]: string } = {
  ECONNRESET: "Reset",
  EPIPE: "Reset",
  ECONNREFUSED: "Nobody",
  ERR_STREAM_WRITE_AFTER_END: "BrokenPipe",
  ERR_STREAM_DESTROYED: "Closed",
  ERR_SOCKET_CLOSED: "Closed"
}

const codeOf = (error: unknown): string => {
  const { code, message } = error as { readonly code?: string; readonly message: string }
  return code === undefined ? message : (codes[code] ?? code)
}

class NetEnd implements End {
  private failure: string | undefined = undefined
  private isClosed = false
  private readonly socket: NetSocket

  constructor(socket: NetSocket) {
    this.socket = socket
    socket.on("error", (error) => {
      this.failure ??= codeOf(error)
    })
    // Before a stream says so, it may still have an error to tell.
    socket.on("close", () => {
      this.isClosed = true
    })
    // Reads ahead from here on.
    socket.on("readable", () => {})
  }

  readonly read: End["read"] = Effect.callback<Uint8Array, string>((resume) => {
    const { socket } = this
    const events = ["readable", "end", "error", "close"]
    const stop = () => {
      for (const event of events) socket.off(event, look)
    }
    const look = () => {
      const bytes = socket.read()
      const why = socket.readableEnded ? "End" : (this.failure ?? (this.isClosed ? "Closed" : undefined))
      if (bytes === null && why === undefined) return
      stop()
      resume(bytes === null ? Effect.fail(why!) : Effect.succeed(new Uint8Array(bytes)))
    }
    for (const event of events) socket.on(event, look)
    look()
    return Effect.sync(stop)
  })

  readonly write: End["write"] = (bytes) =>
    Effect.callback((resume) => {
      this.socket.write(bytes, (error) => {
        if (!error) return resume(Effect.void)
        const code = codeOf(error)
        // It was destroyed because of something.
        resume(Effect.fail(code === "Closed" ? (this.failure ?? code) : code))
      })
    })

  readonly end: Effect.Effect<void> = Effect.sync(() => void this.socket.end())

  readonly reset: Effect.Effect<void> = Effect.sync(() => void this.socket.resetAndDestroy())
}

const destroyed = (socket: NetSocket): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.on("close", () => resume(Effect.void))
    socket.destroy()
  })

/**
 * `node:net`, over a port of `127.0.0.1`, or what has its face: `CutThroughNet`,
 * for example.
 *
 * @category carriers
 * @since 0.1.0
 */
export const net = (module: NetLike, name = "node:net"): Carrier => ({
  name,
  run: (program) =>
    Effect.gen(function* () {
      const arrived: Array<NetSocket> = []
      let next: ((socket: NetSocket) => void) | undefined
      const server = module.createServer({ allowHalfOpen: true })
      server.on("connection", (socket: NetSocket) => {
        if (next === undefined) return arrived.push(socket)
        next(socket)
        next = undefined
      })
      yield* Effect.acquireRelease(
        Effect.callback<void, Error>((resume) => {
          server.on("error", (error) => resume(Effect.fail(error)))
          server.on("listening", () => resume(Effect.void))
          server.listen(0, "127.0.0.1")
        }),
        () => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
      )
      const { port } = server.address() as { readonly port: number }
      const accept = Effect.callback<NetSocket>((resume) => {
        const socket = arrived.shift()
        if (socket !== undefined) return resume(Effect.succeed(socket))
        next = (socket) => resume(Effect.succeed(socket))
      })
      const dial = (port: number) =>
        Effect.gen(function* () {
          const socket = yield* Effect.acquireRelease(
            Effect.sync(() => module.connect({ host: "127.0.0.1", port, allowHalfOpen: true })),
            destroyed
          )
          const end = new NetEnd(socket)
          yield* Effect.callback<void, string>((resume) => {
            socket.on("connect", () => resume(Effect.void))
            socket.on("error", (error) => resume(Effect.fail(codeOf(error))))
          })
          return end
        })
      return yield* program({
        connect: (to) =>
          Effect.gen(function* () {
            const client = yield* dial(to === "server" ? port : NOBODY)
            const server = new NetEnd(yield* Effect.acquireRelease(accept, destroyed))
            return { client, server }
          }),
        wait: (turns) =>
          Effect.forEach(
            Array.from({ length: turns }),
            () => Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void))),
            { discard: true }
          )
      })
    }).pipe(Effect.scoped)
})

// -----------------------------------------------------------------------------
// running
// -----------------------------------------------------------------------------

/**
 * What was seen: a line for each step that there is something to say of.
 *
 * @category models
 * @since 0.1.0
 */
export type Trace = ReadonlyArray<string>

/** So far ahead of its reader every writer may be. */
const AHEAD = 16_384

/** Whatever happens here may happen differently elsewhere. */
const ANYTHING = "anything"

/** A read or a write that has begun. */
interface Operation {
  readonly line: number
  readonly fiber: Fiber.Fiber<string>
  /** Of a read: how many bytes. Of a write: how many there are with it. */
  readonly bytes: number
  /** It is behind the end of its own stream. */
  readonly isBehindEnd: boolean
  /** It has to be done by now. */
  isDue: boolean
  outcome: string | undefined
}

/** One end, as it is and as it has to be. */
class Actor {
  readonly end: End
  readonly side: Side
  peer!: Actor
  written = 0
  hasEnded = false
  hasReset = false
  /** What reads have to have taken by now. */
  consumed = 0
  readonly reads: Array<Operation> = []
  readonly writes: Array<Operation> = []
  private readTail: Fiber.Fiber<unknown> | undefined = undefined
  private writeTail: Fiber.Fiber<unknown> | undefined = undefined
  private position = 0
  private rest: Uint8Array = new Uint8Array(0)
  /** Why there is nothing more to read. */
  private over: string | undefined = undefined

  constructor(side: Side, end: End) {
    this.side = side
    this.end = end
  }

  /** One after the other, in the order in which they were asked for. */
  read(count: number, scope: Scope.Scope, step: () => number): Effect.Effect<Fiber.Fiber<string>> {
    const tail = this.readTail
    const turn = Effect.andThen(tail === undefined ? Effect.void : Fiber.await(tail), this.reading(count, step))
    return Effect.map(Effect.forkIn(turn, scope, { startImmediately: true }), (fiber) => (this.readTail = fiber))
  }

  write(count: number, scope: Scope.Scope): Effect.Effect<Fiber.Fiber<string>> {
    const tail = this.writeTail
    const bytes = Bytes.pattern(count, this.written)
    this.written += count
    const turn = Effect.andThen(
      tail === undefined ? Effect.void : Fiber.await(tail),
      Effect.map(Effect.result(this.end.write(bytes)), (result) =>
        Result.isSuccess(result) ? "taken" : result.failure
      )
    )
    return Effect.map(Effect.forkIn(turn, scope, { startImmediately: true }), (fiber) => (this.writeTail = fiber))
  }

  /** Behind what is being written. */
  endStream(scope: Scope.Scope): Effect.Effect<void> {
    this.hasEnded = true
    const tail = this.writeTail
    if (tail === undefined || tail.pollUnsafe() !== undefined) return this.end.end
    const turn = Effect.andThen(Fiber.await(tail), this.end.end)
    return Effect.map(Effect.forkIn(turn, scope, { startImmediately: true }), (fiber) => {
      this.writeTail = fiber
    })
  }

  /** It knows of its peer's reset, for certain. */
  get hasReadReset(): boolean {
    return this.over === "Reset"
  }

  private reading(count: number, step: () => number): Effect.Effect<string> {
    return Effect.gen({ self: this }, function* () {
      let taken = 0
      let wrong: Bytes.Misplaced | undefined
      // After a reset it counts how it ends, and not how much of what was there is left.
      const left = () => (this.peer.hasReset ? Infinity : count) - taken
      while (left() > 0) {
        if (this.rest.length === 0) {
          if (this.over !== undefined) break
          const result = yield* Effect.result(this.end.read)
          if (Result.isFailure(result)) {
            this.over = this.named(result.failure)
            break
          }
          this.rest = result.success
        }
        const piece = this.rest.subarray(0, left())
        wrong ??= Bytes.misplaced(piece, this.position)
        this.rest = this.rest.subarray(piece.length)
        this.position += piece.length
        taken += piece.length
      }
      if (wrong !== undefined) return `byte ${wrong.position} is wrong`
      const when = `in step ${step()}`
      if (this.hasReset) return `Closed ${when}`
      if (this.peer.hasReset) return `${this.over} ${when}`
      return taken === count ? `${taken} bytes ${when}` : `${taken} bytes, then ${this.over} ${when}`
    })
  }

  private named(why: string): string {
    if (this.hasReset) return "Closed"
    return this.peer.hasReset && this.peer.hasEnded && (why === "End" || why === "Reset") ? "End or Reset" : why
  }
}

/** Who has broken off or ended itself gets an error, whatever it is called. */
const nameOf = (actor: Actor, operation: Operation, outcome: string): string => {
  if (outcome === "taken" || !actor.writes.includes(operation)) return outcome
  if (actor.hasReset) return "Closed"
  return operation.isBehindEnd ? "BrokenPipe" : outcome
}

/** A connection, and what has to be done by now. */
class Conversation {
  readonly client: Actor
  readonly server: Actor
  /** Nothing that happens here says anything any more. */
  isOver = false

  constructor(ends: { readonly [side in Side]: End }) {
    this.client = new Actor("client", ends.client)
    this.server = new Actor("server", ends.server)
    this.client.peer = this.server
    this.server.peer = this.client
  }

  get actors(): ReadonlyArray<Actor> {
    return [this.client, this.server]
  }

  /** Marks what has to be done now. */
  settle(): void {
    for (const actor of this.actors) {
      const { peer } = actor
      const isBroken = actor.hasReset || peer.hasReset
      for (const read of actor.reads) {
        if (read.isDue) continue
        const there = peer.written - actor.consumed
        if (!isBroken && there < read.bytes && !peer.hasEnded) break
        read.isDue = true
        actor.consumed += Math.min(there, read.bytes)
      }
    }
    for (const actor of this.actors) {
      const isBroken = actor.hasReset || actor.peer.hasReset
      for (const write of actor.writes) {
        if (!write.isDue) write.isDue = isBroken || write.bytes - actor.peer.consumed <= AHEAD
      }
    }
  }

  /** What has not been done by now may be done or not. */
  loosen(): void {
    for (const { writes } of this.actors) {
      for (const write of writes) if (!write.isDue) write.outcome = ANYTHING
    }
  }

  /** Everything that has begun may come to anything. */
  abandon(): void {
    this.isOver = true
    for (const { reads, writes } of this.actors) {
      for (const operation of [...reads, ...writes]) operation.outcome ??= ANYTHING
    }
  }
}

/**
 * Runs a script over a carrier, and returns what both ends saw. Fails with what
 * the carrier fails with.
 *
 * **Example** (What a client sees of an echo)
 *
 * ```ts
 * import { Parity } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const script: Parity.Script = [
 *   { do: "connect", to: "server" },
 *   { do: "write", on: 0, by: "client", bytes: 100 },
 *   { do: "read", on: 0, by: "server", bytes: 60 },
 *   { do: "reset", on: 0, by: "client" },
 *   { do: "read", on: 0, by: "server", bytes: 60 }
 * ]
 * const trace = await Effect.runPromise(Parity.run(Parity.cutThrough(), script))
 *
 * trace[2] // => "2 server of 0: read 60 => 60 bytes in step 2"
 * trace[4] // => "4 server of 0: read 60 => Reset in step 4"
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = (
  carrier: Carrier,
  script: Script,
  options: {
    /** How long to wait for what has to happen, on the carrier's clock. Default 20 seconds. */
    readonly patience?: Duration.Input | undefined
  } = {}
): Effect.Effect<Trace, unknown> =>
  carrier.run((stage) =>
    Effect.gen(function* () {
      const { patience = "20 seconds" } = options
      const scope = yield* Effect.scope
      const lines: Array<string> = []
      const conversations: Array<Conversation> = []
      let step = 0

      const begin = (actor: Actor, what: "read" | "write", count: number, line: number) =>
        Effect.gen(function* () {
          const { peer } = actor
          const isUncertain = peer.hasReset && !actor.hasReadReset && !actor.hasReset
          const fiber = yield* what === "read" ? actor.read(count, scope, () => step) : actor.write(count, scope)
          const operation: Operation = {
            line,
            fiber,
            bytes: what === "read" ? count : actor.written,
            isBehindEnd: what === "write" && actor.hasEnded && !actor.hasReset,
            isDue: false,
            outcome: what === "write" && isUncertain ? ANYTHING : undefined
          }
          actor[what === "read" ? "reads" : "writes"].push(operation)
          return operation
        })

      const settle = Effect.gen(function* () {
        for (const conversation of conversations) {
          if (conversation.isOver) continue
          conversation.settle()
          for (const actor of conversation.actors) {
            for (const operation of [...actor.reads, ...actor.writes]) {
              if (!operation.isDue || operation.outcome !== undefined) continue
              const exit = yield* Effect.timeoutOption(Fiber.await(operation.fiber), patience)
              if (Option.isNone(exit)) operation.outcome = "it hangs"
              else if (Exit.isFailure(exit.value)) operation.outcome = "it dies"
              else operation.outcome = nameOf(actor, operation, exit.value.value)
            }
          }
        }
      })

      const perform = (one: Step): Effect.Effect<void, never, Scope.Scope> =>
        Effect.gen(function* () {
          const line = lines.length
          lines.push(`${step} ${formatStep(one)}`)
          if (one.do === "connect") {
            const ends = yield* Effect.result(stage.connect(one.to))
            lines[line] += Result.isSuccess(ends) ? " => connected" : ` => ${ends.failure}`
            if (Result.isSuccess(ends)) conversations.push(new Conversation(ends.success))
            return
          }
          if (one.do === "wait") return yield* stage.wait(one.turns)
          const conversation = conversations[one.on % conversations.length]
          if (conversation === undefined || conversation.isOver) return
          const actor = conversation[one.by]
          if (one.do === "read" || one.do === "write") {
            const operation = yield* begin(actor, one.do, one.bytes, line)
            if (!operation.isBehindEnd) return
            operation.isDue = true
            yield* settle
            conversation.abandon()
            yield* Effect.forEach(conversation.actors, ({ end }) => end.reset, { discard: true })
          } else if (one.do === "end") {
            if (!actor.hasEnded && !actor.hasReset) yield* actor.endStream(scope)
          } else if (!actor.hasReset) {
            conversation.loosen()
            actor.hasReset = true
            yield* actor.end.reset
          }
        })

      for (const one of script) {
        yield* perform(one)
        yield* settle
        step++
      }
      // Whoever still can ends its stream, and reads to the end of the other one.
      for (const [on, conversation] of conversations.entries()) {
        if (conversation.isOver) continue
        const { actors } = conversation
        if (actors.every(({ hasReset }) => !hasReset)) {
          for (const actor of actors) if (!actor.hasEnded) yield* actor.endStream(scope)
        }
        for (const actor of actors) {
          if (actor.hasReset) continue
          lines.push(`${step} ${actor.side} of ${on}: read all`)
          yield* begin(actor, "read", Infinity, lines.length - 1)
        }
      }
      yield* settle
      for (const { actors } of conversations) {
        for (const { reads, writes } of actors) {
          for (const { line, outcome } of [...reads, ...writes]) lines[line] += ` => ${outcome}`
        }
      }
      yield* Effect.forEach(
        conversations.flatMap(({ actors }) => actors),
        ({ end }) => end.reset,
        { discard: true }
      )
      return lines
    })
  )

// -----------------------------------------------------------------------------
// comparing
// -----------------------------------------------------------------------------

/**
 * A script that has two traces.
 *
 * @category errors
 * @since 0.1.0
 */
export class ParityError extends Data.TaggedError("ParityError")<{
  readonly script: Script
  /** Those of the first carrier and of the one that differs, or what it failed with. */
  readonly traces: { readonly [carrier: string]: Trace }
  /** Finds it again, as the option of {@link check}. */
  readonly replay?: string | undefined
}> {
  override get message(): string {
    const [[one, here], [other, there]] = Object.entries(this.traces)
    const lines: Array<string> = [`${one} and ${other} do not do the same:`]
    for (let i = 0; i < Math.max(here.length, there.length); i++) {
      if (here[i] === there[i]) lines.push(`    ${here[i]}`)
      else lines.push(`  ! ${here[i] ?? "nothing"} (${one})`, `  ! ${there[i] ?? "nothing"} (${other})`)
    }
    if (this.replay !== undefined) lines.push(`to see it again: { replay: ${JSON.stringify(this.replay)} }`)
    return lines.join("\n")
  }
}

/**
 * Fails with a {@link ParityError} unless a script has the same trace over all
 * carriers.
 *
 * @category running
 * @since 0.1.0
 */
export const compare = (carriers: ReadonlyArray<Carrier>, script: Script): Effect.Effect<Trace, ParityError> =>
  Effect.gen(function* () {
    const [first, ...others] = carriers
    const traceOf = (carrier: Carrier): Effect.Effect<Trace> =>
      Effect.catchCause(run(carrier, script), (cause) => Effect.succeed([`it failed: ${String(cause)}`]))
    const trace = yield* traceOf(first)
    for (const other of others) {
      const its = yield* traceOf(other)
      if (its.join("\n") === trace.join("\n")) continue
      return yield* new ParityError({ script, traces: { [first.name]: trace, [other.name]: its } })
    }
    return trace
  })

/**
 * What has been compared.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly scripts: number
  readonly steps: number
  /** How often which kind of outcome was seen: `bytes`, `Reset`, ... */
  readonly outcomes: { readonly [outcome: string]: number }
}

/**
 * Compares carriers over scripts that are made up by a seed. The first script
 * with two traces is made small, and fails.
 *
 * **Example** (Fibers and a simulated network)
 *
 * ```ts
 * import { Parity } from "@cut-through/testing"
 * import { Effect } from "effect"
 *
 * const carriers = [Parity.cutThrough(), Parity.simulated()]
 * const { scripts } = await Effect.runPromise(Parity.check(carriers, { runs: 20 }))
 * scripts // => 20
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const check = (
  carriers: ReadonlyArray<Carrier>,
  options: {
    /** How many scripts. Default 100. */
    readonly runs?: number | undefined
    /** What they follow from. Default 0. */
    readonly seed?: string | number | undefined
    /** How long scripts get. Default 30. */
    readonly size?: number | undefined
    /** Only this one, which a {@link ParityError} names. */
    readonly replay?: string | undefined
    /** Where scripts come from. Default: {@link script}. */
    readonly scripts?: Arbitrary.Arbitrary<Script> | undefined
  } = {}
): Effect.Effect<Report, ParityError> =>
  Effect.gen(function* () {
    const { replay, runs = 100, scripts = script, seed = 0, size = 30 } = options
    const outcomes: Record<string, number> = {}
    let steps = 0
    const same = (one: Script) =>
      Effect.map(compare(carriers, one), (trace) => {
        steps += one.length
        for (const line of trace) {
          const kind = line
            .split(" => ")[1]
            ?.replace(/^\d+ bytes(, then )?/, (_, then) => (then === undefined ? "bytes" : ""))
          if (kind === undefined) continue
          const short = kind.replace(/ in step \d+$/, "")
          outcomes[short] = (outcomes[short] ?? 0) + 1
        }
        return true
      })
    const result = yield* Arbitrary.checkEffect(scripts, same, { runs, seed, size, replay, maxShrinks: 500 })
    if (result._tag === "Passed") return { scripts: result.runs, steps, outcomes }
    if (result._tag === "Falsified" && result.failure._tag === "PropertyError") {
      const { script, traces } = result.failure.error
      return yield* new ParityError({ script, traces, replay: result.replay })
    }
    return yield* Effect.die(new Error(`no script was compared: ${result._tag}`))
  })
