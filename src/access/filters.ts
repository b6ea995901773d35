/** PURE. Topic filters of rules: which filters they cover, and how `%u` and `%c` are replaced. */
import { HASH, isDollarTopic, nextLevel, PLUS, sameLevel } from '../routing/filter.ts'
import type { Identity } from './decision.ts'

/**
 * Whether `outer` matches every topic name that `inner` matches. Both are valid filters without `$share`.
 * Reads no more of `inner` than `outer` needs: `outer` is a rule's, but a client's `inner` may have 65,000
 * characters.
 */
export function filterCovers(outer: string, inner: string): boolean {
  const first = outer.charCodeAt(0)
  // A filter that begins with a wildcard does not match names that begin with $ [MQTT-4.7.2-1].
  if (isDollarTopic(inner) && (first === PLUS || first === HASH)) return false
  let a = 0
  let b = 0
  for (;;) {
    const wide = outer.charCodeAt(a)
    if (wide === HASH) return true // at the end of `inner`, too: # includes the parent level
    if (a > outer.length || b > inner.length) return a > outer.length && b > inner.length
    if (inner.charCodeAt(b) === HASH) return false
    if (wide === PLUS) {
      a += 2
      b = nextLevel(inner, b)
      continue
    }
    const length = sameLevel(outer, a, inner, b)
    if (length === -1) return false
    a += length + 1
    b += length + 1
  }
}

/** Whether a rule's filter has `%u` or `%c` in it. */
export function hasPlaceholder(filter: string): boolean {
  return filter.includes('%u') || filter.includes('%c')
}

/**
 * Replaces `%u` by the client's user name and `%c` by its Client Identifier. Returns null if one of them is
 * missing or matches `forbidden`: a name with a wildcard in it would reach topics of other clients.
 */
export function expanded(filter: string, { userName, clientId }: Identity, forbidden: RegExp): string | null {
  let isExpandable = true
  const text = filter.replace(/%[uc]/g, (placeholder) => {
    const name = placeholder === '%u' ? userName : clientId
    isExpandable &&= name !== null && name !== '' && !forbidden.test(name)
    return name ?? ''
  })
  return isExpandable ? text : null
}

/**
 * Replaces the first level with a placeholder, and all levels after it, by `#`, so that the filter holds for
 * every name.
 */
export function widened(filter: string): string {
  const levels = filter.split('/')
  return [...levels.slice(0, levels.findIndex(hasPlaceholder)), '#'].join('/')
}
