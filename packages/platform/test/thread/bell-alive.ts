/**
 * A program that talks to another thread for ever. For as long as it holds a timer it goes on; then it ends, although
 * there is traffic all the time.
 */
import { Worker } from "node:worker_threads"
import { End, newTask } from "./bell-threads.ts"

const task = newTask({ slots: 1, parks: "when idle", rings: 0 })
const worker = new Worker(new URL("./bell-worker.ts", import.meta.url), { workerData: task })
await new Promise((resolve) => worker.once("message", resolve))
worker.unref()

const timer = setInterval(() => {}, 1_000_000)
// This end never parks, whatever comes: nothing but letting go of the event loop ends it.
const end = new End({ ...task, parks: "never" }, 0)
// For longer than it keeps the event loop to itself.
const least = performance.now() + 50
while (performance.now() < least) await end.ask(0, 10)
process.stdout.write("talked ")
clearInterval(timer)
void end.ask(0, Infinity)
process.once("exit", () => process.stdout.write(`parks: ${end.poller.isParked}`))
