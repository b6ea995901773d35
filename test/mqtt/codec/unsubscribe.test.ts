import { generate, type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { encodeUnsuback } from '../../../src/mqtt/codec/unsubscribe.ts'
import { decodeNamed } from './reading.ts'

test('UNSUBSCRIBE: every field', () => {
  expect(decodeNamed('UNSUBSCRIBE, 5.0')).toEqual({
    type: 'unsubscribe',
    packetId: 1,
    filters: ['a/+/b', '#'],
    userProperties: [['b', '1']],
  })
})

test('UNSUBACK: Reason Codes in 5.0 only', () => {
  expect(encodeUnsuback(4, 258, [0, 0x11])).toEqual(Buffer.from([0xb0, 2, 1, 2]))
  expect(encodeUnsuback(5, 258, [0, 0x11])).toEqual(Buffer.from([0xb0, 5, 1, 2, 0, 0, 0x11]))
})

test('UNSUBACK with many Reason Codes has the bytes that mqtt-packet writes', () => {
  for (const version of [4, 5] as const) {
    for (const count of [1, 124, 125, 126, 127, 300, 20_000]) {
      const codes = Array.from({ length: count }, (_, index) => index % 3)
      const written = generate({ cmd: 'unsuback', messageId: 0x1234, granted: codes } as Packet, {
        protocolVersion: version,
      })
      expect(encodeUnsuback(version, 0x1234, codes).equals(written)).toBe(true)
    }
  }
})
