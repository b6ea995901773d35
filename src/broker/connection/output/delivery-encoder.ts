/** HOT. Encodes deliveries for one client: for its version, Topic Aliases and Maximum Packet Size. */
import { sharedPublish, writePublish } from '../../../mqtt/codec/publish.ts'
import { type Delivery, type EncodedPacket, NO_IDENTIFIERS } from '../../../mqtt/message.ts'
import type { ProtocolVersion } from '../../../mqtt/packet.ts'
import type { PacketWriter } from '../../../mqtt/slab.ts'
import { secondsLeft } from '../../boundary/expiry.ts'
import { OutgoingAliases } from './topic-aliases.ts'

export class DeliveryEncoder {
  /** Memory for packets that receivers share, and for those of this client alone. */
  readonly #shared: PacketWriter
  readonly #own: PacketWriter
  readonly #version: ProtocolVersion
  /** The client's Maximum Packet Size. */
  readonly #packetBytesMax: number
  readonly #aliases: OutgoingAliases

  constructor(
    shared: PacketWriter,
    own: PacketWriter,
    version: ProtocolVersion,
    packetBytesMax: number,
    aliasMaximum: number,
  ) {
    this.#shared = shared
    this.#own = own
    this.#version = version
    this.#packetBytesMax = packetBytesMax
    this.#aliases = new OutgoingAliases(aliasMaximum)
  }

  /**
   * Encodes a PUBLISH, except for its `body`; the result is valid until the next one. Null when the packet
   * exceeds the client's Maximum Packet Size [MQTT-3.1.2-24]. `packetId` is 0 at QoS 0, `now` is broker time
   * in ms.
   */
  encode(delivery: Delivery, packetId: number, dup: boolean, now: number): EncodedPacket | null {
    if (this.#isShared(delivery)) {
      this.#own.body = null
      const encoded = sharedPublish(this.#shared, delivery.message, this.#version)
      return this.#fits(encoded, null) ? encoded : null
    }
    const encoded = this.#alone(delivery, packetId, dup, now)
    return this.#fits(encoded, this.body) ? encoded : null
  }

  /** The rest of the latest packet, a large payload in the memory of its message; null where it is whole. */
  get body(): Buffer | null {
    return this.#own.body
  }

  /** Whether other receivers may get the same bytes. */
  #isShared({ qos, retain, subscriptionIdentifiers, message }: Delivery): boolean {
    if (qos !== 0 || retain) return false
    if (this.#version !== 5) return true
    return (
      subscriptionIdentifiers.length === 0 &&
      this.#aliases.maximum === 0 &&
      message.expiresAt === Number.POSITIVE_INFINITY
    )
  }

  #alone(delivery: Delivery, packetId: number, dup: boolean, now: number): EncodedPacket {
    const { message, qos } = delivery
    const flags = (dup ? 8 : 0) | (qos << 1) | (delivery.retain ? 1 : 0)
    if (this.#version === 5) this.#write5(delivery, flags, packetId, secondsLeft(message.expiresAt, now))
    else writePublish(this.#own, message, this.#version, flags, packetId, NO_IDENTIFIERS, -1, 0, false)
    return this.#own
  }

  #write5(delivery: Delivery, flags: number, packetId: number, expirySeconds: number): void {
    const { message, subscriptionIdentifiers: identifiers } = delivery
    const { name } = message.topic
    const known = this.#aliases.known(name)
    if (known > 0) {
      writePublish(this.#own, message, 5, flags, packetId, identifiers, expirySeconds, known, true)
      return
    }
    const free = this.#aliases.free(message.topic)
    writePublish(this.#own, message, 5, flags, packetId, identifiers, expirySeconds, free, false)
    // The client learns an alias from the packet that sets it; one that is too large is not sent.
    if (free > 0 && this.#fits(this.#own, this.body)) this.#aliases.learn(name)
  }

  /** A packet that is larger than the standard can express was encoded as no bytes. */
  #fits({ start, end }: EncodedPacket, body: Buffer | null): boolean {
    return end > start && end - start + (body === null ? 0 : body.length) <= this.#packetBytesMax
  }
}
