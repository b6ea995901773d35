/**
 * HOT: `match`. Holds leaves by topic filter and finds those whose filters match a topic name.
 *
 * Filters have the same shape when they have the same number of levels and the same wildcards in the same
 * places. There are few shapes. At most one filter of each shape matches a topic, and its hash is that of
 * the topic's levels without those under a `+`. So a topic costs one look into a hash table for each shape,
 * however many filters there are. In a tree it would cost one look for each level, in memory that has left
 * the caches (5 levels, a million filters: 3 us against 0.5). Filters without a wildcard have shapes, too. A
 * leaf that does not fit, because there are too many shapes or an attacker made hashes collide, goes into a
 * tree.
 */
import { CHARACTER_BITS, type Meter } from '../mqtt/meter.ts'
import { filterMatches, HASH, isDollarTopic, PLUS, SLASH } from './filter.ts'
import { Branch, type Child, LevelTree } from './level-tree.ts'

/** Shapes in the table. Further shapes, and filters with more than LEVELS_MAX levels, go into the tree. */
const SHAPES_MAX = 32
const LEVELS_MAX = 24

/** The first bits of a hash choose a part of the table, since doubling one part does not take long. */
const PARTS_BITS = 8
const SLOTS_FIRST = 8
/**
 * No leaf is further than this from the slot that its hash points to. In a table that is at most half full,
 * only an attack needs more.
 */
const STEPS_MAX = 128

// FNV-1a over UTF-16 units for a level.
const SEED = 0x811c9dc5
const PRIME = 0x01000193
const MIXER = 0x85ebca6b

interface Filtered {
  /** Not a shared filter; it never changes. */
  readonly filter: string
}

interface Shape {
  /** Levels before `#`, or all. */
  readonly levels: number
  /** Bit n means a `+` at level n. */
  readonly plus: number
  /** The last level is a `#`. */
  readonly hash: boolean
  /** Filters of this shape in the table. */
  count: number
}

/**
 * A match that may take several steps: 2^n filters over `a` and `+` may all match one topic name. Filters
 * may come and go between the steps; a filter that is there all the while is found.
 */
export interface Matching<L extends Filtered> {
  readonly topic: string
  /** Matches so far. */
  readonly found: L[]
  /** Nodes of the tree still to visit, and the level of each. */
  readonly open: Child<L>[]
  readonly depths: number[]
  readonly levels: readonly string[]
}

/** Units for a look at one shape, and at one node of the tree, besides those for their characters. */
const SHAPE_UNITS = 1
const NODE_UNITS = 4

/** Open addressing: hashes side by side, so that a look for an absent filter touches one cache line. */
interface Part<L> {
  /** 0 is free. */
  hashes: Int32Array
  leaves: (L | null)[]
  count: number
}

export class FilterSet<L extends Filtered> {
  readonly #parts: (Part<L> | null)[] = new Array(1 << PARTS_BITS).fill(null)
  readonly #shapes: Shape[] = []
  readonly #shapesMax: number
  readonly #rest = new LevelTree<L>(filterOf)
  #count = 0
  /** The latest filter or topic name: hashes of its levels, their number, and its shape. */
  readonly #levels = new Int32Array(LEVELS_MAX)
  #levelCount = 0
  #plus = 0
  #hash = false
  /** The filter that these belong to, and its hash. */
  #filter = ''
  #filterHash = 0
  readonly #meter: Meter
  /** Scratch memory for the tree, empty between calls. */
  readonly #open: Child<L>[] = []
  readonly #depths: number[] = []

  /** Leaves shapes beyond `shapesMax` to the tree. */
  constructor(shapesMax = SHAPES_MAX, meter: Meter = { units: 0 }) {
    this.#shapesMax = shapesMax
    this.#meter = meter
  }

  /** Nodes in the tree: a match visits no more than these. */
  get treeSize(): number {
    return this.#rest.nodeCount
  }

  /** Entries in table and tree: 0 when it is empty. */
  get nodeCount(): number {
    return this.#count + this.#rest.nodeCount
  }

  get(filter: string): L | undefined {
    this.#prepare(filter)
    const part = this.#partOf(this.#filterHash)
    const at = part === null ? -1 : position(part, this.#filterHash, filter)
    if (at !== -1) return part!.leaves[at]!
    return this.#rest.nodeCount === 0 ? undefined : this.#rest.get(filter)
  }

  /** Adds a leaf in place of the one with the same filter. */
  set(leaf: L): void {
    const { filter } = leaf
    this.#prepare(filter)
    const hash = this.#filterHash
    const part = this.#partOf(hash)
    const at = part === null ? -1 : position(part, hash, filter)
    if (at !== -1) part!.leaves[at] = leaf
    else if (this.#rest.nodeCount > 0 && this.#rest.get(filter) !== undefined) this.#rest.set(leaf)
    else this.#add(hash, leaf)
  }

  /** Removes the leaf with this filter, if there is one. */
  delete(filter: string): void {
    this.#prepare(filter)
    const part = this.#partOf(this.#filterHash)
    const at = part === null ? -1 : position(part, this.#filterHash, filter)
    if (at === -1) {
      this.#rest.delete(filter)
      return
    }
    removeAt(part!, at)
    this.#uncount(this.#shape()!)
    if (part!.count === 0) this.#parts[partIndex(this.#filterHash)] = null
    else if (part!.count * 8 < part!.hashes.length) this.#resize(part!, part!.hashes.length / 2)
  }

  /** Adds all leaves whose filters match the topic name to `found`, which is empty. */
  match(topic: string, found: L[]): void {
    this.#matchShapes(topic, found)
    if (this.#rest.nodeCount === 0) return
    const { root } = this.#rest
    const [open, depths] = [this.#open, this.#depths]
    open.push(root)
    depths.push(0)
    this.#matchRest({ topic, found, open, depths, levels: topic.split('/') }, Number.POSITIVE_INFINITY)
  }

  /** Begins a match that `continue` finishes. */
  begin(topic: string): Matching<L> {
    const found: L[] = []
    this.#matchShapes(topic, found)
    return { topic, found, open: [this.#rest.root], depths: [0], levels: topic.split('/') }
  }

  /** Continues until the meter reaches `until`. True when the match is complete. */
  continue(matching: Matching<L>, until: number): boolean {
    return this.#matchRest(matching, until)
  }

  #matchShapes(topic: string, found: L[]): void {
    const shapes = this.#shapes
    this.#meter.units += shapes.length * SHAPE_UNITS + (topic.length >>> CHARACTER_BITS)
    if (shapes.length > 0) {
      this.#hashLevels(topic)
      const isDollar = isDollarTopic(topic)
      const count = this.#levelCount
      for (let index = 0; index < shapes.length; index++) {
        const { levels, plus, hash } = shapes[index]!
        if (hash ? count < levels : count !== levels) continue
        if (isDollar && ((plus & 1) !== 0 || levels === 0)) continue // [MQTT-4.7.2-1]
        this.#probe(this.#hashOf(levels, plus, hash), topic, found)
      }
    }
  }

  #probe(hash: number, topic: string, found: L[]): void {
    const part = this.#partOf(hash)
    if (part === null) return
    const { hashes, leaves } = part
    const mask = hashes.length - 1
    for (let step = 0, at = hash & mask; step < STEPS_MAX; step++, at = (at + 1) & mask) {
      const there = hashes[at]
      if (there === 0) return
      if (there !== hash) continue
      const leaf = leaves[at]!
      // A filter of another shape may have the same hash by chance. Its own shape finds it, too.
      if ((leaf.filter === topic || filterMatches(leaf.filter, topic)) && !found.includes(leaf))
        found.push(leaf)
    }
  }

  #add(hash: number, leaf: L): void {
    if (this.#shape() === undefined && !this.#takesNewShape()) {
      this.#rest.set(leaf)
      return
    }
    const part = this.#partWithRoom(hash)
    // Only now that there is room: a leaf that left while the part grew may have been the last of its shape.
    this.#prepare(leaf.filter)
    const shape = this.#shape() ?? this.#newShape()
    shape.count++
    this.#count++
    if (!insert(part, hash, leaf)) this.#moveToTree(shape, leaf)
  }

  #takesNewShape(): boolean {
    return this.#levelCount <= LEVELS_MAX && this.#shapes.length < this.#shapesMax
  }

  /** Adds the shape of the latest filter, which no filter in the table has yet. */
  #newShape(): Shape {
    const shape = { levels: this.#levelCount, plus: this.#plus, hash: this.#hash, count: 0 }
    this.#shapes.push(shape)
    return shape
  }

  /** Returns the part for a hash, with room for one more at half full. */
  #partWithRoom(hash: number): Part<L> {
    const index = partIndex(hash)
    const part = this.#parts[index] ?? emptyPart<L>(SLOTS_FIRST)
    this.#parts[index] = part
    if ((part.count + 1) * 2 > part.hashes.length) this.#resize(part, part.hashes.length * 2)
    return part
  }

  #moveToTree(shape: Shape, leaf: L): void {
    this.#uncount(shape)
    this.#rest.set(leaf)
  }

  #uncount(shape: Shape): void {
    this.#count--
    shape.count--
    if (shape.count === 0) this.#shapes.splice(this.#shapes.indexOf(shape), 1)
  }

  #resize(part: Part<L>, slots: number): void {
    const { hashes, leaves } = part
    const resized = emptyPart<L>(slots)
    for (let at = 0; at < hashes.length; at++) {
      const leaf = leaves[at]!
      if (leaf === null || insert(resized, hashes[at]!, leaf)) continue
      this.#hashFilter(leaf.filter)
      this.#moveToTree(this.#shape()!, leaf)
    }
    part.hashes = resized.hashes
    part.leaves = resized.leaves
    part.count = resized.count
  }

  #partOf(hash: number): Part<L> | null {
    return this.#parts[partIndex(hash)]!
  }

  /** Finds the shape of the latest filter. */
  #shape(): Shape | undefined {
    for (const shape of this.#shapes) {
      if (shape.levels === this.#levelCount && shape.plus === this.#plus && shape.hash === this.#hash)
        return shape
    }
    return undefined
  }

  /** Hashes a filter unless it is the latest, as it usually is. */
  #prepare(filter: string): void {
    if (this.#filter !== filter) this.#hashFilter(filter)
  }

  #hashFilter(filter: string): void {
    this.#meter.units += 1 + (filter.length >>> (CHARACTER_BITS - 1))
    this.#hashLevels(filter)
    this.#filter = filter
    this.#hash = false
    this.#plus = 0
    let level = 0
    for (let at = 0; at < filter.length; at++) {
      const char = filter.charCodeAt(at)
      if (char === SLASH) level++
      else if (char === PLUS) this.#plus |= 1 << level
      else if (char === HASH) this.#hash = true
    }
    if (this.#hash) this.#levelCount--
    const levels = Math.min(this.#levelCount, LEVELS_MAX)
    this.#filterHash = this.#hashOf(levels, this.#plus, this.#hash)
  }

  /** Hashes the first levels and counts all levels. */
  #hashLevels(name: string): void {
    const levels = this.#levels
    let count = 0
    let level = SEED
    for (let at = 0; at < name.length; at++) {
      const char = name.charCodeAt(at)
      if (char !== SLASH) {
        level = Math.imul(level ^ char, PRIME)
        continue
      }
      if (count < LEVELS_MAX) levels[count] = level
      count++
      level = SEED
    }
    if (count < LEVELS_MAX) levels[count] = level
    this.#levelCount = count + 1
    this.#filter = ''
  }

  /** Computes the hash of a filter of this shape with the latest levels. Never 0. */
  #hashOf(count: number, plus: number, hash: boolean): number {
    const levels = this.#levels
    let mixed = Math.imul((count << 1) | (hash ? 1 : 0), SEED) ^ plus
    for (let level = 0; level < count; level++) {
      if ((plus & (1 << level)) !== 0) continue
      mixed = Math.imul(mixed ^ levels[level]!, MIXER)
      mixed ^= mixed >>> 15
    }
    mixed = Math.imul(mixed, MIXER)
    mixed ^= mixed >>> 13
    return mixed === 0 ? 1 : mixed
  }

  /** Visits the tree without recursion: a filter may have as many levels as bytes. */
  #matchRest({ topic, found, open, depths, levels }: Matching<L>, until: number): boolean {
    const meter = this.#meter
    const noLeadingWildcard = isDollarTopic(topic) // [MQTT-4.7.2-1]
    while (open.length > 0) {
      if (meter.units >= until) return false
      const node = open.pop()!
      const depth = depths.pop()!
      meter.units += NODE_UNITS
      if (!(node instanceof Branch)) {
        meter.units += Math.min(node.filter.length, topic.length) >>> CHARACTER_BITS
        if (filterMatches(node.filter, topic)) found.push(node)
        continue
      }
      const isClosed = depth === 0 && noLeadingWildcard
      meter.units += node.path.length >>> CHARACTER_BITS
      const at = depth + pathLevels(node.path, levels, depth)
      if (at < depth) continue
      if (node.hash !== null && !isClosed) found.push(node.hash)
      if (at === levels.length) {
        if (node.end !== null) found.push(node.end)
        continue
      }
      const literal: Child<L> | null = node.literal(levels[at]!)
      if (literal !== null) {
        open.push(literal)
        depths.push(at + 1)
      }
      if (node.plus !== null && !isClosed) {
        open.push(node.plus)
        depths.push(at + 1)
      }
    }
    return true
  }
}

/** Counts the levels of a branch's path if those of the topic match them from `depth` on; else below zero. */
function pathLevels(path: string, levels: readonly string[], depth: number): number {
  let count = 0
  for (let at = 0; at < path.length; count++) {
    const level = levels[depth + count]
    if (level === undefined) return -1
    const from = at + 1
    const isPlus = path.charCodeAt(from) === PLUS
    if (!isPlus && !path.startsWith(level, from)) return -1
    at = from + (isPlus ? 1 : level.length)
    if (at < path.length && path.charCodeAt(at) !== SLASH) return -1
  }
  return count
}

function filterOf<L extends Filtered>(leaf: L): string {
  return leaf.filter
}

function partIndex(hash: number): number {
  return hash >>> (32 - PARTS_BITS)
}

function emptyPart<L>(slots: number): Part<L> {
  return { hashes: new Int32Array(slots), leaves: new Array<L | null>(slots).fill(null), count: 0 }
}

/** Finds the slot of the leaf with this filter; -1 when there is none. */
function position<L extends Filtered>({ hashes, leaves }: Part<L>, hash: number, filter: string): number {
  const mask = hashes.length - 1
  for (let step = 0, at = hash & mask; step < STEPS_MAX; step++, at = (at + 1) & mask) {
    const there = hashes[at]
    if (there === 0) return -1
    if (there === hash && leaves[at]!.filter === filter) return at
  }
  return -1
}

/** Inserts a new leaf into a part that is at most half full. False when its slot would be too far away. */
function insert<L>(part: Part<L>, hash: number, leaf: L): boolean {
  const { hashes, leaves } = part
  const mask = hashes.length - 1
  for (let step = 0, at = hash & mask; step < STEPS_MAX; step++, at = (at + 1) & mask) {
    if (hashes[at] !== 0) continue
    hashes[at] = hash
    leaves[at] = leaf
    part.count++
    return true
  }
  return false
}

/**
 * Removes a leaf; those after it move up, so that no mark has to stay. A leaf at STEPS_MAX from the hole
 * cannot belong there: removing one of very many neighbours must not visit all of them.
 */
function removeAt<L>(part: Part<L>, from: number): void {
  const { hashes, leaves } = part
  const mask = hashes.length - 1
  let hole = from
  for (
    let at = (from + 1) & mask;
    hashes[at] !== 0 && ((at - hole) & mask) < STEPS_MAX;
    at = (at + 1) & mask
  ) {
    if (((at - hashes[at]!) & mask) < ((at - hole) & mask)) continue
    hashes[hole] = hashes[at]!
    leaves[hole] = leaves[at]!
    hole = at
  }
  hashes[hole] = 0
  leaves[hole] = null
  part.count--
}
