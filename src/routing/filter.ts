/**
 * PURE. Compares topic filters and topic names (section 4.7), and splits Shared Subscription filters
 * (4.8.2).
 */
import { SHARE_PREFIX } from '../mqtt/topics.ts'

export const SLASH = 0x2f
export const PLUS = 0x2b
export const HASH = 0x23
const DOLLAR = 0x24

/** Tells whether a valid topic filter contains a wildcard. */
export function hasWildcard(filter: string): boolean {
  return filter.includes('+') || filter.includes('#')
}

/** Tells whether filters that begin with a wildcard do not match this topic name [MQTT-4.7.2-1]. */
export function isDollarTopic(topic: string): boolean {
  return topic.charCodeAt(0) === DOLLAR
}

/**
 * Returns the filter to match topic names against: for `$share/name/filter` the part after the ShareName,
 * otherwise the filter itself, the same string.
 */
export function innerFilter(filter: string): string {
  if (!filter.startsWith(SHARE_PREFIX)) return filter
  return filter.slice(filter.indexOf('/', SHARE_PREFIX.length) + 1)
}

/**
 * Matches a valid filter (not a shared one) with a valid topic name, character by character [MQTT-4.7.3-4].
 */
export function filterMatches(filter: string, topic: string): boolean {
  const first = filter.charCodeAt(0)
  if ((first === PLUS || first === HASH) && isDollarTopic(topic)) return false // [MQTT-4.7.2-1]
  return restMatches(filter, 0, topic, 0)
}

/**
 * Matches the rest of a filter with the rest of a topic name. Each offset is the beginning of a level, or
 * one past the end when there is no further level.
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

/** Returns the beginning of the level after the one at `at`; one past the end when there is none. */
export function nextLevel(name: string, at: number): number {
  const end = name.indexOf('/', at)
  return end === -1 ? name.length + 1 : end + 1
}

/**
 * Tells whether a topic name could exist that both filters match (valid, not shared ones). A filter without
 * wildcards overlaps the filters that match it. Reads no further than the shorter filter.
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

/** Returns the length of the level that begins at these offsets if it is the same in both names; else -1. */
export function sameLevel(one: string, a: number, other: string, b: number): number {
  for (let at = 0; ; at++) {
    const left = levelChar(one, a + at)
    if (left !== levelChar(other, b + at)) return -1
    if (left === SLASH) return at
  }
}

/** Returns a character of a name; its end ends a level as a slash does. */
function levelChar(name: string, at: number): number {
  return at < name.length ? name.charCodeAt(at) : SLASH
}
