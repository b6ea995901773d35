import { createHmac, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { HmacSha256 } from '../../../src/access/logins/hmac.ts'

describe('HMAC-SHA256', () => {
  // RFC 4231, test cases 1 to 3.
  test.each([
    ['0b'.repeat(20), '4869205468657265', 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
    [
      '4a656665',
      '7768617420646f2079612077616e7420666f72206e6f7468696e673f',
      '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
    ],
    ['aa'.repeat(20), 'dd'.repeat(50), '773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe'],
  ])('of RFC 4231, with the key %s', (key, text, expected) => {
    expect(new HmacSha256(Buffer.from(key, 'hex')).of(Buffer.from(text, 'hex')).toString('hex')).toBe(
      expected,
    )
  })

  test('is that of Node for keys and texts of any length, one after the other', () => {
    for (let keyBytes = 0; keyBytes <= 64; keyBytes += 8) {
      const key = randomBytes(keyBytes)
      const hmac = new HmacSha256(key)
      for (const bytes of [0, 1, 55, 64, 65, 1000]) {
        const [first, second] = [randomBytes(bytes), randomBytes(bytes)]
        const expected = createHmac('sha256', key).update(first).update(second).digest()
        expect(hmac.of(first, second).equals(expected), `${keyBytes} and ${bytes}`).toBe(true)
      }
    }
  })

  test('takes no key that is longer than a block', () => {
    expect(() => new HmacSha256(Buffer.alloc(65))).toThrow(RangeError)
  })
})
