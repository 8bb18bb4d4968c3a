/**
 * cut-through for Node.
 *
 * @since 0.1.0
 */
export * as CutThroughHost from "./CutThroughHost.ts"
export * as CutThroughNode from "./CutThroughNode.ts"
export * as CutThroughWorker from "./CutThroughWorker.ts"
export * as NativeCopy from "./NativeCopy.ts"
export * as NodeKeepAlive from "./NodeKeepAlive.ts"
