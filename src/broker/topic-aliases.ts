/** HOT. Topic aliases of one Network Connection, both ways (section 3.3.2.3.4). They die with it [MQTT-3.3.2-7]. */
import type { Topic } from '../mqtt/message.ts'
import type { PublishPacket } from '../mqtt/packet.ts'
import { ProtocolError, Reason } from '../mqtt/reason.ts'

/** What the client calls topics by. */
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

  /** The topic of a packet that carries an alias. Throws ProtocolError for one above the maximum or not known. */
  resolve(packet: PublishPacket): Topic {
    const { topicAlias: alias } = packet
    if (alias > this.#maximum) {
      throw new ProtocolError(
        Reason.TopicAliasInvalid,
        'MQTT-3.3.2-9',
        `topic alias ${alias} is above the maximum`,
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

/** What we call topics by towards the client: the first ones that come get an alias, and keep it. */
export class OutgoingAliases {
  readonly maximum: number
  #aliases: Map<string, number> | null = null

  /** `maximum` is the lower of the client's Topic Alias Maximum and our own limit; 0 for none [MQTT-3.1.2-27]. */
  constructor(maximum: number) {
    this.maximum = maximum
  }

  /** The alias that the client already knows for a topic; 0 for none. */
  known(topic: string): number {
    return this.maximum === 0 ? 0 : (this.#aliases?.get(topic) ?? 0)
  }

  /** An alias that is still free; 0 when there is none. It is known only after `learn`. */
  free(): number {
    const used = this.#aliases?.size ?? 0
    return used < this.maximum ? used + 1 : 0
  }

  /** A packet that sets the free alias is on its way. */
  learn(topic: string): void {
    this.#aliases ??= new Map()
    this.#aliases.set(topic, this.#aliases.size + 1)
  }
}
