/** Runs `godwit client|session|subscription|retained list|show|delete|kick` on a running broker. */
import { ask } from '../../admin/control-client.ts'
import type { ChangeResult, RetainedDetails, SessionDetails } from '../../admin/inventory.ts'
import { PAGE_ROWS_MAX, type Page } from '../../admin/pages.ts'
import type { LinkInfo } from '../../broker/boundary/link.ts'
import type {
  ClientEntry,
  MessageEntry,
  SessionEntry,
  SubscriptionEntry,
  WillEntry,
} from '../../broker/inventory.ts'
import type { ProtocolVersion } from '../../mqtt/packet.ts'
import { printable } from '../../observe/printable.ts'
import { type Column, duration, lines, size, table } from './table.ts'

/** The kinds of entries that commands list, show and delete in a running broker. */
export const INVENTORY_KINDS = ['client', 'session', 'subscription', 'retained'] as const

export type InventoryKind = (typeof INVENTORY_KINDS)[number]

/** A command for one kind of entries in a running broker. */
export interface InventoryCommand {
  readonly json: boolean
  readonly kind: InventoryKind
  readonly verb: 'list' | 'show' | 'delete' | 'kick'
  /** A Client Identifier, perhaps with a topic filter, or a topic name; empty for `list`. */
  readonly words: readonly string[]
  readonly topic: string | undefined
  readonly client: string | undefined
  readonly user: string | undefined
  /** The number of lines; the command's default when undefined. */
  readonly limit: number | undefined
  /** The cursor at which an earlier page ended. */
  readonly after: string | undefined
  /** Selects Sessions whose clients have been away for at least so long. */
  readonly awaySeconds: number | undefined
  /** Only counts the matching entries. */
  readonly dryRun: boolean
}

/** The rows of a list without --limit. */
const LIMIT = 100

const ANONYMOUS = '(anonymous)'

const VERSIONS: Readonly<Record<ProtocolVersion, string>> = { 3: '3.1', 4: '3.1.1', 5: '5.0' }

interface ListOf<T> {
  /** In the plural. */
  readonly name: string
  readonly columns: readonly Column<T>[]
}

const CLIENTS: ListOf<ClientEntry> = {
  name: 'connected clients',
  columns: [
    { title: 'CLIENT', value: ({ clientId }) => clientId },
    { title: 'USER', value: ({ userName }) => userName ?? ANONYMOUS },
    { title: 'MQTT', value: ({ protocolVersion }) => VERSIONS[protocolVersion] },
    { title: 'LISTENER', value: ({ link }) => link.listener },
    { title: 'ADDRESS', value: ({ link }) => address(link) },
    { title: 'CONNECTED', value: ({ connectedSeconds }) => duration(connectedSeconds) },
    { title: 'IN FLIGHT', value: ({ inFlightMessages }) => inFlightMessages },
    { title: 'QUEUED', value: ({ queuedMessages }) => queuedMessages },
  ],
}

const SESSIONS: ListOf<SessionEntry> = {
  name: 'Sessions',
  columns: [
    { title: 'CLIENT', value: ({ clientId }) => clientId },
    { title: 'USER', value: ({ userName, isFormerUsers }) => user(userName, isFormerUsers) },
    { title: 'STATE', value: ({ disconnectedSeconds }) => presence(disconnectedSeconds) },
    { title: 'EXPIRES', value: ({ expirySeconds }) => expiry(expirySeconds) },
    { title: 'SUBSCRIPTIONS', value: ({ subscriptions }) => subscriptions },
    { title: 'IN FLIGHT', value: ({ inFlightMessages }) => inFlightMessages },
    { title: 'QUEUED', value: ({ queuedMessages }) => queuedMessages },
    { title: 'BYTES', value: ({ queuedBytes }) => queuedBytes },
  ],
}

function user(name: string | null, isFormer: boolean): string {
  return isFormer ? `${name} (removed)` : (name ?? ANONYMOUS)
}

const SUBSCRIPTIONS: ListOf<SubscriptionEntry> = {
  name: 'Subscriptions',
  columns: [
    { title: 'CLIENT', value: ({ clientId }) => clientId },
    { title: 'USER', value: ({ userName }) => userName ?? ANONYMOUS },
    { title: 'TOPIC FILTER', value: ({ topicFilter }) => topicFilter },
    { title: 'QOS', value: ({ qos }) => qos },
    { title: 'OPTIONS', value: options },
  ],
}

const RETAINED: ListOf<MessageEntry> = {
  name: 'retained messages',
  columns: [
    { title: 'TOPIC NAME', value: ({ topicName }) => topicName },
    { title: 'QOS', value: ({ qos }) => qos },
    { title: 'PUBLISHER', value: ({ publisher }) => publisher },
    { title: 'EXPIRES', value: ({ expiresInSeconds }) => expiry(expiresInSeconds) },
    { title: 'BYTES', value: ({ payloadBytes }) => payloadBytes },
  ],
}

const LISTS: Readonly<Record<InventoryKind, ListOf<never>>> = {
  client: CLIENTS,
  session: SESSIONS,
  subscription: SUBSCRIPTIONS,
  retained: RETAINED,
}

/** Asks the broker of this data directory and returns the output. Throws ControlError. */
export async function inventory(directory: string, command: InventoryCommand): Promise<string> {
  const { verb, json } = command
  if (verb === 'list') {
    const page = await pages(directory, command)
    return json ? JSON.stringify(page) : pageText(command, page)
  }
  const { kind, words, topic, client, user, awaySeconds, dryRun } = command
  const which = { words, topic, client, user, awaySeconds, dryRun }
  const answer = await ask(directory, `${kind} ${verb}`, which)
  if (json) return JSON.stringify(answer)
  if (verb === 'show') return shown(kind, answer)
  return done(command, answer as ChangeResult)
}

/** Fetches pages up to the limit and joins them into one. */
async function pages(directory: string, command: InventoryCommand): Promise<Page<never>> {
  const { kind, topic, client, user, awaySeconds, limit = LIMIT } = command
  const rows: never[] = []
  let after: string | null | undefined = command.after
  while (rows.length < limit && after !== null) {
    const wanted = Math.min(PAGE_ROWS_MAX, limit - rows.length)
    const parameters = { topic, client, user, awaySeconds, limit: wanted, after }
    const page = (await ask(directory, `${kind} list`, parameters)) as Page<never>
    rows.push(...page.rows)
    after = page.after
  }
  return { rows, after: after ?? null }
}

function pageText({ kind }: InventoryCommand, { rows, after }: Page<never>): string {
  const { name, columns } = LISTS[kind]
  if (rows.length === 0) return `no ${name}`
  const more =
    after === null ? [] : [`for more rows: the same command with --after ${after}, or with a larger --limit`]
  return [...table(columns, rows), ...more].join('\n')
}

function shown(kind: InventoryKind, answer: unknown): string {
  if (kind === 'retained') return messageText(answer as RetainedDetails)
  if (kind === 'subscription') return subscriptionText(answer as SubscriptionEntry)
  return sessionText(answer as SessionDetails)
}

function sessionText({ client, session, will }: SessionDetails): string {
  return lines([
    ['client', printable(session.clientId)],
    ['user', printable(user(session.userName, session.isFormerUsers))],
    ['state', presence(session.disconnectedSeconds)],
    ...(client === null ? [] : connectionLines(client)),
    ['expires', expiry(session.expirySeconds)],
    ['Subscriptions', session.subscriptions],
    ['queued', `${session.queuedMessages} messages, ${size(session.queuedBytes)}`],
    ['in flight', `${session.inFlightMessages} to the client, ${session.receivedPacketIds} from it (QoS 2)`],
    ['Will', will === null ? null : willText(will)],
  ])
}

function connectionLines({ link, ...client }: ClientEntry): (readonly [string, string])[] {
  const { connectedSeconds, keepAliveSeconds, waitingBytes, protocolVersion } = client
  return [
    ['connected', `${duration(connectedSeconds)}, MQTT ${VERSIONS[protocolVersion]}`],
    ['from', `${address(link)}, listener '${printable(link.listener)}' (${link.transport})`],
    ['Keep Alive', keepAliveSeconds === 0 ? 'none' : `${keepAliveSeconds} s`],
    ['waiting', `${size(waitingBytes)} for it to read`],
  ]
}

function willText({ topicName, qos, retain, payloadBytes, delaySeconds }: WillEntry): string {
  const delay = delaySeconds === 0 ? '' : `, ${duration(delaySeconds)} later`
  return `${printable(topicName)}, QoS ${qos}${retain ? ', retained' : ''}, ${size(payloadBytes)}${delay}`
}

function subscriptionText(entry: SubscriptionEntry): string {
  return lines([
    ['client', printable(entry.clientId)],
    ['user', printable(entry.userName ?? ANONYMOUS)],
    ['state', entry.isConnected ? 'connected' : 'not connected'],
    ['topic filter', printable(entry.topicFilter)],
    ['QoS', entry.qos],
    ['options', options(entry)],
  ])
}

function messageText({ properties, payload, isPayloadWhole, ...entry }: RetainedDetails): string {
  const bytes = Buffer.from(payload, 'base64')
  const text = bytes.toString('utf8')
  const isText = Buffer.from(text, 'utf8').equals(bytes)
  const preview = printable(isText ? text : payload)
  const isCut = !isPayloadWhole || preview.endsWith('…')
  return lines([
    ['topic name', printable(entry.topicName)],
    ['publisher', printable(entry.publisher)],
    ['QoS', entry.qos],
    ['expires', expiry(entry.expiresInSeconds)],
    ...Object.entries(properties).map(([name, value]) => [name, printable(JSON.stringify(value))] as const),
    ['payload', `${size(entry.payloadBytes)}${isText ? '' : ', as base64'}${isCut ? ', its beginning' : ''}`],
    ['', preview],
  ])
}

function done(command: InventoryCommand, answer: ChangeResult): string {
  const { kind, verb, words } = command
  if (words.length === 0) return bulkResultText(command, answer)
  const [name = '', filter] = words.map((word) => printable(word))
  if (kind === 'retained') return `deleted ${counted('retained', answer.count)}: ${name}`
  if (kind === 'subscription') return `deleted the Subscription of '${name}' to '${filter}'`
  if (verb === 'kick') return `ended the connection of '${name}'; its Session stays, and it may come back`
  return `deleted the Session of '${name}'; the client may come back with a new one`
}

/** Describes what a command for all that match has changed, or would change. */
function bulkResultText({ kind, verb, topic, dryRun }: InventoryCommand, answer: ChangeResult): string {
  const { count, names = [], connected = 0, messages = 0 } = answer
  if (kind === 'retained' && topic !== undefined && !dryRun) {
    return `deleted ${counted(kind, count)}: ${printable(topic)}`
  }
  const what = counted(verb === 'delete' && kind === 'client' ? 'session' : kind, count)
  const done =
    verb === 'kick'
      ? ['would end the connections of', 'ended the connections of']
      : ['would delete', 'deleted']
  const isSession = verb === 'delete' && (kind === 'session' || kind === 'client')
  const more =
    isSession && count > 0 ? ` (${connected} of connected clients, ${messages} messages waiting)` : ''
  const named = names.map((name) => printable(name)).join(', ')
  const such = count === 0 ? '' : `${count > names.length ? ', such as' : ':'} ${named}`
  const next = dryRun && count > 0 ? ['to do it: the same command with --yes instead of --dry-run'] : []
  return [`${dryRun ? done[0] : done[1]} ${what}${more}${such}`, ...next].join('\n')
}

const NOUNS: Readonly<Record<InventoryKind, readonly [one: string, many: string]>> = {
  client: ['client', 'clients'],
  session: ['Session', 'Sessions'],
  subscription: ['Subscription', 'Subscriptions'],
  retained: ['retained message', 'retained messages'],
}

function counted(kind: InventoryKind, count: number): string {
  return `${count} ${NOUNS[kind][count === 1 ? 0 : 1]}`
}

function presence(disconnectedSeconds: number | null): string {
  return disconnectedSeconds === null ? 'connected' : `left ${duration(disconnectedSeconds)} ago`
}

function expiry(seconds: number | null): string {
  if (seconds === null) return 'never'
  return seconds === 0 ? 'with its connection' : `after ${duration(seconds)}`
}

function address({ remoteAddress, remotePort, transport }: LinkInfo): string {
  if (remoteAddress === '') return transport
  return `${remoteAddress.includes(':') ? `[${remoteAddress}]` : remoteAddress}:${remotePort}`
}

function options(entry: SubscriptionEntry): string {
  const { noLocal, retainAsPublished, retainHandling, identifier, isSuspended, consumer } = entry
  return [
    isSuspended && 'not allowed at present',
    noLocal && 'No Local',
    retainAsPublished && 'Retain As Published',
    retainHandling > 0 && `Retain Handling ${retainHandling}`,
    identifier > 0 && `identifier ${identifier}`,
    consumer !== undefined && consumer.prefetch !== null && `prefetch ${consumer.prefetch}`,
    consumer?.meta === true && 'meta',
  ]
    .filter((text) => text !== false)
    .join(', ')
}
