import { Application, type Connection, Endpoint, type SessionError } from "@cut-through/core"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as Sessions from "@cut-through/core/Sessions"
import { Connections, TestNetwork } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Dns from "effect/net/Dns"
import * as NetAddress from "effect/net/NetAddress"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"

const hosts = {
  a: "10.0.0.1",
  b: { addresses: ["10.0.0.2", "fd00::2"], names: ["db.internal", "cache.internal"] },
  c: "10.0.0.3"
}

const at = Endpoint.tcp("10.0.0.2", 7000)

const network = (options: Omit<TestNetwork.Options, "hosts"> = {}) => TestNetwork.layer({ hosts, ...options })

const { on } = TestNetwork

const listen = (endpoint = at) => on("b", Application.listen(endpoint))

const connect = (endpoint = at) => on("a", Application.connect(endpoint))

/** A connection from a to b. Nothing is in between but the latency there may be. */
const pair = (options?: { readonly sizes?: object }) =>
  Effect.gen(function* () {
    const listener = yield* on("b", Application.listen(at), options?.sizes)
    const connecting = yield* Effect.forkChild(on("a", Application.connect(at), options?.sizes))
    yield* TestClock.adjust("1 minute")
    const client = yield* Fiber.join(connecting)
    const server = yield* listener.accept
    return { client, server, listener }
  })

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const bytes = (text: string) => new TextEncoder().encode(text)

const read = (connection: Connection.Connection) => Effect.map(connection.read, text)

const reasonOf = <A>(exit: Exit.Exit<A, SessionError.SessionError | Cause.Done>): string => {
  if (Exit.isSuccess(exit)) return "success"
  const error = Cause.squash(exit.cause) as SessionError.SessionError | Cause.Done
  return error._tag === "Done" ? "Done" : error.reason._tag
}

const failing = <A, R>(effect: Effect.Effect<A, SessionError.SessionError | Cause.Done, R>) =>
  Effect.map(Effect.exit(effect), reasonOf)

/** Runs it in a fiber, and returns what it came to and when, in milliseconds from now. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    return yield* Effect.forkChild(
      Effect.gen(function* () {
        const value = yield* effect
        return { value, millis: (yield* Clock.currentTimeMillis) - start }
      }),
      { startImmediately: true }
    )
  })

const test = (
  name: string,
  options: Omit<TestNetwork.Options, "hosts">,
  program: Effect.Effect<void, unknown, TestNetwork.TestNetwork | Scope.Scope>
) => it.effect(name, () => Effect.provide(Effect.scoped(program), network(options)))

describe("TestNetwork", () => {
  test(
    "without a latency nobody has to turn the clock",
    {},
    Effect.gen(function* () {
      const listener = yield* listen()
      const client = yield* connect()
      const server = yield* listener.accept
      yield* client.write(bytes("hello"))
      assert.strictEqual(yield* read(server), "hello")
      yield* server.write(bytes("world"))
      assert.strictEqual(yield* read(client), "world")
      assert.strictEqual(client.info.path, "tcp")
      assert.strictEqual(Endpoint.format(client.info.remote), "10.0.0.2:7000")
      assert.strictEqual(Endpoint.format(server.info.remote), Endpoint.format(client.info.local))
      assert.strictEqual(NetAddress.formatIp(client.info.local.address), "10.0.0.1")
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    })
  )

  test(
    "applications of one host talk through shared memory, to its own addresses and to loopback",
    { link: { latency: "1 hour" } },
    Effect.gen(function* () {
      for (const endpoint of [at, Endpoint.tcp("127.0.0.1", 7001), Endpoint.tcp("fd00::2", 7002)]) {
        const listener = yield* on("b", Application.listen(endpoint))
        const client = yield* on("b", Application.connect(endpoint))
        const server = yield* listener.accept
        yield* client.write(bytes("hello"))
        assert.strictEqual(yield* read(server), "hello")
        assert.strictEqual(client.info.path, "fiber")
      }
      // Loopback is each host's own.
      assert.strictEqual(yield* failing(connect(Endpoint.tcp("127.0.0.1", 7001))), "NoRoute")
      assert.deepStrictEqual(yield* TestNetwork.history, [])
    })
  )

  test(
    "who listens on every address gets the connects to this host, and not those to others",
    {},
    Effect.gen(function* () {
      const everywhere = Endpoint.tcp("0.0.0.0", 7000)
      yield* on("a", Application.listen(everywhere))
      const listener = yield* listen(everywhere)
      const client = yield* connect()
      const server = yield* listener.accept
      assert.deepStrictEqual(server.info.remote, client.info.local)
      assert.strictEqual((yield* connect(Endpoint.tcp("10.0.0.1", 7000))).info.path, "fiber")
    })
  )

  test(
    "a listener has an address of its host",
    {},
    Effect.gen(function* () {
      assert.strictEqual(yield* failing(on("a", Application.listen(at))), "InvalidArgument")
    })
  )

  test(
    "hosts have names",
    {},
    Effect.gen(function* () {
      for (const name of ["b", "db.internal", "cache.internal"]) {
        assert.strictEqual(Endpoint.format(yield* TestNetwork.endpoint(name, 80)), "10.0.0.2:80")
        const found = yield* on(
          "a",
          Effect.flatMap(Dns.Dns, (dns) => dns.lookup(name))
        )
        assert.deepStrictEqual(found.map(NetAddress.formatIp), ["10.0.0.2", "fd00::2"])
      }
      assert.strictEqual(yield* failing(TestNetwork.endpoint("nobody", 80)), "InvalidArgument")
      assert.strictEqual(yield* failing(on("nobody", Effect.void)), "InvalidArgument")
      assert.strictEqual(yield* failing(TestNetwork.partition("a", "nobody")), "InvalidArgument")
      assert.strictEqual(yield* failing(TestNetwork.partition("a", "a")), "InvalidArgument")
    })
  )

  it.effect("what is no network is refused", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<TestNetwork.Options> = [
        { hosts: { a: "nowhere" } },
        { hosts: { a: "127.0.0.1" } },
        { hosts: { a: "0.0.0.0" } },
        { hosts: { a: { addresses: [] } } },
        { hosts: { a: "10.0.0.1", b: "10.0.0.1" } },
        { hosts: { "not a name": "10.0.0.1" } },
        { hosts, link: { latency: -1 } },
        { hosts, link: { jitter: "Infinity" as never } },
        { hosts, link: { bandwidth: 0 } },
        { hosts, link: { loss: 1 } },
        { hosts, connectTimeout: Infinity }
      ]
      for (const options of wrong) {
        assert.strictEqual(yield* failing(Effect.scoped(TestNetwork.make(options))), "InvalidArgument")
      }
    })
  )

  test(
    "a connect takes a round trip, a byte half of one, each direction its own",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      yield* TestNetwork.setLink("b", "a", { latency: "30 millis", oneWay: true })
      const listener = yield* listen()
      const connecting = yield* timed(connect())
      const accepting = yield* timed(listener.accept)
      yield* TestClock.adjust("1 hour")
      const client = yield* Fiber.join(connecting)
      const server = yield* Fiber.join(accepting)
      assert.strictEqual(client.millis, 40)
      assert.strictEqual(server.millis, 10)
      for (const [from, to, millis] of [
        [client.value, server.value, 10],
        [server.value, client.value, 30]
      ] as const) {
        const reading = yield* timed(read(to))
        yield* from.write(bytes("hello"))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.join(reading), { value: "hello", millis })
      }
    })
  )

  test(
    "a bandwidth is shared by all who send, in the order in which they do",
    { link: { bandwidth: 1000 } },
    Effect.gen(function* () {
      const { client, server, listener } = yield* pair()
      const other = yield* connect()
      const otherServer = yield* listener.accept
      const first = yield* timed(server.readInto(new Uint8Array(10_000)))
      const second = yield* timed(otherServer.readInto(new Uint8Array(10_000)))
      yield* client.write(new Uint8Array(1000))
      yield* other.write(new Uint8Array(500))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(first), { value: 1000, millis: 1000 })
      assert.deepStrictEqual(yield* Fiber.join(second), { value: 500, millis: 1500 })
      yield* TestNetwork.setLink("a", "b", { bandwidth: Infinity })
      yield* client.write(new Uint8Array(1000))
      assert.strictEqual(yield* server.readInto(new Uint8Array(10_000)), 1000)
    })
  )

  test(
    "bytes come once and in order, whatever jitter, loss and slow readers do",
    { link: { latency: "5 millis", jitter: "50 millis", loss: 0.2, bandwidth: "1 MiB" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair({ sizes: { rxFifoSize: 4096, txFifoSize: 4096 } })
      const sent = new Uint8Array(100_000)
      for (let i = 0; i < sent.length; i++) sent[i] = (i * 31 + (i >>> 8)) & 0xff
      const reading = yield* Effect.forkChild(
        Effect.map(Stream.runCollect(server.stream), (chunks) => Buffer.concat([...chunks]))
      )
      const writing = yield* Effect.forkChild(Effect.andThen(client.write(sent), client.end))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(writing)
      assert.isTrue(Buffer.from(sent).equals(yield* Fiber.join(reading)))
    })
  )

  it.effect("jitter and loss are the same for the same seed", () =>
    Effect.gen(function* () {
      const program = (seed: number) =>
        Effect.gen(function* () {
          const { client, server } = yield* pair()
          for (let i = 0; i < 20; i++) {
            yield* client.write(bytes("hello"))
            yield* TestClock.adjust("1 minute")
            yield* server.read
          }
          return (yield* TestNetwork.history).map(({ at, what }) => `${at} ${what}`)
        }).pipe(
          Effect.scoped,
          Effect.provide(network({ seed, link: { jitter: "1 second", loss: 0.3 } })),
          Effect.provide(TestClock.layer(), { local: true })
        )
      const histories = [yield* program(1), yield* program(1), yield* program(2)]
      assert.isAbove(histories[0].length, 20)
      assert.deepStrictEqual(histories[0], histories[1])
      assert.notDeepEqual(histories[0], histories[2])
    })
  )

  test(
    "a writer waits when nobody reads, and goes on when somebody does",
    {},
    Effect.gen(function* () {
      const { client, server } = yield* pair({ sizes: { rxFifoSize: 4096, txFifoSize: 4096 } })
      let written = 0
      const writing = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 16 }),
          () => Effect.tap(client.write(new Uint8Array(1024)), () => Effect.sync(() => written++)),
          { discard: true }
        )
      )
      yield* TestClock.adjust("1 hour")
      // What both sides have room for.
      assert.strictEqual(written, 8)
      assert.deepStrictEqual(server.info.rx, { used: 4096, size: 4096 })
      let got = 0
      while (got < 16 * 1024) got += (yield* server.read).length
      yield* Fiber.join(writing)
      assert.strictEqual(written, 16)
    })
  )

  test(
    "one byte at a time through FIFOs of one byte",
    {},
    Effect.gen(function* () {
      const { client, server } = yield* pair({ sizes: { rxFifoSize: 1, txFifoSize: 1 } })
      const writing = yield* Effect.forkChild(Effect.andThen(client.write(bytes("hello")), client.end))
      const got = yield* Stream.runCollect(server.stream)
      assert.strictEqual(text(Buffer.concat([...got])), "hello")
      yield* Fiber.join(writing)
    })
  )

  test(
    "one side ends, the other goes on",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("question"))
      yield* client.end
      yield* TestClock.adjust("10 millis")
      assert.strictEqual(yield* read(server), "question")
      assert.strictEqual(yield* failing(server.read), "Done")
      assert.strictEqual(yield* failing(client.write(bytes("more"))), "BrokenPipe")
      yield* server.write(bytes("answer"))
      yield* server.end
      yield* TestClock.adjust("10 millis")
      assert.strictEqual(yield* read(client), "answer")
      assert.strictEqual(yield* failing(client.read), "Done")
    })
  )

  test(
    "closing returns at once, and what was written arrives",
    { link: { latency: "10 millis", bandwidth: 1000 } },
    Effect.gen(function* () {
      const { client, server } = yield* pair({ sizes: { rxFifoSize: 4096, txFifoSize: 4096 } })
      const sizes: Array<number> = []
      const reading = yield* Effect.forkChild(
        Stream.runForEach(server.stream, (chunk) => Effect.sync(() => sizes.push(chunk.length)))
      )
      const closing = Effect.andThen(client.write(new Uint8Array(6000)), client.close)
      const { millis } = yield* Fiber.join(yield* timed(closing))
      assert.strictEqual(millis, 0)
      assert.strictEqual(client.info.state, "closed")
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(reading)
      assert.strictEqual(
        sizes.reduce((sum, size) => sum + size),
        6000
      )
      yield* server.close
      const { hosts, onWay } = yield* TestNetwork.TestNetwork
      yield* TestClock.adjust("1 hour")
      for (const { connections } of hosts.values()) assert.strictEqual(connections(), 0)
      assert.strictEqual(onWay(), 0)
    })
  )

  test(
    "closing with bytes unread is a reset",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("unread"))
      yield* TestClock.adjust("10 millis")
      yield* server.close
      const reading = yield* timed(failing(client.read))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "Reset", millis: 10 })
      assert.strictEqual(yield* failing(client.write(bytes("more"))), "Reset")
    })
  )

  test(
    "who writes to a closed peer is told after a round trip",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* server.close
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* failing(client.read), "Done")
      assert.strictEqual(yield* failing(client.write(bytes("late"))), "success")
      yield* TestClock.adjust("19 millis")
      assert.strictEqual(yield* failing(client.write(bytes("later"))), "success")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* failing(client.write(bytes("too late"))), "Reset")
    })
  )

  test(
    "a reset comes behind what was written, and loses what was not read",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("first"))
      yield* client.reset
      const reading = yield* timed(failing(server.read))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "Reset", millis: 10 })
      assert.deepStrictEqual(
        (yield* TestNetwork.history).slice(-2).map(({ what }) => what.split(" 10.")[0]),
        ["5 bytes", "reset"]
      )
    })
  )

  test(
    "where nobody listens a connect is refused, where no host is there is no route",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const refused = yield* timed(Effect.flip(connect()))
      yield* TestClock.adjust("1 hour")
      const { millis, value } = yield* Fiber.join(refused)
      assert.strictEqual(millis, 20)
      assert.strictEqual(value.message, "10.0.0.2:7000 refused the connection: nobody listens there. Try again later")
      assert.strictEqual(yield* failing(connect(Endpoint.tcp("10.0.0.99", 7000))), "NoRoute")
      assert.strictEqual(yield* failing(connect(Endpoint.tcp("fd00::2", 7000))), "NoRoute")
      const local = on("a", Application.connect(at), { scope: "local" })
      assert.strictEqual(yield* failing(local), "Scope")
      const sessions = yield* on("a", SessionLayer)
      assert.strictEqual(sessions.counters.connects, 4)
      assert.deepStrictEqual(Object.fromEntries(sessions.counters.failed), { Refused: 1, NoRoute: 2, Scope: 1 })
    })
  )

  test(
    "a full backlog refuses",
    {},
    Effect.gen(function* () {
      const listener = yield* on("b", Application.listen(at, { backlog: 1 }))
      const first = yield* connect()
      assert.strictEqual(yield* failing(connect()), "Refused")
      const server = yield* listener.accept
      assert.deepStrictEqual(server.info.remote, first.info.local)
      yield* connect()
    })
  )

  test(
    "the application says yes or no",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const listener = yield* on("b", Application.listen(at, { approval: "application" }))
      const yes = yield* timed(connect())
      const no = yield* timed(failing(connect()))
      yield* TestClock.adjust("1 second")
      const first = yield* listener.request
      const second = yield* listener.request
      const server = yield* first.accept
      yield* second.refuse
      yield* TestClock.adjust("1 second")
      const client = yield* Fiber.join(yes)
      assert.strictEqual(client.millis, 1010)
      assert.deepStrictEqual(yield* Fiber.join(no), { value: "Refused", millis: 1010 })
      assert.deepStrictEqual(server.info.remote, client.value.info.local)
    })
  )

  test(
    "a client that gives up is gone at the server, too",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const listener = yield* on("b", Application.listen(at, { approval: "application" }))
      const connecting = yield* Effect.forkChild(connect())
      yield* TestClock.adjust("1 second")
      const request = yield* listener.request
      yield* Fiber.interrupt(connecting)
      yield* TestClock.adjust("9 millis")
      const sessions = yield* on("b", Sessions.list)
      assert.strictEqual(sessions.filter(({ kind }) => kind === "session").length, 1)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* failing(request.accept), "Reset")
      yield* request.refuse
    })
  )

  test(
    "an answer that comes too late is no connection",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const listener = yield* listen()
      const connecting = yield* Effect.forkChild(connect(), { startImmediately: true })
      yield* TestClock.adjust("15 millis")
      yield* Fiber.interrupt(connecting)
      const server = yield* listener.accept
      const reading = yield* timed(failing(server.read))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "Reset", millis: 10 })
    })
  )

  test(
    "nobody answers from behind a cut: a connect times out, and the listener never hears of it",
    { link: { latency: "10 millis" }, connectTimeout: "20 seconds" },
    Effect.gen(function* () {
      const listener = yield* listen()
      yield* TestNetwork.partition("a", "b")
      const connecting = yield* timed(failing(connect()))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.join(connecting), { value: "TimedOut", millis: 20_000 })
      yield* TestNetwork.repair("a", "b")
      yield* TestClock.adjust("1 hour")
      const accepting = yield* Effect.forkChild(listener.accept, { startImmediately: true })
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(accepting.pollUnsafe())
    })
  )

  test(
    "a connect through a cut that is mended in time succeeds",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      yield* listen()
      yield* TestNetwork.partition("a", "b")
      const connecting = yield* timed(connect())
      yield* TestClock.adjust("1 minute")
      yield* TestNetwork.repair("a", "b")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(connecting)).millis, 60_020)
    })
  )

  test(
    "what a cut has lost is sent again when it is mended, and what was sent meanwhile comes behind it",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("on its way, "))
      yield* TestClock.adjust("5 millis")
      yield* TestNetwork.partition("a", "b")
      assert.strictEqual((yield* TestNetwork.TestNetwork).getState("a", "b"), "cut")
      yield* client.write(bytes("sent into the cut, "))
      yield* client.close
      const reading = yield* timed(Stream.runCollect(server.stream))
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(reading.pollUnsafe())
      yield* TestNetwork.repair("a", "b")
      yield* TestClock.adjust("1 minute")
      const { millis, value } = yield* Fiber.join(reading)
      assert.strictEqual(text(Buffer.concat([...value])), "on its way, sent into the cut, ")
      assert.strictEqual(millis, 60_010)
    })
  )

  test(
    "a cut in one direction",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* TestNetwork.partition("b", "a", { oneWay: true })
      yield* client.write(bytes("there"))
      yield* server.write(bytes("back"))
      const reading = yield* timed(read(client))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* read(server), "there")
      assert.isUndefined(reading.pollUnsafe())
      yield* TestNetwork.repair("b", "a", { oneWay: true })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "back", millis: 60_010 })
    })
  )

  test(
    "bytes that cannot be sent for too long break the connection, silence does not",
    { giveUpAfter: "5 minutes" },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* TestNetwork.partition("a", "b")
      yield* TestClock.adjust("30 days")
      const reading = yield* timed(failing(client.read))
      yield* client.write(bytes("hello"))
      yield* TestClock.adjust("30 days")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "Reset", millis: 300_000 })
      // The other side has noticed nothing, until it says something.
      yield* TestNetwork.repair("a", "b")
      assert.strictEqual(server.info.state, "ready")
      assert.strictEqual(yield* failing(server.write(bytes("still there?"))), "success")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* failing(server.read), "Reset")
    })
  )

  test(
    "a reset into a cut is lost, and who is left learns of it when it ends its stream",
    {},
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* TestNetwork.partition("a", "b")
      yield* client.reset
      yield* TestNetwork.repair("a", "b")
      yield* TestClock.adjust("1 hour")
      const reading = yield* Effect.forkChild(failing(server.read), { startImmediately: true })
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(reading.pollUnsafe())
      yield* server.end
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(reading), "Reset")
    })
  )

  test(
    "what is held comes when it is let go, in order, and nothing is lost, not even a reset",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("one "))
      yield* TestClock.adjust("5 millis")
      yield* TestNetwork.hold("a", "b")
      yield* client.write(bytes("two"))
      const reading = yield* timed(read(server))
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(reading.pollUnsafe())
      assert.strictEqual((yield* TestNetwork.TestNetwork).onWay(), 2)
      yield* TestNetwork.release("a", "b")
      assert.strictEqual((yield* Fiber.join(reading)).value, "one two")
      yield* TestNetwork.hold("a", "b")
      yield* client.reset
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(server.info.state, "ready")
      yield* TestNetwork.release("a", "b")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* failing(server.read), "Reset")
    })
  )

  test(
    "a million seconds cost none",
    { link: { latency: "250 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* Effect.forkScoped(Stream.run(server.stream, server.sink))
      const talking = yield* timed(
        Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.delay(Effect.andThen(client.write(bytes("ping")), client.read), "999500 millis"),
          { discard: true }
        )
      )
      const start = performance.now()
      yield* TestClock.adjust("1000000 seconds")
      assert.strictEqual((yield* Fiber.join(talking)).millis, 1_000_000_000)
      // Not how fast it is, only that nothing waits for real time.
      assert.isBelow(performance.now() - start, 30_000)
    })
  )

  test(
    "an application that detaches frees its endpoints at once, and ends its connections",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(listen(), scope)
      const connecting = yield* Effect.forkChild(connect(), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      const client = yield* Fiber.join(connecting)
      yield* Scope.provide(listener.accept, scope)
      const waiting = yield* Effect.forkChild(failing(client.read), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      yield* listen()
      yield* TestClock.adjust("10 millis")
      // The connection was the scope's, and it has ended well.
      assert.strictEqual(yield* Fiber.join(waiting), "Done")
    })
  )

  test(
    "connects under way are given up when their application detaches",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      yield* listen()
      const scope = yield* Scope.make()
      const application = yield* Scope.provide(on("a", Application.Application), scope)
      const connecting = yield* Effect.forkChild(failing(application.connect(at)), { startImmediately: true })
      yield* TestClock.adjust("15 millis")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Fiber.join(connecting), "Closed")
      yield* TestClock.adjust("1 minute")
    })
  )

  test(
    "what an application is told of a connection over the network",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const told: Array<string> = []
      const listening = yield* Deferred.make<void>()
      yield* Effect.forkScoped(
        on(
          "b",
          Effect.gen(function* () {
            const application = yield* Application.Application
            const listener = yield* application.listen(at)
            yield* Effect.forkScoped(
              listener.run((connection) => Effect.ignore(Stream.run(connection.stream, connection.sink)))
            )
            yield* Effect.forkScoped(
              Stream.runForEach(application.events, (event) => Effect.sync(() => told.push(event._tag))),
              { startImmediately: true }
            )
            yield* Deferred.succeed(listening, undefined)
            yield* Effect.never
          })
        )
      )
      yield* Deferred.await(listening)
      const connecting = yield* Effect.forkChild(connect(), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      yield* (yield* Fiber.join(connecting)).close
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(told, [
        "SegmentAdded",
        "Accepted",
        "Disconnected",
        "CleanupTransport",
        "CleanupSession",
        "SegmentDeleted"
      ])
    })
  )

  test(
    "listings show where a connection leads",
    {},
    Effect.gen(function* () {
      const { client } = yield* pair()
      const listing = yield* on("a", Sessions.format)
      assert.include(listing, `[SIM:T] ${Endpoint.format(client.info.local)}->10.0.0.2:7000`)
    })
  )

  test(
    "session rules of the client's host hold on the way to others",
    {},
    Effect.gen(function* () {
      const listener = yield* listen()
      const sessions = yield* on("a", SessionLayer)
      const own = yield* on("a", Application.listen(Endpoint.tcp("127.0.0.1", 7001)))
      const rule = sessions.global.rules.add({ remote: "10.0.0.2", action: "drop" })
      assert.strictEqual(yield* failing(connect()), "Filtered")
      sessions.global.rules.remove(rule)
      const redirect = sessions.global.rules.add({ remote: "10.0.0.2", action: { redirect: own.handle } })
      assert.strictEqual((yield* connect()).info.path, "fiber")
      assert.strictEqual(redirect.hits, 1)
      sessions.global.rules.remove(redirect)
      assert.strictEqual((yield* connect()).info.path, "tcp")
      yield* listener.accept
    })
  )

  test(
    "sizes that FIFOs have are the application's own, on both sides",
    {},
    Effect.gen(function* () {
      const listener = yield* on("b", Application.listen(at), { rxFifoSize: 1000, txFifoSize: 2000 })
      const client = yield* on("a", Application.connect(at), { rxFifoSize: 3000, txFifoSize: 4000 })
      const server = yield* listener.accept
      assert.deepStrictEqual([server.info.rx.size, server.info.tx.size], [1000, 2000])
      assert.deepStrictEqual([client.info.rx.size, client.info.tx.size], [3000, 4000])
    })
  )

  test(
    "a host that is killed breaks off, and is as good as new for those who come then",
    { link: { latency: "10 millis" } },
    Effect.gen(function* () {
      const { client, server } = yield* pair()
      yield* client.write(bytes("said"))
      yield* TestNetwork.kill("b")
      // Whatever its program still tries comes to nothing.
      assert.strictEqual(yield* failing(server.write(bytes("farewell"))), "Closed")
      const reading = yield* timed(failing(client.read))
      const refused = yield* timed(failing(connect()))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(reading), { value: "Reset", millis: 10 })
      assert.deepStrictEqual(yield* Fiber.join(refused), { value: "Refused", millis: 20 })
      const listener = yield* listen()
      const connecting = yield* Effect.forkChild(connect())
      yield* TestClock.adjust("1 minute")
      yield* listener.accept
      yield* Fiber.join(connecting)
    })
  )

  test(
    "applications of a killed host can do nothing more, and others go on",
    {},
    Effect.gen(function* () {
      const application = yield* on("b", Application.Application)
      const listener = yield* application.listen(Endpoint.tcp("10.0.0.2", 7001))
      const accepting = yield* Effect.forkChild(failing(listener.accept), { startImmediately: true })
      const { client, server } = yield* Connections.connectedPairBetween("a", "c")
      yield* TestNetwork.kill("b")
      yield* TestNetwork.kill("b")
      assert.strictEqual(yield* Fiber.join(accepting), "Closed")
      assert.strictEqual(yield* failing(application.connect(Endpoint.tcp("10.0.0.3", 7000))), "Closed")
      assert.strictEqual(yield* failing(application.listen(at)), "Closed")
      yield* client.write(bytes("hello"))
      assert.strictEqual(yield* read(server), "hello")
    })
  )

  test(
    "of a host without power nobody hears",
    { giveUpAfter: "1 minute" },
    Effect.gen(function* () {
      const { client } = yield* pair()
      yield* TestNetwork.partition("a", "b")
      yield* TestNetwork.kill("b")
      const reading = yield* timed(failing(client.read))
      yield* TestClock.adjust("1 day")
      assert.isUndefined(reading.pollUnsafe())
      const writing = yield* timed(client.write(bytes("are you there?")))
      yield* TestClock.adjust("1 day")
      yield* Fiber.join(writing)
      assert.strictEqual((yield* Fiber.join(reading)).value, "Reset")
      assert.strictEqual(yield* failing(TestNetwork.kill("nowhere")), "InvalidArgument")
    })
  )

  it.effect("a host where something is left fails the test", () =>
    Effect.gen(function* () {
      const forgotten = yield* Scope.make()
      const exit = yield* Effect.exit(
        Effect.gen(function* () {
          yield* listen()
          yield* Scope.provide(connect(), forgotten)
        }).pipe(Effect.scoped, Effect.provide(network()))
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "left over: 1 sessions")
      yield* Scope.close(forgotten, Exit.void)
    })
  )
})
