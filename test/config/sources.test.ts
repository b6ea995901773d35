import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { plainScalar } from '../../src/config/sources.ts'

test('a text parsed without YAML has the value that YAML gives it', () => {
  const word = fc.stringMatching(/^[\w./+~:#-]{1,8}$/)
  const known = fc.constantFrom(
    'null',
    'Null',
    'NULL',
    'true',
    'True',
    'FALSE',
    'yes',
    'off',
    'y',
    '.inf',
    '~',
  )
  const number = fc.oneof(
    fc.integer().map(String),
    fc.double().map(String),
    fc.stringMatching(/^[0-9a-fox._-]{1,17}$/),
  )
  fc.assert(
    fc.property(fc.oneof(word, known, number), (text) => {
      const read = plainScalar(text)
      if (read !== undefined) expect(read).toBe(parse(text))
    }),
    { numRuns: 5000 },
  )
  expect([
    plainScalar('1883'),
    plainScalar('true'),
    plainScalar('fsync'),
    plainScalar('/var/lib/godwit'),
  ]).toEqual([1883, true, 'fsync', '/var/lib/godwit'])
  expect(plainScalar('{ a: 1 }')).toBeUndefined()
})
