import * as Trace from "@cut-through/core/runtime/Trace"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { SteppingScheduler } from "./stepping.ts"

/** A tracer of the program's own, which keeps its spans. */
const recorder = () => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span(options) {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, tracer }
}

type Register<A, E> = Parameters<typeof Trace.callback<A, E>>[2]

const spanOf = (fiber: Fiber.Fiber<unknown, unknown>): Tracer.Span | undefined => {
  const span = Context.getOrUndefined(fiber.context, Tracer.ParentSpan)
  return span?._tag === "Span" ? span : undefined
}

const attributes = { place: "here", size: 7 }

/** What watches, and the name of the span around it. */
const watchers: {
  readonly [Watcher in string]: readonly [
    outer: string | undefined,
    watch: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  ]
} = {
  "a span around it": ["outer", (effect) => Effect.withSpan(effect, "outer")],
  "a tracer of the program's": [undefined, (effect) => Effect.withTracer(effect, recorder().tracer)],
  both: ["outer", (effect) => Effect.withTracer(Effect.withSpan(effect, "outer"), recorder().tracer)]
}

/** How it has ended, without where. */
const summary = (exit: Exit.Exit<unknown, unknown>): ReadonlyArray<unknown> =>
  Exit.isSuccess(exit)
    ? [exit._tag, exit.value]
    : exit.cause.reasons.flatMap((reason) => [reason._tag, Cause.squash(Cause.fromReasons([reason]))])

describe("Trace", () => {
  describe("where nobody watches", () => {
    it.effect("there is no span, and nobody is asked for its attributes", () =>
      Effect.gen(function* () {
        const inside = yield* Trace.callback<Tracer.Span | undefined, never>(
          "inner",
          () => assert.fail("asked for attributes"),
          (resume, fiber) => {
            assert.isFalse(Trace.isWatched(fiber))
            resume(Exit.succeed(spanOf(fiber)))
          }
        )
        assert.isUndefined(inside)
      })
    )

    it.effect("the fiber is the one that runs it, with its services", () =>
      Effect.gen(function* () {
        const scope = yield* Effect.scope
        const current = yield* Effect.withFiber((fiber) => Effect.succeed(fiber))
        yield* Trace.callback<void, never>(
          "inner",
          () => ({}),
          (resume, fiber) => {
            assert.strictEqual(fiber, current)
            assert.strictEqual(Context.getUnsafe(fiber.context as Context.Context<Scope.Scope>, Scope.Scope), scope)
            resume(Exit.void)
          }
        )
      }).pipe(Effect.scoped)
    )
  })

  describe("isWatched", () => {
    const isWatched = Effect.withFiber((fiber) => Effect.succeed(Trace.isWatched(fiber)))

    it.effect("is false by default, and where a span has ended", () =>
      Effect.gen(function* () {
        assert.isFalse(yield* isWatched)
        yield* Effect.withSpan(Effect.void, "over")
        assert.isFalse(yield* isWatched)
      })
    )

    it.effect("is true in a span, in its children, and in one from elsewhere", () =>
      Effect.gen(function* () {
        assert.isTrue(yield* Effect.withSpan(isWatched, "outer"))
        const child = Effect.flatMap(Effect.forkChild(isWatched), Fiber.join)
        assert.isTrue(yield* Effect.withSpan(child, "outer"))
        const external = Tracer.externalSpan({ spanId: "1", traceId: "2" })
        assert.isTrue(yield* Effect.withParentSpan(isWatched, external))
      })
    )

    it.effect("is true with a tracer of the program's", () =>
      Effect.gen(function* () {
        assert.isTrue(yield* Effect.withTracer(isWatched, recorder().tracer))
      })
    )
  })

  for (const [watcher, [outer, watch]] of Object.entries(watchers)) {
    describe(`where ${watcher} watches`, () => {
      /** An effect, and the spans in which its callback was called. */
      const traced = <A, E>(register: Register<A, E>) => {
        const spans: Array<Tracer.Span> = []
        const effect = Trace.callback<A, E>(
          "inner",
          () => attributes,
          (resume, fiber) => {
            spans.push(spanOf(fiber) ?? assert.fail("there is no span"))
            return register(resume, fiber)
          }
        )
        return [watch(effect), spans] as const
      }

      it.effect("there is one span, with its name and attributes, and it is the fiber's", () =>
        Effect.gen(function* () {
          const [effect, spans] = traced<string, never>((resume, fiber) => {
            assert.isTrue(Trace.isWatched(fiber))
            resume(Exit.succeed("answer"))
          })
          assert.strictEqual(yield* effect, "answer")
          assert.strictEqual(spans.length, 1)
          const [span] = spans
          assert.strictEqual(span.name, "inner")
          assert.deepStrictEqual(Object.fromEntries(span.attributes), attributes)
          const parent = Option.getOrUndefined(span.parent)
          assert.strictEqual(parent?._tag === "Span" ? parent.name : undefined, outer)
        })
      )

      it.effect("the fiber is the one that runs it, with its services", () =>
        Effect.gen(function* () {
          const scope = yield* Effect.scope
          const current = yield* Effect.withFiber((fiber) => Effect.succeed(fiber))
          const [effect] = traced<void, never>((resume, fiber) => {
            assert.strictEqual(fiber, current)
            const context = fiber.context as Context.Context<Scope.Scope>
            assert.strictEqual(Context.getUnsafe(context, Scope.Scope), scope)
            resume(Exit.void)
          })
          yield* effect
        }).pipe(Effect.scoped)
      )

      it.effect("the span ends as the callback does", () =>
        Effect.gen(function* () {
          for (const exit of [Exit.succeed(1), Exit.fail("broken"), Exit.die("a defect")]) {
            const [effect, spans] = traced<number, string>((resume) => resume(exit))
            assert.deepStrictEqual(summary(yield* Effect.exit(effect)), summary(exit))
            const { status } = spans[0]
            assert.deepStrictEqual(status._tag === "Ended" ? summary(status.exit) : status._tag, summary(exit))
          }
        })
      )

      it("the span lasts until the answer comes", () => {
        const scheduler = new SteppingScheduler()
        const answers: Array<(exit: Exit.Exit<string, never>) => void> = []
        const [effect, spans] = traced<string, never>((resume) => void answers.push(resume))
        const fiber = Effect.runFork(effect, { scheduler })
        scheduler.runAll()
        assert.strictEqual(spans[0].status._tag, "Started")
        assert.isUndefined(fiber.pollUnsafe())
        answers[0](Exit.succeed("late"))
        scheduler.runAll()
        assert.strictEqual(spans[0].status._tag, "Ended")
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed("late"))
      })

      it.effect("interrupted, it takes back what it has asked for, and the span ends so", () =>
        Effect.gen(function* () {
          let takenBack = 0
          const [effect, spans] = traced<never, never>(() => Effect.sync(() => void takenBack++))
          const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
          assert.isUndefined(fiber.pollUnsafe())
          yield* Fiber.interrupt(fiber)
          assert.strictEqual(takenBack, 1)
          const { status } = spans[0]
          assert.deepStrictEqual(status._tag === "Ended" ? summary(status.exit)[0] : status._tag, "Interrupt")
        })
      )
    })
  }

  it.effect("a tracer sees one span for each", () =>
    Effect.gen(function* () {
      const { spans, tracer } = recorder()
      const named = (name: string) =>
        Trace.callback<void, never>(
          name,
          () => ({ name }),
          (resume) => resume(Exit.void)
        )
      yield* Effect.withTracer(Effect.andThen(named("first"), named("second")), tracer)
      assert.deepStrictEqual(
        spans.map(({ attributes, name }) => [name, attributes.get("name")]),
        [
          ["first", "first"],
          ["second", "second"]
        ]
      )
    })
  )

  it.effect("unwatched, it takes back what it has asked for when it is interrupted", () =>
    Effect.gen(function* () {
      let takenBack = 0
      const waiting = Trace.callback<never, never>(
        "inner",
        () => ({}),
        () => Effect.sync(() => void takenBack++)
      )
      const fiber = yield* Effect.forkChild(waiting, { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(takenBack, 1)
    })
  )

  it.effect("where tracing is switched off, there is no span to see", () =>
    Effect.gen(function* () {
      const { spans, tracer } = recorder()
      const inner = Trace.callback<number, never>(
        "inner",
        () => attributes,
        (resume) => resume(Exit.succeed(1))
      )
      assert.strictEqual(yield* inner.pipe(Effect.withTracer(tracer), Effect.withTracerEnabled(false)), 1)
      assert.deepStrictEqual(spans, [])
    })
  )
})
