/** HOT. Application Messages: published once, shared by all receivers. */

const EMPTY = Buffer.alloc(0)

/**
 * Memory that small kept payloads share. It is small, since the payload that stays longest keeps all of it
 * alive.
 */
const POOL_BYTES = 8 * 1024
/** Larger payloads get memory of their own. */
const POOLED_BYTES_MAX = 1024

let pool: Buffer = EMPTY
let poolUsed = POOL_BYTES

export type QoS = 0 | 1 | 2

/**
 * A validated topic name. It is interned, so that one look-up per PUBLISH yields the name, its bytes and
 * the Route that the router remembers for it.
 */
export class Topic {
  /** The topic name, as a string. */
  readonly name: string
  /** Bytes of the name in UTF-8. */
  readonly byteLength: number
  /**
   * Belong to the router: its cached Route for this topic, the object that tells routers apart, and the count
   * of changes at which the Route was last known to be valid.
   */
  route: object | null = null
  routedBy: object | null = null
  routedAt = 0
  #bytes: Buffer | null = null

  constructor(name: string, byteLength = Buffer.byteLength(name)) {
    this.name = name
    this.byteLength = byteLength
  }

  /**
   * The topic name in UTF-8, without its length prefix. Made on demand: a packet that is relayed unchanged
   * needs none.
   */
  get bytes(): Buffer {
    this.#bytes ??= Buffer.from(this.name)
    return this.#bytes
  }

  /**
   * Tells whether `buffer[start..end)` is its name. Compares from the end, where the names of one publisher
   * differ. A name of 24 characters takes 38 ns, or 25 once its bytes were made.
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

/** An encoded packet: `buffer[start..end)`, so that neighbours can be sent as one slice. Never changed. */
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

/** The fields from which `Message.of` makes a message. */
export interface MessageFields {
  readonly topic: Topic
  /** Empty when absent, unless there is `part`. */
  readonly payload?: Buffer
  /** A payload as a part of the read buffer, without a view of its own. */
  readonly part?: PayloadPart
  readonly qos: QoS
  /** The RETAIN flag as published. */
  readonly retain: boolean
  /** Raw, ordered properties of 5.0 to forward unaltered: no length prefix, no alias, no expiry. */
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
  /** Tells an account from a later one of the same name; null when there is only a name. */
  readonly userId: string | null
}

/** Bits of `Message.#flags`. */
const QOS = 3
const RETAIN = 4
const EVICTED = 8
const OWNED = 16

/**
 * An Application Message. It is immutable, except that the store may evict a stored body from memory and
 * restore it, and that its encodings are cached here ("encode once for many").
 *
 * While `evicted` is true, `topic`, `payload`, `properties` and `publisher` must not be read; `size`,
 * `qos`, `retain` and `expiresAt` may.
 */
export class Message {
  topic: Topic
  properties: Buffer
  /** Broker time in ms. Only the store changes it, when time turns out not to have passed. */
  expiresAt: number
  publisher: string
  /** Bytes of topic name, properties and payload together, which queue limits count. */
  readonly size: number
  /** Queues that hold it and that the store does not know. It is not evicted while there are any. */
  holders = 0
  /** Entries in memory, queued or in flight, that refer to it. Counted by `HeldBytes`. */
  entries = 0
  /** The author of a retained message, who may lose the right to it; null when not known. */
  author: Author | null = null
  /** The account that a retained message counts for. Belongs to the broker. */
  charged: object | null = null
  /** The store's handle for the body; null when it is not stored. Belongs to the store. */
  stored: object | null = null
  /** PUBLISH packets that all receivers share: for 3.1 and 3.1.1, and for 5.0. See `sharedPublish`. */
  encoded3: EncodedPacket | null = null
  encoded5: EncodedPacket | null = null
  /** QoS, RETAIN, evicted, owned: a field for each would take 8 bytes of each message. */
  #flags: number
  /** The payload is `#buffer[#start..#end)`; `#payload` is a view of it, made on demand. */
  #buffer: Buffer
  #start: number
  #end: number
  #payload: Buffer | null

  /**
   * Takes positional arguments: an object would be allocated for each message. `evictedSize` is for an
   * evicted message.
   */
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

  /** Makes a message from named fields, for code that makes few. */
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
   * Copies the bytes out of the read buffer they are a view of, so that the message does not pin it. One
   * that is `lasting` (retained) does not share the memory of its copies with others either.
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

  /** Copies the payload into memory that other messages share. Drops the view: few will need another one. */
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
   * Drops the shared encodings once all present receivers have them: they lie in memory that is shared with
   * other packets, and a message that is kept would keep all of it.
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

/**
 * Copies bytes into memory of their own: small buffers share 8 KiB otherwise, and the last one keeps all of
 * it alive.
 */
function aloneCopy(bytes: Buffer): Buffer {
  const alone = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(alone)
  return alone
}

/** The topic of an evicted message. */
export const NO_TOPIC = new Topic('')

/** No Subscription Identifiers; shared, so that the usual case costs nothing. */
export const NO_IDENTIFIERS: readonly number[] = Object.freeze([])

/** A hand-out of a group's message: the origin of a delivery that is not of the Session's own queue. */
export interface DeliverySource {
  readonly group: number
  readonly lane: number
  readonly sequence: number
  /** Counts the times that the message was handed out. */
  readonly attempt: number
  /** The Subscription's whole filter as sent: the topic that arrives is made from it. */
  readonly filter: string
}

/** One subscriber's part of a message: a small record beside the shared Message. Immutable. */
export interface Delivery {
  readonly message: Message
  /** The lower of the message's and the Subscription's QoS. */
  readonly qos: QoS
  /** The RETAIN flag to send. */
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
  /**
   * The whole Shared Subscription filter (`$share/group/filter`) that this delivery came by; null
   * otherwise.
   */
  readonly share: string | null
  /** Only deliveries of a queue have it, so that others take no memory for it. */
  readonly source?: DeliverySource
  /** Only where the message went elsewhere, while its packet identifier stays in use. */
  readonly isEcho?: true
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
