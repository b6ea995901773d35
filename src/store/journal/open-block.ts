/**
 * HOT. Writes the journal: the open block takes records in their order until its commit begins.
 *
 * A block's pages are separate LevelDB values, so that one evicted body can be read back, and dead bodies be
 * deleted, without touching a whole block of up to several megabytes.
 */
import type { Delivery, Message } from '../../mqtt/message.ts'
import { ByteWriter, textBytesMax } from '../format/encoding.ts'
import { type EntryFields, EntryWriter } from '../format/entry.ts'
import { type BatchOperation, numberKey, Table } from '../format/format.ts'
import {
  type BlockHeader,
  FIRST_OF_BLOCK,
  headerBytes,
  LAST_OF_BLOCK,
  writePageHeader,
} from '../format/journal-page.ts'
import { RecordType, writeBody, writeReference } from '../format/journal-record.ts'
import type { PageTimes } from '../format/time-record.ts'
import type { Page, StoredBody } from './body-index.ts'

/** A page takes records until it has this many bytes; a body never spans two, so a page may be larger. */
export const PAGE_BYTES = 16 * 1024
const KEEP_BYTES = 1024 * 1024

/** The block that is being filled. */
export class OpenBlock {
  readonly #writer = new ByteWriter(KEEP_BYTES)
  readonly #newPage: () => Page
  readonly #times: () => PageTimes
  readonly #isSynced: boolean
  readonly #headerBytes: number
  #pages: Page[] = []
  /** Where each page begins. */
  #starts: number[] = []
  #latestBody: StoredBody | null = null
  #record = 0

  /**
   * `newPage` makes the Page with the next number. `times` are those of the bodies in the store. `isSynced`
   * is true if each block is synced by its own commit. Otherwise a block says which blocks were synced before
   * it.
   */
  constructor(newPage: () => Page, times: () => PageTimes, isSynced: boolean) {
    this.#newPage = newPage
    this.#times = times
    this.#isSynced = isSynced
    this.#headerBytes = headerBytes(isSynced)
  }

  get bytes(): number {
    return this.#writer.length
  }

  /** The page of the latest record. */
  get page(): Page {
    return this.#pages[this.#pages.length - 1]!
  }

  /** Returns the block's first page, and makes it if nothing was recorded yet. */
  firstPage(): Page {
    if (this.#pages.length === 0) this.#beginPage()
    return this.#pages[0]!
  }

  /** Writes a body. Returns its offset in `page`, which names it. */
  body(message: Message): number {
    this.#begin(
      RecordType.Body,
      message.topic.bytes.length +
        message.properties.length +
        message.payload.length +
        40 +
        textBytesMax(message.publisher),
    )
    const offset = this.#offset()
    writeBody(this.#writer, message)
    return offset
  }

  /** Sets the handle of the body that was just written. */
  named(body: StoredBody): void {
    this.#latestBody = body
  }

  /** Writes a copy of a stored body. Returns its offset in `page`. */
  movedBody(bytes: Buffer): number {
    this.#begin(RecordType.MovedBody, bytes.length)
    const offset = this.#offset()
    this.#writer.raw(bytes)
    return offset
  }

  enqueue(session: number, delivery: Delivery, body: StoredBody): void {
    const { subscriptionIdentifiers: identifiers, share } = delivery
    const room = 32 + identifiers.length * 5 + (share === null ? 0 : textBytesMax(share))
    const latest = body === this.#latestBody
    if (
      !latest &&
      (body.forward !== null || this.#pages.length === 0 || body.page.number < this.#pages[0]!.number)
    ) {
      this.#session(RecordType.EnqueueFar, session)
      new EntryWriter(this.#writer, this.#times()).write(delivery, body)
      return
    }
    this.#begin(latest ? RecordType.EnqueueLatest : RecordType.EnqueueNear, room)
    const writer = this.#writer
    writer.varint(session)
    if (!latest) {
      writer.varint(body.page.number - this.#pages[0]!.number)
      writer.u16(body.offset)
    }
    writeReference(writer, delivery.qos, delivery.retain, identifiers, share)
  }

  /** Writes an enqueue of a body of an older block, by its entry. */
  enqueueFar(session: number, entry: EntryFields): void {
    this.#session(RecordType.EnqueueFar, session)
    new EntryWriter(this.#writer, this.#times()).writeFields(entry)
  }

  sent(session: number, packetId: number): void {
    this.#identifier(RecordType.Sent, session, packetId)
  }

  dropped(session: number): void {
    this.#session(RecordType.Dropped, session)
  }

  received(session: number, packetId: number): void {
    this.#identifier(RecordType.Received, session, packetId)
  }

  completed(session: number, packetId: number): void {
    this.#identifier(RecordType.Completed, session, packetId)
  }

  inboundAdded(session: number, packetId: number, digest: number): void {
    this.#begin(RecordType.InboundDigest, 16)
    this.#writer.varint(session)
    this.#writer.u16(packetId)
    this.#writer.u48(digest)
  }

  inboundRemoved(session: number, packetId: number): void {
    this.#identifier(RecordType.InboundRemoved, session, packetId)
  }

  /**
   * Begins a record about this Session, group or log. Returns the writer of its fields, which take `bytes`.
   */
  record(type: number, number: number, bytes: number): ByteWriter {
    this.#begin(type, 8 + bytes)
    this.#writer.varint(number)
    return this.#writer
  }

  /**
   * Closes the block and appends its pages to `operations`. The values are views, which the next block
   * overwrites. LevelDB copies them when it receives the batch. `synced` is the newest block that was synced
   * by then. Returns the bytes of all pages.
   */
  seal(header: BlockHeader, synced: number, operations: BatchOperation[]): number {
    this.firstPage()
    const last = this.#pages.length - 1
    const end = this.#writer.length
    for (let index = 0; index <= last; index++) {
      const start = this.#starts[index]!
      const page = this.#pages[index]!
      const value = this.#writer.view(start, index === last ? end : this.#starts[index + 1]!)
      page.bytes = value.length
      const place = (index === 0 ? FIRST_OF_BLOCK : 0) | (index === last ? LAST_OF_BLOCK : 0)
      writePageHeader(value, page.number, place, header, this.#isSynced ? null : synced)
      operations.push({ type: 'put', key: numberKey(Table.Journal, page.number), value })
    }
    return end
  }

  /** Forgets the block after LevelDB has copied it. */
  clear(): void {
    this.#writer.clear(KEEP_BYTES)
    this.#pages = []
    this.#starts = []
    this.#latestBody = null
  }

  #identifier(type: number, session: number, packetId: number): void {
    this.#begin(type, 10)
    this.#writer.varint(session)
    this.#writer.u16(packetId)
  }

  #session(type: number, session: number): void {
    this.#begin(type, 8)
    this.#writer.varint(session)
  }

  #begin(type: number, bytes: number): void {
    const pages = this.#starts.length
    if (pages === 0 || this.#writer.length - this.#starts[pages - 1]! >= PAGE_BYTES) this.#beginPage()
    this.#writer.reserve(bytes + 1)
    this.#writer.u8(type)
    this.#record = this.#writer.length
  }

  #beginPage(): void {
    this.#writer.reserve(this.#headerBytes)
    this.#starts.push(this.#writer.length)
    this.#writer.length += this.#headerBytes
    this.#pages.push(this.#newPage())
  }

  /** Returns the offset in its page of the latest record, without its type byte. */
  #offset(): number {
    return this.#record - this.#starts[this.#starts.length - 1]!
  }
}
