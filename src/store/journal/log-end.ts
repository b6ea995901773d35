/**
 * Cuts off the end of LevelDB's log after a hole that a crash of the machine left, where commits are not
 * synced one by one (`durability: interval`).
 *
 * The system writes unsynced data in any order. After a power cut, a log may have a hole with whole records
 * behind it, or lack its end while the next log has its beginning. LevelDB skips a hole and applies the
 * records after it. That would be a state that never existed. So before LevelDB is opened, everything from
 * the first hole on is cut off. The rest is the state at some instant, and contains everything that was
 * synced. A hole in synced data is damage, which recovery refuses.
 *
 * The layout of LevelDB's logs (`log_format.h`), which its manifest has, too: blocks of 32 KiB with records
 * `masked CRC-32C u32 | length u16 | type u8 | bytes`, of the types full, first, middle and last.
 */
import { open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { syncDirectory } from '../files/data-directory.ts'
import { crc32c } from '../format/crc32c.ts'
import { ByteReader, TruncatedError } from '../format/encoding.ts'
import { Table } from '../format/format.ts'
import { readSyncNote, type SyncNote } from '../format/journal-page.ts'

const BLOCK_BYTES = 32 * 1024
const HEADER_BYTES = 7
const FULL = 1
const FIRST = 2
const LAST = 4
/** The header of a batch: its sequence number and how many operations it has. */
const BATCH_HEADER_BYTES = 12
const PUT = 1
const LOG = /^(\d+)\.log$/
/** A copy that a crash left while a log was being cut. */
const UNFINISHED = /^\d+\.log\.cut$/
/** Tags of a manifest's edits (`version_edit.cc`). */
const EDIT = {
  comparator: 1,
  logNumber: 2,
  nextFile: 3,
  lastSequence: 4,
  compactPointer: 5,
  deletedFile: 6,
  newFile: 7,
  previousLog: 9,
} as const

/** The place where the sound part of the logs ends. */
interface Hole {
  /** Index of the log. */
  readonly log: number
  readonly offset: number
}

/** Describes the end that was cut off. */
export interface CutEnd {
  /** Commits behind the hole that were still readable. It is unknown how many were lost in the hole. */
  readonly commits: number
  /** The newest of these. */
  readonly newest: number
}

/** Cuts the logs of a database that is not open, if necessary. Returns null if nothing was cut off. */
export async function cutLogEnd(directory: string): Promise<CutEnd | null> {
  const found = await lookForHole(directory)
  if (found === null) return null
  const { hole, logs, commits, newest } = found
  // The newest goes first: after a crash here, the hole is found again.
  for (let log = logs.length - 1; log > hole.log; log--) await rm(join(directory, logs[log]!.name))
  const { name, bytes } = logs[hole.log]!
  await shorten(directory, name, bytes.subarray(0, hole.offset))
  return { commits, newest }
}

interface Log {
  readonly name: string
  readonly number: number
  readonly bytes: Buffer
}

/**
 * Looks for a hole after which everything must be cut off. Another process may have the database open and be
 * writing. Each log is therefore read after the one that follows it, and the manifest last, so that this
 * never looks like a hole.
 */
async function lookForHole(
  directory: string,
): Promise<(CutEnd & { hole: Hole; logs: readonly Log[] }) | null> {
  const files = await namesIn(directory)
  for (const name of files) if (UNFINISHED.test(name)) await rm(join(directory, name), { force: true })
  const logs: Log[] = []
  for (const name of files.filter((file) => LOG.test(file)).sort((a, b) => numberOf(b) - numberOf(a))) {
    logs.unshift({ name, number: numberOf(name), bytes: await readFile(join(directory, name)) })
  }
  if (!logs.some(({ bytes }) => hasUnsyncedBlock(bytes))) return null
  const first = await firstLog(directory)
  if (first === null) return null
  const live = logs.filter(({ number }) => number >= first)
  if (live.length === 0) return null
  const walk = new Walk()
  // The manifest names the log with which everything that is not in a table begins.
  if (live[0]!.number !== first) walk.breaks({ log: 0, offset: 0 })
  for (const [log, { bytes }] of live.entries()) walk.log(log, bytes)
  return walk.hole === null || !walk.mayCut
    ? null
    : { hole: walk.hole, logs: live, commits: walk.commitsBehind, newest: walk.newestBehind }
}

/** Returns no names if there is no directory. Opening the database reports that. */
async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch {
    return []
  }
}

/** Replaces the log with a shorter file. Other hard links to the log keep the old content. */
async function shorten(directory: string, name: string, bytes: Buffer): Promise<void> {
  const path = join(directory, name)
  const file = await open(`${path}.cut`, 'w', 0o600)
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.cut`, path)
  await syncDirectory(directory)
}

function numberOf(name: string): number {
  return Number(LOG.exec(name)?.[1])
}

/** Returns the number of the oldest log that is not in tables yet; null if the manifest does not say. */
async function firstLog(directory: string): Promise<number | null> {
  try {
    const name = (await readFile(join(directory, 'CURRENT'), 'utf8')).trimEnd()
    let first: number | null = null
    const edits = await readFile(join(directory, name))
    for (const { batch: edit } of recordsOf(edits, true)) first = editedLog(edit) ?? first
    return first
  } catch {
    // LevelDB itself reports what is wrong with these files.
    return null
  }
}

/** Returns the number of the log that an edit of the manifest sets. */
function editedLog(bytes: Buffer): number | null {
  const reader = new ByteReader(bytes)
  let log: number | null = null
  while (!reader.atEnd) {
    const tag = reader.varint()
    switch (tag) {
      case EDIT.logNumber:
        log = reader.varint()
        break
      case EDIT.comparator:
        reader.skip()
        break
      case EDIT.nextFile:
      case EDIT.lastSequence:
      case EDIT.previousLog:
        reader.varint()
        break
      case EDIT.compactPointer:
        reader.varint()
        reader.skip()
        break
      case EDIT.deletedFile:
        reader.varint()
        reader.varint()
        break
      case EDIT.newFile:
        for (let count = 0; count < 3; count++) reader.varint()
        reader.skip()
        reader.skip()
        break
      default:
        throw new RangeError(`an edit of the manifest has the tag ${tag}`)
    }
  }
  return log
}

/** Walks through the logs in their order and looks for the first hole. */
class Walk {
  hole: Hole | null = null
  commitsBehind = 0
  newestBehind = 0
  /** False if a record behind the hole says that the missing data was synced. */
  #isUnsynced = true
  /** LevelDB's number for the next operation; null before the first batch. */
  #expected: bigint | null = null
  /** The block of the journal up to which nothing is missing; null before the first one. */
  #lastBlock: number | null = null

  /** True if there is something to cut off, and the missing data was not synced. */
  get mayCut(): boolean {
    return this.commitsBehind > 0 && this.#isUnsynced
  }

  breaks(hole: Hole): void {
    this.hole ??= hole
  }

  log(log: number, bytes: Buffer): void {
    const records = recordsOf(bytes, true)
    for (;;) {
      const next = records.next()
      if (next.done === true) {
        if (next.value !== null) this.breaks({ log, offset: next.value })
        return
      }
      const { batch, from, hole } = next.value
      if (hole !== null) this.breaks({ log, offset: hole })
      if (this.hole === null && !this.#follows(batch)) this.breaks({ log, offset: from })
      if (this.hole === null) this.#pass(batch)
      else this.#behind(batch)
    }
  }

  /** Returns whether no operation is missing before the batch. */
  #follows(batch: Buffer): boolean {
    if (batch.length < BATCH_HEADER_BYTES) return false
    return this.#expected === null || batch.readBigUInt64LE(0) === this.#expected
  }

  #pass(batch: Buffer): void {
    this.#expected = batch.readBigUInt64LE(0) + BigInt(batch.readUInt32LE(8))
    for (const { sequence } of notesOf(batch)) this.#lastBlock = sequence
  }

  #behind(batch: Buffer): void {
    for (const { isFirst, isUnsynced, synced, sequence } of notesOf(batch)) {
      if (isFirst) this.commitsBehind++
      this.newestBehind = Math.max(this.newestBehind, sequence)
      const missing = this.#lastBlock === null ? sequence - 1 : this.#lastBlock + 1
      if (!isUnsynced || synced >= missing) this.#isUnsynced = false
    }
  }
}

/** Returns whether the log has a commit that was not synced by itself. Only then may anything be cut off. */
function hasUnsyncedBlock(log: Buffer): boolean {
  for (const { batch } of recordsOf(log, false)) {
    for (const { isUnsynced } of notesOf(batch)) if (isUnsynced) return true
  }
  return false
}

interface LogRecord {
  readonly batch: Buffer
  /** The offset at which it begins. */
  readonly from: number
  /** The offset of the first hole before it in this log; null without any. */
  readonly hole: number | null
}

/**
 * Yields the whole records of a log in order, also after damage. Returns the offset of the first hole or
 * unfinished end.
 */
function* recordsOf(log: Buffer, checks: boolean): Generator<LogRecord, number | null> {
  let hole: number | null = null
  let parts: Buffer[] = []
  let from = 0
  for (let at = 0; at + HEADER_BYTES <= log.length; ) {
    const blockEnd = Math.min(at - (at % BLOCK_BYTES) + BLOCK_BYTES, log.length)
    // The end of a block has no room for a header.
    if (blockEnd - at < HEADER_BYTES) {
      at = blockEnd
      continue
    }
    const type = log[at + 6]!
    const end = at + HEADER_BYTES + log.readUInt16LE(at + 4)
    const begins = type === FULL || type === FIRST
    const isSound = type >= FULL && type <= LAST && end <= blockEnd && (!checks || hasItsCrc(log, at, end))
    if (!isSound || begins !== (parts.length === 0)) {
      hole ??= parts.length > 0 ? from : at
      parts = []
    }
    if (!isSound || (!begins && parts.length === 0)) {
      at = isSound ? end : blockEnd
      continue
    }
    if (begins) from = at
    parts.push(log.subarray(at + HEADER_BYTES, end))
    at = end
    if (type !== FULL && type !== LAST) continue
    const batch = parts.length === 1 ? parts[0]! : Buffer.concat(parts)
    parts = []
    yield { batch, from, hole }
  }
  return hole ?? (parts.length > 0 ? from : null)
}

function hasItsCrc(log: Buffer, from: number, to: number): boolean {
  const crc = crc32c(log.subarray(from + 6, to))
  return log.readUInt32LE(from) === (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** Yields the notes of the journal's pages in a batch. */
function* notesOf(batch: Buffer): Generator<SyncNote> {
  const reader = new ByteReader(batch, BATCH_HEADER_BYTES)
  try {
    while (!reader.atEnd) {
      const isPut = reader.u8() === PUT
      const key = reader.blob()
      const value = isPut ? reader.blob() : null
      if (value !== null && key.length === 7 && key[0] === Table.Journal) yield readSyncNote(value)
    }
  } catch (error) {
    // The batch was not checked, or LevelDB did not write it. Recovery reports that.
    if (!(error instanceof TruncatedError || error instanceof RangeError)) throw error
  }
}
