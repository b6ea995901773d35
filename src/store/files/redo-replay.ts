/**
 * Brings a database up to date that was not closed in order: applies the commits of its redo log. Everything
 * that reads a data directory does so first. The redo log itself is not changed: other directories may hold
 * links to it.
 *
 * The database got the same commits, but without a sync: after a power cut it may have any of them. Applying
 * all of them again in their order is right whichever those are.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { DamageReport } from '../format/damage.ts'
import { closedFormat, isLive, META_KEY, put, Table, tableRange, unsealed } from '../format/format.ts'
import { headerOf } from '../format/journal-page.ts'
import { formatOf, withFormat } from '../format/meta.ts'
import { newestState, type RedoRecord, redoRecords } from '../format/redo-record.ts'
import { markedFormat, markStore, REDO_FILE } from './data-directory.ts'
import { type Database, type DatabaseIterator, openBatch } from './database.ts'
import { syncLogs } from './log-sync.ts'

/** Bytes of commits that become one batch. */
const BATCH_BYTES = 256 * 1024

const LOST = 'the last acknowledged messages and acknowledgements'

/** The content of a redo log. */
export interface RedoContent {
  /** The commits that the database may not have, without a gap. */
  readonly commits: readonly RedoRecord[]
  /** The first commit that is damaged; null for none. A commit that a crash cut off is not damaged. */
  readonly damaged: number | null
  /** Whole commits after that one, or after commits that a crash cut off before they were synced. */
  readonly behind: readonly RedoRecord[]
}

/** Reads the bytes of a redo log; null if they are not those of one. */
export function readRedo(file: Buffer): RedoContent | null {
  const state = newestState(file)
  if (state === null) return null
  const records = redoRecords(file, state.salt)
  const settled = records.reduce((most, record) => Math.max(most, record.settled), state.settled)
  const unsettled = records.filter(({ last }) => last > settled)
  unsettled.sort((one, other) => one.last - other.last)
  const commits = followers(unsettled, settled)
  const behind = unsettled.slice(commits.length)
  const missing = (commits.at(-1)?.last ?? settled) + 1
  const wasDurable = behind.some(({ durable }) => durable >= missing)
  return { commits, damaged: wasDurable ? missing : null, behind }
}

/** Returns the records at the beginning of the list that follow this commit without a gap. */
function followers(records: readonly RedoRecord[], commit: number): RedoRecord[] {
  const found: RedoRecord[] = []
  let next = commit + 1
  for (const record of records) {
    if (record.first > next) break
    found.push(record)
    next = record.last + 1
  }
  return found
}

/**
 * Applies the redo log to an open database, durably, if that is in use. `report` is told of damage. If it
 * returns, what fits is applied, and the next start finds the damage again. Resolves with the number of whole
 * commits that are lost with one before them which a crash of the machine cut off.
 */
export async function applyRedoLog(db: Database, directory: string, report: DamageReport): Promise<number> {
  const isDescribed = (await liveMeta(db)) !== null
  const marked = await markedFormat(directory)
  if (!isDescribed && !isLive(marked)) return 0
  let isDamaged = false
  const damaged: DamageReport = (damage, cause) => {
    isDamaged = true
    report(damage, cause)
  }
  if (!isDescribed) damaged({ what: `its description is older than its file ${REDO_FILE}`, lost: LOST })
  const { commits, lost } = await soundCommits(db, directory, isDescribed, damaged)
  for (const operations of batchesOf(commits)) {
    const batch = openBatch(db)
    batch.add(operations)
    await batch.write(false)
  }
  await syncLogs(directory)
  if (isDamaged) return lost
  if (marked !== null && isLive(marked)) await markStore(directory, closedFormat(marked))
  const meta = await liveMeta(db)
  // Only now, as from here on the redo log does not count.
  if (meta !== null) {
    const closed = withFormat(meta, closedFormat(formatOf(meta)!))
    await db.batch([put(META_KEY, closed)], { sync: true })
  }
  await syncLogs(directory)
  return lost
}

/** Returns the description of a database that needs its redo log; null for any other. */
async function liveMeta(db: Database): Promise<Buffer | null> {
  const described = await db.get(META_KEY)
  if (described === undefined || !isLive(formatOf(described))) return null
  try {
    return unsealed(META_KEY, described)
  } catch {
    // Whoever reads the description reports that it is damaged.
    return null
  }
}

async function soundCommits(
  db: Database,
  directory: string,
  isDescribed: boolean,
  report: DamageReport,
): Promise<{ readonly commits: readonly RedoRecord[]; readonly lost: number }> {
  let file: Buffer
  try {
    file = await readFile(join(directory, REDO_FILE))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    report({ what: `its file ${REDO_FILE} is missing`, lost: LOST }, error)
    return { commits: [], lost: 0 }
  }
  const content = readRedo(file)
  if (content === null) {
    report({ what: `its file ${REDO_FILE} cannot be read`, lost: LOST })
    return { commits: [], lost: 0 }
  }
  const { commits, damaged, behind } = content
  if (damaged !== null) {
    report({ what: `commit ${damaged} in its file ${REDO_FILE} is damaged`, lost: LOST })
  } else if (isDescribed) return { commits, lost: behind.length }
  const newest = await lastBlock(db)
  if (newest < (damaged ?? commits[0]?.first ?? 0)) return { commits, lost: 0 }
  // The database has newer commits. It must not get older ones again.
  const newer = [...commits, ...behind].filter(({ last }) => last > newest)
  return { commits: followers(newer, newest), lost: 0 }
}

/** Returns the number of the newest block that the database has; 0 for none. */
async function lastBlock(db: Database): Promise<number> {
  const iterator: DatabaseIterator = db.iterator({ ...tableRange(Table.Journal), reverse: true, limit: 1 })
  try {
    const [entry] = await iterator.nextv(1)
    return entry === undefined ? 0 : headerOf(entry[1]).sequence
  } finally {
    await iterator.close()
  }
}

function* batchesOf(commits: readonly RedoRecord[]): Generator<RedoRecord['operations']> {
  let operations: RedoRecord['operations'][number][] = []
  let bytes = 0
  for (const commit of commits) {
    for (const operation of commit.operations) {
      operations.push(operation)
      bytes += operation.key.length + (operation.type === 'put' ? operation.value.length : 0)
    }
    if (bytes < BATCH_BYTES) continue
    yield operations
    operations = []
    bytes = 0
  }
  if (operations.length > 0) yield operations
}
