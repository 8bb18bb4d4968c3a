/**
 * Which memory is shared, by whom, and how full it is: for people and tests.
 *
 * @since 0.1.0
 */
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import * as Table from "./internal/Table.ts"
import type { SegmentStats } from "./segment/SegmentContext.ts"
import { SessionLayer } from "./session/SessionLayer.ts"

/**
 * One shared segment.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentInfo extends SegmentStats {
  /** Bytes in chunks of FIFOs. */
  readonly usedBytes: number
  /** The same in percent of its size. */
  readonly usage: number
}

/**
 * All shared segments, and what they come to.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** By listener, client and server, in the order in which they were made. */
  readonly segments: ReadonlyArray<SegmentInfo>
  /** Combinations of listener, client and server that share segments. */
  readonly contexts: number
  /** Leases on segments: one for each side of each connection, and two for a segment that lingers. */
  readonly leases: number
  /** Regions of memory in use. */
  readonly regions: number
  /** Bytes of all segments. */
  readonly size: number
  /** Bytes that FIFOs may come to use. */
  readonly committedBytes: number
  /** Bytes in chunks of FIFOs. */
  readonly usedBytes: number
  /** The same in percent of the size. */
  readonly usage: number
}

const percent = (part: number, whole: number): number => (whole === 0 ? 0 : (100 * part) / whole)

/**
 * All shared segments, and what they come to.
 *
 * **Example** (Two connections, one segment)
 *
 * ```ts
 * import { Application, CutThrough, Endpoint, Segments } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const listener = yield* Application.listen(Endpoint.tcp("127.0.0.1", 7000))
 *   yield* Application.connect(listener.address)
 *   yield* Application.connect(listener.address)
 *   const { committedBytes, segments } = yield* Segments.stats
 *   return [committedBytes, segments.map(({ clientSessions, pressure }) => [clientSessions, pressure])]
 * })
 *
 * const stats = await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(CutThrough.layer)))
 * stats // => [4 * 512 * 1024, [[2, "none"]]]
 * ```
 *
 * @category inspection
 * @since 0.1.0
 */
export const stats: Effect.Effect<Stats, never, SessionLayer> = Effect.map(SessionLayer, (layer) => {
  const { contexts, fifoBytes, leases, segments } = layer.segments.stats()
  const { regions } = layer.residue()
  let size = 0
  let committedBytes = 0
  const infos = segments.map((segment): SegmentInfo => {
    size += segment.size
    committedBytes += segment.committedBytes
    const usedBytes = segment.size - segment.availableBytes
    return { ...segment, usedBytes, usage: percent(usedBytes, segment.size) }
  })
  return {
    segments: infos,
    contexts,
    leases,
    regions,
    size,
    committedBytes,
    usedBytes: fifoBytes,
    usage: percent(fifoBytes, size)
  }
})

const formatBytes = (bytes: number): string => ByteSize.format(ByteSize.bytes(bytes))

const formatPercent = (percent: number): string => `${percent.toFixed(1)}%`

const formatFlags = ({ clientDetached, condemned, lingers, serverDetached }: SegmentStats): string => {
  const flags: Array<string> = []
  if (clientDetached) flags.push("client-detached")
  if (serverDetached) flags.push("server-detached")
  if (lingers) flags.push("lingers")
  if (condemned) flags.push("condemned")
  return flags.length === 0 ? "-" : flags.join(",")
}

/**
 * The segments as a table, and a line of totals, as VPP's `show
 * segment-manager` has them. A segment goes by its place among those of its
 * listener.
 *
 * ```text
 * Listener                Client     Server     Segment  Size     Used   Usage  Committed  Fifos  Pressure  Clients  Servers  Flags
 * default 127.0.0.1:7000  default/0  default/0  #1       128 MiB  8 KiB  0.0%   1 MiB      2      none      1        1        -
 * 1 segment, 128 MiB: 8 KiB used (0.0%), 1 MiB committed; 1 context, 2 leases, 1 region
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format: Effect.Effect<string, never, SessionLayer> = Effect.map(stats, (stats) => {
  const { committedBytes, contexts, leases, regions, segments, size, usage, usedBytes } = stats
  const table = Table.format(
    [
      "Listener",
      "Client",
      "Server",
      "Segment",
      "Size",
      "Used",
      "Usage",
      "Committed",
      "Fifos",
      "Pressure",
      "Clients",
      "Servers",
      "Flags"
    ],
    segments.map((segment) => [
      segment.listener,
      segment.client,
      segment.server,
      `#${segment.segment}`,
      formatBytes(segment.size),
      formatBytes(segment.usedBytes),
      formatPercent(segment.usage),
      formatBytes(segment.committedBytes),
      String(segment.activeFifos),
      segment.pressure,
      String(segment.clientSessions),
      String(segment.serverSessions),
      formatFlags(segment)
    ]),
    "no segments"
  )
  if (segments.length === 0) return table
  const memory = `${formatBytes(usedBytes)} used (${formatPercent(usage)}), ${formatBytes(committedBytes)} committed`
  const counts = [counted(contexts, "context"), counted(leases, "lease"), counted(regions, "region")].join(", ")
  return `${table}\n${counted(segments.length, "segment")}, ${formatBytes(size)}: ${memory}; ${counts}`
})

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`
