import { Application, Endpoint, Sessions } from "@cut-through/core"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Scope } from "effect"
import { misplaced, pattern, readExactly, reasonOf } from "../fixtures.ts"
import { appNamed, close, connectThrough, families, twoApps } from "./dataFixtures.ts"

const ends = (connect: Effect.Effect<unknown, unknown, Scope.Scope>) =>
  Effect.map(Effect.exit(Effect.scoped(connect)), reasonOf)

describe("an application and itself", () => {
  for (const [family, endpoint] of Object.entries(families)) {
    it.effect(`${family}: connects to its own listener`, () =>
      Effect.gen(function* () {
        const app = yield* Application.Application
        const { client, server } = yield* connectThrough(app, yield* app.listen(endpoint))
        yield* client.write(pattern(10))
        yield* server.write(pattern(20))
        assert.strictEqual(misplaced(yield* readExactly(server, 10)), -1)
        assert.strictEqual(misplaced(yield* readExactly(client, 20)), -1)
        assert.deepStrictEqual(client.info.local, server.info.remote)
        assert.deepStrictEqual([client.info.remote, server.info.local], [endpoint, endpoint])
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )

    it.effect(`${family}: is not taken to its own proxy, where it would come back`, () =>
      Effect.gen(function* () {
        const app = yield* Application.Application
        yield* app.listen(Endpoint.withPort(Endpoint.unspecified(endpoint), 0), { proxy: true })
        const elsewhere = Endpoint.tcp(family === "v4" ? "10.1.2.3" : "fd00::1", 80)
        assert.strictEqual(yield* ends(app.connect(endpoint)), "NoRoute")
        assert.strictEqual(yield* ends(app.connect(elsewhere)), "NoRoute")
        // Its listener is not a proxy: that is another matter.
        yield* connectThrough(app, yield* app.listen(endpoint))
        const other = yield* Application.make({ name: "other" })
        yield* other.connect(elsewhere)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerTest))
    )
  }
})

describe("a proxy", () => {
  const cases = {
    v4: { any: Endpoint.tcp("0.0.0.0", 0), near: Endpoint.tcp("127.0.0.1", 81), far: Endpoint.tcp("10.1.2.3", 443) },
    v6: { any: Endpoint.tcp("::", 0), near: Endpoint.tcp("::1", 81), far: Endpoint.tcp("fd00::7", 443) }
  } as const

  for (const [family, { any, far, near }] of Object.entries(cases)) {
    const others = family === "v4" ? cases.v6 : cases.v4

    it.effect(`${family}: takes what nobody else takes, and sees what was dialled`, () =>
      Effect.gen(function* () {
        const { client, server: proxy } = yield* twoApps()
        const listener = yield* proxy.listen(any, { proxy: true })
        for (const dialled of [near, far, Endpoint.withPort(near, 65_535)]) {
          const connection = yield* client.connect(dialled)
          const server = yield* listener.accept
          assert.deepStrictEqual([server.info.local, connection.info.remote], [dialled, dialled])
          assert.deepStrictEqual(server.info.remote, connection.info.local)
          yield* connection.write(pattern(5))
          assert.strictEqual(misplaced(yield* readExactly(server, 5)), -1)
        }
        assert.strictEqual(yield* ends(client.connect(others.near)), "NoRoute")
        assert.strictEqual(yield* ends(client.connect(others.far)), "NoRoute")
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: leaves to a listener what that one listens for`, () =>
      Effect.gen(function* () {
        const { client, server: proxy } = yield* twoApps()
        const caught = yield* proxy.listen(any, { proxy: true })
        const app = yield* Application.make({ name: "app" })
        const exact = yield* app.listen(near)
        const every = yield* app.listen(Endpoint.withPort(Endpoint.unspecified(near), 82))
        const takes = (listener: Listener, dialled: Endpoint.Endpoint) => connectTo(client, dialled, listener)
        yield* takes(exact, near)
        yield* takes(every, Endpoint.withPort(near, 82))
        yield* takes(caught, Endpoint.withPort(near, 83))
        yield* takes(caught, far)
        // Within a namespace only loopback addresses are every address: as in VPP, the proxy comes first for others.
        yield* takes(caught, Endpoint.withPort(far, 82))
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: of global scope leaves to a listener on every address what is dialled anywhere`, () =>
      Effect.gen(function* () {
        const { client, server: proxy } = yield* twoApps({ server: { scope: "global" } })
        const caught = yield* proxy.listen(any, { proxy: true })
        const app = yield* Application.make({ name: "app" })
        const every = yield* app.listen(Endpoint.withPort(Endpoint.unspecified(near), 82))
        yield* connectTo(client, Endpoint.withPort(far, 82), every)
        yield* connectTo(client, Endpoint.withPort(near, 82), every)
        yield* connectTo(client, Endpoint.withPort(far, 83), caught)
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )

    it.effect(`${family}: is there as long as it listens, and alone in its family`, () =>
      Effect.gen(function* () {
        const { client, server: proxy } = yield* twoApps()
        const scope = yield* Scope.make()
        const listener = yield* Scope.provide(proxy.listen(any, { proxy: true, backlog: 1 }), scope)
        assert.strictEqual(yield* ends(client.listen(any, { proxy: true })), "AlreadyListening")
        assert.strictEqual(yield* ends(client.listen(others.any, { proxy: true })), "success")
        assert.strictEqual(yield* ends(client.listen(near, { proxy: true })), "InvalidArgument")
        yield* client.connect(near)
        assert.strictEqual(yield* ends(client.connect(far)), "Refused")
        yield* listener.accept
        assert.strictEqual(yield* ends(client.connect(far)), "success")
        yield* close(scope)
        assert.strictEqual(yield* ends(client.connect(near)), "NoRoute")
        assert.strictEqual(yield* ends(client.connect(far)), "NoRoute")
      }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
    )
  }

  it.effect("of local scope takes what is dialled in its namespace, one of global scope from everywhere", () =>
    Effect.gen(function* () {
      yield* Sessions.addNamespace({ id: "other" })
      const far = Endpoint.tcp("10.1.2.3", 80)
      const near = Endpoint.tcp("127.0.0.1", 80)
      const inside = yield* Application.make({ name: "inside", namespace: "other", scope: "local" })
      const insider = yield* Application.make({ name: "insider", namespace: "other" })
      const outsider = yield* Application.make({ name: "outsider" })
      const local = yield* inside.listen(Endpoint.tcp("0.0.0.0", 0), { proxy: true })
      yield* connectTo(insider, near, local)
      yield* connectTo(insider, far, local)
      assert.strictEqual(yield* ends(outsider.connect(far)), "NoRoute")
      const everywhere = yield* Application.make({ name: "everywhere", namespace: "other", scope: "global" })
      const global = yield* everywhere.listen(Endpoint.tcp("0.0.0.0", 0), { proxy: true })
      yield* connectTo(outsider, far, global)
      yield* connectTo(insider, far, local)
      assert.strictEqual(yield* ends(outsider.connect(near)), "NoRoute", "loopback addresses are of one namespace")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})

type Listener = Effect.Success<ReturnType<Application.Application["Service"]["listen"]>>

/** Fails unless a connect reaches that listener. */
const connectTo = (client: Application.ApplicationWorker, dialled: Endpoint.Endpoint, listener: Listener) =>
  Effect.gen(function* () {
    const connection = yield* client.connect(dialled)
    const server = yield* listener.accept
    assert.deepStrictEqual([server.info.local, server.info.remote], [dialled, connection.info.local])
    return { connection, server }
  })

describe("rules", () => {
  const near = families.v4
  const far = Endpoint.tcp("10.1.2.3", 7000)

  /** Somebody listens on every address, and somebody else asks. */
  const setUp = Effect.gen(function* () {
    const { client, server } = yield* twoApps()
    const listener = yield* server.listen(Endpoint.tcp("0.0.0.0", 7000))
    return { client, server, listener }
  })

  it.effect("drop: the connect is Filtered, by a rule the error names, and nothing is left of it", () =>
    Effect.gen(function* () {
      const { client, listener } = yield* setUp
      const other = yield* client.listen(Endpoint.tcp("127.0.0.1", 7001))
      const scope = yield* Scope.make()
      yield* Scope.provide(Sessions.addRule({ remotePort: 7000, action: "drop", tag: "closed today" }), scope)
      for (const dialled of [near, far]) {
        const error = yield* Effect.flip(Effect.scoped(client.connect(dialled)))
        assert.strictEqual(error.reason._tag, "Filtered")
        assert.include(error.message, "closed today")
        assert.include(error.message, Endpoint.format(dialled))
      }
      assert.deepInclude(yield* Sessions.residue, { sessions: 0, halfOpens: 0, leases: 0, regions: 0 })
      yield* connectTo(client, other.address, other)
      yield* close(scope)
      yield* connectTo(client, near, listener)
      yield* connectTo(client, far, listener)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("allow masks drop where it is longer, and only there", () =>
    Effect.gen(function* () {
      const { client, listener } = yield* setUp
      yield* Sessions.addRule({ remote: "10.0.0.0/8", action: "drop" })
      const scope = yield* Scope.make()
      yield* Scope.provide(Sessions.addRule({ remote: "10.1.0.0/16", remotePort: 7000, action: "allow" }), scope)
      yield* Sessions.addRule({ remote: "10.1.9.0/24", action: "drop" })
      yield* connectTo(client, far, listener)
      yield* connectTo(client, near, listener)
      assert.strictEqual(yield* ends(client.connect(Endpoint.tcp("10.2.0.1", 7000))), "Filtered")
      assert.strictEqual(yield* ends(client.connect(Endpoint.tcp("10.1.9.9", 7000))), "success")
      yield* Sessions.addRule({ remote: "10.1.9.0/24", remotePort: 7000, action: "drop" })
      assert.strictEqual(yield* ends(client.connect(Endpoint.tcp("10.1.9.9", 7000))), "Filtered")
      yield* close(scope)
      assert.strictEqual(yield* ends(client.connect(far)), "Filtered")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D27 redirect: the connect reaches that listener, which sees what was dialled", () =>
    Effect.gen(function* () {
      const { client, listener } = yield* setUp
      const third = yield* Application.make({ name: "third" })
      const target = yield* third.listen(Endpoint.tcp("::1", 9))
      const unheard = Endpoint.tcp("192.0.2.1", 80)
      const rule = Sessions.addRule({ remote: "192.0.2.0/24", action: { redirect: target } })
      const scope = yield* Scope.make()
      yield* Scope.provide(rule, scope)
      const { connection, server } = yield* connectTo(client, unheard, target)
      yield* connection.write(pattern(9))
      assert.strictEqual(misplaced(yield* readExactly(server, 9)), -1)
      // Also where somebody listens.
      yield* Scope.provide(Sessions.addRule({ remotePort: 7000, action: { redirect: target.handle } }), scope)
      yield* connectTo(client, near, target)
      yield* connectTo(client, far, target)
      yield* close(scope)
      yield* connectTo(client, near, listener)
      assert.strictEqual(yield* ends(client.connect(unheard)), "NoRoute")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("D27 what is redirected to is a listener, not an application, and not one that has gone", () =>
    Effect.gen(function* () {
      const { client, listener } = yield* setUp
      const { handle: app } = yield* appNamed("server")
      const index = HandleTable.indexOf(app)
      const { global } = yield* SessionLayer
      assert.throws(() => global.rules.add({ remotePort: 7000, action: { redirect: index } }), /listener/)
      const gone = yield* Effect.scoped(client.listen(Endpoint.tcp("127.0.0.1", 7001)))
      for (const redirect of [gone, gone.handle, index, 0]) {
        const exit = yield* Effect.exit(Sessions.addRule({ remotePort: 7000, action: { redirect } }))
        assert.strictEqual(reasonOf(exit), "InvalidArgument")
      }
      yield* connectTo(client, near, listener)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("redirect to a listener that has closed since: Refused, and never another in its place", () =>
    Effect.gen(function* () {
      const { client, server } = yield* setUp
      const scope = yield* Scope.make()
      const target = yield* Scope.provide(server.listen(Endpoint.tcp("127.0.0.1", 7001)), scope)
      yield* Sessions.addRule({ remote: "192.0.2.0/24", action: { redirect: target } })
      const unheard = Endpoint.tcp("192.0.2.1", 80)
      yield* connectTo(client, unheard, target)
      yield* close(scope)
      assert.strictEqual(yield* ends(client.connect(unheard)), "Refused")
      // The handle's place is used again.
      const next = yield* server.listen(Endpoint.tcp("127.0.0.1", 7001))
      assert.strictEqual(HandleTable.indexOf(next.handle), HandleTable.indexOf(target.handle))
      assert.strictEqual(yield* ends(client.connect(unheard)), "Refused")
      yield* connectTo(client, next.address, next)
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  const hits = Effect.map(Sessions.rules, (rules) =>
    Object.fromEntries(rules.map(({ hits, scope, tag }) => [`${scope} ${tag}`, hits]))
  )

  it.effect("local rules come before global ones, which only those see who look further", () =>
    Effect.gen(function* () {
      const { client, listener, server } = yield* setUp
      const target = yield* server.listen(Endpoint.tcp("127.0.0.1", 7001))
      yield* Sessions.addRule({ remote: "10.0.0.0/8", scope: "global", action: "drop", tag: "a" })
      yield* Sessions.addRule({ remotePort: 80, scope: "local", action: { redirect: target }, tag: "b" })
      // Local decides, whatever global says.
      yield* connectTo(client, Endpoint.tcp("10.1.2.3", 80), target)
      assert.deepStrictEqual(yield* hits, { "global a": 0, "local b": 1 })
      // Nobody is found locally, so the global table is asked, and its rules before it.
      assert.strictEqual(yield* ends(client.connect(far)), "Filtered")
      assert.deepStrictEqual(yield* hits, { "global a": 1, "local b": 1 })
      // Found locally: nobody looks further.
      yield* Sessions.addRule({ remotePort: 7000, scope: "global", action: "drop", tag: "c" })
      yield* connectTo(client, near, listener)
      assert.deepStrictEqual(yield* hits, { "global a": 1, "global c": 0, "local b": 1 })
      // Allowed locally is not allowed globally.
      yield* Sessions.addRule({ remote: "10.1.2.3", scope: "local", action: "allow", tag: "d" })
      assert.strictEqual(yield* ends(client.connect(far)), "Filtered")
      // Dropped locally is dropped.
      yield* Sessions.addRule({ remote: "127.0.0.0/8", remotePort: 7000, scope: "local", action: "drop", tag: "e" })
      assert.strictEqual(yield* ends(client.connect(near)), "Filtered")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )

  it.effect("those of a namespace are for its connects, the global ones for who looks globally", () =>
    Effect.gen(function* () {
      yield* Sessions.addNamespace({ id: "other" })
      const server = yield* Application.make({ name: "server" })
      const listener = yield* server.listen(Endpoint.tcp("0.0.0.0", 7000))
      const attach = (scope: "local" | "global" | "both", namespace?: string) =>
        Application.make({ name: `${scope} ${namespace}`, scope, namespace })
      const [local, global, both, foreign] = [
        yield* attach("local"),
        yield* attach("global"),
        yield* attach("both"),
        yield* attach("both", "other")
      ]
      const scope = yield* Scope.make()
      yield* Scope.provide(Sessions.addRule({ scope: "local", action: "drop" }), scope)
      assert.strictEqual(yield* ends(local.connect(near)), "Filtered")
      assert.strictEqual(yield* ends(both.connect(near)), "Filtered")
      yield* connectTo(global, far, listener)
      yield* connectTo(foreign, far, listener)
      yield* close(scope)
      yield* Sessions.addRule({ scope: "global", action: "drop" })
      yield* connectTo(local, near, listener)
      yield* connectTo(both, near, listener)
      for (const app of [global, both, foreign]) assert.strictEqual(yield* ends(app.connect(far)), "Filtered")
      assert.strictEqual(yield* ends(local.connect(far)), "Scope")
    }).pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))
  )
})
