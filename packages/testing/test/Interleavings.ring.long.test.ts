import { describe, it } from "@effect/vitest"
import { catches, isDeep, load, type Patch, proves, ring, type Ring } from "./interleavings-fixtures.ts"

const core = await load()

type Shape = Omit<Ring, "core">

/** A FIFO of one unit, with another one to grow by. */
const small = { unitBytes: 2, units: 3, size: 2, reads: 2 }

describe("a ring, at every interleaving: no byte, wake-up or chunk is lost, and nobody waits for ever", () => {
  const shapes: Record<string, Shape> = {
    "nothing but the end": { ...small, writes: [] },
    "one byte": { ...small, writes: [1] },
    "one byte and another one": { ...small, writes: [1, 1] },
    "one byte and another one, and no end that would wake the reader": { ...small, writes: [1, 1], ends: false },
    "a full FIFO and another byte": { ...small, writes: [2, 1] },
    "more than the FIFO holds": { ...small, writes: [3] },
    "more than the FIFO holds, without an end": { ...small, writes: [3], ends: false },
    "more than the FIFO holds, read byte by byte": { ...small, writes: [3], reads: 1 },
    "a FIFO that grows": { unitBytes: 2, units: 4, size: 3, writes: [5], reads: 2 },
    "chunks of a byte": { unitBytes: 1, units: 4, size: 4, writes: [4, 1], reads: 2 },
    "a FIFO that has been used": { ...small, size: 3, writes: [3, 1], before: 3 },
    "three messages without an end": { ...small, size: 4, writes: [1, 1, 1], ends: false },
    "messages that fill a FIFO of two chunks": { unitBytes: 2, units: 4, size: 4, writes: [3, 3], reads: 3, before: 1 },
    "a segment without a chunk to spare": { unitBytes: 2, units: 2, size: 4, writes: [4, 2], reads: 3, before: 1 },
    "a FIFO that grows, and a neighbour": { ...small, size: 3, writes: [3], ends: false, neighbour: 2 },
    "a FIFO that starts again, and a neighbour that has the rest": {
      ...small,
      units: 2,
      size: 3,
      writes: [3],
      ends: false,
      neighbour: 2
    },
    "a reader that closes before its first byte": { ...small, writes: [3], closesAfter: 0 },
    "a reader that closes in the middle": { ...small, writes: [2, 2], closesAfter: 1 },
    "a writer that is closed by somebody else": { ...small, writes: [3], closer: "writer" },
    "a reader that is closed by somebody else": { ...small, writes: [3], closer: "reader" }
  }
  const deep: Record<string, Shape> = {
    "three messages": { ...small, writes: [1, 1, 1] },
    "messages in a segment of two chunks": { unitBytes: 2, units: 2, size: 4, writes: [3, 3], reads: 3, before: 1 },
    "twice what the FIFO holds, and the reader closes": { ...small, writes: [2, 2, 2], closesAfter: 3 },
    "a used FIFO, closed by somebody else": { ...small, size: 3, writes: [3, 2], before: 3, closer: "reader" }
  }

  for (const [name, shape] of Object.entries(isDeep ? { ...shapes, ...deep } : shapes)) {
    it(`${name}: every interleaving`, () => void proves(name, ring({ core, ...shape })), isDeep ? 3600_000 : undefined)
  }
})

describe("a ring with a death before any access: what was published is read, and nobody waits for the dead", () => {
  const shapes: Record<string, Shape> = {
    "one byte": { ...small, writes: [1], deaths: ["writer", "reader"] },
    "more than the FIFO holds, without an end": { ...small, writes: [3], ends: false, deaths: ["writer", "reader"] },
    "the reader of more than the FIFO holds": { ...small, writes: [3], deaths: ["reader"] },
    "the writer of a FIFO that grows": { ...small, size: 3, writes: [3], deaths: ["writer"] },
    "a reader that closes": { ...small, writes: [1, 1], closesAfter: 1, deaths: ["writer", "reader"] }
  }
  const deep: Record<string, Shape> = {
    "a full FIFO and another byte": { ...small, writes: [2, 1], deaths: ["writer", "reader"] },
    "chunks of a byte": { unitBytes: 1, units: 4, size: 4, writes: [4, 1], reads: 2, deaths: ["writer", "reader"] },
    "one that is closed by somebody else": { ...small, writes: [2], closer: "writer", deaths: ["writer", "reader"] }
  }

  for (const [name, shape] of Object.entries(isDeep ? { ...shapes, ...deep } : shapes)) {
    it(
      `${name}: every interleaving`,
      () => void proves(`a death: ${name}`, ring({ core, ...shape })),
      isDeep ? 3600_000 : undefined
    )
  }
})

describe("a ring whose sides do not keep to the protocol is found out", () => {
  it("the event flag is cleared after the reader has looked once more", () => {
    catches(
      "an event flag cleared too late",
      ring({ core, ...small, writes: [1, 1], ends: false, mistakes: { clearsAfterLooking: true } }),
      /reader waits for ever/
    )
  })

  it("the request for room is withdrawn after the writer was told", () => {
    catches(
      "a request withdrawn too late",
      ring({ core, ...small, writes: [4], reads: 1, mistakes: { clearsAfterTelling: true } }),
      /waits for ever/
    )
  })

  it("the reader does not look once more when it has cleared the event flag", () => {
    catches(
      "a reader that does not look once more",
      ring({ core, ...small, writes: [1, 1], ends: false, mistakes: { readsNoMore: true } }),
      /reader waits for ever/
    )
  })

  it("the reader is told of what it has read already, and does not say so", () => {
    catches(
      "an event flag that stays",
      ring({ core, ...small, writes: [1, 1], ends: false, mistakes: { keepsFlag: true } }),
      /reader waits for ever/
    )
  })

  it("the writer does not look once more when it has asked for room", () => {
    catches(
      "a writer that does not look once more",
      ring({ core, ...small, writes: [3], mistakes: { waitsAtOnce: true } }),
      /writer waits for ever/
    )
  })

  it("the end is published before the last byte", () => {
    catches(
      "an end before the last byte",
      ring({ core, ...small, writes: [1, 1], mistakes: { endsBeforeLast: true } }),
      /a byte is lost/
    )
  })

  it("the reader looks for the end after it has looked for bytes", () => {
    catches(
      "a reader that looks for the end last",
      ring({ core, ...small, writes: [1], mistakes: { looksForEndLast: true } }),
      /a byte is lost/
    )
  })
})

describe("a ring with a mistake in it is found out", () => {
  const broken: ReadonlyArray<readonly [name: string, patch: Patch, shape: Shape, what: RegExp]> = [
    [
      "the tail is published before the bytes",
      {
        file: "Fifo",
        find: "    this.put(source, offset, count)\n    return this.publish(count)\n  }\n\n  /** Enqueues all",
        put: `    this.words.store(this.at + W_TAIL, (this.tail + count) | 0)
    this.put(source, offset, count)
    return this.publish(count)
  }

  /** Enqueues all`
      },
      { ...small, writes: [1] },
      /data race|is wrong/
    ],
    [
      "chunks are given back before the head moves",
      {
        file: "Fifo",
        find: `    this.words.store(this.at + W_HEAD, this.head)
    if (first !== this.headChunk) this.giveBack(first)`,
        put: `    if (first !== this.headChunk) this.giveBack(first)
    this.words.store(this.at + W_HEAD, this.head)`
      },
      { ...small, size: 3, writes: [3], reads: 3, deaths: ["reader"] },
      /freed before the head has left them/
    ],
    [
      "chunks are given back before the list begins behind them",
      {
        file: "Fifo",
        find: `    this.words.store(this.at + W_HEAD_CHUNK, this.headChunk + 1)
    let chunk = first`,
        put: "    let chunk = first"
      },
      { ...small, size: 3, writes: [3], reads: 3 },
      /list/
    ],
    [
      "bytes are copied when their chunk has been given back",
      {
        file: "Fifo",
        find: `    if (count <= 0) return count
    const start = this.headOffset()
`,
        put: `    if (count > 0) {
      const { head, headBytes, headChunk } = this
      const released = this.release(count)
      const after = { head: this.head, headBytes: this.headBytes, headChunk: this.headChunk }
      Object.assign(this, { head, headBytes, headChunk })
      const start = this.chunks.offset(headChunk) + ((head - this.chunks.start(headChunk)) >>> 0)
      this.words.copyOut(target, offset, start, start + count)
      Object.assign(this, after)
      return released
    }
    let start = 0
`
      },
      { ...small, writes: [2, 1] },
      // What is copied lies where the chunk's next user says that it begins.
      /data race|is wrong|bytes \d+ to \d+ are/
    ],
    [
      "bytes are copied when the head has moved behind them",
      {
        file: "Fifo",
        find: `      this.words.copyOut(target, offset, from, from + count)
      this.head = (this.head + count) | 0
      this.words.store(this.at + W_HEAD, this.head)`,
        put: `      this.head = (this.head + count) | 0
      this.words.store(this.at + W_HEAD, this.head)
      this.words.copyOut(target, offset, from, from + count)`
      },
      { ...small, unitBytes: 4, size: 3, units: 2, writes: [3, 2], reads: 4 },
      /data race|is wrong/
    ],
    [
      "the writer starts again at the beginning of a chunk that has not been read",
      {
        file: "Fifo",
        find: "if (this.headSeen === this.tail && this.tailChunk",
        put: "if (this.tailChunk"
      },
      { ...small, unitBytes: 4, size: 8, units: 4, writes: [3, 2], reads: 4 },
      /data race|is wrong|no sense/
    ],
    [
      "the event flag is set in two steps",
      {
        file: "Fifo",
        find: "return this.words.load(this.at + W_EVENT) === 0 && this.words.exchange(this.at + W_EVENT, 1) === 0",
        put: `const before = this.words.load(this.at + W_EVENT)
    this.words.store(this.at + W_EVENT, 1)
    return before === 0`
      },
      { ...small, writes: [1, 1, 1], size: 4, ends: false },
      /reader waits for ever/
    ],
    [
      "the request for room is taken back before it is looked at",
      {
        file: "Fifo",
        find: "this.words.or(this.at + W_WANT, want)",
        put: "this.words.store(this.at + W_WANT, this.words.load(this.at + W_HEAD) === this.headSeen ? 0 : want)"
      },
      { ...small, writes: [3] },
      /writer waits for ever/
    ]
  ]

  for (const [name, patch, shape, what] of broken) {
    it(`${name}: found out`, async () => {
      catches(name, ring({ core: await load(patch), ...shape }), what)
    })
  }
})
