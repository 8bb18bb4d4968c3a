/** A thread of a soak: there will be a thousand of them, so what they load is compiled once. */
import { enableCompileCache, flushCompileCache } from "node:module"
import { workerData } from "node:worker_threads"

enableCompileCache(workerData.cache)
await import("./threadMain.ts")
flushCompileCache()
