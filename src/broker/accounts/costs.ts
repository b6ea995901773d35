/**
 * PURE. What things take in memory beside the bytes that clients send, in bytes, as Node 20 on a machine of 64 bits has it:
 * objects, entries of maps, buffers. `test/broker/accounts/costs.test.ts` holds the table against the heap.
 */
import type { Will } from '../../mqtt/message.ts'
import type { TopicInterner } from '../../mqtt/topic-interner.ts'
import { topicLevels } from '../../mqtt/topics.ts'
import type { Session } from '../../session/session.ts'
import { MESSAGE_BYTES } from '../../store/held-bytes.ts'
import type { LinkInfo } from '../boundary/link.ts'

export const COSTS = Object.freeze({
  /** A Network Connection of a client with its parser, its output, its socket and its place in tables. */
  connection: 6000,
  /** More for a connection over TLS, and over WebSocket. */
  tls: 40_000,
  webSocket: 2000,
  /** A Session without Subscriptions, with its place in tables. */
  session: 860,
  /** A Subscription: the Session's entry and what the router finds. */
  subscription: 190,
  /** More for a filter of very many levels, beside half of its bytes: its branch. */
  deep: 120,
  /** A Shared Subscription's group, as if it had no other member. */
  shareGroup: 130,
  /** An entry of a queue: its slot, and a Delivery where that is not shared by all who get the message. */
  queueEntry: 80,
  /** An entry of a queue whose message is on the disk only, while very many wait. */
  parkedEntry: 24,
  /** An entry of what is in flight. */
  inFlight: 100,
  /** A QoS 2 identifier that was received and is not released. */
  inboundId: 100,
  /** A retained message with its topic's entries in map and tree. */
  retained: 540,
  /** A Will with its deadline. */
  will: 1400,
  /** A topic name that is remembered with its Route. */
  topic: 190,
})

/** Bytes of the characters of a string: V8 has one for each, or two where any is beyond Latin-1. */
export function textBytes(text: string): number {
  const bytes = Buffer.byteLength(text)
  return bytes === text.length ? bytes : 2 * text.length
}

/** What a Subscription takes in its Session and in the router. */
export function subscriptionBytes(filter: string, isShared: boolean): number {
  const bytes = textBytes(filter)
  const deep =
    filter.length > 2 * TABLE_LEVELS && topicLevels(filter) > TABLE_LEVELS ? COSTS.deep + bytes / 2 : 0
  return Math.ceil(COSTS.subscription + deep + bytes + (isShared ? COSTS.shareGroup + bytes : 0))
}

/** Filters with more levels are not found by a table but by a tree. */
const TABLE_LEVELS = 24

/** What a retained message takes whose topic name, properties and payload have so many bytes. */
export function retainedBytes(size: number): number {
  return COSTS.retained + size
}

export function willBytes({ topic, payload, properties }: Will): number {
  return COSTS.will + textBytes(topic) + payload.length + properties.length
}

/** What a Session takes beside its Subscriptions and messages. */
export function sessionBytes(clientId: string): number {
  return COSTS.session + textBytes(clientId)
}

/** What a Network Connection takes beside what waits in it. */
export function connectionBytes(transport: LinkInfo['transport']): number {
  const tls = transport === 'tls' || transport === 'wss' ? COSTS.tls : 0
  const webSocket = transport === 'ws' || transport === 'wss' ? COSTS.webSocket : 0
  return COSTS.connection + tls + webSocket
}

/** What the entries of a Session's queue and flight take, without their messages, which others may have as well. */
export function entriesBytes(session: Session): number {
  const { queueEntryBytes, parkedCount, inFlightCount, inboundCount } = session
  return (
    queueEntryBytes +
    parkedCount * COSTS.parkedEntry +
    inFlightCount * COSTS.inFlight +
    inboundCount * COSTS.inboundId
  )
}

/** The least that the queue of a stored Session takes in memory; 0 for others, whose queues can be given up. */
export function parkedBytes({ stored, queueLength }: Session): number {
  return stored ? queueLength * COSTS.parkedEntry : 0
}

/** What the messages of a Session's queue and flight take in memory at the most: if nobody else has them. */
export function bodiesBytes(session: Session): number {
  const { queueLength, parkedCount, queueBytes, parkedBytes, inFlightCount, inFlightBytes } = session
  const count = queueLength + inFlightCount - parkedCount
  return count * MESSAGE_BYTES + queueBytes - parkedBytes + inFlightBytes
}

/** What a Session has on the disk, queued and in flight. */
export function storedBytes({ stored, queueBytes, inFlightBytes }: Session): number {
  return stored ? queueBytes + inFlightBytes : 0
}

/** An evicted message: its object alone. */
const EVICTED_BYTES = 250

/**
 * What a Session's queue and flight take in memory, each message by its share: divided among all entries that have it. A look
 * at each entry, so only for when somebody has to pay.
 */
export function exactBytes(session: Session): number {
  let bytes = entriesBytes(session)
  for (const message of session.held()) {
    if (!('size' in message)) continue
    bytes += message.evicted ? EVICTED_BYTES : (message.size + MESSAGE_BYTES) / Math.max(1, message.entries)
  }
  return bytes
}

/** What remembered topic names take. */
export function topicsBytes({ size, bytes }: TopicInterner): number {
  return size * COSTS.topic + bytes
}
