import { expect, test } from 'vitest'
import { encodeDisconnect } from '../../../src/mqtt/codec/disconnect.ts'
import { decodeNamed, parsed } from './reading.ts'

test('DISCONNECT: every field', () => {
  expect(decodeNamed('DISCONNECT, 5.0, properties')).toEqual({
    type: 'disconnect',
    reasonCode: 0x98,
    sessionExpirySeconds: 9,
    reasonString: 'why',
    userProperties: [['', '']],
  })
  expect(decodeNamed('DISCONNECT, 5.0, Reason Code')).toMatchObject({ reasonCode: 4 })
  expect(decodeNamed('DISCONNECT')).toMatchObject({ reasonCode: 0, sessionExpirySeconds: undefined })
})

test('[MQTT-3.14.2-3] a small Maximum Packet Size drops the Reason String', () => {
  const full = encodeDisconnect(0x8e, 'taken over', 1e6)
  expect(parsed('disconnect', full, 5)).toMatchObject({
    reasonCode: 0x8e,
    properties: { reasonString: 'taken over' },
  })
  expect(encodeDisconnect(0x8e, 'taken over', full.length)).toEqual(full)
  expect(encodeDisconnect(0x8e, 'taken over', full.length - 1)).toEqual(Buffer.from([0xe0, 2, 0x8e, 0]))
  expect(encodeDisconnect(0x8e, undefined, 1e6)).toEqual(Buffer.from([0xe0, 2, 0x8e, 0]))
})

test('a Reason String that is no UTF-8 Encoded String is left out', () => {
  for (const reasonString of ['a\u0000', '\ud800', 'x'.repeat(65_536)]) {
    expect(encodeDisconnect(0x80, reasonString, 1e6)).toHaveLength(4)
  }
})
