/**
 * HOT. The durable store: a journal of blocks, checkpoints and tables in one LevelDB. See `format.ts` for the
 * layout.
 *
 * A turn's records fill the open block and its table writes (`PendingCommit`); `Committer` makes them
 * durable. Both belong to one opening of the database. LevelStore joins the parts, and keeps the little that
 * outlives an opening.
 */
import type { Delivery, Message } from '../../mqtt/message.ts'
import { Histogram } from '../../structures/histogram.ts'
import { exceedsMemory } from '../commit/body-reader.ts'
import { CommitProgress } from '../commit/commit-progress.ts'
import { Ballast } from '../files/ballast.ts'
import { isStoreFile, removeFounded } from '../files/data-directory.ts'
import { storeError } from '../files/failure.ts'
import { SpaceGuard } from '../files/space-guard.ts'
import type { Entry } from '../format/container.ts'
import { FORMAT_VERSION } from '../format/format.ts'
import { HeldBytes } from '../held-bytes.ts'
import {
  type Parked,
  type Recovered,
  type RecoveredSession,
  type SessionRecord,
  type StateSource,
  type Store,
  StoreError,
  type StoreFigures,
  type SubscriptionRecord,
  type TimeDoubt,
  type WillRecord,
} from '../store.ts'
import { snapshotSlices } from './backup.ts'
import { LevelLogs } from './level-logs.ts'
import { type LevelSettings, type LevelStoreOptions, levelSettings } from './level-options.ts'
import { FOUNDING_SEQUENCE, openStore, prepareDirectory, type StoreParts } from './open-store.ts'

/**
 * Share of the reserve that the ballast takes. A store needs this much to be opened and drained on a full
 * disk.
 */
const BALLAST_SHARE = 0.5
const BALLAST_BYTES_MAX = 64 * 1024 * 1024

type State = 'closed' | 'open' | 'closing' | 'failed'

export class LevelStore implements Store {
  readonly held = new HeldBytes()
  readonly canPark = true
  readonly logs = new LevelLogs({
    recording: () => this.#recording(),
    opened: () => this.#opened(),
    present: () => this.#parts,
  })
  readonly #settings: LevelSettings
  readonly #space: SpaceGuard
  readonly #progress = new CommitProgress()
  #state: State = 'closed'
  /** The parts of the latest opening. Null before the first one, and while the store is opened again. */
  #parts: StoreParts | null = null
  /** Set by `open`. */
  #source: StateSource | null = null
  #figures: StoreFigures = newFigures()
  #commitLatency = new Histogram()
  /** Directories that were made for a store that this opening founded; null when there was a store. */
  #madeFor: readonly string[] | null = null
  /** Settles when the database is closed. */
  #closed: Promise<void> = Promise.resolve()
  #failure: StoreError | null = null

  constructor(options: LevelStoreOptions) {
    this.#settings = levelSettings(options)
    const { directory, reserveBytes, freeSpace } = this.#settings
    const ballastBytes = Math.min(Math.floor(reserveBytes * BALLAST_SHARE), BALLAST_BYTES_MAX)
    const user = {
      neededBytes: () => this.#parts?.compactor.neededBytes() ?? 0,
      settle: (roomy: boolean) => this.#parts?.compactor.relieve(roomy),
    }
    const ballast = ballastBytes === 0 ? null : new Ballast(directory, ballastBytes)
    this.#space = new SpaceGuard(directory, reserveBytes, freeSpace, user, ballast)
  }

  get openSequence(): number {
    return this.#progress.sealed + 1
  }

  get recordedSequence(): number {
    const isEmpty = this.#parts === null || this.#parts.pending.isEmpty
    return isEmpty ? this.#progress.sealed : this.#progress.sealed + 1
  }

  get committedSequence(): number {
    return this.#progress.committed
  }

  /** The newest block that was synced, with all before it. Kept only where commits are synced together. */
  get syncedSequence(): number {
    return this.#progress.synced
  }

  get pendingBytes(): number {
    return this.#parts === null ? 0 : this.#parts.committer.pendingBytes
  }

  get refusal(): string | null {
    return this.refusalFor(0)
  }

  get roomBytes(): number {
    return this.#space.roomBytes(this.pendingBytes)
  }

  get shortRoomBytes(): number {
    return this.#space.shortRoomBytes
  }

  get figures(): Readonly<StoreFigures> {
    return this.#figures
  }

  get commitLatency(): Histogram {
    return this.#commitLatency
  }

  get isMemoryShort(): boolean {
    return exceedsMemory(this.#figures, this.#settings.residentBytesMax)
  }

  /** The format of the store on disk: an earlier one until the first commit. */
  get format(): number {
    return this.#parts?.database.format ?? FORMAT_VERSION
  }

  countEntries(bytes: number): void {
    this.#figures.entryBytes += bytes
  }

  refusalFor(bytes: number): string | null {
    return this.#space.refusalFor(this.pendingBytes + bytes)
  }

  evict(bytes: number): number {
    return this.#parts?.bodies.evictOldest(bytes, this.#progress.committed) ?? 0
  }

  // ── records ─────────────────────────────────────────────────────────────────────────────────────────────

  putSession(sessionId: number, record: SessionRecord): void {
    this.#recording()?.sessions.putSession(sessionId, record)
  }

  deleteSession(sessionId: number, held: Iterable<Message | Parked>): void {
    this.#recording()?.sessions.deleteSession(sessionId, held)
  }

  putSubscription(sessionId: number, filter: string, record: SubscriptionRecord): void {
    this.#recording()?.sessions.putSubscription(sessionId, filter, record)
  }

  deleteSubscription(sessionId: number, filter: string): void {
    this.#recording()?.sessions.deleteSubscription(sessionId, filter)
  }

  enqueue(sessionId: number, delivery: Delivery): void {
    this.#recording()?.sessions.enqueue(sessionId, delivery)
  }

  sent(sessionId: number, packetId: number): void {
    this.#recording()?.sessions.sent(sessionId, packetId)
  }

  dropped(sessionId: number, message: Message): void {
    this.#recording()?.sessions.dropped(sessionId, message)
  }

  droppedParked(sessionId: number, parked: Parked): void {
    this.#recording()?.sessions.droppedParked(sessionId, parked)
  }

  received(sessionId: number, packetId: number, message: Message | null): void {
    this.#recording()?.sessions.received(sessionId, packetId, message)
  }

  completed(sessionId: number, packetId: number, message: Message | null): void {
    this.#recording()?.sessions.completed(sessionId, packetId, message)
  }

  inboundAdded(sessionId: number, packetId: number, digest: number): void {
    this.#recording()?.sessions.inboundAdded(sessionId, packetId, digest)
  }

  inboundRemoved(sessionId: number, packetId: number): void {
    this.#recording()?.sessions.inboundRemoved(sessionId, packetId)
  }

  park(delivery: Delivery, onto: Parked | null): Parked | null {
    return this.#parts?.sessions.park(delivery, onto) ?? null
  }

  unpark(parked: Parked, count: number): Delivery[] {
    return this.#opened().sessions.unpark(parked, count)
  }

  peek(parked: Parked, index: number): Delivery {
    return this.#opened().sessions.peek(parked, index)
  }

  requeue(sessionId: number, parked: Parked, now: number, gone: (delivery: Delivery) => void): Parked[] {
    return this.#recording()?.sessions.requeue(sessionId, parked, now, gone) ?? [parked]
  }

  putRetained(message: Message, liveAt: number): void {
    this.#recording()?.pending.setRetained(message.topic.name, message, liveAt)
  }

  deleteRetained(topic: string): void {
    this.#recording()?.pending.setRetained(topic, null, 0)
  }

  putWill(clientId: string, record: WillRecord): void {
    this.#recording()?.pending.setWill(clientId, record)
  }

  deleteWill(clientId: string): void {
    this.#recording()?.pending.setWill(clientId, null)
  }

  recordTime(): void {
    this.#recording()?.pending.wantTime()
  }

  putDoubt(doubt: TimeDoubt | null): void {
    this.#recording()?.times.putDoubt(doubt)
  }

  /** For a store that is filled from records: everything recorded so far was stored before the doubt. */
  restoreDoubt(doubt: TimeDoubt): void {
    this.#opened().times.restoreDoubt(doubt)
  }

  /** For a store that is filled from records: appends an entry under its old sequence. */
  restoreEntry(log: number, sequence: number, message: Message, appendedAt: number): void {
    this.#opened().logRecords.restore(log, sequence, message, appendedAt)
  }

  isOld(message: Message): boolean {
    return this.#parts?.times.isOld(message) ?? false
  }

  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void {
    this.#recording()?.times.postpone(ms, since, held)
    this.#recording()?.logRecords.postpone(ms, since)
  }

  beginAtomic(): void {
    this.#progress.atomicSections++
  }

  endAtomic(): void {
    this.#progress.atomicSections--
  }

  get paceMs(): number {
    return this.#settings.commitPaceMs
  }

  commit(company = 0): void {
    this.#parts?.committer.commit(company)
  }

  async restore(messages: readonly Message[]): Promise<void> {
    await this.#parts?.reader.restore(messages)
  }

  /**
   * Reads everything that is on disk at this moment or soon after, between two commits, in slices: for
   * backups. It costs disk space as long as it is read, so do not keep it waiting. Throws StoreError when
   * the store is not open, also when it is closed or fails meanwhile.
   */
  snapshot(): AsyncGenerator<readonly Entry[]> {
    if (this.#state !== 'open') {
      throw new StoreError('io', 'the store is not open', 'Try again when the broker serves its clients.')
    }
    const { database } = this.#opened()
    return snapshotSlices(database.db, this.#settings.directory, database.isFlushed ? null : database.flush())
  }

  // ── opening and closing ─────────────────────────────────────────────────────────────────────────────────

  async open(source: StateSource): Promise<Recovered> {
    if (this.#state === 'open' || this.#state === 'closing') throw new Error('the store is open')
    await this.#closed
    this.#source = source
    await this.#space.prepare()
    try {
      return await this.#attempt(source)
    } catch (error) {
      const isFull = error instanceof StoreError && error.kind === 'full'
      // A quota may withhold space that looks free. Only an attempt shows that.
      if (!isFull || !(await this.#space.release())) throw error
      return await this.#attempt(source)
    }
  }

  /** Syncs everything that is committed, now, where commits are synced together. */
  async sync(): Promise<void> {
    await this.#parts?.database.sync()
  }

  async close(): Promise<void> {
    if (this.#state === 'closing') throw new Error('the store is being closed')
    if (this.#state !== 'open') {
      await this.#closed
      return
    }
    const parts = this.#opened()
    this.#state = 'closing'
    parts.database.beginClosing()
    await this.#space.stop()
    await parts.committer.finish()
    if (this.#failure === null) await this.sync()
    if (this.#failure === null) {
      this.#closed = closeDatabase(parts)
      this.#state = 'closed'
    }
    await this.#closed
    if (this.#failure !== null) throw this.#failure
  }

  /**
   * Closes the store for a start that failed after it, and removes a store that was founded for that start.
   */
  async abandon(): Promise<void> {
    const isUnused = this.recordedSequence <= FOUNDING_SEQUENCE
    await this.close()
    if (isUnused) await this.#removeFounded()
  }

  async #attempt(source: StateSource): Promise<Recovered> {
    const { directory } = this.#settings
    this.#parts = null
    this.#figures = newFigures()
    this.#commitLatency = new Histogram()
    this.#failure = null
    // A store that an earlier opening founded is not this one's to remove.
    this.#madeFor = null
    try {
      const { files, made } = await prepareDirectory(directory)
      this.#madeFor = files.some(isStoreFile) ? null : made
      const { parts, recovered } = await openStore(
        {
          ...{ source, settings: this.#settings, space: this.#space, progress: this.#progress },
          ...{ figures: this.#figures, latency: this.#commitLatency, held: this.held },
          onFailure: (error) => this.#fail(error),
        },
        files,
      )
      this.#parts = parts
      await this.#space.start()
      parts.database.begin()
      this.#state = 'open'
      return { ...recovered, sessions: this.#handedOver(recovered.sessions) }
    } catch (error) {
      const failure = storeError(error, directory, 'opening it')
      // A process that has it open founded it. Leftovers matter less than the reason why the start failed.
      if (failure.kind !== 'locked') await this.#removeFounded().catch(() => {})
      throw failure
    }
  }

  /**
   * Hands Sessions over. Memory may turn out to be short only now; nothing was recorded, so nothing is
   * written.
   */
  *#handedOver(sessions: Iterable<RecoveredSession>): Generator<RecoveredSession, void, undefined> {
    try {
      yield* sessions
    } catch (error) {
      throw this.#end(error, 'opening it')
    }
  }

  /** Removes the store if this opening founded it. */
  async #removeFounded(): Promise<void> {
    const made = this.#madeFor
    if (made === null) return
    this.#madeFor = null
    await this.#space.release()
    await removeFounded(this.#settings.directory, made)
  }

  /**
   * Returns the parts to record with. Null when the store has failed: nothing is acknowledged any more, so
   * nothing needs to be recorded.
   */
  #recording(): StoreParts | null {
    if (this.#state === 'open') return this.#parts
    if (this.#state === 'failed') return null
    throw new Error(`the store is ${this.#state}`)
  }

  #opened(): StoreParts {
    if (this.#parts === null) throw new Error('the store is closed')
    return this.#parts
  }

  /** A commit has failed, or background work: memory is ahead of the disk. Only the first failure counts. */
  #fail(error: unknown): void {
    if (this.#state === 'failed') return
    this.#source!.failed(this.#end(error, 'writing'))
  }

  /** Ends the store because of an error. Returns the failure. */
  #end(error: unknown, doing: string): StoreError {
    const failure = storeError(error, this.#settings.directory, doing)
    const parts = this.#opened()
    this.#state = 'failed'
    this.#failure = failure
    parts.committer.stop()
    this.#closed = this.#closeFailed(parts, failure)
    return failure
  }

  async #closeFailed(parts: StoreParts, { kind }: StoreError): Promise<void> {
    const stopped = this.#space.stop()
    await closeDatabase(parts)
    await stopped
    if (kind === 'full') await this.#space.release()
  }
}

function newFigures(): StoreFigures {
  return { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
}

function closeDatabase({ database, compactor }: StoreParts): Promise<void> {
  return database.close(compactor.running)
}
