/** A whole conversation of a subscriber and a publisher, byte by byte as the standards write it. */
import type { Version } from '../broker/harness.ts'
import { connect, packet, properties, uint32 } from '../mqtt/packets.ts'
import { acknowledge, publish, subscribe, unsubscribe } from './wire.ts'

export type Party = 'sub' | 'pub'

/** One sends, and this is all that both get. A CONNECT begins a new connection. */
export interface Step {
  readonly from: Party
  readonly bytes: Buffer
  readonly toSub: string
  readonly toPub: string
}

const NOTHING = Buffer.alloc(0)

/** The packets of the exchange in this version, with the Server's limits at their defaults. */
export function exchange(version: Version): readonly Step[] {
  const is5 = version === 5
  const step = (
    from: Party,
    bytes: Buffer,
    toSub: readonly Buffer[],
    toPub: readonly Buffer[] = [],
  ): Step => ({
    from,
    bytes,
    toSub: Buffer.concat(toSub).toString('hex'),
    toPub: Buffer.concat(toPub).toString('hex'),
  })
  const none = is5 ? properties() : NOTHING
  // In 5.0, Maximum Packet Size 16 MiB and Topic Alias Maximum 64 are the only values that are no defaults.
  const told = is5 ? properties(0x27, uint32(16 * 1024 ** 2), 0x22, [0, 64]) : NOTHING
  const connack = (present: number) => packet(0x20, present, 0, told)
  const suback = (id: number, code: number) => packet(0x90, [0, id], none, code)
  const unsuback = (id: number) => packet(0xb0, [0, id], none, is5 ? [0] : [])
  const unheard = (first: number, id: number) => acknowledge(first, id, ...(is5 ? [0x10] : []))
  const lasting = connect(version, 0, is5 ? properties(0x11, uint32(1000)) : NOTHING, 'sub')
  const willing = connect(version, 0x26, none, 'pub', none, 'r', 'gone')
  return [
    step('sub', lasting, [connack(0)]),
    step('sub', subscribe(version, 10, 't', 2), [suback(10, 2)]),
    step('pub', willing, [], [connack(0)]),
    step('pub', publish(version, 0, 't'), [publish(version, 0, 't')]),
    step('pub', publish(version, 2, 't', 5), [publish(version, 2, 't', 1)], [acknowledge(0x40, 5)]),
    step('sub', acknowledge(0x40, 1), []),
    step('pub', publish(version, 4, 't', 6), [publish(version, 4, 't', 2)], [acknowledge(0x50, 6)]),
    step('pub', acknowledge(0x62, 6), [], [acknowledge(0x70, 6)]),
    step('sub', acknowledge(0x50, 2), [acknowledge(0x62, 2)]),
    step('sub', acknowledge(0x70, 2), []),
    step('sub', packet(0xc0), [packet(0xd0)]),
    // Retained, for a new Subscription.
    step('pub', publish(version, 3, 'r', 7, 'kept'), [], [unheard(0x40, 7)]),
    step('sub', subscribe(version, 11, 'r', 1), [suback(11, 1), publish(version, 3, 'r', 3, 'kept')]),
    step('sub', acknowledge(0x40, 3), []),
    step('sub', unsubscribe(version, 12, 'r'), [unsuback(12)]),
    // Away and back: messages that came meanwhile, and unacknowledged ones again.
    step('pub', publish(version, 4, 't', 8), [publish(version, 4, 't', 4)], [acknowledge(0x50, 8)]),
    step('sub', packet(0xe0), []),
    step('pub', publish(version, 2, 't', 9, 'late'), [], [acknowledge(0x40, 9)]),
    step('sub', lasting, [
      connack(version === 3 ? 0 : 1),
      publish(version, 12, 't', 4),
      publish(version, 2, 't', 5, 'late'),
    ]),
    step('sub', acknowledge(0x50, 4), [acknowledge(0x62, 4)]),
    // A Will, since the publisher breaks a rule; its QoS 2 message is not lost by that.
    step('sub', subscribe(version, 13, 'r', 0), [suback(13, 0), publish(version, 1, 'r', 0, 'kept')]),
    step('pub', Buffer.from([0x00]), [publish(version, 0, 'r', 0, 'gone')], is5 ? [MALFORMED] : []),
    step('sub', packet(0xe0), []),
  ]
}

const MALFORMED = packet(0xe0, 0x81, properties(0x1f, 'packet type 0 is forbidden (2.1.2)'))
