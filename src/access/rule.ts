/**
 * Rules of roles, each a line of text:
 *
 *     allow publish sensors/%u/# qos 0-1 no-retain
 *     allow subscribe,receive commands/%c
 *     deny subscribe $share/+/#
 *     allow subscribe,declare $queue/%u
 *
 * A filter with spaces stands in double quotes. `publish` is about topic names. `subscribe` is about topic
 * filters, and allows those that are no wider than the rule's. `receive` is about messages: it allows every
 * Subscription that overlaps with the rule's filter, and then only the messages that match the rule's filter.
 * `declare` is about queues that a client makes by using them: their names are `$queue/NAME`.
 */
import type { ErrorCode } from '../errors.ts'
import type { QoS } from '../mqtt/packet.ts'
import { topicFilterError } from '../mqtt/topics.ts'

/** The actions that rules allow or deny. */
export const ACTIONS = ['publish', 'subscribe', 'receive', 'declare'] as const

/** One of these actions. */
export type Action = (typeof ACTIONS)[number]

/** A parsed rule. */
export interface Rule {
  /** The text as written, with single spaces. */
  readonly text: string
  readonly allow: boolean
  readonly actions: ReadonlySet<Action>
  /**
   * The ShareName that the rule is limited to, `+` for every one; null if it concerns all Subscriptions.
   */
  readonly share: string | null
  /** With `%u` for the user name and `%c` for the Client Identifier. */
  readonly filter: string
  readonly qosMin: QoS
  readonly qosMax: QoS
  /**
   * Whether the rule is only about PUBLISH packets with RETAIN, or only about those without; null for both.
   */
  readonly retain: boolean | null
}

/** The text is not a rule; the message says why. */
export class RuleError extends Error {
  override readonly name = 'RuleError'
  readonly code: ErrorCode = 'GODWIT_RULE_INVALID'
  readonly advice =
    'A rule is: allow|deny publish,subscribe,receive,declare|all FILTER [qos 0|1|2|0-1|1-2|0-2] ' +
    '[retain|no-retain].'
}

/** Parses one rule. Throws RuleError. */
export function parseRule(text: string): Rule {
  const words = text.match(/"[^"]*"|\S+/g) ?? []
  const [verb, actionWord, filterWord, ...options] = words
  if (verb !== 'allow' && verb !== 'deny') throw new RuleError(`a rule begins with allow or deny: ${text}`)
  if (filterWord === undefined) throw new RuleError(`a rule names actions and a topic filter: ${text}`)
  const { share, filter } = parseFilterWord(filterWord, text)
  return {
    text: words.join(' '),
    allow: verb === 'allow',
    actions: parseActions(actionWord!, text),
    share,
    filter,
    ...parseOptions(options, text),
  }
}

function parseActions(word: string, text: string): ReadonlySet<Action> {
  if (word === 'all') return new Set(ACTIONS)
  return new Set(
    word.split(',').map((name) => {
      const action = ACTIONS.find((known) => known === name)
      if (action === undefined)
        throw new RuleError(`'${name}' is not one of ${ACTIONS.join(', ')} or all: ${text}`)
      return action
    }),
  )
}

function parseFilterWord(written: string, text: string): Pick<Rule, 'share' | 'filter'> {
  const word = /^"(.*)"$/.exec(written)?.[1] ?? written
  const shared = /^\$share\/([^/#]+)\/(.+)$/.exec(word)
  const filter = shared?.[2] ?? word
  const error = filter.startsWith('$share') ? 'it names no share and filter' : topicFilterError(filter)
  if (error !== null) throw new RuleError(`${error}: ${text}`)
  return { share: shared?.[1] ?? null, filter }
}

function parseOptions(words: readonly string[], text: string): Pick<Rule, 'qosMin' | 'qosMax' | 'retain'> {
  let qosMin: QoS = 0
  let qosMax: QoS = 2
  let retain: boolean | null = null
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!
    if (word === 'retain') retain = true
    else if (word === 'no-retain') retain = false
    else if (word === 'qos') {
      const range = /^([012])(?:-([012]))?$/.exec(words[++at] ?? '')
      if (range === null) throw new RuleError(`qos is 0, 1, 2 or a range such as 0-1: ${text}`)
      qosMin = Number(range[1]) as QoS
      qosMax = Number(range[2] ?? range[1]) as QoS
    } else throw new RuleError(`unknown word '${word}': ${text}`)
  }
  if (qosMin > qosMax) throw new RuleError(`qos ${qosMin}-${qosMax} is empty: ${text}`)
  return { qosMin, qosMax, retain }
}
