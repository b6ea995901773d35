/** HOT, PURE. How urgent a message is, and the lane that it goes to. */
import type { Message } from '../../mqtt/message.ts'
import { PropertyReader } from '../../mqtt/properties/reader.ts'
import { PropertyId, PropertyPlace } from '../../mqtt/properties/table.ts'
import { filterMatches } from '../../routing/filter.ts'

/** The highest priority. The lowest is 0. */
export const PRIORITY_MAX = 9

/** The priority of a message for which nothing says otherwise. */
export const DEFAULT_PRIORITY = 4

/** The priority of messages whose topics match. */
export interface PriorityRule {
  readonly filter: string
  readonly priority: number
}

const NAME = 'priority'
const NAME_BYTES = Buffer.from(NAME)
const FORM = /^[0-9]$/

/**
 * Returns the priority of a message, from 0 to 9: its User Property `priority`, of which the last one counts;
 * or that of the first rule that fits its topic, if it has none or one of another form.
 */
export function priorityOf({ topic, properties }: Message, rules: readonly PriorityRule[]): number {
  return ownPriority(properties) ?? rulePriority(topic.name, rules) ?? DEFAULT_PRIORITY
}

/** Returns the lane for a priority. Higher lanes are served first. */
export function laneOf(priority: number, lanes: number): number {
  return lanes === 1 ? 0 : Math.floor((priority * lanes) / (PRIORITY_MAX + 1))
}

function ownPriority(properties: Buffer): number | null {
  // A search costs less than reading all properties.
  if (properties.length === 0 || !properties.includes(NAME_BYTES)) return null
  let found: number | null = null
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    if (reader.id !== PropertyId.UserProperty || reader.text !== NAME) continue
    const [, value] = reader.pair
    found = FORM.test(value) ? Number(value) : null
  }
  return found
}

/** Only the filter of everything matches a message without a topic. */
function rulePriority(topic: string, rules: readonly PriorityRule[]): number | undefined {
  const fits = ({ filter }: PriorityRule) => (topic === '' ? filter === '#' : filterMatches(filter, topic))
  return rules.find(fits)?.priority
}
