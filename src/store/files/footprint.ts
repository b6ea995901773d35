/** Estimates how much more disk LevelDB takes for data it was given, before it deletes the older copies. */

/**
 * Data is written to the log, then to a table of level 0, then to a merged table of level 1. Each copy is
 * deleted only when the next one is durable. Snappy may make tables smaller; nothing relies on that.
 */
export const COPIES = 3

const MIB = 1024 * 1024
/** LevelDB ends a table when it is this large; it may hold one value more. */
export const TABLE_BYTES = 8 * MIB
/** LevelDB adds tables to a merge while they overlap no further ones. */
const MERGED_TABLES = 4
/** Level, files and MiB in a line of `leveldb.stats`. */
const LEVEL_LINE = /^\s*(\d+)\s+(\d+)\s+(\d+)\s/gm

/** Follows LevelDB's log: a full memory table is written to a table file while the next one is filled. */
export class Footprint {
  readonly #writeBufferBytes: number
  #activeBytes = 0
  #fullBytes = 0

  constructor(writeBufferBytes: number) {
    this.#writeBufferBytes = writeBufferBytes
  }

  /** Upper bound of the bytes that are in no table yet. Opening the store after a crash copies them. */
  get loggedBytes(): number {
    return this.#activeBytes + this.#fullBytes
  }

  /** A batch was written. The memory table takes it as a whole, so it may exceed the write buffer. */
  wrote(bytes: number): void {
    if (this.#activeBytes > this.#writeBufferBytes) {
      this.#fullBytes = this.#activeBytes
      this.#activeBytes = 0
    }
    this.#activeBytes += bytes
  }

  /** Everything that was logged when `loggedBytes` was read is in tables now. */
  settled(loggedBytes: number): void {
    this.#activeBytes = Math.max(0, this.loggedBytes - loggedBytes)
    this.#fullBytes = 0
  }

  /** The store was opened: its logs were copied into tables. */
  reset(): void {
    this.#activeBytes = 0
    this.#fullBytes = 0
  }

  /** Bytes of disk that LevelDB may still need for the data it has, given its `leveldb.stats`. */
  neededBytes(stats: string): number {
    return this.loggedBytes * (COPIES - 1) + mergeBytes(stats)
  }
}

/** Returns the bytes of all tables. */
export function tableBytes(stats: string): number {
  let sum = 0
  for (const [, , , mebibytes] of stats.matchAll(LEVEL_LINE)) sum += Number(mebibytes) * MIB
  return sum
}

/**
 * The largest merge that may be due: of all of levels 0 and 1, since tables of level 0 overlap; or of tables
 * of one level with those of the next one that they overlap, which LevelDB keeps below ten
 * (MaxGrandParentOverlapBytes). Merges come near that bound: the store's description is the first key and the
 * newest page one of the last, and a table that holds both overlaps everything in between.
 */
export function mergeBytes(stats: string): number {
  const bytes: number[] = []
  const meanBytes: number[] = []
  for (const [, level, files, mebibytes] of stats.matchAll(LEVEL_LINE)) {
    // LevelDB rounds them.
    bytes[Number(level)] = (Number(mebibytes) + 1) * MIB
    meanBytes[Number(level)] = ((Number(mebibytes) + 1) * MIB) / Math.max(1, Number(files))
  }
  let most = (bytes[0] ?? 0) + (bytes[1] ?? 0)
  for (let level = 1; level < bytes.length; level++) {
    const merged = Math.min(bytes[level] ?? 0, MERGED_TABLES * (meanBytes[level] ?? 0))
    const overlapped = Math.min(bytes[level + 1] ?? 0, 10 * TABLE_BYTES + (meanBytes[level + 1] ?? 0))
    most = Math.max(most, merged + overlapped)
  }
  return most
}
