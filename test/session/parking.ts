/** Parks as a store does, for tests of queues: entries keep their deliveries, and say what was done. */
import type { Delivery } from '../../src/mqtt/message.ts'
import type { Parking } from '../../src/session/delivery-queue.ts'
import { HeldBytes } from '../../src/store/held-bytes.ts'
import type { Parked } from '../../src/store/store.ts'

export class ParkedDeliveries implements Parked {
  readonly deliveries: Delivery[] = []
  added = 0

  get length(): number {
    return this.deliveries.length
  }

  get bytes(): number {
    return this.deliveries.reduce((sum, { message }) => sum + message.size, 0)
  }

  get expires(): boolean {
    return this.deliveries.some(({ message }) => message.expiresAt !== Number.POSITIVE_INFINITY)
  }

  expiresAt(index: number): number {
    return this.deliveries[index]!.message.expiresAt
  }

  sizeAt(index: number): number {
    return this.deliveries[index]!.message.size
  }

  get shared(): boolean {
    return this.deliveries.some(({ share }) => share !== null)
  }
}

export class TestParking implements Parking {
  /** Whether everything is on disk: only then it can be parked. */
  durable = true
  readonly held = new HeldBytes()
  parked = 0
  readonly #max: number

  /** `max` is how many entries go together. */
  constructor(max: number) {
    this.#max = max
  }

  isMemoryShort = false
  /** Alone not on disk. */
  undurable: Delivery | null = null
  entryBytes = 0

  countEntries(bytes: number): void {
    this.entryBytes += bytes
  }

  park(delivery: Delivery, onto: Parked | null): Parked | null {
    if (!this.durable || delivery === this.undurable) return null
    const entries = onto instanceof ParkedDeliveries && onto.added < this.#max ? onto : new ParkedDeliveries()
    entries.deliveries.push(delivery)
    entries.added++
    this.parked++
    return entries
  }

  unpark(parked: Parked, count: number): Delivery[] {
    return entriesOf(parked).deliveries.splice(0, count)
  }

  peek(parked: Parked, index: number): Delivery {
    return entriesOf(parked).deliveries[index]!
  }
}

export function entriesOf(parked: Parked): ParkedDeliveries {
  if (parked instanceof ParkedDeliveries) return parked
  throw new Error('parked by another store')
}
