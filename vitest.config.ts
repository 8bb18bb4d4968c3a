import { defineConfig } from "vitest/config"

const source = "@cut-through/source"
const conditions = [source, "node"]
const report = process.env.TEST_REPORT
// Those that take long, or do not depend on the version of Node: left out when it is another one's turn.
const long =
  process.env.CUT_THROUGH_SHORT === undefined
    ? []
    : [
        "packages/*/test/**/*.long.test.ts",
        "packages/testing/test/{Interleavings,Parity,Simulation.sessions,TestNetwork.cluster,TestNetwork.stress}*.test.ts",
        "packages/platform/test/TransportContract.broken.test.ts",
        "examples/{echo-server,testing-a-system}/*.test.ts"
      ]

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ["packages/*/test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: ["**/node_modules/**", ...long],
    pool: "forks",
    // Most of them wait for threads and processes now and then.
    maxWorkers: "100%",
    // Nothing asserts how long it takes, and a busy machine takes long.
    testTimeout: 60_000,
    // Worker threads that tests start load the sources without Vite, so Node itself has to know the condition.
    execArgv: [`--conditions=${source}`, "--disable-warning=ExperimentalWarning"],
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]]
  }
})
