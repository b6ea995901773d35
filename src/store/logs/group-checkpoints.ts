/**
 * Checkpoints of groups, beside those of Sessions: see `journal/checkpoints.ts`. A head value has everything
 * but the remembered ids, which lie in values of up to 1,024 positions, as the queue of a Session does.
 */

import { ByteWriter, textBytesMax } from '../format/encoding.ts'
import { type BatchOperation, logKey, put, Table } from '../format/format.ts'
import { heldBytesMax, writeHeld } from '../format/log-fields.ts'
import type { Page } from '../journal/body-index.ts'
import type { Segment } from '../journal/checkpoints.ts'
import type { Checkpointed } from '../journal/dirty-list.ts'
import type { GroupRecord, GroupState, Run } from '../log-store.ts'
import type { Log } from './log.ts'

const REMEMBERED_POSITIONS = 1024
const KEEP_BYTES = 64 * 1024

/** A stored group. */
export class StoredGroup implements Checkpointed {
  readonly number: number
  record: GroupRecord
  /** By lane. */
  logs: readonly Log[]
  dirtyFrom: Page | null = null
  /** Positions of remembered ids before this one are on disk, or forgotten. */
  written = 0
  /** Parts of remembered ids on disk, oldest first. */
  remembered: Segment[] = []

  constructor(number: number, record: GroupRecord, logs: readonly Log[]) {
    this.number = number
    this.record = record
    this.logs = logs
  }
}

const NOTHING_SETTLED: GroupState = {
  lanes: [],
  returned: () => [],
  held: () => [],
  rememberedHead: 0,
  rememberedTail: 0,
  remembered: () => [],
  counters: [],
}

export class GroupCheckpoints {
  readonly #writer = new ByteWriter(KEEP_BYTES)

  /** Writes the checkpoint of a new group, so that a missing one is always damage. */
  created(group: StoredGroup, covered: number, operations: BatchOperation[]): void {
    this.#head(group, NOTHING_SETTLED, covered, operations)
  }

  /** Writes a group's checkpoint up to the block `covered`. Returns the bytes written. */
  write(group: StoredGroup, state: GroupState, covered: number, operations: BatchOperation[]): number {
    const { rememberedHead: head, rememberedTail: tail } = state
    let bytes = 0
    let from = Math.max(group.written, head)
    if (tail > from) from = this.#merged(group, from, head, tail, operations)
    for (; from < tail; from += REMEMBERED_POSITIONS) {
      bytes += this.#part(group, state, { from, to: Math.min(from + REMEMBERED_POSITIONS, tail) }, operations)
    }
    bytes += this.#head(group, state, covered, operations)
    while (group.remembered.length > 0 && group.remembered[0]!.to <= head) {
      this.#delete(group, group.remembered.shift()!, operations)
    }
    return bytes
  }

  /** Deletes everything of a group. */
  deleted(group: StoredGroup, operations: BatchOperation[]): void {
    operations.push({ type: 'del', key: logKey(Table.GroupCheckpoint, group.number, 0) })
    for (const part of group.remembered) this.#delete(group, part, operations)
  }

  #delete(group: StoredGroup, { from }: Segment, operations: BatchOperation[]): void {
    operations.push({ type: 'del', key: partKey(group.number, from) })
  }

  /** Removes the newest parts while they are no larger than the one to come. Returns where that begins. */
  #merged(
    group: StoredGroup,
    start: number,
    head: number,
    tail: number,
    operations: BatchOperation[],
  ): number {
    let from = start
    for (;;) {
      const newest = group.remembered[group.remembered.length - 1]
      if (newest === undefined || newest.to !== from) return from
      if (newest.to - newest.from > tail - from || tail - newest.from > REMEMBERED_POSITIONS) return from
      group.remembered.pop()
      this.#delete(group, newest, operations)
      from = Math.max(newest.from, head)
    }
  }

  #part(group: StoredGroup, state: GroupState, part: Segment, operations: BatchOperation[]): number {
    const writer = this.#writer
    writer.clear(KEEP_BYTES)
    writer.reserve(10)
    writer.varint(part.to)
    let count = 0
    for (const { time, id } of state.remembered(part.from, part.to)) {
      writer.reserve(8 + textBytesMax(id))
      writer.f64(time)
      writer.text(id)
      count++
    }
    if (count !== part.to - part.from) throw new Error(`remembered ids of group ${group.number} are missing`)
    operations.push(put(partKey(group.number, part.from), writer.taken()))
    group.remembered.push(part)
    group.written = part.to
    return writer.length
  }

  #head(group: StoredGroup, state: GroupState, covered: number, operations: BatchOperation[]): number {
    const writer = this.#writer
    writer.clear(KEEP_BYTES)
    writer.reserve(32)
    writer.varint(covered)
    writer.varint(group.logs.length)
    for (const [lane, log] of group.logs.entries()) {
      const { floor, runs } = state.lanes[lane] ?? { floor: 1, runs: [] }
      writeLane(writer, log.next, floor, [...runs])
    }
    const returned = [...state.returned()]
    writer.reserve(10 + returned.length * 40)
    writer.varint(returned.length)
    for (const { lane, sequence, failures, attempts, due } of returned) {
      writer.varint(lane)
      writer.varint(sequence)
      writer.varint(failures)
      writer.varint(attempts)
      writer.f64(due)
    }
    const held = [...state.held()]
    writer.reserve(10)
    writer.varint(held.length)
    for (const entry of held) {
      writer.reserve(heldBytesMax(entry))
      writeHeld(writer, entry)
    }
    writer.reserve(32 + state.counters.length * 8)
    writer.varint(state.rememberedHead)
    writer.varint(state.rememberedTail)
    writer.varint(state.counters.length)
    for (const counter of state.counters) writer.f64(counter)
    operations.push(put(logKey(Table.GroupCheckpoint, group.number, 0), writer.taken()))
    return writer.length + 64
  }
}

/** The key of the remembered ids from a position on. Position 0 is taken by the head value. */
function partKey(group: number, from: number): Buffer {
  return logKey(Table.GroupCheckpoint, group, from + 1)
}

function writeLane(writer: ByteWriter, logNext: number, floor: number, runs: readonly Run[]): void {
  writer.reserve(32 + runs.length * 16)
  writer.varint(logNext)
  writer.varint(floor)
  writer.varint(runs.length)
  let end = floor
  for (const { first, next } of runs) {
    writer.varint(first - end)
    writer.varint(next - first)
    end = next
  }
}
