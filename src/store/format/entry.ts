/**
 * HOT. One queued or in-flight delivery as checkpoints and far references store it: the name of its body, and
 * the fields of the Message that must be known while the body is on disk. The publisher is in the body. Older
 * stores have it here as well.
 */
import { type Delivery, type Message, NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import { type ByteReader, type ByteWriter, textBytesMax } from './encoding.ts'
import type { PageTimes } from './time-record.ts'

const QOS_MASK = 3
const RETAIN = 0x04
const MESSAGE_QOS_SHIFT = 3
const MESSAGE_RETAIN = 0x20
const EXPIRES = 0x40
/** Subscription Identifiers or a Shared Subscription follow. */
const EXTENDED = 0x80
/** The flags that `EntryFields.flags` keeps. The others follow from its fields. */
const FIELD_FLAGS = 0x3f

const NONE = 0
const NEW = 1
const FIRST_INDEX = 2

/** Fields that few deliveries have. They are the same for all that came through one Subscription. */
export interface EntryExtension {
  readonly subscriptionIdentifiers: readonly number[]
  readonly share: string | null
}

/** The name of a stored body: the place where it was first written. The name stays when the body moves. */
export interface BodyName {
  readonly namePage: number
  readonly nameOffset: number
}

/** The page of an entry that was lost; pages count from 1. */
export const MISSING_PAGE = 0

/** An entry without objects. A reader of many entries fills one again and again. */
export class EntryFields {
  /** The name of the body. */
  page = 0
  offset = 0
  /** QoS and RETAIN of delivery and message; see `entryFlags`. */
  flags = 0
  /** `Message.size`. */
  size = 0
  expiresAt = Number.POSITIVE_INFINITY
  extension: EntryExtension | null = null

  /** Takes over all fields of another entry. */
  copy(entry: EntryFields): void {
    this.page = entry.page
    this.offset = entry.offset
    this.flags = entry.flags
    this.size = entry.size
    this.expiresAt = entry.expiresAt
    this.extension = entry.extension
  }

  /** Takes over all fields of a delivery but the name of the body. */
  describe(delivery: Delivery): void {
    const { message, subscriptionIdentifiers, share } = delivery
    this.flags = entryFlags(delivery.qos, delivery.retain, message.qos, message.retain)
    this.size = message.size
    this.expiresAt = message.expiresAt
    this.extension =
      subscriptionIdentifiers.length === 0 && share === null ? null : { subscriptionIdentifiers, share }
  }

  get deliveryQoS(): QoS {
    return (this.flags & QOS_MASK) as QoS
  }

  get deliveryRetain(): boolean {
    return (this.flags & RETAIN) !== 0
  }

  get messageQoS(): QoS {
    return ((this.flags >>> MESSAGE_QOS_SHIFT) & QOS_MASK) as QoS
  }

  get messageRetain(): boolean {
    return (this.flags & MESSAGE_RETAIN) !== 0
  }

  /** Returns the delivery of this message that the entry describes. */
  deliveryOf(message: Message): Delivery {
    const { extension } = this
    return {
      message,
      qos: this.deliveryQoS,
      retain: this.deliveryRetain,
      subscriptionIdentifiers: extension === null ? NO_IDENTIFIERS : extension.subscriptionIdentifiers,
      share: extension === null ? null : extension.share,
    }
  }
}

/** Returns the value of `EntryFields.flags`. */
export function entryFlags(qos: QoS, retain: boolean, messageQoS: QoS, messageRetain: boolean): number {
  return (
    qos | (retain ? RETAIN : 0) | (messageQoS << MESSAGE_QOS_SHIFT) | (messageRetain ? MESSAGE_RETAIN : 0)
  )
}

/** Writes the entries of one value. Pages and texts are relative to those of earlier entries. */
export class EntryWriter {
  readonly #writer: ByteWriter
  readonly #fields = new EntryFields()
  readonly #times: PageTimes
  #texts: Map<string, number> | null = null
  #page = 0

  constructor(writer: ByteWriter, times: PageTimes) {
    this.#writer = writer
    this.#times = times
  }

  write(delivery: Delivery, body: BodyName): void {
    const fields = this.#fields
    fields.describe(delivery)
    fields.page = body.namePage
    fields.offset = body.nameOffset
    this.writeFields(fields)
  }

  writeFields(fields: EntryFields): void {
    const { extension, expiresAt, page } = fields
    const writer = this.#writer
    writer.reserve(64)
    const expires = expiresAt !== Number.POSITIVE_INFINITY
    writer.u8(fields.flags | (expires ? EXPIRES : 0) | (extension === null ? 0 : EXTENDED))
    const distance = page - this.#page
    writer.varint(distance < 0 ? -distance * 2 - 1 : distance * 2)
    this.#page = page
    writer.u16(fields.offset)
    writer.varint(fields.size)
    // It is written as it was first stored, as in its body.
    if (expires) writer.f64(this.#times.stored(page, expiresAt))
    writer.varint(NONE)
    if (extension !== null) this.#extension(extension)
  }

  #extension({ subscriptionIdentifiers: identifiers, share }: EntryExtension): void {
    const writer = this.#writer
    writer.reserve(16 + identifiers.length * 5 + (share === null ? 0 : textBytesMax(share)))
    writer.varint(identifiers.length)
    for (const identifier of identifiers) writer.varint(identifier)
    if (share === null) {
      writer.varint(NONE)
      return
    }
    this.#texts ??= new Map()
    const index = this.#texts.get(share)
    if (index !== undefined) {
      writer.varint(index)
      return
    }
    this.#texts.set(share, FIRST_INDEX + this.#texts.size)
    writer.varint(NEW)
    writer.text(share)
  }
}

/** Reads the entries of one value in their order. */
export class EntryReader {
  readonly #reader: ByteReader
  readonly #times: PageTimes
  readonly #texts: string[] = []
  #page = 0

  constructor(reader: ByteReader, times: PageTimes) {
    this.#reader = reader
    this.#times = times
  }

  read(into: EntryFields): void {
    const reader = this.#reader
    const flags = reader.u8()
    const coded = reader.varint()
    this.#page += coded % 2 === 1 ? -(coded + 1) / 2 : coded / 2
    into.page = this.#page
    into.offset = reader.u16()
    into.flags = flags & FIELD_FLAGS
    into.size = reader.varint()
    into.expiresAt = flags & EXPIRES ? this.#times.expiry(this.#page, reader.f64()) : Number.POSITIVE_INFINITY
    this.#text()
    into.extension = flags & EXTENDED ? this.#extension() : null
  }

  #extension(): EntryExtension {
    const count = this.#reader.varint()
    const subscriptionIdentifiers = count > 0 ? readIdentifiers(this.#reader, count) : NO_IDENTIFIERS
    const share = this.#text()
    return { subscriptionIdentifiers, share: share === '' ? null : share }
  }

  #text(): string {
    const code = this.#reader.varint()
    if (code === NONE) return ''
    if (code === NEW) {
      const text = this.#reader.text()
      this.#texts.push(text)
      return text
    }
    const text = this.#texts[code - FIRST_INDEX]
    if (text === undefined) throw new RangeError('a stored entry names a text that is not there')
    return text
  }
}

/** Reads `count` Subscription Identifiers of a delivery. */
export function readIdentifiers(reader: ByteReader, count: number): number[] {
  const identifiers: number[] = []
  for (let index = 0; index < count; index++) identifiers.push(reader.varint())
  return identifiers
}
