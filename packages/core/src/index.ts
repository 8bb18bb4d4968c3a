/**
 * Byte-stream connections between Effect applications over shared memory.
 *
 * @since 0.1.0
 */
export * as Application from "./Application.ts"
export * as Applications from "./Applications.ts"
export * as Connection from "./Connection.ts"
export * as CutThrough from "./CutThrough.ts"
export * as Endpoint from "./Endpoint.ts"
export * as Listener from "./Listener.ts"
export * as NonBlocking from "./NonBlocking.ts"
export * as Segments from "./Segments.ts"
export * as SessionError from "./SessionError.ts"
export * as Sessions from "./Sessions.ts"
