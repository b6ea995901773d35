/**
 * Bounds the lines of a log. The first event becomes a line at once; repeated ones are counted and written
 * from time to time. If there are too many different ones, the most frequent are written and the others are
 * summed up.
 *
 * The bounds are fair: each kind of line has its own, and so has each source (an address, a client) and
 * each subject (a user name, a reason) within a kind. No kind and no address can hide the others.
 */

import { beginningOf } from '../mqtt/utf8.ts'
import { printable } from './printable.ts'

/** A level of the log. */
export type Level = 'trace' | 'debug' | 'info' | 'warn' | 'error'

/** The fields of a line besides its text. */
export type Fields = Readonly<Record<string, unknown>>

/** A kind of line. Each kind must be a single object, because counts are stored by it. */
export interface LineKind {
  readonly level: Level
  readonly text: string
  /** The name of the field for the source. */
  readonly source: string
  /** The name of the field for the subject. */
  readonly subject: string
  /** Constant fields of every line. */
  readonly fields?: Fields
  /** So many lines of the same source, subject and detail are written at once; further ones are counted. */
  readonly burst: number
  /** Whether only the kind itself is bounded, not each source and subject. */
  readonly isUngrouped?: boolean
}

/** One event. Its texts may come from a client unchanged. */
export interface Occurrence {
  readonly source: string
  readonly subject: string
  /** Distinguishes events of the same source and subject. */
  readonly detail: string
  /** The number of events; 1 when absent. */
  readonly count?: number
}

/** The bounds of a log, and its output. */
export interface TallyOptions {
  /** Repeated events make at most one line in this time. */
  readonly repeatMs: number
  /** The average rate of each kind; bursts may have a hundred times as many. Infinity for no bound. */
  readonly linesPerSecondMax: number
  /** A monotonic clock in ms. */
  readonly now: () => number
  readonly write: (kind: LineKind, fields: Fields, text: string) => void
}

/** Lines of one source, and of one subject, that are written in `repeatMs`; others are counted. */
const GROUP_LINES_MAX = 32

/** Entries of one kind that are counted individually. */
const ENTRIES_MAX = 512

/** Entries that an eviction examines to find one with a low count. */
const EXAMINED_MAX = 64

/** Sources and subjects of one kind that have their own sums. */
const SUMS_MAX = 256

/** Sums that are written in `repeatMs`. */
const SUM_LINES_MAX = 16

const BURST_SECONDS = 100

/** Only the first characters of a text are compared. */
const KEY_CHARACTERS_MAX = 128
/** Only the first characters of a name are kept. */
const NAME_CHARACTERS_MAX = 512

interface Entry {
  readonly source: string
  readonly subject: string
  readonly fields: Fields
  /** Lines that were written at once. */
  bursts: number
  /** Events since the last line. */
  count: number
  /** The time of the last line or, without one, of the entry itself. */
  since: number
}

interface Sum {
  readonly fields: Fields
  count: number
}

/** The counters of one kind. */
class KindTally {
  readonly #kind: LineKind
  readonly #options: TallyOptions
  readonly #entries = new Map<string, Entry>()
  /** Lines of each source and subject since `#windowAt`. */
  readonly #lines = new Map<string, number>()
  readonly #sums = new Map<string, Sum>()
  #windowAt: number
  /** Lines that may be written at once. */
  #allowance: number
  #allowanceAt: number

  constructor(kind: LineKind, options: TallyOptions) {
    this.#kind = kind
    this.#options = options
    this.#windowAt = options.now()
    this.#allowanceAt = this.#windowAt
    this.#allowance = options.linesPerSecondMax * BURST_SECONDS
  }

  add({ source: from, subject: about, detail, count = 1 }: Occurrence, describe: () => Fields): void {
    const [source, subject] = [
      beginningOf(from, NAME_CHARACTERS_MAX),
      beginningOf(about, NAME_CHARACTERS_MAX),
    ]
    const pair = `${cut(source)}\0${cut(subject)}`
    const key = `${pair}\0${cut(detail)}`
    const found = this.#entries.get(key)
    if (found !== undefined) {
      found.count += count
      if (found.bursts >= this.#kind.burst || !this.#takeLine(found)) return
      found.bursts++
      this.#writeEntry(found, describe())
      return
    }
    const candidate = { source, subject }
    if (this.#takeLine(candidate)) {
      const entry = this.#enter(key, candidate, describe())
      entry.count = count
      entry.bursts = 1
      this.#writeEntry(entry, entry.fields)
      return
    }
    // This source or subject has too many lines, so its details are no longer distinguished.
    const together = this.#entries.get(pair) ?? this.#enter(pair, candidate, this.#named(source, subject))
    together.count += count
    // It has no line yet, so it is due at the next flush however recent it is.
    together.since = Number.NEGATIVE_INFINITY
  }

  /** Once in each `repeatMs`, writes the counts and forgets entries without new events. */
  flush(isEnd: boolean): void {
    const now = this.#options.now()
    const due = now - this.#options.repeatMs
    if (!isEnd && this.#windowAt > due) return
    this.#windowAt = now
    this.#lines.clear()
    const waiting: [string, Entry][] = []
    for (const [key, entry] of this.#entries) {
      if (!isEnd && entry.since > due) continue
      if (entry.count === 0) this.#entries.delete(key)
      else waiting.push([key, entry])
    }
    // The highest counts come first, because the number of lines is limited.
    waiting.sort(([, one], [, other]) => other.count - one.count)
    for (const [key, entry] of waiting) {
      if (this.#takeLine(entry)) this.#writeEntry(entry, entry.fields)
      else this.#moveToSums(key, entry)
    }
    this.#writeSums()
    // Lines of this flush do not count against the bounds of later events.
    this.#lines.clear()
  }

  #enter(key: string, { source, subject }: Pick<Entry, 'source' | 'subject'>, fields: Fields): Entry {
    if (this.#entries.size >= ENTRIES_MAX) this.#evict()
    const entry = { source, subject, fields, bursts: this.#kind.burst, count: 0, since: this.#options.now() }
    this.#entries.set(key, entry)
    return entry
  }

  /** Adds one of the oldest entries, the one with the lowest count, to the sums. */
  #evict(): void {
    let victim: [string, Entry] | null = null
    let examined = 0
    for (const candidate of this.#entries) {
      if (victim === null || candidate[1].count < victim[1].count) victim = candidate
      if (++examined >= EXAMINED_MAX || victim[1].count === 0) break
    }
    if (victim !== null) this.#moveToSums(...victim)
  }

  #moveToSums(key: string, entry: Entry): void {
    this.#entries.delete(key)
    if (entry.count === 0) return
    const { source, subject } = this.#kind
    const isOfSource = this.#linesOf('source', entry.source) >= this.#linesOf('subject', entry.subject)
    const [name, value] = isOfSource ? [source, entry.source] : [subject, entry.subject]
    const sumKey = `${name}\0${cut(value)}`
    const known = this.#sums.get(sumKey)
    if (known !== undefined) known.count += entry.count
    else if (this.#sums.size < SUMS_MAX) {
      this.#sums.set(sumKey, { fields: { [name]: printable(value) || undefined }, count: entry.count })
    } else this.#addToAll(entry.count)
  }

  #addToAll(count: number): void {
    const all = this.#sums.get('') ?? { fields: {}, count: 0 }
    all.count += count
    this.#sums.set('', all)
  }

  #writeSums(): void {
    const sorted = [...this.#sums].toSorted(([, one], [, other]) => other.count - one.count)
    for (const [key, { count }] of sorted.slice(SUM_LINES_MAX)) {
      if (key === '') continue
      this.#sums.delete(key)
      this.#addToAll(count)
    }
    const seconds = this.#options.repeatMs / 1000
    for (const { fields, count } of this.#sums.values()) {
      this.#write(fields, count, `${this.#kind.text}: ${count} more in ${seconds} s, counted together`)
    }
    this.#sums.clear()
  }

  #writeEntry(entry: Entry, fields: Fields): void {
    this.#write(fields, entry.count, this.#kind.text)
    entry.count = 0
    entry.since = this.#options.now()
  }

  #write(fields: Fields, count: number, text: string): void {
    const kind = this.#kind
    // Lines of ordinary events leave out a count of 1.
    const counted = kind.burst > 1 && count === 1 ? {} : { count }
    this.#options.write(kind, { ...fields, ...kind.fields, ...counted }, text)
  }

  /** Whether a line may be written now; if so, counts it. */
  #takeLine({ source, subject }: Pick<Entry, 'source' | 'subject'>): boolean {
    this.#renewAllowance()
    if (this.#allowance < 1) return false
    if (this.#kind.isUngrouped !== true) {
      const [ofSource, ofSubject] = [this.#linesOf('source', source), this.#linesOf('subject', subject)]
      if (ofSource >= GROUP_LINES_MAX || ofSubject >= GROUP_LINES_MAX) return false
      this.#lines.set(`source ${cut(source)}`, ofSource + 1)
      this.#lines.set(`subject ${cut(subject)}`, ofSubject + 1)
    }
    this.#allowance--
    return true
  }

  #renewAllowance(): void {
    const { linesPerSecondMax, now } = this.#options
    const seconds = (now() - this.#allowanceAt) / 1000
    if (seconds <= 0) return
    this.#allowanceAt += seconds * 1000
    const most = linesPerSecondMax * BURST_SECONDS
    this.#allowance = Math.min(most, this.#allowance + seconds * linesPerSecondMax)
  }

  #linesOf(group: 'source' | 'subject', name: string): number {
    return this.#lines.get(`${group} ${cut(name)}`) ?? 0
  }

  #named(source: string, subject: string): Fields {
    const { source: from, subject: about } = this.#kind
    return { [from]: printable(source) || undefined, [about]: printable(subject) || undefined }
  }
}

/** Writes or counts events, with separate bounds for each kind. */
export class Tally {
  readonly #options: TallyOptions
  readonly #kinds = new Map<LineKind, KindTally>()

  constructor(options: TallyOptions) {
    this.#options = options
  }

  /**
   * Adds an event. `describe` returns the fields of its line and is called only if the line is written or
   * kept.
   */
  add(kind: LineKind, occurrence: Occurrence, describe: () => Fields): void {
    let tally = this.#kinds.get(kind)
    if (tally === undefined) {
      tally = new KindTally(kind, this.#options)
      this.#kinds.set(kind, tally)
    }
    tally.add(occurrence, describe)
  }

  /** Writes the counts that are due. Call this every second. */
  flush(): void {
    for (const tally of this.#kinds.values()) tally.flush(false)
  }

  /** Writes all remaining counts. */
  end(): void {
    for (const tally of this.#kinds.values()) tally.flush(true)
    this.#kinds.clear()
  }
}

function cut(text: string): string {
  return beginningOf(text, KEY_CHARACTERS_MAX)
}
