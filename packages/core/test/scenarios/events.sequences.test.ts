import { Application, type Connection, Endpoint, type Listener, Sessions } from "@cut-through/core"
import * as Lock from "@cut-through/core/runtime/Lock"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Deferred, Effect, Fiber, Layer, Queue, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { pattern, readExactly, reasonOf } from "../fixtures.ts"
import {
  allCalls,
  type App,
  appNamed,
  type AppOptions,
  assertLawful,
  close,
  connectThrough,
  families,
  type Family,
  familyNames,
  inWords,
  layerWith,
  runToRest,
  ShuffledScheduler,
  SlowMemory,
  twoApps,
  watch
} from "./dataFixtures.ts"

interface Stage {
  readonly server: App
  readonly client: App
  readonly listener: Listener.Listener
  /** Closes an application, with all it has. */
  readonly detach: (side: "client" | "server") => Effect.Effect<void>
  /** Closes the listener. */
  readonly unlisten: Effect.Effect<void>
}

/** Everything both applications are told while `body` runs, in words and checked for order. */
const toldOf = (
  options: {
    readonly family?: Family
    readonly server?: AppOptions
    readonly listen?: Application.ListenOptions
    /** Whether an application detached with something left: then nobody tells it what becomes of that. */
    readonly isCut?: "client" | "server"
  },
  body: (stage: Stage) => Effect.Effect<unknown, unknown, Scope.Scope | SessionLayer>
) =>
  Effect.gen(function* () {
    const scopes = { client: yield* Scope.make(), server: yield* Scope.make(), listener: yield* Scope.make() }
    const server = yield* Scope.provide(Application.make({ name: "server", ...options.server }), scopes.server)
    const client = yield* Scope.provide(Application.make({ name: "client" }), scopes.client)
    const told = { client: yield* watch(client), server: yield* watch(server) }
    const listener = yield* Scope.provide(
      server.listen(families[options.family ?? "v4"], options.listen),
      scopes.listener
    )
    const stage: Stage = {
      server,
      client,
      listener,
      detach: (side) => close(scopes[side]),
      unlisten: close(scopes.listener)
    }
    const exit = yield* Effect.exit(Effect.scoped(body(stage)))
    yield* allCalls
    for (const scope of [scopes.listener, scopes.client, scopes.server]) yield* close(scope)
    yield* exit
    const events = { client: yield* told.client, server: yield* told.server }
    assertLawful(events.client, options.isCut !== "client")
    assertLawful(events.server, options.isCut !== "server")
    return { client: inWords(events.client), server: inWords(events.server) }
  })

type Ends = { readonly client: Connection.Connection; readonly server: Connection.Connection }

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

const opened = {
  server: ["SegmentAdded A", "Accepted 1 in A"],
  client: ["SegmentAdded A", "Connected #1 1 in A", "HalfOpenCleanup #1"]
}
const gone = ["CleanupTransport 1", "CleanupSession 1", "SegmentDeleted A"]

describe("what both applications are told", () => {
  /** One connection, and how it ends: who closes first is told nothing of the other. */
  const endings: ReadonlyArray<
    readonly [
      name: string,
      end: (ends: Ends) => Effect.Effect<unknown, unknown>,
      told: { readonly client: ReadonlyArray<string>; readonly server: ReadonlyArray<string> }
    ]
  > = [
    [
      "the client closes, then the server",
      ({ client, server }) => Effect.andThen(client.close, server.close),
      { client: [], server: ["Disconnected 1"] }
    ],
    [
      "the server closes, then the client",
      ({ client, server }) => Effect.andThen(server.close, client.close),
      { client: ["Disconnected 1"], server: [] }
    ],
    [
      "the client closes, twice, then the server, twice",
      ({ client, server }) =>
        Effect.all([client.close, client.close, server.close, client.reset, server.reset], { discard: true }),
      { client: [], server: ["Disconnected 1"] }
    ],
    [
      "the client resets",
      ({ client, server }) => Effect.andThen(client.reset, server.close),
      { client: [], server: ["Reset 1"] }
    ],
    [
      "the server resets",
      ({ client, server }) => Effect.andThen(server.reset, client.close),
      { client: ["Reset 1"], server: [] }
    ],
    [
      "the client closes with bytes it has not read",
      ({ client, server }) => Effect.all([server.write(pattern(1)), client.close, server.close]),
      { client: [], server: ["Reset 1"] }
    ],
    [
      "the server closes with bytes it has not read",
      ({ client, server }) => Effect.all([client.write(pattern(1)), server.close, client.close]),
      { client: ["Reset 1"], server: [] }
    ],
    [
      "both end their streams, read all, and then the server closes",
      ({ client, server }) =>
        Effect.all([
          client.write(pattern(9)),
          client.end,
          server.write(pattern(9)),
          server.end,
          readExactly(client, 9),
          readExactly(server, 9),
          server.close,
          client.close
        ]),
      { client: ["Disconnected 1"], server: [] }
    ],
    [
      "the client ends its stream, and resets",
      ({ client, server }) => Effect.all([client.end, client.reset, server.close]),
      { client: [], server: ["Reset 1"] }
    ]
  ]

  for (const family of familyNames) {
    for (const [name, end, ends] of endings) {
      for (const approval of ["listener", "application"] as const) {
        it.effect(`${family}, the ${approval} says yes: ${name}`, () =>
          Effect.gen(function* () {
            const told = yield* toldOf({ family, listen: { approval } }, ({ client, listener }) =>
              Effect.gen(function* () {
                const connecting = yield* fork(client.connect(listener.address))
                const server = yield* listener.accept
                yield* end({ client: yield* Fiber.join(connecting), server })
              })
            )
            assert.deepStrictEqual(told, {
              server: [...opened.server, ...ends.server, ...gone],
              client: [...opened.client, ...ends.client, ...gone]
            })
          }).pipe(Effect.provide(Leaks.layerSessions()))
        )
      }
    }
  }

  it.effect("a scope that fails: the other side is told of a reset", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({}, ({ client, listener }) =>
        Effect.gen(function* () {
          yield* Effect.exit(Effect.scoped(Effect.andThen(client.connect(listener.address), Effect.fail("no"))))
          yield* listener.accept
        })
      )
      assert.deepStrictEqual(told, {
        server: [...opened.server, "Reset 1", ...gone],
        client: [...opened.client, ...gone]
      })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  /** What becomes of a connect that the application has to say yes to, and does not. */
  const application = { listen: { approval: "application" } } as const
  const unanswered = (reason: string) => [
    "SegmentAdded A",
    `Connected #1 ${reason}`,
    "HalfOpenCleanup #1",
    "SegmentDeleted A"
  ]

  it.effect("the application refuses: the client is told of that, and of nothing else", () =>
    Effect.gen(function* () {
      const told = yield* toldOf(application, ({ client, listener }) =>
        Effect.gen(function* () {
          const connecting = yield* fork(Effect.exit(client.connect(listener.address)))
          const request = yield* listener.request
          yield* request.refuse
          assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), "Refused")
          yield* request.refuse
          assert.strictEqual(reasonOf(yield* Effect.exit(request.accept)), "Closed")
        })
      )
      assert.deepStrictEqual(told, { server: [...opened.server, ...gone], client: unanswered("Refused") })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("the listener closes with a connect that waits for an answer: it is refused", () =>
    Effect.gen(function* () {
      const told = yield* toldOf(application, ({ client, listener, unlisten }) =>
        Effect.gen(function* () {
          const connecting = yield* fork(Effect.exit(client.connect(listener.address)))
          yield* unlisten
          assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), "Refused")
        })
      )
      assert.deepStrictEqual(told, { server: [...opened.server, ...gone], client: unanswered("Refused") })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  for (const inHand of [false, true]) {
    it.effect(
      `the client gives up ${inHand ? "while the server has its request in hand" : "before anybody looks"}`,
      () =>
        Effect.gen(function* () {
          const told = yield* toldOf(application, ({ client, listener }) =>
            Effect.gen(function* () {
              const connecting = yield* fork(client.connect(listener.address))
              const requests = inHand ? [yield* listener.request] : []
              yield* Fiber.interrupt(connecting)
              // A session that nobody has in hand goes by itself.
              assert.strictEqual((yield* Sessions.residue).sessions, requests.length)
              for (const request of requests) {
                assert.strictEqual(reasonOf(yield* Effect.exit(request.accept)), "Reset")
                yield* request.refuse
              }
            })
          )
          assert.deepStrictEqual(told, {
            server: [...opened.server, "Reset 1", ...gone],
            client: unanswered("Closed")
          })
        }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("the listener closes with a connection that nobody has accepted: it is reset", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({}, ({ client, listener, unlisten }) =>
        Effect.andThen(client.connect(listener.address), unlisten)
      )
      assert.deepStrictEqual(told, {
        server: [...opened.server, ...gone],
        client: [...opened.client, "Reset 1", ...gone]
      })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("the backlog is full: the server is told of nothing", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({ listen: { backlog: 1 } }, ({ client, listener }) =>
        Effect.gen(function* () {
          const pair = yield* client.connect(listener.address)
          assert.strictEqual(reasonOf(yield* Effect.exit(client.connect(listener.address))), "Refused")
          const server = yield* listener.accept
          yield* pair.close
          yield* server.close
        })
      )
      assert.deepStrictEqual(told, {
        server: [...opened.server, "Disconnected 1", ...gone],
        client: [...opened.client, "Connected #2 Refused", "HalfOpenCleanup #2", ...gone]
      })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("a connect that fails before it begins is no event", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({ listen: { backlog: 1 } }, ({ client, listener }) =>
        Effect.gen(function* () {
          const reasons: Array<string> = []
          const nowhere = Endpoint.withPort(listener.address, 1)
          for (const to of [nowhere, Endpoint.withPort(listener.address, 0)]) {
            reasons.push(reasonOf(yield* Effect.exit(client.connect(to))))
          }
          yield* Sessions.addRule({ remotePort: listener.address.port, action: "drop" })
          reasons.push(reasonOf(yield* Effect.exit(client.connect(listener.address))))
          assert.deepStrictEqual(reasons, ["NoRoute", "InvalidArgument", "Filtered"])
        })
      )
      assert.deepStrictEqual(told, { server: [], client: [] })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  const noMemory = SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 1 }))

  it.effect("there is no memory: the client is told of that, and nobody of a segment", () => {
    const memory = new SlowMemory()
    return Effect.gen(function* () {
      const told = yield* toldOf({}, ({ client, listener }) =>
        Effect.gen(function* () {
          const connecting = yield* fork(Effect.exit(client.connect(listener.address)))
          memory.answer(noMemory)
          assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), "AllocFailed")
        })
      )
      assert.deepStrictEqual(told, { server: [], client: ["Connected #1 AllocFailed", "HalfOpenCleanup #1"] })
    }).pipe(Effect.provide(layerWith({ memory: memory.layer })))
  })

  for (const [what, during, reason] of [
    ["the listener closes", ({ unlisten }: Stage) => unlisten, "Refused"],
    ["the client gives up", (_: Stage, connecting: Fiber.Fiber<unknown>) => Fiber.interrupt(connecting), "Closed"]
  ] as const) {
    it.effect(`${what} while memory is waited for`, () => {
      const memory = new SlowMemory()
      return Effect.gen(function* () {
        const told = yield* toldOf({}, (stage) =>
          Effect.gen(function* () {
            const connecting = yield* fork(Effect.exit(stage.client.connect(stage.listener.address)))
            yield* during(stage, connecting)
            memory.answer()
            yield* Fiber.await(connecting)
          })
        )
        // It comes and goes: nobody has asked for it any more.
        const segment = ["SegmentAdded A", "SegmentDeleted A"]
        const answer = [`Connected #1 ${reason}`, "HalfOpenCleanup #1"]
        assert.deepStrictEqual(told, {
          server: segment,
          client: reason === "Closed" ? [...answer, ...segment] : [...segment, ...answer]
        })
      }).pipe(Effect.provide(layerWith({ memory: memory.layer })))
    })
  }

  it.effect("a segment is told of once, however many connections use it, and once more when it is another", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({ server: { rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 16_384 } }, (stage) =>
        Effect.gen(function* () {
          const connect = connectThrough(stage.client, stage.listener)
          const [one, two, three] = [yield* connect, yield* connect, yield* connect]
          for (const { client, server } of [two, one]) yield* Effect.andThen(client.close, server.close)
          yield* Effect.andThen(three.server.close, three.client.close)
          const four = yield* connect
          yield* Effect.andThen(four.client.close, four.server.close)
        })
      )
      const ended = (n: number, told: string) => [
        ...(told === "" ? [] : [`${told} ${n}`]),
        `CleanupTransport ${n}`,
        `CleanupSession ${n}`
      ]
      assert.deepStrictEqual(told, {
        server: [
          ...opened.server,
          "Accepted 2 in A",
          "SegmentAdded B",
          "Accepted 3 in B",
          ...ended(2, "Disconnected"),
          ...ended(1, "Disconnected"),
          "SegmentDeleted A",
          ...ended(3, ""),
          "SegmentDeleted B",
          "SegmentAdded C",
          "Accepted 4 in C",
          ...ended(4, "Disconnected"),
          "SegmentDeleted C"
        ],
        client: [
          ...opened.client,
          "Connected #2 2 in A",
          "HalfOpenCleanup #2",
          "SegmentAdded B",
          "Connected #3 3 in B",
          "HalfOpenCleanup #3",
          ...ended(2, ""),
          ...ended(1, ""),
          "SegmentDeleted A",
          ...ended(3, "Disconnected"),
          "SegmentDeleted B",
          "SegmentAdded C",
          "Connected #4 4 in C",
          "HalfOpenCleanup #4",
          ...ended(4, ""),
          "SegmentDeleted C"
        ]
      })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("a segment that lingers is deleted when its time is over", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({ server: { segmentLinger: "10 seconds" } }, (stage) =>
        Effect.gen(function* () {
          const seen = yield* Effect.flatMap(appNamed("server"), ({ events }) => events.subscribe)
          for (let n = 0; n < 2; n++) {
            const { client, server } = yield* connectThrough(stage.client, stage.listener)
            yield* Effect.andThen(client.close, server.close)
            yield* TestClock.adjust("9 seconds")
          }
          assert.isFalse((yield* Queue.clear(seen)).some(({ _tag }) => _tag === "SegmentDeleted"))
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(
            (yield* Queue.clear(seen)).map(({ _tag }) => _tag),
            ["SegmentDeleted"]
          )
        })
      )
      assert.deepStrictEqual(
        told.client.filter((event) => event.startsWith("Segment")),
        ["SegmentAdded A", "SegmentDeleted A"]
      )
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  for (const side of ["client", "server"] as const) {
    const other = side === "client" ? "server" : "client"
    it.effect(`the ${side} detaches: it is told nothing more, and the ${other} of a reset`, () =>
      Effect.gen(function* () {
        const told = yield* toldOf({ isCut: side }, ({ client, detach, listener }) =>
          Effect.gen(function* () {
            const ends = yield* connectThrough(client, listener)
            yield* detach(side)
            assert.strictEqual(reasonOf(yield* Effect.exit(ends[other].read)), "Reset")
          })
        )
        assert.deepStrictEqual(told[side], opened[side])
        assert.deepStrictEqual(told[other], [...opened[other], "Reset 1", ...gone])
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`the ${side} detaches during a connect: the ${other} is told how it ended`, () =>
      Effect.gen(function* () {
        const told = yield* toldOf({ ...application, isCut: side }, ({ client, detach, listener }) =>
          Effect.gen(function* () {
            const connecting = yield* fork(Effect.exit(client.connect(listener.address)))
            yield* detach(side)
            assert.strictEqual(reasonOf(yield* Fiber.join(connecting)), side === "client" ? "Closed" : "Refused")
          })
        )
        assert.deepStrictEqual(told[side], opened[side].slice(0, side === "client" ? 1 : 2))
        assert.deepStrictEqual(
          told[other],
          other === "server" ? [...opened.server, "Reset 1", ...gone] : unanswered("Refused")
        )
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("an application that connects to itself is told of both sides, and of one segment", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const app = yield* Scope.provide(Application.make({ name: "app" }), scope)
      const told = yield* watch(app)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { client, server } = yield* connectThrough(app, yield* app.listen(families.v4))
          yield* client.close
          yield* server.close
        })
      )
      yield* close(scope)
      const events = yield* told
      assertLawful(events)
      assert.deepStrictEqual(inWords(events), [
        "SegmentAdded A",
        "Accepted 1 in A",
        "Connected #1 2 in A",
        "HalfOpenCleanup #1",
        "Disconnected 1",
        "CleanupTransport 2",
        "CleanupSession 2",
        "CleanupTransport 1",
        "CleanupSession 1",
        "SegmentDeleted A"
      ])
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("events say which worker, listener and addresses they are about", () =>
    Effect.gen(function* () {
      const { client, server } = yield* twoApps({ server: { workers: 2 } })
      const seen = yield* Effect.flatMap(appNamed("server"), ({ events }) => events.subscribe)
      const heard = yield* Effect.flatMap(appNamed("client"), ({ events }) => events.subscribe)
      const listener = yield* server.listen(Endpoint.tcp("0.0.0.0", 7000))
      const connection = yield* client.connect(Endpoint.tcp("10.1.2.3", 7000))
      const [added, accepted] = yield* Queue.clear(seen)
      assert.deepInclude(added, {
        _tag: "SegmentAdded",
        worker: "server/0",
        listener: "server 0.0.0.0:7000",
        size: 128 * 1024 * 1024
      })
      assert.deepInclude(accepted, {
        _tag: "Accepted",
        worker: "server/0",
        listener: listener.address,
        local: Endpoint.tcp("10.1.2.3", 7000),
        remote: connection.info.local
      })
      const [, connected] = yield* Queue.clear(heard)
      assert.deepInclude(connected, { _tag: "Connected", worker: "client/0", remote: Endpoint.tcp("10.1.2.3", 7000) })
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})

describe("the number of a segment", () => {
  // An application is told of a segment by its number alone when it is connected: it must not mean two of them.
  const twoOf = (
    connections: (apps: {
      readonly server: App
      readonly client: App
    }) => Effect.Effect<unknown, SessionError.SessionError, Scope.Scope>,
    server: AppOptions = {}
  ) =>
    Effect.gen(function* () {
      const apps = yield* twoApps({ server })
      const heard = yield* Effect.flatMap(appNamed("client"), ({ events }) => events.subscribe)
      yield* connections(apps)
      const segments: Array<number> = []
      for (const event of yield* Queue.clear(heard)) if (event._tag === "SegmentAdded") segments.push(event.segment)
      assert.strictEqual(segments.length, 2)
      assert.strictEqual(new Set(segments).size, 2, "two segments at once under one number")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))

  it.effect("means one segment, of two listeners", () =>
    twoOf(({ client, server }) =>
      Effect.gen(function* () {
        for (const port of [7000, 7001]) {
          yield* client.connect((yield* server.listen(Endpoint.tcp("127.0.0.1", port))).address)
        }
      })
    )
  )

  it.effect("means one segment, of two workers that serve one listener", () =>
    twoOf(
      ({ client, server }) =>
        Effect.gen(function* () {
          const { address } = yield* server.listen(families.v4)
          yield* client.connect(address)
          yield* client.connect(address)
        }),
      { workers: 2 }
    )
  )

  it.effect("means one segment, of a listener that has closed and one that has come in its place", () =>
    twoOf(({ client, server }) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const listener = yield* Scope.provide(server.listen(families.v4), scope)
        // The connection outlives its listener.
        yield* connectThrough(client, listener)
        yield* close(scope)
        yield* client.connect((yield* server.listen(families.v4)).address)
      })
    )
  )
})

describe("subscribers", () => {
  /** Locks that count how often an application is about to be told something. */
  const countingLocks = () => {
    const counter = { notified: 0 }
    const layer = Layer.effect(
      Lock.Lock,
      Effect.map(Lock.Lock, (lock) => Lock.Lock.of({ ...lock, notifying: () => void counter.notified++ }))
    ).pipe(Layer.provide(Lock.layer))
    return { counter, layer }
  }

  it.effect("without any, nothing is told and nothing is kept", () => {
    const { counter, layer } = countingLocks()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4, { backlog: 2 })
      for (let n = 0; n < 50; n++) {
        const ends = yield* connectThrough(client, listener)
        yield* ends.client[n % 2 === 0 ? "close" : "reset"]
        yield* ends.server.close
      }
      assert.strictEqual(counter.notified, 0)
      for (const name of ["server", "client"]) {
        const { events } = yield* appNamed(name)
        assert.deepStrictEqual([events.isObserved, events.unread], [false, 0])
        // Whoever comes now hears of what comes now.
        const told = yield* events.subscribe
        assert.deepStrictEqual(yield* Queue.clear(told), [])
      }
      yield* connectThrough(client, listener)
      assert.strictEqual(counter.notified, 5)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ lock: layer })))
  })

  it.effect("each gets everything, from when it starts until it leaves or the application detaches", () =>
    Effect.gen(function* () {
      const late = yield* Deferred.make<ReadonlyArray<AppEvent>>()
      const told = yield* toldOf({}, ({ client, listener, server }) =>
        Effect.gen(function* () {
          const two = yield* fork(Stream.runCollect(Stream.take(server.events, 2)))
          const ends = yield* connectThrough(client, listener)
          assert.deepStrictEqual(inWords(yield* Fiber.join(two)), opened.server)
          const { events } = yield* appNamed("server")
          yield* Effect.forkDetach(Effect.flatMap(yield* watch(server), (all) => Deferred.succeed(late, all)))
          yield* ends.client.close
          yield* ends.server.close
          assert.isTrue(events.isObserved)
        })
      )
      assert.deepStrictEqual(told.server, [...opened.server, "Disconnected 1", ...gone])
      assert.deepStrictEqual(inWords(yield* Deferred.await(late)), told.server.slice(2))
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )

  it.effect("one that has left is forgotten: again nothing is told and nothing is kept", () => {
    const { counter, layer } = countingLocks()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4)
      const one = yield* fork(Stream.runCollect(Stream.take(server.events, 1)))
      yield* connectThrough(client, listener)
      assert.deepStrictEqual(inWords(yield* Fiber.join(one)), ["SegmentAdded A"])
      const { events } = yield* appNamed("server")
      assert.deepStrictEqual([events.isObserved, events.unread], [false, 0])
      const { notified } = counter
      yield* connectThrough(client, listener)
      assert.strictEqual(counter.notified, notified)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ lock: layer })))
  })

  it.effect("one that comes after the application has detached is at the end at once", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const app = yield* Scope.provide(Application.make({ name: "app" }), scope)
      yield* close(scope)
      assert.deepStrictEqual(yield* Stream.runCollect(app.events), [])
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )
})

describe("in any order of anything", () => {
  const step = Schema.Struct({
    what: Schema.Literals([
      "connect",
      "connect",
      "connect",
      "accept",
      "accept",
      "request",
      "answer",
      "refuse",
      "interrupt",
      "write",
      "end",
      "close",
      "close",
      "reset",
      "unlisten",
      "turn"
    ]),
    which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1000 }))
  })

  const run = (steps: ReadonlyArray<typeof step.Type>) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const apps = yield* Scope.provide(
        Effect.all([
          Application.make({
            name: "one",
            workers: 2,
            rxFifoSize: 4096,
            txFifoSize: 4096,
            segmentSize: 16_384,
            maxSessions: 9
          }),
          Application.make({ name: "two", rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 24_576, maxHalfOpens: 3 }),
          Application.make({ name: "three", rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 8192, maxPending: 40 })
        ]),
        scope
      )
      const told = yield* Effect.forEach(apps, watch)
      const all = yield* Scope.make()
      const held: Array<{ readonly scope: Scope.Closeable; readonly listener: Listener.Listener }> = []
      const listen = (n: number) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const approval = n === 1 ? "application" : "listener"
          const address = Endpoint.tcp("127.0.0.1", 7000 + n)
          const listener = yield* Scope.provide(apps[n].listen(address, { approval, backlog: 3 }), scope)
          held[n] = { scope, listener }
        })
      for (const n of [0, 1, 2]) yield* listen(n)
      const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
      const connections: Array<Connection.Connection> = []
      const requests: Array<Listener.ConnectionRequest> = []
      const go = <A>(effect: Effect.Effect<A, unknown, Scope.Scope>, then: (result: A) => void = () => {}) =>
        Effect.map(
          Effect.forkIn(Effect.map(Scope.provide(effect, all), then), all, { startImmediately: true }),
          (fiber) => void fibers.push(fiber)
        )
      const pick = <A>(from: ReadonlyArray<A>, which: number): A | undefined => from[which % Math.max(1, from.length)]
      for (const { what, which } of steps) {
        const app = apps[which % 3]
        const { listener } = held[(which >> 2) % 3]
        const connection = pick(connections, which)
        const request = pick(requests, which)
        switch (what) {
          case "connect":
            yield* go(app.connect(listener.address), (made) => connections.push(made))
            break
          case "accept":
            yield* go(listener.accept, (made) => connections.push(made))
            break
          case "request":
            yield* go(listener.request, (made) => requests.push(made))
            break
          case "answer":
            if (request !== undefined) yield* go(request.accept, (made) => connections.push(made))
            break
          case "refuse":
            if (request !== undefined) yield* go(request.refuse)
            break
          case "interrupt":
            pick(fibers, which)?.interruptUnsafe()
            break
          case "write":
            if (connection !== undefined) yield* go(connection.write(pattern(which * 9)))
            break
          case "unlisten":
            if (which % 7 === 0) {
              const n = (which >> 2) % 3
              yield* close(held[n].scope)
              yield* listen(n)
            }
            break
          case "turn":
            yield* Effect.yieldNow
            break
          default:
            if (connection !== undefined) yield* go(connection[what])
        }
      }
      // In this order nothing is cut off: an application that is detached is told nothing.
      yield* close(all)
      for (const { scope } of held) yield* close(scope)
      yield* allCalls
      yield* close(scope)
      const events = yield* Effect.all(told)
      events.forEach((of) => assertLawful(of))
      return events.reduce((sum, { length }) => sum + length, 0)
    }).pipe(Effect.provide(layerWith({ workers: 2 })))

  it.prop(
    "each application is told of everything in order",
    [
      Arbitrary.array(Arbitrary.schema(step), { minLength: 5, maxLength: 80 }),
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 })))
    ],
    ([steps, seed]) => {
      runToRest(new ShuffledScheduler(seed, 3 + (seed % 30)), run(steps), `seed ${seed}`)
    },
    { arbitrary: { runs: 250 } }
  )

  it("the programs that the property runs do something", () => {
    const steps = Array.from({ length: 60 }, (_, n) => ({
      what: (["connect", "accept", "connect", "turn", "write", "close"] as const)[n % 6],
      which: n * 17
    }))
    assert.isAbove(runToRest(new ShuffledScheduler(1, 2048), run(steps), "one of them"), 60)
  })
})

describe("answers", () => {
  it.effect("each connect has exactly one, and its half-open is cleaned up once, whoever answers", () =>
    Effect.gen(function* () {
      const told = yield* toldOf({ listen: { approval: "application", backlog: 40 } }, ({ client, listener }) =>
        Effect.gen(function* () {
          const connecting = yield* Effect.forEach(Array.from({ length: 60 }), () =>
            fork(Effect.exit(client.connect(listener.address)))
          )
          for (let n = 0; n < 10; n++) yield* listener.accept
          for (let n = 0; n < 10; n++) yield* Effect.flatMap(listener.request, (request) => request.refuse)
          for (const fiber of connecting.slice(20, 30)) yield* Fiber.interrupt(fiber)
          const rest = yield* Effect.forEach(connecting.slice(40), Fiber.join)
          assert.isTrue(
            rest.every((exit) => reasonOf(exit) === "Refused"),
            "the backlog holds 40"
          )
          const { counters } = yield* SessionLayer
          assert.deepStrictEqual(Object.fromEntries(counters.failed), { Refused: 30, Closed: 10 })
        })
      )
      const answers = told.client.filter((event) => event.startsWith("Connected"))
      assert.strictEqual(answers.length, 60)
      assert.strictEqual(told.client.filter((event) => event.startsWith("HalfOpenCleanup")).length, 60)
      // Directly behind it, so that nobody sees an answered connect that is still there.
      told.client.forEach((event, at) => {
        const [, number] = /^Connected (#\d+)/.exec(event) ?? []
        if (number !== undefined) assert.strictEqual(told.client[at + 1], `HalfOpenCleanup ${number}`)
      })
    }).pipe(Effect.provide(Leaks.layerSessions()))
  )
})
