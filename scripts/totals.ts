/**
 * Sums the JSON reports of a folder into one closing line, after one for each test that has failed.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

interface Report {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly success: boolean
  readonly testResults: ReadonlyArray<{
    readonly name: string
    readonly status: string
    readonly message: string
    readonly assertionResults: ReadonlyArray<{
      readonly fullName: string
      readonly status: string
      readonly failureMessages: ReadonlyArray<string> | null
    }>
  }>
}

const MESSAGE_LINES = 12

const print = (title: string, message: string): void => {
  console.log(`FAILED ${title}`)
  for (const line of message.split("\n").slice(0, MESSAGE_LINES)) console.log(`    ${line}`)
}

const [folder] = process.argv.slice(2)
let passed = 0
let failed = 0
for (const name of Fs.readdirSync(folder)) {
  const report: Report = JSON.parse(Fs.readFileSync(Path.join(folder, name), "utf8"))
  passed += report.numPassedTests
  // A file that does not even load has no tests to count.
  failed += report.success ? 0 : Math.max(1, report.numFailedTests)
  const step = Path.basename(name, ".json").replaceAll("-", " ")
  for (const file of report.testResults) {
    const where = `(${step}) ${Path.relative(process.cwd(), file.name)}`
    const tests = file.assertionResults.filter((test) => test.status === "failed")
    for (const test of tests) print(`${where} > ${test.fullName}`, test.failureMessages?.join("\n") ?? "")
    if (tests.length === 0 && file.status === "failed") print(where, file.message)
  }
}
console.log(`${passed} passed, ${failed} failed`)
