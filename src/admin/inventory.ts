/** The operator's commands for what a broker holds: clients, Sessions, Subscriptions, retained messages. */

import type { SecurityEvent } from '../broker/boundary/security.ts'
import { isServerTopic } from '../broker/connection/connect.ts'
import type {
  ClientEntry,
  Holdings,
  MessageEntry,
  SessionEntry,
  Steps,
  SubscriptionEntry,
  Wanted,
  WillEntry,
} from '../broker/inventory.ts'
import type { ForwardedProperties } from '../mqtt/properties/forwarded.ts'
import { topicFilterError } from '../mqtt/topics.ts'
import { askedBy, type ControlCommand } from './control.ts'
import { type Found, type Many, throughAll } from './many.ts'
import { PAGE_ROWS_MAX, Pages } from './pages.ts'
import { isPlain, matchesPattern, PATTERN_CHARACTERS_MAX } from './pattern.ts'

/** Bytes of a retained message's payload that `retained show` tells. */
const PAYLOAD_BYTES_MAX = 64 * 1024

/** The answer to `client show` and `session show`. */
export interface HeldSession {
  /** Null while the client is not connected. */
  readonly client: ClientEntry | null
  readonly session: SessionEntry
  readonly will: WillEntry | null
}

/** The answer to `retained show`. */
export interface HeldMessage extends MessageEntry {
  /** Base64 of the payload, or of its first bytes. */
  readonly payload: string
  readonly isPayloadWhole: boolean
  readonly properties: Omit<ForwardedProperties, 'correlationData'> & { readonly correlationData?: string }
}

/** The answer to `delete` and `kick`; what is more than `count` is there where many were asked for. */
export interface Done extends Partial<Many> {
  readonly count: number
}

/** What was asked for is not there, or cannot be asked so. */
export class HeldError extends Error {
  override readonly name = 'HeldError'
  readonly advice: string

  constructor(message: string, advice: string) {
    super(message)
    this.advice = advice
  }
}

/** What a command took away, for the security log. */
const NOUNS = {
  'client-kicked': 'clients',
  'session-deleted': 'Sessions',
  'subscription-deleted': 'Subscriptions',
  'retained-deleted': 'messages',
} as const

type Parameters = Readonly<Record<string, unknown>>

/** The commands; `tell` gets what they change. */
export function heldCommands(
  holdings: Holdings,
  tell: (event: SecurityEvent) => void,
): Readonly<Record<string, ControlCommand>> {
  const pages = new Pages()
  const list =
    <T>(name: string, rows: (wanted: Wanted) => Steps<T>): ControlCommand =>
    (parameters) => {
      const { after, limit = 100, ...filters } = listParameters(parameters)
      const which = JSON.stringify([name, filters])
      return after === undefined
        ? pages.begin(which, rows(wantedOf(filters)), limit)
        : pages.resume<T>(which, after, limit)
    }
  const show: ControlCommand = (parameters) => heldSession(holdings, word(parameters, 0))
  /** Of all that match; `kind` is how it is told. */
  const many = async <T>(
    parameters: Parameters,
    kind: keyof typeof NOUNS,
    rows: (wanted: Wanted) => Steps<T>,
    found: (entry: T) => Found,
    take: (entry: T) => boolean,
  ): Promise<Done> => {
    const { after: _after, limit: _limit, ...filters } = listParameters(parameters)
    const isDryRun = parameters.dryRun === true
    if (!isDryRun) expectAvailable(holdings)
    const taken = isDryRun ? null : take
    const done = await throughAll(holdings, rows(wantedOf(filters)), found, taken, () =>
      expectAvailable(holdings),
    )
    const subject = inWords(filters)
    if (!isDryRun && done.count > 0) {
      tell({ kind, subject, by: askedBy(parameters), detail: `${done.count} ${NOUNS[kind]}` })
    }
    return done
  }
  const deleteSession: ControlCommand = async (parameters) => {
    if (asksForMany(parameters)) {
      const found = (entry: SessionEntry): Found => ({ ...entry, name: entry.clientId, mayComeBack: true })
      const take = ({ clientId }: SessionEntry): boolean => holdings.endSession(clientId)
      return many(parameters, 'session-deleted', (wanted) => holdings.sessions(wanted), found, take)
    }
    const clientId = word(parameters, 0)
    expectAvailable(holdings)
    const wasConnected = holdings.client(clientId) !== null
    if (!(await holdings.deleteSession(clientId))) throw noSession(clientId)
    const detail = wasConnected ? 'it was connected' : ''
    tell({ kind: 'session-deleted', subject: clientId, by: askedBy(parameters), detail })
    return { count: 1 } satisfies Done
  }
  return {
    'client list': list('client', (wanted) => holdings.clients(wanted)),
    'client show': (parameters) => {
      const clientId = word(parameters, 0)
      const found = heldSession(holdings, clientId)
      if (found.client === null) throw notConnected(clientId)
      return found
    },
    'client kick': (parameters) => {
      if (asksForMany(parameters)) {
        const found = (entry: ClientEntry): Found => ({
          ...entry,
          name: entry.clientId,
          mayComeBack: true,
          isConnected: true,
        })
        const take = ({ clientId }: ClientEntry): boolean => holdings.disconnect(clientId)
        return many(parameters, 'client-kicked', (wanted) => holdings.clients(wanted), found, take)
      }
      const clientId = word(parameters, 0)
      if (!holdings.disconnect(clientId)) {
        throw holdings.session(clientId) === null ? noSession(clientId) : notConnected(clientId)
      }
      tell({ kind: 'client-kicked', subject: clientId, by: askedBy(parameters), detail: '' })
      return { count: 1 } satisfies Done
    },
    'client delete': deleteSession,
    'session list': list('session', (wanted) => holdings.sessions(wanted)),
    'session show': show,
    'session delete': deleteSession,
    'subscription list': list('subscription', (wanted) => holdings.subscriptions(wanted)),
    'subscription show': (parameters): SubscriptionEntry => {
      const [clientId, topicFilter] = [word(parameters, 0), word(parameters, 1)]
      const found = holdings.subscription(clientId, topicFilter)
      if (found === null) throw noSubscription(holdings, clientId, topicFilter)
      return found
    },
    'subscription delete': async (parameters) => {
      if (asksForMany(parameters)) {
        const found = ({ clientId, topicFilter, isConnected }: SubscriptionEntry): Found => ({
          name: `${clientId} ${topicFilter}`,
          isConnected,
        })
        const take = ({ clientId, topicFilter }: SubscriptionEntry): boolean =>
          holdings.endSubscription(clientId, topicFilter)
        const rows = (wanted: Wanted): Steps<SubscriptionEntry> => holdings.subscriptions(wanted)
        return many(parameters, 'subscription-deleted', rows, found, take)
      }
      const [clientId, topicFilter] = [word(parameters, 0), word(parameters, 1)]
      expectAvailable(holdings)
      if (!(await holdings.deleteSubscription(clientId, topicFilter))) {
        throw noSubscription(holdings, clientId, topicFilter)
      }
      const by = askedBy(parameters)
      tell({ kind: 'subscription-deleted', subject: clientId, by, detail: topicFilter })
      return { count: 1 } satisfies Done
    },
    'retained list': list('retained', (wanted) => holdings.retained(wanted)),
    'retained show': (parameters) => heldMessage(holdings, word(parameters, 0)),
    'retained delete': async (parameters) => {
      if (asksForMany(parameters)) {
        const { topic } = parameters
        if (typeof topic === 'string' && isServerTopic(topic)) throw ownTopic(topic)
        const found = ({ topicName }: MessageEntry): Found => ({ name: topicName })
        const take = ({ topicName }: MessageEntry): boolean => holdings.clearRetained(topicName)
        return many(parameters, 'retained-deleted', (wanted) => holdings.retained(wanted), found, take)
      }
      expectAvailable(holdings)
      const subject = word(parameters, 0)
      const count = await clearOne(holdings, subject)
      tell({ kind: 'retained-deleted', subject, by: askedBy(parameters), detail: `${count} messages` })
      return { count } satisfies Done
    },
  }
}

function heldSession(holdings: Holdings, clientId: string): HeldSession {
  const session = holdings.session(clientId)
  if (session === null) throw noSession(clientId)
  return { client: holdings.client(clientId), session, will: holdings.will(clientId) }
}

function heldMessage(holdings: Holdings, topicName: string): HeldMessage {
  const found = holdings.retainedMessage(topicName)
  if (found === null) throw noRetained(topicName)
  const { payload, properties, ...entry } = found
  const { correlationData, ...plain } = properties
  return {
    ...entry,
    payload: payload.toString('base64', 0, Math.min(payload.length, PAYLOAD_BYTES_MAX)),
    isPayloadWhole: payload.length <= PAYLOAD_BYTES_MAX,
    properties: {
      ...plain,
      ...(correlationData !== undefined && { correlationData: correlationData.toString('base64') }),
    },
  }
}

async function clearOne(holdings: Holdings, topicName: string): Promise<number> {
  if (isServerTopic(topicName)) throw ownTopic(topicName)
  if (!holdings.clearRetained(topicName)) throw noRetained(topicName)
  await holdings.settled()
  return 1
}

/** Without a connection to the disk nothing that is taken away would stay so. */
function expectAvailable({ unavailable }: Holdings): void {
  if (unavailable !== null) throw new HeldError(`nothing can be deleted: ${unavailable}`, 'Try again later.')
}

/** Whether it is about all that match, and not about one that is named. */
function asksForMany({ words, topic, client, user, awaySeconds }: Parameters): boolean {
  const isNamed = Array.isArray(words) && words.length > 0
  const isMany = [topic, client, user, awaySeconds].some((given) => given !== undefined)
  if (isNamed && isMany)
    throw new HeldError('the command names one and also selects many', 'Give either the name or the options.')
  return isMany
}

/** Which ones, for the security log: as the command line says it. */
function inWords({ topic, client, user, awaySeconds }: ListParameters): string {
  return [
    ...(topic === undefined ? [] : [`--topic ${topic}`]),
    ...(client === undefined ? [] : [`--client ${client}`]),
    ...(user === undefined ? [] : [`--user ${user === '' ? "''" : user}`]),
    ...(awaySeconds === undefined ? [] : [`--older-than ${awaySeconds}s`]),
  ].join(' ')
}

interface ListParameters {
  readonly topic?: string
  readonly client?: string
  readonly user?: string
  readonly awaySeconds?: number
  readonly limit?: number
  readonly after?: string
}

function listParameters(parameters: Parameters): ListParameters {
  const texts = Object.fromEntries(
    (['topic', 'client', 'user', 'after'] as const).flatMap((name) => {
      const given = parameters[name]
      if (given === undefined) return []
      if (typeof given !== 'string') throw new HeldError(`${name} is not text`, 'Send a JSON string.')
      return [[name, given]]
    }),
  )
  const { limit, awaySeconds } = parameters
  const which = awaySeconds === undefined ? texts : { ...texts, awaySeconds: secondsOf(awaySeconds) }
  if (limit === undefined) return which
  if (!(Number.isInteger(limit) && (limit as number) >= 1 && (limit as number) <= PAGE_ROWS_MAX)) {
    throw new HeldError(`a page has 1 to ${PAGE_ROWS_MAX} rows`, 'Ask for the next page with --after.')
  }
  return { ...which, limit: limit as number }
}

function secondsOf(awaySeconds: unknown): number {
  if (typeof awaySeconds === 'number' && awaySeconds >= 0) return awaySeconds
  throw new HeldError('awaySeconds is not a number of seconds', 'Send a JSON number of 0 or more.')
}

function wantedOf({ topic, client, user, awaySeconds }: ListParameters): Wanted {
  if (topic !== undefined) expectFilter(topic)
  if (client !== undefined && client.length > PATTERN_CHARACTERS_MAX && !isPlain(client)) {
    throw new HeldError(`a pattern has at most ${PATTERN_CHARACTERS_MAX} characters`, 'Give a shorter one.')
  }
  return {
    ...(topic !== undefined && { topicFilter: topic }),
    ...(user !== undefined && { userName: user === '' ? null : user }),
    ...(awaySeconds !== undefined && { awaySeconds }),
    ...(client !== undefined &&
      (isPlain(client)
        ? { clientId: client }
        : { isClient: (clientId: string) => matchesPattern(client, clientId) })),
  }
}

function expectFilter(topicFilter: string): void {
  const error = topicFilterError(topicFilter)
  if (error !== null) {
    throw new HeldError(`${topicFilter} is no topic filter: ${error}`, 'See section 4.7 of the standard.')
  }
  if (topicFilter.startsWith('$share/')) {
    throw new HeldError(
      `${topicFilter} is the filter of a Shared Subscription`,
      'Give what follows $share/NAME/.',
    )
  }
}

function word({ words }: Parameters, index: number): string {
  const found: unknown = Array.isArray(words) ? words[index] : undefined
  if (typeof found !== 'string') throw new HeldError('a name is missing', 'Send it in the list words.')
  return found
}

function noSession(clientId: string): HeldError {
  return new HeldError(
    `there is no Session of the client '${clientId}'`,
    'Its Client Identifier must be given exactly: godwit session list',
  )
}

function notConnected(clientId: string): HeldError {
  return new HeldError(
    `the client '${clientId}' is not connected`,
    'Its Session is there: godwit session show, or session delete.',
  )
}

function noSubscription(holdings: Holdings, clientId: string, topicFilter: string): HeldError {
  if (holdings.session(clientId) === null) return noSession(clientId)
  return new HeldError(
    `the client '${clientId}' has no Subscription to '${topicFilter}'`,
    'The topic filter must be given exactly: godwit subscription list --client CLIENT',
  )
}

function noRetained(topicName: string): HeldError {
  return new HeldError(
    `no message is retained for '${topicName}'`,
    'The topic name must be given exactly: godwit retained list',
  )
}

function ownTopic(topic: string): HeldError {
  return new HeldError(
    `${topic} is the broker's own`,
    'What it tells of itself is switched off by sys.interval_seconds: off.',
  )
}
