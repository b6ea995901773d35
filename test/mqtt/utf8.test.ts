import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isUtf8String, stringError } from '../../src/mqtt/utf8.ts'

/** The whole range, and the same behind ASCII long enough for the native check. */
function verdicts(bytes: readonly number[]): boolean[] {
  const short = Buffer.from([0xff, ...bytes, 0xff])
  const long = Buffer.concat([Buffer.alloc(200, 'x'), Buffer.from(bytes)])
  return [isUtf8String(short, 1, short.length - 1), isUtf8String(long, 0, long.length)]
}

describe('UTF-8 Encoded Strings', () => {
  test.each([
    ['nothing', []],
    ['ASCII', [0x01, 0x20, 0x7f]],
    ['two bytes', [0xc2, 0x80, 0xdf, 0xbf]],
    ['three bytes', [0xe0, 0xa0, 0x80, 0xef, 0xbf, 0xbf]],
    ['around the surrogates', [0xed, 0x9f, 0xbf, 0xee, 0x80, 0x80]],
    ['four bytes', [0xf0, 0x90, 0x80, 0x80, 0xf4, 0x8f, 0xbf, 0xbf]],
    ['[MQTT-1.5.4-3] U+FEFF', [0xef, 0xbb, 0xbf, 0x61]],
  ])('%s: allowed', (_, bytes) => {
    expect(verdicts(bytes)).toEqual([true, true])
  })

  test.each([
    ['[MQTT-1.5.4-2] U+0000', [0x00]],
    ['[MQTT-1.5.4-2] U+0000 behind others', [0x61, 0xc3, 0xb6, 0x00]],
    ['[MQTT-1.5.4-1] the first surrogate', [0xed, 0xa0, 0x80]],
    ['[MQTT-1.5.4-1] the last surrogate', [0xed, 0xbf, 0xbf]],
    ['[MQTT-1.5.4-1] a surrogate pair', [0xed, 0xa0, 0x80, 0xed, 0xb0, 0x80]],
    ['overlong, two bytes', [0xc1, 0xbf]],
    ['overlong, three bytes', [0xe0, 0x9f, 0xbf]],
    ['overlong, four bytes', [0xf0, 0x8f, 0xbf, 0xbf]],
    ['above U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['five bytes', [0xf8, 0x88, 0x80, 0x80, 0x80]],
    ['a lone continuation byte', [0x80]],
    ['cut after one', [0xe2]],
    ['cut after two', [0xe2, 0x98]],
    ['cut after three', [0xf0, 0x90, 0x80]],
  ])('%s: refused', (_, bytes) => {
    expect(verdicts(bytes)).toEqual([false, false])
  })

  test('agrees with a fatal TextDecoder on arbitrary bytes', () => {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array(),
          fc.string({ unit: 'grapheme' }).map((s) => Buffer.from(s)),
        ),
        (bytes) => {
          const buffer = Buffer.from(bytes)
          let expected = true
          try {
            expected = !decoder.decode(buffer).includes('\u0000')
          } catch {
            expected = false
          }
          expect(isUtf8String(buffer, 0, buffer.length)).toBe(expected)
        },
      ),
    )
  })

  test('stringError names the reason for which the bytes would be refused', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (value) => {
        const bytes = Buffer.from(value)
        const survives = bytes.toString() === value
        expect(stringError(value) === null).toBe(survives && isUtf8String(bytes, 0, bytes.length))
      }),
    )
    expect(stringError('\ud83d')).not.toBeNull()
    expect(stringError('😀')).toBeNull()
    expect(stringError('ö'.repeat(32_768))).not.toBeNull()
  })
})
