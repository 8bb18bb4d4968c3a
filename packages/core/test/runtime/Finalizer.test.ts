import * as Finalizer from "@cut-through/core/runtime/Finalizer"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"

const setUp = () => {
  const scope = Scope.makeUnsafe()
  const ran: Array<string> = []
  const finalizer = (name: string) => () => Effect.sync(() => void ran.push(name))
  return {
    scope,
    ran,
    finalizer,
    add: (key: string, name = key) => Finalizer.add(scope, key, finalizer(name)),
    remove: (key: string) => Finalizer.remove(scope, key),
    close: (exit: Exit.Exit<unknown, unknown> = Exit.void) => Effect.runSync(Scope.close(scope, exit))
  }
}

/** A scope in each state it can be in, and the names of the finalizers in it, oldest first. */
const states: {
  readonly [State in string]: readonly [
    names: ReadonlyArray<string>,
    prepare: (world: ReturnType<typeof setUp>) => void
  ]
} = {
  "is new": [[], () => {}],
  "has one finalizer": [["a"], ({ add }) => void add("a")],
  "has one finalizer of Effect's": [
    ["a"],
    ({ finalizer, scope }) => Effect.runSync(Scope.addFinalizerExit(scope, finalizer("a")))
  ],
  "has two": [["a", "b"], ({ add }) => ["a", "b"].forEach((key) => add(key))],
  "has two, one of them Effect's": [
    ["a", "b"],
    ({ add, finalizer, scope }) => {
      Effect.runSync(Scope.addFinalizerExit(scope, finalizer("a")))
      add("b")
    }
  ],
  "has had one": [
    [],
    ({ add, remove }) => {
      add("x")
      remove("x")
    }
  ],
  "has had two": [
    [],
    ({ add, remove }) => {
      for (const key of ["x", "y"]) add(key)
      for (const key of ["x", "y"]) remove(key)
    }
  ],
  "has one left of two": [
    ["a"],
    ({ add, remove }) => {
      for (const key of ["x", "a"]) add(key)
      remove("x")
    }
  ],
  "has had a child that has closed": [
    [],
    ({ scope }) => {
      const child = Effect.runSync(Scope.fork(scope))
      Effect.runSync(Scope.close(child, Exit.void))
    }
  ],
  "has had one of ours and a child that has closed": [
    [],
    ({ add, remove, scope }) => {
      add("x")
      const child = Effect.runSync(Scope.fork(scope))
      remove("x")
      Effect.runSync(Scope.close(child, Exit.void))
    }
  ]
}

describe("Finalizer", () => {
  for (const [state, [names, prepare]] of Object.entries(states)) {
    describe(`a scope that ${state}`, () => {
      const prepared = () => {
        const world = setUp()
        prepare(world)
        return world
      }

      it("runs what it has, the last added first", () => {
        const { close, ran } = prepared()
        close()
        assert.deepStrictEqual(ran, names.toReversed())
      })

      it("takes more, of ours and of Effect's", () => {
        const { add, close, finalizer, ran, scope } = prepared()
        assert.isTrue(add("ours"))
        Effect.runSync(Scope.addFinalizerExit(scope, finalizer("Effect's")))
        assert.isTrue(add("ours again"))
        close()
        assert.deepStrictEqual(ran, ["ours again", "Effect's", "ours", ...names.toReversed()])
      })

      it("takes more out again, in any order", () => {
        const { add, close, ran, remove } = prepared()
        for (const key of ["p", "q", "r"]) assert.isTrue(add(key))
        for (const key of ["q", "r", "p"]) remove(key)
        assert.isTrue(add("last"))
        close()
        assert.deepStrictEqual(ran, ["last", ...names.toReversed()])
      })

      it("is not changed by taking out what it does not have", () => {
        const { close, ran, remove } = prepared()
        remove("nobody's")
        remove("nobody's")
        close()
        assert.deepStrictEqual(ran, names.toReversed())
      })

      it("keeps Effect's children in order with ours", () => {
        const { add, close, ran, remove, scope } = prepared()
        add("before")
        const child = Effect.runSync(Scope.fork(scope))
        Finalizer.add(child, "child", () => Effect.sync(() => void ran.push("child")))
        add("after")
        remove("before")
        close()
        assert.deepStrictEqual(ran, ["after", "child", ...names.toReversed()])
        assert.strictEqual(child.state._tag, "Closed")
      })

      it("takes none when it has closed", () => {
        const { add, close, ran, remove } = prepared()
        close()
        ran.length = 0
        assert.isFalse(add("late"))
        remove("late")
        remove("a")
        close()
        assert.deepStrictEqual(ran, [])
      })
    })
  }

  it("what is added under a key that is there takes its place", () => {
    for (const others of [[], ["b"]]) {
      const { add, close, ran } = setUp()
      for (const key of ["a", ...others]) add(key)
      add("a", "another a")
      close()
      assert.deepStrictEqual(ran, [...others, "another a"])
    }
  })

  it("keys are told apart by identity", () => {
    const { close, finalizer, ran, scope } = setUp()
    const [first, second] = [{}, {}]
    Finalizer.add(scope, first, finalizer("first"))
    Finalizer.remove(scope, second)
    Finalizer.add(scope, second, finalizer("second"))
    Finalizer.remove(scope, first)
    close()
    assert.deepStrictEqual(ran, ["second"])
  })

  it("a finalizer is told how the scope has closed", () => {
    for (const others of [0, 1]) {
      const { add, close, scope } = setUp()
      const told: Array<Exit.Exit<unknown, unknown>> = []
      Finalizer.add(scope, "teller", (exit) => Effect.sync(() => void told.push(exit)))
      if (others === 1) add("other")
      const exit = Exit.fail("broken")
      close(exit)
      assert.deepStrictEqual(told, [exit])
    }
  })

  it("a finalizer that runs finds the scope closed", () => {
    const { add, close, ran, remove, scope } = setUp()
    add("earlier")
    Finalizer.add(scope, "looks", () =>
      Effect.sync(() => {
        remove("earlier")
        ran.push(`added: ${add("late")}`)
      })
    )
    close()
    // What is to run when a scope begins to close does run.
    assert.deepStrictEqual(ran, ["added: false", "earlier"])
  })

  it("an effect that a scope waits for is waited for", () => {
    const { add, ran, scope } = setUp()
    Finalizer.add(scope, "waits", () =>
      Effect.andThen(
        Effect.yieldNow,
        Effect.sync(() => void ran.push("waits"))
      )
    )
    add("next")
    const rest = Scope.closeUnsafe(scope, Exit.void)
    assert.isDefined(rest)
    Effect.runSync(rest)
    assert.deepStrictEqual(ran, ["next", "waits"])
  })

  it("new scopes share nothing", () => {
    const [first, second] = [setUp(), setUp()]
    first.add("a")
    first.remove("a")
    first.add("a")
    second.close()
    assert.deepStrictEqual(second.ran, [])
    first.close()
    assert.deepStrictEqual(first.ran, ["a"])
  })

  const commands = Arbitrary.array(
    Arbitrary.schema(
      Schema.Struct({
        operation: Schema.Literals(["add", "add", "remove", "addEffects", "fork", "closeChild"]),
        which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))
      })
    )
  )

  it.prop(
    "whatever comes and goes, by us and by Effect, is run as a map in reverse has it",
    [commands],
    ([program]) => {
      const { add, close, finalizer, ran, remove, scope } = setUp()
      const model = new Map<unknown, string>()
      const children: Array<Scope.Closeable> = []
      for (const [step, { operation, which }] of program.entries()) {
        const name = `${operation} ${step}`
        if (operation === "add") {
          assert.isTrue(add(`key ${which}`, name))
          model.set(`key ${which}`, name)
        } else if (operation === "remove") {
          remove(`key ${which}`)
          model.delete(`key ${which}`)
        } else if (operation === "addEffects") {
          Effect.runSync(Scope.addFinalizerExit(scope, finalizer(name)))
          model.set(step, name)
        } else if (operation === "fork") {
          const child = Effect.runSync(Scope.fork(scope))
          Finalizer.add(child, "name", finalizer(name))
          children.push(child)
          model.set(child, name)
        } else if (children.length > 0) {
          const [child] = children.splice(which % children.length, 1)
          Effect.runSync(Scope.close(child, Exit.void))
          assert.strictEqual(ran.pop(), model.get(child))
          model.delete(child)
        }
        assert.deepStrictEqual(ran, [])
      }
      close()
      assert.deepStrictEqual(ran, [...model.values()].toReversed())
    },
    { arbitrary: { runs: 500, size: 40 } }
  )
})
