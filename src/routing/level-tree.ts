/**
 * A tree of topic levels, for filters and for topic names. A leaf hangs at the first level where its name
 * differs from all others, so that a name that shares nothing needs no branch, however many levels it has.
 * The levels that all names of a branch have in common are one string: two names that differ only in their
 * last level need one branch.
 *
 * A walk through the tree may pause: a branch stays in its position. Its contents move down into a new
 * branch when a name is added that shares less of its path.
 */

import { ChurnMap } from '../structures/churn-map.ts'
import { SLASH } from './filter.ts'

/** A branch, or a leaf for the only name in this position. A leaf is never a Branch itself. */
export type Child<L extends NonNullable<unknown>> = Branch<L> | L

/** All names that have the levels down to here in common: at least two, except at the root. */
export class Branch<L extends NonNullable<unknown>> {
  /**
   * Further levels that all names below have in common, each after a slash. May contain `+`, as filters do.
   */
  path = ''
  /** The name that ends here. */
  end: L | null = null
  /** Names whose next level is `+`. */
  plus: Child<L> | null = null
  /** The name whose next, and last, level is `#`. */
  hash: L | null = null
  // One literal child is held without a Map: most branches of a deep tree have no more.
  #onlyLevel = ''
  #only: Child<L> | null = null
  #children: ChurnMap<string, Child<L>> | null = null

  /** Number of slots that `literals` iterates. */
  get literalSlots(): number {
    return this.#children?.slotCount ?? (this.#only === null ? 0 : 1)
  }

  /** Returns the child for a literal level. */
  literal(level: string): Child<L> | null {
    if (this.#children !== null) return this.#children.get(level) ?? null
    return this.#only !== null && this.#onlyLevel === level ? this.#only : null
  }

  /**
   * Iterates the literal children with their levels; null for an empty slot. It may continue while the tree
   * changes: within the first `literalSlots`, a child that is there all the while comes once.
   */
  literals(): Iterator<[string, Child<L> | null]> {
    if (this.#children !== null) return this.#children.slots()
    const alone: [string, Child<L>][] = this.#only === null ? [] : [[this.#onlyLevel, this.#only]]
    return alone.values()
  }

  /** Returns the child for a level of a name; the level null means that the name ends here. */
  get(level: string | null): Child<L> | null {
    if (level === null) return this.end
    if (level === '+') return this.plus
    if (level === '#') return this.hash
    return this.literal(level)
  }

  /** Sets the child for a level. A Branch is never set for null and `#`. */
  set(level: string | null, child: Child<L>): void {
    if (level === null) this.end = child as L
    else if (level === '+') this.plus = child
    else if (level === '#') this.hash = child as L
    else if (this.#children !== null) this.#children.set(own(level), child)
    else if (this.#only !== null && this.#onlyLevel === level) this.#only = child
    else if (this.#only === null) {
      this.#onlyLevel = own(level)
      this.#only = child
    } else {
      this.#children = new ChurnMap()
      this.#children.set(this.#onlyLevel, this.#only)
      this.#children.set(own(level), child)
      this.#only = null
    }
  }

  remove(level: string | null): void {
    if (level === null) this.end = null
    else if (level === '+') this.plus = null
    else if (level === '#') this.hash = null
    // The Map stays as long as the branch, so that running iterators see the rest.
    else if (this.#children !== null) this.#children.delete(level)
    else this.#only = null
  }

  /**
   * Moves its contents into a branch below the first `common` characters of its path, which become the
   * whole path.
   */
  split(common: number): void {
    const { path } = this
    const lower = new Branch<L>()
    const next = path.indexOf('/', common + 1)
    const level = own(next === -1 ? path.slice(common + 1) : path.slice(common + 1, next))
    lower.path = next === -1 ? '' : own(path.slice(next))
    lower.end = this.end
    lower.plus = this.plus
    lower.hash = this.hash
    lower.#onlyLevel = this.#onlyLevel
    lower.#only = this.#only
    lower.#children = this.#children
    this.path = own(path.slice(0, common))
    this.end = null
    this.plus = null
    this.hash = null
    this.#only = null
    this.#children = null
    this.set(level, lower)
  }

  /** Returns the only child; null when it is empty, undefined when there are several. */
  sole(): Child<L> | null | undefined {
    const literals = this.#children?.size ?? (this.#only === null ? 0 : 1)
    const others = Number(this.end !== null) + Number(this.plus !== null) + Number(this.hash !== null)
    if (literals + others > 1) return undefined
    if (literals === 0) return this.end ?? this.plus ?? this.hash
    if (this.#children === null) return this.#only
    for (const [, child] of this.#children.slots()) if (child !== null) return child
    return null
  }
}

export class LevelTree<L extends NonNullable<unknown>> {
  readonly root = new Branch<L>()
  readonly #nameOf: (leaf: L) => string
  #leaves = 0
  #branches = 0

  /** Takes the function that names a leaf; the name of a leaf in the tree must not change. */
  constructor(nameOf: (leaf: L) => string) {
    this.#nameOf = nameOf
  }

  /** Leaves and branches without the root: 0 when the tree is empty. */
  get nodeCount(): number {
    return this.#leaves + this.#branches
  }

  get(name: string): L | undefined {
    let branch = this.root
    let at = 0
    for (;;) {
      const level = levelAt(name, at)
      const child = branch.get(level)
      if (child === null) return undefined
      if (!(child instanceof Branch)) return this.#nameOf(child) === name ? child : undefined
      branch = child
      at += level!.length + 1
      if (commonPath(branch.path, name, at) < branch.path.length) return undefined
      at += branch.path.length
    }
  }

  /** Adds a leaf in place of the one with the same name. */
  set(leaf: L): void {
    const name = this.#nameOf(leaf)
    let branch = this.root
    let at = 0
    for (;;) {
      const level = levelAt(name, at)
      const child = branch.get(level)
      if (child instanceof Branch) {
        branch = child
        at += level!.length + 1
        const common = commonPath(branch.path, name, at)
        if (common < branch.path.length) {
          branch.split(common)
          this.#branches++
        }
        at += common
      } else if (child === null) {
        branch.set(level, leaf)
        this.#leaves++
        return
      } else if (this.#nameOf(child) === name) {
        branch.set(level, leaf)
        return
      } else {
        at += level!.length + 1
        const fork = new Branch<L>()
        const other = this.#nameOf(child)
        const common = commonPath(other.slice(at - 1), name, at)
        fork.path = own(other.slice(at - 1, at - 1 + common))
        at += common
        fork.set(levelAt(other, at), child)
        branch.set(level, fork)
        this.#branches++
        branch = fork
      }
    }
  }

  /** Removes the leaf of this name, and the branches that only it needed. False when there was none. */
  delete(name: string): boolean {
    const path: Branch<L>[] = []
    const levels: (string | null)[] = []
    let branch = this.root
    let at = 0
    for (;;) {
      const level = levelAt(name, at)
      path.push(branch)
      levels.push(level)
      const child = branch.get(level)
      if (child === null) return false
      if (!(child instanceof Branch)) {
        if (this.#nameOf(child) !== name) return false
        break
      }
      branch = child
      at += level!.length + 1
      if (commonPath(branch.path, name, at) < branch.path.length) return false
      at += branch.path.length
    }
    branch.remove(levels[path.length - 1]!)
    this.#leaves--
    for (let depth = path.length - 1; depth > 0; depth--) {
      const left = path[depth]!.sole()
      if (left === undefined || left === null || left instanceof Branch) break
      path[depth - 1]!.set(levels[depth - 1]!, left)
      this.#branches--
    }
    return true
  }
}

/** Returns the level of a name that begins at this offset; null one past the end. */
function levelAt(name: string, at: number): string | null {
  if (at > name.length) return null
  const end = name.indexOf('/', at)
  return end === -1 ? name.slice(at) : name.slice(at, end)
}

/**
 * Counts the characters of a path, in whole levels, that a name shares; its next level begins at `at`.
 */
function commonPath(path: string, name: string, at: number): number {
  let common = 0
  let index = 0
  for (; index < path.length && path.charCodeAt(index) === name.charCodeAt(at - 1 + index); index++) {
    if (path.charCodeAt(index) === SLASH) common = index
  }
  const isWhole = index === path.length || path.charCodeAt(index) === SLASH
  const isWholeOfName = at - 1 + index >= name.length || name.charCodeAt(at - 1 + index) === SLASH
  return isWhole && isWholeOfName ? index : common
}

/** From this length on, V8 makes a part of a string as a reference to all of it. */
const SLICE_MIN = 13

/** Copies a part of a name, which otherwise keeps all of it in memory after that is gone from the tree. */
function own(part: string): string {
  return part.length < SLICE_MIN ? part : Buffer.from(part).toString()
}
