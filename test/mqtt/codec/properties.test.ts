import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
  PROPERTIES,
  PropertyPlace,
  PropertyWalk,
  walkMessageProperties,
} from '../../../src/mqtt/codec/properties.ts'
import { ProtocolError } from '../../../src/mqtt/reason.ts'
import { field, uint16, uint32 } from '../packets.ts'

/** Table 2-4: identifiers by where they are allowed. */
const TABLE: Readonly<Record<keyof typeof PropertyPlace, readonly number[]>> = {
  Will: [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
  Connect: [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
  Connack: [
    0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a,
  ],
  Publish: [0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26],
  Puback: [0x1f, 0x26],
  Pubrec: [0x1f, 0x26],
  Pubrel: [0x1f, 0x26],
  Pubcomp: [0x1f, 0x26],
  Subscribe: [0x0b, 0x26],
  Suback: [0x1f, 0x26],
  Unsubscribe: [0x26],
  Unsuback: [0x1f, 0x26],
  Disconnect: [0x11, 0x1c, 0x1f, 0x26],
  Auth: [0x15, 0x16, 0x1f, 0x26],
}

test('the table is that of the standard', () => {
  for (const [name, place] of Object.entries(PropertyPlace)) {
    const allowed = PROPERTIES.flatMap((definition) =>
      definition !== undefined && (definition.places & place) !== 0 ? [definition.id] : [],
    )
    expect(allowed, name).toEqual(TABLE[name as keyof typeof PropertyPlace])
  }
})

const ALIAS = Buffer.concat([Buffer.from([0x23]), uint16(3)])
const EXPIRY = Buffer.concat([Buffer.from([0x02]), uint32(60)])
const FORMAT = Buffer.from([0x01, 1])
const CONTENT = Buffer.concat([Buffer.from([0x03]), field('text')])
const USER = Buffer.concat([Buffer.from([0x26]), field('a'), field('1')])

describe('walkMessageProperties', () => {
  function walk(...parts: Buffer[]) {
    const buffer = Buffer.concat([Buffer.from([0xee]), ...parts, Buffer.from([0xee])])
    return { buffer, ...walkMessageProperties(buffer, 1, buffer.length - 1, PropertyPlace.Publish) }
  }

  test.each([
    ['nothing to take out', [FORMAT, USER, CONTENT, USER], true],
    ['at the front', [ALIAS, EXPIRY, FORMAT, USER], true],
    ['at the end', [FORMAT, USER, ALIAS, EXPIRY], true],
    ['at both ends', [ALIAS, FORMAT, USER, EXPIRY], true],
    ['in the middle', [FORMAT, ALIAS, USER], false],
    ['in two places', [FORMAT, ALIAS, USER, EXPIRY, USER, CONTENT], false],
    ['nothing else', [ALIAS, EXPIRY], true],
    ['nothing at all', [], true],
  ])('what is for the Server is taken out: %s', (_, parts, isView) => {
    const { buffer, forwarded, topicAlias, expirySeconds } = walk(...parts)
    expect(forwarded).toEqual(Buffer.concat(parts.filter((part) => part !== ALIAS && part !== EXPIRY)))
    expect(topicAlias).toBe(parts.includes(ALIAS) ? 3 : 0)
    expect(expirySeconds).toBe(parts.includes(EXPIRY) ? 60 : undefined)
    if (forwarded.length > 0) {
      const before = Buffer.from(forwarded)
      buffer.fill(0)
      expect(forwarded.equals(before)).toBe(!isView)
    }
  })
})

describe('properties that are forwarded', () => {
  const text = fc.string({ unit: 'grapheme' }).map((s) => s.replaceAll('\u0000', ''))

  test('decode to what was encoded', () => {
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
})

test('arbitrary bytes never throw anything but ProtocolError, and the walk ends', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.values(PropertyPlace)),
      fc.array(
        fc.oneof(
          fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
          fc.constantFrom(ALIAS, EXPIRY, FORMAT, CONTENT, USER),
        ),
      ),
      (place, parts) => {
        const bytes = Buffer.concat(parts)
        const walk = new PropertyWalk(bytes, 0, bytes.length, place)
        let end = 0
        try {
          while (walk.next()) {
            expect(walk.start).toBe(end)
            expect(walk.end).toBeGreaterThan(walk.start)
            end = walk.end
          }
          expect(end).toBe(bytes.length)
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error
        }
      },
    ),
    { numRuns: 2000 },
  )
})
