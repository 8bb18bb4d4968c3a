/** Runs programs over shared words in every order in which their accesses can happen. */
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import { assert } from "@effect/vitest"

/** Synchronous, and deterministic given what it reads. Returns what it has found out. */
export type Program<A> = (words: SteppedWords) => A

/** What a program does with a word: what it held is the result. `isEnabled` keeps it waiting. */
interface Access {
  readonly word: number
  readonly apply: (value: number) => number
  readonly isEnabled: (value: number) => boolean
}

const always = () => true

/**
 * The words as one program sees them. To take one step it runs from its beginning: what it has done before is answered
 * from its log, then comes the step, and from there on nothing is real any more until it returns.
 */
export class SteppedWords extends SharedWords {
  /** The program has come to where it stands, and is to return. */
  isOver = false
  /** What it would do next. */
  next: Access | undefined = undefined
  private readonly memory: Int32Array
  private readonly log: Array<number>
  private at = 0
  private mayStep: boolean

  constructor(memory: Int32Array, log: Array<number>, mayStep: boolean) {
    super(memory.buffer)
    this.memory = memory
    this.log = log
    this.mayStep = mayStep
  }

  private access(word: number, apply: Access["apply"], isEnabled: Access["isEnabled"] = always): number {
    if (this.isOver) return 0
    if (this.at < this.log.length) return this.log[this.at++]
    if (!this.mayStep) {
      this.isOver = true
      this.next = { word, apply, isEnabled }
      return 0
    }
    this.mayStep = false
    this.at++
    const value = this.memory[word]
    this.memory[word] = apply(value)
    this.log.push(value)
    return value
  }

  override load(word: number): number {
    return this.access(word, (value) => value)
  }

  override peek(word: number): number {
    return this.access(word, (value) => value)
  }

  override store(word: number, value: number): void {
    this.access(word, () => value)
  }

  override or(word: number, bits: number): number {
    return this.access(word, (value) => value | bits)
  }

  override exchange(word: number, value: number): number {
    return this.access(word, () => value)
  }

  /** Waits as `waitAsync` does: while the word holds this value. */
  waitWhile(word: number, value: number): void {
    this.access(
      word,
      (held) => held,
      (held) => held !== value
    )
  }
}

/** Where a program stands: what it has read, what it comes to next, and what it has found out. */
interface Standing<A> {
  readonly log: ReadonlyArray<number>
  readonly next: Access | undefined
  readonly result: A
}

/**
 * Explores everything that programs can do together from zeroed memory. `check` is called with the memory, and with what
 * each has found out, whenever none of them can go on. Returns how often that is.
 */
export const explore = <A>(
  words: number,
  programs: ReadonlyArray<Program<A>>,
  check: (memory: Int32Array, results: ReadonlyArray<A>) => void
): number => {
  const run = (
    program: Program<A>,
    memory: Int32Array,
    before: ReadonlyArray<number>,
    mayStep: boolean
  ): Standing<A> => {
    const log = [...before]
    const stepped = new SteppedWords(memory, log, mayStep)
    const result = program(stepped)
    return { log, next: stepped.next, result }
  }

  const start = new Int32Array(words)
  const pending = [{ memory: start, standings: programs.map((program) => run(program, start, [], false)) }]
  const seen = new Set<string>()
  let ends = 0
  for (let state = pending.pop(); state !== undefined; state = pending.pop()) {
    const { memory, standings } = state
    const key = `${memory.join()}|${standings.map(({ log }) => log.join()).join("|")}`
    if (seen.has(key)) continue
    seen.add(key)
    if (seen.size > 1_000_000) assert.fail("the programs never come to rest")
    let isAtRest = true
    for (const [i, { log, next }] of standings.entries()) {
      if (next === undefined || !next.isEnabled(memory[next.word])) continue
      isAtRest = false
      const after = memory.slice()
      pending.push({ memory: after, standings: standings.with(i, run(programs[i], after, log, true)) })
    }
    if (!isAtRest) continue
    ends++
    check(
      memory,
      standings.map(({ result }) => result)
    )
  }
  return ends
}
