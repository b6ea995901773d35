/**
 * HOT. The durable store: a journal of blocks, checkpoints and tables in one LevelDB. See `format.ts` for the layout.
 *
 * A turn's records fill the open block: no promise, no closure, no LevelDB call per record. `commit` seals the block and
 * hands it to LevelDB as one atomic, synced batch, together with all table writes of the same turns. One batch is in
 * flight at a time; what is recorded meanwhile is the next one, so the disk's latency sets the size of a batch and an
 * idle broker adds none.
 */
import { access, constants, readdir } from 'node:fs/promises'
import { type Delivery, Message } from '../../mqtt/message.ts'
import { ChurnMap } from '../../structures/churn-map.ts'
import { Histogram } from '../../structures/histogram.ts'
import { SmallMap } from '../../structures/small-map.ts'
import { importAedes } from '../files/aedes-import.ts'
import { Ballast } from '../files/ballast.ts'
import {
  isMarkedAs,
  isStoreFile,
  MARKER,
  makeDirectory,
  markStore,
  refuseHeadless,
  refuseIncomplete,
  removeFounded,
} from '../files/data-directory.ts'
import {
  type BatchMaker,
  type Database,
  levelDatabase,
  type OpenBatch,
  openBatch,
} from '../files/database.ts'
import { storeError } from '../files/failure.ts'
import { Footprint, TABLE_BYTES, tableBytes } from '../files/footprint.ts'
import { LogSync } from '../files/log-sync.ts'
import { type FreeSpaceProbe, freeSpace, SpaceGuard } from '../files/space.ts'
import type { Entry } from '../format/container.ts'
import { ByteReader } from '../format/encoding.ts'
import { EntryFields } from '../format/entry.ts'
import { Extensions } from '../format/extensions.ts'
import {
  type BatchOperation,
  corrupt,
  FORMAT_VERSION,
  LOSS,
  META_KEY,
  numberKey,
  put,
  subscriptionKey,
  Table,
  TIME_KEY,
} from '../format/format.ts'
import { readPageHeader } from '../format/journal-page.ts'
import { readBody } from '../format/journal-record.ts'
import { decodeMeta, encodeMeta } from '../format/meta.ts'
import { OpenRetained } from '../format/retained.ts'
import { encodeTimes, type StoredDoubt } from '../format/time-record.ts'
import { HeldBytes } from '../held-bytes.ts'
import { Bodies, Page } from '../journal/bodies.ts'
import { Checkpoints, encodeSession, encodeSubscription, StoredSession } from '../journal/checkpoint.ts'
import { copied, OpenBlock, TopicCache } from '../journal/journal.ts'
import { type CutEnd, cutLogEnd } from '../journal/log-end.ts'
import { ParkedEntries } from '../journal/parked.ts'
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
import { GroupCommit } from './group-commit.ts'
import { HeapGuard } from './heap-guard.ts'
import { PageCollector } from './page-collector.ts'
import { PageCompactor } from './page-compactor.ts'
import { recover } from './recovery.ts'

const MIB = 1024 * 1024

export interface LevelStoreOptions {
  readonly directory: string
  /** Whether a commit waits for fsync; without, it survives the process but not the machine. */
  readonly sync: boolean
  /** Without `sync`: commits are synced together, every so many seconds; 0, the default, for never. */
  readonly syncEverySeconds?: number
  /** Bodies of stored messages that may stay in memory; beyond, they are read back from disk when needed. */
  readonly residentBytesMax: number
  /** Free bytes below which new work is refused. */
  readonly reserveBytes: number
  /** Journal that may have to be replayed at a start before Sessions are checkpointed; 32 MiB. */
  readonly checkpointJournalBytes?: number
  /** LevelDB's write buffer, at least 64 KiB; 8 MiB: larger ones make commits stall longer (16 ms at 64 MiB against 4). */
  readonly writeBufferBytes?: number
  readonly freeSpace?: FreeSpaceProbe
  /** Begins a batch. Tests put in one that fails or keeps what is written. */
  readonly openBatch?: BatchMaker
}

/** Checkpoints of one commit take about half as many bytes as its block, and this. */
const CHECKPOINT_BYTES = 32 * 1024
/** Of a commit while closing. */
const CLOSING_CHECKPOINT_BYTES = 4 * MIB
/** Pages to replay that also call for checkpoints: many small commits are slow to replay, too. */
const CHECKPOINT_PAGES = 65_536
const SEGMENT_DELETES_MAX = 128
/** Pages that one step of `restore` reads. */
const RESTORE_PAGES = 64
const TOPICS_MAX = 4096
/** Parked entries of ended Sessions that are released in one go: about a millisecond. */
const RELEASES_MAX = 4096
/** Bytes of dead pages that are worth a commit of their own. */
const IDLE_DELETES_BYTES = 4 * MIB
const COMPACT_BYTES = 64 * MIB
/** Logs smaller than this are not worth a table of their own, also where space is short. */
const SETTLE_BYTES = MIB
/** Deleted pages that are worth a compaction where space is short. */
const SHORT_COMPACT_BYTES = 16 * MIB
/** What tables hold beyond the messages that are stored, that is worth looking through all of them. */
const GARBAGE_BYTES = 16 * MIB
/** Of tables, for one compaction; each may rewrite ten tables more than it is about. */
const SWEEP_BYTES = 1024 * MIB
/** The block that a store is founded with. */
const FOUNDING_SEQUENCE = 1
/** Calls of `#tidyDisk`, four per second, to the second look through all tables; it doubles with each. */
const SWEEP_TICKS = 20
const SWEEP_DOUBLINGS_MAX = 8
/** Behind all keys: compacting it only moves LevelDB's log into a table. */
const NO_KEYS = [Buffer.from([0xff, 0xff]), Buffer.from([0xff, 0xff])] as const
/** Of the reserve; so much space a store needs to be opened and drained on a full disk. */
const BALLAST_SHARE = 0.5
const BALLAST_BYTES_MAX = 64 * MIB
/**
 * So many table writes of the open block are handed over before it is sealed, about 3 ms of work: while the disk is slow a
 * block grows to 16 MiB, 80,000 retained messages, and to encode and copy all of them at once took a third of a second.
 */
const EARLY_OPERATIONS = 1024
/** What a LevelDB batch adds to each entry, and JavaScript with it; for the bounds that count bytes. */
const ENTRY_BYTES = 32

type State = 'closed' | 'open' | 'closing' | 'failed'

/** Messages that were read back together. */
interface RestoredGroup {
  messages: readonly Message[]
  readonly sequence: number
}

/** A message to be read back, and where its body lay when that began. */
interface Wanted {
  readonly message: Message
  readonly offset: number
}

export class LevelStore implements Store {
  readonly held = new HeldBytes()
  readonly #options: Required<LevelStoreOptions>
  readonly #space: SpaceGuard
  readonly #footprint: Footprint
  #state: State = 'closed'
  #db: Database | null = null
  #source: StateSource | null = null
  readonly parks = true
  #figures: StoreFigures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
  #commitLatency = new Histogram()
  #bodies = new Bodies(this.#figures, this.held)
  /** Of all that is parked. */
  #extensions = new Extensions()
  #checkpoints = new Checkpoints(this.#bodies)
  #pageCompactor = new PageCompactor(this.#bodies)
  #pageCollector: PageCollector | null = null
  #sessions = new ChurnMap<number, StoredSession>()
  #topics = new TopicCache(TOPICS_MAX)
  readonly #block: OpenBlock
  readonly #isSyncedTogether: boolean
  /** Directories that were made for a store that this start founded; null when there was one. */
  #madeFor: readonly string[] | null = null
  /** While the store is open, and commits are synced together. */
  #logSync: LogSync | null = null
  /** The newest block that is known to be synced, where commits are synced together. */
  #syncedSequence = 0
  #retained = new OpenRetained()
  /** Table writes of the open block. */
  #tables: BatchOperation[] = []
  #tableBytes = 0
  /** The open block's batch, where much of it was handed over already, and how many bytes. */
  #early: OpenBatch | null = null
  #earlyBytes = 0
  /** Messages whose bodies are in the open block, and in the one being committed. */
  #openMessages: Message[] = []
  #flyingMessages: Message[] = []
  #flyingBytes = 0
  #restored: RestoredGroup[] = []
  /** Parked entries of Sessions that ended, to be released by and by. */
  #ended: ParkedEntries[] = []
  #releasing = false
  readonly #entry = new EntryFields()
  /** When the block in flight was sealed, in ms. */
  #sealedAt = 0
  /** Bytes of its records. */
  #flyingRecordBytes = 0
  readonly #groupCommit = new GroupCommit()
  /** The next commit waits for more; what looks after it, to be told from an earlier one. */
  #gatherer: (() => void) | null = null
  #format = FORMAT_VERSION
  #sealedSequence = 0
  /** How many facts are being recorded that must be in one block. */
  #whole = 0
  #committedSequence = 0
  #nextPage = 1
  #nextSession = 1
  /** Bytes of all batches so far, since the beginning of the scan at open. */
  #writtenBytes = 0
  /** `commit` was called for what is recorded. */
  #wanted = false
  /** The next commit is wanted for its times, whatever else it has. */
  #timeWanted = false
  #doubt: StoredDoubt | null = null
  /** Of this run. */
  #firstNewPage = 1
  /** Bodies named by pages before this one are old: see `isOld`. */
  #oldBefore = 1
  #inFlight: Promise<void> | null = null
  #compacting: Promise<void> | null = null
  /** While space is short: calls of `#tidyDisk` until all pages are looked through again, and how often they were. */
  #ticksToSweep = 0
  #sweeps = 0
  #closed: Promise<void> = Promise.resolve()
  #failure: StoreError | null = null

  constructor(options: LevelStoreOptions) {
    this.#options = {
      syncEverySeconds: 0,
      checkpointJournalBytes: 32 * MIB,
      writeBufferBytes: 8 * MIB,
      freeSpace,
      openBatch,
      ...options,
    }
    const {
      directory,
      reserveBytes,
      writeBufferBytes,
      freeSpace: probe,
      sync,
      syncEverySeconds,
    } = this.#options
    this.#isSyncedTogether = !sync && syncEverySeconds > 0
    this.#block = new OpenBlock(
      () => this.#newPage(),
      () => this.#bodies.times,
      !this.#isSyncedTogether,
    )
    this.#footprint = new Footprint(writeBufferBytes)
    const ballastBytes = Math.min(Math.floor(reserveBytes * BALLAST_SHARE), BALLAST_BYTES_MAX)
    const user = { neededBytes: () => this.#neededBytes(), settle: (roomy: boolean) => this.#tidyDisk(roomy) }
    this.#space = new SpaceGuard(
      directory,
      reserveBytes,
      probe,
      user,
      ballastBytes === 0 ? null : new Ballast(directory, ballastBytes),
    )
  }

  get openSequence(): number {
    return this.#sealedSequence + 1
  }

  get recordedSequence(): number {
    return this.#recorded() ? this.#sealedSequence + 1 : this.#sealedSequence
  }

  get committedSequence(): number {
    return this.#committedSequence
  }

  /** Where commits are synced together: the newest block that was synced, and with it all before. */
  get syncedSequence(): number {
    return this.#syncedSequence
  }

  get pendingBytes(): number {
    return this.#openBytes + this.#flyingBytes
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

  evict(bytes: number): number {
    return this.#bodies.evictOldest(bytes, this.#committedSequence)
  }

  get commitLatency(): Histogram {
    return this.#commitLatency
  }

  get isShort(): boolean {
    const { residentBytes, entryBytes } = this.#figures
    return residentBytes + entryBytes > this.#options.residentBytesMax
  }

  countEntries(bytes: number): void {
    this.#figures.entryBytes += bytes
  }

  refusalFor(bytes: number): string | null {
    return this.#space.refusalFor(this.pendingBytes + bytes)
  }

  async open(source: StateSource): Promise<Recovered> {
    if (this.#state === 'open' || this.#state === 'closing') throw new Error('the store is open')
    await this.#closed
    this.#source = source
    await this.#space.prepare()
    try {
      return await this.#attempt()
    } catch (error) {
      const isFull = error instanceof StoreError && error.kind === 'full'
      // Free space that a quota keeps from us is not seen before.
      if (!isFull || !(await this.#space.release())) throw error
      return await this.#attempt()
    }
  }

  async #attempt(): Promise<Recovered> {
    this.#forget()
    this.#footprint.reset()
    this.#ticksToSweep = 0
    this.#sweeps = 0
    const { directory } = this.#options
    try {
      const recovered = await this.#opened(directory)
      await this.#space.start()
      this.#state = 'open'
      return recovered
    } catch (error) {
      const failure = storeError(error, directory, 'opening it')
      await this.#closeDatabase()
      // Whoever has it open founded it. What stays behind matters less than why the start failed.
      if (failure.kind !== 'locked') await this.#removeFounded().catch(() => {})
      throw failure
    }
  }

  putSession(sessionId: number, record: SessionRecord): void {
    if (!this.#recording()) return
    let session = this.#sessions.get(sessionId)
    if (session === undefined) {
      session = new StoredSession(sessionId, this.#nextSession++)
      this.#sessions.set(sessionId, session)
      this.#checkpoints.created(session, this.#sealedSequence, this.#tables)
    }
    this.#write(put(numberKey(Table.Session, session.number), encodeSession(sessionId, record)))
  }

  deleteSession(sessionId: number, held: Iterable<Message | Parked>): void {
    if (!this.#recording()) return
    const session = this.#session(sessionId)
    for (const item of held) {
      if (item instanceof Message) this.#bodies.release(item)
      else this.#ended.push(parkedHere(item))
    }
    this.#releaseEnded()
    this.#sessions.delete(sessionId)
    this.#write({ type: 'del', key: numberKey(Table.Session, session.number) })
    for (const filter of session.filters?.keys() ?? []) {
      this.#write({ type: 'del', key: subscriptionKey(session.number, filter) })
    }
    this.#checkpoints.deleted(session, this.#tables)
  }

  putSubscription(sessionId: number, filter: string, record: SubscriptionRecord): void {
    if (!this.#recording()) return
    const session = this.#session(sessionId)
    session.filters ??= new SmallMap()
    session.filters.set(filter, true)
    this.#write(put(subscriptionKey(session.number, filter), encodeSubscription(record)))
  }

  deleteSubscription(sessionId: number, filter: string): void {
    if (!this.#recording()) return
    const session = this.#session(sessionId)
    if (session.filters?.delete(filter) !== true) return
    this.#write({ type: 'del', key: subscriptionKey(session.number, filter) })
  }

  enqueue(sessionId: number, delivery: Delivery): void {
    if (!this.#recording()) return
    const session = this.#session(sessionId)
    const { message } = delivery
    const block = this.#block
    let body = this.#bodies.handle(message)
    if (body === null) {
      if (message.evicted) throw new Error('the body of an enqueued message is gone')
      const offset = block.body(message)
      body = this.#bodies.place(message, block.page, offset, message.retain)
      block.named(body)
      this.#openMessages.push(message)
    }
    body.refs++
    block.enqueue(session.number, delivery, body)
    this.#checkpoints.touch(session, block.firstPage())
  }

  sent(sessionId: number, packetId: number): void {
    const session = this.#touched(sessionId)
    if (session !== null) this.#block.sent(session.number, packetId)
  }

  dropped(sessionId: number, message: Message): void {
    const session = this.#touched(sessionId)
    if (session === null) return
    this.#block.dropped(session.number)
    this.#bodies.release(message)
  }

  droppedParked(sessionId: number, parked: Parked): void {
    const session = this.#touched(sessionId)
    if (session === null) return
    const entries = parkedHere(parked)
    for (let count = entries.length; count > 0; count--) this.#block.dropped(session.number)
    this.#ended.push(entries)
    this.#releaseEnded()
  }

  received(sessionId: number, packetId: number, message: Message): void {
    const session = this.#touched(sessionId)
    if (session === null) return
    this.#block.received(session.number, packetId)
    this.#bodies.release(message)
  }

  completed(sessionId: number, packetId: number, message: Message | null): void {
    const session = this.#touched(sessionId)
    if (session === null) return
    this.#block.completed(session.number, packetId)
    if (message !== null) this.#bodies.release(message)
  }

  park(delivery: Delivery, onto: Parked | null): Parked | null {
    const body = this.#bodies.handle(delivery.message)
    if (body === null || body.page.sequence > this.#committedSequence) return null
    const entries = onto instanceof ParkedEntries && !onto.full ? onto : new ParkedEntries(this.#extensions)
    const entry = this.#entry
    entry.describe(delivery)
    entry.page = body.namePage
    entry.offset = body.nameOffset
    entries.add(entry)
    this.#bodies.park(body)
    return entries
  }

  unpark(parked: Parked, count: number): Delivery[] {
    const entries = parkedHere(parked)
    const deliveries: Delivery[] = []
    const entry = this.#entry
    for (let index = 0; index < count; index++) {
      entries.read(index, entry)
      deliveries.push(entry.deliveryOf(this.#bodies.unpark(entry)))
    }
    entries.remove(count)
    return deliveries
  }

  peek(parked: Parked, index: number): Delivery {
    parkedHere(parked).read(index, this.#entry)
    return this.#entry.deliveryOf(this.#bodies.peek(this.#entry))
  }

  requeue(sessionId: number, parked: Parked, now: number, gone: (delivery: Delivery) => void): Parked[] {
    const session = this.#touched(sessionId)
    const entries = parkedHere(parked)
    if (session === null) return [entries]
    const block = this.#block
    const entry = this.#entry
    const kept: ParkedEntries[] = []
    let into: ParkedEntries | null = null
    for (let index = 0; index < entries.length; index++) {
      entries.read(index, entry)
      block.dropped(session.number)
      if (entry.expiresAt <= now) {
        const delivery = entry.deliveryOf(this.#bodies.peek(entry))
        this.#bodies.releaseParked(entry)
        gone(delivery)
        continue
      }
      block.enqueueFar(session.number, entry)
      if (into === null || into.full) {
        into = new ParkedEntries(this.#extensions)
        kept.push(into)
      }
      into.add(entry)
    }
    entries.remove(entries.length)
    return kept
  }

  inboundAdded(sessionId: number, packetId: number, digest: number): void {
    const session = this.#touched(sessionId)
    if (session !== null) this.#block.inboundAdded(session.number, packetId, digest)
  }

  inboundRemoved(sessionId: number, packetId: number): void {
    const session = this.#touched(sessionId)
    if (session !== null) this.#block.inboundRemoved(session.number, packetId)
  }

  putRetained(message: Message, liveAt: number): void {
    if (!this.#recording()) return
    this.#retained.setRetained(message.topic.name, message, liveAt)
    this.#retainedRecorded()
  }

  deleteRetained(topic: string): void {
    if (!this.#recording()) return
    this.#retained.setRetained(topic, null, 0)
    this.#retainedRecorded()
  }

  putWill(clientId: string, record: WillRecord): void {
    if (!this.#recording()) return
    this.#retained.setWill(clientId, record)
    this.#retainedRecorded()
  }

  deleteWill(clientId: string): void {
    if (!this.#recording()) return
    this.#retained.setWill(clientId, null)
    this.#retainedRecorded()
  }

  recordTime(): void {
    if (this.#recording()) this.#timeWanted = true
  }

  putDoubt(doubt: TimeDoubt | null): void {
    if (!this.#recording()) return
    // What is in doubt anew was stored before this run; what was in doubt already, before the run in which that began.
    if (doubt === null || doubt.until !== this.#doubt?.until) this.#oldBefore = this.#firstNewPage
    this.#doubt = doubt === null ? null : { ...doubt, before: this.#oldBefore }
    this.#putTimes()
  }

  /** For a store that is filled from records: all that was recorded so far was stored before the doubt. */
  restoreDoubt(doubt: TimeDoubt): void {
    this.#oldBefore = this.#nextPage
    this.#doubt = { ...doubt, before: this.#oldBefore }
    this.#putTimes()
  }

  isOld(message: Message): boolean {
    const body = this.#bodies.handle(message)
    return body !== null && body.namePage < this.#oldBefore
  }

  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void {
    if (!this.#recording()) return
    const change = { before: this.#oldBefore, since, ms }
    const postponed = new Set<Message>()
    for (const item of held) {
      if (!(item instanceof Message)) parkedHere(item).postpone(change)
      else if (this.isOld(item) && item.expiresAt > since && !postponed.has(item)) {
        postponed.add(item)
        item.expiresAt += ms
      }
    }
    this.#bodies.times.add(change)
    this.#putTimes()
  }

  #putTimes(): void {
    this.#write(put(TIME_KEY, encodeTimes(this.#doubt, this.#bodies.times)))
  }

  commit(): void {
    if (this.#state !== 'open' || !this.#recorded()) return
    this.#wanted = true
    if (this.#inFlight === null && this.#gatherer === null && this.#whole === 0) this.#seal(false)
  }

  beginWhole(): void {
    this.#whole++
  }

  endWhole(): void {
    this.#whole--
  }

  async restore(messages: readonly Message[]): Promise<void> {
    // They stay alive as long as they are read.
    const held = messages.filter((message) => message.evicted && this.#hold(message))
    try {
      for (let from = 0; from < held.length; ) from = await this.#restoreSlice(held, from)
    } catch (error) {
      throw storeError(error, this.#options.directory, 'reading messages back')
    } finally {
      for (const message of held) if (this.#bodies.handle(message) !== null) this.#bodies.release(message)
    }
    this.#restored.push({ messages: held, sequence: this.#sealedSequence })
    this.#trimRestored()
  }

  #hold(message: Message): boolean {
    const body = this.#bodies.handle(message)
    if (body === null) return false
    body.refs++
    return true
  }

  /** The format of what is on disk: an earlier one until the first commit. */
  get format(): number {
    return this.#format
  }

  /**
   * Everything that is on disk at this moment, which lies between two commits, in slices: for backups. It costs disk
   * space as long as it is read, so it is not to be kept waiting. Throws StoreError when the store is not open, also
   * when it is closed or fails meanwhile.
   */
  snapshot(): AsyncGenerator<readonly Entry[]> {
    if (this.#state !== 'open') {
      throw new StoreError('io', 'the store is not open', 'Try again when the broker serves its clients.')
    }
    return snapshotSlices(this.#db!, this.#options.directory)
  }

  /** Where commits are synced together: syncs now what is committed. */
  async sync(): Promise<void> {
    await this.#logSync?.now()
  }

  async close(): Promise<void> {
    if (this.#state === 'closing') throw new Error('the store is being closed')
    if (this.#state !== 'open') {
      await this.#closed
      return
    }
    this.#state = 'closing'
    await this.#space.stop()
    while (this.#inFlight !== null) await this.#inFlight
    while (this.#failure === null && !this.#settled()) {
      this.#seal(true)
      await this.#inFlight
    }
    if (this.#failure === null) await this.sync()
    if (this.#failure === null) {
      this.#closed = this.#closeDatabase()
      this.#state = 'closed'
    }
    await this.#closed
    if (this.#failure !== null) throw this.#failure
  }

  /** Closes the store for a start that failed after it: one that was founded for it is removed. */
  async abandon(): Promise<void> {
    const isUnused = this.recordedSequence <= FOUNDING_SEQUENCE
    await this.close()
    if (isUnused) await this.#removeFounded()
  }

  async #removeFounded(): Promise<void> {
    const made = this.#madeFor
    if (made === null) return
    this.#madeFor = null
    await this.#space.release()
    await removeFounded(this.#options.directory, made)
  }

  async #opened(directory: string): Promise<Recovered> {
    const { writeBufferBytes, checkpointJournalBytes } = this.#options
    const { files, made } = await prepareDirectory(directory)
    this.#madeFor = files.some(isStoreFile) ? null : made
    const marked = files.includes(MARKER)
    // Before the database is made, which opens by itself.
    const cut = await cutLogEnd(directory)
    const db = levelDatabase(directory, {
      keyEncoding: 'buffer',
      valueEncoding: 'buffer',
      writeBufferSize: writeBufferBytes,
      cacheSize: 8 * MIB,
      maxFileSize: TABLE_BYTES,
    })
    this.#db = db
    await db.open()
    let described = await db.get(META_KEY)
    let notice: string | undefined
    if (described === undefined && !marked) {
      notice = await importAedes(db, directory)
      await this.#found(db)
      described = await db.get(META_KEY)
    }
    if (described === undefined) throw corrupt('its description cannot be read', LOSS.session)
    const meta = decodeMeta(described, directory)
    if (!marked || !(await isMarkedAs(directory, meta.format))) await markStore(directory, meta.format)
    this.#format = meta.format
    const result = await recover({
      db,
      meta,
      bodies: this.#bodies,
      checkpoints: this.#checkpoints,
      extensions: this.#extensions,
      guard: new HeapGuard(directory),
      pageCostBytes: (value) => value.length + ENTRY_BYTES,
    })
    if (result.ahead.length > 0) await db.batch(result.ahead.map((key) => ({ type: 'del', key })))
    this.#sessions = result.sessions
    this.#sealedSequence = result.lastSequence
    this.#committedSequence = result.lastSequence
    // LevelDB has put what was in its logs into a table, and synced that.
    this.#syncedSequence = result.lastSequence
    if (this.#isSyncedTogether) this.#logSync = this.#newLogSync(db)
    this.#nextPage = result.nextPage
    this.#firstNewPage = result.nextPage
    this.#doubt = result.doubt
    this.#oldBefore = result.doubt?.before ?? result.nextPage
    this.#bodies.times.prune(this.#bodies.oldestName())
    this.#nextSession = result.nextSession
    this.#writtenBytes = result.writtenBytes
    const scanFrom = { page: meta.scanFromPage, sequence: meta.scanFromSequence }
    this.#pageCollector = new PageCollector(
      this.#bodies,
      { writeBufferBytes, stepBytes: Math.ceil(checkpointJournalBytes / 32) },
      scanFrom,
      meta,
    )
    const notices = [notice, cut === null ? undefined : cutNotice(cut)].filter((text) => text !== undefined)
    return {
      ...result.recovered,
      sessions: this.#handedOver(result.recovered.sessions),
      ...(meta.format === 1 && { withoutOwnerIds: true }),
      ...(notices.length > 0 && { notice: notices.join(' ') }),
    }
  }

  /** Memory may turn out to be too short only now. Nothing was recorded, so nothing is written. */
  *#handedOver(sessions: Iterable<RecoveredSession>): Generator<RecoveredSession, void, undefined> {
    try {
      yield* sessions
    } catch (error) {
      const failure = storeError(error, this.#options.directory, 'opening it')
      this.#state = 'failed'
      this.#failure = failure
      this.#closed = this.#closeFailed(failure)
      throw failure
    }
  }

  #newLogSync(db: Database): LogSync {
    return new LogSync(this.#options.directory, this.#options.syncEverySeconds, {
      written: () => this.#committedSequence,
      synced: (sequence) => {
        this.#syncedSequence = sequence
      },
      failed: (error) => {
        if (this.#state === 'closing') this.#fail(error)
        else this.#failed(db, error)
      },
    })
  }

  /** Writes the description and an empty first block into an empty database. */
  async #found(db: Database): Promise<void> {
    const block = new OpenBlock(
      () => new Page(1, 1, 0),
      () => this.#bodies.times,
      true,
    )
    const meta = encodeMeta({ scanFromPage: 1, scanFromSequence: 1, sequence: 1, clean: true })
    const operations = [put(META_KEY, meta)]
    block.seal({ sequence: 1, brokerTime: 0, wallTime: 0, nextSession: 1, bootTime: null }, 0, operations)
    // Always synced: the marker, which says that a description must be there, is durable soon after.
    const batch = this.#options.openBatch(db)
    batch.add(operations)
    await batch.write(true)
  }

  #forget(): void {
    this.#figures = { commits: 0, residentBytes: 0, storedBytes: 0, entryBytes: 0 }
    this.#extensions = new Extensions()
    this.#commitLatency = new Histogram()
    this.#bodies = new Bodies(this.#figures, this.held)
    this.#checkpoints = new Checkpoints(this.#bodies)
    this.#pageCompactor = new PageCompactor(this.#bodies)
    this.#sessions = new ChurnMap()
    this.#topics = new TopicCache(TOPICS_MAX)
    this.#block.clear()
    this.#retained = new OpenRetained()
    this.#tables = []
    this.#tableBytes = 0
    this.#early = null
    this.#earlyBytes = 0
    this.#openMessages = []
    this.#flyingMessages = []
    this.#flyingBytes = 0
    this.#restored = []
    this.#ended = []
    this.#wanted = false
    this.#timeWanted = false
    this.#doubt = null
    this.#gatherer = null
    this.#failure = null
  }

  /** False when the store has failed: nothing is acknowledged any more, so nothing is recorded either. */
  #recording(): boolean {
    if (this.#state === 'open') return true
    if (this.#state === 'failed') return false
    throw new Error(`the store is ${this.#state}`)
  }

  #recorded(): boolean {
    if (this.#early !== null || this.#timeWanted) return true
    return this.#block.bytes > 0 || this.#tables.length > 0 || !this.#retained.isEmpty
  }

  /** Nothing is left to do before the database is closed. */
  #settled(): boolean {
    return !this.#recorded() && this.#checkpoints.dirtyCount === 0 && this.#pageCollector!.clean
  }

  get #openBytes(): number {
    return this.#block.bytes + this.#tableBytes + this.#retained.bytes
  }

  #session(sessionId: number): StoredSession {
    const session = this.#sessions.get(sessionId)
    if (session === undefined) throw new Error(`Session ${sessionId} is not stored`)
    return session
  }

  /** The Session, marked as changed by the open block; null when nothing is recorded any more. */
  #touched(sessionId: number): StoredSession | null {
    if (!this.#recording()) return null
    const session = this.#session(sessionId)
    this.#checkpoints.touch(session, this.#block.firstPage())
    return session
  }

  #write(operation: BatchOperation): void {
    this.#tables.push(operation)
    this.#tableBytes += operationBytes(operation)
    if (this.#tables.length >= EARLY_OPERATIONS) this.#handOverEarly()
  }

  #retainedRecorded(): void {
    if (this.#retained.count >= EARLY_OPERATIONS) this.#handOverEarly()
  }

  /** Encodes and copies what was recorded so far, so that sealing the block has less to do at once. */
  #handOverEarly(): void {
    const operations = this.#tables
    const tables = operations.length
    this.#retained.seal(operations)
    for (let index = 0; index < operations.length; index++) {
      const bytes = operationBytes(operations[index]!)
      this.#earlyBytes += bytes
      if (index >= tables) this.#tableBytes += bytes
    }
    this.#early ??= this.#options.openBatch(this.#db!)
    this.#early.add(operations)
    this.#retained.handedOver()
    this.#tables = []
  }

  /** Whatever fails here is a failed commit. */
  async #writeBatch(operations: readonly BatchOperation[]): Promise<void> {
    const batch = this.#early ?? this.#options.openBatch(this.#db!)
    batch.add(operations)
    await batch.write(this.#options.sync)
  }

  #newPage(): Page {
    const page = new Page(this.#nextPage++, this.#sealedSequence + 1, this.#writtenBytes)
    this.#bodies.addPage(page)
    return page
  }

  #seal(closing: boolean): void {
    const source = this.#source!
    const sequence = this.#sealedSequence + 1
    this.#sealedAt = performance.now()
    this.#gatherer = null
    this.#flyingRecordBytes = this.#openBytes
    const first = this.#block.firstPage()
    const operations = this.#tables
    this.#retained.seal(operations)
    this.#bodies.collectDead()
    this.#checkpoint(sequence, closing, operations)
    this.#checkpoints.sweep(SEGMENT_DELETES_MAX, operations)
    const watermark = this.#checkpoints.oldest()?.dirtyFrom ?? first
    const clean = closing && this.#checkpoints.dirtyCount === 0
    this.#pageCollector!.seal(watermark, this.#writtenBytes, sequence, clean, operations)
    this.#block.seal(
      {
        sequence,
        brokerTime: source.now(),
        wallTime: source.wallNow(),
        nextSession: this.#nextSession,
        bootTime: source.bootTime(),
      },
      this.#syncedSequence,
      operations,
    )
    let bytes = this.#earlyBytes
    for (const operation of operations) bytes += operationBytes(operation)
    this.#pageCompactor.sealed()
    // Keys and values are copied before this returns, so the block's buffer can be filled anew.
    const written = this.#writeBatch(operations)
    this.#early = null
    this.#earlyBytes = 0
    this.#sealedSequence = sequence
    this.#writtenBytes += bytes
    this.#flyingBytes = bytes
    this.#pageCollector!.wrote(bytes)
    this.#flyingMessages = this.#openMessages
    this.#openMessages = []
    this.#block.clear()
    this.#retained.handedOver()
    this.#tables = []
    this.#tableBytes = 0
    this.#wanted = false
    this.#timeWanted = false
    this.#inFlight = written.then(
      () => this.#durable(sequence),
      (error: unknown) => this.#fail(error),
    )
  }

  /** Checkpoints the oldest dirty Sessions, when the journal has grown long or the store is being closed. */
  #checkpoint(sequence: number, closing: boolean, operations: BatchOperation[]): void {
    let left = closing ? CLOSING_CHECKPOINT_BYTES : CHECKPOINT_BYTES + this.#block.bytes / 2
    while (left > 0) {
      const session = this.#checkpoints.oldest()
      if (session === undefined || !(closing || this.#isLong(session.dirtyFrom!))) return
      const state = this.#source!.outbound(session.id)
      if (state === undefined)
        throw new Error(`Session ${session.id} is stored, but the Server does not know it`)
      left -= this.#checkpoints.write(session, state, sequence, left, operations)
    }
  }

  #isLong(watermark: Page): boolean {
    return (
      this.#writtenBytes - watermark.writtenBefore > this.#options.checkpointJournalBytes ||
      this.#nextPage - watermark.number > CHECKPOINT_PAGES
    )
  }

  #durable(sequence: number): void {
    this.#inFlight = null
    const bytes = this.#flyingBytes
    this.#flyingBytes = 0
    this.#footprint.wrote(bytes)
    this.#space.wrote(bytes)
    // A memory table that is larger than it should be goes to a table with the next write, which may never come.
    if (bytes > this.#options.writeBufferBytes) this.#compactInTurn([NO_KEYS])
    this.#committedSequence = sequence
    this.#format = FORMAT_VERSION
    this.#figures.commits++
    this.#logSync?.wrote()
    const tookMs = performance.now() - this.#sealedAt
    this.#commitLatency.add(tookMs)
    this.#pageCompactor.durable()
    const messages = this.#flyingMessages
    this.#flyingMessages = []
    const gathers = this.#groupCommit.begins(this.#flyingRecordBytes, this.#openBytes)
    // The disk starts to work on what came meanwhile before acknowledgements are written.
    if (!gathers) this.#sealWanted()
    this.#source!.committed(sequence)
    this.#evict(messages)
    if (this.#state !== 'open') return
    if (gathers) this.#gather(tookMs)
    else if (!this.#sealWanted()) this.#giveBack()
    this.#tidy()
  }

  /** The next commit waits for those who were just answered, for no longer than the last one took. */
  #gather(tookMs: number): void {
    this.#groupCommit.waits(tookMs, performance.now())
    const look = (): void => {
      if (this.#gatherer !== look) return
      if (!this.#groupCommit.isOver(this.#openBytes, performance.now())) {
        setImmediate(look)
        return
      }
      this.#gatherer = null
      this.#sealWanted()
    }
    this.#gatherer = look
    setImmediate(look)
  }

  /** True when something was to be committed and nothing was in flight: now it is. */
  #sealWanted(): boolean {
    if (this.#state !== 'open' || this.#inFlight !== null || !this.#wanted || !this.#recorded()) return false
    if (this.#whole > 0) return false
    this.#seal(false)
    return true
  }

  /** Without anything else to commit, deletes the pages that nobody needs any more if they are many. */
  #giveBack(): void {
    if (this.#state !== 'open' || this.#inFlight !== null || this.#whole > 0) return
    const { dead } = this.#bodies
    let bytes = 0
    for (let index = 0; index < dead.length && bytes < IDLE_DELETES_BYTES; index++)
      bytes += dead[index]!.bytes
    if (bytes >= IDLE_DELETES_BYTES) this.#seal(false)
  }

  /** Releases what ended Sessions had parked, so much at a time that nobody else waits. */
  #releaseEnded(): void {
    if (this.#releasing) return
    let left = RELEASES_MAX
    for (;;) {
      const entries = this.#ended[this.#ended.length - 1]
      if (entries === undefined) break
      if (left <= 0) {
        this.#releaseLater()
        return
      }
      const count = Math.min(entries.length, left)
      for (let index = 0; index < count; index++) {
        entries.read(index, this.#entry)
        this.#bodies.releaseParked(this.#entry)
      }
      entries.remove(count)
      left -= count
      if (entries.length === 0) this.#ended.pop()
    }
  }

  #releaseLater(): void {
    const bodies = this.#bodies
    this.#releasing = true
    setImmediate(() => {
      this.#releasing = false
      if (this.#bodies !== bodies || this.#state !== 'open') return
      this.#releaseEnded()
      if (!this.#releasing) this.#giveBack()
    })
  }

  /** Background work that a commit may have made worth while. */
  #tidy(): void {
    const db = this.#db!
    if (this.#bodies.sparse.size > 0) {
      const openBlock = (): OpenBlock | null =>
        this.#state === 'open' && this.#db === db ? this.#block : null
      this.#pageCompactor.start(db, openBlock).then(
        (copied) => {
          if (copied) this.commit()
        },
        (error: unknown) => this.#failed(db, error),
      )
    }
    if (this.#compacting !== null) return
    if (this.#space.isRoomy) this.#compactInTurn(this.#pageCollector!.compactable(COMPACT_BYTES))
  }

  #neededBytes(): number {
    const db = this.#db
    return db?.status === 'open' ? this.#footprint.neededBytes(db.getProperty('leveldb.stats')) : 0
  }

  /**
   * Space is short. LevelDB's log is moved into a table, since as long as it is long a full disk keeps the store from
   * being opened. Where there is room (`roomy`) for merges, deleted pages are dropped sooner; what earlier runs deleted
   * is not known, and is looked for now and then.
   */
  #tidyDisk(roomy: boolean): void {
    if (this.#state !== 'open' || this.#compacting !== null) return
    const ranges = roomy ? this.#pageCollector!.compactable(SHORT_COMPACT_BYTES) : []
    if (this.#footprint.loggedBytes >= SETTLE_BYTES) ranges.unshift(NO_KEYS)
    if (roomy && --this.#ticksToSweep < 0) {
      // What it can drop depends on what LevelDB has merged by then: it is tried again, ever more seldom.
      this.#ticksToSweep = SWEEP_TICKS << Math.min(this.#sweeps++, SWEEP_DOUBLINGS_MAX)
      const bytes = tableBytes(this.#db!.getProperty('leveldb.stats'))
      if (bytes - this.#figures.storedBytes > GARBAGE_BYTES) {
        ranges.push(...this.#allPages(Math.ceil(bytes / SWEEP_BYTES)))
      }
    }
    this.#compactInTurn(ranges)
  }

  #allPages(pieces: number): (readonly [from: Buffer, to: Buffer])[] {
    const pages = Math.ceil(this.#nextPage / pieces)
    return Array.from({ length: pieces }, (_, piece) => [
      numberKey(Table.Journal, piece * pages),
      numberKey(Table.Journal, (piece + 1) * pages - 1),
    ])
  }

  /** Unless a compaction is under way. All of them begin with moving the log into a table. */
  #compactInTurn(ranges: readonly (readonly [from: Buffer, to: Buffer])[]): void {
    if (ranges.length === 0 || this.#compacting !== null) return
    const { loggedBytes } = this.#footprint
    this.#compacting = this.#compact(this.#db!, ranges).finally(() => {
      this.#compacting = null
      this.#footprint.settled(loggedBytes)
    })
  }

  /** LevelDB drops deleted values when it merges their files: long after, where nothing new is written. */
  async #compact(db: Database, ranges: readonly (readonly [from: Buffer, to: Buffer])[]): Promise<void> {
    try {
      for (const [from, to] of ranges) {
        if (this.#state !== 'open' || this.#db !== db) return
        await db.compactRange(from, to)
      }
    } catch (error) {
      this.#failed(db, error)
    }
  }

  /** Drops what is above the memory budget, of the bodies of the block that has just become durable. */
  #evict(messages: readonly Message[]): void {
    for (let index = 0; index < messages.length; index++) {
      if (!this.isShort) break
      this.#bodies.evict(messages[index]!, this.#committedSequence)
    }
    this.#trimRestored()
  }

  /**
   * Looks at the two oldest groups of restored messages: evicts them when memory is short and they had two commits
   * of time to be sent, and forgets those that are done.
   */
  #trimRestored(): void {
    for (let count = 0; count < 2; count++) {
      const group = this.#restored.shift()
      if (group === undefined) return
      if (this.isShort && group.sequence + 1 < this.#committedSequence) {
        for (const message of group.messages) this.#bodies.evict(message, this.#committedSequence)
        continue
      }
      const resident = group.messages.filter(
        (message) => this.#bodies.handle(message) !== null && !message.evicted,
      )
      if (resident.length > 0) this.#restored.push({ messages: resident, sequence: group.sequence })
    }
  }

  /** Reads some messages back, from `from` on; returns where to go on. */
  async #restoreSlice(messages: readonly Message[], from: number): Promise<number> {
    const wanted = new Map<number, Wanted[]>()
    let next = from
    for (; next < messages.length; next++) {
      const message = messages[next]!
      const body = message.evicted ? this.#bodies.handle(message) : null
      if (body === null) continue
      const number = body.page.number
      const list = wanted.get(number)
      if (list === undefined && wanted.size === RESTORE_PAGES) break
      if (list === undefined) wanted.set(number, [{ message, offset: body.offset }])
      else list.push({ message, offset: body.offset })
    }
    if (wanted.size === 0) return next
    const db = this.#db
    if (db === null || db.status !== 'open') throw new Error('the store is closed')
    const numbers = [...wanted.keys()]
    // LevelDB's snapshot is taken now: bodies that move meanwhile are still where they were.
    const values = await db.getMany(numbers.map((number) => numberKey(Table.Journal, number)))
    for (const [index, number] of numbers.entries())
      this.#restorePage(number, values[index], wanted.get(number)!)
    return next
  }

  #restorePage(number: number, value: Buffer | undefined, wanted: readonly Wanted[]): void {
    if (value !== undefined) readPageHeader(number, value)
    for (const { message, offset } of wanted) {
      if (!message.evicted || this.#bodies.handle(message) === null) continue
      if (value === undefined) throw corrupt(`journal page ${number} is missing`, LOSS.messages)
      const read = readBody(new ByteReader(value, offset))
      message.restore(this.#topics.topic(read.topic), ...copied(read), read.publisher)
      this.#bodies.restored(message)
    }
  }

  /** A failure beside a commit, of this database. */
  #failed(db: Database, error: unknown): void {
    if (this.#state === 'open' && this.#db === db) this.#fail(error)
  }

  #fail(error: unknown): void {
    const failure = storeError(error, this.#options.directory, 'writing')
    this.#state = 'failed'
    this.#failure = failure
    this.#inFlight = null
    this.#early = null
    this.#closed = this.#closeFailed(failure)
    this.#source!.failed(failure)
  }

  async #closeFailed({ kind }: StoreError): Promise<void> {
    const stopped = this.#space.stop()
    await this.#closeDatabase()
    await stopped
    if (kind === 'full') await this.#space.release()
  }

  async #closeDatabase(): Promise<void> {
    const db = this.#db
    const logSync = this.#logSync
    this.#db = null
    this.#logSync = null
    await logSync?.stop()
    if (this.#compacting !== null) await this.#compacting
    await db?.close()
  }
}

function cutNotice({ commits }: CutEnd): string {
  return (
    `The machine had crashed before all that was written was synced (durability: interval): the last commits are gone, ${commits} ` +
    'of them out of what a hole had left behind it.'
  )
}

function operationBytes(operation: BatchOperation): number {
  return operation.key.length + ENTRY_BYTES + (operation.type === 'put' ? operation.value.length : 0)
}

function parkedHere(parked: Parked): ParkedEntries {
  if (parked instanceof ParkedEntries) return parked
  throw new Error('entries were parked by another store')
}

/** Returns the names in it, and the directories that were made. Throws StoreError for one that is not to be opened. */
async function prepareDirectory(directory: string): Promise<{ files: string[]; made: readonly string[] }> {
  const made = await makeDirectory(directory, 0o700)
  await access(directory, constants.R_OK | constants.W_OK | constants.X_OK)
  const files = await readdir(directory)
  refuseIncomplete(directory, files)
  refuseHeadless(directory, files)
  return { files, made }
}
