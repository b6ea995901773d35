/** PURE. Patterns for names: `*` stands for any characters, `?` for one. */

/** Characters of a pattern. */
export const PATTERN_CHARACTERS_MAX = 256

/** Whether the pattern is a plain name. */
export function isPlain(pattern: string): boolean {
  return !/[*?]/.test(pattern)
}

/** Whether a name matches a pattern; at most as many steps as the product of their lengths. */
export function matchesPattern(pattern: string, name: string): boolean {
  let p = 0
  let n = 0
  /** Behind the latest `*`, and up to where it reaches by now. */
  let star = -1
  let reach = 0
  while (n < name.length) {
    if (pattern[p] === '*') {
      star = ++p
      reach = n
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === name[n])) {
      p++
      n++
    } else if (star >= 0) {
      p = star
      n = ++reach
    } else {
      return false
    }
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}
