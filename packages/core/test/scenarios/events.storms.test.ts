import { Application, type Connection, Sessions } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Scope } from "effect"
import { reasonOf } from "../fixtures.ts"
import { SteppingScheduler } from "../runtime/stepping.ts"
import {
  allCalls,
  type AppOptions,
  assertLawful,
  close,
  connectThrough,
  families,
  layerWith,
  twoApps,
  watch
} from "./dataFixtures.ts"

const STORM = 1000

/** What VPP handles in one call, and what a worker does before the scheduler has its turn. */
const CONNECTS_PER_CALL = 32
const CLEANUPS_PER_CALL = 100
const CALLS_PER_TURN = 64

const small: AppOptions = { rxFifoSize: 4096, txFifoSize: 4096, segmentSize: "4 MiB", maxPending: 10 * STORM }

/**
 * A storm on a scheduler that is turned by hand, after which turn by turn is looked at how much was done, and whether
 * others had theirs.
 */
const inTurns = <A>(options: {
  readonly workers: number
  readonly prepare: Effect.Effect<A, unknown, SessionLayer | Scope.Scope>
  /** Starts everything in one go. */
  readonly storm: (prepared: A, run: (effect: Effect.Effect<unknown, unknown>) => void) => void
  /** How much is done so far. */
  readonly done: (layer: SessionLayer["Service"], prepared: A) => number
}) => {
  const scheduler = new SteppingScheduler()
  const scope = Effect.runSync(Scope.make())
  const built = Effect.runFork(
    Effect.gen(function* () {
      const services = yield* Layer.buildWithScope(layerWith({ workers: options.workers }), scope)
      const layer = yield* Effect.provide(SessionLayer, services)
      return { layer, prepared: yield* Effect.provide(Scope.provide(options.prepare, scope), services) }
    }),
    { scheduler }
  )
  scheduler.runAll()
  const exit = built.pollUnsafe()
  if (exit?._tag !== "Success") return assert.fail("not prepared")
  const { layer, prepared } = exit.value

  // Somebody else on the same scheduler, who wants a turn in every round, and a call behind the storm on each worker.
  let rounds = 0
  let calls = 0
  const progress: Array<number> = []
  let last = options.done(layer, prepared)
  const other = () => {
    rounds++
    const now = options.done(layer, prepared)
    progress.push(now - last)
    last = now
    if (scheduler.pending > 0) dispatcher.scheduleTask(other, 0)
  }
  const dispatcher = scheduler.makeDispatcher()
  let behind = -1
  options.storm(prepared, (effect) => void Effect.runFork(effect, { scheduler }))
  for (const worker of layer.workers.slice(options.workers === 0 ? 0 : 1)) {
    worker.send(
      Effect.sync(() => {
        calls++
        behind = Math.max(behind, options.done(layer, prepared))
      })
    )
  }
  dispatcher.scheduleTask(other, 0)
  scheduler.runAll()
  const finish = () => {
    const closing = Effect.runFork(close(scope), { scheduler })
    scheduler.runAll()
    const exit = closing.pollUnsafe()
    if (exit === undefined) assert.fail("the session layer does not close")
    if (exit._tag === "Failure") assert.fail(String(exit.cause))
  }
  return { rounds, calls, progress, prepared, layer, behind, finish }
}

/** At first, as much as may be done before the scheduler has its turn, and then one turn; later one turn at a time. */
const assertEvenly = (progress: ReadonlyArray<number>, each: number) => {
  for (const [turn, count] of progress.entries()) assert.isAtMost(count, turn === 0 ? 2 * each : each, `turn ${turn}`)
}

describe("1,000 connects at once", () => {
  const prepare = Effect.gen(function* () {
    const { client, server } = yield* twoApps({ server: small, client: { maxPending: 10 * STORM } })
    yield* server.listen(families.v4, { backlog: STORM })
    return { client, exits: [] as Array<Exit.Exit<unknown, unknown>>, scope: yield* Effect.scope }
  })

  for (const workers of [0, 1, 4]) {
    it(`D18 R11 all are answered, in bursts that leave others their turns, ${workers} workers`, () => {
      const storm = inTurns({
        workers,
        prepare,
        storm: ({ client, exits, scope }, run) => {
          for (let n = 0; n < STORM; n++) {
            run(
              Effect.map(Effect.exit(Scope.provide(client.connect(families.v4), scope)), (exit) => {
                exits.push(exit)
              })
            )
          }
        },
        done: ({ counters }) => counters.connected
      })
      const { exits } = storm.prepared
      assert.strictEqual(exits.length, STORM)
      assert.isTrue(exits.every(Exit.isSuccess))
      const each = Math.max(1, workers) * (CALLS_PER_TURN + CONNECTS_PER_CALL)
      assertEvenly(storm.progress, each)
      assert.isAtLeast(storm.rounds, Math.floor(STORM / each))
      // A call behind them waits for one burst of its worker, not for all of them.
      assert.strictEqual(storm.calls, Math.max(1, workers))
      assert.isAtMost(storm.behind, 2 * each)
      assert.strictEqual(storm.layer.residue().pendingCalls, 0)
      storm.finish()
    })
  }

  it.effect("D18 R11 some refused, some cancelled, some to nobody: each has one answer, and is told of once", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { client, server } = yield* Scope.provide(
        twoApps({ server: small, client: { maxPending: 10 * STORM } }),
        scope
      )
      const told = { client: yield* watch(client), server: yield* watch(server) }
      yield* Scope.provide(server.listen(families.v4, { backlog: 300 }), scope)
      const leave = yield* Scope.make()
      yield* Scope.provide(server.listen(families.v6, { backlog: STORM }), leave)
      const connections = yield* Scope.make()
      const fibers: Array<Fiber.Fiber<Exit.Exit<Connection.Connection, unknown>>> = []
      for (let n = 0; n < STORM; n++) {
        const to = n % 3 === 0 ? families.v6 : families.v4
        fibers.push(
          yield* Effect.forkDetach(Effect.exit(Scope.provide(client.connect(to), connections)), {
            startImmediately: true
          })
        )
        // In the middle of the storm: those that are not answered yet are refused.
        if (n === STORM / 2) yield* close(leave)
      }
      for (const fiber of fibers.slice(-50)) fiber.interruptUnsafe()
      const ends = yield* Effect.forEach(fibers, (fiber) =>
        Effect.map(Fiber.await(fiber), (exit) => (Exit.isSuccess(exit) ? reasonOf(exit.value) : reasonOf(exit)))
      )
      const counts = new Map<string, number>()
      for (const end of ends) counts.set(end, (counts.get(end) ?? 0) + 1)
      assert.strictEqual(ends.length, STORM)
      assert.sameMembers([...counts.keys()], ["success", "Refused", "NoRoute", "Interrupt"])
      yield* close(connections)
      yield* allCalls
      yield* close(scope)
      const events = yield* told.client
      assertLawful(events)
      assertLawful(yield* told.server)
      const answers = events.filter(({ _tag }) => _tag === "Connected").length
      assert.strictEqual(answers, STORM - counts.get("NoRoute")!)
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )
})

describe("1,000 closes at once", () => {
  const prepare = Effect.gen(function* () {
    const { client, server } = yield* twoApps({ server: small })
    const listener = yield* server.listen(families.v4)
    const pairs: Array<{ readonly client: Connection.Connection; readonly server: Connection.Connection }> = []
    for (let n = 0; n < STORM; n++) pairs.push(yield* connectThrough(client, listener))
    return { pairs, ended: [] as Array<number> }
  })

  for (const workers of [0, 1, 4]) {
    for (const way of ["close", "reset"] as const) {
      it(`D18 R11 all ${way}, in bursts that leave others their turns, ${workers} workers`, () => {
        const storm = inTurns({
          workers,
          prepare,
          storm: ({ ended, pairs }, run) => {
            for (const [n, { client }] of pairs.entries()) {
              run(Effect.map(client[way], () => void ended.push(n)))
            }
          },
          done: ({ counters }) => counters.closed + counters.reset
        })
        const { ended, pairs } = storm.prepared
        assert.strictEqual(new Set(ended).size, STORM)
        assert.isTrue(pairs.every(({ server }) => server.info.state === "transport-closing"))
        const each = Math.max(1, workers) * (CALLS_PER_TURN + CLEANUPS_PER_CALL)
        assertEvenly(storm.progress, each)
        assert.isAtLeast(storm.rounds, Math.floor(STORM / each))
        assert.strictEqual(storm.calls, Math.max(1, workers))
        assert.isAtMost(storm.behind, 2 * each)
        assert.strictEqual(storm.layer.residue().pendingCalls, 0)
        storm.finish()
      })
    }
  }

  it.effect("an application detaches with 1,000 connections: each peer hears of it once", () =>
    Effect.gen(function* () {
      const scopes = { client: yield* Scope.make(), server: yield* Scope.make() }
      const server = yield* Scope.provide(Application.make({ name: "server", ...small }), scopes.server)
      const client = yield* Scope.provide(Application.make({ name: "client" }), scopes.client)
      const told = yield* watch(client)
      const listener = yield* Scope.provide(server.listen(families.v4), scopes.server)
      const connections = yield* Scope.make()
      for (let n = 0; n < STORM; n++) yield* Scope.provide(connectThrough(client, listener), connections)
      yield* close(scopes.server)
      const left = yield* Sessions.find({ kind: "session" })
      assert.strictEqual(left.length, STORM)
      assert.isTrue(left.every(({ side, state }) => side === "client" && state === "transport-closing"))
      yield* close(connections)
      yield* allCalls
      yield* close(scopes.client)
      const events = yield* told
      assertLawful(events)
      assert.strictEqual(events.filter(({ _tag }) => _tag === "Reset").length, STORM)
    }).pipe(Effect.provide(Leaks.layerSessions({ workers: 3 })))
  )
})

describe("a storm and the event loop", () => {
  it.live("timers have their turn while 1,000 connections come and go, again and again", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: { ...small, maxPending: 100 * STORM } })
      const listener = yield* server.listen(families.v4)
      yield* Effect.forkScoped(listener.run((connection) => connection.close))
      const state = { isOver: false, served: 0 }
      // The storm ends when timers were heard: without a turn for them it would never end.
      const storm = Effect.gen(function* () {
        while (!state.isOver) {
          yield* Effect.all(
            Array.from({ length: 100 }, () => Effect.scoped(client.connect(listener.address))),
            { concurrency: "unbounded" }
          )
          state.served += 100
        }
      })
      const timer = Effect.callback<void>((resume) => {
        let ticks = 0
        const tick = () => {
          if (++ticks < 10) setTimeout(tick, 0)
          else resume(Effect.sync(() => void (state.isOver = true)))
        }
        setTimeout(tick, 0)
      })
      yield* Effect.all([storm, timer], { concurrency: "unbounded" })
      assert.isAbove(state.served, 0)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
