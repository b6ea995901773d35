/** HOT. Interns Topic Names: the same name yields the same Topic. */
import { malformed } from './field.ts'
import { Topic } from './message.ts'
import { checkTopicName } from './topics.ts'
import { stringError } from './utf8.ts'

/** Topics that a set of the table keeps; it remembers as many names that were seen once. */
const KEPT = 8
const WAYS = 2 * KEPT
/** Sets of a new table, which doubles up to its limit. */
const SETS_FIRST = 8
/**
 * Names of more bytes than this are counted. When they take more than this many bytes for each topic of the
 * table's limit, all of them are dropped.
 */
const LONG_BYTES = 256

/**
 * Finds topics by the bytes of their names, so that a name is checked, made a string and routed once
 * instead of with each PUBLISH.
 *
 * The hash of a name leads to one set of tags, side by side in memory: half of them stand for kept topics,
 * the others for names that were only seen. A name is kept at once while its set has room. In a full set it
 * has to come again while it is remembered, and then replaces another. So a million topics neither grow the
 * memory nor push out those in use: a name that comes once leaves four bytes.
 */
export class TopicInterner {
  readonly #setsMax: number
  readonly #longBytesMax: number
  /** Hashes, WAYS for each set: first those of kept topics, then those of names that were seen. 0 is free. */
  #tags: Int32Array
  /** Kept topics, KEPT for each set. */
  #topics: (Topic | null)[]
  #size = 0
  #bytes = 0
  #longBytes = 0
  /** Index in a set of the next topic to replace. */
  #turn = 0
  /** Position at which `visit` continues. */
  #visited = 0

  /** Keeps up to `entriesMax` topics, rounded down to a power of two, at least 8. */
  constructor(entriesMax: number) {
    this.#setsMax = 2 ** Math.floor(Math.log2(Math.max(1, entriesMax / KEPT)))
    this.#longBytesMax = entriesMax * LONG_BYTES
    const sets = Math.min(SETS_FIRST, this.#setsMax)
    this.#tags = new Int32Array(sets * WAYS)
    this.#topics = new Array<Topic | null>(sets * KEPT).fill(null)
  }

  /** Drops all topics; those in use elsewhere stay valid. */
  clear(): void {
    const sets = Math.min(SETS_FIRST, this.#setsMax)
    this.#tags = new Int32Array(sets * WAYS)
    this.#topics = new Array<Topic | null>(sets * KEPT).fill(null)
    this.#size = 0
    this.#bytes = 0
    this.#longBytes = 0
    this.#visited = 0
  }

  /** Number of kept topics. */
  get size(): number {
    return this.#size
  }

  /** Bytes of the names of all kept topics. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * Returns the topic with the UTF-8 name `buffer[start..end)`; copies its bytes. Throws ProtocolError:
   * 0x81 for ill-formed UTF-8 or U+0000, 0x90 for a wildcard or an empty name.
   */
  resolve(buffer: Buffer, start: number, end: number): Topic {
    const tag = hash(buffer, start, end)
    const tags = this.#tags
    const set = tag & (tags.length / WAYS - 1)
    const first = set * WAYS
    for (let way = 0; way < KEPT; way++) {
      if (tags[first + way] !== tag) continue
      const topic = this.#topics[set * KEPT + way]!
      if (topic.isNamed(buffer, start, end)) return topic
    }
    return this.#make(tag, buffer, start, end)
  }

  /** Returns the topic of a name that the Server itself uses. Throws ProtocolError as `resolve` does. */
  intern(name: string): Topic {
    if (stringError(name) !== null) throw malformed('MQTT-1.5.4-1', `the topic name ${stringError(name)}`)
    const bytes = Buffer.from(name, 'utf8')
    return this.resolve(bytes, 0, bytes.length)
  }

  /** Calls `look` for each topic kept in the next `places`; repeated calls visit all of them in turn. */
  visit(places: number, look: (topic: Topic) => void): void {
    const topics = this.#topics
    for (let step = Math.min(places, topics.length); step > 0; step--) {
      if (this.#visited >= topics.length) this.#visited = 0
      const topic = topics[this.#visited++]!
      if (topic !== null) look(topic)
    }
  }

  #make(tag: number, buffer: Buffer, start: number, end: number): Topic {
    checkTopicName(buffer, start, end)
    const latin1 = buffer.toString('latin1', start, end)
    const topic = new Topic(isAscii(latin1) ? latin1 : buffer.toString('utf8', start, end), end - start)
    while (!this.#keepIfRoom(tag, topic)) {
      if (this.#tags.length / WAYS === this.#setsMax) {
        this.#remember(tag, topic)
        break
      }
      this.#grow()
    }
    return topic
  }

  /** Keeps the topic unless its set is full; false if it is. */
  #keepIfRoom(tag: number, topic: Topic): boolean {
    const set = tag & (this.#tags.length / WAYS - 1)
    for (let way = 0; way < KEPT; way++) {
      if (this.#tags[set * WAYS + way] !== 0) continue
      this.#keep(set, way, tag, topic)
      return true
    }
    return false
  }

  /**
   * Keeps the topic if its name was seen before, and remembers the name that it replaces; else remembers
   * its name.
   */
  #remember(tag: number, topic: Topic): void {
    const tags = this.#tags
    const set = tag & (tags.length / WAYS - 1)
    const first = set * WAYS
    this.#turn = (this.#turn + 1) % KEPT
    for (let way = KEPT; way < WAYS; way++) {
      if (tags[first + way] !== tag) continue
      tags[first + way] = tags[first + this.#turn]!
      this.#drop(set, this.#turn)
      this.#keep(set, this.#turn, tag, topic)
      return
    }
    tags[first + KEPT + this.#turn] = tag
  }

  #keep(set: number, way: number, tag: number, topic: Topic): void {
    const isLong = topic.byteLength > LONG_BYTES
    if (isLong && this.#longBytes + topic.byteLength > this.#longBytesMax) this.#dropLong()
    this.#tags[set * WAYS + way] = tag
    this.#topics[set * KEPT + way] = topic
    this.#size++
    this.#bytes += topic.byteLength
    if (isLong) this.#longBytes += topic.byteLength
  }

  #drop(set: number, way: number): void {
    const { byteLength } = this.#topics[set * KEPT + way]!
    this.#tags[set * WAYS + way] = 0
    this.#topics[set * KEPT + way] = null
    this.#size--
    this.#bytes -= byteLength
    if (byteLength > LONG_BYTES) this.#longBytes -= byteLength
  }

  /** Drops all long names. Looks at every topic, but only once per `#longBytesMax` bytes of new ones. */
  #dropLong(): void {
    for (let at = 0; at < this.#topics.length; at++) {
      const topic = this.#topics[at]
      if (topic !== null && topic!.byteLength > LONG_BYTES) this.#drop(Math.floor(at / KEPT), at % KEPT)
    }
  }

  /**
   * Doubles the table: each set becomes two, which have room for its topics. Names that were only seen are
   * forgotten.
   */
  #grow(): void {
    const tags = this.#tags
    const topics = this.#topics
    this.#tags = new Int32Array(tags.length * 2)
    this.#topics = new Array<Topic | null>(topics.length * 2).fill(null)
    this.#size = 0
    this.#bytes = 0
    this.#longBytes = 0
    for (let at = 0; at < topics.length; at++) {
      const topic = topics[at]!
      if (topic !== null) this.#keepIfRoom(tags[Math.floor(at / KEPT) * WAYS + (at % KEPT)]!, topic)
    }
  }
}

/** Hashes bytes, four at a time; never 0. */
function hash(buffer: Buffer, start: number, end: number): number {
  let mixed = end - start
  let at = start
  for (; at + 3 < end; at += 4) {
    const four = buffer[at]! | (buffer[at + 1]! << 8) | (buffer[at + 2]! << 16) | (buffer[at + 3]! << 24)
    mixed = Math.imul(mixed ^ four, 0x85ebca6b)
    mixed ^= mixed >>> 15
  }
  for (; at < end; at++) mixed = Math.imul(mixed ^ buffer[at]!, 0x01000193)
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0xc2b2ae35)
  mixed ^= mixed >>> 13
  return mixed === 0 ? 1 : mixed
}

function isAscii(latin1: string): boolean {
  for (let at = 0; at < latin1.length; at++) if (latin1.charCodeAt(at) >= 0x80) return false
  return true
}
