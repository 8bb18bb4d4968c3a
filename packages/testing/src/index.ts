/**
 * Tools for tests of cut-through applications.
 *
 * @since 0.1.0
 */
export * as Arbitraries from "./Arbitraries.ts"
export * as Bytes from "./Bytes.ts"
export * as Connections from "./Connections.ts"
export * as Faults from "./Faults.ts"
export * as Interleavings from "./Interleavings.ts"
export * as Leaks from "./Leaks.ts"
export * as LockTrace from "./LockTrace.ts"
export * as Parity from "./Parity.ts"
export * as Simulation from "./Simulation.ts"
export * as TestNetwork from "./TestNetwork.ts"
export * as TransportContract from "./TransportContract.ts"
