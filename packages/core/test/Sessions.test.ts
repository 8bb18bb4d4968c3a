import { Application, Endpoint, Sessions } from "@cut-through/core"
import { MIN_CHUNK_BYTES } from "@cut-through/core/memory/ChunkAllocator"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Metric, Option, Queue, Redacted, Scope, Stream } from "effect"
import { connectedPair, endpoint, pattern, readExactly, reasonOf } from "./fixtures.ts"

describe("Sessions", () => {
  describe("list", () => {
    it.effect("has sessions, half-opens and listeners, with all there is to know about them", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint, { approval: "application" })
        yield* Effect.forkScoped(Application.connect(endpoint), { startImmediately: true })
        const request = yield* listener.request
        const infos = yield* Sessions.list
        assert.strictEqual(infos.length, 3)
        const [accepting, halfOpen, listening] = infos
        const common = {
          transport: { name: "ct", shortName: "CT" },
          application: "test",
          namespace: "default",
          listener: listener.handle,
          isTxEnded: false,
          isRxEnded: false,
          isReset: false
        }
        assert.deepInclude(accepting, {
          ...common,
          kind: "session",
          name: "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152",
          app: "test/0",
          worker: 1,
          index: 0,
          side: "server",
          state: "accepting",
          rx: { used: 0, size: 524288 }
        })
        assert.strictEqual(accepting.segment?.listener, "test 127.0.0.1:7000")
        assert.deepInclude(halfOpen, {
          ...common,
          kind: "half-open",
          name: "[1:0][CT:T] 127.0.0.1:49152->127.0.0.1:7000",
          id: undefined,
          app: "test/0",
          worker: 1,
          index: 0,
          side: "client",
          state: "half-open",
          rx: { used: 0, size: 0 },
          segment: undefined
        })
        assert.deepInclude(listening, {
          ...common,
          kind: "listener",
          name: "[0:0][CT:T] 127.0.0.1:7000->*",
          id: undefined,
          app: "test",
          worker: 0,
          index: 0,
          side: undefined,
          state: "listening",
          local: endpoint,
          remote: Endpoint.tcp("0.0.0.0", 0)
        })
        yield* request.accept
        assert.deepStrictEqual(
          (yield* Sessions.list).map(({ kind, listener, state }) => [kind, state, listener]),
          [
            ["session", "ready", listener.handle],
            ["session", "ready", undefined],
            ["listener", "listening", listener.handle]
          ]
        )
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("has what no transport knows, too", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer
        const app = yield* layer.attach({ name: "app" })
        const binding = yield* layer.bind(app, endpoint, {
          backlog: 1,
          approval: "listener",
          isProxy: false,
          workers: app.workers
        })
        assert.deepStrictEqual(
          (yield* Sessions.list).map(({ name, transport }) => [name, transport.name]),
          [["[0:0][-] 127.0.0.1:7000->*", "none"]]
        )
        yield* layer.unbind(binding)
        layer.detach(app)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("says which directions have ended", () =>
      Effect.gen(function* () {
        const { client, server } = yield* connectedPair
        const ended = Effect.map(Sessions.find({ kind: "session" }), (infos) =>
          infos.map(({ isRxEnded, isTxEnded, side }) => [side, isTxEnded, isRxEnded])
        )
        yield* client.end
        assert.deepStrictEqual(yield* ended, [
          ["server", false, true],
          ["client", true, false]
        ])
        yield* server.reset
        assert.deepStrictEqual(yield* ended, [["client", true, true]])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )
  })

  describe("find", () => {
    /** Two of them for each connection to 7000, an unanswered connect to 7001, and three listeners. */
    const everybody = Effect.gen(function* () {
      yield* Sessions.addNamespace({ id: "other" })
      const server = yield* Application.make({ name: "server", workers: 2 })
      const client = yield* Application.make({ name: "client" })
      const other = yield* Application.make({ name: "other", namespace: "other" })
      const v4 = yield* server.listen(Endpoint.tcp("127.0.0.1", 7000))
      const v6 = yield* server.workers[1].listen(Endpoint.tcp("::1", 7001), { approval: "application" })
      yield* other.listen(Endpoint.tcp("127.0.0.1", 7002))
      yield* client.connect(v4.address)
      yield* Effect.forkScoped(client.connect(v6.address), { startImmediately: true })
    })
    const nameOf = ({ kind, local, remote, side }: Sessions.SessionInfo) =>
      `${kind === "session" ? side : kind} ${side === "client" ? remote.port : local.port}`

    const sessions = ["server 7000", "client 7000", "server 7001"]
    const listeners = ["listener 7000", "listener 7001", "listener 7002"]
    const v4 = ["server 7000", "client 7000", "listener 7000"]
    const v6 = ["server 7001", "half-open 7001", "listener 7001"]
    const ofServer = ["server 7000", "server 7001", "listener 7000", "listener 7001"]
    const cases: ReadonlyArray<readonly [Sessions.Filter, ReadonlyArray<string>]> = [
      [{}, [...sessions, "half-open 7001", ...listeners]],
      [{ kind: "session" }, sessions],
      [{ kind: "half-open" }, ["half-open 7001"]],
      [{ kind: ["half-open", "listener"] }, ["half-open 7001", ...listeners]],
      [{ kind: [] }, []],
      [{ state: "half-open" }, ["half-open 7001"]],
      [{ state: "listening" }, listeners],
      [{ state: ["accepting", "ready"] }, sessions],
      [{ app: "server" }, ofServer],
      [{ app: "server/1" }, ["server 7001"]],
      [{ app: "client" }, ["client 7000", "half-open 7001"]],
      [{ app: "client", state: "ready" }, ["client 7000"]],
      [{ app: "serve" }, []],
      [{ namespace: "other" }, ["listener 7002"]],
      [{ namespace: "default", kind: "listener" }, ["listener 7000", "listener 7001"]],
      [{ namespace: "nowhere" }, []],
      [{ endpoint: Endpoint.tcp("127.0.0.1", 7000) }, v4],
      [{ endpoint: Endpoint.tcp("0.0.0.0", 7000) }, v4],
      [{ endpoint: Endpoint.tcp("127.0.0.1", 0) }, [...v4, "listener 7002"]],
      [{ endpoint: Endpoint.tcp("0.0.0.0", 0) }, [...v4, "listener 7002"]],
      [{ endpoint: Endpoint.tcp("127.0.0.2", 0) }, []],
      [{ endpoint: Endpoint.tcp("127.0.0.1", 7001) }, []],
      [{ endpoint: Endpoint.tcp("0.0.0.0", 7001) }, []],
      [{ endpoint: Endpoint.tcp("::", 0) }, v6],
      [{ endpoint: Endpoint.tcp("::1", 7001), kind: "listener" }, ["listener 7001"]],
      // The port that the client got, at both ends.
      [{ endpoint: Endpoint.tcp("127.0.0.1", 49152) }, ["server 7000", "client 7000"]]
    ]

    it.effect("lets through what has all that is asked for", () =>
      Effect.gen(function* () {
        yield* everybody
        for (const [filter, names] of cases) {
          assert.deepStrictEqual((yield* Sessions.find(filter)).map(nameOf), names, JSON.stringify(filter))
        }
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  })

  it.effect("get finds a session by its id as long as it lives, and nothing by any other id", () =>
    Effect.gen(function* () {
      const { server } = yield* connectedPair
      const [info] = yield* Sessions.find({ kind: "session" })
      const id = info.id!
      assert.strictEqual(info.side, "server")
      assert.deepStrictEqual(yield* Sessions.get(id), Option.some(info))
      for (const worker of [0, 2, -1, 0.5, 2 ** 40]) {
        assert.deepStrictEqual(yield* Sessions.get({ ...id, worker }), Option.none())
      }
      for (const handle of [0, -1, id.handle + 1_000]) {
        assert.deepStrictEqual(yield* Sessions.get({ ...id, handle }), Option.none())
      }
      yield* server.close
      assert.deepStrictEqual(yield* Sessions.get(id), Option.none())
      yield* connectedPair
      // Another session has its place by now, under another id.
      assert.isTrue((yield* Sessions.find({ kind: "session" })).some(({ index }) => index === info.index))
      assert.deepStrictEqual(yield* Sessions.get(id), Option.none())
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  describe("changes", () => {
    it.effect("are what the session was when it changed, however late they are read", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer
        const changes = yield* Stream.toQueue(Sessions.changes, { capacity: "unbounded" })
        while (!layer.changes.isObserved) yield* Effect.yieldNow
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { client, server } = yield* connectedPair
            yield* client.write(pattern(12))
            yield* client.close
            yield* readExactly(server, 12)
            yield* server.close
          })
        )
        // All of them are gone, and their FIFOs with them.
        assert.strictEqual((yield* Sessions.list).length, 0)
        const seen: Array<string> = []
        for (let count = 0; count < 10; count++) {
          const { from, info, to } = yield* Queue.take(changes)
          assert.strictEqual(info.state, to)
          assert.strictEqual(info.rx.size, 524288)
          seen.push(`${info.side}: ${from} to ${to}, rx ${info.rx.used}, tx ${info.tx.used}`)
        }
        assert.deepStrictEqual(seen, [
          "server: created to accepting, rx 0, tx 0",
          "server: accepting to ready, rx 0, tx 0",
          "client: created to connecting, rx 0, tx 0",
          "client: connecting to ready, rx 0, tx 0",
          "client: ready to closing, rx 0, tx 12",
          "client: closing to app-closed, rx 0, tx 12",
          "server: ready to transport-closing, rx 12, tx 0",
          "client: app-closed to closed, rx 0, tx 12",
          "server: transport-closing to closing, rx 0, tx 0",
          "server: closing to app-closed, rx 0, tx 0"
        ])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("are made for nobody when nobody listens", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer
        yield* Effect.scoped(Stream.toPull(Sessions.changes))
        yield* Stream.runDrain(Stream.take(Sessions.changes, 0))
        assert.isFalse(layer.changes.isObserved)
        const watching = yield* Effect.forkChild(Stream.runDrain(Sessions.changes), { startImmediately: true })
        assert.isTrue(layer.changes.isObserved)
        yield* Fiber.interrupt(watching)
        assert.isFalse(layer.changes.isObserved)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("format", () => {
    it.effect("shows sessions and listeners with their states, and how many bytes are in both FIFOs", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* Sessions.format, "no sessions")
        const listener = yield* Application.listen(endpoint)
        const client = yield* Application.connect(endpoint)
        const server = yield* listener.accept
        yield* client.write(pattern(12))
        assert.strictEqual(
          yield* Sessions.format,
          [
            "Connection                                   State        Rx-f  Tx-f",
            "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  ESTABLISHED  12    0",
            "[1:1][CT:T] 127.0.0.1:49152->127.0.0.1:7000  ESTABLISHED  0     12",
            "[0:0][CT:T] 127.0.0.1:7000->*                LISTEN       0     0"
          ].join("\n")
        )
        yield* client.close
        assert.strictEqual(
          yield* Sessions.format,
          [
            "Connection                                   State              Rx-f  Tx-f",
            "[1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  TRANSPORT-CLOSING  12    0",
            "[0:0][CT:T] 127.0.0.1:7000->*                LISTEN             0     0"
          ].join("\n")
        )
        yield* server.close
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("verbose, also how large the FIFOs are, what is over, whose it is, and where it lies", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* Sessions.formatVerbose, "no sessions")
        yield* Sessions.addNamespace({ id: "n" })
        const namespace = "n"
        const server = yield* Application.make({ name: "server", rxFifoSize: "64 KiB", namespace })
        const client = yield* Application.make({ name: "client", namespace })
        yield* server.listen(endpoint, { approval: "application" })
        const listener = yield* server.listen(Endpoint.tcp("127.0.0.1", 7001))
        const connection = yield* client.connect(listener.address)
        yield* connection.write(pattern(12))
        yield* connection.end
        yield* Effect.forkScoped(client.connect(endpoint), { startImmediately: true })
        assert.strictEqual(
          yield* Sessions.formatVerbose,
          [
            "Connection                                   State        Rx-f      Tx-f      Flags     App       Namespace  Segment",
            "[1:0][CT:T] 127.0.0.1:7001->127.0.0.1:49152  ESTABLISHED  12/65536  0/524288  rx-ended  server/0  n          server 127.0.0.1:7001 #1",
            "[1:1][CT:T] 127.0.0.1:49152->127.0.0.1:7001  ESTABLISHED  0/524288  12/65536  tx-ended  client/0  n          server 127.0.0.1:7001 #1",
            "[1:2][CT:T] 127.0.0.1:7000->127.0.0.1:49153  ACCEPTING    0/65536   0/524288  -         server/0  n          server 127.0.0.1:7000 #2",
            "[1:0][CT:T] 127.0.0.1:49153->127.0.0.1:7000  HALF-OPEN    0/0       0/0       -         client/0  n          -",
            "[0:0][CT:T] 127.0.0.1:7000->*                LISTEN       0/0       0/0       -         server    n          -",
            "[0:1][CT:T] 127.0.0.1:7001->*                LISTEN       0/0       0/0       -         server    n          -"
          ].join("\n")
        )
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("namespaces", () => {
    it.effect("are there as long as their scope, and keep out who does not know their secret", () =>
      Effect.gen(function* () {
        const attach = (namespaceSecret?: string) =>
          Effect.scoped(Application.make({ name: "app", namespace: "payments", namespaceSecret }))
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Sessions.addNamespace({ id: "payments", secret: Redacted.make("correct horse") })
            assert.strictEqual(reasonOf(yield* Effect.exit(attach("correct house"))), "WrongNamespaceSecret")
            assert.strictEqual(reasonOf(yield* Effect.exit(attach())), "WrongNamespaceSecret")
            yield* attach("correct horse")
            const again = yield* Effect.flip(Sessions.addNamespace({ id: "payments" }))
            assert.strictEqual(again.message, 'the namespace is "payments": expected a name that no namespace has yet')
          })
        )
        // The second one has failed, so its scope had nothing to remove; the first one's had.
        assert.strictEqual(reasonOf(yield* Effect.exit(attach("correct horse"))), "UnknownNamespace")
        assert.deepStrictEqual(
          (yield* Sessions.namespaces).map(({ id }) => id),
          ["default"]
        )
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("are listed with who is in them, and never with their secret", () =>
      Effect.gen(function* () {
        yield* Sessions.addNamespace({ id: "payments", secret: "correct horse" })
        yield* Sessions.addRule({ action: "drop", namespace: "payments" })
        const options = { namespace: "payments", namespaceSecret: "correct horse" }
        const server = yield* Application.make({ name: "server", ...options })
        yield* Application.make({ name: "client", ...options })
        yield* server.listen(endpoint)
        const namespaces = yield* Sessions.namespaces
        assert.deepStrictEqual(namespaces, [
          { id: "default", hasSecret: false, apps: 0, listeners: 0, rules: 0 },
          { id: "payments", hasSecret: true, apps: 2, listeners: 1, rules: 1 }
        ])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("rules", () => {
    const connect = Effect.map(Effect.exit(Effect.scoped(Application.connect(endpoint))), reasonOf)

    it.effect("decide over connects as long as their scope", () =>
      Effect.gen(function* () {
        const listener = yield* Application.listen(endpoint)
        const other = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7001))
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Sessions.addRule({ remote: "127.0.0.0/8", action: "drop", scope: "local" })
            assert.strictEqual(yield* connect, "Filtered")
            for (const redirect of [other, other.handle]) {
              yield* Effect.scoped(
                Effect.gen(function* () {
                  yield* Sessions.addRule({ remote: "127.0.0.1", remotePort: 7000, action: { redirect } })
                  yield* Application.connect(endpoint)
                  const server = yield* other.accept
                  assert.strictEqual(Endpoint.format(server.info.local), "127.0.0.1:7000")
                })
              )
            }
            assert.strictEqual(yield* connect, "Filtered")
          })
        )
        assert.deepStrictEqual(yield* Sessions.rules, [])
        assert.strictEqual(yield* connect, "success")
        yield* listener.accept
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("are of one namespace, of all, or of both", () =>
      Effect.gen(function* () {
        yield* Sessions.addNamespace({ id: "n" })
        yield* Sessions.addRule({ remotePort: 1, action: "drop" })
        yield* Sessions.addRule({ remotePort: 2, action: "drop", scope: "local" })
        yield* Sessions.addRule({ remotePort: 3, action: "drop", scope: "global" })
        yield* Sessions.addRule({ remotePort: 4, action: "drop", scope: "both", namespace: "n" })
        assert.deepStrictEqual(
          (yield* Sessions.rules).map(({ namespace, remotePort, scope }) => `${remotePort} ${scope} ${namespace}`),
          [
            "1 global undefined",
            "3 global undefined",
            "4 global undefined",
            "1 local default",
            "2 local default",
            "4 local n"
          ]
        )
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect("that match the same: the later one decides while it is there, whichever goes first", () =>
      Effect.gen(function* () {
        yield* Application.listen(endpoint)
        const scopes = {
          allow: yield* Scope.make(),
          drop: yield* Scope.make(),
          again: yield* Scope.make()
        }
        const add = (scope: keyof typeof scopes, action: "allow" | "drop") =>
          Scope.provide(Sessions.addRule({ remotePort: 7000, action, tag: scope, scope: "local" }), scopes[scope])
        const close = (scope: keyof typeof scopes) => Scope.close(scopes[scope], Exit.void)
        const state = Effect.map(Sessions.rules, (rules) => rules.map(({ hits, tag }) => `${tag} ${hits}`))

        yield* add("allow", "allow")
        assert.strictEqual(yield* connect, "success")
        yield* add("drop", "drop")
        assert.strictEqual(yield* connect, "Filtered")
        yield* add("again", "allow")
        assert.strictEqual(yield* connect, "success")
        // The one in the middle goes unseen: the last one uncovers the first.
        yield* close("drop")
        assert.deepStrictEqual(yield* state, ["again 1"])
        yield* close("again")
        assert.deepStrictEqual(yield* state, ["allow 1"])
        assert.strictEqual(yield* connect, "success")
        assert.deepStrictEqual(yield* state, ["allow 2"])
        yield* close("allow")
        assert.deepStrictEqual(yield* state, [])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("that are none fail, and leave nothing", () =>
      Effect.gen(function* () {
        const closed = yield* Effect.scoped(Application.listen(endpoint))
        const invalid: ReadonlyArray<readonly [Sessions.RuleOptions, string]> = [
          [{ remote: "10.0.0.0/33", action: "drop" }, 'the prefix is "10.0.0.0/33": expected a length from 0 to 32'],
          [{ remotePort: 70_000, action: "drop" }, "the remote port is 70000: expected an integer from 0 to 65535"],
          [
            { local: "10.0.0.0/8", remote: "::1", action: "drop" },
            'the remote prefix is "::1/128": expected one of the family of the local 10.0.0.0/8'
          ],
          [
            { action: { redirect: closed } },
            `the redirect is ${closed.handle}: expected a listener that listens, or its handle`
          ],
          [{ action: { redirect: 5 } }, "the redirect is 5: expected a listener that listens, or its handle"],
          [
            { action: "drop", namespace: "nowhere" },
            'there is no namespace "nowhere": add it first, with Sessions.addNamespace'
          ],
          [
            { action: "drop", scope: "global", namespace: "default" },
            'the namespace of a global rule is "default": expected none: it is for those of all namespaces'
          ],
          [
            { action: "drop", scope: "everywhere" as "both" },
            'the scope of the rule is "everywhere": expected "local", "global" or "both"'
          ]
        ]
        for (const [options, message] of invalid) {
          const error = yield* Effect.flip(Sessions.addRule(options))
          assert.strictEqual(error._tag, "SessionError")
          assert.strictEqual(error.message, message)
        }
        assert.deepStrictEqual(yield* Sessions.rules, [])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect("are formatted by table, in the order in which they are tried", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* Sessions.formatRules, "no session rules")
        const listener = yield* Application.listen(endpoint)
        yield* Sessions.addRule({ action: "drop", scope: "global" })
        yield* Sessions.addRule({ remote: "fd00::/8", localPort: 5, action: "allow", scope: "local", tag: "mine" })
        yield* Sessions.addRule({ remotePort: 7000, action: { redirect: listener }, scope: "local" })
        yield* Effect.scoped(Application.connect(Endpoint.tcp("127.0.0.1", 7000)))
        assert.strictEqual(
          yield* Sessions.formatRules,
          [
            "global rules",
            "[tcp] *:*  -> *:*  action drop  tag none  hits 0",
            "rules of namespace default",
            "[tcp] [::/0]:5  -> [fd00::/8]:*  action allow       tag mine  hits 0",
            "[tcp] *:*       -> *:7000        action redirect 0  tag none  hits 1"
          ].join("\n")
        )
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )
  })

  describe("metrics", () => {
    const states = Effect.map(Metric.snapshot, (metrics) =>
      Object.fromEntries(
        metrics.map(({ attributes, id, state, type }) => [
          attributes === undefined || !("reason" in attributes) ? id : `${id} ${attributes.reason}`,
          type === "Gauge" ? state.value : type === "Counter" ? state.count : undefined
        ])
      )
    )
    const withRegistry = Effect.provideService(Metric.MetricRegistry, new Map())

    it.effect("are what there is when somebody looks, as long as their scope", () =>
      Effect.gen(function* () {
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(Sessions.layerMetrics)
            const listener = yield* Application.listen(endpoint, { backlog: 1 })
            const client = yield* Application.connect(endpoint)
            yield* Effect.flip(Application.connect(endpoint))
            yield* client.write(pattern(12))
            assert.deepInclude(yield* states, {
              cut_through_sessions: 2,
              cut_through_half_opens: 0,
              cut_through_listeners: 1,
              cut_through_apps: 1,
              cut_through_segments: 1,
              cut_through_fifo_bytes: (yield* Sessions.residue).fifoBytes,
              cut_through_leases: 2,
              cut_through_connects_total: 2,
              cut_through_connected_total: 1,
              "cut_through_connect_failures_total Refused": 1,
              "cut_through_connect_failures_total AllocFailed": 0,
              cut_through_closed_total: 0,
              cut_through_resets_total: 0
            })
            yield* client.close
            yield* (yield* listener.accept).reset
            yield* (yield* Application.connect(endpoint)).reset
            yield* (yield* listener.accept).reset
            assert.deepInclude(yield* states, {
              cut_through_sessions: 0,
              cut_through_segments: 0,
              cut_through_fifo_bytes: 0,
              cut_through_leases: 0,
              cut_through_closed_total: 1,
              cut_through_resets_total: 3
            })
          })
        )
        assert.deepStrictEqual(yield* states, {})
      }).pipe(withRegistry, Effect.provide(Leaks.layerTest))
    )

    it.effect("of two session layers are told apart by attributes", () =>
      Effect.gen(function* () {
        const metricsOf = (name: string) =>
          Layer.build(Layer.provideMerge(Sessions.layerMetrics, Leaks.layerTest)).pipe(
            Effect.provideService(Metric.CurrentMetricAttributes, { layer: name })
          )
        const one = yield* metricsOf("one")
        yield* metricsOf("two")
        yield* Effect.provideContext(Application.listen(endpoint), one)
        const listeners = (yield* Metric.snapshot).filter(({ id }) => id === "cut_through_listeners")
        assert.deepStrictEqual(
          listeners.map(({ attributes, state }) => [attributes, state]),
          [
            [{ layer: "one" }, { value: 1 }],
            [{ layer: "two" }, { value: 0 }]
          ]
        )
      }).pipe(Effect.scoped, withRegistry)
    )
  })

  it.effect("two connections between the same applications share a segment", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      yield* Application.connect(endpoint)
      const residue = yield* Sessions.residue
      assert.deepStrictEqual([residue.sessions, residue.segments, residue.leases], [4, 1, 4])
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )

  it.effect("10,000 connections take ceil(10,000 / pairs in a segment) segments, and none when they are closed", () =>
    Effect.gen(function* () {
      const count = 10_000
      const sizes = { rxFifoSize: 65536, txFifoSize: 65536, segmentSize: 128 * 1024 * 1024 }
      const server = yield* Application.make({ name: "server", ...sizes })
      const client = yield* Application.make({ name: "client" })
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* server.listen(endpoint, { backlog: count })
          for (let i = 0; i < count; i++) yield* client.connect(endpoint)
          // 128 MiB / (64 KiB + 64 KiB) = 1024 pairs in a segment; 10,000 / 1024 = 9.77.
          const pairs = FifoSegment.pairsPerSegment(sizes.segmentSize, sizes.rxFifoSize, sizes.txFifoSize)
          assert.strictEqual(pairs, 1024)
          const residue = yield* Sessions.residue
          assert.deepStrictEqual(
            [residue.sessions, residue.segments, residue.contexts],
            [2 * count, Math.ceil(count / pairs), 1]
          )
          assert.strictEqual(residue.segments, 10)
          // Both FIFOs of a connection start with one page each.
          assert.strictEqual(residue.fifoBytes, count * 2 * MIN_CHUNK_BYTES)
        })
      )
      assert.isTrue(Object.values(yield* Sessions.residue).every((left) => left === 0))
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("segments are told apart by listener, client and server", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer
      const server = yield* Application.make({ name: "server", workers: 2 })
      const clients = [yield* Application.make({ name: "one" }), yield* Application.make({ name: "two" })]
      yield* server.listen(endpoint)
      // Each client meets both workers of the server.
      for (const client of clients) for (let i = 0; i < 4; i++) yield* client.connect(endpoint)
      const { contexts, segments } = layer.segments.stats()
      assert.deepStrictEqual([contexts, segments.length], [4, 4])
      assert.deepStrictEqual(
        segments.map(({ clientSessions, serverSessions }) => [clientSessions, serverSessions]),
        [
          [2, 2],
          [2, 2],
          [2, 2],
          [2, 2]
        ]
      )
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("closing from either side: the last of both sides takes the segment with it", () =>
    Effect.gen(function* () {
      for (const first of ["client", "server"] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const listener = yield* Application.listen(endpoint)
            const client = yield* Application.connect(endpoint)
            const server = yield* listener.accept
            const layer = yield* SessionLayer
            yield* (first === "client" ? client : server).close
            const [segment] = layer.segments.stats().segments
            assert.deepStrictEqual(
              [segment.clientDetached, segment.serverDetached],
              [first === "client", first === "server"]
            )
            // A segment that one side has left is not given to anybody any more.
            const next = yield* Application.connect(endpoint)
            assert.strictEqual(layer.segments.stats().segments.length, 2)
            yield* next.close
            yield* (first === "client" ? server : client).close
            yield* (yield* listener.accept).close
            assert.strictEqual(layer.segments.stats().segments.length, 0)
          })
        )
      }
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
  )
})
