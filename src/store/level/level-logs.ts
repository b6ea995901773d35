/**
 * HOT. The logs of a store on disk, over all its openings. When the store has failed, records do nothing:
 * what was not committed is not acknowledged.
 */
import type { Delivery, Message } from '../../mqtt/message.ts'
import type { LogRecords } from '../commit/log-records.ts'
import type { SessionRecords } from '../commit/session-records.ts'
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
import type { LogReader } from '../logs/log-reader.ts'
import type { StoredLogs } from '../logs/stored-logs.ts'

/** The parts of one opening that have to do with logs. */
export interface LogParts {
  readonly logs: StoredLogs
  readonly logRecords: LogRecords
  readonly logReader: LogReader
  readonly sessions: SessionRecords
}

/** The parts of the store's present opening. */
export interface PartsOf {
  /** Null when the store has failed. */
  recording(): LogParts | null
  opened(): LogParts
  /** Null before the store is open, and while it is being opened again. */
  present(): LogParts | null
}

export class LevelLogs implements LogStore {
  readonly #parts: PartsOf

  constructor(parts: PartsOf) {
    this.#parts = parts
  }

  takeNumber(): number {
    return this.#parts.opened().logRecords.takeNumber()
  }

  putDefinition(definition: number, record: DefinitionRecord): void {
    this.#parts.recording()?.logRecords.putDefinition(definition, record)
  }

  deleteDefinition(definition: number): void {
    this.#parts.recording()?.logRecords.deleteDefinition(definition)
  }

  putGroup(group: number, record: GroupRecord): void {
    this.#parts.recording()?.logRecords.putGroup(group, record)
  }

  deleteGroup(group: number): void {
    this.#parts.recording()?.logRecords.deleteGroup(group)
  }

  append(log: number, message: Message, expiresAt: number): number {
    return this.#parts.recording()?.logRecords.append(log, message, expiresAt) ?? 0
  }

  log(log: number): LogFigures {
    return this.#parts.opened().logs.figures(log)
  }

  segment(log: number, sequence: number): LogSegment | null {
    return this.#parts.opened().logReader.segment(log, sequence)
  }

  load(log: number, sequence: number): Promise<LogSegment | null> {
    return this.#parts.opened().logReader.load(log, sequence)
  }

  forget(log: number): void {
    this.#parts.opened().logs.cache.forgetLog(log)
  }

  expiring(log: number, from: number, now: number): number {
    return this.#parts.opened().logs.expiring(log, from, now)
  }

  expiresFrom(log: number, sequence: number, time: number): void {
    this.#parts.opened().logs.expiresFrom(log, sequence, time)
  }

  settled(group: number, lane: number, first: number, next: number, bytes: number): void {
    this.#parts.recording()?.logRecords.settled(group, lane, first, next, bytes)
  }

  returned(group: number, entry: ReturnedEntry): void {
    this.#parts.recording()?.logRecords.returned(group, entry)
  }

  held(group: number, entry: HeldEntry): void {
    this.#parts.recording()?.logRecords.held(group, entry)
  }

  moved(group: number, lane: number, position: number): void {
    this.#parts.recording()?.logRecords.moved(group, lane, position)
  }

  remembered(group: number, id: RememberedId): void {
    this.#parts.recording()?.logRecords.remembered(group, id)
  }

  touched(group: number): void {
    this.#parts.recording()?.logRecords.touched(group)
  }

  sent(sessionId: number, packetId: number, delivery: Delivery): void {
    this.#parts.recording()?.sessions.logSent(sessionId, packetId, delivery)
  }

  get memoryBytes(): number {
    return this.#parts.present()?.logs.memoryBytes ?? 0
  }

  get cachedBytes(): number {
    return this.#parts.present()?.logs.cache.bytes ?? 0
  }

  get reads(): number {
    return this.#parts.present()?.logReader.reads ?? 0
  }

  get hits(): number {
    return this.#parts.present()?.logReader.hits ?? 0
  }
}
