import { Application, Endpoint } from "@cut-through/core"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Exit, Fiber, Option, Stream, Tracer } from "effect"
import { pattern, reasonOf } from "../fixtures.ts"
import { connectThrough, families, twoApps } from "./dataFixtures.ts"

/** A tracer that keeps its spans, in the order in which they began. */
const recorder = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span(options) {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  const named = (name: string) => spans.filter((span) => span.name === `cut-through.${name}`)
  return { spans, tracer, named }
}

const attributesOf = (span: Tracer.Span) => Object.fromEntries(span.attributes)

const exitOf = (span: Tracer.Span) =>
  span.status._tag === "Ended" ? reasonOf(span.status.exit as Exit.Exit<unknown, unknown>) : "under way"

const parentOf = (span: Tracer.Span) =>
  Option.match(span.parent, { onNone: () => "none", onSome: (parent) => (parent._tag === "Span" ? parent.name : "") })

/** The life of a connection: five spans. */
const life = Effect.gen(function* () {
  const { client, server } = yield* twoApps()
  const listener = yield* server.listen(families.v4)
  const pair = yield* connectThrough(client, listener)
  yield* pair.client.write(pattern(3))
  yield* pair.server.read
  yield* pair.client.close
  yield* pair.server.reset
  return pair
})

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

describe("with a tracer", () => {
  it.effect("listen, connect, accept and close are spans that say what they are about", () => {
    const { spans, tracer } = recorder()
    return Effect.gen(function* () {
      const { client } = yield* life
      assert.deepStrictEqual(
        spans.map((span) => [span.name, attributesOf(span), exitOf(span), parentOf(span)]),
        [
          ["cut-through.listen", { "cut-through.endpoint": "127.0.0.1:7000" }, "success", "none"],
          ["cut-through.connect", { "cut-through.endpoint": "127.0.0.1:7000" }, "success", "none"],
          ["cut-through.accept", { "cut-through.listener": "127.0.0.1:7000" }, "success", "none"],
          [
            "cut-through.close",
            { "cut-through.session": `[1:1][CT:T] ${Endpoint.format(client.info.local)}->127.0.0.1:7000` },
            "success",
            "none"
          ],
          [
            "cut-through.close",
            { "cut-through.session": `[1:0][CT:T] 127.0.0.1:7000->${Endpoint.format(client.info.local)}` },
            "success",
            "none"
          ]
        ]
      )
    }).pipe(Effect.scoped, Effect.withTracer(tracer), Effect.provide(Leaks.layerSessions()))
  })

  it.effect("they are children of the span they happen in", () => {
    const { spans, tracer } = recorder()
    return Effect.gen(function* () {
      yield* Effect.withSpan(Effect.scoped(life), "outer")
      const [outer, ...inner] = spans
      assert.strictEqual(outer.name, "outer")
      assert.strictEqual(inner.length, 5)
      for (const span of inner) {
        assert.strictEqual(parentOf(span), "outer", span.name)
        assert.strictEqual(span.traceId, outer.traceId)
        assert.strictEqual(span.status._tag, "Ended", span.name)
      }
    }).pipe(Effect.withTracer(tracer), Effect.provide(Leaks.layerSessions()))
  })

  it.effect("the end of a scope closes in a span, too", () => {
    const { named, tracer } = recorder()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v6)
      yield* Effect.withSpan(Effect.scoped(client.connect(listener.address)), "request")
      assert.deepStrictEqual(named("close").map(parentOf), ["request"])
      assert.match(String(attributesOf(named("close")[0])["cut-through.session"]), /\[::1\]:\d+->\[::1\]:7000$/)
    }).pipe(Effect.scoped, Effect.withTracer(tracer), Effect.provide(Leaks.layerSessions()))
  })

  it.effect("a span lasts as long as what it is about, and says how it ended", () => {
    const { named, tracer } = recorder()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4, { approval: "application" })
      const taken = yield* Effect.exit(server.listen(families.v4))
      assert.deepStrictEqual(
        [reasonOf(taken), named("listen").map(exitOf)],
        ["AlreadyListening", ["success", "AlreadyListening"]]
      )

      const accepting = yield* fork(listener.accept)
      assert.deepStrictEqual(named("accept").map(exitOf), ["under way"])
      const first = yield* fork(client.connect(listener.address))
      yield* Fiber.joinAll([accepting, first])
      assert.deepStrictEqual([named("accept"), named("connect")].flat().map(exitOf), ["success", "success"])

      const refused = yield* fork(Effect.exit(client.connect(listener.address)))
      assert.strictEqual(exitOf(named("connect")[1]), "under way")
      const request = yield* listener.request
      assert.strictEqual(exitOf(named("connect")[1]), "under way")
      yield* request.refuse
      yield* Fiber.join(refused)
      assert.strictEqual(exitOf(named("connect")[1]), "Refused")

      const cancelled = yield* fork(client.connect(listener.address))
      yield* Fiber.interrupt(cancelled)
      const nobody = yield* fork(listener.accept)
      yield* Fiber.interrupt(nobody)
      assert.strictEqual(exitOf(named("connect")[2]), "Interrupt")
      assert.strictEqual(exitOf(named("accept").at(-1)!), "Interrupt")

      yield* Effect.exit(client.connect(Endpoint.tcp("127.0.0.1", 9)))
      assert.strictEqual(exitOf(named("connect")[3]), "NoRoute")
    }).pipe(Effect.scoped, Effect.withTracer(tracer), Effect.provide(Leaks.layerSessions()))
  })

  it.effect("a server that runs has a span for each connection it takes, and one for each it closes", () => {
    const { named, tracer } = recorder()
    return Effect.gen(function* () {
      const { client, server } = yield* twoApps()
      const listener = yield* server.listen(families.v4)
      const serving = listener.run((connection) => Stream.run(connection.stream, connection.sink))
      yield* Effect.withSpan(serving, "serving").pipe(fork)
      for (let n = 0; n < 3; n++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* client.connect(listener.address)
            yield* connection.write(pattern(10))
            yield* connection.read
          })
        )
      }
      const accepts = named("accept")
      assert.deepStrictEqual(
        accepts.map(parentOf),
        accepts.map(() => "serving")
      )
      assert.deepStrictEqual(accepts.map(exitOf), ["success", "success", "success", "under way"])
      while (named("close").length < 6) yield* Effect.yieldNow
      const [{ traceId }] = accepts
      const ofServer = named("close").filter((span) => span.traceId === traceId)
      assert.strictEqual(ofServer.length, 3, "what a handler does is no part of what it serves")
      assert.deepStrictEqual(ofServer.map(exitOf), ["success", "success", "success"])
    }).pipe(Effect.scoped, Effect.withTracer(tracer), Effect.provide(Leaks.layerSessions()))
  })

  it.effect("what is traced does the same", () => {
    const { tracer } = recorder()
    return Effect.gen(function* () {
      const talk = Effect.gen(function* () {
        const listener = yield* Application.listen(families.v4)
        const ends = yield* connectThrough(yield* Application.Application, listener)
        yield* ends.client.write(pattern(100))
        yield* ends.client.close
        const bytes = yield* ends.server.read
        return [bytes.length, reasonOf(yield* Effect.exit(ends.server.read))] as const
      }).pipe(Effect.scoped)
      const plain = yield* talk
      assert.deepStrictEqual(yield* Effect.withTracer(talk, tracer), plain)
    }).pipe(Effect.provide(Leaks.layerTest))
  })
})

describe("without a tracer of the program's own", () => {
  /** Spans that the default tracer makes meanwhile. There is only one of it: nobody else may use it then. */
  const byDefault = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.suspend(() => {
      const { nativeTracer } = Tracer
      const { span } = nativeTracer
      const names: Array<string> = []
      nativeTracer.span = (options) => {
        names.push(options.name)
        return span.call(nativeTracer, options)
      }
      return Effect.as(effect, names).pipe(Effect.ensuring(Effect.sync(() => void (nativeTracer.span = span))))
    })

  const program = Effect.scoped(life).pipe(Effect.provide(Leaks.layerSessions()))

  it.effect("no span is made that nobody would see", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* byDefault(program), [])
    })
  )

  it.effect("within a span of the program's there are spans", () =>
    Effect.gen(function* () {
      const names = yield* byDefault(Effect.withSpan(program, "outer"))
      assert.deepStrictEqual(names, [
        "outer",
        "cut-through.listen",
        "cut-through.connect",
        "cut-through.accept",
        "cut-through.close",
        "cut-through.close"
      ])
    })
  )
})
