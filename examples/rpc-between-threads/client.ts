/**
 * The thread that calls.
 */
import { CutThroughWorker } from "@cut-through/platform"
import { Console, Effect, Layer, Stream } from "effect"
import { RpcClient } from "effect/rpc"
import { layerClientProtocol, Primes } from "./Primes.ts"

const program = Effect.gen(function* () {
  const primes = yield* RpcClient.make(Primes)

  const n = 1_000_036_000_099
  yield* Console.log(`the smallest factor of ${n} is ${yield* primes.SmallestFactor({ of: n })}`)

  // The server makes no more of them than are taken.
  const first = yield* Stream.runCollect(Stream.take(primes.From({ start: 1000 }), 10))
  yield* Console.log(`the first primes from 1000 on: ${first.join(" ")}`)

  // Calls at the same time share the connection.
  const numbers = [91, 221, 1_000_003, 10_403]
  const factors = yield* Effect.forEach(numbers, (of) => primes.SmallestFactor({ of }), { concurrency: "unbounded" })
  yield* Console.log(`the smallest factors of ${numbers.join(", ")}: ${factors.join(", ")}`)

  // Errors keep their type.
  const error = yield* Effect.flip(primes.SmallestFactor({ of: 1 }))
  yield* Console.log(`the smallest factor of 1: ${error._tag}`)
})

const layer = Layer.provide(layerClientProtocol, CutThroughWorker.layer({ name: "caller" }))

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer)))
