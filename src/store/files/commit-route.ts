/**
 * HOT. Decides which commits go to the redo log first, and which to the database itself.
 */
import type { BatchOperation } from '../format/format.ts'
import { redoBytes, redoLength } from '../format/redo-record.ts'

/** A larger commit is not written twice. */
export const LOGGED_BYTES_MAX = 64 * 1024
/** After a large commit, so many go to the database, too: others like it often follow. */
const DIRECT_COMMITS = 16
/**
 * Where the commits of an interval are synced together: with more bytes than this between two syncs, writing
 * them twice costs more than the file system adds to the sync of a growing file.
 */
const INTERVAL_BYTES_MAX = 64 * 1024
/** Syncs with fewer than half of these bytes, one after the other, before commits go to the log again. */
const QUIET_SYNCS = 8

/** `operations` are those of the next commit; null for one that was handed over in parts, so a large one. */
export interface CommitRoute {
  isDirect(operations: readonly BatchOperation[] | null): boolean
  /** An interval has ended: all commits before are synced. */
  synced(): void
}

/** Each commit is synced by itself. */
export class SingleSyncRoute implements CommitRoute {
  readonly #bytesMax: number
  #direct = 0

  /** `logBytesMax` is the most that fits into the log. */
  constructor(logBytesMax: number) {
    this.#bytesMax = Math.min(LOGGED_BYTES_MAX, logBytesMax)
  }

  isDirect(operations: readonly BatchOperation[] | null): boolean {
    if (operations === null || redoBytes(operations) > this.#bytesMax) this.#direct = 1 + DIRECT_COMMITS
    if (this.#direct === 0) return false
    this.#direct--
    return true
  }

  synced(): void {}
}

/** The commits of an interval are synced together. */
export class SharedSyncRoute implements CommitRoute {
  readonly #bytesMax: number
  /** Since the latest sync. */
  #bytes = 0
  /** How many quiet syncs are missing until commits go to the log; 0 while they do. */
  #untilLogged = 0

  /** `logBytesMax` is the most that fits into the log. */
  constructor(logBytesMax: number) {
    this.#bytesMax = Math.min(INTERVAL_BYTES_MAX, logBytesMax)
  }

  isDirect(operations: readonly BatchOperation[] | null): boolean {
    this.#bytes += operations === null ? this.#bytesMax + 1 : redoLength(operations)
    if (this.#bytes > this.#bytesMax) this.#untilLogged = QUIET_SYNCS
    return this.#untilLogged > 0
  }

  synced(): void {
    if (this.#untilLogged > 0 && this.#bytes < this.#bytesMax / 2) this.#untilLogged--
    this.#bytes = 0
  }
}
