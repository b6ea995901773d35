/** Forwards as they are stored: the new places of bodies that moved out of one page. */
import type { ByteReader } from './encoding.ts'

/**
 * Reads the unsealed value; `add` gets each body's offset in the page that names it, and its new page and
 * offset.
 */
export function readForwards(
  reader: ByteReader,
  add: (nameOffset: number, page: number, offset: number) => void,
): void {
  for (let count = reader.varint(); count > 0; count--) add(reader.u16(), reader.varint(), reader.u16())
}
