/**
 * What keeps a process running while somebody can still talk to it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"

/**
 * Counts what keeps the process (or the thread) running: each open connection
 * and each listener holds it, as their counterparts of `node:net` do.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeepAlive {
  /** One more that keeps it running. */
  readonly hold: () => void
  /** One less. */
  readonly drop: () => void
}

/**
 * What keeps the process running. Without a platform that knows how: nothing,
 * the process runs for as long as somebody else has something to do.
 *
 * **Example** (Who holds it)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { KeepAlive } from "@cut-through/core/runtime/KeepAlive"
 * import { Effect, Layer } from "effect"
 *
 * let held = 0
 * const counting = Layer.succeed(KeepAlive, { hold: () => void held++, drop: () => void held-- })
 * const program = Effect.scoped(Effect.gen(function*() {
 *   yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   return held
 * }))
 *
 * await Effect.runPromise(Effect.provide(program, Layer.provide(Layer.fresh(CutThrough.layer), counting))) // => 1
 * held // => 0
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const KeepAlive: Context.Reference<KeepAlive> = Context.Reference<KeepAlive>(
  "@cut-through/core/runtime/KeepAlive",
  { defaultValue: () => ({ hold: () => {}, drop: () => {} }) }
)

/**
 * One holder, which lets go and takes hold again as often as it likes and counts
 * once.
 *
 * @category models
 * @since 0.1.0
 */
export class Hold {
  private readonly keepAlive: KeepAlive
  private isHeld = true

  constructor(keepAlive: KeepAlive) {
    this.keepAlive = keepAlive
    keepAlive.hold()
  }

  /** Holds, if it does not. */
  ref(): void {
    if (this.isHeld) return
    this.isHeld = true
    this.keepAlive.hold()
  }

  /** Lets go, if it holds. */
  unref(): void {
    if (!this.isHeld) return
    this.isHeld = false
    this.keepAlive.drop()
  }
}
