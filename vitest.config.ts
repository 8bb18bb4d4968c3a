import { defineConfig } from "vitest/config"

const source = "@cut-through/source"
const conditions = [source, "node"]
const report = process.env.TEST_REPORT
// Whole systems of threads take minutes: `npm run test:threads` runs those.
const threads = "packages/platform/test/thread/**/*.test.ts"
const onlyThreads = process.env.CUT_THROUGH_THREADS !== undefined

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: onlyThreads ? [threads] : ["packages/*/test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: onlyThreads ? ["**/node_modules/**"] : ["**/node_modules/**", threads],
    pool: "forks",
    // Nothing asserts how long it takes, and a busy machine takes long.
    testTimeout: 60_000,
    // Worker threads that tests start load the sources without Vite, so Node itself has to know the condition.
    execArgv: [`--conditions=${source}`, "--disable-warning=ExperimentalWarning"],
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]]
  }
})
