import { expect, test } from 'vitest'
import { editDistance, suggestion } from '../../src/config/suggestion.ts'

test('the distance counts insertions, deletions and replacements', () => {
  expect(editDistance('', 'abc')).toBe(3)
  expect(editDistance('kitten', 'sitting')).toBe(3)
  expect(editDistance('same', 'same')).toBe(0)
})

test('the nearest word is suggested, or none', () => {
  const known = ['queue_bytes_max', 'queue_messages_max', 'host', 'port']
  expect(suggestion('queue_byte_max', known)).toBe('queue_bytes_max')
  expect(suggestion('HOTS', known)).toBe('host')
  expect(suggestion('colour', known)).toBeUndefined()
})
