/**
 * Names the rules of the standards that a listener may let clients break, since real devices do. The
 * decoders ask only before they refuse a packet: a correct packet costs nothing here.
 */

/** Rules by name in the configuration, each with the accepted breach. Everything else is refused as ever. */
export const LENIENCES = {
  /** [MQTT-3.3.1-2]: DUP on a PUBLISH with QoS 0. It is ignored. */
  'dup-on-qos-0': 'a PUBLISH with QoS 0 may have DUP set',
  /** [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]: for clients that send 0000, or DUP as in 3.1. Ignored. */
  'header-flags': 'the reserved flags of PUBREL, SUBSCRIBE and UNSUBSCRIBE may be anything',
  /**
   * [MQTT-2.2.1-3]: for clients that count from 0. The answer has 0, too. QoS 2 would have to remember it
   * and is refused.
   */
  'packet-identifier-zero':
    'SUBSCRIBE, UNSUBSCRIBE and a PUBLISH with QoS 1 may have the packet identifier 0',
  /** [MQTT-3.1.2-11] [MQTT-3.1.2-13]: for flags that clients leave at a default. They are ignored. */
  'will-flags-without-will': 'Will QoS and Will Retain may be set in a CONNECT without a Will',
  /** [MQTT-3.1.2-22] of 3.1.1, and section 3.1 of 3.1: for tokens. The policy sees them. */
  'password-without-user-name': 'a CONNECT before 5.0 may have a password and no user name',
  /** Section 3.1.2.1: `MQTT` with level 3, `MQIsdp` with level 4. The level counts. */
  'protocol-name': 'MQIsdp may stand for level 4, MQTT for level 3',
  /** Section 3.1 of 3.1. */
  'client-identifier-over-23': 'a Client Identifier of MQTT 3.1 may have more than 23 characters',
  /**
   * Section 3.1 of 3.1, [MQTT-3.1.3-8] of 3.1.1. The Session is clean, since its client could not find it
   * again.
   */
  'empty-client-identifier':
    'a Client Identifier may be empty in MQTT 3.1, and in 3.1.1 without Clean Session, which is then implied',
} as const

/** The name of a rule. */
export type Lenience = keyof typeof LENIENCES

/** All names, in the order of the table. */
export const LENIENCE_NAMES = Object.keys(LENIENCES) as readonly Lenience[]

/** The rules that one Network Connection may break. */
export class Leniences {
  readonly #rules: readonly Lenience[]
  readonly #used: (rule: Lenience) => void

  /** Takes the allowed rules; calls `used` for each breach. */
  constructor(rules: readonly Lenience[], used: (rule: Lenience) => void) {
    this.#rules = rules
    this.#used = used
  }

  /**
   * Lets the client break this rule if that is allowed, and reports it. Returns false where it is not
   * allowed: the packet is then refused.
   */
  use(rule: Lenience): boolean {
    if (!this.#rules.includes(rule)) return false
    this.#used(rule)
    return true
  }
}
