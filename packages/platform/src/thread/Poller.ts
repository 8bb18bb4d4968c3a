/**
 * How a thread notices what other threads have to tell it.
 *
 * Waking a thread that sleeps costs a hundred times what it costs to copy a
 * message. So while there is traffic the thread looks for itself, in step with
 * its event loop: a short spin, then a turn for everybody else, then the next
 * spin. When nothing has come for a while it parks, costs nothing, and is woken.
 *
 * **Crowded machines.** Without an idle core, a thread that looks keeps those
 * from running who would have something to tell: it looks in vain, parks, and is
 * rung then. Or a spin takes longer than it can, because the thread did not run
 * meanwhile, and what it finds then is not its merit. So looking has to pay: it
 * earns by what it finds, and loses by each time in vain. Without credit the
 * thread parks as soon as there is nothing to do, for a while that doubles when
 * the next attempt does not pay either, and halves when it does.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { MessageChannel } from "node:worker_threads"

/**
 * Something that other threads change: a doorbell, for example.
 *
 * @category models
 * @since 0.1.0
 */
export interface Source {
  /** Is there anything to take? Called in a spin, so it only loads a word. It may be wrong for a moment. */
  hasNews(): boolean
  /** Takes all there is, and says whether there was anything. Also called when `hasNews` says no. */
  take(): boolean
  /** Announces that nobody looks any more. False when there is news after all; `unpark` follows then. */
  park(): boolean
  /** Somebody looks again. */
  unpark(): void
  /**
   * Called when parked: have `wake` called, from the event loop, once there is news. If there is already, at once. A
   * call too many does no harm, nor does one that comes after `unpark`.
   */
  whenRung?(wake: () => void): void
}

/**
 * What a poller has done so far.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Turns of the event loop in which it looked. */
  readonly turns: number
  /** Times when a source had something. */
  readonly dispatches: number
  readonly parks: number
  /** Spins during which the thread did not run. */
  readonly stalls: number
  /** Times when it found that looking does not pay, and parked at once for a while. */
  readonly backOffs: number
}

/**
 * Looks at the sources of one thread.
 *
 * @category models
 * @since 0.1.0
 */
export interface Poller {
  readonly add: (source: Source) => void
  /** Nothing of the source is called any more. */
  readonly remove: (source: Source) => void
  /** There is traffic: look for some time. Costs next to nothing while it looks already. */
  readonly heat: () => void
  /** Calls `renew` at the beginning of each turn, until what this returns is called. */
  readonly onTurn: (renew: () => void) => () => void
  /** Does nobody look? */
  readonly isParked: boolean
  readonly stats: Stats
}

/**
 * Times and bounds, and what a test replaces.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /**
   * Looks in a row that may find nothing before the event loop has its turn. Default 1000: five
   * microseconds, in which another thread answers what is easy to answer.
   */
  readonly spin?: number | undefined
  /** When the event loop has its turn although there is still news. Default 100 microseconds. */
  readonly turn?: Duration.Input | undefined
  /**
   * When it parks if nothing comes. Default 1 millisecond: a thread that has just been woken answers within that even
   * where its core has to be woken too, and from then on both look.
   */
  readonly idle?: Duration.Input | undefined
  /** The same when it looks again for the first time after it has backed off. Default 8 milliseconds. */
  readonly trial?: Duration.Input | undefined
  /** What a spin takes beyond the usual if the thread did not run meanwhile. Default 5 microseconds. */
  readonly stall?: Duration.Input | undefined
  /** How often it may look in vain, each but for ten finds, before it backs off. Default 4. */
  readonly inVain?: number | undefined
  /** For how long it parks at once, the first time. Default 5 milliseconds. */
  readonly backOff?: Duration.Input | undefined
  /** The longest that becomes. Default 100 milliseconds. */
  readonly backOffMost?: Duration.Input | undefined
  /** How often a turn leaves it to others to keep the event loop alive. Default 5 milliseconds. */
  readonly release?: Duration.Input | undefined
  /** Tells the time in milliseconds. Default `performance.now`. */
  readonly now?: (() => number) | undefined
  /** Calls a function in the next turn of the event loop. Default `setImmediate`. */
  readonly schedule?: ((turn: () => void) => void) | undefined
  /** The same, but does not keep the event loop alive. */
  readonly scheduleUnref?: ((turn: () => void) => void) | undefined
}

/**
 * What looking in vain costs, in finds. To be woken takes some twenty microseconds longer than to look at the right
 * moment; to look in vain takes two hundred, during which whoever would answer may not have run.
 */
const VAIN = 10

/** The clock is read once for so many takes: a reading costs a tenth of a short round trip. */
const TAKES_PER_READING = 8

/**
 * An immediate without a reference does not do: it does not make the event loop turn either. A message to oneself does,
 * for some times the price, and so only now and then.
 */
const makeScheduleUnref = (): ((turn: () => void) => void) => {
  let scheduled: (() => void) | undefined = undefined
  let channel: MessageChannel | undefined = undefined
  return (turn) => {
    scheduled = turn
    if (channel === undefined) {
      channel = new MessageChannel()
      channel.port1.on("message", () => scheduled?.()).unref()
    }
    channel.port2.postMessage(0)
  }
}

const report = (defect: unknown): void => {
  Effect.runFork(Effect.logError("What a thread looks at failed", defect))
}

const attempt = <A>(run: () => A): A | undefined => {
  try {
    return run()
  } catch (defect) {
    report(defect)
    return undefined
  }
}

class PollerImpl implements Poller {
  readonly stats = { turns: 0, dispatches: 0, parks: 0, stalls: 0, backOffs: 0 }
  isParked = true
  // Arrays that are replaced, not changed: whatever is called may add and remove.
  private sources: ReadonlyArray<Source> = []
  private hooks: ReadonlyArray<() => void> = []

  /** `heat` was called since the last turn. */
  private isHot = false
  private isArming = false
  private lastHot = 0
  private lastTurn = 0
  private lastRelease = 0

  // Since it has last parked: was there traffic, how often has looking found some, and has there been a turn yet?
  private wasHot = false
  private finds = 0
  private isFirst = true
  /** How long a spin takes that finds nothing. */
  private usual = Infinity
  /** What finds have earned; looking in vain costs. Without credit it backs off: until then it parks at once. */
  private credit: number
  private backOffUntil = 0
  private isBackedOff = false
  private backOff = 0
  /** It has not earned full credit since it backed off. */
  private isTrial = false

  private readonly spin: number
  private readonly mostTurn: number
  private readonly idle: number
  private readonly trial: number
  private readonly stall: number
  private readonly mostCredit: number
  private readonly backOffLeast: number
  private readonly backOffMost: number
  private readonly release: number
  private readonly now: () => number
  private readonly schedule: (turn: () => void) => void
  private readonly scheduleUnref: (turn: () => void) => void

  constructor(options: Options) {
    this.spin = options.spin ?? 1000
    this.mostTurn = Duration.toMillis(options.turn ?? "100 micros")
    this.idle = Duration.toMillis(options.idle ?? "1 millis")
    this.trial = Duration.toMillis(options.trial ?? "8 millis")
    this.stall = Duration.toMillis(options.stall ?? "5 micros")
    this.credit = this.mostCredit = VAIN * (options.inVain ?? 4)
    this.backOffLeast = Duration.toMillis(options.backOff ?? "5 millis")
    this.backOffMost = Duration.toMillis(options.backOffMost ?? "100 millis")
    this.release = Duration.toMillis(options.release ?? "5 millis")
    this.now = options.now ?? (() => performance.now())
    this.schedule = options.schedule ?? ((turn) => void setImmediate(turn))
    this.scheduleUnref = options.scheduleUnref ?? makeScheduleUnref()
  }

  readonly add = (source: Source): void => {
    this.sources = [...this.sources, source]
    this.usual = Infinity
    // All are parked, or none.
    this.start()
  }

  readonly remove = (source: Source): void => {
    if (!this.sources.includes(source)) return
    this.sources = this.sources.filter((other) => other !== source)
    this.usual = Infinity
    if (this.isParked) source.unpark()
  }

  readonly heat = (): void => {
    this.isHot = true
    // Where looking does not pay, whoever answers rings.
    if (this.isParked && (this.backOffUntil === 0 || this.now() >= this.backOffUntil)) this.start()
  }

  readonly onTurn = (renew: () => void): (() => void) => {
    const hook = () => renew()
    this.hooks = [...this.hooks, hook]
    return () => void (this.hooks = this.hooks.filter((other) => other !== hook))
  }

  private readonly turn = (): void => {
    this.stats.turns++
    for (const hook of this.hooks) attempt(hook)
    const start = this.now()
    // Also what cannot say beforehand whether it has news.
    const wasAtWork = this.isHot
    let hasCome = this.take(false)
    // Who has rung since then was not waiting for a core, but at work.
    if (hasCome && !this.isFirst && (wasAtWork || !this.isStall(start - this.lastTurn))) this.finds++
    if (this.isFirst) this.lastRelease = start
    this.isFirst = false

    const isBackedOff = (this.isBackedOff = start < this.backOffUntil)
    // When the present spin began. Not every spin is timed, but the first one of each turn is.
    let since = hasCome ? this.now() : start
    let isTimed = true
    let end = since
    for (let takes = 1; ; takes++) {
      const isSeen = this.sees(isBackedOff ? 1 : this.spin)
      if (isTimed || !isSeen) end = this.now()
      const isStalled: boolean = isTimed && this.isStall(end - since)
      if (isStalled) this.stats.stalls++
      else if (isTimed && !isSeen && !isBackedOff) this.usual = Math.min(end - since, this.usual * 1.01)
      if (!isSeen || !this.take(true)) break
      hasCome = true
      if (!isStalled) this.finds++
      isTimed = isStalled || takes % TAKES_PER_READING === 0
      if (!isTimed) continue
      end = since = this.now()
      if (end - start >= this.mostTurn) break
    }

    this.lastTurn = end
    if (hasCome || this.isHot) {
      this.isHot = false
      this.wasHot = true
      this.lastHot = end
    }
    // Two threads that have come to share a core are parted only while both want to run.
    const patience = this.isTrial && this.credit === 0 && this.finds === 0 ? this.trial : this.idle
    if (isBackedOff || end - this.lastHot >= patience) this.park(end)
    else this.next(end)
  }

  private isStall(took: number): boolean {
    return took > this.usual + this.stall
  }

  /** Spins until a source has news. */
  private sees(looks: number): boolean {
    const { sources } = this
    const { length } = sources
    if (length === 0) return false
    try {
      for (let look = 0; look < looks; look += length) {
        for (let i = 0; i < length; i++) if (sources[i].hasNews()) return true
      }
    } catch (defect) {
      report(defect)
    }
    return false
  }

  /** Takes what there is: from all sources, or only from those that say they have something. */
  private take(isAnnounced: boolean): boolean {
    const { sources } = this
    let hasCome = false
    for (let i = 0; i < sources.length; i++) {
      const source = sources[i]
      // One before it may have removed it.
      if (sources !== this.sources && !this.sources.includes(source)) continue
      try {
        if ((isAnnounced && !source.hasNews()) || !source.take()) continue
        hasCome = true
        this.stats.dispatches++
      } catch (defect) {
        report(defect)
      }
    }
    return hasCome
  }

  private next(now: number): void {
    if (now - this.lastRelease < this.release) return this.schedule(this.turn)
    this.lastRelease = now
    this.scheduleUnref(this.turn)
  }

  private park(now: number): void {
    const { sources } = this
    this.isParked = true
    for (const source of sources) {
      if (attempt(() => source.park()) === false) return this.start()
    }
    this.stats.parks++
    this.judge(now)
    this.wasHot = false
    this.finds = 0
    this.isFirst = true
    this.isArming = true
    for (const source of sources) {
      if (this.isParked) attempt(() => source.whenRung?.(this.wake))
    }
    this.isArming = false
  }

  /** Has looking been worth it since it has last parked? */
  private judge(now: number): void {
    if (this.isBackedOff) return
    if (this.finds > 0) this.credit = Math.min(this.credit + this.finds, this.mostCredit)
    else if (this.wasHot) this.credit -= VAIN
    if (this.credit === this.mostCredit) this.isTrial = false
    if (this.credit >= 0) return
    this.stats.backOffs++
    this.backOff = Math.min(this.isTrial ? 2 * this.backOff : this.backOff / 2, this.backOffMost)
    this.backOff = Math.max(this.backOff, this.backOffLeast)
    this.backOffUntil = now + this.backOff
    this.credit = 0
    this.isTrial = true
  }

  private unpark(): void {
    this.isParked = false
    for (const source of this.sources) attempt(() => source.unpark())
  }

  private start(): void {
    if (!this.isParked) return
    this.unpark()
    this.schedule(this.turn)
  }

  /** Called from the event loop, so the turn can begin at once. */
  private readonly wake = (): void => {
    if (this.isArming) return this.start()
    if (!this.isParked) return
    this.unpark()
    this.turn()
  }
}

/**
 * A poller that has no sources yet, for the thread that makes it.
 *
 * **Example** (A word that another thread changes)
 *
 * ```ts
 * import * as Poller from "@cut-through/platform/thread/Poller"
 *
 * const word = new Int32Array(new SharedArrayBuffer(4))
 * const poller = Poller.make()
 * const seen = new Promise<number>((resolve) => {
 *   const source: Poller.Source = {
 *     hasNews: () => Atomics.load(word, 0) !== 0,
 *     take() {
 *       const value = Atomics.exchange(word, 0, 0)
 *       if (value === 0) return false
 *       poller.remove(source)
 *       resolve(value)
 *       return true
 *     },
 *     park: () => Atomics.load(word, 0) === 0,
 *     unpark() {}
 *   }
 *   poller.add(source)
 * })
 * Atomics.store(word, 0, 7)
 * poller.heat()
 * await seen // => 7
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Poller => new PollerImpl(options)

/**
 * The poller of this thread.
 *
 * @category services
 * @since 0.1.0
 */
export const Poller: Context.Reference<Poller> = Context.Reference<Poller>("@cut-through/platform/thread/Poller", {
  defaultValue: () => make()
})
