/** Runs `godwit queue …` on a running broker. */
import { ask } from '../../admin/control-client.ts'
import { PAGE_ROWS_MAX, type Page } from '../../admin/pages.ts'
import type { PeekedMessage, QueueChange, QueueDetails, QueueRow } from '../../admin/queues.ts'
import { type ConsumerEntry, counted, type QueueCounters } from '../../broker/queues/queue-view.ts'
import { printable } from '../../observe/printable.ts'
import { type Column, duration, lines, size, table } from './table.ts'

export type QueueVerb =
  | 'list'
  | 'show'
  | 'consumers'
  | 'peek'
  | 'declare'
  | 'change'
  | 'delete'
  | 'purge'
  | 'pause'
  | 'resume'
  | 'move'
  | 'replay'

/** A command about queues. */
export interface QueueCommand {
  readonly verb: QueueVerb
  /** The name of the queue; empty for `list`. */
  readonly words: readonly string[]
  readonly json: boolean
  readonly force: boolean
  /** Whether `peek` shows payloads. */
  readonly payload: boolean
  readonly after: string | undefined
  readonly state: string | undefined
  readonly to: string | undefined
  readonly topic: string | undefined
  readonly limit: number | undefined
  /** By their names in the configuration. */
  readonly properties: Readonly<Record<string, unknown>>
}

/** The rows of a list without --limit. */
const LIMIT = 100

const QUEUES: readonly Column<QueueRow>[] = [
  { title: 'QUEUE', value: ({ name }) => name },
  { title: 'MESSAGES', value: ({ messages }) => messages },
  { title: 'READY', value: ({ ready }) => ready },
  { title: 'IN FLIGHT', value: ({ inFlight, held }) => inFlight + held },
  { title: 'BYTES', value: ({ bytes }) => bytes },
  { title: 'CONSUMERS', value: ({ consumers }) => consumers },
  {
    title: 'STATE',
    value: ({ isPaused, isOrphaned }) => (isPaused ? 'paused' : isOrphaned ? 'orphaned' : ''),
  },
  { title: 'ORIGIN', value: ({ origin }) => origin },
  // Last, since only they may be long.
  { title: 'FILTERS', value: ({ filters }) => filters.join(' ') },
]

const CONSUMERS: readonly Column<ConsumerEntry>[] = [
  { title: 'CLIENT', value: ({ clientId }) => clientId },
  { title: 'USER', value: ({ userName }) => userName ?? '(anonymous)' },
  { title: 'TOPIC FILTER', value: ({ topicFilter }) => topicFilter },
  { title: 'QOS', value: ({ qos }) => qos },
  { title: 'STATE', value: ({ state }) => state },
  { title: 'WINDOW', value: ({ window }) => window },
  { title: 'IN FLIGHT', value: ({ inFlight }) => inFlight },
  { title: 'HELD', value: ({ held }) => held },
  {
    title: 'ACKNOWLEDGES',
    value: ({ ack, leaseSeconds }) =>
      ack === 'packet' ? 'by packet' : `explicitly, in ${duration(leaseSeconds ?? 0)}`,
  },
]

const MESSAGES: readonly Column<PeekedMessage>[] = [
  { title: 'SEQUENCE', value: ({ sequence }) => sequence },
  { title: 'STATE', value: ({ state }) => state },
  { title: 'TOPIC NAME', value: ({ topicName }) => topicName ?? '' },
  { title: 'PUBLISHER', value: ({ publisher }) => publisher },
  { title: 'QOS', value: ({ qos }) => qos },
  {
    title: 'AGE',
    value: ({ enqueuedAt }) => duration(Math.max(0, Math.round((Date.now() - enqueuedAt) / 1000))),
  },
  { title: 'FAILURES', value: ({ failures }) => failures },
  {
    title: 'HELD BY',
    value: ({ lease }) => (lease === null ? '' : `${lease.clientId}, for ${duration(lease.seconds)}`),
  },
  { title: 'BYTES', value: ({ payloadBytes }) => payloadBytes },
]

const DECLARERS: Readonly<Record<QueueRow['origin'], string>> = {
  file: 'the configuration',
  operator: 'an operator',
  use: 'use',
  server: 'the broker',
}

function declarer({ origin, isOrphaned }: Pick<QueueRow, 'origin' | 'isOrphaned'>): string {
  return isOrphaned ? 'the configuration, once' : DECLARERS[origin]
}

/** Asks the broker of this data directory and returns the output. Throws ControlError. */
export async function queue(directory: string, command: QueueCommand): Promise<string> {
  const { verb, words, json } = command
  if (verb === 'list' || verb === 'consumers') {
    const page = await pages(directory, command)
    return json ? JSON.stringify(page) : pageText(verb, page)
  }
  const { force, state, to, topic, limit, properties } = command
  const answer = await ask(directory, `queue ${verb}`, { words, force, state, to, topic, limit, properties })
  if (json) return JSON.stringify(answer)
  if (verb === 'show') return detailsText(answer as QueueDetails)
  if (verb === 'peek') return messagesText(answer as readonly PeekedMessage[], command.payload)
  return changeText(command, answer as QueueChange)
}

/** Fetches pages up to the limit and joins them into one. */
async function pages(
  directory: string,
  { verb, words, limit = LIMIT, after: first }: QueueCommand,
): Promise<Page<never>> {
  const rows: never[] = []
  let after: string | null | undefined = first
  while (rows.length < limit && after !== null) {
    const wanted = Math.min(PAGE_ROWS_MAX, limit - rows.length)
    const page = (await ask(directory, `queue ${verb}`, { words, limit: wanted, after })) as Page<never>
    rows.push(...page.rows)
    after = page.after
  }
  return { rows, after: after ?? null }
}

function pageText(verb: 'list' | 'consumers', { rows, after }: Page<never>): string {
  if (rows.length === 0) return verb === 'list' ? 'no queues' : 'no consumers'
  const more =
    after === null ? [] : [`for more rows: the same command with --after ${after}, or with a larger --limit`]
  const columns: readonly Column<never>[] = verb === 'list' ? QUEUES : CONSUMERS
  return [...table(columns, rows), ...more].join('\n')
}

function detailsText(found: QueueDetails): string {
  const { filters, properties, counters, why } = found
  const states = [
    [found.ready, 'ready'],
    [found.waiting, 'waiting for their key'],
    [found.inFlight, 'in flight'],
    [found.held, 'held'],
    [found.deferred, 'deferred'],
  ] as const
  const inStates = states.filter(([count]) => count > 0).map(([count, state]) => `${count} ${state}`)
  return [
    lines([
      ['queue', found.name],
      ['declared by', declarer(found)],
      [
        'filters',
        filters.length === 0
          ? 'none: published to the queue itself'
          : filters.map((one) => printable(one)).join(' '),
      ],
      ...Object.entries(properties).map(([key, value]) => [key, written(key, value)] as const),
      // The figures come last: they are what is left on a small screen.
      ['state', found.isPaused ? 'paused' : null],
      [
        'messages',
        `${found.messages}, ${size(found.bytes)}${inStates.length === 0 ? '' : ` (${inStates.join(', ')})`}`,
      ],
      ['oldest ready', ageOf(found.oldestReadySeconds)],
      ['oldest unacknowledged', ageOf(found.oldestUnacknowledgedSeconds)],
      ['consumers', found.consumers],
      ...counterLines(counters),
    ]),
    ...(why.length === 0 ? [] : ['', 'Why messages wait:']),
    ...why.map((sentence) => `- ${printable(sentence)}`),
  ].join('\n')
}

function ageOf(seconds: number | null): string | null {
  return seconds === null ? null : `for ${duration(seconds)}`
}

function written(key: string, value: unknown): string {
  if (typeof value === 'number' && key.includes('bytes')) return size(value)
  const textOf = (one: unknown): string => (typeof one === 'object' ? JSON.stringify(one) : String(one))
  return printable(Array.isArray(value) ? value.map(textOf).join(', ') : textOf(value))
}

function counterLines(counters: QueueCounters): (readonly [string, string])[] {
  const { in: came, out, acknowledged, ...byReason } = counters
  const counted = Object.entries(byReason).flatMap(([name, reasons]) => {
    const parts = Object.entries(reasons).map(([reason, count]) => `${count} ${reason}`)
    return parts.length === 0 ? [] : [[`${name} since the start`, parts.join(', ')] as const]
  })
  const all = `${came} in, ${out} handed out, ${acknowledged} acknowledged`
  return [['since the start', all], ...counted]
}

function messagesText(messages: readonly PeekedMessage[], withPayloads: boolean): string {
  if (messages.length === 0) return 'no messages'
  if (!withPayloads) return table(MESSAGES, messages).join('\n')
  return messages.map(messageText).join('\n\n')
}

function messageText({ properties, payload, isPayloadWhole, ...message }: PeekedMessage): string {
  const bytes = Buffer.from(payload, 'base64')
  const text = bytes.toString('utf8')
  const isText = Buffer.from(text, 'utf8').equals(bytes)
  return lines([
    ['sequence', message.sequence],
    ['state', message.state],
    ['topic name', printable(message.topicName ?? '')],
    ['publisher', printable(message.publisher)],
    ['QoS', message.qos],
    ['put in', new Date(message.enqueuedAt).toISOString()],
    ['failures', message.failures === 0 ? null : message.failures],
    ...Object.entries(properties).map(([name, value]) => [name, printable(JSON.stringify(value))] as const),
    [
      'payload',
      `${size(message.payloadBytes)}${isText ? '' : ', as base64'}${isPayloadWhole ? '' : ', its beginning'}`,
    ],
    ['', printable(isText ? text : payload)],
  ])
}

function changeText(
  { verb, words: [name = ''], to, force }: QueueCommand,
  { count, isNew }: QueueChange,
): string {
  const messages = counted(count, 'message')
  switch (verb) {
    case 'declare':
      return isNew === true
        ? `queue ${name} declared`
        : `queue ${name} is there already, with these properties`
    case 'change':
      return `queue ${name} changed`
    case 'delete':
      return force ? `queue ${name} deleted with ${messages}` : `queue ${name} deleted`
    case 'purge':
      return `${messages} of queue ${name} deleted`
    case 'pause':
      return `queue ${name} is paused: nothing is handed out`
    case 'resume':
      return `queue ${name} hands messages out again`
    case 'move':
      return `moved ${messages} from ${name} to ${to}`
    default:
      return `moved ${messages} from ${name} back to ${to ?? 'where they came from'}`
  }
}
