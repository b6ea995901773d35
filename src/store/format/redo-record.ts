/**
 * HOT. The layout of the redo log: a file of fixed size in blocks of 4 KiB. The first two blocks are states;
 * the newer one counts, and they are written in turn, so that one of them is always whole. Records follow, a
 * synced one from the beginning of a block:
 *
 *   state:   crc u32 | magic | salt | turn u48 | settled u48
 *   record:  crc u32 | salt | length u32 | first u48 | last u48 | durable u48 | settled u48 | operations
 *
 * Records that are synced together follow each other without a gap. The first one after a sync begins a block
 * again, so that a block which is durable is never written again.
 *
 * A CRC covers everything behind it. The salt is random and new for each opening of the store, so that
 * neither older records nor the content of a message are ever taken for a record.
 */
import { randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { ByteReader, TruncatedError } from './encoding.ts'
import type { BatchOperation } from './format.ts'

export const REDO_BLOCK_BYTES = 4096
/** Blocks of the file that hold states. */
export const REDO_STATES = 2

const MAGIC = Buffer.from('GWREDO', 'latin1')
const SALT_BYTES = 8
const STATE_BYTES = 4 + MAGIC.length + SALT_BYTES + 12
const HEADER_BYTES = 4 + SALT_BYTES + 4 + 24
/** Bytes that an operation takes at most beside its key and value. */
const OPERATION_BYTES = 11
const PUT = 1
const DELETE = 0

export interface RedoState {
  readonly salt: Buffer
  /** How many states were written before. */
  readonly turn: number
  /** The database has all commits up to this one durably. */
  readonly settled: number
}

/** Says which commits a record has, and what was durable when it was written. */
export interface RedoHeader {
  readonly first: number
  readonly last: number
  /** All commits up to this one were durable, in the redo log or in the database. */
  readonly durable: number
  /** The database had all commits up to this one durably. */
  readonly settled: number
}

export interface RedoRecord extends RedoHeader {
  /** Keys and values are views of the file's bytes. */
  readonly operations: readonly BatchOperation[]
}

export function newSalt(): Buffer {
  return randomBytes(SALT_BYTES)
}

/** Returns a whole block. */
export function encodeState({ salt, turn, settled }: RedoState): Buffer {
  const block = Buffer.alloc(REDO_BLOCK_BYTES)
  MAGIC.copy(block, 4)
  salt.copy(block, 4 + MAGIC.length)
  const at = 4 + MAGIC.length + SALT_BYTES
  block.writeUIntLE(turn, at, 6)
  block.writeUIntLE(settled, at + 6, 6)
  block.writeUInt32LE(crc32(block.subarray(4, STATE_BYTES)), 0)
  return block
}

/** Returns the newest state; null if none is whole. */
export function newestState(file: Buffer): RedoState | null {
  let newest: RedoState | null = null
  for (let slot = 0; slot < REDO_STATES; slot++) {
    const state = stateAt(file, slot * REDO_BLOCK_BYTES)
    if (state !== null && (newest === null || state.turn > newest.turn)) newest = state
  }
  return newest
}

function stateAt(file: Buffer, from: number): RedoState | null {
  if (from + STATE_BYTES > file.length) return null
  const block = file.subarray(from, from + STATE_BYTES)
  const at = 4 + MAGIC.length
  if (!block.subarray(4, at).equals(MAGIC) || block.readUInt32LE(0) !== crc32(block.subarray(4))) return null
  return {
    salt: Buffer.from(block.subarray(at, at + SALT_BYTES)),
    turn: block.readUIntLE(at + SALT_BYTES, 6),
    settled: block.readUIntLE(at + SALT_BYTES + 6, 6),
  }
}

/** A commit as the redo log and the database get it. */
export interface EncodedCommit {
  /** The record, filled up to whole blocks. */
  readonly bytes: Buffer
  /** Bytes of the record itself. */
  readonly length: number
  /** Its operations, as views of `bytes`. */
  readonly operations: readonly BatchOperation[]
}

/** Returns the bytes of the blocks that these operations take in the redo log; at times a block more. */
export function redoBytes(operations: readonly BatchOperation[]): number {
  return blocksOf(redoLength(operations))
}

/** Returns the most bytes that the record of these operations has. */
export function redoLength(operations: readonly BatchOperation[]): number {
  let bytes = HEADER_BYTES
  for (const operation of operations) {
    bytes += OPERATION_BYTES + operation.key.length
    if (operation.type === 'put') bytes += operation.value.length
  }
  return bytes
}

/** Copies the operations into a record. */
export function encodeRedo(
  operations: readonly BatchOperation[],
  { first, last, durable, settled }: RedoHeader,
  salt: Buffer,
): EncodedCommit {
  const file = Buffer.allocUnsafeSlow(redoBytes(operations))
  const copies: BatchOperation[] = []
  let at = HEADER_BYTES
  for (const operation of operations) {
    file[at++] = operation.type === 'put' ? PUT : DELETE
    const key = blob(file, at, operation.key)
    at = key.byteOffset + key.length
    if (operation.type === 'del') {
      copies.push({ type: 'del', key })
      continue
    }
    const value = blob(file, at, operation.value)
    at = value.byteOffset + value.length
    copies.push({ type: 'put', key, value })
  }
  salt.copy(file, 4)
  file.writeUInt32LE(at, 4 + SALT_BYTES)
  let field = 8 + SALT_BYTES
  for (const number of [first, last, durable, settled]) field = file.writeUIntLE(number, field, 6)
  file.writeUInt32LE(crc32(file.subarray(4, at)), 0)
  const end = blocksOf(at)
  // Old memory must not reach the disk.
  file.fill(0, at, end)
  return { bytes: file.subarray(0, end), length: at, operations: copies }
}

/** Writes a length and the bytes; returns a view of the bytes. `into` is a memory of its own. */
function blob(into: Buffer, from: number, bytes: Buffer): Buffer {
  let at = from
  let rest = bytes.length
  for (; rest >= 128; rest >>>= 7) into[at++] = (rest & 127) | 0x80
  into[at++] = rest
  bytes.copy(into, at)
  return into.subarray(at, at + bytes.length)
}

/** Returns the whole records with this salt, in the order of the file. */
export function redoRecords(file: Buffer, salt: Buffer): RedoRecord[] {
  const records: RedoRecord[] = []
  let from = REDO_STATES * REDO_BLOCK_BYTES
  for (;;) {
    const at = file.indexOf(salt, from + 4) - 4
    if (at < from || at + HEADER_BYTES > file.length) return records
    const length = file.readUInt32LE(at + 4 + SALT_BYTES)
    const record = recordAt(file, at, length)
    if (record !== null) records.push(record)
    from = record === null ? at + 1 : at + length
  }
}

function recordAt(file: Buffer, from: number, length: number): RedoRecord | null {
  const bytes = file.subarray(from, from + length)
  if (length < HEADER_BYTES || bytes.length < length) return null
  if (bytes.readUInt32LE(0) !== crc32(bytes.subarray(4))) return null
  const at = 8 + SALT_BYTES
  const operations = operationsIn(bytes)
  if (operations === null) return null
  return {
    first: bytes.readUIntLE(at, 6),
    last: bytes.readUIntLE(at + 6, 6),
    durable: bytes.readUIntLE(at + 12, 6),
    settled: bytes.readUIntLE(at + 18, 6),
    operations,
  }
}

function operationsIn(record: Buffer): BatchOperation[] | null {
  const reader = new ByteReader(record, HEADER_BYTES)
  const operations: BatchOperation[] = []
  try {
    while (!reader.atEnd) {
      const isPut = reader.u8() === PUT
      const key = reader.blob()
      operations.push(isPut ? { type: 'put', key, value: reader.blob() } : { type: 'del', key })
    }
  } catch (error) {
    if (!(error instanceof TruncatedError)) throw error
    return null
  }
  return operations
}

function blocksOf(bytes: number): number {
  return Math.ceil(bytes / REDO_BLOCK_BYTES) * REDO_BLOCK_BYTES
}
