/** The store's description of itself: one small value that is read and checked before anything else. */
import { StoreError } from '../store.ts'
import { ByteReader, ByteWriter } from './encoding.ts'
import { corrupt, FORMAT_MAX, LOSS, META_KEY, unsealed } from './format.ts'

const MAGIC = Buffer.from('GODWIT', 'latin1')

export interface Meta {
  /** The format of the store. A commit upgrades an earlier one as far as it needs to. */
  readonly format: number
  /** The page where the journal's scan begins at a start. It is the first of its block. */
  readonly scanFromPage: number
  /** The sequence number of the block that `scanFromPage` belongs to. */
  readonly scanFromSequence: number
  /** The sequence number of the batch that wrote this value. */
  readonly sequence: number
  /** True if the store was closed properly: nothing follows `sequence`. */
  readonly clean: boolean
}

/** Returns the unsealed value. */
export function encodeMeta(meta: Meta): Buffer {
  const writer = new ByteWriter(64)
  writer.raw(MAGIC)
  writer.u16(meta.format)
  writer.varint(meta.scanFromPage)
  writer.varint(meta.scanFromSequence)
  writer.varint(meta.sequence)
  writer.u8(meta.clean ? 1 : 0)
  return writer.taken()
}

/** Returns a copy of an unsealed value that names another format. */
export function withFormat(meta: Buffer, format: number): Buffer {
  const copy = Buffer.from(meta)
  copy.writeUInt16LE(format, MAGIC.length)
  return copy
}

/** Returns the format that a description names; null if it is not readable. */
export function formatOf(bytes: Buffer): number | null {
  return bytes.length < 8 || !bytes.subarray(0, 6).equals(MAGIC) ? null : bytes.readUInt16LE(6)
}

/**
 * Decodes the sealed value. Throws StoreError `format` for a later version, `corrupt` for a damaged value.
 */
export function decodeMeta(bytes: Buffer, directory: string): Meta {
  const format = formatOf(bytes)
  if (format === null) throw corrupt('its description cannot be read', LOSS.session)
  if (format > FORMAT_MAX || format < 1) {
    // The CRC is checked first, so that a flipped bit in the format is not taken for another format.
    unsealed(META_KEY, bytes)
    throw new StoreError(
      'format',
      `${directory} is in store format ${format}; ` +
        `this version of Godwit reads formats up to ${FORMAT_MAX}`,
      'Start it with the version of Godwit that wrote it. To go back to this one: restore the backup from ' +
        'before the upgrade, or `godwit export` with that version and `godwit import` into a new data ' +
        'directory with this one.',
    )
  }
  const reader = new ByteReader(unsealed(META_KEY, bytes), 8)
  return {
    format,
    scanFromPage: reader.varint(),
    scanFromSequence: reader.varint(),
    sequence: reader.varint(),
    clean: reader.u8() === 1,
  }
}
