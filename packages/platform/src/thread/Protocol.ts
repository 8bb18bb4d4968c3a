/**
 * What a guest thread and its host say to each other over the control port.
 *
 * The guest asks, the host answers, one answer to each request. What the guest
 * says is decoded before anything is done about it: a thread may say whatever it
 * likes. What the host says is taken as it is: it has the guest's memory in its
 * hands anyway.
 *
 * No byte of a connection passes here, nor does its end: those are in the FIFOs.
 *
 * @since 0.1.0
 */
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import type { Path, State } from "@cut-through/core/session/Session"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import type { Side } from "@cut-through/core/segment/SegmentContext"
import * as Endpoint from "@cut-through/core/Endpoint"
import * as SessionError from "@cut-through/core/SessionError"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type { Codec } from "./Control.ts"
import type { Record } from "./Ring.ts"

/**
 * Changes whenever a guest and a host of different versions could not
 * understand each other.
 *
 * @category constants
 * @since 0.1.0
 */
export const VERSION = 2

/**
 * The key under which a host leaves word of itself for the threads that are
 * started from its own, and under which a guest calls it.
 *
 * @category constants
 * @since 0.1.0
 */
export const HOST_KEY = "@cut-through/platform/host"

// ---------------------------------------------------------------------------
// what a guest says
// ---------------------------------------------------------------------------

const size = Schema.optional(Schema.Union([Schema.Number, Schema.BigInt, Schema.String]))
const count = Schema.optional(Schema.Number)

const Options = Schema.Struct({
  name: Schema.String,
  namespace: Schema.optional(Schema.String),
  namespaceSecret: Schema.optional(Schema.String),
  // What is none is the session layer's to refuse, here as in all options.
  scope: Schema.optional(Schema.String),
  workers: count,
  rxFifoSize: size,
  txFifoSize: size,
  segmentSize: size,
  segmentLinger: Schema.optional(Schema.Union([Schema.Number, Schema.String])),
  maxFifoMemory: size,
  maxSessions: count,
  maxHalfOpens: count,
  maxPending: count
})

/** Numbers that one side gives and the other one gives back. */
const id = Schema.Int

const Request = Schema.Union([
  /** Attaches the application. The first thing that is said, and said once. */
  Schema.TaggedStruct("Attach", {
    id,
    version: Schema.Number,
    options: Options,
    /** Whether it knows how to use a ring, and keeps regions until it is told to forget them. */
    ring: Schema.optional(Schema.Boolean)
  }),
  Schema.TaggedStruct("Listen", {
    id,
    /** A worker of the application, or all of them. */
    worker: Schema.optional(Schema.Int),
    endpoint: Schema.String,
    backlog: Schema.Number,
    approval: Schema.Literals(["listener", "application"]),
    isProxy: Schema.Boolean
  }),
  Schema.TaggedStruct("Unlisten", { id, listener: id }),
  Schema.TaggedStruct("Connect", { id, worker: Schema.Int, endpoint: Schema.String }),
  /** Wants the next connection of a listener. */
  Schema.TaggedStruct("Accept", { id, listener: id, accepts: Schema.Boolean }),
  /** Says yes to a session that waits for it. */
  Schema.TaggedStruct("Approve", { id, session: id }),
  /** Wants no answer any more to a connect, an accept or a look at events. */
  Schema.TaggedStruct("Cancel", { request: id }),
  /** Has closed a session, and touches its FIFOs no more. */
  Schema.TaggedStruct("Close", { session: id, reset: Schema.Boolean }),
  /** Has ended its stream. */
  Schema.TaggedStruct("HalfClose", { session: id }),
  /** Has let go of a segment. */
  Schema.TaggedStruct("Unmapped", { segment: id }),
  Schema.TaggedStruct("Subscribe", { id }),
  /** Wants the next events of a subscription. */
  Schema.TaggedStruct("Next", { id, subscription: id }),
  Schema.TaggedStruct("Unsubscribe", { subscription: id }),
  Schema.TaggedStruct("Detach", { id })
])

/**
 * What a guest says.
 *
 * @category models
 * @since 0.1.0
 */
export type Request = typeof Request.Type

/**
 * Understands a guest, or says what is wrong with what it has said.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeRequest = Schema.decodeUnknownResult(Request)

// ---------------------------------------------------------------------------
// what a host says
// ---------------------------------------------------------------------------

/**
 * An endpoint in numbers, which cost less than a text: those of
 * `Endpoint.toNumbers`.
 *
 * @category models
 * @since 0.1.0
 */
export type EncodedAddress = ReadonlyArray<number>

/**
 * A session, as its application gets it.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionInfo {
  readonly session: number
  /** What listings call it by. */
  readonly worker: number
  readonly index: number
  readonly side: Side
  readonly path: Path
  readonly state: State
  readonly local: EncodedAddress
  readonly remote: EncodedAddress
  readonly segment: number
  /** Numbers of its FIFOs in the segment. */
  readonly rx: number
  readonly tx: number
  /** The pair of threads whose bell it uses, 0 for two sides in one thread; and its number there. */
  readonly pair: number
  readonly slot: number
}

/**
 * What a host says.
 *
 * @category models
 * @since 0.1.0
 */
export type Message =
  | {
      readonly _tag: "Attached"
      readonly id: number
      readonly name: string
      readonly workers: ReadonlyArray<string>
      /** Where both write what is small and frequent from here on. */
      readonly ring?: SharedArrayBuffer | undefined
    }
  | {
      readonly _tag: "Listening"
      readonly id: number
      readonly listener: number
      readonly endpoint: string
      readonly handle: number
    }
  | { readonly _tag: "Connected"; readonly id: number; readonly session: SessionInfo }
  /** Without a session: the listener has closed. */
  | { readonly _tag: "Accepted"; readonly id: number; readonly session: SessionInfo | undefined }
  | { readonly _tag: "Subscribed"; readonly id: number; readonly subscription: number }
  /** Without events: there will be no more. */
  | { readonly _tag: "Events"; readonly id: number; readonly events: ReadonlyArray<EncodedEvent> }
  | { readonly _tag: "Done"; readonly id: number }
  | { readonly _tag: "Failed"; readonly id: number; readonly error: unknown }
  /** What was said made no sense. Nobody waits for an answer, as far as can be seen. */
  | { readonly _tag: "Rejected"; readonly error: unknown }
  | {
      readonly _tag: "Segment"
      readonly segment: number
      /** The number of its memory, for a guest that keeps it. */
      readonly region?: number | undefined
      /** Not there when the guest has kept it. */
      readonly buffer?: SharedArrayBuffer | undefined
    }
  | { readonly _tag: "SegmentDeleted"; readonly segment: number }
  /** Memory that no segment is in, and that is not kept any more. */
  | { readonly _tag: "Forget"; readonly region: number }
  | { readonly _tag: "Pair"; readonly pair: number; readonly buffer: SharedArrayBuffer; readonly side: 0 | 1 }
  | { readonly _tag: "PairGone"; readonly pair: number }
  /** Something has happened to a session that its own thread has not been rung for. */
  | { readonly _tag: "Look"; readonly session: number }
  /** Nothing of a session is left. */
  | { readonly _tag: "Closed"; readonly session: number }

// ---------------------------------------------------------------------------
// what goes through the ring
// ---------------------------------------------------------------------------

const ACCEPT = 1
const CONNECT = 2
const CLOSE = 3
const HALF_CLOSE = 4
const CANCEL = 5
const UNMAPPED = 6
const APPROVE = 7

const writeRequest = (record: Record, request: Request): boolean => {
  switch (request._tag) {
    case "Accept":
      return record.begin(ACCEPT).int(request.id).int(request.listener).int(Number(request.accepts)).fits
    case "Connect":
      return record.begin(CONNECT).int(request.id).int(request.worker).text(request.endpoint).fits
    case "Close":
      return record.begin(CLOSE).int(request.session).int(Number(request.reset)).fits
    case "HalfClose":
      return record.begin(HALF_CLOSE).int(request.session).fits
    case "Cancel":
      return record.begin(CANCEL).int(request.request).fits
    case "Unmapped":
      return record.begin(UNMAPPED).int(request.segment).fits
    case "Approve":
      return record.begin(APPROVE).int(request.id).int(request.session).fits
    default:
      return false
  }
}

const takeRequest = (record: Record): Request | undefined => {
  switch (record.tag) {
    case ACCEPT:
      return { _tag: "Accept", id: record.takeInt(), listener: record.takeInt(), accepts: takeBoolean(record) }
    case CONNECT:
      return { _tag: "Connect", id: record.takeInt(), worker: record.takeInt(), endpoint: record.takeText() }
    case CLOSE:
      return { _tag: "Close", session: record.takeInt(), reset: takeBoolean(record) }
    case HALF_CLOSE:
      return { _tag: "HalfClose", session: record.takeInt() }
    case CANCEL:
      return { _tag: "Cancel", request: record.takeInt() }
    case UNMAPPED:
      return { _tag: "Unmapped", segment: record.takeInt() }
    case APPROVE:
      return { _tag: "Approve", id: record.takeInt(), session: record.takeInt() }
    default:
      return undefined
  }
}

const takeBoolean = (record: Record): boolean => record.takeIndex(2) === 1

const ACCEPTED = 1
const CONNECTED = 2
const CLOSED = 3
const LOOK = 4
const DONE = 5
const SEGMENT = 6
const SEGMENT_DELETED = 7

const writeMessage = (record: Record, message: Message): boolean => {
  switch (message._tag) {
    case "Accepted": {
      record.begin(ACCEPTED).int(message.id)
      return message.session === undefined ? record.fits : writeSession(record, message.session)
    }
    case "Connected":
      return writeSession(record.begin(CONNECTED).int(message.id), message.session)
    case "Closed":
      return record.begin(CLOSED).int(message.session).fits
    case "Look":
      return record.begin(LOOK).int(message.session).fits
    case "Done":
      return record.begin(DONE).int(message.id).fits
    case "Segment":
      if (message.buffer !== undefined || message.region === undefined) return false
      return record.begin(SEGMENT).int(message.segment).int(message.region).fits
    case "SegmentDeleted":
      return record.begin(SEGMENT_DELETED).int(message.segment).fits
    default:
      return false
  }
}

const takeMessage = (record: Record): Message | undefined => {
  switch (record.tag) {
    case ACCEPTED: {
      const id = record.takeInt()
      return { _tag: "Accepted", id, session: record.isWhole ? undefined : takeSession(record) }
    }
    case CONNECTED:
      return { _tag: "Connected", id: record.takeInt(), session: takeSession(record) }
    case CLOSED:
      return { _tag: "Closed", session: record.takeInt() }
    case LOOK:
      return { _tag: "Look", session: record.takeInt() }
    case DONE:
      return { _tag: "Done", id: record.takeInt() }
    case SEGMENT:
      return { _tag: "Segment", segment: record.takeInt(), region: record.takeInt() }
    case SEGMENT_DELETED:
      return { _tag: "SegmentDeleted", segment: record.takeInt() }
    default:
      return undefined
  }
}

const SIDES: ReadonlyArray<Side> = ["client", "server"]
const PATHS: ReadonlyArray<Path> = ["fiber", "thread", "tcp"]
const STATES: ReadonlyArray<State> = [
  "created",
  "listening",
  "connecting",
  "accepting",
  "ready",
  "opened",
  "transport-closing",
  "closing",
  "app-closed",
  "transport-closed",
  "closed",
  "transport-deleted"
]

const writeSession = (record: Record, info: SessionInfo): boolean => {
  record
    .int(info.session)
    .int(info.worker)
    .int(info.index)
    .int(SIDES.indexOf(info.side))
    .int(PATHS.indexOf(info.path))
    .int(STATES.indexOf(info.state))
    .int(info.segment)
    .int(info.rx)
    .int(info.tx)
    .int(info.pair)
    .int(info.slot)
  writeAddress(record, info.local)
  writeAddress(record, info.remote)
  return record.fits
}

const writeAddress = (record: Record, address: EncodedAddress): void => {
  record.int(address.length)
  for (let i = 0; i < address.length; i++) record.int(address[i])
}

/** Of the longest there is. */
const MOST_NUMBERS = 6

const takeAddress = (record: Record): EncodedAddress => {
  const address: Array<number> = []
  for (let left = record.takeIndex(MOST_NUMBERS + 1); left > 0; left--) address.push(record.takeInt())
  return address
}

const takeSession = (record: Record): SessionInfo => ({
  session: record.takeInt(),
  worker: record.takeInt(),
  index: record.takeInt(),
  side: SIDES[record.takeIndex(SIDES.length)],
  path: PATHS[record.takeIndex(PATHS.length)],
  state: STATES[record.takeIndex(STATES.length)],
  segment: record.takeInt(),
  rx: record.takeInt(),
  tx: record.takeInt(),
  pair: record.takeInt(),
  slot: record.takeInt(),
  local: takeAddress(record),
  remote: takeAddress(record)
})

/**
 * What a guest writes, and a host reads: as carefully as {@link decodeRequest},
 * but for a few words only.
 *
 * @category decoding
 * @since 0.1.0
 */
export const requests: Codec<Request> = {
  write: writeRequest,
  read: (record) => {
    const request = takeRequest(record)
    return record.isWhole ? request : undefined
  }
}

/**
 * What a host writes, and a guest reads.
 *
 * @category decoding
 * @since 0.1.0
 */
export const messages: Codec<Message> = {
  write: writeMessage,
  read: (record) => {
    const message = takeMessage(record)
    return record.isWhole ? message : undefined
  }
}

// ---------------------------------------------------------------------------
// both
// ---------------------------------------------------------------------------

/**
 * An error, as it crosses.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeError: (error: SessionError.SessionError) => unknown = Schema.encodeSync(SessionError.SessionError)

/**
 * The error again.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeError: (encoded: unknown) => SessionError.SessionError = Schema.decodeUnknownSync(
  SessionError.SessionError
)

/**
 * An endpoint, as it crosses.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeEndpoint = (endpoint: Endpoint.Endpoint): string => `tcp://${Endpoint.format(endpoint)}`

/**
 * The options of an application, as they cross: what structured cloning would
 * take apart is written out.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeOptions = (options: AttachOptions): typeof Options.Type => ({
  name: options.name,
  namespace: options.namespace,
  namespaceSecret: Redacted.isRedacted(options.namespaceSecret)
    ? Redacted.value(options.namespaceSecret)
    : options.namespaceSecret,
  scope: options.scope,
  workers: options.workers,
  rxFifoSize: encodeSize(options.rxFifoSize),
  txFifoSize: encodeSize(options.txFifoSize),
  segmentSize: encodeSize(options.segmentSize),
  segmentLinger: encodeDuration(options.segmentLinger),
  maxFifoMemory: encodeSize(options.maxFifoMemory),
  maxSessions: options.maxSessions,
  maxHalfOpens: options.maxHalfOpens,
  maxPending: options.maxPending
})

// By another name: the compiler would spell out every size there is.
const encodeSize = (input: unknown) => input as number | bigint | string | undefined

const encodeDuration = (input: Duration.Input | undefined): number | string | undefined => {
  if (input === undefined || typeof input === "number" || typeof input === "string") return input
  // What is none is the host's to refuse, as it does for its own applications.
  return Option.match(Duration.fromInput(input), { onNone: () => String(input), onSome: Duration.toMillis })
}

/**
 * The options again.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeOptions = (options: typeof Options.Type): AttachOptions => options as AttachOptions

/**
 * An event, as it crosses.
 *
 * @category models
 * @since 0.1.0
 */
export type EncodedEvent = { readonly _tag: AppEvent["_tag"]; readonly [key: string]: unknown }

/**
 * An event, as it crosses.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeEvent = (event: AppEvent): EncodedEvent => {
  switch (event._tag) {
    case "Accepted": {
      const { listener, local, remote } = event
      return {
        ...event,
        listener: encodeEndpoint(listener),
        local: encodeEndpoint(local),
        remote: encodeEndpoint(remote)
      }
    }
    case "Connected": {
      const { remote, result } = event
      return {
        ...event,
        remote: encodeEndpoint(remote),
        result: result._tag === "Success" ? result : { _tag: result._tag, error: encodeError(result.error) }
      }
    }
    default:
      return { ...event }
  }
}

/**
 * The event again.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeEvent = (event: EncodedEvent): AppEvent => {
  switch (event._tag) {
    case "Accepted": {
      const { listener, local, remote } = event
      return {
        ...event,
        listener: Endpoint.parse(listener as string),
        local: Endpoint.parse(local as string),
        remote: Endpoint.parse(remote as string)
      } as AppEvent
    }
    case "Connected": {
      const result = event.result as { readonly _tag: string; readonly error?: unknown }
      return {
        ...event,
        remote: Endpoint.parse(event.remote as string),
        result: result._tag === "Success" ? result : { _tag: result._tag, error: decodeError(result.error) }
      } as AppEvent
    }
    default:
      return event as unknown as AppEvent
  }
}
