/**
 * The operator's commands that list, show and delete clients, Sessions, Subscriptions and retained
 * messages.
 */
import type { SecurityEvent } from '../broker/boundary/security.ts'
import type {
  ClientEntry,
  Inventory,
  InventoryQuery,
  MessageEntry,
  SessionEntry,
  Steps,
  SubscriptionEntry,
  WillEntry,
} from '../broker/inventory.ts'
import type { ErrorCode } from '../errors.ts'
import type { ForwardedProperties } from '../mqtt/properties/forwarded.ts'
import { isServerTopic } from '../mqtt/server-topics.ts'
import { SHARE_PREFIX, topicFilterError } from '../mqtt/topics.ts'
import { type ControlCommand, requestedBy } from './control.ts'
import { type Match, type Matches, processMatches } from './matches.ts'
import { PAGE_ROWS_MAX, Pages } from './pages.ts'
import { isPlain, matchesPattern, PATTERN_CHARACTERS_MAX } from './pattern.ts'

/** `retained show` sends at most so many bytes of the payload. */
const PAYLOAD_BYTES_MAX = 64 * 1024

/** The answer to `client show` and `session show`. */
export interface SessionDetails {
  /** Null while the client is not connected. */
  readonly client: ClientEntry | null
  readonly session: SessionEntry
  readonly will: WillEntry | null
}

/** The answer to `retained show`. */
export interface RetainedDetails extends MessageEntry {
  /** Base64 of the payload, or of its first bytes. */
  readonly payload: string
  readonly isPayloadWhole: boolean
  readonly properties: Omit<ForwardedProperties, 'correlationData'> & { readonly correlationData?: string }
}

/** The answer to `delete` and `kick`; only commands for all that match send more than `count`. */
export interface ChangeResult extends Partial<Matches> {
  readonly count: number
}

/** The entry does not exist, or the request is invalid. */
export class InventoryError extends Error {
  override readonly name = 'InventoryError'
  readonly code: ErrorCode = 'GODWIT_INVENTORY_REFUSED'
  readonly advice: string

  constructor(message: string, advice: string) {
    super(message)
    this.advice = advice
  }
}

/** The nouns for what a command deleted, for the security log. */
const NOUNS = {
  'client-kicked': 'clients',
  'session-deleted': 'Sessions',
  'subscription-deleted': 'Subscriptions',
  'retained-deleted': 'messages',
} as const

type Parameters = Readonly<Record<string, unknown>>

/** The parts that all commands use. */
interface Tools {
  readonly inventory: Inventory
  readonly pages: Pages
  /** Writes a change into the security log. */
  readonly tell: (event: SecurityEvent) => void
}

type Commands = Readonly<Record<string, ControlCommand>>

/** Returns the commands. They report their changes to `tell`. */
export function inventoryCommands(inventory: Inventory, tell: (event: SecurityEvent) => void): Commands {
  const tools: Tools = { inventory, pages: new Pages(), tell }
  return {
    ...clientCommands(tools),
    ...sessionCommands(tools),
    ...subscriptionCommands(tools),
    ...retainedCommands(tools),
  }
}

function clientCommands(tools: Tools): Commands {
  const { inventory, tell } = tools
  const rows = (query: InventoryQuery): Steps<ClientEntry> => inventory.clients(query)
  const kickMany = (parameters: Parameters): Promise<ChangeResult> => {
    const found = (entry: ClientEntry): Match => ({
      ...entry,
      name: entry.clientId,
      mayComeBack: true,
      isConnected: true,
    })
    const take = ({ clientId }: ClientEntry): boolean => inventory.disconnect(clientId)
    return changeMany(tools, parameters, 'client-kicked', rows, found, take)
  }
  return {
    'client list': list(tools, 'client', rows),
    'client show': (parameters) => {
      const clientId = word(parameters, 0)
      const found = sessionDetails(inventory, clientId)
      if (found.client === null) throw notConnected(clientId)
      return found
    },
    'client kick': (parameters) => {
      if (asksForMany(parameters)) return kickMany(parameters)
      const clientId = word(parameters, 0)
      if (!inventory.disconnect(clientId)) {
        throw inventory.session(clientId) === null ? noSession(clientId) : notConnected(clientId)
      }
      tell({ kind: 'client-kicked', subject: clientId, by: requestedBy(parameters), detail: '' })
      return { count: 1 } satisfies ChangeResult
    },
    'client delete': (parameters) => deleteSessions(tools, parameters),
  }
}

function sessionCommands(tools: Tools): Commands {
  const { inventory } = tools
  return {
    'session list': list(tools, 'session', (query) => inventory.sessions(query)),
    'session show': (parameters) => sessionDetails(inventory, word(parameters, 0)),
    'session delete': (parameters) => deleteSessions(tools, parameters),
  }
}

function subscriptionCommands(tools: Tools): Commands {
  const { inventory, tell } = tools
  const rows = (query: InventoryQuery): Steps<SubscriptionEntry> => inventory.subscriptions(query)
  const deleteMany = (parameters: Parameters): Promise<ChangeResult> => {
    const found = ({ clientId, topicFilter, isConnected }: SubscriptionEntry): Match => ({
      name: `${clientId} ${topicFilter}`,
      isConnected,
    })
    const take = ({ clientId, topicFilter }: SubscriptionEntry): boolean =>
      inventory.endSubscription(clientId, topicFilter)
    return changeMany(tools, parameters, 'subscription-deleted', rows, found, take)
  }
  return {
    'subscription list': list(tools, 'subscription', rows),
    'subscription show': (parameters): SubscriptionEntry => {
      const [clientId, topicFilter] = [word(parameters, 0), word(parameters, 1)]
      const found = inventory.subscription(clientId, topicFilter)
      if (found === null) throw noSubscription(inventory, clientId, topicFilter)
      return found
    },
    'subscription delete': async (parameters) => {
      if (asksForMany(parameters)) return deleteMany(parameters)
      const [clientId, topicFilter] = [word(parameters, 0), word(parameters, 1)]
      expectAvailable(inventory)
      if (!(await inventory.deleteSubscription(clientId, topicFilter))) {
        throw noSubscription(inventory, clientId, topicFilter)
      }
      const by = requestedBy(parameters)
      tell({ kind: 'subscription-deleted', subject: clientId, by, detail: topicFilter })
      return { count: 1 } satisfies ChangeResult
    },
  }
}

function retainedCommands(tools: Tools): Commands {
  const { inventory, tell } = tools
  const rows = (query: InventoryQuery): Steps<MessageEntry> => inventory.retained(query)
  const deleteMany = (parameters: Parameters): Promise<ChangeResult> => {
    const { topic } = parameters
    if (typeof topic === 'string' && isServerTopic(topic)) throw ownTopic(topic)
    const found = ({ topicName }: MessageEntry): Match => ({ name: topicName })
    const take = ({ topicName }: MessageEntry): boolean => inventory.clearRetained(topicName)
    return changeMany(tools, parameters, 'retained-deleted', rows, found, take)
  }
  return {
    'retained list': list(tools, 'retained', rows),
    'retained show': (parameters) => retainedDetails(inventory, word(parameters, 0)),
    'retained delete': async (parameters) => {
      if (asksForMany(parameters)) return deleteMany(parameters)
      expectAvailable(inventory)
      const subject = word(parameters, 0)
      const count = await clearOne(inventory, subject)
      tell({ kind: 'retained-deleted', subject, by: requestedBy(parameters), detail: `${count} messages` })
      return { count } satisfies ChangeResult
    },
  }
}

function list<T>({ pages }: Tools, name: string, rows: (query: InventoryQuery) => Steps<T>): ControlCommand {
  return (parameters) => {
    const { after, limit = 100, ...filters } = listParameters(parameters)
    const which = JSON.stringify([name, filters])
    return after === undefined
      ? pages.begin(which, rows(queryOf(filters)), limit)
      : pages.resume<T>(which, after, limit)
  }
}

/** Deletes or counts all that match, and reports an event of this `kind`. */
async function changeMany<T>(
  { inventory, tell }: Tools,
  parameters: Parameters,
  kind: keyof typeof NOUNS,
  rows: (query: InventoryQuery) => Steps<T>,
  found: (entry: T) => Match,
  take: (entry: T) => boolean,
): Promise<ChangeResult> {
  const { after: _after, limit: _limit, ...filters } = listParameters(parameters)
  const isDryRun = parameters.dryRun === true
  if (!isDryRun) expectAvailable(inventory)
  const taken = isDryRun ? null : take
  const done = await processMatches(inventory, rows(queryOf(filters)), found, taken, () =>
    expectAvailable(inventory),
  )
  const subject = inWords(filters)
  if (!isDryRun && done.count > 0) {
    tell({ kind, subject, by: requestedBy(parameters), detail: `${done.count} ${NOUNS[kind]}` })
  }
  return done
}

async function deleteSessions(tools: Tools, parameters: Parameters): Promise<ChangeResult> {
  const { inventory, tell } = tools
  if (asksForMany(parameters)) {
    const found = (entry: SessionEntry): Match => ({ ...entry, name: entry.clientId, mayComeBack: true })
    const take = ({ clientId }: SessionEntry): boolean => inventory.endSession(clientId)
    const rows = (query: InventoryQuery): Steps<SessionEntry> => inventory.sessions(query)
    return changeMany(tools, parameters, 'session-deleted', rows, found, take)
  }
  const clientId = word(parameters, 0)
  expectAvailable(inventory)
  const wasConnected = inventory.client(clientId) !== null
  if (!(await inventory.deleteSession(clientId))) throw noSession(clientId)
  const detail = wasConnected ? 'it was connected' : ''
  tell({ kind: 'session-deleted', subject: clientId, by: requestedBy(parameters), detail })
  return { count: 1 }
}

function sessionDetails(inventory: Inventory, clientId: string): SessionDetails {
  const session = inventory.session(clientId)
  if (session === null) throw noSession(clientId)
  return { client: inventory.client(clientId), session, will: inventory.will(clientId) }
}

function retainedDetails(inventory: Inventory, topicName: string): RetainedDetails {
  const found = inventory.retainedMessage(topicName)
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

async function clearOne(inventory: Inventory, topicName: string): Promise<number> {
  if (isServerTopic(topicName)) throw ownTopic(topicName)
  if (!inventory.clearRetained(topicName)) throw noRetained(topicName)
  await inventory.settled()
  return 1
}

/** Throws InventoryError while the store is not available: a deletion would not last. */
function expectAvailable({ unavailable }: Inventory): void {
  if (unavailable !== null)
    throw new InventoryError(`nothing can be deleted: ${unavailable}`, 'Try again later.')
}

/** Whether a request selects all that match instead of naming one. */
function asksForMany({ words, topic, client, user, awaySeconds }: Parameters): boolean {
  const isNamed = Array.isArray(words) && words.length > 0
  const isMany = [topic, client, user, awaySeconds].some((given) => given !== undefined)
  if (isNamed && isMany)
    throw new InventoryError(
      'the request names one entry and also selects many',
      'Give a name or options, not both.',
    )
  return isMany
}

/** Describes a selection for the security log, with the options of the command line. */
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
      if (typeof given !== 'string') throw new InventoryError(`${name} is not text`, 'Send a JSON string.')
      return [[name, given]]
    }),
  )
  const { limit, awaySeconds } = parameters
  const which = awaySeconds === undefined ? texts : { ...texts, awaySeconds: secondsOf(awaySeconds) }
  if (limit === undefined) return which
  if (!(Number.isInteger(limit) && (limit as number) >= 1 && (limit as number) <= PAGE_ROWS_MAX)) {
    throw new InventoryError(`a page has 1 to ${PAGE_ROWS_MAX} rows`, 'Ask for the next page with --after.')
  }
  return { ...which, limit: limit as number }
}

function secondsOf(awaySeconds: unknown): number {
  if (typeof awaySeconds === 'number' && awaySeconds >= 0) return awaySeconds
  throw new InventoryError('awaySeconds is not a number of seconds', 'Send a JSON number of 0 or more.')
}

function queryOf({ topic, client, user, awaySeconds }: ListParameters): InventoryQuery {
  if (topic !== undefined) expectFilter(topic)
  if (client !== undefined && client.length > PATTERN_CHARACTERS_MAX && !isPlain(client)) {
    throw new InventoryError(
      `a pattern has at most ${PATTERN_CHARACTERS_MAX} characters`,
      'Give a shorter one.',
    )
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
    throw new InventoryError(
      `${topicFilter} is not a topic filter: ${error}`,
      'In a filter, + stands for a whole level, and # for all levels at the end.',
    )
  }
  if (topicFilter.startsWith(SHARE_PREFIX)) {
    throw new InventoryError(
      `${topicFilter} is the filter of a Shared Subscription`,
      'Give the part after $share/NAME/.',
    )
  }
}

function word({ words }: Parameters, index: number): string {
  const found: unknown = Array.isArray(words) ? words[index] : undefined
  if (typeof found !== 'string') throw new InventoryError('a name is missing', 'Send it in the list words.')
  return found
}

function noSession(clientId: string): InventoryError {
  return new InventoryError(
    `there is no Session of the client '${clientId}'`,
    'Give its Client Identifier exactly, as in: godwit session list',
  )
}

function notConnected(clientId: string): InventoryError {
  return new InventoryError(
    `the client '${clientId}' is not connected`,
    'Its Session remains: godwit session show, or godwit session delete.',
  )
}

function noSubscription(inventory: Inventory, clientId: string, topicFilter: string): InventoryError {
  if (inventory.session(clientId) === null) return noSession(clientId)
  return new InventoryError(
    `the client '${clientId}' has no Subscription to '${topicFilter}'`,
    'Give the topic filter exactly, as in: godwit subscription list --client CLIENT',
  )
}

function noRetained(topicName: string): InventoryError {
  return new InventoryError(
    `no message is retained for '${topicName}'`,
    'Give the topic name exactly, as in: godwit retained list',
  )
}

function ownTopic(topic: string): InventoryError {
  return new InventoryError(
    `${topic} belongs to the broker itself`,
    'To switch off $SYS messages: sys.interval_seconds: off.',
  )
}
