/** Subscriptions as values of the store, and as lines of an export. */
import { describe, expect, it } from 'vitest'
import { ByteReader } from '../../../src/store/format/encoding.ts'
import { decodeSubscription, encodeSubscription } from '../../../src/store/format/session-record.ts'
import { LineReader, lineOf } from '../../../src/store/records/jsonl.ts'
import type { SessionRecordLine } from '../../../src/store/records/records.ts'
import type { SubscriptionRecord } from '../../../src/store/store.ts'

const PLAIN = { qos: 1, noLocal: false, retainAsPublished: true, retainHandling: 2, identifier: 300 } as const

const RECORDS: readonly SubscriptionRecord[] = [
  PLAIN,
  { ...PLAIN, retainedPending: true, retainedSince: 12.5 },
  { ...PLAIN, consumer: { prefetch: null, meta: true } },
  { ...PLAIN, consumer: { prefetch: 'auto', meta: false } },
  { ...PLAIN, identifier: 0, consumer: { prefetch: 1000, meta: true } },
]

function lineWith(record: SubscriptionRecord, version: 2 | 3): string {
  const session: SessionRecordLine = {
    ...{ type: 'session', clientId: 'c', owner: null, ownerId: null, sessionExpirySeconds: 9 },
    ...{ disconnectedAt: null, lastPacketId: 0, inbound: [], subscriptions: [['$queue/jobs', record]] },
  }
  return lineOf(session, { godwit: 'test', version })
}

describe('a Subscription', () => {
  it('comes back from its stored value', () => {
    for (const record of RECORDS) {
      const reader = new ByteReader(encodeSubscription(record))
      expect(decodeSubscription(reader)).toEqual(record)
      expect(reader.atEnd).toBe(true)
    }
  })

  it('with flags of a consumer that this version does not know is not read', () => {
    const value = encodeSubscription({ ...PLAIN, identifier: 0, consumer: { prefetch: null, meta: true } })
    value[value.length - 1] = 128
    expect(() => decodeSubscription(new ByteReader(value))).toThrow('flags 128 of a consumer')
  })

  it('comes back from its line, without the wishes of a consumer in lines of 0.3', () => {
    for (const { retainedSince: _, ...record } of RECORDS) {
      const read = (version: 2 | 3): SubscriptionRecord => {
        const lines = new LineReader()
        lines.read('{"type":"start","format":"godwit-export","version":3,"godwit":"test"}')
        const line = lines.read(lineWith(record, version)) as SessionRecordLine
        return line.subscriptions[0]![1]
      }
      expect(read(3)).toEqual(record)
      const { consumer: _consumer, ...plain } = record
      expect(read(2)).toEqual(plain)
    }
  })
})
