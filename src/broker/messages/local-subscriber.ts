/** Subscribers in this process: a Session like any other, with a sink that calls a function. */
import type { Delivery } from '../../mqtt/message.ts'
import type { SessionSink } from '../../session/context.ts'
import { Session } from '../../session/session.ts'
import type { CommitWaiter, ServerState } from '../state/server-state.ts'
import type { Flushable } from '../state/turn.ts'
import { UNITS } from '../state/work.ts'

export type LocalHandler = (delivery: Delivery) => void

interface Held {
  durableAt: number
  readonly delivery: Delivery
}

/** Sees a message when everybody else does: after the commit it depends on, in order. */
class LocalSink implements SessionSink, CommitWaiter, Flushable {
  readonly congested = false
  readonly immediate = true
  readonly #state: ServerState
  readonly #handler: LocalHandler
  #held: Held[] = []
  #touched = false
  #abandoned = false

  constructor(state: ServerState, handler: LocalHandler) {
    this.#state = state
    this.#handler = handler
  }

  publish(delivery: Delivery, _packetId: number, _dup: boolean, durableAt: number): boolean {
    delivery.message.own()
    this.#held.push({ durableAt, delivery })
    if (!this.#touched) {
      this.#touched = true
      this.#state.turn.touch(this)
    }
    return true
  }

  flush(): void {
    this.#touched = false
    const { recordedSequence, committedSequence } = this.#state.store
    // A full queue may have dropped the message: without a record in the open block, wait for earlier ones.
    for (const held of this.#held) held.durableAt = Math.min(held.durableAt, recordedSequence)
    this.committed(committedSequence)
    if (this.#held.length > 0) this.#state.waiting.add(this)
  }

  pubrel(): void {}

  pumped(): boolean {
    return false
  }

  committed(committedSequence: number): void {
    let count = 0
    while (count < this.#held.length && this.#held[count]!.durableAt <= committedSequence) count++
    const free = this.#held.splice(0, count)
    if (this.#held.length === 0) this.#state.waiting.delete(this)
    this.#state.work.units += free.length * UNITS.delivery
    for (const { delivery } of free) {
      if (this.#abandoned) return // by the handler itself
      try {
        this.#handler(delivery)
      } catch (error) {
        this.#state.thrownOutside(error)
      }
    }
  }

  abandon(): void {
    this.#abandoned = true
    this.#held = []
    this.#state.waiting.delete(this)
  }
}

/** Makes the Session of a subscriber in this process; it is in no table and cannot be taken over. */
export function localSession(state: ServerState, handler: LocalHandler): { session: Session; close(): void } {
  const sink = new LocalSink(state, handler)
  const session = new Session(state, {
    id: 0,
    clientId: '',
    owner: null,
    ownerId: null,
    stored: false,
    expirySeconds: 0,
  })
  session.attach(sink, 65_535)
  return { session, close: () => sink.abandon() }
}
