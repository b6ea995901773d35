/** Application Messages: what is published once and shared by everyone who receives it. */

const EMPTY = Buffer.alloc(0)

/** Memory that kept payloads share, and the largest of those, in bytes: whoever stays longest keeps all of it. */
const POOL_BYTES = 8 * 1024
const POOLED_BYTES_MAX = 1024

let pool: Buffer = EMPTY
let poolUsed = POOL_BYTES

export type QoS = 0 | 1 | 2

/**
 * A validated topic name, interned by the topic table so that one look-up per PUBLISH yields the name, its bytes
 * and whatever the router remembers about it.
 */
export class Topic {
  /** The topic name, as a string. */
  readonly name: string
  /** Bytes of the name in UTF-8. */
  readonly byteLength: number
  /** Slots for the router: its cached route for this topic, which router it is of and when it held. Nobody else touches them. */
  route: object | null = null
  routedBy: object | null = null
  routedAt = 0
  #bytes: Buffer | null = null

  constructor(name: string, byteLength = Buffer.byteLength(name)) {
    this.name = name
    this.byteLength = byteLength
  }

  /** The topic name, UTF-8, without its length prefix. Made when it is asked for: what is relayed as it came needs none. */
  get bytes(): Buffer {
    this.#bytes ??= Buffer.from(this.name)
    return this.#bytes
  }

  /**
   * Whether `buffer[start..end)` is its name. From the end on, where the names of one publisher differ. A name of 24
   * characters takes 38 ns; its bytes take 25, where they have been made.
   */
  isNamed(buffer: Buffer, start: number, end: number): boolean {
    const { name, byteLength } = this
    if (end - start !== byteLength) return false
    if (this.#bytes !== null || name.length !== byteLength) {
      const { bytes } = this
      for (let at = byteLength - 1; at >= 0; at--) if (buffer[start + at] !== bytes[at]) return false
      return true
    }
    for (let at = byteLength - 1; at >= 0; at--) if (buffer[start + at] !== name.charCodeAt(at)) return false
    return true
  }
}

/** A packet as bytes: a part of a buffer, so that neighbours can leave as one slice. Never changed. */
export interface EncodedPacket {
  readonly buffer: Buffer
  readonly start: number
  readonly end: number
}

/** A payload as `buffer[payloadStart..end)`. */
export interface PayloadPart {
  readonly buffer: Buffer
  readonly payloadStart: number
  readonly end: number
}

export interface MessageFields {
  readonly topic: Topic
  /** Empty when absent, unless there is `part`. */
  readonly payload?: Buffer
  /** A payload that has no view: a part of the read buffer. */
  readonly part?: PayloadPart
  readonly qos: QoS
  /** The RETAIN flag as published. */
  readonly retain: boolean
  /** Raw, ordered 5.0 properties that are forwarded unaltered: no length prefix, no alias, no expiry. */
  readonly properties?: Buffer
  /** Broker time in milliseconds after which delivery must not start; `Infinity` without expiry. */
  readonly expiresAt?: number
  /** Client Identifier of the publisher; empty when the Server itself publishes. */
  readonly publisher: string
}

/** The user who published a message. */
export interface Author {
  /** Null for anonymous. */
  readonly userName: string | null
  /** Tells an account from a later one of the same name; null where the name is all there is. */
  readonly userId: string | null
}

/** Of `Message.#flags`. */
const QOS = 3
const RETAIN = 4
const EVICTED = 8
const OWNED = 16

/**
 * An Application Message. Immutable but for little: a stored body may be evicted from memory and restored by
 * the store, and encodings are cached beside it ("encode once for many").
 *
 * While `evicted` is true, `topic`, `payload`, `properties` and `publisher` must not be read; `size`, `qos`, `retain`
 * and `expiresAt` may.
 */
export class Message {
  topic: Topic
  properties: Buffer
  /** Changed by the store alone, where time turns out not to have passed. */
  expiresAt: number
  publisher: string
  /** Bytes of topic name, properties and payload together; what queue limits count. */
  readonly size: number
  /** Queues that hold it without the store knowing: it is not evicted while there are any. */
  holders = 0
  /** Entries in memory, of queues and of what is in flight, that have it. Counted by `HeldBytes`. */
  entries = 0
  /** Of one that is retained, since the author may lose the right to have it there; null where it is not known. */
  author: Author | null = null
  /** Of one that is retained: where it is counted. Belongs to the broker. */
  charged: object | null = null
  /** The store's handle for the body; null when it is not stored. Belongs to the store. */
  stored: object | null = null
  /** PUBLISH packets that all receivers share, for 3.1 and 3.1.1 and for 5.0; see `sharedPublish`. */
  encoded3: EncodedPacket | null = null
  encoded5: EncodedPacket | null = null
  /** QoS, RETAIN, and whether it is evicted and owned: each a field of its own would take 8 bytes with each message. */
  #flags: number
  /** The payload is `#buffer[#start..#end)`; `#payload` is a view of it, once there is one. */
  #buffer: Buffer
  #start: number
  #end: number
  #payload: Buffer | null

  /** Each by its place, since an object of them would be made for each message; `evictedSize` is for one without its body. */
  constructor(
    topic: Topic,
    publisher: string,
    { buffer, payloadStart, end }: PayloadPart,
    properties: Buffer,
    qos: QoS,
    retain: boolean,
    expiresAt: number,
    evictedSize?: number,
  ) {
    this.topic = topic
    this.publisher = publisher
    this.#buffer = buffer
    this.#start = payloadStart
    this.#end = end
    this.#payload = null
    this.properties = properties
    this.expiresAt = expiresAt
    this.size = evictedSize ?? topic.byteLength + properties.length + end - payloadStart
    this.#flags = qos | (retain ? RETAIN : 0) | (evictedSize === undefined ? 0 : EVICTED)
  }

  /** The same by names, where few are made. */
  static of(fields: MessageFields, evictedSize?: number): Message {
    const { topic, publisher, payload = EMPTY, properties = EMPTY, qos, retain } = fields
    const { expiresAt = Number.POSITIVE_INFINITY } = fields
    const part = fields.part ?? { buffer: payload, payloadStart: 0, end: payload.length }
    const message = new Message(topic, publisher, part, properties, qos, retain, expiresAt, evictedSize)
    if (fields.part === undefined) message.#payload = payload
    return message
  }

  get qos(): QoS {
    return (this.#flags & QOS) as QoS
  }

  get retain(): boolean {
    return (this.#flags & RETAIN) !== 0
  }

  /** True while topic, payload, properties and publisher are on disk only. */
  get evicted(): boolean {
    return (this.#flags & EVICTED) !== 0
  }

  get payloadBytes(): number {
    return this.#end - this.#start
  }

  get payload(): Buffer {
    if (this.#payload === null) this.#payload = this.#buffer.subarray(this.#start, this.#end)
    return this.#payload
  }

  /**
   * Copies the bytes out of the read buffer they are a view of, so that the message does not pin it. One that is `lasting`
   * (retained) does not share the memory of its copies with others either.
   */
  own(lasting = false): void {
    if ((this.#flags & OWNED) !== 0) return
    this.#flags |= OWNED
    if (lasting) this.#setPayload(aloneCopy(this.payload))
    else this.#ownPayload()
    if (this.properties.length > 0) {
      this.properties = lasting ? aloneCopy(this.properties) : Buffer.from(this.properties)
    }
    this.forgetEncoded()
  }

  /** Into memory that holds payloads of other messages, too. The view goes: few will ask for another one. */
  #ownPayload(): void {
    const bytes = this.payloadBytes
    if (bytes === 0 || bytes > POOLED_BYTES_MAX) {
      this.#setPayload(Buffer.from(this.payload))
      return
    }
    if (bytes > POOL_BYTES - poolUsed) {
      pool = Buffer.allocUnsafeSlow(POOL_BYTES)
      poolUsed = 0
    }
    pool.set(this.payload, poolUsed)
    this.#buffer = pool
    this.#start = poolUsed
    this.#end = poolUsed + bytes
    this.#payload = null
    poolUsed = this.#end
  }

  #setPayload(payload: Buffer): void {
    this.#buffer = payload
    this.#start = 0
    this.#end = payload.length
    this.#payload = payload
  }

  /**
   * Lets go of the shared encodings once everybody has them who gets the message now: they lie in memory that other packets
   * were read or written into, all of which a message that is kept would keep.
   */
  forgetEncoded(): void {
    this.encoded3 = null
    this.encoded5 = null
  }

  /** Drops the body from memory. Only the store calls this, when the body can be read back. */
  evict(): void {
    this.topic = NO_TOPIC
    this.#setPayload(EMPTY)
    this.properties = EMPTY
    this.forgetEncoded()
    this.#flags |= EVICTED
  }

  /** Puts back what `evict` dropped. */
  restore(topic: Topic, properties: Buffer, payload: Buffer, publisher = this.publisher): void {
    this.topic = topic
    this.publisher = publisher
    this.properties = properties
    this.#setPayload(payload)
    this.#flags &= ~EVICTED
  }
}

/** In memory of its own: small buffers share 8 KiB otherwise, and whoever stays longest keeps all of it. */
function aloneCopy(bytes: Buffer): Buffer {
  const alone = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(alone)
  return alone
}

/** The topic of an evicted message. */
export const NO_TOPIC = new Topic('')

/** No Subscription Identifiers; shared, so that the usual case costs nothing. */
export const NO_IDENTIFIERS: readonly number[] = Object.freeze([])

/** What differs per subscriber: a small record beside the shared message. Immutable. */
export interface Delivery {
  readonly message: Message
  /** The lower of the message's and the Subscription's QoS. */
  readonly qos: QoS
  /** The RETAIN flag to send. */
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
  /** The whole Shared Subscription filter (`$share/group/filter`) that this delivery came by; null otherwise. */
  readonly share: string | null
}

/** A Will as the Server keeps it. */
export interface Will {
  readonly topic: string
  readonly payload: Buffer
  readonly qos: QoS
  readonly retain: boolean
  /** Raw, ordered 5.0 properties to forward (no delay, no expiry, no length prefix). */
  readonly properties: Buffer
  /** Message Expiry Interval in seconds from publication; undefined without. */
  readonly expirySeconds: number | undefined
  readonly delaySeconds: number
}
