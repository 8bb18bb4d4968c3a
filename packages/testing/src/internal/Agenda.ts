/**
 * What is to happen when, on a `Clock`: with the test clock, whoever turns it
 * makes it happen, and between two things no time passes anywhere.
 */
import type { Clock } from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Scheduler, SchedulerDispatcher } from "effect/Scheduler"

/** Something to happen at a time. */
export interface Item {
  /** In whole microseconds of the clock, so that no sum of durations is off by a rounding error. */
  readonly at: number
  readonly order: number
  task: (() => void) | undefined
}

/** Things to happen, in the order of their times, and of adding where times are equal. */
export class Agenda {
  private readonly clock: Clock
  private readonly dispatcher: SchedulerDispatcher
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  // A heap: the first one is next.
  private readonly items: Array<Item> = []
  private added = 0
  private waiting = 0
  private isScheduled = false
  private isClosed = false
  private sleeper: Fiber.Fiber<void> | undefined
  private sleepsUntil = Infinity

  constructor(clock: Clock, scheduler: Scheduler, fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>) {
    this.clock = clock
    this.dispatcher = scheduler.makeDispatcher()
    this.fork = fork
  }

  /** Microseconds, since some moment. */
  get now(): number {
    return Math.round(Number(this.clock.monotonicTimeNanosUnsafe()) / 1000)
  }

  /** How many things are to happen. */
  get size(): number {
    return this.waiting
  }

  /** Adds something; what is due happens at the scheduler's next turn, not now. */
  add(at: number, task: () => void): Item {
    const item: Item = { at: Math.ceil(at), order: this.added++, task }
    if (this.isClosed) return item
    this.push(item)
    this.waiting++
    this.arm()
    return item
  }

  /** Takes something out; it does not happen. */
  cancel(item: Item | undefined): void {
    if (item?.task === undefined) return
    item.task = undefined
    this.waiting--
    while (this.items.length > 0 && this.items[0].task === undefined) this.pop()
    this.arm()
  }

  /** Forgets everything. */
  close(): void {
    this.isClosed = true
    this.items.length = 0
    this.waiting = 0
    this.arm()
  }

  private arm(): void {
    const next = this.items[0]?.at ?? Infinity
    if (next <= this.now) {
      this.sleepUntil(Infinity)
      if (this.isScheduled) return
      this.isScheduled = true
      this.dispatcher.scheduleTask(() => this.turn(), 0)
    } else this.sleepUntil(next)
  }

  private sleepUntil(at: number): void {
    if (this.sleepsUntil === at) return
    this.sleeper?.interruptUnsafe()
    this.sleeper = undefined
    this.sleepsUntil = at
    if (at === Infinity) return
    const sleep = this.clock.sleep(Duration.millis((at - this.now) / 1000))
    this.sleeper = this.fork(
      Effect.andThen(
        sleep,
        Effect.sync(() => {
          this.sleeper = undefined
          this.sleepsUntil = Infinity
          this.turn()
        })
      )
    )
  }

  /** What is due now happens; what that adds has its turn afterwards, even when it is due. */
  private turn(): void {
    this.isScheduled = false
    const { now } = this
    const due: Array<Item> = []
    while (this.items.length > 0 && this.items[0].at <= now) due.push(this.pop())
    for (const item of due) {
      const { task } = item
      if (task === undefined) continue
      item.task = undefined
      this.waiting--
      task()
    }
    while (this.items.length > 0 && this.items[0].task === undefined) this.pop()
    this.arm()
  }

  private push(item: Item): void {
    const { items } = this
    let at = items.length
    items.push(item)
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (isBefore(items[parent], item)) break
      items[at] = items[parent]
      at = parent
    }
    items[at] = item
  }

  private pop(): Item {
    const { items } = this
    const first = items[0]
    const last = items.pop()!
    if (items.length === 0) return first
    let at = 0
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && isBefore(items[child + 1], items[child])) child++
      if (isBefore(last, items[child])) break
      items[at] = items[child]
      at = child
    }
    items[at] = last
    return first
  }
}

const isBefore = (a: Item, b: Item): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)
