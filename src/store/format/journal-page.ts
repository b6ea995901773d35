/**
 * HOT. The header of a journal page.
 *
 * A block is what one commit carries. It is written as pages of about 16 KiB, each one LevelDB value, all in
 * one batch. Pages are numbered without a gap, and so are blocks. Every page has a CRC.
 *
 * ```
 * page:  crc u32 | flags u8 | page u48 | sequence u48 | broker time f64 | wall time f64 | next session u48 |
 *        boot id 16 bytes | ms since boot f64 | synced u48 | records
 * ```
 *
 * Pages of format 1 have no boot time, and their flag for it is not set. A boot id of zeros means that the
 * machine did not tell. `synced` is there only in blocks whose commit was not synced by itself.
 */
import { crc32 } from 'node:zlib'
import type { BootTime } from '../store.ts'
import { corrupt, LOSS } from './format.ts'

const BOOT_ID_BYTES = 16
/** Where the boot time begins. In a page of format 1 the records begin here. */
const BOOT_TIME_AT = 39
const HEADER_BYTES = BOOT_TIME_AT + BOOT_ID_BYTES + 8
/** Follows the header in a block with UNSYNCED: the newest block that was synced by then. */
const SYNCED_BYTES = 6

/** Flags of the first and of the last page of a block. */
export const FIRST_OF_BLOCK = 1
export const LAST_OF_BLOCK = 2
const HAS_BOOT_TIME = 4
/** The block's commit was not synced by itself, but some time later together with others. */
const UNSYNCED = 8

/** The part of the header that all pages of a block share. */
export interface BlockHeader {
  readonly sequence: number
  /** `StateSource.now()` and `wallNow()` when it was sealed. */
  readonly brokerTime: number
  readonly wallTime: number
  /** The store's number for the next new Session. */
  readonly nextSession: number
  /** `StateSource.bootTime()` of the same moment. */
  readonly bootTime: BootTime | null
}

export interface PageHeader extends BlockHeader {
  readonly page: number
  /** Where its records begin. */
  readonly bytes: number
  readonly first: boolean
  readonly last: boolean
}

/** The bytes to leave free for the header of a page. */
export function headerBytes(isSynced: boolean): number {
  return HEADER_BYTES + (isSynced ? 0 : SYNCED_BYTES)
}

/**
 * Writes the header into a page whose records are complete. `place` is FIRST_OF_BLOCK, LAST_OF_BLOCK, both or
 * neither. `synced` is the newest block that was synced, or null when each block is synced by its own commit.
 */
export function writePageHeader(
  value: Buffer,
  number: number,
  place: number,
  header: BlockHeader,
  synced: number | null,
): void {
  value[4] = place | HAS_BOOT_TIME | (synced === null ? 0 : UNSYNCED)
  value.writeUIntLE(number, 5, 6)
  value.writeUIntLE(header.sequence, 11, 6)
  value.writeDoubleLE(header.brokerTime, 17)
  value.writeDoubleLE(header.wallTime, 25)
  value.writeUIntLE(header.nextSession, 33, 6)
  writeBootTime(value, header.bootTime)
  if (synced !== null) value.writeUIntLE(synced, HEADER_BYTES, SYNCED_BYTES)
  value.writeUInt32LE(crc32(value.subarray(4)), 0)
}

/** Says why a stored page is damaged; null when it is not. */
export function pageDamage(number: number, value: Buffer): string | null {
  if (value.length < BOOT_TIME_AT || value.readUInt32LE(0) !== crc32(value.subarray(4))) {
    return `journal page ${number} does not match its checksum`
  }
  const page = value.readUIntLE(5, 6)
  return page === number ? null : `journal page ${page} is stored as page ${number}`
}

/** Checks and reads the header of a stored page. Throws StoreError `corrupt`. */
export function readPageHeader(number: number, value: Buffer): PageHeader {
  const damage = pageDamage(number, value)
  if (damage !== null) throw corrupt(damage, LOSS.messages)
  return headerOf(value)
}

/** Reads the header of a page without a check. */
export function headerOf(value: Buffer): PageHeader {
  const hasBootTime = value.length >= HEADER_BYTES && (value[4]! & HAS_BOOT_TIME) !== 0
  return {
    page: value.readUIntLE(5, 6),
    bytes: hasBootTime ? headerBytes(!isUnsynced(value)) : BOOT_TIME_AT,
    first: (value[4]! & FIRST_OF_BLOCK) !== 0,
    last: (value[4]! & LAST_OF_BLOCK) !== 0,
    sequence: value.readUIntLE(11, 6),
    brokerTime: value.readDoubleLE(17),
    wallTime: value.readDoubleLE(25),
    nextSession: value.readUIntLE(33, 6),
    bootTime: hasBootTime ? readBootTime(value) : null,
  }
}

/** Says when a page's block was synced. */
export interface SyncNote {
  readonly sequence: number
  readonly isFirst: boolean
  /** The block was not synced by its own commit. */
  readonly isUnsynced: boolean
  /** The newest block that was synced by then; 0 where each is synced by its own commit. */
  readonly synced: number
}

/** Reads the note from a page without a check. Throws RangeError when the page is too short. */
export function readSyncNote(value: Buffer): SyncNote {
  const unsynced = isUnsynced(value)
  return {
    sequence: value.readUIntLE(11, 6),
    isFirst: (value[4]! & FIRST_OF_BLOCK) !== 0,
    isUnsynced: unsynced,
    synced: unsynced ? value.readUIntLE(HEADER_BYTES, SYNCED_BYTES) : 0,
  }
}

function isUnsynced(page: Buffer): boolean {
  return (page[4]! & UNSYNCED) !== 0
}

function writeBootTime(page: Buffer, time: BootTime | null): void {
  const end = BOOT_TIME_AT + BOOT_ID_BYTES
  page.fill(0, BOOT_TIME_AT, end)
  if (time !== null) page.write(time.bootId, BOOT_TIME_AT, BOOT_ID_BYTES, 'hex')
  page.writeDoubleLE(time?.sinceBoot ?? 0, end)
}

function readBootTime(page: Buffer): BootTime | null {
  const end = BOOT_TIME_AT + BOOT_ID_BYTES
  const id = page.subarray(BOOT_TIME_AT, end)
  if (id.every((byte) => byte === 0)) return null
  return { bootId: id.toString('hex'), sinceBoot: page.readDoubleLE(end) }
}
