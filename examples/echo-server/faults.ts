/**
 * For tests: clients that do not do what they should. Threads load it without Vitest, so nothing here imports that.
 */
import { Endpoint, SessionError } from "@cut-through/core"
import { Effect, Pull, Scope } from "effect"
import type { Shared } from "./Echo.ts"
import type { Way } from "./Way.ts"
import type { Wire } from "./Wire.ts"

const reading =
  (read: (wire: Wire) => Wire["readInto"]) =>
  (wire: Wire): Wire => ({ readInto: read(wire), write: (bytes) => wire.write(bytes), end: wire.end })

const flips = reading(
  (wire) => (buffer) =>
    Effect.tap(wire.readInto(buffer), () =>
      Effect.sync(() => {
        buffer[0] ^= 1
      })
    )
)

const loses = reading((wire) => (buffer) => Effect.map(wire.readInto(buffer), (count) => count - 1))

const adds = reading((wire) => {
  let isAdded = false
  return (buffer) =>
    wire.readInto(buffer).pipe(
      Pull.catchDone(() => {
        if (isAdded) return wire.readInto(buffer)
        isAdded = true
        return Effect.succeed(1)
      })
    )
})

export const reset = SessionError.make(
  new SessionError.Reset({ endpoint: Endpoint.format(Endpoint.tcp("127.0.0.1", 7000)), bytesReceived: 3 })
)

const breaks = reading(() => () => Effect.fail(reset))

/** Reads nothing, so that everything on the way fills up, and counts what it has written. */
const stalls = (wire: Wire, { received }: Shared): Wire => ({
  readInto: () => Effect.never,
  write: (bytes) => Effect.tap(wire.write(bytes), () => Effect.sync(() => Atomics.add(received, 0, bytes.length))),
  end: wire.end
})

const faults = { flips, loses, adds, breaks, stalls }

export type Fault = keyof typeof faults | "leaks"

/** A way whose clients have the fault. */
export const faulty = <R>(way: Way<R>, fault: Fault, shared: Shared): Way<R> => ({
  listen: way.listen,
  connect: (port) =>
    fault === "leaks"
      ? // In a scope that nobody closes.
        Scope.provide(way.connect(port), Scope.makeUnsafe())
      : Effect.map(way.connect(port), (wire) => faults[fault](wire, shared))
})
