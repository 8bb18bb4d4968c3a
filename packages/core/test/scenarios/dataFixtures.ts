/** What the scenarios of bytes, events and locks share. */
import { Application, type Connection, Endpoint, type Listener } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import * as Connections from "@cut-through/core/session/Connections"
import type { Session, SessionId } from "@cut-through/core/session/Session"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import { Leaks } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"

/** Where servers of the scenarios listen, in both families. */
export const families = {
  v4: Endpoint.tcp("127.0.0.1", 7000),
  v6: Endpoint.tcp("::1", 7000)
} as const

export type Family = keyof typeof families

export const familyNames = Object.keys(families) as ReadonlyArray<Family>

// ---------------------------------------------------------------------------
// session layers
// ---------------------------------------------------------------------------

/** A session layer over memory and locks in place, checked for leaks at the end. */
export const layerOver = (
  services: {
    readonly segments?: Layer.Layer<SegmentContext.SegmentContext, never, SharedMemory.SharedMemory | Lock.Lock>
    readonly wake?: Layer.Layer<Wake.Wake>
    readonly workers?: number
  } = {}
): Layer.Layer<SessionLayer.SessionLayer, SessionError, SharedMemory.SharedMemory | Lock.Lock> =>
  Leaks.layerCheck.pipe(
    Layer.provideMerge(SessionLayer.layerNoDeps({ workers: services.workers })),
    Layer.provide([Connections.layer, services.segments ?? SegmentContext.layer, services.wake ?? Wake.layer])
  )

/** The same over the real memory and locks, unless others are given. */
export const layerWith = (
  services: {
    readonly lock?: Layer.Layer<Lock.Lock>
    readonly memory?: Layer.Layer<SharedMemory.SharedMemory>
    readonly wake?: Layer.Layer<Wake.Wake>
    readonly workers?: number
  } = {}
): Layer.Layer<SessionLayer.SessionLayer, SessionError> =>
  Layer.fresh(Layer.provide(layerOver(services), [services.memory ?? SharedMemory.layer, services.lock ?? Lock.layer]))

/** Memory that comes when the test says so: `SharedMemory.layer` has it at once, so nothing could come in between. */
export class SlowMemory {
  private readonly memory = Effect.runSync(SharedMemory.make())
  private readonly waiting: Array<Deferred.Deferred<void, SessionError>> = []

  /** Allocations that wait. */
  get pending(): number {
    return this.waiting.length
  }

  readonly service: SharedMemory.SharedMemory["Service"] = SharedMemory.SharedMemory.of({
    ...this.memory,
    tryAllocate: () => undefined,
    allocate: (bytes) =>
      Effect.suspend(() => {
        const gate = Deferred.makeUnsafe<void, SessionError>()
        this.waiting.push(gate)
        return Effect.andThen(Deferred.await(gate), this.memory.allocate(bytes))
      })
  })

  readonly layer = Layer.succeed(SharedMemory.SharedMemory, this.service)

  /** Lets the oldest allocation succeed, or fail with an error. */
  answer(error?: SessionError): void {
    const gate = this.waiting.shift()
    assert.isDefined(gate, "nobody waits for memory")
    Deferred.doneUnsafe(gate, error === undefined ? Effect.void : Effect.fail(error))
  }
}

// ---------------------------------------------------------------------------
// applications and connections
// ---------------------------------------------------------------------------

export type App = Application.Application["Service"]
export type AppOptions = Partial<SessionLayer.AttachOptions>

/** Two applications in the scope of the caller. */
export const twoApps = (options: { readonly server?: AppOptions; readonly client?: AppOptions } = {}) =>
  Effect.all({
    server: Application.make({ name: "server", ...options.server }),
    client: Application.make({ name: "client", ...options.client })
  })

/** Both ends of a connection, in the scope of the caller. */
export const connectThrough = (
  client: Application.ApplicationWorker,
  listener: Listener.Listener
): Effect.Effect<
  { readonly client: Connection.Connection; readonly server: Connection.Connection },
  SessionError,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const connection = yield* client.connect(listener.address)
    return { client: connection, server: yield* listener.accept }
  })

/** Both ends of a connection between two applications of their own, in the scope of the caller. */
export const pairOf = (
  options: { readonly family?: Family; readonly server?: AppOptions; readonly client?: AppOptions } = {}
) =>
  Effect.gen(function* () {
    const apps = yield* twoApps(options)
    const listener = yield* apps.server.listen(families[options.family ?? "v4"])
    return { apps, listener, ...(yield* connectThrough(apps.client, listener)) }
  })

export const close = (scope: Scope.Closeable) => Scope.close(scope, Exit.void)

/** Lets the workers finish what was sent to them: what nobody waits for, such as the clean-up after a cancelled connect. */
export const allCalls: Effect.Effect<void, never, SessionLayer.SessionLayer> = Effect.gen(function* () {
  const layer = yield* SessionLayer.SessionLayer
  while (layer.residue().pendingCalls > 0) yield* Effect.yieldNow
})

/** The session behind a connection. */
export const sessionOf = (connection: Connection.Connection) =>
  SessionLayer.SessionLayer.useSync(({ connections }): Session => {
    const { local, side } = connection.info
    for (const session of connections.sessions()) {
      if (session.side === side && Endpoint.format(session.local) === Endpoint.format(local)) {
        if (Endpoint.format(session.remote) === Endpoint.format(connection.info.remote)) return session
      }
    }
    return assert.fail("the connection has no session")
  })

/** The application behind its face. */
export const appNamed = (name: string) =>
  SessionLayer.SessionLayer.useSync(({ apps }) => {
    for (const app of apps()) if (app.name === name) return app
    return assert.fail(`no application is called ${name}`)
  })

/** Counts how often the other side rings, from now on. */
export const countRings = (connection: Connection.Connection) =>
  Effect.map(sessionOf(connection), ({ doorbell }) => {
    const { target } = doorbell
    const counter = { rings: 0 }
    doorbell.target = {
      onRing() {
        counter.rings++
        target?.onRing()
      }
    }
    return counter
  })

/** Everything up to the end of the stream, in buffers of this size. */
export const readAll = (
  connection: Connection.Connection,
  options: { readonly by?: number; readonly before?: Effect.Effect<void> } = {}
): Effect.Effect<Uint8Array, SessionError> =>
  Effect.gen(function* () {
    const parts: Array<Uint8Array> = []
    const buffer = new Uint8Array(options.by ?? 65_536)
    while (true) {
      if (options.before !== undefined) yield* options.before
      const count = yield* Effect.catchIf(connection.readInto(buffer), Cause.isDone, () => Effect.succeed(-1))
      if (count < 0) break
      parts.push(buffer.slice(0, count))
    }
    const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
    let at = 0
    for (const part of parts) {
      bytes.set(part, at)
      at += part.length
    }
    return bytes
  })

// ---------------------------------------------------------------------------
// schedulers
// ---------------------------------------------------------------------------

/**
 * Runs, of all dispatchers that have something to run, the first task of any: which one a seed decides. So fibers that
 * yield often run at any speed relative to each other, and a run is repeated from its seed.
 */
export class ShuffledScheduler implements Scheduler.Scheduler {
  readonly executionMode = "async"
  private readonly queues: Array<Array<() => void>> = []
  private readonly opsBeforeYield: number
  private state: number

  constructor(seed: number, opsBeforeYield: number) {
    this.state = seed | 0
    this.opsBeforeYield = opsBeforeYield
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return fiber.currentOpCount >= this.opsBeforeYield
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    const tasks: Array<() => void> = []
    return {
      scheduleTask: (task) => {
        if (tasks.length === 0) this.queues.push(tasks)
        tasks.push(task)
      },
      flush: () => this.runAll()
    }
  }

  runAll(): void {
    for (let steps = 0; this.queues.length > 0; steps++) {
      assert.isBelow(steps, 500_000, "the fibers never come to rest")
      const at = this.next(this.queues.length)
      const tasks = this.queues[at]
      const task = tasks.shift()!
      if (tasks.length === 0) this.queues.splice(at, 1)
      task()
    }
  }

  /** An integer from 0 up to `limit`, which is not one of them. */
  next(limit: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}

/** Runs an effect on a scheduler until nothing is left to run: then it has ended, or it waits for ever. */
export const runToRest = <A, E>(
  scheduler: Scheduler.Scheduler & { readonly runAll: () => void },
  effect: Effect.Effect<A, E>,
  where: string
): A => {
  const fiber = Effect.runFork(effect, { scheduler })
  scheduler.runAll()
  const exit = fiber.pollUnsafe()
  if (exit === undefined) return assert.fail(`somebody waits for ever ${where}`)
  if (exit._tag === "Failure") return assert.fail(`${where}: ${Cause.pretty(exit.cause)}`)
  return exit.value
}

// ---------------------------------------------------------------------------
// events
// ---------------------------------------------------------------------------

/** All that an application is told from now on, until it detaches. */
export const watch = (
  app: App
): Effect.Effect<Effect.Effect<ReadonlyArray<AppEvent>>, never, SessionLayer.SessionLayer> =>
  Effect.gen(function* () {
    const { events } = yield* appNamed(app.name)
    // Subscribed in this very step: a fiber that does it may be made to yield before it has.
    const queue = yield* Scope.provide(events.subscribe, yield* Scope.make())
    return Queue.collect(queue)
  })

const idOf = ({ handle, worker }: SessionId): string => `${worker}:${handle}`

/**
 * Events in words. Sessions and connects go by numbers and segments by letters, both in the order in which the
 * application heard of them.
 */
export const inWords = (events: ReadonlyArray<AppEvent>): ReadonlyArray<string> => {
  const names = () => {
    const known = new Map<string, number>()
    return (id: string) => {
      if (!known.has(id)) known.set(id, known.size)
      return known.get(id)!
    }
  }
  const [sessions, halfOpens, segments] = [names(), names(), names()]
  const session = (id: SessionId) => sessions(idOf(id)) + 1
  const segment = (id: number) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[segments(String(id))]
  return events.map((event) => {
    const { _tag } = event
    switch (_tag) {
      case "SegmentAdded":
      case "SegmentDeleted":
        return `${_tag} ${segment(event.segment)}`
      case "Accepted":
        return `${_tag} ${session(event.session)} in ${segment(event.segment)}`
      case "Connected": {
        const { result } = event
        const connect = `${_tag} #${halfOpens(String(event.halfOpen)) + 1}`
        return result._tag === "Success"
          ? `${connect} ${session(result.session)} in ${segment(result.segment)}`
          : `${connect} ${result.error.reason._tag}`
      }
      case "HalfOpenCleanup":
        return `${_tag} #${halfOpens(String(event.halfOpen)) + 1}`
      default:
        return `${_tag} ${session(event.session)}`
    }
  })
}

/** The laws of the order of events, for all that one application was told. `isWhole`: nothing was left when it detached. */
export const assertLawful = (events: ReadonlyArray<AppEvent>, isWhole = true): void => {
  const segments = new Map<string, { readonly live: Set<string>; isDeleted: boolean }>()
  const sessions = new Map<string, { readonly segment: string; isOver: boolean; isDown: boolean; isGone: boolean }>()
  const connects = new Map<string, { isCleaned: boolean }>()
  const log = inWords(events)
  events.forEach((event, at) => {
    const law = (holds: boolean, what: string) => {
      if (!holds) assert.fail(`${what}: ${log[at]}\n${log.slice(0, at + 1).join("\n")}`)
    }
    const keyOf = (segment: number) => `${event.worker} ${segment}`
    const begin = (id: SessionId, inSegment: number) => {
      const key = keyOf(inSegment)
      const segment = segments.get(key)
      law(segment !== undefined && !segment.isDeleted, "a session in a segment the application has not mapped")
      law(!sessions.has(idOf(id)), "a session began twice")
      segment?.live.add(idOf(id))
      sessions.set(idOf(id), { segment: key, isOver: false, isDown: false, isGone: false })
    }
    switch (event._tag) {
      case "SegmentAdded": {
        const key = keyOf(event.segment)
        law(!segments.has(key), "a segment was added twice")
        segments.set(key, { live: new Set(), isDeleted: false })
        break
      }
      case "SegmentDeleted": {
        const segment = segments.get(keyOf(event.segment))
        law(segment !== undefined && !segment.isDeleted, "a segment was deleted that was not there")
        law(segment?.live.size === 0, "a segment was deleted under a session")
        if (segment !== undefined) segment.isDeleted = true
        break
      }
      case "Accepted":
        begin(event.session, event.segment)
        break
      case "Connected":
        law(!connects.has(String(event.halfOpen)), "a connect was answered twice")
        connects.set(String(event.halfOpen), { isCleaned: false })
        if (event.result._tag === "Success") begin(event.result.session, event.result.segment)
        break
      case "HalfOpenCleanup": {
        const connect = connects.get(String(event.halfOpen))
        law(connect?.isCleaned === false, "a half-open was cleaned up that was not answered, or twice")
        if (connect !== undefined) connect.isCleaned = true
        break
      }
      default: {
        const session = sessions.get(idOf(event.session))
        law(session !== undefined, "a session nobody has heard of")
        if (session === undefined) break
        law(!session.isGone, "something after CleanupSession")
        if (event._tag === "CleanupSession") {
          law(session.isDown, "CleanupSession before CleanupTransport")
          session.isGone = true
          segments.get(session.segment)?.live.delete(idOf(event.session))
        } else if (event._tag === "CleanupTransport") {
          law(!session.isDown, "CleanupTransport twice")
          session.isDown = true
        } else {
          law(!session.isOver && !session.isDown, "the end twice, or after CleanupTransport")
          session.isOver = true
        }
      }
    }
  })
  if (!isWhole) return
  const rest = [
    ...[...segments.values()].filter(({ isDeleted }) => !isDeleted).map(() => "a segment"),
    ...[...sessions.values()].filter(({ isGone }) => !isGone).map(() => "a session"),
    ...[...connects.values()].filter(({ isCleaned }) => !isCleaned).map(() => "a half-open")
  ]
  if (rest.length > 0) assert.fail(`left over: ${rest.join(", ")}\n${log.join("\n")}`)
}
