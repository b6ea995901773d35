/** HOT. The fields of the journal's records about logs and groups. */
import { type Delivery, Message, NO_IDENTIFIERS, NO_TOPIC } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { HeldEntry } from '../log-store.ts'
import { type ByteReader, type ByteWriter, textBytesMax } from './encoding.ts'
import { readIdentifiers } from './entry.ts'

const QOS_MASK = 3
const RETAIN = 0x04
const EXTENDED = 0x08

/** An entry of a log that a stored Session has in flight. */
export interface LogFlight {
  readonly group: number
  readonly lane: number
  readonly sequence: number
  readonly attempt: number
  readonly qos: QoS
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
  readonly filter: string
}

/** Describes a queue's delivery that is in flight; null for any other delivery. */
export function flightOf({ source, qos, retain, subscriptionIdentifiers }: Delivery): LogFlight | null {
  if (source === undefined) return null
  const { group, lane, sequence, attempt, filter } = source
  return { group, lane, sequence, attempt, filter, qos, retain, subscriptionIdentifiers }
}

/** Returns the delivery of a flight. Its message is evicted, and nothing is known of it. */
export function deliveryOf(flight: LogFlight): Delivery {
  const { group, lane, sequence, attempt, filter, qos, retain, subscriptionIdentifiers } = flight
  return {
    message: Message.of({ topic: NO_TOPIC, qos, retain, publisher: '' }, 0),
    ...{ qos, retain, subscriptionIdentifiers, share: null },
    source: { group, lane, sequence, attempt, filter },
  }
}

/** The most bytes that `writeFlight` takes. */
export function flightBytesMax({ subscriptionIdentifiers, filter }: LogFlight): number {
  return 48 + subscriptionIdentifiers.length * 5 + textBytesMax(filter)
}

/** Writes a flight; `writer` has room for it. */
export function writeFlight(writer: ByteWriter, flight: LogFlight): void {
  const { qos, retain, subscriptionIdentifiers: identifiers } = flight
  writer.varint(flight.group)
  writer.varint(flight.lane)
  writer.varint(flight.sequence)
  writer.varint(flight.attempt)
  writer.u8(qos | (retain ? RETAIN : 0) | (identifiers.length > 0 ? EXTENDED : 0))
  if (identifiers.length > 0) {
    writer.varint(identifiers.length)
    for (const identifier of identifiers) writer.varint(identifier)
  }
  writer.text(flight.filter)
}

/** Reads what `writeFlight` wrote. */
export function readFlight(reader: ByteReader): LogFlight {
  const group = reader.varint()
  const lane = reader.varint()
  const sequence = reader.varint()
  const attempt = reader.varint()
  const flags = reader.u8()
  return {
    ...{ group, lane, sequence, attempt },
    qos: (flags & QOS_MASK) as QoS,
    retain: (flags & RETAIN) !== 0,
    subscriptionIdentifiers: flags & EXTENDED ? readIdentifiers(reader, reader.varint()) : NO_IDENTIFIERS,
    filter: reader.text(),
  }
}

/**
 * The fields of a record about a group or log, besides its number. Those that its type lacks are 0 or empty.
 */
export interface LogFields {
  readonly lane: number
  /** A sequence; of a log that grew, the next one; of a group that moved, its position. */
  readonly sequence: number
  /** One past the last settled sequence. */
  readonly next: number
  readonly failures: number
  readonly attempts: number
  /** When it is due, how long it is held, or when an id was taken, in broker time. */
  readonly time: number
  /** A token or id. */
  readonly text: string
  /** Of a lease: its length in seconds, and the Client Identifier of its holder. */
  readonly seconds: number
  readonly clientId: string
}

const NO_FIELDS: LogFields = {
  lane: 0,
  sequence: 0,
  next: 0,
  failures: 0,
  attempts: 0,
  time: 0,
  text: '',
  seconds: 0,
  clientId: '',
}

export function readSettled(reader: ByteReader): LogFields {
  const lane = reader.varint()
  const sequence = reader.varint()
  return { ...NO_FIELDS, lane, sequence, next: sequence + reader.varint() }
}

export function readReturned(reader: ByteReader): LogFields {
  const lane = reader.varint()
  const sequence = reader.varint()
  const failures = reader.varint()
  const attempts = reader.varint()
  return { ...NO_FIELDS, lane, sequence, failures, attempts, time: reader.f64() }
}

export function readHeld(reader: ByteReader): LogFields {
  const lane = reader.varint()
  const sequence = reader.varint()
  const attempts = reader.varint()
  const time = reader.f64()
  const text = reader.text()
  const seconds = reader.varint()
  return { ...NO_FIELDS, lane, sequence, attempts, time, text, seconds, clientId: reader.text() }
}

/** Returns the lease that `readHeld` read. */
export function heldOf({ lane, sequence, attempts, time, text, seconds, clientId }: LogFields): HeldEntry {
  return { lane, sequence, attempt: attempts, until: time, token: text, leaseSeconds: seconds, clientId }
}

/** The most bytes that `writeHeld` takes. */
export function heldBytesMax({ token, clientId }: HeldEntry): number {
  return 48 + textBytesMax(token) + textBytesMax(clientId)
}

/** Writes a lease; `writer` has room for it. */
export function writeHeld(writer: ByteWriter, held: HeldEntry): void {
  writer.varint(held.lane)
  writer.varint(held.sequence)
  writer.varint(held.attempt)
  writer.f64(held.until)
  writer.text(held.token)
  writer.varint(held.leaseSeconds)
  writer.text(held.clientId)
}

export function readMoved(reader: ByteReader): LogFields {
  const lane = reader.varint()
  return { ...NO_FIELDS, lane, sequence: reader.varint() }
}

export function readRemembered(reader: ByteReader): LogFields {
  const time = reader.f64()
  return { ...NO_FIELDS, time, text: reader.text() }
}

export function readGrown(reader: ByteReader): LogFields {
  return { ...NO_FIELDS, sequence: reader.varint() }
}

/** The fields of a record that is not about logs. */
export const NO_LOG_FIELDS = NO_FIELDS
