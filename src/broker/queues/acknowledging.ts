/** Acknowledgements by a PUBLISH to `$ack`, and the results that they carry. */
import { Message, NO_TOPIC, Topic } from '../../mqtt/message.ts'
import type { PublishPacket } from '../../mqtt/packet.ts'
import { PropertyReader } from '../../mqtt/properties/reader.ts'
import { PropertyId, PropertyPlace } from '../../mqtt/properties/table.ts'
import { Reason } from '../../mqtt/reason.ts'
import {
  type AckAddress,
  type AckVerb,
  isServerTopic,
  LEASE_SECONDS_MAX,
  parseAddress,
} from '../../mqtt/server-topics.ts'
import { topicNameError } from '../../mqtt/topics.ts'
import { resultTopic } from '../../queue/explicit/results.ts'
import { parseTag, type Tag } from '../../queue/explicit/tag.ts'
import type { LostResult } from '../../queue/figures.ts'
import { expiryTime } from '../boundary/expiry.ts'
import type { Acknowledgement, QueueRefusal, Result } from '../state/queue-port.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import type { Queue } from './queue.ts'

/** The longest time in seconds until a message comes again. */
const RETRY_SECONDS_MAX = 86_400

/** Bytes of a payload that says why, of which a dead letter keeps a part. */
const DETAIL_BYTES_MAX = 1024

/** Reads a PUBLISH to `$ack`; or says why it acknowledges nothing. `queue` is undefined if there is none. */
export function acknowledgementOf(
  state: ServerState,
  queue: Queue | undefined,
  { name, tag: text, verb }: AckAddress,
  payload: Buffer,
): Acknowledgement | QueueRefusal {
  const tag = parseTag(text)
  if (queue === undefined || tag === null || !queue.context.isOwnTag(tag)) {
    return { reasonCode: Reason.TopicNameInvalid, reason: `this is no tag of a message of queue ${name}` }
  }
  const seconds = secondsOf(payload, verb)
  if (seconds === undefined) {
    const range = verb === 'extend' ? `1 to ${LEASE_SECONDS_MAX}` : `0 to ${RETRY_SECONDS_MAX}`
    const reason = `the payload of ${verb} is empty, or seconds from ${range}`
    return { reasonCode: Reason.PayloadFormatInvalid, reason }
  }
  const detail = verb === 'dead' ? payload.toString('utf8', 0, DETAIL_BYTES_MAX) : ''
  return new TagAnswer(state, queue, tag, verb, seconds, detail)
}

/** Null for the default, undefined for what is no time. */
function secondsOf(payload: Buffer, verb: AckVerb): number | null | undefined {
  if (payload.length === 0 || (verb !== 'retry' && verb !== 'extend')) return null
  const text = payload.length <= 12 ? payload.toString() : ''
  if (!/^\d{1,5}(?:\.\d{1,3})?$/.test(text)) return undefined
  const seconds = Number(text)
  const min = verb === 'extend' ? 1 : 0
  const max = verb === 'extend' ? LEASE_SECONDS_MAX : RETRY_SECONDS_MAX
  return seconds >= min && seconds <= max ? seconds : undefined
}

class TagAnswer implements Acknowledgement {
  readonly verb: AckVerb
  readonly #state: ServerState
  readonly #queue: Queue
  readonly #tag: Tag
  readonly #seconds: number | null
  readonly #detail: string

  constructor(
    state: ServerState,
    queue: Queue,
    tag: Tag,
    verb: AckVerb,
    seconds: number | null,
    detail: string,
  ) {
    this.#state = state
    this.#queue = queue
    this.#tag = tag
    this.verb = verb
    this.#seconds = seconds
    this.#detail = detail
  }

  get isThere(): boolean {
    return !this.#queue.isGone && this.#queue.group.isThere(this.#tag)
  }

  get isMoving(): boolean {
    const { lane, sequence } = this.#tag
    return !this.#queue.isGone && this.#queue.group.look(lane, sequence)?.state === 'moving'
  }

  request(): Message | null | Promise<Message | null> {
    if (!this.isThere) return null
    const log = this.#queue.numbers.logs[this.#tag.lane]!
    const { logs } = this.#state.store
    const segment = logs.segment(log, this.#tag.sequence)
    if (segment !== null) return segment.has(this.#tag.sequence) ? segment.message(this.#tag.sequence) : null
    return this.#read(log)
  }

  async #read(log: number): Promise<Message | null> {
    const { sequence } = this.#tag
    try {
      const segment = await this.#state.store.logs.load(log, sequence)
      return segment?.has(sequence) === true ? segment.message(sequence) : null
    } catch (error) {
      // Of a queue that is deleted meanwhile nothing is left to read.
      if (!this.#queue.isGone) this.#state.storeFailed(error)
      return null
    }
  }

  carryOut(): boolean {
    if (this.#queue.isGone) return false
    this.#state.work.units += UNITS.storedDelivery
    return this.#queue.group.answer(this.#tag, this.verb, this.#seconds, this.#detail) === 'done'
  }

  result(request: Message, packet: PublishPacket, publisher: string): Result | null {
    const { name, properties: rules, group } = this.#queue
    const asked = askedBy(request.properties)
    const topicName = request.topic.byteLength === 0 ? null : request.topic.name
    const template = rules.results === 'none' ? null : rules.results
    const to = asked.responseTopic ?? (template === null ? null : resultTopic(template, name, topicName))
    const { payload, qos, properties, expirySeconds } = packet
    if (to === null) {
      if (payload.length > 0) group.counts.results['no-topic']++
      return null
    }
    const address = parseAddress(to)
    if (topicNameError(to) !== null || isServerTopic(to) || (address !== null && address.kind !== 'queue')) {
      group.counts.results['invalid-topic']++
      return null
    }
    const inner = address === null ? to : address.topic
    const message = Message.of({
      topic: inner === null ? NO_TOPIC : new Topic(inner),
      payload,
      properties: answerProperties(properties, asked.correlation),
      publisher,
      qos,
      // Nothing is retained under a queue's topics.
      retain: packet.retain && address === null,
      expiresAt: expiryTime(this.#state.now(), expirySeconds),
    })
    return { message, address }
  }

  published(): void {
    this.#queue.group.counts.results.published++
  }

  lost(reason: Exclude<LostResult, 'no-topic'>, { message }: Result): void {
    this.#queue.group.counts.results[reason]++
    if (reason !== 'invalid-topic') this.#state.drop(message.publisher, reason, message)
  }
}

interface Asked {
  readonly responseTopic: string | null
  /** The whole property Correlation Data; null without one. */
  readonly correlation: Buffer | null
}

function askedBy(properties: Buffer): Asked {
  let responseTopic: string | null = null
  let correlation: Buffer | null = null
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    if (reader.id === PropertyId.ResponseTopic) responseTopic = reader.text
    else if (reader.id === PropertyId.CorrelationData) {
      correlation = properties.subarray(reader.start, reader.end)
    }
  }
  return { responseTopic, correlation }
}

/** The properties of the acknowledgement, with the Correlation Data of the request. */
function answerProperties(properties: Buffer, correlation: Buffer | null): Buffer {
  const kept: Buffer[] = []
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    const isOfRequest = reader.id === PropertyId.ResponseTopic || reader.id === PropertyId.CorrelationData
    if (!isOfRequest) kept.push(properties.subarray(reader.start, reader.end))
  }
  if (correlation !== null) kept.push(correlation)
  return Buffer.concat(kept)
}
