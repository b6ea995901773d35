/**
 * PURE. The file format of a backup: every key and value of a store as it was at one moment, each with a
 * CRC-32.
 *
 * ```
 * header: "GODWIT BACKUP\n" | container version u16 | store format version u16 | taken at f64 | crc u32
 * record: key bytes u32 | value bytes u32 | key | value | crc u32
 * end:    a record with an empty key; its value is the number of records before it, u48
 * ```
 *
 * Integers are little-endian. `taken at` is wall time in ms since 1970. A CRC covers everything before it in
 * its header or record. Nothing follows the end. A file without it was cut off, and is not a backup.
 */
import { crc32 } from 'node:zlib'
import { StoreError } from '../store.ts'
import { FORMAT_VERSION } from './format.ts'

const MAGIC = Buffer.from('GODWIT BACKUP\n', 'latin1')
const CONTAINER_VERSION = 1
const HEADER_BYTES = MAGIC.length + 16
const CRC_BYTES = 4
const LENGTHS_BYTES = 8
/** No key of the store is longer than a topic filter or a percent-encoded Client Identifier. */
const KEY_BYTES_MAX = 256 * 1024
/** The largest values are pages with one body, and a packet of MQTT has at most 256 MiB. */
const VALUE_BYTES_MAX = 512 * 1024 * 1024

/** One key of the store with its value, including the CRC that the store gives it. */
export type Entry = readonly [key: Buffer, value: Buffer]

export interface ContainerHeader {
  readonly storeFormat: number
  /** Wall time in ms since 1970. */
  readonly takenAt: number
}

/** Yields the whole container as chunks of about the size of the slices, which are of `storeFormat`. */
export async function* containerChunks(
  slices: AsyncIterable<readonly Entry[]>,
  takenAt: number,
  storeFormat = FORMAT_VERSION,
): AsyncGenerator<Buffer> {
  yield header({ storeFormat, takenAt })
  let records = 0
  for await (const entries of slices) {
    records += entries.length
    yield Buffer.concat(entries.flatMap(([key, value]) => recordParts(key, value)))
  }
  const count = Buffer.alloc(6)
  count.writeUIntLE(records, 0, 6)
  yield Buffer.concat(recordParts(Buffer.alloc(0), count))
}

function header({ storeFormat, takenAt }: ContainerHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES)
  MAGIC.copy(bytes)
  bytes.writeUInt16LE(CONTAINER_VERSION, MAGIC.length)
  bytes.writeUInt16LE(storeFormat, MAGIC.length + 2)
  bytes.writeDoubleLE(takenAt, MAGIC.length + 4)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, HEADER_BYTES - CRC_BYTES)), HEADER_BYTES - CRC_BYTES)
  return bytes
}

function recordParts(key: Buffer, value: Buffer): Buffer[] {
  const lengths = Buffer.allocUnsafe(LENGTHS_BYTES)
  lengths.writeUInt32LE(key.length, 0)
  lengths.writeUInt32LE(value.length, 4)
  const crc = Buffer.allocUnsafe(CRC_BYTES)
  crc.writeUInt32LE(crc32(value, crc32(key, crc32(lengths))), 0)
  return [lengths, key, value, crc]
}

/** Takes a container apart as its bytes arrive. Errors mention `name`. */
export class ContainerReader {
  readonly #name: string
  #header: ContainerHeader | null = null
  /** Bytes that arrived and are not a whole record yet. */
  #rest: Buffer[] = []
  #restBytes = 0
  /** Bytes that have to be there before the next record can be read. */
  #neededBytes = HEADER_BYTES
  #at = 0
  #records = 0
  #ended = false

  constructor(name: string) {
    this.#name = name
  }

  /** The header; null until it was read. */
  get header(): ContainerHeader | null {
    return this.#header
  }

  get records(): number {
    return this.#records
  }

  /** Takes more bytes. Returns the entries that are complete now, as views. Throws StoreError. */
  push(chunk: Buffer): Entry[] {
    this.#rest.push(chunk)
    this.#restBytes += chunk.length
    const entries: Entry[] = []
    if (this.#restBytes < this.#neededBytes) return entries
    const bytes = Buffer.concat(this.#rest)
    let at = this.#header === null ? this.#readHeader(bytes) : 0
    for (;;) {
      const end = this.#record(bytes, at, entries)
      if (end === null) break
      at = end
    }
    this.#at += at
    this.#rest = [bytes.subarray(at)]
    this.#restBytes = bytes.length - at
    return entries
  }

  /** Ends reading. Throws StoreError if the end of the container is missing. */
  end(): void {
    if (!this.#ended) throw damaged(this.#name, `it was cut off after ${this.#records} records`)
  }

  #readHeader(bytes: Buffer): number {
    if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
      throw new StoreError(
        'format',
        `${this.#name} is not a backup of Godwit`,
        'Name a file that `godwit backup` wrote.',
      )
    }
    const crcAt = HEADER_BYTES - CRC_BYTES
    if (bytes.readUInt32LE(crcAt) !== crc32(bytes.subarray(0, crcAt))) {
      throw damaged(this.#name, 'its header does not match its checksum')
    }
    const version = bytes.readUInt16LE(MAGIC.length)
    const storeFormat = bytes.readUInt16LE(MAGIC.length + 2)
    if (version !== CONTAINER_VERSION) {
      throw new StoreError(
        'format',
        `${this.#name} is a backup of format ${version}; this version of Godwit reads ${CONTAINER_VERSION}`,
        'Restore it with the version of Godwit that wrote it, `godwit export` from there, and ' +
          '`godwit import` here.',
      )
    }
    this.#header = { storeFormat, takenAt: bytes.readDoubleLE(MAGIC.length + 4) }
    this.#neededBytes = LENGTHS_BYTES
    return HEADER_BYTES
  }

  /** Reads the record at `at`. Returns where it ends; null while it is not complete. */
  #record(bytes: Buffer, at: number, entries: Entry[]): number | null {
    const left = bytes.length - at
    if (this.#ended && left > 0) throw damaged(this.#name, 'something follows its end')
    if (left < LENGTHS_BYTES) {
      this.#neededBytes = LENGTHS_BYTES
      return null
    }
    const keyBytes = bytes.readUInt32LE(at)
    const valueBytes = bytes.readUInt32LE(at + 4)
    if (keyBytes > KEY_BYTES_MAX || valueBytes > VALUE_BYTES_MAX) throw this.#damagedRecord(at)
    const recordBytes = LENGTHS_BYTES + keyBytes + valueBytes + CRC_BYTES
    if (left < recordBytes) {
      this.#neededBytes = recordBytes
      return null
    }
    const end = at + recordBytes
    if (bytes.readUInt32LE(end - CRC_BYTES) !== crc32(bytes.subarray(at, end - CRC_BYTES))) {
      throw this.#damagedRecord(at)
    }
    const key = bytes.subarray(at + LENGTHS_BYTES, at + LENGTHS_BYTES + keyBytes)
    const value = bytes.subarray(at + LENGTHS_BYTES + keyBytes, end - CRC_BYTES)
    if (keyBytes === 0) this.#readEnd(value)
    else {
      entries.push([key, value])
      this.#records++
    }
    return end
  }

  #readEnd(value: Buffer): void {
    if (value.length !== 6 || value.readUIntLE(0, 6) !== this.#records) {
      throw damaged(this.#name, `it has ${this.#records} records, not as many as its end says`)
    }
    this.#ended = true
  }

  #damagedRecord(at: number): StoreError {
    return damaged(this.#name, `the record at byte ${this.#at + at} does not match its checksum`)
  }
}

function damaged(name: string, what: string): StoreError {
  return new StoreError(
    'corrupt',
    `the backup ${name} is damaged: ${what}`,
    'Take another backup, or another copy of this one.',
  )
}
