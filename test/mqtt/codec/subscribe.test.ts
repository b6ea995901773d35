import { generate, type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { encodeExplainedSuback, encodeSuback } from '../../../src/mqtt/codec/subscribe.ts'
import { decodeNamed, parsed } from './reading.ts'

test('SUBSCRIBE: options of 5.0, identifier and User Properties', () => {
  expect(decodeNamed('SUBSCRIBE, 5.0')).toEqual({
    type: 'subscribe',
    packetId: 1,
    requests: [
      { filter: 'a/+/b', qos: 2, noLocal: true, retainAsPublished: true, retainHandling: 2 },
      { filter: '#', qos: 0, noLocal: false, retainAsPublished: false, retainHandling: 1 },
    ],
    subscriptionIdentifier: 0,
    userProperties: [],
  })
  expect(decodeNamed('SUBSCRIBE, 5.0, properties')).toMatchObject({
    subscriptionIdentifier: 268_435_455,
    userProperties: [
      ['b', '1'],
      ['a', '2'],
    ],
  })
  expect(decodeNamed('SUBSCRIBE')).toMatchObject({
    requests: [{ filter: 'a/+/b', qos: 0, noLocal: false, retainHandling: 0 }, { qos: 1 }, { qos: 2 }],
  })
})

test('[MQTT-3.9.3-2, 3.1.1] SUBACK: in 3.1.1 every failure is 0x80; 3.1 has none and grants QoS 0', () => {
  expect(encodeSuback(3, 258, [0, 1, 2, 0x8f, 0x87])).toEqual(Buffer.from([0x90, 7, 1, 2, 0, 1, 2, 0, 0]))
  expect(encodeSuback(4, 258, [0, 1, 2, 0x8f, 0x87])).toEqual(
    Buffer.from([0x90, 7, 1, 2, 0, 1, 2, 0x80, 0x80]),
  )
  expect(parsed('suback', encodeSuback(5, 258, [0, 1, 2, 0x8f, 0x87]), 5)).toMatchObject({
    messageId: 258,
    granted: [0, 1, 2, 0x8f, 0x87],
  })
})

test('SUBACK with many Reason Codes has the bytes that mqtt-packet writes', () => {
  for (const version of [4, 5] as const) {
    for (const count of [1, 124, 125, 126, 127, 300, 20_000]) {
      const codes = Array.from({ length: count }, (_, index) => index % 3)
      const written = generate({ cmd: 'suback', messageId: 0x1234, granted: codes } as Packet, {
        protocolVersion: version,
      })
      expect(encodeSuback(version, 0x1234, codes).equals(written)).toBe(true)
    }
  }
})

test('[MQTT-3.9.2-1] SUBACK says why where that fits', () => {
  const bytes = encodeExplainedSuback(258, [1, 0x8f], 'no such queue', 100)
  const properties = { reasonString: 'no such queue' }
  expect(parsed('suback', bytes, 5)).toMatchObject({ messageId: 258, granted: [1, 0x8f], properties })
  expect(encodeExplainedSuback(258, [1, 0x8f], 'no such queue', bytes.length)).toEqual(bytes)
  const bare = encodeSuback(5, 258, [1, 0x8f])
  expect(encodeExplainedSuback(258, [1, 0x8f], 'no such queue', bytes.length - 1)).toEqual(bare)
})
