/**
 * Small messages between two threads, through memory that both map: one queue
 * for each direction, with one writer and one reader.
 *
 * A message that goes through a port is cloned, queued and announced, which
 * costs ten times what it costs to write some words and count them. A ring takes
 * what is small and frequent; a port takes the rest, and also what finds the ring
 * full, so nobody ever waits for room.
 *
 * The other thread may write whatever it likes into the memory. What is read is
 * copied once, then looked at; lengths and places that make no sense are found
 * out, and nothing is read from then on.
 *
 * @since 0.1.0
 */
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { Parking } from "./Parking.ts"
import type { Source } from "./Poller.ts"

/**
 * Words for records in each direction. What one thread does in a turn fits many
 * times.
 *
 * @category constants
 * @since 0.1.0
 */
export const WORDS = 4096

// Words of one direction, each in a cache line of its own: how far the writer has come, how far the reader, and whether
// the reader has parked. Who has come how far is counted without an end, modulo 2^32.
const TAIL = 0
const HEAD = 16
const PARKED = 32
const RECORDS = 48
const DIRECTION_WORDS = RECORDS + WORDS

/**
 * Bytes of shared memory that a ring takes.
 *
 * @category constants
 * @since 0.1.0
 */
export const BYTES: number = 2 * DIRECTION_WORDS * Int32Array.BYTES_PER_ELEMENT

/** Words in front of what a record says: its length and its tag, and a number that is the sender's. */
const HEADER = 2

/**
 * Records in one direction at any time, at most.
 *
 * @category constants
 * @since 0.1.0
 */
export const MOST_RECORDS: number = WORDS / HEADER

/** The longest record, and the longest text in one: three of them fit. */
const MOST_WORDS = 512
const MOST_TEXT = 256

/**
 * What one record says: a tag, numbers and texts, in memory of this thread.
 *
 * Whoever writes begins it with a tag and puts values in; whoever reads takes
 * them out in the same order. What does not fit, and what is not there, is found
 * out at the end.
 *
 * **Example** (Writing and reading)
 *
 * ```ts
 * import { Record } from "@cut-through/platform/thread/Ring"
 *
 * const record = new Record().begin(3).int(7).text("tcp://127.0.0.1:7000")
 * record.fits // => true
 * record.rewind()
 * record.tag // => 3
 * record.takeInt() // => 7
 * record.takeText() // => "tcp://127.0.0.1:7000"
 * record.isWhole // => true
 * ```
 *
 * @category models
 * @since 0.1.0
 */
export class Record {
  /** @internal */
  readonly words = new Int32Array(MOST_WORDS)
  private readonly units = new Uint16Array(this.words.buffer)
  private at = HEADER
  private isSane = true
  /** How many words there are to read. */
  private end = HEADER

  /** What kind of record it is: 0 to 255. */
  get tag(): number {
    return (this.words[0] >>> 16) & 0xff
  }

  /** The sender's number, which goes along with every record. */
  get stamp(): number {
    return this.words[1]
  }

  /** Begins a new one. */
  begin(tag: number): this {
    this.words[0] = tag << 16
    this.at = HEADER
    this.isSane = true
    return this
  }

  /** Puts a number in: one that has no more than 32 bits fits. */
  int(value: number): this {
    if ((value | 0) !== value || this.at === MOST_WORDS) this.isSane = false
    else this.words[this.at++] = value
    return this
  }

  /** Puts a text in, unless it is long. */
  text(value: string): this {
    const { length } = value
    if (length > MOST_TEXT || this.at + 1 + ((length + 1) >>> 1) > MOST_WORDS) {
      this.isSane = false
      return this
    }
    this.words[this.at++] = length
    const { units } = this
    const from = 2 * this.at
    for (let i = 0; i < length; i++) units[from + i] = value.charCodeAt(i)
    this.at += (length + 1) >>> 1
    return this
  }

  /** Whether all that was put in is in it. */
  get fits(): boolean {
    return this.isSane
  }

  /** Reads what was written, from the beginning. */
  rewind(): void {
    this.open(this.at)
  }

  /** Its words, with its length and the sender's number in front. @internal */
  close(stamp: number): number {
    this.words[0] = (this.words[0] & 0xff0000) | this.at
    this.words[1] = stamp
    return this.at
  }

  /** So many words are there to be read. @internal */
  open(length: number): void {
    this.at = HEADER
    this.end = length
    this.isSane = true
  }

  /** The next number; 0 when there is none. */
  takeInt(): number {
    if (this.at < this.end) return this.words[this.at++]
    this.isSane = false
    return 0
  }

  /** The next number, which is one of these places; 0 when it is not. */
  takeIndex(length: number): number {
    const index = this.takeInt()
    if (index >= 0 && index < length) return index
    this.isSane = false
    return 0
  }

  /** The next text; empty when there is none. */
  takeText(): string {
    const length = this.takeInt()
    const words = (length + 1) >>> 1
    if (length < 0 || length > MOST_TEXT || this.at + words > this.end) {
      this.isSane = false
      return ""
    }
    const from = 2 * this.at
    this.at += words
    return String.fromCharCode.apply(null, this.units.subarray(from, from + length) as unknown as Array<number>)
  }

  /** Whether all that was taken was there, and nothing else. */
  get isWhole(): boolean {
    return this.isSane && this.at === this.end
  }
}

/**
 * One thread's end of a ring: writes to the other thread, and reads what that
 * has written. `side` is 0 in one of the threads and 1 in the other; the buffer
 * is zeroed before its first use.
 *
 * It parks and wakes as a source of the thread's poller; what takes the records
 * is whoever owns it.
 *
 * **Example** (A record)
 *
 * ```ts
 * import { BYTES, Record, Ring } from "@cut-through/platform/thread/Ring"
 *
 * const buffer = new SharedArrayBuffer(BYTES)
 * // In one thread:
 * const writer = new Ring(buffer, 0)
 * writer.write(new Record().begin(1).int(42), 0) // => true
 * // In the other one:
 * const reader = new Ring(buffer, 1)
 * const record = new Record()
 * reader.look(record) // => true
 * reader.advance()
 * record.takeInt() // => 42
 * reader.look(record) // => false
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export class Ring implements Omit<Source, "take"> {
  private readonly words: SharedWords
  /** Where the words of the direction to this thread begin, and of that to the other one. */
  private readonly mine: number
  private readonly theirs: number
  private readonly parking: Parking
  /** How far this thread has come in each direction: its own counts are never read from shared memory. */
  private tail = 0
  private head = 0
  /** What it has last seen of the other thread's. */
  private seenHead = 0
  private seenTail = 0
  /** Words of the record that was looked at. */
  private length = 0
  private isClosed = false
  private nonsense = false

  constructor(buffer: SharedArrayBuffer, side: 0 | 1, words = new SharedWords(buffer)) {
    this.words = words
    this.mine = side * DIRECTION_WORDS
    this.theirs = DIRECTION_WORDS - this.mine
    this.parking = new Parking(words, buffer, this.mine + PARKED, this.theirs + PARKED)
  }

  /** Whether what the other thread has written made no sense: nothing is read any more. */
  get isBroken(): boolean {
    return this.nonsense
  }

  // ---------------------------------------------------------------------------
  // writing
  // ---------------------------------------------------------------------------

  /** Writes a record, with a number of the sender's, and wakes the reader. False when there is no room for it. */
  write(record: Record, stamp: number): boolean {
    if (this.isClosed) return false
    const { tail, theirs, words } = this
    const length = record.close(stamp)
    if (!this.hasRoom(length)) return false
    const from = record.words
    const base = theirs + RECORDS
    for (let i = 0; i < length; i++) words.init(base + ((tail + i) & (WORDS - 1)), from[i])
    this.tail = (tail + length) | 0
    words.store(theirs + TAIL, this.tail)
    this.parking.notify()
    return true
  }

  private hasRoom(length: number): boolean {
    if (this.isRoomBehind(this.seenHead, length)) return true
    this.seenHead = this.words.load(this.theirs + HEAD)
    return this.isRoomBehind(this.seenHead, length)
  }

  /** A reader that claims to be ahead of the writer, or a whole round behind it, gives no room. */
  private isRoomBehind(head: number, length: number): boolean {
    const used = (this.tail - head) | 0
    return used >= 0 && used + length <= WORDS
  }

  // ---------------------------------------------------------------------------
  // reading
  // ---------------------------------------------------------------------------

  // Plain, for a tenth of what an atomic look costs. Nothing rests on it: `look` and `park` look for themselves.
  hasNews(): boolean {
    return this.words.peek(this.mine + TAIL) !== this.head && !this.isClosed && !this.nonsense
  }

  /** Copies the next record, which stays where it is until `advance`. False when there is none. */
  look(record: Record): boolean {
    if (this.isClosed || this.nonsense) return false
    const { head, mine, words } = this
    if (this.seenTail === head) {
      this.seenTail = words.load(mine + TAIL)
      const used = (this.seenTail - head) | 0
      if (used < 0 || used > WORDS) return this.giveUp()
    }
    const used = (this.seenTail - head) | 0
    if (used === 0) return false
    const base = mine + RECORDS
    const first = words.peek(base + (head & (WORDS - 1)))
    const length = first & 0xffff
    if (length < HEADER || length > MOST_WORDS || length > used) return this.giveUp()
    const into = record.words
    into[0] = first
    for (let i = 1; i < length; i++) into[i] = words.peek(base + ((head + i) & (WORDS - 1)))
    record.open(length)
    this.length = length
    return true
  }

  /** Takes the record that was looked at. */
  advance(): void {
    this.head = (this.head + this.length) | 0
    this.length = 0
    this.words.store(this.mine + HEAD, this.head)
  }

  /** Where the next record begins nobody knows. */
  private giveUp(): false {
    this.nonsense = true
    return false
  }

  // ---------------------------------------------------------------------------
  // parking
  // ---------------------------------------------------------------------------

  park(): boolean {
    if (this.isClosed || this.nonsense) return true
    this.parking.park()
    return this.words.load(this.mine + TAIL) === this.head
  }

  unpark(): void {
    this.parking.unpark()
  }

  whenRung(wake: () => void): void {
    if (!this.isClosed && !this.nonsense) this.parking.whenNotified(wake)
  }

  /** Nothing is written nor read any more, and nothing is held. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.parking.close()
  }
}
