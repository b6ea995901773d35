/**
 * Makes LevelDB merge its files. LevelDB drops deleted values only when it merges, and where nothing new is
 * written, that is long after. Also follows how much disk LevelDB still takes for data it was given.
 */
import { Footprint, tableBytes } from '../files/footprint.ts'
import type { SpaceGuard } from '../files/space-guard.ts'
import type { StoreDatabase } from '../files/store-database.ts'
import { numberKey, Table } from '../format/format.ts'
import type { StoreFigures } from '../store.ts'
import type { JournalTail } from './journal-tail.ts'
import type { PageCollector } from './page-collector.ts'

const MIB = 1024 * 1024
/** Deleted pages that are worth a compaction. */
const COMPACT_BYTES = 64 * MIB
/** Deleted pages that are worth a compaction where space is short. */
const SHORT_COMPACT_BYTES = 16 * MIB
/** Smaller logs are not worth a table of their own, not even where space is short. */
const SETTLE_BYTES = MIB
/** Table bytes beyond the stored messages that are worth looking through all tables. */
const GARBAGE_BYTES = 16 * MIB
/** Bytes of tables for one compaction. It may rewrite ten more tables that overlap with these. */
const SWEEP_BYTES = 1024 * MIB
/** Calls of `relieve`, four per second, between the first two looks through all tables. Doubles each time. */
const SWEEP_TICKS = 20
const SWEEP_DOUBLINGS_MAX = 8
/** A range behind all keys: compacting it only moves LevelDB's log into a table. */
const NO_KEYS = [Buffer.from([0xff, 0xff]), Buffer.from([0xff, 0xff])] as const

type KeyRange = readonly [from: Buffer, to: Buffer]

export class DatabaseCompactor {
  readonly #database: StoreDatabase
  readonly #collector: PageCollector
  readonly #tail: JournalTail
  readonly #figures: Readonly<StoreFigures>
  readonly #space: SpaceGuard
  readonly #writeBufferBytes: number
  readonly #footprint: Footprint
  #running: Promise<void> | null = null
  /** Calls of `relieve` until all tables are looked through again. */
  #ticksToSweep = 0
  /** How often all tables were looked through. */
  #sweeps = 0

  constructor(
    database: StoreDatabase,
    collector: PageCollector,
    tail: JournalTail,
    figures: Readonly<StoreFigures>,
    space: SpaceGuard,
    writeBufferBytes: number,
  ) {
    this.#database = database
    this.#collector = collector
    this.#tail = tail
    this.#figures = figures
    this.#space = space
    this.#writeBufferBytes = writeBufferBytes
    this.#footprint = new Footprint(writeBufferBytes)
  }

  /** The compaction that is under way. Never rejects. */
  get running(): Promise<void> | null {
    return this.#running
  }

  /** Bytes of disk that LevelDB may still take for data that was written already. */
  neededBytes(): number {
    const { db, isReadable } = this.#database
    return isReadable ? this.#footprint.neededBytes(db.getProperty('leveldb.stats')) : 0
  }

  /** Notes that a commit of this size was written. */
  wrote(bytes: number): void {
    this.#footprint.wrote(bytes)
    this.#space.wrote(bytes)
    // LevelDB moves a memory table that is too large into a table with the next write, which may never come.
    if (bytes > this.#writeBufferBytes) this.#start([NO_KEYS])
  }

  /** Compacts the ranges in which many pages were deleted, if there is room for it. */
  compactDeleted(): void {
    if (this.#running !== null) return
    if (this.#space.isRoomy) this.#start(this.#collector.compactable(COMPACT_BYTES))
  }

  /**
   * Gains space, which is short. Moves LevelDB's log into a table, because a full disk keeps the store from
   * being opened as long as the log is long. Where there is room for merges (`roomy`), deleted pages are
   * dropped sooner. Deletes of earlier runs are not known, so all tables are looked through now and then.
   */
  relieve(roomy: boolean): void {
    if (!this.#database.isOpen || this.#running !== null) return
    const ranges = roomy ? this.#collector.compactable(SHORT_COMPACT_BYTES) : []
    if (this.#footprint.loggedBytes >= SETTLE_BYTES) ranges.unshift(NO_KEYS)
    if (roomy && --this.#ticksToSweep < 0) {
      // How much a sweep can drop depends on the merges so far: it is tried again, ever more seldom.
      this.#ticksToSweep = SWEEP_TICKS << Math.min(this.#sweeps++, SWEEP_DOUBLINGS_MAX)
      const bytes = tableBytes(this.#database.db.getProperty('leveldb.stats'))
      if (bytes - this.#figures.storedBytes > GARBAGE_BYTES) {
        ranges.push(...this.#allPages(Math.ceil(bytes / SWEEP_BYTES)))
      }
    }
    this.#start(ranges)
  }

  #allPages(pieces: number): KeyRange[] {
    const pages = Math.ceil(this.#tail.nextPage / pieces)
    return Array.from({ length: pieces }, (_, piece) => [
      numberKey(Table.Journal, piece * pages),
      numberKey(Table.Journal, (piece + 1) * pages - 1),
    ])
  }

  /** Compacts the ranges unless a compaction is under way. Each begins with moving the log into a table. */
  #start(ranges: readonly KeyRange[]): void {
    if (ranges.length === 0 || this.#running !== null) return
    const { loggedBytes } = this.#footprint
    this.#running = this.#compact(ranges).finally(() => {
      this.#running = null
      this.#footprint.settled(loggedBytes)
    })
  }

  async #compact(ranges: readonly KeyRange[]): Promise<void> {
    try {
      for (const [from, to] of ranges) {
        if (!this.#database.isOpen) return
        await this.#database.flush()
        await this.#database.db.compactRange(from, to)
      }
    } catch (error) {
      this.#database.backgroundFailed(error)
    }
  }
}
