/** PURE. A word of a command line that is printed to be pasted. */

/** Quoted where a shell would read it as something else. */
export function shellWord(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
