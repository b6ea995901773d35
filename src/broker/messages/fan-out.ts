/**
 * Gives a message to a crowd of subscribers in slices, one message after the other, so that nobody else waits
 * long. A message published meanwhile to a topic of which one is under way comes after that one.
 */
import type { Message, Topic } from '../../mqtt/message.ts'
import type { Route } from '../../routing/route.ts'
import type { Session } from '../../session/session.ts'
import type { ServerState } from '../state/server-state.ts'
import { SLICE_UNITS } from '../state/work.ts'

/** A message for at least this many subscribers and groups is given out in slices. */
export const CROWD_MIN = 4096

/** About 5 ms. A message that must be whole always has this slice: nothing is committed meanwhile. */
const SLICE_UNITS_MAX = 5 * SLICE_UNITS

/** A message that is given out in slices, and its progress. */
export class FanOut {
  readonly message: Message
  readonly publisher: Session | null
  readonly retains: boolean
  /** Whether nothing of it may be durable before all of it is. */
  readonly isWhole: boolean
  /** The receivers; null until it begins. */
  route: Route<Session> | null = null
  /** Number of entries of the Route, and of groups after them, that are done. */
  at = 0
  receivers = 0
  /** Whether the store has to keep anything of it. */
  stores = false
  /** When the live message before it was published: see `LiveMessages.before`. */
  liveBefore = 0
  /** The router's count of changes when it began. */
  changes = 0
  isOver = false
  /**
   * Called once when all receivers have it, with the commit that makes all of it durable; 0 where nothing is
   * stored.
   */
  done: ((durableAt: number) => void) | null = null

  constructor(message: Message, publisher: Session | null, retains: boolean, isWhole: boolean) {
    this.message = message
    this.publisher = publisher
    this.retains = retains
    this.isWhole = isWhole
  }
}

/**
 * A message that is admitted when it is its turn. Its records are to be in one block with its first slice.
 */
interface Candidate {
  readonly topic: Topic
  readonly admit: () => void
}

/** The messages that are under way, the oldest first. */
export class FanOutQueue {
  readonly #state: ServerState
  readonly #advance: (fanOut: FanOut, until: number) => boolean
  readonly #waiting: (FanOut | Candidate)[] = []
  /** How many of them have a topic name. */
  readonly #topics = new Map<string, number>()
  #isScheduled = false
  /** Whether `add` is called for the candidate whose turn it is. */
  #isAdmitting = false
  /** The turn in which the latest whole message was given to its last receiver. */
  #wholeEndedIn = -1

  /** `advance` gives a message to more receivers until work reaches `until`. Returns whether all have it. */
  constructor(state: ServerState, advance: (fanOut: FanOut, until: number) => boolean) {
    this.#state = state
    this.#advance = advance
  }

  get size(): number {
    return this.#waiting.length
  }

  /** Whether a message of this topic is under way. */
  has({ name }: Topic): boolean {
    return this.#topics.has(name)
  }

  /** Whether a message that must be whole can begin as soon as it is added. */
  get isFree(): boolean {
    return this.#waiting.length === 0 && this.#state.turn.number !== this.#wholeEndedIn
  }

  /** Has a message wait for its turn. `admit` then publishes it within `admitting`, or not at all. */
  queue(topic: Topic, admit: () => void): void {
    this.#remember(topic.name)
    this.#waiting.push({ topic, admit })
    if (this.#waiting.length === 1) this.#schedule()
  }

  /** Runs `action`, which publishes the message whose turn it is. */
  admitting(action: () => void): void {
    this.#isAdmitting = true
    try {
      action()
    } finally {
      this.#isAdmitting = false
    }
  }

  /** Begins to give a message out, or has it wait for those that are under way. */
  add(fanOut: FanOut): void {
    const { message } = fanOut
    const isFirst = this.#isAdmitting || this.#waiting.length === 0
    this.#remember(message.topic.name)
    if (isFirst) this.#waiting.unshift(fanOut)
    else this.#waiting.push(fanOut)
    this.#state.store.held.hold(message)
    // Receivers of later slices need the body, even when it is on disk for others.
    message.holders++
    if (!isFirst) return
    if (this.#mustWait(fanOut)) this.#schedule()
    else this.#goOn(this.#sliceUnits(fanOut))
  }

  /** Gives out at once all that is under way. */
  finish(): void {
    while (this.#waiting.length > 0) this.#goOn(Number.POSITIVE_INFINITY)
  }

  #sliceUnits(next: FanOut | Candidate): number {
    return next instanceof FanOut && next.isWhole
      ? SLICE_UNITS_MAX
      : Math.min(this.#state.turn.sliceUnits, SLICE_UNITS_MAX)
  }

  /**
   * Whether the next one must wait for the end of the turn: the store commits nothing while a message must be
   * whole.
   */
  #mustWait(next: FanOut | Candidate): boolean {
    const mayBegin = !(next instanceof FanOut) || (next.isWhole && next.route === null)
    return mayBegin && this.#state.turn.number === this.#wholeEndedIn
  }

  #goOn(units: number): void {
    const [first] = this.#waiting
    if (first === undefined) return
    if (first instanceof FanOut) {
      if (first.isWhole && first.route === null) this.#state.store.beginAtomic()
      if (this.#advance(first, this.#state.work.units + units)) this.#over(first)
    } else {
      this.#waiting.shift()
      this.#forget(first.topic.name)
      first.admit()
    }
    if (this.#waiting.length > 0) this.#schedule()
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    this.#state.turn.continueLater(() => {
      this.#isScheduled = false
      const [next] = this.#waiting
      if (next === undefined) return
      if (this.#mustWait(next)) this.#schedule()
      else this.#goOn(this.#sliceUnits(next))
    })
  }

  #over(fanOut: FanOut): void {
    const { store, turn } = this.#state
    const { message } = fanOut
    this.#waiting.shift()
    this.#forget(message.topic.name)
    store.held.letGo(message)
    message.holders--
    fanOut.isOver = true
    // Read before the store may go on: the next commit has the message.
    const durableAt = fanOut.stores ? store.openSequence : 0
    if (fanOut.isWhole) {
      store.endAtomic()
      this.#wholeEndedIn = turn.number
    }
    fanOut.done?.(durableAt)
  }

  #remember(name: string): void {
    this.#topics.set(name, (this.#topics.get(name) ?? 0) + 1)
  }

  #forget(name: string): void {
    const left = this.#topics.get(name)! - 1
    if (left === 0) this.#topics.delete(name)
    else this.#topics.set(name, left)
  }
}
