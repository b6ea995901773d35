/**
 * Retained messages by topic name, and those that match a topic filter without a look at what cannot match.
 *
 * The tree holds topic names, not messages: a message that was evicted from memory has no readable topic.
 */
import type { Message } from '../mqtt/message.ts'
import { ChurnMap } from './churn-map.ts'
import { filterMatches, hasWildcard, isDollarTopic } from './filter.ts'
import { Branch, type Child, LevelTree } from './level-tree.ts'

/** Nodes that `match` passes without a result before it yields null. */
const STEPS_MAX = 256

export class RetainedTree {
  readonly #messages = new ChurnMap<string, Message>()
  readonly #topics = new LevelTree<string>(nameOf)
  #bytes = 0

  get count(): number {
    return this.#messages.size
  }

  /** The sizes of all messages: topic names, properties and payloads. */
  get bytes(): number {
    return this.#bytes
  }

  /** Entries in the map and the tree: 0 when nothing is retained. */
  get nodeCount(): number {
    return this.#messages.size + this.#topics.nodeCount
  }

  /** Keeps the message for its topic, in place of the previous one, which is returned. It must not be evicted yet. */
  set(message: Message): Message | null {
    const topic = message.topic.name
    const previous = this.#messages.get(topic)
    this.#messages.set(topic, message)
    this.#bytes += message.size
    if (previous === undefined) this.#topics.set(topic)
    else this.#bytes -= previous.size
    return previous ?? null
  }

  delete(topic: string): Message | null {
    const message = this.#messages.get(topic)
    if (message === undefined) return null
    this.#messages.delete(topic)
    this.#topics.delete(topic)
    this.#bytes -= message.size
    return message
  }

  get(topic: string): Message | undefined {
    return this.#messages.get(topic)
  }

  /** All messages; may go on while messages are set and deleted. */
  *[Symbol.iterator](): Generator<Message, void, undefined> {
    for (const [, message] of this.#messages.slots()) if (message !== null) yield message
  }

  /** False when surely no message matches the filter: a look at its first level, or at all of it without a wildcard. */
  mayMatch(filter: string): boolean {
    if (!hasWildcard(filter)) return this.#messages.get(filter) !== undefined
    const end = filter.indexOf('/')
    const level = end === -1 ? filter : filter.slice(0, end)
    return isWildcard(level) || this.#topics.root.literal(level) !== null
  }

  /**
   * The messages whose topic names match a filter (valid, not a shared one), in no order. Each step does bounded
   * work: null means "nothing yet, still looking". It may rest between steps for any time while messages are set
   * and deleted: a topic that is retained all the while comes exactly once, with its message of that moment; one
   * that is deleted before its turn does not come; one that is added, or added again, meanwhile may come.
   */
  *match(filter: string): Generator<Message | null, void, undefined> {
    if (!hasWildcard(filter)) {
      const message = this.#messages.get(filter)
      if (message !== undefined) yield message
      return
    }
    const levels = filter.split('/')
    // From this depth on everything matches, the level before it included.
    const all = levels.at(-1) === '#' ? levels.length - 1 : Number.POSITIVE_INFINITY
    const noDollar = isWildcard(levels[0]!)
    const rows: Row[] = []
    let row: Row | undefined = descend(this.#topics.root, levels[0]!)
    let steps = 0
    // The children in `row` have as many levels as there are rows below it, and one.
    while (row !== undefined) {
      const depth = rows.length + 1
      const next: IteratorResult<[string, Child<string> | null]> | null =
        row.left-- > 0 ? row.children.next() : null
      let topic: string | null = null
      if (next === null || next.done === true) {
        row = rows.pop()
      } else if (depth === 1 && noDollar && isDollarTopic(next.value[0])) {
        // Neither it nor what is below it [MQTT-4.7.2-1].
      } else {
        const child = next.value[1]
        if (child === null) {
          // Gone.
        } else if (!(child instanceof Branch)) {
          if (depth >= all || filterMatches(filter, child)) topic = child
        } else {
          if (depth >= all || depth === levels.length) topic = child.end
          if (depth >= all || depth < levels.length) {
            rows.push(row)
            row = descend(child, depth >= all ? '#' : levels[depth]!)
          }
        }
      }
      const message = topic === null ? undefined : this.#messages.get(topic)
      if (message !== undefined) {
        steps = 0
        yield message
      } else if (++steps === STEPS_MAX) {
        steps = 0
        yield null
      }
    }
  }
}

/** Children of one branch that are still to be visited. */
interface Row {
  readonly children: Iterator<[string, Child<string> | null]>
  /** Slots to look at: what was there from the start, but not for ever what is added meanwhile. */
  left: number
}

/** The children of a branch that a level of a filter leads to. */
function descend(branch: Branch<string>, level: string): Row {
  if (isWildcard(level)) return { children: branch.literals(), left: branch.literalSlots }
  const child = branch.literal(level)
  const found: [string, Child<string>][] = child === null ? [] : [[level, child]]
  return { children: found.values(), left: found.length }
}

function isWildcard(level: string): boolean {
  return level === '+' || level === '#'
}

function nameOf(topic: string): string {
  return topic
}
