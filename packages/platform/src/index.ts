/**
 * cut-through for Node.
 *
 * @since 0.1.0
 */
export * as CutThroughCluster from "./CutThroughCluster.ts"
export * as CutThroughDevTools from "./CutThroughDevTools.ts"
export * as CutThroughDuplex from "./CutThroughDuplex.ts"
export * as CutThroughHost from "./CutThroughHost.ts"
export * as CutThroughNet from "./CutThroughNet.ts"
export * as CutThroughHttp from "./CutThroughHttp.ts"
export * as CutThroughNode from "./CutThroughNode.ts"
export * as CutThroughSocket from "./CutThroughSocket.ts"
export * as CutThroughSocketServer from "./CutThroughSocketServer.ts"
export * as CutThroughWebStreams from "./CutThroughWebStreams.ts"
export * as CutThroughWorker from "./CutThroughWorker.ts"
export * as NativeCopy from "./NativeCopy.ts"
export * as NodeKeepAlive from "./NodeKeepAlive.ts"
export * as TcpTransport from "./TcpTransport.ts"
