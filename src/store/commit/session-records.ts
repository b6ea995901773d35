/**
 * HOT. Records changes of stored Sessions in the open block and in tables, and parks entries of their queues.
 */
import { type Delivery, Message } from '../../mqtt/message.ts'
import type { ChurnMap } from '../../structures/churn-map.ts'
import { SmallMap } from '../../structures/small-map.ts'
import { EntryFields } from '../format/entry.ts'
import { numberKey, put, subscriptionKey, Table } from '../format/format.ts'
import { RecordType } from '../format/journal-record.ts'
import { flightBytesMax, flightOf, writeFlight } from '../format/log-fields.ts'
import { encodeSession, encodeSubscription } from '../format/session-record.ts'
import type { BodyIndex } from '../journal/body-index.ts'
import { type Checkpoints, StoredSession } from '../journal/checkpoints.ts'
import type { Extensions } from '../journal/extensions.ts'
import type { OpenBlock } from '../journal/open-block.ts'
import { ParkedEntries } from '../journal/parked-entries.ts'
import type { Parked, SessionRecord, SubscriptionRecord } from '../store.ts'
import type { CommitProgress } from './commit-progress.ts'
import type { JournalTail } from './journal-tail.ts'
import type { PendingCommit, RecordingParts } from './pending-commit.ts'
import { parkedHere, type ReleasedEntries } from './released-entries.ts'

export class SessionRecords {
  readonly #pending: PendingCommit
  readonly #block: OpenBlock
  readonly #progress: CommitProgress
  readonly #tail: JournalTail
  readonly #bodies: BodyIndex
  readonly #checkpoints: Checkpoints
  readonly #released: ReleasedEntries
  readonly #extensions: Extensions
  /** By the Server's number. */
  readonly #sessions: ChurnMap<number, StoredSession>
  readonly #entry = new EntryFields()

  /** `extensions` are those of all that is parked; `sessions` those that are stored. */
  constructor(
    { pending, progress, tail, bodies, checkpoints }: RecordingParts,
    released: ReleasedEntries,
    extensions: Extensions,
    sessions: ChurnMap<number, StoredSession>,
  ) {
    this.#pending = pending
    this.#block = pending.block
    this.#progress = progress
    this.#tail = tail
    this.#bodies = bodies
    this.#checkpoints = checkpoints
    this.#released = released
    this.#extensions = extensions
    this.#sessions = sessions
  }

  putSession(sessionId: number, record: SessionRecord): void {
    let session = this.#sessions.get(sessionId)
    if (session === undefined) {
      session = new StoredSession(sessionId, this.#tail.takeSessionNumber())
      this.#sessions.set(sessionId, session)
      this.#checkpoints.created(session, this.#progress.sealed, this.#pending.operations)
    }
    this.#pending.write(put(numberKey(Table.Session, session.number), encodeSession(sessionId, record)))
  }

  deleteSession(sessionId: number, held: Iterable<Message | Parked>): void {
    const session = this.#session(sessionId)
    for (const item of held) {
      if (item instanceof Message) this.#bodies.release(item)
      else this.#released.add(parkedHere(item))
    }
    this.#released.release()
    this.#sessions.delete(sessionId)
    this.#pending.write({ type: 'del', key: numberKey(Table.Session, session.number) })
    for (const filter of session.filters?.keys() ?? []) {
      this.#pending.write({ type: 'del', key: subscriptionKey(session.number, filter) })
    }
    this.#checkpoints.deleted(session, this.#pending.operations)
  }

  putSubscription(sessionId: number, filter: string, record: SubscriptionRecord): void {
    const session = this.#session(sessionId)
    session.filters ??= new SmallMap()
    session.filters.set(filter, true)
    this.#pending.write(put(subscriptionKey(session.number, filter), encodeSubscription(record)))
  }

  deleteSubscription(sessionId: number, filter: string): void {
    const session = this.#session(sessionId)
    if (session.filters?.delete(filter) !== true) return
    this.#pending.write({ type: 'del', key: subscriptionKey(session.number, filter) })
  }

  enqueue(sessionId: number, delivery: Delivery): void {
    const session = this.#session(sessionId)
    const { message } = delivery
    const block = this.#block
    let body = this.#bodies.handle(message)
    if (body === null) {
      if (message.evicted) throw new Error('the body of an enqueued message is gone')
      const offset = block.body(message)
      body = this.#bodies.place(message, block.page, offset, message.retain)
      block.named(body)
      this.#pending.addMessage(message)
    }
    body.refs++
    block.enqueue(session.number, delivery, body)
    this.#checkpoints.touch(session, block.firstPage())
  }

  sent(sessionId: number, packetId: number): void {
    this.#block.sent(this.#touched(sessionId).number, packetId)
  }

  dropped(sessionId: number, message: Message): void {
    this.#block.dropped(this.#touched(sessionId).number)
    this.#bodies.release(message)
  }

  droppedParked(sessionId: number, parked: Parked): void {
    const session = this.#touched(sessionId)
    const entries = parkedHere(parked)
    for (let count = entries.length; count > 0; count--) this.#block.dropped(session.number)
    this.#released.add(entries)
    this.#released.release()
  }

  /** See `LogStore.sent`. */
  logSent(sessionId: number, packetId: number, delivery: Delivery): void {
    const flight = flightOf(delivery)
    if (flight === null) throw new Error('the delivery is from no group')
    const { number } = this.#touched(sessionId)
    const writer = this.#block.record(RecordType.LogSent, number, 2 + flightBytesMax(flight))
    writer.u16(packetId)
    writeFlight(writer, flight)
  }

  received(sessionId: number, packetId: number, message: Message | null): void {
    const session = this.#touched(sessionId)
    this.#block.received(session.number, packetId)
    if (message !== null) this.#bodies.release(message)
  }

  completed(sessionId: number, packetId: number, message: Message | null): void {
    this.#block.completed(this.#touched(sessionId).number, packetId)
    if (message !== null) this.#bodies.release(message)
  }

  inboundAdded(sessionId: number, packetId: number, digest: number): void {
    const session = this.#touched(sessionId)
    this.#block.inboundAdded(session.number, packetId, digest)
  }

  inboundRemoved(sessionId: number, packetId: number): void {
    const session = this.#touched(sessionId)
    this.#block.inboundRemoved(session.number, packetId)
  }

  park(delivery: Delivery, onto: Parked | null): Parked | null {
    const body = this.#bodies.handle(delivery.message)
    if (body === null || body.page.sequence > this.#progress.committed) return null
    const entries = onto instanceof ParkedEntries && !onto.full ? onto : new ParkedEntries(this.#extensions)
    const entry = this.#entry
    entry.describe(delivery)
    entry.page = body.namePage
    entry.offset = body.nameOffset
    entries.add(entry)
    this.#bodies.park(body)
    return entries
  }

  unpark(parked: Parked, count: number): Delivery[] {
    const entries = parkedHere(parked)
    const deliveries: Delivery[] = []
    const entry = this.#entry
    for (let index = 0; index < count; index++) {
      entries.read(index, entry)
      deliveries.push(entry.deliveryOf(this.#bodies.unpark(entry)))
    }
    entries.remove(count)
    return deliveries
  }

  peek(parked: Parked, index: number): Delivery {
    parkedHere(parked).read(index, this.#entry)
    return this.#entry.deliveryOf(this.#bodies.peek(this.#entry))
  }

  requeue(sessionId: number, parked: Parked, now: number, gone: (delivery: Delivery) => void): Parked[] {
    const session = this.#touched(sessionId)
    const entries = parkedHere(parked)
    const block = this.#block
    const entry = this.#entry
    const kept: ParkedEntries[] = []
    let into: ParkedEntries | null = null
    for (let index = 0; index < entries.length; index++) {
      entries.read(index, entry)
      block.dropped(session.number)
      if (entry.expiresAt <= now) {
        const delivery = entry.deliveryOf(this.#bodies.peek(entry))
        this.#bodies.releaseParked(entry)
        gone(delivery)
        continue
      }
      block.enqueueFar(session.number, entry)
      if (into === null || into.full) {
        into = new ParkedEntries(this.#extensions)
        kept.push(into)
      }
      into.add(entry)
    }
    entries.remove(entries.length)
    return kept
  }

  /** The stored Session. Throws for one that is not stored: the Server never records anything about those. */
  #session(sessionId: number): StoredSession {
    const session = this.#sessions.get(sessionId)
    if (session === undefined) throw new Error(`Session ${sessionId} is not stored`)
    return session
  }

  /** The stored Session, marked as changed by the open block. */
  #touched(sessionId: number): StoredSession {
    const session = this.#session(sessionId)
    this.#checkpoints.touch(session, this.#block.firstPage())
    return session
  }
}
