/** PURE. Topic filters against topic names (section 4.7), and the parts of a Shared Subscription's filter (4.8.2). */

export const SLASH = 0x2f
export const PLUS = 0x2b
export const HASH = 0x23
const DOLLAR = 0x24
const SHARE_PREFIX = '$share/'

/** Whether a valid topic filter contains a wildcard. */
export function hasWildcard(filter: string): boolean {
  return filter.includes('+') || filter.includes('#')
}

/** Whether this topic name is kept out of filters that begin with a wildcard [MQTT-4.7.2-1]. */
export function isDollarTopic(topic: string): boolean {
  return topic.charCodeAt(0) === DOLLAR
}

/**
 * The filter that topic names are matched against: for `$share/name/filter` what follows the ShareName, otherwise
 * the filter itself, the same string.
 */
export function innerFilter(filter: string): string {
  if (!filter.startsWith(SHARE_PREFIX)) return filter
  return filter.slice(filter.indexOf('/', SHARE_PREFIX.length) + 1)
}

/** Whether a valid filter (not a shared one) matches a valid topic name, character by character [MQTT-4.7.3-4]. */
export function filterMatches(filter: string, topic: string): boolean {
  const first = filter.charCodeAt(0)
  if ((first === PLUS || first === HASH) && isDollarTopic(topic)) return false // [MQTT-4.7.2-1]
  // Both stand at the beginning of a level, or one past the end when there is no further level.
  let f = 0
  let t = 0
  for (;;) {
    if (f > filter.length) return t > topic.length
    const char = filter.charCodeAt(f)
    if (char === HASH) return true // also the parent level: no level of the topic need be left
    if (t > topic.length) return false
    if (char === PLUS) {
      const end = topic.indexOf('/', t)
      t = end === -1 ? topic.length + 1 : end + 1
      f += 2
      continue
    }
    for (; f < filter.length && filter.charCodeAt(f) !== SLASH; f++, t++) {
      if (filter.charCodeAt(f) !== topic.charCodeAt(t)) return false
    }
    if (t < topic.length && topic.charCodeAt(t) !== SLASH) return false
    f++
    t++
  }
}

/**
 * Whether there could be a topic name that both filters match (valid, not shared ones). For a topic name without
 * wildcards this is whether the other filter matches it.
 */
export function filtersOverlap(one: string, other: string): boolean {
  const a = one.split('/')
  const b = other.split('/')
  if (a[0]!.startsWith('$') !== b[0]!.startsWith('$')) return false // [MQTT-4.7.2-1]
  for (let at = 0; ; at++) {
    const left = a[at]
    const right = b[at]
    if (left === '#' || right === '#') return true // also the parent level
    if (left === undefined || right === undefined) return left === right
    if (left !== '+' && right !== '+' && left !== right) return false
  }
}
