/**
 * Reads a LevelDB back into Sessions, retained messages and Wills, and checks every value on the way.
 *
 * First the tables and each Session's checkpoint, then the journal's pages from `Meta.scanFromPage` to the end: their
 * numbers and those of their blocks must be contiguous. A record is applied to a Session only when its checkpoint
 * does not cover the block. LevelDB drops damaged batches from its log without a word; the scan therefore begins
 * early enough to contain every block that may still lie in that log, so that such a hole is always seen.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../mqtt/message.ts'
import type { QoS } from '../mqtt/packet.ts'
import { type Bodies, type Forward, type ForwardGroup, Page, StoredBody } from './bodies.ts'
import { type Checkpoints, decodeSession, decodeSubscription, readHead, StoredSession } from './checkpoint.ts'
import type { Database } from './database.ts'
import { ByteReader } from './encoding.ts'
import { EntryReader, readIdentifiers } from './entry.ts'
import {
  corrupt,
  keyFilter,
  keyNumber,
  keyPosition,
  LOSS,
  numberKey,
  Table,
  tableRange,
  unsealed,
} from './format.ts'
import {
  copied,
  messageOf,
  PAGE_HEADER_BYTES,
  type PageHeader,
  RecordType,
  readBody,
  readPageHeader,
  type TopicTable,
} from './journal.ts'
import type { Meta } from './meta.ts'
import { MsgpackDecoder } from './msgpack.ts'
import { decodeRetained, decodeWill, RETAINED_RANGE, WILL_RANGE } from './retained.ts'
import {
  type Recovered,
  type RecoveredSession,
  type SessionRecord,
  StoreError,
  type SubscriptionRecord,
  type WillRecord,
} from './store.ts'

/** Pages of one directory value. */
export const DIRECTORY_PAGES = 256
/** Values that are read at once. */
const SLICE_VALUES = 1000
const EXTENDED = 0x08
const RETAIN = 0x04

/** What recovery is given; `bodies` and `checkpoints` are empty and are filled. */
export interface RecoveryInput {
  readonly db: Database
  readonly meta: Meta
  readonly bodies: Bodies
  readonly checkpoints: Checkpoints
  readonly topics: TopicTable
  readonly residentBytesMax: number
  /** What a page adds to `Page.writtenBefore`, with its share of the batch. */
  readonly pageCostBytes: (value: Buffer) => number
}

export interface RecoveryResult {
  readonly recovered: Recovered
  readonly sessions: ReadonlyMap<number, StoredSession>
  readonly lastSequence: number
  readonly nextPage: number
  readonly nextSession: number
  /** Sum of the costs of the pages that were scanned. */
  readonly writtenBytes: number
}

/** Throws StoreError, `corrupt` mostly. */
export async function recover(input: RecoveryInput): Promise<RecoveryResult> {
  return new Recovery(input).run()
}

/** A Session while it is put together. */
interface Growing {
  readonly stored: StoredSession
  readonly record: SessionRecord
  readonly subscriptions: (readonly [filter: string, record: SubscriptionRecord])[]
  covered: number
  lastPacketId: number
  /** Of the checkpoint. */
  head: number
  tail: number
  readonly queue: (Delivery | undefined)[]
  /** Index in `queue` of the entry at `head`. */
  taken: number
  readonly inFlight: Map<number, Delivery | null>
  readonly inbound: Set<number>
  hasHead: boolean
}

class Recovery {
  readonly #input: RecoveryInput
  readonly #db: Database
  readonly #growing = new Map<number, Growing>()
  /** Messages by the page and offset that name them. */
  readonly #messages = new Map<number, Map<number, Message>>()
  /**
   * Segments that were written ahead of a head value which a crash prevented. They are deleted before anything is
   * recorded: their entries come out of the journal, perhaps under other positions.
   */
  readonly #ahead: Buffer[] = []
  #residentBytes = 0
  #writtenBytes = 0

  constructor(input: RecoveryInput) {
    this.#input = input
    this.#db = input.db
  }

  async run(): Promise<RecoveryResult> {
    await this.#directory()
    await this.#forwards()
    await this.#sessions()
    await this.#heads()
    await this.#segments()
    await this.#subscriptions()
    const last = await this.#scan()
    const sessions = this.#finished()
    const decoder = new MsgpackDecoder()
    const retained: Message[] = []
    const wills: (readonly [string, WillRecord])[] = []
    await this.#each(RETAINED_RANGE, (key, value) => retained.push(decodeRetained(key, value, decoder)))
    await this.#each(WILL_RANGE, (key, value) => wills.push(decodeWill(key, value, decoder)))
    this.#releasePages()
    return {
      recovered: { brokerTime: last.brokerTime, wallTime: last.wallTime, sessions, retained, wills },
      sessions: new Map([...this.#growing.values()].map(({ stored }) => [stored.id, stored])),
      lastSequence: last.sequence,
      nextPage: last.page + 1,
      nextSession: last.nextSession,
      writtenBytes: this.#writtenBytes,
    }
  }

  async #directory(): Promise<void> {
    await this.#table(Table.Directory, (key, reader) => {
      const first = keyNumber(key) * DIRECTORY_PAGES
      for (let index = 0; index < DIRECTORY_PAGES && !reader.atEnd; index++) {
        const bytes = reader.varint()
        if (bytes === 0 || first + index >= this.#input.meta.scanFromPage) continue
        const page = new Page(first + index, 0, 0)
        page.bytes = bytes
        this.#input.bodies.addPage(page)
      }
    })
  }

  async #forwards(): Promise<void> {
    await this.#table(Table.Forward, (key, reader) => {
      const group: ForwardGroup = { page: keyNumber(key), forwards: new Map<number, Forward>() }
      for (let count = reader.varint(); count > 0; count--) {
        const nameOffset = reader.u16()
        const number = reader.varint()
        // A page of the scan is not in the index yet; `#finished` puts the real one in.
        const page = new Page(number, 0, 0)
        group.forwards.set(nameOffset, { group, nameOffset, page, offset: reader.u16() })
      }
      this.#input.bodies.groups.set(group.page, group)
    })
  }

  async #sessions(): Promise<void> {
    await this.#table(Table.Session, (key, reader) => {
      const { id, record } = decodeSession(reader)
      this.#growing.set(keyNumber(key), {
        stored: new StoredSession(id, keyNumber(key)),
        record,
        subscriptions: [],
        covered: 0,
        lastPacketId: 0,
        head: 0,
        tail: 0,
        queue: [],
        taken: 0,
        inFlight: new Map(),
        inbound: new Set(),
        hasHead: false,
      })
    })
  }

  async #heads(): Promise<void> {
    await this.#table(Table.CheckpointHead, (key, reader) => {
      const session = this.#growing.get(keyNumber(key))
      if (session === undefined) return
      const head = readHead(reader)
      session.hasHead = true
      session.covered = head.covered
      session.lastPacketId = head.lastPacketId
      session.head = head.queueHead
      session.queue.length = head.queueTail - head.queueHead
      session.tail = head.queueTail
      session.stored.written = head.queueHead
      const entries = new EntryReader(reader, this.#find)
      for (let count = reader.varint(); count > 0; count--) {
        const packetId = reader.u16()
        session.inFlight.set(packetId, reader.u8() === 0 ? null : entries.read())
      }
      for (let count = reader.varint(); count > 0; count--) session.inbound.add(reader.u16())
    })
    for (const [number, session] of this.#growing) {
      if (!session.hasHead) throw corrupt(`Session ${number} has no checkpoint`, LOSS.session)
    }
  }

  async #segments(): Promise<void> {
    await this.#table(Table.CheckpointSegment, (key, reader) => {
      const number = keyNumber(key)
      const segment = { from: keyPosition(key), to: reader.varint() }
      const session = this.#growing.get(number)
      if (session === undefined || segment.to <= session.head) {
        this.#input.checkpoints.discard(number, [segment])
        return
      }
      if (segment.from >= session.tail) {
        this.#ahead.push(key)
        return
      }
      session.stored.segments.push(segment)
      session.stored.written = segment.to
      const entries = new EntryReader(reader, this.#find)
      for (let position = segment.from; position < segment.to; position++) {
        const delivery = entries.read()
        if (position >= session.head) session.queue[position - session.head] = delivery
      }
    })
    await this.#db.batch(this.#ahead.map((key) => ({ type: 'del', key })))
    for (const [number, session] of this.#growing) {
      if (session.queue.includes(undefined)) {
        throw corrupt(`part of the queue of Session ${number} is missing`, LOSS.messages)
      }
    }
  }

  async #subscriptions(): Promise<void> {
    await this.#table(Table.Subscription, (key, reader) => {
      const session = this.#growing.get(keyNumber(key))
      if (session === undefined) throw corrupt(`Session ${keyNumber(key)} is missing`, LOSS.session)
      const filter = keyFilter(key)
      session.subscriptions.push([filter, decodeSubscription(reader)])
      session.stored.filters ??= new Set()
      session.stored.filters.add(filter)
    })
  }

  /** Applies the journal; returns its last page's header. */
  async #scan(): Promise<PageHeader> {
    const { meta } = this.#input
    let last: PageHeader | null = null
    let nextPage = meta.scanFromPage
    let block: Block | null = null
    const range = { gte: numberKey(Table.Journal, meta.scanFromPage), lt: tableRange(Table.Journal).lt }
    await this.#each(range, (key, value) => {
      if (keyNumber(key) !== nextPage) throw this.#gap(nextPage, keyNumber(key))
      const header = readPageHeader(nextPage++, value)
      const expected = last === null ? meta.scanFromSequence : last.last ? last.sequence + 1 : last.sequence
      if (header.sequence !== expected || header.first !== (last === null || last.last)) {
        throw corrupt(`block ${expected} of the journal is incomplete`, LOSS.messages)
      }
      if (header.first || block === null) block = new Block(this.#input.bodies, header, this.#writtenBytes)
      this.#writtenBytes += this.#input.pageCostBytes(value)
      this.#page(block, block.page(header.page, value.length), value)
      last = header
    })
    const end = last as PageHeader | null
    if (end === null || !end.last) throw this.#gap(nextPage, nextPage)
    if (end.sequence < meta.sequence || (meta.clean && end.sequence !== meta.sequence)) {
      throw corrupt(`its journal ends at block ${end.sequence}, not at ${meta.sequence}`, LOSS.messages)
    }
    return end
  }

  #gap(expected: number, found: number): StoreError {
    const what =
      found === expected
        ? `the journal ends before page ${expected}`
        : `pages ${expected} to ${found - 1} of the journal are missing`
    return corrupt(what, LOSS.messages)
  }

  #page(block: Block, page: Page, value: Buffer): void {
    const reader = new ByteReader(value, PAGE_HEADER_BYTES)
    try {
      while (!reader.atEnd) this.#record(block, page, reader)
    } catch (error) {
      if (error instanceof StoreError) throw error
      throw corrupt(`journal page ${page.number} cannot be decoded`, LOSS.messages, error)
    }
  }

  #record(block: Block, page: Page, reader: ByteReader): void {
    const type = reader.u8()
    if (type === RecordType.Body) {
      this.#body(block, page, reader)
      return
    }
    if (type === RecordType.MovedBody) {
      readBody(reader)
      return
    }
    const number = reader.varint()
    const known = this.#growing.get(number)
    const session = known !== undefined && known.covered < block.sequence ? known : undefined
    if (session !== undefined) this.#input.checkpoints.touch(session.stored, block.firstPage)
    switch (type) {
      case RecordType.EnqueueLatest:
      case RecordType.EnqueueNear: {
        const message = type === RecordType.EnqueueLatest ? block.latest : this.#near(block, reader)
        const delivery = readReference(reader, message)
        session?.queue.push(delivery)
        return
      }
      case RecordType.EnqueueFar: {
        const delivery = new EntryReader(reader, this.#find).read()
        session?.queue.push(delivery)
        return
      }
      case RecordType.Sent: {
        const packetId = reader.u16()
        if (session === undefined) return
        session.inFlight.set(packetId, this.#pop(session))
        session.lastPacketId = packetId
        return
      }
      case RecordType.Dropped:
        if (session !== undefined) this.#pop(session)
        return
      case RecordType.Received: {
        const packetId = reader.u16()
        if (session === undefined) return
        if (!session.inFlight.has(packetId)) throw new RangeError(`packet ${packetId} is not in flight`)
        // PUBRELs are sent again in the order of the PUBRECs [MQTT-4.6.0-4].
        session.inFlight.delete(packetId)
        session.inFlight.set(packetId, null)
        return
      }
      case RecordType.Completed: {
        const packetId = reader.u16()
        if (session !== undefined && !session.inFlight.delete(packetId)) {
          throw new RangeError(`packet ${packetId} is not in flight`)
        }
        return
      }
      case RecordType.InboundAdded: {
        const packetId = reader.u16()
        session?.inbound.add(packetId)
        return
      }
      case RecordType.InboundRemoved: {
        const packetId = reader.u16()
        session?.inbound.delete(packetId)
        return
      }
      default:
        throw new RangeError(`record type ${type} is not known`)
    }
  }

  #body(block: Block, page: Page, reader: ByteReader): void {
    const offset = reader.at
    const body = readBody(reader)
    let message = this.#messages.get(page.number)?.get(offset)
    const fits = this.#residentBytes < this.#input.residentBytesMax
    if (message === undefined) {
      message = messageOf(body, this.#input.topics.topic(body.topic))
      this.#remember(page.number, offset, message)
      if (fits) this.#residentBytes += message.size
      else message.evict()
    } else if (message.evicted && fits) {
      message.restore(this.#input.topics.topic(body.topic), ...copied(body))
      this.#residentBytes += message.size
    }
    block.latest = message
  }

  #near(block: Block, reader: ByteReader): Message {
    const number = block.firstPage.number + reader.varint()
    const offset = reader.u16()
    const message = this.#messages.get(number)?.get(offset)
    if (message === undefined) throw new RangeError(`no body at ${offset} of page ${number}`)
    return message
  }

  #pop(session: Growing): Delivery {
    const delivery = session.queue[session.taken]
    if (delivery === undefined) throw new RangeError('the queue is empty')
    session.queue[session.taken++] = undefined
    return delivery
  }

  readonly #find = (page: number, offset: number, entry: EntryReader): Message => {
    const known = this.#messages.get(page)?.get(offset)
    if (known !== undefined) return known
    const message = entry.evictedMessage()
    this.#remember(page, offset, message)
    return message
  }

  #remember(page: number, offset: number, message: Message): void {
    let offsets = this.#messages.get(page)
    if (offsets === undefined) {
      offsets = new Map()
      this.#messages.set(page, offsets)
    }
    offsets.set(offset, message)
    message.stored = new BodyName(page, offset)
  }

  #finished(): RecoveredSession[] {
    const sessions: RecoveredSession[] = []
    for (const session of this.#growing.values()) {
      const queue = session.queue.slice(session.taken).filter((delivery) => delivery !== undefined)
      session.queue.length = 0
      const inFlight = [...session.inFlight].map(([packetId, delivery]) => ({ packetId, delivery }))
      for (const { message } of queue) this.#refer(message)
      for (const { delivery } of inFlight) if (delivery !== null) this.#refer(delivery.message)
      sessions.push({
        id: session.stored.id,
        record: session.record,
        subscriptions: session.subscriptions,
        inFlight,
        queue,
        queueHead: session.head + session.taken,
        lastPacketId: session.lastPacketId,
        inbound: [...session.inbound],
      })
    }
    this.#dropUnclaimedForwards()
    return sessions
  }

  /** One more delivery refers to the message; its body must be there. */
  #refer(message: Message): void {
    const { bodies } = this.#input
    const name = message.stored
    if (name instanceof BodyName) {
      const forward = bodies.groups.get(name.page)?.forwards.get(name.offset)
      const page = bodies.pages.get(forward?.page.number ?? name.page)
      if (page === undefined) throw corrupt('the body of a queued message is missing', LOSS.messages)
      const body = bodies.place(message, page, forward?.offset ?? name.offset, false)
      if (forward !== undefined) {
        forward.page = page
        body.forward = forward
      }
    }
    if (message.stored instanceof StoredBody) message.stored.refs++
  }

  /** Bodies that died in the last block before a crash left theirs behind. */
  #dropUnclaimedForwards(): void {
    const { groups, pages, changedGroups } = this.#input.bodies
    for (const group of groups.values()) {
      for (const [offset, { page }] of group.forwards) {
        if (pages.get(page.number) === page) continue
        group.forwards.delete(offset)
        changedGroups.add(group)
      }
    }
  }

  #releasePages(): void {
    for (const page of this.#input.bodies.pages.values()) {
      if (page.number < this.#input.meta.scanFromPage) this.#input.bodies.pageReleased(page)
    }
  }

  async #table(table: Table, read: (key: Buffer, reader: ByteReader) => void): Promise<void> {
    await this.#each(tableRange(table), (key, value) => {
      const reader = new ByteReader(unsealed(key, value))
      try {
        read(key, reader)
      } catch (error) {
        if (error instanceof StoreError) throw error
        throw corrupt(`the value of key ${key.toString('hex')} cannot be decoded`, LOSS.session, error)
      }
    })
  }

  async #each(range: { gte: Buffer; lt: Buffer }, read: (key: Buffer, value: Buffer) => void): Promise<void> {
    const iterator = this.#db.iterator({ ...range, highWaterMarkBytes: 1024 * 1024 })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) return
        for (const [key, value] of entries) read(key, value)
      }
    } finally {
      await iterator.close()
    }
  }
}

/** `Message.stored` until it is known whether anybody still needs the body. */
class BodyName {
  readonly page: number
  readonly offset: number

  constructor(page: number, offset: number) {
    this.page = page
    this.offset = offset
  }
}

/** The block that is being scanned. */
class Block {
  readonly sequence: number
  readonly firstPage: Page
  #latest: Message | null = null
  readonly #bodies: Bodies

  constructor(bodies: Bodies, header: PageHeader, writtenBefore: number) {
    this.#bodies = bodies
    this.sequence = header.sequence
    this.firstPage = new Page(header.page, header.sequence, writtenBefore)
  }

  get latest(): Message {
    if (this.#latest === null) throw new RangeError('an enqueue without a body')
    return this.#latest
  }

  set latest(message: Message) {
    this.#latest = message
  }

  /** The Page of this number, added to the index. */
  page(number: number, bytes: number): Page {
    const { sequence, writtenBefore } = this.firstPage
    const page = number === this.firstPage.number ? this.firstPage : new Page(number, sequence, writtenBefore)
    page.bytes = bytes
    this.#bodies.addPage(page)
    return page
  }
}

function readReference(reader: ByteReader, message: Message): Delivery {
  const flags = reader.u8()
  let subscriptionIdentifiers = NO_IDENTIFIERS
  let share: string | null = null
  if (flags & EXTENDED) {
    const count = reader.varint()
    if (count > 0) subscriptionIdentifiers = readIdentifiers(reader, count)
    const text = reader.text()
    share = text === '' ? null : text
  }
  return { message, qos: (flags & 3) as QoS, retain: (flags & RETAIN) !== 0, subscriptionIdentifiers, share }
}
