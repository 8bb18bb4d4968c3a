import { Application, type Connection, Endpoint, type Listener, Sessions } from "@cut-through/core"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import type { App, AppScope } from "@cut-through/core/session/App"
import { NOBODY_LISTENS } from "@cut-through/core/session/AppListener"
import * as Namespace from "@cut-through/core/session/Namespace"
import * as SessionError from "@cut-through/core/SessionError"
import { endpoint, reasonOf } from "../fixtures.ts"
import { type Attempt, happenEverywhere, interruptEverywhere } from "../runtime/stepping.ts"
import { noMemory, ShortMemory, SlowMemory } from "../segment/fixtures.ts"
import { layerWith, ListeningTransport } from "./fixtures.ts"

type Sessions_ = SessionLayer.SessionLayer["Service"]

const attach = (options: Partial<SessionLayer.AttachOptions> = {}) =>
  SessionLayer.SessionLayer.use((layer) => layer.attach({ name: "app", ...options }))

const bind = (app: App, at: Endpoint.Endpoint, options: Partial<SessionLayer.BindOptions> = {}) =>
  SessionLayer.SessionLayer.use((layer) =>
    layer.bind(app, at, { backlog: 1, approval: "listener", isProxy: false, workers: app.workers, ...options })
  )

const unbind = (binding: SessionLayer.Binding) => SessionLayer.SessionLayer.use((layer) => layer.unbind(binding))

/** Everything the app has, given back. */
const detach = (app: App) =>
  Effect.gen(function* () {
    const layer = yield* SessionLayer.SessionLayer
    for (const listener of app.listeners) {
      for (const queue of new Set(listener.servers.map(({ queue }) => queue))) yield* layer.unbind({ listener, queue })
    }
    layer.detach(app)
  })

/** The listeners in both tables that matter to an application, and in the list. */
const listeningOf = ({ global, listeners }: Sessions_, app: App) => ({
  local: [...app.namespace.table],
  global: [...global.table],
  all: [...listeners()]
})

const nothingListens = { local: [], global: [], all: [] }

/** Fails with exactly this message, and with this reason. */
const assertFails = <A, R>(
  effect: Effect.Effect<A, SessionError.SessionError, R>,
  tag: SessionError.Reason["_tag"],
  message: string
) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.strictEqual(error.reason._tag, tag)
    assert.strictEqual(error.message, message)
  })

/** Lets everything happen that waits for nothing but its turn. */
const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

describe("SessionLayer", () => {
  describe("options that are none", () => {
    const size = 'a size in bytes, or a text such as "64 KiB"'
    const fifo = "1 to 1073741824 bytes"
    const least1 = "an integer, at least 1"
    const anyDuration = 'a duration, such as "10 seconds"'
    const finite = "a finite duration, at least zero"
    const cases: ReadonlyArray<readonly [what: string, value: unknown, expected: string, shown?: string]> = [
      ["scope", "galaxy", '"local", "global" or "both"'],
      ["scope", "", '"local", "global" or "both"'],
      ...[0, -1, 1.5, NaN, Infinity].map((value) => ["workers", value, least1] as const),
      ...["rxFifoSize", "txFifoSize", "segmentSize", "maxFifoMemory"].flatMap((what) =>
        ["64 apples", "", "KiB", "1.5 bytes", "-1 KiB", -1, 0.5, NaN, Infinity].map(
          (value) => [what, value, size] as const
        )
      ),
      ["rxFifoSize", 0, fifo],
      ["rxFifoSize", 2 ** 30 + 1, fifo],
      ["rxFifoSize", "2 GiB", fifo, `${2 ** 31}`],
      ["txFifoSize", 0, fifo],
      ["txFifoSize", 2 ** 30 + 1, fifo],
      ["segmentSize", 0, "at least 1048576 bytes, to hold one pair of FIFOs"],
      ["segmentSize", 1_048_575, "at least 1048576 bytes, to hold one pair of FIFOs"],
      ["segmentLinger", "soon", anyDuration],
      ["segmentLinger", "10 apples", anyDuration],
      ["segmentLinger", "", anyDuration],
      ["segmentLinger", Infinity, finite, "Infinity"],
      ["segmentLinger", "Infinity", finite, "Infinity"],
      ["segmentLinger", Duration.infinity, finite, "Infinity"],
      ["segmentLinger", -1, finite, "-1ms"],
      ["segmentLinger", "-2 seconds", finite, "-2s"],
      ["segmentLinger", Duration.negativeInfinity, finite, "-Infinity"],
      ["maxFifoMemory", 0, "at least 1048576 bytes, for one pair of FIFOs"],
      ["maxFifoMemory", "1023 KiB", "at least 1048576 bytes, for one pair of FIFOs", `${1023 * 1024}`],
      ...["maxSessions", "maxHalfOpens", "maxPending"].flatMap((what) =>
        [0, -1, 1.5, NaN, Infinity].map((value) => [what, value, least1] as const)
      )
    ]
    it.effect.each(cases)("%s: %s", ([what, value, expected, shown]) =>
      Effect.gen(function* () {
        const text = shown ?? String(value)
        const error = yield* Effect.flip(attach({ [what]: value }))
        assert.deepInclude(error.reason, { _tag: "InvalidArgument", what, value: text, expected })
        assert.strictEqual(error.message, `${what} is ${text}: expected ${expected}`)
        const { apps } = yield* SessionLayer.SessionLayer
        assert.deepStrictEqual([...apps()], [], "what cannot be attached is listed")
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect.each([0, -1, 0.5, NaN, Infinity])("backlog: %s", (backlog) =>
      Effect.gen(function* () {
        const message = `backlog is ${backlog}: expected an integer, at least 1`
        yield* assertFails(Application.listen(endpoint, { backlog }), "InvalidArgument", message)
        const { listeners } = yield* SessionLayer.SessionLayer
        assert.deepStrictEqual([...listeners()], [])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    const noProxies = [
      ["127.0.0.1:0", "127.0.0.1", 0],
      ["0.0.0.0:80", "0.0.0.0", 80],
      ["192.0.2.1:80", "192.0.2.1", 80],
      ["[::1]:0", "::1", 0],
      ["[::]:80", "::", 80]
    ] as const
    it.effect.each(noProxies)("a proxy on %s", ([at, address, port]) =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const app = yield* attach()
        yield* assertFails(
          bind(app, Endpoint.tcp(address, port), { isProxy: true }),
          "InvalidArgument",
          `the endpoint of a proxy is ${at}: expected 0.0.0.0:0, or [::]:0 for IPv6`
        )
        assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
        yield* detach(app)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect.each([-1, 1.5, NaN, Infinity])("workers of the layer: %s", (workers) =>
      Effect.gen(function* () {
        const message = `workers is ${workers}: expected an integer, at least 0`
        yield* assertFails(Effect.scoped(Layer.build(Leaks.layerSessions({ workers }))), "InvalidArgument", message)
      })
    )
  })

  describe("attach and detach", () => {
    it.effect("an attached application is listed, with its sizes in bytes, until it is detached", () =>
      Effect.gen(function* () {
        const { apps } = yield* SessionLayer.SessionLayer
        const first = yield* attach({ name: "first" })
        const second = yield* attach({
          name: "second",
          scope: "local",
          workers: 2,
          rxFifoSize: "64 KiB",
          txFifoSize: 4096,
          segmentSize: "1 MiB",
          segmentLinger: "2 seconds",
          maxFifoMemory: "1 GiB",
          maxSessions: 3,
          maxHalfOpens: 2,
          maxPending: 1
        })
        assert.sameOrderedMembers([...apps()], [first, second])
        assert.deepStrictEqual(first.properties, {
          segmentSize: 128 * 1024 * 1024,
          rxFifoSize: 512 * 1024,
          txFifoSize: 512 * 1024,
          linger: Duration.zero
        })
        assert.deepStrictEqual(first.quotas, {
          maxFifoMemory: Infinity,
          maxSessions: Infinity,
          maxHalfOpens: Infinity,
          maxPending: 65_536
        })
        assert.deepStrictEqual([first.scope, second.scope], ["both", "local"])
        assert.strictEqual(first.namespace.id, Namespace.DEFAULT)
        assert.deepStrictEqual(second.properties, {
          segmentSize: 1024 * 1024,
          rxFifoSize: 65_536,
          txFifoSize: 4096,
          linger: Duration.seconds(2)
        })
        assert.deepStrictEqual(second.quotas, {
          maxFifoMemory: 2 ** 30,
          maxSessions: 3,
          maxHalfOpens: 2,
          maxPending: 1
        })
        assert.deepStrictEqual(
          second.workers.map((worker) => worker.name),
          ["second/0", "second/1"]
        )
        yield* detach(first)
        assert.isTrue(first.isDetached)
        yield* detach(first)
        assert.sameOrderedMembers([...apps()], [second])
        // In the place of the one that has gone, which takes nobody out any more.
        const third = yield* attach({ name: "third" })
        yield* detach(first)
        assert.sameMembers([...apps()], [second, third])
        for (const app of [second, third]) yield* detach(app)
        assert.deepStrictEqual([...apps()], [])
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("a detached application cannot listen", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const app = yield* attach()
        yield* detach(app)
        const message =
          "the application was closed by this side, or by the end of its scope: keep that scope open, or open another"
        yield* assertFails(bind(app, endpoint), "Closed", message)
        assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("namespaces", () => {
    const add = (id: string, secret?: string | Redacted.Redacted) =>
      SessionLayer.SessionLayer.use((layer) => layer.addNamespace(id, secret))

    it.effect("there is the default one, and those that are added, until they are removed", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const ids = () => [...layer.namespaces()].map(({ id }) => id)
        assert.deepStrictEqual(ids(), [Namespace.DEFAULT])
        const payments = yield* add("payments", "correct horse")
        assert.deepStrictEqual(ids(), [Namespace.DEFAULT, "payments"])
        assert.strictEqual(layer.getNamespace("payments"), payments)
        assert.isUndefined(layer.getNamespace("payment"))
        for (const taken of [Namespace.DEFAULT, "payments"]) {
          const message = `the namespace is "${taken}": expected a name that no namespace has yet`
          yield* assertFails(add(taken), "InvalidArgument", message)
        }
        assert.strictEqual(layer.getNamespace("payments"), payments)
        layer.removeNamespace(payments)
        assert.isUndefined(layer.getNamespace("payments"))
        const another = yield* add("payments")
        assert.notStrictEqual(another.table, payments.table)
        // Whoever has gone takes nobody out.
        layer.removeNamespace(payments)
        assert.strictEqual(layer.getNamespace("payments"), another)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("an application attaches to one that there is, with its secret", () =>
      Effect.gen(function* () {
        const { apps } = yield* SessionLayer.SessionLayer
        const open = yield* add("open")
        const closed = yield* add("closed", "correct horse")
        yield* assertFails(
          attach({ namespace: 'clo"sed' }),
          "UnknownNamespace",
          String.raw`there is no namespace "clo\"sed": add it first, with Sessions.addNamespace`
        )
        const wrong = (namespace: string, namespaceSecret: string | Redacted.Redacted | undefined) =>
          Effect.map(Effect.flip(attach({ namespace, namespaceSecret })), (error) => {
            assert.deepInclude(error.reason, { _tag: "WrongNamespaceSecret", namespace })
            assert.include(error.message, `the secret given for the namespace "${namespace}" is not the one`)
            assert.notInclude(JSON.stringify(error), "horse")
          })
        for (const secret of [undefined, "", "correct hors", "correct horse!", Redacted.make("horse")]) {
          yield* wrong("closed", secret)
        }
        yield* wrong("open", "horse")
        yield* wrong(Namespace.DEFAULT, "horse")
        assert.deepStrictEqual([...apps()], [])
        const secret = "correct horse"
        const attached = [
          yield* attach(),
          yield* attach({ namespace: "open" }),
          yield* attach({ namespace: "closed", namespaceSecret: secret }),
          yield* attach({ namespace: "closed", namespaceSecret: Redacted.make(secret) })
        ]
        assert.sameOrderedMembers(
          attached.slice(1).map((app) => app.namespace),
          [open, closed, closed]
        )
        yield* Effect.forEach(attached, detach)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("removed, nobody new comes; those who are there stay, and find each other", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const namespace = yield* add("payments")
        const options = { name: "inside", namespace: "payments" }
        const [server, client] = [yield* Application.make(options), yield* Application.make(options)]
        layer.removeNamespace(namespace)
        yield* assertFails(
          attach({ namespace: "payments" }),
          "UnknownNamespace",
          'there is no namespace "payments": add it first, with Sessions.addNamespace'
        )
        const listener = yield* server.listen(endpoint)
        yield* client.connect(endpoint)
        yield* listener.accept
        // Another one of the same name is another one.
        yield* add("payments")
        const outside = yield* Application.make(options)
        yield* assertFails(
          outside.connect(endpoint),
          "NoRoute",
          "cannot connect to 127.0.0.1:7000: no application listens there. Listen first, or check the address and port"
        )
        yield* outside.listen(endpoint)
        yield* outside.connect(endpoint)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  })

  describe("bind and unbind", () => {
    it.effect("an endpoint has one listener at a time", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        const [app, other] = [yield* attach(), yield* attach({ name: "other" })]
        const binding = yield* bind(app, endpoint, { backlog: 3, approval: "application" })
        const { listener, queue } = binding
        assert.strictEqual(queue.limit, 3)
        assert.strictEqual(listener.approval, "application")
        assert.isFalse(listener.isProxy)
        assert.strictEqual(listener.endpoint, endpoint)
        assert.sameOrderedMembers(
          listener.servers.map(({ worker }) => worker),
          [...app.workers]
        )
        assert.strictEqual(listener.servers[0].queue, queue)
        assert.strictEqual(listener.servers[0].manager.name, "app 127.0.0.1:7000")
        assert.strictEqual(layer.getListener(listener.handle), listener)
        assert.sameOrderedMembers([...layer.listeners()], [listener])
        assert.sameOrderedMembers([...app.listeners], [listener])

        const taken =
          "cannot listen on 127.0.0.1:7000: it is taken. Close the other listener, or use port 0 to get a free port"
        yield* assertFails(bind(other, endpoint, { approval: "application" }), "AlreadyListening", taken)
        assert.strictEqual(other.listeners.size, 0)

        yield* unbind(binding)
        assert.isTrue(listener.isClosed)
        assert.isTrue(queue.isClosed)
        assert.isUndefined(layer.getListener(listener.handle))
        assert.strictEqual(listener.selectServer(), NOBODY_LISTENS)
        assert.strictEqual(app.listeners.size, 0)
        assert.deepStrictEqual(listeningOf(layer, app), nothingListens)

        const next = (yield* bind(other, endpoint)).listener
        assert.isUndefined(layer.getListener(listener.handle), "R6 a stale handle finds a stranger")
        assert.strictEqual(layer.getListener(next.handle), next)
        // It has gone already: nobody goes with it.
        yield* unbind(binding)
        assert.sameOrderedMembers([...layer.listeners()], [next])
        assert.strictEqual(other.namespace.table.lookupLocal(endpoint), next)
        yield* Effect.forEach([app, other], detach)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("port 0 is a free port of the dynamic range, as long as there is one", () =>
      Effect.gen(function* () {
        const app = yield* attach()
        const any = Endpoint.withPort(endpoint, 0)
        const ports = new Set<number>()
        for (let i = 49_152; i <= 65_535; i++) {
          const { port } = (yield* bind(app, any)).listener.endpoint
          assert.isTrue(port >= 49_152 && port <= 65_535)
          ports.add(port)
        }
        assert.strictEqual(ports.size, 16_384)
        const error = yield* Effect.flip(bind(app, any))
        assert.deepInclude(error.reason, { _tag: "AlreadyListening", endpoint: "127.0.0.1:0" })
        yield* detach(app)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("port 0 is free wherever the listener is found, and may be taken elsewhere", () =>
      Effect.gen(function* () {
        const layer = yield* SessionLayer.SessionLayer
        yield* layer.addNamespace("a", undefined)
        const apps = {
          a: yield* attach({ namespace: "a", scope: "local" }),
          default: yield* attach({ scope: "local" }),
          global: yield* attach({ scope: "global" }),
          both: yield* attach({ namespace: "a", scope: "both" })
        }
        /** The port that an application gets when this one would be next. */
        const portFrom = (next: number, app: App, address: string) => {
          while (layer.ports.take() !== next - 1);
          return Effect.map(bind(app, Endpoint.tcp(address, 0)), ({ listener }) => listener.endpoint.port)
        }
        assert.strictEqual(yield* portFrom(50_000, apps.a, "0.0.0.0"), 50_000)
        assert.strictEqual(yield* portFrom(50_000, apps.default, "127.0.0.1"), 50_000)
        assert.strictEqual(yield* portFrom(50_000, apps.global, "192.0.2.1"), 50_000)
        assert.strictEqual(yield* portFrom(50_001, apps.global, "192.0.2.1"), 50_001)
        assert.strictEqual(yield* portFrom(50_002, apps.a, "::1"), 50_002)
        assert.strictEqual(yield* portFrom(50_000, apps.both, "0.0.0.0"), 50_003)
        // A loopback address is not looked for among those of all namespaces.
        assert.strictEqual(yield* portFrom(50_001, apps.both, "127.0.0.1"), 50_001)
        yield* Effect.forEach(Object.values(apps), detach)
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    describe("in the tables of those who may find it", () => {
      const addresses = ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1"] as const
      type Where = "local" | "global" | "local global" | "nowhere"
      // By address, in the order above, and by proxy.
      const expected: {
        readonly [Scope in AppScope]: readonly [listeners: ReadonlyArray<Where>, proxies: Where]
      } = {
        local: [["local", "local", "local", "local", "local", "nowhere", "nowhere"], "local"],
        global: [["global", "global", "global", "global", "global", "global", "global"], "global"],
        both: [["local", "local", "local", "local global", "local global", "global", "global"], "local global"]
      }

      const cases = (["local", "global", "both"] as const).flatMap((scope) => [
        ...addresses.map((address, i) => [scope, "listens on", address, 7000, expected[scope][0][i]] as const),
        ...["0.0.0.0", "::"].map((address) => [scope, "is a proxy for", address, 0, expected[scope][1]] as const)
      ])

      it.effect.each(cases)("who has scope %s and %s %s port %s: %s", ([scope, what, address, port, where]) =>
        Effect.gen(function* () {
          const isProxy = what === "is a proxy for"
          const layer = yield* SessionLayer.SessionLayer
          yield* layer.addNamespace("a", undefined)
          const app = yield* attach({ scope, namespace: "a" })
          const at = Endpoint.tcp(address, port)
          if (where === "nowhere") {
            yield* assertFails(
              bind(app, at, { isProxy }),
              "Scope",
              `cannot reach ${Endpoint.format(at)} with ${scope} scope: attach the application with scope "both", or use an endpoint within reach`
            )
            assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
            yield* detach(app)
            return
          }
          const binding = yield* bind(app, at, { isProxy })
          const { all, global, local } = listeningOf(layer, app)
          assert.sameOrderedMembers(local, where.includes("local") ? [binding.listener] : [])
          assert.sameOrderedMembers(global, where.includes("global") ? [binding.listener] : [])
          assert.sameOrderedMembers(all, [binding.listener])
          assert.deepStrictEqual([...layer.getNamespace(Namespace.DEFAULT)!.table], [])
          assert.strictEqual(binding.listener.isProxy, isProxy)
          assert.strictEqual(
            binding.listener.servers[0].manager.name,
            isProxy ? "app proxy" : `app ${Endpoint.format(at)}`
          )
          yield* unbind(binding)
          assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
          yield* detach(app)
        }).pipe(Effect.provide(Leaks.layerSessions()))
      )

      it.effect("an endpoint of each namespace, one of all", () =>
        Effect.gen(function* () {
          const layer = yield* SessionLayer.SessionLayer
          for (const id of ["a", "b"]) yield* layer.addNamespace(id, undefined)
          const apps = [
            yield* attach({ name: "a", namespace: "a" }),
            yield* attach({ name: "b", namespace: "b" }),
            yield* attach({ name: "b local", namespace: "b", scope: "local" })
          ]
          const [a, b, bLocal] = apps
          yield* bind(a, endpoint)
          yield* bind(b, endpoint)
          const taken = (app: App, at: Endpoint.Endpoint) =>
            Effect.map(Effect.flip(bind(app, at)), (error) => {
              assert.deepInclude(error.reason, { _tag: "AlreadyListening", endpoint: Endpoint.format(at) })
            })
          yield* taken(bLocal, endpoint)
          const everywhere = Endpoint.tcp("0.0.0.0", 80)
          yield* bind(a, everywhere)
          // Free in its namespace, and not among all of them.
          yield* taken(b, everywhere)
          assert.sameMembers([...b.namespace.table], [...b.listeners])
          yield* bind(bLocal, everywhere)
          yield* Effect.forEach(apps, detach)
          for (const app of apps) assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
        }).pipe(Effect.provide(Leaks.layerSessions()))
      )
    })

    describe("by another worker of the same application", () => {
      it.effect("it joins the listener, with a queue of its own, until it leaves", () =>
        Effect.gen(function* () {
          const layer = yield* SessionLayer.SessionLayer
          for (const [at, isProxy] of [
            [endpoint, false],
            [Endpoint.tcp("0.0.0.0", 80), false],
            [Endpoint.tcp("0.0.0.0", 0), true]
          ] as const) {
            const app = yield* attach({ workers: 3 })
            const [first, second, third] = app.workers
            const own = yield* bind(app, at, { workers: [first], backlog: 1, isProxy })
            const joined = yield* bind(app, at, { workers: [second, third], backlog: 5, isProxy })
            const { listener } = own
            assert.strictEqual(joined.listener, listener)
            assert.notStrictEqual(joined.queue, own.queue)
            assert.deepStrictEqual([own.queue.limit, joined.queue.limit], [1, 5])
            assert.sameOrderedMembers([...layer.listeners()], [listener])
            assert.deepStrictEqual(
              listener.servers.map(({ queue, worker }) => [worker.index, queue === own.queue]),
              [
                [0, true],
                [1, false],
                [2, false]
              ]
            )
            assert.strictEqual(new Set(listener.servers.map(({ manager }) => manager)).size, 3)
            // Who has come first may leave first.
            yield* unbind(own)
            yield* unbind(own)
            assert.isFalse(listener.isClosed)
            assert.isTrue(own.queue.isClosed)
            assert.isFalse(joined.queue.isClosed)
            assert.strictEqual(layer.getListener(listener.handle), listener)
            assert.deepStrictEqual(
              listener.servers.map(({ worker }) => worker.index),
              [1, 2]
            )
            const again = yield* bind(app, at, { workers: [first], isProxy })
            assert.strictEqual(again.listener, listener)
            yield* unbind(joined)
            assert.isFalse(listener.isClosed)
            yield* unbind(again)
            assert.isTrue(listener.isClosed)
            assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
            yield* detach(app)
          }
        }).pipe(Effect.provide(Leaks.layerSessions()))
      )

      it.effect("it does not when it listens there already, asks for another approval, or is another's", () =>
        Effect.gen(function* () {
          const layer = yield* SessionLayer.SessionLayer
          const app = yield* attach({ workers: 3 })
          const twin = yield* attach({ workers: 3 })
          const [first, second] = app.workers
          const { listener } = yield* bind(app, endpoint, { workers: [first] })
          const taken = (app: App, options: Partial<SessionLayer.BindOptions>) =>
            Effect.map(Effect.flip(bind(app, endpoint, options)), (error) => {
              assert.deepInclude(error.reason, { _tag: "AlreadyListening", endpoint: "127.0.0.1:7000" })
              assert.strictEqual(listener.servers.length, 1, "it was refused, and serves")
            })
          yield* taken(app, { workers: [first] })
          yield* taken(app, { workers: [second, first] })
          yield* taken(app, { workers: [second], approval: "application" })
          yield* taken(twin, { workers: [twin.workers[1]] })
          assert.sameOrderedMembers([...layer.listeners()], [listener])
          yield* Effect.forEach([app, twin], detach)
        }).pipe(Effect.provide(Leaks.layerSessions()))
      )
    })
  })

  describe("transports", () => {
    /** A session layer with three transports that listen, and applications on it. */
    const setUp = Effect.gen(function* () {
      const layer = yield* SessionLayer.SessionLayer
      const transports = ["one", "two", "three"].map((name) => new ListeningTransport(name))
      for (const transport of transports) layer.transports.register(transport)
      const [app, other] = [yield* attach({ workers: 2 }), yield* attach({ name: "other" })]
      const [one, two, three] = transports
      return {
        app,
        layer,
        other,
        one,
        two,
        three,
        listening: () => transports.map((transport) => transport.listening.size),
        logs: () => transports.map(({ log }) => log.splice(0).join(", ")),
        close: Effect.forEach([app, other], detach)
      }
    })

    const start = "start 127.0.0.1:7000"
    const stop = "stop 127.0.0.1:7000"
    const broken = SessionError.make(new SessionError.AllocFailed({ what: "a socket", bytes: 1 }))

    const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

    it.effect("are started for a listener, and stopped when its last worker leaves", () =>
      Effect.gen(function* () {
        const { app, close, listening, logs, two } = yield* setUp
        const [first, second] = app.workers
        const own = yield* bind(app, endpoint, { workers: [first] })
        assert.deepStrictEqual(logs(), [start, start, start])
        assert.sameOrderedMembers([...two.listening], [own.listener])
        const joined = yield* bind(app, endpoint, { workers: [second] })
        yield* unbind(own)
        assert.deepStrictEqual(logs(), ["", "", ""])
        yield* unbind(joined)
        yield* unbind(joined)
        assert.deepStrictEqual(logs(), [stop, stop, stop])
        assert.deepStrictEqual(listening(), [0, 0, 0])
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("know which port was found", () =>
      Effect.gen(function* () {
        const { app, close, one } = yield* setUp
        const { listener } = yield* bind(app, Endpoint.withPort(endpoint, 0))
        assert.deepStrictEqual(one.log, [`start ${Endpoint.format(listener.endpoint)}`])
        assert.notInclude(one.log[0], ":0")
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("are asked for nothing that cannot be", () =>
      Effect.gen(function* () {
        const { app, close, logs, other } = yield* setUp
        yield* bind(app, endpoint)
        logs()
        yield* Effect.flip(bind(other, endpoint))
        yield* Effect.flip(bind(other, endpoint, { backlog: 0 }))
        yield* Effect.flip(bind(other, endpoint, { isProxy: true }))
        assert.deepStrictEqual(logs(), ["", "", ""])
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("all of them, or none: those that have started are stopped when one cannot", () =>
      Effect.gen(function* () {
        const { app, close, layer, listening, logs, two } = yield* setUp
        two.error = broken
        assert.strictEqual(yield* Effect.flip(bind(app, endpoint)), broken)
        assert.deepStrictEqual(logs(), [`${start}, ${stop}`, start, ""])
        assert.deepStrictEqual(listening(), [0, 0, 0])
        assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
        assert.strictEqual(app.listeners.size, 0)
        two.error = undefined
        yield* bind(app, endpoint)
        assert.deepStrictEqual(listening(), [1, 1, 1])
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("all of them, or none: those that have started are stopped when whoever asked is interrupted", () =>
      Effect.gen(function* () {
        const { app, close, layer, listening, logs, three, two } = yield* setUp
        for (const slow of [two, three]) {
          slow.isSlow = true
          const binding = yield* fork(bind(app, endpoint))
          assert.isUndefined(binding.pollUnsafe())
          yield* Fiber.interrupt(binding)
          assert.deepStrictEqual(listening(), [0, 0, 0])
          assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
          slow.isSlow = false
          logs()
          yield* unbind(yield* bind(app, endpoint))
          assert.deepStrictEqual(logs(), [`${start}, ${stop}`, `${start}, ${stop}`, `${start}, ${stop}`])
        }
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("a listener that is not there yet is not found", () =>
      Effect.gen(function* () {
        const { app, close, layer, two } = yield* setUp
        two.isSlow = true
        const binding = yield* fork(bind(app, endpoint))
        assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
        two.isSlow = false
        two.proceed()
        const { listener } = yield* Fiber.join(binding)
        assert.sameOrderedMembers(listeningOf(layer, app).all, [listener])
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("while they start, nobody takes the endpoint", () =>
      Effect.gen(function* () {
        const { app, close, listening, other, three } = yield* setUp
        three.isSlow = true
        const [first, second] = app.workers
        const own = yield* fork(bind(app, endpoint, { workers: [first] }))
        const late = yield* fork(Effect.flip(bind(other, endpoint)))
        const joining = yield* fork(bind(app, endpoint, { workers: [second] }))
        yield* settle
        assert.isUndefined(late.pollUnsafe())
        assert.deepStrictEqual(listening(), [1, 1, 0])
        three.isSlow = false
        three.proceed()
        const { listener } = yield* Fiber.join(own)
        assert.strictEqual((yield* Fiber.join(late)).reason._tag, "AlreadyListening")
        assert.strictEqual((yield* Fiber.join(joining)).listener, listener)
        assert.deepStrictEqual(listening(), [1, 1, 1])
        yield* close
        assert.deepStrictEqual(listening(), [0, 0, 0])
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("while they stop, nobody takes the endpoint", () =>
      Effect.gen(function* () {
        const { app, close, layer, listening, logs, one, other } = yield* setUp
        const binding = yield* bind(app, endpoint)
        logs()
        one.isSlow = true
        const closing = yield* fork(unbind(binding))
        // Nobody new reaches it from here on.
        assert.strictEqual(binding.listener.selectServer(), NOBODY_LISTENS)
        const late = yield* fork(bind(other, endpoint))
        yield* settle
        assert.deepStrictEqual(logs(), [stop, "", ""], "they were to start where they have not stopped yet")
        one.isSlow = false
        one.proceed()
        yield* Fiber.join(closing)
        const { listener } = yield* Fiber.join(late)
        assert.sameOrderedMembers(listeningOf(layer, other).all, [listener])
        assert.deepStrictEqual(listening(), [1, 1, 1])
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    for (const slow of ["one", "three"] as const) {
      it.effect(`the application may detach while ${slow} starts: then it does not listen`, () =>
        Effect.gen(function* () {
          const { app, close, layer, listening, logs, other, ...transports } = yield* setUp
          transports[slow].isSlow = true
          const binding = yield* fork(Effect.flip(bind(app, endpoint)))
          yield* detach(app)
          assert.isUndefined(binding.pollUnsafe())
          transports[slow].isSlow = false
          transports[slow].proceed()
          assert.deepInclude((yield* Fiber.join(binding)).reason, { _tag: "Closed", what: "application" })
          assert.deepStrictEqual(logs(), [`${start}, ${stop}`, `${start}, ${stop}`, `${start}, ${stop}`])
          assert.deepStrictEqual(listening(), [0, 0, 0])
          assert.deepStrictEqual(listeningOf(layer, app), nothingListens)
          assert.strictEqual(app.listeners.size, 0)
          yield* bind(other, endpoint)
          yield* close
        }).pipe(Effect.provide(layerWith()))
      )
    }

    it.effect("are stopped by whom they were started for, whoever has come and gone since", () =>
      Effect.gen(function* () {
        const { app, close, layer, logs, one, three, two } = yield* setUp
        layer.transports.unregister(three)
        const binding = yield* bind(app, endpoint)
        layer.transports.unregister(one)
        layer.transports.register(three)
        assert.deepStrictEqual(logs(), [start, start, ""])
        yield* unbind(binding)
        assert.deepStrictEqual(logs(), [stop, stop, ""])
        for (const transport of [one, two, three]) assert.strictEqual(transport.listening.size, 0)
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )

    it.effect("one that listens only leads nowhere", () =>
      Effect.gen(function* () {
        const { close } = yield* setUp
        yield* Effect.gen(function* () {
          const application = yield* Application.make({ name: "client" })
          const error = yield* Effect.flip(application.connect(Endpoint.tcp("192.0.2.1", 7000)))
          assert.strictEqual(error.reason._tag, "NoRoute")
          const listener = yield* application.listen(endpoint)
          yield* application.connect(endpoint)
          yield* listener.accept
        }).pipe(Effect.scoped)
        yield* close
      }).pipe(Effect.provide(layerWith()))
    )
  })

  it.effect("two session layers of one program know nothing of each other", () =>
    Effect.gen(function* () {
      yield* Application.listen(endpoint)
      yield* Application.connect(endpoint)
      assert.strictEqual((yield* Sessions.residue).sessions, 2)
      const residue = yield* Effect.provide(Sessions.residue, SessionLayer.layer())
      assert.isTrue(Object.values(residue).every((count) => count === 0))
    }).pipe(
      Effect.scoped,
      Effect.andThen(Leaks.check),
      Effect.provide(Application.layer({ name: "app" }).pipe(Layer.provideMerge(SessionLayer.layer())))
    )
  )

  it.effect("one layer used twice is one session layer, as any layer is", () =>
    Effect.gen(function* () {
      const sessions = SessionLayer.layer()
      const built: Array<SessionLayer.SessionLayer["Service"]> = []
      // As two applications of one program, each of which brings what it stands on.
      const user = () =>
        Layer.effectDiscard(Effect.map(SessionLayer.SessionLayer, (layer) => built.push(layer))).pipe(
          Layer.provide(sessions)
        )
      yield* Layer.build(Layer.mergeAll(user(), user()))
      assert.strictEqual(built.length, 2)
      assert.strictEqual(built[0], built[1])
      yield* Effect.provideService(Leaks.check, SessionLayer.SessionLayer, built[0])
    })
  )

  it.effect("an application that connects to itself has no more sessions than it may have", () =>
    Effect.gen(function* () {
      const layer = yield* SessionLayer.SessionLayer
      const application = yield* Application.make({ name: "app", maxSessions: 3 })
      const [app] = layer.apps()
      yield* application.listen(endpoint)
      const most: Array<number> = []
      const connect = Effect.map(application.connect(endpoint), () => most.push(app.sessions))
      yield* connect
      // One of the two that it takes would still fit.
      yield* assertFails(
        connect,
        "Refused",
        "127.0.0.1:7000 refused the connection: its application has as many sessions as it may have. Try again later"
      )
      assert.deepStrictEqual([app.sessions, app.halfOpens], [2, 0])
      assert.deepStrictEqual(most, [2])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  describe("workers", () => {
    const connectAndList = (count: number) =>
      Effect.gen(function* () {
        const server = yield* Application.make({ name: "server", workers: 3 })
        const client = yield* Application.make({ name: "client" })
        yield* server.listen(endpoint)
        for (let i = 0; i < count; i++) yield* client.connect(endpoint)
        const sessions = yield* Sessions.find({ kind: "session" })
        // By the client's port, which is the order of the connects.
        const inOrder = (side: string) =>
          sessions
            .filter((session) => session.side === side)
            .toSorted((a, b) => (side === "client" ? a.local.port - b.local.port : a.remote.port - b.remote.port))
        return { clients: inOrder("client"), servers: inOrder("server") }
      }).pipe(Effect.scoped)

    it.effect("take connections in turn, both sides of each", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(7)
        for (const sessions of [clients, servers]) {
          assert.deepStrictEqual(
            sessions.map((session) => session.worker),
            [1, 2, 3, 1, 2, 3, 1]
          )
        }
      }).pipe(Effect.provide(Leaks.layerSessions({ workers: 3 })))
    )

    it.effect("of an application serve its listener in turn", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(4)
        assert.deepStrictEqual(
          servers.map((session) => session.app),
          ["server/0", "server/1", "server/2", "server/0"]
        )
        assert.deepStrictEqual(new Set(clients.map((session) => session.app)), new Set(["client/0"]))
      }).pipe(Effect.provide(Leaks.layerSessions()))
    )

    it.effect("without workers of its own, the one of the listeners does it all", () =>
      Effect.gen(function* () {
        const { clients, servers } = yield* connectAndList(2)
        assert.deepStrictEqual(
          [...clients, ...servers].map((session) => session.worker),
          [0, 0, 0, 0]
        )
      }).pipe(Effect.provide(Leaks.layerSessions({ workers: 0 })))
    )
  })

  describe("stands on services that can be replaced", () => {
    const talk = Effect.gen(function* () {
      const application = yield* Application.make({ name: "app" })
      const listener = yield* application.listen(endpoint)
      const client = yield* application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(Uint8Array.of(1, 2, 3))
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(1, 2, 3))
    }).pipe(Effect.scoped)

    const thenCheck = (check: () => void) => Effect.tap(Effect.sync(check))

    /** Every call of every method of a service, by name. */
    const counting = <Service extends object>(service: Service, calls: Map<string, number>): Service =>
      new Proxy(service, {
        get(target, key, receiver) {
          const value: unknown = Reflect.get(target, key, receiver)
          if (typeof value !== "function") return value
          return (...args: ReadonlyArray<unknown>): unknown => {
            calls.set(String(key), (calls.get(String(key)) ?? 0) + 1)
            return Reflect.apply(value, target, args)
          }
        }
      })

    it.effect("Connections", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({ connections: Layer.sync(Connections.Connections, () => counting(Connections.make(), calls)) })
        ),
        thenCheck(() => {
          for (const [method, count] of [
            ["addHalfOpen", 1],
            ["takeHalfOpen", 1],
            ["addSession", 2],
            ["removeSession", 2]
          ] as const) {
            assert.strictEqual(calls.get(method), count, method)
          }
        })
      )
    })

    it.effect("SegmentContext", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({
            segments: Layer.effect(
              SegmentContext.SegmentContext,
              Effect.map(SegmentContext.make, (service) => counting(service, calls))
            )
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual(
            [calls.get("tryAcquire"), calls.get("acquire"), calls.get("release")],
            [1, undefined, 2]
          )
          assert.deepStrictEqual([calls.get("closeManager"), calls.get("removeUser")], [1, 1])
        })
      )
    })

    it.effect("Lock", () => {
      const made: Array<Lock.ReadWriteLock | Lock.SpinLock> = []
      const calls = new Map<string, number>()
      const told: Array<string> = []
      const keep = <A extends Lock.ReadWriteLock | Lock.SpinLock>(lock: A): A => {
        made.push(lock)
        return counting(lock, calls)
      }
      return Effect.andThen(
        SessionLayer.SessionLayer.use((layer) => Effect.forkScoped(Stream.runDrain(layer.changes.stream))),
        talk
      ).pipe(
        Effect.scoped,
        Effect.provide(
          layerWith({
            lock: Layer.succeed(Lock.Lock, {
              make: (name) => keep(Lock.makeReadWrite(name)),
              makeSpin: (name) => keep(Lock.makeSpin(name)),
              notifying: (what) => void told.push(what)
            })
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual(
            made.map((lock) => lock.name),
            ["segment contexts", "listeners"]
          )
          assert.deepStrictEqual([calls.get("tryWrite"), calls.get("withWrite")], [1, undefined])
          assert.isAbove(calls.get("withLock") ?? 0, 0)
          assert.deepStrictEqual(
            made.map((lock) => lock.stats()),
            [
              { readers: 0, writer: false, waiting: 0 },
              { held: false, waiting: 0 }
            ] as ReadonlyArray<unknown>
          )
          // Nobody listens to events: nobody is told any.
          assert.deepStrictEqual(told, [])
        })
      )
    })

    it.effect("SharedMemory", () => {
      const calls = new Map<string, number>()
      return talk.pipe(
        Effect.provide(
          layerWith({
            memory: Layer.effect(
              SharedMemory.SharedMemory,
              Effect.map(SharedMemory.make(), (service) => counting(service, calls))
            )
          })
        ),
        thenCheck(() => {
          assert.deepStrictEqual(
            [calls.get("tryAllocate"), calls.get("allocate"), calls.get("release")],
            [1, undefined, 1]
          )
        })
      )
    })
  })

  describe("while a connect waits for memory", () => {
    /** A session layer on slow memory that counts the half-opens taken out of its table. */
    const makeWorld = () => {
      const memory = new SlowMemory()
      const taken = { count: 0 }
      const connections = Layer.sync(Connections.Connections, () => {
        const service = Connections.make()
        return {
          ...service,
          takeHalfOpen(handle) {
            const halfOpen = service.takeHalfOpen(handle)
            if (halfOpen !== undefined) taken.count++
            return halfOpen
          }
        }
      })
      // A test that has failed does not wait for memory for ever.
      const layer = Layer.effectDiscard(Effect.addFinalizer(() => Effect.sync(() => memory.allowAll()))).pipe(
        Layer.provideMerge(layerWith({ memory: memory.layer, connections }))
      )
      return { memory, taken, layer }
    }

    /** An application in a scope of its own. */
    const applicationIn = (scope: Scope.Scope, name: string) => Scope.provide(Application.make({ name }), scope)

    const setUp = Effect.gen(function* () {
      const [serverScope, clientScope, listenerScope] = [Scope.makeUnsafe(), Scope.makeUnsafe(), Scope.makeUnsafe()]
      const server = yield* applicationIn(serverScope, "server")
      const client = yield* applicationIn(clientScope, "client")
      const listener = yield* Scope.provide(server.listen(endpoint), listenerScope)
      const connecting = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
      const closeAll = Effect.forEach([listenerScope, clientScope, serverScope], (scope) =>
        Scope.close(scope, Exit.void)
      )
      return { client, clientScope, closeAll, connecting, listener, listenerScope, server, serverScope }
    })

    const residue = Effect.map(Sessions.residue, ({ halfOpens, leases, regions, sessions }) => ({
      halfOpens,
      leases,
      regions,
      sessions
    }))
    const nothing = { halfOpens: 0, leases: 0, regions: 0, sessions: 0 }

    it.effect("it is a half-open in the listing, and nothing else", () => {
      const { layer, memory } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting } = yield* setUp
        const [info, ...others] = yield* Sessions.find({ kind: ["session", "half-open"] })
        assert.deepInclude(info, { app: "client/0", state: "half-open", side: "client", worker: 1 })
        assert.strictEqual(Endpoint.format(info.remote), "127.0.0.1:7000")
        assert.strictEqual(others.length, 0)
        assert.deepStrictEqual(yield* residue, { ...nothing, halfOpens: 1 })
        memory.allow()
        yield* Fiber.join(connecting)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("the client may go: its half-open goes once, and the leases that come late are released", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting, listener } = yield* setUp
        yield* Fiber.interrupt(connecting)
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        memory.allow()
        yield* settle
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        // Nobody is there to be accepted.
        const accepting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
        yield* settle
        assert.isUndefined(accepting.pollUnsafe())
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("the listener may close: the client is refused", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { closeAll, connecting, listenerScope } = yield* setUp
        yield* Scope.close(listenerScope, Exit.void)
        memory.allow()
        const error = yield* Effect.flip(Fiber.join(connecting))
        assert.deepInclude(error.reason, {
          _tag: "Refused",
          endpoint: "127.0.0.1:7000",
          why: "nobody listens there any more"
        })
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    it.effect("another listener on the same endpoint does not get what was meant for the one before", () => {
      const { layer, memory } = makeWorld()
      return Effect.gen(function* () {
        const { client, closeAll, connecting, listenerScope, server } = yield* setUp
        yield* Scope.close(listenerScope, Exit.void)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const next = yield* server.listen(endpoint)
            memory.allow()
            assert.strictEqual((yield* Effect.flip(Fiber.join(connecting))).reason._tag, "Refused")
            const again = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
            memory.allow()
            yield* Fiber.join(again)
            yield* next.accept
          })
        )
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    for (const who of ["client", "server"] as const) {
      it.effect(`the ${who}'s application may be detached: the client gets its answer`, () => {
        const { layer, memory, taken } = makeWorld()
        return Effect.gen(function* () {
          const { clientScope, closeAll, connecting, serverScope } = yield* setUp
          yield* Scope.close(who === "client" ? clientScope : serverScope, Exit.void)
          if (who === "server") memory.allow()
          const error = yield* Effect.flip(Fiber.join(connecting))
          assert.strictEqual(error.reason._tag, who === "client" ? "Closed" : "Refused")
          if (who === "client") memory.allow()
          yield* settle
          assert.deepStrictEqual(yield* residue, nothing)
          assert.strictEqual(taken.count, 1)
          yield* closeAll
        }).pipe(Effect.provide(layer))
      })
    }

    it.effect("there may be none: the client gets AllocFailed, and the next one is served", () => {
      const { layer, memory, taken } = makeWorld()
      return Effect.gen(function* () {
        const { client, closeAll, connecting } = yield* setUp
        memory.refuse()
        assert.strictEqual(yield* Effect.flip(Fiber.join(connecting)), noMemory)
        assert.deepStrictEqual(yield* residue, nothing)
        assert.strictEqual(taken.count, 1)
        const again = yield* Effect.forkChild(Effect.scoped(client.connect(endpoint)), { startImmediately: true })
        memory.allow()
        yield* Fiber.join(again)
        yield* closeAll
      }).pipe(Effect.provide(layer))
    })

    for (const [how, memory] of [
      ["when it is asked for at once", { tryAllocate: () => assert.fail("the memory broke") }],
      [
        "while it is waited for",
        { tryAllocate: () => undefined, allocate: () => Effect.die(new Error("the memory broke")) }
      ]
    ] as const) {
      it.effect(`D9 the memory may break ${how}: the client is told, rather than left to wait`, () =>
        Effect.gen(function* () {
          const { closeAll, connecting } = yield* setUp
          const error = yield* Effect.flip(Fiber.join(connecting))
          assert.strictEqual(error.reason._tag, "AllocFailed")
          assert.deepStrictEqual(yield* residue, nothing)
          yield* closeAll
        }).pipe(
          Effect.provide(
            layerWith({
              memory: Layer.effect(
                SharedMemory.SharedMemory,
                Effect.map(SharedMemory.make(), (service) => ({ ...service, ...memory }))
              )
            })
          )
        )
      )
    }

    const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))
    const operations = ["connect", "connect", "allow", "refuse", "interrupt", "accept", "closeListener"] as const

    it.effect.prop(
      "any mix of connects, answers and goings gives each connect one answer, and leaves nothing",
      [Arbitrary.array(Arbitrary.all({ operation: Arbitrary.schema(Schema.Literals(operations)), which: int(999) }))],
      ([program]) => {
        const { layer, memory, taken } = makeWorld()
        return Effect.gen(function* () {
          const { client, closeAll, connecting, listener, listenerScope } = yield* setUp
          const connects: Array<Fiber.Fiber<Connection.Connection, SessionError.SessionError>> = [connecting]
          let isOpen = true
          let interrupted = 0
          for (const { operation, which } of program) {
            if (operation === "connect" && isOpen) {
              const connect = Effect.andThen(client.connect(endpoint), Effect.never)
              connects.push(yield* Effect.forkChild(Effect.scoped(connect), { startImmediately: true }))
            } else if (operation === "allow" && memory.pending > 0) {
              memory.allow()
            } else if (operation === "refuse" && memory.pending > 0) {
              memory.refuse()
            } else if (operation === "interrupt") {
              const fiber = connects[which % connects.length]
              if (fiber.pollUnsafe() === undefined) interrupted++
              yield* Fiber.interrupt(fiber)
            } else if (operation === "accept" && isOpen) {
              const accepting = yield* Effect.forkChild(Effect.scoped(listener.accept), { startImmediately: true })
              yield* settle
              yield* Fiber.interrupt(accepting)
            } else if (operation === "closeListener" && which % 10 === 0) {
              yield* Scope.close(listenerScope, Exit.void)
              isOpen = false
            }
          }
          while (memory.pending > 0) {
            memory.allow()
            yield* settle
          }
          assert.strictEqual((yield* residue).halfOpens, 0)
          assert.strictEqual(taken.count, connects.length, "a half-open was answered more than once, or never")
          // Those that are connected are still so; the others have been told why not.
          const answers = connects.map((fiber) => {
            const exit = fiber.pollUnsafe()
            return exit === undefined ? "success" : reasonOf(exit)
          })
          for (const answer of answers) {
            assert.include(["success", "Interrupt", "Refused", "AllocFailed"], answer)
          }
          assert.strictEqual(answers.filter((answer) => answer === "Interrupt").length, interrupted)
          yield* Fiber.interruptAll(connects)
          yield* closeAll
        }).pipe(Effect.provide(layer, { local: true }))
      },
      { arbitrary: { runs: 100, size: 40 } }
    )
  })

  it.effect("a connect that finds no memory leaves the segments of others alone", () => {
    const memory = new ShortMemory(1)
    return Effect.gen(function* () {
      const application = yield* Application.make({
        name: "app",
        rxFifoSize: 4096,
        txFifoSize: 4096,
        segmentSize: 8192
      })
      const listener = yield* application.listen(endpoint)
      const client = yield* application.connect(endpoint)
      const server = yield* listener.accept
      const error = yield* Effect.flip(application.connect(endpoint))
      assert.strictEqual(error, noMemory)
      yield* client.write(Uint8Array.of(9))
      assert.deepStrictEqual(yield* server.read, Uint8Array.of(9))
      assert.strictEqual((yield* Sessions.residue).sessions, 2)
    }).pipe(Effect.scoped, Effect.provide(layerWith({ memory: memory.layer })))
  })

  for (const others of [0, 1]) {
    const who = others === 0 ? "whoever comes next" : "whoever waits behind it"
    it.effect(`an accept that is interrupted between being woken and resumed leaves its connection to ${who}`, () =>
      Effect.gen(function* () {
        const application = yield* Application.make({ name: "app" })
        const listener = yield* application.listen(endpoint)
        const accept = Effect.forkChild(
          Effect.flatMap(listener.accept, (server) => server.read),
          { startImmediately: true }
        )
        const accepting = yield* accept
        const behind = others === 1 ? yield* accept : undefined
        const connecting = yield* Effect.forkChild(
          Effect.flatMap(application.connect(endpoint), (client) => client.write(Uint8Array.of(5))),
          { startImmediately: true }
        )
        // Woken, but not resumed yet: that waits for the scheduler.
        yield* Fiber.interrupt(accepting)
        yield* settle
        const next = behind ?? (yield* accept)
        yield* settle
        assert.deepStrictEqual(next.pollUnsafe(), Exit.succeed(Uint8Array.of(5)), "the connection was lost")
        yield* Fiber.join(connecting)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ wake: Wake.layerScheduler })))
    )
  }

  describe("at any step of whoever waits", () => {
    const setUpWith = (layer: Layer.Layer<SessionLayer.SessionLayer, SessionError.SessionError>) =>
      Effect.gen(function* () {
        const scope = Scope.makeUnsafe()
        const sessions = Context.get(yield* Layer.buildWithScope(layer, scope), SessionLayer.SessionLayer)
        const application = yield* Application.make({ name: "app" }).pipe(
          Effect.provideService(SessionLayer.SessionLayer, sessions),
          Scope.provide(scope)
        )
        return { application, scope, sessions, listener: yield* Scope.provide(application.listen(endpoint), scope) }
      })

    type World = Effect.Success<ReturnType<typeof setUpWith>>

    const runSetUp = ({ run, scheduler }: Attempt, layer: Parameters<typeof setUpWith>[0]): World => {
      const fiber = run(setUpWith(layer))
      scheduler.runAll()
      const exit = fiber.pollUnsafe()
      return exit !== undefined && Exit.isSuccess(exit) ? exit.value : assert.fail("no session layer to test with")
    }

    const closeWorld = ({ run, scheduler }: Attempt, { scope }: World, where: string) => {
      const closing = run(Scope.close(scope, Exit.void))
      scheduler.runAll()
      assert.deepStrictEqual(closing.pollUnsafe(), Exit.void, where)
    }

    it("the answer may come: a client does not miss it", () =>
      happenEverywhere({
        setUp: (others) => {
          const memory = new SlowMemory()
          return { memory, world: runSetUp(others, layerWith({ memory: memory.layer })) }
        },
        start: ({ run }, { world }) => run(Effect.scoped(world.application.connect(endpoint))),
        // Also what is asked for later.
        event: (_, { memory }) => memory.allowAll(),
        check: (others, { world }, where) => closeWorld(others, world, where)
      }))

    it("a connection may come: an accepter does not miss it", () =>
      happenEverywhere({
        setUp: (attempt) => runSetUp(attempt, layerWith()),
        start: ({ run }, { listener }) => run(Effect.scoped(listener.accept)),
        event: ({ run }, { application }) => void run(Effect.scoped(application.connect(endpoint))),
        check: closeWorld
      }))

    it("the listener may close: an accepter does not miss it", () =>
      happenEverywhere({
        setUp: (attempt) => runSetUp(attempt, layerWith()),
        start: ({ run }, { listener }) => run(Effect.scoped(listener.accept)),
        event: ({ run }, { scope }) => void run(Scope.close(scope, Exit.void)),
        check: closeWorld
      }))
  })

  describe("interrupted at any step", () => {
    interface World {
      readonly scope: Scope.Closeable
      readonly application: Application.Application["Service"]
      readonly listener: Listener.Listener
      readonly layer: SessionLayer.SessionLayer["Service"]
    }

    const makeWorld = Effect.gen(function* () {
      const scope = Scope.makeUnsafe()
      const context = yield* Layer.buildWithScope(Leaks.layerTest, scope)
      const application = Context.get(context, Application.Application)
      const listener = yield* Scope.provide(application.listen(endpoint), scope)
      return { scope, application, listener, layer: Context.get(context, SessionLayer.SessionLayer) }
    })

    const interruptIn = (
      effect: (world: World) => Effect.Effect<unknown, unknown>,
      other: (world: World) => Effect.Effect<unknown, unknown>
    ) =>
      interruptEverywhere({
        setUp: ({ run, scheduler }): World => {
          const fiber = run(makeWorld)
          scheduler.runAll()
          const exit = fiber.pollUnsafe()
          if (exit === undefined || Exit.isFailure(exit)) return assert.fail("no session layer to test with")
          return exit.value
        },
        start: ({ run }, world) => {
          run(other(world))
          return run(effect(world))
        },
        check: ({ layer, listener, scope }, where) => {
          // What has arrived and was not accepted is the listener's.
          const backlog = [...layer.listeners()][0].servers[0].queue.length
          const { halfOpens, leases, sessions } = layer.residue()
          assert.deepStrictEqual(
            { halfOpens, leases, sessions },
            { halfOpens: 0, leases: backlog, sessions: backlog },
            where
          )
          assert.isDefined(listener)
          assert.isTrue(Exit.isSuccess(Effect.runSyncExit(Scope.close(scope, Exit.void))), where)
        }
      })

    const connect = ({ application }: World) =>
      Effect.scoped(Effect.andThen(application.connect(endpoint), Effect.yieldNow))
    const accept = ({ listener }: World) => Effect.scoped(Effect.andThen(listener.accept, Effect.yieldNow))

    it("connect leaves nothing", () => {
      assert.isAbove(interruptIn(connect, accept), 20)
    })

    it("accept leaves nothing", () => {
      assert.isAbove(interruptIn(accept, connect), 20)
    })
  })
})
