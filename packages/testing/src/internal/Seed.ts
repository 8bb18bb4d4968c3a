/** What everything random in a simulation depends on. */
import * as Context from "effect/Context"

export const Seed: Context.Reference<number | string> = Context.Reference<number | string>(
  "@cut-through/testing/Seed",
  { defaultValue: () => 0 }
)
