/** The port of a queue's machine: all that it asks of the Server around it. */
import type { Message } from '../mqtt/message.ts'
import type { HeldEntry } from '../store/log-store.ts'
import type { GoneReason } from './figures.ts'
import type { DeathReason } from './properties.ts'
import type { Consumer, Entry, Member } from './state/consumer.ts'
import type { LogSegment } from './state/lane.ts'
import type { Run } from './state/runs.ts'

/** A message that goes to the dead letters. */
export interface Death {
  readonly lane: number
  readonly sequence: number
  readonly reason: DeathReason
  /** Hand-outs. */
  readonly attempts: number
  /** Reason Code of the latest refusal; 0 for none. */
  readonly code: number
  /** Reason String of that refusal; '' without. */
  readonly detail: string
  /** Client Identifier of the consumer that had it last; '' for nobody. */
  readonly clientId: string
  /** Belongs to the machine. */
  readonly entry: Entry
}

export interface GroupContext {
  /** Broker time in ms. */
  now(): number
  /**
   * Returns the token of a hand-out to this consumer, which nobody can guess: the same one for the same
   * hand-out as long as the queue exists.
   */
  token(lane: number, sequence: number, attempt: number, consumer: Consumer): string

  /** Appends a message to the log of a lane. Returns its sequence; 0 when the store has failed. */
  append(lane: number, message: Message): number
  /** Returns the segment with this sequence; null if it has to be read first: then `loaded` follows. */
  segment(lane: number, sequence: number): LogSegment | null
  /** Runs of sequences among which some have perhaps expired by `now`. */
  expiring(lane: number, now: number): Iterable<Run>

  /** Records that `[first, next)` are settled; `bytes` is the sum of their sizes. */
  settled(lane: number, first: number, next: number, bytes: number): void
  /** Records that a message came back or failed. `due` is when it is ready again; 0 for at once. */
  returned(lane: number, sequence: number, failures: number, attempts: number, due: number): void
  /** Records that a message is held until a time. */
  held(entry: HeldEntry): void
  /** Records the id of a message that was just appended. */
  remembered(id: string, time: number): void
  /** Tells that so many ids were forgotten early, since there were too many. */
  forgottenIds(count: number): void
  paused(isPaused: boolean): void

  /**
   * Has a message moved to the dead letters: `moved` follows, never within this call, in the turn in which
   * it is appended there, or once it is lost.
   */
  dead(death: Death): void
  /** Tells that messages left: `count` from this sequence on. */
  dropped(reason: GoneReason, lane: number, sequence: number, count: number): void
  /** Tells that a consumer fell silent: it has not acknowledged in time. */
  silent(member: Member): void
  /** Tells that nothing new is handed out, since too much is in memory. */
  unsettledMax(): void

  /** Calls `work` soon, in this turn or the next one. */
  wake(): void
  /** Calls `tick` at this time or a little later, instead of at the time that was asked for before. */
  tickAt(time: number): void
}
