/** Who has made what, and where: noted for sessions and half-opens when they are put in their tables. */
import * as Connections from "@cut-through/core/session/Connections"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { CurrentStackFrame, type StackFrame } from "effect/References"

export interface Acquired {
  readonly fiber: number
  readonly frame: StackFrame | undefined
}

const noted = new WeakMap<object, Acquired>()

const note = (made: object): void => {
  const fiber = Fiber.getCurrent()
  // Where it was is worked out only when somebody asks.
  if (fiber !== undefined) noted.set(made, { fiber: fiber.id, frame: fiber.getRef(CurrentStackFrame) })
}

/** The named effects (`Effect.fn`, `Effect.withSpan`) in which it was made, innermost first, and which fiber ran them. */
export const placeOf = (made: object): string | undefined => {
  const acquired = noted.get(made)
  if (acquired === undefined) return undefined
  const frames: Array<string> = []
  for (let frame = acquired.frame; frame !== undefined; frame = frame.parent) {
    const line = frame
      .stack()
      ?.split("\n")
      .find((line) => line.trim() !== "")
      ?.trim()
      .replace(/^at /, "")
    frames.push(line === undefined ? frame.name : `${frame.name} (${line})`)
  }
  return `fiber #${acquired.fiber}${frames.map((frame) => ` in ${frame}`).join("")}`
}

/** Tables that note where everything in them comes from. */
export const makeConnections = (): Connections.Connections["Service"] => {
  const connections = Connections.make()
  return Connections.Connections.of({
    ...connections,
    addSession(session) {
      note(session)
      connections.addSession(session)
    },
    addHalfOpen(halfOpen) {
      note(halfOpen)
      return connections.addHalfOpen(halfOpen)
    }
  })
}

/** {@link makeConnections} for those who use this layer. */
export const layerConnections: Layer.Layer<Connections.Connections> = Layer.sync(
  Connections.Connections,
  makeConnections
)
