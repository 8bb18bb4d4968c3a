/**
 * Measures ours and a peer alternately, A B A B and so on, so that whatever the machine does meanwhile happens to both.
 */
import { type Case, type Figure, isMoreBetter, type Leg, type Legs, median, type Result, type Sample } from "./model.ts"

export interface Plan {
  readonly pairs: number
  /** Of cases whose legs are dear, and which part of their operations is done. */
  readonly pairsOfDear: number
  readonly partOfDear: number
  readonly legMillis: number
  /** For each way. V8 compiles what is hot on the same cores for a second and more: what is compared comes behind that. */
  readonly warmUpMillis: number
  /** For the pairs beside one peer: there are fewer of them when they would take longer, but three at least. */
  readonly mostMillis: number
}

export const FULL: Plan = {
  pairs: 15,
  pairsOfDear: 9,
  partOfDear: 1,
  legMillis: 150,
  warmUpMillis: 2500,
  mostMillis: 600_000
}

/** A glance at each. */
export const QUICK: Plan = {
  pairs: 9,
  pairsOfDear: 1,
  partOfDear: 0.2,
  legMillis: 20,
  warmUpMillis: 100,
  mostMillis: 700
}

/** Less than that, where the time for glances is running out. */
export const BLINK: Plan = {
  pairs: 3,
  pairsOfDear: 1,
  partOfDear: 0.1,
  legMillis: 10,
  warmUpMillis: 20,
  mostMillis: 100
}

const LEAST_PAIRS = 3

/** Looks at every byte first, then warms up, and returns how many operations make a leg. */
const warmUp = async (of: Case, leg: Leg, { legMillis, warmUpMillis }: Plan): Promise<number> => {
  const clamp = (operations: number) => Math.max(of.least, Math.min(of.most, Math.round(operations)))
  /** As many as take so long, going by a sample; ten times more at most, because first samples say little. */
  const next = (operations: number, { wallMillis }: Sample) =>
    clamp(operations * Math.min(10, legMillis / Math.max(wallMillis, 0.01)))
  let operations = of.least
  let elapsed = 0
  while (elapsed < legMillis) {
    const sample = await leg(operations, true)
    elapsed += sample.wallMillis
    operations = next(operations, sample)
  }
  for (elapsed = 0; elapsed < warmUpMillis;) {
    const sample = await leg(operations, false)
    elapsed += sample.wallMillis
    operations = next(operations, sample)
  }
  return operations
}

const figureOf = (samples: ReadonlyArray<Sample>, row: number): Figure => {
  const values = samples.map((sample) => sample.values[row])
  const cpu = samples.flatMap(({ cpuMicros }) => (cpuMicros === undefined ? [] : [cpuMicros]))
  return {
    median: median(values),
    min: Math.min(...values),
    max: Math.max(...values),
    cpuMicros: cpu.length === 0 ? undefined : median(cpu)
  }
}

const resultsOf = (
  of: Case,
  peer: string,
  ours: ReadonlyArray<Sample>,
  theirs: ReadonlyArray<Sample>
): ReadonlyArray<Result> =>
  of.rows.map(({ name, unit }, row) => {
    const ratios = ours.map((sample, pair) => {
      const [us, them] = [sample.values[row], theirs[pair].values[row]]
      return isMoreBetter(unit) ? us / them : them / us
    })
    return {
      name,
      peer,
      unit,
      operation: of.operation,
      ratio: { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios), pairs: ratios.length },
      ours: figureOf(ours, row),
      theirs: figureOf(theirs, row)
    }
  })

/** Measures a case against these of its peers. Rejects when a way moves wrong bytes. */
export const measure = async (
  of: Case,
  legs: Legs,
  peers: ReadonlyArray<string>,
  plan: Plan,
  onProgress: (what: string) => void
): Promise<ReadonlyArray<Result>> => {
  const operations = new Map<string, number>()
  for (const way of ["ours", ...peers]) {
    onProgress(`warming up ${way}`)
    operations.set(way, of.isDear === true ? of.least * plan.partOfDear : await warmUp(of, legs[way], plan))
  }
  const run = (way: string) => legs[way](operations.get(way)!, false)
  const pairs = of.isDear === true ? plan.pairsOfDear : plan.pairs
  const results: Array<Result> = []
  for (const peer of peers) {
    const ours: Array<Sample> = []
    const theirs: Array<Sample> = []
    const start = performance.now()
    for (let pair = 1; pair <= pairs; pair++) {
      if (pair > LEAST_PAIRS && performance.now() - start > plan.mostMillis) break
      onProgress(`beside ${peer}, pair ${pair} of ${pairs}`)
      ours.push(await run("ours"))
      theirs.push(await run(peer))
    }
    results.push(...resultsOf(of, peer, ours, theirs))
  }
  return results
}
