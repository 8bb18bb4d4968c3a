/** What is said through two ways at once is heard in the order in which it was said. */
import { Control, type Listener } from "@cut-through/platform/thread/Control"
import * as Poller from "@cut-through/platform/thread/Poller"
import * as Ring from "@cut-through/platform/thread/Ring"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { MessageChannel, type MessagePort } from "node:worker_threads"
import { turn } from "./bell-fixtures.ts"

interface Said {
  readonly at: number
  /** How many words it takes in the ring, if it goes there. */
  readonly words: number | undefined
}

const codec = {
  write: (record: Ring.Record, { at, words }: Said): boolean => {
    if (words === undefined) return false
    record.begin(1).int(at)
    for (let i = 0; i < words; i++) record.int(i)
    return record.fits
  },
  read: (record: Ring.Record): Said => {
    const at = record.takeInt()
    let words = 0
    while (!record.isWhole) {
      record.takeInt()
      words++
    }
    return { at, words }
  }
}

/** One end, and all that it has heard. */
class End implements Listener<Said> {
  readonly heard: Array<string> = []
  readonly control: Control<Said, Said>
  onHeard: () => void = () => {}

  constructor(port: MessagePort, poller: Poller.Poller) {
    this.control = new Control(port, poller, codec, codec, this)
  }
  onMessage(message: unknown): void {
    this.heard.push(`${(message as Said).at} by port`)
    this.onHeard()
  }
  onRecord(message: Said | undefined): void {
    this.heard.push(message === undefined ? "none" : `${message.at} by ring`)
    this.onHeard()
  }
  onUnreadable(): void {
    this.heard.push("unreadable")
  }
  onBroken(): void {
    this.heard.push("broken")
  }
  onClose(): void {
    this.heard.push("closed")
  }
}

/** Both ends in this thread; a poller that is called by the test alone, unless it is to turn. */
const ends = (poller: Poller.Poller = Poller.make({ schedule: () => {}, scheduleUnref: () => {} })) => {
  const { port1, port2 } = new MessageChannel()
  const buffer = new SharedArrayBuffer(Ring.BYTES)
  return { left: new End(port1, poller), right: new End(port2, poller), buffer, port1, port2 }
}

const index = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

const atOf = (heard: ReadonlyArray<string>) => heard.map((it) => Number.parseInt(it))
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at)

describe("a control port", () => {
  it.live.prop(
    "is one stream, whichever way each message takes, whoever looks, and whenever",
    [Arbitrary.array(Arbitrary.all({ what: index(9), count: index(30), words: index(400) }), { minLength: 1 })],
    ([steps]) =>
      Effect.promise(async () => {
        const { buffer, left, right } = ends()
        try {
          let at = 0
          left.control.post({ at: at++, words: 1 })
          left.control.open(buffer, 0)
          // What is said before the other end knows of the ring stays there.
          left.control.post({ at: at++, words: 1 })
          right.control.open(buffer, 1)
          for (const { count, what, words } of steps) {
            if (what < 2) for (let i = 0; i < count; i++) left.control.post({ at: at++, words: undefined })
            else if (what < 5) for (let i = 0; i < count; i++) left.control.post({ at: at++, words: words % 4 })
            else if (what < 6) for (let i = 0; i < count; i++) left.control.post({ at: at++, words })
            else if (what < 8) right.control.take()
            else await turn()
          }
          while (right.heard.length < at) {
            right.control.take()
            await turn()
          }
          assert.deepStrictEqual(atOf(right.heard), upTo(at))
        } finally {
          left.control.close()
          right.control.close()
          await turn()
        }
      })
  )

  it("takes through the ring what fits, and through the port what does not", () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    left.control.post({ at: 0, words: 1 })
    left.control.post({ at: 1, words: undefined })
    left.control.post({ at: 2, words: 1000 })
    left.control.post({ at: 3, words: 1 })
    assert.isTrue(right.control.hasNews())
    assert.isTrue(right.control.take())
    assert.deepStrictEqual(right.heard, ["0 by ring", "1 by port", "2 by port", "3 by ring"])
    assert.isFalse(right.control.hasNews())
    assert.isFalse(right.control.take())
    left.control.close()
    right.control.close()
  })

  it("finds what is in the port without waiting for its event", () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    left.control.post({ at: 0, words: undefined })
    assert.isTrue(right.control.hasNews())
    assert.isTrue(right.control.take())
    assert.deepStrictEqual(right.heard, ["0 by port"])
    left.control.close()
    right.control.close()
  })

  it("takes through the port what finds the ring full, in its place", async () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    for (let at = 0; at < 3 * Ring.MOST_RECORDS; at++) left.control.post({ at, words: 0 })
    while (right.heard.length < 3 * Ring.MOST_RECORDS) {
      right.control.take()
      await turn()
    }
    assert.deepStrictEqual(atOf(right.heard), upTo(3 * Ring.MOST_RECORDS))
    assert.isTrue(right.heard.some((it) => it.endsWith("port")))
    left.control.post({ at: -1, words: 0 })
    right.control.take()
    assert.strictEqual(right.heard.at(-1), "-1 by ring")
    left.control.close()
    right.control.close()
  })

  it("hears only so much in one turn, of one who never stops", () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    let at = 0
    right.onHeard = () => left.control.post({ at: at++, words: at % 7 === 0 ? undefined : 1 })
    left.control.post({ at: at++, words: 1 })
    assert.isTrue(right.control.take())
    assert.isAtMost(right.heard.length, 64)
    left.control.close()
    right.control.close()
  })

  it("hears all that was said before it was closed", async () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    for (let at = 0; at < 300; at++) left.control.post({ at, words: at % 50 === 0 ? undefined : 1 })
    left.control.close()
    left.control.post({ at: -1, words: 1 })
    while (!right.heard.includes("closed")) await turn()
    assert.deepStrictEqual(atOf(right.heard.slice(0, -1)), upTo(300))
    right.control.close()
  })

  it("is over at once where it is closed, also by what it hears", async () => {
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    right.onHeard = () => right.control.close()
    for (let at = 0; at < 5; at++) left.control.post({ at, words: at < 3 ? 1 : undefined })
    right.control.take()
    while (!left.heard.includes("closed")) await turn()
    assert.deepStrictEqual(right.heard, ["0 by ring"])
    left.control.close()
  })

  it("counts what cannot be received, too", async () => {
    const deep = (depth: number): object => {
      let value: object = {}
      for (let i = 0; i < depth; i++) value = { value }
      return value
    }
    const { buffer, left, right } = ends()
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    let at = 0
    // How deep is too deep is the machine's business: at least one of these can be sent and not received.
    for (let depth = 1000; depth < 20_000; depth += 250) {
      try {
        left.control.post({ at: at++, words: undefined, ...deep(depth) } as Said)
      } catch {
        at--
        break
      }
      left.control.post({ at: at++, words: 1 })
    }
    while (right.heard.length < at) {
      right.control.take()
      await turn()
    }
    assert.include(right.heard, "unreadable")
    for (const [place, heard] of right.heard.entries()) {
      assert.isTrue(heard === "unreadable" || Number.parseInt(heard) === place, `${heard} at ${place}`)
    }
    left.control.close()
    right.control.close()
  })

  it("wakes who has parked", async () => {
    const poller = Poller.make({ idle: "0 millis" })
    const { buffer, left, right } = ends(poller)
    left.control.open(buffer, 0)
    right.control.open(buffer, 1)
    for (const words of [1, undefined, 1]) {
      while (!poller.isParked) await turn()
      const before = right.heard.length
      left.control.post({ at: before, words })
      while (right.heard.length === before) await turn()
    }
    assert.deepStrictEqual(right.heard, ["0 by ring", "1 by port", "2 by ring"])
    left.control.close()
    right.control.close()
  })

  describe("with a liar at the other end", () => {
    it("waits for what the port was never given, at no cost, and hears what it is given", async () => {
      const { buffer, left, right } = ends()
      right.control.open(buffer, 1)
      const ring = new Ring.Ring(buffer, 0)
      for (const stamp of [1, 1000]) ring.write(new Ring.Record().begin(1).int(stamp), stamp)
      assert.isFalse(right.control.take())
      assert.isFalse(right.control.hasNews())
      assert.isTrue(right.control.park())
      right.control.whenRung(() => assert.fail("woken"))
      right.control.unpark()
      left.control.post({ at: 5, words: undefined })
      while (right.heard.length < 1) await turn()
      right.control.take()
      assert.deepStrictEqual(right.heard, ["5 by port", "1 by ring"])
      assert.isFalse(right.control.hasNews())
      left.control.close()
      while (!right.heard.includes("closed")) await turn()
      assert.deepStrictEqual(right.heard.slice(2), ["1000 by ring", "closed"])
      right.control.close()
    })

    it("does not forget what it waits with, also where looking does not pay", async () => {
      // One that backs off as soon as it may.
      const poller = Poller.make({ idle: "0 millis", inVain: 0, backOff: "1 hour", backOffMost: "1 hour" })
      const { buffer, left, right } = ends(poller)
      right.control.open(buffer, 1)
      poller.heat()
      while (poller.stats.backOffs === 0 || !poller.isParked) await turn()
      const ring = new Ring.Ring(buffer, 0)
      ring.write(new Ring.Record().begin(1).int(7), 1)
      // It is woken, finds that the port has nothing yet, and parks.
      const parks = poller.stats.parks
      while (poller.stats.parks === parks || !poller.isParked) await turn()
      left.control.post({ at: 5, words: undefined })
      while (right.heard.length < 2) await turn()
      assert.deepStrictEqual(right.heard, ["5 by port", "7 by ring"])
      left.control.close()
      right.control.close()
    })

    it("says once that the ring makes no sense, and hears what comes through the port", async () => {
      const { buffer, left, right } = ends()
      right.control.open(buffer, 1)
      new Int32Array(buffer).fill(-1)
      right.control.take()
      right.control.take()
      left.control.post({ at: 5, words: undefined })
      while (right.heard.length < 2) await turn()
      assert.deepStrictEqual(right.heard, ["broken", "5 by port"])
      assert.isFalse(right.control.hasNews())
      left.control.close()
      right.control.close()
    })
  })
})
