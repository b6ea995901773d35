/**
 * HOT. Stores retained messages and Wills as aedes-persistence-level does.
 *
 * Wills are written by that package. Instead of a database it gets an object whose `put` only appends to the
 * batch that is being sealed. `putWill` reaches `put` before it first waits, so its value is part of the same
 * atomic commit as the journal records of its turn. The package stores a packet with all its fields. Raw
 * properties, deadlines and owners are additional fields, and `aedes` can still read the values. `delWill` is
 * not used, because it reads before it deletes, which is too late for the batch. Retained messages are
 * written here, with the same bytes as those of `storeRetained` (see `RetainedWriter`).
 *
 * A value is the packet as MessagePack, followed by a CRC, which readers of MessagePack ignore.
 */
import { createRequire } from 'node:module'
import { crc32 } from 'node:zlib'
import type AsyncLevelPersistence from 'aedes-persistence-level/asyncPersistence.js'
import { type Author, Message, Topic, type Will } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { WillRecord } from '../store.ts'
import { ByteWriter } from './encoding.ts'
import { type BatchOperation, corrupt, LOSS, put, unsealed } from './format.ts'
import type { MsgpackDecoder, MsgpackValue } from './msgpack.ts'

const load = createRequire(import.meta.url)

/** Loads the package that stores Wills. That takes 40 ms, which a start does not wait for. */
export function loadPersistence(): typeof AsyncLevelPersistence {
  return load('aedes-persistence-level/asyncPersistence.js') as typeof AsyncLevelPersistence
}

const RETAINED = 'retained:'
const WILL = 'will:'
const EMPTY = Buffer.alloc(0)

/**
 * The retained messages and Wills of the open block. Only the latest of a topic or Client Identifier counts.
 */
export class PendingRetainedAndWills {
  #loaded: AsyncLevelPersistence | null = null
  readonly #writer = new RetainedWriter()
  readonly #retained = new Map<string, Message | null>()
  /** The `liveAt` of topics that have one. */
  readonly #liveAt = new Map<string, number>()
  readonly #wills = new Map<string, WillRecord | null>()
  #operations: BatchOperation[] = []
  bytes = 0

  /** Created with the first Will that is stored. */
  get #persistence(): AsyncLevelPersistence {
    this.#loaded ??= this.#make()
    return this.#loaded
  }

  #make(): AsyncLevelPersistence {
    const written = Promise.resolve()
    const Persistence = loadPersistence()
    return new Persistence({
      put: (key, value) => {
        this.#operations.push(put(Buffer.from(key, 'utf8'), value))
        return written
      },
    })
  }

  /** How many retained messages and Wills are pending, deletes included. */
  get count(): number {
    return this.#retained.size + this.#wills.size
  }

  get isEmpty(): boolean {
    return this.count === 0
  }

  setRetained(topic: string, message: Message | null, liveAt: number): void {
    this.#retained.set(topic, message)
    if (liveAt > 0) this.#liveAt.set(topic, liveAt)
    else if (this.#liveAt.size > 0) this.#liveAt.delete(topic)
    this.bytes += 64 + (message?.size ?? 0)
  }

  setWill(clientId: string, record: WillRecord | null): void {
    this.#wills.set(clientId, record)
    this.bytes += 64 + (record === null ? 0 : record.will.payload.length + record.will.topic.length)
  }

  /**
   * Appends everything to `operations` and forgets it. Some keys and values are views, which the next block
   * overwrites. LevelDB copies them when it receives the batch; call `handedOver` then.
   */
  seal(operations: BatchOperation[]): void {
    if (this.isEmpty) return
    for (const [topic, message] of this.#retained) {
      operations.push(
        message === null ? this.#writer.del(topic) : this.#writer.put(message, this.#liveAt.get(topic) ?? 0),
      )
    }
    const expected = operations.length + this.#wills.size
    this.#operations = operations
    for (const [clientId, record] of this.#wills) this.#sealWill(clientId, record)
    this.#operations = []
    this.#retained.clear()
    this.#liveAt.clear()
    this.#wills.clear()
    this.bytes = 0
    if (operations.length !== expected) {
      throw new Error('aedes-persistence-level did not write before it waited')
    }
  }

  /** Frees the memory of the block that was sealed: there may never be another retained message. */
  handedOver(): void {
    this.#writer.clear()
  }

  #sealWill(clientId: string, record: WillRecord | null): void {
    if (record === null) {
      this.#operations.push({
        type: 'del',
        key: Buffer.from(`${WILL}${encodeURIComponent(clientId)}`, 'utf8'),
      })
      return
    }
    // Nobody waits for the promise: `seal` counts the operations, and throws if this one is missing.
    this.#persistence.putWill({ id: clientId }, willPacket(record)).catch(() => undefined)
  }
}

const RETAINED_KEY = Buffer.from(RETAINED, 'latin1')
/** Memory that RetainedWriter keeps from block to block. */
const KEEP_BYTES = 256 * 1024

/** Returns a short text in MessagePack. */
function fixstr(text: string): Buffer {
  return Buffer.concat([Buffer.from([0xa0 | text.length]), Buffer.from(text, 'latin1')])
}

const NIL = 0xc0
const FALSE = 0xc2
const TRUE = 0xc3
/** A map's first entry, and the key of the second one. */
const HEAD = Buffer.concat([fixstr('cmd'), fixstr('publish'), fixstr('topic')])
/** The type of a map, and how many entries every message has. */
const MAP = 0x80
const ENTRIES = 9
const PAYLOAD = fixstr('payload')
/** QoS, RETAIN, DUP and the next key: by QoS without RETAIN, then by QoS with it. */
const FLAGS = [FALSE, TRUE].flatMap((retain) =>
  [0, 1, 2].map((qos) =>
    Buffer.concat([
      ...[fixstr('qos'), Buffer.from([qos]), fixstr('retain'), Buffer.from([retain])],
      ...[fixstr('dup'), Buffer.from([FALSE]), fixstr('raw')],
    ]),
  ),
)
const EXPIRES_AT = fixstr('expiresAt')
const PUBLISHER = fixstr('publisher')
/** See `Store.putRetained`. Aedes ignores this field. */
const LIVE_AT = fixstr('liveAt')
/** See `Message.author`. */
const AUTHOR = fixstr('author')
const AUTHOR_ID = fixstr('authorId')
/** Room for all of these, the lengths of four texts or blobs, a number and a CRC. */
const PACKET_BYTES = 192

/**
 * Writes puts of retained messages, keys and values one after the other. They have the same bytes that
 * `storeRetained` of aedes-persistence-level makes of `{cmd, topic, payload, qos, retain, dup, raw,
 * expiresAt, publisher}` with msgpack-lite, which takes ten times as long (4 us a message, and 2 KB of
 * garbage).
 */
class RetainedWriter {
  readonly #writer = new ByteWriter(4096)
  /** The latest publisher, encoded: consecutive messages mostly come from the same. */
  #publisher = ''
  #publisherBytes = EMPTY
  /** The latest author, likewise. */
  #author: Author | null = null
  #authorName: Buffer | null = null
  #authorId: Buffer | null = null
  readonly #number = Buffer.alloc(8)

  /** Frees the memory of the latest block. */
  clear(): void {
    this.#writer.clear(KEEP_BYTES)
  }

  del(topic: string): BatchOperation {
    return { type: 'del', key: Buffer.from(`${RETAINED}${topic}`, 'utf8') }
  }

  put(message: Message, liveAt: number): BatchOperation {
    const writer = this.#writer
    const { topic, payload, properties, publisher } = message
    if (publisher !== this.#publisher) {
      this.#publisher = publisher
      this.#publisherBytes = Buffer.from(publisher, 'utf8')
    }
    const { author } = message
    if (author !== null && author !== this.#author) {
      this.#author = author
      this.#authorName = author.userName === null ? null : Buffer.from(author.userName, 'utf8')
      this.#authorId = author.userId === null ? null : Buffer.from(author.userId, 'utf8')
    }
    const names =
      this.#publisherBytes.length + (this.#authorName?.length ?? 0) + (this.#authorId?.length ?? 0)
    const bytes = 2 * topic.bytes.length + payload.length + properties.length + names
    writer.reserve(bytes + RETAINED_KEY.length + PACKET_BYTES)
    const from = writer.length
    writer.raw(RETAINED_KEY)
    writer.raw(topic.bytes)
    const split = writer.length
    writer.u8(MAP | (ENTRIES + (liveAt > 0 ? 1 : 0) + (author === null ? 0 : 2)))
    writer.raw(HEAD)
    this.#text(topic.bytes)
    writer.raw(PAYLOAD)
    this.#blob(payload)
    writer.raw(FLAGS[message.qos + (message.retain ? 3 : 0)]!)
    this.#blob(properties)
    writer.raw(EXPIRES_AT)
    this.#time(message.expiresAt)
    writer.raw(PUBLISHER)
    this.#text(this.#publisherBytes)
    if (liveAt > 0) {
      writer.raw(LIVE_AT)
      this.#time(liveAt)
    }
    if (author !== null) {
      writer.raw(AUTHOR)
      this.#name(this.#authorName)
      writer.raw(AUTHOR_ID)
      this.#name(this.#authorId)
    }
    // The value follows the key, and the CRC covers both.
    const crc = crc32(writer.view(from, writer.length))
    const key = writer.view(from, split)
    writer.u32(crc)
    return { type: 'put', key, value: writer.view(split, writer.length) }
  }

  #name(bytes: Buffer | null): void {
    if (bytes === null) this.#writer.u8(NIL)
    else this.#text(bytes)
  }

  #text(bytes: Buffer): void {
    const writer = this.#writer
    if (bytes.length < 32) writer.u8(0xa0 | bytes.length)
    else this.#length(0xd9, bytes.length)
    writer.raw(bytes)
  }

  #blob(bytes: Buffer): void {
    // msgpack-lite writes a length of 255 in two bytes here, in one elsewhere.
    this.#length(0xc4, bytes.length, 0xfe)
    if (bytes.length > 0) this.#writer.raw(bytes)
  }

  /** Writes a length in one, two or four bytes, big-endian, after its type: `type` or one of the next two. */
  #length(type: number, length: number, oneByteMax = 0xff): void {
    const writer = this.#writer
    if (length <= oneByteMax) {
      writer.u8(type)
    } else {
      writer.u8(length < 0x10000 ? type + 1 : type + 2)
      if (length >= 0x10000) {
        writer.u8(length >>> 24)
        writer.u8(length >>> 16)
      }
      writer.u8(length >>> 8)
    }
    writer.u8(length)
  }

  /** Writes a broker time; nil for none. */
  #time(time: number): void {
    const writer = this.#writer
    if (time === Number.POSITIVE_INFINITY) writer.u8(NIL)
    else if (time !== (time | 0) || time < 0) {
      this.#number.writeDoubleBE(time, 0)
      writer.u8(0xcb)
      writer.raw(this.#number)
    } else if (time < 0x80) writer.u8(time)
    else this.#length(0xcc, time)
  }
}

function willPacket({ will, owner, ownerId = null, dueAt, assigned }: WillRecord): Record<string, unknown> {
  return {
    cmd: 'publish',
    topic: will.topic,
    payload: will.payload,
    qos: will.qos,
    retain: will.retain,
    dup: false,
    raw: will.properties,
    expirySeconds: will.expirySeconds ?? null,
    delaySeconds: will.delaySeconds,
    owner,
    ...(ownerId !== null && { ownerId }),
    ...(assigned === true && { assigned }),
    dueAt,
  }
}

/** The key ranges of retained messages and Wills. */
export const RETAINED_RANGE = { gte: Buffer.from('retained:'), lt: Buffer.from('retained;') }
export const WILL_RANGE = { gte: Buffer.from('will:'), lt: Buffer.from('will;') }

/** A retained message as it is stored, and its `liveAt`; see `Store.putRetained`. */
export interface StoredRetained {
  readonly message: Message
  readonly liveAt: number
}

type StoredWill = readonly [clientId: string, record: WillRecord]

/** Keys that a directory written by Aedes may have. */
const AEDES_KEY = /^(retained|subscriptions|outgoing|outgoing-id|incoming|will):/

export function isAedesKey(key: Buffer): boolean {
  return AEDES_KEY.test(key.toString('latin1'))
}

/** Decodes a stored retained message. Throws StoreError `corrupt`. */
export function decodeRetained(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredRetained {
  return retainedOf(key, unsealed(key, value), decoder)
}

/** Decodes a retained message that Aedes stored. Throws StoreError `corrupt`. */
export function importRetained(key: Buffer, value: Buffer, decoder: MsgpackDecoder): Message {
  return retainedOf(key, value, decoder).message
}

/** Decodes a stored Will. Throws StoreError `corrupt`. */
export function decodeWill(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  return willOf(key, unsealed(key, value), decoder)
}

/** Decodes a Will that Aedes stored. Throws StoreError `corrupt`. */
export function importWill(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  return willOf(key, value, decoder)
}

function retainedOf(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredRetained {
  const packet = packetOf(key, value, decoder)
  const message = Message.of({
    topic: new Topic(key.toString('utf8', RETAINED.length)),
    payload: owned(bytesOf(packet.get('payload'))),
    properties: owned(bytesOf(packet.get('raw'))),
    qos: qosOf(packet.get('qos')),
    retain: true,
    expiresAt: numberOf(packet.get('expiresAt')) ?? Number.POSITIVE_INFINITY,
    publisher: textOf(packet.get('publisher')),
  })
  if (packet.has('author')) message.author = authorOf(packet.get('author'), packet.get('authorId'))
  return { message, liveAt: numberOf(packet.get('liveAt')) ?? 0 }
}

function authorOf(userName: MsgpackValue | undefined, userId: MsgpackValue | undefined): Author {
  return {
    userName: typeof userName === 'string' ? userName : null,
    userId: typeof userId === 'string' ? userId : null,
  }
}

function willOf(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  const packet = packetOf(key, value, decoder)
  const owner = packet.get('owner')
  const ownerId = packet.get('ownerId')
  const will: Will = {
    topic: textOf(packet.get('topic')),
    payload: owned(bytesOf(packet.get('payload'))),
    qos: qosOf(packet.get('qos')),
    retain: packet.get('retain') === true,
    properties: owned(bytesOf(packet.get('raw'))),
    expirySeconds: numberOf(packet.get('expirySeconds')) ?? undefined,
    delaySeconds: numberOf(packet.get('delaySeconds')) ?? 0,
  }
  const record = {
    will,
    owner: typeof owner === 'string' ? owner : null,
    ownerId: typeof ownerId === 'string' ? ownerId : null,
    dueAt: numberOf(packet.get('dueAt')) ?? 0,
    ...(packet.get('assigned') === true && { assigned: true }),
  }
  return [decodeURIComponent(key.toString('utf8', WILL.length)), record]
}

function packetOf(key: Buffer, value: Buffer, decoder: MsgpackDecoder): ReadonlyMap<string, MsgpackValue> {
  try {
    const packet = decoder.decode(value).value
    if (packet instanceof Map) return packet
  } catch (error) {
    throw corrupt(`${JSON.stringify(key.toString('utf8'))} cannot be decoded`, LOSS.retained, error)
  }
  throw corrupt(`${JSON.stringify(key.toString('utf8'))} is not a packet`, LOSS.retained)
}

function bytesOf(value: MsgpackValue | undefined): Buffer {
  if (value instanceof Buffer) return value
  return typeof value === 'string' ? Buffer.from(value, 'utf8') : EMPTY
}

function owned(view: Buffer): Buffer {
  return view.length === 0 ? EMPTY : Buffer.from(view)
}

function textOf(value: MsgpackValue | undefined): string {
  return typeof value === 'string' ? value : ''
}

function numberOf(value: MsgpackValue | undefined): number | null {
  return typeof value === 'number' ? value : null
}

function qosOf(value: MsgpackValue | undefined): QoS {
  return value === 1 || value === 2 ? value : 0
}
