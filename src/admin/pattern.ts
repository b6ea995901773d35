/** PURE. Matches names against patterns: `*` stands for any characters, `?` for one. */

/** The longest pattern: matching costs up to the product of both lengths. */
export const PATTERN_CHARACTERS_MAX = 256

/** Whether the pattern is a name without wildcards. */
export function isPlain(pattern: string): boolean {
  return !/[*?]/.test(pattern)
}

/** Whether a name matches a pattern. Takes at most as many steps as the product of their lengths. */
export function matchesPattern(pattern: string, name: string): boolean {
  let p = 0
  let n = 0
  // Where the rest does not match, the latest `*` takes one more character: `star` is the position
  // after this `*` in the pattern, `reach` the end of what it has taken of the name.
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
