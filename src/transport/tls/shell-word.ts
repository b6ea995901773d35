/** PURE. Quotes words of command lines that users can paste. */

/** Quotes a word if a shell would misread it. */
export function shellWord(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
