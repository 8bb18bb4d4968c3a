/**
 * A program that was written for `node:net`, with `node:net` and then with cut-through.
 */
import { CutThroughNet } from "@cut-through/platform"
import { once } from "node:events"
import * as net from "node:net"
import { connect, createStore, type Net } from "./store.ts"

const CLIENTS = 8
const COUNTS = 1000
const LONG = 1024 * 1024

/** Talks to a store and returns what it says. */
const conversation = async (net: Net): Promise<Array<string>> => {
  const store = createStore(net).listen(0, "127.0.0.1")
  await once(store, "listening")
  const { port } = store.address() as net.AddressInfo

  const client = await connect(net, port)
  const said: Array<string> = []
  for (const line of ["SET greeting hello, world", "GET greeting", "GET nonsense", "FORGET greeting"]) {
    said.push(`${line} => ${await client.ask(line)}`)
  }

  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connect(net, port)))
  const counting = clients.map(async ({ ask }) => {
    for (let i = 0; i < COUNTS; i++) await ask("COUNT calls")
  })
  await Promise.all(counting)
  said.push(`GET calls => ${await client.ask("GET calls")}`)

  await client.ask(`SET long ${"x".repeat(LONG)}`)
  said.push(`GET long => ${(await client.ask("GET long")).length} letters`)

  await Promise.all([client, ...clients].map(({ close }) => close()))
  await once(store.close(), "close")
  return said
}

// This is all that has to be changed.
const nets = { "node:net": net, CutThroughNet: CutThroughNet as unknown as Net }

const results = Object.entries(nets).map(([name, net]) => ({ name, net, millis: Infinity, said: new Array<string>() }))

// In turn, because the first time everything is loaded and compiled; what counts is the fastest.
for (let round = 0; round < 3; round++) {
  for (const result of results) {
    const start = performance.now()
    result.said = await conversation(result.net)
    result.millis = Math.min(result.millis, performance.now() - start)
  }
}

for (const { millis, name, said } of results) {
  console.log(`${name}: ${millis.toFixed(0)} ms`)
  for (const line of said) console.log(`  ${line}`)
}
