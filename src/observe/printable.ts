/** PURE. Text from clients as it may stand in a log line. */

import { beginningOf } from '../mqtt/utf8.ts'

/** Longer texts are cut, in characters. */
const CHARACTERS_MAX = 256

/** Control characters, line and paragraph separators, and what turns the writing direction. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu

/** The text on one line, without what could forge or hide log lines. */
export function printable(text: string): string {
  const shortened = text.length > CHARACTERS_MAX ? `${beginningOf(text, CHARACTERS_MAX)}…` : text
  return shortened.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`)
}
