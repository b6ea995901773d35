/** PURE. Topic filters of rules: which filters they cover, and what `%u` and `%c` stand for. */
import { HASH, isDollarTopic, nextLevel, PLUS, sameLevel } from '../routing/filter.ts'
import type { Identity } from './decision.ts'

/**
 * Whether every topic name that `inner` matches is matched by `outer`, too (valid filters, not shared ones). Looks no further
 * than `outer` reaches, which a rule wrote: the other one may have 65,000 characters.
 */
export function filterCovers(outer: string, inner: string): boolean {
  const first = outer.charCodeAt(0)
  // What begins with a wildcard does not match names that begin with $ [MQTT-4.7.2-1].
  if (isDollarTopic(inner) && (first === PLUS || first === HASH)) return false
  let a = 0
  let b = 0
  for (;;) {
    const wide = outer.charCodeAt(a)
    if (wide === HASH) return true // also the parent level
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

/** Whether `%u` or `%c` stands in a rule's filter. */
export function hasPlaceholder(filter: string): boolean {
  return filter.includes('%u') || filter.includes('%c')
}

/**
 * The filter for this client: `%u` is its user name, `%c` its Client Identifier. Null where one of them is missing, or
 * matches `forbidden`: a name with wildcards in it would reach what is not its own.
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

/** The filter up to its first level with a placeholder, and everything from there on: whatever the name is, it is in it. */
export function widened(filter: string): string {
  const levels = filter.split('/')
  return [...levels.slice(0, levels.findIndex(hasPlaceholder)), '#'].join('/')
}
