/** HOT, PURE. Checks UTF-8 Encoded Strings (section 1.5.4). */
import { isUtf8 } from 'node:buffer'

/** Bytes from which the native check beats a loop. */
const NATIVE_FROM_BYTES = 96

/** The longest string or binary value that a two byte length can announce. */
export const STRING_BYTES_MAX = 65_535

/**
 * Tells whether the standard allows these bytes as a string: well-formed UTF-8 without surrogates or
 * overlong forms [MQTT-1.5.4-1], and without U+0000 [MQTT-1.5.4-2]. U+FEFF is a character like any other
 * [MQTT-1.5.4-3]: read the string with `utf8Slice` or `toString`, never with a TextDecoder, which strips
 * it.
 */
export function isUtf8String(buffer: Buffer, start: number, end: number): boolean {
  if (end - start >= NATIVE_FROM_BYTES) return isNativeUtf8String(buffer, start, end)
  for (let at = start; at < end; at++) {
    const byte = buffer[at]!
    if (byte === 0) return false
    if (byte >= 0x80) return isNativeUtf8String(buffer, at, end)
  }
  return true
}

/**
 * Tells whether a payload is UTF-8, as its Payload Format Indicator says; U+0000 is allowed (section
 * 3.3.2.3.2).
 */
export function isUtf8Payload(payload: Buffer): boolean {
  return isUtf8(payload)
}

/** Explains why a JavaScript string cannot be a UTF-8 Encoded String; null when it can. */
export function stringError(value: string): string | null {
  if (value.includes('\u0000')) return 'contains U+0000' // [MQTT-1.5.4-2]
  if (LONE_SURROGATE.test(value)) return 'contains half of a surrogate pair' // [MQTT-1.5.4-1]
  if (value.length * 3 > STRING_BYTES_MAX && Buffer.byteLength(value) > STRING_BYTES_MAX) {
    return 'is longer than 65,535 bytes'
  }
  return null
}

const LONE_SURROGATE = /\p{Surrogate}/u

function isNativeUtf8String(buffer: Buffer, start: number, end: number): boolean {
  const view = buffer.subarray(start, end)
  return isUtf8(view) && view.indexOf(0) === -1
}

/**
 * Copies at most the first `charactersMax` characters: a slice of a long string keeps all of it in memory.
 */
export function beginningOf(text: string, charactersMax: number): string {
  if (text.length <= charactersMax) return text
  return Buffer.from(text.slice(0, charactersMax), 'utf16le').toString('utf16le')
}
