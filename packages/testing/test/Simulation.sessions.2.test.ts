import { describe, it } from "@effect/vitest"
import { simulateHalf } from "./simulation-sessions.ts"

// Two files, for two cores.
describe("the session layer, simulated", () => {
  it.live("small programs, the second half", () => simulateHalf(1), 3_600_000)
})
