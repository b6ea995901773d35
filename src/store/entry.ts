/**
 * HOT. One queued or in-flight delivery as checkpoints and far references store it: the name of its body, and all of
 * the Message that must be known while the body is on disk.
 */
import { type Delivery, Message, type MessageFields, NO_IDENTIFIERS, NO_TOPIC } from '../mqtt/message.ts'
import type { QoS } from '../mqtt/packet.ts'
import type { StoredBody } from './bodies.ts'
import { type ByteReader, type ByteWriter, textBytesMax } from './encoding.ts'

const RETAIN = 0x04
const MESSAGE_QOS_SHIFT = 3
const MESSAGE_RETAIN = 0x20
const EXPIRES = 0x40
/** Subscription Identifiers or a Shared Subscription follow. */
const EXTENDED = 0x80

const NONE = 0
const NEW = 1
const FIRST_INDEX = 2
const EMPTY = Buffer.alloc(0)

/** Writes the entries of one value; pages and texts are relative to those before. */
export class EntryWriter {
  readonly #writer: ByteWriter
  readonly #texts = new Map<string, number>()
  #page = 0

  constructor(writer: ByteWriter) {
    this.#writer = writer
  }

  write(delivery: Delivery, body: StoredBody): void {
    const { message, subscriptionIdentifiers: identifiers, share } = delivery
    const writer = this.#writer
    writer.reserve(
      64 +
        textBytesMax(message.publisher) +
        identifiers.length * 5 +
        (share === null ? 0 : textBytesMax(share)),
    )
    const extended = identifiers.length > 0 || share !== null
    const expires = message.expiresAt !== Number.POSITIVE_INFINITY
    writer.u8(
      delivery.qos |
        (delivery.retain ? RETAIN : 0) |
        (message.qos << MESSAGE_QOS_SHIFT) |
        (message.retain ? MESSAGE_RETAIN : 0) |
        (expires ? EXPIRES : 0) |
        (extended ? EXTENDED : 0),
    )
    const page = body.namePage
    const distance = page - this.#page
    writer.varint(distance < 0 ? -distance * 2 - 1 : distance * 2)
    this.#page = page
    writer.u16(body.nameOffset)
    writer.varint(message.size)
    if (expires) writer.f64(message.expiresAt)
    this.#text(message.publisher)
    if (extended) {
      writer.varint(identifiers.length)
      for (const identifier of identifiers) writer.varint(identifier)
      this.#text(share ?? '')
    }
  }

  #text(text: string): void {
    if (text === '') {
      this.#writer.varint(NONE)
      return
    }
    const index = this.#texts.get(text)
    if (index !== undefined) {
      this.#writer.varint(index)
      return
    }
    this.#texts.set(text, FIRST_INDEX + this.#texts.size)
    this.#writer.varint(NEW)
    this.#writer.text(text)
  }
}

/** Finds the Message with this name, or makes it with `fields` and `size` as an evicted one. */
export type MessageFinder = (page: number, offset: number, entry: EntryReader) => Message

/** Reads the entries of one value in their order. */
export class EntryReader {
  readonly #reader: ByteReader
  readonly #find: MessageFinder
  readonly #texts: string[] = []
  #page = 0
  #flags = 0
  #expiresAt = 0
  #publisher = ''
  #size = 0

  constructor(reader: ByteReader, find: MessageFinder) {
    this.#reader = reader
    this.#find = find
  }

  read(): Delivery {
    const reader = this.#reader
    const flags = reader.u8()
    const coded = reader.varint()
    this.#page += coded % 2 === 1 ? -(coded + 1) / 2 : coded / 2
    const offset = reader.u16()
    this.#flags = flags
    this.#size = reader.varint()
    this.#expiresAt = flags & EXPIRES ? reader.f64() : Number.POSITIVE_INFINITY
    this.#publisher = this.#text()
    let subscriptionIdentifiers = NO_IDENTIFIERS
    let share: string | null = null
    if (flags & EXTENDED) {
      const count = reader.varint()
      if (count > 0) subscriptionIdentifiers = readIdentifiers(reader, count)
      const text = this.#text()
      share = text === '' ? null : text
    }
    return {
      message: this.#find(this.#page, offset, this),
      qos: (flags & 3) as QoS,
      retain: (flags & RETAIN) !== 0,
      subscriptionIdentifiers,
      share,
    }
  }

  /** A Message for the entry that was just read; its body stays on disk. */
  evictedMessage(): Message {
    const fields: MessageFields = {
      topic: NO_TOPIC,
      payload: EMPTY,
      qos: ((this.#flags >>> MESSAGE_QOS_SHIFT) & 3) as QoS,
      retain: (this.#flags & MESSAGE_RETAIN) !== 0,
      expiresAt: this.#expiresAt,
      publisher: this.#publisher,
    }
    return new Message(fields, this.#size)
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

/** Subscription Identifiers of a delivery; `count` of them. */
export function readIdentifiers(reader: ByteReader, count: number): number[] {
  const identifiers: number[] = []
  for (let index = 0; index < count; index++) identifiers.push(reader.varint())
  return identifiers
}
