/**
 * What can go wrong between two applications, as one error with a tagged
 * `reason`: handle all of it, or pick a case with `Effect.catchReason`.
 *
 * Every reason carries what was tried, and its message ends with what to do.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * An option, an endpoint or an argument is not one: nothing was done.
 *
 * @category reasons
 * @since 0.1.0
 */
export class InvalidArgument extends Schema.TaggedError<InvalidArgument>()("InvalidArgument", {
  what: Schema.String,
  value: Schema.String,
  expected: Schema.String
}) {
  override get message(): string {
    return `${this.what} is ${this.value}: expected ${this.expected}`
  }
}

/**
 * Another listener has the endpoint.
 *
 * @category reasons
 * @since 0.1.0
 */
export class AlreadyListening extends Schema.TaggedError<AlreadyListening>()("AlreadyListening", {
  endpoint: Schema.String
}) {
  override get message(): string {
    return `cannot listen on ${this.endpoint}: it is taken. Close the other listener, or use port 0 to get a free port`
  }
}

/**
 * Nobody listens on the endpoint, and no other transport leads there.
 *
 * @category reasons
 * @since 0.1.0
 */
export class NoRoute extends Schema.TaggedError<NoRoute>()("NoRoute", {
  endpoint: Schema.String
}) {
  override get message(): string {
    return `cannot connect to ${this.endpoint}: no application listens there. Listen first, or check the address and port`
  }
}

/**
 * No application of the connecting one's namespace listens there, and an
 * application of local scope looks no further.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Scope extends Schema.TaggedError<Scope>()("Scope", {
  endpoint: Schema.String,
  scope: Schema.String
}) {
  override get message(): string {
    return `cannot reach ${this.endpoint} with ${this.scope} scope: attach the application with scope "both", or use an endpoint within reach`
  }
}

/**
 * No application of this session layer listens there: the next transport is to
 * be tried. Only transports return it; a connect that no transport takes fails
 * with `NoRoute`.
 *
 * @category reasons
 * @since 0.1.0
 */
export class LocalConnect extends Schema.TaggedError<LocalConnect>()("LocalConnect", {
  endpoint: Schema.String
}) {
  override get message(): string {
    return `no application of this session layer listens on ${this.endpoint}: try another transport`
  }
}

/**
 * A session rule drops connects to this endpoint.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Filtered extends Schema.TaggedError<Filtered>()("Filtered", {
  endpoint: Schema.String,
  rule: Schema.String
}) {
  override get message(): string {
    return `the connect to ${this.endpoint} was dropped by the session rule ${this.rule}: remove the rule, or add a longer one that allows it`
  }
}

/**
 * There is no namespace of this name.
 *
 * @category reasons
 * @since 0.1.0
 */
export class UnknownNamespace extends Schema.TaggedError<UnknownNamespace>()("UnknownNamespace", {
  namespace: Schema.String
}) {
  override get message(): string {
    return `there is no namespace ${JSON.stringify(this.namespace)}: add it first, with Sessions.addNamespace`
  }
}

/**
 * The secret is not the namespace's.
 *
 * @category reasons
 * @since 0.1.0
 */
export class WrongNamespaceSecret extends Schema.TaggedError<WrongNamespaceSecret>()("WrongNamespaceSecret", {
  namespace: Schema.String
}) {
  override get message(): string {
    return `the secret given for the namespace ${JSON.stringify(this.namespace)} is not the one it was made with: attach with that one`
  }
}

/**
 * The application holds as much as it may: nothing was done.
 *
 * @category reasons
 * @since 0.1.0
 */
export class QuotaExceeded extends Schema.TaggedError<QuotaExceeded>()("QuotaExceeded", {
  app: Schema.String,
  quota: Schema.String,
  limit: Schema.Finite,
  what: Schema.String
}) {
  override get message(): string {
    return `the application ${this.app} has ${this.limit} ${this.what} already: finish some first, or attach it with a higher ${this.quota}`
  }
}

/**
 * The listener did not take the connection: it has gone in the meantime, its
 * application has refused, or it holds as much as it may already (in its
 * backlog of connections nobody has accepted yet, or in all).
 *
 * @category reasons
 * @since 0.1.0
 */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {
  endpoint: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `${this.endpoint} refused the connection: ${this.why}. Try again later`
  }
}

/**
 * Nobody has answered a connect to another host in time: it is down, or the
 * way to it is cut.
 *
 * @category reasons
 * @since 0.1.0
 */
export class TimedOut extends Schema.TaggedError<TimedOut>()("TimedOut", {
  endpoint: Schema.String,
  millis: Schema.Finite
}) {
  override get message(): string {
    return `${this.endpoint} has not answered for ${this.millis} ms: check that the host is up and the network leads there, then try again`
  }
}

/**
 * There is no memory for what was tried.
 *
 * @category reasons
 * @since 0.1.0
 */
export class AllocFailed extends Schema.TaggedError<AllocFailed>()("AllocFailed", {
  what: Schema.String,
  bytes: Schema.Finite,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `cannot allocate ${this.bytes} bytes for ${this.what}: close connections, or use smaller FIFOs or segments`
  }
}

/**
 * The application, listener or connection was closed by its own side.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Closed extends Schema.TaggedError<Closed>()("Closed", {
  what: Schema.String
}) {
  override get message(): string {
    return `the ${this.what} was closed by this side, or by the end of its scope: keep that scope open, or open another`
  }
}

/**
 * The connection was broken off: by the other side, or because it closed with
 * bytes it had not read. What had not been read yet is lost.
 *
 * @category reasons
 * @since 0.1.0
 */
export class Reset extends Schema.TaggedError<Reset>()("Reset", {
  endpoint: Schema.String,
  bytesReceived: Schema.Finite
}) {
  override get message(): string {
    return `the connection with ${this.endpoint} was reset after ${this.bytesReceived} bytes received: connect again`
  }
}

/**
 * A write after the end: this side has called `end`, or the other side reads
 * no more.
 *
 * @category reasons
 * @since 0.1.0
 */
export class BrokenPipe extends Schema.TaggedError<BrokenPipe>()("BrokenPipe", {
  endpoint: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `cannot write to ${this.endpoint}: ${this.why}. To write more, connect again`
  }
}

/**
 * The thread of the other side has died. All it had written before was
 * delivered first.
 *
 * @category reasons
 * @since 0.1.0
 */
export class PeerDied extends Schema.TaggedError<PeerDied>()("PeerDied", {
  endpoint: Schema.String,
  bytesReceived: Schema.Finite
}) {
  override get message(): string {
    return `the peer ${this.endpoint} died after ${this.bytesReceived} bytes received: connect again when it is back`
  }
}

/**
 * The words of the connection's FIFOs make no sense: someone wrote to shared
 * memory what was not theirs. Only this connection is affected.
 *
 * @category reasons
 * @since 0.1.0
 */
export class CorruptSegment extends Schema.TaggedError<CorruptSegment>()("CorruptSegment", {
  endpoint: Schema.String
}) {
  override get message(): string {
    return `the shared memory of the connection with ${this.endpoint} is corrupt: connect again, and find who writes there`
  }
}

/**
 * No session layer has answered this thread, so its application could not
 * attach.
 *
 * @category reasons
 * @since 0.1.0
 */
export class NoHost extends Schema.TaggedError<NoHost>()("NoHost", {
  host: Schema.String,
  threadId: Schema.Finite
}) {
  override get message(): string {
    return `no session layer named ${JSON.stringify(this.host)} answers in thread ${this.threadId}: provide CutThroughNode.layer there, before or soon after this thread starts, and do not block that thread`
  }
}

/**
 * All reasons.
 *
 * @category models
 * @since 0.1.0
 */
export const Reason = Schema.Union([
  InvalidArgument,
  AlreadyListening,
  NoRoute,
  Scope,
  LocalConnect,
  Filtered,
  UnknownNamespace,
  WrongNamespaceSecret,
  QuotaExceeded,
  Refused,
  TimedOut,
  AllocFailed,
  Closed,
  Reset,
  BrokenPipe,
  PeerDied,
  CorruptSegment,
  NoHost
])

/**
 * All reasons.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * The error of every operation of cut-through.
 *
 * **Example** (Handling one reason)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Application.connect(Endpoint.tcp("127.0.0.1", 7000)).pipe(
 *   Effect.as("connected"),
 *   Effect.catchReason("SessionError", "NoRoute", () => Effect.succeed("nobody there")),
 *   Effect.scoped,
 *   Effect.provide(CutThrough.layer)
 * )
 *
 * await Effect.runPromise(program) // => "nobody there"
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class SessionError extends Schema.TaggedError<SessionError>()("SessionError", {
  reason: Reason
}) {
  override get message(): string {
    return this.reason.message
  }
}

/**
 * A `SessionError` with this reason.
 *
 * **Example** (Making one)
 *
 * ```ts
 * import { SessionError } from "@cut-through/core"
 *
 * SessionError.make(new SessionError.Closed({ what: "listener" })).reason._tag // => "Closed"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (reason: Reason): SessionError => new SessionError({ reason })
