/**
 * cut-through for Node.
 *
 * @since 0.1.0
 */
export * as CutThroughNode from "./CutThroughNode.ts"
export * as NativeCopy from "./NativeCopy.ts"
