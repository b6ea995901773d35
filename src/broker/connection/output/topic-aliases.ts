/**
 * HOT. The Topic Aliases of one Network Connection, both ways (section 3.3.2.3.4). They end with it
 * [MQTT-3.3.2-7].
 */
import type { Topic } from '../../../mqtt/message.ts'
import type { PublishPacket } from '../../../mqtt/packet.ts'
import { ProtocolError, Reason } from '../../../mqtt/reason.ts'

/** The Topic Aliases that the client sets. */
export class IncomingAliases {
  readonly #maximum: number
  #topics: Map<number, Topic> | null = null
  #bytes = 0

  /** `maximum` is the Topic Alias Maximum that we announced. */
  constructor(maximum: number) {
    this.#maximum = maximum
  }

  /** Bytes of all topic names that aliases stand for. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * Returns the topic of a packet with an alias. Throws ProtocolError if the alias is too large or unknown.
   */
  resolve(packet: PublishPacket): Topic {
    const { topicAlias: alias } = packet
    if (alias > this.#maximum) {
      throw new ProtocolError(
        Reason.TopicAliasInvalid,
        'MQTT-3.3.2-9',
        `topic alias ${alias} is above the maximum`,
        'topicAliasMaximum',
      )
    }
    if (packet.topic !== null) {
      this.#bytes += packet.topic.byteLength - (this.#topics?.get(alias)?.byteLength ?? 0)
      this.#topics ??= new Map()
      this.#topics.set(alias, packet.topic)
      return packet.topic
    }
    const topic = this.#topics?.get(alias)
    if (topic === undefined) {
      throw new ProtocolError(Reason.ProtocolError, 'section 3.3.2.3.4', `topic alias ${alias} is not known`)
    }
    return topic
  }
}

/** Shorter topic names are sent as they are, since an alias takes three bytes itself. */
const ALIASED_BYTES_MIN = 8

/** Topic names that are remembered for each possible alias, to see which of them come again. */
const SEEN_PER_ALIAS = 4

/** Beyond this many bytes the names are forgotten, since nobody counts their memory. */
const SEEN_BYTES_MAX = 16 * 1024

/**
 * The Topic Aliases towards the client. A topic gets an alias when it comes for the second time, and keeps
 * it. So clients that announce a Topic Alias Maximum by default cost nothing until an alias pays.
 */
export class OutgoingAliases {
  readonly maximum: number
  #aliases: Map<string, number> | null = null
  /** Names that came once of late; null once all aliases are given away. */
  #seen: Set<string> | null = null
  #seenBytes = 0

  /** `maximum` is the lower of the client's Topic Alias Maximum and our own; 0 for none [MQTT-3.1.2-27]. */
  constructor(maximum: number) {
    this.maximum = maximum
  }

  /** The alias that the client already knows for a topic; 0 for none. */
  known(topic: string): number {
    return this.maximum === 0 ? 0 : (this.#aliases?.get(topic) ?? 0)
  }

  /**
   * Proposes a free alias for a topic that has come before; 0 for none. Call `learn` once the packet is sent.
   */
  free({ name, byteLength }: Topic): number {
    const used = this.#aliases?.size ?? 0
    if (used >= this.maximum || byteLength < ALIASED_BYTES_MIN) return 0
    this.#seen ??= new Set()
    if (this.#seen.has(name)) return used + 1
    if (this.#seen.size >= SEEN_PER_ALIAS * this.maximum || this.#seenBytes >= SEEN_BYTES_MAX) {
      this.#seen.clear()
      this.#seenBytes = 0
    }
    this.#seen.add(name)
    this.#seenBytes += byteLength
    return 0
  }

  /** Notes that a packet which sets the free alias is on its way. */
  learn(topic: string): void {
    this.#aliases ??= new Map()
    this.#aliases.set(topic, this.#aliases.size + 1)
    this.#seen?.delete(topic)
    if (this.#aliases.size === this.maximum) this.#seen = null
  }
}
