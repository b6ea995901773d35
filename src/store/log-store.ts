/**
 * The port of the logs of queues and streams, beside `Store`: reached as `store.logs`, in memory and on
 * disk. Everything that `store.ts` says about recording holds here: records are synchronous, fill the open
 * block, and are durable with `openSequence` as it was read after recording.
 *
 * A log is an append-only list of messages, numbered from 1. A definition (queue, stream) has one log for
 * each lane. A group reads the logs of one definition and knows which entries are settled. The entries of a
 * queue's log are deleted once its group has settled them; those of a stream when the log is cut.
 *
 * When the store has failed, records do nothing, and `append` returns 0.
 */
import type { Delivery, Message, QoS } from '../mqtt/message.ts'

export type DefinitionKind = 'queue' | 'stream'
/** Names who declared it: the configuration, the operator, a client by using it, or the Server. */
export type DefinitionOrigin = 'file' | 'operator' | 'use' | 'server'

export interface DefinitionRecord {
  readonly kind: DefinitionKind
  readonly name: string
  readonly origin: DefinitionOrigin
  /** Everything that the store need not understand, as the broker wrote it: JSON. */
  readonly properties: string
  /** Numbers of its logs, by lane. Take a new one with `takeNumber`. */
  readonly logs: readonly number[]
  readonly paused: boolean
  readonly owner: DefinitionOwner | null
}

/** The user for whom a definition counts. Null instead of one: nobody but the operator. */
export interface DefinitionOwner {
  /** Null for anonymous clients. */
  readonly userName: string | null
  /** Of anonymous clients their address, as the broker names it; otherwise empty. */
  readonly address: string
}

export interface GroupRecord {
  /** Number of its definition. */
  readonly definition: number
  /**
   * `settles`: the group of a queue, whose settled entries are deleted. There is at most one of these for a
   * definition.
   */
  readonly kind: 'queue' | 'stream' | 'reader'
  /** Empty for the group of a queue. */
  readonly name: string
  /** Of a stream's group: the topic filter of its members; empty without. */
  readonly filter: string
}

/** Consecutive sequences from `first` up to, not including, `next`. */
export interface Run {
  readonly first: number
  readonly next: number
}

/**
 * Settled entries of one lane: everything below `floor`, and `runs` beyond it, in order, with gaps between
 * them.
 */
export interface LaneState {
  /** The lowest sequence that is not settled. Everything below is. 1 at first. */
  readonly floor: number
  readonly runs: Iterable<Run>
}

/** A message that came back, or whose failures count: known until it is settled. */
export interface ReturnedEntry {
  readonly lane: number
  readonly sequence: number
  readonly failures: number
  /** Hand-outs so far. */
  readonly attempts: number
  /** Broker time in ms before which it is not handed out again; 0 for at once. */
  readonly due: number
}

/**
 * A message that is held with `ack=explicit`; or that is in flight at QoS 2 to a Session that is not stored,
 * and is in doubt at the next start: then `until` is Infinity, and `leaseSeconds` is 0 for a member of a
 * Shared Subscription.
 */
export interface HeldEntry {
  readonly lane: number
  readonly sequence: number
  /** The hand-out by which it is held. */
  readonly attempt: number
  /** Broker time in ms at which the lease ends. */
  readonly until: number
  readonly token: string
  /** How long a lease is that its consumer asks for without a time. */
  readonly leaseSeconds: number
  /** Client Identifier of the consumer. */
  readonly clientId: string
}

export interface RememberedId {
  /** Broker time in ms at which it was taken. */
  readonly time: number
  readonly id: string
}

/**
 * The state of a group, read by the store when it writes a checkpoint. It is that of now: everything
 * recorded so far is in it.
 */
export interface GroupState {
  readonly lanes: readonly LaneState[]
  returned(): Iterable<ReturnedEntry>
  held(): Iterable<HeldEntry>
  /**
   * Remembered ids have positions that only grow: `rememberedHead` is the oldest that is still remembered,
   * `rememberedTail` is one past the newest. `remember` adds at the tail. Forgetting at the head is not
   * recorded.
   */
  readonly rememberedHead: number
  readonly rememberedTail: number
  /** Returns the ids from one position up to, not including, another. */
  remembered(from: number, to: number): Iterable<RememberedId>
  /** Figures that outlive a restart, by whatever meaning the broker gives them. */
  readonly counters: readonly number[]
}

/** Part of `StateSource` as `groups` (optional until all sources have it). */
export interface GroupSource {
  /** Returns undefined if there is no such group (any more). */
  state(group: number): GroupState | undefined
}

export interface RecoveredDefinition {
  readonly number: number
  readonly record: DefinitionRecord
}

export interface RecoveredGroup {
  readonly number: number
  readonly record: GroupRecord
  readonly lanes: readonly LaneState[]
  /** By lane and sequence. None of them is settled. An entry may be held too: then its failures are here. */
  readonly returned: readonly ReturnedEntry[]
  readonly held: readonly HeldEntry[]
  /** Oldest first. */
  readonly remembered: readonly RememberedId[]
  /** The position of the first of them. */
  readonly rememberedHead: number
  readonly counters: readonly number[]
}

/**
 * `Recovered.logs`. Figures of the logs: `LogStore.log(number)`. What Sessions have in flight from a group
 * comes with the Sessions: `RecoveredSession.inFlight` has deliveries with a `source`, whose message is
 * evicted and has size 0. Those of a group that is gone, or whose entry is settled, are left out.
 */
export interface RecoveredLogs {
  readonly definitions: readonly RecoveredDefinition[]
  readonly groups: readonly RecoveredGroup[]
}

/** Figures of one log. The object is the store's own and lives as long as the log. */
export interface LogFigures {
  /**
   * The sequence of the oldest entry that is not deleted; `next` if there is none. Entries after it may be
   * settled or gone.
   */
  readonly first: number
  /** The sequence that the next entry gets. */
  readonly next: number
  /** Entries that are not settled (queue), or not cut (stream). */
  readonly messages: number
  /** Sum of their `Message.size`. */
  readonly bytes: number
  /** Segments, the open one included. */
  readonly segments: number
  /**
   * No entry expires before this broker time; `Infinity` if none does. A bound: such an entry may be settled
   * already.
   */
  readonly earliestExpiry: number
  /** Memory of the log, without segments that were read. */
  readonly memoryBytes: number
}

/** Most entries of a segment. */
export const SEGMENT_ENTRIES_MAX = 1024

/**
 * Up to `SEGMENT_ENTRIES_MAX` entries that follow each other, in memory. Hold it within a turn only: ask for
 * it again (`segment`) in the next one. The open segment grows; others never change.
 */
export interface LogSegment {
  readonly log: number
  /** The sequence of its first entry. */
  readonly first: number
  /** One past the last. */
  readonly end: number
  /** Returns a cursor before the first entry at or after this sequence. */
  from(sequence: number): LogCursor
  /** Returns whether it has the entry. This and the next three are quick in order of the sequences. */
  has(sequence: number): boolean
  /** Returns `Message.size` of an entry that it has. */
  sizeAt(sequence: number): number
  /** Returns when an entry that it has expires, in broker time; `Infinity` for never. */
  expiresAt(sequence: number): number
  /** Decodes an entry that it has; see `LogCursor.message`. */
  message(sequence: number): Message
}

/** HOT. Walks over entries in place: 0.06 us each. Its fields are those of the current entry. */
export interface LogCursor {
  /** Moves to the next entry. False at the end; for the open segment perhaps true later. */
  next(): boolean
  readonly sequence: number
  /** `Message.size`. */
  readonly size: number
  /** Broker time in ms; `Infinity` for never. */
  readonly expiresAt: number
  readonly qos: QoS
  readonly retain: boolean
  /** Broker time in ms of the append. */
  readonly appendedAt: number
  /** Wall time in ms of the append. */
  readonly appendedWall: number
  /** The topic in UTF-8, in place: for keys and filters without decoding. Empty if it has none. */
  topicBytes(): Buffer
  /** Decodes the entry: 0.5 us. Its buffers are copies. Its topic is NO_TOPIC if it has none. */
  message(): Message
}

export interface LogStore {
  /** A number for a definition, log or group. No other one of this store ever gets it. */
  takeNumber(): number

  // ── definitions and groups ──────────────────────────────────────────────────────────────────────────────

  /**
   * Records a definition, or replaces its record. Logs that it did not have before are empty. Logs are never
   * taken away.
   */
  putDefinition(definition: number, record: DefinitionRecord): void
  /**
   * Forgets a definition with its logs and groups; later commits delete its segments. Sessions must first
   * release what they have in flight.
   */
  deleteDefinition(definition: number): void
  /**
   * Records a group, or replaces its record. A new one has settled nothing: for a stream, record `moved` in
   * the same turn. The broker's GroupSource must know it before the turn ends.
   */
  putGroup(group: number, record: GroupRecord): void
  deleteGroup(group: number): void

  // ── entries ─────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Appends a message that expires at this broker time, `Infinity` for never. Returns its sequence. The
   * message is copied: it need not be kept. NO_TOPIC is the topic of one that was published without.
   */
  append(log: number, message: Message, expiresAt: number): number
  /** Throws for a log that no definition has. */
  log(log: number): LogFigures
  /** The segment that has the first entry at or after this sequence, if it is in memory; null otherwise. */
  segment(log: number, sequence: number): LogSegment | null
  /**
   * Reads that segment, at most 4 at a time in order of the calls. Resolves with null if there is no such
   * entry. Rejects with StoreError: `corrupt` if it is missing or damaged.
   */
  load(log: number, sequence: number): Promise<LogSegment | null>
  /** Drops what was read of a log from memory: nobody consumes any more. */
  forget(log: number): void
  /**
   * Returns a sequence of the oldest segment from `from` on that may have an entry which has expired by
   * `now`; -1 for none.
   */
  expiring(log: number, from: number, now: number): number
  /**
   * Notes that no entry of the segment with this one which is not settled expires before `time`. So
   * `expiring` does not name it again until then.
   */
  expiresFrom(log: number, sequence: number, time: number): void

  // ── records of a group ──────────────────────────────────────────────────────────────────────────────────

  /**
   * The sequences from `first` up to, not including, `next` are settled; none of them was. `bytes` is the
   * sum of their `Message.size`.
   */
  settled(group: number, lane: number, first: number, next: number, bytes: number): void
  /** Replaces an earlier one. Ends `held`. */
  returned(group: number, entry: ReturnedEntry): void
  /** Replaces an earlier one. */
  held(group: number, entry: HeldEntry): void
  /**
   * Everything below `position` is settled in this lane, and nothing else. Forgets what was returned or
   * held there.
   */
  moved(group: number, lane: number, position: number): void
  /** Remembers the id of a message that was taken. */
  remembered(group: number, id: RememberedId): void
  /**
   * The counters of the group changed: its checkpoint is written some time. Not needed beside other records.
   */
  touched(group: number): void
  /**
   * A stored Session has an entry in flight under this packet identifier: `delivery.source` says which.
   * Nothing is asked of `delivery.message`. `Store.received(session, packetId, null)` and
   * `Store.completed(session, packetId, null)` end it.
   */
  sent(sessionId: number, packetId: number, delivery: Delivery): void

  // ── memory ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Bytes of memory of open segments, directories and the read cache. */
  readonly memoryBytes: number
  /** The part of these for segments that were read, or whose commit is under way. */
  readonly cachedBytes: number
  /**
   * Segments read from disk, and calls of `segment` that found theirs in memory, since the store was opened.
   */
  readonly reads: number
  readonly hits: number
}
