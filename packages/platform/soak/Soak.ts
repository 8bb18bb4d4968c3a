/**
 * Threads that talk to each other, and die: what is left of them, and what has
 * become of those who go on?
 */
import * as Application from "@cut-through/core/Application"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as Connections from "@cut-through/core/session/Connections"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import * as CutThroughNode from "@cut-through/platform/CutThroughNode"
import * as NodeKeepAlive from "@cut-through/platform/NodeKeepAlive"
import { Poller } from "@cut-through/platform/thread/Poller"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Worker } from "node:worker_threads"
import { type Death, deaths, type Options as TrafficOptions, type Order, type Report, takePart } from "./traffic.ts"

export interface Options {
  /** Threads at once, beside the host's own, which takes part as well. */
  readonly threads: number
  /** Connections that each of them has at once. */
  readonly clients: number
  /** How many milliseconds each of these rests after a connection. */
  readonly rest: number
  readonly seed: number
  /** Threads that are killed at least. */
  readonly kills: number
  /** How long it goes on at least. Default: until so many have been killed. */
  readonly millis?: number | undefined
  /** Kills a random thread so often. Default: each one as soon as it has moved some bytes. */
  readonly every?: number | undefined
  /** Called about every ten seconds. */
  readonly onProgress?: ((outcome: Outcome) => void) | undefined
}

/** What has happened. */
export interface Outcome {
  kills: number
  /** Of these, applications that were attached. */
  lost: number
  bytes: number
  /** Connections of clients by how they ended. */
  readonly ends: Map<string, number>
  /** What should not have happened. */
  readonly wrong: Array<string>
}

/** What a thread that has killed others and is at rest holds. */
export interface Sample {
  readonly residue: { readonly [what: string]: number }
  /** Handles of the event loop by kind. */
  readonly resources: { readonly [kind: string]: number }
  /** Listeners to events of the process. */
  readonly listeners: number
  readonly pooledRegions: number
  readonly heapBytes: number
}

/** All that the soak looks at: a host whose memory can be counted. */
export const layer = CutThroughHost.layer().pipe(
  Layer.provideMerge(SessionLayer.layerNoDeps()),
  Layer.provideMerge(Layer.mergeAll(Connections.layer, SegmentContext.layer, Wake.layer)),
  Layer.provideMerge(Layer.mergeAll(SharedMemory.layer, Lock.layer)),
  Layer.provide([CutThroughNode.layerCopy, NodeKeepAlive.layer]),
  Layer.fresh
)

const newOutcome = (): Outcome => ({ kills: 0, lost: 0, bytes: 0, ends: new Map(), wrong: [] })

/** Kills threads under load, then ends the others and waits until all is at rest. */
export const run = (options: Options) =>
  Effect.gen(function* () {
    const outcome = newOutcome()
    const host = yield* CutThroughHost.CutThroughHost
    const lostBefore = host.stats().lost
    yield* Effect.scoped(
      Effect.gen(function* () {
        const cache = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "cut-through-"))),
          (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
        )
        const soak = new Soak(options, outcome, cache)
        const scope = yield* Scope.fork(yield* Effect.scope)
        const here = Effect.flatMap(Application.make({ name: "host", segmentSize: "2 MiB" }), (application) =>
          Effect.provideService(
            takePart({ ...options, clients: 1 }, (report) => soak.heard(undefined, report)),
            Application.Application,
            application
          )
        )
        soak.takesPart(yield* Scope.provide(here, scope))
        yield* Effect.onExit(soak.killed, () => soak.stop)
        // The servers end when nobody talks to them any more.
        yield* Scope.close(scope, Exit.void)
      })
    )
    yield* atRest
    outcome.lost = host.stats().lost - lostBefore
    if (outcome.lost > outcome.kills) outcome.wrong.push(`${outcome.lost} were lost, and ${outcome.kills} killed`)
    if (host.stats().rejected > 0) outcome.wrong.push(`${host.stats().rejected} messages were rejected`)
    return outcome
  })

interface Thread {
  readonly worker: Worker
  /** Once it has ended. */
  code: number | undefined
  port: number | undefined
  isDying: boolean
  isHushed: boolean
}

type Part = Effect.Success<ReturnType<typeof takePart>>

class Soak {
  /** Where threads find compiled what others have loaded. */
  private readonly cache: string
  private readonly options: Options
  private readonly outcome: Outcome
  private readonly random: (limit: number) => number
  private readonly threads = new Set<Thread>()
  private readonly exits = new Set<Promise<unknown>>()
  private here: Part | undefined = undefined
  private herePort: number | undefined = undefined
  private started = 0
  private isEnding = false
  private isHushed = false
  private done: () => void = () => {}

  constructor(options: Options, outcome: Outcome, cache: string) {
    this.cache = cache
    this.options = options
    this.outcome = outcome
    let state = options.seed
    this.random = (limit) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
      return (state >>> 8) % limit
    }
  }

  takesPart(here: Part): void {
    this.here = here
    this.aim()
  }

  /** Kills until it is enough. */
  get killed(): Effect.Effect<void> {
    const { every, kills, millis = 0, onProgress, threads } = this.options
    const start = performance.now()
    const enough = Effect.callback<void>((resume) => {
      this.done = () => {
        if (this.outcome.kills < kills || performance.now() - start < millis) return
        this.isEnding = true
        resume(Effect.void)
      }
      for (let i = 0; i < threads; i++) this.begin()
    })
    const killOne = Effect.sync(() => {
      const all = [...this.threads].filter(({ isDying }) => !isDying)
      const busy = all.filter(({ port }) => port !== undefined)
      // Mostly those that others talk to; now and then one that is only beginning.
      const some = busy.length > 0 && this.random(4) > 0 ? busy : all
      if (!this.isEnding && some.length > 0) this.kill(some[this.random(some.length)])
    })
    const ticking = every === undefined ? Effect.never : Effect.schedule(killOne, Schedule.spaced(every))
    const telling = Effect.schedule(
      Effect.sync(() => onProgress?.(this.outcome)),
      Schedule.spaced("10 seconds")
    )
    return Effect.asVoid(Effect.raceFirst(enough, Effect.all([ticking, telling], { concurrency: 2 })))
  }

  heard(thread: Thread | undefined, report: Report): void {
    switch (report._tag) {
      case "Listening":
        if (thread === undefined) this.herePort = report.port
        else thread.port = report.port
        return this.aim()
      case "Flowing":
        if (thread === undefined || this.options.every !== undefined || this.isEnding) return
        return this.kill(thread)
      case "Tally":
        this.outcome.bytes += report.bytes
        for (const [how, count] of Object.entries(report.ends)) {
          this.outcome.ends.set(how, (this.outcome.ends.get(how) ?? 0) + count)
        }
        return
      case "Wrong":
        return void this.outcome.wrong.push(report.what)
      case "Hushed":
        if (thread === undefined) this.isHushed = true
        else thread.isHushed = true
    }
  }

  private begin(): void {
    const { clients, rest, seed } = this.options
    const workerData: TrafficOptions & { readonly cache: string } = {
      seed: seed + ++this.started,
      clients,
      rest,
      cache: this.cache
    }
    const worker = new Worker(new URL("./thread.ts", import.meta.url), { workerData })
    const exit = new Promise<number>((resolve) => void worker.once("exit", resolve))
    const thread: Thread = { worker, code: undefined, port: undefined, isDying: false, isHushed: false }
    this.threads.add(thread)
    worker.on("message", (report: Report) => this.heard(thread, report))
    worker.on("error", (error) => {
      if (!thread.isDying) this.outcome.wrong.push(`a thread has died of ${String(error)}`)
    })
    const gone = exit.then((code) => {
      thread.code = code
      this.exits.delete(gone)
      this.threads.delete(thread)
      if (!thread.isDying && !this.isEnding) this.outcome.wrong.push("a thread has ended by itself")
    })
    this.exits.add(gone)
  }

  private kill(thread: Thread): void {
    const how: Death = deaths[this.random(deaths.length)]
    thread.isDying = true
    this.outcome.kills++
    this.tell(thread, { _tag: "Die", how })
    // One that has not begun to listen does not hear it.
    if (how.startsWith("terminate") || thread.port === undefined) void thread.worker.terminate()
    this.aim()
    this.done()
    if (!this.isEnding) this.begin()
  }

  private tell(thread: Thread, order: Order): void {
    thread.worker.postMessage(order)
  }

  /** Tells everybody who is there to talk to. */
  private aim(): void {
    const ports = this.herePort === undefined ? [] : [this.herePort]
    for (const { isDying, port } of this.threads) if (!isDying && port !== undefined) ports.push(port)
    this.here?.aim(ports)
    for (const thread of this.threads) if (!thread.isDying) this.tell(thread, { _tag: "Targets", ports })
  }

  /** First nobody talks any more, then nobody listens. */
  get stop(): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      this.isEnding = true
      const left = [...this.threads].filter(({ isDying }) => !isDying)
      for (const thread of left) this.tell(thread, { _tag: "Hush" })
      if (this.here !== undefined) yield* Effect.forkDetach(this.here.hush)
      if (yield* waitFor(() => this.isHushed && left.every(({ isHushed }) => isHushed))) {
        for (const thread of left) this.tell(thread, { _tag: "End" })
      } else this.outcome.wrong.push("some of those who are left talk for ever")
      if (!(yield* waitFor(() => left.every((thread) => !this.threads.has(thread))))) {
        this.outcome.wrong.push("some of those who are left do not end")
        for (const { worker } of left) void worker.terminate()
      }
      for (const { code } of left) {
        if (code !== 0) this.outcome.wrong.push(`a thread has ended with ${code}`)
      }
      yield* Effect.promise(() => Promise.all(this.exits))
    })
  }
}

// ---------------------------------------------------------------------------
// what is left
// ---------------------------------------------------------------------------

/** Looks so often, a few milliseconds apart: those who are slow because the machine is have their time all the same. */
const LOOKS = 12_000

/** Waits until it is so. False when that does not come. */
const waitFor = (isSo: () => boolean): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    let left = LOOKS
    const timer = setInterval(() => {
      const answer = isSo()
      if (!answer && --left > 0) return
      clearInterval(timer)
      resume(Effect.succeed(answer))
    }, 5)
    return Effect.sync(() => clearInterval(timer))
  })

const residueOf = Effect.gen(function* () {
  const layer = yield* SessionLayer.SessionLayer
  const host = yield* CutThroughHost.CutThroughHost
  const poller = yield* Poller
  // What it looks at nobody else needs to know.
  const sources = () => Reflect.get(poller, "sources") as ReadonlyArray<unknown>
  return () => {
    const { guests, mappings, pairs } = host.stats()
    const apps = [...layer.apps()].length
    return { ...layer.residue(), guests, mappings, pairs, apps, sources: sources().length }
  }
})

/** Deaths are seen a little later than the threads end. If something is left for good, the sample shows it. */
const atRest = Effect.gen(function* () {
  const residue = yield* residueOf
  const isAtRest = () => Object.values(residue()).every((count) => count === 0)
  yield* waitFor(isAtRest)
})

/** What is held now. */
export const sample = Effect.gen(function* () {
  const residue = yield* residueOf
  const memory = yield* SharedMemory.SharedMemory
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc") as () => void
  // Ports close, and what they held goes, in turns of their own.
  for (let i = 0; i < 5; i++) {
    gc()
    yield* Effect.promise(() => new Promise((resolve) => void setImmediate(resolve)))
  }
  const resources: { [kind: string]: number } = {}
  for (const kind of process.getActiveResourcesInfo()) resources[kind] = (resources[kind] ?? 0) + 1
  let listeners = 0
  for (const event of process.eventNames()) listeners += process.listenerCount(event)
  return {
    residue: residue(),
    resources,
    listeners,
    pooledRegions: memory.stats().pooledRegions,
    heapBytes: process.memoryUsage().heapUsed
  } satisfies Sample
})

/** Of these there are as many as there happen to be. */
const isPassing = (kind: string): boolean => kind === "Timeout" || kind === "Immediate"

const HEAP_GROWTH = 16 * 1024 * 1024

/** What has grown from one sample to a later one, and what should not be there at all. */
export const leaks = ({ threads }: Pick<Options, "threads">, before: Sample, after: Sample): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const [what, count] of Object.entries(after.residue)) if (count !== 0) found.push(`${count} ${what} are left`)
  for (const [kind, count] of Object.entries(after.resources)) {
    const earlier = before.resources[kind] ?? 0
    if (count > earlier && !isPassing(kind)) found.push(`${count} ${kind} instead of ${earlier}`)
  }
  if (after.listeners > before.listeners) {
    found.push(`${after.listeners} listeners to the process's events instead of ${before.listeners}`)
  }
  // One for each two who talk at once, and as many that only somebody who still lives may use.
  const most = 2 * threads * (threads + 1)
  if (after.pooledRegions > most)
    found.push(`${after.pooledRegions} regions in the pool, and no more than ${most} were needed`)
  if (after.heapBytes > before.heapBytes + HEAP_GROWTH) {
    found.push(`${after.heapBytes} bytes of heap instead of ${before.heapBytes}`)
  }
  return found
}
