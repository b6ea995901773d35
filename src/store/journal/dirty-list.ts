/** Sessions and groups to be checkpointed before the journal can be cut, the oldest block first. */
import type { Page } from './body-index.ts'

/** Has a checkpoint of its own: a Session or a group. */
export interface Checkpointed {
  /** The first page of the oldest block that its checkpoint does not cover; null while it is clean. */
  dirtyFrom: Page | null
}

/** Entries of the list that may have been passed before it is cut. */
const PASSED_MAX = 4096

export class DirtyList<T extends Checkpointed> {
  /** How many are dirty. */
  count = 0
  /**
   * Dirty ones from `#oldest` on, those with the oldest block first. One that is clean by now, or dirty
   * since a later block, is skipped. It is not a Set, since a Set that loses its first entries again and
   * again is searched from its beginning each time.
   */
  #dirty: T[] = []
  /** The first page of the block with which each of them became dirty. */
  #since: Page[] = []
  #oldest = 0

  /** Notes that the block that begins at `page` changes it. */
  touch(item: T, page: Page): void {
    if (item.dirtyFrom !== null) return
    item.dirtyFrom = page
    this.#dirty.push(item)
    this.#since.push(page)
    this.count++
  }

  /** Returns the oldest dirty one, if any. */
  oldest(): T | undefined {
    const dirty = this.#dirty
    while (this.#oldest < dirty.length) {
      const item = dirty[this.#oldest]!
      if (item.dirtyFrom !== null && item.dirtyFrom === this.#since[this.#oldest]) return item
      this.#oldest++
    }
    if (this.#oldest > 0) this.#forgetPassed()
    return undefined
  }

  /** Notes that its checkpoint covers everything. */
  cleaned(item: T): void {
    if (item.dirtyFrom === null) return
    item.dirtyFrom = null
    this.count--
    if (this.#oldest > PASSED_MAX && this.#oldest * 2 > this.#dirty.length) this.#forgetPassed()
  }

  #forgetPassed(): void {
    this.#dirty = this.#dirty.slice(this.#oldest)
    this.#since = this.#since.slice(this.#oldest)
    this.#oldest = 0
  }
}
