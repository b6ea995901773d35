/**
 * HOT. Goes through the journal's pages in their order, checks that no page or block is missing, and hands
 * the records to a target. Recovery, check, export and repair differ in their targets and in how strictly
 * they take damage.
 */
import type { DamageReport } from '../format/damage.ts'
import { headerOf, type PageHeader, pageDamage } from '../format/journal-page.ts'
import { type JournalRecord, RecordDecoder } from '../format/journal-record.ts'
import type { Meta } from '../format/meta.ts'
import type { PageTimes } from '../format/time-record.ts'
import { StoreError } from '../store.ts'

/** The first page that is scanned, and its block. */
export type ScanStart = Pick<Meta, 'scanFromPage' | 'scanFromSequence'>

/** Receives the journal. It has gaps only if a lenient DamageReport let damage pass. */
export interface JournalTarget {
  /** The next records are from this page. */
  page(header: PageHeader, value: Buffer): void
  /** `record` is valid until this returns. */
  record(record: JournalRecord): void
  /** Records are missing before this page. They belong to blocks before `sequence`, or to that block. */
  gap(page: number, sequence: number): void
}

const LOST_RECORDS =
  'messages and acknowledgements of that time: some messages are gone, others may arrive twice'

export class JournalScan {
  readonly #start: ScanStart
  readonly #target: JournalTarget
  readonly #report: DamageReport
  readonly #decoder: RecordDecoder
  #expectedPage: number
  #last: PageHeader | null = null
  /** True after damage, until the next page that can be read. The target is then told of a gap. */
  #isBroken = false

  constructor(start: ScanStart, times: PageTimes, target: JournalTarget, report: DamageReport) {
    this.#start = start
    this.#target = target
    this.#report = report
    this.#decoder = new RecordDecoder(times)
    this.#expectedPage = start.scanFromPage
  }

  /** Takes the next stored page. */
  page(number: number, value: Buffer): void {
    if (number > this.#expectedPage) this.#missing(this.#expectedPage, number - 1)
    this.#expectedPage = number + 1
    const damage = pageDamage(number, value)
    if (damage !== null) {
      this.#damaged(damage)
      return
    }
    const header = headerOf(value)
    this.#follow(header)
    this.#decoder.begin(header, value)
    this.#target.page(header, value)
    try {
      while (this.#decoder.next()) this.#target.record(this.#decoder)
    } catch (error) {
      if (error instanceof StoreError) throw error
      this.#damaged(`journal page ${number} cannot be decoded`, error)
    }
  }

  /**
   * Checks where the journal ends; `meta` is null where it is lost. Returns the last page, null without any.
   */
  end(meta: Meta | null): PageHeader | null {
    const last = this.#last
    const isWhole = last?.last === true && !this.#isBroken
    if (!isWhole && !this.#isBroken) {
      const where = last === null ? `before page ${this.#expectedPage}` : 'within a block'
      this.#damaged(`the journal ends ${where}`)
    }
    const sequence = last?.sequence ?? 0
    const isElsewhere =
      meta !== null && (sequence < meta.sequence || (meta.clean && sequence !== meta.sequence))
    if (isElsewhere && !this.#isBroken) {
      this.#damaged(`the journal ends at block ${sequence}, not at ${meta.sequence}`)
    }
    if (!isWhole || isElsewhere) this.#target.gap(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)
    return last
  }

  /** Checks that the page continues the one before it. */
  #follow(header: PageHeader): void {
    const last = this.#last
    const begins = last === null || last.last
    const expected = last === null ? this.#start.scanFromSequence : begins ? last.sequence + 1 : last.sequence
    const fits = header.sequence === expected && header.first === begins
    if (!fits && !this.#isBroken) this.#damaged(`block ${expected} of the journal is incomplete`)
    this.#last = header
    if (!this.#isBroken) return
    this.#isBroken = false
    this.#decoder.lose()
    this.#target.gap(header.page, header.sequence)
  }

  #missing(from: number, to: number): void {
    this.#damaged(
      from === to ? `journal page ${from} is missing` : `journal pages ${from} to ${to} are missing`,
    )
  }

  #damaged(what: string, cause?: unknown): void {
    this.#report({ what, lost: LOST_RECORDS }, cause)
    this.#isBroken = true
  }
}
