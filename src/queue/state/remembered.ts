/** PURE. The ids of messages that a queue took lately. They have positions that only grow. */

/** Memory of an id, without its characters. */
const ID_BYTES = 80

export interface RememberedId {
  /** Broker time in ms at which it was taken. */
  readonly time: number
  readonly id: string
}

export class Remembered {
  /** The position of the oldest one. */
  head: number
  /**
   * An id that comes again after it was forgotten can be in the list twice after a restart: the newest
   * counts.
   */
  readonly #known = new Map<string, RememberedId>()
  /** Oldest first; those before `#from` are forgotten. */
  #ids: RememberedId[] = []
  #from = 0
  #characters = 0

  constructor(head: number, ids: Iterable<RememberedId>) {
    this.head = head
    for (const { id, time } of ids) this.#add(id, time)
  }

  /** One past the newest. */
  get tail(): number {
    return this.head + this.size
  }

  get size(): number {
    return this.#ids.length - this.#from
  }

  get bytesHeld(): number {
    return ID_BYTES * this.size + this.#characters
  }

  /** Broker time at which the oldest one was taken; `Infinity` if there is none. */
  get oldestTime(): number {
    return this.#ids[this.#from]?.time ?? Number.POSITIVE_INFINITY
  }

  has(id: string): boolean {
    return this.#known.has(id)
  }

  /** Adds one that is not known. */
  add(id: string, time: number): void {
    this.#add(id, time)
  }

  /** Forgets the oldest until there are `most`. Returns how many. */
  trim(most: number): number {
    const before = this.size
    while (this.size > most) this.#forgetOldest()
    return before - this.size
  }

  /** Forgets those that were taken at `time` or before. */
  forget(time: number): void {
    while (this.oldestTime <= time) this.#forgetOldest()
  }

  /** Iterates those from one position up to, not including, another. */
  *between(from: number, to: number): IterableIterator<RememberedId> {
    for (let at = Math.max(from, this.head); at < Math.min(to, this.tail); at++) {
      yield this.#ids[this.#from + at - this.head]!
    }
  }

  #add(id: string, time: number): void {
    const one = { time, id }
    this.#known.set(id, one)
    this.#ids.push(one)
    this.#characters += id.length
  }

  #forgetOldest(): void {
    const oldest = this.#ids[this.#from]!
    const { id } = oldest
    if (this.#known.get(id) === oldest) this.#known.delete(id)
    this.#characters -= id.length
    this.#from++
    this.head++
    if (this.#from < 64 || this.#from * 2 < this.#ids.length) return
    this.#ids = this.#ids.slice(this.#from)
    this.#from = 0
  }
}
