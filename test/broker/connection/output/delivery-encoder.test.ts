import { describe, expect, it } from 'vitest'
import { DeliveryEncoder } from '../../../../src/broker/connection/output/delivery-encoder.ts'
import { type Delivery, Message, NO_IDENTIFIERS, Topic } from '../../../../src/mqtt/message.ts'
import type { ProtocolVersion } from '../../../../src/mqtt/packet.ts'
import { PacketSlab } from '../../../../src/mqtt/slab.ts'
import { bytesOf } from '../../../mqtt/encoded.ts'

function delivery(topic: string, payload: Buffer, expiresAt = Number.POSITIVE_INFINITY): Delivery {
  const fields = {
    topic: new Topic(topic),
    payload,
    qos: 1 as const,
    retain: false,
    publisher: '',
    expiresAt,
  }
  const message = Message.of(fields)
  return { message, qos: 1, retain: true, subscriptionIdentifiers: NO_IDENTIFIERS, share: null }
}

const X = Buffer.from('x')

/** An encoder whose packets are buffers of their own. */
function encoderFor(version: ProtocolVersion, packetBytesMax: number, aliasMaximum: number) {
  const encoder = new DeliveryEncoder(
    new PacketSlab(),
    new PacketSlab(),
    version,
    packetBytesMax,
    aliasMaximum,
  )
  return {
    encode: (...given: Parameters<typeof encoder.encode>) => {
      const encoded = encoder.encode(...given)
      return encoded === null ? null : Buffer.concat([bytesOf(encoded), encoder.body ?? Buffer.alloc(0)])
    },
  }
}

describe('DeliveryEncoder', () => {
  it('takes DUP, QoS and RETAIN from the delivery', () => {
    const encoder = encoderFor(4, Number.POSITIVE_INFINITY, 0)
    expect(encoder.encode(delivery('t', X), 7, false, 0)?.toString('hex')).toBe('3306000174000778')
    expect(encoder.encode(delivery('t', X), 7, true, 0)?.toString('hex')).toBe('3b06000174000778')
  })

  it('[MQTT-3.3.2-6] sends the seconds left until expiry, never less than 0', () => {
    const encoder = encoderFor(5, Number.POSITIVE_INFINITY, 0)
    const left = (now: number) => encoder.encode(delivery('t', X, 10_000), 1, false, now)?.readUInt32BE(9)
    expect([left(0), left(500), left(9_999), left(10_000), left(60_000)]).toEqual([10, 10, 1, 0, 0])
  })

  it('[MQTT-3.1.2-24] returns null above the maximum of the client, and sets no alias', () => {
    const encoder = encoderFor(5, 30, 1)
    const topic = 'some/topic'
    // One that comes a second time is worth an alias.
    expect(encoder.encode(delivery(topic, X), 1, false, 0)?.toString('hex')).not.toContain('2300')
    expect(encoder.encode(delivery(topic, Buffer.alloc(20)), 1, false, 0)).toBeNull()
    expect(encoder.encode(delivery(topic, X), 1, false, 0)?.toString('hex')).toContain('230001')
    expect(encoder.encode(delivery(topic, X), 1, false, 0)?.subarray(2, 4)).toEqual(Buffer.from([0, 0]))
  })

  it('remembers few long topic names while it looks for those that come again [field-E29]', () => {
    const encoder = encoderFor(5, Number.POSITIVE_INFINITY, 16)
    const hasAlias = (topic: string): boolean => {
      const packet = encoder.encode(delivery(topic, X), 1, false, 0)!
      return packet.subarray(packet.length - 6).includes(Buffer.from('230001', 'hex'))
    }
    const long = (index: number): string => `${index}${'x'.repeat(10_000)}`
    for (let index = 0; index < 3; index++) expect(hasAlias(long(index))).toBe(false)
    // Two of them were more than is kept; the latest is.
    expect([hasAlias(long(0)), hasAlias(long(2))]).toEqual([false, true])
  })

  it('does not copy a large payload for each receiver, but uses that of the message', () => {
    const encoder = new DeliveryEncoder(new PacketSlab(), new PacketSlab(), 4, Number.POSITIVE_INFINITY, 0)
    const large = delivery('t', Buffer.alloc(5000, 'l'))
    const encoded = encoder.encode(large, 7, false, 0)!
    expect(encoder.body).toBe(large.message.payload)
    expect(bytesOf(encoded).toString('hex')).toBe('338d270001740007')
    encoder.encode(delivery('t', X), 8, false, 0)
    expect(encoder.body).toBeNull()
    encoder.encode(large, 9, false, 0)
    // At QoS 0 all receivers share the whole packet.
    const shared = encoder.encode({ ...large, qos: 0, retain: false }, 0, false, 0)!
    expect([encoder.body, shared.end - shared.start]).toEqual([null, 5000 + 6])
  })

  it('[MQTT-3.1.2-24] counts a payload that is not copied against the maximum of the client', () => {
    const payload = Buffer.alloc(5000)
    for (const version of [4, 5] as const) {
      const whole = encoderFor(version, Number.POSITIVE_INFINITY, 1).encode(
        delivery('t', payload),
        1,
        false,
        0,
      )!
      const encoded = (packetBytesMax: number) =>
        encoderFor(version, packetBytesMax, 1).encode(delivery('t', payload), 1, false, 0)
      expect(encoded(whole.length)?.equals(whole)).toBe(true)
      expect(encoded(whole.length - 1)).toBeNull()
    }
  })

  it('returns null for a packet that is larger than the standard can express', () => {
    const payload = Buffer.alloc(268_435_455 - 5)
    for (const version of [4, 5] as const) {
      const encoder = encoderFor(version, Number.POSITIVE_INFINITY, 1)
      expect(encoder.encode(delivery('topic', payload), 1, false, 0)).toBeNull()
      const next = encoder.encode(delivery('topic', X), 1, false, 0)
      expect(next?.includes('topic')).toBe(true)
    }
  })
})
