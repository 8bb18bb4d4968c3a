/**
 * Everything that goes wrong between applications, on demand.
 *
 * A fault is injected into a scope and undone when the scope closes, or before
 * when its time is over. It hits the connections, connects and listeners of the
 * applications that were decorated with {@link layerApplication}, whatever the
 * path of their bytes is, and only those that its {@link Target} means: by
 * endpoint, by application, with a probability. So the same verbs serve a test
 * on the test clock and an hour in a staging process.
 *
 * Faults of bytes act where the decorated application writes and reads. To
 * delay both directions of a connection, decorate both applications.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import { Connection } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { ConnectionRequest, Listener } from "@cut-through/core/Listener"
import * as Memory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as Arr from "effect/Array"
import * as ByteSize from "effect/ByteSize"
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import { Prng } from "./internal/Prng.ts"
import { Seed } from "./internal/Seed.ts"

/**
 * What goes wrong. Made by the functions of this module.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | { readonly _tag: "Latency"; readonly millis: number; readonly jitter: number }
  | { readonly _tag: "Bandwidth"; readonly bytesPerSecond: number }
  | { readonly _tag: "SlowClose"; readonly millis: number }
  | { readonly _tag: "ResetAfter"; readonly bytes: number }
  | { readonly _tag: "Slice"; readonly bytes: number }
  | { readonly _tag: "StalledReader" }
  | { readonly _tag: "Refuse" }
  | { readonly _tag: "ConnectionLimit"; readonly connections: number }
  | { readonly _tag: "SegmentExhaustion" }
  | { readonly _tag: "DroppedApp" }
  | { readonly _tag: "ThreadKilled" }
  | { readonly _tag: "Partition"; readonly from: string; readonly to: string; readonly oneWay?: true }
  | { readonly _tag: "Hold"; readonly from: string; readonly to: string; readonly oneWay?: true }

/**
 * Who is hit. What is left out does not matter; nothing at all means everybody.
 *
 * @category models
 * @since 0.1.0
 */
export interface Target {
  /** The name of the decorated application. */
  readonly app?: string | undefined
  /** The endpoint that was dialled, on both sides of a connection: `10.0.0.2:7000`, or only the port. */
  readonly endpoint?: Endpoint.Endpoint | string | number | undefined
  /** How likely each connection (or connect, or allocation) is hit, from 0 to 1. Default 1. */
  readonly probability?: number | undefined
  /** When it is over at the latest. Default: what the layer was given, or when its scope closes. */
  readonly for?: Duration.Input | undefined
}

/**
 * A fault that is injected.
 *
 * @category models
 * @since 0.1.0
 */
export interface Active {
  readonly fault: Fault
  readonly target: Target
  /** How often it has hit. */
  readonly hits: number
}

/**
 * One step of a plan: times from its start.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step {
  readonly at: Duration.Input
  readonly for: Duration.Input
  readonly fault: Fault
  readonly target?: Target | undefined
}

/**
 * The ways between hosts, as a `TestNetwork` has them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ways {
  /** What becomes of what is sent in one direction. */
  readonly getState: (from: string, to: string) => "open" | "cut" | "held"
  readonly setState: (
    from: string,
    to: string,
    change: "partition" | "repair" | "hold" | "release"
  ) => Effect.Effect<void, SessionError.SessionError>
}

/**
 * The service that injects faults.
 *
 * @category services
 * @since 0.1.0
 */
export class Faults extends Context.Service<
  Faults,
  {
    /** Injects a fault until the scope closes. */
    readonly inject: (fault: Fault, target?: Target) => Effect.Effect<void, SessionError.SessionError, Scope.Scope>
    /** What is injected now. */
    readonly active: () => ReadonlyArray<Active>
    /** Decorates an application. */
    readonly application: (application: Application.Application["Service"]) => Application.Application["Service"]
    /** Decorates memory. */
    readonly memory: (memory: Memory.SharedMemory["Service"]) => Memory.SharedMemory["Service"]
    /** Lets faults cut and hold the ways between hosts, until the scope closes. A `TestNetwork` does so by itself. */
    readonly network: (ways: Ways) => Effect.Effect<void, SessionError.SessionError, Scope.Scope>
  }
>()("@cut-through/testing/Faults") {}

// -----------------------------------------------------------------------------
// faults
// -----------------------------------------------------------------------------

const millisOf = (input: Duration.Input): number => {
  try {
    return Duration.toMillis(Duration.fromInputUnsafe(input))
  } catch {
    return Number.NaN
  }
}

/**
 * What is written goes on its way later, and the writer waits for that: at most
 * `jitter` more, at random.
 *
 * @category faults
 * @since 0.1.0
 */
export const latency = (time: Duration.Input, options?: { readonly jitter?: Duration.Input | undefined }): Fault => ({
  _tag: "Latency",
  millis: millisOf(time),
  jitter: millisOf(options?.jitter ?? 0)
})

/**
 * So many bytes are written in a second, by each connection.
 *
 * @category faults
 * @since 0.1.0
 */
export const bandwidth = (bytesPerSecond: ByteSize.Input): Fault => {
  const bytes = ByteSize.fromInput(bytesPerSecond)
  return { _tag: "Bandwidth", bytesPerSecond: bytes._tag === "Some" ? Number(bytes.value) : Number.NaN }
}

/**
 * Ending a stream and closing a connection take so long.
 *
 * @category faults
 * @since 0.1.0
 */
export const slowClose = (time: Duration.Input): Fault => ({ _tag: "SlowClose", millis: millisOf(time) })

/**
 * A connection is reset when so many bytes were written and read.
 *
 * @category faults
 * @since 0.1.0
 */
export const resetAfter = (bytes: number): Fault => ({ _tag: "ResetAfter", bytes })

/**
 * A read returns at most so many bytes.
 *
 * @category faults
 * @since 0.1.0
 */
export const slice = (bytes: number): Fault => ({ _tag: "Slice", bytes })

/**
 * Nothing is read until the fault is over, so the other side's writes wait when
 * the connection is full.
 *
 * @category faults
 * @since 0.1.0
 */
export const stalledReader: Fault = { _tag: "StalledReader" }

/**
 * Connects are refused, and connections that a listener gets are reset.
 *
 * @category faults
 * @since 0.1.0
 */
export const refuse: Fault = { _tag: "Refuse" }

/**
 * {@link refuse}, for those who come when there are so many connections already.
 *
 * @category faults
 * @since 0.1.0
 */
export const connectionLimit = (connections: number): Fault => ({ _tag: "ConnectionLimit", connections })

/**
 * There is no memory for another segment: connects fail that need one, with
 * `AllocFailed`. Hits session layers whose memory was decorated, with
 * {@link layerMemory} or {@link layerSessions}; of a target only the
 * probability counts.
 *
 * @category faults
 * @since 0.1.0
 */
export const segmentExhaustion: Fault = { _tag: "SegmentExhaustion" }

/**
 * The application is gone: its connections are reset, and until the fault is
 * over it can neither connect nor take a connection.
 *
 * @category faults
 * @since 0.1.0
 */
export const droppedApp: Fault = { _tag: "DroppedApp" }

/**
 * The thread of the application dies: what the layer was given as `kill` is run
 * with the application's name, once for each fault.
 *
 * @category faults
 * @since 0.1.0
 */
export const threadKilled: Fault = { _tag: "ThreadKilled" }

type LinkFault = Extract<Fault, { readonly _tag: "Partition" | "Hold" }>

const link =
  (_tag: LinkFault["_tag"]) =>
  (from: string, to: string, options: { readonly oneWay?: boolean | undefined } = {}): Fault =>
    options.oneWay === true ? { _tag, from, to, oneWay: true } : { _tag, from, to }

/**
 * The way between two hosts of a `TestNetwork` is cut, or only from the first
 * one to the second, as with `TestNetwork.partition`; when the fault is over it
 * is repaired, unless another one has it cut or held. Of a target only the
 * probability and the time count.
 *
 * **Example** (A plan in which two hosts lose each other for a minute)
 *
 * ```ts
 * import { Faults } from "@cut-through/testing"
 *
 * const plan: ReadonlyArray<Faults.Step> = [{ at: "10 seconds", for: "1 minute", fault: Faults.partition("a", "b") }]
 *
 * Faults.format(plan[0].fault) // => "Partition from=a to=b"
 * ```
 *
 * @category faults
 * @since 0.1.0
 */
export const partition: (from: string, to: string, options?: { readonly oneWay?: boolean | undefined }) => Fault =
  link("Partition")

/**
 * What is between two hosts of a `TestNetwork` stays where it is, or only what
 * goes from the first one to the second, as with `TestNetwork.hold`; when the
 * fault is over it is released, unless another one has the way cut or held. Of a
 * target only the probability and the time count.
 *
 * @category faults
 * @since 0.1.0
 */
export const hold: (from: string, to: string, options?: { readonly oneWay?: boolean | undefined }) => Fault =
  link("Hold")

const isCount = (value: number, least: number) => Number.isSafeInteger(value) && value >= least

const whyNotFault = (fault: Fault): SessionError.InvalidArgument | undefined => {
  const wrong = (value: number | string, expected: string) =>
    new SessionError.InvalidArgument({ what: `the fault ${fault._tag}`, value: String(value), expected })
  switch (fault._tag) {
    case "Latency":
      for (const millis of [fault.millis, fault.jitter]) {
        if (!(millis >= 0 && millis < Infinity)) return wrong(millis, 'finite durations, such as "10 millis"')
      }
      return undefined
    case "SlowClose":
      return fault.millis >= 0 && fault.millis < Infinity ? undefined : wrong(fault.millis, "a finite duration")
    case "Bandwidth":
      return fault.bytesPerSecond > 0 ? undefined : wrong(fault.bytesPerSecond, 'bytes in a second, such as "1 MiB"')
    case "ResetAfter":
      return isCount(fault.bytes, 0) ? undefined : wrong(fault.bytes, "a number of bytes")
    case "Slice":
      return isCount(fault.bytes, 1) ? undefined : wrong(fault.bytes, "a number of bytes, at least 1")
    case "ConnectionLimit":
      return isCount(fault.connections, 0) ? undefined : wrong(fault.connections, "a number of connections")
    case "Partition":
    case "Hold":
      return fault.from !== fault.to ? undefined : wrong(fault.to, "another host than the one it is cut off from")
    default:
      return undefined
  }
}

const whyNotTarget = ({ probability = 1, for: time = 0 }: Target): SessionError.InvalidArgument | undefined => {
  if (!(probability >= 0 && probability <= 1)) {
    return new SessionError.InvalidArgument({ what: "probability", value: String(probability), expected: "0 to 1" })
  }
  if (Number.isNaN(millisOf(time))) {
    return new SessionError.InvalidArgument({ what: "for", value: String(time), expected: "a duration" })
  }
  return undefined
}

/**
 * A fault and its target in one line.
 *
 * **Example** (A line)
 *
 * ```ts
 * import { Faults } from "@cut-through/testing"
 *
 * Faults.format(Faults.resetAfter(100), { app: "mailer", probability: 0.5 }) // => "ResetAfter bytes=100, app=mailer probability=0.5"
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = ({ _tag, ...options }: Fault, target: Target = {}): string => {
  const show = (values: object) =>
    Object.entries(values)
      .filter(([, value]) => value !== undefined)
      .map(
        ([key, value]) => ` ${key}=${typeof value === "object" ? Endpoint.format(value as Endpoint.Endpoint) : value}`
      )
      .join("")
  const whom = show(target)
  return `${_tag}${show(options)}${whom === "" ? "" : `,${whom}`}`
}

// -----------------------------------------------------------------------------
// the service
// -----------------------------------------------------------------------------

class Injected implements Active {
  hits = 0
  readonly fault: Fault
  readonly target: Target
  /** Opens when it is over. */
  readonly over: Latch.Latch = Latch.makeUnsafe(false)
  private readonly drawn: WeakMap<object, boolean> = new WeakMap()
  private readonly random: Prng

  constructor(fault: Fault, target: Target, random: Prng) {
    this.fault = fault
    this.target = target
    this.random = random
  }

  /** Whether it means this one; drawn once for each `subject`. */
  means(app: string | undefined, dialled: Endpoint.Endpoint | undefined, subject: object): boolean {
    const { app: wanted, endpoint, probability = 1 } = this.target
    if (wanted !== undefined && wanted !== app) return false
    if (endpoint !== undefined && (dialled === undefined || !isAt(dialled, endpoint))) return false
    if (probability >= 1) return true
    let isHit = this.drawn.get(subject)
    if (isHit === undefined) {
      isHit = this.random.nextDoubleUnsafe() < probability
      this.drawn.set(subject, isHit)
    }
    return isHit
  }
}

const isLink = (fault: Fault): fault is LinkFault => fault._tag === "Partition" || fault._tag === "Hold"

/** Whether it is about this direction. */
const isAbout = (fault: Fault, from: string, to: string): boolean =>
  isLink(fault) &&
  ((fault.from === from && fault.to === to) || (fault.oneWay !== true && fault.from === to && fault.to === from))

const isAt = (dialled: Endpoint.Endpoint, wanted: NonNullable<Target["endpoint"]>): boolean => {
  if (typeof wanted === "number") return dialled.port === wanted
  return Endpoint.format(dialled) === (typeof wanted === "string" ? wanted : Endpoint.format(wanted))
}

/**
 * How a service of faults is made.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** What probabilities and jitter depend on. Default: the seed of the simulation it runs in, or 0. */
  readonly seed?: number | string | undefined
  /** No fault lasts longer: for processes that others use, too. Default: no limit. */
  readonly maxDuration?: Duration.Input | undefined
  /** How to kill the thread of an application, for {@link threadKilled}. */
  readonly kill?: ((app: string | undefined) => Effect.Effect<void>) | undefined
}

/**
 * A service that injects nothing yet.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<Faults["Service"]> =>
  Effect.map(Seed, (seed) => {
    const random = Prng.of(options.seed ?? seed, "faults")
    const injected: Array<Injected> = []
    const open = new Set<FaultyConnection>()
    const networks = new Set<Ways>()
    let count = 0

    const matching = <Tag extends Fault["_tag"]>(
      tag: Tag,
      app: string | undefined,
      dialled: Endpoint.Endpoint | undefined,
      subject: object
    ): Array<[Extract<Fault, { readonly _tag: Tag }>, Injected]> => {
      const found: Array<[Extract<Fault, { readonly _tag: Tag }>, Injected]> = []
      for (const one of injected) {
        if (one.fault._tag !== tag || !one.means(app, dialled, subject)) continue
        found.push([one.fault as Extract<Fault, { readonly _tag: Tag }>, one])
      }
      return found
    }

    const registry: Registry = {
      matching,
      open,
      isQuiet: () => injected.length === 0,
      jitter: (limit) => (limit === 0 ? 0 : random.nextDoubleUnsafe() * limit)
    }

    /** Makes a way what all faults together say it is. */
    const settle = (ways: Ways, from: string, to: string): Effect.Effect<void, SessionError.SessionError> =>
      Effect.suspend(() => {
        let wanted = "open"
        for (const one of injected) {
          if (!isAbout(one.fault, from, to) || !one.means(undefined, undefined, one)) continue
          if (one.fault._tag === "Partition") wanted = "cut"
          else if (wanted === "open") wanted = "held"
        }
        const { setState } = ways
        const state = ways.getState(from, to)
        if (state === wanted) return Effect.void
        if (wanted === "cut") return setState(from, to, "partition")
        const opened = setState(from, to, state === "cut" ? "repair" : "release")
        if (wanted === "open") return opened
        return Effect.andThen(state === "cut" ? opened : Effect.void, setState(from, to, "hold"))
      })

    const settleAll = (
      { from, oneWay, to }: LinkFault,
      all: Iterable<Ways> = networks
    ): Effect.Effect<void, SessionError.SessionError> =>
      Effect.forEach(
        [...all],
        (ways) => Effect.andThen(settle(ways, from, to), oneWay === true ? Effect.void : settle(ways, to, from)),
        { discard: true }
      )

    const start = (one: Injected): Effect.Effect<void, SessionError.SessionError> => {
      if (isLink(one.fault)) {
        if (networks.size > 0) one.hits++
        return settleAll(one.fault)
      }
      if (one.fault._tag === "ThreadKilled") {
        one.hits++
        return options.kill?.(one.target.app) ?? Effect.void
      }
      if (one.fault._tag !== "DroppedApp") return Effect.void
      return Effect.forEach(
        [...open].filter((connection) => one.means(connection.app, connection.dialled, connection)),
        (connection) => {
          one.hits++
          return connection.breakOff
        },
        { discard: true }
      )
    }

    return Faults.of({
      inject: (fault, target = {}) =>
        Effect.gen(function* () {
          const wrong = whyNotFault(fault) ?? whyNotTarget(target)
          if (wrong !== undefined) return yield* SessionError.make(wrong)
          if (fault._tag === "ThreadKilled" && options.kill === undefined) {
            const expected = "a layer that knows how to kill a thread: Faults.layerWith({ kill })"
            return yield* SessionError.make(
              new SessionError.InvalidArgument({ what: "kill", value: "missing", expected })
            )
          }
          const scope = yield* Effect.scope
          const one = new Injected(fault, target, Prng.of(options.seed ?? seed, `fault ${count++}`))
          const end = Effect.suspend(() => {
            const at = injected.indexOf(one)
            if (at < 0) return Effect.void
            injected.splice(at, 1)
            one.over.openUnsafe()
            // There is nothing in it that was not there when it began.
            return isLink(fault) ? Effect.ignore(settleAll(fault)) : Effect.void
          })
          yield* Effect.uninterruptible(
            Effect.suspend(() => {
              injected.push(one)
              return Scope.addFinalizer(scope, end)
            })
          )
          const millis = Math.min(millisOf(target.for ?? Infinity), millisOf(options.maxDuration ?? Infinity))
          if (millis < Infinity) yield* Effect.forkScoped(Effect.delay(end, millis), { startImmediately: true })
          yield* start(one)
        }),
      active: () => injected.map(({ fault, hits, target }) => ({ fault, target, hits })),
      application: (application) => decorate(registry, application),
      network: (ways) =>
        Effect.gen(function* () {
          yield* Effect.acquireRelease(
            Effect.sync(() => networks.add(ways)),
            () => Effect.sync(() => networks.delete(ways))
          )
          for (const one of injected) {
            if (!isLink(one.fault)) continue
            one.hits++
            yield* settleAll(one.fault, [ways])
          }
        }),
      memory: (memory) => ({
        ...memory,
        allocate: (bytes, mappers) =>
          Effect.suspend(() => {
            const exhausted = matching("SegmentExhaustion", undefined, undefined, {})
            if (exhausted.length === 0) return memory.allocate(bytes, mappers)
            for (const [, one] of exhausted) one.hits++
            return SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes }))
          }),
        tryAllocate: (bytes, mappers) =>
          // What says no is `allocate`, which is asked next.
          injected.some(({ fault }) => fault._tag === "SegmentExhaustion")
            ? undefined
            : memory.tryAllocate(bytes, mappers)
      })
    })
  })

/** What connections and applications ask about. */
interface Registry {
  readonly matching: <Tag extends Fault["_tag"]>(
    tag: Tag,
    app: string | undefined,
    dialled: Endpoint.Endpoint | undefined,
    subject: object
  ) => Array<[Extract<Fault, { readonly _tag: Tag }>, Injected]>
  readonly open: Set<FaultyConnection>
  readonly isQuiet: () => boolean
  readonly jitter: (limit: number) => number
}

/** Waits, but not longer than the fault is there. */
const sleepIn = (one: Injected, millis: number): Effect.Effect<void> => {
  one.hits++
  return millis <= 0 ? Effect.void : Effect.raceFirst(Effect.sleep(Duration.millis(millis)), one.over.await)
}

const ConnectionTypeId = "~@cut-through/core/Connection"

type Read<A> = Effect.Effect<A, SessionError.SessionError | Cause.Done>

type Write = Effect.Effect<void, SessionError.SessionError>

/** A connection that asks about faults before it does anything. */
class FaultyConnection implements Connection {
  readonly [ConnectionTypeId] = ConnectionTypeId
  readonly app: string
  readonly dialled: Endpoint.Endpoint
  private readonly registry: Registry
  private readonly inner: Connection
  private bytes = 0
  private isBroken = false

  constructor(registry: Registry, inner: Connection, app: string) {
    const { local, remote, side } = inner.info
    this.registry = registry
    this.inner = inner
    this.app = app
    this.dialled = side === "client" ? remote : local
  }

  get read(): Connection["read"] {
    return this.reading(
      () => this.inner.read,
      (bytes) => bytes.length,
      (limit) => {
        const buffer = new Uint8Array(limit)
        return Effect.map(this.inner.readInto(buffer), (count) => buffer.subarray(0, count))
      }
    )
  }

  get readInto(): Connection["readInto"] {
    return (buffer) =>
      this.reading(
        () => this.inner.readInto(buffer),
        (count) => count,
        (limit) => this.inner.readInto(buffer.subarray(0, Math.min(limit, buffer.length)))
      )
  }

  private reading<A>(whole: () => Read<A>, length: (a: A) => number, part: (limit: number) => Read<A>): Read<A> {
    return Effect.suspend(() => {
      if (this.isBroken) return this.reset_
      if (this.registry.isQuiet()) return this.counting(whole(), length)
      const stalled = this.matching("StalledReader")
      if (stalled.length > 0) {
        const [, one] = stalled[0]
        one.hits++
        // It may have been broken off, or have stalled again.
        return Effect.andThen(one.over.await, this.reading(whole, length, part))
      }
      let limit = Infinity
      for (const [{ bytes }, one] of this.matching("Slice")) {
        one.hits++
        limit = Math.min(limit, bytes)
      }
      for (const [{ bytes }, one] of this.matching("ResetAfter")) {
        if (bytes > this.bytes) limit = Math.min(limit, bytes - this.bytes)
        else {
          one.hits++
          return Effect.andThen(this.breakOff, this.reset_)
        }
      }
      return this.counting(limit === Infinity ? whole() : part(limit), length)
    })
  }

  private counting<A>(read: Read<A>, length: (a: A) => number): Read<A> {
    return Effect.mapError(
      Effect.tap(read, (value) =>
        Effect.sync(() => {
          this.bytes += length(value)
        })
      ),
      (error) => this.explained(error)
    )
  }

  get write(): Connection["write"] {
    return (bytes) => this.writing([bytes], () => this.inner.write(bytes))
  }

  get writeAll(): Connection["writeAll"] {
    return (chunks) => this.writing(chunks, () => this.inner.writeAll(chunks))
  }

  private writing(chunks: ReadonlyArray<Uint8Array>, whole: () => Write): Write {
    return Effect.mapError(
      Effect.suspend(() => {
        if (this.isBroken) return this.reset_
        const length = chunks.reduce((sum, { length }) => sum + length, 0)
        const written = Effect.suspend(() => {
          this.bytes += length
          return whole()
        })
        if (this.registry.isQuiet()) return written
        return Effect.andThen(
          this.delay,
          Effect.suspend(() => this.shaped(chunks, length, written))
        )
      }),
      (error) => this.explained(error)
    )
  }

  private get delay(): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.forEach(
        this.matching("Latency"),
        ([{ jitter, millis }, one]) => sleepIn(one, millis + this.registry.jitter(jitter)),
        { discard: true }
      )
    )
  }

  /** As much as may be written, and as fast. */
  private shaped(chunks: ReadonlyArray<Uint8Array>, length: number, written: Write): Write {
    if (this.isBroken) return this.reset_
    let allowed = Infinity
    for (const [{ bytes }, one] of this.matching("ResetAfter")) {
      if (this.bytes + length <= bytes) continue
      one.hits++
      allowed = Math.min(allowed, bytes - this.bytes)
    }
    const slow = this.matching("Bandwidth")
    if (allowed === Infinity && slow.length === 0) return written
    return Effect.gen({ self: this }, function* () {
      for (const chunk of chunks) {
        for (let at = 0; at < chunk.length && allowed > 0;) {
          const piece = chunk.subarray(at, at + Math.min(allowed, this.pieceBytes(slow)))
          for (const [{ bytesPerSecond }, one] of slow) yield* sleepIn(one, (piece.length / bytesPerSecond) * 1000)
          if (this.isBroken) return yield* this.reset_
          this.bytes += piece.length
          yield* this.inner.write(piece)
          at += piece.length
          allowed -= piece.length
        }
      }
      if (allowed > 0) return
      yield* this.breakOff
      yield* this.reset_
    })
  }

  /** A twentieth of a second at a time. */
  private pieceBytes(slow: ReadonlyArray<readonly [{ readonly bytesPerSecond: number }, Injected]>): number {
    return slow.reduce((least, [{ bytesPerSecond }]) => Math.min(least, Math.max(1, bytesPerSecond / 20)), Infinity)
  }

  get end(): Effect.Effect<void> {
    return Effect.andThen(this.slowly, this.inner.end)
  }

  get close(): Effect.Effect<void> {
    return Effect.andThen(this.slowly, this.inner.close)
  }

  /** What a slow close waits for. */
  get slowly(): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.forEach(this.matching("SlowClose"), ([{ millis }, one]) => sleepIn(one, millis), { discard: true })
    )
  }

  get reset(): Effect.Effect<void> {
    return this.inner.reset
  }

  get ref(): Effect.Effect<void> {
    return this.inner.ref
  }

  get unref(): Effect.Effect<void> {
    return this.inner.unref
  }

  get stream(): Connection["stream"] {
    return Stream.fromPull(Effect.succeed(Effect.map(this.read, Arr.of)))
  }

  get sink(): Connection["sink"] {
    return Sink.mapEffect(
      Sink.forEachArray((chunks: Arr.NonEmptyReadonlyArray<Uint8Array>) => this.writeAll(chunks)),
      () => this.end
    )
  }

  get info(): Connection["info"] {
    return this.inner.info
  }

  /** Both sides get a reset. */
  get breakOff(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.isBroken = true
      return this.inner.reset
    })
  }

  private get reset_(): Effect.Effect<never, SessionError.SessionError> {
    return Effect.suspend(() => Effect.fail(this.resetError))
  }

  private get resetError(): SessionError.SessionError {
    const { bytesReceived, remote } = this.inner.info
    return SessionError.make(new SessionError.Reset({ endpoint: Endpoint.format(remote), bytesReceived }))
  }

  /** Whoever waited when it was broken off waited for the peer, and not for its own side to close. */
  private explained<E>(error: E): E | SessionError.SessionError {
    return this.isBroken ? this.resetError : error
  }

  private matching<Tag extends Fault["_tag"]>(tag: Tag) {
    return this.registry.matching(tag, this.app, this.dialled, this)
  }
}

/** Why somebody who comes now is turned away, if so. */
const whyRefused = (
  registry: Registry,
  app: string,
  dialled: Endpoint.Endpoint,
  subject: object
): SessionError.SessionError | undefined => {
  if (registry.isQuiet()) return undefined
  for (const [, one] of registry.matching("DroppedApp", app, dialled, subject)) {
    one.hits++
    return SessionError.make(new SessionError.Closed({ what: "application" }))
  }
  for (const [, one] of registry.matching("Refuse", app, dialled, subject)) {
    one.hits++
    return refusedBy(dialled, "a fault was injected")
  }
  for (const [{ connections }, one] of registry.matching("ConnectionLimit", app, dialled, subject)) {
    const open = [...registry.open].filter((connection) => one.means(connection.app, connection.dialled, subject))
    if (open.length < connections) continue
    one.hits++
    return refusedBy(dialled, `a fault allows ${connections} connections`)
  }
  return undefined
}

const refusedBy = (dialled: Endpoint.Endpoint, why: string) =>
  SessionError.make(new SessionError.Refused({ endpoint: Endpoint.format(dialled), why }))

/** Gives a connection to whoever asked for it, as one that faults can hit. */
const adopt = (registry: Registry, app: string, inner: Connection, scope: Scope.Scope): Effect.Effect<Connection> =>
  Effect.suspend(() => {
    const connection = new FaultyConnection(registry, inner, app)
    registry.open.add(connection)
    // Runs before the one that closes it.
    const leave = Effect.suspend(() => {
      registry.open.delete(connection)
      return inner.info.state === "closed" ? Effect.void : connection.slowly
    })
    return Effect.as(Scope.addFinalizer(scope, leave), connection)
  })

const decorateListener = (registry: Registry, app: string, listener: Listener): Listener => {
  /** The connection, or nothing when it was turned away. */
  const admit = (inner: Connection): Effect.Effect<Connection | undefined, never, Scope.Scope> =>
    Effect.uninterruptible(
      Effect.flatMap(Effect.scope, (scope) =>
        whyRefused(registry, app, inner.info.local, inner) === undefined
          ? adopt(registry, app, inner, scope)
          : Effect.as(inner.reset, undefined)
      )
    )
  const accept: Listener["accept"] = Effect.flatMap(Effect.flatMap(listener.accept, admit), (connection) =>
    connection === undefined ? Effect.suspend(() => accept) : Effect.succeed(connection)
  )
  const request: Listener["request"] = Effect.flatMap(listener.request, (request) =>
    whyRefused(registry, app, request.local, request) === undefined
      ? Effect.succeed<ConnectionRequest>({
          ...request,
          accept: Effect.flatMap(request.accept, (inner) =>
            Effect.flatMap(Effect.scope, (scope) => adopt(registry, app, inner, scope))
          )
        })
      : Effect.andThen(
          request.refuse,
          Effect.suspend(() => decorated.request)
        )
  )
  const decorated: Listener = {
    ...listener,
    accept,
    request,
    run: (handler) =>
      listener.run((inner) =>
        Effect.flatMap(admit(inner), (connection) =>
          connection === undefined ? Effect.void : Effect.provideService(handler(connection), Connection, connection)
        )
      ) as ReturnType<typeof listener.run>
  } as Listener
  return decorated
}

const decorateWorker = <W extends Application.ApplicationWorker>(registry: Registry, app: string, worker: W): W => ({
  ...worker,
  connect: (endpoint) =>
    Effect.suspend(() => {
      const refused = whyRefused(registry, app, endpoint, {})
      if (refused !== undefined) return Effect.fail(refused)
      return Effect.flatMap(worker.connect(endpoint), (inner) =>
        Effect.flatMap(Effect.scope, (scope) => adopt(registry, app, inner, scope))
      )
    }),
  listen: (endpoint, options) =>
    Effect.map(worker.listen(endpoint, options), (listener) => decorateListener(registry, app, listener))
})

const decorate = (
  registry: Registry,
  application: Application.Application["Service"]
): Application.Application["Service"] =>
  Application.Application.of({
    ...decorateWorker(registry, application.name, application),
    workers: application.workers.map((worker) => decorateWorker(registry, application.name, worker))
  })

// -----------------------------------------------------------------------------
// operations
// -----------------------------------------------------------------------------

/**
 * Injects a fault until the scope closes, or its time is over. Fails with
 * `InvalidArgument` for a fault or a target that is none.
 *
 * **Example** (A connection that breaks after ten bytes)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint } from "@cut-through/core"
 * import { Faults } from "@cut-through/testing"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   const connection = yield* Application.connect(listener.address)
 *   yield* Faults.inject(Faults.resetAfter(10), { endpoint: 7000 })
 *   const error = yield* Effect.flip(connection.write(new Uint8Array(100)))
 *   return error.reason._tag
 * })
 * const layer = Faults.layerApplication.pipe(Layer.provide(CutThrough.layer), Layer.provideMerge(Faults.layer))
 *
 * await Effect.runPromise(Effect.scoped(Effect.provide(program, layer))) // => "Reset"
 * ```
 *
 * @category operations
 * @since 0.1.0
 */
export const inject = (
  fault: Fault,
  target?: Target
): Effect.Effect<void, SessionError.SessionError, Faults | Scope.Scope> =>
  Effect.flatMap(Faults, (faults) => faults.inject(fault, target))

/**
 * What is injected now, and how often it has hit.
 *
 * @category operations
 * @since 0.1.0
 */
export const active: Effect.Effect<ReadonlyArray<Active>, never, Faults> = Effect.map(Faults, (faults) =>
  faults.active()
)

/**
 * Injects each fault of a plan at its time and for its time. Ends when the last
 * one is over; interrupted, it ends them.
 *
 * @category operations
 * @since 0.1.0
 */
export const run = (plan: ReadonlyArray<Step>): Effect.Effect<void, SessionError.SessionError, Faults> =>
  Effect.forEach(
    plan,
    ({ at, fault, for: time, target }) =>
      Effect.delay(Effect.scoped(Effect.andThen(inject(fault, target), Effect.sleep(time))), at),
    { concurrency: "unbounded", discard: true }
  )

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * A service of faults with options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<Faults> => Layer.fresh(Layer.effect(Faults, make(options)))

/**
 * A service of faults, none of which is injected.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Faults> = layerWith({})

/**
 * The application in place, as one that faults can hit.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerApplication: Layer.Layer<Application.Application, never, Application.Application | Faults> =
  Layer.fresh(
    Layer.effect(
      Application.Application,
      Effect.gen(function* () {
        const faults = yield* Faults
        return faults.application(yield* Application.Application)
      })
    )
  )

/**
 * The shared memory in place, as one that faults can exhaust.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<Memory.SharedMemory, never, Memory.SharedMemory | Faults> = Layer.fresh(
  Layer.effect(
    Memory.SharedMemory,
    Effect.gen(function* () {
      const faults = yield* Faults
      return faults.memory(yield* Memory.SharedMemory)
    })
  )
)

/**
 * A session layer over memory that faults can exhaust.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSessions = (options?: {
  readonly workers?: number | undefined
}): Layer.Layer<SessionLayer.SessionLayer, SessionError.SessionError, Faults> =>
  Layer.fresh(
    SessionLayer.layerNoDeps(options).pipe(
      Layer.provide(Layer.mergeAll(Connections.layer, SegmentContext.layer, Wake.layer)),
      Layer.provide(Layer.mergeAll(Layer.provide(layerMemory, Memory.layer), Lock.layer))
    )
  )
