import { expect, test } from 'vitest'
import { ProtocolError } from '../../src/mqtt/reason.ts'
import { TopicInterner } from '../../src/mqtt/topic-interner.ts'

function resolve(table: TopicInterner, name: string) {
  const bytes = Buffer.from(`xx${name}yy`)
  return table.resolve(bytes, 2, bytes.length - 2)
}

test('resolve and intern give the same Topic for the same bytes', () => {
  const table = new TopicInterner(10)
  for (const name of ['a/b', 'größe', '𝄞', '\ufeffa', '/', ' ']) {
    const topic = resolve(table, name)
    expect(topic.name).toBe(name)
    expect(topic.bytes).toEqual(Buffer.from(name))
    expect(resolve(table, name)).toBe(topic)
    expect(table.intern(name)).toBe(topic)
  }
  // Latin-1 bytes of another name are another topic.
  expect(resolve(table, 'Ã¶')).not.toBe(resolve(table, 'ö'))
})

test('its bytes are a copy: the read buffer may change', () => {
  const table = new TopicInterner(10)
  const buffer = Buffer.from('a/b')
  const topic = table.resolve(buffer, 0, 3)
  buffer.fill('z')
  expect(topic.bytes.toString()).toBe('a/b')
  expect(resolve(table, 'a/b')).toBe(topic)
})

test('a million names stay within the limit of the table, and a name in use stays', () => {
  const table = new TopicInterner(1000)
  const hot = resolve(table, 'hot')
  let most = 0
  for (let i = 0; i < 1_000_000; i++) {
    table.intern(`sensor/${i}`)
    if (i % 100 === 0) expect(resolve(table, 'hot')).toBe(hot)
    if (table.size > most) most = table.size
  }
  expect(most).toBeLessThanOrEqual(1000)
  expect(most).toBeGreaterThan(500)
})

test('a full table keeps a name that comes again instead of another', () => {
  const table = new TopicInterner(8)
  const kept = Array.from({ length: 8 }, (_, index) => resolve(table, `kept/${index}`))
  for (const topic of kept) expect(resolve(table, topic.name)).toBe(topic)
  const first = resolve(table, 'new/ö')
  const second = resolve(table, 'new/ö')
  expect(second).not.toBe(first)
  expect(resolve(table, 'new/ö')).toBe(second)
  expect(table.size).toBe(8)
  // The replaced name was remembered: it comes back at once.
  const gone = kept.find((topic) => resolve(table, topic.name) !== topic)!
  expect(resolve(table, gone.name)).toBe(resolve(table, gone.name))
  expect(table.size).toBe(8)
})

test('names that come once push nothing out, and names in use are all kept while there is room', () => {
  const table = new TopicInterner(4096)
  const used = Array.from({ length: 1000 }, (_, index) => resolve(table, `used/${index}`))
  for (const topic of used) expect(resolve(table, topic.name)).toBe(topic)
  for (let index = 0; index < 20_000; index++) resolve(table, `once/${index}`)
  const left = used.filter((topic) => resolve(table, topic.name) === topic)
  expect(left.length).toBe(1000)
})

test('visit reaches all kept topics, a part at a time', () => {
  const table = new TopicInterner(4096)
  const names = Array.from({ length: 300 }, (_, index) => `a/${index}`)
  for (const name of names) table.intern(name)
  const seen: string[] = []
  let calls = 0
  for (; seen.length < 300 && calls < 4096; calls++) table.visit(64, (topic) => seen.push(topic.name))
  expect(seen.sort()).toEqual(names.sort())
  expect(calls).toBeGreaterThan(1)
  seen.length = 0
  table.visit(1_000_000, (topic) => seen.push(topic.name))
  expect(seen.sort()).toEqual(names)
})

test('long names take more of the table', () => {
  const table = new TopicInterner(1000)
  let most = 0
  for (let i = 0; i < 1000; i++) {
    table.intern(`${i}/${'x'.repeat(65_000)}`)
    if (table.size > most) most = table.size
  }
  expect(most).toBeLessThan(10)
  expect(resolve(new TopicInterner(1), 'a').name).toBe('a')
})

test.each([
  ['[MQTT-4.7.3-1] empty', [], 0x90],
  ['[MQTT-3.3.2-2] +', [0x61, 0x2b], 0x90],
  ['[MQTT-3.3.2-2] #', [0x23], 0x90],
  ['[MQTT-1.5.4-2] U+0000', [0x61, 0x00], 0x81],
  ['[MQTT-1.5.4-1] ill-formed', [0x61, 0xff, 0x23], 0x81],
])('%s is refused', (_, bytes, reasonCode) => {
  const buffer = Buffer.from(bytes)
  const table = new TopicInterner(10)
  for (let i = 0; i < 2; i++) {
    expect(() => table.resolve(buffer, 0, buffer.length)).toThrow(
      expect.objectContaining({ reasonCode, name: 'ProtocolError' }),
    )
  }
  expect(table.size).toBe(0)
})

test('intern refuses half a surrogate pair', () => {
  expect(() => new TopicInterner(10).intern('a\ud800')).toThrow(ProtocolError)
})
