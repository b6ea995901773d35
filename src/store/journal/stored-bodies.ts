/** Finds the bodies of stored messages by the page and offset that name them, and reads them in slices. */
import type { Database } from '../files/database.ts'
import { TableCursor } from '../files/table-cursor.ts'
import type { DamageReport } from '../format/damage.ts'
import { ByteReader } from '../format/encoding.ts'
import { keyNumber, numberKey, Table } from '../format/format.ts'
import { readForwards } from '../format/forward-record.ts'
import { pageDamage } from '../format/journal-page.ts'
import { type Body, readBody } from '../format/journal-record.ts'

/** Pages kept, of about 16 KiB each. */
const PAGES_MAX = 256

/** The name of a body. */
export interface BodyPlace {
  readonly page: number
  readonly offset: number
}

export class StoredBodies {
  readonly #db: Database
  readonly #forwards = new Map<number, Map<number, BodyPlace>>()
  /** Null for one that is damaged or missing. */
  readonly #pages = new Map<number, Buffer | null>()

  constructor(db: Database) {
    this.#db = db
  }

  /** Reads where bodies have moved to. Call this first. */
  async open(report: DamageReport): Promise<void> {
    const lost = (key: Buffer): string => `messages that had moved out of journal page ${keyNumber(key)}`
    const cursor = new TableCursor(this.#db, Table.Forward, report, lost)
    for (let value = await cursor.next(); value !== undefined; value = await cursor.next()) {
      const forwards = new Map<number, BodyPlace>()
      const isRead = cursor.decoded(value, (reader) => {
        readForwards(reader, (nameOffset, page, offset) => forwards.set(nameOffset, { page, offset }))
        return true
      })
      if (isRead) this.#forwards.set(keyNumber(value.key), forwards)
    }
    await cursor.close()
  }

  /** The bodies with these names, in their order; null for those that are lost. Views of whole pages. */
  async load(names: readonly BodyPlace[]): Promise<(Body | null)[]> {
    const places = names.map((name) => this.#forwards.get(name.page)?.get(name.offset) ?? name)
    await this.#read(new Set(places.map(({ page }) => page)))
    const bodies = places.map((place) => this.#body(place))
    if (this.#pages.size > PAGES_MAX) this.#pages.clear()
    return bodies
  }

  async #read(wanted: ReadonlySet<number>): Promise<void> {
    const numbers = [...wanted].filter((number) => !this.#pages.has(number))
    const values = await this.#db.getMany(numbers.map((number) => numberKey(Table.Journal, number)))
    for (const [index, number] of numbers.entries()) this.#pages.set(number, sound(number, values[index]))
  }

  #body({ page, offset }: BodyPlace): Body | null {
    const value = this.#pages.get(page)
    if (value === undefined || value === null) return null
    try {
      return readBody(new ByteReader(value, offset))
    } catch {
      return null
    }
  }
}

function sound(number: number, value: Buffer | undefined): Buffer | null {
  return value === undefined || pageDamage(number, value) !== null ? null : value
}
