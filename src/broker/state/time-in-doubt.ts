/** Time before the start that may not have passed, and its effect on what is from before the start. */
import type { Message } from '../../mqtt/message.ts'
import type { Store, TimeDoubt } from '../../store/store.ts'

/** Time in doubt, which `BrokerClock` finds and ends. */
export class TimeInDoubt {
  /** Null if there is no doubt. */
  span: TimeDoubt | null = null
  readonly #store: Pick<Store, 'isOld'>
  readonly #now: () => number
  /** Retained messages from before the start, while time is in doubt. */
  readonly #oldRetained = new WeakSet<Message>()

  /** `now` returns broker time in ms. */
  constructor(store: Pick<Store, 'isOld'>, now: () => number) {
    this.#store = store
    this.#now = now
  }

  /** Tells whether a message has expired by time in doubt only: it is neither sent nor deleted. */
  isDoubtful(message: Message): boolean {
    const { span } = this
    if (span === null || message.expiresAt > this.#now()) return false
    return message.expiresAt + span.ms > this.#now() && this.isOld(message)
  }

  /**
   * Tells whether a message is from before the start. For retained ones it is false unless time is in doubt.
   */
  isOld(message: Message): boolean {
    return this.#oldRetained.has(message) || this.#store.isOld(message)
  }

  /** Adds a retained message from before the start. */
  addRetained(message: Message): void {
    if (this.span !== null) this.#oldRetained.add(message)
  }

  /** Tells whether this broker time is before the time in doubt. */
  isBefore(time: number): boolean {
    return this.span !== null && time <= this.span.since
  }

  /**
   * Returns when something from before the start ends that is due at `time`. Time in doubt does not count
   * until the grace is over.
   */
  heldUntil(time: number): number {
    const { span } = this
    return span === null ? time : Math.min(time + span.ms, Math.max(time, span.until))
  }
}
