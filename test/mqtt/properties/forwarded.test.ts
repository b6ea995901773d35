import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
} from '../../../src/mqtt/properties/forwarded.ts'

const text = fc.string({ unit: 'grapheme' }).map((s) => s.replaceAll('\u0000', ''))

test('encoded properties decode to the same values', () => {
  fc.assert(
    fc.property(
      fc.record(
        {
          payloadFormatIndicator: fc.constantFrom<0 | 1>(0, 1),
          contentType: text,
          responseTopic: text.map((s) => `r${s.replaceAll(/[#+]/g, '')}`),
          correlationData: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
          userProperties: fc.array(fc.tuple(fc.oneof(text, fc.constant('__proto__')), text), {
            minLength: 1,
          }),
        },
        { requiredKeys: [] },
      ),
      (properties) => {
        expect(decodeForwardedProperties(encodeForwardedProperties(properties))).toEqual(properties)
      },
    ),
  )
})

test.each<[string, ForwardedProperties]>([
  ['a wildcard in the Response Topic', { responseTopic: 'a/#' }],
  ['an empty Response Topic', { responseTopic: '' }],
  ['U+0000', { contentType: 'a\u0000' }],
  ['half a surrogate pair', { userProperties: [['a', '\ud800']] }],
  ['too much Correlation Data', { correlationData: Buffer.alloc(65_536) }],
])('%s is not encoded', (_, properties) => {
  expect(() => encodeForwardedProperties(properties)).toThrow(RangeError)
})
