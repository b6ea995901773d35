/**
 * A group while it is put together from its checkpoint and the journal. Recovery, check, export and repair
 * all go through it.
 */
import type { ByteReader } from '../format/encoding.ts'
import { type JournalRecord, RecordType } from '../format/journal-record.ts'
import { heldOf, readHeld } from '../format/log-fields.ts'
import type { Segment } from '../journal/checkpoints.ts'
import type { GroupRecord, HeldEntry, RecoveredGroup, RememberedId, ReturnedEntry } from '../log-store.ts'
import { SettledRuns } from './settled-runs.ts'

/** Lanes are few, and sequences have 48 bits. */
const LANES = 16

export class GroupBuilder {
  readonly number: number
  readonly record: GroupRecord
  /** Blocks of the journal up to this one are part of the checkpoint. */
  covered = 0
  /** False before its checkpoint was read. */
  isCertain = false
  readonly lanes: SettledRuns[] = []
  /** By lane: the sequence that the next entry of its log gets at least. */
  readonly nexts: number[] = []
  readonly #returned = new Map<number, ReturnedEntry>()
  readonly #held = new Map<number, HeldEntry>()
  #remembered: RememberedId[] = []
  /** Positions of remembered ids: of the oldest one, and one past the newest of the checkpoint. */
  #head = 0
  #tail = 0
  /** Positions before this one were read. */
  #read = 0
  #counters: readonly number[] = []

  constructor(number: number, record: GroupRecord) {
    this.number = number
    this.record = record
  }

  /** Whether remembered ids of the checkpoint are missing. */
  get lacksIds(): boolean {
    return this.#read < this.#tail
  }

  lane(lane: number): SettledRuns {
    while (this.lanes.length <= lane) {
      this.lanes.push(new SettledRuns())
      this.nexts.push(1)
    }
    return this.lanes[lane]!
  }

  /** Reads the head value of the checkpoint. Throws when it cannot be decoded. */
  begin(reader: ByteReader): void {
    this.covered = reader.varint()
    const lanes = reader.varint()
    for (let lane = 0; lane < lanes; lane++) {
      this.lane(lane)
      this.nexts[lane] = reader.varint()
      this.lanes[lane] = readRuns(reader)
    }
    for (let count = reader.varint(); count > 0; count--) {
      const lane = reader.varint()
      const sequence = reader.varint()
      const failures = reader.varint()
      const attempts = reader.varint()
      this.#returned.set(keyOf(lane, sequence), { lane, sequence, failures, attempts, due: reader.f64() })
    }
    for (let count = reader.varint(); count > 0; count--) {
      const fields = readHeld(reader)
      this.#held.set(keyOf(fields.lane, fields.sequence), heldOf(fields))
    }
    this.#head = reader.varint()
    this.#tail = reader.varint()
    this.#read = this.#head
    const counters: number[] = []
    for (let count = reader.varint(); count > 0; count--) counters.push(reader.f64())
    this.#counters = counters
    this.isCertain = true
  }

  /**
   * Takes the remembered ids from `from` on; parts come in order. Returns the part, or null if the head value
   * does not know it: then it is garbage. Throws when it cannot be decoded.
   */
  remembered(from: number, reader: ByteReader): Segment | null {
    const to = reader.varint()
    if (!this.isCertain || to <= this.#head || from >= this.#tail) return null
    for (let position = from; position < to; position++) {
      const time = reader.f64()
      const id = reader.text()
      if (position !== this.#read || position >= this.#tail) continue
      this.#remembered.push({ time, id })
      this.#read++
    }
    return { from, to }
  }

  /** Applies a journal record that the checkpoint does not cover. */
  apply({ type, log }: JournalRecord): void {
    const { lane, sequence, next, failures, attempts, time, text } = log
    switch (type) {
      case RecordType.Settled:
        this.settle(lane, sequence, next)
        return
      case RecordType.Returned:
        this.#held.delete(keyOf(lane, sequence))
        this.#returned.set(keyOf(lane, sequence), { lane, sequence, failures, attempts, due: time })
        return
      case RecordType.Held:
        this.#held.set(keyOf(lane, sequence), heldOf(log))
        return
      case RecordType.Moved:
        this.lane(lane).reset(sequence)
        for (const map of [this.#returned, this.#held])
          for (const [key, entry] of map) if (entry.lane === lane) map.delete(key)
        return
      case RecordType.Remembered:
        this.#remembered.push({ time, id: text })
    }
  }

  /** Settles entries, and forgets which of them were returned or held. */
  settle(lane: number, first: number, next: number): void {
    this.lane(lane).add(first, next)
    if (this.#returned.size + this.#held.size === 0) return
    if (next - first > this.#returned.size + this.#held.size) {
      for (const map of [this.#returned, this.#held])
        for (const [key, entry] of map)
          if (entry.lane === lane && entry.sequence >= first && entry.sequence < next) map.delete(key)
      return
    }
    for (let sequence = first; sequence < next; sequence++) {
      this.#returned.delete(keyOf(lane, sequence))
      this.#held.delete(keyOf(lane, sequence))
    }
  }

  recovered(): RecoveredGroup {
    const inOrder = (a: ReturnedEntry | HeldEntry, b: ReturnedEntry | HeldEntry): number =>
      a.lane - b.lane || a.sequence - b.sequence
    return {
      number: this.number,
      record: this.record,
      lanes: this.lanes,
      returned: [...this.#returned.values()].sort(inOrder),
      held: [...this.#held.values()].sort(inOrder),
      remembered: this.#remembered,
      rememberedHead: this.#head,
      counters: this.#counters,
    }
  }
}

function keyOf(lane: number, sequence: number): number {
  return sequence * LANES + lane
}

function readRuns(reader: ByteReader): SettledRuns {
  const runs = new SettledRuns(reader.varint())
  let end = runs.floor
  for (let count = reader.varint(); count > 0; count--) {
    const first = end + reader.varint()
    end = first + reader.varint()
    runs.add(first, end)
  }
  return runs
}
