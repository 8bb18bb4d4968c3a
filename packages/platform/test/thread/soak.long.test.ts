/** The soak, for half a minute; `npm run soak` goes on for ten. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"

/** How long; `CUT_THROUGH_SOAK` may ask for more or less. */
const SECONDS = Number(process.env.CUT_THROUGH_SOAK ?? 30)

const main = fileURLToPath(new URL("../../soak/main.ts", import.meta.url))

it.live(
  `random threads die for ${SECONDS} seconds: those who go on are not disturbed, and nothing is left`,
  () =>
    Effect.callback<void>((resume) => {
      const child = execFile(process.execPath, [...process.execArgv, main, String(SECONDS)], (error, stdout, stderr) =>
        resume(
          Effect.sync(() => {
            assert.strictEqual(stderr, "")
            assert.isNull(error, stdout)
            assert.match(stdout, /nothing wrong, nothing left\n$/)
          })
        )
      )
      return Effect.sync(() => void child.kill("SIGKILL"))
    }),
  SECONDS * 1000 + 300_000
)
