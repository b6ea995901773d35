/**
 * The intended differences between Mosquitto 2.0.11 and Godwit, each with the sentence of the standard for
 * it.
 */
import type { Step } from './sequence.ts'

/** One client, after one step, as the two brokers treated it. Lines are sorted, equal ones taken out. */
export interface Difference {
  readonly step: Step
  /** The client's protocol version. */
  readonly version: number
  /** The client that was treated differently is the one that acted. */
  readonly own: boolean
  readonly godwit: readonly string[]
  readonly mosquitto: readonly string[]
  /** How many of the client's Subscriptions match the topic of the step. */
  readonly matching: number
  /** Whether one of those replaced another with other options than QoS. */
  readonly replaced: boolean
  /** Topics of Wills of Network Connections that were taken over so far. */
  readonly takenWills: readonly string[]
}

export interface Rule {
  readonly name: string
  readonly section: string
  readonly why: string
  /** Whether the brokers are in the same state all the same, so that the course can go on. */
  readonly goesOn: boolean
  applies(difference: Difference): boolean
}

export const RULES: readonly Rule[] = [
  {
    name: 'PUBREC says that nobody subscribed',
    section: '3.5.2.1 (5.0)',
    why:
      'a Server that knows of no matching subscribers may use 0x10 instead of 0x00; ' +
      'Mosquitto does so in PUBACK',
    goesOn: true,
    applies: ({ godwit, mosquitto }) =>
      godwit.length === 1 &&
      mosquitto.length === 1 &&
      godwit[0] === mosquitto[0]!.replace(/^(PUBREC \d+) 0$/, '$1 16'),
  },
  {
    name: 'a Subscription is replaced with its options',
    section: '3.8.4, [MQTT-3.8.4-3] (5.0)',
    why:
      'a SUBSCRIBE for a filter that is there must replace the Subscription; ' +
      'Mosquitto changes QoS and identifier, and keeps No Local and Retain As Published',
    goesOn: false,
    applies: ({ replaced, version }) => replaced && version === 5,
  },
  {
    name: 'the Will of a Network Connection that is taken over is published',
    section: '3.1.4, at [MQTT-3.1.4-3] (5.0); 3.1.2.5 (3.1.1)',
    why:
      'the old Network Connection is closed without DISCONNECT, so its Will, with a Will Delay Interval ' +
      'of 0, is sent "because the Network Connection is closed"; Mosquitto drops it',
    goesOn: false,
    applies: ({ godwit, mosquitto, takenWills }) =>
      [...godwit, ...mosquitto].every((line) => takenWills.includes(topicOf(line))),
  },
  {
    name: 'one message for Subscriptions that overlap',
    section: '3.3.4, [MQTT-3.3.4-2] (5.0); 3.3.5, [MQTT-3.3.5-1] (3.1.1)',
    why:
      'the message arrives once, at the highest QoS of the matching Subscriptions, with all their ' +
      'identifiers; Mosquitto chooses further copies, and in 3.1.1 the QoS of any one of them',
    goesOn: false,
    applies: ({ godwit, mosquitto, matching }) =>
      matching > 1 && [...godwit, ...mosquitto].every((line) => topicOf(line) !== '') && godwit.length <= 1,
  },
  {
    name: 'a filter that stands twice in one SUBSCRIBE gets its retained messages once',
    section: '3.8.4, [MQTT-3.8.4-3] and [MQTT-3.8.4-5]',
    why:
      'the second request replaces the first before anything was sent, and the retained messages are sent ' +
      'for the remaining one; Mosquitto sends them for both',
    goesOn: false,
    applies: ({ step, own, godwit, mosquitto }) =>
      own && hasRepeatedFilter(step) && [...godwit, ...mosquitto].every((line) => topicOf(line) !== ''),
  },
  {
    name: 'Receive Maximum holds for what is sent again',
    section: '4.9, [MQTT-3.3.4-9] (5.0)',
    why:
      'a Server must not send more unacknowledged messages than Receive Maximum; ' +
      'Mosquitto sends all that was in flight again at once',
    goesOn: false,
    applies: ({ step, own, godwit, mosquitto, version }) =>
      own &&
      version === 5 &&
      step.do === 'connect' &&
      step.packet.receiveMaximum < 65_535 &&
      godwit.length === 0 &&
      mosquitto.every((line) => line.includes(' dup ')),
  },
  {
    name: 'retained messages of several topics have no order',
    section: '4.6, [MQTT-4.6.0-5] (5.0), [MQTT-4.6.0-6] (3.1.1)',
    why:
      'order is kept per topic; if Receive Maximum allows only some retained messages, ' +
      'the Server chooses which ones are first',
    goesOn: false,
    applies: ({ godwit, mosquitto }) =>
      godwit.length === mosquitto.length &&
      [...godwit, ...mosquitto].every((line) => / retain /.test(line) && !line.includes(' dup')),
  },
  {
    name: 'retained messages at QoS 0 wait while Receive Maximum is reached',
    section: '4.9, [MQTT-4.9.0-2] (5.0)',
    why:
      'with a send quota of zero a Server may go on with QoS 0, as Mosquitto does, or suspend it, too: ' +
      'we hold retained messages back until the client takes some',
    goesOn: false,
    applies: ({ step, own, version, godwit, mosquitto }) =>
      own &&
      version === 5 &&
      step.do === 'send' &&
      step.packet.type === 'subscribe' &&
      godwit.length === 0 &&
      mosquitto.every((line) => line.startsWith('PUBLISH QoS 0 retain ')),
  },
]

/** The topic of a PUBLISH; empty for other lines. */
function topicOf(line: string): string {
  return /^PUBLISH QoS \d(?: dup)?(?: retain)? (\S+) /.exec(line)?.[1] ?? ''
}

function hasRepeatedFilter(step: Step): boolean {
  if (step.do !== 'send' || step.packet.type !== 'subscribe') return false
  const filters = step.packet.requests.map(({ filter }) => filter)
  return new Set(filters).size < filters.length
}
