/**
 * HOT. The messages that were sent to one client and are not yet acknowledged, and the packet identifiers
 * they hold. While the client is away and memory is short they are parked in the store.
 */
import { type Delivery, Message, NO_TOPIC } from '../mqtt/message.ts'
import type { InFlight, Parked, ParkedFlight, RecoveredSession } from '../store/store.ts'
import type { InnerSession } from './context.ts'
import { entryBytes, parkedAll } from './delivery-queue.ts'
import { InFlightEntry, InFlightTable } from './in-flight-table.ts'

export const PACKET_ID_MAX = 65_535

/** Memory that an InFlightEntry takes. */
const ENTRY_BYTES = 80
/** Fewer messages in flight are not worth parking: the object they are parked in takes as much. */
const PARKED_MIN = 4

// Most Sessions have nothing in flight at any one time: shared, never added to.
const EMPTY_TABLE = new InFlightTable()

/** Stands in for a message in flight whose body nobody needs any more. */
const FORGOTTEN = Message.of({ topic: NO_TOPIC, qos: 0, retain: false, publisher: '' }, 0)

export class InFlightMessages {
  readonly #session: InnerSession
  #table: InFlightTable = EMPTY_TABLE
  /** Everything in flight while it is parked; `#table` is empty then. */
  #parked: ParkedFlight | null = null
  /** Bytes of the messages in flight, by `message.size`. */
  #bytes = 0
  #lastPacketId = 0

  constructor(session: InnerSession) {
    this.#session = session
  }

  /** Takes over what the store remembers. */
  static recovered(session: InnerSession, { lastPacketId, inFlight }: RecoveredSession): InFlightMessages {
    const isParked = 'packetIds' in inFlight
    if (lastPacketId === 0 && !isParked && inFlight.length === 0) return NOTHING_IN_FLIGHT
    const recovered = new InFlightMessages(session)
    recovered.#lastPacketId = lastPacketId
    if (isParked) {
      recovered.#parked = inFlight
      for (const { bytes } of inFlight.parked) recovered.#bytes += bytes
    } else for (const { packetId, delivery } of inFlight) recovered.#add(packetId, delivery, false)
    return recovered
  }

  /** Messages that are not parked. */
  get size(): number {
    return this.#table.size
  }

  /** Messages in flight, parked ones included. */
  get count(): number {
    return this.#table.size + this.parkedCount
  }

  get bytes(): number {
    return this.#bytes
  }

  get parkedCount(): number {
    return this.#parked?.packetIds.length ?? 0
  }

  get parkedBytes(): number {
    return this.#parked?.parked.reduce((sum, { bytes }) => sum + bytes, 0) ?? 0
  }

  /** The packet identifier of the latest message that was sent. */
  get lastPacketId(): number {
    return this.#lastPacketId
  }

  /** The next packet identifier, from 1 upward, that is not in flight [MQTT-2.2.1-4]. */
  freePacketId(): number {
    let packetId = this.#lastPacketId
    do packetId = packetId === PACKET_ID_MAX ? 1 : packetId + 1
    while (this.#table.get(packetId) !== null)
    return packetId
  }

  /** The entry of a packet identifier; null where it is not in use. */
  get(packetId: number): InFlightEntry | null {
    return this.#table.get(packetId)
  }

  get oldest(): InFlightEntry | null {
    return this.#table.oldest
  }

  /** All entries that are not parked, oldest first. */
  entries(): Iterable<InFlightEntry> {
    return this.#table
  }

  /** Adds a message that was sent under a packet identifier that was free. */
  sent(packetId: number, delivery: Delivery): void {
    this.#lastPacketId = packetId
    this.#add(packetId, delivery, true)
  }

  #add(packetId: number, delivery: Delivery | null, charged: boolean): void {
    if (this.#table === EMPTY_TABLE) this.#table = new InFlightTable()
    this.#table.add(new InFlightEntry(packetId, delivery, charged))
    if (delivery === null) return
    this.#bytes += delivery.message.size
    const { stored, context } = this.#session
    if (stored) context.store.countEntries(flightBytes(delivery))
    context.store.held.hold(delivery.message)
    this.#session.changed()
  }

  /** Ends a delivery, whatever becomes of its packet identifier. */
  #release(delivery: Delivery | null): void {
    const session = this.#session
    session.changed()
    if (delivery === null) return
    this.#bytes -= delivery.message.size
    const { store } = session.context
    if (session.stored) store.countEntries(-flightBytes(delivery))
    store.held.letGo(delivery.message)
  }

  /** Keeps only the packet identifier of a queue's message that went elsewhere, until the client answers. */
  abandon(entry: InFlightEntry, delivery: Delivery): void {
    entry.delivery = { ...delivery, isEcho: true }
    const { id, stored, context } = this.#session
    // It is not sent again, and the identifier ends with the connection: the store needs no trace of it. At
    // QoS 2 PUBREC may follow, and PUBREL is sent again.
    if (stored && delivery.qos < 2) context.store.completed(id, entry.packetId, null)
  }

  /** Forgets identifiers that were kept for the client's answer: it cannot answer any more. */
  forgetEchoes(): void {
    for (const entry of [...this.#table]) if (entry.delivery?.isEcho === true) this.complete(entry)
  }

  /** Handles PUBREC: keeps only the packet identifier, until PUBCOMP. */
  received(entry: InFlightEntry, delivery: Delivery): void {
    this.#release(delivery)
    entry.delivery = null
    // PUBRELs go in the order of the PUBRECs [MQTT-4.6.0-4], also when they are sent again.
    this.#table.delete(entry)
    this.#table.add(entry)
    const { id, stored, context } = this.#session
    if (stored) context.store.received(id, entry.packetId, bodyOf(delivery))
  }

  /** Frees an entry's packet identifier, whether its delivery is complete or given up. */
  complete(entry: InFlightEntry): void {
    const { packetId, delivery } = entry
    this.#table.delete(entry)
    this.#release(delivery)
    const { id, stored, context } = this.#session
    if (!stored || (delivery !== null && !isRecorded(delivery))) return
    context.store.completed(id, packetId, delivery === null ? null : bodyOf(delivery))
  }

  /** Parks all or nothing; what cannot be parked yet is tried again later. Returns how many were parked. */
  park(): number {
    const { size } = this.#table
    if (size < PARKED_MIN) return 0
    const packetIds = new Int32Array(size)
    const deliveries: Delivery[] = []
    let index = 0
    for (const { packetId, delivery } of this.#table) {
      if (delivery?.source !== undefined) return 0
      packetIds[index++] = delivery === null ? -packetId : packetId
      if (delivery !== null) deliveries.push(delivery)
    }
    const { store } = this.#session.context
    const parked = parkedAll(store, deliveries)
    if (parked === null) return 0
    for (const delivery of deliveries) {
      store.countEntries(-flightBytes(delivery))
      store.held.letGo(delivery.message)
    }
    this.#session.changed()
    this.#parked = { packetIds, parked }
    this.#table = EMPTY_TABLE
    return size
  }

  /** Takes parked messages back into memory. */
  unpark(): void {
    if (this.#parked === null) return
    const { packetIds, parked } = this.#parked
    const { store } = this.#session.context
    const deliveries = parked.flatMap((entries) => store.unpark(entries, entries.length))
    this.#parked = null
    this.#bytes = 0
    let next = 0
    for (const packetId of packetIds) {
      if (packetId < 0) this.#add(-packetId, null, false)
      else this.#add(packetId, deliveries[next++]!, false)
    }
  }

  /** Releases all messages of a Session that has ended. */
  forget(): void {
    if (this.#table.size > 0) for (const { delivery } of this.#table) this.#release(delivery)
    this.#table = EMPTY_TABLE
    this.#parked = null
    this.#bytes = 0
  }

  /** Releases the bodies of messages that did not come by a Shared Subscription. Returns their bytes. */
  forgetBodies(): number {
    const before = this.#bytes
    for (const entry of this.#table) {
      const { delivery } = entry
      if (delivery === null || delivery.share !== null || delivery.message === FORGOTTEN) continue
      if (delivery.source !== undefined) continue // its body is not here
      this.#release(delivery)
      this.#session.context.store.held.hold(FORGOTTEN)
      entry.delivery = { ...delivery, message: FORGOTTEN }
    }
    this.#session.changed()
    return before - this.#bytes
  }

  /** Adds messages whose bodies are in memory to `messages`, up to `count` of them. */
  sample(count: number, messages: Message[]): void {
    for (const { delivery } of this.#table) {
      if (messages.length === count) return
      if (delivery !== null && !delivery.message.evicted) messages.push(delivery.message)
    }
  }

  /** All messages that the store keeps for the Session, parked ones together. */
  *messages(): IterableIterator<Message | Parked> {
    for (const { delivery } of this.#table) {
      const message = delivery === null ? null : bodyOf(delivery)
      if (message !== null) yield message
    }
    if (this.#parked !== null) yield* this.#parked.parked
  }

  /** All that is in flight, for a checkpoint. An item that is parked is valid until the next commit. */
  records(): Iterable<InFlight> {
    if (this.#parked !== null) return this.#parkedRecords(this.#parked)
    return this.#session.consumers === null ? this.#table : this.#withoutEchoes()
  }

  *#withoutEchoes(): Generator<InFlight, void, undefined> {
    for (const entry of this.#table) if (entry.delivery === null || isRecorded(entry.delivery)) yield entry
  }

  *#parkedRecords({ packetIds, parked }: ParkedFlight): Generator<InFlight, void, undefined> {
    let chunk = 0
    let index = 0
    for (const packetId of packetIds) {
      if (packetId < 0) {
        yield { packetId: -packetId, delivery: null }
        continue
      }
      if (index === parked[chunk]!.length) {
        chunk++
        index = 0
      }
      yield { packetId, delivery: this.#session.context.store.peek(parked[chunk]!, index++) }
    }
  }
}

/** The message, where its body belongs to the Session and not to a queue. */
function bodyOf({ message, source }: Delivery): Message | null {
  return source === undefined ? message : null
}

/** Of a Session that never sent a message above QoS 0, as many never do: shared, never added to. */
export const NOTHING_IN_FLIGHT = new InFlightMessages({
  id: 0,
  stored: false,
  durableAt: 0,
  ended: true,
  isRestoring: false,
  consumers: null,
  get context(): never {
    throw new Error('nothing is in flight')
  },
  changed: () => {},
  pump: () => {},
})

/** Memory that a message in flight takes besides its body. */
function flightBytes(delivery: Delivery): number {
  return ENTRY_BYTES + entryBytes(delivery)
}

/** Whether the store knows that it is in flight. */
function isRecorded({ isEcho, qos }: Delivery): boolean {
  return isEcho !== true || qos === 2
}
