/**
 * What every thread that runs cut-through on Node has: its copy, and what keeps
 * it running.
 */
import { CopyBytes } from "@cut-through/core/memory/SharedMemory"
import * as Layer from "effect/Layer"
import * as NativeCopy from "../NativeCopy.ts"
import * as NodeKeepAlive from "../NodeKeepAlive.ts"

export const layerThread: Layer.Layer<never> = Layer.merge(
  Layer.succeed(CopyBytes, NativeCopy.copy),
  NodeKeepAlive.layer
)
