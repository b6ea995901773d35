/** PURE. The key of a message, by the rule of its queue. */
import type { Message } from '../mqtt/message.ts'
import { decodeForwardedProperties } from '../mqtt/properties/forwarded.ts'
import { parseKey } from './properties.ts'

/**
 * Returns the function for a property `key`. Where a message lacks the level or property, its topic is the
 * key.
 */
export function keyOf(text: string): (message: Message) => string {
  const rule = parseKey(text) ?? { by: 'topic' }
  switch (rule.by) {
    case 'topic':
      return ({ topic }) => topic.name
    case 'publisher':
      return ({ publisher }) => publisher
    case 'level': {
      const { level } = rule
      return ({ topic }) => topic.name.split('/', level)[level - 1] ?? topic.name
    }
    case 'property': {
      const { name } = rule
      return (message) => userProperty(message, name) ?? message.topic.name
    }
  }
}

/** Returns the value of a User Property; if there are several of this name, of the last one. */
function userProperty({ properties }: Message, name: string): string | undefined {
  if (properties.length === 0) return undefined
  return decodeForwardedProperties(properties).userProperties?.findLast(([one]) => one === name)?.[1]
}
