/** What guests may say over their control ports: anything. The host answers, counts what makes no sense, and goes on. */
import { Application, Endpoint, Sessions } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { CutThroughHost } from "@cut-through/platform"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import type { Record } from "@cut-through/platform/thread/Ring"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, type Scope } from "effect"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import { MessageChannel, type Transferable } from "node:worker_threads"
import { reasonOf as reasonOfExit } from "../../../core/test/fixtures.ts"
import {
  bystandersHere,
  type Heard,
  OWN_IDS,
  layerHost,
  rawGuest,
  type RawGuest,
  reasonOf,
  until
} from "./hostile-fixtures.ts"

const attach = (id: number, options: object = { name: "hostile" }, ring: boolean = true): Protocol.Request =>
  ({ _tag: "Attach", id, version: Protocol.VERSION, options, ring }) as Protocol.Request

const listen = (id: number, port: number, approval: "listener" | "application" = "listener"): Protocol.Request => ({
  _tag: "Listen",
  id,
  worker: undefined,
  endpoint: `tcp://127.0.0.1:${port}`,
  backlog: 511,
  approval,
  isProxy: false
})

/** A test with a host, those who must not notice, and a guest that says what it likes; nothing is left of any of them. */
const withRaw = <A, E>(
  body: (
    raw: RawGuest,
    host: CutThroughHost.CutThroughHost["Service"]
  ) => Effect.Effect<A, E, SessionLayer | CutThroughHost.CutThroughHost | Scope.Scope>
): Effect.Effect<void, unknown> =>
  Effect.gen(function* () {
    const host = yield* CutThroughHost.CutThroughHost
    const others = yield* bystandersHere
    yield* others.round
    const raw = yield* rawGuest
    yield* Effect.scoped(body(raw, host))
    yield* others.round
    raw.close()
    yield* until(() => host.stats().guests === 1)
    yield* others.round
    const layer = yield* SessionLayer
    assert.deepStrictEqual(
      Array.from(layer.apps(), ({ name }) => name),
      ["bystander", "other guest"]
    )
    assert.strictEqual((yield* Sessions.residue).halfOpens, 0)
  }).pipe(Effect.scoped, Effect.provide(layerHost()))

/** What cannot be received although it could be sent: it takes less stack to write it than to read it. */
const deep = (depth: number): object => {
  let value: object = {}
  for (let i = 0; i < depth; i++) value = { value }
  return value
}

const circular = (): object => {
  const value: { [key: string]: unknown } = { _tag: "Attach", id: 1 }
  value.version = value
  value.options = value
  return value
}

const huge = "x".repeat(10_000_000)

/** None of them is a message of the protocol. */
const garbage: { readonly [what: string]: () => unknown } = {
  nothing: () => undefined,
  null: () => null,
  "a number": () => 5,
  "a text": () => "Attach",
  "an empty object": () => ({}),
  "a list": () => [attach(1)],
  "a map": () => new Map([["_tag", "Detach"]]),
  "an error": () => new Error("Detach"),
  bytes: () => new Uint8Array(1000),
  "shared memory": () => new SharedArrayBuffer(1000),
  "a circle": circular,
  "something deep": () => deep(1000),
  "a long list": () => Array.from({ length: 100_000 }, () => attach(1)),
  "a tag that is none": () => ({ _tag: "Nonsense", id: 1 }),
  "a tag that the host has": () => ({ _tag: "Segment", segment: 1, buffer: new SharedArrayBuffer(8) }),
  "a huge tag": () => ({ _tag: huge }),
  "a tag of another type": () => ({ _tag: ["Detach"], id: 1 }),
  "a tag alone": () => ({ _tag: "Connect" }),
  "no id": () => ({ _tag: "Detach" }),
  "an id that is a text": () => ({ _tag: "Detach", id: "1" }),
  "an id that is huge": () => ({ _tag: "Detach", id: huge }),
  "an id that is a bigint": () => ({ _tag: "Detach", id: 1n }),
  "an id that is NaN": () => ({ _tag: "Detach", id: Number.NaN }),
  "an id that is infinite": () => ({ _tag: "Detach", id: Infinity }),
  "an id that is a fraction": () => ({ _tag: "Detach", id: 0.5 }),
  "an id that is unsafe": () => ({ _tag: "Detach", id: 2 ** 60 }),
  "an id that is a circle": () => ({ _tag: "Detach", id: circular() }),
  "an id that is deep": () => ({ _tag: "Detach", id: deep(1000) }),
  "an id that is a sparse list": () => {
    const id: Array<number> = []
    id[4_000_000_000] = 1
    return { _tag: "Detach", id }
  },
  "an approval that is none": () => ({ ...listen(1, 80), approval: "nobody" }),
  "an endpoint that is an object": () => ({ ...listen(1, 80), endpoint: { host: "127.0.0.1", port: 80 } }),
  "a worker that is a fraction": () => ({ ...listen(1, 80), worker: 0.5 }),
  "options that are none": () => ({ ...attach(1), options: undefined }),
  "options without a name": () => attach(1, {}),
  "a name that is a number": () => attach(1, { name: 1 }),
  "a size that is a list": () => attach(1, { name: "a", segmentSize: [4096] }),
  "a duration that is a bigint": () => attach(1, { name: "a", segmentLinger: 1n }),
  "a scope that is a number": () => attach(1, { name: "a", scope: 7 })
}

describe("what a guest says that is no message", () => {
  it.live("is answered, counted and forgotten, whatever it is, before it attaches and afterwards", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        for (const isAttached of [false, true]) {
          if (isAttached) assert.strictEqual(reasonOf(yield* raw.ask((id) => attach(id))), "Attached")
          for (const [what, make] of Object.entries(garbage)) {
            const before = host.stats().rejected
            const heard = raw.heard.length
            raw.say(make())
            yield* raw.sync
            assert.strictEqual(host.stats().rejected - before, 2, `${what}, and the message behind it`)
            assert.deepStrictEqual(raw.heard.slice(heard).map(reasonOf), ["InvalidArgument", "InvalidArgument"], what)
            assert.strictEqual(raw.heard[heard]._tag, "Rejected", what)
            // What it was is not worth more words than these.
            assert.isBelow(JSON.stringify(raw.heard[heard]).length, 2000, what)
          }
        }
      })
    )
  )

  it.live("is answered and counted also when it cannot even be received", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        // How deep is too deep is the machine's business: at least one of these can be sent and not received.
        for (let depth = 1000; depth < 20_000; depth += 250) {
          const before = host.stats().rejected
          try {
            raw.say(deep(depth))
          } catch {
            break
          }
          yield* raw.sync
          assert.strictEqual(host.stats().rejected - before, 2, `${depth} deep, and the message behind it`)
        }
        const texts = raw.heard.map((message) => JSON.stringify(message))
        assert.isTrue(texts.some((text) => text.includes("cannot be received")))
      })
    )
  )

  it.live("leaves the port where it is when there are ports in it", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        const before = host.stats().rejected
        const { port1, port2 } = new MessageChannel()
        raw.say({ _tag: "Detach", id: port1, also: new Uint8Array(10).buffer }, [port1 as Transferable])
        yield* raw.sync
        assert.strictEqual(host.stats().rejected - before, 2)
        port2.close()
      })
    )
  )

  it.live("is answered, counted and forgotten in a ring, too", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        yield* raw.ask((id) => attach(id))
        const records: { readonly [what: string]: (record: Record) => unknown } = {
          "a tag that is none": (record) => record.begin(200).int(1),
          "a tag alone": (record) => record.begin(1),
          "too little": (record) => record.begin(1).int(5).int(5),
          "too much": (record) => record.begin(3).int(5).int(1).int(1),
          "a boolean that is none": (record) => record.begin(3).int(5).int(2),
          "a negative boolean": (record) => record.begin(3).int(5).int(-1),
          "no text": (record) => record.begin(2).int(5).int(0),
          "a text that is longer than the record": (record) => record.begin(2).int(5).int(0).int(20).int(0),
          "a text that is longer than texts are": (record) =>
            record
              .begin(2)
              .int(5)
              .int(0)
              .int(2 ** 31 - 1),
          "a text of a negative length": (record) => record.begin(2).int(5).int(0).int(-1),
          "something behind a text": (record) => record.begin(2).int(5).int(0).text("tcp://127.0.0.1:1").int(0)
        }
        for (const [what, fill] of Object.entries(records)) {
          const before = host.stats().rejected
          const heard = raw.heard.length
          raw.write(fill)
          yield* raw.sync
          assert.strictEqual(host.stats().rejected - before, 2, `${what}, and the message behind it`)
          assert.deepStrictEqual(raw.heard.slice(heard).map(reasonOf), ["InvalidArgument", "InvalidArgument"], what)
          assert.strictEqual(raw.heard[heard]._tag, "Rejected", what)
        }
        // What is no nonsense is done, as it would be had it come through the port.
        raw.write((record) => record.begin(2).int(5).int(0).text("nowhere"))
        yield* raw.await("Failed", ({ id }) => id === 5)
        raw.write((record) => record.begin(2).int(6).int(7).text("tcp://127.0.0.1:80"))
        yield* raw.await("Failed", ({ id }) => id === 6)
      })
    )
  )

  it.live("may be a ring without records: it is not read any more, and the port goes on", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        yield* raw.ask((id) => attach(id))
        new Int32Array(raw.ring!).fill(-1)
        yield* until(() => host.stats().rejected === 1)
        yield* raw.await("Rejected")
        raw.say({ _tag: "Nonsense" })
        yield* until(() => host.stats().rejected === 2)
      })
    )
  )

  it.live("may come to where guests call, too", () =>
    Effect.gen(function* () {
      const others = yield* bystandersHere
      const call = (message: unknown) => process.emit("workerMessage", message, 1)
      const { port1 } = new MessageChannel()
      for (const message of [
        undefined,
        null,
        5,
        "default",
        [],
        circular(),
        { [Protocol.HOST_KEY]: "default" },
        { [Protocol.HOST_KEY]: "default", port: {} },
        { [Protocol.HOST_KEY]: "default", port: null },
        { [Protocol.HOST_KEY]: { name: "default" }, port: port1 },
        { [Protocol.HOST_KEY]: "__proto__", port: {} }
      ]) {
        call(message)
        yield* others.round
      }
      // Nobody of this name: whoever calls sees that at once.
      const closed = new Promise<void>((resolve) => port1.once("close", resolve))
      call({ [Protocol.HOST_KEY]: "nobody", port: port1 })
      yield* Effect.promise(() => closed)
    }).pipe(Effect.scoped, Effect.provide(layerHost()))
  )
})

describe("what a guest says out of its turn", () => {
  it.live("requests before it has attached", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        const before = host.stats().rejected
        const requests: ReadonlyArray<(id: number) => Protocol.Request> = [
          (id) => listen(id, 80),
          (id) => ({ _tag: "Unlisten", id, listener: 1 }),
          (id) => ({ _tag: "Connect", id, worker: 0, endpoint: "tcp://127.0.0.1:80" }),
          (id) => ({ _tag: "Accept", id, listener: 1, accepts: true }),
          (id) => ({ _tag: "Approve", id, session: 1 }),
          (id) => ({ _tag: "Subscribe", id }),
          (id) => ({ _tag: "Next", id, subscription: 1 }),
          (id) => ({ _tag: "Detach", id })
        ]
        for (const request of requests) assert.strictEqual(reasonOf(yield* raw.ask(request)), "InvalidArgument")
        assert.strictEqual(host.stats().rejected - before, requests.length)
        raw.request({ _tag: "Cancel", request: 1 })
        for (const request of [
          { _tag: "Close", session: 1, reset: false },
          { _tag: "HalfClose", session: 1 },
          { _tag: "Unmapped", segment: 1 },
          { _tag: "Unsubscribe", subscription: 1 }
        ] as const) {
          raw.request(request)
        }
        yield* raw.sync
        assert.strictEqual(host.stats().rejected - before, requests.length + 5)
        assert.strictEqual(reasonOf(yield* raw.ask((id) => attach(id))), "Attached")
      })
    )
  )

  it.live("another version, twice, or what no application may be: it does not attach", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        for (const version of [0, Protocol.VERSION + 1, -1, Number.NaN, Infinity, 1.5]) {
          const answer = yield* raw.ask((id) => ({ ...attach(id), version }) as Protocol.Request)
          assert.strictEqual(reasonOf(answer), "InvalidArgument")
        }
        assert.strictEqual(host.stats().rejected, 6)
        assert.strictEqual(reasonOf(yield* raw.ask((id) => attach(id))), "Attached")
        assert.strictEqual(reasonOf(yield* raw.ask((id) => attach(id))), "InvalidArgument")
        assert.strictEqual(host.stats().rejected, 7)
        assert.strictEqual((yield* Sessions.residue).sessions, 2)
      })
    )
  )

  it.live("options that no application may have: none is made", () =>
    withRaw(() =>
      Effect.gen(function* () {
        const many = 2 ** 31 - 1
        for (const [options, reason] of [
          [{ workers: many }, "InvalidArgument"],
          [{ workers: Infinity }, "InvalidArgument"],
          [{ workers: 0 }, "InvalidArgument"],
          [{ workers: -1 }, "InvalidArgument"],
          [{ workers: Number.NaN }, "InvalidArgument"],
          [{ workers: 1.5 }, "InvalidArgument"],
          [{ segmentSize: -1 }, "InvalidArgument"],
          [{ segmentSize: Number.NaN }, "InvalidArgument"],
          [{ segmentSize: "9".repeat(100_000) }, "InvalidArgument"],
          [{ segmentSize: `9${" ".repeat(100_000)}x` }, "InvalidArgument"],
          [{ rxFifoSize: 2n ** 64n }, "InvalidArgument"],
          [{ rxFifoSize: 0 }, "InvalidArgument"],
          [{ segmentLinger: -1 }, "InvalidArgument"],
          [{ segmentLinger: "tomorrow" }, "InvalidArgument"],
          [{ maxFifoMemory: 1 }, "InvalidArgument"],
          [{ maxSessions: -5 }, "InvalidArgument"],
          [{ maxPending: 0 }, "InvalidArgument"],
          [{ namespace: huge }, "UnknownNamespace"],
          [{ namespaceSecret: huge }, "WrongNamespaceSecret"]
        ] as const) {
          const answer = yield* Effect.scoped(
            Effect.flatMap(rawGuest, (raw) => raw.ask((id) => attach(id, { name: "hostile", ...options })))
          )
          assert.strictEqual(reasonOf(answer), reason, Object.keys(options)[0])
        }
      })
    )
  )

  it.live("after it has detached", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        yield* raw.ask((id) => attach(id))
        yield* raw.ask((id) => listen(id, 80))
        const [listener] = raw.listeners.keys()
        const server = yield* Application.make({ name: "server" }).pipe(
          Effect.flatMap(({ listen }) => listen(Endpoint.tcp("127.0.0.1", 81)))
        )
        const connected = yield* raw.ask((id) => ({ _tag: "Connect", id, worker: 0, endpoint: "tcp://127.0.0.1:81" }))
        assert.strictEqual(connected._tag, "Connected")
        const [session] = raw.sessions.keys()
        raw.request({ _tag: "Accept", id: 5, listener, accepts: true })
        assert.strictEqual((yield* raw.ask((id) => ({ _tag: "Detach", id })))._tag, "Done")
        assert.strictEqual((yield* raw.await("Accepted", ({ id }) => id === 5)).session, undefined)
        yield* raw.await("Closed", (closed) => closed.session === session)
        // The host has let go of it, and hears nothing of what it still says.
        yield* raw.over
        const { guests, mappings, rejected } = host.stats()
        assert.strictEqual(guests, 1)
        const heard = raw.heard.length
        raw.request(attach(6))
        raw.request(listen(7, 80))
        raw.request({ _tag: "Unmapped", segment: [...raw.segments.keys()][0] })
        // Its peer still has what it has not read.
        const peer = yield* server.accept
        assert.strictEqual(peer.info.state, "transport-closing")
        yield* peer.close
        assert.strictEqual(raw.heard.length, heard)
        assert.deepStrictEqual(host.stats(), { ...host.stats(), guests, mappings, rejected })
      })
    )
  )

  it.live("numbers of what it has not been given, or not any more", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        yield* raw.ask((id) => attach(id))
        yield* raw.ask((id) => listen(id, 80, "application"))
        const [listener] = raw.listeners.keys()
        const connecting = yield* Effect.forkScoped(
          Effect.flatMap(Application.make({ name: "client" }), ({ connect }) => connect(Endpoint.tcp("127.0.0.1", 80)))
        )
        const accepted = yield* raw.ask((id) => ({ _tag: "Accept", id, listener, accepts: false }))
        const { session } = (accepted as Heard<"Accepted">).session!
        const [segment] = raw.segments.keys()
        let count = host.stats().rejected
        const expectRejected = (more: number) => assert.strictEqual(host.stats().rejected, (count += more))
        const invalid = (make: (id: number) => Protocol.Request) =>
          Effect.map(raw.ask(make), (answer) => {
            assert.strictEqual(reasonOf(answer), "InvalidArgument")
            expectRejected(1)
          })

        // Numbers of other things, and of other guests: those are small numbers, too.
        for (const other of [0, -1, listener, segment + 100, session + 1, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
          yield* invalid((id) => ({ _tag: "Approve", id, session: other }))
          raw.request({ _tag: "Close", session: other, reset: true })
          raw.request({ _tag: "HalfClose", session: other })
          yield* raw.sync
          expectRejected(3)
        }
        assert.strictEqual(reasonOf(yield* raw.ask((id) => ({ _tag: "Approve", id, session }))), "Done")
        yield* invalid((id) => ({ _tag: "Approve", id, session }))
        const client = yield* Fiber.join(connecting)

        // A number that is under way already; the first one goes on, and can be taken back.
        raw.request({ _tag: "Accept", id: 7, listener, accepts: true })
        raw.request({ _tag: "Accept", id: 7, listener, accepts: true })
        raw.request({ _tag: "Connect", id: 7, worker: 0, endpoint: "tcp://127.0.0.1:80" })
        yield* raw.sync
        expectRejected(3)
        raw.request({ _tag: "Cancel", request: 7 })
        raw.request({ _tag: "Cancel", request: 7 })
        raw.request({ _tag: "Cancel", request: 1e9 })
        yield* raw.sync
        expectRejected(1)
        assert.deepStrictEqual(raw.heard.filter((message) => "id" in message && message.id === 7).map(reasonOf), [
          "InvalidArgument",
          "InvalidArgument",
          "Closed"
        ])
        for (const worker of [-1, 1, 2 ** 40]) {
          yield* invalid((id) => ({ _tag: "Connect", id, worker, endpoint: "tcp://127.0.0.1:80" }))
          yield* invalid((id) => ({ ...listen(id, 81), worker }) as Protocol.Request)
        }
        for (const endpoint of ["", "127.0.0.1", "tcp://127.0.0.1:99999", "tcp://nowhere:80", huge]) {
          yield* invalid((id) => ({ _tag: "Connect", id, worker: 0, endpoint }))
          yield* invalid((id) => ({ ...listen(id, 81), endpoint }) as Protocol.Request)
        }

        // What is in use is not let go of; what it writes there, it can write anyway.
        raw.request({ _tag: "Unmapped", segment })
        yield* raw.sync
        expectRejected(2)
        yield* client.write(Uint8Array.of(1, 2, 3))
        raw.request({ _tag: "HalfClose", session })
        raw.request({ _tag: "HalfClose", session })
        raw.request({ _tag: "Close", session, reset: false })
        raw.request({ _tag: "Close", session, reset: true })
        raw.request({ _tag: "HalfClose", session })
        yield* raw.sync
        expectRejected(3)
        assert.strictEqual(client.info.state, "transport-closing")
        yield* client.close
        yield* raw.await("SegmentDeleted")
        raw.request({ _tag: "Unmapped", segment })
        raw.request({ _tag: "Unmapped", segment })
        yield* raw.sync
        expectRejected(2)
      })
    )
  )
})

describe("memory that a guest has had before", () => {
  it.live("is sent once while it is kept, and again when it was forgotten; without a ring, each time", () =>
    withRaw((raw) =>
      Effect.gen(function* () {
        const plain = yield* rawGuest
        // Each connection has a segment for itself.
        const sizes = { rxFifoSize: 4096, txFifoSize: 4096, segmentSize: 8192 }
        yield* raw.ask((id) => attach(id, { name: "keeps", ...sizes }))
        yield* plain.ask((id) => attach(id, { name: "keeps nothing", ...sizes }, false))
        const client = yield* Application.make({ name: "client" })
        for (const [guest, port, sent] of [
          [raw, 80, [3, 0, 0, 1]],
          [plain, 81, [3, 1, 2, 3]]
        ] as const) {
          yield* guest.ask((id) => listen(id, port))
          const [listener] = guest.listeners.keys()
          for (const [round, count] of [3, 1, 2, 3].entries()) {
            const from = guest.heard.length
            const heard = <T extends Protocol.Message["_tag"]>(tag: T) =>
              guest.heard.slice(from).filter((message): message is Heard<T> => message._tag === tag)
            for (let i = 0; i < count; i++) {
              const connection = yield* client.connect(Endpoint.tcp("127.0.0.1", port))
              const accepted = yield* guest.ask((id) => ({ _tag: "Accept", id, listener, accepts: true }))
              guest.request({ _tag: "Close", session: (accepted as Heard<"Accepted">).session!.session, reset: true })
              yield* connection.reset
            }
            yield* until(() => heard("SegmentDeleted").length === count)
            for (const { segment } of heard("SegmentDeleted")) guest.request({ _tag: "Unmapped", segment })
            yield* guest.sync
            assert.strictEqual(heard("Segment").length, count)
            assert.strictEqual(
              heard("Segment").filter(({ buffer }) => buffer !== undefined).length,
              sent[round],
              `sent in round ${round} to the one on port ${port}`
            )
          }
          assert.strictEqual(guest.heard.filter(({ _tag }) => _tag === "Forget").length, guest === raw ? 2 : 0)
        }
      })
    )
  )
})

describe("what a guest asks for in numbers", () => {
  it.live("a hundred thousand accepts: as many as may be wait, the others are told so, and all are gone with it", () =>
    withRaw((raw, host) =>
      Effect.gen(function* () {
        const MOST = 65_536
        yield* raw.ask((id) => attach(id))
        yield* raw.ask((id) => listen(id, 80))
        const [listener] = raw.listeners.keys()
        for (let id = 1; id <= 100_000; id++) raw.request({ _tag: "Accept", id, listener, accepts: id % 2 === 0 })
        yield* raw.sync
        const answers = raw.heard.filter((message) => "id" in message && message.id > 0 && message.id <= 100_000)
        assert.strictEqual(answers.length, 100_000 - MOST)
        assert.deepStrictEqual([...new Set(answers.map(reasonOf))], ["QuotaExceeded"])
        // Those that wait are served in their order.
        const { connect } = yield* Application.make({ name: "client" })
        const client = yield* connect(Endpoint.tcp("127.0.0.1", 80))
        yield* raw.await("Accepted", ({ id }) => id === 1)
        yield* client.reset
        assert.strictEqual(host.stats().rejected, 1)
      })
    )
  )

  it.live("subscriptions: as many as may be, and what it does not read makes it refuse, nobody else", () =>
    withRaw((raw) =>
      Effect.gen(function* () {
        const MOST = 64
        yield* raw.ask((id) => attach(id, { name: "hostile", maxPending: 10 }))
        for (let i = 0; i < MOST; i++)
          assert.strictEqual((yield* raw.ask((id) => ({ _tag: "Subscribe", id })))._tag, "Subscribed")
        assert.strictEqual(reasonOf(yield* raw.ask((id) => ({ _tag: "Subscribe", id }))), "QuotaExceeded")
        yield* raw.ask((id) => listen(id, 80))
        const { connect } = yield* Application.make({ name: "client" })
        const outcomes: Array<string> = []
        for (let i = 0; i < 5; i++) {
          const exit = yield* Effect.exit(Effect.scoped(connect(Endpoint.tcp("127.0.0.1", 80))))
          outcomes.push(reasonOfExit(exit))
        }
        assert.deepStrictEqual([outcomes[0], outcomes[4]], ["success", "Refused"])
        for (const subscription of raw.subscriptions) raw.request({ _tag: "Unsubscribe", subscription })
        raw.request({ _tag: "Unsubscribe", subscription: raw.subscriptions[0] })
        yield* raw.sync
      })
    )
  )
})

describe("a guest that never stops talking", () => {
  for (const [how, ring] of [
    ["through its port", false],
    ["through its ring", true]
  ] as const) {
    it.live(`${how}: keeps nobody from his turn`, () =>
      Effect.gen(function* () {
        const MANY = 30_000
        const host = yield* CutThroughHost.CutThroughHost
        const others = yield* bystandersHere
        const raw = yield* rawGuest
        yield* raw.ask((id) => attach(id, undefined, ring))
        yield* others.round
        const before = others.rounds()
        let said = 0
        while (host.stats().rejected < MANY) {
          // As much as a ring takes, and more.
          for (let i = 0; i < 3000 && said < MANY; i++) {
            said++
            raw.say(i % 20 === 0 ? { _tag: "Nonsense" } : { _tag: "Close", session: i, reset: true })
          }
          yield* others.round
        }
        assert.isAbove(others.rounds() - before, 5, "rounds meanwhile")
        assert.strictEqual(host.stats().rejected, MANY)
      }).pipe(Effect.scoped, Effect.provide(layerHost()))
    )
  }
})

// ---------------------------------------------------------------------------
// anything
// ---------------------------------------------------------------------------

const int = (maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Literals(Array.from({ length: maximum + 1 }, (_, value) => value)))

const oneOf = <const A>(values: ReadonlyArray<A>): Arbitrary.Arbitrary<A> =>
  Arbitrary.map(int(values.length - 1), (index) => values[index])

const tags = [
  "Listen",
  "Connect",
  "Connect",
  "Accept",
  "Accept",
  "Approve",
  "Cancel",
  "Close",
  "HalfClose",
  "Unlisten",
  "Unmapped",
  "Subscribe",
  "Next",
  "Unsubscribe",
  "Attach",
  "Detach"
] as const

/** A message: its tag, what its numbers choose from, and what is done to it. */
interface Saying {
  readonly tag: (typeof tags)[number]
  readonly a: number
  readonly b: number
  readonly mutation: number
}

const saying: Arbitrary.Arbitrary<Saying> = Arbitrary.all({
  tag: oneOf(tags),
  a: int(11),
  b: int(11),
  // Most are as they should be.
  mutation: Arbitrary.map(int(20), (n) => Math.max(0, n - 12))
})

const nonsense: ReadonlyArray<unknown> = [
  undefined,
  null,
  "1",
  0.5,
  Number.NaN,
  -1,
  2 ** 40,
  [],
  {},
  true,
  5n,
  circular()
]

/** Takes something out, or puts something in that does not belong there. */
const mutate = (message: object, { a, b, mutation }: Saying): unknown => {
  const fields = Object.entries(message)
  if (mutation === 0) return message
  if (mutation === 1) return nonsense[a]
  const at = b % fields.length
  if (mutation <= 3) return Object.fromEntries(fields.filter((_, i) => i !== at))
  if (mutation <= 6) return Object.fromEntries(fields.map(([key, value], i) => [key, i === at ? nonsense[a] : value]))
  return { ...message, also: nonsense[a], [fields[at][0]]: fields[(at + 1) % fields.length][1] }
}

/** Whether there is an answer to it, sooner or later. */
const isAnswered = (request: Protocol.Request): request is Extract<Protocol.Request, { readonly id: number }> =>
  "id" in request

describe("whatever a guest says", () => {
  it.live.prop(
    "each request is answered once, what makes no sense is counted, nobody else notices, and nothing is left",
    [Arbitrary.array(saying, { minLength: 1 }), int(2)],
    ([sayings, end]) =>
      Effect.gen(function* () {
        const host = yield* CutThroughHost.CutThroughHost
        const others = yield* bystandersHere
        const raw = yield* rawGuest
        const other = yield* rawGuest
        const server = yield* Application.make({ name: "server" })
        const listener = yield* server.listen(Endpoint.tcp("127.0.0.1", 81))
        yield* Effect.forkScoped(listener.run(() => Effect.never))
        yield* Effect.forkScoped(
          Effect.forever(
            Effect.andThen(Effect.ignore(Effect.scoped(server.connect(Endpoint.tcp("127.0.0.1", 80)))), Effect.yieldNow)
          )
        )
        yield* other.ask((id) => attach(id, { name: "other hostile" }))
        yield* other.ask((id) => listen(id, 82))
        yield* other.ask((id) => ({ _tag: "Connect", id, worker: 0, endpoint: "tcp://127.0.0.1:81" }))
        if (sayings[0].a > 2) yield* raw.ask((id) => attach(id, undefined, sayings[0].b % 2 === 0))

        const said = new Map<number, number>()
        const from = raw.heard.length
        const rejectedBefore = host.stats().rejected
        let syncs = 0
        let messages = 0
        const own = (values: Iterable<number>, strange: Iterable<number>, { a, b }: Saying): number => {
          const mine = [...values]
          const theirs = [...strange]
          if (b < 9 && mine.length > 0) return mine[a % mine.length]
          if (b < 10 && theirs.length > 0) return theirs[a % theirs.length]
          return [0, -1, 1, 2, 3, 2 ** 31, Number.MAX_SAFE_INTEGER][a % 7]
        }
        const make = (it: Saying, id: number): Protocol.Request => {
          const { a, b } = it
          const session = () => own(raw.sessions.keys(), other.sessions.keys(), it)
          const listening = () => own(raw.listeners.keys(), other.listeners.keys(), it)
          const subscription = () => own(raw.subscriptions, other.subscriptions, it)
          switch (it.tag) {
            case "Attach":
              return attach(id)
            case "Listen":
              return listen(id, a < 6 ? 80 : a, b % 2 === 0 ? "listener" : "application")
            case "Unlisten":
              return { _tag: "Unlisten", id, listener: listening() }
            case "Connect":
              return {
                _tag: "Connect",
                id,
                worker: a === 11 ? 1 : 0,
                endpoint: `tcp://127.0.0.1:${b < 2 ? b : b < 7 ? 81 : 80}`
              }
            case "Accept":
              return { _tag: "Accept", id, listener: listening(), accepts: a % 2 === 0 }
            case "Approve":
              return { _tag: "Approve", id, session: session() }
            case "Cancel":
              return { _tag: "Cancel", request: a }
            case "Close":
              return { _tag: "Close", session: session(), reset: a % 2 === 0 }
            case "HalfClose":
              return { _tag: "HalfClose", session: session() }
            case "Unmapped":
              return { _tag: "Unmapped", segment: own(raw.segments.keys(), other.segments.keys(), it) }
            case "Subscribe":
              return { _tag: "Subscribe", id }
            case "Next":
              return { _tag: "Next", id, subscription: subscription() }
            case "Unsubscribe":
              return { _tag: "Unsubscribe", subscription: subscription() }
            case "Detach":
              return { _tag: "Detach", id }
          }
        }
        const sync = Effect.suspend(() => {
          syncs++
          return raw.syncOrOver
        })
        for (const [index, it] of sayings.entries()) {
          // It has detached.
          if (raw.isOver) break
          // Few numbers, so that they come again.
          const message = mutate(make(it, index % 12), it)
          messages++
          raw.say(message)
          const decoded = Protocol.decodeRequest(message)
          if (decoded._tag === "Success" && isAnswered(decoded.success)) {
            const { id } = decoded.success
            said.set(id, (said.get(id) ?? 0) + 1)
          }
          if (index % 3 === 0 || it.tag === "Detach") yield* sync
          if (index % 10 === 0) yield* others.round
        }
        // What still waits is taken back; what the guest has detached from has been.
        for (const request of said.keys()) raw.request({ _tag: "Cancel", request })
        yield* sync
        const isAnsweredInFull = () =>
          raw.heard.length - from >= [...said.values()].reduce((sum, count) => sum + count, 0)
        yield* until(() => raw.isOver || isAnsweredInFull())
        const answers = new Map<number, number>()
        let rejections = 0
        for (const message of raw.heard.slice(from)) {
          if (message._tag === "Rejected") rejections++
          else if ("id" in message && message.id > OWN_IDS) answers.set(message.id, (answers.get(message.id) ?? 0) + 1)
        }
        const rejected = host.stats().rejected - rejectedBefore
        assert.isAtMost(rejected, messages + syncs)
        if (raw.isOver) for (const [id, count] of answers) assert.isAtMost(count, said.get(id) ?? 0, `answers to ${id}`)
        else {
          assert.deepStrictEqual([...answers].toSorted(), [...said].toSorted(), "answers by number of request")
          assert.isAtLeast(rejected, rejections + syncs)
        }
        yield* others.round
        if (end === 1 && !raw.isOver) yield* raw.ask((id) => ({ _tag: "Detach", id }))
        if (end < 2) {
          raw.close()
          yield* until(() => host.stats().guests === 2)
        }
        yield* others.round
      }).pipe(Effect.scoped, Effect.provide(layerHost())),
    { arbitrary: { runs: Number(process.env.RUNS ?? 150), size: 60, maxShrinks: 500 }, timeout: 300_000 }
  )
})
