/**
 * What the session layer promises, as one machine that does one thing at a time. No FIFOs, no tables, no locks, no
 * fibers: a connection is two byte counters with a limit, a segment is five numbers, and every operation says what
 * becomes of it and of all that waited for it.
 *
 * Where several outcomes are right, the machine looks at what has happened and checks that it is one of them: which of
 * two equally empty segments was taken, how many bytes a read got that had to wait. Where the order of two events is
 * nobody's promise, it has one successor for each order.
 */
import { misplaced } from "../fixtures.ts"

// ---------------------------------------------------------------------------
// steps
// ---------------------------------------------------------------------------

export type SideName = "client" | "server"

const sides = ["client", "server"] as const

export interface AppOptions {
  readonly name: string
  /** The thread it lives in; 0 is that of the session layer. */
  readonly place: number
  readonly namespace: string
  readonly secret: string | undefined
  readonly scope: "local" | "global" | "both"
  readonly workers: number
  readonly rx: number
  readonly tx: number
  /** Pairs of FIFOs that one segment holds. */
  readonly pairs: number
  /** Bytes that are set aside for one pair. */
  readonly pairBytes: number
  readonly linger: number
  readonly isObserved: boolean
  readonly maxSessions: number
  readonly maxHalfOpens: number
  readonly maxPending: number
  /** The quota of FIFO memory, in pairs. */
  readonly maxPairs: number
}

export interface RuleOptions {
  readonly host: string | undefined
  readonly bits: number
  readonly port: number
  readonly scope: "local" | "global" | "both"
  /** A redirect names the binding whose listener is meant. */
  readonly action: "allow" | "drop" | { readonly redirect: number }
}

/** One operation. Everything in it is a name: of an application, a binding, a connection (by its client's port). */
export type Step = { readonly id: number } & (
  | { readonly op: "attach"; readonly app: number; readonly options: AppOptions }
  | { readonly op: "detach"; readonly app: number }
  /** Its thread dies. */
  | { readonly op: "kill"; readonly app: number }
  | {
      readonly op: "listen"
      readonly binding: number
      readonly app: number
      readonly workers: ReadonlyArray<number>
      readonly host: string
      readonly port: number
      readonly backlog: number
      readonly approval: "listener" | "application"
      readonly isProxy: boolean
    }
  | { readonly op: "unlisten"; readonly binding: number }
  | {
      readonly op: "connect"
      readonly app: number
      readonly worker: number
      readonly host: string
      readonly port: number
    }
  | { readonly op: "accept"; readonly binding: number }
  | { readonly op: "request"; readonly binding: number }
  | { readonly op: "say yes"; readonly request: number }
  | { readonly op: "say no"; readonly request: number }
  | {
      readonly op: "write"
      readonly port: number
      readonly side: SideName
      /** Where in the pattern its bytes come from. */
      readonly at: number
      readonly length: number
    }
  | { readonly op: "read"; readonly port: number; readonly side: SideName; readonly length: number }
  | { readonly op: "end"; readonly port: number; readonly side: SideName }
  | { readonly op: "close"; readonly port: number; readonly side: SideName }
  | { readonly op: "reset"; readonly port: number; readonly side: SideName }
  /** At rest, or while something is under way. */
  | { readonly op: "interrupt"; readonly target: number; readonly isAtRest: boolean }
  /** Breaks off all that it has in hand: the first step of detaching in another thread. */
  | { readonly op: "leave"; readonly app: number }
  /** Who waited was given something and interrupted before it was there: the next one who asks gets it. */
  | { readonly op: "keep"; readonly target: number }
  /** Who waited was given something and interrupted before it had it in hand. */
  | { readonly op: "discard"; readonly target: number }
  | { readonly op: "add rule"; readonly rule: number; readonly options: RuleOptions }
  | { readonly op: "remove rule"; readonly rule: number }
  | { readonly op: "read events"; readonly app: number }
  | { readonly op: "memory"; readonly mode: MemoryMode; readonly left: number }
  | { readonly op: "grant"; readonly succeeds: boolean }
  | { readonly op: "advance"; readonly millis: number }
)

/** Memory comes at once, or when it is granted, or a few times more and then no more. */
export type MemoryMode = "free" | "slow" | "short"

// ---------------------------------------------------------------------------
// what is seen
// ---------------------------------------------------------------------------

/** How an operation has ended: `success`, or the reason why not; and what it returned. */
export interface Ended {
  readonly outcome: string
  readonly bytes?: Uint8Array | undefined
  readonly events?: ReadonlyArray<string> | undefined
  /** Bytes that had arrived when it failed. */
  readonly received?: number | undefined
}

export interface SeenSession {
  readonly state: string
  readonly worker: string
  readonly segment: number
  readonly isTxEnded: boolean
  readonly isRxEnded: boolean
  readonly unread: number
}

/** What is there once everything has come to rest after a step. */
export interface Seen {
  /** Operations that have ended in this step. */
  readonly ended: ReadonlyMap<number, Ended>
  /** By `side:port`. */
  readonly sessions: ReadonlyMap<string, SeenSession>
  /** The ports of clients whose connect has no answer. */
  readonly halfOpens: ReadonlySet<number>
  /** Bytes that a side has published so far. */
  readonly sent: (side: SideName, port: number) => number
  /** Free units of memory in a segment, by the number that sessions are seen with. */
  readonly units: (segment: number) => number
  /** The same before the step. */
  readonly unitsBefore: (segment: number) => number
  /** One line for each segment, application and so on: compared with the machine's own. */
  readonly summary: ReadonlyArray<string>
}

/** Thrown where what is seen is not what is right. */
export class Mismatch extends Error {}

const fail = (message: string): never => {
  throw new Mismatch(message)
}

const check = (condition: boolean, message: () => string): void => {
  if (!condition) fail(message())
}

// ---------------------------------------------------------------------------
// state
// ---------------------------------------------------------------------------

interface AppState extends AppOptions {
  isAttached: boolean
  /** Whether its thread has died. */
  isDead: boolean
  sessions: number
  halfOpens: number
  unaccepted: number
  /** Pairs of FIFOs of the connections it serves, until both sides have let go of them. */
  held: number
  /** Events it has not read. */
  told: Array<string>
}

interface ListenerState {
  readonly app: number
  readonly host: string
  readonly port: number
  readonly isProxy: boolean
  readonly approval: "listener" | "application"
  /** The tables it is found in: namespaces, and `global`. */
  readonly tables: ReadonlyArray<string>
  servers: Array<number>
  next: number
  isOpen: boolean
}

/** A worker that serves a listener; its segments are its own. */
interface ServerState {
  readonly listener: number
  readonly app: number
  readonly worker: number
  readonly binding: number
}

interface BindingState {
  readonly app: number
  readonly listener: number
  readonly limit: number
  isOpen: boolean
  /** Connections that nobody has accepted yet, by their client's port, oldest first. */
  waiting: Array<number>
  /** Who waits for one, oldest first. */
  accepters: Array<Accepter>
  /** Those that came for somebody who had given up in another thread. */
  kept: Array<Kept>
}

interface Kept {
  readonly port: number
  readonly isRequest: boolean
  readonly isReady: boolean
}

interface Accepter {
  readonly id: number
  readonly isRequest: boolean
}

interface SegmentState {
  readonly server: number
  readonly client: string
  /** The number it is seen with, once it was. */
  seen: number
  pairs: number
  clients: number
  servers: number
  isClientDetached: boolean
  isServerDetached: boolean
  lingers: boolean
  /** Whether the thread of one side has died. */
  isCondemned: boolean
  /** Whether those who share it have been told of it. */
  isAnnounced: boolean
  /** When its last connection has gone. */
  drainedAt: number
  /** Free units, as they were before the step: how many of them bytes take is not the machine's business. */
  units: number
}

/** A segment that was made, or why there is none. */
type Grown = number | "AllocFailed" | "PeerDied"

interface ConnectState {
  readonly id: number
  readonly app: number
  readonly worker: number
  readonly host: string
  readonly port: number
  server: number
  /** Whether it waits for its answer. */
  isOpen: boolean
}

interface Pipe {
  readonly size: number
  /** What was written, and where in the pattern it comes from: runs of bytes. */
  runs: Array<{ readonly at: number; length: number }>
  sent: number
  read: number
  /** Who waits to write, oldest first, and what is left of it. */
  writes: Array<{ readonly id: number; at: number; left: number; isOver: boolean }>
  /** Who waits to read; `exact` bytes when they were there already. */
  reads: Array<{ readonly id: number; readonly length: number; readonly exact: number | undefined }>
  isEnded: boolean
  isStopped: boolean
  isReset: boolean
  /** Whether the thread of one of its ends has died. */
  isGone: boolean
  /** Whether its writer waits for memory: whatever is read makes it look again. */
  isStarved: boolean
}

interface SideState {
  readonly app: number
  readonly worker: number
  state: "none" | "accepting" | "ready" | "transport-closing" | "gone"
  /** Whether it holds its lease. */
  isLeased: boolean
  isTxEnded: boolean
  isRxEnded: boolean
}

interface ConnectionState {
  readonly segment: number
  readonly server: SideState
  readonly client: SideState
  /** To the server, and to the client. */
  readonly toServer: Pipe
  readonly toClient: Pipe
  isUnaccepted: boolean
}

interface RequestState {
  readonly port: number
  /** Whether the listener had said yes already when it was taken. */
  readonly isReady: boolean
  answer: "none" | "yes" | "no"
}

interface State {
  now: number
  nextPort: number
  readonly namespaces: ReadonlyArray<{ readonly id: string; readonly secret: string | undefined }>
  apps: Record<number, AppState>
  listeners: Array<ListenerState>
  servers: Array<ServerState>
  bindings: Record<number, BindingState>
  segments: Record<number, SegmentState>
  nextSegment: number
  connects: Record<number, ConnectState>
  connections: Record<number, ConnectionState>
  /** Those of which something is left, by their client's port. */
  live: Array<number>
  /** Connects without an answer, by their port. */
  open: Array<number>
  requests: Record<number, RequestState>
  rules: Record<number, RuleOptions>
  mode: MemoryMode
  left: number
  /** Connects that wait for memory, oldest first: the first one's is on its way. */
  waiting: Array<number>
  started: number
  connected: number
  failed: Record<string, number>
  closed: number
  reset: number
  /** Operations without an outcome that are not in a pipe: connects and accepts. */
  pending: Array<number>
}

const FIRST_PORT = 49152

/** How what waits at one end may end when both are closed. */
const CLOSINGS = ["Closed", "Reset", "Done", "BrokenPipe", "PeerDied"]

/** How everything ends that was asked of an application whose thread has died. */
const DEAD = "Die"

const isLoopback = (host: string): boolean => host === "::1" || host.startsWith("127.")
const isUnspecified = (host: string): boolean => host === "::" || host === "0.0.0.0"
const isSix = (host: string): boolean => host.includes(":")
const anyHost = (host: string): string => (isSix(host) ? "::" : "0.0.0.0")

export const formatAddress = (host: string, port: number): string =>
  isSix(host) ? `[${host}]:${port}` : `${host}:${port}`

/** In which order things have happened that were free to go on at once. */
interface Order {
  /**
   * Each connect that gets memory finds its place in it, tells who has not heard of that memory, and knocks at the
   * listener: who takes the next of these steps, the first in line (0) or the second (1).
   */
  readonly turns: ReadonlyArray<0 | 1>
  /** Whether who waits in `accept` takes a connection when it comes, or when all have come. */
  readonly isAcceptedLater: boolean
}

const PATIENCE = 3

/** All ways to merge three turns of each of two, of which the first one begins. */
const merges = (zeros: number, ones: number): ReadonlyArray<ReadonlyArray<0 | 1>> => {
  if (zeros === 0) return [new Array<1>(ones).fill(1)]
  if (ones === 0) return [new Array<0>(zeros).fill(0)]
  return [
    ...merges(zeros - 1, ones).map((rest) => [0 as const, ...rest]),
    ...merges(zeros, ones - 1).map((rest) => [1 as const, ...rest])
  ]
}

const orders: ReadonlyArray<Order> = [false, true].flatMap((isAcceptedLater) =>
  merges(PATIENCE - 1, PATIENCE).map((rest) => ({ turns: [0, ...rest], isAcceptedLater }))
)

const soon = orders[0]

const late: Order = { ...soon, isAcceptedLater: true }

// ---------------------------------------------------------------------------
// machine
// ---------------------------------------------------------------------------

export class Model {
  private readonly s: State
  /** What the operations that end in this step end with. Those in a pipe are looked at there. */
  private outcomes = new Map<number, string>()
  /** How much those had received that end with an error which says so. */
  private received = new Map<number, number>()
  /** Who was woken in `accept` or `request` and looks later. */
  private woken: Array<{ readonly binding: number; readonly accepter: Accepter }> = []
  private isAcceptedLater = false

  private constructor(state: State) {
    this.s = state
  }

  static make(namespaces: State["namespaces"]): Model {
    return new Model({
      now: 0,
      nextPort: FIRST_PORT,
      namespaces,
      apps: {},
      listeners: [],
      servers: [],
      bindings: {},
      segments: {},
      nextSegment: 1,
      connects: {},
      connections: {},
      live: [],
      open: [],
      requests: {},
      rules: {},
      mode: "free",
      left: 0,
      waiting: [],
      started: 0,
      connected: 0,
      failed: {},
      closed: 0,
      reset: 0,
      pending: []
    })
  }

  clone(): Model {
    return new Model(structuredClone(this.s))
  }

  /** The same for machines that are in the same state. */
  get key(): string {
    return JSON.stringify(this.s)
  }

  /** Connects that wait for memory, those included that were given up. */
  get waitingForMemory(): number {
    return this.s.waiting.length
  }

  /** Events that an application has not read. */
  unread(app: number): number {
    return this.s.apps[app].told.length
  }

  private isAmbiguous(steps: ReadonlyArray<Step>): boolean {
    return this.s.waiting.length > 1 && steps.some(({ op }) => op === "grant")
  }

  /** The orders in which things can happen in these steps. */
  orders(steps: ReadonlyArray<Step>): ReadonlyArray<Order> {
    return this.isAmbiguous(steps) ? orders : steps.length > 1 ? [soon, late] : [soon]
  }

  /** Whether somebody else waits to write behind this one. */
  isFollowed(target: number): boolean {
    return this.s.live.some((port) => {
      const { toClient, toServer } = this.s.connections[port]
      return [toClient, toServer].some(({ writes }) => writes.slice(0, -1).some(({ id }) => id === target))
    })
  }

  /** Does the steps, and throws a `Mismatch` where that is not what was seen. */
  step(steps: ReadonlyArray<Step>, seen: Seen, order: Order): void {
    this.outcomes = new Map()
    this.received = new Map()
    this.isAcceptedLater = order.isAcceptedLater
    for (const segment of Object.values(this.s.segments)) {
      segment.units = segment.seen === 0 ? Infinity : seen.unitsBefore(segment.seen)
    }
    const dead = steps.flatMap((step) => (step.op === "kill" ? [step.app] : []))
    const lost = this.pendingOf(dead)
    const leaving = steps.length > 1 ? steps.flatMap((step) => (step.op === "detach" ? [step.app] : [])) : []
    const abandoned = this.pendingOf(leaving)
    const waiting = steps.length > 1 ? this.waitingAtBothEnds() : []
    for (const step of steps) this.perform(step, seen, order)
    // Whatever came of it, nobody there is left to hear that.
    for (const id of lost) this.ends(id, DEAD)
    for (const step of dead.length > 0 ? steps : []) {
      if (step.op === "write" && dead.includes(this.s.connections[step.port][step.side].app)) {
        this.ends(step.id, `${DEAD} or success`)
      }
    }
    // In another thread, what comes for an application that leaves does not reach it any more.
    for (const id of [...abandoned, ...steps.filter((step) => this.isOf(step, leaving)).map(({ id }) => id)]) {
      const outcome = this.outcomes.get(id) ?? ""
      if (outcome.startsWith("success ")) this.ends(id, `${outcome} or Closed`)
    }
    // Whose two ends are closed at the same time hears of the one or of the other, whichever the session layer hears first.
    for (const [port, ids] of waiting) {
      for (const id of this.isOver(port) ? ids : []) {
        const [outcome] = (this.outcomes.get(id) ?? "").split(" or ")
        if (CLOSINGS.includes(outcome)) this.ends(id, CLOSINGS.join(" or "))
      }
    }
    for (const { accepter, binding } of this.woken.splice(0)) this.look(binding, accepter)
    this.nameSegments(seen)
    for (const port of this.s.live) {
      this.settle(port, "client", this.s.connections[port], seen)
      this.settle(port, "server", this.s.connections[port], seen)
    }
    this.compare(seen)
    this.s.live = this.s.live.filter((port) => {
      const { client, server } = this.s.connections[port]
      return client.isLeased || server.isLeased
    })
  }

  private perform(step: Step, seen: Seen, order: Order): void {
    switch (step.op) {
      case "attach":
        return this.attach(step)
      case "detach":
        return this.detach(step)
      case "leave":
        return this.leaveHands(step.app)
      case "kill":
        return this.kill(step)
      case "listen":
        return this.listen(step)
      case "unlisten":
        this.unlisten(step.binding)
        return this.ends(step.id, "success")
      case "connect":
        return this.connect(step, seen)
      case "accept":
      case "request":
        return this.accept(step)
      case "say yes":
        return this.sayYes(step)
      case "say no":
        this.sayNo(step.request)
        return this.ends(step.id, "success")
      case "write":
      case "read":
        return this.transfer(step)
      case "end":
        this.end(step.port, step.side)
        return this.ends(step.id, "success")
      case "close":
      case "reset":
        this.close(step.port, step.side, step.op === "reset")
        return this.ends(step.id, "success")
      case "interrupt":
        return this.interrupt(step.target, step.isAtRest)
      case "discard":
        return this.discard(step.target)
      case "keep":
        return this.keep(step.target)
      case "add rule":
        return this.addRule(step)
      case "remove rule":
        delete this.s.rules[step.rule]
        return this.ends(step.id, "success")
      case "read events":
        return this.readEvents(step, seen)
      case "memory":
        this.s.mode = step.mode
        this.s.left = step.left
        return
      case "grant":
        return this.grant(step.succeeds, seen, order)
      case "advance":
        return this.advance(step.millis)
    }
  }

  /** Whether one of these applications, in another thread, waits for what becomes of a step. */
  private isOf(step: Step, apps: ReadonlyArray<number>): boolean {
    const { bindings, connections, requests } = this.s
    const app =
      step.op === "connect"
        ? step.app
        : step.op === "accept" || step.op === "request"
          ? bindings[step.binding].app
          : step.op === "say yes"
            ? connections[requests[step.request].port].server.app
            : undefined
    return app !== undefined && apps.includes(app) && this.s.apps[app].place > 0
  }

  private isOver(port: number): boolean {
    const { client, server } = this.s.connections[port]
    return client.state === "gone" && server.state === "gone"
  }

  /** Who waits at connections of which neither end is closed. */
  private waitingAtBothEnds(): ReadonlyArray<readonly [port: number, ids: ReadonlyArray<number>]> {
    const { connections, live } = this.s
    return live
      .filter((port) =>
        sides.every(
          (side) => connections[port][side].state === "ready" || connections[port][side].state === "transport-closing"
        )
      )
      .map((port) => {
        const { toClient, toServer } = connections[port]
        const ids = [toClient, toServer].flatMap(({ reads, writes }) => [...reads, ...writes].map(({ id }) => id))
        return [port, ids] as const
      })
  }

  /** What these applications wait for. */
  private pendingOf(apps: ReadonlyArray<number>): ReadonlyArray<number> {
    if (apps.length === 0) return []
    const { bindings, connections, connects, live, open } = this.s
    const found: Array<number> = []
    for (const port of open) if (apps.includes(connects[port].app)) found.push(connects[port].id)
    for (const { accepters, app } of Object.values(bindings)) {
      if (apps.includes(app)) found.push(...accepters.map(({ id }) => id))
    }
    for (const port of live) {
      for (const side of sides) {
        if (!apps.includes(connections[port][side].app)) continue
        const { rx, tx } = this.pipes(connections[port], side)
        found.push(...[...rx.reads, ...tx.writes].map(({ id }) => id))
      }
    }
    return found
  }

  private ends(id: number, outcome: string): void {
    this.outcomes.set(id, outcome)
    const at = this.s.pending.indexOf(id)
    if (at >= 0) this.s.pending.splice(at, 1)
  }

  private endAll(those: ReadonlyArray<{ readonly id: number; readonly isOver?: boolean }>, outcome: string): void {
    for (const { id, isOver } of those) if (isOver !== true) this.ends(id, outcome)
  }

  /** Ends what waits at one end, with an error that says how much that has received. */
  private breakOff(connection: ConnectionState, side: SideName, outcome: string): void {
    const { rx, tx } = this.pipes(connection, side)
    for (const waiting of [rx.reads.splice(0), tx.writes.splice(0)]) {
      this.endAll(waiting, outcome)
      for (const { id } of waiting) this.received.set(id, rx.read)
    }
  }

  private tell(app: AppState, event: string): void {
    if (app.isObserved && app.isAttached) app.told.push(event)
  }

  private workerName(app: number, worker: number): string {
    return `${this.s.apps[app].name}/${worker}`
  }

  // ---------------------------------------------------------------------------
  // applications
  // ---------------------------------------------------------------------------

  private attach({ app, id, options }: Extract<Step, { op: "attach" }>): void {
    const namespace = this.s.namespaces.find(({ id }) => id === options.namespace)
    if (namespace === undefined) return this.ends(id, "UnknownNamespace")
    if (namespace.secret !== options.secret) return this.ends(id, "WrongNamespaceSecret")
    this.s.apps[app] = {
      ...options,
      isAttached: true,
      isDead: false,
      sessions: 0,
      halfOpens: 0,
      unaccepted: 0,
      held: 0,
      told: []
    }
    this.ends(id, "success")
  }

  /** Nobody new comes in, nobody waits for an answer, then nobody is left; and it is told nothing of that. */
  private detach({ app, id }: Extract<Step, { op: "detach" }>): void {
    const { bindings, connections, connects, live, open } = this.s
    const it = this.s.apps[app]
    if (it.isAttached) {
      it.isAttached = false
      for (const port of live) {
        const { client, server } = connections[port]
        if (client.app === app && server.app === app) this.closeBoth(connections[port])
      }
      if (it.place > 0) this.leaveHands(app)
      for (const [binding, { app: owner }] of Object.entries(bindings)) {
        if (owner === app) this.unlisten(Number(binding))
      }
      for (const port of open.slice()) if (connects[port].app === app) this.cancel(port, "Closed")
      for (const port of live) {
        for (const side of sides) if (connections[port][side].app === app) this.close(port, side, true)
      }
      this.stopLingeringOf(app)
    }
    this.ends(id, "success")
  }

  /** In another thread an application breaks off what it has in hand before it says that it leaves. */
  private leaveHands(app: number): void {
    const { connections, live } = this.s
    for (const port of live) {
      const connection = connections[port]
      if (connection.client.app === app && connection.server.app === app) this.closeBoth(connection)
      for (const side of sides) {
        if (connection[side].app === app && !(side === "server" && connection.isUnaccepted))
          this.close(port, side, true)
      }
    }
  }

  /**
   * Nobody waits any more who was there, and what they ask for ends with it; its peers have what it had published, and
   * then nothing more; then nobody new comes in.
   */
  private kill({ app }: Extract<Step, { op: "kill" }>): void {
    const { bindings, connections, connects, live, open, segments } = this.s
    const it = this.s.apps[app]
    for (const port of open.slice()) if (connects[port].app === app) this.cancel(port, "Closed")
    it.isAttached = false
    it.isDead = true
    for (const segment of Object.values(segments)) {
      const isServer = this.s.servers[segment.server].app === app
      const isClient = segment.client.startsWith(`${it.name}/`)
      if (isServer) segment.isServerDetached = true
      if (isClient) segment.isClientDetached = true
      if (isServer || isClient) segment.isCondemned = true
    }
    this.stopLingeringOf(app)
    for (const port of live) {
      for (const side of sides) if (connections[port][side].app === app) this.abandon(port, side)
    }
    for (const [binding, { app: owner }] of Object.entries(bindings)) if (owner === app) this.unlisten(Number(binding))
  }

  private isCongested(app: AppState): boolean {
    return app.unaccepted + app.told.length >= app.maxPending
  }

  private readEvents({ app, id }: Extract<Step, { op: "read events" }>, seen: Seen): void {
    const it = this.s.apps[app]
    // What was told to one in another thread, and had not been read when it detached, is not there any more.
    if (it.place > 0 && !it.isAttached) it.told = []
    if (it.told.length === 0) return this.ends(id, "Done")
    this.ends(id, "success")
    const expected = it.told.toSorted()
    const actual = (seen.ended.get(id)?.events ?? []).toSorted()
    check(
      expected.join("\n") === actual.join("\n"),
      () => `${it.name} was told\n${actual.join("\n")}\nand not\n${expected.join("\n")}`
    )
    it.told = []
  }

  // ---------------------------------------------------------------------------
  // listeners
  // ---------------------------------------------------------------------------

  private takePort(): number {
    const port = this.s.nextPort
    this.s.nextPort = port === 65535 ? FIRST_PORT : port + 1
    return port
  }

  private listenersIn(table: string): Array<number> {
    return [...this.s.listeners.keys()].filter((listener) => {
      const { isOpen, tables } = this.s.listeners[listener]
      return isOpen && tables.includes(table)
    })
  }

  private find(table: string, host: string, port: number): number | undefined {
    return this.listenersIn(table).find((listener) => {
      const it = this.s.listeners[listener]
      return !it.isProxy && it.host === host && it.port === port
    })
  }

  private findProxy(table: string, host: string): number | undefined {
    return this.listenersIn(table).find((listener) => {
      const it = this.s.listeners[listener]
      return it.isProxy && isSix(it.host) === isSix(host)
    })
  }

  private listen(step: Extract<Step, { op: "listen" }>): void {
    const { app, approval, backlog, binding, host, id, isProxy, workers } = step
    const it = this.s.apps[app]
    if (!it.isAttached) return this.ends(id, "Closed")
    if (isProxy && !(isUnspecified(host) && step.port === 0)) return this.ends(id, "InvalidArgument")
    const tables: Array<string> = []
    if (it.scope !== "global" && (isProxy || isLoopback(host) || isUnspecified(host))) tables.push(it.namespace)
    if (it.scope !== "local" && !(tables.length > 0 && isLoopback(host))) tables.push("global")
    if (tables.length === 0) return this.ends(id, "Scope")
    let { port } = step
    if (port === 0 && !isProxy) {
      do port = this.takePort()
      while (tables.some((table) => this.listenersIn(table).some((other) => this.s.listeners[other].port === port)))
    }
    const found = tables
      .map((table) => (isProxy ? this.findProxy(table, host) : this.find(table, host, port)))
      .find((listener) => listener !== undefined)
    let listener = found ?? this.s.listeners.length
    if (found === undefined) {
      this.s.listeners.push({ app, host, port, isProxy, approval, tables, servers: [], next: 0, isOpen: true })
    } else {
      const other = this.s.listeners[found]
      const joins =
        other.app === app &&
        other.approval === approval &&
        !other.servers.some((server) => workers.includes(this.s.servers[server].worker))
      if (!joins) return this.ends(id, "AlreadyListening")
      listener = found
    }
    for (const worker of workers) {
      this.s.listeners[listener].servers.push(this.s.servers.length)
      this.s.servers.push({ listener, app, worker, binding })
    }
    this.s.bindings[binding] = { app, listener, limit: backlog, isOpen: true, waiting: [], accepters: [], kept: [] }
    this.ends(id, `success ${port}`)
  }

  private unlisten(binding: number): void {
    const it = this.s.bindings[binding]
    if (!it.isOpen) return
    it.isOpen = false
    const listener = this.s.listeners[it.listener]
    listener.servers = listener.servers.filter((server) => this.s.servers[server].binding !== binding)
    listener.next = 0
    listener.isOpen = listener.servers.length > 0
    this.stopLingering(({ server }) => this.s.servers[server].binding === binding)
    for (const { id } of it.accepters.splice(0)) this.ends(id, "Closed")
    for (const { port } of it.kept.splice(0)) this.close(port, "server", true)
    for (const port of it.waiting.slice()) this.close(port, "server", true)
  }

  /** Whether this worker takes a connection now that needs so many pairs of FIFOs more. */
  private takes(server: number, pairs: number): boolean {
    const { app, binding } = this.s.servers[server]
    const { accepters, isOpen, limit, waiting } = this.s.bindings[binding]
    if (!isOpen || (waiting.length >= limit && accepters.length === 0)) return false
    const it = this.s.apps[app]
    return it.sessions + it.halfOpens < it.maxSessions && it.held + pairs <= it.maxPairs && !this.isCongested(it)
  }

  /** The next worker in turn that takes a connection. */
  private selectServer(listener: ListenerState): number | undefined {
    for (let tries = listener.servers.length; tries > 0; tries--) {
      const server = listener.servers[listener.next]
      listener.next = (listener.next + 1) % listener.servers.length
      if (this.takes(server, 1)) return server
    }
    return undefined
  }

  // ---------------------------------------------------------------------------
  // rules
  // ---------------------------------------------------------------------------

  private addRule({ id, options, rule }: Extract<Step, { op: "add rule" }>): void {
    const { action } = options
    if (typeof action === "object" && !this.listenerOf(action.redirect).isOpen) return this.ends(id, "InvalidArgument")
    this.s.rules[rule] = options
    this.ends(id, "success")
  }

  /** The rule of most bits; among the same, the one that came last. */
  private rule(scope: "local" | "global", namespace: string, host: string, port: number): RuleOptions | undefined {
    let best: RuleOptions | undefined
    const bits = (rule: RuleOptions) => rule.bits + (rule.port === 0 ? 0 : 16)
    for (const rule of Object.values(this.s.rules)) {
      if (rule.scope !== "both" && rule.scope !== scope) continue
      // Rules are made for the namespace of all who name none.
      if (scope === "local" && namespace !== "default") continue
      if (rule.port !== 0 && rule.port !== port) continue
      if (rule.host !== undefined) {
        if (isSix(rule.host) !== isSix(host)) continue
        if (rule.bits === 8 ? rule.host.split(".")[0] !== host.split(".")[0] : rule.host !== host) continue
      }
      if (best === undefined || bits(rule) >= bits(best)) best = rule
    }
    return best
  }

  private listenerOf(binding: number): ListenerState {
    return this.s.listeners[this.s.bindings[binding].listener]
  }

  /** The listener that a connect reaches, or why it reaches none. */
  private lookup(app: AppState, host: string, port: number): ListenerState | string {
    for (const scope of ["local", "global"] as const) {
      if (scope === "global") {
        if (isLoopback(host)) return "NoRoute"
        if (app.scope === "local") return "Scope"
      } else if (app.scope === "global") continue
      const rule = this.rule(scope, app.namespace, host, port)
      if (rule?.action === "drop") return "Filtered"
      if (typeof rule?.action === "object") return this.listenerOf(rule.action.redirect)
      const table = scope === "local" ? app.namespace : "global"
      const found =
        this.find(table, host, port) ??
        (scope === "global" || isLoopback(host) ? this.find(table, anyHost(host), port) : undefined) ??
        this.findProxy(table, host)
      if (found === undefined) continue
      const listener = this.s.listeners[found]
      // What an application sends on as a proxy would come back to it.
      if (!listener.isProxy || this.s.apps[listener.app] !== app) return listener
    }
    return "NoRoute"
  }

  // ---------------------------------------------------------------------------
  // connecting
  // ---------------------------------------------------------------------------

  private connect(step: Extract<Step, { op: "connect" }>, seen: Seen): void {
    const { app, host, id, worker } = step
    const it = this.s.apps[app]
    // In another thread it knows that itself, and asks nobody.
    if (!it.isAttached && it.place > 0) return this.ends(id, "Closed")
    this.s.started++
    if (!it.isAttached) return this.fails(id, "Closed")
    if (isUnspecified(host) || step.port === 0) return this.fails(id, "InvalidArgument")
    const port = this.takePort()
    const listener = this.lookup(it, host, step.port)
    if (typeof listener === "string") return this.fails(id, listener)
    if (it.halfOpens >= it.maxHalfOpens || it.sessions + it.halfOpens >= it.maxSessions || this.isCongested(it)) {
      return this.fails(id, "QuotaExceeded")
    }
    it.halfOpens++
    this.s.pending.push(id)
    this.s.connects[port] = { id, app, worker, host, port: step.port, server: -1, isOpen: true }
    this.s.open.push(port)
    this.migrate(port, listener, seen)
  }

  /** Looks for a worker that serves the listener, and for memory. */
  private migrate(port: number, listener: ListenerState, seen: Seen): void {
    const server = listener.isOpen ? this.selectServer(listener) : undefined
    if (server === undefined) return this.answer(port, "Refused")
    this.s.connects[port].server = server
    const segment = this.take(port, seen) ?? this.makeSegment(port)
    if (segment === "wait") return void this.s.waiting.push(port)
    this.announce(segment)
    this.introduce(port, segment, seen)
  }

  /** The one answer to a connect, unless it was given. */
  private answer(port: number, outcome: string): void {
    const connect = this.s.connects[port]
    if (!connect.isOpen) return
    connect.isOpen = false
    this.s.open.splice(this.s.open.indexOf(port), 1)
    const { app, host, id, worker } = connect
    this.s.apps[app].halfOpens--
    const name = this.workerName(app, worker)
    this.tell(this.s.apps[app], `Connected ${name} to ${formatAddress(host, connect.port)}: ${outcome}`)
    this.tell(this.s.apps[app], `HalfOpenCleanup ${name}`)
    if (outcome !== "success") return this.fails(id, outcome)
    this.s.connected++
    this.ends(id, `success ${port}`)
  }

  private fails(id: number, outcome: string): void {
    this.s.failed[outcome] = (this.s.failed[outcome] ?? 0) + 1
    this.ends(id, outcome)
  }

  /** The client gives up: whoever holds the server's side is told, and nobody gets to see one that waits. */
  private cancel(port: number, outcome: string): void {
    const connection = this.s.connections[port]
    this.answer(port, outcome)
    if (connection?.server.state !== "accepting") return
    const { server } = connection
    connection.toServer.isReset = true
    connection.toClient.isReset = true
    server.state = "transport-closing"
    this.tell(this.s.apps[server.app], `Reset ${this.workerName(server.app, server.worker)} server:${port}`)
    this.release(connection, "client")
    if (connection.isUnaccepted) this.close(port, "server", true)
  }

  /** With memory in hand: the listener is asked once more, since that may have taken time. */
  private introduce(port: number, segment: Grown, seen: Seen): void {
    const connect = this.s.connects[port]
    if (typeof segment === "string") return this.answer(port, segment)
    const { app, listener, worker, binding } = this.s.servers[connect.server]
    const serving = this.s.apps[app]
    const pipe = (size: number): Pipe => ({
      size,
      runs: [],
      sent: 0,
      read: 0,
      writes: [],
      reads: [],
      isEnded: false,
      isStopped: false,
      isReset: false,
      isGone: false,
      isStarved: false
    })
    const side = (app: number, worker: number): SideState => ({
      app,
      worker,
      state: "none",
      isLeased: true,
      isTxEnded: false,
      isRxEnded: false
    })
    const connection: ConnectionState = {
      segment,
      server: side(app, worker),
      client: side(connect.app, connect.worker),
      toServer: pipe(serving.rx),
      toClient: pipe(serving.tx),
      isUnaccepted: false
    }
    if (!connect.isOpen || !this.takes(connect.server, 0)) {
      this.release(connection, "client")
      this.release(connection, "server")
      // Where one worker listens no more, others may.
      const isElsewhere = !this.s.bindings[binding].isOpen && this.s.listeners[listener].isOpen
      if (connect.isOpen && isElsewhere) return this.migrate(port, this.s.listeners[listener], seen)
      return this.answer(port, "Refused")
    }
    this.s.connections[port] = connection
    this.s.live.push(port)
    connection.server.state = "accepting"
    connection.isUnaccepted = true
    serving.sessions++
    serving.unaccepted++
    this.tell(serving, `Accepted ${this.workerName(app, worker)} server:${port}`)
    if (this.s.listeners[listener].approval === "listener") this.establish(port)
    const queue = this.s.bindings[binding]
    queue.waiting.push(port)
    const accepter = this.nextAccepter(queue, port, seen)
    if (accepter !== undefined) this.wake(binding, accepter)
  }

  /**
   * Who has waited longest. In another thread that is known of those who accept and of those who request: who comes first
   * of the two may have changed when somebody gave up, or came when a connection was on its way.
   */
  private nextAccepter({ accepters, app }: BindingState, port: number, seen: Seen): Accepter | undefined {
    const isServed = ({ id }: Accepter) => seen.ended.get(id)?.outcome === `success ${port}`
    const firsts = [true, false].map((kind) => accepters.findIndex(({ isRequest }) => isRequest === kind))
    const served = this.s.apps[app].place > 0 ? firsts.find((at) => at >= 0 && isServed(accepters[at])) : undefined
    return accepters.splice(served ?? 0, 1)[0]
  }

  private wake(binding: number, accepter: Accepter): void {
    if (this.isAcceptedLater) this.woken.push({ binding, accepter })
    else this.look(binding, accepter)
  }

  /** Woken: takes what is there. Who was interrupted leaves it to the next, who finds nothing is the first again. */
  private look(binding: number, accepter: Accepter): void {
    const { accepters, waiting } = this.s.bindings[binding]
    if (!this.s.pending.includes(accepter.id)) {
      const next = waiting.length > 0 ? accepters.shift() : undefined
      if (next !== undefined) this.look(binding, next)
    } else if (!this.serve(binding, accepter)) accepters.unshift(accepter)
  }

  /** The server says yes: the client gets its session, and its answer. */
  private establish(port: number): void {
    const { client, server } = this.s.connections[port]
    server.state = "ready"
    client.state = "ready"
    this.s.apps[client.app].sessions++
    this.answer(port, "success")
  }

  // ---------------------------------------------------------------------------
  // accepting
  // ---------------------------------------------------------------------------

  private accept({ binding, id, op }: Extract<Step, { op: "accept" | "request" }>): void {
    const queue = this.s.bindings[binding]
    if (!queue.isOpen) return this.ends(id, "Closed")
    const accepter = { id, isRequest: op === "request" }
    const at = queue.kept.findIndex(({ isRequest }) => isRequest === accepter.isRequest)
    if (at >= 0) {
      const [{ isReady, port }] = queue.kept.splice(at, 1)
      if (accepter.isRequest) this.s.requests[id] = { port, isReady, answer: "none" }
      return this.ends(id, `success ${port}`)
    }
    if (this.serve(binding, accepter)) return
    queue.accepters.push(accepter)
    this.s.pending.push(id)
  }

  /** Gives the connection that has waited longest to who asks for one. */
  private serve(binding: number, { id, isRequest }: Accepter): boolean {
    const port = this.s.bindings[binding].waiting[0]
    if (port === undefined) return false
    const connection = this.s.connections[port]
    this.unqueue(port, connection)
    const { server } = connection
    if (isRequest) this.s.requests[id] = { port, isReady: server.state !== "accepting", answer: "none" }
    else if (server.state === "accepting") this.establish(port)
    this.ends(id, `success ${port}`)
    return true
  }

  private unqueue(port: number, connection: ConnectionState): void {
    if (!connection.isUnaccepted) return
    connection.isUnaccepted = false
    this.s.apps[connection.server.app].unaccepted--
    for (const { waiting } of Object.values(this.s.bindings)) {
      const at = waiting.indexOf(port)
      if (at >= 0) waiting.splice(at, 1)
    }
  }

  private sayYes({ id, request }: Extract<Step, { op: "say yes" }>): void {
    const it = this.s.requests[request]
    const { server } = this.s.connections[it.port]
    if (it.answer === "no") return this.ends(id, "Closed")
    if (it.answer === "yes") return this.ends(id, "InvalidArgument")
    // Detached in another thread, it has nobody to ask whether the client is still there.
    const { isAttached, place } = this.s.apps[server.app]
    if (!it.isReady && place > 0 && !isAttached) return this.ends(id, "Closed")
    // Its own application has detached, or the client has given up.
    if (!it.isReady && server.state !== "accepting") return this.ends(id, "Reset")
    it.answer = "yes"
    if (!it.isReady) this.establish(it.port)
    this.ends(id, `success ${it.port}`)
  }

  private sayNo(request: number): void {
    const it = this.s.requests[request]
    if (it.answer !== "none") return
    it.answer = "no"
    this.close(it.port, "server", true)
  }

  /** Does nothing to what has ended. */
  private interrupt(target: number, isAtRest: boolean): void {
    const { bindings, connections, connects, live, open, pending } = this.s
    let isFound = pending.includes(target)
    for (const port of open.slice()) if (connects[port].id === target) this.cancel(port, "Closed")
    for (const binding of isFound ? Object.values(bindings) : []) {
      binding.accepters = binding.accepters.filter(({ id }) => id !== target)
    }
    for (const port of live) {
      for (const pipe of [connections[port].toClient, connections[port].toServer]) {
        const isTarget = ({ id }: { readonly id: number }) => id === target
        isFound ||= pipe.reads.some(isTarget) || pipe.writes.some(isTarget)
        pipe.reads = pipe.reads.filter(({ id }) => id !== target)
        // It may have written some more before, unless nothing happened.
        if (isAtRest) pipe.writes = pipe.writes.filter(({ id }) => id !== target)
        for (const write of pipe.writes) if (isTarget(write)) write.isOver = true
      }
    }
    if (isFound) this.ends(target, "Interrupt")
  }

  /** What it was given is given up: nobody will ever hold it. */
  private discard(target: number): void {
    const outcome = this.outcomes.get(target)
    if (outcome === undefined) return
    const port = Number(outcome.split(" ")[1])
    if (this.s.requests[target] !== undefined) this.sayNo(target)
    else if (port in this.s.connections) {
      this.close(port, this.s.connects[port].id === target ? "client" : "server", true)
    }
    this.ends(target, "Interrupt")
  }

  /** What it was given has come to its thread, and is there for the next one who asks for the like of it. */
  private keep(target: number): void {
    const port = Number(this.outcomes.get(target)?.split(" ")[1])
    const { connections, requests } = this.s
    if (!(port in connections)) return
    const request = requests[target]
    delete requests[target]
    const { binding } = this.s.servers[this.s.connects[port].server]
    this.s.bindings[binding].kept.push({
      port,
      isRequest: request !== undefined,
      isReady: request?.isReady ?? true
    })
    this.ends(target, "Interrupt")
  }

  // ---------------------------------------------------------------------------
  // memory
  // ---------------------------------------------------------------------------

  /** The emptiest segment that both sides still use, with room for a pair. */
  private take(port: number, seen: Seen): number | undefined {
    const { app, server, worker } = this.s.connects[port]
    const client = this.workerName(app, worker)
    const { pairs } = this.s.apps[this.s.servers[server].app]
    const usable = Object.entries(this.s.segments).filter(
      ([, it]) =>
        it.server === server &&
        it.client === client &&
        !it.isClientDetached &&
        !it.isServerDetached &&
        it.pairs < pairs &&
        // Bytes on their way may have taken what was free.
        it.units >= 2
    )
    if (usable.length === 0) return undefined
    const least = Math.min(...usable.map(([, it]) => it.pairs))
    const emptiest = usable.filter(([, it]) => it.pairs === least)
    const actual = seen.sessions.get(`server:${port}`)?.segment
    const [segment, it] =
      emptiest.find(([, it]) => it.seen === actual) ?? emptiest.find(([, it]) => it.seen === 0) ?? emptiest[0]
    this.lease(it)
    return Number(segment)
  }

  private lease(it: SegmentState): void {
    it.pairs++
    it.clients++
    it.servers++
    it.units -= 2
    this.s.apps[this.s.servers[it.server].app].held++
  }

  /** A segment of its own, if there is memory for one now. */
  private makeSegment(port: number): number | "AllocFailed" | "wait" {
    if (this.s.waiting.length > 0 || this.s.mode === "slow") return "wait"
    return this.isMemoryThere() ? this.grow(port) : "AllocFailed"
  }

  private isMemoryThere(): boolean {
    if (this.s.mode === "free") return true
    if (this.s.left === 0) return false
    this.s.left--
    return true
  }

  private grow(port: number): number {
    const { app, server, worker } = this.s.connects[port]
    const { app: serverApp, binding } = this.s.servers[server]
    const [client, serving] = [this.s.apps[app], this.s.apps[serverApp]]
    const it: SegmentState = {
      server,
      client: this.workerName(app, worker),
      seen: 0,
      pairs: 0,
      clients: 0,
      servers: 0,
      isClientDetached: false,
      isServerDetached: false,
      isCondemned: false,
      isAnnounced: false,
      lingers: serving.linger > 0 && this.s.bindings[binding].isOpen && client.isAttached && serving.isAttached,
      drainedAt: 0,
      units: Infinity
    }
    this.s.segments[this.s.nextSegment] = it
    this.lease(it)
    return this.s.nextSegment++
  }

  /** Tells both sides of a segment, before anything in it is in anybody's hands. */
  private announce(segment: Grown): void {
    if (typeof segment === "string") return
    const it = this.s.segments[segment]
    if (it.isAnnounced) return
    it.isAnnounced = true
    for (const [app, worker] of this.users(it)) this.tell(app, `SegmentAdded ${worker}`)
  }

  /** Who maps it: the workers of both sides, which may be one. */
  private users({ client, server }: SegmentState): Array<readonly [AppState, string]> {
    const { app, worker } = this.s.servers[server]
    const name = this.workerName(app, worker)
    const users = [[this.s.apps[app], name] as const]
    if (client === name) return users
    const owner = Object.values(this.s.apps).find(({ name }) => client.startsWith(`${name}/`))!
    return [...users, [owner, client] as const]
  }

  private release(connection: ConnectionState, side: SideName): void {
    const { client, segment, server } = connection
    if (!connection[side].isLeased) return
    connection[side].isLeased = false
    const it = this.s.segments[segment]
    if (!client.isLeased && !server.isLeased) {
      it.pairs--
      this.s.apps[server.app].held--
    }
    if (side === "client") it.clients--
    else it.servers--
    if (it.lingers) {
      if (it.clients + it.servers === 0) it.drainedAt = this.s.now
      return
    }
    this.leave(segment, it)
  }

  /** A side that has nothing left in a segment never comes back to it; without both it goes. */
  private leave(segment: number, it: SegmentState): void {
    if (it.clients === 0) it.isClientDetached = true
    if (it.servers === 0) it.isServerDetached = true
    if (it.clients + it.servers > 0) return
    delete this.s.segments[segment]
    if (!it.isAnnounced) return
    for (const [app, worker] of this.users(it)) this.tell(app, `SegmentDeleted ${worker}`)
  }

  private stopLingeringOf(app: number): void {
    const { name } = this.s.apps[app]
    this.stopLingering(({ client, server }) => this.s.servers[server].app === app || client.startsWith(`${name}/`))
  }

  private stopLingering(isTheirs: (segment: SegmentState) => boolean): void {
    for (const [segment, it] of Object.entries(this.s.segments)) {
      if (!it.lingers || !isTheirs(it)) continue
      it.lingers = false
      this.leave(Number(segment), it)
    }
  }

  private advance(millis: number): void {
    this.s.now += millis
    this.stopLingering((it) => {
      const { linger } = this.s.apps[this.s.servers[it.server].app]
      return it.clients + it.servers === 0 && it.drainedAt + linger <= this.s.now
    })
  }

  /** Whether the thread of one side has died while memory was waited for. */
  private isWithDead(port: number): boolean {
    const { app, server } = this.s.connects[port]
    return this.s.apps[app].isDead || this.s.apps[this.s.servers[server].app].isDead
  }

  /** Memory for the one that has waited longest, or none; then those behind it, until one has to wait again. */
  private grant(succeeds: boolean, seen: Seen, { turns }: Order): void {
    const first = this.s.waiting[0]
    const memory = [
      () => (!succeeds ? "AllocFailed" : this.isWithDead(first) ? "PeerDied" : this.grow(first)),
      () => this.grantNext(seen)
    ] as const
    const places: Array<{ readonly port: number; readonly segment: Grown; turn: number } | undefined> = []
    for (const who of turns) {
      if (places.length === who) {
        const segment = memory[who]()
        places.push(segment === undefined ? undefined : { port: this.s.waiting.shift()!, segment, turn: 1 })
        continue
      }
      const place = places[who]
      if (place === undefined) continue
      if (place.turn === 1) this.announce(place.segment)
      else this.introduce(place.port, place.segment, seen)
      place.turn++
    }
    // The second one has asked for memory, or there is none; else who has found nobody is in line again.
    if (places[1] === undefined) return
    for (let segment = this.grantNext(seen); segment !== undefined; segment = this.grantNext(seen)) {
      const port = this.s.waiting.shift()!
      this.announce(segment)
      this.introduce(port, segment, seen)
    }
  }

  /** The next in line looks for room first, which others may have left or brought. */
  private grantNext(seen: Seen): Grown | undefined {
    const next = this.s.waiting[0]
    if (next === undefined) return undefined
    const segment = this.take(next, seen)
    if (segment !== undefined) return segment
    if (this.isWithDead(next)) return "PeerDied"
    if (this.s.mode === "slow") return undefined
    return this.isMemoryThere() ? this.grow(next) : "AllocFailed"
  }

  // ---------------------------------------------------------------------------
  // connections
  // ---------------------------------------------------------------------------

  private pipes(connection: ConnectionState, side: SideName): { readonly rx: Pipe; readonly tx: Pipe } {
    const { toClient, toServer } = connection
    return side === "client" ? { rx: toClient, tx: toServer } : { rx: toServer, tx: toClient }
  }

  private transfer(step: Extract<Step, { op: "write" | "read" }>): void {
    const { id, length, port, side } = step
    const connection = this.s.connections[port]
    if (connection[side].state === "gone") return this.ends(id, "Closed")
    const { rx, tx } = this.pipes(connection, side)
    this.received.set(id, rx.read)
    if (step.op === "write") {
      const isBehind = tx.writes.length > 0
      if (!isBehind && tx.isReset) return this.ends(id, "Reset")
      if (!isBehind && tx.isGone) return this.ends(id, "PeerDied")
      if (!isBehind && (tx.isEnded || tx.isStopped)) return this.ends(id, "BrokenPipe")
      tx.writes.push({ id, at: step.at, left: length, isOver: false })
      return
    }
    const used = rx.sent - rx.read
    const isBehind = rx.reads.length > 0
    if (!isBehind && rx.isReset) return this.ends(id, "Reset")
    if (!isBehind && used === 0 && rx.isEnded) return this.ends(id, "Done")
    if (!isBehind && used === 0 && rx.isGone) return this.ends(id, "PeerDied")
    const most = length === 0 ? 65536 : length
    rx.reads.push({ id, length: most, exact: !isBehind && used > 0 ? Math.min(used, most) : undefined })
  }

  private end(port: number, side: SideName): void {
    const connection = this.s.connections[port]
    const it = connection[side]
    if (it.state === "gone" || it.isTxEnded) return
    it.isTxEnded = true
    const peer = connection[side === "client" ? "server" : "client"]
    if (peer.state === "ready" && it.state === "ready") peer.isRxEnded = true
    this.endPipe(this.pipes(connection, side).tx)
  }

  /** Its reader, who has read all there is if it waits, sees the end. */
  private endPipe(pipe: Pipe): void {
    pipe.isEnded = true
    this.endAll(pipe.reads.splice(0), "Done")
  }

  private close(port: number, side: SideName, isReset: boolean): void {
    const connection = this.s.connections[port]
    const it = connection[side]
    if (it.state === "gone" || it.state === "none") return
    const peer = connection[side === "client" ? "server" : "client"]
    const { rx, tx } = this.pipes(connection, side)
    const wasAccepting = it.state === "accepting"
    const breaks = isReset || wasAccepting || rx.sent > rx.read
    if (side === "server") this.unqueue(port, connection)
    this.endAll(rx.reads.splice(0), "Closed")
    this.endAll(tx.writes.splice(0), "Closed")
    if (wasAccepting) {
      this.release(connection, "client")
      this.answer(port, "Refused")
    }
    if (peer.state === "ready") {
      peer.state = "transport-closing"
      peer.isRxEnded = true
      const name = this.workerName(peer.app, peer.worker)
      const end = side === "client" ? "server" : "client"
      this.tell(this.s.apps[peer.app], `${breaks ? "Reset" : "Disconnected"} ${name} ${end}:${port}`)
    }
    if (breaks) {
      rx.isReset = true
      tx.isReset = true
      this.breakOff(connection, side === "client" ? "server" : "client", "Reset")
      this.s.reset++
    } else {
      this.endPipe(tx)
      rx.isStopped = true
      this.endAll(rx.writes.splice(0), "BrokenPipe")
      this.s.closed++
    }
    it.state = "gone"
    const app = this.s.apps[it.app]
    app.sessions--
    const name = this.workerName(it.app, it.worker)
    this.tell(app, `CleanupTransport ${name} ${side}:${port}`)
    this.tell(app, `CleanupSession ${name} ${side}:${port}`)
    this.release(connection, side)
  }

  /** The thread of one side has died: the other one reads what was published, and writes no more. */
  private abandon(port: number, side: SideName): void {
    const connection = this.s.connections[port]
    const it = connection[side]
    if (it.state === "gone" || it.state === "none") return
    const peer = connection[side === "client" ? "server" : "client"]
    const { rx, tx } = this.pipes(connection, side)
    if (side === "server") this.unqueue(port, connection)
    this.endAll(rx.reads.splice(0), DEAD)
    // What it was about to write may be there, in part or as a whole.
    for (const write of tx.writes) {
      this.ends(write.id, DEAD)
      write.isOver = true
    }
    if (it.state === "accepting") {
      this.release(connection, "client")
      this.answer(port, "Refused")
    }
    if (peer.state === "ready") {
      peer.state = "transport-closing"
      peer.isRxEnded = true
      const end = side === "client" ? "server" : "client"
      this.tell(this.s.apps[peer.app], `Reset ${this.workerName(peer.app, peer.worker)} ${end}:${port}`)
    }
    this.endAll(rx.writes, "PeerDied")
    for (const { id } of rx.writes.splice(0)) this.received.set(id, tx.read)
    tx.isGone = true
    rx.isGone = true
    this.s.reset++
    it.state = "gone"
    this.s.apps[it.app].sessions--
    this.release(connection, side)
  }

  /** Whose both ends close at once hears of the one or of the other. */
  private closeBoth(connection: ConnectionState): void {
    for (const side of sides) this.breakOff(connection, side, "Closed or Reset")
  }

  // ---------------------------------------------------------------------------
  // bytes
  // ---------------------------------------------------------------------------

  /**
   * What a stream is: bytes arrive in the order in which they were written, never more of them on their way than the
   * limit; who waits to read waits because there is nothing, who waits to write because there is no room worth waking
   * for.
   */
  private settle(port: number, side: SideName, connection: ConnectionState, seen: Seen): void {
    const name = `${side}:${port}`
    const pipe = this.pipes(connection, side).tx
    const sent = seen.sent(side, port)
    let fresh = sent - pipe.sent
    for (const write of pipe.writes) {
      const count = Math.min(write.left, fresh)
      if (count > 0) {
        pipe.runs.push({ at: write.at, length: count })
        write.at += count
        write.left -= count
        fresh -= count
      }
      if (write.left > 0 && !write.isOver) break
    }
    pipe.writes = pipe.writes.filter(({ isOver }) => !isOver)
    check(fresh === 0, () => `${name} has published ${sent} bytes, ${fresh} more than were written`)
    pipe.sent = sent
    const before = pipe.read
    while (pipe.reads.length > 0) {
      const [{ exact, id, length }] = pipe.reads
      const ended = seen.ended.get(id)
      if (ended === undefined || (pipe.isGone && ended.outcome === "PeerDied")) break
      check(ended.outcome === "success", () => `read ${id} of what ${name} writes has ended with ${ended.outcome}`)
      const bytes = ended.bytes!
      check(
        exact === undefined ? bytes.length >= 1 && bytes.length <= length : bytes.length === exact,
        () => `read ${id} of what ${name} writes got ${bytes.length} bytes of ${exact ?? `1 to ${length}`}`
      )
      this.checkBytes(pipe, bytes, name)
      pipe.read += bytes.length
      pipe.reads.shift()
      this.outcomes.set(id, "success")
    }
    check(pipe.read <= pipe.sent, () => `${pipe.read} bytes of ${name} were read, and only ${pipe.sent} written`)
    const used = pipe.sent - pipe.read
    if (pipe.isGone && used === 0) {
      for (const { id } of pipe.reads.splice(0)) {
        this.ends(id, "PeerDied")
        this.received.set(id, pipe.read)
      }
    }
    check(used <= pipe.size, () => `${used} bytes of ${name} are on their way, more than ${pipe.size}`)
    check(
      pipe.reads.length === 0 || used === 0,
      () => `read ${pipe.reads[0].id} of what ${name} writes waits although there are ${used} bytes`
    )
    if (pipe.read > before) pipe.isStarved = false
    while (pipe.writes.length > 0) {
      const [{ id, left }] = pipe.writes
      const ended = seen.ended.get(id)
      if (ended === undefined) break
      const expected = pipe.isEnded ? "BrokenPipe" : "success"
      check(ended.outcome === expected, () => `write ${id} of ${name} has ended with ${ended.outcome}`)
      check(pipe.isEnded || left === 0, () => `write ${id} of ${name} has ended with ${left} bytes to write`)
      pipe.writes.shift()
      this.outcomes.set(id, expected)
    }
    if (pipe.writes.length === 0) return
    const [{ id, left }] = pipe.writes
    check(left > 0, () => `write ${id} of ${name} waits with nothing left to write`)
    const free = pipe.size - used
    // Half of the limit is worth waking for, or what is left to write.
    if (free < Math.max(1, Math.min(left, pipe.size >>> 1))) return
    if (seen.units(this.s.segments[connection.segment].seen) === 0 && used > 0) pipe.isStarved = true
    check(
      pipe.isStarved,
      () => `write ${id} of ${name} waits with ${left} bytes although ${free} of ${pipe.size} are free`
    )
  }

  private checkBytes(pipe: Pipe, bytes: Uint8Array, name: string): void {
    let at = 0
    while (at < bytes.length) {
      check(pipe.runs.length > 0, () => `bytes came that ${name} has not written`)
      const [run] = pipe.runs
      const count = Math.min(run.length, bytes.length - at)
      const wrong = misplaced(bytes.subarray(at, at + count), run.at)
      check(
        wrong < 0,
        () => `byte ${pipe.read + at + wrong - run.at} of ${name} is not the one that was written as number ${wrong}`
      )
      at += count
      if (count === run.length) pipe.runs.shift()
      else pipe.runs[0] = { at: run.at + count, length: run.length - count }
    }
  }

  // ---------------------------------------------------------------------------
  // comparing
  // ---------------------------------------------------------------------------

  /** Learns the numbers of new segments from the sessions in them, and checks those of the others. */
  private nameSegments(seen: Seen): void {
    const { connections, live, segments } = this.s
    for (const port of live) {
      const it = segments[connections[port].segment]
      for (const side of sides) {
        const actual = seen.sessions.get(`${side}:${port}`)?.segment
        if (actual === undefined || it === undefined || it.seen === actual) continue
        check(it.seen === 0, () => `${side}:${port} is not in the segment where it ought to be`)
        const isTaken = Object.values(segments).some(({ seen }) => seen === actual)
        check(!isTaken, () => `${side}:${port} is in the segment of others`)
        it.seen = actual
      }
    }
  }

  private compare(seen: Seen): void {
    for (const [id, { outcome, received }] of seen.ended) {
      const count = this.received.get(id)
      check(
        received === undefined || count === undefined || received === count,
        () => `operation ${id} has ended with ${outcome} after ${received} bytes received, and not ${count}`
      )
      const expected = this.outcomes.get(id)
      check(
        expected?.split(" or ").includes(outcome) === true,
        () => `operation ${id} has ended with ${outcome} and not ${expected ?? "at all"}`
      )
    }
    for (const [id, expected] of this.outcomes) {
      check(seen.ended.has(id), () => `operation ${id} waits and has not ended with ${expected}`)
    }
    const { apps, connections, live, open } = this.s
    let sessions = 0
    let leases = 0
    for (const port of live) {
      const connection = connections[port]
      for (const side of sides) {
        const it = connection[side]
        if (it.isLeased) leases++
        if (it.state === "gone" || it.state === "none") continue
        sessions++
        this.compareSession(`${side}:${port}`, it, this.pipes(connection, side).rx, seen)
      }
    }
    check(seen.sessions.size === sessions, () => `there are ${[...seen.sessions.keys()]}, and not ${sessions} sessions`)
    const isRight = seen.halfOpens.size === open.length && open.every((port) => seen.halfOpens.has(port))
    check(isRight, () => `there are half-opens of ports ${[...seen.halfOpens]}, and not ${open}`)
    const summary: Array<string> = []
    const contexts = new Set<string>()
    const segments = Object.values(this.s.segments)
    for (const it of segments) {
      const { client, clients, isClientDetached, isCondemned, isServerDetached, lingers, pairs, server, servers } = it
      const { app, listener } = this.s.servers[server]
      const { host, isProxy, port } = this.s.listeners[listener]
      const { name, pairBytes } = apps[app]
      contexts.add(`${server} ${client}`)
      if (lingers) leases += 2
      summary.push(
        segmentLine({
          listener: `${name} ${isProxy ? "proxy" : formatAddress(host, port)}`,
          committedBytes: pairs * pairBytes,
          activeFifos: 2 * pairs,
          clientSessions: clients,
          serverSessions: servers,
          clientDetached: isClientDetached,
          serverDetached: isServerDetached,
          condemned: isCondemned,
          lingers
        })
      )
    }
    for (const app of Object.values(apps)) {
      if (!app.isAttached) continue
      const { halfOpens, held, name, pairBytes, sessions, told, unaccepted } = app
      const listeners = this.s.listeners.filter((it) => it.isOpen && apps[it.app] === app).length
      summary.push(
        appLine({
          name,
          listeners,
          sessions,
          halfOpens,
          fifoMemory: held * pairBytes,
          unaccepted,
          unread: told.length
        })
      )
    }
    const { closed, connected, failed, reset, started } = this.s
    summary.push(
      countsLine({
        sessions,
        halfOpens: open.length,
        leases,
        contexts: contexts.size,
        segments: segments.length,
        regions: segments.length,
        pendingCalls: 0,
        // Only the first in line asks for memory.
        allocations: Math.min(1, this.s.waiting.length)
      }),
      countersLine({ connects: started, connected, closed, reset, failed: Object.entries(failed) })
    )
    same("summary", seen.summary, summary)
  }

  private compareSession(name: string, it: SideState, { read, sent }: Pipe, seen: Seen): void {
    const actual = seen.sessions.get(name)
    if (actual === undefined) return fail(`${name} is not there`)
    const worker = this.workerName(it.app, it.worker)
    const { isRxEnded, isTxEnded, state } = it
    const isRight =
      actual.state === state &&
      actual.worker === worker &&
      actual.isTxEnded === isTxEnded &&
      actual.isRxEnded === isRxEnded &&
      actual.unread === sent - read
    check(isRight, () => {
      const expected = { state, worker, isTxEnded, isRxEnded, unread: sent - read }
      return `${name} is ${JSON.stringify(actual)} and not ${JSON.stringify(expected)}`
    })
  }

  // ---------------------------------------------------------------------------
  // at rest
  // ---------------------------------------------------------------------------

  /** Throws unless nothing is left of anything. */
  assertAtRest(): void {
    const { live, open, pending, segments, waiting } = this.s
    check(pending.length === 0, () => `operations ${pending} wait for ever`)
    check(waiting.length + open.length === 0, () => `connects from ports ${[...waiting, ...open]} are left`)
    check(live.length === 0, () => `connections of ports ${live} are left`)
    check(Object.keys(segments).length === 0, () => "segments are left")
  }
}

const same = (what: string, actual: ReadonlyArray<string>, expected: ReadonlyArray<string>): void => {
  const isEqual = (a: ReadonlyArray<string>, b: ReadonlyArray<string>) =>
    a.length === b.length && a.every((line, i) => line === b[i])
  if (isEqual(actual, expected)) return
  const [a, b] = [actual.toSorted(), expected.toSorted()]
  if (isEqual(a, b)) return
  const surplus = (these: ReadonlyArray<string>, those: ReadonlyArray<string>) => {
    const left = [...those]
    return these.filter((line) => {
      const at = left.indexOf(line)
      if (at >= 0) left.splice(at, 1)
      return at < 0
    })
  }
  fail(`${what}: there are\n${surplus(a, b).join("\n")}\nand not\n${surplus(b, a).join("\n")}`)
}

export const segmentLine = (it: {
  readonly listener: string
  readonly committedBytes: number
  readonly activeFifos: number
  readonly clientSessions: number
  readonly serverSessions: number
  readonly clientDetached: boolean
  readonly serverDetached: boolean
  readonly condemned: boolean
  readonly lingers: boolean
}): string =>
  `segment of ${it.listener}: ${it.committedBytes} bytes, ${it.activeFifos} FIFOs, ${it.clientSessions} clients, ` +
  `${it.serverSessions} servers, ${it.clientDetached} ${it.serverDetached} ${it.condemned} ${it.lingers}`

export const appLine = (it: {
  readonly name: string
  readonly listeners: number
  readonly sessions: number
  readonly halfOpens: number
  readonly fifoMemory: number
  readonly unaccepted: number
  readonly unread: number
}): string =>
  `${it.name}: ${it.listeners} listeners, ${it.sessions} sessions, ${it.halfOpens} half-opens, ${it.fifoMemory} bytes, ` +
  `${it.unaccepted} unaccepted, ${it.unread} unread`

export const countsLine = (it: {
  readonly sessions: number
  readonly halfOpens: number
  readonly leases: number
  readonly contexts: number
  readonly segments: number
  readonly regions: number
  readonly pendingCalls: number
  readonly allocations: number
}): string =>
  `${it.sessions} sessions, ${it.halfOpens} half-opens, ${it.leases} leases, ${it.contexts} contexts, ` +
  `${it.segments} segments, ${it.regions} regions, ${it.pendingCalls} calls, ${it.allocations} allocations`

export const countersLine = (it: {
  readonly connects: number
  readonly connected: number
  readonly closed: number
  readonly reset: number
  readonly failed: Iterable<readonly [string, number]>
}): string =>
  `${it.connects} connects, ${it.connected} connected, ${it.closed} closed, ${it.reset} reset, failed ` +
  [...it.failed]
    .map((entry) => entry.join(" "))
    .toSorted()
    .join(", ")
