import * as Fifo from "@cut-through/core/memory/Fifo"
import * as FifoSegment from "@cut-through/core/memory/FifoSegment"
import { SharedWords } from "@cut-through/core/memory/SharedWords"
import * as Bell from "@cut-through/platform/thread/Bell"
import { Watch } from "@cut-through/platform/thread/Watch"
import { assert, describe, it } from "@effect/vitest"

const BYTES = Uint8Array.of(1, 2, 3)
const MOST = 4
const PATIENCE = 64

/** FIFOs as two threads map them, each told already and read to its end. */
const fifos = (count: number) => {
  const options = { size: 2 ** 20, maxFifos: count }
  const words = new SharedWords(new SharedArrayBuffer(FifoSegment.regionBytes(options)))
  const segment = FifoSegment.make(words, options)
  const other = FifoSegment.attach(words)!
  return Array.from({ length: count }, () => {
    const writer = segment.allocateFifo(1024)!
    const reader = other.attachFifo(writer.index, Fifo.READER)!
    assert.isTrue(writer.setEvent())
    return { words, writer, reader, write: () => void writer.enqueue(BYTES, 0, BYTES.length) }
  })
}

const target = () => {
  const ear = { rings: 0, onRing: () => void ear.rings++ }
  return ear
}

describe("Watch", () => {
  it("calls whoever has something, once, without a ring", () => {
    const [a, b] = fifos(2)
    const watch = new Watch()
    const [forA, forB] = [target(), target()]
    assert.isTrue(watch.add(a.reader, forA))
    assert.isTrue(watch.add(b.reader, forB))
    assert.isFalse(watch.hasNews())
    assert.isFalse(watch.take())
    b.write()
    assert.isFalse(b.writer.setEvent(), "the writer was to ring")
    assert.isTrue(watch.hasNews())
    assert.isTrue(watch.take())
    assert.deepStrictEqual([forA.rings, forB.rings], [0, 1])
    b.write()
    assert.isFalse(watch.hasNews(), "who has not read yet is called again")
    assert.isFalse(watch.take())
  })

  it("is asked again by a reader that has read", () => {
    const [a] = fifos(1)
    const watch = new Watch()
    const ear = target()
    for (let n = 1; n <= 10; n++) {
      assert.isTrue(watch.add(a.reader, ear))
      assert.isTrue(watch.add(a.reader, ear), "asking twice is asking once")
      a.write()
      assert.isTrue(watch.take())
      assert.strictEqual(ear.rings, n)
      a.reader.dropAll()
    }
  })

  it("watches a few, and leaves the others to their writers", () => {
    const all = fifos(MOST + 1)
    const watch = new Watch()
    for (const { reader } of all.slice(0, MOST)) assert.isTrue(watch.add(reader, target()))
    assert.isFalse(watch.add(all[MOST].reader, target()))
    // A place is free when somebody has got something, or has gone.
    all[0].write()
    watch.take()
    assert.isTrue(watch.add(all[MOST].reader, target()))
    assert.isFalse(watch.add(all[0].reader, target()))
    watch.remove(all[1].reader)
    assert.isTrue(watch.add(all[0].reader, target()))
  })

  it("leaves a FIFO to its writer that has nothing for long", () => {
    const [busy, idle] = fifos(2)
    const watch = new Watch()
    const [forBusy, forIdle] = [target(), target()]
    assert.isTrue(watch.add(idle.reader, forIdle))
    for (let n = 0; n < PATIENCE; n++) {
      assert.isFalse(idle.writer.setEvent())
      assert.isTrue(watch.add(busy.reader, forBusy))
      busy.write()
      watch.take()
      busy.reader.dropAll()
    }
    assert.isTrue(idle.writer.setEvent(), "nobody would tell of what comes")
    idle.write()
    assert.isFalse(watch.take())
    assert.deepStrictEqual([forBusy.rings, forIdle.rings], [PATIENCE, 0])
  })

  it("parks: from then on writers ring, and what has come until then is found", () => {
    const [a, b] = fifos(2)
    const watch = new Watch()
    const ear = target()
    watch.add(a.reader, target())
    watch.add(b.reader, ear)
    assert.isTrue(watch.park())
    assert.isTrue(a.writer.setEvent())
    assert.isTrue(b.writer.setEvent())
    assert.isFalse(watch.add(a.reader, target()), "nobody looks")
    watch.unpark()
    assert.isFalse(watch.take(), "what was watched before is watched still")

    assert.isTrue(watch.add(b.reader, ear))
    b.write()
    assert.isFalse(watch.park())
    watch.unpark()
    assert.isTrue(watch.take())
    assert.strictEqual(ear.rings, 1)
  })

  it("forgets who has gone, also while others are called", () => {
    const [a, b, c] = fifos(3)
    const watch = new Watch()
    const [forA, forB] = [target(), target()]
    watch.add(a.reader, forA)
    watch.add(b.reader, forB)
    watch.add(c.reader, {
      onRing() {
        watch.remove(c.reader)
        watch.remove(a.reader)
      }
    })
    for (const fifo of [a, b, c]) fifo.write()
    while (watch.take());
    assert.deepStrictEqual([forA.rings, forB.rings], [0, 1])
    watch.add(a.reader, forA)
    watch.clear()
    assert.isFalse(watch.take())
    assert.isTrue(watch.park())
  })

  it("goes on when what it calls fails", () => {
    const [a, b] = fifos(2)
    const watch = new Watch()
    const ear = target()
    watch.add(a.reader, ear)
    watch.add(b.reader, {
      onRing() {
        throw new Error("not mine")
      }
    })
    a.write()
    b.write()
    assert.isTrue(watch.take())
    assert.strictEqual(ear.rings, 1)
  })

  it("a writer that writes nonsense is looked at once", () => {
    const [a] = fifos(1)
    const watch = new Watch()
    const ear = target()
    watch.add(a.reader, ear)
    // The tail, wherever it is: the one word that publishing changes.
    const before = new Int32Array(a.words.buffer.slice(0))
    a.write()
    const tail = new Int32Array(a.words.buffer).findLastIndex((word, at) => word === BYTES.length && before[at] === 0)
    a.words.store(tail, -1)
    assert.isTrue(watch.take())
    assert.strictEqual(a.reader.readable, Fifo.CORRUPT)
    assert.isFalse(watch.hasNews())
    assert.isFalse(watch.take())
    assert.isTrue(watch.park())
    assert.strictEqual(ear.rings, 1)
  })
})

describe("a bell that watches", () => {
  const bell = () => {
    const heat = { count: 0 }
    return { heat, bell: new Bell.Bell(new SharedArrayBuffer(Bell.BYTES), 0, () => void heat.count++) }
  }

  it("is news, is taken, and heats, because who waits expects something", () => {
    const [a] = fifos(1)
    const { bell: watcher, heat } = bell()
    const ear = target()
    assert.isTrue(watcher.watch(a.reader, ear))
    assert.strictEqual(heat.count, 1)
    assert.isFalse(watcher.hasNews())
    assert.isFalse(watcher.take())
    a.write()
    assert.isTrue(watcher.hasNews())
    assert.isFalse(watcher.park())
    watcher.unpark()
    assert.isTrue(watcher.take())
    assert.strictEqual(ear.rings, 1)
  })

  it("watches nothing for who has gone, nor when it is closed", () => {
    const [a] = fifos(1)
    const { bell: watcher } = bell()
    watcher.watch(a.reader, target())
    watcher.unwatch(a.reader)
    a.write()
    assert.isFalse(watcher.hasNews())
    watcher.close()
    assert.isFalse(watcher.watch(a.reader, target()))
    assert.isFalse(watcher.take())
  })
})
