import { expect, test } from 'vitest'
import { Message, Topic } from '../../src/mqtt/message.ts'

function message(bytes: Buffer): Message {
  return Message.of({
    topic: new Topic('t'),
    payload: bytes.subarray(0, 50),
    properties: bytes.subarray(50, 60),
    qos: 0,
    retain: true,
    publisher: '',
  })
}

test.each([false, true])('own copies a message once (lasting: %s)', (lasting) => {
  const bytes = Buffer.alloc(60, 'a')
  const one = message(bytes)
  one.encoded3 = { buffer: bytes, start: 0, end: 60 }
  one.own(lasting)
  bytes.fill('b')
  expect([String(one.payload), String(one.properties)]).toEqual(['a'.repeat(50), 'a'.repeat(10)])
  expect(one.encoded3).toBeNull()
  const { payload } = one
  one.own(!lasting)
  expect(one.payload).toBe(payload)
})

test('a lasting message keeps only its own memory alive', () => {
  const one = message(Buffer.alloc(1000))
  one.own(true)
  expect([one.payload.buffer.byteLength, one.properties.buffer.byteLength]).toEqual([50, 10])
})

test('payloads of every size are unchanged by own, and those in shared memory do not overlap', () => {
  const sizes = [
    0,
    0,
    1,
    1023,
    1024,
    1025,
    8 * 1024,
    ...Array.from({ length: 40 }, (_, index) => index * 29),
    0,
  ]
  const owned = sizes.map((size, index) => {
    const buffer = Buffer.alloc(size + 2, index + 1)
    const part = { buffer, payloadStart: 1, end: size + 1 }
    const one = Message.of({ topic: new Topic('t'), part, qos: 1, retain: false, publisher: '' })
    one.own()
    buffer.fill(0xff)
    return one
  })
  for (const [index, size] of sizes.entries()) {
    expect(owned[index]!.payload).toEqual(Buffer.alloc(size, index + 1))
    expect(owned[index]!.payloadBytes).toBe(size)
  }
})

test.each(['a/b', 'größe', '𝄞'])('a Topic knows its name, %s, with and without its bytes', (name) => {
  const around = Buffer.from(`xx${name}yy`)
  const end = around.length - 2
  const other = Buffer.from(around)
  other[2]! ^= 1
  const topic = new Topic(name)
  for (let look = 0; look < 2; look++) {
    expect(topic.isNamed(around, 2, end)).toBe(true)
    expect(topic.isNamed(other, 2, end)).toBe(false)
    expect(topic.isNamed(around, 2, end + 1)).toBe(false)
    expect(topic.isNamed(around, 1, end - 1)).toBe(false)
    expect(topic.bytes).toEqual(Buffer.from(name))
  }
})

test('bytes that read as the characters of a Topic are not its name', () => {
  expect(new Topic('ö').isNamed(Buffer.from([0xf6]), 0, 1)).toBe(false)
  expect(new Topic('öx').isNamed(Buffer.from([0xf6, 0x78, 0x78]), 0, 3)).toBe(false)
})
