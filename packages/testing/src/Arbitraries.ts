/**
 * Endpoints, links, schedules and plans of faults as `effect/Arbitrary`: for
 * properties that hold wherever and whatever happens. All of them shrink to what
 * is simplest: `127.0.0.1:0`, a link that takes no time, nothing happens.
 *
 * @since 0.1.0
 */
import * as Endpoint from "@cut-through/core/Endpoint"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"
import * as Faults from "./Faults.ts"
import type { PossibleFault } from "./Simulation.ts"
import type * as TestNetwork from "./TestNetwork.ts"

/** Smaller ones are simpler. */
const int = (minimum: number, maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })), {
    shrink: (value) => {
      const smaller: Array<number> = []
      for (let less = value - minimum; less > 0; less = Math.floor(less / 2)) smaller.push(value - less)
      return smaller
    }
  })

/** Those that come first are simpler. */
const oneOf = <const A>(values: ReadonlyArray<A>): Arbitrary.Arbitrary<A> =>
  Arbitrary.map(int(0, values.length - 1), (index) => values[index])

/**
 * IPv4 and IPv6 endpoints: loopback addresses, those of private networks, and
 * ports from 0 to 65535.
 *
 * **Example** (What is written can be read)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 * import { Arbitraries } from "@cut-through/testing"
 * import { Arbitrary, Effect } from "effect"
 *
 * const result = await Effect.runPromise(
 *   Arbitrary.checkEffect(Arbitraries.endpoint, (endpoint) => {
 *     const text = Endpoint.format(endpoint)
 *     return Endpoint.format(Endpoint.parse(`tcp://${text}`)) === text
 *   })
 * )
 * result._tag // => "Passed"
 * ```
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const endpoint: Arbitrary.Arbitrary<Endpoint.Endpoint> = Arbitrary.map(
  Arbitrary.all({
    kind: oneOf(["loopback", "private", "loopback6", "private6"]),
    host: int(1, 254),
    port: int(0, 65535)
  }),
  ({ host, kind, port }) => {
    switch (kind) {
      case "loopback":
        return Endpoint.tcp(`127.0.0.${host}`, port)
      case "private":
        return Endpoint.tcp(`10.0.0.${host}`, port)
      case "loopback6":
        return Endpoint.tcp("::1", port)
      case "private6":
        return Endpoint.tcp(`fd00::${host.toString(16)}`, port)
    }
  }
)

/**
 * How a link of a `TestNetwork` may be: up to 200 ms of latency and 100 ms of
 * jitter, from 1 KiB in a second upwards, and up to 3 of 10 frames lost.
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const link: Arbitrary.Arbitrary<TestNetwork.LinkOptions> = Arbitrary.map(
  Arbitrary.all({
    latency: int(0, 200),
    jitter: int(0, 100),
    bandwidth: oneOf([undefined, 1024 * 1024, 64 * 1024, 1024]),
    loss: int(0, 3)
  }),
  ({ bandwidth, jitter, latency, loss }): TestNetwork.LinkOptions => ({ latency, jitter, bandwidth, loss: loss / 10 })
)

/**
 * Something that happens at a time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Timed<A> {
  /** Milliseconds from the start. */
  readonly at: number
  readonly what: A
}

/**
 * Things that happen, and when: in the order of their times.
 *
 * **Example** (Partitions and repairs in ten seconds)
 *
 * ```ts
 * import { Arbitraries } from "@cut-through/testing"
 * import { Arbitrary, Effect, Schema } from "effect"
 *
 * const changes = Arbitraries.schedule(Arbitrary.schema(Schema.Literals(["partition", "repair"])), { horizon: 10_000 })
 * const result = await Effect.runPromise(
 *   Arbitrary.checkEffect(changes, (schedule) => schedule.every(({ at }, i) => i === 0 || at >= schedule[i - 1].at))
 * )
 * result._tag // => "Passed"
 * ```
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const schedule = <A>(
  what: Arbitrary.Arbitrary<A>,
  options: {
    /** The last moment at which something may happen, in milliseconds. Default 10,000. */
    readonly horizon?: number | undefined
    /** How many things may happen. Default 10. */
    readonly maxLength?: number | undefined
  } = {}
): Arbitrary.Arbitrary<ReadonlyArray<Timed<A>>> => {
  const { horizon = 10_000, maxLength = 10 } = options
  return Arbitrary.map(Arbitrary.array(Arbitrary.all({ at: int(0, horizon), what }), { maxLength }), (all) =>
    all.toSorted((one, other) => one.at - other.at)
  )
}

/**
 * Faults that a network brings about, with numbers in ranges that hurt and do
 * not stop a program for good.
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const fault: Arbitrary.Arbitrary<Faults.Fault> = Arbitrary.map(
  Arbitrary.all({
    kind: oneOf(["latency", "slice", "bandwidth", "slowClose", "stalledReader", "resetAfter", "refuse", "limit"]),
    millis: int(0, 1000),
    bytes: int(1, 10_000)
  }),
  ({ bytes, kind, millis }) => {
    switch (kind) {
      case "latency":
        return Faults.latency(millis, { jitter: bytes % 100 })
      case "slice":
        return Faults.slice(1 + (bytes % 64))
      case "bandwidth":
        return Faults.bandwidth(1000 + bytes)
      case "slowClose":
        return Faults.slowClose(millis)
      case "stalledReader":
        return Faults.stalledReader
      case "resetAfter":
        return Faults.resetAfter(bytes)
      case "refuse":
        return Faults.refuse
      case "limit":
        return Faults.connectionLimit(bytes % 4)
    }
  }
)

/**
 * Faults of the ways between these hosts of a `TestNetwork`, of which there are
 * two at least: cut or held, in one direction or both.
 *
 * **Example** (Two hosts that have a way between them)
 *
 * ```ts
 * import { Arbitraries, Faults } from "@cut-through/testing"
 * import { Arbitrary, Effect } from "effect"
 *
 * const result = await Effect.runPromise(
 *   Arbitrary.checkEffect(Arbitraries.linkFault(["a", "b", "c"]), (fault) =>
 *     /^(Partition|Hold) from=[abc] to=[abc]/.test(Faults.format(fault))
 *   )
 * )
 * result._tag // => "Passed"
 * ```
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const linkFault = (hosts: ReadonlyArray<string>): Arbitrary.Arbitrary<Faults.Fault> =>
  Arbitrary.map(
    Arbitrary.all({
      kind: oneOf([Faults.hold, Faults.partition]),
      from: int(0, hosts.length - 1),
      further: int(1, hosts.length - 1),
      oneWay: oneOf([false, true])
    }),
    ({ from, further, kind, oneWay }) => kind(hosts[from], hosts[(from + further) % hosts.length], { oneWay })
  )

/**
 * Plans for `Faults.run`: which faults happen, when, and for how long. Without
 * `faults` any {@link fault} of everybody, and with `hosts` also any
 * {@link linkFault} of theirs.
 *
 * **Example** (A plan holds what it says)
 *
 * ```ts
 * import { Arbitraries, Faults } from "@cut-through/testing"
 * import { Arbitrary, Effect } from "effect"
 *
 * const plans = Arbitraries.faultPlan({ faults: [{ fault: Faults.refuse, target: { endpoint: 7000 } }], maxLength: 3 })
 * const result = await Effect.runPromise(
 *   Arbitrary.checkEffect(plans, (plan) => plan.length <= 3 && plan.every(({ fault }) => fault === Faults.refuse))
 * )
 * result._tag // => "Passed"
 * ```
 *
 * @category arbitraries
 * @since 0.1.0
 */
export const faultPlan = (
  options: {
    /** Those that may happen, as for `Simulation.run`. */
    readonly faults?: ReadonlyArray<PossibleFault> | undefined
    /** Hosts of a `TestNetwork`, two or more, that may lose each other. Default: none. */
    readonly hosts?: ReadonlyArray<string> | undefined
    /** The last moment at which a fault may begin, in milliseconds. Default 10,000. */
    readonly horizon?: number | undefined
    /** How long a fault may last, in milliseconds. Default 2,000. */
    readonly longest?: number | undefined
    /** How many faults there may be. Default 3. */
    readonly maxLength?: number | undefined
  } = {}
): Arbitrary.Arbitrary<ReadonlyArray<Faults.Step>> => {
  const { faults, horizon, hosts = [], longest = 2000, maxLength = 3 } = options
  const anyFault =
    hosts.length < 2
      ? fault
      : Arbitrary.map(
          Arbitrary.all({ isLink: oneOf([false, true]), link: linkFault(hosts), other: fault }),
          ({ isLink, link, other }) => (isLink ? link : other)
        )
  const possible: Arbitrary.Arbitrary<PossibleFault> =
    faults === undefined ? Arbitrary.map(anyFault, (fault) => ({ fault })) : oneOf(faults)
  const timed = schedule(Arbitrary.all({ possible, for: int(1, longest) }), {
    horizon,
    maxLength: faults?.length === 0 ? 0 : maxLength
  })
  return Arbitrary.map(timed, (all) =>
    all.map(({ at, what }): Faults.Step =>
      Object.assign(
        { at, for: what.for, fault: what.possible.fault },
        what.possible.target === undefined ? {} : { target: what.possible.target }
      )
    )
  )
}
