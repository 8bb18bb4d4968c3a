/** Where what happens is written down, while a simulation runs. */
import * as Context from "effect/Context"

export const Recorder: Context.Reference<((line: string) => void) | undefined> = Context.Reference<
  ((line: string) => void) | undefined
>("@cut-through/testing/Recorder", { defaultValue: () => undefined })
