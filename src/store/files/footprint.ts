/** How much disk LevelDB still takes for what it was given, before it gives back what it copied. */

/**
 * What is written lies in the log, then in a table of level 0, then in a merged table of level 1, and each copy is
 * deleted only when the next one is durable. Snappy may make tables smaller; that is not relied upon.
 */
export const COPIES = 3

const MIB = 1024 * 1024
/** LevelDB ends a table that has become so large; one value more may be in it. */
export const TABLE_BYTES = 8 * MIB
/** LevelDB adds tables to a merge as long as they overlap nothing more. */
const MERGED_TABLES = 4
/** Level, files and MiB of a line of `leveldb.stats`. */
const LEVEL_LINE = /^\s*(\d+)\s+(\d+)\s+(\d+)\s/gm

/** Follows LevelDB's log: a memory table that is full goes to a table file, while the next one is filled. */
export class Footprint {
  readonly #writeBufferBytes: number
  #activeBytes = 0
  #fullBytes = 0

  constructor(writeBufferBytes: number) {
    this.#writeBufferBytes = writeBufferBytes
  }

  /** Bytes that are in no table yet, at most: opening the store after a crash copies them. */
  get loggedBytes(): number {
    return this.#activeBytes + this.#fullBytes
  }

  /** The memory table takes a batch as a whole, so that it may be larger than the write buffer. */
  wrote(bytes: number): void {
    if (this.#activeBytes > this.#writeBufferBytes) {
      this.#fullBytes = this.#activeBytes
      this.#activeBytes = 0
    }
    this.#activeBytes += bytes
  }

  /** What was logged at a moment, when `loggedBytes` was read, is in tables now. */
  settled(loggedBytes: number): void {
    this.#activeBytes = Math.max(0, this.loggedBytes - loggedBytes)
    this.#fullBytes = 0
  }

  /** The store was opened: its logs were copied into tables. */
  reset(): void {
    this.#activeBytes = 0
    this.#fullBytes = 0
  }

  /** Bytes that LevelDB may need for what it has, given its `leveldb.stats`. */
  neededBytes(stats: string): number {
    return this.loggedBytes * (COPIES - 1) + mergeBytes(stats)
  }
}

/** Bytes of all tables. */
export function tableBytes(stats: string): number {
  let sum = 0
  for (const [, , , mebibytes] of stats.matchAll(LEVEL_LINE)) sum += Number(mebibytes) * MIB
  return sum
}

/**
 * The largest merge that may be due: of all of levels 0 and 1, since tables of level 0 overlap; or of tables of one
 * level with those of the next one that they overlap, which LevelDB keeps below ten (MaxGrandParentOverlapBytes). It
 * comes near that: the store's description is the first key and the newest page one of the last, and a table that
 * holds both overlaps everything in between.
 */
export function mergeBytes(stats: string): number {
  const bytes: number[] = []
  const meanBytes: number[] = []
  for (const [, level, files, mebibytes] of stats.matchAll(LEVEL_LINE)) {
    // Rounded by LevelDB.
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
