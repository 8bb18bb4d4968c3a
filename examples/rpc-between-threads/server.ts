/**
 * The thread that answers.
 */
import { CutThroughWorker } from "@cut-through/platform"
import { Effect, Layer, Stream } from "effect"
import { RpcServer } from "effect/rpc"
import { layerServerProtocol, Primes, TooSmall } from "./Primes.ts"

const smallestFactor = (n: number): number => {
  for (let factor = 2; factor * factor <= n; factor++) if (n % factor === 0) return factor
  return n
}

const handlers = Primes.toLayer({
  SmallestFactor: ({ of }) => (of < 2 ? new TooSmall({ n: of }) : Effect.succeed(smallestFactor(of))),
  From: ({ start }) =>
    Stream.iterate(Math.max(2, start), (n) => n + 1).pipe(Stream.filter((n) => smallestFactor(n) === n))
})

const server = RpcServer.layer(Primes).pipe(
  Layer.provide(handlers),
  Layer.provide(layerServerProtocol),
  Layer.provide(CutThroughWorker.layer({ name: "primes" }))
)

Effect.runFork(Layer.launch(server))
