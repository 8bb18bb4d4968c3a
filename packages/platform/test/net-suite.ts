/**
 * What programs expect of `node:net`, as a function of a module that has its
 * face. It is put to the real one, too: an expectation that it does not meet is
 * none.
 */
import { assert, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { EventEmitter, once } from "node:events"
import type * as net from "node:net"
import { Readable, Writable } from "node:stream"
import { buffer, text } from "node:stream/consumers"
import { finished, pipeline } from "node:stream/promises"

/** The part of `node:net` that is under test. */
export type NetLike = Pick<
  typeof net,
  "createServer" | "connect" | "createConnection" | "isIP" | "isIPv4" | "isIPv6" | "BlockList"
> & {
  readonly Server: new (...args: Array<any>) => net.Server
  readonly Socket: new (...args: Array<any>) => net.Socket
}

/** Runs a test with a module, and checks that nothing is left. */
export type Run = (body: (net: NetLike) => Promise<void>) => Promise<void>

const HOST = "127.0.0.1"

const portOf = (server: net.Server): number => (server.address() as net.AddressInfo).port

const listening = async (server: net.Server, ...args: Array<any>): Promise<net.Server> => {
  server.listen(...(args.length === 0 ? [0, HOST] : args))
  await once(server, "listening")
  return server
}

const closed = (emitter: EventEmitter): Promise<unknown> => new Promise((resolve) => emitter.once("close", resolve))

const errorFrom = (emitter: EventEmitter): Promise<any> => new Promise((resolve) => emitter.once("error", resolve))

const thrownBy = (body: () => unknown): any => {
  try {
    body()
  } catch (error) {
    return error
  }
  assert.fail("it did not throw")
}

/** Both ends of a connection, and the server between them. */
interface Pair {
  readonly server: net.Server
  readonly client: net.Socket
  readonly peer: net.Socket
  /** Destroys what is left, and waits until all is closed. */
  readonly close: () => Promise<void>
}

const paired = async (
  net: NetLike,
  serverOptions: net.ServerOpts = {},
  clientOptions: Partial<net.NetConnectOpts> = {}
): Promise<Pair> => {
  const server = await listening(net.createServer(serverOptions))
  const accepted = once(server, "connection")
  const client = net.connect({ port: portOf(server), host: HOST, ...clientOptions } as net.NetConnectOpts)
  const [peer] = (await accepted) as [net.Socket]
  if (client.connecting) await once(client, "connect")
  return { server, client, peer, close: () => close(server, client, peer) }
}

const close = async (server: net.Server, ...sockets: Array<net.Socket>): Promise<void> => {
  const over = sockets.map((socket) => (socket.closed ? undefined : closed(socket)))
  for (const socket of sockets) socket.destroy()
  await Promise.all(over)
  if (!server.listening) return
  server.close()
  await once(server, "close")
}

const watched = [
  "lookup",
  "connectionAttempt",
  "connect",
  "ready",
  "data",
  "end",
  "finish",
  "timeout",
  "drain",
  "error",
  "close"
]

/** What a socket emits, in order. */
const logOf = (socket: net.Socket, ...events: Array<string>): Array<string> => {
  const log: Array<string> = []
  for (const event of events.length === 0 ? watched : events) {
    socket.on(event, (value) => log.push(event === "close" ? `close ${value}` : event))
  }
  return log
}

/** Deterministic bytes. */
const bytesOf = (length: number): Buffer => {
  const bytes = Buffer.allocUnsafe(length)
  let state = 0x2545f491
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    bytes[i] = state >>> 24
  }
  return bytes
}

const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

export const suite = (name: string, run: Run): void => {
  const test = (title: string, body: (net: NetLike) => Promise<void>) => it(`${title}`, () => run(body))

  describe(`${name}`, () => {
    describe("talking", () => {
      test("echoes", async (net) => {
        const { client, close, peer } = await paired(net)
        peer.pipe(peer)
        client.end("hello")
        assert.strictEqual(await text(client), "hello")
        await close()
      })

      test("takes what was written before it is connected", async (net) => {
        const server = await listening(net.createServer((socket) => socket.pipe(socket)))
        const client = net.connect(portOf(server), HOST)
        assert.isTrue(client.connecting)
        assert.isTrue(client.pending)
        assert.strictEqual(client.readyState, "opening")
        client.write("one ")
        client.write("two ")
        client.end("three")
        assert.strictEqual(client.bytesWritten, 13)
        assert.strictEqual(await text(client), "one two three")
        await close(server, client)
      })

      test("brings all bytes through, in pieces of odd sizes", async (net) => {
        const { client, close, peer } = await paired(net, {}, { allowHalfOpen: true })
        const sent = bytesOf(1 << 20)
        const sizes = [1, 13, 997, 4096, 65_537, 7, 100_003]
        const received = buffer(client)
        peer.pipe(peer)
        for (let at = 0, i = 0; at < sent.length; i++) {
          const end = Math.min(at + sizes[i % sizes.length], sent.length)
          if (!client.write(sent.subarray(at, end))) await once(client, "drain")
          at = end
        }
        client.end()
        assert.strictEqual(hashOf(await received), hashOf(sent))
        await close()
      })

      test("writes many chunks at once", async (net) => {
        const { client, close, peer } = await paired(net)
        const received = text(peer)
        client.cork()
        for (let i = 0; i < 100; i++) client.write(`${i},`)
        client.uncork()
        client.end()
        assert.strictEqual(await received, Array.from({ length: 100 }, (_, i) => `${i},`).join(""))
        await close()
      })

      test("decodes and encodes", async (net) => {
        const { client, close, peer } = await paired(net)
        peer.setEncoding("hex")
        const received = text(peer)
        client.write("ff00", "hex")
        client.end("äö", "latin1")
        assert.strictEqual(await received, "ff00e4f6")
        await close()
      })

      test("delivers in a turn of its own", async (net) => {
        const { client, close, peer } = await paired(net)
        let isWriting = false
        let wasWriting = false
        const received = new Promise<void>((resolve) => {
          peer.on("data", () => {
            wasWriting ||= isWriting
          })
          peer.on("end", () => {
            wasWriting ||= isWriting
            resolve()
          })
        })
        isWriting = true
        client.write("x")
        client.write("y")
        client.end()
        isWriting = false
        await received
        assert.isFalse(wasWriting)
        await close()
      })

      test("lets timers run while two sockets never stop", async (net) => {
        const { client, close, peer } = await paired(net)
        let isOver = false
        client.on("data", (data) => void (isOver || client.write(data)))
        peer.on("data", (data) => void (isOver || peer.write(data)))
        client.write("x")
        await new Promise((resolve) => setTimeout(resolve, 1))
        isOver = true
        await close()
      })

      test("counts bytes", async (net) => {
        const { client, close, peer } = await paired(net)
        peer.pipe(peer)
        client.write("123")
        client.end(Buffer.from("45678"))
        await text(client)
        assert.deepStrictEqual([client.bytesWritten, client.bytesRead, peer.bytesWritten, peer.bytesRead], [8, 8, 8, 8])
        await close()
        assert.deepStrictEqual([client.bytesWritten, client.bytesRead], [8, 8])
      })
    })

    describe("ends", () => {
      test("ends when the other side ends", async (net) => {
        const { client, peer, server } = await paired(net)
        const logs = [logOf(client), logOf(peer)]
        const over = Promise.all([closed(client), closed(peer)])
        peer.resume()
        client.resume()
        client.end()
        await over
        assert.deepStrictEqual(logs, [
          ["finish", "end", "close false"],
          ["end", "finish", "close false"]
        ])
        assert.strictEqual(client.readyState, "closed")
        await close(server)
      })

      test("notices the end although nobody reads", async (net) => {
        const { client, close, peer } = await paired(net, { allowHalfOpen: true })
        const over = closed(client)
        peer.end()
        client.resume()
        await over
        await close()
      })

      test("stays writable with allowHalfOpen, on the client's side", async (net) => {
        const { client, close, peer } = await paired(net, {}, { allowHalfOpen: true })
        const received = text(peer)
        client.resume()
        peer.end()
        await once(client, "end")
        assert.strictEqual(client.readyState, "writeOnly")
        client.end("late")
        assert.strictEqual(await received, "late")
        await close()
      })

      test("stays writable with allowHalfOpen, on the server's side", async (net) => {
        const { client, close, peer } = await paired(net, { allowHalfOpen: true })
        const received = text(client)
        peer.resume()
        client.end()
        await once(peer, "end")
        assert.strictEqual(peer.readyState, "writeOnly")
        peer.write("late ")
        await new Promise(setImmediate)
        peer.end("and later")
        assert.strictEqual(await received, "late and later")
        await close()
      })

      test("fails to write after its own end", async (net) => {
        const { client, close } = await paired(net, { allowHalfOpen: true })
        client.end()
        const failed = errorFrom(client)
        const told = new Promise<any>((resolve) => client.write("late", resolve))
        assert.strictEqual((await failed).code, "ERR_STREAM_WRITE_AFTER_END")
        assert.strictEqual((await told).code, "ERR_STREAM_WRITE_AFTER_END")
        await close()
      })

      test("fails to write after the other side's end", async (net) => {
        const { client, close, peer } = await paired(net)
        client.resume()
        const failed = errorFrom(client)
        const told = new Promise<any>((resolve) => {
          client.on("end", () => {
            // Just when the socket has ended itself, too.
            process.nextTick(() => process.nextTick(() => client.write("late", resolve)))
          })
        })
        peer.end()
        const { code, message } = await failed
        assert.deepStrictEqual([code, message], ["EPIPE", "This socket has been ended by the other party"])
        assert.strictEqual((await told).code, "EPIPE")
        await close()
      })

      test("fails to write on and on to a peer that has gone", async (net) => {
        const { client, close, peer } = await paired(net, {}, { allowHalfOpen: true })
        peer.destroy()
        const failed = errorFrom(client)
        const writing = setInterval(() => client.write("x"), 1)
        const error = await failed
        clearInterval(writing)
        assert.include(["EPIPE", "ECONNRESET"], error.code)
        assert.isTrue(error.errno < 0)
        assert.include(["write", "read"], error.syscall)
        await close()
      })

      test("is destroyed", async (net) => {
        const { client, peer, server } = await paired(net)
        const logs = [logOf(client), logOf(peer)]
        const over = Promise.all([closed(client), closed(peer)])
        peer.resume()
        client.destroy()
        assert.isTrue(client.destroyed)
        assert.strictEqual(client.readyState, "closed")
        await over
        assert.deepStrictEqual(logs, [["close false"], ["end", "finish", "close false"]])
        await close(server)
      })

      test("is destroyed with an error", async (net) => {
        const { client, peer, server } = await paired(net)
        peer.resume()
        const log = logOf(client)
        const over = Promise.all([closed(client), closed(peer)])
        client.destroy(new Error("mine"))
        await over
        assert.deepStrictEqual(log, ["error", "close true"])
        await close(server)
      })

      test("is destroyed when all is written", async (net) => {
        const { client, peer, server } = await paired(net)
        const sent = bytesOf(300_000)
        const over = closed(client)
        const received = buffer(peer)
        client.write(sent)
        client.destroySoon()
        assert.strictEqual(hashOf(await received), hashOf(sent))
        await over
        await close(server, peer)
      })

      test("is reset", async (net) => {
        const { client, peer, server } = await paired(net)
        const logs = [logOf(client), logOf(peer)]
        const over = Promise.all([closed(client), closed(peer)])
        const failed = errorFrom(peer)
        assert.strictEqual(client.resetAndDestroy(), client)
        const { code, errno, message, syscall } = await failed
        assert.deepStrictEqual([code, errno, message, syscall], ["ECONNRESET", -104, "read ECONNRESET", "read"])
        await over
        assert.deepStrictEqual(logs, [["close false"], ["error", "close true"]])
        await close(server)
      })

      test("is reset by a peer that has not read all", async (net) => {
        const { client, close, peer } = await paired(net, { pauseOnConnect: true }, { allowHalfOpen: true })
        const failed = errorFrom(client)
        await new Promise((resolve) => client.write("unread", resolve))
        peer.destroy()
        assert.strictEqual((await failed).code, "ECONNRESET")
        await close()
      })

      test("delivers what was written although not all was read", async (net) => {
        const { client, close, peer } = await paired(net, { pauseOnConnect: true }, { allowHalfOpen: true })
        client.on("error", () => {})
        let received = ""
        client.on("data", (data) => (received += data))
        const over = new Promise((resolve) => client.once("end", resolve).once("close", resolve))
        await new Promise((resolve) => client.write("unread", resolve))
        peer.write("answer")
        peer.destroy()
        await over
        assert.strictEqual(received, "answer")
        await close()
      })

      test("cannot be reset without a connection", async (net) => {
        const socket = new net.Socket()
        const log = logOf(socket)
        const failed = errorFrom(socket)
        const over = closed(socket)
        socket.resetAndDestroy()
        const { code, message } = await failed
        assert.deepStrictEqual([code, message], ["ERR_SOCKET_CLOSED", "Socket is closed"])
        await over
        assert.deepStrictEqual(log, ["error", "close undefined"])
      })

      test("cannot write without a connection", async (net) => {
        const socket = new net.Socket()
        assert.deepStrictEqual(
          [socket.readyState, socket.pending, socket.connecting, socket.bytesWritten, socket.address()],
          ["open", true, false, 0, {}]
        )
        const failed = errorFrom(socket)
        const over = closed(socket)
        socket.write("x")
        assert.strictEqual((await failed).code, "ERR_SOCKET_CLOSED")
        await over
      })

      test("tells whoever has written before it was destroyed", async (net) => {
        const server = await listening(net.createServer())
        const socket = net.connect(portOf(server), HOST)
        const told = new Promise<any>((resolve) => socket.write("x", resolve))
        socket.destroy()
        assert.strictEqual((await told).code, "ERR_SOCKET_CLOSED_BEFORE_CONNECTION")
        await close(server)
      })

      test("is aborted by a signal", async (net) => {
        const aborter = new AbortController()
        const { client, close } = await paired(net, {}, { signal: aborter.signal })
        const failed = errorFrom(client)
        aborter.abort()
        assert.strictEqual((await failed).name, "AbortError")
        await close()
      })
    })

    describe("backpressure", () => {
      test("a writer waits for a reader that does not read", async (net) => {
        const { client, close, peer } = await paired(net)
        peer.pause()
        const chunk = bytesOf(65_536)
        let written = 0
        // So much that no buffer of any kernel takes it.
        while (client.writableLength < 4 << 20) {
          written += chunk.length
          client.write(chunk)
          await new Promise(setImmediate)
        }
        assert.isTrue(client.writableNeedDrain)
        assert.isBelow(peer.bytesRead, written)
        const drained = once(client, "drain")
        let received = 0
        peer.on("data", (data: Buffer) => void (received += data.length))
        peer.resume()
        await drained
        client.end()
        await once(peer, "end")
        assert.strictEqual(received, written)
        await close()
      })

      test("a reader that is paused gets nothing", async (net) => {
        const { client, close, peer } = await paired(net)
        const log = logOf(peer, "data", "end")
        peer.pause()
        client.write("x")
        client.end()
        await once(client, "finish")
        await new Promise(setImmediate)
        assert.deepStrictEqual(log, [])
        peer.resume()
        await once(peer, "end")
        assert.deepStrictEqual(log, ["data", "end"])
        await close()
      })

      test("read takes as much as is asked for", async (net) => {
        const { client, close, peer } = await paired(net)
        client.end("abcdef")
        await once(peer, "readable")
        assert.strictEqual(String(peer.read(4)), "abcd")
        assert.strictEqual(String(peer.read()), "ef")
        peer.resume()
        await once(peer, "end")
        await close()
      })
    })

    describe("streams", () => {
      test("pipeline", async (net) => {
        const { client, close, peer } = await paired(net)
        const sent = bytesOf(500_000)
        const received: Array<Buffer> = []
        const sink = new Writable({
          write(chunk, _encoding, callback) {
            received.push(chunk)
            setImmediate(callback)
          }
        })
        await Promise.all([
          pipeline(Readable.from([sent.subarray(0, 3), sent.subarray(3)]), client),
          pipeline(peer, sink)
        ])
        assert.strictEqual(hashOf(Buffer.concat(received)), hashOf(sent))
        await close()
      })

      test("finished, when it ends and when it breaks", async (net) => {
        const ending = await paired(net)
        const done = finished(ending.client)
        ending.peer.resume().end()
        ending.client.resume().end()
        await done
        await ending.close()

        const breaking = await paired(net)
        const failing = finished(breaking.client).catch((error) => error)
        breaking.client.resume()
        breaking.peer.resetAndDestroy()
        assert.strictEqual((await failing).code, "ECONNRESET")
        await breaking.close()
      })

      test("asynchronous iteration", async (net) => {
        const { client, close, peer } = await paired(net)
        client.end("some text")
        let received = ""
        for await (const chunk of peer) received += chunk
        assert.strictEqual(received, "some text")
        await close()
      })

      test("web streams", async (net) => {
        const { Duplex } = await import("node:stream")
        const { client, close, peer } = await paired(net)
        peer.pipe(peer)
        const { readable, writable } = Duplex.toWeb(client)
        const writer = writable.getWriter()
        await writer.write(Buffer.from("over the web"))
        const { value } = await readable.getReader().read()
        assert.strictEqual(String(Buffer.from(value)), "over the web")
        await close()
      })
    })

    describe("time", () => {
      test("emits timeout when nothing happens, and goes on", async (net) => {
        const { client, close, peer } = await paired(net)
        assert.isUndefined(client.timeout)
        let isTold = false
        assert.strictEqual(
          client.setTimeout(5, () => (isTold = true)),
          client
        )
        assert.strictEqual(client.timeout, 5)
        await once(client, "timeout")
        assert.isTrue(isTold)
        // Whatever comes winds it up again.
        peer.write("x")
        client.resume()
        await once(client, "timeout")
        assert.isFalse(client.destroyed)
        await close()
      })

      test("takes its timeout from the options", async (net) => {
        const { client, close } = await paired(net, {}, { timeout: 5 })
        assert.strictEqual(client.timeout, 5)
        await once(client, "timeout")
        await close()
      })

      test("stops with 0, and forgets the listener", async (net) => {
        const { client, close } = await paired(net)
        const listener = () => assert.fail("it had no time")
        client.setTimeout(1e6, listener)
        client.setTimeout(0, listener)
        assert.strictEqual(client.listenerCount("timeout"), 0)
        assert.strictEqual(client.timeout, 0)
        await close()
      })

      test("takes no other times", async (net) => {
        const socket = new net.Socket()
        assert.deepStrictEqual(
          [-1, Infinity, NaN, "5"].map((msecs) => thrownBy(() => socket.setTimeout(msecs as number)).code),
          ["ERR_OUT_OF_RANGE", "ERR_OUT_OF_RANGE", "ERR_OUT_OF_RANGE", "ERR_INVALID_ARG_TYPE"]
        )
        assert.strictEqual(thrownBy(() => socket.setTimeout(1, 5 as never)).code, "ERR_INVALID_ARG_TYPE")
      })
    })

    describe("addresses", () => {
      test("has those of both sides", async (net) => {
        const { client, close, peer, server } = await paired(net)
        const port = portOf(server)
        assert.deepStrictEqual(server.address(), { address: HOST, family: "IPv4", port })
        assert.deepStrictEqual([client.remoteAddress, client.remoteFamily, client.remotePort], [HOST, "IPv4", port])
        assert.deepStrictEqual([peer.localAddress, peer.localFamily, peer.localPort], [HOST, "IPv4", port])
        assert.deepStrictEqual(client.address(), { address: HOST, family: "IPv4", port: client.localPort })
        assert.strictEqual(client.localFamily, "IPv4")
        assert.deepStrictEqual(
          [peer.remoteAddress, peer.remotePort, peer.remoteFamily],
          [client.localAddress, client.localPort, "IPv4"]
        )
        assert.isAbove(client.localPort!, 0)
        assert.isFalse(client.pending)
        assert.strictEqual(client.readyState, "open")
        await close()
      })

      test("is not what sockets of other kinds are", async (net) => {
        const { client, close } = await paired(net)
        assert.isFalse("encrypted" in client)
        assert.isFalse("authorized" in client)
        await close()
      })

      test("answers with itself whatever is set", async (net) => {
        const { client, close } = await paired(net, { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10 })
        assert.strictEqual(client.setNoDelay(), client)
        assert.strictEqual(client.setNoDelay(false), client)
        assert.strictEqual(client.setKeepAlive(true, 1000), client)
        assert.strictEqual(client.ref(), client)
        assert.strictEqual(client.unref().ref(), client)
        assert.strictEqual(client.pause().resume(), client)
        await close()
      })

      test("a server without a host takes both families", async (net) => {
        const server = await listening(net.createServer(), 0)
        const { address, family, port } = server.address() as net.AddressInfo
        assert.include([`:: IPv6`, `0.0.0.0 IPv4`], `${address} ${family}`)
        const accepted = once(server, "connection")
        const client = net.connect(port, HOST)
        const [peer] = await accepted
        // As a listener for both families sees it.
        assert.include(["::ffff:127.0.0.1 IPv6", "127.0.0.1 IPv4"], `${peer.remoteAddress} ${peer.remoteFamily}`)
        await close(server, client, peer)
      })
    })

    describe("connecting", () => {
      test("tells it in order", async (net) => {
        const server = await listening(net.createServer((socket) => socket.end("x")))
        const client = new net.Socket()
        const log = logOf(client)
        const over = closed(client)
        let isTold = false
        client.connect(portOf(server), HOST, () => (isTold = true))
        client.resume()
        await over
        assert.isTrue(isTold)
        assert.deepStrictEqual(log, ["connectionAttempt", "connect", "ready", "data", "end", "finish", "close false"])
        await close(server)
      })

      test("is refused where nobody listens", async (net) => {
        const server = await listening(net.createServer())
        const port = portOf(server)
        await close(server)
        const client = net.connect(port, HOST)
        const log = logOf(client)
        const over = closed(client)
        const error = await errorFrom(client)
        assert.deepStrictEqual(
          { ...error, message: error.message },
          {
            address: HOST,
            code: "ECONNREFUSED",
            errno: -111,
            message: `connect ECONNREFUSED ${HOST}:${port}`,
            port,
            syscall: "connect"
          }
        )
        await over
        assert.deepStrictEqual(log, ["connectionAttempt", "error", "close true"])
        assert.isFalse(client.connecting)
      })

      test("looks localhost up", async (net) => {
        const server = await listening(net.createServer(), 0, "localhost")
        const client = net.connect({ port: portOf(server) })
        const log = logOf(client)
        await once(client, "connect")
        assert.strictEqual(log[0], "lookup")
        await close(server, client)
      })

      test("asks a lookup of the caller's, and tries every address", async (net) => {
        const server = await listening(net.createServer())
        const addresses = [
          { address: "127.0.0.2", family: 4 },
          { address: HOST, family: 4 }
        ]
        const asked: Array<string> = []
        const client = net.connect({
          port: portOf(server),
          host: "example.test",
          lookup: (host, options, callback) => {
            asked.push(host)
            if (options.all) callback(null, addresses)
            else callback(null, HOST, 4)
          }
        })
        await once(client, "connect")
        assert.deepStrictEqual(asked, ["example.test"])
        assert.strictEqual(client.remoteAddress, HOST)
        await close(server, client)
      })

      test("fails with all errors when no address answers", async (net) => {
        const server = await listening(net.createServer())
        const port = portOf(server)
        await close(server)
        const client = net.connect({
          port,
          host: "example.test",
          lookup: (_host, _options, callback) =>
            callback(null, [
              { address: HOST, family: 4 },
              { address: "127.0.0.2", family: 4 }
            ])
        })
        const error = await errorFrom(client)
        assert.strictEqual(error.code, "ECONNREFUSED")
        assert.instanceOf(error, AggregateError)
        assert.deepStrictEqual(
          error.errors.map(({ address, code }: any) => [address, code]),
          [
            [HOST, "ECONNREFUSED"],
            ["127.0.0.2", "ECONNREFUSED"]
          ]
        )
        await (client.closed ? undefined : closed(client))
      })

      test("tries the families in turn", async (net) => {
        const server = await listening(net.createServer())
        const port = portOf(server)
        await close(server)
        const client = net.connect({
          port,
          host: "example.test",
          lookup: (_host, _options, callback) =>
            callback(null, [
              { address: HOST, family: 4 },
              { address: "127.0.0.2", family: 4 },
              { address: "::1", family: 6 }
            ])
        })
        const over = closed(client)
        await errorFrom(client)
        assert.deepStrictEqual(client.autoSelectFamilyAttemptedAddresses, [
          `${HOST}:${port}`,
          `::1:${port}`,
          `127.0.0.2:${port}`
        ])
        await over
      })

      test("fails with what the lookup fails with", async (net) => {
        const client = net.connect({
          port: 1,
          host: "example.test",
          lookup: (_host, _options, callback) =>
            process.nextTick(callback, Object.assign(new Error("no"), { code: "ENOTFOUND" }), "")
        })
        const log = logOf(client)
        const over = closed(client)
        assert.strictEqual((await errorFrom(client)).code, "ENOTFOUND")
        await over
        assert.deepStrictEqual(log, ["lookup", "error", "close true"])
      })

      test("gives up when it is destroyed", async (net) => {
        const server = await listening(net.createServer((socket) => socket.resume()))
        const client = net.connect(portOf(server), HOST)
        const log = logOf(client, "connect", "error", "close")
        const over = closed(client)
        client.destroy()
        assert.isFalse(client.connecting)
        await over
        assert.deepStrictEqual(log, ["close false"])
        await close(server)
      })

      test("connects again with the same socket", async (net) => {
        const server = await listening(net.createServer((socket) => socket.pipe(socket)))
        const client = new net.Socket()
        for (const word of ["first", "second"]) {
          client.connect(portOf(server), HOST)
          const over = closed(client)
          client.write(word)
          const [data] = await once(client, "data")
          assert.strictEqual(String(data), word)
          client.end()
          await over
        }
        await close(server)
      })

      test("checks what it is given", async (net) => {
        const codes = [
          () => net.connect(99_999),
          () => net.connect({ port: -1 }),
          () => net.connect({ port: "x" as never }),
          () => net.connect({ port: true as never }),
          () => net.connect({} as never),
          () => net.connect({ port: 1, host: 5 as never }),
          () => net.connect({ port: 1, lookup: 5 as never }),
          () => new net.Socket({ objectMode: true }),
          () => new net.Socket({ keepAliveInitialDelay: "x" })
        ].map((body) => thrownBy(body).code)
        assert.deepStrictEqual(codes, [
          "ERR_SOCKET_BAD_PORT",
          "ERR_SOCKET_BAD_PORT",
          "ERR_SOCKET_BAD_PORT",
          "ERR_INVALID_ARG_TYPE",
          "ERR_MISSING_ARGS",
          "ERR_INVALID_ARG_TYPE",
          "ERR_INVALID_ARG_TYPE",
          "ERR_INVALID_ARG_VALUE",
          "ERR_INVALID_ARG_TYPE"
        ])
        const error = thrownBy(() => net.connect(99_999))
        assert.strictEqual(error.name, "RangeError")
        assert.strictEqual(error.message, "Port should be >= 0 and < 65536. Received type number (99999).")
      })
    })

    describe("servers", () => {
      test("listen, take connections, and close when the last one has gone", async (net) => {
        const server = net.createServer()
        assert.isFalse(server.listening)
        assert.isNull(server.address())
        const log: Array<string> = []
        for (const event of ["listening", "connection", "close"]) server.on(event, () => log.push(event))
        await listening(server)
        assert.isTrue(server.listening)
        const accepted = once(server, "connection")
        const client = net.connect(portOf(server), HOST)
        const [peer] = (await accepted) as [net.Socket]
        assert.strictEqual((peer as any).server, server)
        const over = closed(server)
        let isTold = false
        server.close(() => (isTold = true))
        assert.isFalse(server.listening)
        assert.isNull(server.address())
        await new Promise(setImmediate)
        assert.isFalse(isTold)
        client.resume()
        peer.resume()
        client.end()
        await over
        assert.isTrue(isTold)
        assert.deepStrictEqual(log, ["listening", "connection", "close"])
        await Promise.all([client, peer].map((socket) => (socket.closed ? undefined : closed(socket))))
      })

      test("listen again after closing, on the same port", async (net) => {
        const server = await listening(net.createServer())
        const port = portOf(server)
        await close(server)
        await listening(server, port, HOST)
        assert.strictEqual(portOf(server), port)
        await close(server)
      })

      test("cannot listen twice", async (net) => {
        const server = await listening(net.createServer())
        assert.strictEqual(thrownBy(() => server.listen(0)).code, "ERR_SERVER_ALREADY_LISTEN")
        await close(server)
      })

      test("cannot listen where another one listens", async (net) => {
        const server = await listening(net.createServer())
        const port = portOf(server)
        const second = net.createServer()
        second.listen(port, HOST)
        const error = await errorFrom(second)
        assert.deepStrictEqual(
          { ...error, message: error.message },
          {
            address: HOST,
            code: "EADDRINUSE",
            errno: -98,
            message: `listen EADDRINUSE: address already in use ${HOST}:${port}`,
            port,
            syscall: "listen"
          }
        )
        assert.isFalse(second.listening)
        await close(server)
        // And can as soon as that one is gone.
        await close(await listening(second, port, HOST))
      })

      test("cannot be closed when they do not listen", async (net) => {
        const server = net.createServer()
        const error: any = await new Promise((resolve) => server.close(resolve))
        assert.deepStrictEqual([error.code, error.message], ["ERR_SERVER_NOT_RUNNING", "Server is not running."])
      })

      test("check what they are given", async (net) => {
        const codes = [
          () => net.createServer().listen(99_999),
          () => net.createServer().listen({ port: 1.5 }),
          () => net.createServer().listen({}),
          () => net.createServer(5 as never),
          () => new net.Server({ keepAliveInitialDelay: "x" }),
          () => new net.Server({ highWaterMark: "x" }),
          () => new net.Server({ blockList: {} })
        ].map((body) => thrownBy(body).code)
        assert.deepStrictEqual(codes, [
          "ERR_SOCKET_BAD_PORT",
          "ERR_SOCKET_BAD_PORT",
          "ERR_INVALID_ARG_VALUE",
          "ERR_INVALID_ARG_TYPE",
          "ERR_INVALID_ARG_TYPE",
          "ERR_INVALID_ARG_TYPE",
          "ERR_INVALID_ARG_TYPE"
        ])
      })

      test("listen in all the ways there are", async (net) => {
        for (const args of [[], [null], [0], ["0"], [{ port: 0 }], [{ port: undefined }], [0, HOST, 5], [0, 5]]) {
          const server = net.createServer()
          await new Promise<void>((resolve) => server.listen(...(args as []), resolve))
          assert.isAbove(portOf(server), 0)
          await close(server)
        }
      })

      test("count their connections", async (net) => {
        const { client, close, server } = await paired(net)
        const count = () => new Promise((resolve) => server.getConnections((error, count) => resolve([error, count])))
        assert.deepStrictEqual(await count(), [null, 1])
        await close()
        assert.deepStrictEqual(await count(), [null, 0])
        assert.isTrue(client.destroyed)
      })

      test("drop what is more than they may have", async (net) => {
        const { client, close, server } = await paired(net)
        server.maxConnections = 1
        const dropping = once(server, "drop")
        const second = net.connect(portOf(server), HOST)
        const over = closed(second)
        second.on("error", () => {}).resume()
        const [dropped] = await dropping
        assert.deepStrictEqual(
          [dropped.localAddress, dropped.localPort, dropped.localFamily, dropped.remoteAddress, dropped.remoteFamily],
          [HOST, portOf(server), "IPv4", HOST, "IPv4"]
        )
        await over
        assert.isFalse(client.destroyed)
        await close()
      })

      test("block whom they are told to", async (net) => {
        const blockList = new net.BlockList()
        blockList.addAddress(HOST)
        const server = await listening(net.createServer({ blockList }))
        server.on("connection", () => assert.fail("it should have been blocked"))
        const client = net.connect(portOf(server), HOST)
        const over = closed(client)
        client.on("error", () => {}).resume()
        await over
        await close(server)
        const blocked = net.connect({ port: 1, host: HOST, blockList })
        assert.strictEqual((await errorFrom(blocked)).code, "ERR_IP_BLOCKED")
        await (blocked.closed ? undefined : closed(blocked))
      })

      test("pause connections on demand", async (net) => {
        const { client, close, peer } = await paired(net, { pauseOnConnect: true })
        const log = logOf(peer, "data")
        assert.isTrue(peer.isPaused())
        await new Promise((resolve) => client.write("x", resolve))
        await new Promise(setImmediate)
        assert.deepStrictEqual([log, peer.bytesRead], [[], 0])
        peer.resume()
        await once(peer, "data")
        await close()
      })

      test("hand their high water mark on", async (net) => {
        const { close, peer } = await paired(net, { highWaterMark: 1234 })
        assert.deepStrictEqual([peer.readableHighWaterMark, peer.writableHighWaterMark], [1234, 1234])
        await close()
      })

      test("are closed by a signal, and by the end of a block", async (net) => {
        const aborter = new AbortController()
        const server = await listening(net.createServer(), { port: 0, host: HOST, signal: aborter.signal })
        const over = closed(server)
        aborter.abort()
        await over
        const other = await listening(net.createServer())
        await other[Symbol.asyncDispose]()
        assert.isFalse(other.listening)
      })

      test("survive many connections at once", async (net) => {
        const server = await listening(net.createServer((socket) => socket.pipe(socket)))
        const answers = await Promise.all(
          Array.from({ length: 50 }, (_, i) => {
            const client = net.connect(portOf(server), HOST)
            client.end(`number ${i}`)
            return text(client)
          })
        )
        assert.deepStrictEqual(
          answers,
          Array.from({ length: 50 }, (_, i) => `number ${i}`)
        )
        const over = closed(server)
        server.close()
        await over
      })
    })

    test("paths", async (net) => {
      const { mkdtemp, rm } = await import("node:fs/promises")
      const { tmpdir } = await import("node:os")
      const { join } = await import("node:path")
      const directory = await mkdtemp(join(tmpdir(), "net-"))
      const path = join(directory, "socket")
      const server = net.createServer((socket) => socket.end("over a path"))
      await new Promise<void>((resolve) => server.listen(path, resolve))
      assert.strictEqual(server.address(), path)
      assert.strictEqual(await text(net.connect(path)), "over a path")
      assert.strictEqual(await text(net.connect({ path })), "over a path")
      const over = closed(server)
      server.close()
      await over
      await rm(directory, { recursive: true })
    })

    test("addresses are told apart", async (net) => {
      assert.deepStrictEqual([net.isIP("::1"), net.isIP("1.2.3.4"), net.isIP("x")], [6, 4, 0])
      assert.deepStrictEqual([net.isIPv4("1.2.3.4"), net.isIPv6("1.2.3.4")], [true, false])
    })
  })
}
