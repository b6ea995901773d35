/**
 * Holds retained messages by topic name, and finds those that match a topic filter without visiting other
 * branches.
 *
 * The tree holds topic names, not messages: an evicted message has no readable topic.
 */
import type { Message } from '../mqtt/message.ts'
import { CHARACTER_BITS, type Meter } from '../mqtt/meter.ts'
import { ChurnMap } from '../structures/churn-map.ts'
import { HASH, hasWildcard, isDollarTopic, nextLevel, PLUS, restMatches } from './filter.ts'
import { Branch, type Child, LevelTree } from './level-tree.ts'

/** Units that `match` spends without a result before it yields null: a name or two of 64 KB. */
const STEP_UNITS = 256

/** The retained messages of a Server. */
export class RetainedTree {
  readonly #messages = new ChurnMap<string, Message>()
  readonly #topics = new LevelTree<string>(nameOf)
  readonly #meter: Meter
  #bytes = 0

  constructor(meter: Meter = { units: 0 }) {
    this.#meter = meter
  }

  get count(): number {
    return this.#messages.size
  }

  /** Bytes of all messages: topic names, properties and payloads. */
  get bytes(): number {
    return this.#bytes
  }

  /** Entries in the Map and the tree: 0 when nothing is retained. */
  get nodeCount(): number {
    return this.#messages.size + this.#topics.nodeCount
  }

  /** Sets the message of its topic and returns the previous one. The message must not be evicted yet. */
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

  /** Iterates all messages; may continue while messages are set and deleted. */
  *[Symbol.iterator](): Generator<Message, void, undefined> {
    for (const [, message] of this.#messages.slots()) if (message !== null) yield message
  }

  /** Tells cheaply whether a message may match: looks up the first level, or a filter without wildcards. */
  mayMatch(filter: string): boolean {
    if (!hasWildcard(filter)) return this.#messages.get(filter) !== undefined
    const end = filter.indexOf('/')
    const level = end === -1 ? filter : filter.slice(0, end)
    this.#meter.units += 1 + (filter.length >>> CHARACTER_BITS)
    return isWildcard(filter, 0) || this.#topics.root.literal(level) !== null
  }

  /**
   * Iterates the messages whose topic names match a filter (valid, not a shared one), in no order. Each
   * step does bounded work, which is counted; null means that a step found nothing. Messages may be set and
   * deleted between steps: a topic that is retained all the while comes exactly once, with its message of
   * that moment; one that is deleted before its turn does not come; one that is added meanwhile may come.
   */
  // biome-ignore lint/complexity/noExcessiveCognitiveComplexity: one loop that may rest at each step.
  *match(filter: string): Generator<Message | null, void, undefined> {
    if (!hasWildcard(filter)) {
      const message = this.#messages.get(filter)
      if (message !== undefined) yield message
      return
    }
    const meter = this.#meter
    const noDollar = isWildcard(filter, 0)
    const rows: Row[] = []
    let row: Row | undefined = descend(this.#topics.root, filter, 0, 0)
    let until = meter.units + STEP_UNITS
    while (row !== undefined) {
      const next: IteratorResult<[string, Child<string> | null]> | null =
        row.left-- > 0 ? row.children.next() : null
      let topic: string | null = null
      meter.units++
      if (next === null || next.done === true) {
        row = rows.pop()
      } else if (row.topicAt === 0 && noDollar && isDollarTopic(next.value[0])) {
        // A leading wildcard matches neither this level nor anything below it [MQTT-4.7.2-1].
      } else {
        const [level, child] = next.value
        // From here on everything matches, including the parent level.
        const isAll = filter.charCodeAt(row.filterAt) === HASH
        let filterAt: number = isAll ? row.filterAt : nextLevel(filter, row.filterAt)
        let topicAt: number = row.topicAt + level.length + 1
        if (child === null) {
          // The child was removed meanwhile.
        } else if (!(child instanceof Branch)) {
          if (!isAll) meter.units += Math.min(filter.length - row.filterAt, child.length) >>> CHARACTER_BITS
          // The levels before this one are known to match.
          if (isAll || restMatches(filter, row.filterAt, child, row.topicAt)) topic = child
        } else {
          const { path } = child
          if (path !== '') {
            meter.units += path.length >>> CHARACTER_BITS
            filterAt = afterPath(filter, filterAt, path)
            topicAt += path.length
          }
          if (filterAt !== NOWHERE) {
            const isEnd = filterAt > filter.length || filter.charCodeAt(filterAt) === HASH
            if (isEnd) topic = child.end
            if (filterAt <= filter.length) {
              rows.push(row)
              row = descend(child, filter, filterAt, topicAt)
              meter.units += level.length >>> CHARACTER_BITS
            }
          }
        }
      }
      const message = topic === null ? undefined : this.#messages.get(topic)
      if (message !== undefined) yield message
      else if (meter.units < until) continue
      else yield null
      until = meter.units + STEP_UNITS
    }
  }
}

/** Children of one branch that are still to be visited. */
interface Row {
  readonly children: Iterator<[string, Child<string> | null]>
  /** Slots still to visit: those from the start, so that added ones cannot prolong it for ever. */
  left: number
  /** Offsets of the level to compare these children with: in the filter, and in their own names. */
  readonly filterAt: number
  readonly topicAt: number
}

/** Selects the children of a branch for the level of the filter at `filterAt`. */
function descend(branch: Branch<string>, filter: string, filterAt: number, topicAt: number): Row {
  if (isWildcard(filter, filterAt))
    return { children: branch.literals(), left: branch.literalSlots, filterAt, topicAt }
  const level = filter.slice(filterAt, nextLevel(filter, filterAt) - 1)
  const child = branch.literal(level)
  const found: [string, Child<string>][] = child === null ? [] : [[level, child]]
  return { children: found.values(), left: found.length, filterAt, topicAt }
}

const NOWHERE = -1

/** Matches levels of a topic name, each after a slash; returns the next offset in the filter, or NOWHERE. */
function afterPath(filter: string, filterAt: number, path: string): number {
  let at = filterAt
  for (let index = 0; index < path.length; ) {
    if (at > filter.length) return NOWHERE
    if (filter.charCodeAt(at) === HASH) return at
    const slash = path.indexOf('/', index + 1)
    const end = slash === -1 ? path.length : slash
    const next = nextLevel(filter, at)
    const isPlus = filter.charCodeAt(at) === PLUS
    if (
      !isPlus &&
      !(next - 1 - at === end - index - 1 && path.startsWith(filter.slice(at, next - 1), index + 1))
    )
      return NOWHERE
    at = next
    index = end
  }
  return at
}

/** Tells whether the level that begins at `at` is a wildcard. */
function isWildcard(filter: string, at: number): boolean {
  const char = filter.charCodeAt(at)
  return char === PLUS || char === HASH
}

function nameOf(topic: string): string {
  return topic
}
