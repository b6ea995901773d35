/**
 * Remembers when the latest live message of each topic was published, while retained messages are under way
 * to somebody: what a subscriber got live must not be followed by an older retained message.
 */
import type { Message } from '../../mqtt/message.ts'
import type { ServerState } from '../state/server-state.ts'

export class LiveMessages {
  readonly #state: ServerState
  /** By topic name, for topics with a retained message. */
  readonly #times = new Map<string, number>()
  /** Broker time, but later with each live message. */
  #clock = 0
  /** The retained message of the topic whose live message is being given out. */
  #retained: Message | undefined
  /** When the live message before that one was published. */
  #before = 0
  /** Start of the newest stored Subscription to which retained messages are under way; 0 for none. */
  #newestStored = 0
  /** Topic names of which the store knows that a live message was published since then. */
  readonly #recorded = new Set<string>()

  constructor(state: ServerState) {
    this.#state = state
  }

  /** Takes up times from the store. */
  recover(times: Iterable<readonly [topic: string, liveAt: number]>): void {
    for (const [topic, liveAt] of times) {
      this.#times.set(topic, liveAt)
      this.#clock = Math.max(this.#clock, liveAt)
    }
  }

  /** Forgets everything: no retained message is under way any more. */
  forget(): void {
    this.#times.clear()
    this.#recorded.clear()
    this.#newestStored = 0
    this.#retained = undefined
  }

  /** The latest time that `tick` returned. */
  get now(): number {
    return this.#clock
  }

  /** A time later than all before. */
  tick(): number {
    const now = this.#state.now()
    this.#clock = now > this.#clock ? now : this.#clock + 1 / 1024
    return this.#clock
  }

  /** Notes that a Subscription of a stored Session began at this time. */
  subscribed(since: number): void {
    if (since <= this.#newestStored) return
    this.#newestStored = since
    this.#recorded.clear()
  }

  /**
   * Notes that a message is about to be given to its subscribers. Call it only while something is under way.
   */
  published(message: Message): void {
    const { name } = message.topic
    const retained = this.#state.retained.get(name)
    this.#retained = retained
    this.#before = this.#times.get(name) ?? 0
    if (retained === undefined) return
    this.#times.set(name, this.tick())
    // It was just stored anew, without this time.
    if (retained === message) this.#recorded.delete(name)
  }

  /** Goes on with a live message that was begun in an earlier turn, when `before` had this value. */
  resumed(message: Message, before: number): void {
    this.#retained = this.#state.retained.get(message.topic.name)
    this.#before = before
  }

  /** The retained message of the topic whose live message is being given out. */
  get retained(): Message | undefined {
    return this.#retained
  }

  /** When the live message before that one was published; 0 for never. */
  get before(): number {
    return this.#before
  }

  /** When the latest live message of a topic was published; 0 for never. */
  latest(topic: string): number {
    return this.#times.get(topic) ?? 0
  }

  /** Returns the same if the store has it; 0 otherwise. */
  recordedAt(topic: string): number {
    return this.#recorded.has(topic) ? this.latest(topic) : 0
  }

  /**
   * Records that a retained message is older than a message that a stored Session got: a restart keeps the
   * order.
   */
  record(retained: Message): void {
    const { name } = retained.topic
    // The Server's own values are in memory only.
    if (this.#recorded.has(name) || name.startsWith('$SYS/')) return
    this.#recorded.add(name)
    this.#state.store.putRetained(retained, this.#times.get(name)!)
  }

  /** Forgets a topic name under which nothing is retained any more. */
  cleared(topic: string): void {
    this.#times.delete(topic)
    this.#recorded.delete(topic)
  }
}
