/** What a test and the thread at the other end of a bell share. Threads load it without Vitest. */
import type { Target } from "@cut-through/core/memory/Doorbell"
import * as Bell from "@cut-through/platform/thread/Bell"
import * as Poller from "@cut-through/platform/thread/Poller"

export interface Task {
  readonly bell: SharedArrayBuffer
  /** Behind the bell: for each side and slot a counter of what that side has been told. */
  readonly told: Int32Array
  readonly slots: number
  /** Parks whenever there is nothing to do, or after a while, or never. */
  readonly parks: "at once" | "when idle" | "never"
  /** Rings so often, in any order; 0 answers each ring instead, for ever. */
  readonly rings: number
}

export interface Report {
  /** What was seen when all has been seen that the other side has told. */
  readonly seen: ReadonlyArray<number>
  readonly stats: Poller.Stats
}

export const newTask = (options: Pick<Task, "slots" | "parks" | "rings">): Task => ({
  ...options,
  bell: new SharedArrayBuffer(Bell.BYTES),
  told: new Int32Array(new SharedArrayBuffer(2 * options.slots * Int32Array.BYTES_PER_ELEMENT))
})

const optionsOf = {
  "at once": { idle: 0, spin: 1 },
  "when idle": {},
  never: { idle: "1 hour" }
} satisfies Record<Task["parks"], Poller.Options>

const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))

/** One end, with a poller of its own. */
export class End {
  readonly poller: Poller.Poller
  readonly bell: Bell.Bell
  private readonly task: Task
  private readonly side: 0 | 1

  constructor(task: Task, side: 0 | 1) {
    this.task = task
    this.side = side
    this.poller = Poller.make(optionsOf[task.parks])
    this.bell = new Bell.Bell(task.bell, side, this.poller.heat)
    this.poller.add(this.bell)
  }

  /** Tells the other side something new, and rings. */
  tell(slot: number): void {
    Atomics.add(this.task.told, (1 - this.side) * this.task.slots + slot, 1)
    this.bell.ring(slot)
  }

  /** What has been told to this side. */
  told(slot: number): number {
    return Atomics.load(this.task.told, this.side * this.task.slots + slot)
  }

  attach(slot: number, onRing: () => void): Target {
    const target = { onRing }
    this.bell.attach(slot, target)
    return target
  }

  /** Answers whatever is told, once for each ring that brings something new. */
  answer(): void {
    for (let slot = 0; slot < this.task.slots; slot++) {
      let seen = 0
      this.attach(slot, () => {
        const told = this.told(slot)
        if (told === seen) return
        seen = told
        this.tell(slot)
      })
    }
  }

  /** Asks so often, one after the other, and returns when the last answer is there. */
  ask(slot: number, times: number): Promise<void> {
    return new Promise((resolve) => {
      let left = times
      let seen = this.told(slot)
      const target = this.attach(slot, () => {
        if (this.told(slot) === seen) return
        seen++
        if (--left > 0) return this.tell(slot)
        this.bell.detach(slot, target)
        resolve()
      })
      this.tell(slot)
    })
  }

  /** Rings in a crowd and is rung in one; returns when it has seen all that it was told. */
  async storm(random: (limit: number) => number): Promise<Report> {
    const { rings, slots } = this.task
    const seen = new Array<number>(slots).fill(0)
    let total = 0
    const all = new Promise<void>((resolve) => {
      for (let slot = 0; slot < slots; slot++) {
        this.attach(slot, () => {
          const told = this.told(slot)
          total += told - seen[slot]
          seen[slot] = told
          if (total === rings) resolve()
        })
      }
    })
    for (let left = rings; left > 0;) {
      // Many at once, or one and the next after a turn: then the other side may have parked.
      const batch = Math.min(left, random(4) === 0 ? 100 : 1)
      for (let i = 0; i < batch; i++) this.tell(random(slots))
      left -= batch
      if (random(3) === 0) await nextTurn()
    }
    await all
    return { seen, stats: { ...this.poller.stats } }
  }
}
