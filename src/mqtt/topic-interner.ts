/** HOT. Interns Topic Names. */
import { malformed } from './field.ts'
import { Topic } from './message.ts'
import { checkTopicName } from './topics.ts'
import { stringError } from './utf8.ts'

/** A set of the table keeps so many topics, and remembers as many names that came once. */
const KEPT = 8
const WAYS = 2 * KEPT
/** Sets that a table begins with; it doubles until it has as many as it may. */
const SETS_FIRST = 8
/** Names beyond this, in bytes, are counted; more of them than as much for each topic are let go of at once. */
const LONG_BYTES = 256

/**
 * Topic names by their bytes, so that a name is checked, made a string and routed once and not once per PUBLISH.
 *
 * The hash of a name leads to one set of tags, which lie side by side: half of them stand for topics that are kept, the
 * others for names that came and were not. A name is kept at once where there is room; where there is none it has to come
 * twice while it is remembered, and takes the place of another. So a million topics neither grow the memory nor push out
 * those that are used: what comes once leaves four bytes.
 */
export class TopicInterner {
  readonly #setsMax: number
  readonly #longBytesMax: number
  /** Hashes, WAYS for each set: first of what is kept, then of what came. 0 is nothing. */
  #tags: Int32Array
  /** KEPT for each set. */
  #topics: (Topic | null)[]
  #size = 0
  #bytes = 0
  #longBytes = 0
  /** Who has to go next, of those in a set. */
  #turn = 0
  /** Where `visit` goes on. */
  #visited = 0

  /** `entriesMax`: topics kept, rounded down to a power of two from 8 on. */
  constructor(entriesMax: number) {
    this.#setsMax = 2 ** Math.floor(Math.log2(Math.max(1, entriesMax / KEPT)))
    this.#longBytesMax = entriesMax * LONG_BYTES
    const sets = Math.min(SETS_FIRST, this.#setsMax)
    this.#tags = new Int32Array(sets * WAYS)
    this.#topics = new Array<Topic | null>(sets * KEPT).fill(null)
  }

  /** Lets go of everything. Whoever has a Topic keeps it. */
  clear(): void {
    const sets = Math.min(SETS_FIRST, this.#setsMax)
    this.#tags = new Int32Array(sets * WAYS)
    this.#topics = new Array<Topic | null>(sets * KEPT).fill(null)
    this.#size = 0
    this.#bytes = 0
    this.#longBytes = 0
    this.#visited = 0
  }

  /** Topics kept. */
  get size(): number {
    return this.#size
  }

  /** Bytes of the names of all topics kept. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * The topic whose UTF-8 name is `buffer[start..end)`; its bytes are copied. Throws ProtocolError: 0x81 for
   * ill-formed UTF-8 or U+0000, 0x90 for a wildcard or an empty name.
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

  /** The topic of a name that the Server itself uses. Throws ProtocolError as `resolve` does. */
  intern(name: string): Topic {
    if (stringError(name) !== null) throw malformed('MQTT-1.5.4-1', `the topic name ${stringError(name)}`)
    const bytes = Buffer.from(name, 'utf8')
    return this.resolve(bytes, 0, bytes.length)
  }

  /** Calls `look` for what is kept in the next `places`, at most each once; call after call it comes by all of them. */
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
    while (!this.#keepWhereRoomIs(tag, topic)) {
      if (this.#tags.length / WAYS === this.#setsMax) {
        this.#remember(tag, topic)
        break
      }
      this.#grow()
    }
    return topic
  }

  /** False when the set is full. */
  #keepWhereRoomIs(tag: number, topic: Topic): boolean {
    const set = tag & (this.#tags.length / WAYS - 1)
    for (let way = 0; way < KEPT; way++) {
      if (this.#tags[set * WAYS + way] !== 0) continue
      this.#keep(set, way, tag, topic)
      return true
    }
    return false
  }

  /** Keeps the topic when its name has come before; where it was remembered then stands the name of the one that goes. */
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

  /** A look at every topic, after as many bytes of long names as may be kept. */
  #dropLong(): void {
    for (let at = 0; at < this.#topics.length; at++) {
      const topic = this.#topics[at]
      if (topic !== null && topic!.byteLength > LONG_BYTES) this.#drop(Math.floor(at / KEPT), at % KEPT)
    }
  }

  /** Each set becomes two, so that all find room in theirs. What came is forgotten. */
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
      if (topic !== null) this.#keepWhereRoomIs(tags[Math.floor(at / KEPT) * WAYS + (at % KEPT)]!, topic)
    }
  }
}

/** Of the bytes, four at a time; never 0. */
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
