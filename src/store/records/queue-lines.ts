/** PURE. Writes and reads the lines of an export that are about queues and streams; see `jsonl.ts`. */
import { LEASE_SECONDS, LEASE_SECONDS_MAX } from '../../mqtt/server-topics.ts'
import { topicNameError } from '../../mqtt/topics.ts'
import type { DefinitionOwner, HeldEntry, RememberedId, ReturnedEntry, Run } from '../log-store.ts'
import { type Fields, LineError } from './line-fields.ts'
import type {
  DefinitionLine,
  DefinitionName,
  EntryRecord,
  GroupLine,
  LogFlightFields,
  MessageBody,
} from './records.ts'

const KINDS = ['queue', 'stream'] as const
const ORIGINS = ['file', 'operator', 'use', 'server'] as const
const GROUP_KINDS = ['queue', 'stream', 'reader'] as const

export function definitionFields(line: DefinitionLine): object {
  const { kind, name, origin, paused, properties, lanes, owner } = line
  const fields = { type: 'definition', kind, name, origin, paused: paused || undefined, properties, lanes }
  if (owner === null) return fields
  const { userName, address } = owner
  return userName === null ? { ...fields, ownerAddress: address } : { ...fields, ownerUser: userName }
}

/** `body` are the fields of its message. */
export function entryFields({ of, lane, sequence, appendedAt }: EntryRecord, body: object): object {
  return { type: 'entry', ...nameFields(of), lane, sequence, appendedAt: time(appendedAt), ...body }
}

export function groupFields(group: GroupLine): object {
  const { of, kind, name, filter, lanes, returned, held, remembered, counters } = group
  return {
    ...{ type: 'group', ...nameFields(of), group: kind, name, filter },
    lanes: lanes.map(({ floor, runs }) => ({
      floor,
      settled: Array.from(runs, ({ first, next }) => ({ first, next })),
    })),
    returned: returned.map(({ due, ...entry }) => ({ ...entry, due: due === 0 ? undefined : time(due) })),
    held: held.map(({ until, ...entry }) => ({
      ...entry,
      until: Number.isFinite(until) ? time(until) : undefined,
    })),
    remembered: remembered.map((entry) => ({ id: entry.id, time: time(entry.time) })),
    counters,
  }
}

export function flightFields(flight: LogFlightFields): object {
  const { of, group, lane, sequence, attempt, filter, qos, retain, subscriptionIdentifiers } = flight
  return {
    ...{ ...nameFields(of), group, lane, sequence, attempt, topicFilter: filter, qos },
    retain: retain || undefined,
    subscriptionIdentifiers: subscriptionIdentifiers.length === 0 ? undefined : subscriptionIdentifiers,
  }
}

export function readDefinition(fields: Fields): DefinitionLine {
  return {
    type: 'definition',
    kind: oneOf(fields, 'kind', KINDS),
    name: fields.text('name'),
    origin: oneOf(fields, 'origin', ORIGINS),
    paused: fields.flag('paused'),
    properties: fields.text('properties'),
    lanes: fields.integer('lanes', 1, 10),
    owner: definitionOwner(fields),
  }
}

function definitionOwner(fields: Fields): DefinitionOwner | null {
  const userName = fields.optionalText('ownerUser') ?? null
  if (userName !== null) return { userName, address: '' }
  const address = fields.optionalText('ownerAddress') ?? null
  return address === null ? null : { userName, address }
}

/** `body` is the message without its topic. */
export function readEntry(fields: Fields, body: Omit<MessageBody, 'topic'>): EntryRecord {
  const topic = fields.optionalText('topicName') ?? ''
  const error = topic === '' ? null : topicNameError(topic)
  if (error !== null) throw new LineError(`has a topicName that ${error}`)
  return {
    ...{
      type: 'entry',
      of: definitionName(fields),
      lane: lane(fields),
      sequence: sequence(fields, 'sequence'),
    },
    appendedAt: neededTime(fields, 'appendedAt'),
    ...body,
    topic,
  }
}

export function readGroup(fields: Fields): GroupLine {
  return {
    type: 'group',
    of: definitionName(fields),
    kind: oneOf(fields, 'group', GROUP_KINDS),
    name: fields.optionalText('name') ?? '',
    filter: fields.optionalText('filter') ?? '',
    lanes: fields.list('lanes').map((state) => {
      const floor = sequence(state, 'floor')
      return ended(state, { floor, runs: state.list('settled').map(run) })
    }),
    returned: fields.list('returned').map(returned),
    held: fields.list('held').map(held),
    remembered: fields.list('remembered').map(remembered),
    counters: fields.integers('counters', 0, Number.MAX_SAFE_INTEGER),
  }
}

export function readFlight(fields: Fields): LogFlightFields {
  return {
    of: definitionName(fields),
    group: fields.optionalText('group') ?? '',
    lane: lane(fields),
    sequence: sequence(fields, 'sequence'),
    attempt: fields.integer('attempt', 1),
    filter: fields.text('topicFilter'),
    qos: fields.qos(),
    retain: fields.flag('retain'),
    subscriptionIdentifiers: fields.integers('subscriptionIdentifiers', 1, 268_435_455),
  }
}

function run(fields: Fields): Run {
  const first = sequence(fields, 'first')
  return ended(fields, { first, next: fields.integer('next', first + 1) })
}

function returned(fields: Fields): ReturnedEntry {
  return ended(fields, {
    ...{ lane: lane(fields), sequence: sequence(fields, 'sequence') },
    failures: fields.integer('failures', 0, Number.MAX_SAFE_INTEGER, 0),
    attempts: fields.integer('attempts', 0, Number.MAX_SAFE_INTEGER, 0),
    due: fields.time('due') ?? 0,
  })
}

function held(fields: Fields): HeldEntry {
  return ended(fields, {
    ...{ lane: lane(fields), sequence: sequence(fields, 'sequence'), attempt: fields.integer('attempt', 0) },
    // Without an end: in flight at QoS 2 to a Session that is not stored.
    until: fields.time('until') ?? Number.POSITIVE_INFINITY,
    token: fields.text('token'),
    leaseSeconds: fields.integer('leaseSeconds', 0, LEASE_SECONDS_MAX, LEASE_SECONDS),
    clientId: fields.optionalText('clientId') ?? '',
  })
}

function remembered(fields: Fields): RememberedId {
  return ended(fields, { time: neededTime(fields, 'time'), id: fields.text('id') })
}

function nameFields({ kind, name }: DefinitionName): object {
  return { [kind]: name }
}

function definitionName(fields: Fields): DefinitionName {
  const queue = fields.optionalText('queue')
  return queue === undefined
    ? { kind: 'stream', name: fields.text('stream') }
    : { kind: 'queue', name: queue }
}

function lane(fields: Fields): number {
  return fields.integer('lane', 0, 9, 0)
}

function sequence(fields: Fields, name: string): number {
  return fields.integer(name, 1, 2 ** 48 - 1)
}

function neededTime(fields: Fields, name: string): number {
  const ms = fields.time(name)
  if (ms === null) throw new LineError(`has no ${name}`)
  return ms
}

function oneOf<T extends string>(fields: Fields, name: string, values: readonly T[]): T {
  const text = fields.text(name)
  const value = values.find((each) => each === text)
  if (value === undefined) throw new LineError(`has a ${name} that is not one of ${values.join(', ')}`)
  return value
}

/** Returns the value of an object of which all fields were read. */
function ended<T>(fields: Fields, value: T): T {
  fields.end()
  return value
}

function time(ms: number): string {
  return new Date(ms).toISOString()
}
