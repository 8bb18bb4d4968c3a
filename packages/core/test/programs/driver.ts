/** Runs programs of random operations, and holds what happens against the model after each of them. */
import type * as Application from "@cut-through/core/Application"
import type * as Connection from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type * as Listener from "@cut-through/core/Listener"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import type { Session } from "@cut-through/core/session/Session"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import { SessionError } from "@cut-through/core/SessionError"
import * as Sessions from "@cut-through/core/Sessions"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { pattern, reasonOf } from "../fixtures.ts"
import type { Host } from "./host.ts"
import * as Model from "./model.ts"
import type { AppChoice, Op, OpName, Program } from "./program.ts"

const UNIT = 4096

// What the numbers of an operation choose from. The first of each is the plainest: programs shrink towards it.

const SIZES = [
  { rx: 100, tx: 100 },
  { rx: 4096, tx: 1000 },
  { rx: 20_000, tx: 3 }
]

const LENGTHS = [1, 100, 10, 101, 250, 1000, 0, 3, 50, 5000, 20_001, 45_000]

const LISTENS: ReadonlyArray<{ readonly host: string; readonly port: number; readonly isProxy?: boolean }> = [
  { host: "127.0.0.1", port: 80 },
  { host: "127.0.0.1", port: 0 },
  { host: "0.0.0.0", port: 80 },
  { host: "10.0.0.1", port: 80 },
  { host: "::1", port: 80 },
  { host: "0.0.0.0", port: 0, isProxy: true },
  { host: "::", port: 80 }
]

const DIALS = [
  { host: "127.0.0.1", port: 80 },
  { host: "10.0.0.1", port: 80 },
  { host: "127.0.0.1", port: 81 },
  { host: "0.0.0.0", port: 80 }
]

const RULES = [
  { host: undefined, bits: 0, port: 80 },
  { host: undefined, bits: 0, port: 0 },
  { host: "127.0.0.0", bits: 8, port: 0 },
  { host: "10.0.0.0", bits: 8, port: 80 },
  { host: "127.0.0.1", bits: 32, port: 0 },
  { host: "10.0.0.1", bits: 32, port: 80 },
  { host: "::1", bits: 128, port: 80 },
  { host: "127.0.0.1", bits: 32, port: 80 }
]

const SCOPES = ["both", "local", "global"] as const

const MOST_WAITING = 2

/** What can be done at the same time in different threads, and comes to what it would come to one after the other. */
const CONTROLS: ReadonlySet<Model.Step["op"]> = new Set([
  "attach",
  "detach",
  "listen",
  "unlisten",
  "connect",
  "accept",
  "request",
  "say yes",
  "say no",
  "close",
  "reset"
] as const)

const TOGETHER: ReadonlySet<OpName> = new Set([...CONTROLS, "kill", "write"] as ReadonlyArray<OpName>)

/** What can be interrupted in another thread at any time, and has then happened or not. */
const INTERRUPTIBLE: ReadonlySet<Model.Step["op"]> = new Set(["connect", "accept", "request", "read", "write"] as const)

const pick = <A>(values: ReadonlyArray<A>, n: number): A => values[n % values.length]

/** Those that are there, or those that are not any more and still have a thread. */
const reachable = <A extends { readonly app: App; readonly isOpen: boolean }>(
  values: ReadonlyArray<A>,
  isLate = false
): ReadonlyArray<A> => values.filter(({ app, isOpen }) => isOpen !== isLate && !app.isLost)

/** Both, each in its order. */
const interleavings = <A>(these: ReadonlyArray<A>, those: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> => {
  if (these.length === 0) return [those]
  if (those.length === 0) return [these]
  return [
    ...interleavings(these.slice(1), those).map((rest) => [these[0], ...rest]),
    ...interleavings(these, those.slice(1)).map((rest) => [those[0], ...rest])
  ]
}

/** The orders in which these may happen that were begun together. */
const mergesOf = (these: Course, those: Course): ReadonlyArray<Course> => {
  // What a thread does that is about to die, it does before that.
  if (these[0].op === "write") return [[...these, ...those]]
  if (those[0].op === "write") return [[...those, ...these]]
  return interleavings(these, those)
}

/** In each order. */
const permutations = <A>(values: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> =>
  values.length < 2
    ? [values]
    : values.flatMap((value) => permutations(values.filter((other) => other !== value)).map((rest) => [value, ...rest]))

interface App {
  readonly id: number
  readonly options: Model.AppOptions
  readonly face: Application.Application["Service"]
  readonly scope: Scope.Closeable
  readonly pull: Effect.Effect<ReadonlyArray<AppEvent>, unknown> | undefined
  readonly log: EventLog
  isOpen: boolean
  /** Whether its thread has died. */
  isLost: boolean
}

interface Binding {
  readonly id: number
  readonly app: App
  readonly face: Listener.Listener
  readonly isProxy: boolean
  readonly scope: Scope.Closeable
  isOpen: boolean
}

interface End {
  readonly app: App
  readonly port: number
  readonly side: Model.SideName
  readonly face: Connection.Connection
  readonly scope: Scope.Closeable
  isOpen: boolean
  /** Bytes that it was asked to write. */
  submitted: number
  /** Bytes that it had published when it was last known. */
  lastSent: number
}

interface Request {
  readonly app: App
  readonly id: number
  readonly face: Listener.ConnectionRequest
  readonly scope: Scope.Closeable
  isOpen: boolean
}

interface Rule {
  readonly id: number
  readonly scope: Scope.Closeable
  isOpen: boolean
}

interface Begun {
  readonly steps: Course
  readonly orders: ReadonlyArray<Course>
}

type Course = ReadonlyArray<Model.Step>

interface Running {
  readonly step: Model.Step
  readonly fiber: Fiber.Fiber<unknown, unknown>
  /** What has come of it. */
  readonly onEnd: (exit: Exit.Exit<any, unknown>) => Partial<Model.Ended> | void
}

class Driver {
  private readonly host: Host
  private readonly program: Program
  private readonly slots: Array<App | undefined>
  private readonly apps: Array<App> = []
  private readonly bindings: Array<Binding> = []
  private readonly ends: Array<End> = []
  /** All that were ever held. */
  private readonly held = new Map<string, End>()
  private readonly requests: Array<Request> = []
  private readonly rules: Array<Rule> = []
  private readonly running = new Map<number, Running>()
  private readonly trace: Array<Model.Step> = []
  private models: Array<Model.Model>
  /** Where applications read their events: longer than they are attached. */
  private readonly events = Scope.makeUnsafe()
  private nextId = 1
  private nextApp = 1

  // What is known of the sessions and segments that were seen.
  private readonly names = new Map<string, string>()
  private readonly numbers = new WeakMap<Segment, number>()
  private readonly segments = new Map<number, Segment>()
  private unitsBefore = new Map<number, number>()

  constructor(host: Host, program: Program) {
    this.host = host
    this.program = program
    this.slots = program.apps.map(() => undefined)
    this.models = [
      Model.Model.make([
        { id: "default", secret: undefined },
        { id: "guarded", secret: "open" }
      ])
    ]
  }

  /** All of it; then everything is closed, and nothing is left. */
  run(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      // Some come and go before anybody has looked.
      const names = this.host.layer.changes.subscribeWith(({ session }) => void this.nameOf(session))
      if (this.host.isConcurrent) yield* Scope.provide(names, this.events)
      for (const slot of this.program.apps.keys()) yield* this.attach(slot, slot, 0)
      const { ops } = this.program
      const { isConcurrent, isPrompt } = this.host
      for (let at = 0; at < ops.length; at++) {
        const next = ops.at(at + 1)
        if (ops[at].op === "together") {
          const others = ops.slice(at + 1, at + 3)
          this.isGathering = isConcurrent && others.length === 2 && others.every(({ op }) => TOGETHER.has(op))
          continue
        }
        const isHurried = next?.op === "interrupt" && next.a > 2 && (isPrompt || isConcurrent)
        this.hurry = isHurried && !this.isGathering ? next : undefined
        yield* this.perform(ops[at])
        this.isGathering = false
        if (this.begun.length === 0) continue
        // The first of two that go together: they are as far apart as it comes.
        yield* this.host.nudge(next!.c)
        yield* this.perform(next!)
        yield* this.conclude()
        at++
      }
      yield* this.finish()
    })
  }

  // ---------------------------------------------------------------------------
  // operations
  // ---------------------------------------------------------------------------

  /** What there is nothing for is what would bring something for it: so few operations do nothing. */
  private perform(op: Op): Effect.Effect<void> {
    const { a, b, c } = op
    // Some come too late.
    const isLate = c === 11
    const app = pick(this.slots, a)
    const binding = pick(reachable(this.bindings, isLate), b)
    const end = pick(reachable(this.ends, isLate), b)
    const request = pick(reachable(this.requests, isLate), b)
    if (app?.isOpen === false && (!isLate || app.isLost)) return this.attach(a % this.slots.length, b, c)
    switch (op.op) {
      case "attach":
        return this.attach(a % this.slots.length, b, c)
      case "detach":
        return app === undefined ? Effect.void : this.detach(app)
      case "listen":
        return app === undefined ? Effect.void : this.listen(app, pick(LISTENS, b), c)
      case "unlisten":
        return binding === undefined ? Effect.void : this.unlisten(binding)
      case "connect":
        if (binding === undefined) return this.perform({ ...op, op: "listen" })
        return app === undefined ? Effect.void : this.connect(app, b, c)
      case "accept":
      case "request":
        if (binding === undefined) return this.perform({ ...op, op: "listen" })
        return this.accept(binding, op.op === "request")
      case "say yes":
      case "say no":
        if (request === undefined) return this.perform({ ...op, op: "request" })
        return op.op === "say yes" ? this.sayYes(request) : this.sayNo(request, c)
      case "write":
      case "read":
      case "end":
      case "close":
      case "reset":
        if (end === undefined) return this.perform({ ...op, op: "connect" })
        return this.use(end, op)
      case "interrupt":
        return this.interrupt(b)
      case "add rule":
        return this.addRule(a, b, c)
      case "remove rule":
        return this.removeRule(b)
      case "read events":
        return app === undefined ? Effect.void : this.readEvents(app)
      case "memory":
        return this.setMemory((["free", "slow", "short"] as const)[b % 3], c % 3)
      case "grant":
        return this.host.memory.pending === 0 ? Effect.void : this.grant(c !== 1)
      case "advance":
        return this.advance(pick([10_000, 1000, 5000, 20_000], b))
      case "kill":
        return this.kill(b)
      case "together":
        return Effect.void
    }
  }

  private use(end: End, { a, c, op }: Op): Effect.Effect<void> {
    switch (op) {
      case "write":
        return this.write(end, pick(LENGTHS, c), a)
      case "read":
        return this.read(end, c === 0 ? 0 : Math.max(1, pick(LENGTHS, c)))
      case "end":
        return this.end(end)
      case "close":
        return this.close(end, c)
      default:
        return this.reset(end, c)
    }
  }

  private attach(slot: number, which: number, how: number): Effect.Effect<void> {
    if (this.slots[slot]?.isOpen === true || this.attaching.has(slot)) return Effect.void
    this.attaching.add(slot)
    const id = this.nextApp++
    const choice = pick(this.program.apps, which)
    const options = toOptions(`a${id}`, choice, how, choice.place % this.host.places)
    const scope = Scope.makeUnsafe()
    const { events, host } = this
    const attaching = Effect.gen(function* () {
      const face = yield* host.attach(
        {
          name: options.name,
          namespace: options.namespace === "default" ? undefined : options.namespace,
          namespaceSecret: options.secret,
          scope: options.scope,
          workers: options.workers,
          rxFifoSize: options.rx,
          txFifoSize: options.tx,
          segmentSize: options.pairs * options.pairBytes,
          segmentLinger: options.linger,
          maxSessions: finite(options.maxSessions),
          maxHalfOpens: finite(options.maxHalfOpens),
          maxPending: options.maxPending,
          maxFifoMemory: options.maxPairs === Infinity ? undefined : options.maxPairs * options.pairBytes
        },
        options.place
      )
      const pull = options.isObserved ? yield* Scope.provide(Stream.toPull(face.events), events) : undefined
      return { face, pull }
    })
    const step: Model.Step = { id: this.nextId++, op: "attach", app: id, options }
    return this.does(step, Scope.provide(attaching, scope), (exit) => {
      this.attaching.delete(slot)
      if (Exit.isFailure(exit)) return
      const { face, pull } = exit.value
      const log = new EventLog(options.name)
      const app: App = { id, options, face, scope, pull, log, isOpen: true, isLost: false }
      this.slots[slot] = app
      this.apps.push(app)
      if (pull === undefined) return
      // A stream subscribes when it is pulled from; nobody is to wait there when the first event comes.
      this.firstPulls.push(host.run(pull))
    })
  }

  private readonly attaching = new Set<number>()

  /** Whether the next two operations go together, if they can. */
  private isGathering = false

  /** What was begun and has not come to rest, and in which orders its steps may happen. */
  private begun: Array<Begun> = []

  /** An interruption that follows before all has come to rest. */
  private hurry: Op | undefined = undefined

  private readonly firstPulls: Array<Fiber.Fiber<unknown, unknown>> = []

  private detach(app: App): Effect.Effect<void> {
    app.isOpen = false
    for (const binding of this.bindings) if (binding.app === app) binding.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "detach", app: app.id }
    const detaching = Scope.close(app.scope, Exit.void)
    const act = () => void this.running.set(step.id, { step, fiber: this.host.run(detaching), onEnd: () => {} })
    // In another thread it does so in two steps, and others may come in between.
    const leaving: Model.Step = { id: step.id, op: "leave", app: app.id }
    return this.observes([step], act, [app.options.place > 0 ? [leaving, step] : [step]])
  }

  /** A thread dies, with all who live there. */
  private kill(which: number): Effect.Effect<void> {
    const open = this.slots.filter((app) => app?.isOpen === true && app.options.place > 0) as Array<App>
    if (open.length === 0) return Effect.void
    const { place } = pick(open, which).options
    const lost = open.filter(({ options }) => options.place === place)
    for (const end of this.held.values()) {
      if (end.app.options.place === place && !end.app.isLost) end.lastSent = end.face.info.bytesSent
    }
    for (const app of this.apps) {
      if (app.options.place !== place) continue
      app.isOpen = false
      app.isLost = true
    }
    const steps = lost.map(({ id }): Model.Step => ({ id: this.nextId++, op: "kill", app: id }))
    // Who of them is missed first is nobody's promise.
    return this.observes(steps, () => this.host.kill(place), permutations(steps))
  }

  private listen(app: App, at: (typeof LISTENS)[number], how: number): Effect.Effect<void> {
    const { host, isProxy = false, port } = at
    const id = this.nextId++
    const backlog = pick([511, 1, 511, 2, 511], how)
    const approval = pick(["listener", "listener", "application"] as const, Math.floor(how / 2))
    const worker = how < 6 ? undefined : how % app.options.workers
    const scope = Scope.makeUnsafe()
    const face = worker === undefined ? app.face : app.face.workers[worker]
    const workers = worker === undefined ? app.face.workers.map((_, index) => index) : [worker]
    return this.does(
      { id, op: "listen", binding: id, app: app.id, workers, host, port, backlog, approval, isProxy },
      Scope.provide(face.listen(Endpoint.tcp(host, port), { backlog, approval, proxy: isProxy }), scope),
      (exit) => {
        if (Exit.isFailure(exit)) return undefined
        const face: Listener.Listener = exit.value
        this.bindings.push({ id, app, face, isProxy, scope, isOpen: true })
        return { outcome: `success ${face.address.port}` }
      }
    )
  }

  private unlisten(binding: Binding): Effect.Effect<void> {
    binding.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "unlisten", binding: binding.id }
    return this.does(step, Scope.close(binding.scope, Exit.void))
  }

  /** What to dial to reach a listener: something of its own where it listens on everything. */
  private dial(which: number, how: number): { readonly host: string; readonly port: number } {
    const bindings = reachable(this.bindings)
    if (bindings.length === 0 || which === 11) return pick(DIALS, how)
    const { face, isProxy } = pick(bindings, which)
    const text = Endpoint.format(face.address)
    const host = text.slice(0, text.lastIndexOf(":")).replace(/[[\]]/g, "")
    const port = isProxy ? 99 : face.address.port
    if (host === "0.0.0.0") return { host: pick(["127.0.0.1", "10.0.0.1"], how), port }
    return { host: host === "::" ? pick(["::1", "fd00::1"], how) : host, port }
  }

  private connect(app: App, which: number, how: number): Effect.Effect<void> {
    // More than two could come in more orders than the model tries.
    if (this.models[0].waitingForMemory + this.begun.length >= MOST_WAITING) return Effect.void
    const { host, port } = this.dial(which, how)
    const worker = Math.floor(how / 2) % app.options.workers
    const scope = Scope.makeUnsafe()
    const remote = Endpoint.tcp(host, port)
    return this.does(
      { id: this.nextId++, op: "connect", app: app.id, worker, host, port },
      Scope.provide((worker === 0 ? app.face : app.face.workers[worker]).connect(remote), scope),
      (exit) => (Exit.isFailure(exit) ? undefined : this.holds(app, exit.value, "client", scope, remote))
    )
  }

  private accept(binding: Binding, isRequest: boolean): Effect.Effect<void> {
    const id = this.nextId++
    const scope = Scope.makeUnsafe()
    if (!isRequest) {
      return this.does({ id, op: "accept", binding: binding.id }, Scope.provide(binding.face.accept, scope), (exit) =>
        Exit.isFailure(exit) ? undefined : this.holds(binding.app, exit.value, "server", scope)
      )
    }
    return this.does({ id, op: "request", binding: binding.id }, Scope.provide(binding.face.request, scope), (exit) => {
      if (Exit.isFailure(exit)) return undefined
      const face: Listener.ConnectionRequest = exit.value
      this.requests.push({ app: binding.app, id, face, scope, isOpen: true })
      return { outcome: `success ${face.remote.port}` }
    })
  }

  private sayYes({ app, face, id }: Request): Effect.Effect<void> {
    const scope = Scope.makeUnsafe()
    return this.does({ id: this.nextId++, op: "say yes", request: id }, Scope.provide(face.accept, scope), (exit) =>
      Exit.isFailure(exit) ? undefined : this.holds(app, exit.value, "server", scope)
    )
  }

  private sayNo(request: Request, how: number): Effect.Effect<void> {
    const { face, id, scope } = request
    request.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "say no", request: id }
    return this.does(step, how % 2 === 0 ? face.refuse : Scope.close(scope, Exit.void))
  }

  /** One end of a connection, in this driver's hands. */
  private holds(
    app: App,
    face: Connection.Connection,
    side: Model.SideName,
    scope: Scope.Closeable,
    dialled?: Endpoint.Endpoint
  ): Partial<Model.Ended> {
    const { info } = face
    const { port } = side === "client" ? info.local : info.remote
    if (info.side !== side) throw new Model.Mismatch(`the ${side}'s end says that it is the ${info.side}'s`)
    if (dialled !== undefined && Endpoint.format(info.remote) !== Endpoint.format(dialled)) {
      throw new Model.Mismatch(`who dialled ${Endpoint.format(dialled)} is with ${Endpoint.format(info.remote)}`)
    }
    const end: End = { app, port, side, face, scope, isOpen: true, submitted: 0, lastSent: 0 }
    this.ends.push(end)
    this.held.set(`${side}:${port}`, end)
    return { outcome: `success ${port}` }
  }

  private write(end: End, length: number, how: number): Effect.Effect<void> {
    const { face, port, side } = end
    const at = end.submitted
    end.submitted += length
    const bytes = pattern(length, at)
    const half = length >>> 1
    const writing = how % 2 === 1 ? face.writeAll([bytes.subarray(0, half), bytes.subarray(half)]) : face.write(bytes)
    return this.does({ id: this.nextId++, op: "write", port, side, at, length }, writing)
  }

  private read({ face, port, side }: End, length: number): Effect.Effect<void> {
    const id = this.nextId++
    const step: Model.Step = { id, op: "read", port, side, length }
    if (length === 0) {
      return this.does(step, face.read, (exit) => (Exit.isSuccess(exit) ? { bytes: exit.value } : undefined))
    }
    const buffer = new Uint8Array(length)
    return this.does(step, face.readInto(buffer), (exit) =>
      Exit.isSuccess(exit) ? { bytes: buffer.subarray(0, exit.value) } : undefined
    )
  }

  private end({ face, port, side }: End): Effect.Effect<void> {
    return this.does({ id: this.nextId++, op: "end", port, side }, face.end)
  }

  private close(end: End, how: number): Effect.Effect<void> {
    const { face, port, scope, side } = end
    end.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "close", port, side }
    return this.does(step, how % 2 === 0 ? face.close : Scope.close(scope, Exit.void))
  }

  private reset(end: End, how: number): Effect.Effect<void> {
    const { face, port, scope, side } = end
    end.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "reset", port, side }
    return this.does(step, how % 2 === 0 ? face.reset : Scope.close(scope, Exit.fail("broken off")))
  }

  private interrupt(which: number): Effect.Effect<void> {
    const found = pick([...this.running], which)
    if (found === undefined) return Effect.void
    const [target, { fiber }] = found
    return this.observes([{ id: this.nextId++, op: "interrupt", target, isAtRest: true }], () =>
      this.host.interrupt(fiber)
    )
  }

  private addRule(what: number, where: number, how: number): Effect.Effect<void> {
    const binding = pick(reachable(this.bindings), how)
    if (what >= 2 && binding === undefined) return Effect.void
    const action = what === 0 ? "allow" : what === 1 ? "drop" : ({ redirect: binding.face.handle } as const)
    const options = { ...pick(RULES, where), scope: pick(SCOPES, how) }
    const { bits, host, port } = options
    const scope = Scope.makeUnsafe()
    const rule = this.nextId++
    const adding = Sessions.addRule({
      remote: host === undefined ? undefined : `${host}/${bits}`,
      remotePort: port,
      action,
      scope: options.scope
    })
    return this.does(
      {
        id: rule,
        op: "add rule",
        rule,
        options: { ...options, action: typeof action === "object" ? { redirect: binding.id } : action }
      },
      Scope.provide(Effect.provideService(adding, SessionLayer, this.host.layer), scope),
      (exit) => {
        if (Exit.isSuccess(exit)) this.rules.push({ id: rule, scope, isOpen: true })
      }
    )
  }

  private removeRule(which: number): Effect.Effect<void> {
    const rule = pick(
      this.rules.filter(({ isOpen }) => isOpen),
      which
    )
    if (rule === undefined) return Effect.void
    rule.isOpen = false
    const step: Model.Step = { id: this.nextId++, op: "remove rule", rule: rule.id }
    return this.does(step, Scope.close(rule.scope, Exit.void))
  }

  private readEvents(app: App): Effect.Effect<void> {
    const { id, isOpen, log, pull } = app
    // Who waits for events is as far as the first one when it comes: then nobody knows how many are unread.
    if (pull === undefined || app.isLost || (isOpen && this.models[0].unread(id) === 0)) return Effect.void
    return this.does({ id: this.nextId++, op: "read events", app: id }, pull, (exit) => {
      if (Exit.isFailure(exit)) return undefined
      return { events: (exit.value as ReadonlyArray<AppEvent>).map((event) => log.add(event, this.names)) }
    })
  }

  private setMemory(mode: Model.MemoryMode, left: number): Effect.Effect<void> {
    return this.observes([{ id: this.nextId++, op: "memory", mode, left }], () => {
      this.host.memory.mode = mode
      this.host.memory.left = left
    })
  }

  private grant(succeeds: boolean): Effect.Effect<void> {
    return this.observes([{ id: this.nextId++, op: "grant", succeeds }], () => this.host.memory.grant(succeeds))
  }

  private advance(millis: number): Effect.Effect<void> {
    return Effect.andThen(
      this.host.advance(millis),
      this.observes([{ id: this.nextId++, op: "advance", millis }], () => {})
    )
  }

  /** Closes everything, in the order of a program that takes care or of one that does not. */
  private finish(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      yield* this.setMemory("free", 0)
      while (this.host.memory.pending > 0) yield* this.grant(true)
      if (!this.program.isAbrupt) {
        for (const [index, end] of reachable(this.ends).entries()) yield* this.close(end, index)
        for (const [index, request] of reachable(this.requests).entries()) yield* this.sayNo(request, index)
        for (const binding of reachable(this.bindings)) yield* this.unlisten(binding)
        // A request that was accepted leaves its connection with who accepted it.
        for (const [index, end] of reachable(this.ends).entries()) yield* this.close(end, index)
        for (const app of this.slots) {
          if (app === undefined || !app.isOpen) continue
          yield* this.readEvents(app)
          app.log.assertAllDeleted()
        }
      }
      for (const app of this.slots) if (app?.isOpen === true) yield* this.detach(app)
      for (const app of this.slots) if (app !== undefined) yield* this.readEvents(app)
      for (const rule of this.rules) if (rule.isOpen) yield* this.removeRule(0)
      for (const model of this.models) model.assertAtRest()
      if (this.running.size > 0) throw new Model.Mismatch(`operations ${[...this.running.keys()]} wait for ever`)
      this.host.run(Scope.close(this.events, Exit.void))
      yield* this.host.settle
      yield* this.host.close
    })
  }

  // ---------------------------------------------------------------------------
  // seeing
  // ---------------------------------------------------------------------------

  /** Starts an operation; whatever it comes to, now or in a later step, is compared. */
  private does<A, E>(
    step: Model.Step,
    effect: Effect.Effect<A, E>,
    onEnd: Running["onEnd"] = () => {}
  ): Effect.Effect<void> {
    return this.observes([step], () => void this.running.set(step.id, { step, fiber: this.host.run(effect), onEnd }))
  }

  private observes(steps: Course, act: () => void, orders: ReadonlyArray<Course> = [steps]): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      if (this.begun.some((other) => !this.goTogether(other.steps[0], steps[0]))) yield* this.conclude()
      this.trace.push(...steps)
      act()
      this.begun.push({ steps, orders })
      if (this.isGathering) this.isGathering = false
      else if (this.begun.length === 1) yield* this.conclude(yield* this.interruptNow(steps[0]))
    })
  }

  /** Lets all that was begun come to rest, and looks at what has become of it. */
  private conclude(additional?: ReadonlyArray<Course>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      const [one, other] = this.begun.splice(0)
      if (one === undefined) return
      const courses =
        additional ??
        (other === undefined
          ? one.orders
          : one.orders.flatMap((these) => other.orders.flatMap((those) => mergesOf(these, those))))
      yield* this.host.settle
      const ended = this.collect()
      if (this.firstPulls.length > 0) {
        yield* this.host.settle
        for (const pulling of this.firstPulls.splice(0)) this.host.interrupt(pulling)
        yield* this.host.settle
      }
      this.models = successors(this.models, courses, this.look(ended))
    }).pipe(
      Effect.catchDefect((defect) => {
        const message = defect instanceof Error ? defect.message : String(defect)
        const steps = this.trace.map((step) => JSON.stringify(step)).join("\n")
        return Effect.die(new Error(`${message}\nafter\n${steps}`, { cause: defect }))
      })
    )
  }

  /** Whether these two can be under way at once, so that the model knows what may come of them. */
  private goTogether(one: Model.Step, other: Model.Step): boolean {
    if (one.op === "kill" && other.op === "kill") return false
    if (this.models[0].waitingForMemory > 0) return false
    const [kill, rest] = one.op === "kill" ? [one, other] : [other, one]
    if (kill.op !== "kill") return CONTROLS.has(one.op) && CONTROLS.has(other.op)
    const isThere = this.placeOf(rest) === this.placeOf(kill)
    return isThere ? rest.op === "write" : CONTROLS.has(rest.op)
  }

  /** The thread in which a step is done. */
  private placeOf(step: Model.Step): number {
    const app = (id: number) => this.apps.find((app) => app.id === id)!.options.place
    switch (step.op) {
      case "attach":
        return step.options.place
      case "detach":
      case "kill":
      case "connect":
      case "listen":
        return app(step.app)
      case "accept":
      case "request":
      case "unlisten":
        return this.bindings.find(({ id }) => id === step.binding)!.app.options.place
      case "say yes":
      case "say no":
        return this.requests.find(({ id }) => id === step.request)!.app.options.place
      case "read":
      case "write":
      case "end":
      case "close":
      case "reset":
        return this.held.get(`${step.side}:${step.port}`)!.app.options.place
      default:
        return 0
    }
  }

  /** Interrupts somebody while the step is under way, if that is what comes next; returns the courses it may take. */
  private interruptNow(step: Model.Step): Effect.Effect<ReadonlyArray<Course> | undefined> {
    return Effect.gen({ self: this }, function* () {
      const { hurry } = this
      this.hurry = undefined
      const { isConcurrent } = this.host
      const found = hurry && pick([...this.running], hurry.b)
      if (hurry === undefined || found === undefined || step.op === "kill") return undefined
      const [target, { fiber, step: what }] = found
      // Of two that wait to write, nobody could tell whose the bytes are that come now.
      if (this.models.some((model) => model.isFollowed(target))) return undefined
      if (isConcurrent && !INTERRUPTIBLE.has(what.op)) return undefined
      const interruption: Model.Step = { id: this.nextId++, op: "interrupt", target, isAtRest: false }
      this.trace.push(interruption)
      yield* this.host.nudge(hurry.c)
      // It may be that nobody sees them later.
      for (const session of this.host.layer.connections.sessions()) this.nameOf(session)
      this.host.interrupt(fiber)
      // In another thread, a connection that comes too late for one is for the next who asks.
      const isKept = (what.op === "accept" || what.op === "request") && this.placeOf(what) > 0
      const late: Model.Step = { id: interruption.id, op: isKept ? "keep" : "discard", target }
      const courses = [
        [step, interruption],
        [step, late]
      ]
      if (target !== step.id) courses.push([interruption, step])
      if (isConcurrent) courses.push([step])
      return courses
    })
  }

  /** What has ended since it was last looked. */
  private collect(): Map<number, Model.Ended> {
    const ended = new Map<number, Model.Ended>()
    for (const [id, { fiber, onEnd }] of this.running) {
      const exit = fiber.pollUnsafe()
      if (exit === undefined) continue
      this.running.delete(id)
      ended.set(id, { outcome: reasonOf(exit), received: receivedOf(exit), ...onEnd(exit) })
    }
    return ended
  }

  private look(ended: ReadonlyMap<number, Model.Ended>): Model.Seen {
    const { apps, connections, counters, residue, segments } = this.host.layer
    const sessions = new Map<string, Model.SeenSession>()
    for (const session of connections.sessions()) {
      const { app, isRxEnded, isTxEnded, lease, rx, state } = session
      sessions.set(this.nameOf(session), {
        state,
        worker: app.name,
        segment: this.numberOf(lease.segment),
        isTxEnded,
        isRxEnded,
        unread: rx.used
      })
    }
    const halfOpens = new Set<number>()
    for (const { local } of connections.halfOpens()) halfOpens.add(local.port)
    const summary: Array<string> = []
    for (const segment of segments.stats().segments) summary.push(Model.segmentLine(segment))
    for (const { events, fifoMemory, halfOpens, listeners, name, sessions, unaccepted } of apps()) {
      const { unread } = events
      summary.push(
        Model.appLine({ name, listeners: listeners.size, sessions, halfOpens, fifoMemory, unaccepted, unread })
      )
    }
    const allocations = this.host.memory.pending
    summary.push(Model.countsLine({ ...residue(), allocations }), Model.countersLine(counters))
    const { unitsBefore } = this
    const units = new Map(
      Array.from(this.segments, ([number, { fifos }]) => [number, fifos.availableBytes / UNIT] as const)
    )
    this.unitsBefore = units
    return {
      ended,
      sessions,
      halfOpens,
      sent: (side, port) => this.sent(side, port),
      units: (segment) => units.get(segment) ?? Infinity,
      unitsBefore: (segment) => unitsBefore.get(segment) ?? Infinity,
      summary
    }
  }

  /** Bytes that a side has published: it knows that itself, unless its thread has died. Then its peer can tell. */
  private sent(side: Model.SideName, port: number): number {
    const end = this.held.get(`${side}:${port}`)
    if (end === undefined) return 0
    if (!end.app.isLost) return end.face.info.bytesSent
    const other = side === "client" ? "server" : "client"
    for (const session of this.host.layer.connections.sessions()) {
      if (this.nameOf(session) !== `${other}:${port}`) continue
      end.lastSent = (this.held.get(`${other}:${port}`)?.face.info.bytesReceived ?? 0) + session.rx.used
    }
    return end.lastSent
  }

  private nameOf({ handle, local, remote, side, worker }: Session): string {
    const name = `${side}:${(side === "client" ? local : remote).port}`
    this.names.set(`${worker}:${handle}`, name)
    return name
  }

  private numberOf(segment: Segment): number {
    const known = this.numbers.get(segment)
    if (known !== undefined) return known
    const number = this.segments.size + 1
    this.numbers.set(segment, number)
    this.segments.set(number, segment)
    return number
  }
}

/** The states that the machine may be in now: at least one, or what is seen is wrong. */
const successors = (
  models: ReadonlyArray<Model.Model>,
  courses: ReadonlyArray<ReadonlyArray<Model.Step>>,
  seen: Model.Seen
): Array<Model.Model> => {
  const [steps] = courses
  const [order, ...others] = models[0].orders(steps)
  if (models.length === 1 && courses.length === 1 && others.length === 0) {
    models[0].step(steps, seen, order)
    return [...models]
  }
  const found = new Map<string, Model.Model>()
  let mismatch: unknown
  for (const model of models) {
    for (const steps of courses) {
      for (const order of model.orders(steps)) {
        const successor = model.clone()
        try {
          successor.step(steps, seen, order)
          found.set(successor.key, successor)
        } catch (error) {
          if (!(error instanceof Model.Mismatch)) throw error
          mismatch ??= error
        }
      }
    }
  }
  if (found.size === 0) throw mismatch
  return [...found.values()]
}

/** What an error says of how much has arrived. */
const receivedOf = (exit: Exit.Exit<unknown, unknown>): number | undefined => {
  const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
  if (reason?._tag !== "Fail" || !(reason.error instanceof SessionError)) return undefined
  const why = reason.error.reason
  return "bytesReceived" in why ? why.bytesReceived : undefined
}

const finite = (limit: number): number | undefined => (limit === Infinity ? undefined : limit)

const toOptions = (name: string, choice: AppChoice, how: number, place: number): Model.AppOptions => {
  const { rx, tx } = SIZES[choice.sizes]
  const isGuarded = choice.isGuarded === 1
  return {
    name,
    place,
    namespace: how === 10 ? "nowhere" : isGuarded ? "guarded" : "default",
    secret: how === 11 ? "shut" : isGuarded ? "open" : undefined,
    scope: SCOPES[choice.scope],
    workers: choice.workers,
    rx,
    tx,
    pairs: choice.pairs,
    pairBytes: FifoSegment.pairBytes(rx, tx),
    linger: choice.lingers * 10_000,
    isObserved: choice.isObserved === 1,
    maxSessions: choice.maxSessions === 0 ? Infinity : choice.maxSessions,
    maxHalfOpens: choice.maxHalfOpens === 0 ? Infinity : choice.maxHalfOpens,
    maxPending: choice.maxPending === 0 ? 65_536 : choice.maxPending,
    maxPairs: choice.maxPairs === 0 ? Infinity : choice.maxPairs
  }
}

/** What an application was told, and the order in which it may be told that. */
class EventLog {
  private readonly name: string
  /** Where its sessions are, by worker and segment. */
  private readonly places = new Map<string, string>()
  private readonly added = new Map<string, number>()
  private readonly connected = new Set<number>()
  private readonly cleaned = new Set<number>()
  private readonly transports = new Set<string>()
  private readonly gone = new Set<string>()
  private readonly known = new Set<string>()

  constructor(name: string) {
    this.name = name
  }

  private check(condition: boolean, event: AppEvent, why: string): void {
    if (!condition) throw new Model.Mismatch(`${this.name} was told ${JSON.stringify(event)}: ${why}`)
  }

  private isMapped(event: AppEvent, segment: number): void {
    this.check((this.added.get(`${event.worker} ${segment}`) ?? 0) > 0, event, "it does not know of that segment")
  }

  /** Checks that it may come now, and says it in the words of the model. */
  add(event: AppEvent, names: Map<string, string>): string {
    const { _tag, worker } = event
    const sessionOf = ({ handle, worker }: { readonly handle: number; readonly worker: number }) => {
      const id = `${worker}:${handle}`
      this.check(!this.gone.has(id), event, "that session is gone")
      this.known.add(id)
      return id
    }
    switch (event._tag) {
      case "SegmentAdded":
      case "SegmentDeleted": {
        const key = `${worker} ${event.segment}`
        const count = (this.added.get(key) ?? 0) + (event._tag === "SegmentAdded" ? 1 : -1)
        this.check(count >= 0, event, "it was never told of that segment")
        this.added.set(key, count)
        // Segments of several listeners may have the same handle: then it is the last one that counts.
        const isUsed = count === 0 && [...this.places.values()].includes(key)
        this.check(!isUsed, event, "it has sessions in that segment")
        return `${_tag} ${worker}`
      }
      case "Accepted": {
        const id = sessionOf(event.session)
        this.isMapped(event, event.segment)
        this.places.set(id, `${worker} ${event.segment}`)
        names.set(id, `server:${event.remote.port}`)
        return `${_tag} ${worker} ${names.get(id)}`
      }
      case "Connected": {
        const { result } = event
        this.check(!this.connected.has(event.halfOpen), event, "that connect was answered before")
        this.connected.add(event.halfOpen)
        if (result._tag === "Success") {
          this.isMapped(event, result.segment)
          this.places.set(sessionOf(result.session), `${worker} ${result.segment}`)
        }
        const outcome = result._tag === "Success" ? "success" : result.error.reason._tag
        return `${_tag} ${worker} to ${Endpoint.format(event.remote)}: ${outcome}`
      }
      case "HalfOpenCleanup":
        this.check(this.connected.has(event.halfOpen), event, "that connect was not answered")
        this.check(!this.cleaned.has(event.halfOpen), event, "that half-open is gone")
        this.cleaned.add(event.halfOpen)
        return `${_tag} ${worker}`
      default: {
        const id = sessionOf(event.session)
        if (_tag === "CleanupTransport") {
          this.check(!this.transports.has(id), event, "its transport is gone")
          this.transports.add(id)
        } else if (_tag === "CleanupSession") {
          this.check(this.transports.has(id), event, "its transport is still there")
          this.gone.add(id)
          this.places.delete(id)
        } else this.check(!this.transports.has(id), event, "its transport is gone")
        return `${_tag} ${worker} ${names.get(id)}`
      }
    }
  }

  /** Once all is closed, and not yet detached. */
  assertAllDeleted(): void {
    const left = [...this.added].filter(([, count]) => count !== 0)
    const open = [...this.known].filter((id) => !this.gone.has(id))
    const unclean = [...this.connected].filter((halfOpen) => !this.cleaned.has(halfOpen))
    if (left.length + open.length + unclean.length === 0) return
    throw new Model.Mismatch(`${this.name} was not told of the end of ${JSON.stringify({ left, open, unclean })}`)
  }
}

/** Runs a program, and dies where what happens is not what the model says. */
export const runProgram = (host: Host, program: Program): Effect.Effect<void> =>
  Effect.onError(
    Effect.suspend(() => new Driver(host, program).run()),
    () => host.abandon
  )
