/**
 * HOT. Completes the open block: adds the checkpoints, the deletes and the description that go with its
 * records, then its pages.
 */
import type { BatchOperation } from '../format/format.ts'
import type { BodyIndex, Page } from '../journal/body-index.ts'
import { type Checkpoints, StoredSession } from '../journal/checkpoints.ts'
import type { Checkpointed, DirtyList } from '../journal/dirty-list.ts'
import { type GroupCheckpoints, StoredGroup } from '../logs/group-checkpoints.ts'
import type { StateSource } from '../store.ts'
import type { CommitProgress } from './commit-progress.ts'
import type { JournalTail } from './journal-tail.ts'
import type { PageCollector } from './page-collector.ts'
import type { PendingCommit, RecordingParts } from './pending-commit.ts'

const MIB = 1024 * 1024
/** Bytes of checkpoints in one commit are about this many and half the bytes of its block. */
const CHECKPOINT_BYTES = 32 * 1024
/** Bytes of checkpoints in one commit while the store is being closed. */
const CLOSING_CHECKPOINT_BYTES = 4 * MIB
/** More pages than this to replay also call for checkpoints: many small commits are slow to replay. */
const CHECKPOINT_PAGES = 65_536
/** Segments of old checkpoints that one commit deletes. */
const SEGMENT_DELETES_MAX = 128
/** Bytes of dead pages that are worth a commit of their own. */
const IDLE_DELETES_BYTES = 4 * MIB

export class BlockSealer {
  readonly #source: StateSource
  readonly #pending: PendingCommit
  readonly #progress: CommitProgress
  readonly #tail: JournalTail
  readonly #bodies: BodyIndex
  readonly #checkpoints: Checkpoints
  readonly #groups: GroupCheckpoints
  readonly #dirty: DirtyList<Checkpointed>
  readonly #collector: PageCollector
  readonly #checkpointJournalBytes: number

  /** When the journal to replay exceeds `checkpointJournalBytes`, Sessions and groups are checkpointed. */
  constructor(
    { pending, progress, tail, bodies, checkpoints }: RecordingParts,
    groups: GroupCheckpoints,
    dirty: DirtyList<Checkpointed>,
    source: StateSource,
    collector: PageCollector,
    checkpointJournalBytes: number,
  ) {
    this.#source = source
    this.#pending = pending
    this.#progress = progress
    this.#tail = tail
    this.#bodies = bodies
    this.#checkpoints = checkpoints
    this.#groups = groups
    this.#dirty = dirty
    this.#collector = collector
    this.#checkpointJournalBytes = checkpointJournalBytes
  }

  /** True when nothing is left to write before the database is closed. */
  get isSettled(): boolean {
    return this.#pending.isEmpty && this.#dirty.count === 0 && this.#collector.clean
  }

  /** True when deleting the pages that nobody needs any more is worth a commit of its own. */
  get hasManyDeadPages(): boolean {
    const { dead } = this.#bodies
    let bytes = 0
    for (let index = 0; index < dead.length && bytes < IDLE_DELETES_BYTES; index++)
      bytes += dead[index]!.bytes
    return bytes >= IDLE_DELETES_BYTES
  }

  /** Completes the operations of the pending commit, as the block with this number. */
  seal(sequence: number, closing: boolean): void {
    const source = this.#source
    const tail = this.#tail
    const { block } = this.#pending
    const first = block.firstPage()
    const operations = this.#pending.seal()
    this.#bodies.collectDead()
    this.#checkpoint(sequence, closing, operations)
    this.#checkpoints.sweep(SEGMENT_DELETES_MAX, operations)
    const watermark = this.#dirty.oldest()?.dirtyFrom ?? first
    const clean = closing && this.#dirty.count === 0
    this.#collector.seal(watermark, tail.writtenBytes, sequence, clean, operations)
    block.seal(
      {
        sequence,
        brokerTime: source.now(),
        wallTime: source.wallNow(),
        nextSession: tail.nextSession,
        bootTime: source.bootTime(),
      },
      this.#progress.synced,
      operations,
    )
  }

  /** Notes that a commit of this size, with the sealed block, was handed over to LevelDB. */
  wrote(bytes: number): void {
    this.#tail.wrote(bytes)
    this.#collector.wrote(bytes)
  }

  /** Checkpoints what is dirty for longest, when the journal has grown long or the store is being closed. */
  #checkpoint(sequence: number, closing: boolean, operations: BatchOperation[]): void {
    const { block } = this.#pending
    let left = closing ? CLOSING_CHECKPOINT_BYTES : CHECKPOINT_BYTES + block.bytes / 2
    while (left > 0) {
      const dirty = this.#dirty.oldest()
      if (dirty === undefined || !(closing || this.#isLong(dirty.dirtyFrom!))) return
      if (dirty instanceof StoredSession) left -= this.#session(dirty, sequence, left, operations)
      else if (dirty instanceof StoredGroup) left -= this.#group(dirty, sequence, operations)
    }
  }

  #session(session: StoredSession, sequence: number, bytesMax: number, operations: BatchOperation[]): number {
    const state = this.#source.outbound(session.id)
    if (state === undefined)
      throw new Error(`Session ${session.id} is stored, but the Server does not know it`)
    return this.#checkpoints.write(session, state, sequence, bytesMax, operations)
  }

  #group(group: StoredGroup, sequence: number, operations: BatchOperation[]): number {
    const state = this.#source.groups?.state(group.number)
    if (state === undefined)
      throw new Error(`group ${group.number} is stored, but the Server does not know it`)
    const bytes = this.#groups.write(group, state, sequence, operations)
    this.#dirty.cleaned(group)
    return bytes
  }

  #isLong(watermark: Page): boolean {
    return (
      this.#tail.writtenBytes - watermark.writtenBefore > this.#checkpointJournalBytes ||
      this.#tail.nextPage - watermark.number > CHECKPOINT_PAGES
    )
  }
}
