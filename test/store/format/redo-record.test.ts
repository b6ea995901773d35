import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { BatchOperation } from '../../../src/store/format/format.ts'
import {
  encodeRedo,
  encodeState,
  newestState,
  newSalt,
  REDO_BLOCK_BYTES,
  REDO_STATES,
  redoBytes,
  redoRecords,
} from '../../../src/store/format/redo-record.ts'

const SALT = newSalt()
const STATES_BYTES = REDO_STATES * REDO_BLOCK_BYTES

function operations(valueBytes: number): BatchOperation[] {
  return [
    { type: 'put', key: Buffer.from('a key'), value: randomBytes(valueBytes) },
    { type: 'del', key: randomBytes(200) },
    { type: 'put', key: Buffer.from([16]), value: Buffer.alloc(0) },
  ]
}

function recordOf(sequence: number, content = operations(100), salt = SALT): Buffer {
  return encodeRedo(content, { first: sequence, last: sequence, durable: sequence - 1, settled: 3 }, salt)
    .bytes
}

function fileOf(...records: Buffer[]): Buffer {
  return Buffer.concat([Buffer.alloc(STATES_BYTES), ...records])
}

describe('a record of the redo log', () => {
  test.each([0, 1, 127, 128, 3800, 4096, 20_000, 70_000])('comes back with %i bytes in a value', (bytes) => {
    const content = operations(bytes)
    const record = encodeRedo(content, { first: 5, last: 7, durable: 4, settled: 3 }, SALT)
    expect(record.bytes.length % REDO_BLOCK_BYTES).toBe(0)
    expect(record.bytes.length).toBeLessThanOrEqual(redoBytes(content))
    expect(record.operations).toEqual(content)
    const found = { first: 5, last: 7, durable: 4, settled: 3, operations: content }
    expect(redoRecords(fileOf(record.bytes), SALT)).toEqual([found])
  })

  test('is not found at any length of a torn write, and the records around it are', () => {
    const old = fileOf(recordOf(1), recordOf(2, operations(9000)), recordOf(3))
    const record = recordOf(4, operations(9000))
    const from = STATES_BYTES + REDO_BLOCK_BYTES
    for (let bytes = 0; bytes <= record.length; bytes++) {
      const file = Buffer.from(old)
      record.copy(file, from, 0, bytes)
      const sequences = redoRecords(file, SALT).map(({ last }) => last)
      const isWhole = record.subarray(bytes).equals(old.subarray(from + bytes, from + record.length))
      // The salt is the same, so a few equal bytes at the beginning leave the old record whole.
      const isOld = old.subarray(from, from + bytes).equals(record.subarray(0, bytes))
      expect(sequences, `${bytes} bytes`).toEqual(isWhole ? [1, 4, 3] : isOld ? [1, 2, 3] : [1, 3])
    }
  })

  test('is not found with another salt, nor in a value of an older record that looks like one', () => {
    const inner = recordOf(9, operations(10), newSalt())
    const around = recordOf(1, [
      // The inner record begins at the second block.
      { type: 'put', key: Buffer.from('k'), value: Buffer.concat([Buffer.alloc(4051), inner]) },
    ])
    expect(around.indexOf(inner)).toBe(REDO_BLOCK_BYTES)
    const file = fileOf(around)
    file[STATES_BYTES + 20]! ^= 1
    expect(redoRecords(file, SALT)).toEqual([])
  })

  test('is found behind another one in the same block, and behind a damaged one', () => {
    const records = [1, 2, 3].map((sequence) => {
      const fields = { first: sequence, last: sequence, durable: 0, settled: 0 }
      const { bytes, length } = encodeRedo(operations(10 * sequence), fields, SALT)
      return bytes.subarray(0, length)
    })
    const file = fileOf(...records)
    expect(redoRecords(file, SALT).map(({ last }) => last)).toEqual([1, 2, 3])
    const second = STATES_BYTES + records[0]!.length
    for (const at of [0, 4, 12, 30, 100]) {
      const damaged = Buffer.from(file)
      damaged[second + at]! ^= 0x10
      expect(
        redoRecords(damaged, SALT).map(({ last }) => last),
        `byte ${at}`,
      ).toEqual([1, 3])
    }
  })

  test('is not found with any byte changed', () => {
    const record = recordOf(1)
    const used = record.readUInt32LE(12)
    for (let at = 0; at < used; at++) {
      const file = fileOf(record)
      file[STATES_BYTES + at]! ^= 0x10
      expect(redoRecords(file, SALT), `byte ${at}`).toEqual([])
    }
  })
})

describe('the states of the redo log', () => {
  const older = { salt: newSalt(), turn: 4, settled: 17 }
  const newer = { salt: newSalt(), turn: 5, settled: 21 }

  test('the newer one counts, in whichever place', () => {
    expect(newestState(Buffer.concat([encodeState(older), encodeState(newer)]))).toEqual(newer)
    expect(newestState(Buffer.concat([encodeState(newer), encodeState(older)]))).toEqual(newer)
  })

  test('a torn one leaves the other, at every length', () => {
    const previous = encodeState({ ...older, turn: 3, settled: 12 })
    const bytes = encodeState(newer)
    for (let length = 0; length < 40; length++) {
      const torn = Buffer.concat([bytes.subarray(0, length), previous.subarray(length)])
      const isWhole = torn.equals(bytes)
      expect(newestState(Buffer.concat([encodeState(older), torn])), `${length} bytes`).toEqual(
        isWhole ? newer : older,
      )
    }
  })

  test('there is none in zeros or a file that is too short', () => {
    expect(newestState(Buffer.alloc(STATES_BYTES))).toBeNull()
    expect(newestState(Buffer.alloc(10))).toBeNull()
  })
})
