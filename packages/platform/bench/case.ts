/**
 * Measures one case, in a process of its own: what one case makes V8 believe is nothing to another. Started by `main.ts`.
 */
import { Effect } from "effect"
import { load } from "./cases.ts"
import type { Case, Result } from "./model.ts"
import { measure, type Plan } from "./pairing.ts"

export interface Task {
  /** The file that has the case. */
  readonly group: string
  readonly name: string
  readonly peers: ReadonlyArray<string>
  readonly plan: Plan
}

export type News =
  | { readonly kind: "progress"; readonly what: string }
  | { readonly kind: "measured"; readonly results: ReadonlyArray<Result> }
  | { readonly kind: "failed"; readonly message: string }

const say = (news: News): Promise<void> => new Promise((resolve) => process.send!(news, () => resolve()))

const run = ({ name, peers, plan }: Task, of: Case): Promise<ReadonlyArray<Result>> =>
  Effect.runPromise(
    Effect.gen(function* () {
      const legs = yield* of.open(["ours", ...peers])
      return yield* Effect.tryPromise({
        try: () => measure(of, legs, peers, plan, (what) => void say({ kind: "progress", what })),
        catch: (cause) => new Error(`${name} failed`, { cause })
      })
    }).pipe(Effect.scoped)
  )

process.once("message", async (task: Task) => {
  try {
    const of = (await load(task.group)).find(({ rows }) => rows[0].name === task.name)
    if (of === undefined) throw new Error(`there is no case ${task.name}`)
    await say({ kind: "measured", results: await run(task, of) })
  } catch (error) {
    const { cause, stack } = error as Error
    await say({ kind: "failed", message: cause instanceof Error ? cause.stack! : (stack ?? String(error)) })
  }
  // Some peers leave sockets and threads behind that nobody waits for.
  process.exit()
})
