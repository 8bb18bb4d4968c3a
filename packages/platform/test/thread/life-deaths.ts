/** Programs of threads that die, and of those who are left. */
import * as Application from "@cut-through/core/Application"
import type { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as CutThroughWorker from "@cut-through/platform/CutThroughWorker"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { streamAt } from "../../../core/test/memory/threads.ts"
import { drain, echo, type End, failsWith, type Talk } from "./life-talk.ts"

/** How a thread dies. The last two it does not do itself. */
export const deaths = ["process.exit", "throw", "unhandled rejection", "terminate", "terminate in a loop"] as const
export type Death = (typeof deaths)[number]

const die = (how: Death): void => {
  switch (how) {
    case "process.exit":
      return process.exit(3)
    case "throw":
      return void setImmediate(() => {
        throw new Error("thrown for the test")
      })
    case "unhandled rejection":
      return void Promise.reject(new Error("rejected for the test"))
    case "terminate in a loop":
      for (;;);
    case "terminate":
  }
}

/** Where somebody listens: at once, and with questions that nobody answers. */
export interface Ports {
  readonly open: number
  readonly asking: number
}

export interface DoomedPorts extends Ports {
  readonly echoing: number
}

const PIECE = 1000

/** Words of the memory in which a thread says how much it has written to one of those who are left. */
export const COUNTERS = 2

const at = (port: number) => Endpoint.tcp("127.0.0.1", port)
const listen = (options?: Application.ListenOptions) => Application.listen(at(0), options)

/** Writes for ever, and says after each piece how much that was. */
const writeOn = (connection: Connection, counters: Int32Array, index: number) =>
  Effect.gen(function* () {
    for (let written = 0; ; written += PIECE) {
      Atomics.store(counters, index, written)
      yield* connection.write(streamAt(written, PIECE))
    }
  })

const background = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(Effect.ignore(effect))

export interface DoomedArgs {
  /** Of those who are left. */
  readonly witnesses: ReadonlyArray<Ports>
  readonly counters: ReadonlyArray<Int32Array>
}

/** One write that does not end: so many bytes that nobody reads them all. */
const MANY = 100_000_000

/** Does everything at once, until it is told how to die. */
export const doomed = (talk: Talk, { counters, witnesses }: DoomedArgs) =>
  Effect.gen(function* () {
    const manyBytes = new Uint8Array(MANY)
    for (let i = 0; i < MANY; i += 65_536) manyBytes.set(streamAt(i, Math.min(65_536, MANY - i)), i)
    const open = yield* listen()
    const asking = yield* listen({ approval: "application" })
    yield* Effect.forEach(witnesses, (witness, i) =>
      Effect.gen(function* () {
        const idle = yield* Application.connect(at(witness.open))
        const busy = yield* Application.connect(at(witness.open))
        const big = yield* Application.connect(at(witness.open))
        const unread = yield* Application.connect(at(witness.open))
        yield* background(writeOn(idle, counters[i], 0))
        yield* background(writeOn(busy, counters[i], 1))
        yield* background(big.write(manyBytes))
        // A reader that waits, until there is something: then it reads no more.
        yield* background(unread.readInto(new Uint8Array(1)))
        yield* background(Application.connect(at(witness.asking)))
        // Nobody accepts it as long as this thread lives.
        const late = yield* Application.connect(at(witness.open))
        yield* late.write(streamAt(0, PIECE))
      })
    )
    // With itself, too.
    const inner = yield* listen()
    yield* Effect.forkScoped(inner.run(echo))
    const self = yield* Application.connect(inner.address)
    yield* background(writeOn(self, new Int32Array(COUNTERS), 0))
    yield* background(drain(self))

    const ports: DoomedPorts = {
      open: open.address.port,
      asking: asking.address.port,
      echoing: inner.address.port
    }
    yield* talk.say(ports)
    die(yield* talk.hear)
    return yield* Effect.never
  }).pipe(Effect.provide(CutThroughWorker.layer({ name: "doomed", segmentSize: "2 MiB" })))

/** What somebody who is left has seen. */
export interface Seen {
  /** What the doomed had written before: read afterwards, and as it came. */
  readonly idle: End
  readonly busy: End
  readonly big: End
  /** Why what it did not read could not be written. */
  readonly unread: string
  readonly unaccepted: End
  /** What it had echoed, and why no more could be sent. */
  readonly echoed: End
  readonly unechoed: string
  /** What it had written to a connection that was accepted after its death. */
  readonly late: End
  /** Why its question had no answer. */
  readonly unanswered: string
  /** Why a question of the doomed could not be answered any more. */
  readonly question: string
  /** The doomed's ports, when its death was first noticed. */
  readonly ports: ReadonlyArray<string>
}

/** Is connected with the doomed in every way. Returns what is seen of its death. */
export const witness = (talk: Talk, triesPorts: boolean) =>
  Effect.gen(function* () {
    const listener = yield* listen()
    const questions = yield* listen({ approval: "application" })
    yield* talk.say({ open: listener.address.port, asking: questions.address.port } satisfies Ports)
    const idle = yield* listener.accept
    const busy = yield* listener.accept
    const big = yield* listener.accept
    const unread = yield* listener.accept
    const question = yield* questions.request

    const doomed: DoomedPorts = yield* talk.hear
    const unaccepted = yield* Application.connect(at(doomed.open))
    const asking = yield* Effect.forkChild(Effect.flip(Application.connect(at(doomed.asking))), {
      startImmediately: true
    })
    const isDead = yield* Deferred.make<void>()
    const notice = Effect.tap(drain(busy), () => Deferred.succeed(isDead, undefined))
    const reading = yield* Effect.forkChild(notice)
    const readingBig = yield* Effect.forkChild(drain(big))
    const writing = yield* Effect.forkChild(failsWith(unread.write(new Uint8Array(10_000_000))))
    const echoing = yield* Application.connect(at(doomed.echoing))
    const sending = yield* Effect.forkChild(failsWith(writeOn(echoing, new Int32Array(COUNTERS), 0)))
    const echoed = yield* Effect.forkChild(drain(echoing))
    yield* talk.say("ready")

    yield* Deferred.await(isDead)
    const ports: Array<string> = []
    for (const port of triesPorts ? [doomed.open, doomed.asking] : []) {
      ports.push(yield* failsWith(Effect.scoped(Application.connect(at(port)))))
      const again = yield* Effect.exit(Effect.scoped(Application.listen(at(port))))
      ports.push(Exit.isSuccess(again) ? "free" : "taken")
    }
    return {
      busy: yield* Fiber.join(reading),
      idle: yield* drain(idle),
      big: yield* Fiber.join(readingBig),
      unread: yield* Fiber.join(writing),
      unaccepted: yield* drain(unaccepted),
      echoed: yield* Fiber.join(echoed),
      unechoed: yield* Fiber.join(sending),
      late: yield* Effect.flatMap(listener.accept, (late) => drain(late)),
      unanswered: (yield* Fiber.join(asking)).message,
      question: yield* failsWith(question.accept),
      ports
    } satisfies Seen
  })

/** Does one thing over and over again, until its thread dies. Says each time that it has. */
export const churn = (
  talk: Talk,
  { port, what }: { readonly what: "attach" | "listen" | "connect"; readonly port: number }
) =>
  Effect.gen(function* () {
    const layer = CutThroughWorker.layer({ name: "churn", segmentSize: "1 MiB" })
    if (what === "attach") {
      return yield* Effect.forever(Effect.andThen(Effect.scoped(Layer.build(Layer.fresh(layer))), talk.say(what)))
    }
    const once =
      what === "listen"
        ? Effect.scoped(listen())
        : Effect.scoped(
            Effect.flatMap(Application.connect(at(port)), (connection) => connection.write(streamAt(0, 5000)))
          )
    return yield* Effect.provide(Effect.forever(Effect.andThen(once, talk.say(what))), layer)
  })

/** Serves echoes, and blocks its thread when it is told to, until it is woken. */
export const stalling = (talk: Talk, bell: Int32Array) =>
  Effect.gen(function* () {
    const listener = yield* listen()
    yield* Effect.forkScoped(listener.run(echo))
    yield* talk.say(listener.address.port)
    yield* talk.hear
    yield* talk.say("stalls")
    Atomics.wait(bell, 0, 0)
    yield* talk.say("goes on")
    yield* talk.hear
  })

/** Serves echoes until it is told to stop. */
export const serving = (talk: Talk) =>
  Effect.gen(function* () {
    const listener = yield* listen()
    yield* Effect.forkScoped(listener.run(echo))
    yield* talk.say(listener.address.port)
    yield* talk.hear
  })
