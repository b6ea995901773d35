/** HOT. How far the store has come, in sequence numbers of blocks. `synced` <= `committed` <= `sealed`. */

/**
 * It outlives one opening of the database: the Server reads it, and may end an atomic section, while the
 * store is being opened again.
 */
export class CommitProgress {
  /** The newest block that was handed to LevelDB. */
  sealed = 0
  /** The newest block that LevelDB has written: on disk, unless commits are synced together or not at all. */
  committed = 0
  /** The newest block that is known to be on disk. It is kept only where commits are synced together. */
  synced = 0
  /** Atomic sections that have begun and not ended. No block is sealed meanwhile, but by closing. */
  atomicSections = 0

  /** Notes that the store was opened and its journal ends with this block. LevelDB has synced all of it. */
  recovered(sequence: number): void {
    this.sealed = sequence
    this.committed = sequence
    this.synced = sequence
  }
}
