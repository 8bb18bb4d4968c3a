/**
 * What `scripts/instructions.ts` counts: each hot path so many times, after V8 has compiled what it is going to. A call that
 * nobody else makes (`os.getPriority`) marks where one count ends and the next begins.
 */
import { getPriority } from "node:os"
import { type Operation, operations } from "./operations.ts"

/** Until V8 has nothing more to compile: what one operation makes it think again about is another's, too. */
const WARM_UPS = 5
/** Of each warm-up and of each count. */
const TURNS = 32

const all = operations()
/** Copies of many bytes take long to count, and are all alike. */
const timesOf = (name: string) => (/^(en|de)queue-.*KiB/.test(name) ? 4 : 256)

const turn = ({ name, run }: Operation): void => {
  for (let i = 0; i < TURNS; i++) run(timesOf(name))
}

for (let i = 0; i < WARM_UPS; i++) all.forEach(turn)
for (const operation of all) {
  turn(operation)
  getPriority()
  turn(operation)
  getPriority()
  console.log(`${operation.name} ${TURNS * timesOf(operation.name)}`)
}
