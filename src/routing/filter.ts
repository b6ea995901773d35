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
  return restMatches(filter, 0, topic, 0)
}

/**
 * Whether what begins at a level of a filter matches what begins at a level of a topic name. Each offset is where a level
 * begins, or one past the end when there is no further level.
 */
export function restMatches(filter: string, filterAt: number, topic: string, topicAt: number): boolean {
  let f = filterAt
  let t = topicAt
  for (;;) {
    if (f > filter.length) return t > topic.length
    const char = filter.charCodeAt(f)
    if (char === HASH) return true // also the parent level: no level of the topic need be left
    if (t > topic.length) return false
    if (char === PLUS) {
      t = nextLevel(topic, t)
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

/** Where the level behind the one at `at` begins; one past the end when there is none. */
export function nextLevel(name: string, at: number): number {
  const end = name.indexOf('/', at)
  return end === -1 ? name.length + 1 : end + 1
}

/**
 * Whether there could be a topic name that both filters match (valid, not shared ones). For a topic name without
 * wildcards this is whether the other filter matches it. Looks no further than the shorter one reaches.
 */
export function filtersOverlap(one: string, other: string): boolean {
  if (isDollarTopic(one) !== isDollarTopic(other)) return false // [MQTT-4.7.2-1]
  let a = 0
  let b = 0
  for (;;) {
    const left = one.charCodeAt(a)
    const right = other.charCodeAt(b)
    if (left === HASH || right === HASH) return true // also the parent level
    if (a > one.length || b > other.length) return a > one.length && b > other.length
    if (left === PLUS || right === PLUS) {
      a = nextLevel(one, a)
      b = nextLevel(other, b)
      continue
    }
    const length = sameLevel(one, a, other, b)
    if (length === -1) return false
    a += length + 1
    b += length + 1
  }
}

/** The length of the level that begins here and there, if it is the same in both names; else -1. */
export function sameLevel(one: string, a: number, other: string, b: number): number {
  for (let at = 0; ; at++) {
    const left = levelChar(one, a + at)
    if (left !== levelChar(other, b + at)) return -1
    if (left === SLASH) return at
  }
}

/** The end of a name ends a level as a slash does. */
function levelChar(name: string, at: number): number {
  return at < name.length ? name.charCodeAt(at) : SLASH
}
