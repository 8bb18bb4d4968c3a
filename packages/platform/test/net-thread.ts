/** A thread that knows only `CutThroughNet`, and ends when it has nothing more to do. */
import * as net from "@cut-through/platform/CutThroughNet"
import { once } from "node:events"
import { text } from "node:stream/consumers"
import { parentPort, workerData } from "node:worker_threads"

// Calls the main thread, and is called by it.
const client = net.connect(workerData as number, "127.0.0.1")
const server = net.createServer((socket) => {
  server.close()
  socket.pipe(socket)
})
await once(server.listen(0, "127.0.0.1"), "listening")
client.end(String((server.address() as { readonly port: number }).port))
parentPort!.postMessage(await text(client))
