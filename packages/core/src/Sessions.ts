/**
 * Who talks to whom, who may, and what is left: for people, tests and leak
 * checks.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type FifoInfo, fifoInfo } from "./Connection.ts"
import * as Endpoint from "./Endpoint.ts"
import * as Table from "./internal/Table.ts"
import type { Listener } from "./Listener.ts"
import * as HandleTable from "./runtime/HandleTable.ts"
import type { Side } from "./segment/SegmentContext.ts"
import type { AppScope } from "./session/App.ts"
import type { AppListener } from "./session/AppListener.ts"
import type { HalfOpen } from "./session/HalfOpen.ts"
import * as Namespace from "./session/Namespace.ts"
import type { Session, SessionId, State } from "./session/Session.ts"
import { type Residue, SessionLayer } from "./session/SessionLayer.ts"
import * as SessionRules from "./session/SessionRules.ts"
import type { Transport } from "./session/Transport.ts"
import * as SessionError from "./SessionError.ts"

// ---------------------------------------------------------------------------
// sessions
// ---------------------------------------------------------------------------

/**
 * One side of a connection, a connect that has no answer yet, or a listener.
 *
 * @category models
 * @since 0.1.0
 */
export type Kind = "session" | "half-open" | "listener"

/**
 * One side of a connection, one connect that has no answer yet, or one listener,
 * as it was when it was looked at.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionInfo {
  readonly kind: Kind
  /** `[worker:index][CT:T] local->remote`. */
  readonly name: string
  /** What {@link get} finds it by; only sessions have one. */
  readonly id: SessionId | undefined
  readonly transport: Pick<Transport, "name" | "shortName">
  /** The application it belongs to. */
  readonly application: string
  /** The application, and which of its workers; a listener is of all that serve it. */
  readonly app: string
  readonly namespace: string
  readonly worker: number
  readonly index: number
  /** The listener it has come through, dials, or is: what a rule redirects to. A client's session has none. */
  readonly listener: HandleTable.Handle | undefined
  /** A listener has none. */
  readonly side: Side | undefined
  readonly state: State | "half-open"
  readonly local: Endpoint.Endpoint
  /** Of a listener, the unspecified address and port 0. */
  readonly remote: Endpoint.Endpoint
  readonly rx: FifoInfo
  readonly tx: FifoInfo
  /** Whether this side has ended its stream. */
  readonly isTxEnded: boolean
  /** Whether the other side has ended its stream. */
  readonly isRxEnded: boolean
  /** Whether this side has closed by breaking off. */
  readonly isReset: boolean
  /** The segment its FIFOs lie in, and the listener that segment belongs to. */
  readonly segment: { readonly listener: string; readonly id: number } | undefined
}

const noFifo = fifoInfo(undefined)

const ofSession = (session: Session): SessionInfo => {
  const { app, handle, lease, listener, transport, worker } = session
  return {
    kind: "session",
    name: transport.formatSession(session),
    id: session.id,
    transport: { name: transport.name, shortName: transport.shortName },
    application: app.app.name,
    app: app.name,
    namespace: app.app.namespace.id,
    worker,
    index: HandleTable.indexOf(handle),
    listener: listener === HandleTable.NONE ? undefined : listener,
    side: session.side,
    state: session.state,
    local: session.local,
    remote: session.remote,
    rx: fifoInfo(session.rx),
    tx: fifoInfo(session.tx),
    isTxEnded: session.isTxEnded,
    isRxEnded: session.isRxEnded,
    isReset: session.isReset,
    segment: { listener: lease.segment.manager.name, id: lease.segment.id }
  }
}

const ofHalfOpen = (halfOpen: HalfOpen): SessionInfo => {
  const { client, handle, listener, local, remote, transport, worker } = halfOpen
  return {
    kind: "half-open",
    name: transport.formatHalfOpen(halfOpen),
    id: undefined,
    transport: { name: transport.name, shortName: transport.shortName },
    application: client.app.name,
    app: client.name,
    namespace: client.app.namespace.id,
    worker,
    index: HandleTable.indexOf(handle),
    listener,
    side: "client",
    state: "half-open",
    local,
    remote,
    rx: noFifo,
    tx: noFifo,
    isTxEnded: false,
    isRxEnded: false,
    isReset: false,
    segment: undefined
  }
}

const ofListener = (listener: AppListener, transport: Known): SessionInfo => {
  const { app, endpoint, handle } = listener
  return {
    kind: "listener",
    name: transport.formatListener(listener),
    id: undefined,
    transport: { name: transport.name, shortName: transport.shortName },
    application: app.name,
    app: app.name,
    namespace: app.namespace.id,
    worker: 0,
    index: HandleTable.indexOf(handle),
    listener: handle,
    side: undefined,
    state: "listening",
    local: endpoint,
    remote: Endpoint.withPort(Endpoint.unspecified(endpoint), 0),
    rx: noFifo,
    tx: noFifo,
    isTxEnded: false,
    isRxEnded: false,
    isReset: false,
    segment: undefined
  }
}

type Known = Pick<Transport, "name" | "shortName" | "formatListener">

/** For what no transport knows: that it is there is worth more than what it would be called. */
const noTransport: Known = {
  name: "none",
  shortName: "-",
  formatListener: ({ endpoint, handle }) => `[0:${HandleTable.indexOf(handle)}][-] ${Endpoint.format(endpoint)}->*`
}

/** Sessions by worker and index, then half-opens, then listeners: a listener once for each transport that knows it. */
const all = (layer: SessionLayer["Service"]): Array<SessionInfo> => {
  const transports = [...layer.transports]
  const infos: Array<SessionInfo> = []
  for (const session of layer.connections.sessions()) infos.push(ofSession(session))
  for (const halfOpen of layer.connections.halfOpens()) {
    infos.push(ofHalfOpen(halfOpen))
  }
  for (const listener of layer.listeners()) {
    const know = transports.filter((transport) => transport.getListener(listener.handle) === listener)
    for (const transport of know.length === 0 ? [noTransport] : know) infos.push(ofListener(listener, transport))
  }
  return infos
}

/**
 * All sessions by worker and index, then all half-opens, then all listeners.
 *
 * **Example** (Both ends of a connection, and the listener)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Application.connect(listener.address)
 *   const sessions = yield* Sessions.list
 *   return sessions.map((session) => `${session.kind} ${session.state}`)
 * })
 *
 * const states = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * states // => ["session ready", "session ready", "listener listening"]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const list: Effect.Effect<ReadonlyArray<SessionInfo>, never, SessionLayer> = Effect.map(SessionLayer, all)

/**
 * What to look for: all that is given has to be so.
 *
 * @category models
 * @since 0.1.0
 */
export interface Filter {
  readonly kind?: Kind | ReadonlyArray<Kind> | undefined
  readonly state?: SessionInfo["state"] | ReadonlyArray<SessionInfo["state"]> | undefined
  /** The name of an application, or of one of its workers. */
  readonly app?: string | undefined
  readonly namespace?: string | undefined
  /** Either end: port 0 is any port, `0.0.0.0` any IPv4 address and `::` any IPv6 address. */
  readonly endpoint?: Endpoint.Endpoint | undefined
}

const isOneOf = <A extends string>(wanted: A | ReadonlyArray<A> | undefined, actual: A): boolean =>
  wanted === undefined || (typeof wanted === "string" ? wanted === actual : wanted.includes(actual))

const isLike = (wanted: Endpoint.Endpoint, actual: Endpoint.Endpoint): boolean =>
  (wanted.port === 0 || wanted.port === actual.port) &&
  (Endpoint.isUnspecified(wanted) ? wanted._tag === actual._tag : Equal.equals(wanted.address, actual.address))

const matches = ({ app, endpoint, kind, namespace, state }: Filter, info: SessionInfo): boolean =>
  isOneOf(kind, info.kind) &&
  isOneOf(state, info.state) &&
  (app === undefined || app === info.application || app === info.app) &&
  (namespace === undefined || namespace === info.namespace) &&
  (endpoint === undefined || isLike(endpoint, info.local) || isLike(endpoint, info.remote))

/**
 * Those of {@link list} that a filter lets through.
 *
 * **Example** (One end of one connection)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const connection = yield* Application.connect(listener.address)
 *   yield* connection.end
 *   const [client] = yield* Sessions.find({ kind: "session", app: "default/0", endpoint: connection.info.local })
 *   const listening = yield* Sessions.find({ state: "listening", endpoint: Endpoint.tcp("0.0.0.0", 7000) })
 *   return [client.isRxEnded, listening.map(({ name }) => name)]
 * })
 *
 * const found = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * found // => [true, ["[0:0][CT:T] 127.0.0.1:7000->*"]]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const find = (filter: Filter): Effect.Effect<ReadonlyArray<SessionInfo>, never, SessionLayer> =>
  Effect.map(list, (infos) => infos.filter((info) => matches(filter, info)))

/**
 * The session with an id, if it is still there.
 *
 * @category inspection
 * @since 0.1.0
 */
export const get = ({ handle, worker }: SessionId): Effect.Effect<Option.Option<SessionInfo>, never, SessionLayer> =>
  Effect.map(SessionLayer, ({ connections, workers }) => {
    // Ids may come from anywhere, and tables are made for workers that exist.
    const session = workers[worker] === undefined ? undefined : connections.getSession(worker, handle)
    return session === undefined ? Option.none() : Option.some(ofSession(session))
  })

/**
 * A session that went from one state to another, and how it was at that moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Change {
  readonly info: SessionInfo
  readonly from: State
  readonly to: State
}

/**
 * Every change of state of every session while the stream runs. Costs nothing
 * as long as nobody listens; whoever listens and does not read keeps all that
 * has happened since.
 *
 * **Example** (The life of a session)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect, Fiber, Stream } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const states = Sessions.changes.pipe(
 *     Stream.filter(({ info }) => info.side === "client"),
 *     Stream.map(({ to }) => to),
 *     Stream.takeUntil((state) => state === "closed"),
 *     Stream.runCollect
 *   )
 *   const watching = yield* Effect.forkChild(states, { startImmediately: true })
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Effect.scoped(Application.connect(listener.address))
 *   return yield* Fiber.join(watching)
 * })
 *
 * const life = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * life // => ["connecting", "ready", "closing", "app-closed", "closed"]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const changes: Stream.Stream<Change, never, SessionLayer> = Stream.unwrap(
  Effect.flatMap(SessionLayer, (layer) =>
    Effect.map(
      // When it happens: later the session has changed again, and its FIFOs may be somebody else's.
      layer.changes.subscribeWith(({ from, session, to }): Change => ({ info: ofSession(session), from, to })),
      Stream.fromQueue
    )
  )
)

/** The words of `ss` and `netstat` where there is one for the state. */
const formatState = (state: SessionInfo["state"]): string =>
  state === "ready" ? "ESTABLISHED" : state === "listening" ? "LISTEN" : state.toUpperCase()

const NOTHING = "no sessions"

/**
 * All sessions, half-opens and listeners as a table: name, state, and the bytes
 * in both FIFOs, as VPP's `show session` has them.
 *
 * ```text
 * Connection                                   State        Rx-f  Tx-f
 * [1:0][CT:T] 127.0.0.1:7000->127.0.0.1:49152  ESTABLISHED  5     0
 * [1:1][CT:T] 127.0.0.1:49152->127.0.0.1:7000  ESTABLISHED  0     5
 * [0:0][CT:T] 127.0.0.1:7000->*                LISTEN       0     0
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format: Effect.Effect<string, never, SessionLayer> = Effect.map(list, (infos) =>
  Table.format(
    ["Connection", "State", "Rx-f", "Tx-f"],
    infos.map(({ name, rx, state, tx }) => [name, formatState(state), String(rx.used), String(tx.used)]),
    NOTHING
  )
)

/**
 * {@link format} with all that is known: how large the FIFOs are, which
 * directions are over, whose it is, and where its FIFOs lie, as VPP's
 * `show session verbose` has it. A segment goes by its listener and its place
 * among those of that listener, as in `Segments.format`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatVerbose: Effect.Effect<string, never, SessionLayer> = Effect.map(list, (infos) =>
  Table.format(
    ["Connection", "State", "Rx-f", "Tx-f", "Flags", "App", "Namespace", "Segment"],
    infos.map((info) => [
      info.name,
      formatState(info.state),
      `${info.rx.used}/${info.rx.size}`,
      `${info.tx.used}/${info.tx.size}`,
      formatFlags(info),
      info.app,
      info.namespace,
      info.segment === undefined ? "-" : `${info.segment.listener} #${info.segment.id}`
    ]),
    NOTHING
  )
)

const formatFlags = ({ isReset, isRxEnded, isTxEnded }: SessionInfo): string => {
  const flags: Array<string> = []
  if (isRxEnded) flags.push("rx-ended")
  if (isTxEnded) flags.push("tx-ended")
  if (isReset) flags.push("reset")
  return flags.length === 0 ? "-" : flags.join(",")
}

/**
 * What is left of everything that was made: at rest, zeros.
 *
 * @category inspection
 * @since 0.1.0
 */
export const residue: Effect.Effect<Residue, never, SessionLayer> = Effect.map(SessionLayer, (layer) => layer.residue())

// ---------------------------------------------------------------------------
// namespaces
// ---------------------------------------------------------------------------

/**
 * A namespace, and how many live in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface NamespaceInfo {
  readonly id: string
  /** Whether applications need a secret to attach. */
  readonly hasSecret: boolean
  readonly apps: number
  readonly listeners: number
  readonly rules: number
}

/**
 * Adds a namespace until the scope closes: then nobody new comes in, and those
 * who are attached stay. Fails with `InvalidArgument` when there is one of this
 * name.
 *
 * **Example** (Out of each other's sight)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   yield* Sessions.addNamespace({ id: "payments", secret: "correct horse" })
 *   const payments = yield* Application.make({
 *     name: "payments",
 *     namespace: "payments",
 *     namespaceSecret: "correct horse"
 *   })
 *   const listener = yield* payments.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const error = yield* Effect.flip(Application.connect(listener.address))
 *   return error.reason._tag
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => "NoRoute"
 * ```
 *
 * @category namespaces
 * @since 0.1.0
 */
export const addNamespace = (options: {
  readonly id: string
  readonly secret?: string | Redacted.Redacted | undefined
}): Effect.Effect<void, SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.flatMap(SessionLayer, (layer) =>
    Effect.acquireRelease(layer.addNamespace(options.id, options.secret), (namespace) =>
      Effect.sync(() => layer.removeNamespace(namespace))
    )
  )

/**
 * The namespaces, in the order in which they were added.
 *
 * @category namespaces
 * @since 0.1.0
 */
export const namespaces: Effect.Effect<ReadonlyArray<NamespaceInfo>, never, SessionLayer> = Effect.map(
  SessionLayer,
  (layer) =>
    Array.from(layer.namespaces(), (namespace) => {
      let apps = 0
      let listeners = 0
      for (const app of layer.apps()) {
        if (app.namespace !== namespace) continue
        apps++
        listeners += app.listeners.size
      }
      return {
        id: namespace.id,
        hasSecret: namespace.secret !== undefined,
        apps,
        listeners,
        rules: namespace.rules.size
      }
    })
)

// ---------------------------------------------------------------------------
// rules
// ---------------------------------------------------------------------------

/**
 * A rule for connects, and for whose.
 *
 * @category models
 * @since 0.1.0
 */
export interface RuleOptions extends Omit<SessionRules.Rule, "action"> {
  /** What becomes of a connect that matches: it goes on, it fails, or it reaches a listener, whatever it has dialled. */
  readonly action: "allow" | "drop" | { readonly redirect: Listener | HandleTable.Handle }
  /**
   * Where the rule is looked at: by connects that look for a listener within the
   * namespace (`"local"`), by those that look among all (`"global"`), or by both
   * (the default).
   */
  readonly scope?: AppScope | undefined
  /** Whose local connects. Default: those of the namespace of all who name none. */
  readonly namespace?: string | undefined
}

/**
 * A rule, and how many connects it has decided.
 *
 * @category models
 * @since 0.1.0
 */
export interface RuleInfo extends Readonly<SessionRules.CompiledRule> {
  readonly scope: "local" | "global"
  /** Of a global rule, none. */
  readonly namespace: string | undefined
}

/**
 * Adds a rule until the scope closes. Of several rules that match a connect the
 * longest decides; of two that match exactly the same the one that came later,
 * as long as it is there. Fails with `InvalidArgument` when it is not a rule,
 * and with `UnknownNamespace`.
 *
 * **Example** (Nobody connects to port 25)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 25))
 *   yield* Sessions.addRule({ remotePort: 25, action: "drop", tag: "no-mail" })
 *   const error = yield* Effect.flip(Application.connect(listener.address))
 *   return [error.reason._tag, (yield* Sessions.rules).map(({ hits, scope }) => `${scope} ${hits}`)]
 * })
 *
 * const result = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * result // => ["Filtered", ["global 0", "local 1"]]
 * ```
 *
 * **Example** (To another listener)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Sessions.addRule({ remote: "10.0.0.0/8", action: { redirect: listener } })
 *   yield* Application.connect(Endpoint.tcp("10.1.2.3", 80))
 *   const server = yield* listener.accept
 *   return Endpoint.format(server.info.local)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer))) // => "10.1.2.3:80"
 * ```
 *
 * @category rules
 * @since 0.1.0
 */
export const addRule = (
  options: RuleOptions
): Effect.Effect<void, SessionError.SessionError, SessionLayer | Scope.Scope> =>
  Effect.flatMap(SessionLayer, (layer) =>
    Effect.asVoid(
      Effect.acquireRelease(
        Effect.try({
          try: () => {
            const rule = SessionRules.compile(toRule(layer, options))
            return tablesOf(layer, options).map((rules) => ({ rules, held: hold(rules, rule) }))
          },
          catch: (error) => {
            if (error instanceof SessionError.SessionError) return error
            throw error
          }
        }),
        (all) =>
          Effect.sync(() => {
            for (const { held, rules } of all) letGo(rules, held)
          })
      )
    )
  )

const invalid = (what: string, value: string, expected: string): SessionError.SessionError =>
  SessionError.make(new SessionError.InvalidArgument({ what, value, expected }))

const toRule = (layer: SessionLayer["Service"], { action, ...rule }: RuleOptions): SessionRules.Rule => {
  if (action === "allow" || action === "drop") return { ...rule, action }
  const redirect = typeof action.redirect === "number" ? action.redirect : action.redirect.handle
  if (layer.getListener(redirect) === undefined) {
    throw invalid("the redirect", String(redirect), "a listener that listens, or its handle")
  }
  return { ...rule, action: { redirect } }
}

const tablesOf = (
  layer: SessionLayer["Service"],
  { namespace, scope = "both" }: RuleOptions
): ReadonlyArray<SessionRules.SessionRules> => {
  if (!["local", "global", "both"].includes(scope)) {
    throw invalid("the scope of the rule", JSON.stringify(scope), '"local", "global" or "both"')
  }
  if (scope === "global") {
    if (namespace === undefined) return [layer.global.rules]
    throw invalid(
      "the namespace of a global rule",
      JSON.stringify(namespace),
      "none: it is for those of all namespaces"
    )
  }
  const id = namespace ?? Namespace.DEFAULT
  const local = layer.getNamespace(id)
  if (local === undefined) throw SessionError.make(new SessionError.UnknownNamespace({ namespace: id }))
  return scope === "local" ? [local.rules] : [local.rules, layer.global.rules]
}

/** A rule as long as its scope is open, and the one that matches exactly the same and comes back after it. */
interface Held {
  rule: SessionRules.CompiledRule
  isOpen: boolean
  below: Held | undefined
}

const holders = new WeakMap<SessionRules.CompiledRule, Held>()

const firstOpen = (held: Held | undefined): Held | undefined =>
  held === undefined || held.isOpen ? held : firstOpen(held.below)

const hold = (rules: SessionRules.SessionRules, rule: SessionRules.Rule): Held => {
  const before = [...rules]
  const added = rules.add(rule)
  const after = new Set(rules)
  const replaced = before.find((other) => !after.has(other))
  const below = replaced && holders.get(replaced)
  // Cut off what has gone, or one that is replaced again and again would keep all that came before it.
  if (below !== undefined) below.below = firstOpen(below.below)
  const held = { rule: added, isOpen: true, below }
  holders.set(added, held)
  return held
}

const letGo = (rules: SessionRules.SessionRules, held: Held): void => {
  held.isOpen = false
  if (!rules.remove(held.rule)) return
  const below = firstOpen(held.below)
  if (below === undefined) return
  const { hits } = below.rule
  below.rule = rules.add(below.rule)
  below.rule.hits = hits
  holders.set(below.rule, below)
}

const ruleTables = ({ global, namespaces }: SessionLayer["Service"]) => {
  const tables: Array<Pick<RuleInfo, "scope" | "namespace"> & { readonly rules: SessionRules.SessionRules }> = [
    { scope: "global", namespace: undefined, rules: global.rules }
  ]
  for (const { id, rules } of namespaces()) tables.push({ scope: "local", namespace: id, rules })
  return tables
}

/**
 * All rules: the global ones, then those of each namespace, in the order in
 * which they are tried.
 *
 * @category rules
 * @since 0.1.0
 */
export const rules: Effect.Effect<ReadonlyArray<RuleInfo>, never, SessionLayer> = Effect.map(SessionLayer, (layer) =>
  ruleTables(layer).flatMap(({ namespace, rules, scope }) =>
    Array.from(rules, (rule) => ({ ...rule, scope, namespace }))
  )
)

/**
 * All rules as VPP's `show session rules` has them.
 *
 * ```text
 * global rules
 * [tcp] *:*  -> *:25  action drop  tag no-mail  hits 0
 * rules of namespace default
 * [tcp] *:*  -> *:25  action drop  tag no-mail  hits 1
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatRules: Effect.Effect<string, never, SessionLayer> = Effect.map(SessionLayer, (layer) => {
  const tables = ruleTables(layer).filter(({ rules }) => !rules.isEmpty)
  if (tables.length === 0) return "no session rules"
  return tables
    .map(({ namespace, rules }) =>
      [
        namespace === undefined ? "global rules" : `rules of namespace ${namespace}`,
        Table.align(Array.from(rules, SessionRules.row))
      ].join("\n")
    )
    .join("\n")
})

// ---------------------------------------------------------------------------
// metrics
// ---------------------------------------------------------------------------

const sizeOf = (values: Iterable<unknown>): number => {
  let size = 0
  for (const _ of values) size++
  return size
}

/** The gauges: what there is now. */
const gauges: { readonly [name: string]: readonly [string, (layer: SessionLayer["Service"]) => number] } = {
  sessions: ["Sides of connections", ({ connections }) => connections.counts().sessions],
  half_opens: ["Connects that have no answer yet", ({ connections }) => connections.counts().halfOpens],
  listeners: ["Listeners", ({ listeners }) => sizeOf(listeners())],
  apps: ["Attached applications", ({ apps }) => sizeOf(apps())],
  segments: ["Shared segments", ({ segments }) => segments.stats().segments.length],
  fifo_bytes: ["Bytes in chunks of FIFOs", ({ segments }) => segments.stats().fifoBytes],
  leases: ["Leases on segments", ({ segments }) => segments.stats().leases]
}

/** The counters: what has happened since the session layer was made. */
const counters: { readonly [name: string]: readonly [string, (layer: SessionLayer["Service"]) => number] } = {
  connects_total: ["Connects that were started", ({ counters }) => counters.connects],
  connected_total: ["Connects that were answered with a session", ({ counters }) => counters.connected],
  closed_total: ["Sessions that were closed gracefully", ({ counters }) => counters.closed],
  resets_total: ["Sessions that were broken off", ({ counters }) => counters.reset]
}

const failures = [
  ...new Set(SessionError.Reason.members.map((reason) => reason.fields._tag.schema.literal))
] satisfies ReadonlyArray<SessionError.Reason["_tag"]>

/**
 * Makes the session layer's numbers metrics, until the scope closes:
 * `cut_through_sessions`, `_half_opens`, `_listeners`, `_apps`, `_segments`,
 * `_fifo_bytes` and `_leases` are gauges; `cut_through_connects_total`,
 * `_connected_total`, `_closed_total`, `_resets_total`, and
 * `_connect_failures_total` with the `reason` as attribute, are counters.
 *
 * They are looked up when somebody asks for a snapshot, and cost nothing in
 * between. Two session layers need different `Metric.CurrentMetricAttributes`,
 * or the later one takes the place of the earlier.
 *
 * **Example** (A snapshot)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Sessions } from "@cut-through/core"
 * import { Effect, Layer, Metric } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Application.connect(listener.address)
 *   const metrics = yield* Metric.snapshot
 *   return metrics.find(({ id }) => id === "cut_through_sessions")?.state
 * })
 *
 * const layer = Layer.provideMerge(Sessions.layerMetrics, CutThrough.layer)
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer))) // => { value: 2 }
 * ```
 *
 * @category metrics
 * @since 0.1.0
 */
export const layerMetrics: Layer.Layer<never, never, SessionLayer> = Layer.effectDiscard(
  Effect.gen(function* () {
    const layer = yield* SessionLayer
    const context = yield* Effect.context<never>()
    const register = <Input, State>(metric: Metric.Metric<Input, State>, get: () => State) =>
      Effect.acquireRelease(
        Effect.sync(() => Metric.registerUnsafe(metric, context, { get, update() {}, modify() {} })),
        (registration) => Effect.sync(() => registration.remove())
      )
    for (const [name, [description, read]] of Object.entries(gauges)) {
      yield* register(Metric.gauge(`cut_through_${name}`, { description }), () => ({ value: read(layer) }))
    }
    for (const [name, [description, read]] of Object.entries(counters)) {
      yield* register(Metric.counter(`cut_through_${name}`, { description, incremental: true }), () => ({
        count: read(layer),
        incremental: true
      }))
    }
    for (const reason of failures) {
      const metric = Metric.counter("cut_through_connect_failures_total", {
        description: "Connects that were answered with an error",
        attributes: { reason },
        incremental: true
      })
      yield* register(metric, () => ({ count: layer.counters.failed.get(reason) ?? 0, incremental: true }))
    }
  })
)
