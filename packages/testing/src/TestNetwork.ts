/**
 * Several hosts and the network between them, in one process, without a port.
 *
 * Each host has a name, addresses and DNS names, and a session layer of its own.
 * Applications of one host talk through shared memory as always, those of
 * different hosts through a simulated TCP. Time is that of the
 * `Clock`: under `it.effect` it is the test clock, and a million seconds pass at
 * once. Without a latency no time passes, so nobody has to turn the clock.
 *
 * **What a program sees of TCP**: a handshake that takes a round trip; bytes
 * once, in order, and in other pieces than they were written; half-close; a
 * reset for who breaks off, or closes with bytes unread, or is written to after
 * it has closed; a writer that waits when the reader does not read; `Refused`
 * where nobody listens and `TimedOut` where nobody answers; bytes that are sent
 * again when the way was cut and is mended, and a reset when that takes too
 * long; a peer whose death stays unnoticed until something is sent to it.
 *
 * **What it does not model**: congestion control and slow start (a connection
 * uses the bandwidth at once), and a fair share of the bandwidth between
 * connections (first come, first served); the time that headers and
 * acknowledgements take; a separate third step of the handshake (the server has
 * the connection when the connect arrives); a full backlog that drops connects
 * in silence (they are refused, as within a host); frames that arrive twice or
 * spoiled, which TCP hides; keep-alive probes, urgent data, `SO_LINGER`,
 * `TIME_WAIT` and ports that are taken because of it; when exactly TCP sends
 * again (200 ms after a frame was lost and longer each time, and at once when a
 * cut way is mended); path MTU, routing and address translation; session rules
 * of the server's host, which are not asked about what comes from other hosts.
 * After a reset, what had arrived and was not read is lost, as within a host.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import * as Endpoint from "@cut-through/core/Endpoint"
import type * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import * as ByteSize from "effect/ByteSize"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Layer from "effect/Layer"
import * as AddressResolver from "effect/net/AddressResolver"
import * as Dns from "effect/net/Dns"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import * as Faults from "./Faults.ts"
import { layerConnections } from "./internal/Acquired.ts"
import { Agenda } from "./internal/Agenda.ts"
import { layerPooled } from "./internal/Pool.ts"
import { Prng } from "./internal/Prng.ts"
import { Recorder } from "./internal/Recorder.ts"
import { Seed } from "./internal/Seed.ts"
import { type Properties, type State, Wire } from "./internal/Wire.ts"
import * as Leaks from "./Leaks.ts"
import { type Network, SimulatedTransport } from "./internal/SimulatedTransport.ts"

/**
 * A host: its address, or all it has.
 *
 * @category models
 * @since 0.1.0
 */
export type HostOptions =
  | string
  | {
      /** At most one of each family is used to connect from: the first. */
      readonly addresses: ReadonlyArray<string>
      /** What the DNS calls it, beside its own name. */
      readonly names?: ReadonlyArray<string> | undefined
    }

/**
 * How one direction of the way between two hosts is.
 *
 * @category models
 * @since 0.1.0
 */
export interface LinkOptions {
  /** How long a byte is on its way. Default: no time. */
  readonly latency?: Duration.Input | undefined
  /** At most so much longer, at random. The bytes of a connection stay in order. Default: none. */
  readonly jitter?: Duration.Input | undefined
  /** Bytes in a second. Default: no limit. */
  readonly bandwidth?: ByteSize.Input | undefined
  /** How likely it is, from 0 to 1, that a frame gets lost and has to be sent again. Default 0. */
  readonly loss?: number | undefined
}

/**
 * A network of hosts.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The hosts, by their names. */
  readonly hosts: { readonly [name: string]: HostOptions }
  /** How all links are at first. */
  readonly link?: LinkOptions | undefined
  /** How long a connect waits for an answer. Default 127 seconds, as on Linux. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long bytes are sent again and again until the connection is given up. Default 15 minutes. */
  readonly giveUpAfter?: Duration.Input | undefined
  /** What jitter and loss depend on. Default: the seed of the simulation it runs in, or 0. */
  readonly seed?: number | string | undefined
  /** How many of the last frames are kept for {@link TestNetwork}'s `history`. Default 10,000. */
  readonly history?: number | undefined
}

/**
 * A frame that has arrived or was lost.
 *
 * @category models
 * @since 0.1.0
 */
export interface Event {
  /** Milliseconds since the network was made. */
  readonly at: number
  readonly from: string
  readonly to: string
  /** `connect`, `accept`, `refuse`, `N bytes`, `window`, `end` or `reset`, maybe after `lost`, and of which connection. */
  readonly what: string
}

/**
 * A host, as it was asked for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Host {
  readonly name: string
  readonly addresses: ReadonlyArray<NetAddress.IpAddress>
  readonly names: ReadonlyArray<string>
  readonly sessions: SessionLayer.SessionLayer["Service"]
  /** Connections that its operating system knows of. */
  readonly connections: () => number
}

/**
 * The network: what to do with the ways between its hosts.
 *
 * @category services
 * @since 0.1.0
 */
export class TestNetwork extends Context.Service<
  TestNetwork,
  {
    readonly hosts: ReadonlyMap<string, Host>
    readonly dns: Dns.Dns["Service"]
    /** What every application of its hosts is given to, so that faults can hit it. */
    readonly decorate: (application: Application.Application["Service"]) => Application.Application["Service"]
    /** Changes one direction; what is left out stays as it is. */
    readonly setLink: (from: string, to: string, options: LinkOptions) => Effect.Effect<void, SessionError.SessionError>
    /** How one direction is now. */
    readonly getState: (from: string, to: string) => State
    /** Changes what becomes of what is sent in one direction. */
    readonly setState: (
      from: string,
      to: string,
      change: "partition" | "repair" | "hold" | "release"
    ) => Effect.Effect<void, SessionError.SessionError>
    /** Frames that are between two hosts now, in all directions. */
    readonly onWay: () => number
    /** The last frames that have arrived or were lost, oldest first. */
    readonly history: () => ReadonlyArray<Event>
  }
>()("@cut-through/testing/TestNetwork") {}

/**
 * Which directions are meant: both, or only from the first host to the second.
 *
 * @category models
 * @since 0.1.0
 */
export interface Direction {
  readonly oneWay?: boolean | undefined
}

const SEGMENT_BYTES = 4 * 1024 * 1024

const DEFAULT_LINK: Properties = { latency: 0, jitter: 0, bandwidth: Infinity, loss: 0 }

const invalid = (what: string, value: unknown, expected: string): SessionError.SessionError =>
  SessionError.make(new SessionError.InvalidArgument({ what, value: String(value), expected }))

const noHost = (name: string, hosts: ReadonlyMap<string, unknown>): SessionError.SessionError =>
  invalid("the host", JSON.stringify(name), `one of ${[...hosts.keys()].join(", ")}`)

const microsOf = (what: string, input: Duration.Input): Result.Result<number, SessionError.SessionError> => {
  const millis = Result.map(
    Result.try(() => Duration.fromInputUnsafe(input)),
    Duration.toMillis
  )
  return Result.isSuccess(millis) && Number.isFinite(millis.success) && millis.success >= 0
    ? Result.succeed(Math.round(millis.success * 1000))
    : Result.fail(invalid(what, input, 'a finite duration, such as "10 millis"'))
}

const applied = (before: Properties, options: LinkOptions): Result.Result<Properties, SessionError.SessionError> =>
  Result.gen(function* () {
    const { bandwidth, jitter, latency, loss = before.loss } = options
    if (!(loss >= 0 && loss < 1)) return yield* Result.fail(invalid("loss", loss, "a number from 0 to less than 1"))
    const bytes =
      bandwidth === undefined
        ? before.bandwidth
        : yield* Result.mapError(
            Result.filterOrFail(
              Result.try(() => (bandwidth === Infinity ? Infinity : Number(ByteSize.fromInputUnsafe(bandwidth)))),
              (bytes) => bytes > 0,
              () => undefined
            ),
            () => invalid("bandwidth", bandwidth, 'bytes in a second, such as "1 MiB"')
          )
    return {
      latency: latency === undefined ? before.latency : yield* microsOf("latency", latency),
      jitter: jitter === undefined ? before.jitter : yield* microsOf("jitter", jitter),
      bandwidth: bytes,
      loss
    }
  })

const parseHost = (name: string, options: HostOptions) =>
  Effect.gen(function* () {
    const { addresses, names = [] } = typeof options === "string" ? { addresses: [options] } : options
    const parsed: Array<NetAddress.IpAddress> = []
    for (const address of addresses) {
      const ip = NetAddress.ipFromString(address)
      const isUsable =
        Result.isSuccess(ip) && !NetAddress.isLoopback(ip.success) && !NetAddress.isUnspecified(ip.success)
      if (!isUsable) {
        return yield* invalid(`an address of the host ${name}`, address, 'a specific IP address, such as "10.0.0.1"')
      }
      parsed.push(ip.success)
    }
    if (parsed.length === 0) return yield* invalid(`the addresses of the host ${name}`, "[]", "at least one")
    return { name, addresses: parsed, names }
  })

/** The layers of a host's session layer: as in production, except that whoever is woken is woken by the scheduler. */
const layerSessions = (memory: Layer.Layer<SharedMemory.SharedMemory>) =>
  Leaks.layerCheck.pipe(
    Layer.provideMerge(SessionLayer.layerNoDeps()),
    Layer.provide(
      Layer.mergeAll(layerConnections, SegmentContext.layer, Wake.layerScheduler).pipe(
        Layer.provideMerge(Layer.mergeAll(memory, Lock.layer))
      )
    )
  )

/**
 * A network with these hosts, which ends with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<TestNetwork["Service"], SessionError.SessionError, Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const scheduler = yield* Scheduler.Scheduler
    const seed = options.seed ?? (yield* Seed)
    const say = yield* Recorder
    const context = yield* Effect.context<never>()
    const faults = Option.getOrUndefined(yield* Effect.serviceOption(Faults.Faults))
    const memory =
      faults === undefined
        ? layerPooled
        : Layer.provide(Faults.layerMemory, [layerPooled, Layer.succeed(Faults.Faults, faults)])
    const agenda = new Agenda(clock, scheduler, Effect.runForkWith(context))
    const started = agenda.now
    const capacity = options.history ?? 10_000
    const link = yield* Effect.fromResult(applied(DEFAULT_LINK, options.link ?? {}))
    const connectTimeout = yield* Effect.fromResult(
      microsOf("connectTimeout", options.connectTimeout ?? Duration.seconds(127))
    )
    const giveUpAfter = yield* Effect.fromResult(microsOf("giveUpAfter", options.giveUpAfter ?? Duration.minutes(15)))
    const events: Array<Event> = []
    const wires = new Map<string, Wire>()
    const transports: Array<SimulatedTransport> = []
    const hosts = new Map<string, Host>()

    const wire = (from: string, to: string): Wire => {
      const key = JSON.stringify([from, to])
      let found = wires.get(key)
      if (found === undefined) {
        const record = (what: string) => {
          say?.(`${from} to ${to}: ${what}`)
          if (events.length >= 2 * capacity) events.splice(0, capacity)
          if (capacity > 0) events.push({ at: (agenda.now - started) / 1000, from, to, what })
        }
        found = new Wire(agenda, Prng.of(seed, key), link, record)
        wires.set(key, found)
      }
      return found
    }

    const network: Network = {
      agenda,
      connectTimeout,
      giveUpAfter,
      find: (remote) => transports.find((transport) => transport.hasAddress(remote)),
      wire: (from, to) => wire(from.host, to.host)
    }

    const zone: Record<string, Array<NetAddress.IpAddress>> = {}
    const taken: Array<NetAddress.IpAddress> = []
    for (const [name, hostOptions] of Object.entries(options.hosts)) {
      const { addresses, names } = yield* parseHost(name, hostOptions)
      for (const address of addresses) {
        if (taken.some((other) => Equal.equals(other, address))) {
          return yield* invalid(`an address of the host ${name}`, NetAddress.formatIp(address), "one no other host has")
        }
        taken.push(address)
      }
      for (const known of new Set([name, ...names])) (zone[known] ??= []).push(...addresses)
      const built = yield* Layer.build(Layer.fresh(layerSessions(memory)))
      const sessions = Context.get(built, SessionLayer.SessionLayer)
      const transport = new SimulatedTransport(sessions, network, name, addresses)
      sessions.transports.register(transport)
      CutThroughTransport.of(sessions)
      transports.push(transport)
      hosts.set(name, { name, addresses, names, sessions, connections: () => transport.connections })
    }
    const dns = yield* Effect.mapError(Effect.fromResult(Dns.makeStatic({ hosts: zone })), (error) =>
      invalid("the names of the hosts", error.message, "names as the DNS has them, such as db.internal")
    )
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const wire of wires.values()) wire.close()
        agenda.close()
      })
    )

    const withWire = (from: string, to: string, use: (wire: Wire) => Effect.Effect<void, SessionError.SessionError>) =>
      Effect.suspend(() => {
        for (const name of [from, to]) {
          if (!hosts.has(name)) return Effect.fail(noHost(name, hosts))
        }
        if (from === to) return Effect.fail(invalid("the other host", JSON.stringify(to), "another one"))
        return use(wire(from, to))
      })

    const made = TestNetwork.of({
      hosts,
      dns,
      decorate: (application) => faults?.application(application) ?? application,
      setLink: (from, to, options) =>
        withWire(from, to, (wire) =>
          Effect.flatMap(Effect.fromResult(applied(wire.properties, options)), (properties) =>
            Effect.sync(() => {
              wire.properties = properties
            })
          )
        ),
      getState: (from, to) => wire(from, to).state,
      setState: (from, to, change) =>
        withWire(from, to, (wire) =>
          Effect.sync(() => {
            if (change === "partition") wire.cut()
            else if (change === "repair") wire.mend()
            else if (change === "hold") wire.hold()
            else wire.release()
          })
        ),
      onWay: () => [...wires.values()].reduce((sum, wire) => sum + wire.pending, 0),
      history: () => events.slice(-capacity)
    })
    yield* faults?.network(made) ?? Effect.void
    return made
  })

/**
 * A network with these hosts. When its scope closes, every host's session layer
 * is checked for leaks, so what runs on them has to be over: `Effect.scoped` comes
 * before `Effect.provide`, also in an `it.effect`. Where it is given `Faults`, they hit its applications and
 * its memory.
 *
 * **Example** (A client and a server on two hosts, 20 ms apart)
 *
 * ```ts
 * import { Application, Endpoint } from "@cut-through/core"
 * import { TestNetwork } from "@cut-through/testing"
 * import { Clock, Effect, Fiber, Stream } from "effect"
 * import { TestClock } from "effect/testing"
 *
 * const server = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("0.0.0.0", 7000))
 *   yield* Effect.forkScoped(listener.run(({ stream, sink }) => Stream.run(stream, sink)))
 * })
 * const client = Effect.gen(function*() {
 *   const connection = yield* Application.connect(yield* TestNetwork.endpoint("db.internal", 7000))
 *   yield* connection.write(new TextEncoder().encode("hello"))
 *   const answer = new TextDecoder().decode(yield* connection.read)
 *   return `${answer} after ${yield* Clock.currentTimeMillis} ms`
 * })
 * const test = Effect.gen(function*() {
 *   yield* TestNetwork.on("b", server)
 *   const answer = yield* Effect.forkChild(TestNetwork.on("a", client))
 *   yield* TestClock.adjust("1 hour")
 *   return yield* Fiber.join(answer)
 * })
 * const network = TestNetwork.layer({
 *   hosts: { a: "10.0.0.1", b: { addresses: ["10.0.0.2"], names: ["db.internal"] } },
 *   link: { latency: "10 millis" }
 * })
 *
 * const run = test.pipe(Effect.scoped, Effect.provide(network), Effect.provide(TestClock.layer()))
 * await Effect.runPromise(run) // => "hello after 40 ms"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<TestNetwork, SessionError.SessionError> =>
  Layer.fresh(Layer.effect(TestNetwork, make(options)))

/**
 * What a host provides to the programs that run on it.
 *
 * @category models
 * @since 0.1.0
 */
export type HostServices =
  | Application.Application
  | SessionLayer.SessionLayer
  | Dns.Dns
  | AddressResolver.AddressResolver

/**
 * What a program needs to run on a host: an application (named like the host,
 * unless `options` say otherwise), the host's session layer, and a DNS that
 * knows the hosts. Applications of one host, provided one after the other, are
 * neighbours: they talk through shared memory. Segments are 4 MiB by default,
 * not 128, because tests make many.
 *
 * The application is there as long as the layer: what listens in it does so
 * until the program that it was provided to has ended. {@link on} is for
 * programs that start something and leave it running.
 *
 * All that stands on `Application` runs on it unchanged: sockets and their
 * servers, RPC, and the runners of a cluster.
 *
 * **Example** (A cluster of two hosts, with its storage on a third one)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 * import { CutThroughCluster } from "@cut-through/platform"
 * import { TestNetwork } from "@cut-through/testing"
 * import { Effect, Fiber, Layer, Option, References, Schema } from "effect"
 * import { Entity, RunnerAddress } from "effect/cluster"
 * import { Rpc } from "effect/rpc"
 * import { TestClock } from "effect/testing"
 *
 * const Greeter = Entity.make("Greeter", [Rpc.make("Greet", { success: Schema.String })])
 * const greeters = Greeter.toLayer(
 *   Effect.map(Entity.CurrentRunnerAddress, ({ host }) => ({ Greet: () => Effect.succeed(`hello from ${host}`) }))
 * )
 * const storageEndpoint = Endpoint.tcp("10.0.0.9", 34430)
 * const runner = (host: string, address: string) => {
 *   const shardingConfig = { runnerAddress: Option.some(RunnerAddress.make(address, 34431)) }
 *   return greeters.pipe(
 *     Layer.provideMerge(CutThroughCluster.layer({ storageEndpoint, shardingConfig })),
 *     Layer.provide(TestNetwork.host(host)),
 *     Layer.fresh,
 *     Layer.build
 *   )
 * }
 *
 * const test = Effect.gen(function*() {
 *   const storage = CutThroughCluster.layerHost({ endpoint: storageEndpoint, scope: "both" })
 *   yield* Layer.build(Layer.provide(storage, TestNetwork.host("storage")))
 *   const here = yield* runner("a", "10.0.0.1")
 *   yield* runner("b", "10.0.0.2")
 *   yield* Effect.sleep("1 minute")
 *   const client = yield* Effect.provideContext(Greeter.client, here)
 *   const greetings = yield* Effect.forEach(["1", "2", "3", "4", "5", "6"], (id) => client(id).Greet())
 *   return [...new Set(greetings)].toSorted()
 * })
 * const timed = Effect.gen(function*() {
 *   const fiber = yield* Effect.forkChild(Effect.scoped(test))
 *   yield* TestClock.adjust("10 minutes")
 *   return yield* Fiber.join(fiber)
 * })
 *
 * const run = timed.pipe(
 *   Effect.provide(TestNetwork.layer({ hosts: { a: "10.0.0.1", b: "10.0.0.2", storage: "10.0.0.9" } })),
 *   Effect.provide(TestClock.layer()),
 *   Effect.provideService(References.MinimumLogLevel, "Warn")
 * )
 * await Effect.runPromise(run) // => ["hello from 10.0.0.1", "hello from 10.0.0.2"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const host = (
  name: string,
  options?: Partial<AttachOptions>
): Layer.Layer<HostServices, SessionError.SessionError, TestNetwork> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { decorate, dns, hosts } = yield* TestNetwork
      const found = hosts.get(name)
      if (found === undefined) return yield* noHost(name, hosts)
      const { sessions } = found
      const attach: AttachOptions = Object.assign({ name, segmentSize: SEGMENT_BYTES }, options)
      const application = yield* Effect.provideService(Application.make(attach), SessionLayer.SessionLayer, sessions)
      return Context.make(Application.Application, decorate(application)).pipe(
        Context.add(SessionLayer.SessionLayer, sessions),
        Context.add(Dns.Dns, dns),
        Context.add(AddressResolver.AddressResolver, AddressResolver.make(dns))
      )
    })
  )

/**
 * Runs a program on a host, in an application that is there until the scope of
 * the caller closes.
 *
 * @category running
 * @since 0.1.0
 */
export const on = <A, E, R>(
  name: string,
  program: Effect.Effect<A, E, R>,
  options?: Partial<AttachOptions>
): Effect.Effect<A, E | SessionError.SessionError, Exclude<R, HostServices> | TestNetwork | Scope.Scope> =>
  Effect.flatMap(Layer.build(host(name, options)), (services) => Effect.provideContext(program, services))

/**
 * The endpoint of a host, by its name or one of its DNS names. Fails with
 * `InvalidArgument` when no host is called that.
 *
 * @category operations
 * @since 0.1.0
 */
export const endpoint = (
  name: string,
  port: number
): Effect.Effect<Endpoint.Endpoint, SessionError.SessionError, TestNetwork> =>
  Effect.gen(function* () {
    const { hosts } = yield* TestNetwork
    for (const { addresses, name: own, names } of hosts.values()) {
      if (own === name || names.includes(name)) return Endpoint.tcp(NetAddress.formatIp(addresses[0]), port)
    }
    return yield* invalid("the name", JSON.stringify(name), "the name of a host")
  })

const directions = (from: string, to: string, { oneWay = false }: Direction): ReadonlyArray<[string, string]> =>
  oneWay
    ? [[from, to]]
    : [
        [from, to],
        [to, from]
      ]

const change =
  (what: "partition" | "repair" | "hold" | "release") =>
  (from: string, to: string, direction: Direction = {}): Effect.Effect<void, SessionError.SessionError, TestNetwork> =>
    Effect.flatMap(TestNetwork, (network) =>
      Effect.forEach(directions(from, to, direction), (way) => network.setState(...way, what), { discard: true })
    )

/**
 * Changes the way between two hosts, or one direction of it, for what is sent
 * from now on; what is left out stays as it is.
 *
 * @category operations
 * @since 0.1.0
 */
export const setLink = (
  from: string,
  to: string,
  options: LinkOptions & Direction
): Effect.Effect<void, SessionError.SessionError, TestNetwork> =>
  Effect.flatMap(TestNetwork, (network) =>
    Effect.forEach(directions(from, to, options), (way) => network.setLink(...way, options), { discard: true })
  )

/**
 * Cuts the way between two hosts, or one direction of it: nothing arrives, and
 * nobody is told. What is lost is sent again when the way is repaired, except
 * for resets.
 *
 * @category operations
 * @since 0.1.0
 */
export const partition: (
  from: string,
  to: string,
  direction?: Direction
) => Effect.Effect<void, SessionError.SessionError, TestNetwork> = change("partition")

/**
 * Mends what {@link partition} has cut.
 *
 * @category operations
 * @since 0.1.0
 */
export const repair: (
  from: string,
  to: string,
  direction?: Direction
) => Effect.Effect<void, SessionError.SessionError, TestNetwork> = change("repair")

/**
 * Keeps everything that is between two hosts, or in one direction, where it is.
 * Nothing gets lost.
 *
 * @category operations
 * @since 0.1.0
 */
export const hold: (
  from: string,
  to: string,
  direction?: Direction
) => Effect.Effect<void, SessionError.SessionError, TestNetwork> = change("hold")

/**
 * Lets go of what {@link hold} has kept: in the same order, at once where it
 * would have arrived by now.
 *
 * @category operations
 * @since 0.1.0
 */
export const release: (
  from: string,
  to: string,
  direction?: Direction
) => Effect.Effect<void, SessionError.SessionError, TestNetwork> = change("release")

/**
 * Ends all applications of a host at once, as an operating system does it when
 * it kills a process: their connections are reset, and nobody listens any more.
 * Programs that run in them get no word out, whatever their finalizers try:
 * it fails with `Closed`, and so does everything else that they begin. Applications
 * that come after that are as good as new. {@link partition} it from the others
 * first, and they learn nothing of it: that is a host without power.
 *
 * @category operations
 * @since 0.1.0
 */
export const kill = (name: string): Effect.Effect<void, SessionError.SessionError, TestNetwork> =>
  Effect.flatMap(TestNetwork, ({ hosts }) => {
    const found = hosts.get(name)
    if (found === undefined) return Effect.fail(noHost(name, hosts))
    const { sessions } = found
    return Effect.forEach([...sessions.apps()], (app) => Application.detach(sessions, app), { discard: true })
  })

/**
 * The last frames that have arrived or were lost, oldest first.
 *
 * @category operations
 * @since 0.1.0
 */
export const history: Effect.Effect<ReadonlyArray<Event>, never, TestNetwork> = Effect.map(TestNetwork, (network) =>
  network.history()
)
