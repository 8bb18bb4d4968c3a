/**
 * Sums the JSON reports of a folder into one closing line.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"

const [folder] = process.argv.slice(2)
let passed = 0
let failed = 0
for (const name of Fs.readdirSync(folder)) {
  const report = JSON.parse(Fs.readFileSync(Path.join(folder, name), "utf8"))
  passed += report.numPassedTests
  // A file that does not even load has no tests to count.
  failed += report.success ? 0 : Math.max(1, report.numFailedTests)
}
console.log(`${passed} passed, ${failed} failed`)
