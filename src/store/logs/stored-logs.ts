/**
 * HOT. All logs of a store: appends to them, counts what is settled, and says what a commit has to write and
 * delete. Used by the store on disk, and by the one in memory, which keeps complete segments until they are
 * settled.
 */
import type { Message } from '../../mqtt/message.ts'
import { type BatchOperation, logKey, Table } from '../format/format.ts'
import { type LogFigures, SEGMENT_ENTRIES_MAX } from '../log-store.ts'
import { type EntryFields, fieldsOf, GrowingSegment } from './growing-segment.ts'
import { LOG_BYTES, Log } from './log.ts'
import type { SegmentPlace } from './log-directory.ts'
import { type LogTimes, logDecoding } from './log-times.ts'
import type { EntryDecoding, Segment } from './segment.ts'
import { SegmentCache } from './segment-cache.ts'

/** A segment takes entries until it has this many bytes or fragments, or `SEGMENT_ENTRIES_MAX` entries. */
const SEGMENT_BYTES = 64 * 1024
/** The buffer of a growing segment, with what is settled, is replaced when it has this many bytes. */
const BUFFER_BYTES = 2 * SEGMENT_BYTES
const FRAGMENTS_MAX = 256
/** A busy log gets a buffer with room for one more entry of this size. */
const SPARE_BYTES = 4096
/** A log that did not grow for so long has its segment completed. */
const IDLE_MS = 60_000
/** Idle segments that one commit completes. */
const IDLE_MAX = 4
/** Keys of deleted logs that one commit deletes. */
const DELETES_MAX = 128
/** The clock was set if wall time differs by more from what the segment's times say. */
const WALL_DRIFT_MS = 1000

export interface LogsOptions {
  /** False if complete segments stay in memory, and nothing is written. */
  readonly isDurable: boolean
  readonly cacheBytesMax: number
  /** Memory of all growing segments, above which those that are idle longest are completed. */
  readonly openBytesMax: number
  readonly decoding: EntryDecoding
  /** Broker time and wall time in ms. */
  readonly now: () => number
  readonly wallNow: () => number
  /** The number of the open block. */
  readonly openSequence: () => number
}

type Write = (operation: BatchOperation) => void

/** Where an entry can be read: in memory, or under this key. */
export type Found = { readonly segment: Segment } | { readonly first: number; readonly end: number } | null

export class StoredLogs {
  readonly cache: SegmentCache
  readonly options: LogsOptions
  /** Bytes that came since the last commit and are not handed over. */
  pendingBytes = 0
  #openBytes = 0
  readonly #logs = new Map<number, Log>()
  /** Logs that the next commit looks at. */
  #changed: Log[] = []
  /** Segments that are settled and still on disk. */
  #settled: { log: Log; first: number }[] = []
  /** Such segments that an earlier run left. */
  #leftOver: { log: Log; first: number }[] = []
  /** Logs of deleted definitions. */
  readonly #garbage: Log[] = []
  /** Logs with a growing segment, the one that did not grow for longest first. */
  #oldest: Log | null = null
  #newest: Log | null = null

  /** Adds an operation to the open commit. */
  #write: Write = () => {
    throw new Error('the store is not open')
  }

  constructor(options: LogsOptions) {
    this.options = options
    this.cache = new SegmentCache(options.isDurable ? options.cacheBytesMax : Number.POSITIVE_INFINITY)
  }

  /** Ends the opening: `write` adds an operation to the open commit. */
  begin(write: Write): void {
    this.#write = write
  }

  /** Whether the next commit has something to write. */
  get isEmpty(): boolean {
    return this.#changed.length === 0 && this.#settled.length === 0
  }

  /** Memory of everything that is kept for logs. */
  get memoryBytes(): number {
    let bytes = this.cache.bytes + this.#openBytes + this.#logs.size * LOG_BYTES
    for (const { directory } of this.#logs.values()) bytes += directory.memoryBytes
    return bytes
  }

  /** Returns the log with this number, a new one if there is none. */
  made(number: number, definition: number): Log {
    let log = this.#logs.get(number)
    if (log === undefined) {
      log = new Log(number, definition)
      this.#logs.set(number, log)
    }
    return log
  }

  get(number: number): Log {
    const log = this.#logs.get(number)
    if (log === undefined) throw new Error(`no definition has the log ${number}`)
    return log
  }

  /** Null if no definition has it. */
  known(number: number): Log | null {
    return this.#logs.get(number) ?? null
  }

  all(): Iterable<Log> {
    return this.#logs.values()
  }

  figures(number: number): LogFigures {
    return this.get(number)
  }

  append(number: number, message: Message, expiresAt: number): number {
    if (message.evicted) throw new Error('the body of an appended message is gone')
    const log = this.get(number)
    return this.add(log, log.next, fieldsOf(message), expiresAt, this.options.now(), this.options.wallNow())
  }

  /** Appends an entry under this sequence, which is not below `log.next`. */
  add(log: Log, sequence: number, fields: EntryFields, expiresAt: number, now: number, wall: number): number {
    const growing = this.#growing(log, sequence, now, wall)
    const before = growing.memoryBytes
    const place = growing.stop
    const size = growing.add(sequence, now, expiresAt, fields)
    log.added(growing, place, sequence, size, expiresAt)
    log.wall = Math.max(log.wall, wall)
    log.time = now
    log.hasGrown = true
    this.#openBytes += growing.memoryBytes - before
    this.pendingBytes += growing.stop - place
    this.#change(log)
    if (
      growing.length >= SEGMENT_BYTES ||
      growing.count >= SEGMENT_ENTRIES_MAX ||
      growing.stop >= BUFFER_BYTES
    ) {
      this.#full(log)
    }
    return sequence
  }

  /** Notes that the entries from `first` up to, not including, `next` are settled. */
  settle(number: number, first: number, next: number, bytes: number): void {
    const log = this.get(number)
    log.messages -= next - first
    log.bytes -= bytes
    const growingFrom = log.fragments[0]?.first ?? log.next
    let from = first
    while (from < next && from < growingFrom) {
      const place = log.directory.find(from)
      if (place === null || place.part.first(place.index) > from)
        throw new Error(`log ${number} has no entry ${from}`)
      const to = Math.min(next, place.part.end(place.index))
      const segmentFirst = place.part.first(place.index)
      if (log.directory.settle(place, to - from)) {
        this.#settled.push({ log, first: segmentFirst })
        this.cache.delete(number, segmentFirst)
      }
      from = to
    }
    if (from < next) log.settleGrowing(from, next)
    this.#change(log)
  }

  /** Finds the first entry at or after this sequence. */
  find(number: number, sequence: number): Found {
    const log = this.get(number)
    const place = log.directory.find(sequence)
    if (place === null) {
      const { growing } = log
      return growing !== null && growing.count > 0 && growing.end > sequence ? { segment: growing } : null
    }
    const first = place.part.first(place.index)
    const segment = this.cache.get(number, first)
    return segment === null ? { first, end: place.part.end(place.index) } : { segment }
  }

  /** See `LogStore.expiring`. */
  expiring(number: number, from: number, now: number): number {
    const log = this.get(number)
    const { directory } = log
    for (let place = directory.find(from); place !== null; place = directory.after(place)) {
      const { first, expiry } = place.part.entry(place.index)
      if (expiry <= now) return Math.max(from, first)
    }
    for (const { first, end, expiry, left } of log.fragments)
      if (end > from && left > 0 && expiry <= now) return Math.max(from, first)
    return -1
  }

  /** See `LogStore.expiresFrom`. */
  expiresFrom(number: number, sequence: number, time: number): void {
    const log = this.get(number)
    const place = log.directory.find(sequence)
    if (place !== null) log.directory.expiresFrom(place, time)
    else for (const fragment of log.fragments) fragment.expiry = Math.max(fragment.expiry, time)
  }

  /** Forgets the logs of a deleted definition. The next commits delete them. */
  discard(logs: readonly number[]): void {
    for (const number of logs) {
      const log = this.#logs.get(number)
      if (log === undefined) continue
      this.#logs.delete(number)
      this.cache.forgetLog(number)
      this.#release(log)
      log.dead.push(...log.fragments.filter(({ isWritten }) => isWritten))
      log.fragments = []
      this.#garbage.push(log)
    }
  }

  /** Takes over what recovery found of a log. */
  recovered(log: Log): void {
    if (log.growing === null) return
    this.#openBytes += log.growing.memoryBytes
    this.#list(log)
  }

  /**
   * Takes over what recovery found out about a complete segment: one that is settled is deleted some time.
   */
  recoveredSegment(log: Log, place: SegmentPlace, left: number): void {
    const first = place.part.first(place.index)
    if (log.directory.recovered(place, left)) this.#leftOver.push({ log, first })
  }

  /** Whether logs of deleted definitions are still to be deleted. */
  get hasGarbage(): boolean {
    return this.#garbage.length > 0
  }

  /**
   * Appends everything that belongs to the block being sealed. `grown` is told of logs that grew. Returns the
   * definitions whose deletion is complete with this commit.
   */
  seal(operations: BatchOperation[], grown: (log: Log) => void): void {
    const write: Write = (operation) => {
      operations.push(operation)
    }
    this.#completeIdle(write)
    for (const settled of this.#leftOver) {
      this.#settled.push(settled)
      this.#change(settled.log)
    }
    this.#leftOver = []
    for (const log of this.#changed) {
      log.isChanged = false
      if (this.#logs.get(log.number) !== log) {
        // Its deletion may take many commits. What is on disk until then must be in its directory.
        log.directory.seal(operations)
        continue
      }
      if (log.hasGrown) grown(log)
      log.hasGrown = false
      this.#sealLog(log, operations, write)
    }
    this.#changed = []
    for (const { log, first } of this.#settled) write(del(Table.Log, log.number, first))
    this.#settled = []
    this.pendingBytes = 0
  }

  /**
   * Appends deletes of discarded logs, at most DELETES_MAX. Returns the definitions that are gone with them.
   */
  sweep(operations: BatchOperation[]): number[] {
    const gone: number[] = []
    let deletes = 0
    while (deletes < DELETES_MAX && this.#garbage.length > 0) {
      const log = this.#garbage[this.#garbage.length - 1]!
      deletes += this.#deleteSome(log, DELETES_MAX - deletes, operations)
      if (log.dead.length + log.directory.segments > 0) break
      this.#garbage.pop()
      if (!this.#garbage.some(({ definition }) => definition === log.definition)) gone.push(log.definition)
    }
    return gone
  }

  #deleteSome(log: Log, most: number, operations: BatchOperation[]): number {
    let deletes = 0
    for (; deletes < most && log.dead.length > 0; deletes++) {
      operations.push(del(Table.Log, log.number, log.dead.pop()!.first))
    }
    const places: SegmentPlace[] = []
    for (const place of log.directory) {
      if (deletes + places.length >= most) break
      places.push(place)
    }
    for (const place of places) {
      const { part, index } = place
      operations.push(del(Table.Log, log.number, part.first(index)))
      log.directory.settle(place, part.left(index))
    }
    log.directory.seal(operations)
    return deletes + places.length
  }

  #growing(log: Log, sequence: number, now: number, wall: number): GrowingSegment {
    const { growing } = log
    if (growing !== null) {
      if (Math.abs(wall - now - (growing.wall - growing.time)) <= WALL_DRIFT_MS) {
        if (log !== this.#newest) this.#relist(log)
        return growing
      }
      log.dropSettled()
      this.#complete(log, this.#write)
    }
    const { decoding } = this.options
    const made = new GrowingSegment(log.number, decoding, sequence, wall, now, log.capacityBytes)
    log.growing = made
    this.#openBytes += made.memoryBytes
    this.#list(log)
    return made
  }

  #sealLog(log: Log, operations: BatchOperation[], write: Write): void {
    log.dropSettled()
    const { growing, fragments } = log
    for (const { first } of log.dead) write(del(Table.Log, log.number, first))
    log.dead.length = 0
    if (growing !== null) {
      if (fragments.length >= FRAGMENTS_MAX) this.#complete(log, write)
      else if (fragments.length === 0) this.#emptied(log, growing)
      else this.#writeFragment(log, growing, write)
    }
    if (log.directory.isChanged) log.directory.seal(operations)
  }

  /** Nothing of the growing segment is needed any more: a large buffer is let go of. */
  #emptied(log: Log, growing: GrowingSegment): void {
    if (growing.stop >= SEGMENT_BYTES / 2) this.#release(log)
  }

  #writeFragment(log: Log, growing: GrowingSegment, write: Write): void {
    const fragment = log.fragments[log.fragments.length - 1]!
    if (fragment.isWritten || fragment.isGone) return
    fragment.isWritten = true
    if (!this.options.isDurable) return
    const key = logKey(Table.Log, log.number, fragment.first)
    const value = growing.fragment(key, fragment.place, fragment.first, fragment.count)
    write({ type: 'put', key, value })
  }

  /** Completes the growing segment. If little of it is left, that goes on in a new one instead. */
  #full(log: Log): void {
    log.dropSettled()
    const { growing } = log
    if (growing === null) return
    if (growing.length >= SEGMENT_BYTES / 2 || growing.count >= SEGMENT_ENTRIES_MAX / 2) {
      this.#complete(log, this.#write)
    } else if (growing.stop >= BUFFER_BYTES) {
      this.#move(log)
    }
  }

  /** Makes a complete segment of what is left of the growing one, once what is settled was dropped. */
  #complete(log: Log, write: Write): void {
    const { growing, fragments } = log
    if (growing === null) return
    for (const { first } of log.dead) write(del(Table.Log, log.number, first))
    log.dead.length = 0
    const left = log.growingLeft
    log.capacityBytes = growing.length < SEGMENT_BYTES ? undefined : SEGMENT_BYTES + SPARE_BYTES
    if (left > 0) this.#store(log, growing, left, write)
    for (const { first, isWritten } of fragments)
      if (isWritten && (left === 0 || first !== growing.first)) write(del(Table.Log, log.number, first))
    log.fragments = []
    this.#release(log)
  }

  #store(log: Log, growing: GrowingSegment, left: number, write: Write): void {
    const key = logKey(Table.Log, log.number, growing.first)
    const { segment, value } = growing.complete(key)
    log.directory.add(log.entry(growing), left)
    const { isDurable, openSequence } = this.options
    this.cache.addFresh(segment, isDurable ? openSequence() : Number.POSITIVE_INFINITY)
    if (isDurable) write({ type: 'put', key, value })
    // Its directory is written with the commit.
    this.#change(log)
  }

  #change(log: Log): void {
    if (log.isChanged) return
    log.isChanged = true
    this.#changed.push(log)
  }

  #completeIdle(write: Write): void {
    const { now, openBytesMax } = this.options
    const idleSince = now() - IDLE_MS
    for (let count = 0; count < IDLE_MAX || this.#openBytes > openBytesMax; count++) {
      const log = this.#oldest
      if (log === null || (log.time > idleSince && this.#openBytes <= openBytesMax)) return
      log.dropSettled()
      if (log.time > idleSince && log.growing!.length * 4 < log.growing!.memoryBytes) this.#move(log)
      else this.#complete(log, write)
    }
  }

  /** Goes on in a buffer that has only what is left. */
  #move(log: Log): void {
    const { growing } = log
    if (growing === null) return
    this.#openBytes -= growing.memoryBytes
    log.moveTo(growing.moved())
    this.#openBytes += log.growing!.memoryBytes
    this.#relist(log)
  }

  /** Lets go of the growing segment. */
  #release(log: Log): void {
    if (log.growing === null) return
    this.#openBytes -= log.growing.memoryBytes
    log.growing = null
    this.#unlist(log)
  }

  #list(log: Log): void {
    log.older = this.#newest
    log.newer = null
    if (this.#newest === null) this.#oldest = log
    else this.#newest.newer = log
    this.#newest = log
    log.isListed = true
  }

  #unlist(log: Log): void {
    if (!log.isListed) return
    const { older, newer } = log
    if (older === null) this.#oldest = newer
    else older.newer = newer
    if (newer === null) this.#newest = older
    else newer.older = older
    log.older = null
    log.newer = null
    log.isListed = false
  }

  #relist(log: Log): void {
    this.#unlist(log)
    this.#list(log)
  }
}

/** Returns logs that are only read, and never written. */
export function detachedLogs(times: LogTimes): StoredLogs {
  return new StoredLogs({
    ...{ isDurable: true, cacheBytesMax: 0, openBytesMax: 0 },
    ...{ decoding: logDecoding(times), now: () => 0, wallNow: () => 0, openSequence: () => 0 },
  })
}

function del(table: Table, number: number, position: number): BatchOperation {
  return { type: 'del', key: logKey(table, number, position) }
}
