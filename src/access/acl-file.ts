/** Reads Mosquitto's `acl_file` as Mosquitto 2 does (mosquitto.conf(5), "acl_file"). */
import { parseFilter, topicFilterError } from '../mqtt/topics.ts'
import { filterMatches, filtersOverlap } from '../routing/filter.ts'
import type { ClientRights, Decision, Identity, Request } from './decision.ts'
import { LinesError } from './files/watched-file.ts'
import { expanded, filterCovers } from './filters.ts'

type Access = 'read' | 'write' | 'readwrite' | 'deny'

interface AclLine {
  readonly line: number
  readonly text: string
  readonly access: Access
  readonly filter: string
}

/** The lines of a file. */
export interface AclFile {
  readonly path: string
  /** By user name; null for clients without one. Denying lines come first, as in Mosquitto. */
  readonly topics: ReadonlyMap<string | null, readonly AclLine[]>
  readonly patterns: readonly AclLine[]
}

/**
 * If the file has patterns, a user name or Client Identifier with one of these characters is denied
 * everything that no `topic` line grants.
 */
const FORBIDDEN = /[+#]/

/** Parses the file's text. Throws LinesError with every line that is wrong. */
export function parseAclFile(text: string, path: string): AclFile {
  const topics = new Map<string | null, AclLine[]>()
  const patterns: AclLine[] = []
  const problems: { line: number; message: string }[] = []
  let user: string | null = null
  for (const [index, written] of text.split('\n').entries()) {
    const line = index + 1
    const trimmed = written.trimEnd()
    if (trimmed.startsWith('#') || trimmed.trim() === '') continue
    const [, word, rest = ''] = /^ *([^ ]+)(?: +(.*))?$/.exec(trimmed)!
    if (word === 'user') {
      if (rest.trim() === '') problems.push({ line, message: 'user without a name' })
      else user = rest.trim()
      continue
    }
    if (word !== 'topic' && word !== 'pattern') {
      problems.push({ line, message: `'${word}' is not user, topic or pattern` })
      continue
    }
    const read = readRule(rest)
    if (typeof read === 'string') {
      problems.push({ line, message: read })
      continue
    }
    const entry = { line, text: trimmed.trim(), ...read }
    const list = word === 'pattern' ? patterns : (topics.get(user) ?? [])
    if (word === 'topic') topics.set(user, list)
    if (entry.access === 'deny') list.unshift(entry)
    else list.push(entry)
  }
  if (problems.length > 0) throw new LinesError(path, problems)
  return { path, topics, patterns }
}

/**
 * Parses `[read|write|readwrite|deny] FILTER`. The filter may have spaces if one of the words precedes it.
 */
function readRule(rest: string): Pick<AclLine, 'access' | 'filter'> | string {
  const [, first = '', more] = /^([^ ]+)(?: +(.*))?$/.exec(rest) ?? []
  if (first === '') return 'there is no topic filter'
  const filter = more === undefined ? first : more.trim()
  const access = more === undefined ? 'readwrite' : first
  if (access !== 'read' && access !== 'write' && access !== 'readwrite' && access !== 'deny') {
    return `'${access}' is not read, write, readwrite or deny`
  }
  const error = topicFilterError(filter)
  return error === null ? { access, filter } : `the topic filter ${error}`
}

/**
 * Returns the rights that this file gives to one client. A request that no line concerns is left to the next
 * source; Mosquitto has no other source and denies it.
 *
 * Mosquitto grants every Subscription and checks each message. Godwit also checks each message, but grants a
 * Subscription only if a `read` line overlaps with it. So a client learns when its Subscription could never
 * get a message.
 */
export function aclRights({ path, topics, patterns }: AclFile, identity: Identity): ClientRights {
  const own = topics.get(identity.userName) ?? []
  const isDangerous =
    patterns.length > 0 &&
    (FORBIDDEN.test(identity.clientId) || (identity.userName !== null && FORBIDDEN.test(identity.userName)))
  const general = isDangerous ? [] : expandedPatterns(patterns, identity)
  const lines = [...own, ...general]
  const decision = (allow: boolean, { line, text }: AclLine): Decision => ({
    allow,
    source: `${path}, line ${line}`,
    rule: text,
  })
  return {
    receivesEverything:
      !lines.some(({ access }) => access === 'deny') &&
      lines.some(({ access, filter }) => access !== 'write' && filter === '#'),
    decide: (request) => {
      for (const entry of lines) {
        const allow = answer(entry, request)
        if (allow !== null) return decision(allow, entry)
      }
      if (!isDangerous) return null
      const rule = 'names with + or # are denied because the file has patterns'
      return { allow: false, source: path, rule }
    },
  }
}

function expandedPatterns(patterns: readonly AclLine[], identity: Identity): AclLine[] {
  return patterns.flatMap((entry) => {
    const filter = expanded(entry.filter, identity, FORBIDDEN)
    return filter === null ? [] : [{ ...entry, filter }]
  })
}

/** Returns whether the line allows the request; null if it does not concern it. */
function answer({ access, filter }: AclLine, request: Request): boolean | null {
  switch (request.action) {
    case 'publish':
      if (access === 'read' || !filterMatches(filter, request.topic)) return null
      return access !== 'deny'
    case 'receive':
      if (access === 'write' || !filterMatches(filter, request.topic)) return null
      return access !== 'deny'
    case 'subscribe': {
      const { filter: asked } = parseFilter(request.filter)
      if (access === 'deny') return filterCovers(filter, asked) ? false : null
      return access !== 'write' && filtersOverlap(filter, asked) ? true : null
    }
    case 'receive all':
      if (access === 'deny') return filtersOverlap(filter, request.filter) ? false : null
      return access !== 'write' && filterCovers(filter, request.filter) ? true : null
    case 'declare':
      // Mosquitto has no word for it: who may both fill and empty a queue may make it.
      if ((access !== 'readwrite' && access !== 'deny') || !filterMatches(filter, request.topic)) return null
      return access !== 'deny'
  }
}
