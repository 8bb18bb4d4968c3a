/**
 * The two ends of a byte stream, over each way there is: a connection, a stream of Node's, a message port, or the barest
 * ring that two threads can have.
 */
import { Connection, NonBlocking } from "@cut-through/core"
import { NativeCopy } from "@cut-through/platform"
import { Effect } from "effect"
import { once } from "node:events"
import * as net from "node:net"
import type { Duplex } from "node:stream"
import { setTimeout } from "node:timers/promises"
import type { MessagePort } from "node:worker_threads"
import { alignmentOf, type Bulk, check, checkStamp, MESSAGE_BYTES, source, stamp } from "./payload.ts"

/** So many round trips, one after another, each after a rest of so many milliseconds. */
export interface RoundTrips {
  readonly rounds: number
  readonly rest: number
}

/** One end of a stream. What is received or echoed has to be expected before the other end begins. */
export interface End {
  readonly send: (bulk: Bulk) => Promise<void>
  readonly receive: (bulk: Bulk) => Promise<void>
  /** Returns the microseconds of each round trip. */
  readonly ask: (order: RoundTrips) => Promise<Float64Array>
  readonly echo: (order: RoundTrips) => Promise<void>
}

const READ_BYTES = 65_536
const PAGE = 4096

// ---------------------------------------------------------------------------
// a connection, called back as those of Node are
// ---------------------------------------------------------------------------

export const overConnection = (connection: Connection.Connection): End => {
  const arena = new Uint8Array(READ_BYTES + PAGE)
  const aligned = new Uint8Array(READ_BYTES)
  const message = new Uint8Array(MESSAGE_BYTES)
  const on = { readable: () => {}, writable: () => {} }
  const stream = Connection.nonBlocking(connection, {
    onReadable: () => on.readable(),
    onWritable: () => on.writable()
  })
  /** Goes on whenever it can, until it says that all is done. */
  const until = (event: keyof typeof on, go: () => boolean) =>
    new Promise<void>((resolve, reject) => {
      on[event] = () => {
        try {
          if (go()) resolve()
        } catch (error) {
          reject(error)
        }
      }
      on[event]()
    })
  const ensure = (count: number): number => {
    if (count === NonBlocking.FAILED) throw stream.error
    if (count === 0) throw new Error("the stream has ended")
    return count
  }
  /** Nothing else is on its way, so there is room for all of it. */
  const write = () => {
    if (stream.write(message) !== MESSAGE_BYTES)
      throw new Error("a message has not found room", { cause: stream.error })
  }
  /** Calls back with each message that has come whole. */
  const receive = (rounds: number, onMessage: (n: number) => void) => {
    let n = 0
    let have = 0
    return until("readable", () => {
      for (;;) {
        const count = ensure(stream.readInto(have === 0 ? message : message.subarray(have)))
        if (count < 0) return false
        have += count
        if (have < MESSAGE_BYTES) continue
        have = 0
        onMessage(n)
        if (++n === rounds) return true
      }
    })
  }
  return {
    send: (bulk) => {
      const next = source(bulk)
      let n = 0
      let at = 0
      let bytes = next(0)
      return until("writable", () => {
        for (;;) {
          const count = ensure(stream.write(bytes, at))
          if (count < 0) return false
          at += count
          if (at < bytes.length) continue
          if (++n === bulk.writes) return true
          bytes = next(n)
          at = 0
        }
      })
    },
    receive: (bulk) => {
      const total = bulk.bytes * bulk.writes
      let n = 0
      let position = 0
      return until("readable", () => {
        for (;;) {
          const buffer = bulk.isAnyAlignment ? arena.subarray(alignmentOf(bulk, n)) : aligned
          const count = ensure(stream.readInto(buffer))
          if (count < 0) return false
          check(bulk, position, buffer, count)
          n++
          position += count
          if (position === total) return true
        }
      })
    },
    echo: ({ rounds }) => receive(rounds, write),
    ask: async ({ rest, rounds }) => {
      const micros = new Float64Array(rounds)
      let start = 0
      const next = (n: number) => {
        start = performance.now()
        stamp(message, n)
        write()
      }
      const received = receive(rounds, (n) => {
        micros[n] = (performance.now() - start) * 1000
        checkStamp(message, n)
        if (n + 1 === rounds) return
        if (rest > 0) void setTimeout(rest).then(() => next(n + 1))
        else next(n + 1)
      })
      if (rest > 0) await setTimeout(rest)
      next(0)
      await received
      return micros
    }
  }
}

// ---------------------------------------------------------------------------
// a connection, with a fiber at each end
// ---------------------------------------------------------------------------

export const overEffects = (connection: Connection.Connection): End => {
  const arena = new Uint8Array(READ_BYTES + PAGE)
  const aligned = new Uint8Array(READ_BYTES)
  const message = new Uint8Array(MESSAGE_BYTES)
  /** Messages come whole, nearly always. */
  const readRest = Effect.fnUntraced(function* (have: number) {
    for (let count = have; count < MESSAGE_BYTES;) count += yield* connection.readInto(message.subarray(count))
  })
  const send = Effect.fnUntraced(function* (bulk: Bulk) {
    const next = source(bulk)
    for (let n = 0; n < bulk.writes; n++) yield* connection.write(next(n))
  })
  const receive = Effect.fnUntraced(function* (bulk: Bulk) {
    const total = bulk.bytes * bulk.writes
    for (let n = 0, position = 0; position < total; n++) {
      const buffer = bulk.isAnyAlignment ? arena.subarray(alignmentOf(bulk, n)) : aligned
      const count = yield* connection.readInto(buffer)
      check(bulk, position, buffer, count)
      position += count
    }
  })
  const echo = Effect.fnUntraced(function* ({ rounds }: RoundTrips) {
    for (let i = 0; i < rounds; i++) {
      const count = yield* connection.readInto(message)
      if (count < MESSAGE_BYTES) yield* readRest(count)
      yield* connection.write(message)
    }
  })
  const ask = Effect.fnUntraced(function* ({ rest, rounds }: RoundTrips) {
    const micros = new Float64Array(rounds)
    for (let i = 0; i < rounds; i++) {
      if (rest > 0) yield* Effect.promise(() => setTimeout(rest))
      const start = performance.now()
      stamp(message, i)
      yield* connection.write(message)
      const count = yield* connection.readInto(message)
      if (count < MESSAGE_BYTES) yield* readRest(count)
      micros[i] = (performance.now() - start) * 1000
      checkStamp(message, i)
    }
    return micros
  })
  return {
    send: (bulk) => Effect.runPromise(send(bulk)),
    receive: (bulk) => Effect.runPromise(receive(bulk)),
    echo: (order) => Effect.runPromise(echo(order)),
    ask: (order) => Effect.runPromise(ask(order))
  }
}

// ---------------------------------------------------------------------------
// something that says when bytes have come
// ---------------------------------------------------------------------------

interface Arrivals {
  /** Who is told of what comes. */
  onData: (bytes: Uint8Array) => void
  readonly write: (message: Uint8Array) => void
  readonly send: (bulk: Bulk) => Promise<void>
  /** Told of each piece of a stream that was taken. */
  readonly onTaken?: (bulk: Bulk) => void
}

const overArrivals = (arrivals: Arrivals): End => {
  /** Calls back with what comes, until that was so many bytes. */
  const receive = (total: number, onBytes: (position: number, bytes: Uint8Array) => void) =>
    new Promise<void>((resolve, reject) => {
      let position = 0
      arrivals.onData = (bytes) => {
        const start = position
        // Before anybody is told: an answer to these bytes may bring the next ones on this stack.
        position += bytes.length
        try {
          onBytes(start, bytes)
        } catch (error) {
          return reject(error)
        }
        if (start + bytes.length === total) resolve()
      }
    })
  const ask = async ({ rest, rounds }: RoundTrips) => {
    const micros = new Float64Array(rounds)
    const answer = new Uint8Array(MESSAGE_BYTES)
    let i = 0
    let start = 0
    const next = () => {
      // What was written may be on its way still, so each message is one of its own.
      const message = new Uint8Array(MESSAGE_BYTES)
      start = performance.now()
      stamp(message, i)
      arrivals.write(message)
    }
    const received = receive(rounds * MESSAGE_BYTES, (position, bytes) => {
      answer.set(bytes, position % MESSAGE_BYTES)
      if (position + bytes.length < (i + 1) * MESSAGE_BYTES) return
      micros[i] = (performance.now() - start) * 1000
      checkStamp(answer, i)
      if (++i === rounds) return
      if (rest > 0) void setTimeout(rest).then(next)
      else next()
    })
    if (rest > 0) await setTimeout(rest)
    next()
    await received
    return micros
  }
  return {
    send: arrivals.send,
    receive: (bulk) =>
      receive(bulk.bytes * bulk.writes, (position, bytes) => {
        check(bulk, position, bytes, bytes.length)
        arrivals.onTaken?.(bulk)
      }),
    echo: ({ rounds }) => receive(rounds * MESSAGE_BYTES, (_, bytes) => arrivals.write(bytes)),
    ask
  }
}

/** A stream that copies what is written to it, or one that does not: there, each write fills a buffer of its own. */
export const overDuplex = (duplex: Duplex, copies: boolean = true): End => {
  if (duplex instanceof net.Socket) duplex.setNoDelay(true)
  const arrivals: Arrivals = {
    onData: () => {},
    write: (message) => void duplex.write(message),
    send: async (bulk) => {
      const next = source(bulk)
      for (let n = 0; n < bulk.writes; n++) {
        const chunk = next(n)
        let own = chunk
        if (!copies) {
          own = Buffer.allocUnsafe(chunk.length)
          own.set(chunk)
        }
        if (!duplex.write(own)) await once(duplex, "drain")
      }
    }
  }
  duplex.on("data", (bytes) => arrivals.onData(bytes))
  return overArrivals(arrivals)
}

/** From here on a buffer is handed over; smaller ones are copied on the way, which costs less. */
const TRANSFER_BYTES = 4096
/** Bytes under way before the writer waits for the reader: a port has no limit of its own. */
const WINDOW_BYTES = 2 ** 20
const WINDOW_WRITES = 1024

export const overPort = (port: MessagePort): End => {
  const windowOf = ({ bytes }: Bulk) => Math.max(4, Math.min(WINDOW_WRITES, WINDOW_BYTES / bytes))
  let credits = 0
  let taken = 0
  let onCredit: () => void = () => {}
  const arrivals: Arrivals = {
    onData: () => {},
    write: (message) => port.postMessage(message),
    send: async (bulk) => {
      const next = source(bulk)
      credits = windowOf(bulk)
      for (let n = 0; n < bulk.writes; n++) {
        if (credits === 0) {
          await new Promise<void>((resolve) => {
            onCredit = resolve
          })
        }
        credits--
        if (bulk.bytes < TRANSFER_BYTES) port.postMessage(next(n))
        else {
          const own = new Uint8Array(next(n))
          port.postMessage(own, [own.buffer])
        }
      }
    },
    onTaken: (bulk) => {
      const half = windowOf(bulk) / 2
      if (++taken < half) return
      taken = 0
      port.postMessage(half)
    }
  }
  port.on("message", (message: Uint8Array | number) => {
    if (typeof message !== "number") return arrivals.onData(message)
    credits += message
    onCredit()
  })
  return overArrivals(arrivals)
}

// ---------------------------------------------------------------------------
// the ceiling
// ---------------------------------------------------------------------------

export interface Ring {
  /** How many bytes the writer and the reader have moved, each in a cache line of its own. */
  readonly moved: Int32Array
  /** Their number is a power of two. */
  readonly bytes: Uint8Array
}

/** As much as a connection has for each direction. */
const RING_BYTES = 128 * 1024

export const makeRing = (): Ring => ({
  moved: new Int32Array(new SharedArrayBuffer(128)),
  bytes: new Uint8Array(new SharedArrayBuffer(RING_BYTES))
})

const WRITER = 0
const READER = 16

/** The least that two threads can do with the same copy: a ring, and both busy until it has room or bytes. */
export const overRing = ({ bytes: data, moved: words }: Ring): End => {
  const size = data.length
  const buffer = new Uint8Array(READ_BYTES)
  let moved = 0
  const move = (word: number, count: number) => {
    moved = (moved + count) | 0
    Atomics.store(words, word, moved)
  }
  const never = () => Promise.reject(new Error("a bare ring is for streams of bytes"))
  return {
    receive: async (bulk) => {
      const total = bulk.bytes * bulk.writes
      for (let position = 0; position < total;) {
        let filled = 0
        while (filled === 0) filled = (Atomics.load(words, WRITER) - moved) | 0
        const at = moved & (size - 1)
        const count = Math.min(filled, READ_BYTES, size - at)
        NativeCopy.copy(buffer, 0, data, at, at + count)
        move(READER, count)
        check(bulk, position, buffer, count)
        position += count
      }
    },
    send: async (bulk) => {
      const next = source(bulk)
      for (let n = 0; n < bulk.writes; n++) {
        const bytes = next(n)
        for (let from = 0; from < bytes.length;) {
          let room = 0
          while (room === 0) room = (Atomics.load(words, READER) + size - moved) | 0
          const at = moved & (size - 1)
          const count = Math.min(bytes.length - from, room, size - at)
          NativeCopy.copy(data, at, bytes, from, from + count)
          move(WRITER, count)
          from += count
        }
      }
    },
    ask: never,
    echo: never
  }
}
