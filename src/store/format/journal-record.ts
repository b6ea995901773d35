/**
 * HOT. The journal's records: their types, the bytes of a message body, and the one decoder that recovery,
 * check, export and repair use. `SessionReplay` says what each record means for a Session.
 */
import { type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import { ByteReader, type ByteWriter } from './encoding.ts'
import { EntryFields, EntryReader, entryFlags, MISSING_PAGE, readIdentifiers } from './entry.ts'
import type { PageHeader } from './journal-page.ts'
import {
  type LogFields,
  type LogFlight,
  NO_LOG_FIELDS,
  readFlight,
  readGrown,
  readHeld,
  readMoved,
  readRemembered,
  readReturned,
  readSettled,
} from './log-fields.ts'
import type { PageTimes } from './time-record.ts'

export const RecordType = {
  /** A body that references of the same block name. */
  Body: 1,
  /** A copy of a body, named by its forward. The scan skips it. */
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
  /** Written in format 1, without a digest. */
  InboundAdded: 10,
  InboundRemoved: 11,
  InboundDigest: 12,
  /** A Session has an entry of a log in flight. The number of the next five is that of a group. */
  LogSent: 13,
  Settled: 14,
  Returned: 15,
  Held: 16,
  Moved: 17,
  Remembered: 18,
  /** A log grew. The number is that of the log. */
  Grown: 19,
} as const

const QOS_MASK = 3
/** In the flags of bodies and references. */
const RETAIN = 0x04
/** In the flags of bodies. */
const EXPIRES = 0x08
/** In the flags of references: Subscription Identifiers and a Shared Subscription follow. */
const EXTENDED = 0x08
/** References and entries keep the delivery's QoS and RETAIN in these bits. */
const DELIVERY_FLAGS = 0x07

/** A stored body. Buffers are views of its page. */
export interface Body {
  readonly qos: QoS
  readonly retain: boolean
  readonly expiresAt: number
  readonly publisher: string
  readonly topic: string
  readonly properties: Buffer
  readonly payload: Buffer
}

/** Writes a body; `writer` has room for it. */
export function writeBody(writer: ByteWriter, message: Message): void {
  const expires = message.expiresAt !== Number.POSITIVE_INFINITY
  writer.u8(message.qos | (message.retain ? RETAIN : 0) | (expires ? EXPIRES : 0))
  if (expires) writer.f64(message.expiresAt)
  writer.text(message.publisher)
  writer.blob(message.topic.bytes)
  writer.blob(message.properties)
  writer.blob(message.payload)
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

/**
 * Copies properties and payload into one allocation of their own, so that they do not keep their page in
 * memory.
 */
export function copiedBytes(body: Body): [properties: Buffer, payload: Buffer] {
  const split = body.properties.length
  const bytes = Buffer.allocUnsafe(split + body.payload.length)
  body.properties.copy(bytes)
  body.payload.copy(bytes, split)
  return [bytes.subarray(0, split), bytes.subarray(split)]
}

/** Skips a body, and fills `into` with the part of its Message that an entry holds. Throws TruncatedError. */
function skipBody(reader: ByteReader, into: EntryFields): void {
  const flags = reader.u8()
  into.flags = entryFlags(0, false, (flags & QOS_MASK) as QoS, (flags & RETAIN) !== 0)
  into.expiresAt = flags & EXPIRES ? reader.f64() : Number.POSITIVE_INFINITY
  reader.skip()
  into.size = reader.skip() + reader.skip() + reader.skip()
}

/** Writes how a Session receives a body of the same block; `writer` has room for it. */
export function writeReference(
  writer: ByteWriter,
  qos: QoS,
  retain: boolean,
  identifiers: readonly number[],
  share: string | null,
): void {
  const extended = identifiers.length > 0 || share !== null
  writer.u8(qos | (retain ? RETAIN : 0) | (extended ? EXTENDED : 0))
  if (!extended) return
  writer.varint(identifiers.length)
  for (const identifier of identifiers) writer.varint(identifier)
  writer.text(share ?? '')
}

/** Completes the entry of a body with the fields of one delivery. */
function readReference(reader: ByteReader, entry: EntryFields): void {
  const flags = reader.u8()
  entry.flags = (entry.flags & ~DELIVERY_FLAGS) | (flags & DELIVERY_FLAGS)
  entry.extension = null
  if ((flags & EXTENDED) === 0) return
  const count = reader.varint()
  const subscriptionIdentifiers = count > 0 ? readIdentifiers(reader, count) : NO_IDENTIFIERS
  const share = reader.text()
  entry.extension = { subscriptionIdentifiers, share: share === '' ? null : share }
}

/** A record that changes a Session, group or log. Fields that its type does not have keep older values. */
export interface JournalRecord {
  readonly type: number
  /** The store's number of the Session, group or log. */
  readonly session: number
  readonly packetId: number
  /** Of an inbound packet; 0 for unknown. */
  readonly digest: number
  /** The delivery that an enqueue adds. Its page is MISSING_PAGE when the body was lost with other pages. */
  readonly entry: EntryFields
  /** Of a LogSent. */
  readonly flight: LogFlight | null
  /** Of a group or log. */
  readonly log: LogFields
}

/** Decodes one page after the other. The latest record is in its own fields, so none takes an object. */
export class RecordDecoder implements JournalRecord {
  type = 0
  session = 0
  packetId = 0
  digest = 0
  entry = new EntryFields()
  flight: LogFlight | null = null
  log = NO_LOG_FIELDS
  readonly #times: PageTimes
  #reader = NO_RECORDS
  #page = 0
  #firstPage = 0
  /** The block's pages so far, for records that name an earlier body of the block. */
  #values: Buffer[] = []
  /** False after pages of the block were lost. */
  #isWhole = true
  #hasBody = false
  /** The entry of the latest body, completed for each delivery. */
  readonly #latest = new EntryFields()
  /** The entry of any other body. */
  readonly #other = new EntryFields()

  constructor(times: PageTimes) {
    this.#times = times
  }

  /** Goes on with the records of this page. */
  begin(header: PageHeader, value: Buffer): void {
    if (header.first) {
      this.#firstPage = header.page
      this.#values = []
      this.#isWhole = true
      this.#hasBody = false
    }
    this.#values.push(value)
    this.#page = header.page
    this.#reader = new ByteReader(value, header.bytes)
  }

  /** Pages were lost before the next one: bodies of the current block may be unknown. */
  lose(): void {
    this.#isWhole = false
    this.#hasBody = false
  }

  /**
   * Reads up to the next record of a Session; false at the end of the page. Throws when it cannot be decoded.
   */
  next(): boolean {
    const reader = this.#reader
    while (!reader.atEnd) {
      const type = reader.u8()
      if (type === RecordType.Body) {
        this.#body(reader)
      } else if (type === RecordType.MovedBody) {
        skipBody(reader, this.#other)
      } else {
        this.type = type
        this.session = reader.varint()
        this.#fields(type, reader)
        return true
      }
    }
    return false
  }

  #fields(type: number, reader: ByteReader): void {
    switch (type) {
      case RecordType.EnqueueLatest:
        this.entry = this.#ofLatest()
        readReference(reader, this.entry)
        return
      case RecordType.EnqueueNear:
        this.entry = this.#near(reader)
        readReference(reader, this.entry)
        return
      case RecordType.EnqueueFar:
        this.entry = this.#other
        new EntryReader(reader, this.#times).read(this.entry)
        return
      case RecordType.Dropped:
        return
      case RecordType.Sent:
      case RecordType.Received:
      case RecordType.Completed:
      case RecordType.InboundRemoved:
        this.packetId = reader.u16()
        return
      case RecordType.InboundAdded:
        this.packetId = reader.u16()
        this.digest = 0
        return
      case RecordType.InboundDigest:
        this.packetId = reader.u16()
        this.digest = reader.u48()
        return
      case RecordType.LogSent:
        this.packetId = reader.u16()
        this.flight = readFlight(reader)
        return
      default:
        this.log = readLogFields(type, reader)
    }
  }

  #body(reader: ByteReader): void {
    const body = this.#latest
    body.page = this.#page
    body.offset = reader.at
    skipBody(reader, body)
    body.expiresAt = this.#times.expiry(body.page, body.expiresAt)
    this.#hasBody = true
  }

  #ofLatest(): EntryFields {
    if (this.#hasBody) return this.#latest
    if (this.#isWhole) throw new RangeError('an enqueue without a body')
    return this.#missing()
  }

  #near(reader: ByteReader): EntryFields {
    const index = reader.varint()
    const offset = reader.u16()
    if (!this.#isWhole) return this.#missing()
    const value = this.#values[index]
    if (value === undefined) throw new RangeError(`no page ${index} in the block`)
    const near = this.#other
    near.page = this.#firstPage + index
    near.offset = offset
    skipBody(new ByteReader(value, offset), near)
    near.expiresAt = this.#times.expiry(near.page, near.expiresAt)
    return near
  }

  #missing(): EntryFields {
    this.#other.page = MISSING_PAGE
    return this.#other
  }
}

function readLogFields(type: number, reader: ByteReader): LogFields {
  switch (type) {
    case RecordType.Settled:
      return readSettled(reader)
    case RecordType.Returned:
      return readReturned(reader)
    case RecordType.Held:
      return readHeld(reader)
    case RecordType.Moved:
      return readMoved(reader)
    case RecordType.Remembered:
      return readRemembered(reader)
    case RecordType.Grown:
      return readGrown(reader)
    default:
      throw new RangeError(`record type ${type} is not known`)
  }
}

const NO_RECORDS = new ByteReader(Buffer.alloc(0))
