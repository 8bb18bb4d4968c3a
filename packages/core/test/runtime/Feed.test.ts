import { Feed } from "@cut-through/core/runtime/Feed"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { interruptEverywhere, SteppingScheduler } from "./stepping.ts"

/** Everything that is there now. */
const takeAll = <A, E>(queue: Queue.Dequeue<A, E>): ReadonlyArray<A> =>
  Queue.sizeUnsafe(queue) === 0 ? [] : [...Effect.runSync(Effect.orDie(Queue.takeAll(queue)))]

/** Subscribers that leave one by one. */
const setUp = <A>() => {
  const feed = new Feed<A>()
  const subscribe = <B>(keep: (value: A) => B) => {
    const scope = Scope.makeUnsafe()
    const queue = Effect.runSync(Scope.provide(feed.subscribeWith(keep), scope))
    return { queue, leave: () => Effect.runSync(Scope.close(scope, Exit.void)) }
  }
  const assertAtRest = () => {
    assert.isFalse(feed.isObserved)
    assert.strictEqual(feed.unread, 0)
  }
  return { feed, subscribe, assertAtRest }
}

const asItIs = <A>(value: A): A => value

describe("Feed", () => {
  it("keeps nothing as long as nobody subscribes, and then nothing of before", () => {
    const { assertAtRest, feed, subscribe } = setUp<number>()
    assertAtRest()
    for (let i = 0; i < 1000; i++) feed.offer(i)
    assertAtRest()
    const kept: Array<number> = []
    const { leave, queue } = subscribe((value) => kept.push(value))
    assert.isTrue(feed.isObserved)
    assert.strictEqual(feed.unread, 0)
    assert.deepStrictEqual(takeAll(queue), [])
    feed.offer(1000)
    assert.deepStrictEqual(kept, [1000])
    leave()
    for (let i = 0; i < 1000; i++) feed.offer(i)
    assert.deepStrictEqual(kept, [1000], "who has left is still asked what to keep")
    assertAtRest()
  })

  it("gives each subscriber all from when it came until it leaves, in order", () => {
    const { assertAtRest, feed, subscribe } = setUp<number>()
    const first = subscribe(asItIs)
    feed.offer(1)
    const second = subscribe(asItIs)
    feed.offer(2)
    assert.deepStrictEqual(takeAll(first.queue), [1, 2])
    feed.offer(3)
    first.leave()
    assert.isTrue(feed.isObserved)
    feed.offer(4)
    const third = subscribe(asItIs)
    feed.offer(5)
    assert.deepStrictEqual(takeAll(second.queue), [2, 3, 4, 5])
    assert.deepStrictEqual(takeAll(third.queue), [5])
    second.leave()
    third.leave()
    assertAtRest()
  })

  it("unread is what the slowest has not read", () => {
    const { assertAtRest, feed, subscribe } = setUp<number>()
    const slow = subscribe(asItIs)
    for (let i = 0; i < 3; i++) feed.offer(i)
    const quick = subscribe(asItIs)
    feed.offer(3)
    assert.strictEqual(feed.unread, 4)
    assert.deepStrictEqual(takeAll(quick.queue), [3])
    assert.strictEqual(feed.unread, 4, "the quick one has read for the slow one")
    assert.strictEqual(Effect.runSync(Queue.take(slow.queue)), 0)
    assert.strictEqual(feed.unread, 3)
    feed.offer(4)
    feed.offer(5)
    slow.leave()
    // Who is the slowest among those who are left.
    assert.strictEqual(feed.unread, 2)
    quick.leave()
    assertAtRest()
  })

  it("keeps a thing as it was when it was offered", () => {
    const { assertAtRest, feed, subscribe } = setUp<{ state: string }>()
    const copies = subscribe(({ state }) => state)
    const things = subscribe(asItIs)
    const thing = { state: "ready" }
    feed.offer(thing)
    thing.state = "closing"
    feed.offer(thing)
    assert.deepStrictEqual(takeAll(copies.queue), ["ready", "closing"])
    assert.deepStrictEqual(takeAll(things.queue), [thing, thing])
    copies.leave()
    things.leave()
    assertAtRest()
  })

  it("does not run a subscriber when it offers", () => {
    const { assertAtRest, feed } = setUp<string>()
    const scheduler = new SteppingScheduler()
    const log: Array<string> = []
    const read = Effect.flatMap(feed.subscribe, (queue) => Queue.take(queue))
    Effect.runFork(
      Effect.map(Effect.scoped(read), (value) => log.push(`read ${value}`)),
      { scheduler }
    )
    scheduler.runAll()
    feed.offer("first")
    log.push("offered")
    scheduler.runAll()
    assert.deepStrictEqual(log, ["offered", "read first"])
    assertAtRest()
  })

  it("who leaves while it waits for something waits no longer", () => {
    const { assertAtRest, subscribe } = setUp<string>()
    const scheduler = new SteppingScheduler()
    const { leave, queue } = subscribe(asItIs)
    const reading = Effect.runFork(Queue.take(queue), { scheduler })
    scheduler.runAll()
    assert.isUndefined(reading.pollUnsafe())
    leave()
    scheduler.runAll()
    assert.isDefined(reading.pollUnsafe())
    assertAtRest()
  })

  describe("when it has ended", () => {
    it.effect("subscribers read what is there, then the end", () =>
      Effect.gen(function* () {
        const feed = new Feed<number>()
        const [first, second] = [yield* feed.subscribe, yield* feed.subscribe]
        feed.offer(1)
        feed.offer(2)
        yield* Queue.take(second)
        feed.end()
        feed.offer(3)
        assert.isFalse(feed.isObserved)
        assert.strictEqual(feed.unread, 0)
        assert.deepStrictEqual(yield* Queue.collect(first), [1, 2])
        assert.deepStrictEqual(yield* Queue.collect(second), [2])
      }).pipe(Effect.scoped)
    )

    it.effect("who waits is told, and who comes later too", () =>
      Effect.gen(function* () {
        const feed = new Feed<number>()
        const queue = yield* feed.subscribe
        const waiting = yield* Effect.forkChild(Queue.collect(queue), { startImmediately: true })
        feed.end()
        feed.end()
        assert.deepStrictEqual(yield* Fiber.join(waiting), [])
        const kept: Array<number> = []
        const late = yield* feed.subscribeWith((value) => kept.push(value))
        feed.offer(1)
        assert.isFalse(feed.isObserved)
        assert.deepStrictEqual(yield* Queue.collect(late), [])
        assert.deepStrictEqual(kept, [])
        assert.deepStrictEqual(yield* Stream.runCollect(feed.stream), [])
      }).pipe(Effect.scoped)
    )
  })

  it.effect("a stream has what is offered while it runs", () =>
    Effect.gen(function* () {
      const feed = new Feed<number>()
      feed.offer(0)
      const running = yield* Effect.forkChild(Stream.runCollect(feed.stream), { startImmediately: true })
      const taking = yield* Effect.forkChild(Stream.runCollect(Stream.take(feed.stream, 1)), {
        startImmediately: true
      })
      assert.isTrue(feed.isObserved)
      feed.offer(1)
      assert.deepStrictEqual(yield* Fiber.join(taking), [1])
      feed.offer(2)
      feed.end()
      assert.deepStrictEqual(yield* Fiber.join(running), [1, 2])
      assert.isFalse(feed.isObserved)
    })
  )

  it("a stream that is interrupted at any step leaves nobody subscribed", () => {
    const interrupted = interruptEverywhere({
      setUp: () => new Feed<number>(),
      start: ({ run }, feed) => run(Effect.scoped(Stream.runDrain(Stream.take(feed.stream, 1)))),
      afterwards: (_, feed) => feed.offer(1),
      check: (feed, where) => {
        assert.isFalse(feed.isObserved, where)
        assert.strictEqual(feed.unread, 0, where)
      }
    })
    assert.isAbove(interrupted, 10)
  })
})
