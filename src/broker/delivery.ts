/** HOT. What a delivery looks like on one Network Connection: its version, aliases, identifiers and largest packet. */
import { encodePublish, publishWire } from '../mqtt/encode.ts'
import { type Delivery, type Message, NO_IDENTIFIERS, type Wire } from '../mqtt/message.ts'
import type { ProtocolVersion } from '../mqtt/packet.ts'
import { OutgoingAliases } from './topic-aliases.ts'

const NOTHING: Wire = Object.freeze({ buffer: Buffer.alloc(0), start: 0, end: 0 })

export class DeliveryEncoder {
  readonly #version: ProtocolVersion
  /** The client's Maximum Packet Size. */
  readonly #packetBytesMax: number
  readonly #aliases: OutgoingAliases

  constructor(version: ProtocolVersion, packetBytesMax: number, aliasMaximum: number) {
    this.#version = version
    this.#packetBytesMax = packetBytesMax
    this.#aliases = new OutgoingAliases(aliasMaximum)
  }

  /**
   * The PUBLISH packet; null when it exceeds the client's Maximum Packet Size [MQTT-3.1.2-24]. `packetId` is 0 at
   * QoS 0, `now` is broker time in ms.
   */
  encode(delivery: Delivery, packetId: number, dup: boolean, now: number): Buffer | null {
    const { message, qos } = delivery
    const flags = (dup ? 8 : 0) | (qos << 1) | (delivery.retain ? 1 : 0)
    const bytes =
      this.#version === 5
        ? this.#encode5(delivery, flags, packetId, remainingSeconds(message, now))
        : encodePublish(message, this.#version, flags, packetId, NO_IDENTIFIERS, -1, 0, false)
    return this.#fits(bytes) ? bytes : null
  }

  /**
   * The packet that this client shares with others; null where it gets one of its own from `encode`. Without bytes
   * when it exceeds the client's Maximum Packet Size.
   */
  shared(delivery: Delivery): Wire | null {
    if (delivery.qos !== 0 || delivery.retain || delivery.subscriptionIdentifiers.length > 0) return null
    const { message } = delivery
    if (
      this.#version === 5 &&
      (this.#aliases.maximum > 0 || message.expiresAt !== Number.POSITIVE_INFINITY)
    ) {
      return null
    }
    const wire = publishWire(message, this.#version)
    return wire.end - wire.start <= this.#packetBytesMax ? wire : NOTHING
  }

  #encode5(delivery: Delivery, flags: number, packetId: number, expirySeconds: number): Buffer {
    const { message, subscriptionIdentifiers: identifiers } = delivery
    const { name } = message.topic
    const known = this.#aliases.known(name)
    if (known > 0) return encodePublish(message, 5, flags, packetId, identifiers, expirySeconds, known, true)
    const free = this.#aliases.free()
    const bytes = encodePublish(message, 5, flags, packetId, identifiers, expirySeconds, free, false)
    // An alias is known only once a packet that sets it leaves; one that is too large does not.
    if (free > 0 && this.#fits(bytes)) this.#aliases.learn(name)
    return bytes
  }

  /** An empty buffer stands for a packet that is larger than the standard can express. */
  #fits(bytes: Buffer): boolean {
    return bytes.length > 0 && bytes.length <= this.#packetBytesMax
  }
}

/** Message Expiry Interval to send: what was received less the time it waited here [MQTT-3.3.2-6]; -1 for none. */
function remainingSeconds(message: Message, now: number): number {
  if (message.expiresAt === Number.POSITIVE_INFINITY) return -1
  return Math.max(0, Math.ceil((message.expiresAt - now) / 1000))
}
