/** What the scenarios share: applications that write down what they are told, calls and memory that wait, and every order in which fibers can run. */
import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { App } from "@cut-through/core/session/App"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks, LockTrace } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { SteppingScheduler } from "../runtime/stepping.ts"
import type { Memory } from "../segment/fixtures.ts"

export type Sessions = SessionLayer.SessionLayer["Service"]

// ---------------------------------------------------------------------------
// session layers
// ---------------------------------------------------------------------------

const failures = ({ counters }: Sessions): number => {
  let failed = 0
  for (const count of counters.failed.values()) failed += count
  return failed
}

/** At the end nothing is left, and every connect was answered once. */
const checkAtRest = Layer.effectDiscard(
  Effect.flatMap(SessionLayer.SessionLayer, (layer) =>
    Effect.addFinalizer(() =>
      Effect.sync(() => {
        const { connected, connects } = layer.counters
        assert.strictEqual(connected + failures(layer), connects, "as many answers as connects")
      })
    )
  )
)

export interface LayerOptions {
  readonly memory?: Memory | undefined
  readonly wake?: Layer.Layer<Wake.Wake> | undefined
  /** Whose turn the calls of the workers wait for, once they are held. */
  readonly scheduler?: Scheduler.Scheduler | undefined
  readonly workers?: number | undefined
}

/** A session layer of the real services, checked for leaks, lost answers and locks at the end. */
export const layerWith = ({ memory, scheduler, wake = Wake.layer, workers }: LayerOptions = {}): Layer.Layer<
  SessionLayer.SessionLayer,
  SessionError.SessionError
> => {
  const sessions = SessionLayer.layerNoDeps({ workers })
  return Layer.mergeAll(Leaks.layerCheck, checkAtRest).pipe(
    Layer.provideMerge(
      scheduler === undefined ? sessions : Layer.provide(sessions, Layer.succeed(Scheduler.Scheduler, scheduler))
    ),
    Layer.provide([Connections.layer, SegmentContext.layer, wake]),
    Layer.provide([
      memory === undefined ? SharedMemory.layer : Layer.succeed(SharedMemory.SharedMemory, memory),
      LockTrace.layer
    ]),
    Layer.fresh
  )
}

/**
 * Spends what the workers may do before the scheduler has its turn: the calls that are sent from now on wait for it.
 */
const holdCalls = ({ workers }: Sessions): void => {
  // Connections are those of the others, where there are others than the one of the listeners.
  for (const worker of workers.length > 1 ? workers.slice(1) : workers) {
    while (worker.pending() === 0) worker.send(Effect.void)
  }
}

/** The turns of the scheduler do not come while they are held. */
class HeldScheduler extends Scheduler.MixedScheduler {
  private held: Array<() => void> | undefined = undefined

  hold(): void {
    this.held ??= []
  }

  letGo(): void {
    const tasks = this.held ?? []
    this.held = undefined
    for (const task of tasks) task()
  }

  override makeDispatcher() {
    const dispatcher = super.makeDispatcher()
    const schedule = dispatcher.scheduleTask.bind(dispatcher)
    dispatcher.scheduleTask = (task, priority) => {
      if (this.held === undefined) schedule(task, priority)
      else this.held.push(task)
    }
    return dispatcher
  }
}

/** A session layer whose calls wait, from `hold` on, until they are let go. */
export const makeHeld = (options: LayerOptions = {}) => {
  const scheduler = new HeldScheduler()
  return {
    layer: layerWith({ ...options, scheduler }),
    hold: SessionLayer.SessionLayer.useSync((layer) => {
      scheduler.hold()
      holdCalls(layer)
    }),
    letGo: Effect.sync(() => scheduler.letGo())
  }
}

// ---------------------------------------------------------------------------
// applications
// ---------------------------------------------------------------------------

/** Small segments: most scenarios make many. */
export const PAIR = 8192
export const sizes = { rxFifoSize: PAIR / 2, txFifoSize: PAIR / 2, segmentSize: 4 * PAIR }

/** An application in a scope of its own, and what it was told. */
export interface Party {
  readonly name: string
  readonly application: Application.Application["Service"]
  readonly app: App
  /** All that it was told so far. */
  readonly events: ReadonlyArray<AppEvent>
  readonly told: <Tag extends AppEvent["_tag"]>(tag: Tag) => ReadonlyArray<Extract<AppEvent, { readonly _tag: Tag }>>
  readonly detach: Effect.Effect<void>
}

export const attach = (
  name: string,
  options: Partial<SessionLayer.AttachOptions> = {}
): Effect.Effect<Party, SessionError.SessionError, SessionLayer.SessionLayer | Scope.Scope> =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const application = yield* Scope.provide(Application.make(Object.assign({ name }, sizes, options)), scope)
    const layer = yield* SessionLayer.SessionLayer
    const app = [...layer.apps()].find((app) => app.name === name)!
    const log: Array<AppEvent> = []
    // It reads when it is asked what it was told: nothing depends on when it would have had its turn.
    const reading = new SteppingScheduler()
    const reader = Effect.runFork(
      Stream.runForEach(application.events, (event) => Effect.sync(() => log.push(event))),
      { scheduler: reading }
    )
    reading.runAll()
    assert.isTrue(app.events.isObserved)
    const party: Party = {
      name,
      application,
      app,
      get events() {
        reading.runAll()
        return log
      },
      told: <Tag extends AppEvent["_tag"]>(tag: Tag) =>
        party.events.filter((event): event is Extract<AppEvent, { readonly _tag: Tag }> => event._tag === tag),
      detach: Scope.close(scope, Exit.void)
    }
    yield* Effect.addFinalizer(() =>
      Effect.andThen(
        party.detach,
        Effect.sync(() => {
          assertInOrder(party)
          assert.deepStrictEqual(reader.pollUnsafe(), Exit.void, "the events of a detached application end")
        })
      )
    )
    return party
  })

/** Server and client, each in an application of its own. */
export const attachBoth = (
  options: {
    readonly server?: Partial<SessionLayer.AttachOptions>
    readonly client?: Partial<SessionLayer.AttachOptions>
  } = {}
) =>
  Effect.gen(function* () {
    const server = yield* attach("server", options.server)
    const client = yield* attach("client", options.client)
    return { server, client, layer: yield* SessionLayer.SessionLayer }
  })

/** A listener in a scope of its own. */
export const listen = (party: Party, endpoint: Endpoint.Endpoint, options?: Application.ListenOptions) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const listener = yield* Scope.provide(party.application.listen(endpoint, options), scope)
    return { listener, close: Scope.close(scope, Exit.void) }
  })

const keyOf = ({ handle, worker }: { readonly worker: number; readonly handle: number }) => `${worker}:${handle}`

/** What holds of everything an application is told, in whatever order things have happened. */
export const assertInOrder = ({ events, name }: Party): void => {
  const mapped = new Map<string, number>()
  const live = new Map<string, string>()
  const gone = new Set<string>()
  const transportGone = new Set<string>()
  const ended = new Set<string>()
  const answered = new Set<number>()
  const cleaned = new Set<number>()
  const segmentKey = (worker: string, segment: number) => `${worker} ${segment}`
  const open = (worker: string, session: { worker: number; handle: number }, segment: number) => {
    assert.isAbove(mapped.get(segmentKey(worker, segment)) ?? 0, 0, `${name}: a session in a segment it has not mapped`)
    assert.isFalse(live.has(keyOf(session)) || gone.has(keyOf(session)), `${name}: a session was announced twice`)
    live.set(keyOf(session), segmentKey(worker, segment))
  }
  for (const event of events) {
    if (event._tag === "SegmentAdded") {
      // Listeners count their segments each on their own.
      const key = segmentKey(event.worker, event.segment)
      mapped.set(key, (mapped.get(key) ?? 0) + 1)
    } else if (event._tag === "SegmentDeleted") {
      const key = segmentKey(event.worker, event.segment)
      assert.isAbove(mapped.get(key) ?? 0, 0, `${name}: a segment was deleted that it has not mapped`)
      mapped.set(key, mapped.get(key)! - 1)
      if (mapped.get(key) === 0) {
        assert.notInclude([...live.values()], key, `${name}: a segment was deleted under a session`)
      }
    } else if (event._tag === "Accepted") {
      open(event.worker, event.session, event.segment)
    } else if (event._tag === "Connected") {
      assert.isFalse(answered.has(event.halfOpen), `${name}: a connect was answered twice`)
      answered.add(event.halfOpen)
      if (event.result._tag === "Success") open(event.worker, event.result.session, event.result.segment)
    } else if (event._tag === "HalfOpenCleanup") {
      assert.isTrue(answered.has(event.halfOpen), `${name}: a half-open went without an answer`)
      assert.isFalse(cleaned.has(event.halfOpen), `${name}: a half-open went twice`)
      cleaned.add(event.halfOpen)
    } else {
      const key = keyOf(event.session)
      assert.isTrue(live.has(key), `${name}: ${event._tag} of a session that is not there`)
      if (event._tag === "CleanupSession") {
        assert.isTrue(transportGone.has(key), `${name}: CleanupSession before CleanupTransport`)
        live.delete(key)
        gone.add(key)
      } else {
        const once = event._tag === "CleanupTransport" ? transportGone : ended
        assert.isFalse(transportGone.has(key) || once.has(key), `${name}: ${event._tag} twice, or too late`)
        once.add(key)
      }
    }
  }
  assert.deepStrictEqual(cleaned, answered, `${name}: every answer ends its half-open`)
}

/** The segments that an application still has mapped, by what it was told. */
export const mappedBy = (party: Party): number =>
  party.told("SegmentAdded").length - party.told("SegmentDeleted").length

/** The reason and the text of each answer that was an error. */
export const refusalsOf = (party: Party): ReadonlyArray<string> =>
  party.told("Connected").flatMap(({ result }) => (result._tag === "Failure" ? [result.error.reason._tag] : []))

// ---------------------------------------------------------------------------
// connections
// ---------------------------------------------------------------------------

/** Sends a byte each way. */
export const assertTalk = (a: Connection.Connection, b: Connection.Connection) =>
  Effect.gen(function* () {
    for (const [from, to] of [
      [a, b],
      [b, a]
    ]) {
      yield* from.write(Uint8Array.of(7))
      assert.deepStrictEqual(yield* to.read, Uint8Array.of(7))
    }
  })

/** Runs an effect in a fiber that has started when this returns. */
export const fork = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Fiber.Fiber<A, E>, never, R> =>
  Effect.forkChild(effect, { startImmediately: true })

/** Lets everything happen that waits for nothing but its turn. */
export const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

// ---------------------------------------------------------------------------
// every order
// ---------------------------------------------------------------------------

/** Runs fibers on a scheduler that the test turns. */
interface Runner {
  readonly scheduler: { readonly runAll: () => void }
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

const runToRest = <A, E>({ run, scheduler }: Runner, effect: Effect.Effect<A, E>): A => {
  const fiber = run(effect)
  scheduler.runAll()
  const exit = fiber.pollUnsafe()
  assert.isDefined(exit, "nobody ever wakes it")
  return Exit.isSuccess(exit) ? exit.value : Effect.runSync(exit)
}

/** A session layer and what is set up on it, where the test turns the scheduler, until it is closed. */
export const openWorld = <State>(
  runner: Runner,
  layer: Layer.Layer<SessionLayer.SessionLayer, SessionError.SessionError>,
  setUp: Effect.Effect<State, unknown, SessionLayer.SessionLayer | Scope.Scope>
) => {
  const scope = Scope.makeUnsafe()
  const sessions = Context.get(runToRest(runner, Layer.buildWithScope(layer, scope)), SessionLayer.SessionLayer)
  const state = runToRest(
    runner,
    setUp.pipe(Effect.provideService(SessionLayer.SessionLayer, sessions), Effect.provideService(Scope.Scope, scope))
  )
  return { scope, sessions, state, close: () => runToRest(runner, Scope.close(scope, Exit.void)) }
}

/** Runs the tasks in the order that the test has chosen, by their place among those that wait. */
class ChoosingScheduler implements Scheduler.Scheduler {
  readonly executionMode = "async"
  /** Whether the order is chosen now; otherwise the oldest task comes first. */
  isChoosing = false
  /** How many tasks there were to choose from, each time. */
  readonly widths: Array<number> = []
  private readonly choices: ReadonlyArray<number>
  private readonly tasks: Array<() => void> = []

  constructor(choices: ReadonlyArray<number>) {
    this.choices = choices
  }

  shouldYield(): boolean {
    return false
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return { scheduleTask: (task) => void this.tasks.push(task), flush: () => this.runAll() }
  }

  runAll(): void {
    for (let steps = 0; this.tasks.length > 0; steps++) {
      assert.isBelow(steps, 100_000, "the fibers never come to rest")
      let choice = 0
      if (this.isChoosing) {
        choice = this.choices[this.widths.length] ?? 0
        this.widths.push(this.tasks.length)
      }
      const [task] = this.tasks.splice(choice, 1)
      task()
    }
  }
}

export interface World<State> {
  /** Made anew for each order. */
  readonly layer: (options: LayerOptions) => Layer.Layer<SessionLayer.SessionLayer, SessionError.SessionError>
  readonly setUp: Effect.Effect<State, unknown, SessionLayer.SessionLayer | Scope.Scope>
}

/**
 * Runs fibers in every order there is: whenever more than one of them could go on, each is tried. Calls to workers are
 * held before each fiber starts, so that the worker's turn is one of those that can be chosen. Returns how many orders
 * there were.
 */
export const inEveryOrder = <State>(options: {
  readonly world: () => World<State>
  readonly fibers: (state: State) => ReadonlyArray<Effect.Effect<unknown, unknown, Scope.Scope>>
  readonly check: (
    state: State,
    exits: ReadonlyArray<Exit.Exit<unknown, unknown> | undefined>,
    layer: Sessions,
    where: string
  ) => void
  readonly wake?: Layer.Layer<Wake.Wake> | undefined
}): number => {
  let choices: Array<number> | undefined = []
  let orders = 0
  while (choices !== undefined) {
    assert.isBelow(orders, 50_000, "too many orders to try them all")
    const scheduler: ChoosingScheduler = new ChoosingScheduler(choices)
    const where = `in the order [${choices.join(", ")}]`
    try {
      runOnce(scheduler, options, where)
    } catch (cause) {
      throw new Error(`failed ${where}`, { cause })
    }
    orders++
    choices = nextChoices(choices, scheduler.widths)
  }
  return orders
}

const runOnce = (
  scheduler: ChoosingScheduler,
  { check, fibers, wake, world }: Parameters<typeof inEveryOrder<any>>[0],
  where: string
): void => {
  const runner: Runner = { scheduler, run: (effect) => Effect.runFork(effect, { scheduler }) }
  const { layer, setUp } = world()
  const { close, scope, sessions, state } = openWorld(runner, layer({ wake }), setUp)
  scheduler.isChoosing = true
  const started = fibers(state).map((fiber) =>
    runner.run(
      Effect.yieldNow.pipe(
        Effect.andThen(Effect.sync(() => holdCalls(sessions))),
        Effect.andThen(Scope.provide(fiber, scope))
      )
    )
  )
  scheduler.runAll()
  scheduler.isChoosing = false
  check(
    state,
    started.map((fiber) => fiber.pollUnsafe()),
    sessions,
    where
  )
  for (const fiber of started) fiber.interruptUnsafe()
  scheduler.runAll()
  close()
}

/** The next order, counting up from the last choice; nothing when all were tried. */
const nextChoices = (choices: ReadonlyArray<number>, widths: ReadonlyArray<number>): Array<number> | undefined => {
  for (let at = widths.length - 1; at >= 0; at--) {
    const choice = choices[at] ?? 0
    if (choice + 1 < widths[at]) {
      return [...Array.from({ length: at }, (_, before) => choices[before] ?? 0), choice + 1]
    }
  }
  return undefined
}
