/**
 * One thread's end of what a guest and its host say to each other: a port, and
 * beside it a ring for what is small and frequent.
 *
 * Both together are one stream: what was said first is heard first, whichever
 * way it takes. Each record in the ring says how many messages the port was given
 * before it, so whoever hears knows which of the two goes first; a message of the
 * port comes behind all records that were there before it.
 *
 * @since 0.1.0
 */
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads"
import type { Poller, Source } from "./Poller.ts"
import * as Ring from "./Ring.ts"

/** What is heard in one go before others have their turn. */
const MESSAGES_PER_TURN = 64

/** The tag of a record that only says that something is in the port. */
const LOOK_AT_PORT = 0

/** What `receiveMessageOnPort` returns. */
interface Received {
  readonly message: unknown
}

/** A message that was there and that nobody will ever read. */
const UNREADABLE: Received = { message: undefined }

/**
 * How messages become records, and records messages.
 *
 * @category models
 * @since 0.1.0
 */
export interface Codec<Message> {
  /** Writes a message down, under a tag above 0. False when it is not one for the ring. */
  readonly write: (record: Ring.Record, message: Message) => boolean
  /** The message, or nothing when it is none. */
  readonly read: (record: Ring.Record) => Message | undefined
}

/**
 * Who hears.
 *
 * @category models
 * @since 0.1.0
 */
export interface Listener<Heard> {
  /** A message that came through the port, which may be anything. */
  readonly onMessage: (message: unknown) => void
  /** A message that came through the ring, checked by the codec; nothing when it was none. */
  readonly onRecord: (message: Heard | undefined) => void
  /** There was a message that nobody will ever read. */
  readonly onUnreadable: () => void
  /** The ring makes no sense, and is not looked at any more. */
  readonly onBroken: () => void
  /** The other end is closed, and all it has said is heard. */
  readonly onClose: () => void
}

/**
 * One end of the control port. It is looked at in the turns of the poller.
 *
 * @category constructors
 * @since 0.1.0
 */
export class Control<Said, Heard> implements Source {
  private readonly port: MessagePort
  private readonly poller: Poller
  private readonly said: Codec<Said>
  private readonly heard: Codec<Heard>
  private readonly listener: Listener<Heard>
  private ring: Ring.Ring | undefined = undefined
  private readonly written = new Ring.Record()
  private readonly read = new Ring.Record()
  /** Messages given to the port and taken from it, modulo 2^32. */
  private posted = 0
  private received = 0
  /** What was heard by event since others had their turn. */
  private events = 0
  /** The next record comes behind a message that is still on its way, or that only a liar speaks of: it comes by event. */
  private isWaiting = false
  private isClosed = false

  constructor(port: MessagePort, poller: Poller, said: Codec<Said>, heard: Codec<Heard>, listener: Listener<Heard>) {
    this.port = port
    this.poller = poller
    this.said = said
    this.heard = heard
    this.listener = listener
    port.on("messageerror", () => void this.arrived(UNREADABLE))
    port.on("close", () => this.onClose())
    this.hear()
    poller.add(this)
  }

  /** From here on there is a ring, too: for what is said here, and for what the other end says once it knows of it. */
  open(buffer: SharedArrayBuffer, side: 0 | 1): void {
    if (this.isClosed || this.ring !== undefined) return
    // It has not parked as a ring does, so it is added anew.
    this.poller.remove(this)
    this.ring = new Ring.Ring(buffer, side)
    this.poller.add(this)
  }

  /** Says something. What it throws is what the port does, and then nothing was said. */
  post(message: Said): void {
    if (this.isClosed) return
    const { ring, written } = this
    if (ring !== undefined && this.said.write(written, message) && ring.write(written, this.posted)) return
    this.port.postMessage(message)
    this.posted = (this.posted + 1) | 0
    // Where there is no room for that, the message is found by its event.
    ring?.write(written.begin(LOOK_AT_PORT), this.posted)
  }

  /** Nothing is said nor heard any more. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.poller.remove(this)
    this.ring?.close()
    this.port.close()
  }

  // ---------------------------------------------------------------------------
  // hearing
  // ---------------------------------------------------------------------------

  private hear(): void {
    if (this.isClosed) return
    this.port.on("message", this.onEvent)
    // Whoever keeps the thread running, it is not that somebody could say something.
    this.port.unref()
  }

  private readonly onEvent = (message: unknown): void => {
    this.poller.heat()
    this.events += this.arrived({ message })
    // Node hands over all there is, however much that is, before anybody else has a turn: so it is stopped in between.
    if (this.events < MESSAGES_PER_TURN) return
    this.events = 0
    this.port.off("message", this.onEvent)
    setImmediate(() => this.hear())
  }

  private onClose(): void {
    if (this.isClosed) return
    // The port has nothing any more. What is still in the ring was said before.
    for (let left = Ring.MOST_RECORDS; left > 0 && this.look(); left--) this.takeRecord()
    this.listener.onClose()
  }

  hasNews(): boolean {
    return this.ring !== undefined && !this.isWaiting && this.ring.hasNews()
  }

  take(): boolean {
    let count = 0
    while (count < MESSAGES_PER_TURN && this.next()) count++
    return count > 0
  }

  /** The next message, wherever it is. */
  private next(): boolean {
    if (this.isClosed || this.isWaiting) return false
    // Looked at in the same turns as the bells: a message that waits for its event costs ten times as much.
    if (this.ring === undefined) return this.takeMessage()
    if (!this.look()) return false
    if (this.isFirst()) this.takeRecord()
    else if (!this.takeMessage()) this.isWaiting = true
    return !this.isWaiting
  }

  private takeMessage(): boolean {
    const received = this.receive()
    if (received === undefined) return false
    this.arrived(received)
    return true
  }

  /** The next message of the port. What is nested too deep to be read is taken out by that, too. */
  private receive(): Received | undefined {
    try {
      return receiveMessageOnPort(this.port)
    } catch {
      return UNREADABLE
    }
  }

  /** A message of the port, behind all records that say so, but not those written meanwhile. Returns how many all are. */
  private arrived(received: Received): number {
    let count = 1
    for (; count <= Ring.MOST_RECORDS && this.look() && this.isFirst(); count++) this.takeRecord()
    if (this.isClosed) return count
    this.received = (this.received + 1) | 0
    if (this.isWaiting) this.stopWaiting()
    if (received === UNREADABLE) this.listener.onUnreadable()
    else this.listener.onMessage(received.message)
    return count
  }

  /** What has come meanwhile has rung nobody: so whoever has parked is made to look. */
  private stopWaiting(): void {
    this.isWaiting = false
    this.poller.remove(this)
    this.poller.add(this)
  }

  private look(): boolean {
    const { ring } = this
    if (ring === undefined || this.isClosed || ring.isBroken) return false
    if (ring.look(this.read)) return true
    if (ring.isBroken) this.listener.onBroken()
    return false
  }

  /** Whether the record was written before what the port has next. */
  private isFirst(): boolean {
    return ((this.read.stamp - this.received) | 0) <= 0
  }

  private takeRecord(): void {
    const { heard, listener, read, ring } = this
    // First: what is heard may close this.
    ring!.advance()
    if (read.tag !== LOOK_AT_PORT) listener.onRecord(heard.read(read))
  }

  // ---------------------------------------------------------------------------
  // parking
  // ---------------------------------------------------------------------------

  park(): boolean {
    return this.ring === undefined || this.isWaiting || this.ring.park()
  }

  unpark(): void {
    this.ring?.unpark()
  }

  whenRung(wake: () => void): void {
    if (!this.isWaiting) this.ring?.whenRung(wake)
  }
}
