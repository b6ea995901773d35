/** The time in doubt, and which messages were stored before it. See `format/time-record.ts`. */
import { Message } from '../../mqtt/message.ts'
import { put, TIME_KEY } from '../format/format.ts'
import { encodeTimes, type StoredDoubt } from '../format/time-record.ts'
import type { BodyIndex } from '../journal/body-index.ts'
import type { Parked, TimeDoubt } from '../store.ts'
import type { JournalTail } from './journal-tail.ts'
import type { PendingCommit } from './pending-commit.ts'
import { parkedHere } from './released-entries.ts'

export class StoredTimes {
  readonly #bodies: BodyIndex
  readonly #pending: PendingCommit
  readonly #tail: JournalTail
  /** The first page of this run. */
  readonly #firstNewPage: number
  /** Bodies named by pages before this one are old: see `isOld`. */
  #oldBefore: number
  #doubt: StoredDoubt | null

  /** `doubt` is the one that was stored; the journal `tail` has no page of this run yet. */
  constructor(bodies: BodyIndex, pending: PendingCommit, tail: JournalTail, doubt: StoredDoubt | null) {
    this.#bodies = bodies
    this.#pending = pending
    this.#tail = tail
    this.#firstNewPage = tail.nextPage
    this.#oldBefore = doubt?.before ?? tail.nextPage
    this.#doubt = doubt
  }

  /** See `Store.putDoubt`. */
  putDoubt(doubt: TimeDoubt | null): void {
    // A new doubt is about messages from before this run; one that goes on, about those from before it began.
    if (doubt === null || doubt.until !== this.#doubt?.until) this.#oldBefore = this.#firstNewPage
    this.#doubt = doubt === null ? null : { ...doubt, before: this.#oldBefore }
    this.#write()
  }

  /** For a store that is filled from records: everything recorded so far was stored before the doubt. */
  restoreDoubt(doubt: TimeDoubt): void {
    this.#oldBefore = this.#tail.nextPage
    this.#doubt = { ...doubt, before: this.#oldBefore }
    this.#write()
  }

  /** See `Store.isOld`. */
  isOld(message: Message): boolean {
    const body = this.#bodies.handle(message)
    return body !== null && body.namePage < this.#oldBefore
  }

  /** See `Store.postpone`. */
  postpone(ms: number, since: number, held: Iterable<Message | Parked>): void {
    const change = { before: this.#oldBefore, since, ms }
    const postponed = new Set<Message>()
    for (const item of held) {
      if (!(item instanceof Message)) parkedHere(item).postpone(change)
      else if (this.isOld(item) && item.expiresAt > since && !postponed.has(item)) {
        postponed.add(item)
        item.expiresAt += ms
      }
    }
    this.#bodies.times.add(change)
    this.#write()
  }

  #write(): void {
    this.#pending.write(put(TIME_KEY, encodeTimes(this.#doubt, this.#bodies.times)))
  }
}
