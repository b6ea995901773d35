/**
 * PURE. The grammar of topics that belong to the Server: queues, and names that are kept free for streams and
 * delayed messages. Section 4.7.2 leaves topics that begin with `$` to the Server.
 *
 *     $queue/NAME[;key=value…]             a Subscription to a queue, or its full form with /# or /FILTER
 *     $queue/NAME[/TOPIC]                  a PUBLISH to one queue
 *     $ack/NAME/TAG[/VERB]                 a PUBLISH that acknowledges a message of a queue
 *
 * `$q` is another spelling of `$queue`, since some clients cut `$queue/` off their filters.
 */
import type { UserProperties } from './packet.ts'
import { Reason } from './reason.ts'
import { SHARE_PREFIX } from './topics.ts'

/** Bytes of the level that has the name and its parameters. */
const NAMED_LEVEL_BYTES_MAX = 200

/**
 * Bytes of the topic of a message that a queue takes: with the levels before it, the topic with which the
 * message arrives is at most 65,535 bytes long.
 */
export const QUEUED_TOPIC_BYTES_MAX = 65_535 - 256

/** The names of reply queues begin with this; a Client Identifier follows. */
export const REPLY_PREFIX = 'reply.'

/** The allowed names of queues. */
export const NAME_FORM = 'a name of 1 to 64 letters, digits, "_", "-" or "."'

const NAME = /^[A-Za-z0-9_.-]{1,64}$/
const PARAMETER = /^([a-z-]+)=([^/+#;\0]+)$/
const TAG = /^[A-Za-z0-9._-]{1,40}$/

const SLASH = 0x2f
const DOLLAR = 0x24

/** The first levels that have a meaning; a topic whose first level is another one is not the Server's. */
const WORDS = ['queue', 'q', 'ack', 'stream', 'delayed', 'share'] as const

type Word = (typeof WORDS)[number]

const VERBS = ['retry', 'dead', 'extend'] as const

/** The most messages that a consumer can ask to hold at once. */
export const PREFETCH_MAX = 1000

/** The time in seconds for which a consumer holds a message if it does not say; and the longest one. */
export const LEASE_SECONDS = 60
export const LEASE_SECONDS_MAX = 86_400

/** The parameters of a Subscription; as User Properties of SUBSCRIBE, each begins with `queue-`. */
const PARAMETER_NAMES = ['prefetch', 'ack', 'lease', 'meta'] as const

type ParameterName = (typeof PARAMETER_NAMES)[number]

const PROPERTY = 'queue-'

/** Characters of a client's text that a sentence repeats. */
const SHOWN_CHARACTERS_MAX = 64

/** The topic of a bridge's state, which a bridge sets by PUBLISH and by its Will; NAME is one level. */
const BRIDGE_STATE = /^\$SYS\/broker\/connection\/[^/]+\/state$/

/** A topic or filter that begins with a word of the Server and means nothing. */
export interface InvalidAddress {
  readonly kind: 'invalid'
  /** 0x90 for a topic name, 0x8F for a topic filter. */
  readonly reasonCode: Reason
  /** A sentence without a full stop, for the Reason String and the log. */
  readonly sentence: string
}

/** A PUBLISH straight into one queue. */
export interface QueueAddress {
  readonly kind: 'queue'
  readonly name: string
  /** The topic behind the name; null if there is none. */
  readonly topic: string | null
  /** The name that rights are about: `$queue/NAME` or `$queue/NAME/TOPIC`, also where `$q` was written. */
  readonly canonical: string
}

/** The wish of an acknowledgement by PUBLISH. */
export type AckVerb = 'done' | 'retry' | 'dead' | 'extend'

/** A PUBLISH that acknowledges a message. */
export interface AckAddress {
  readonly kind: 'ack'
  readonly name: string
  /** As written; the queue knows whether it is one of its own. */
  readonly tag: string
  readonly verb: AckVerb
}

export type Address = QueueAddress | AckAddress | InvalidAddress

/** The wishes of a Subscription, in its filter or its User Properties; null for the queue's own value. */
export interface QueueParameters {
  readonly prefetch: 'auto' | number | null
  readonly ack: 'packet' | 'explicit' | null
  readonly leaseSeconds: number | null
  readonly meta: boolean | null
}

/** A Subscription to a queue. */
export interface QueueSubscription {
  readonly kind: 'queue'
  readonly name: string
  /**
   * - `topicless`: `$queue/NAME`; every message arrives with this topic
   * - `full`: `$queue/NAME/FILTER`; the topic follows the name
   * - `tagged`: `$queue/NAME;ack=explicit/+/FILTER`; a tag and the topic follow
   */
  readonly form: 'topicless' | 'full' | 'tagged'
  /** The filter that the queue must have, and that declares it; null without one or with `#`. */
  readonly filter: string | null
  /** Those of the filter alone; `withProperties` adds those of the packet. */
  readonly parameters: QueueParameters
  /** The first two levels as they were subscribed, such as `$q/jobs;prefetch=1`. */
  readonly prefix: string
  /** The filter that rights and `refused_subscriptions` are about: `$queue/NAME`. */
  readonly canonical: string
}

const NO_PARAMETERS: QueueParameters = Object.freeze({
  prefetch: null,
  ack: null,
  leaseSeconds: null,
  meta: null,
})

/**
 * Returns the meaning of a PUBLISH's valid topic name; null if it is an ordinary one, which `$SYS` is, too.
 */
export function parseAddress(topic: string): Address | null {
  const word = wordOf(topic)
  switch (word) {
    case null:
      return null
    case 'queue':
    case 'q':
      return queueAddress(topic, word.length + 2)
    case 'ack':
      return ackAddress(topic)
    case 'delayed':
      return invalidName('this version has no delayed messages')
    case 'stream':
    case 'share':
      return invalidName(`nothing can be published to $${word}`)
  }
}

/**
 * Returns the meaning of a valid topic filter of SUBSCRIBE; null if it is an ordinary one, which Shared
 * Subscriptions are.
 */
export function parseSubscription(filter: string): QueueSubscription | InvalidAddress | null {
  const word = wordOf(filter)
  switch (word) {
    case null:
      return null
    case 'queue':
    case 'q':
      return queueSubscription(filter, word.length + 2)
    case 'share':
      return sharedSubscription(filter)
    case 'ack':
      return invalidFilter('acknowledgements are published to $ack, nobody can subscribe to it')
    case 'delayed':
      return invalidFilter('messages are published to $delayed, nobody can subscribe to it')
    case 'stream':
      return invalidFilter('this version has no streams')
  }
}

/**
 * Returns the parameters of a Subscription together with the User Properties of its SUBSCRIBE, such as
 * `queue-prefetch`. A parameter in the filter wins; of a property that occurs twice, the last one counts.
 */
export function withProperties(
  parameters: QueueParameters,
  userProperties: UserProperties,
): QueueParameters | InvalidAddress {
  const asked: Mutable<QueueParameters> = { ...NO_PARAMETERS }
  for (const [name, value] of userProperties) {
    const key = name.startsWith(PROPERTY) ? name.slice(PROPERTY.length) : ''
    if (!isParameter(key)) continue
    const wrong = readParameter(asked, key, value)
    if (wrong !== null) return invalidFilter(`the User Property ${name} is ${wrong}`)
  }
  const ack = parameters.ack ?? asked.ack
  if (parameters.leaseSeconds !== null && ack !== 'explicit') {
    return invalidFilter('lease needs ack=explicit')
  }
  return {
    prefetch: parameters.prefetch ?? asked.prefetch,
    ack,
    leaseSeconds: parameters.leaseSeconds ?? asked.leaseSeconds,
    meta: parameters.meta ?? asked.meta,
  }
}

/**
 * Returns the topic with which a message arrives. It matches the filter of the Subscription if `topic`
 * matches the `filter` of the Subscription, or that is null [MQTT-3.3.2-3].
 *
 * `topic` is the message's own, null if it was published to `$queue/NAME`; `tag` is used by the tagged form.
 */
export function arrivingTopic(
  { form, prefix }: Pick<QueueSubscription, 'form' | 'prefix'>,
  topic: string | null,
  tag: string,
): string {
  const before = form === 'tagged' ? `${prefix}/${tag}` : prefix
  return form === 'topicless' || topic === null ? before : `${before}/${topic}`
}

/** Whether a queue or stream may have this name. */
export function isQueueName(name: string): boolean {
  return NAME.test(name)
}

/** Whether it is the name of a dead letter queue, which only the Server makes. */
export function isDeadLetterName(name: string): boolean {
  return name.endsWith('.dead')
}

/** Whether it is the name of a reply queue, which only the Server makes. */
export function isReplyName(name: string): boolean {
  return name.startsWith(REPLY_PREFIX)
}

/** Returns the name of a client's reply queue; null if its Client Identifier cannot be part of a name. */
export function replyName(clientId: string): string | null {
  const name = `${REPLY_PREFIX}${clientId}`
  return clientId !== '' && isQueueName(name) && isReplyName(name) && !isDeadLetterName(name) ? name : null
}

/** Whether only the Server publishes to this topic: all of `$SYS` except the states of bridges. */
export function isServerTopic(topic: string): boolean {
  if (!topic.startsWith('$SYS')) return false
  return isLevelEnd(topic, 4) && !isBridgeState(topic)
}

/**
 * Whether it is `$SYS/broker/connection/NAME/state`, the topic that Mosquitto's bridges use for their state.
 */
export function isBridgeState(topic: string): boolean {
  return BRIDGE_STATE.test(topic)
}

/** Returns the first level without its `$` if it is one of the words. */
function wordOf(name: string): Word | null {
  if (name.charCodeAt(0) !== DOLLAR) return null
  const word = WORDS.find((one) => name.startsWith(one, 1) && isLevelEnd(name, one.length + 1))
  return word ?? null
}

function isLevelEnd(name: string, at: number): boolean {
  return at === name.length || name.charCodeAt(at) === SLASH
}

/** Reads what follows the slash after `$queue` or `$q`, which is at `from - 1`. */
function queueAddress(topic: string, from: number): Address {
  const end = endOfLevel(topic, from)
  const name = topic.slice(from, end)
  if (!NAME.test(name)) return invalidName(nameError(name))
  if (end === topic.length) return { kind: 'queue', name, topic: null, canonical: `$queue/${name}` }
  const rest = topic.slice(end + 1)
  if (rest === '') return invalidName(`the topic after the queue ${name} is empty`)
  if (rest.charCodeAt(0) === DOLLAR) return invalidName(`the topic after the queue ${name} begins with $`)
  return { kind: 'queue', name, topic: rest, canonical: `$queue/${name}/${rest}` }
}

function ackAddress(topic: string): Address {
  const [, name = '', tag = '', verb, ...more] = topic.split('/', 5)
  if (!NAME.test(name)) return invalidName(nameError(name))
  if (!TAG.test(tag)) return invalidName(`what follows $ack/${name} is no tag`)
  if (verb === undefined) return { kind: 'ack', name, tag, verb: 'done' }
  const known = VERBS.find((one) => one === verb)
  if (known !== undefined && more.length === 0) return { kind: 'ack', name, tag, verb: known }
  return invalidName(`what follows the tag is one of ${VERBS.join(', ')}`)
}

function queueSubscription(filter: string, from: number): QueueSubscription | InvalidAddress {
  const end = endOfLevel(filter, from)
  const level = filter.slice(from, end)
  const [name = '', ...written] = level.split(';')
  if (name === '#' || name === '+') return invalidFilter('a wildcard cannot stand for the name of a queue')
  if (!NAME.test(name)) return invalidFilter(nameError(name))
  if (Buffer.byteLength(level) > NAMED_LEVEL_BYTES_MAX) {
    return invalidFilter(
      `the name of queue ${name} and its parameters have more than ${NAMED_LEVEL_BYTES_MAX} bytes`,
    )
  }
  const parameters = readParameters(written)
  if ('kind' in parameters) return parameters
  const form = formOf(filter, end, parameters, name)
  if ('kind' in form) return form
  return {
    kind: 'queue',
    name,
    ...form,
    parameters,
    prefix: filter.slice(0, end),
    canonical: `$queue/${name}`,
  }
}

/** Reads what follows the name and its parameters. */
function formOf(
  filter: string,
  end: number,
  { ack }: QueueParameters,
  name: string,
): Pick<QueueSubscription, 'form' | 'filter'> | InvalidAddress {
  if (end === filter.length) return { form: 'topicless', filter: null }
  const rest = filter.slice(end + 1)
  if (ack === 'explicit' && rest === '+') {
    return invalidFilter(`the tag of a message of queue ${name} is asked for by /+/#`)
  }
  const isTagged = ack === 'explicit' && rest.startsWith('+/')
  const inner = isTagged ? rest.slice(2) : rest
  if (inner === '') return invalidFilter(`the topic filter after the queue ${name} is empty`)
  if (inner.charCodeAt(0) === DOLLAR) {
    return invalidFilter(`the topic filter after the queue ${name} begins with $`)
  }
  return { form: isTagged ? 'tagged' : 'full', filter: inner === '#' ? null : inner }
}

/** A Shared Subscription is an ordinary one unless it shares a topic of the Server's. */
function sharedSubscription(filter: string): InvalidAddress | null {
  const nameEnd = filter.indexOf('/', SHARE_PREFIX.length)
  if (nameEnd === -1) return null
  const word = wordOf(filter.slice(nameEnd + 1))
  // `$share` means nothing in there: it is a level like any other.
  if (word === null || word === 'share') return null
  return invalidFilter(`$${word} cannot be in a Shared Subscription`)
}

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] }

function readParameters(written: readonly string[]): QueueParameters | InvalidAddress {
  if (written.length === 0) return NO_PARAMETERS
  const read: Mutable<QueueParameters> = { ...NO_PARAMETERS }
  const seen = new Set<string>()
  for (const one of written) {
    const [, key, value] = PARAMETER.exec(one) ?? []
    if (key === undefined || value === undefined) return invalidFilter(`'${shown(one)}' is not key=value`)
    if (!isParameter(key)) {
      return invalidFilter(`'${shown(key)}' is not one of ${PARAMETER_NAMES.join(', ')}`)
    }
    if (seen.has(key)) return invalidFilter(`${key} occurs twice`)
    seen.add(key)
    const wrong = readParameter(read, key, value)
    if (wrong !== null) return invalidFilter(`${key} is ${wrong}`)
  }
  return read
}

/** Puts a parameter into `into`; returns what is allowed instead if its value does not fit. */
function readParameter(into: Mutable<QueueParameters>, key: ParameterName, value: string): string | null {
  switch (key) {
    case 'prefetch': {
      const count = value === 'auto' ? value : wholeNumber(value, PREFETCH_MAX)
      if (count === null) return `auto or 1 to ${PREFETCH_MAX}, not ${shown(value)}`
      into.prefetch = count
      return null
    }
    case 'ack':
      if (value !== 'packet' && value !== 'explicit') return `packet or explicit, not ${shown(value)}`
      into.ack = value
      return null
    case 'lease': {
      const seconds = wholeNumber(value, LEASE_SECONDS_MAX)
      if (seconds === null) return `1 to ${LEASE_SECONDS_MAX} seconds, not ${shown(value)}`
      into.leaseSeconds = seconds
      return null
    }
    case 'meta':
      if (value !== 'yes' && value !== 'no') return `yes or no, not ${shown(value)}`
      into.meta = value === 'yes'
      return null
  }
}

function isParameter(key: string): key is ParameterName {
  return (PARAMETER_NAMES as readonly string[]).includes(key)
}

function wholeNumber(text: string, max: number): number | null {
  const number = /^[1-9]\d{0,5}$/.test(text) ? Number(text) : 0
  return number >= 1 && number <= max ? number : null
}

function endOfLevel(name: string, from: number): number {
  const end = name.indexOf('/', from)
  return end === -1 ? name.length : end
}

function nameError(name: string): string {
  return name === '' ? 'the name of the queue is missing' : `'${shown(name)}' is not ${NAME_FORM}`
}

/** Shortens a text of a client for a sentence. */
function shown(text: string): string {
  return text.length <= SHOWN_CHARACTERS_MAX ? text : `${text.slice(0, SHOWN_CHARACTERS_MAX)}…`
}

function invalidName(sentence: string): InvalidAddress {
  return { kind: 'invalid', reasonCode: Reason.TopicNameInvalid, sentence }
}

function invalidFilter(sentence: string): InvalidAddress {
  return { kind: 'invalid', reasonCode: Reason.TopicFilterInvalid, sentence }
}
