/**
 * Retained messages and Wills, stored by aedes-persistence-level.
 *
 * It is given a facade instead of a database: its `put` and `del` only append to the batch that is being sealed.
 * Since `storeRetained` and `putWill` reach `put` before they first wait, what they write is part of the same
 * atomic commit as the journal records of its turn. They keep a packet as it is, so raw properties, deadlines and
 * owners travel as further fields, and `aedes` itself can still read the values.
 *
 * A value is the MessagePack of the packet with a CRC behind it, which MessagePack readers ignore. `delWill` is not
 * used: it reads before it deletes, too late for the turn's batch.
 */
import AsyncLevelPersistence from 'aedes-persistence-level/asyncPersistence.js'
import { Message, Topic, type Will } from '../mqtt/message.ts'
import type { QoS } from '../mqtt/packet.ts'
import { type BatchOperation, corrupt, LOSS, put, unsealed } from './format.ts'
import type { MsgpackDecoder, MsgpackValue } from './msgpack.ts'
import type { WillRecord } from './store.ts'

const RETAINED = 'retained:'
const WILL = 'will:'
const EMPTY = Buffer.alloc(0)

/** The retained messages and Wills of the open block; the latest of a topic or Client Identifier wins. */
export class OpenRetained {
  readonly #persistence: AsyncLevelPersistence
  readonly #retained = new Map<string, Message | null>()
  readonly #wills = new Map<string, WillRecord | null>()
  #operations: BatchOperation[] = []
  bytes = 0

  constructor() {
    const written = Promise.resolve()
    this.#persistence = new AsyncLevelPersistence({
      put: (key, value) => {
        this.#operations.push(put(Buffer.from(key, 'utf8'), value))
        return written
      },
      del: (key) => {
        this.#operations.push({ type: 'del', key: Buffer.from(key, 'utf8') })
        return written
      },
    })
  }

  get isEmpty(): boolean {
    return this.#retained.size === 0 && this.#wills.size === 0
  }

  setRetained(topic: string, message: Message | null): void {
    this.#retained.set(topic, message)
    this.bytes += 64 + (message?.size ?? 0)
  }

  setWill(clientId: string, record: WillRecord | null): void {
    this.#wills.set(clientId, record)
    this.bytes += 64 + (record === null ? 0 : record.will.payload.length + record.will.topic.length)
  }

  /** Appends everything to `operations` and forgets it. */
  seal(operations: BatchOperation[]): void {
    if (this.isEmpty) return
    const expected = operations.length + this.#retained.size + this.#wills.size
    this.#operations = operations
    for (const [topic, message] of this.#retained) this.#sealRetained(topic, message)
    for (const [clientId, record] of this.#wills) this.#sealWill(clientId, record)
    this.#operations = []
    this.#retained.clear()
    this.#wills.clear()
    this.bytes = 0
    if (operations.length !== expected) {
      throw new Error('aedes-persistence-level did not write before it waited')
    }
  }

  #sealRetained(topic: string, message: Message | null): void {
    if (message === null) {
      this.#settle(this.#persistence.storeRetained({ topic, payload: EMPTY }))
      return
    }
    this.#settle(this.#persistence.storeRetained(retainedPacket(message)))
  }

  #sealWill(clientId: string, record: WillRecord | null): void {
    if (record === null) {
      this.#operations.push({
        type: 'del',
        key: Buffer.from(`${WILL}${encodeURIComponent(clientId)}`, 'utf8'),
      })
      return
    }
    this.#settle(this.#persistence.putWill({ id: clientId }, willPacket(record)))
  }

  /** Whether it wrote is counted synchronously by `seal`, which throws; nobody waits for the promise. */
  #settle(promise: Promise<void>): void {
    promise.catch(() => undefined)
  }
}

function retainedPacket(message: Message): { topic: string; payload: Buffer } & Record<string, unknown> {
  return {
    cmd: 'publish',
    topic: message.topic.name,
    payload: message.payload,
    qos: message.qos,
    retain: message.retain,
    dup: false,
    raw: message.properties,
    expiresAt: Number.isFinite(message.expiresAt) ? message.expiresAt : null,
    publisher: message.publisher,
  }
}

function willPacket({ will, owner, dueAt }: WillRecord): Record<string, unknown> {
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
    dueAt,
  }
}

/** The ranges of keys that hold retained messages and Wills. */
export const RETAINED_RANGE = { gte: Buffer.from('retained:'), lt: Buffer.from('retained;') }
export const WILL_RANGE = { gte: Buffer.from('will:'), lt: Buffer.from('will;') }

type StoredWill = readonly [clientId: string, record: WillRecord]

/** Keys that a directory written by Aedes may hold. */
const AEDES_KEY = /^(retained|subscriptions|outgoing|outgoing-id|incoming|will):/

export function isAedesKey(key: Buffer): boolean {
  return AEDES_KEY.test(key.toString('latin1'))
}

/** A stored retained message. Throws StoreError `corrupt`. */
export function decodeRetained(key: Buffer, value: Buffer, decoder: MsgpackDecoder): Message {
  return retainedOf(key, unsealed(key, value), decoder)
}

/** A retained message as Aedes stored it. Throws StoreError `corrupt`. */
export function importRetained(key: Buffer, value: Buffer, decoder: MsgpackDecoder): Message {
  return retainedOf(key, value, decoder)
}

/** A stored Will. Throws StoreError `corrupt`. */
export function decodeWill(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  return willOf(key, unsealed(key, value), decoder)
}

/** A Will as Aedes stored it. Throws StoreError `corrupt`. */
export function importWill(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  return willOf(key, value, decoder)
}

function retainedOf(key: Buffer, value: Buffer, decoder: MsgpackDecoder): Message {
  const packet = packetOf(key, value, decoder)
  return new Message({
    topic: new Topic(key.toString('utf8', RETAINED.length)),
    payload: owned(bytesOf(packet.get('payload'))),
    properties: owned(bytesOf(packet.get('raw'))),
    qos: qosOf(packet.get('qos')),
    retain: true,
    expiresAt: numberOf(packet.get('expiresAt')) ?? Number.POSITIVE_INFINITY,
    publisher: textOf(packet.get('publisher')),
  })
}

function willOf(key: Buffer, value: Buffer, decoder: MsgpackDecoder): StoredWill {
  const packet = packetOf(key, value, decoder)
  const owner = packet.get('owner')
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
    dueAt: numberOf(packet.get('dueAt')) ?? 0,
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
