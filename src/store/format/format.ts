/**
 * The layout on disk: one LevelDB with binary keys. The first byte of a key names its table, and every value
 * ends with a CRC-32.
 *
 * ```
 * 00                    meta: magic, format version, state of the journal (see Meta)
 * 01 session            Session: the Server's id for it, owner and its account, expiry, Client Identifier
 * 02 session filter     Subscription
 * 03 session            checkpoint head: sequence covered, in-flight, inbound, queue head and tail
 * 04 session position   checkpoint of the queue from this position on, up to 1,024 entries
 * 05 number             page index: sizes of 256 journal pages, 0 for those that were deleted
 * 06 page               forwards: the new places of bodies that moved out of this page
 * 07                    time: the part that is in doubt, and messages that expire later than they say
 * 10 page               journal page
 * 20 number             definition of a queue or stream, or what is left of a deleted one
 * 21 log sequence       segment of a log, or fragment of the one that still grows (see logs/segment.ts)
 * 22 log sequence       directory: up to 64 segments of the log, from this sequence on
 * 23 number             group: its definition and kind
 * 24 number position    checkpoint of a group: its head at position 0, else remembered ids
 * 25                    times of logs: entries that expire later than they say
 * retained:... will:... written by aedes-persistence-level (see retained.ts)
 * ```
 *
 * `session` is the store's own number of a Session. Unlike the Server's number it is never used twice, so
 * that journal records of a deleted Session are never taken for those of another. Definitions, logs and
 * groups take their numbers from the same count. Numbers in keys are 48 bits, big-endian, so that LevelDB
 * keeps them in order. The CRC covers key and value, since a value under a
 * wrong key is as bad as a wrong value.
 */
import { crc32 } from 'node:zlib'
import { StoreError } from '../store.ts'

/**
 * The format of a store without queues. A format rises at most once per release, when an older Godwit could
 * not read the new values. Every earlier format stays readable. Values of format 1 stay as they are until
 * they are written again, since each value says which kind it is.
 *
 * 2: account ids of owners, digests of QoS 2 messages, the machine's boot time beside each commit
 */
export const FORMAT_VERSION = 2

/**
 * The format of a store with queues: tables 20 to 25, and records 13 to 19. The commit that records the first
 * definition raises the format. So a store that never had a queue stays readable by an older Godwit.
 */
export const QUEUE_FORMAT = 4

/** The highest format that can be read: that of a store with queues which is in use. */
export const FORMAT_MAX = QUEUE_FORMAT + 1

/**
 * Returns the format of a store in use, or killed, that has this one when it is closed. Its last commits may
 * be in its redo log only: the other number keeps older versions, which know no redo log, from opening the
 * store without it.
 */
export function liveFormat(closed: number): number {
  return closed + 1
}

/** Returns the format that a store has when it is closed, given the one that it has now. */
export function closedFormat(format: number): number {
  return isLive(format) ? format - 1 : format
}

/** Whether a store of this format may have commits in its redo log only. */
export function isLive(format: number | null): boolean {
  return format === liveFormat(FORMAT_VERSION) || format === liveFormat(QUEUE_FORMAT)
}

export const Table = {
  Meta: 0x00,
  Session: 0x01,
  Subscription: 0x02,
  CheckpointHead: 0x03,
  CheckpointSegment: 0x04,
  PageIndex: 0x05,
  Forward: 0x06,
  Time: 0x07,
  Journal: 0x10,
  Definition: 0x20,
  Log: 0x21,
  LogDirectory: 0x22,
  Group: 0x23,
  GroupCheckpoint: 0x24,
  LogTimes: 0x25,
} as const

export type Table = (typeof Table)[keyof typeof Table]

/** Pages that one value of `Table.PageIndex` describes. */
export const INDEXED_PAGES = 256

export const META_KEY = Buffer.from([Table.Meta])
export const TIME_KEY = Buffer.from([Table.Time])
export const LOG_TIMES_KEY = Buffer.from([Table.LogTimes])

/** One entry of a LevelDB batch. */
export type BatchOperation =
  | { readonly type: 'put'; readonly key: Buffer; readonly value: Buffer }
  | { readonly type: 'del'; readonly key: Buffer }

export function numberKey(table: Table, number: number): Buffer {
  const key = Buffer.allocUnsafe(7)
  key[0] = table
  key.writeUIntBE(number, 1, 6)
  return key
}

/** Returns the key of the segment that begins at this queue position. */
export function segmentKey(session: number, position: number): Buffer {
  return logKey(Table.CheckpointSegment, session, position)
}

/** Returns a key of a table of two numbers, such as a log and a sequence. */
export function logKey(table: Table, number: number, position: number): Buffer {
  const key = Buffer.allocUnsafe(13)
  key[0] = table
  key.writeUIntBE(number, 1, 6)
  key.writeUIntBE(position, 7, 6)
  return key
}

/** Whether a key is of a table that only stores with queues have. */
export function isOfQueues(key: Buffer): boolean {
  return key[0]! >= Table.Definition && key[0]! <= Table.LogTimes
}

export function subscriptionKey(session: number, filter: string): Buffer {
  const key = Buffer.allocUnsafe(7 + Buffer.byteLength(filter, 'utf8'))
  key[0] = Table.Subscription
  key.writeUIntBE(session, 1, 6)
  key.write(filter, 7, 'utf8')
  return key
}

/** Returns the number that follows the table's byte. */
export function keyNumber(key: Buffer): number {
  return key.readUIntBE(1, 6)
}

/** Returns the second number of a `segmentKey` or `logKey`. */
export function keyPosition(key: Buffer): number {
  return key.readUIntBE(7, 6)
}

/** Returns the topic filter of a `subscriptionKey`. */
export function keyFilter(key: Buffer): string {
  return key.toString('utf8', 7)
}

/** Returns the range of a table's keys. */
export function tableRange(table: Table): { gte: Buffer; lt: Buffer } {
  return { gte: Buffer.from([table]), lt: Buffer.from([table + 1]) }
}

const CRC_BYTES = 4

/** Returns the value followed by the CRC of key and value. */
export function sealed(key: Buffer, value: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(value.length + CRC_BYTES)
  value.copy(bytes)
  bytes.writeUInt32LE(crc32(value, crc32(key)), value.length)
  return bytes
}

/** Returns the value without its CRC. Throws StoreError `corrupt` if the CRC does not match. */
export function unsealed(key: Buffer, bytes: Buffer): Buffer {
  const length = bytes.length - CRC_BYTES
  const value = bytes.subarray(0, Math.max(length, 0))
  if (length < 0 || bytes.readUInt32LE(length) !== crc32(value, crc32(key))) {
    throw corrupt(`${tableName(key)} does not match its checksum`, lossOf(key))
  }
  return value
}

/** Returns a put of the sealed value. */
export function put(key: Buffer, value: Buffer): BatchOperation {
  return { type: 'put', key, value: sealed(key, value) }
}

const RESTORE_ADVICE =
  'See what is lost with `godwit check-store DIR`. Then restore a backup with `godwit restore`, or keep ' +
  'what is left with `godwit repair DIR`, which keeps a copy of the directory.'

/**
 * Returns a StoreError for stored bytes that are not as they were written. `loss` is a sentence about what
 * depends on them.
 */
export function corrupt(what: string, loss: string, cause?: unknown): StoreError {
  const message = `the store is damaged: ${what}`
  return new StoreError('corrupt', message, `${RESTORE_ADVICE} ${loss}`, { cause })
}

/** Tells, for advice, what depends on a damaged value. */
export const LOSS = {
  session: 'The damaged part concerns Sessions, their Subscriptions and their queued messages.',
  messages: 'The damaged part concerns queued messages that were acknowledged to their publishers.',
  retained: 'The damaged part concerns retained messages and Wills.',
  queues: 'The damaged part concerns queues and what is in them.',
} as const

function lossOf(key: Buffer): string {
  if (key[0] === Table.Journal || key[0] === Table.Forward) return LOSS.messages
  if (isOfQueues(key)) return LOSS.queues
  return key[0] !== undefined && key[0] > Table.Journal ? LOSS.retained : LOSS.session
}

/** Describes the value of a key in words. */
export function tableName(key: Buffer): string {
  switch (key[0]) {
    case Table.Meta:
      return 'the description of the store'
    case Table.Session:
      return `the record of Session ${keyNumber(key)}`
    case Table.Subscription:
      return `Subscription ${JSON.stringify(keyFilter(key))} of Session ${keyNumber(key)}`
    case Table.CheckpointHead:
      return `the checkpoint of Session ${keyNumber(key)}`
    case Table.CheckpointSegment:
      return `the queue from position ${keyPosition(key)} on of Session ${keyNumber(key)}`
    case Table.PageIndex:
      return `part ${keyNumber(key)} of the page index`
    case Table.Forward:
      return `the list of bodies that moved out of page ${keyNumber(key)}`
    case Table.Time:
      return 'the value about time'
    case Table.Journal:
      return `journal page ${keyNumber(key)}`
    case Table.Definition:
      return `definition ${keyNumber(key)}`
    case Table.Log:
      return `the part of log ${keyNumber(key)} from entry ${keyPosition(key)} on`
    case Table.LogDirectory:
      return `the directory of log ${keyNumber(key)} from entry ${keyPosition(key)} on`
    case Table.Group:
      return `group ${keyNumber(key)}`
    case Table.GroupCheckpoint:
      return `part ${keyPosition(key)} of the checkpoint of group ${keyNumber(key)}`
    case Table.LogTimes:
      return 'the value about the times of logs'
    default:
      return JSON.stringify(key.toString('utf8'))
  }
}
