import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import { assert, describe, it } from "@effect/vitest"

describe("LocalDoorbell", () => {
  it("rings whoever listens at the moment, and nobody when nobody does", () => {
    const doorbell = new LocalDoorbell()
    const rung: Array<string> = []
    const target = (name: string) => ({ onRing: () => void rung.push(name) })
    doorbell.ring()
    doorbell.target = target("first")
    doorbell.ring()
    doorbell.ring()
    doorbell.target = target("second")
    doorbell.ring()
    doorbell.target = undefined
    doorbell.ring()
    assert.deepStrictEqual(rung, ["first", "first", "second"])
  })

  it("two sides may ring each other from within a ring", () => {
    const [left, right] = [new LocalDoorbell(), new LocalDoorbell()]
    const rung: Array<string> = []
    left.target = {
      onRing: () => {
        rung.push("left")
        if (rung.length < 5) right.ring()
      }
    }
    right.target = {
      onRing: () => {
        rung.push("right")
        left.ring()
      }
    }
    left.ring()
    assert.deepStrictEqual(rung, ["left", "right", "left", "right", "left"])
  })

  it("a target that leaves while it is rung is not rung again", () => {
    const doorbell = new LocalDoorbell()
    let rings = 0
    doorbell.target = {
      onRing: () => {
        rings++
        doorbell.target = undefined
        doorbell.ring()
      }
    }
    doorbell.ring()
    doorbell.ring()
    assert.strictEqual(rings, 1)
  })
})
