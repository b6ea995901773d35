/**
 * PURE. Writes and reads records as JSON lines: the export format, described in config/OPERATING.md. Names
 * are those of the standard, bytes are base64, times are ISO 8601 in UTC, and intervals are seconds. An
 * absent field has the standard's default.
 */
import { SESSION_NEVER_EXPIRES } from '../../mqtt/packet.ts'
import {
  decodeForwardedProperties,
  encodeForwardedProperties,
  type ForwardedProperties,
} from '../../mqtt/properties/forwarded.ts'
import { LEASE_SECONDS_MAX, PREFETCH_MAX } from '../../mqtt/server-topics.ts'
import { topicFilterError, topicNameError } from '../../mqtt/topics.ts'
import { stringError } from '../../mqtt/utf8.ts'
import type { InboundPacket, SubscriptionRecord, TimeDoubt } from '../store.ts'
import { Fields, LineError } from './line-fields.ts'
import {
  definitionFields,
  entryFields,
  flightFields,
  groupFields,
  readDefinition,
  readEntry,
  readFlight,
  readGroup,
} from './queue-lines.ts'
import type {
  DeliveryFields,
  InFlightRecord,
  MessageBody,
  SessionRecordLine,
  StoreRecord,
  WillLine,
} from './records.ts'

export const EXPORT_FORMAT = 'godwit-export'
export const EXPORT_VERSION = 3

/**
 * Version 1 has no `ownerId`, `receivedDigests` and `assigned`. Godwit 0.1.0 reads it. Version 2 has no
 * queues, and is written where there are none. Godwit 0.2 and 0.3 read it.
 */
export type ExportVersion = 1 | 2 | typeof EXPORT_VERSION

const DIGEST_MAX = 2 ** 48 - 1

/** The fields of the first line besides the time. */
export interface ExportHeader {
  /** The version of Godwit that wrote it. */
  readonly godwit: string
  readonly version: ExportVersion
}

/** Returns the last line, by which an export that was cut off is noticed. */
export function endLine(lines: number): string {
  return JSON.stringify({ type: 'end', lines })
}

/** Whether an export of this version has the record. */
export function isIn(version: ExportVersion, record: StoreRecord): boolean {
  if (version > 2) return true
  if (record.type === 'inFlight') return record.delivery === null || !('of' in record.delivery)
  return record.type !== 'definition' && record.type !== 'entry' && record.type !== 'group'
}

/** Returns one line without its line break. The `start` record makes the first line. */
export function lineOf(record: StoreRecord, header: ExportHeader): string {
  switch (record.type) {
    case 'start':
      return JSON.stringify({
        type: 'start',
        format: EXPORT_FORMAT,
        version: record.hasQueues ? header.version : Math.min(header.version, 2),
        godwit: header.godwit,
        time: time(record.time),
        ...(header.version > 1 && doubtFields(record.doubt)),
      })
    case 'session':
      return JSON.stringify(sessionFields(record, header.version))
    case 'message':
      return JSON.stringify({ type: 'message', message: record.number, ...bodyFields(record) })
    case 'inFlight':
      return JSON.stringify(inFlightFields(record))
    case 'definition':
      return JSON.stringify(definitionFields(record))
    case 'entry':
      return JSON.stringify(entryFields(record, bodyFields(record)))
    case 'group':
      return JSON.stringify(groupFields(record))
    case 'queued':
      return JSON.stringify({ type: 'queued', clientId: record.clientId, ...deliveryFields(record.delivery) })
    case 'retained':
      return JSON.stringify({ type: 'retained', ...bodyFields(record), retain: undefined })
    case 'will':
      return JSON.stringify(willFields(record, header.version))
  }
}

function doubtFields(doubt: TimeDoubt | null): object {
  return doubt === null
    ? {}
    : {
        doubtfulSeconds: doubt.ms / 1000,
        doubtfulSince: time(doubt.since),
        doubtfulUntil: time(doubt.until),
      }
}

function sessionFields(record: SessionRecordLine, version: ExportVersion): object {
  const { inbound } = record
  const hasDigests = version > 1 && inbound.some(([, digest]) => digest !== 0)
  return {
    type: 'session',
    clientId: record.clientId,
    owner: record.owner ?? undefined,
    ownerId: version > 1 ? (record.ownerId ?? undefined) : undefined,
    sessionExpiryInterval:
      record.sessionExpirySeconds === SESSION_NEVER_EXPIRES ? 'never' : record.sessionExpirySeconds,
    disconnectedAt: time(record.disconnectedAt),
    lastPacketId: record.lastPacketId === 0 ? undefined : record.lastPacketId,
    receivedPacketIds: inbound.length === 0 ? undefined : inbound.map(([packetId]) => packetId),
    receivedDigests: hasDigests ? inbound.map(([, digest]) => digest) : undefined,
    subscriptions: record.subscriptions.map(([topicFilter, subscription]) => ({
      topicFilter,
      qos: subscription.qos,
      noLocal: subscription.noLocal || undefined,
      retainAsPublished: subscription.retainAsPublished || undefined,
      retainHandling: subscription.retainHandling || undefined,
      subscriptionIdentifier: subscription.identifier || undefined,
      retainedPending: subscription.retainedPending,
      ...(version > 2 && consumerFields(subscription)),
    })),
  }
}

function consumerFields({ consumer }: SubscriptionRecord): object {
  if (consumer === undefined) return {}
  const { prefetch, meta, ack, leaseSeconds } = consumer
  return {
    queuePrefetch: prefetch ?? undefined,
    queueMeta: meta || undefined,
    queueAck: ack,
    queueLease: leaseSeconds,
  }
}

function inFlightFields({ clientId, packetId, delivery }: InFlightRecord): object {
  const line = { type: 'inFlight', clientId, packetId }
  if (delivery === null) return { ...line, state: 'released' }
  if ('of' in delivery) return { ...line, state: 'queue', ...flightFields(delivery) }
  return { ...line, state: 'sent', ...deliveryFields(delivery) }
}

function bodyFields(body: MessageBody): object {
  return {
    topicName: body.topic === '' ? undefined : body.topic,
    qos: body.qos,
    retain: body.retain || undefined,
    publisher: body.publisher === '' ? undefined : body.publisher,
    expiresAt: time(body.expiresAt),
    properties: propertyFields(body.properties),
    payload: body.payload.toString('base64'),
  }
}

function deliveryFields(delivery: DeliveryFields | null): object {
  if (delivery === null) return {}
  const { message, qos, retain, subscriptionIdentifiers, share } = delivery
  return {
    message,
    qos,
    retain: retain || undefined,
    subscriptionIdentifiers: subscriptionIdentifiers.length === 0 ? undefined : subscriptionIdentifiers,
    share: share ?? undefined,
  }
}

function willFields(will: WillLine, version: ExportVersion): object {
  return {
    type: 'will',
    clientId: will.clientId,
    owner: will.owner ?? undefined,
    ownerId: version > 1 ? (will.ownerId ?? undefined) : undefined,
    topicName: will.topic,
    qos: will.qos,
    retain: will.retain || undefined,
    willDelayInterval: will.delaySeconds || undefined,
    assigned: (version > 1 && will.assigned) || undefined,
    messageExpiryInterval: will.expirySeconds,
    dueAt: time(will.dueAt),
    properties: propertyFields(will.properties),
    payload: will.payload.toString('base64'),
  }
}

function propertyFields(raw: Buffer): object | undefined {
  if (raw.length === 0) return undefined
  const { correlationData, ...properties } = decodeForwardedProperties(raw)
  return {
    ...properties,
    ...(correlationData !== undefined && { correlationData: correlationData.toString('base64') }),
  }
}

function time(ms: number | null): string | undefined {
  return ms === null ? undefined : new Date(ms).toISOString()
}

/** Reads lines, and checks everything that can be checked in a single line. */
export class LineReader {
  /** Lines that were read. */
  lines = 0
  #ended = false

  /** Returns the record of a line; null for the last line. Throws LineError. */
  read(line: string): StoreRecord | null {
    this.lines++
    if (this.#ended) throw this.#error('follows the end line')
    try {
      const fields = Fields.parse(line)
      const type = fields.text('type')
      if (this.lines === 1 && type !== 'start') throw new LineError(`is not a start line of ${EXPORT_FORMAT}`)
      const record = this.#record(type, fields)
      fields.end()
      return record
    } catch (error) {
      if (error instanceof LineError) throw this.#error(error.message)
      // The properties have a value that is not allowed.
      if (error instanceof RangeError) throw this.#error(error.message)
      throw error
    }
  }

  /** Ends reading. Throws LineError if the end line is missing. */
  end(): void {
    if (!this.#ended)
      throw new LineError(`the export was cut off after line ${this.lines}: its end line is missing`)
  }

  #record(type: string, fields: Fields): StoreRecord | null {
    switch (type) {
      case 'start':
        if (this.lines > 1) throw new LineError('is a second start line')
        return start(fields)
      case 'session':
        return session(fields)
      case 'message':
        return {
          type: 'message',
          number: fields.integer('message', 1),
          ...body(fields, fields.flag('retain')),
        }
      case 'inFlight':
        return inFlight(fields)
      case 'queued':
        return { type: 'queued', clientId: clientId(fields), delivery: delivery(fields) }
      case 'retained':
        return { type: 'retained', ...body(fields, true) }
      case 'definition':
        return readDefinition(fields)
      case 'entry':
        return readEntry(fields, bodyWithoutTopic(fields, fields.flag('retain')))
      case 'group':
        return readGroup(fields)
      case 'will':
        return will(fields)
      case 'end': {
        const lines = fields.integer('lines', 1)
        if (lines !== this.lines)
          throw new LineError(`says that ${lines} lines were written; ${this.lines} are here`)
        this.#ended = true
        return null
      }
      default:
        throw new LineError(`has the unknown type ${JSON.stringify(type)}`)
    }
  }

  #error(message: string): LineError {
    return new LineError(`line ${this.lines} ${message}`)
  }
}

function start(fields: Fields): StoreRecord {
  const format = fields.text('format')
  const version = fields.integer('version', 1)
  fields.text('godwit')
  if (format !== EXPORT_FORMAT) throw new LineError(`is of format ${format}, not ${EXPORT_FORMAT}`)
  if (version > EXPORT_VERSION) {
    throw new LineError(
      `is of export version ${version}; this version of Godwit reads up to ${EXPORT_VERSION}`,
    )
  }
  const time = fields.time('time') ?? 0
  const ms = fields.seconds('doubtfulSeconds') * 1000
  const until = fields.time('doubtfulUntil')
  const since = fields.time('doubtfulSince')
  const doubt = until === null || since === null || ms === 0 ? null : { ms, since, until }
  return { type: 'start', time, doubt, hasQueues: version > 2 }
}

function session(fields: Fields): StoreRecord {
  const neverExpires = fields.optional('sessionExpiryInterval') === 'never'
  // `optional` does not count it as read.
  if (neverExpires) fields.text('sessionExpiryInterval')
  return {
    type: 'session',
    clientId: clientId(fields),
    owner: fields.optionalText('owner') ?? null,
    ownerId: fields.optionalText('ownerId') ?? null,
    sessionExpirySeconds: neverExpires
      ? SESSION_NEVER_EXPIRES
      : fields.integer('sessionExpiryInterval', 0, SESSION_NEVER_EXPIRES),
    disconnectedAt: fields.time('disconnectedAt'),
    lastPacketId: fields.integer('lastPacketId', 0, 65_535, 0),
    inbound: inbound(fields),
    subscriptions: fields.list('subscriptions').map(subscription),
  }
}

function inbound(fields: Fields): readonly InboundPacket[] {
  const packetIds = fields.integers('receivedPacketIds', 1, 65_535)
  const digests = fields.integers('receivedDigests', 0, DIGEST_MAX)
  if (digests.length > 0 && digests.length !== packetIds.length) {
    throw new LineError(`has ${digests.length} receivedDigests for ${packetIds.length} receivedPacketIds`)
  }
  return packetIds.map((packetId, index) => [packetId, digests[index] ?? 0])
}

function subscription(fields: Fields): readonly [string, SubscriptionRecord] {
  const filter = fields.text('topicFilter')
  const error = topicFilterError(filter)
  if (error !== null) throw new LineError(`has a topicFilter that ${error}`)
  const record: SubscriptionRecord = {
    qos: fields.qos(),
    noLocal: fields.flag('noLocal'),
    retainAsPublished: fields.flag('retainAsPublished'),
    retainHandling: fields.integer('retainHandling', 0, 2, 0) as 0 | 1 | 2,
    identifier: fields.integer('subscriptionIdentifier', 0, 268_435_455, 0),
    ...(fields.flag('retainedPending') && { retainedPending: true }),
    ...consumer(fields),
  }
  fields.end()
  return [filter, record]
}

function consumer(fields: Fields): Pick<SubscriptionRecord, 'consumer'> {
  const isAuto = fields.optional('queuePrefetch') === 'auto'
  // `optional` does not count it as read.
  if (isAuto) fields.text('queuePrefetch')
  const prefetch = isAuto ? 'auto' : fields.integer('queuePrefetch', 0, PREFETCH_MAX, 0) || null
  const meta = fields.flag('queueMeta')
  const ack = fields.optionalText('queueAck')
  if (ack !== undefined && ack !== 'explicit') throw new LineError('has a queueAck that is not explicit')
  const lease = fields.integer('queueLease', 0, LEASE_SECONDS_MAX, 0)
  if (prefetch === null && !meta && ack === undefined && lease === 0) return {}
  const explicit = ack === undefined ? {} : { ack: 'explicit' as const }
  return { consumer: { prefetch, meta, ...explicit, ...(lease > 0 && { leaseSeconds: lease }) } }
}

function body(fields: Fields, retain: boolean): MessageBody {
  return { topic: topicName(fields), ...bodyWithoutTopic(fields, retain) }
}

function bodyWithoutTopic(fields: Fields, retain: boolean): Omit<MessageBody, 'topic'> {
  return {
    qos: fields.qos(),
    retain,
    publisher: fields.optionalText('publisher') ?? '',
    expiresAt: fields.time('expiresAt'),
    properties: properties(fields),
    payload: fields.bytes('payload'),
  }
}

function inFlight(fields: Fields): InFlightRecord {
  const client = clientId(fields)
  const packetId = fields.integer('packetId', 1, 65_535)
  const state = fields.text('state')
  if (state !== 'sent' && state !== 'released' && state !== 'queue')
    throw new LineError('has a state that is not sent, released or queue')
  const line = { type: 'inFlight', clientId: client, packetId } as const
  if (state === 'queue') return { ...line, delivery: readFlight(fields) }
  return { ...line, delivery: state === 'sent' ? delivery(fields) : null }
}

function delivery(fields: Fields): DeliveryFields {
  return {
    message: fields.integer('message', 1),
    qos: fields.qos(),
    retain: fields.flag('retain'),
    subscriptionIdentifiers: fields.integers('subscriptionIdentifiers', 1, 268_435_455),
    share: fields.optionalText('share') ?? null,
  }
}

function will(fields: Fields): WillLine {
  const expirySeconds = fields.optional('messageExpiryInterval')
  return {
    type: 'will',
    clientId: clientId(fields),
    owner: fields.optionalText('owner') ?? null,
    ownerId: fields.optionalText('ownerId') ?? null,
    topic: topicName(fields),
    qos: fields.qos(),
    retain: fields.flag('retain'),
    delaySeconds: fields.integer('willDelayInterval', 0, 0xffffffff, 0),
    assigned: fields.flag('assigned'),
    expirySeconds:
      expirySeconds === undefined ? undefined : fields.integer('messageExpiryInterval', 0, 0xffffffff),
    dueAt: fields.time('dueAt'),
    properties: properties(fields),
    payload: fields.bytes('payload'),
  }
}

function clientId(fields: Fields): string {
  const text = fields.text('clientId')
  const error = text === '' ? 'is empty' : stringError(text)
  if (error !== null) throw new LineError(`has a clientId that ${error}`)
  return text
}

function topicName(fields: Fields): string {
  const text = fields.text('topicName')
  const error = topicNameError(text)
  if (error !== null) throw new LineError(`has a topicName that ${error}`)
  return text
}

function properties(fields: Fields): Buffer {
  const given = fields.object('properties')
  if (given === undefined) return Buffer.alloc(0)
  const indicator = given.optional('payloadFormatIndicator')
  const contentType = given.optionalText('contentType')
  const responseTopic = given.optionalText('responseTopic')
  const correlationData =
    given.optional('correlationData') === undefined ? undefined : given.bytes('correlationData')
  const userProperties = given.pairs('userProperties')
  const values: ForwardedProperties = {
    ...(indicator !== undefined && {
      payloadFormatIndicator: given.integer('payloadFormatIndicator', 0, 1) as 0 | 1,
    }),
    ...(contentType !== undefined && { contentType }),
    ...(responseTopic !== undefined && { responseTopic }),
    ...(correlationData !== undefined && { correlationData }),
    ...(userProperties !== undefined && { userProperties }),
  }
  given.end()
  return encodeForwardedProperties(values)
}
