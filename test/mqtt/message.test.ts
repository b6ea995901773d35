import { expect, test } from 'vitest'
import { Message, Topic } from '../../src/mqtt/message.ts'

function message(bytes: Buffer): Message {
  return new Message({
    topic: new Topic('t'),
    payload: bytes.subarray(0, 50),
    properties: bytes.subarray(50, 60),
    qos: 0,
    retain: true,
    publisher: '',
  })
}

test.each([false, true])('own copies, once (lasting: %s)', (lasting) => {
  const bytes = Buffer.alloc(60, 'a')
  const one = message(bytes)
  one.wire4 = { buffer: bytes, start: 0, end: 60 }
  one.own(lasting)
  bytes.fill('b')
  expect([String(one.payload), String(one.properties)]).toEqual(['a'.repeat(50), 'a'.repeat(10)])
  expect(one.wire4).toBeNull()
  const { payload } = one
  one.own(!lasting)
  expect(one.payload).toBe(payload)
})

test('what lasts keeps no more memory alive than its own', () => {
  const one = message(Buffer.alloc(1000))
  one.own(true)
  expect([one.payload.buffer.byteLength, one.properties.buffer.byteLength]).toEqual([50, 10])
})
