/** What the tests of distrust share: hosts that are checked for what is left, guests that say whatever they like, and those who must not notice. */
import { Application, type Connection, Endpoint } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import { CutThroughHost, CutThroughNode, CutThroughWorker } from "@cut-through/platform"
import type { Host } from "@cut-through/platform/thread/Host"
import { Control, type Listener } from "@cut-through/platform/thread/Control"
import type { Residue } from "@cut-through/platform/thread/Guest"
import * as Poller from "@cut-through/platform/thread/Poller"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import type { Record } from "@cut-through/platform/thread/Ring"
import { Leaks } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { MessageChannel, type MessagePort, type Transferable } from "node:worker_threads"
import { misplaced, pattern } from "../../../core/test/fixtures.ts"

export type HostServices = SessionLayer | CutThroughHost.CutThroughHost

/** Guests find it by its name; nothing of it is left at the end, and nothing of its guests. */
export const layerHost = (name?: string): Layer.Layer<HostServices, SessionError> => {
  const atRest = Layer.effectDiscard(
    Effect.flatMap(CutThroughHost.CutThroughHost, (host) =>
      Effect.addFinalizer(() =>
        Effect.map(
          // Those who have closed their port are about to be heard of.
          until(() => host.stats().guests === 0),
          () => {
            const { mappings, pairs } = host.stats()
            assert.deepStrictEqual({ mappings, pairs }, { mappings: 0, pairs: 0 })
          }
        )
      )
    )
  )
  // From the top: guests are gone, then the host lets go of those who are not, then nothing is left in the session layer.
  return atRest.pipe(
    Layer.provideMerge(CutThroughHost.layer({ name })),
    Layer.provideMerge(Leaks.layerSessions()),
    Layer.provide(CutThroughNode.layerCopy),
    Layer.fresh
  )
}

/** Lets the event loop turn until something is true. */
export const until = (isTrue: () => boolean): Effect.Effect<void> =>
  Effect.callback((resume) => {
    let isWanted = true
    const look = () => {
      if (!isWanted) return
      if (isTrue()) resume(Effect.void)
      else setImmediate(look)
    }
    look()
    return Effect.sync(() => void (isWanted = false))
  })

/** Attaches a guest of this thread: one that behaves. */
export const attachHere = (
  options: Omit<CutThroughWorker.Options, "host" | "timeout">
): Effect.Effect<
  { readonly application: Application.Application["Service"]; readonly residue: () => Residue },
  SessionError,
  CutThroughHost.CutThroughHost | Scope.Scope
> =>
  Effect.gen(function* () {
    const host = yield* CutThroughHost.CutThroughHost
    const { port1, port2 } = new MessageChannel()
    host.accept(port1)
    const services = yield* Layer.build(Layer.fresh(CutThroughWorker.layerPort(port2, options)))
    const { residue } = Context.get(services, CutThroughWorker.CutThroughWorker)
    return { application: Context.get(services, Application.Application), residue }
  })

// ---------------------------------------------------------------------------
// guests that say whatever they like
// ---------------------------------------------------------------------------

type Tag = Protocol.Message["_tag"]
export type Heard<T extends Tag> = Extract<Protocol.Message, { readonly _tag: T }>

/** The numbers of requests that it waits for are below this. */
export const OWN_IDS = -1_000_000

type Fill = (record: Record) => unknown

/** What is no request goes through the port. */
const sayings: typeof Protocol.requests = {
  ...Protocol.requests,
  write(record, message: Protocol.Request | Fill) {
    if (typeof message === "function") message(record)
    else if (Protocol.decodeRequest(message)._tag === "Failure" || !Protocol.requests.write(record, message))
      return false
    return true
  }
}

/**
 * The bare end of a control port, and all that the host has said to it. It lets go of segments only when it is told to.
 * It has a ring when it attaches with one.
 */
export class RawGuest implements Listener<Protocol.Message> {
  readonly heard: Array<Protocol.Message> = []
  readonly segments = new Map<number, SharedArrayBuffer>()
  readonly pairs = new Map<number, Heard<"Pair">>()
  readonly listeners = new Map<number, Heard<"Listening">>()
  readonly sessions = new Map<number, Protocol.SessionInfo>()
  readonly subscriptions: Array<number> = []
  /** The memory of its ring. */
  ring: SharedArrayBuffer | undefined = undefined
  private readonly regions = new Map<number, SharedArrayBuffer>()
  /** Whether the host has closed its port: then nothing is answered any more. */
  isOver = false
  private readonly port: MessagePort
  private readonly control: Control<Protocol.Request, Protocol.Message>
  private isOpen = true
  private lastId = OWN_IDS
  private onHeard: Array<() => void> = []

  constructor(host: Host) {
    const { port1, port2 } = new MessageChannel()
    host.accept(port1)
    this.port = port2
    this.control = new Control(port2, Poller.make(), sayings, Protocol.messages, this)
    port2.ref()
  }

  onMessage(message: unknown): void {
    this.hear(message as Protocol.Message)
  }

  /** It may have written over what the host has said. */
  onRecord(message: Protocol.Message | undefined): void {
    if (message !== undefined) this.hear(message)
  }

  onUnreadable(): void {}

  onBroken(): void {}

  onClose(): void {
    this.isOver = true
    for (const look of this.onHeard.splice(0)) look()
  }

  private hear(message: Protocol.Message): void {
    this.heard.push(message)
    switch (message._tag) {
      case "Attached":
        this.ring = message.ring
        if (message.ring !== undefined) this.control.open(message.ring, 1)
        break
      case "Segment": {
        const buffer = message.buffer ?? this.regions.get(message.region!)!
        if (message.region !== undefined) this.regions.set(message.region, buffer)
        this.segments.set(message.segment, buffer)
        break
      }
      case "Pair":
        this.pairs.set(message.pair, message)
        break
      case "Listening":
        this.listeners.set(message.listener, message)
        break
      case "Connected":
      case "Accepted":
        if (message.session !== undefined) this.sessions.set(message.session.session, message.session)
        break
      case "Subscribed":
        this.subscriptions.push(message.subscription)
    }
    for (const look of this.onHeard.splice(0)) look()
  }

  /** Anything at all. */
  say(message: unknown, transfer: ReadonlyArray<Transferable> = []): void {
    if (!this.isOpen) return
    if (transfer.length > 0) this.port.postMessage(message, transfer)
    else this.control.post(message as Protocol.Request)
  }

  /** Any record at all. */
  write(fill: Fill): void {
    this.control.post(fill as unknown as Protocol.Request)
  }

  request(request: Protocol.Request): void {
    this.say(request)
  }

  /** The first message that has this tag and is like this, once it has been heard. */
  await<T extends Tag>(tag: T, isIt: (message: Heard<T>) => boolean = () => true): Effect.Effect<Heard<T>> {
    const isMeant = (message: Protocol.Message) => message._tag === tag && isIt(message as Heard<T>)
    return this.find(isMeant) as Effect.Effect<Heard<T>>
  }

  /** Asks with a number of its own, and waits for the answer. */
  ask(make: (id: number) => Protocol.Request): Effect.Effect<Protocol.Message> {
    return Effect.suspend(() => {
      const id = --this.lastId
      this.request(make(id))
      return this.find((message) => "id" in message && message.id === id)
    })
  }

  private find(isMeant: (message: Protocol.Message) => boolean): Effect.Effect<Protocol.Message> {
    return Effect.callback((resume) => {
      let at = 0
      const look = () => {
        for (; at < this.heard.length; at++) if (isMeant(this.heard[at])) return resume(Effect.succeed(this.heard[at]))
        this.onHeard.push(look)
      }
      look()
    })
  }

  /** Waits until all it has said was handled. Costs one message that makes no sense. */
  readonly sync: Effect.Effect<void> = this.ask((id) => ({ _tag: "Unlisten", id, listener: -1 })).pipe(
    Effect.map((answer) => assert.strictEqual(reasonOf(answer), "InvalidArgument"))
  )

  /** The same of one that may have detached: then it waits until the host has let go of it. */
  readonly syncOrOver: Effect.Effect<void> = Effect.raceFirst(
    this.sync,
    Effect.suspend(() => this.over)
  )

  /** Waits until the host has let go of it. */
  readonly over: Effect.Effect<void> = Effect.callback((resume) => {
    const look = () => {
      if (this.isOver) resume(Effect.void)
      else this.onHeard.push(look)
    }
    look()
  })

  /** As a thread that dies. */
  close(): void {
    this.isOpen = false
    this.control.close()
  }
}

/** One that dies with the scope. */
export const rawGuest: Effect.Effect<RawGuest, never, CutThroughHost.CutThroughHost | Scope.Scope> = Effect.flatMap(
  CutThroughHost.CutThroughHost,
  (host) =>
    Effect.acquireRelease(
      Effect.sync(() => new RawGuest(host)),
      (raw) => Effect.sync(() => raw.close())
    )
)

/** Why a request has failed, or what answered it. */
export const reasonOf = (message: Protocol.Message): string =>
  message._tag === "Failed" || message._tag === "Rejected"
    ? Protocol.decodeError(message.error).reason._tag
    : message._tag

// ---------------------------------------------------------------------------
// those who must not notice
// ---------------------------------------------------------------------------

/** Sends back what comes, until the end. */
export const echo = (connection: Connection.Connection): Effect.Effect<void, SessionError> =>
  Effect.gen(function* () {
    const buffer = new Uint8Array(4096)
    while (true) yield* connection.write(buffer.subarray(0, yield* connection.readInto(buffer)))
  }).pipe(Effect.catchIf(Cause.isDone, () => connection.end)) as Effect.Effect<void, SessionError>

/** Sends bytes that say where they belong to somebody who sends them back, and looks at each of them. */
export const exchange = (connection: Connection.Connection, from: number, length: number) =>
  Effect.gen(function* () {
    const writing = yield* Effect.forkChild(connection.write(pattern(length, from)))
    const buffer = new Uint8Array(4096)
    let at = 0
    while (at < length) {
      const count = yield* connection.readInto(buffer)
      const wrong = misplaced(buffer.subarray(0, count), from + at)
      if (wrong >= 0) assert.fail(`byte ${wrong} of a stranger's connection is wrong`)
      at += count
    }
    assert.strictEqual(at, length)
    yield* Fiber.join(writing)
  })

export interface Bystanders {
  /** All of them exchange bytes, over connections that stay and over new ones. */
  readonly round: Effect.Effect<void, unknown>
  /** Rounds so far. */
  readonly rounds: () => number
}

/**
 * An application in the host's thread and one that lives elsewhere, each of which serves the other: they talk over
 * connections that live as long as they do, and over one that is made for each round.
 */
export const bystanders = (
  here: Application.Application["Service"],
  elsewhere: Endpoint.Endpoint
): Effect.Effect<Bystanders, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const lasting = yield* here.connect(elsewhere)
    let rounds = 0
    const round = Effect.gen(function* () {
      yield* exchange(lasting, rounds * 1000, 1 + ((rounds * 977) % 9000))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* here.connect(elsewhere)
          yield* exchange(connection, 7 * rounds, 1 + ((rounds * 131) % 3000))
          yield* connection.end
          const last = yield* Effect.exit(connection.read)
          if (!Exit.isFailure(last) || !Cause.hasFails(last.cause)) assert.fail("a stranger's stream does not end")
        })
      )
      rounds++
    })
    return { round, rounds: () => rounds }
  })

/** Bystanders in this thread: an application of the host, and a guest that echoes. */
export const bystandersHere: Effect.Effect<Bystanders, unknown, HostServices | Scope.Scope> = Effect.gen(function* () {
  const here = yield* Application.make({ name: "bystander", rxFifoSize: 1000, txFifoSize: 1000 })
  const { application } = yield* attachHere({ name: "other guest", rxFifoSize: 1000, txFifoSize: 1000 })
  const listener = yield* application.listen(Endpoint.tcp("127.0.0.1", 0))
  yield* Effect.forkScoped(listener.run(echo))
  return yield* bystanders(here, listener.address)
})
