/** Parked entries that left their queues, released a slice at a time so that nobody else has to wait. */
import type { StoreDatabase } from '../files/store-database.ts'
import { EntryFields } from '../format/entry.ts'
import type { BodyIndex } from '../journal/body-index.ts'
import { ParkedEntries } from '../journal/parked-entries.ts'
import type { Parked } from '../store.ts'

/** Entries of one slice: about a millisecond. */
const RELEASES_MAX = 4096

export class ReleasedEntries {
  readonly #database: StoreDatabase
  readonly #bodies: BodyIndex
  readonly #onDone: () => void
  readonly #entry = new EntryFields()
  #queue: ParkedEntries[] = []
  #isScheduled = false

  /** `onDone` is called when entries were released in a later pass of the event loop, and none are left. */
  constructor(database: StoreDatabase, bodies: BodyIndex, onDone: () => void) {
    this.#database = database
    this.#bodies = bodies
    this.#onDone = onDone
  }

  add(entries: ParkedEntries): void {
    this.#queue.push(entries)
  }

  /** Releases one slice now and the rest later, unless that is under way. */
  release(): void {
    if (this.#isScheduled) return
    let left = RELEASES_MAX
    for (;;) {
      const entries = this.#queue[this.#queue.length - 1]
      if (entries === undefined) break
      if (left <= 0) {
        this.#releaseLater()
        return
      }
      const count = Math.min(entries.length, left)
      for (let index = 0; index < count; index++) {
        entries.read(index, this.#entry)
        this.#bodies.releaseParked(this.#entry)
      }
      entries.remove(count)
      left -= count
      if (entries.length === 0) this.#queue.pop()
    }
  }

  #releaseLater(): void {
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      if (!this.#database.isOpen) return
      this.release()
      if (!this.#isScheduled) this.#onDone()
    })
  }
}

/** The entries as this store's own. Throws for those that another store parked. */
export function parkedHere(parked: Parked): ParkedEntries {
  if (parked instanceof ParkedEntries) return parked
  throw new Error('entries were parked by another store')
}
