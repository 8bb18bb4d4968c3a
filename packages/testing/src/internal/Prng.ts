/**
 * Random numbers that are the same for the same seed on every machine: 32-bit
 * integer operations only.
 */
import type { Random } from "effect/Random"

/** What a text or a number stands for as a seed: 32 bits. */
export const hash = (seed: number | string): number => {
  const text = String(seed)
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return mix(h)
}

const mix = (value: number): number => {
  let x = value | 0
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
  return (x ^ (x >>> 15)) >>> 0
}

/** A sequence of numbers. Usable where Effect wants its `Random`. */
export class Prng implements Random {
  private state: number

  constructor(seed: number | string) {
    this.state = hash(seed)
  }

  /** 32 bits. */
  next(): number {
    this.state = (this.state + 0x9e3779b9) | 0
    return mix(this.state)
  }

  /** An integer from 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * limit)
  }

  nextDoubleUnsafe(): number {
    // 53 bits, as `Math.random` has them.
    return ((this.next() >>> 5) * 0x400_0000 + (this.next() >>> 6)) / 0x20_0000_0000_0000
  }

  nextIntUnsafe(): number {
    return Math.floor(this.nextDoubleUnsafe() * 0x40_0000_0000_0000) - Number.MAX_SAFE_INTEGER
  }

  /** A generator of its own that depends on this one's seed and the name, and on nothing that was drawn. */
  static of(seed: number | string, name: string): Prng {
    return new Prng(`${seed}/${name}`)
  }
}
