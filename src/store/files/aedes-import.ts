/** Imports the retained messages and Wills of a directory that Aedes wrote with aedes-persistence-level. */

import { put } from '../format/format.ts'
import { MsgpackDecoder } from '../format/msgpack.ts'
import { importRetained, importWill, isAedesKey, RETAINED_RANGE, WILL_RANGE } from '../format/retained.ts'
import { StoreError } from '../store.ts'
import type { Database } from './database.ts'

const SLICE_VALUES = 1000

/**
 * Seals the retained messages and Wills of a database that has no description, and returns a sentence about
 * it; undefined if the database is empty. Can be repeated after a crash. Throws StoreError `format` if
 * another program wrote the database.
 */
export async function importAedes(db: Database, directory: string): Promise<string | undefined> {
  let others = 0
  let keys = 0
  for await (const key of db.keys()) {
    if (!isAedesKey(key)) throw foreign(directory)
    keys++
    const text = key.toString('latin1')
    if (!text.startsWith('retained:') && !text.startsWith('will:')) others++
  }
  if (keys === 0) return undefined
  const retained = await seal(db, RETAINED_RANGE, importRetained)
  const wills = await seal(db, WILL_RANGE, importWill)
  return (
    `${directory} was written by Aedes: ${retained} retained messages and ${wills} Wills were taken over; ` +
    `${others} entries of Sessions were not.`
  )
}

async function seal(
  db: Database,
  range: { gte: Buffer; lt: Buffer },
  check: (key: Buffer, value: Buffer, decoder: MsgpackDecoder) => unknown,
): Promise<number> {
  const decoder = new MsgpackDecoder()
  const iterator = db.iterator(range)
  let count = 0
  try {
    for (;;) {
      const entries = await iterator.nextv(SLICE_VALUES)
      if (entries.length === 0) return count
      for (const [key, value] of entries) check(key, value, decoder)
      // A value that was sealed before a crash ends with its CRC already: that is cut off first.
      const puts = entries.map(([key, value]) => put(key, value.subarray(0, decoder.decode(value).bytes)))
      await db.batch(puts, { sync: true })
      count += entries.length
    }
  } finally {
    await iterator.close()
  }
}

function foreign(directory: string): StoreError {
  return new StoreError(
    'format',
    `${directory} holds a database that is not Godwit's`,
    'Name another data directory, or an empty one.',
  )
}
