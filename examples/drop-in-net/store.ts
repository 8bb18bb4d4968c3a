/**
 * A store of texts that speaks lines, and a client of it: written for `node:net`, and for nothing else.
 */
import { once } from "node:events"
import type * as net from "node:net"

/** What the program uses of `node:net`. */
export type Net = Pick<typeof net, "createServer" | "connect">

/** `SET key value`, `GET key` and `COUNT key`, one in a line; each is answered with a line. */
export const createStore = ({ createServer }: Net): net.Server => {
  const texts = new Map<string, string>()
  const answer = (line: string): string => {
    const [command, key, ...rest] = line.split(" ")
    switch (command) {
      case "SET":
        texts.set(key, rest.join(" "))
        return "OK"
      case "GET":
        return texts.get(key) ?? "(nothing)"
      case "COUNT":
        texts.set(key, String(Number(texts.get(key) ?? 0) + 1))
        return texts.get(key)!
      default:
        return `ERROR unknown command ${command}`
    }
  }
  return createServer((socket) => {
    socket.setNoDelay(true)
    onLines(socket, (line) => socket.write(`${answer(line)}\n`))
    socket.on("error", (error) => console.error(`a client has gone: ${error.message}`))
  })
}

export interface Client {
  readonly ask: (line: string) => Promise<string>
  readonly close: () => Promise<unknown>
}

export const connect = async ({ connect }: Net, port: number): Promise<Client> => {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true })
  const waiting: Array<(line: string) => void> = []
  onLines(socket, (line) => waiting.shift()?.(line))
  await once(socket, "connect")
  return {
    ask: (line) =>
      new Promise((resolve, reject) => {
        if (socket.destroyed) return reject(new Error("the store has gone"))
        waiting.push(resolve)
        socket.write(`${line}\n`)
      }),
    close: () => once(socket.end(), "close")
  }
}

const onLines = (socket: net.Socket, use: (line: string) => void): void => {
  let rest = ""
  socket.setEncoding("utf8")
  socket.on("data", (text: string) => {
    const [first, ...others] = text.split("\n")
    rest += first
    for (const other of others) {
      use(rest)
      rest = other
    }
  })
}
