/**
 * Tools for tests of cut-through applications.
 *
 * @since 0.1.0
 */
export * as Leaks from "./Leaks.ts"
export * as LockTrace from "./LockTrace.ts"
