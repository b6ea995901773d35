/**
 * PURE. Memory that things take besides the bytes that clients send: objects, entries of maps, buffers. Bytes
 * are those of Node 20 on a 64-bit machine; `test/broker/accounts/costs.test.ts` compares the table with the
 * heap.
 */
import type { Will } from '../../mqtt/message.ts'
import type { TopicInterner } from '../../mqtt/topic-interner.ts'
import { topicLevels } from '../../mqtt/topics.ts'
import type { Session } from '../../session/session.ts'
import { MESSAGE_BYTES } from '../../store/held-bytes.ts'
import type { LinkInfo } from '../boundary/link.ts'

export const COSTS = Object.freeze({
  /** A client's Network Connection with its parser, output and socket, and its entries in tables. */
  connection: 6000,
  /** Added for TLS, and for WebSocket. */
  tls: 40_000,
  webSocket: 2000,
  /** A Session without Subscriptions, with its entries in tables. */
  session: 680,
  /** A Subscription with its entries in the Session and in the router. */
  subscription: 190,
  /** Added for a filter of very many levels, besides half of its bytes, for its branch. */
  deep: 120,
  /** The group of a Shared Subscription, as if it had no other member. */
  shareGroup: 130,
  /** A queue entry: its slot, and a Delivery unless all receivers share one. */
  queueEntry: 80,
  /** A queue entry whose message is only on the disk, in a long queue. */
  parkedEntry: 24,
  /** An in-flight entry. */
  inFlight: 100,
  /** A received QoS 2 packet identifier that is not released yet. */
  inboundId: 100,
  /** A retained message with its topic, and the entries of that in map and tree. */
  retained: 600,
  /** A Will with its deadline. */
  will: 1400,
  /** A remembered topic name with its Route. */
  topic: 190,
})

/** Returns the bytes of a string's characters in V8: one each, or two each if any is beyond Latin-1. */
export function textBytes(text: string): number {
  const bytes = Buffer.byteLength(text)
  return bytes === text.length ? bytes : 2 * text.length
}

/** Returns the bytes of a Subscription in its Session and in the router. */
export function subscriptionBytes(filter: string, isShared: boolean): number {
  const bytes = textBytes(filter)
  const deep =
    filter.length > 2 * TABLE_LEVELS && topicLevels(filter) > TABLE_LEVELS ? COSTS.deep + bytes / 2 : 0
  return Math.ceil(COSTS.subscription + deep + bytes + (isShared ? COSTS.shareGroup + bytes : 0))
}

/** Filters with more levels are in a tree of the router instead of a table. */
const TABLE_LEVELS = 24

/** Returns the bytes of a retained message; `size` is that of topic name, properties and payload. */
export function retainedBytes(size: number): number {
  return COSTS.retained + size
}

export function willBytes({ topic, payload, properties }: Will): number {
  return COSTS.will + textBytes(topic) + payload.length + properties.length
}

/** Returns the bytes of a Session without its Subscriptions and messages. */
export function sessionBytes(clientId: string): number {
  return COSTS.session + textBytes(clientId)
}

/** Returns the bytes of a Network Connection without waiting packets. */
export function connectionBytes(transport: LinkInfo['transport']): number {
  const tls = transport === 'tls' || transport === 'wss' ? COSTS.tls : 0
  const webSocket = transport === 'ws' || transport === 'wss' ? COSTS.webSocket : 0
  return COSTS.connection + tls + webSocket
}

/**
 * Returns the bytes of a Session's queue and in-flight entries, and of the consumers that it is, without the
 * messages, which others may share.
 */
export function entriesBytes(session: Session): number {
  const { queue, parkedCount, inFlightCount, inboundCount, consumers } = session
  return (
    queue.entryBytes +
    parkedCount * COSTS.parkedEntry +
    inFlightCount * COSTS.inFlight +
    inboundCount * COSTS.inboundId +
    (consumers?.memoryBytes ?? 0)
  )
}

/**
 * Returns the bytes of a stored Session's queue with all entries parked; 0 for others, whose queues can be
 * dropped.
 */
export function parkedBytes({ stored, queueLength }: Session): number {
  return stored ? queueLength * COSTS.parkedEntry : 0
}

/** Returns the bytes of a Session's queued and in-flight messages in memory, as if nobody shared them. */
export function bodiesBytes(session: Session): number {
  const { queueLength, parkedCount, queueBytes, parkedBytes, inFlightCount, inFlightBytes } = session
  const count = queueLength + inFlightCount - parkedCount
  return count * MESSAGE_BYTES + queueBytes - parkedBytes + inFlightBytes
}

/** Returns the bytes of a Session's queued and in-flight messages on the disk. */
export function storedBytes({ stored, queueBytes, inFlightBytes }: Session): number {
  return stored ? queueBytes + inFlightBytes : 0
}

/** The object of an evicted message. */
const EVICTED_BYTES = 250

/**
 * Returns the bytes of a Session's queue and in-flight messages; each message is divided among all entries
 * that share it. Looks at each entry, so it is only for clients that have to pay.
 */
export function exactBytes(session: Session): number {
  let bytes = entriesBytes(session)
  for (const message of session.held()) {
    if (!('size' in message)) continue
    bytes += message.evicted ? EVICTED_BYTES : (message.size + MESSAGE_BYTES) / Math.max(1, message.entries)
  }
  return bytes
}

/** Returns the bytes of remembered topic names. */
export function topicsBytes({ size, bytes }: TopicInterner): number {
  return size * COSTS.topic + bytes
}
