/** PURE. Makes text from clients safe for log lines and terminals. */
import { beginningOf } from '../mqtt/utf8.ts'

/** Longer texts are cut off. */
const CHARACTERS_MAX = 256

/** Control characters, line and paragraph separators, and characters that change the writing direction. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu

/** Returns the text on one line and escapes characters that could forge or hide log lines. */
export function printable(text: string): string {
  const shortened = text.length > CHARACTERS_MAX ? `${beginningOf(text, CHARACTERS_MAX)}…` : text
  return shortened.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`)
}
