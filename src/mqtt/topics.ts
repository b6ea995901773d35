/** HOT, PURE. Checks Topic Names and Topic Filters (sections 4.7 and 4.8.2). */
import { malformed } from './field.ts'
import { ProtocolError, Reason } from './reason.ts'
import { isUtf8String, stringError } from './utf8.ts'

const HASH = 0x23
const PLUS = 0x2b
const SLASH = 0x2f
/** The beginning of the filter of a Shared Subscription (section 4.8.2). */
export const SHARE_PREFIX = '$share/'

/**
 * Checks that `buffer[start..end)` is a Topic Name. Throws ProtocolError: 0x81 for ill-formed UTF-8 or
 * U+0000, 0x90 for a wildcard or an empty name.
 */
export function checkTopicName(buffer: Buffer, start: number, end: number): void {
  if (start === end) throw invalidName('MQTT-4.7.3-1', 'the topic name is empty')
  if (!isUtf8String(buffer, start, end)) {
    throw malformed('MQTT-1.5.4-1', 'the topic name is not well-formed UTF-8 or contains U+0000')
  }
  if (hasWildcard(buffer, start, end)) throw invalidName('MQTT-3.3.2-2', 'the topic name contains a wildcard')
}

/** Tells whether UTF-8 bytes contain `+` or `#`. */
export function hasWildcard(buffer: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if (buffer[at] === HASH || buffer[at] === PLUS) return true
  }
  return false
}

/** Explains why a string is no Topic Name (section 4.7); null when it is one. */
export function topicNameError(name: string): string | null {
  if (name === '') return 'is empty' // [MQTT-4.7.3-1]
  if (name.includes('#') || name.includes('+')) return 'contains a wildcard' // [MQTT-3.3.2-2]
  return stringError(name) // [MQTT-4.7.3-2] [MQTT-4.7.3-3]
}

/** Explains why a string is no Topic Filter (sections 4.7 and 4.8.2); null when it is one. */
export function topicFilterError(filter: string): string | null {
  if (filter === '') return 'is empty' // [MQTT-4.7.3-1]
  const unencodable = stringError(filter) // [MQTT-4.7.3-2] [MQTT-4.7.3-3]
  if (unencodable !== null) return unencodable
  if (!filter.startsWith(SHARE_PREFIX)) return wildcardError(filter, 0)
  const nameEnd = filter.indexOf('/', SHARE_PREFIX.length)
  const name = nameEnd === -1 ? filter.slice(SHARE_PREFIX.length) : filter.slice(SHARE_PREFIX.length, nameEnd)
  if (name === '') return 'has an empty ShareName' // [MQTT-4.8.2-1]
  if (name.includes('+') || name.includes('#')) return 'has a wildcard in its ShareName' // [MQTT-4.8.2-2]
  // [MQTT-4.8.2-2]
  if (nameEnd === -1 || nameEnd + 1 === filter.length) return 'has no Topic Filter after its ShareName'
  return wildcardError(filter, nameEnd + 1)
}

/** Splits a valid Topic Filter: `share` is the ShareName of a Shared Subscription, else null. */
export function parseFilter(filter: string): { share: string | null; filter: string } {
  if (!filter.startsWith(SHARE_PREFIX)) return { share: null, filter }
  const nameEnd = filter.indexOf('/', SHARE_PREFIX.length)
  return { share: filter.slice(SHARE_PREFIX.length, nameEnd), filter: filter.slice(nameEnd + 1) }
}

/** Counts topic levels: one more than separators. */
export function topicLevels(name: string): number {
  let levels = 1
  for (let at = name.indexOf('/'); at !== -1; at = name.indexOf('/', at + 1)) levels++
  return levels
}

/** Checks the wildcards of the filter that begins at `start`. */
function wildcardError(filter: string, start: number): string | null {
  for (let at = start; at < filter.length; at++) {
    const code = filter.charCodeAt(at)
    if (code !== HASH && code !== PLUS) continue
    const startsLevel = at === start || filter.charCodeAt(at - 1) === SLASH
    const endsFilter = at + 1 === filter.length
    // [MQTT-4.7.1-1]
    if (code === HASH && !(startsLevel && endsFilter)) return 'has a # that is not the whole last level'
    if (code === PLUS && !(startsLevel && (endsFilter || filter.charCodeAt(at + 1) === SLASH))) {
      return 'has a + that is not a whole level' // [MQTT-4.7.1-2]
    }
  }
  return null
}

function invalidName(statement: string, message: string): ProtocolError {
  return new ProtocolError(Reason.TopicNameInvalid, statement, message)
}
