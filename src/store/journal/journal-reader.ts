/** Reads the journal's records into what they change in each Session, and goes on behind what is damaged. */
import { NO_IDENTIFIERS } from '../../mqtt/message.ts'
import type { QoS } from '../../mqtt/packet.ts'
import type { Database } from '../files/database.ts'
import type { Damage, DamageReport } from '../format/damage.ts'
import { ByteReader } from '../format/encoding.ts'
import { type EntryExtension, EntryFields, EntryReader, readIdentifiers } from '../format/entry.ts'
import { keyNumber, numberKey, Table, tableRange } from '../format/format.ts'
import type { Meta } from '../format/meta.ts'
import { PageTimes } from '../format/time-record.ts'
import { type PageHeader, RecordType, readBody, readPageHeader } from './journal.ts'
import type { BodyPlace } from './stored-bodies.ts'

const SLICE_VALUES = 200
const SLICE_BYTES = 1024 * 1024
const EXTENDED = 0x08
const RETAIN = 0x04

/** A delivery, by the name of its body. */
export interface Reference extends BodyPlace {
  readonly qos: QoS
  readonly retain: boolean
  readonly subscriptionIdentifiers: readonly number[]
  readonly share: string | null
}

type Packet = 'sent' | 'received' | 'completed' | 'inboundRemoved'

/** What one record does to a Session. */
export type Change = { readonly page: number; readonly sequence: number } & (
  | { readonly kind: 'enqueue'; readonly reference: Reference | null }
  | { readonly kind: 'dropped' }
  | { readonly kind: Packet; readonly packetId: number }
  | { readonly kind: 'inboundAdded'; readonly packetId: number; readonly digest: number }
)

/** Where records are missing. */
export interface Gap {
  /** Changes in this page and later ones come after it. */
  readonly page: number
  /** What is missing belongs to blocks before this one, or to it. */
  readonly sequence: number
}

export interface JournalContents {
  /** By the store's number of the Session, in order. */
  readonly changes: ReadonlyMap<number, readonly Change[]>
  readonly gaps: readonly Gap[]
  /** The newest page; null without any. */
  readonly last: PageHeader | null
}

/** Reads an entry of a queue or an in-flight list: a delivery by the name of its body. */
export function referenceReader(reader: ByteReader): () => Reference {
  // The body tells when a message expires.
  const entries = new EntryReader(reader, NO_TIMES)
  const fields = new EntryFields()
  return () => {
    entries.read(fields)
    const { page, offset, deliveryQoS: qos, deliveryRetain: retain, extension } = fields
    const { subscriptionIdentifiers, share } = extension ?? NOT_EXTENDED
    return { page, offset, qos, retain, subscriptionIdentifiers, share }
  }
}

const NO_TIMES = new PageTimes()
const NOT_EXTENDED: EntryExtension = { subscriptionIdentifiers: NO_IDENTIFIERS, share: null }

const LOST_RECORDS: Damage['lost'] =
  'messages and acknowledgements of that moment: some messages are gone, others may come a second time'

export class JournalReader {
  readonly #db: Database
  readonly #report: DamageReport
  /** Blocks up to this one are contained in the Session's checkpoint. */
  readonly #covered: ReadonlyMap<number, number>
  readonly #changes = new Map<number, Change[]>()
  readonly #gaps: Gap[] = []
  #last: PageHeader | null = null
  /** First page of the current block; null when it was lost. */
  #firstPage: number | null = null
  #latest: BodyPlace | null = null
  #lostBefore = false

  constructor(db: Database, covered: ReadonlyMap<number, number>, report: DamageReport) {
    this.#db = db
    this.#covered = covered
    this.#report = report
  }

  /** Without a description, the scan begins where the newest unbroken run of blocks does. */
  async read(meta: Meta | null): Promise<JournalContents> {
    const start = meta ?? (await this.#newestRun())
    let expectedPage = start.scanFromPage
    await this.#each(start.scanFromPage, (number, value) => {
      if (number > expectedPage) this.#missing(expectedPage, number - 1)
      expectedPage = number + 1
      this.#page(number, value, start)
    })
    this.#end(meta)
    return { changes: this.#changes, gaps: this.#gaps, last: this.#last }
  }

  /** Checks every page below the scan, where only bodies are still needed. Returns how many there are. */
  async checkBodies(meta: Meta | null): Promise<number> {
    let pages = 0
    const to = meta?.scanFromPage ?? 0
    await this.#each(
      0,
      (number, value) => {
        pages++
        if (this.#header(number, value) === null) {
          this.#report({
            what: `journal page ${number} does not match its checksum`,
            lost: 'the messages in it',
          })
        }
      },
      to,
    )
    return pages
  }

  #missing(from: number, to: number): void {
    const what =
      from === to ? `journal page ${from} is missing` : `journal pages ${from} to ${to} are missing`
    this.#report({ what, lost: LOST_RECORDS })
    this.#lostBefore = true
  }

  #page(number: number, value: Buffer, start: Pick<Meta, 'scanFromSequence'>): void {
    const header = this.#header(number, value)
    if (header === null) {
      this.#report({ what: `journal page ${number} does not match its checksum`, lost: LOST_RECORDS })
      this.#lostBefore = true
      return
    }
    const last = this.#last
    const expected = last === null ? start.scanFromSequence : last.last ? last.sequence + 1 : last.sequence
    const fits = header.sequence === expected && header.first === (last === null || last.last)
    if (!fits && !this.#lostBefore) {
      this.#report({ what: `block ${expected} of the journal is incomplete`, lost: LOST_RECORDS })
    }
    if (!fits || this.#lostBefore) this.#gap(number, header.sequence)
    if (header.first) {
      this.#firstPage = number
      this.#latest = null
    }
    this.#last = header
    const reader = new ByteReader(value, header.bytes)
    try {
      while (!reader.atEnd) this.#record(number, header.sequence, reader)
    } catch {
      this.#report({ what: `journal page ${number} cannot be decoded`, lost: LOST_RECORDS })
      this.#lostBefore = true
    }
  }

  #gap(page: number, sequence: number): void {
    this.#gaps.push({ page, sequence })
    this.#lostBefore = false
    this.#firstPage = null
    this.#latest = null
  }

  #end(meta: Meta | null): void {
    const end = this.#last?.sequence ?? 0
    const complete = this.#last?.last === true && !this.#lostBefore
    if (!complete && !this.#lostBefore)
      this.#report({ what: 'the journal ends within a block', lost: LOST_RECORDS })
    const wrongEnd = meta !== null && (end < meta.sequence || (meta.clean && end !== meta.sequence))
    if (wrongEnd && !this.#lostBefore) {
      this.#report({ what: `the journal ends at block ${end}, not at ${meta.sequence}`, lost: LOST_RECORDS })
    }
    if (!complete || wrongEnd) {
      this.#gap(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)
    }
  }

  #record(page: number, sequence: number, reader: ByteReader): void {
    const type = reader.u8()
    if (type === RecordType.Body) {
      this.#latest = { page, offset: reader.at }
      readBody(reader)
      return
    }
    if (type === RecordType.MovedBody) {
      readBody(reader)
      return
    }
    const session = reader.varint()
    const change = this.#change(type, reader)
    if ((this.#covered.get(session) ?? 0) >= sequence) return
    const changes = this.#changes.get(session)
    if (changes === undefined) this.#changes.set(session, [{ page, sequence, ...change }])
    else changes.push({ page, sequence, ...change })
  }

  #change(type: number, reader: ByteReader) {
    switch (type) {
      case RecordType.EnqueueLatest:
        return { kind: 'enqueue', reference: readReference(reader, this.#latest) } as const
      case RecordType.EnqueueNear: {
        const distance = reader.varint()
        const offset = reader.u16()
        const place = this.#firstPage === null ? null : { page: this.#firstPage + distance, offset }
        return { kind: 'enqueue', reference: readReference(reader, place) } as const
      }
      case RecordType.EnqueueFar:
        return { kind: 'enqueue', reference: referenceReader(reader)() } as const
      case RecordType.Dropped:
        return { kind: 'dropped' } as const
      case RecordType.Sent:
        return { kind: 'sent', packetId: reader.u16() } as const
      case RecordType.Received:
        return { kind: 'received', packetId: reader.u16() } as const
      case RecordType.Completed:
        return { kind: 'completed', packetId: reader.u16() } as const
      case RecordType.InboundAdded:
        return { kind: 'inboundAdded', packetId: reader.u16(), digest: 0 } as const
      case RecordType.InboundDigest:
        return { kind: 'inboundAdded', packetId: reader.u16(), digest: reader.u48() } as const
      case RecordType.InboundRemoved:
        return { kind: 'inboundRemoved', packetId: reader.u16() } as const
      default:
        throw new RangeError(`record type ${type} is not known`)
    }
  }

  async #newestRun(): Promise<Pick<Meta, 'scanFromPage' | 'scanFromSequence'>> {
    let run = { scanFromPage: 0, scanFromSequence: 0 }
    let last: PageHeader | null = null
    await this.#each(0, (number, value) => {
      const header = this.#header(number, value)
      if (header === null) return
      const before = last as PageHeader | null
      const goesOn =
        before !== null &&
        number === before.page + 1 &&
        header.first === before.last &&
        header.sequence === before.sequence + (before.last ? 1 : 0)
      if (!goesOn && header.first) run = { scanFromPage: number, scanFromSequence: header.sequence }
      last = header
    })
    return run
  }

  #header(number: number, value: Buffer): PageHeader | null {
    try {
      return readPageHeader(number, value)
    } catch {
      return null
    }
  }

  async #each(from: number, read: (number: number, value: Buffer) => void, to?: number): Promise<void> {
    const range = {
      gte: numberKey(Table.Journal, from),
      lt: to === undefined ? tableRange(Table.Journal).lt : numberKey(Table.Journal, to),
    }
    const iterator = this.#db.iterator({ ...range, highWaterMarkBytes: SLICE_BYTES, fillCache: false })
    try {
      for (;;) {
        const entries = await iterator.nextv(SLICE_VALUES)
        if (entries.length === 0) return
        for (const [key, value] of entries) read(keyNumber(key), value)
      }
    } finally {
      await iterator.close()
    }
  }
}

function readReference(reader: ByteReader, place: BodyPlace | null): Reference | null {
  const flags = reader.u8()
  let subscriptionIdentifiers = NO_IDENTIFIERS
  let share: string | null = null
  if (flags & EXTENDED) {
    const count = reader.varint()
    if (count > 0) subscriptionIdentifiers = readIdentifiers(reader, count)
    const text = reader.text()
    share = text === '' ? null : text
  }
  if (place === null) return null
  return { ...place, qos: (flags & 3) as QoS, retain: (flags & RETAIN) !== 0, subscriptionIdentifiers, share }
}
