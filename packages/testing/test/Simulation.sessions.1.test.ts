import { describe, it } from "@effect/vitest"
import { simulateHalf } from "./simulation-sessions.ts"

// Two files, for two cores.
describe("the session layer, simulated", () => {
  it.live("small programs, the first half", () => simulateHalf(0), 3_600_000)
})
