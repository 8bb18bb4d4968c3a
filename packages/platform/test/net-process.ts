/** A process that does one thing and then has nothing more to do: does it end? */
import { once } from "node:events"
import * as real from "node:net"

const [, , flavor, name] = process.argv
const net = (flavor === "node:net" ? real : await import("@cut-through/platform/CutThroughNet")) as typeof real
const HOST = "127.0.0.1"

const listen = async (onConnection: (socket: real.Socket) => void = (socket) => void socket.resume()) => {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    // Only the side under test is to hold the process.
    socket.unref()
    onConnection(socket)
  })
  await once(server.listen(0, HOST), "listening")
  return server
}

/** A client, of a server that does not hold the process. */
const connect = async (
  prepare: (socket: real.Socket) => unknown = () => {},
  onConnection?: (socket: real.Socket) => void
) => {
  const server = await listen(onConnection)
  const accepted = once(server, "connection")
  const socket = net.connect({ port: (server.address() as real.AddressInfo).port, host: HOST, allowHalfOpen: true })
  const connected = once(socket, "connect")
  prepare(socket)
  await Promise.all([connected, accepted])
  server.unref()
  return socket
}

const cases: { readonly [name: string]: () => unknown } = {
  nothing: () => {},
  "a server": () => listen(),
  "a server without a reference": async () => (await listen()).unref(),
  "a server without a reference from the start": () => net.createServer().unref().listen(0, HOST),
  "a server that has its reference again": async () => (await listen()).unref().unref().ref(),
  "a closed server": async () => (await listen()).close(),
  "a client": () => connect(),
  "a client without a reference": async () => (await connect()).unref(),
  "a client without a reference from the start": () => connect((socket) => socket.unref()),
  "a client that has its reference again": async () => (await connect()).unref().unref().ref(),
  "a destroyed client": async () => (await connect()).destroy(),
  "a client that has read the end": async () => {
    let ended: Promise<unknown>
    await connect(
      (socket) => (ended = once(socket.resume(), "end")),
      (peer) => peer.end()
    )
    await ended!
  },
  "a client with a timeout and without a reference": async () => (await connect()).unref().setTimeout(1_000_000)
}

process.on("message", (question) => {
  if (question === "ping") process.send!("alive")
  else process.exit(0)
})
// Waiting for a question holds nobody, but for what is under way.
const hold = setInterval(() => {}, 1_000_000)
await cases[name]()
clearInterval(hold)
process.channel!.unref()
process.send!("ready")
