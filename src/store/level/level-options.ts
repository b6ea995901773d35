/** The options of a store on disk, and their defaults. */
import { type BatchMaker, openBatch } from '../files/database.ts'
import { type FreeSpaceProbe, freeSpace } from '../files/space-guard.ts'

const MIB = 1024 * 1024

export interface LevelStoreOptions {
  readonly directory: string
  /** Whether a commit waits for fsync. A commit that does not survives the process, but not the machine. */
  readonly sync: boolean
  /** Without `sync`: seconds after which commits are synced together; 0, the default, for never. */
  readonly syncEverySeconds?: number
  /** The least time between two commits while many clients publish; 0, the default, for no waiting. */
  readonly commitPaceMs?: number
  /**
   * Memory that bodies and entries of stored messages may take. Bodies beyond it are read back from disk when
   * they are needed.
   */
  readonly residentBytesMax: number
  /** Free bytes of disk below which new work is refused. */
  readonly reserveBytes: number
  /** Bytes of journal that a start may have to replay before Sessions are checkpointed; 32 MiB by default. */
  readonly checkpointJournalBytes?: number
  /**
   * Bytes of LevelDB's write buffer, at least 64 KiB; 8 MiB by default. A larger one stalls commits longer:
   * 16 ms at 64 MiB, 4 ms at 8 MiB.
   */
  readonly writeBufferBytes?: number
  /** Memory that segments of logs may take which were read back; 64 MiB by default. */
  readonly logCacheBytesMax?: number
  /** Memory of segments of logs that still grow; 16 MiB by default. */
  readonly openLogBytesMax?: number
  /**
   * Bytes of each half of the redo log, whole blocks of 4 KiB; 2 MiB by default. Ten commits a second fill it
   * in a minute, and emptying it costs about as much as five commits.
   */
  readonly redoHalfBytes?: number
  readonly freeSpace?: FreeSpaceProbe
  /** Begins a batch. Tests use it to make a batch fail, or to keep what is written. */
  readonly openBatch?: BatchMaker
}

/** The options with all defaults filled in. */
export type LevelSettings = Required<LevelStoreOptions>

export function levelSettings(options: LevelStoreOptions): LevelSettings {
  return {
    syncEverySeconds: 0,
    commitPaceMs: 0,
    checkpointJournalBytes: 32 * MIB,
    writeBufferBytes: 8 * MIB,
    logCacheBytesMax: 64 * MIB,
    openLogBytesMax: 16 * MIB,
    redoHalfBytes: 2 * MIB,
    freeSpace,
    openBatch,
    ...options,
  }
}
