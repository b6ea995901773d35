/** HOT. The end of the journal: the numbers that come next, and how much was written. */
import { type BodyIndex, Page } from '../journal/body-index.ts'
import type { CommitProgress } from './commit-progress.ts'

export class JournalTail {
  readonly #bodies: BodyIndex
  readonly #progress: CommitProgress
  #nextPage: number
  #nextSession: number
  #writtenBytes: number

  /** `writtenBytes` are those of the pages that were scanned when the store was opened. */
  constructor(
    bodies: BodyIndex,
    progress: CommitProgress,
    { nextPage, nextSession, writtenBytes }: { nextPage: number; nextSession: number; writtenBytes: number },
  ) {
    this.#bodies = bodies
    this.#progress = progress
    this.#nextPage = nextPage
    this.#nextSession = nextSession
    this.#writtenBytes = writtenBytes
  }

  /** The number of the next page. */
  get nextPage(): number {
    return this.#nextPage
  }

  /** The store's number for the next new Session. */
  get nextSession(): number {
    return this.#nextSession
  }

  /** Bytes of all batches since the beginning of the scan. */
  get writtenBytes(): number {
    return this.#writtenBytes
  }

  /** Makes the next page, in the open block. */
  newPage(): Page {
    const page = new Page(this.#nextPage++, this.#progress.sealed + 1, this.#writtenBytes)
    this.#bodies.addPage(page)
    return page
  }

  /** Returns the number of a new Session. No other Session of this store ever gets it. */
  takeSessionNumber(): number {
    return this.#nextSession++
  }

  /** Notes that a batch of this size was handed over. */
  wrote(bytes: number): void {
    this.#writtenBytes += bytes
  }
}
