/** What a process or a thread does, with `node:net`. */
import * as net from "node:net"
import { listenTo, start, tell } from "./life-alive.ts"

type Closable = net.Server | net.Socket

const listen = (): Promise<net.Server> =>
  new Promise((resolve) => {
    const server = net.createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1", () => resolve(server))
  })

const connect = (): Promise<net.Socket> =>
  new Promise((resolve) => {
    const socket = net.connect({ port: start.port, host: "127.0.0.1", allowHalfOpen: true }, () => resolve(socket))
    socket.on("error", () => {})
  })

const serve = async (): Promise<[net.Server, net.Socket]> => {
  const server = await listen()
  const socket = new Promise<net.Socket>((resolve) => server.once("connection", resolve))
  tell({ _tag: "Call", port: (server.address() as net.AddressInfo).port })
  const accepted = await socket
  return [server.unref(), accepted]
}

const closed = (closable: Closable): Promise<void> =>
  new Promise((resolve) => void closable.once("close", () => resolve()))

/** Does it, and returns what is left to close. */
const cases: { readonly [name: string]: () => Promise<Array<Closable>> } = {
  nothing: async () => [],
  "a listener": async () => [await listen()],
  "a listener without a reference": async () => [(await listen()).unref()],
  "a listener that has its reference again": async () => [(await listen()).unref().unref().ref()],
  "a closed listener": async () => {
    const server = await listen()
    await closed(server.close())
    return []
  },
  "waiting for a connection, without a reference": async () => {
    const server = await listen()
    server.on("connection", () => {})
    return [server.unref()]
  },
  "a client": async () => [await connect()],
  "a client without a reference": async () => [(await connect()).unref()],
  "a client that has its reference again": async () => [(await connect()).unref().ref()],
  "a closed client": async () => {
    const socket = await connect()
    await closed(socket.destroy())
    return []
  },
  "reading, without a reference": async () => {
    const socket = await connect()
    socket.on("data", () => {})
    return [socket.unref()]
  },
  "writing to a peer that does not read": async () => {
    const socket = await connect()
    while (socket.write(new Uint8Array(65_536)));
    return [socket]
  },
  "a client whose peer has ended its stream": async () => {
    const socket = await connect()
    const ended = new Promise((resolve) => socket.once("end", resolve))
    socket.on("data", () => {})
    socket.write("end")
    await ended
    return [socket]
  },
  "a server": async () => {
    const [server, socket] = await serve()
    return [server, socket]
  },
  "a server without a reference": async () => {
    const [server, socket] = await serve()
    return [server, socket.unref()]
  },
  "two clients, one without a reference": async () => [await connect(), (await connect()).unref()]
}

const left = await cases[start.name]()
listenTo(
  () => true,
  () => {
    for (const closable of left) {
      if (closable instanceof net.Socket) closable.destroy()
      else closable.close()
    }
  }
)
tell("ready")
