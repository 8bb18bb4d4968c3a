/** The other end of a bell, in a thread of its own. */
import { parentPort, workerData } from "node:worker_threads"
import { random } from "../../../core/test/memory/threads.ts"
import { End, type Task } from "./bell-threads.ts"

const task = workerData as Task
const end = new End(task, 1)
// Polling does not keep a thread alive; waiting to be told to end does.
parentPort!.on("message", () => process.exit())
if (task.rings === 0) {
  end.answer()
  parentPort!.postMessage("ready")
} else {
  const report = await end.storm(random(1))
  parentPort!.postMessage(report)
}
