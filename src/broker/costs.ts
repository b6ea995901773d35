/**
 * PURE. What things take in memory beside the bytes that clients send, in bytes, as Node 20 on a machine of 64 bits has it:
 * objects, entries of maps, buffers. `test/broker/costs.test.ts` holds the table against the heap.
 */
import type { Will } from '../mqtt/message.ts'

export const COSTS = Object.freeze({
  /** A Network Connection of a client with its parser, its output, its socket and its place in tables. */
  connection: 6000,
  /** A Session without Subscriptions, with its place in tables. */
  session: 900,
  /** A Subscription: the Session's entry and what the router finds. */
  subscription: 420,
  /** A Shared Subscription's group, where it has few members, beside its Subscriptions. */
  shareGroup: 500,
  /** An entry of a queue: the Delivery and its slot. */
  queueEntry: 110,
  /** An entry of what is in flight. */
  inFlight: 140,
  /** A QoS 2 identifier that was received and is not released. */
  inboundId: 40,
  /** A message that is kept in memory: Message, Buffers, and what the store knows of it. */
  message: 480,
  /** A retained message with its topic's entries in map and tree. */
  retained: 700,
  /** A Will, with its deadline. */
  will: 600,
})

/** Bytes of the characters of a string: V8 has one for each, or two where any is beyond Latin-1. */
export function textBytes(text: string): number {
  const bytes = Buffer.byteLength(text)
  return bytes === text.length ? bytes : 2 * text.length
}

/** What a Subscription takes in its Session and in the router. */
export function subscriptionBytes(filter: string, isShared: boolean): number {
  return COSTS.subscription + (isShared ? COSTS.shareGroup + 2 * textBytes(filter) : textBytes(filter))
}

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
