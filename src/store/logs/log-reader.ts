/** Reads segments from disk, a few at a time, in the order in which they were asked for. */
import { storeError } from '../files/failure.ts'
import type { StoreDatabase } from '../files/store-database.ts'
import { corrupt, LOSS, logKey, Table } from '../format/format.ts'
import type { LogSegment } from '../log-store.ts'
import { Segment } from './segment.ts'
import type { Found, StoredLogs } from './stored-logs.ts'

/** Reads that are under way at once. */
const READS_MAX = 4

export class LogReader {
  reads = 0
  hits = 0
  readonly #database: StoreDatabase
  readonly #logs: StoredLogs
  #underWay = 0
  #waiting: (() => void)[] = []

  constructor(database: StoreDatabase, logs: StoredLogs) {
    this.#database = database
    this.#logs = logs
  }

  /** See `LogStore.segment`. */
  segment(log: number, sequence: number): LogSegment | null {
    const found = this.#logs.find(log, sequence)
    if (found === null || !('segment' in found)) return null
    this.hits++
    return found.segment
  }

  /** See `LogStore.load`. */
  async load(log: number, sequence: number): Promise<LogSegment | null> {
    let found = this.#logs.find(log, sequence)
    if (isInMemory(found)) return found?.segment ?? null
    if (this.#underWay >= READS_MAX) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    this.#underWay++
    try {
      // Others may have read it meanwhile, or it is gone. Segments at the end of another are followed.
      for (let from = sequence; ; ) {
        found = this.#logs.find(log, from)
        if (isInMemory(found)) return found?.segment ?? null
        const segment = await this.#read(log, found.first)
        if (segment !== null && segment.end > sequence) return segment
        from = found.end
      }
    } finally {
      this.#underWay--
      this.#waiting.shift()?.()
    }
  }

  /** Reads a segment from the database; null if it was settled meanwhile. */
  async #read(log: number, first: number): Promise<Segment | null> {
    const { db, directory } = this.#database
    try {
      await this.#database.flush()
      if (!this.#database.isReadable) throw new Error('the store is closed')
      const key = logKey(Table.Log, log, first)
      const value = await db.get(key)
      const now = this.#logs.find(log, first)
      if (now === null || 'segment' in now || now.first !== first) {
        return now !== null && 'segment' in now && now.segment.first === first ? now.segment : null
      }
      if (value === undefined) throw corrupt(`entry ${first} of log ${log} is missing`, LOSS.queues)
      const segment = Segment.read(log, this.#logs.options.decoding, key, value)
      this.reads++
      this.#logs.cache.add(segment)
      return segment
    } catch (error) {
      const failure = storeError(error, directory, 'reading messages back')
      // Whoever asked may have no use for it any more. A log that was deleted meanwhile is no failure.
      if (this.#logs.known(log) !== null) this.#database.backgroundFailed(failure)
      throw failure
    }
  }
}

function isInMemory(found: Found): found is { readonly segment: Segment } | null {
  return found === null || 'segment' in found
}
