/**
 * Every order in which threads can meet in shared memory, one after the other,
 * with the code that ships and not with a model of it.
 *
 * Code that reaches shared memory through a `SharedWords` only, and that is
 * deterministic given what it reads there, is run over a {@link SteppedWords}.
 * That stops a thread before each of its accesses and decides who goes on. A
 * synchronous function cannot be suspended, so it is unwound by a throw; to go
 * on it runs from its beginning, what it has done before is answered from a
 * log, and then comes its next access.
 *
 * What is explored are all sequentially consistent interleavings, up to the
 * order of accesses that have nothing to do with each other: dynamic
 * partial-order reduction (Flanagan and Godefroid, POPL 2005) with source sets
 * and sleep sets (Abdulla, Aronsson, Jonsson and Sagonas, "Optimal dynamic
 * partial order reduction", POPL 2014, the first of its two algorithms). Bytes
 * are not atomic, so two threads that touch the same ones with nothing to order
 * them are a data race, which is reported as such: the order here is that of
 * the memory model, where only an atomic read sees what was written before the
 * atomic write that it reads.
 *
 * @since 0.1.0
 */
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Data from "effect/Data"

/**
 * What a thread does to shared memory in one step.
 *
 * `wait` goes on when the word no longer holds the value; `die` is the last
 * step of a thread that dies.
 *
 * @category models
 * @since 0.1.0
 */
export type Operation =
  | "load"
  | "peek"
  | "store"
  | "init"
  | "add"
  | "or"
  | "and"
  | "exchange"
  | "copyIn"
  | "copyOut"
  | "zero"
  | "wait"
  | "die"

/**
 * What a thread runs: synchronous, and deterministic given what it reads. It is
 * run again and again, so it makes all that it changes, and touches nothing
 * else.
 *
 * @category models
 * @since 0.1.0
 */
export type Program<A> = (words: SteppedWords) => A

/**
 * How threads have ended together: nobody can go on.
 *
 * @category models
 * @since 0.1.0
 */
export interface End<Threads extends Record<string, Program<unknown>>> {
  /** The memory, for looking at it and for tidying up: it is put back afterwards. */
  readonly memory: SharedWords
  /** What each thread returned; `undefined` for one that died or rests. */
  readonly results: { readonly [Name in keyof Threads]: ReturnType<Threads[Name]> | undefined }
  /** What each thread noted last, whether it returned or not. */
  readonly notes: { readonly [Name in keyof Threads]: unknown }
  /** Who died, if anybody did. */
  readonly dead: (keyof Threads & string) | undefined
}

/**
 * What is to be explored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<Threads extends Record<string, Program<unknown>>> {
  /** Bytes of memory that the threads share, zeroed. */
  readonly memory: number
  /** Fills the memory before there are any threads. */
  readonly setup?: ((memory: SharedWords) => void) | undefined
  /** At most 30 threads, by name. */
  readonly threads: Threads
  /** Throws when an end is not as it should be. */
  readonly check?: ((end: End<Threads>) => void) | undefined
  /** Who may die: each of them does so before any one of its accesses, one at a time. Default: nobody. */
  readonly deaths?: ReadonlyArray<keyof Threads & string> | undefined
  /** What survives the dead does about it: a further thread that begins at the death. */
  readonly afterDeath?: ((words: SteppedWords, dead: keyof Threads & string) => void) | undefined
  /** Says what a word is for, in counterexamples. */
  readonly nameWord?: ((word: number) => string | undefined) | undefined
  /** Executions, redundant ones included, after which the exploration is given up. Default 1,000,000. */
  readonly maxExecutions?: number | undefined
  /** Accesses after which one execution counts as one that never ends. Default 10,000. */
  readonly maxOperations?: number | undefined
  /** `"none"` runs every interleaving, also those that differ in nothing: to check the reduction itself. */
  readonly reduction?: "source-sets" | "none" | undefined
}

/**
 * One access in a schedule.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step {
  readonly thread: string
  readonly operation: Operation
  /** Where: a word by name or number, or a range of bytes. */
  readonly where: string
  /** What was given: the value stored, added, or waited for. */
  readonly value: number | undefined
  /** What a word held before, or the bytes that were copied. */
  readonly result: number | Uint8Array
}

/**
 * A schedule in which something goes wrong, and what that is.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counterexample {
  readonly message: string
  /** What was thrown, where something was thrown. */
  readonly cause: unknown
  readonly steps: ReadonlyArray<Step>
  /** Who goes how many steps, for {@link replay}. */
  readonly schedule: string
}

/**
 * What was explored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  /** Executions that came to their end: each differs from all others in the order of accesses that conflict. */
  readonly executions: number
  /** Executions that were given up because they would have repeated another one. */
  readonly redundant: number
  /** States that were visited: accesses performed, without those of replays. */
  readonly states: number
  /** Most accesses in one execution. */
  readonly longest: number
  /** Accesses before which somebody has died. */
  readonly deaths: number
  /** Whether there is nothing left to explore. */
  readonly isComplete: boolean
  readonly counterexample: Counterexample | undefined
}

/**
 * An interleaving went wrong, or there were too many of them to explore.
 *
 * @category errors
 * @since 0.1.0
 */
export class InterleavingError extends Data.TaggedError("InterleavingError")<{
  readonly report: Report
}> {
  override get message(): string {
    return format(this.report)
  }
}

// -----------------------------------------------------------------------------
// accesses
// -----------------------------------------------------------------------------

/** An access before it has happened. A range of bytes, so that words and bytes are compared alike. */
interface Access {
  readonly operation: Operation
  readonly start: number
  readonly end: number
  readonly value: number
  /** What is copied in. */
  readonly source: Uint8Array | undefined
  readonly reads: boolean
  readonly writes: boolean
  readonly isAtomic: boolean
  /** Whether waiting for ever is all right. */
  readonly isRest: boolean
}

/** An access that has happened. */
interface Event extends Step {
  readonly access: Access
  readonly number: number
  /** Its number among the events of its thread, from 1 on. */
  readonly index: number
  /** For each thread, the last of its events that come before this one in every equivalent execution. */
  readonly clock: Int32Array
  /** The same, but by what the memory model promises. */
  readonly synced: Int32Array
  /** What the memory held. */
  readonly before: number | Uint8Array
}

/** A choice of who goes on: before the event with the same number. Threads are bits. */
interface Choice {
  /** Who is to go on here, sooner or later. */
  wanted: number
  /** Who need not, because all that comes of it has been seen. */
  asleep: number
}

const isBytes = ({ operation }: Access): boolean =>
  operation === "copyIn" || operation === "copyOut" || operation === "zero"

const conflict = (one: Access, other: Access): boolean =>
  one.start < other.end && other.start < one.end && (one.writes || other.writes)

const isSame = (one: Access, other: Access): boolean =>
  one.operation === other.operation && one.start === other.start && one.end === other.end && one.value === other.value

/** Unwinds a thread that has come to where it stands. */
class Unwound extends Error {
  override readonly name = "Unwound"
}
const unwound = new Unwound("the thread is taken up again later")

/**
 * Shared memory as one of the threads sees it.
 *
 * Each access is a step of its own. Code between two accesses takes no time.
 *
 * @category models
 * @since 0.1.0
 */
export class SteppedWords extends SharedWords {
  private readonly access: (access: Access) => number | Uint8Array
  private readonly preparation: (isPreparing: boolean) => void
  private readonly noting: (note: unknown) => void
  private readonly length: number

  /** @internal */
  constructor(
    buffer: ArrayBufferLike,
    length: number,
    access: (access: Access) => number | Uint8Array,
    preparation: (isPreparing: boolean) => void,
    noting: (note: unknown) => void
  ) {
    super(buffer)
    this.length = length
    this.access = access
    this.preparation = preparation
    this.noting = noting
  }

  override get byteLength(): number {
    return this.length
  }

  /**
   * What is done in here has happened before any thread begins: mapping what
   * the thread works with. It comes before everything else in a program.
   */
  prepare<A>(f: () => A): A {
    this.preparation(true)
    const result = f()
    this.preparation(false)
    return result
  }

  /** Says where the thread is, for the check of an end that it does not live to see. */
  note(note: unknown): void {
    this.noting(note)
  }

  /** Goes on when the word holds something else. Waiting for ever is a deadlock. */
  waitWhile(word: number, value: number): void {
    this.word("wait", word, value, true, false)
  }

  /** Goes on when the word holds something else. Waiting for ever is a good end. */
  restWhile(word: number, value: number): void {
    this.word("wait", word, value, true, false, true, true)
  }

  private word(
    operation: Operation,
    word: number,
    value: number,
    reads: boolean,
    writes: boolean,
    isAtomic: boolean = true,
    isRest: boolean = false
  ): number {
    if (!(Number.isInteger(word) && word >= 0 && word * 4 + 4 <= this.length)) {
      throw new RangeError(`word ${word} is outside of the memory`)
    }
    const start = word * 4
    const access = { operation, start, end: start + 4, value, source: undefined, reads, writes, isAtomic, isRest }
    return this.access(access) as number
  }

  private range(operation: Operation, start: number, end: number, source: Uint8Array | undefined): Uint8Array {
    if (!(start >= 0 && start <= end && end <= this.length)) {
      throw new RangeError(`bytes ${start} to ${end} are outside of the memory`)
    }
    const reads = operation === "copyOut"
    return this.access({
      operation,
      start,
      end,
      value: 0,
      source,
      reads,
      writes: !reads,
      isAtomic: false,
      isRest: false
    }) as Uint8Array
  }

  override load(word: number): number {
    return this.word("load", word, 0, true, false)
  }

  override store(word: number, value: number): void {
    this.word("store", word, value, false, true)
  }

  override peek(word: number): number {
    return this.word("peek", word, 0, true, false, false)
  }

  override init(word: number, value: number): void {
    this.word("init", word, value, false, true, false)
  }

  override add(word: number, value: number): number {
    return this.word("add", word, value, true, true)
  }

  override or(word: number, bits: number): number {
    return this.word("or", word, bits, true, true)
  }

  override and(word: number, bits: number): number {
    return this.word("and", word, bits, true, true)
  }

  override exchange(word: number, value: number): number {
    return this.word("exchange", word, value, true, true)
  }

  override copyIn(targetStart: number, source: Uint8Array, sourceStart: number, sourceEnd: number): void {
    const length = sourceEnd - sourceStart
    this.range("copyIn", targetStart, targetStart + length, source.slice(sourceStart, sourceEnd))
  }

  override copyOut(target: Uint8Array, targetStart: number, sourceStart: number, sourceEnd: number): void {
    target.set(this.range("copyOut", sourceStart, sourceEnd, undefined), targetStart)
  }

  override zero(start: number, end: number): void {
    this.range("zero", start, end, undefined)
  }

  /** Cannot be explored: what is done with a view is seen by nobody. Always throws. */
  override view(start: number, end: number): Uint8Array {
    throw new Error(`a view of bytes ${start} to ${end} cannot be explored: copy them`)
  }
}

// -----------------------------------------------------------------------------
// exploring
// -----------------------------------------------------------------------------

interface Thread {
  readonly name: string
  readonly program: Program<unknown>
  /** What comes before its first access. */
  readonly begin: Access | undefined
  /** What it has done: its preparation, then its events. */
  readonly log: Array<{ readonly access: Access; readonly result: number | Uint8Array }>
  readonly events: Array<Event>
  prepared: number
  /** What it does next. */
  pending: Access | undefined
  isDone: boolean
  result: unknown
  note: unknown
  /** It has been taken back since it ran: what it noted is of another execution. */
  isStale: boolean
}

/** Nobody goes on, or it has not been decided who does. */
const NOBODY = -1
const UNDECIDED = -2

const HOST = "after the death"

/** A schedule that cannot be replayed. */
class Misfit extends Error {}

/** What ends an exploration. */
class Failure {
  readonly message: string
  readonly cause: unknown
  constructor(message: string, cause: unknown) {
    this.message = message
    this.cause = cause
  }
}

interface Counts {
  executions: number
  redundant: number
  states: number
  longest: number
  deaths: number
}

interface Death {
  readonly name: string
  /** Accesses that come before it. */
  readonly after: number
}

const bitsOf = function* (mask: number): Generator<number> {
  for (let left = mask; left !== 0; left &= left - 1) yield 31 - Math.clz32(left & -left)
}

const lowest = (mask: number): number => 31 - Math.clz32(mask & -mask)

class Exploration {
  private readonly options: Options<Record<string, Program<unknown>>>
  private readonly counts: Counts
  private readonly death: Death | undefined
  private readonly script: ReadonlyArray<string> | undefined
  private readonly isReduced: boolean
  private readonly buffer: ArrayBuffer
  private readonly memory: SharedWords
  private readonly words: Int32Array
  private readonly bytes: Uint8Array
  private readonly threads: ReadonlyArray<Thread>
  private readonly trace: Array<Event> = []
  private readonly choices: Array<Choice> = []
  private next = UNDECIDED
  private isStarting = true
  /** Whether the execution came to an end before which nobody was asleep. */
  private isAtRest = false
  /** Whether anybody has died. */
  hasDied = false

  constructor(
    options: Options<Record<string, Program<unknown>>>,
    counts: Counts,
    death: Death | undefined,
    script?: ReadonlyArray<string>
  ) {
    this.options = options
    this.counts = counts
    this.death = death
    this.script = script
    this.isReduced = options.reduction !== "none"
    // One more word: whether somebody is dead.
    const deathWord = Math.ceil(options.memory / 4)
    this.buffer = new ArrayBuffer(deathWord * 4 + 4)
    this.memory = new SharedWords(this.buffer)
    this.words = new Int32Array(this.buffer)
    this.bytes = new Uint8Array(this.buffer)
    options.setup?.(this.memory)
    const programs = Object.entries(options.threads)
    const { afterDeath } = options
    if (death !== undefined && afterDeath !== undefined) {
      programs.push([HOST, (words) => afterDeath(words, death.name)])
    }
    if (programs.length > 30) throw new RangeError(`at most 30 threads can be explored, got ${programs.length}`)
    const alive = Object.keys(options.threads).length
    this.threads = programs.map(([name, program], i) => ({
      name,
      program,
      begin:
        i >= alive
          ? { ...dying(deathWord), operation: "wait", value: 0, reads: true, writes: false, isRest: true }
          : undefined,
      log: [],
      events: [],
      prepared: 0,
      pending: undefined,
      isDone: false,
      result: undefined,
      note: undefined,
      isStale: false
    }))
  }

  /** Explores until there is nothing left or something fails. */
  run(maxExecutions: number): Counterexample | undefined {
    try {
      for (let thread = 0; thread < this.threads.length; thread++) this.resume(thread)
      this.isStarting = false
      this.next = this.choose()
      while (true) {
        while (this.next !== NOBODY) this.resume(this.next)
        this.finish()
        if (this.script !== undefined || isOver(this.counts, maxExecutions)) return undefined
        if (!this.backtrack()) return undefined
      }
    } catch (error) {
      if (error instanceof Failure) return this.counterexample(error)
      throw error
    }
  }

  // ---- one thread -------------------------------------------------------------

  /** How much of its log the running thread has been answered from. */
  private at = 0
  private isPreparing = false
  private isUnwinding = false

  /** Runs a thread from its beginning, until it is somebody else's turn. */
  private resume(number: number): void {
    const thread = this.threads[number]
    const words = new SteppedWords(
      this.buffer,
      this.options.memory,
      (access) => this.access(number, access),
      (isPreparing) => {
        if (isPreparing && this.at > thread.prepared) throw new Error("`prepare` comes before everything else")
        this.isPreparing = isPreparing
      },
      (note) => {
        thread.note = note
      }
    )
    this.at = 0
    this.isPreparing = false
    this.isUnwinding = false
    thread.isStale = false
    thread.note = undefined
    try {
      thread.result = thread.program(words)
    } catch (error) {
      if (error instanceof Failure || error instanceof Misfit) throw error
      if (this.isUnwinding) return
      throw new Failure(`${thread.name} failed: ${error instanceof Error ? error.message : String(error)}`, error)
    }
    // A program that catches what unwinds it seems to return.
    if (this.isUnwinding) return
    thread.pending = undefined
    thread.isDone = true
    if (!this.isStarting && this.next === UNDECIDED) this.next = this.choose()
  }

  private unwind(): never {
    this.isUnwinding = true
    throw unwound
  }

  private access(number: number, access: Access): number | Uint8Array {
    const { begin, prepared } = this.threads[number]
    if (begin !== undefined && !this.isPreparing && this.at === prepared) this.step(number, begin)
    return this.step(number, access)
  }

  private step(number: number, access: Access): number | Uint8Array {
    const thread = this.threads[number]
    if (this.isUnwinding) throw unwound
    if (this.at < thread.log.length) {
      const done = thread.log[this.at++]
      if (!isSame(done.access, access)) {
        const was = this.describe(done.access)
        const is = this.describe(access)
        throw new Failure(`${thread.name} is not deterministic: ${is} where it was ${was} before`, undefined)
      }
      return done.result
    }
    if (this.isPreparing) {
      const { result } = this.apply(access)
      thread.log.push({ access, result })
      thread.prepared++
      this.at++
      return result
    }
    const { death } = this
    const isDying = death?.name === thread.name && thread.events.length >= death.after
    thread.pending = isDying ? dying(this.words.length - 1) : access
    if (this.isStarting) return this.unwind()
    if (this.next === UNDECIDED) this.next = this.choose()
    if (this.next !== number) return this.unwind()
    this.next = UNDECIDED
    const event = this.perform(number, thread.pending)
    if (isDying) {
      thread.pending = undefined
      this.hasDied = true
      this.next = this.choose()
      return this.unwind()
    }
    this.at++
    return event.result
  }

  private isEnabled({ operation, start, value }: Access): boolean {
    return operation !== "wait" || this.words[start >> 2] !== value
  }

  // ---- one access -------------------------------------------------------------

  private apply(access: Access): { readonly result: number | Uint8Array; readonly before: number | Uint8Array } {
    const { end, operation, source, start, value } = access
    if (isBytes(access)) {
      const before = this.bytes.slice(start, end)
      if (source !== undefined) this.bytes.set(source, start)
      else if (operation === "zero") this.bytes.fill(0, start, end)
      return { result: source ?? before, before }
    }
    const word = start >> 2
    const before = this.words[word]
    switch (operation) {
      case "store":
      case "init":
      case "exchange":
      case "die":
        this.words[word] = value
        break
      case "add":
        this.words[word] = before + value
        break
      case "or":
        this.words[word] = before | value
        break
      case "and":
        this.words[word] = before & value
        break
      default:
    }
    return { result: before, before }
  }

  private revert({ access, before }: Event): void {
    if (!access.writes) return
    if (typeof before === "number") this.words[access.start >> 2] = before
    else this.bytes.set(before, access.start)
  }

  private perform(number: number, access: Access): Event {
    const thread = this.threads[number]
    const last = thread.events.at(-1)
    const clock = last === undefined ? new Int32Array(this.threads.length) : last.clock.slice()
    const synced = last === undefined ? new Int32Array(this.threads.length) : last.synced.slice()
    const index = thread.events.length + 1
    const rival = this.relate(number, access, clock, synced)
    clock[number] = index
    synced[number] = index
    const { before, result } = this.apply(access)
    const event: Event = {
      thread: thread.name,
      operation: access.operation,
      where: "",
      value: access.value,
      result,
      access,
      number,
      index,
      clock,
      synced,
      before
    }
    this.trace.push(event)
    thread.events.push(event)
    thread.log.push(event)
    this.counts.states++
    if (rival !== undefined) {
      const what = `${thread.name} (${this.describe(access)}) and ${rival.thread} (${this.describe(rival.access)})`
      throw new Failure(`data race: nothing orders ${what}`, undefined)
    }
    const most = this.options.maxOperations ?? 10_000
    if (this.trace.length > most) throw new Failure(`no end after ${most} accesses`, undefined)
    return event
  }

  /**
   * Finds what an access comes after, and the choices at which it could have come before: those are taken later. Returns
   * an event that it races with, by the memory model.
   */
  private relate(number: number, access: Access, clock: Int32Array, synced: Int32Array): Event | undefined {
    const acquires = access.reads && access.isAtomic
    let hasAcquired = false
    let rival: Event | undefined
    if (access.operation === "wait") this.relateWait(number, access, clock)
    for (let i = this.trace.length - 1; i >= 0; i--) {
      const event = this.trace[i]
      if (!conflict(event.access, access)) continue
      if (acquires && !hasAcquired && event.access.writes) {
        hasAcquired = true
        if (event.access.isAtomic) join(synced, event.synced)
      }
      if (event.number === number) continue
      if (event.index > synced[event.number] && isBytes(event.access) && isBytes(access)) rival = event
      if (event.index <= clock[event.number]) continue
      if (access.operation !== "wait") this.race(i, number, clock)
      join(clock, event.clock)
    }
    return rival
  }

  /**
   * A thread that waits could have gone on before the last write that found it able to. Writes behind that one made it
   * wait, or let it go on, and cannot change places with it.
   */
  private relateWait(number: number, access: Access, clock: Int32Array): void {
    for (let i = this.trace.length - 1; i >= 0; i--) {
      const event = this.trace[i]
      if (!conflict(event.access, access)) continue
      if (event.index <= clock[event.number]) return
      if (event.before !== access.value) return this.race(i, number, clock)
    }
  }

  /** What a thread waits for in the end may have been there before. */
  private relateWaits(): void {
    for (let i = 0; i < this.threads.length; i++) {
      const { events, pending } = this.threads[i]
      if (pending === undefined) continue
      this.relateWait(i, pending, events.at(-1)?.clock ?? new Int32Array(this.threads.length))
    }
  }

  /**
   * The thread could have come to its access before event `i`: makes the choice there go the other way, by somebody with
   * whom an execution can begin in which it does.
   */
  private race(i: number, number: number, clock: Int32Array): void {
    if (!this.isReduced) return
    const event = this.trace[i]
    const rest: Array<Event> = []
    const comesAfterRest = (what: Int32Array): boolean => rest.some((before) => what[before.number] >= before.index)
    let seen = 0
    let initials = 0
    for (let j = i + 1; j < this.trace.length; j++) {
      const later = this.trace[j]
      if (later.clock[event.number] >= event.index) continue
      const bit = 1 << later.number
      if ((seen & bit) === 0 && !comesAfterRest(later.clock)) initials |= bit
      seen |= bit
      rest.push(later)
    }
    const own = 1 << number
    if ((seen & own) === 0 && !comesAfterRest(clock)) initials |= own
    const choice = this.choices[i]
    if ((initials & (choice.wanted | choice.asleep)) !== 0) return
    choice.wanted |= (initials & own) !== 0 ? own : 1 << lowest(initials)
  }

  // ---- one execution ----------------------------------------------------------

  private choose(): number {
    let enabled = 0
    for (let i = 0; i < this.threads.length; i++) {
      const { pending } = this.threads[i]
      if (pending !== undefined && this.isEnabled(pending)) enabled |= 1 << i
    }
    this.isAtRest = enabled === 0
    if (this.isAtRest) return NOBODY
    const at = this.trace.length
    if (this.script !== undefined) return this.scripted(enabled, this.script[at])
    const last = this.trace.at(-1)
    let asleep = 0
    if (this.isReduced && last !== undefined) {
      for (const sleeper of bitsOf(this.choices[at - 1].asleep)) {
        const { pending } = this.threads[sleeper]
        if (sleeper !== last.number && pending !== undefined && !conflict(pending, last.access)) asleep |= 1 << sleeper
      }
    }
    const awake = enabled & ~asleep
    if (awake === 0) return NOBODY
    // Whoever is at it goes on: it need not be replayed.
    const thread = last !== undefined && (awake & (1 << last.number)) !== 0 ? last.number : lowest(awake)
    this.choices[at] = { wanted: this.isReduced ? 1 << thread : enabled, asleep }
    return thread
  }

  private scripted(enabled: number, name: string | undefined): number {
    const thread = name === undefined ? lowest(enabled) : this.threads.findIndex((candidate) => candidate.name === name)
    this.choices[this.trace.length] = { wanted: 1 << thread, asleep: 0 }
    if (thread >= 0 && (enabled & (1 << thread)) !== 0) return thread
    throw new Misfit(`the schedule does not fit: at step ${this.trace.length + 1} ${name} cannot go on`)
  }

  private finish(): void {
    this.counts.longest = Math.max(this.counts.longest, this.trace.length)
    const hasDied = this.words[this.words.length - 1] !== 0
    // Without the death it is one that has been seen before there were any.
    if (!this.isAtRest || (this.death !== undefined && !hasDied)) {
      this.counts.redundant++
      if (this.isAtRest) this.relateWaits()
      return
    }
    this.counts.executions++
    this.relateWaits()
    const blocked: Array<string> = []
    for (const { name, pending } of this.threads) {
      if (pending !== undefined && !pending.isRest) blocked.push(`${name} waits for ever (${this.describe(pending)})`)
    }
    if (blocked.length > 0) throw new Failure(blocked.join(", "), undefined)
    const { check } = this.options
    if (check === undefined) return
    const results: Record<string, unknown> = {}
    const notes: Record<string, unknown> = {}
    for (let i = 0; i < this.threads.length; i++) {
      const thread = this.threads[i]
      if (thread.isStale) this.remember(i)
      results[thread.name] = thread.isDone ? thread.result : undefined
      notes[thread.name] = thread.note
    }
    const before = this.bytes.slice()
    const dead = this.death?.name
    try {
      check({ memory: this.memory, results, notes, dead } as End<Record<string, Program<unknown>>>)
    } catch (error) {
      throw new Failure(error instanceof Error ? error.message : String(error), error)
    } finally {
      this.bytes.set(before)
    }
  }

  /** Runs a thread to where it stands, for what it has noted. */
  private remember(number: number): void {
    const { pending } = this.threads[number]
    this.next = NOBODY
    this.resume(number)
    this.threads[number].pending = pending
  }

  /** Goes back to the last choice at which somebody else is to go on. */
  private backtrack(): boolean {
    while (this.trace.length > 0) {
      const event = this.trace.pop()!
      this.revert(event)
      const thread = this.threads[event.number]
      thread.events.pop()
      thread.log.pop()
      thread.pending = event.access
      thread.isDone = false
      thread.isStale = true
      const choice = this.choices[this.trace.length]
      choice.asleep |= 1 << event.number
      const left = choice.wanted & ~choice.asleep
      if (left !== 0) {
        this.next = lowest(left)
        return true
      }
    }
    return false
  }

  // ---- what is said about it ----------------------------------------------------

  private describe(access: Access): string {
    const value = givenTo(access)
    return `${access.operation} ${this.where(access)}${value === undefined ? "" : ` ${value}`}`
  }

  private where(access: Access): string {
    if (isBytes(access)) return `bytes ${access.start} to ${access.end}`
    const word = access.start >> 2
    if (word === this.words.length - 1) return "death"
    return this.options.nameWord?.(word) ?? `word ${word}`
  }

  private counterexample({ cause, message }: Failure): Counterexample {
    const runs: Array<{ readonly name: string; count: number }> = []
    for (const { thread } of this.trace) {
      const last = runs.at(-1)
      if (last?.name === thread) last.count++
      else runs.push({ name: thread, count: 1 })
    }
    const death = this.death === undefined ? "" : `${this.death.name} dies after ${this.death.after}: `
    return {
      message,
      cause,
      schedule: death + runs.map(({ count, name }) => `${name} ${count}`).join(", "),
      steps: this.trace.map(({ access, result, thread }) => ({
        thread,
        operation: access.operation,
        where: this.where(access),
        value: givenTo(access),
        result
      }))
    }
  }
}

const dying = (word: number): Access => ({
  operation: "die",
  start: word * 4,
  end: word * 4 + 4,
  value: 1,
  source: undefined,
  reads: false,
  writes: true,
  isAtomic: true,
  isRest: false
})

const givenTo = (access: Access): number | undefined =>
  access.operation === "load" || access.operation === "peek" || access.operation === "die" || isBytes(access)
    ? undefined
    : access.value

const join = (into: Int32Array, from: Int32Array): void => {
  for (let i = 0; i < into.length; i++) if (from[i] > into[i]) into[i] = from[i]
}

const isOver = ({ executions, redundant }: Counts, most: number): boolean => executions + redundant >= most

const none = (): Counts => ({ executions: 0, redundant: 0, states: 0, longest: 0, deaths: 0 })

/**
 * Runs the threads in every order in which their accesses can happen, and with
 * every death, until nothing is left, something goes wrong, or there have been
 * too many executions.
 *
 * What goes wrong is: a thread throws; `check` throws; a thread waits for ever,
 * which is what a lost wake-up or a deadlock comes to; an execution has no end;
 * bytes are touched by two threads that nothing orders.
 *
 * **Example** (A lost update)
 *
 * ```ts
 * import { Interleavings } from "@cut-through/testing"
 *
 * const increment = (words: Interleavings.SteppedWords) => words.store(0, words.load(0) + 1)
 * const report = Interleavings.explore({
 *   memory: 4,
 *   threads: { one: increment, two: increment },
 *   check({ memory }) {
 *     if (memory.load(0) !== 2) throw new Error(`counted ${memory.load(0)} of 2`)
 *   }
 * })
 * report.counterexample?.message // => "counted 1 of 2"
 * report.counterexample?.schedule // => "one 1, two 2, one 1"
 * ```
 *
 * @category exploring
 * @since 0.1.0
 */
export const explore = <const Threads extends Record<string, Program<unknown>>>(options: Options<Threads>): Report => {
  // `Options` is only looked at by name from here on.
  const all = options as unknown as Options<Record<string, Program<unknown>>>
  const most = options.maxExecutions ?? 1_000_000
  const counts = none()
  let counterexample = new Exploration(all, counts, undefined).run(most)
  for (const name of options.deaths ?? []) {
    let hasDied = true
    for (let after = 0; hasDied && counterexample === undefined && !isOver(counts, most); after++) {
      const exploration = new Exploration(all, counts, { name, after })
      counterexample = exploration.run(most)
      hasDied = exploration.hasDied
      if (hasDied) counts.deaths++
    }
  }
  return { ...counts, isComplete: counterexample === undefined && !isOver(counts, most), counterexample }
}

/**
 * Runs one schedule, as a counterexample names it, and then goes on with
 * whoever can until nobody can. Throws when a thread cannot go on that should.
 *
 * **Example** (Seeing a failure again)
 *
 * ```ts
 * import { Interleavings } from "@cut-through/testing"
 *
 * const increment = (words: Interleavings.SteppedWords) => words.store(0, words.load(0) + 1)
 * const counter = {
 *   memory: 4,
 *   threads: { one: increment, two: increment },
 *   check({ memory }: Interleavings.End<{ one: typeof increment; two: typeof increment }>) {
 *     if (memory.load(0) !== 2) throw new Error(`counted ${memory.load(0)} of 2`)
 *   }
 * }
 * Interleavings.replay(counter, "one 1, two 2, one 1").counterexample?.message // => "counted 1 of 2"
 * Interleavings.replay(counter, "one 2, two 2").counterexample // => undefined
 * ```
 *
 * @category exploring
 * @since 0.1.0
 */
export const replay = <const Threads extends Record<string, Program<unknown>>>(
  options: Options<Threads>,
  schedule: string
): Report => {
  const match = /^(?:(.+) dies after (\d+): )?(.*)$/.exec(schedule)
  const [, name, after, runs] = match ?? []
  const script = (runs ?? "")
    .split(", ")
    .filter((run) => run !== "")
    .flatMap((run) => {
      const space = run.lastIndexOf(" ")
      return new Array<string>(Number(run.slice(space + 1))).fill(run.slice(0, space))
    })
  const counts = none()
  const death = name === undefined ? undefined : { name, after: Number(after) }
  const all = options as unknown as Options<Record<string, Program<unknown>>>
  const counterexample = new Exploration(all, counts, death, script).run(1)
  return { ...counts, deaths: death === undefined ? 0 : 1, isComplete: false, counterexample }
}

/**
 * Explores, and throws an {@link InterleavingError} unless everything was
 * explored and went well. Returns how much that was.
 *
 * **Example** (Nothing is lost)
 *
 * ```ts
 * import { Interleavings } from "@cut-through/testing"
 *
 * const increment = (words: Interleavings.SteppedWords) => words.add(0, 1)
 * const report = Interleavings.verify({
 *   memory: 4,
 *   threads: { one: increment, two: increment },
 *   check({ memory, results }) {
 *     if (memory.load(0) !== 2 || results.one === results.two) throw new Error("lost one")
 *   }
 * })
 * report.executions // => 2
 * ```
 *
 * @category exploring
 * @since 0.1.0
 */
export const verify = <const Threads extends Record<string, Program<unknown>>>(options: Options<Threads>): Report => {
  const report = explore(options)
  if (!report.isComplete) throw new InterleavingError({ report })
  return report
}

/**
 * What was explored, in one line; and behind it what went wrong, step by step.
 *
 * **Example** (A report)
 *
 * ```ts
 * import { Interleavings } from "@cut-through/testing"
 *
 * const report = Interleavings.explore({
 *   memory: 8,
 *   threads: { one: (words) => words.store(0, 1), two: (words) => words.store(1, 1) }
 * })
 * Interleavings.format(report) // => "1 executions, 2 states, at most 2 accesses, all explored"
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (report: Report): string => {
  const number = (value: number): string => value.toLocaleString("en-US")
  const { counterexample } = report
  const parts = [`${number(report.executions)} executions`]
  if (report.redundant > 0) parts.push(`${number(report.redundant)} given up as redundant`)
  if (report.deaths > 0) parts.push(`${number(report.deaths)} deaths`)
  parts.push(`${number(report.states)} states`, `at most ${number(report.longest)} accesses`)
  if (counterexample === undefined) {
    parts.push(report.isComplete ? "all explored" : "given up before all was explored")
    return parts.join(", ")
  }
  const width = Math.max(0, ...counterexample.steps.map(({ thread }) => thread.length))
  const steps = counterexample.steps.map((step, i) => {
    const given = step.value === undefined ? "" : ` ${step.value}`
    const result = typeof step.result === "number" ? `${step.result}` : `[${step.result.join(" ")}]`
    return `${String(i + 1).padStart(5)}  ${step.thread.padEnd(width)}  ${step.operation.padEnd(8)} ${step.where}${given} -> ${result}`
  })
  return `${counterexample.message}\n${steps.join("\n")}\nschedule: ${counterexample.schedule}\nafter ${parts.join(", ")}`
}
