/** HOT. The logs of a store without a disk: complete segments stay in memory until they are settled. */
import type { Delivery, Message } from '../../mqtt/message.ts'
import type {
  DefinitionRecord,
  GroupRecord,
  HeldEntry,
  LogFigures,
  LogSegment,
  LogStore,
  RememberedId,
  ReturnedEntry,
} from '../log-store.ts'
import { LogTimes, logDecoding } from '../logs/log-times.ts'
import { StoredLogs } from '../logs/stored-logs.ts'
import type { StateSource } from '../store.ts'

/** Settled segments are released after so many changes, unless a commit releases them before. */
const CHANGES_MAX = 1024

export class MemoryLogs implements LogStore {
  readonly reads = 0
  hits = 0
  #source: Pick<StateSource, 'now' | 'wallNow'> | null = null
  readonly #logs: StoredLogs
  readonly #definitions = new Map<number, DefinitionRecord>()
  readonly #groups = new Map<number, GroupRecord>()
  #numbers = 0
  #changes = 0

  constructor() {
    this.#logs = new StoredLogs({
      isDurable: false,
      cacheBytesMax: 0,
      openBytesMax: Number.POSITIVE_INFINITY,
      decoding: logDecoding(new LogTimes()),
      now: () => this.#source?.now() ?? 0,
      wallNow: () => this.#source?.wallNow() ?? 0,
      openSequence: () => 0,
    })
    this.#logs.begin(() => {})
  }

  /** Takes the time from this source. */
  open(source: Pick<StateSource, 'now' | 'wallNow'>): void {
    this.#source = source
  }

  /** Releases settled segments. */
  commit(): void {
    this.#changes = 0
    if (!this.#logs.isEmpty) this.#logs.seal([], () => {})
    if (this.#logs.hasGarbage) this.#logs.sweep([])
  }

  get memoryBytes(): number {
    return this.#logs.memoryBytes
  }

  get cachedBytes(): number {
    return this.#logs.cache.bytes
  }

  takeNumber(): number {
    return ++this.#numbers
  }

  putDefinition(definition: number, record: DefinitionRecord): void {
    this.#definitions.set(definition, record)
    for (const log of record.logs) this.#logs.made(log, definition)
  }

  deleteDefinition(definition: number): void {
    const record = this.#definitions.get(definition)
    if (record === undefined) throw new Error(`there is no definition ${definition}`)
    for (const [number, group] of this.#groups)
      if (group.definition === definition) this.#groups.delete(number)
    this.#definitions.delete(definition)
    this.#logs.discard(record.logs)
  }

  putGroup(group: number, record: GroupRecord): void {
    if (!this.#definitions.has(record.definition))
      throw new Error(`there is no definition ${record.definition}`)
    this.#groups.set(group, record)
  }

  deleteGroup(group: number): void {
    this.#group(group)
    this.#groups.delete(group)
  }

  append(log: number, message: Message, expiresAt: number): number {
    const sequence = this.#logs.append(log, message, expiresAt)
    this.#changed()
    return sequence
  }

  log(log: number): LogFigures {
    return this.#logs.figures(log)
  }

  segment(log: number, sequence: number): LogSegment | null {
    const found = this.#logs.find(log, sequence)
    if (found === null || !('segment' in found)) return null
    this.hits++
    return found.segment
  }

  async load(log: number, sequence: number): Promise<LogSegment | null> {
    return this.segment(log, sequence)
  }

  /** Nothing was read: everything is here. */
  forget(_log: number): void {}

  expiring(log: number, from: number, now: number): number {
    return this.#logs.expiring(log, from, now)
  }

  expiresFrom(log: number, sequence: number, time: number): void {
    this.#logs.expiresFrom(log, sequence, time)
  }

  settled(group: number, lane: number, first: number, next: number, bytes: number): void {
    const { definition, kind } = this.#group(group)
    const log = this.#definitions.get(definition)!.logs[lane]
    if (log === undefined) throw new Error(`group ${group} has no lane ${lane}`)
    if (kind === 'queue') this.#logs.settle(log, first, next, bytes)
    this.#changed()
  }

  returned(group: number, _entry: ReturnedEntry): void {
    this.#group(group)
  }

  held(group: number, _entry: HeldEntry): void {
    this.#group(group)
  }

  moved(group: number, _lane: number, _position: number): void {
    this.#group(group)
  }

  remembered(group: number, _id: RememberedId): void {
    this.#group(group)
  }

  touched(group: number): void {
    this.#group(group)
  }

  sent(_sessionId: number, _packetId: number, _delivery: Delivery): void {}

  #group(group: number): GroupRecord {
    const record = this.#groups.get(group)
    if (record === undefined) throw new Error(`there is no group ${group}`)
    return record
  }

  #changed(): void {
    if (++this.#changes >= CHANGES_MAX) this.commit()
  }
}
