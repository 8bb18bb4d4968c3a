/**
 * One direction of the way between two hosts.
 */
import type { Agenda, Item } from "./Agenda.ts"
import type { Prng } from "./Prng.ts"

/** How a wire is: times in microseconds. */
export interface Properties {
  readonly latency: number
  readonly jitter: number
  /** Bytes in a second. */
  readonly bandwidth: number
  /** How likely it is that a frame has to be sent again. */
  readonly loss: number
}

/** Those whose frames must stay in order. */
export interface Flow {
  /** When the last one of them arrives. */
  lastArrival: number
  /** Whether it sends nothing again. */
  readonly isGone: boolean
  /** A frame of it could not be sent, and is kept to be sent again. */
  readonly onStuck: () => void
  /** What was stuck is on its way again. */
  readonly onFreed: () => void
}

export interface Frame {
  readonly flow: Flow
  /** What is written down about it. */
  readonly what: string
  readonly bytes: number
  /** Whether its sender sends it again when it gets lost. */
  readonly isReliable: boolean
  readonly arrive: () => void
  arrival: number
  item: Item | undefined
}

/** What becomes of what is sent: it arrives, it gets lost and is sent again later, or it is kept on the way. */
export type State = "open" | "cut" | "held"

/** How long a sender waits before it sends again what was lost: as TCP does at least, and longer each time. */
const RETRANSMIT = 200_000

export class Wire {
  state: State = "open"
  properties: Properties
  private readonly agenda: Agenda
  private readonly random: Prng
  private readonly record: (what: string) => void
  private readonly onWay: Set<Frame> = new Set()
  private stuck: Array<Frame> = []
  /** When the last byte sent so far has left. */
  private freeAt = 0

  constructor(agenda: Agenda, random: Prng, properties: Properties, record: (what: string) => void) {
    this.agenda = agenda
    this.random = random
    this.properties = properties
    this.record = record
  }

  /** Frames that are somewhere between the two. */
  get pending(): number {
    return this.onWay.size + this.stuck.length
  }

  send(flow: Flow, what: string, bytes: number, isReliable: boolean, arrive: () => void): void {
    const frame: Frame = { flow, what, bytes, isReliable, arrive, arrival: 0, item: undefined }
    if (this.state === "cut") this.lose(frame)
    else {
      frame.arrival = this.arrivalOf(frame)
      if (this.state === "held") this.stuck.push(frame)
      else this.carry(frame)
    }
  }

  /** What is on its way is lost, and so is what is sent from now on. What is lost is sent again when it is mended. */
  cut(): void {
    if (this.state === "cut") return
    this.state = "cut"
    const lost = [...this.stuck, ...this.takeOnWay()]
    this.stuck = []
    for (const frame of lost) this.lose(frame)
  }

  mend(): void {
    if (this.state === "cut") this.go(true)
  }

  /** What is on its way stays there, and so does what is sent from now on. */
  hold(): void {
    if (this.state !== "open") return
    this.state = "held"
    this.stuck = this.takeOnWay()
  }

  release(): void {
    if (this.state === "held") this.go(false)
  }

  /** Nothing arrives any more. */
  close(): void {
    this.takeOnWay()
    this.stuck = []
  }

  private go(again: boolean): void {
    this.state = "open"
    const frames = this.stuck
    this.stuck = []
    for (const frame of frames) {
      if (again && frame.flow.isGone) continue
      frame.arrival = again ? this.arrivalOf(frame) : Math.max(frame.arrival, this.agenda.now)
      this.carry(frame)
      frame.flow.onFreed()
    }
  }

  private takeOnWay(): Array<Frame> {
    const frames = [...this.onWay]
    this.onWay.clear()
    for (const frame of frames) this.agenda.cancel(frame.item)
    return frames
  }

  private lose(frame: Frame): void {
    this.record(`lost ${frame.what}`)
    if (!frame.isReliable) return
    this.stuck.push(frame)
    frame.flow.onStuck()
  }

  private arrivalOf({ bytes, flow, isReliable }: Frame): number {
    const { bandwidth, jitter, latency, loss } = this.properties
    const { now } = this.agenda
    this.freeAt = Math.max(this.freeAt, now) + (bandwidth === Infinity ? 0 : (bytes / bandwidth) * 1_000_000)
    let arrival = this.freeAt + latency
    if (jitter > 0) arrival += this.random.nextDoubleUnsafe() * jitter
    if (isReliable && loss > 0) arrival += this.delayOfLoss(loss)
    // Whoever overtakes waits for those before it.
    flow.lastArrival = Math.max(flow.lastArrival, Math.ceil(arrival))
    return flow.lastArrival
  }

  /** How long it takes until it gets through. */
  private delayOfLoss(loss: number): number {
    let tries = 0
    while (this.random.nextDoubleUnsafe() < loss) tries++
    return RETRANSMIT * (2 ** tries - 1)
  }

  private carry(frame: Frame): void {
    const { isReliable, what } = frame
    const { loss } = this.properties
    if (!isReliable && loss > 0 && this.random.nextDoubleUnsafe() < loss) {
      this.record(`lost ${what}`)
      return
    }
    this.onWay.add(frame)
    frame.item = this.agenda.add(frame.arrival, () => {
      this.onWay.delete(frame)
      this.record(what)
      frame.arrive()
    })
  }
}
