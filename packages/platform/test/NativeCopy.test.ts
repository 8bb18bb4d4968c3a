import { Application, CutThrough, Endpoint } from "@cut-through/core"
import { CopyBytes, layer as layerMemory, SharedMemory } from "@cut-through/core/memory/SharedMemory"
import { type Copy, portableCopy, type SharedWords } from "@cut-through/core/memory/SharedWords"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { CutThroughNode, NativeCopy } from "@cut-through/platform"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

const PAGE = 4096
const PIECE = 2048

const make = {
  shared: (length: number) => new Uint8Array(new SharedArrayBuffer(length)),
  private: (length: number) => new Uint8Array(length),
  buffer: (length: number) => Buffer.alloc(length),
  // A view that starts where no word does, of memory that is larger than it.
  subarray: (length: number) => new Uint8Array(new ArrayBuffer(length + 16), 3, length)
}
type Kind = keyof typeof make
const kinds = Object.keys(make) as Array<Kind>

const SENTINEL = 0xa5

/** Copies a range with `copy` and compares all of the target with what it should be. */
const check = (copy: Copy, target: Uint8Array, targetStart: number, source: Uint8Array, start: number, end: number) => {
  const expected = new Uint8Array(target.length).fill(SENTINEL)
  expected.set(source.subarray(start, end), targetStart)
  target.set(new Uint8Array(target.length).fill(SENTINEL))
  copy(target, targetStart, source, start, end)
  if (Buffer.compare(target, expected) !== 0) {
    const at = expected.findIndex((byte, i) => target[i] !== byte)
    const range = `[${start}, ${end}) of ${source.length} to ${targetStart}`
    assert.fail(`byte ${at} is ${target[at]}, should be ${expected[at]}, after copying ${range}`)
  }
}

/** Bytes none of which is like its neighbours. */
const fill = (bytes: Uint8Array): Uint8Array => {
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31 + (i >>> 8)) & 0xff
  return bytes
}

describe("NativeCopy", () => {
  const most = 5000

  for (const [from, to] of kinds.flatMap((from) => kinds.map((to) => [from, to] as const))) {
    it(`copies any part of a source, ${from} to ${to}`, () => {
      const source = fill(make[from](most + 40))
      const target = make[to](most + 40)
      for (let length = 0; length <= most; length++) {
        check(NativeCopy.copy, target, length % 33, source, length % 37, (length % 37) + length)
      }
    })

    it(`copies a whole source, ${from} to ${to}`, () => {
      const bytes = fill(make[from](most))
      const target = make[to](most + 2)
      for (let length = 0; length <= most; length++) {
        // A view of just so many bytes: whole is whole, wherever it lies.
        const start = Math.min(length % 5, most - length)
        check(NativeCopy.copy, target, 1, bytes.subarray(start, start + length), 0, length)
      }
    })
  }

  it("copies a mebibyte, whole and in part", () => {
    const source = fill(make.private(2 ** 20))
    const target = make.shared(2 ** 20 + 7)
    check(NativeCopy.copy, target, 7, source, 0, source.length)
    check(NativeCopy.copy, target, 0, source, 1, source.length)
    check(NativeCopy.copy, target, 0, source, 0, source.length - 1)
  })

  it("copies shared memory to itself, where the ranges do not meet", () => {
    const memory = fill(make.shared(3 * PAGE))
    const expected = fill(make.private(3 * PAGE))
    expected.copyWithin(2 * PAGE + 5, 3, PAGE)
    NativeCopy.copy(memory, 2 * PAGE + 5, memory, 3, PAGE)
    assert.strictEqual(Buffer.compare(memory, expected), 0)
  })

  it("copies the same in pieces", () => {
    // Whatever is timed turns out slow.
    let now = 0
    const copy = NativeCopy.make(() => (now += 1e9), NativeCopy.copy)
    const source = fill(make.private(3 * PAGE))
    const target = make.shared(3 * PAGE + 16)
    for (let length = 2 * PAGE - 20; length <= 2 * PAGE + 20; length++) {
      for (let i = 0; i < 20; i++) check(copy, target, 9, source, i, i + length)
    }
  })

  describe("on a machine with a cliff", () => {
    /** A clock that only copies move: fast ones by 0.05 ns a byte, slow ones by 0.5 ns. */
    class Machine {
      now = 0
      timed = 0
      readonly moves: Array<readonly [targetStart: number, sourceStart: number, length: number]> = []
      readonly slowOffsets = new Set<number>()
      readonly target = make.shared(8 * PAGE)
      readonly source = make.private(8 * PAGE)
      // Offsets are between addresses in pages; JavaScript knows where a view lies in its buffer.
      readonly base = (this.target.byteOffset - this.source.byteOffset) & (PAGE - 1)

      readonly copy = NativeCopy.make(
        () => {
          this.timed++
          return this.now
        },
        (target, targetStart, source, start, end) => {
          portableCopy(target, targetStart, source, start, end)
          this.moves.push([targetStart, start, end - start])
          const offset = (targetStart - start + this.base) & (PAGE - 1)
          const isSlow = end - start >= PAGE && this.slowOffsets.has(offset)
          this.now += (end - start) * (isSlow ? 0.5 : 0.05)
        }
      )

      /** Copies at an offset and returns how many moves that took. */
      at(offset: number, length = PAGE): number {
        this.moves.length = 0
        this.copy(this.target, offset, this.source, 0, length)
        return this.moves.length
      }

      /** Copies at an offset until that is done in pieces; how many copies it took. */
      untilPieces(offset: number): number {
        for (let copies = 1; copies <= 100; copies++) {
          if (this.at(offset) > 1) return copies
        }
        return assert.fail("a slow offset was not noticed")
      }
    }

    it("notices a slow offset soon, and copies there in pieces of 2 KiB", () => {
      const machine = new Machine()
      machine.slowOffsets.add(24)
      assert.isAtMost(machine.untilPieces(24), 17)
      machine.at(24, 3 * PAGE + 100)
      assert.deepStrictEqual(machine.moves, [
        ...Array.from({ length: 6 }, (_, i) => [24 + i * PIECE, i * PIECE, PIECE] as const),
        [24 + 6 * PIECE, 6 * PIECE, 100]
      ])
    })

    it("tells the offset from the places of both, also in views", () => {
      const machine = new Machine()
      machine.slowOffsets.add(24)
      machine.untilPieces(24)
      const pieces = (target: Uint8Array, targetStart: number, source: Uint8Array, start: number) => {
        machine.moves.length = 0
        machine.copy(target, targetStart, source, start, start + PAGE)
        return machine.moves.length
      }
      const { source, target } = machine
      assert.strictEqual(pieces(target, 1024, source, 1000), 2)
      assert.strictEqual(pieces(target, PAGE + 24, source, 0), 2)
      assert.strictEqual(pieces(target, 0, source, PAGE - 24), 2)
      assert.strictEqual(pieces(target.subarray(20), 4, source, 0), 2)
      assert.strictEqual(pieces(target, 124, source.subarray(100), 0), 2)
      assert.strictEqual(pieces(target, 24, source.subarray(1), 0), 1)
      assert.strictEqual(pieces(target.subarray(1), 24, source, 0), 1)
    })

    it("leaves other offsets, and what is too small to be slow, in one piece", () => {
      const machine = new Machine()
      machine.slowOffsets.add(24)
      machine.untilPieces(24)
      for (const offset of [0, 23, 25, 24 + PIECE]) assert.strictEqual(machine.at(offset), 1, `${offset}`)
      assert.strictEqual(machine.at(24, PAGE - 1), 1)
      assert.strictEqual(machine.at(24, PAGE), 2)
    })

    it("tries again later, and stays with one piece where it is fast now", () => {
      const machine = new Machine()
      machine.slowOffsets.add(24)
      machine.untilPieces(24)
      // Memory has moved: what was slow here is slow elsewhere.
      machine.slowOffsets.clear()
      machine.slowOffsets.add(2000)
      let copies = 1
      while (machine.at(24) > 1) assert.isBelow(copies++, 1000, "a native copy was never tried again")
      assert.isAbove(copies, 100, "tried again too soon to be of use")
      for (let i = 0; i < 1000; i++) assert.strictEqual(machine.at(24), 1)
      machine.untilPieces(2000)
    })

    it("goes back to pieces where it is still slow", () => {
      const machine = new Machine()
      machine.slowOffsets.add(24)
      let native = 0
      const copies = 10_000
      for (let i = 0; i < copies; i++) if (machine.at(24) === 1) native++
      assert.isBelow(native, copies / 10)
      assert.isAbove(native, 0)
    })

    it("looks at the clock for few copies, and for none that cannot be slow", () => {
      const machine = new Machine()
      for (let i = 0; i < 1000; i++) machine.at(i % 100, PAGE - 1)
      assert.strictEqual(machine.timed, 0)
      for (let i = 0; i < 1600; i++) machine.at(i % 100)
      assert.strictEqual(machine.timed, 2 * 100)
    })

    it("is not fooled by one interruption of a small copy on a fast machine", () => {
      const machine = new Machine()
      // 4 KiB at 5 GB/s and half a microsecond are not slow yet.
      const copy = NativeCopy.make(
        () => machine.now,
        (target, targetStart, source, start, end) => {
          machine.moves.push([targetStart, start, end - start])
          portableCopy(target, targetStart, source, start, end)
          machine.now += (end - start) * 0.2 + 499
        }
      )
      for (let i = 0; i < 100; i++) copy(machine.target, 0, machine.source, 0, PAGE)
      assert.strictEqual(machine.moves.length, 100)
    })
  })

  describe("as a layer", () => {
    const endpoint = Endpoint.tcp("127.0.0.1", 7000)

    /** The copy that a region uses: private to it, but this is what the layer is for. */
    const copyOf = (words: SharedWords): unknown => Reflect.get(words, "copy")

    const copyInUse = Effect.gen(function* () {
      const layer = yield* SessionLayer.SessionLayer
      const listener = yield* Application.listen(endpoint)
      const client = yield* Application.connect(endpoint)
      const server = yield* listener.accept
      yield* client.write(new Uint8Array(10_000).fill(7))
      const bytes = yield* server.read
      assert.isTrue(bytes.length > 0 && bytes.every((byte) => byte === 7))
      const copies = [...layer.connections.sessions()].map((session) => copyOf(session.lease.segment.region.words))
      assert.strictEqual(copies.length, 2)
      assert.strictEqual(copies[0], copies[1])
      return copies[0]
    }).pipe(Effect.scoped)

    it.effect("without it, regions copy as any engine can", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* copyInUse, portableCopy)
        yield* Leaks.check
      }).pipe(Effect.provide(CutThrough.layer))
    )

    it.effect("CutThroughNode.layer makes regions copy natively", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* copyInUse, NativeCopy.copy)
        yield* Leaks.check
      }).pipe(Effect.provide(CutThroughNode.layer))
    )

    it.effect("CutThroughNode.layer does so also where the program has another session layer already", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* copyInUse, portableCopy)
        assert.strictEqual(yield* Effect.provide(copyInUse, CutThroughNode.layer), NativeCopy.copy)
        yield* Leaks.check
      }).pipe(Effect.provide(CutThrough.layer))
    )

    it.effect("CutThroughNode.layerSessions does so for several applications", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* copyInUse, NativeCopy.copy)
        yield* Leaks.check
      }).pipe(
        Effect.provide(
          Application.layer({ name: "test" }).pipe(Layer.provideMerge(CutThroughNode.layerSessions({ workers: 2 })))
        )
      )
    )

    it.effect("CutThroughNode.layerCopy is all that a memory needs", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* CopyBytes, portableCopy)
        const memory = yield* SharedMemory
        const region = yield* memory.allocate(PAGE)
        assert.strictEqual(copyOf(region.words), NativeCopy.copy)
        memory.release(region, [])
      }).pipe(Effect.provide(Layer.fresh(layerMemory).pipe(Layer.provide(CutThroughNode.layerCopy))))
    )
  })
})
