/**
 * Finds the bodies of deliveries, and numbers the messages: each message record comes once, before its first
 * delivery.
 */

import { NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { EntryFields } from '../format/entry.ts'
import type { Body } from '../format/journal-record.ts'
import type { PageTimes } from '../format/time-record.ts'
import type { StoredBodies } from '../journal/stored-bodies.ts'
import type { DeliveryFields, MessageRecord } from './records.ts'
import type { WallTimes } from './wall-times.ts'

/** Offsets that bodies in a page can have: they are 16 bits. */
const OFFSETS = 0x10000

export class MessageRecords {
  readonly #bodies: StoredBodies
  readonly #times: PageTimes
  readonly #wallTimes: WallTimes
  /** The number of the message record, by page and offset of its body in one number. */
  readonly #numbers = new Map<number, number>()

  constructor(bodies: StoredBodies, times: PageTimes, wallTimes: WallTimes) {
    this.#bodies = bodies
    this.#times = times
    this.#wallTimes = wallTimes
  }

  /** The bodies of these entries, in their order; null for those that are lost. */
  load(entries: readonly EntryFields[]): Promise<(Body | null)[]> {
    return this.#bodies.load(entries)
  }

  /** The message record of an entry; undefined when it came before. */
  recordOf({ page, offset }: EntryFields, body: Body): MessageRecord | undefined {
    const name = page * OFFSETS + offset
    if (this.#numbers.has(name)) return undefined
    const number = this.#numbers.size + 1
    this.#numbers.set(name, number)
    const expiresAt = this.#wallTimes.expiry(this.#times.expiry(page, body.expiresAt))
    return { type: 'message', number, ...body, expiresAt }
  }

  /** The delivery of an entry whose message record came before. */
  deliveryOf({ page, offset, deliveryQoS, deliveryRetain, extension }: EntryFields): DeliveryFields {
    return {
      message: this.#numbers.get(page * OFFSETS + offset)!,
      qos: deliveryQoS,
      retain: deliveryRetain,
      subscriptionIdentifiers: extension?.subscriptionIdentifiers ?? NO_IDENTIFIERS,
      share: extension?.share ?? null,
    }
  }
}
