/**
 * HOT. The journal's records: what a block says, in the order in which it was recorded.
 *
 * A block is what one commit carries. It is written as pages of about 16 KiB, each one LevelDB value, all in one
 * batch: one evicted body can be read back, and dead bodies be deleted, without touching a whole block of up to
 * several megabytes. Pages are numbered through, blocks too; both numbers have no gap, and every page has a CRC.
 *
 * ```
 * page:  crc u32 | flags u8 | page u48 | sequence u48 | broker time f64 | wall time f64 | next session u48 |
 *        boot id 16 bytes | ms since boot f64 | records
 * ```
 *
 * Pages of format 1 have no boot time, and the flag for it is not set. A boot id of zeros: the machine did not tell.
 */
import { crc32 } from 'node:zlib'
import { type Delivery, type Message, Topic } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import { type ByteReader, ByteWriter, textBytesMax } from '../format/encoding.ts'
import { type EntryFields, EntryWriter, entryFlags } from '../format/entry.ts'
import { type BatchOperation, corrupt, LOSS, numberKey, Table } from '../format/format.ts'
import type { PageTimes } from '../format/time-record.ts'
import type { BootTime } from '../store.ts'
import type { Page, StoredBody } from './bodies.ts'

export const RecordType = {
  /** A body that references of the same block name. */
  Body: 1,
  /** A copy of a body; its forward names it. The scan skips it. */
  MovedBody: 2,
  /** An enqueue of the block's latest body. */
  EnqueueLatest: 3,
  /** An enqueue of an earlier body of the same block. */
  EnqueueNear: 4,
  /** An enqueue of a body of an older block. */
  EnqueueFar: 5,
  Sent: 6,
  Dropped: 7,
  Received: 8,
  Completed: 9,
  /** Of format 1: without a digest. */
  InboundAdded: 10,
  InboundRemoved: 11,
  InboundDigest: 12,
} as const

/** A page takes records until it has this many bytes; a body never spans two, so a page may be larger. */
export const PAGE_BYTES = 16 * 1024
const BOOT_ID_BYTES = 16
/** Where the boot time begins, and the records of a page of format 1. */
const BOOT_TIME_AT = 39
const PAGE_HEADER_BYTES = BOOT_TIME_AT + BOOT_ID_BYTES + 8
/** Behind it, in a block with UNSYNCED: the newest block that was synced by then. */
const SYNCED_BYTES = 6
const KEEP_BYTES = 1024 * 1024

const FIRST_OF_BLOCK = 1
const LAST_OF_BLOCK = 2
const HAS_BOOT_TIME = 4
/** The block's commit was not synced by itself, but some time later with others; what was synced by then follows. */
const UNSYNCED = 8

const QOS_MASK = 3
const RETAIN = 0x04
const EXPIRES = 0x08
const EXTENDED = 0x08

/** What every page of a block says about it. */
export interface BlockHeader {
  readonly sequence: number
  /** `StateSource.now()` and `wallNow()` when it was sealed. */
  readonly brokerTime: number
  readonly wallTime: number
  /** The store's number for the next new Session. */
  readonly nextSession: number
  /** `StateSource.bootTime()` of the same moment. */
  readonly bootTime: BootTime | null
}

/** The block that is being filled. */
export class OpenBlock {
  readonly #writer = new ByteWriter(KEEP_BYTES)
  readonly #newPage: () => Page
  readonly #times: () => PageTimes
  readonly #isSynced: boolean
  readonly #headerBytes: number
  #pages: Page[] = []
  /** Where each page begins. */
  #starts: number[] = []
  #latestBody: StoredBody | null = null
  #record = 0

  /**
   * `newPage` makes the Page with the next number; `times` are those of the bodies that are referred to. Blocks that are not
   * synced by themselves say what was synced by then.
   */
  constructor(newPage: () => Page, times: () => PageTimes, isSynced: boolean) {
    this.#newPage = newPage
    this.#times = times
    this.#isSynced = isSynced
    this.#headerBytes = PAGE_HEADER_BYTES + (isSynced ? 0 : SYNCED_BYTES)
  }

  get bytes(): number {
    return this.#writer.length
  }

  /** The page that the latest record is in. */
  get page(): Page {
    return this.#pages[this.#pages.length - 1]!
  }

  /** The block's first page; makes it when nothing was recorded yet. */
  firstPage(): Page {
    if (this.#pages.length === 0) this.#beginPage()
    return this.#pages[0]!
  }

  /** Writes the body; the returned offset in `page` names it. */
  body(message: Message): number {
    const topic = message.topic.bytes
    this.#begin(
      RecordType.Body,
      topic.length +
        message.properties.length +
        message.payload.length +
        40 +
        textBytesMax(message.publisher),
    )
    const writer = this.#writer
    const offset = this.#offset()
    const expires = message.expiresAt !== Number.POSITIVE_INFINITY
    writer.u8(message.qos | (message.retain ? RETAIN : 0) | (expires ? EXPIRES : 0))
    if (expires) writer.f64(message.expiresAt)
    writer.text(message.publisher)
    writer.blob(topic)
    writer.blob(message.properties)
    writer.blob(message.payload)
    return offset
  }

  /** Says that the body which was just written has this handle. */
  named(body: StoredBody): void {
    this.#latestBody = body
  }

  /** Writes a copy of a stored body; the returned offset in `page` is where it lies. */
  movedBody(bytes: Buffer): number {
    this.#begin(RecordType.MovedBody, bytes.length)
    const offset = this.#offset()
    this.#writer.raw(bytes)
    return offset
  }

  enqueue(session: number, delivery: Delivery, body: StoredBody): void {
    const { subscriptionIdentifiers: identifiers, share } = delivery
    const extended = identifiers.length > 0 || share !== null
    const room = 32 + identifiers.length * 5 + (share === null ? 0 : textBytesMax(share))
    const latest = body === this.#latestBody
    if (
      !latest &&
      (body.forward !== null || this.#pages.length === 0 || body.page.number < this.#pages[0]!.number)
    ) {
      this.#session(RecordType.EnqueueFar, session)
      new EntryWriter(this.#writer, this.#times()).write(delivery, body)
      return
    }
    this.#begin(latest ? RecordType.EnqueueLatest : RecordType.EnqueueNear, room)
    const writer = this.#writer
    writer.varint(session)
    if (!latest) {
      writer.varint(body.page.number - this.#pages[0]!.number)
      writer.u16(body.offset)
    }
    writer.u8(delivery.qos | (delivery.retain ? RETAIN : 0) | (extended ? EXTENDED : 0))
    if (!extended) return
    writer.varint(identifiers.length)
    for (const identifier of identifiers) writer.varint(identifier)
    writer.text(share ?? '')
  }

  /** An enqueue of a body of an older block, by its entry. */
  enqueueFar(session: number, entry: EntryFields): void {
    this.#session(RecordType.EnqueueFar, session)
    new EntryWriter(this.#writer, this.#times()).writeFields(entry)
  }

  sent(session: number, packetId: number): void {
    this.#identifier(RecordType.Sent, session, packetId)
  }

  dropped(session: number): void {
    this.#session(RecordType.Dropped, session)
  }

  received(session: number, packetId: number): void {
    this.#identifier(RecordType.Received, session, packetId)
  }

  completed(session: number, packetId: number): void {
    this.#identifier(RecordType.Completed, session, packetId)
  }

  inboundAdded(session: number, packetId: number, digest: number): void {
    this.#begin(RecordType.InboundDigest, 16)
    this.#writer.varint(session)
    this.#writer.u16(packetId)
    this.#writer.u48(digest)
  }

  inboundRemoved(session: number, packetId: number): void {
    this.#identifier(RecordType.InboundRemoved, session, packetId)
  }

  /**
   * Closes the block and appends its pages to `operations`. The values are views that are overwritten by the next
   * block: LevelDB copies them when the batch is handed over. `synced` is the newest block that was synced by itself or
   * later. Returns the bytes of all pages.
   */
  seal(header: BlockHeader, synced: number, operations: BatchOperation[]): number {
    this.firstPage()
    const mode = HAS_BOOT_TIME | (this.#isSynced ? 0 : UNSYNCED)
    const last = this.#pages.length - 1
    const end = this.#writer.length
    for (let index = 0; index <= last; index++) {
      const start = this.#starts[index]!
      const page = this.#pages[index]!
      const value = this.#writer.view(start, index === last ? end : this.#starts[index + 1]!)
      page.bytes = value.length
      value[4] = (index === 0 ? FIRST_OF_BLOCK : 0) | (index === last ? LAST_OF_BLOCK : 0) | mode
      value.writeUIntLE(page.number, 5, 6)
      value.writeUIntLE(header.sequence, 11, 6)
      value.writeDoubleLE(header.brokerTime, 17)
      value.writeDoubleLE(header.wallTime, 25)
      value.writeUIntLE(header.nextSession, 33, 6)
      writeBootTime(value, header.bootTime)
      if (!this.#isSynced) value.writeUIntLE(synced, PAGE_HEADER_BYTES, SYNCED_BYTES)
      value.writeUInt32LE(crc32(value.subarray(4)), 0)
      operations.push({ type: 'put', key: numberKey(Table.Journal, page.number), value })
    }
    return end
  }

  /** Forgets the block, once LevelDB has copied it. */
  clear(): void {
    this.#writer.clear(KEEP_BYTES)
    this.#pages = []
    this.#starts = []
    this.#latestBody = null
  }

  #identifier(type: number, session: number, packetId: number): void {
    this.#begin(type, 10)
    this.#writer.varint(session)
    this.#writer.u16(packetId)
  }

  #session(type: number, session: number): void {
    this.#begin(type, 8)
    this.#writer.varint(session)
  }

  #begin(type: number, bytes: number): void {
    const pages = this.#starts.length
    if (pages === 0 || this.#writer.length - this.#starts[pages - 1]! >= PAGE_BYTES) this.#beginPage()
    this.#writer.reserve(bytes + 1)
    this.#writer.u8(type)
    this.#record = this.#writer.length
  }

  #beginPage(): void {
    this.#writer.reserve(this.#headerBytes)
    this.#starts.push(this.#writer.length)
    this.#writer.length += this.#headerBytes
    this.#pages.push(this.#newPage())
  }

  /** Where the record behind its type byte begins, in its page. */
  #offset(): number {
    return this.#record - this.#starts[this.#starts.length - 1]!
  }
}

function writeBootTime(page: Buffer, time: BootTime | null): void {
  const end = BOOT_TIME_AT + BOOT_ID_BYTES
  page.fill(0, BOOT_TIME_AT, end)
  if (time !== null) page.write(time.bootId, BOOT_TIME_AT, BOOT_ID_BYTES, 'hex')
  page.writeDoubleLE(time?.sinceBoot ?? 0, end)
}

function readBootTime(page: Buffer): BootTime | null {
  const end = BOOT_TIME_AT + BOOT_ID_BYTES
  const id = page.subarray(BOOT_TIME_AT, end)
  if (id.every((byte) => byte === 0)) return null
  return { bootId: id.toString('hex'), sinceBoot: page.readDoubleLE(end) }
}

export interface PageHeader extends BlockHeader {
  readonly page: number
  /** Where its records begin. */
  readonly bytes: number
  readonly first: boolean
  readonly last: boolean
}

/** What a page says about when its block was synced. */
export interface SyncNote {
  readonly sequence: number
  readonly isFirst: boolean
  /** Not by its own commit. */
  readonly isUnsynced: boolean
  /** The newest block that was synced by then; 0 where each is synced by its own commit. */
  readonly synced: number
}

/** Reads that without a check, for whoever has checked the page. Throws RangeError for what is too short. */
export function readSyncNote(value: Buffer): SyncNote {
  const unsynced = isUnsynced(value)
  return {
    sequence: value.readUIntLE(11, 6),
    isFirst: (value[4]! & FIRST_OF_BLOCK) !== 0,
    isUnsynced: unsynced,
    synced: unsynced ? value.readUIntLE(PAGE_HEADER_BYTES, SYNCED_BYTES) : 0,
  }
}

function isUnsynced(page: Buffer): boolean {
  return (page[4]! & UNSYNCED) !== 0
}

/** Checks and reads the header of a stored page. Throws StoreError `corrupt`. */
export function readPageHeader(number: number, value: Buffer): PageHeader {
  const hasBootTime = value.length >= PAGE_HEADER_BYTES && (value[4]! & HAS_BOOT_TIME) !== 0
  if (value.length < BOOT_TIME_AT || value.readUInt32LE(0) !== crc32(value.subarray(4))) {
    throw corrupt(`journal page ${number} does not match its checksum`, LOSS.messages)
  }
  const page = value.readUIntLE(5, 6)
  if (page !== number) throw corrupt(`journal page ${page} lies in the place of ${number}`, LOSS.messages)
  return {
    page,
    bytes: hasBootTime ? PAGE_HEADER_BYTES + (isUnsynced(value) ? SYNCED_BYTES : 0) : BOOT_TIME_AT,
    first: (value[4]! & FIRST_OF_BLOCK) !== 0,
    last: (value[4]! & LAST_OF_BLOCK) !== 0,
    sequence: value.readUIntLE(11, 6),
    brokerTime: value.readDoubleLE(17),
    wallTime: value.readDoubleLE(25),
    nextSession: value.readUIntLE(33, 6),
    bootTime: hasBootTime ? readBootTime(value) : null,
  }
}

/** A body, and what is known about its Message with it. Buffers are views of the page. */
export interface Body {
  readonly qos: QoS
  readonly retain: boolean
  readonly expiresAt: number
  readonly publisher: string
  readonly topic: string
  readonly properties: Buffer
  readonly payload: Buffer
}

/** Reads the body at the reader's place. Throws TruncatedError. */
export function readBody(reader: ByteReader): Body {
  const flags = reader.u8()
  return {
    qos: (flags & QOS_MASK) as QoS,
    retain: (flags & RETAIN) !== 0,
    expiresAt: flags & EXPIRES ? reader.f64() : Number.POSITIVE_INFINITY,
    publisher: reader.text(),
    topic: reader.text(),
    properties: reader.blob(),
    payload: reader.blob(),
  }
}

/** Passes a body over: all of its Message that an entry holds goes into `into`. Throws TruncatedError. */
export function skipBody(reader: ByteReader, into: EntryFields): void {
  const flags = reader.u8()
  into.flags = entryFlags(0, false, (flags & QOS_MASK) as QoS, (flags & RETAIN) !== 0)
  into.expiresAt = flags & EXPIRES ? reader.f64() : Number.POSITIVE_INFINITY
  reader.skip()
  into.size = reader.skip() + reader.skip() + reader.skip()
}

/** Properties and payload in one allocation of their own, so that they do not pin their page. */
export function copied(body: Body): [properties: Buffer, payload: Buffer] {
  const split = body.properties.length
  const bytes = Buffer.allocUnsafe(split + body.payload.length)
  body.properties.copy(bytes)
  body.payload.copy(bytes, split)
  return [bytes.subarray(0, split), bytes.subarray(split)]
}

/** A bounded table of topics, so that bodies read back together share theirs. */
export class TopicCache {
  readonly #topics = new Map<string, Topic>()
  readonly #topicsMax: number

  constructor(topicsMax: number) {
    this.#topicsMax = topicsMax
  }

  topic(name: string): Topic {
    const known = this.#topics.get(name)
    if (known !== undefined) return known
    if (this.#topics.size >= this.#topicsMax) this.#topics.clear()
    const topic = new Topic(name)
    this.#topics.set(name, topic)
    return topic
  }
}
