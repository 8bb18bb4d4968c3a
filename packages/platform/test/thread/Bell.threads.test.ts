import * as Bell from "@cut-through/platform/thread/Bell"
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Worker } from "node:worker_threads"
import { random } from "../../../core/test/memory/threads.ts"
import { turn } from "./bell-fixtures.ts"
import { End, newTask, type Report, type Task } from "./bell-threads.ts"

/** How long a program may take to end on a machine that has other things to do. One that is kept alive never ends. */
const PATIENCE = 30_000

/** Runs a test with the other end of a bell in another thread, which ends with it. */
const withThread = async (task: Task, test: (own: End, other: Other) => Promise<void>): Promise<void> => {
  const other = new Other(task)
  const own = new End(task, 0)
  try {
    await test(own, other)
  } finally {
    own.bell.close()
    own.poller.remove(own.bell)
    await other.worker.terminate()
  }
}

class Other {
  readonly worker: Worker
  /** What it says first, or why it failed instead. */
  readonly said: Promise<unknown>

  constructor(task: Task) {
    this.worker = new Worker(new URL("./bell-worker.ts", import.meta.url), { workerData: task })
    this.said = new Promise((resolve, reject) => {
      this.worker.once("message", resolve)
      this.worker.once("error", reject)
      this.worker.once("exit", () => reject(new Error("the other thread has ended")))
    })
  }
}

describe("a bell between two threads", () => {
  for (const parks of ["when idle", "at once"] as const) {
    const how = `that park ${parks}`

    it(`${how}: every question is answered`, () =>
      withThread(newTask({ slots: 3, parks, rings: 0 }), async (own, other) => {
        await other.said
        await Promise.all([own.ask(0, 2000), own.ask(1, 1000), own.ask(2, 500)])
        assert.deepStrictEqual([own.told(0), own.told(1), own.told(2)], [2000, 1000, 500])
      }))

    for (const slots of [1, 40, 2 * Bell.SLOTS]) {
      it(`${how}: a storm on ${slots} slots, everything is seen`, () => {
        const task = newTask({ slots, parks, rings: 20_000 })
        return withThread(task, async (own, other) => {
          // Another one each time: what threads do is not the same twice anyway.
          const reports = await Promise.all([
            own.storm(random(Math.floor(Math.random() * 2 ** 31))),
            other.said as Promise<Report>
          ])
          for (const [side, { seen }] of reports.entries()) {
            const told = task.told.subarray(side * slots, (side + 1) * slots)
            assert.deepStrictEqual(seen, Array.from(told))
            assert.strictEqual(
              seen.reduce((sum, count) => sum + count),
              task.rings
            )
          }
          if (parks === "at once") for (const { stats } of reports) assert.isAbove(stats.parks, 1)
        })
      })
    }
  }

  it("they park when nobody talks, and talk again", () =>
    withThread(newTask({ slots: 1, parks: "when idle", rings: 0 }), async (own, other) => {
      await other.said
      for (let i = 0; i < 20; i++) {
        await own.ask(0, 10)
        while (!own.poller.isParked) await turn()
        const { turns } = own.poller.stats
        await turn()
        assert.strictEqual(own.poller.stats.turns, turns)
      }
    }))

  it("a thread that is gone can be rung, whether it had parked or not", async () => {
    for (const parks of ["when idle", "at once"] as const) {
      await withThread(newTask({ slots: 1, parks, rings: 0 }), async (own, other) => {
        await other.said
        await own.ask(0, 100)
        await other.worker.terminate()
        for (let i = 0; i < 100; i++) own.tell(0)
        while (!own.poller.isParked) await turn()
      })
    }
  })

  it("polling keeps no program alive, and lets one live that has something else to do", async () => {
    const program = fileURLToPath(new URL("./bell-alive.ts", import.meta.url))
    const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, program], {
      timeout: PATIENCE
    })
    assert.strictEqual(stdout, "talked parks: false")
  })
})
