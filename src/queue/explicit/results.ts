/** PURE. The topic of a result, for a message that has no Response Topic. */
import { parseAddress } from '../../mqtt/server-topics.ts'
import { topicNameError } from '../../mqtt/topics.ts'

const PLACE = /\{([^{}]*)\}/g

const KNOWN = /^(?:topic|queue|[1-9])$/

/** Whether it is a topic name once its places are filled, and none that only the Server has a use for. */
export function isResultsTemplate(template: string): boolean {
  const places = [...template.matchAll(PLACE)].every(([, name = '']) => KNOWN.test(name))
  const example = template.replace(PLACE, 'x')
  if (!places || /[{}]/.test(example) || topicNameError(example) !== null) return false
  return !example.startsWith('$') || parseAddress(example)?.kind === 'queue'
}

/**
 * Fills the places of a template. `topic` is that of the message, null without one: then its places, as those
 * of levels that it does not have, are empty.
 */
export function resultTopic(template: string, queue: string, topic: string | null): string {
  const levels = topic === null ? [] : topic.split('/')
  return template.replace(PLACE, (_, name: string) => {
    if (name === 'queue') return queue
    return name === 'topic' ? (topic ?? '') : (levels[Number(name) - 1] ?? '')
  })
}
