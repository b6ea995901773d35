/**
 * Opens a store: its directory and its LevelDB, founded or imported if need be, then everything that is in
 * it.
 */
import { access, constants, readdir } from 'node:fs/promises'
import type { Histogram } from '../../structures/histogram.ts'
import { BlockSealer } from '../commit/block-sealer.ts'
import { BodyReader } from '../commit/body-reader.ts'
import { CommitPace } from '../commit/commit-pace.ts'
import type { CommitProgress } from '../commit/commit-progress.ts'
import { Committer } from '../commit/committer.ts'
import { DatabaseCompactor } from '../commit/database-compactor.ts'
import { JournalTail } from '../commit/journal-tail.ts'
import { LogRecords } from '../commit/log-records.ts'
import { PageCollector } from '../commit/page-collector.ts'
import { PageCompactor } from '../commit/page-compactor.ts'
import { ENTRY_BYTES, PendingCommit, type RecordingParts } from '../commit/pending-commit.ts'
import { ReleasedEntries } from '../commit/released-entries.ts'
import { SessionRecords } from '../commit/session-records.ts'
import { StoredTimes } from '../commit/stored-times.ts'
import { importAedes } from '../files/aedes-import.ts'
import {
  isMarkedAs,
  MARKER,
  makeDirectory,
  markStore,
  refuseHeadless,
  refuseIncomplete,
} from '../files/data-directory.ts'
import { type BatchMaker, type Database, levelDatabase } from '../files/database.ts'
import { TABLE_BYTES } from '../files/footprint.ts'
import { LogSync, syncLogs } from '../files/log-sync.ts'
import { applyRedoLog } from '../files/redo-replay.ts'
import type { SpaceGuard } from '../files/space-guard.ts'
import { StoreDatabase } from '../files/store-database.ts'
import { BEHIND_BYTES, openWriteBehind, type WriteBehind } from '../files/write-behind.ts'
import { refuseDamage } from '../format/damage.ts'
import { corrupt, FORMAT_VERSION, LOSS, META_KEY, put } from '../format/format.ts'
import { decodeMeta, encodeMeta, type Meta } from '../format/meta.ts'
import { PageTimes } from '../format/time-record.ts'
import type { HeldBytes } from '../held-bytes.ts'
import { BodyIndex, Page } from '../journal/body-index.ts'
import { Checkpoints } from '../journal/checkpoints.ts'
import { type Checkpointed, DirtyList } from '../journal/dirty-list.ts'
import { Extensions } from '../journal/extensions.ts'
import { type CutEnd, cutLogEnd } from '../journal/log-end.ts'
import { OpenBlock } from '../journal/open-block.ts'
import { GroupCheckpoints } from '../logs/group-checkpoints.ts'
import { LogReader } from '../logs/log-reader.ts'
import { LogTimes, logDecoding } from '../logs/log-times.ts'
import { StoredLogs } from '../logs/stored-logs.ts'
import type { Recovered, StateSource, StoreFigures } from '../store.ts'
import { HeapGuard } from './heap-guard.ts'
import type { LogParts } from './level-logs.ts'
import type { LevelSettings } from './level-options.ts'
import { type RecoveryResult, recover } from './recovery.ts'

const MIB = 1024 * 1024
const CACHE_BYTES = 8 * MIB
/** The block that a store is founded with. */
export const FOUNDING_SEQUENCE = 1

/** Everything that one opening needs. Figures and latency count from zero. */
export interface StoreContext {
  readonly settings: LevelSettings
  readonly source: StateSource
  readonly space: SpaceGuard
  readonly progress: CommitProgress
  readonly figures: StoreFigures
  readonly latency: Histogram
  readonly held: HeldBytes
  /** Called when a commit fails, or background work. */
  readonly onFailure: (error: unknown) => void
}

/** The parts of an open store, for one opening. */
export interface StoreParts extends LogParts {
  readonly database: StoreDatabase
  readonly bodies: BodyIndex
  readonly pending: PendingCommit
  readonly times: StoredTimes
  readonly reader: BodyReader
  readonly compactor: DatabaseCompactor
  readonly committer: Committer
}

/** The objects that recovery fills. */
interface RecoveredState {
  readonly bodies: BodyIndex
  readonly checkpoints: Checkpoints
  readonly extensions: Extensions
  readonly dirty: DirtyList<Checkpointed>
  readonly logs: StoredLogs
  readonly logTimes: LogTimes
}

/**
 * Makes the directory, or refuses it with StoreError. Returns the names in it, and the directories that were
 * made.
 */
export async function prepareDirectory(
  directory: string,
): Promise<{ files: readonly string[]; made: readonly string[] }> {
  const made = await makeDirectory(directory, 0o700)
  await access(directory, constants.R_OK | constants.W_OK | constants.X_OK)
  const files = await readdir(directory)
  refuseIncomplete(directory, files)
  refuseHeadless(directory, files)
  return { files, made }
}

/**
 * Opens the store of a prepared directory that has these files. Rejects when it cannot be opened or
 * recovered, and then leaves nothing open.
 */
export async function openStore(
  context: StoreContext,
  files: readonly string[],
): Promise<{ parts: StoreParts; recovered: Recovered }> {
  const { settings, progress } = context
  const { directory } = settings
  // This comes before the object is made, because that opens the database by itself.
  const cut = await cutLogEnd(directory)
  const db = levelDatabase(directory, {
    keyEncoding: 'buffer',
    valueEncoding: 'buffer',
    writeBufferSize: settings.writeBufferBytes,
    cacheSize: CACHE_BYTES,
    maxFileSize: TABLE_BYTES,
  })
  try {
    await db.open()
    const lost = await applyRedoLog(db, directory, refuseDamage)
    const { meta, notice } = await readDescription(db, settings, files.includes(MARKER))
    const bodies = new BodyIndex(context.figures, context.held)
    const state = newState(context, bodies)
    const result = await recover({
      db,
      meta,
      ...state,
      guard: new HeapGuard(directory),
      pageCostBytes: (value) => value.length + ENTRY_BYTES,
    })
    if (result.ahead.length > 0) await db.batch(result.ahead.map((key) => ({ type: 'del', key })))
    progress.recovered(result.lastSequence)
    bodies.times.prune(bodies.oldestName())
    const writeBehind =
      settings.sync || isSyncedTogether(settings)
        ? await openWriteBehind(
            db,
            directory,
            {
              ...settings,
              // The first commit raises format 1.
              format: Math.max(meta.format, FORMAT_VERSION),
              syncing: settings.sync ? 'each' : 'together',
              onFailure: context.onFailure,
            },
            result.lastSequence,
          )
        : null
    return {
      parts: storeParts(context, { db, writeBehind }, meta, state, result),
      recovered: withNotices(result.recovered, meta, notice, lost + lostCommits(cut, result.lastSequence)),
    }
  } catch (error) {
    await db.close()
    throw error
  }
}

/**
 * Reads the description that every store has. An empty database is founded, and one of Aedes is taken over
 * first.
 */
async function readDescription(
  db: Database,
  { directory, openBatch }: LevelSettings,
  isMarked: boolean,
): Promise<{ meta: Meta; notice: string | undefined }> {
  let described = await db.get(META_KEY)
  let notice: string | undefined
  if (described === undefined && !isMarked) {
    notice = await importAedes(db, directory)
    await foundStore(db, openBatch)
    described = await db.get(META_KEY)
  }
  if (described === undefined) throw corrupt('its description cannot be read', LOSS.session)
  const meta = decodeMeta(described, directory)
  if (!isMarked || !(await isMarkedAs(directory, meta.format))) await markStore(directory, meta.format)
  return { meta, notice }
}

/** Writes the description and an empty first block into an empty database. */
async function foundStore(db: Database, openBatch: BatchMaker): Promise<void> {
  const times = new PageTimes()
  const block = new OpenBlock(
    () => new Page(1, FOUNDING_SEQUENCE, 0),
    () => times,
    true,
  )
  const sequence = FOUNDING_SEQUENCE
  const meta = { format: FORMAT_VERSION, scanFromPage: 1, scanFromSequence: sequence, sequence, clean: true }
  const operations = [put(META_KEY, encodeMeta(meta))]
  block.seal({ sequence, brokerTime: 0, wallTime: 0, nextSession: 1, bootTime: null }, 0, operations)
  // Always synced: the marker, which says that there must be a description, is durable soon after.
  const batch = openBatch(db)
  batch.add(operations)
  await batch.write(true)
}

function storeParts(
  context: StoreContext,
  { db, writeBehind }: { readonly db: Database; readonly writeBehind: WriteBehind | null },
  meta: Meta,
  { bodies, checkpoints, extensions, dirty, logs, logTimes }: RecoveredState,
  result: RecoveryResult,
): StoreParts {
  const { settings, source, space, progress, figures, latency, onFailure } = context
  const { directory, sync, syncEverySeconds, writeBufferBytes, checkpointJournalBytes } = settings
  const isTogether = isSyncedTogether(settings)
  const database = new StoreDatabase({
    ...{ db, directory, format: meta.format, openBatch: settings.openBatch, onFailure, writeBehind },
    isSynced: sync,
    makeLogSync: (failed) => {
      if (!isTogether) return null
      const syncAll = (): Promise<void> => writeBehind?.sync() ?? syncLogs(directory)
      return newLogSync(syncAll, syncEverySeconds, progress, failed)
    },
  })
  const tail = new JournalTail(bodies, progress, result)
  const block = new OpenBlock(
    () => tail.newPage(),
    () => bodies.times,
    !isTogether,
  )
  const pending = new PendingCommit(block, database)
  const collector = new PageCollector(
    bodies,
    {
      writeBufferBytes,
      stepBytes: Math.ceil(checkpointJournalBytes / 32),
      format: () => database.nextFormat,
      behindBytes: writeBehind === null ? 0 : BEHIND_BYTES,
    },
    { page: meta.scanFromPage, sequence: meta.scanFromSequence },
    meta,
  )
  const compactor = new DatabaseCompactor(database, collector, tail, figures, space, writeBufferBytes)
  const reader = new BodyReader(database, bodies, progress, figures, settings.residentBytesMax)
  const recording: RecordingParts = { pending, progress, tail, bodies, checkpoints }
  const groups = new GroupCheckpoints()
  const needFormat = (format: number): void => database.needFormat(format)
  const logRecords = new LogRecords(recording, logs, groups, dirty, logTimes, needFormat, result.known)
  pending.logs = logRecords
  logs.begin((operation) => pending.write(operation))
  const committer = new Committer({
    ...{ database, source, progress, pending, reader, compactor, figures, latency },
    pace: new CommitPace(settings.commitPaceMs),
    logs: logRecords,
    sealer: new BlockSealer(recording, groups, dirty, source, collector, checkpointJournalBytes),
    pageCompactor: new PageCompactor(bodies, database, block),
  })
  const released = new ReleasedEntries(database, bodies, () => committer.deleteDeadPages())
  return {
    ...{ database, bodies, pending, reader, compactor, committer },
    ...{ logs, logRecords, logReader: new LogReader(database, logs) },
    sessions: new SessionRecords(recording, released, extensions, result.sessions),
    times: new StoredTimes(bodies, pending, tail, result.doubt),
  }
}

/** Whether the commits of an interval are synced together. */
function isSyncedTogether({ sync, syncEverySeconds }: LevelSettings): boolean {
  return !sync && syncEverySeconds > 0
}

/** Returns the objects that recovery fills. */
function newState({ settings, source, progress }: StoreContext, bodies: BodyIndex): RecoveredState {
  const dirty = new DirtyList<Checkpointed>()
  const logTimes = new LogTimes()
  const { logCacheBytesMax: cacheBytesMax, openLogBytesMax: openBytesMax } = settings
  const logs = new StoredLogs({
    ...{ isDurable: true, cacheBytesMax, openBytesMax },
    decoding: logDecoding(logTimes),
    now: () => source.now(),
    wallNow: () => source.wallNow(),
    openSequence: () => progress.sealed + 1,
  })
  const checkpoints = new Checkpoints(bodies, dirty)
  return { bodies, checkpoints, extensions: new Extensions(), dirty, logs, logTimes }
}

function newLogSync(
  sync: () => Promise<void>,
  everySeconds: number,
  progress: CommitProgress,
  failed: (error: unknown) => void,
): LogSync {
  return new LogSync(everySeconds, {
    written: () => progress.committed,
    sync,
    synced: (sequence) => {
      progress.synced = sequence
    },
    failed,
  })
}

function withNotices(
  recovered: Recovered,
  { format }: Meta,
  notice: string | undefined,
  lost: number,
): Recovered {
  const notices = [notice, lost === 0 ? undefined : lostNotice(lost)].filter((text) => text !== undefined)
  return {
    ...recovered,
    ...(format === 1 && { withoutOwnerIds: true }),
    ...(notices.length > 0 && { notice: notices.join(' ') }),
  }
}

/** Returns how many commits were cut off, unless the redo log had them, too. */
function lostCommits(cut: CutEnd | null, lastSequence: number): number {
  return cut === null || cut.newest <= lastSequence ? 0 : cut.commits
}

function lostNotice(commits: number): string {
  return (
    'The machine had crashed before the last commits were synced (durability: interval). They are lost, ' +
    `including ${commits} after a hole in the log.`
  )
}
