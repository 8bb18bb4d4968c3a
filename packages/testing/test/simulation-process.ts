/** Prints what 200 seeds come to, so that two processes can be compared. */
import * as Effect from "effect/Effect"
import { fingerprints } from "./simulation-fixtures.ts"

console.log(JSON.stringify(await Effect.runPromise(fingerprints)))
