/**
 * Finalizers that are added to a scope, and taken out again, without an effect.
 *
 * Effect's `Scope.addFinalizer` is an effect, and taking a finalizer out needs a
 * scope of its own: for a connection that lives some microseconds both cost
 * more than the connection. A scope's state is public, and this is all that is
 * done to it.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"

/**
 * Adds a finalizer under a key; false when the scope has closed already: then
 * it is the caller's to run.
 *
 * **Example** (Added and taken out)
 *
 * ```ts
 * import * as Finalizer from "@cut-through/core/runtime/Finalizer"
 * import { Effect, Exit, Scope } from "effect"
 *
 * const ran: Array<string> = []
 * const scope = Scope.makeUnsafe()
 * for (const key of ["first", "second", "third"]) {
 *   Finalizer.add(scope, key, () => Effect.sync(() => ran.push(key)))
 * }
 * Finalizer.remove(scope, "second")
 *
 * await Effect.runPromise(Scope.close(scope, Exit.void))
 * ran // => ["third", "first"]
 * ```
 *
 * @category operations
 * @since 0.1.0
 */
export const add = (
  scope: Scope.Scope,
  key: {},
  finalizer: (exit: Exit.Exit<any, any>) => Effect.Effect<void>
): boolean => {
  const { state } = scope
  if (state._tag === "Closed") return false
  if (state._tag === "Empty") {
    scope.state = { _tag: "Open", finalizerKey: key, finalizer, finalizers: undefined }
    return true
  }
  if (state.finalizers === undefined) {
    // A scope keeps its only finalizer beside the map that it makes for the second.
    state.finalizers = new Map()
    if (state.finalizerKey !== undefined && state.finalizer !== undefined) {
      state.finalizers.set(state.finalizerKey, state.finalizer)
    }
    state.finalizerKey = undefined
    state.finalizer = undefined
  }
  state.finalizers.set(key, finalizer)
  return true
}

/**
 * Takes the finalizer under a key out, if it is there.
 *
 * @category operations
 * @since 0.1.0
 */
export const remove = (scope: Scope.Scope, key: {}): void => {
  const { state } = scope
  if (state._tag !== "Open") return
  if (state.finalizerKey === key) {
    scope.state = { _tag: "Empty" }
  } else state.finalizers?.delete(key)
}
