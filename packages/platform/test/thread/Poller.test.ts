import * as Poller from "@cut-through/platform/thread/Poller"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { reportsOf, turn } from "./bell-fixtures.ts"

const MICROS = 1 / 1000

/** A source that a test has news in, and that records what becomes of it. */
class FakeSource implements Poller.Source {
  news = 0
  looks = 0
  takes = 0
  isParked = false
  /** How often somebody asked to be woken, and who is to be. */
  waits = 0
  wake: (() => void) | undefined = undefined
  onLook: () => void = () => {}
  onTake: () => void = () => {}

  hasNews(): boolean {
    this.looks++
    this.onLook()
    return this.news > 0
  }

  take(): boolean {
    if (this.news === 0) return false
    this.takes++
    this.news = 0
    this.onTake()
    return true
  }

  park(): boolean {
    this.isParked = true
    return this.news === 0
  }

  unpark(): void {
    this.isParked = false
  }

  whenRung(wake: () => void): void {
    this.waits++
    this.wake = wake
  }

  /** As another thread would do it. */
  ring(): void {
    this.news++
    if (!this.isParked) return
    const { wake } = this
    this.wake = undefined
    wake?.()
  }
}

/** A poller whose time passes when the test says so, and whose event loop the test turns. */
class Machine {
  now = 1000
  /** What a look takes. */
  look = 0.005 * MICROS
  readonly scheduled: Array<() => void> = []
  unrefs = 0
  readonly poller: Poller.Poller

  constructor(options: Poller.Options = {}) {
    this.poller = Poller.make({
      ...options,
      now: () => this.now,
      schedule: (turn) => void this.scheduled.push(turn),
      scheduleUnref: (turn) => {
        this.unrefs++
        this.scheduled.push(turn)
      }
    })
  }

  source(): FakeSource {
    const source = new FakeSource()
    source.onLook = () => void (this.now += this.look)
    return source
  }

  /** A source that the poller has looked at, and has parked with. */
  parked(): FakeSource {
    const source = this.source()
    this.poller.add(source)
    this.toRest()
    source.looks = 0
    return source
  }

  /** Runs one turn of the event loop; false when nothing is to be done. */
  turn(): boolean {
    this.now += 2 * MICROS
    const turns = this.scheduled.splice(0)
    assert.isAtMost(turns.length, 1, "one turn at a time")
    for (const turn of turns) turn()
    return turns.length > 0
  }

  /** Runs turns until it parks, and returns how many. */
  toRest(): number {
    for (let turns = 0; ; turns++) {
      if (!this.turn()) return turns
      assert.isBelow(turns, 10_000, "it never parks")
    }
  }
}

describe("Poller", () => {
  it("parks without traffic, and then does nothing at all", () => {
    const machine = new Machine()
    const source = machine.parked()
    assert.isTrue(machine.poller.isParked)
    assert.isTrue(source.isParked)
    assert.strictEqual(source.waits, 1)
    assert.isFalse(machine.turn())
    assert.strictEqual(source.looks, 0)
  })

  it("heat makes it look, not on the caller's stack, until nothing has come for a while", () => {
    const machine = new Machine({ idle: "300 micros" })
    const source = machine.parked()
    machine.poller.heat()
    assert.isFalse(machine.poller.isParked)
    assert.isFalse(source.isParked)
    assert.strictEqual(source.looks, 0)
    const start = machine.now
    machine.toRest()
    assert.isTrue(source.isParked)
    assert.approximately(machine.now - start, 300 * MICROS, 20 * MICROS)
  })

  it("heat while it looks only makes it look longer", () => {
    const machine = new Machine({ idle: "300 micros" })
    const source = machine.parked()
    machine.poller.heat()
    const start = machine.now
    while (machine.now < start + 200 * MICROS) {
      machine.turn()
      machine.poller.heat()
      machine.poller.heat()
    }
    assert.strictEqual(machine.scheduled.length, 1)
    machine.toRest()
    assert.isTrue(source.isParked)
    assert.isAbove(machine.now - start, 490 * MICROS)
  })

  it("so does news", () => {
    const machine = new Machine({ idle: "300 micros" })
    const source = machine.parked()
    machine.poller.heat()
    const start = machine.now
    machine.turn()
    while (machine.now < start + 250 * MICROS) machine.turn()
    source.ring()
    machine.toRest()
    assert.strictEqual(source.takes, 1)
    assert.isAbove(machine.now - start, 540 * MICROS)
  })

  it("spins in each turn, so many looks for all sources together", () => {
    const machine = new Machine({ spin: 60 })
    const sources = [machine.parked()]
    for (const count of [1, 2, 3]) {
      for (const source of sources) source.looks = 0
      machine.poller.heat()
      machine.turn()
      for (const source of sources) assert.strictEqual(source.looks, 60 / count)
      machine.toRest()
      sources.push(machine.parked())
    }
  })

  it("what comes in a spin is taken in it, and the spin begins anew", () => {
    const machine = new Machine({ spin: 10 })
    const source = machine.parked()
    let left = 5
    source.onLook = () => {
      if (source.looks % 7 === 0 && left-- > 0) source.ring()
    }
    machine.poller.heat()
    machine.turn()
    assert.strictEqual(source.takes, 5)
    assert.strictEqual(machine.poller.stats.dispatches, 5)
  })

  it("a turn ends although there is still news, so that others have theirs", () => {
    const machine = new Machine({ turn: "100 micros" })
    const source = machine.parked()
    let isOver = false
    source.onTake = () => {
      machine.now += 1 * MICROS
      if (!isOver) source.ring()
    }
    source.ring()
    for (let turns = 0; turns < 5; turns++) {
      const start = machine.now
      assert.isTrue(machine.turn())
      assert.isAtLeast(machine.now - start, 100 * MICROS)
      assert.isAtMost(machine.now - start, 120 * MICROS)
    }
    isOver = true
    machine.toRest()
    assert.isTrue(source.isParked)
  })

  it("reads the clock a few times in a turn, not for each look or ring", () => {
    let readings = 0
    const scheduled: Array<() => void> = []
    const poller = Poller.make({
      now: () => ++readings,
      idle: "1 hour",
      turn: "1 hour",
      stall: "1 hour",
      release: "1 hour",
      schedule: (turn) => void scheduled.push(turn)
    })
    const source = new FakeSource()
    poller.add(source)
    poller.heat()
    scheduled.pop()?.()
    readings = 0
    for (let i = 0; i < 1000; i++) poller.heat()
    assert.strictEqual(readings, 0)
    let rings = 800
    source.onTake = () => {
      if (rings-- > 0) source.news = 1
    }
    source.news = 1
    scheduled.pop()?.()
    assert.isBelow(rings, 1)
    assert.isBelow(readings, 800 / 3)
  })

  it("is woken by a ring, and looks at once", () => {
    const machine = new Machine()
    const [source, other] = [machine.parked(), machine.parked()]
    source.ring()
    assert.strictEqual(source.takes, 1)
    assert.isFalse(other.isParked)
    machine.toRest()
    assert.isTrue(other.isParked)
    other.ring()
    assert.strictEqual(other.takes, 1)
  })

  it("a wake-up too many does no harm: in vain, when it looks already, and when nobody has parked", () => {
    const machine = new Machine()
    const source = machine.parked()
    const { wake } = source
    wake?.()
    wake?.()
    machine.toRest()
    assert.isTrue(source.isParked)
    machine.poller.heat()
    wake?.()
    machine.turn()
    wake?.()
    assert.isAtMost(machine.scheduled.length, 1)
    machine.toRest()
    assert.isTrue(source.isParked)
  })

  it("does not park when a source has news after all: all look again", () => {
    const machine = new Machine()
    const [first, second, third] = [machine.parked(), machine.parked(), machine.parked()]
    const parks = machine.poller.stats.parks
    second.park = () => {
      second.park = FakeSource.prototype.park
      second.isParked = true
      second.news++
      return false
    }
    machine.poller.heat()
    while (second.news === 0) machine.turn()
    assert.isFalse(machine.poller.isParked)
    for (const source of [first, second, third]) assert.isFalse(source.isParked)
    assert.strictEqual(machine.poller.stats.parks, parks)
    machine.turn()
    assert.strictEqual(second.takes, 1)
    machine.toRest()
    assert.strictEqual(machine.poller.stats.parks, parks + 1)
  })

  it("a source that is rung before it could be waited for wakes at once, not on the stack of the parking", () => {
    const machine = new Machine()
    const [first, second, third] = [machine.parked(), machine.parked(), machine.parked()]
    for (const source of [first, second, third]) source.waits = 0
    let takesMeanwhile = -1
    second.whenRung = (wake) => {
      second.whenRung = FakeSource.prototype.whenRung
      second.news++
      wake()
      takesMeanwhile = second.takes
    }
    machine.poller.heat()
    machine.toRest()
    assert.strictEqual(takesMeanwhile, 0)
    assert.strictEqual(second.takes, 1)
    assert.isTrue(third.isParked)
    // The first one was waited for twice, the others once.
    assert.deepStrictEqual(
      [first, second, third].map(({ waits }) => waits),
      [2, 1, 1]
    )
  })

  it("sources need not say when they are rung, nor have news to be taken from", () => {
    const machine = new Machine()
    let messages = 0
    let taken = 0
    machine.poller.add({
      hasNews: () => false,
      take() {
        taken += messages
        const hadAny = messages > 0
        messages = 0
        return hadAny
      },
      park: () => true,
      unpark() {}
    })
    machine.toRest()
    messages = 3
    machine.poller.heat()
    machine.turn()
    assert.strictEqual(taken, 3)
    machine.toRest()
    assert.isTrue(machine.poller.isParked)
  })

  it("without sources it parks", () => {
    const machine = new Machine()
    machine.poller.heat()
    machine.toRest()
    assert.isTrue(machine.poller.isParked)
  })

  describe("hooks", () => {
    it("run at the beginning of each turn, until they are taken out", () => {
      const machine = new Machine()
      const source = machine.parked()
      const order: Array<string> = []
      source.onTake = () => void order.push("take")
      const stop = machine.poller.onTurn(() => void order.push("first"))
      machine.poller.onTurn(() => void order.push("second"))
      source.ring()
      assert.deepStrictEqual(order.splice(0), ["first", "second", "take"])
      machine.turn()
      assert.deepStrictEqual(order.splice(0), ["first", "second"])
      stop()
      stop()
      machine.turn()
      assert.deepStrictEqual(order, ["second"])
    })

    it("the same function may be a hook twice, and is taken out once at a time", () => {
      const machine = new Machine()
      const source = machine.parked()
      let calls = 0
      const hook = () => void calls++
      const stop = machine.poller.onTurn(hook)
      machine.poller.onTurn(hook)
      source.ring()
      assert.strictEqual(calls, 2)
      stop()
      machine.turn()
      assert.strictEqual(calls, 3)
    })

    it("one that fails is reported, and the turn goes on", () => {
      const machine = new Machine()
      const source = machine.parked()
      machine.poller.onTurn(() => {
        throw new Error("hook")
      })
      const reported = reportsOf(() => source.ring())
      assert.strictEqual(source.takes, 1)
      assert.strictEqual(reported.length, 1)
      assert.include(reported[0], "hook")
    })
  })

  describe("sources that change while it takes", () => {
    it("one that is removed is not asked any more", () => {
      const machine = new Machine()
      const [first, second, third] = [machine.parked(), machine.parked(), machine.parked()]
      first.onTake = () => machine.poller.remove(second)
      for (const source of [second, third]) source.news++
      first.ring()
      assert.deepStrictEqual(
        [first, second, third].map(({ takes }) => takes),
        [1, 0, 1]
      )
      const { looks } = second
      machine.toRest()
      assert.strictEqual(second.looks, looks)
      assert.isFalse(second.isParked)
    })

    it("one may remove itself, and come back", () => {
      const machine = new Machine()
      const source = machine.parked()
      source.onTake = () => machine.poller.remove(source)
      source.ring()
      machine.toRest()
      source.ring()
      machine.poller.heat()
      machine.toRest()
      assert.strictEqual(source.takes, 1)
      machine.poller.add(source)
      machine.toRest()
      assert.strictEqual(source.takes, 2)
    })

    it("one that is added is looked at in the same turn", () => {
      const machine = new Machine()
      const source = machine.parked()
      const added = machine.source()
      added.news++
      source.onTake = () => machine.poller.add(added)
      source.ring()
      assert.strictEqual(added.takes, 1)
    })
  })

  it("a source that is added when it has parked is looked at, and parked", () => {
    const machine = new Machine()
    const source = machine.parked()
    const added = machine.source()
    added.news++
    machine.poller.add(added)
    assert.isFalse(source.isParked)
    machine.toRest()
    assert.strictEqual(added.takes, 1)
    assert.isTrue(source.isParked && added.isParked)
  })

  it("a source that is removed when it has parked is unparked, and may wake in vain", () => {
    const machine = new Machine()
    const [source, other] = [machine.parked(), machine.parked()]
    machine.poller.remove(source)
    machine.poller.remove(source)
    assert.isFalse(source.isParked)
    source.wake?.()
    machine.toRest()
    assert.strictEqual(source.takes, 0)
    assert.isTrue(other.isParked)
  })

  describe("a source that fails", () => {
    const methods = ["take", "hasNews", "park", "unpark", "whenRung"] as const
    for (const method of methods) {
      it(`in ${method} is reported, and others are served`, () => {
        const machine = new Machine()
        const bad = machine.source()
        const reported = reportsOf(() => {
          machine.poller.add(bad)
          machine.toRest()
          const good = machine.parked()
          bad[method] = () => {
            throw new Error(method)
          }
          for (let i = 1; i <= 3; i++) {
            bad.news = 1
            good.ring()
            assert.strictEqual(good.takes, i)
            bad.news = 0
            machine.toRest()
            assert.isTrue(good.isParked)
          }
        })
        assert.isAbove(reported.length, 0)
        for (const line of reported) assert.include(line, method)
      })
    }
  })

  describe("on a crowded machine", () => {
    /** Asks, looks in vain until it parks, and is answered then. */
    const askInVain = (machine: Machine, source: FakeSource): void => {
      machine.poller.heat()
      machine.toRest()
      source.ring()
      machine.toRest()
    }

    /** Asks and is answered while it looks, again and again. */
    const talk = (machine: Machine, source: FakeSource, times: number): void => {
      let left = times
      const { onLook } = source
      source.onLook = () => {
        onLook()
        if (source.looks % 100 === 0 && left-- > 0) source.news++
      }
      machine.poller.heat()
      machine.toRest()
      source.onLook = onLook
    }

    /** Has it backed off: does it park at once after what comes? */
    const parksAtOnce = (machine: Machine, source: FakeSource): boolean => {
      source.ring()
      const { isParked } = machine.poller
      machine.toRest()
      return isParked
    }

    const crowded = (options?: Poller.Options) => {
      const machine = new Machine(options)
      const source = machine.parked()
      while (machine.poller.stats.backOffs === 0) askInVain(machine, source)
      return { machine, source }
    }

    it("parks at once when it has looked in vain several times", () => {
      const machine = new Machine({ inVain: 3 })
      const source = machine.parked()
      let times = 0
      while (!parksAtOnce(machine, source)) {
        times++
        assert.isAtMost(times, 4)
      }
      assert.strictEqual(times, 4)
      assert.strictEqual(machine.poller.stats.backOffs, 1)
    })

    it("does not look ahead for who asks then, and serves who rings", () => {
      const { machine, source } = crowded()
      machine.poller.heat()
      assert.isTrue(machine.poller.isParked)
      assert.isFalse(machine.turn())
      source.looks = source.takes = 0
      for (let i = 1; i <= 10; i++) {
        source.ring()
        assert.strictEqual(source.takes, i)
        assert.isTrue(machine.poller.isParked)
      }
      assert.isAtMost(source.looks, 10)
    })

    it("goes on when there is news as it parks", () => {
      const { machine, source } = crowded()
      source.park = () => {
        source.park = FakeSource.prototype.park
        source.news++
        return source.park()
      }
      source.ring()
      assert.isFalse(machine.poller.isParked)
      machine.toRest()
      assert.strictEqual(source.news, 0)
      assert.isTrue(machine.poller.isParked)
    })

    it("tries again after a while, which doubles up to a bound when it is in vain again", () => {
      const { machine, source } = crowded({ backOff: "5 millis", backOffMost: "35 millis", trial: "200 micros" })
      for (const millis of [5, 10, 20, 35, 35]) {
        const { backOffs } = machine.poller.stats
        const start = machine.now
        while (machine.poller.stats.backOffs === backOffs) {
          askInVain(machine, source)
          machine.now += 0.1
        }
        assert.approximately(machine.now - start, millis, 1)
      }
    })

    it("looks longer the first time after that, and not again before it has paid", () => {
      const looks = (trial: "200 micros" | "8 millis") => {
        const { machine } = crowded({ backOff: "5 millis", trial })
        machine.now += 6
        const start = machine.now
        machine.poller.heat()
        machine.toRest()
        return machine.now - start
      }
      assert.isAtLeast(looks("8 millis"), 8)
      assert.isBelow(looks("200 micros"), 1.5)
    })

    it("stays with looking when that pays again, and backs off for half the time when it does not any more", () => {
      const { machine, source } = crowded({ backOff: "5 millis", backOffMost: "20 millis" })
      const next = () => {
        const { backOffs } = machine.poller.stats
        for (let i = 0; machine.poller.stats.backOffs === backOffs; i++) {
          askInVain(machine, source)
          machine.now += 0.1
          assert.isBelow(i, 1000)
        }
      }
      for (let i = 0; i < 3; i++) next()
      machine.now += 20
      const { backOffs } = machine.poller.stats
      talk(machine, source, 1)
      assert.strictEqual(machine.poller.stats.backOffs, backOffs)
      talk(machine, source, 1000)
      assert.isFalse(parksAtOnce(machine, source))
      next()
      machine.now += 9
      assert.isTrue(parksAtOnce(machine, source))
      machine.now += 2
      assert.isFalse(parksAtOnce(machine, source))
    })

    it("parking at once is not looking in vain, also when its time is over meanwhile", () => {
      const { machine, source } = crowded({ backOff: "5 millis" })
      machine.now += 4.9
      source.onTake = () => void (machine.now += 1)
      source.ring()
      source.onTake = () => {}
      assert.isTrue(machine.poller.isParked)
      assert.strictEqual(machine.poller.stats.backOffs, 1)
      assert.isFalse(parksAtOnce(machine, source))
    })

    it("looking in vain now and then is forgiven where it pays otherwise", () => {
      const machine = new Machine()
      const source = machine.parked()
      for (let i = 0; i < 100; i++) {
        askInVain(machine, source)
        talk(machine, source, 50)
      }
      assert.strictEqual(machine.poller.stats.backOffs, 0)
    })

    it("what it finds after a spin in which it did not run has not been found by looking", () => {
      const machine = new Machine({ spin: 100 })
      const source = machine.parked()
      talk(machine, source, 1000)
      assert.strictEqual(machine.poller.stats.stalls, 0)
      const { onLook } = source
      for (let i = 0; i < 20 && machine.poller.stats.backOffs === 0; i++) {
        let isLate = false
        source.onLook = () => {
          onLook()
          // Somebody else has this core, and answers.
          if (isLate || machine.poller.isParked) return
          isLate = true
          machine.now += 30 * MICROS
          source.news++
        }
        machine.poller.heat()
        machine.toRest()
      }
      assert.strictEqual(machine.poller.stats.backOffs, 1)
      assert.isAtLeast(machine.poller.stats.stalls, 4)
    })

    it("nor has what is there when a turn comes late", () => {
      const machine = new Machine()
      const source = machine.parked()
      machine.poller.heat()
      machine.toRest()
      for (let i = 0; i < 20 && machine.poller.stats.backOffs === 0; i++) {
        machine.poller.heat()
        machine.turn()
        machine.now += 30 * MICROS
        source.news++
        machine.toRest()
      }
      assert.strictEqual(machine.poller.stats.backOffs, 1)
    })

    it("unless the thread was at work meanwhile, and rang for it", () => {
      const machine = new Machine()
      const source = machine.parked()
      machine.poller.heat()
      machine.toRest()
      for (let i = 0; i < 20; i++) {
        machine.poller.heat()
        machine.turn()
        machine.now += 30 * MICROS
        machine.poller.heat()
        source.news++
        machine.toRest()
      }
      assert.strictEqual(machine.poller.stats.backOffs, 0)
    })

    it("what is there when a turn comes in time has been found by looking", () => {
      const machine = new Machine()
      const source = machine.parked()
      for (let i = 0; i < 20; i++) {
        machine.poller.heat()
        machine.turn()
        source.news++
        machine.toRest()
      }
      assert.strictEqual(machine.poller.stats.backOffs, 0)
    })

    it("another source makes a spin longer, and that is no stall", () => {
      const machine = new Machine({ spin: 100 })
      const source = machine.parked()
      talk(machine, source, 1000)
      const slow = machine.source()
      slow.onLook = () => void (machine.now += 1 * MICROS)
      machine.poller.add(slow)
      machine.toRest()
      talk(machine, source, 10)
      assert.strictEqual(machine.poller.stats.stalls, 0)
    })

    it("a slow machine is not a crowded one: a spin is compared with what it usually takes", () => {
      const machine = new Machine({ spin: 100 })
      machine.look = 1 * MICROS
      const source = machine.parked()
      machine.poller.heat()
      machine.toRest()
      for (let i = 0; i < 50; i++) talk(machine, source, 5)
      assert.strictEqual(machine.poller.stats.stalls, 0)
      assert.strictEqual(machine.poller.stats.backOffs, 0)
    })

    it("having nothing to look for is not looking in vain", () => {
      const machine = new Machine()
      const source = machine.parked()
      askInVain(machine, source)
      for (let i = 0; i < 100; i++) {
        source.wake?.()
        machine.toRest()
      }
      assert.strictEqual(machine.poller.stats.backOffs, 0)
    })
  })

  describe("the event loop", () => {
    it("is left to others now and then, for as long as it looks", () => {
      const machine = new Machine({ release: "5 millis", idle: "60 millis" })
      machine.parked()
      machine.now += 100
      machine.poller.heat()
      const start = machine.now
      while (machine.now < start + 52) machine.turn()
      assert.approximately(machine.unrefs, 10, 1)
    })

    it("is its own for as long as it usually looks", () => {
      // The first look after it has backed off takes longer than that.
      const machine = new Machine({ trial: "1 millis" })
      machine.parked()
      for (let i = 0; i < 20; i++) {
        machine.now += 100
        machine.poller.heat()
        machine.toRest()
      }
      assert.strictEqual(machine.unrefs, 0)
    })

    it("turns by itself: timers and immediates of others run while there is news all the time", async () => {
      const poller = Poller.make()
      const source = new FakeSource()
      source.news = 1
      source.onTake = () => void (source.news = 1)
      poller.add(source)
      await turn()
      await new Promise((resolve) => setTimeout(resolve, 0))
      assert.isAbove(source.takes, 0)
      source.onTake = () => {}
      while (!poller.isParked) await turn()
      assert.isTrue(source.isParked)
    })

    it("each thread has one poller", () => {
      const ask = Effect.service(Poller.Poller)
      assert.strictEqual(Effect.runSync(ask), Effect.runSync(ask))
    })
  })
})
