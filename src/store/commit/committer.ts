/**
 * HOT. Commits blocks in order. One commit is in flight at a time; everything recorded meanwhile is the next
 * one. So the latency of the disk sets the size of a commit, and an idle broker adds none.
 *
 * A commit is one atomic LevelDB batch: all pages of the block, and all table writes of the same turns.
 */
import type { Message } from '../../mqtt/message.ts'
import type { Histogram } from '../../structures/histogram.ts'
import type { StoreDatabase } from '../files/store-database.ts'
import type { StateSource, StoreFigures } from '../store.ts'
import type { BlockSealer } from './block-sealer.ts'
import type { BodyReader } from './body-reader.ts'
import type { CommitPace } from './commit-pace.ts'
import type { CommitProgress } from './commit-progress.ts'
import type { DatabaseCompactor } from './database-compactor.ts'
import { GroupCommit } from './group-commit.ts'
import type { LogRecords } from './log-records.ts'
import type { PageCompactor } from './page-compactor.ts'
import type { PendingCommit } from './pending-commit.ts'

/** The commit in flight. One object serves all commits. */
class Flight {
  /** When its block was sealed, in ms. */
  sealedAt = 0
  bytes = 0
  /** Bytes of its records, as `PendingCommit.bytes` counts them. */
  recordBytes = 0
  /** Messages whose bodies are in it. */
  messages: Message[] = []
}

/** The parts of the store that a commit concerns. */
export interface CommitterParts {
  readonly database: StoreDatabase
  readonly source: StateSource
  readonly progress: CommitProgress
  readonly pending: PendingCommit
  readonly sealer: BlockSealer
  readonly reader: BodyReader
  readonly pageCompactor: PageCompactor
  readonly compactor: DatabaseCompactor
  readonly figures: StoreFigures
  readonly latency: Histogram
  readonly pace: CommitPace
  readonly logs: LogRecords
}

export class Committer {
  readonly #parts: CommitterParts
  readonly #progress: CommitProgress
  readonly #pending: PendingCommit
  readonly #flight = new Flight()
  /** Settles when the commit in flight is durable or has failed. Never rejects. */
  #inFlight: Promise<void> | null = null
  /** `commit` was called for the open block. */
  #isWanted = false
  readonly #groupCommit = new GroupCommit()
  /** Looks whether clients that were just answered are back; null while none are waited for. */
  #look: (() => void) | null = null
  /** Runs while the open block waits for company; null otherwise. */
  #paceTimer: NodeJS.Timeout | null = null

  constructor(parts: CommitterParts) {
    this.#parts = parts
    this.#progress = parts.progress
    this.#pending = parts.pending
  }

  /** Bytes that are recorded and not yet durable. */
  get pendingBytes(): number {
    return this.#pending.bytes + this.#flight.bytes
  }

  /**
   * Seals the open block and starts its commit. Until that is possible, and while the block waits for
   * company, the commit is wanted. `company` counts the clients that `CommitPace` calls so.
   */
  commit(company: number): void {
    this.#parts.pace.came(company)
    if (!this.#parts.database.isOpen || this.#pending.isEmpty) return
    this.#isWanted = true
    if (this.#look === null) this.#sealWanted()
  }

  /** With nothing else to commit, deletes the pages that nobody needs any more, if they are many. */
  deleteDeadPages(): void {
    if (!this.#parts.database.isOpen || this.#inFlight !== null || this.#progress.atomicSections > 0) return
    if (this.#parts.sealer.hasManyDeadPages) this.#seal(false)
  }

  /** Writes everything that is left, and the mark of a clean end. Returns early when a commit fails. */
  async finish(): Promise<void> {
    const { database, sealer } = this.#parts
    while (this.#inFlight !== null) await this.#inFlight
    while (database.isClosing && !sealer.isSettled) {
      this.#seal(true)
      await this.#inFlight
    }
  }

  /** The store has failed: nothing is committed any more. */
  stop(): void {
    this.#endWaiting()
    this.#inFlight = null
    this.#pending.dropBatch()
  }

  #seal(closing: boolean): void {
    const { sealer, pageCompactor, pace } = this.#parts
    const pending = this.#pending
    const flight = this.#flight
    const sequence = this.#progress.sealed + 1
    flight.sealedAt = performance.now()
    pace.sealed(flight.sealedAt)
    this.#endWaiting()
    flight.recordBytes = pending.bytes
    sealer.seal(sequence, closing)
    const bytes = pending.sealedBytes()
    pageCompactor.sealed()
    const written = pending.handOver(sequence, closing)
    this.#progress.sealed = sequence
    sealer.wrote(bytes)
    flight.bytes = bytes
    flight.messages = pending.clear()
    this.#isWanted = false
    this.#inFlight = written.then(
      () => this.#durable(sequence),
      (error: unknown) => this.#parts.database.commitFailed(error),
    )
  }

  #durable(sequence: number): void {
    const { database, compactor, figures, latency, pace, pageCompactor, source, reader } = this.#parts
    const flight = this.#flight
    this.#inFlight = null
    const { bytes } = flight
    flight.bytes = 0
    compactor.wrote(bytes)
    this.#progress.committed = sequence
    database.committed()
    figures.commits++
    const now = performance.now()
    const tookMs = now - flight.sealedAt
    latency.add(tookMs)
    pageCompactor.durable()
    this.#parts.logs.durable(sequence)
    const { messages } = flight
    flight.messages = []
    const isPaced = pace.waitMs(now, this.#pending.bytes) > 0
    const waits = !isPaced && this.#groupCommit.begins(flight.recordBytes, this.#pending.bytes)
    // The disk starts on newer records before acknowledgements are written.
    if (!waits) this.#sealWanted()
    source.committed(sequence)
    reader.evictCommitted(messages)
    if (!database.isOpen) return
    if (waits) this.#wait(tookMs)
    else if (!this.#sealWanted()) this.deleteDeadPages()
    this.#tidy()
  }

  /**
   * Lets the next commit wait for the clients that were just answered, for no longer than the last one took.
   */
  #wait(tookMs: number): void {
    this.#groupCommit.waits(tookMs, performance.now())
    const look = (): void => {
      // A block that was sealed meanwhile has ended the waiting.
      if (this.#look !== look) return
      if (!this.#groupCommit.isOver(this.#pending.bytes, performance.now())) {
        setImmediate(look)
        return
      }
      this.#look = null
      this.#sealWanted()
    }
    this.#look = look
    setImmediate(look)
  }

  /** Starts the next commit if it is wanted and possible, or lets it wait; returns whether it will come. */
  #sealWanted(): boolean {
    if (!this.#parts.database.isOpen || this.#inFlight !== null) return false
    if (!this.#isWanted || this.#pending.isEmpty || this.#progress.atomicSections > 0) return false
    const waitMs = this.#parts.pace.waitMs(performance.now(), this.#pending.bytes)
    if (waitMs <= 0) this.#seal(false)
    else this.#paceTimer ??= setTimeout(() => this.#companyIsComplete(), Math.ceil(waitMs))
    return true
  }

  #companyIsComplete(): void {
    this.#paceTimer = null
    this.#sealWanted()
  }

  #endWaiting(): void {
    this.#look = null
    if (this.#paceTimer === null) return
    clearTimeout(this.#paceTimer)
    this.#paceTimer = null
  }

  /** Starts background work that the commit may have made worth while. */
  #tidy(): void {
    const { database, pageCompactor, compactor } = this.#parts
    if (pageCompactor.hasWork) {
      pageCompactor.start().then(
        (hasCopied) => {
          if (hasCopied) this.commit(0)
        },
        (error: unknown) => database.backgroundFailed(error),
      )
    }
    compactor.compactDeleted()
  }
}
