import { expect, test } from 'vitest'
import { messageDigest } from '../../src/mqtt/digest.ts'
import { Topic } from '../../src/mqtt/message.ts'
import type { PublishPacket } from '../../src/mqtt/packet.ts'

interface Parts {
  readonly topic?: string
  readonly payload?: string
  readonly properties?: string
  readonly retain?: boolean
  /** Offset of the payload in its buffer. */
  readonly at?: number
}

function digest({ topic = 't', payload = '', properties = '', retain = false, at = 0 }: Parts): number {
  const buffer = Buffer.concat([Buffer.alloc(at, 0x55), Buffer.from(payload), Buffer.from('behind')])
  const packet = {
    buffer,
    start: 0,
    payloadStart: at,
    end: buffer.length - 6,
    properties: Buffer.from(properties),
    retain,
  } as Partial<PublishPacket>
  return messageDigest(packet as PublishPacket, new Topic(topic))
}

test('is the same for the same message, wherever it is in a buffer', () => {
  for (const payload of ['', 'a', 'abc', 'abcd', 'abcde', 'a longer payload than a word']) {
    expect(digest({ payload, at: 3 })).toBe(digest({ payload }))
    expect(digest({ payload })).toBeGreaterThan(0)
    expect(digest({ payload })).toBeLessThan(2 ** 48)
  }
})

test('differs for every bit, for every part, and for bytes that move from one part to the next', () => {
  const seen = new Map<number, string>()
  const tell = (parts: Parts): void => {
    const found = digest(parts)
    expect(seen.get(found), JSON.stringify(parts)).toBeUndefined()
    seen.set(found, JSON.stringify(parts))
  }
  for (let length = 0; length < 40; length++) tell({ payload: '\0'.repeat(length) })
  for (let length = 2; length < 40; length++) tell({ topic: '\x01'.repeat(length) })
  tell({ retain: true })
  tell({ topic: 'ab', payload: 'c' })
  tell({ topic: 'a', payload: 'bc' })
  tell({ topic: 'a', properties: 'b', payload: 'c' })
  tell({ topic: 'a', properties: 'bc' })
  const bytes = Buffer.from('thirty-one bytes of a payload..')
  for (let bit = 0; bit < bytes.length * 7; bit++) {
    const flipped = Buffer.from(bytes)
    flipped[Math.floor(bit / 7)]! ^= 1 << (bit % 7)
    tell({ payload: flipped.toString('latin1') })
  }
})

test('100,000 counting payloads have as many digests', () => {
  const digests = new Set<number>()
  for (let number = 0; number < 100_000; number++) digests.add(digest({ payload: `value ${number}` }))
  expect(digests.size).toBe(100_000)
})
