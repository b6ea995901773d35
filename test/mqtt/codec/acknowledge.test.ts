import { expect, test } from 'vitest'
import type { AcknowledgeType } from '../../../src/mqtt/packet.ts'
import { encodeAcknowledge } from '../encoded.ts'
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
