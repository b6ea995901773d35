/**
 * Bounds what a log is told. The first of a kind becomes a line at once, what repeats a line now and then with its count;
 * where there is too much to tell one by one, what came most is told, and the rest together.
 *
 * The bounds are fair: each kind of line has its own, and within it each source (an address, a client) and each subject
 * (a user name, a reason). So neither one kind nor one address can hide what others do.
 */

import { beginningOf } from '../mqtt/utf8.ts'
import { printable } from './printable.ts'

export type Level = 'trace' | 'debug' | 'info' | 'warn' | 'error'

export type Fields = Readonly<Record<string, unknown>>

/** A kind of line. One object for each: counts are kept by it. */
export interface Kind {
  readonly level: Level
  readonly text: string
  /** The name of the field that says where it comes from. */
  readonly source: string
  /** The name of the field that says what it is about. */
  readonly subject: string
  /** Fields that every line of it has. */
  readonly fields?: Fields
  /** Lines of the same source, subject and detail that are written at once before they are counted. */
  readonly burst: number
  /** Whether one source, or one subject, may have any number of lines at once, within the bound of the kind. */
  readonly isUngrouped?: boolean
}

/** What happened; texts may be as a client sent them. */
export interface Occurrence {
  readonly source: string
  readonly subject: string
  /** What tells it from others of the same source and subject. */
  readonly detail: string
  /** How many at once; 1 when absent. */
  readonly count?: number
}

export interface TallyOptions {
  /** At most one line in this time for what repeats, in ms. */
  readonly repeatMs: number
  /** Lines of each kind, on average; a hundred times as many may come at once. Infinity for no bound. */
  readonly linesPerSecondMax: number
  /** A monotonic clock in ms. */
  readonly now: () => number
  readonly write: (kind: Kind, fields: Fields, text: string) => void
}

/** Lines of one source, and of one subject, in `repeatMs`; what is beyond is counted. */
const GROUP_LINES_MAX = 32

/** Entries of one kind that are counted one by one. */
const ENTRIES_MAX = 512

/** Entries that are looked at to find one that counts for little. */
const LOOKS_MAX = 64

/** Sources and subjects of one kind whose rests are counted one by one. */
const RESTS_MAX = 256

/** Lines in `repeatMs` about such rests. */
const REST_LINES_MAX = 16

const BURST_SECONDS = 100

/** Longer texts are told apart by their beginnings only, in characters. */
const KEY_CHARACTERS_MAX = 128
/** Of a name, what is kept to be written; more is cut there, too. */
const NAME_CHARACTERS_MAX = 512

interface Entry {
  readonly source: string
  readonly subject: string
  readonly fields: Fields
  /** Lines that were written at once. */
  bursts: number
  /** Since the last line. */
  count: number
  /** When the last line was written, or it was made. */
  since: number
}

interface Rest {
  readonly fields: Fields
  count: number
}

class KindTally {
  readonly #kind: Kind
  readonly #options: TallyOptions
  readonly #entries = new Map<string, Entry>()
  /** Lines of each source and subject since `#windowAt`. */
  readonly #lines = new Map<string, number>()
  readonly #rests = new Map<string, Rest>()
  #windowAt: number
  /** Lines that may be written at once. */
  #allowance: number
  #allowanceAt: number

  constructor(kind: Kind, options: TallyOptions) {
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
    // Too much of this source or subject: from here on its details are not told apart.
    const together = this.#entries.get(pair) ?? this.#enter(pair, candidate, this.#named(source, subject))
    together.count += count
    // Nothing was written of it: it is due at the end of this time, however late it came.
    together.since = Number.NEGATIVE_INFINITY
  }

  /** At the end of each `repeatMs`: writes what was counted, forgets what has become quiet. */
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
    // What came most is told first, as long as there are lines to tell it with.
    waiting.sort(([, one], [, other]) => other.count - one.count)
    for (const [key, entry] of waiting) {
      if (this.#takeLine(entry)) this.#writeEntry(entry, entry.fields)
      else this.#moveToRests(key, entry)
    }
    this.#writeRests()
    // What is new from here on has lines of its own.
    this.#lines.clear()
  }

  #enter(key: string, { source, subject }: Pick<Entry, 'source' | 'subject'>, fields: Fields): Entry {
    if (this.#entries.size >= ENTRIES_MAX) this.#evict()
    const entry = { source, subject, fields, bursts: this.#kind.burst, count: 0, since: this.#options.now() }
    this.#entries.set(key, entry)
    return entry
  }

  /** Of some that have been there for long, the one that counts least. */
  #evict(): void {
    let victim: [string, Entry] | null = null
    let looks = 0
    for (const candidate of this.#entries) {
      if (victim === null || candidate[1].count < victim[1].count) victim = candidate
      if (++looks >= LOOKS_MAX || victim[1].count === 0) break
    }
    if (victim !== null) this.#moveToRests(...victim)
  }

  #moveToRests(key: string, entry: Entry): void {
    this.#entries.delete(key)
    if (entry.count === 0) return
    const { source, subject } = this.#kind
    const isOfSource = this.#linesOf('source', entry.source) >= this.#linesOf('subject', entry.subject)
    const [name, value] = isOfSource ? [source, entry.source] : [subject, entry.subject]
    const restKey = `${name}\0${cut(value)}`
    const known = this.#rests.get(restKey)
    if (known !== undefined) known.count += entry.count
    else if (this.#rests.size < RESTS_MAX) {
      this.#rests.set(restKey, { fields: { [name]: printable(value) || undefined }, count: entry.count })
    } else this.#addToAll(entry.count)
  }

  #addToAll(count: number): void {
    const all = this.#rests.get('') ?? { fields: {}, count: 0 }
    all.count += count
    this.#rests.set('', all)
  }

  #writeRests(): void {
    const sorted = [...this.#rests].toSorted(([, one], [, other]) => other.count - one.count)
    for (const [key, { count }] of sorted.slice(REST_LINES_MAX)) {
      if (key === '') continue
      this.#rests.delete(key)
      this.#addToAll(count)
    }
    const seconds = this.#options.repeatMs / 1000
    for (const { fields, count } of this.#rests.values()) {
      this.#write(fields, count, `${this.#kind.text}: ${count} more in ${seconds} s, counted together`)
    }
    this.#rests.clear()
  }

  #writeEntry(entry: Entry, fields: Fields): void {
    this.#write(fields, entry.count, this.#kind.text)
    entry.count = 0
    entry.since = this.#options.now()
  }

  #write(fields: Fields, count: number, text: string): void {
    const kind = this.#kind
    // What happens in the ordinary course says how often only where it is more than once.
    const counted = kind.burst > 1 && count === 1 ? {} : { count }
    this.#options.write(kind, { ...fields, ...kind.fields, ...counted }, text)
  }

  /** Whether a line may be written now; counts it then. */
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

export class Tally {
  readonly #options: TallyOptions
  readonly #kinds = new Map<Kind, KindTally>()

  constructor(options: TallyOptions) {
    this.#options = options
  }

  /** Counts one of this kind; `describe` gives the fields of its line and is called only where one is written or kept. */
  add(kind: Kind, occurrence: Occurrence, describe: () => Fields): void {
    let tally = this.#kinds.get(kind)
    if (tally === undefined) {
      tally = new KindTally(kind, this.#options)
      this.#kinds.set(kind, tally)
    }
    tally.add(occurrence, describe)
  }

  /** Writes what has waited long enough: to be called each second. */
  flush(): void {
    for (const tally of this.#kinds.values()) tally.flush(false)
  }

  /** Writes everything that was counted and not written. */
  end(): void {
    for (const tally of this.#kinds.values()) tally.flush(true)
    this.#kinds.clear()
  }
}

function cut(text: string): string {
  return beginningOf(text, KEY_CHARACTERS_MAX)
}
