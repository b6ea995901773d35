/** Runs the commands for stored data: backup, restore, export, import, check-store and repair. */

import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { brokerAnswers } from '../../admin/control-client.ts'
import type { ErrorCode } from '../../errors.ts'
import { version } from '../../runtime/version.ts'
import {
  exchange,
  finishExchange,
  freshDirectory,
  holdsStore,
  INCOMPLETE,
  keepAside,
  makeDirectory,
  refuseIncomplete,
  storeFiles,
  syncDirectory,
} from '../../store/files/data-directory.ts'
import { type Database, repairDatabase } from '../../store/files/database.ts'
import { storeError } from '../../store/files/failure.ts'
import type { Damage, DamageReport } from '../../store/format/damage.ts'
import {
  fileChunks,
  hasDatabase,
  openDatabase,
  refuseExisting,
  unpack,
  writeBackup,
} from '../../store/level/backup.ts'
import { Rehearsal, startRefusal } from '../../store/level/rehearsal.ts'
import { ConflictError } from '../../store/records/conflict-error.ts'
import {
  EXPORT_VERSION,
  type ExportHeader,
  type ExportVersion,
  endLine,
  isIn,
  LineReader,
  lineOf,
} from '../../store/records/jsonl.ts'
import { LineError } from '../../store/records/line-fields.ts'
import { RecordReader } from '../../store/records/record-reader.ts'
import { noCounts, type RecordCounts, RecordWriter } from '../../store/records/record-writer.ts'
import type { StoreRecord } from '../../store/records/records.ts'
import { StoreError } from '../../store/store.ts'
import { type Output, writeFully } from './output.ts'
import {
  acceptEntry,
  backupChunks,
  isRegularFile,
  noStoreError,
  withDatabase,
  withOpenDatabase,
} from './store-source.ts'

const CHECKED = '.godwit-check'
/** Export lines written at once. */
const WRITE_BYTES = 256 * 1024

/** The input of a command is missing or invalid. */
export class InputError extends Error {
  override readonly name = 'InputError'
  readonly code: ErrorCode = 'GODWIT_INPUT'
  readonly advice: string

  constructor(message: string, advice: string, options?: ErrorOptions) {
    super(message, options)
    this.advice = advice
  }
}

/** Backs up the data directory, with or without a running broker. Returns the output. */
export async function backup(directory: string, target: string): Promise<string> {
  await refuseExisting(target)
  const { records } = await writeBackup(backupChunks(directory), resolve(target))
  return `backed up ${directory} to ${target}: ${records} records`
}

/** Checks a whole backup and then fills the data directory from it. Returns the output. */
export async function restore(source: string, directory: string, force: boolean): Promise<string> {
  await refuseOccupied(directory, force)
  const counts = await replaceStore(directory, async (fresh) => {
    await unpack(backupChunks(source), fresh)
    return withOpenDatabase(fresh, async (db) => {
      const counts = await counted(new RecordReader(db, source).records())
      await refuseUnstartable(db, source)
      return counts
    })
  })
  return `restored ${source} to ${directory}: ${summary(counts)}`
}

/** Exports the data as JSON lines. Returns the output for people. */
export async function exportLines(
  directory: string,
  path: string,
  stdout: Output,
  exportVersion: ExportVersion = EXPORT_VERSION,
): Promise<string> {
  const header = { godwit: version(), version: exportVersion }
  if (path === '-') {
    const counts = await withDatabase(directory, acceptEntry, (db) =>
      writeLines(new RecordReader(db, directory).records(), header, (text) => writeFully(stdout, text)),
    )
    return `exported ${directory}: ${summary(counts)}`
  }
  await refuseExisting(path)
  const partial = join(dirname(path), `.${basename(path)}.${process.pid}.partial`)
  try {
    const counts = await withDatabase(directory, acceptEntry, (db) =>
      exportFile(db, directory, header, partial),
    )
    await refuseExisting(path)
    await rename(partial, path)
    await syncDirectory(dirname(path))
    return `exported ${directory} to ${path}: ${summary(counts)}`
  } catch (error) {
    await rm(partial, { force: true })
    throw storeError(error, dirname(path), 'writing the export')
  }
}

/** Reads all lines of an export and then fills the data directory from them. Returns the output. */
export async function importLines(
  path: string,
  directory: string,
  force: boolean,
  stdin: AsyncIterable<Uint8Array>,
): Promise<string> {
  await refuseOccupied(directory, force)
  const name = path === '-' ? 'the standard input' : path
  const counts = await replaceStore(directory, (fresh) => {
    const lines = splitLines(path === '-' ? stdin : fileChunks(path))
    return rebuildStore(fresh, name, lines)
  })
  return `imported ${name} to ${directory}: ${summary(counts)}`
}

/**
 * Verifies a data directory, a running broker's snapshot or a backup. Returns the output and whether all is
 * well.
 */
export async function checkStore(
  path: string,
): Promise<{ readonly text: string; readonly isSound: boolean }> {
  const damages: Damage[] = []
  const isStopped = !(await isRegularFile(path)) && !(await brokerAnswers(path))
  const files = isStopped ? await storeFiles(path) : []
  if (isStopped && files.length === 0) throw noStoreError(path)
  refuseIncomplete(path, files)
  const counts = isStopped
    ? await checkCopy(path, damages)
    : await withDatabase(path, acceptEntry, (db) => verifyRecords(db, path, (damage) => damages.push(damage)))
  const found = `checked ${path}: ${summary(counts)}`
  if (damages.length === 0) return { text: `${found}\nnothing is damaged`, isSound: true }
  return { text: [found, ...damages.map(damageText)].join('\n'), isSound: false }
}

/**
 * Rebuilds the data directory from its sound parts and keeps a copy of the old one inside it. Returns the
 * output.
 */
export async function repair(directory: string): Promise<string> {
  if (await brokerAnswers(directory)) throw brokerRunsError(directory)
  if ((await storeFiles(directory)).length === 0) throw noStoreError(directory)
  await finishExchange(directory)
  const name = `damaged-${timestamp()}`
  const aside = join(directory, name)
  await keepAside(directory, aside)
  const damages: Damage[] = []
  try {
    const counts = await salvage(directory, damages)
    if (damages.length === 0) {
      await discardFresh(directory)
      await rm(aside, { recursive: true, force: true })
      return `repaired nothing: ${directory} is not damaged; ${summary(counts)}`
    }
    await exchange(directory, null)
    return [
      `repaired ${directory}: ${summary(counts)}`,
      ...damages.map(damageText),
      `the old data is kept in ${aside}; remove it when nobody needs it`,
    ].join('\n')
  } catch (error) {
    await discardFresh(directory)
    // LevelDB may have changed the directory by opening it, so the copy stays.
    throw storeError(error, directory, `repairing it (the old data is kept in ${aside})`)
  }
}

/** Removes a new directory that was not put in place. */
async function discardFresh(directory: string): Promise<void> {
  if ((await storeFiles(directory)).includes(INCOMPLETE)) return
  await rm(freshDirectory(directory), { recursive: true, force: true })
}

/** Copies the sound records into a new directory. */
function salvage(directory: string, damages: Damage[]): Promise<RecordCounts> {
  return withReadableDatabase(directory, damages, async (db, report) => {
    const fresh = freshDirectory(directory)
    await rm(fresh, { recursive: true, force: true })
    const rehearsal = new Rehearsal(report)
    const reader = new RecordReader(db, directory, rehearsal.report)
    const counts = await new RecordWriter(fresh).write(reader.records())
    await reader.checkRest()
    await rehearsal.end(db, directory)
    // The repaired store replaces the damaged one only if a broker can start on it.
    await withOpenDatabase(fresh, (built) => refuseUnstartable(built, directory))
    return counts
  })
}

/** Throws StoreError if a broker could not start on the database. */
async function refuseUnstartable(db: Database, name: string): Promise<void> {
  const refusal = await startRefusal(db, name)
  if (refusal !== null) throw refusal
}

/** Checks a copy made of hard links, so that the directory itself stays unchanged. */
async function checkCopy(directory: string, damages: Damage[]): Promise<RecordCounts> {
  const copy = join(directory, CHECKED)
  await rm(copy, { recursive: true, force: true })
  try {
    await keepAside(directory, copy)
    return await withReadableDatabase(copy, damages, (db, report) => verifyRecords(db, directory, report))
  } catch (error) {
    throw storeError(error, directory, 'reading it')
  } finally {
    await rm(copy, { recursive: true, force: true })
  }
}

/**
 * Opens the database for `work`. If LevelDB cannot read it, repairs it with LevelDB's own tool and tries
 * once more.
 */
async function withReadableDatabase(
  directory: string,
  damages: Damage[],
  work: (db: Database, report: DamageReport) => Promise<RecordCounts>,
): Promise<RecordCounts> {
  const attempt = async (): Promise<RecordCounts> => {
    const known = new Set<string>()
    const report: DamageReport = (damage) => {
      if (known.has(damage.what)) return
      known.add(damage.what)
      damages.push(damage)
    }
    const db = await openDatabase(directory, false, report)
    try {
      return await work(db, report)
    } finally {
      await db.close()
    }
  }
  const lost = 'the damaged parts of these files; known losses follow'
  if (!(await hasDatabase(directory))) {
    damages.push({ what: 'the file CURRENT is missing', lost })
    await repairDatabase(directory)
    return attempt()
  }
  try {
    return await attempt()
  } catch (error) {
    const failure = storeError(error, directory, 'reading it')
    if (failure.kind !== 'corrupt') throw failure
    damages.length = 0
    damages.push({ what: failure.message, lost })
    await repairDatabase(directory)
    return attempt()
  }
}

async function verifyRecords(db: Database, name: string, report: DamageReport): Promise<RecordCounts> {
  const rehearsal = new Rehearsal(report)
  const reader = new RecordReader(db, name, rehearsal.report)
  const counts = await counted(reader.records())
  await reader.checkRest()
  await rehearsal.end(db, name)
  return counts
}

async function refuseOccupied(directory: string, force: boolean): Promise<void> {
  if (await brokerAnswers(directory)) throw brokerRunsError(directory)
  await finishExchange(directory)
  if (await hasDatabase(directory)) {
    // A database that another process has open must stay; a damaged one may be replaced.
    try {
      await (await openDatabase(directory)).close()
    } catch (error) {
      if (error instanceof StoreError && error.kind === 'locked') throw error
    }
  }
  if (force || !(await holdsStore(directory))) return
  throw new StoreError(
    'access',
    `${directory} is not empty`,
    'Name an empty directory with --data DIR, or move its old data aside: --force.',
  )
}

function brokerRunsError(directory: string): StoreError {
  return new StoreError('locked', `a running broker uses ${directory}`, 'Stop that broker first.')
}

/** Lets `build` fill a new directory and then replaces the content of the data directory with it. */
async function replaceStore<T>(directory: string, build: (fresh: string) => Promise<T>): Promise<T> {
  const fresh = freshDirectory(directory)
  try {
    await makeDirectory(directory, 0o700)
    await rm(fresh, { recursive: true, force: true })
    const result = await build(fresh)
    await exchange(directory, `replaced-${timestamp()}`)
    return result
  } catch (error) {
    await discardFresh(directory)
    if (error instanceof InputError) throw error
    throw storeError(error, directory, 'filling it')
  }
}

async function rebuildStore(
  fresh: string,
  name: string,
  lines: AsyncIterable<string>,
): Promise<RecordCounts> {
  const reader = new LineReader()
  try {
    return await new RecordWriter(fresh).write(recordsOf(lines, reader))
  } catch (error) {
    const isLine = error instanceof LineError
    if (!isLine && !(error instanceof ConflictError)) throw error
    const what = isLine ? error.message : `line ${reader.lines} ${error.message}`
    throw new InputError(`${name}: ${what}`, 'Nothing was imported. Correct the file, or export again.')
  }
}

async function* recordsOf(lines: AsyncIterable<string>, reader: LineReader): AsyncGenerator<StoreRecord> {
  for await (const line of lines) {
    const record = reader.read(line)
    if (record !== null) yield record
  }
  reader.end()
}

async function* splitLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let rest: Buffer[] = []
  for await (const chunk of chunks) {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      rest.push(Buffer.from(chunk.subarray(from, end)))
      yield Buffer.concat(rest).toString('utf8')
      rest = []
      from = end + 1
    }
    if (from < chunk.length) rest.push(Buffer.from(chunk.subarray(from)))
  }
  if (rest.length > 0) yield Buffer.concat(rest).toString('utf8')
}

async function exportFile(
  db: Database,
  directory: string,
  header: ExportHeader,
  path: string,
): Promise<RecordCounts> {
  const file: FileHandle = await open(path, 'wx', 0o600)
  try {
    const write = (text: string): Promise<void> => file.appendFile(text)
    const counts = await writeLines(new RecordReader(db, directory).records(), header, write)
    await file.sync()
    return counts
  } finally {
    await file.close()
  }
}

async function writeLines(
  records: AsyncIterable<StoreRecord>,
  header: ExportHeader,
  write: (text: string) => Promise<void>,
): Promise<RecordCounts> {
  const counts = noCounts()
  let lines = 0
  let text = ''
  for await (const record of records) {
    if (!isIn(header.version, record)) continue
    count(counts, record)
    lines++
    text += `${lineOf(record, header)}\n`
    if (text.length < WRITE_BYTES) continue
    await write(text)
    text = ''
  }
  await write(`${text}${endLine(lines + 1)}\n`)
  return counts
}

async function counted(records: AsyncIterable<StoreRecord>): Promise<RecordCounts> {
  const counts = noCounts()
  for await (const record of records) count(counts, record)
  return counts
}

function count(counts: RecordCounts, { type }: StoreRecord): void {
  switch (type) {
    case 'start':
      return
    case 'session':
      counts.sessions++
      return
    case 'message':
      counts.messages++
      return
    case 'will':
      counts.wills++
      return
    case 'definition':
      counts.queues++
      return
    case 'entry':
      counts.entries++
      return
    case 'group':
      return
    default:
      counts[type]++
  }
}

function summary(counts: RecordCounts): string {
  const { sessions, queued, inFlight, retained, wills, queues, entries } = counts
  return (
    `${sessions} Sessions, ${queued} queued and ${inFlight} in-flight messages, ` +
    `${retained} retained messages, ${wills} Wills` +
    (queues === 0 ? '' : `, ${queues} queues with ${entries} messages`)
  )
}

function damageText({ what, lost }: Damage): string {
  return lost === null ? `damaged: ${what}; nothing is lost` : `damaged: ${what}; lost: ${lost}`
}

/** Returns the current time for use in a file name. */
function timestamp(): string {
  return new Date().toISOString().replaceAll(/[-:.]/g, '')
}
