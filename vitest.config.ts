import { defineConfig } from "vitest/config"

const source = "@cut-through/source"
const conditions = [source, "node"]
const report = process.env.TEST_REPORT

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ["packages/*/test/**/*.test.ts", "examples/**/*.test.ts"],
    pool: "forks",
    // Nothing asserts how long it takes, and a busy machine takes long.
    testTimeout: 60_000,
    // Worker threads that tests start load the sources without Vite, so Node itself has to know the condition.
    execArgv: [`--conditions=${source}`, "--disable-warning=ExperimentalWarning"],
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]]
  }
})
