import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isPlain, matchesPattern } from '../../src/admin/pattern.ts'

test.each([
  ['', '', true],
  ['*', '', true],
  ['?', '', false],
  ['a*', 'a', true],
  ['a*c', 'abcbc', true],
  ['a*c', 'abcb', false],
  ['*b*', 'abc', true],
  ['?b?', 'abc', true],
  ['sensor-*-?', 'sensor-north-1', true],
  ['a.c', 'abc', false],
  ['**a', 'ba', true],
])('%s and %s: %s', (pattern, name, matches) => {
  expect(matchesPattern(pattern, name)).toBe(matches)
})

test('a pattern matches like the equivalent regular expression', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 8 })
  const name = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 8 })
  fc.assert(
    fc.property(text, name, (pattern, given) => {
      const expression = new RegExp(`^${pattern.replaceAll('*', '.*').replaceAll('?', '.')}$`)
      expect(matchesPattern(pattern, given)).toBe(expression.test(given))
    }),
  )
})

test('a plain name has no wildcards', () => {
  expect([isPlain('a'), isPlain('a*'), isPlain('?')]).toEqual([true, false, false])
})
