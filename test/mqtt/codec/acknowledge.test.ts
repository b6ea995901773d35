import { generate } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { encodeRefusal } from '../../../src/mqtt/codec/acknowledge.ts'
import type { AcknowledgeType } from '../../../src/mqtt/packet.ts'
import { encodeAcknowledge } from '../encoded.ts'
import { decodeAll } from '../packets.ts'
import { parsed } from './reading.ts'

test('acknowledgements have the short form where it means the same', () => {
  for (const type of ['puback', 'pubrec', 'pubrel', 'pubcomp'] satisfies AcknowledgeType[]) {
    for (const version of [3, 4, 5] as const) {
      for (const reasonCode of [0, 0x92]) {
        const bytes = encodeAcknowledge(type, version, 258, reasonCode)
        const code = type === 'puback' || type === 'pubrec' ? 0x97 : 0x92
        const other = encodeAcknowledge(type, version, 258, reasonCode === 0 ? 0 : code)
        expect(bytes.length).toBe(version === 5 && reasonCode !== 0 ? 5 : 4)
        expect(parsed(type, other, version)).toMatchObject({ messageId: 258 })
        if (version === 5) expect(parsed(type, other, 5).reasonCode).toBe(reasonCode === 0 ? 0 : code)
      }
    }
  }
})

test('PUBACK and PUBREC of a client: Reason String and the last User Property retry-after', () => {
  const properties = {
    reasonString: 'db down',
    userProperties: { other: '1', 'retry-after': ['1', '7'] },
  }
  for (const cmd of ['puback', 'pubrec'] as const) {
    const bytes = generate({ cmd, messageId: 3, reasonCode: 0x80, properties }, { protocolVersion: 5 })
    const packet = { type: cmd, packetId: 3, reasonCode: 0x80, reasonString: 'db down', retryAfter: '7' }
    expect(decodeAll([bytes], 5)).toEqual([packet])
    const bare = generate({ cmd, messageId: 3, reasonCode: 0x80 }, { protocolVersion: 5 })
    expect(decodeAll([bare], 5)).toEqual([{ type: cmd, packetId: 3, reasonCode: 0x80 }])
  }
})

test('[MQTT-3.4.2-2] [MQTT-3.5.2-2] a refusal says why where that fits', () => {
  for (const type of ['puback', 'pubrec'] as const) {
    const bytes = encodeRefusal(type, 258, 0x97, 'queue box is full', 100)!
    const properties = { reasonString: 'queue box is full' }
    expect(parsed(type, bytes, 5)).toMatchObject({ messageId: 258, reasonCode: 0x97, properties })
    expect(encodeRefusal(type, 258, 0x97, 'queue box is full', bytes.length)).toEqual(bytes)
    expect(encodeRefusal(type, 258, 0x97, 'queue box is full', bytes.length - 1)).toBe(null)
  }
})
