/** PURE. Topic filters of rules: which filters they cover, and what `%u` and `%c` stand for. */
import type { Identity } from './decision.ts'

/** Whether every topic name that `inner` matches is matched by `outer`, too (valid filters, not shared ones). */
export function filterCovers(outer: string, inner: string): boolean {
  const a = outer.split('/')
  const b = inner.split('/')
  const [first] = b
  // What begins with a wildcard does not match names that begin with $ [MQTT-4.7.2-1].
  if (first!.startsWith('$') && (a[0] === '+' || a[0] === '#')) return false
  for (let at = 0; ; at++) {
    const wide = a[at]
    const narrow = b[at]
    if (wide === '#') return true // also the parent level
    if (wide === undefined || narrow === undefined) return wide === narrow
    if (narrow === '#') return false
    if (wide !== '+' && wide !== narrow) return false
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
