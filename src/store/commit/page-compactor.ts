/**
 * Moves the last living bodies out of nearly empty pages, so that the pages can be deleted. Bounded per
 * commit.
 */

import type { StoreDatabase } from '../files/store-database.ts'
import { ByteReader } from '../format/encoding.ts'
import { readPageHeader } from '../format/journal-page.ts'
import { readBody } from '../format/journal-record.ts'
import type { BodyIndex, Forward, Page } from '../journal/body-index.ts'
import type { OpenBlock } from '../journal/open-block.ts'

/** Pages that are read at once. At most a quarter of their bytes is alive. */
const PAGES_MAX = 64
/** Fewer pages are not worth a read. */
const PAGES_MIN = 8

/** Bodies of one page on their way into the open block. */
interface Move {
  readonly from: Page
  readonly forwards: Forward[]
  /** `Message.size` of each. */
  readonly sizes: number[]
}

export class PageCompactor {
  readonly #bodies: BodyIndex
  readonly #database: StoreDatabase
  readonly #block: OpenBlock
  #isReading = false
  /** Copies in the open block. */
  #open: Move[] = []
  /** Copies in the block that is being committed. */
  #flying: Move[] = []

  /** Copies go into `block`, the open block. */
  constructor(bodies: BodyIndex, database: StoreDatabase, block: OpenBlock) {
    this.#bodies = bodies
    this.#database = database
    this.#block = block
  }

  /** Whether any page is nearly empty. */
  get hasWork(): boolean {
    return this.#bodies.sparse.size > 0
  }

  /**
   * Reads a few nearly empty pages and copies their living bodies into the open block. Resolves to whether
   * anything was copied. A page that cannot be read is left alone: restoring its bodies reports the damage.
   */
  async start(): Promise<boolean> {
    if (this.#isReading || this.#open.length + this.#flying.length > 0) return false
    if (this.#bodies.sparse.size < PAGES_MIN) return false
    const pages: Page[] = []
    for (const page of this.#bodies.sparse) {
      pages.push(page)
      this.#bodies.sparse.delete(page)
      if (pages.length === PAGES_MAX) break
    }
    this.#isReading = true
    try {
      const values = await this.#database.pages(pages.map(({ number }) => number))
      if (!this.#database.isOpen) return false
      for (const [index, page] of pages.entries()) {
        const value = values[index]
        if (value !== undefined) this.#copy(page, value)
      }
      return this.#open.length > 0
    } finally {
      this.#isReading = false
    }
  }

  /** Notes that the open block was sealed. */
  sealed(): void {
    this.#flying = this.#open
    this.#open = []
  }

  /** Notes that the sealed block is durable: its copies are read from now on. */
  durable(): void {
    for (const { from, forwards, sizes } of this.#flying) this.#bodies.moved(from, forwards, sizes)
    this.#flying = []
  }

  #copy(page: Page, value: Buffer): void {
    const block = this.#block
    const move: Move = { from: page, forwards: [], sizes: [] }
    try {
      readPageHeader(page.number, value)
    } catch {
      return
    }
    for (const offset of this.#bodies.living(page)) {
      const reader = new ByteReader(value, offset)
      const { topic, properties, payload } = readBody(reader)
      const copyOffset = block.movedBody(value.subarray(offset, reader.at))
      move.forwards.push(this.#bodies.moving(page, offset, block.page, copyOffset))
      move.sizes.push(Buffer.byteLength(topic, 'utf8') + properties.length + payload.length)
    }
    if (move.forwards.length > 0) this.#open.push(move)
  }
}
