/** Moves messages of one queue to others, in slices: there and gone here in one commit. */
import type { Message } from '../../mqtt/message.ts'
import { filterMatches } from '../../routing/filter.ts'
import type { LogCursor } from '../../store/log-store.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import type { Queue } from './queue.ts'
import { counted, type MoveSelection, QueueRefusal } from './queue-view.ts'

/** The most messages that a slice looks at, and the bytes that it moves. */
const SLICE_MESSAGES = 256
const SLICE_BYTES = 1024 * 1024

/** The states of messages that no consumer holds. */
const MOVABLE: ReadonlySet<string> = new Set(['ready', 'waiting', 'deferred'])

/** Handles one message; returns false to end before it. */
type Visit = (message: Message, lane: number, sequence: number) => boolean

export class MessageMove {
  readonly #state: ServerState
  readonly #source: Queue
  readonly #targetOf: (message: Message) => Queue
  readonly #which: MoveSelection
  readonly #settled: () => Promise<void>
  /** One past the last sequence of each lane: whatever comes later stays. */
  readonly #ends: readonly number[]

  /** `targetOf` throws QueueRefusal for a message without a target; `settled` waits for a commit. */
  constructor(
    state: ServerState,
    source: Queue,
    targetOf: (message: Message) => Queue,
    which: MoveSelection,
    settled: () => Promise<void>,
  ) {
    this.#state = state
    this.#source = source
    this.#targetOf = targetOf
    this.#which = which
    this.#settled = settled
    this.#ends = source.numbers.logs.map((log) => state.store.logs.log(log).next)
  }

  /** Rejects with QueueRefusal if one of the messages does not fit its target. Moves nothing. */
  async check(): Promise<void> {
    await this.#walk((message) => {
      const target = this.#targetOf(message)
      const { filters } = target.properties
      const { name } = message.topic
      if (filters.length === 0 || (name !== '' && filters.some((filter) => filterMatches(filter, name)))) {
        return true
      }
      const what = name === '' ? 'a message without a topic' : name
      throw new QueueRefusal(
        `queue ${target.name} takes ${filters.join(', ')}, not ${what}`,
        'Nothing was moved. Name another target, or select messages with --topic.',
      )
    })
  }

  /** Moves the messages; resolves with their number. A full target ends it. */
  async run(): Promise<number> {
    let full: string | null = null
    const moved = await this.#walk((message, lane, sequence) => {
      const target = this.#targetOf(message)
      full = target.moveRefusal(message)?.detail ?? this.#state.store.refusal ?? this.#state.memoryRefusal
      if (full !== null) return false
      target.moveIn(message)
      this.#source.group.extract(lane, sequence)
      return true
    })
    if (full !== null) throw new QueueRefusal(full, `${counted(moved, 'message')} moved before that.`)
    return moved
  }

  /**
   * Visits the messages in order, from the highest lane down; a commit follows each slice. Resolves with
   * their number.
   */
  async #walk(visit: Visit): Promise<number> {
    const { logs } = this.#state.store
    let visited = 0
    for (const [lane, { floor }] of [...this.#source.group.lanes.entries()].reverse()) {
      const log = this.#source.numbers.logs[lane]!
      for (let from = floor; from < this.#ends[lane]! && visited < this.#which.limit; ) {
        const segment = logs.segment(log, from) ?? (await logs.load(log, from))
        if (segment === null || this.#source.isGone) break
        this.#state.turn.begin()
        const slice = this.#visitSlice(segment.from(from), lane, this.#which.limit - visited, visit)
        visited += slice.visited
        if (slice.isEnd) return visited
        from = slice.next ?? segment.end
        await this.#settled()
      }
    }
    return visited
  }

  /** `next` is where the slice ended within the segment; null at its end. */
  #visitSlice(
    cursor: LogCursor,
    lane: number,
    limit: number,
    visit: Visit,
  ): { readonly visited: number; readonly next: number | null; readonly isEnd: boolean } {
    let visited = 0
    let bytes = 0
    for (let looked = 0; cursor.next() && cursor.sequence < this.#ends[lane]!; looked++) {
      const { sequence } = cursor
      if (visited === limit) return { visited, next: null, isEnd: true }
      if (looked === SLICE_MESSAGES || bytes >= SLICE_BYTES) return { visited, next: sequence, isEnd: false }
      this.#state.work.units += UNITS.storedDelivery
      if (!this.#isWanted(cursor, lane)) continue
      if (!visit(cursor.message(), lane, sequence)) return { visited, next: null, isEnd: true }
      bytes += cursor.size
      visited++
    }
    return { visited, next: null, isEnd: false }
  }

  #isWanted(cursor: LogCursor, lane: number): boolean {
    const state = this.#source.group.look(lane, cursor.sequence)?.state
    if (state === undefined || !MOVABLE.has(state)) return false
    const { topicFilter } = this.#which
    if (topicFilter === null) return true
    const topic = cursor.topicBytes()
    return topic.length > 0 && filterMatches(topicFilter, topic.toString())
  }
}
