/** Who finds whom: applications of every reach in two namespaces, listeners on every kind of address, connects to each. */
import { Applications, Endpoint, type SessionError, Sessions } from "@cut-through/core"
import type { AppScope } from "@cut-through/core/session/App"
import * as HandleTable from "@cut-through/core/runtime/HandleTable"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import type { Transport } from "@cut-through/core/session/Transport"
import * as Errors from "@cut-through/core/SessionError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { reasonOf } from "../fixtures.ts"
import { assertTalk, attach, layerWith, listen, type Party, refusalsOf } from "./fixtures.ts"

const PORT = 7000

/** Loopback, all and one of the network, of each family. */
const addresses = ["127.0.0.1", "0.0.0.0", "192.0.2.1", "::1", "::", "2001:db8::1"] as const
const endpoints = addresses.map((address) => Endpoint.tcp(address, PORT))

const scopes: ReadonlyArray<AppScope> = ["local", "global", "both"]

const secret = "correct horse"
const namespaces = [
  { id: "red", secret },
  { id: "blue", secret: undefined }
] as const

type NamespaceId = (typeof namespaces)[number]["id"]

const addNamespaces = Effect.forEach(namespaces, Sessions.addNamespace, { discard: true })

const attachIn = (namespace: NamespaceId, name: string, scope: AppScope) =>
  attach(name, { namespace, scope, ...(namespace === "red" ? { namespaceSecret: secret } : {}) })

/**
 * What becomes of a connect to each of the addresses, in their order, from a client of local, global and both reach, in
 * the server's namespace and in another one: Connected, NoRoute, Scope, or an Invalid argument.
 */
type Row = readonly [server: AppScope, listener: (typeof addresses)[number], same: string, other: string | undefined]

const NOBODY = "NISNIS NINNIN NINNIN"

const rows: ReadonlyArray<Row> = [
  // Of local reach: found by those of its namespace that look there, at loopback addresses only.
  ["local", "127.0.0.1", "CISNIS NINNIN CINNIN", NOBODY],
  ["local", "0.0.0.0", "CISNIS NINNIN CINNIN", NOBODY],
  ["local", "::1", "NISCIS NINNIN NINCIN", NOBODY],
  ["local", "::", "NISCIS NINNIN NINCIN", NOBODY],
  // Of global reach: found by all that look there, at any address but loopback ones.
  ["global", "127.0.0.1", NOBODY, NOBODY],
  ["global", "0.0.0.0", "NISNIS NICNIN NICNIN", "NISNIS NICNIN NICNIN"],
  ["global", "192.0.2.1", "NISNIS NICNIN NICNIN", "NISNIS NICNIN NICNIN"],
  ["global", "::1", NOBODY, NOBODY],
  ["global", "::", "NISNIS NINNIC NINNIC", "NISNIS NINNIC NINNIC"],
  ["global", "2001:db8::1", "NISNIS NINNIC NINNIC", "NISNIS NINNIC NINNIC"],
  // Of both: both.
  ["both", "127.0.0.1", "CISNIS NINNIN CINNIN", NOBODY],
  ["both", "0.0.0.0", "CISNIS NICNIN CICNIN", "NISNIS NICNIN NICNIN"],
  ["both", "192.0.2.1", "NISNIS NICNIN NICNIN", "NISNIS NICNIN NICNIN"],
  ["both", "::1", "NISCIS NINNIN NINCIN", NOBODY],
  ["both", "::", "NISCIS NINNIC NINCIC", "NISNIS NINNIC NINNIC"],
  ["both", "2001:db8::1", "NISNIS NINNIC NINNIC", "NISNIS NINNIC NINNIC"]
]

const letters: { readonly [reason: string]: string } = {
  success: "C",
  NoRoute: "N",
  Scope: "S",
  InvalidArgument: "I"
}

describe("namespaces and scopes", () => {
  for (const home of ["red", "blue"] as const) {
    for (const [server, address, same, other] of rows) {
      it.effect(`a ${server} server of ${home} on ${address} is found by whom it concerns`, () =>
        Effect.gen(function* () {
          yield* addNamespaces
          const party = yield* attachIn(home, "server", server)
          const { listener } = yield* listen(party, Endpoint.tcp(address, PORT))
          let accepted = 0
          const outcomes: Array<string> = []
          for (const namespace of [home, home === "red" ? "blue" : "red"] as const) {
            const cells: Array<string> = []
            for (const scope of scopes) {
              const client = yield* attachIn(namespace, `${namespace} ${scope}`, scope)
              let cell = ""
              for (const dialled of endpoints) {
                const exit = yield* Effect.exit(client.application.connect(dialled))
                cell += letters[reasonOf(exit)] ?? `[${reasonOf(exit)}]`
                if (Exit.isFailure(exit)) continue
                accepted++
                const [mine, theirs] = [exit.value, yield* listener.accept]
                // D24: what was dialled, on both sides, whatever the listener is bound to.
                assert.isTrue(Equal.equals(mine.info.remote, dialled))
                assert.isTrue(Equal.equals(theirs.info.local, dialled))
                assert.isTrue(Equal.equals(mine.info.local, theirs.info.remote))
                yield* assertTalk(mine, theirs)
                yield* mine.close
                yield* theirs.close
              }
              cells.push(cell)
              // Nobody was there to be asked: no half-open, no answer.
              assert.deepStrictEqual(refusalsOf(client), [])
            }
            outcomes.push(cells.join(" "))
          }
          assert.deepStrictEqual(outcomes, [same, other])
          assert.strictEqual(party.told("Accepted").length, accepted)
        }).pipe(Effect.scoped, Effect.provide(layerWith()))
      )
    }

    it.effect.each(["192.0.2.1", "2001:db8::1"])(`a local server of ${home} on %s is out of reach`, (address) =>
      Effect.gen(function* () {
        yield* addNamespaces
        const party = yield* attachIn(home, "server", "local")
        const error = yield* Effect.flip(listen(party, Endpoint.tcp(address, PORT)))
        const endpoint = Endpoint.format(Endpoint.tcp(address, PORT))
        assert.deepInclude(error.reason, { _tag: "Scope", scope: "local", endpoint })
        assert.strictEqual(party.app.listeners.size, 0)
      }).pipe(Effect.scoped, Effect.provide(layerWith()))
    )
  }

  it.effect("each namespace has its own loopback: nobody reaches the other one's", () =>
    Effect.gen(function* () {
      yield* addNamespaces
      const dialled = Endpoint.tcp("127.0.0.1", PORT)
      const servers: Array<Party> = []
      for (const { id } of namespaces) {
        const server = yield* attachIn(id, `server of ${id}`, "both")
        const { listener } = yield* listen(server, dialled)
        const client = yield* attachIn(id, `client of ${id}`, "both")
        const connection = yield* client.application.connect(dialled)
        yield* assertTalk(connection, yield* listener.accept)
        servers.push(server)
      }
      for (const server of servers) assert.strictEqual(server.told("Accepted").length, 1)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("the network is one: an address is taken for all namespaces, and free again with its listener", () =>
    Effect.gen(function* () {
      yield* addNamespaces
      const endpoint = Endpoint.tcp("192.0.2.1", PORT)
      const red = yield* attachIn("red", "first", "both")
      const blue = yield* attachIn("blue", "second", "global")
      const { close } = yield* listen(red, endpoint)
      assert.strictEqual((yield* Effect.flip(listen(blue, endpoint))).reason._tag, "AlreadyListening")
      yield* close
      yield* listen(blue, endpoint)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("local before global: the one that listens in the namespace answers for it", () =>
    Effect.gen(function* () {
      yield* addNamespaces
      const near = yield* attachIn("red", "near", "local")
      const far = yield* attachIn("red", "far", "global")
      const client = yield* attachIn("red", "client", "both")
      const any = Endpoint.tcp("0.0.0.0", PORT)
      yield* listen(near, any)
      yield* listen(far, any)
      yield* client.application.connect(Endpoint.tcp("127.0.0.1", PORT))
      yield* client.application.connect(Endpoint.tcp("192.0.2.1", PORT))
      assert.deepStrictEqual([near.told("Accepted").length, far.told("Accepted").length], [1, 1])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("beside a transport that leads elsewhere, a loopback address is still that of one namespace", () =>
    Effect.gen(function* () {
      yield* addNamespaces
      const layer = yield* SessionLayer.SessionLayer
      const server = yield* attachIn("red", "server", "global")
      const local = yield* attachIn("red", "local server", "local")
      yield* listen(server, Endpoint.tcp("127.0.0.1", PORT))
      yield* listen(local, Endpoint.tcp("127.0.0.1", PORT + 1))
      // In place of one for the network, which would open sockets.
      const asked: Array<string> = []
      const never = () => assert.fail("it has no connections")
      const elsewhere: Transport = {
        name: "elsewhere",
        shortName: "E",
        reaches: () => true,
        startListen: () => Effect.void,
        stopListen: () => Effect.void,
        connect: (client, remote) => {
          asked.push(`${client.app.name} ${Endpoint.format(remote)}`)
          return new Errors.Refused({ endpoint: Endpoint.format(remote), why: "it is a test" })
        },
        cancel: () => false,
        getSession: () => undefined,
        getListener: () => undefined,
        getHalfOpen: () => undefined,
        accept: never,
        close: never,
        reset: never,
        abandon: never,
        halfClose: never,
        customTx: never,
        appRxEvt: never,
        formatSession: never,
        formatListener: never,
        formatHalfOpen: never
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => layer.transports.register(elsewhere)),
        () => Effect.sync(() => layer.transports.unregister(elsewhere))
      )
      const outcomes: Array<string> = []
      for (const scope of scopes) {
        const client = yield* attachIn("red", scope, scope)
        for (const port of [PORT, PORT + 1]) {
          outcomes.push(
            `${scope} ${port} ${reasonOf(yield* Effect.exit(client.application.connect(Endpoint.tcp("127.0.0.1", port))))}`
          )
        }
      }
      assert.deepStrictEqual(outcomes, [
        "local 7000 Scope",
        "local 7001 success",
        "global 7000 Refused",
        "global 7001 Refused",
        "both 7000 Refused",
        "both 7001 success"
      ])
      assert.deepStrictEqual(asked, ["global 127.0.0.1:7000", "global 127.0.0.1:7001", "both 127.0.0.1:7000"])
      assert.deepStrictEqual(server.told("Accepted"), [])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D24 the listing shows both addresses of both sides, and the transport", () =>
    Effect.gen(function* () {
      const server = yield* attach("server")
      const client = yield* attach("client")
      const { listener } = yield* listen(server, Endpoint.tcp("0.0.0.0", PORT))
      const connection = yield* client.application.connect(Endpoint.tcp("192.0.2.1", PORT))
      yield* listener.accept
      const { port } = connection.info.local
      assert.isTrue(port >= 49_152 && port <= 65_535)
      const sessions = yield* Sessions.find({ kind: "session" })
      assert.deepStrictEqual(
        sessions.map(({ app, local, remote, side, state, transport }) => [
          side,
          app,
          state,
          transport.name,
          Endpoint.format(local),
          Endpoint.format(remote)
        ]),
        [
          ["server", "server/0", "ready", "ct", "192.0.2.1:7000", `192.0.2.1:${port}`],
          ["client", "client/0", "ready", "ct", `192.0.2.1:${port}`, "192.0.2.1:7000"]
        ]
      )
      const [accepted] = server.told("Accepted")
      assert.deepStrictEqual([accepted.listener, accepted.local, accepted.remote].map(Endpoint.format), [
        "0.0.0.0:7000",
        "192.0.2.1:7000",
        `192.0.2.1:${port}`
      ])
      assert.strictEqual(Endpoint.format(client.told("Connected")[0].remote), "192.0.2.1:7000")
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("D43 where nobody has ever listened nobody is found, and least of all the first listener", () =>
    Effect.gen(function* () {
      yield* addNamespaces
      // Index 0 of everything there is: what an invalid handle that is taken for a valid one would lead to.
      const stranger = yield* attachIn("red", "stranger", "local")
      const { listener } = yield* listen(stranger, Endpoint.tcp("127.0.0.1", PORT))
      assert.strictEqual(HandleTable.indexOf(listener.handle), 0)
      for (const scope of scopes) {
        const client = yield* attachIn("blue", scope, scope)
        for (const port of [PORT, PORT + 1, 1, 65_535]) {
          const error = yield* Effect.flip(client.application.connect(Endpoint.tcp("127.0.0.1", port)))
          assert.deepInclude(error.reason, { _tag: "NoRoute", endpoint: `127.0.0.1:${port}` })
        }
        assert.deepStrictEqual(client.events, [])
      }
      const layer = yield* SessionLayer.SessionLayer
      assert.isUndefined(layer.getListener(HandleTable.NONE))
      for (const invalid of [0xffff_ffff, 2 ** 52, 0, -1, Number.NaN]) assert.isUndefined(layer.getListener(invalid))
      assert.deepStrictEqual(stranger.told("Accepted"), [])
      assert.deepStrictEqual([layer.counters.connected, layer.counters.failed.get("NoRoute")], [0, 12])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})

describe("attaching to a namespace", () => {
  const secrets: ReadonlyArray<
    readonly [namespace: NamespaceId, given: SessionLayer.AttachOptions["namespaceSecret"], outcome: string]
  > = [
    ["red", secret, "success"],
    ["red", Redacted.make(secret), "success"],
    ["red", undefined, "WrongNamespaceSecret"],
    ["red", "", "WrongNamespaceSecret"],
    ["red", "correct hors", "WrongNamespaceSecret"],
    ["red", "correct horse ", "WrongNamespaceSecret"],
    ["red", "correct horsecorrect horse", "WrongNamespaceSecret"],
    ["red", "correct house", "WrongNamespaceSecret"],
    ["red", "Correct horse", "WrongNamespaceSecret"],
    ["red", Redacted.make("correct house"), "WrongNamespaceSecret"],
    // A namespace without a secret has none to be told.
    ["blue", undefined, "success"],
    ["blue", secret, "WrongNamespaceSecret"],
    ["blue", "", "WrongNamespaceSecret"]
  ]
  it.effect.each(secrets)("%s, with the secret %s: %s", ([namespace, namespaceSecret, outcome]) =>
    Effect.gen(function* () {
      yield* addNamespaces
      const layer = yield* SessionLayer.SessionLayer
      const options = { name: "app", namespace, ...(namespaceSecret === undefined ? {} : { namespaceSecret }) }
      const exit = yield* Effect.exit(layer.attach(options))
      assert.strictEqual(reasonOf(exit), outcome)
      assert.strictEqual((yield* Applications.list).length, outcome === "success" ? 1 : 0)
      if (Exit.isSuccess(exit)) return layer.detach(exit.value)
      // What was given is nobody's business who reads the error.
      const { message } = yield* Effect.flip(exit)
      assert.include(message, `"${namespace}"`)
      assert.notInclude(message, "correct")
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect.each(["green", "", "RED", "__proto__"])("UnknownNamespace: %j", (namespace) =>
    Effect.gen(function* () {
      yield* addNamespaces
      const error = yield* Effect.flip(attach("app", { namespace, namespaceSecret: secret }))
      assert.deepInclude(error.reason, { _tag: "UnknownNamespace", namespace })
      assert.deepStrictEqual(yield* Applications.list, [])
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )

  it.effect("a namespace that goes takes nobody in any more, and those who are in it still find each other", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const endpoint = Endpoint.tcp("127.0.0.1", PORT)
      yield* Scope.provide(Sessions.addNamespace({ id: "red", secret }), scope)
      const server = yield* attachIn("red", "server", "local")
      const client = yield* attachIn("red", "client", "local")
      const { listener } = yield* listen(server, endpoint)
      yield* Scope.close(scope, Exit.void)
      const isUnknown = (error: SessionError.SessionError) => error.reason._tag === "UnknownNamespace"
      assert.isTrue(isUnknown(yield* Effect.flip(attachIn("red", "late", "local"))))
      yield* assertTalk(yield* client.application.connect(endpoint), yield* listener.accept)
      // One of the same name is another one, with another secret and a table of its own.
      yield* Sessions.addNamespace({ id: "red" })
      const stranger = yield* attach("stranger", { namespace: "red", scope: "local" })
      assert.strictEqual((yield* Effect.flip(stranger.application.connect(endpoint))).reason._tag, "NoRoute")
      yield* listen(stranger, endpoint)
      yield* client.application.connect(endpoint)
      assert.strictEqual(server.told("Accepted").length, 2)
      assert.strictEqual(stranger.told("Accepted").length, 0)
    }).pipe(Effect.scoped, Effect.provide(layerWith()))
  )
})
