import { defineConfig } from "vitest/config"

const source = "@cut-through/source"
const conditions = [source, "node"]
const report = process.env.TEST_REPORT
// Minutes of threads that die under load: `npm run test:long` runs those, and nothing else.
const long = "packages/*/test/**/*.long.test.ts"
const onlyLong = process.env.CUT_THROUGH_LONG !== undefined

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: onlyLong ? [long] : ["packages/*/test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: onlyLong ? ["**/node_modules/**"] : ["**/node_modules/**", long],
    pool: "forks",
    // Nothing asserts how long it takes, and a busy machine takes long.
    testTimeout: 60_000,
    // Worker threads that tests start load the sources without Vite, so Node itself has to know the condition.
    execArgv: [`--conditions=${source}`, "--disable-warning=ExperimentalWarning"],
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]]
  }
})
