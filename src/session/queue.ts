/** PURE. A queue of deliveries with positions that only grow, so that a checkpoint can name ranges of it. */
import type { Delivery } from '../mqtt/message.ts'

/** Drained slots at the front before they are given back: rarely enough to be cheap, often enough to stay small. */
const COMPACT_SLOTS = 256

export class DeliveryQueue {
  /** Slots before `#first` are drained. */
  #slots: (Delivery | undefined)[] = []
  #first = 0
  #head: number
  #bytes = 0

  /** `position` is where the first entry will stand; a recovered queue goes on where it was. */
  constructor(position = 0) {
    this.#head = position
  }

  /** Position of the oldest entry. */
  get head(): number {
    return this.#head
  }

  /** One past the newest entry. */
  get tail(): number {
    return this.#head + this.length
  }

  get length(): number {
    return this.#slots.length - this.#first
  }

  /** Bytes of the messages that wait, by `message.size`. */
  get bytes(): number {
    return this.#bytes
  }

  push(delivery: Delivery): void {
    this.#slots.push(delivery)
    this.#bytes += delivery.message.size
  }

  /** The oldest entry; undefined when empty. */
  peek(): Delivery | undefined {
    return this.#slots[this.#first]
  }

  /** Takes the oldest entry off; undefined when empty. */
  shift(): Delivery | undefined {
    const delivery = this.#slots[this.#first]
    if (delivery === undefined) return undefined
    this.#slots[this.#first] = undefined
    this.#first++
    this.#head++
    this.#bytes -= delivery.message.size
    if (this.#first === this.#slots.length) {
      this.#slots = []
      this.#first = 0
    } else if (this.#first >= COMPACT_SLOTS && this.#first * 2 >= this.#slots.length) {
      this.#slots = this.#slots.slice(this.#first)
      this.#first = 0
    }
    return delivery
  }

  /** The entry at a position from `head` up to, not including, `tail`; throws RangeError elsewhere. */
  at(position: number): Delivery {
    const delivery = position < this.#head ? undefined : this.#slots[this.#first + position - this.#head]
    if (delivery === undefined) {
      throw new RangeError(`no queue entry at ${position} (head ${this.#head}, tail ${this.tail})`)
    }
    return delivery
  }

  *[Symbol.iterator](): IterableIterator<Delivery> {
    for (let position = this.#head; position < this.tail; position++) yield this.at(position)
  }
}
