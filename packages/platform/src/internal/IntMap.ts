/**
 * Values by number, for tables that live long and whose entries do not.
 *
 * V8's `Map` replaces its table now and then, and the old one refers to the new
 * one, for iterators. Once one of them has grown old, that makes a chain: all
 * later tables survive each collection of young garbage, with everything that
 * was in them. A connection that lives for microseconds then grows old, too.
 *
 * @since 0.1.0
 */

const LEAST = 8

/**
 * What a `Map` of integers is, but for the order.
 *
 * Numbers may come from another thread, which may choose those that would fall
 * on the same place: so the places follow from chance, too.
 *
 * @category models
 * @since 0.1.0
 */
export class IntMap<A> {
  private keys: Array<number> = new Array(LEAST).fill(0)
  /** Where nothing is, the place is free. */
  private places: Array<A | undefined> = new Array(LEAST).fill(undefined)
  private count = 0
  private shift = 32 - Math.log2(LEAST)
  private readonly low = oddByChance()
  private readonly high = oddByChance()

  get size(): number {
    return this.count
  }

  get(key: number): A | undefined {
    return this.places[this.find(key)]
  }

  has(key: number): boolean {
    return this.places[this.find(key)] !== undefined
  }

  set(key: number, value: A & {}): void {
    const place = this.find(key)
    if (this.places[place] === undefined) {
      if (2 * ++this.count > this.keys.length) {
        this.grow()
        return this.put(key, value)
      }
      this.keys[place] = key
    }
    this.places[place] = value
  }

  /** False when there was none. */
  delete(key: number): boolean {
    const { keys, places } = this
    const mask = keys.length - 1
    let free = this.find(key)
    if (places[free] === undefined) return false
    this.count--
    // Whoever was put behind it because its place was taken moves up, so that none is looked for in vain.
    for (let at = (free + 1) & mask; places[at] !== undefined; at = (at + 1) & mask) {
      const distance = (at - this.placeOf(keys[at])) & mask
      if (distance < ((at - free) & mask)) continue
      keys[free] = keys[at]
      places[free] = places[at]
      free = at
    }
    places[free] = undefined
    return true
  }

  clear(): void {
    this.places.fill(undefined)
    this.count = 0
  }

  /** The numbers there are now, in their order. */
  numbers(): Array<number> {
    return this.keys.filter((_, place) => this.places[place] !== undefined).toSorted((a, b) => a - b)
  }

  /** What there is now, in the order of the numbers: whatever is done with it may add and delete. */
  values(): Array<A> {
    return this.numbers().map((key) => this.get(key)!)
  }

  private placeOf(key: number): number {
    const low = key | 0
    const mixed = Math.imul(low, this.low)
    return (low === key ? mixed : mixed ^ Math.imul(Math.floor(key / 2 ** 32), this.high)) >>> this.shift
  }

  /** Where the number is, or would be put. */
  private find(key: number): number {
    const { keys, places } = this
    const mask = keys.length - 1
    let place = this.placeOf(key)
    while (places[place] !== undefined && keys[place] !== key) place = (place + 1) & mask
    return place
  }

  private grow(): void {
    const { keys, places } = this
    this.shift--
    this.keys = new Array(2 * keys.length).fill(0)
    this.places = new Array(2 * keys.length).fill(undefined)
    for (const [place, value] of places.entries()) {
      if (value !== undefined) this.put(keys[place], value)
    }
  }

  private put(key: number, value: A): void {
    const place = this.find(key)
    this.keys[place] = key
    this.places[place] = value
  }
}

const oddByChance = (): number => Math.floor(Math.random() * 2 ** 32) | 1
