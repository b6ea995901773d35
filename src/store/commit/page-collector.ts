/**
 * Gives disk space back: moves the start of the journal's scan on and deletes pages that nobody needs. It
 * keeps the page index (which pages exist) and the forwards (where bodies moved) in step, all in the batch
 * that is being sealed.
 *
 * The scan starts at the oldest block that some checkpoint does not cover, or earlier. Every block that may
 * still lie in LevelDB's log is scanned, too: a damaged log loses batches without an error, and only a gap in
 * the sequence numbers shows it.
 */
import { ByteWriter } from '../format/encoding.ts'
import {
  type BatchOperation,
  INDEXED_PAGES,
  liveFormat,
  META_KEY,
  numberKey,
  put,
  Table,
} from '../format/format.ts'
import { encodeMeta, type Meta } from '../format/meta.ts'
import type { BodyIndex, ForwardGroup, Page } from '../journal/body-index.ts'

/** Pages that one commit deletes. */
const DELETES_MAX = 1024
/** Values of the page index that one commit writes, as far as deleted pages need them. */
const INDEX_VALUES_MAX = 64
/** Pages that one commit takes out of the scan, or a few more: a block is never taken out in part. */
const RELEASES_MAX = 8192
/** Page numbers of one compaction: closing waits for the compaction that is under way. */
const COMPACT_PAGES = 1024

export interface PageCollectorOptions {
  /** LevelDB's `writeBufferSize`: its logs hold up to two of these. */
  readonly writeBufferBytes: number
  /** The start of the scan moves in steps of this many written bytes. */
  readonly stepBytes: number
  /** The format that the next commit has to write, if the store were closed by it. */
  readonly format: () => number
  /** Bytes of durable commits that LevelDB may not have yet; 0 where there is no redo log. */
  readonly behindBytes: number
}

/** Where the journal's scan starts. */
export interface ScanStart {
  readonly page: number
  readonly sequence: number
}

export class PageCollector {
  readonly #bodies: BodyIndex
  readonly #options: PageCollectorOptions
  #scanFrom: ScanStart
  #clean: boolean
  /** The format of the description on disk. A commit raises it if it needs a later one. */
  #format: number
  #largestBatchBytes = 0
  /** Values of the page index to be written, by number. */
  readonly #changedSegments = new Set<number>()
  // Pages deleted since LevelDB was last asked to compact.
  #deletedBytes = 0
  #deletedPages = 0
  #deletedFrom = Number.POSITIVE_INFINITY
  #deletedTo = 0

  constructor(
    bodies: BodyIndex,
    options: PageCollectorOptions,
    scanFrom: ScanStart,
    { clean, format }: Pick<Meta, 'clean' | 'format'>,
  ) {
    this.#bodies = bodies
    this.#options = options
    this.#scanFrom = scanFrom
    this.#clean = clean
    this.#format = format
  }

  /** Whether the description on disk says that the store was closed in order. */
  get clean(): boolean {
    return this.#clean
  }

  /** Notes that a batch of this size was handed over. */
  wrote(batchBytes: number): void {
    this.#largestBatchBytes = Math.max(this.#largestBatchBytes, batchBytes)
  }

  /**
   * Adds to `operations` everything that can be reclaimed now. `watermark` is the first page of the oldest
   * block that is still needed, `writtenBytes` counts all batches before this one, `sequence` is that of the
   * block being sealed, and `clean` says that it is the last one.
   */
  seal(
    watermark: Page,
    writtenBytes: number,
    sequence: number,
    clean: boolean,
    operations: BatchOperation[],
  ): void {
    const moved = this.#advance(watermark, writtenBytes, clean)
    this.#deletePages(operations)
    for (const group of this.#bodies.changedGroups) this.#writeForwards(group, operations)
    this.#bodies.changedGroups.clear()
    for (const segment of this.#changedSegments) this.#indexSegment(segment, operations)
    this.#changedSegments.clear()
    const closed = this.#options.format()
    const format = this.#options.behindBytes > 0 && !clean ? liveFormat(closed) : closed
    if (!moved && !clean && !this.#clean && format === this.#format) return
    this.#clean = clean
    this.#format = format
    const { page, sequence: scanFromSequence } = this.#scanFrom
    const meta = { format, scanFromPage: page, scanFromSequence, sequence, clean }
    operations.push(put(META_KEY, encodeMeta(meta)))
  }

  /**
   * Returns the ranges of keys that are worth a compaction, in pieces that are quickly done, and forgets
   * them. There are none while fewer bytes than `bytesMin` were deleted, or most pages among the deleted ones
   * still exist: those would all be written anew.
   */
  compactable(bytesMin: number): (readonly [from: Buffer, to: Buffer])[] {
    const range = this.#deletedTo - this.#deletedFrom + 1
    if (this.#deletedBytes < bytesMin || this.#deletedPages < range / 2) return []
    const pieces: (readonly [from: Buffer, to: Buffer])[] = []
    for (let from = this.#deletedFrom; from <= this.#deletedTo; from += COMPACT_PAGES) {
      const to = Math.min(from + COMPACT_PAGES - 1, this.#deletedTo)
      pieces.push([numberKey(Table.Journal, from), numberKey(Table.Journal, to)])
    }
    this.#deletedBytes = 0
    this.#deletedPages = 0
    this.#deletedFrom = Number.POSITIVE_INFINITY
    this.#deletedTo = 0
    return pieces
  }

  #advance(watermark: Page, writtenBytes: number, anyStep: boolean): boolean {
    const { writeBufferBytes, stepBytes, behindBytes } = this.#options
    const auditBytes = 2 * writeBufferBytes + 3 * Math.max(this.#largestBatchBytes, behindBytes) + behindBytes
    const start = this.#bodies.pages.get(this.#scanFrom.page)
    if (start === undefined)
      throw new Error(`the scan starts at page ${this.#scanFrom.page}, which does not exist`)
    const freeBytes = Math.min(watermark.writtenBefore, writtenBytes - auditBytes) - start.writtenBefore
    if (freeBytes < (anyStep ? 1 : stepBytes)) return false
    let page = start
    for (let count = 0; page.number < watermark.number; count++) {
      if (writtenBytes - page.writtenBefore <= auditBytes) break
      if (count >= RELEASES_MAX && this.#bodies.pages.get(page.number - 1)?.sequence !== page.sequence) break
      this.#bodies.pageReleased(page)
      this.#changedSegments.add(Math.floor(page.number / INDEXED_PAGES))
      const next = this.#bodies.pages.get(page.number + 1)
      if (next === undefined) throw new Error(`page ${page.number + 1} does not exist`)
      page = next
    }
    this.#scanFrom = { page: page.number, sequence: page.sequence }
    return page !== start
  }

  #deletePages(operations: BatchOperation[]): void {
    const { dead, pages } = this.#bodies
    let deletes = 0
    while (dead.length > 0 && deletes < DELETES_MAX && this.#changedSegments.size < INDEX_VALUES_MAX) {
      const page = dead.pop()!
      pages.delete(page.number)
      operations.push({ type: 'del', key: numberKey(Table.Journal, page.number) })
      this.#changedSegments.add(Math.floor(page.number / INDEXED_PAGES))
      this.#deletedBytes += page.bytes
      this.#deletedPages++
      this.#deletedFrom = Math.min(this.#deletedFrom, page.number)
      this.#deletedTo = Math.max(this.#deletedTo, page.number)
      deletes++
    }
  }

  #writeForwards(group: ForwardGroup, operations: BatchOperation[]): void {
    const key = numberKey(Table.Forward, group.page)
    if (group.forwards.size === 0) {
      this.#bodies.groups.delete(group.page)
      operations.push({ type: 'del', key })
      return
    }
    const writer = new ByteWriter(16 + group.forwards.size * 12)
    writer.varint(group.forwards.size)
    for (const { nameOffset, page, offset, nextPage, nextOffset } of group.forwards.values()) {
      writer.u16(nameOffset)
      writer.varint(nextPage === null ? page.number : nextPage.number)
      writer.u16(nextPage === null ? offset : nextOffset)
    }
    operations.push(put(key, writer.taken()))
  }

  #indexSegment(segment: number, operations: BatchOperation[]): void {
    const key = numberKey(Table.PageIndex, segment)
    const writer = new ByteWriter(INDEXED_PAGES * 5)
    const first = segment * INDEXED_PAGES
    let any = false
    for (let number = first; number < first + INDEXED_PAGES && number < this.#scanFrom.page; number++) {
      const bytes = this.#bodies.pages.get(number)?.bytes ?? 0
      writer.varint(bytes)
      if (bytes > 0) any = true
    }
    operations.push(any ? put(key, writer.taken()) : { type: 'del', key })
  }
}
